package bridge

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TrunkSpec is a bridge and the uplink behind it, as they should be.
type TrunkSpec struct {
	Bridge string
	// Managed bridges are made and kept by EnsureTrunk; others are adopted:
	// they must exist and be fit, and only the VLANs of the uplink are added.
	Managed bool
	// Uplink is the NIC or bond; empty is a trunk of this node only.
	Uplink string
	// Allowed are the VLANs that pass the uplink tagged.
	Allowed vlan.Set
	// Native is the VLAN of untagged frames on the uplink; 0 is none.
	Native vlan.ID
	// Management VLANs of the uplink and of the bridge itself are never added
	// and never removed, whatever else is said.
	Management vlan.Set
	// MTU in bytes; 0 takes the uplink's, or 1500 without one.
	MTU int
	// Added are VLANs that we put on an adopted bridge's uplink earlier, as we
	// put them there: those that are not wanted any more are taken off, unless
	// somebody has changed them since.
	Added PortVLANs
	// Flat makes a bridge that does not separate VLANs and sets none. It is
	// for benchmarks on kernels without VLAN filtering only.
	Flat bool
}

// TrunkStatus is a trunk as EnsureTrunk left it.
type TrunkStatus struct {
	Bridge Ref
	// Uplink is zero without one.
	Uplink Ref
	MAC    net.HardwareAddr
	MTU    int // bytes
	// DefaultPVID of an adopted bridge: SetVLANs takes it off every port.
	DefaultPVID vlan.ID
	// Created says that the bridge was made just now; Changed lists in words
	// what else was changed, in order.
	Created bool
	Changed []string
	// Warnings are what an adopted bridge should have otherwise.
	Warnings []string
}

// UplinkVLANs is what the uplink should carry, management aside.
func (s TrunkSpec) UplinkVLANs() PortVLANs {
	native := single(s.Native).Minus(s.Management)
	p := PortVLANs{Members: s.Allowed.Minus(s.Management).Union(native), Untagged: native}
	if !native.Empty() {
		p.PVID = s.Native
	}
	return p
}

func (s TrunkSpec) check() error {
	if err := checkName(s.Bridge); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if s.Uplink != "" {
		if err := checkName(s.Uplink); err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
	}
	if s.Uplink == s.Bridge {
		return fmt.Errorf("bridge %s: %w: it is named as its own uplink", s.Bridge, ErrRefused)
	}
	if s.Native != 0 {
		if err := s.Native.Validate(); err != nil {
			return fmt.Errorf("bridge %s: native: %w", s.Bridge, err)
		}
	}
	if s.MTU != 0 && (s.MTU < 68 || s.MTU > 65535) {
		return fmt.Errorf("bridge %s: MTU %d is out of range: want 68-65535 bytes", s.Bridge, s.MTU)
	}
	return nil
}

// EnsureTrunk makes a trunk as it should be, and may be called again at any
// time: it sends nothing to the kernel when all is well.
//
// A managed bridge has vlan_filtering on and no default PVID, so a new port
// carries nothing; a pinned MAC, else it would follow the lowest of its ports
// and the node's own traffic with it; no spanning tree, so ports pass at once;
// no multicast snooping, since without a querier in the VLAN it stops
// neighbour discovery after some four minutes; an MTU that is set, else it would
// shrink to that of the smallest port; and no IPv6. It is itself in no guest
// VLAN.
//
// A managed bridge has the alias "homeport trunk", by which a later agent knows
// it. One of that name without the alias is somebody else's: it is taken over
// only if nobody uses it, and refused if it or its uplink carries an address, a
// route, an interface that stands on it, a port besides the uplink, or a VLAN
// that the trunk would take away and that is no management VLAN.
//
// Everything is checked before anything is changed: on ErrRefused, ErrNotFound
// and ErrNoVLANFiltering nothing has changed.
func (n *Net) EnsureTrunk(spec TrunkSpec) (TrunkStatus, error) {
	if err := spec.check(); err != nil {
		return TrunkStatus{}, err
	}
	br, err := n.LinkInfo(Ref{Name: spec.Bridge})
	if errors.Is(err, ErrNotFound) && spec.Managed {
		br, err = Link{}, nil
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return TrunkStatus{}, fmt.Errorf("bridge %s: %w: make it, or let it be made by bridge.managed: true", spec.Bridge, ErrNotFound)
	case err != nil:
		return TrunkStatus{}, err
	case br.Index != 0 && br.Bridge == nil:
		return TrunkStatus{}, fmt.Errorf("bridge %s: %w: it is no bridge but %s; choose another name",
			spec.Bridge, ErrRefused, kindName(br.Kind))
	}
	var up Link
	if spec.Uplink != "" {
		if up, err = n.LinkInfo(Ref{Name: spec.Uplink}); err != nil {
			return TrunkStatus{}, fmt.Errorf("uplink %w", err)
		}
	}
	if !spec.Managed {
		return n.adopt(spec, br, up)
	}
	return n.manage(spec, br, up)
}

// mtu is what the bridge should have, and refuses more than the uplink carries.
func (s TrunkSpec) mtu(up Link) (int, error) {
	switch {
	case s.MTU == 0 && up.Index == 0:
		return 1500, nil
	case s.MTU == 0:
		return up.MTU, nil
	case up.Index != 0 && s.MTU > up.MTU:
		return 0, fmt.Errorf("bridge %s: %w: MTU %d is over that of the uplink %s, %d: lower it, or raise the uplink's (`ip link set %s mtu %d`)",
			s.Bridge, ErrRefused, s.MTU, up.Name, up.MTU, up.Name, s.MTU)
	}
	return s.MTU, nil
}

// adopt checks somebody else's bridge and adds the uplink's VLANs.
func (n *Net) adopt(spec TrunkSpec, br, up Link) (TrunkStatus, error) {
	if spec.Flat {
		return TrunkStatus{}, fmt.Errorf("bridge %s: %w: a flat bridge cannot be adopted", spec.Bridge, ErrRefused)
	}
	mtu, err := spec.mtu(up)
	switch {
	case err != nil:
		return TrunkStatus{}, err
	case !br.Bridge.VLANFiltering:
		return TrunkStatus{}, fmt.Errorf("bridge %s: %w: vlan_filtering is off, so all its VLANs are one; switch it on: `ip link set %s type bridge vlan_filtering 1`",
			br.Name, ErrRefused, br.Name)
	case br.MTU < mtu && spec.MTU != 0:
		return TrunkStatus{}, fmt.Errorf("bridge %s: %w: its MTU is %d, under the trunk's %d: `ip link set %s mtu %d`",
			br.Name, ErrRefused, br.MTU, mtu, br.Name, mtu)
	case up.Index != 0 && up.Master != br.Index:
		return TrunkStatus{}, fmt.Errorf("bridge %s: %w: the uplink %s is no port of it: `ip link set %s master %s`",
			br.Name, ErrRefused, up.Name, up.Name, br.Name)
	}
	st := TrunkStatus{Bridge: br.Ref(), Uplink: up.Ref(), MAC: br.MAC, MTU: br.MTU, DefaultPVID: br.Bridge.DefaultPVID}
	st.Warnings = n.adoptWarnings(br)
	if up.Index == 0 {
		return st, nil
	}
	st.MTU = min(br.MTU, up.MTU) // what passes both
	// All that it carries besides ours belongs to whoever made the bridge.
	if err := n.ensureUplinkVLANs(spec, up, &st); err != nil {
		return TrunkStatus{}, fmt.Errorf("bridge %s: uplink %s: %w", br.Name, up.Name, err)
	}
	return st, nil
}

func (n *Net) adoptWarnings(br Link) []string {
	var w []string
	if !br.Up {
		w = append(w, fmt.Sprintf("bridge %s is down: `ip link set %s up`", br.Name, br.Name))
	}
	if br.Bridge.McastSnooping {
		w = append(w, fmt.Sprintf("bridge %s has mcast_snooping on: without a querier in each VLAN, IPv6 neighbour discovery stops after some minutes: `ip link set %s type bridge mcast_snooping 0`", br.Name, br.Name))
	}
	if br.Bridge.STP {
		w = append(w, fmt.Sprintf("bridge %s has a spanning tree: a new port passes nothing for 30 s", br.Name))
	}
	if n.macFollowsPorts(br) {
		w = append(w, fmt.Sprintf("bridge %s has no MAC of its own and takes that of a port: `ip link set %s address %s`", br.Name, br.Name, br.MAC))
	}
	return w
}

// macFollowsPorts says whether the kernel would change the bridge's MAC when a
// port comes or goes. Only sysfs knows (addr_assign_type, 3 is "set by
// somebody"), and only that of the process's own network namespace.
func (n *Net) macFollowsPorts(br Link) bool {
	dir := "/sys/class/net/" + br.Name + "/"
	index, err := os.ReadFile(dir + "ifindex")
	if err != nil || string(bytes.TrimSpace(index)) != fmt.Sprint(br.Index) {
		return false
	}
	mac, err := os.ReadFile(dir + "address")
	if err != nil || string(bytes.TrimSpace(mac)) != br.MAC.String() {
		return false
	}
	assigned, err := os.ReadFile(dir + "addr_assign_type")
	return err == nil && string(bytes.TrimSpace(assigned)) != "3"
}

// manage makes or mends our own bridge. A bridge that was made here and could
// not be finished is deleted again.
func (n *Net) manage(spec TrunkSpec, br, up Link) (TrunkStatus, error) {
	if br.Index != 0 && !n.ours(br) {
		if err := n.checkTakeOver(spec, br, up); err != nil {
			return TrunkStatus{}, fmt.Errorf("bridge %s: %w", spec.Bridge, err)
		}
	}
	if up.Index != 0 {
		if err := n.checkUplink(up, br); err != nil {
			return TrunkStatus{}, fmt.Errorf("bridge %s: %w", spec.Bridge, err)
		}
	}
	mtu, err := spec.mtu(up)
	if err != nil {
		return TrunkStatus{}, err
	}
	st := TrunkStatus{MTU: mtu, MAC: spec.bridgeMAC(up), Created: br.Index == 0}
	if st.Created {
		if br, err = n.createBridge(spec, st.MAC, mtu); err != nil {
			return TrunkStatus{}, fmt.Errorf("bridge %s: %w", spec.Bridge, err)
		}
	}
	st.Bridge, st.Uplink = br.Ref(), up.Ref()
	if err := n.mend(spec, br, up, &st); err != nil {
		err = fmt.Errorf("bridge %s: %w", spec.Bridge, err)
		if st.Created {
			err = errors.Join(err, n.deleteLink(br.Index)) // its ports are set free by that
		}
		return TrunkStatus{}, err
	}
	return st, nil
}

// createBridge makes the bridge with everything that can be said at its birth.
func (n *Net) createBridge(spec TrunkSpec, mac net.HardwareAddr, mtu int) (Link, error) {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(unix.IFLA_INFO_DATA, nil)
	spec.wantBridge().attrs(data)
	err := n.do(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(spec.Bridge)),
		nl.NewRtAttr(unix.IFLA_ADDRESS, mac),
		// One byte off: the kernel holds an MTU for chosen only when it is
		// changed (net/bridge/br_device.c, br_change_mtu), not at birth.
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu-1))),
		info)
	if err != nil {
		return Link{}, noFiltering(fmt.Errorf("create it: %w", err))
	}
	br, err := n.LinkInfo(Ref{Name: spec.Bridge})
	if err == nil {
		err = spec.filters(br)
	}
	if err == nil {
		err = n.setMark(br)
	}
	if err == nil {
		err = n.quiet(br)
	}
	if err != nil {
		return Link{}, errors.Join(err, n.deleteLinkNamed(spec.Bridge))
	}
	br.Alias = mark
	return br, nil
}

func (n *Net) deleteLinkNamed(name string) error {
	return n.do(unix.RTM_DELLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

// wantBridge is the settings of a managed bridge; see EnsureTrunk for why.
func (s TrunkSpec) wantBridge() BridgeAttrs {
	return BridgeAttrs{VLANFiltering: !s.Flat}
}

// fits says whether a managed bridge has those settings. On a flat one the
// default PVID means nothing.
func (s TrunkSpec) fits(b BridgeAttrs) bool {
	if s.Flat {
		b.DefaultPVID = 0
	}
	b.Ageing, b.VLANProtocol = 0, 0 // whatever they are
	return b == s.wantBridge()
}

// attrs writes the settings as IFLA_BR_*. The default PVID goes before
// vlan_filtering is switched on, so that VLAN 1 never connects anything.
func (b BridgeAttrs) attrs(data *nl.RtAttr) {
	flag := func(attr int, on bool) {
		v := nl.Uint8Attr(0)
		if on {
			v = nl.Uint8Attr(1)
		}
		data.AddRtAttr(attr, v)
	}
	flag(nl.IFLA_BR_MCAST_SNOOPING, b.McastSnooping)
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	if b.VLANFiltering {
		data.AddRtAttr(nl.IFLA_BR_VLAN_DEFAULT_PVID, nl.Uint16Attr(uint16(b.DefaultPVID)))
		flag(nl.IFLA_BR_VLAN_FILTERING, true)
	}
}

// bridgeMAC is the uplink's MAC, or one that follows from this machine and the
// bridge's name, so that a restarted agent wants the same.
func (s TrunkSpec) bridgeMAC(up Link) net.HardwareAddr {
	if len(up.MAC) == 6 {
		return up.MAC
	}
	machine, _ := os.ReadFile("/etc/machine-id") // without one, the name alone
	sum := sha256.Sum256(append(machine, s.Bridge...))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac
}

// mend sets what differs on a managed bridge and its uplink.
func (n *Net) mend(spec TrunkSpec, br, up Link, st *TrunkStatus) error {
	if err := n.mendBridge(spec, br, up, st); err != nil {
		return err
	}
	if up.Index == 0 {
		return nil
	}
	if up.Master != br.Index {
		if err := n.setLink(up.Index, nil, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(br.Index)))); err != nil {
			return fmt.Errorf("enslave the uplink %s: %w", up.Name, err)
		}
		st.Changed = append(st.Changed, "enslaved the uplink "+up.Name)
	}
	if err := n.ensureUplinkVLANs(spec, up, st); err != nil {
		return fmt.Errorf("uplink %s: %w", up.Name, err)
	}
	if !up.Up {
		if err := n.setFlagUp(up, true); err != nil {
			return err
		}
		st.Changed = append(st.Changed, "brought the uplink "+up.Name+" up")
	}
	return nil
}

func (n *Net) mendBridge(spec TrunkSpec, br, up Link, st *TrunkStatus) error {
	if !spec.fits(*br.Bridge) {
		if err := n.setBridgeKeeping(spec, br, up); err != nil {
			return err
		}
		st.Changed = append(st.Changed, "set the bridge's settings")
	}
	if err := n.setMark(br); err != nil {
		return err
	}
	if br.Alias != mark {
		st.Changed = append(st.Changed, "marked the bridge as managed")
	}
	if !bytes.Equal(br.MAC, st.MAC) {
		if err := n.setLink(br.Index, nil, nl.NewRtAttr(unix.IFLA_ADDRESS, st.MAC)); err != nil {
			return fmt.Errorf("set the MAC to %s: %w", st.MAC, err)
		}
		st.Changed = append(st.Changed, "set the bridge's MAC to "+st.MAC.String())
	}
	if br.MTU != st.MTU {
		if err := n.setLink(br.Index, nil, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(st.MTU)))); err != nil {
			return fmt.Errorf("set the MTU to %d: %w", st.MTU, err)
		}
		st.Changed = append(st.Changed, fmt.Sprintf("set the bridge's MTU to %d", st.MTU))
	}
	if !spec.Flat {
		self, err := n.readVLANs(br.Index)
		if err != nil {
			return err
		}
		if !self.Members.Minus(spec.Management).Empty() {
			if err := n.changeVLANs(br.Index, nl.BRIDGE_FLAGS_SELF, self, PortVLANs{}, spec.Management); err != nil {
				return fmt.Errorf("the bridge itself: %w", err)
			}
			st.Changed = append(st.Changed, "took the bridge itself out of VLANs "+self.Members.Minus(spec.Management).String())
		}
	}
	if !br.Up {
		if err := n.quiet(br); err != nil {
			return err
		}
		if err := n.setFlagUp(br, true); err != nil {
			return err
		}
		st.Changed = append(st.Changed, "brought the bridge up")
	}
	return nil
}

// setBridgeKeeping is setBridge with the management VLANs as they were. The
// kernel takes the default PVID that ends off the bridge itself and every port
// (net/bridge/br_vlan.c, br_vlan_disable_default_pvid), and it may be the VLAN
// that the node lives in.
func (n *Net) setBridgeKeeping(spec TrunkSpec, br, up Link) error {
	old := single(br.Bridge.DefaultPVID).Intersect(spec.Management)
	if spec.Flat || old.Empty() {
		return n.setBridge(br.Index, spec)
	}
	self, err := n.readVLANs(br.Index)
	if err != nil {
		return err
	}
	var uplink PortVLANs
	if up.Index != 0 && up.Master == br.Index {
		if uplink, err = n.readVLANs(up.Index); err != nil {
			return err
		}
	}
	err = n.setBridge(br.Index, spec)
	// Also after an error: some of it may have been done. One that is there
	// still only has its flags set again.
	if back := old.Intersect(self.Members); !back.Empty() {
		err = errors.Join(err, n.sendVLANs(br.Index, unix.RTM_SETLINK, nl.BRIDGE_FLAGS_SELF, back, self))
	}
	if back := old.Intersect(uplink.Members); !back.Empty() {
		err = errors.Join(err, n.sendVLANs(up.Index, unix.RTM_SETLINK, 0, back, uplink))
	}
	return err
}

// setBridge changes the settings of a bridge that exists and reads them back.
func (n *Net) setBridge(index int, spec TrunkSpec) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	spec.wantBridge().attrs(info.AddRtAttr(unix.IFLA_INFO_DATA, nil))
	if err := n.do(unix.RTM_NEWLINK, 0, msg, info); err != nil {
		return noFiltering(fmt.Errorf("change its settings: %w", err))
	}
	br, err := n.LinkInfo(Ref{Index: index})
	if err != nil {
		return err
	}
	return spec.filters(br)
}

// noFiltering puts the kernel's "operation not supported" into words: no other
// setting of ours can meet it (net/bridge/br_netlink.c, br_changelink).
func noFiltering(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("could not switch on vlan_filtering: %w", ErrNoVLANFiltering)
	}
	return err
}

// filters makes sure that a kernel which knows no VLAN filtering has not just
// ignored the wish.
func (s TrunkSpec) filters(br Link) error {
	if br.Bridge != nil && !s.Flat && !br.Bridge.VLANFiltering {
		return fmt.Errorf("could not switch on vlan_filtering: %w", ErrNoVLANFiltering)
	}
	return nil
}

// ensureUplinkVLANs sets the uplink's VLANs as uplinkChange says.
func (n *Net) ensureUplinkVLANs(spec TrunkSpec, up Link, st *TrunkStatus) error {
	if spec.Flat {
		return nil
	}
	have, err := n.readVLANs(up.Index)
	if err != nil {
		return err
	}
	c := spec.uplinkChange(have)
	if !c.del.Empty() {
		st.Changed = append(st.Changed, fmt.Sprintf("took VLANs %s off the uplink %s", c.del, up.Name))
	}
	if !c.add.Empty() {
		st.Changed = append(st.Changed, fmt.Sprintf("set VLANs %s on the uplink %s", c.add, up.Name))
	}
	return n.changeVLANs(up.Index, 0, have, c.want, c.keep)
}
