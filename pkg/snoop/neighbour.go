package snoop

import (
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/learn"
)

// readARP reads who has the sender address.
func readARP(f *Frame, e *ether) (s Said, ok bool) {
	const size, request, reply = 28, 1, 2
	b := e.body
	if len(b) < size || be.Uint16(b) != 1 || be.Uint16(b[2:]) != etherIPv4 || b[4] != 6 || b[5] != 4 { // Ethernet and IPv4
		return s, false
	}
	if op := be.Uint16(b[6:]); op != request && op != reply {
		return s, false
	}
	s = Said{Kind: Claims, Addr: netip.AddrFrom4([4]byte(b[14:])), MAC: learn.MAC(b[8:14]), Provenance: learn.ARP}
	if f.Out {
		return s, s.MAC == e.from
	}
	s.Kind = Foreign
	return s, true
}

// readND reads who has the address that a solicitation comes from, or an advertisement is about, or, of a solicitation that comes from
// none, who would have the one that it is about (RFC 4862, 5.4).
func readND(f *Frame, e *ether, p *packet) (s Said, ok bool) {
	const (
		routerSolicitation, neighbourSolicitation, neighbourAdvertisement = 133, 135, 136
		head, targeted                                                    = 8, 24 // bytes before the options
		sourceLink, targetLink                                            = 1, 2
	)
	b := p.body
	if len(b) < head || b[1] != 0 || p.hops != 255 {
		return s, false
	}
	s = Said{Kind: Claims, Addr: p.from, MAC: e.from, Provenance: learn.ND}
	link, options := byte(sourceLink), head
	switch b[0] {
	case routerSolicitation:
	case neighbourSolicitation, neighbourAdvertisement:
		if len(b) < targeted {
			return s, false
		}
		target := netip.AddrFrom16([16]byte(b[8:]))
		if target.IsMulticast() {
			return s, false
		}
		switch {
		case b[0] == neighbourAdvertisement:
			s.Addr, link = target, targetLink
		case p.from.IsUnspecified():
			s.Kind, s.Addr = Asks, target
		}
		options = targeted
	default:
		return s, false
	}
	cut := len(b) < p.size
	mac, named, ok := linkOption(b[options:], link, cut)
	switch {
	case !ok:
		return s, false
	case f.Out:
		return s, !named || mac == e.from && s.Kind != Asks
	case b[0] != neighbourAdvertisement:
		return s, false
	}
	s.Kind = Foreign
	if named {
		s.MAC = mac
	}
	return s, named || !cut // it may be in what is cut off
}

// linkOption finds the first option of a kind, which has a MAC. All options must have a length that fits, as far as they are there.
func linkOption(b []byte, kind byte, cut bool) (mac learn.MAC, found, ok bool) {
	const unit = 8 // RFC 4861, 4.6
	for len(b) > 0 {
		n := 0
		if len(b) > 1 {
			if n = int(b[1]) * unit; n == 0 {
				return mac, false, false
			}
		}
		if n == 0 || n > len(b) {
			return mac, found, cut
		}
		if b[0] == kind && !found {
			if n != unit { // Ethernet's is one unit (RFC 2464, 6)
				return mac, false, false
			}
			mac, found = learn.MAC(b[2:unit]), true
		}
		b = b[n:]
	}
	return mac, found, true
}
