package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func rangesOf(texts ...string) []AddrRange {
	out := []AddrRange{}
	for _, t := range texts {
		r, err := ParseAddrRange(t)
		if err != nil {
			panic(err)
		}
		out = append(out, r)
	}
	return out
}

func TestMergeRanges(t *testing.T) {
	for _, c := range []struct{ in, want []AddrRange }{
		{nil, nil},
		{rangesOf("10.0.0.2", "10.0.0.1"), rangesOf("10.0.0.1-10.0.0.2")},
		{rangesOf("10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "13.0.0.1"), rangesOf("10.0.0.0/7", "13.0.0.1")},
		{rangesOf("::/0", "255.255.255.255", "0.0.0.0/0", "ffff::"), rangesOf("0.0.0.0/0", "::/0")},
		{rangesOf("255.255.255.255", "::"), rangesOf("255.255.255.255", "::")}, // families do not touch
		{rangesOf("10.0.0.9", "10.0.0.9", "10.0.0.11"), rangesOf("10.0.0.9", "10.0.0.11")},
	} {
		if got := MergeRanges(slices.Clone(c.in)); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.in, got, c.want)
		}
	}
	for range 200 {
		var in []AddrRange
		for range rand.IntN(12) {
			first := byte(rand.IntN(250))
			in = append(in, AddrRange{netip.AddrFrom4([4]byte{0, 0, 0, first}), netip.AddrFrom4([4]byte{0, 0, 0, first + byte(rand.IntN(6))})})
		}
		out := MergeRanges(slices.Clone(in))
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{0, 0, 0, byte(i)})
			has := func(list []AddrRange) bool {
				return slices.ContainsFunc(list, func(r AddrRange) bool { return r.Contains(a) })
			}
			if has(in) != has(out) {
				t.Fatalf("%v of %v became %v", a, in, out)
			}
		}
		for i := 1; i < len(out); i++ {
			if out[i].First.Compare(out[i-1].Last.Next()) <= 0 {
				t.Fatalf("%v became %v, which touch", in, out)
			}
		}
	}
}

// A side of a rule is Any only if it has neither addresses nor sets; a set without
// addresses matches nobody, nor what is not IP.
func TestMatchesSets(t *testing.T) {
	s := Set{Lists: map[string][]AddrRange{"a": rangesOf("10.0.0.1"), "b": rangesOf("10.0.0.2"), "none": {}}}
	in := func(src string) Packet { return Packet{Direction: In, IP: true, Src: netip.MustParseAddr(src)} }
	for name, c := range map[string]struct {
		rule Rule
		pkt  Packet
		want bool
	}{
		"own":                 {Rule{Sources: rangesOf("10.0.0.9"), SourceSets: []string{"a"}}, in("10.0.0.9"), true},
		"of a set":            {Rule{Sources: rangesOf("10.0.0.9"), SourceSets: []string{"a"}}, in("10.0.0.1"), true},
		"of the second":       {Rule{SourceSets: []string{"a", "b"}}, in("10.0.0.2"), true},
		"of none":             {Rule{SourceSets: []string{"a", "b"}}, in("10.0.0.3"), false},
		"an empty set":        {Rule{SourceSets: []string{"none"}}, in("10.0.0.1"), false},
		"nobody and a set":    {Rule{Sources: rangesOf(), SourceSets: []string{"a"}}, in("10.0.0.1"), true},
		"all but":             {Rule{SourceSets: []string{"a"}, NotSources: true}, in("10.0.0.2"), true},
		"all but this":        {Rule{SourceSets: []string{"a"}, NotSources: true}, in("10.0.0.1"), false},
		"of the other family": {Rule{SourceSets: []string{"a"}, NotSources: true}, in("fd00::1"), true},
		"all but nobody":      {Rule{SourceSets: []string{"none"}, NotSources: true}, in("10.0.0.1"), true},
		"all but, no IP":      {Rule{SourceSets: []string{"a"}, NotSources: true}, Packet{Direction: In}, false},
		"no IP":               {Rule{SourceSets: []string{"a"}}, Packet{Direction: In}, false},
		"destinations":        {Rule{DestinationSets: []string{"a"}}, Packet{Direction: In, IP: true, Dst: netip.MustParseAddr("::ffff:10.0.0.1")}, true},
		"at the VM, in":       {Rule{LocalSets: []string{"a", "b"}}, Packet{Direction: In, IP: true, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}, true},
		"at a peer, in":       {Rule{LocalSets: []string{"a"}}, Packet{Direction: In, IP: true, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}, false},
		"at the VM, out":      {Rule{LocalSets: []string{"a"}, DestinationSets: []string{"b"}}, Packet{Direction: Out, IP: true, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}, true},
		"at a peer, out":      {Rule{LocalSets: []string{"b"}}, Packet{Direction: Out, IP: true, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}, false},
		"at a VM of nobody":   {Rule{LocalSets: []string{"none"}}, in("10.0.0.1"), false},
		"at a VM, no IP":      {Rule{LocalSets: []string{"a"}}, Packet{Direction: Out}, false},
	} {
		c.rule.Directions = InOut
		flat := s.Flat(c.rule)
		if got := s.Matches(&c.rule, c.pkt); got != c.want || s.Matches(&flat, c.pkt) != c.want || flat.SourceSets != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A rule has every service only if it has neither services nor sets of them.
func TestMatchesServiceSets(t *testing.T) {
	s := Set{ServiceLists: map[string][]Service{"web": {{Protocol: TCP, First: 80, Last: 80}}, "gre": {{Protocol: 47, Last: 0xffff}}, "none": {}}}
	web, ssh, gre := Packet{IP: true, Protocol: TCP, HasService: true, Service: 80}, Packet{IP: true, Protocol: TCP, HasService: true, Service: 22}, Packet{IP: true, Protocol: 47}
	for name, c := range map[string]struct {
		rule Rule
		pkt  Packet
		want bool
	}{
		"of a set":         {Rule{ServiceSets: []string{"gre", "web"}}, web, true},
		"of the other":     {Rule{ServiceSets: []string{"gre", "web"}}, gre, true},
		"of none":          {Rule{ServiceSets: []string{"gre", "web"}}, ssh, false},
		"own":              {Rule{Services: []Service{{Protocol: TCP, First: 22, Last: 22}}, ServiceSets: []string{"web"}}, ssh, true},
		"beside own":       {Rule{Services: []Service{{Protocol: TCP, First: 22, Last: 22}}, ServiceSets: []string{"web"}}, web, true},
		"an empty set":     {Rule{ServiceSets: []string{"none"}}, web, false},
		"what is not IP":   {Rule{ServiceSets: []string{"web"}}, Packet{}, false},
		"nothing, and web": {Rule{Services: []Service{}, ServiceSets: []string{"web"}}, web, true},
	} {
		c.rule.Directions = InOut
		flat := s.Flat(c.rule)
		if got := s.Matches(&c.rule, c.pkt); got != c.want || s.Matches(&flat, c.pkt) != c.want || flat.ServiceSets != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What older versions would take for Any, or for its opposite, they cannot read at all.
func TestRuleJSON(t *testing.T) {
	for name, c := range map[string]struct {
		rule Rule
		old  bool // they can read it
	}{
		"addresses":    {Rule{Key: RuleKey{Policy: "web", ID: 7}, Action: Allow, Directions: OnlyIn, Sources: rangesOf("10.0.0.1"), Destinations: rangesOf()}, true},
		"sets":         {Rule{Directions: OnlyOut, SourceSets: []string{"site"}}, false},
		"destinations": {Rule{Directions: InOut, DestinationSets: []string{"site"}, Services: []Service{{Protocol: TCP, First: 80, Last: 80}}}, false},
		"services":     {Rule{Directions: InOut, ServiceSets: []string{"web"}}, false},
		"turned round": {Rule{Directions: InOut, Sources: rangesOf("10.0.0.1"), NotSources: true}, false},
		"at some VMs":  {Rule{Directions: InOut, LocalSets: []string{"site"}}, false},
		"and sources":  {Rule{Directions: OnlyIn, LocalSets: []string{"site"}, Sources: rangesOf("10.0.0.1"), NotSources: true}, false},
		"the other":    {Rule{Directions: InOut, Destinations: rangesOf("10.0.0.1"), NotDestinations: true}, false},
	} {
		text, err := json.Marshal(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		var got Rule
		if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, c.rule) {
			t.Errorf("%s: %s became %+v, %v", name, text, got, err)
		}
		if err := json.Unmarshal(text, new(plainRule)); (err == nil) != c.old {
			t.Errorf("%s: an older version reads %s: %v", name, text, err)
		}
	}
	if _, err := json.Marshal(Rule{SourceSets: []string{"site"}}); err == nil {
		t.Error("a rule without directions is written")
	}
}

// A list that sets share is stored once, and is one again afterwards.
func TestStoredSets(t *testing.T) {
	shared := rangesOf("10.0.0.0/8", "fd00::1")
	sets := map[string]Set{
		"a": {Network: "a", Default: Allow, Lists: map[string][]AddrRange{"x": shared, "y": rangesOf("1.1.1.1")}},
		"b": {Network: "b", Lists: map[string][]AddrRange{"x": shared}},
		"c": {Network: "c", ServiceLists: map[string][]Service{"web": {{Protocol: TCP, First: 80, Last: 80}}}},
	}
	stored := Store(sets)
	if len(stored.Lists) != 2 {
		t.Errorf("%d lists are stored", len(stored.Lists))
	}
	text, err := json.Marshal(stored)
	if err != nil {
		t.Fatal(err)
	}
	var read StoredSets
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	got := read.Load()
	if !reflect.DeepEqual(got, sets) || IDOf(got["a"].Lists["x"]) != IDOf(got["b"].Lists["x"]) {
		t.Errorf("got %+v\nof %s", got, text)
	}
	read.Uses["b"]["x"], read.Uses["gone"] = 9, map[string]int{"x": 0}
	if got := fmt.Sprint(read.Load()["b"].Lists); got != "map[]" {
		t.Errorf("a number that no list has: %s", got)
	}
}
