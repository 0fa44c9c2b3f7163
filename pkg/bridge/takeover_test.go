package bridge

import (
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

// foreign makes a bridge br0 as another tool does, with vlan_filtering where
// the kernel has it.
func foreign(t *testing.T, h *node, k *netlink.Handle) netlink.Link {
	t.Helper()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}
	if on := true; kernelFilters(t) {
		br.VlanFiltering = &on
	}
	must(t, k.LinkAdd(br))
	must(t, h.SetUp(Ref{Name: "br0"}))
	return link(t, k, "br0")
}

// enslave makes an interface a port of br0.
func enslave(t *testing.T, h *node, name string) {
	t.Helper()
	must(t, h.setLink(index(t, h.space, name), nil, master(index(t, h.space, "br0"))))
	if name == "eth0" { // which has a carrier; the bridge gets its in a while
		running(t, h.space, "br0")
	}
}

// TestTakeOverRefuses: a bridge that somebody uses is not made a managed one,
// whatever it is that would be lost.
func TestTakeOverRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*testing.T, *node, *netlink.Handle)
		says    string
	}{
		"address": {func(t *testing.T, _ *node, k *netlink.Handle) { addAddr(t, k, "br0", "192.0.2.7/24") },
			"the address 192.0.2.7/24, the route 192.0.2.0/24"},
		"route": {func(t *testing.T, _ *node, k *netlink.Handle) { addRoute(t, k, "br0", "198.51.100.0/24") },
			"the route 198.51.100.0/24"},
		"default route": {func(t *testing.T, _ *node, k *netlink.Handle) { addRoute(t, k, "br0", "0.0.0.0/0") },
			"the default route"},
		"VLAN sub-interface": {func(t *testing.T, _ *node, k *netlink.Handle) { addVLANLink(t, k, "br0", 50) },
			"the VLAN sub-interface eth0.50"},
		"port": {func(t *testing.T, h *node, _ *netlink.Handle) {
			pair(t, h.space, "tap0", h.sw, "x")
			enslave(t, h, "tap0")
		}, "the port tap0"},
		"address, uplink inside": {func(t *testing.T, h *node, k *netlink.Handle) {
			enslave(t, h, "eth0")
			addAddr(t, k, "br0", "192.0.2.7/24")
		}, "the address 192.0.2.7/24"},
		"address on the uplink inside": {func(t *testing.T, h *node, k *netlink.Handle) {
			enslave(t, h, "eth0")
			addAddr(t, k, "eth0", "192.0.2.7/24")
		}, "the address 192.0.2.7/24 on its uplink eth0"},
		"sub-interface of the uplink inside": {func(t *testing.T, h *node, k *netlink.Handle) {
			enslave(t, h, "eth0")
			addVLANLink(t, k, "eth0", 50)
		}, "the VLAN sub-interface eth0.50 on its uplink eth0"},
		"somebody's mark": {func(t *testing.T, _ *node, k *netlink.Handle) {
			must(t, k.LinkSetAlias(link(t, k, "br0"), "homeport trunk 2"))
			addAddr(t, k, "br0", "192.0.2.7/24")
		}, "the address 192.0.2.7/24"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newNode(t, spec0(t))
			k := handle(t, h.space)
			foreign(t, h, k)
			tt.prepare(t, h, k)
			refused(t, h, ErrRefused, "bridge br0: ", "was not made by Homeport", tt.says, "bridge.managed: false")
			before := h.picture()
			must(t, h.RemoveTrunk(h.spec)) // of what it never took over
			if d := cmp.Diff(before, h.picture()); d != "" {
				t.Errorf("RemoveTrunk (-before +after):\n%s", d)
			}
		})
	}
}

// TestTakeOverRefusesVLANs: the VLANs alone are enough, since an address may
// still be on its way (DHCP), and management VLANs are what keeps them.
func TestTakeOverRefusesVLANs(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	k := handle(t, h.space)
	br := foreign(t, h, k)
	refused(t, h, ErrRefused, "carries VLANs 1 PVID untagged on the bridge itself,", "or list VLANs 1 in managementVLANs")
	enslave(t, h, "eth0")
	must(t, k.BridgeVlanAdd(br, 10, false, false, true, false))
	must(t, k.BridgeVlanAdd(link(t, k, "eth0"), 100, false, true, false, true))
	must(t, k.BridgeVlanAdd(link(t, k, "eth0"), 500, false, false, false, true))
	refused(t, h, ErrRefused, "VLANs 1 PVID untagged, 10 on the bridge itself",
		"VLANs 1 PVID untagged, 100 untagged, 500 on its uplink eth0", "list VLANs 1,10,100,500 in managementVLANs")
	h.spec.Management = set(t, "10,500")
	refused(t, h, ErrRefused, "VLANs 1 PVID untagged on the bridge itself", "VLANs 1 PVID untagged, 100 untagged on its uplink eth0")
	h.spec.Management, h.spec.Native = set(t, "1,10,100,500"), 300
	refused(t, h, ErrRefused, "VLANs 1 PVID untagged on its uplink eth0") // it would be 300's

	h.spec.Native = 0
	st := h.ensure()
	o, err := h.Observe("br0")
	must(t, err)
	if o.Self.String() != "1 PVID untagged, 10" || st.Created || !o.VLANFiltering || o.DefaultPVID != 0 {
		t.Errorf("taken over with management VLANs: %s on the bridge, %+v, %+v", o.Self, o.BridgeAttrs, st)
	}
	if got, want := o.Ports[st.Uplink.Index].VLANs.String(), "1 PVID untagged, 100 untagged, 200,300,500"; got != want {
		t.Errorf("uplink has %s, want %s", got, want)
	}
}

// newborn makes br0 as a kill leaves it between its birth and its mark.
func newborn(t *testing.T, h *node) {
	t.Helper()
	up, err := h.LinkInfo(Ref{Name: "eth0"})
	must(t, err)
	_, err = h.createBridge(h.spec, h.spec.bridgeMAC(up), 1500)
	must(t, err)
	k := handle(t, h.space)
	must(t, k.LinkSetAlias(link(t, k, "br0"), ""))
	restart(t, h)
}

// restart is a new process on the same node.
func restart(t *testing.T, h *node) {
	t.Helper()
	n, err := OpenAt(h.path)
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	h.Net = n
}

// TestTakeOverUnused: what nobody uses is taken over and is as if made by us.
func TestTakeOverUnused(t *testing.T) {
	h := newNode(t, spec0(t))
	h.spec.Flat = !kernelFilters(t)
	newborn(t, h)
	st := h.ensure()
	br, err := h.LinkInfo(st.Bridge)
	must(t, err)
	if st.Created || br.Alias != mark || br.MTU != 1500 || !br.Up || !h.spec.fits(*br.Bridge) {
		t.Errorf("%+v left the bridge %+v, %+v", st, br, *br.Bridge)
	}
	if again := h.ensure(); len(again.Changed) != 0 {
		t.Errorf("a second EnsureTrunk changed %v", again.Changed)
	}
	must(t, h.RemoveTrunk(h.spec))
	if _, err := h.LinkInfo(st.Bridge); err == nil {
		t.Error("RemoveTrunk left a bridge that was taken over")
	}
}

// TestMarkHolds: a bridge that we made stays ours with VMs in it and whatever
// others put on it, for this process and the next.
func TestMarkHolds(t *testing.T) {
	h := newNode(t, spec0(t))
	h.spec.Flat = !kernelFilters(t)
	h.ensure()
	h.attach(VLANs{PVID: 100, Flat: h.spec.Flat})
	k := handle(t, h.space)
	br := link(t, k, "br0")
	addAddr(t, k, "br0", "192.0.2.7/24")
	restart(t, h)
	must(t, k.LinkSetHardwareAddr(br, net.HardwareAddr{2, 0, 0, 0, 0, 5}))
	if !h.spec.Flat {
		must(t, setBridgeAttr(h, nl.IFLA_BR_VLAN_FILTERING, nl.Uint8Attr(0)))
		must(t, setBridgeAttr(h, nl.IFLA_BR_VLAN_DEFAULT_PVID, nl.Uint16Attr(1)))
	}
	st := h.ensure()
	if l, err := h.LinkInfo(st.Bridge); err != nil || l.MAC.String() != st.MAC.String() || !h.spec.fits(*l.Bridge) {
		t.Errorf("not repaired: %+v, %v", l, err)
	}

	must(t, k.LinkSetAlias(br, "db uplink"))
	if st = h.ensure(); strings.Join(st.Changed, "; ") != "marked the bridge as managed" {
		t.Errorf("with its mark taken away: %+v", st)
	}
	must(t, k.LinkSetAlias(br, "db uplink"))
	restart(t, h)
	refused(t, h, ErrRefused, "the address 192.0.2.7/24", "the port veth0")
}
