package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// VLANs is what a port is to carry. Access is a PVID alone, Trunk is Tagged
// alone, Native is both.
type VLANs struct {
	// PVID is the VLAN of untagged frames, in and out; 0 refuses them.
	PVID vlan.ID
	// Tagged are the VLANs that keep their tag, in and out.
	Tagged vlan.Set
	// Flat says that the bridge does not separate VLANs and none are to be
	// set. It is for benchmarks on kernels without VLAN filtering only.
	Flat bool
}

// PortVLANs is what a port carries, as the kernel says.
type PortVLANs struct {
	// PVID is given to untagged frames that come in; 0 drops them.
	PVID vlan.ID
	// Members may pass, PVID's VLAN among them.
	Members vlan.Set
	// Untagged lose their tag on the way out; a subset of Members.
	Untagged vlan.Set
	// Blocked are those of Members in which the port does not forward, as under MST; which kernels before 5.6 do not have.
	Blocked vlan.Set
}

// String prints "100 PVID untagged, 200-210" in the idiom of bridge(8).
func (p PortVLANs) String() string {
	var parts []string
	for _, r := range p.Untagged.Union(single(p.PVID).Intersect(p.Members)).Ranges() {
		for id := r.First; id <= r.Last; id++ {
			s := vlan.Range{First: id, Last: id}.String()
			if id == p.PVID {
				s += " PVID"
			}
			if p.Untagged.Contains(id) {
				s += " untagged"
			}
			parts = append(parts, s)
		}
	}
	if t := p.Members.Minus(p.Untagged).Minus(single(p.PVID)); !t.Empty() {
		parts = append(parts, t.String())
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// kernel is the same thing as the kernel would tell it.
func (v VLANs) kernel() PortVLANs {
	return PortVLANs{PVID: v.PVID, Members: v.Tagged.Union(single(v.PVID)), Untagged: single(v.PVID)}
}

func (v VLANs) check() error {
	if v.PVID != 0 {
		if err := v.PVID.Validate(); err != nil {
			return fmt.Errorf("PVID: %w", err)
		}
		if v.Tagged.Contains(v.PVID) {
			return fmt.Errorf("VLAN %d cannot be both the VLAN of untagged frames and tagged on one port: take it out of one", v.PVID)
		}
	}
	return nil
}

// single is the set of one VLAN, or of none for 0.
func single(id vlan.ID) vlan.Set {
	var s vlan.Set
	_ = s.Add(id) // 0 is "none"
	return s
}

// SetVLANs makes a port carry exactly those VLANs: the bridge's default PVID
// and everything else goes first, in one message, and the missing ones are
// added in a second. Nothing is sent when all is well.
func (n *Net) SetVLANs(ref Ref, want VLANs) error {
	if want.Flat {
		return nil
	}
	if err := want.check(); err != nil {
		return fmt.Errorf("VLANs of %s: %w", ref, err)
	}
	l, err := n.portLink(ref)
	if err != nil {
		return err
	}
	have, err := n.readVLANs(l.Index)
	if err != nil {
		return fmt.Errorf("VLANs of %s: %w", l.Ref(), err)
	}
	if err := n.changeVLANs(l.Index, 0, have, want.kernel(), vlan.Set{}); err != nil {
		return fmt.Errorf("VLANs of %s: %w", l.Ref(), err)
	}
	return nil
}

// changeVLANs turns have into want on a port, or with flags BRIDGE_FLAGS_SELF
// on a bridge itself. It never touches what is in keep.
func (n *Net) changeVLANs(index int, flags uint16, have, want PortVLANs, keep vlan.Set) error {
	if del := have.Members.Minus(want.Members).Minus(keep); !del.Empty() {
		if err := n.sendVLANs(index, unix.RTM_DELLINK, flags, del, PortVLANs{}); err != nil {
			return fmt.Errorf("remove VLANs %s: %w", del, err)
		}
	}
	if add := have.differs(want).Minus(keep); !add.Empty() {
		if err := n.sendVLANs(index, unix.RTM_SETLINK, flags, add, want); err != nil {
			return fmt.Errorf("add VLANs %s: %w", add, err)
		}
	}
	return nil
}

// differs is the VLANs of want that are missing or have other flags. To add one
// again is to set its flags (net/bridge/br_vlan.c, br_vlan_add).
func (p PortVLANs) differs(want PortVLANs) vlan.Set {
	d := want.Members.Minus(p.Members)
	d = d.Union(want.Members.Intersect(p.Untagged.Minus(want.Untagged)))
	d = d.Union(want.Untagged.Minus(p.Untagged))
	if want.PVID != p.PVID {
		d = d.Union(single(want.PVID)).Union(single(p.PVID).Intersect(want.Members))
	}
	return d
}

// sendVLANs is one message for all of a set, as ranges of equal flags.
func (n *Net) sendVLANs(index, msgType int, flags uint16, set vlan.Set, as PortVLANs) error {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, nil)
	if flags != 0 {
		spec.AddRtAttr(nl.IFLA_BRIDGE_FLAGS, nl.Uint16Attr(flags))
	}
	pvid := single(as.PVID)
	addRanges(spec, set.Minus(as.Untagged).Minus(pvid), 0)
	addRanges(spec, set.Intersect(as.Untagged).Minus(pvid), nl.BRIDGE_VLAN_INFO_UNTAGGED)
	pvidFlags := uint16(nl.BRIDGE_VLAN_INFO_PVID)
	if as.Untagged.Contains(as.PVID) {
		pvidFlags |= nl.BRIDGE_VLAN_INFO_UNTAGGED
	}
	addRanges(spec, set.Intersect(pvid), pvidFlags)
	err := n.setPort(index, msgType, spec)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w (%w)", ErrNoVLANFiltering, err)
	}
	return err
}

// addRanges appends struct bridge_vlan_info attributes, two for a run.
func addRanges(spec *nl.RtAttr, set vlan.Set, flags uint16) {
	for _, r := range set.Ranges() {
		if r.First == r.Last {
			spec.AddRtAttr(nl.IFLA_BRIDGE_VLAN_INFO, vlanInfo(r.First, flags))
			continue
		}
		spec.AddRtAttr(nl.IFLA_BRIDGE_VLAN_INFO, vlanInfo(r.First, flags|nl.BRIDGE_VLAN_INFO_RANGE_BEGIN))
		spec.AddRtAttr(nl.IFLA_BRIDGE_VLAN_INFO, vlanInfo(r.Last, flags|nl.BRIDGE_VLAN_INFO_RANGE_END))
	}
}

func vlanInfo(id vlan.ID, flags uint16) []byte {
	return (&nl.BridgeVlanInfo{Flags: flags, Vid: uint16(id)}).Serialize()
}

// ReadVLANs gives the VLANs that a port carries: none on a kernel without VLAN
// filtering.
func (n *Net) ReadVLANs(ref Ref) (PortVLANs, error) {
	l, err := n.portLink(ref)
	if err != nil {
		return PortVLANs{}, err
	}
	v, err := n.readVLANs(l.Index)
	if err != nil {
		return PortVLANs{}, fmt.Errorf("VLANs of %s: %w", l.Ref(), err)
	}
	return v, nil
}

// VerifyVLANs reads back what SetVLANs has set; the error says what is there
// and what should be.
func (n *Net) VerifyVLANs(ref Ref, want VLANs) error {
	if want.Flat {
		return nil
	}
	have, err := n.ReadVLANs(ref)
	if err != nil {
		return err
	}
	if have != want.kernel() {
		return fmt.Errorf("VLANs of %s are %s, want %s: something else changes them; see `bridge vlan show dev %s`",
			ref, have, want.kernel(), ref.Name)
	}
	return nil
}

// readVLANs reads one port, or one bridge itself.
func (n *Net) readVLANs(index int) (PortVLANs, error) {
	all, err := n.dumpVLANs(index)
	return all[index], err
}

// dumpVLANs reads the VLANs of one port or bridge, or of all for index 0.
func (n *Net) dumpVLANs(index int) (map[int]PortVLANs, error) {
	if !n.oldVLANDump.Load() {
		all, err := n.dumpVLANDB(index)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return all, err
		}
		n.oldVLANDump.Store(true)
	}
	return n.dumpBridgeLinks()
}

// The interface of include/uapi/linux/if_bridge.h, since Linux 5.6: RTM_GETVLAN
// takes a struct br_vlan_msg (family, 3 bytes of padding, ifindex) and answers
// with one RTM_NEWVLAN for each interface.
const (
	sizeofBrVlanMsg    = 8
	bridgeVLANDBEntry  = 1 // BRIDGE_VLANDB_ENTRY
	vlandbEntryInfo    = 1 // BRIDGE_VLANDB_ENTRY_INFO, struct bridge_vlan_info
	vlandbEntryRange   = 2 // BRIDGE_VLANDB_ENTRY_RANGE, the last VLAN, u16
	vlandbEntryState   = 3 // BRIDGE_VLANDB_ENTRY_STATE, a port's state, u8
	extBRVLANCompress  = 4 // RTEXT_FILTER_BRVLAN_COMPRESSED
	bridgeVLANInfoSize = 4
)

// brVLANMsg is struct br_vlan_msg.
type brVLANMsg struct{ index int }

// Len implements nl.NetlinkRequestData.
func (m brVLANMsg) Len() int { return sizeofBrVlanMsg }

// Serialize implements nl.NetlinkRequestData.
func (m brVLANMsg) Serialize() []byte {
	b := make([]byte, sizeofBrVlanMsg)
	b[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(b[4:], uint32(m.index))
	return b
}

func (n *Net) dumpVLANDB(index int) (map[int]PortVLANs, error) {
	msgs, err := n.dump(unix.RTM_GETVLAN, unix.RTM_NEWVLAN, brVLANMsg{index})
	if err != nil {
		return nil, fmt.Errorf("read bridge VLANs: %w", err)
	}
	all := make(map[int]PortVLANs)
	for _, m := range msgs {
		if len(m) < sizeofBrVlanMsg {
			return nil, fmt.Errorf("read bridge VLANs: message of %d bytes is too short", len(m))
		}
		at := int(binary.NativeEndian.Uint32(m[4:]))
		p := all[at] // a long list comes in several messages
		entries, err := attrs(m[sizeofBrVlanMsg:])
		if err != nil {
			return nil, fmt.Errorf("read bridge VLANs: %w", err)
		}
		for _, e := range entries {
			if e.Attr.Type == bridgeVLANDBEntry {
				if err := p.addEntry(e.Value); err != nil {
					return nil, fmt.Errorf("read bridge VLANs: %w", err)
				}
			}
		}
		all[at] = p
	}
	return all, nil
}

func (p *PortVLANs) addEntry(b []byte) error {
	as, err := attrs(b)
	if err != nil {
		return err
	}
	var first, last vlan.ID
	var flags uint16
	state := PortForwarding
	for _, a := range as {
		switch {
		case a.Attr.Type == vlandbEntryInfo && len(a.Value) >= bridgeVLANInfoSize:
			flags = binary.NativeEndian.Uint16(a.Value)
			first = vlan.ID(binary.NativeEndian.Uint16(a.Value[2:]))
		case a.Attr.Type == vlandbEntryRange:
			last = vlan.ID(num(a.Value))
		case a.Attr.Type == vlandbEntryState:
			state = PortState(num(a.Value))
		}
	}
	last = max(first, last)
	if state != PortForwarding {
		if err := p.Blocked.AddRange(vlan.Range{First: first, Last: last}); err != nil {
			return err
		}
	}
	return p.add(first, last, flags)
}

func (p *PortVLANs) add(first, last vlan.ID, flags uint16) error {
	r := vlan.Range{First: first, Last: last}
	if err := p.Members.AddRange(r); err != nil {
		return err
	}
	if flags&nl.BRIDGE_VLAN_INFO_PVID != 0 {
		p.PVID = first
	}
	if flags&nl.BRIDGE_VLAN_INFO_UNTAGGED != 0 {
		return p.Untagged.AddRange(r)
	}
	return nil
}

// dumpBridgeLinks reads the VLANs of every port the way that older kernels
// have; they cannot be asked for one.
func (n *Net) dumpBridgeLinks() (map[int]PortVLANs, error) {
	msgs, err := n.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_BRIDGE),
		nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extBRVLANCompress)))
	if err != nil {
		return nil, fmt.Errorf("read bridge VLANs: %w", err)
	}
	all := make(map[int]PortVLANs)
	for _, m := range msgs {
		if len(m) < unix.SizeofIfInfomsg {
			return nil, fmt.Errorf("read bridge VLANs: message of %d bytes is too short", len(m))
		}
		at := int(nl.DeserializeIfInfomsg(m).Index)
		p := all[at]
		as, err := attrs(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, fmt.Errorf("read bridge VLANs: %w", err)
		}
		for _, a := range as {
			if a.Attr.Type == unix.IFLA_AF_SPEC {
				if err := p.addBridgeSpec(a.Value); err != nil {
					return nil, fmt.Errorf("read bridge VLANs: %w", err)
				}
			}
		}
		all[at] = p
	}
	return all, nil
}

func (p *PortVLANs) addBridgeSpec(b []byte) error {
	as, err := attrs(b)
	if err != nil {
		return err
	}
	var begin vlan.ID
	for _, a := range as {
		if a.Attr.Type != nl.IFLA_BRIDGE_VLAN_INFO || len(a.Value) < bridgeVLANInfoSize {
			continue
		}
		flags := binary.NativeEndian.Uint16(a.Value)
		id := vlan.ID(binary.NativeEndian.Uint16(a.Value[2:]))
		switch {
		case flags&nl.BRIDGE_VLAN_INFO_RANGE_BEGIN != 0:
			begin = id
			continue
		case flags&nl.BRIDGE_VLAN_INFO_RANGE_END == 0:
			begin = id
		}
		if err := p.add(begin, id, flags); err != nil {
			return err
		}
	}
	return nil
}
