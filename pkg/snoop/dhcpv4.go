package snoop

import (
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/learn"
)

// What a DHCPv4 message is (RFC 2132, 9.6).
const (
	dhcpDiscover = 1
	dhcpRequest  = 3
	dhcpDecline  = 4
	dhcpACK      = 5
	dhcpNAK      = 6
	dhcpRelease  = 7
)

// dhcpv4Message is what counts of a message, as far as it is there.
type dhcpv4Message struct {
	reply, relayed bool
	xid            uint32
	client, yours  netip.Addr // ciaddr, yiaddr
	mac            learn.MAC
	kind           byte
	requested      netip.Addr // not valid: none
	lease          uint32     // seconds; 0: none
}

// dhcpv4 remembers what the VM asks, and says what it gives up and what it is answered.
func (r *Reader) dhcpv4(f *Frame, e *ether, p *packet) []Said {
	const server, client = 67, 68
	u, ok := readUDP(p)
	if !ok || f.Out && u.to != server || !f.Out && u.to != client {
		return nil
	}
	m, ok := readDHCPv4(u.payload)
	if !ok || m.reply == f.Out {
		return nil
	}
	k := askKey{vlan: f.VLAN, xid: m.xid, mac: m.mac}
	s := Said{MAC: m.mac, Provenance: learn.DHCP}
	if f.Out {
		if m.relayed || m.mac != e.from {
			return nil
		}
		switch m.kind {
		case dhcpDiscover:
			r.remember(f, k, netip.Addr{})
		case dhcpRequest:
			wants := m.requested
			if !wants.IsValid() {
				wants = m.client
			}
			r.remember(f, k, wants)
		case dhcpDecline:
			s.Kind, s.Addr = Withdraws, m.requested
		case dhcpRelease:
			s.Kind, s.Addr = Withdraws, m.client
		}
		return f.only(s, s.Kind != 0)
	}
	switch m.kind {
	case dhcpACK:
		if m.lease == 0 || !fit(m.yours) {
			return nil
		}
		s.Kind, s.Addr, s.Until = Claims, m.yours, f.until(m.lease)
		_, ok = r.asked(f, k)
	case dhcpNAK:
		s.Kind = Withdraws
		s.Addr, ok = r.asked(f, k)
	default:
		return nil
	}
	return f.only(s, ok)
}

// readDHCPv4 reads a message (RFC 2131, 2) and those of its options that are there.
func readDHCPv4(b []byte) (m dhcpv4Message, ok bool) {
	const (
		request, reply = 1, 2
		sname, file    = 44, 108 // where the fields are that may have options, too
		magic, options = 236, 240
		cookie         = 0x63825363
	)
	if len(b) < options || be.Uint32(b[magic:]) != cookie || b[0] != request && b[0] != reply || b[1] != 1 || b[2] != 6 { // Ethernet
		return m, false
	}
	m = dhcpv4Message{
		reply: b[0] == reply, relayed: be.Uint32(b[24:]) != 0, xid: be.Uint32(b[4:]), mac: learn.MAC(b[28:34]),
		client: netip.AddrFrom4([4]byte(b[12:])), yours: netip.AddrFrom4([4]byte(b[16:])),
	}
	const inFile, inSname = 1, 2 // RFC 2132, 9.3; read in this order (RFC 2131, 4.1)
	over := m.options(b[options:])
	if over&inFile != 0 {
		m.options(b[file:magic])
	}
	if over&inSname != 0 {
		m.options(b[sname:file])
	}
	return m, true
}

// options reads options up to their end; the first of a kind counts. It gives which other fields have more.
func (m *dhcpv4Message) options(b []byte) (over byte) {
	const pad, end = 0, 255
	const requestedIP, leaseTime, overload, messageType = 50, 51, 52, 53
	for len(b) > 0 && b[0] != end {
		if b[0] == pad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			break
		}
		kind, value := b[0], b[2:2+int(b[1])]
		b = b[2+len(value):]
		switch {
		case kind == messageType && len(value) == 1 && m.kind == 0:
			m.kind = value[0]
		case kind == overload && len(value) == 1 && over == 0:
			over = value[0]
		case kind == leaseTime && len(value) == 4 && m.lease == 0:
			m.lease = be.Uint32(value)
		case kind == requestedIP && len(value) == 4 && !m.requested.IsValid():
			m.requested = netip.AddrFrom4([4]byte(value))
		}
	}
	return over
}
