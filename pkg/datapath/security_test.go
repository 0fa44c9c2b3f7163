package datapath

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// secured is an access port, of a network that allows all, with some of its security.
func secured(s attach.Security) func(*attach.PortConfig) {
	return func(c *attach.PortConfig) { c.Policy, c.Security = "net-b", s }
}

func to(mac ...byte) func(*pkt) { return func(p *pkt) { p.dst = net.HardwareAddr(mac) } }

func securityScenarios() []scenario {
	pass := policy.ReasonDefaultAllow
	none := secured(attach.Security{BPDUs: true})
	return []scenario{
		{name: "promiscuous", port: secured(attach.Security{Promiscuous: true}), steps: []step{
			in(tcp(peer4, other4, 1, 80, "S").with(to(2, 0, 0, 0, 0, 9)), pass),
			out(tcp(vm4, other4, 1, 80, "S").with(func(p *pkt) { p.src, p.dst = net.HardwareAddr{2, 0, 0, 0, 0, 9}, peerMAC }), policy.ReasonMACSpoof),
		}},
		{name: "groups of links", port: secured(attach.Security{}), steps: linkSteps(policy.ReasonBPDUGuard)},
		{name: "groups of links, unguarded", port: none, steps: linkSteps(pass)},
		{name: "routers", port: secured(attach.Security{RAGuard: true}), steps: routerSteps(policy.ReasonRAGuard, policy.ReasonRAGuard)},
		{name: "routers, unguarded", port: none, steps: routerSteps(policy.ReasonND, pass)},
		{name: "DHCP servers", port: secured(attach.Security{DHCPServerGuard: true}), steps: dhcpSteps(policy.ReasonDHCPServerGuard)},
		{name: "DHCP servers, unguarded", port: none, steps: dhcpSteps(pass)},
		{name: "more to groups than in a second", port: secured(attach.Security{BroadcastLimit: 1, MulticastLimit: 1}), steps: rateSteps()},
		{name: "DHCP servers, tagged", port: func(c *attach.PortConfig) {
			trunkPort(c)
			secured(attach.Security{DHCPServerGuard: true})(c)
		}, steps: []step{
			out(udp(vm4, peer4, 67, 68).tagged(tag{ctag, 10}), policy.ReasonDHCPServerGuard),
			out(bpdu().tagged(tag{ctag, 10}), policy.ReasonBPDUGuard),
		}},
	}
}

// bpdu is spanning tree's, behind LLC.
func bpdu() pkt {
	return pkt{dst: net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, ether: 38, l4: append([]byte{0x42, 0x42, 3}, make([]byte, 35)...)}
}

// linkSteps: what is for the other end of a link is dropped with a reason, and its neighbours among groups pass.
func linkSteps(want policy.Reason) (all []step) {
	pass := policy.ReasonDefaultAllow
	for last := range byte(0x10) {
		all = append(all, out(bpdu().with(to(1, 0x80, 0xc2, 0, 0, last)), want))
	}
	all = append(all, in(bpdu(), pass), out(bpdu().with(to(1, 0x80, 0xc2, 0, 0, 0x10)), pass), out(bpdu().with(to(1, 0x80, 0xc2, 0, 1, 0)), pass),
		out(bpdu().with(to(1, 0x80, 0xc3, 0, 0, 0)), pass), out(bpdu().with(to(0, 0x80, 0xc2, 0, 0, 0)), pass))
	for _, last := range []byte{0xcc, 0xcd} { // CDP and its like; spanning tree a VLAN
		all = append(all, out(bpdu().with(to(1, 0, 0xc, 0xcc, 0xcc, last)), want))
	}
	return append(all, out(bpdu().with(to(1, 0, 0xc, 0xcc, 0xcc, 0xce)), pass), out(bpdu().with(to(1, 0, 0xc, 0xcc, 0xcd, 0xcc)), pass),
		out(bpdu().with(to(1, 0, 0xc, 0xcd, 0xcc, 0xcc)), pass))
}

// routerSteps: whole is what becomes of advertisements and redirects as they should be, odd of others.
func routerSteps(whole, odd policy.Reason) []step {
	nd := func(typ uint8) pkt {
		return icmp(vm6, peer6, typ, 0, make([]byte, 20)...).with(func(p *pkt) { p.hops = 255 })
	}
	behind := func(e ...extension) func(*pkt) { return func(p *pkt) { p.ext = e } }
	ra := nd(134)
	// The VM's own neighbour discovery, and what comes to it.
	passes := []step{out(nd(133), policy.ReasonND), out(nd(135), policy.ReasonND), out(nd(136), policy.ReasonND), in(ra, policy.ReasonND), in(nd(137), policy.ReasonND)}
	return append(passes,
		out(ra, whole), out(nd(137), whole),
		out(ra.with(behind(pad(layers.IPProtocolIPv6Destination))), whole),
		out(ra.with(func(p *pkt) { p.hops = 64 }), odd),
		// A first fragment with its head; what follows is of none that has passed, and comes to nothing.
		out(ra.with(behind(fragment6(0, true))), odd),
		out(ra.with(behind(pad(layers.IPProtocolIPv6Destination), fragment6(0, true))), odd),
		// The head is in the second fragment (RFC 7113, 2.2).
		out(ra.with(behind(fragment6(0, true), pad(layers.IPProtocolIPv6Destination))).with(func(p *pkt) { p.l4 = nil }), policy.ReasonMalformed),
		// ICMP of the other family knows neither.
		out(icmp(vm4, peer4, 134, 0, 0, 0, 0, 0), policy.ReasonDefaultAllow),
	)
}

// rateSteps are several in far less than a second, of which one of each kind may pass.
func rateSteps() (all []step) {
	arp := pkt{dst: net.HardwareAddr{255, 255, 255, 255, 255, 255}, ether: layers.EthernetTypeARP, l4: make([]byte, 28)}
	group := pkt{dst: net.HardwareAddr{1, 0, 0x5e, 0, 0, 9}, ether: 0x1234, l4: make([]byte, 46)}
	all = append(all, out(arp, policy.ReasonARP), out(group, policy.ReasonDefaultAllow))
	for range 4 {
		all = append(all, out(arp, policy.ReasonBroadcastLimit), out(group, policy.ReasonMulticastLimit))
	}
	return append(all, in(arp.with(func(p *pkt) { p.src = peerMAC }), policy.ReasonARP), out(pkt{ether: 0x1234, l4: make([]byte, 46)}, policy.ReasonDefaultAllow))
}

// dhcpSteps: from whichever port an answer comes, also to who has asked and so has a connection.
func dhcpSteps(want policy.Reason) []step {
	pass, open := policy.ReasonDefaultAllow, policy.ReasonEstablished
	all4 := netip.MustParseAddr("255.255.255.255")
	answer := policy.ReasonEstablished
	if want == policy.ReasonDHCPServerGuard {
		answer = want
	}
	group := netip.MustParseAddr("ff02::1:2")
	return []step{
		out(udp(vm4, all4, 67, 68), want), out(udp(vm4, all4, 4011, 68), want), out(udp(vm4, peer4, 67, 68), want),
		out(udp(vm6, peer6, 547, 546), want), out(udp(vm6, peer6, 7, 546), want),
		// Who asks for a renewal (another's connection), and what it is answered.
		in(udp(other4, vm4, 68, 67), pass), out(udp(vm4, other4, 67, 68), answer), out(udp(vm4, other4, 67, 68), answer), out(udp(vm4, other4, 67, 68), answer),
		in(udp(other6, vm6, 546, 547), pass), out(udp(vm6, other6, 547, 546), answer), out(udp(vm6, other6, 547, 546), answer),
		// The VM as a client, and as a relay, which asks servers.
		out(udp(netip.IPv4Unspecified(), all4, 68, 67), pass), in(udp(peer4, vm4, 67, 68), pass),
		out(udp(vm4, open4, 68, 67), pass), in(udp(open4, vm4, 67, 68), open), out(udp(vm6, group, 546, 547), pass),
		out(udp(vm4, bad4, 67, 67), policy.ReasonRuleDrop), out(udp(vm4, peer4, 68, 67), open),
		// The other family's ports are any, as of those who take reserved ones.
		out(udp(vm4, peer4, 2049, 546), pass), out(udp(vm6, peer6, 2049, 68), pass),
		// Near ones.
		out(udp(vm4, peer4, 67, 69), pass), out(tcp(vm4, peer4, 67, 68, "S"), pass),
	}
}

// TestSecurityFollows: switches reach ports that live, and no connection outlives a guard.
func TestSecurityFollows(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	c.Policy, c.Security.BPDUs = "net-b", true
	b.port(c)
	if err := b.SetState(loopback, attach.Active); err != nil {
		t.Fatal(err)
	}
	var got []policy.Reason
	see := func(h Hook, p pkt) { got = append(got, b.reason(h, p.bytes())) }
	answer := udp(vm4, other4, 67, 68)
	see(ToVM, udp(other4, vm4, 68, 67))
	for range 3 {
		see(FromVM, answer)
	}
	c.Security = attach.Security{DHCPServerGuard: true, RAGuard: true, Promiscuous: true}
	if err := b.UpdatePort(loopback, c); err != nil {
		t.Fatal(err)
	}
	see(FromVM, answer)
	see(FromVM, bpdu())
	see(ToVM, tcp(peer4, other4, 1, 80, "S").with(to(2, 0, 0, 0, 0, 9)))
	counted, err := b.PortCounters(loopback)
	if err != nil {
		t.Fatal(err)
	}
	for r, n := range map[policy.Reason]uint64{policy.ReasonDHCPServerGuard: 1, policy.ReasonBPDUGuard: 1, policy.ReasonEstablished: 3, policy.ReasonRAGuard: 0} {
		if c := counted[r]; c[policy.Out].Packets != n || c[policy.In] != (Counter{}) || n > 0 && c[policy.Out].Bytes == 0 {
			t.Errorf("%v: counted %+v, want %d out", r, c, n)
		}
	}
	c.Security = attach.Security{BPDUs: true}
	if err := b.UpdatePort(loopback, c); err != nil {
		t.Fatal(err)
	}
	see(FromVM, answer)
	see(FromVM, bpdu())
	see(ToVM, tcp(peer4, other4, 1, 80, "S").with(to(2, 0, 0, 0, 0, 9)))
	want := slices.Concat([]policy.Reason{policy.ReasonDefaultAllow}, slices.Repeat([]policy.Reason{policy.ReasonEstablished}, 3),
		[]policy.Reason{policy.ReasonDHCPServerGuard, policy.ReasonBPDUGuard, policy.ReasonDefaultAllow, policy.ReasonEstablished, policy.ReasonDefaultAllow, policy.ReasonNotForPort})
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want -, got +\n%s", d)
	}
}

// TestLateCounters: a new port has none of an earlier one's in its slot.
func TestLateCounters(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	had := map[uint32]bool{}
	for range 5 {
		c := accessPort()
		secured(attach.Security{})(&c)
		if err := b.DetachPort(loopback); err != nil {
			t.Fatal(err)
		}
		if err := b.FillPool(b.Free() + 1); err != nil {
			t.Fatal(err)
		}
		b.port(c)
		if err := b.SetState(loopback, attach.Active); err != nil {
			t.Fatal(err)
		}
		rec, err := b.record(loopback)
		if err != nil {
			t.Fatal(err)
		}
		had[rec.Slot] = true
		counted, err := b.PortCounters(loopback)
		if err != nil || len(counted) > 0 {
			t.Fatalf("slot %d: %v %v", rec.Slot, counted, err)
		}
		if r := b.reason(FromVM, bpdu().bytes()); r != policy.ReasonBPDUGuard {
			t.Fatal(r)
		}
	}
	if len(had) == 5 {
		t.Error("no slot had two ports")
	}
}

// forged is a packet of another MAC, the n-th.
func forged(p pkt, n int) pkt {
	p.src, p.dst = net.HardwareAddr{2, 0xf0, 0, 0, byte(n >> 8), byte(n)}, peerMAC
	return p
}

// toForged is one to it.
func toForged(p pkt, n int) pkt {
	p.src, p.dst = peerMAC, net.HardwareAddr{2, 0xf0, 0, 0, byte(n >> 8), byte(n)}
	return p
}

func stationScenarios() []scenario {
	pass, spoof, other := policy.ReasonDefaultAllow, policy.ReasonMACSpoof, policy.ReasonNotForPort
	up, down := udp(vm4, peer4, 1, 7), udp(peer4, vm4, 9, 8)
	arp := pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 28)}
	solicitation := icmp(zero6, peer6, 135, 0, make([]byte, 20)...).with(func(p *pkt) { p.hops = 255 })
	group, nobody := forged(up, 1), forged(up, 1)
	group.src, nobody.src = net.HardwareAddr{3, 0xf0, 0, 0, 0, 1}, make(net.HardwareAddr, 6)
	return []scenario{
		{name: "forged transmits", port: secured(attach.Security{ForgedTransmits: true, RAGuard: true}), steps: []step{
			out(forged(up, 1), pass), out(forged(arp, 2), policy.ReasonARP), out(up, policy.ReasonEstablished),
			out(forged(solicitation, 3), policy.ReasonND), // of a guest's guest, for all that one can see
			out(group, spoof), out(nobody, spoof),
			in(toForged(down, 1), other), // that takes the other switch
			out(forged(bpdu(), 1).with(to(1, 0x80, 0xc2, 0, 0, 0)), policy.ReasonBPDUGuard),
			out(forged(icmp(vm6, peer6, 134, 0, make([]byte, 20)...), 1), policy.ReasonRAGuard),
			out(forged(up, 1).tagged(tag{ctag, 20}), policy.ReasonGuestTag),
		}},
		{name: "MAC changes", port: secured(attach.Security{ForgedTransmits: true, MACChanges: true}), steps: []step{
			in(toForged(down, 1), other), out(forged(up, 1), pass), in(toForged(down, 1), pass), in(toForged(down, 2), other),
			in(down, policy.ReasonEstablished),
		}},
		{name: "MAC changes alone", port: secured(attach.Security{MACChanges: true}), steps: []step{
			out(forged(up, 1), spoof), in(toForged(down, 1), other), in(down, pass),
		}},
		{name: "MAC changes, promiscuous", port: secured(attach.Security{MACChanges: true, Promiscuous: true}), steps: []step{in(toForged(down, 1), pass)}},
		{name: "forged transmits of a trunk's guest", port: func(c *attach.PortConfig) {
			trunkPort(c)
			secured(attach.Security{ForgedTransmits: true, MACChanges: true})(c)
		}, steps: []step{
			out(forged(up, 1).tagged(tag{ctag, 10}), pass), in(toForged(down, 1).tagged(tag{ctag, 11}), other), in(toForged(down, 1).tagged(tag{ctag, 10}), pass),
			out(forged(up, 1), policy.ReasonUntagged), out(forged(up, 1).tagged(tag{ctag, 12}), policy.ReasonVLANNotAllowed),
		}},
		{name: "too many MACs", port: secured(attach.Security{ForgedTransmits: true, MACChanges: true}), steps: manyMACs(up, down)},
		{name: "what may not leave takes no place", port: secured(attach.Security{ForgedTransmits: true}), steps: vainMACs(up)},
		{name: "quarantined, and from another MAC", state: attach.Quarantined, port: secured(attach.Security{ForgedTransmits: true}),
			steps: []step{out(forged(pkt{ether: rarp, l4: make([]byte, 28)}, 1), policy.ReasonPortQuarantined)}},
	}
}

// manyMACs: as many as may be, and not one more; its own is none of them.
func manyMACs(up, down pkt) (all []step) {
	open := policy.ReasonEstablished // of one flow, whose first is from the port's own
	all = append(all, out(up, policy.ReasonDefaultAllow))
	for n := range StationsOfPort {
		all = append(all, out(forged(up, n), open))
	}
	return append(all, out(forged(up, StationsOfPort), policy.ReasonMACLimit), in(toForged(down, StationsOfPort), policy.ReasonNotForPort),
		out(forged(up, 0), open), out(up, open), in(toForged(down, StationsOfPort-1), policy.ReasonDefaultAllow))
}

// vainMACs are many that send what is dropped for other reasons, and then one that may send.
func vainMACs(up pkt) (all []step) {
	for n := range StationsOfPort {
		all = append(all, out(forged(up, n).tagged(tag{ctag, 20}), policy.ReasonGuestTag), out(forged(bpdu(), n).with(to(1, 0x80, 0xc2, 0, 0, 0)), policy.ReasonBPDUGuard))
	}
	return append(all, out(forged(up, 1000), policy.ReasonDefaultAllow))
}

// TestStations: MACs that are not used make room, those of a port that is gone and came back, too.
func TestStations(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	if err := b.FillPool(2); err != nil {
		t.Fatal(err)
	}
	c := accessPort()
	secured(attach.Security{ForgedTransmits: true, MACChanges: true})(&c)
	active := func() {
		b.port(c)
		if err := b.SetState(loopback, attach.Active); err != nil {
			t.Fatal(err)
		}
	}
	active()
	see := func(n int, want policy.Reason) {
		t.Helper()
		if got := b.reason(FromVM, forged(udp(vm4, peer4, 1, 7), n).bytes()); got != want && (want == policy.ReasonMACLimit || got == policy.ReasonMACLimit) {
			t.Fatalf("%d: %v, want %v", n, got, want)
		}
	}
	pass := policy.ReasonDefaultAllow
	for n := range StationsOfPort {
		see(n, pass)
	}
	see(StationsOfPort, policy.ReasonMACLimit)
	age := func(change func(n int, seen *uint32)) {
		t.Helper()
		var k portHpStationKey
		var seen uint32
		all := map[portHpStationKey]uint32{}
		for it := b.maps[portMapStations].Iterate(); it.Next(&k, &seen); {
			all[k] = seen
		}
		for k, seen := range all {
			change(int(k.Mac[4])<<8|int(k.Mac[5]), &seen)
			if err := b.maps[portMapStations].Put(k, seen); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	age(func(n int, seen *uint32) {
		switch {
		case n < 10:
			*seen -= uint32(stationsFor) + 1
		case n < 20:
			*seen += 1000 // it was heard after the clock was read
		case n < 30:
			*seen -= uint32(stationsFor) - 20_000
		}
	})
	for n := range 10 {
		see(1000+n, pass)
	}
	see(StationsOfPort, policy.ReasonMACLimit)
	see(0, policy.ReasonMACLimit) // forgotten
	// Who speaks is kept, though he was silent for nearly as long.
	age(func(n int, seen *uint32) { *seen -= uint32(stationsFor) - 20_000 })
	for n := 1000; n < 1010; n++ {
		see(n, pass)
	}
	age(func(n int, seen *uint32) {
		if n >= 1000 {
			*seen -= 100_000
		}
	})
	kept := 0
	var of portHpStationKey
	for it := b.maps[portMapStations].Iterate(); it.Next(&of, new(uint32)); {
		if of.Mac[4] >= 1000>>8 {
			kept++
		}
	}
	if kept != 10 {
		t.Errorf("%d of 10 are kept that have spoken", kept)
	}
	see(15, pass)
	see(25, pass)
	// As another port, in the same slot.
	slot := func() uint32 {
		rec, err := b.record(loopback)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Slot
	}
	before := slot()
	if err := b.DetachPort(loopback); err != nil {
		t.Fatal(err)
	}
	if err := b.FillPool(b.Free() + 1); err != nil {
		t.Fatal(err)
	}
	active()
	if slot() != before {
		t.Fatalf("slot %d, was %d", slot(), before)
	}
	see(15, pass)
	age(func(int, *uint32) {}) // of its predecessor nothing is left, nor counted
	// What was taken out and not counted down, as by an agent that was killed, is put right.
	var heals portHpStationKey
	for it := b.maps[portMapStations].Iterate(); it.Next(&heals, new(uint32)); {
		if err := b.maps[portMapStations].Delete(heals); err != nil {
			t.Fatal(err)
		}
	}
	age(func(int, *uint32) {})
	see(15, pass)
	// Another port's is none that it may send from, whether it has or not.
	for _, n := range []int{15, 16} {
		theirs := portHpMacKey{Mac: [6]uint8{2, 0xf0, 0, 0, 0, byte(n)}}
		if err := b.maps[portMapPortMacs].Put(theirs, uint32(1)); err != nil {
			t.Fatal(err)
		}
		if got := b.reason(FromVM, forged(udp(vm4, peer4, 1, 7), n).bytes()); got != policy.ReasonMACSpoof {
			t.Errorf("another port's MAC: %v", got)
		}
	}
	age(func(int, *uint32) {}) // whose port is gone
	if got := b.reason(FromVM, forged(udp(vm4, peer4, 1, 7), 15).bytes()); got == policy.ReasonMACSpoof {
		t.Error("the MAC of a port that is gone is still another's")
	}
	if err := b.maps[portMapPortMacs].Lookup(portHpMacKey{Mac: [6]uint8(testMAC)}, new(uint32)); err != nil {
		t.Errorf("its own is not noted: %v", err)
	}
	for n := range StationsOfPort - 1 {
		see(2000+n, pass)
	}
	see(StationsOfPort, policy.ReasonMACLimit)
	age(func(int, *uint32) {})
	see(StationsOfPort, policy.ReasonMACLimit)
	if err := b.DetachPort(loopback); err != nil {
		t.Fatal(err)
	}
	age(func(int, *uint32) {})
	var k portHpStationKey
	var seen uint32
	if b.maps[portMapStations].Iterate().Next(&k, &seen) {
		t.Errorf("of a port that is gone: %+v", k)
	}
}

// TestRates: of what goes to groups as much passes as a second has, at once, and then as it fills; of the rest all.
func TestRates(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	secured(attach.Security{BroadcastLimit: 20, MulticastLimit: 50})(&c)
	b.port(c)
	if err := b.SetState(loopback, attach.Active); err != nil {
		t.Fatal(err)
	}
	arp := pkt{dst: net.HardwareAddr{255, 255, 255, 255, 255, 255}, ether: layers.EthernetTypeARP, l4: make([]byte, 28)}
	group := pkt{dst: net.HardwareAddr{1, 0, 0x5e, 0, 0, 9}, ether: 0x1234, l4: make([]byte, 46)}
	nearly := pkt{dst: net.HardwareAddr{255, 255, 255, 255, 255, 254}, ether: 0x1234, l4: make([]byte, 46)}
	for _, tt := range []struct {
		name string
		p    pkt
		rate uint64
		over policy.Reason
	}{{"broadcast", arp, 20, policy.ReasonBroadcastLimit}, {"multicast", group, 50, policy.ReasonMulticastLimit}} {
		passes := func(n int) (passed uint64) {
			for range n {
				switch r := b.reason(FromVM, tt.p.bytes()); r {
				case policy.ReasonARP, policy.ReasonDefaultAllow:
					passed++
				case tt.over:
				default:
					t.Fatalf("%s: %v", tt.name, r)
				}
			}
			return passed
		}
		begun := time.Now()
		n := passes(500)
		if most := tt.rate + uint64(time.Since(begun).Seconds()*float64(tt.rate)*1.1) + 1; n < tt.rate || n > most {
			t.Errorf("%s: %d passed, want %d to %d", tt.name, n, tt.rate, most)
		}
		// It fills as time goes by, and not beyond a second's.
		for fill := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if passes(1) == 1 {
				break
			}
			if time.Since(fill) > 10*time.Second {
				t.Fatalf("%s: nothing passes any more", tt.name)
			}
		}
	}
	// After a long silence it is full, however the clock stands; one that another CPU has written a moment ahead is not.
	rec, err := b.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	now, err := coarseTime()
	if err != nil {
		t.Fatal(err)
	}
	for since, want := range map[uint32]policy.Reason{25 * 82_400_000: policy.ReasonARP, 27 * 82_400_000: policy.ReasonARP, 51 * 82_400_000: policy.ReasonARP,
		^uint32(5000): policy.ReasonBroadcastLimit} {
		bucket := []uint32{500, uint32(now>>tickShift) - since}
		if err := b.maps[portMapBuckets].Put(rec.Slot*2, bucket); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if r := b.reason(FromVM, arp.bytes()); r != want {
			t.Errorf("%d ticks ago: %v, want %v", int32(since), r, want)
		}
		more := 0
		for range 100 {
			if b.reason(FromVM, arp.bytes()) == policy.ReasonARP {
				more++
			}
		}
		if more > 20+int(30*time.Since(begun).Seconds()) {
			t.Errorf("%d ticks ago: %d at once", int32(since), more)
		}
	}
	for range 200 {
		if r := b.reason(FromVM, udp(vm4, open4, 1, 7).bytes()); r != policy.ReasonDefaultAllow && r != policy.ReasonEstablished {
			t.Fatalf("unicast: %v", r)
		}
		if r := b.reason(ToVM, arp.with(func(p *pkt) { p.src = peerMAC }).bytes()); r != policy.ReasonARP {
			t.Fatalf("to the VM: %v", r)
		}
	}
	over := false
	for range 200 {
		over = over || b.reason(FromVM, nearly.bytes()) == policy.ReasonMulticastLimit
	}
	if !over {
		t.Error("nearly broadcast is multicast")
	}
	c.Security = attach.Security{}
	if err := b.UpdatePort(loopback, c); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if r := b.reason(FromVM, arp.bytes()); r != policy.ReasonARP {
			t.Fatalf("without limits: %v", r)
		}
	}
}

// TestPinnedSecurity: who reads pins sees what a port is kept to, and what that has dropped; also of pins that have none of it.
func TestPinnedSecurity(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	secured(attach.Security{RAGuard: true, BroadcastLimit: 9})(&c)
	b.port(c)
	if err := b.SetState(loopback, attach.Active); err != nil {
		t.Fatal(err)
	}
	b.reason(FromVM, bpdu().bytes())
	read := func() PinnedPort {
		t.Helper()
		p, err := ReadPins(b.pins.bpffs)
		if err != nil || len(p.Ports) != 1 || len(p.Problems) > 0 {
			t.Fatalf("%+v, %v", p, err)
		}
		return p.Ports[0]
	}
	if p := read(); p.Security != "bpduGuard, raGuard, broadcast 9/s" || p.Counts[policy.ReasonBPDUGuard.String()].Out.Packets != 1 {
		t.Errorf("%+v", p)
	}
	for _, name := range []string{portMapLateCounters, portMapPortRates} {
		if err := os.Remove(b.pins.of(name)); err != nil {
			t.Fatal(err)
		}
	}
	if p := read(); p.Security != "" || len(p.Counts) > 0 {
		t.Errorf("pins of an earlier version: %+v", p)
	}
}
