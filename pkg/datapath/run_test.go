package datapath

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// loopback is the interface that BPF_PROG_TEST_RUN pretends to be at.
const loopback = 1

// Verdicts of the programs.
const (
	passVerdict = 0xffffffff // TC_ACT_UNSPEC
	dropVerdict = 2          // TC_ACT_SHOT
	// TC_ACT_REDIRECT: what was dropped has become the answer of a Reject rule.
	answerVerdict = 7
)

// bench is a port without an interface: programs are run on frames by hand.
type bench struct {
	testing.TB
	*Datapath
	told *watcher // of the differential tests
}

// newBench opens a datapath in a network namespace of its own, with a filled pool.
func newBench(tb testing.TB, cfg Config) *bench {
	tb.Helper()
	newNetns(tb)
	if cfg.ConnsQuota == 0 {
		cfg.ConnsQuota = 64
	}
	d := newDatapath(tb, cfg)
	if err := d.FillPool(8); err != nil {
		tb.Fatal(err)
	}
	return &bench{TB: tb, Datapath: d}
}

// port makes loopback an active port that knows no flow.
func (b *bench) port(c attach.PortConfig) {
	b.Helper()
	if err := b.DetachPort(loopback); err != nil {
		b.Fatal(err)
	}
	slot, err := b.claim()
	if err != nil {
		b.Fatal(err)
	}
	if c.Trunk == "" {
		c.Trunk = c.Policy
	}
	rec := portHpPort{Slot: slot, Serial: b.control.nextSerial(), State: uint32(attach.Active)}
	if err := b.putConfig(loopback, rec, c); err != nil {
		b.Fatal(err)
	}
}

// accessPort is a port of VLAN 100 with the policy of network net-a.
func accessPort() attach.PortConfig {
	return attach.PortConfig{Policy: "net-a", VLANs: attach.VLANs{Mode: vlan.Access, PVID: 100}, MAC: testMAC}
}

// build compiles sets.
func build(sets ...policy.Set) (*compile.Program, compile.Counters, error) {
	counters, err := compile.Allocate(nil, sets)
	if err != nil {
		return nil, nil, err
	}
	p, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
	return p, counters, err
}

// sync compiles and loads sets.
func (b *bench) sync(sets ...policy.Set) compile.Counters {
	b.Helper()
	p, counters, err := build(sets...)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := b.Sync(p); err != nil {
		b.Fatal(err)
	}
	return counters
}

// facing has a frame that is built as one of the VM's be one for it, at the hook where
// those are. Frames with other MACs are as they are.
func facing(h Hook, frame []byte) []byte {
	if h != ToVM || !bytes.HasPrefix(frame, slices.Concat(peerMAC, testMAC)) {
		return frame
	}
	return slices.Concat(testMAC, peerMAC, frame[12:])
}

// run judges one frame; it says whether it passed.
func (b *bench) run(h Hook, frame []byte) bool {
	b.Helper()
	ret, err := b.progs[h].Run(&ebpf.RunOptions{Data: facing(h, frame)})
	if err != nil {
		b.Fatalf("run %s on %x: %v", h, frame, err)
	}
	switch ret {
	case passVerdict:
		return true
	case dropVerdict, answerVerdict:
		return false
	}
	b.Fatalf("%s returned %#x, want pass or drop", h, ret)
	return false
}

// reason judges one frame and says what the counters say of it: exactly one
// reason, once, in the hook's direction, and of the verdict's kind.
func (b *bench) reason(h Hook, frame []byte) policy.Reason {
	b.Helper()
	before := b.all()
	passed := b.run(h, frame)
	var found []policy.Reason
	for r, c := range b.all() {
		old := before[r]
		if c == old {
			continue
		}
		found = append(found, r)
		if c[h].Packets != old[h].Packets+1 || c[h].Bytes != old[h].Bytes+uint64(len(frame)) || c[1-h] != old[1-h] {
			b.Errorf("%v of a frame of %d bytes counted as %+v after %+v", r, len(frame), c, old)
		}
	}
	if len(found) != 1 {
		b.Fatalf("one frame counted as %v", found)
	}
	if found[0].Drops() == passed {
		b.Errorf("%v, but passed: %v", found[0], passed)
	}
	return found[0]
}

// all is the port's counters, or the stray ones if there is no port.
func (b *bench) all() ReasonCounters {
	b.Helper()
	stray, err := b.StrayCounters()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := b.Port(loopback); err != nil {
		return stray
	}
	c, err := b.PortCounters(loopback)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// flowTable opens the port's table of answered flows.
func (b *bench) flowTable() (*ebpf.Map, portHpPort) {
	b.Helper()
	rec, err := b.record(loopback)
	if err != nil {
		b.Fatal(err)
	}
	inner, err := b.innerMap(portMapConns, rec.Slot)
	if err != nil {
		b.Fatal(err)
	}
	return inner, rec
}

// age makes every flow of the port older.
func (b *bench) age(ticks uint32) (flows int) {
	b.Helper()
	inner, rec := b.flowTable()
	defer inner.Close()
	flows = change(b, inner, func(_ portHpFlowKey, f *portHpFlow) bool { f.Seen -= ticks; return true })
	flows += change(b, b.maps[portMapConnsNew], func(k portHpNewKey, f *portHpFlow) bool {
		f.Seen -= ticks
		return k.Serial == rec.Serial
	})
	b.waitTicks(1) // till the programs look again
	return flows
}

// change rewrites entries of a table of flows that touch wants rewritten.
func change[K comparable](b *bench, m *ebpf.Map, touch func(K, *portHpFlow) bool) (n int) {
	b.Helper()
	var k K
	var f portHpFlow
	old := map[K]portHpFlow{}
	it := m.Iterate()
	for it.Next(&k, &f) {
		if touch(k, &f) {
			old[k] = f
		}
	}
	if err := it.Err(); err != nil {
		b.Fatal(err)
	}
	for k, f := range old {
		if err := m.Update(k, f, ebpf.UpdateExist); err != nil {
			b.Fatal(err)
		}
	}
	return len(old)
}

// flows counts the port's flows: answered, and not.
func (b *bench) flows() (settled, fresh int) {
	b.Helper()
	rec, err := b.record(loopback)
	if err != nil {
		b.Fatal(err)
	}
	conns, err := b.Conns(loopback)
	if err != nil {
		b.Fatal(err)
	}
	fresh = change(b, b.maps[portMapConnsNew], func(k portHpNewKey, _ *portHpFlow) bool { return k.Serial == rec.Serial })
	return len(conns), fresh
}

// Shorthands for rules.

func nets(prefixes ...string) []policy.AddrRange {
	out := []policy.AddrRange{}
	for _, s := range prefixes {
		p := netip.MustParsePrefix(s)
		last := p.Addr().AsSlice()
		for i := p.Bits(); i < len(last)*8; i++ {
			last[i/8] |= 0x80 >> (i % 8)
		}
		end, _ := netip.AddrFromSlice(last)
		out = append(out, policy.AddrRange{First: p.Addr(), Last: end})
	}
	return out
}

func service(tb testing.TB, text ...string) []policy.Service {
	tb.Helper()
	out := []policy.Service{}
	for _, s := range text {
		v, err := policy.ParseService(s)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func key(id uint32) policy.RuleKey { return policy.RuleKey{Policy: "p", ID: id} }

// testSets are the policies of the table test: net-a drops by default, net-b
// allows.
func testSets(tb testing.TB) []policy.Set {
	peers := nets("192.0.2.0/24", "2001:db8:2::/64")
	open := nets("192.0.2.99/32", "2001:db8:2::99/128")
	rules := []policy.Rule{
		{Key: key(1), Action: policy.Drop, Directions: policy.OnlyOut, Destinations: nets("192.0.2.66/32")},
		{Key: key(2), Action: policy.Allow, Directions: policy.OnlyOut, Destinations: peers, Services: service(tb, "tcp/80-90", "udp/53")},
		{Key: key(3), Action: policy.Allow, Directions: policy.OnlyOut, Services: service(tb, "icmp/8/0", "icmpv6/128/0")},
		{Key: key(4), Action: policy.Allow, Directions: policy.OnlyIn, Sources: peers, Services: service(tb, "tcp/22")},
		{Key: key(5), Action: policy.Allow, Directions: policy.OnlyOut, Destinations: open},
		{Key: key(6), Action: policy.Allow, Directions: policy.OnlyIn, Sources: open},
	}
	return []policy.Set{
		{Network: "net-a", Rules: rules, Default: policy.Drop},
		{Network: "net-b", Rules: rules[:1], Default: policy.Allow},
	}
}
