package agent

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// probed is a prober of node n1, whose network in VLAN 100 has all that may be asked.
func probed(t *testing.T) *prober {
	t.Helper()
	set, err := vlan.ParseSet("100-101")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	a := &Agent{}
	a.world.snap = &desired.Snapshot{
		Trunks: map[string]desired.Trunk{"physnet1": {Name: "physnet1", Uplink: "eth1", AllowedVLANs: set, NativeVLAN: 1}, "other": {Name: "other", Uplink: "eth2", AllowedVLANs: set}},
		Networks: map[string]desired.Network{"a": {Name: "a", Trunk: "physnet1", PVID: 100,
			Subnets: []desired.Subnet{{CIDR: netip.MustParsePrefix("10.100.0.0/24"), Gateway: addr("10.100.0.1")}},
			Reach: desired.Reach{Sources: map[string][]netip.Addr{"n1": {addr("10.100.0.251")}, "n2": {addr("10.100.0.252")}},
				Targets: []netip.Addr{addr("10.100.0.20")}}}},
	}
	return newProber(a, "n1", nil)
}

// TestAllowed: whoever runs a check, a node asks for what its own networks name, and from its own addresses.
func TestAllowed(t *testing.T) {
	p := probed(t)
	gateway, target, mine, peers, any := "10.100.0.1", "10.100.0.20", "10.100.0.251", "10.100.0.252", "10.100.0.7"
	for _, tt := range []struct {
		kind           probe.Kind
		target, source string
		vlan           vlan.ID
		ok             bool
	}{
		{probe.Hello, "", "", 100, true},
		{probe.Hello, "", "", 1, true},
		{probe.Hello, "", "", 102, false},
		{probe.Routers, "", "", 101, true},
		{probe.Gateway, gateway, "", 100, true},
		{probe.Gateway, gateway, "", 101, false},
		{probe.Gateway, target, "", 100, false},
		{probe.Gateway, any, "", 100, false},
		{probe.Detect, mine, mine, 100, true},
		{probe.Detect, mine, mine, 101, false},
		{probe.Detect, peers, "", 100, true},
		{probe.Detect, peers, peers, 100, false},
		{probe.Detect, any, "", 100, false},
		{probe.Detect, target, "", 100, false},
		{probe.Host, target, mine, 100, true},
		{probe.Host, gateway, mine, 100, true},
		{probe.Host, any, mine, 100, false},
		{probe.Host, target, peers, 100, false},
		{probe.Host, target, "", 100, false},
		{probe.Echo, gateway, mine, 100, true},
		{probe.Echo, target, mine, 100, false},
		{probe.Echo, gateway, any, 100, false},
	} {
		ask := probe.Ask{VLAN: tt.vlan, Untagged: tt.vlan == 1, Kind: tt.kind}
		if tt.target != "" {
			ask.Target = netip.MustParseAddr(tt.target)
		}
		if tt.source != "" {
			ask.Source = netip.MustParseAddr(tt.source)
		}
		if err := p.asker("physnet1")(ask); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", ask, err)
		}
		if err := p.asker("other")(ask); err == nil && tt.target != "" {
			t.Errorf("%+v on another trunk", ask)
		}
	}
}

// TestAllowedTags: what is sent without a tag is the node's own native VLAN, and nothing else is.
func TestAllowedTags(t *testing.T) {
	p := probed(t)
	for id, native := range map[vlan.ID]bool{1: true, 100: false} {
		for _, untagged := range []bool{true, false} {
			err := p.asker("physnet1")(probe.Ask{VLAN: id, Untagged: untagged, Kind: probe.Hello})
			if (err == nil) != (untagged == native) {
				t.Errorf("VLAN %d, untagged %v: %v", id, untagged, err)
			}
		}
	}
}

// TestReachOf: a node tells of its own addresses, and of no other's.
func TestReachOf(t *testing.T) {
	p := probed(t)
	snap := p.a.world.snap
	got := reachOf(snap.Networks["a"], snap.Trunks["physnet1"], "n2")
	want := reach.Network{Name: "a", Home: 100, Subnets: []netip.Prefix{netip.MustParsePrefix("10.100.0.0/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.100.0.1")},
		Sources: []netip.Addr{netip.MustParseAddr("10.100.0.252")}, Targets: []netip.Addr{netip.MustParseAddr("10.100.0.20")}}
	_ = want.VLANs.Add(100)
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, vlan.Set{})); d != "" {
		t.Error(d)
	}
}
