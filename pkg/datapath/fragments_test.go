package datapath

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// piece is a fragment of a datagram.
func piece(p pkt, id byte, offset uint16, more bool) pkt {
	if p.from.Is4() {
		p.id, p.frag, p.more = uint16(id), offset, more
		return p
	}
	f := fragment6(offset, more)
	f.body = slices.Clone(f.body)
	f.body[len(f.body)-1] = id
	p.ext = []extension{f}
	return p
}

// TestFragments: where the first fragment of a datagram has passed, and for that
// datagram alone, the others do.
func TestFragments(t *testing.T) {
	allow, est, passes, drops := policy.ReasonRuleAllow, policy.ReasonEstablished, policy.ReasonFragmentAllow, policy.ReasonFragmentDrop
	for _, c := range []struct {
		name            string
		vm, peer, other netip.Addr
	}{{"IPv4", vm4, peer4, bad4}, {"IPv6", vm6, peer6, other6}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Config{})
			b.sync(testSets(t)...)
			b.port(accessPort())
			ask, answer, ping := udp(c.vm, c.peer, 5, 53), udp(c.peer, c.vm, 53, 5), echo(c.vm, c.peer, true, 7)
			b.expect("what passes",
				out(piece(ask, 1, 2, true), drops), // nothing has passed yet
				out(piece(ask, 1, 0, true), allow), out(piece(ask, 1, 2, true), passes), out(piece(ask, 1, 4, false), passes), out(piece(ask, 1, 4, false), passes),
				in(piece(answer, 2, 2, false), drops), in(piece(answer, 2, 0, true), est), in(piece(answer, 2, 2, false), passes),
				out(piece(ping, 3, 0, true), allow), out(piece(ping, 3, 9, false), passes))
			b.expect("another datagram",
				out(piece(ask, 2, 2, false), drops), // of this number one came in
				in(piece(answer, 1, 2, false), drops),
				out(piece(udp(c.vm, c.other, 5, 53), 1, 2, false), drops), out(piece(udp(other(c.vm), c.peer, 5, 53), 1, 2, false), drops),
				out(piece(sided(pkt{from: c.vm, to: c.other, proto: layers.IPProtocolSCTP, l4: make([]byte, 16)}), 1, 9, false), drops))
			// IPv4 numbers the datagrams of each protocol; in IPv6 only the first fragment names it.
			of := out(piece(ping, 1, 9, false), drops)
			if c.vm.Is6() {
				of.want = passes
			}
			b.expect("another protocol", of)
			b.expect("the first does not pass",
				out(piece(udp(c.vm, c.peer, 5, 54), 4, 0, true), policy.ReasonDefaultDrop), out(piece(udp(c.vm, c.peer, 5, 54), 4, 2, false), drops))
			// Whole datagrams, and the rest of one alone, are none.
			b.expect("not in fragments", out(ask, policy.ReasonEstablished), out(piece(ask, 0, 2, false), drops))

			const slack = 3000 // ticks, as in TestExpiry
			b.ageFragments(ticks(30*time.Second) - slack)
			b.expect("in time", out(piece(ask, 1, 2, true), passes))
			b.ageFragments(slack + 1)
			b.expect("too late", out(piece(ask, 1, 2, true), drops))
			b.expect("again", out(piece(ask, 1, 0, true), est), out(piece(ask, 1, 2, true), passes))
			b.port(accessPort())
			b.expect("another port, in the same place", out(piece(ask, 1, 2, true), drops))

			b.expect("before a change", out(piece(ask, 5, 0, true), allow), out(piece(ask, 5, 2, true), passes))
			sets := testSets(t)
			sets[0].Rules = append([]policy.Rule{{Key: key(9), Action: policy.Drop, Directions: policy.InOut}}, sets[0].Rules...)
			b.sync(sets...)
			b.expect("after it", out(piece(ask, 5, 2, true), drops), out(piece(ask, 5, 0, true), policy.ReasonRuleDrop), out(piece(ask, 5, 4, false), drops))
		})
	}
}

func other(a netip.Addr) netip.Addr { return a.Next() }

// ageFragments has all fragments passed so many ticks earlier.
func (b *bench) ageFragments(ticks uint32) {
	b.Helper()
	m := b.maps[portMapFragments]
	var key [48]byte
	var seen portFragmented
	keys := [][48]byte{}
	for it := m.Iterate(); it.Next(&key, &seen); {
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		b.Fatal("no fragments are known")
	}
	for _, k := range keys {
		if err := m.Lookup(&k, &seen); err != nil {
			b.Fatal(err)
		}
		seen.Seen -= ticks
		if err := m.Put(&k, &seen); err != nil {
			b.Fatal(err)
		}
	}
}
