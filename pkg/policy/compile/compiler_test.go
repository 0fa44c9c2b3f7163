package compile_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

// TestCompilerAgain: whatever was compiled before, also what was refused, a compiler gives
// what a new one gives.
func TestCompilerAgain(t *testing.T) {
	patched := 0
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
			switch r := rnd.IntN(16); {
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
			case (r == 5 || r > 11) && len(s.Lists) > 0:
				name := slices.Sorted(maps.Keys(s.Lists))[rnd.IntN(len(s.Lists))]
				changeList(rnd, sets, name, s.Lists[name])
			case r == 6 && len(s.Rules) > 0: // the same, in another place
				rule := &s.Rules[rnd.IntN(len(s.Rules))]
				rule.Sources, rule.Services = slices.Clone(rule.Sources), slices.Clone(rule.Services)
				for name, list := range s.Lists {
					if rnd.IntN(3) == 0 {
						s.Lists[name] = append([]policy.AddrRange{}, list...)
					}
				}
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
			next, err := c.Allocate(counters, sets)
			plain, plainErr := compile.Allocate(counters, sets)
			if err != nil || plainErr != nil || !maps.Equal(next, plain) {
				t.Fatalf("step %d: %v, %v, or other counters than for anybody", step, err, plainErr)
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
			if compile.Patched(&c) {
				patched++
			}
			if err := alike(got, want); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			set := sets[rnd.IntN(len(sets))]
			for _, pkt := range g.Packets(set, 300) {
				x, errX := compile.Lookup(got, set.ID(), pkt)
				y, errY := compile.Lookup(want, set.ID(), pkt)
				if errX != nil || errY != nil || !reflect.DeepEqual(x, y) {
					t.Fatalf("step %d: %+v: %+v, %v; a new one's %+v, %v", step, pkt, x, errX, y, errY)
				}
			}
			counters = next
		}
	}
	if patched < 100 {
		t.Errorf("classes were changed %d times, and not made anew: want more", patched)
	}
}

// changeList changes an address set a little, in all sets of rules that have it.
func changeList(rnd *rand.Rand, sets []policy.Set, name string, was []policy.AddrRange) {
	is := slices.Clone(was)
	for range 1 + rnd.IntN(3) {
		switch at := rnd.IntN(len(is) + 1); {
		case at == len(is) || rnd.IntN(2) == 0:
			a := netip.AddrFrom4([4]byte{10, 20, byte(rnd.IntN(16)), byte(rnd.IntN(256))})
			if rnd.IntN(3) == 0 {
				a = netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x20, 14: byte(rnd.IntN(16)), 15: byte(rnd.IntN(256))})
			}
			last := a
			for range rnd.IntN(20) {
				last = last.Next()
			}
			is = append(is, policy.AddrRange{First: a, Last: last})
		case rnd.IntN(2) == 0:
			is = slices.Delete(is, at, at+1)
		case is[at].First != is[at].Last:
			is[at].Last = is[at].Last.Prev()
		}
	}
	if rnd.IntN(8) != 0 { // else as nobody's sets are
		is = policy.MergeRanges(is)
	}
	for i := range sets {
		if policy.IDOf(sets[i].Lists[name]) == policy.IDOf(was) {
			sets[i].Lists = maps.Clone(sets[i].Lists)
			sets[i].Lists[name] = is
		}
	}
}

// alike says whether two programs differ in the numbers of classes at most.
func alike(a, b *compile.Program) error {
	if len(a.Addrs) != len(b.Addrs) || len(a.Policies) != len(b.Policies) {
		return fmt.Errorf("%d prefixes and %d policies, want %d and %d", len(a.Addrs), len(a.Policies), len(b.Addrs), len(b.Policies))
	}
	there, back := map[uint32]uint32{0: 0}, map[uint32]uint32{0: 0}
	for i := range a.Addrs {
		x, y := a.Addrs[i], b.Addrs[i]
		other, ok := there[x.Class]
		again, known := back[y.Class]
		if x.Addr != y.Addr || x.Bits != y.Bits || ok != known || ok && (other != y.Class || again != x.Class) {
			return fmt.Errorf("prefix %d is %v in class %d, want %v in %d", i, x.Prefix(), x.Class, y.Prefix(), y.Class)
		}
		there[x.Class], back[y.Class] = y.Class, x.Class
	}
	return nil
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

// bothWays compiles sets by a compiler that knows others from before, and by a new one.
func bothWays(t *testing.T, c *compile.Compiler, counters compile.Counters, sets []policy.Set) (got, want *compile.Program, next compile.Counters) {
	t.Helper()
	next, err := c.Allocate(counters, sets)
	if err != nil {
		t.Fatal(err)
	}
	in := compile.Input{Sets: sets, Counters: next}
	if got, err = c.Build(in); err != nil {
		t.Fatal(err)
	}
	if want, err = compile.Build(in); err != nil {
		t.Fatal(err)
	}
	return got, want, next
}

// TestCompilerSharedLists: a set that changes takes nobody along who has the same addresses by
// another way: a rule as its own, a set of another name, another network that keeps the old ones.
func TestCompilerSharedLists(t *testing.T) {
	list := func(last byte) []policy.AddrRange {
		return []policy.AddrRange{{First: netip.MustParseAddr("10.0.0.1"), Last: netip.AddrFrom4([4]byte{10, 0, 0, last})}}
	}
	was, is := list(4), list(5)
	elsewhere := list(4)
	rule := func(id uint32, own []policy.AddrRange, sets ...string) policy.Rule {
		return policy.Rule{Key: policy.RuleKey{Policy: "p", ID: id}, Action: policy.Allow, Directions: policy.InOut, Sources: own, SourceSets: sets}
	}
	for name, c := range map[string]struct {
		before, after []policy.Set
		between       []policy.Set
	}{
		"two come to one": {
			before: []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": list(2)}}, {Network: "b", Rules: []policy.Rule{rule(2, nil, "y")}, Lists: map[string][]policy.AddrRange{"y": list(3)}}},
			after:  []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": is}}, {Network: "b", Rules: []policy.Rule{rule(2, nil, "y")}, Lists: map[string][]policy.AddrRange{"y": is}}},
		},
		"at another place first": {
			before:  []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x"), rule(2, nil, "y")}, Lists: map[string][]policy.AddrRange{"x": was, "y": list(4)}}},
			between: []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x"), rule(2, nil, "y")}, Lists: map[string][]policy.AddrRange{"x": was, "y": elsewhere}}},
			after:   []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x"), rule(2, nil, "y")}, Lists: map[string][]policy.AddrRange{"x": is, "y": elsewhere}}},
		},
		"its own": {
			before: []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": was}}, {Network: "b", Rules: []policy.Rule{rule(2, list(4))}}},
			after:  []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": is}}, {Network: "b", Rules: []policy.Rule{rule(2, list(4))}}},
		},
		"another name": {
			before: []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x"), rule(2, nil, "y")}, Lists: map[string][]policy.AddrRange{"x": was, "y": list(4)}}},
			after:  []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x"), rule(2, nil, "y")}, Lists: map[string][]policy.AddrRange{"x": is, "y": list(4)}}},
		},
		"one keeps it": {
			before: []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": was}}, {Network: "b", Rules: []policy.Rule{rule(2, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": was}}},
			after:  []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": is}}, {Network: "b", Rules: []policy.Rule{rule(2, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": was}}},
		},
		"one comes, with the old one": {
			before: []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": was}}},
			after:  []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": is}}, {Network: "b", Rules: []policy.Rule{rule(2, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": was}}},
		},
		"changed, and named no more": {
			before: []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, nil, "x")}, Lists: map[string][]policy.AddrRange{"x": was}}},
			after:  []policy.Set{{Network: "a", Rules: []policy.Rule{rule(1, list(9))}, Lists: map[string][]policy.AddrRange{"x": is}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var compiler compile.Compiler
			var counters compile.Counters
			for _, sets := range [][]policy.Set{c.before, c.between, c.after, c.before, c.between, c.after} {
				if sets == nil {
					continue
				}
				var got, want *compile.Program
				got, want, counters = bothWays(t, &compiler, counters, sets)
				if err := alike(got, want); err != nil {
					t.Error(err)
				}
				for _, s := range sets {
					for i := range 12 {
						p := policy.Packet{IP: true, Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Dst: netip.MustParseAddr("10.1.1.1"), Protocol: 50}
						x, errX := compile.Lookup(got, s.ID(), p)
						y, errY := compile.Lookup(want, s.ID(), p)
						if errX != nil || errY != nil || !reflect.DeepEqual(x, y) {
							t.Errorf("network %s: %v: %+v, %v; a new one's %+v, %v", s.ID(), p.Src, x, errX, y, errY)
						}
					}
				}
			}
		})
	}
}

// TestCompilerSharedMaps: sets that share a map of lists, of which they name some, and get
// another one, all of them or some, come to what they come to for a new compiler.
func TestCompilerSharedMaps(t *testing.T) {
	patched := 0
	for range 20 {
		seed := policytest.Seed(t)
		g, rnd := policytest.New(seed), rand.New(rand.NewPCG(seed, 5))
		var c compile.Compiler
		var counters compile.Counters
		lists := map[string][]policy.AddrRange{}
		for i := range 8 {
			base := netip.AddrFrom4([4]byte{10, 20, byte(i), 0})
			lists[fmt.Sprint("l", i)] = []policy.AddrRange{policy.RangeOf(netip.PrefixFrom(base, 26)), policy.RangeOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 21, 0, byte(i % 3)}), 32))}
		}
		name := func() []string { return []string{fmt.Sprint("l", rnd.IntN(8))} }
		var sets []policy.Set
		for i := range 3 {
			s := policy.Set{Network: fmt.Sprint("net-", i), Lists: lists}
			for j := range 4 {
				s.Rules = append(s.Rules, policy.Rule{Key: policy.RuleKey{Policy: s.Network, ID: uint32(j)}, Directions: policy.InOut, Action: policy.Allow, SourceSets: name()})
			}
			sets = append(sets, s)
		}
		for step := range 30 {
			next := maps.Clone(lists)
			for range rnd.IntN(3) {
				n := name()[0]
				next[n] = policy.MergeRanges(append(slices.Clone(next[n]), policy.AddrRange{First: netip.AddrFrom4([4]byte{10, 22, byte(step), 1}), Last: netip.AddrFrom4([4]byte{10, 22, byte(step), byte(1 + rnd.IntN(3))})}))
			}
			for i := range sets {
				switch rnd.IntN(8) {
				case 0: // keeps the old ones
				case 1:
					sets[i].Rules = slices.Clone(sets[i].Rules)
					sets[i].Rules[rnd.IntN(4)].SourceSets = name()
					fallthrough
				default:
					sets[i].Lists = next
				}
			}
			if rnd.IntN(2) == 0 {
				lists = next
			}
			var got, want *compile.Program
			got, want, counters = bothWays(t, &c, counters, sets)
			if compile.Patched(&c) {
				patched++
			}
			if err := alike(got, want); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			for _, set := range sets {
				for _, pkt := range g.Packets(set, 60) {
					x, errX := compile.Lookup(got, set.ID(), pkt)
					y, errY := compile.Lookup(want, set.ID(), pkt)
					if errX != nil || errY != nil || !reflect.DeepEqual(x, y) {
						t.Fatalf("step %d: %+v: %+v, %v; a new one's %+v, %v", step, pkt, x, errX, y, errY)
					}
				}
			}
		}
	}
	if patched < 50 {
		t.Errorf("classes were changed %d times, and not made anew: want more", patched)
	}
}
