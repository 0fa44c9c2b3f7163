// Package explain tells rules, and what they say of a packet, as the agent's API has them:
// of those in force at a port, and of those that manifests come to. Pure.
package explain

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/policy"
)

func kind(name string) wire.TypeMeta { return wire.TypeMeta{APIVersion: wire.APIVersion, Kind: name} }

// PortRules lists the rules of a set in their order, without a port and hits.
func PortRules(set *policy.Set) wire.PortRules {
	out := wire.PortRules{TypeMeta: kind("PortRules"), Rules: set.ID(), Items: []wire.PortRule{},
		Default: wire.DefaultHits{Network: set.Network, Action: set.Default.String()}}
	for i := range set.Rules {
		out.Items = append(out.Items, portRule(&set.Rules[i]))
		out.Items[i].Tier = strconv.Itoa(int(set.Rules[i].Tier))
	}
	out.Sets = append(namedSets(v1alpha1.KindAddressSet, set.Lists), namedSets(v1alpha1.KindServiceSet, set.ServiceLists)...)
	return out
}

func portRule(r *policy.Rule) wire.PortRule {
	return wire.PortRule{Policy: r.Key.Policy, Rule: Rule(r)}
}

// Verdict says what a set does with the first packet of a connection, and which rule, without a
// port and hits. It is the reference evaluator's word. The other results are the
// rules that Policy and Rule, and Monitored, are of; nil where there is none. vm is the port's
// MAC. The error is of the packet, as [Packet]'s.
func Verdict(set policy.Set, in *wire.Packet, vm policy.MAC) (out wire.Verdict, rule, monitored *policy.Rule, err error) {
	p, err := Packet(in, vm)
	if err != nil {
		return out, nil, nil, err
	}
	out = wire.Verdict{TypeMeta: kind("Verdict"), Rules: set.ID(), Network: set.Network, Packet: PacketText(in, p)}
	set.Lists = around(set.Lists, p)
	v, decided := policy.EvaluateFrame(&set, p)
	switch {
	case !decided && (p.EtherType == policy.EtherARP || IsDiscovery(p)):
		v.Action, out.Neighbours = policy.Allow, true
	case !decided:
		v = policy.Evaluate(&set, p)
	}
	for _, i := range v.Passed {
		out.Passed = append(out.Passed, portRule(&set.Rules[i]))
	}
	out.Action = v.Action.String()
	if v.Rule >= 0 {
		rule = &set.Rules[v.Rule]
		told := portRule(rule)
		out.Policy, out.Rule = told.Policy, &told.Rule
	}
	if i, _ := v.MonitoredOne(&set, p); i >= 0 {
		monitored = &set.Rules[i]
		told := portRule(monitored)
		out.Monitored = &told
	}
	return out, rule, monitored, nil
}

// PacketText says what somebody asked about.
func PacketText(in *wire.Packet, p policy.Packet) string {
	if !p.IP {
		return fmt.Sprintf("%s, %v -> %v, EtherType %s", p.Direction, p.SrcMAC, p.DstMAC, policy.EtherTypeName(p.EtherType))
	}
	text := fmt.Sprintf("%s, %v -> %v, %s", p.Direction, p.Src, p.Dst, serviceText(in))
	if in.TCPFlags != "" {
		text += ", " + TCPFlags(p.Flags)
	}
	if in.PeerMAC != "" {
		text += fmt.Sprintf(", MAC %v -> %v", p.SrcMAC, p.DstMAC)
	}
	return text
}

// Rule tells a rule, without hits.
func Rule(r *policy.Rule) wire.Rule {
	v := wire.Rule{ID: r.Key.ID, Name: r.Name, Action: r.Action.String(), Direction: r.Directions.String(), Stateless: r.Stateless, Loose: r.Loose, Sticky: r.Firm && r.Action == policy.Allow, Log: r.Log, LogLabel: r.LogLabel, Ethernet: r.Ethernet}
	switch {
	case r.Disabled:
		v.State = string(v1alpha1.RuleDisabled)
	case r.Monitored:
		v.State = string(v1alpha1.RuleMonitor)
	}
	text := policy.AddrRange.String
	if r.Ethernet {
		text = policy.AddrRange.MACText
	}
	v.Sources, v.Destinations = peerTexts(r.Sources, r.SourceSets, r.NotSources, text), peerTexts(r.Destinations, r.DestinationSets, r.NotDestinations, text)
	if r.LocalSets != nil {
		v.Local = peerTexts(nil, r.LocalSets, false, text)
	}
	for _, s := range r.ServiceSets {
		v.Services = append(v.Services, v1alpha1.KindServiceSet+" "+s)
	}
	for _, s := range r.Services {
		v.Services = append(v.Services, s.String())
	}
	return v
}

// peerTexts gives the peers of one side of a rule; nil is Any.
func peerTexts(ranges []policy.AddrRange, sets []string, not bool, text func(policy.AddrRange) string) []string {
	var out []string
	for _, s := range sets {
		kind, name := kindOf(v1alpha1.KindAddressSet, s)
		out = append(out, kind+" "+name)
	}
	for _, r := range ranges {
		out = append(out, text(r))
	}
	if ranges != nil && out == nil {
		return []string{"nobody now"} // VMs whose address is not known
	}
	if not && out != nil {
		out[0] = "all but " + out[0]
	}
	return out
}

// kindOf says what a set is called: those of networks' subnets have the network's name.
func kindOf(kind, set string) (string, string) {
	if network, ok := strings.CutPrefix(set, v1alpha1.KindVLANNetwork+" "); ok {
		return v1alpha1.KindVLANNetwork, network
	}
	return kind, set
}

// namedSets tells of the sets that rules name, by name.
func namedSets[T fmt.Stringer](kind string, lists map[string][]T) (out []wire.NamedSet) {
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		sum := sha256.New()
		for _, item := range lists[name] {
			fmt.Fprintln(sum, item)
		}
		kind, text := kindOf(kind, name)
		out = append(out, wire.NamedSet{Kind: kind, Name: text, Items: len(lists[name]), Hash: hex.EncodeToString(sum.Sum(nil))})
	}
	return out
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

// nobody is the MAC of a neighbour of which no more is said.
var nobody = policy.MAC{0x02, 0, 0, 0, 0, 0xfe}

// frameOf is what frames of a packet have in common, whatever they carry.
func frameOf(in *wire.Packet, vm policy.MAC) (p policy.Packet, err error) {
	if err := p.Direction.UnmarshalText([]byte(in.Direction)); err != nil {
		return p, attach.Invalid("packet.direction", err.Error(), "want In or Out")
	}
	peer := nobody
	if in.PeerMAC != "" {
		if peer, err = policy.ParseMAC(in.PeerMAC); err != nil {
			return p, attach.Invalid("packet.peerMAC", fmt.Sprintf("%q is no MAC", in.PeerMAC), "want one as 00:50:56:0a:0b:0c")
		}
	}
	p.SrcMAC, p.DstMAC = peer, vm
	if p.Direction == policy.Out {
		p.SrcMAC, p.DstMAC = vm, peer
	}
	if in.EtherType == "" {
		return p, nil
	}
	p.EtherType, err = policy.ParseEtherType(in.EtherType)
	switch {
	case err != nil:
		return p, attach.Invalid("packet.etherType", err.Error(), "ask about another, as ARP or 0x8892")
	case p.EtherType == policy.EtherIPv4 || p.EtherType == policy.EtherIPv6:
		return p, attach.Invalid("packet.etherType", in.EtherType+" is what a packet with addresses has", "say source, destination and service in its place")
	case in.Source.IsValid() || in.Destination.IsValid() || in.Service != "" || in.SourcePort != 0 || in.TCPFlags != "":
		return p, attach.Invalid("packet.etherType", "a frame of it has no IP addresses and no service", "leave these out, or the EtherType")
	}
	return p, nil
}

// Packet checks a packet that somebody wrote; nil is none. vm is the port's MAC. The error is an [*attach.Error].
func Packet(in *wire.Packet, vm policy.MAC) (policy.Packet, error) {
	if in == nil {
		return policy.Packet{}, attach.Invalid("packet", "it must be there", "say what the port would see")
	}
	p, err := frameOf(in, vm)
	if err != nil || p.EtherType != 0 {
		return p, err
	}
	p.IP, p.Src, p.Dst = true, in.Source.Unmap(), in.Destination.Unmap()
	if !p.Src.IsValid() || p.Src.BitLen() != p.Dst.BitLen() {
		return p, attach.Invalid("packet.destination", fmt.Sprintf("%v and %v are not of one family", in.Source, in.Destination), "want both IPv4, or both IPv6")
	}
	if p.Src.Zone()+p.Dst.Zone() != "" {
		return p, attach.Invalid("packet.source", "rules know no zones", "leave what follows % out")
	}
	p.EtherType = policy.EtherIPv6
	if p.Src.Is4() {
		p.EtherType = policy.EtherIPv4
	}
	s, err := policy.ParseService(in.Service)
	if err != nil {
		return p, attach.Invalid("packet.service", err.Error(), "want one as tcp/443, udp/53, icmp/8 or ip/47")
	}
	if s.EtherType != 0 {
		return p, attach.Invalid("packet.service", in.Service+" is no service of IP", "want one as tcp/443, or ask by etherType, without addresses")
	}
	p.Protocol = s.Protocol
	if p.Flags, err = readFlags(in.TCPFlags, p.Protocol); err != nil {
		return p, err
	}
	if s.Flags != (policy.TCPFlags{}) {
		return p, attach.Invalid("packet.service", fmt.Sprintf("%q asks for flags", in.Service), "leave them out, and give them as the packet's flags")
	}
	if IsExtension(p) {
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
	p.HasService, p.Service = true, s.First // of an ICMP type without a code, code 0
	if ports {
		p.SourcePort = cmp.Or(in.SourcePort, clientPort)
	}
	return p, nil
}

// flagLetters are the TCP flags in the order of the header's bits.
const flagLetters = "FSRPAUEC"

// TCPFlags are flags of a TCP header as letters of FSRPAUEC.
func TCPFlags(flags uint8) string {
	var out strings.Builder
	for i, letter := range flagLetters {
		if flags&(1<<i) != 0 {
			out.WriteRune(letter)
		}
	}
	return out.String()
}

// readFlags reads what TCPFlags gives; without any TCP is a SYN.
func readFlags(text string, protocol uint8) (flags uint8, err error) {
	switch {
	case text == "" && protocol == policy.TCP:
		return policy.SYN, nil
	case text != "" && protocol != policy.TCP:
		return 0, attach.Invalid("packet.tcpFlags", policy.ProtocolName(protocol)+" has none", "leave them out")
	}
	for _, letter := range strings.ToUpper(text) {
		i := strings.IndexRune(flagLetters, letter)
		if i < 0 {
			return 0, attach.Invalid("packet.tcpFlags", fmt.Sprintf("%q is no TCP flag", letter), "want letters of "+flagLetters+", as S or SA")
		}
		flags |= 1 << i
	}
	return flags, nil
}

// IsDiscovery says whether the packet is Neighbor Discovery (RFC 4861), which passes but for
// Ethernet rules.
func IsDiscovery(p policy.Packet) bool {
	const first, last = 133, 137
	return p.Protocol == policy.ICMPv6 && p.HasService && p.Service>>8 >= first && p.Service>>8 <= last
}

// IsExtension says whether the packet's protocol is one of the IPv6 extension headers
// that the programs follow.
func IsExtension(p policy.Packet) bool {
	return p.Src.Is6() && slices.Contains([]uint8{0, 43, 44, 51, 60}, p.Protocol)
}

// clientPort is a source port as clients take one: the first of RFC 6335's dynamic ports.
const clientPort = 49152
