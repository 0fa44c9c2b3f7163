package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

func network(name string, def policy.Action) policy.Set {
	return policy.Set{Network: name, Default: def}
}

func TestSyncGenerations(t *testing.T) {
	b := newBench(t, Config{})
	if g := b.Generation(); g != 0 {
		t.Fatalf("generation %d before anything is loaded", g)
	}
	b.port(accessPort())
	syn := tcp(vm4, peer4, 1, 80, "S")
	b.expect("nothing loaded", out(syn, policy.ReasonNoProgram))
	b.sync(network("net-a", policy.Allow))
	b.expect("one", out(syn, policy.ReasonDefaultAllow))
	b.sync(network("net-a", policy.Allow))
	if g := b.Generation(); g != 1 {
		t.Errorf("generation %d after loading the same twice, want 1", g)
	}
	b.sync(network("net-a", policy.Drop))
	b.sync(network("net-a", policy.Allow))
	if g := b.Generation(); g != 3 {
		t.Errorf("generation %d, want 3", g)
	}
}

// Whatever goes wrong on the way, the generation in force stays in force.
func TestSyncFailure(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(network("net-a", policy.Allow))
	b.port(accessPort())
	good, _, err := build(network("net-a", policy.Drop))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*compile.Program){
		"no hash":         func(p *compile.Program) { p.Hash = "" },
		"no pages":        func(p *compile.Program) { p.Policies[0].Pages = nil },
		"a name too long": func(p *compile.Program) { p.Policies[0].Network = strings.Repeat("n", 300) },
		"a prefix that cannot be": func(p *compile.Program) {
			p.Addrs = []compile.AddrClass{{Bits: 129}} // the kernel refuses its length
		},
	} {
		p := *good
		p.Policies = slices.Clone(good.Policies)
		change(&p)
		g, err := b.Sync(&p)
		if err == nil || g != 1 || b.Generation() != 1 {
			t.Errorf("%s: generation %d, error %v", name, g, err)
		}
		b.expect(name, out(udp(vm4, peer4, uint16(len(name)), 9), policy.ReasonDefaultAllow))
	}
	if g, err := b.Sync(good); err != nil || g != 2 {
		t.Errorf("after failures: generation %d, error %v", g, err)
	}
}

// A network keeps its number as long as it is compiled or a port uses it, also
// over restarts; then the number is free again.
func TestPolicyNumbers(t *testing.T) {
	cfg := Config{BPFFS: newBPFFS(t)}
	b := newBench(t, cfg)
	b.sync(network("net-a", policy.Allow), network("net-b", policy.Drop), network("net-c", policy.Drop))
	b.port(accessPort())
	before := map[string]uint32{"net-a": b.names["net-a"], "net-b": b.names["net-b"]}
	d := newDatapath(t, cfg)
	if d.names["net-a"] != before["net-a"] || d.names["net-b"] != before["net-b"] || len(d.names) != 3 {
		t.Errorf("numbers after a restart %v, before %v", d.names, before)
	}
	r := &bench{TB: t, Datapath: d}
	for i := range 3 { // the number is free when neither side holds a program of it
		r.sync(network("net-b", policy.Action(i%2)))
	}
	if _, ok := d.names["net-c"]; ok || d.names["net-b"] != before["net-b"] || d.names["net-a"] != before["net-a"] {
		t.Errorf("numbers %v, want net-b as before, net-a still for its port, net-c gone", d.names)
	}
	r.expect("its network is gone", out(tcp(vm4, peer4, 1, 80, "S"), policy.ReasonNoProgram))
	r.sync(network("net-a", policy.Allow))
	r.expect("and back", out(tcp(vm4, peer4, 1, 80, "S"), policy.ReasonDefaultAllow))
	if p, err := d.Port(loopback); err != nil || p.Network != "net-a" {
		t.Errorf("port %+v: %v", p, err)
	}
}

// Networks without rules in common share nothing but equal bytes.
func TestManyNetworks(t *testing.T) {
	b := newBench(t, Config{})
	var sets []policy.Set
	for i := range 40 {
		sets = append(sets, network(fmt.Sprintf("n%d", i), policy.Action(i%2)))
	}
	b.sync(sets...)
	for i := range sets {
		b.network(sets[i].Network)
		want := policy.ReasonDefaultDrop
		if i%2 == 1 {
			want = policy.ReasonDefaultAllow
		}
		b.expect(sets[i].Network, out(tcp(vm4, peer4, uint16(i+1), 80, "S"), want))
	}
}

func TestPool(t *testing.T) {
	b := newBench(t, Config{})
	if n := b.Free(); n != 8 {
		t.Fatalf("%d slots are free, want 8", n)
	}
	if err := b.FillPool(4); err != nil || b.Free() != 8 {
		t.Errorf("filling a full pool: %d free, %v", b.Free(), err)
	}
	// Many at once, more than are free: each gets one of its own.
	var mu sync.Mutex
	var all sync.WaitGroup
	got := map[uint32]int{}
	for range 40 {
		all.Go(func() {
			slot, err := b.claim()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			got[slot]++
		})
	}
	all.Wait()
	if len(got) != 40 {
		t.Errorf("40 claims got %d slots", len(got))
	}
	for slot := range got {
		b.release(slot)
	}
	if err := b.FillPool(10); err != nil || b.Free() < 10 {
		t.Errorf("%d free, %v", b.Free(), err)
	}
	if err := b.Reap(); err != nil {
		t.Fatal(err)
	}
	for slot := range PortsMax {
		b.slots[slot] = slotUsed
	}
	if _, err := b.claim(); !errors.Is(err, ErrNoSlot) {
		t.Errorf("a full node: %v", err)
	}
}

// Ports find their place however their indexes collide, and versions of a record
// take turns.
func TestPortTable(t *testing.T) {
	b := newBench(t, Config{})
	for n := range portProbes {
		ifindex := 7 + n*portCells
		if err := b.ports.put(ifindex, portHpPort{Slot: uint32(n), Pvid: uint16(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.ports.put(7+portProbes*portCells, portHpPort{}); err == nil {
		t.Error("a place for more than all")
	}
	if err := b.ports.put(7+3*portCells, portHpPort{Slot: 3, Pvid: 33}); err != nil {
		t.Fatal(err)
	}
	// What changes nothing leaves the version before alone: packets may still read it.
	cell, place := b.ports.find(7 + 2*portCells)
	rec := b.ports.ports[place]
	rec.Pvid = 22
	if err := errors.Join(b.ports.put(7+2*portCells, rec), b.ports.put(7+2*portCells, rec)); err != nil {
		t.Fatal(err)
	}
	if old, now := b.ports.ports[place], b.ports.ports[*cell-1]; old.Pvid != 2 || now != rec {
		t.Errorf("written twice: the version before is %+v, this one %+v", old, now)
	}
	b.ports.remove(7)
	for n := range portProbes {
		rec, err := b.record(7 + n*portCells)
		want := uint16(n)
		if n == 2 || n == 3 {
			want = uint16(n * 11)
		}
		if n > 0 && (err != nil || rec.Pvid != want) || n == 0 && !errors.Is(err, ErrNoRecord) {
			t.Errorf("port %d: %+v, %v", n, rec, err)
		}
	}
	pinned, err := PinnedPorts(b.cfg.BPFFS)
	if err != nil || len(pinned) != portProbes-1 || pinned[0] != 7+portCells {
		t.Errorf("pinned ports %v: %v", pinned, err)
	}
	if none, err := PinnedPorts(t.TempDir()); err != nil || len(none) != 0 {
		t.Errorf("without pins: %v, %v", none, err)
	}
}

// Programs find a port behind others in its way, and take no other's record for it.
func TestPortsInTheWay(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(network("net-a", policy.Allow), network("net-b", policy.Drop))
	b.port(accessPort())
	rec, err := b.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.DetachPort(loopback); err != nil {
		t.Fatal(err)
	}
	syn := tcp(vm4, peer4, 1, 80, "S")
	for n := 1; n < portProbes; n++ {
		rec.Slot = uint32(PortsMax - n) // none of the pool's
		if err := b.ports.put(loopback+n*portCells, rec); err != nil {
			t.Fatal(err)
		}
		b.expect("no port", out(syn, policy.ReasonNoPort))
	}
	b.port(accessPort())
	b.expect("the last in the row", out(syn, policy.ReasonDefaultAllow))
}

func TestConfigRefused(t *testing.T) {
	b := newBench(t, Config{})
	b.port(accessPort())
	for want, c := range map[string]attach.PortConfig{
		"no unicast": {MAC: []byte{1, 0, 0, 0, 0, 1}}, "no unicast Ethernet": {MAC: []byte{2}}, "VLAN mode": {MAC: testMAC, VLANs: attach.VLANs{Mode: 9}},
		"longer than": {MAC: testMAC, Policy: strings.Repeat("n", 256)},
	} {
		if err := b.UpdatePort(loopback, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	c := accessPort()
	c.VLANs.PVID = 7
	if err := b.UpdatePort(loopback, c); err != nil {
		t.Fatal(err)
	}
	if p, err := b.Port(loopback); err != nil || p.VLANs != c.VLANs || p.State != attach.Active {
		t.Errorf("updated: %+v, %v", p, err)
	}
}

// The features that kernels lack are told with what would help.
func TestFeatureAnswers(t *testing.T) {
	for err, want := range map[error]Feature{
		nil: {Answer: Yes},
		fmt.Errorf("x: %w", ebpf.ErrNotSupported): {Answer: No, Detail: "needs at least Linux 9"},
		os.ErrPermission: {Answer: Unknown, Detail: "permission denied"},
	} {
		if got := (Feature{}).answer(err, "Linux 9"); got != want {
			t.Errorf("%v: %+v, want %+v", err, got, want)
		}
	}
	for a, want := range map[Answer]string{Yes: "yes", No: "no", Unknown: "could not tell"} {
		if a.String() != want {
			t.Errorf("answer %d is %q", a, a)
		}
	}
}

// When a rule last counted is known to a second, outlives changes of the rules, and is
// forgotten with the counter.
func TestRuleLastHit(t *testing.T) {
	b := newBench(t, Config{})
	counters := b.sync(serviceSets(t, "1-1023")...)
	hit, other := counters[key(4)], counters[key(2)]
	last := func() (at, never time.Time) {
		t.Helper()
		c, err := b.RuleCounters([]uint32{hit, other})
		if err != nil {
			t.Fatal(err)
		}
		return c[hit].Last, c[other].Last
	}
	if at, never := last(); !at.IsZero() || !never.IsZero() {
		t.Errorf("before any packet: %v, %v", at, never)
	}
	b.port(accessPort())
	began := time.Now()
	b.expect("first", in(udp(peer4, vm4, 1, 2), policy.ReasonRuleAllow))
	first, never := last()
	if first.Before(began.Add(-3*time.Second)) || first.After(time.Now()) || !never.IsZero() {
		t.Errorf("hit between %v and %v: %v, %v", began, time.Now(), first, never)
	}
	time.Sleep(2200 * time.Millisecond) // two ticks of the clock
	if at, _ := last(); at.Sub(first).Abs() > time.Second {
		t.Errorf("hit %v, and later it was %v", first, at)
	}
	b.expect("again", in(udp(peer4, vm4, 3, 4), policy.ReasonRuleAllow))
	again, _ := last()
	if again.Sub(first) < time.Second || again.After(time.Now()) {
		t.Errorf("hit again %v after %v", again, first)
	}
	b.sync(serviceSets(t, "1-1024")...)
	if at, _ := last(); at.Sub(again).Abs() > time.Second {
		t.Errorf("hit %v, and after a change of rules %v", again, at)
	}
	if err := b.ClearRuleCounters([]uint32{hit}); err != nil {
		t.Fatal(err)
	}
	if at, _ := last(); !at.IsZero() {
		t.Errorf("cleared, and hit %v", at)
	}
}

// kernelHas says what the side in force has: the tables of addresses, and each network's pages.
func kernelHas(t *testing.T, d *Datapath) (addrs []compile.AddrClass, pages map[string][]compile.Page) {
	t.Helper()
	side := uint32(d.Generation() & 1)
	tables, err := d.readTables(side)
	if err != nil {
		t.Fatal(err)
	}
	defer tables.close()
	if err := tables.each(func(a compile.AddrClass) bool { addrs = append(addrs, a); return true }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(addrs, compile.AddrClass.Compare)
	pages = map[string][]compile.Page{}
	for network, number := range d.names {
		var m *ebpf.Map
		if err := d.maps[portMapPrograms].Lookup(number*2+side, &m); errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		list := make([]compile.Page, m.MaxEntries())
		for i := range list {
			if err := m.Lookup(uint32(i), &list[i]); err != nil {
				t.Fatal(err)
			}
		}
		pages[network] = list
		m.Close()
	}
	return addrs, pages
}

// TestSyncByDifference: however little is written, the side in force has what a program
// says: after small changes and large ones, after a table could not be changed, and after a
// restart.
func TestSyncByDifference(t *testing.T) {
	seed := policytest.Seed(t)
	g, rnd := policytest.New(seed), rand.New(rand.NewPCG(seed, 2))
	cfg := Config{BPFFS: newBPFFS(t)}
	d := newDatapath(t, cfg)
	many := make([]policy.AddrRange, 0, 500)
	for i := range 500 {
		many = append(many, policy.RangeOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 30, byte(i >> 6), byte(i << 2)}), 31+i&1)))
	}
	sets := []policy.Set{g.SetN("net-a", 20), g.SetN("net-b", 20)}
	var c compile.Compiler // what it gives changes in place, too
	var counters compile.Counters
	load := func() *compile.Program {
		t.Helper()
		var err error
		if counters, err = compile.Allocate(counters, sets); err != nil {
			t.Fatal(err)
		}
		p, err := c.Build(compile.Input{Sets: sets, Counters: counters})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Sync(p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for step := range 80 {
		i := rnd.IntN(len(sets))
		s := &sets[i]
		s.Rules = slices.Clone(s.Rules)
		s.Rules[0].Sources = slices.Clone(many)
		switch rnd.IntN(8) {
		case 0:
			s.Rules[0].Sources = slices.Delete(s.Rules[0].Sources, 7, 7+rnd.IntN(9))
		case 1:
			s.Rules[0].Sources = append(s.Rules[0].Sources, policy.RangeOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 31, byte(step), 0}), 24+rnd.IntN(9))))
		case 2:
			s.Rules[0].Log = !s.Rules[0].Log
		case 3:
			*s = g.SetN(s.Network, 20)
		case 4:
			sets = append(sets[:i:i], append(sets[i+1:], g.SetN(fmt.Sprint("net-", step), 5))...)
		case 5: // it cannot be written any more
			bits := 24
			if tables := d.sides[(d.Generation()+1)&1].tables; tables != nil && rnd.IntN(2) == 0 {
				tables.prefixes.Close()
			} else if tables != nil {
				tables.hosts.Close()
				bits = 32
			}
			s.Rules[0].Sources = append(s.Rules[0].Sources, policy.RangeOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, byte(step), 0}), bits)))
		case 6:
			d.synced = 0 // a wait failed, or another process has written
		case 7:
			d = newDatapath(t, cfg)
		}
		p := load()
		addrs, pages := kernelHas(t, d)
		if !slices.Equal(addrs, p.Addrs) {
			t.Fatalf("step %d: the tables have %d addresses, want %d", step, len(addrs), len(p.Addrs))
		}
		for _, n := range p.Policies {
			if !slices.Equal(pages[n.Network], n.Pages) {
				t.Fatalf("step %d: network %s has other pages", step, n.Network)
			}
		}
		if len(pages) != len(p.Policies) {
			t.Fatalf("step %d: programs of %d networks, want %d", step, len(pages), len(p.Policies))
		}
		if known := len(d.pages); known > 2*len(p.Policies)+2*len(sets) {
			t.Fatalf("step %d: %d maps of programs are held", step, known)
		}
	}
	// A rule that changes and names nobody else has no tables made anew, once both sides are known.
	for i := range 4 {
		tables := [2]*addrTables{d.sides[0].tables, d.sides[1].tables}
		sets[0].Rules = slices.Clone(sets[0].Rules)
		sets[0].Rules[0].Log = !sets[0].Rules[0].Log
		load()
		if now := [2]*addrTables{d.sides[0].tables, d.sides[1].tables}; i > 1 && now != tables {
			t.Error("tables of addresses were made anew")
		}
	}
}
