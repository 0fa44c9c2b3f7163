package policy

import (
	"net/netip"
	"slices"
)

// Evaluate judges p by set: the first rule that matches decides, else the
// default action. Monitored ones decide nothing, and Pass rules lead to the next tier. Before
// that the Ethernet rules judge its frame: one of them drops it, or allows it, which is all that
// a frame needs that is not IP, or none matches. RARP, by which a VM's new place is announced,
// they are not asked about. It is a transcription of the words of [Rule] and [Packet],
// linear and without any preparation, and so the measure of every faster form.
func Evaluate(set *Set, p Packet) Verdict {
	v, decided := EvaluateFrame(set, p)
	if decided {
		return v
	}
	if i, done := set.first(p, false, &v); done {
		v.Action, v.Rule = set.Rules[i].Action, i
	}
	return v
}

// EvaluateFrame is Evaluate for Ethernet rules alone; decided says that one of them has the last
// word.
func EvaluateFrame(set *Set, p Packet) (v Verdict, decided bool) {
	v = Verdict{Action: set.Default, Rule: -1}
	if p.EtherType == EtherRARP {
		return v, false
	}
	i, found := set.first(p.frame(), true, &v)
	switch {
	case found && (set.Rules[i].Action != Allow || !p.IP):
		v.Action, v.Rule = set.Rules[i].Action, i
		return v, true
	case found:
		v.Passed = append(v.Passed, i)
	}
	return v, false
}

// first finds the rule that decides about p, among Ethernet rules or the others, and notes those
// on the way.
func (s *Set) first(p Packet, ethernet bool, v *Verdict) (rule int, found bool) {
	tier, monitored := uint8(0), false
	for i := range s.Rules {
		switch r := &s.Rules[i]; {
		case r.Ethernet != ethernet || r.Tier < tier || !s.Matches(r, p):
		case r.Monitored:
			if !monitored {
				v.Monitored = append(v.Monitored, i)
			}
			monitored = true
		case r.Action == Pass:
			v.Passed = append(v.Passed, i)
			tier = r.Tier + 1
		default:
			return i, true
		}
	}
	return -1, false
}

// MatchesFrame is Matches of an Ethernet rule for a packet's frame.
func (s *Set) MatchesFrame(r *Rule, p Packet) bool { return s.Matches(r, p.frame()) }

// frame is the packet as Ethernet rules see it.
func (p *Packet) frame() Packet {
	return Packet{Direction: p.Direction, IP: true, Src: MACAddr(p.SrcMAC), Dst: MACAddr(p.DstMAC), EtherType: p.EtherType}
}

// Matches says whether one of the set's rules alone would decide about p, were it not monitored;
// of an Ethernet rule p is the frame.
func (s *Set) Matches(r *Rule, p Packet) bool {
	return !r.Disabled && r.Directions.Has(p.Direction) &&
		(r.LocalSets == nil || p.IP && s.holds(nil, r.LocalSets, p.Local())) &&
		(r.AnySource() || p.IP && s.holds(r.Sources, r.SourceSets, p.Src) != r.NotSources) &&
		(r.AnyDestination() || p.IP && s.holds(r.Destinations, r.DestinationSets, p.Dst) != r.NotDestinations) &&
		(r.AnyService() || p.IP && s.serves(r, p))
}

// Local is the packet's address at the VM's side.
func (p *Packet) Local() netip.Addr {
	if p.Direction == Out {
		return p.Src
	}
	return p.Dst
}

// AnySource says that every source matches, and frames without one.
func (r *Rule) AnySource() bool { return r.Sources == nil && r.SourceSets == nil }

// AnyDestination says that every destination matches, and frames without one.
func (r *Rule) AnyDestination() bool { return r.Destinations == nil && r.DestinationSets == nil }

// AnyService says that every service matches, and frames without one.
func (r *Rule) AnyService() bool { return r.Services == nil && r.ServiceSets == nil }

// holds says whether peers have an address. An IPv6 address that holds an IPv4 one
// (::ffff:0:0/96) is that IPv4 address, here and at the port.
func (s *Set) holds(list []AddrRange, sets []string, a netip.Addr) bool {
	has := func(list []AddrRange) bool {
		return slices.ContainsFunc(list, func(r AddrRange) bool { return r.Contains(a.Unmap()) })
	}
	return has(list) || slices.ContainsFunc(sets, func(name string) bool { return has(s.Lists[name]) })
}

// serves says whether services have an IP packet.
func (s *Set) serves(r *Rule, p Packet) bool {
	has := func(list []Service) bool {
		return slices.ContainsFunc(list, func(s Service) bool { return s.ofEthernet() == r.Ethernet && s.Matches(p) })
	}
	return has(r.Services) || slices.ContainsFunc(r.ServiceSets, func(name string) bool { return has(s.ServiceLists[name]) })
}

// ofEthernet says that the service is one of Ethernet rules.
func (s Service) ofEthernet() bool { return s.EtherType != 0 }

// Matches says whether an IP packet, or a frame, is one of the service's.
func (s Service) Matches(p Packet) bool {
	if s.ofEthernet() {
		return s.EtherType == p.EtherType
	}
	return s.Protocol == p.Protocol && (s.Whole() ||
		p.HasService && s.First <= p.Service && p.Service <= s.Last && s.Flags.Match(p.Flags) &&
			(s.SourceLast == 0 || s.SourceFirst <= p.SourcePort && p.SourcePort <= s.SourceLast))
}
