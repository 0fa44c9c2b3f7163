package probe

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestMine: MACs of this node that others send from are no news of others.
func TestMine(t *testing.T) {
	vm := MAC{0x02, 0, 0, 0, 0, 9}
	at := here
	at.Own = map[MAC]bool{vm: true}
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, at)
		must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Gateway, Target: addr("192.0.2.1")}}))
		own, err := arpProbe(myMAC, addr("192.0.2.1"))
		must(t, err)
		s.wire.tell(whole(5, own), whole(5, arpOf(t, layers.ARPRequest, vm, "192.0.2.1", broadcast, MAC{}, "192.0.2.9")), whole(5, own),
			whole(5, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.7", broadcast, MAC{}, "192.0.2.9")))
		s.heard(t, Heard{VLAN: 5, Others: 1, Mine: []MineElsewhere{{vm, 1}, {myMAC, 2}}})
	})
}

// TestClaims: of addresses that were asked for, and since then.
func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		reply := whole(5, arpOf(t, layers.ARPReply, otherMAC, "192.0.2.1", myMAC, myMAC, "0.0.0.0"))
		twin := whole(5, arpOf(t, layers.ARPReply, peerMAC, "192.0.2.1", myMAC, myMAC, "0.0.0.0"))
		announced := whole(5, arpOf(t, layers.ARPReply, otherMAC, "192.0.2.1", broadcast, broadcast, "192.0.2.1"))
		unasked := whole(5, arpOf(t, layers.ARPReply, otherMAC, "192.0.2.3", myMAC, myMAC, "0.0.0.0"))
		na := whole(5, naOf(t, otherMAC, 255, "fe80::1", otherMAC[:]))
		elsewhere := whole(6, reply.Data)

		s.wire.tell(reply, na)
		s.heard(t, Heard{VLAN: 5, Others: 2})
		must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Gateway, Target: addr("192.0.2.1")}, {VLAN: 5, Kind: Gateway, Target: addr("fe80::1")}}))
		s.wire.tell(reply, announced, twin, reply, unasked, na, elsewhere)
		s.heard(t, Heard{VLAN: 5, Others: 8, Claims: []Claim{
			{Address: addr("192.0.2.1"), MAC: otherMAC, Answers: 2, Announced: 1},
			{Address: addr("192.0.2.1"), MAC: peerMAC, Answers: 1},
			{Address: addr("fe80::1"), MAC: otherMAC, Answers: 1},
		}})
		s.heard(t, Heard{VLAN: 6, Others: 1, Claims: []Claim{{Address: addr("192.0.2.1"), MAC: otherMAC, Answers: 1}}})
	})
}

// TestOffers: those of this run's xid, to this station.
func TestOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		tell := func(change func(*dhcp)) { s.wire.tell(whole(5, offerOf(change).frame(t))) }
		tell(func(d *dhcp) { d.xid++ })
		tell(func(d *dhcp) { d.chaddr = peerMAC })
		s.heard(t, Heard{VLAN: 5, Others: 2})
		tell(nil)
		tell(nil)
		tell(func(d *dhcp) { d.from = peerMAC })
		tell(func(d *dhcp) { d.offer = "192.0.2.9" })
		s.heard(t, Heard{VLAN: 5, Others: 6, Offers: []Offer{
			{addr("192.0.2.2"), otherMAC, addr("192.0.2.9")}, {addr("192.0.2.2"), otherMAC, addr("192.0.2.50")}, {addr("192.0.2.2"), peerMAC, addr("192.0.2.50")}}})
	})
}

// TestRouters: of each its last word.
func TestRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		s.wire.tell(whole(5, raOf(t, otherMAC, 255, "fe80::2", 1800, "2001:db8:2::/64")), whole(5, raOf(t, otherMAC, 255, "fe80::1", 1800)),
			whole(5, raOf(t, peerMAC, 255, "fe80::2", 0, "2001:db8:3::/64", "2001:db8:4::/64")))
		s.heard(t, Heard{VLAN: 5, Others: 3, RAs: []Router{{Address: addr("fe80::1"), MAC: otherMAC, Lifetime: 1800},
			{Address: addr("fe80::2"), MAC: peerMAC, Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:3::/64"), netip.MustParsePrefix("2001:db8:4::/64")}}}})
	})
}

// TestFlood: what others send does not fill the memory; what was known before goes on to count.
func TestFlood(t *testing.T) {
	at := here
	at.Own = map[MAC]bool{}
	mac := func(n int) MAC { return MAC{0x02, 1, 0, 0, byte(n >> 8), byte(n)} }
	for n := range 4 * maxOthers {
		at.Own[mac(0x1000+n)] = true
	}
	ip6 := func(n int) string {
		return netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(n >> 8), 15: byte(n)}).String()
	}
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, at)
		must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Gateway, Target: addr("192.0.2.1")}}))
		all := func(n int) {
			m := mac(n)
			s.wire.tell(whole(5, arpOf(t, layers.ARPReply, m, "192.0.2.1", myMAC, myMAC, "0.0.0.0")),
				whole(5, offerOf(func(d *dhcp) { d.from = m }).frame(t)),
				whole(5, raOf(t, m, 255, ip6(n), uint16(n))),
				whole(5, arpOf(t, layers.ARPRequest, mac(0x1000+n), "192.0.2.5", broadcast, MAC{}, "192.0.2.6")))
		}
		for n := range 4 * maxOthers {
			all(n)
		}
		all(0)
		s.wire.tell(whole(5, raOf(t, mac(1), 255, ip6(1), 9000)))
		o := s.Observation()
		h := o.In(5)
		if len(h.Claims) != maxOthers || len(h.Offers) != maxOthers || len(h.RAs) != maxOthers || len(h.Mine) != maxOthers {
			t.Errorf("%d claims, %d offers, %d routers, %d MACs; want %d each", len(h.Claims), len(h.Offers), len(h.RAs), len(h.Mine), maxOthers)
		}
		if h.Claims[0].Answers != 2 || h.Mine[0].Count != 2 || h.RAs[1].Lifetime != 9000 || h.Others != 3*(4*maxOthers+1)+1 {
			t.Errorf("what was known: %+v, %+v, %+v, %d others", h.Claims[0], h.Mine[0], h.RAs[1], h.Others)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		for n := range uint32(maxHellos + 100) {
			s.wire.in <- helloOf(t, 5, func(g *Greeting) { g.Node, g.Seq = fmt.Sprintf("node%05d", n), 0 })
		}
		const more = maxSeen + 100
		for n := range uint32(more) {
			s.wire.in <- helloOf(t, 5, func(g *Greeting) { g.Node, g.Seq = "node00000", n+1 })
		}
		s.wire.tell()
		o := s.Observation()
		first := o.In(5).Hellos[0]
		if n := len(o.In(5).Hellos); n != maxHellos || first.Count != more+1 || first.Again != 0 {
			t.Errorf("%d stations, of the first %+v", n, first)
		}
		for k, c := range s.book.heard[5].hellos {
			if len(c.seen) > maxSeen {
				t.Errorf("%d numbers of %v are remembered", len(c.seen), k)
			}
		}
	})
}

// TestOrder: an observation tells the same, in one order, whatever came first.
func TestOrder(t *testing.T) {
	var frames []Frame
	for _, id := range []vlan.ID{0, 5, 4094} {
		for _, node := range []string{"node2", "node3"} {
			for _, uplink := range []string{"eth1", "eth2"} {
				for _, untagged := range []bool{false, true} {
					for _, k := range []Kind{Hello, Full} {
						f := helloOf(t, id, func(g *Greeting) { g.Node, g.Uplink, g.Untagged, g.Kind = node, uplink, untagged, k })
						frames = append(frames, f)
					}
				}
			}
		}
		for _, m := range []MAC{otherMAC, peerMAC, {2, 0, 0, 0, 0, 1}} {
			for _, a := range []string{"192.0.2.1", "192.0.2.20"} {
				frames = append(frames, whole(id, arpOf(t, layers.ARPReply, m, a, myMAC, myMAC, "0.0.0.0")),
					whole(id, offerOf(func(d *dhcp) { d.from, d.offer = m, a }).frame(t)))
			}
		}
		frames = append(frames, whole(id, raOf(t, otherMAC, 255, "fe80::1", 1)), whole(id, raOf(t, peerMAC, 255, "fe80::20", 1)))
	}
	asks := []Ask{{VLAN: 5, Kind: Gateway, Target: addr("192.0.2.1")}, {VLAN: 5, Kind: Gateway, Target: addr("192.0.2.20")}}
	var first []byte
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			s := newStation(t, here)
			must(t, s.Send(t.Context(), asks))
			rand.New(rand.NewPCG(seed, 0)).Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
			s.wire.tell(frames...)
			text, err := json.Marshal(s.Observation())
			must(t, err)
			if first == nil {
				first = text
			}
			if string(text) != string(first) {
				t.Fatalf("seed %d:\n%s\nand before\n%s", seed, text, first)
			}
		})
	}
}

// TestAtOnce: stations send, hear and are asked at the same time.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		var wg sync.WaitGroup
		for id := range 4 {
			wg.Go(func() {
				for range 50 {
					if err := s.Send(t.Context(), []Ask{{VLAN: vlan.ID(id + 1), Kind: Hello}, {VLAN: 5, Kind: Gateway, Target: addr("192.0.2.1")}}); err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				for n := range uint32(50) {
					s.wire.in <- helloOf(t, 5, func(g *Greeting) { g.Seq = uint32(id)*50 + n })
				}
			})
			wg.Go(func() {
				for range 50 {
					s.Observation()
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		o := s.Observation()
		if h := o.In(5).Hellos; o.Sent != 400 || len(h) != 1 || h[0].Count != 200 || h[0].Again != 0 {
			t.Errorf("%+v", o)
		}
		numbers := map[uint32]bool{}
		for _, f := range s.wire.sent {
			if g, ok, err := readHello(keys, f); ok && err == nil {
				numbers[g.Seq] = true
			}
		}
		if len(numbers) != 200 || !numbers[1] || !numbers[200] {
			t.Errorf("%d numbers of 200 hellos", len(numbers))
		}
	})
}

// fullObservation has something in every field.
func fullObservation() Observation {
	return Observation{Sent: 3, Unsent: []Unsent{{5, Full, "message too long"}}, Lost: 4, Unread: 2, UnreadWhy: "hello of version 2", Heard: []Heard{
		{VLAN: 0, Others: 1},
		{VLAN: 5, Others: 9, Hellos: []HeardHello{{"node2", "eth1", 5, true, Full, 2, 1, 1500}}, Claims: []Claim{{addr("192.0.2.1"), otherMAC, 2, 1, 1}},
			Offers: []Offer{{addr("192.0.2.2"), otherMAC, addr("192.0.2.50")}},
			RAs:    []Router{{addr("fe80::1"), otherMAC, 1800, []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64")}}}, Mine: []MineElsewhere{{myMAC, 3}}},
	}}
}

// TestJSON: agents and the command may be of different versions.
func TestJSON(t *testing.T) {
	o := fullObservation()
	text, err := json.Marshal(o)
	must(t, err)
	want := `{"sent":3,"unsent":[{"vlan":5,"kind":"full","error":"message too long"}],"lost":4,"unread":2,"unreadWhy":"hello of version 2","heard":[` +
		`{"vlan":0,"others":1},{"vlan":5,"others":9,"hellos":[{"node":"node2","uplink":"eth1","vlan":5,"untagged":true,"kind":"full","count":2,"again":1,"largest":1500}],` +
		`"claims":[{"address":"192.0.2.1","mac":"00:50:56:aa:01:02","answers":2,"addressed":1,"announced":1}],` +
		`"offers":[{"server":"192.0.2.2","mac":"00:50:56:aa:01:02","address":"192.0.2.50"}],` +
		`"routerAdvertisements":[{"address":"fe80::1","mac":"00:50:56:aa:01:02","lifetime":1800,"prefixes":["2001:db8:1::/64"]}],` +
		`"mine":[{"mac":"52:54:00:00:01:01","count":3}]}]}`
	if string(text) != want {
		t.Errorf("JSON\n%s\nwant\n%s", text, want)
	}
	var back Observation
	must(t, json.Unmarshal(text, &back))
	if d := cmp.Diff(o, back, comparing); d != "" {
		t.Errorf("observation by JSON and back (-want +got):\n%s", d)
	}
	for _, a := range []Ask{{}, {VLAN: 5, Kind: Hello}, {VLAN: 7, Untagged: true, Kind: Unicast, Size: 1500, To: peerMAC}, {VLAN: 5, Kind: Gateway, Target: addr("fe80::1")}} {
		text, err := json.Marshal(a)
		must(t, err)
		var back Ask
		must(t, json.Unmarshal(text, &back))
		if back != a || strings.Contains(string(text), "00:00:00") || strings.Contains(string(text), `"target":""`) {
			t.Errorf("%+v is %s, and read as %+v", a, text, back)
		}
	}
}

func TestIn(t *testing.T) {
	o := fullObservation()
	if h := o.In(5); h != &o.Heard[1] {
		t.Errorf("in VLAN 5: %+v", h)
	}
	if d := cmp.Diff(&Heard{VLAN: 6}, o.In(6), comparing); d != "" || len(o.Heard) != 2 {
		t.Errorf("in VLAN 6 (-want +got):\n%s", d)
	}
}

func TestRunIDText(t *testing.T) {
	for _, text := range []string{"", "01", "01020304050607", "010203040506070", "010203040506070809", "010203040506070g", "0x02030405060708", " 102030405060708"} {
		r := testRun
		if err := r.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %v", text, r)
		}
	}
	for _, r := range []RunID{{}, testRun, {0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88}} {
		text, err := r.MarshalText()
		must(t, err)
		var back RunID
		if err := back.UnmarshalText(text); err != nil || back != r || string(text) != r.String() {
			t.Errorf("%v is %s, and read as %v, %v", r, text, back, err)
		}
	}
	if testRun.String() != "0102030405060708" {
		t.Errorf("it prints as %v", testRun)
	}
}

func TestMACText(t *testing.T) {
	for _, text := range []string{"", "52:54", "52:54:00:00:01", "52:54:00:00:01:0g", "02:00:5e:10:00:00:00:01", "52-54:00:00:01:01"} {
		var m MAC
		if err := m.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %v", text, m)
		}
	}
	for _, b := range [][]byte{nil, {1, 2, 3, 4, 5}, {1, 2, 3, 4, 5, 6, 7}} {
		if m, err := MACOf(b); err == nil {
			t.Errorf("% x is taken for %v", b, m)
		}
	}
	for _, m := range []MAC{{}, myMAC, broadcast} {
		text, err := m.MarshalText()
		must(t, err)
		var back MAC
		if err := back.UnmarshalText(text); err != nil || back != m || string(text) != m.String() {
			t.Errorf("%v is %s, and read as %v, %v", m, text, back, err)
		}
		if of, err := MACOf(m[:]); of != m || err != nil {
			t.Errorf("MACOf(%v) = %v, %v", m, of, err)
		}
	}
}

// TestForeign: always the same, so that switches learn no more of them with each check, and another for each NIC.
func TestForeign(t *testing.T) {
	if got := myMAC.Foreign().String(); got != "02:48:79:75:69:bb" {
		t.Errorf("of %v it is %s", myMAC, got)
	}
	seen := map[MAC]bool{}
	for n := range 1000 {
		m := MAC{0x52, 0x54, 0, 0, byte(n >> 8), byte(n)}
		f := m.Foreign()
		if seen[f] || f.IsGroup() || f[0]&2 == 0 || f == m {
			t.Errorf("of %v it is %v", m, f)
		}
		seen[f] = true
	}
}
