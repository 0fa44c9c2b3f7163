package bridge

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// spec0 is the trunk of most tests.
func spec0(tb testing.TB) TrunkSpec {
	return TrunkSpec{Bridge: "br0", Managed: true, Uplink: "eth0", Allowed: set(tb, "100,200,300")}
}

// TestTraffic asserts on frames what each mode lets through.
func TestTraffic(t *testing.T) {
	needFiltering(t)
	for name, adopted := range map[string]bool{"managed": false, "adopted with default PVID 1": true} {
		t.Run(name, func(t *testing.T) {
			h := newNode(t, spec0(t))
			if adopted {
				h.spec.Managed = false
				adoptable(t, h)
			}
			h.ensure()
			h.forwarding(Ref{Name: "eth0"})
			trafficOfModes(t, h, adopted)
		})
	}
}

// adoptable makes a bridge as most administrators do: VLAN 1 is everywhere.
func adoptable(tb testing.TB, h *node) {
	tb.Helper()
	k := handle(tb, h.space)
	on := true
	must(tb, k.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}, VlanFiltering: &on}))
	must(tb, h.setLink(index(tb, h.space, "eth0"), nil, master(index(tb, h.space, "br0"))))
	must(tb, h.SetUp(Ref{Name: "br0"}))
}

func trafficOfModes(t *testing.T, h *node, uplinkHas1 bool) {
	sw := plug(t, h.sw, "port0")
	a, b := h.attach(VLANs{PVID: 100}), h.attach(VLANs{PVID: 100})
	c, d := h.attach(VLANs{PVID: 200}), h.attach(VLANs{PVID: 200})
	trunk := h.attach(VLANs{Tagged: set(t, "100,200")})
	native := h.attach(VLANs{PVID: 100, Tagged: set(t, "200")})
	br := plug(t, h.space, "br0")

	a.send(0, "from a")
	b.sees("from a", 0)
	trunk.sees("from a", 100)
	native.sees("from a", 0)
	sw.sees("from a", 100)
	d.send(0, "fence 200")
	c.sees("fence 200", 0)
	trunk.sees("fence 200", 200)
	native.sees("fence 200", 200)
	sw.sees("fence 200", 200)
	c.sawNot("from a")
	d.sawNot("from a")
	b.sawNot("fence 200")

	trunk.send(0, "trunk untagged")
	trunk.send(1, "trunk in 1")
	trunk.send(300, "trunk in 300")
	trunk.send(100, "trunk in 100")
	a.sees("trunk in 100", 0)
	sw.sees("trunk in 100", 100)
	trunk.send(200, "trunk in 200")
	c.sees("trunk in 200", 0)
	sw.sees("trunk in 200", 200)
	native.send(0, "native untagged")
	a.sees("native untagged", 0)
	native.send(200, "native in 200")
	c.sees("native in 200", 0)

	// VLAN 1, and no VLAN at all, from the wire.
	sw.send(1, "wire in 1")
	sw.send(0, "wire untagged")
	sw.send(400, "wire in 400")
	sw.send(100, "wire in 100")
	a.sees("wire in 100", 0)
	trunk.sees("wire in 100", 100)
	sw.send(200, "wire in 200")
	c.sees("wire in 200", 0)

	for _, w := range []*wire{a, b, c, d, trunk, native, sw} {
		for _, lost := range []string{"trunk untagged", "trunk in 1", "trunk in 300", "wire in 1", "wire untagged", "wire in 400"} {
			w.sawNot(lost)
		}
	}
	if !uplinkHas1 { // an adopted bridge may itself be in VLAN 1
		br.read(0)
		if len(br.seen) != 0 {
			t.Errorf("the bridge itself saw %v: it is in no guest VLAN", br.seen)
		}
	}
}

// TestFlatTraffic runs on every kernel: a flat bridge connects everything.
func TestFlatTraffic(t *testing.T) {
	spec := spec0(t)
	spec.Flat = true
	h := newNode(t, spec)
	st := h.ensure()
	h.forwarding(Ref{Name: "eth0"})
	sw := plug(t, h.sw, "port0")
	a, b := h.attach(VLANs{Flat: true, PVID: 100}), h.attach(VLANs{Flat: true, PVID: 200})
	a.send(0, "flat")
	b.sees("flat", 0)
	sw.sees("flat", 0)
	if ds := h.drifts(h.want(st)); len(ds) != 0 {
		t.Errorf("a fresh flat bridge has drifted: %v", ds)
	}
	if again := h.ensure(); again.Created || len(again.Changed) != 0 {
		t.Errorf("a second EnsureTrunk changed %v", again.Changed)
	}
	fdb, err := h.FDB(Ref{Name: "br0"})
	must(t, err)
	for _, e := range fdb {
		if e.MAC.String() == a.mac.String() && e.Port == h.ports[0].Index && !e.Local {
			return
		}
	}
	t.Errorf("the forwarding table lacks %s: %v", a.mac, fdb)
}
