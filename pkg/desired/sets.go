package desired

import (
	"cmp"
	"maps"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// PolicySets gives the effective policy of every network, sorted by name. The
// first one, of Network "", is for ports without a VLANNetwork: they get what is
// applied to Any, and Drop for the rest.
func (s *Snapshot) PolicySets() []policy.Set {
	out := make([]policy.Set, 0, len(s.Networks)+1)
	out = append(out, s.policySet("", policy.Drop))
	for _, name := range slices.Sorted(maps.Keys(s.Networks)) {
		out = append(out, s.policySet(name, s.Networks[name].Default))
	}
	return out
}

func (s *Snapshot) policySet(network string, last policy.Action) policy.Set {
	set := policy.Set{Network: network, Default: last}
	for _, p := range s.Policies {
		if p.Networks == nil || slices.Contains(p.Networks, network) {
			set.Rules = append(set.Rules, p.Rules...)
		}
	}
	return set
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
