package agent

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestStrays: an open port of ours whose record is lost belongs to a living pod.
// It is left alone, and told until its record is known again or its pod ends.
func TestStrays(t *testing.T) {
	l := newLive(t)
	known, lost := l.open("veth1", 1), l.open("veth2", 2)
	const why = "veth2 is an open port without a record"
	l.collectLeftovers()
	if s := l.nodeStatus(); strings.Contains(strings.Join(s.Reasons, "\n"), "without a record") {
		t.Fatalf("strays among known ports: %q", s.Reasons)
	}
	l.must(l.store.Delete(lost.Key))
	l = l.restart()
	l.must(l.adoptRecords())
	snap, _ := snapshot(t)
	l.take(snap)
	l.collectLeftovers()
	s := l.nodeStatus()
	if reasons := strings.Join(s.Reasons, "\n"); s.Ready || strings.Count(reasons, "without a record") != 1 || !strings.Contains(reasons, why) {
		t.Errorf("status: ready %v, %q", s.Ready, s.Reasons)
	}
	for _, rec := range []*attach.Record{known, lost} {
		if err := l.kernel.VerifyPort(rec); err != nil {
			t.Errorf("%s was touched: %v", rec.HostIfName, err)
		}
	}
	l.must(l.store.Put(lost)) // somebody has put it back
	l.collectLeftovers()
	if len(l.table.list()) != 2 {
		t.Errorf("the record that is back is not taken up: %+v", l.table.list())
	}
	if s := l.nodeStatus(); strings.Contains(strings.Join(s.Reasons, "\n"), why) {
		t.Errorf("with its record: %q", s.Reasons)
	}
	l.must(l.store.Delete(lost.Key))
	e, unlock := l.table.lock(lost.Key)
	l.table.release(e)
	unlock()
	host, err := netlink.LinkByName("veth2")
	l.must(err)
	l.must(netlink.LinkDel(host))
	l.collectLeftovers()
	if len(l.world.strays) != 0 {
		t.Errorf("after its pod has ended: %q", l.world.strays)
	}
	if _, ok := l.kernel.State(lost.HostIfIndex); ok {
		t.Error("its program's record stays")
	}
}

// TestLeftOverRecords: the sweep ends records whose port is gone or never was
// complete, also of an earlier boot, takes up those that live, and touches
// nothing that an ADD is at work on.
func TestLeftOverRecords(t *testing.T) {
	l := newLive(t)
	gone := l.veth("veth1", 1)
	l.must(l.kernel.net.DeleteVethFast(bridge.Ref{Index: gone.HostIfIndex, Name: "veth1"}))
	half := l.veth("veth2", 2) // a failed undo left it
	l.must(l.kernel.TakeOut(half.HostEnd()))
	old := l.veth("veth3", 3) // its index means another interface since the reboot
	old.BootID = "an earlier boot"
	living := l.veth("veth4", 4)
	l.must(l.kernel.AttachPort(living.HostEnd(), living.Config()))
	l.must(l.kernel.SetState(living.HostIfIndex, attach.Active))
	making := l.veth("veth5", 5) // as half, but its ADD is not over
	l.must(l.kernel.TakeOut(making.HostEnd()))
	for _, rec := range []*attach.Record{gone, half, old, living, making} {
		l.must(l.store.Put(rec))
	}
	e, unlock := l.table.lock(making.Key)
	l.must(l.table.claim(e, making, l.alive))
	unlock()
	l.collectLeftovers()
	left := map[string]bool{}
	for _, rec := range l.records() {
		left[rec.HostIfName] = true
	}
	if len(left) != 2 || !left["veth4"] || !left["veth5"] {
		t.Errorf("records left: %v; want those of veth4 and veth5", left)
	}
	for name, want := range map[string]bool{"veth2": false, "veth3": true, "veth4": true, "veth5": true} {
		if l.exists(name) != want {
			t.Errorf("interface %s is there: %v, want %v", name, !want, want)
		}
	}
	open := map[string]bool{}
	for _, it := range l.table.list() {
		open[it.rec.HostIfName] = it.open
	}
	if len(open) != 2 || !open["veth4"] || open["veth5"] {
		t.Errorf("ports known, and open: %v", open)
	}
	if len(l.world.strays) != 0 {
		t.Errorf("strays: %q", l.world.strays)
	}
}

// TestResolveAgain: between the moment that a request is understood and that its
// port is claimed, its network changes. The old meaning is not attached; once
// claimed, the network stays as it was.
func TestResolveAgain(t *testing.T) {
	l := newLive(t)
	rec := l.veth("veth1", 1)
	req := rec.Request
	change := func(revision uint64, id vlan.ID) {
		next, _ := snapshot(t)
		next.Revision = revision
		web := next.Networks["web"]
		web.PVID = id
		next.Networks["web"] = web
		l.take(next)
	}
	e, unlock := l.table.lock(req.Key) // so that attach waits after it has resolved
	go func() {
		defer unlock()
		for waiting := 1; waiting < 2; {
			l.table.mu.Lock()
			waiting = e.waiting
			l.table.mu.Unlock()
		}
		change(2, 110)
	}()
	_, err := l.attach(t.Context(), &req)
	if !isRefusal(err, attach.TryAgain, "network") || !strings.Contains(err.Error(), "being changed") {
		t.Errorf("attach: %v", err)
	}
	if len(l.table.list()) != 0 || len(l.records()) != 0 {
		t.Errorf("left: %+v, %+v", l.table.list(), l.records())
	}
	if _, known := l.kernel.State(rec.HostIfIndex); known {
		t.Error("a program was attached")
	}
	// The other way round: claimed first, so the network is kept when it goes.
	e, unlock = l.table.lock(req.Key)
	l.must(l.table.claim(e, rec, l.alive))
	unlock()
	l.take(&desired.Snapshot{Revision: 3})
	if n := l.world.snap.Networks["web"]; !n.Kept {
		t.Errorf("the network of a claimed port: %+v", n)
	}
}
