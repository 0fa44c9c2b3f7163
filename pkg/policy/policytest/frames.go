package policytest

import (
	"encoding/binary"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// VM is the MAC of the port of all packets: the source of what goes out, and the destination of
// what comes in but for groups.
var VM = policy.MAC{0x02, 0, 0, 0, 0, 1}

// others are the MACs that packets have beside it, and group one that comes in, too.
var (
	others = []policy.MAC{{0x02, 0, 0, 0, 0, 2}, {0x02, 0, 0, 0, 0, 3}, {0x00, 0x50, 0x56, 0, 1, 2}, {0x00, 0x50, 0x56, 0xff, 0xff, 0xff}, {0x00, 0x50, 0x57}}
	group  = policy.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	// types are EtherTypes of frames that are not IP, and that rules are asked about: of ARP Ethernet
	// rules alone.
	types = []uint16{0x88cc, 0x8892, 0x0842, policy.EtherMin, 0xffff, 0x0801, policy.EtherARP}
)

// frameRule makes an Ethernet rule.
func (g *Gen) frameRule() policy.Rule {
	r := policy.Rule{
		Name:            "generated",
		Ethernet:        true,
		Action:          pick(g, []policy.Action{policy.Drop, policy.Allow}),
		Directions:      pick(g, []policy.Directions{policy.OnlyOut, policy.OnlyIn, policy.InOut}),
		Disabled:        g.rnd.IntN(20) == 0,
		Log:             g.rnd.IntN(3) == 0,
		NotSources:      g.rnd.IntN(8) == 0,
		NotDestinations: g.rnd.IntN(8) == 0,
	}
	if g.rnd.IntN(2) == 0 {
		r.Sources = g.macRanges()
	}
	if g.rnd.IntN(2) == 0 {
		r.Destinations = g.macRanges()
	}
	if g.rnd.IntN(3) != 0 {
		r.Services = g.etherTypes()
	}
	return r
}

func (g *Gen) macRanges() []policy.AddrRange {
	out := []policy.AddrRange{}
	for range g.rnd.IntN(4) {
		a := policy.MACAddr(pick(g, append(others, VM, group)))
		switch g.rnd.IntN(4) {
		case 0:
			p, err := a.Prefix(128 - 48 + 1 + g.rnd.IntN(48))
			if err != nil {
				panic(err)
			}
			out = append(out, policy.RangeOf(p))
		case 1:
			out = append(out, policy.AddrRange{First: a.Prev(), Last: a})
		default:
			out = append(out, policy.AddrRange{First: a, Last: a})
		}
	}
	return out
}

func (g *Gen) etherTypes() []policy.Service {
	out := []policy.Service{}
	for range g.rnd.IntN(4) {
		out = append(out, policy.Service{EtherType: pick(g, append(types, policy.EtherIPv4, policy.EtherIPv6, policy.EtherIPv4+2))})
	}
	return out
}

// framed gives p a frame, unless it has one.
func (g *Gen) framed(p policy.Packet) policy.Packet {
	if p.EtherType != 0 {
		return p
	}
	p.SrcMAC, p.DstMAC = VM, pick(g, append(others, group))
	if p.Direction == policy.In {
		p.SrcMAC, p.DstMAC = pick(g, others), pick(g, []policy.MAC{VM, VM, VM, group})
	}
	switch {
	case !p.IP:
		p.EtherType = pick(g, types)
	case p.Src.Is4():
		p.EtherType = policy.EtherIPv4
	default:
		p.EtherType = policy.EtherIPv6
	}
	return p
}

// aimFrame is aim for an Ethernet rule.
func (g *Gen) aimFrame(r *policy.Rule) (policy.Packet, bool) {
	set := policy.Set{}
	for range 20 {
		p := g.anyPacket()
		if len(r.Services) > 0 {
			switch t := pick(g, r.Services).EtherType; t {
			case policy.EtherIPv4, policy.EtherIPv6:
				p = g.ipPacket(t == policy.EtherIPv4)
			default:
				p = policy.Packet{EtherType: t}
			}
		}
		p.Direction = g.direction(r.Directions)
		at := p.EtherType
		p.EtherType = 0
		if p = g.framed(p); at != 0 {
			p.EtherType = at
		}
		if other, list := &p.DstMAC, r.Destinations; g.rnd.IntN(2) == 0 {
			if p.Direction == policy.In {
				other, list = &p.SrcMAC, r.Sources
			}
			if len(list) > 0 {
				*other = edge(pick(g, list), g.rnd.IntN(2) == 0)
			}
		}
		if p.EtherType != policy.EtherRARP && set.MatchesFrame(r, p) {
			return p, true
		}
	}
	return policy.Packet{}, false
}

// edge is the first or the last MAC of a range.
func edge(r policy.AddrRange, first bool) (m policy.MAC) {
	a := r.Last
	if first {
		a = r.First
	}
	b := a.As16()
	copy(m[:], b[10:])
	return m
}

// aroundFrames makes packets that an Ethernet rule matches but for the other's MAC, or the
// EtherType, which are beside what it names.
func (g *Gen) aroundFrames(r *policy.Rule, keep func(policy.Packet)) {
	for range 4 {
		p, ok := g.aimFrame(r)
		if !ok {
			return
		}
		keep(p)
		beside := p
		other := &beside.DstMAC
		if p.Direction == policy.In {
			other = &beside.SrcMAC
		}
		b := append([]byte{0, 0}, other[:]...)
		n := binary.BigEndian.Uint64(b) + uint64(2*g.rnd.IntN(2)) - 1
		copy(other[:], binary.BigEndian.AppendUint64(nil, n)[2:])
		keep(beside)
		if beside = p; !p.IP && !slices.Contains([]uint16{policy.EtherMin, policy.EtherIPv6 - 1, policy.EtherIPv4 - 1}, p.EtherType) {
			beside.EtherType -= 1 // of the types above, none that is special
			keep(beside)
		}
		beside = p
		beside.Direction ^= 1
		beside.SrcMAC, beside.DstMAC = p.DstMAC, p.SrcMAC
		if beside.Direction == policy.In || beside.SrcMAC == VM {
			keep(beside)
		}
	}
}
