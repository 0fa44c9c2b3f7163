package learn

import (
	"net/netip"
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
