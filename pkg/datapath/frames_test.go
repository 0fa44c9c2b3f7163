package datapath

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// The peers of the tests: the VM, somebody that rules allow, somebody that they
// do not.
var (
	testMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
	peerMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 2}

	vm4    = netip.MustParseAddr("10.1.0.5")
	peer4  = netip.MustParseAddr("192.0.2.7")
	bad4   = netip.MustParseAddr("192.0.2.66")
	open4  = netip.MustParseAddr("192.0.2.99")
	other4 = netip.MustParseAddr("198.51.100.1")
	vm6    = netip.MustParseAddr("fd00::5")
	peer6  = netip.MustParseAddr("2001:db8:2::7")
	open6  = netip.MustParseAddr("2001:db8:2::99")
	other6 = netip.MustParseAddr("2001:db8:66::1")
)

// pkt is a frame in the making, from its outside in.
type pkt struct {
	src, dst net.HardwareAddr
	tags     []tag
	ether    layers.EthernetType // of what is not IP
	from, to netip.Addr
	ext      []extension // IPv6 only
	proto    layers.IPProtocol
	l4       []byte
	hops     uint8
	options  int // bytes of IPv4 options
	frag     uint16
	id       uint16 // of an IPv4 datagram
	more     bool
	length   int // claimed by the IP header instead of the true one
}

type tag struct {
	tpid layers.EthernetType
	vid  uint16
}

type extension struct {
	proto layers.IPProtocol
	body  []byte // without the next-header byte
}

// bytes is the frame. Everything is put together by hand where gopacket would
// refuse to write what is wrong with it.
func (p pkt) bytes() []byte {
	src, dst := p.src, p.dst
	if src == nil {
		src, dst = testMAC, peerMAC
		if p.dst != nil {
			dst = p.dst
		}
	}
	out := append(append([]byte{}, dst...), src...)
	for _, t := range p.tags {
		out = binary.BigEndian.AppendUint16(out, uint16(t.tpid))
		out = binary.BigEndian.AppendUint16(out, t.vid)
	}
	switch {
	case p.ether != 0:
		return append(binary.BigEndian.AppendUint16(out, uint16(p.ether)), p.l4...)
	case p.from.Is4():
		return append(binary.BigEndian.AppendUint16(out, uint16(layers.EthernetTypeIPv4)), p.ip4()...)
	}
	return append(binary.BigEndian.AppendUint16(out, uint16(layers.EthernetTypeIPv6)), p.ip6()...)
}

func (p pkt) ip4() []byte {
	ip := layers.IPv4{
		Version: 4, TTL: 64, Protocol: p.proto, SrcIP: p.from.AsSlice(), DstIP: p.to.AsSlice(), FragOffset: p.frag, Id: p.id,
	}
	if p.more {
		ip.Flags = layers.IPv4MoreFragments
	}
	for range p.options {
		ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 1})
	}
	b := serialize(&ip, gopacket.Payload(p.l4))
	if p.length != 0 {
		binary.BigEndian.PutUint16(b[2:], uint16(p.length))
	}
	return b
}

func (p pkt) ip6() []byte {
	var chain []byte
	next := p.proto
	for i := len(p.ext) - 1; i >= 0; i-- {
		chain = append(append([]byte{byte(next)}, p.ext[i].body...), chain...)
		next = p.ext[i].proto
	}
	hops := p.hops
	if hops == 0 {
		hops = 64
	}
	ip := layers.IPv6{Version: 6, HopLimit: hops, NextHeader: next, SrcIP: p.from.AsSlice(), DstIP: p.to.AsSlice()}
	b := serialize(&ip, gopacket.Payload(append(chain, p.l4...)))
	if p.length != 0 {
		binary.BigEndian.PutUint16(b[4:], uint16(p.length))
	}
	return b
}

// serialize fills in lengths and IPv4's checksum; transports have none, as behind
// checksum offload.
func serialize(l ...gopacket.SerializableLayer) []byte {
	_, ip4 := l[0].(*layers.IPv4)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: ip4}, l...); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// flip is the same packet the other way, addresses of both layers swapped.
func (p pkt) flip() pkt {
	p.from, p.to = p.to, p.from
	p.src, p.dst = peerMAC, testMAC
	return p
}

func tcp(from, to netip.Addr, sport, dport uint16, flags string) pkt {
	t := layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Window: 1024}
	for _, f := range flags {
		switch f {
		case 'S':
			t.SYN = true
		case 'A':
			t.ACK = true
		case 'F':
			t.FIN = true
		case 'R':
			t.RST = true
		case 'P':
			t.PSH = true
		case 'U':
			t.URG = true
		case 'E':
			t.ECE = true
		}
	}
	return sided(pkt{from: from, to: to, proto: layers.IPProtocolTCP, l4: serialize(&t)})
}

func udp(from, to netip.Addr, sport, dport uint16) pkt {
	u := layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	return sided(pkt{from: from, to: to, proto: layers.IPProtocolUDP, l4: serialize(&u, gopacket.Payload("payload"))})
}

// icmp of either family; rest follows type, code and checksum.
func icmp(from, to netip.Addr, typ, code uint8, rest ...byte) pkt {
	proto := layers.IPProtocolICMPv4
	if from.Is6() {
		proto = layers.IPProtocolICMPv6
	}
	return sided(pkt{from: from, to: to, proto: proto, l4: append([]byte{typ, code, 0, 0}, rest...)})
}

func echo(from, to netip.Addr, request bool, id uint16) pkt {
	typ := map[bool]map[bool]uint8{true: {true: 128, false: 129}, false: {true: 8, false: 0}}[from.Is6()][request]
	return icmp(from, to, typ, 0, byte(id>>8), byte(id), 0, 1)
}

// icmpError is about a packet that went the other way: it quotes the IP header
// and n bytes more.
func icmpError(from, to netip.Addr, typ uint8, about pkt, n int) pkt {
	quoted, header := about.ip4, 20+about.options
	if from.Is6() {
		quoted, header = about.ip6, 40
	}
	return icmp(from, to, typ, 0, append([]byte{0, 0, 0, 0}, quoted()[:header+n]...)...)
}

// sided gives a packet the MACs of its direction.
func sided(p pkt) pkt {
	p.src, p.dst = testMAC, peerMAC
	if p.to == vm4 || p.to == vm6 {
		p.src, p.dst = peerMAC, testMAC
	}
	return p
}

func (p pkt) tagged(tags ...tag) pkt {
	p.tags = tags
	return p
}

func (p pkt) with(change func(*pkt)) pkt {
	change(&p)
	return p
}

// pad is an extension header of 8 bytes.
func pad(proto layers.IPProtocol) extension {
	return extension{proto, []byte{0, 1, 4, 0, 0, 0, 0}}
}

// fragment6 is a fragment header.
func fragment6(offset uint16, more bool) extension {
	b := []byte{0, 0, 0, 0, 0, 0, 9}
	v := offset << 3
	if more {
		v |= 1
	}
	binary.BigEndian.PutUint16(b[1:], v)
	return extension{layers.IPProtocolIPv6Fragment, b}
}

func TestFramesParse(t *testing.T) {
	for name, p := range map[string]pkt{
		"tcp4": tcp(vm4, peer4, 1, 80, "S"), "udp6": udp(vm6, peer6, 1, 9999),
		"ext6": udp(vm6, peer6, 1, 9999).with(func(p *pkt) { p.ext = []extension{pad(layers.IPProtocolIPv6HopByHop)} }),
	} {
		g := gopacket.NewPacket(p.bytes(), layers.LayerTypeEthernet, gopacket.Default)
		if g.ErrorLayer() != nil || g.TransportLayer() == nil {
			t.Errorf("%s: %v", name, g)
		}
	}
}
