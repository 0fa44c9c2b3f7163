package bridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// FDBEntry is one MAC that a bridge knows.
type FDBEntry struct {
	Port int // ifindex
	MAC  net.HardwareAddr
	VLAN vlan.ID // 0 where VLANs are not separated
	// Local entries are the addresses of the ports themselves and what was
	// entered by hand; the others were learned.
	Local bool
	// Since is how long ago the bridge last heard it, to a hundredth of a second.
	Since time.Duration
}

// FDB lists what a bridge has learned, as `bridge fdb show br NAME` does.
func (n *Net) FDB(bridge Ref) ([]FDBEntry, error) {
	br, err := n.bridgeLink(bridge)
	if err != nil {
		return nil, err
	}
	ask := make(rawMsg, unix.SizeofNdMsg)
	ask[0] = unix.AF_BRIDGE
	msgs, err := n.dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, ask,
		nl.NewRtAttr(unix.NDA_MASTER, nl.Uint32Attr(uint32(br.Index))))
	if err != nil {
		return nil, fmt.Errorf("read the forwarding table of %s: %w", br.Name, err)
	}
	var found []FDBEntry
	for _, m := range msgs {
		if len(m) < unix.SizeofNdMsg {
			continue
		}
		e := FDBEntry{Port: int(binary.NativeEndian.Uint32(m[4:]))}
		state, flags := binary.NativeEndian.Uint16(m[8:]), m[10]
		e.Local = state&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0
		as, err := attrs(m[unix.SizeofNdMsg:])
		if err != nil {
			return nil, fmt.Errorf("read the forwarding table of %s: %w", br.Name, err)
		}
		for _, a := range as {
			switch a.Attr.Type {
			case unix.NDA_LLADDR:
				e.MAC = slices.Clone(a.Value)
			case unix.NDA_VLAN:
				e.VLAN = vlan.ID(num(a.Value))
			case unix.NDA_CACHEINFO: // struct nda_cacheinfo, in hundredths of a second (USER_HZ)
				const updated = 8
				if len(a.Value) >= updated+4 {
					e.Since = time.Duration(binary.NativeEndian.Uint32(a.Value[updated:])) * 10 * time.Millisecond
				}
			}
		}
		if flags&unix.NTF_SELF == 0 { // SELF is a device's own list, not the bridge's
			found = append(found, e)
		}
	}
	return found, nil
}

// HeardElsewhere says whether a port's bridge has heard a MAC at another port, in any of
// the VLANs, within the time that is given.
func (n *Net) HeardElsewhere(port Ref, mac net.HardwareAddr, vlans vlan.Set, within time.Duration) (bool, error) {
	l, err := n.portLink(port)
	if err != nil {
		return false, err
	}
	entries, err := n.FDB(Ref{Index: l.Master})
	return slices.ContainsFunc(entries, func(e FDBEntry) bool {
		return !e.Local && e.Port != l.Index && bytes.Equal(e.MAC, mac) && vlans.Contains(e.VLAN) && e.Since < within
	}), err
}

// LearnAt makes a port's bridge know a MAC there, in each of the VLANs, as if the
// port had just heard it: wherever the bridge has seen it before. Such an entry
// moves and ages as a learned one. The port must be in those VLANs and pass
// frames. A MAC that is one of the bridge's own, or was entered by hand, is
// refused in the VLAN where it is: it would be lost to its owner.
func (n *Net) LearnAt(port Ref, mac net.HardwareAddr, vlans vlan.Set) error {
	l, err := n.portLink(port)
	if err != nil {
		return err
	}
	if len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("learn %s at %s: %w: want the MAC of one station", mac, l.Ref(), ErrRefused)
	}
	entries, err := n.FDB(Ref{Index: l.Master})
	if err != nil {
		return err
	}
	var taken vlan.Set
	for _, e := range entries {
		if e.Local && bytes.Equal(e.MAC, mac) {
			_ = taken.Add(e.VLAN) // 0 is for frames outside of any VLAN
		}
	}
	var errs []error // one VLAN that the port has lost keeps it from no other
	for id := range vlans.Minus(taken).All() {
		const put = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
		if err := n.do(unix.RTM_NEWNEIGH, put, fdbRequest(l.Index, mac, id)...); err != nil {
			errs = append(errs, fmt.Errorf("learn %s at %s in VLAN %d: %w", mac, l.Ref(), id, err))
		}
	}
	if lost := vlans.Intersect(taken); !lost.Empty() {
		errs = append(errs, fmt.Errorf("learn %s at %s: %w: in VLAN %s it is an address of the bridge's own, or entered by hand", mac, l.Ref(), ErrRefused, lost))
	}
	return errors.Join(errs...)
}

// Forget makes a port's bridge forget that it heard a MAC there, in any VLAN. What
// it knows of the MAC at other ports stays, and so do the bridge's own addresses
// and what was entered by hand. A port that is gone is not an error: its entries
// went with it.
func (n *Net) Forget(port Ref, mac net.HardwareAddr) error {
	l, err := n.LinkInfo(port)
	if errors.Is(err, ErrNotFound) || err == nil && l.Port == nil {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := n.FDB(Ref{Index: l.Master})
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Port != l.Index || e.Local || !bytes.Equal(e.MAC, mac) {
			continue
		}
		// The kernel deletes only one that still points at this port.
		err := n.do(unix.RTM_DELNEIGH, 0, fdbRequest(l.Index, mac, e.VLAN)...)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget %s at %s in VLAN %d: %w", mac, l.Ref(), e.VLAN, err)
		}
	}
	return nil
}

// fdbRequest names one entry of a port's bridge. NUD_REACHABLE is one that ages
// (net/bridge/br_fdb.c, fdb_add_entry).
func fdbRequest(port int, mac net.HardwareAddr, id vlan.ID) []nl.NetlinkRequestData {
	// struct ndmsg: family, padding, ifindex, state, flags, type.
	head := make(rawMsg, unix.SizeofNdMsg)
	head[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(head[4:], uint32(port))
	binary.NativeEndian.PutUint16(head[8:], unix.NUD_REACHABLE)
	head[10] = unix.NTF_MASTER
	parts := []nl.NetlinkRequestData{head, nl.NewRtAttr(unix.NDA_LLADDR, mac)}
	if id != 0 {
		parts = append(parts, nl.NewRtAttr(unix.NDA_VLAN, nl.Uint16Attr(uint16(id))))
	}
	return parts
}
