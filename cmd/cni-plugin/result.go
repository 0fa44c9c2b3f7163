package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/cniconf"
)

// result is what ADD answers in main mode. The forms of all CNI versions that
// are spoken agree on these fields, but for ips.
type result struct {
	CNIVersion string        `json:"cniVersion"`
	Interfaces []resultIface `json:"interfaces"`
	addresses
	DNS *types.DNS `json:"dns,omitempty"`
}

// addresses are what an IPAM plugin gave, in the form of the result's version.
type addresses struct {
	IPs    json.RawMessage `json:"ips,omitempty"`
	Routes json.RawMessage `json:"routes,omitempty"`
}

// containerAt is the number of the container's interface in a result.
const containerAt = 2

type resultIface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
}

// saysMTU: results have an MTU from version 1.0.0 on. (The spec brought the
// field with 1.1.0; runtimes read 1.0.0 by the same type.)
func saysMTU(cniVersion string) bool { return cniVersion >= "1.0.0" }

// newResult lists bridge, host end and container's interface, which alone has a
// sandbox: KubeVirt and Multus take each sandboxed one for the pod's.
func newResult(k kernel, r *request, conf *cniconf.Config, v bridge.Veth, rec *attach.Record) *result {
	res := &result{CNIVersion: r.cniVersion, Interfaces: []resultIface{
		{Name: rec.Bridge, MAC: bridgeMAC(k, rec.Bridge)},
		{Name: v.Host.Name, MAC: macText(v.HostMAC)},
		{Name: r.IfName, MAC: macText(v.PeerMAC), Sandbox: r.Netns},
	}}
	if saysMTU(r.cniVersion) {
		res.Interfaces[1].MTU, res.Interfaces[2].MTU = v.MTU, v.MTU
	}
	if !conf.DNS.IsEmpty() {
		res.DNS = &conf.DNS
	}
	return res
}

// bridgeMAC is for information only: the port is made, and ADD has succeeded.
func bridgeMAC(k kernel, name string) string {
	l, err := k.LinkInfo(bridge.Ref{Name: name})
	if err != nil {
		return ""
	}
	return macText(l.MAC)
}

// prevResult is the answer of the plugin before us, kept as it came but for
// what ADD makes untrue.
type prevResult struct {
	cniVersion string
	fields     map[string]json.RawMessage
	ifaces     []*prevIface
	// container is the one interface with a sandbox, and addresses are its IPs.
	container *prevIface
	addresses []netip.Addr
}

type prevIface struct {
	fields        map[string]json.RawMessage
	name, sandbox string
}

// parsePrev reads a prevResult and demands that it names exactly one interface
// with a sandbox, CNI_IFNAME.
func parsePrev(raw json.RawMessage, r *request) (*prevResult, error) {
	p := &prevResult{cniVersion: r.cniVersion}
	if err := json.Unmarshal(raw, &p.fields); err != nil {
		return nil, p.refuse(err.Error())
	}
	var ifaces []map[string]json.RawMessage
	if v, ok := p.fields["interfaces"]; ok {
		if err := json.Unmarshal(v, &ifaces); err != nil {
			return nil, p.refuse("its interfaces cannot be decoded: " + err.Error())
		}
	}
	var sandboxed []string
	container := 0
	for i, f := range ifaces {
		e := &prevIface{fields: f}
		for key, to := range map[string]*string{"name": &e.name, "sandbox": &e.sandbox} {
			if v, ok := f[key]; ok && json.Unmarshal(v, to) != nil {
				return nil, p.refuse(fmt.Sprintf("interfaces[%d].%s is %s and not a string", i, key, v))
			}
		}
		p.ifaces = append(p.ifaces, e)
		if e.sandbox != "" {
			sandboxed = append(sandboxed, e.name)
			p.container, container = e, i
		}
	}
	switch {
	case len(sandboxed) == 0:
		return nil, p.refuse("it names no interface with a sandbox")
	case len(sandboxed) > 1:
		return nil, p.refuse("it names more than one interface with a sandbox: " + strings.Join(sandboxed, ", "))
	case p.container.name != r.IfName:
		return nil, p.refuse(fmt.Sprintf("its interface in the sandbox is %s and not %s (CNI_IFNAME)", p.container.name, r.IfName))
	}
	return p, p.readIPs(container)
}

// readIPs takes the addresses of the interface with that number. An address that
// names no interface is meant for it too: it is the one that the ADD is for.
func (p *prevResult) readIPs(container int) error {
	var ips []struct {
		Interface *int         `json:"interface"`
		Address   netip.Prefix `json:"address"`
	}
	const want = "have the plugin before this one write addresses as 10.1.2.3/24"
	if v, ok := p.fields["ips"]; ok {
		if err := json.Unmarshal(v, &ips); err != nil {
			return attach.Invalid("prevResult.ips", err.Error(), want)
		}
	}
	for i, ip := range ips {
		if !ip.Address.IsValid() {
			return attach.Invalid(fmt.Sprintf("prevResult.ips[%d].address", i), "is missing", want)
		}
		if ip.Interface == nil || *ip.Interface == container {
			p.addresses = append(p.addresses, ip.Address.Addr().Unmap())
		}
	}
	return nil
}

// refuse says why no host veth can be adopted, and what was found.
func (p *prevResult) refuse(why string) *attach.Error {
	var found []string
	for _, e := range p.ifaces {
		s := e.name
		if e.sandbox != "" {
			s += " (in the sandbox)"
		}
		found = append(found, s)
	}
	names := "no interfaces"
	if len(found) > 0 {
		names = strings.Join(found, ", ")
	}
	return attach.Invalid("prevResult", fmt.Sprintf("%s; found: %s", why, names),
		"chain homeport behind a plugin that makes a veth pair and names both ends, as bridge does")
}

// node finds an interface of the node by name; nil if there is none.
func (p *prevResult) node(name string) *prevIface {
	i := slices.IndexFunc(p.ifaces, func(e *prevIface) bool { return e.sandbox == "" && e.name == name })
	if i < 0 {
		return nil
	}
	return p.ifaces[i]
}

func (e *prevIface) set(key string, v any) {
	// Strings and numbers always marshal.
	b, _ := json.Marshal(v)
	e.fields[key] = b
}

// setMAC changes what is written only if it is another address.
func (e *prevIface) setMAC(mac string) {
	var have string
	if v, ok := e.fields["mac"]; ok && json.Unmarshal(v, &have) == nil && strings.EqualFold(have, mac) {
		return
	}
	e.set("mac", mac)
}

// learn puts in the MACs and MTUs that the interfaces have in truth.
func (p *prevResult) learn(container, host bridge.Link) {
	h := p.node(host.Name)
	p.container.setMAC(macText(container.MAC))
	h.setMAC(macText(host.MAC))
	if saysMTU(p.cniVersion) {
		p.container.set("mtu", container.MTU)
	}
}

// corrected is the result after the port was made: its bridge is rec's. An
// entry for the bridge that the port was in before is changed in place and a
// new one goes last, since ips refer to interfaces by number.
func (p *prevResult) corrected(k kernel, rec *attach.Record) json.RawMessage {
	entry := p.node(rec.Bridge)
	for _, e := range p.ifaces {
		if entry != nil {
			break
		}
		if e.sandbox != "" || e.name == rec.HostIfName {
			continue
		}
		if l, err := k.LinkInfo(bridge.Ref{Name: e.name}); err == nil && l.Kind == "bridge" {
			entry = e
		}
	}
	if entry == nil {
		entry = &prevIface{fields: map[string]json.RawMessage{}}
		p.ifaces = append(p.ifaces, entry)
	}
	if entry.name != rec.Bridge {
		entry.name = rec.Bridge
		entry.set("name", rec.Bridge)
	}
	if mac := bridgeMAC(k, rec.Bridge); mac != "" {
		entry.setMAC(mac)
	}
	if h := p.node(rec.HostIfName); h != nil && saysMTU(p.cniVersion) {
		h.set("mtu", rec.EffectiveMTU)
	}
	ifaces := make([]map[string]json.RawMessage, len(p.ifaces))
	for i, e := range p.ifaces {
		ifaces[i] = e.fields
	}
	// What was decoded encodes again.
	p.fields["interfaces"], _ = json.Marshal(ifaces)
	if v := bytes.TrimSpace(p.fields["cniVersion"]); len(v) == 0 || string(v) == `""` {
		p.fields["cniVersion"], _ = json.Marshal(p.cniVersion)
	}
	b, _ := json.Marshal(p.fields)
	return b
}
