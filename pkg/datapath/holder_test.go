package datapath

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// addressScenarios are those of guards by address, and of EtherTypes.
func addressScenarios() []scenario {
	trunk := func(s attach.Security) func(*attach.PortConfig) {
		return func(c *attach.PortConfig) {
			trunkPort(c)
			secured(s)(c)
		}
	}
	learn, strict := attach.Security{IPGuard: attach.GuardLearn}, attach.Security{IPGuard: attach.GuardStrict}
	arps, nds := attach.Security{ARPGuard: true}, attach.Security{NDGuard: true}
	strictARP, strictND := strict, strict
	strictARP.ARPGuard, strictND.NDGuard = true, true
	both4 := func(h AddressHolder) held { return held{vm4.String(): h, vm6.String(): h} }
	return []scenario{
		{name: "ipGuard, what is held", port: secured(learn), hold: both4(mine), steps: ownSteps(true)},
		{name: "ipGuard, firm", port: secured(learn), hold: both4(mineFirm), steps: ownSteps(true)},
		{name: "ipGuard, shared", port: secured(learn), hold: both4(shared), steps: ownSteps(true)},
		{name: "ipGuard, unknown", port: secured(learn), hold: held{}, steps: ownSteps(false)},
		{name: "ipGuard, another's", port: secured(learn), hold: both4(theirs), steps: ownSteps(false)},
		{name: "ipGuard, waiting", port: secured(learn), hold: both4(mineWaits), steps: ownSteps(false)},
		{name: "ipGuard, nobody's", port: secured(learn), hold: both4(nobodys), steps: ownSteps(false)},
		{name: "ipGuard Strict, by hearsay", port: secured(strict), hold: both4(mine), steps: ownSteps(false)},
		{name: "ipGuard Strict, firm", port: secured(strict), hold: both4(mineFirm), steps: ownSteps(true)},
		{name: "ipGuard Strict, shared", port: secured(strict), hold: both4(shared), steps: ownSteps(true)},
		{name: "no guard", port: secured(attach.Security{}), hold: both4(theirs), steps: ownSteps(true)},
		{name: "ipGuard, before there is an address", port: secured(learn), hold: held{}, steps: earlySteps()},
		{name: "ipGuard Strict, before there is an address", port: secured(strict), hold: held{}, steps: earlySteps()},
		{name: "ipGuard, link-local", port: secured(learn), hold: held{link6.String(): theirs, "fe80::6": mine, "fe80::1": nobodys}, steps: linkLocalSteps()},
		{name: "ipGuard Strict, link-local", port: secured(strict), hold: held{link6.String(): theirs, "fe80::6": mine, "fe80::1": nobodys}, steps: linkLocalSteps()},
		{name: "ipGuard, in VLANs of a trunk", port: trunk(learn), hold: both4(mine), steps: []step{
			out(udp(vm4, peer4, 5, 53).tagged(tag{ctag, 11}), policy.ReasonDefaultAllow), out(udp(vm4, peer4, 5, 53).tagged(tag{ctag, 10}), policy.ReasonIPGuard),
			out(udp(vm6, peer6, 5, 53).tagged(tag{ctag, 11}), policy.ReasonDefaultAllow), out(udp(vm6, peer6, 5, 53).tagged(tag{ctag, 10}), policy.ReasonIPGuard),
		}},
		{name: "arpGuard", port: secured(arps), hold: held{vm4.String(): mine, peer4.String(): theirs, bad4.String(): theirWait, open4.String(): shared, "10.1.0.1": nobodys}, steps: arpSteps(false)},
		{name: "arpGuard, ipGuard Strict", port: secured(strictARP), hold: held{vm4.String(): mineFirm, peer4.String(): theirs, bad4.String(): theirWait, open4.String(): shared, "10.1.0.1": nobodys, "10.1.0.6": mine}, steps: arpSteps(true)},
		{name: "no arpGuard", port: secured(learn), hold: held{vm4.String(): theirs}, steps: []step{
			out(arpBy(2, testMAC, vm4, peer4), policy.ReasonARP), out(arpBy(2, thief, vm4, peer4), policy.ReasonARP), out(arpBy(1, testMAC, vm4, peer4).with(func(p *pkt) { p.l4 = p.l4[:9] }), policy.ReasonARP),
		}},
		{name: "arpGuard, in VLANs of a trunk", port: trunk(arps), hold: held{vm4.String(): theirs}, steps: []step{
			out(arpBy(1, testMAC, vm4, peer4).tagged(tag{ctag, 11}), policy.ReasonARPGuard), out(arpBy(1, testMAC, vm4, peer4).tagged(tag{ctag, 10}), policy.ReasonARP),
			out(arpBy(1, thief, vm4, peer4).tagged(tag{ctag, 10}), policy.ReasonARPGuard),
		}},
		{name: "arpGuard, at a port that may forge", port: secured(attach.Security{ARPGuard: true, ForgedTransmits: true}), hold: held{}, steps: []step{
			out(arpBy(1, thief, vm4, peer4).with(from(thief)), policy.ReasonARP), out(arpBy(1, testMAC, vm4, peer4).with(from(thief)), policy.ReasonARPGuard),
		}},
		{name: "ndGuard", port: secured(nds), hold: held{vm6.String(): mine, peer6.String(): theirs, other6.String(): theirWait, open6.String(): shared, "fe80::1": nobodys}, steps: ndSteps(false)},
		{name: "ndGuard, ipGuard Strict", port: secured(strictND), hold: held{vm6.String(): mineFirm, peer6.String(): theirs, other6.String(): theirWait, open6.String(): shared, "fe80::1": nobodys, "fd00::6": mine}, steps: ndSteps(true)},
		{name: "no ndGuard", port: secured(strictARP), hold: held{vm6.String(): theirs}, steps: []step{
			out(nd(136, vm6, vm6, linkLayer(2, thief)...), policy.ReasonND), out(nd(135, vm6, peer6, 1), policy.ReasonND),
		}},
		{name: "ndGuard, in VLANs of a trunk", port: trunk(nds), hold: held{vm6.String(): theirs}, steps: []step{
			out(nd(136, vm6, vm6).tagged(tag{ctag, 11}), policy.ReasonNDGuard), out(nd(136, vm6, vm6).tagged(tag{ctag, 10}), policy.ReasonND),
			out(nd(136, vm6, vm6, linkLayer(2, thief)...).tagged(tag{ctag, 10}), policy.ReasonNDGuard),
		}},
		{name: "etherTypes", port: secured(attach.Security{EtherTypes: attach.EtherTypes{0x0800, 0x0806, 0x88b5}}), steps: typeSteps()},
		{name: "etherTypes, none but RARP", port: secured(attach.Security{EtherTypes: attach.EtherTypes{0x8035}}), steps: []step{
			out(udp(vm4, peer4, 5, 53), policy.ReasonEtherTypeGuard), out(arpBy(1, testMAC, vm4, peer4), policy.ReasonEtherTypeGuard),
			out(pkt{ether: rarp, l4: make([]byte, 28)}, policy.ReasonRARP), in(udp(peer4, vm4, 5, 53), policy.ReasonDefaultAllow),
		}},
		{name: "etherTypes, in VLANs of a trunk", port: trunk(attach.Security{EtherTypes: attach.EtherTypes{0x86dd}}), steps: []step{
			out(udp(vm6, peer6, 5, 53).tagged(tag{ctag, 11}), policy.ReasonDefaultAllow), out(udp(vm4, peer4, 5, 53).tagged(tag{ctag, 11}), policy.ReasonEtherTypeGuard),
			out(arpBy(1, testMAC, vm4, peer4).tagged(tag{ctag, 11}), policy.ReasonEtherTypeGuard),
		}},
	}
}

// ownSteps are packets from vm4 and vm6, which the port holds or not.
func ownSteps(held bool) []step {
	guard := func(r policy.Reason) policy.Reason {
		if held {
			return r
		}
		return policy.ReasonIPGuard
	}
	pass, open := policy.ReasonDefaultAllow, policy.ReasonEstablished
	last4, last6 := udp(vm4, peer4, 5, 53), udp(vm6, peer6, 5, 53)
	last4.frag, last4.id = 100, 7
	last6.ext = []extension{fragment6(100, false)}
	return []step{
		out(tcp(vm4, peer4, 1, 80, "S"), guard(pass)), out(udp(vm4, peer4, 5, 53), guard(pass)), out(udp(vm4, peer4, 5, 53), guard(open)),
		out(udp(vm6, peer6, 5, 53), guard(pass)), out(echo(vm4, peer4, true, 1), guard(pass)), out(echo(vm6, peer6, true, 1), guard(pass)),
		// Each fragment by its own header.
		out(last4, guard(policy.ReasonFragmentAllow)), out(last6, guard(policy.ReasonFragmentAllow)),
		out(udp(vm4, peer4, 6, 53).with(func(p *pkt) { p.more, p.id = true, 9 }), guard(pass)),
		out(udp(vm4, peer4, 6, 53).with(func(p *pkt) { p.proto = layers.IPProtocolESP }), guard(pass)),
		// What comes in is not the VM's, nor is an answer to it one from its address.
		in(tcp(peer4, vm4, 7, 22, "S"), pass), out(tcp(vm4, peer4, 22, 7, "SA"), guard(open)),
		in(tcp(other4, vm4, 1, 22, "S"), pass), in(udp(vm4, vm4, 9, 9), pass),
		// Below IP, and of other guards.
		out(arpBy(2, thief, peer4, vm4), policy.ReasonARP), out(nd(136, vm6, peer6, linkLayer(2, thief)...), policy.ReasonND), out(pkt{ether: 0x88cc, l4: make([]byte, 40)}, pass),
	}
}

// earlySteps are of a VM that has no address yet, or tells of none.
func earlySteps() []step {
	pass, guard := policy.ReasonDefaultAllow, policy.ReasonIPGuard
	zero4, all4 := netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255")
	report, routers := netip.MustParseAddr("ff02::16"), netip.MustParseAddr("ff02::2")
	mld := func(typ uint8, source netip.Addr) pkt {
		return icmp(source, report, typ, 0, make([]byte, 20)...).with(func(p *pkt) { p.ext, p.hops = []extension{pad(layers.IPProtocolIPv6HopByHop)}, 1 })
	}
	igmp := func(source netip.Addr) pkt {
		return udp(source, netip.MustParseAddr("224.0.0.22"), 0, 0).with(func(p *pkt) { p.proto, p.l4 = layers.IPProtocolIGMP, make([]byte, 8) })
	}
	return []step{
		out(dhcp(zero4, all4, 68, 67, 300), pass), out(dhcp(zero4, all4, 68, 68, 300), guard), out(udp(zero4, all4, 68, 53), guard),
		out(tcp(zero4, peer4, 68, 67, "S"), guard), out(echo(zero4, peer4, true, 1), guard), out(igmp(zero4), pass), out(igmp(vm4), guard),
		out(dhcp(vm4, all4, 68, 67, 300), guard), out(dhcp(vm6, peer6, 546, 547, 60), guard),
		out(mld(143, zero6), pass), out(mld(131, zero6), pass), out(mld(132, zero6), pass), out(mld(130, zero6), pass), out(mld(143, link6), pass), out(mld(143, vm6), guard),
		out(mld(129, zero6), guard), out(echo(zero6, peer6, true, 1), guard), out(udp(zero6, peer6, 546, 547), guard), out(tcp(zero6, peer6, 1, 80, "S"), guard),
		out(nd(135, zero6, vm6), policy.ReasonND), out(nd(133, zero6, zero6), policy.ReasonND), out(nd(133, link6, zero6), policy.ReasonND),
		out(dhcp(link6, routers, 546, 547, 60), pass),
		// As neighbour discovery, but forwarded.
		out(nd(135, zero6, vm6).with(func(p *pkt) { p.hops = 254 }), guard), out(nd(135, vm6, peer6).with(func(p *pkt) { p.hops = 254 }), guard),
	}
}

// linkLocalSteps: fe80::5 is another's, fe80::6 its own, fe80::1 nobody's to have; of others nobody knows.
func linkLocalSteps() []step {
	pass, guard := policy.ReasonDefaultAllow, policy.ReasonIPGuard
	as := func(s string) pkt { return udp(netip.MustParseAddr(s), peer6, 5, 53) }
	return []step{
		out(as("fe80::5"), guard), out(as("fe80::6"), pass), out(as("fe80::1"), guard), out(as("fe80::7"), pass), out(as("febf::7"), pass),
		out(as("fec0::7"), guard), out(as("fe7f::7"), guard), out(as("ff02::1"), guard), out(udp(netip.MustParseAddr("169.254.1.1"), peer4, 5, 53), guard),
	}
}

// arpSteps: vm4 is its own, firmly with strict, peer4 another's, bad4 waits for another, open4 is shared, 10.1.0.1 nobody's, and with
// strict 10.1.0.6 its own by hearsay.
func arpSteps(strict bool) []step {
	pass, guard := policy.ReasonARP, policy.ReasonARPGuard
	loose := pass
	if strict {
		loose = guard
	}
	zero4 := netip.IPv4Unspecified()
	gateway, hearsay := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.6")
	change := func(at int, v byte) func(*pkt) {
		return func(p *pkt) { p.l4 = slices.Clone(p.l4); p.l4[at] = v }
	}
	all := []step{
		out(arpBy(1, testMAC, vm4, peer4), pass), out(arpBy(2, testMAC, vm4, peer4), pass), out(arpBy(1, testMAC, vm4, vm4), pass), out(arpBy(2, testMAC, vm4, vm4), pass),
		out(arpBy(1, testMAC, zero4, vm4), pass), out(arpBy(1, testMAC, zero4, peer4), pass), // probes
		// Theft, and poisoning by a request, a reply and an announcement.
		out(arpBy(1, testMAC, peer4, vm4), guard), out(arpBy(2, testMAC, peer4, vm4), guard), out(arpBy(1, testMAC, peer4, peer4), guard),
		out(arpBy(2, testMAC, gateway, vm4), guard), out(arpBy(1, testMAC, gateway, gateway), guard),
		out(arpBy(2, testMAC, open4, vm4), pass), out(arpBy(2, testMAC, bad4, vm4), loose), out(arpBy(2, testMAC, other4, vm4), loose), out(arpBy(2, testMAC, hearsay, vm4), loose),
		// In the name of another MAC.
		out(arpBy(2, thief, vm4, peer4), guard), out(arpBy(1, thief, zero4, peer4), guard),
		out(pkt{ether: rarp, l4: make([]byte, 28)}, policy.ReasonRARP),
		in(arpBy(2, testMAC, peer4, vm4).with(from(peerMAC)), pass), in(arpBy(2, thief, vm4, vm4).with(from(peerMAC)), pass),
		// Padded, as on a wire.
		out(arpBy(1, testMAC, vm4, peer4).with(func(p *pkt) { p.l4 = append(slices.Clone(p.l4), make([]byte, 18)...) }), pass),
	}
	for n := range 28 {
		all = append(all, out(arpBy(1, testMAC, vm4, peer4).with(func(p *pkt) { p.l4 = p.l4[:n] }), guard))
	}
	for at := range 6 { // what it is between
		all = append(all, out(arpBy(1, testMAC, vm4, peer4).with(change(at, 0x77)), guard))
	}
	for at := 8; at < 14; at++ { // whose it is
		all = append(all, out(arpBy(1, testMAC, vm4, peer4).with(change(at, 0x77)), guard))
	}
	return all
}

// ndSteps are as arpSteps: vm6 is its own, peer6 another's, other6 waits for another, open6 is shared, fe80::1 nobody's, and with strict fd00::6
// its own by hearsay.
func ndSteps(strict bool) []step {
	pass, guard := policy.ReasonND, policy.ReasonNDGuard
	loose := pass
	if strict {
		loose = guard
	}
	gateway, hearsay := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fd00::6")
	nonce, own, forged := append([]byte{14, 1}, make([]byte, 6)...), linkLayer(1, testMAC), linkLayer(1, thief)
	ext := func(p *pkt) { p.ext = []extension{pad(layers.IPProtocolIPv6Destination)} }
	join := func(o ...[]byte) []byte { return slices.Concat(o...) }
	all := []step{
		out(nd(135, vm6, peer6, own...), pass), out(nd(135, vm6, peer6), pass), out(nd(135, vm6, peer6, own...).with(ext), pass),
		out(nd(135, zero6, vm6), pass), out(nd(135, zero6, vm6, nonce...), pass), out(nd(135, zero6, peer6), pass), // duplicate detection
		out(nd(133, link6, zero6, own...), pass), out(nd(133, zero6, zero6), pass), out(nd(133, gateway, zero6), guard), out(nd(133, peer6, zero6), guard),
		// Solicitations in another's name, which neighbours learn from.
		out(nd(135, peer6, vm6, own...), guard), out(nd(135, gateway, vm6, own...), guard), out(nd(135, open6, vm6, own...), pass),
		out(nd(135, other6, vm6, own...), loose), out(nd(135, hearsay, vm6, own...), loose), out(nd(135, link6, vm6, own...), pass),
		// Advertisements: theft, of a gateway, too.
		out(nd(136, vm6, vm6, linkLayer(2, testMAC)...), pass), out(nd(136, link6, vm6, linkLayer(2, testMAC)...), pass), out(nd(136, vm6, peer6, linkLayer(2, testMAC)...), guard),
		out(nd(136, vm6, peer6, linkLayer(2, testMAC)...).with(ext), guard), out(nd(136, vm6, gateway, linkLayer(2, testMAC)...), guard), out(nd(136, vm6, open6), pass),
		out(nd(136, vm6, other6), loose), out(nd(136, vm6, hearsay), loose), out(nd(136, vm6, link6), pass), out(nd(136, vm6, zero6), loose),
		// Another MAC in an option, wherever it stands.
		out(nd(135, vm6, peer6, forged...), guard), out(nd(133, link6, zero6, forged...), guard), out(nd(136, vm6, vm6, linkLayer(2, thief)...), guard),
		out(nd(135, vm6, peer6, join(nonce, forged)...), guard), out(nd(135, vm6, peer6, join(own, forged)...), guard), out(nd(135, vm6, peer6, join(nonce, own)...), pass),
		out(nd(135, zero6, vm6, forged...), guard), out(nd(135, vm6, peer6, linkLayer(2, thief)...), pass), // of no meaning there
		out(nd(135, vm6, peer6, forged...).with(ext), guard),
		// Options that are none.
		out(nd(135, vm6, peer6, 1, 0, 0, 0, 0, 0, 0, 0), guard), out(nd(135, vm6, peer6, 1, 2, 0, 0, 0, 0, 0, 0), guard), out(nd(135, vm6, peer6, own[:7]...), guard),
		out(nd(135, vm6, peer6, join(own, []byte{14, 0})...), guard), out(nd(135, vm6, peer6, append([]byte{1, 2, 2, 0, 0, 0, 0, 1}, make([]byte, 8)...)...), guard),
		out(nd(135, vm6, peer6, slices.Repeat(nonce, 10)...), pass), out(nd(135, vm6, peer6, slices.Repeat(nonce, 11)...), guard),
		// What is cut short.
		out(nd(135, vm6, peer6).with(func(p *pkt) { p.l4 = p.l4[:16] }), guard), out(nd(136, vm6, vm6).with(func(p *pkt) { p.l4 = p.l4[:16] }), guard),
		// Behind what the packet says that it has there may be anything.
		out(nd(135, vm6, peer6).with(func(p *pkt) { p.length = 24; p.l4 = append(slices.Clone(p.l4), 0, 0, 0, 0) }), pass),
		// In fragments.
		out(nd(136, vm6, peer6).with(func(p *pkt) { p.ext = []extension{fragment6(0, true)} }), guard), out(nd(135, vm6, peer6).with(func(p *pkt) { p.ext = []extension{fragment6(0, true)} }), guard),
		out(nd(136, vm6, peer6).with(func(p *pkt) { p.ext = []extension{fragment6(0, false)} }), guard), out(nd(136, vm6, vm6).with(func(p *pkt) { p.ext = []extension{fragment6(0, false)} }), pass),
		// Routers, who have a guard of their own, do not take others' addresses either.
		out(nd(134, link6, zero6), pass), out(nd(134, gateway, zero6), guard), out(nd(137, link6, zero6), pass), out(nd(137, gateway, zero6), guard),
		in(nd(136, peer6, vm6, linkLayer(2, thief)...).with(from(peerMAC)), pass),
	}
	return all
}

// typeSteps: IPv4, ARP and 0x88b5 may leave.
func typeSteps() []step {
	pass, guard := policy.ReasonDefaultAllow, policy.ReasonEtherTypeGuard
	other := func(t layers.EthernetType) pkt { return pkt{ether: t, l4: make([]byte, 46)} }
	none := other(1).bytes()
	none[13] = 0
	return []step{
		out(udp(vm4, peer4, 5, 53), pass), out(udp(vm6, peer6, 5, 53), guard), out(nd(135, vm6, peer6), guard), out(arpBy(1, testMAC, vm4, peer4), policy.ReasonARP),
		out(other(0x88b5), pass), out(other(0x88b6), guard), out(other(0x88cc), guard), out(other(0x8863), guard), out(other(38), guard), {FromVM, none, guard},
		out(pkt{ether: rarp, l4: make([]byte, 28)}, policy.ReasonRARP), out(hello(""), policy.ReasonHello), out(bpdu(), policy.ReasonBPDUGuard),
		out(udp(vm4, peer4, 5, 53).tagged(tag{ctag, 11}), policy.ReasonGuestTag),
		in(udp(peer6, vm6, 5, 53), pass), in(other(0x88cc), pass),
	}
}

// A connection ends within a tick when its address is another's, and lives on when it is its own again.
func TestGuardOfFlows(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	secured(attach.Security{IPGuard: attach.GuardLearn})(&c)
	b.port(c)
	for _, tt := range []struct{ syn, answer, ack pkt }{
		{tcp(vm4, peer4, 1000, 80, "S"), tcp(peer4, vm4, 80, 1000, "SA"), tcp(vm4, peer4, 1000, 80, "A")},
		{tcp(vm6, peer6, 1000, 80, "S"), tcp(peer6, vm6, 80, 1000, "SA"), tcp(vm6, peer6, 1000, 80, "A")},
	} {
		own, addr := held{vm4.String(): mine, vm6.String(): mine}, tt.syn.from
		b.hold(own, 100)
		b.expect("open", out(tt.syn, policy.ReasonDefaultAllow), in(tt.answer, policy.ReasonEstablished), out(tt.ack, policy.ReasonEstablished))
		for _, h := range []AddressHolder{theirs, mineWaits, nobodys} {
			if err := b.PutAddress(AddressKey{"net-b", 100, addr}, h); err != nil {
				t.Fatal(err)
			}
			b.waitTicks(1)
			b.expect("another's", out(tt.ack, policy.ReasonIPGuard), out(tt.ack, policy.ReasonIPGuard))
			b.hold(own, 100)
			b.expect("its own again", out(tt.ack, policy.ReasonEstablished))
		}
		if err := b.DropAddress(AddressKey{"net-b", 100, addr}); err != nil {
			t.Fatal(err)
		}
		b.waitTicks(1)
		b.expect("nobody's", out(tt.ack, policy.ReasonIPGuard))
	}
}

// What a guard drops says nothing that is told, and a switch is in force at once.
func TestGuardsTellNothing(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	secured(attach.Security{ARPGuard: true, NDGuard: true, IPGuard: attach.GuardStrict})(&c)
	c.Trunk = "net-b" // as of hold
	b.port(c)
	b.hold(held{peer4.String(): theirs, peer6.String(): theirs, vm4.String(): mine}, 100)
	heard := b.hears()
	thefts := []pkt{arpBy(2, testMAC, peer4, vm4), nd(136, vm6, peer6), arpBy(2, testMAC, vm4, peer4), dhcp(vm4, peer4, 68, 67, 300)}
	for _, p := range thefts {
		if r := b.reason(FromVM, p.bytes()); !r.Drops() {
			t.Error(r)
		}
	}
	if h := heard.next(t); h != nil {
		t.Errorf("told %+v", h)
	}
	for _, a := range b.addresses() {
		if !a.Seen.IsZero() {
			t.Errorf("%+v", a)
		}
	}
	c.Security = attach.Security{}
	if err := b.UpdatePort(loopback, c); err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, p := range thefts {
		if r := b.reason(FromVM, p.bytes()); r.Drops() {
			t.Error(r)
		}
		for heard.next(t) != nil {
			told++
		}
	}
	if told != 3 { // what is its own is noted
		t.Errorf("told of %d of 3", told)
	}
}

// TestEtherTypesLifted: until the port's record says that any EtherType may leave, the list stays as it was: an empty one would stop all.
func TestEtherTypesLifted(t *testing.T) {
	b := newBench(t, Config{})
	c, list := accessPort(), attach.EtherTypes{0x0800, 0x0806}
	c.Security.EtherTypes = list
	b.port(c)
	c.Security.EtherTypes = attach.EtherTypes{}
	if err := b.UpdatePort(loopback, c); err != nil {
		t.Fatal(err)
	}
	rec, err := b.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	var now portHpEthertypes
	if err := b.maps[portMapPortEthertypes].Lookup(rec.Slot, &now); err != nil || now.Of != list {
		t.Errorf("the list is %v: %v", now.Of, err)
	}
	if got, err := b.securityOf(rec); err != nil || got.EtherTypes != (attach.EtherTypes{}) {
		t.Errorf("in force are %v: %v", got.EtherTypes, err)
	}
}

// An Ethernet rule that allows a frame does not let it past a guard, and is not said to have dropped it.
func TestGuardsBehindEthernetRules(t *testing.T) {
	b := newBench(t, Config{})
	set := policy.Set{Network: "net-b", Default: policy.Drop, Rules: []policy.Rule{
		{Key: key(1), Ethernet: true, Action: policy.Allow, Directions: policy.InOut, Log: true},
	}}
	b.sync(set)
	w := b.watch(true)
	c := accessPort()
	secured(attach.Security{ARPGuard: true, NDGuard: true, IPGuard: attach.GuardLearn, EtherTypes: attach.EtherTypes{0x0800, 0x0806, 0x86dd}})(&c)
	b.port(c)
	b.hold(held{peer4.String(): theirs, peer6.String(): theirs}, 100)
	for _, s := range []step{
		out(arpBy(2, testMAC, peer4, vm4), policy.ReasonARPGuard), out(nd(136, vm6, peer6), policy.ReasonNDGuard),
		out(udp(peer4, vm4, 5, 53), policy.ReasonIPGuard), out(pkt{ether: 0x1234, l4: make([]byte, 46)}, policy.ReasonEtherTypeGuard),
	} {
		s.frame = append(append(slices.Clone(s.frame[:6]), testMAC...), s.frame[12:]...)
		if r := b.reason(FromVM, s.frame); r != s.want {
			t.Errorf("%v, want %v", r, s.want)
		}
		if e := w.next(); e == nil || e.Reason != s.want || e.Rule != NoRule || e.Logged {
			t.Errorf("%v: told %+v", s.want, e)
		}
	}
	if r := b.reason(FromVM, arpBy(2, testMAC, vm4, peer4).bytes()); r != policy.ReasonARP {
		t.Error(r)
	}
}

// What is put into a port's record is what is read of it, switch by switch.
func TestSecurityIsRead(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	full := attach.EtherTypes{}
	for i := range full {
		full[i] = uint16(0x8800 + i)
	}
	for text, s := range map[string]attach.Security{
		"":                           {BPDUs: true},
		"bpduGuard, ipGuard Learn":   {IPGuard: attach.GuardLearn},
		"bpduGuard, ipGuard Strict":  {IPGuard: attach.GuardStrict},
		"bpduGuard, arpGuard":        {ARPGuard: true},
		"bpduGuard, ndGuard":         {NDGuard: true},
		"bpduGuard, suppression":     {Suppression: true},
		"bpduGuard, etherTypes RARP": {EtherTypes: attach.EtherTypes{0x8035}},
		"etherTypes IPv4 ARP 0x88b5": {BPDUs: true, EtherTypes: attach.EtherTypes{0x0800, 0x0806, 0x88b5}},
		"promiscuous, forgedTransmits, macChanges, bpduGuard, raGuard, dhcpServerGuard, ipGuard Strict, arpGuard, ndGuard, etherTypes " + full.String() + ", suppression, broadcast 1/s, multicast 2/s, unknownUnicast 3/s": {
			Promiscuous: true, ForgedTransmits: true, MACChanges: true, RAGuard: true, DHCPServerGuard: true, IPGuard: attach.GuardStrict, ARPGuard: true, NDGuard: true,
			EtherTypes: full, Suppression: true, BroadcastLimit: 1, MulticastLimit: 2, UnicastLimit: 3},
	} {
		c := accessPort()
		c.Security = s
		b.port(c)
		p, err := b.Port(loopback)
		if err != nil || p.Security != s || p.Security.String() != text {
			t.Errorf("%q: read %+v, %v", text, p.Security, err)
		}
	}
	c := accessPort()
	c.Security.IPGuard = "Loose"
	if err := b.UpdatePort(loopback, c); err == nil {
		t.Error("a guard that there is not is taken")
	}
}

// Whatever a frame says, the guard of ARP says of it what this does in Go, and what is told of it is its beginning.
func TestGuardsOnNoise(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	secured(attach.Security{BPDUs: true, ARPGuard: true, NDGuard: true})(&c)
	b.port(c)
	b.hold(held{peer4.String(): theirs, vm4.String(): mine, peer6.String(): theirs}, 100)
	heard := b.hears()
	lot := rand.New(rand.NewPCG(7, 7))
	seeds := [][]byte{arpBy(1, testMAC, vm4, peer4).bytes(), arpBy(2, testMAC, peer4, vm4).bytes(), arpBy(2, testMAC, other4, vm4).bytes(),
		nd(135, vm6, peer6, linkLayer(1, testMAC)...).bytes(), nd(136, vm6, vm6, linkLayer(2, testMAC)...).bytes(), dhcp(vm4, peer4, 68, 67, 300).bytes()}
	sha, ethernet := string(testMAC), string([]byte{0, 1, 8, 0, 6, 4})
	judged, told := map[policy.Reason]int{}, 0
	for range size(t, "HOMEPORT_NOISE", 4000, 500) {
		frame := slices.Clone(seeds[lot.IntN(len(seeds))])
		for range lot.IntN(3) {
			frame[12+lot.IntN(len(frame)-12)] = byte(lot.Uint32())
		}
		least := 14
		if binary.BigEndian.Uint16(frame[12:]) != uint16(layers.EthernetTypeARP) {
			least += 40 // no kernel runs a program on an IP packet without its header
		}
		if lot.IntN(4) == 0 && len(frame) > least {
			frame = frame[:least+lot.IntN(len(frame)-least)]
		}
		got := b.reason(FromVM, frame)
		judged[got]++
		if got == policy.ReasonARP || got == policy.ReasonARPGuard {
			body := frame[14:]
			want := len(body) >= 28 && string(body[:6]) == ethernet && string(body[8:14]) == sha && netip.AddrFrom4([4]byte(body[14:18])) != peer4
			if want != (got == policy.ReasonARP) {
				t.Errorf("%x: %v", frame, got)
			}
		}
		for h := heard.next(t); h != nil; h = heard.next(t) {
			told++
			if got.Drops() || len(h.Frame) > HeardLong || !bytes.HasPrefix(frame, h.Frame) || h.Length != len(frame) {
				t.Errorf("%v: told %d of %d bytes", got, len(h.Frame), len(frame))
			}
		}
		b.quiet()
	}
	t.Logf("%v, told %d", judged, told)
	for _, r := range []policy.Reason{policy.ReasonARP, policy.ReasonARPGuard, policy.ReasonND, policy.ReasonNDGuard} {
		if judged[r] == 0 {
			t.Errorf("none is %v", r)
		}
	}
	if told == 0 {
		t.Error("nothing is told")
	}
}
