package agent

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// rulesOf finds a port and the rules that judge it now.
func (a *Agent) rulesOf(key *attach.Key) (rec attach.Record, set policy.Set, counters compile.Counters, err error) {
	if key == nil {
		return rec, set, nil, attach.Invalid("port", "it must be there", "name a port")
	}
	ports := a.table.list()
	i := slices.IndexFunc(ports, func(it item) bool { return it.rec.Key == *key })
	if i < 0 {
		return rec, set, nil, attach.Invalid("port", "it is not attached on this node", "see homeportctl ports")
	}
	rec = ports[i].rec
	id := rec.Config().Policy
	a.mu.RLock()
	defer a.mu.RUnlock()
	set, ok := a.world.Sets[id]
	if !ok {
		return rec, set, nil, &attach.Error{Kind: attach.Unavailable, Field: "port", Message: fmt.Sprintf("its rules %q are not in force yet", id), Remedy: "see homeportctl status"}
	}
	return rec, set, a.world.Counters, nil
}

// portRules lists the rules that judge a port now, in their order.
func (a *Agent) portRules(req *wire.ViewRequest) (any, error) {
	rec, set, counters, err := a.rulesOf(req.Port)
	if err != nil {
		return nil, err
	}
	ours := compile.Counters{}
	last := policy.DefaultKey(set.Network)
	for _, key := range append([]policy.RuleKey{last}, keysOf(set.Rules)...) {
		if n, ok := counters[key]; ok {
			ours[key] = n
		}
	}
	hits, err := a.kernel.RuleHits(ours)
	if err != nil {
		return nil, err
	}
	out := wire.PortRules{TypeMeta: kind("PortRules"), Key: rec.Key, Interface: rec.HostIfName, Pod: rec.Pod, Rules: set.ID(), Items: []wire.PortRule{},
		Default: wire.DefaultHits{Network: set.Network, Action: set.Default.String(), Packets: hits[last].Packets, Bytes: hits[last].Bytes, LastHit: hits[last].Last}}
	out.State, _ = a.kernel.State(rec.HostIfIndex)
	for _, r := range set.Rules {
		out.Items = append(out.Items, wire.PortRule{Policy: r.Key.Policy, Tier: strconv.Itoa(int(r.Tier)), Rule: ruleView(r, hits[r.Key])})
	}
	out.Sets = append(namedSets(v1alpha1.KindAddressSet, set.Lists), namedSets(v1alpha1.KindServiceSet, set.ServiceLists)...)
	return out, nil
}

// namedSets tells of the sets that rules name, by name.
func namedSets[T fmt.Stringer](kind string, lists map[string][]T) (out []wire.NamedSet) {
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		sum := sha256.New()
		for _, item := range lists[name] {
			fmt.Fprintln(sum, item)
		}
		out = append(out, wire.NamedSet{Kind: kind, Name: name, Items: len(lists[name]), Hash: hex.EncodeToString(sum.Sum(nil))})
	}
	return out
}

func keysOf(rules []policy.Rule) []policy.RuleKey {
	keys := make([]policy.RuleKey, len(rules))
	for i := range rules {
		keys[i] = rules[i].Key
	}
	return keys
}

// verdict says what the rules in force of a port do with the first packet of a
// connection, and which of them. It is the reference evaluator's word: no packet is
// sent, and nothing is counted.
func (a *Agent) verdict(req *wire.ViewRequest) (any, error) {
	if req.Packet == nil {
		return nil, attach.Invalid("packet", "it must be there", "say what the port would see")
	}
	p, err := readPacket(req.Packet)
	if err != nil {
		return nil, err
	}
	rec, set, counters, err := a.rulesOf(req.Port)
	if err != nil {
		return nil, err
	}
	out := wire.Verdict{TypeMeta: kind("Verdict"), Key: rec.Key, Interface: rec.HostIfName, Pod: rec.Pod, Rules: set.ID(), Network: set.Network,
		Packet: fmt.Sprintf("%s, %v -> %v, %s", p.Direction, p.Src, p.Dst, serviceText(req.Packet))}
	out.State, _ = a.kernel.State(rec.HostIfIndex)
	set.Lists = around(set.Lists, p)
	v := policy.Evaluate(&set, p)
	out.Action = v.Action.String()
	one := func(i int) *wire.PortRule {
		if err != nil || i < 0 {
			return nil
		}
		r := set.Rules[i]
		var hits map[policy.RuleKey]Hits
		hits, err = a.kernel.RuleHits(compile.Counters{r.Key: counters[r.Key]})
		return &wire.PortRule{Policy: r.Key.Policy, Rule: ruleView(r, hits[r.Key])}
	}
	if r := one(v.Rule); r != nil {
		out.Policy, out.Rule = r.Policy, &r.Rule
	}
	out.Monitored = one(v.Monitored)
	return out, err
}

// serviceText says what somebody asked about, and the source port if it was given.
func serviceText(in *wire.Packet) string {
	if in.SourcePort == 0 {
		return in.Service
	}
	return fmt.Sprintf("%s from %d", in.Service, in.SourcePort)
}

// around leaves of lists what holds the packet's addresses, so that those of large sets
// are gone through once, not for each rule.
func around(lists map[string][]policy.AddrRange, p policy.Packet) map[string][]policy.AddrRange {
	out := make(map[string][]policy.AddrRange, len(lists))
	for name, list := range lists {
		out[name] = nil
		for _, r := range list {
			if r.Contains(p.Src) || r.Contains(p.Dst) {
				out[name] = append(out[name], r)
			}
		}
	}
	return out
}

// readPacket checks a packet that somebody wrote.
func readPacket(in *wire.Packet) (policy.Packet, error) {
	p := policy.Packet{IP: true, Src: in.Source.Unmap(), Dst: in.Destination.Unmap()}
	if err := p.Direction.UnmarshalText([]byte(in.Direction)); err != nil {
		return p, attach.Invalid("packet.direction", err.Error(), "want In or Out")
	}
	if !p.Src.IsValid() || p.Src.BitLen() != p.Dst.BitLen() {
		return p, attach.Invalid("packet.destination", fmt.Sprintf("%v and %v are not of one family", in.Source, in.Destination), "want both IPv4, or both IPv6")
	}
	if p.Src.Zone()+p.Dst.Zone() != "" {
		return p, attach.Invalid("packet.source", "rules know no zones", "leave what follows % out")
	}
	s, err := policy.ParseService(in.Service)
	if err != nil {
		return p, attach.Invalid("packet.service", err.Error(), "want one as tcp/443, udp/53, icmp/8 or ip/47")
	}
	p.Protocol = s.Protocol
	if isExtension(p) {
		return p, attach.Invalid("packet.service", fmt.Sprintf("%d is an extension header in IPv6, behind which comes what rules are asked about", s.Protocol), "want the protocol that follows")
	}
	ports, types := policy.HasPorts(s.Protocol), policy.HasTypes(s.Protocol)
	switch {
	case in.SourcePort != 0 && !ports:
		return p, attach.Invalid("packet.sourcePort", policy.ProtocolName(s.Protocol)+" has none", "leave it out")
	case !ports && !types:
		return p, nil
	case s.SourceLast != 0 || s.First != s.Last && !(types && s.First>>8 == s.Last>>8):
		return p, attach.Invalid("packet.service", fmt.Sprintf("%q is more than one", in.Service), "want one as tcp/443, udp/53 or icmp/8")
	case types && (s.Protocol == policy.ICMP) != p.Src.Is4():
		return p, attach.Invalid("packet.service", "ICMP is of IPv4, ICMPv6 of IPv6", "want the one of the addresses")
	}
	const firstND, lastND = 133, 137
	if t := s.First >> 8; s.Protocol == policy.ICMPv6 && t >= firstND && t <= lastND {
		return p, attach.Invalid("packet.service", fmt.Sprintf("type %d is Neighbor Discovery, which no rule is asked about", t), "ask about another type")
	}
	p.HasService, p.Service = true, s.First // of an ICMP type without a code, code 0
	if ports {
		p.SourcePort = cmp.Or(in.SourcePort, clientPort)
	}
	return p, nil
}

// isExtension says whether the packet's protocol is one of the IPv6 extension headers
// that the programs follow.
func isExtension(p policy.Packet) bool {
	return p.Src.Is6() && slices.Contains([]uint8{0, 43, 44, 51, 60}, p.Protocol)
}

// clientPort is a source port as clients take one: the first of RFC 6335's dynamic ports.
const clientPort = 49152
