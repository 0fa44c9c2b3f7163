package reach

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gopacket/gopacket"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestStandings: a node whose VLAN is at fault stands badly, by the whole report as by its own part, and no
// node does for what is wrong everywhere or may be another's.
func TestStandings(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(*site)
		want  string // of n1 to n4 in VLAN 105
	}{
		"well":                 {func(*site) {}, "++++"},
		"not trunked":          {func(s *site) { s.nodes[1].port.remove(105) }, "+-++"},
		"another VLAN is not":  {func(s *site) { s.nodes[1].port.remove(106) }, "++++"},
		"link down":            {func(s *site) { s.nodes[1].desc.Trunks[0].Down = "no carrier" }, "+-++"},
		"between switches":     {func(s *site) { s.ab.remove(105) }, "++--"},
		"one way":              {func(s *site) { s.nodes[2].port.noOut = everything }, "++-+"},
		"port security":        {func(s *site) { s.nodes[1].port.secure(s.nodes[1]) }, "+-++"},
		"MTU of a port":        {func(s *site) { s.nodes[1].port.mtu = 1400 }, "+-++"},
		"MTU between switches": {func(s *site) { s.ab.mtu = 1400 }, "++++"},
		"MTU everywhere, and one without a link": {func(s *site) {
			for _, n := range s.nodes {
				n.port.mtu = 1400
			}
			s.nodes[3].desc.Trunks[0].Down = "no carrier"
		}, "+++-"},
		"MTU everywhere, and one not trunked": {func(s *site) {
			for _, n := range s.nodes {
				n.port.mtu = 1400
			}
			s.nodes[3].port.remove(105)
		}, "+++-"},
		"port security everywhere": {func(s *site) {
			for _, n := range s.nodes {
				n.port.secure(n)
			}
		}, "++++"},
		"trunked nowhere": {func(s *site) {
			for _, n := range s.nodes {
				n.port.remove(105)
			}
		}, "????"},
		"gateway silent":              {func(s *site) { s.gateways[105].silent = true }, "++++"},
		"gateway filtered":            {func(s *site) { s.nodes[2].port.noOut = isARPReply }, "++-+"},
		"two have the address":        {func(s *site) { s.host(s.b, 105, otherMAC, holds(gatewayOf(105))) }, "++++"},
		"the switch does not list it": {func(s *site) { s.nodes[1].port.hides = setOf(105) }, "++++"},
		"two protected ports":         {func(s *site) { s.apart(s.nodes[0], s.nodes[1]) }, "??++"},
		"one does not hear two": {func(s *site) {
			s.nodes[3].port.noOut = func(f probe.Frame) bool {
				from := probe.MAC(f.Data[6:12])
				return from == s.nodes[1].desc.Trunks[0].MAC || from == s.nodes[2].desc.Trunks[0].MAC
			}
		}, "+++-"},
		"one does not hear another": {func(s *site) {
			s.nodes[3].port.noOut = func(f probe.Frame) bool { return probe.MAC(f.Data[6:12]) == s.nodes[1].desc.Trunks[0].MAC }
		}, "+?+?"},
		"a loop":              {func(s *site) { s.reflect(s.b, 105) }, "????"},
		"no agent":            {func(s *site) { s.nodes[1].absent = fmt.Errorf("connection refused") }, "+?++"},
		"nothing can be sent": {func(s *site) { s.nodes[1].fails = fmt.Errorf("operation not permitted") }, "+?++"},
		"two left, who cannot both be right": {func(s *site) {
			s.nodes = s.nodes[1:3]
			s.ab.remove(105)
			s.gateways[105].silent, s.gateways[105].hears = true, []func(*host, probe.Frame, gopacket.Packet){}
		}, " ?? "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(7)
				c.fault(s)
				r := s.check(t, Options{})
				got := []byte("    ")
				for _, n := range s.nodes {
					is, why := r.Standing(n.Node(), "physnet1", setOf(105))
					part, partWhy := r.Of(n.Node()).Standing(n.Node(), "physnet1", setOf(105))
					if part != is || partWhy != why || (is == Well) != (why == "") {
						t.Errorf("%s: %s (%s), by its part %s (%s)", n.Node(), is, why, part, partWhy)
					}
					got[n.Node()[1]-'1'] = map[Standing]byte{Well: '+', Unwell: '-', Unknown: '?'}[is]
				}
				if string(got) != c.want {
					t.Errorf("got %q, want %q: %v", got, c.want, r.Findings)
				}
			})
		})
	}
}

// TestStandingEchoes: what a gateway does not answer may be its own limit, and is held against no node.
func TestStandingEchoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAddressed(7)
		s.nodes[3].port.noOut = isPacketAbove(1280)
		r := s.check(t, Options{VLANs: setOf(101)})
		if is, why := r.Standing("n4", "physnet1", setOf(101)); is != Well || !slices.Contains(atoms(r), atom(MTUBelowIntent, "n4", 101)) {
			t.Errorf("%s: %s; %v", is, why, atoms(r))
		}
	})
}

// TestOf: a node's part has its cells and what concerns it, and counts them.
func TestOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(7)
		s.nodes[1].port.remove(105)
		s.nodes[2].port.remove(106)
		s.gateways[107].silent = true
		r := s.check(t, Options{})
		part := r.Of("n2")
		var codes []string
		for _, f := range part.Findings {
			codes = append(codes, string(f.Code)+" "+f.VLANs.String())
		}
		slices.Sort(codes)
		if got := strings.Join(codes, ", "); got != "GATEWAY_SILENT 107, NOT_TRUNKED 105" || part.Summary.Errors != 2 {
			t.Errorf("findings %s, %+v", got, part.Summary)
		}
		for _, c := range part.Cells {
			if c.Node != "n2" {
				t.Fatalf("a cell of another: %+v", c)
			}
		}
		if len(part.Nodes) != 1 || part.Summary.Cells != len(part.Cells) || part.Summary.Cells*4 != r.Summary.Cells || len(r.Findings) != 3 {
			t.Errorf("part %+v of %+v", part.Summary, r.Summary)
		}
		if is, why := r.Standing("n1", "physnet1", vlan.Set{}); is != Unknown || why != "it has no VLANs" {
			t.Errorf("no VLANs: %s, %s", is, why)
		}
	})
}
