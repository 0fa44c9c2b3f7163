package desired

import (
	"fmt"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// trunksClash says why two trunks exclude each other.
func trunksClash(a, b any) *clash {
	x, okX := a.(Trunk)
	y, okY := b.(Trunk)
	const bridge, uplink = "spec.bridge.name", "spec.uplink.interface"
	said := func(other, what, name string) string {
		return fmt.Sprintf("VLANTrunk %s has the same %s %s: want another", other, what, name)
	}
	switch {
	case !okX || !okY:
		return nil
	case x.Bridge == y.Bridge:
		return &clash{bridge, said(y.Name, "bridge", y.Bridge), bridge, said(x.Name, "bridge", x.Bridge)}
	case x.Uplink != "" && x.Uplink == y.Uplink:
		return &clash{uplink, said(y.Name, "uplink", y.Uplink), uplink, said(x.Name, "uplink", x.Uplink)}
	case x.Uplink == y.Bridge:
		return &clash{
			uplink, fmt.Sprintf("%s is the bridge of VLANTrunk %s: want a NIC or bond", x.Uplink, y.Name),
			bridge, fmt.Sprintf("%s is the uplink of VLANTrunk %s: want another name", y.Bridge, x.Name),
		}
	case y.Uplink == x.Bridge:
		return &clash{
			bridge, fmt.Sprintf("%s is the uplink of VLANTrunk %s: want another name", x.Bridge, y.Name),
			uplink, fmt.Sprintf("%s is the bridge of VLANTrunk %s: want a NIC or bond", y.Uplink, x.Name),
		}
	}
	return nil
}

// networksClash says why two networks exclude each other: a VLAN of a trunk
// belongs to one network. A set for guests that tag may hold it as well, for a
// router among the VMs needs to be in the VLANs of the others.
func networksClash(a, b any) *clash {
	x, okX := a.(Network)
	y, okY := b.(Network)
	if !okX || !okY || x.Trunk != y.Trunk || x.PVID != y.PVID || x.PVID == 0 {
		return nil
	}
	const field = "spec.vlan.id"
	said := func(other string) string {
		return fmt.Sprintf("VLAN %d of trunk %s is VLANNetwork %s already: want one network for a VLAN", x.PVID, x.Trunk, other)
	}
	return &clash{field, said(y.Name), field, said(x.Name)}
}

// offTrunk says why a network does not fit its trunk. A network of another trunk
// than that of the slot fits.
func (r *resolver) offTrunk(a, b any, trunk *slot) *clash {
	n, ok := a.(Network)
	if !ok || n.Trunk != trunk.Name {
		return nil
	}
	t, ok := b.(Trunk)
	if !ok {
		return &clash{
			"spec.trunk", r.absent(trunk.Kind, trunk.Name),
			"", fmt.Sprintf("is gone, but VLANNetwork %s is on it: remove that too, or put the trunk back", n.Name),
		}
	}
	if c := wrongVLAN(n, t, "spec.vlan.id", vlanSet(n.PVID)); c != nil {
		return c
	}
	if c := wrongVLAN(n, t, "spec.vlan.trunk", n.Tagged); c != nil {
		return c
	}
	if n.MTU != 0 && t.MTU != 0 && n.MTU > t.MTU {
		return &clash{
			"spec.mtu", fmt.Sprintf("%d is over the MTU of VLANTrunk %s: want at most %d", n.MTU, t.Name, t.MTU),
			"spec.mtu", fmt.Sprintf("%d is under the MTU of VLANNetwork %s: want at least %d", t.MTU, n.Name, n.MTU),
		}
	}
	return nil
}

// wrongVLAN says which of a network's VLANs its trunk does not give away.
func wrongVLAN(n Network, t Trunk, field string, set vlan.Set) *clash {
	if bad := set.Intersect(t.Management); !bad.Empty() {
		return &clash{
			field, fmt.Sprintf("VLAN %s is for management on VLANTrunk %s: want one of %s",
				bad, t.Name, t.AllowedVLANs.Minus(t.Management)),
			"spec.managementVLANs", fmt.Sprintf("VLAN %s is used by VLANNetwork %s: take it out, or remove the network first",
				bad, n.Name),
		}
	}
	if bad := set.Minus(t.AllowedVLANs); !bad.Empty() {
		return &clash{
			field, fmt.Sprintf("VLAN %s is not among allowedVLANs of VLANTrunk %s: want one of %s",
				bad, t.Name, t.AllowedVLANs.Minus(t.Management)),
			"spec.uplink.allowedVLANs", fmt.Sprintf("VLAN %s is used by VLANNetwork %s: want it in the list, or remove the network first",
				bad, n.Name),
		}
	}
	return nil
}

// vlanSet is the set of one VLAN, or the empty set for 0.
func vlanSet(id vlan.ID) vlan.Set {
	set, err := vlan.Of(id)
	if err != nil {
		return vlan.Set{}
	}
	return set
}
