package snoop

import (
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/learn"
)

// What a DHCPv6 message is (RFC 8415, 7.3). Those of relays are other numbers.
const (
	v6Solicit = 1
	v6Request = 3
	v6Confirm = 4
	v6Renew   = 5
	v6Rebind  = 6
	v6Reply   = 7
	v6Release = 8
	v6Decline = 9
)

// Options of DHCPv6 (RFC 8415, 21).
const (
	optNA          = 3
	optTA          = 4
	optAddress     = 5
	optStatus      = 13
	optRapidCommit = 14
)

// dhcpv6 remembers what the VM asks, and says what it gives up and what it is answered.
func (r *Reader) dhcpv6(f *Frame, e *ether, p *packet) []Said {
	const client, server, head = 546, 547, 4
	u, ok := readUDP(p)
	if !ok || len(u.payload) < head || f.Out && u.to != server || !f.Out && u.to != client {
		return nil
	}
	m, options := u.payload[0], u.payload[head:]
	k := askKey{v6: true, vlan: f.VLAN, xid: be.Uint32(u.payload) & 0xffffff}
	if f.Out {
		switch m {
		case v6Solicit:
			if findOption(options, optRapidCommit) {
				r.remember(f, k, netip.Addr{})
			}
		case v6Request, v6Confirm, v6Renew, v6Rebind:
			r.remember(f, k, netip.Addr{})
		case v6Release, v6Decline:
			if u.cut {
				return nil
			}
			return readIAs(f, options, e.from, func(*leased) Kind { return Withdraws })
		}
		return nil
	}
	if m != v6Reply || u.cut {
		return nil
	}
	if _, ok := r.asked(f, k); !ok {
		return nil
	}
	mac := f.Port.MAC
	if single(e.to) {
		mac = e.to
	}
	return readIAs(f, options, mac, func(l *leased) Kind {
		switch {
		case l.failed || l.preferred > l.valid: // the client takes none of these (RFC 8415, 18.2.10.1, 21.6)
			return 0
		case l.valid == 0:
			return Withdraws
		}
		return Claims
	})
}

// leased is an address in a message.
type leased struct {
	addr             netip.Addr
	preferred, valid uint32 // seconds
	failed           bool   // a status says so, of it or of what it is in
}

// readIAs gives what is to be said of each address of a message's IA_NA and IA_TA; a kind of 0 is nothing.
func readIAs(f *Frame, options []byte, mac learn.MAC, kind func(*leased) Kind) (said []Said) {
	failed, ok := status(options)
	if !ok {
		return nil
	}
	for kindIA, ia := range optionsOf(options) {
		skip := 4 // the IAID
		switch kindIA {
		case optNA:
			skip += 8 // and two times (RFC 8415, 21.4)
		case optTA:
		default:
			continue
		}
		if len(ia) < skip {
			return nil
		}
		iaFailed, ok := status(ia[skip:])
		if !ok {
			return nil
		}
		for kindAddr, a := range optionsOf(ia[skip:]) {
			const head = 24 // the address and its two times (RFC 8415, 21.6)
			if kindAddr != optAddress {
				continue
			}
			if len(a) < head {
				return nil
			}
			addrFailed, ok := status(a[head:])
			if !ok {
				return nil
			}
			l := leased{netip.AddrFrom16([16]byte(a)), be.Uint32(a[16:]), be.Uint32(a[20:]), failed || iaFailed || addrFailed}
			s := Said{Kind: kind(&l), Addr: l.addr, MAC: mac, Provenance: learn.DHCP}
			if s.Kind == Claims {
				s.Until = f.until(l.valid)
			}
			said = append(said, f.only(s, s.Kind != 0)...)
		}
	}
	return said
}

// status says whether one of the options is a status that is no success, and whether they are all well formed.
func status(b []byte) (failed, ok bool) {
	for len(b) > 0 {
		if len(b) < 4 || len(b)-4 < int(be.Uint16(b[2:])) {
			return failed, false
		}
		value := b[4 : 4+int(be.Uint16(b[2:]))]
		if be.Uint16(b) == optStatus {
			if len(value) < 2 {
				return failed, false
			}
			failed = failed || be.Uint16(value) != 0
		}
		b = b[4+len(value):]
	}
	return failed, true
}

// optionsOf goes through options as far as they are there.
func optionsOf(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 && len(b)-4 >= int(be.Uint16(b[2:])) {
			value := b[4 : 4+int(be.Uint16(b[2:]))]
			if !yield(be.Uint16(b), value) {
				return
			}
			b = b[4+len(value):]
		}
	}
}

func findOption(b []byte, kind uint16) bool {
	for k := range optionsOf(b) {
		if k == kind {
			return true
		}
	}
	return false
}
