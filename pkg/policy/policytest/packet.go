package policytest

import (
	"math/big"
	"net/netip"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// The types of Neighbor Discovery (RFC 4861): they pass before any rule.
const (
	firstND = 133
	lastND  = 137
)

// Realisable says whether a frame can be made of p whose verdict is up to the
// rules: one family, ICMP with IPv4 and ICMPv6 with IPv6 only, no IPv4 in IPv6
// notation, no Neighbor Discovery. All packets of this package are.
func Realisable(p policy.Packet) bool {
	if !p.IP {
		return p.EtherType != policy.EtherIPv4 && p.EtherType != policy.EtherIPv6 && !p.HasService && !p.Src.IsValid() && !p.Dst.IsValid() && p.Protocol == 0
	}
	if p.Flags != 0 && !(p.HasService && p.Protocol == policy.TCP) {
		return false
	}
	if p.SourcePort != 0 && !(p.HasService && policy.HasPorts(p.Protocol)) {
		return false
	}
	if !p.Src.IsValid() || p.Src.BitLen() != p.Dst.BitLen() || p.Src.Is4In6() || p.Dst.Is4In6() {
		return false
	}
	if p.Protocol == policy.ICMP && !p.Src.Is4() || p.Protocol == policy.ICMPv6 && p.Src.Is4() {
		return false
	}
	switch p.Protocol {
	case policy.TCP, policy.UDP, policy.SCTP, policy.ICMP:
		return true
	case policy.ICMPv6:
		return !p.HasService || p.Service>>8 < firstND || p.Service>>8 > lastND
	}
	return !p.HasService
}

// Packets makes n packets for a set. First, for each rule, come packets that
// it matches but for one field, which stands on or beside an end of one of
// the rule's ranges; in random order, and cut off at n. The rest are aimed at
// rules and taken at random, among them frames that are not IP, other
// protocols and fragments.
func (g *Gen) Packets(set policy.Set, n int) []policy.Packet {
	set = flat(set)
	out := g.boundaries(set)
	g.rnd.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	if len(out) > n {
		out = out[:n]
	}
	for len(out) < n {
		if len(set.Rules) > 0 && g.rnd.IntN(2) == 0 {
			if p, ok := g.aim(&set.Rules[g.rnd.IntN(len(set.Rules))], set.Lists); ok {
				out = append(out, p)
				continue
			}
		}
		out = append(out, g.anyPacket())
	}
	for i := range out {
		out[i] = g.framed(out[i])
	}
	return out
}

// PacketFor tries to find a packet that rule i decides, or passes on, or would if it were not monitored. It fails if earlier
// rules hide it, or, rarely, by chance.
func (g *Gen) PacketFor(set policy.Set, i int) (policy.Packet, bool) {
	for range 200 {
		if p, ok := g.Aim(set, i); ok {
			if v := policy.Evaluate(&set, p); slices.Contains(v.Matched(), i) {
				return p, true
			}
		}
	}
	return policy.Packet{}, false
}

// Aim makes a packet that rule i matches if it can.
func (g *Gen) Aim(set policy.Set, i int) (policy.Packet, bool) {
	r := set.Flat(set.Rules[i])
	p, ok := g.aim(&r, set.Lists)
	return g.framed(p), ok
}

// flat is the set without address sets, but for those of the VM's side.
func flat(set policy.Set) policy.Set {
	set.Rules = slices.Clone(set.Rules)
	for i := range set.Rules {
		set.Rules[i] = set.Flat(set.Rules[i])
	}
	return set
}

// aim is Aim for a rule that names no address sets but for the VM's side.
func (g *Gen) aim(r *policy.Rule, lists map[string][]policy.AddrRange) (policy.Packet, bool) {
	if r.Ethernet {
		return g.aimFrame(r)
	}
	var local []policy.AddrRange
	if r.LocalSets != nil {
		local = []policy.AddrRange{}
		for _, name := range r.LocalSets {
			local = append(local, lists[name]...)
		}
	}
	if isAny(r) && g.rnd.IntN(3) == 0 {
		return policy.Packet{Direction: g.direction(r.Directions)}, true
	}
	for _, v4 := range g.families() {
		p := g.ipPacket(v4)
		p.Direction = g.direction(r.Directions)
		ok := g.aimAddr(r.Sources, r.NotSources, v4, &p.Src) && g.aimAddr(r.Destinations, r.NotDestinations, v4, &p.Dst)
		if own := map[policy.Direction]*netip.Addr{policy.Out: &p.Src, policy.In: &p.Dst}[p.Direction]; ok && g.rnd.IntN(2) == 0 {
			ok = g.aimAddr(local, false, v4, own) // else those of the peers may do
		}
		if ok && r.Services != nil {
			ok = len(r.Services) > 0
			if ok {
				g.aimService(pick(g, r.Services), &p)
			}
		}
		if ok && Realisable(p) {
			return p, true
		}
	}
	return policy.Packet{}, false
}

func (g *Gen) families() []bool {
	if g.rnd.IntN(2) == 0 {
		return []bool{true, false}
	}
	return []bool{false, true}
}

func (g *Gen) direction(s policy.Directions) policy.Direction {
	if d := policy.Direction(g.rnd.IntN(2)); s.Has(d) {
		return d
	}
	if s.Has(policy.In) {
		return policy.In
	}
	return policy.Out
}

// aimAddr moves a into one of the ranges of its family, if there are any; or, if not
// is set, where none is.
func (g *Gen) aimAddr(list []policy.AddrRange, not, v4 bool, a *netip.Addr) bool {
	if list == nil {
		return true
	}
	if not {
		for range 20 {
			*a = g.addr(v4)
			if a.Is4() == v4 && !slices.ContainsFunc(list, func(r policy.AddrRange) bool { return r.Contains(*a) }) {
				return true
			}
		}
		return false
	}
	list = slices.DeleteFunc(slices.Clone(list), func(r policy.AddrRange) bool { return r.First.Is4() != v4 })
	if len(list) == 0 {
		return false
	}
	r := pick(g, list)
	first, last := new(big.Int).SetBytes(r.First.AsSlice()), new(big.Int).SetBytes(r.Last.AsSlice())
	size := last.Sub(last, first)
	width := uint64(1)<<63 - 1
	if size.IsUint64() {
		width = min(width, size.Uint64())
	}
	at := first.Add(first, new(big.Int).SetUint64(g.within(width)))
	*a, _ = netip.AddrFromSlice(at.FillBytes(make([]byte, r.First.BitLen()/8)))
	return true
}

// aimService makes p one of a service's, now and then a fragment, if those are.
func (g *Gen) aimService(s policy.Service, p *policy.Packet) {
	p.Protocol, p.HasService, p.Service, p.SourcePort, p.Flags = s.Protocol, false, 0, 0, 0
	ports, types := policy.HasPorts(s.Protocol), policy.HasTypes(s.Protocol)
	if !ports && !types || s.Whole() && g.rnd.IntN(4) == 0 {
		return
	}
	p.HasService = true
	p.Service = s.First + uint16(g.within(uint64(s.Last-s.First)))
	if p.Protocol == policy.TCP {
		p.Flags = g.tcpFlags()&^s.Flags.Mask | s.Flags.Set
	}
	switch {
	case s.SourceLast != 0:
		p.SourcePort = s.SourceFirst + uint16(g.within(uint64(s.SourceLast-s.SourceFirst)))
	case ports:
		p.SourcePort = g.sourcePort()
	}
}

// sourcePort is mostly one that sets do not name.
func (g *Gen) sourcePort() uint16 {
	if g.rnd.IntN(3) != 0 {
		return uint16(g.rnd.Uint32())
	}
	port, _ := g.ports()
	return port
}

// within is a number from 0 to last, often one of the two.
func (g *Gen) within(last uint64) uint64 {
	switch g.rnd.IntN(4) {
	case 0:
		return 0
	case 1:
		return last
	}
	return g.rnd.Uint64N(last + 1)
}

// ipPacket makes a packet of one family.
func (g *Gen) ipPacket(v4 bool) policy.Packet {
	for {
		p := policy.Packet{
			Direction: policy.Direction(g.rnd.IntN(2)),
			IP:        true,
			Src:       g.addr(v4),
			Dst:       g.addr(v4),
			Protocol:  pick(g, []uint8{policy.TCP, policy.TCP, policy.UDP, policy.ICMP, policy.ICMPv6, 2, 47, 50, policy.SCTP}),
		}
		if p.HasService = g.rnd.IntN(8) != 0; p.HasService {
			switch {
			case policy.HasPorts(p.Protocol):
				p.Service, _ = g.ports()
				p.SourcePort = g.sourcePort()
				if p.Protocol == policy.TCP {
					p.Flags = g.tcpFlags()
				}
			case policy.HasTypes(p.Protocol):
				p.Service, _ = g.icmpTypes(p.Protocol)
			default:
				p.HasService = false
			}
		}
		// An address family may come out otherwise, see addr.
		if Realisable(p) && p.Src.Is4() == v4 {
			return p
		}
	}
}

func (g *Gen) anyPacket() policy.Packet {
	if g.rnd.IntN(20) == 0 {
		return policy.Packet{Direction: policy.Direction(g.rnd.IntN(2))}
	}
	return g.ipPacket(g.rnd.IntN(2) == 0)
}

// boundaries makes the packets on and beside every end that set names.
func (g *Gen) boundaries(set policy.Set) (out []policy.Packet) {
	keep := func(p policy.Packet) {
		if Realisable(p) {
			out = append(out, p)
		}
	}
	for i := range set.Rules {
		r := &set.Rules[i]
		if r.Ethernet {
			g.aroundFrames(r, keep)
			continue
		}
		one := func() (policy.Packet, bool) { return g.aim(r, set.Lists) }
		for _, name := range r.LocalSets {
			g.aroundAddrs(one, set.Lists[name], func(p policy.Packet, a netip.Addr) {
				if p.Direction == policy.Out {
					p.Src = a
				} else {
					p.Dst = a
				}
				keep(p)
			})
		}
		g.aroundAddrs(one, r.Sources, func(p policy.Packet, a netip.Addr) { p.Src = a; keep(p) })
		g.aroundAddrs(one, r.Destinations, func(p policy.Packet, a netip.Addr) { p.Dst = a; keep(p) })
		for _, s := range r.Services {
			one := *r
			one.Services = []policy.Service{s}
			around := func(first, last uint16, put func(*policy.Packet, uint16)) {
				for _, at := range []int{int(first) - 1, int(first), int(last), int(last) + 1} {
					if p, ok := g.aim(&one, set.Lists); ok && p.HasService && at >= 0 && at <= 0xffff {
						put(&p, uint16(at))
						keep(p)
					}
				}
			}
			around(s.First, s.Last, func(p *policy.Packet, at uint16) { p.Service = at })
			if s.SourceLast != 0 {
				around(s.SourceFirst, s.SourceLast, func(p *policy.Packet, at uint16) { p.SourcePort = at })
			}
			for bit := uint8(1); bit != 0 && s.Flags.Mask != 0; bit <<= 1 {
				if p, ok := g.aim(&one, set.Lists); ok && p.HasService {
					p.Flags ^= bit
					keep(p)
				}
			}
		}
		if p, ok := one(); ok {
			p.Direction ^= 1
			keep(p)
			p.Direction ^= 1
			p.HasService, p.Service, p.SourcePort, p.Flags = false, 0, 0, 0 // a fragment
			keep(p)
		}
	}
	return out
}

// aroundAddrs gives each address on and beside the ends of list, with a packet
// of its family from aim, which a rule matches otherwise.
func (g *Gen) aroundAddrs(aim func() (policy.Packet, bool), list []policy.AddrRange, use func(policy.Packet, netip.Addr)) {
	for _, one := range list {
		for _, a := range []netip.Addr{one.First.Prev(), one.First, one.Last, one.Last.Next()} {
			if !a.IsValid() {
				continue
			}
			for range 4 {
				if p, ok := aim(); ok && p.IP && p.Src.Is4() == a.Is4() {
					use(p, a)
					break
				}
			}
		}
	}
}
