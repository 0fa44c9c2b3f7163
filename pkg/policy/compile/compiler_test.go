package compile_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

// TestCompilerAgain: whatever was compiled before, also what was refused, a compiler gives
// what a new one gives.
func TestCompilerAgain(t *testing.T) {
	for range 12 {
		seed := policytest.Seed(t)
		g, rnd := policytest.New(seed), rand.New(rand.NewPCG(seed, 1))
		var c compile.Compiler
		var counters compile.Counters
		var sets []policy.Set
		for i := range 4 {
			sets = append(sets, g.SetN(fmt.Sprint("net-", i), 30))
		}
		for step := range 60 {
			i := rnd.IntN(len(sets))
			s := &sets[i]
			s.Rules, s.Lists = slices.Clone(s.Rules), maps.Clone(s.Lists)
			refused := false
			switch r := rnd.IntN(12); {
			case r == 0:
				s.Default = policy.Action(rnd.IntN(2))
			case r == 1 && len(s.Rules) > 1:
				a, b := rnd.IntN(len(s.Rules)), rnd.IntN(len(s.Rules))
				if s.Rules[a].Tier == s.Rules[b].Tier && !s.Rules[a].Monitored && !s.Rules[b].Monitored {
					s.Rules[a], s.Rules[b] = s.Rules[b], s.Rules[a]
				}
			case r == 2 && len(s.Rules) > 0:
				s.Rules[rnd.IntN(len(s.Rules))].Log = rnd.IntN(2) == 0
			case r == 3 && len(s.Rules) > 0:
				s.Rules = slices.Delete(s.Rules, 0, 1)
			case r == 4:
				*s = g.SetN(s.Network, 30)
			case r == 5 && len(s.Lists) > 0:
				name := slices.Sorted(maps.Keys(s.Lists))[rnd.IntN(len(s.Lists))]
				list := slices.Clone(s.Lists[name])
				s.Lists[name] = append(list, policy.AddrRange{First: netip.MustParseAddr("10.20.1.7"), Last: netip.AddrFrom4([4]byte{10, 20, 1, byte(7 + rnd.IntN(200))})})
			case r == 6 && len(s.Rules) > 0: // the same, in another place
				rule := &s.Rules[rnd.IntN(len(s.Rules))]
				rule.Sources, rule.Services = slices.Clone(rule.Sources), slices.Clone(rule.Services)
			case r == 7 && len(sets) < 6:
				sets = append(sets, g.SetN(fmt.Sprint("more-", step), 10))
			case r == 8 && len(sets) > 2:
				sets = slices.Delete(sets, i, i+1)
			case r == 9:
				counters = compile.Counters{} // others for all
			case r == 10 && len(s.Rules) > 0: // must be refused, and change nothing
				refused = true
				s.Rules[0].Key = policy.RuleKey{Policy: "x", ID: 1}
				s.Rules[0].SourceSets = []string{"nobody-has-it"}
			}
			next, err := compile.Allocate(counters, sets)
			if err != nil {
				t.Fatal(err)
			}
			in := compile.Input{Sets: sets, Counters: next}
			want, wantErr := compile.Build(in)
			got, gotErr := c.Build(in)
			if fmt.Sprint(wantErr) != fmt.Sprint(gotErr) || refused && gotErr == nil {
				t.Fatalf("step %d: error %v, want %v", step, gotErr, wantErr)
			}
			if refused {
				s.Rules = s.Rules[1:]
				continue
			}
			same := func(a, b compile.Policy) bool {
				return a.Network == b.Network && a.Sum == b.Sum && slices.Equal(a.Pages, b.Pages)
			}
			if want.Hash != got.Hash || !slices.Equal(want.Addrs, got.Addrs) || !slices.EqualFunc(want.Policies, got.Policies, same) {
				t.Fatalf("step %d: another program than a new compiler's", step)
			}
			counters = next
		}
	}
}

// TestCompilerSpares: what has not changed is not compiled again.
func TestCompilerSpares(t *testing.T) {
	g := policytest.New(7)
	sets := []policy.Set{g.Wide("a", 500, 0), g.Wide("b", 500, 0)}
	counters, err := compile.Allocate(nil, sets)
	if err != nil {
		t.Fatal(err)
	}
	var c compile.Compiler
	build := func() *compile.Program {
		t.Helper()
		p, err := c.Build(compile.Input{Sets: sets, Counters: counters})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	before := build()
	sets[1].Rules = slices.Clone(sets[1].Rules)
	sets[1].Rules[3].Action ^= policy.Drop ^ policy.Allow
	after := build()
	if &before.Policies[0].Pages[0] != &after.Policies[0].Pages[0] || &before.Addrs[0] != &after.Addrs[0] {
		t.Error("a policy that has not changed was compiled again, or all addresses were")
	}
	if before.Policies[1].Sum == after.Policies[1].Sum || before.Hash == after.Hash {
		t.Error("a policy that has changed was not")
	}
}
