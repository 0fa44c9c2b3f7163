package reach

import (
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// question is one of a node, in a VLAN, for an address if it is for one.
type question struct {
	vlan   vlan.ID
	what   asked
	target netip.Addr
}

// asked is what a question is for.
type asked int

const (
	anOffer     asked = iota // DISCOVER
	aGateway                 // from no address
	aTarget                  // from a source
	aGatewayToo              // from a source, so that it learns the source's MAC
	anEcho
)

// again says which questions of the slow classes are worth another round. Silence is believed after as
// many questions as there are rounds, but not each by itself: where a node has no answer at all in many VLANs,
// or no node has one in a VLAN, the questions of all of them count, or a router that is down in a hundred VLANs
// would take a minute.
type again struct {
	rounds int
	pools  map[poolKey]pool
}

// poolKey is a node's questions for one thing, by ARP or ND, in the VLANs in which it hears peers, or they hear it, or in
// those in which it is cut off from them.
type poolKey struct {
	s    *station
	what asked
	is4  bool
	cut  bool
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
func (g *segment) got(s *station, q question) bool {
	switch q.what {
	case anOffer:
		return len(s.obs.In(g.tagAt(s)).Offers) > 0
	case aGatewayToo:
		return g.answeredFrom(s, q.target)
	case anEcho:
		return g.echoed(s, q.target).Count > 0
	}
	return g.answered(s, q.target)
}

// pool of a question.
func (q question) pool(s *station, cut bool) poolKey { return poolKey{s, q.what, q.target.Is4(), cut} }

// questions are all that may be asked in the segment.
func (g *segment) questions() []question {
	list := []question{{vlan: g.vlan, what: anOffer}}
	for _, a := range g.gateways {
		list = append(list, question{g.vlan, aGateway, a}, question{g.vlan, aGatewayToo, a}, question{g.vlan, anEcho, a})
	}
	for _, a := range g.hosts {
		list = append(list, question{g.vlan, aTarget, a})
	}
	return list
}

// again counts what was asked up to now.
func (c *check) again() *again {
	w := &again{rounds: c.options.Rounds, pools: map[poolKey]pool{}}
	for _, g := range c.segments {
		questions := g.questions()
		for _, s := range g.active() {
			cut := g.cut(s)
			for _, q := range questions {
				n := s.tries[q]
				if n == 0 {
					continue
				}
				p := w.pools[q.pool(s, cut)]
				p.asked += n
				if g.got(s, q) {
					p.answered++
				}
				w.pools[q.pool(s, cut)] = p
			}
		}
	}
	return w
}

// worth says whether to ask, and counts it; nil is of a plan.
func (w *again) worth(g *segment, s *station, what asked, a netip.Addr) bool {
	if w == nil {
		return true
	}
	q := question{g.vlan, what, a}
	if s.tries[q] > 0 {
		cut := g.cut(s)
		p := w.pools[q.pool(s, cut)]
		if p.answered == 0 && p.asked >= 2*w.rounds || !cut && g.nobodyGot(q, 2*w.rounds) {
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
func (g *segment) nobodyGot(q question, often int) bool {
	asked := 0
	for _, s := range g.active() {
		if g.got(s, q) {
			return false
		}
		if !g.cut(s) {
			asked += s.tries[q]
		}
	}
	return asked >= often
}
