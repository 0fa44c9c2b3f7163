package probe

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

var (
	myMAC    = MAC{0x52, 0x54, 0, 0, 1, 1}
	peerMAC  = MAC{0x52, 0x54, 0, 0, 1, 2}
	otherMAC = MAC{0x00, 0x50, 0x56, 0xaa, 1, 2}
	testRun  = RunID{1, 2, 3, 4, 5, 6, 7, 8}
)

// comparing values of this package.
var comparing = cmp.Options{cmp.AllowUnexported(word{}, claim{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, vlan.Set{})}

// testKeys are a key of one byte.
type testKeys [1]byte

const testKey = 0x2a

func (k testKeys) Sign(msg []byte) (id [4]byte, mac [16]byte) {
	h := hmac.New(sha256.New, k[:])
	h.Write(msg)
	return [4]byte{k[0]}, [16]byte(h.Sum(nil))
}

func (k testKeys) Verify(id [4]byte, msg []byte, mac [16]byte) bool {
	wantID, want := k.Sign(msg)
	return id == wantID && hmac.Equal(mac[:], want[:])
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// says compares an error with a part of its text; "" is none.
func says(err error, text string) bool {
	if err == nil || text == "" {
		return err == nil && text == ""
	}
	return strings.Contains(err.Error(), text)
}

// bytesOf reads hexadecimal digits, with spaces, and with texts in quotes.
func bytesOf(tb testing.TB, text string) (all []byte) {
	tb.Helper()
	for i, part := range strings.Split(text, `"`) {
		if i%2 == 1 {
			all = append(all, part...)
			continue
		}
		b, err := hex.DecodeString(strings.Join(strings.Fields(part), ""))
		must(tb, err)
		all = append(all, b...)
	}
	return all
}

// serialized are layers one in the other, not filled up.
func serialized(tb testing.TB, ls ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	buf := gopacket.NewSerializeBuffer()
	must(tb, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...))
	return buf.Bytes()
}

func ids(tb testing.TB, text string) vlan.Set {
	tb.Helper()
	s, err := vlan.ParseSet(text)
	must(tb, err)
	return s
}

// whole is a frame as it came, all of it.
func whole(id vlan.ID, data []byte) Frame { return Frame{VLAN: id, Data: data, Length: len(data)} }

// arpOf is an ARP packet from a station, to all or to one.
func arpOf(tb testing.TB, op uint16, from MAC, fromIP string, to, toHW MAC, toIP string) []byte {
	tb.Helper()
	a, b := netip.MustParseAddr(fromIP).As4(), netip.MustParseAddr(toIP).As4()
	return serialized(tb, ether(from, to, layers.EthernetTypeARP), &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
		HwAddressSize: 6, ProtAddressSize: 4, Operation: op, SourceHwAddress: from[:], SourceProtAddress: a[:], DstHwAddress: toHW[:], DstProtAddress: b[:]})
}

// icmpv6Of is an ICMPv6 message to all nodes.
func icmpv6Of(tb testing.TB, from MAC, fromIP string, hops uint8, kind uint8, body gopacket.SerializableLayer) []byte {
	tb.Helper()
	f, t := netip.MustParseAddr(fromIP).As16(), netip.MustParseAddr("ff02::1").As16()
	ip := &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: layers.IPProtocolICMPv6, SrcIP: f[:], DstIP: t[:]}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	must(tb, icmp.SetNetworkLayerForChecksum(ip))
	return serialized(tb, ether(from, MAC{0x33, 0x33, 0, 0, 0, 1}, layers.EthernetTypeIPv6), ip, icmp, body)
}

// naOf is a neighbour advertisement; without a link MAC it has no such option.
func naOf(tb testing.TB, from MAC, hops uint8, target string, link []byte) []byte {
	tb.Helper()
	t := netip.MustParseAddr(target).As16()
	na := &layers.ICMPv6NeighborAdvertisement{Flags: 0x20, TargetAddress: t[:]}
	if link != nil {
		na.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: link}}
	}
	return icmpv6Of(tb, from, target, hops, layers.ICMPv6TypeNeighborAdvertisement, na)
}

// raOf is a router advertisement with prefixes, between other options.
func raOf(tb testing.TB, from MAC, hops uint8, router string, lifetime uint16, prefixes ...string) []byte {
	tb.Helper()
	options := layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: from[:]}}
	for _, text := range prefixes {
		p := netip.MustParsePrefix(text)
		a := p.Addr().As16()
		info := append([]byte{byte(p.Bits()), 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0}, a[:]...)
		options = append(options, layers.ICMPv6Option{Type: layers.ICMPv6OptPrefixInfo, Data: info})
	}
	options = append(options, layers.ICMPv6Option{Type: layers.ICMPv6OptMTU, Data: []byte{0, 0, 0, 0, 5, 220}})
	slices.Reverse(options) // the library puts the first last
	return icmpv6Of(tb, from, router, hops, layers.ICMPv6TypeRouterAdvertisement, &layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: lifetime, Options: options})
}

// dhcp is an answer of a DHCP server, to be changed.
type dhcp struct {
	from     MAC
	fromIP   string
	port     layers.UDPPort
	op       layers.DHCPOp
	kind     layers.DHCPMsgType
	xid      uint32
	chaddr   MAC
	offer    string
	serverID string // "" is none
}

func offerOf(change func(*dhcp)) dhcp {
	d := dhcp{from: otherMAC, fromIP: "192.0.2.2", port: 68, op: layers.DHCPOpReply, kind: layers.DHCPMsgTypeOffer, xid: 0x01020304, chaddr: myMAC,
		offer: "192.0.2.50", serverID: "192.0.2.2"}
	if change != nil {
		change(&d)
	}
	return d
}

func (d dhcp) frame(tb testing.TB) []byte {
	tb.Helper()
	src, yi := netip.MustParseAddr(d.fromIP).As4(), netip.MustParseAddr(d.offer).As4()
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src[:], DstIP: []byte{255, 255, 255, 255}}
	udp := &layers.UDP{SrcPort: 67, DstPort: d.port}
	must(tb, udp.SetNetworkLayerForChecksum(ip))
	options := layers.DHCPOptions{layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(d.kind)})}
	if d.serverID != "" {
		s := netip.MustParseAddr(d.serverID).As4()
		options = append(options, layers.NewDHCPOption(layers.DHCPOptServerID, s[:]))
	}
	options = append(options, layers.NewDHCPOption(layers.DHCPOptEnd, nil))
	return serialized(tb, ether(d.from, broadcast, layers.EthernetTypeIPv4), ip, udp, &layers.DHCPv4{Operation: d.op, HardwareType: layers.LinkTypeEthernet,
		HardwareLen: 6, Xid: d.xid, ClientHWAddr: d.chaddr[:], YourClientIP: yi[:], Options: options})
}
