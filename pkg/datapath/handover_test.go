package datapath

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// announcement is the reverse ARP request that QEMU sends at the target.
func announcement() pkt { return pkt{ether: rarp, l4: make([]byte, 46)} }

// quarantined is one frame of each kind that a launcher pod or a VM may send early,
// and what it gets.
func quarantined() (all []step) {
	arp := pkt{ether: 0x0806, l4: make([]byte, 28)}
	for _, p := range []pkt{tcp(vm4, open4, 1, 80, "S"), tcp(vm4, open4, 1, 80, "A"), arp, icmp(vm6, peer6, 135, 0, make([]byte, 20)...), udp(vm4, peer4, 5, 53)} {
		all = append(all, both(p, policy.ReasonPortQuarantined)...)
	}
	return all
}

// What opens a quarantined port, and what does not.
func migrationScenarios() []scenario {
	q, foreign := policy.ReasonPortQuarantined, net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	est, open := policy.ReasonEstablished, tcp(vm4, open4, 1, 80, "S")
	not := func(p pkt) []step { return []step{out(p, q), out(open, q), in(tcp(open4, vm4, 80, 1, "SA"), q)} }
	all := []scenario{
		{name: "the VM's announcement opens", steps: append(quarantined(), out(announcement(), policy.ReasonRARP),
			out(open, policy.ReasonRuleAllow), in(tcp(open4, vm4, 80, 1, "SA"), est))},
		{name: "on a trunk port it opens, and stays", port: trunkPort, steps: []step{out(open.tagged(tag{ctag, 10}), q),
			out(announcement(), policy.ReasonUntagged), out(open.tagged(tag{ctag, 10}), policy.ReasonRuleAllow)}},
		{name: "with a native VLAN it passes", port: nativePort, steps: []step{out(announcement(), policy.ReasonRARP)}},
		{name: "of another MAC", steps: not(announcement().with(func(p *pkt) { p.src = foreign }))},
		{name: "tagged", port: trunkPort, steps: not(announcement().tagged(tag{ctag, 10}))},
		{name: "to the VM, not from it", steps: []step{in(announcement(), q), out(open, q)}},
		{name: "connections go on", steps: []step{out(announcement(), policy.ReasonRARP),
			in(tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonMigrated), out(tcp(vm4, peer4, 1000, 80, "A"), est)}},
	}
	for i := range all {
		all[i].state = attach.Quarantined
	}
	return all
}

// arrive makes loopback a port whose VM has just come.
func (b *bench) arrive(c attach.PortConfig) {
	b.Helper()
	b.port(c)
	if err := b.SetState(loopback, attach.Quarantined); err != nil {
		b.Fatal(err)
	}
	if err := b.HandOver(loopback); err != nil {
		b.Fatal(err)
	}
}

// Which packets without a connection a port takes over, and what they make.
func TestGrace(t *testing.T) {
	b := newBench(t, Config{})
	netC := policy.Set{Network: "net-c", Default: policy.Allow, Rules: []policy.Rule{
		{Key: key(1), Action: policy.Drop, Directions: policy.OnlyIn, Sources: nets("192.0.2.66/32")},
		{Key: key(2), Action: policy.Allow, Directions: policy.OnlyOut, Destinations: nets("192.0.2.0/24"), Services: service(t, "udp/53", "udp/123", "udp/161", "udp/500", "icmp/8/0")},
		{Key: key(3), Action: policy.Drop, Directions: policy.InOut, Sources: nets("0.0.0.0/0"), Implied: true},
	}}
	b.sync(append(testSets(t), netC)...)
	est, mig, allow := policy.ReasonEstablished, policy.ReasonMigrated, policy.ReasonRuleAllow
	def, drop := policy.ReasonDefaultDrop, policy.ReasonRuleDrop
	shut4 := netip.MustParseAddr("192.0.2.66")
	cases := []struct {
		name  string
		net   string // another than the port's usual
		steps []step
	}{
		{name: "the opener's segment first", steps: []step{out(tcp(vm4, peer4, 1000, 80, "A"), mig), in(tcp(peer4, vm4, 80, 1000, "A"), est), out(tcp(vm4, peer4, 1000, 80, "A"), est)}},
		{name: "the answer first", steps: []step{in(tcp(peer4, vm4, 80, 1000, "A"), mig), out(tcp(vm4, peer4, 1000, 80, "A"), est)}},
		{name: "opened from outside", steps: []step{out(tcp(vm4, peer4, 22, 999, "A"), mig), in(tcp(peer4, vm4, 999, 22, "A"), est)}},
		{name: "IPv6", steps: []step{in(tcp(peer6, vm6, 80, 1000, "A"), mig), out(tcp(vm6, peer6, 1000, 80, "A"), est)}},
		{name: "a handshake in the middle", steps: []step{in(tcp(peer4, vm4, 80, 1000, "SA"), mig), out(tcp(vm4, peer4, 1000, 80, "A"), est)}},
		{name: "an answer to a SYN that no rule allows", steps: []step{out(tcp(vm4, peer4, 80, 1000, "SA"), def), in(tcp(peer4, vm4, 22, 1000, "SA"), def)}},
		{name: "a SYN is judged as ever", steps: []step{in(tcp(peer4, vm4, 80, 1000, "S"), def), out(tcp(vm4, shut4, 1000, 80, "S"), drop), in(tcp(peer4, vm4, 5, 22, "S"), allow)}},
		{name: "no SYN, but as good as one", steps: []step{in(tcp(peer4, vm4, 80, 1000, "SF"), def), in(tcp(peer4, vm4, 80, 1000, "SR"), def)}},
		{name: "no rule allows either end", steps: []step{in(tcp(peer4, vm4, 4000, 4001, "A"), def), out(tcp(vm4, shut4, 1000, 80, "A"), drop), out(tcp(vm4, peer4, 1000, 9999, "A"), def)}},
		{name: "the end of a connection", steps: []step{in(tcp(peer4, vm4, 80, 1000, "R"), mig), out(tcp(vm4, peer4, 1000, 80, "S"), allow)}},
		{name: "a datagram that its rule allows", steps: []step{out(udp(vm4, peer4, 5000, 53), allow), in(udp(peer4, vm4, 53, 5000), est)}},
		{name: "an answer", steps: []step{in(udp(peer4, vm4, 53, 5000), mig), out(udp(vm4, peer4, 5000, 53), est), in(udp(peer4, vm4, 53, 5000), est)}},
		{name: "an answer from nobody that was asked", steps: []step{in(udp(peer4, vm4, 54, 5000), def)}},
		{name: "echo", steps: []step{in(echo(peer4, vm4, false, 7), mig), out(echo(vm4, peer4, true, 7), allow), in(echo(peer4, vm4, false, 7), est), in(echo(peer4, vm4, true, 7), def), out(echo(vm4, peer4, false, 8), def)}},
		{name: "a rule that drops a datagram", net: "net-b", steps: []step{out(udp(vm4, shut4, 4000, 53), drop), out(udp(vm4, shut4, 53, 4000), drop), out(udp(vm4, shut4, 123, 123), drop), out(echo(vm4, shut4, false, 9), drop)}},
		{name: "a client of a well-known port is no server", steps: []step{in(udp(peer4, vm4, 53, 161), def), in(udp(peer4, vm4, 53, 53), def), in(udp(peer4, vm4, 53, 5001), mig)}},
		{name: "protocols that talk to their like", net: "net-c", steps: []step{in(udp(peer4, vm4, 123, 123), mig), in(udp(peer4, vm4, 500, 500), mig), in(udp(peer4, vm4, 161, 161), drop)}},
		{name: "what nobody wrote drops as a default does", net: "net-c", steps: []step{in(udp(peer4, vm4, 53, 5000), mig), in(udp(peer4, vm4, 53, 161), drop), in(echo(peer4, vm4, false, 7), mig), in(udp(shut4, vm4, 53, 5000), drop)}},
		{name: "an ICMP error about a connection that nobody knows", steps: []step{in(icmpError(other4, vm4, 3, tcp(vm4, peer4, 1000, 80, "A"), 8), def)}},
	}
	if err := b.FillPool(3*len(cases) + 2); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		config := accessPort()
		if c.net != "" {
			config.Policy = c.net
		}
		b.arrive(config)
		b.expect(c.name, c.steps...)
		for _, over := range []bool{false, true} {
			b.port(config) // attached without a migration: strict from the start
			if over {      // one that is over
				b.arrive(config)
				b.agedHandover(63 * time.Second)
			}
			for _, s := range c.steps {
				if s.want == mig {
					if got := b.reason(s.hook, s.frame); !got.Drops() {
						t.Errorf("%s, strict (after grace: %v): %v", c.name, over, got)
					}
				}
			}
		}
	}
}

// agedHandover makes the port's hand-over one of long ago.
func (b *bench) agedHandover(d time.Duration) {
	b.Helper()
	rec, err := b.record(loopback)
	if err != nil {
		b.Fatal(err)
	}
	h := b.handovers.load(rec.Slot)
	h.At -= uint32(d >> handoverShift)
	b.handovers.store(rec.Slot, h)
}

// What was taken over is marked and stays, also when the grace is over; who opened it
// is guessed so that a change of policy judges it by the right rule.
func TestTakenOver(t *testing.T) {
	b := newBench(t, Config{})
	sets := testSets(t)
	b.sync(sets...)
	b.arrive(accessPort())
	est, mig := policy.ReasonEstablished, policy.ReasonMigrated
	counters := b.sync(sets...)
	hits := func(id uint32) uint64 {
		c, err := b.RuleCounters([]uint32{counters[key(id)]})
		if err != nil {
			t.Fatal(err)
		}
		return c[counters[key(id)]].Packets
	}
	before := hits(2)
	b.expect("taken over", in(tcp(peer4, vm4, 80, 1000, "A"), mig))
	if n := hits(2) - before; n != 1 {
		t.Errorf("the rule that lets it counts %d packets, want 1", n)
	}
	b.waitTicks(2)
	b.expect("not answered", in(tcp(peer4, vm4, 80, 1000, "A"), est))
	if settled, fresh := b.flows(); settled != 0 || fresh != 1 {
		t.Errorf("before its answer: %d flows in the port's table and %d among the unanswered", settled, fresh)
	}
	b.expect("answered", out(tcp(vm4, peer4, 1000, 80, "A"), est))
	conns, err := b.Conns(loopback)
	if err != nil || len(conns) != 1 || !conns[0].Migrated || conns[0].Opener != policy.Out || conns[0].RuleID != 2 {
		t.Fatalf("connections: %+v, %v", conns, err)
	}
	b.agedHandover(63 * time.Second)
	b.expect("later", out(tcp(vm4, peer4, 1000, 80, "A"), est), in(tcp(peer4, vm4, 80, 2000, "A"), policy.ReasonDefaultDrop))
	cut := policy.Rule{Key: key(10), Action: policy.Drop, Directions: policy.OnlyOut, Services: service(t, "tcp/80")}
	b.sync(policy.Set{Network: "net-a", Rules: append([]policy.Rule{cut}, sets[0].Rules...), Default: policy.Drop})
	b.expect("cut", in(tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonRuleDrop))
}

// What nobody answers in the minute is not let through after it, however often it comes.
func TestUnheard(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	b.arrive(accessPort())
	est, mig, def := policy.ReasonEstablished, policy.ReasonMigrated, policy.ReasonDefaultDrop
	for range 3 {
		b.waitTicks(2)
		b.expect("udp", in(udp(peer4, vm4, 53, 5000), map[bool]policy.Reason{true: mig, false: est}[b.conversations() == 0]))
	}
	b.expect("tcp", in(tcp(peer4, vm4, 80, 1000, "A"), mig), in(tcp(peer4, vm4, 80, 1000, "A"), est))
	b.agedHandover(63 * time.Second)
	b.expect("later", in(udp(peer4, vm4, 53, 5000), def), in(tcp(peer4, vm4, 80, 1000, "A"), def))
}

// conversations counts the port's flows.
func (b *bench) conversations() int {
	settled, fresh := b.flows()
	return settled + fresh
}

// The knob reaches the program.
func TestGraceKnob(t *testing.T) {
	b := newBench(t, Config{Timeouts: Timeouts{Grace: 2 << handoverShift}})
	b.sync(testSets(t)...)
	b.arrive(accessPort())
	b.expect("soon", in(tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonMigrated))
	b.agedHandover(4 << handoverShift)
	b.expect("late", in(tcp(peer4, vm4, 80, 2000, "A"), policy.ReasonDefaultDrop))
}

// A hand-over belongs to one port: not to the next of its slot, nor to the port once
// it is quarantined anew; and what the program saw outlives what user space writes of
// the port meanwhile.
func TestHandOverIsThePorts(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	state := func() attach.State {
		p, err := b.Port(loopback)
		if err != nil {
			t.Fatal(err)
		}
		return p.State
	}
	b.port(accessPort())
	quarantine := func() {
		if err := b.SetState(loopback, attach.Quarantined); err != nil {
			t.Fatal(err)
		}
		if state() != attach.Quarantined || b.HandedOver(loopback) {
			t.Fatalf("the port is %v, handed over: %v", state(), b.HandedOver(loopback))
		}
		b.expect("quarantine", quarantined()...)
	}
	quarantine()
	b.expect("announced", out(announcement(), policy.ReasonRARP))
	if state() != attach.Active || !b.HandedOver(loopback) {
		t.Errorf("after the announcement the port is %v, handed over: %v", state(), b.HandedOver(loopback))
	}
	c := accessPort()
	netB(&c)
	if err := b.UpdatePort(loopback, c); err != nil {
		t.Fatal(err)
	}
	b.expect("open under its new policy", out(tcp(vm4, peer4, 7, 7, "S"), policy.ReasonDefaultAllow))
	if err := b.HandOver(loopback); err != nil {
		t.Fatal(err)
	}
	if state() != attach.Active || !b.HandedOver(loopback) {
		t.Errorf("after HandOver the port is %v, handed over: %v", state(), b.HandedOver(loopback))
	}
	quarantine()

	// The slot's next port, with what the last one left.
	rec, err := b.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	b.handovers.store(rec.Slot, portHpHandover{Serial: rec.Serial, At: 1 << 20})
	rec.Serial = b.control.nextSerial()
	if err := b.putConfig(loopback, rec, c); err != nil {
		t.Fatal(err)
	}
	b.expect("the next", quarantined()...)
	if err := b.SetState(loopback, attach.Active); err != nil {
		t.Fatal(err)
	}
	if b.HandedOver(loopback) {
		t.Error("a port that was opened without its VM's arrival counts as handed over")
	}
	b.expect("is strict", in(tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonTCPNoState))
}
