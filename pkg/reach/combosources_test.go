package reach

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// addressedKinds are the faults of what is asked from sources, and what is none and masks others.
var addressedKinds = []string{"target", "targets", "hidden", "held", "wanted", "twins", "unsourced", "lone", "route", "cut", "mute", "shy", "arp"}

// amongAddressed has half of the faults be of addressedKinds, and most others in the same VLANs.
func (f fault) amongAddressed(r *rand.Rand) fault {
	own := r.IntN(2) == 0
	if own {
		f.kind = addressedKinds[r.IntN(len(addressedKinds))]
	}
	if own || r.IntN(4) > 0 {
		f.vlan = 100 + vlan.ID(r.IntN(int(addressedUpTo)-100+1))
	}
	return f
}

// plantAddressed is plant of addressedKinds.
func (f fault) plantAddressed(s *site, n *fakeNode, other probe.MAC) {
	w := s.networkOf(f.node, f.vlan)
	switch f.kind {
	case "target":
		s.silence(targetMAC(f.vlan))
	case "targets":
		s.host(s.b, f.vlan, other, holds(targetOf(f.vlan)))
	case "hidden":
		n.port.keep(func(fr probe.Frame) bool { return probe.MAC(fr.Data[6:12]) == targetMAC(f.vlan) })
	case "held":
		s.host(s.b, f.vlan, other, holds(f.address()))
	case "wanted":
		d := &detects{address4: addrOf("10.0.0.66"), address6: addrOf("fd00::66")}
		if f.address().Is4() {
			d.address4 = f.address()
		} else {
			d.address6 = f.address()
		}
		go d.run(s.host(s.b, f.vlan, other), s.over)
	case "twins":
		w.Sources = []netip.Addr{sourceOf(f.node^1, f.vlan), source6Of(f.node, f.vlan)}
	case "unsourced":
		w.Sources = nil
	case "lone":
		for i := range s.nodes {
			if i != f.node {
				s.networkOf(i, f.vlan).Sources = nil
			}
		}
	case "route":
		s.gateways[f.vlan].port.mtu = 1400
	case "cut":
		n.port.keep(isPacketAbove(1280))
	case "mute":
		s.mute(f.vlan)
	case "shy":
		s.shy(f.vlan)
	case "arp":
		n.port.keep(isARPReply)
	}
}

// address is that of a node which somebody else has, or is about to take: one of either family.
func (f fault) address() netip.Addr {
	if f.vlan%2 == 0 {
		return sourceOf(f.node, f.vlan)
	}
	return source6Of(f.node, f.vlan)
}

// source is what a node was given to ask from, if it was.
func (v *inVLAN) source(n int, is4 bool) (a netip.Addr) {
	for _, x := range v.networkOf(n, v.id).Sources {
		if x.Is4() == is4 {
			a = x
		}
	}
	return a
}

// askers are who asks for a node whether anybody has its source, two at most, who come next: they hear each other, have a
// source of the family themselves, and their ports let in the MAC that asks.
func (v *inVLAN) askers(n int, is4 bool) (list []int) {
	for i := range 3 {
		p := (n + 1 + i) % 4
		if slices.Contains(v.here, p) && len(list) < maxAskers && v.cutOff(p) == "" && v.cutOff(n) == "" && (!v.between || p >= 2 == (n >= 2)) && v.source(p, is4).IsValid() && !v.has("secured", p, 0) {
			list = append(list, p)
		}
	}
	return list
}

// vouched: it was asked by others, too, or there is no other. Who is down is another.
func (v *inVLAN) vouched(n int, is4 bool) bool {
	others := slices.ContainsFunc([]int{0, 1, 2, 3}, func(p int) bool { return p != n && !v.has("absent", p, 0) })
	return !others || slices.ContainsFunc(v.askers(n, is4), func(p int) bool { return !is4 || !v.vain(p) })
}

// vain: a node gets no answers by ARP, and hears another that gets the gateway's.
func (v *inVLAN) vain(p int) bool {
	gateway := !v.has("silent", -1, v.id) && !v.has("shy", -1, v.id)
	answers := gateway && (!v.between || p < 2) || v.has("two", -1, v.id) && (!v.between || p >= 2)
	return v.has("arp", p, 0) && answers && slices.ContainsFunc(v.here, func(q int) bool {
		return q != p && v.cutOff(q) == "" && !v.has("arp", q, 0) && (!v.between || q >= 2 == (p >= 2))
	})
}

// taken says that a node's source is somebody else's, and that this is known: another node is to ask from it, which is
// known without asking, or a host has it, or wants it, at the second switch. Who wants it says so by itself, who has it
// answers who can ask and hear the answer: that is the node or one of its askers.
func (v *inVLAN) taken(n int, is4 bool) bool {
	a := v.source(n, is4)
	for p := range 4 {
		if p != n && !v.has("absent", p, 0) && v.source(p, is4) == a {
			return a.IsValid()
		}
	}
	hears := func(p int) bool { return !v.has("secured", p, 0) && !(is4 && v.has("arp", p, 0)) }
	heard := hears(n) || slices.ContainsFunc(v.askers(n, is4), hears)
	return v.vouched(n, is4) && v.secondAt(n) && slices.ContainsFunc(v.faults, func(f fault) bool {
		return f.vlan == v.id && f.address() == a && (f.kind == "wanted" || f.kind == "held" && heard)
	})
}

// uses says that a node asks from its source.
func (v *inVLAN) uses(n int, is4 bool) bool {
	return v.source(n, is4).IsValid() && v.vouched(n, is4) && !v.taken(n, is4)
}

// addressed is what is found by what is asked from sources; none of it where the VLAN loops or leaks.
func (v *inVLAN) addressed() {
	for _, is4 := range []bool{true, false} {
		for _, n := range v.sound {
			if v.taken(n, is4) {
				v.find(DuplicateAddress, n, v.id)
			}
		}
		if v.id > native && v.id <= addressedUpTo && v.site.addressed {
			v.targets(is4)
			v.echoes(is4)
		}
	}
}

// targets: the host at the second switch, and another that has its IPv4 address. Where a node's MAC is filtered, or
// what comes of the gateway, it is told of that; there nothing is said of targets.
func (v *inVLAN) targets(is4 bool) {
	var without []int
	asked := 0
	for _, n := range v.sound {
		if !v.uses(n, is4) {
			continue
		}
		from := 0
		if v.secondAt(n) && !v.has("secured", n, 0) && !(is4 && v.has("arp", n, 0)) {
			if !v.has("target", -1, v.id) && !v.has("hidden", n, v.id) {
				from++
			}
			if is4 && v.has("targets", -1, v.id) {
				from++
			}
		}
		if from > 1 {
			v.find(DuplicateAddress, -1, v.id)
		}
		if slices.Contains(v.secured, n) || slices.Contains(v.filtered, n) {
			continue
		}
		if asked++; from == 0 {
			without = append(without, n)
		}
	}
	for _, n := range without {
		if len(without) == asked {
			n = -1
		}
		v.find(TargetSilent, n, v.id)
	}
}

// echoes: who has an answer to a small one, but not to one of full size. That is masked by what is found between nodes, and
// in IPv4 where two have the gateway's address: one of them answers echoes. Where it is so for all who ask, it is no node's.
func (v *inVLAN) echoes(is4 bool) {
	if is4 && v.two || v.has("mute", -1, v.id) {
		return
	}
	asked := 0
	var without []int
	for _, n := range v.sound {
		if !v.uses(n, is4) || !v.gatewayAt(n) || v.has("secured", n, 0) || is4 && v.has("arp", n, 0) || slices.Contains(v.small, n) {
			continue
		}
		if asked++; v.has("cut", n, 0) || v.has("route", -1, v.id) {
			without = append(without, n)
		}
	}
	for _, n := range without {
		if len(without) == asked {
			n = -1
		}
		v.find(mtuToGateway, n, v.id)
	}
}

// mtuToGateway is an MTUBelowIntent that is not one between nodes, as tellGateways has it.
const mtuToGateway = MTUBelowIntent + " " + toGateway

func tellGateways(r *Report) *Report {
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Code == MTUBelowIntent && strings.Contains(f.Message, toGateway[1:]) {
			f.Code = mtuToGateway
		}
	}
	return r
}

// watchSources notes which sources are sent from, by node and VLAN.
func (s *site) watchSources() map[string]bool {
	used := map[string]bool{}
	for i, n := range s.nodes {
		n.sends = func(fr probe.Frame) {
			var from netip.Addr
			switch data := fr.Data; {
			case data[12] == 8 && data[13] == 6:
				from = netip.AddrFrom4([4]byte(data[28:]))
			case data[12] == 8 && data[13] == 0:
				from = netip.AddrFrom4([4]byte(data[26:]))
			case data[12] == 0x86 && data[13] == 0xdd:
				from = netip.AddrFrom16([16]byte(data[22:]))
			}
			if id := fr.VLAN; id > native && id <= addressedUpTo && slices.Contains(s.networkOf(i, id).Sources, from) {
				used[fmt.Sprint(n.Node(), " ", id, " ", from)] = true
			}
		}
	}
	return used
}

// expectedUse are the sources that nodes ask from. Where the VLAN loops or leaks it is what was.
func expectedUse(s *site, faults []fault, used map[string]bool) map[string]bool {
	want := map[string]bool{}
	o := &oracle{site: s, faults: faults}
	for id := vlan.ID(100); id <= addressedUpTo; id++ {
		v := o.in(id)
		unclear := o.has("loop", -1, id) || o.has("leak", -1, id) || o.has("leak", -1, id-1)
		for _, n := range v.here {
			for _, is4 := range []bool{true, false} {
				key := fmt.Sprint(s.nodes[n].Node(), " ", id, " ", v.source(n, is4))
				if unclear && used[key] || !unclear && v.uses(n, is4) {
					want[key] = true
				}
			}
		}
	}
	return want
}

// TestVainAskers: combinations that few seeds draw: the only node that could ask for another's source gets no answers.
func TestVainAskers(t *testing.T) {
	for _, faults := range [][]fault{{{"between", 0, 101}, {"arp", 1, 101}}, {{"absent", 2, 101}, {"down", 3, 101}, {"arp", 1, 101}}} {
		inBubble(t, func(t *testing.T) {
			s := newAddressed(3)
			for _, f := range faults {
				f.plant(s)
			}
			used := s.watchSources()
			r := s.check(t, Options{})
			close(s.over)
			if d := cmp.Diff(expected(s, faults), atoms(tellGateways(r))); d != "" {
				t.Errorf("planted %v: expected -, found +\n%s", faults, d)
			}
			if d := cmp.Diff(expectedUse(s, faults, used), used); d != "" {
				t.Errorf("planted %v: sources that should be used -, that were +\n%s", faults, d)
			}
		})
	}
}
