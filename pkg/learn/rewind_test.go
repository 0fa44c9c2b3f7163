package learn

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRewind: a clock that was a year ahead, and is set right, ends nothing, and what is said by the right one counts.
func TestRewind(t *testing.T) {
	const year = 365 * 24 * 3600
	n := silence(ModeObserved, 100)
	n.Shared = prefixes(vip + "/32")
	b := newBook(t, Settings{Networks: map[string]Network{"a": n}})
	f := follower{}
	feed := func(list ...Event) {
		t.Helper()
		for _, e := range list {
			f.follow(t, b.Apply(e))
		}
	}
	feed(leases(year, web, five, year+200), says(year+5, db, five, ARP), says(year+10, web, six, ARP), says(year+11, db, "10.0.0.7", ARP), outside(year+12, six, 1),
		says(year+20, db, vip, ARP), says(year+21, web, vip, ARP), decides(year+22, EventDeny, web, six), of(year+50, EventAbsent, db), outside(year+50, five, 1))
	before := b.Claims(web)
	f.follow(t, b.Rewind(second(0)))
	if d := cmp.Diff(lines(b), f.lines()); d != "" {
		t.Fatalf("changes do not tell it (-book +changes):\n%s", d)
	}
	checkTruths(t, b)
	reload(t, b)
	after := b.Claims(web)
	if len(after) != len(before) || len(after) != 2 {
		t.Fatalf("web has\n%+v\nafter\n%+v", after, before)
	}
	for i, c := range after {
		if c.Role != before[i].Role || c.Since.After(second(0)) || c.Seen.After(second(0)) {
			t.Errorf("%+v was %+v", c, before[i])
		}
	}
	if len(b.Rewind(second(0))) > 0 {
		t.Error("and again")
	}
	feed(decides(1, EventApprove, web, six), of(1, EventPresent, db), says(2, web, six, ARP), leases(3, db, "10.0.0.9", 300))
	is := func(at int, want ...string) {
		t.Helper()
		f.follow(t, b.Expire(second(at)))
		var got []string
		for _, id := range []NIC{web, db} {
			for _, c := range b.Bindings(id) {
				got = append(got, id.Name+" "+c.Addr.String())
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("at %d (-want +got):\n%s", at, d)
		}
	}
	is(90, "web "+five, "web "+six, "web "+vip, "db 10.0.0.7", "db 10.0.0.9")
	is(102, "web "+five, "db 10.0.0.9") // what was heard last when the clock was set, and a second after
	feed(withdraws(103, db, "10.0.0.9", DHCP))
	is(149, "web "+five)
	is(150) // of 200 seconds 150 were left
	if o := b.Dump().Outside; len(o) != 2 {
		t.Errorf("outside are %+v", o)
	}
	is(600)
	if o := b.Dump().Outside; len(o) != 0 {
		t.Errorf("outside are %+v", o)
	}
}

// Whatever a book knows, it is one that goes on when it is taken back.
func TestRewindAny(t *testing.T) {
	for seed := range 500 {
		choose := seeded(uint64(seed))
		s, log := someLog(choose, 5+choose(40))
		b, f := newBook(t, s), follower{}
		cut := choose(len(log))
		var now time.Time
		for i, e := range log {
			if i == cut {
				now = b.now.Add(-time.Duration(choose(100000)) * time.Millisecond)
				f.follow(t, b.Rewind(now))
				reload(t, b)
			}
			if i >= cut {
				now = now.Add(time.Second)
				if e.At = now; e.Provenance == DHCP && !e.Until.IsZero() {
					e.Until = now.Add(3 * time.Second)
				}
			}
			f.follow(t, b.Apply(e))
			if d := cmp.Diff(lines(b), f.lines()); d != "" {
				t.Fatalf("seed %d: changes do not tell it (-book +changes):\n%s", seed, d)
			}
			checkTruths(t, b)
		}
		if checkEnd(t, b, f); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
