package datapath

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// contents is what all maps hold that a program could write to, in words.
func (b *bench) contents(counters compile.Counters) string {
	b.Helper()
	var lines []string
	dump := func(name string, m *ebpf.Map) {
		var k, v []byte
		it := m.Iterate()
		for it.Next(&k, &v) {
			lines = append(lines, fmt.Sprintf("%s %x %x", name, k, v))
		}
		if err := it.Err(); err != nil {
			b.Fatal(err)
		}
	}
	rec, err := b.Datapath.record(loopback)
	if err != nil {
		b.Fatal(err)
	}
	inner, _ := b.flowTable()
	defer inner.Close()
	dump("conns", inner)
	for _, name := range []string{portMapConnsNew, portMapFragments, portMapControl, portMapWatched, portMapAddresses, portMapPeers, portMapUnicastBuckets} {
		dump(name, b.maps[name])
	}
	for _, name := range []string{portMapHandovers, portMapEventQuotas, portMapHeardQuotas} {
		v, err := b.maps[name].LookupBytes(rec.Slot)
		lines = append(lines, fmt.Sprintf("%s %x %v", name, v, err))
	}
	for key, n := range counters {
		var per []portHpHits
		if err := b.books[n/bookCounters].Lookup(n%bookCounters, &per); err != nil {
			b.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%v %v", key, per))
	}
	for reason, n := range b.all() {
		lines = append(lines, fmt.Sprintf("%v %v", reason, n))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// traced is Trace of a frame that is built as one of the VM's.
func (b *bench) traced(h Hook, frame []byte) (Event, error) {
	return b.Trace(loopback, h, facing(h, frame))
}

// A dry run says what then becomes of the frame, at every port and of every frame that the
// tests know, and changes nothing.
func TestTrace(t *testing.T) {
	b := newBench(t, Config{})
	counters := b.sync(testSets(t)...)
	w := b.watch(true)
	seen := map[policy.Reason]bool{}
	every := size(t, "HOMEPORT_TRACE_EVERY", 1, 8) // to compare all maps takes long
	all := 0
	for _, s := range b.scenarios() {
		b.begin(s)
		for n, step := range s.steps {
			all++
			look := func() string {
				if all%every > 0 {
					return ""
				}
				return b.contents(counters)
			}
			before := look()
			said, err := b.traced(step.hook, step.frame)
			if err != nil {
				t.Fatalf("%s, frame %d: %v", s.name, n, err)
			}
			if after := look(); after != before {
				t.Fatalf("%s, frame %d: a dry run changed\n%s\nto\n%s", s.name, n, before, after)
			}
			if e := w.next(); e != nil {
				t.Fatalf("%s, frame %d: a dry run told of %+v", s.name, n, e)
			}
			if real := b.reason(step.hook, step.frame); said.Reason != real || said.IfIndex != loopback || int(said.Direction) != int(step.hook) {
				t.Errorf("%s, frame %d: the dry run said %+v, the frame met %v", s.name, n, said, real)
			}
			seen[said.Reason] = true
			if e := w.next(); e != nil && (e.Rule != said.Rule || e.Source != said.Source || e.DestinationPort != said.DestinationPort) && !e.Ended {
				t.Errorf("%s, frame %d: the dry run said %+v, the frame was told of as %+v", s.name, n, said, *e)
			}
			w.quota()
		}
	}
	for _, r := range policy.Reasons() {
		if r != policy.ReasonNoPort && r != policy.ReasonRefusal && r != policy.ReasonNoProgram && r != policy.ReasonToHolder && !seen[r] { // that by TestSuppressTrace
			t.Errorf("no dry run said %v", r)
		}
	}
	if err := b.DetachPort(loopback); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Trace(loopback, FromVM, tcp(vm4, peer4, 1, 80, "S").bytes()); !errors.Is(err, ErrNoRecord) {
		t.Errorf("without a port: %v", err)
	}
}

// A dry run of what a Reject rule drops answers nobody, and one of a packet of a connection
// that the rules have turned against leaves it.
func TestTraceRefused(t *testing.T) {
	b := newBench(t, Config{})
	set := policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
		{Key: key(1), Action: policy.Reject, Directions: policy.OnlyOut, Services: service(t, "tcp/81")},
		{Key: key(2), Action: policy.Allow, Directions: policy.OnlyOut, Services: service(t, "tcp/80")},
	}}
	counters := b.sync(set)
	b.port(accessPort())
	b.expect("open", out(tcp(vm4, peer4, 1000, 80, "S"), policy.ReasonRuleAllow), in(tcp(peer4, vm4, 80, 1000, "SA"), policy.ReasonEstablished))
	trace := func(h Hook, p pkt, want policy.Reason, rule uint32) {
		t.Helper()
		before := b.contents(counters)
		e, err := b.traced(h, p.bytes())
		if err != nil || e.Reason != want || e.Rule != rule {
			t.Errorf("%+v, %v; want %v by %d", e, err, want, rule)
		}
		if after := b.contents(counters); after != before {
			t.Errorf("changed\n%s\nto\n%s", before, after)
		}
	}
	trace(FromVM, tcp(vm4, peer4, 1000, 81, "S"), policy.ReasonRuleDrop, counters[key(1)])
	trace(ToVM, tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonEstablished, counters[key(2)])
	trace(ToVM, tcp(peer4, vm4, 80, 1000, "R"), policy.ReasonEstablished, counters[key(2)])
	for range 20 { // some in one tick, in which the port's own program would know the flow by heart
		b.expect("goes on", in(tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonEstablished))
		for range 3 {
			if e, err := b.traced(ToVM, tcp(peer4, vm4, 80, 1000, "A").bytes()); err != nil || e.Rule != counters[key(2)] {
				t.Fatalf("told of %+v, %v", e, err)
			}
		}
	}
	set.Rules = append(set.Rules, policy.Rule{Key: key(3), Action: policy.Allow, Directions: policy.OnlyOut, Services: service(t, "tcp/80")})
	set.Rules = append(set.Rules[:1:1], set.Rules[2])
	counters = b.sync(set)
	if e, err := b.traced(ToVM, tcp(peer4, vm4, 80, 1000, "A").bytes()); err != nil || e.Reason != policy.ReasonEstablished || e.Ended || e.Rule != counters[key(3)] || e.Direction != policy.In {
		t.Errorf("another rule allows it now, and the dry run says %+v, %v", e, err)
	}
	set.Rules = set.Rules[:1]
	counters = b.sync(set)
	trace(ToVM, tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonDefaultDrop, counters[policy.DefaultKey("net-a")])
	trace(ToVM, tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonDefaultDrop, counters[policy.DefaultKey("net-a")])
	if settled, _ := b.flows(); settled != 1 {
		t.Error("the connection is gone")
	}
	b.expect("over", in(tcp(peer4, vm4, 80, 1000, "A"), policy.ReasonDefaultDrop))
}
