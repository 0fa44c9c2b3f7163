package desired

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// PolicySets gives what judges the ports of every network to which nothing is
// applied by label, sorted by network, and behind it what judges ports there of
// which nobody knows whose they are, if that is another. The first one, of Network
// "", is for ports without a VLANNetwork: they get what is applied to Any, and
// Drop for the rest.
func (s *Snapshot) PolicySets() []policy.Set { return s.policySets(s.policySet) }

func (s *Snapshot) policySets(make func(port) policy.Set) (out []policy.Set) {
	for _, name := range append([]string{""}, slices.Sorted(maps.Keys(s.Networks))...) {
		out = append(out, make(port{network: name, nobody: true}))
		if s.variant(s.unknown(name)) != "" {
			out = append(out, make(s.unknown(name)))
		}
	}
	return out
}

// TrunkOfBridge finds the trunk that owns a bridge.
func (s *Snapshot) TrunkOfBridge(bridge string) (Trunk, bool) {
	for _, t := range s.Trunks {
		if t.Bridge == bridge {
			return t, true
		}
	}
	return Trunk{}, false
}

// NetworkOfVLAN finds the network whose untagged VLAN is id on a trunk. There is
// at most one.
func (s *Snapshot) NetworkOfVLAN(trunk string, id vlan.ID) (Network, bool) {
	for _, n := range s.Networks {
		if n.Trunk == trunk && n.PVID == id && id != 0 {
			return n, true
		}
	}
	return Network{}, false
}

// judgedBefore orders policies: category, order, name.
func judgedBefore(a, b Policy) int {
	return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name, b.Name))
}

// ties tells of FirewallPolicies that ask for the place of another one in the order of their category, at ports that both are for. They
// are in force. Order 0 asks for none: it is that of policies that say nothing.
func (s *Snapshot) ties() []Problem {
	var out []Problem
	var some string             // of the policies with this order: the first one,
	var any string              // the first one that is for any port,
	var first map[string]string // and the first one for each network
	for i := range s.Policies {
		p := &s.Policies[i]
		if i == 0 || s.Policies[i-1].Rank != p.Rank || s.Policies[i-1].Order != p.Order {
			some, any, first = "", "", map[string]string{}
		}
		if p.Order == 0 || p.Subject != nil {
			continue
		}
		other := any
		if p.Any() {
			other = cmp.Or(other, some)
		}
		for _, n := range p.Networks {
			other = cmp.Or(other, first[n])
			first[n] = cmp.Or(first[n], p.Name)
		}
		if other != "" {
			out = append(out, Problem{Kind: v1alpha1.KindFirewallPolicy, Name: p.Name, Field: "spec.order",
				Message: fmt.Sprintf("is %d, as that of FirewallPolicy %s in category %s, which is for the same ports: both are in force, judged by name, %s first; want another order",
					p.Order, other, p.Category, other)})
		}
		if p.Any() {
			any = cmp.Or(any, p.Name)
		}
		some = cmp.Or(some, p.Name)
	}
	return out
}
