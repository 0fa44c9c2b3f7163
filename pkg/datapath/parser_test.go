package datapath

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

// dissected is what another dissector sees of a frame.
type dissected struct {
	policy.Packet
	fragment bool // a non-first one
	opens    bool // TCP: a SYN alone
	nd       bool // Neighbor Discovery as RFC 4861 sends it
}

// dissect reads a frame with gopacket. ok is that it is one whole IP packet or non-first
// fragment in which all that gopacket looks at is right; the programs may then say what
// they like of no other.
func dissect(frame []byte) (d dissected, ok bool) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	if p.ErrorLayer() != nil || p.Metadata().Truncated || len(p.Layers()) < 2 {
		return d, false
	}
	d.IP, d.HasService = true, true
	hops := uint8(0)
	switch ip := p.Layers()[1].(type) {
	case *layers.IPv4:
		d.Src, _ = netip.AddrFromSlice(ip.SrcIP)
		d.Dst, _ = netip.AddrFromSlice(ip.DstIP)
		d.Protocol, d.fragment = uint8(ip.Protocol), ip.FragOffset > 0
		if ip.Version != 4 || binary.BigEndian.Uint16(ip.Contents[2:]) == 0 || ip.FragOffset == 0 && ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset == 1 && d.Protocol == policy.TCP {
			return d, false // gopacket takes length 0 for that of the frame, and does not look into first fragments
		}
	case *layers.IPv6:
		d.Src, _ = netip.AddrFromSlice(ip.SrcIP)
		d.Dst, _ = netip.AddrFromSlice(ip.DstIP)
		d.Protocol, hops = uint8(ip.NextHeader), ip.HopLimit
		if ip.Version != 6 || ip.Length == 0 || d.Src.Is4In6() || d.Dst.Is4In6() {
			return d, false
		}
		for _, l := range p.Layers()[2:] {
			switch e := l.(type) {
			case *layers.IPv6HopByHop, *layers.IPv6Routing, *layers.IPv6Destination, *layers.IPSecAH:
				return d, false // flows_test has extension headers; gopacket takes them in any order and number
			case *layers.IPv6Fragment:
				d.Protocol, d.fragment = uint8(e.NextHeader), e.FragmentOffset > 0
				if e.FragmentOffset <= 1 {
					return d, false
				}
			}
		}
	default:
		return d, false
	}
	if d.fragment {
		d.HasService = false
		return d, true
	}
	if t, is := p.TransportLayer().(*layers.TCP); is && d.Protocol == policy.TCP {
		d.SourcePort, d.Service = uint16(t.SrcPort), uint16(t.DstPort)
		d.opens = t.SYN && !t.ACK && !t.FIN && !t.RST
		for i, on := range []bool{t.FIN, t.SYN, t.RST, t.PSH, t.ACK, t.URG, t.ECE, t.CWR} {
			if on {
				d.Flags |= 1 << i
			}
		}
		return d, true
	}
	if u, is := p.TransportLayer().(*layers.UDP); is && d.Protocol == policy.UDP {
		d.SourcePort, d.Service = uint16(u.SrcPort), uint16(u.DstPort)
		return d, true
	}
	if s, is := p.TransportLayer().(*layers.SCTP); is && d.Protocol == policy.SCTP {
		d.SourcePort, d.Service = uint16(s.SrcPort), uint16(s.DstPort)
		return d, true
	}
	if i, is := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); is && d.Protocol == policy.ICMP && d.Src.Is4() {
		d.Service = uint16(i.TypeCode)
		return d, true
	}
	if i, is := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); is && d.Protocol == policy.ICMPv6 && d.Src.Is6() {
		d.Service = uint16(i.TypeCode)
		d.nd = hops == 255 && i.TypeCode.Type() >= 133 && i.TypeCode.Type() <= 137
		return d, len(i.Contents)+len(i.Payload) >= 8 // no message is shorter
	}
	d.HasService = false
	return d, !policy.HasPorts(d.Protocol) && !policy.HasTypes(d.Protocol)
}

// expected is the reason that a port without flows has for a packet.
func (d *dissected) expected(set *policy.Set) policy.Reason {
	v := policy.Evaluate(set, d.Packet)
	if v.Rule >= 0 && set.Rules[v.Rule].Ethernet {
		return policy.ReasonRuleDrop // all these are IP
	}
	if d.nd {
		return policy.ReasonND
	}
	allow, drop := policy.ReasonDefaultAllow, policy.ReasonDefaultDrop
	if v.Rule >= 0 {
		allow, drop = policy.ReasonRuleAllow, policy.ReasonRuleDrop
	}
	if d.fragment {
		allow, drop = policy.ReasonFragmentAllow, policy.ReasonFragmentDrop
	}
	switch {
	case v.Action != policy.Allow:
		return drop
	case d.Protocol == policy.TCP && d.HasService && !d.opens && (v.Rule < 0 || !set.Rules[v.Rule].Stateless && !set.Rules[v.Rule].Loose):
		return policy.ReasonTCPNoState
	}
	return allow
}

// parserBench is a port with rules of all kinds, and frames that they know.
func parserBench(tb testing.TB, seed uint64) (*bench, policy.Set, [][]byte) {
	b, g := newBench(tb, Config{}), policytest.New(seed)
	set := g.SetN("n", 60)
	for i := range set.Rules {
		if set.Rules[i].Action == policy.Reject { // refuse_test has these
			set.Rules[i].Action = policy.Drop
		}
	}
	b.sync(set)
	var frames [][]byte
	for _, p := range g.Packets(set, 400) {
		if p.IP {
			frames = append(frames, frameOf(p, 1))
		}
	}
	return b, set, frames
}

// against runs a frame at a port that knows no flow, and compares with what gopacket
// sees. It says whether there was anything to compare.
func (b *bench) against(set *policy.Set, h Hook, frame []byte) bool {
	b.Helper()
	copy(frame[map[Hook]int{FromVM: 6, ToVM: 0}[h]:], testMAC)
	if least := map[uint16]int{0x0800: 20, 0x86dd: 40}[binary.BigEndian.Uint16(frame[12:])]; len(frame) < 14+least {
		return false // BPF_PROG_TEST_RUN makes no packet of it
	}
	d, ok := dissect(frame)
	b.network(set.Network)
	got := b.reason(h, frame)
	if !ok {
		return false
	}
	d.DstMAC, d.SrcMAC, d.EtherType = policy.MAC(frame), policy.MAC(frame[6:]), binary.BigEndian.Uint16(frame[12:])
	d.Direction = map[Hook]policy.Direction{FromVM: policy.Out, ToVM: policy.In}[h]
	if want := d.expected(set); got != want {
		b.Fatalf("%x: %v, but gopacket sees %+v, and so it is %v", frame, got, d, want)
	}
	return true
}

// spoil changes a frame a little, mostly in its headers.
func spoil(r *rand.Rand, frame []byte) []byte {
	out := append([]byte{}, frame...)
	for range r.IntN(4) {
		at := 12 + r.IntN(len(out)-12)
		if r.IntN(2) == 0 {
			at = min(at, 12+r.IntN(30))
		}
		switch r.IntN(3) {
		case 0:
			out[at] ^= 1 << r.IntN(8)
		case 1:
			out[at] = byte(r.IntN(256))
		default:
			out[at] += byte(r.IntN(3)) - 1
		}
	}
	switch r.IntN(8) {
	case 0:
		out = out[:14+r.IntN(len(out)-13)]
	case 1:
		out = append(out, make([]byte, r.IntN(40))...)
	}
	return out
}

// TestParserAgainstGopacket: of frames that are right the programs see what another
// dissector sees, and judge by it; what is wrong with a frame breaks nothing. The frames
// are the same each time; with another seed, and in FuzzParser, they are others.
func TestParserAgainstGopacket(t *testing.T) {
	seed := uint64(1)
	if os.Getenv(policytest.SeedVariable) != "" {
		seed = policytest.Seed(t)
	}
	b, set, frames := parserBench(t, seed)
	r := rand.New(rand.NewPCG(seed, 4))
	compared, total := 0, size(t, "HOMEPORT_PARSER_FRAMES", 20_000, 3_000)
	for n := range total {
		if b.against(&set, []Hook{FromVM, ToVM}[n%2], spoil(r, frames[r.IntN(len(frames))])) {
			compared++
		}
	}
	t.Logf("%d of %d frames compared", compared, total)
	if compared < total/4 {
		t.Errorf("only %d of %d frames could be compared", compared, total)
	}
}

// FuzzParser is the same for whatever a fuzzer finds (root).
func FuzzParser(f *testing.F) {
	b, set, frames := parserBench(f, 1)
	for i, frame := range frames {
		f.Add(frame, i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, frame []byte, out bool) {
		if len(frame) < 14 || len(frame) > 1500 {
			return
		}
		b := &bench{TB: t, Datapath: b.Datapath}
		b.against(&set, map[bool]Hook{true: FromVM, false: ToVM}[out], frame)
	})
}
