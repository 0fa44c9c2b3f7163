package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// modes runs a test with each kind of hook that the kernel has.
func modes(t *testing.T, test func(t *testing.T, m AttachMode)) {
	needRoot(t)
	p, err := passProgram()
	if err != nil {
		t.Fatal(err)
	}
	tcx := probeTCX(p).Answer
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("clsact", func(t *testing.T) { test(t, AttachClsact) })
	if tcx == Yes {
		// Where it is missing, TestFeatures knows.
		t.Run("tcx", func(t *testing.T) { test(t, AttachTCX) })
	}
}

// wire is a packet socket at one end of a veth pair.
type wire struct {
	testing.TB
	fd int
}

func newWire(tb testing.TB, i attach.Interface) *wire {
	tb.Helper()
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
		tb.Fatal(err)
	}
	return &wire{tb, fd}
}

// count is how many frames with the text come in: it waits for as many as there should be, and then for more in a moment.
func (w *wire) count(text string, want int) (n int) {
	w.Helper()
	for n < want && w.got(text, 5*time.Second) {
		n++
	}
	for w.got(text, noTime) {
		n++
	}
	return n
}

// tags has caught see tags, which the kernel takes out of frames.
func (w *wire) tags() {
	w.Helper()
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		w.Fatal(err)
	}
}

// caught waits for a frame with the text, and gives its kind (PACKET_HOST, ...) and tag.
func (w *wire) caught(text string) (kind uint8, tci uint16, tagged, ok bool) {
	w.Helper()
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		n, m, _, from, err := unix.Recvmsg(w.fd, buf, oob, 0)
		if err != nil || !strings.Contains(string(buf[:n]), text) {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil {
			w.Fatal(err)
		}
		for _, m := range messages { // struct tpacket_auxdata: status, lengths and offsets, tag
			if len(m.Data) >= 18 && binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
				tci, tagged = binary.NativeEndian.Uint16(m.Data[16:]), true
			}
		}
		return from.(*unix.SockaddrLinklayer).Pkttype, tci, tagged, true
	}
	return 0, 0, false, false
}

func (w *wire) send(frame []byte) {
	w.Helper()
	if _, err := unix.Write(w.fd, frame); err != nil {
		w.Fatalf("send: %v", err)
	}
}

// got says whether a frame with the text has come in; it waits till the deadline.
func (w *wire) got(text string, deadline time.Duration) bool {
	w.Helper()
	buf := make([]byte, 2048)
	for end := time.Now().Add(deadline); ; {
		n, err := unix.Read(w.fd, buf)
		if err == nil && strings.Contains(string(buf[:n]), text) {
			return true
		}
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		if errors.Is(err, unix.EAGAIN) {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		}
	}
}

// text is a datagram that can be told from others.
func text(p pkt, s string) []byte {
	p.l4 = append(p.l4[:8:8], s...)
	p.l4[5] = byte(len(p.l4))
	return p.bytes()
}

// lan is two VMs on a bridge.
type lan struct {
	*Datapath
	host, vm [2]attach.Interface
	wires    [2]*wire
}

func newLAN(t *testing.T, cfg Config) *lan {
	t.Helper()
	newNetns(t)
	l := &lan{Datapath: newDatapath(t, cfg)}
	for i := range l.host {
		l.host[i], l.vm[i] = newVeth(t, fmt.Sprintf("h%d", i), fmt.Sprintf("v%d", i))
		l.wires[i] = newWire(t, l.vm[i])
	}
	newBridge(t, "br", l.host[:]...)
	if err := l.FillPool(4); err != nil {
		t.Fatal(err)
	}
	return l
}

// attach makes both host ends ports of net-b.
func (l *lan) attach(t *testing.T, s attach.State) {
	t.Helper()
	for i, h := range l.host {
		if err := l.AttachPort(h, lanPort(i)); err != nil {
			t.Fatal(err)
		}
		if p, err := l.Port(h.Index); err != nil || p.State != attach.Dark {
			t.Fatalf("a port just attached is %+v: %v", p, err)
		}
		if err := l.SetState(h.Index, s); err != nil {
			t.Fatal(err)
		}
	}
}

func lanPort(i int) attach.PortConfig {
	c := accessPort()
	c.Policy = "net-b"
	if i == 1 {
		c.MAC = peerMAC
	}
	return c
}

func loadSets(t *testing.T, d *Datapath) {
	t.Helper()
	(&bench{TB: t, Datapath: d}).sync(testSets(t)...)
}

func TestLAN(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		l := newLAN(t, Config{Attach: m})
		loadSets(t, l.Datapath)
		ping, pong := udp(vm4, peer4, 5, 7), udp(peer4, vm4, 7, 5)
		l.wires[0].send(text(ping, "before"))
		if !l.wires[1].got("before", 5*time.Second) {
			t.Fatal("the bridge does not work by itself")
		}
		l.attach(t, attach.Dark)
		l.wires[0].send(text(ping, "dark out"))
		l.wires[1].send(text(pong, "dark in"))
		if l.wires[1].got("dark", 100*time.Millisecond) || l.wires[0].got("dark in", 100*time.Millisecond) {
			t.Fatal("a dark port passes frames")
		}
		for _, h := range l.host {
			if err := l.SetState(h.Index, attach.Active); err != nil {
				t.Fatal(err)
			}
		}
		l.wires[0].send(text(ping, "active out"))
		if !l.wires[1].got("active out", 5*time.Second) {
			t.Fatal("an active port does not pass what is allowed")
		}
		l.wires[1].send(text(pong, "active in"))
		if !l.wires[0].got("active in", 5*time.Second) {
			t.Fatal("nor its answer")
		}
		// Tags that the kernel moves to metadata before the hook.
		l.wires[0].send(ping.tagged(tag{ctag, 0}).bytes())
		l.wires[0].send(ping.tagged(tag{ctag, 100}, tag{ctag, 20}).bytes())
		l.wires[0].send(ping.tagged(tag{stag, 100}).bytes())
		l.wires[0].send(ping.with(func(p *pkt) { p.src = peerMAC }).bytes())
		c := l.counters(t, 0, FromVM)
		want := map[policy.Reason]uint64{policy.ReasonPortDark: 1, policy.ReasonDefaultAllow: 1,
			policy.ReasonGuestTag: 3, policy.ReasonMACSpoof: 1}
		if diff := cmp.Diff(want, c); diff != "" {
			t.Errorf("counters of what VM 0 sent (-want +got):\n%s", diff)
		}
		if n := l.counters(t, 0, ToVM)[policy.ReasonEstablished]; n != 1 {
			t.Errorf("%d answers to VM 0, want 1", n)
		}
	})
}

// counters of one VM in one direction; packets only.
func (l *lan) counters(t *testing.T, i int, h Hook) map[policy.Reason]uint64 {
	t.Helper()
	c, err := l.PortCounters(l.host[i].Index)
	if err != nil {
		t.Fatal(err)
	}
	out := map[policy.Reason]uint64{}
	for r, n := range c {
		if n[h].Packets > 0 {
			out[r] = n[h].Packets
		}
	}
	return out
}

func TestRestart(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		cfg := Config{Attach: m, BPFFS: newBPFFS(t)}
		l := newLAN(t, cfg)
		loadSets(t, l.Datapath)
		l.attach(t, attach.Active)
		ping, pong := udp(vm4, peer4, 5, 7), udp(peer4, vm4, 7, 5)
		l.wires[0].send(text(ping, "one"))
		if !l.wires[1].got("one", 5*time.Second) {
			t.Fatal("lost")
		}
		before, err := l.Port(l.host[0].Index)
		if err != nil {
			t.Fatal(err)
		}

		if kept := newDatapath(t, cfg); kept.progID != l.progID {
			t.Errorf("programs %v after a restart, before %v", kept.progID, l.progID)
		}
		d := newDatapath(t, rebuilt(cfg, 1)) // an update
		after, err := d.Port(l.host[0].Index)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b attach.VLANs) bool { return a == b })); diff != "" {
			t.Errorf("a port after a restart (-before +after):\n%s", diff)
		}
		for i, h := range l.host {
			if err := d.VerifyPort(h.Index); err != nil {
				t.Errorf("port %d after a restart: %v", i, err)
			}
			if err := l.VerifyPort(h.Index); !errors.Is(err, ErrWrongProgram) {
				t.Errorf("port %d still has the old program: %v", i, err)
			}
		}
		generation := d.Generation()
		loadSets(t, d)
		if d.Generation() != generation || generation == 0 {
			t.Errorf("generation %d after loading the same, before %d", d.Generation(), generation)
		}
		l.Datapath = d
		l.wires[1].send(text(pong, "two"))
		if !l.wires[0].got("two", 5*time.Second) || l.counters(t, 0, ToVM)[policy.ReasonEstablished] != 1 {
			t.Errorf("the connection is not known any more: %v", l.counters(t, 0, ToVM))
		}
		if d.Free() != 0 {
			t.Errorf("%d slots of an unknown past are taken for fresh", d.Free())
		}
		// A third VM gets a slot of its own, though the pool is empty.
		h, _ := newVeth(t, "h2", "v2")
		if err := d.AttachPort(h, lanPort(0)); err != nil {
			t.Fatal(err)
		}
		third, err := d.Port(h.Index)
		if err != nil || third.Slot == before.Slot || third.Serial == before.Serial || third.Network != "net-b" {
			t.Errorf("the third VM has %+v: %v", third, err)
		}
	})
}

// A restart takes the pinned programs over if they are what it would load, and loads
// them else.
func TestRestartKeepsPrograms(t *testing.T) {
	cfg := Config{BPFFS: newBPFFS(t)}
	l := newLAN(t, cfg)
	l.attach(t, attach.Active)
	last := l.Datapath
	restart := func(what string, cfg Config, same bool) {
		t.Helper()
		d := newDatapath(t, cfg)
		for h := range Hook(hooks) {
			if (d.progID[h] == last.progID[h]) != same {
				t.Errorf("%s: program %s is %d, before %d", what, h, d.progID[h], last.progID[h])
			}
		}
		for _, h := range l.host {
			if err := d.VerifyPort(h.Index); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if err := last.VerifyPort(h.Index); (err == nil) != same {
				t.Errorf("%s: to the process before, its port is as it should be: %v", what, err)
			}
		}
		last = d
	}
	restart("nothing has changed", cfg, true)
	cfg = rebuilt(cfg, 1)
	restart("another knob", cfg, false)
	if err := os.Remove(l.pins.prog(portProgToVm)); err != nil {
		t.Fatal(err)
	}
	restart("one is not pinned", cfg, false)
	p, err := passProgram()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := pinOver(p, l.pins.prog(portProgFromVm)); err != nil {
		t.Fatal(err)
	}
	restart("another is pinned", cfg, false)
	if err := pinOver(l.maps[portMapControl], l.pins.prog(portProgToVm)); err != nil {
		t.Fatal(err)
	}
	restart("no program is pinned", cfg, false)
	if err := os.Remove(filepath.Join(l.pins.maps(), portMapStrayCounters)); err != nil {
		t.Fatal(err)
	}
	restart("a map is another", cfg, false)
	restart("that map", cfg, true)
}

// Whatever the programs are made of is in their names.
func TestNameBuild(t *testing.T) {
	names := map[string]string{}
	add := func(what string, spec *ebpf.CollectionSpec, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		name := spec.Programs[portProgFromVm].Name
		if other, ok := names[name]; ok || len(name) != len("from_vm_")+6 {
			t.Errorf("%s: %q, as %s", what, name, other)
		}
		names[name] = what
	}
	plain, err := portSpec(Config{})
	add("no knobs", plain, err)
	again, err := portSpec(Config{Timeouts: DefaultTimeouts()})
	if err != nil || again.Programs[portProgToVm].Name != plain.Programs[portProgToVm].Name {
		t.Errorf("the same is called %q and %q: %v", again.Programs[portProgToVm].Name, plain.Programs[portProgToVm].Name, err)
	}
	knobs := reflect.TypeFor[Timeouts]()
	for i := range knobs.NumField() {
		var cfg Config
		reflect.ValueOf(&cfg.Timeouts).Elem().Field(i).SetInt(int64(12345 * time.Second))
		spec, err := portSpec(cfg)
		add(knobs.Field(i).Name, spec, err)
	}
	spec, err := portSpec(Config{ConnsQuota: 4096})
	add("quota", spec, err)
	object := slices.Clone(_PortBytes)
	object[len(object)/2] ^= 1
	nameBuild(plain, object)
	add("another object", plain, nil)
	nameBuild(again, _PortBytes)
	if err := again.Variables[portVarDryRun].Set(uint32(1)); err != nil {
		t.Fatal(err)
	}
	nameBuild(again, _PortBytes)
	add("dry run", again, nil)
}

// spoiled is one way in which others break a hook, and what VerifyPort says then.
type spoiled struct {
	do   func(t *testing.T, l *lan, ifindex int)
	want error
	mode AttachMode
}

func waysToSpoil() map[string]spoiled {
	return map[string]spoiled{
		"filter deleted": {func(t *testing.T, l *lan, ifindex int) {
			if err := netlink.FilterDel(filter(ifindex, ToVM, l.progs[ToVM])); err != nil {
				t.Fatal(err)
			}
		}, ErrNotAttached, AttachClsact},
		"qdisc deleted": {func(t *testing.T, _ *lan, ifindex int) {
			if err := netlink.QdiscDel(clsact(ifindex)); err != nil {
				t.Fatal(err)
			}
		}, ErrNotAttached, AttachClsact},
		"other program in the filter": {func(t *testing.T, _ *lan, ifindex int) {
			p, err := passProgram()
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if err := netlink.FilterReplace(filter(ifindex, FromVM, p)); err != nil {
				t.Fatal(err)
			}
		}, ErrWrongProgram, AttachClsact},
		"link detached": {func(t *testing.T, l *lan, ifindex int) {
			k, err := link.LoadPinnedLink(l.pins.link(ifindex, FromVM), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if err := k.Detach(); err != nil {
				t.Fatal(err)
			}
		}, ErrSevered, AttachTCX},
		"link unpinned": {func(t *testing.T, l *lan, ifindex int) {
			if err := os.Remove(l.pins.link(ifindex, ToVM)); err != nil {
				t.Fatal(err)
			}
		}, ErrNotAttached, AttachTCX},
		"other program in the link": {func(t *testing.T, l *lan, ifindex int) {
			p, err := passProgram()
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			k, err := link.LoadPinnedLink(l.pins.link(ifindex, FromVM), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if err := k.Update(p); err != nil {
				t.Fatal(err)
			}
		}, ErrWrongProgram, AttachTCX},
	}
}

func TestVerifyAndRepair(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		l := newLAN(t, Config{Attach: m})
		loadSets(t, l.Datapath)
		l.attach(t, attach.Active)
		ifindex := l.host[0].Index
		for name, c := range waysToSpoil() {
			if c.mode != m {
				continue
			}
			if err := l.VerifyPort(ifindex); err != nil {
				t.Fatalf("before: %s: %v", name, err)
			}
			before, err := l.Port(ifindex)
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, l, ifindex)
			var pe *PortError
			if err := l.VerifyPort(ifindex); !errors.Is(err, c.want) || !errors.As(err, &pe) || pe.IfIndex != ifindex {
				t.Errorf("%s: verify says %v, want %v", name, err, c.want)
			}
			if err := l.RepairPort(ifindex); err != nil {
				t.Errorf("%s: repair: %v", name, err)
			}
			if err := l.VerifyPort(ifindex); err != nil {
				t.Errorf("%s: after repair: %v", name, err)
			}
			after, err := l.Port(ifindex)
			if err != nil || after.State != attach.Active || after.Slot != before.Slot || after.Serial != before.Serial {
				t.Errorf("%s: repair made %+v of %+v: %v", name, after, before, err)
			}
		}
		for _, err := range []error{l.VerifyPort(4711), l.RepairPort(4711), l.SetState(4711, attach.Active)} {
			if !errors.Is(err, ErrNoRecord) {
				t.Errorf("of an unknown port: %v", err)
			}
		}
	})
}

func TestSettle(t *testing.T) {
	l := newLAN(t, Config{})
	loadSets(t, l.Datapath)
	l.attach(t, attach.Active)
	if !l.tcx {
		for _, h := range l.host {
			if err := l.SettlePort(h.Index); err != nil || !l.Settled(h.Index) {
				t.Errorf("without tcx there is nothing to settle: %v", err)
			}
		}
		return
	}
	for _, h := range l.host {
		if l.Settled(h.Index) {
			t.Error("settled by attaching")
		}
		if err := l.SettlePort(h.Index); err != nil {
			t.Fatal(err)
		}
		if err := l.VerifyPort(h.Index); err != nil || !l.Settled(h.Index) {
			t.Errorf("after settling: %v", err)
		}
		if id, err := l.findFilter(h.Index, FromVM); err != nil || id != 0 {
			t.Errorf("the filter is still there: program %d, %v", id, err)
		}
		// Broken and repaired it is as after attaching.
		if err := os.Remove(l.pins.link(h.Index, FromVM)); err != nil {
			t.Fatal(err)
		}
		if err := l.RepairPort(h.Index); err != nil {
			t.Fatal(err)
		}
		if err := l.VerifyPort(h.Index); err != nil || l.Settled(h.Index) {
			t.Errorf("after repair: settled %v, %v", l.Settled(h.Index), err)
		}
		if err := l.SettlePort(h.Index); err != nil || !l.Settled(h.Index) {
			t.Errorf("settling again: %v", err)
		}
	}
	l.wires[0].send(text(udp(vm4, peer4, 5, 7), "settled"))
	if !l.wires[1].got("settled", 5*time.Second) {
		t.Error("settled ports do not pass")
	}
}

func TestDetach(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		l := newLAN(t, Config{Attach: m})
		loadSets(t, l.Datapath)
		l.attach(t, attach.Active)
		for range 2 { // the second time there is nothing to do
			if err := l.DetachPort(l.host[0].Index); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Port(l.host[0].Index); !errors.Is(err, ErrNoRecord) {
			t.Errorf("after detaching: %v", err)
		}
		// The other one's interface goes first.
		if err := netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.host[1].Index}}); err != nil {
			t.Fatal(err)
		}
		if err := l.VerifyPort(l.host[1].Index); !errors.Is(err, ErrSevered) && !errors.Is(err, ErrNotAttached) {
			t.Errorf("of an interface that is gone: %v", err)
		}
		removed, err := l.GC(func(int) bool { return false })
		if err != nil || len(removed) != 1 || removed[0] != l.host[1].Index {
			t.Errorf("GC removed %v: %v", removed, err)
		}
		if ports := l.Ports(); len(ports) != 0 {
			t.Errorf("ports left: %v", ports)
		}
		if pinned, err := filepath.Glob(filepath.Join(l.pins.links(), "*")); err != nil || len(pinned) != 0 {
			t.Errorf("pins left: %v, %v", pinned, err)
		}
		if err := l.Reap(); err != nil {
			t.Fatal(err)
		}
		for slot := range uint32(PortsMax) {
			for _, outer := range []string{portMapConns, portMapPortCounters} {
				pinned := exists(l.pins.slot(slot, outer))
				if free := l.slots[slot] == slotFree; free != pinned {
					t.Errorf("slot %d: state %d, %s pinned: %v", slot, l.slots[slot], outer, pinned)
				}
			}
		}
	})
}

// An interface takes over the index, and what was left, of one that is gone.
func TestLeftovers(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		l := newLAN(t, Config{Attach: m})
		l.attach(t, attach.Active)
		h := l.host[0]
		old, err := l.Port(h.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.AttachPort(h, lanPort(0)); err != nil {
			t.Fatal(err)
		}
		again, err := l.Port(h.Index)
		if err != nil || again.Serial != old.Serial || again.Slot != old.Slot || again.State != attach.Dark {
			t.Errorf("attached again: %+v, was %+v: %v", again, old, err)
		}
		if err := netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: h.Index}}); err != nil {
			t.Fatal(err)
		}
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "h0", Index: h.Index}, PeerName: "v0"}
		if err := netlink.LinkAdd(v); err != nil {
			t.Fatal(err)
		}
		if err := l.AttachPort(h, lanPort(0)); err != nil {
			t.Fatal(err)
		}
		fresh, err := l.Port(h.Index)
		if err != nil || fresh.Serial == old.Serial {
			t.Errorf("a new interface is taken for the old one: %+v, %v", fresh, err)
		}
		if err := l.VerifyPort(h.Index); err != nil {
			t.Error(err)
		}
		err = l.AttachPort(attach.Interface{Index: h.Index, Name: "other"}, lanPort(0))
		if err == nil || !strings.Contains(err.Error(), "h0, not other") {
			t.Errorf("an index that means another interface: %v", err)
		}
	})
}

// withOnly leaves the test's thread no capabilities but these.
func withOnly(t *testing.T, caps ...uint) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		t.Fatal(err)
	}
	few := all
	few[0].Effective, few[1].Effective = 0, 0
	for _, c := range caps {
		few[c/32].Effective |= 1 << (c % 32)
	}
	if err := unix.Capset(&header, &few[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Capset(&header, &all[0]); err != nil {
			t.Errorf("get capabilities back: %v", err)
		}
	})
}

// The capabilities that Open asks for are all that a port needs in its life.
func TestCapabilities(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		newNetns(t)
		host, _ := newVeth(t, "h", "v")
		fs := newBPFFS(t)
		withOnly(t, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON)
		d := newDatapath(t, Config{BPFFS: fs, Attach: m})
		loadSets(t, d)
		_, counters := d.PortCounters(host.Index)
		if !errors.Is(counters, ErrNoRecord) {
			t.Errorf("counters of no port: %v", counters)
		}
		attached := d.AttachPort(host, accessPort())
		_, counters = d.PortCounters(host.Index)
		_, conns := d.Conns(host.Index)
		_, aged := d.GCConns(nil)
		if err := errors.Join(attached, counters, conns, aged, d.SettlePort(host.Index), d.VerifyPort(host.Index),
			d.DetachPort(host.Index), d.Reap()); err != nil {
			t.Error(err)
		}
		if again := newDatapath(t, Config{BPFFS: fs, Attach: m}); again.progID != d.progID {
			t.Errorf("programs %v after a restart, before %v", again.progID, d.progID)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	needRoot(t)
	if _, err := Open(Config{BPFFS: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("no BPF filesystem: %v", err)
	}
	fs := newBPFFS(t)
	d := newDatapath(t, Config{BPFFS: fs})
	path := d.pins.of(portMapFragments)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{BPFFS: fs}); !errors.Is(err, ebpf.ErrMapIncompatible) || !strings.Contains(err.Error(), "drain the node") {
		t.Errorf("a pinned map of another build: %v", err)
	}
}
