package datapath

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// expect judges frames in order.
func (b *bench) expect(name string, steps ...step) {
	b.Helper()
	for i, s := range steps {
		if got := b.reason(s.hook, s.frame); got != s.want {
			b.Errorf("%s, frame %d: %v, want %v", name, i, got, s.want)
		}
	}
}

func TestExpiry(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	est, allow, def := policy.ReasonEstablished, policy.ReasonRuleAllow, policy.ReasonDefaultDrop
	o := func(flags string) pkt { return tcp(vm4, peer4, 1000, 80, flags) }
	i := func(flags string) pkt { return tcp(peer4, vm4, 80, 1000, flags) }
	a := func(flags string) pkt { return tcp(vm4, open4, 7, 8, flags) } // both may open this one
	z := func(flags string) pkt { return tcp(open4, vm4, 8, 7, flags) }
	q, answer := udp(vm6, peer6, 5, 53), udp(peer6, vm6, 53, 5)
	ping, pong := echo(vm4, peer4, true, 7), echo(peer4, vm4, false, 7)
	open := []step{out(o("S"), allow), in(i("SA"), est)}
	if err := b.FillPool(34); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		make  []step
		life  time.Duration
		alive step // judged when the flow is nearly as old as it may be
		over  step // and when it is older
	}{
		{"tcp unanswered", open[:1], 20 * time.Second, in(i("SA"), est), in(i("SA"), def)},
		{"tcp challenged", append(open[:1:1], in(i("A"), est)), 20 * time.Second, in(i("SA"), est), in(i("SA"), def)},
		{"tcp, both by its opener", append(open[:1:1], out(o("SA"), est)), 20 * time.Second, in(i("SA"), est), in(i("SA"), def)},
		{"tcp open", open, 12 * time.Hour, in(i("A"), est), in(i("A"), def)},
		{"tcp open, another SYN the other way", []step{out(a("S"), allow), in(z("SA"), est), in(z("S"), allow)}, 12 * time.Hour,
			in(z("A"), est), in(z("A"), policy.ReasonTCPNoState)},
		{"tcp opened again", append(open[:2:2], in(i("R"), est), out(o("S"), allow), in(i("SA"), est)), 12 * time.Hour, in(i("A"), est), in(i("A"), def)},
		{"tcp open, opener", open, 12 * time.Hour, out(o("A"), est), out(o("A"), policy.ReasonTCPNoState)},
		{"tcp reset", append(open[:2:2], in(i("R"), est)), 30 * time.Second, in(i("A"), est), in(i("A"), def)},
		{"tcp finished", append(open[:2:2], in(i("FA"), est), out(o("FA"), est)), 30 * time.Second, in(i("A"), est), in(i("A"), def)},
		{"tcp half finished", append(open[:2:2], in(i("FA"), est)), 12 * time.Hour, in(i("A"), est), in(i("A"), def)},
		{"udp unanswered", []step{out(q, allow)}, 30 * time.Second, in(answer, est), in(answer, def)},
		{"udp answered", []step{out(q, allow), in(answer, est)}, 180 * time.Second, in(answer, est), in(answer, def)},
		{"udp, opener", []step{out(q, allow), in(answer, est)}, 180 * time.Second, out(q, est), out(q, allow)},
		{"echo", []step{out(ping, allow)}, 10 * time.Second, in(pong, est), in(pong, def)},
		{"echo answered", []step{out(ping, allow), in(pong, est)}, 10 * time.Second, out(ping, est), out(ping, allow)},
		{"error about an old flow", open[:1], 20 * time.Second,
			in(icmpError(other4, vm4, 3, o("S"), 8), policy.ReasonRelated), in(icmpError(other4, vm4, 3, o("S"), 8), def)},
	} {
		const slack = 3000 // ticks of about 1 ms: how long these steps may take
		b.port(accessPort())
		b.expect(c.name, c.make...)
		if b.age(ticks(c.life)-slack) != 1 {
			t.Fatalf("%s: not one flow", c.name)
		}
		b.expect(c.name+", alive", c.alive)
		b.port(accessPort())
		b.expect(c.name, c.make...)
		b.age(ticks(c.life) + 1)
		b.expect(c.name+", over", c.over)
	}
}

// A flow of the port's table that has expired does not hide its successor.
func TestExpiredIsReplaced(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	b.port(accessPort())
	q, a := udp(vm4, peer4, 5, 53), udp(peer4, vm4, 53, 5)
	for range 3 {
		b.expect("udp", out(q, policy.ReasonRuleAllow), in(a, policy.ReasonEstablished), out(q, policy.ReasonEstablished))
		if settled, fresh := b.flows(); settled != 1 || fresh != 0 {
			t.Fatalf("%d answered flows and %d others, want 1 and 0", settled, fresh)
		}
		b.age(ticks(180*time.Second) + 1)
	}
	if settled, _ := b.flows(); settled != 0 {
		t.Errorf("Conns lists %d expired flows", settled)
	}
}

// A packet that read the clock before another CPU noted a later time finds the flow
// alive: what was seen after now is not of long ago.
func TestSeenAfterNow(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	b.port(accessPort())
	est, allow := policy.ReasonEstablished, policy.ReasonRuleAllow
	q, ping := udp(vm4, peer4, 5, 53), echo(vm4, peer4, true, 7)
	b.expect("open", out(tcp(vm4, peer4, 1000, 80, "S"), allow), in(tcp(peer4, vm4, 80, 1000, "SA"), est),
		out(tcp(vm4, peer4, 1001, 80, "S"), allow), out(q, allow), out(ping, allow))
	const ahead = 10_000 // ticks: that long no CPU waits, but this test may
	for range 3 {
		b.age(-ahead & 0xffffffff)
		conns, err := b.Conns(loopback)
		if err != nil || len(conns) == 0 || conns[0].Idle != 0 {
			t.Errorf("listed: %+v, %v", conns, err)
		}
		if n, err := b.GCConns(nil); n != 0 || err != nil {
			t.Errorf("freed %d: %v", n, err)
		}
		b.expect("later than now", out(tcp(vm4, peer4, 1000, 80, "A"), est), in(tcp(peer4, vm4, 80, 1000, "A"), est),
			in(tcp(peer4, vm4, 80, 1001, "A"), est), out(q, est), in(echo(peer4, vm4, false, 7), est))
	}
}

// Knobs reach the program.
func TestTimeoutKnobs(t *testing.T) {
	tick := time.Duration(1 << tickShift)
	b := newBench(t, Config{Timeouts: Timeouts{
		TCPNew: tick, TCPOpen: tick, TCPClosing: tick, UDPNew: tick, UDPOpen: tick, ICMP: tick,
	}})
	b.sync(testSets(t)...)
	b.port(accessPort())
	for _, s := range []step{
		out(tcp(vm4, peer4, 1, 80, "S"), 0), out(udp(vm4, peer4, 1, 53), 0), out(echo(vm4, peer4, true, 1), 0),
	} {
		s.want = policy.ReasonRuleAllow
		b.expect("first", s)
		b.waitTicks(3)
		b.expect("much later", s)
	}
}

// waitTicks waits until the programs' clock has moved.
func (b *bench) waitTicks(n uint32) {
	b.Helper()
	start, err := coarseTicks()
	if err != nil {
		b.Fatal(err)
	}
	for now := start; now-start < n; {
		if now, err = coarseTicks(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestTCPFlags: rules ask for flags of what belongs to no connection, and a connection is
// judged again by those of its opener.
func TestTCPFlags(t *testing.T) {
	b := newBench(t, Config{})
	rule := func(id uint32, text string, loose bool) policy.Rule {
		return policy.Rule{Key: key(id), Action: policy.Allow, Directions: policy.OnlyOut, Services: service(t, text), Loose: loose}
	}
	set := policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
		{Key: key(1), Action: policy.Drop, Directions: policy.InOut, Services: service(t, "tcp with FIN,PSH,URG")},
		rule(2, "tcp/80 with SYN,!ECE", false), rule(3, "tcp/81 with ACK,!SYN", true), rule(4, "tcp/82 from 7 with SYN", false),
	}}
	b.sync(set)
	b.port(accessPort())
	allow, drop, def, est := policy.ReasonRuleAllow, policy.ReasonRuleDrop, policy.ReasonDefaultDrop, policy.ReasonEstablished
	b.expect("flags", out(tcp(vm4, peer4, 1, 80, "S"), allow), out(tcp(vm4, peer4, 2, 80, "SE"), def), out(tcp(vm4, peer4, 3, 80, "A"), def),
		out(tcp(vm4, peer4, 4, 80, "FPU"), drop), in(tcp(peer4, vm4, 80, 5, "FPUA"), drop), out(tcp(vm4, peer4, 6, 81, "S"), def), out(tcp(vm4, peer4, 1, 81, "A"), allow),
		out(tcp(vm4, peer4, 7, 82, "S"), allow), out(tcp(vm4, peer4, 8, 82, "S"), def), out(tcp(vm6, peer6, 9, 80, "S"), allow), out(tcp(vm6, peer6, 9, 82, "S"), def))
	b.expect("answers", in(tcp(peer4, vm4, 80, 1, "SA"), est), in(tcp(peer4, vm4, 81, 1, "A"), est))
	// Another rule base, the same rules: both connections stay, each by its opener's flags.
	set.Rules = append([]policy.Rule{rule(9, "udp/9", false)}, set.Rules...)
	b.sync(set)
	b.expect("again", out(tcp(vm4, peer4, 1, 80, "A"), est), in(tcp(peer4, vm4, 81, 1, "A"), est), out(tcp(vm4, peer4, 1, 81, "A"), est))
	set.Rules[2].Services, set.Rules[3].Services = service(t, "tcp/80 with SYN,ECE"), service(t, "tcp/81 with SYN")
	b.sync(set)
	b.expect("by others", out(tcp(vm4, peer4, 1, 80, "A"), def), out(tcp(vm4, peer4, 1, 81, "A"), def))
}

func TestRevalidation(t *testing.T) {
	b := newBench(t, Config{})
	est, allow, drop, def := policy.ReasonEstablished, policy.ReasonRuleAllow, policy.ReasonRuleDrop, policy.ReasonDefaultDrop
	sets := testSets(t)
	b.sync(sets...)
	b.port(accessPort())
	o := func(flags string) pkt { return tcp(vm4, peer4, 1000, 80, flags) }
	i := func(flags string) pkt { return tcp(peer4, vm4, 80, 1000, flags) }
	q, a := udp(vm6, peer6, 5, 53), udp(peer6, vm6, 53, 5)
	ssh, back := tcp(peer4, vm4, 9, 22, "S"), tcp(vm4, peer4, 22, 9, "SA")
	b.expect("open", out(o("S"), allow), in(i("SA"), est), out(q, allow), in(a, est), in(ssh, allow), out(back, est),
		out(tcp(vm4, peer4, 2000, 80, "S"), allow))

	// A change that touches none of them leaves all of them, whoever speaks first.
	sets[0].Rules = append(sets[0].Rules, policy.Rule{Key: key(9), Action: policy.Drop, Directions: policy.InOut, Sources: nets("203.0.113.0/24")})
	b.sync(sets...)
	b.expect("unrelated change", in(i("A"), est), out(q, est), out(back, est), in(tcp(peer4, vm4, 80, 2000, "SA"), est))

	// A new Drop cuts what it matches, by the opener's words: not the answers'.
	cut := policy.Rule{Key: key(10), Action: policy.Drop, Directions: policy.OnlyOut, Services: service(t, "tcp/80")}
	b.sync(policy.Set{Network: "net-a", Rules: append([]policy.Rule{cut}, sets[0].Rules...), Default: policy.Drop})
	counters := b.sync(policy.Set{Network: "net-a", Rules: append([]policy.Rule{cut}, sets[0].Rules...), Default: policy.Drop})
	before, err := b.RuleCounters([]uint32{counters[key(10)]})
	if err != nil {
		t.Fatal(err)
	}
	b.expect("cut", in(i("A"), drop), in(i("A"), def), out(o("A"), drop), in(a, est), out(back, est),
		in(icmpError(other4, vm4, 3, tcp(vm4, peer4, 2000, 80, "S"), 8), drop))
	after, err := b.RuleCounters([]uint32{counters[key(10)]})
	if err != nil {
		t.Fatal(err)
	}
	if n := after[counters[key(10)]].Packets - before[counters[key(10)]].Packets; n != 3 {
		t.Errorf("rule 10 counts %d packets, want the 3 that it dropped", n)
	}

	// What was cut stays cut: TCP without state is not opened by allowing it.
	b.sync(sets...)
	b.expect("allowed again", out(o("A"), policy.ReasonTCPNoState), out(o("S"), allow), in(i("SA"), est))

	// Its default changes: a flow by default is judged by it.
	b.port(accessPort())
	b.sync(policy.Set{Network: "net-a", Default: policy.Allow})
	b.expect("default", out(o("S"), policy.ReasonDefaultAllow), in(i("SA"), est))
	b.sync(policy.Set{Network: "net-a", Default: policy.Drop})
	b.expect("default", in(i("A"), def))

	// Without its network nothing of a port passes, and its flows stay for later.
	b.sync(sets...)
	b.expect("again", out(o("S"), allow), in(i("SA"), est))
	b.sync(policy.Set{Network: "elsewhere", Default: policy.Allow})
	b.expect("no program", in(i("A"), policy.ReasonNoProgram), out(o("S"), policy.ReasonNoProgram))
	b.sync(sets...)
	b.expect("back", in(i("A"), est), out(o("A"), est))
}

// A port that comes under another network's policy takes no flow along that this one
// does not allow, though the generation is the same, nor by the short way.
func TestFlowsUnderAnotherPolicy(t *testing.T) {
	b := newBench(t, Config{})
	est, def := policy.ReasonEstablished, policy.ReasonDefaultDrop
	b.sync(append(testSets(t), policy.Set{Network: "net-c", Default: policy.Drop})...)
	under := func(network string) {
		t.Helper()
		c := accessPort()
		c.Policy = network
		if err := b.UpdatePort(loopback, c); err != nil {
			t.Fatal(err)
		}
	}
	b.port(accessPort())
	dns, ack := udp(vm4, peer4, 5, 53), tcp(vm4, peer4, 1000, 80, "A")
	b.expect("net-a", out(tcp(vm4, peer4, 1000, 80, "S"), policy.ReasonRuleAllow), in(tcp(peer4, vm4, 80, 1000, "SA"), est),
		out(tcp(vm4, peer4, 1001, 80, "S"), policy.ReasonRuleAllow), out(dns, policy.ReasonRuleAllow), out(ack, est), out(ack, est))
	under("net-b")
	b.expect("net-b allows it, too", out(ack, est), in(tcp(peer4, vm4, 80, 1001, "SA"), est), out(ack, est), out(ack, est), out(ack, est))
	under("net-c")
	b.expect("net-c does not", out(ack, def), in(tcp(peer4, vm4, 80, 1001, "A"), def), in(udp(peer4, vm4, 53, 5), def))
	under("net-a")
	b.expect("what was cut stays cut", out(ack, policy.ReasonTCPNoState), in(udp(peer4, vm4, 53, 5), def))
}

// A flow that a newer generation has judged is not forgotten by a packet that
// began under the older one.
func TestOlderGenerationLeavesFlows(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(policy.Set{Network: "net-a", Default: policy.Drop})
	b.port(accessPort())
	b.sync(policy.Set{Network: "net-a", Default: policy.Allow})
	o, i := tcp(vm4, peer4, 1000, 80, "S"), tcp(peer4, vm4, 80, 1000, "SA")
	b.expect("open", out(o, policy.ReasonDefaultAllow), in(i, policy.ReasonEstablished))
	newer := b.Generation()
	b.control.setGeneration(newer-1, false, [32]byte{}) // whose side still has its Drop
	b.expect("judged by the older", in(i, policy.ReasonDefaultDrop))
	b.control.setGeneration(newer, false, [32]byte{})
	b.expect("still there", in(i, policy.ReasonEstablished))

	// Nor is it taken for the older one's where both allow it.
	b.sync(policy.Set{Network: "net-a", Rules: testSets(t)[0].Rules, Default: policy.Allow})
	b.expect("judged by the newest", in(i, policy.ReasonEstablished))
	b.control.setGeneration(newer, false, [32]byte{})
	b.expect("by the one before", in(i, policy.ReasonEstablished))
	if c, err := b.Conns(loopback); err != nil || len(c) != 1 || c[0].Generation != newer+1 {
		t.Errorf("flow %+v, want generation %d: %v", c, newer+1, err)
	}
}

// A full table of a port refuses nobody: flows stay among the unanswered, and
// move when there is room.
func TestFullPort(t *testing.T) {
	const quota = 8
	b := newBench(t, Config{ConnsQuota: quota})
	b.sync(testSets(t)...)
	b.port(accessPort())
	est := policy.ReasonEstablished
	const all = 3 * quota
	for n := range uint16(all) {
		b.expect("open", out(udp(vm4, peer4, 100+n, 53), policy.ReasonRuleAllow), in(udp(peer4, vm4, 53, 100+n), est))
	}
	settled, fresh := b.flows()
	if settled < quota || settled+fresh != all {
		t.Fatalf("%d flows in the port's table and %d others, want at least %d, and %d in all", settled, fresh, quota, all)
	}
	for n := range uint16(all) {
		b.expect("later", in(udp(peer4, vm4, 53, 100+n), est), out(udp(vm4, peer4, 100+n, 53), est))
	}
	// Those beyond the quota live as long as answered ones do.
	b.age(ticks(60 * time.Second))
	b.expect("after a minute", in(udp(peer4, vm4, 53, 100+all-1), est))

	rec, err := b.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := b.innerMap(portMapConns, rec.Slot)
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	var keys []portHpFlowKey
	if err := eachFlow(inner, func(k portHpFlowKey, _ portHpFlow) { keys = append(keys, k) }); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if err := inner.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	b.waitTicks(2)
	b.expect("room again", in(udp(peer4, vm4, 53, 100+all-1), est))
	if settled, _ := b.flows(); settled != 1 {
		t.Errorf("%d flows in the port's table, want the one that had to wait", settled)
	}
}

func TestGCConns(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	b.port(accessPort())
	for n := range uint16(20) {
		b.expect("open", out(udp(vm4, peer4, 100+n, 53), policy.ReasonRuleAllow), in(udp(peer4, vm4, 53, 100+n), policy.ReasonEstablished))
	}
	if n, err := b.GCConns(nil); err != nil || n != 0 {
		t.Errorf("freed %d fresh flows: %v", n, err)
	}
	b.age(ticks(180*time.Second) + 1)
	b.expect("one is new", out(udp(vm4, peer4, 100, 53), policy.ReasonRuleAllow), in(udp(peer4, vm4, 53, 100), policy.ReasonEstablished))
	if n, err := b.GCConns(nil); err != nil || n != 19 {
		t.Errorf("freed %d flows, want 19: %v", n, err)
	}
	conns, err := b.Conns(loopback)
	if err != nil || len(conns) != 1 {
		t.Fatalf("%d flows left: %v", len(conns), err)
	}
	c := conns[0]
	if c.Local.String() != "10.1.0.5:100" || c.Remote.String() != "192.0.2.7:53" || c.Opener != policy.Out ||
		c.State != FlowOpen || c.Protocol != policy.UDP || c.VLAN != 100 || c.RuleID != 2 || c.Generation != b.Generation() {
		t.Errorf("the flow left is %+v", c)
	}
}

// A port that gets another's slot number inherits nothing of it.
func TestSlotInheritsNothing(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	b.port(accessPort())
	b.expect("old", out(udp(vm4, peer4, 1, 53), policy.ReasonRuleAllow), in(udp(peer4, vm4, 53, 1), policy.ReasonEstablished),
		out(udp(vm4, peer4, 2, 53), policy.ReasonRuleAllow))
	old, err := b.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.DetachPort(loopback); err != nil {
		t.Fatal(err)
	}
	// Whatever is free is fresh: take slots until the old one comes round again.
	for range PortsMax {
		if err := b.FillPool(b.Free() + 1); err != nil {
			t.Fatal(err)
		}
		b.port(accessPort())
		rec, err := b.record(loopback)
		if err != nil {
			t.Fatal(err)
		}
		if rec.Serial == old.Serial {
			t.Fatal("a serial was given twice")
		}
		if rec.Slot != old.Slot {
			continue
		}
		b.expect("new", in(udp(peer4, vm4, 53, 1), policy.ReasonDefaultDrop), in(udp(peer4, vm4, 53, 2), policy.ReasonDefaultDrop))
		c, err := b.PortCounters(loopback)
		if err != nil || len(c) != 1 {
			t.Errorf("counters of a new port: %v, %v", c, err)
		}
		return
	}
	t.Fatal("the slot was never used again")
}

// What leads nowhere in a program drops.
func TestBrokenProgramDrops(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	b.port(accessPort())
	syn := out(tcp(vm4, peer4, 1, 80, "S"), policy.ReasonRuleAllow)
	b.expect("whole", syn)
	slot := b.names["net-a"]*2 + uint32(b.Generation()&1)
	spec := b.inner[portMapPrograms].Copy()
	for name, words := range map[string][]uint32{
		"empty": {0}, "too wide": {46: 193}, "no tables": {0, 5, 1, 0, 900, 900, 9, 900, 900, 900, 900, 900, 900, 900, 46: 1},
		"too wide, earlier": {193}, "no tables, earlier": {1, 5, 1, 0, 900, 900, 9, 900, 900, 900, 900, 900, 900, 900},
	} {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		page := make([]byte, 512)
		for i, w := range words {
			page[4*i], page[4*i+1] = byte(w), byte(w>>8) // little endian is all that tests run on
		}
		if err := m.Put(uint32(0), page); err != nil {
			t.Fatal(err)
		}
		if err := b.maps[portMapPrograms].Put(slot, uint32(m.FD())); err != nil {
			t.Fatal(err)
		}
		b.expect(name, step{FromVM, tcp(vm4, peer4, 2, 80, "S").bytes(), policy.ReasonNoProgram})
		_ = m.Close()
	}
}

// What a rule without state allows is no connection, and leaves none behind.
func TestStateless(t *testing.T) {
	allow, est, def := policy.ReasonRuleAllow, policy.ReasonEstablished, policy.ReasonDefaultDrop
	rules := func(stateless bool) policy.Set {
		return policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
			{Key: key(1), Action: policy.Allow, Directions: policy.OnlyOut, Stateless: stateless, Services: service(t, "tcp/80", "udp/53", "icmp", "sctp")},
		}}
	}
	b := newBench(t, Config{})
	b.sync(rules(true))
	b.port(accessPort())
	syn, answer, ack := tcp(vm4, peer4, 1000, 80, "S"), tcp(peer4, vm4, 80, 1000, "SA"), tcp(vm4, peer4, 1000, 80, "A")
	ask, reply := udp(vm4, peer4, 5, 53), udp(peer4, vm4, 53, 5)
	b.expect("each by itself", out(ack, allow), out(syn, allow), in(answer, def), out(ack, allow), out(tcp(vm4, peer4, 1000, 80, "R"), allow),
		out(ask, allow), out(ask, allow), in(reply, def), in(icmpError(other4, vm4, 3, ask, 8), def),
		out(echo(vm4, peer4, true, 7), allow), in(echo(peer4, vm4, false, 7), def),
		out(sctp(vm4, peer4, 9, 2905), allow), in(sctp(peer4, vm4, 2905, 9), def))
	if settled, fresh := b.flows(); settled+fresh > 0 {
		t.Errorf("%d connections and %d unanswered ones", settled, fresh)
	}

	b.sync(rules(false))
	b.expect("with state", out(ack, policy.ReasonTCPNoState), out(syn, allow), in(answer, est), out(ack, est), out(ask, allow), in(reply, est))
	b.sync(rules(true))
	b.expect("and none any more", out(ack, allow), in(answer, def), in(reply, def), out(ask, allow), in(reply, def))
	b.sync(rules(false))
	b.expect("what was, does not come back", out(ack, policy.ReasonTCPNoState), in(reply, def))

	b.sync(rules(true))
	if err := b.FillPool(8); err != nil {
		t.Fatal(err)
	}
	b.arrive(accessPort())
	b.expect("of another node", in(reply, def), in(answer, def), out(ack, allow), in(tcp(peer4, vm4, 80, 1000, "A"), def))
}

// TCP that is allowed by a rule of a policy with tcpStrict false goes on from its middle,
// whoever of both speaks first.
func TestLoose(t *testing.T) {
	allow, est, none := policy.ReasonRuleAllow, policy.ReasonEstablished, policy.ReasonTCPNoState
	rules := func(loose bool) policy.Set {
		return policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
			{Key: key(1), Action: policy.Allow, Directions: policy.OnlyOut, Loose: loose, Services: service(t, "tcp/80")},
		}}
	}
	b := newBench(t, Config{})
	b.sync(rules(true))
	o := func(flags string) pkt { return tcp(vm4, peer4, 1000, 80, flags) }
	i := func(flags string) pkt { return tcp(peer4, vm4, 80, 1000, flags) }
	b.port(accessPort())
	b.expect("the answer alone is nobody's", in(i("A"), policy.ReasonDefaultDrop))
	b.expect("picked up", out(o("A"), allow), in(i("A"), est), out(o("A"), est), in(i("PA"), est))
	if settled, fresh := b.flows(); settled != 1 || fresh != 0 {
		t.Errorf("%d connections and %d unanswered ones, want 1 and 0", settled, fresh)
	}
	b.sync(rules(false))
	b.expect("it stays when rules are strict again", in(i("A"), est), out(o("A"), est))
	b.sync(policy.Set{Network: "net-a", Default: policy.Drop})
	b.expect("and not when it is not allowed", in(i("A"), policy.ReasonDefaultDrop), out(o("A"), policy.ReasonDefaultDrop))

	b.sync(rules(true))
	b.port(accessPort())
	b.expect("an end opens nothing", out(o("FA"), allow), in(i("A"), policy.ReasonDefaultDrop), out(o("R"), allow), in(i("A"), policy.ReasonDefaultDrop))
	b.expect("an opener opens", out(o("S"), allow), in(i("A"), est), in(i("SA"), est), out(o("A"), est))
	b.sync(rules(false))
	b.port(accessPort())
	b.expect("strict", out(o("A"), none), out(o("FA"), none))
}

// What a firm rule has allowed stays when rules change: to its end, to a firm rule that drops it, or to another rule that allows it.
func TestFirm(t *testing.T) {
	allow, est, drop := policy.ReasonRuleAllow, policy.ReasonEstablished, policy.ReasonRuleDrop
	rule := func(id uint32, action policy.Action, firm bool, services ...string) policy.Rule {
		return policy.Rule{Key: key(id), Action: action, Directions: policy.InOut, Firm: firm, Services: service(t, services...)}
	}
	rules := func(list ...policy.Rule) policy.Set {
		return policy.Set{Network: "net-a", Default: policy.Drop, Rules: list}
	}
	o := func(port uint16, flags string) pkt { return tcp(vm4, peer4, 1000, port, flags) }
	i := func(port uint16, flags string) pkt { return tcp(peer4, vm4, port, 1000, flags) }
	b := newBench(t, Config{})
	open := func() {
		t.Helper()
		b.sync(rules(rule(1, policy.Allow, true, "tcp/80"), rule(2, policy.Allow, false, "tcp/81"), rule(3, policy.Allow, true, "udp/53")))
		b.port(accessPort())
		for _, port := range []uint16{80, 81} {
			b.expect("opened", out(o(port, "S"), allow), in(i(port, "SA"), est), out(o(port, "A"), est))
		}
		b.expect("asked", out(udp(vm4, peer4, 5, 53), allow))
	}
	open()
	b.sync(rules())
	b.expect("no rule is left", out(o(80, "A"), est), in(i(80, "A"), est), out(o(81, "A"), policy.ReasonDefaultDrop), in(i(81, "A"), policy.ReasonDefaultDrop),
		in(udp(peer4, vm4, 53, 5), est))
	b.expect("nothing new", out(tcp(vm4, peer4, 1001, 80, "S"), policy.ReasonDefaultDrop))
	b.sync(rules(rule(9, policy.Drop, false, "tcp/80"), rule(10, policy.Reject, false, "udp/53")))
	b.expect("nor do others end it", out(o(80, "A"), est), in(i(80, "PA"), est), out(udp(vm4, peer4, 5, 53), est))
	b.sync(rules(rule(9, policy.Drop, true, "tcp/80")))
	b.expect("but one that is firm", out(o(80, "A"), drop), in(i(80, "A"), policy.ReasonDefaultDrop), in(udp(peer4, vm4, 53, 5), est))
	b.sync(rules())
	b.expect("for good", out(o(80, "A"), policy.ReasonDefaultDrop), in(i(80, "A"), policy.ReasonDefaultDrop))

	open()
	b.sync(rules(rule(1, policy.Allow, false, "tcp/80"), rule(2, policy.Allow, true, "tcp/81")))
	b.expect("other rules allow it", out(o(80, "A"), est), out(o(81, "A"), est))
	b.sync(rules())
	b.expect("and count from then on", out(o(80, "A"), policy.ReasonDefaultDrop), out(o(81, "A"), est))

	open()
	b.sync(rules())
	b.expect("it ends as others do", out(o(80, "FA"), est), in(i(80, "FA"), est), out(o(80, "A"), est), out(o(80, "S"), policy.ReasonDefaultDrop))
	open()
	b.sync(rules(rule(1, policy.Allow, true, "tcp/80")))
	b.port(accessPort())
	b.sync(rules())
	b.expect("what none has allowed is not kept", out(o(80, "A"), policy.ReasonDefaultDrop))
}
