package learn

import (
	"net/netip"
	"testing"
	"time"
)

// TestDecidedElsewhere: what was decided on another node is known here, although the NIC does not claim the address; of two decisions
// the later counts, whichever is heard of first, and no more are kept than of this node's.
func TestDecidedElsewhere(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	b, err := New(Settings{Networks: map[string]Network{"lan": {Mode: ModeApproved}}})
	if err != nil {
		t.Fatal(err)
	}
	id, at := NIC{Namespace: "shop", Name: "till", UID: "u", Network: "lan"}, Segment{Trunk: "t", VLAN: 100}
	addr := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }
	decide := func(kind EventKind, n int, when time.Time) []Change {
		return b.Apply(Event{Kind: kind, At: when, NIC: id, Segment: at, Addr: addr(n), By: "ann", Elsewhere: true})
	}
	claim := func(n int) string {
		now = now.Add(time.Second)
		b.Apply(Event{Kind: EventClaim, At: now, NIC: id, Segment: at, Addr: addr(n), Provenance: ARP})
		for _, c := range b.Claims(id) {
			if c.Addr == addr(n) {
				return string(c.Role)
			}
		}
		return ""
	}
	for _, c := range append(append(decide(EventDeny, 1, now), decide(EventApprove, 2, now)...), decide(EventApprove, 1, now.Add(-time.Minute))...) {
		t.Errorf("changed: %v", c)
	}
	if got := b.Decisions(id); len(got) != 2 || !got[0].Denied || got[1].Denied || got[1].By != "ann" || !got[1].At.Equal(now) || got[1].Segment != at || got[1].Addr != addr(2) {
		t.Errorf("decisions are %+v", got)
	}
	if one, two, three := claim(1), claim(2), claim(3); one != "" || two != string(Holder) || three != string(Pending) {
		t.Errorf("the denied one is %q, the approved one %q, the other %q", one, two, three)
	}
	decide(EventApprove, 1, now.Add(time.Minute))
	if one := claim(1); one != string(Holder) {
		t.Errorf("approved later it is %q", one)
	}
	if got := b.Decisions(id); len(got) != 0 {
		t.Errorf("of what is claimed: %+v", got)
	}
	for n := range 100 {
		decide(EventDeny, 100+n, now.Add(time.Duration(n)*time.Second))
	}
	if got := b.Decisions(id); len(got) != maxIdle || got[0].Addr != addr(136) {
		t.Errorf("%d are kept, the first %v", len(got), got[0].Addr)
	}
	again, err := Load(b.Dump())
	if err != nil || len(again.Decisions(id)) != maxIdle {
		t.Errorf("written down: %v", err)
	}
	if got := b.Apply(Event{Kind: EventDeny, At: now, NIC: id, Addr: addr(9), By: "ann", Elsewhere: true}); len(got) != 1 || got[0].Reason != ReasonMalformed {
		t.Errorf("without a segment: %v", got)
	}
}
