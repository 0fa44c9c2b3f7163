package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/cniconf"
)

// ipam is the plugin that a config has give out addresses (CNI spec 1.1.0, section 4):
// it is run with our own stdin and environment, but for the verb.
type ipam struct {
	name, path string
	stdin      []byte
	env        []string
	timeout    time.Duration
	exec       invoke.Exec
}

// findIPAM finds the plugin of that name; "" is none, and nil.
func (p *plugin) findIPAM(r *request, name string) (*ipam, error) {
	if name == "" {
		return nil, nil
	}
	dirs := p.getenv("CNI_PATH")
	path, err := invoke.FindInPath(name, filepath.SplitList(dirs))
	if err != nil {
		return nil, attach.Invalid("ipam.type", fmt.Sprintf("there is no plugin %q in CNI_PATH (%s)", name, dirs), "put it there, or name one that is there")
	}
	d := &ipam{name: name, path: path, stdin: r.stdin, env: os.Environ(), timeout: p.ipamTimeout,
		exec: &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: p.stderr}}}
	for _, k := range []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "CNI_NETNS_OVERRIDE"} {
		d.env = append(d.env, k+"="+p.getenv(k)) // of two the last one counts
	}
	return d, nil
}

// asked is the environment for one verb.
type asked []string

// AsEnv implements invoke.CNIArgs.
func (a asked) AsEnv() []string { return a }

func (d *ipam) as(verb string) asked {
	return append(d.env[:len(d.env):len(d.env)], "CNI_COMMAND="+verb)
}

// releaseWithin is how long the port waits for its lease to be given back: its end is not put off until the runtime
// gives up (kubelet after 2 minutes), also where a pod has several.
const releaseWithin = 10 * time.Second

// within is how long a verb may take.
func (d *ipam) within(verb string) time.Duration {
	if verb == cniconf.VerbDel && d.name == ipamByPort {
		return min(d.timeout, releaseWithin)
	}
	return d.timeout
}

// call runs a verb that answers nothing. Errors are *ipamError.
func (d *ipam) call(ctx context.Context, verb string) error {
	ctx, cancel := context.WithTimeout(ctx, d.within(verb))
	defer cancel()
	err := invoke.ExecPluginWithoutResult(ctx, d.path, d.stdin, d.as(verb), d.exec)
	if (verb == cniconf.VerbGC || verb == cniconf.VerbStatus) && neverHeardOf(err) {
		return nil
	}
	return d.failed(ctx, verb, err)
}

// neverHeardOf: plugins that are older than a verb say so in these words (cni, pkg/skel).
func neverHeardOf(err error) bool {
	var e *types.Error
	return errors.As(err, &e) && strings.Contains(e.Msg, "unknown CNI_COMMAND")
}

func (d *ipam) failed(ctx context.Context, verb string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = fmt.Errorf("no answer within %s: %w", d.within(verb), err)
	}
	return &ipamError{d.name, verb, err}
}

// given is what an IPAM plugin gave, and how it is put on the interface and told.
type given struct {
	result *types100.Result
	addrs  []netip.Addr
	conf   bridge.Addressing
}

// add asks for addresses. Whatever it fails with, the plugin may have given some: del it.
func (d *ipam) add(ctx context.Context) (*given, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	answer, err := invoke.ExecPluginWithResult(ctx, d.path, d.stdin, d.as(cniconf.VerbAdd), d.exec)
	if err != nil {
		return nil, d.failed(ctx, cniconf.VerbAdd, err)
	}
	g := new(given)
	if g.result, err = types100.NewResultFromResult(answer); err == nil {
		err = g.read()
	}
	if err != nil {
		return nil, &ipamError{d.name, cniconf.VerbAdd, err}
	}
	return g, nil
}

// read takes addresses and routes from the result. A route without a next hop goes by the
// first gateway of its IP version, as at the reference plugins.
func (g *given) read() error {
	var gateways [2]netip.Addr // of IPv4 and IPv6
	for i, ip := range g.result.IPs {
		var p netip.Prefix
		ok := ip != nil
		if ok {
			p, ok = prefix(ip.Address)
		}
		if !ok {
			return fmt.Errorf("ips[%d].address is missing or no address with its subnet, as 10.1.2.3/24", i)
		}
		g.addrs, g.conf.Addrs = append(g.addrs, p.Addr()), append(g.conf.Addrs, p)
		gw, ok := netip.AddrFromSlice(ip.Gateway)
		if v := ipVersion(gw.Unmap()); ok && !gateways[v].IsValid() {
			gateways[v] = gw.Unmap()
		}
	}
	if len(g.addrs) == 0 {
		return errors.New("it gave no address; see that its config has some to give")
	}
	for i, r := range g.result.Routes {
		if r == nil {
			return fmt.Errorf("routes[%d] is null", i)
		}
		dst, ok := prefix(r.Dst)
		if !ok {
			return fmt.Errorf("routes[%d].dst is missing or no subnet, as 10.1.0.0/16", i)
		}
		to := bridge.Route{Dst: dst, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority}
		if gw, ok := netip.AddrFromSlice(r.GW); ok {
			to.Via = gw.Unmap()
		} else {
			to.Via = gateways[ipVersion(dst.Addr())]
		}
		if r.Table != nil {
			to.Table = *r.Table
		}
		if r.Scope != nil {
			to.Scope = *r.Scope
		}
		g.conf.Routes = append(g.conf.Routes, to)
	}
	return nil
}

// ipVersion is 0 of IPv4, 1 of IPv6.
func ipVersion(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

func prefix(n net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	return netip.PrefixFrom(a, ones), ok && bits == a.BitLen()
}

// putInto completes our result. Where the config has DNS of its own, that stands.
func (g *given) putInto(res *result) error {
	for _, ip := range g.result.IPs {
		ip.Interface = types100.Int(containerAt)
	}
	as, err := (&types100.Result{CNIVersion: types100.ImplementedSpecVersion, IPs: g.result.IPs, Routes: g.result.Routes}).GetAsVersion(res.CNIVersion)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := as.PrintTo(&b); err != nil {
		return err
	}
	if err := json.Unmarshal(b.Bytes(), &res.addresses); err != nil {
		return err
	}
	if res.DNS == nil && !g.result.DNS.IsEmpty() {
		res.DNS = &g.result.DNS
	}
	return nil
}

// ipamError is what the IPAM plugin failed with.
type ipamError struct {
	plugin, verb string
	err          error
}

func (e *ipamError) Error() string {
	return fmt.Sprintf("ipam: the plugin %q did not do %s: %v", e.plugin, e.verb, e.err)
}
func (e *ipamError) Unwrap() error { return e.err }

// code hands on what the spec has a meaning for; codes of the plugin's own mean other
// things of ours.
func (e *ipamError) code() uint {
	var theirs *types.Error
	if errors.As(e.err, &theirs) && theirs.Code > 0 && theirs.Code < codeNotAsItWas {
		return theirs.Code
	}
	if e.verb == cniconf.VerbStatus {
		return codeUnavailable
	}
	return types.ErrTryAgainLater
}
