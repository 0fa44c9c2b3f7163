package compile_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

func v4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func single(n uint32) policy.AddrRange { return policy.AddrRange{First: v4(n), Last: v4(n)} }

// rules makes n rules of one policy that allow everything.
func rules(policyName string, n int) (out []policy.Rule) {
	for i := range n {
		out = append(out, policy.Rule{
			Key:        policy.RuleKey{Policy: policyName, ID: uint32(i)},
			Action:     policy.Allow,
			Directions: policy.InOut,
		})
	}
	return out
}

func TestBuildRefuses(t *testing.T) {
	addr := netip.MustParseAddr
	change := func(f func(*policy.Rule)) []policy.Set {
		r := rules("web", 1)
		f(&r[0])
		return []policy.Set{{Network: "bad", Rules: r}, {Network: "good", Rules: rules("web", 1)}}
	}
	ranged := func(first, last netip.Addr) []policy.Set {
		return change(func(r *policy.Rule) { r.Sources = []policy.AddrRange{{First: first, Last: last}} })
	}
	for name, tc := range map[string]struct {
		sets []policy.Set
		want string
	}{
		"12289 rules": {[]policy.Set{{Network: "bad", Rules: slices.Concat(rules("a", 12000), rules("b", 289))}},
			`network "bad": has 12289 rules (policy "a" 12000, policy "b" 289), but a network can have 12288`},
		"network twice":   {[]policy.Set{{Network: "bad"}, {Network: "bad"}}, "more than one set"},
		"key twice":       {[]policy.Set{{Network: "bad", Rules: append(rules("a", 2), rules("a", 1)...)}}, "rule a/0 is there twice"},
		"default":         {[]policy.Set{{Network: "bad", Default: 7}}, "default action Action(7)"},
		"action":          {change(func(r *policy.Rule) { r.Action = 7 }), "rule web/0: action Action(7)"},
		"no direction":    {change(func(r *policy.Rule) { r.Directions = 0 }), "must be In, Out or InOut"},
		"third direction": {change(func(r *policy.Rule) { r.Directions = 4 }), "must be In, Out or InOut"},
		"protocol":        {change(func(r *policy.Rule) { r.Services = []policy.Service{{Protocol: 47}} }), "protocol 47"},
		"ports":           {change(func(r *policy.Rule) { r.Services = []policy.Service{{Protocol: 6, First: 9, Last: 8}} }), "tcp/9-8"},
		"half a protocol": {change(func(r *policy.Rule) { r.Services = []policy.Service{{Protocol: 47, First: 1, Last: 2}} }), "neither ports nor types"},
		"source ports": {change(func(r *policy.Rule) {
			r.Services = []policy.Service{{Protocol: 1, Last: 2, SourceFirst: 1, SourceLast: 1}}
		}), "are of tcp, udp and sctp"},
		"sources": {change(func(r *policy.Rule) {
			r.Services = []policy.Service{{Protocol: 6, Last: 2, SourceFirst: 9, SourceLast: 1}}
		}), "the end is below the start"},
		"lines": {[]policy.Set{{Network: "bad", Rules: func() []policy.Rule {
			all := rules("a", 7000)
			for i := range all {
				all[i].Services = []policy.Service{
					{Protocol: 6, First: 80, Last: 80, SourceFirst: 1, SourceLast: 9}, {Protocol: 6, First: 81, Last: 81, SourceFirst: 2, SourceLast: 9},
				}
			}
			return all
		}()}}, `its 7000 rules (policy "a" 7000) ask for so many combinations of source ports, destination ports and TCP flags that they count as more than the 12288 that a network can have, by rule a/6144`},
		"services of a rule": {change(func(r *policy.Rule) { r.Services = make([]policy.Service, 1025) }), "rule web/0: has 1025 services, each port range counted for each of its source port ranges, but can have 1024"},
		"services of a set": {[]policy.Set{{Network: "bad", Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "web"}, Directions: policy.InOut, ServiceSets: []string{"web"}}},
			ServiceLists: map[string][]policy.Service{"web": make([]policy.Service, 1025)}}}, "rule web/0: ServiceSet web: has 1025 services"},
		"services of all": {[]policy.Set{{Network: "bad", ServiceLists: map[string][]policy.Service{"web": slices.Repeat([]policy.Service{{Protocol: 6, Last: 9}}, 1024)}, Rules: func() []policy.Rule {
			all := rules("a", 1025)
			for i := range all {
				all[i].ServiceSets = []string{"web"}
			}
			return all
		}()}}, `its rules (policy "a" 1025) come to more than 1048576 services, by rule a/1024`},
		"no service set": {change(func(r *policy.Rule) { r.ServiceSets = []string{"web"} }), `rule web/0: ServiceSet web is not known`},
		"bad service set": {[]policy.Set{{Network: "bad", Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "web"}, Directions: policy.InOut, ServiceSets: []string{"web"}}},
			ServiceLists: map[string][]policy.Service{"web": {{Protocol: 6, First: 9, Last: 8}}}}}, `rule web/0: ServiceSet web: service tcp/9-8: the end is below`},
		"frames are not rejected":   {change(func(r *policy.Rule) { r.Ethernet, r.Action = true, policy.Reject }), "rule web/0 is about frames, which it can allow or drop"},
		"frames do not pass on":     {change(func(r *policy.Rule) { r.Ethernet, r.Action = true, policy.Pass }), "rule web/0 is about frames"},
		"frames have no VM's side":  {change(func(r *policy.Rule) { r.Ethernet, r.LocalSets = true, []string{"x"} }), "rule web/0 is about frames"},
		"frames have no ports":      {change(func(r *policy.Rule) { r.Ethernet, r.Services = true, []policy.Service{{Protocol: 6, Last: 9}} }), "EtherTypes are of category Ethernet"},
		"packets have no EtherType": {change(func(r *policy.Rule) { r.Services = []policy.Service{{EtherType: 0x88cc}} }), "EtherTypes are of category Ethernet"},
		"no address":                {ranged(netip.Addr{}, addr("10.0.0.1")), "without an end"},
		"two families":              {ranged(addr("10.0.0.1"), addr("fd00::1")), "both ends"},
		"range backwards":           {ranged(addr("10.0.0.2"), addr("10.0.0.1")), "the end is below the start"},
		"zone":                      {ranged(addr("fe80::1%eth0"), addr("fe80::2%eth0")), "no zone"},
		"IPv4 in IPv6":              {ranged(addr("::ffff:10.0.0.1"), addr("::ffff:10.0.0.1")), "write IPv4 addresses as IPv4"},
		"no such set":               {change(func(r *policy.Rule) { r.SourceSets = []string{"site"} }), `rule web/0: address set "site" is not known`},
		"bad set": {[]policy.Set{{Network: "bad", Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "web"}, Directions: policy.InOut, DestinationSets: []string{"site"}}},
			Lists: map[string][]policy.AddrRange{"site": {{}}}}, {Network: "good", Rules: rules("web", 1)}}, `rule web/0: address set "site": a range of addresses without an end`},
		"tiers out of order": {tiers(1, 0), "rule a/1 is of tier 0, behind one of tier 1"},
		"too many tiers":     {tiers(0, 7), "rule a/1 is of tier 7, but the last one is 6"},
		"monitored behind Pass": {func() []policy.Set {
			sets := tiers(3, 3)
			sets[0].Rules[0].Action, sets[0].Rules[1].Monitored = policy.Pass, true
			return sets
		}(), "rule a/1 is monitored, in a tier with Pass rules"},
		"bad destinations": {change(func(r *policy.Rule) { r.Destinations = []policy.AddrRange{{}} }), "without an end"},
	} {
		t.Run(name, func(t *testing.T) {
			counters := compile.Counters{}
			for _, s := range tc.sets {
				counters[policy.DefaultKey(s.Network)] = 0
				for _, r := range s.Rules {
					counters[r.Key] = 1
				}
			}
			p, err := compile.Build(compile.Input{Sets: tc.sets, Counters: counters})
			var refused *compile.RefusedError
			if p != nil || !errors.As(err, &refused) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, %v, want an error with %q", p, err, tc.want)
			}
			if len(refused.Networks) != 1 || refused.Networks[0].Network != "bad" {
				t.Errorf("refused: %v, want the network bad alone", refused)
			}
		})
	}
}

// tiers is a bad set of rules of these tiers.
func tiers(of ...uint8) []policy.Set {
	all := rules("a", len(of))
	for i, tier := range of {
		all[i].Tier = tier
	}
	return []policy.Set{{Network: "bad", Rules: all}}
}

func TestBuildRefusesCounters(t *testing.T) {
	sets := []policy.Set{{Network: "n", Rules: rules("web", 1)}}
	for want, counters := range map[string]compile.Counters{
		"@n has no counter":      {{Policy: "web"}: 1},
		"web/0 has no counter":   {policy.DefaultKey("n"): 1},
		"the last one is 262143": {{Policy: "web"}: compile.CountersMax, policy.DefaultKey("n"): 1},
	} {
		if _, err := compile.Build(compile.Input{Sets: sets, Counters: counters}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// 17 lists whose addresses stand for all combinations of them: more rows than numbers,
// or, where rows are wide, than memory.
func TestBuildRefusesTooManyRows(t *testing.T) {
	for _, c := range []struct {
		rules     int
		addresses uint32
		most      int
	}{{17, 70000, 65536}, {compile.RulesMax, 44000, 43690}} {
		set := policy.Set{Network: "bad", Rules: rules("web", c.rules)}
		for n := range c.addresses {
			for i := range 17 {
				if n>>i&1 != 0 {
					set.Rules[i].Sources = append(set.Rules[i].Sources, single(n))
				}
			}
		}
		// The first is a named one: people are told which they are.
		set.Lists, set.Rules[0].SourceSets, set.Rules[0].Sources = map[string][]policy.AddrRange{"odd": set.Rules[0].Sources}, []string{"odd"}, nil
		// A list that holds all splits nothing, and what others name is not to blame.
		other := policy.Set{Network: "good", Rules: rules("elsewhere", 1)}
		other.Rules[0].Sources = set.Rules[1].Sources
		set.Rules[16].Destinations = []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("0.0.0.0/0"))}
		sets := []policy.Set{set, other}
		counters, err := compile.Allocate(nil, sets)
		if err != nil {
			t.Fatal(err)
		}
		_, err = compile.Build(compile.Input{Sets: sets, Counters: counters})
		var refused *compile.RefusedError
		if !errors.As(err, &refused) || len(refused.Networks) != 1 || refused.Networks[0].Network != "bad" ||
			!strings.Contains(err.Error(), fmt.Sprintf("its %d rules need more than the %d different rows", c.rules, c.most)) ||
			!strings.Contains(err.Error(), fmt.Sprintf(`address set "odd", the addresses of rule web/1, the addresses of rule web/2 make most of %d combinations`, c.addresses+1)) {
			t.Errorf("%d rules: got %v", c.rules, err)
		}
	}
}

// Ranges with odd ends come to a hundred prefixes and more each.
func TestBuildRefusesTooManyPrefixes(t *testing.T) {
	var list []policy.AddrRange
	for i := range 20000 {
		b := [16]byte{0x20, 1, 2: byte(i >> 8), 3: byte(i), 15: 1}
		first := netip.AddrFrom16(b)
		for j := 8; j < 16; j++ {
			b[j] = 0xff
		}
		b[15] = 0xfe
		list = append(list, policy.AddrRange{First: first, Last: netip.AddrFrom16(b)})
	}
	bad := policy.Set{Network: "bad", Rules: rules("web", 2), Lists: map[string][]policy.AddrRange{"odd": list, "few": {single(1)}}}
	bad.Rules[0].SourceSets, bad.Rules[1].DestinationSets = []string{"few"}, []string{"few", "odd"}
	sets := []policy.Set{bad, {Network: "good"}}
	counters, err := compile.Allocate(nil, sets)
	if err != nil {
		t.Fatal(err)
	}
	_, err = compile.Build(compile.Input{Sets: sets, Counters: counters})
	var refused *compile.RefusedError
	if !errors.As(err, &refused) || len(refused.Networks) != 1 ||
		!strings.Contains(err.Error(), `network "bad": its address lists come to 2520001 prefixes, but those of a network can have 2097152; the most has address set "odd", 2520000`) {
		t.Errorf("got %v", err)
	}
}

// A network that is refused keeps its last good set, and the others get
// their new ones.
func TestRetryWithLastGoodSet(t *testing.T) {
	good := map[string]policy.Set{"a": {Network: "a", Rules: rules("old", 3)}, "b": {Network: "b"}}
	counters, err := compile.Allocate(nil, []policy.Set{good["a"], good["b"]})
	if err != nil {
		t.Fatal(err)
	}
	wanted := []policy.Set{{Network: "a", Rules: rules("new", compile.RulesMax+1)}, {Network: "b", Rules: rules("new", 5)}, {Network: "c", Default: 9}}
	var p *compile.Program
	for range 3 {
		counters, err = compile.Allocate(counters, wanted)
		if err == nil {
			p, err = compile.Build(compile.Input{Sets: wanted, Counters: counters})
		}
		var refused *compile.RefusedError
		if !errors.As(err, &refused) {
			break
		}
		wanted = slices.DeleteFunc(wanted, func(s policy.Set) bool {
			return slices.ContainsFunc(refused.Networks, func(n *compile.NetworkError) bool { return n.Network == s.Network })
		})
		for _, n := range refused.Networks {
			if last, ok := good[n.Network]; ok {
				wanted = append(wanted, last)
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint32{}
	for i := range p.Policies {
		h, err := p.Policies[i].Header()
		if err != nil {
			t.Fatal(err)
		}
		got[p.Policies[i].Network] = h.Rules
	}
	if diff := cmp.Diff(map[string]uint32{"a": 3, "b": 5}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := compile.Lookup(p, "c", policy.Packet{}); !errors.Is(err, compile.ErrNoProgram) {
		t.Errorf("network without a program: got %v", err)
	}
}

func TestLookupOnBrokenBytes(t *testing.T) {
	set := policy.Set{Network: "n", Rules: rules("web", 1)}
	for name, spoil := range map[string]func(*compile.Header){
		"rows":   func(h *compile.Header) { h.Rows = 99 },
		"meta":   func(h *compile.Header) { h.Meta = 99 },
		"words":  func(h *compile.Header) { h.Words = 0 },
		"rules":  func(h *compile.Header) { h.Rules = 0 },
		"no svc": func(h *compile.Header) { h.SvcNoneRow = 1 << 31 },
	} {
		p, _ := newProgram(t, set)
		h, err := p.Policies[0].Header()
		if err != nil {
			t.Fatal(err)
		}
		spoil(&h)
		p.Policies[0].SetHeader(h)
		if m, err := compile.Lookup(p, "n", policy.Packet{}); err == nil {
			t.Errorf("%s: got %+v, want an error", name, m)
		}
	}
}

// Equal meaning gives equal bytes.
func TestBuildIsDeterministic(t *testing.T) {
	seed := policytest.Seed(t)
	g, rnd := policytest.New(seed), rand.New(rand.NewPCG(seed, 1))
	for range 50 {
		sets := []policy.Set{g.Set("a"), g.Set("b"), g.Set("c")}
		program, counters := newProgram(t, sets...)
		again, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(program, again, cmpopts.EquateComparable(compile.AddrClass{}, compile.Page{})); diff != "" {
			t.Fatal(diff)
		}
		for i := range sets {
			for j := range sets[i].Rules {
				r := &sets[i].Rules[j]
				r.Sources, r.Destinations, r.Services = slices.Clone(r.Sources), slices.Clone(r.Destinations), slices.Clone(r.Services)
				for _, list := range [][]policy.AddrRange{r.Sources, r.Destinations} {
					rnd.Shuffle(len(list), func(a, b int) { list[a], list[b] = list[b], list[a] })
				}
				rnd.Shuffle(len(r.Services), func(a, b int) { r.Services[a], r.Services[b] = r.Services[b], r.Services[a] })
				if len(r.Sources) > 0 && r.Sources[0].First != r.Sources[0].Last { // the same, in two parts
					whole := r.Sources[0]
					r.Sources = append(r.Sources, policy.AddrRange{First: whole.First.Next(), Last: whole.Last})
					r.Sources[0].Last = whole.First
				}
			}
		}
		rnd.Shuffle(len(sets), func(a, b int) { sets[a], sets[b] = sets[b], sets[a] })
		shuffled, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
		if err != nil {
			t.Fatal(err)
		}
		if shuffled.Hash != program.Hash {
			t.Fatal("the order of input changes the hash")
		}
	}
}

// Whatever is enforced is in the hash.
func TestHashTellsApart(t *testing.T) {
	base := func() policy.Set {
		set := policy.Set{Network: "n", Rules: rules("web", 3)}
		set.Rules[1].Sources = []policy.AddrRange{single(5)}
		return set
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*policy.Set){
		"base":      func(*policy.Set) {},
		"network":   func(s *policy.Set) { s.Network = "m" },
		"default":   func(s *policy.Set) { s.Default = policy.Allow },
		"action":    func(s *policy.Set) { s.Rules[2].Action = policy.Drop },
		"direction": func(s *policy.Set) { s.Rules[2].Directions = policy.OnlyIn },
		"id":        func(s *policy.Set) { s.Rules[2].Key.ID = 9 },
		"address":   func(s *policy.Set) { s.Rules[1].Sources[0] = single(6) },
		"side":      func(s *policy.Set) { s.Rules[1].Sources, s.Rules[1].Destinations = nil, s.Rules[1].Sources },
		"service":   func(s *policy.Set) { s.Rules[1].Services = []policy.Service{{Protocol: 6, First: 1, Last: 2}} },
		"one less":  func(s *policy.Set) { s.Rules = s.Rules[:2] },
	} {
		set := base()
		change(&set)
		p, _ := newProgram(t, set)
		if other, ok := seen[p.Hash]; ok {
			t.Errorf("%s and %s have one hash", name, other)
		}
		seen[p.Hash] = name
	}
}

// TestSetsOfOneName: what a set was before judges one network while it judges another
// as it is now, as when the other's new rules are refused.
func TestSetsOfOneName(t *testing.T) {
	named := func(network string, list ...policy.AddrRange) policy.Set {
		r := rules(network, 2)
		r[0].SourceSets, r[0].Action = []string{"site"}, policy.Drop
		r[1].DestinationSets = []string{"site"}
		return policy.Set{Network: network, Rules: r, Lists: map[string][]policy.AddrRange{"site": list}}
	}
	before, now := named("before", single(1)), named("now", single(1), single(2))
	p, counters := newProgram(t, before, now, named("nobody"))
	for _, set := range []policy.Set{before, now, named("nobody")} {
		for n := range uint32(3) {
			for _, pkt := range []policy.Packet{
				{IP: true, Src: v4(n), Dst: v4(9), Direction: policy.In}, {IP: true, Src: v4(9), Dst: v4(n), Direction: policy.In},
			} {
				got, err := compile.Lookup(p, set.Network, pkt)
				if w, _ := want(&set, counters, pkt); err != nil || !reflect.DeepEqual(got, w) {
					t.Errorf("%s, %+v: got %+v, %v, want %+v", set.Network, pkt, got, err, w)
				}
			}
		}
	}
}

func TestEmptyInput(t *testing.T) {
	p, _ := newProgram(t)
	if len(p.Addrs) != 0 || len(p.Policies) != 0 || p.Hash == "" {
		t.Errorf("got %+v", p)
	}
}

// bigInput has n sets of 128 rules whose lists name about prefixes CIDRs.
func bigInput(tb testing.TB, networks, prefixes int) compile.Input {
	tb.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	var sets []policy.Set
	for n := range networks {
		set := policy.Set{Network: fmt.Sprintf("vlan%d", n), Rules: rules(fmt.Sprintf("p%d", n), 128)}
		for i := range set.Rules {
			r := &set.Rules[i]
			for range max(1, prefixes/networks/256) {
				a, b := v4(rnd.Uint32()), v4(rnd.Uint32())
				r.Sources = append(r.Sources, policy.RangeOf(netip.PrefixFrom(a, 16+rnd.IntN(17))))
				r.Destinations = append(r.Destinations, policy.RangeOf(netip.PrefixFrom(b, 24+rnd.IntN(9))))
			}
			port := uint16(rnd.IntN(10000))
			r.Services = []policy.Service{{Protocol: policy.TCP, First: port, Last: port + uint16(rnd.IntN(100))}}
		}
		sets = append(sets, set)
	}
	counters, err := compile.Allocate(nil, sets)
	if err != nil {
		tb.Fatal(err)
	}
	return compile.Input{Sets: sets, Counters: counters}
}

// built compiles one set.
func built(t *testing.T, set policy.Set) (*compile.Program, compile.Counters) {
	t.Helper()
	counters, err := compile.Allocate(nil, []policy.Set{set})
	if err != nil {
		t.Fatal(err)
	}
	p, err := compile.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters})
	if err != nil {
		t.Fatal(err)
	}
	return p, counters
}

// Rules can tell all combinations of TCP flags apart.
func TestManyFlags(t *testing.T) {
	for _, demands := range []int{1, 64, 256} {
		set := policy.Set{Network: "n", Default: policy.Drop}
		for i := range demands {
			set.Rules = append(set.Rules, policy.Rule{Key: policy.RuleKey{Policy: "p", ID: uint32(i)}, Directions: policy.InOut,
				Services: []policy.Service{{Protocol: policy.TCP, Last: 0xffff, SourceFirst: uint16(1 + i), SourceLast: uint16(2 + i), Flags: policy.TCPFlags{Mask: 0xff, Set: uint8(i)}},
					{Protocol: policy.UDP, Last: 0xffff, SourceFirst: uint16(1 + i), SourceLast: uint16(1 + i)}}})
		}
		p, counters := built(t, set)
		for flags := range 256 {
			for _, protocol := range []uint8{policy.TCP, policy.UDP} {
				pkt := policy.Packet{IP: true, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Protocol: protocol, HasService: true, SourcePort: uint16(1 + flags)}
				if protocol == policy.TCP {
					pkt.Flags = uint8(flags)
				}
				m, err := compile.Lookup(p, "n", pkt)
				want := counters[policy.DefaultKey("n")]
				if flags < demands {
					want = counters[policy.RuleKey{Policy: "p", ID: uint32(flags)}]
				}
				if err != nil || m.Counter != want {
					t.Errorf("of %d demands %+v meets counter %d, %v; want %d", demands, pkt, m.Counter, err, want)
				}
			}
		}
	}
}

// What numbers of chunks cannot tell is refused, and not mixed up.
func TestTooManyChunks(t *testing.T) {
	set := policy.Set{Network: "n", Default: policy.Drop}
	for i := range 256 {
		set.Rules = append(set.Rules, policy.Rule{Key: policy.RuleKey{Policy: "q", ID: uint32(i)}, Directions: policy.InOut,
			Services: []policy.Service{{Protocol: policy.TCP, Last: 0xffff, SourceFirst: uint16(max(1, i<<8)), SourceLast: uint16(i<<8 | 0x7f)}}})
	}
	for i := range 2 * 140 { // each group of flags has another rule in each direction, at each 256th source port
		r := policy.Rule{Key: policy.RuleKey{Policy: "p", ID: uint32(i)}, Directions: policy.OnlyOut << (i % 2)}
		for port := range 256 {
			r.Services = append(r.Services, policy.Service{Protocol: policy.TCP, Last: 0xffff, SourceFirst: uint16(port<<8 | 1), SourceLast: uint16(port<<8 | 1), Flags: policy.TCPFlags{Mask: 0xff, Set: uint8(i / 2)}})
		}
		set.Rules = append(set.Rules, r)
	}
	counters, err := compile.Allocate(nil, []policy.Set{set})
	if err != nil {
		t.Fatal(err)
	}
	_, err = compile.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters})
	if err == nil || !strings.Contains(err.Error(), "fewer combinations of source ports and TCP flags") {
		t.Errorf("more chunks than there are numbers: %v", err)
	}
}

// A node's programs of an earlier version meet pages of this one after a step back, until their
// agent has compiled its own. They would not find hosts, and refuse pages that begin with 0.
func TestEarlierProgramsRefusePages(t *testing.T) {
	g := policytest.New(policytest.Seed(t))
	for n := range 60 {
		p, _ := built(t, g.SetN("n", 5*n))
		for i := range p.Policies {
			h, err := p.Policies[i].Header()
			if err != nil {
				t.Fatal(err)
			}
			if first := binary.NativeEndian.Uint32(p.Policies[i].Pages[0][:]); first != 0 || h.Words == 0 {
				t.Fatalf("a page begins with %d, and has rows of %d words", first, h.Words)
			}
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, size := range []struct{ networks, prefixes int }{
		{1, 256}, {100, 25600}, {1, 100_000}, {10, 100_000}, {20, 1_000_000},
	} {
		b.Run(fmt.Sprintf("networks=%d/prefixes=%d", size.networks, size.prefixes), func(b *testing.B) {
			in := bigInput(b, size.networks, size.prefixes)
			b.ReportAllocs()
			for b.Loop() {
				p, err := compile.Build(in)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(p.Addrs)), "prefixes")
				pages := 0
				for i := range p.Policies {
					pages += len(p.Policies[i].Pages)
				}
				b.ReportMetric(float64(pages*compile.PageSize)/1e6, "MB")
			}
		})
	}
}

// 2,000 address sets with 500 CIDRs each, a tenth of them also in another, and networks
// of 4,000 rules that name them, alone and with others.
func BenchmarkBuildSets(b *testing.B) {
	const sets, each, perNetwork = 2000, 500, 4000
	lists := map[string][]policy.AddrRange{}
	name := func(i int) string { return fmt.Sprintf("set%04d", i%sets) }
	for i := range sets {
		var list []policy.AddrRange
		for j := range each {
			at := i
			if j < each/10 {
				at = (i + 1) % sets
			}
			list = append(list, policy.RangeOf(netip.PrefixFrom(v4(10<<24|uint32(at*each+j)<<3), 29+j%4)))
		}
		lists[name(i)] = policy.MergeRanges(list)
	}
	for _, networks := range []int{1, 30} {
		b.Run(fmt.Sprintf("networks=%d", networks), func(b *testing.B) {
			var in compile.Input
			for n := range networks {
				set := policy.Set{Network: fmt.Sprintf("vlan%d", n), Rules: rules(fmt.Sprintf("p%d", n), perNetwork), Lists: lists}
				for i := range set.Rules {
					set.Rules[i].SourceSets, set.Rules[i].DestinationSets = []string{name(i + n)}, []string{name(7 * i), name(13*i + 1)}
				}
				in.Sets = append(in.Sets, set)
			}
			in.Counters = compile.Counters{}
			for _, s := range in.Sets { // a node has fewer, so far
				in.Counters[policy.DefaultKey(s.Network)] = 0
				for _, r := range s.Rules {
					in.Counters[r.Key] = 1
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				p, err := compile.Build(in)
				if err != nil {
					b.Fatal(err)
				}
				pages := 0
				for i := range p.Policies {
					pages += len(p.Policies[i].Pages)
				}
				b.ReportMetric(float64(len(p.Addrs)), "prefixes")
				b.ReportMetric(float64(pages*compile.PageSize)/1e6, "MB")
			}
		})
	}
}

// One address comes to one of 1,000 sets of 100 that 4,000 rules name.
func BenchmarkBuildAddress(b *testing.B) {
	for _, of := range []int{1e5, 1e6} {
		b.Run(fmt.Sprintf("addresses=%d", of), func(b *testing.B) {
			lists := map[string][]policy.AddrRange{}
			set := policy.Set{Network: "n", Rules: rules("p", 4000), Lists: lists}
			for i := range 1000 {
				var list []policy.AddrRange
				for j := range of / 1000 {
					list = append(list, policy.RangeOf(netip.PrefixFrom(v4(10<<24|uint32(i*of/1000+j)<<3), 32)))
				}
				lists[fmt.Sprint("set", i)] = list
			}
			for i := range set.Rules {
				set.Rules[i].SourceSets = []string{fmt.Sprint("set", i%1000)}
			}
			counters, err := compile.Allocate(nil, []policy.Set{set})
			if err != nil {
				b.Fatal(err)
			}
			var c compile.Compiler
			before := lists["set7"]
			for n := 0; b.Loop(); n++ {
				set.Lists = maps.Clone(lists)
				if n%2 == 1 {
					set.Lists["set7"] = policy.MergeRanges(append(slices.Clone(before), policy.RangeOf(netip.PrefixFrom(v4(10<<24|4), 32))))
				}
				if _, err := c.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A network of many rules, each with an address of its own.
func BenchmarkBuildWide(b *testing.B) {
	for _, n := range []int{128, 4000, compile.RulesMax} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			sets := []policy.Set{policytest.New(1).Wide("n", n, n/3)}
			counters, err := compile.Allocate(nil, sets)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				p, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(p.Policies[0].Pages)*compile.PageSize)/1e6, "MB")
			}
		})
	}
}

// FuzzLookup: bytes that are no program give an error or a verdict, and end.
func FuzzLookup(f *testing.F) {
	g := policytest.New(3)
	set := g.SetN("n", 70)
	counters, err := compile.Allocate(nil, []policy.Set{set})
	if err != nil {
		f.Fatal(err)
	}
	p, err := compile.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters})
	if err != nil {
		f.Fatal(err)
	}
	packets := g.Packets(set, 50)
	for i := range uint32(64) {
		f.Add(i*4, i<<28|i)
	}
	f.Add(uint32(len(p.Policies[0].Pages)-1)*compile.PageSize+8, uint32(policy.Pass))
	f.Fuzz(func(t *testing.T, at, value uint32) {
		spoilt := *p
		pages := slices.Clone(p.Policies[0].Pages)
		at %= uint32(len(pages) * compile.PageSize / 4)
		binary.NativeEndian.PutUint32(pages[at*4/compile.PageSize][at*4%compile.PageSize:], value)
		spoilt.Policies = []compile.Policy{{Network: "n", Pages: pages}}
		for _, pkt := range packets {
			if m, err := compile.Lookup(&spoilt, "n", pkt); err != nil && m.Action != policy.Drop {
				t.Fatalf("%v, and %v", err, m.Action)
			}
		}
	})
}
