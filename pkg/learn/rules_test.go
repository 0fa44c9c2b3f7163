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

func TestModeDeclared(t *testing.T) {
	runStories(t, []story{
		{"takes nothing that is observed", mode(ModeDeclared), []step{
			{says(1, web, five, ARP), "Refused web DeclaredOnly"},
			{says(2, web, five, ARP), ""},
			{leases(3, web, six, 100), "Refused web DeclaredOnly"},
			{says(4, web, five, Declared), "Bound web Declared"},
			{says(5, web, five, ARP), ""},
			{withdraws(6, web, five, Declared), "Unbound web Declared"}, // and that sightings are refused is told
		}},
		{"but sees who takes what is declared", mode(ModeDeclared), []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{withdraws(3, web, five, Declared), "Unbound web Declared, Refused db DeclaredOnly, Dropped db ARP, ConflictEnded Inside"},
		}},
		{"Observed becomes Declared", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, web, six, Declared), "Bound web Declared"},
			{sets(3, mode(ModeDeclared)), "Refused web DeclaredOnly, Unbound web ARP"},
			{sets(4, mode(ModeObserved)), ""},
			{says(5, web, five, ARP), "Bound web ARP"},
		}},
		{"Declared becomes Observed", mode(ModeDeclared), []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{sets(3, mode(ModeObserved)), ""},
			{withdraws(4, web, five, Declared), "Unbound web Declared, Promoted db ARP, ConflictEnded Inside"},
		}},
	})
}

func TestModeApproved(t *testing.T) {
	change := mode(ModeApproved)
	runStories(t, []story{
		{"nobody claims it", change, []step{
			{decides(1, EventApprove, web, five), "Refused web NobodyClaims"},
			{decides(2, EventDeny, web, five), "Refused web NobodyClaims"},
			{decides(3, EventApprove, web, five), "Refused web NobodyClaims"}, // a person is always answered
			{says(4, web, five, ARP), "Waiting web ARP"},
			{in(decides(5, EventApprove, web, five), someSegments[1]), "Refused web NobodyClaims"},
			{decides(6, EventApprove, db, five), "Refused db NobodyClaims"},
			{toldBy(decides(7, EventDeny, web, six), ARP), "Refused web NobodyClaims"},
			{toldBy(decides(8, EventDeny, web, six), ARP), "Refused web NobodyClaims"},
		}},
		{"waits", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{says(2, web, five, ARP), ""},
			{leases(3, web, five, 9), "Waiting web DHCP"},
			{in(decides(4, EventApprove, web, five), someSegments[0]), "Bound web DHCP"},
			{passes(9), "Unbound web DHCP"},
			{says(10, web, five, ARP), "Bound web ARP"}, // still approved
		}},
		{"in all segments at once", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{in(says(2, web, five, ARP), someSegments[1]), "Waiting web ARP"},
			{decides(3, EventApprove, web, five), "Bound web ARP, Bound web ARP"},
		}},
		{"counts from the approval", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{says(2, db, five, ARP), "Waiting db ARP"},
			{decides(3, EventApprove, db, five), "Bound db ARP, ConflictBegan Inside"},
			{decides(4, EventApprove, web, five), "Aside web ARP, ConflictChanged Inside"},
			{decides(5, EventDeny, db, five), "Unbound db ARP, Promoted web ARP, ConflictEnded Inside"},
		}},
		{"denied", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{decides(2, EventDeny, web, five), "Dropped web ARP"},
			{says(3, web, five, DHCP), "Refused web Denied"},
			{says(4, web, five, ARP), ""},
			{decides(5, EventApprove, web, five), ""},
			{decides(4, EventDeny, web, five), ""}, // was before
			{says(6, web, five, ARP), "Bound web ARP"},
		}},
		{"denied, and declared", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{decides(2, EventDeny, web, five), "Dropped web ARP"},
			{says(3, web, five, Declared), "Bound web Declared"},
			{decides(4, EventDeny, web, five), "Refused web IsDeclared"},
			{says(5, web, five, ARP), ""},
			{withdraws(6, web, five, Declared), "Waiting web ARP"},
		}},
		{"declared needs no approval", change, []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, db, five, ARP), "Waiting db ARP, ConflictBegan Inside"},
		}},
		{"Observed becomes Approved", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{sets(3, change), "Waiting db ARP, Bound web ARP, ConflictChanged Inside"},
			{says(4, web, six, ARP), "Waiting web ARP"},
			{of(5, EventGone, web), "Dropped web ARP, Unbound web ARP, ConflictEnded Inside"},
		}},
		{"Approved becomes Observed", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{says(2, db, five, ARP), "Waiting db ARP"},
			{says(1, db, six, ARP), "Waiting db ARP"},
			{says(2, web, six, ARP), "Waiting web ARP"},
			{decides(3, EventApprove, db, five), "Bound db ARP, ConflictBegan Inside"},
			{sets(4, mode(ModeObserved)), "Aside web ARP, ConflictChanged Inside, Aside web ARP, Bound db ARP, ConflictBegan Inside"},
		}},
		{"denied while Observed", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{decides(2, EventDeny, web, five), "Unbound web ARP"},
			{says(3, web, five, ARP), "Refused web Denied"},
			{of(4, EventGone, web), ""},
			{says(5, web, five, ARP), "Bound web ARP"},
		}},
		{"what waits again is as young as its next approval", change, []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, web, five, ARP), ""},
			{withdraws(3, web, five, Declared), "Waiting web ARP"},
			{says(4, db, five, ARP), "Waiting db ARP"},
			{decides(5, EventApprove, db, five), "Bound db ARP, ConflictBegan Inside"},
			{decides(6, EventApprove, web, five), "Aside web ARP, ConflictChanged Inside"},
		}},
		{"an older sighting does not make an approval older", change, []step{
			{says(5, web, five, ARP), "Waiting web ARP"},
			{says(6, db, five, ARP), "Waiting db ARP"},
			{decides(8, EventApprove, db, five), "Bound db ARP, ConflictBegan Inside"},
			{decides(10, EventApprove, web, five), "Aside web ARP, ConflictChanged Inside"},
			{says(3, web, five, ARP), "Aside web ARP, ConflictChanged Inside"},
		}},
		{"those who waited for the same, by age", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{says(2, db, five, ARP), "Waiting db ARP"},
			{sets(4, mode(ModeObserved)), "Aside db ARP, Bound web ARP, ConflictBegan Inside"},
		}},
		{"an approval survives what makes its address unfit, but binds nothing", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{decides(2, EventApprove, web, five), "Bound web ARP"},
			{sets(3, Network{Mode: ModeApproved, Gateways: addrs(five)}), "Refused web Gateway, Unbound web ARP"},
			{says(4, web, five, Declared), "Refused web Gateway"},
			{source(says(5, web, five, Declared), "Multus"), "Refused web Gateway"},
			{says(6, web, five, Declared), ""},
			{withdraws(7, web, five, Declared), ""},
			{source(withdraws(8, web, five, Declared), "Multus"), ""},
			{sets(9, change), ""},
			{says(10, web, five, ARP), "Bound web ARP"},
		}},
		{"a NIC of another network", change, []step{
			{says(1, old, five, ARP), "Bound old ARP"},
			{says(2, web, five, ARP), "Waiting web ARP, ConflictBegan Inside"},
		}},
	})
}

func TestShared(t *testing.T) {
	shared := Network{Mode: ModeObserved, Shared: prefixes("10.0.0.96/28")}
	short := shared
	short.Expiry = 10 * time.Second
	runStories(t, []story{
		{"the last has it", shared, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{says(3, web, vip, GuestAgent), "Aside web GuestAgent"}, // its list is no announcement
			{says(4, db, vip, ARP), ""},
			{says(5, web, vip, ARP), "Aside db ARP, Promoted web GuestAgent"},
			{outside(6, vip, 1), ""},
		}},
		{"who had it is forgotten after an hour", shared, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{passes(3600), ""},
			{passes(3601), "Dropped web ARP"},
			{passes(1e9), ""},
		}},
		{"or with the network's expiry", short, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{passes(11), "Dropped web ARP"},
			{passes(12), "Unbound db ARP"},
		}},
		{"declarations first", shared, []step{
			{says(1, web, vip, Declared), "Bound web Declared"},
			{says(2, db, vip, ARP), "Aside db ARP"},
			{says(3, old, vip, ARP), "Aside old ARP, ConflictBegan Inside"}, // b does not share it
		}},
		{"declared for both", shared, []step{
			{says(1, web, vip, Declared), "Bound web Declared"},
			{says(2, db, vip, Declared), "Aside db Declared"},
			{says(3, db, vip, ARP), "Aside web Declared, Promoted db Declared"},
			{says(4, web, vip, ARP), "Aside db Declared, Promoted web Declared"},
		}},
		{"whoever was denied it has no say", shared, []step{
			{says(1, old, vip, ARP), "Bound old ARP"},
			{decides(2, EventDeny, old, vip), "Unbound old ARP"},
			{says(3, web, vip, ARP), "Bound web ARP"},
			{says(4, db, vip, ARP), "Aside web ARP, Bound db ARP"},
		}},
		{"no more", shared, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{sets(3, mode(ModeObserved)), "Aside db ARP, Promoted web ARP, ConflictBegan Inside"},
			{passes(1e6), ""},
			{sets(1e6, shared), "Aside web ARP, Promoted db ARP, ConflictEnded Inside, Dropped web ARP"},
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

func TestLowerLimit(t *testing.T) {
	runStories(t, []story{
		{"takes nothing away, nor new evidence for what is held", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, web, six, ARP), "Bound web ARP"},
			{sets(3, Network{Mode: ModeObserved, Limit: 1}), ""},
			{says(4, web, six, GuestAgent), "Bound web GuestAgent"},
			{withdraws(5, web, six, GuestAgent), "Bound web ARP"},
			{says(6, web, vip, ARP), "Refused web Limit"},
			{withdraws(7, web, six, ARP), "Unbound web ARP"},
			{says(8, web, six, ARP), "Refused web Limit"},
			{withdraws(9, web, five, ARP), "Unbound web ARP"},
			{says(10, web, six, ARP), "Bound web ARP"},
		}},
		{"room for one", Network{Mode: ModeObserved, Limit: 1}, []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, web, five, ARP), ""},
			{withdraws(3, web, five, Declared), "Bound web ARP"},
			{says(4, web, six, Declared), "Bound web Declared"},
			{says(5, web, six, ARP), ""},
			{withdraws(6, web, six, Declared), "Refused web Limit, Unbound web Declared"},
		}},
	})
}

func TestNetworkChanges(t *testing.T) {
	narrow := Network{Mode: ModeObserved, Subnets: prefixes("10.0.0.0/24"), Gateways: addrs(six)}
	runStories(t, []story{
		{"unfit becomes fit", narrow, []step{
			{says(1, web, six, Declared), "Refused web Gateway"},
			{says(2, web, six, Declared), ""},
			{says(3, db, six, ARP), "Refused db Gateway"},
			{sets(4, mode(ModeObserved)), "Bound web Declared"},
			{sets(5, narrow), "Refused web Gateway, Unbound web Declared"},
			{withdraws(6, web, six, Declared), ""},
		}},
		{"what was seen must be heard again", mode(ModeObserved), []step{
			{says(1, web, six, ARP), "Bound web ARP"},
			{sets(2, narrow), "Refused web Gateway, Unbound web ARP"},
			{sets(3, mode(ModeObserved)), ""},
			{says(4, web, six, ARP), "Bound web ARP"},
		}},
		{"an unfit declaration is in nobody's way", narrow, []step{
			{says(1, web, six, Declared), "Refused web Gateway"},
			{says(2, old, six, ARP), "Bound old ARP"},
		}},
		{"is gone, and comes back", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, web, six, Declared), "Bound web Declared"},
			{Event{Kind: EventNetworkGone, At: second(3), Network: "a"}, "Refused web NetworkUnknown, Unbound web ARP, Refused web NetworkUnknown, Unbound web Declared"},
			{says(4, db, five, ARP), "Refused db NetworkUnknown"},
			{sets(5, mode(ModeObserved)), "Bound web Declared"},
		}},
		{"a bad one is not taken", mode(ModeObserved), []step{
			{sets(1, Network{Mode: "Lax"}), "Refused  Malformed"},
			{says(2, web, five, ARP), "Bound web ARP"},
		}},
	})
}
