package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Ref names an interface by index, by name, or by both; if both are set, both
// must be true of one interface, for the kernel re-uses indexes.
type Ref struct {
	Index int    `json:"index,omitempty"`
	Name  string `json:"name,omitempty"`
}

// String prints what is known: "veth0a1b (ifindex 12)".
func (r Ref) String() string {
	switch {
	case r.Index == 0:
		return r.Name
	case r.Name == "":
		return fmt.Sprintf("ifindex %d", r.Index)
	}
	return fmt.Sprintf("%s (ifindex %d)", r.Name, r.Index)
}

// Link is an interface as the kernel describes it.
type Link struct {
	Index int
	Name  string
	// Kind is the kernel's name of the driver: "veth", "bridge", "vlan"...,
	// empty for hardware.
	Kind string
	MAC  net.HardwareAddr
	MTU  int // bytes
	// Up is the administrative state; Running says that there is a carrier too
	// (of a veth: that the other end is up).
	Up, Running bool
	// OperUp says that the kernel has acted on that carrier (IF_OPER_UP; a
	// worker does that, net/core/link_watch.c): what an interface sends before
	// it is lost. It stays false for the likes of lo, which report no state.
	OperUp bool
	// Master is the ifindex of the bridge or bond that it is enslaved to; 0 is none.
	Master int
	// MasterKind is the driver of that master, as "bridge".
	MasterKind string
	// Lower is IFLA_LINK: of a veth the ifindex of its other end, of a VLAN
	// interface that of its parent; 0 is none.
	Lower int
	// VLAN is, of a VLAN interface (802.1Q), which frames of Lower it takes before anything else there does.
	VLAN vlan.ID
	// LowerNetnsID says that Lower counts in another network namespace, known
	// here by this number; -1 is "in this one".
	LowerNetnsID int
	// Alias is free text that somebody gave the link (`ip link set ... alias`).
	Alias string
	// ActiveMember is, of a bond, the ifindex of the member that carries all its
	// traffic; 0 is none, or a bond that shares traffic among its members.
	ActiveMember int
	// Bridge is set for bridges, Port for the ports of bridges.
	Bridge *BridgeAttrs
	Port   *PortAttrs
}

// Ref names the link.
func (l Link) Ref() Ref { return Ref{Index: l.Index, Name: l.Name} }

// BridgeAttrs are the settings of a bridge that matter here.
type BridgeAttrs struct {
	// VLANFiltering is false also on kernels that do not know it.
	VLANFiltering bool
	// DefaultPVID is what a new port gets by itself; 0 is none.
	DefaultPVID   vlan.ID
	STP           bool
	McastSnooping bool
	// VLANProtocol is the EtherType of its VLAN tags: 0x8100, unless it is one of a provider.
	VLANProtocol uint16
	// Ageing is for how long a MAC is known that is not heard.
	Ageing time.Duration
	// MaxLearned is how many MACs it learns at most; 0 is no limit.
	MaxLearned uint32
}

// PortAttrs are the state and flags of a bridge port (IFLA_BRPORT_*).
type PortAttrs struct {
	State PortState
	Flags PortFlags
}

// PortState is BR_STATE_* of include/uapi/linux/if_bridge.h.
type PortState uint8

// The states. Without STP a port is Forwarding once it has a carrier.
const (
	PortDisabled   PortState = 0
	PortListening  PortState = 1
	PortLearning   PortState = 2
	PortForwarding PortState = 3
	PortBlocking   PortState = 4
)

// String gives the name that bridge(8) prints.
func (s PortState) String() string {
	names := [...]string{"disabled", "listening", "learning", "forwarding", "blocking"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// LinkInfo reads one interface. The error is ErrNotFound when it is gone.
func (n *Net) LinkInfo(ref Ref) (Link, error) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats))}
	switch {
	case ref.Index > 0:
		msg.Index = int32(ref.Index)
	case ref.Index < 0:
		return Link{}, fmt.Errorf("%s: %w", ref, ErrNotFound)
	default:
		if err := checkName(ref.Name); err != nil {
			return Link{}, err
		}
		parts = append(parts, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ref.Name)))
	}
	msgs, err := n.ask(unix.RTM_GETLINK, 0, unix.RTM_NEWLINK, parts...)
	if errors.Is(err, unix.ENODEV) || err == nil && len(msgs) == 0 {
		return Link{}, fmt.Errorf("%s: %w", ref, ErrNotFound)
	}
	if err != nil {
		return Link{}, fmt.Errorf("read %s: %w", ref, err)
	}
	l, err := parseLink(msgs[0])
	if err != nil {
		return Link{}, fmt.Errorf("read %s: %w", ref, err)
	}
	if ref.Name != "" && l.Name != ref.Name {
		return Link{}, fmt.Errorf("%s: %w: that index now belongs to %s", ref, ErrNotFound, l.Name)
	}
	return l, nil
}

// links lists the interfaces of the namespace, or only those enslaved to
// master if it is not 0.
func (n *Net) links(master int) ([]Link, error) {
	parts := []nl.NetlinkRequestData{
		nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)),
	}
	if master != 0 {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
	}
	msgs, err := n.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, parts...)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var ls []Link
	for _, m := range msgs {
		l, err := parseLink(m)
		if err != nil {
			return nil, fmt.Errorf("list interfaces: %w", err)
		}
		if master == 0 || l.Master == master {
			ls = append(ls, l)
		}
	}
	return ls, nil
}

const operUp = 6 // IF_OPER_UP, include/uapi/linux/if.h

// extSkipStats is RTEXT_FILTER_SKIP_STATS: counters are half of an answer.
const extSkipStats = 1 << 3

// attrs splits netlink attributes, with the flag bits of their types removed.
func attrs(b []byte) ([]syscall.NetlinkRouteAttr, error) {
	as, err := nl.ParseRouteAttr(b)
	for i := range as {
		as[i].Attr.Type &^= unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	}
	return as, err
}

func parseLink(m []byte) (Link, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return Link{}, fmt.Errorf("link message of %d bytes is too short", len(m))
	}
	info := nl.DeserializeIfInfomsg(m)
	l := Link{
		Index:        int(info.Index),
		Up:           info.Flags&unix.IFF_UP != 0,
		Running:      info.Flags&unix.IFF_LOWER_UP != 0,
		LowerNetnsID: -1,
	}
	as, err := attrs(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return Link{}, err
	}
	for _, a := range as {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.Name = nl.BytesToString(a.Value)
		case unix.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(append([]byte(nil), a.Value...))
		case unix.IFLA_MTU:
			l.MTU = int(num(a.Value))
		case unix.IFLA_OPERSTATE:
			l.OperUp = num(a.Value) == operUp
		case unix.IFLA_MASTER:
			l.Master = int(num(a.Value))
		case unix.IFLA_LINK:
			l.Lower = int(num(a.Value))
		case unix.IFLA_LINK_NETNSID:
			l.LowerNetnsID = int(int32(num(a.Value)))
		case unix.IFLA_IFALIAS:
			l.Alias = nl.BytesToString(a.Value)
		case unix.IFLA_LINKINFO:
			if err := parseLinkInfo(&l, a.Value); err != nil {
				return Link{}, err
			}
		}
	}
	return l, nil
}

func parseLinkInfo(l *Link, b []byte) error {
	as, err := attrs(b)
	if err != nil {
		return err
	}
	var data, portData []byte
	for _, a := range as {
		switch a.Attr.Type {
		case unix.IFLA_INFO_KIND:
			l.Kind = nl.BytesToString(a.Value)
		case unix.IFLA_INFO_DATA:
			data = a.Value
		case unix.IFLA_INFO_SLAVE_KIND:
			l.MasterKind = nl.BytesToString(a.Value)
		case unix.IFLA_INFO_SLAVE_DATA:
			portData = a.Value
		}
	}
	switch l.Kind {
	case "bridge":
		l.Bridge, err = parseBridge(data)
	case "bond":
		l.ActiveMember, err = parseBond(data)
	case "vlan":
		l.VLAN, err = parseVLAN(data)
	}
	if err != nil {
		return err
	}
	if l.MasterKind == "bridge" {
		l.Port, err = parsePort(portData)
	}
	return err
}

const iflaBrFDBMaxLearned = 49 // IFLA_BR_FDB_MAX_LEARNED of include/uapi/linux/if_link.h, since Linux 6.7

func parseBridge(b []byte) (*BridgeAttrs, error) {
	as, err := attrs(b)
	if err != nil {
		return nil, err
	}
	var br BridgeAttrs
	for _, a := range as {
		switch a.Attr.Type {
		case nl.IFLA_BR_VLAN_FILTERING:
			br.VLANFiltering = num(a.Value) != 0
		case nl.IFLA_BR_VLAN_DEFAULT_PVID:
			br.DefaultPVID = vlan.ID(num(a.Value))
		case nl.IFLA_BR_STP_STATE:
			br.STP = num(a.Value) != 0
		case nl.IFLA_BR_MCAST_SNOOPING:
			br.McastSnooping = num(a.Value) != 0
		case nl.IFLA_BR_VLAN_PROTOCOL: // in network order
			if len(a.Value) >= 2 {
				br.VLANProtocol = binary.BigEndian.Uint16(a.Value)
			}
		case iflaBrFDBMaxLearned:
			br.MaxLearned = uint32(num(a.Value))
		case nl.IFLA_BR_AGEING_TIME: // in hundredths of a second (USER_HZ)
			br.Ageing = time.Duration(num(a.Value)) * 10 * time.Millisecond
		}
	}
	return &br, nil
}

// parseVLAN finds what a VLAN interface takes; of a service VLAN (802.1ad) nothing that we carry.
func parseVLAN(b []byte) (id vlan.ID, err error) {
	as, err := attrs(b)
	for _, a := range as {
		switch {
		case a.Attr.Type == nl.IFLA_VLAN_ID:
			id = vlan.ID(num(a.Value))
		case a.Attr.Type == nl.IFLA_VLAN_PROTOCOL && len(a.Value) >= 2 && binary.BigEndian.Uint16(a.Value) != unix.ETH_P_8021Q:
			return 0, err
		}
	}
	return id, err
}

// parseBond finds the active member; the kernel names none in modes that have none.
func parseBond(b []byte) (active int, err error) {
	as, err := attrs(b)
	for _, a := range as {
		if a.Attr.Type == nl.IFLA_BOND_ACTIVE_SLAVE {
			active = int(num(a.Value))
		}
	}
	return active, err
}

// num reads an unsigned attribute of 1, 2 or 4 bytes in host order.
func num(b []byte) uint32 {
	switch {
	case len(b) >= 4:
		return binary.NativeEndian.Uint32(b)
	case len(b) >= 2:
		return uint32(binary.NativeEndian.Uint16(b))
	case len(b) == 1:
		return uint32(b[0])
	}
	return 0
}

// setLink sends RTM_SETLINK for one interface. up is nil to leave the
// administrative state alone.
func (n *Net) setLink(index int, up *bool, parts ...nl.NetlinkRequestData) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	if up != nil {
		msg.Change = unix.IFF_UP
		if *up {
			msg.Flags = unix.IFF_UP
		}
	}
	return n.do(unix.RTM_SETLINK, 0, append([]nl.NetlinkRequestData{msg}, parts...)...)
}

// noAddrGen is IFLA_AF_SPEC that keeps IPv6 from making itself an address on
// an interface, and thereby from sending anything when it comes up
// (net/ipv6/addrconf.c: no address, no duplicate address detection, no router
// solicitation).
func noAddrGen() *nl.RtAttr { return addrGen(addrGenModeNone) }

func addrGen(mode uint8) *nl.RtAttr {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	inet6 := spec.AddRtAttr(unix.AF_INET6, nil)
	inet6.AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(mode))
	return spec
}

// How IPv6 makes its link-local address (linux/if_link.h, enum in6_addr_gen_mode).
const (
	addrGenModeEUI64 = 0 // of the MAC; a kernel's default
	addrGenModeNone  = 1
)

// quiet makes an interface send nothing by itself. It must happen before the
// interface comes up.
func (n *Net) quiet(l Link) error {
	if err := n.setLink(l.Index, nil, noAddrGen()); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("keep IPv6 off %s: %w", l.Ref(), err)
	}
	return disableIPv6(n.ns, l.Name)
}
