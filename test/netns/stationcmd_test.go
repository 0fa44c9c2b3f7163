package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
)

// options reads words as KEY=VALUE of the keys that there are.
func options(words []string, into map[string]*string) error {
	for _, w := range words {
		key, v, ok := strings.Cut(w, "=")
		if !ok || into[key] == nil {
			return fmt.Errorf("%s is none of its options", w)
		}
		*into[key] = v
	}
	return nil
}

// station replaces what a host does of this kind, or ends it.
func (s *session) station(key string, stop func()) {
	if old := s.stations[key]; old != nil {
		old()
	}
	s.stations[key] = stop
}

// cmdRA: ra HOST prefix=P [every=1s] [lifetime=30m] [split=N]: router advertisements to all, in two fragments if
// split says after how many bytes; ra HOST off ends them. No solicitation is answered, nor is anything routed.
func cmdRA(s *session, _ io.Writer, args []string) error {
	const usage = "ra HOST prefix=PREFIX [every=1s] [lifetime=30m] [split=N] | ra HOST off"
	space, off, err := s.stationArgs(args, usage)
	if err != nil {
		return err
	}
	key := "ra " + args[0]
	if off {
		s.station(key, nil)
		return nil
	}
	prefixText, everyText, lifeText, splitText := "", "1s", "30m", "0"
	if err := options(args[1:], map[string]*string{"prefix": &prefixText, "every": &everyText, "lifetime": &lifeText, "split": &splitText}); err != nil {
		return &usageError{usage + ": " + err.Error()}
	}
	prefix, err1 := netip.ParsePrefix(prefixText)
	every, err2 := time.ParseDuration(everyText)
	life, err3 := time.ParseDuration(lifeText)
	split, err4 := strconv.Atoi(splitText)
	if errors.Join(err1, err2, err3, err4) != nil || !prefix.Addr().Is6() || split < 0 || split%8 != 0 {
		return &usageError{usage}
	}
	mac, from, err := space.linkLocal(hostIf)
	if err != nil {
		return err
	}
	out, err := space.Sender()
	if err != nil {
		return err
	}
	s.lab.atEnd(out.Close)
	frames := [][]byte{raFrame(mac, from, prefix, life)}
	if split > 0 {
		frames = fragments6(frames[0], split)
	}
	s.station(key, s.lab.repeat(every, func() {
		for _, f := range frames {
			_ = out.Send(hostIf, f, 1) // a cable may be unplugged meanwhile
		}
	}))
	return nil
}

func (s *session) stationArgs(args []string, usage string) (space *Space, off bool, err error) {
	if err := want(args, 2, -1, usage); err != nil {
		return nil, false, err
	}
	space, err = s.lab.Space(args[0])
	return space, len(args) == 2 && args[1] == "off", err
}

// linkLocal gives the MAC and the link-local address of an interface.
func (s *Space) linkLocal(ifName string) (net.HardwareAddr, net.IP, error) {
	link, err := s.Link.LinkByName(ifName)
	if err != nil {
		return nil, nil, err
	}
	addrs, err := s.Link.AddrList(link, netlink.FAMILY_V6)
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() {
			return link.Attrs().HardwareAddr, a.IP, nil
		}
	}
	return nil, nil, fmt.Errorf("%s: %s has no link-local address: %w", s.Name, ifName, err)
}

// raFrame is a router advertisement of RFC 4861 with a prefix for addresses of one's own.
func raFrame(mac net.HardwareAddr, from net.IP, prefix netip.Prefix, life time.Duration) []byte {
	const day = 24 * 60 * 60
	info := []byte{byte(prefix.Bits()), 0xc0} // on-link, autonomous
	info = binary.BigEndian.AppendUint32(info, day)
	info = binary.BigEndian.AppendUint32(info, day)
	info = append(append(info, 0, 0, 0, 0), prefix.Masked().Addr().AsSlice()...)
	return icmp6Frame(mac, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, from, net.ParseIP("ff02::1"), layers.ICMPv6TypeRouterAdvertisement,
		&layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: uint16(life.Seconds()), Options: layers.ICMPv6Options{
			{Type: layers.ICMPv6OptSourceAddress, Data: mac}, {Type: layers.ICMPv6OptPrefixInfo, Data: info}}})
}

// fragments6 cuts an IPv6 packet in two (RFC 8200, 4.5), the first of which has so many bytes behind its headers.
func fragments6(frame []byte, first int) (out [][]byte) {
	const heads = 14 + 40
	payload := frame[heads:]
	for _, part := range []struct {
		from, to int
		more     uint16
	}{{0, first, 1}, {first, len(payload), 0}} {
		f := append([]byte{}, frame[:heads]...)
		f[20] = byte(layers.IPProtocolIPv6Fragment) // next header
		binary.BigEndian.PutUint16(f[18:], uint16(8+part.to-part.from))
		f = append(f, frame[20], 0)
		f = binary.BigEndian.AppendUint16(f, uint16(part.from)|part.more)
		f = append(f, 0, 0, 0, 7) // identification
		out = append(out, append(f, payload[part.from:part.to]...))
	}
	return out
}

// icmp6Frame is a message of neighbor discovery.
func icmp6Frame(src, dst net.HardwareAddr, from, to net.IP, kind uint8, body gopacket.SerializableLayer) []byte {
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255, SrcIP: from, DstIP: to}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	_ = icmp.SetNetworkLayerForChecksum(ip) // it is one
	return frameOf(&layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: layers.EthernetTypeIPv6}, ip, icmp, body)
}

// cmdDHCPD: dhcpd HOST server=ADDR offer=ADDR: a DHCP server that offers everyone the same
// address, and never assigns it; dhcpd HOST off ends it. It answers in the VLAN that it is
// asked in.
func cmdDHCPD(s *session, _ io.Writer, args []string) error {
	const usage = "dhcpd HOST server=ADDR offer=ADDR | dhcpd HOST off"
	space, off, err := s.stationArgs(args, usage)
	if err != nil {
		return err
	}
	key := "dhcpd " + args[0]
	if off {
		s.station(key, nil)
		return nil
	}
	var serverText, offerText string
	if err := options(args[1:], map[string]*string{"server": &serverText, "offer": &offerText}); err != nil {
		return &usageError{usage + ": " + err.Error()}
	}
	server, err1 := netip.ParseAddr(serverText)
	offer, err2 := netip.ParseAddr(offerText)
	if err1 != nil || err2 != nil || !server.Is4() || !offer.Is4() {
		return &usageError{usage}
	}
	link, err := space.Link.LinkByName(hostIf)
	if err != nil {
		return err
	}
	out, err := space.Sender()
	if err != nil {
		return err
	}
	s.lab.atEnd(out.Close)
	ear, err := space.hear(hostIf, func(f Frame) {
		if answer, ok := dhcpOffer(f, link.Attrs().HardwareAddr, server, offer); ok {
			_ = out.Send(hostIf, answer.Bytes(), 1) // a cable may be unplugged meanwhile
		}
	})
	if err != nil {
		return err
	}
	s.lab.atEnd(ear.Close)
	s.station(key, func() { _ = ear.Close() }) // it has no error to tell
	return nil
}

// dhcpOffer answers a DHCPDISCOVER (RFC 2131), if the frame is one.
func dhcpOffer(f Frame, mac net.HardwareAddr, server, offer netip.Addr) (Frame, bool) {
	if f.Type != uint16(layers.EthernetTypeIPv4) {
		return Frame{}, false
	}
	p := gopacket.NewPacket(f.Payload, layers.LayerTypeIPv4, gopacket.NoCopy)
	ask, ok := p.Layer(layers.LayerTypeDHCPv4).(*layers.DHCPv4)
	if !ok || ask.Operation != layers.DHCPOpRequest || dhcpType(ask) != layers.DHCPMsgTypeDiscover {
		return Frame{}, false
	}
	answer := Frame{Src: mac, Dst: ask.ClientHWAddr, Tags: f.Tags, Type: f.Type}
	to := offer
	if ask.Flags&0x8000 != 0 { // it cannot receive unicast yet
		answer.Dst, to = net.HardwareAddr{255, 255, 255, 255, 255, 255}, netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: server.AsSlice(), DstIP: to.AsSlice()}
	udp := &layers.UDP{SrcPort: 67, DstPort: 68}
	_ = udp.SetNetworkLayerForChecksum(ip) // it is one
	answer.Payload = frameOf(ip, udp, &layers.DHCPv4{Operation: layers.DHCPOpReply, HardwareType: layers.LinkTypeEthernet, Xid: ask.Xid,
		Flags: ask.Flags, YourClientIP: offer.AsSlice(), ClientHWAddr: ask.ClientHWAddr, Options: layers.DHCPOptions{
			layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(layers.DHCPMsgTypeOffer)}),
			layers.NewDHCPOption(layers.DHCPOptServerID, server.AsSlice()),
			layers.NewDHCPOption(layers.DHCPOptLeaseTime, []byte{0, 0, 0x0e, 0x10}),
			layers.NewDHCPOption(layers.DHCPOptSubnetMask, []byte{255, 255, 255, 0})}})
	return answer, true
}

func dhcpType(d *layers.DHCPv4) layers.DHCPMsgType {
	for _, o := range d.Options {
		if o.Type == layers.DHCPOptMessageType && len(o.Data) == 1 {
			return layers.DHCPMsgType(o.Data[0])
		}
	}
	return 0
}

// cmdARPBurst: arpburst HOST NET count=N [guests=N]: ARP requests of so many guests, each
// with a MAC and an address (NET + 128 and on) of its own, for the addresses below, one
// after the other and all at once.
func cmdARPBurst(s *session, _ io.Writer, args []string) error {
	const usage = "arpburst HOST NET count=N [guests=1]"
	if err := want(args, 3, 4, usage); err != nil {
		return err
	}
	space, err := s.lab.Space(args[0])
	if err != nil {
		return err
	}
	countText, guestsText := "", "1"
	if err := options(args[2:], map[string]*string{"count": &countText, "guests": &guestsText}); err != nil {
		return &usageError{usage + ": " + err.Error()}
	}
	subnet, err1 := netip.ParsePrefix(args[1])
	count, err2 := strconv.Atoi(countText)
	guests, err3 := strconv.Atoi(guestsText)
	if err1 != nil || err2 != nil || err3 != nil || !subnet.Addr().Is4() || guests < 1 || guests > 100 {
		return &usageError{usage}
	}
	out, err := space.Sender()
	if err != nil {
		return err
	}
	defer out.Close()
	addr := func(n int) net.IP {
		a := subnet.Masked().Addr().As4()
		a[3] += byte(n)
		return a[:]
	}
	for i := range count {
		guest := i % guests
		mac := net.HardwareAddr{2, 0, 0, 0xaa, 0, byte(guest)}
		if err := out.Send(hostIf, arpRequest(mac, addr(128+guest), addr(1+i%126)), 1); err != nil {
			return err
		}
	}
	return nil
}

// arpRequest is a broadcast; a probe, when the sender's address is 0.0.0.0.
func arpRequest(mac net.HardwareAddr, from, target net.IP) []byte {
	return frameOf(&layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{255, 255, 255, 255, 255, 255}, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: mac, SourceProtAddress: from.To4(), DstHwAddress: make([]byte, 6), DstProtAddress: target.To4()})
}

func TestDHCPOffer(t *testing.T) {
	t.Parallel()
	client, mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}, net.HardwareAddr{2, 0, 0, 0, 0, 1}
	server, offer := netip.MustParseAddr("10.100.0.5"), netip.MustParseAddr("10.100.0.200")
	ask := func(kind layers.DHCPMsgType, flags uint16) Frame {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4zero, DstIP: net.IPv4bcast}
		udp := &layers.UDP{SrcPort: 68, DstPort: 67}
		_ = udp.SetNetworkLayerForChecksum(ip) // it is one
		return Frame{Src: client, Tags: []Tag{{0x8100, 100}}, Type: 0x0800, Payload: frameOf(ip, udp, &layers.DHCPv4{Operation: layers.DHCPOpRequest,
			HardwareType: layers.LinkTypeEthernet, Xid: 7, Flags: flags, ClientHWAddr: client, Options: layers.DHCPOptions{
				layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(kind)})}})}
	}
	for _, c := range []struct {
		flags uint16
		want  string
	}{
		{0, "02:00:00:00:00:09 [8100:100] 10.100.0.200 7 10.100.0.200 Option(MessageType:Offer) Option(ServerID:10.100.0.5)"},
		{0x8000, "ff:ff:ff:ff:ff:ff [8100:100] 255.255.255.255 7 10.100.0.200 Option(MessageType:Offer) Option(ServerID:10.100.0.5)"},
	} {
		f, ok := dhcpOffer(ask(layers.DHCPMsgTypeDiscover, c.flags), mac, server, offer)
		if !ok {
			t.Fatal("no answer")
		}
		p := gopacket.NewPacket(f.Payload, layers.LayerTypeIPv4, gopacket.Default)
		d, _ := p.Layer(layers.LayerTypeDHCPv4).(*layers.DHCPv4)
		if d == nil {
			t.Fatalf("no DHCP: %v", p)
		}
		got := fmt.Sprintf("%s %v %s %d %s %s %s", f.Dst, f.Tags, p.NetworkLayer().(*layers.IPv4).DstIP, d.Xid, d.YourClientIP, d.Options[0], d.Options[1])
		if got != c.want {
			t.Errorf("it answers\n%s, not\n%s", got, c.want)
		}
	}
	for _, f := range []Frame{ask(layers.DHCPMsgTypeRequest, 0), {Type: 0x0800, Payload: []byte{1, 2}}, {Type: 0x0806}} {
		if _, ok := dhcpOffer(f, mac, server, offer); ok {
			t.Errorf("it answers %+v", f)
		}
	}
}
