package policy

import "net/netip"

// Evaluate judges p by set: the first rule that matches decides, else the
// default action. It is a transcription of the words of [Rule] and [Packet],
// linear and without any preparation, and so the measure of every faster form.
func Evaluate(set *Set, p Packet) Verdict {
	for i := range set.Rules {
		if set.Rules[i].Matches(p) {
			return Verdict{Action: set.Rules[i].Action, Rule: i}
		}
	}
	return Verdict{Action: set.Default, Rule: -1}
}

// Matches says whether the rule alone would decide about p.
func (r *Rule) Matches(p Packet) bool {
	return !r.Disabled && r.Directions.Has(p.Direction) &&
		matchesAddr(r.Sources, p.IP, p.Src) &&
		matchesAddr(r.Destinations, p.IP, p.Dst) &&
		matchesService(r.Services, p)
}

// matchesAddr reads a list of peers. An IPv6 address that holds an IPv4 one
// (::ffff:0:0/96) is that IPv4 address, here and at the port.
func matchesAddr(list []AddrRange, ip bool, a netip.Addr) bool {
	if list == nil {
		return true
	}
	if !ip {
		return false
	}
	for _, r := range list {
		if r.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

func matchesService(list []Service, p Packet) bool {
	if list == nil {
		return true
	}
	if !p.IP || !p.HasService {
		return false
	}
	for _, s := range list {
		if s.Protocol == p.Protocol && s.First <= p.Service && p.Service <= s.Last {
			return true
		}
	}
	return false
}
