package reach

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// host is a station of one VLAN that knows nothing of us.
type host struct {
	*fabric
	port   *fakePort
	mac    probe.MAC
	hears  []func(*host, probe.Frame, gopacket.Packet)
	silent bool
	macs   map[netip.Addr]probe.MAC // of those who have asked by ND
}

func (f *fabric) host(sw *fakeSwitch, id vlan.ID, mac probe.MAC, hears ...func(*host, probe.Frame, gopacket.Packet)) *host {
	h := &host{fabric: f, mac: mac, hears: hears, macs: map[netip.Addr]probe.MAC{}}
	h.port = sw.port(mac.String(), id, vlan.Set{}, func(fr probe.Frame, _ int) {
		to := probe.MAC(fr.Data[:6])
		if h.silent || to != h.mac && to[0]&1 == 0 {
			return
		}
		p := gopacket.NewPacket(fr.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
		for _, f := range h.hears {
			f(h, fr, p)
		}
	})
	return h
}

// say sends an Ethernet frame; the fabric is locked.
func (h *host) say(to probe.MAC, t layers.EthernetType, ls ...gopacket.SerializableLayer) {
	buf := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: h.mac[:], DstMAC: to[:], EthernetType: t}}, ls...)
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		panic(err)
	}
	h.wire(probe.Frame{Data: buf.Bytes(), Length: len(buf.Bytes())}, 0, h.port.in)
}

// holds answers ARP and neighbour solicitations as Linux does.
func holds(a netip.Addr) func(*host, probe.Frame, gopacket.Packet) {
	return func(h *host, _ probe.Frame, p gopacket.Packet) {
		if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && a.Is4() && arp.Operation == layers.ARPRequest && netip.AddrFrom4([4]byte(arp.DstProtAddress)) == a {
			h.say(probe.MAC(arp.SourceHwAddress), layers.EthernetTypeARP, arpOf(layers.ARPReply, h.mac, a, probe.MAC(arp.SourceHwAddress), netip.AddrFrom4([4]byte(arp.SourceProtAddress))))
		}
		if ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
			if t, _ := netip.AddrFromSlice(ns.TargetAddress); t == a {
				to := netip.MustParseAddr("ff02::1")
				if from, _ := netip.AddrFromSlice(p.Layer(layers.LayerTypeIPv6).(*layers.IPv6).SrcIP); !from.IsUnspecified() {
					to, h.macs[from] = from, probe.MAC(p.LinkLayer().LinkFlow().Src().Raw())
				}
				h.icmpv6(a, to, layers.ICMPv6TypeNeighborAdvertisement, &layers.ICMPv6NeighborAdvertisement{Flags: 0x20, TargetAddress: ns.TargetAddress,
					Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: h.mac[:]}}})
			}
		}
	}
}

// inTurn plugs in a router that answers each question for an address late, by one of its MACs after the other.
func inTurn(s *site, id vlan.ID, a netip.Addr) {
	bits := byte(a.BitLen())
	macs := []probe.MAC{{0x02, 0xdd, 0, 0, bits, 0}, {0x02, 0xdd, 0, 0, bits, 1}}
	turn := 0
	s.host(s.a, id, macs[0], func(h *host, f probe.Frame, p gopacket.Packet) {
		arp, isARP := p.Layer(layers.LayerTypeARP).(*layers.ARP)
		ns, isND := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
		if isARP && !slices.Equal(arp.DstProtAddress, a.AsSlice()) || isND && !slices.Equal(ns.TargetAddress, a.AsSlice()) || !isARP && !isND {
			return
		}
		time.AfterFunc(480*time.Millisecond, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.mac = macs[turn%2]
			turn++
			holds(a)(h, f, p)
		})
	})
}

func arpOf(op uint16, from probe.MAC, fromIP netip.Addr, to probe.MAC, toIP netip.Addr) *layers.ARP {
	a, b := fromIP.As4(), toIP.As4()
	return &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: op,
		SourceHwAddress: from[:], SourceProtAddress: a[:], DstHwAddress: to[:], DstProtAddress: b[:]}
}

func (h *host) icmpv6(from, to netip.Addr, kind uint8, body gopacket.SerializableLayer) {
	f, t := from.As16(), to.As16()
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: f[:], DstIP: t[:]}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	_ = icmp.SetNetworkLayerForChecksum(ip)
	if !to.IsMulticast() {
		h.say(h.macs[to], layers.EthernetTypeIPv6, ip, icmp, body)
		return
	}
	h.say(probe.MAC{0x33, 0x33, t[12], t[13], t[14], t[15]}, layers.EthernetTypeIPv6, ip, icmp, body)
}

// serves makes DHCP offers.
func serves(server, offer netip.Addr) func(*host, probe.Frame, gopacket.Packet) {
	return func(h *host, _ probe.Frame, p gopacket.Packet) {
		d, ok := p.Layer(layers.LayerTypeDHCPv4).(*layers.DHCPv4)
		if !ok || d.Operation != layers.DHCPOpRequest {
			return
		}
		s, o := server.As4(), offer.As4()
		ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: s[:], DstIP: net.IPv4bcast.To4()}
		udp := &layers.UDP{SrcPort: 67, DstPort: 68}
		_ = udp.SetNetworkLayerForChecksum(ip)
		h.say(probe.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, layers.EthernetTypeIPv4, ip, udp, &layers.DHCPv4{Operation: layers.DHCPOpReply,
			HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, Xid: d.Xid, ClientHWAddr: d.ClientHWAddr, YourClientIP: o[:], Options: layers.DHCPOptions{
				layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(layers.DHCPMsgTypeOffer)}),
				layers.NewDHCPOption(layers.DHCPOptServerID, s[:]), layers.NewDHCPOption(layers.DHCPOptEnd, nil)}})
	}
}

// routes answers router solicitations.
func routes(a netip.Addr, prefix netip.Prefix) func(*host, probe.Frame, gopacket.Packet) {
	return func(h *host, _ probe.Frame, p gopacket.Packet) {
		if p.Layer(layers.LayerTypeICMPv6RouterSolicitation) == nil {
			return
		}
		info := make([]byte, 30)
		info[0], info[1] = byte(prefix.Bits()), 0xc0
		binary.BigEndian.PutUint32(info[2:], 86400)
		net := prefix.Addr().As16()
		copy(info[14:], net[:])
		h.icmpv6(a, netip.MustParseAddr("ff02::1"), layers.ICMPv6TypeRouterAdvertisement, &layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: 1800,
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptPrefixInfo, Data: info}}})
	}
}

// detects is in the middle of its own duplicate detection (RFC 5227, 2.1; RFC 4862, 5.4): it says
// so again and again, and counts what it must take for a conflict.
type detects struct {
	address4, address6 netip.Addr
	conflicts          []string
}

func (d *detects) hear(h *host, _ probe.Frame, p gopacket.Packet) {
	if a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && probe.MAC(a.SourceHwAddress) != h.mac {
		from, target := netip.AddrFrom4([4]byte(a.SourceProtAddress)), netip.AddrFrom4([4]byte(a.DstProtAddress))
		if from == d.address4 || from.IsUnspecified() && target == d.address4 {
			d.conflicts = append(d.conflicts, "ARP")
		}
	}
	if ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
		ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		if t, _ := netip.AddrFromSlice(ns.TargetAddress); t == d.address6 && ip.SrcIP.IsUnspecified() && probe.MAC(p.LinkLayer().LinkFlow().Src().Raw()) != h.mac {
			d.conflicts = append(d.conflicts, "ND")
		}
	}
}

// run speaks until stop is closed.
func (d *detects) run(h *host, stop <-chan struct{}) {
	for {
		h.mu.Lock()
		h.say(probe.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, layers.EthernetTypeARP, arpOf(layers.ARPRequest, h.mac, netip.IPv4Unspecified(), probe.MAC{}, d.address4))
		t := d.address6.As16()
		h.icmpv6(netip.IPv6Unspecified(), netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}),
			layers.ICMPv6TypeNeighborSolicitation, &layers.ICMPv6NeighborSolicitation{TargetAddress: t[:]})
		h.mu.Unlock()
		select {
		case <-stop:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}
