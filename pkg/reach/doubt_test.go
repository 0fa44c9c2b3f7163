package reach

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// arpFor says that a frame is an ARP request for an address.
func arpFor(f probe.Frame, a netip.Addr) bool {
	return f.Data[12] == 8 && f.Data[13] == 6 && netip.AddrFrom4([4]byte(f.Data[38:42])) == a
}

// TestNotAsked: a node that could not ask is not one that got no answer.
func TestNotAsked(t *testing.T) {
	const id = vlan.ID(101)
	for _, tt := range []struct {
		name   string
		refuse func(f probe.Frame, nth int) bool // of those that ask for its own source
		test   Test
	}{
		{"the gateway", func(f probe.Frame, _ int) bool { return arpFor(f, gatewayOf(id)) }, TestGateway},
		{"the last question for its source", func(f probe.Frame, nth int) bool { return nth == probe.Detections && arpFor(f, sourceOf(1, id)) }, TestTarget},
		{"the target", func(f probe.Frame, _ int) bool { return arpFor(f, targetOf(id)) }, TestTarget},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newAddressed(3)
				nth := 0
				s.nodes[1].refuse = func(f probe.Frame) error {
					if f.VLAN == id && arpFor(f, sourceOf(1, id)) {
						nth++
					}
					if f.VLAN == id && tt.refuse(f, nth) {
						return errors.New("no buffer space available")
					}
					return nil
				}
				r := s.check(t, Options{VLANs: setOf(id)})
				close(s.over)
				if got := atoms(r); len(got) > 0 {
					t.Errorf("found %v", got)
				}
				told := false
				for _, c := range r.Cells {
					told = told || c.Node == "n2" && c.Test == tt.test && c.Result == Untested && strings.HasPrefix(c.Why, "it could not be asked: ")
				}
				if !told {
					t.Errorf("no cell of %v says that it could not be asked", tt.test)
				}
			})
		})
	}
}

// TestTwoOfOneAddress: two that have an address are found whoever else asks in vain and whatever is lost, and
// one that shares its load never, not even while two checks ask.
func TestTwoOfOneAddress(t *testing.T) {
	const id = vlan.ID(105)
	dup := []string{atom(DuplicateAddress, "*", id)}
	loseFirst := func(n *fakeNode, is func(probe.Frame) bool) {
		lost := false
		n.port.noIn = func(f probe.Frame) bool {
			if lost || f.VLAN != id || !is(f) {
				return false
			}
			lost = true
			return true
		}
	}
	arp := func(f probe.Frame) bool { return f.Data[12] == 8 && f.Data[13] == 6 }
	solicits := func(f probe.Frame) bool { return f.Data[12] == 0x86 && f.Data[13] == 0xdd && f.Data[54] == 135 }
	for _, tt := range []struct {
		name  string
		fault func(*site)
		want  []string
	}{
		{"of IPv6, and a node is cut off", func(s *site) {
			s.host(s.b, id, otherMAC, holds(gateway6Of(id)))
			s.nodes[1].port.remove(id)
		}, []string{dup[0], atom(NotTrunked, "n2", id)}},
		{"to one node, whose first question is lost", func(s *site) {
			s.nodes = s.nodes[:1]
			s.host(s.b, id, otherMAC, holds(gatewayOf(id)))
			loseFirst(s.nodes[0], arp)
		}, dup},
		{"of IPv6, to two nodes, of whom one's first question is lost", func(s *site) {
			s.nodes = s.nodes[:2]
			s.host(s.b, id, otherMAC, holds(gateway6Of(id)))
			loseFirst(s.nodes[0], solicits)
		}, dup},
	} {
		inBubble(t, func(t *testing.T) {
			s := newSite(3)
			tt.fault(s)
			if d := cmp.Diff(tt.want, atoms(s.check(t, Options{VLANs: setOf(id)}))); d != "" {
				t.Errorf("%s: want -, got +\n%s", tt.name, d)
			}
		})
	}
	for _, apart := range []time.Duration{0, 100 * time.Millisecond, time.Second, 3 * time.Second} {
		inBubble(t, func(t *testing.T) {
			s := newSite(3)
			s.gateways[id].hears = s.gateways[id].hears[2:]
			inTurn(s, id, gatewayOf(id))
			inTurn(s, id, gateway6Of(id))
			var all sync.WaitGroup
			for range 2 {
				all.Go(func() {
					if got := atoms(s.check(t, Options{VLANs: setOf(id)})); len(got) > 0 {
						t.Errorf("two checks, %v apart: %v", apart, got)
					}
				})
				time.Sleep(apart)
			}
			all.Wait()
		})
	}
}

// TestDeviceTracking: a switch that asks those whom it has learnt whether they are still there is nobody who wants their
// addresses, in the check after, too.
func TestDeviceTracking(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newAddressed(3)
		learnt := map[netip.Addr]probe.MAC{}
		h := s.host(s.a, 101, otherMAC, func(_ *host, _ probe.Frame, p gopacket.Packet) {
			if a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && a.Operation == layers.ARPRequest && a.SourceHwAddress[1] == 0x48 && a.SourceProtAddress[0] != 0 {
				learnt[netip.AddrFrom4([4]byte(a.SourceProtAddress))] = probe.MAC(a.SourceHwAddress)
			}
		})
		stop := make(chan struct{})
		var tracker sync.WaitGroup
		tracker.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
				}
				h.mu.Lock()
				for a, m := range learnt {
					h.say(m, layers.EthernetTypeARP, arpOf(layers.ARPRequest, h.mac, netip.IPv4Unspecified(), probe.MAC{}, a))
				}
				h.mu.Unlock()
			}
		})
		for range 2 {
			if got := atoms(s.check(t, Options{VLANs: setOf(101)})); len(got) > 0 {
				t.Errorf("found %v", got)
			}
		}
		close(stop)
		tracker.Wait()
		close(s.over)
		if len(learnt) != 4 {
			t.Errorf("learnt %v", learnt)
		}
	})
}

// TestEndedAtSources: what was found before hosts were asked is told, and of hosts nothing.
func TestEndedAtSources(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newAddressed(3)
		s.nodes[1].port.remove(101)
		s.gateways[100].silent = true
		s.silence(targetMAC(102))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var agents []Agent
		for _, n := range s.nodes {
			agents = append(agents, n)
		}
		last := ""
		r, err := Run(ctx, agents, nil, Options{VLANs: setOf(101, 102)}, func(what string, _, _ int) { last = what })
		close(s.over)
		if err != nil || !r.Cancelled || last != "asking whether sources are free" {
			t.Fatalf("%v, %q, %v", err, last, r.Cancelled)
		}
		if d := cmp.Diff([]string{atom(NotTrunked, "n2", 101)}, atoms(r)); d != "" {
			t.Errorf("want -, got +\n%s", d)
		}
		for _, c := range r.Cells {
			if c.Test == TestTarget && (c.Result != Untested || c.Why != "the check was ended before its time") && c.Node != "n2" {
				t.Errorf("%+v", c)
			}
		}
	})
}

// TestPeerHasGateway: a peer whose VM the gateway is hears no answer of it, and vouches all the same.
func TestPeerHasGateway(t *testing.T) {
	const id = vlan.ID(101)
	inBubble(t, func(t *testing.T) {
		s := newAddressed(3)
		s.nodes = s.nodes[:2]
		s.gateways[id].silent = true
		peer := &s.nodes[1].desc.Trunks[0]
		peer.VMs = []probe.MAC{otherMAC}
		behind := func(f func(*host, probe.Frame, gopacket.Packet)) func(*host, probe.Frame, gopacket.Packet) {
			return func(h *host, fr probe.Frame, p gopacket.Packet) {
				if !slices.Contains([]probe.MAC{peer.MAC, peer.MAC.Foreign()}, probe.MAC(fr.Data[6:12])) {
					f(h, fr, p)
				}
			}
		}
		s.host(s.a, id, otherMAC, behind(holds(gatewayOf(id))), behind(echoes(gatewayOf(id), 1500)), behind(holds(gateway6Of(id))), behind(echoes(gateway6Of(id), 1500)))
		r := s.check(t, Options{VLANs: setOf(id)})
		close(s.over)
		for _, c := range r.Cells {
			if c.Node == "n1" && (c.Test == TestTarget || c.Test == TestMTU) && c.Result != Pass {
				t.Errorf("%+v", c)
			}
		}
	})
}

// TestLonelyIPv6: of a VLAN that one node alone has and its IPv6 gateway proves, LLDP's cell says that it works.
func TestLonelyIPv6(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(3)
		s.nodes[1].port.hides = setOf(200)
		_ = s.nodes[1].port.tagged.Add(200)
		s.host(s.a, 200, otherMAC, holds(gateway6Of(200)))
		trunk := &s.nodes[1].desc.Trunks[0]
		trunk.Networks = append(slices.Clone(trunk.Networks), Network{Name: "lonely", VLANs: setOf(200), Home: 200, MTU: 1500, Gateways: []netip.Addr{gateway6Of(200)}})
		r := s.check(t, Options{VLANs: setOf(200)})
		for _, c := range r.Cells {
			if c.Test == TestLLDP && c.VLAN == 200 && c.Why != "the switch does not list it, and it works" {
				t.Errorf("%+v", c)
			}
		}
	})
}

// TestSizesDiffer: where a gateway answers nobody's full size, each is named with the size that it has.
func TestSizesDiffer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newAddressed(3)
		s.nodes = s.nodes[:2]
		s.nodes[0].port.keep(isPacketAbove(1400))
		s.nodes[1].port.keep(isPacketAbove(1280))
		r := s.check(t, Options{VLANs: setOf(101)})
		close(s.over)
		if len(r.Findings) != 1 || r.Findings[0].LargestMTU != 1400 {
			t.Fatalf("%+v", r.Findings)
		}
		got := strings.Join(r.Findings[0].Evidence, "; ")
		if !strings.Contains(got, "of 1400 bytes to n1, of 1500 none") || !strings.Contains(got, "to n2 of 1280 bytes") {
			t.Error(got)
		}
	})
}
