package compile_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

func TestAllocate(t *testing.T) {
	a := func(id uint32) policy.RuleKey { return policy.RuleKey{Policy: "a", ID: id} }
	with := func(ids ...uint32) policy.Set {
		set := policy.Set{Network: "n"}
		for _, id := range ids {
			set.Rules = append(set.Rules, policy.Rule{Key: a(id)})
		}
		return set
	}
	n, m := policy.DefaultKey("n"), policy.DefaultKey("m")
	for name, tc := range map[string]struct {
		prev compile.Counters
		sets []policy.Set
		want compile.Counters
	}{
		"nothing":                     {nil, nil, compile.Counters{}},
		"only the default":            {nil, []policy.Set{with()}, compile.Counters{n: 0}},
		"in order":                    {nil, []policy.Set{with(7, 5)}, compile.Counters{n: 0, a(7): 1, a(5): 2}},
		"one policy for two networks": {nil, []policy.Set{with(1), {Network: "m", Rules: with(1).Rules}}, compile.Counters{m: 0, a(1): 1, n: 2}},
		"kept":                        {compile.Counters{n: 9, a(1): 4}, []policy.Set{with(1, 2)}, compile.Counters{n: 9, a(1): 4, a(2): 0}},
		"given up now is not reused":  {compile.Counters{n: 0, a(1): 1, a(2): 2}, []policy.Set{with(2, 3)}, compile.Counters{n: 0, a(2): 2, a(3): 3}},
		"given up before is":          {compile.Counters{n: 0, a(2): 2, a(3): 3}, []policy.Set{with(2, 3, 4)}, compile.Counters{n: 0, a(2): 2, a(3): 3, a(4): 1}},
		"default is gone":             {compile.Counters{n: 0, m: 1}, []policy.Set{with()}, compile.Counters{n: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := compile.Allocate(tc.prev, tc.sets)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What has changed nothing is the same map: a [Compiler] knows at once.
func TestAllocateSame(t *testing.T) {
	sets := []policy.Set{{Network: "n", Rules: rules("p", 5)}, {Network: "m", Rules: rules("p", 5)}}
	first, err := compile.Allocate(nil, sets)
	if err != nil {
		t.Fatal(err)
	}
	before := maps.Clone(first)
	for name, tc := range map[string]struct {
		sets []policy.Set
		same bool
	}{"the same": {sets, true}, "one network less": {sets[:1], false}, "a rule more": {append([]policy.Set{{Network: "o"}}, sets...), false}} {
		got, err := compile.Allocate(first, tc.sets)
		if err != nil {
			t.Fatal(err)
		}
		if same := reflect.ValueOf(got).UnsafePointer() == reflect.ValueOf(first).UnsafePointer(); same != tc.same {
			t.Errorf("%s: the same map: %v, want %v", name, same, tc.same)
		}
		if !maps.Equal(first, before) {
			t.Errorf("%s: what was given has changed", name)
		}
	}
}

func TestAllocateFull(t *testing.T) {
	var sets []policy.Set
	for n := range compile.CountersMax / 128 { // 127 rules and a default each
		name := fmt.Sprintf("n%03d", n)
		sets = append(sets, policy.Set{Network: name, Rules: rules(name, 127)})
	}
	full, err := compile.Allocate(nil, sets)
	if err != nil || len(full) != compile.CountersMax {
		t.Fatalf("%d counters, %v", len(full), err)
	}
	held := map[uint32]bool{}
	for _, n := range full {
		held[n] = true
	}
	if len(held) != compile.CountersMax {
		t.Errorf("%d different numbers for %d keys", len(held), compile.CountersMax)
	}

	more := append(sets, policy.Set{Network: "zz"})
	_, err = compile.Allocate(full, more)
	var refused *compile.RefusedError
	if !errors.As(err, &refused) || len(refused.Networks) != 1 || refused.Networks[0].Network != "zz" ||
		!strings.Contains(err.Error(), "only 0 of the node's 262144 are left") {
		t.Errorf("got %v", err)
	}
	// What is given up in this step is the last resort.
	gone := sets[len(sets)-1].Network
	more[len(sets)-1] = policy.Set{Network: "zz"}
	next, err := compile.Allocate(full, more[:len(sets)])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := next[policy.DefaultKey("zz")], full[policy.DefaultKey(gone)]; got != want {
		t.Errorf("got %d, want the lowest given up, %d", got, want)
	}
}
