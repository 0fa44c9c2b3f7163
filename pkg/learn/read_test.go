package learn

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// disputed is a book in which there is something of everything.
func disputed(t *testing.T) *Book {
	t.Helper()
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeApproved), "b": mode(ModeObserved)}})
	for _, e := range []Event{
		says(1, web, five, ARP), says(2, db, five, ARP), says(3, old, five, ARP), says(4, web, six, ARP),
		decides(5, EventApprove, web, five), outside(6, five, 1), says(7, web, five, Declared),
		{Kind: EventClaim, At: second(8), NIC: web, Segment: someSegments[0], Addr: netip.MustParseAddr(five), Provenance: ARP, Place: "n2"},
		says(9, old, six, ARP),
	} {
		b.Apply(e)
	}
	return b
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestReadOuts(t *testing.T) {
	b := disputed(t)
	w := b.Who(someSegments[0], netip.MustParseAddr(five))
	seen := Evidence{Provenance: ARP, MAC: macOf(web), Place: "n2", Since: second(1), Seen: second(8)}
	want := Answer{
		Holder: &Claim{
			Segment: someSegments[0], Addr: netip.MustParseAddr(five), NIC: web, Role: Holder, MAC: macOf(web), Provenance: Declared,
			Since: second(1), Approved: Decision{By: "ann", At: second(5)}, Seen: second(8), Place: "n2",
			Evidence: []Evidence{{Provenance: Declared, MAC: macOf(web), Place: "n1", Since: second(7), Seen: second(7)}, seen},
		},
		Waiting: []Claim{{
			Segment: someSegments[0], Addr: netip.MustParseAddr(five), NIC: db, Role: Pending, MAC: macOf(db), Provenance: ARP, Since: second(2),
			Seen: second(2), Place: "n1", Evidence: []Evidence{{Provenance: ARP, MAC: macOf(db), Place: "n1", Since: second(2), Seen: second(2)}},
		}},
		Aside: []Claim{{
			Segment: someSegments[0], Addr: netip.MustParseAddr(five), NIC: old, Role: Beside, MAC: macOf(old), Provenance: ARP, Since: second(3),
			Seen: second(3), Place: "n1", Evidence: []Evidence{{Provenance: ARP, MAC: macOf(old), Place: "n1", Since: second(3), Seen: second(3)}},
		}},
		Outside: []Outside{{MAC: MAC{2, 0, 0, 0, 9, 1}, Place: "uplink n2", Since: second(6), Seen: second(6)}},
	}
	if d := cmp.Diff(want, w, sameAddr); d != "" {
		t.Errorf("who (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]Claim{*want.Holder}, b.Bindings(web), sameAddr); d != "" {
		t.Errorf("bindings (-want +got):\n%s", d)
	}
	var waiting []string
	for _, c := range b.Waiting() {
		waiting = append(waiting, c.NIC.Name+" "+c.Addr.String())
	}
	if d := cmp.Diff([]string{"db 10.0.0.5", "web 10.0.0.6"}, waiting); d != "" {
		t.Errorf("waiting (-want +got):\n%s", d)
	}
	if d := cmp.Diff(Answer{}, b.Who(someSegments[1], netip.MustParseAddr(five)), sameAddr); d != "" {
		t.Errorf("who has what nobody has:\n%s", d)
	}
	if b.Bindings(NIC{}) != nil || b.Unfit(NIC{}) != nil {
		t.Error("nobody has something")
	}
	w.Holder.Evidence[0].MAC = MAC{9}
	b.Dump().NICs[1].Claims[0].Evidence[0].MAC = MAC{9}
	if d := cmp.Diff([]Claim{*want.Holder}, b.Bindings(web), sameAddr); d != "" {
		t.Errorf("a read-out shares what it read (-want +got):\n%s", d)
	}
}

func TestConflicts(t *testing.T) {
	b := disputed(t)
	conflicts := []Conflict{{
		Segment: someSegments[0], Addr: netip.MustParseAddr(five), Kind: ConflictInside, Since: second(2),
		Claimants: []Claimant{
			{NIC: web, Role: Holder, MAC: macOf(web), Provenance: Declared, Since: second(1), Seen: second(8), Place: "n2"},
			{NIC: db, Role: Pending, MAC: macOf(db), Provenance: ARP, Since: second(2), Seen: second(2), Place: "n1"},
			{NIC: old, Role: Beside, MAC: macOf(old), Provenance: ARP, Since: second(3), Seen: second(3), Place: "n1"},
			{Outside: true, MAC: MAC{2, 0, 0, 0, 9, 1}, Since: second(6), Seen: second(6), Place: "uplink n2"},
		},
	}, {
		Segment: someSegments[0], Addr: netip.MustParseAddr(six), Kind: ConflictInside, Since: second(9),
		Claimants: []Claimant{
			{NIC: old, Role: Holder, MAC: macOf(old), Provenance: ARP, Since: second(9), Seen: second(9), Place: "n1"},
			{NIC: web, Role: Pending, MAC: macOf(web), Provenance: ARP, Since: second(4), Seen: second(4), Place: "n1"},
		},
	}}
	if d := cmp.Diff(conflicts, b.Conflicts(), sameAddr); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
	text := "10.0.0.6 in fabric/100 is claimed by bank/old on b (02:00:00:00:00:04, at n1, since 2026-03-01T12:00:09Z) and by shop/web on a (02:00:00:00:00:01, at n1, since 2026-03-01T12:00:04Z)"
	if got := conflicts[1].String(); got != text {
		t.Errorf("got  %s\nwant %s", got, text)
	}
}

// Who is aside is in the order in which they would be promoted; who never would be comes last.
func TestAsideInOrder(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeObserved), "b": mode(ModeDeclared)}})
	for _, e := range []Event{
		says(1, db, five, Declared), says(2, old, five, ARP), says(3, web, five, ARP), says(4, someNICs[2], five, ARP),
		{Kind: EventClaim, At: second(9), NIC: NIC{Name: "x", Network: "a"}, Segment: someSegments[0], Addr: netip.MustParseAddr(five), Provenance: Declared},
	} {
		b.Apply(e)
	}
	var order []string
	for _, c := range b.Who(someSegments[0], netip.MustParseAddr(five)).Aside {
		order = append(order, c.NIC.UID)
	}
	if d := cmp.Diff([]string{"", "1", "3", "4"}, order); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestTexts(t *testing.T) {
	for p := Provenance(0); p <= Manual; p++ {
		var back Provenance
		text, err := p.MarshalText()
		if err != nil || back.UnmarshalText(text) != nil || back != p {
			t.Errorf("%v became %q, %v", p, text, back)
		}
	}
	if _, err := json.Marshal(Provenance(7)); err == nil || Provenance(7).String() != "Provenance(7)" {
		t.Error("there is a seventh provenance")
	}
	var p Provenance
	if err := json.Unmarshal([]byte(`"Rumour"`), &p); err == nil {
		t.Error("rumours are known")
	}
	for text, ok := range map[string]bool{"": true, "02:00:00:00:00:01": true, "x": false, "02:00:00:00:00:00:00:01": false} {
		m := MAC{9}
		if err := m.UnmarshalText([]byte(text)); (err == nil) != ok || ok && m.String() != text {
			t.Errorf("%q became %v, %v", text, m, err)
		}
	}
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeObserved), "": mode(ModeApproved)}})
	plain := NIC{Namespace: "shop", Name: "pod", UID: "9"}
	var got []string
	for _, e := range []Event{
		says(1, web, five, ARP), says(2, plain, five, ARP), says(3, db, five, ARP), outside(4, five, 1),
		of(5, EventGone, web), of(6, EventGone, plain), of(604, EventGone, NIC{Name: "x"}), of(605, EventGone, db),
	} {
		for _, c := range b.Apply(e) {
			got = append(got, c.String())
		}
	}
	const claimed = "10.0.0.5 in fabric/100 is claimed by "
	const first = "shop/web on a (02:00:00:00:00:01, at n1, since 2026-03-01T12:00:01Z)"
	const second = " and by shop/pod (02:00:00:00:00:09, at n1, since 2026-03-01T12:00:02Z)"
	const third = " and by shop/db on a (02:00:00:00:00:02, at n1, since 2026-03-01T12:00:03Z)"
	const fourth = " and by somebody outside the cluster (02:00:00:00:09:01, at uplink n2, since 2026-03-01T12:00:04Z)"
	want := []string{
		"10.0.0.5 in fabric/100 is held by shop/web on a (ARP 02:00:00:00:00:01)",
		"10.0.0.5 in fabric/100 waits to be approved for shop/pod (ARP 02:00:00:00:00:09)",
		claimed + first + second,
		claimed + "shop/db on a (ARP 02:00:00:00:00:02), too",
		claimed + first + second + third,
		claimed + first + second + third + fourth,
		"10.0.0.5 in fabric/100 is held by shop/web on a no more",
		"10.0.0.5 in fabric/100 is held by shop/db on a (ARP 02:00:00:00:00:02)",
		claimed + third[len(" and by "):] + second + fourth,
		claimed + "shop/pod no more",
		claimed + third[len(" and by "):] + fourth,
		"10.0.0.5 in fabric/100 is in conflict no more",
		"10.0.0.5 in fabric/100 is held by shop/db on a no more",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestLoadRefuses(t *testing.T) {
	at := second(1)
	good := func() State {
		b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Gateways: addrs(six)}}})
		b.Apply(says(1, web, five, ARP))
		b.Apply(outside(2, five, 1))
		return b.Dump()
	}
	for want, spoil := range map[string]func(*State){
		"mode \"\"":                                 func(s *State) { s.Settings.Networks["a"] = Network{} },
		"shop/web on a comes":                       func(s *State) { s.NICs = append(s.NICs, s.NICs[0]) },
		"10.0.0.5 in fabric/100: comes twice":       func(s *State) { s.NICs[0].Claims = append(s.NICs[0].Claims, s.NICs[0].Claims[0]) },
		"neither evidence nor a decision":           func(s *State) { s.NICs[0].Claims[0].Evidence = nil },
		"no provenance":                             func(s *State) { s.NICs[0].Claims[0].Evidence[0].Provenance = 9 },
		"no time":                                   func(s *State) { s.NICs[0].Claims[0].Evidence[0].Since = time.Time{} },
		"evidence by ARP":                           func(s *State) { c := &s.NICs[0].Claims[0]; c.Evidence = append(c.Evidence, c.Evidence[0]) },
		"10.0.0.6 in fabric/100: by ARP: it is a g": func(s *State) { s.NICs[0].Claims[0].Addr = netip.MustParseAddr(six) },
		"not known":                                 func(s *State) { s.Settings.Networks = nil },
		"outside, 10.0.0.5 in fabric/100: no MAC":   func(s *State) { s.Outside[0].MAC = MAC{} },
		"VLAN 0": func(s *State) { s.Outside[0].Segment.VLAN = 0 },
		"no address": func(s *State) {
			s.NICs[0].Claims = []ClaimState{{Decision: Decision{At: at}, Segment: someSegments[0], Evidence: []Evidence{{Provenance: ARP, Since: at}}}}
		},
	} {
		s := good()
		spoil(&s)
		if _, err := Load(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if _, err := Load(good()); err != nil {
		t.Error(err)
	}
}
