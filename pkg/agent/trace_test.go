package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/explain"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// enforce has a port judged by a set, and the agent know it.
func (l live) enforce(set policy.Set) {
	l.Helper()
	sets := []policy.Set{set}
	counters, err := compile.Allocate(nil, sets)
	l.must(err)
	prog, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
	l.must(err)
	l.events.learnRules(sets, counters, l.kernel.Generation()+1)
	_, err = l.kernel.Sync(prog)
	l.must(err)
	l.world.Sets = map[string]policy.Set{set.ID(): set}
	l.world.Counters = counters
}

// The port's own program and the reference evaluator say the same of packets that open
// something, and name the same rules.
func TestTraceAgreesWithSimulate(t *testing.T) {
	l := newLive(t)
	rec := l.open("vm1", 1)
	seed := policytest.Seed(t)
	g := policytest.New(seed)
	asked, ruled, monitored, dropped, frames := 0, 0, 0, 0, 0
	for range 12 {
		set := g.Set(rec.Policy)
		l.enforce(set)
		packets := g.Packets(set, 60)
		for _, t := range []uint16{0x88cc, 0x8892} {
			packets = append(packets, policy.Packet{Direction: policy.Out, SrcMAC: policytest.VM, EtherType: t}, policy.Packet{Direction: policy.In, DstMAC: policytest.VM, EtherType: t})
		}
		for _, p := range packets {
			in, ok := wirePacket(p)
			if !ok {
				continue
			}
			req := &wire.ViewRequest{Port: &rec.Key, Packet: in}
			simulated, err := l.verdict(req)
			traced, terr := l.trace(req)
			if err != nil || terr != nil {
				t.Fatalf("seed %d, %+v: %v, %v", seed, in, err, terr)
			}
			s, tr := simulated.(wire.Verdict), traced.(wire.Trace)
			want := map[bool]string{true: wire.EventAllow, false: wire.EventDrop}[s.Action == wire.EventAllow]
			rule := &wire.EventRule{}
			if s.Rule != nil {
				rule.Policy, rule.ID = s.Policy, s.Rule.ID
			}
			same := tr.Verdict == want && tr.Rule != nil && tr.Rule.Policy == rule.Policy && tr.Rule.ID == rule.ID &&
				(tr.Monitored == nil) == (s.Monitored == nil) && (s.Monitored == nil || s.Monitored.ID == tr.Monitored.ID)
			if !same || tr.Stage != "rules" {
				t.Fatalf("seed %d, %+v: simulate says %+v, trace %+v by %+v", seed, in, s, tr, tr.Rule)
			}
			asked++
			for n, is := range map[*int]bool{&ruled: s.Rule != nil, &monitored: s.Monitored != nil, &dropped: want == wire.EventDrop, &frames: !p.IP} {
				if is {
					*n++
				}
			}
		}
	}
	t.Logf("seed %d: %d packets, %d by rules, %d monitored, %d dropped, %d not IP", seed, asked, ruled, monitored, dropped, frames)
	if frames < 40 || asked < 100 || ruled < 20 || monitored < 3 || dropped < 20 || dropped == asked {
		t.Errorf("too few of a kind")
	}

	gone := *rec
	gone.HostIfIndex = 1 << 30
	l.table.replace(&gone)
	_, err := l.trace(&wire.ViewRequest{Port: &rec.Key, Packet: &wire.Packet{Direction: "In", Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.0.2"), Service: "tcp/1"}})
	if err == nil || !strings.Contains(err.Error(), "it has no program to ask") || !strings.Contains(err.Error(), "homeportctl ports") {
		t.Errorf("a port that has just ended: %v", err)
	}
}

// wirePacket is p as somebody would ask about it, if one can.
func wirePacket(p policy.Packet) (*wire.Packet, bool) {
	peer := p.DstMAC
	if p.Direction == policy.In {
		peer = p.SrcMAC
	}
	if p.EtherType == policy.EtherARP {
		return nil, false // TestTraceOfNeighbours
	}
	if !p.IP {
		return &wire.Packet{Direction: p.Direction.String(), EtherType: policy.EtherTypeName(p.EtherType), PeerMAC: peer.String()}, true
	}
	if !p.HasService && (policy.HasPorts(p.Protocol) || policy.HasTypes(p.Protocol)) || explain.IsExtension(p) {
		return nil, false
	}
	s := policy.Service{Protocol: p.Protocol, First: p.Service, Last: p.Service}
	if !p.HasService {
		s.First, s.Last = 0, 0xffff
	}
	in := &wire.Packet{Direction: p.Direction.String(), Source: p.Src, Destination: p.Dst, SourcePort: p.SourcePort, Service: s.String(), PeerMAC: peer.String()}
	if s.Whole() && !strings.HasPrefix(in.Service, "ip/") {
		return nil, false
	}
	if policy.HasPorts(p.Protocol) && p.SourcePort == 0 {
		return nil, false // that is asked about as another
	}
	_, err := explain.Packet(in, policy.MAC{})
	return in, err == nil
}

// ARP and Neighbor Discovery pass whatever the rules are, but for Ethernet rules; simulate and trace
// say so.
func TestTraceOfNeighbours(t *testing.T) {
	l := newLive(t)
	rec := l.open("vm1", 1)
	a, b := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	for what, in := range map[string]*wire.Packet{
		"ARP": {Direction: "In", EtherType: "ARP"},
		"ND":  {Direction: "Out", Source: a, Destination: b, Service: "icmpv6/135"},
	} {
		for _, drops := range []bool{false, true} {
			all := policy.Rule{Key: policy.RuleKey{Policy: "all", ID: 1}, Action: policy.Drop, Directions: policy.InOut}
			frames := all
			frames.Key.Policy, frames.Ethernet, frames.Disabled = "l2", true, !drops
			l.enforce(policy.Set{Network: rec.Policy, Rules: []policy.Rule{frames, all}})
			req := &wire.ViewRequest{Port: &rec.Key, Packet: in}
			v, err := l.verdict(req)
			tr, terr := l.trace(req)
			if err != nil || terr != nil {
				t.Fatal(err, terr)
			}
			s, of := v.(wire.Verdict), tr.(wire.Trace)
			got := fmt.Sprint(s.Action, s.Neighbours, s.Policy, " ", of.Verdict, of.Stage, of.Reason)
			want := fmt.Sprint("Allow", true, "", " ", "Allow", "neighbours", what)
			if drops {
				want = fmt.Sprint("Drop", false, "l2", " ", "Drop", "rules", "RuleDrop")
			}
			if got != want {
				t.Errorf("%s, dropped %v: %s, want %s", what, drops, got, want)
			}
		}
	}
}

// What only the port knows: its state, VLAN, connections.
func TestTraceOfPort(t *testing.T) {
	l := newLive(t)
	l.world.Sets = map[string]policy.Set{}
	rec := l.veth("vm1", 1)
	rec.VLANs = attach.VLANs{Mode: vlan.Trunk}
	l.must(rec.VLANs.Tagged.AddRange(vlan.Range{First: 10, Last: 11}))
	l.openAs(rec)
	l.enforce(policy.Set{Network: rec.Policy, Default: policy.Drop, Rules: []policy.Rule{
		{Key: policy.RuleKey{Policy: "web", ID: 7}, Action: policy.Allow, Directions: policy.OnlyOut, Services: []policy.Service{{Protocol: policy.TCP, First: 80, Last: 80}}},
	}})
	ask := func(change func(*wire.Packet)) string {
		t.Helper()
		p := &wire.Packet{Direction: "Out", Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.0.2"), Service: "tcp/80", VLAN: 10}
		change(p)
		v, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewTrace, Port: &rec.Key, Packet: p})
		if err != nil {
			return err.Error()
		}
		out := v.(wire.Trace)
		text := out.Verdict + " " + out.Stage + " " + out.Reason
		if out.Rule != nil {
			text += fmt.Sprint(" ", out.Rule.Policy, out.Rule.ID, out.Rule.Network)
		}
		return text
	}
	six := func(p *wire.Packet) {
		p.Source, p.Destination = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	}
	for _, c := range []struct {
		change func(*wire.Packet)
		want   string
	}{
		{func(p *wire.Packet) {}, "Allow rules RuleAllow web7"},
		{six, "Allow rules RuleAllow web7"},
		{func(p *wire.Packet) { p.TCPFlags = "a" }, "Drop connections TCPNoState web7"},
		{func(p *wire.Packet) { p.VLAN = 12 }, "Drop VLAN VLANNotAllowed"},
		{func(p *wire.Packet) { p.VLAN = 0 }, "Drop VLAN Untagged"},
		{func(p *wire.Packet) { p.Direction = "In" }, "Drop rules DefaultDrop 0" + rec.Policy},
		{func(p *wire.Packet) { p.Service = "sctp/80" }, "Drop rules DefaultDrop 0" + rec.Policy},
		{func(p *wire.Packet) { p.Service = "ip/47" }, "Drop rules DefaultDrop 0" + rec.Policy},
		{func(p *wire.Packet) { p.VLAN = 4095 }, "packet.vlan: 4095 is no VLAN"},
		{func(p *wire.Packet) { p.TCPFlags = "SX" }, `packet.tcpFlags: 'X' is no TCP flag`},
		{func(p *wire.Packet) { p.Service, p.TCPFlags = "udp/80", "S" }, "packet.tcpFlags: udp has none"},
		{func(p *wire.Packet) { six(p); p.Service = "ip/44" }, "packet.service: 44 is an extension header in IPv6"},
		{func(p *wire.Packet) { p.Service = "ip/44" }, "Drop rules DefaultDrop 0" + rec.Policy},
	} {
		if got := ask(c.change); !strings.HasPrefix(got, c.want) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	l.must(l.kernel.SetState(rec.HostIfIndex, attach.Released))
	if got := ask(func(*wire.Packet) {}); got != "Drop port PortReleased" {
		t.Errorf("at a released port: %s", got)
	}
	if _, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewTrace, Port: &rec.Key}); err == nil {
		t.Error("no packet, no error")
	}
}

// Every reason is of some stage.
func TestStages(t *testing.T) {
	for _, r := range policy.Reasons() {
		if r.Stage() == "unknown" {
			t.Errorf("%v has no stage", r)
		}
	}
}
