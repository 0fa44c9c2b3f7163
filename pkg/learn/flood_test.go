package learn

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

func v4(n int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|uint32(n))
	return netip.AddrFrom4(b)
}

func v6(prefix byte, n int) netip.Addr {
	b := [16]byte{prefix, 0x80}
	binary.BigEndian.PutUint32(b[12:], uint32(n))
	return netip.AddrFrom16(b)
}

func TestLimit(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Expiry: time.Hour}}})
	bound := func(at int, e Event) bool {
		t.Helper()
		changes := b.Apply(e)
		switch got := brief(changes); {
		case got == "Bound web "+e.Provenance.String():
			return true
		case got != "Refused web Limit" && got != "":
			t.Fatalf("at %d: %s", at, got)
		}
		return false
	}
	taken := map[string]int{}
	for i := range 40 {
		for kind, e := range map[string]Event{
			"v4":    says(1, web, v4(i).String(), ARP),
			"v6":    says(1, web, v6(0x20, i).String(), ND),
			"local": says(1, web, v6(0xfe, i).String(), GuestAgent),
			"other": in(says(1, web, v4(i).String(), ARP), someSegments[1]),
		} {
			if bound(i, e) {
				taken[kind]++
			}
		}
	}
	if d := cmp.Diff(map[string]int{"v4": 16, "v6": 16, "local": 4, "other": 16}, taken); d != "" {
		t.Errorf("taken (-want +got):\n%s", d)
	}
	b = reload(t, b)
	if bound(2, says(2, web, v4(20).String(), ARP)) {
		t.Error("a seventeenth is taken")
	}
	if !bound(3, says(3, web, v4(20).String(), DHCP)) || bound(3, says(3, web, v4(20).String(), ARP)) {
		t.Error("a lease is not taken, or is told twice")
	}
	if !bound(4, says(4, web, v4(21).String(), Declared)) {
		t.Error("a declaration is not taken")
	}
	b.Apply(says(5, web, v4(21).String(), ARP))
	if got := brief(b.Apply(withdraws(6, web, v4(21).String(), Declared))); got != "Refused web Limit, Unbound web Declared" && got != "Unbound web Declared" {
		t.Errorf("declared no more, and no room for what is left: %s", got)
	}
	if got := brief(b.Apply(withdraws(7, web, v4(3).String(), ARP))); got != "Unbound web ARP" {
		t.Error(got)
	}
	if !bound(8, says(8, web, v4(30).String(), ARP)) {
		t.Error("there is room, and it is not taken")
	}
	if got := brief(b.Apply(sets(9, Network{Mode: ModeObserved, Limit: 2}))); got != "" {
		t.Errorf("a lower limit takes away: %s", got)
	}
	if len(b.Bindings(web)) != 16+16+4+16+1 {
		t.Errorf("%d are held", len(b.Bindings(web)))
	}
	b.Apply(sets(10, Network{Mode: ModeObserved, Limit: MaxLimit}))
	n := 0
	for i := range 300 {
		if bound(11, says(11, web, v4(1000+i).String(), ARP)) {
			n++
		}
	}
	if n != MaxLimit-16 {
		t.Errorf("%d more are taken", n)
	}
}

// What a NIC at its limit was heard with a day ago and more makes room for what it is heard with now, the longest silent first; a lower
// limit alone takes nothing away, what is approved stays, and while a VM is stopped nothing is silent.
func TestQuiet(t *testing.T) {
	const day = 86400
	network := Network{Mode: ModeObserved, Limit: 3}
	b := newBook(t, Settings{Networks: map[string]Network{"a": network}})
	const bound, refused, instead = "Bound web ARP", "Refused web Limit", "Unbound web ARP, Bound web ARP"
	apply := func(want string, e Event) {
		t.Helper()
		if got := brief(b.Apply(e)); got != want && !(want == refused && got == "") { // the same is not told each time
			t.Errorf("at %v, %s %v: %s, want %s", e.At.Sub(start), e.Kind, e.Addr, got, want)
		}
	}
	apply(bound, says(1, web, v4(1).String(), ARP))
	apply(bound, says(2, web, v4(2).String(), ARP))
	apply(bound, says(3, web, v4(3).String(), ARP))
	apply("", says(10, web, v4(1).String(), ARP)) // again
	apply(refused, says(day+1, web, v4(4).String(), ARP))
	apply(instead, says(day+2, web, v4(4).String(), ARP))
	if held := b.Bindings(web); len(held) != 3 || held[0].Addr != v4(1) || held[1].Addr != v4(3) || held[2].Addr != v4(4) {
		t.Errorf("held are %v", held)
	}
	b = reload(t, b)
	apply("Bound web ND", says(day+2, web, v6(0x20, 1).String(), ND))
	apply(bound, decides(day+3, EventApprove, web, v4(3).String()))
	apply(refused, says(day+9, web, v4(5).String(), ARP))
	apply("", of(day+9, EventAbsent, web))
	apply("", of(3*day, EventPresent, web))
	apply("", says(3*day+1, web, v4(1).String(), ARP))
	apply("", says(3*day+2, web, v4(4).String(), ARP))
	apply(refused, says(4*day-1, web, v4(5).String(), ARP))
	apply("", sets(4*day, Network{Mode: ModeObserved, Limit: 2}))
	apply(refused, says(9*day, web, v4(5).String(), ARP))
	apply("", sets(9*day, network))
	apply(instead, says(9*day, web, v4(5).String(), ARP))
	if held := b.Bindings(web); len(held) != 4 || held[1].Addr != v4(4) {
		t.Errorf("held are %v", held)
	}
	apply(instead, says(9*day, web, v4(6).String(), ARP))
	apply(refused, says(9*day, web, v4(7).String(), ARP))
	apply("Bound web DHCP", says(9*day, web, v4(7).String(), DHCP)) // needs no room
}

// Those aside and waiting count as those held do.
func TestLimitCountsAll(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Limit: 2}, "b": {Mode: ModeApproved, Limit: 2}}})
	for i := range 4 {
		b.Apply(says(1, db, v4(i/2).String(), ARP))
		b.Apply(says(2, web, v4(i).String(), ARP))
		b.Apply(says(3, old, v4(i).String(), ARP))
	}
	if got := len(b.Claims(web)); got != 2 {
		t.Errorf("%d are aside", got)
	}
	if got := len(b.Waiting()); got != 2 {
		t.Errorf("%d wait", got)
	}
}

// size is how much a book remembers of a NIC and of what is outside.
func size(b *Book, id NIC) (claims, idles int) {
	for _, c := range b.nics[id].claims {
		if claims++; c.class() == idle {
			idles++
		}
	}
	return claims, idles
}

// A NIC that claims whatever comes to its mind, by whatever it can, costs no more than the bounds say.
func TestFlood(t *testing.T) {
	claims := 100_000
	if testing.Short() || slow {
		claims = 20_000
	}
	b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Limit: MaxLimit}, "b": mode(ModeObserved)}})
	kept := says(1, web, "192.168.0.1", ARP)
	b.Apply(kept)
	r := rand.New(rand.NewPCG(1, 1))
	told := 0
	for i := range claims {
		p := Provenance(1 + r.IntN(int(Manual)))
		a := v4(r.IntN(1 << 24))
		switch {
		case p == ND && r.IntN(3) == 0:
			a = v6(0xfe, r.Int())
		case p == ND || r.IntN(4) == 0 && p != ARP:
			a = v6(0x20, r.Int())
		}
		e := in(says(2, web, a.String(), p), Segment{"fabric", vlan.ID(1 + r.IntN(4000))})
		e.At = start.Add(2*time.Second + time.Duration(i)*time.Millisecond)
		told += len(b.Apply(e))
		switch {
		case i%5 == 0:
			b.Apply(Event{Kind: EventDeny, At: e.At, NIC: web, Addr: a, By: "ann"})
		case i%7 == 0:
			b.Apply(Event{Kind: EventApprove, At: e.At, NIC: web, Addr: a, By: "ann"})
			b.Apply(Event{Kind: EventWithdraw, At: e.At, NIC: web, Addr: a, Segment: e.Segment, Provenance: p})
		case i%1000 == 1:
			b.Apply(Event{Kind: EventNetwork, At: e.At, Network: "a", Settings: &Network{Mode: []Mode{ModeApproved, ModeObserved}[r.IntN(2)], Limit: MaxLimit}})
		case i%10_000 == 2:
			b = reload(t, b)
		}
		b.Apply(Event{Kind: EventClaim, At: e.At, NIC: web, Segment: someSegments[0], Addr: v4(7), Provenance: Declared, Source: fmt.Sprint(i)})
		b.Apply(Event{Kind: EventOutside, At: e.At, Segment: someSegments[i/50%2], Addr: a, MAC: MAC{2, byte(i), byte(i >> 8), byte(i >> 16)}})
		b.Apply(Event{Kind: EventOutside, At: e.At, Segment: someSegments[0], Addr: kept.Addr, MAC: MAC{2, byte(i), byte(i >> 8), byte(i >> 16)}})
	}
	all, idles := size(b, web)
	if most := maxObserved + maxLeases + maxFirm + maxIdle; all > most || idles > maxIdle {
		t.Errorf("%d claims are kept, %d of them decisions alone", all, idles)
	}
	if got := len(b.find(place{someSegments[0], v4(7)}, web).evidence); got > maxSources+4 {
		t.Errorf("an address has %d kinds of evidence", got)
	}
	cells := all
	for _, s := range someSegments {
		if n := b.segments[s].list.Len(); n != maxOutside {
			t.Errorf("%d are outside in %v", n, s)
		}
		cells += b.segments[s].list.Len()
	}
	if len(b.cells) > cells || len(b.timers) > cells {
		t.Errorf("%d cells, %d timers", len(b.cells), len(b.timers))
	}
	w := b.Who(kept.Segment, kept.Addr)
	if w.Holder == nil || len(w.Outside) != maxOutsideOne {
		t.Errorf("what was held is %v", w)
	}
	if told == 0 || told > claims {
		t.Errorf("%d changes of %d claims", told, claims)
	}
	b.Apply(of(1e6, EventGone, web))
	if len(b.nics)+len(b.cells)+len(b.timers)+len(b.segments) > 0 {
		t.Errorf("of nobody %d cells, %d timers, %d segments", len(b.cells), len(b.timers), len(b.segments))
	}
}

// Each bound is reached, and not passed, by what it is about.
func TestBounds(t *testing.T) {
	for name, c := range map[string]struct {
		event func(i int) Event
		want  int
	}{
		"leases":   {func(i int) Event { return leases(i, web, v4(i).String(), 1e6) }, maxLeases},
		"declared": {func(i int) Event { return says(i, web, v4(i).String(), Provenance(int(Declared)+i%2)) }, maxFirm},
		"observed": {func(i int) Event {
			return in(says(i, web, v4(i).String(), ARP), Segment{"fabric", vlan.ID(1 + i/3)})
		}, maxObserved},
		"sources": {func(i int) Event { return source(says(i, web, five, Declared), fmt.Sprint(i)) }, 1},
	} {
		b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved}}})
		for i := range 2000 {
			b.Apply(c.event(i))
		}
		if got := len(b.Bindings(web)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		if n := b.Refused(web).Counts[ReasonLimit]; n != uint64(2000-max(c.want, maxSources)) && name != "sources" || n == 0 {
			t.Errorf("%s: %d refused", name, n)
		}
		if name == "sources" && len(b.Bindings(web)[0].Evidence) != maxSources {
			t.Errorf("%d sources", len(b.Bindings(web)[0].Evidence))
		}
	}
}

// What is seen first, and better known then, is within the bound of the better.
func TestBoundsOfTheBetter(t *testing.T) {
	for p, want := range map[Provenance]int{DHCP: maxLeases, Declared: maxFirm} {
		b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Limit: MaxLimit}}})
		for i := range 500 {
			b.Apply(says(i, web, v4(i).String(), ARP))
			b.Apply(says(i, web, v4(i).String(), p))
		}
		better := 0
		for _, c := range b.Bindings(web) {
			if c.Provenance == p {
				better++
			}
		}
		if better != want || len(b.Bindings(web)) != want+MaxLimit {
			t.Errorf("%d of %d are by %v", better, len(b.Bindings(web)), p)
		}
	}
}

// Of decisions about what is not claimed, the latest are kept.
func TestIdleDecisions(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Limit: MaxLimit}}})
	for i := range maxIdle + 10 {
		b.Apply(says(i, web, v4(i).String(), ARP))
		b.Apply(decides(1000+(i*7)%(maxIdle+10), EventDeny, web, v4(i).String()))
	}
	b = reload(t, b)
	for i := range maxIdle + 10 {
		kept := (i*7)%(maxIdle+10) >= 10
		got := brief(b.Apply(says(5000+100*i, web, v4(i).String(), ARP)))
		if (got == "Bound web ARP") == kept {
			t.Errorf("decision %d: %s", i, got)
		}
	}
}

// From outside, those are kept that were heard last, however they came.
func TestOutsideBounds(t *testing.T) {
	b := newBook(t, Settings{Outside: 1e6 * time.Second, Networks: map[string]Network{"a": mode(ModeObserved)}})
	at := func(i int) int { return (i * 77) % 2048 }
	for i := range 2048 {
		b.Apply(outside(at(i), v4(i).String(), 1))
	}
	b.Apply(outside(4000, v4(0).String(), 1)) // was the longest unheard, and is new
	b = reload(t, b)
	n := 0
	for i := range 2048 {
		kept := len(b.Who(someSegments[0], v4(i)).Outside) == 1
		if want := i == 0 || at(i) > 1024; kept != want {
			t.Errorf("%d, heard at %d, is kept: %v", i, at(i), kept)
		}
		if kept {
			n++
		}
	}
	if n != maxOutside {
		t.Errorf("%d are kept", n)
	}
	for i := range 10 {
		b.Apply(outside(5000+(i*3)%10, five, byte(i)))
	}
	var macs []byte
	for _, o := range b.Who(someSegments[0], netip.MustParseAddr(five)).Outside {
		macs = append(macs, o.MAC[5])
	}
	if d := cmp.Diff([]byte{2, 3, 6, 9}, macs); d != "" { // heard at 6, 9, 8 and 7
		t.Errorf("kept (-want +got):\n%s", d)
	}
	for _, a := range []string{"224.0.0.1", "0.0.0.0", "255.255.255.255"} {
		b.Apply(outside(6000, a, 1))
		if len(b.Who(someSegments[0], netip.MustParseAddr(a)).Outside) > 0 {
			t.Errorf("%s is somebody's", a)
		}
	}
}

// FuzzLog runs logs that the fuzzer writes in all the ways of the property tests.
func FuzzLog(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 8 {
		data := make([]byte, 200)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		choose := bytesChooser(data)
		s, log := someLog(choose, min(len(data)/8, 40))
		checkLog(t, s, log, choose)
	})
}

// full is a book of 10,000 NICs with four addresses each, and the sighting of each address.
func full(tb testing.TB, n Network) (*Book, []Event) {
	tb.Helper()
	b, err := New(Settings{Networks: map[string]Network{"a": n}})
	if err != nil {
		tb.Fatal(err)
	}
	var events []Event
	for i := range 10_000 {
		id := NIC{Namespace: "shop", Name: fmt.Sprintf("vm-%d", i), UID: fmt.Sprintf("6f2d1c1e-%d", i), Network: "a"}
		for j, p := range []Provenance{ARP, DHCP, GuestAgent, Declared} {
			events = append(events, Event{
				Kind: EventClaim, At: start, NIC: id, Segment: Segment{"fabric", vlan.ID(1 + i%100)}, Addr: v4(4*i + j),
				MAC: MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, Provenance: p, Place: "n1", Until: start.Add(1e6 * time.Hour),
			})
		}
	}
	for i := range events {
		b.Apply(events[i])
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	return b, events
}

// A sighting of what is known makes nothing, also where silence is measured.
func TestSightingsAllocateNothing(t *testing.T) {
	b, events := full(t, Network{Mode: ModeObserved, Expiry: time.Minute, Subnets: prefixes("10.0.0.0/8")})
	i := 0
	now := start
	if n := testing.AllocsPerRun(100_000, func() {
		e := events[i%len(events)]
		now = now.Add(time.Millisecond)
		e.At = now
		b.Apply(e)
		i++
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSightingAgain(b *testing.B) {
	for name, n := range map[string]Network{"never expires": {Mode: ModeObserved}, "expires": {Mode: ModeObserved, Expiry: time.Hour}} {
		b.Run(name, func(b *testing.B) {
			book, events := full(b, n)
			now := start
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				e := events[i%len(events)]
				now = now.Add(time.Microsecond)
				e.At = now
				book.Apply(e)
				i++
			}
		})
	}
}

// BenchmarkRefused is what a NIC costs that claims one address after the other beyond its limit.
func BenchmarkRefused(b *testing.B) {
	book, events := full(b, Network{Mode: ModeObserved})
	e := events[0]
	e.Provenance = ARP
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		e.Addr = v4(1e6 + i%1e6)
		book.Apply(e)
		i++
	}
}

// BenchmarkLearn is what a NIC costs that comes with an address and goes.
func BenchmarkLearn(b *testing.B) {
	book, events := full(b, Network{Mode: ModeObserved, Expiry: time.Hour})
	e := events[0]
	e.NIC.UID, e.Addr, e.Provenance = "new", v4(1e6), ARP
	gone := Event{Kind: EventGone, At: e.At, NIC: e.NIC}
	b.ReportAllocs()
	for b.Loop() {
		book.Apply(e)
		book.Apply(gone)
	}
}

func BenchmarkDumpAndLoad(b *testing.B) {
	book, _ := full(b, Network{Mode: ModeObserved})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(book.Dump()); err != nil {
			b.Fatal(err)
		}
	}
}
