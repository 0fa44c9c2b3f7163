package snoop

import (
	"encoding/binary"
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/learn"
)

// Numbers of protocols, as IANA has them.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherVLAN = 0x8100
	etherIPv6 = 0x86dd

	protoHopByHop    = 0
	protoUDP         = 17
	protoRouting     = 43
	protoICMPv6      = 58
	protoDestination = 60
)

var be = binary.BigEndian

// ether is a frame without its tag.
type ether struct {
	to, from learn.MAC
	kind     uint16
	body     []byte
}

func readEther(b []byte) (e ether, ok bool) {
	const head, tag = 14, 4
	if len(b) < head {
		return e, false
	}
	e = ether{learn.MAC(b[:6]), learn.MAC(b[6:12]), be.Uint16(b[12:]), b[head:]}
	if e.kind == etherVLAN {
		if len(e.body) < tag {
			return e, false
		}
		e.kind, e.body = be.Uint16(e.body[2:]), e.body[tag:]
	}
	return e, true
}

// packet is what IP carries.
type packet struct {
	from  netip.Addr
	hops  uint8
	proto uint8
	size  int    // as the heads say
	body  []byte // at most size; less if the frame is cut off
}

// inside has the packet's body begin behind its first n bytes and end after size; it fails if there is less.
func (p *packet) inside(b []byte, n, size int) bool {
	if n > size || n > len(b) {
		return false
	}
	p.body, p.size = b[n:min(size, len(b))], size-n
	return true
}

// readIPv4 reads a packet that is no fragment.
func readIPv4(b []byte) (p packet, ok bool) {
	const head, fragment = 20, 0x3fff // more fragments, offset
	if len(b) < head || b[0]>>4 != 4 || b[0]&15 < head/4 || be.Uint16(b[6:])&fragment != 0 {
		return p, false
	}
	p = packet{from: netip.AddrFrom4([4]byte(b[12:])), hops: b[8], proto: b[9]}
	ok = p.inside(b, int(b[0]&15)*4, int(be.Uint16(b[2:])))
	return p, ok
}

// readIPv6 reads a packet and goes by the extension headers that a host takes from a neighbour. A fragment stays one.
func readIPv6(b []byte) (p packet, ok bool) {
	const head, maxExtensions = 40, 8
	if len(b) < head || b[0]>>4 != 6 {
		return p, false
	}
	p = packet{from: netip.AddrFrom16([16]byte(b[8:])), hops: b[7], proto: b[6]}
	ok = p.inside(b, head, head+int(be.Uint16(b[4:])))
	for n := 0; ok; n++ {
		switch p.proto {
		case protoHopByHop, protoRouting, protoDestination:
		default:
			return p, true
		}
		if n == maxExtensions || len(p.body) < 2 {
			return p, false
		}
		p.proto = p.body[0]
		ok = p.inside(p.body, (int(p.body[1])+1)*8, p.size) // RFC 8200, 4
	}
	return p, false
}

// udp is a datagram: payload is what is there of it.
type udp struct {
	to      uint16
	payload []byte
	cut     bool // not all of it
}

func readUDP(p *packet) (u udp, ok bool) {
	const head = 8
	if len(p.body) < head {
		return u, false
	}
	size := int(be.Uint16(p.body[4:]))
	if size < head || size > p.size {
		return u, false
	}
	return udp{be.Uint16(p.body[2:]), p.body[head:min(size, len(p.body))], size > len(p.body)}, true
}
