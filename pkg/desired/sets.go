package desired

import (
	"cmp"
	"maps"
	"slices"

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
