package reach

import (
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// question is one of a node for an address in a VLAN; for the zero one it is a DISCOVER.
type question struct {
	vlan   vlan.ID
	target netip.Addr
}

// again says which questions of the slow classes are worth another round. Silence is believed after as
// many questions as there are rounds, but not each by itself: where a node has no answer at all in many VLANs,
// or no node has one in a VLAN, the questions of all of them count, or a router that is down in a hundred VLANs
// would take a minute.
type again struct {
	rounds int
	pools  map[poolKey]pool
}

// poolKey is a node's questions of one class, in the VLANs in which it hears peers, or they hear it, or in
// those in which it is cut off from them.
type poolKey struct {
	s     *station
	class probe.Class
	cut   bool
}

// pool is how many there were, and answers.
type pool struct{ asked, answered int }

// wantsOffer says that DHCP servers are asked.
func (g *segment) wantsOffer(o *Options) bool { return o.wants(TestDHCP) && (o.DHCP || g.dhcp) }

// cut says that a member has peers, and hears none of them nor is heard.
func (g *segment) cut(s *station) bool {
	others := 0
	for _, p := range g.active() {
		if p == s {
			continue
		}
		if others++; g.heard(s, p, probe.Hello) || g.heard(p, s, probe.Hello) {
			return false
		}
	}
	return others > 0
}

// got says that a member has the answer to a question.
func (g *segment) got(s *station, a netip.Addr) bool {
	if !a.IsValid() {
		return len(s.obs.In(g.tagAt(s)).Offers) > 0
	}
	return g.answered(s, a)
}

func slowClass(a netip.Addr) probe.Class {
	if !a.IsValid() {
		return probe.ClassDHCP
	}
	return probe.Ask{Kind: probe.Gateway, Target: a}.Class()
}

// again counts what was asked up to now.
func (c *check) again() *again {
	w := &again{rounds: c.options.Rounds, pools: map[poolKey]pool{}}
	for _, g := range c.segments {
		for _, s := range g.active() {
			cut := g.cut(s)
			for _, a := range append([]netip.Addr{{}}, g.gateways...) {
				n := s.tries[question{g.vlan, a}]
				if n == 0 {
					continue
				}
				k := poolKey{s, slowClass(a), cut}
				p := w.pools[k]
				p.asked += n
				if g.got(s, a) {
					p.answered++
				}
				w.pools[k] = p
			}
		}
	}
	return w
}

// worth says whether to ask, and counts it; nil is of a plan.
func (w *again) worth(g *segment, s *station, a netip.Addr) bool {
	if w == nil {
		return true
	}
	q := question{g.vlan, a}
	if s.tries[q] > 0 {
		cut := g.cut(s)
		p := w.pools[poolKey{s, slowClass(a), cut}]
		if p.answered == 0 && p.asked >= 2*w.rounds || !cut && g.nobodyGot(a, 2*w.rounds) {
			return false
		}
	}
	if s.tries == nil {
		s.tries = map[question]int{}
	}
	s.tries[q]++
	return true
}

// nobodyGot says that members who are not cut off have asked so often, and none has an answer.
func (g *segment) nobodyGot(a netip.Addr, often int) bool {
	asked := 0
	for _, s := range g.active() {
		if g.got(s, a) {
			return false
		}
		if !g.cut(s) {
			asked += s.tries[question{g.vlan, a}]
		}
	}
	return asked >= often
}
