package datapath

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// step is one frame and what becomes of it.
type step struct {
	hook  Hook
	frame []byte
	want  policy.Reason
}

func out(p pkt, want policy.Reason) step { return step{FromVM, p.bytes(), want} }
func in(p pkt, want policy.Reason) step  { return step{ToVM, p.bytes(), want} }

// both is the same frame judged at both hooks.
func both(p pkt, want policy.Reason) []step { return []step{out(p, want), in(p, want)} }

// scenario is frames in their order at a fresh port.
type scenario struct {
	name  string
	port  func(*attach.PortConfig)
	state attach.State // Active if not set: Dark has a test of its own
	hold  held         // what the programs know of net-b's addresses in the port's VLAN, or 11 of a trunk; nil: it does not matter
	steps []step
}

func trunkPort(c *attach.PortConfig) {
	c.VLANs = attach.VLANs{Mode: vlan.Trunk}
	_ = c.VLANs.Tagged.AddRange(vlan.Range{First: 10, Last: 11})
}

func nativePort(c *attach.PortConfig) {
	trunkPort(c)
	c.VLANs.Mode, c.VLANs.PVID = vlan.Native, 100
}

func netB(c *attach.PortConfig) { c.Policy = "net-b" }

const (
	ctag  = layers.EthernetTypeDot1Q
	stag  = layers.EthernetTypeQinQ
	qinq1 = layers.EthernetType(0x9100)
	qinq2 = layers.EthernetType(0x9200)
	rarp  = layers.EthernetType(0x8035)
)

var tpids = []layers.EthernetType{ctag, stag, qinq1, qinq2}

func TestReasons(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	seen := map[policy.Reason]bool{}
	all := b.scenarios()
	for _, s := range all {
		b.begin(s)
		var got, want []policy.Reason
		for _, step := range s.steps {
			r := b.reason(step.hook, step.frame)
			seen[r] = true
			got, want = append(got, r), append(want, step.want)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
	}
	t.Logf("%d scenarios", len(all))
	if b.DetachPort(loopback) != nil {
		t.Fatal("detach")
	}
	for _, h := range []Hook{FromVM, ToVM} {
		r := b.reason(h, tcp(vm4, peer4, 1, 80, "S").bytes())
		if r != policy.ReasonNoPort {
			t.Errorf("without a record %s says %v", h, r)
		}
		seen[r] = true
	}
	b.port(accessPort())
	if err := b.SetState(loopback, attach.Dark); err != nil {
		t.Fatal(err)
	}
	for _, h := range []Hook{FromVM, ToVM} {
		r := b.reason(h, pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 28)}.bytes())
		if r != policy.ReasonPortDark {
			t.Errorf("at a dark port %s says %v", h, r)
		}
		seen[r] = true
	}
	seen[policy.ReasonRefusal] = true  // by TestRefusalPasses
	seen[policy.ReasonToHolder] = true // by TestSuppressOnWire
	if diff := cmp.Diff(policy.Reasons(), slices.Sorted(maps.Keys(seen))); diff != "" {
		t.Errorf("reasons never seen (-want +got):\n%s", diff)
	}
}

// scenarios are all of them, with slots for their ports.
func (b *bench) scenarios() []scenario {
	b.Helper()
	all := slices.Concat(portScenarios(), tagScenarios(), macScenarios(), otherScenarios(), ruleScenarios(),
		tcpScenarios(), datagramScenarios(), errorScenarios(), fragmentScenarios(), headerScenarios(), malformedScenarios(), migrationScenarios(), helloScenarios(), securityScenarios(), stationScenarios(), addressScenarios(), unicastScenarios(), suppressScenarios())
	if err := b.FillPool(len(all) + 2); err != nil {
		b.Fatal(err)
	}
	return all
}

// begin makes a scenario's port.
func (b *bench) begin(s scenario) {
	b.Helper()
	c := accessPort()
	if s.port != nil {
		s.port(&c)
	}
	b.port(c)
	if s.hold != nil {
		id := c.VLANs.PVID
		if c.VLANs.Mode == vlan.Trunk {
			id = 11
		}
		b.hold(s.hold, id)
	}
	if s.state != attach.Dark {
		if err := b.SetState(loopback, s.state); err != nil {
			b.Fatal(err)
		}
	}
}

func portScenarios() (all []scenario) {
	syn := tcp(vm4, open4, 1, 80, "S")
	for state, r := range map[attach.State]policy.Reason{
		attach.Quarantined: policy.ReasonPortQuarantined, attach.Released: policy.ReasonPortReleased, 77: policy.ReasonPortDark,
	} {
		arp := pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 28)}
		all = append(all, scenario{name: "state " + state.String(), state: state,
			steps: slices.Concat(both(syn, r), both(arp, r))})
	}
	return append(all,
		scenario{name: "network without a program", port: func(c *attach.PortConfig) { c.Policy = "net-c" },
			steps: append(both(syn, policy.ReasonNoProgram), both(pkt{ether: 0x1234, l4: []byte{1}}, policy.ReasonNoProgram)...)})
}

func tagScenarios() (all []scenario) {
	ok, syn := policy.ReasonRuleAllow, tcp(vm4, peer4, 1, 80, "S")
	reply := tcp(peer4, vm4, 80, 1, "SA")
	for _, tpid := range tpids {
		all = append(all,
			scenario{name: "tag on an access port " + tpid.String(), steps: slices.Concat(
				both(syn.tagged(tag{tpid, 100}), policy.ReasonGuestTag), both(syn.tagged(tag{tpid, 0}), policy.ReasonGuestTag))},
			scenario{name: "second tag on a trunk port " + tpid.String(), port: trunkPort,
				steps: both(syn.tagged(tag{ctag, 10}, tag{tpid, 11}), policy.ReasonGuestTag)})
		if tpid != ctag {
			all = append(all, scenario{name: "other tag on a trunk port " + tpid.String(), port: nativePort,
				steps: both(syn.tagged(tag{tpid, 10}), policy.ReasonGuestTag)})
		}
	}
	return append(all,
		scenario{name: "double tag on an access port", steps: both(syn.tagged(tag{ctag, 100}, tag{ctag, 20}), policy.ReasonGuestTag)},
		scenario{name: "trunk", port: trunkPort, steps: []step{
			out(syn.tagged(tag{ctag, 10}), ok),
			in(reply.tagged(tag{ctag, 11}), policy.ReasonDefaultDrop), // another VLAN is another flow
			in(icmpError(other4, vm4, 3, syn, 8).tagged(tag{ctag, 11}), policy.ReasonDefaultDrop),
			in(icmpError(other4, vm4, 3, syn, 8).tagged(tag{ctag, 10}), policy.ReasonRelated),
			in(reply.tagged(tag{ctag, 0xa000 | 10}), policy.ReasonEstablished),
			out(syn.tagged(tag{ctag, 12}), policy.ReasonVLANNotAllowed),
			in(syn.tagged(tag{ctag, 9}), policy.ReasonVLANNotAllowed),
			out(syn.tagged(tag{ctag, 0}), policy.ReasonVLANNotAllowed),
			out(syn.tagged(tag{ctag, 4095}), policy.ReasonVLANNotAllowed),
			out(syn, policy.ReasonUntagged),
			in(syn, policy.ReasonUntagged),
			out(pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 28)}, policy.ReasonUntagged),
			out(pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 28)}.tagged(tag{ctag, 11}), policy.ReasonARP),
		}},
		scenario{name: "native", port: nativePort, steps: []step{
			out(syn, ok),
			in(reply.tagged(tag{ctag, 10}), policy.ReasonDefaultDrop),
			in(reply, policy.ReasonEstablished),
			out(syn.tagged(tag{ctag, 11}), ok),
			out(syn.tagged(tag{ctag, 100}), policy.ReasonVLANNotAllowed), // native only without a tag
			out(syn.tagged(tag{ctag, 0}), policy.ReasonVLANNotAllowed),
		}})
}

func macScenarios() []scenario {
	foreign := func(p pkt) pkt {
		p.src, p.dst = net.HardwareAddr{0x0a, 0x58, 0, 0, 0, 9}, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
		return p
	}
	noise := func(typ uint8) pkt { return foreign(icmp(vm6, peer6, typ, 0, make([]byte, 20)...)) }
	unspecified := func(p pkt) pkt { p.from = zero6; return p }
	hopByHop := func(p pkt) pkt { p.ext = []extension{pad(layers.IPProtocolIPv6HopByHop)}; return p }
	unicast := func(p pkt) pkt { p.dst = peerMAC; return p }
	igmp := func(from netip.Addr) pkt {
		p := udp(from, netip.MustParseAddr("224.0.0.106"), 0, 0)
		p.proto, p.l4 = layers.IPProtocolIGMP, make([]byte, 8)
		p = foreign(p)
		p.dst = net.HardwareAddr{1, 0, 0x5e, 0, 0, 0x6a}
		return p
	}
	zero4 := netip.IPv4Unspecified()
	spoof, launcher := policy.ReasonMACSpoof, policy.ReasonLauncherNoise
	var near []step
	for i := range testMAC {
		p := tcp(vm4, peer4, 1, 80, "S")
		p.src = slices.Clone(p.src)
		p.src[i] ^= 1 << i
		near = append(near, out(p, spoof))
	}
	reply := tcp(peer4, vm4, 80, 1, "SA")
	flooded := []step{out(tcp(vm4, peer4, 1, 80, "S"), policy.ReasonRuleAllow)}
	for _, p := range []pkt{reply, {ether: layers.EthernetTypeARP, l4: make([]byte, 28)}, {ether: 0x1234, l4: []byte{1}}} {
		p.src = peerMAC
		for i := range testMAC {
			p.dst = slices.Clone(testMAC)
			p.dst[i] ^= 2 << i // so that it is no group's
			flooded = append(flooded, in(p, policy.ReasonNotForPort))
		}
	}
	arp := pkt{src: peerMAC, dst: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ether: layers.EthernetTypeARP, l4: make([]byte, 28)}
	flooded = append(flooded, in(arp, policy.ReasonARP), in(reply, policy.ReasonEstablished))
	return []scenario{{name: "flooded by the bridge", steps: flooded}, {name: "nearly the port's MAC", steps: near}, {name: "foreign MAC", steps: []step{
		out(foreign(tcp(vm4, peer4, 1, 80, "S")), spoof),
		out(foreign(pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 28)}), spoof),
		out(foreign(pkt{ether: rarp, l4: make([]byte, 28)}), spoof),
		out(foreign(udp(vm6, peer6, 1, 53)), spoof),
		out(noise(133), launcher),
		out(unspecified(noise(135)), launcher),
		out(noise(135), spoof), // resolution with an address is the VM's business, or a spoof
		out(noise(136), spoof),
		out(noise(134), spoof),
		out(noise(128), spoof),
		out(noise(131), launcher),
		out(noise(132), launcher),
		out(noise(143), launcher),
		out(hopByHop(noise(143)), launcher),
		out(unicast(noise(143)), spoof),
		out(igmp(zero4), launcher),
		out(igmp(vm4), spoof),                                            // the VM's own reports have its address
		out(foreign(icmp(vm6, peer6, 143, 0)), spoof),                    // too short to be anything
		in(foreign(tcp(peer4, vm4, 1, 22, "S")), policy.ReasonRuleAllow), // to a group; who sends to the VM is not checked here
	}}}
}

func otherScenarios() []scenario {
	arp := pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 28)}
	nd := func(typ uint8) pkt {
		return icmp(vm6, peer6, typ, 0, make([]byte, 20)...).with(func(p *pkt) { p.hops = 255 })
	}
	var discovery []step
	for typ := uint8(133); typ <= 137; typ++ {
		discovery = append(discovery, both(nd(typ), policy.ReasonND)...)
		discovery = append(discovery, out(nd(typ).with(func(p *pkt) { p.hops = 254 }), policy.ReasonDefaultDrop))
	}
	discovery = append(discovery, out(nd(138), policy.ReasonDefaultDrop), out(nd(132), policy.ReasonDefaultDrop),
		out(nd(135).with(func(p *pkt) { p.ext = []extension{pad(layers.IPProtocolIPv6Destination)} }), policy.ReasonND),
		out(nd(135).with(func(p *pkt) { p.ext = []extension{fragment6(0, true)} }), policy.ReasonDefaultDrop))
	return []scenario{
		{name: "below IP", steps: slices.Concat(
			both(arp, policy.ReasonARP), both(pkt{ether: rarp, l4: make([]byte, 28)}, policy.ReasonRARP),
			both(pkt{ether: 0x88cc, l4: make([]byte, 40)}, policy.ReasonDefaultDrop),
			both(pkt{ether: 38, l4: make([]byte, 40)}, policy.ReasonDefaultDrop))},
		{name: "below IP, allowed", port: netB, steps: both(pkt{ether: 0x88cc, l4: []byte{1}}, policy.ReasonDefaultAllow)},
		{name: "LLC/SNAP", port: netB, steps: snapSteps()},
		{name: "neighbour discovery", steps: discovery},
	}
}

// snapSteps: what receivers take for IP, ARP or a tag is not hidden from rules by a
// length and LLC/SNAP in place of an EtherType; what is nothing of the kind may pass.
func snapSteps() (all []step) {
	snap := func(oui byte, typ uint16) pkt {
		l4 := append([]byte{0xaa, 0xaa, 3, 0, 0, oui, byte(typ >> 8), byte(typ)}, udp(vm4, bad4, 1, 53).ip4()...)
		return pkt{ether: layers.EthernetType(len(l4)), l4: l4}
	}
	for _, typ := range []uint16{0x0800, 0x86dd, 0x0806, 0x8035, 0x8100, 0x88a8, 0x9100, 0x9200} {
		all = append(all, both(snap(0, typ), policy.ReasonMalformed)...)
		all = append(all, both(snap(0xf8, typ), policy.ReasonMalformed)...) // 802.1H
	}
	ok := policy.ReasonDefaultAllow
	bpdu, cut := snap(0, 0), snap(0, 0x0800)
	bpdu.l4 = append([]byte{0x42, 0x42, 3}, make([]byte, 35)...)
	cut.l4 = cut.l4[:7]
	return slices.Concat(all, both(bpdu, ok), both(cut, ok), both(snap(0, 0x80f3), ok),
		both(snap(0x0c, 0x0800), ok), // of another organization's numbers
		both(snap(0, 0x0800).with(func(p *pkt) { p.ether = 0x600 }), ok))
}

func ruleScenarios() []scenario {
	allow, drop, def := policy.ReasonRuleAllow, policy.ReasonRuleDrop, policy.ReasonDefaultDrop
	esp := func(p pkt) pkt { p.proto = layers.IPProtocolESP; return p }
	return []scenario{
		{name: "rules", steps: []step{
			out(tcp(vm4, peer4, 1, 79, "S"), def), out(tcp(vm4, peer4, 1, 80, "S"), allow),
			out(tcp(vm4, peer4, 1, 90, "S"), allow), out(tcp(vm4, peer4, 1, 91, "S"), def),
			out(tcp(vm6, peer6, 1, 80, "S"), allow), out(tcp(vm6, other6, 1, 80, "S"), def),
			out(udp(vm4, peer4, 1, 53), allow), out(udp(vm6, peer6, 1, 53), allow), out(udp(vm4, peer4, 1, 80), def),
			out(tcp(vm4, bad4, 1, 80, "S"), drop), out(udp(vm4, bad4, 1, 53), drop), out(esp(udp(vm4, bad4, 1, 53)), drop),
			in(tcp(bad4, vm4, 1, 22, "S"), allow), // rule 1 is for the other direction
			in(tcp(peer4, vm4, 1, 22, "S"), allow), in(tcp(peer6, vm6, 1, 22, "S"), allow),
			in(tcp(peer4, vm4, 1, 80, "S"), def), in(tcp(other4, vm4, 1, 22, "S"), def),
		}},
		{name: "other protocols, packet by packet", steps: []step{
			out(esp(udp(vm4, open4, 1, 1)), allow), out(esp(udp(vm4, open4, 1, 1)), allow),
			in(esp(udp(open4, vm4, 1, 1)), allow), out(esp(udp(vm6, open6, 1, 1)), allow),
			out(esp(udp(vm4, peer4, 1, 1)), def), in(esp(udp(peer4, vm4, 1, 1)), def),
			out(udp(vm6, open6, 1, 1).with(func(p *pkt) { p.proto = 59 }), allow), // no next header
			// ICMP of the other family is just a protocol.
			out(icmp(vm4, peer4, 128, 0, 0, 0, 0, 0).with(func(p *pkt) { p.proto = 58 }), def),
			out(icmp(vm6, peer6, 8, 0, 0, 0, 0, 0).with(func(p *pkt) { p.proto = 1 }), def),
		}},
		{name: "default allow", port: netB, steps: []step{
			out(tcp(vm4, peer4, 1, 81, "S"), policy.ReasonDefaultAllow), in(tcp(peer4, vm4, 81, 1, "SA"), policy.ReasonEstablished),
			out(udp(vm6, other6, 9, 9), policy.ReasonDefaultAllow), out(tcp(vm4, bad4, 1, 81, "S"), drop),
			out(esp(udp(vm4, peer4, 1, 1)), policy.ReasonDefaultAllow),
		}},
	}
}
