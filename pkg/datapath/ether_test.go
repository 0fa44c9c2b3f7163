package datapath

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/policy"
)

const (
	profinet = layers.EthernetType(0x8892)
	arp      = layers.EthernetTypeARP
)

// frame is an Ethernet rule.
func frame(tb testing.TB, id uint32, a policy.Action, services ...string) policy.Rule {
	r := policy.Rule{Key: key(id), Ethernet: true, Action: a, Directions: policy.InOut}
	if services != nil {
		r.Services = service(tb, services...)
	}
	return r
}

func macs(tb testing.TB, texts ...string) (out []policy.AddrRange) {
	tb.Helper()
	for _, text := range texts {
		r, err := policy.ParseMACs(text)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// raw is a frame that is not IP.
func raw(t layers.EthernetType) pkt { return pkt{ether: t, l4: make([]byte, 46)} }

// What Ethernet rules say of each frame, ARP and what is tagged among them, and what they are not
// asked about; and a dry run says the same.
func TestEthernet(t *testing.T) {
	b := newBench(t, Config{})
	from := frame(t, 1, policy.Drop)
	from.Sources, from.Directions = macs(t, "02:00:00:00:00:02"), policy.OnlyIn
	ip := policy.Rule{Key: key(10), Action: policy.Allow, Directions: policy.InOut, Services: service(t, "tcp/80")}
	drop, allow, est := policy.ReasonRuleDrop, policy.ReasonRuleAllow, policy.ReasonEstablished
	def, isARP, isND := policy.ReasonDefaultDrop, policy.ReasonARP, policy.ReasonND
	syn, ack := tcp(vm4, peer4, 1, 80, "S"), tcp(peer4, vm4, 80, 1, "SA")
	other := func(p pkt) pkt { p.src, p.dst = []byte{2, 0, 0, 0, 0, 3}, testMAC; return p }
	solicit := icmp(peer6, vm6, 135, 0, make([]byte, 20)...).with(func(p *pkt) { p.hops = 255 })
	snap := raw(60).with(func(p *pkt) { p.l4 = append([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, make([]byte, 52)...) })
	check := func(what string, steps ...step) {
		t.Helper()
		for i, s := range steps {
			if e, err := b.traced(s.hook, s.frame); err != nil || e.Reason != s.want {
				t.Errorf("%s, frame %d: a dry run says %v, %v, want %v", what, i, e.Reason, err, s.want)
			}
			if got := b.reason(s.hook, s.frame); got != s.want {
				t.Errorf("%s, frame %d: %v, want %v", what, i, got, s.want)
			}
		}
	}
	rules := func(list ...policy.Rule) {
		b.sync(policy.Set{Network: "net-a", Rules: append(list, ip), Default: policy.Drop})
	}

	rules()
	b.port(accessPort())
	check("none", out(syn, allow), in(ack, est), in(raw(arp), isARP), out(raw(profinet), def), in(solicit, isND))

	rules(from)
	check("one MAC is shut out, at once", in(ack, drop), in(raw(arp), drop), in(raw(profinet), drop), in(solicit, drop),
		in(other(ack), est), in(other(raw(arp)), isARP), in(other(raw(profinet)), def), out(syn, est), out(raw(arp), isARP), in(raw(rarp), policy.ReasonRARP))

	rules(frame(t, 2, policy.Allow, "ether/IPv4", "ether/ARP", "ether/0x8892"), frame(t, 3, policy.Drop))
	check("some EtherTypes", in(ack, est), out(tcp(vm4, peer4, 2, 81, "S"), def), in(raw(arp), isARP), out(raw(profinet), allow), in(raw(profinet), allow),
		in(solicit, drop), out(udp(vm6, peer6, 1, 2), drop), out(raw(0x8893), drop), in(raw(rarp), policy.ReasonRARP), out(raw(rarp), policy.ReasonRARP))

	rules(frame(t, 4, policy.Allow))
	check("all of them: what is not whole is none", out(raw(profinet), allow), out(snap, policy.ReasonMalformed), in(ack, est), out(tcp(vm4, peer4, 2, 81, "S"), def))

	rules()
	check("none again", in(ack, est), in(raw(arp), isARP), out(raw(profinet), def))

	c := accessPort()
	trunkPort(&c)
	b.port(c)
	rules(frame(t, 2, policy.Allow, "ether/0x8892"), frame(t, 3, policy.Drop, "ether/IPv4"))
	check("behind a tag", out(raw(profinet).tagged(tag{ctag, 10}), allow), out(syn.tagged(tag{ctag, 11}), drop), in(syn.tagged(tag{ctag, 11}), drop),
		out(raw(profinet).tagged(tag{ctag, 12}), policy.ReasonVLANNotAllowed))

	// Policies without Ethernet rules beside one that has some.
	b.sync(policy.Set{Network: "net-a", Rules: []policy.Rule{ip}, Default: policy.Drop}, policy.Set{Network: "net-b", Rules: []policy.Rule{from}, Default: policy.Drop})
	b.port(accessPort())
	check("another network's", out(syn, allow), in(ack, est), in(raw(arp), isARP))
	b.sync(policy.Set{Network: "net-b", Rules: []policy.Rule{from}, Default: policy.Drop})
	check("no policy", in(raw(arp), isARP), out(syn, policy.ReasonNoProgram))
}

// A flow that was judged by a generation with Ethernet rules is one of an older generation for the
// next one, which has none; and the other way round.
func TestEthernetGenerations(t *testing.T) {
	b := newBench(t, Config{})
	o, i := tcp(vm4, peer4, 1000, 80, "S"), tcp(peer4, vm4, 80, 1000, "SA")
	web := policy.Rule{Key: key(10), Action: policy.Allow, Directions: policy.InOut, Services: service(t, "tcp/80")}
	ether := frame(t, 1, policy.Allow)
	for _, with := range []bool{true, false} {
		rules := func(with bool, list ...policy.Rule) uint64 {
			if with {
				list = append(list, ether)
			}
			b.sync(policy.Set{Network: "net-a", Rules: list, Default: policy.Drop})
			return b.Generation()
		}
		first := rules(with, web)
		b.port(accessPort())
		b.expect("open", out(o, policy.ReasonRuleAllow), in(i, policy.ReasonEstablished), out(tcp(vm4, peer4, 1000, 80, "A"), policy.ReasonEstablished))
		if second := rules(!with, web); second != first+1 {
			t.Errorf("generation %d follows %d", second, first)
		}
		b.expect("still allowed", in(i, policy.ReasonEstablished))
		if c, err := b.Conns(loopback); err != nil || len(c) != 1 || c[0].Generation != first+1 {
			t.Errorf("flow %+v, %v; want it judged by %d", c, err, first+1)
		}
		rules(with)
		b.expect("cut", in(i, policy.ReasonDefaultDrop))
		if c, err := b.Conns(loopback); err != nil || len(c) != 0 {
			t.Errorf("a flow that nobody allows is kept: %+v, %v", c, err)
		}
	}
}

// What is told of frames that Ethernet rules are about, and counted.
func TestEthernetEvents(t *testing.T) {
	b := newBench(t, Config{})
	logged := func(r policy.Rule) policy.Rule { r.Log = true; return r }
	watched := func(r policy.Rule) policy.Rule { r.Monitored = true; return r }
	set := policy.Set{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
		watched(frame(t, 1, policy.Drop, "ether/0x8893", "ether/IPv6")), logged(watched(frame(t, 2, policy.Drop, "ether/IPv4"))),
		logged(frame(t, 3, policy.Drop, "ether/0x88cc")), logged(frame(t, 4, policy.Allow, "ether/0x8892", "ether/IPv6")), frame(t, 5, policy.Allow, "ether/0x8893"),
		watched(policy.Rule{Key: key(9), Action: policy.Drop, Directions: policy.InOut, Services: service(t, "udp")}),
		{Key: key(10), Action: policy.Allow, Directions: policy.InOut, Services: service(t, "udp", "tcp")},
	}}
	counters := b.sync(set)
	names := map[uint32]string{counters[policy.DefaultKey("net-a")]: "default"}
	for _, r := range set.Rules {
		names[counters[r.Key]] = r.Key.String()[2:]
	}
	b.port(accessPort())
	w := b.watch(false)
	o4, o6 := udp(vm4, peer4, 5, 53), udp(vm6, peer6, 5, 53)
	const macs = "020000000001 > 020000000002"
	for n, tt := range []struct {
		p          pkt
		alone, all string // what is told if nobody watches, and if somebody does
	}{
		{raw(0x88cc), "Out RuleDrop by 3 log: " + macs + " 88cc", "Out RuleDrop by 3 log: " + macs + " 88cc"},
		{raw(profinet), "Out RuleAllow by 4 log: " + macs + " 8892", "Out RuleAllow by 4 log: " + macs + " 8892"},
		{raw(0x8893), "", "Out RuleAllow by 5 not 1: " + macs + " 8893"},
		{raw(0x9999), "", "Out DefaultDrop by default: " + macs + " 9999"},
		{raw(arp), "", ""},
		{o6, "", "Out RuleAllow by 10 not 9: fd00::5/5 > 2001:db8:2::7/53 17"},                                                                           // the packet's tells more than the frame's
		{o4, "Out RuleAllow by 10 not 2 log-not: 10.1.0.5/5 > 192.0.2.7/53 17", "Out Established by nobody not 2 log-not: 10.1.0.5/5 > 192.0.2.7/53 17"}, // unless the frame's asks for logs
	} {
		for _, all := range []bool{false, true} {
			want := tt.alone
			if all {
				want = tt.all
			}
			if err := b.Watch(all); err != nil {
				t.Fatal(err)
			}
			if n == 5 {
				b.port(accessPort()) // no connection
			}
			b.run(FromVM, tt.p.bytes())
			if got := brief(w.next(), names); got != want {
				t.Errorf("frame %d, watched %v: %q, want %q", n, all, got, want)
			}
			if e := w.next(); e != nil {
				t.Errorf("frame %d, watched %v: then %q", n, all, brief(e, names))
			}
		}
	}
	hits, err := b.RuleCounters([]uint32{counters[key(1)], counters[key(2)], counters[key(3)], counters[key(4)], counters[key(5)], counters[key(9)], counters[key(10)]})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for c, h := range hits {
		got[names[c]] = h.Packets
	}
	want := map[string]uint64{"1": 4, "2": 2, "3": 2, "4": 4, "5": 2, "9": 3, "10": 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hits (-want +got):\n%s", diff)
	}
}

// What was said of a frame is not said of another: of many MACs, of both families, under many policies
// of one generation, each is judged for itself, again and again, and counted.
func TestEthernetManyFrames(t *testing.T) {
	b := newBench(t, Config{})
	const count, policies = 600, 64
	mac := func(n int) policy.MAC { return policy.MAC{byte(n) << 2, 0x50, 0x56, 0, 0, byte(n >> 6)} }
	var odd []policy.AddrRange
	for n := 1; n < count; n += 2 {
		odd = append(odd, policy.AddrRange{First: policy.MACAddr(mac(n)), Last: policy.MACAddr(mac(n))})
	}
	var sets []policy.Set
	for i := range policies { // every other one is the opposite
		four, six := frame(t, 1, policy.Drop, "ether/IPv4"), frame(t, 2, policy.Drop, "ether/IPv6")
		four.Sources, six.Sources, four.NotSources, six.NotSources = odd, odd, i%2 == 1, i%2 == 0
		sets = append(sets, policy.Set{Network: fmt.Sprint("net", i), Rules: []policy.Rule{four, six, frame(t, 3, policy.Allow)}, Default: policy.Allow})
	}
	counters := b.sync(sets...)
	b.port(accessPort())
	f4, f6 := tcp(peer4, vm4, 80, 1000, "S"), tcp(peer6, vm6, 80, 1000, "S")
	want := map[uint32]uint64{}
	for i := range policies {
		c := accessPort()
		c.Policy = sets[i].Network
		if err := b.UpdatePort(loopback, c); err != nil {
			t.Fatal(err)
		}
		for n := range count / 4 {
			n = (n + i*37) % count
			for _, p := range []pkt{f4, f6} {
				m := mac(n)
				p.src, p.dst = m[:], testMAC
				drops := (n%2 == 1) != (i%2 == 1) == p.from.Is4()
				for range 2 {
					if passed := b.run(ToVM, p.bytes()); passed == drops {
						t.Fatalf("policy %d, %v, %v: passed %v", i, m, p.from, passed)
					}
					switch {
					case !drops:
						want[counters[key(3)]]++
					case p.from.Is4():
						want[counters[key(1)]]++
					default:
						want[counters[key(2)]]++
					}
				}
			}
		}
	}
	got := map[uint32]uint64{}
	hits, err := b.RuleCounters([]uint32{counters[key(1)], counters[key(2)], counters[key(3)]})
	if err != nil {
		t.Fatal(err)
	}
	for c, h := range hits {
		got[c] = h.Packets
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hits (-want +got):\n%s", diff)
	}
}

// Who has the last word on a frame is told of: the check of headers, not the rule that allowed it; a
// rule, of ARP that it allows; and of a monitored one no more than it would have done.
func TestEthernetLastWord(t *testing.T) {
	b := newBench(t, Config{})
	logged := func(r policy.Rule) policy.Rule { r.Log = true; return r }
	watched := logged(frame(t, 1, policy.Allow))
	watched.Monitored = true
	set := policy.Set{Network: "net-a", Default: policy.Allow, Rules: []policy.Rule{watched, logged(frame(t, 2, policy.Allow))}}
	counters := b.sync(set)
	names := map[uint32]string{counters[policy.DefaultKey("net-a")]: "default", counters[key(1)]: "1", counters[key(2)]: "2"}
	b.port(accessPort())
	w := b.watch(false)
	const macs = "020000000001 > 020000000002"
	snap := raw(60).with(func(p *pkt) { p.l4 = append([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, make([]byte, 52)...) })
	for n, tt := range []struct {
		p    pkt
		want string
	}{
		{raw(profinet), "Out RuleAllow by 2 not 1 log log-not: " + macs + " 8892"},
		{raw(arp), "Out ARP by 2 not 1 log log-not: " + macs + " 0806"},
		{raw(rarp), ""},
		{udp(vm4, peer4, 5, 53), ""}, // its rules have it, and write nothing
		{udp(vm4, peer4, 5, 53), ""},
	} {
		b.run(FromVM, tt.p.bytes())
		if got := brief(w.next(), names); got != tt.want {
			t.Errorf("frame %d: %q, want %q", n, got, tt.want)
		}
	}
	if err := b.Watch(true); err != nil {
		t.Fatal(err)
	}
	b.run(FromVM, snap.bytes())
	if got, want := brief(w.next(), names), "Out Malformed by nobody not 1 log-not: "+macs+" 003c"; got != want {
		t.Errorf("behind LLC/SNAP: %q, want %q", got, want)
	}
	if e, err := b.traced(FromVM, snap.bytes()); err != nil || e.Reason != policy.ReasonMalformed || e.Rule != NoRule {
		t.Errorf("behind LLC/SNAP, a dry run: %+v, %v", e, err)
	}
	// So has a guard.
	guarded := accessPort()
	guarded.Security.DHCPServerGuard = true
	if err := b.UpdatePort(loopback, guarded); err != nil {
		t.Fatal(err)
	}
	b.run(FromVM, udp(vm4, peer4, 67, 68).bytes())
	if got, want := brief(w.next(), names), "Out DHCPServerGuard by nobody"; !strings.HasPrefix(got, want) {
		t.Errorf("a DHCP server: %q, want %q", got, want)
	}
	hits, err := b.RuleCounters([]uint32{counters[key(1)], counters[key(2)]})
	if err != nil || hits[counters[key(1)]].Packets != 6 || hits[counters[key(2)]].Packets != 6 {
		t.Errorf("hits %+v, %v; want 6 of each", hits, err)
	}
}
