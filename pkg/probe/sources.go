package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// An address that a node asks from is used only once the station itself has asked whether anybody has it
// (RFC 5227, 2.1.1; RFC 4862, 5.4), and given up as soon as somebody shows to have it or to want it (RFC
// 5227, 2.4, the first of its ways). It goes with the Foreign MAC: frames to that one are nothing to the
// node's own bridge and IP, and pass where those of VMs do. Who asks for it is answered if it was asked
// itself, and never while it has no address.
const (
	// Detections are needed before an address is used, so far apart at least, and as long must be waited for an
	// answer to the last (RFC 5227, 1.1: PROBE_NUM, PROBE_MIN, ANNOUNCE_WAIT).
	Detections    = 3
	DetectionGap  = time.Second
	DetectionWait = 2 * time.Second
	// maxReplies wait to be sent; who asks again is answered then.
	maxReplies = 16
)

// sourceKey is an address in a VLAN, by the tag in which it is at this uplink.
type sourceKey struct {
	tag     vlan.ID
	address netip.Addr
}

// source is an address that the station asks from.
type source struct {
	asked int
	last  time.Time
	held  MAC // who else has it, or wants it
}

// usable says why a source is not used; nil is that it may be.
func (s *source) usable() error {
	switch {
	case s == nil || s.asked < Detections || time.Since(s.last) < DetectionWait:
		return fmt.Errorf("it was not asked %d times before, a second apart, whether anybody has the source", Detections)
	case s.held != MAC{}:
		return fmt.Errorf("%v has the source", s.held)
	}
	return nil
}

// tagOf is the tag with which frames of an Ask are on the wire.
func (a Ask) tagOf() vlan.ID {
	if a.Untagged {
		return 0
	}
	return a.VLAN
}

// addressed makes the frame that has to do with sources.
func (s *Station) addressed(a Ask) ([]byte, error) {
	me := s.place.MAC.Foreign()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[a.Target] = true
	if a.Kind == Detect {
		if k := (sourceKey{a.tagOf(), a.Target}); a.Source.IsValid() && s.sources[k] == nil {
			s.sources[k] = &source{} // an answer may come before its question is counted
		}
		if a.Target.Is4() {
			return arpProbe(me, a.Target)
		}
		return solicitation(me, a.Target)
	}
	if err := s.sources[sourceKey{a.tagOf(), a.Source}].usable(); err != nil {
		return nil, err
	}
	switch {
	case a.Kind == Echo:
		return echoRequest(me, a, s.run)
	case a.Target.Is4():
		return arpPacket(layers.ARPRequest, me, a.Source, broadcast, MAC{}, a.Target)
	}
	group := solicitedNode(a.Target)
	g := group.As16()
	return neighbour(layers.ICMPv6TypeNeighborSolicitation, me, a.Source, MAC{0x33, 0x33, g[12], g[13], g[14], g[15]}, group, a.Target)
}

// detected counts a question for a source that has left the node, if it does not come on the heels of another.
// s.mu is held.
func (s *Station) detected(a Ask) {
	if a.Kind != Detect || !a.Source.IsValid() {
		return
	}
	if src := s.sources[sourceKey{a.tagOf(), a.Target}]; src.asked == 0 || time.Since(src.last) >= DetectionGap {
		src.asked++
		src.last = time.Now()
	}
}

// Frames are how many the Ask takes.
func (a Ask) Frames() int {
	if a.Kind == Detect && a.Source.Is6() {
		return 2
	}
	return 1
}

// joins makes what goes before the question for an own address: who is to have an IPv6 address joins the group of those who look for
// it, or a switch that snoops on MLD sends it nothing of that group (RFC 4862, 5.4.2; RFC 3590).
func joins(from MAC, own netip.Addr) ([]byte, error) {
	group := solicitedNode(own).As16()
	eth, ip := ipv6To(from, netip.MustParseAddr("ff02::16"))
	ip.NextHeader, ip.HopLimit = layers.IPProtocolIPv6HopByHop, 1
	const routerAlert, padN = 5, 1 // RFC 2711, RFC 8200
	hops := &layers.IPv6HopByHop{Options: []*layers.IPv6HopByHopOption{{OptionType: routerAlert, OptionData: []byte{0, 0}}, {OptionType: padN, OptionData: []byte{}}}}
	hops.NextHeader = layers.IPProtocolICMPv6
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeMLDv2MulticastListenerReportMessageV2, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	return build(eth, ip, hops, icmp, &layers.MLDv2MulticastListenerReportMessage{NumberOfMulticastAddressRecords: 1,
		MulticastAddressRecords: []layers.MLDv2MulticastAddressRecord{{RecordType: layers.MLDv2MulticastAddressRecordTypeChangeToExcludeMode, MulticastAddress: group[:]}}})
}

// neighbour is a neighbour solicitation or advertisement from an address, with the sender's MAC in it.
func neighbour(kind uint8, from MAC, source netip.Addr, to MAC, dest, target netip.Addr) ([]byte, error) {
	f, d, t := source.As16(), dest.As16(), target.As16()
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: f[:], DstIP: d[:]}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	var body gopacket.SerializableLayer = &layers.ICMPv6NeighborSolicitation{TargetAddress: t[:],
		Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: from[:]}}}
	if kind == layers.ICMPv6TypeNeighborAdvertisement {
		const solicitedAndOverride = 0x60
		body = &layers.ICMPv6NeighborAdvertisement{Flags: solicitedAndOverride, TargetAddress: t[:],
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: from[:]}}}
	}
	return build(ether(from, to, layers.EthernetTypeIPv6), ip, icmp, body)
}

// Heads of an echo: IP, ICMP, and the run.
const (
	ipv4Head = 20
	ipv6Head = 40
	icmpHead = 8
)

// echoRequest is as large as it is asked to be, and not to be fragmented; it has the run in it.
func echoRequest(from MAC, a Ask, run RunID) ([]byte, error) {
	id := binary.BigEndian.Uint16(run[:])
	eth, head := ether(from, a.To, layers.EthernetTypeIPv4), ipv4Head
	if a.Target.Is6() {
		eth, head = ether(from, a.To, layers.EthernetTypeIPv6), ipv6Head
	}
	payload := gopacket.Payload(append(run[:], make([]byte, max(0, a.Size-head-icmpHead-len(run)))...))
	if a.Target.Is4() {
		src, dst := a.Source.As4(), a.Target.As4()
		return build(eth, &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolICMPv4, SrcIP: src[:], DstIP: dst[:]},
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: id}, payload)
	}
	src, dst := a.Source.As16(), a.Target.As16()
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: src[:], DstIP: dst[:]}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	return build(eth, ip, icmp, &layers.ICMPv6Echo{Identifier: id}, payload)
}

// readEcho reads who has answered an echo request of a run, and how large the whole packet was; one that
// was fragmented, or cut, is none.
func readEcho(f Frame, run RunID) (from netip.Addr, size int, ok bool) {
	b := f.Data[etherHead:]
	kind, next := byte(layers.ICMPv4TypeEchoReply), b
	switch layers.EthernetType(binary.BigEndian.Uint16(f.Data[12:])) {
	case layers.EthernetTypeIPv4:
		if len(b) < ipv4Head || b[9] != byte(layers.IPProtocolICMPv4) || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 || int(b[0]&15)*4 > len(b) {
			return from, 0, false
		}
		from, size = netip.AddrFrom4([4]byte(b[12:])), int(binary.BigEndian.Uint16(b[2:]))
		next = b[int(b[0]&15)*4:]
	case layers.EthernetTypeIPv6:
		if len(b) < ipv6Head || b[6] != byte(layers.IPProtocolICMPv6) {
			return from, 0, false
		}
		from, size = netip.AddrFrom16([16]byte(b[8:])), ipv6Head+int(binary.BigEndian.Uint16(b[4:]))
		kind, next = layers.ICMPv6TypeEchoReply, b[ipv6Head:]
	default:
		return from, 0, false
	}
	ok = len(next) >= icmpHead+len(run) && next[0] == kind && RunID(next[icmpHead:]) == run && f.Length >= etherHead+size
	return from, size, ok
}

// question is who wants to know who has an address.
type question struct {
	target netip.Addr
	from   netip.Addr // unspecified: it is about to take it
	mac    MAC
}

// readQuestion reads ARP requests and neighbour solicitations.
func readQuestion(data []byte) (q question, ok bool) {
	body := data[etherHead:]
	switch layers.EthernetType(binary.BigEndian.Uint16(data[12:])) {
	case layers.EthernetTypeARP:
		var a layers.ARP
		if a.DecodeFromBytes(body, gopacket.NilDecodeFeedback) != nil || a.Operation != layers.ARPRequest || a.Protocol != layers.EthernetTypeIPv4 ||
			len(a.SourceHwAddress) != 6 || len(a.SourceProtAddress) != 4 {
			return q, false
		}
		return question{netip.AddrFrom4([4]byte(a.DstProtAddress)), netip.AddrFrom4([4]byte(a.SourceProtAddress)), MAC(a.SourceHwAddress)}, true
	case layers.EthernetTypeIPv6:
		var ip layers.IPv6
		var icmp layers.ICMPv6
		var ns layers.ICMPv6NeighborSolicitation
		var short cut
		if ip.DecodeFromBytes(body, &short) != nil || ip.NextHeader != layers.IPProtocolICMPv6 || ip.HopLimit != 255 ||
			icmp.DecodeFromBytes(ip.Payload, &short) != nil || bool(short) || icmp.TypeCode.Type() != layers.ICMPv6TypeNeighborSolicitation ||
			ns.DecodeFromBytes(icmp.Payload, gopacket.NilDecodeFeedback) != nil {
			return q, false
		}
		q.target, _ = netip.AddrFromSlice(ns.TargetAddress)
		q.from, _ = netip.AddrFromSlice(ip.SrcIP)
		q.mac = MAC(data[6:12])
		for _, o := range ns.Options {
			if o.Type == layers.ICMPv6OptSourceAddress && len(o.Data) >= 6 {
				q.mac = MAC(o.Data)
			}
		}
		return q, true
	}
	return q, false
}

// hearOfSources is what a frame of others says of the station's sources, and of echoes. s.mu is held.
func (s *Station) hearOfSources(f Frame, c *claim) {
	if len(s.sources) == 0 {
		return
	}
	me := s.place.MAC.Foreign()
	if c != nil {
		if src := s.sources[sourceKey{f.VLAN, c.address}]; src != nil && c.mac != me {
			src.held = c.mac
		}
	}
	if from, size, ok := readEcho(f, s.run); ok && s.asked[from] {
		s.book.page(f.VLAN).echo(from, size)
	}
	q, ok := readQuestion(f.Data)
	if !ok || q.mac == me {
		return
	}
	src := s.sources[sourceKey{f.VLAN, q.target}]
	switch {
	case src == nil:
	case q.from.IsUnspecified():
		// A peer asks on the node's behalf; a switch asks whom it has learnt, be it in another check, whether he is still
		// there. Who is about to take an address asks all.
		tracked := MAC(f.Data[:6]) == me
		if !s.peers[q.mac] && !tracked {
			src.held = q.mac
		}
	case src.usable() == nil && !q.mac.IsGroup() && (s.asked[q.from] || s.answeredBy(f.VLAN, q.mac)):
		s.reply(f.VLAN, q)
	}
}

// answeredBy says that a MAC is of one that was asked: routers ask from addresses that are not the gateway's.
func (s *Station) answeredBy(tag vlan.ID, m MAC) bool {
	for k, c := range s.book.page(tag).claims {
		if k.mac == m && c.Answers > 0 {
			return true
		}
	}
	return false
}

// reply waits for its turn; each asker has one that waits, for each of the station's addresses.
type reply struct {
	asker
	class Class
	frame Frame
}

// asker is a MAC that asks for an address.
type asker struct {
	sourceKey
	mac MAC
}

// reply tells who asks for a source that the station has it, if there is room.
func (s *Station) reply(tag vlan.ID, q question) {
	me := s.place.MAC.Foreign()
	who := asker{sourceKey{tag, q.target}, q.mac}
	if s.waiting[who] {
		return
	}
	var data []byte
	var err error
	if q.target.Is4() {
		data, err = arpPacket(layers.ARPReply, me, q.target, q.mac, q.mac, q.from)
	} else {
		data, err = neighbour(layers.ICMPv6TypeNeighborAdvertisement, me, q.target, q.mac, q.from, q.target)
	}
	if err != nil {
		return
	}
	select {
	case s.replies <- reply{who, classOf(q.target), Frame{VLAN: tag, Data: data, Length: len(data)}}:
		s.waiting[who] = true
	default:
	}
}

// answer sends replies, at the pace of all else, but none for an address that was given up while they waited.
func (s *Station) answer() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case r := <-s.replies:
			if s.pace.Wait(s.ctx, r.class) != nil {
				return
			}
			s.mu.Lock()
			delete(s.waiting, r.asker)
			may := s.sources[r.sourceKey].usable() == nil
			s.mu.Unlock()
			if may && s.conn.Send(r.frame) == nil {
				s.mu.Lock()
				s.book.sent++
				s.mu.Unlock()
			}
		}
	}
}
