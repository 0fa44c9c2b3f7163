package compile_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

// newProgram compiles sets with fresh counters.
func newProgram(tb testing.TB, sets ...policy.Set) (*compile.Program, compile.Counters) {
	tb.Helper()
	counters, err := compile.Allocate(nil, sets)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
	if err != nil {
		tb.Fatal(err)
	}
	return p, counters
}

// want is what Lookup has to say about pkt, and Evaluate.
func want(set *policy.Set, counters compile.Counters, pkt policy.Packet) (compile.Match, policy.Verdict) {
	v := policy.Evaluate(set, pkt)
	key := policy.DefaultKey(set.Network)
	if v.Rule >= 0 {
		key = set.Rules[v.Rule].Key
	}
	m := compile.Match{Action: v.Action, Counter: counters[key], RuleID: key.ID}
	for _, i := range slices.Concat(v.Passed, v.Monitored) {
		m.Also = append(m.Also, counters[set.Rules[i].Key])
	}
	return m, v
}

// The compiled bytes say what Evaluate says, with three networks a node, so
// that each network's classes are split by the others' lists; and every rule
// position decides at least once.
func TestLookupEqualsEvaluate(t *testing.T) {
	nodes, packets := 300, 1000
	if testing.Short() {
		nodes = 60
	}
	g := policytest.New(policytest.Seed(t))
	var won [policytest.MaxRules]int
	judged := 0
	for range nodes {
		sets := []policy.Set{g.Set("a"), g.Set("b"), g.Set("")}
		program, counters := newProgram(t, sets...)
		for i := range sets {
			pkts := g.Packets(sets[i], packets)
			for pos := range sets[i].Rules {
				if won[pos] == 0 || pos%16 == 0 {
					if p, ok := g.PacketFor(sets[i], pos); ok {
						pkts = append(pkts, p)
					}
				}
			}
			for _, pkt := range pkts {
				got, err := compile.Lookup(program, sets[i].Network, pkt)
				w, v := want(&sets[i], counters, pkt)
				if err != nil || !reflect.DeepEqual(got, w) {
					t.Fatalf("network %q, packet %+v: got %+v, %v, want %+v", sets[i].Network, pkt, got, err, w)
				}
				for _, rule := range v.Matched() {
					won[rule]++
				}
				judged++
			}
		}
	}
	t.Logf("%d packets, positions decided %v", judged, won)
	for pos, n := range won {
		if n == 0 {
			t.Errorf("the rule at position %d never decided", pos)
		}
	}
}

// The same for wide rows, of up to as many rules as a network can have: what the last
// word of a page and the first of the next one say, and all between.
func TestLookupEqualsEvaluateWide(t *testing.T) {
	g := policytest.New(policytest.Seed(t))
	for _, n := range []int{129, 4000, 4096, 4097, compile.RulesMax} {
		for _, monitored := range []int{0, n / 2} {
			wide(t, g, n, monitored)
		}
	}
}

func wide(t *testing.T, g *policytest.Gen, n, monitored int) {
	t.Helper()
	sets := []policy.Set{g.Wide("a", n, monitored), g.Set("b")}
	program, counters := newProgram(t, sets...)
	look := func(pkt policy.Packet) policy.Verdict {
		got, err := compile.Lookup(program, "a", pkt)
		w, v := want(&sets[0], counters, pkt)
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Fatalf("%d rules, %d monitored, packet %+v: got %+v, %v, want %+v", n, monitored, pkt, got, err, w)
		}
		return v
	}
	decided, counted := 0, 0
	for pos := 0; pos < n; pos++ {
		if n > 1000 && pos%64 != 0 && pos%64 != 63 { // of few rules too few could win
			continue
		}
		if pkt, ok := g.Aim(sets[0], pos); ok {
			switch v := look(pkt); {
			case pos == v.Rule:
				decided++
			case slices.Contains(v.Monitored, pos):
				counted++
			}
		}
	}
	if decided < (n-monitored)/64 || counted < monitored/64 {
		t.Errorf("of %d rules, %d monitored, %d decided and %d were counted", n, monitored, decided, counted)
	}
	for _, pkt := range g.Packets(sets[0], 200) {
		look(pkt)
	}
}

// A compiler with any of the known bugs is found out by the same comparison.
func TestBugsAreCaught(t *testing.T) {
	const most = 500 // sets
	for _, bug := range policytest.Bugs() {
		if bug.Live {
			continue
		}
		t.Run(bug.Name, func(t *testing.T) {
			g := policytest.New(policytest.Seed(t))
			for n := range most {
				set := g.Set("n")
				_, counters := newProgram(t, set)
				program, err := bug.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters})
				if err != nil {
					t.Fatal(err)
				}
				for _, pkt := range g.Packets(set, 10000) {
					got, err := compile.Lookup(program, set.Network, pkt)
					if w, _ := want(&set, counters, pkt); err != nil || !reflect.DeepEqual(got, w) {
						t.Logf("caught by set %d", n+1)
						return
					}
				}
			}
			t.Errorf("not caught by %d sets", most)
		})
	}
}
