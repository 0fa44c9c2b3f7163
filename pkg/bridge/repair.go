package bridge

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Repair mends one drift, and with it what stands beside it on the same
// subject; one that is mended already costs nothing. What cannot be mended here
// is ErrRefused or ErrNotFound with the reason: an adopted bridge that is gone,
// its uplink that somebody took away, an interface that does not exist.
func (n *Net) Repair(want Want, d Drift) error {
	switch d.Kind {
	case PortMissing, UplinkMissing:
		return fmt.Errorf("repair %s: %w", d, ErrNotFound)
	case UplinkMTUShrunk:
		return fmt.Errorf("%w: the MTU of %s belongs to whoever set it", ErrRefused, d.Subject.Name)
	case PortUnslaved, PVIDAdded, PortVLANExtra, PortVLANMissing, PortFlagsChanged, PortMTUChanged, PortDown:
		for _, p := range want.Ports {
			if p.Ref == d.Subject {
				return n.repairPort(want.Trunk.Bridge, p)
			}
		}
		return fmt.Errorf("repair %s: %w: no such port is wanted", d, ErrNotFound)
	}
	if want.Trunk.Managed {
		if _, err := n.EnsureTrunk(n.underUplink(want.Trunk)); err != nil {
			return fmt.Errorf("repair %s: %w", d, err)
		}
		return nil
	}
	if err := n.repairAdopted(want, d); err != nil {
		return fmt.Errorf("repair %s: %w", d, err)
	}
	return nil
}

// underUplink is the trunk with what MTU its uplink leaves it: one that somebody
// has lowered since must not stand in the way of other repairs.
func (n *Net) underUplink(t TrunkSpec) TrunkSpec {
	if up, err := n.LinkInfo(Ref{Name: t.Uplink}); err == nil && t.Uplink != "" {
		t.MTU = min(t.MTU, up.MTU)
	}
	return t
}

// repairAdopted gives an adopted bridge back only what it had when it was
// adopted and what VMs depend on.
func (n *Net) repairAdopted(want Want, d Drift) error {
	br, err := n.bridgeLink(Ref{Name: want.Trunk.Bridge})
	if err != nil {
		return err
	}
	switch d.Kind {
	case VLANFilteringOff:
		// Not ours to set, but without it all VLANs are one at this moment.
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
		info.AddRtAttr(unix.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_VLAN_FILTERING, nl.Uint8Attr(1))
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(br.Index)
		return n.do(unix.RTM_NEWLINK, 0, msg, info)
	case BridgeMACChanged:
		return n.setLink(br.Index, nil, nl.NewRtAttr(unix.IFLA_ADDRESS, want.MAC))
	case MTUShrunk:
		return n.SetMTU(br.Ref(), n.underUplink(TrunkSpec{Uplink: want.Trunk.Uplink, MTU: want.MTU}).MTU)
	case BridgeDown:
		return n.SetUp(br.Ref())
	case UplinkDown:
		return n.SetUp(d.Subject)
	case UplinkVLANMissing, UplinkVLANExtra:
		_, err := n.EnsureTrunk(n.underUplink(want.Trunk))
		return err
	}
	return fmt.Errorf("%w: the bridge is adopted, and only whoever made it should do that", ErrRefused)
}

// repairPort runs the same steps as an attachment does. One that must enter
// the bridge anew goes down first, so that it passes nothing before it is
// complete; one that is in it is mended under way.
func (n *Net) repairPort(bridge string, p WantPort) error {
	br, err := n.bridgeLink(Ref{Name: bridge})
	if err != nil {
		return err
	}
	l, err := n.LinkInfo(p.Ref)
	if err != nil {
		return err
	}
	if l.Master != br.Index {
		if err := n.TakeOut(p.Ref); err != nil {
			return err
		}
		if err := n.Join(p.Ref, br.Ref()); err != nil {
			return err
		}
	}
	err = n.SetVLANs(p.Ref, p.VLANs)
	if err == nil {
		err = n.SetPortFlags(p.Ref, GuestFlags())
	}
	if err == nil && p.MTU != 0 {
		err = n.SetMTU(p.Ref, p.MTU)
	}
	if err == nil {
		err = n.VerifyVLANs(p.Ref, p.VLANs)
	}
	if err != nil {
		return err
	}
	return n.SetUp(p.Ref)
}

// ReleaseUplink takes off an adopted bridge's uplink what we added to it, as
// TrunkSpec.Added has it, and says which VLANs it took. What somebody has changed
// since, or that is not there any more, is left alone, and so is an uplink that
// is gone or elsewhere.
func (n *Net) ReleaseUplink(bridge, uplink Ref, added PortVLANs) (vlan.Set, error) {
	br, err := n.bridgeLink(bridge)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrRefused) { // gone, or no bridge any more
		return vlan.Set{}, nil
	}
	if err != nil {
		return vlan.Set{}, err
	}
	up, err := n.LinkInfo(uplink)
	if errors.Is(err, ErrNotFound) || err == nil && up.Master != br.Index {
		return vlan.Set{}, nil
	}
	if err != nil {
		return vlan.Set{}, err
	}
	have, err := n.readVLANs(up.Index)
	if err != nil {
		return vlan.Set{}, fmt.Errorf("uplink %s: %w", up.Name, err)
	}
	c := TrunkSpec{Added: added}.uplinkChange(have)
	if err := n.changeVLANs(up.Index, 0, have, c.want, c.keep); err != nil {
		return vlan.Set{}, fmt.Errorf("uplink %s: %w", up.Name, err)
	}
	return c.del, nil
}

// RemoveTrunk undoes EnsureTrunk on a managed bridge: the uplink is set free
// and the bridge deleted. It refuses while other ports are in the bridge. One
// that is gone, adopted, or was never taken over is left alone.
func (n *Net) RemoveTrunk(spec TrunkSpec) error {
	if !spec.Managed {
		return nil
	}
	br, err := n.bridgeLink(Ref{Name: spec.Bridge})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !n.ours(br) {
		return nil
	}
	ports, err := n.links(br.Index)
	if err != nil {
		return err
	}
	for _, p := range ports {
		if p.Name != spec.Uplink {
			return fmt.Errorf("remove bridge %s: %w: %s ports are in it, %s among them",
				br.Name, ErrRefused, strconv.Itoa(len(ports)), p.Name)
		}
	}
	if err := n.deleteLink(br.Index); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove bridge %s: %w", br.Name, err)
	}
	return nil
}

// FreeUplink takes the uplink of spec out of its managed bridge, which stays. One
// that is gone or elsewhere, or whose bridge is not ours, is left alone.
func (n *Net) FreeUplink(spec TrunkSpec) error {
	if !spec.Managed || spec.Uplink == "" {
		return nil
	}
	br, err := n.bridgeLink(Ref{Name: spec.Bridge})
	if errors.Is(err, ErrNotFound) || err == nil && !n.ours(br) {
		return nil
	}
	if err != nil {
		return err
	}
	up, err := n.LinkInfo(Ref{Name: spec.Uplink})
	if errors.Is(err, ErrNotFound) || err == nil && up.Master != br.Index {
		return nil
	}
	if err != nil {
		return err
	}
	if err := n.setLink(up.Index, nil, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(0))); err != nil {
		return fmt.Errorf("free the uplink %s of bridge %s: %w", up.Name, br.Name, err)
	}
	return nil
}
