package reach

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// loses is echoes up to a size, of which some are lost: the first that come right after one of full size.
func loses(a netip.Addr, mtu, times int) func(*host, probe.Frame, gopacket.Packet) {
	answers := echoes(a, mtu)
	var full time.Time
	return func(h *host, f probe.Frame, p gopacket.Packet) {
		switch _, reply, size := echoReply(h, a, p); {
		case reply == nil:
		case size == 1500:
			full = time.Now()
		case size > smallEcho && times > 0 && time.Since(full) < 300*time.Millisecond:
			times--
			return
		}
		answers(h, f, p)
	}
}

// TestEchoes: what is found of echoes beside other faults, and where answers are lost.
func TestEchoes(t *testing.T) {
	const id = vlan.ID(101)
	all := []vlan.ID{100, 101, 102, 103}
	cut := func(s *site) { s.nodes[0].port.keep(isPacketAbove(1280)) }
	for _, tt := range []struct {
		name  string
		fault func(*site)
		want  func(*site) []string
		sizes []int // of findings
	}{
		{"a gateway has a smaller MTU, and one answer is lost when it is asked again", func(s *site) {
			s.mute(id)
			s.gateways[id].hears = append(s.gateways[id].hears, loses(gatewayOf(id), 1400, 1), loses(gateway6Of(id), 1400, 1))
		}, func(*site) []string { return []string{atom(MTUBelowIntent, "*", id)} }, []int{1400}},
		{"gateways have, and to one node the way is narrower yet", func(s *site) {
			cut(s)
			for _, id := range all {
				s.gateways[id].port.mtu = 1400
			}
		}, func(*site) []string { return each(MTUBelowIntent, "*", all) }, []int{1400}},
		{"packets are cut at one node, and the first VLAN loops, where answers are lost", func(s *site) {
			cut(s)
			s.reflect(s.b, all[0])
			s.mute(all[0])
			s.gateways[all[0]].hears = append(s.gateways[all[0]].hears, loses(gatewayOf(all[0]), 1500, 99), loses(gateway6Of(all[0]), 1500, 99))
		}, func(*site) []string {
			return append([]string{atom(Loop, "*", all[0])}, each(MTUBelowIntent, "n1", all[1:])...)
		}, []int{0, 1280}},
		{"another has a gateway's address, and packets are cut", func(s *site) {
			cut(s)
			s.host(s.b, id, otherMAC, holds(gatewayOf(id)), echoes(gatewayOf(id), 600))
			for i := range s.nodes { // of IPv4 alone
				w := s.networkOf(i, id)
				w.Sources = w.Sources[:1]
			}
		}, func(*site) []string {
			return append([]string{atom(DuplicateAddress, "*", id)}, each(MTUBelowIntent, "n1", []vlan.ID{100, 102, 103})...)
		}, []int{0, 1280}},
		{"a gateway answers none but who has an address, and a port lets in one MAC", func(s *site) {
			s.shy(id)
			s.nodes[1].port.secure(s.nodes[1])
		}, func(s *site) []string { return each(MACFiltered, "n2", s.vlans) }, []int{0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newAddressed(0)
				tt.fault(s)
				r := s.check(t, Options{})
				if d := cmp.Diff(tt.want(s), atoms(r)); d != "" {
					t.Errorf("want -, got +\n%s", d)
				}
				var sizes []int
				for _, f := range r.Findings {
					sizes = append(sizes, f.LargestMTU)
				}
				slices.Sort(sizes)
				if d := cmp.Diff(tt.sizes, sizes); d != "" {
					t.Errorf("sizes: %s", d)
				}
			})
		})
	}
}
