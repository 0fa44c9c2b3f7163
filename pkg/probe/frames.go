package probe

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// build puts layers together; each is well formed by itself.
func build(ls ...gopacket.SerializableLayer) ([]byte, error) {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		return nil, err
	}
	b := buf.Bytes()
	if missing := etherHead + minPayload - len(b); missing > 0 {
		b = append(b, make([]byte, missing)...)
	}
	return b, nil
}

func ether(from, to MAC, t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:], EthernetType: t}
}

// arpProbe asks for an address from none (RFC 5227, 2.1.1).
func arpProbe(from MAC, target netip.Addr) ([]byte, error) {
	return arpPacket(layers.ARPRequest, from, netip.IPv4Unspecified(), broadcast, MAC{}, target)
}

// arpPacket is sent to a station, or to all while it asks for nobody's hardware address yet.
func arpPacket(op uint16, from MAC, source netip.Addr, to, targetMAC MAC, target netip.Addr) ([]byte, error) {
	a, b := source.As4(), target.As4()
	return build(ether(from, to, layers.EthernetTypeARP), &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
		HwAddressSize: 6, ProtAddressSize: 4, Operation: op, SourceHwAddress: from[:], SourceProtAddress: a[:],
		DstHwAddress: targetMAC[:], DstProtAddress: b[:]})
}

// ipv6To is the head of an ICMPv6 message to a multicast group, from no address.
func ipv6To(from MAC, group netip.Addr) (*layers.Ethernet, *layers.IPv6) {
	g := group.As16()
	return ether(from, MAC{0x33, 0x33, g[12], g[13], g[14], g[15]}, layers.EthernetTypeIPv6), // RFC 2464, 7
		&layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.IPv6unspecified, DstIP: g[:]}
}

// solicitedNode is the group in which an address is asked for (RFC 4291, 2.7.1).
func solicitedNode(target netip.Addr) netip.Addr {
	t := target.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 0x01, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
}

// solicitation asks for an address from none (RFC 4862, 5.4.2).
func solicitation(from MAC, target netip.Addr) ([]byte, error) {
	t := target.As16()
	eth, ip := ipv6To(from, solicitedNode(target))
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	return build(eth, ip, icmp, &layers.ICMPv6NeighborSolicitation{TargetAddress: t[:]})
}

// routerSolicitation has routers speak (RFC 4861, 6.3.7), from no address.
func routerSolicitation(from MAC) ([]byte, error) {
	eth, ip := ipv6To(from, netip.MustParseAddr("ff02::2"))
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterSolicitation, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	return build(eth, ip, icmp, &layers.ICMPv6RouterSolicitation{})
}

// discover asks for DHCP servers and takes nothing of what they offer (RFC 2131, 3.1).
func discover(from MAC, xid uint32) ([]byte, error) {
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4zero.To4(), DstIP: net.IPv4bcast.To4()}
	udp := &layers.UDP{SrcPort: 68, DstPort: 67}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	const (
		broadcastFlag = 0x8000 // there is no address to answer to
		minBOOTP      = 300    // relays and servers discard what is shorter (RFC 1542, 2.1)
	)
	dhcp := &layers.DHCPv4{Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, Xid: xid, Flags: broadcastFlag,
		ClientHWAddr: from[:], Options: layers.DHCPOptions{layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(layers.DHCPMsgTypeDiscover)})}}
	return build(ether(from, broadcast, layers.EthernetTypeIPv4), ip, udp, dhcp, gopacket.Payload(make([]byte, minBOOTP-int(dhcp.Len()))))
}

// claim is an address that a frame's sender says to have.
type claim struct {
	address netip.Addr
	mac     MAC
	answer  bool // to a question; by ARP, to mine
	// addressed is an answer to the MAC that asks from sources.
	addressed bool
}

// word is what a frame says, of what is listened for.
type word struct {
	claim *claim
	offer *Offer
	xid   uint32
	ra    *Router
}

// cut is set where a packet ends before it says.
type cut bool

func (c *cut) SetTruncated() { *c = true }

// read takes a frame apart, as one who has a MAC and asks from it; what is broken says nothing.
func read(data []byte, me MAC) (w word) {
	if len(data) < etherHead {
		return w
	}
	body := data[etherHead:]
	switch layers.EthernetType(binary.BigEndian.Uint16(data[12:])) {
	case layers.EthernetTypeARP:
		w.claim = readARP(body, me)
	case layers.EthernetTypeIPv6:
		w.claim, w.ra = readICMPv6(body, MAC(data[6:12]))
		if w.claim != nil {
			w.claim.addressed = MAC(data[:6]) == me.Foreign()
		}
	case layers.EthernetTypeIPv4:
		w.offer, w.xid = readOffer(body, MAC(data[6:12]), me)
	}
	return w
}

// readARP reads who has an address. A gateway that announces itself may do so by replies, to all or
// to itself, and a switch floods replies to others: an answer is for who has asked.
func readARP(body []byte, me MAC) *claim {
	var a layers.ARP
	if a.DecodeFromBytes(body, gopacket.NilDecodeFeedback) != nil || a.Protocol != layers.EthernetTypeIPv4 ||
		len(a.SourceHwAddress) != 6 || len(a.SourceProtAddress) != 4 {
		return nil
	}
	ip, _ := netip.AddrFromSlice(a.SourceProtAddress)
	if ip.IsUnspecified() {
		return nil
	}
	c := &claim{address: ip, mac: MAC(a.SourceHwAddress), addressed: a.Operation == layers.ARPReply && MAC(a.DstHwAddress) == me.Foreign()}
	c.answer = c.addressed || a.Operation == layers.ARPReply && MAC(a.DstHwAddress) == me
	return c
}

// readICMPv6 reads neighbour and router advertisements, which none but neighbours can send
// (hop limit 255, RFC 4861, 3.1).
func readICMPv6(body []byte, from MAC) (*claim, *Router) {
	var ip layers.IPv6
	var icmp layers.ICMPv6
	var short cut
	if ip.DecodeFromBytes(body, &short) != nil || ip.NextHeader != layers.IPProtocolICMPv6 || ip.HopLimit != 255 ||
		icmp.DecodeFromBytes(ip.Payload, &short) != nil || bool(short) {
		return nil, nil
	}
	source, _ := netip.AddrFromSlice(ip.SrcIP)
	switch icmp.TypeCode.Type() {
	case layers.ICMPv6TypeNeighborAdvertisement:
		var na layers.ICMPv6NeighborAdvertisement
		if na.DecodeFromBytes(icmp.Payload, gopacket.NilDecodeFeedback) != nil {
			return nil, nil
		}
		c := &claim{mac: from, answer: true}
		c.address, _ = netip.AddrFromSlice(na.TargetAddress)
		for _, o := range na.Options {
			if o.Type == layers.ICMPv6OptTargetAddress && len(o.Data) >= 6 {
				c.mac = MAC(o.Data)
			}
		}
		return c, nil
	case layers.ICMPv6TypeRouterAdvertisement:
		var ra layers.ICMPv6RouterAdvertisement
		if ra.DecodeFromBytes(icmp.Payload, gopacket.NilDecodeFeedback) != nil {
			return nil, nil
		}
		r := &Router{Address: source, MAC: from, Lifetime: int(ra.RouterLifetime)}
		for _, o := range ra.Options {
			const prefixAt, prefixInfo = 14, 30 // RFC 4861, 4.6.2, behind type and length
			if o.Type == layers.ICMPv6OptPrefixInfo && len(o.Data) >= prefixInfo {
				a, _ := netip.AddrFromSlice(o.Data[prefixAt:prefixInfo])
				if p, err := a.Prefix(int(o.Data[0])); err == nil {
					r.Prefixes = append(r.Prefixes, p)
				}
			}
		}
		return nil, r
	}
	return nil, nil
}

// readOffer reads what a server offers to me. All of a run ask with one xid, and offers are broadcast.
func readOffer(body []byte, from, me MAC) (*Offer, uint32) {
	var ip layers.IPv4
	var udp layers.UDP
	var dhcp layers.DHCPv4
	var short cut
	if ip.DecodeFromBytes(body, &short) != nil || ip.Protocol != layers.IPProtocolUDP || ip.FragOffset != 0 ||
		udp.DecodeFromBytes(ip.Payload, &short) != nil || udp.DstPort != 68 ||
		dhcp.DecodeFromBytes(udp.Payload, &short) != nil || bool(short) ||
		dhcp.Operation != layers.DHCPOpReply || !bytes.Equal(dhcp.ClientHWAddr, me[:]) {
		return nil, 0
	}
	o := &Offer{MAC: from}
	o.Server, _ = netip.AddrFromSlice(ip.SrcIP)
	o.Address, _ = netip.AddrFromSlice(dhcp.YourClientIP.To4())
	offer := false
	for _, opt := range dhcp.Options {
		switch {
		case opt.Type == layers.DHCPOptMessageType && len(opt.Data) == 1:
			offer = opt.Data[0] == byte(layers.DHCPMsgTypeOffer)
		case opt.Type == layers.DHCPOptServerID && len(opt.Data) == 4:
			// A relay's answer comes from the relay.
			o.Server, _ = netip.AddrFromSlice(opt.Data)
		}
	}
	if !offer {
		return nil, 0
	}
	return o, dhcp.Xid
}
