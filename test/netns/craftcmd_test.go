package netns

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// A packet in a frame, for send and saw, is what these words say of it:
//
//	arp=request|reply spa=IP tpa=IP [sha=MAC] [tha=MAC]   ARP by RFC 826's names; sha is the frame's source if none is given
//	na=IP|ns=IP|rs= from=IP [to=IP] [lladdr=MAC|none]     neighbor discovery about IP; lladdr is the option's, the frame's source if none is given
//	udp=PORT from=IP to=IP                                a datagram
//	dhcp=discover|rapid [chaddr=MAC]                      of a client, from 0.0.0.0; rapid asks to have the lease at once (RFC 4039)
//
// data= is the datagram's, or stands behind the packet, where a frame is filled up. Without dst= the frame is for all.
var packetWords = []string{"arp", "spa", "tpa", "sha", "tha", "na", "ns", "rs", "from", "to", "lladdr", "udp", "dhcp", "chaddr"}

// crafter makes the frame of some words again and again; next counts its MAC up.
type crafter struct {
	Frame
	words map[string]string // of the packet
	data  string
	toAll bool // no dst= was given
}

func craft(words []string) (*crafter, error) {
	plain, own := splitWords(words)
	f, err := ParseFrame(plain)
	c := &crafter{Frame: f, words: own, toAll: true}
	for _, w := range plain {
		key, v, _ := strings.Cut(w, "=")
		c.toAll = c.toAll && key != "dst"
		if key == "data" {
			c.data = v
		}
	}
	if err == nil {
		err = c.build()
	}
	return c, err
}

func splitWords(words []string) (plain []string, packet map[string]string) {
	packet = map[string]string{}
	for _, w := range words {
		if key, v, ok := strings.Cut(w, "="); ok && slices.Contains(packetWords, key) {
			packet[key] = v
		} else {
			plain = append(plain, w)
		}
	}
	return plain, packet
}

// next is the same from the next MAC: a client's own (chaddr) if it is told from the frame's source.
func (c *crafter) next() error {
	mac := c.Src
	if v := c.words["chaddr"]; v != "" {
		mac, _ = net.ParseMAC(v) // it was built with
	}
	low := mac[3:]
	n := uint32(low[0])<<16 | uint32(low[1])<<8 | uint32(low[2]) + 1
	low[0], low[1], low[2] = byte(n>>16), byte(n>>8), byte(n)
	if c.words["chaddr"] != "" {
		c.words["chaddr"] = mac.String()
	}
	return c.build()
}

func (c *crafter) build() error {
	if len(c.words) == 0 {
		return nil
	}
	kinds := map[string]func(*fields) []gopacket.SerializableLayer{"arp": c.arp, "na": c.nd, "ns": c.nd, "rs": c.nd, "udp": c.udp, "dhcp": c.dhcp}
	var list []gopacket.SerializableLayer
	in := &fields{words: maps.Clone(c.words)}
	for kind, parts := range kinds {
		if _, ok := c.words[kind]; ok {
			if list != nil {
				return errors.New("frame: one packet: arp=, na=, ns=, rs=, udp= or dhcp=")
			}
			list = parts(in)
		}
	}
	if err := errors.Join(in.errs...); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	if len(in.words) > 0 || list == nil {
		return fmt.Errorf("frame: %v is none of its packet's", slices.Sorted(maps.Keys(in.words)))
	}
	c.Payload = frameOf(list...)
	if c.words["udp"] == "" {
		c.Payload = append(c.Payload, c.data...)
	}
	c.Payload = append(c.Payload, make([]byte, max(0, 46-len(c.Payload)))...)
	return nil
}

// fields takes words one after the other, and keeps what is wrong with them.
type fields struct {
	words map[string]string
	errs  []error
}

func (f *fields) take(key string) (v string, ok bool) {
	v, ok = f.words[key]
	delete(f.words, key)
	return v, ok
}

func (f *fields) ip(key string, or string) net.IP {
	v, ok := f.take(key)
	if !ok {
		v = or
	}
	a, err := netip.ParseAddr(v)
	if err != nil {
		f.errs = append(f.errs, fmt.Errorf("%s=: %w", key, err))
	}
	return a.AsSlice()
}

func (f *fields) mac(key string, or net.HardwareAddr) net.HardwareAddr {
	v, ok := f.take(key)
	if !ok {
		return or
	}
	mac, err := net.ParseMAC(v)
	if err != nil {
		f.errs = append(f.errs, fmt.Errorf("%s=: %w", key, err))
	}
	return mac
}

func (c *crafter) arp(in *fields) []gopacket.SerializableLayer {
	c.Type = uint16(layers.EthernetTypeARP)
	ops := map[string]uint16{"request": layers.ARPRequest, "reply": layers.ARPReply}
	op, _ := in.take("arp")
	if ops[op] == 0 {
		in.errs = append(in.errs, errors.New("arp=: want request or reply"))
	}
	return []gopacket.SerializableLayer{&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: ops[op],
		SourceHwAddress: in.mac("sha", c.Src), SourceProtAddress: in.ip("spa", ""), DstHwAddress: in.mac("tha", make([]byte, 6)), DstProtAddress: in.ip("tpa", "")}}
}

func (c *crafter) nd(in *fields) []gopacket.SerializableLayer {
	c.Type = uint16(layers.EthernetTypeIPv6)
	var target net.IP
	kind, to := "rs", "ff02::2"
	for _, k := range []string{"na", "ns"} {
		if _, ok := in.words[k]; !ok {
			continue
		}
		kind, to, target = k, "ff02::1", in.ip(k, "")
		if k == "ns" && len(target) == 16 {
			to = fmt.Sprintf("ff02::1:ff%02x:%02x%02x", target[13], target[14], target[15])
		}
	}
	if kind == "rs" {
		in.take("rs")
	}
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255, SrcIP: in.ip("from", ""), DstIP: in.ip("to", to)}
	if c.toAll && ip.DstIP.IsMulticast() {
		c.Dst = net.HardwareAddr{0x33, 0x33, ip.DstIP[12], ip.DstIP[13], ip.DstIP[14], ip.DstIP[15]}
	}
	var about layers.ICMPv6Options
	if in.words["lladdr"] == "none" {
		in.take("lladdr")
	} else {
		opt := layers.ICMPv6OptSourceAddress
		if kind == "na" {
			opt = layers.ICMPv6OptTargetAddress
		}
		about = layers.ICMPv6Options{{Type: opt, Data: in.mac("lladdr", c.Src)}}
	}
	const override = 0x20
	icmp, body := &layers.ICMPv6{}, gopacket.SerializableLayer(nil)
	_ = icmp.SetNetworkLayerForChecksum(ip) // it is one
	switch kind {
	case "na":
		icmp.TypeCode = layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)
		body = &layers.ICMPv6NeighborAdvertisement{Flags: override, TargetAddress: target, Options: about}
	case "ns":
		icmp.TypeCode = layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)
		body = &layers.ICMPv6NeighborSolicitation{TargetAddress: target, Options: about}
	case "rs":
		icmp.TypeCode = layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterSolicitation, 0)
		body = &layers.ICMPv6RouterSolicitation{Options: about}
	}
	return []gopacket.SerializableLayer{ip, icmp, body}
}

func (c *crafter) udp(in *fields) []gopacket.SerializableLayer {
	port, _ := in.take("udp")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		in.errs = append(in.errs, fmt.Errorf("udp=: %w", err))
	}
	return c.datagram(in.ip("from", ""), in.ip("to", ""), &layers.UDP{SrcPort: 7777, DstPort: layers.UDPPort(n)}, gopacket.Payload(c.data))
}

// datagram puts a datagram into a packet of its addresses' family.
func (c *crafter) datagram(from, to net.IP, udp *layers.UDP, body gopacket.SerializableLayer) []gopacket.SerializableLayer {
	if len(from) == 4 {
		c.Type = uint16(layers.EthernetTypeIPv4)
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from, DstIP: to}
		_ = udp.SetNetworkLayerForChecksum(ip) // it is one
		return []gopacket.SerializableLayer{ip, udp, body}
	}
	c.Type = uint16(layers.EthernetTypeIPv6)
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolUDP, HopLimit: 64, SrcIP: from, DstIP: to}
	_ = udp.SetNetworkLayerForChecksum(ip) // it is one
	return []gopacket.SerializableLayer{ip, udp, body}
}

func (c *crafter) dhcp(in *fields) []gopacket.SerializableLayer {
	kind, _ := in.take("dhcp")
	if kind != "discover" && kind != "rapid" {
		in.errs = append(in.errs, errors.New("dhcp=: want discover or rapid"))
	}
	const answerAll, rapidCommit = 0x8000, 80
	mac := in.mac("chaddr", c.Src)
	ask := &layers.DHCPv4{Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, Xid: uint32(mac[4])<<8 | uint32(mac[5]), Flags: answerAll, ClientHWAddr: mac,
		Options: layers.DHCPOptions{layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(layers.DHCPMsgTypeDiscover)})}}
	if kind == "rapid" {
		ask.Options = append(ask.Options, layers.NewDHCPOption(rapidCommit, nil))
	}
	return c.datagram(net.IPv4zero.To4(), net.IPv4bcast.To4(), &layers.UDP{SrcPort: 68, DstPort: 67}, ask)
}

// packetOf is what a frame's packet says, in the words that craft it.
func packetOf(f Frame) map[string]string {
	out := map[string]string{}
	p := gopacket.NewPacket(f.Payload, layers.EthernetType(f.Type).LayerType(), gopacket.Default)
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.ARP:
			out["arp"] = map[uint16]string{layers.ARPRequest: "request", layers.ARPReply: "reply"}[l.Operation]
			out["sha"], out["tha"] = net.HardwareAddr(l.SourceHwAddress).String(), net.HardwareAddr(l.DstHwAddress).String()
			out["spa"], out["tpa"] = net.IP(l.SourceProtAddress).String(), net.IP(l.DstProtAddress).String()
		case *layers.IPv4:
			out["from"], out["to"] = l.SrcIP.String(), l.DstIP.String()
		case *layers.IPv6:
			out["from"], out["to"] = l.SrcIP.String(), l.DstIP.String()
		case *layers.ICMPv6NeighborAdvertisement:
			out["na"], out["lladdr"] = l.TargetAddress.String(), linkOption(l.Options, layers.ICMPv6OptTargetAddress)
		case *layers.ICMPv6NeighborSolicitation:
			out["ns"], out["lladdr"] = l.TargetAddress.String(), linkOption(l.Options, layers.ICMPv6OptSourceAddress)
		case *layers.ICMPv6RouterSolicitation:
			out["rs"], out["lladdr"] = "", linkOption(l.Options, layers.ICMPv6OptSourceAddress)
		case *layers.UDP:
			out["udp"] = strconv.Itoa(int(l.DstPort))
		case *layers.DHCPv4:
			out["dhcp"], out["chaddr"] = strings.ToLower(dhcpType(l).String()), l.ClientHWAddr.String()
		}
	}
	return out
}

func linkOption(list layers.ICMPv6Options, kind layers.ICMPv6Opt) string {
	for _, o := range list {
		if o.Type == kind {
			return net.HardwareAddr(o.Data).String()
		}
	}
	return "none"
}

// matchPackets gives the frames whose packet says all these words.
func matchPackets(list []Frame, words map[string]string) []Frame {
	if len(words) == 0 {
		return list
	}
	return slices.DeleteFunc(list, func(f Frame) bool {
		said := packetOf(f)
		for key, v := range words {
			if is, ok := said[key]; !ok || is != v {
				return true
			}
		}
		return false
	})
}

func TestCraft(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ words, want string }{
		{"arp=reply spa=10.0.0.1 tpa=10.0.0.2 sha=02:00:00:00:00:05 tha=02:00:00:00:00:06",
			"ff:ff:ff:ff:ff:ff 0806 arp=reply sha=02:00:00:00:00:05 spa=10.0.0.1 tha=02:00:00:00:00:06 tpa=10.0.0.2"},
		{"arp=request spa=0.0.0.0 tpa=10.0.0.2 dst=02:00:00:00:00:07",
			"02:00:00:00:00:07 0806 arp=request sha=02:00:00:00:00:01 spa=0.0.0.0 tha=00:00:00:00:00:00 tpa=10.0.0.2"},
		{"na=fd00::2 from=fd00::3", "33:33:00:00:00:01 86dd from=fd00::3 lladdr=02:00:00:00:00:01 na=fd00::2 to=ff02::1"},
		{"ns=fd00::12:3456 from=:: lladdr=none", "33:33:ff:12:34:56 86dd from=:: lladdr=none ns=fd00::12:3456 to=ff02::1:ff12:3456"},
		{"rs= from=fe80::1 lladdr=02:00:00:00:00:09", "33:33:00:00:00:02 86dd from=fe80::1 lladdr=02:00:00:00:00:09 rs= to=ff02::2"},
		{"udp=9 from=10.0.0.1 to=10.0.0.2 data=honest", "ff:ff:ff:ff:ff:ff 0800 from=10.0.0.1 to=10.0.0.2 udp=9"},
		{"udp=9 from=fd00::1 to=fd00::2 data=honest", "ff:ff:ff:ff:ff:ff 86dd from=fd00::1 to=fd00::2 udp=9"},
		{"dhcp=discover", "ff:ff:ff:ff:ff:ff 0800 chaddr=02:00:00:00:00:01 dhcp=discover from=0.0.0.0 to=255.255.255.255 udp=67"},
	} {
		f, err := craft(append(strings.Fields(c.words), "src=02:00:00:00:00:01"))
		if err != nil {
			t.Errorf("%s: %v", c.words, err)
			continue
		}
		got := fmt.Sprintf("%s %04x", f.Dst, f.Type)
		said := packetOf(f.Frame)
		for _, key := range slices.Sorted(maps.Keys(said)) {
			got += " " + key + "=" + said[key]
		}
		if got != c.want {
			t.Errorf("%s makes\n%s, not\n%s", c.words, got, c.want)
		}
		if strings.Contains(c.words, "honest") != strings.Contains(string(f.Payload), "honest") {
			t.Errorf("%s: the datagram is %q", c.words, f.Payload)
		}
		if n := len(matchPackets([]Frame{f.Frame, {Type: 0x0806}}, said)); n != 1 {
			t.Errorf("%s: %d frames match what it says of itself", c.words, n)
		}
	}
	for _, words := range []string{"arp=reply na=fd00::1 from=fd00::1", "arp=no spa=10.0.0.1 tpa=10.0.0.2", "spa=10.0.0.1", "na=fd00::1", "udp=1 from=10.0.0.1 to=10.0.0.2 sha=02:00:00:00:00:05", "dhcp=offer"} {
		if _, err := craft(append(strings.Fields(words), "src=02:00:00:00:00:01")); err == nil {
			t.Errorf("%s is taken", words)
		}
	}
}

func TestCraftCountsUp(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"dhcp=discover":                          "02:00:00:00:01:00 02:00:00:00:01:00",
		"dhcp=discover chaddr=02:00:00:00:00:08": "02:00:00:00:00:ff 02:00:00:00:00:09",
		"arp=request spa=10.0.0.1 tpa=10.0.0.1":  "02:00:00:00:01:00 ",
	} {
		f, err := craft(append(strings.Fields(words), "src=02:00:00:00:00:ff"))
		if err == nil {
			err = f.next()
		}
		if got := fmt.Sprint(f.Src, " ", packetOf(f.Frame)["chaddr"]); err != nil || got != want {
			t.Errorf("%s: then %s (%v), not %s", words, got, err, want)
		}
	}
}
