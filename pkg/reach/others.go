package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/homeport-cni/homeport/pkg/probe"
)

// gateway finds gateways that are silent, to all or to some, or two.
func (v *view) gateway() {
	var silent []string
	filtered := map[*station][]string{}
	with := map[*station]bool{} // have an answer of the address in turn
	for _, a := range v.gateways {
		clear(with)
		asked := slices.DeleteFunc(v.clear(), func(s *station) bool {
			return !v.asksFor(s, a) || !v.answered(s, a) && v.notAsked(s, probe.Gateway) != ""
		})
		for _, s := range asked {
			if v.answered(s, a) {
				with[s] = true
			}
		}
		v.twoHave(a)
		// Who asked from no address is compared with those alone who did so, too.
		none := slices.ContainsFunc(asked, func(s *station) bool { return v.answeredNone(s, a) })
		for _, s := range asked {
			_, addressed := v.asksFrom(s, a)
			// The MAC that asks from sources gets nowhere: that is told.
			addressed = addressed && v.failed(s, "", MACFiltered) == ""
			if (none || addressed && len(with) > 0) && !with[s] && !v.isOwn(s, a.String()) {
				filtered[s] = append(filtered[s], a.String())
			}
		}
		// One that answers none but who has an address may not have been asked so yet.
		waits := v.earlier && slices.ContainsFunc(asked, func(s *station) bool { return v.sourceIn(s, a).IsValid() })
		if len(with) == 0 && len(asked) > 0 && !waits {
			silent = append(silent, a.String())
		}
	}
	if v.unclear != "" {
		return
	}
	if silent != nil {
		c := claim{code: GatewaySilent, targets: silent, evidence: []string{fmt.Sprintf("asked on %s", names(v.clear()))}}
		if len(v.segment.members) == 1 {
			c.evidence = append(c.evidence, "no other node has the VLAN, so it may be the VLAN that does not get there")
		}
		for _, s := range v.clear() {
			if v.unlisted(s) && !v.proved(s, TestTrunk) {
				c.evidence = append(c.evidence, fmt.Sprintf("%v lists %v: look there first", s.Switch, s.Switch.VLANs))
			}
		}
		c.evidence = short(c.evidence)
		v.claim(c)
	}
	for _, s := range v.clear() {
		if filtered[s] != nil {
			v.claim(claim{code: GatewayFiltered, nodes: []string{s.node}, targets: filtered[s], evidence: []string{"other nodes have an answer in the same VLAN"}})
		}
	}
}

// twoHave finds an address that two stations say to have, in answer to one question (see confirmTwo).
func (v *view) twoHave(a netip.Addr) {
	if !v.two[a] || v.unclear != "" {
		return
	}
	macs := map[probe.MAC][]string{}
	for _, s := range v.clear() {
		for _, c := range s.obs.In(v.tagAt(s)).Claims {
			if c.Address == a && c.Answers > 0 {
				macs[c.MAC] = append(macs[c.MAC], s.node)
			}
		}
	}
	if len(macs) < 2 {
		return
	}
	var evidence []string
	for m, nodes := range macs {
		evidence = append(evidence, fmt.Sprintf("%v says so to %s", m, nodes[0]))
	}
	slices.Sort(evidence)
	v.claim(claim{code: DuplicateAddress, targets: []string{a.String()}, evidence: short(evidence)})
}

// offers finds DHCP servers that are missing, or too many.
func (v *view) offers() {
	var with, without []*station
	servers := map[probe.Offer]string{}
	for _, s := range v.clear() {
		offers := s.obs.In(v.tagAt(s)).Offers
		switch {
		case len(offers) > 0:
		case v.notAsked(s, probe.DHCP) != "":
			continue
		default:
			without = append(without, s)
			continue
		}
		with = append(with, s)
		for _, o := range offers {
			servers[probe.Offer{Server: o.Server, MAC: o.MAC}] = s.node
		}
	}
	if v.unclear != "" {
		return
	}
	switch {
	case len(without) == 0:
	case len(with) == 0:
		v.claim(claim{code: DHCPSilent, evidence: []string{fmt.Sprintf("asked on %s", names(without))}})
	default:
		for _, s := range without {
			v.claim(claim{code: DHCPSilent, nodes: []string{s.node}, evidence: []string{fmt.Sprintf("%s have an offer", names(with))}})
		}
	}
	distinct := map[netip.Addr]bool{}
	for o := range servers {
		distinct[o.Server] = true
	}
	for o, node := range servers {
		known := slices.Contains(v.servers, o.Server)
		if known || len(v.servers) == 0 && len(distinct) < 2 {
			continue
		}
		v.claim(claim{code: DHCPRogue, targets: []string{o.Server.String()}, evidence: []string{fmt.Sprintf("%s has an offer of %v, from the MAC %v", node, o.Server, o.MAC)}})
	}
}

// advertisements finds routers that nobody knows. A gateway is known by its address, or by the
// MAC that answers for it.
func (v *view) advertisements() {
	if v.unclear == VLANLeak || len(v.subnets) == 0 { // what there should be, nobody has said
		return
	}
	known := map[probe.MAC]bool{}
	for _, s := range v.members {
		for _, c := range s.obs.In(v.tagAt(s)).Claims {
			if slices.Contains(v.gateways, c.Address) {
				known[c.MAC] = true
			}
		}
	}
	told := map[netip.Addr]bool{}
	for _, s := range v.clear() {
		for _, r := range s.obs.In(v.tagAt(s)).RAs {
			ours := len(r.Prefixes) > 0 && !slices.ContainsFunc(r.Prefixes, func(p netip.Prefix) bool { return !slices.Contains(v.subnets, p.Masked()) })
			if known[r.MAC] || ours || slices.Contains(v.gateways, r.Address) || told[r.Address] {
				continue
			}
			told[r.Address] = true
			v.claim(claim{code: RAUnexpected, targets: []string{r.Address.String()},
				evidence: []string{fmt.Sprintf("%s heard it, from the MAC %v, with the prefixes %v", s.node, r.MAC, r.Prefixes)}})
		}
	}
}

// twins are members with one MAC: what is sent to it gets to one of them.
func (v *view) twins() {
	for _, s := range v.members {
		if slices.ContainsFunc(v.members, func(o *station) bool { return o != s && o.MAC == s.MAC }) {
			v.put(s, DuplicateMAC)
		}
	}
}

// duplicateMACs finds MACs of nodes that others send from. Where a VLAN loops or leaks they are
// the node's own frames.
func (v *view) duplicateMACs() {
	if v.unclear != "" {
		return
	}
	for _, s := range v.clear() {
		for _, m := range s.obs.In(v.tagAt(s)).Mine {
			v.claim(claim{code: DuplicateMAC, nodes: []string{s.node}, targets: []string{m.MAC.String()},
				evidence: []string{fmt.Sprintf("%s heard %d frames from it in VLAN %d: with each, switches learn it elsewhere, until its own speaks again", s.node, m.Count, v.vlan)}})
		}
	}
}

// unlisted says that a member's switch lists VLANs, and this one is not among them.
func (v *view) unlisted(s *station) bool {
	return s.Switch != nil && !s.Switch.VLANs.Empty() && !s.Switch.VLANs.Contains(v.vlan) && s.Native != v.vlan
}

// lldp finds VLANs that the switch does not list, where nothing else shows whether they work: switches list no
// more than fits into a frame.
func (v *view) lldp() {
	for _, s := range v.clear() {
		asked := func(a netip.Addr) bool { return v.o.wants(TestGateway) && v.asksFor(s, a) || v.answered(s, a) }
		if v.unlisted(s) && !v.proved(s, TestTrunk) && !slices.ContainsFunc(v.gateways, asked) {
			v.claim(claim{code: LLDPVLANMissing, nodes: []string{s.node}, evidence: []string{fmt.Sprintf("%v lists %v", s.Switch, s.Switch.VLANs)}})
			v.put(s, LLDPVLANMissing)
		}
	}
}

// alone finds what could not be asked at all.
func (v *view) alone() {
	if len(v.members) == 1 && len(v.segment.members) == 1 && len(v.claims) == 0 && len(v.gateways) == 0 {
		v.claim(claim{code: NoPeer, nodes: []string{v.members[0].node}})
	}
}

// ofNodes are claims that are of no VLAN.
func (s *seen) ofNodes() (all []claim) {
	for _, a := range s.absent {
		all = append(all, claim{code: AgentAbsent, nodes: []string{a.Node}, evidence: []string{a.Node + ": " + a.Why}})
	}
	here := map[*station]bool{} // in what was asked for
	for _, g := range s.segments {
		for _, st := range g.members {
			here[st] = true
		}
	}
	stations := slices.DeleteFunc(slices.Clone(s.stations), func(st *station) bool { return !here[st] })
	speaks := map[string]bool{} // trunks on which a switch does
	for _, st := range stations {
		if st.Switch != nil {
			speaks[st.Name] = true
		}
	}
	macs := map[probe.MAC][]*station{}
	for _, st := range stations {
		if st.masked() {
			all = append(all, claim{code: LinkDown, trunk: st.Name, nodes: []string{st.node}, evidence: []string{fmt.Sprintf("%s: %s: %s", st.node, st.Uplink, st.Down)}})
			continue
		}
		for _, d := range st.Drift {
			if d.VLANs.Empty() {
				all = append(all, claim{code: BridgeDrift, trunk: st.Name, nodes: []string{st.node}, evidence: []string{st.node + ": " + d.What}})
			}
		}
		macs[st.MAC] = append(macs[st.MAC], st)
		if s.options.wants(TestLLDP) && st.Switch == nil && speaks[st.Name] && (st.LLDPLapsed || st.LLDPHeard >= lldpPatience) {
			all = append(all, claim{code: LLDPAbsent, trunk: st.Name, nodes: []string{st.node}})
		}
	}
	for m, st := range macs {
		if len(st) < 2 {
			continue
		}
		c := claim{code: DuplicateMAC, targets: []string{m.String()}, evidence: []string{fmt.Sprintf("%v is the uplink's on %s", m, names(st))}}
		for _, x := range st {
			c.nodes = append(c.nodes, x.node)
		}
		all = append(all, c)
	}
	return all
}
