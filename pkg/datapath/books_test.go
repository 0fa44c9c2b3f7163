package datapath

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// A node with many rules has the counters for them, and one with few has few books. They
// outlive the process, and what each counts is its own.
func TestManyRules(t *testing.T) {
	fs := newBPFFS(t)
	b := newBench(t, Config{BPFFS: fs})
	b.port(accessPort())
	set := policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
		{Key: key(1), Action: policy.Allow, Directions: policy.OnlyOut, Services: service(t, "udp/1")},
		{Key: key(2), Action: policy.Allow, Directions: policy.OnlyOut, Services: service(t, "udp/2")},
	}}
	write := func(first, second, last uint32) {
		t.Helper()
		counters := compile.Counters{key(1): first, key(2): second, policy.DefaultKey("net-a"): last}
		p, err := compile.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Sync(p); err != nil {
			t.Fatal(err)
		}
	}
	hits := func(indexes ...uint32) (out []uint64) {
		t.Helper()
		got, err := b.RuleCounters(indexes)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range indexes {
			if (got[i].Packets > 0) == got[i].Last.IsZero() {
				t.Errorf("counter %d: %+v", i, got[i])
			}
			out = append(out, got[i].Packets)
		}
		return out
	}
	expect := func(name string, want []uint64, indexes ...uint32) {
		t.Helper()
		if got := hits(indexes...); !slices.Equal(got, want) {
			t.Errorf("%s: counters %v are at %v, want %v", name, indexes, got, want)
		}
	}
	const last, next = RuleCountersMax - 1, bookCounters
	write(0, next, 1)
	if len(b.books) != 2 {
		t.Errorf("%d books for %d counters", len(b.books), next+1)
	}
	one, two, other := udp(vm4, peer4, 9, 1), udp(vm4, peer4, 9, 2), udp(vm4, peer4, 9, 3)
	b.expect("first", out(one, policy.ReasonRuleAllow), out(two, policy.ReasonRuleAllow), out(other, policy.ReasonDefaultDrop), out(other, policy.ReasonDefaultDrop))
	expect("first", []uint64{1, 2, 1, 0, 0}, 0, 1, next, next+1, last)

	write(0, last, next)
	if len(b.books) != booksMax {
		t.Errorf("%d books for all counters", len(b.books))
	}
	b.expect("then", out(udp(vm4, peer4, 10, 2), policy.ReasonRuleAllow), out(other, policy.ReasonDefaultDrop))
	expect("then", []uint64{1, 2, 2, 0, 1}, 0, 1, next, next+1, last)

	// All of a book at once are read and cleared as a few are.
	book := make([]uint32, bookCounters)
	for i := range book {
		book[i] = uint32(i)
	}
	if got := hits(append(book, last)...); got[0] != 1 || got[1] != 2 || got[2] != 0 || got[bookCounters] != 1 {
		t.Errorf("a whole book: %v, and the last counter %d", got[:3], got[bookCounters])
	}

	b.Datapath = newDatapath(t, Config{BPFFS: fs})
	expect("after a restart", []uint64{1, 2, 2, 1}, 0, 1, next, last)
	if err := b.ClearRuleCounters(book); err != nil {
		t.Fatal(err)
	}
	expect("cleared", []uint64{0, 0, 2, 1}, 0, 1, next, last)

	// The maps are removed, as one is told to where they are of another build, and the books stay.
	if err := os.RemoveAll(b.pins.maps()); err != nil {
		t.Fatal(err)
	}
	b.Datapath = newDatapath(t, Config{BPFFS: fs})
	b.port(accessPort())
	write(0, last, next)
	b.expect("anew", out(udp(vm4, peer4, 12, 2), policy.ReasonRuleAllow))
	expect("anew", []uint64{0, 0, 2, 2}, 0, 1, next, last)

	p, err := compile.Build(compile.Input{Sets: []policy.Set{set}, Counters: compile.Counters{key(1): 0, key(2): 1, policy.DefaultKey("net-a"): 2}})
	if err != nil {
		t.Fatal(err)
	}
	p.Counters = last + 2
	if gen, err := b.Sync(p); err == nil || gen != b.Generation() {
		t.Errorf("one counter more than there are: %v", err)
	}
	b.expect("goes on", out(udp(vm4, peer4, 11, 1), policy.ReasonRuleAllow), out(udp(vm4, peer4, 11, 2), policy.ReasonRuleAllow))
}

// What rules have counted under a version that had no books is kept, and moved once.
func TestCountersOfOlderVersion(t *testing.T) {
	fs := newBPFFS(t)
	old := newDatapath(t, Config{BPFFS: fs})
	pin := func(name string, spec ebpf.MapSpec) *ebpf.Map {
		m, err := ebpf.NewMap(&spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		if err := m.Pin(old.pins.of(name)); err != nil {
			t.Fatal(err)
		}
		return m
	}
	counters := pin(oldCounters, ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 16, MaxEntries: 32768})
	seen := pin(oldSeen, ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 32768})
	perCPU := []portHpCounter{}
	for range ebpf.MustPossibleCPU() {
		perCPU = append(perCPU, portHpCounter{Packets: 2, Bytes: 100})
	}
	clock, err := coarseTime()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []uint32{0, 20_000} {
		if err := counters.Put(i, perCPU); err != nil {
			t.Fatal(err)
		}
		if err := seen.Put(i, uint32(clock>>handoverShift)+1); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		d := newDatapath(t, Config{BPFFS: fs})
		got, err := d.RuleCounters([]uint32{0, 1, 20_000})
		if err != nil {
			t.Fatal(err)
		}
		cpus := uint64(len(perCPU))
		for i, want := range map[uint32]uint64{0: 2 * cpus, 1: 0, 20_000: 2 * cpus} {
			if got[i].Packets != want || got[i].Bytes != want*50 || want > 0 && time.Since(got[i].Last).Abs() > 5*time.Second {
				t.Errorf("counter %d: %+v, want %d packets, just now", i, got[i], want)
			}
		}
		for _, name := range []string{oldCounters, oldSeen} {
			if exists(d.pins.of(name)) {
				t.Errorf("%s stays pinned", name)
			}
		}
	}
	// The older version ran again, and gave counters to other rules.
	for name, m := range map[string]*ebpf.Map{oldCounters: counters, oldSeen: seen} {
		again, err := m.Clone() // one that knows of no pin
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if err := again.Pin(old.pins.of(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := counters.Put(uint32(0), slices.Repeat([]portHpCounter{{}}, len(perCPU))); err != nil {
		t.Fatal(err)
	}
	if got, err := newDatapath(t, Config{BPFFS: fs}).RuleCounters([]uint32{0, 20_000}); err != nil || got[0].Packets != 0 || got[20_000].Packets == 0 {
		t.Errorf("after a step back and forth: %+v, %v", got, err)
	}
	// Of maps that nobody can read nothing is left, and all goes on.
	pin(oldCounters, ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 1})
	pin(oldSeen, ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 1})
	d := newDatapath(t, Config{BPFFS: fs})
	if got, err := d.RuleCounters([]uint32{20_000}); err != nil || got[20_000].Packets == 0 {
		t.Errorf("after maps that cannot be read: %v, %v", got, err)
	}
}
