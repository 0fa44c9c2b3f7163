package reach

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/probe"
)

// smallEcho is a size that passes everywhere, as an MTU.
const smallEcho = 128

// maxAskers are the peers who ask for a source, and how often they do in all.
const maxAskers = 2

// detectionWaits come after each question for a source.
var detectionWaits = [probe.Detections]time.Duration{probe.DetectionGap, probe.DetectionGap, probe.DetectionWait}

// noSource is why a node does not ask.
const noSource = "the node has no address of this subnet in reachability.sources to ask from"

// noAsker is why it does not, though it has one.
const noAsker = "no other node could ask whether a VM of the node has the address that it is to ask from"

// toGateway is the message of an MTU that is not one between nodes.
const toGateway = "on the way to the gateway, or the gateway limits large or many echo requests"

// own is a source of a station.
type own struct {
	*station
	address netip.Addr
}

// sourceIn is the address that a member may ask another from, of one subnet with it: hosts of another may not answer.
func (g *segment) sourceIn(s *station, target netip.Addr) netip.Addr {
	var best netip.Addr
	most := -1
	for _, p := range g.subnets {
		for _, a := range g.sourcesOf(s) {
			if p.Contains(a) && p.Contains(target) && p.Bits() > most {
				best, most = a, p.Bits()
			}
		}
	}
	return best
}

// sourcesOf are all that a member may ask from in the segment.
func (g *segment) sourcesOf(s *station) (list []netip.Addr) {
	for _, n := range s.Networks {
		if n.Home == g.vlan {
			list = union(list, n.Sources)
		}
	}
	return list
}

// wantsTarget says that the node itself names a target in this VLAN.
func (g *segment) wantsTarget(s *station, a netip.Addr) bool {
	return slices.ContainsFunc(s.Networks, func(n Network) bool { return n.Home == g.vlan && slices.Contains(n.Targets, a) })
}

// heldBy says who else has a source of a member, as the member itself or a peer knows; "" is nobody.
func (g *segment) heldBy(s *station, source netip.Addr) string {
	for _, p := range g.members {
		if p != s && slices.Contains(g.sourcesOf(p), source) {
			return fmt.Sprintf("%s is to ask from it, too", p.node)
		}
	}
	for _, x := range s.obs.Sources {
		if x.Tag == g.tagAt(s) && x.Address == source && x.Held != (probe.MAC{}) {
			return fmt.Sprintf("%v has it, %s hears", x.Held, s.node)
		}
	}
	for _, p := range g.members {
		for _, c := range p.obs.In(g.tagAt(p)).Claims {
			if c.Address == source && c.MAC != s.MAC.Foreign() {
				return fmt.Sprintf("%v has it, %s hears", c.MAC, p.node)
			}
		}
	}
	return ""
}

// asksFrom is the source by which a member reaches an address, if it has one that is its own.
func (g *segment) asksFrom(s *station, target netip.Addr) (netip.Addr, bool) {
	a := g.sourceIn(s, target)
	return a, a.IsValid() && g.heldBy(s, a) == "" && g.shared(s, a)
}

// shared says that a peer, too, has asked whether anybody has a source, if there is any: what the node
// itself sends, its own VMs do not hear. One that gets no answers where those whom it hears do has asked in vain.
func (g *segment) shared(s *station, source netip.Addr) bool {
	filtered := func(p *station) bool {
		return slices.ContainsFunc(g.gateways, func(a netip.Addr) bool {
			return a.Is4() == source.Is4() && g.asksFor(p, a) && !g.answeredNone(p, a) && !g.isOwn(p, a.String()) &&
				slices.ContainsFunc(g.members, func(o *station) bool { return g.answeredNone(o, a) && g.heard(o, p, probe.Hello) })
		})
	}
	asked := func(p *station) bool {
		return slices.Contains(g.members, p) && !filtered(p) && !slices.ContainsFunc(p.obs.Unsent, func(u probe.Unsent) bool { return u.VLAN == g.vlan && u.Kind == probe.Detect })
	}
	return g.alone || slices.ContainsFunc(g.askers[own{s, source}], asked)
}

// mayAsk are two peers who have sources themselves (others know nothing of them), and hear the node and are heard,
// with the MAC that asks, too: what would be answered gets there.
func (g *segment) mayAsk(o *Options, s *station) (list []*station) {
	for _, p := range g.after(s) {
		hear := g.heard(s, p, probe.Hello) && g.heard(p, s, probe.Hello) && (!o.wants(TestMAC) || g.heard(p, s, probe.Foreign))
		if len(list) < maxAskers && len(g.sourcesOf(p)) > 0 && hear {
			list = append(list, p)
		}
	}
	return list
}

// echoed is the answer of an address to a member's echo requests.
func (g *segment) echoed(s *station, a netip.Addr) probe.Echoed {
	for _, e := range s.obs.In(g.tagAt(s)).Echoes {
		if e.Address == a {
			return e
		}
	}
	return probe.Echoed{}
}

// macOf is who has answered for an address, most often if more than one has. A group's MAC is no station's.
func (g *segment) macOf(s *station, a netip.Addr) (m probe.MAC, ok bool) {
	most := 0
	for _, c := range s.obs.In(g.tagAt(s)).Claims {
		if c.Address == a && c.Answers > most && !c.MAC.IsGroup() {
			m, most = c.MAC, c.Answers
		}
	}
	return m, most > 0
}

// fromSources asks what takes an address of one's own, where nodes were given any: first whether anybody
// has it, then targets, and gateways for echoes.
func (c *check) fromSources(ctx context.Context) {
	any := func(g *segment) bool {
		return slices.ContainsFunc(g.active(), func(s *station) bool { return g.sourcesOf(s) != nil })
	}
	if !slices.ContainsFunc(c.segments, any) || !c.options.wants(TestTarget) && !c.options.wants(TestMTU) {
		return
	}
	for round, wait := range detectionWaits {
		asks := map[*station][]probe.Ask{}
		for _, g := range c.segments {
			if round == 0 {
				g.findAskers(&c.options)
			}
			g.detect(round, asks)
		}
		c.progress("asking whether sources are free", round, probe.Detections)
		if !c.say(ctx, asks) || !c.wait(ctx, wait-c.options.Settle) || !c.observe(ctx) {
			return
		}
	}
	for round := range c.options.Rounds {
		asks := map[*station][]probe.Ask{}
		again := c.again()
		for _, g := range c.segments {
			g.asksFromSources(&c.options, round, again, asks)
		}
		if len(asks) == 0 {
			return
		}
		c.progress("asking from sources", round, c.options.Rounds)
		if !c.say(ctx, asks) {
			return
		}
	}
}

// findAskers says who asks for whose source.
func (g *segment) findAskers(o *Options) {
	g.askers, g.alone = map[own][]*station{}, len(g.members) == 1
	for _, s := range g.active() {
		for _, a := range g.sourcesOf(s) {
			g.askers[own{s, a}] = g.mayAsk(o, s)
		}
	}
}

// detect asks whether anybody has a source. Peers ask, too, each in a round of its own: of the node's own VMs, who do
// not hear what goes out of its uplink.
func (g *segment) detect(round int, to map[*station][]probe.Ask) {
	for _, s := range g.active() {
		for _, a := range g.sourcesOf(s) {
			if g.heldBy(s, a) != "" || !g.alone && g.askers[own{s, a}] == nil {
				continue
			}
			to[s] = append(to[s], probe.Ask{VLAN: g.vlan, Untagged: s.Native == g.vlan, Kind: probe.Detect, Target: a, Source: a})
			if peers := g.askers[own{s, a}]; len(peers) > 0 && round < maxAskers {
				p := peers[round%len(peers)]
				to[p] = append(to[p], probe.Ask{VLAN: g.vlan, Untagged: p.Native == g.vlan, Kind: probe.Detect, Target: a})
			}
		}
	}
}

// asksFromSources adds what was not answered yet. Who is asked for an echo is asked for its MAC first, a
// round before, and so learns that of the source.
func (g *segment) asksFromSources(o *Options, round int, again *again, to map[*station][]probe.Ask) {
	for _, s := range g.active() {
		ask := func(a probe.Ask) {
			a.VLAN, a.Untagged = g.vlan, s.Native == g.vlan
			to[s] = append(to[s], a)
		}
		for _, a := range g.hosts {
			if source, ok := g.asksFrom(s, a); ok && o.wants(TestTarget) && g.wantsTarget(s, a) && !g.answered(s, a) && again.worth(g, s, aTarget, a) {
				ask(probe.Ask{Kind: probe.Host, Target: a, Source: source})
			}
		}
		if !o.wants(TestMTU) {
			continue
		}
		for _, a := range g.gateways {
			source, ok := g.asksFrom(s, a)
			has := g.echoed(s, a)
			if !ok || !g.asksFor(s, a) || has.Largest >= g.asked(s) {
				continue
			}
			if has.Count == 0 && !g.answeredFrom(s, a) && again.worth(g, s, aGatewayToo, a) {
				ask(probe.Ask{Kind: probe.Host, Target: a, Source: source})
			}
			if to, known := g.macOf(s, a); known && round > 0 && (has.Count > 0 || again.worth(g, s, anEcho, a)) {
				if has.Count == 0 {
					ask(probe.Ask{Kind: probe.Echo, Target: a, Source: source, To: to, Size: smallEcho})
				}
				ask(probe.Ask{Kind: probe.Echo, Target: a, Source: source, To: to, Size: g.asked(s)})
			}
		}
	}
}

// echoTooLarge says that an echo of full size gets no answer from a gateway, and a small one does.
func (g *segment) echoTooLarge(s *station, a netip.Addr) bool {
	e := g.echoed(s, a)
	return e.Count > 0 && e.Largest < g.asked(s)
}

// echoSizes finds the largest echo that gateways answer, in one VLAN of those in which the same nodes get
// no answer to those of full size.
func (c *check) echoSizes(ctx context.Context) {
	if !c.options.wants(TestMTU) {
		return
	}
	index := map[string]*segment{}
	alike := map[*segment]int{} // how many
	var measured []*segment
	for _, g := range c.clearFirst() {
		var who []string
		for _, s := range g.active() {
			for _, a := range g.gateways {
				if g.echoTooLarge(s, a) {
					who = append(who, fmt.Sprint(s.node, s.Uplink, a.Is4()))
				}
			}
		}
		if who == nil {
			continue
		}
		key := fmt.Sprint(g.trunk, g.mtu, strings.Join(who, ","))
		if index[key] == nil {
			index[key] = g
			measured = append(measured, g)
		}
		g.like = index[key]
		alike[g.like]++
	}
	slices.SortStableFunc(measured, func(a, b *segment) int { return alike[b] - alike[a] })
	measured = measured[:min(len(measured), maxAlike)]
	tried := map[string][]int{}
	for round := range sizeRounds {
		asks := map[*station][]probe.Ask{}
		for _, g := range measured {
			for _, s := range g.active() {
				g.nextEchoes(s, tried, asks)
			}
		}
		if len(asks) == 0 {
			break
		}
		c.progress("finding the largest size to gateways", round, sizeRounds)
		if !c.say(ctx, asks) {
			return
		}
	}
	c.confirmEchoes(ctx, measured)
}

// nextEchoes are of sizes between what was answered and the least that was tried and was not.
func (g *segment) nextEchoes(s *station, tried map[string][]int, to map[*station][]probe.Ask) {
	for _, a := range g.gateways {
		source, ok := g.asksFrom(s, a)
		mac, known := g.macOf(s, a)
		if !ok || !known || !g.echoTooLarge(s, a) {
			continue
		}
		key := fmt.Sprint(s.node, s.Uplink, g.vlan, a)
		next := between(g.echoed(s, a).Largest, g.asked(s), tried[key])
		tried[key] = append(tried[key], next...)
		for range stepTimes {
			for _, size := range next {
				to[s] = append(to[s], probe.Ask{VLAN: g.vlan, Untagged: s.Native == g.vlan, Kind: probe.Echo, Target: a, Source: source, To: mac, Size: size})
			}
		}
	}
}

// largestEcho is the largest that a gateway answers, here or in the VLAN where it was measured.
func (g *segment) largestEcho(s *station, a netip.Addr) int {
	size := g.echoed(s, a).Largest
	if g.like == nil {
		return size
	}
	for _, other := range g.like.gateways {
		if other.Is4() == a.Is4() {
			size = max(size, g.like.echoed(s, other).Largest)
		}
	}
	return size
}

// ownAddresses finds sources that somebody else has.
func (v *view) ownAddresses() {
	if v.unclear != "" {
		return
	}
	for _, s := range v.clear() {
		for _, a := range v.sourcesOf(s) {
			if by := v.heldBy(s, a); by != "" {
				v.claim(claim{code: DuplicateAddress, nodes: []string{s.node}, targets: []string{a.String()}, message: "it was to be asked from on " + s.node + ", and was not used",
					evidence: []string{by}})
			}
		}
	}
}

// silentHosts finds targets that are silent, to all who ask or to some, or two.
func (v *view) silentHosts() {
	if v.unclear != "" {
		return
	}
	var silent []string
	var by []*station
	filtered := map[*station][]string{}
	for _, a := range v.segment.hosts {
		asked := slices.DeleteFunc(v.clear(), func(s *station) bool { return v.noTarget(s, a) != "" })
		with := slices.DeleteFunc(slices.Clone(asked), func(s *station) bool { return !v.answered(s, a) })
		v.twoHave(a)
		switch {
		case len(asked) == 0:
		case len(with) == 0:
			silent, by = append(silent, a.String()), asked
		default:
			for _, s := range asked {
				if !slices.Contains(with, s) {
					filtered[s] = append(filtered[s], a.String())
				}
			}
		}
	}
	if silent != nil {
		v.claim(claim{code: TargetSilent, targets: silent, evidence: []string{fmt.Sprintf("asked on %s", names(by))}})
	}
	for _, s := range v.clear() {
		if filtered[s] != nil {
			v.claim(claim{code: TargetSilent, nodes: []string{s.node}, targets: filtered[s], evidence: []string{"other nodes have an answer in the same VLAN"}})
		}
	}
}

// noTarget says why a member's question for a target tells nothing; "" is that it does.
func (v *view) noTarget(s *station, a netip.Addr) string {
	switch source := v.sourceIn(s, a); {
	case !v.wantsTarget(s, a):
		return "the node does not name it"
	case !source.IsValid():
		return noSource
	case v.heldBy(s, source) != "":
		return string(DuplicateAddress)
	case !v.shared(s, source):
		return noAsker
	case v.isOwn(s, a.String()):
		return "it is a VM of this node"
	case !v.answered(s, a) && v.notAsked(s, probe.Host, probe.Detect) != "":
		return v.notAsked(s, probe.Host, probe.Detect)
	}
	// What filters ARP, or all MACs but one, has been told.
	return string(v.failed(s, "", GatewayFiltered, MACFiltered))
}

// noEcho is noTarget of echoes to a gateway.
func (v *view) noEcho(s *station, a netip.Addr) string {
	switch source := v.sourceIn(s, a); {
	case !v.asksFor(s, a):
		return "the node does not name it"
	case v.heldBy(s, source) != "":
		return string(DuplicateAddress)
	case v.failed(s, a.String(), DuplicateAddress) != "": // which of the two is asked is chance
		return string(DuplicateAddress)
	case !v.shared(s, source):
		return noAsker
	case v.failed(s, fmt.Sprint("MTU ", v.mtu), MTUBelowIntent) != "":
		return string(MTUBelowIntent)
	case v.echoed(s, a).Largest < v.asked(s) && v.notAsked(s, probe.Host, probe.Detect, probe.Echo) != "":
		return v.notAsked(s, probe.Host, probe.Detect, probe.Echo)
	case v.echoed(s, a).Count == 0:
		return "no answer to an echo request"
	}
	return ""
}

// echoes finds gateways to which frames of full size do not get, where between nodes they do.
func (v *view) echoes() {
	if v.unclear != "" {
		return
	}
	type place struct {
		nodes string
		size  int
	}
	claims := map[place]*claim{}
	var order []place
	for _, a := range v.gateways {
		asked := slices.DeleteFunc(v.clear(), func(s *station) bool { return !v.sourceIn(s, a).IsValid() || v.noEcho(s, a) != "" })
		bad := slices.DeleteFunc(slices.Clone(asked), func(s *station) bool { return !v.echoTooLarge(s, a) || !v.isConfirmed(s, a) })
		all := len(bad) == len(asked)
		for size, at := range v.byEcho(bad, a, all) {
			c := &claim{code: MTUBelowIntent, size: size, message: toGateway}
			for _, s := range at {
				if v.largestEcho(s, a) < size {
					c.evidence = append(c.evidence, fmt.Sprintf("to %s of %d bytes: its own way is narrower yet, or answers were lost", s.node, v.largestEcho(s, a)))
				}
			}
			best := slices.DeleteFunc(slices.Clone(at), func(s *station) bool { return v.largestEcho(s, a) < size })
			c.evidence = short(append([]string{fmt.Sprintf("the gateway answers echo requests of %d bytes to %s, of %d none", size, names(best), v.mtu)}, c.evidence...))
			if !all {
				for _, s := range at {
					c.nodes = append(c.nodes, s.node)
				}
			}
			p := place{strings.Join(c.nodes, " "), size}
			if claims[p] == nil {
				claims[p] = c
				order = append(order, p)
			}
			claims[p].targets = append(claims[p].targets, a.String())
		}
	}
	slices.SortFunc(order, func(a, b place) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	for _, p := range order {
		v.claim(*claims[p])
	}
}
