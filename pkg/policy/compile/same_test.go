package compile

import (
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// TestSameRule: every field of a rule counts, also those that come to be.
func TestSameRule(t *testing.T) {
	ranges := []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("10.0.0.0/8"))}
	full := policy.Rule{Key: policy.RuleKey{Policy: "p", ID: 1}, Sources: ranges, Destinations: ranges, Services: []policy.Service{{Protocol: 6, Last: 9}},
		SourceSets: []string{"a"}, DestinationSets: []string{"b"}, ServiceSets: []string{"c"}, LocalSets: []string{"d"}}
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
	last := 0
	begun := 0
	for i := range 3 * staleLists {
		own := []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)))}
		if i == 5 {
			runtime.AddCleanup(&own[0], func(bool) { freed <- true }, true)
		}
		set := policy.Set{Network: "n", Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "p", ID: 1}, Directions: policy.InOut, Sources: own}}}
		if _, err := c.Build(Input{Sets: []policy.Set{set}, Counters: Counters{set.Rules[0].Key: 0, policy.DefaultKey("n"): 1}}); err != nil {
			t.Fatal(err)
		}
		if len(c.lists.lists) < last {
			begun++
		}
		last = len(c.lists.lists)
		if len(c.lists.index) != 1 || last > staleLists+4 || len(c.classes.setOf) > 2*staleLists {
			t.Fatalf("after %d lists it knows %d, of %d numbers, and %d classes", i, len(c.lists.index), last, len(c.classes.setOf))
		}
		if i == 10 {
			runtime.GC()
			select {
			case <-freed:
			case <-time.After(10 * time.Second):
				t.Fatal("a list that nobody names any more is held")
			}
		}
	}
	if begun != 2 {
		t.Errorf("numbers began again %d times, want 2", begun)
	}
}
