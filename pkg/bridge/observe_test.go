package bridge

import (
	"fmt"
	"maps"
	"testing"

	"github.com/vishvananda/netlink/nl"
)

// TestObserveAsksOnce: ports that the bridge's own list has are not asked for
// again one by one; what is elsewhere, or gone, is told as before.
func TestObserveAsksOnce(t *testing.T) {
	h := newNode(t, spec0(t))
	h.spec.Flat = !kernelFilters(t)
	st := h.ensure()
	pod := newSpace(t)
	also := []Ref{{Name: "eth0"}, {Index: st.Uplink.Index}, {Index: 9999, Name: "gone"}}
	want := map[int]ObservedPort{}
	for i := range 10 {
		v := pair(t, h.space, fmt.Sprintf("veth%d", i), pod, fmt.Sprintf("net%d", i))
		also = append(also, v.Host)
		if i == 0 {
			want[v.Host.Index] = ObservedPort{Ref: v.Host, MTU: 1500, Paired: true}
			continue
		}
		must(t, h.Join(v.Host, st.Bridge))
		if !h.spec.Flat {
			must(t, h.SetVLANs(v.Host, VLANs{PVID: 100}))
		}
		if i == 1 { // the index is right, and now another's
			also = append(also, Ref{Index: v.Host.Index, Name: "old1"})
		}
	}
	before := nl.NewNetlinkRequest(0, 0).Seq
	o, err := h.Observe("br0", also...)
	must(t, err)
	// The bridge, its ports, their VLANs, and what is in also but no port; and, as there is one, the bridge again.
	const most = 3 + 3 + 1 + 1 // one more for a kernel that reads VLANs in the old way
	if asked := nl.NewNetlinkRequest(0, 0).Seq - before - 1; asked > most {
		t.Errorf("%d requests for %d interfaces, want at most %d", asked, len(also), most)
	}
	if !maps.Equal(want, o.Loose) {
		t.Errorf("loose are %+v, want %+v", o.Loose, want)
	}
	if len(o.Ports) != 10 {
		t.Errorf("%d ports, want 10", len(o.Ports))
	}
}

// TestObserveWhilePortsLeave: a port that leaves its bridge between two of the
// reads is no port of it, and never one whose VLANs somebody has taken.
func TestObserveWhilePortsLeave(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	st := h.ensure()
	v := pair(t, h.space, "veth0", newSpace(t), "net0")
	other, err := OpenAt(h.path) // as another program has it
	must(t, err)
	t.Cleanup(func() { must(t, other.Close()) })
	for range 100 {
		must(t, h.Join(v.Host, st.Bridge))
		must(t, h.SetVLANs(v.Host, VLANs{PVID: 100}))
		left := make(chan error)
		go func() { left <- other.Leave(v.Host) }()
		for port := true; port; {
			o, err := h.Observe("br0", v.Host)
			must(t, err)
			var p ObservedPort
			if p, port = o.Ports[v.Host.Index]; port && p.VLANs.Members.Empty() {
				t.Fatalf("a port that has left is told as %+v", p)
			}
		}
		must(t, <-left)
	}
}
