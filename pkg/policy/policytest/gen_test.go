package policytest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

func TestPacketsAreRealisable(t *testing.T) {
	g := New(Seed(t))
	for range 50 {
		set := g.Set("n")
		packets := g.Packets(set, 3000)
		if len(packets) != 3000 {
			t.Fatalf("got %d packets, want 3000", len(packets))
		}
		for _, p := range packets {
			if !Realisable(p) {
				t.Fatalf("not realisable: %+v", p)
			}
		}
	}
}

func TestSameSeedSameSequence(t *testing.T) {
	seed := Seed(t)
	a, b := New(seed), New(seed)
	for range 5 {
		x, y := a.Set("n"), b.Set("n")
		if diff := cmp.Diff(x, y, cmpopts.EquateComparable(policy.AddrRange{})); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(a.Packets(x, 500), b.Packets(y, 500), cmpopts.EquateComparable(policy.Packet{})); diff != "" {
			t.Fatal(diff)
		}
	}
}

// What the generator is for: all verdicts and kinds of packets come up.
func TestPacketsReachEverything(t *testing.T) {
	g := New(Seed(t))
	seen := map[string]int{}
	won, rules := 0, 0
	for range 100 {
		set := g.Set("n")
		hosts := hostsWithin(t, set)
		for _, p := range g.Packets(set, 2000) {
			v := policy.Evaluate(&set, p)
			seen["action "+v.Action.String()]++
			seen["action Reject"] += 0
			seen["direction "+p.Direction.String()]++
			for name, is := range map[string]bool{
				"by default": v.Rule < 0, "by rule": v.Rule >= 0, "by a late rule": v.Rule >= 64,
				"not IP": !p.IP, "not IP, by rule": !p.IP && v.Rule >= 0,
				"IPv4": p.IP && p.Src.Is4(), "IPv6": p.IP && p.Src.Is6(),
				"host within a prefix":  p.IP && (hosts[p.Src] || hosts[p.Dst]),
				"fragment":              p.IP && p.Protocol == policy.TCP && !p.HasService,
				"other":                 p.IP && p.Protocol == 47,
				"icmp":                  p.Protocol == policy.ICMP && p.HasService && v.Rule >= 0,
				"icmpv6":                p.Protocol == policy.ICMPv6 && p.HasService && v.Rule >= 0,
				"by protocol alone":     v.Rule >= 0 && p.IP && !p.HasService && set.Rules[max(0, v.Rule)].Services != nil,
				"source port":           v.Rule >= 0 && slices.ContainsFunc(set.Rules[max(0, v.Rule)].Services, func(s policy.Service) bool { return s.SourceLast != 0 && s.Matches(p) }),
				"sctp":                  p.Protocol == policy.SCTP && p.HasService && v.Rule >= 0,
				"passed":                len(v.Passed) > 0 && v.Rule >= 0,
				"passed twice":          len(v.Passed) > 1,
				"passed, monitored":     len(v.Passed) > 0 && len(v.Monitored) > 0,
				"passed to none":        len(v.Passed) > 0 && v.Rule < 0,
				"monitored":             len(v.Monitored) > 0 && v.Rule >= 0,
				"monitored, last":       len(v.Monitored) > 0 && v.Rule < 0,
				"frame dropped":         v.Rule >= 0 && set.Rules[max(0, v.Rule)].Ethernet && v.Action == policy.Drop && p.IP,
				"frame dropped, not IP": v.Rule >= 0 && set.Rules[max(0, v.Rule)].Ethernet && v.Action == policy.Drop && !p.IP,
				"frame allowed":         v.Rule >= 0 && set.Rules[max(0, v.Rule)].Ethernet && v.Action == policy.Allow,
				"frame passed on":       slices.ContainsFunc(v.Passed, func(i int) bool { return set.Rules[i].Ethernet }),
				"frame monitored":       slices.ContainsFunc(v.Monitored, func(i int) bool { return set.Rules[i].Ethernet }),
				"monitored twice":       len(v.Monitored) > 1,
				"port 0":                p.HasService && p.Protocol == policy.TCP && p.Service == 0,
				"port last":             p.HasService && p.Protocol == policy.TCP && p.Service == 65535,
			} {
				seen[name] += map[bool]int{true: 1}[is]
			}
		}
		for i := range set.Rules {
			rules++
			if p, ok := g.PacketFor(set, i); ok {
				won++
				if got := policy.Evaluate(&set, p); !slices.Contains(got.Matched(), i) {
					t.Fatalf("PacketFor(%d) is decided by rule %d", i, got.Rule)
				}
			}
		}
	}
	t.Logf("%d of %d rules can win; packets: %v", won, rules, seen)
	for name, n := range seen {
		if n == 0 {
			t.Errorf("no packet: %s", name)
		}
	}
	if won*2 < rules {
		t.Errorf("only %d of %d rules can win", won, rules)
	}
}

// hostsWithin are single addresses that have a class of their own, where a prefix around them has
// another one.
func hostsWithin(t *testing.T, set policy.Set) map[netip.Addr]bool {
	t.Helper()
	counters, err := compile.Allocate(nil, []policy.Set{set})
	if err != nil {
		t.Fatal(err)
	}
	p, err := compile.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters})
	if err != nil {
		t.Fatal(err)
	}
	isHost := func(a compile.AddrClass) bool { return a.Bits == 128 }
	prefixes := slices.DeleteFunc(slices.Clone(p.Addrs), isHost)
	hosts := map[netip.Addr]bool{}
	for _, a := range p.Addrs {
		if host := netip.AddrFrom16(a.Addr).Unmap(); isHost(a) && compile.ClassOf(prefixes, host) != 0 {
			hosts[host] = true
		}
	}
	return hosts
}
