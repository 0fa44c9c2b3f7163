package bridge

import (
	"testing"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// BenchmarkSetVLANs takes a port from nothing to a set and back.
func BenchmarkSetVLANs(b *testing.B) {
	if !kernelFilters(b) {
		b.Skip("kernel lacks bridge VLAN filtering")
	}
	var odd vlan.Set
	for id := vlan.Min; id <= vlan.Max; id += 2 {
		must(b, odd.Add(id))
	}
	for _, bb := range []struct {
		name string
		v    VLANs
	}{{"access", VLANs{PVID: 100}}, {"100 in one range", VLANs{Tagged: set(b, "100-199")}},
		{"all", VLANs{Tagged: set(b, "1-4094")}}, {"every other one", VLANs{Tagged: odd}}} {
		b.Run(bb.name, func(b *testing.B) {
			h := &node{tb: b, space: newSpace(b), spec: TrunkSpec{Bridge: "br0", Managed: true}}
			h.ensure()
			h.attach(VLANs{PVID: 100})
			port := h.ports[0].Ref
			b.Run("set", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					must(b, h.SetVLANs(port, VLANs{}))
					b.StartTimer()
					must(b, h.SetVLANs(port, bb.v))
				}
			})
			b.Run("verify", func(b *testing.B) {
				for b.Loop() {
					must(b, h.VerifyVLANs(port, bb.v))
				}
			})
		})
	}
}

// BenchmarkAttach is the bridge's share of an ADD and a DEL on a flat bridge,
// which every kernel has, and with VLANs where the kernel can.
func BenchmarkAttach(b *testing.B) {
	for _, flat := range []bool{true, false} {
		name := map[bool]string{true: "flat", false: "vlan 100"}[flat]
		b.Run(name, func(b *testing.B) {
			if !flat && !kernelFilters(b) {
				b.Skip("kernel lacks bridge VLAN filtering")
			}
			h := &node{tb: b, space: newSpace(b), spec: TrunkSpec{Bridge: "br0", Managed: true, Flat: flat}}
			h.ensure()
			pod := newSpace(b)
			v := VLANs{PVID: 100, Flat: flat}
			for b.Loop() {
				veth, err := h.CreateVeth(VethSpec{HostName: "veth0", PeerName: "net1", PeerNetns: pod.path, MTU: 1500, PeerUp: true})
				must(b, err)
				must(b, h.Join(veth.Host, Ref{Name: "br0"}))
				must(b, h.SetVLANs(veth.Host, v))
				must(b, h.SetPortFlags(veth.Host, GuestFlags()))
				must(b, h.VerifyVLANs(veth.Host, v))
				must(b, h.SetUp(veth.Host))
				b.StopTimer()
				must(b, h.DeleteVethFast(veth.Host))
				b.StartTimer()
			}
		})
	}
}
