package probe

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	mySource  = addr("192.0.2.241")
	mySource6 = addr("fd00::f1")
	router    = addr("192.0.2.1")
	router6   = addr("fd00::1")
)

// sourced is a station that has asked for its sources, and may use them.
func sourced(t *testing.T) stationed {
	t.Helper()
	s := newStation(t, here)
	for range Detections {
		time.Sleep(DetectionGap)
		must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Detect, Target: mySource, Source: mySource}, {VLAN: 5, Kind: Detect, Target: mySource6, Source: mySource6}}))
	}
	time.Sleep(DetectionWait)
	s.wire.take()
	return s
}

// take gives what was sent, and forgets it.
func (m *memory) take() []Frame {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	sent := m.sent
	m.sent = nil
	return sent
}

// nsOf is a neighbour solicitation to all nodes; from "::" it has no link MAC.
func nsOf(t *testing.T, from MAC, fromIP, target string) []byte {
	a := addr(target).As16()
	ns := &layers.ICMPv6NeighborSolicitation{TargetAddress: a[:]}
	if fromIP != "::" {
		ns.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: from[:]}}
	}
	return icmpv6Of(t, from, fromIP, 255, layers.ICMPv6TypeNeighborSolicitation, ns)
}

// TestSourceRefuses: what makes no sense of a source is not asked.
func TestSourceRefuses(t *testing.T) {
	for _, tt := range []struct {
		ask Ask
		err string
	}{
		{Ask{VLAN: 5, Kind: Detect}, "no address of a gateway or host"},
		{Ask{VLAN: 5, Kind: Detect, Target: router, Source: mySource}, "a detect has none"},
		{Ask{VLAN: 5, Kind: Gateway, Target: router, Source: mySource}, "a gateway has none"},
		{Ask{VLAN: 5, Kind: Host, Target: router}, "want two addresses"},
		{Ask{VLAN: 5, Kind: Host, Target: router, Source: mySource6}, "of one family"},
		{Ask{VLAN: 5, Kind: Host, Target: mySource, Source: mySource}, "want two addresses"},
		{Ask{VLAN: 5, Kind: Echo, Target: addr("224.0.0.1"), Source: mySource, To: otherMAC}, "want two addresses"},
		{Ask{VLAN: 5, Kind: Echo, Target: router, Source: mySource}, "want a station's MAC"},
		{Ask{VLAN: 5, Kind: Echo, Target: router, Source: mySource, To: otherMAC, Size: 70000}, "want at most 65535"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStation(t, here)
			must(t, s.Send(t.Context(), []Ask{tt.ask}))
			if o := s.Observation(); !refused(o, tt.ask, tt.err) || len(s.wire.take()) != 0 {
				t.Errorf("%+v: %+v, want %q", tt.ask, o.Unsent, tt.err)
			}
		})
	}
}

// TestSourceUnasked: an address is used once it was asked for, often enough, in the VLAN in which it is used, and
// answers had their time.
func TestSourceUnasked(t *testing.T) {
	host := Ask{VLAN: 5, Kind: Host, Target: router, Source: mySource}
	detect := Ask{VLAN: 5, Kind: Detect, Target: mySource, Source: mySource}
	elsewhere, untagged := detect, detect
	elsewhere.VLAN, untagged.Untagged = 6, true
	peers := Ask{VLAN: 5, Kind: Detect, Target: mySource}
	for _, tt := range []struct {
		name   string
		before []Ask // DetectionGap apart
		wait   time.Duration
		may    bool
	}{
		{"never", nil, time.Minute, false},
		{"twice", []Ask{detect, detect}, time.Minute, false},
		{"for a peer", []Ask{peers, peers, peers}, time.Minute, false},
		{"in another VLAN", []Ask{elsewhere, elsewhere, elsewhere}, time.Minute, false},
		{"without a tag", []Ask{untagged, untagged, untagged}, time.Minute, false},
		{"just now", []Ask{detect, detect, detect}, DetectionWait - 2*time.Millisecond, false},
		{"three times", []Ask{detect, detect, detect}, DetectionWait, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStation(t, here)
			for i, a := range tt.before {
				if i > 0 {
					time.Sleep(DetectionGap)
				}
				must(t, s.Send(t.Context(), []Ask{a}))
			}
			time.Sleep(tt.wait)
			s.wire.take()
			must(t, s.Send(t.Context(), []Ask{host}))
			if sent := len(s.wire.take()); (sent == 1) != tt.may || (s.Observation().Unsent == nil) != tt.may {
				t.Errorf("%s: %d sent, %+v", tt.name, sent, s.Observation().Unsent)
			}
		})
	}
}

// TestSourceHurried: questions on the heels of one another are one.
func TestSourceHurried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		for range 10 {
			must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Detect, Target: mySource, Source: mySource}}))
			time.Sleep(DetectionGap / 5)
		}
		if n := s.Observation().Sources[0].Asked; n != 2 {
			t.Errorf("%d in %v", n, 2*DetectionGap)
		}
	})
}

// TestSourceJoins: who asks for an IPv6 address of its own has joined the group of those who look for it, and knows of no
// other's address but by asking.
func TestSourceJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Detect, Target: mySource6}, {VLAN: 5, Kind: Detect, Target: mySource6, Source: mySource6}}))
		sent := s.wire.take()
		if len(sent) != 3 {
			t.Fatalf("%d sent", len(sent))
		}
		p := gopacket.NewPacket(sent[1].Data, layers.LayerTypeEthernet, gopacket.Default)
		r, ok := p.Layer(layers.LayerTypeMLDv2MulticastListenerReport).(*layers.MLDv2MulticastListenerReportMessage)
		if !ok || p.ErrorLayer() != nil {
			t.Fatalf("%v", p)
		}
		ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		if MAC(sent[1].Data[6:12]) != here.MAC.Foreign() || MAC(sent[1].Data[:6]) != (MAC{0x33, 0x33, 0, 0, 0, 0x16}) || !ip.SrcIP.IsUnspecified() || ip.HopLimit != 1 || sent[1].VLAN != 5 {
			t.Errorf("from %v to %v: %v", sent[1].Data[6:12], sent[1].Data[:6], ip)
		}
		if hops := p.Layer(layers.LayerTypeIPv6HopByHop).(*layers.IPv6HopByHop); len(hops.Options) == 0 || hops.Options[0].OptionType != 5 || len(hops.Options[0].OptionData) != 2 {
			t.Errorf("options %+v", hops.Options)
		}
		if len(r.MulticastAddressRecords) != 1 || r.MulticastAddressRecords[0].RecordType != layers.MLDv2MulticastAddressRecordTypeChangeToExcludeMode ||
			r.MulticastAddressRecords[0].MulticastAddress.String() != "ff02::1:ff00:f1" {
			t.Errorf("%+v", r)
		}
		if err := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6).SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		if err, mismatches := p.VerifyChecksums(); err != nil || len(mismatches) > 0 {
			t.Errorf("%v %v", err, mismatches)
		}
	})
}

// TestSourceUnsent: a question that has not left the node is none.
func TestSourceUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		detect := []Ask{{VLAN: 5, Kind: Detect, Target: mySource, Source: mySource}}
		host := []Ask{{VLAN: 5, Kind: Host, Target: router, Source: mySource}}
		for i := range Detections {
			if i == 1 {
				s.wire.fail = func(Frame) error { return errors.New("no buffer space available") }
			}
			must(t, s.Send(t.Context(), detect))
			s.wire.fail = nil
			time.Sleep(DetectionGap)
		}
		time.Sleep(DetectionWait)
		s.wire.take()
		must(t, s.Send(t.Context(), host))
		if n := len(s.wire.take()); n != 0 || s.Observation().Sources[0].Asked != Detections-1 {
			t.Errorf("%d sent, %+v", n, s.Observation().Sources)
		}
		must(t, s.Send(t.Context(), detect))
		time.Sleep(DetectionWait)
		must(t, s.Send(t.Context(), host))
		if n := len(s.wire.take()); n != 2 {
			t.Errorf("%d sent", n)
		}
	})
}

// TestSourceHeld: who shows to have an address, or to want it, has it; a peer that asks on the node's behalf,
// one's own frames that come back, and what is said in other VLANs do not.
func TestSourceHeld(t *testing.T) {
	me := myMAC.Foreign()
	for _, tt := range []struct {
		name  string
		frame []byte
		vlan  int
		held  bool
	}{
		{"an answer", arpOf(t, layers.ARPReply, otherMAC, "192.0.2.241", me, me, "0.0.0.0"), 5, true},
		{"a request from it", arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.241", broadcast, MAC{}, "192.0.2.1"), 5, true},
		{"an announcement", arpOf(t, layers.ARPReply, otherMAC, "192.0.2.241", broadcast, broadcast, "192.0.2.241"), 5, true},
		{"a probe", arpOf(t, layers.ARPRequest, otherMAC, "0.0.0.0", broadcast, MAC{}, "192.0.2.241"), 5, true},
		{"a peer's probe", arpOf(t, layers.ARPRequest, peerMAC.Foreign(), "0.0.0.0", broadcast, MAC{}, "192.0.2.241"), 5, false},
		{"one whose MAC is like a peer's", arpOf(t, layers.ARPRequest, otherMAC.Foreign(), "0.0.0.0", broadcast, MAC{}, "192.0.2.241"), 5, true},
		{"a switch that tracks who is there", arpOf(t, layers.ARPRequest, otherMAC, "0.0.0.0", me, MAC{}, "192.0.2.241"), 5, false},
		{"a peer that uses it", arpOf(t, layers.ARPRequest, peerMAC.Foreign(), "192.0.2.241", broadcast, MAC{}, "192.0.2.1"), 5, true},
		{"one's own probe", arpOf(t, layers.ARPRequest, me, "0.0.0.0", broadcast, MAC{}, "192.0.2.241"), 5, false},
		{"one's own question", arpOf(t, layers.ARPRequest, me, "192.0.2.241", broadcast, MAC{}, "192.0.2.1"), 5, false},
		{"in another VLAN", arpOf(t, layers.ARPReply, otherMAC, "192.0.2.241", me, me, "0.0.0.0"), 6, false},
		{"another address", arpOf(t, layers.ARPReply, otherMAC, "192.0.2.242", me, me, "0.0.0.0"), 5, false},
		{"a question for it", arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.9", broadcast, MAC{}, "192.0.2.241"), 5, false},
		{"an advertisement", naOf(t, otherMAC, 255, "fd00::f1", otherMAC[:]), 5, true},
		{"a solicitation from nobody", nsOf(t, otherMAC, "::", "fd00::f1"), 5, true},
		{"a peer's", nsOf(t, peerMAC.Foreign(), "::", "fd00::f1"), 5, false},
		{"a solicitation from somebody", nsOf(t, otherMAC, "fd00::9", "fd00::f1"), 5, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := sourced(t)
			s.wire.tell(whole(6, newHello(t, Greeting{Run: RunID{9}, Kind: Hello, Node: "node2", Uplink: "eth1", VLAN: 6}, peerMAC, broadcast)))
			f := whole(5, tt.frame)
			if tt.vlan == 6 {
				f.VLAN = 6
			}
			s.wire.tell(f)
			held := slices.ContainsFunc(s.Observation().Sources, func(x Source) bool { return x.Held != MAC{} })
			if held != tt.held {
				t.Errorf("%s: %+v", tt.name, s.Observation().Sources)
			}
			// From then on it is used no more, nor answered for.
			s.wire.take()
			must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Host, Target: router, Source: mySource}, {VLAN: 5, Kind: Host, Target: router6, Source: mySource6}}))
			s.wire.tell(whole(5, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.1", broadcast, MAC{}, "192.0.2.241")), whole(5, nsOf(t, otherMAC, "fd00::1", "fd00::f1")))
			time.Sleep(time.Second)
			want := 4
			if held {
				want = 2 // of the other family
			}
			if n := len(s.wire.take()); n != want {
				t.Errorf("%s: %d frames, want %d", tt.name, n, want)
			}
		})
	}
}

// TestSourceTracked: one who asks the node alone tracks it, from an earlier check on; who wants an address asks all.
func TestSourceTracked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Detect, Target: mySource, Source: mySource}}))
		s.wire.tell(whole(5, arpOf(t, layers.ARPRequest, otherMAC, "0.0.0.0", myMAC.Foreign(), MAC{}, "192.0.2.241")))
		if o := s.Observation(); o.Sources[0].Held != (MAC{}) {
			t.Errorf("%+v", o.Sources)
		}
		s.wire.tell(whole(5, arpOf(t, layers.ARPRequest, otherMAC, "0.0.0.0", broadcast, MAC{}, "192.0.2.241")))
		if o := s.Observation(); o.Sources[0].Held != otherMAC {
			t.Errorf("%+v", o.Sources)
		}
	})
}

// TestSourceAnswers: who was asked is answered, from whichever of its addresses it asks, and nobody else; never
// one who has no address.
func TestSourceAnswers(t *testing.T) {
	me := myMAC.Foreign()
	reply := func(to MAC, ip string) Frame {
		f, err := arpPacket(layers.ARPReply, me, mySource, to, to, addr(ip))
		must(t, err)
		return whole(5, f)
	}
	advertised, err := neighbour(layers.ICMPv6TypeNeighborAdvertisement, me, mySource6, otherMAC, router6, mySource6)
	must(t, err)
	for _, tt := range []struct {
		name string
		came Frame
		want []Frame
	}{
		{"the gateway", whole(5, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.1", broadcast, MAC{}, "192.0.2.241")), []Frame{reply(otherMAC, "192.0.2.1")}},
		{"its MAC, from another address", whole(5, arpOf(t, layers.ARPRequest, peerMAC, "192.0.2.3", broadcast, MAC{}, "192.0.2.241")), []Frame{reply(peerMAC, "192.0.2.3")}},
		{"the gateway, that it be told to all", whole(5, arpOf(t, layers.ARPRequest, broadcast, "192.0.2.1", broadcast, MAC{}, "192.0.2.241")), nil},
		{"somebody", whole(5, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.9", broadcast, MAC{}, "192.0.2.241")), nil},
		{"nobody", whole(5, arpOf(t, layers.ARPRequest, otherMAC, "0.0.0.0", broadcast, MAC{}, "192.0.2.241")), nil},
		{"for another address", whole(5, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.1", broadcast, MAC{}, "192.0.2.242")), nil},
		{"in another VLAN", whole(6, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.1", broadcast, MAC{}, "192.0.2.241")), nil},
		{"the gateway, by IPv6", whole(5, nsOf(t, otherMAC, "fd00::1", "fd00::f1")), []Frame{whole(5, advertised)}},
		{"somebody, by IPv6", whole(5, nsOf(t, otherMAC, "fd00::9", "fd00::f1")), nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := sourced(t)
			must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Host, Target: router, Source: mySource}, {VLAN: 5, Kind: Host, Target: router6, Source: mySource6}}))
			s.wire.tell(whole(5, arpOf(t, layers.ARPReply, peerMAC, "192.0.2.1", me, me, "192.0.2.241")))
			s.wire.take()
			s.wire.tell(tt.came)
			time.Sleep(time.Second)
			if d := cmp.Diff(tt.want, s.wire.take()); d != "" {
				t.Errorf("%s (-want +got):\n%s", tt.name, d)
			}
		})
	}
}

// TestSourceAnswersLate: who asks again before its turn is answered once, and nobody is from an address that
// was given up meanwhile.
func TestSourceAnswersLate(t *testing.T) {
	asks := whole(5, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.1", broadcast, MAC{}, "192.0.2.241"))
	for held, want := range map[bool]int{false: 1, true: 0} {
		synctest.Test(t, func(t *testing.T) {
			s := sourced(t)
			must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Host, Target: router, Source: mySource}}))
			s.wire.take()
			s.wire.tell(asks, asks, asks)
			if held {
				s.wire.tell(whole(5, arpOf(t, layers.ARPRequest, peerMAC, "0.0.0.0", broadcast, MAC{}, "192.0.2.241")))
			}
			time.Sleep(time.Second)
			if n := len(s.wire.take()); n != want {
				t.Errorf("given up: %v: %d replies, want %d", held, n, want)
			}
			s.wire.tell(asks)
			time.Sleep(time.Second)
			if n := len(s.wire.take()); n != want {
				t.Errorf("given up: %v: %d replies later, want %d", held, n, want)
			}
		})
	}
}

// echoReplyOf is an answer with a payload, of a size as an MTU.
func echoReplyOf(t *testing.T, from string, run RunID, size int, flags layers.IPv4Flag, kind uint8) []byte {
	a, b := addr(from), mySource
	payload := gopacket.Payload(append(run[:], make([]byte, size-28-len(run))...))
	if a.Is6() {
		f, d := a.As16(), mySource6.As16()
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: f[:], DstIP: d[:]}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
		must(t, icmp.SetNetworkLayerForChecksum(ip))
		return serialized(t, ether(otherMAC, myMAC.Foreign(), layers.EthernetTypeIPv6), ip, icmp, &layers.ICMPv6Echo{}, payload[:size-48])
	}
	f, d := a.As4(), b.As4()
	return serialized(t, ether(otherMAC, myMAC.Foreign(), layers.EthernetTypeIPv4),
		&layers.IPv4{Version: 4, IHL: 5, TTL: 64, Flags: flags, Protocol: layers.IPProtocolICMPv4, SrcIP: f[:], DstIP: d[:]},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0)}, payload)
}

// TestEcho: a request has the size that is asked for, may not be fragmented, and comes back as it went, of
// this run; a fragment, or what was cut, does not count.
func TestEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sourced(t)
		asks := []Ask{{VLAN: 5, Kind: Echo, Target: router, Source: mySource, To: otherMAC, Size: 1500},
			{VLAN: 5, Kind: Echo, Target: router6, Source: mySource6, To: otherMAC, Size: 1280}, {VLAN: 5, Kind: Echo, Target: router, Source: mySource, To: otherMAC}}
		must(t, s.Send(t.Context(), asks))
		sent := s.wire.take()
		if len(sent) != 3 || sent[0].Length != 1514 || sent[1].Length != 1294 || sent[2].Length != 60 || MAC(sent[0].Data[6:]) != myMAC.Foreign() || MAC(sent[0].Data) != otherMAC {
			t.Fatalf("%v", sent)
		}
		p := gopacket.NewPacket(sent[0].Data, layers.LayerTypeEthernet, gopacket.Default)
		if ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ip.Flags != layers.IPv4DontFragment || ip.Length != 1500 {
			t.Errorf("%+v", ip)
		}
		short := whole(5, echoReplyOf(t, "192.0.2.1", testRun, 1400, 0, layers.ICMPv4TypeEchoReply)[:100])
		cutOff := whole(5, echoReplyOf(t, "192.0.2.1", testRun, 1400, 0, layers.ICMPv4TypeEchoReply)[:100])
		cutOff.Length = 1414 // the socket has looked at its beginning
		s.wire.tell(short, whole(5, echoReplyOf(t, "192.0.2.1", testRun, 1450, layers.IPv4MoreFragments, layers.ICMPv4TypeEchoReply)),
			whole(5, echoReplyOf(t, "192.0.2.1", RunID{}, 1450, 0, layers.ICMPv4TypeEchoReply)), whole(5, echoReplyOf(t, "192.0.2.1", testRun, 1450, 0, layers.ICMPv4TypeEchoRequest)),
			whole(5, echoReplyOf(t, "192.0.2.9", testRun, 1450, 0, layers.ICMPv4TypeEchoReply)), whole(5, echoReplyOf(t, "fd00::1", testRun, 1280, 0, layers.ICMPv6TypeEchoReply)),
			whole(5, echoReplyOf(t, "192.0.2.1", testRun, 128, 0, layers.ICMPv4TypeEchoReply)), cutOff)
		o := s.Observation()
		if d := cmp.Diff([]Echoed{{router, 2, 1400}, {router6, 1, 1280}}, o.In(5).Echoes, comparing); d != "" {
			t.Error(d)
		}
	})
}
