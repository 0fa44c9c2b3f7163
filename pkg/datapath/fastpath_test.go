package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// fastLAN is a lan whose VMs are in another network namespace, as launcher pods are, with
// both ports in the fast path, and a third interface at the bridge that is no port: the way to
// other nodes.
type fastLAN struct {
	*lan
	bridge int
	uplink attach.Interface
	far    *wire // what comes and goes there
	said   int   // texts told apart
}

func newFastLAN(t *testing.T, cfg Config) *fastLAN {
	t.Helper()
	newNetns(t)
	l := &lan{Datapath: newDatapath(t, cfg)}
	pods := otherNetns(t)
	for i := range l.host {
		l.host[i], l.vm[i] = newVeth(t, fmt.Sprintf("h%d", i), fmt.Sprintf("v%d", i))
		if err := netlink.LinkSetNsFd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.vm[i].Index}}, int(pods.Fd())); err != nil {
			t.Fatal(err)
		}
		within(t, pods, func() error {
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+l.vm[i].Name+"/disable_ipv6", []byte("1"), 0)
			link, err := netlink.LinkByName(l.vm[i].Name)
			if err != nil {
				return err
			}
			l.vm[i].Index = link.Attrs().Index
			err = netlink.LinkSetUp(link)
			l.wires[i] = newWire(t, l.vm[i])
			return err
		})
	}
	f := &fastLAN{lan: l}
	var other attach.Interface
	f.uplink, other = newVeth(t, "up", "switch")
	f.far = newWire(t, other)
	newBridge(t, "br", l.host[0], l.host[1], f.uplink)
	for _, i := range []attach.Interface{l.host[0], l.host[1], f.uplink} {
		waitUp(t, i)
	}
	br, err := netlink.LinkByName("br")
	if err != nil {
		t.Fatal(err)
	}
	f.bridge = br.Attrs().Index
	if err := l.FillPool(4); err != nil {
		t.Fatal(err)
	}
	loadSets(t, l.Datapath)
	l.attach(t, attach.Active)
	f.fast(t)
	return f
}

// otherNetns is a new network namespace.
func otherNetns(tb testing.TB) *os.File {
	tb.Helper()
	made := make(chan *os.File)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			tb.Error(err)
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			tb.Error(err)
		}
		made <- ns
	}()
	ns := <-made
	tb.Cleanup(func() { _ = ns.Close() })
	return ns
}

// within does something in another network namespace.
func within(tb testing.TB, ns *os.File, what func() error) {
	tb.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // as above
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = what()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
}

// uplinkTag is what the ports' frames have at the uplink if they go past the bridge. The bridge of these
// tests knows no VLANs, and gives them none.
const uplinkTag = 77

// both are both ports with what they have in common.
func (f *fastLAN) both() map[int]FastPort {
	of := FastPort{Bridge: f.bridge, MTU: 1500, Uplink: f.uplink.Index, Tag: uplinkTag}
	return map[int]FastPort{f.host[0].Index: of, f.host[1].Index: of}
}

// fast has both ports take part, where they are, as if each had for long, and had just sent a packet by the bridge.
func (f *fastLAN) fast(t *testing.T) {
	t.Helper()
	f.lost(t)
	now, err := coarseTime()
	if err != nil {
		t.Fatal(err)
	}
	for ifindex, of := range f.both() {
		if found, err := f.FoundFast(ifindex, of); err != nil || !found {
			t.Fatalf("found %v: %v", found, err)
		}
		f.at(t, ifindex).Reminded, f.at(t, ifindex).Since = uint32(now>>handoverShift), 0
	}
}

// lost has both ports take part, and gives those that are lost.
func (f *fastLAN) lost(t *testing.T) []int {
	t.Helper()
	lost, err := f.SetFastPath(f.both())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lost)
	return lost
}

// at is what the programs know of a port of the fast path.
func (f *fastLAN) at(t *testing.T, ifindex int) *portHpFastPort {
	t.Helper()
	rec, err := f.record(ifindex)
	if err != nil {
		t.Fatal(err)
	}
	return &f.fastPorts.ports[rec.Slot]
}

// open makes a connection, and leaves it to be used: each end has sent something, and
// so has the bridge's table.
func (f *fastLAN) open(t *testing.T, ping, pong pkt) {
	t.Helper()
	for i, p := range []pkt{ping, pong} {
		if way := f.says(t, i, p); way != "bridge" {
			t.Fatalf("packet %d of a new connection went by the %s", i, way)
		}
	}
}

// says sends a datagram from VM i, and says how it came to the other: "bridge", "fast", or "" if
// it did not.
func (f *fastLAN) says(t *testing.T, i int, p pkt) string {
	t.Helper()
	f.said++
	what := fmt.Sprintf("text %d.", f.said)
	before := f.sentTo(t, 1-i)
	f.wires[i].send(text(p, what))
	if !f.wires[1-i].got(what, 3*time.Second) {
		return ""
	}
	if f.sentTo(t, 1-i) > before {
		return "bridge"
	}
	return "fast"
}

// sentTo is how many frames the kernel has sent at the host end of VM i: what goes past the bridge
// does not.
func (f *fastLAN) sentTo(t *testing.T, i int) uint64 {
	t.Helper()
	link, err := netlink.LinkByIndex(f.host[i].Index)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Statistics.TxPackets
}

// nextTick waits until the programs look at flows again.
func (f *fastLAN) nextTick(t *testing.T) { (&bench{TB: t, Datapath: f.Datapath}).waitTicks(1) }

var (
	ping, pong   = udp(vm4, peer4, 5, 7), udp(peer4, vm4, 7, 5)
	ping6, pong6 = udp(vm6, peer6, 5, 7), udp(peer6, vm6, 7, 5)
)

// What belongs to an established connection goes past the bridge, and is judged and counted at
// both ports as ever.
func TestFastPath(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		f := newFastLAN(t, Config{Attach: m})
		f.open(t, ping, pong)
		f.open(t, ping6, pong6)
		for round := range 3 {
			for i, p := range []pkt{ping, pong, ping6, pong6} {
				if way := f.says(t, i%2, p); way != "fast" {
					t.Errorf("round %d: packet %d of an established connection went by %q", round, i, way)
				}
			}
			f.nextTick(t)
		}
		if way := f.says(t, 0, ping.with(func(p *pkt) { p.more = true })); way != "bridge" {
			t.Errorf("a datagram's first fragment went by %q", way)
		}
		// It comes as one for its receiver, and not as one that the bridge's host only overhears.
		f.wires[0].send(text(ping, "for whom"))
		buf := make([]byte, 2048)
		for end := time.Now().Add(5 * time.Second); ; {
			n, from, err := unix.Recvfrom(f.wires[1].fd, buf, 0)
			if err == nil && strings.Contains(string(buf[:n]), "for whom") {
				if kind := from.(*unix.SockaddrLinklayer).Pkttype; kind != unix.PACKET_HOST {
					t.Errorf("a packet comes as of kind %d", kind)
				}
				break
			}
			if time.Now().After(end) {
				t.Fatal("a packet is lost")
			}
		}
		for i := range f.host {
			for h := range Hook(hooks) {
				// 2 of each family: the openers are judged by rules at each port, the answers not.
				got := f.counters(t, i, h)
				want := map[policy.Reason]uint64{policy.ReasonEstablished: 6}
				if uint8(h) == uint8(i) { // the opener goes out of VM 0 and in to VM 1, and so do the last two
					want[policy.ReasonDefaultAllow] = 2
					want[policy.ReasonEstablished] += 2
				} else {
					want[policy.ReasonEstablished] += 2
				}
				if len(got) != len(want) || got[policy.ReasonEstablished] != want[policy.ReasonEstablished] || got[policy.ReasonDefaultAllow] != want[policy.ReasonDefaultAllow] {
					t.Errorf("VM %d, hook %s: counted %v, want %v", i, h, got, want)
				}
			}
		}
	})
}

// Of TCP all goes past the bridge but what changes a connection.
func TestFastPathTCP(t *testing.T) {
	f := newFastLAN(t, Config{})
	out := func(flags string) pkt { return tcp(vm4, peer4, 1000, 80, flags) }
	in := func(flags string) pkt { return tcp(peer4, vm4, 80, 1000, flags) }
	for n, s := range []struct {
		from int
		p    pkt
		way  string
	}{
		{0, out("S"), "bridge"}, {1, in("SA"), "bridge"}, {0, out("A"), "fast"}, {0, out("PA"), "fast"}, {1, in("A"), "fast"},
		{1, in("PA"), "fast"}, {0, out("FA"), "bridge"}, {1, in("A"), "fast"}, {1, in("PA"), "fast"}, {1, in("FA"), "bridge"},
		{0, out("A"), "bridge"}, // the connection is over
	} {
		f.nextTick(t)
		before := f.sentTo(t, 1-s.from)
		f.wires[s.from].send(s.p.bytes())
		deadline := time.Now().Add(5 * time.Second)
		buf := make([]byte, 2048)
		for {
			if n, err := unix.Read(f.wires[1-s.from].fd, buf); err == nil && n >= len(s.p.bytes()) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("segment %d is lost", n)
			}
		}
		way := "fast"
		if f.sentTo(t, 1-s.from) > before {
			way = "bridge"
		}
		if way != s.way {
			t.Errorf("segment %d went by the %s, want the %s", n, way, s.way)
		}
	}
}

// Each thing that keeps packets from going past the bridge; they arrive all the same, unless
// said otherwise.
func TestFastPathOff(t *testing.T) {
	reconfigure := func(i int, change func(*attach.PortConfig)) func(*fastLAN) error {
		return func(f *fastLAN) error {
			c := lanPort(i)
			change(&c)
			return f.UpdatePort(f.host[i].Index, c)
		}
	}
	only := func(change func(f *fastLAN, ports map[int]FastPort)) func(*fastLAN) error {
		return func(f *fastLAN) error {
			ports := f.both()
			change(f, ports)
			_, err := f.SetFastPath(ports)
			return err
		}
	}
	// change changes what is written of the receiver, and leaves where its MAC is.
	change := func(how func(rec *portHpPort, fast *portHpFastPort)) func(*fastLAN) error {
		return func(f *fastLAN) error {
			rec, err := f.record(f.host[1].Index)
			if err != nil {
				return err
			}
			how(&rec, &f.fastPorts.ports[rec.Slot])
			return f.ports.put(f.host[1].Index, rec)
		}
	}
	for _, s := range []struct {
		name string
		do   func(f *fastLAN) error
		way  string
	}{
		{"nobody takes part", only(func(_ *fastLAN, ports map[int]FastPort) { clear(ports) }), "bridge"},
		{"the sender takes no part", only(func(f *fastLAN, ports map[int]FastPort) { delete(ports, f.host[0].Index) }), "bridge"},
		{"the receiver takes no part", only(func(f *fastLAN, ports map[int]FastPort) { delete(ports, f.host[1].Index) }), "bridge"},
		{"the receiver's record says so", change(func(rec *portHpPort, _ *portHpFastPort) { rec.Flags = 0 }), "bridge"},
		{"another bridge", change(func(_ *portHpPort, fast *portHpFastPort) { fast.Bridge++ }), "bridge"},
		{"another MTU", change(func(_ *portHpPort, fast *portHpFastPort) { fast.Mtu-- }), "bridge"},
		{"the receiver's VLAN has changed", reconfigure(1, func(c *attach.PortConfig) { c.VLANs.PVID = 101 }), "bridge"},
		{"the receiver is no access port any more", reconfigure(1, func(c *attach.PortConfig) {
			c.VLANs = attach.VLANs{Mode: vlan.Native, PVID: 100}
		}), "bridge"},
		{"the sender may forge", reconfigure(0, func(c *attach.PortConfig) { c.Security.ForgedTransmits = true }), "bridge"},
		{"the receiver may forge", reconfigure(1, func(c *attach.PortConfig) { c.Security.ForgedTransmits = true }), "bridge"},
		{"the receiver has another MAC", reconfigure(1, func(c *attach.PortConfig) { c.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 9} }), ""},
		{"the receiver is no port any more", func(f *fastLAN) error { return f.DetachPort(f.host[1].Index) }, "bridge"},
		{"nowhere to jump", func(f *fastLAN) error { return f.maps[portMapFastJump].Delete(uint32(0)) }, "bridge"},
		{"the receiver is lost", func(f *fastLAN) error { return f.LoseFast(f.host[1].Index, f.both()[f.host[1].Index]) }, "bridge"},
		{"nothing", func(*fastLAN) error { return nil }, "fast"},
	} {
		t.Run(s.name, func(t *testing.T) {
			f := newFastLAN(t, Config{})
			f.open(t, ping, pong)
			if err := s.do(f); err != nil {
				t.Fatal(err)
			}
			if way := f.says(t, 0, ping); way != s.way {
				t.Errorf("a packet went by %q, want %q", way, s.way)
			}
		})
	}
}

// The bridge is reminded of a port now and then, by a copy that reaches nobody and is not counted, so that no packet changes its way.
func TestFastPathKeepsBridge(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		f := newFastLAN(t, Config{Attach: m})
		f.open(t, ping, pong)
		f.hear(t)
		f.saysFar(t, toFar())
		sends := map[string]func() string{"to a port": func() string { return f.says(t, 0, ping) }, "to the uplink": func() string { return f.saysFar(t, toFar()) }}
		for to, send := range sends {
			for _, due := range []bool{false, true, false} {
				f.flush(t)
				f.hearFar(t)
				if due {
					f.at(t, f.host[0].Index).Reminded -= 28
				}
				before := f.counters(t, 0, FromVM)
				if way := send(); way != "fast" {
					t.Errorf("%s, due %v: a packet went by %q", to, due, way)
				}
				if knows := f.bridgeKnows(t, testMAC, f.host[0].Index); knows != due {
					t.Errorf("%s, due %v: the bridge knows the VM: %v", to, due, knows)
				}
				before[policy.ReasonEstablished]++
				if after := f.counters(t, 0, FromVM); !maps.Equal(after, before) {
					t.Errorf("%s, due %v: counted %v, want %v", to, due, after, before)
				}
				f.nextTick(t)
			}
		}
		if n := f.far.count("text", 0); n > 0 {
			t.Errorf("%d copies are flooded", n)
		}
	})
}

// hearFar has the programs know the host behind the uplink, as if it had just been heard.
func (f *fastLAN) hearFar(t *testing.T) {
	t.Helper()
	now, err := coarseTime()
	if err != nil {
		t.Fatal(err)
	}
	key := portHpFastKey{Bridge: uint32(f.bridge), Vlan: 100, Mac: [6]uint8(farMAC)}
	if err := f.maps[portMapFastFar].Put(key, portHpFastFar{Uplink: uint32(f.uplink.Index), Heard: uint32(now >> handoverShift)}); err != nil {
		t.Fatal(err)
	}
}

// bridgeKnows says whether the bridge has a MAC at an interface.
func (f *fastLAN) bridgeKnows(t *testing.T, mac net.HardwareAddr, ifindex int) bool {
	t.Helper()
	entries, err := netlink.NeighList(ifindex, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(entries, func(e netlink.Neigh) bool {
		return e.LinkIndex == ifindex && e.HardwareAddr.String() == mac.String() && e.State&netlink.NUD_PERMANENT == 0
	})
}

// flush has the bridge forget whom it has heard.
func (f *fastLAN) flush(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", "dev", "br", "type", "bridge", "fdb_flush").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// What goes by the bridge after all has no tag put back that was never taken off, whatever is left where the programs keep notes.
func TestFastPathNoTag(t *testing.T) {
	f := newFastLAN(t, Config{})
	f.open(t, ping, pong)
	rec, err := f.record(f.host[1].Index)
	if err != nil {
		t.Fatal(err)
	}
	rec.Pvid++
	if err := f.ports.put(f.host[1].Index, rec); err != nil {
		t.Fatal(err)
	}
	// struct __sk_buff up to cb.
	type context struct {
		_                [10]uint32
		Ifindex, TCIndex uint32
		CB               [5]uint32
	}
	frame := text(ping, "as it was")
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, 2048), Context: context{Ifindex: uint32(f.host[0].Index), CB: [5]uint32{9, 9, 9, 9, 9}}}
	ret, err := f.progs[FromVM].Run(&opts)
	if err != nil || ret != unspec || !slices.Equal(opts.DataOut, frame) {
		t.Errorf("%d, %v: %x, want %x", int32(ret), err, opts.DataOut, frame)
	}
}

// Whose MAC is heard elsewhere is looked for by the bridge at once.
func TestFastPathMoved(t *testing.T) {
	announcement := pkt{src: peerMAC, dst: net.HardwareAddr{255, 255, 255, 255, 255, 255}, ether: 0x8035, l4: make([]byte, 46)}
	arp := announcement
	arp.ether = layers.EthernetTypeARP
	for name, frame := range map[string][]byte{"RARP": announcement.bytes(), "ARP": arp.bytes(), "a packet to a neighbour": text(pong, "from afar")} {
		t.Run(name, func(t *testing.T) {
			modes(t, func(t *testing.T, m AttachMode) {
				f := newFastLAN(t, Config{Attach: m})
				f.open(t, ping, pong)
				if way := f.says(t, 0, ping); way != "fast" {
					t.Fatalf("before, a packet went by %q", way)
				}
				f.far.send(frame) // while the flow is busy: in the same tick
				end := time.Now().Add(5 * time.Second)
				for !slices.Equal(f.lost(t), []int{f.host[1].Index}) {
					if time.Now().After(end) {
						t.Fatalf("lost: %v", f.lost(t))
					}
				}
				// Nor does what has nothing to do with it bring it back.
				if _, err := f.SetFastPath(nil); err != nil {
					t.Fatal(err)
				}
				if lost := f.lost(t); len(lost) != 2 {
					t.Errorf("off and on, of both only %v are lost", lost)
				}
				if found, err := f.FoundFast(f.host[0].Index, f.both()[f.host[0].Index]); err != nil || !found {
					t.Fatal(found, err)
				}
				f.wires[0].send(text(ping, "to afar"))
				if !f.far.got("to afar", 5*time.Second) {
					t.Error("what is for a VM that has moved does not go where it is")
				}
				// Where it still is after all, the bridge is reminded of by its next packet.
				if way := f.says(t, 1, pong); way != "fast" {
					t.Errorf("of the VM itself a packet went by %q", way)
				}
				if way := f.says(t, 0, ping); way != "bridge" {
					t.Errorf("before the agent says so, a packet went by %q", way)
				}
				if found, err := f.FoundFast(f.host[1].Index, f.both()[f.host[1].Index]); err != nil || !found {
					t.Fatal(found, err)
				}
				if way := f.says(t, 0, ping); way != "fast" || len(f.lost(t)) > 0 {
					t.Errorf("back again, a packet went by %q; lost: %v", way, f.lost(t))
				}
			})
		})
	}
	t.Run("not by its own word", func(t *testing.T) {
		f := newFastLAN(t, Config{})
		f.open(t, ping, pong)
		live(t, f.host[1].Index, announcement.bytes(), 1)
		live(t, f.host[1].Index, arp.bytes(), 1)
		if way := f.says(t, 0, ping); way != "fast" || len(f.lost(t)) > 0 {
			t.Errorf("a packet went by %q; lost: %v", way, f.lost(t))
		}
	})
}

// The policy of the receiver's port holds where its program does not run: its drops are counted
// and told there, and answered for it.
func TestFastPathPolicy(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		f := newFastLAN(t, Config{Attach: m})
		c := lanPort(1)
		c.Policy = "net-c"
		sets := append(testSets(t), policy.Set{Network: "net-c", Default: policy.Allow})
		b := &bench{TB: t, Datapath: f.Datapath}
		b.sync(sets...)
		if err := f.UpdatePort(f.host[1].Index, c); err != nil {
			t.Fatal(err)
		}
		f.open(t, ping, pong)
		if way := f.says(t, 0, ping); way != "fast" {
			t.Fatalf("before, a packet went by %q", way)
		}
		for _, act := range []policy.Action{policy.Drop, policy.Reject} {
			sets[2].Rules = []policy.Rule{{Key: key(9), Action: act, Directions: policy.OnlyIn, Services: service(t, "udp/7"), Log: true}}
			b.sync(sets...)
			reader, err := f.Events()
			if err != nil {
				t.Fatal(err)
			}
			sent, dropped := f.sentTo(t, 1), f.counters(t, 1, ToVM)[policy.ReasonRuleDrop]
			f.wires[0].send(text(ping, "turned away"))
			e, err := reader.Read()
			if err != nil {
				t.Fatal(err)
			}
			if e.IfIndex != f.host[1].Index || e.Reason != policy.ReasonRuleDrop || Hook(e.Direction) != ToVM {
				t.Errorf("%v: told %+v, want a drop at interface %d", act, e, f.host[1].Index)
			}
			if err := reader.Close(); err != nil {
				t.Fatal(err)
			}
			if f.wires[1].got("turned away", 50*time.Millisecond) || f.sentTo(t, 1) != sent {
				t.Errorf("%v: what is dropped arrives, or went by the bridge", act)
			}
			if got := f.counters(t, 1, ToVM)[policy.ReasonRuleDrop] - dropped; got != 1 {
				t.Errorf("%v: %d drops counted at the receiver's port", act, got)
			}
			// ICMP, administratively prohibited
			wait := map[policy.Action]time.Duration{policy.Drop: 200 * time.Millisecond, policy.Reject: 5 * time.Second}[act]
			if answered := f.wires[0].got("\x03\x0d", wait); answered != (act == policy.Reject) {
				t.Errorf("%v: the sender is told: %v", act, answered)
			}
			if act == policy.Drop { // back, and a new connection
				sets[2].Rules = nil
				b.sync(sets...)
				f.says(t, 0, ping)
				f.says(t, 1, pong)
				if way := f.says(t, 0, ping); way != "fast" {
					t.Fatalf("allowed again, a packet went by %q", way)
				}
			}
		}
	})
}

// A restart leaves the fast path as it is; other programs begin without.
func TestFastPathRestart(t *testing.T) {
	cfg := Config{BPFFS: newBPFFS(t)}
	f := newFastLAN(t, cfg)
	f.open(t, ping, pong)
	restart := func(what string, cfg Config, way string) {
		t.Helper()
		f.Datapath = newDatapath(t, cfg)
		if !f.FastPath() {
			t.Errorf("%s: no fast path", what)
		}
		if got := f.says(t, 0, ping); got != way {
			t.Errorf("%s: a packet went by %q, want %q", what, got, way)
		}
		f.fast(t)
		if got := f.says(t, 0, ping); got != "fast" {
			t.Errorf("%s: given anew, a packet went by %q", what, got)
		}
	}
	restart("nothing has changed", cfg, "fast")
	restart("an update", rebuilt(cfg, 1), "bridge")
	restart("nothing has changed since", rebuilt(cfg, 1), "fast")
	if err := f.maps[portMapFastJump].Delete(uint32(0)); err != nil {
		t.Fatal(err)
	}
	restart("nowhere to jump", rebuilt(cfg, 1), "bridge")
	if err := os.Remove(f.pins.prog(portProgIntoVm)); err != nil {
		t.Fatal(err)
	}
	restart("the program is not pinned", rebuilt(cfg, 1), "bridge")
}

// A question changes nothing, and sends nothing.
func TestFastPathTrace(t *testing.T) {
	f := newFastLAN(t, Config{})
	f.open(t, ping, pong)
	for h, p := range []pkt{ping, pong} {
		e, err := f.Trace(f.host[0].Index, Hook(h), text(p, "asked"))
		if err != nil || e.Reason != policy.ReasonEstablished {
			t.Errorf("hook %s: %+v, %v", Hook(h), e, err)
		}
	}
	if f.wires[1].got("asked", 50*time.Millisecond) {
		t.Error("what was asked about was sent")
	}
}

// Programs and policies are replaced while packets go past the bridge, and not one is lost, judged
// twice or not at all.
func TestFastPathUnderTraffic(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		cfg := Config{Attach: m, BPFFS: newBPFFS(t)}
		f := newFastLAN(t, cfg)
		others := []*Datapath{f.Datapath, newDatapath(t, rebuilt(cfg, 1))}
		f.fast(t)
		f.open(t, ping, pong)
		sent, out, in := f.sentTo(t, 1), f.counters(t, 0, FromVM), f.counters(t, 1, ToVM)
		n := f.during(t, ping.bytes(), func(round int) error {
			d := others[round%2]
			// The kernel rewrites the running program for it, which QEMU does not always survive.
			if round < 6 {
				if err := d.maps[portMapFastJump].Put(uint32(0), d.into); err != nil {
					return err
				}
			}
			for _, h := range f.host {
				for hook := range Hook(hooks) {
					if err := d.replaceHook(h.Index, hook); err != nil {
						return err
					}
				}
			}
			ports := f.both()
			if round%3 == 0 {
				delete(ports, f.host[round/3%2].Index)
			}
			lost, err := d.SetFastPath(ports)
			for _, ifindex := range lost {
				_, ferr := d.FoundFast(ifindex, ports[ifindex])
				err = errors.Join(err, ferr)
			}
			return err
		})
		for i, before := range []map[policy.Reason]uint64{out, in} {
			want := maps.Clone(before)
			want[policy.ReasonEstablished] += uint64(flood(t))
			if got := f.counters(t, i, Hook(i)); !maps.Equal(got, want) {
				t.Errorf("hook %s of VM %d counted %v, want %v", Hook(i), i, got, want)
			}
		}
		byBridge := f.sentTo(t, 1) - sent
		if byBridge == 0 || byBridge >= uint64(flood(t)) {
			t.Errorf("%d of %d packets went by the bridge, want some and not all", byBridge, flood(t))
		}
		t.Logf("%d changes; %d packets by the bridge", n, byBridge)
	})
}

// On a kernel that does not take its program there is no fast path, and all else is as ever.
func TestNoFastPath(t *testing.T) {
	cfg := Config{BPFFS: newBPFFS(t)}
	f := newFastLAN(t, cfg)
	f.open(t, ping, pong)
	without := cfg
	without.noFastPath = true
	f.Datapath = newDatapath(t, without)
	if lost, err := f.SetFastPath(f.both()); !errors.Is(err, ErrNoFastPath) || f.FastPath() || len(lost) > 0 {
		t.Errorf("the fast path is there: %v, %v", lost, err)
	}
	for i, p := range []pkt{ping, pong} {
		if way := f.says(t, i, p); way != "bridge" {
			t.Errorf("a packet went by %q", way)
		}
	}
	if again := newDatapath(t, without); again.progID != f.progID {
		t.Errorf("a restart has programs %v, before %v", again.progID, f.progID)
	}
	f.Datapath = newDatapath(t, cfg)
	f.fast(t)
	if way := f.says(t, 0, ping); way != "fast" {
		t.Errorf("on a kernel that does, a packet went by %q", way)
	}
}

// What is for a port from which its VM has gone goes where the bridge has heard it.
func TestFastPathSilent(t *testing.T) {
	to := func(s attach.State) func(*fastLAN) error {
		return func(f *fastLAN) error { return f.SetState(f.host[1].Index, s) }
	}
	for name, silence := range map[string]func(*fastLAN) error{
		"Released": to(attach.Released), "Quarantined": to(attach.Quarantined), "Dark": to(attach.Dark),
		"of another MAC": func(f *fastLAN) error {
			c := lanPort(1)
			c.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}
			return f.UpdatePort(f.host[1].Index, c)
		},
	} {
		f := newFastLAN(t, Config{})
		f.open(t, ping, pong)
		f.far.send(text(pong, "from afar"))
		if !f.wires[0].got("from afar", 5*time.Second) {
			t.Fatal("a packet from afar is lost")
		}
		if found, err := f.FoundFast(f.host[1].Index, f.both()[f.host[1].Index]); err != nil || !found {
			t.Fatal(found, err)
		}
		if err := silence(f); err != nil {
			t.Fatal(err)
		}
		f.wires[0].send(text(ping, "to afar"))
		if !f.far.got("to afar", 5*time.Second) {
			t.Errorf("%s: a packet went to the port", name)
		}
	}
}

// Of two ports with one MAC nobody is in the fast path.
func TestFastPathTwins(t *testing.T) {
	f := newFastLAN(t, Config{})
	f.open(t, ping, pong)
	if err := f.AttachPort(f.uplink, lanPort(1)); err != nil {
		t.Fatal(err)
	}
	if err := f.SetState(f.uplink.Index, attach.Active); err != nil {
		t.Fatal(err)
	}
	all := f.both()
	all[f.uplink.Index] = all[f.host[0].Index]
	for range 2 {
		lost, err := f.SetFastPath(all)
		slices.Sort(lost)
		if want := []int{f.host[1].Index, f.uplink.Index}; err != nil || !slices.Equal(lost, want) {
			t.Errorf("lost %v, want %v: %v", lost, want, err)
		}
		if found, err := f.FoundFast(f.host[1].Index, all[f.host[1].Index]); err != nil || found {
			t.Errorf("one of two is found: %v", err)
		}
		if way := f.says(t, 0, ping); way != "bridge" {
			t.Errorf("a packet went by %q", way)
		}
	}
	if err := f.DetachPort(f.uplink.Index); err != nil {
		t.Fatal(err)
	}
	f.fast(t)
	if way := f.says(t, 0, ping); way != "fast" {
		t.Errorf("when there is one again, a packet went by %q", way)
	}
}

// join has an interface be a port of the bridge, and waits until it forwards.
func join(t *testing.T, i attach.Interface, bridge int) {
	t.Helper()
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: i.Index}}
	if err := netlink.LinkSetMasterByIndex(dev, bridge); err != nil {
		t.Fatal(err)
	}
	waitUp(t, i)
}

// waitUp waits until an interface is, and a bridge forwards at it.
func waitUp(t *testing.T, i attach.Interface) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; {
		l, err := netlink.LinkByIndex(i.Index)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %v", i.Name, l.Attrs().OperState)
		}
	}
}
