package probe

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Join has the interface take what is sent to a MAC beside its own, until the socket is closed. A
// bridge does so for its ports' MACs, and lets the NIC filter all others as long as no other port
// of it learns: without VMs nothing for a Foreign MAC would get past the NIC. A group's MAC may be joined, too.
func (s *Socket) Join(ifindex int, m MAC) error {
	req := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_UNICAST, Alen: uint16(len(m))}
	copy(req.Address[:], m[:])
	if m[0]&1 != 0 {
		req.Type = unix.PACKET_MR_MULTICAST
	}
	var err error
	if e := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &req)
	}); e != nil || err != nil {
		return fmt.Errorf("take frames for %v: %w", m, errors.Join(e, err))
	}
	return nil
}

// JoinSource has the interface take what asks for an address that is asked from.
func (s *Socket) JoinSource(ifindex int, a netip.Addr) error {
	if a.Is4() {
		return nil // by broadcast
	}
	g := solicitedNode(a).As16()
	return s.Join(ifindex, MAC{0x33, 0x33, g[12], g[13], g[14], g[15]})
}
