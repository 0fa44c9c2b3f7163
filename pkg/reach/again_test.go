package reach

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestAgain: a gateway that is silent is asked as often as it takes to believe it, and not more: alone it is
// asked in each round, in many VLANs or by many nodes the questions count together.
func TestAgain(t *testing.T) {
	const id = vlan.ID(105)
	reply := func(only vlan.ID) func(probe.Frame) bool {
		return func(f probe.Frame) bool { return isARPReply(f) && (only == 0 || f.VLAN == only) }
	}
	for _, tt := range []struct {
		name  string
		fault func(*site)
		want  []int // questions of each node in the VLAN
		found []string
	}{
		{"all is well", func(*site) {}, []int{1, 1, 1, 1}, nil},
		{"down in one VLAN", func(s *site) { s.gateways[id].silent = true }, []int{3, 3, 3, 3}, []string{atom(GatewaySilent, "*", id)}},
		{"down everywhere", func(s *site) {
			for _, g := range s.gateways {
				g.silent = true
			}
		}, []int{1, 1, 1, 1}, nil},
		{"filtered at a node, in one VLAN", func(s *site) { s.nodes[2].port.noOut = reply(id) }, []int{1, 1, 6, 1}, []string{atom(GatewayFiltered, "n3", id)}},
		{"filtered at a node", func(s *site) { s.nodes[2].port.noOut = reply(0) }, []int{1, 1, 1, 1}, nil},
		{"one VLAN is not carried", func(s *site) { s.nodes[2].port.remove(id) }, []int{1, 1, 0, 1}, []string{atom(NotTrunked, "n3", id)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newSite(31)
				tt.fault(s)
				asked := make([]int, len(s.nodes))
				s.host(s.b, id, otherMAC, func(_ *host, f probe.Frame, p gopacket.Packet) {
					arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP)
					if !ok || netip.AddrFrom4([4]byte(arp.DstProtAddress)) != gatewayOf(id) {
						return
					}
					i := slices.IndexFunc(s.nodes, func(n *fakeNode) bool { return n.desc.Trunks[0].MAC == probe.MAC(f.Data[6:12]) })
					asked[i]++
				})
				r := s.check(t, Options{Skip: []Test{TestDHCP}})
				if d := cmp.Diff(tt.want, asked); d != "" {
					t.Errorf("questions (-want +got):\n%s", d)
				}
				if got := atoms(r); tt.found != nil && !slices.Equal(got, tt.found) {
					t.Errorf("found %v, want %v", got, tt.found)
				}
			})
		})
	}
}

// TestAgainFromSources: so it is with what is asked from sources, and who has answered is not asked again.
func TestAgainFromSources(t *testing.T) {
	const id = vlan.ID(101)
	type counts struct{ target, gateway, echoes int }
	for _, tt := range []struct {
		name  string
		fault func(*site)
		want  counts // of n1
	}{
		{"all is well", func(*site) {}, counts{1, 1, 2}},
		{"a target is silent", func(s *site) { s.silence(targetMAC(id)) }, counts{3, 1, 2}},
		{"a gateway answers no echoes", func(s *site) { s.gateways[id].hears = s.gateways[id].hears[:4] }, counts{1, 1, 6}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newAddressed(32)
				tt.fault(s)
				var got counts
				s.gateways[id].hears = append(s.gateways[id].hears, func(_ *host, _ probe.Frame, p gopacket.Packet) {
					arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP)
					ip, _ := p.NetworkLayer().(*layers.IPv4)
					switch {
					case ip != nil && ip.Protocol == layers.IPProtocolICMPv4 && netip.AddrFrom4([4]byte(ip.SrcIP)) == sourceOf(0, id):
						got.echoes++
					case !ok || arp.Operation != layers.ARPRequest || netip.AddrFrom4([4]byte(arp.SourceProtAddress)) != sourceOf(0, id):
					case netip.AddrFrom4([4]byte(arp.DstProtAddress)) == gatewayOf(id):
						got.gateway++
					case netip.AddrFrom4([4]byte(arp.DstProtAddress)) == targetOf(id):
						got.target++
					}
				})
				s.check(t, Options{})
				close(s.over)
				if got != tt.want {
					t.Errorf("asked %+v, want %+v", got, tt.want)
				}
			})
		})
	}
}

// TestParts: whatever is to be sent goes in its order, in parts that no node is busy with for longer than
// sliceTime, so that the others, which have nothing to send, do not take the check for dead.
func TestParts(t *testing.T) {
	kinds := []probe.Ask{{Kind: probe.Hello}, {Kind: probe.Gateway, Target: gatewayOf(1)}, {Kind: probe.Hello}, {Kind: probe.Routers}, {Kind: probe.DHCP},
		{Kind: probe.Echo, Target: gatewayOf(1)}, {Kind: probe.Gateway, Target: gatewayOf(1)}}
	for _, pps := range []int{1, 7, 1000} {
		for _, n := range []int{0, 1, 5, 6, 500} {
			c := &check{options: Options{MaxPPS: pps}}
			var asks, all []probe.Ask
			for i := range n {
				a := kinds[i%len(kinds)]
				a.Size = i
				asks = append(asks, a)
			}
			parts := c.parts(asks)
			for i, p := range parts {
				all = append(all, p...)
				if took := c.sendTime(p); took > sliceTime || len(p) == 0 && n > 0 {
					t.Errorf("%d at %d a second: part %d of %d frames takes %v", n, pps, i, len(p), took)
				}
			}
			if !slices.Equal(all, asks) {
				t.Errorf("%d at %d a second: %d came out", n, pps, len(all))
			}
			if least := int(c.sendTime(asks)/sliceTime) + 2; len(parts) > 2*least {
				t.Errorf("%d at %d a second: %d parts", n, pps, len(parts))
			}
		}
	}
}
