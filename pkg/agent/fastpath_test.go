package agent

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/hostfw"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// What keeps a port from the fast path is told, each by itself.
func TestWhyNotFast(t *testing.T) {
	good := func() (fastView, attach.Record) {
		rec := port(1, 1, access(100))
		p := bridge.ObservedPort{Ref: bridge.Ref{Index: rec.HostIfIndex, Name: rec.HostIfName}, Up: true, Running: true, Paired: true, MTU: 1500,
			PortAttrs: bridge.PortAttrs{State: bridge.PortForwarding, Flags: bridge.GuestFlags()},
			VLANs:     bridge.PortVLANs{PVID: 100, Members: rec.VLANs.All(), Untagged: rec.VLANs.All()}}
		return fastView{bridge: bridge.Observed{BridgeAttrs: bridge.BridgeAttrs{VLANFiltering: true},
			Ports: map[int]bridge.ObservedPort{rec.HostIfIndex: p}}}, *rec
	}
	at := func(v *fastView, rec *attach.Record, change func(p *bridge.ObservedPort)) {
		p := v.bridge.Ports[rec.HostIfIndex]
		change(&p)
		v.bridge.Ports[rec.HostIfIndex] = p
	}
	for _, c := range []struct {
		why    string // part of what is said
		change func(v *fastView, rec *attach.Record)
	}{
		{"", func(*fastView, *attach.Record) {}},
		{"", func(v *fastView, rec *attach.Record) { v.captures.at = map[int]bool{rec.HostIfIndex + 1: true} }},
		{"", func(v *fastView, rec *attach.Record) { v.theirs = map[int]string{rec.HostIfIndex + 1: "a tc filter"} }},
		{"", func(v *fastView, _ *attach.Record) {
			v.hooked.Devices = []hostfw.BaseChain{{Name: "c", Devices: []string{"eth9", "eth*"}}}
		}},
		{"the port is Quarantined", func(_ *fastView, rec *attach.Record) { rec.Hold = &attach.Hold{State: attach.Quarantined} }},
		{"the port is Released", func(_ *fastView, rec *attach.Record) { rec.Hold = &attach.Hold{State: attach.Released} }},
		{"guests that tag", func(_ *fastView, rec *attach.Record) { rec.VLANs.Mode = vlan.Native }},
		{"guests that tag", func(_ *fastView, rec *attach.Record) { rec.VLANs.Mode = vlan.Trunk }},
		{"does not forward", func(v *fastView, _ *attach.Record) { clear(v.bridge.Ports) }},
		{"does not forward", func(v *fastView, rec *attach.Record) { at(v, rec, func(p *bridge.ObservedPort) { p.Up = false }) }},
		{"does not forward", func(v *fastView, rec *attach.Record) { at(v, rec, func(p *bridge.ObservedPort) { p.Running = false }) }},
		{"does not forward", func(v *fastView, rec *attach.Record) {
			at(v, rec, func(p *bridge.ObservedPort) { p.State = bridge.PortBlocking })
		}},
		{"does not forward", func(v *fastView, rec *attach.Record) {
			at(v, rec, func(p *bridge.ObservedPort) { p.VLANs.Blocked = set(t, "100") })
		}},
		{"", func(v *fastView, rec *attach.Record) {
			at(v, rec, func(p *bridge.ObservedPort) { p.VLANs.Blocked = set(t, "101") })
		}},
		{"its flags", func(v *fastView, rec *attach.Record) {
			at(v, rec, func(p *bridge.ObservedPort) { p.Flags.Isolated = true })
		}},
		{"its flags", func(v *fastView, rec *attach.Record) {
			at(v, rec, func(p *bridge.ObservedPort) { p.Flags.BcastFlood = false })
		}},
		{"no veth", func(v *fastView, rec *attach.Record) { at(v, rec, func(p *bridge.ObservedPort) { p.Paired = false }) }},
		{"captures at all", func(v *fastView, _ *attach.Record) { v.captures.at = map[int]bool{0: true} }},
		{"captures at it", func(v *fastView, rec *attach.Record) { v.captures.at = map[int]bool{rec.HostIfIndex: true} }},
		{"a tcx program", func(v *fastView, rec *attach.Record) { v.theirs = map[int]string{rec.HostIfIndex: "a tcx program"} }},
		{" c sees its frames", func(v *fastView, rec *attach.Record) {
			v.hooked.Devices = []hostfw.BaseChain{{Name: "c", Devices: []string{rec.HostIfName}}}
		}},
		{" c sees its frames", func(v *fastView, _ *attach.Record) {
			v.hooked.Devices = []hostfw.BaseChain{{Name: "c", Devices: []string{"veth*"}}}
		}},
		{"its VLANs", func(v *fastView, rec *attach.Record) { at(v, rec, func(p *bridge.ObservedPort) { p.VLANs.PVID = 101 }) }},
		{"its VLANs", func(v *fastView, rec *attach.Record) {
			at(v, rec, func(p *bridge.ObservedPort) { p.VLANs.Members = vlan.Set{} })
		}},
		{"its VLANs", func(v *fastView, rec *attach.Record) {
			at(v, rec, func(p *bridge.ObservedPort) { p.VLANs.Untagged = vlan.Set{} })
		}},
	} {
		v, rec := good()
		c.change(&v, &rec)
		if got := v.whyNot(&rec); c.why == "" && got != "" || !strings.Contains(got, c.why) {
			t.Errorf("%q is said, want %q", got, c.why)
		}
	}
}

// Stations of the node that have no port in the fast path are told to the programs: in the VLANs of
// those that have one.
func TestFastPathOthers(t *testing.T) {
	mac := func(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n} }
	fast, trunk, other := port(1, 1, access(100)), port(2, 2, attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, "100,200")}), port(3, 3, access(200))
	left := port(5, 9, access(100))
	left.Hold = &attach.Hold{State: attach.Released}
	v := fastView{upIndex: 9, bridge: bridge.Observed{Bridge: bridge.Ref{Index: 7}}, known: []bridge.FDBEntry{
		{Port: 1, MAC: mac(1), VLAN: 100}, {Port: 4, MAC: mac(4), VLAN: 100}, {Port: 4, MAC: mac(5), VLAN: 200},
		{Port: 9, MAC: mac(6), VLAN: 100}, {Port: 9, MAC: mac(7), VLAN: 100, Local: true}, {Port: 7, MAC: mac(8), Local: true},
	}}
	got := map[datapath.FastMAC]bool{}
	for _, m := range v.others([]attach.Record{*fast, *trunk, *other, *left}, map[int]datapath.FastPort{1: {Bridge: 7}}) {
		got[m] = true
	}
	want := map[datapath.FastMAC]bool{}
	for _, n := range []byte{1, 2, 4, 7, 8} {
		want[datapath.FastMAC{Bridge: 7, VLAN: 100, MAC: [6]byte(mac(n))}] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// The way to the uplink is what the bridge's VLANs there say.
func TestFastPathUplink(t *testing.T) {
	rec := port(1, 1, access(100))
	view := func(mtu int, filtering bool, members, untagged string) *fastView {
		up := bridge.ObservedPort{Ref: bridge.Ref{Index: 9}, MTU: mtu, VLANs: bridge.PortVLANs{PVID: 1, Members: set(t, members), Untagged: set(t, untagged)}}
		return &fastView{uplink: &up, bridge: bridge.Observed{Bridge: bridge.Ref{Index: 7}, BridgeAttrs: bridge.BridgeAttrs{VLANFiltering: filtering},
			Ports: map[int]bridge.ObservedPort{rec.HostIfIndex: {MTU: 1500}}}}
	}
	none := view(1500, true, "100", "")
	none.uplink = nil
	native := view(1500, true, "1,100", "100")
	native.uplink.VLANs.PVID = 100
	taken, otherTaken := view(1500, true, "100-101", ""), view(1500, true, "100-101", "")
	taken.upVLANs, otherTaken.upVLANs = map[vlan.ID]string{100: "eth1.100"}, map[vlan.ID]string{101: "eth1.101"}
	blocked := view(1500, true, "100-101", "")
	blocked.uplink.VLANs.Blocked = set(t, "100")
	blockedOther := view(1500, true, "100-101", "")
	blockedOther.uplink.VLANs.Blocked = set(t, "101")
	for name, c := range map[string]struct {
		v      *fastView
		uplink int
		tag    vlan.ID
		why    string
	}{
		"tagged":            {view(1500, true, "1,100", "1"), 9, 100, ""},
		"taken before":      {taken, 9, 100, "eth1.100 takes its frames of VLAN 100 before the bridge"},
		"another taken":     {otherTaken, 9, 100, ""},
		"larger":            {view(9000, true, "1,100", "1"), 9, 100, ""},
		"native":            {native, 9, 0, ""},
		"one way":           {view(1500, true, "1,100", "100"), 9, 0, "takes such for VLAN 1"},
		"not there":         {view(1500, true, "1,200", "1"), 0, 0, ""},
		"no VLANs":          {view(1500, false, "", ""), 9, 0, ""},
		"blocked":           {blocked, 0, 0, ""},
		"another blocked":   {blockedOther, 9, 100, ""},
		"smaller":           {view(1400, true, "100", ""), 0, 0, ""},
		"no uplink":         {none, 0, 0, ""},
		"untagged, no more": {view(1500, true, "1", "100"), 0, 0, ""},
	} {
		for _, theirs := range []string{"", "others have a tc filter at ingress of it"} {
			c.v.upWhy = theirs
			why := c.why
			if c.uplink != 0 && theirs != "" {
				why = theirs
			}
			want := datapath.FastPort{Bridge: 7, MTU: 1500, Uplink: c.uplink, Tag: c.tag, Inbound: c.uplink != 0 && why == ""}
			if got, said := c.v.portOf(rec); got != want || !strings.HasSuffix(said, why) || (said == "") != (why == "") {
				t.Errorf("%s: %+v, want %+v; said %q, want %q", name, got, want, said, why)
			}
		}
	}
}

// fastLive is an agent with a bridge, and an open port of each of two VMs whose end is in another
// network namespace.
func fastLive(t *testing.T) live {
	l := newLive(t)
	l.trunksAreUp()
	made := make(chan *os.File)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		made <- ns
		// Its interfaces are up as long as this one stays in it.
		for _, name := range []string{"v1p", "v2p"} {
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if link, err := netlink.LinkByName(name); err == nil && netlink.LinkSetUp(link) == nil {
					break
				}
			}
		}
	}()
	pods := <-made
	t.Cleanup(func() { _ = pods.Close() })
	for i, name := range []string{"v1", "v2"} {
		rec := l.open(name, byte(i+1))
		l.must(l.kernel.net.SetPortFlags(ref(rec.HostEnd()), bridge.GuestFlags()))
		l.moveEnd(name+"p", pods)
	}
	l.hearsBoth()
	l.hostfw.conds = map[string]wire.Condition{"open": {Status: "False"}}
	return l
}

// moveEnd has a veth's other end go to another namespace.
func (l live) moveEnd(name string, ns *os.File) {
	l.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		l.Fatal(err)
	}
	if err := netlink.LinkSetNsFd(link, int(ns.Fd())); err != nil {
		l.Fatal(err)
	}
}

// says is what is told of both ports.
func (l live) says(want string) {
	l.Helper()
	n := 0
	for _, it := range l.table.list() {
		n++
		f := l.fast.of(it.rec.HostIfIndex)
		if f == nil || f.On != (want == "") || !strings.Contains(f.Why, want) {
			l.Errorf("of %s is said %+v, want %q", it.rec.HostIfName, f, want)
		}
	}
	if n != 2 {
		l.Errorf("%d ports", n)
	}
	if on := l.fast.count(); (on == 2) != (want == "") {
		l.Errorf("%d ports are counted, where is said %q", on, want)
	}
}

// What a bridge or a node is like keeps all its ports from the fast path, as long as it is so.
func TestFastPathOfTrunk(t *testing.T) {
	l := fastLive(t)
	look := func(want string) {
		t.Helper()
		l.lookAtFastPath(captures{})
		l.says(want)
	}
	look("")
	trunk := l.world.snap.Trunks["open"]
	set := func(change func(*desired.Trunk)) {
		now := trunk
		change(&now)
		l.world.snap.Trunks["open"] = now
	}
	set(func(t *desired.Trunk) { t.NoFastPath = true })
	look("spec.fastPath of VLANTrunk open is Off")
	set(func(t *desired.Trunk) { t.Bridge = "br9" })
	look("no VLANTrunk for its bridge")
	set(func(*desired.Trunk) {})
	look("")
	for status, want := range map[string]string{"True": "HostFiltered of trunk open is True, HostFirewall", "Unknown": "is Unknown"} {
		l.hostfw.conds = map[string]wire.Condition{"open": {Status: status, Reason: "HostFirewall"}}
		look(want)
	}
	l.hostfw.conds = map[string]wire.Condition{}
	look("it is not known yet")
	l.hostfw.conds = nil
	l.world.snap.Trunks["open"] = desired.Trunk{}
	look("it is not known yet") // nobody knows better
	set(func(*desired.Trunk) {})
	l.hostfw.conds = map[string]wire.Condition{"open": {Status: "False"}}
	look("")
	l.hostfw.host.Chains = func(family uint8) ([]hostfw.BaseChain, error) {
		if family == unix.NFPROTO_BRIDGE {
			return []hostfw.BaseChain{{Family: family, Table: "t", Name: "c", Hook: 2}}, nil
		}
		return nil, nil
	}
	look("nftables' chain bridge t c")
	l.hostfw.host.Chains = func(uint8) ([]hostfw.BaseChain, error) { return nil, errors.New("busy") }
	look("busy")
	l.hostfw.host.Chains = func(uint8) ([]hostfw.BaseChain, error) { return nil, nil }
	l.lookAtFastPath(captures{unknown: "no /proc"})
	l.says("no /proc")
	br, err := netlink.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	ip(t, "link", "set", "br0", "type", "bridge", "forward_delay", "200", "stp_state", "1")
	look("br0 takes part in the spanning tree protocol")
	ip(t, "link", "set", "br0", "type", "bridge", "stp_state", "0")
	ip(t, "link", "set", "br0", "type", "bridge", "ageing_time", "3000")
	look("br0 forgets a MAC after 30s, want at least 1m0s")
	ip(t, "link", "set", "br0", "type", "bridge", "ageing_time", "30000")
	if exec.Command("ip", "link", "set", "br0", "type", "bridge", "fdb_max_learned", "7").Run() == nil { // Linux 6.7, iproute2 6.7
		look("br0 learns no more than 7 MACs")
		ip(t, "link", "set", "br0", "type", "bridge", "fdb_max_learned", "0")
	}
	l.hearsBoth()
	look("")
	for _, it := range l.table.list() {
		ip(t, "link", "set", it.rec.HostIfName, "type", "bridge_slave", "isolated", "on")
	}
	look("its flags at the bridge")
	for _, it := range l.table.list() {
		ip(t, "link", "set", it.rec.HostIfName, "type", "bridge_slave", "isolated", "off")
	}
	look("")
	// One is heard at the other's port: it is lost until it is heard at its own.
	l.lookAtFastPath(captures{})
	rec := l.byName("v2")
	l.must(l.kernel.dp.LoseFast(rec.HostIfIndex, datapath.FastPort{Bridge: br.Attrs().Index, MTU: 1500}))
	l.hears("v1", rec.MAC.String())
	l.lookAtFastPath(captures{})
	for port, on := range map[string]bool{"v1": true, "v2": false} {
		if f := l.fast.of(l.byName(port).HostIfIndex); !f.On || on != (f.Why == "") || !on && !strings.Contains(f.Why, "until that hears its MAC here") {
			t.Errorf("of %s is said %+v", port, f)
		}
	}
	l.hears("v2", rec.MAC.String())
	look("")

	// It is heard elsewhere in the very moment in which it is found.
	l.must(l.kernel.dp.LoseFast(rec.HostIfIndex, datapath.FastPort{Bridge: br.Attrs().Index, MTU: 1500}))
	asked := 0
	l.fast.fdb = func(of bridge.Ref) ([]bridge.FDBEntry, error) {
		if asked++; asked == 2 {
			l.hears("v1", rec.MAC.String())
		}
		return l.kernel.net.FDB(of)
	}
	for range 2 { // the second time, the bridge says so at once
		l.lookAtFastPath(captures{})
		if f := l.fast.of(rec.HostIfIndex); f.Why == "" {
			t.Errorf("of it is said %+v", f)
		}
	}
	if asked != 3 {
		t.Errorf("the bridge was asked %d times", asked)
	}
	l.fast.fdb = l.kernel.net.FDB
	l.hears("v2", rec.MAC.String())
	look("")
	l.holdFastPath(func() {
		if p, err := l.kernel.dp.SetFastPath(nil); err != nil || len(p) > 0 {
			t.Error(p, err)
		}
	})
	look("")
	moves := l.follows()
	for m, want := range map[*desired.Move]string{{Migrating: true, UnderWay: true}: "its VM is migrating", {Migrating: true}: "", {Migrating: true, Failed: true}: ""} {
		for _, it := range l.table.list() {
			moves.moves[it.rec.Pod.Name] = *m
		}
		look(want)
	}
	l.lookAtFastPath(captures{at: map[int]bool{br.Attrs().Index: true}})
	l.says("somebody captures at br0")
	l.world.snap = nil
	l.lookAtFastPath(captures{})
	l.says("somebody captures at br0") // nobody knows better
}

func ip(t *testing.T, args ...string) { command(t, "ip", args...) }

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// hears has the bridge hear a MAC at a port.
func (l live) hears(port, mac string) {
	l.Helper()
	command(l.T, "bridge", "fdb", "replace", mac, "dev", port, "master", "dynamic")
}

// hearsBoth waits until all ports forward, and has the bridge hear their VMs.
func (l live) hearsBoth() {
	l.Helper()
	for _, it := range l.table.list() {
		end := time.Now().Add(10 * time.Second)
		for {
			got, err := l.kernel.net.LinkInfo(bridge.Ref{Index: it.rec.HostIfIndex})
			if err == nil && got.Running && got.Port != nil && got.Port.State == bridge.PortForwarding {
				break
			}
			if time.Now().After(end) {
				l.Fatalf("port %s does not forward: %+v, %v", it.rec.HostIfName, got, err)
			}
		}
		l.hears(it.rec.HostIfName, it.rec.MAC.String())
	}
}

// While the native VLAN of a trunk's uplink changes, nothing goes past the bridge: tags change their meaning. That
// it does is seen at the bridge, also by an agent that has just begun, or has failed to change it before.
func TestFastPathHeld(t *testing.T) {
	l := fastLive(t)
	ip(t, "link", "add", "up0", "type", "veth", "peer", "up0p")
	ip(t, "link", "set", "up0", "master", "br0")
	trunk := l.world.snap.Trunks["open"]
	trunk.Uplink, trunk.Managed = "up0", true
	is := func() (native vlan.ID) {
		got, err := l.kernel.net.Observe("br0")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range got.Ports {
			if p.Name == "up0" {
				return p.VLANs.PVID
			}
		}
		t.Fatal("the uplink is at no bridge")
		return 0
	}
	both := map[bool]bool{}
	for _, c := range []struct {
		native       vlan.ID
		adopted      bool
		known, tried bool
	}{
		{native: is()}, {native: is(), known: true}, {native: is(), known: true, tried: true}, // a kernel without VLANs gives none to any
		{native: 5}, {native: 6, known: true}, {native: 7, known: true, tried: true},
		{adopted: true}, {native: 5, adopted: true},
	} {
		want := c.adopted || c.native != is()
		both[want] = true
		now := trunk
		now.NativeVLAN, now.MTU, now.Managed = c.native, 1300, !c.adopted
		l.world.health = nil
		if c.known {
			was := trunkHealth{spec: new(kernel).trunkSpec(trunk), mtu: 1400} // not what it is to be: its ports' VLANs are not in it
			if c.tried {
				was.spec, was.problem = new(kernel).trunkSpec(now), "it could not be set up"
			}
			l.setHealth("open", was)
		}
		select {
		case <-l.fast.kick:
		default:
		}
		l.lookAtTrunk(now) // which cannot be had whole here
		held := false
		select {
		case <-l.fast.kick:
			held = true
		default:
		}
		if held != want {
			t.Errorf("%+v: held: %v, want %v; the uplink has native VLAN %d now", c, held, want, is())
		}
	}
	if len(both) != 2 {
		t.Errorf("held or not: only %v was tried", both)
	}
}

// Who begins to capture is noticed by itself, and who ends.
func TestFastPathCaptures(t *testing.T) {
	l := fastLive(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.keepFastPath(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	eventually := func(want string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			ok := true
			for _, it := range l.table.list() {
				f := l.fast.of(it.rec.HostIfIndex)
				ok = ok && f != nil && f.On == (want == "") && strings.Contains(f.Why, want)
			}
			if ok {
				return
			}
			if time.Now().After(end) {
				l.says(want)
				return
			}
		}
	}
	eventually("")
	for _, protocol := range []uint16{unix.ETH_P_ALL, unix.ETH_P_IP, unix.ETH_P_IPV6} {
		fd := capture(t, protocol)
		eventually("somebody captures at all interfaces")
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
		eventually("")
	}
	lldp := capture(t, unix.ETH_P_LLDP)
	defer unix.Close(lldp)
	ask(l.fast.kick)
	time.Sleep(2 * capturesEvery)
	l.says("")
}

// capture opens a packet socket for all interfaces.
func capture(t *testing.T, protocol uint16) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol>>8|protocol<<8))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
