package reach

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// lldpPatience is how long a switch may be silent: three times its usual pause, and some.
const lldpPatience = 95 * time.Second

// failed finds what was claimed of a member in this segment.
func (v *view) failed(s *station, target string, codes ...Code) Code {
	for _, c := range v.claims {
		if slices.Contains(codes, c.code) && (len(c.nodes) == 0 || slices.Contains(c.nodes, s.node)) && (target == "" || slices.Contains(c.targets, target)) {
			return c.code
		}
	}
	return ""
}

// cells are all that was intended in the segment, and what became of it.
func (v *view) cells() (cells []Cell) {
	for _, s := range v.segment.members {
		for _, t := range Tests() {
			if !v.o.wants(t) || t == TestLLDP && (s.Switch == nil || s.Switch.VLANs.Empty()) { // it lists none, of which each must be
				continue
			}
			for _, target := range v.targets(t) {
				c := Cell{Node: s.node, Trunk: v.trunk, VLAN: v.vlan, Test: t, Target: target, Result: Pass}
				if code := v.fails(s, t, target); code != "" {
					c.Result, c.Why = Fail, string(code)
				} else if why := v.untested(s, t, target); why != "" {
					c.Result, c.Why = Untested, why
				}
				cells = append(cells, c)
			}
		}
	}
	return cells
}

// targets of a test in the segment; "" is the one of a test that has none.
func (v *view) targets(t Test) (list []string) {
	switch {
	case t == TestGateway:
		for _, a := range v.gateways {
			list = append(list, a.String())
		}
		return list
	case t == TestTarget:
		for _, a := range v.segment.hosts {
			list = append(list, a.String())
		}
		return list
	case t == TestMTU:
		list = []string{""}
		for _, a := range v.gateways {
			if slices.ContainsFunc(v.members, func(s *station) bool { return v.sourceIn(s, a).IsValid() }) {
				list = append(list, a.String())
			}
		}
		return list
	case t == TestDHCP && !v.o.DHCP && !v.dhcp, t == TestRouters && len(v.subnets) == 0:
		return nil
	}
	return []string{""}
}

// Codes are those that fail a cell of the test; there are findings of some that fail none.
func (t Test) Codes() []Code {
	switch t {
	case TestTrunk:
		return []Code{LinkDown, BridgeDrift, Loop, VLANLeak, NativeVLANMismatch, NotTrunked, OneWay, PeersFiltered}
	case TestMAC:
		return []Code{MACFiltered, DuplicateMAC}
	case TestMTU:
		return []Code{MTUBelowIntent}
	case TestGateway:
		return []Code{GatewaySilent, GatewayFiltered, DuplicateAddress}
	case TestTarget:
		return []Code{TargetSilent, DuplicateAddress}
	case TestDHCP:
		return []Code{DHCPSilent, DHCPRogue}
	case TestRouters:
		return []Code{RAUnexpected}
	case TestLLDP:
		return []Code{LLDPVLANMissing}
	}
	return nil
}

func (v *view) fails(s *station, t Test, target string) Code {
	switch {
	case t == TestTrunk && v.out[s] == LinkDown:
		return LinkDown
	case t == TestMTU:
		target = cmp.Or(target, fmt.Sprint("MTU ", v.mtu))
	}
	return v.failed(s, target, t.Codes()...)
}

// proved says that a test was seen to pass, as far as that can be seen in one VLAN by itself.
func (v *view) proved(s *station, t Test) bool {
	switch t {
	case TestTrunk:
		w := v.live[s]
		return w != nil && w.sends == works && w.hears == works
	case TestMAC:
		return v.allHeard(s, v.members, probe.Foreign) && !slices.ContainsFunc(v.neighbours(s), func(p *station) bool { return !v.heard(s, p, probe.Unicast) })
	case TestMTU:
		return v.allHeard(s, v.members, probe.Full)
	case TestRouters:
		return false
	}
	return true // what is said of the others says it, too
}

// untested says why a test that has found nothing wrong has not found it right either.
func (v *view) untested(s *station, t Test, target string) string {
	if code := v.out[s]; code != "" {
		return string(code)
	}
	alone := len(v.members) < 2
	if a, err := netip.ParseAddr(target); err == nil && (t == TestTarget || t == TestMTU) {
		return v.untestedFrom(s, t, a)
	}
	if v.early && !v.proved(s, t) {
		return "the check was ended before its time"
	}
	switch t {
	case TestTrunk:
		if w := v.live[s]; w != nil && w.sends == works && w.hears == works || v.byGateway(s) {
			return ""
		}
		return string(NoPeer)
	case TestMAC:
		switch {
		case v.unclear != "":
			return string(v.unclear)
		case alone:
			return string(NoPeer)
		}
	case TestMTU:
		if alone {
			return string(NoPeer)
		}
	case TestGateway:
		switch {
		case slices.ContainsFunc(v.gateways, func(g netip.Addr) bool { return g.String() == target && v.answered(s, g) }):
		case slices.ContainsFunc(v.gateways, func(g netip.Addr) bool { return g.String() == target && !v.asksFor(s, g) }):
			return "the node does not name it"
		case v.isOwn(s, target):
			return "it is a VM of this node"
		case v.notAsked(s, probe.Gateway) != "":
			return cmp.Or(string(v.unclear), v.notAsked(s, probe.Gateway))
		case slices.ContainsFunc(v.gateways, func(g netip.Addr) bool {
			return g.String() == target && slices.ContainsFunc(v.members, func(p *station) bool { return v.answeredFrom(p, g) })
		}):
			return cmp.Or(string(v.unclear), "the gateway answers none but who asks from an address, and the node has none that it may use")
		default:
			return cmp.Or(string(v.unclear), "no answer")
		}
	case TestDHCP:
		if len(s.obs.In(v.tagAt(s)).Offers) == 0 {
			return cmp.Or(string(v.unclear), v.notAsked(s, probe.DHCP), "no answer")
		}
	case TestLLDP:
		switch {
		case !v.unlisted(s):
		case v.proved(s, TestTrunk) || slices.ContainsFunc(v.gateways, func(a netip.Addr) bool { return v.answered(s, a) }):
			return "the switch does not list it, and it works"
		default:
			return "the switch does not list it, and no gateway answers"
		}
	}
	return ""
}

// untestedFrom is untested of what is asked from a source.
func (v *view) untestedFrom(s *station, t Test, a netip.Addr) string {
	var passed bool
	var why string
	switch {
	case t == TestTarget:
		passed, why = v.answered(s, a), v.noTarget(s, a)
	case !v.sourceIn(s, a).IsValid():
		why = noSource
	default:
		passed, why = v.echoed(s, a).Largest >= v.asked(s), v.noEcho(s, a)
		if why == "" && v.echoTooLarge(s, a) {
			why = "the gateway answers echo requests of full size not always, or limits them"
		}
	}
	switch {
	case passed:
		return ""
	case v.earlier:
		return "the check was ended before its time"
	}
	return cmp.Or(string(v.unclear), why, "no answer")
}

// rank is a code's place in the table: those that mask others come first.
func (c Code) rank() int {
	return slices.IndexFunc(codes[:], func(t CodeText) bool { return t.Code == c })
}

// findings joins claims that differ in their VLAN alone, the worst first, then what masks others, then the widest.
func (s *seen) findings(claims []claim) (all []Finding) {
	index := map[string]int{}
	for _, c := range claims {
		key := strings.Join([]string{string(c.code), c.trunk, strings.Join(c.nodes, " "), fmt.Sprint(c.either), strings.Join(c.targets, " "), c.message, fmt.Sprint(c.size)}, "|")
		if c.code == MTUBelowIntent && c.message == toGateway { // and MTUs of its interfaces that are one
			key = strings.Join([]string{string(c.code), c.trunk, strings.Join(c.nodes, " "), c.message, fmt.Sprint(c.size)}, "|")
		}
		if c.code == GatewaySilent || c.code == GatewayFiltered || c.code == TargetSilent { // one router has many addresses
			key = strings.Join([]string{string(c.code), c.trunk, strings.Join(c.nodes, " ")}, "|")
		}
		i, known := index[key]
		if !known {
			i = len(all)
			index[key] = i
			text, _ := c.code.Text()
			all = append(all, Finding{Code: c.code, Severity: text.Severity, Trunk: c.trunk, Nodes: c.nodes, Either: c.either,
				Message: text.Meaning, Evidence: c.evidence, Next: text.Next, Ports: s.ports(c), LargestMTU: c.size})
			if c.message != "" {
				all[i].Message = strings.ToUpper(c.message[:1]) + c.message[1:] + ". " + text.Meaning
			}
		}
		for _, t := range c.targets {
			if !slices.Contains(all[i].Targets, t) {
				all[i].Targets = append(all[i].Targets, t)
			}
		}
		if c.vlan != 0 {
			_ = all[i].VLANs.Add(c.vlan) // segments have none but valid ones
			for _, g := range s.segments {
				if g.trunk == c.trunk && g.vlan == c.vlan {
					for _, n := range g.networks {
						if !slices.Contains(all[i].Networks, n) {
							all[i].Networks = append(all[i].Networks, n)
						}
					}
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity.Rank(), a.Severity.Rank()), cmp.Compare(a.Code.rank(), b.Code.rank()), cmp.Compare(b.VLANs.Len(), a.VLANs.Len()),
			slices.Compare(a.Nodes, b.Nodes), slices.Compare(a.Targets, b.Targets))
	})
	return all
}

// ports are those that a claim's nodes are at.
func (s *seen) ports(c claim) (list []string) {
	for _, st := range s.stations {
		if slices.Contains(c.nodes, st.node) && (c.trunk == "" || st.Name == c.trunk) && st.Switch != nil {
			list = append(list, fmt.Sprintf("%s %s: %v", st.node, st.Uplink, st.Switch))
		}
	}
	return list
}

// nodes are all that took part, or should have, with the VLANs that they have cells of.
func (s *seen) nodes(cells []Cell) (all []Node) {
	type key struct{ node, trunk string }
	tested := map[key]vlan.Set{}
	for _, c := range cells {
		set := tested[key{c.Node, c.Trunk}]
		_ = set.Add(c.VLAN) // segments have none but valid ones
		tested[key{c.Node, c.Trunk}] = set
	}
	for _, st := range s.stations {
		n := Node{Node: st.node, Trunk: st.Name, Uplink: st.Uplink, Version: st.version, VLANs: tested[key{st.node, st.Name}], Frames: st.obs.Sent}
		if st.Switch != nil {
			n.Switch, n.Port = cmp.Or(st.Switch.Name, st.Switch.Chassis), st.Switch.Port
			if st.Switch.Chassis != n.Switch {
				n.Chassis = st.Switch.Chassis
			}
		}
		all = append(all, n)
	}
	for _, a := range s.absent {
		all = append(all, Node{Node: a.Node, Absent: a.Why})
	}
	slices.SortFunc(all, func(a, b Node) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Trunk, b.Trunk)) })
	return all
}

func (r *Report) sum() {
	r.Summary = Summary{Cells: len(r.Cells)}
	for _, c := range r.Cells {
		switch c.Result {
		case Pass:
			r.Summary.Passed++
		case Fail:
			r.Summary.Failed++
		default:
			r.Summary.Untested++
		}
	}
	for _, f := range r.Findings {
		switch f.Severity {
		case Error:
			r.Summary.Errors++
		case Warning:
			r.Summary.Warnings++
		default:
			r.Summary.Infos++
		}
	}
}
