package compile_test

import (
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// TestVariants: sets of one network are judged apart, and count its default together.
func TestVariants(t *testing.T) {
	long := strings.Repeat("n", 253)
	sets := []policy.Set{{Network: long}, {Network: long, Variant: "0123456789abcdef", Default: policy.Allow}, {Network: "n", Rules: rules("p", 1)}}
	counters, err := compile.Allocate(nil, sets)
	if err != nil || len(counters) != 3 {
		t.Fatalf("counters %v, %v", counters, err)
	}
	prog, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []policy.Action{policy.Drop, policy.Allow, policy.Allow} {
		id := sets[i].ID()
		m, err := compile.Lookup(prog, id, policy.Packet{})
		if err != nil || m.Action != want || len(id) > 255 {
			t.Errorf("%s: %+v, %v; want %v", id, m, err, want)
		}
		if i < 2 && m.Counter != counters[policy.DefaultKey(long)] {
			t.Errorf("%s counts at %d", id, m.Counter)
		}
	}
	if _, err := compile.Build(compile.Input{Sets: append(sets, sets[1]), Counters: counters}); err == nil {
		t.Error("a set is there twice")
	}
}
