package compile_test

import (
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

// want is what Lookup has to say about pkt.
func want(set *policy.Set, counters compile.Counters, pkt policy.Packet) compile.Match {
	v := policy.Evaluate(set, pkt)
	key := policy.DefaultKey(set.Network)
	if v.Rule >= 0 {
		key = set.Rules[v.Rule].Key
	}
	return compile.Match{Verdict: v, Counter: counters[key], RuleID: key.ID}
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
				if w := want(&sets[i], counters, pkt); err != nil || got != w {
					t.Fatalf("network %q, packet %+v: got %+v, %v, want %+v", sets[i].Network, pkt, got, err, w)
				}
				if got.Rule >= 0 {
					won[got.Rule]++
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

// A compiler with any of the known bugs is found out by the same comparison.
func TestBugsAreCaught(t *testing.T) {
	const most = 500 // sets
	for _, bug := range policytest.Bugs() {
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
					if err != nil || got != want(&set, counters, pkt) {
						t.Logf("caught by set %d", n+1)
						return
					}
				}
			}
			t.Errorf("not caught by %d sets", most)
		})
	}
}
