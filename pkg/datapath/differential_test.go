package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

// size is a number from the environment, as HOMEPORT_DIFF_POLICIES=2000. The
// emulated kernels get less unless told otherwise.
func size(tb testing.TB, name string, native, emulated int) int {
	tb.Helper()
	if s := os.Getenv(name); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		return n
	}
	if os.Getenv("HOMEPORT_IN_VM") != "" || testing.Short() {
		return emulated
	}
	return native
}

// TestDifferential compares the programs with policy.Evaluate: every verdict, and
// after each policy all counters of reasons and of rules. Two datapaths share the
// work, each with a generator of its own.
func TestDifferential(t *testing.T) {
	policies := size(t, "HOMEPORT_DIFF_POLICIES", 500, 20)
	packets := size(t, "HOMEPORT_DIFF_PACKETS", 10_000, 1_000)
	seed := policytest.Seed(t)
	var halves [2][]int
	for i := range halves {
		halves[i] = make([]int, policytest.MaxRules)
	}
	t.Run("random", func(t *testing.T) {
		for i := range halves {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				newBench(t, Config{}).differ(policytest.New(seed+uint64(i)), (policies+1)/2, packets, halves[i])
			})
		}
	})
	if t.Failed() {
		return
	}
	won := halves[0]
	for i, n := range halves[1] {
		won[i] += n
	}
	newBench(t, Config{}).fillPositions(policytest.New(seed+2), won)
}

// differ compares so many random policies with so many packets each.
func (b *bench) differ(g *policytest.Gen, policies, packets int, won []int) {
	b.Helper()
	total := 0
	for done := 0; done < policies; {
		sets := make([]policy.Set, min(50, policies-done))
		for i := range sets {
			sets[i] = g.Set(fmt.Sprintf("n%d", i))
		}
		done += len(sets)
		counters := b.sync(sets...)
		for i := range sets {
			all := g.Packets(sets[i], packets)
			total += len(all)
			if err := b.compare(&sets[i], counters, all, won); err != nil {
				b.Fatalf("policy %d: %v", done-len(sets)+i, err)
			}
		}
	}
	b.Logf("%d policies, %d packets", policies, total)
}

// fillPositions has every position win that chance has left out.
func (b *bench) fillPositions(g *policytest.Gen, won []int) {
	b.Helper()
	chance := 0
	for round := 0; ; round++ {
		missing := 0
		for _, n := range won {
			if n == 0 {
				missing++
			}
		}
		if missing == 0 {
			b.Logf("every rule position wins; %d of them only when aimed at", chance)
			return
		}
		if round == 0 {
			chance = missing
		}
		if round == 100 {
			b.Fatalf("%d rule positions never win: %v", missing, won)
		}
		set := g.SetN("n", policytest.MaxRules)
		counters := b.sync(set)
		var aimed []policy.Packet
		for i, n := range won {
			if n > 0 {
				continue
			}
			if p, ok := g.PacketFor(set, i); ok {
				aimed = append(aimed, p)
			}
		}
		if err := b.compare(&set, counters, aimed, won); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDifferentialWide has positions of wide rows win, in sets of up to as many rules as a
// network can have: at both ends of every word of 64 rules, and so of every page.
func TestDifferentialWide(t *testing.T) {
	b := newBench(t, Config{})
	g := policytest.New(policytest.Seed(t))
	sizes := []int{129, 4096, 4097, compile.RulesMax}
	if os.Getenv("HOMEPORT_IN_VM") != "" {
		sizes = sizes[2:3] // two pages a row
	}
	for _, n := range sizes {
		for _, monitored := range []int{0, n / 2} {
			b.wide(g.Wide("n", n, monitored), g, n, monitored)
		}
	}
}

// wide aims at both ends of every word of 64 rules, or at each of a few.
func (b *bench) wide(set policy.Set, g *policytest.Gen, n, monitored int) {
	b.Helper()
	counters := b.sync(set)
	var aimed []policy.Packet
	for pos := range n {
		if n > 1000 && pos%64 != 0 && pos%64 != 63 { // of few rules too few could win
			continue
		}
		if p, ok := g.Aim(set, pos); ok {
			aimed = append(aimed, p)
		}
	}
	won := make([]int, n)
	if err := b.compare(&set, counters, aimed, won); err != nil {
		b.Fatalf("%d rules, %d monitored: %v", n, monitored, err)
	}
	decided, counted := 0, 0
	for i, w := range won {
		switch {
		case w > 0 && i >= monitored:
			decided++
		case w > 0:
			counted++
		}
	}
	if decided < (n-monitored)/64 || counted < monitored/64 {
		b.Errorf("of %d rules, %d monitored, %d decided and %d were counted by %d packets", n, monitored, decided, counted, len(aimed))
	}
}

// TestDifferentialCatches proves that the comparison can fail: each compiler with
// a bug is found out, and the one without is not.
func TestDifferentialCatches(t *testing.T) {
	b := newBench(t, Config{})
	const policies, seed = 60, 20 // always the same: this is a test of the test
	packets := size(t, "HOMEPORT_DIFF_PACKETS", 4_000, 1_000)
	bugs := policytest.Bugs()
	if os.Getenv("HOMEPORT_IN_VM") != "" {
		bugs = bugs[5:9] // that it can fail, there
	}
	generation := 0
	for _, bug := range append([]policytest.Bug{{Name: "none"}}, bugs...) {
		g := policytest.New(seed)
		won := make([]int, policytest.MaxRules)
		var caught error
		tried := 0
		for ; caught == nil && tried < policies && (bug.Name != "none" || tried < 10); tried++ {
			set := g.Set("n")
			sets := []policy.Set{set}
			counters, err := compile.Allocate(nil, sets)
			if err != nil {
				t.Fatal(err)
			}
			p, err := bug.Build(compile.Input{Sets: sets, Counters: counters})
			if err != nil {
				t.Fatalf("%s: %v", bug.Name, err)
			}
			generation++
			p.Hash = fmt.Sprintf("%064x", generation) // that of the right program could be in force
			if _, err := b.Sync(p); err != nil {
				t.Fatalf("%s: %v", bug.Name, err)
			}
			caught = b.compare(&set, counters, g.Packets(set, packets), won)
		}
		switch {
		case bug.Name == "none" && caught != nil:
			t.Fatalf("without a bug: %v", caught)
		case bug.Name != "none" && caught == nil:
			t.Errorf("not caught: %s", bug.Name)
		default:
			t.Logf("%s: policy %d: %.110v", bug.Name, tried, caught)
		}
	}
}

// outcome is what the reference says of one frame.
type outcome struct {
	reason  policy.Reason
	counter uint32
	counts  bool
	also    []uint32 // counters of Pass rules and of monitored ones, if counts is set
	frame   []uint32 // counters of Ethernet rules that did not drop it
}

// counted are the counters that count it.
func (o *outcome) counted() []uint32 {
	if !o.counts {
		return o.frame
	}
	return slices.Concat(o.frame, o.also, []uint32{o.counter})
}

// reference is the verdict of a packet that belongs to no connection.
func reference(set *policy.Set, counters compile.Counters, p policy.Packet) (outcome, policy.Verdict) {
	v := policy.Evaluate(set, p)
	key := policy.DefaultKey(set.Network)
	allow, drop := policy.ReasonDefaultAllow, policy.ReasonDefaultDrop
	if v.Rule >= 0 {
		key = set.Rules[v.Rule].Key
		allow, drop = policy.ReasonRuleAllow, policy.ReasonRuleDrop
	}
	if fragmented(p) && (v.Rule < 0 || !set.Rules[v.Rule].Ethernet) {
		allow, drop = policy.ReasonFragmentAllow, policy.ReasonFragmentDrop
	}
	o := outcome{reason: drop, counter: counters[key], counts: true}
	for _, i := range slices.Concat(v.Passed, v.Monitored) {
		if c := counters[set.Rules[i].Key]; set.Rules[i].Ethernet {
			o.frame = append(o.frame, c)
		} else {
			o.also = append(o.also, c)
		}
	}
	if p.EtherType == policy.EtherARP {
		return arpOutcome(set, counters, p, o)
	}
	if v.Action == policy.Allow {
		o.reason = allow
		if p.IP && p.Protocol == policy.TCP && p.HasService && p.Flags&(1|2|4|16) != policy.SYN && (v.Rule < 0 || !set.Rules[v.Rule].Stateless && !set.Rules[v.Rule].Loose) {
			o.reason, o.counts = policy.ReasonTCPNoState, false
		}
	}
	return o, v
}

// arpOutcome is that of ARP, which passes unless an Ethernet rule drops it; o has what is known already.
func arpOutcome(set *policy.Set, counters compile.Counters, p policy.Packet, o outcome) (outcome, policy.Verdict) {
	v, decided := policy.EvaluateFrame(set, p)
	if decided && v.Action == policy.Drop {
		return o, v
	}
	o = outcome{reason: policy.ReasonARP}
	for _, i := range v.Matched() {
		o.frame = append(o.frame, counters[set.Rules[i].Key])
	}
	return o, v
}

// fragmented: the packet can only be without a service as a non-first fragment.
func fragmented(p policy.Packet) bool {
	return p.IP && !p.HasService && (policy.HasPorts(p.Protocol) || policy.HasTypes(p.Protocol))
}

// compare runs packets at a fresh port of the set's network, and at a further one
// where a packet belongs to a flow that the port knows. Echoes are given identifiers
// that it does not.
func (b *bench) compare(set *policy.Set, counters compile.Counters, packets []policy.Packet, won []int) error {
	b.Helper()
	b.network(set.Network)
	var indexes []uint32
	for _, i := range counters {
		indexes = append(indexes, i)
	}
	if err := b.ClearRuleCounters(indexes); err != nil {
		return err
	}
	if b.told == nil {
		b.told = b.watch(true)
	}
	before := b.all()
	reasons := map[policy.Reason][2]uint64{}
	rules := map[uint32]uint64{}
	flows := map[portHpFlowKey]bool{}
	free := uint16(0)
	for n, p := range packets {
		var fresh bool
		if free, fresh = distinct(flows, p, free); !fresh {
			b.network(set.Network)
			clear(flows)
			free, _ = distinct(flows, p, free)
		}
		if n%900 == 0 {
			b.told.quota()
		}
		want, v := reference(set, counters, p)
		rule := v.Rule
		ret, err := b.progs[p.Direction].Run(&ebpf.RunOptions{Data: frameOf(p, free)})
		if err != nil {
			return fmt.Errorf("run: %w", err)
		}
		if rejected := rule >= 0 && set.Rules[rule].Action == policy.Reject; rejected && ret == answerVerdict {
			ret = dropVerdict // refuse_test has what becomes of it
		}
		if (ret == dropVerdict) != want.reason.Drops() || ret != dropVerdict && ret != passVerdict {
			return fmt.Errorf("packet %d %+v: program returns %#x, reference says %v by rule %d", n, p, ret, want.reason, rule)
		}
		if err := b.told.checkEvent(set, counters, p, want, v); err != nil {
			return fmt.Errorf("packet %d %+v: %w", n, p, err)
		}
		r := reasons[want.reason]
		r[p.Direction]++
		reasons[want.reason] = r
		for _, c := range want.counted() {
			rules[c]++
		}
		for _, rule := range v.Matched() {
			won[rule]++
		}
	}
	return errors.Join(b.compareReasons(before, reasons), b.compareRules(indexes, rules))
}

// network makes the port one of the network, with a serial that no flow knows.
func (b *bench) network(name string) {
	b.Helper()
	rec, err := b.record(loopback)
	if err != nil {
		b.port(accessPort())
		rec, err = b.record(loopback)
	}
	if err != nil {
		b.Fatal(err)
	}
	rec.Serial = b.control.nextSerial()
	rec.State = uint32(attach.Active)
	c := accessPort()
	c.Policy = name
	if err := b.putConfig(loopback, rec, c); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) compareReasons(before ReasonCounters, want map[policy.Reason][2]uint64) error {
	got := map[policy.Reason][2]uint64{}
	for r, c := range b.all() {
		n := [2]uint64{c[0].Packets - before[r][0].Packets, c[1].Packets - before[r][1].Packets}
		if n != [2]uint64{} {
			got[r] = n
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("counters of reasons (-reference +program):\n%s", diff)
	}
	return nil
}

func (b *bench) compareRules(indexes []uint32, want map[uint32]uint64) error {
	counters, err := b.RuleCounters(indexes)
	if err != nil {
		return err
	}
	got := map[uint32]uint64{}
	for i, c := range counters {
		if c.Packets > 0 {
			got[i] = c.Packets
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("counters of rules (-reference +program):\n%s", diff)
	}
	return nil
}

// distinct gives the next identifier after free with which p, if it has one, is of no
// known flow, and notes the flow; fresh says that it was not known.
func distinct(flows map[portHpFlowKey]bool, p policy.Packet, free uint16) (next uint16, fresh bool) {
	if !p.IP || !p.HasService {
		return free, true
	}
	for {
		free++
		k := portHpFlowKey{Local: as16(p.Src), Remote: as16(p.Dst), Lport: free, Proto: p.Protocol} // whoever asks
		if policy.HasPorts(p.Protocol) {
			k.Lport, k.Rport = p.SourcePort, p.Service
		}
		if p.Direction == policy.In {
			k.Local, k.Remote = k.Remote, k.Local
			if policy.HasPorts(p.Protocol) {
				k.Lport, k.Rport = k.Rport, k.Lport
			}
		}
		if fresh = !flows[k]; fresh || policy.HasPorts(p.Protocol) {
			flows[k] = true
			return free, fresh
		}
	}
}

func as16(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

// frameOf makes a frame of p by hand: millions are needed.
func frameOf(p policy.Packet, free uint16) []byte {
	f := make([]byte, 0, 128)
	f = append(append(f, p.DstMAC[:]...), p.SrcMAC[:]...)
	if !p.IP {
		return append(binary.BigEndian.AppendUint16(f, p.EtherType), 0, 0, 0, 0)
	}
	l4 := l4Of(p, free)
	part := fragmented(p)
	if p.Src.Is4() {
		f = append(f, 0x08, 0x00, 0x45, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(20+len(l4)))
		f = append(f, 0, 1, 0, 0, 64, p.Protocol, 0, 0)
		if part {
			f[14+7] = 100
		}
		f = append(append(f, p.Src.AsSlice()...), p.Dst.AsSlice()...)
		return append(f, l4...)
	}
	next := p.Protocol
	if part {
		l4 = append([]byte{next, 0, 3, 0x20, 0, 0, 0, 1}, l4...)
		next = 44
	}
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(l4)))
	f = append(f, next, 64)
	f = append(append(f, p.Src.AsSlice()...), p.Dst.AsSlice()...)
	return append(f, l4...)
}

func l4Of(p policy.Packet, free uint16) []byte {
	l4 := make([]byte, 20)
	switch {
	case !p.HasService:
	case policy.HasPorts(p.Protocol):
		binary.BigEndian.PutUint16(l4, p.SourcePort)
		binary.BigEndian.PutUint16(l4[2:], p.Service)
		l4[12], l4[13] = 0x50, p.Flags
	default:
		binary.BigEndian.PutUint16(l4, p.Service)
		binary.BigEndian.PutUint16(l4[4:], free)
	}
	return l4
}
