package learn

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The NICs of the tables: web and db on network a, old on b.
var (
	web = someNICs[0]
	db  = someNICs[1]
	old = someNICs[3]
)

const (
	five = "10.0.0.5"
	six  = "10.0.0.6"
	vip  = "10.0.0.100"
)

func second(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }

func macOf(n NIC) MAC { return MAC{2, 0, 0, 0, 0, n.UID[0] - '0'} }

// says is an event that claims an address.
func says(at int, n NIC, addr string, p Provenance) Event {
	return Event{Kind: EventClaim, At: second(at), NIC: n, Segment: someSegments[0], Addr: netip.MustParseAddr(addr), MAC: macOf(n), Provenance: p, Place: "n1"}
}

func leases(at int, n NIC, addr string, until int) Event {
	e := says(at, n, addr, DHCP)
	e.Until = second(until)
	return e
}

func withdraws(at int, n NIC, addr string, p Provenance) Event {
	e := says(at, n, addr, p)
	e.Kind = EventWithdraw
	return e
}

func decides(at int, kind EventKind, n NIC, addr string) Event {
	return Event{Kind: kind, At: second(at), NIC: n, Addr: netip.MustParseAddr(addr), By: "ann"}
}

func outside(at int, addr string, last byte) Event {
	return Event{Kind: EventOutside, At: second(at), Segment: someSegments[0], Addr: netip.MustParseAddr(addr), MAC: MAC{2, 0, 0, 0, 9, last}, Place: "uplink n2"}
}

func of(at int, kind EventKind, n NIC) Event { return Event{Kind: kind, At: second(at), NIC: n} }

func sets(at int, n Network) Event {
	return Event{Kind: EventNetwork, At: second(at), Network: "a", Settings: &n}
}

func in(e Event, s Segment) Event        { e.Segment = s; return e }
func toldBy(e Event, p Provenance) Event { e.Provenance = p; return e }
func source(e Event, s string) Event     { e.Source = s; return e }
func by(e Event, m MAC) Event            { e.MAC = m; return e }
func passes(at int) Event                { return Event{Kind: "passes", At: second(at)} }
func brief(changes []Change) string      { return strings.Join(briefs(changes), ", ") }
func mode(m Mode) Network                { return Network{Mode: m} }
func silence(m Mode, sec int) Network {
	return Network{Mode: m, Expiry: time.Duration(sec) * time.Second}
}

func briefs(changes []Change) (out []string) {
	for _, c := range changes {
		switch {
		case c.Reason != "":
			out = append(out, fmt.Sprintf("%s %s %s", c.Kind, c.Claim.NIC.Name, c.Reason))
		case c.Conflict != nil:
			out = append(out, fmt.Sprintf("%s %s", c.Kind, c.Conflict.Kind))
		default:
			out = append(out, fmt.Sprintf("%s %s %v", c.Kind, c.Claim.NIC.Name, c.Claim.Provenance))
		}
	}
	return out
}

// step is an event, or time that passes, and what that changes.
type step struct {
	event Event
	want  string
}

type story struct {
	name    string
	network Network // a's; b's is Observed without anything
	steps   []step
}

// run tells a story to a book that is kept, and to one that is written down and read again after each step.
func (s *story) run(t *testing.T) {
	t.Helper()
	for _, reloads := range []bool{false, true} {
		s.tell(t, reloads)
	}
}

func (s *story) tell(t *testing.T, reloads bool) {
	t.Helper()
	settings := Settings{Networks: map[string]Network{"a": s.network, "b": mode(ModeObserved)}}
	b := newBook(t, settings)
	f := follower{}
	for i, st := range s.steps {
		var changes []Change
		if st.event.Kind == "passes" {
			changes = b.Expire(st.event.At)
		} else {
			changes = b.Apply(st.event)
		}
		if got := brief(changes); got != st.want {
			t.Errorf("step %d: got  %q,\nwant %q", i, got, st.want)
		}
		f.follow(t, changes)
		if reloads {
			b = reload(t, b)
		}
	}
}

func runStories(t *testing.T, stories []story) {
	t.Helper()
	for _, s := range stories {
		t.Run(s.name, s.run)
	}
}

func TestDeclarations(t *testing.T) {
	runStories(t, []story{
		{"seen first, declared for another", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, db, five, Declared), "Aside web ARP, Bound db Declared, ConflictBegan Inside"},
			{says(3, web, five, ARP), ""},
			{says(4, web, five, DHCP), "Aside web DHCP, ConflictChanged Inside"},
			{withdraws(5, db, five, Declared), "Unbound db Declared, Promoted web DHCP, ConflictEnded Inside"},
		}},
		{"declared, then seen elsewhere", mode(ModeObserved), []step{
			{says(1, db, five, Declared), "Bound db Declared"},
			{says(2, web, five, ARP), "Aside web ARP, ConflictBegan Inside"},
			{of(3, EventGone, web), "Dropped web ARP, ConflictEnded Inside"},
		}},
		{"of two declarations the older holds", mode(ModeObserved), []step{
			{says(2, web, five, Declared), "Bound web Declared"},
			{says(3, db, five, Declared), "Aside db Declared, ConflictBegan Declared"},
			{of(4, EventGone, web), "Unbound web Declared, Promoted db Declared, ConflictEnded Declared"},
		}},
		{"the older declaration comes late", mode(ModeObserved), []step{
			{says(2, web, five, Declared), "Bound web Declared"},
			{says(1, db, five, Declared), "Aside web Declared, Bound db Declared, ConflictBegan Declared"},
		}},
		{"by hand before by object", mode(ModeObserved), []step{
			{says(2, web, five, Declared), "Bound web Declared"},
			{says(3, db, five, Manual), "Aside web Declared, Bound db Manual, ConflictBegan Declared"},
			{withdraws(4, db, five, Manual), "Unbound db Manual, Promoted web Declared, ConflictEnded Declared"},
		}},
		{"a declaration's age is its own, not the sighting's before it", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, db, five, Declared), "Aside web ARP, Bound db Declared, ConflictBegan Inside"},
			{says(3, web, five, Declared), "Aside web Declared, ConflictChanged Declared"},
		}},
		{"two sources", mode(ModeObserved), []step{
			{source(says(1, web, five, Declared), "Multus"), "Bound web Declared"},
			{source(says(2, web, five, Declared), "IPAMClaim"), ""},
			{source(withdraws(3, web, five, Declared), "Multus"), ""},
			{source(withdraws(4, web, five, Declared), "Multus"), ""},
			{source(withdraws(5, web, five, Declared), "IPAMClaim"), "Unbound web Declared"},
		}},
		{"the age of a declaration is that of its oldest source", mode(ModeObserved), []step{
			{source(says(4, web, five, Declared), "A"), "Bound web Declared"},
			{source(says(2, web, five, Declared), "B"), "Bound web Declared"},
			{says(3, db, five, Declared), "Aside db Declared, ConflictBegan Declared"},
		}},
		{"withdrawn, and still seen", mode(ModeObserved), []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, web, five, ARP), ""},
			{says(3, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{withdraws(4, web, five, Declared), "Bound web ARP, ConflictChanged Inside"}, // it has held it since 1
		}},
		{"a withdrawal from before", mode(ModeObserved), []step{
			{says(2, web, five, Declared), "Bound web Declared"},
			{withdraws(1, web, five, Declared), ""},
			{withdraws(3, web, six, Declared), ""},
		}},
	})
}

func TestObserved(t *testing.T) {
	runStories(t, []story{
		{"the first has it until it is gone", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, db, five, DHCP), "Aside db DHCP, ConflictBegan Inside"},
			{says(3, old, five, GuestAgent), "Aside old GuestAgent, ConflictChanged Inside"},
			{withdraws(4, web, five, ARP), "Unbound web ARP, Promoted db DHCP, ConflictChanged Inside"},
			{says(5, web, five, ARP), "Aside web ARP, ConflictChanged Inside"},
			{of(6, EventGone, db), "Unbound db DHCP, Promoted old GuestAgent, ConflictChanged Inside"},
			{of(7, EventGone, db), ""},
		}},
		{"who was first tells late", mode(ModeObserved), []step{
			{says(2, web, five, ARP), "Bound web ARP"},
			{says(1, db, five, ARP), "Aside web ARP, Bound db ARP, ConflictBegan Inside"},
			{says(0, web, five, ARP), "Aside db ARP, Promoted web ARP, ConflictChanged Inside"},
		}},
		{"in another segment", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{in(says(2, db, five, ARP), someSegments[1]), "Bound db ARP"},
			{in(says(3, web, five, ARP), someSegments[1]), "Aside web ARP, ConflictBegan Inside"},
		}},
		{"better knowledge, and back", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, web, five, GuestAgent), "Bound web GuestAgent"},
			{says(3, web, five, ARP), ""},
			{says(4, web, five, Manual), "Bound web Manual"},
			{says(5, web, five, Declared), ""},
			{withdraws(6, web, five, Manual), "Bound web Declared"},
			{withdraws(7, web, five, Declared), "Bound web GuestAgent"},
			{withdraws(8, web, five, GuestAgent), "Bound web ARP"},
			{withdraws(9, web, five, GuestAgent), ""},
		}},
		{"another MAC", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{by(says(2, web, five, ARP), MAC{2, 9}), "Bound web ARP"},
			{by(says(3, web, five, ARP), MAC{}), ""},
			{by(says(1, web, five, ARP), MAC{2, 8}), ""}, // is from before
		}},
		{"link-local addresses may be in conflict, too", Network{Mode: ModeObserved, Subnets: prefixes("2001:db8::/64")}, []step{
			{says(1, web, "fe80::1", ND), "Bound web ND"},
			{says(2, db, "fe80::1", ND), "Aside db ND, ConflictBegan Inside"},
		}},
	})
}

func TestLeases(t *testing.T) {
	runStories(t, []story{
		{"over", mode(ModeObserved), []step{
			{leases(1, web, five, 10), "Bound web DHCP"},
			{says(2, web, five, ARP), ""},
			{says(3, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{passes(9), ""},
			{passes(10), "Unbound web DHCP, Promoted db ARP, ConflictEnded Inside"},
		}},
		{"renewed, and by an acknowledgement that came late", mode(ModeObserved), []step{
			{leases(1, web, five, 10), "Bound web DHCP"},
			{leases(5, web, five, 20), ""},
			{leases(3, web, five, 7), ""},
			{passes(19), ""},
			{passes(20), "Unbound web DHCP"},
		}},
		{"renewed for less", mode(ModeObserved), []step{
			{leases(1, web, five, 100), "Bound web DHCP"},
			{leases(5, web, five, 20), ""},
			{passes(20), "Unbound web DHCP"},
		}},
		{"for ever", mode(ModeObserved), []step{
			{says(1, web, five, DHCP), "Bound web DHCP"},
			{passes(1e9), ""},
		}},
		{"released, and used on", mode(ModeObserved), []step{
			{leases(1, web, five, 100), "Bound web DHCP"},
			{says(2, web, five, ARP), ""},
			{withdraws(3, web, five, DHCP), "Unbound web DHCP"},
			{says(4, web, five, ARP), "Bound web ARP"},
		}},
		{"told late, seen after", mode(ModeObserved), []step{
			{says(50, web, five, ARP), "Bound web ARP"},
			{leases(1, web, five, 10), "Bound web DHCP, Bound web ARP"}, // and over since 10; it has the address since 1
		}},
		{"over, and declared", mode(ModeObserved), []step{
			{leases(1, web, five, 10), "Bound web DHCP"},
			{says(2, web, five, Declared), "Bound web Declared"},
			{passes(11), ""},
			{withdraws(12, web, five, Declared), "Unbound web Declared"},
		}},
		{"runs while the NIC is absent", silence(ModeObserved, 5), []step{
			{leases(1, web, five, 10), "Bound web DHCP"},
			{of(2, EventAbsent, web), ""},
			{passes(10), "Unbound web DHCP"},
		}},
		{"over when an event comes", mode(ModeObserved), []step{
			{leases(1, web, five, 10), "Bound web DHCP"},
			{says(10, web, five, ARP), "Unbound web DHCP, Bound web ARP"},
		}},
		{"does not tell what is no lease when it ends", mode(ModeObserved), []step{
			{Event{Kind: EventClaim, At: second(1), NIC: web, Segment: someSegments[0], Addr: netip.MustParseAddr(five), Provenance: GuestAgent, Until: second(2)}, "Bound web GuestAgent"},
			{passes(3), ""},
		}},
	})
}

func TestSilence(t *testing.T) {
	runStories(t, []story{
		{"never, without an expiry", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{passes(1e9), ""},
		}},
		{"counts from the last", silence(ModeObserved, 10), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(8, web, five, ARP), ""},
			{says(3, web, five, ARP), ""},
			{passes(17), ""},
			{passes(18), "Unbound web ARP"},
		}},
		{"each source by itself", silence(ModeObserved, 10), []step{
			{says(1, web, five, GuestAgent), "Bound web GuestAgent"},
			{says(5, web, five, ARP), ""},
			{passes(11), "Bound web ARP"},
			{passes(15), "Unbound web ARP"},
		}},
		{"each source by itself, when that is asked late", silence(ModeObserved, 10), []step{
			{says(1, web, five, GuestAgent), "Bound web GuestAgent"},
			{says(5, web, five, ARP), ""},
			{passes(99), "Bound web ARP, Unbound web ARP"},
		}},
		{"not of what is declared", silence(ModeObserved, 10), []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, web, five, ARP), ""},
			{passes(50), ""},
			{withdraws(51, web, five, Declared), "Unbound web Declared"},
		}},
		{"does not run while the NIC is absent, and begins anew", silence(ModeObserved, 10), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{of(2, EventAbsent, web), ""},
			{passes(100), ""},
			{of(200, EventPresent, web), ""},
			{of(205, EventPresent, web), ""},
			{of(150, EventAbsent, web), ""}, // is from before
			{passes(209), ""},
			{passes(210), "Unbound web ARP"},
		}},
		{"a network learns to expire, and to wait longer", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{sets(5, silence(ModeObserved, 10)), ""},
			{sets(6, silence(ModeObserved, 20)), ""},
			{passes(20), ""},
			{passes(21), "Unbound web ARP"},
		}},
		{"it is over by a change of the network", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{sets(50, silence(ModeObserved, 10)), "Unbound web ARP"},
		}},
		{"one after the other", silence(ModeObserved, 10), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{passes(99), "Unbound web ARP, Promoted db ARP, ConflictEnded Inside, Unbound db ARP"},
		}},
		{"at one time", silence(ModeObserved, 10), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(1, db, five, ARP), "Aside web ARP, Bound db ARP, ConflictBegan Inside"}, // bank, shop/db, shop/web
			{passes(99), "Unbound db ARP, Dropped web ARP, ConflictEnded Inside"},
		}},
	})
}

func TestOutside(t *testing.T) {
	runStories(t, []story{
		{"never binds", mode(ModeObserved), []step{
			{outside(1, five, 1), ""},
			{says(2, web, five, ARP), "Bound web ARP, ConflictBegan Outside"},
			{of(3, EventGone, web), "Unbound web ARP, ConflictEnded Outside"},
		}},
		{"ends after it was last heard", mode(ModeObserved), []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{outside(2, five, 1), "ConflictBegan Outside"},
			{outside(9, five, 1), ""},
			{outside(3, five, 1), ""},
			{says(4, db, five, ARP), "Aside db ARP, ConflictChanged Inside"},
			{passes(608), ""},
			{passes(609), "ConflictChanged Inside"},
		}},
		{"two, one after the other", mode(ModeObserved), []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{outside(2, five, 1), "ConflictBegan Outside"},
			{outside(3, five, 2), "ConflictChanged Outside"},
			{passes(1e6), "ConflictChanged Outside, ConflictEnded Outside"},
		}},
		{"is nobody else than the NIC", mode(ModeObserved), []step{
			{by(outside(1, five, 1), macOf(web)), ""},
			{says(2, web, five, ARP), "Bound web ARP"},
			{by(says(3, web, five, ARP), MAC{2, 9}), "Bound web ARP, ConflictBegan Outside"},
		}},
		{"is in conflict with nobody who waits", mode(ModeApproved), []step{
			{outside(1, five, 1), ""},
			{says(2, web, five, ARP), "Waiting web ARP"},
			{decides(3, EventApprove, web, five), "Bound web ARP, ConflictBegan Outside"},
			{passes(601), "ConflictEnded Outside"},
		}},
		{"heard from earlier", mode(ModeObserved), []step{
			{says(5, web, five, ARP), "Bound web ARP"},
			{outside(9, five, 1), "ConflictBegan Outside"},
			{outside(7, five, 1), "ConflictChanged Outside"},
			{outside(8, five, 2), "ConflictChanged Outside"},
		}},
	})
}
