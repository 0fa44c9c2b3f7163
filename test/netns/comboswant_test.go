package netns

import (
	"cmp"
	"slices"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// oracle says what planted faults should be found as. It follows frames through the fabric as it
// is then, and what masks what as pkg/reach/conclude.go writes it down; it knows nothing of hellos
// and answers that were seen.
type oracle struct {
	faults []planted
	alone  map[string]bool // ports that are isolated
	found  map[string]bool
	// undecided: in some VLAN no two nodes hear each other, and no gateway answers.
	undecided bool
}

// The ends of ways through the fabric: a node by its number, or a host at a switch.
const (
	hostAt1 = 100
	hostAt2 = 101
)

func newOracle(faults []planted) *oracle {
	o := &oracle{faults: faults, alone: map[string]bool{}, found: map[string]bool{}}
	for _, f := range faults {
		switch f.kind {
		case "pair":
			o.alone[port(f.node)], o.alone[port(f.node^1)] = true, true
		case "walled":
			o.alone[port(f.node)], o.alone[trunkOf(f.node)] = true, true
		}
	}
	return o
}

// expected are code, node and VLAN of all that should be found.
func (o *oracle) expected() []string {
	for n := range comboNodes {
		if o.has("down", n, 0) {
			o.find(reach.LinkDown, n, 0)
		}
	}
	for _, v := range comboVLANs {
		o.ofVLAN(v)
	}
	var out []string
	for k := range o.found {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (o *oracle) find(c reach.Code, node int, vid uint16) {
	name := "*"
	if node >= 0 {
		name = port(node)
	}
	o.found[comboAtom(c, name, vid)] = true
}

// has says that there is such a fault; at any node with -1, in any VLAN with 0.
func (o *oracle) has(kind string, node int, vid uint16) bool {
	return slices.ContainsFunc(o.faults, func(f planted) bool {
		return f.kind == kind && (node < 0 || f.node == node) && (vid == 0 || f.vlan == vid)
	})
}

// speaks says that what the node sends in a VLAN gets into it.
func (o *oracle) speaks(n int, v uint16) bool {
	return !o.has("down", n, 0) && !o.has("refused", n, 0) && !o.has("dumb", n, 0) && !o.has("dumbVLAN", n, v) &&
		!o.has("removed", n, v) && (v != comboNative || !o.has("native", n, 0))
}

// listens says that what is in a VLAN comes out at the node, as of that VLAN.
func (o *oracle) listens(n int, v uint16) bool {
	return o.anyhow(n, v) && !o.has("native", n, v) && (v != comboNative || !o.has("native", n, 0))
}

// anyhow: as of that VLAN or not.
func (o *oracle) anyhow(n int, v uint16) bool {
	return !o.has("down", n, 0) && !o.has("deaf", n, 0) && !o.has("deafVLAN", n, v) && !o.has("removed", n, v)
}

// way says that frames of a VLAN get from the port of one to that of the other.
func (o *oracle) way(a, b int, v uint16) bool {
	apart := func(x, y string) bool { return o.alone[x] && o.alone[y] }
	if trunkOf(a) == trunkOf(b) {
		return !apart(port(a), port(b))
	}
	return !o.has("between", -1, v) && !apart(port(a), trunkOf(a)) && !apart(port(b), trunkOf(b))
}

func (o *oracle) hears(at, from int, v uint16) bool {
	return at != from && o.speaks(from, v) && o.way(from, at, v) && o.listens(at, v)
}

// reaches says that frames pass both ways, between a node and a host.
func (o *oracle) reaches(n, host int, v uint16) bool {
	return o.speaks(n, v) && o.way(n, host, v) && o.way(host, n, v) && o.listens(n, v)
}

// answers are from whom the node has an answer for the gateway's address of a family.
func (o *oracle) answers(n int, v uint16, family int) (from []string) {
	g, ok := comboGateways[v]
	if !ok || family == 4 && o.has("arp", n, 0) {
		return nil
	}
	if !o.has("silent", -1, v) && o.reaches(n, g.at, v) {
		from = append(from, "gateway")
	}
	if family == 4 && o.has("two", -1, v) && o.reaches(n, g.other(), v) {
		from = append(from, "other")
	}
	return from
}

// mismatched says that the switch's native VLAN is seen to be wrong at the node, in a VLAN.
func (o *oracle) mismatched(n int, v uint16) bool {
	i := slices.IndexFunc(o.faults, func(f planted) bool { return f.kind == "native" && f.node == n })
	if i < 0 || v != comboNative && v != o.faults[i].vlan {
		return false
	}
	for p := range comboNodes {
		switch {
		case p == n:
		case o.speaks(p, v) && o.way(p, n, v) && o.anyhow(n, v):
			return true // untagged what should be tagged, or the other way round
		case v == comboNative && !o.has("dumb", n, 0) && o.way(n, p, o.faults[i].vlan) && o.listens(p, o.faults[i].vlan):
			return true
		}
	}
	return false
}

func (o *oracle) ofVLAN(v uint16) {
	loops := o.has("loop", -1, v)
	below := v != comboNative && o.has("leak", -1, v-1)
	leaks := below || o.has("leak", -1, v)
	clean := !loops && !leaks
	var all []int
	for n := range comboNodes {
		switch {
		case o.has("down", n, 0):
		case o.has("refused", n, 0):
			o.find(reach.ProbeNotSent, n, v)
		case o.mismatched(n, v):
			o.find(reach.NativeVLANMismatch, n, v)
		default:
			all = append(all, n)
		}
	}
	// Loops and leaks are at the second switch, to which all is open where there is one.
	for n := range comboNodes {
		if loops && o.speaks(n, v) && o.listens(n, v) {
			o.find(reach.Loop, -1, v)
		}
		to := v + 1
		if below {
			to = v - 1
		}
		for p := range comboNodes {
			if leaks && o.speaks(n, v) && o.listens(p, to) {
				o.find(reach.VLANLeak, -1, v)
			}
		}
	}
	clear := o.passing(all, v, clean)
	o.sizes(clear, v)
	if !clean {
		o.routers(clear, v, leaks)
		return
	}
	for _, n := range clear {
		if o.has("secured", n, 0) && slices.ContainsFunc(clear, func(p int) bool { return o.hears(p, n, v) }) {
			o.find(reach.MACFiltered, n, v)
		}
	}
	o.gateways(clear, v)
	if v == comboSourced {
		o.sourced(clear)
	}
	o.routers(clear, v, false)
}

// passing says who is cut off from the core, and gives the others.
func (o *oracle) passing(all []int, v uint16, clean bool) (clear []int) {
	if len(all) < 2 {
		return all
	}
	gateway := func(n int) bool { return clean && len(o.answers(n, v, 4)) > 0 }
	groups := o.groups(all, v)
	score := func(g []int) int {
		s := len(g)
		if slices.ContainsFunc(g, gateway) {
			s += 10
		}
		return s
	}
	core := slices.MaxFunc(groups, func(a, b []int) int { return cmp.Or(cmp.Compare(score(a), score(b)), cmp.Compare(b[0], a[0])) })
	if score(core) < 2 {
		o.undecided = true
		return nil
	}
	for _, g := range groups {
		if g[0] != core[0] {
			code := o.cutOff(g, core, v)
			for _, n := range g {
				o.find(code, n, v)
			}
		}
	}
	o.pairs(core, v)
	return core
}

// pairs do not hear each other, though others hear both. Of both it may be either, unless one of them is
// the only one that two others lack.
func (o *oracle) pairs(core []int, v uint16) {
	lacks := map[int][]int{}
	for _, a := range core {
		for _, b := range core {
			if a != b && !(o.hears(a, b, v) && o.hears(b, a, v)) {
				lacks[a] = append(lacks[a], b)
			}
		}
	}
	center := func(n int) bool {
		only := 0
		for _, b := range lacks[n] {
			if len(lacks[b]) == 1 {
				only++
			}
		}
		return only >= 2
	}
	for a, of := range lacks {
		if center(a) || slices.ContainsFunc(of, func(b int) bool { return !center(b) }) {
			o.find(reach.PeersFiltered, a, v)
		}
	}
}

func (o *oracle) cutOff(g, core []int, v uint16) reach.Code {
	heard := func(from, at []int) bool {
		return slices.ContainsFunc(from, func(f int) bool {
			return slices.ContainsFunc(at, func(a int) bool { return o.hears(a, f, v) })
		})
	}
	same := func(a, b int) bool {
		return slices.ContainsFunc(o.answers(a, v, 4), func(m string) bool { return slices.Contains(o.answers(b, v, 4), m) })
	}
	out, in := heard(g, core), heard(core, g)
	switch {
	case out != in:
		return reach.OneWay
	case out, len(g) == 1 && slices.ContainsFunc(core, func(c int) bool { return same(g[0], c) }):
		return reach.PeersFiltered
	}
	return reach.NotTrunked
}

// groups are those who hear each other, directly or by others.
func (o *oracle) groups(all []int, v uint16) (groups [][]int) {
	left := slices.Clone(all)
	for len(left) > 0 {
		g := left[:1:1]
		left = left[1:]
		for i := 0; i < len(g); i++ {
			at := g[i]
			for _, n := range left {
				if o.hears(at, n, v) && o.hears(n, at, v) {
					g = append(g, n)
				}
			}
			left = slices.DeleteFunc(left, func(n int) bool { return slices.Contains(g, n) })
		}
		groups = append(groups, g)
	}
	return groups
}

// sizes says at whom full size does not pass: at those with whom it passes one way with nobody, if
// that explains all, or at any of those between whom it does not.
func (o *oracle) sizes(clear []int, v uint16) {
	var bad [][2]int
	sends, gets := map[int]bool{}, map[int]bool{} // with somebody
	for _, a := range clear {
		for _, b := range clear {
			if !o.hears(b, a, v) {
				continue
			}
			if o.has("mtu", a, 0) || o.has("mtu", b, 0) || o.has("narrow", -1, 0) && trunkOf(a) != trunkOf(b) {
				bad = append(bad, [2]int{a, b})
			} else {
				sends[a], gets[b] = true, true
			}
		}
	}
	worst := map[int]bool{}
	for _, p := range bad {
		if !sends[p[0]] {
			worst[p[0]] = true
		}
		if !gets[p[1]] {
			worst[p[1]] = true
		}
	}
	unexplained := func(p [2]int) bool { return !worst[p[0]] && !worst[p[1]] }
	if slices.ContainsFunc(bad, unexplained) {
		for _, p := range bad {
			worst[p[0]], worst[p[1]] = true, true
		}
	}
	for n := range worst {
		o.find(reach.MTUBelowIntent, n, v)
	}
}

func (o *oracle) gateways(clear []int, v uint16) {
	g, ok := comboGateways[v]
	if !ok || len(clear) == 0 {
		return
	}
	for _, family := range g.families {
		var without []int
		for _, n := range clear {
			switch len(o.answers(n, v, family)) {
			case 0:
				without = append(without, n)
			case 2:
				o.find(reach.DuplicateAddress, -1, v)
			}
		}
		if len(without) == len(clear) {
			o.find(reach.GatewaySilent, -1, v)
			continue
		}
		for _, n := range without {
			o.find(reach.GatewayFiltered, n, v)
		}
	}
}

// routers: the one that nobody knows is at the second switch.
func (o *oracle) routers(clear []int, v uint16, leaks bool) {
	heard := func(n int) bool { return o.way(hostAt2, n, v) && o.listens(n, v) }
	if !leaks && o.has("router", -1, v) && slices.ContainsFunc(clear, heard) {
		o.find(reach.RAUnexpected, -1, v)
	}
}
