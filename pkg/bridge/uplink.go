package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// checkUplink refuses an interface that the node itself lives on: it would be
// cut off the moment that a bridge takes its frames. The error names everything
// that was found. One that is a port of this bridge already is as it should be,
// or checkTakeOver has looked at it.
func (n *Net) checkUplink(up, br Link) error {
	if br.Index != 0 && up.Master == br.Index {
		return nil
	}
	var found []string
	if up.Master != 0 {
		found = append(found, "the master "+n.linkName(up.Master))
	}
	if up.Kind == "bridge" {
		found = append(found, "a bridge of its own")
	}
	used, err := n.carries(up.Index)
	if err != nil {
		return err
	}
	if found = append(found, used...); len(found) == 0 {
		return nil
	}
	return fmt.Errorf("uplink %s: %w: it carries %s, and the node would lose that; name an interface that carries nothing, or move these away first",
		up.Name, ErrRefused, strings.Join(found, ", "))
}

// carries lists, in words, what the node itself has on an interface: addresses,
// routes and the interfaces that stand on it.
func (n *Net) carries(index int) ([]string, error) {
	var found []string
	as, err := n.addresses(index)
	if err != nil {
		return nil, err
	}
	for _, a := range as {
		if !a.linkLocal() {
			found = append(found, "the address "+a.String())
		}
	}
	routes, err := n.routes(index)
	if err != nil {
		return nil, err
	}
	above, err := n.above(index)
	if err != nil {
		return nil, err
	}
	return append(append(found, routes...), above...), nil
}

// address is one address of an interface.
type address struct {
	netip.Prefix
	index int
}

// linkLocal says that the address is one that IPv6 gives every interface.
func (a address) linkLocal() bool { return a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() }

// addresses lists those of one interface, or of all for index 0.
func (n *Net) addresses(index int) ([]address, error) {
	ask := &nl.IfAddrmsg{IfAddrmsg: unix.IfAddrmsg{Family: unix.AF_UNSPEC, Index: uint32(index)}}
	msgs, err := n.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, ask)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found []address
	for _, m := range msgs {
		if len(m) < unix.SizeofIfAddrmsg {
			continue
		}
		bits, at := int(m[1]), int(binary.NativeEndian.Uint32(m[4:]))
		as, err := attrs(m[unix.SizeofIfAddrmsg:])
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		if index != 0 && at != index {
			continue
		}
		// IFA_LOCAL is the interface's own address; IPv6 has only IFA_ADDRESS
		// unless the link is point to point.
		var own, local netip.Addr
		for _, a := range as {
			switch a.Attr.Type {
			case unix.IFA_ADDRESS:
				own, _ = netip.AddrFromSlice(a.Value)
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(a.Value)
			}
		}
		if local.IsValid() {
			own = local
		}
		found = append(found, address{netip.PrefixFrom(own, bits), at})
	}
	return found, nil
}

// routes lists, in words, the routes of an interface that somebody made: not
// the local table, and not the ones that every IPv6 interface has.
func (n *Net) routes(index int) ([]string, error) {
	var found []string
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		ask := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}}
		msgs, err := n.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, ask,
			nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENOENT) {
			continue // this family, or its tables, are not there
		}
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, m := range msgs {
			text, err := parseRoute(m, index)
			if err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
			if text != "" && !slices.Contains(found, text) {
				found = append(found, text)
			}
		}
	}
	return found, nil
}

// parseRoute gives a route through an interface in words, or nothing for one
// that is not somebody's own or goes elsewhere.
func parseRoute(m []byte, index int) (string, error) {
	if len(m) < unix.SizeofRtMsg {
		return "", fmt.Errorf("message of %d bytes is too short", len(m))
	}
	rt := nl.DeserializeRtMsg(m)
	as, err := attrs(m[unix.SizeofRtMsg:])
	if err != nil {
		return "", err
	}
	table := uint32(rt.Table)
	var dst, via netip.Addr
	ours := false
	for _, a := range as {
		switch a.Attr.Type {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_GATEWAY:
			via, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_TABLE:
			table = num(a.Value)
		case unix.RTA_OIF:
			ours = ours || int(num(a.Value)) == index
		case unix.RTA_MULTIPATH:
			ours = ours || hopsThrough(a.Value, index)
		}
	}
	inherent := dst.IsValid() && dst.Is6() && (dst.IsLinkLocalUnicast() || dst.IsMulticast())
	if !ours || inherent || table == unix.RT_TABLE_LOCAL || rt.Type != unix.RTN_UNICAST {
		return "", nil
	}
	text := "the default route"
	if dst.IsValid() {
		text = "the route " + netip.PrefixFrom(dst, int(rt.Dst_len)).String()
	}
	if via.IsValid() {
		text += " via " + via.String()
	}
	return text, nil
}

// hopsThrough looks for an interface among the struct rtnexthop of a route with
// several ways.
func hopsThrough(b []byte, index int) bool {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if int(binary.NativeEndian.Uint32(b[4:])) == index {
			return true
		}
		if size < unix.SizeofRtNexthop || size > len(b) {
			return false
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return false
}

// above lists, in words, the interfaces that stand on another one: VLAN
// sub-interfaces, macvlan and their like. A veth's other end does not.
func (n *Net) above(index int) ([]string, error) {
	ls, err := n.links(0)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, l := range ls {
		switch {
		case l.Lower != index || l.LowerNetnsID != -1 || l.Kind == "veth" || l.Index == index:
		case l.Kind == "vlan":
			found = append(found, "the VLAN sub-interface "+l.Name)
		default:
			found = append(found, "the "+l.Kind+" interface "+l.Name)
		}
	}
	return found, nil
}
