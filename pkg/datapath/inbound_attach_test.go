package datapath

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// A program at an uplink stays over a restart, is replaced by an update, comes back if it is taken
// off, and goes when the last port does.
func TestInboundAttached(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		cfg := Config{Attach: m, BPFFS: newBPFFS(t)}
		l := newInboundLAN(t, cfg, 0)
		is := func(when, want string) {
			t.Helper()
			l.known(t, farMAC)
			if way := l.comes(t, 0, fromFar()); way != want {
				t.Errorf("%s: a packet came by %q, want %q", when, way, want)
			}
			if err := l.verifyHook(l.uplink.Index, inbound); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		is("at first", "fast")
		first := l.progID
		l.Datapath = newDatapath(t, cfg)
		is("a restart", "fast")
		if l.progID != first {
			t.Errorf("a restart has programs %v, before %v", l.progID, first)
		}
		removed, err := l.GC(func(ifindex int) bool { return ifindex == l.host[0].Index || ifindex == l.host[1].Index })
		if err != nil || len(removed) > 0 {
			t.Errorf("removed %v: %v", removed, err)
		}
		is("a clean-up", "fast")
		if want := l.tcx && m != AttachClsact; exists(l.pins.link(l.uplink.Index, inbound)) != want {
			t.Errorf("attached by tcx: %v", !want)
		}
		if err := l.maps[portMapInboundJump].Delete(uint32(0)); err != nil {
			t.Fatal(err)
		}
		l.Datapath = newDatapath(t, cfg)
		is("nowhere to jump", "bridge")
		l.inbound(t)
		is("given anew", "fast")
		first = l.progID
		l.Datapath = newDatapath(t, rebuilt(cfg, 1))
		if l.progID[inbound] == first[inbound] {
			t.Error("an update has the same program")
		}
		is("an update", "bridge")
		l.inbound(t)
		is("given anew", "fast")

		if err := errors.Join(l.deleteFilter(l.uplink.Index, inbound), l.severed(l.uplink.Index)); err != nil {
			t.Fatal(err)
		}
		if err := l.verifyHook(l.uplink.Index, inbound); err == nil {
			t.Fatal("it is still attached")
		}
		l.inbound(t)
		is("taken off", "fast")

		without := cfg
		without.noFastPath = true
		l.Datapath = newDatapath(t, without)
		if id, err := l.findFilter(l.uplink.Index, inbound); err != nil || id != 0 || exists(l.pins.link(l.uplink.Index, inbound)) {
			t.Errorf("without a fast path there is program %d, %v", id, err)
		}
		if err := l.verifyHook(l.uplink.Index, inbound); !errors.Is(err, ErrNotAttached) {
			t.Errorf("without a fast path: %v", err)
		}
		l.Datapath = newDatapath(t, cfg)
		l.inbound(t)
		is("with one again", "fast")

		l.give(t, nil)
		if err := l.verifyHook(l.uplink.Index, inbound); !errors.Is(err, ErrNotAttached) {
			t.Errorf("nobody wants it: %v", err)
		}
		if have, err := l.uplinks(); err != nil || len(have) > 0 {
			t.Errorf("uplinks %v: %v", have, err)
		}

		// An uplink that goes away takes nothing else with it.
		l.inbound(t)
		if err := netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.uplink.Index}}); err != nil {
			t.Fatal(err)
		}
		l.give(t, nil)
		if have, err := l.uplinks(); err != nil || len(have) > 0 || exists(l.pins.link(l.uplink.Index, inbound)) {
			t.Errorf("of one that is gone there is %v: %v", have, err)
		}
	})
}

// severed cuts the pinned link of an uplink, if there is one.
func (d *Datapath) severed(ifindex int) error {
	path := d.pins.link(ifindex, inbound)
	if !exists(path) {
		return nil
	}
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// Others at an uplink are found at the hook that counts, and what is ours is not taken for theirs.
func TestInboundOthers(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		l := newInboundLAN(t, Config{Attach: m}, 0)
		is := func(when, want string) {
			t.Helper()
			got, err := l.Others(nil, l.uplink.Index)
			if err != nil || got[l.uplink.Index] != want {
				t.Errorf("%s: %v, %v, want %q", when, got, err, want)
			}
		}
		is("nothing", "")
		p, err := passProgram()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := l.netlink.QdiscAdd(clsact(l.uplink.Index)); err != nil && !errors.Is(err, unix.EEXIST) {
			t.Fatal(err)
		}
		for h, want := range map[Hook]string{ToVM: "", inbound: "a tc filter at ingress"} {
			f := filter(l.uplink.Index, h, p)
			f.Priority++
			if err := l.netlink.FilterReplace(f); err != nil {
				t.Fatal(err)
			}
			is("a filter at "+h.String(), want)
			if err := l.netlink.FilterDel(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: l.uplink.Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}, QdiscType: "pfifo"}); err != nil {
			t.Fatal(err)
		}
		is("a queue, which is for what goes out", "")
	})
}

// Programs are replaced, and the uplink's comes and goes, while packets come by it, and not one is lost, or
// judged twice or not at all.
func TestInboundUnderTraffic(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		cfg := Config{Attach: m, BPFFS: newBPFFS(t)}
		l := newInboundLAN(t, cfg, 0)
		others := []*Datapath{l.Datapath, newDatapath(t, rebuilt(cfg, 1))}
		l.inbound(t)
		l.comes(t, 0, fromFar())
		sent, before := l.sentTo(t, 0), l.counters(t, 0, ToVM)
		n := duringAt(t, l.uplink.Index, fromFar().bytes(), func(round int) error {
			d := others[round%2]
			if err := d.replaceHook(l.uplink.Index, inbound); err != nil {
				return err
			}
			ports := l.both()
			of := ports[l.host[0].Index]
			switch round % 3 {
			case 0:
				delete(ports, l.host[0].Index)
			case 1:
				of.Inbound = false
				ports[l.host[0].Index] = of
			}
			uplinks := []int{l.uplink.Index}
			if round%5 == 0 {
				uplinks = nil
			}
			if failed, err := d.AttachInbound(uplinks...); err != nil || len(failed) > 0 {
				return fmt.Errorf("%v, %w", failed, err)
			}
			lost, err := d.SetFastPath(ports)
			for _, ifindex := range lost {
				_, ferr := d.FoundFast(ifindex, ports[ifindex])
				err = errors.Join(err, ferr)
			}
			return err
		})
		want := maps.Clone(before)
		want[policy.ReasonEstablished] += uint64(flood(t))
		if got := l.counters(t, 0, ToVM); !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
		byBridge := l.sentTo(t, 0) - sent
		if byBridge == 0 || byBridge >= uint64(flood(t)) {
			t.Errorf("%d of %d packets went by the bridge, want some and not all", byBridge, flood(t))
		}
		t.Logf("%d changes; %d packets by the bridge", n, byBridge)
	})
}

// Where the program cannot be attached all is as it is without it, and it is said where.
func TestInboundFails(t *testing.T) {
	l := newInboundLAN(t, Config{Attach: AttachClsact}, 0)
	l.give(t, nil)
	for _, cmd := range [][]string{{"qdisc", "del", "dev", "up", "clsact"}, {"qdisc", "add", "dev", "up", "ingress_block", "21", "clsact"}} {
		if out, err := exec.Command("tc", cmd...).CombinedOutput(); err != nil {
			t.Fatalf("tc %v: %v: %s", cmd, err, out)
		}
	}
	failed, err := l.AttachInbound(l.uplink.Index, noInterface)
	if err != nil || len(failed) != 2 || failed[l.uplink.Index] == nil || failed[noInterface] == nil {
		t.Errorf("failed: %v, %v", failed, err)
	}
	if have, err := l.uplinks(); err != nil || len(have) > 0 {
		t.Errorf("uplinks %v: %v", have, err)
	}
	l.fast(t)
	l.open(t, ping, pong)
	if way := l.says(t, 0, ping); way != "fast" {
		t.Errorf("between VMs a packet went by %q", way)
	}
}

// Once an uplink is ready, programs come and go without its qdiscs being touched, which has older kernels lose
// what is sent meanwhile.
func TestReadyUplink(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		l := newInboundLAN(t, Config{Attach: m, BPFFS: newBPFFS(t)}, 0)
		other, peer := netlink.NewLinkAttrs(), "far-"+fmt.Sprint(l.uplink.Index)
		other.Name = "up-" + fmt.Sprint(l.uplink.Index)
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: other, PeerName: peer}); err != nil {
			t.Fatal(err)
		}
		fresh, err := netlink.LinkByName(other.Name)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := netlink.LinkDel(fresh); err != nil {
				t.Error(err)
			}
		}()
		places := func() (n int) {
			t.Helper()
			all, err := netlink.QdiscList(fresh)
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range all {
				if q.Type() == "clsact" {
					n++
				}
			}
			return n
		}
		want := 1
		if l.inboundByTCX() { // it needs none
			want = 0
		}
		for range 2 {
			if err := l.ReadyUplink(fresh.Attrs().Index); err != nil || places() != want {
				t.Errorf("an uplink that is ready has %d clsact, want %d: %v", places(), want, err)
			}
		}
		for _, uplinks := range [][]int{{fresh.Attrs().Index}, {}, {fresh.Attrs().Index}, {}} {
			if failed, err := l.AttachInbound(uplinks...); err != nil || len(failed) > 0 || places() != want {
				t.Errorf("with the program at %v it has %d clsact, want %d: %v, %v", uplinks, places(), want, failed, err)
			}
		}
	})
}
