package datapath

import (
	"slices"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// The short way of known flows: it is taken within a tick, only then, and only by
// packets that the long way would let through.
func TestShortWay(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	est, bad := policy.ReasonEstablished, policy.ReasonMalformed
	ack := tcp(vm4, peer4, 1000, 80, "A")
	set := func(at int, v byte) []byte {
		f := ack.bytes()
		f[at] = v
		return f
	}
	// The same flow to the letter, but in an IPv6 packet with mapped addresses.
	mapped := tcp(vm6, peer6, 1000, 80, "A").bytes()
	local, remote := vm4.As16(), peer4.As16()
	copy(mapped[14+8:], local[:])
	copy(mapped[14+24:], remote[:])
	taken, rounds := 0, 0
	for ; rounds < 5 || taken == 0 && rounds < 500; rounds++ {
		if err := b.FillPool(1); err != nil {
			t.Fatal(err)
		}
		b.port(accessPort())
		b.expect("open", out(tcp(vm4, peer4, 1000, 80, "S"), policy.ReasonRuleAllow), in(tcp(peer4, vm4, 80, 1000, "SA"), est))
		if rounds < 5 {
			b.expect("open", out(ack, est), out(ack, est), step{FromVM, mapped, bad}, out(ack, est), in(tcp(peer4, vm4, 80, 1000, "A"), est),
				// What is wrong with a packet is seen as ever.
				step{FromVM, set(14+20+12, 0x40), bad}, step{FromVM, set(14+20+12, 0xf0), bad}, step{FromVM, set(14+3, 39), bad},
				step{FromVM, set(14+3, 41), bad}, step{FromVM, set(14, 0x46), bad}, step{FromVM, set(14+7, 1), bad},
				step{FromVM, set(14+7, 2), policy.ReasonFragmentDrop}, step{FromVM, set(11, 9), policy.ReasonMACSpoof},
				out(ack.tagged(tag{ctag, 100}), policy.ReasonGuestTag), out(tcp(vm4, peer4, 1001, 80, "A"), policy.ReasonTCPNoState),
				out(ack, est))
		}
		b.forgetAfter(ack.bytes(), ack.bytes(), ack.bytes())
		if b.run(FromVM, ack.bytes()) {
			taken++
		}
		b.waitTicks(1)
		b.expect("a tick later", out(ack, policy.ReasonTCPNoState))
	}
	t.Logf("%d of %d packets were within a tick", taken, rounds)
	if taken == 0 {
		t.Error("the short way is never taken")
	}
}

// An answer is noted however shortly it comes behind what it answers: flows that
// nobody has answered do not go the short way.
func TestShortWayIsForAnswered(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	q, est := udp(vm4, peer4, 5, 53), policy.ReasonEstablished
	for range 5 {
		if err := b.FillPool(1); err != nil {
			t.Fatal(err)
		}
		b.port(accessPort())
		b.expect("udp", out(q, policy.ReasonRuleAllow))
		for _, s := range []step{out(q, est), out(q, est), in(udp(peer4, vm4, 53, 5), est)} {
			b.run(s.hook, s.frame)
		}
		if settled, fresh := b.flows(); settled != 1 || fresh != 0 {
			t.Fatalf("%d answered flows and %d others, want 1 and 0", settled, fresh)
		}
	}
}

// The short way ends with the policy that let a flow through, within the tick.
func TestShortWayIsOfOnePolicy(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(network("net-a", policy.Drop), network("net-b", policy.Drop))
	b.sync(network("net-a", policy.Allow), network("net-b", policy.Drop))
	allows, ack := b.Generation(), tcp(vm4, peer4, 1000, 80, "A").bytes()
	other := accessPort()
	other.Policy = "net-b"
	for name, change := range map[string]func(){
		"another generation": func() { b.control.setGeneration(allows-1, false, [32]byte{}) }, // whose side still has its Drop
		"another network": func() {
			if err := b.UpdatePort(loopback, other); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for range 20 { // nearly all of them are within a tick
			b.control.setGeneration(allows, false, [32]byte{})
			b.port(accessPort())
			b.run(FromVM, tcp(vm4, peer4, 1000, 80, "S").bytes())
			b.run(ToVM, tcp(peer4, vm4, 80, 1000, "SA").bytes())
			b.makeKnown(ack)
			change()
			if b.run(FromVM, ack) {
				t.Fatalf("%s does not allow the flow, but it passes", name)
			}
		}
	}
}

// What may not go the short way does not, right behind packets that do.
func TestShortWayIsForPlainPackets(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	o := func(flags string) []byte { return tcp(vm4, peer4, 1000, 80, flags).bytes() }
	i := func(flags string) []byte { return tcp(peer4, vm4, 80, 1000, flags).bytes() }
	o6, q := tcp(vm6, peer6, 1000, 80, "A").bytes(), udp(vm4, peer4, 5, 53)
	set := func(f []byte, at int, v byte) []byte { f = slices.Clone(f); f[at] = v; return f }
	mapped := slices.Clone(o6) // the flow of o to the letter, but in an IPv6 packet
	local, remote := vm4.As16(), peer4.As16()
	copy(mapped[14+8:], local[:])
	copy(mapped[14+24:], remote[:])
	known := o("A")
	var others [][]byte // more than there are places: some have the known one's
	for n := range uint16(600) {
		others = append(others, tcp(vm4, peer4, 2000+n, 80, "A").bytes())
	}
	refused := func(h Hook, f []byte) func() bool { return func() bool { return !b.run(h, f) } }
	state := func() FlowState {
		conns, err := b.Conns(loopback)
		if err != nil {
			t.Fatal(err)
		}
		return conns[slices.IndexFunc(conns, func(c Conn) bool { return c.Protocol == policy.TCP && c.Local.Addr() == vm4 })].State
	}
	for name, c := range map[string]struct {
		known []byte
		ok    func() bool
	}{
		"mapped addresses": {o("A"), refused(FromVM, mapped)},
		"a SYN":            {o("A"), refused(ToVM, i("S"))},
		"a reset":          {o("A"), func() bool { return b.run(ToVM, i("RA")) && state() == FlowClosing }},
		"the end":          {o("A"), func() bool { return b.run(ToVM, i("FA")) && b.run(FromVM, o("FA")) && state() == FlowClosing }},
		"short UDP":        {q.bytes(), refused(FromVM, set(q.bytes(), 14+3, 27))},
		"cut IPv6":         {o6, refused(FromVM, set(o6, 14+5, 21))},
		"other flows": {o("A"), func() bool {
			return !slices.ContainsFunc(others, func(f []byte) bool {
				b.makeKnown(known)
				return b.run(FromVM, f)
			})
		}},
	} {
		for range 10 { // nearly all of them are within a tick
			b.port(accessPort())
			for _, s := range []step{out(tcp(vm4, peer4, 1000, 80, "S"), 0), in(tcp(peer4, vm4, 80, 1000, "SA"), 0), out(q, 0), in(udp(peer4, vm4, 53, 5), 0),
				out(tcp(vm6, peer6, 1000, 80, "S"), 0), in(tcp(peer6, vm6, 80, 1000, "SA"), 0)} {
				b.run(s.hook, s.frame)
			}
			b.makeKnown(c.known)
			if !c.ok() {
				t.Errorf("%s: not as the long way judges", name)
			}
		}
	}
}

// makeKnown has a flow from the VM go the short way, as far as the tick lasts.
func (b *bench) makeKnown(frame []byte) {
	b.Helper()
	for range 3 {
		if !b.run(FromVM, frame) {
			b.Fatal("an open flow does not pass")
		}
	}
}

// forgetAfter deletes the port's one flow right after frames from the VM.
func (b *bench) forgetAfter(frames ...[]byte) {
	b.Helper()
	inner, _ := b.flowTable()
	defer inner.Close()
	var k portHpFlowKey
	if err := inner.NextKey(nil, &k); err != nil {
		b.Fatal(err)
	}
	for _, f := range frames {
		b.run(FromVM, f)
	}
	if err := inner.Delete(k); err != nil {
		b.Fatal(err)
	}
}
