// Package announce tells a network where a station is now, so that its switches
// send the station's frames there although it says nothing itself.
//
// QEMU announces a migrated VM by RARP (net/announce.c), untagged only. A port
// that carries tagged VLANs has no VLAN for such a frame, so here a RARP goes out
// in every VLAN of the port. What is known of addresses is told in the VLAN of
// untagged frames alone, by ARP announcement (RFC 5227, 2.3) and unsolicited
// neighbour advertisement (RFC 4861, 7.2.6): in which tagged VLAN an address lives
// is not known, and a claim in the wrong one would take it from its owner.
//
// The frames are for the wire: they go out of the uplink itself, past the local
// bridge, which is told in its own way (bridge.LearnAt).
package announce

import (
	"encoding/binary"
	"iter"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Station is who is announced.
type Station struct {
	MAC net.HardwareAddr
	// VLANs are all that the station is in.
	VLANs vlan.Set
	// PVID is the one of its untagged frames, where Addresses live; 0 is none, and
	// then no address is told.
	PVID      vlan.ID
	Addresses []netip.Addr
}

// Uplink is what the way to the wire carries.
type Uplink struct {
	// VLANs pass it; in others nothing is announced.
	VLANs vlan.Set
	// Untagged pass it without a tag, as the native VLAN does.
	Untagged vlan.Set
}

// Frames are those of one round: a RARP in each VLAN, then the addresses. A frame
// is valid until the next one.
func (s Station) Frames(up Uplink) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if len(s.MAC) != macLen {
			return
		}
		bare := s.rarp()
		tagged := insertTag(bare, 0)
		for id := range s.VLANs.Intersect(up.VLANs).All() {
			f := bare
			if !up.Untagged.Contains(id) {
				f = tagged
				binary.BigEndian.PutUint16(f[tagAt+2:], uint16(id))
			}
			if !yield(f) {
				return
			}
		}
		if !s.VLANs.Contains(s.PVID) || !up.VLANs.Contains(s.PVID) {
			return
		}
		for _, a := range s.Addresses {
			f := s.claim(a)
			if f == nil {
				continue
			}
			if !up.Untagged.Contains(s.PVID) {
				f = insertTag(f, s.PVID)
			}
			if !yield(f) {
				return
			}
		}
	}
}

const (
	macLen = 6
	tagAt  = 2 * macLen // where the type stands in a frame without a tag
	tagLen = 4
	// minFrame is the least that Ethernet carries, without the tag and the check
	// sequence: a switch may take the tag off and must not be left with less.
	minFrame = 60
)

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = netip.MustParseAddr("ff02::1")
	// allNodesMAC is RFC 2464, 7.
	allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
)

// header begins a frame.
func (s Station) header(to net.HardwareAddr, etherType uint16) []byte {
	b := make([]byte, 0, minFrame+tagLen)
	b = append(append(b, to...), s.MAC...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

func pad(b []byte) []byte {
	if missing := minFrame - len(b); missing > 0 {
		b = append(b, make([]byte, missing)...)
	}
	return b
}

// insertTag copies a frame and gives it an 802.1Q tag.
func insertTag(frame []byte, id vlan.ID) []byte {
	b := make([]byte, 0, len(frame)+tagLen)
	b = append(b, frame[:tagAt]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_8021Q)
	b = binary.BigEndian.AppendUint16(b, uint16(id))
	return append(b, frame[tagAt:]...)
}

const (
	etherRARP   = 0x8035
	arpRequest  = 1
	rarpRequest = 3 // RFC 903, "request reverse"
)

// arp is the body that ARP and RARP share (RFC 826), for Ethernet and IPv4.
func arp(b []byte, op uint16, sender net.HardwareAddr, senderIP [4]byte, target net.HardwareAddr, targetIP [4]byte) []byte {
	b = binary.BigEndian.AppendUint16(b, unix.ARPHRD_ETHER)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, macLen, byte(len(senderIP)))
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, sender...), senderIP[:]...)
	return append(append(b, target...), targetIP[:]...)
}

// rarp asks, of everybody, for the address of the station itself. Nobody answers;
// all switches on the way learn where it came from.
func (s Station) rarp() []byte {
	return pad(arp(s.header(broadcast, etherRARP), rarpRequest, s.MAC, [4]byte{}, s.MAC, [4]byte{}))
}

// claim says that the address is the station's; nil where nobody can have it.
func (s Station) claim(a netip.Addr) []byte {
	a = a.Unmap()
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.IsLoopback():
		return nil
	case a.Is4():
		nobody := make(net.HardwareAddr, macLen)
		return pad(arp(s.header(broadcast, unix.ETH_P_ARP), arpRequest, s.MAC, a.As4(), nobody, a.As4()))
	}
	return s.advertisement(a)
}

const (
	icmpv6              = 58
	hopLimit            = 255  // RFC 4861, 7.1.2: of another the receiver takes nothing
	neighborAdvert      = 136  // RFC 4861, 4.4
	overrideFlag        = 0x20 // replaces what neighbours have cached; in the first byte of the flags
	targetLinkLayerAddr = 2    // RFC 4861, 4.6.1, in units of 8 bytes: 1
)

// advertisement is an unsolicited neighbour advertisement to all nodes.
func (s Station) advertisement(a netip.Addr) []byte {
	src, dst := a.WithZone("").As16(), allNodes.As16()
	body := []byte{neighborAdvert, 0, 0, 0, overrideFlag, 0, 0, 0}
	body = append(body, src[:]...)
	body = append(append(body, targetLinkLayerAddr, 1), s.MAC...)
	binary.BigEndian.PutUint16(body[2:], checksum6(src, dst, icmpv6, body))

	b := s.header(allNodesMAC, unix.ETH_P_IPV6)
	b = append(b, 6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, icmpv6, hopLimit)
	b = append(append(b, src[:]...), dst[:]...)
	return append(b, body...)
}

// checksum6 is the Internet checksum over the pseudo-header of IPv6 (RFC 8200,
// 8.1) and a body of even length.
func checksum6(src, dst [16]byte, next byte, body []byte) uint16 {
	sum := uint32(len(body)) + uint32(next)
	for _, part := range [][]byte{src[:], dst[:], body} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
