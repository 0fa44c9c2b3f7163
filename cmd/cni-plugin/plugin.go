package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/cniconf"
)

// kernel is what the plugin itself does to interfaces; the agent does the rest.
type kernel interface {
	CreateVeth(bridge.VethSpec) (bridge.Veth, error)
	// DeleteVeth deletes a pair by its host end; one that is gone is no error.
	DeleteVeth(bridge.Ref) error
	// TakeOut brings an interface of the node down and takes it out of its bridge.
	TakeOut(bridge.Ref) error
	// LinkInfo reads an interface of the node.
	LinkInfo(bridge.Ref) (bridge.Link, error)
	// FindVeth finds the pair of a sandbox's interface: that one and the node's end.
	FindVeth(netns, ifName string) (peer, host bridge.Link, err error)
	// Configure gives a sandbox's interface addresses and routes, and brings it up.
	Configure(netns, ifName string, a bridge.Addressing) error
	Close() error
}

func openKernel() (kernel, error) {
	n, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	return n, nil
}

// plugin is one run of the binary. Everything that it meets is a field.
type plugin struct {
	version        string
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	findPaths      func() (attach.Paths, error)
	openKernel     func() (kernel, error)
	// How long the agent may take: for ADD in all, for DEL (which can do
	// without it), for GC, and for CHECK and STATUS.
	addTimeout, delTimeout, gcTimeout, queryTimeout time.Duration
	// How long an IPAM plugin may, whatever it does. One of DHCP waits for a server.
	ipamTimeout time.Duration
}

// request is what one verb works with.
type request struct {
	cniconf.Env
	stdin []byte
	// cniVersion of the config, and therefore of the answer.
	cniVersion string
	paths      attach.Paths
	// found is the pair that a plugin before us left; nil if we are the main one.
	found *foundVeth
}

// verb is how one CNI_COMMAND is served.
type verb struct {
	do func(context.Context, *request) error
	// since is the CNI version that brought the verb; "" serves any config,
	// for nothing may stop a DEL.
	since string
	// first is done whatever the config says otherwise.
	first func(*request) error
}

func (p *plugin) verbs() map[string]verb {
	return map[string]verb{
		cniconf.VerbAdd:    {do: p.add, since: "0.3.0", first: p.closeFound},
		cniconf.VerbDel:    {do: p.del},
		cniconf.VerbCheck:  {do: p.check, since: "0.4.0"},
		cniconf.VerbGC:     {do: p.gc, since: "1.1.0"},
		cniconf.VerbStatus: {do: p.status, since: "1.1.0"},
	}
}

// specVersions are the CNI versions that the plugin speaks, in their order.
func specVersions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// run serves the verb of the environment and gives the exit status. Like every
// CNI plugin it reports an error as JSON on stdout.
func (p *plugin) run(ctx context.Context) int {
	if p.getenv("CNI_COMMAND") == "" {
		p.help()
		return 0
	}
	r := new(request)
	err := p.serve(ctx, r)
	if err == nil {
		return 0
	}
	b, jerr := json.MarshalIndent(cniError(err, r), "", "    ")
	if jerr == nil {
		_, jerr = p.stdout.Write(append(b, '\n'))
	}
	if jerr != nil {
		// Best effort: it is the last place to say anything.
		_, _ = fmt.Fprintf(p.stderr, "homeport: %v; and the error cannot be reported: %v\n", err, jerr)
	}
	return 1
}

func (p *plugin) serve(ctx context.Context, r *request) error {
	var err error
	if r.Env, err = cniconf.ParseEnv(p.getenv); err != nil {
		return err
	}
	if r.Verb == cniconf.VerbVersion {
		return p.print(struct {
			CNIVersion string   `json:"cniVersion"`
			Supported  []string `json:"supportedVersions"`
		}{slices.Max(specVersions()), specVersions()})
	}
	v := p.verbs()[r.Verb]
	if r.stdin, err = io.ReadAll(p.stdin); err != nil && v.since != "" {
		return &ioError{"read the CNI config on stdin", err}
	}
	r.cniVersion = cniconf.Version(r.stdin)
	if r.paths, err = p.findPaths(); err != nil {
		return &ioError{"find the agent", err}
	}
	if v.first != nil {
		if err := v.first(r); err != nil {
			return err
		}
	}
	if v.since != "" {
		if err := checkVersion(r, v.since); err != nil {
			return err
		}
	}
	return v.do(ctx, r)
}

// checkVersion says whether the config's CNI version is spoken and has the verb.
func checkVersion(r *request, since string) error {
	if err := json.Unmarshal(r.stdin, new(map[string]json.RawMessage)); err != nil {
		return &cniconf.DecodeError{Err: err}
	}
	all := specVersions()
	i := slices.Index(all, r.cniVersion)
	switch {
	case r.cniVersion == "":
		return &versionError{fmt.Sprintf("cniVersion: missing; write one of %s", strings.Join(all, ", "))}
	case i < 0:
		return &versionError{fmt.Sprintf("cniVersion: %q is not spoken; write one of %s", r.cniVersion, strings.Join(all, ", "))}
	case i < slices.Index(all, since):
		return &versionError{fmt.Sprintf("cniVersion: %s has no %s; write %s or later", r.cniVersion, r.Verb, since)}
	}
	return nil
}

// print writes an answer for the runtime.
func (p *plugin) print(v any) error {
	b, err := json.MarshalIndent(v, "", "    ")
	if err != nil {
		return err
	}
	if _, err := p.stdout.Write(append(b, '\n')); err != nil {
		return &ioError{"write the answer to stdout", err}
	}
	return nil
}

// ask makes one call to the agent on a connection of its own, within d.
func (p *plugin) ask(ctx context.Context, d time.Duration, r *request, verb wire.Verb, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	c, err := wire.Dial(ctx, r.paths.Socket())
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, verb, body, out)
}

// note tells whoever reads the runtime's log what did not stop the verb.
func (p *plugin) note(format string, args ...any) {
	_, _ = fmt.Fprintf(p.stderr, "homeport: "+format+"\n", args...)
}

func (p *plugin) help() {
	_, _ = fmt.Fprintf(p.stderr, `CNI plugin homeport %s: puts a VM's interface on a VLAN of a trunk, behind its firewall.
A container runtime runs it by CNI_COMMAND; it needs bridge-agent on this node.

Config by a network that the node knows (VLANNetwork):
  {"cniVersion": "1.0.0", "name": "legacy", "type": "homeport", "network": "vlan100"}
by bridge and VLANs:
  {"cniVersion": "1.0.0", "name": "legacy", "type": "homeport", "bridge": "br0", "vlan": 100}
  {... "bridge": "br0", "vlanTrunk": [{"minID": 100, "maxID": 110}], "nativeVlan": 7}
or behind the bridge plugin, which makes the interface:
  {"cniVersion": "1.0.0", "name": "legacy", "plugins": [
    {"type": "bridge", "bridge": "br0", "disableContainerInterface": true},
    {"type": "homeport", "network": "vlan100"}]}

or with an IPAM plugin, for a container that brings no address:
  {... "network": "vlan100", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.100.0.0/24"}]]}}

Keys: network, bridge, vlan, vlanTrunk, nativeVlan, mtu, mac, migrationTarget, disableContainerInterface, capabilities, ipam.
CNI versions: %s
`, p.version, strings.Join(specVersions(), ", "))
}
