package bridge

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// sound is a trunk with an uplink (2) and an access port (7) as they should be.
func sound(tb testing.TB) (Want, Observed) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	w := Want{
		Trunk: TrunkSpec{Bridge: "br0", Managed: true, Uplink: "eth0", Allowed: set(tb, "100-110"), Native: 7, Management: set(tb, "10")},
		MAC:   mac, MTU: 1500, UplinkMTU: 1500,
		Ports: []WantPort{{Ref: Ref{7, "veth7"}, VLANs: VLANs{PVID: 100}, MTU: 1500}},
	}
	fwd := PortAttrs{State: PortForwarding, Flags: GuestFlags()}
	got := Observed{
		Exists: true, IsBridge: true, Bridge: Ref{1, "br0"}, BridgeAttrs: BridgeAttrs{VLANFiltering: true},
		MAC: mac, MTU: 1500, Up: true,
		Self: PortVLANs{Members: set(tb, "10")},
		Ports: map[int]ObservedPort{
			2: {Ref: Ref{2, "eth0"}, Master: 1, MTU: 1500, Up: true, VLANs: PortVLANs{PVID: 7, Members: set(tb, "7,10,100-110"), Untagged: set(tb, "7")}},
			7: {Ref: Ref{7, "veth7"}, Master: 1, MTU: 1500, Up: true, PortAttrs: fwd, VLANs: VLANs{PVID: 100}.kernel()},
		},
		Loose: map[int]ObservedPort{},
	}
	return w, got
}

// driftCase is a change to what is sound, and what Diff is to say of it.
type driftCase struct {
	change func(*Want, *Observed)
	want   []Kind
}

// port changes one observed port.
func port(o *Observed, i int, change func(*ObservedPort)) {
	p := o.Ports[i]
	change(&p)
	o.Ports[i] = p
}

// loosen takes a port out of the bridge.
func loosen(o *Observed, i int) {
	p := o.Ports[i]
	p.Master = 0
	o.Loose[i] = p
	delete(o.Ports, i)
}

func trunkDrifts(t *testing.T) map[string]driftCase {
	return map[string]driftCase{
		"sound":                  {func(*Want, *Observed) {}, nil},
		"bridge missing":         {func(_ *Want, o *Observed) { *o = Observed{} }, []Kind{BridgeMissing, UplinkMissing, PortMissing}},
		"bridge missing, others": {func(_ *Want, o *Observed) { o.Exists = false; loosen(o, 2); loosen(o, 7) }, []Kind{BridgeMissing, UplinkUnslaved, PortUnslaved}},
		"bridge replaced":        {func(_ *Want, o *Observed) { o.IsBridge = false }, []Kind{BridgeReplaced}},
		"filtering off":          {func(_ *Want, o *Observed) { o.VLANFiltering = false }, []Kind{VLANFilteringOff}},
		"default PVID":           {func(_ *Want, o *Observed) { o.DefaultPVID = 1 }, []Kind{BridgeSettings}},
		"default PVID, adopted":  {func(w *Want, o *Observed) { w.Trunk.Managed = false; o.DefaultPVID = 1 }, nil},
		"STP":                    {func(_ *Want, o *Observed) { o.STP = true }, []Kind{BridgeSettings}},
		"MAC":                    {func(_ *Want, o *Observed) { o.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 9} }, []Kind{BridgeMACChanged}},
		"MTU":                    {func(_ *Want, o *Observed) { o.MTU = 1499 }, []Kind{MTUShrunk}},
		"bigger MTU":             {func(_ *Want, o *Observed) { o.MTU = 9000 }, nil},
		"uplink's MTU":           {func(_ *Want, o *Observed) { port(o, 2, func(p *ObservedPort) { p.MTU = 1400 }) }, []Kind{UplinkMTUShrunk}},
		"uplink's and bridge's":  {func(_ *Want, o *Observed) { o.MTU = 1400; port(o, 2, func(p *ObservedPort) { p.MTU = 1400 }) }, []Kind{UplinkMTUShrunk}},
		"bridge under both":      {func(_ *Want, o *Observed) { o.MTU = 1300; port(o, 2, func(p *ObservedPort) { p.MTU = 1400 }) }, []Kind{MTUShrunk, UplinkMTUShrunk}},
		"a port has more":        {func(w *Want, o *Observed) { w.UplinkMTU = 9000 }, []Kind{UplinkMTUShrunk}},
		"uplink has more":        {func(_ *Want, o *Observed) { port(o, 2, func(p *ObservedPort) { p.MTU = 9000 }) }, nil},
		"self in guest VLAN":     {func(_ *Want, o *Observed) { o.Self.Members = set(t, "10,100") }, []Kind{BridgeVLANExtra}},
		"bridge down":            {func(_ *Want, o *Observed) { o.Up = false }, []Kind{BridgeDown}},
		"uplink gone":            {func(_ *Want, o *Observed) { delete(o.Ports, 2) }, []Kind{UplinkMissing}},
		"uplink unslaved":        {func(_ *Want, o *Observed) { loosen(o, 2) }, []Kind{UplinkUnslaved}},
		"uplink down":            {func(_ *Want, o *Observed) { port(o, 2, func(p *ObservedPort) { p.Up = false }) }, []Kind{UplinkDown}},
		"uplink VLAN missing":    {func(_ *Want, o *Observed) { port(o, 2, func(p *ObservedPort) { p.VLANs.Members.Remove(105) }) }, []Kind{UplinkVLANMissing}},
		"uplink VLAN untagged":   {func(_ *Want, o *Observed) { port(o, 2, func(p *ObservedPort) { p.VLANs.Untagged = set(t, "7,105") }) }, []Kind{UplinkVLANMissing}},
		"uplink VLAN extra":      {func(_ *Want, o *Observed) { port(o, 2, func(p *ObservedPort) { must(t, p.VLANs.Members.Add(200)) }) }, []Kind{UplinkVLANExtra}},
		"management removed":     {func(_ *Want, o *Observed) { port(o, 2, func(p *ObservedPort) { p.VLANs.Members.Remove(10) }) }, nil},
		"management PVID": {func(w *Want, o *Observed) {
			w.Trunk.Native = 0
			port(o, 2, func(p *ObservedPort) {
				p.VLANs = PortVLANs{PVID: 10, Members: set(t, "10,100-110"), Untagged: set(t, "10")}
			})
		}, nil},
		"extra on adopted": {func(w *Want, o *Observed) {
			w.Trunk.Managed = false
			port(o, 2, func(p *ObservedPort) { must(t, p.VLANs.Members.Add(200)) })
		}, nil},
	}
}

func portDrifts(t *testing.T) map[string]driftCase {
	return map[string]driftCase{
		"port gone":         {func(_ *Want, o *Observed) { delete(o.Ports, 7) }, []Kind{PortMissing}},
		"port's index used": {func(_ *Want, o *Observed) { port(o, 7, func(p *ObservedPort) { p.Name = "veth8" }) }, []Kind{PortMissing}},
		"port unslaved":     {func(_ *Want, o *Observed) { loosen(o, 7) }, []Kind{PortUnslaved}},
		"port down":         {func(_ *Want, o *Observed) { port(o, 7, func(p *ObservedPort) { p.Up = false }) }, []Kind{PortDown}},
		"port VLAN missing": {func(_ *Want, o *Observed) { port(o, 7, func(p *ObservedPort) { p.VLANs = PortVLANs{} }) }, []Kind{PortVLANMissing}},
		"port VLAN tagged":  {func(_ *Want, o *Observed) { port(o, 7, func(p *ObservedPort) { p.VLANs.Untagged = set(t, "") }) }, []Kind{PortVLANMissing}},
		"port VLAN extra":   {func(_ *Want, o *Observed) { port(o, 7, func(p *ObservedPort) { p.VLANs.Members = set(t, "100,200") }) }, []Kind{PortVLANExtra}},
		"management VLAN at a guest": {func(_ *Want, o *Observed) { port(o, 7, func(p *ObservedPort) { p.VLANs.Members = set(t, "10,100") }) },
			[]Kind{PortVLANExtra}},
		"PVID 1 added": {func(_ *Want, o *Observed) {
			port(o, 7, func(p *ObservedPort) {
				p.VLANs = PortVLANs{PVID: 1, Members: set(t, "1,100"), Untagged: set(t, "1,100")}
			})
		}, []Kind{PVIDAdded, PortVLANExtra, PortVLANMissing}},
		"PVID on a trunk": {func(w *Want, o *Observed) {
			w.Ports[0].VLANs = VLANs{Tagged: set(t, "100")}
		}, []Kind{PVIDAdded, PortVLANMissing}},
		"port flags": {func(_ *Want, o *Observed) { port(o, 7, func(p *ObservedPort) { p.Flags.Hairpin = true }) }, []Kind{PortFlagsChanged}},
		"port MTU":   {func(_ *Want, o *Observed) { port(o, 7, func(p *ObservedPort) { p.MTU = 1400 }) }, []Kind{PortMTUChanged}},
		"flat": {func(w *Want, o *Observed) {
			w.Trunk.Flat, o.VLANFiltering, o.DefaultPVID = true, false, 1
			w.Ports[0].VLANs.Flat = true
			port(o, 7, func(p *ObservedPort) { p.VLANs = PortVLANs{} })
		}, nil},
	}
}

func TestDiff(t *testing.T) {
	cases := trunkDrifts(t)
	maps.Copy(cases, portDrifts(t))
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			w, got := sound(t)
			tt.change(&w, &got)
			var kinds []Kind
			for _, d := range Diff(w, got) {
				kinds = append(kinds, d.Kind)
				if d.Subject.Name == "" || d.Want == "" || d.Got == "" || d.Want == d.Got {
					t.Errorf("drift without words: %+v", d)
				}
			}
			if d := cmp.Diff(tt.want, kinds); d != "" {
				t.Errorf("kinds (-want +got):\n%s", d)
			}
		})
	}
}

// harm is something that others do to a living trunk.
type harm struct {
	do   func(*testing.T, *node, *netlink.Handle)
	kind Kind
	// managed: an adopted bridge is not given this back
	managed bool
}

func harms() map[string]harm {
	return map[string]harm{
		"filtering off": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, setBridgeAttr(h, nl.IFLA_BR_VLAN_FILTERING, nl.Uint8Attr(0)))
		}, VLANFilteringOff, false},
		"bridge deleted": {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkDel(link(t, k, "br0"))) }, BridgeMissing, true},
		"bridge down":    {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkSetDown(link(t, k, "br0"))) }, BridgeDown, false},
		"MAC": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, k.LinkSetHardwareAddr(link(t, k, "br0"), net.HardwareAddr{2, 0, 0, 0, 0, 5}))
		}, BridgeMACChanged, false},
		"MTU": {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkSetMTU(link(t, k, "br0"), 1300)) }, MTUShrunk, false},
		"default PVID": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, setBridgeAttr(h, nl.IFLA_BR_VLAN_DEFAULT_PVID, nl.Uint16Attr(1)))
		}, PVIDAdded, true}, // it takes the place of the port's own
		"uplink unslaved": {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkSetNoMaster(link(t, k, "eth0"))) }, UplinkUnslaved, true},
		"uplink down":     {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkSetDown(link(t, k, "eth0"))) }, UplinkDown, false},
		"uplink VLAN": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, k.BridgeVlanDel(link(t, k, "eth0"), 100, false, false, false, true))
		}, UplinkVLANMissing, false},
		"port unslaved": {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkSetNoMaster(link(t, k, "veth0"))) }, PortUnslaved, false},
		"port down":     {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkSetDown(link(t, k, "veth0"))) }, PortDown, false},
		"port VLAN": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, k.BridgeVlanDel(link(t, k, "veth0"), 100, true, true, false, true))
		}, PortVLANMissing, false},
		"port VLAN extra": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, k.BridgeVlanAdd(link(t, k, "veth0"), 200, false, false, false, true))
		}, PortVLANExtra, false},
		"PVID 1": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, k.BridgeVlanAdd(link(t, k, "veth0"), 1, true, true, false, true))
		}, PVIDAdded, false},
		"hairpin": {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkSetHairpin(link(t, k, "veth0"), true)) }, PortFlagsChanged, false},
		"isolated": {func(t *testing.T, h *node, k *netlink.Handle) {
			must(t, k.LinkSetIsolated(link(t, k, "veth0"), true))
		}, PortFlagsChanged, false},
		"port MTU": {func(t *testing.T, h *node, k *netlink.Handle) { must(t, k.LinkSetMTU(link(t, k, "veth0"), 1300)) }, PortMTUChanged, false},
	}
}

// TestRepair breaks a living trunk in every way and asserts that the frames of
// VLAN 100, and only they, pass again.
func TestRepair(t *testing.T) {
	needFiltering(t)
	for name, tt := range harms() {
		for _, managed := range []bool{true, false} {
			if tt.managed && !managed {
				continue
			}
			t.Run(name+map[bool]string{true: ", managed", false: ", adopted"}[managed], func(t *testing.T) {
				t.Parallel()
				h := newNode(t, spec0(t))
				if h.spec.Managed = managed; !managed {
					adoptable(t, h)
				}
				st := h.ensure()
				a, c := h.attach(VLANs{PVID: 100}), h.attach(VLANs{PVID: 200})
				sw := plug(t, h.sw, "port0")
				want := h.want(st)
				if ds := h.drifts(want); len(ds) != 0 {
					t.Fatalf("drift before any harm: %v", ds)
				}
				tt.do(t, h, handle(t, h.space))
				repairs(t, h, want, tt.kind)
				h.forwarding(h.ports[0].Ref, h.ports[1].Ref, Ref{Name: "eth0"})
				for _, w := range []*wire{a, c, sw} {
					w.ready()
				}
				a.send(0, "from a")
				sw.sees("from a", 100)
				c.send(0, "from c")
				sw.sees("from c", 200)
				a.sawNot("from c")
				c.sawNot("from a")
			})
		}
	}
}

// setBridgeAttr changes one setting of br0, as ip(8) would.
func setBridgeAttr(h *node, attr int, value []byte) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index(h.tb, h.space, "br0"))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(unix.IFLA_INFO_DATA, nil).AddRtAttr(attr, value)
	return h.do(unix.RTM_NEWLINK, 0, msg, info)
}

// repairs mends everything that Diff says, and expects that kind among it.
func repairs(t *testing.T, h *node, want Want, kind Kind) {
	t.Helper()
	ds := h.drifts(want)
	if !slices.ContainsFunc(ds, func(d Drift) bool { return d.Kind == kind }) {
		t.Errorf("drift is %v: want %s in it", ds, kind)
	}
	for _, d := range ds {
		if err := h.Repair(want, d); err != nil {
			t.Errorf("repair %s: %v", d, err)
		}
	}
	if ds := h.drifts(want); len(ds) != 0 {
		t.Errorf("drift after the repair: %v", ds)
	}
}

func TestRepairRefuses(t *testing.T) {
	h := newNode(t, spec0(t))
	w := Want{Trunk: h.spec, Ports: []WantPort{{Ref: Ref{Index: 99, Name: "veth99"}}}}
	for _, d := range []Drift{
		{Kind: PortMissing, Subject: w.Ports[0].Ref}, {Kind: UplinkMissing}, {Kind: PortDown, Subject: Ref{Name: "other"}},
		{Kind: PortUnslaved, Subject: w.Ports[0].Ref},
	} {
		if err := h.Repair(w, d); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", d.Kind, err)
		}
	}
	k := handle(t, h.space)
	must(t, k.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}))
	w.Trunk.Managed = false
	if err := h.Repair(w, Drift{Kind: UplinkUnslaved}); !errors.Is(err, ErrRefused) {
		t.Errorf("the uplink of an adopted bridge: %v, want a refusal", err)
	}
}

func TestWatch(t *testing.T) {
	host, pod := newSpace(t), newSpace(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := host.Watch(ctx)
	must(t, err)
	hears := func(what string, index int) {
		t.Helper()
		for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); {
			if e := nextEvent(t, events); e.Resync || slices.Contains(e.Indexes, index) {
				return
			}
		}
		t.Fatalf("%s was not announced", what)
	}
	v := pair(t, host, "veth0", pod, "net1")
	hears("a new veth", v.Host.Index)
	spec := TrunkSpec{Bridge: "br0", Managed: true, Flat: true}
	st, err := host.EnsureTrunk(spec)
	must(t, err)
	hears("a new bridge", st.Bridge.Index)
	must(t, host.Join(v.Host, st.Bridge))
	hears("a new port", v.Host.Index)

	k := handle(t, host)
	for { // the port's own events end before the qdisc's begin
		must(t, k.LinkSetAlias(link(t, k, "lo"), "fence"))
		if e := nextEvent(t, events); slices.Contains(e.Indexes, 1) {
			break
		}
	}
	clsact := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: v.Host.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := k.QdiscAdd(clsact); errors.Is(err, unix.ENOENT) {
		t.Log("kernel lacks clsact (sch_ingress): its deletion is not checked")
	} else {
		must(t, err)
		hears("a new clsact", v.Host.Index)
		must(t, k.QdiscDel(clsact))
		hears("a deleted clsact", v.Host.Index)
	}
	must(t, host.DeleteVeth(v.Host))
	hears("a deleted veth", v.Host.Index)
	cancel()
	for range events { // ends
	}
}

// TestWatchOverrun loses announcements for real: nobody reads while they come.
func TestWatchOverrun(t *testing.T) {
	host := newSpace(t)
	s, err := host.listen(unix.RTNLGRP_LINK)
	must(t, err)
	defer s.Close()
	must(t, s.SetReceiveBufferSize(1, false)) // the kernel takes its least
	k := handle(t, host)
	lo := link(t, k, "lo")
	for i := range 100 {
		must(t, k.LinkSetAlias(lo, string(rune('a'+i%26))))
	}
	w := &watcher{changed: map[int]bool{}, wake: make(chan struct{}, 1)}
	go w.read(s)
	eventually(t, "the loss is noticed", func() string {
		if e, _ := w.take(); !e.Resync {
			return "no resync"
		}
		return ""
	})
}

// TestWatcherJoins: what nobody has taken is one event, lost ones included.
func TestWatcherJoins(t *testing.T) {
	w := &watcher{changed: map[int]bool{}, wake: make(chan struct{}, 1)}
	if _, some := w.take(); some {
		t.Error("an event before anything happened")
	}
	w.note([]int{5, 3}, false)
	w.note(nil, true)
	w.note([]int{3, 4}, false)
	e, some := w.take()
	if d := cmp.Diff(Event{Resync: true, Indexes: []int{3, 4, 5}}, e); d != "" || !some {
		t.Errorf("event (-want +got):\n%s", d)
	}
	if _, some := w.take(); some {
		t.Error("the same event twice")
	}
}
