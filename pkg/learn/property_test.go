package learn

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// chooser gives numbers below n: by chance, or as a fuzzer's bytes say.
type chooser func(n int) int

func seeded(seed uint64) chooser { return rand.New(rand.NewPCG(seed, 7)).IntN }

// bytesChooser reads a fuzzer's bytes; after their end all is 0.
func bytesChooser(data []byte) chooser {
	return func(n int) int {
		if len(data) == 0 {
			return 0
		}
		v := int(data[0])
		data = data[1:]
		return v % n
	}
}

func pick[T any](choose chooser, of []T) T { return of[choose(len(of))] }

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

	someNICs = []NIC{
		{Namespace: "shop", Name: "web", UID: "1", Network: "a"},
		{Namespace: "shop", Name: "db", UID: "2", Network: "a"},
		{Namespace: "bank", Name: "web", UID: "3", Network: "a"},
		{Namespace: "bank", Name: "old", UID: "4", Network: "b"},
	}
	someSegments = []Segment{{"fabric", 100}, {"fabric", 200}}
	someAddrs    = addrs("10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8", "2001:db8::5", "2001:db8::6",
		"fe80::1", "fe80::2", "fe80::3", "fe80::4", "fe80::5", "10.0.0.1", "10.0.0.255", "10.9.9.9", "224.0.0.1", "::ffff:10.0.0.5")
)

func addrs(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func someNetwork(choose chooser) Network {
	n := Network{
		Mode:   pick(choose, []Mode{ModeObserved, ModeObserved, ModeApproved, ModeDeclared}),
		Limit:  pick(choose, []int{0, 1, 2}),
		Expiry: pick(choose, []time.Duration{0, 0, 8 * time.Second, 25 * time.Second}),
	}
	if choose(2) == 0 {
		n.Subnets = prefixes("10.0.0.0/24", "2001:db8::/64")
	}
	if choose(3) == 0 {
		n.Gateways = addrs("10.0.0.1", "10.0.0.7", "fe80::3")
	}
	if choose(3) == 0 {
		n.Shared = prefixes("10.0.0.6/31", "2001:db8::6/128")
	}
	return n
}

// someLog is a short log over so few NICs and addresses that they get in each other's way.
func someLog(choose chooser, length int) (Settings, []Event) {
	s := Settings{Outside: 7 * time.Second, Networks: map[string]Network{"a": someNetwork(choose), "b": someNetwork(choose)}}
	narrow := 2 + choose(len(someAddrs)-1)
	now := start
	log := make([]Event, 0, length)
	for range length {
		now = now.Add(time.Duration(choose(3000)) * time.Millisecond)
		if choose(25) == 0 {
			now = now.Add(time.Duration(choose(3)) * 40 * time.Minute)
			if choose(3) == 0 {
				now = now.Add(Quiet)
			}
		}
		e := someEvent(choose, now, someAddrs[:narrow])
		if choose(10) == 0 {
			e.At = now.Add(-time.Duration(choose(20000)) * time.Millisecond)
		}
		log = append(log, e)
	}
	return s, log
}

func someEvent(choose chooser, now time.Time, among []netip.Addr) Event {
	nic := choose(len(someNICs))
	e := Event{
		At: now, NIC: someNICs[nic], Segment: someSegments[choose(8)/7], Addr: pick(choose, among),
		MAC: MAC{2, 0, 0, 0, 0, byte(nic)}, Place: pick(choose, []string{"n1", "n2"}),
	}
	if choose(6) == 0 {
		e.MAC = MAC{2, 0, 0, 0, 1, byte(choose(6))}
	}
	switch k := choose(40); {
	case k < 22:
		e.Kind = EventClaim
	case k < 27:
		e.Kind = EventWithdraw
	case k < 31:
		return Event{Kind: EventOutside, At: now, Segment: e.Segment, Addr: e.Addr, MAC: MAC{2, 0, 0, 0, 1, byte(choose(6))}, Place: "uplink n1"}
	case k < 33:
		e.Kind, e.By = EventApprove, "ann"
	case k < 34:
		e.Kind, e.By = EventDeny, "bob"
	case k < 35:
		return Event{Kind: EventGone, At: now, NIC: e.NIC}
	case k < 36:
		return Event{Kind: EventAbsent, At: now, NIC: e.NIC}
	case k < 38:
		return Event{Kind: EventPresent, At: now, NIC: e.NIC}
	case k < 39 && choose(2) == 0:
		return Event{Kind: EventNetworkGone, At: now, Network: e.NIC.Network}
	default:
		n := someNetwork(choose)
		return Event{Kind: EventNetwork, At: now, Network: e.NIC.Network, Settings: &n}
	}
	if e.By != "" {
		if choose(2) == 0 {
			e.Segment = Segment{}
		}
		return Event{Kind: e.Kind, At: now, NIC: e.NIC, Segment: e.Segment, Addr: e.Addr, By: e.By}
	}
	e.Provenance = pick(choose, []Provenance{ARP, ARP, GuestAgent, DHCP, Declared, Manual})
	if e.Provenance == ARP && !e.Addr.Is4() {
		e.Provenance = ND
	}
	switch {
	case e.Provenance.Firm():
		e.Source = pick(choose, []string{"", "Multus"})
	case e.Provenance == DHCP && choose(4) > 0:
		e.Until = now.Add(time.Duration(1+choose(20)) * time.Second)
	}
	return e
}

// lines is what reference.lines is, of a book's read-outs.
func lines(b *Book) (out []string) {
	for _, id := range b.NICs() {
		for _, c := range b.Claims(id) {
			out = append(out, claimLine(&c))
		}
	}
	for _, d := range b.Conflicts() {
		out = append(out, conflictLine(&d))
	}
	slices.Sort(out)
	return out
}

func claimLine(c *Claim) string {
	return line(place{c.Segment, c.Addr}, c.NIC, c.Role, c.MAC, c.Provenance, c.Since, c.Approved)
}

// follower knows of a book what its changes tell.
type follower map[string]string

func (f follower) follow(t testing.TB, changes []Change) {
	t.Helper()
	for _, c := range changes {
		key := fmt.Sprint(c.Claim.Segment, c.Claim.Addr, c.Claim.NIC)
		was := f[key]
		switch c.Kind {
		case Bound, Promoted, Aside, Waiting:
			f[key] = claimLine(&c.Claim)
			if f[key] == was {
				t.Errorf("told again: %v", c)
			}
			if (c.Kind == Aside) != (c.Claim.Role == Beside) || (c.Kind == Waiting) != (c.Claim.Role == Pending) {
				t.Errorf("%v as %s", c, c.Claim.Role)
			}
		case Unbound, Dropped:
			if was != claimLine(&c.Claim) || (c.Kind == Unbound) != (c.Claim.Role == Holder) {
				t.Errorf("%v, which was %q", c, was)
			}
			delete(f, key)
		case ConflictBegan, ConflictChanged:
			if (was == "") != (c.Kind == ConflictBegan) || was == conflictLine(c.Conflict) {
				t.Errorf("%s, which was %q: %v", c.Kind, was, c)
			}
			f[key] = conflictLine(c.Conflict)
		case ConflictEnded:
			if was != conflictLine(c.Conflict) {
				t.Errorf("%v, which was %q", c, was)
			}
			delete(f, key)
		}
		if c.Kind == Bound || c.Kind == Promoted {
			f.oneHolder(t, &c)
		}
		if c.String() == "" {
			t.Errorf("nothing to say of %#v", c)
		}
	}
}

// oneHolder: not even between two changes are there two.
func (f follower) oneHolder(t testing.TB, c *Change) {
	t.Helper()
	n := 0
	for _, id := range someNICs {
		if strings.Contains(f[fmt.Sprint(c.Claim.Segment, c.Claim.Addr, id)], " "+string(Holder)+" ") {
			n++
		}
	}
	if n > 1 {
		t.Errorf("%d holders after %v", n, c)
	}
}

func (f follower) lines() (out []string) {
	for _, l := range f {
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

func newBook(t testing.TB, s Settings) *Book {
	t.Helper()
	b, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// reload writes a book down and reads it again.
func reload(t testing.TB, b *Book) *Book {
	t.Helper()
	text := dumpText(t, b)
	var s State
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	again, err := Load(s)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if d := cmp.Diff(text, dumpText(t, again)); d != "" {
		t.Fatalf("loaded is other than dumped (-dumped +loaded):\n%s", d)
	}
	if d := cmp.Diff(lines(b), lines(again)); d != "" {
		t.Fatalf("loaded reads other than dumped (-dumped +loaded):\n%s", d)
	}
	if !b.Next().Equal(again.Next()) {
		t.Fatalf("next is %v, loaded %v", b.Next(), again.Next())
	}
	return again
}

func dumpText(t testing.TB, b *Book) string {
	t.Helper()
	text, err := json.MarshalIndent(b.Dump(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkLog runs a log in all the ways that must come to the same.
func checkLog(t testing.TB, s Settings, log []Event, choose chooser) {
	t.Helper()
	b, reloaded, eager := newBook(t, s), newBook(t, s), newBook(t, s)
	f := follower{}
	for i, e := range log {
		changes := b.Apply(e)
		f.follow(t, changes)
		if choose(3) == 0 || i == len(log)-1 {
			checkReference(t, b, refer(s, log[:i+1]), e)
		}
		if d := cmp.Diff(lines(b), f.lines()); d != "" {
			t.Fatalf("event %d, %s: changes do not tell it (-book +changes):\n%s", i, eventText(e), d)
		}
		checkTruths(t, b)
		if choose(6) == 0 {
			reloaded = reload(t, reloaded)
		}
		if d := cmp.Diff(changesText(t, changes), changesText(t, reloaded.Apply(e))); d != "" {
			t.Fatalf("event %d, %s changes else after a reload (-kept +reloaded):\n%s", i, eventText(e), d)
		}
		eager.Apply(e)
		for i+1 < len(log) && choose(3) > 0 {
			next := eager.Next()
			if next.IsZero() || next.After(log[i+1].At) {
				break
			}
			if eager.Expire(next); eager.Next().Equal(next) {
				t.Fatalf("what is due at %v does not end", next)
			}
		}
	}
	want := dumpText(t, b)
	text, err := json.Marshal(log)
	if err != nil {
		t.Fatal(err)
	}
	var kept []Event
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	replayed, err := Replay(s, kept)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]*Book{"reloaded": reloaded, "expired eagerly": eager, "replayed": replayed} {
		if d := cmp.Diff(want, dumpText(t, other)); d != "" {
			t.Fatalf("%s is other (-applied +%s):\n%s", name, name, d)
		}
		if d := cmp.Diff(lines(b), lines(other)); d != "" {
			t.Fatalf("%s reads other (-applied +%s):\n%s", name, name, d)
		}
	}
	checkEnd(t, b, f)
}

// checkEnd lets all that can end do so, one after the other.
func checkEnd(t testing.TB, b *Book, f follower) {
	t.Helper()
	for range 1000 {
		next := b.Next()
		if next.IsZero() {
			return
		}
		f.follow(t, b.Expire(next))
		if d := cmp.Diff(lines(b), f.lines()); d != "" {
			t.Fatalf("changes do not tell what ends (-book +changes):\n%s", d)
		}
		checkTruths(t, b)
	}
	t.Fatal("does not end")
}

func changesText(t testing.TB, changes []Change) string {
	t.Helper()
	for i := range changes {
		if d := changes[i].Conflict; d != nil {
			for j := range d.Claimants { // as of when the conflict was told, or loaded
				d.Claimants[j].Seen, d.Claimants[j].Place = time.Time{}, ""
			}
		}
	}
	text, err := json.MarshalIndent(changes, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func eventText(e Event) string {
	text, _ := json.Marshal(e)
	return string(text)
}

// checkReference compares what can be read out, and what is in no change: what each source says.
func checkReference(t testing.TB, b *Book, r *reference, e Event) {
	t.Helper()
	if d := cmp.Diff(r.lines(), lines(b)); d != "" {
		t.Fatalf("after %s (-reference +book):\n%s", eventText(e), d)
	}
	for _, id := range b.NICs() {
		for _, c := range b.Claims(id) {
			if d := cmp.Diff(r.of(who{place{c.Segment, c.Addr}, id}), c.Evidence); d != "" {
				t.Fatalf("%v of %v (-reference +book):\n%s", c.Addr, id, d)
			}
		}
	}
}

// checkTruths are what holds whatever happened.
func checkTruths(t testing.TB, b *Book) {
	t.Helper()
	for at, x := range b.cells {
		w := b.Who(at.Segment, at.Addr)
		for _, c := range append(w.Aside, w.Waiting...) {
			if w.Holder == nil {
				if c.Role == Beside {
					t.Fatalf("%v is aside, and nobody holds it", c)
				}
				continue
			}
			if c.Provenance.Firm() && !w.Holder.Provenance.Firm() {
				t.Fatalf("%v is declared, and held by %v", c, w.Holder)
			}
		}
		if len(x.claims)+len(x.outside) == 0 {
			t.Fatalf("%v is kept for nobody", at)
		}
	}
	for i, e := range b.timers {
		if e.index != i {
			t.Fatalf("timer %d thinks that it is %d", i, e.index)
		}
	}
	for id, n := range b.nics {
		for _, c := range n.claims {
			if due := b.due(c); !due.IsZero() && (c.timer.index < 0 || c.timer.due.After(due)) {
				t.Fatalf("%v of %v is due at %v, and its timer at %v", c.at(), id, due, c.timer.due)
			}
			if c.told.role == Holder && n.network.unfit(c.at().Addr) != "" {
				t.Fatalf("%v holds %v", id, c.at())
			}
		}
	}
}

func TestAgainstReference(t *testing.T) {
	logs := 2000
	if testing.Short() || slow {
		logs = 300
	}
	for seed := range logs {
		choose := seeded(uint64(seed))
		s, log := someLog(choose, 5+choose(30))
		if checkLog(t, s, log, choose); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
