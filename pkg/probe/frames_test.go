package probe

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// decode reads a frame as another implementation does.
func decode(tb testing.TB, b []byte) gopacket.Packet {
	tb.Helper()
	if len(b) < etherHead+minPayload {
		tb.Errorf("%d bytes, a switch that takes a tag off leaves too few", len(b))
	}
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		tb.Fatalf("%v\n%s", e.Error(), hex.Dump(b))
	}
	return p
}

// sum is the Internet checksum's sum (RFC 1071) over parts; 0xffff with a right checksum among them.
func sum(parts ...[]byte) uint16 {
	b, s := slices.Concat(parts...), uint32(0)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// TestARPProbe: as RFC 5227, 2.1.1 has it.
func TestARPProbe(t *testing.T) {
	b, err := arpProbe(myMAC, netip.MustParseAddr("192.0.2.1"))
	must(t, err)
	want := bytesOf(t, `
		ffffffffffff 525400000101 0806
		0001 0800 06 04 0001
		525400000101 00000000
		000000000000 c0000201
		000000000000000000000000000000000000`)
	if !bytes.Equal(b, want) {
		t.Errorf("a probe is\n%swant\n%s", hex.Dump(b), hex.Dump(want))
	}
	decode(t, b)
}

// TestSolicitation: as for duplicate address detection (RFC 4862, 5.4.2).
func TestSolicitation(t *testing.T) {
	for _, tt := range []struct{ target, group, mac string }{
		{"fe80::1", "ff02::1:ff00:1", "33:33:ff:00:00:01"},
		{"2001:db8:1:2:3:4:56ab:cdef", "ff02::1:ffab:cdef", "33:33:ff:ab:cd:ef"},
	} {
		b, err := solicitation(myMAC, netip.MustParseAddr(tt.target))
		must(t, err)
		p := decode(t, b)
		ns := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
		if ns.TargetAddress.String() != tt.target || len(ns.Options) != 0 {
			t.Errorf("%s: asks for %v with %v", tt.target, ns.TargetAddress, ns.Options)
		}
		checkICMPv6(t, p, layers.ICMPv6TypeNeighborSolicitation, tt.group, tt.mac, 24)
	}
}

// TestRouterSolicitation: from no address, so without a link address (RFC 4861, 4.1).
func TestRouterSolicitation(t *testing.T) {
	b, err := routerSolicitation(myMAC)
	must(t, err)
	p := decode(t, b)
	if rs := p.Layer(layers.LayerTypeICMPv6RouterSolicitation).(*layers.ICMPv6RouterSolicitation); len(rs.Options) != 0 {
		t.Errorf("with %v", rs.Options)
	}
	checkICMPv6(t, p, layers.ICMPv6TypeRouterSolicitation, "ff02::2", "33:33:00:00:00:02", 8)
}

func checkICMPv6(t *testing.T, p gopacket.Packet, kind uint8, group, mac string, size uint16) {
	t.Helper()
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	icmp := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if eth.DstMAC.String() != mac || MAC(eth.SrcMAC) != myMAC {
		t.Errorf("from %v to %v, want %s", eth.SrcMAC, eth.DstMAC, mac)
	}
	if ip.SrcIP.String() != "::" || ip.DstIP.String() != group || ip.HopLimit != 255 || ip.Length != size {
		t.Errorf("from %v to %v, hop limit %d, %d bytes; want to %s, %d bytes", ip.SrcIP, ip.DstIP, ip.HopLimit, ip.Length, group, size)
	}
	if icmp.TypeCode != layers.CreateICMPv6TypeCode(kind, 0) {
		t.Errorf("it is %v", icmp.TypeCode)
	}
	message := p.Data()[etherHead+40:][:size]
	if s := sum(ip.SrcIP, ip.DstIP, []byte{0, 0, 0, byte(size), 0, 0, 0, 58}, message); s != 0xffff {
		t.Errorf("checksum %#x", icmp.Checksum)
	}
}

func TestDiscover(t *testing.T) {
	b, err := discover(myMAC, 0xcafe0102)
	must(t, err)
	p := decode(t, b)
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	udp := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	d := p.Layer(layers.LayerTypeDHCPv4).(*layers.DHCPv4)
	if MAC(eth.DstMAC) != broadcast || MAC(eth.SrcMAC) != myMAC || !ip.SrcIP.Equal(net.IPv4zero) || !ip.DstIP.Equal(net.IPv4bcast) || udp.SrcPort != 68 || udp.DstPort != 67 {
		t.Errorf("from %v %v %d to %v %v %d", eth.SrcMAC, ip.SrcIP, udp.SrcPort, eth.DstMAC, ip.DstIP, udp.DstPort)
	}
	if d.Operation != layers.DHCPOpRequest || d.Xid != 0xcafe0102 || d.Flags != 0x8000 || MAC(d.ClientHWAddr) != myMAC || d.HardwareType != layers.LinkTypeEthernet {
		t.Errorf("op %v, xid %#x, flags %#x, chaddr %v", d.Operation, d.Xid, d.Flags, d.ClientHWAddr)
	}
	if d.RelayHops != 0 || d.Secs != 0 || !d.ClientIP.Equal(net.IPv4zero) || !d.YourClientIP.Equal(net.IPv4zero) || !d.RelayAgentIP.Equal(net.IPv4zero) {
		t.Errorf("hops %d, secs %d, addresses %v %v %v", d.RelayHops, d.Secs, d.ClientIP, d.YourClientIP, d.RelayAgentIP)
	}
	if options := append(bytesOf(t, "350101 ff"), make([]byte, 56)...); !bytes.Equal(udp.Payload[240:], options) {
		t.Errorf("options % x, want those to 300 bytes in all, as relays discard less (RFC 1542, 2.1)", udp.Payload[240:])
	}
	if sum(ip.Contents) != 0xffff || sum(ip.SrcIP, ip.DstIP, []byte{0, 17}, binary.BigEndian.AppendUint16(nil, udp.Length), udp.Contents, udp.Payload) != 0xffff {
		t.Errorf("checksums %#x, %#x", ip.Checksum, udp.Checksum)
	}
}

// spoken is a frame of others and what it says. Of its first least bytes none may be missing.
type spoken struct {
	name  string
	data  []byte
	least int
	want  word
}

// spokens are frames that say something.
func spokens(tb testing.TB) []spoken {
	tb.Helper()
	gw4, gw6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")
	says := func(a netip.Addr, m MAC, answer bool) word {
		return word{claim: &claim{address: a, mac: m, answer: answer}}
	}
	offer := func(server, address string) word {
		return word{offer: &Offer{netip.MustParseAddr(server), otherMAC, netip.MustParseAddr(address)}, xid: 0x01020304}
	}
	advert := func(lifetime int, prefixes ...string) word {
		r := &Router{Address: gw6, MAC: otherMAC, Lifetime: lifetime}
		for _, p := range prefixes {
			r.Prefixes = append(r.Prefixes, netip.MustParsePrefix(p))
		}
		return word{ra: r}
	}
	list := []spoken{
		{name: "ARP reply to the probe", data: arpOf(tb, layers.ARPReply, otherMAC, "192.0.2.1", myMAC, myMAC, "0.0.0.0"), want: says(gw4, otherMAC, true)},
		{name: "ARP reply to a question from a source", data: arpOf(tb, layers.ARPReply, otherMAC, "192.0.2.1", myMAC.Foreign(), myMAC.Foreign(), "192.0.2.241"),
			want: word{claim: &claim{gw4, otherMAC, true, true}}},
		{name: "ARP reply to another", data: arpOf(tb, layers.ARPReply, otherMAC, "192.0.2.1", peerMAC, peerMAC, "0.0.0.0"), want: says(gw4, otherMAC, false)},
		{name: "ARP request", data: arpOf(tb, layers.ARPRequest, otherMAC, "192.0.2.1", broadcast, MAC{}, "192.0.2.77"), want: says(gw4, otherMAC, false)},
		{name: "gratuitous request", data: arpOf(tb, layers.ARPRequest, otherMAC, "192.0.2.1", broadcast, MAC{}, "192.0.2.1"), want: says(gw4, otherMAC, false)},
		{name: "gratuitous reply", data: arpOf(tb, layers.ARPReply, otherMAC, "192.0.2.1", broadcast, broadcast, "192.0.2.1"), want: says(gw4, otherMAC, false)},
		{name: "gratuitous reply to itself", data: arpOf(tb, layers.ARPReply, otherMAC, "192.0.2.1", broadcast, otherMAC, "192.0.2.1"), want: says(gw4, otherMAC, false)},
		{name: "reply for another station", data: arpOf(tb, layers.ARPReply, peerMAC, "192.0.2.1", myMAC, myMAC, "0.0.0.0"), want: says(gw4, peerMAC, true)},
		{name: "NA with its link address", data: naOf(tb, peerMAC, 255, "fe80::1", otherMAC[:]), want: says(gw6, otherMAC, true)},
		{name: "NA without", data: naOf(tb, peerMAC, 255, "fe80::1", nil), want: says(gw6, peerMAC, true)},
		{name: "NA with a longer one", data: naOf(tb, peerMAC, 255, "fe80::1", slices.Concat(otherMAC[:], make([]byte, 8))), want: says(gw6, otherMAC, true)},
		{name: "RA", data: raOf(tb, otherMAC, 255, "fe80::1", 1800, "2001:db8:1::/64"), want: advert(1800, "2001:db8:1::/64")},
		{name: "RA with several prefixes", data: raOf(tb, otherMAC, 255, "fe80::1", 9000, "2001:db8:1::/64", "fd00:1::/48", "2001:db8::5/128", "::/0"),
			want: advert(9000, "2001:db8:1::/64", "fd00:1::/48", "2001:db8::5/128", "::/0")},
		{name: "RA of no default router", data: raOf(tb, otherMAC, 255, "fe80::1", 0), want: advert(0)},
		{name: "RA with a prefix that has more bits", data: raOf(tb, otherMAC, 255, "fe80::1", 1, "2001:db8:1:2:3::9/64"), want: advert(1, "2001:db8:1:2::/64")},
		{name: "offer", data: offerOf(nil).frame(tb), want: offer("192.0.2.2", "192.0.2.50")},
		{name: "offer of a server that does not name itself", data: offerOf(func(d *dhcp) { d.serverID = "" }).frame(tb), want: offer("192.0.2.2", "192.0.2.50")},
		{name: "offer by a relay", data: offerOf(func(d *dhcp) { d.fromIP, d.serverID = "192.0.2.254", "198.51.100.5" }).frame(tb), want: offer("198.51.100.5", "192.0.2.50")},
	}
	for i, s := range list {
		list[i].least = len(s.data)
		if s.data[13] == 0x06 {
			list[i].least = etherHead + 28 // behind it is padding
		}
	}
	return list
}

func TestRead(t *testing.T) {
	for _, s := range spokens(t) {
		for _, padding := range []int{0, 1, 18, 46} {
			if d := cmp.Diff(s.want, read(append(slices.Clone(s.data), make([]byte, padding)...), myMAC), comparing); d != "" {
				t.Errorf("%s, with %d bytes of padding (-want +got):\n%s", s.name, padding, d)
			}
		}
		for n := range s.least {
			if d := cmp.Diff(word{}, read(slices.Clip(s.data[:n]), myMAC), comparing); d != "" {
				t.Errorf("%s, cut to %d of %d bytes (-want +got):\n%s", s.name, n, s.least, d)
				break
			}
		}
	}
}

// changed is data with other bytes at a place.
func changed(data []byte, at int, b ...byte) []byte {
	data = slices.Clone(data)
	copy(data[at:], b)
	return data
}

func TestReadNothing(t *testing.T) {
	reply := arpOf(t, layers.ARPReply, otherMAC, "192.0.2.1", myMAC, myMAC, "0.0.0.0")
	na := naOf(t, otherMAC, 255, "fe80::1", otherMAC[:])
	ra := raOf(t, otherMAC, 255, "fe80::1", 1800, "2001:db8:1::/64")
	offer := offerOf(nil).frame(t)
	const ip, icmp, udp, bootp = etherHead, etherHead + 40, etherHead + 20, etherHead + 28
	discovered, err := discover(peerMAC, 0x01020304)
	must(t, err)
	asked, err := solicitation(peerMAC, netip.MustParseAddr("fe80::1"))
	must(t, err)
	probed, err := arpProbe(peerMAC, netip.MustParseAddr("192.0.2.1"))
	must(t, err)
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"ARP probe of a peer", probed},
		{"solicitation of a peer", asked},
		{"DISCOVER of a peer", discovered},
		{"ARP of other addresses", changed(reply, etherHead+2, 0x86, 0xdd)},
		{"ARP with longer MACs", changed(reply, etherHead+4, 8)},
		{"ARP with shorter MACs", changed(reply, etherHead+4, 4)},
		{"ARP with IPv6 addresses", changed(append(reply, make([]byte, 24)...), etherHead+5, 16)},
		{"NA from afar", naOf(t, otherMAC, 254, "fe80::1", nil)},
		{"NA with hop limit 1", naOf(t, otherMAC, 1, "fe80::1", nil)},
		{"NA with an option of no length", changed(na, icmp+25, 0)},
		{"NA with an option past its end", changed(na, icmp+25, 2)},
		{"NA longer than the frame", changed(na, ip+5, 33)},
		{"NA shorter than it can be", changed(na, ip+5, 20)},
		{"RA from afar", raOf(t, otherMAC, 64, "fe80::1", 1800, "2001:db8:1::/64")},
		{"redirect", changed(ra, icmp, 137)},
		{"not ICMPv6", changed(ra, ip+6, 17)},
		{"RA with an option of no length", changed(ra, icmp+17, 0)},
		{"ACK", offerOf(func(d *dhcp) { d.kind = layers.DHCPMsgTypeAck }).frame(t)},
		{"NAK", offerOf(func(d *dhcp) { d.kind = layers.DHCPMsgTypeNak }).frame(t)},
		{"offer by one who asks", offerOf(func(d *dhcp) { d.op = layers.DHCPOpRequest }).frame(t)},
		{"offer to a relay", offerOf(func(d *dhcp) { d.port = 67 }).frame(t)},
		{"offer to another", offerOf(func(d *dhcp) { d.chaddr = peerMAC }).frame(t)},
		{"offer in another fragment than the first", changed(offer, ip+6, 0, 1)},
		{"offer that is no UDP", changed(offer, ip+9, 6)},
		{"offer without the cookie", changed(offer, bootp+236, 0)},
		{"offer with an option past its end", changed(offer, bootp+244, 200)},
		{"offer with a short type", changed(offer, bootp+241, 0)},
		{"offer with a long MAC", changed(offer, bootp+2, 17)},
		{"offer longer than the packet", changed(offer, udp+4, 2)},
		{"IPv4 with a head of nothing", changed(offer, ip, 0x40)},
		{"other EtherType", changed(offer, 12, 0x08, 0x01)},
		{"tagged once more", slices.Concat(offer[:12], []byte{0x81, 0, 0, 5}, offer[12:])},
		{"nothing", nil},
	} {
		if d := cmp.Diff(word{}, read(tt.data, myMAC), comparing); d != "" {
			t.Errorf("%s says (-want +got):\n%s", tt.name, d)
		}
	}
}

// TestReadBrokenPrefix: the rest of an advertisement is read.
func TestReadBrokenPrefix(t *testing.T) {
	ra := raOf(t, otherMAC, 255, "fe80::1", 1800, "2001:db8:1::/64", "2001:db8:2::/64")
	const first = etherHead + 40 + 16 + 8
	want := []netip.Prefix{netip.MustParsePrefix("2001:db8:2::/64")}
	for name, data := range map[string][]byte{
		"of 129 bits":    changed(ra, first+2, 129),
		"another option": changed(ra, first, 200),
	} {
		if w := read(data, myMAC); w.ra == nil || cmp.Diff(want, w.ra.Prefixes, comparing) != "" {
			t.Errorf("%s: %+v", name, w.ra)
		}
	}
}
