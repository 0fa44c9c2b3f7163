package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

var vmMAC = MAC{0x00, 0x50, 0x56, 0x0a, 0x0b, 0x0c}

// newDetector is one in the bubble of the test, which ends it.
func newDetector(t *testing.T) (*Detector, *memory) {
	t.Helper()
	m := &memory{in: make(chan Frame)}
	m.end = sync.OnceFunc(func() { close(m.in) })
	d := NewDetector(m, &count{}, myMAC)
	t.Cleanup(func() { must(t, d.Close()) })
	return d, m
}

// asked is what came of an Ask, and how long it took.
type asked struct {
	taken []Taken
	err   error
	took  time.Duration
}

func (d *Detector) begins(ctx context.Context, tag vlan.ID, own MAC, addresses ...netip.Addr) <-chan asked {
	out := make(chan asked, 1)
	begun := time.Now()
	go func() {
		taken, err := d.Ask(ctx, tag, own, addresses)
		out <- asked{taken, err, time.Since(begun)}
	}()
	synctest.Wait()
	return out
}

// TestNobodyHas: three questions in the right VLAN, from nobody's address and no VM's MAC, as far apart as the RFC says, and as long for
// the last answer.
func TestNobodyHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := newDetector(t)
		got := <-d.begins(t.Context(), 7, vmMAC, router, router6)
		if got.err != nil || len(got.taken) != 0 {
			t.Fatalf("%+v, %v", got.taken, got.err)
		}
		const slack = 20 * time.Millisecond // of the pace
		if least := 2*DetectionGap + DetectionWait; got.took < least || got.took > DetectionTime+slack {
			t.Errorf("it took %v, want %v to %v", got.took, least, DetectionTime)
		}
		var kinds []string
		for _, f := range m.sent {
			p := decode(t, f.Data)
			if f.VLAN != 7 || MAC(f.Data[6:12]) != myMAC.Foreign() {
				t.Errorf("in VLAN %d from %v", f.VLAN, MAC(f.Data[6:12]))
			}
			if a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
				if !net.IP(a.SourceProtAddress).Equal(net.IPv4zero) || !net.IP(a.DstProtAddress).Equal(router.AsSlice()) {
					t.Errorf("ARP from %v for %v", a.SourceProtAddress, a.DstProtAddress)
				}
				kinds = append(kinds, "ARP")
			} else if ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
				if ip := p.NetworkLayer().(*layers.IPv6); !ip.SrcIP.IsUnspecified() || !ns.TargetAddress.Equal(router6.AsSlice()) {
					t.Errorf("solicitation from %v for %v", ip.SrcIP, ns.TargetAddress)
				}
				kinds = append(kinds, "NS")
			} else {
				kinds = append(kinds, "MLD")
			}
		}
		if d := cmp.Diff([]string{"ARP", "MLD", "NS", "ARP", "NS", "ARP", "NS"}, kinds); d != "" {
			t.Errorf("sent (-want +got):\n%s", d)
		}
	})
}

// TestSomebodyHas: what others say, and what is none of it.
func TestSomebodyHas(t *testing.T) {
	mine := myMAC.Foreign()
	from := func(data []byte, m MAC) []byte { return slices.Concat(data[:6], m[:], data[12:]) }
	to := func(data []byte, m MAC) []byte { return slices.Concat(m[:], data[6:]) }
	probeBy := func(t *testing.T, m MAC, a netip.Addr) []byte {
		maker := solicitation
		if a.Is4() {
			maker = arpProbe
		}
		b, err := maker(m, a)
		must(t, err)
		return b
	}
	type made func(*testing.T) []byte
	for _, tt := range []struct {
		name    string
		address netip.Addr
		tag     vlan.ID
		frame   made
		want    Taken
	}{
		{"a reply", router, 7, func(t *testing.T) []byte {
			return arpOf(t, layers.ARPReply, otherMAC, router.String(), mine, mine, "0.0.0.0")
		}, Taken{MAC: otherMAC}},
		{"a request of his", router, 7, func(t *testing.T) []byte {
			return arpOf(t, layers.ARPRequest, otherMAC, router.String(), broadcast, MAC{}, "192.0.2.9")
		}, Taken{MAC: otherMAC}},
		{"an announcement", router, 7, func(t *testing.T) []byte {
			return arpOf(t, layers.ARPRequest, otherMAC, router.String(), broadcast, MAC{}, router.String())
		}, Taken{MAC: otherMAC}},
		{"a probe of somebody else", router, 7, func(t *testing.T) []byte { return probeBy(t, otherMAC, router) }, Taken{MAC: otherMAC, Wants: true}},
		{"an advertisement", router6, 7, func(t *testing.T) []byte { return naOf(t, otherMAC, 255, router6.String(), otherMAC[:]) }, Taken{MAC: otherMAC}},
		{"a solicitation by somebody else, from nobody", router6, 7, func(t *testing.T) []byte { return probeBy(t, otherMAC, router6) }, Taken{MAC: otherMAC, Wants: true}},

		{"a reply of the VM's own MAC", router, 7, func(t *testing.T) []byte {
			return arpOf(t, layers.ARPReply, vmMAC, router.String(), mine, mine, "0.0.0.0")
		}, Taken{}},
		{"a reply with the VM's own MAC by a switch", router, 7, func(t *testing.T) []byte {
			return from(arpOf(t, layers.ARPReply, vmMAC, router.String(), mine, mine, "0.0.0.0"), otherMAC)
		}, Taken{}},
		{"a probe of the VM's own MAC", router, 7, func(t *testing.T) []byte { return probeBy(t, vmMAC, router) }, Taken{}},
		{"the VM's own advertisement", router6, 7, func(t *testing.T) []byte { return naOf(t, vmMAC, 255, router6.String(), vmMAC[:]) }, Taken{}},
		{"the VM's own solicitation", router6, 7, func(t *testing.T) []byte { return probeBy(t, vmMAC, router6) }, Taken{}},
		{"the own probe comes back", router, 7, func(t *testing.T) []byte { return probeBy(t, mine, router) }, Taken{}},
		{"the own solicitation comes back", router6, 7, func(t *testing.T) []byte { return probeBy(t, mine, router6) }, Taken{}},
		{"a switch asks whether somebody is still there", router, 7, func(t *testing.T) []byte { return to(probeBy(t, otherMAC, router), mine) }, Taken{}},
		{"who asks for it from an address", router, 7, func(t *testing.T) []byte {
			return arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.9", broadcast, MAC{}, router.String())
		}, Taken{}},
		{"who solicits it from an address", router6, 7, func(t *testing.T) []byte {
			b, err := neighbour(layers.ICMPv6TypeNeighborSolicitation, otherMAC, addr("fe80::9"), MAC{0x33, 0x33, 0xff, 0, 0, 1}, solicitedNode(router6), router6)
			must(t, err)
			return b
		}, Taken{}},
		{"the VM's, in another's name", router, 7, func(t *testing.T) []byte {
			return from(arpOf(t, layers.ARPReply, otherMAC, router.String(), mine, mine, "0.0.0.0"), vmMAC)
		}, Taken{}},
		{"another address", router, 7, func(t *testing.T) []byte {
			return arpOf(t, layers.ARPReply, otherMAC, "192.0.2.9", mine, mine, "0.0.0.0")
		}, Taken{}},
		{"another VLAN", router, 8, func(t *testing.T) []byte {
			return arpOf(t, layers.ARPReply, otherMAC, router.String(), mine, mine, "0.0.0.0")
		}, Taken{}},
		{"an advertisement from afar", router6, 7, func(t *testing.T) []byte { return naOf(t, otherMAC, 254, router6.String(), nil) }, Taken{}},
	} {
		synctest.Test(t, func(t *testing.T) {
			d, m := newDetector(t)
			result := d.begins(t.Context(), 7, vmMAC, tt.address)
			time.Sleep(1500 * time.Millisecond)
			m.tell(whole(tt.tag, tt.frame(t)))
			got := <-result
			var want []Taken
			if tt.want.MAC != (MAC{}) {
				tt.want.Address = tt.address
				want = []Taken{tt.want}
				if got.took != 1500*time.Millisecond {
					t.Errorf("%s: it took %v, though all is known", tt.name, got.took)
				}
			}
			if d := cmp.Diff(want, got.taken, comparing); d != "" || got.err != nil {
				t.Errorf("%s: %v (-want +got):\n%s", tt.name, got.err, d)
			}
		})
	}
}

// TestWhoHasComesFirst: he who has an address is told, and not he who wants it too; the others are waited for.
func TestWhoHasComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := newDetector(t)
		result := d.begins(t.Context(), 0, vmMAC, router, router6)
		wants, err := arpProbe(peerMAC, router)
		must(t, err)
		m.tell(whole(0, wants), whole(0, arpOf(t, layers.ARPReply, otherMAC, router.String(), myMAC.Foreign(), myMAC.Foreign(), "0.0.0.0")), whole(0, wants))
		got := <-result
		if d := cmp.Diff([]Taken{{Address: router, MAC: otherMAC}}, got.taken, comparing); d != "" || got.took < 2*DetectionGap+DetectionWait {
			t.Errorf("after %v (-want +got):\n%s", got.took, d)
		}
	})
}

// TestTwoHere: of two NICs of one node, the first is to have the address; the same NIC may ask again.
func TestTwoHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDetector(t)
		first, again := d.begins(t.Context(), 7, vmMAC, router), d.begins(t.Context(), 7, vmMAC, router)
		second, elsewhere := <-d.begins(t.Context(), 7, otherMAC, router), d.begins(t.Context(), 8, otherMAC, router)
		if d := cmp.Diff([]Taken{{Address: router, MAC: vmMAC, Wants: true, Here: true}}, second.taken, comparing); d != "" || second.took != 0 {
			t.Errorf("the second, after %v (-want +got):\n%s", second.took, d)
		}
		for _, c := range []<-chan asked{first, again, elsewhere} {
			if got := <-c; len(got.taken) != 0 || got.err != nil {
				t.Errorf("%+v", got)
			}
		}
		if len(d.asks) != 0 {
			t.Errorf("%d questions are left", len(d.asks))
		}
	})
}

// TestAskEnds: with its caller, with the Detector, and with an interface that takes nothing.
func TestAskEnds(t *testing.T) {
	gone := errors.New("hung up")
	for _, tt := range []struct {
		name string
		end  func(context.CancelCauseFunc, *Detector, *memory)
		want error
	}{
		{"the caller hangs up", func(cancel context.CancelCauseFunc, _ *Detector, _ *memory) { cancel(gone) }, gone},
		{"it is closed", func(_ context.CancelCauseFunc, d *Detector, _ *memory) { _ = d.Close() }, net.ErrClosed},
		{"it cannot send", func(_ context.CancelCauseFunc, _ *Detector, m *memory) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.fail = func(Frame) error { return gone }
		}, gone},
	} {
		synctest.Test(t, func(t *testing.T) {
			d, m := newDetector(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			result := d.begins(ctx, 7, vmMAC, router)
			tt.end(cancel, d, m)
			if got := <-result; !errors.Is(got.err, tt.want) || got.took > detectDelay {
				t.Errorf("%s: %v after %v", tt.name, got.err, got.took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		d, m := newDetector(t)
		if _, err := d.Ask(t.Context(), 7, vmMAC, []netip.Addr{router, addr("224.0.0.1")}); !says(err, "224.0.0.1 is no address of a host") || len(m.sent) != 0 {
			t.Errorf("%v, %d sent", err, len(m.sent))
		}
	})
}
