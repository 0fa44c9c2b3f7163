package report

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// ruleList is a port's rules by their ids, all alike.
func ruleList(ids ...uint32) (v wire.PortRules) {
	for _, id := range ids {
		v.Items = append(v.Items, wire.PortRule{Policy: "p", Rule: wire.Rule{ID: id, Action: "Allow", Direction: "In", Packets: uint64(id)}})
	}
	return v
}

func TestCompare(t *testing.T) {
	set := func(name, hash string, items int) wire.NamedSet {
		return wire.NamedSet{Kind: "AddressSet", Name: name, Items: items, Hash: hash}
	}
	for _, tt := range []struct {
		name    string
		was, is wire.PortRules
		change  func(was, is *wire.PortRules)
		want    string
	}{
		{"hits", ruleList(1, 2), ruleList(1, 2), func(_, is *wire.PortRules) { is.Items[0].Packets, is.Items[1].Bytes = 9, 9 }, ""},
		{"one is put first", ruleList(1, 2, 3, 4), ruleList(4, 1, 2, 3), nil, "Moved 4 behind "},
		{"one goes back", ruleList(1, 2, 3, 4), ruleList(2, 3, 1, 4), nil, "Moved 1 behind p 3"},
		{"between others that come", ruleList(1, 2), ruleList(1, 7, 2, 8), nil, "Added 7 behind p 1, Added 8 behind p 2"},
		{"all others", ruleList(1, 2), ruleList(3), nil, "Added 3 behind , Removed 1, Removed 2"},
		{"changed and moved", ruleList(1, 2, 3), ruleList(3, 1, 2), func(_, is *wire.PortRules) { is.Items[0].Action = "Drop" }, "Changed 3 behind  [action: Allow -> Drop]"},
		{"lists", ruleList(1), ruleList(1), func(was, is *wire.PortRules) {
			was.Items[0].Sources, is.Items[0].Sources = []string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.2", "10.0.0.3"}
			was.Items[0].Destinations, is.Items[0].Destinations = nil, []string{"10.0.0.9"}
			was.Items[0].Services, is.Items[0].Services = []string{"tcp/80", "tcp/81"}, []string{"tcp/81", "tcp/80"}
			was.Items[0].Local = []string{"AddressSet a"}
		}, "Changed 1 [sources: +10.0.0.3 -10.0.0.1; destinations: Any -> 10.0.0.9; services: the same in another order; VM's addresses: AddressSet a -> Any]"},
		{"flags", ruleList(1), ruleList(1), func(was, is *wire.PortRules) {
			was.Items[0].Ethernet = true
			was.Items[0].Name, is.Items[0].State, is.Items[0].Direction = "old", "Monitor", "Out"
			is.Items[0].Stateless, was.Items[0].Loose, is.Items[0].Sticky, is.Items[0].Log, is.Items[0].LogLabel = true, true, true, true, "x"
		}, "Changed 1 [name: old -> none; about: frames -> packets; state: Enabled -> Monitor; direction: In -> Out; stateful: true -> false; tcpStrict: false -> true; sticky: false -> true; log: false -> true; logLabel: none -> x]"},
		{"tier", ruleList(1, 2), ruleList(1, 2), func(was, is *wire.PortRules) {
			was.Items[0].Tier, is.Items[0].Tier, is.Items[1].Tier = "1", "3", "1" // the second's was not told
		}, "Changed 1 [tier: 1 -> 3]"},
		{"all but", ruleList(1), ruleList(1), func(was, is *wire.PortRules) {
			was.Items[0].Sources, is.Items[0].Sources = []string{"all but 10.0.0.2"}, []string{"all but 10.0.0.1", "10.0.0.2"}
			was.Items[0].Destinations, is.Items[0].Destinations = []string{"10.0.0.2"}, []string{"all but 10.0.0.2"}
		}, "Changed 1 [sources: all but 10.0.0.2 -> all but 10.0.0.1,10.0.0.2; destinations: 10.0.0.2 -> all but 10.0.0.2]"},
		{"sets that a side does not tell", ruleList(1), ruleList(1), func(was, is *wire.PortRules) {
			was.Items[0].Sources, is.Items[0].Sources = []string{"all but AddressSet a"}, []string{"all but AddressSet a"}
			was.Items[0].Services, is.Items[0].Services = []string{"tcp/80", "ServiceSet w"}, []string{"tcp/80", "ServiceSet w"}
			is.Sets = []wire.NamedSet{set("a", "1", 1)}
		}, "unknown AddressSet a, unknown ServiceSet w"},
		{"sets and default", ruleList(1), ruleList(1), func(was, is *wire.PortRules) {
			was.Sets = []wire.NamedSet{set("a", "1", 1), set("b", "2", 2), set("gone", "3", 3)}
			is.Sets = []wire.NamedSet{set("a", "1", 1), set("b", "4", 2), set("new", "5", 5)}
			was.Default.Action, is.Default.Action = "Allow", "Drop"
		}, "set b, default [Allow Drop]"},
	} {
		if tt.change != nil {
			tt.change(&tt.was, &tt.is)
		}
		d := Compare("a", "b", tt.was, tt.is)
		var got []string
		for _, c := range d.Items {
			text := fmt.Sprint(c.Change, " ", c.ID)
			if c.Behind != nil {
				text += " behind " + *c.Behind
			}
			if c.Fields != nil {
				text += " [" + strings.Join(c.Fields, "; ") + "]"
			}
			got = append(got, text)
		}
		for _, s := range d.Sets {
			got = append(got, "set "+s.New.Name)
		}
		for _, name := range d.Unknown {
			got = append(got, "unknown "+name)
		}
		if d.Default != nil {
			got = append(got, fmt.Sprint("default ", *d.Default))
		}
		if text := strings.Join(got, ", "); text != tt.want || d.Same() != (tt.want == "" || d.Unknown != nil) {
			t.Errorf("%s: got %q (same: %v), want %q", tt.name, text, d.Same(), tt.want)
		}
	}
}

// TestCompareOrder makes the new of two random lists from the old one and what Compare
// says: rules that stay, in their old order, and each other one behind the rule that it
// names. And what moved is as few as can be.
func TestCompareOrder(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		ids := func() (out []uint32) {
			for _, id := range g.Perm(8) {
				if g.IntN(4) > 0 {
					out = append(out, uint32(id))
				}
			}
			return out
		}
		was, is := ids(), ids()
		d := Compare("", "", ruleList(was...), ruleList(is...))
		touched := map[uint32]bool{}
		for _, c := range d.Items {
			touched[c.ID] = true
		}
		made := slices.DeleteFunc(slices.Clone(was), func(id uint32) bool { return touched[id] })
		stay := len(made)
		for _, c := range d.Items {
			if c.Change == "Removed" {
				continue
			}
			at := 0
			if *c.Behind != "" {
				at = 1 + slices.IndexFunc(made, func(id uint32) bool { return ruleKey{"p", id}.String() == *c.Behind })
			}
			made = slices.Insert(made, at, c.ID)
		}
		if !slices.Equal(made, is) {
			t.Fatalf("%v to %v: %+v: that makes %v", was, is, d.Items, made)
		}
		most := 0
		for choice := range 1 << 8 {
			in := func(list []uint32) []uint32 {
				return slices.DeleteFunc(slices.Clone(list), func(id uint32) bool { return choice>>id&1 == 0 })
			}
			if a := in(was); slices.Equal(a, in(is)) {
				most = max(most, len(a))
			}
		}
		if stay != most {
			t.Fatalf("%v to %v: %d rules keep their place, but %d could: %+v", was, is, stay, most, d.Items)
		}
	}
}

// TestDiffInReference: the sample of the reference is what is printed.
func TestDiffInReference(t *testing.T) {
	golden, err := os.ReadFile("testdata/diff.table")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/reference/homeportctl.md")
	if err != nil {
		t.Fatal(err)
	}
	sample, _, _ := strings.Cut(string(golden), "Old  web-1")
	if !strings.Contains(string(doc), "diff before.json shop/db\n"+sample+"```\n") {
		t.Errorf("docs/reference/homeportctl.md has another sample than testdata/diff.table:\n%s", sample)
	}
}
