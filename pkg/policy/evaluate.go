package policy

import (
	"net/netip"
	"slices"
)

// Evaluate judges p by set: the first rule that matches decides, else the
// default action. Monitored ones decide nothing, and Pass rules lead to the next tier. It is a transcription of the words of [Rule] and [Packet],
// linear and without any preparation, and so the measure of every faster form.
func Evaluate(set *Set, p Packet) Verdict {
	v := Verdict{Action: set.Default, Rule: -1, Monitored: -1}
	tier := uint8(0)
	for i := range set.Rules {
		switch r := &set.Rules[i]; {
		case r.Tier < tier || !set.Matches(r, p):
		case r.Monitored:
			if v.Monitored < 0 {
				v.Monitored = i
			}
		case r.Action == Pass:
			v.Passed = append(v.Passed, i)
			tier = r.Tier + 1
		default:
			v.Action, v.Rule = r.Action, i
			return v
		}
	}
	return v
}

// Matches says whether one of the set's rules alone would decide about p, were it not monitored.
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
		return slices.ContainsFunc(list, func(s Service) bool { return s.Matches(p) })
	}
	return has(r.Services) || slices.ContainsFunc(r.ServiceSets, func(name string) bool { return has(s.ServiceLists[name]) })
}

// Matches says whether an IP packet is one of the service's.
func (s Service) Matches(p Packet) bool {
	return s.Protocol == p.Protocol && (s.Whole() ||
		p.HasService && s.First <= p.Service && p.Service <= s.Last && s.Flags.Match(p.Flags) &&
			(s.SourceLast == 0 || s.SourceFirst <= p.SourcePort && p.SourcePort <= s.SourceLast))
}
