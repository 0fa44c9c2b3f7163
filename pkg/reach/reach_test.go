package reach

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// site is a fabric of two switches, four nodes and twenty VLANs, one of them native. Each VLAN
// has its gateway, at the first switch; VLANs up to dhcpUpTo a DHCP server, too.
type site struct {
	*fabric
	a, b     *fakeSwitch
	ab, ba   *fakePort
	vlans    []vlan.ID
	tagged   vlan.Set
	gateways map[vlan.ID]*host
	absent   []Absent
	over     chan struct{} // closed when the test has its report
	// addressed: some VLANs have sources and targets, see newAddressed.
	addressed bool
}

const (
	native   = vlan.ID(1)
	dhcpUpTo = vlan.ID(104)
)

func gatewayOf(id vlan.ID) netip.Addr  { return addrOf("10.%d.%d.1", id/256, id%256) }
func gateway6Of(id vlan.ID) netip.Addr { return addrOf("fd00:%x::1", int(id)) }
func serverOf(id vlan.ID) netip.Addr   { return gatewayOf(id) }

func newSite(seed uint64) *site {
	s := &site{fabric: newFabric(seed), gateways: map[vlan.ID]*host{}, over: make(chan struct{})}
	s.vlans = []vlan.ID{native}
	for id := vlan.ID(100); id < 119; id++ {
		s.vlans = append(s.vlans, id)
		s.tagged = s.tagged.Union(setOf(id))
	}
	s.a, s.b = s.newSwitch("sw-a"), s.newSwitch("sw-b")
	s.ab, s.ba = s.link(s.a, s.b, native, s.tagged)
	var networks []Network
	for _, id := range s.vlans {
		n := Network{Name: fmt.Sprint("net-", id), VLANs: setOf(id), Home: id, MTU: 1500, Gateways: []netip.Addr{gatewayOf(id), gateway6Of(id)},
			Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", id/256, id%256)), netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/64", int(id)))}}
		mac := probe.MAC{0x02, 0xaa, 0, 0, byte(id >> 8), byte(id)}
		linkLocal := addrOf("fe80::%x", int(id))
		hears := []func(*host, probe.Frame, gopacket.Packet){holds(gatewayOf(id)), holds(gateway6Of(id)), routes(linkLocal, netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/64", int(id))))}
		if id <= dhcpUpTo && id != native {
			n.DHCP, n.DHCPServers = true, []netip.Addr{serverOf(id)}
			hears = append(hears, serves(serverOf(id), addrOf("10.%d.%d.200", id/256, id%256)))
		}
		s.gateways[id] = s.host(s.a, id, mac, hears...)
		networks = append(networks, n)
	}
	for i, sw := range []*fakeSwitch{s.a, s.a, s.b, s.b} {
		s.node(fmt.Sprint("n", i+1), sw, native, s.tagged, networks)
	}
	return s
}

// check runs one.
func (s *site) check(t *testing.T, o Options) *Report {
	t.Helper()
	var agents []Agent
	for _, n := range s.nodes {
		agents = append(agents, n)
	}
	r, err := Run(t.Context(), agents, s.absent, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.stormed {
		t.Fatal("a frame went round and round: the test's fabric is wrong")
	}
	return r
}

// atoms are what a report finds, each by its code, node and VLAN.
func atoms(r *Report) []string {
	var list []string
	for _, f := range r.Findings {
		nodes := f.Nodes
		if len(nodes) == 0 {
			nodes = []string{"*"}
		}
		for _, n := range nodes {
			if f.VLANs.Empty() {
				list = append(list, atom(f.Code, n, 0))
			}
			for id := range f.VLANs.All() {
				list = append(list, atom(f.Code, n, id))
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func atom(c Code, node string, id vlan.ID) string { return fmt.Sprintf("%s %s %d", c, node, id) }

// each is a code at a node in all of these VLANs.
func each(c Code, node string, ids []vlan.ID) (list []string) {
	for _, id := range ids {
		list = append(list, atom(c, node, id))
	}
	slices.Sort(list)
	return list
}

func inBubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// TestHealthy: nothing is found where nothing is wrong, with loss, jitter, hosts that ask for
// each other and hosts in the middle of their own duplicate detection, who see no conflict.
func TestHealthy(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(1)
		s.loss, s.jitter = 0.01, 20*time.Millisecond
		stop := make(chan struct{})
		var all []*detects
		for i, id := range s.vlans {
			d := &detects{address4: addrOf("10.%d.%d.77", id/256, id%256), address6: addrOf("fd00:%x::77", int(id))}
			all = append(all, d)
			h := s.host([]*fakeSwitch{s.a, s.b}[i%2], id, probe.MAC{0x02, 0xbb, 0, 0, byte(id >> 8), byte(id)}, d.hear)
			go d.run(h, stop)
		}
		r := s.check(t, Options{})
		close(stop)
		if len(r.Findings) > 0 {
			t.Errorf("found %v", atoms(r))
		}
		if r.Summary.Failed+r.Summary.Untested > 0 || r.Summary.Passed != len(r.Cells) || len(r.Cells) < 4*20*6 {
			t.Errorf("%+v", r.Summary)
			for _, c := range r.Cells {
				if c.Result != Pass {
					t.Logf("%+v", c)
				}
			}
		}
		for _, d := range all {
			if d.conflicts != nil {
				t.Errorf("the host that is about to take %v sees a conflict: %v", d.address4, d.conflicts)
			}
		}
		for _, n := range r.Nodes {
			if n.Switch == "" || n.Port != n.Node || n.Frames == 0 {
				t.Errorf("%+v", n)
			}
		}
		if r.Took > 10*time.Second {
			t.Errorf("took %v", r.Took)
		}
	})
}

// slow plugs in a host that hears everything late.
func slow(s *site, id vlan.ID, by time.Duration, hears func(*host, probe.Frame, gopacket.Packet)) {
	s.host(s.b, id, otherMAC, func(h *host, f probe.Frame, p gopacket.Packet) {
		time.AfterFunc(by, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			hears(h, f, p)
		})
	})
}

// TestWithoutCore: where no gateway is known and nobody hears another both ways, each direction is told
// that is known to be broken; what cannot be told is told of all that it may be.
func TestWithoutCore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		nodes  int
		fault  func(*site)
		want   []string
		either bool
	}{
		{"one cannot send, one cannot hear", 3, func(s *site) { s.nodes[0].port.noIn, s.nodes[1].port.noOut = everything, everything },
			[]string{atom(OneWay, "n1", 100), atom(OneWay, "n2", 100)}, false},
		{"two that do not hear each other", 2, func(s *site) { s.nodes[0].port.remove(100) }, []string{atom(NotTrunked, "n1", 100), atom(NotTrunked, "n2", 100)}, true},
		{"one hears the other", 2, func(s *site) { s.nodes[0].port.noOut = everything }, []string{atom(OneWay, "n1", 100), atom(OneWay, "n2", 100)}, true},
		{"a host is heard at one of two", 2, func(s *site) {
			s.nodes[0].port.remove(100)
			d := &detects{address4: addrOf("10.0.0.66"), address6: addrOf("fd00::66")}
			h := s.host(s.a, 100, otherMAC)
			time.AfterFunc(100*time.Millisecond, func() {
				stop := make(chan struct{})
				close(stop)
				d.run(h, stop)
			})
		}, []string{atom(NotTrunked, "n1", 100)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				f := newFabric(13)
				s := &site{fabric: f, a: f.newSwitch("sw-a")}
				for i := range tt.nodes {
					n := f.node(fmt.Sprint("n", i+1), s.a, 0, setOf(100), []Network{{Name: "net-100", VLANs: setOf(100), Home: 100, MTU: 1500}})
					n.port.lldpOff = true
				}
				tt.fault(s)
				r := s.check(t, Options{})
				if d := cmp.Diff(tt.want, atoms(r)); d != "" {
					t.Error(d)
				}
				for _, f := range r.Findings {
					if f.Either != tt.either {
						t.Errorf("%+v", f)
					}
				}
			})
		})
	}
}

// TestSlow: a check at a small pace sends the same, in parts.
func TestSlow(t *testing.T) {
	frames := func(pps int) (list []int) {
		inBubble(t, func(t *testing.T) {
			s := newSite(14)
			r := s.check(t, Options{MaxPPS: pps})
			if len(r.Findings) != 0 || r.Summary.Untested != 0 {
				t.Errorf("%d a second: %v, %d untested", pps, atoms(r), r.Summary.Untested)
			}
			for _, n := range r.Nodes {
				list = append(list, n.Frames)
			}
		})
		return list
	}
	if d := cmp.Diff(frames(DefaultPPS), frames(3)); d != "" {
		t.Error(d)
	}
}

// TestNode: of one node is told what concerns it, though all take part.
func TestNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(4)
		s.nodes[1].port.remove(105)
		s.nodes[2].port.remove(106)
		s.gateways[107].silent = true
		r := s.check(t, Options{Nodes: []string{"n2"}})
		if d := cmp.Diff([]string{atom(GatewaySilent, "*", 107), atom(NotTrunked, "n2", 105)}, atoms(r)); d != "" {
			t.Error(d)
		}
		for _, c := range r.Cells {
			if c.Node != "n2" {
				t.Fatalf("%+v", c)
			}
		}
	})
}

// TestVLANWithoutNetwork: a VLAN that the trunk allows can be tested before a network has it.
func TestVLANWithoutNetwork(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(10)
		for _, n := range s.nodes {
			n.desc.Trunks[0].Networks = n.desc.Trunks[0].Networks[:3]
		}
		s.nodes[1].port.remove(110)
		s.nodes[2].port.mtu = 1400
		r := s.check(t, Options{VLANs: setOf(100, 110)})
		want := []string{atom(MTUBelowIntent, "n3", 100), atom(MTUBelowIntent, "n3", 110), atom(NotTrunked, "n2", 110)}
		if d := cmp.Diff(want, atoms(r)); d != "" {
			t.Error(d)
		}
	})
}

// TestRefused: what is not there is told before anything is sent.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		options Options
		want    string
	}{
		{Options{Nodes: []string{"n7"}}, `--node: no agent is known of a node "n7"`},
		{Options{Networks: []string{"net-1000"}}, `no node that was asked has a VLANNetwork "net-1000" on an uplink`},
		{Options{VLANs: setOf(100, 4000)}, "--vlan: no trunk of a node that was asked for allows VLAN 4000 (uplink.allowedVLANs)"},
		{Options{Networks: []string{"net-101"}, VLANs: setOf(100)}, "--vlan: no network that was asked for has VLAN 100"},
	} {
		inBubble(t, func(t *testing.T) {
			s := newSite(5)
			var agents []Agent
			for _, n := range s.nodes {
				agents = append(agents, n)
			}
			if _, err := Run(t.Context(), agents, nil, tt.options, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v: %v", tt.options, err)
			}
			for _, n := range s.nodes {
				if len(n.conns) != 0 {
					t.Errorf("%s was opened", n.Node())
				}
			}
		})
	}
}

// TestDryRun tells what a check would do, and does nothing.
func TestDryRun(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(6)
		dry := s.check(t, Options{DryRun: true})
		for _, n := range s.nodes {
			if len(n.conns) != 0 {
				t.Errorf("%s was opened", n.Node())
			}
		}
		wet := s.check(t, Options{Rounds: 1})
		if len(dry.Cells) != len(wet.Cells) || dry.Summary.Untested != len(dry.Cells) || len(dry.Findings) != 0 {
			t.Errorf("%+v", dry.Summary)
		}
		for i, n := range dry.Nodes {
			if n.Frames != wet.Nodes[i].Frames {
				t.Errorf("%s: %d frames, and then %d", n.Node, n.Frames, wet.Nodes[i].Frames)
			}
		}
	})
}

// TestEarly: a check that is ended at any time finds nothing on a healthy fabric, and of faults those that
// are seen, not those that are concluded from silence.
func TestEarly(t *testing.T) {
	for after := 5 * time.Millisecond; after < 3*time.Second; after = after * 3 / 2 {
		inBubble(t, func(t *testing.T) {
			s := newSite(12)
			s.loss, s.jitter = 0.01, 20*time.Millisecond
			s.reflect(s.b, 105)
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			var agents []Agent
			for _, n := range s.nodes {
				agents = append(agents, n)
			}
			r, err := Run(ctx, agents, nil, Options{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range atoms(r) {
				if a != atom(Loop, "*", 105) {
					t.Errorf("after %v: %s", after, a)
				}
			}
			for _, c := range r.Cells {
				if after < 10*time.Millisecond && c.Result == Pass && (c.Test == TestMAC || c.Test == TestMTU || c.Test == TestRouters) {
					t.Fatalf("after %v: %+v", after, c)
				}
			}
			if after > time.Second && len(r.Findings) != 1 {
				t.Errorf("after %v the loop was not seen", after)
			}
		})
	}
}

// TestCancelled: what was found until then is kept, and no node goes on.
func TestCancelled(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(7)
		s.nodes[1].port.remove(105)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		var agents []Agent
		for _, n := range s.nodes {
			agents = append(agents, n)
		}
		r, err := Run(ctx, agents, nil, Options{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !r.Cancelled || r.Conclusive(nil) || len(r.Findings) != 0 || r.Summary.Passed == 0 || r.Summary.Failed != 0 || r.Summary.Untested == 0 {
			t.Errorf("%+v %v", r.Summary, atoms(r))
		}
		for _, n := range s.nodes {
			for _, c := range n.conns {
				if !c.closed {
					t.Errorf("%s still listens", n.Node())
				}
			}
		}
	})
}

// TestTwoAtOnce: checks that run at the same time come to the same.
func TestTwoAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(8)
		s.nodes[1].port.remove(105)
		var reports [2]*Report
		done := make(chan bool)
		for i := range reports {
			go func() {
				reports[i] = s.check(t, Options{})
				done <- true
			}()
		}
		<-done
		<-done
		for _, r := range reports {
			if d := cmp.Diff([]string{atom(NotTrunked, "n2", 105)}, atoms(r)); d != "" {
				t.Error(d)
			}
		}
	})
}

// TestAgentLost: a node that goes in the middle is told, and no other is blamed for its silence.
func TestAgentLost(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(9)
		s.nodes[1].port.remove(105)
		s.nodes[3].lostAfter = 2
		r := s.check(t, Options{})
		if d := cmp.Diff([]string{atom(AgentAbsent, "n4", 0), atom(NotTrunked, "n2", 105)}, atoms(r)); d != "" {
			t.Error(d)
		}
	})
}

// TestFlapping: a VM's MAC that another speaks from, while the VM speaks, too, moves in the switches' tables
// again and again. It is told once, with how often it was heard; and where a loop is the reason, that is.
func TestFlapping(t *testing.T) {
	for _, loop := range []bool{false, true} {
		inBubble(t, func(t *testing.T) {
			s := newSite(15)
			n := s.nodes[1]
			n.own = map[probe.MAC]bool{otherMAC: true}
			clone := s.host(s.b, 105, otherMAC)
			if loop {
				s.reflect(s.b, 105)
			}
			speak := func(h *host) {
				h.say(probe.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, layers.EthernetTypeARP, arpOf(layers.ARPRequest, otherMAC, addrOf("10.0.105.66"), probe.MAC{}, gatewayOf(105)))
			}
			vm := &host{fabric: s.fabric, mac: otherMAC, port: &fakePort{}}
			moves, last := 0, (*fakePort)(nil)
			stop := make(chan struct{})
			go func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
					}
					s.mu.Lock()
					if at := s.a.fdb[fdbKey{105, otherMAC}]; at != last {
						moves, last = moves+1, at
					}
					if moves%2 == 0 && !loop {
						speak(clone)
					} else {
						vm.port = n.port
						s.inAs(105, vm, speak)
					}
					s.mu.Unlock()
				}
			}()
			r := s.check(t, Options{})
			close(stop)
			want := []string{atom(DuplicateMAC, "n2", 105)}
			if loop {
				want = []string{atom(Loop, "*", 105)}
			}
			if d := cmp.Diff(want, atoms(r)); d != "" {
				t.Errorf("loop %v: %s", loop, d)
			}
			var times int
			if _, err := fmt.Sscanf(r.Findings[0].Evidence[0], "n2 heard %d frames", &times); !loop && (err != nil || times < 5 || moves < 10) {
				t.Errorf("moved %d times: %v", moves, r.Findings[0].Evidence)
			}
		})
	}
}

// inAs has a host behind a node's trunk speak in a VLAN.
func (s *site) inAs(id vlan.ID, h *host, speak func(*host)) {
	port := h.port
	h.port = &fakePort{sw: &fakeSwitch{fabric: s.fabric, fdb: map[fdbKey]*fakePort{}}, pvid: id}
	h.port.sw.port("up", 0, setOf(id), port.in)
	speak(h)
}

const withSources = "with sources and a target in each VLAN"

// addresses gives each node a source, and a target, in every VLAN; the router is the target, too.
func (s *site) addresses(routers []*host) {
	for i, n := range s.nodes {
		t := &n.desc.Trunks[0]
		t.Networks = slices.Clone(t.Networks)
		for j := range t.Networks {
			w := &t.Networks[j]
			w.Sources, w.Targets = []netip.Addr{sourceOf(i, w.Home)}, []netip.Addr{targetOf(w.Home)}
			w.Subnets = []netip.Prefix{netip.PrefixFrom(gatewayOf(w.Home), 24).Masked()}
		}
	}
	for i, r := range routers {
		id := s.nodes[0].desc.Trunks[0].Networks[i].Home
		r.hears = append(r.hears, echoes(gatewayOf(id), 1500), holds(targetOf(id)))
	}
}

// TestCost: 8 nodes and 100 VLANs take less than 20 s at the default pace, healthy or not (with sources, what ARP's pace takes), and a report
// of them fits into a message. The time is that of pauses and paces, not of a machine.
func TestCost(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault func(*fabric, []*host)
	}{
		{"healthy", nil},
		{"one node that hears nothing, one with a smaller MTU", func(f *fabric, _ []*host) {
			f.nodes[0].port.noOut = everything
			f.nodes[1].port.mtu = 1400
		}},
		{"the router is down", func(_ *fabric, routers []*host) {
			for _, r := range routers {
				r.silent = true
			}
		}},
		{"it is down in 20 VLANs", func(_ *fabric, routers []*host) {
			for _, r := range routers[:20] {
				r.silent = true
			}
		}},
		{"one node's port inspects ARP", func(f *fabric, _ []*host) { f.nodes[0].port.noOut = isARPReply }},
		{"one node's port carries one VLAN", func(f *fabric, _ []*host) { f.nodes[0].port.tagged = setOf(100) }},
		{withSources, nil},
		{withSources + ", and no target answers", func(_ *fabric, routers []*host) {
			for _, r := range routers {
				r.hears = r.hears[:2]
			}
		}},
	} {
		inBubble(t, func(t *testing.T) {
			f := newFabric(11)
			sw := f.newSwitch("sw-a")
			var tagged vlan.Set
			if err := tagged.AddRange(vlan.Range{First: 100, Last: 199}); err != nil {
				t.Fatal(err)
			}
			var networks []Network
			var routers []*host
			for id := range tagged.All() {
				networks = append(networks, Network{Name: fmt.Sprint("net-", id), VLANs: setOf(id), Home: id, MTU: 1500, Gateways: []netip.Addr{gatewayOf(id)}})
				routers = append(routers, f.host(sw, id, probe.MAC{0x02, 0xaa, 0, 0, 0, byte(id)}, holds(gatewayOf(id))))
			}
			s := &site{fabric: f}
			for i := range 8 {
				f.node(fmt.Sprint("n", i+1), sw, 0, tagged, networks)
			}
			limit := 20 * time.Second
			if strings.HasPrefix(tt.name, withSources) {
				limit = 110 * time.Second
				s.addresses(routers)
			}
			if tt.fault != nil {
				tt.fault(f, routers)
			}
			r := s.check(t, Options{})
			raw, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			most := 0
			for _, n := range r.Nodes {
				most = max(most, n.Frames)
			}
			t.Logf("%s: %v, at most %d frames a node, report of %d bytes, %d findings", tt.name, r.Took, most, len(raw), len(r.Findings))
			if r.Took > limit || len(raw) > 3<<20 || (tt.fault == nil) != (len(r.Findings) == 0) {
				t.Errorf("%s: %v, %d bytes, %d findings", tt.name, r.Took, len(raw), len(r.Findings))
			}
		})
	}
}
