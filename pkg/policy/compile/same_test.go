package compile

import (
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// TestSameRule: every field of a rule counts, also those that come to be.
func TestSameRule(t *testing.T) {
	ranges := []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("10.0.0.0/8"))}
	full := policy.Rule{Key: policy.RuleKey{Policy: "p", ID: 1}, Sources: ranges, Destinations: ranges, Services: []policy.Service{{Protocol: 6, Last: 9}},
		SourceSets: []string{"a"}, DestinationSets: []string{"b"}, ServiceSets: []string{"c"}}
	again := full
	again.Sources = append([]policy.AddrRange{}, ranges...)
	if !sameRule(&full, &again) || !sameRule(&policy.Rule{}, &policy.Rule{}) {
		t.Error("equal rules are not the same")
	}
	for i := range reflect.TypeFor[policy.Rule]().NumField() {
		other := full
		f := reflect.ValueOf(&other).Elem().Field(i)
		name := reflect.TypeFor[policy.Rule]().Field(i).Name
		switch {
		case f.Kind() == reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1)) // of zero values
			if sameRule(&full, &other) {
				t.Errorf("%s of others is the same", name)
			}
			f.Set(reflect.MakeSlice(f.Type(), 0, 0))
			none := other
			reflect.ValueOf(&none).Elem().Field(i).SetZero()
			if sameRule(&none, &other) {
				t.Errorf("%s of nobody and Any are the same", name)
			}
		case f.Kind() == reflect.Struct:
			f.SetZero()
		case f.Kind() == reflect.String:
			f.SetString("other")
		case f.Kind() == reflect.Bool:
			f.SetBool(true)
		case f.CanUint():
			f.SetUint(3)
		default:
			t.Fatalf("%s: what is a %v?", name, f.Kind())
		}
		if sameRule(&full, &other) {
			t.Errorf("another %s is the same", name)
		}
	}
}

// TestCompilerForgets: lists that nobody names any more are let go, and their numbers begin
// again some time.
func TestCompilerForgets(t *testing.T) {
	var c Compiler
	freed := make(chan bool, 1)
	most := 0
	for i := range 3 * staleLists {
		lists := map[string][]policy.AddrRange{"set": {policy.RangeOf(netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)))}}
		if i == 5 {
			runtime.AddCleanup(&lists["set"][0], func(bool) { freed <- true }, true)
		}
		set := policy.Set{Network: "n", Lists: lists, Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "p", ID: 1}, Directions: policy.InOut, SourceSets: []string{"set"}}}}
		if _, err := c.Build(Input{Sets: []policy.Set{set}, Counters: Counters{set.Rules[0].Key: 0, policy.DefaultKey("n"): 1}}); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(c.lists.lists))
		if len(c.lists.index) != 1 || len(c.lists.known) != 1 {
			t.Fatalf("after %d lists it knows %d and %d", i, len(c.lists.index), len(c.lists.known))
		}
		if i == 10 {
			runtime.GC()
			<-freed
		}
	}
	if most > 2+staleLists+1 {
		t.Errorf("%d numbers of lists, want a new beginning", most)
	}
}
