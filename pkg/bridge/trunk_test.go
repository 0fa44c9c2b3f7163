package bridge

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestEnsureTrunkRefuses asserts on the message and on nothing having changed.
// It runs on every kernel: the checks come before VLAN filtering is needed.
func TestEnsureTrunkRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*testing.T, *node, *netlink.Handle)
		is      error
		says    []string
	}{
		"uplink missing": {func(_ *testing.T, h *node, _ *netlink.Handle) { h.spec.Uplink = "eth9" },
			ErrNotFound, []string{"uplink eth9", "no such interface"}},
		"uplink is the bridge": {func(_ *testing.T, h *node, _ *netlink.Handle) { h.spec.Uplink = "br0" },
			ErrRefused, []string{"its own uplink"}},
		"uplink with an address": {func(t *testing.T, _ *node, k *netlink.Handle) { addAddr(t, k, "eth0", "192.0.2.7/24") },
			ErrRefused, []string{"uplink eth0", "the address 192.0.2.7/24", "the route 192.0.2.0/24"}},
		"uplink with an IPv6 address": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, inNetns(h.ns, func() error { // CreateVeth has switched it off
				return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("0"), 0)
			}))
			addAddr(t, k, "eth0", "2001:db8::7/64")
		},
			ErrRefused, []string{"the address 2001:db8::7/64", "the route 2001:db8::/64"}},
		"uplink with a route": {func(t *testing.T, _ *node, k *netlink.Handle) { addRoute(t, k, "eth0", "198.51.100.0/24") },
			ErrRefused, []string{"it carries the route 198.51.100.0/24,"}},
		"uplink with the default route": {func(t *testing.T, _ *node, k *netlink.Handle) { addRoute(t, k, "eth0", "0.0.0.0/0") },
			ErrRefused, []string{"the default route"}},
		"uplink with a VLAN sub-interface": {func(t *testing.T, _ *node, k *netlink.Handle) { addVLANLink(t, k, "eth0", 50) },
			ErrRefused, []string{"the VLAN sub-interface eth0.50"}},
		"uplink in another bridge": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, k.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other0", TxQLen: -1}}))
			must(t, h.setLink(index(t, h.space, "eth0"), nil, master(index(t, h.space, "other0"))))
		}, ErrRefused, []string{"the master other0"}},
		"uplink is a bridge": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, k.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other0", TxQLen: -1}}))
			h.spec.Uplink = "other0"
		}, ErrRefused, []string{"a bridge of its own"}},
		"bridge is no bridge": {func(t *testing.T, h *node, _ *netlink.Handle) { pair(t, h.space, "br0", h.sw, "x") },
			ErrRefused, []string{"br0", "no bridge but a veth"}},
		"MTU over the uplink's": {func(_ *testing.T, h *node, _ *netlink.Handle) { h.spec.MTU = 9000 },
			ErrRefused, []string{"MTU 9000 is over that of the uplink eth0, 1500", "ip link set eth0 mtu 9000"}},
		"MTU 10":      {func(_ *testing.T, h *node, _ *netlink.Handle) { h.spec.MTU = 10 }, nil, []string{"want 68-65535"}},
		"native 4095": {func(_ *testing.T, h *node, _ *netlink.Handle) { h.spec.Native = 4095 }, nil, []string{"want 1-4094"}},
		"no name":     {func(_ *testing.T, h *node, _ *netlink.Handle) { h.spec.Bridge = "" }, nil, []string{"is empty"}},
		"adopted missing": {func(_ *testing.T, h *node, _ *netlink.Handle) { h.spec.Managed = false },
			ErrNotFound, []string{"bridge br0", "bridge.managed: true"}},
		"adopted without vlan_filtering": {func(t *testing.T, h *node, k *netlink.Handle) {
			h.spec.Managed = false
			must(t, k.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}))
		}, ErrRefused, []string{"ip link set br0 type bridge vlan_filtering 1"}},
		"adopted flat": {func(t *testing.T, h *node, k *netlink.Handle) {
			h.spec.Managed, h.spec.Flat = false, true
			must(t, k.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}))
		}, ErrRefused, []string{"cannot be adopted"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newNode(t, spec0(t))
			tt.prepare(t, h, handle(t, h.space))
			refused(t, h, tt.is, tt.says...)
		})
	}
}

// refused expects an error and nothing changed.
func refused(t *testing.T, h *node, is error, says ...string) {
	t.Helper()
	before := h.picture()
	_, err := h.EnsureTrunk(h.spec)
	if err == nil {
		t.Fatal("it was accepted")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %q is not %q", err, is)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
	if d := cmp.Diff(before, h.picture()); d != "" {
		t.Errorf("it was refused, and changed (-before +after):\n%s", d)
	}
}

// picture is all interfaces and their VLANs.
func (h *node) picture() map[string]any {
	h.tb.Helper()
	ls, err := h.links(0)
	must(h.tb, err)
	vlans, err := h.dumpVLANs(0)
	must(h.tb, err)
	p := map[string]any{}
	for _, l := range ls {
		p[l.Name] = []any{l, vlans[l.Index].String()}
	}
	return p
}

func TestAdoptRefusesWithFiltering(t *testing.T) {
	needFiltering(t)
	for name, tt := range map[string]struct {
		change func(*testing.T, *node)
		says   string
	}{
		"small MTU": {func(t *testing.T, h *node) {
			must(t, h.SetMTU(Ref{Name: "br0"}, 1400))
			h.spec.MTU = 1500
		}, "its MTU is 1400, under the trunk's 1500"},
		"uplink elsewhere": {func(t *testing.T, h *node) { must(t, h.Leave(Ref{Name: "eth0"})) }, "ip link set eth0 master br0"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newNode(t, spec0(t))
			h.spec.Managed = false
			adoptable(t, h)
			tt.change(t, h)
			refused(t, h, ErrRefused, tt.says)
		})
	}
}

// TestKernelFilters: a kernel that cannot keep VLANs apart is told so, and can
// still be benchmarked.
func TestKernelFilters(t *testing.T) {
	h := newNode(t, spec0(t))
	if kernelFilters(t) {
		h.ensure()
		return
	}
	refused(t, h, ErrNoVLANFiltering, "could not switch on vlan_filtering: kernel lacks CONFIG_BRIDGE_VLAN_FILTERING")
	h.spec.Flat = true
	h.ensure()
	h.attach(VLANs{Flat: true})
	if err := h.SetVLANs(h.ports[0].Ref, VLANs{PVID: 100}); !errors.Is(err, ErrNoVLANFiltering) {
		t.Errorf("SetVLANs: %v, want ErrNoVLANFiltering", err)
	}
}

func TestEnsureTrunk(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	h.spec.Native, h.spec.Management = 77, set(t, "10,200")
	st := h.ensure()
	if !st.Created || st.MTU != 1500 || st.DefaultPVID != 0 {
		t.Errorf("status %+v", st)
	}
	o, err := h.Observe("br0")
	must(t, err)
	eth0 := o.Ports[st.Uplink.Index]
	// 200 is allowed and management: it is not ours to add.
	if want := (PortVLANs{PVID: 77, Members: set(t, "77,100,300"), Untagged: set(t, "77")}); eth0.VLANs != want {
		t.Errorf("uplink has %s, want %s", eth0.VLANs, want)
	}
	if !o.VLANFiltering || o.DefaultPVID != 0 || o.STP || o.McastSnooping || !o.Up || o.Self != (PortVLANs{}) {
		t.Errorf("bridge is %+v", o)
	}
	uplink, err := h.LinkInfo(st.Uplink)
	must(t, err)
	if o.MAC.String() != uplink.MAC.String() || st.MAC.String() != uplink.MAC.String() {
		t.Errorf("bridge has the MAC %s (status %s), want the uplink's, %s", o.MAC, st.MAC, uplink.MAC)
	}
	addrs, err := h.addresses(st.Bridge.Index)
	must(t, err)
	if len(addrs) != 0 {
		t.Errorf("the bridge has the addresses %v", addrs)
	}
	staysPut(t, h, st)

	// Others add VLANs: management ones stay, guest ones go, and a changed
	// list changes the rest.
	k := handle(t, h.space)
	eth, br := link(t, k, "eth0"), link(t, k, "br0")
	must(t, k.BridgeVlanAdd(eth, 10, false, false, false, true))
	must(t, k.BridgeVlanAdd(eth, 500, false, false, false, true))
	must(t, k.BridgeVlanAdd(br, 10, true, true, true, false))
	must(t, k.BridgeVlanAdd(br, 100, false, false, true, false))
	h.spec.Allowed, h.spec.Native = set(t, "100,400-409"), 0
	h.ensure()
	o, err = h.Observe("br0")
	must(t, err)
	if got, want := o.Ports[st.Uplink.Index].VLANs.String(), "10,100,400-409"; got != want {
		t.Errorf("uplink has %s, want %s", got, want)
	}
	if got, want := o.Self.String(), "10 PVID untagged"; got != want {
		t.Errorf("bridge itself has %s, want %s", got, want)
	}
	if again := h.ensure(); len(again.Changed) != 0 {
		t.Errorf("it changed %v again", again.Changed)
	}
	must(t, h.RemoveTrunk(h.spec))
	must(t, h.RemoveTrunk(h.spec))
	if l, err := h.LinkInfo(Ref{Name: "eth0"}); err != nil || l.Master != 0 {
		t.Errorf("uplink after RemoveTrunk: %+v, %v", l, err)
	}
}

// staysPut: a second call sends nothing, and ports move neither MAC nor MTU.
func staysPut(t *testing.T, h *node, st TrunkStatus) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := h.Watch(ctx)
	must(t, err)
	// The kernel tells of a carrier up to a second late, and of some more than once:
	// what a call causes itself is there after each.
	for try := 1; ; try++ {
		for quiet := false; !quiet; {
			select {
			case _, ok := <-events:
				if !ok {
					t.Fatal("the channel of events was closed")
				}
			case <-time.After(time.Second):
				quiet = true
			}
		}
		if again := h.ensure(); again.Created || len(again.Changed) != 0 {
			t.Errorf("a second EnsureTrunk changed %v", again.Changed)
		}
		must(t, h.SetMTU(Ref{Name: "lo"}, 1280+try)) // the first change that there is
		e := nextEvent(t, events)
		if len(e.Indexes) == 1 && e.Indexes[0] == 1 {
			break
		}
		if try == 5 {
			t.Fatalf("each of five more calls of EnsureTrunk caused announcements, the last %+v", e)
		}
	}

	pod := newSpace(t)
	low, err := net.ParseMAC("00:00:00:00:00:01")
	must(t, err)
	v, err := pod.CreateVeth(VethSpec{HostName: "net1", PeerName: "vethlow", PeerNetns: h.path, PeerMAC: low, MTU: 1280})
	must(t, err)
	port := Ref{Index: v.PeerIndex, Name: "vethlow"}
	must(t, h.Join(port, st.Bridge))
	must(t, h.SetUp(port))
	br, err := h.LinkInfo(st.Bridge)
	must(t, err)
	if br.MTU != 1500 || br.MAC.String() != st.MAC.String() {
		t.Errorf("a port with a low MAC and MTU made the bridge's %s and %d", br.MAC, br.MTU)
	}
	vlans, err := h.ReadVLANs(port)
	must(t, err)
	if vlans != (PortVLANs{}) {
		t.Errorf("a new port starts with VLANs %s", vlans)
	}
	if err := h.RemoveTrunk(h.spec); !errors.Is(err, ErrRefused) {
		t.Errorf("RemoveTrunk with a port in the bridge: %v", err)
	}
	must(t, pod.DeleteVeth(v.Host))
}

func TestAdopt(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	h.spec.Managed = false
	adoptable(t, h)
	k := handle(t, h.space)
	must(t, k.BridgeVlanAdd(link(t, k, "eth0"), 500, false, false, false, true))
	st := h.ensure()
	if st.DefaultPVID != 1 || st.Created || len(st.Warnings) == 0 || !strings.Contains(st.Warnings[0], "mcast_snooping") {
		t.Errorf("status %+v", st)
	}
	got, err := h.ReadVLANs(st.Uplink)
	must(t, err)
	if want := "1 PVID untagged, 100,200,300,500"; got.String() != want {
		t.Errorf("uplink has %s, want %s", got, want)
	}
	if again := h.ensure(); len(again.Changed) != 0 {
		t.Errorf("a second EnsureTrunk changed %v", again.Changed)
	}
	if ds := h.drifts(h.want(st)); len(ds) != 0 {
		t.Errorf("drift at once: %v", ds)
	}
	h.spec.Native = 300
	h.ensure()
	got, err = h.ReadVLANs(st.Uplink)
	must(t, err)
	if want := "1 untagged, 300 PVID untagged, 100,200,500"; got.String() != want {
		t.Errorf("uplink has %s, want %s", got, want)
	}
}

// TestSetVLANs goes from every set to every other, and reads them back both ways.
func TestSetVLANs(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	h.ensure()
	h.attach(VLANs{PVID: 100})
	port := h.ports[0].Ref
	var odd vlan.Set // as many ranges as there can be in one message
	for id := vlan.Min; id <= vlan.Max; id += 2 {
		must(t, odd.Add(id))
	}
	small := []VLANs{
		{}, {PVID: 100}, {PVID: 4094}, {Tagged: set(t, "100")}, {Tagged: set(t, "90-110")},
		{PVID: 100, Tagged: set(t, "1,90-99,101")}, {PVID: 2, Tagged: set(t, "1,3,5,7,100")},
	}
	for _, from := range small {
		for _, to := range small {
			must(t, h.SetVLANs(port, from))
			setAndRead(t, h, port, to)
		}
	}
	for _, to := range []VLANs{{Tagged: set(t, "1-4094")}, {PVID: 2, Tagged: odd}, {PVID: 1, Tagged: set(t, "2-4094")}, {PVID: 100}} {
		setAndRead(t, h, port, to)
	}
	if err := h.SetVLANs(port, VLANs{PVID: 100, Tagged: set(t, "100")}); err == nil {
		t.Error("a VLAN both tagged and untagged was accepted")
	}
	if err := h.SetVLANs(port, VLANs{PVID: 4095}); err == nil {
		t.Error("PVID 4095 was accepted")
	}
	must(t, h.SetVLANs(port, VLANs{PVID: 100}))
	err := h.VerifyVLANs(port, VLANs{PVID: 200})
	if err == nil || !strings.Contains(err.Error(), "are 100 PVID untagged, want 200 PVID untagged") {
		t.Errorf("VerifyVLANs says %v", err)
	}
	if err := h.SetVLANs(Ref{Name: "lo"}, VLANs{PVID: 100}); !errors.Is(err, ErrRefused) {
		t.Errorf("VLANs of lo: %v, want a refusal", err)
	}
}

// setAndRead sets VLANs and reads them back in the new way and in the old.
func setAndRead(t *testing.T, h *node, port Ref, to VLANs) {
	t.Helper()
	must(t, h.SetVLANs(port, to))
	must(t, h.VerifyVLANs(port, to))
	old, err := h.dumpBridgeLinks()
	must(t, err)
	if old[port.Index] != to.kernel() {
		t.Fatalf("to %s: the old way of reading gives %s", to.kernel(), old[port.Index])
	}
}

func addAddr(tb testing.TB, k *netlink.Handle, name, text string) {
	tb.Helper()
	a, err := netlink.ParseAddr(text)
	must(tb, err)
	must(tb, k.AddrAdd(link(tb, k, name), a))
}

func addRoute(tb testing.TB, k *netlink.Handle, name, dst string) {
	tb.Helper()
	_, n, err := net.ParseCIDR(dst)
	must(tb, err)
	must(tb, k.RouteAdd(&netlink.Route{LinkIndex: link(tb, k, name).Attrs().Index, Dst: n, Scope: netlink.SCOPE_LINK}))
}

func addVLANLink(tb testing.TB, k *netlink.Handle, parent string, id int) {
	tb.Helper()
	err := k.LinkAdd(&netlink.Vlan{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0.50", ParentIndex: link(tb, k, parent).Attrs().Index, TxQLen: -1},
		VlanId:    id,
	})
	if err != nil && strings.Contains(err.Error(), "not supported") {
		tb.Skip("kernel lacks VLAN interfaces (8021q)")
	}
	must(tb, err)
}

func link(tb testing.TB, k *netlink.Handle, name string) netlink.Link {
	tb.Helper()
	l, err := k.LinkByName(name)
	must(tb, err)
	return l
}

func nextEvent(tb testing.TB, events <-chan Event) Event {
	tb.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			tb.Fatal("the channel of events was closed")
		}
		return e
	case <-time.After(10 * time.Second):
		tb.Fatal("no event within 10 s")
	}
	return Event{}
}
