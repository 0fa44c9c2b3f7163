package reach

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// addressedUpTo is the last VLAN whose network has sources and targets.
const addressedUpTo = vlan.ID(103)

func sourceOf(n int, id vlan.ID) netip.Addr  { return addrOf("10.%d.%d.%d", id/256, id%256, 240+n) }
func source6Of(n int, id vlan.ID) netip.Addr { return addrOf("fd00:%x::f%d", int(id), n) }
func targetOf(id vlan.ID) netip.Addr         { return addrOf("10.%d.%d.20", id/256, id%256) }
func target6Of(id vlan.ID) netip.Addr        { return addrOf("fd00:%x::20", int(id)) }

// newAddressed is a site whose VLANs from 100 to addressedUpTo have sources and targets, and gateways that
// answer echo requests.
func newAddressed(seed uint64) *site {
	s := newSite(seed)
	s.addressed = true
	for i, n := range s.nodes {
		t := &n.desc.Trunks[0]
		t.Networks = slices.Clone(t.Networks)
		for j := range t.Networks {
			if w := &t.Networks[j]; w.Home > native && w.Home <= addressedUpTo {
				w.Sources = []netip.Addr{sourceOf(i, w.Home), source6Of(i, w.Home)}
				w.Targets = []netip.Addr{targetOf(w.Home), target6Of(w.Home)}
			}
		}
	}
	for id := vlan.ID(100); id <= addressedUpTo; id++ {
		g := s.gateways[id]
		g.hears = append(g.hears, echoes(gatewayOf(id), 1500), echoes(gateway6Of(id), 1500))
		s.host(s.b, id, targetMAC(id), holds(targetOf(id)), holds(target6Of(id)))
	}
	return s
}

func targetMAC(id vlan.ID) probe.MAC { return probe.MAC{0x02, 0xee, 0, 0, byte(id >> 8), byte(id)} }

// echoes answers echo requests for an address, up to a size, as one that does not know whom to answer until
// it has asked, and asks from that address.
func echoes(a netip.Addr, mtu int) func(*host, probe.Frame, gopacket.Packet) {
	macs := map[netip.Addr]probe.MAC{}
	waiting := map[netip.Addr][]func(probe.MAC){}
	learn := func(from netip.Addr, m probe.MAC) {
		macs[from] = m
		for _, f := range waiting[from] {
			f(m)
		}
		delete(waiting, from)
	}
	return func(h *host, _ probe.Frame, p gopacket.Packet) {
		if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && arp.Operation == layers.ARPReply {
			learn(netip.AddrFrom4([4]byte(arp.SourceProtAddress)), probe.MAC(arp.SourceHwAddress))
		}
		if na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok {
			t, _ := netip.AddrFromSlice(na.TargetAddress)
			learn(t, probe.MAC(p.LinkLayer().LinkFlow().Src().Raw()))
		}
		from, reply, size := echoReply(h, a, p)
		if reply == nil || size > mtu {
			return
		}
		if m, ok := macs[from]; ok {
			reply(m)
			return
		}
		waiting[from] = append(waiting[from], reply)
		if a.Is4() {
			h.say(probe.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, layers.EthernetTypeARP, arpOf(layers.ARPRequest, h.mac, a, probe.MAC{}, from))
			return
		}
		t := from.As16()
		h.icmpv6(a, netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}), layers.ICMPv6TypeNeighborSolicitation,
			&layers.ICMPv6NeighborSolicitation{TargetAddress: t[:], Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: h.mac[:]}}})
	}
}

// echoReply makes the answer to an echo request that is for an address, if the packet is one.
func echoReply(h *host, a netip.Addr, p gopacket.Packet) (from netip.Addr, reply func(probe.MAC), size int) {
	if p.NetworkLayer() == nil {
		return from, nil, 0
	}
	body := slices.Clone(p.NetworkLayer().LayerPayload())
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		if to, _ := netip.AddrFromSlice(ip.DstIP.To4()); to != a || ip.Protocol != layers.IPProtocolICMPv4 || body[0] != layers.ICMPv4TypeEchoRequest || ip.Flags&layers.IPv4DontFragment == 0 {
			return from, nil, 0
		}
		from, _ = netip.AddrFromSlice(ip.SrcIP.To4())
		return from, func(to probe.MAC) {
			h.say(to, layers.EthernetTypeIPv4, &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: ip.DstIP, DstIP: ip.SrcIP},
				&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoReply, 0), Id: uint16(body[4])<<8 | uint16(body[5])}, gopacket.Payload(body[8:]))
		}, int(ip.Length)
	case *layers.IPv6:
		if to, _ := netip.AddrFromSlice(ip.DstIP); to != a || ip.NextHeader != layers.IPProtocolICMPv6 || body[0] != layers.ICMPv6TypeEchoRequest {
			return from, nil, 0
		}
		from, _ = netip.AddrFromSlice(ip.SrcIP)
		return from, func(to probe.MAC) {
			out := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: ip.DstIP, DstIP: ip.SrcIP}
			icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoReply, 0)}
			_ = icmp.SetNetworkLayerForChecksum(out)
			h.say(to, layers.EthernetTypeIPv6, out, icmp, gopacket.Payload(body[4:]))
		}, 40 + int(ip.Length)
	}
	return from, nil, 0
}

// TestSources: where nodes have addresses to ask from all is asked that takes one, and hosts that are about
// to take theirs see no conflict: neither one that takes another, nor one that takes a target's.
func TestSources(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newAddressed(21)
		s.loss, s.jitter = 0.01, 20*time.Millisecond
		stop := make(chan struct{})
		var all []*detects
		for id := vlan.ID(100); id <= addressedUpTo; id++ {
			for i, d := range []*detects{{address4: addrOf("10.0.%d.77", id), address6: addrOf("fd00:%x::77", int(id))}, {address4: targetOf(id), address6: target6Of(id)}} {
				all = append(all, d)
				// A target that answers is a conflict by right.
				h := s.host(s.a, id, probe.MAC{0x02, 0xbb, 0, byte(i), 0, byte(id)}, func(h *host, f probe.Frame, p gopacket.Packet) {
					if probe.MAC(f.Data[6:12]) != targetMAC(id) {
						d.hear(h, f, p)
					}
				})
				go d.run(h, stop)
			}
		}
		r := s.check(t, Options{})
		close(stop)
		if len(r.Findings) > 0 {
			t.Errorf("found %v %v", atoms(r), r.Findings[0].Evidence)
		}
		t.Logf("took %v", r.Took)
		if r.Took > 15*time.Second {
			t.Errorf("took %v", r.Took)
		}
		of := map[Test]int{}
		for _, c := range r.Cells {
			if c.Result != Pass {
				t.Errorf("%+v", c)
			}
			if c.Target != "" {
				of[c.Test]++
			}
		}
		if of[TestTarget] != 4*4*2 || of[TestMTU] != 4*4*2 {
			t.Errorf("cells with targets: %v", of)
		}
		for _, d := range all {
			if d.conflicts != nil {
				t.Errorf("the host that is about to take %v sees a conflict: %v", d.address4, d.conflicts)
			}
		}
	})
}

// limited is echoes, and answers no large request that comes too soon after another.
func limited(a netip.Addr, last *time.Time) func(*host, probe.Frame, gopacket.Packet) {
	answers := echoes(a, 1500)
	return func(h *host, f probe.Frame, p gopacket.Packet) {
		if _, reply, size := echoReply(h, a, p); reply != nil {
			soon := time.Since(*last) < 300*time.Millisecond
			if *last = time.Now(); soon && size > 1000 {
				return
			}
		}
		answers(h, f, p)
	}
}

// asksFromSource counts what is sent from an address, at a host.
func asksFromSource(s *site, id vlan.ID, a netip.Addr, n *int) {
	s.host(s.b, id, probe.MAC{0x02, 0xab, 0, 0, 0, byte(id)}, func(_ *host, _ probe.Frame, p gopacket.Packet) {
		if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && netip.AddrFrom4([4]byte(arp.SourceProtAddress)) == a {
			*n++
		}
	})
}

// TestFromSources: what is found of what is asked from a source, and what is not found of what was found already.
func TestFromSources(t *testing.T) {
	const id = vlan.ID(101)
	all := []vlan.ID{100, 101, 102, 103}
	none := func(*site) []string { return nil }
	for _, tt := range []struct {
		name     string
		fault    func(*site)
		want     func(*site) []string
		untested int // of what is asked from sources
		size     int
	}{
		{"a target is silent", func(s *site) { s.silence(targetMAC(id)) }, func(*site) []string { return []string{atom(TargetSilent, "*", id)} }, 0, 0},
		{"targets are silent in two VLANs", func(s *site) {
			s.silence(targetMAC(id))
			s.silence(targetMAC(id + 1))
		}, func(*site) []string { return each(TargetSilent, "*", []vlan.ID{id, id + 1}) }, 0, 0},
		{"two have a target's address", func(s *site) { s.host(s.a, id, otherMAC, holds(targetOf(id))) },
			func(*site) []string { return []string{atom(DuplicateAddress, "*", id)} }, 0, 0},
		{"two have that of IPv6", func(s *site) { s.host(s.a, id, otherMAC, holds(target6Of(id))) },
			func(*site) []string { return []string{atom(DuplicateAddress, "*", id)} }, 0, 0},
		{"a target is a VM of a node, which hears the others alone", func(s *site) {
			s.nodes[1].desc.Trunks[0].VMs = []probe.MAC{targetMAC(id)}
			me := s.nodes[1].desc.Trunks[0].MAC.Foreign()
			s.portOf(targetMAC(id)).noOut = func(f probe.Frame) bool { return probe.MAC(f.Data[6:12]) == me }
		}, none, 2, 0},
		{"a target is filtered at one node", func(s *site) {
			s.nodes[2].port.noOut = func(f probe.Frame) bool { return probe.MAC(f.Data[6:12]) == targetMAC(id) }
		}, func(*site) []string { return []string{atom(TargetSilent, "n3", id)} }, 0, 0},
		{"ARP is filtered at one node", func(s *site) { s.nodes[2].port.noOut = isARPReply },
			func(s *site) []string { return each(GatewayFiltered, "n3", s.vlans) }, 4 /* targets */ + 4 /* echoes, whose MAC is not known */, 0},
		{"a gateway has a smaller MTU", func(s *site) {
			s.mute(id)
			s.gateways[id].hears = append(s.gateways[id].hears, echoes(gatewayOf(id), 1400), echoes(gateway6Of(id), 1400))
		}, func(*site) []string { return []string{atom(MTUBelowIntent, "*", id)} }, 0, 1400},
		{"all of a gateway's interfaces have", func(s *site) {
			for _, id := range all {
				s.gateways[id].port.mtu = 1372
			}
		}, func(*site) []string { return each(MTUBelowIntent, "*", all) }, 0, 1372},
		{"packets are cut at one node", func(s *site) { s.nodes[3].port.keep(isPacketAbove(1280)) }, func(*site) []string { return each(MTUBelowIntent, "n4", all) }, 0, 1280},
		{"all is cut at one node", func(s *site) { s.nodes[1].port.mtu = 1400 },
			func(s *site) []string { return each(MTUBelowIntent, "n2", s.vlans) }, 8, 1400},
		{"a gateway answers no echoes", func(s *site) { s.mute(id) }, none, 8, 0},
		{"gateways limit large echo requests, all together", func(s *site) {
			var last time.Time
			for _, id := range all {
				s.mute(id)
				s.gateways[id].hears = append(s.gateways[id].hears, limited(gatewayOf(id), &last), limited(gateway6Of(id), &last))
			}
		}, none, -1, 0},
		{"a gateway answers none but who has an address", func(s *site) { s.shy(id) }, none, 0, 0},
		{"a gateway that shares its load", func(s *site) {
			g := s.gateways[id]
			other := s.host(s.a, id, otherMAC)
			one := g.hears[0]
			g.hears[0] = func(h *host, f probe.Frame, p gopacket.Packet) {
				if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && arp.SourceHwAddress[1] == 0x48 {
					h = other // to the MAC that asks from sources
				}
				one(h, f, p)
			}
			for _, e := range g.hears[len(g.hears)-2:] {
				other.hears = append(other.hears, func(_ *host, f probe.Frame, p gopacket.Packet) { e(g, f, p) })
			}
		}, none, 0, 0},
		{"a gateway answers none but who has an address, and one node has none", func(s *site) {
			s.shy(id)
			s.networkOf(1, id).Sources = nil
		}, none, 4, 0},
		{"port security", func(s *site) { s.nodes[1].port.secure(s.nodes[1]) }, func(s *site) []string { return each(MACFiltered, "n2", s.vlans) }, 4 * 4, 0},
		{"somebody has a source", func(s *site) { s.host(s.b, id, otherMAC, holds(sourceOf(1, id))) },
			func(*site) []string { return []string{atom(DuplicateAddress, "n2", id)} }, 2, 0},
		{"a VM of the node has it, which hears peers alone", func(s *site) {
			s.host(s.b, id, otherMAC, func(h *host, f probe.Frame, p gopacket.Packet) {
				if from := probe.MAC(f.Data[6:12]); from != s.nodes[1].desc.Trunks[0].MAC.Foreign() {
					holds(sourceOf(1, id))(h, f, p)
				}
			})
		}, func(*site) []string { return []string{atom(DuplicateAddress, "n2", id)} }, 2, 0},
		{"somebody is about to take it", func(s *site) {
			d := &detects{address4: sourceOf(1, id), address6: addrOf("fd00::66")}
			h := s.host(s.b, id, otherMAC)
			go d.run(h, s.over)
		}, func(*site) []string { return []string{atom(DuplicateAddress, "n2", id)} }, 2, 0},
		{"two nodes have one", func(s *site) {
			t := &s.nodes[2].desc.Trunks[0]
			for j := range t.Networks {
				if t.Networks[j].Home == id {
					t.Networks[j].Sources = []netip.Addr{sourceOf(1, id)}
				}
			}
		}, func(*site) []string {
			return []string{atom(DuplicateAddress, "n2", id), atom(DuplicateAddress, "n3", id)}
		}, 2 + 4, 0},
		{"one node has none", func(s *site) {
			t := &s.nodes[1].desc.Trunks[0]
			for j := range t.Networks {
				t.Networks[j].Sources = nil
			}
		}, none, 4 * 4, 0},
		{"one says that a gateway has a group's MAC, or none", func(s *site) {
			for i, m := range []probe.MAC{{0x01, 0, 0x5e, 0, 0, 1}, {}} {
				h := s.host(s.b, id, probe.MAC{0x02, 0xcc, 0, 0, 1, byte(i)})
				h.hears = append(h.hears, func(h *host, _ probe.Frame, p gopacket.Packet) {
					if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && arp.Operation == layers.ARPRequest && netip.AddrFrom4([4]byte(arp.DstProtAddress)) == gatewayOf(id) {
						to := probe.MAC(arp.SourceHwAddress)
						h.say(to, layers.EthernetTypeARP, arpOf(layers.ARPReply, m, gatewayOf(id), to, netip.AddrFrom4([4]byte(arp.SourceProtAddress))))
					}
				})
			}
		}, func(*site) []string { return []string{atom(DuplicateAddress, "*", id)} }, 0, 0},
		{"a loop", func(s *site) { s.reflect(s.b, id) }, func(*site) []string { return []string{atom(Loop, "*", id)} }, -1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newAddressed(22)
				tt.fault(s)
				used := 0
				asksFromSource(s, id, sourceOf(1, id), &used)
				r := s.check(t, Options{})
				close(s.over)
				want := tt.want(s)
				slices.Sort(want)
				if d := cmp.Diff(want, atoms(r)); d != "" {
					t.Errorf("want -, got +\n%s", d)
				}
				untested := 0
				for _, c := range r.Cells {
					if c.Result == Untested && (c.Test == TestTarget || c.Test == TestMTU && c.Target != "") {
						untested++
					}
				}
				if untested != tt.untested && tt.untested >= 0 {
					t.Errorf("%d could not be tested, want %d", untested, tt.untested)
				}
				for _, f := range r.Findings {
					if f.LargestMTU != tt.size || len(f.Evidence) == 0 {
						t.Errorf("%+v", f)
					}
				}
				if len(want) > 0 && len(r.Findings) > 1 && !strings.Contains(want[0], string(DuplicateAddress)) {
					t.Errorf("%d findings of one cause", len(r.Findings))
				}
				if taken := strings.Contains(strings.Join(want, " "), string(DuplicateAddress)+" n2"); taken && used > 0 {
					t.Errorf("%d frames from an address that another has", used)
				}
			})
		})
	}
}

// TestSourceUnshared: where no peer could ask for a node's address it is not used, and that is said; where the
// node has no peers it is.
func TestSourceUnshared(t *testing.T) {
	const id = vlan.ID(101)
	heard := func(f probe.Frame) bool { return f.VLAN == id }
	for _, tt := range []struct {
		name  string
		fault func(*site)
		used  bool
		why   string // of n2's target
	}{
		{"all is well", func(*site) {}, true, ""},
		{"the others have none", func(s *site) {
			for _, i := range []int{0, 2, 3} {
				s.networkOf(i, id).Sources = nil
			}
		}, false, noAsker},
		{"one of the others has one, and is far on the ring", func(s *site) {
			for _, i := range []int{0, 3} {
				s.networkOf(i, id).Sources = nil
			}
		}, true, ""},
		{"the others have one of the other family", func(s *site) {
			for _, i := range []int{0, 2, 3} {
				s.networkOf(i, id).Sources = []netip.Addr{source6Of(i, id)}
			}
		}, true, ""},
		{"its own are of another subnet than the target", func(s *site) {
			s.networkOf(1, id).Sources = []netip.Addr{addrOf("10.9.0.7")}
			s.networkOf(1, id).Subnets = append(slices.Clone(s.networkOf(1, id).Subnets), netip.MustParsePrefix("10.9.0.0/24"))
		}, false, noSource},
		{"it has one of another subnet, too", func(s *site) {
			w := s.networkOf(1, id)
			w.Sources = append([]netip.Addr{addrOf("10.9.0.7")}, w.Sources...)
			w.Subnets = append(slices.Clone(w.Subnets), netip.MustParsePrefix("10.9.0.0/24"))
		}, true, ""},
		{"the only one that has one is at a port with security", func(s *site) {
			for _, i := range []int{2, 3} {
				s.networkOf(i, id).Sources = nil
			}
			s.nodes[0].port.secure(s.nodes[0])
		}, false, noAsker},
		{"the only one that has one gets no answers by ARP", func(s *site) {
			for _, i := range []int{2, 3} {
				s.networkOf(i, id).Sources = nil
			}
			s.nodes[0].port.noOut = isARPReply
		}, false, noAsker},
		{"it hears nothing there", func(s *site) { s.nodes[1].port.noOut = heard }, false, string(OneWay)},
		{"it hears the gateway and no peer", func(s *site) {
			hello := func(f probe.Frame) bool { return f.VLAN == id && f.Data[12] == 0x88 && f.Data[13] == 0xb5 }
			s.nodes[1].port.noIn, s.nodes[1].port.noOut = hello, hello
		}, false, string(PeersFiltered)},
		{"it has no peers", func(s *site) {
			for _, i := range []int{0, 2, 3} {
				t := &s.nodes[i].desc.Trunks[0]
				t.Networks = slices.DeleteFunc(t.Networks, func(w Network) bool { return w.Home == id })
			}
		}, true, ""},
		{"its only peer has no link", func(s *site) {
			for _, i := range []int{2, 3} {
				t := &s.nodes[i].desc.Trunks[0]
				t.Networks = slices.DeleteFunc(t.Networks, func(w Network) bool { return w.Home == id })
			}
			s.nodes[0].desc.Trunks[0].Down = "no carrier"
		}, false, noAsker},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newAddressed(23)
				tt.fault(s)
				used := 0
				asksFromSource(s, id, sourceOf(1, id), &used)
				r := s.check(t, Options{})
				close(s.over)
				if (used > 0) != tt.used {
					t.Errorf("%d frames from it", used)
				}
				for _, c := range r.Cells {
					if c.Node == "n2" && c.Target == targetOf(id).String() && c.Why != tt.why {
						t.Errorf("%+v, want %q", c, tt.why)
					}
				}
			})
		})
	}
}

// isPacketAbove is of what is no hello.
func isPacketAbove(mtu int) func(probe.Frame) bool {
	return func(f probe.Frame) bool { return f.Data[12] != 0x88 && f.Length > 14+mtu }
}

// shy has a gateway answer ARP of none but who has an address.
func (s *site) shy(id vlan.ID) {
	g := s.gateways[id]
	answers := g.hears[0]
	g.hears[0] = func(h *host, f probe.Frame, p gopacket.Packet) {
		if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); !ok || arp.SourceProtAddress[0] != 0 {
			answers(h, f, p)
		}
	}
}

// mute has a gateway answer no echoes: they are the last that it hears.
func (s *site) mute(id vlan.ID) {
	g := s.gateways[id]
	g.hears = slices.Clip(g.hears[:len(g.hears)-2])
}

// networkOf is that of a VLAN on a node.
func (s *site) networkOf(node int, id vlan.ID) *Network {
	list := s.nodes[node].desc.Trunks[0].Networks
	return &list[slices.IndexFunc(list, func(w Network) bool { return w.Home == id })]
}

// silence has a host hear nothing, nor say anything.
func (s *site) silence(m probe.MAC) { s.portOf(m).noIn = everything }

// portOf is a host's.
func (s *site) portOf(m probe.MAC) *fakePort {
	for _, sw := range s.switches {
		for _, p := range sw.ports {
			if p.name == m.String() {
				return p
			}
		}
	}
	return nil
}
