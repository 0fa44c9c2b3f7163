package datapath

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// hostSets are a policy by whose rules packets to some addresses pass, and to others do not.
func hostSets(open, shut []string, before ...policy.Rule) policy.Set {
	return policy.Set{Network: "net-a", Default: policy.Drop, Rules: append(before,
		policy.Rule{Key: key(2), Action: policy.Allow, Stateless: true, Directions: policy.InOut, Destinations: nets(open...)},
		policy.Rule{Key: key(3), Action: policy.Drop, Directions: policy.InOut, Destinations: nets(shut...)})}
}

func toAddr(addr string) pkt {
	if a := netip.MustParseAddr(addr); a.Is4() {
		return udp(vm4, a, 1, 2)
	}
	return udp(vm6, netip.MustParseAddr(addr), 1, 2)
}

// A host has a class of its own, whatever is around it, and that of what is around it when it is
// none any more: of IPv4, of IPv6, and among MACs, however little is written.
func TestHosts(t *testing.T) {
	b := newBench(t, Config{})
	b.port(accessPort())
	allow, drop, def := policy.ReasonRuleAllow, policy.ReasonRuleDrop, policy.ReasonDefaultDrop
	four, six := "192.0.2.7/32", "2001:db8:2::7/128"
	wide := []string{"192.0.2.0/24", "2001:db8:2::/64"}
	to4, to6, beside4, beside6 := toAddr("192.0.2.7"), toAddr("2001:db8:2::7"), toAddr("192.0.2.6"), toAddr("2001:db8:2::6")
	var known [2]*addrTables
	for i, c := range []struct {
		name       string
		open, shut []string
		want       [4]policy.Reason
	}{
		{"in the middle of others", []string{four, six}, wide, [4]policy.Reason{allow, allow, drop, drop}},
		{"one has gone", []string{six}, wide, [4]policy.Reason{drop, allow, drop, drop}},
		{"one has come, the other gone", []string{four}, wide, [4]policy.Reason{allow, drop, drop, drop}},
		{"of the same list", nil, append(wide, four, six), [4]policy.Reason{drop, drop, drop, drop}},
		{"nothing around", []string{four, six}, nil, [4]policy.Reason{allow, allow, def, def}},
		{"the other way round", wide, []string{four, six}, [4]policy.Reason{allow, allow, allow, allow}},
		{"in halves", []string{"192.0.2.6/31", "2001:db8:2::6/127"}, wide, [4]policy.Reason{allow, allow, allow, allow}},
		{"the same bits of IPv6", []string{"::192.0.2.7/128"}, wide, [4]policy.Reason{drop, drop, drop, drop}},
		{"none", nil, nil, [4]policy.Reason{def, def, def, def}},
		{"again", []string{four}, wide, [4]policy.Reason{allow, drop, drop, drop}},
	} {
		b.sync(hostSets(c.open, c.shut))
		b.expect(c.name, out(to4, c.want[0]), out(to6, c.want[1]), out(beside4, c.want[2]), out(beside6, c.want[3]))
		if i == 1 {
			known = [2]*addrTables{b.sides[0].tables, b.sides[1].tables}
		}
	}
	shut := frame(t, 1, policy.Drop)
	shut.Sources, shut.Directions = macs(t, "02:00:00:00:00:02"), policy.OnlyIn
	from := udp(peer4, vm4, 1, 2)
	b.sync(hostSets(nil, wide, shut))
	b.expect("a MAC", in(from, drop), out(to4, drop))
	shut.Sources = macs(t, "02:00:00:00:00:03")
	b.sync(hostSets(nil, wide, shut))
	b.expect("another MAC", in(from, def), out(to4, drop))
	if now := [2]*addrTables{b.sides[0].tables, b.sides[1].tables}; now != known {
		t.Error("tables were made anew for few addresses")
	}
}

// Single addresses are in the one table, and all others in the other.
func TestHostsApart(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(hostSets([]string{"192.0.2.7/32", "2001:db8:2::7/128"}, []string{"192.0.2.0/24", "::/0"}))
	tables := b.sides[b.Generation()&1].tables
	var hosts [][16]byte
	var host [16]byte
	var k portAddrKey
	var class uint32
	for it := tables.hosts.Iterate(); it.Next(&host, &class); {
		hosts = append(hosts, host)
	}
	slices.SortFunc(hosts, func(a, b [16]byte) int { return netip.AddrFrom16(a).Compare(netip.AddrFrom16(b)) })
	if want := [][16]byte{netip.MustParseAddr("192.0.2.7").As16(), netip.MustParseAddr("2001:db8:2::7").As16()}; !slices.Equal(hosts, want) {
		t.Errorf("hosts %v, want %v", hosts, want)
	}
	n := 0
	for it := tables.prefixes.Iterate(); it.Next(&k, &class); n++ {
		if k.Prefixlen == 128 {
			t.Errorf("%v is among the prefixes", netip.AddrFrom16(k.Addr))
		}
	}
	if n < 2 {
		t.Errorf("%d prefixes", n)
	}
}

// asEarlier has the side in force be as an earlier version writes it: all addresses are in one
// table, and pages have the width of their rows where that version looks for it.
func (b *bench) asEarlier(p *compile.Program) {
	b.Helper()
	side := uint32(b.Generation() & 1)
	table, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LPMTrie, KeySize: 20, ValueSize: 4, MaxEntries: 1000, Flags: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer table.Close()
	for _, a := range p.Addrs {
		if err := table.Put(prefixKey(a), a.Class); err != nil {
			b.Fatal(err)
		}
	}
	if err := b.maps[portMapAddrs].Put(side, uint32(table.FD())); err != nil {
		b.Fatal(err)
	}
	for _, n := range p.Policies {
		old := earlierPolicy(b, n)
		pages, err := b.newPages(old.Pages)
		if err != nil {
			b.Fatal(err)
		}
		defer pages.Close()
		if err := b.maps[portMapPrograms].Put(b.names[n.Network]*2+side, uint32(pages.FD())); err != nil {
			b.Fatal(err)
		}
	}
}

func earlierPolicy(tb testing.TB, p compile.Policy) compile.Policy {
	tb.Helper()
	h, err := p.Header()
	if err != nil {
		tb.Fatal(err)
	}
	h.EarlierWords, h.Words = h.Words, 0
	p.Pages = slices.Clone(p.Pages)
	p.SetHeader(h)
	return p
}

// What an earlier version wrote is judged by its one table of addresses, whatever is left of hosts of
// before, till there is something new; and then nothing of it is left.
func TestHostsOfEarlierVersions(t *testing.T) {
	cfg := Config{BPFFS: newBPFFS(t)}
	b := newBench(t, cfg)
	b.port(accessPort())
	allow, drop, none := policy.ReasonRuleAllow, policy.ReasonRuleDrop, policy.ReasonNoProgram
	one, other := out(toAddr("192.0.2.7"), allow), out(toAddr("192.0.2.9"), drop)
	wide := []string{"192.0.2.0/24"}
	now := hostSets([]string{"192.0.2.7/32"}, wide)
	b.sync(now)
	b.sync(hostSets([]string{"192.0.2.7/32"}, append(wide, "192.0.3.9/32")))
	b.expect("this version", one, other)

	// It ran with other rules, at the side that has hosts of before.
	then, _, err := build(hostSets([]string{"192.0.2.9/32"}, wide))
	if err != nil {
		t.Fatal(err)
	}
	b.asEarlier(then)
	one.want, other.want = drop, allow
	b.expect("an earlier one, and hosts of before", one, other)
	side := uint32(b.Generation() & 1)
	if err := b.maps[portMapHosts].Delete(side); err != nil {
		t.Fatal(err)
	}
	b.expect("an earlier one, and no hosts", one, other)

	// This version's programs look at those pages until its agent writes anew, on each side.
	again := &bench{TB: t, Datapath: newDatapath(t, cfg)}
	again.expect("taken over", one, other)
	for i, set := range []policy.Set{now, hostSets(nil, []string{"192.0.2.7/32"}), now} {
		again.sync(set)
		one.want, other.want = allow, drop
		if i == 1 {
			one.want, other.want = drop, policy.ReasonDefaultDrop
		}
		again.expect("written anew", one, other)
		p, _, err := build(set)
		if err != nil {
			t.Fatal(err)
		}
		if addrs, _ := kernelHas(t, again.Datapath); !slices.Equal(addrs, p.Addrs) {
			t.Errorf("generation %d has addresses %v, want %v", again.Generation(), addrs, p.Addrs)
		}
	}
	// A page that says that there are hosts, and there are none: nobody knows what it means.
	side = uint32(again.Generation() & 1)
	if err := again.maps[portMapHosts].Delete(side); err != nil {
		t.Fatal(err)
	}
	one.want, other.want = none, none
	again.expect("hosts that are lost", one, other)
}
