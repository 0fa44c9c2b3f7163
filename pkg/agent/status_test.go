package agent

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/hostfw"
)

// idleAgent has no kernel and no store.
func idleAgent(t *testing.T) *Agent {
	dir := t.TempDir()
	return &Agent{cfg: Config{Paths: attach.Paths{RunDir: dir}}, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		table: newTable(), drift: newDriftBook(), hostfw: newHostFirewall(hostfw.Host{}), fast: newFastBook()}
}

// TestDriftStaysVisible: what is not repaired is told in every round, also in
// those between two tries and where the first try is yet to come.
func TestDriftStaysVisible(t *testing.T) {
	a := idleAgent(t)
	a.drift.now = newClock().now
	rec := port(1, 1, access(100))
	e, unlock := a.table.lock(rec.Key)
	if err := a.table.claim(e, rec, func(*attach.Record) bool { return true }); err != nil {
		t.Fatal(err)
	}
	unlock()
	round := func(repair error) []string {
		found := []finding{{kind: "PortUnslaved", subject: rec.HostIfName, message: "traffic is cut", repair: func() error { return repair }}}
		a.noteProblems(found, a.drift.settle(found))
		return a.table.list()[0].problems
	}
	if p := round(nil); len(p) != 0 {
		t.Errorf("repaired at once, yet told: %q", p)
	}
	for i := range 2 {
		if p := round(nil); len(p) != 1 || len(openDrift(a.drift.list())) != 1 {
			t.Errorf("round %d of waiting: port has %q, node %+v", i, p, a.drift.list())
		}
	}
	a = idleAgent(t)
	a.drift.now = newClock().now
	found := []finding{{kind: "UplinkUnslaved", subject: "eth1", message: "traffic is cut", repair: func() error { return errors.New("refused") }}}
	for i := range 2 {
		a.noteProblems(found, a.drift.settle(found))
		if open := openDrift(a.drift.list()); len(open) != 1 || open[0].Message != "traffic is cut; repair failed: refused" {
			t.Errorf("round %d: a drift that cannot be repaired is not told: %+v", i, open)
		}
	}
	a.noteProblems(nil, a.drift.settle(nil))
	if open := openDrift(a.drift.list()); len(open) != 0 {
		t.Errorf("a drift that went away is told: %+v", open)
	}
}

// TestNotReadyKind: ports suffer by what is wrong now, not by what once was.
func TestNotReadyKind(t *testing.T) {
	v := wire.NodeStatus{Reasons: []string{"revision 2 is desired"}, Drift: []wire.DriftCount{{Kind: "PortDown", Subject: "veth1", Seen: 1, Repaired: 1}}}
	if err := notReady(v); err.Kind != attach.Unavailable {
		t.Errorf("after a repaired drift: %v", err.Kind)
	}
	v.Drift[0].Message = "down"
	if err := notReady(v); err.Kind != attach.Limited {
		t.Errorf("with drift: %v", err.Kind)
	}
}

// TestLetGo: a port keeps its network in force. Looking again changes nothing
// and writes nothing, and never brings back an older snapshot.
func TestLetGo(t *testing.T) {
	a := idleAgent(t)
	first, _ := snapshot(t)
	rec := port(1, 1, access(100))
	e, unlock := a.table.lock(rec.Key)
	if err := a.table.claim(e, rec, func(*attach.Record) bool { return true }); err != nil {
		t.Fatal(err)
	}
	unlock()
	a.take(first)
	a.take(&desired.Snapshot{Revision: 2})
	if len(a.world.kept) == 0 {
		t.Fatal("nothing is kept")
	}
	file := a.statePath("in-force.json")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	a.letGo()
	if _, err := os.Stat(file); err == nil {
		t.Error("what did not change was written again")
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				a.letGo()
			}
		}
	}()
	for rev := uint64(3); rev < 300; rev++ {
		a.take(&desired.Snapshot{Revision: rev})
		a.mu.RLock()
		got := a.world.source.Revision
		a.mu.RUnlock()
		if got != rev {
			t.Errorf("revision %d was taken, %d is in force", rev, got)
			break
		}
	}
	close(stop)
	<-stopped
	a.table.release(e)
	a.letGo()
	if len(a.world.kept)+len(a.world.snap.Networks) != 0 {
		t.Errorf("kept without a port: %+v", a.world.kept)
	}
}

// TestOneAgent: a second agent is refused before it touches anything, and a dead
// one's lock is no obstacle.
func TestOneAgent(t *testing.T) {
	dir := t.TempDir()
	first, err := lockNode(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockNode(dir); err == nil {
		t.Error("two agents hold one node")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := lockNode(dir)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	second.Close()
}
