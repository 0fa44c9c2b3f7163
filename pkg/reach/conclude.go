package reach

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// What masks what, in the order in which a segment (a VLAN of a trunk) is looked at; what is
// masked at a node is untested there, and no finding:
//
//	AGENT_ABSENT          all of the node
//	LINK_DOWN             all of the node's uplink
//	PROBE_NOT_SENT        all of the VLAN at the node
//	LOOP, VLAN_LEAK       of the VLAN: MACs and gateways (switches learn MACs at the wrong port), and who offers
//	                      or advertises what
//	NATIVE_VLAN_MISMATCH  all else of the VLAN at the node
//	NOT_TRUNKED, ONE_WAY, PEERS_FILTERED   all else of the VLAN at the node; where it hears others, nothing
//	LLDP_VLAN_MISSING     all else of the VLAN at the node, where nothing shows that it works
//	DUPLICATE_MAC         of nodes: MACs and gateways there, whose answers go to one of them
//	MAC_FILTERED, GATEWAY_FILTERED   targets at the node; MAC_FILTERED: that a gateway answers others alone, who ask
//	                      from their sources
//	MTU_BELOW_INTENT      between nodes: of the way to gateways, at the node
//	DUPLICATE_ADDRESS     of a source: what is asked from it; of a gateway: the size of what gets there
//	NO_PEER               nothing: it stands where nothing was asked
//
// MAC_FILTERED, MTU_BELOW_INTENT and what is of gateways and servers stand beside each other.

// claim is what is found in one segment; claims that differ in VLANs alone become one Finding.
type claim struct {
	code     Code
	trunk    string
	vlan     vlan.ID // 0: of all
	nodes    []string
	either   bool
	targets  []string
	message  string // of the place, before the code's meaning
	evidence []string
	size     int
}

// view is a segment in the making of conclusions.
type view struct {
	*segment
	o       *Options
	members []*station // that could speak, and did
	claims  []claim
	// out are members of which nothing more is said, and by which code.
	out map[*station]Code
	// unclear: the VLAN loops or leaks.
	unclear Code
	early   bool // it was ended before silence could be believed
	earlier bool // before that of hosts could, and of what is asked from sources
	live    map[*station]*ways
}

// ways are what is known of a member's sending and receiving.
type ways struct{ sends, hears known }

type known int

const (
	unknown known = iota
	works
	broken
)

// conclude makes the report.
func conclude(s *seen) *Report {
	r := &Report{APIVersion: "homeport.dev/v1alpha1", Kind: ReportKind, Cancelled: s.cancelled, Findings: []Finding{}, Nodes: []Node{}, Cells: []Cell{}}
	claims := s.ofNodes()
	var cells []Cell
	for _, g := range s.segments {
		v := &view{segment: g, o: &s.options, out: map[*station]Code{}, live: map[*station]*ways{}, early: !s.believed, earlier: !s.believedHosts}
		v.conclude()
		v.forgetSilence()
		claims = append(claims, v.claims...)
		cells = append(cells, v.cells()...)
	}
	r.Cells = append(r.Cells, slices.DeleteFunc(cells, func(c Cell) bool { return !s.options.wantsNode(c.Node) })...)
	r.Findings = append(r.Findings, slices.DeleteFunc(s.findings(claims), func(f Finding) bool {
		return len(f.Nodes) > 0 && !slices.ContainsFunc(f.Nodes, s.options.wantsNode)
	})...)
	r.Nodes = append(r.Nodes, s.nodes(r.Cells)...)
	r.findEverywhere()
	r.sum()
	return r
}

// fromSilence are codes that rest on what was not heard: DUPLICATE_MAC on that no hello came back, as in a loop.
var fromSilence = [...]Code{NotTrunked, OneWay, PeersFiltered, MACFiltered, MTUBelowIntent, GatewaySilent, GatewayFiltered, TargetSilent, DuplicateMAC, DHCPSilent, LLDPVLANMissing, NoPeer}

// forgetSilence takes back what more questions might have refuted.
func (v *view) forgetSilence() {
	if v.earlier {
		v.claims = slices.DeleteFunc(v.claims, func(c claim) bool { return c.code == TargetSilent || c.message == toGateway })
	}
	if !v.early {
		return
	}
	silent := func(c Code) bool { return slices.Contains(fromSilence[:], c) }
	v.claims = slices.DeleteFunc(v.claims, func(c claim) bool { return silent(c.code) })
	maps.DeleteFunc(v.out, func(_ *station, c Code) bool { return silent(c) })
}

func (v *view) claim(c claim) {
	c.trunk, c.vlan = v.trunk, v.vlan
	v.claims = append(v.claims, c)
}

// put says something of a member, and that nothing more will be.
func (v *view) put(s *station, code Code) {
	if v.out[s] == "" {
		v.out[s] = code
	}
}

// clear are the members of which nothing was said yet.
func (v *view) clear() (all []*station) {
	for _, s := range v.members {
		if v.out[s] == "" {
			all = append(all, s)
		}
	}
	return all
}

func (v *view) conclude() {
	v.drift()
	v.unsent()
	v.misplaced()
	if v.o.wantsHellos() {
		v.passing()
	}
	if v.o.wants(TestLLDP) {
		v.lldp()
	}
	if v.o.wants(TestMTU) {
		v.mtus()
	}
	v.twins()
	if v.o.wants(TestMAC) {
		v.macs()
	}
	if v.o.wants(TestGateway) {
		v.gateway()
	}
	v.ownAddresses()
	if v.o.wants(TestTarget) {
		v.silentHosts()
	}
	if v.o.wants(TestMTU) {
		v.echoes()
	}
	if v.o.wants(TestDHCP) && (v.o.DHCP || v.dhcp) {
		v.offers()
	}
	if v.o.wants(TestRouters) {
		v.advertisements()
	}
	v.duplicateMACs()
	v.alone()
}

func (v *view) drift() {
	for _, s := range v.segment.members {
		for _, d := range s.Drift {
			if d.VLANs.Contains(v.vlan) {
				v.claim(claim{code: BridgeDrift, nodes: []string{s.node}, evidence: []string{s.node + ": " + d.What}})
			}
		}
	}
}

// notAsked is why a member could not ask something, of a kind; "" is that it could. What was not asked is not silent.
func (g *segment) notAsked(s *station, kinds ...probe.Kind) string {
	for _, u := range s.obs.Unsent {
		if u.VLAN == g.vlan && slices.Contains(kinds, u.Kind) {
			return "it could not be asked: " + u.Error
		}
	}
	return ""
}

// unsent finds who could not speak. What is too large for the interface itself is the MTU's.
func (v *view) unsent() {
	for _, s := range v.segment.members {
		if s.masked() {
			v.out[s] = LinkDown
			continue
		}
		v.members = append(v.members, s)
		for _, u := range s.obs.Unsent {
			if u.VLAN == v.vlan && u.Kind == probe.Hello && !v.anyHeard(s) {
				v.claim(claim{code: ProbeNotSent, nodes: []string{s.node}, evidence: []string{s.node + ": " + u.Error}})
				v.put(s, ProbeNotSent)
			}
		}
	}
}

func (v *view) anyHeard(from *station) bool {
	for _, at := range v.members {
		if at != from && v.heard(from, at, probe.Hello) {
			return true
		}
	}
	return false
}

// misplaced finds hellos that came where or as they should not.
func (v *view) misplaced() {
	var looped []*station
	type told struct {
		from *station
		text string
	}
	leaks := map[vlan.ID][]told{}
	mismatch := map[*station][]string{}
	for _, at := range v.members {
		for _, h := range at.meant[v.vlan] {
			from := v.find(h.Node, h.Uplink)
			if from == nil {
				continue
			}
			if h.in == v.tagAt(at) {
				if from == at && !slices.Contains(looped, at) {
					looped = append(looped, at)
				}
				continue
			}
			// Where it came as it should, too, a second way leads there.
			both := from == at || v.heard(from, at, probe.Hello)
			text := fmt.Sprintf("%s heard in %s what %s had sent %s", at.node, asTag(h.in), from.node, v.sentAs(from))
			switch {
			case from.Native == v.vlan && !both && !v.anyHeard(from):
				mismatch[from] = append(mismatch[from], text)
			case (h.in == 0 || h.in == v.vlan) && !both:
				mismatch[at] = append(mismatch[at], text)
			default:
				leaks[h.in] = append(leaks[h.in], told{from, text})
			}
		}
	}
	// What went into another VLAN by its first port may have been turned back, or have leaked, there.
	looped = slices.DeleteFunc(looped, func(s *station) bool { return mismatch[s] != nil })
	if len(looped) > 0 {
		v.unclear = Loop
		v.claim(claim{code: Loop, evidence: []string{fmt.Sprintf("heard their own hellos: %s", names(looped))}})
	}
	for _, into := range slices.Sorted(maps.Keys(leaks)) {
		var evidence []string
		for _, l := range leaks[into] {
			if mismatch[l.from] == nil {
				evidence = append(evidence, l.text)
			}
		}
		if evidence != nil {
			v.unclear = cmp.Or(v.unclear, VLANLeak)
			v.claim(claim{code: VLANLeak, targets: []string{asTag(into)}, evidence: short(evidence)})
		}
	}
	for _, s := range v.clear() {
		if text := mismatch[s]; text != nil {
			v.claim(claim{code: NativeVLANMismatch, nodes: []string{s.node}, evidence: short(text)})
			v.put(s, NativeVLANMismatch)
		}
	}
}

func asTag(id vlan.ID) string {
	if id == 0 {
		return "untagged frames"
	}
	return fmt.Sprintf("VLAN %d", id)
}

func (v *view) sentAs(from *station) string {
	if from.Native == v.vlan {
		return fmt.Sprintf("untagged, for VLAN %d", v.vlan)
	}
	return fmt.Sprintf("in VLAN %d", v.vlan)
}

func (v *view) find(node, uplink string) *station {
	for _, s := range v.members {
		if s.node == node && s.Uplink == uplink {
			return s
		}
	}
	return nil
}

// names lists stations' nodes, few of many.
func names(all []*station) string {
	var list []string
	for _, s := range all {
		list = append(list, s.node)
	}
	return strings.Join(short(list), ", ")
}

// short keeps the first of a long list, and says how many more there were.
func short(list []string) []string {
	const most = 8
	if len(list) <= most {
		return list
	}
	return append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", len(list)-most))
}

func (g *segment) answered(s *station, a netip.Addr) bool {
	return g.answeredNone(s, a) || g.answeredFrom(s, a)
}

// answeredNone says that a member's question without an address got an answer.
func (g *segment) answeredNone(s *station, a netip.Addr) bool {
	return slices.ContainsFunc(s.obs.In(g.tagAt(s)).Claims, func(c probe.Claim) bool { return c.Address == a && c.Answers > c.Addressed })
}

// answeredFrom says that one from its source did.
func (g *segment) answeredFrom(s *station, a netip.Addr) bool {
	return slices.ContainsFunc(s.obs.In(g.tagAt(s)).Claims, func(c probe.Claim) bool { return c.Address == a && c.Addressed > 0 })
}

// byGateway says that a gateway has answered: both ways work.
func (v *view) byGateway(s *station) bool {
	return slices.ContainsFunc(v.gateways, func(a netip.Addr) bool { return a.Is4() && v.answered(s, a) })
}
