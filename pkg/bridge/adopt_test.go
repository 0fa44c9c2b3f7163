package bridge

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestUplinkChangeAdopted: on an adopted bridge only what we added is taken off,
// and only if it is as we left it.
func TestUplinkChangeAdopted(t *testing.T) {
	tagged := func(text string) PortVLANs { return PortVLANs{Members: set(t, text)} }
	native := func(id vlan.ID, members string) PortVLANs {
		return PortVLANs{PVID: id, Members: set(t, members), Untagged: single(id)}
	}
	for name, tt := range map[string]struct {
		spec     TrunkSpec
		have     PortVLANs
		add, del string
		pvid     bool
	}{
		"nothing of ours":        {TrunkSpec{Allowed: set(t, "100")}, tagged("100,200,300"), "", "", false},
		"ours, still wanted":     {TrunkSpec{Allowed: set(t, "100"), Added: tagged("100")}, tagged("100,200"), "", "", false},
		"ours, not wanted":       {TrunkSpec{Allowed: set(t, "100"), Added: tagged("100,200")}, tagged("100,200,300"), "", "200", false},
		"ours, gone already":     {TrunkSpec{Allowed: set(t, "100"), Added: tagged("200")}, tagged("100"), "", "", false},
		"ours, made native":      {TrunkSpec{Allowed: set(t, "100"), Added: tagged("200")}, native(200, "100,200"), "", "", false},
		"ours, made untagged":    {TrunkSpec{Added: tagged("200")}, PortVLANs{Members: set(t, "200"), Untagged: set(t, "200")}, "", "", false},
		"ours, now management":   {TrunkSpec{Management: set(t, "200"), Added: tagged("100,200")}, tagged("100,200"), "", "100", false},
		"our native":             {TrunkSpec{Added: native(7, "7")}, native(7, "7,100"), "", "7", false},
		"our native, now tagged": {TrunkSpec{Allowed: set(t, "7"), Added: native(7, "7")}, native(7, "7,100"), "7", "", true},
		"their native":           {TrunkSpec{Allowed: set(t, "7,8")}, native(7, "7,100"), "8", "", false},
		"their native, ours not": {TrunkSpec{Added: native(7, "7")}, PortVLANs{PVID: 1, Members: set(t, "1,7"), Untagged: set(t, "1,7")}, "", "", false},
	} {
		c := tt.spec.uplinkChange(tt.have)
		if c.add != set(t, tt.add) || c.del != set(t, tt.del) || c.pvid != tt.pvid {
			t.Errorf("%s: adds %s, removes %s, PVID %v; want %s, %s, %v", name, c.add, c.del, c.pvid, tt.add, tt.del, tt.pvid)
		}
	}
}

// TestAdoptedTakesOff: VLANs that we added go when the trunk shrinks and when it
// ends; those that were there, and what others made of ours, stay.
func TestAdoptedTakesOff(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	h.spec.Managed, h.spec.Allowed = false, set(t, "100,200,300,500")
	adoptable(t, h)
	k := handle(t, h.space)
	must(t, k.BridgeVlanAdd(link(t, k, "eth0"), 500, false, false, false, true))
	st := h.ensure()
	uplink := func(when, want string) {
		t.Helper()
		got, err := h.ReadVLANs(st.Uplink)
		must(t, err)
		if got.String() != want {
			t.Errorf("%s: uplink has %s, want %s", when, got, want)
		}
	}
	uplink("set up", "1 PVID untagged, 100,200,300,500")
	h.spec.Allowed, h.spec.Added = set(t, "100,300"), PortVLANs{Members: set(t, "100,200,300")}
	h.ensure()
	uplink("shrunk", "1 PVID untagged, 100,300,500")
	if again := h.ensure(); len(again.Changed) != 0 {
		t.Errorf("a second EnsureTrunk changed %v", again.Changed)
	}
	must(t, k.BridgeVlanAdd(link(t, k, "eth0"), 300, false, true, false, true)) // somebody makes it theirs
	off, err := h.ReleaseUplink(st.Bridge, st.Uplink, h.spec.Added)
	must(t, err)
	if off != set(t, "100") {
		t.Errorf("released %s, want 100", off)
	}
	uplink("released", "1 PVID untagged, 300 untagged, 500")
	must(t, k.LinkSetNoMaster(link(t, k, "eth0")))
	if off, err := h.ReleaseUplink(st.Bridge, st.Uplink, h.spec.Added); err != nil || !off.Empty() {
		t.Errorf("an uplink that is elsewhere: %s, %v", off, err)
	}
	if off, err := h.ReleaseUplink(Ref{Name: "gone"}, st.Uplink, h.spec.Added); err != nil || !off.Empty() {
		t.Errorf("a bridge that is gone: %s, %v", off, err)
	}
}

// TestUplinkMTU: an uplink that was lowered is told and left to its owner, and
// keeps nothing else from being repaired; what is ours follows.
func TestUplinkMTU(t *testing.T) {
	for _, mtu := range []int{0, 1500} {
		h := newNode(t, TrunkSpec{Bridge: "br0", Managed: true, Flat: true, Uplink: "eth0", MTU: mtu})
		st := h.ensure()
		want := h.want(st)
		want.UplinkMTU = st.MTU
		if ds := h.drifts(want); len(ds) != 0 {
			t.Fatalf("drift before any harm: %v", ds)
		}
		k := handle(t, h.space)
		must(t, k.LinkSetMTU(link(t, k, "eth0"), 1400))
		must(t, k.LinkSetDown(link(t, k, "br0")))
		var kinds []Kind
		for _, d := range h.drifts(want) {
			kinds = append(kinds, d.Kind)
			err := h.Repair(want, d)
			if d.Kind == UplinkMTUShrunk {
				if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "eth0") || d.Want != "1500" || d.Got != "1400" {
					t.Errorf("%s: %v", d, err)
				}
				continue
			}
			must(t, err)
		}
		if d := cmp.Diff([]Kind{BridgeDown, UplinkMTUShrunk}, kinds); d != "" {
			t.Errorf("spec.mtu %d: kinds (-want +got):\n%s", mtu, d)
		}
		if ds := h.drifts(want); len(ds) != 1 || ds[0].Kind != UplinkMTUShrunk {
			t.Errorf("spec.mtu %d: after the repair: %v", mtu, ds)
		}
		must(t, k.LinkSetMTU(link(t, k, "eth0"), 1500))
		for _, d := range h.drifts(want) {
			must(t, h.Repair(want, d))
		}
		if ds := h.drifts(want); len(ds) != 0 {
			t.Errorf("spec.mtu %d: raised again: %v", mtu, ds)
		}
	}
}

// TestFreeUplink: a managed bridge gives back an uplink that it has another for,
// and nobody else's.
func TestFreeUplink(t *testing.T) {
	h := newNode(t, TrunkSpec{Bridge: "br0", Managed: true, Flat: true, Uplink: "eth0"})
	h.ensure()
	k := handle(t, h.space)
	must(t, k.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "theirs", TxQLen: -1}}))
	for _, spec := range []TrunkSpec{
		{Bridge: "br0", Uplink: "eth0"}, {Bridge: "theirs", Managed: true, Uplink: "eth0"},
		{Bridge: "gone", Managed: true, Uplink: "eth0"}, {Bridge: "br0", Managed: true, Uplink: "eth9"},
	} {
		must(t, h.FreeUplink(spec))
		if up, err := h.LinkInfo(Ref{Name: "eth0"}); err != nil || up.Master != index(t, h.space, "br0") {
			t.Errorf("%+v: the uplink's master is %d, %v", spec, up.Master, err)
		}
	}
	must(t, h.FreeUplink(h.spec))
	if up, err := h.LinkInfo(Ref{Name: "eth0"}); err != nil || up.Master != 0 {
		t.Errorf("freed, and its master is %d, %v", up.Master, err)
	}
	must(t, k.LinkSetMaster(link(t, k, "eth0"), link(t, k, "theirs")))
	h.spec.Bridge = "theirs"
	must(t, h.FreeUplink(h.spec))
	if up, err := h.LinkInfo(Ref{Name: "eth0"}); err != nil || up.Master != index(t, h.space, "theirs") {
		t.Errorf("in a bridge of others its master is %d, %v", up.Master, err)
	}
}
