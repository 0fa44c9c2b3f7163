package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// sctp is a packet with one empty chunk.
func sctp(from, to netip.Addr, sport, dport uint16) pkt {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	return sided(pkt{from: from, to: to, proto: layers.IPProtocolSCTP, l4: append(b, make([]byte, 12)...)})
}

func serviceSets(tb testing.TB, low string) []policy.Set {
	rule := func(id uint32, a policy.Action, d policy.Directions, services ...string) policy.Rule {
		return policy.Rule{Key: key(id), Action: a, Directions: d, Services: service(tb, services...)}
	}
	return []policy.Set{{Network: "net-a", Default: policy.Drop, Rules: []policy.Rule{
		rule(1, policy.Drop, policy.OnlyOut, "tcp/80 from "+low, "udp/80 from 7"),
		rule(2, policy.Allow, policy.OnlyOut, "tcp/80", "sctp/2905"),
		rule(3, policy.Allow, policy.OnlyIn, "tcp/81 from 1-1023", "tcp/82 from 2000-65535", "sctp/1 from 9"),
		rule(4, policy.Allow, policy.InOut, "udp", "ip/47"),
	}}}
}

// Source ports, SCTP, whole protocols and their numbers, of both families.
func TestServices(t *testing.T) {
	est, allow, drop, none := policy.ReasonEstablished, policy.ReasonRuleAllow, policy.ReasonRuleDrop, policy.ReasonDefaultDrop
	for _, c := range []struct {
		name     string
		vm, peer netip.Addr
	}{{"IPv4", vm4, peer4}, {"IPv6", vm6, peer6}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Config{})
			b.sync(serviceSets(t, "1-1023")...)
			b.port(accessPort())
			o := func(sport, dport uint16, flags string) pkt { return tcp(c.vm, c.peer, sport, dport, flags) }
			i := func(sport, dport uint16, flags string) pkt { return tcp(c.peer, c.vm, sport, dport, flags) }
			fragment := func(p pkt) pkt {
				if c.vm.Is4() {
					return p.with(func(p *pkt) { p.frag = 100 })
				}
				return p.with(func(p *pkt) { p.ext = []extension{fragment6(100, false)} })
			}
			other := func(proto layers.IPProtocol) pkt {
				return sided(pkt{from: c.vm, to: c.peer, proto: proto, l4: make([]byte, 8)})
			}
			b.expect("source ports", out(o(1, 80, "S"), drop), out(o(1023, 80, "S"), drop), out(o(1024, 80, "S"), allow),
				in(i(1023, 81, "S"), allow), in(i(1024, 81, "S"), none), in(i(1023, 82, "S"), none), in(i(2000, 82, "S"), allow),
				in(i(1, 80, "S"), none), out(udp(c.vm, c.peer, 7, 80), drop), out(udp(c.vm, c.peer, 8, 80), allow))
			b.expect("sctp", out(sctp(c.vm, c.peer, 5000, 2905), allow), in(sctp(c.peer, c.vm, 2905, 5000), est),
				in(sctp(c.peer, c.vm, 2905, 5001), none), in(sctp(c.peer, c.vm, 9, 1), allow), in(sctp(c.peer, c.vm, 8, 1), none),
				out(sctp(c.vm, c.peer, 5000, 2906), none),
				out(sctp(c.vm, c.peer, 5000, 2905).with(func(p *pkt) { p.l4 = p.l4[:11] }), policy.ReasonMalformed))
			typ := uint8(3)
			if c.vm.Is6() {
				typ = 1
			}
			b.expect("error about sctp", in(icmpError(c.peer, c.vm, typ, sctp(c.vm, c.peer, 5000, 2905), 8), policy.ReasonRelated),
				in(icmpError(c.peer, c.vm, typ, sctp(c.vm, c.peer, 5001, 2905), 8), none))
			b.expect("whole protocols", in(fragment(udp(c.peer, c.vm, 1, 2)), policy.ReasonFragmentAllow), in(fragment(i(1, 81, "S")), policy.ReasonFragmentDrop),
				out(fragment(udp(c.vm, c.peer, 1, 2)), policy.ReasonFragmentAllow), out(fragment(sctp(c.vm, c.peer, 1, 2905)), policy.ReasonFragmentDrop),
				out(other(47), allow), out(other(48), none), out(other(50), none), out(fragment(other(47)), policy.ReasonFragmentAllow))

			b.expect("open", out(o(2000, 80, "S"), allow), in(i(80, 2000, "SA"), est), out(o(2001, 80, "S"), allow), in(i(80, 2001, "SA"), est))
			b.sync(serviceSets(t, "1-2000")...)
			b.expect("judged again by its source port", in(i(80, 2000, "A"), drop), in(i(80, 2001, "A"), est))
		})
	}
}

// An SCTP flow lives as long as one of UDP.
func TestSCTPExpiry(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(serviceSets(t, "1-1023")...)
	ask, answer := out(sctp(vm4, peer4, 5000, 2905), policy.ReasonRuleAllow), in(sctp(peer4, vm4, 2905, 5000), policy.ReasonEstablished)
	late := in(sctp(peer4, vm4, 2905, 5000), policy.ReasonDefaultDrop)
	for _, c := range []struct {
		make  []step
		life  time.Duration
		freed int // of the port's table, where answered flows are
	}{{[]step{ask}, 30 * time.Second, 0}, {[]step{ask, answer}, 180 * time.Second, 1}} {
		const slack = 3000 // ticks, as in TestExpiry
		for _, end := range []struct {
			age   uint32
			then  step
			freed int
		}{{ticks(c.life) - slack, answer, 0}, {ticks(c.life) + 1, late, c.freed}} {
			b.port(accessPort())
			b.expect("open", c.make...)
			if b.age(end.age) != 1 {
				t.Fatal("not one flow")
			}
			if n, err := b.GCConns(nil); n != end.freed || err != nil {
				t.Errorf("after %d ticks %d flows were freed, %v, want %d", end.age, n, err, end.freed)
			}
			b.expect("aged", end.then)
		}
	}
}

// A program that was compiled before SCTP and IP protocols could be named is read as it
// was meant, for the moment after an upgrade until the first of this version is there.
func TestOlderProgram(t *testing.T) {
	b := newBench(t, Config{})
	p, _, err := build(serviceSets(t, "1-1023")...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.Policies {
		h, err := p.Policies[i].Header()
		if err != nil {
			t.Fatal(err)
		}
		h.SvcGroups, h.Sportindex = 0, 0
		p.Policies[i].SetHeader(h)
	}
	if _, err := b.Sync(p); err != nil {
		t.Fatal(err)
	}
	b.port(accessPort())
	b.expect("older", out(tcp(vm4, peer4, 1024, 80, "S"), policy.ReasonRuleDrop), // no rule could ask for source ports
		in(udp(peer4, vm4, 1, 2), policy.ReasonRuleAllow), out(sctp(vm4, peer4, 5000, 2905), policy.ReasonDefaultDrop),
		out(sided(pkt{from: vm4, to: peer4, proto: 47, l4: make([]byte, 8)}), policy.ReasonDefaultDrop))
}

// After a migration an association goes on, and an INIT, which only who opens sends, is
// judged as ever.
func TestSCTPMigrated(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(serviceSets(t, "1-1023")...)
	if err := b.FillPool(4); err != nil {
		t.Fatal(err)
	}
	b.arrive(accessPort())
	running := func(p pkt) pkt { return p.with(func(p *pkt) { p.l4[7] = 1 }) } // with a verification tag
	in1, in2 := sctp(peer4, vm4, 2905, 5000), sctp(peer4, vm4, 2905, 5001)
	b.expect("INIT", in(in1, policy.ReasonDefaultDrop))
	b.expect("running", in(running(in1), policy.ReasonMigrated), out(running(sctp(vm4, peer4, 5000, 2905)), policy.ReasonEstablished))
	b.expect("another INIT", in(in2, policy.ReasonDefaultDrop))
}
