package datapath

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// flood is how many frames the tests of changes under traffic send.
func flood(tb testing.TB) int { return size(tb, "HOMEPORT_FLOOD", 200_000, 100_000) }

// during runs change again and again, in the test's network namespace, while
// frames go from VM 0 to VM 1, as many as flood says; it gives the number of
// changes that were done before the last frame went, and fails if there are none.
func (l *lan) during(t *testing.T, frame []byte, change func(round int) error) int {
	t.Helper()
	return duringAt(t, l.host[0].Index, frame, change)
}

// duringAt is during for frames that come in at any interface.
func duringAt(t *testing.T, ifindex int, frame []byte, change func(round int) error) int {
	t.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var stop atomic.Bool
	done := make(chan error)
	var rounds atomic.Int64
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		for ; err == nil && !stop.Load(); rounds.Add(1) {
			err = change(int(rounds.Load()))
		}
		done <- err
	}()
	const burst = 5000
	for range flood(t) / burst {
		live(t, ifindex, frame, burst)
	}
	n := int(rounds.Load())
	stop.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Error("no change was done while frames went: that none was lost means nothing")
	}
	return n
}

// teach has the bridge learn where both VMs are.
func (l *lan) teach(t *testing.T) {
	t.Helper()
	live(t, l.host[0].Index, pkt{ether: layers.EthernetTypeARP, l4: make([]byte, 46)}.bytes(), 1)
	live(t, l.host[1].Index, pkt{src: peerMAC, dst: testMAC, ether: layers.EthernetTypeARP, l4: make([]byte, 46)}.bytes(), 1)
}

// lossless: all of flood passed both hooks for one of the reasons, judged once,
// or while kinds of hook change once or twice, and nothing was dropped.
func (l *lan) lossless(t *testing.T, times uint64, reasons ...policy.Reason) {
	t.Helper()
	for i, h := range []Hook{FromVM, ToVM} {
		passed := uint64(0)
		all := l.counters(t, i, h)
		for _, r := range reasons {
			passed += all[r]
		}
		if n := uint64(flood(t)); passed < n || passed > times*n {
			t.Errorf("hook %s of VM %d passed %d of %d frames: %v", h, i, passed, n, all)
		}
		for r, n := range all {
			if r.Drops() {
				t.Errorf("hook %s of VM %d dropped %d frames as %v", h, i, n, r)
			}
		}
	}
}

// rebuilt is cfg for another build's programs.
func rebuilt(cfg Config, build int) Config {
	cfg.Timeouts.ICMP = time.Duration(build) * time.Hour
	return cfg
}

// Programs are replaced, as by updates, and not one packet is lost or passes
// unjudged.
func TestReplaceUnderTraffic(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		cfg := Config{Attach: m, BPFFS: newBPFFS(t)}
		l := newLAN(t, cfg)
		loadSets(t, l.Datapath)
		l.attach(t, attach.Active)
		l.teach(t)
		others := []*Datapath{newDatapath(t, rebuilt(cfg, 1)), newDatapath(t, rebuilt(cfg, 2))}
		n := l.during(t, udp(vm4, peer4, 5, 7).bytes(), func(round int) error {
			for _, h := range l.host {
				for hook := range Hook(hooks) {
					if err := others[round%2].replaceHook(h.Index, hook); err != nil {
						return err
					}
				}
			}
			return nil
		})
		l.lossless(t, 1, policy.ReasonDefaultAllow, policy.ReasonEstablished)
		t.Logf("%d replacements at each of 4 hooks", n)
	})
}

// A hook that runs another build's program is repaired without a moment in which
// neither judges.
func TestRepairUnderTraffic(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		cfg := Config{Attach: m, BPFFS: newBPFFS(t)}
		l := newLAN(t, cfg)
		loadSets(t, l.Datapath)
		l.attach(t, attach.Active)
		l.teach(t)
		other := newDatapath(t, rebuilt(cfg, 1))
		n := l.during(t, udp(vm4, peer4, 5, 7).bytes(), func(round int) error {
			for _, h := range l.host {
				for hook := range Hook(hooks) {
					if err := other.replaceHook(h.Index, hook); err != nil {
						return err
					}
				}
				if err := l.VerifyPort(h.Index); !errors.Is(err, ErrWrongProgram) {
					return fmt.Errorf("before: %w", err)
				}
				if err := errors.Join(l.RepairPort(h.Index), l.VerifyPort(h.Index)); err != nil {
					return err
				}
			}
			return nil
		})
		l.lossless(t, 1, policy.ReasonDefaultAllow, policy.ReasonEstablished)
		t.Logf("%d repairs of each of 4 hooks", n)
	})
}

// holdHooks has both kinds of hook in use elsewhere. The kernel patches its code for
// the first and the last one, and emulated CPUs have been seen to trip over that.
func (l *lan) holdHooks(t *testing.T) {
	t.Helper()
	if err := netlink.QdiscAdd(clsact(loopback)); err != nil {
		t.Fatal(err)
	}
	if !l.tcx {
		return
	}
	for h := range Hook(hooks) {
		k, err := link.AttachTCX(link.TCXOptions{Interface: loopback, Program: l.progs[h], Attach: h.attachType()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = k.Close() })
	}
}

// Ports change the kind of hook under traffic, to and fro.
func TestSettleUnderTraffic(t *testing.T) {
	l := newLAN(t, Config{})
	l.holdHooks(t)
	loadSets(t, l.Datapath)
	l.attach(t, attach.Active)
	l.teach(t)
	n := l.during(t, udp(vm4, peer4, 5, 7).bytes(), func(int) error {
		for _, h := range l.host {
			if err := l.SettlePort(h.Index); err != nil {
				return err
			}
			for hook := range Hook(hooks) {
				if err := l.attachHook(h.Index, hook); err != nil {
					return err
				}
				if err := remove(l.pins.link(h.Index, hook)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	l.lossless(t, 2, policy.ReasonDefaultAllow, policy.ReasonEstablished)
	t.Logf("%d times to and fro", n)
}

// Policies change under traffic that all of them allow, by other classes, rows
// and positions each time. What no policy allows never passes, and what all allow
// never drops: no packet is judged by parts of two.
func TestSyncUnderTraffic(t *testing.T) {
	l := newLAN(t, Config{Attach: AttachClsact})
	b := &bench{TB: t, Datapath: l.Datapath}
	good := netip.MustParseAddr("192.0.2.7")
	sets := [3]policy.Set{}
	for i := range sets {
		sets[i] = policy.Set{Network: "net-b", Default: policy.Drop}
		// Ranges before the good one move its class; rules before, its position.
		for n := range i*7 + 1 {
			sets[i].Rules = append(sets[i].Rules, policy.Rule{Key: key(uint32(100 + n)), Action: policy.Drop, Directions: policy.InOut,
				Destinations: nets(fmt.Sprintf("192.0.%d.0/24", 100+n))})
		}
		sets[i].Rules = append(sets[i].Rules, policy.Rule{Key: key(1), Action: policy.Allow, Directions: policy.InOut,
			Destinations: []policy.AddrRange{{First: good, Last: good}}})
	}
	b.sync(sets[0])
	l.attach(t, attach.Active)
	l.teach(t)
	frame := udp(vm4, good, 1, 1).with(func(p *pkt) { p.proto = layers.IPProtocolESP }) // judged one by one
	n := l.during(t, frame.bytes(), func(round int) error {
		p, _, err := build(sets[round%len(sets)])
		if err != nil {
			return err
		}
		_, err = l.Sync(p)
		return err
	})
	l.lossless(t, 1, policy.ReasonRuleAllow)
	t.Logf("%d generations", n)
	if n < 3 {
		t.Errorf("only %d generations", n)
	}
}

// A real TCP connection with segmentation offload: packets of many segments, of
// which only the headers are linear.
func TestBulkTCP(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		newNetns(t)
		d := newDatapath(t, Config{Attach: m})
		loadSets(t, d)
		host, _, guest := newGuestPort(t, d)
		for _, addr := range []string{"10.9.0.1:80", "[fd09::1]:80"} {
			bulk(t, guest, addr)
		}
		all, err := d.PortCounters(host.Index)
		if err != nil {
			t.Fatal(err)
		}
		est := all[policy.ReasonEstablished][FromVM]
		if est.Bytes < 2*bulkBytes || est.Bytes/est.Packets > 1600 {
			t.Errorf("%d packets with %d bytes, want at least %d bytes in packets as on the wire", est.Packets, est.Bytes, 2*bulkBytes)
		}
		for r, n := range all {
			if r.Drops() && r != policy.ReasonLauncherNoise {
				t.Errorf("dropped: %v %+v", r, n)
			}
		}
	})
}

// A GSO packet too long for its length field (BIG TCP) has 0 there, and counts as the
// segments that it becomes; any other packet with that length is malformed.
func TestBigTCP(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	// struct __sk_buff up to gso_size.
	type context struct {
		_               [41]uint32
		GsoSegs         uint32
		_               uint64
		GsoSize, Stamps uint32
		_               uint64
	}
	for name, p := range map[string]pkt{"4": tcp(vm4, peer4, 1, 80, "S"), "6": tcp(vm6, peer6, 1, 80, "S"),
		"6, jumbo option": tcp(vm6, peer6, 2, 80, "S").with(func(p *pkt) { p.ext = []extension{pad(0)} })} {
		b.port(accessPort())
		frame := p.bytes()
		length := 14 + 2
		if p.from.Is6() {
			length = 14 + 4
		}
		frame[length], frame[length+1] = 0, 0
		b.expect(name, step{FromVM, frame, policy.ReasonMalformed})
		_, err := b.progs[FromVM].Run(&ebpf.RunOptions{Data: frame, Context: context{GsoSegs: 3, GsoSize: 1000}})
		if err != nil {
			t.Fatal(err)
		}
		if c := b.all()[policy.ReasonRuleAllow][FromVM]; c.Packets != 3 || c.Bytes != uint64(len(frame)) {
			t.Errorf("IPv%s: allowed %+v of %v", name, c, b.all())
		}
	}
}

const bulkBytes = 8 << 20

// bulk sends from the guest to this side.
func bulk(t *testing.T, guest func(func() error), addr string) {
	t.Helper()
	server, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	received := make(chan int64)
	go func() {
		c, err := server.Accept()
		if err != nil {
			received <- -1
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		received <- n
	}()
	guest(func() error {
		c, err := net.DialTimeout("tcp", addr, 10*time.Second)
		if err != nil {
			return err
		}
		if _, err := c.Write(make([]byte, bulkBytes)); err != nil {
			return err
		}
		return c.Close()
	})
	if n := <-received; n != bulkBytes {
		t.Errorf("%s got %d bytes, want %d", addr, n, bulkBytes)
	}
}

// newGuestPort makes a port of lanPort(0) whose VM is a guest, with addresses of both
// families at either end: 10.9.0.1 and fd09::1 here, 10.9.0.2 and fd09::2 there.
func newGuestPort(t *testing.T, d *Datapath) (host, vm attach.Interface, guest func(func() error)) {
	t.Helper()
	host, vm = newVeth(t, "h", "v")
	l, err := netlink.LinkByName(vm.Name)
	if err != nil {
		t.Fatal(err)
	}
	c := lanPort(0)
	c.MAC = l.Attrs().HardwareAddr
	if err := d.AttachPort(host, c); err != nil {
		t.Fatal(err)
	}
	if err := d.SetState(host.Index, attach.Active); err != nil {
		t.Fatal(err)
	}
	guest = newGuest(t, vm)
	configure(t, host.Name, "10.9.0.1/24", "fd09::1/64")
	guest(func() error { return setUp(vm.Name, "10.9.0.2/24", "fd09::2/64") })
	return host, vm, guest
}

// newGuest moves the VM's end into a network namespace of its own; what it gives
// runs there.
func newGuest(t *testing.T, vm attach.Interface) func(func() error) {
	t.Helper()
	work, done := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace go
		done <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range work {
			done <- f()
		}
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	guest := func(f func() error) {
		t.Helper()
		work <- f
		if err := <-done; err != nil {
			t.Fatalf("in the guest: %v", err)
		}
	}
	t.Cleanup(func() { close(work) })
	var ns *os.File
	guest(func() (err error) {
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	defer ns.Close()
	l, err := netlink.LinkByName(vm.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetNsFd(l, int(ns.Fd())); err != nil {
		t.Fatal(err)
	}
	return guest
}

func configure(t *testing.T, name string, addrs ...string) {
	t.Helper()
	if err := setUp(name, addrs...); err != nil {
		t.Fatal(err)
	}
}

// setUp gives an interface addresses, without duplicate address detection.
func setUp(name string, addrs ...string) error {
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0)
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}
