package datapath

import (
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/policy"
)

var zero6 = netip.IPv6Unspecified()

func tcpScenarios() []scenario {
	est, allow := policy.ReasonEstablished, policy.ReasonRuleAllow
	stray, def := policy.ReasonTCPNoState, policy.ReasonDefaultDrop
	o := func(flags string) pkt { return tcp(vm4, peer4, 1000, 80, flags) }
	i := func(flags string) pkt { return tcp(peer4, vm4, 80, 1000, flags) }
	o6 := func(flags string) pkt { return tcp(vm6, peer6, 1000, 80, flags) }
	i6 := func(flags string) pkt { return tcp(peer6, vm6, 80, 1000, flags) }
	// Both directions may open these.
	a := func(flags string) pkt { return tcp(vm4, open4, 7, 8, flags) }
	z := func(flags string) pkt { return tcp(open4, vm4, 8, 7, flags) }
	return []scenario{
		{name: "tcp4", steps: []step{
			out(o("S"), allow), out(o("S"), est), in(i("SA"), est), out(o("A"), est), in(i("A"), est),
			out(o("FA"), est), in(i("FA"), est), out(o("A"), est)}},
		{name: "tcp6", steps: []step{out(o6("S"), allow), in(i6("SA"), est), out(o6("A"), est), in(i6("R"), est)}},
		{name: "tcp in", steps: []step{
			in(tcp(peer4, vm4, 9, 22, "S"), allow), out(tcp(vm4, peer4, 22, 9, "SA"), est), in(tcp(peer4, vm4, 9, 22, "A"), est)}},
		{name: "only a SYN opens", steps: []step{
			out(o("A"), stray), out(o("SA"), stray), out(o("SF"), stray), out(o("SR"), stray), out(o("R"), stray),
			out(o("F"), stray), out(o(""), stray), out(tcp(vm4, peer4, 1, 91, "A"), def),
			out(tcp(vm4, bad4, 1, 80, "A"), policy.ReasonRuleDrop), in(i("SA"), def), in(i("R"), def),
			out(o("S"), allow), in(i("SA"), est)}},
		{name: "other ends are other flows", steps: []step{
			out(o("S"), allow), in(tcp(peer4, vm4, 80, 1001, "SA"), def), in(tcp(peer4, vm4, 81, 1000, "SA"), def),
			in(tcp(open4, vm4, 80, 1000, "SA"), stray), in(udp(peer4, vm4, 80, 1000), def)}},
		{name: "reverse SYN is an opener of its own", steps: []step{
			out(o("S"), allow), in(i("S"), def), in(i("SA"), est), in(i("S"), def), out(o("A"), est),
			out(a("S"), allow), in(z("S"), allow), out(a("SA"), est), in(z("A"), est), out(a("S"), allow), in(z("A"), est)}},
		{name: "nor does it open by odd flags", steps: []step{
			out(o("S"), allow), in(i("SF"), def), in(i("SR"), def), in(i("SA"), est), in(i("SF"), def), in(i("SR"), def),
			in(i("A"), est), out(o("R"), est), out(o("SF"), stray), out(o("SR"), stray), in(i("A"), est)}},
		{name: "ports are used again", steps: []step{
			out(o("S"), allow), in(i("SA"), est), out(o("R"), est), out(o("A"), est), out(o("S"), allow),
			in(i("RA"), est), out(o("S"), allow), in(i("SA"), est)}},
		{name: "a lone ACK does not answer", steps: []step{
			out(o("S"), allow), in(i("A"), est), in(i("S"), def), out(o("R"), est), out(o("S"), allow)}},
	}
}

func datagramScenarios() []scenario {
	est, allow, def := policy.ReasonEstablished, policy.ReasonRuleAllow, policy.ReasonDefaultDrop
	var all []scenario
	for _, f := range []struct {
		name     string
		vm, peer netip.Addr
	}{{"4", vm4, peer4}, {"6", vm6, peer6}} {
		all = append(all,
			scenario{name: "udp" + f.name, steps: []step{
				out(udp(f.vm, f.peer, 5, 53), allow), out(udp(f.vm, f.peer, 5, 53), est), in(udp(f.peer, f.vm, 53, 5), est),
				in(udp(f.peer, f.vm, 53, 6), def), in(udp(f.peer, f.vm, 54, 5), def)}},
			scenario{name: "echo" + f.name, steps: []step{
				in(echo(f.peer, f.vm, false, 7), def), // a reply without a request
				out(echo(f.vm, f.peer, true, 7), allow),
				out(echo(f.vm, f.peer, true, 7), est),
				in(echo(f.peer, f.vm, true, 7), def), // a request does not ride on a flow the other way
				in(echo(f.peer, f.vm, false, 8), def),
				in(echo(f.peer, f.vm, false, 7).with(func(p *pkt) { p.l4[1] = 1 }), def),
				in(echo(f.peer, f.vm, false, 7), est),
				in(echo(f.peer, f.vm, true, 7), def),
				out(echo(f.vm, f.peer, false, 7), def), // nor a reply
			}},
			scenario{name: "echo with a code is no echo" + f.name, port: netB, steps: []step{
				out(echo(f.vm, f.peer, true, 9).with(func(p *pkt) { p.l4[1] = 1 }), policy.ReasonDefaultAllow),
				in(echo(f.peer, f.vm, false, 9), policy.ReasonDefaultAllow)}},
			scenario{name: "other ICMP has no state" + f.name, port: netB, steps: []step{
				out(icmp(f.vm, f.peer, 13, 0, 0, 1, 0, 0), policy.ReasonDefaultAllow),
				out(icmp(f.vm, f.peer, 13, 0, 0, 1, 0, 0), policy.ReasonDefaultAllow)}})
	}
	return all
}

func errorScenarios() []scenario {
	est, allow, def, rel := policy.ReasonEstablished, policy.ReasonRuleAllow, policy.ReasonDefaultDrop, policy.ReasonRelated
	syn, dns, ping := tcp(vm4, peer4, 1000, 80, "S"), udp(vm4, peer4, 5, 53), echo(vm4, peer4, true, 7)
	syn6, dns6, ping6 := tcp(vm6, peer6, 1000, 80, "S"), udp(vm6, peer6, 5, 53), echo(vm6, peer6, true, 7)
	ssh := tcp(peer4, vm4, 9, 22, "S")
	quote := func(typ uint8, about pkt, n int) pkt { return icmpError(other4, vm4, typ, about, n) }
	quote6 := func(typ uint8, about pkt, n int) pkt { return icmpError(other6, vm6, typ, about, n) }
	var known []step
	for _, p := range []pkt{syn, dns, ping} {
		known = append(known, in(quote(3, p, 8), def), out(p, allow), in(quote(3, p, 8), rel), in(quote(11, p, 8), rel),
			in(quote(12, p, 8), rel), in(quote(5, p, 8), def), in(quote(4, p, 8), def), in(quote(3, p, 7), def))
	}
	for _, p := range []pkt{syn6, dns6, ping6} {
		known = append(known, in(quote6(1, p, 8), def), out(p, allow), in(quote6(1, p, 8), rel), in(quote6(2, p, 8), rel),
			in(quote6(3, p, 8), rel), in(quote6(4, p, 8), rel), in(quote6(5, p, 8), def), in(quote6(1, p, 7), def))
	}
	return []scenario{
		{name: "ICMP errors about flows", steps: known},
		{name: "ICMP errors the other way", steps: []step{
			in(ssh, allow), out(icmpError(vm4, peer4, 3, ssh, 8), rel),
			out(icmpError(vm4, open4, 3, ssh, 8), allow), // not to whom the packet came from: rule 5 decides
			in(icmpError(other4, vm4, 3, ssh, 8), def),   // quotes what the VM never sent
			out(tcp(vm4, peer4, 22, 9, "SA"), est), in(quote(3, tcp(vm4, peer4, 22, 9, "SA"), 8), rel)}},
		{name: "ICMP errors without a known flow", steps: []step{
			out(syn, allow),
			in(quote(3, tcp(vm4, peer4, 1001, 80, "S"), 8), def),
			in(quote(3, syn.with(func(p *pkt) { p.options = 4 }), 8), rel),
			in(quote(3, syn.with(func(p *pkt) { p.frag = 8 }), 8), def),
			in(quote(3, syn.with(func(p *pkt) { p.proto = layers.IPProtocolESP }), 8), def),
			in(quote(3, icmp(vm4, peer4, 3, 0, 0, 0, 0, 0), 8), def), // about an error
			out(ping, allow), // and about no echo, but made to have its key
			in(quote(3, icmp(vm4, peer4, 13, 0, 0, 7, 0, 1).with(func(p *pkt) { p.l4[3] = byte(policy.Out) + 1 }), 8), def),
			in(icmp(other4, vm4, 3, 0, 0, 0, 0, 0), def),
			in(icmp(open4, vm4, 3, 0, 0, 0, 0, 0), allow),
			out(syn6, allow),
			in(quote6(1, syn6.with(func(p *pkt) { p.ext = []extension{fragment6(7, true)} }), 16), def),
			in(quote6(1, syn6.with(func(p *pkt) { p.ext = slices.Repeat([]extension{pad(60)}, 7) }), 64), def),
			in(quote6(1, syn6.with(func(p *pkt) { p.ext = []extension{pad(60)} }), 15), def)}},
		{name: "ICMP errors about packets with extension headers", steps: []step{
			out(syn6, allow), out(dns6, allow), // a router has to cut these, or to say that they are too big
			in(quote6(2, dns6.with(func(p *pkt) { p.ext = []extension{fragment6(0, true)} }), 16), rel),
			in(quote6(2, syn6.with(func(p *pkt) { p.ext = []extension{pad(0), pad(60)} }), 24), rel)}},
	}
}

func fragmentScenarios() []scenario {
	est, allow := policy.ReasonEstablished, policy.ReasonRuleAllow
	bad, fallow, fdrop := policy.ReasonMalformed, policy.ReasonFragmentAllow, policy.ReasonFragmentDrop
	frag := func(p pkt, offset uint16, more bool) pkt {
		if p.from.Is6() {
			p.ext = []extension{fragment6(offset, more)}
			return p
		}
		p.frag, p.more = offset, more
		return p
	}
	cut := func(p pkt, n int) pkt { p.l4 = p.l4[:n]; return p }
	long := func(p pkt) pkt { p.l4 = append(p.l4[:len(p.l4):len(p.l4)], make([]byte, 64)...); return p }
	options := func(p pkt) pkt { p.l4 = slices.Clone(p.l4); p.l4[12] = 0x60; return p }
	var all []scenario
	for _, f := range []struct {
		name           string
		vm, peer, open netip.Addr
	}{{"4", vm4, peer4, open4}, {"6", vm6, peer6, open6}} {
		s, d, e := tcp(f.vm, f.peer, 1, 80, "S"), udp(f.vm, f.peer, 1, 53), echo(f.vm, f.peer, true, 3)
		all = append(all,
			scenario{name: "fragments" + f.name, steps: []step{
				out(frag(d, 2, false), fdrop), out(frag(d, 100, true), fdrop), in(frag(udp(f.peer, f.vm, 53, 1), 9, false), fdrop),
				out(frag(d, 0, true), allow), out(frag(d, 2, false), fallow), out(frag(d, 100, true), fallow), in(frag(udp(f.peer, f.vm, 53, 1), 9, false), fdrop),
				in(frag(udp(f.peer, f.vm, 53, 1), 0, true), est), in(frag(udp(f.peer, f.vm, 53, 1), 9, false), fallow),
				out(frag(udp(f.vm, f.open, 1, 9), 2, false), fallow), in(frag(udp(f.open, f.vm, 1, 9), 2, true), fallow),
				out(frag(long(s), 0, true), allow), out(frag(e, 0, true), allow)}},
			scenario{name: "tiny first fragments" + f.name, steps: []step{
				out(frag(cut(s, 19), 0, true), bad), out(frag(cut(s, 8), 0, true), bad), out(frag(s, 0, true), allow),
				out(frag(options(s), 0, true), est), out(options(s), bad), // its options may follow
				out(frag(cut(d, 7), 0, true), bad), out(frag(cut(d, 8), 0, true), allow),
				out(frag(cut(e, 7), 0, true), bad), out(frag(cut(e, 8), 0, true), allow)}},
			scenario{name: "overlapping fragment" + f.name, port: netB, steps: []step{
				out(frag(s, 1, true), bad), out(frag(s, 1, false), bad), out(frag(s, 2, false), fallow), out(frag(d, 2, false), fallow)}})
	}
	return append(all, scenario{name: "fragments of whom nothing passes", steps: []step{
		out(frag(udp(vm4, bad4, 1, 53), 9, false), fdrop)}},
		scenario{name: "overlapping, by what it says to be", port: netB, steps: []step{ // IPv6 does not believe that
			out(frag(udp(vm4, peer4, 1, 53), 1, false), fallow), out(frag(udp(vm6, peer6, 1, 53), 1, false), bad)}},
		scenario{name: "atomic fragment", steps: []step{out(frag(udp(vm6, peer6, 1, 53), 0, false), allow),
			in(udp(peer6, vm6, 53, 1), est)}})
}

func headerScenarios() []scenario {
	allow, def := policy.ReasonRuleAllow, policy.ReasonDefaultDrop
	ext := func(p pkt, e ...extension) pkt { p.ext = e; return p }
	repeat := func(n int) (all []extension) {
		for range n {
			all = append(all, pad(layers.IPProtocolIPv6Destination))
		}
		return all
	}
	d := udp(vm6, peer6, 1, 53)
	auth := extension{layers.IPProtocolAH, append([]byte{1}, make([]byte, 10)...)} // 12 bytes
	long := extension{layers.IPProtocolIPv6Routing, append([]byte{2}, make([]byte, 22)...)}
	return []scenario{
		{name: "IPv6 extension headers", steps: []step{
			out(ext(d, pad(0)), allow), out(ext(d, pad(43)), policy.ReasonEstablished), out(ext(d, pad(0), long, pad(60)), policy.ReasonEstablished),
			out(ext(d, auth), policy.ReasonEstablished), out(ext(d, fragment6(0, false), pad(60)), policy.ReasonEstablished),
			out(ext(d, repeat(6)...), policy.ReasonEstablished), out(ext(d, repeat(7)...), policy.ReasonTooManyHeaders),
			out(ext(d, repeat(12)...), policy.ReasonTooManyHeaders), in(ext(d.flip(), repeat(7)...), policy.ReasonTooManyHeaders),
			out(ext(udp(vm6, other6, 1, 53), pad(0), pad(60)), def)}},
		{name: "what cannot be looked into", steps: []step{
			out(ext(d, extension{50, make([]byte, 15)}), def), // ESP
			out(ext(udp(vm6, open6, 1, 1), extension{50, make([]byte, 15)}), allow),
			out(ext(udp(vm6, open6, 1, 1), extension{135, make([]byte, 7)}), allow)}}, // mobility: any other protocol
	}
}

func malformedScenarios() []scenario {
	// BPF_PROG_TEST_RUN refuses cut IP headers itself, but does not look behind a tag.
	const ip = 14 + 4
	bad := policy.ReasonMalformed
	raw := func(p pkt, change func([]byte) []byte) []step {
		f := change(p.tagged(tag{ctag, 10}).bytes())
		return []step{{FromVM, f, bad}, {ToVM, f, bad}}
	}
	cut := func(n int) func([]byte) []byte { return func(f []byte) []byte { return f[:n] } }
	set := func(at int, v byte) func([]byte) []byte {
		return func(f []byte) []byte { f[at] = v; return f }
	}
	// mapped writes ::ffff:10.0.0.1 over the address at an offset of the IPv6 header.
	mapped := func(at int) func([]byte) []byte {
		a := netip.MustParseAddr("::ffff:10.0.0.1").As16()
		return func(f []byte) []byte { copy(f[ip+at:], a[:]); return f }
	}
	s, s6 := tcp(vm4, peer4, 1, 80, "S"), tcp(vm6, peer6, 1, 80, "S")
	var steps []step
	for _, c := range [][]step{
		raw(s, cut(ip+1)), raw(s, cut(ip+19)), raw(s, cut(ip+20)), raw(s, cut(ip+39)), // shorter than its headers say
		raw(s, set(ip, 0x65)), raw(s, set(ip, 0x44)), raw(s, set(ip, 0x4f)), // version, header length
		raw(s, set(ip+3, 19)), raw(s, set(ip+3, 39)), raw(s, set(ip+3, 41)), raw(s, set(ip+3, 0)), // total length
		raw(s, set(ip+20+12, 0x40)), raw(s, set(ip+20+12, 0x60)), // TCP header length
		raw(s6, cut(ip+1)), raw(s6, cut(ip+39)), raw(s6, cut(ip+40)), raw(s6, cut(ip+59)),
		raw(s6, set(ip, 0x45)), raw(s6, set(ip+5, 19)), raw(s6, set(ip+5, 21)), raw(s6, set(ip+5, 0)),
		raw(s6, set(ip+40+12, 0xf0)),
		raw(s6, mapped(8)), raw(s6, mapped(24)), // would pass for IPv4
		raw(udp(vm4, peer4, 1, 53), set(ip+3, 27)), raw(echo(vm4, peer4, true, 1), set(ip+3, 27)),
		raw(s6.with(func(p *pkt) { p.ext = []extension{pad(60)} }), set(ip+40+1, 3)), // header longer than the packet
		raw(s6.with(func(p *pkt) { p.ext = []extension{pad(60)} }), set(ip+40+1, 2)), // nothing behind it
		raw(s6.with(func(p *pkt) { p.ext = []extension{pad(60)}; p.l4 = nil }), cut(ip+40+7)),
		raw(s6.with(func(p *pkt) { p.ext = []extension{pad(60)}; p.proto = 59 }), set(ip+40+1, 3)),
	} {
		steps = append(steps, c...)
	}
	trunk := s.tagged(tag{ctag, 10}).bytes()[:16]
	return []scenario{
		{name: "malformed", port: trunkPort, steps: steps},
		{name: "cut in its tag", port: trunkPort, steps: []step{{FromVM, trunk, bad}, {ToVM, trunk, bad}}},
		{name: "longer than it says", steps: []step{{FromVM, append(s.bytes(), make([]byte, 6)...), policy.ReasonRuleAllow}}},
		{name: "options", steps: []step{
			out(s.with(func(p *pkt) { p.options = 4 }), policy.ReasonRuleAllow),
			out(s.with(func(p *pkt) { p.options = 40 }), policy.ReasonEstablished)}},
	}
}
