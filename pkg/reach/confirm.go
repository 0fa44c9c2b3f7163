package reach

import (
	"context"
	"net/netip"
	"slices"

	"github.com/homeport-cni/homeport/pkg/probe"
)

const (
	// maxAlike is in how many VLANs sizes to gateways are looked at. An MTU is the same in many, so that one of
	// them stands for them; where there are more that are not alike, answers are missing at random.
	maxAlike = 4
	// maxConfirmed is how many are asked again, one after the other; those that get no answer up to confirmTimes.
	maxConfirmed = 32
	confirmTimes = 3
)

// confirmEchoes asks for full size once more, while nothing else is asked, and for a smaller one right after: routers
// limit what they answer, the large first, and only where the smaller one gets its answer again is it the size.
func (c *check) confirmEchoes(ctx context.Context, measured []*segment) {
	type one struct {
		g *segment
		own
		tries int
	}
	var list []one
	for _, g := range measured {
		g.confirmed = map[own]bool{}
		for _, a := range g.gateways {
			bad := g.tooLargeFor(a)
			if g.nobodyPasses(a) {
				bad = bad[:min(1, len(bad))] // one of them for all
			}
			for _, s := range bad {
				list = append(list, one{g, own{s, a}, 0})
			}
		}
	}
	for i := 0; i < min(len(list), maxConfirmed); i++ {
		o := list[i]
		c.progress("asking for full size to gateways again", i, min(len(list), maxConfirmed))
		asks := map[*station][]probe.Ask{}
		before := o.g.confirm(o.own, asks)
		if !c.say(ctx, asks) {
			return
		}
		o.g.believe(o.own, before)
		if o.tries++; o.g.echoed(o.station, o.address).Count == before && o.tries < confirmTimes {
			list = append(list, o) // it was lost, or too soon
		}
	}
}

// clearFirst are the segments, those last in which hellos came where they should not: where a VLAN loops or leaks answers
// go astray, and another should stand for those that are alike.
func (c *check) clearFirst() []*segment {
	astray := func(g *segment) bool {
		return slices.ContainsFunc(g.members, func(s *station) bool {
			return slices.ContainsFunc(s.meant[g.vlan], func(h located) bool {
				return h.in != g.tagAt(s) || h.Node == s.node && h.Uplink == s.Uplink
			})
		})
	}
	var clear, last []*segment
	for _, g := range c.segments {
		if astray(g) {
			last = append(last, g)
		} else {
			clear = append(clear, g)
		}
	}
	return append(clear, last...)
}

// byEcho are members by the largest echo that a gateway answers. Where it answers nobody's of full size that is one
// cause, and the largest of all is its size: what one has is less where answers were lost, or its own way is narrower yet.
func (v *view) byEcho(bad []*station, a netip.Addr, all bool) map[int][]*station {
	sizes := map[int][]*station{}
	for _, s := range bad {
		size := v.largestEcho(s, a)
		if all {
			for _, p := range bad {
				size = max(size, v.largestEcho(p, a))
			}
		}
		sizes[size] = append(sizes[size], s)
	}
	return sizes
}

// tooLargeFor are members to whose echoes of full size a gateway does not answer.
func (g *segment) tooLargeFor(a netip.Addr) []*station {
	return slices.DeleteFunc(g.active(), func(s *station) bool { return !g.echoTooLarge(s, a) })
}

// nobodyPasses says that a gateway answers nobody's of full size.
func (g *segment) nobodyPasses(a netip.Addr) bool {
	return !slices.ContainsFunc(g.active(), func(s *station) bool { return g.echoed(s, a).Largest >= g.asked(s) })
}

// confirm asks for full size, and for what has passed; it gives the number of answers before that.
func (g *segment) confirm(o own, to map[*station][]probe.Ask) int {
	s, e := o.station, g.echoed(o.station, o.address)
	source, ok := g.asksFrom(s, o.address)
	mac, known := g.macOf(s, o.address)
	if !ok || !known {
		return e.Count
	}
	for _, size := range []int{g.asked(s), e.Largest} {
		to[s] = append(to[s], probe.Ask{VLAN: g.vlan, Untagged: s.Native == g.vlan, Kind: probe.Echo, Target: o.address, Source: source, To: mac, Size: size})
	}
	return e.Count
}

// believe takes what came of confirm.
func (g *segment) believe(o own, before int) {
	if !g.echoTooLarge(o.station, o.address) || g.echoed(o.station, o.address).Count == before {
		return
	}
	g.confirmed[o] = true
	if g.nobodyPasses(o.address) {
		for _, s := range g.tooLargeFor(o.address) {
			g.confirmed[own{s, o.address}] = true
		}
	}
}

// isConfirmed says that it is the size that a gateway does not answer, here or in the VLAN that was looked at.
func (g *segment) isConfirmed(s *station, a netip.Addr) bool {
	if g.like == nil {
		return false
	}
	return slices.ContainsFunc(g.like.gateways, func(other netip.Addr) bool { return other.Is4() == a.Is4() && g.like.confirmed[own{s, other}] })
}

// hearsTwo is a member that has answers for an address from more than one MAC, to whichever of its own.
func (g *segment) hearsTwo(a netip.Addr) *station {
	for _, s := range g.active() {
		if len(g.answersFor(s, a)) > 1 {
			return s
		}
	}
	return nil
}

// answersFor are how many answers a member has for an address, by who sent them.
func (g *segment) answersFor(s *station, a netip.Addr) map[probe.MAC]int {
	macs := map[probe.MAC]int{}
	for _, c := range s.obs.In(g.tagAt(s)).Claims {
		if c.Address == a && c.Answers > 0 {
			macs[c.MAC] = c.Answers
		}
	}
	return macs
}

// askAgain asks for an address from the member's source, if that has answers of two MACs, else from no address: there are
// gateways that answer none but who has one.
func (g *segment) askAgain(s *station, a netip.Addr, to map[*station][]probe.Ask) {
	addressed := 0
	for _, c := range s.obs.In(g.tagAt(s)).Claims {
		if c.Address == a && c.Addressed > 0 {
			addressed++
		}
	}
	ask := probe.Ask{VLAN: g.vlan, Untagged: s.Native == g.vlan, Kind: probe.Gateway, Target: a}
	if source, ok := g.asksFrom(s, a); ok && (addressed > 1 || !g.asksFor(s, a)) {
		ask.Kind, ask.Source = probe.Host, source
	} else if !g.asksFor(s, a) {
		return
	}
	to[s] = append(to[s], ask)
}

// confirmTwo asks once more for addresses that answer from more than one MAC, by one node each, while nothing else is asked: a
// router that shares its load answers each question from one of several (GLBP), and two stations that have an address answer
// each question twice. What another check asks for from the same node would be answered, too; then nothing is said.
func (c *check) confirmTwo(ctx context.Context) {
	type one struct {
		g     *segment
		s     *station
		a     netip.Addr
		times int
	}
	var list []*one
	for _, g := range c.segments {
		g.two = map[netip.Addr]bool{}
		for _, a := range union(slices.Clone(g.gateways), g.hosts) {
			if s := g.hearsTwo(a); s != nil {
				list = append(list, &one{g: g, s: s, a: a})
			}
		}
	}
	open := list[:min(len(list), maxConfirmed)]
	for i := range 2 * confirmTimes {
		// Twice is no chance; and of two stations both answers are not lost time after time.
		open = slices.DeleteFunc(slices.Clone(open), func(o *one) bool { return o.times > 1 || o.times == 0 && i == confirmTimes })
		if len(open) == 0 {
			break
		}
		c.progress("asking again who has two MACs", i, 2*confirmTimes)
		asks, before := map[*station][]probe.Ask{}, map[*one]map[probe.MAC]int{}
		for _, o := range open {
			before[o] = o.g.answersFor(o.s, o.a)
			o.g.askAgain(o.s, o.a, asks)
		}
		if !c.say(ctx, asks) || !c.wait(ctx, c.options.Settle) || !c.observe(ctx) {
			return
		}
		for _, o := range open {
			more := 0
			for m, n := range o.g.answersFor(o.s, o.a) {
				if n > before[o][m] {
					more++
				}
			}
			if more > 1 {
				o.times++
			}
		}
	}
	together := slices.ContainsFunc(c.stations, func(s *station) bool { return s.obs.Together })
	for _, o := range list {
		o.g.two[o.a] = o.times > 1 && !together
	}
}
