package agent

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestDamagedState: a state file that is cut, empty, or has one wrong bit is set
// aside and told, and nothing of it is taken for what is in force.
func TestDamagedState(t *testing.T) {
	whole := idleAgent(t)
	snap, _ := snapshot(t)
	sets := policyState{Sets: map[string]policy.Set{"web": {Network: "web", Default: policy.Allow}}}
	for name, v := range map[string]any{snapshotFile: snap, policyFile: sets} {
		if err := saveJSON(whole.statePath(name), v); err != nil {
			t.Fatal(err)
		}
		good, err := os.ReadFile(whole.statePath(name))
		if err != nil {
			t.Fatal(err)
		}
		damaged := map[string][]byte{"empty": {}, "cut": good[:len(good)/2], "no object": []byte("[]"), "another's": []byte("{}")}
		// A digit that becomes another one is still JSON: the VLAN, the action.
		at := bytes.Index(good, []byte(`"pvid":100`))
		if at = at + len(`"pvid":10`); name == policyFile {
			at = bytes.Index(good, []byte(`"web"`)) + 1
		}
		flipped := bytes.Clone(good)
		flipped[at] ^= 1
		damaged["one bit"] = flipped
		for how, content := range damaged {
			a := idleAgent(t)
			path := a.statePath(name)
			if err := errors.Join(saveJSON(path, v), os.WriteFile(path, content, 0o600)); err != nil {
				t.Fatal(err)
			}
			a.loadState()
			if a.world.snap != nil || a.world.Sets != nil {
				t.Errorf("%s, %s: it was taken for the truth: %+v %+v", name, how, a.world.snap, a.world.Sets)
			}
			told := a.notes.texts()
			if len(told) != 1 || !strings.Contains(told[0], path+": ") || !strings.Contains(told[0], "set aside as "+path+".corrupt") {
				t.Errorf("%s, %s: told as %q", name, how, told)
			}
			if aside, err := os.ReadFile(path + ".corrupt"); err != nil || !bytes.Equal(aside, content) {
				t.Errorf("%s, %s: set aside as %q, %v", name, how, aside, err)
			}
			if a.notes.sweep(); len(a.notes.texts()) != 1 {
				t.Errorf("%s, %s: not told any more while it lies there", name, how)
			}
			if err := os.Remove(path + ".corrupt"); err != nil {
				t.Fatal(err)
			}
			if a.notes.sweep(); len(a.notes.texts()) != 0 {
				t.Errorf("%s, %s: still told when it was removed: %q", name, how, a.notes.texts())
			}
		}
		a := idleAgent(t)
		if err := saveJSON(a.statePath(name), v); err != nil {
			t.Fatal(err)
		}
		a.loadState()
		if len(a.notes.texts()) != 0 || a.world.snap == nil == (a.world.Sets == nil) {
			t.Errorf("a sound %s: told %q, snapshot %v, sets %v", name, a.notes.texts(), a.world.snap, a.world.Sets)
		}
	}
}

// TestEveryBit: whatever bit of a state file is wrong, what is read is what was
// written, or nothing.
func TestEveryBit(t *testing.T) {
	a := idleAgent(t)
	path := a.statePath("x")
	want := desired.Trunk{Name: "trunk0", Bridge: "br0", AllowedVLANs: set(t, "100-110")}
	if err := saveJSON(path, want); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		var got desired.Trunk
		if readJSON(path, &got) == nil && !cmp.Equal(want, got, cmp.AllowUnexported(vlan.Set{})) {
			t.Fatalf("bit %d: read as %+v", bit, got)
		}
	}
}

// TestStale: a node whose source is gone says so and since when; what is in force
// is as ready as before.
func TestStale(t *testing.T) {
	l := newLive(t)
	fine := *l.world.snap
	l.world.active = fine.Revision
	broken := l.world.health["broken"]
	l.trunksAreUp()
	if s := l.nodeStatus(); !s.Ready || len(s.Conditions) != 0 {
		t.Fatalf("at first: ready %v, %q, %+v", s.Ready, s.Reasons, s.Conditions)
	}
	stale := fine
	since := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	stale.Stale = &desired.Stale{Since: since, Reason: "SourceEmpty", Message: "/etc/homeport: has no manifests any more"}
	l.take(&stale)
	s := l.nodeStatus()
	want := []wire.Condition{{Type: "DesiredStateStale", Status: "True", Reason: "SourceEmpty", LastTransitionTime: since, Message: stale.Stale.Message}}
	if d := cmp.Diff(want, s.Conditions); d != "" || !s.Ready {
		t.Errorf("stale: ready %v, %q; conditions (-want +got):\n%s", s.Ready, s.Reasons, d)
	}
	l.world.health["broken"] = broken
	if s := l.nodeStatus(); s.Ready {
		t.Error("a stale source hides a trunk that is not ready")
	}
	l.take(&fine)
	if s := l.nodeStatus(); len(s.Conditions) != 0 {
		t.Errorf("after its return: %+v", s.Conditions)
	}
}

// TestMovedTrunk: a trunk that is desired elsewhere is not ready until it is set up there,
// whatever it was where it stood.
func TestMovedTrunk(t *testing.T) {
	l := newLive(t)
	l.world.active = l.world.snap.Revision
	l.trunksAreUp()
	before := l.world.snap
	for what, move := range map[string]func(*desired.Trunk){
		"another bridge":    func(t *desired.Trunk) { t.Bridge = "br9" },
		"another uplink":    func(t *desired.Trunk) { t.Uplink = "eth9" },
		"managed, not ours": func(t *desired.Trunk) { t.Managed = !t.Managed },
	} {
		next := *before
		next.Trunks = maps.Clone(next.Trunks)
		trunk := next.Trunks["open"]
		move(&trunk)
		next.Trunks["open"] = trunk
		l.take(&next)
		s := l.nodeStatus()
		i := slices.IndexFunc(s.Trunks, func(t wire.TrunkStatus) bool { return t.Name == "open" })
		if got := s.Trunks[i]; s.Ready || got.Ready || got.MTU != 0 || got.Message != notSetUp {
			t.Errorf("%s: ready %v, trunk %+v", what, s.Ready, got)
		}
		if _, err := l.resolve(network("web")); err == nil || !strings.Contains(err.Error(), notSetUp) {
			t.Errorf("%s: an ADD is answered %v", what, err)
		}
		l.take(before)
		if s := l.nodeStatus(); !s.Ready {
			t.Errorf("%s, and back: %q", what, s.Reasons)
		}
	}
}

// deadSource has nothing to give.
type deadSource struct{}

func (deadSource) Load() (*desired.Snapshot, error) {
	return nil, errors.New("/etc/homeport: want a directory of *.yaml manifests")
}

func (deadSource) Watch(context.Context) (<-chan *desired.Snapshot, error) { return nil, nil }

// TestNothingRead: an agent that starts without its source goes on with what the
// last one had in force, and says that it is no more than that.
func TestNothingRead(t *testing.T) {
	a := idleAgent(t)
	snap, _ := snapshot(t)
	if err := saveJSON(a.statePath(snapshotFile), snap); err != nil {
		t.Fatal(err)
	}
	a.loadState()
	a.cfg.Source = deadSource{}
	a.readSource()
	got := a.world.conditions()
	if a.world.snap == nil || len(got) != 1 || got[0].Reason != "SourceUnreadable" || got[0].LastTransitionTime.IsZero() || !strings.Contains(got[0].Message, "/etc/homeport") {
		t.Errorf("conditions %+v", got)
	}
	a.take(snap)
	if got := a.world.conditions(); len(got) != 0 {
		t.Errorf("after it was read: %+v", got)
	}
}

// TestKeptRefusesNew: a port lives on a network that was removed; a new one is
// refused there, before and after a restart, and the living one stays.
func TestKeptRefusesNew(t *testing.T) {
	l := newLive(t)
	rec := l.open("veth1", 1)
	if _, err := l.resolve(network("web")); err != nil {
		t.Fatal(err)
	}
	next, _ := snapshot(t)
	next.Revision = 2
	delete(next.Networks, "web")
	l.take(next)
	for _, when := range []string{"at once", "after a restart"} {
		_, err := l.prepare(t.Context(), asks(network("web"), "c2"))
		if !isRefusal(err, attach.InvalidConfig, "network") {
			t.Errorf("%s: a new port on a removed network: %v", when, err)
		}
		l.letGo()
		if n, ok := l.world.snap.Networks["web"]; !ok || !n.Kept || l.kernel.VerifyPort(rec) != nil {
			t.Errorf("%s: the living port's network is %+v, its programs: %v", when, n, l.kernel.VerifyPort(rec))
		}
		health, sets := l.world.health, l.world.Sets
		l = l.restart()
		l.must(l.adoptRecords())
		l.take(next)
		l.world.health, l.world.Sets = health, sets
	}
	back, _ := snapshot(t)
	back.Revision = 3
	l.take(back)
	if _, err := l.resolve(network("web")); err != nil {
		t.Errorf("its manifest is back: %v", err)
	}
	if slices.ContainsFunc(l.world.kept, func(p desired.Problem) bool { return p.Name == "web" }) {
		t.Errorf("still told: %+v", l.world.kept)
	}
}
