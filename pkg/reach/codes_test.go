package reach

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestCodes: each code has a fault that provokes it, and nothing else.
func TestCodes(t *testing.T) {
	seen := map[Code]bool{}
	for _, tt := range []struct {
		name  string
		fault func(*site)
		want  func(*site) []string
	}{
		{"link down", func(s *site) { s.nodes[1].desc.Trunks[0].Down = "no carrier" }, func(s *site) []string { return []string{atom(LinkDown, "n2", 0)} }},
		{"no agent", func(s *site) { s.nodes[1].absent = errors.New("connection refused") }, func(s *site) []string { return []string{atom(AgentAbsent, "n2", 0)} }},
		{"unknown agent", func(s *site) { s.absent = []Absent{{"n9", "no address"}} }, func(s *site) []string { return []string{atom(AgentAbsent, "n9", 0)} }},
		{"cannot send", func(s *site) { s.nodes[1].fails = errors.New("operation not permitted") }, func(s *site) []string { return each(ProbeNotSent, "n2", s.vlans) }},
		{"cannot send, at a port with another native VLAN", func(s *site) {
			s.nodes[1].fails = errors.New("operation not permitted")
			s.nodes[1].port.setNative(105)
		}, func(s *site) []string { return each(ProbeNotSent, "n2", s.vlans) }},
		{"drift", func(s *site) { s.nodes[1].desc.Trunks[0].Drift = []Drift{{setOf(105), "eth1 lacks VLAN 105"}} }, func(s *site) []string { return []string{atom(BridgeDrift, "n2", 105)} }},
		{"drift of all", func(s *site) { s.nodes[1].desc.Trunks[0].Drift = []Drift{{vlan.Set{}, "vlan_filtering is off"}} }, func(s *site) []string { return []string{atom(BridgeDrift, "n2", 0)} }},
		{"loop", func(s *site) { s.reflect(s.b, 105) }, func(s *site) []string { return []string{atom(Loop, "*", 105)} }},
		{"leak", func(s *site) { s.join(s.b, 105, 106) }, func(s *site) []string { return append(each(VLANLeak, "*", []vlan.ID{105}), atom(VLANLeak, "*", 106)) }},
		{"native", func(s *site) { s.nodes[1].port.setNative(105) }, func(s *site) []string { return each(NativeVLANMismatch, "n2", []vlan.ID{native, 105}) }},
		{"native, not carried elsewhere, by LLDP", func(s *site) { s.nodes[1].port.setNative(999) }, func(s *site) []string { return each(NativeVLANMismatch, "n2", []vlan.ID{native}) }},
		{"not trunked", func(s *site) { s.nodes[1].port.remove(105) }, func(s *site) []string { return each(NotTrunked, "n2", []vlan.ID{105}) }},
		{"native not carried", func(s *site) { s.nodes[1].port.pvid = 0 }, func(s *site) []string { return each(NotTrunked, "n2", []vlan.ID{native}) }},
		{"not between switches", func(s *site) { s.ab.remove(105) }, func(s *site) []string {
			return append(each(NotTrunked, "n3", []vlan.ID{105}), atom(NotTrunked, "n4", 105))
		}},
		{"nothing arrives", func(s *site) { s.nodes[2].port.noOut = everything }, func(s *site) []string { return each(OneWay, "n3", s.vlans) }},
		{"nothing gets away", func(s *site) { s.nodes[2].port.noIn = everything }, func(s *site) []string { return each(OneWay, "n3", s.vlans) }},
		{"one way between switches", func(s *site) { s.ab.noOut = everything }, func(s *site) []string {
			return append(each(OneWay, "n3", s.vlans), each(OneWay, "n4", s.vlans)...)
		}},
		{"isolated ports", func(s *site) {
			hello := func(f probe.Frame) bool { return f.Data[12] == 0x88 && f.Data[13] == 0xb5 }
			s.nodes[1].port.noIn, s.nodes[1].port.noOut = hello, hello
		}, func(s *site) []string { return each(PeersFiltered, "n2", s.vlans) }},
		{"two ports that nothing passes between", func(s *site) { s.apart(s.nodes[0], s.nodes[1]) }, func(s *site) []string {
			return append(each(PeersFiltered, "n1", s.vlans), each(PeersFiltered, "n2", s.vlans)...)
		}},
		{"a port that nothing passes to from two others", func(s *site) {
			s.nodes[0].port.noOut = func(f probe.Frame) bool {
				from := probe.MAC(f.Data[6:12])
				return from == s.nodes[1].desc.Trunks[0].MAC || from == s.nodes[2].desc.Trunks[0].MAC
			}
		}, func(s *site) []string { return each(PeersFiltered, "n1", s.vlans) }},
		{"port security", func(s *site) { s.nodes[1].port.secure(s.nodes[1]) }, func(s *site) []string { return each(MACFiltered, "n2", s.vlans) }},
		{"only its own MAC gets there", func(s *site) {
			m := s.nodes[1].desc.Trunks[0].MAC
			s.nodes[1].port.noOut = func(f probe.Frame) bool { return f.Data[0]&1 == 0 && probe.MAC(f.Data[:6]) != m }
		}, func(s *site) []string { return each(MACFiltered, "n2", s.vlans) }},
		{"MTU of a port", func(s *site) { s.nodes[1].port.mtu = 1400 }, func(s *site) []string { return each(MTUBelowIntent, "n2", s.vlans) }},
		{"MTU between switches", func(s *site) { s.ab.mtu = 1400 }, func(s *site) (all []string) {
			for _, n := range s.nodes {
				all = append(all, each(MTUBelowIntent, n.Node(), s.vlans)...)
			}
			return all
		}},
		{"MTU of the uplink", func(s *site) { s.nodes[1].desc.Trunks[0].MTU = 1400 }, func(s *site) []string { return each(MTUBelowIntent, "n2", s.vlans) }},
		{"gateway silent", func(s *site) { s.gateways[105].silent = true }, func(s *site) []string { return []string{atom(GatewaySilent, "*", 105)} }},
		{"gateway filtered", func(s *site) { s.nodes[2].port.noOut = isARPReply }, func(s *site) []string { return each(GatewayFiltered, "n3", s.vlans) }},
		{"two have the gateway's address", func(s *site) { s.host(s.b, 105, otherMAC, holds(gatewayOf(105))) }, func(s *site) []string { return []string{atom(DuplicateAddress, "*", 105)} }},
		{"two nodes have one MAC", func(s *site) { s.nodes[2].desc.Trunks[0].MAC = s.nodes[1].desc.Trunks[0].MAC }, func(s *site) []string {
			return []string{atom(DuplicateMAC, "n2", 0), atom(DuplicateMAC, "n3", 0)}
		}},
		{"no DHCP server", func(s *site) { s.gateways[103].hears = s.gateways[103].hears[:3] }, func(s *site) []string { return []string{atom(DHCPSilent, "*", 103)} }},
		{"a DHCP server that nobody knows", func(s *site) { s.host(s.b, 103, otherMAC, serves(addrOf("10.0.103.9"), addrOf("10.0.103.99"))) },
			func(s *site) []string { return []string{atom(DHCPRogue, "*", 103)} }},
		{"a router that nobody knows", func(s *site) {
			s.host(s.b, 105, otherMAC, routes(addrOf("fe80::bad"), netip.MustParsePrefix("2001:db8::/64")))
		}, func(s *site) []string { return []string{atom(RAUnexpected, "*", 105)} }},
		{"no LLDP", func(s *site) { s.nodes[1].port.lldpOff = true }, func(s *site) []string { return []string{atom(LLDPAbsent, "n2", 0)} }},
		{"LLDP does not list it, and it works", func(s *site) { s.nodes[1].port.hides = setOf(105) }, func(s *site) []string { return []string{} }},
		{"LLDP does not list it", func(s *site) {
			t := &s.nodes[1].desc.Trunks[0]
			t.Networks = append(slices.Clone(t.Networks), Network{Name: "lonely", VLANs: setOf(200), Home: 200, MTU: 1500})
		}, func(s *site) []string { return []string{atom(LLDPVLANMissing, "n2", 200)} }},
		{"LLDP does not list it, nor does a gateway answer", func(s *site) {
			t := &s.nodes[1].desc.Trunks[0]
			t.Networks = append(slices.Clone(t.Networks), Network{Name: "lonely", VLANs: setOf(200), Home: 200, MTU: 1500, Gateways: []netip.Addr{gatewayOf(200)}})
		}, func(s *site) []string { return []string{atom(GatewaySilent, "*", 200)} }},
		{"LLDP does not list it, and a gateway answers", func(s *site) {
			s.nodes[1].port.hides = setOf(200)
			_ = s.nodes[1].port.tagged.Add(200)
			s.host(s.a, 200, otherMAC, holds(gateway6Of(200)))
			t := &s.nodes[1].desc.Trunks[0]
			t.Networks = append(slices.Clone(t.Networks), Network{Name: "lonely", VLANs: setOf(200), Home: 200, MTU: 1500, Gateways: []netip.Addr{gateway6Of(200)}})
		}, func(s *site) []string { return []string{} }},
		{"a router of a known subnet", func(s *site) {
			s.host(s.b, 105, otherMAC, routes(addrOf("fe80::2"), netip.MustParsePrefix("fd00:69::/64")))
		}, func(s *site) []string { return []string{} }},
		{"a gateway that shares its load", func(s *site) {
			s.gateways[105].silent = true
			for i, n := range s.nodes {
				me := n.desc.Trunks[0].MAC
				share := func(a netip.Addr) func(*host, probe.Frame, gopacket.Packet) {
					return func(h *host, f probe.Frame, p gopacket.Packet) {
						if probe.MAC(f.Data[6:12]) == me {
							holds(a)(h, f, p)
						}
					}
				}
				s.host(s.a, 105, probe.MAC{0x02, 0xdd, 0, 0, 0, byte(i)}, share(gatewayOf(105)))
			}
			s.host(s.a, 105, probe.MAC{0x02, 0xdd, 0, 0, 1, 0}, holds(gateway6Of(105)))
		}, func(s *site) []string { return []string{} }},
		{"a gateway that shares its load in turn, and is slow", func(s *site) {
			s.gateways[105].hears = s.gateways[105].hears[2:]
			inTurn(s, 105, gatewayOf(105))
			inTurn(s, 105, gateway6Of(105))
		}, func(s *site) []string { return []string{} }},
		{"two have the gateway's address of IPv6", func(s *site) { s.host(s.b, 105, otherMAC, holds(gateway6Of(105))) },
			func(s *site) []string { return []string{atom(DuplicateAddress, "*", 105)} }},
		{"a gateway that is a VM of a node", func(s *site) {
			s.gateways[105].silent = true
			s.nodes[1].desc.Trunks[0].VMs = []probe.MAC{otherMAC}
			s.host(s.a, 105, otherMAC, func(h *host, f probe.Frame, p gopacket.Packet) {
				// Behind the node's own port: what the node itself sends does not get there.
				if probe.MAC(f.Data[6:12]) != s.nodes[1].desc.Trunks[0].MAC {
					holds(gatewayOf(105))(h, f, p)
				}
			})
			s.host(s.a, 105, probe.MAC{0x02, 0xdd, 0, 0, 1, 0}, holds(gateway6Of(105)))
		}, func(s *site) []string { return []string{} }},
		{"a gateway that one node alone names", func(s *site) {
			t := &s.nodes[1].desc.Trunks[0]
			t.Networks = slices.Clone(t.Networks)
			t.Networks[5].Gateways = []netip.Addr{addrOf("10.0.104.99")}
		}, func(s *site) []string { return []string{atom(GatewaySilent, "*", 104)} }},
		{"uplinks of other MTUs, and none is intended", func(s *site) {
			for i, n := range s.nodes {
				t := &n.desc.Trunks[0]
				t.MTU = []int{9000, 1500, 1400, 9000}[i]
				t.Networks = slices.Clone(t.Networks)
				for j := range t.Networks {
					t.Networks[j].MTU = 0
				}
			}
		}, func(s *site) []string { return []string{} }},
		{"native is another VLAN, which loops", func(s *site) {
			s.nodes[1].port.setNative(105)
			s.reflect(s.b, 105)
		}, func(s *site) []string {
			return append(each(NativeVLANMismatch, "n2", []vlan.ID{native, 105}), atom(Loop, "*", 105))
		}},
		{"a router that takes its time", func(s *site) {
			slow(s, 105, 480*time.Millisecond, routes(addrOf("fe80::bad"), netip.MustParsePrefix("2001:db8::/64")))
		}, func(s *site) []string { return []string{atom(RAUnexpected, "*", 105)} }},
		{"a DHCP server that takes its time", func(s *site) {
			slow(s, 103, time.Second, serves(addrOf("10.0.103.9"), addrOf("10.0.103.99")))
		}, func(s *site) []string { return []string{atom(DHCPRogue, "*", 103)} }},
		{"two ends, and one is down", func(s *site) {
			for i, n := range s.nodes[:2] {
				t := &n.desc.Trunks[0]
				t.Networks = append(slices.Clone(t.Networks), Network{Name: "pair", VLANs: setOf(200), Home: 200, MTU: 1500})
				_ = n.port.tagged.Add(200)
				if i == 1 {
					t.Down = "no carrier"
				}
			}
		}, func(s *site) []string { return []string{atom(LinkDown, "n2", 0)} }},
		{"hellos that no switch passes", func(s *site) {
			hello := func(f probe.Frame) bool { return f.Data[12] == 0x88 && f.Data[13] == 0xb5 }
			for _, n := range s.nodes {
				n.port.noIn = hello
			}
			for _, g := range s.gateways {
				g.silent = true
			}
		}, func(s *site) (all []string) {
			for _, n := range s.nodes {
				all = append(all, each(NotTrunked, n.Node(), s.vlans)...)
			}
			return all
		}},
		{"one end alone", func(s *site) {
			t := &s.nodes[1].desc.Trunks[0]
			t.Networks = append(slices.Clone(t.Networks), Network{Name: "lonely", VLANs: setOf(200), Home: 200, MTU: 1500})
			_ = s.nodes[1].port.tagged.Add(200)
		}, func(s *site) []string { return []string{atom(NoPeer, "n2", 200)} }},
		{"a VM's MAC elsewhere", func(s *site) {
			s.nodes[1].own = map[probe.MAC]bool{otherMAC: true}
			d := &detects{address4: addrOf("10.0.105.66"), address6: addrOf("fd00::66")}
			h := s.host(s.b, 105, otherMAC)
			time.AfterFunc(100*time.Millisecond, func() {
				stop := make(chan struct{})
				close(stop)
				d.run(h, stop)
			})
		}, func(s *site) []string { return []string{atom(DuplicateMAC, "n2", 105)} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newSite(2)
				tt.fault(s)
				r := s.check(t, Options{})
				want := tt.want(s)
				slices.Sort(want)
				if len(want) == 0 {
					want = nil
				}
				if d := cmp.Diff(want, atoms(r)); d != "" {
					t.Errorf("want -, got +\n%s", d)
				}
				for _, f := range r.Findings {
					seen[f.Code] = true
					text, ok := f.Code.Text()
					if !ok || f.Severity != text.Severity || f.Next == "" || !strings.Contains(f.Message, text.Meaning) || f.Code != LLDPAbsent && f.Code != NoPeer && len(f.Evidence) == 0 {
						t.Errorf("%+v", f)
					}
				}
				if len(want) == 1 && len(r.Findings) != 1 {
					t.Errorf("%d findings of one cause", len(r.Findings))
				}
			})
		})
	}
	for _, c := range Codes() {
		if !seen[c.Code] && c.Code != TargetSilent { // TestFromSources has it
			t.Errorf("%s is provoked by nothing", c.Code)
		}
	}
}

func everything(probe.Frame) bool { return true }

func isARPReply(f probe.Frame) bool { return f.Data[12] == 8 && f.Data[13] == 6 && f.Data[21] == 2 }

var otherMAC = probe.MAC{0x02, 0xcc, 0, 0, 0, 1}

// apart lets nothing of one node out at the other's port.
func (s *site) apart(a, b *fakeNode) {
	of := func(n *fakeNode) func(probe.Frame) bool {
		m := n.desc.Trunks[0].MAC
		return func(f probe.Frame) bool { from := probe.MAC(f.Data[6:12]); return from == m || from == m.Foreign() }
	}
	a.port.noOut, b.port.noOut = of(b), of(a)
}

// remove takes a VLAN off a port.
func (p *fakePort) remove(id vlan.ID) {
	if p.pvid == id {
		p.pvid = 0
	}
	p.tagged.Remove(id)
}

// keep drops some more of what would get out of a port.
func (p *fakePort) keep(f func(probe.Frame) bool) {
	before := p.noOut
	p.noOut = func(fr probe.Frame) bool { return before != nil && before(fr) || f(fr) }
}

// setNative gives a port another native VLAN, in which it then sends without a tag.
func (p *fakePort) setNative(id vlan.ID) {
	p.pvid = id
	p.tagged.Remove(id)
}

// secure lets in what has the node's own MAC alone.
func (p *fakePort) secure(n *fakeNode) {
	own := n.desc.Trunks[0].MAC
	p.allowed = func(m probe.MAC) bool { return m == own }
}

// reflect plugs in something that sends back what it gets, once.
func (s *site) reflect(sw *fakeSwitch, id vlan.ID) {
	var p *fakePort
	p = sw.port("reflector", id, vlan.Set{}, func(f probe.Frame, hops int) { s.wire(f, hops, p.in) })
}

// join plugs a cable from an access port of one VLAN into one of another.
func (s *site) join(sw *fakeSwitch, a, b vlan.ID) {
	var pa, pb *fakePort
	pa = sw.port("cable a", a, vlan.Set{}, func(f probe.Frame, hops int) { pb.in(f, hops) })
	pb = sw.port("cable b", b, vlan.Set{}, func(f probe.Frame, hops int) { pa.in(f, hops) })
}
