// Package policytest makes random policies and packets for tests that compare
// forms of the firewall: [policy.Evaluate], the compiled bytes, the port
// program. All randomness comes from one seed, so that a failure is repeated
// with what [Seed] logged.
package policytest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// SeedVariable is the environment variable that repeats a run.
const SeedVariable = "HOMEPORT_SEED"

// MaxRules is the number of rules of the largest sets that [Gen.Set] makes.
const MaxRules = 128

// Seed gives the seed in SeedVariable, else a new one, and logs it.
func Seed(tb testing.TB) uint64 {
	tb.Helper()
	seed := rand.Uint64()
	if text := os.Getenv(SeedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 0, 64); err != nil {
			tb.Fatalf("%s=%q: %v", SeedVariable, text, err)
		}
	}
	tb.Logf("repeat with %s=%d", SeedVariable, seed)
	return seed
}

// Gen generates. It is not safe for concurrent use.
type Gen struct {
	rnd *rand.Rand
	// small is the part of each family that most addresses are taken from,
	// so that what rules name overlaps.
	small4, small6 netip.Prefix
	// shared are the address sets made last, by name, and services the service sets.
	shared   map[string][]policy.AddrRange
	services map[string][]policy.Service
	// demands are the TCP flags that services ask for.
	demands []policy.TCPFlags
}

// New makes a generator; equal seeds give equal sequences.
func New(seed uint64) *Gen {
	return &Gen{
		rnd:    rand.New(rand.NewPCG(seed, 0x686f6d65706f7274)),
		small4: netip.MustParsePrefix("10.20.0.0/20"),
		small6: netip.MustParsePrefix("fd00:20::/116"),
		shared: map[string][]policy.AddrRange{}, services: map[string][]policy.Service{},
	}
}

// Set makes a set with 0 to MaxRules rules, often a number at an edge of the
// compiled form, with either default.
func (g *Gen) Set(network string) policy.Set {
	n := pick(g, []int{0, 1, 2, 5, 10, 20, 63, 64, 65, 100, 127, 128, g.rnd.IntN(MaxRules + 1)})
	return g.SetN(network, n)
}

// SetN makes a set with n rules. Its rules come from one or two policies, and
// their ids are not in order.
func (g *Gen) SetN(network string, n int) policy.Set {
	set := policy.Set{Network: network, Default: policy.Action(g.rnd.IntN(2)), Lists: g.lists(), ServiceLists: g.serviceLists()}
	tier, passing, frames := uint8(0), g.rnd.IntN(3) == 0, g.rnd.IntN(3) == 0
	for i, id := range g.rnd.Perm(n) {
		r := g.rule()
		ethernet := frames && g.rnd.IntN(6) == 0
		if ethernet {
			r = g.frameRule()
		}
		if g.rnd.IntN(n) < 4 && tier < compile.TiersMax-2 {
			tier = min(tier+1+uint8(g.rnd.IntN(2)), compile.TiersMax-2)
			passing = g.rnd.IntN(2) == 0
		}
		r.Tier = tier
		switch {
		case passing && !ethernet && g.rnd.IntN(3) == 0:
			r.Action = policy.Pass
		case !passing:
			r.Monitored = g.rnd.IntN(6) == 0
		}
		r.Key = policy.RuleKey{Policy: fmt.Sprintf("p%d-%s", i*2/max(n, 1), network), ID: uint32(1000 + id)}
		if ethernet {
			set.Rules = append(set.Rules, r)
			continue
		}
		g.nameSets(&r, set.Lists)
		if g.rnd.IntN(4) == 0 {
			if r.ServiceSets = g.someOf(len(set.ServiceLists), slices.Sorted(maps.Keys(set.ServiceLists))); r.ServiceSets != nil && g.rnd.IntN(2) == 0 {
				r.Services = nil
			}
		}
		// A rule for everything hides those behind it: mostly the last, as
		// people have it.
		if isAny(&r) && g.rnd.IntN(2*n) != 0 {
			r.Sources = g.ranges(0)
		}
		if i == n-1 && g.rnd.IntN(4) == 0 {
			r.Sources, r.Destinations, r.Services, r.SourceSets, r.DestinationSets, r.ServiceSets, r.LocalSets = nil, nil, nil, nil, nil, nil, nil
		}
		set.Rules = append(set.Rules, r)
	}
	return set
}

// Wide makes a set of n rules, at most 2^22, in which nearly every rule can decide: each
// names an address as a source that no other does, and so all of them make classes. The
// first monitored of them are monitored.
func (g *Gen) Wide(network string, n, monitored int) policy.Set {
	set := policy.Set{Network: network, Default: policy.Action(g.rnd.IntN(2))}
	base := binary.BigEndian.Uint32([]byte{10, 64, 0, 0})
	for i, place := range g.rnd.Perm(n) {
		r := g.ruleOf(0)
		a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, base+uint32(place))))
		r.Sources = []policy.AddrRange{{First: a, Last: a}}
		for j := range r.Services { // with source ports it could count more than once
			r.Services[j].SourceFirst, r.Services[j].SourceLast = 0, 0
			if len(r.Services) > 1 { // and with flags
				r.Services[j].Flags = policy.TCPFlags{}
			}
		}
		r.Monitored = i < monitored
		r.Key = policy.RuleKey{Policy: fmt.Sprintf("p%d-%s", i*2/n, network), ID: uint32(1000 + place)}
		set.Rules = append(set.Rules, r)
	}
	return set
}

func isAny(r *policy.Rule) bool {
	return r.AnySource() && r.AnyDestination() && r.AnyService() && r.LocalSets == nil
}

// lists makes the address sets of a set: the same ones under the same names as sets
// before had, others under such names, and none.
func (g *Gen) lists() map[string][]policy.AddrRange {
	out := map[string][]policy.AddrRange{}
	for i := range g.rnd.IntN(6) {
		name := fmt.Sprintf("set%d", i)
		if g.shared[name] == nil || g.rnd.IntN(4) == 0 {
			g.shared[name] = slices.Concat(g.ranges(g.rnd.IntN(5)), g.ranges(4))
		}
		out[name] = g.shared[name]
	}
	return out
}

// serviceLists makes the service sets of a set, as lists does address sets.
func (g *Gen) serviceLists() map[string][]policy.Service {
	out := map[string][]policy.Service{}
	for i := range g.rnd.IntN(4) {
		name := fmt.Sprintf("services%d", i)
		if g.services[name] == nil || g.rnd.IntN(4) == 0 {
			g.services[name] = g.servicesOf(g.rnd.IntN(5))
		}
		out[name] = g.services[name]
	}
	return out
}

// someOf gives one or two of n names, or none.
func (g *Gen) someOf(n int, all []string) (names []string) {
	for _, name := range all {
		if g.rnd.IntN(n+1) == 0 {
			names = append(names, name)
		}
	}
	return names
}

// nameSets has some rules name address sets, with addresses of their own and without.
func (g *Gen) nameSets(r *policy.Rule, lists map[string][]policy.AddrRange) {
	some := func() []string { return g.someOf(len(lists), slices.Sorted(maps.Keys(lists))) }
	name := func(own *[]policy.AddrRange, names *[]string) {
		if g.rnd.IntN(3) == 0 {
			if *names = some(); *names != nil && g.rnd.IntN(2) == 0 {
				*own = nil
			}
		}
	}
	name(&r.Sources, &r.SourceSets)
	name(&r.Destinations, &r.DestinationSets)
	if g.rnd.IntN(6) == 0 {
		r.LocalSets = some()
	}
	r.NotSources, r.NotDestinations = g.rnd.IntN(8) == 0, g.rnd.IntN(8) == 0
}

// rule makes one, mostly of one family: with both mixed freely, many rules match nothing.
func (g *Gen) rule() policy.Rule { return g.ruleOf(g.rnd.IntN(5)) }

func (g *Gen) ruleOf(family int) policy.Rule {
	r := policy.Rule{
		Name:       "generated",
		Action:     pick(g, []policy.Action{policy.Drop, policy.Drop, policy.Reject, policy.Allow, policy.Allow, policy.Allow}),
		Directions: pick(g, []policy.Directions{policy.OnlyOut, policy.OnlyIn, policy.InOut, policy.InOut}),
		Disabled:   g.rnd.IntN(20) == 0,
		Stateless:  g.rnd.IntN(5) == 0,
		Loose:      g.rnd.IntN(5) == 0,
		Firm:       g.rnd.IntN(5) == 0,
		Log:        g.rnd.IntN(4) == 0,
	}
	if g.rnd.IntN(6) != 0 {
		r.Sources = g.ranges(family)
	}
	if g.rnd.IntN(6) != 0 {
		r.Destinations = g.ranges(family)
	}
	if g.rnd.IntN(5) != 0 {
		r.Services = g.servicesOf(family)
	}
	return r
}

// ranges makes a list of 1 to 4: of IPv4 (family 0 and 1), of IPv6 (2 and 3),
// of both (4). Once in a while it is empty and so matches nothing.
func (g *Gen) ranges(family int) []policy.AddrRange {
	out := []policy.AddrRange{}
	if g.rnd.IntN(60) == 0 {
		return out
	}
	for range 1 + g.rnd.IntN(4) {
		v4 := family < 2 || family == 4 && g.rnd.IntN(2) == 0
		out = append(out, g.addrRange(v4))
	}
	return out
}

func (g *Gen) addrRange(v4 bool) policy.AddrRange {
	a := g.addr(v4)
	switch g.rnd.IntN(8) {
	case 0, 1: // one address
		return policy.AddrRange{First: a, Last: a}
	case 2, 3, 4: // a CIDR, rarely a very wide one
		least := a.BitLen() - 12
		if g.rnd.IntN(12) == 0 {
			least = 0
		}
		return policy.RangeOf(netip.PrefixFrom(a, least+g.rnd.IntN(a.BitLen()-least+1)))
	case 5: // from an end of the address space
		zero, ones := ends(v4)
		if g.rnd.IntN(2) == 0 {
			return policy.AddrRange{First: zero, Last: a}
		}
		return policy.AddrRange{First: a, Last: ones}
	}
	b := g.addr(v4)
	if b.Less(a) {
		a, b = b, a
	}
	return policy.AddrRange{First: a, Last: b}
}

// ends are the first and last address of a family.
func ends(v4 bool) (zero, ones netip.Addr) {
	if v4 {
		return netip.AddrFrom4([4]byte{}), netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	r := policy.RangeOf(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	return r.First, r.Last
}

// addr makes an address, mostly in the small part of its family, sometimes
// anywhere or beside the IPv4 block of IPv6.
func (g *Gen) addr(v4 bool) netip.Addr {
	if v4 {
		n := g.rnd.Uint32()
		if g.rnd.IntN(10) != 0 {
			base := g.small4.Addr().As4()
			n = binary.BigEndian.Uint32(base[:]) | n>>g.small4.Bits()
		}
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
	}
	b := g.small6.Addr().As16()
	switch g.rnd.IntN(12) {
	case 0:
		binary.BigEndian.PutUint64(b[:8], g.rnd.Uint64())
		binary.BigEndian.PutUint64(b[8:], g.rnd.Uint64())
	case 1: // ::fffe:x or ::1:0:x
		b = [16]byte{10: 0xff, 11: 0xfe}
		if g.rnd.IntN(2) == 0 {
			b = [16]byte{9: 1}
		}
		binary.BigEndian.PutUint32(b[12:], g.rnd.Uint32())
	default:
		binary.BigEndian.PutUint16(b[14:], uint16(g.rnd.IntN(1<<12)))
	}
	return netip.AddrFrom16(b).Unmap() // never mapped: ::ffff:0:0/96 is not made
}

// servicesOf makes a list of 1 to 3 that suits the family; see ranges.
func (g *Gen) servicesOf(family int) []policy.Service {
	out := []policy.Service{}
	if g.rnd.IntN(60) == 0 {
		return out
	}
	icmp := []uint8{policy.ICMP, policy.ICMP, policy.ICMPv6, policy.ICMPv6, pick(g, []uint8{policy.ICMP, policy.ICMPv6})}[family]
	for range 1 + g.rnd.IntN(3) {
		s := policy.Service{Protocol: pick(g, []uint8{policy.TCP, policy.TCP, policy.TCP, policy.UDP, policy.UDP, icmp, icmp, policy.SCTP}), Last: 0xffff}
		switch {
		case g.rnd.IntN(8) == 0: // all of a protocol
			s.Protocol = pick(g, []uint8{policy.TCP, policy.UDP, policy.SCTP, icmp, 2, 47, 50})
		case s.Protocol == icmp:
			s.First, s.Last = g.icmpTypes(icmp)
		default:
			s.First, s.Last = g.ports()
			if g.rnd.IntN(6) == 0 {
				first, last := g.ports()
				s.SourceFirst, s.SourceLast = max(1, first), max(1, last)
			}
			if s.Protocol == policy.TCP && g.rnd.IntN(6) == 0 {
				s.Flags = g.flags()
			}
		}
		out = append(out, s)
	}
	return out
}

// flags are those that rules ask for, which are few.
func (g *Gen) flags() (f policy.TCPFlags) {
	const demands = 4 // each doubles the ways in which they can be met
	if len(g.demands) == demands {
		return pick(g, g.demands)
	}
	f.Mask = pick(g, []uint8{2, 2 | 16, 16, 1 | 2 | 4 | 16, 64, 255, 1 << g.rnd.IntN(8)})
	f.Set = f.Mask & pick(g, []uint8{2, 2, 0, 16, 2 | 64, uint8(g.rnd.IntN(256))})
	g.demands = append(g.demands, f)
	return f
}

// tcpFlags are those of a packet: mostly of one that opens a connection.
func (g *Gen) tcpFlags() uint8 {
	switch g.rnd.IntN(8) {
	case 0:
		return uint8(g.rnd.IntN(256))
	case 1:
		return pick(g, []uint8{0, 16, 16 | 8, 1 | 16, 4, 2 | 16})
	case 2:
		return policy.SYN | pick(g, []uint8{8, 32, 64, 64 | 128})
	}
	return policy.SYN
}

func (g *Gen) ports() (first, last uint16) {
	port := func() uint16 {
		if g.rnd.IntN(5) == 0 {
			return uint16(g.rnd.Uint32())
		}
		return uint16(g.rnd.IntN(1200))
	}
	first, last = port(), port()
	if last < first {
		first, last = last, first
	}
	switch g.rnd.IntN(10) {
	case 0:
		return 0, last
	case 1:
		return first, 65535
	case 2:
		edge := pick(g, [][2]uint16{{0, 0}, {65535, 65535}, {0, 65535}, {255, 256}, {256, 511}})
		return edge[0], edge[1]
	case 3, 4, 5:
		return first, first
	}
	return first, last
}

// icmpTypes makes one type, some types, one type and code, or all, and keeps
// clear of what is Neighbor Discovery alone.
func (g *Gen) icmpTypes(protocol uint8) (first, last uint16) {
	types := []uint16{0, 3, 5, 8, 11, 12, 13, 255}
	if protocol == policy.ICMPv6 {
		types = []uint16{0, 1, 2, 3, 4, 128, 129, 138, 144, 255}
	}
	t := pick(g, types)
	switch g.rnd.IntN(6) {
	case 0:
		return 0, 0xffff
	case 1:
		code := uint16(g.rnd.IntN(256))
		return t<<8 | code, t<<8 | code
	case 2:
		return t << 8, max(t, pick(g, types))<<8 | 0xff
	}
	return t << 8, t<<8 | 0xff
}

func pick[T any](g *Gen, from []T) T { return from[g.rnd.IntN(len(from))] }
