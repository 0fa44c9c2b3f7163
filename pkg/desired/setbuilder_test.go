package desired

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// TestSetBuilder: whatever snapshots came before, a builder gives the sets of the one in use,
// and does not make anew what is as it was.
func TestSetBuilder(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	number := regexp.MustCompile(`10\.0\.\d+\.\d+|ports: "\d+"|action: \w+`)
	change := func(st state) state {
		next := maps.Clone(st)
		for name, text := range next {
			next[name] = number.ReplaceAllStringFunc(text, func(was string) string {
				switch {
				case r.IntN(6) > 0:
				case was[0] == 'a':
					return "action: " + []string{"Allow", "Drop", "Reject"}[r.IntN(3)]
				case was[0] == 'p':
					return fmt.Sprintf(`ports: "%d"`, 1+r.IntN(20))
				default:
					return fmt.Sprintf("10.0.%d.%d", r.IntN(3), r.IntN(250))
				}
				return was
			})
		}
		return next
	}
	same, sameLists, all := 0, 0, 0
	for range 60 {
		var b SetBuilder
		var s *Snapshot
		var old map[key]held
		st := randomState(r, true)
		var before map[string]policy.Set
		pods := []PodPolicy{{Namespace: "x", Name: "p", Networks: []string{"n0"}, Isolates: policy.OnlyIn, Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "x/p", ID: 1}}}}}
		for range 8 {
			switch r.IntN(6) {
			case 0:
				st = randomState(r, true)
			case 1:
				pods = []PodPolicy{{Namespace: "x", Name: "p", Networks: []string{"n0", "n4"}, Isolates: policy.InOut, Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "x/p", ID: 1 + uint32(r.IntN(2))}}}}}
			default:
				st = change(st)
			}
			var files []manifest
			for _, name := range slices.Sorted(maps.Keys(st)) {
				files = append(files, parseManifest(name, []byte(st[name])))
			}
			var problems []Problem
			old, problems = resolve(old, files)
			s, _ = build(old, problems, s)
			s.PodPolicies, s.Pods = pods, map[string]Pod{"x/a": {UID: "1", Owner: OwnerNone}}
			b.Use(s)
			now := map[string]policy.Set{}
			check := func(got, want policy.Set) {
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d: the builder gives\n%+v\nwant\n%+v", seed, got, want)
				}
				now[got.ID()] = got
			}
			got, want := b.PolicySets(), s.PolicySets()
			if len(got) != len(want) {
				t.Fatalf("seed %d: %d sets, want %d", seed, len(got), len(want))
			}
			for i := range got {
				check(got[i], want[i])
			}
			for _, pod := range []PodRef{{}, {"x", "a", "1"}, {"x", "b", "2"}} {
				check(b.PolicySet("n0", pod), s.PolicySet("n0", pod))
			}
			for id, set := range now {
				was, ok := before[id]
				if !ok || len(set.Rules) == 0 || len(was.Rules) == 0 {
					continue
				}
				equal := reflect.DeepEqual(set.Rules, was.Rules)
				all++
				if &set.Rules[0] == &was.Rules[0] {
					same++
					if !equal {
						t.Fatalf("seed %d: rules of before were changed", seed)
					}
				}
				if set.Lists != nil && reflect.ValueOf(set.Lists).Pointer() == reflect.ValueOf(was.Lists).Pointer() {
					sameLists++
				}
			}
			before = now
		}
	}
	if same < all/4 || sameLists < all/10 {
		t.Errorf("of %d sets %d have the rules of before, and %d their lists: want more", all, same, sameLists)
	}
	t.Logf("of %d sets %d have the rules of before, and %d their lists", all, same, sameLists)
}

// TestSetBuilderChunks is the same for snapshots whose policies keep their rules, and are
// applied elsewhere, or whose lists come and go.
func TestSetBuilderChunks(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	var pool [][]policy.Rule
	for i := range 4 {
		var rules []policy.Rule
		for j := range 1 + r.IntN(3) {
			rules = append(rules, policy.Rule{Key: policy.RuleKey{Policy: fmt.Sprint("p", i), ID: uint32(j)}, Action: policy.Action(r.IntN(2)), Directions: policy.InOut,
				SourceSets: []string{string(rune('a' + r.IntN(2)))}, ServiceSets: []string{string(rune('a' + r.IntN(2)))}})
		}
		pool = append(pool, rules)
	}
	some := func(n int) bool { return r.IntN(n) == 0 }
	var b SetBuilder
	for range 2000 {
		s := &Snapshot{Networks: map[string]Network{"lan": {Default: policy.Action(r.IntN(2))}, "far": {}}, Pods: map[string]Pod{},
			lists: map[string]expanded{}, serviceLists: map[string][]policy.Service{}}
		for i, rules := range pool {
			p := Policy{Name: fmt.Sprint("p", i), Rank: 1 + i%2*5, Rules: rules}
			if some(2) {
				p.Networks = []string{"lan"}
			}
			if some(3) {
				p.AddressSets = []string{string(rune('a' + r.IntN(2)))}
			}
			if some(3) {
				p.NICs = []NICs{{"far", selectorOf(t, "app=x")}}
			}
			s.Policies = append(s.Policies, p)
		}
		if some(2) {
			s.Pods["x/v"] = Pod{UID: "1", Owner: OwnerVM, VM: map[string]string{"app": []string{"x", "y"}[r.IntN(2)]}}
		}
		for _, name := range []string{"a", "b"} {
			if !some(6) {
				s.lists[name] = expanded{ranges: []policy.AddrRange{{}}[:r.IntN(2)]}
			}
			if !some(6) {
				s.serviceLists[name] = []policy.Service{{Protocol: uint8(r.IntN(2))}}
			}
		}
		b.Use(s)
		if got, want := b.PolicySets(), s.PolicySets(); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: the builder gives\n%+v\nwant\n%+v", seed, got, want)
		}
		for _, network := range []string{"lan", "far"} {
			if got, want := b.PolicySet(network, PodRef{"x", "v", "1"}), s.PolicySet(network, PodRef{"x", "v", "1"}); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: at a VM's port the builder gives\n%+v\nwant\n%+v", seed, got, want)
			}
		}
	}
}
