package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// watcher reads what the programs of a bench tell.
type watcher struct {
	*bench
	*Events
}

func (b *bench) watch(all bool) *watcher {
	b.Helper()
	if err := b.Watch(all); err != nil {
		b.Fatal(err)
	}
	e, err := b.Events()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	return &watcher{b, e}
}

// next is the next event; nil: there is none.
func (w *watcher) next() *Event {
	w.Helper()
	w.reader.SetDeadline(time.Unix(1, 0)) // what is there is read nevertheless
	e, err := w.Read()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return &e
}

// quota gives the port its whole quota back.
func (w *watcher) quota() {
	w.Helper()
	rec, err := w.Datapath.record(loopback)
	if err != nil {
		w.Fatal(err)
	}
	for _, of := range []uint32{rec.Slot, PortsMax} {
		if err := w.maps[portMapEventQuotas].Put(of, portHpQuota{}); err != nil {
			w.Fatal(err)
		}
	}
}

// brief is an event in a line; names are those of counters.
func brief(e *Event, names map[uint32]string) string {
	if e == nil {
		return ""
	}
	name := func(counter uint32) string {
		if counter == NoRule {
			return "nobody"
		}
		return names[counter]
	}
	text := fmt.Sprintf("%v %v by %s", e.Direction, e.Reason, name(e.Rule))
	if e.Monitored != NoRule {
		text += " not " + name(e.Monitored)
	}
	for word, is := range map[string]bool{" ended": e.Ended && !e.TimedOut, " timed out": e.TimedOut} {
		if is {
			text += word
		}
	}
	if e.Logged {
		text += " log"
	}
	if e.MonitoredLogged {
		text += " log-not"
	}
	if e.Source.IsValid() {
		text += fmt.Sprintf(": %v/%d > %v/%d %d", e.Source, e.SourcePort, e.Destination, e.DestinationPort, e.Protocol)
	} else {
		text += fmt.Sprintf(": %x > %x %04x", e.SourceMAC, e.DestinationMAC, e.EtherType)
	}
	if e.VLAN != 0 {
		text += fmt.Sprintf(" vlan %d", e.VLAN)
	}
	return text
}

// What is told of each frame, once somebody wants to know, and what at all times.
func TestEvents(t *testing.T) {
	b := newBench(t, Config{})
	set := policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
		{Key: key(9), Action: policy.Drop, Directions: policy.InOut, Monitored: true, Services: service(t, "udp/54", "udp/55")},
		{Key: key(8), Action: policy.Drop, Directions: policy.InOut, Monitored: true, Log: true, Services: service(t, "udp/56")},
		{Key: key(1), Action: policy.Allow, Directions: policy.OnlyOut, Services: service(t, "tcp/80", "udp/53-60", "icmpv6")},
		{Key: key(2), Action: policy.Allow, Directions: policy.OnlyOut, Log: true, Services: service(t, "tcp/81", "udp/61")},
		{Key: key(3), Action: policy.Drop, Directions: policy.InOut, Log: true, Services: service(t, "tcp/82")},
		{Key: key(4), Action: policy.Reject, Directions: policy.InOut, Log: true, Services: service(t, "tcp/83")},
		{Key: key(5), Action: policy.Allow, Directions: policy.OnlyOut, Stateless: true, Log: true, Services: service(t, "tcp/84", "ip/47")},
	}}
	names := map[uint32]string{}
	for k, c := range b.sync(set) {
		names[c] = fmt.Sprint(k.ID)
	}
	o := func(port uint16, flags string) pkt { return tcp(vm4, peer4, 1000, port, flags) }
	i := func(port uint16, flags string) pkt { return tcp(peer4, vm4, port, 1000, flags) }
	allow, est, drop, def := policy.ReasonRuleAllow, policy.ReasonEstablished, policy.ReasonRuleDrop, policy.ReasonDefaultDrop
	type told struct {
		step
		all  string // while somebody watches
		some string // else
	}
	frames := []told{
		{out(o(80, "S"), allow), "Out RuleAllow by 1: 10.1.0.5/1000 > 192.0.2.7/80 6", ""},
		{out(o(80, "S"), est), "", ""},
		{in(i(80, "SA"), est), "", ""},
		{out(o(80, "A"), est), "", ""},
		{in(i(80, "FA"), est), "", ""},
		{out(o(80, "FA"), est), "Out Established by 1 ended: 10.1.0.5/1000 > 192.0.2.7/80 6", ""},
		{in(i(80, "A"), est), "", ""},
		{out(o(81, "S"), allow), "Out RuleAllow by 2 log: 10.1.0.5/1000 > 192.0.2.7/81 6", "same"},
		{in(i(81, "SA"), est), "", ""},
		{in(i(81, "R"), est), "Out Established by 2 ended log: 10.1.0.5/1000 > 192.0.2.7/81 6", "same"},
		{in(i(81, "R"), est), "", ""},
		{out(o(82, "S"), drop), "Out RuleDrop by 3 log: 10.1.0.5/1000 > 192.0.2.7/82 6", "same"},
		{out(o(83, "S"), drop), "Out RuleDrop by 4 log: 10.1.0.5/1000 > 192.0.2.7/83 6", "same"},
		{out(o(84, "A"), allow), "Out RuleAllow by 5 log: 10.1.0.5/1000 > 192.0.2.7/84 6", "same"},
		{out(o(84, "A"), allow), "Out RuleAllow by 5 log: 10.1.0.5/1000 > 192.0.2.7/84 6", "same"},
		{out(tcp(vm4, peer4, 1001, 81, "A"), policy.ReasonTCPNoState), "Out TCPNoState by 2 log: 10.1.0.5/1001 > 192.0.2.7/81 6", "same"},
		{out(udp(vm4, peer4, 5, 53), allow), "Out RuleAllow by 1: 10.1.0.5/5 > 192.0.2.7/53 17", ""},
		{out(udp(vm4, peer4, 5, 54), allow), "Out RuleAllow by 1 not 9: 10.1.0.5/5 > 192.0.2.7/54 17", ""},
		{out(udp(vm4, peer4, 5, 56), allow), "Out RuleAllow by 1 not 8 log-not: 10.1.0.5/5 > 192.0.2.7/56 17", "same"},
		{in(udp(peer4, vm4, 5, 55), def), "In DefaultDrop by 0 not 9: 192.0.2.7/5 > 10.1.0.5/55 17", ""},
		{out(echo(vm6, peer6, true, 7), allow), "Out RuleAllow by 1: fd00::5/0 > 2001:db8:2::7/32768 58", ""},
		{out(udp(vm6, peer6, 5, 61).with(func(p *pkt) { p.ext = []extension{pad(layers.IPProtocolIPv6HopByHop)} }), allow),
			"Out RuleAllow by 2 log: fd00::5/5 > 2001:db8:2::7/61 17", "same"},
		{out(sided(pkt{from: vm4, to: peer4, proto: 47, l4: make([]byte, 8)}), allow), "Out RuleAllow by 5 log: 10.1.0.5/0 > 192.0.2.7/0 47", "same"},
		{in(udp(peer4, vm4, 1, 2).with(func(p *pkt) { p.frag = 8 }), policy.ReasonFragmentDrop), "In FragmentDrop by 0: 192.0.2.7/0 > 10.1.0.5/0 17", ""},
		{out(o(80, "S").with(func(p *pkt) { p.src = peerMAC }), policy.ReasonMACSpoof), "Out MACSpoof by nobody: 10.1.0.5/1000 > 192.0.2.7/80 6", ""},
		{out(o(80, "S").tagged(tag{ctag, 7}), policy.ReasonGuestTag), "Out GuestTag by nobody: 10.1.0.5/1000 > 192.0.2.7/80 6 vlan 7", ""},
		{out(o(80, "S").with(func(p *pkt) { p.l4 = p.l4[:3] }), policy.ReasonMalformed), "Out Malformed by nobody: 10.1.0.5/0 > 192.0.2.7/0 6", ""},
		{out(pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 28)}, policy.ReasonARP), "", ""},
		{out(pkt{ether: 0x88b5, l4: make([]byte, 40)}, def), "Out DefaultDrop by 0: 020000000001 > 020000000002 88b5", ""},
	}
	for _, all := range []bool{true, false} {
		b.port(accessPort())
		w := b.watch(all)
		for n, f := range frames {
			at := time.Now()
			b.expect(fmt.Sprintf("frame %d", n), f.step)
			e := w.next()
			want := f.all
			if !all && f.some == "" {
				want = ""
			}
			if got := brief(e, names); got != want {
				t.Errorf("watched: %v, frame %d: told\n%q, want\n%q", all, n, got, want)
			}
			if e == nil {
				continue
			}
			if more := w.next(); more != nil {
				t.Errorf("frame %d: told twice: %+v", n, more)
			}
			if e.IfIndex != loopback || e.Length != uint32(len(f.frame)) || e.At.Sub(at).Abs() > 5*time.Second {
				t.Errorf("frame %d: %+v of interface %d, %d bytes", n, e, loopback, len(f.frame))
			}
		}
		_ = w.Close()
	}
}

// The end of what no packet ends, and what rules end.
func TestEventsEnd(t *testing.T) {
	b := newBench(t, Config{})
	rules := func(log bool) policy.Set {
		return policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
			{Key: key(1), Action: policy.Allow, Directions: policy.OnlyOut, Log: log, Services: service(t, "tcp/80", "udp/53", "icmp")},
			{Key: key(2), Action: policy.Allow, Directions: policy.OnlyIn, Log: log, Services: service(t, "udp/53")},
			{Key: key(3), Action: policy.Drop, Directions: policy.InOut, Log: true, Services: service(t, "tcp/81")},
		}}
	}
	names := map[uint32]string{}
	learn := func(s policy.Set) {
		for k, c := range b.sync(s) {
			names[c] = fmt.Sprint(k.ID)
		}
	}
	learn(rules(true))
	b.port(accessPort())
	w := b.watch(false)
	allow, est := policy.ReasonRuleAllow, policy.ReasonEstablished
	open := func() {
		b.expect("open", out(udp(vm4, peer4, 5, 53), allow), in(udp(peer4, vm4, 53, 5), est),
			in(udp(peer4, vm4, 6, 53), allow), out(udp(vm4, peer4, 53, 6), est),
			out(echo(vm4, peer4, true, 7), allow), in(echo(peer4, vm4, false, 7), est),
			out(tcp(vm4, peer4, 1000, 80, "S"), allow), in(tcp(peer4, vm4, 80, 1000, "SA"), est))
		for w.next() != nil {
		}
	}
	open()
	got := map[string]bool{}
	ended := func(e Event) { got[brief(&e, names)] = true }
	b.expect("one has ended before", in(tcp(peer4, vm4, 80, 1000, "R"), est))
	if e := w.next(); brief(e, names) != "Out Established by 1 ended log: 10.1.0.5/1000 > 192.0.2.7/80 6" || net.HardwareAddr(e.SourceMAC[:]).String() != testMAC.String() {
		t.Errorf("reset: %s from %x", brief(e, names), e.SourceMAC)
	}
	b.age(ticks(180*time.Second) + 1)
	if n, err := b.GCConns(ended); n != 4 || err != nil {
		t.Errorf("freed %d, %v", n, err)
	}
	for _, want := range []string{
		"Out Established by 1 timed out log: 10.1.0.5/5 > 192.0.2.7/53 17 vlan 100",
		"In Established by 2 timed out log: 192.0.2.7/6 > 10.1.0.5/53 17 vlan 100",
		"Out Established by 1 timed out log: 10.1.0.5/0 > 192.0.2.7/2048 1 vlan 100",
	} {
		if !got[want] {
			t.Errorf("not told: %s", want)
		}
		delete(got, want)
	}
	if len(got) > 0 {
		t.Errorf("told, too: %v", got)
	}

	// A flow follows what its rule asks for now, and without one it ends.
	open()
	learn(rules(false))
	b.expect("judged again", in(tcp(peer4, vm4, 80, 1000, "A"), est), in(tcp(peer4, vm4, 80, 1000, "R"), est))
	if e := w.next(); e != nil {
		t.Errorf("told of what no rule asks for any more: %s", brief(e, names))
	}
	without := rules(true)
	without.Rules = without.Rules[2:]
	learn(without)
	b.expect("over", in(udp(peer4, vm4, 53, 5), policy.ReasonDefaultDrop))
	if got := brief(w.next(), names); got != "Out DefaultDrop by 0 ended log: 10.1.0.5/5 > 192.0.2.7/53 17" {
		t.Errorf("ended by rules, once logged: %s", got)
	}
	b.expect("an echo", in(echo(peer4, vm4, false, 7), policy.ReasonDefaultDrop))
	if got := brief(w.next(), names); got != "Out DefaultDrop by 0 ended log: 10.1.0.5/0 > 192.0.2.7/2048 1" {
		t.Errorf("ended by rules, once logged: %s", got)
	}
	if err := b.Watch(true); err != nil {
		t.Fatal(err)
	}
	b.expect("over, by an error about it", in(icmpError(other4, vm4, 3, udp(vm4, peer4, 53, 6), 8), policy.ReasonDefaultDrop))
	if got := brief(w.next(), names); got != "In DefaultDrop by 0 ended log: 192.0.2.7/6 > 10.1.0.5/53 17" {
		t.Errorf("ended by rules: %s", got)
	}
}

// A port tells of so many packets a moment. What it does not tell of, or what nobody
// reads, is counted, and packets are judged as ever.
func TestEventsQuota(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	b.port(accessPort())
	w := b.watch(true)
	frame := tcp(vm4, bad4, 1, 80, "S").bytes()
	flood := func(n uint32) {
		ret, err := b.progs[FromVM].Run(&ebpf.RunOptions{Data: frame, Repeat: n})
		if err != nil || ret != dropVerdict {
			t.Fatalf("%#x, %v", ret, err)
		}
	}
	lost := func() uint64 {
		n, err := b.EventsLost()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const most, n = EventsOfPort, 4000
	begun := time.Now()
	flood(n)
	moments := int(time.Since(begun)>>30) + 2 // begun ones
	told := 0
	for w.next() != nil {
		told++
	}
	// A run that a signal interrupts begins anew, so there can be more packets.
	if told < most || told > moments*most || uint64(told)+lost() < n {
		t.Errorf("told of %d of %d, lost %d; want %d a moment, of up to %d", told, n, lost(), most, moments)
	}
	flood(1) // starts a moment, or goes on with one
	w.quota()
	for w.next() != nil {
	}
	const size = 4 << 20
	record := (binary.Size(portHpEvent{}) + 8 + 7) / 8 * 8
	for range size/record/most + 2 {
		flood(most)
		w.quota()
	}
	told = 0
	for w.next() != nil {
		told++
	}
	if want := size / record; told < want-1 || told > want {
		t.Errorf("%d events were kept for a reader, want %d", told, want)
	}
	flood(1)
	if w.next() == nil {
		t.Error("no events after a flood")
	}

	// What rules log has a quota of its own, which no one who observes uses up; and all ports
	// have one together.
	b.sync(policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
		{Key: key(1), Action: policy.Drop, Directions: policy.InOut, Log: true, Services: service(t, "udp/9")}}})
	logged := udp(vm4, peer4, 5, 9).bytes()
	w.quota()
	flood(4 * most)
	for w.next() != nil {
	}
	if b.run(FromVM, logged); w.next() == nil {
		t.Error("a flood that somebody observes took a rule's line")
	}
	rec, err := b.Datapath.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	told = 0
	before := lost()
	begun = time.Now()
	for range 30 { // as many ports
		var q portHpQuota
		if err := b.maps[portMapEventQuotas].Lookup(rec.Slot, &q); err != nil {
			t.Fatal(err)
		}
		q.Used = [3]uint32{}
		if err := b.maps[portMapEventQuotas].Put(rec.Slot, q); err != nil {
			t.Fatal(err)
		}
		flood(most)
	}
	moments = int(time.Since(begun)>>30) + 2
	for w.next() != nil {
		told++
	}
	if told > moments*EventsOfNode || told < EventsOfNode-2*most || uint64(told)+lost()-before < 30*most {
		t.Errorf("30 ports told of %d of %d packets in up to %d moments, %d a moment at most, and lost %d", told, 30*most, moments, EventsOfNode, lost()-before)
	}
}

// checkEvent compares what the program told of a packet with the reference.
func (w *watcher) checkEvent(set *policy.Set, counters compile.Counters, p policy.Packet, want outcome, v policy.Verdict) error {
	e := w.next()
	rule, monitored := counters[policy.DefaultKey(set.Network)], NoRule
	if want.reason == policy.ReasonARP { // that passes is told of if a rule asks for it
		if _, logs := v.MonitoredOne(set, p); !logs && (v.Rule < 0 || !set.Rules[v.Rule].Log) {
			if e != nil {
				return fmt.Errorf("told %+v of ARP, which nobody asks for", e)
			}
			return nil
		}
		rule = NoRule
	}
	if e == nil {
		return errors.New("nothing was told")
	}
	var log, logNot bool
	if v.Rule >= 0 {
		rule, log = counters[set.Rules[v.Rule].Key], set.Rules[v.Rule].Log
	}
	if !want.counts { // then those of the packet do not
		v.Monitored = slices.DeleteFunc(slices.Clone(v.Monitored), func(i int) bool { return !set.Rules[i].Ethernet })
	}
	if i, logs := v.MonitoredOne(set, p); i >= 0 {
		monitored, logNot = counters[set.Rules[i].Key], logs
	}
	expected := Event{IfIndex: loopback, Direction: p.Direction, Reason: want.reason, Rule: rule, Monitored: monitored, Logged: log, MonitoredLogged: logNot}
	if p.IP {
		expected.Source, expected.Destination, expected.Protocol = p.Src, p.Dst, p.Protocol
		expected.HasPorts, expected.SourcePort, expected.DestinationPort = p.HasService, p.SourcePort, p.Service
	}
	got := *e // of what the reference knows
	got.At, got.SourceMAC, got.DestinationMAC, got.EtherType, got.TCPFlags, got.Length = expected.At, expected.SourceMAC, expected.DestinationMAC, 0, 0, 0
	if got != expected {
		return fmt.Errorf("told %+v, want %+v", got, expected)
	}
	return nil
}

// FuzzEvent: whatever bytes the buffer holds, reading them gives an event or an error.
func FuzzEvent(f *testing.F) {
	right := make([]byte, binary.Size(portHpEvent{}))
	const at = unsafe.Offsetof(portHpEvent{}.Size)
	binary.NativeEndian.PutUint16(right[at:], uint16(len(right)))
	f.Add(right)
	f.Add([]byte{1})
	ones := make([]byte, binary.Size(portHpEvent{}))
	for i := range ones {
		ones[i] = 0xff
	}
	f.Add(ones)
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decodeEvent(raw, time.Now(), time.Hour)
		n := binary.Size(portHpEvent{})
		if want := len(raw) >= n && int(binary.NativeEndian.Uint16(raw[at:])) == n; (err == nil) != want || err != nil && !errors.Is(err, ErrForeignEvent) {
			t.Fatalf("%d bytes: %+v, %v", len(raw), e, err)
		}
	})
}
