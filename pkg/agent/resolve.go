package agent

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// resolved is what a request means on this node.
type resolved struct {
	trunk  desired.Trunk
	vlans  attach.VLANs
	mtu    int
	policy string // network whose policy judges the port; "" is none
	rules  string // the set of that policy, as Record.Rules; found last, by Agent.resolve
	// security is found there, too.
	security attach.Security
}

// trunkHealth says what the kernel made of a trunk: its MTU, or what is wrong.
type trunkHealth struct {
	spec    bridge.TrunkSpec // as last set up
	mtu     int              // bytes
	mac     net.HardwareAddr // of the bridge
	vlans   vlan.Set         // on the uplink
	problem string
	tried   time.Time // when it was last set up
}

// healthAt is what the kernel made of a trunk where it is desired now. What is known of it
// on another bridge or uplink says nothing of this one, which has yet to be set up.
func healthAt(t desired.Trunk, known map[string]trunkHealth) (h trunkHealth, ok bool) {
	h, ok = known[t.Name]
	if !ok || h.spec.Bridge != t.Bridge || h.spec.Uplink != t.Uplink || h.spec.Managed != t.Managed {
		return trunkHealth{}, false
	}
	return h, true
}

// notSetUp is why a trunk is not ready of which nothing is known yet.
const notSetUp = "not set up yet"

// resolve finds out what a request means, or which field is wrong and why. It
// depends on nothing but its arguments.
func resolve(req *attach.Request, snap *desired.Snapshot, health map[string]trunkHealth) (resolved, error) {
	if err := checkMAC(req.MAC); err != nil {
		return resolved{}, err
	}
	var r resolved
	var err error
	switch {
	case req.Network != "" && req.Inline != nil:
		return r, attach.Invalid("network", "both network and bridge are given", "give one: network names a VLANNetwork, bridge describes the port itself")
	case req.Network != "":
		r, err = resolveNetwork(req.Network, snap)
	case req.Inline != nil:
		r, err = resolveInline(req.Inline, snap)
	default:
		return r, attach.Invalid("network", "neither network nor bridge is given", "set network to a VLANNetwork's name")
	}
	if err != nil {
		return r, err
	}
	for _, n := range r.networks(snap) {
		if err := checkNamespace(req.Pod.Namespace, n); err != nil {
			return r, err
		}
	}
	h, ok := healthAt(r.trunk, health)
	if !ok || h.problem != "" {
		return r, &attach.Error{Kind: attach.TryAgain, Field: "trunk",
			Message: fmt.Sprintf("trunk %s is not ready on this node: %s", r.trunk.Name, orElse(h.problem, notSetUp)),
			Remedy:  "see homeportctl status"}
	}
	r.mtu, err = resolveMTU(req.MTU, r.mtu, h.mtu, r.trunk.Name)
	return r, err
}

func resolveNetwork(name string, snap *desired.Snapshot) (resolved, error) {
	n, ok := snap.Networks[name]
	if far, elsewhere := snap.Elsewhere[name]; elsewhere && (!ok || n.Kept) {
		return resolved{}, attach.Invalid("network", fmt.Sprintf("VLANNetwork %s is on trunk %s, which this node does not have", name, far),
			"have the pod scheduled to nodes that spec.nodeSelector of the trunk selects, or label this node so")
	}
	if !ok {
		all := maps.Clone(snap.Networks)
		maps.DeleteFunc(all, func(_ string, n desired.Network) bool { return n.Kept })
		known := strings.Join(slices.Sorted(maps.Keys(all)), ", ")
		return resolved{}, attach.Invalid("network", fmt.Sprintf("there is no VLANNetwork named %q", name), "known are: "+orElse(known, "none"))
	}
	if n.Kept {
		return resolved{}, attach.Invalid("network", fmt.Sprintf("VLANNetwork %s was removed; it stays in force only until the ports that are on it end", name),
			"put it back, or name another network")
	}
	t, ok := snap.Trunks[n.Trunk]
	if !ok {
		return resolved{}, attach.Invalid("network", fmt.Sprintf("VLANNetwork %s is on trunk %q, which does not exist", name, n.Trunk), "write a VLANTrunk of that name")
	}
	r := resolved{trunk: t, policy: n.Name, mtu: n.MTU,
		vlans: attach.VLANs{Mode: n.Mode, PVID: n.PVID, Tagged: n.Tagged}}
	return r, checkVLANs(r.vlans, t)
}

// networks are those whose VLANs the port would be in: the one that it belongs to,
// or, where it belongs to none, as one with tagged VLANs that its CNI config
// describes, each of the trunk's that shares a VLAN with it. One that was removed
// has no say in who may be on its VLANs.
func (r *resolved) networks(snap *desired.Snapshot) (out []desired.Network) {
	if r.policy != "" {
		return []desired.Network{snap.Networks[r.policy]}
	}
	for _, name := range slices.Sorted(maps.Keys(snap.Networks)) {
		n := snap.Networks[name]
		vlans := attach.VLANs{Mode: n.Mode, PVID: n.PVID, Tagged: n.Tagged}
		if n.Trunk == r.trunk.Name && !n.Kept && !vlans.All().Intersect(r.vlans.All()).Empty() {
			out = append(out, n)
		}
	}
	return out
}

// checkNamespace says whether pods of a namespace may be on a network, however
// they ask for it.
func checkNamespace(ns string, n desired.Network) error {
	if n.Namespaces == nil || slices.Contains(n.Namespaces, ns) {
		return nil
	}
	return attach.Invalid("network", fmt.Sprintf("VLANNetwork %s is not for pods of namespace %q", n.Name, ns),
		"give the namespace a label that spec.namespaces of the network selects, or name another network")
}

func resolveInline(in *attach.Inline, snap *desired.Snapshot) (resolved, error) {
	for _, t := range snap.Trunks {
		if t.Bridge != in.Bridge {
			continue
		}
		if t.Kept {
			return resolved{}, attach.Invalid("bridge", fmt.Sprintf("VLANTrunk %s, which owns bridge %s, was removed; it stays in force only until the ports that are on it end", t.Name, in.Bridge),
				"put it back, or name another bridge")
		}
		if !t.InlineAllowed {
			return resolved{}, attach.Invalid("bridge", fmt.Sprintf("VLANTrunk %s, which owns bridge %s, refuses ports that a CNI config describes itself", t.Name, in.Bridge),
				"name a VLANNetwork in network, or set inlineConfig: Allow on the trunk")
		}
		r := resolved{trunk: t, vlans: in.VLANs, policy: networkOf(in.VLANs, t.Name, snap)}
		return r, checkVLANs(in.VLANs, t)
	}
	return resolved{}, attach.Invalid("bridge", fmt.Sprintf("no VLANTrunk owns a bridge named %q", in.Bridge), "write a VLANTrunk with bridge.name "+in.Bridge)
}

// networkOf finds the VLANNetwork that an inline port belongs to: the access
// network of its VLAN, so that the same rules hold however a port is described.
// A port with tagged VLANs is in several and belongs to none: the default of
// ports without a network (Drop) is its last word.
func networkOf(v attach.VLANs, trunk string, snap *desired.Snapshot) string {
	if v.Mode != vlan.Access {
		return ""
	}
	found := desired.Network{}
	for _, name := range slices.Sorted(maps.Keys(snap.Networks)) {
		n := snap.Networks[name]
		if n.Trunk != trunk || n.Mode != vlan.Access || n.PVID != v.PVID {
			continue
		}
		if found.Name == "" || found.Kept && !n.Kept { // a kept one gives way to its successor
			found = n
		}
	}
	return found.Name
}

func checkVLANs(v attach.VLANs, t desired.Trunk) error {
	if err := v.Validate(); err != nil {
		return err
	}
	all := v.All()
	if m := all.Intersect(t.Management); !m.Empty() {
		return attach.Invalid("vlan", fmt.Sprintf("VLAN %s is a management VLAN of trunk %s", m, t.Name), "use another VLAN; managementVLANs belong to the node")
	}
	if out := all.Minus(t.AllowedVLANs); !out.Empty() {
		return attach.Invalid("vlan", fmt.Sprintf("VLAN %s is not among trunk %s's allowedVLANs (%s)", out, t.Name, t.AllowedVLANs), "add it there and on the switch, or use another")
	}
	return nil
}

// resolveMTU takes the smallest of what the request and the network ask and
// refuses more than the trunk carries. Zero means not asked.
func resolveMTU(asked, network, trunk int, name string) (int, error) {
	if asked != 0 && (asked < attach.MinMTU || asked > attach.MaxMTU) {
		return 0, attach.Invalid("mtu", fmt.Sprintf("%d is out of range", asked), fmt.Sprintf("use %d-%d, or leave it out for the network's", attach.MinMTU, attach.MaxMTU))
	}
	limit := trunk
	if network != 0 {
		limit = min(limit, network)
	}
	if asked > limit {
		return 0, attach.Invalid("mtu", fmt.Sprintf("%d is over the %d of trunk %s and its network", asked, limit, name), "lower it, or raise the uplink's and the trunk's MTU first")
	}
	if asked != 0 {
		return asked, nil
	}
	return limit, nil
}

func checkMAC(mac attach.MAC) error {
	if p := mac.Problem(); p != "" {
		return attach.Invalid("mac", fmt.Sprintf("%q %s", mac, p), "give the six bytes of one station, as 02:00:00:aa:bb:cc, or leave mac out for a random one")
	}
	return nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
