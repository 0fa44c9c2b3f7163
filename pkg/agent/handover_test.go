package agent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// moving is a Source that says of pods what it is told to.
type moving struct {
	moves map[string]desired.Move // by pod
	moved chan struct{}
}

func (m *moving) Load() (*desired.Snapshot, error) { return nil, errors.New("not asked") }
func (m *moving) Watch(context.Context) (<-chan *desired.Snapshot, error) {
	return nil, errors.New("not asked")
}
func (m *moving) Move(_, name, _ string) desired.Move { return m.moves[name] }
func (m *moving) Moved() <-chan struct{}              { return m.moved }

// follows has an agent go by what the returned source says.
func (l live) follows() *moving {
	m := &moving{moves: map[string]desired.Move{}, moved: make(chan struct{}, 1)}
	l.cfg.Source = m
	return m
}

// waits makes a port that is quarantined, of the pod with its name.
func (l live) waits(name string, mac byte) *attach.Record {
	l.Helper()
	rec := l.veth(name, mac)
	rec.Pod = attach.Pod{Namespace: "shop", Name: name}
	rec.Hold = hold(attach.Quarantined, attach.HoldUnknown, "not asked")
	l.must(l.store.Put(rec))
	l.must(l.kernel.AttachPort(rec.HostEnd(), rec.Config()))
	l.must(l.kernel.SetState(rec.HostIfIndex, rec.Wanted()))
	e, unlock := l.table.lock(rec.Key)
	defer unlock()
	l.must(l.table.claim(e, rec, l.alive))
	l.table.opened(e)
	return rec
}

// is checks a port's state in the kernel, in memory and on disk.
func (l live) is(rec *attach.Record, want attach.State) attach.Record {
	l.Helper()
	kernel, _ := l.kernel.State(rec.HostIfIndex)
	now := l.recordOfInterface(rec.HostIfIndex)
	disk, err := l.store.Get(rec.Key)
	if err != nil || now == nil {
		l.Fatalf("record of %s: %v, on disk %v", rec.HostIfName, now, err)
	}
	if kernel != want || now.Wanted() != want || disk.Wanted() != want {
		l.Errorf("%s is %v, by its record %v, on disk %v; want %v", rec.HostIfName, kernel, now.Wanted(), disk.Wanted(), want)
	}
	return *now
}

// What a new port begins with, and what a request may say of it.
func TestHoldAtFirst(t *testing.T) {
	src := &moving{moves: map[string]desired.Move{
		"none": {State: desired.MoveNone}, "unknown": {Why: "who knows"}, "target": {State: desired.MoveTarget, Why: "it comes"},
		"arrived": {State: desired.MoveArrived}, "left": {State: desired.MoveLeft, Why: "it went"},
	}}
	for _, c := range []struct {
		pod    string
		want   attach.State
		reason string
	}{
		{"none", attach.Active, ""}, {"arrived", attach.Active, ""}, {"unknown", attach.Quarantined, attach.HoldUnknown},
		{"target", attach.Quarantined, attach.HoldTarget}, {"left", attach.Released, attach.HoldMoved},
	} {
		a := &Agent{cfg: Config{Source: src}}
		req := &attach.Request{Pod: attach.Pod{Namespace: "shop", Name: c.pod}}
		h, err := a.holdAtFirst(req)
		if rec := (attach.Record{Hold: h}); err != nil || rec.Wanted() != c.want || h != nil && (h.Reason != c.reason || h.Message != src.moves[c.pod].Why || time.Since(h.Since) > time.Minute) {
			t.Errorf("pod %s: %+v, %v; want %v (%s)", c.pod, h, err, c.want, c.reason)
		}
		req.MigrationTarget = true
		var bad *attach.Error
		if _, err := a.holdAtFirst(req); !errors.As(err, &bad) || bad.Field != "migrationTarget" {
			t.Errorf("pod %s: a request that calls itself a target: %v", c.pod, err)
		}
		// Manifests know nothing of pods: the request's word counts.
		a.cfg.Source = nil
		if h, err := a.holdAtFirst(req); err != nil || h == nil || h.State != attach.Quarantined || h.Reason != attach.HoldTarget {
			t.Errorf("by manifests: %+v, %v", h, err)
		}
		req.MigrationTarget = false
		if h, err := a.holdAtFirst(req); err != nil || h != nil {
			t.Errorf("by manifests, no target: %+v, %v", h, err)
		}
	}
}

// Two ports of one node share a MAC only within one VM's migration.
func TestSharesMAC(t *testing.T) {
	vm := func(s desired.MoveState, name string) desired.Move { return desired.Move{State: s, VM: name} }
	src := &moving{moves: map[string]desired.Move{
		"a": {State: desired.MoveNone, VM: "shop/web", Migrating: true}, "b": {State: desired.MoveTarget, VM: "shop/web", Migrating: true},
		"other": {State: desired.MoveTarget, VM: "shop/mail", Migrating: true}, "counted": vm(desired.MoveTarget, "shop/web"),
		"forged": {}, "second": vm(desired.MoveNone, "shop/web"),
	}}
	rec := func(pod string, h *attach.Hold) *attach.Record {
		r := port(1, 1, access(100))
		r.Key.ContainerID, r.Pod, r.Hold = pod, attach.Pod{Namespace: "shop", Name: pod}, h
		return r
	}
	quarantined := hold(attach.Quarantined, attach.HoldUnknown, "")
	for _, c := range []struct {
		name         string
		mine, theirs *attach.Record
		want         bool
	}{
		{"target and source of one VM", rec("b", quarantined), rec("a", nil), true},
		{"source and target of one VM", rec("a", nil), rec("b", quarantined), true},
		{"targets of two VMs", rec("other", quarantined), rec("b", quarantined), false},
		{"a target and a VM that is not its", rec("other", quarantined), rec("a", nil), false},
		{"two pods of a VM without a migration", rec("second", nil), rec("a", nil), false},
		{"a pod that its VM counts, and does not migrate to", rec("counted", quarantined), rec("a", nil), false},
		{"a pod that its VM counts, and the one that it migrates to", rec("counted", quarantined), rec("b", quarantined), false},
		{"the one that it migrates to, and a pod that its VM counts", rec("b", quarantined), rec("counted", quarantined), false},
		{"a label that nobody confirms", rec("forged", quarantined), rec("a", nil), false},
		{"a port whose VM has left", rec("other", nil), rec("a", hold(attach.Released, attach.HoldMoved, "")), true},
	} {
		for _, disk := range []bool{false, true} {
			a := &Agent{cfg: Config{Source: src}, table: newTable()}
			a.table.shares = a.sharesMAC
			first, unlock := a.table.lock(c.theirs.Key)
			defer unlock()
			alive := func(*attach.Record) bool { return true }
			if err := a.table.claim(first, c.theirs, alive); err != nil {
				t.Fatal(err)
			}
			mine := *c.mine
			mine.HostIfIndex = 2
			e, unlock := a.table.lock(mine.Key)
			defer unlock()
			err, want := a.table.claim(e, &mine, alive), c.want
			if disk { // after a restart, whoever had it may have it
				a.table.release(e)
				err, want = a.table.adopt(e, &mine, alive), c.want || mine.Hold != nil || c.theirs.Hold != nil
			}
			if (err == nil) != want {
				t.Errorf("%s (from disk: %v): %v", c.name, disk, err)
			}
		}
	}
	a := &Agent{}
	if mine := rec("b", nil); a.sharesMAC(mine, rec("a", nil)) {
		t.Error("by manifests, two ports share a MAC")
	} else if mine.MigrationTarget = true; !a.sharesMAC(mine, rec("a", nil)) {
		t.Error("by manifests, the request's word does not count")
	}
}

// A port follows what Kubernetes says of its pod.
func TestFollowMoves(t *testing.T) {
	l := newLive(t)
	src := l.follows()
	say := func(pod string, s desired.MoveState, vm, why string) {
		src.moves[pod] = desired.Move{State: s, VM: vm, Why: why}
		l.followMoves()
	}
	rec := l.waits("veth1", 1)
	say("veth1", desired.MoveUnknown, "", "first")
	if now := l.is(rec, attach.Quarantined); now.Hold.Message != "first" || !now.Hold.Since.Equal(rec.Hold.Since) {
		t.Errorf("hold: %+v, made %+v", now.Hold, rec.Hold)
	}
	say("veth1", desired.MoveTarget, "shop/web", "second")
	if now := l.is(rec, attach.Quarantined); now.Hold.Reason != attach.HoldTarget || now.Hold.Message != "second" {
		t.Errorf("hold: %+v", now.Hold)
	}
	say("veth1", desired.MoveArrived, "shop/web", "third")
	if now := l.is(rec, attach.Active); now.Arrival == nil || now.Arrival.By != attach.ArrivedByAPI {
		t.Errorf("arrival: %+v", now.Arrival)
	}
	src.moves["veth1"] = desired.Move{State: desired.MoveLeft, VM: "shop/web", Why: "fourth", Migration: "m2"}
	l.followMoves()
	if now := l.is(rec, attach.Released); now.Hold.Message != "fourth" {
		t.Errorf("hold: %+v", now.Hold)
	}
	for _, s := range []desired.MoveState{desired.MoveUnknown, desired.MoveTarget} { // no word that it is back
		say("veth1", s, "shop/web", "fifth")
		l.is(rec, attach.Released)
	}
	say("veth1", desired.MoveNone, "", "the VM is forgotten")
	l.is(rec, attach.Released)
	say("veth1", desired.MoveArrived, "shop/web", "what was before it left")
	l.is(rec, attach.Released)
	failed := desired.Move{State: desired.MoveArrived, VM: "shop/web", Failed: true, Migration: "m1", Why: "an earlier one failed"}
	src.moves["veth1"] = failed
	l.followMoves()
	l.is(rec, attach.Released)
	failed.Migration, failed.Why = "m2", "it is here after all"
	src.moves["veth1"] = failed
	l.followMoves()
	l.is(rec, attach.Active)
	// A move here that has failed after the VM announced itself.
	src.moves["veth1"] = desired.Move{State: desired.MoveTarget, VM: "shop/web", Failed: true, Why: "it failed"}
	l.followMoves()
	if now := l.is(rec, attach.Quarantined); now.Hold.Message != "it failed" {
		t.Errorf("hold: %+v", now.Hold)
	}
	// A target that Kubernetes forgets, as a pod deleted by force, does not open.
	say("veth1", desired.MoveNone, "", "not known to Kubernetes")
	l.is(rec, attach.Quarantined)
	say("veth1", desired.MoveUnknown, "", "who knows")
	say("veth1", desired.MoveNone, "", "not known to Kubernetes")
	l.is(rec, attach.Quarantined)

	// What was decided on a state that is over is not done.
	stale := *l.byName("veth1")
	say("veth1", desired.MoveArrived, "shop/web", "it came")
	l.followMove(stale, desired.Move{State: desired.MoveTarget, VM: "shop/web", Why: "it comes"})
	l.is(rec, attach.Active)

	// One that was opened in error closes, and does not open again.
	src.moves["veth1"] = desired.Move{State: desired.MoveNone}
	rec = l.waits("veth4", 4)
	say("veth4", desired.MoveNone, "", "of an older VM of that name")
	l.is(rec, attach.Active)
	src.moves["veth4"] = desired.Move{State: desired.MoveTarget, VM: "shop/mail", Migrating: true, Why: "it comes"}
	l.followMoves()
	l.is(rec, attach.Quarantined)

	// One that says to be a target, and is gone before that was confirmed, stays silent; one
	// that is none does not.
	for i, gone := range []bool{true, false} {
		name := []string{"veth5", "veth6"}[i]
		claims := l.waits(name, byte(5+i))
		src.moves[name] = desired.Move{Claims: true, Why: "it says so"}
		l.followMoves()
		if now := l.is(claims, attach.Quarantined); now.Hold.Reason != attach.HoldClaimed {
			t.Errorf("hold: %+v", now.Hold)
		}
		src.moves[name] = desired.Move{State: desired.MoveNone, Gone: gone, Why: "no target"}
		l.followMoves()
		l.is(claims, map[bool]attach.State{true: attach.Quarantined, false: attach.Active}[gone])
	}

	// One that is no target opens, and is strict.
	plain := l.waits("veth2", 2)
	say("veth2", desired.MoveNone, "", "no target")
	if now := l.is(plain, attach.Active); now.Arrival != nil {
		t.Errorf("it has arrived: %+v", now.Arrival)
	}
	if found := l.round(); len(found) != 0 {
		t.Errorf("drift: %+v", found)
	}
}

// A port that its VM has opened is taken up as open, whatever else is at work on it.
func TestArrival(t *testing.T) {
	l := newLive(t)
	l.follows().moves["veth1"] = desired.Move{State: desired.MoveTarget, Why: "it comes"}
	rec := l.waits("veth1", 1)
	l.followMoves()
	l.is(rec, attach.Quarantined)
	if !l.takeArrivals() || l.recordOfInterface(rec.HostIfIndex).Hold == nil {
		t.Fatal("it has arrived too early")
	}
	l.announceAt("veth1")
	if !l.takeArrivals() || l.takeArrivals() {
		t.Error("it waits on")
	}
	if now := l.is(rec, attach.Active); now.Arrival == nil || now.Arrival.By != attach.ArrivedByAnnouncement {
		t.Errorf("arrival: %+v", now.Arrival)
	}
	l.followMoves() // the API lags behind
	l.is(rec, attach.Active)
}

// announceAt sends a reverse ARP with the port's MAC from the other end of its veth.
func (l live) announceAt(name string) {
	l.Helper()
	rec := l.byName(name)
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, rec.MAC...)
	l.sendFrom(name+"p", append(append(frame, 0x80, 0x35), make([]byte, 46)...))
}

// Drift of a quarantined port is repaired without opening it, and without closing one
// that its VM has just opened; a restarted agent has it as it was.
func TestQuarantineOutlives(t *testing.T) {
	l := newLive(t)
	src := l.follows()
	src.moves["veth1"] = desired.Move{Why: "not asked"}
	rec := l.waits("veth1", 1)
	repaired := func(kind string, want attach.State) {
		t.Helper()
		found := l.lookAtHooks()
		if len(found) != 1 || found[0].kind != kind {
			t.Fatalf("found %+v, want %s", found, kind)
		}
		l.must(found[0].repair())
		if s, _ := l.kernel.State(rec.HostIfIndex); s != want {
			t.Errorf("after repair of %s it is %v, want %v", kind, s, want)
		}
	}
	l.must(l.kernel.SetState(rec.HostIfIndex, attach.Active))
	repaired("PortNotSilent", attach.Quarantined)
	l.must(l.kernel.SetState(rec.HostIfIndex, attach.Dark))
	repaired("PortNotSilent", attach.Quarantined)
	l.must(l.kernel.DetachPort(rec.HostIfIndex))
	repaired("PortRecordLost", attach.Quarantined)
	config := rec.Config()
	config.Policy = "small"
	l.announceAt("veth1")
	l.must(l.kernel.dp.UpdatePort(rec.HostIfIndex, config))
	repaired("PortConfigChanged", attach.Active)
	l.must(l.kernel.SetState(rec.HostIfIndex, attach.Quarantined)) // once more

	next := l.restart()
	next.cfg.Source = src
	next.world = l.world
	next.must(next.adoptRecords())
	next.is(rec, attach.Quarantined)
	next.announceAt("veth1")
	next.takeArrivals()
	next.is(rec, attach.Active)
}

// The target of a VM that names no MAC takes the one that the VM has.
func TestTakeMAC(t *testing.T) {
	l := newLive(t)
	src := l.follows()
	rec := l.waits("veth1", 1)
	src.moves["veth1"] = desired.Move{State: desired.MoveTarget, VM: "shop/web", MACs: map[string]string{rec.IfName: "00:50:56:00:00:77"}}
	l.followMoves()
	now := l.is(rec, attach.Quarantined)
	if got := now.MAC.String(); got != "00:50:56:00:00:77" {
		t.Errorf("the record's MAC is %s", got)
	}
	p, err := l.kernel.dp.Port(rec.HostIfIndex)
	if err != nil || p.MAC.String() != "00:50:56:00:00:77" {
		t.Errorf("the port's MAC is %v, %v", p.MAC, err)
	}
	// Another living port has it: nothing is taken away.
	other := l.waits("veth2", 2)
	src.moves["veth2"] = desired.Move{State: desired.MoveTarget, VM: "shop/thief", MACs: map[string]string{other.IfName: "00:50:56:00:00:77"}}
	l.followMoves()
	if now := l.is(other, attach.Quarantined); strings.HasSuffix(now.MAC.String(), "77") || !strings.Contains(now.Hold.Message, "it cannot take its VM's MAC: ") {
		t.Errorf("it has taken %s: %s", now.MAC, now.Hold.Message)
	}
}

// A released port whose VM goes on sending is told of; its launcher's noise is not.
func TestStillTalks(t *testing.T) {
	l := newLive(t)
	l.follows().moves["veth1"] = desired.Move{State: desired.MoveLeft, VM: "shop/web", Why: "it went"}
	rec := l.waits("veth1", 1)
	l.followMoves()
	l.is(rec, attach.Released)
	problems := func() []string {
		ports, _, err := l.readPorts()
		l.must(err)
		return ports[0].Problems
	}
	frame := append(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 2, 0, 0, 0, 0, 0x99, 8, 6), make([]byte, 46)...)
	l.sendFrom("veth1p", frame)
	if p := problems(); len(p) != 0 {
		t.Errorf("noise: %q", p)
	}
	copy(frame[6:], rec.MAC)
	l.sendFrom("veth1p", frame)
	if p := problems(); len(p) != 1 || !strings.Contains(p[0], "1 frames with its MAC") || !strings.Contains(p[0], "two copies") {
		t.Errorf("its VM: %q", p)
	}
}

// What somebody says by hand counts, where nobody else can say it.
func TestByHand(t *testing.T) {
	l := newLive(t)
	rec := l.waits("veth1", 1)
	refused := func(err error, want string) {
		t.Helper()
		var e *attach.Error
		if !errors.As(err, &e) || !strings.Contains(e.Message, want) {
			t.Errorf("refused with %v, want %q", err, want)
		}
	}
	ask := func(h func(context.Context, *attach.Key) (any, error), k attach.Key) error {
		_, err := h(context.Background(), &k)
		return err
	}
	l.must(ask(l.openByHand, rec.Key))
	if now := l.is(rec, attach.Active); now.Arrival == nil || now.Arrival.By != attach.ArrivedByOperator {
		t.Errorf("arrival: %+v", now.Arrival)
	}
	refused(ask(l.openByHand, rec.Key), "veth1 is open")
	l.must(ask(l.releaseByHand, rec.Key))
	l.is(rec, attach.Released)
	refused(ask(l.releaseByHand, rec.Key), "released already")
	// Another has its MAC meanwhile.
	l.table.shares = func(_, theirs *attach.Record) bool { return theirs.Wanted() == attach.Released }
	thief := l.waits("veth2", 1)
	refused(ask(l.openByHand, rec.Key), "is held in VLAN 100 by a living port")
	l.is(rec, attach.Released)
	e, unlock := l.table.lock(thief.Key)
	l.must(l.end(e, thief))
	unlock()
	l.must(ask(l.openByHand, rec.Key))
	l.is(rec, attach.Active)
	nobody := rec.Key
	nobody.ContainerID = "nobody"
	refused(ask(l.openByHand, nobody), "not attached")
	refused(ask(l.releaseByHand, nobody), "not attached")
	l.follows().moves["veth1"] = desired.Move{State: desired.MoveNone}
	refused(ask(l.releaseByHand, rec.Key), "Kubernetes says where VMs run")
	src := l.follows()
	src.moves["veth1"] = desired.Move{State: desired.MoveLeft, Why: "it went"}
	l.followMoves()
	l.is(rec, attach.Released)
	refused(ask(l.openByHand, rec.Key), "Kubernetes says that its VM has moved away")
	src.moves["veth7"] = desired.Move{State: desired.MoveTarget, Failed: true, Why: "the migration has failed: no room"}
	failed := l.waits("veth7", 7)
	refused(ask(l.openByHand, failed.Key), "has failed: no room")
	l.is(failed, attach.Quarantined)
}

// An agent that is killed after it has handed a port over and before it has written so
// is followed by one that knows: the port is not quarantined anew.
func TestKilledInHandOver(t *testing.T) {
	l := newLive(t)
	src := l.follows()
	src.moves["veth1"] = desired.Move{State: desired.MoveTarget, Why: "it comes"}
	rec := l.waits("veth1", 1)
	l.must(l.kernel.dp.HandOver(rec.HostIfIndex))
	next := l.restart()
	next.cfg.Source, next.world = src, l.world
	next.must(next.adoptRecords())
	if found := next.lookAtHooks(); len(found) != 0 {
		t.Errorf("drift: %+v", found)
	}
	next.takeArrivals()
	next.followMoves()
	if now := next.is(rec, attach.Active); now.Arrival == nil {
		t.Error("its VM's arrival is forgotten")
	}
}

// An agent that is killed after it has written that a VM has left, and before the port
// is silent, is followed by one that silences it, whatever the API says by then.
func TestKilledInRelease(t *testing.T) {
	l := newLive(t)
	l.follows().moves["veth1"] = desired.Move{State: desired.MoveNone, VM: "shop/web"}
	rec := l.waits("veth1", 1)
	l.rehold(*rec, nil)
	now := l.is(rec, attach.Active)
	now.Hold = hold(attach.Released, attach.HoldMoved, "it went")
	l.must(l.store.Put(&now))
	next := l.restart()
	next.cfg.Source, next.world = &moving{}, l.world
	next.must(next.adoptRecords())
	found := next.lookAtHooks()
	if len(found) != 1 || found[0].kind != "PortNotSilent" {
		t.Fatalf("found %+v", found)
	}
	next.must(found[0].repair())
	next.is(rec, attach.Released)
}

// By manifests, a VM that has come to another port of the same node has left its own.
func TestLeaveBehind(t *testing.T) {
	l := newLive(t)
	from := l.open("veth1", 1)
	bystander := l.open("veth3", 3)
	l.table.shares = func(mine, theirs *attach.Record) bool { return true }
	to := l.waits("veth2", 1)
	l.announceAt("veth2")
	l.takeArrivals()
	l.is(to, attach.Active)
	if now := l.is(from, attach.Released); !strings.Contains(now.Hold.Message, "has come to veth2") {
		t.Errorf("hold: %+v", now.Hold)
	}
	l.is(bystander, attach.Active)
}

// What Kubernetes says of a VM's addresses its guest may have said.
func TestAddressesOf(t *testing.T) {
	l := newLive(t)
	rec := l.waits("veth1", 1)
	rec.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	if got := l.addressesOf(rec); len(got) != 1 || got[0] != rec.Addresses[0] {
		t.Errorf("by manifests: %v", got)
	}
	n := l.world.snap.Networks[rec.Policy]
	n.Subnets = []desired.Subnet{{CIDR: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.1")}}
	l.world.snap.Networks[rec.Policy] = n
	var said []netip.Addr
	for _, s := range []string{"10.1.0.1", "10.1.0.7", "10.1.0.7", "192.0.2.9", "fe80::1"} {
		said = append(said, netip.MustParseAddr(s))
	}
	l.follows().moves["veth1"] = desired.Move{State: desired.MoveArrived, VM: "shop/web", Addresses: map[string][]netip.Addr{rec.IfName: said}}
	if got := l.addressesOf(rec); len(got) != 1 || got[0] != netip.MustParseAddr("10.1.0.7") {
		t.Errorf("announced: %v", got)
	}
}
