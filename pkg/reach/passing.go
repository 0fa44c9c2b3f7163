package reach

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/homeport-cni/homeport/pkg/probe"
)

// passing finds who is cut off from the core: those who hear each other, and the gateway if
// anybody does.
func (v *view) passing() {
	all := v.clear()
	v.directions(all)
	if len(all) < 2 {
		return
	}
	groups := v.groups(all)
	core := slices.MaxFunc(groups, func(a, b []*station) int {
		return cmp.Or(boolCompare(slices.ContainsFunc(a, v.byGateway), slices.ContainsFunc(b, v.byGateway)), cmp.Compare(len(a), len(b)), cmp.Compare(b[0].node, a[0].node))
	})
	if len(core) < 2 && !v.byGateway(core[0]) {
		v.withoutCore(all)
		return
	}
	for _, g := range groups {
		if &g[0] != &core[0] {
			v.cutOff(g, core, all)
		}
	}
	v.apart(core)
}

// apart finds pairs that do not hear each other, though others hear both: what is beyond them is
// tested all the same.
func (v *view) apart(core []*station) {
	type pair struct{ a, b *station }
	var bad []pair
	of := map[*station][]*station{} // with whom
	for i, a := range core {
		for _, b := range core[i+1:] {
			if !v.heard(a, b, probe.Hello) || !v.heard(b, a, probe.Hello) {
				bad = append(bad, pair{a, b})
				of[a], of[b] = append(of[a], b), append(of[b], a)
			}
		}
	}
	// Two who lack nobody else speak against the one that both lack.
	blamed := func(s *station) bool {
		alone := slices.DeleteFunc(slices.Clone(of[s]), func(p *station) bool { return len(of[p]) > 1 })
		return len(alone) > 1
	}
	c := claim{code: PeersFiltered, either: true}
	var left []*station
	for _, s := range core {
		switch own := slices.ContainsFunc(bad, func(p pair) bool { return (p.a == s || p.b == s) && !blamed(p.a) && !blamed(p.b) }); {
		case blamed(s):
			v.notHeard(claim{code: PeersFiltered, nodes: []string{s.node}}, []*station{s}, of[s])
		case own:
			c.nodes, left = append(c.nodes, s.node), append(left, s)
		}
	}
	if left != nil {
		v.notHeard(c, left, left)
	}
}

// notHeard claims that nothing passes between nodes and others, each of whom hears some.
func (v *view) notHeard(c claim, these, those []*station) {
	c.message = "nothing passes between some nodes, and each hears others"
	for _, at := range union(slices.Clone(these), those) {
		var not []*station
		for _, from := range union(slices.Clone(these), those) {
			if (slices.Contains(these, at) || slices.Contains(these, from)) && from != at && !v.heard(from, at, probe.Hello) {
				not = append(not, from)
			}
		}
		if not != nil {
			c.evidence = append(c.evidence, fmt.Sprintf("%s does not hear %s", at.node, names(not)))
		}
	}
	c.evidence = short(c.evidence)
	v.claim(c)
}

// cutOff says how a group is cut off from the core.
func (v *view) cutOff(g, core, all []*station) {
	c := claim{code: NotTrunked}
	who := names(g)
	to, from := v.between(core, g), v.between(g, core)
	switch {
	case to && !from:
		c.code, c.message = OneWay, "from "+who+" nothing arrives at the others"
	case from && !to:
		c.code, c.message = OneWay, "to "+who+" nothing arrives from the others"
	case to && from, len(g) == 1 && v.sameGateway(g, core):
		c.code = PeersFiltered
	case len(g) == 1:
		c.code, c.evidence = v.bySwitch(g[0])
	default:
		c.message = "the VLAN does not pass between two parts of the fabric"
	}
	c.evidence = append([]string{v.whoHears(all)}, c.evidence...)
	for _, s := range g {
		if s.obs.Lost > 0 {
			c.evidence = append(c.evidence, fmt.Sprintf("%s had no room for %d frames: too much is broadcast there, or the node is overloaded", s.node, s.obs.Lost))
		}
		if s.obs.Unread > 0 {
			c.evidence = append(c.evidence, fmt.Sprintf("%s heard %d hellos that it does not believe: %s", s.node, s.obs.Unread, s.obs.UnreadWhy))
		}
		c.nodes = append(c.nodes, s.node)
		v.put(s, c.code)
	}
	v.claim(c)
}

// withoutCore: no two hear each other. Each direction of each is looked at by itself: what somebody
// has heard works; what nobody has heard is broken if there is one who hears others.
func (v *view) withoutCore(all []*station) {
	// Where others are heard everywhere, it is not the VLAN of one of them.
	if !v.between(all, all) && !slices.ContainsFunc(all, func(s *station) bool { return v.live[s].hears != works }) {
		v.cannotTell(all)
		return
	}
	var cut []*station
	put := func(s *station, c claim) {
		cut = append(cut, s)
		c.nodes = []string{s.node}
		c.evidence = append([]string{v.whoHears(all)}, c.evidence...)
		v.claim(c)
	}
	for _, s := range all {
		switch w := v.live[s]; {
		case w.sends != works && w.hears != works && (w.sends == broken || w.hears == broken):
			code, word := v.bySwitch(s)
			put(s, claim{code: code, evidence: word})
		case w.sends == broken:
			put(s, claim{code: OneWay, message: "from " + s.node + " nothing arrives at the others"})
		case w.hears == broken:
			put(s, claim{code: OneWay, message: "to " + s.node + " nothing arrives from the others"})
		}
	}
	for _, s := range cut {
		v.put(s, NotTrunked)
	}
	if len(cut) == 0 {
		v.cannotTell(all)
	}
}

// bySwitch says why a member is cut off, as far as its switch's word goes.
func (v *view) bySwitch(s *station) (code Code, evidence []string) {
	w := s.Switch
	switch {
	case w == nil:
	case w.Native == v.vlan && s.Native != v.vlan, s.Native == v.vlan && w.Native != 0 && w.Native != v.vlan:
		return NativeVLANMismatch, []string{fmt.Sprintf("%v says that VLAN %d is its native one", w, w.Native)}
	case w.VLANs.Contains(v.vlan):
		return NotTrunked, []string{fmt.Sprintf("%v says that it carries the VLAN: look behind it", w)}
	case !w.VLANs.Empty():
		return NotTrunked, []string{fmt.Sprintf("%v says that it carries %v", w, w.VLANs)}
	}
	return NotTrunked, nil
}

// directions says of each what is known.
func (v *view) directions(all []*station) {
	for _, s := range all {
		w := &ways{}
		if v.byGateway(s) {
			w.sends, w.hears = works, works
		}
		if s.obs.In(v.tagAt(s)).Others > 0 {
			w.hears = works
		}
		v.live[s] = w
	}
	for _, from := range all {
		for _, at := range all {
			if from != at && v.heard(from, at, probe.Hello) {
				v.live[from].sends, v.live[at].hears = works, works
			}
		}
	}
	// By what works, not by what has just been found broken.
	other := func(s *station, f func(*ways) known) bool {
		return slices.ContainsFunc(all, func(o *station) bool { return o != s && f(v.live[o]) == works })
	}
	sends := func(w *ways) known { return w.sends }
	hears := func(w *ways) known { return w.hears }
	for _, s := range all {
		w := v.live[s]
		if w.sends == unknown && other(s, hears) {
			w.sends = broken
		}
		if w.hears == unknown && other(s, sends) {
			w.hears = broken
		}
	}
}

// cannotTell: there is nobody by whom to tell which of them it is.
func (v *view) cannotTell(all []*station) {
	c := claim{code: NotTrunked, either: true, message: "no node hears another",
		evidence: []string{fmt.Sprintf("nothing was heard in VLAN %d on any of them, of hosts and gateways neither", v.vlan)}}
	if !slices.ContainsFunc(all, func(s *station) bool { return v.live[s].hears != works }) {
		c.message = "hosts are heard on all of them, and no node hears another: it does not pass between them, or frames of EtherType 0x88B5 do not"
		c.evidence = []string{v.whoHears(all)}
	} else if v.between(all, all) {
		c.code, c.message = OneWay, "one hears the other, who does not hear it"
		c.evidence = []string{v.whoHears(all)}
	}
	for _, s := range all {
		c.nodes = append(c.nodes, s.node)
		v.put(s, c.code)
	}
	v.claim(c)
}

// whoHears tells who hears whom, in short.
func (v *view) whoHears(all []*station) string {
	var list []string
	for _, at := range all {
		var from []*station
		for _, s := range all {
			if s != at && v.heard(s, at, probe.Hello) {
				from = append(from, s)
			}
		}
		if len(from) > 0 {
			list = append(list, at.node+" hears "+names(from))
		}
	}
	if len(list) == 0 {
		return "nobody hears anybody"
	}
	out := list[0]
	for _, l := range short(list)[1:] {
		out += "; " + l
	}
	return out
}

// sameGateway says that one station has answered some of both, for its address.
func (v *view) sameGateway(a, b []*station) bool {
	answers := func(group []*station) map[probe.MAC]bool {
		macs := map[probe.MAC]bool{}
		for _, s := range group {
			for _, c := range s.obs.In(v.tagAt(s)).Claims {
				if c.Answers > 0 && c.Address.Is4() && slices.Contains(v.gateways, c.Address) {
					macs[c.MAC] = true
				}
			}
		}
		return macs
	}
	of := answers(a)
	for m := range answers(b) {
		if of[m] {
			return true
		}
	}
	return false
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// between says that one of the first is heard by one of the others.
func (v *view) between(from, at []*station) bool {
	for _, f := range from {
		for _, a := range at {
			if f != a && v.heard(f, a, probe.Hello) {
				return true
			}
		}
	}
	return false
}

// groups are those who hear each other, directly or by others.
func (v *view) groups(all []*station) (groups [][]*station) {
	left := slices.Clone(all)
	for len(left) > 0 {
		group := []*station{left[0]}
		left = left[1:]
		for i := 0; i < len(group); i++ {
			left = slices.DeleteFunc(left, func(s *station) bool {
				if v.heard(group[i], s, probe.Hello) && v.heard(s, group[i], probe.Hello) {
					group = append(group, s)
					return true
				}
				return false
			})
		}
		groups = append(groups, group)
	}
	return groups
}

// macs finds who is cut off with other MACs than the uplink's own.
func (v *view) macs() {
	if v.unclear != "" {
		return
	}
	all := v.clear()
	for _, s := range all {
		var own, foreign, arrived, toIt int
		for _, p := range all {
			if p == s || !v.heard(s, p, probe.Hello) {
				continue
			}
			own++
			if v.heard(s, p, probe.Foreign) {
				foreign++
			}
		}
		for _, p := range all {
			if p == s || !v.heard(p, s, probe.Hello) || !slices.Contains(v.neighbours(p), s) {
				continue
			}
			toIt++
			if v.heard(p, s, probe.Unicast) {
				arrived++
			}
		}
		var evidence []string
		if own > 0 && foreign == 0 {
			evidence = append(evidence, fmt.Sprintf("%d peers hear %s from %v, none from %v", own, s.node, s.MAC, s.MAC.Foreign()))
		}
		if toIt > 0 && arrived == 0 {
			evidence = append(evidence, fmt.Sprintf("%s does not get what is sent to %v", s.node, s.MAC.Foreign()))
		}
		if evidence != nil {
			v.claim(claim{code: MACFiltered, nodes: []string{s.node}, evidence: evidence})
		}
	}
}

// mtus finds where frames of full size do not pass.
func (v *view) mtus() {
	all := v.clear()
	for _, s := range all {
		if s.MTU < v.mtu {
			v.claim(claim{code: MTUBelowIntent, nodes: []string{s.node}, size: s.MTU, targets: []string{fmt.Sprint("MTU ", v.mtu)},
				evidence: []string{fmt.Sprintf("%s: the uplink %s itself has an MTU of %d", s.node, s.Uplink, s.MTU)}})
		}
	}
	type pair struct{ from, at *station }
	var small, bad []pair
	largest := 0
	for _, from := range all {
		for _, at := range all {
			if from == at || !v.heard(from, at, probe.Hello) || from.MTU < v.mtu || at.MTU < v.mtu {
				continue
			}
			small = append(small, pair{from, at})
			if v.tooLarge(from, at) {
				bad = append(bad, pair{from, at})
				largest = max(largest, v.largestLike(from, at))
			}
		}
	}
	if len(bad) == 0 {
		return
	}
	// Whoever cannot with anybody, in one direction at least.
	worst := func(s *station, end func(pair) *station) bool {
		mine := func(p pair) bool { return end(p) == s }
		return slices.ContainsFunc(bad, mine) && !slices.ContainsFunc(small, func(p pair) bool { return mine(p) && !slices.Contains(bad, p) })
	}
	var at []*station
	for _, s := range all {
		if worst(s, func(p pair) *station { return p.from }) || worst(s, func(p pair) *station { return p.at }) {
			at = append(at, s)
		}
	}
	c := claim{code: MTUBelowIntent, size: largest, targets: []string{fmt.Sprint("MTU ", v.mtu)}}
	explained := func(p pair) bool { return slices.Contains(at, p.from) || slices.Contains(at, p.at) }
	switch {
	case len(bad) == len(small) && len(all) == 2:
		c.either = true
	case len(bad) == len(small):
		c.message = "between no two nodes"
	case !slices.ContainsFunc(bad, func(p pair) bool { return !explained(p) }):
		// Each by itself: its own size is what it has with the best of its peers.
		for _, s := range at {
			own := claim{code: MTUBelowIntent, nodes: []string{s.node}, targets: c.targets}
			for _, p := range bad {
				if p.from == s || p.at == s {
					own.size = max(own.size, v.largestLike(p.from, p.at))
				}
			}
			own.evidence = []string{fmt.Sprintf("small frames pass between %s and its peers; of %d bytes none do, of %d they do", s.node, v.mtu, own.size)}
			v.claim(own)
		}
		return
	default:
		// A way between parts of the fabric.
		at = nil
		for _, s := range all {
			if slices.ContainsFunc(bad, func(p pair) bool { return p.from == s || p.at == s }) {
				at = append(at, s)
			}
		}
		c.either = true
		c.message = "on the way between these nodes"
	}
	for _, s := range at {
		c.nodes = append(c.nodes, s.node)
	}
	c.evidence = []string{fmt.Sprintf("of %d pairs that hear each other's small frames, %d do not hear those of %d bytes", len(small), len(bad), v.mtu)}
	v.claim(c)
}

// largestLike is the largest size that passed, here or in the VLAN of the same trunk where it
// was measured.
func (v *view) largestLike(from, at *station) int {
	size := v.largest(from, at)
	for _, h := range at.obs.Heard {
		for _, x := range h.Hellos {
			if x.Kind == probe.Size && x.Node == from.node && x.Uplink == from.Uplink {
				size = max(size, x.Largest)
			}
		}
	}
	return size
}
