package agent

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// pins are the port's pinned links.
func (l live) pins(ifindex int) []string {
	l.Helper()
	pins, err := filepath.Glob(filepath.Join(l.cfg.BPFFS, "homeport", "v*", "links", strconv.Itoa(ifindex)+"-*"))
	l.must(err)
	return pins
}

// TestSettle: ports are settled one after the other in quiet times; one that is
// known to be settled is not asked for again, until its hooks are repaired or
// another port has its key.
func TestSettle(t *testing.T) {
	l := newLive(t)
	first, second := l.open("veth1", 1), l.open("veth2", 2)
	l.lastAsked.Store(time.Now().Add(time.Hour).UnixNano())
	l.settleRound(t.Context())
	if n := len(l.table.unsettled()); n != 2 {
		t.Fatalf("while ADDs come, %d ports are left to settle; want both", n)
	}
	l.lastAsked.Store(0)
	l.settleRound(t.Context())
	if left := l.table.unsettled(); len(left) != 0 || !l.kernel.dp.Settled(first.HostIfIndex) || !l.kernel.dp.Settled(second.HostIfIndex) {
		t.Fatalf("not settled: %+v", left)
	}
	l.must(l.kernel.DetachPort(first.HostIfIndex))
	if found := l.round(); len(found) != 1 {
		t.Fatalf("found %+v", found)
	}
	if left := l.table.unsettled(); len(left) != 1 || left[0].rec.HostIfName != "veth1" {
		t.Errorf("after a repair, left to settle: %+v; want veth1", left)
	}
	l.settleRound(t.Context())
	if len(l.table.unsettled()) != 0 || !l.kernel.dp.Settled(first.HostIfIndex) {
		t.Error("after its repair veth1 does not settle again")
	}
	e, unlock := l.table.lock(second.Key)
	l.table.release(e)
	l.must(l.table.claim(e, second, l.alive))
	l.table.opened(e)
	unlock()
	if left := l.table.unsettled(); len(left) != 1 || left[0].rec.HostIfName != "veth2" {
		t.Errorf("a new port of a settled one's key: left to settle are %+v", left)
	}
}

// TestSettleLeavesDrift: a hook that was taken away is counted before it is mended.
func TestSettleLeavesDrift(t *testing.T) {
	l := newLive(t)
	rec := l.open("veth1", 1)
	l.dropClsact(rec.HostIfIndex)
	l.settleRound(t.Context())
	if len(l.table.unsettled()) != 1 {
		t.Error("a port without its program counts as settled")
	}
	if found := l.round(); len(found) != 1 || found[0].kind != "HookDetached" {
		t.Errorf("found %+v", found)
	}
}

// TestSevered: a settled port that loses its program is told as open: by a link
// that somebody cut, at either hook, or where there are none by a filter.
func TestSevered(t *testing.T) {
	for name, which := range map[string][]int{"both hooks": {0, 1}, "from-VM": {0}, "to-VM": {1}} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t)
			rec := l.open("veth1", 1)
			l.settleRound(t.Context())
			kind := l.sever(rec.HostIfIndex, which)
			found := l.lookAtHooks()
			if len(found) != 1 || found[0].kind != kind || !found[0].urgent || !strings.Contains(found[0].message, "open, without its firewall, until it is repaired") {
				t.Fatalf("found %+v, want %s of an open port", found, kind)
			}
			l.noteProblems(found, l.drift.settle(found))
			if err := l.kernel.VerifyPort(rec); err != nil {
				t.Errorf("not repaired: %v", err)
			}
			if d := l.drift.list(); len(d) != 1 || d[0].Kind != kind || d[0].Seen != 1 || d[0].Repaired != 1 {
				t.Errorf("counted as %+v", d)
			}
		})
	}
}

// sever takes hooks (0 from the VM, 1 to it) from a settled port, and says what
// kind of drift that is.
func (l live) sever(ifindex int, hooks []int) string {
	l.Helper()
	if l.kernel.Hook() != "tcx" {
		if len(hooks) == 2 {
			l.dropClsact(ifindex)
		} else {
			l.dropFilters(ifindex, [2]uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS}[hooks[0]])
		}
		return "HookDetached"
	}
	pins := l.pins(ifindex)
	if len(pins) != 2 {
		l.Fatalf("pinned links: %v", pins)
	}
	for _, i := range hooks {
		l.cut(pins[i])
	}
	return "LinkSevered"
}

// cut detaches a pinned link, as anybody with CAP_BPF can.
func (l live) cut(pin string) {
	l.Helper()
	lk, err := link.LoadPinnedLink(pin, nil)
	l.must(err)
	l.must(errors.Join(lk.Detach(), lk.Close()))
}

// dropClsact deletes the qdisc with the filters of both hooks.
func (l live) dropClsact(ifindex int) {
	l.Helper()
	l.must(netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
}

// dropFilters deletes the filters of one hook; there is at least one.
func (l live) dropFilters(ifindex int, parent uint32) {
	l.Helper()
	all, err := netlink.FilterList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, parent)
	l.must(err)
	if len(all) == 0 {
		l.Fatal("no filter to delete")
	}
	for _, f := range all {
		l.must(netlink.FilterDel(f))
	}
}
