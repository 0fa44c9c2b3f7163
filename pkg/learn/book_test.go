package learn

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

func TestUnfit(t *testing.T) {
	subnets := &Network{
		Mode:     ModeObserved,
		Subnets:  prefixes("10.0.0.0/24", "10.1.0.0/31", "10.2.0.7/32", "2001:db8::/64", "2001:db8:1::/127", "2001:db8:2::5/128"),
		Gateways: addrs("10.0.0.1", "fe80::1"),
	}
	anywhere := &Network{Mode: ModeObserved}
	for addr, want := range map[string]struct{ inSubnets, anywhere Reason }{
		"0.0.0.0":          {ReasonUnspecified, ReasonUnspecified},
		"::":               {ReasonUnspecified, ReasonUnspecified},
		"224.0.0.1":        {ReasonMulticast, ReasonMulticast},
		"ff02::1":          {ReasonMulticast, ReasonMulticast},
		"127.0.0.1":        {ReasonLoopback, ReasonLoopback},
		"::1":              {ReasonLoopback, ReasonLoopback},
		"255.255.255.255":  {ReasonBroadcast, ReasonBroadcast},
		"::ffff:10.0.0.5":  {ReasonMapped, ReasonMapped},
		"::ffff:224.0.0.1": {ReasonMapped, ReasonMapped},
		"fe80::5%eth0":     {ReasonZone, ReasonZone},
		"10.0.0.0":         {ReasonNetworkOwn, ""},
		"10.0.0.255":       {ReasonBroadcast, ""},
		"10.0.0.1":         {ReasonGateway, ""},
		"fe80::1":          {ReasonGateway, ""},
		"2001:db8::":       {ReasonNetworkOwn, ""},
		"10.0.1.5":         {ReasonOutside, ""},
		"169.254.1.1":      {ReasonOutside, ""}, // link-local of IPv4 is no NIC's by itself
		"2001:db8:9::1":    {ReasonOutside, ""},
		// What is fit.
		"10.0.0.2":                         {},
		"10.0.0.254":                       {},
		"10.1.0.0":                         {},
		"10.1.0.1":                         {},
		"10.2.0.7":                         {},
		"2001:db8::1":                      {},
		"2001:db8::ffff:ffff:0:0":          {},
		"2001:db8:0:0:ffff:ffff:ffff:ffff": {}, // IPv6 has no broadcast
		"2001:db8:1::":                     {},
		"2001:db8:1::1":                    {},
		"2001:db8:2::5":                    {},
		"fe80::2":                          {},
	} {
		a := netip.MustParseAddr(addr)
		if got := subnets.unfit(a); got != want.inSubnets {
			t.Errorf("%s with subnets: %q, want %q", addr, got, want.inSubnets)
		}
		if got := anywhere.unfit(a); got != want.anywhere {
			t.Errorf("%s without: %q, want %q", addr, got, want.anywhere)
		}
		none := want.anywhere
		if none == "" {
			none = ReasonNoNetwork
		}
		if got := (*Network)(nil).unfit(a); got != none {
			t.Errorf("%s of no network: %q, want %q", addr, got, none)
		}
		if r := want.inSubnets; r != "" && r.Text() == "" {
			t.Errorf("%q has no words", r)
		}
	}
}

// What is unfit is refused however it became known.
func TestUnfitByAll(t *testing.T) {
	for p := ARP; p <= Manual; p++ {
		addr := "10.0.0.1"
		if p == ND {
			addr = "2001:db8::1"
		}
		b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Gateways: addrs(addr)}}})
		changes := b.Apply(says(1, web, addr, p))
		if brief(changes) != "Refused web Gateway" {
			t.Errorf("%v: %v", p, changes)
			continue
		}
		want := addr + " in fabric/100: refused for shop/web on a: it is a gateway of the network, and no NIC's to have: want another address"
		if got := changes[0].String(); got != want {
			t.Errorf("%v: got  %s\nwant %s", p, got, want)
		}
		unfit := b.Unfit(web)
		if p.Firm() != (len(unfit) == 1 && unfit[0].Reason == ReasonGateway && unfit[0].Provenance == p) {
			t.Errorf("%v: unfit are %v", p, unfit)
		}
		if len(b.Bindings(web)) > 0 {
			t.Errorf("%v binds", p)
		}
	}
}

func TestBadSettings(t *testing.T) {
	for want, n := range map[string]Network{
		`mode "": want Observed, Declared or Approved`:                                         {},
		"limit 129: want 1 to 128, or 0 for 16":                                                {Mode: ModeObserved, Limit: 129},
		"limit -1: want 1 to 128, or 0 for 16":                                                 {Mode: ModeObserved, Limit: -1},
		"expiry -1s: want 0 for never, or more":                                                {Mode: ModeObserved, Expiry: -time.Second},
		"subnets[1] 10.0.0.1/24: want a prefix without bits behind its length, as 10.0.0.0/24": {Mode: ModeObserved, Subnets: prefixes("10.0.0.0/24", "10.0.0.1/24")},
		"shared[0] invalid Prefix: want a prefix without bits behind its length":               {Mode: ModeObserved, Shared: []netip.Prefix{{}}},
		"subnets[0] ::ffff:10.0.0.0/120: want a prefix":                                        {Mode: ModeObserved, Subnets: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 120)}},
		"gateways[0] invalid IP: want an address, as 10.0.0.1":                                 {Mode: ModeObserved, Gateways: []netip.Addr{{}}},
		"gateways[0] fe80::1%eth0: want an address":                                            {Mode: ModeObserved, Gateways: addrs("fe80::1%eth0")},
		"gateways[0] ::ffff:10.0.0.1: want an address":                                         {Mode: ModeObserved, Gateways: addrs("::ffff:10.0.0.1")},
	} {
		_, err := New(Settings{Networks: map[string]Network{"a": n}})
		if err == nil || !strings.Contains(err.Error(), `network "a": `+want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if _, err := Replay(Settings{Networks: map[string]Network{"a": n}}, nil); err == nil {
			t.Errorf("replayed, want %s", want)
		}
	}
	if _, err := New(Settings{Outside: -1}); err == nil {
		t.Error("claims from outside may end before they begin")
	}
	for _, n := range []Network{{Mode: ModeObserved, Limit: MaxLimit}, {Mode: ModeApproved, Expiry: 1}} {
		if err := n.Validate(); err != nil {
			t.Error(err)
		}
	}
}

// A book keeps its own settings.
func TestSettingsAreCopied(t *testing.T) {
	n := Network{Mode: ModeObserved, Gateways: addrs(five)}
	s := Settings{Networks: map[string]Network{"a": n}}
	b := newBook(t, s)
	b.Dump().Settings.Networks["a"].Gateways[0] = netip.MustParseAddr(six)
	n.Gateways[0] = netip.MustParseAddr(six)
	if got := brief(b.Apply(says(1, web, five, ARP))); got != "Refused web Gateway" {
		t.Error(got)
	}
}

func TestMalformed(t *testing.T) {
	good := says(1, web, five, ARP)
	with := func(f func(*Event)) Event { e := good; f(&e); return e }
	for want, e := range map[string]Event{
		"no time":                             with(func(e *Event) { e.At = time.Time{} }),
		`kind "" is not known`:                with(func(e *Event) { e.Kind = "" }),
		"no NIC":                              with(func(e *Event) { e.NIC = NIC{Namespace: "shop", Network: "a"} }),
		"no address":                          with(func(e *Event) { e.Addr = netip.Addr{} }),
		"VLAN 0 is out of range":              with(func(e *Event) { e.Segment.VLAN = 0 }),
		"VLAN 4095 is out of range":           with(func(e *Event) { e.Segment.VLAN = vlan.Max + 1; e.Kind = EventWithdraw }),
		"no provenance":                       with(func(e *Event) { e.Provenance = 0 }),
		"ARP does not tell of 2001:db8::1":    with(func(e *Event) { e.Addr = netip.MustParseAddr("2001:db8::1") }),
		"ND does not tell of 10.0.0.5":        with(func(e *Event) { e.Provenance = ND }),
		"no MAC":                              {Kind: EventOutside, At: good.At, Segment: good.Segment, Addr: good.Addr},
		"no address\nVLAN 0":                  {Kind: EventOutside, At: good.At, MAC: MAC{2}},
		"nobody who decides":                  {Kind: EventApprove, At: good.At, NIC: web, Addr: good.Addr},
		"VLAN 5000 is out of range":           {Kind: EventDeny, At: good.At, NIC: web, Addr: good.Addr, By: "ann", Segment: Segment{VLAN: 5000}},
		"no NIC\nno address":                  {Kind: EventDeny, At: good.At, By: "ann"},
		"event that says too little: no NIC":  {Kind: EventGone, At: good.At},
		"says too little: no settings":        {Kind: EventNetwork, At: good.At, Network: "a"},
		`says too little: mode "x": want Obs`: {Kind: EventNetwork, At: good.At, Network: "a", Settings: &Network{Mode: "x"}},
	} {
		b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeObserved)}})
		before := dumpText(t, b)
		got := b.Apply(e)
		if len(got) != 1 || got[0].Reason != ReasonMalformed || !strings.Contains(got[0].String(), want) {
			t.Errorf("got  %v\nwant %s", got, want)
		}
		if after := dumpText(t, b); after != before {
			t.Errorf("%s: %s", want, cmp.Diff(before, after))
		}
	}
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeObserved)}})
	b.Apply(says(1, web, six, ARP))
	bad := says(2, web, five, ND)
	if got := brief(b.Apply(bad)) + brief(b.Apply(bad)); got != "Refused web Malformed" {
		t.Errorf("got %q", got)
	}
	if n := b.Refused(web).Counts[ReasonMalformed]; n != 2 {
		t.Errorf("counted %d", n)
	}
	if got := b.Apply(says(3, web, "::ffff:10.0.0.5", ARP)); brief(got) != "Refused web MappedIPv4" {
		t.Errorf("got %v", got)
	}
}

func TestRefusals(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeDeclared)}})
	if got := b.Refused(web); len(got.Counts)+len(got.Last) > 0 {
		t.Errorf("of nobody: %v", got)
	}
	told := 0
	for i := range 100 {
		told += len(b.Apply(says(1+i/10, web, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}).String(), ARP)))
	}
	r := b.Refused(web)
	if told != maxRefusals || r.Counts[ReasonDeclaredOnly] != 100 || len(r.Last) != maxRefusals {
		t.Errorf("told %d, counted %v, kept %d", told, r.Counts, len(r.Last))
	}
	for i, l := range r.Last {
		if want := netip.AddrFrom4([4]byte{10, 0, 0, byte(93 + i)}); l.Addr != want || l.Count != 1 || l.At != second(10) || l.MAC != macOf(web) || l.Provenance != ARP {
			t.Errorf("last is %v, want %v", l, want)
		}
	}
	for want, e := range map[string]Event{
		"":                         says(11, web, "10.0.0.95", ARP), // is among the last
		"Refused web DeclaredOnly": says(80, web, five, ARP),        // the flood is over
		"Refused web Loopback":     says(11, web, "127.0.0.1", ARP),
	} {
		c := reload(t, b)
		if got := brief(c.Apply(e)); got != want {
			t.Errorf("%v: got %q, want %q", e.Addr, got, want)
		}
	}
	b.Apply(says(12, web, "10.0.0.95", ARP))
	if last := b.Refused(web).Last[maxRefusals-1]; last.Addr != netip.MustParseAddr("10.0.0.95") || last.Count != 2 || last.At != second(12) {
		t.Errorf("%v is not the last", last)
	}
	b.Apply(of(13, EventGone, web))
	if got := b.Refused(web); len(got.Counts)+len(got.Last) > 0 || len(b.NICs()) > 0 {
		t.Errorf("of a NIC that is gone: %v", got)
	}
}

func TestReadOuts(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeApproved), "b": mode(ModeObserved)}})
	for _, e := range []Event{
		says(1, web, five, ARP), says(2, db, five, ARP), says(3, old, five, ARP), says(4, web, six, ARP),
		decides(5, EventApprove, web, five), outside(6, five, 1), says(7, web, five, Declared),
		{Kind: EventClaim, At: second(8), NIC: web, Segment: someSegments[0], Addr: netip.MustParseAddr(five), Provenance: ARP, Place: "n2"},
		says(9, old, six, ARP),
	} {
		b.Apply(e)
	}
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
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(want, w, same); d != "" {
		t.Errorf("who (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]Claim{*want.Holder}, b.Bindings(web), same); d != "" {
		t.Errorf("bindings (-want +got):\n%s", d)
	}
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
	if d := cmp.Diff(conflicts, b.Conflicts(), same); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
	text := "10.0.0.6 in fabric/100 is claimed by bank/old on b (02:00:00:00:00:04, at n1, since 2026-03-01T12:00:09Z) and by shop/web on a (02:00:00:00:00:01, at n1, since 2026-03-01T12:00:04Z)"
	if got := conflicts[1].String(); got != text {
		t.Errorf("got  %s\nwant %s", got, text)
	}
	var waiting []string
	for _, c := range b.Waiting() {
		waiting = append(waiting, c.NIC.Name+" "+c.Addr.String())
	}
	if d := cmp.Diff([]string{"db 10.0.0.5", "web 10.0.0.6"}, waiting); d != "" {
		t.Errorf("waiting (-want +got):\n%s", d)
	}
	if d := cmp.Diff(Answer{}, b.Who(someSegments[1], netip.MustParseAddr(five)), same); d != "" {
		t.Errorf("who has what nobody has:\n%s", d)
	}
	if b.Bindings(NIC{}) != nil || b.Unfit(NIC{}) != nil {
		t.Error("nobody has something")
	}
	w.Holder.Evidence[0].MAC = MAC{9}
	b.Dump().NICs[1].Claims[0].Evidence[0].MAC = MAC{9}
	if d := cmp.Diff([]Claim{*want.Holder}, b.Bindings(web), same); d != "" {
		t.Errorf("a read-out shares what it read (-want +got):\n%s", d)
	}
}

// What an event does not tell stays as it was, and what is not its to tell is not taken from it.
func TestEvidenceIsKept(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeObserved)}})
	bare := func(e Event) Event { e.MAC, e.Place = MAC{}, ""; return e }
	far := bare(leases(4, web, five, 100))
	far.Provenance = ARP
	for _, e := range []Event{
		bare(says(1, web, five, Declared)), says(2, web, five, ARP), bare(says(3, web, five, ARP)), far,
		outside(5, five, 1), {Kind: EventOutside, At: second(6), Segment: someSegments[0], Addr: netip.MustParseAddr(five), MAC: MAC{2, 0, 0, 0, 9, 1}},
	} {
		b.Apply(e)
	}
	w := b.Who(someSegments[0], netip.MustParseAddr(five))
	if w.Holder.MAC != macOf(web) {
		t.Errorf("the MAC is %v", w.Holder.MAC)
	}
	if d := cmp.Diff(Evidence{Provenance: ARP, MAC: macOf(web), Place: "n1", Since: second(2), Seen: second(4)}, w.Holder.Evidence[1]); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff([]Outside{{MAC: MAC{2, 0, 0, 0, 9, 1}, Place: "uplink n2", Since: second(5), Seen: second(6)}}, w.Outside); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A change has the time at which it was due, however late that is asked for; and time does not go back.
func TestTimes(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": silence(ModeObserved, 10)}})
	if next := b.Next(); !next.IsZero() || len(b.Expire(second(0))) > 0 {
		t.Errorf("next is %v, of nothing", next)
	}
	for _, e := range []Event{says(1, web, five, ARP), says(2, db, five, ARP), of(3, EventAbsent, old)} {
		b.Apply(e)
	}
	before := dumpText(t, b)
	b.Expire(second(2))
	if d := cmp.Diff(before, dumpText(t, b)); d != "" {
		t.Errorf("time goes back:\n%s", d)
	}
	if next := b.Next(); next != second(11) {
		t.Errorf("next is %v", next)
	}
	changes := b.Expire(second(50))
	if got := brief(changes); got != "Unbound web ARP, Promoted db ARP, ConflictEnded Inside, Unbound db ARP" {
		t.Error(got)
	}
	for i, c := range changes {
		if want := second(11 + i/3); c.At != want {
			t.Errorf("%v at %v, want %v", c, c.At, want)
		}
	}
}

// A time is the same in every zone, and with a clock's reading.
func TestZones(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeObserved)}})
	now := time.Now()
	e := says(0, web, five, DHCP)
	e.At, e.Until = now, now.Add(time.Hour)
	b.Apply(e)
	reload(t, b)
	e.At, e.Until = now.In(time.FixedZone("there", 3600)), now.Add(time.Hour).UTC()
	if changes := b.Apply(e); len(changes) > 0 {
		t.Errorf("the same is told again: %v", changes)
	}
	e.NIC, e.Addr = db, netip.MustParseAddr(six)
	b.Apply(e)
	for _, id := range []NIC{web, db} {
		if c := b.Bindings(id)[0]; c.Since != now.Round(0).UTC() || c.Evidence[0].Until != now.Add(time.Hour).Round(0).UTC() {
			t.Errorf("%v since %v until %v", id, c.Since, c.Evidence[0].Until)
		}
	}
}

// Who approved an address before that was needed has approved it.
func TestApproverStays(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeObserved)}})
	for _, e := range []Event{says(1, web, five, ARP), says(1, web, six, ARP), says(1, web, vip, Declared), says(1, web, vip, ARP), decides(2, EventApprove, web, five), sets(3, mode(ModeApproved))} {
		b.Apply(e)
	}
	var got []Decision
	for _, c := range b.Bindings(web) {
		got = append(got, c.Approved)
	}
	if d := cmp.Diff([]Decision{{By: "ann", At: second(2)}, {By: ByChange, At: second(3)}, {}}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A declaration that was unfit, and is withdrawn, leaves nothing.
func TestUnfitIsWithdrawn(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": mode(ModeApproved)}})
	for _, e := range []Event{
		says(1, web, five, ARP), decides(2, EventApprove, web, five), sets(3, Network{Mode: ModeApproved, Gateways: addrs(five)}),
		says(4, web, five, Declared), withdraws(5, web, five, Declared),
	} {
		b.Apply(e)
	}
	if got := b.Unfit(web); got != nil {
		t.Errorf("unfit are %v", got)
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

// Sightings of many, in whatever order they come, come to the same where neither limit nor time decide.
func TestOrderOfSightings(t *testing.T) {
	for seed := range 300 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		s := Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Shared: prefixes("10.0.0.8/32")}, "b": mode(ModeObserved)}}
		var log []Event
		for i := range 40 {
			e := says(i, someNICs[r.IntN(len(someNICs))], someAddrs[r.IntN(4)].String(), []Provenance{ARP, DHCP, GuestAgent, Declared}[r.IntN(4)])
			if r.IntN(8) == 0 {
				e = outside(i, e.Addr.String(), byte(r.IntN(3)))
			}
			log = append(log, e)
		}
		b, err := Replay(s, log)
		if err != nil {
			t.Fatal(err)
		}
		r.Shuffle(len(log), func(i, j int) { log[i], log[j] = log[j], log[i] })
		other, err := Replay(s, log)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(lines(b), lines(other)); d != "" {
			t.Fatalf("seed %d (-in order +shuffled):\n%s", seed, d)
		}
		if d := cmp.Diff(dumpText(t, b), dumpText(t, other)); d != "" {
			t.Fatalf("seed %d (-in order +shuffled):\n%s", seed, d)
		}
	}
}

// What is of other NICs, other addresses and other networks may come before or after.
func TestOrderOfUnrelated(t *testing.T) {
	for seed := range 300 {
		choose := seeded(uint64(seed))
		s, all := someLog(choose, 60)
		// Two logs that have nothing to do with each other: web in one segment, old in the other.
		var one, two []Event
		for _, e := range all {
			switch {
			case e.NIC == web && e.Kind != EventNetwork && e.Kind != EventNetworkGone:
				if e.Segment != (Segment{}) {
					e.Segment = someSegments[0]
				}
				one = append(one, e)
			case e.NIC == old || e.Network == "b":
				if e.Segment != (Segment{}) {
					e.Segment = someSegments[1]
				}
				two = append(two, e)
			}
		}
		var want string
		for order := range 4 {
			var log []Event
			a, b := one, two
			for len(a)+len(b) > 0 {
				// By time, but those of one second in any order.
				first := len(b) == 0 || len(a) > 0 && a[0].At.Before(b[0].At)
				if len(a) > 0 && len(b) > 0 && a[0].At.Sub(b[0].At).Abs() < 10*time.Second && order > 0 {
					first = choose(2) == 0
				}
				if first {
					log, a = append(log, a[0]), a[1:]
				} else {
					log, b = append(log, b[0]), b[1:]
				}
			}
			book, err := Replay(s, log)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(lines(book), "\n")
			if order == 0 {
				want = got
			} else if d := cmp.Diff(want, got); d != "" && !expires(s, log) {
				t.Fatalf("seed %d (-by time +otherwise):\n%s", seed, d)
			}
		}
	}
}

// expires says whether anything may end by time: then it matters how late an event comes.
func expires(s Settings, log []Event) bool {
	for _, n := range s.Networks {
		if n.Expiry > 0 || n.Shared != nil {
			return true
		}
	}
	return slices.ContainsFunc(log, func(e Event) bool {
		return !e.Until.IsZero() || e.Settings != nil && (e.Settings.Expiry > 0 || e.Settings.Shared != nil)
	})
}
