package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/store"
)

// world is what the node should be and how far it is: desired, compiled, active.
type world struct {
	source   *desired.Snapshot        // as the source last had it
	snap     *desired.Snapshot        // in force: source, and what ports keep of earlier ones; nil until the first
	kept     []desired.Problem        // objects that live ports keep from going
	gone     map[string]desired.Trunk // no longer desired, not yet removed
	health   map[string]trunkHealth   // by trunk
	compiled uint64                   // revision of snap that compiled
	active   uint64                   // revision that the programs judge by
	refused  []desired.Problem        // networks whose newest policy did not compile
	counters compile.Counters
	sets     map[string]policy.Set // last good set a network
	syncErr  string                // why active is not desired
}

// take makes a snapshot the desired one. What living ports stand on stays in
// force although it is gone from the source, and is reported.
func (a *Agent) take(snap *desired.Snapshot) {
	if snap == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.takeLocked(snap)
}

// takeLocked is take; mu is held, so that no snapshot overtakes a newer one.
func (a *Agent) takeLocked(snap *desired.Snapshot) {
	next, kept := keepUsed(snap, a.world.snap, a.table.list())
	if snap == a.world.source && slices.Equal(kept, a.world.kept) {
		return // as it was
	}
	if a.world.snap != nil {
		a.world.gone = goneTrunks(a.world.snap, next, a.world.gone)
	}
	a.world.source, a.world.snap, a.world.kept = snap, next, kept
	if err := a.saveSnapshot(next); err != nil {
		a.log.Error("the desired state in force cannot be saved", "err", err)
	}
}

// letGo takes the source's snapshot again when ports keep removed objects in
// force: the last of them may have ended.
func (a *Agent) letGo() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.world.kept) > 0 {
		a.takeLocked(a.world.source)
	}
}

// goneTrunks adds to gone the trunks of last that next has not, and takes away
// those that are back.
func goneTrunks(last, next *desired.Snapshot, gone map[string]desired.Trunk) map[string]desired.Trunk {
	out := maps.Clone(last.Trunks)
	maps.Copy(out, gone)
	maps.DeleteFunc(out, func(name string, _ desired.Trunk) bool { _, back := next.Trunks[name]; return back })
	return out
}

// keepUsed adds to next the networks and trunks of last that ports still use.
func keepUsed(next, last *desired.Snapshot, ports []item) (*desired.Snapshot, []desired.Problem) {
	if last == nil {
		return next, nil
	}
	var kept []desired.Problem
	out := *next
	out.Networks, out.Trunks = map[string]desired.Network{}, map[string]desired.Trunk{}
	maps.Copy(out.Networks, next.Networks)
	maps.Copy(out.Trunks, next.Trunks)
	report := func(kind, name string) {
		kept = append(kept, desired.Problem{Kind: kind, Name: name, Kept: true,
			Message: "removed from the source, but living ports use it; it stays in force until they end"})
	}
	for _, p := range ports {
		for _, name := range []string{p.rec.Network, p.rec.Policy} {
			n, had := last.Networks[name]
			if _, has := out.Networks[name]; !has && had {
				out.Networks[name] = n
				report("VLANNetwork", name)
			}
		}
		t, had := last.Trunks[p.rec.Trunk]
		if _, has := out.Trunks[p.rec.Trunk]; !has && had {
			out.Trunks[p.rec.Trunk] = t
			report("VLANTrunk", p.rec.Trunk)
		}
	}
	return &out, kept
}

// resolve reads a request against the world as it is now.
func (a *Agent) resolve(req *attach.Request) (resolved, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.world.snap == nil {
		return resolved{}, &attach.Error{Kind: attach.TryAgain, Message: "the agent has not read its desired state yet", Remedy: "see homeportctl status"}
	}
	r, err := resolve(req, a.world.snap, a.world.health)
	if err != nil {
		return r, err
	}
	if _, ok := a.world.sets[r.policy]; !ok {
		return r, &attach.Error{Kind: attach.TryAgain, Field: "network",
			Message: fmt.Sprintf("the policy of network %q is not compiled yet", r.policy), Remedy: "see homeportctl status"}
	}
	return r, nil
}

// syncPolicy compiles the desired policies and makes them active. A network
// whose set cannot be compiled keeps its last good one and holds up no other.
func (a *Agent) syncPolicy() {
	a.mu.RLock()
	w := a.world
	a.mu.RUnlock()
	if w.snap == nil || w.sets != nil && w.active == w.snap.Revision && w.syncErr == "" {
		return
	}
	err := a.compileAndSync(&w)
	w.syncErr = ""
	if err != nil {
		w.syncErr = err.Error()
		a.log.Error("the desired policy is not active; the last one stays in force", "revision", w.snap.Revision, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.world.compiled, a.world.active, a.world.syncErr = w.compiled, w.active, w.syncErr
	a.world.counters, a.world.sets, a.world.refused = w.counters, w.sets, w.refused
}

func (a *Agent) compileAndSync(w *world) error {
	sets := w.snap.PolicySets()
	w.refused = nil
	var counters compile.Counters
	var prog *compile.Program
	for {
		var err error
		if counters, err = compile.Allocate(w.counters, sets); err == nil {
			prog, err = compile.Build(compile.Input{Sets: sets, Counters: counters})
		}
		if err == nil {
			break
		}
		if sets, err = w.fallBack(sets, err); err != nil {
			return err
		}
	}
	w.compiled = w.snap.Revision
	if err := a.kernel.ClearCounters(w.counters, counters); err != nil {
		return err
	}
	if err := a.saveCounters(counters); err != nil {
		return err
	}
	gen, err := a.kernel.Sync(prog)
	if err != nil {
		return err
	}
	w.counters, w.sets = counters, map[string]policy.Set{}
	for _, s := range sets {
		w.sets[s.Network] = s
	}
	if len(w.refused) == 0 {
		w.active = w.snap.Revision
	}
	a.log.Info("policy active", "revision", w.snap.Revision, "generation", gen, "networks", len(sets), "hash", prog.Hash[:12])
	return nil
}

// fallBack replaces the sets that were refused by their last good version, or
// by "drop all" when there never was one: a network without a program drops too,
// but this way it says so in its counters.
func (w *world) fallBack(sets []policy.Set, cause error) ([]policy.Set, error) {
	var refused *compile.RefusedError
	if !errors.As(cause, &refused) {
		return nil, cause
	}
	again := map[string]bool{}
	for _, p := range w.refused {
		again[p.Name] = true
	}
	for _, n := range refused.Networks {
		if again[n.Network] {
			return nil, cause
		}
		w.refused = append(w.refused, desired.Problem{Kind: "VLANNetwork", Name: n.Network, Message: n.Err.Error(), Kept: true})
		for i := range sets {
			if sets[i].Network != n.Network {
				continue
			}
			if last, ok := w.sets[n.Network]; ok {
				sets[i] = last
			} else {
				sets[i] = policy.Set{Network: n.Network, Default: policy.Drop}
			}
		}
	}
	return sets, nil
}

// countersFile holds the rules' counter numbers, so that hits survive restarts.
type countersFile struct {
	Counters []counterEntry `json:"counters"`
}

type counterEntry struct {
	Policy  string `json:"policy,omitempty"`
	ID      uint32 `json:"id,omitempty"`
	Network string `json:"network,omitempty"`
	Counter uint32 `json:"counter"`
}

func (a *Agent) statePath(name string) string { return filepath.Join(a.cfg.Paths.State(), name) }

func (a *Agent) saveCounters(c compile.Counters) error {
	var f countersFile
	for k, n := range c {
		f.Counters = append(f.Counters, counterEntry{k.Policy, k.ID, k.Network, n})
	}
	return saveJSON(a.statePath("counters.json"), f)
}

func (a *Agent) saveSnapshot(s *desired.Snapshot) error {
	return saveJSON(a.statePath("in-force.json"), s)
}

func saveJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return store.WriteFileAtomic(path, b, 0o600)
}

// loadState reads what an earlier agent had in force. Files that are missing or
// broken cost hit counts and kept objects, never the start.
func (a *Agent) loadState() error {
	var f countersFile
	if a.loadJSON("counters.json", &f) {
		a.world.counters = compile.Counters{}
		for _, e := range f.Counters {
			a.world.counters[policy.RuleKey{Policy: e.Policy, ID: e.ID, Network: e.Network}] = e.Counter
		}
	}
	var snap desired.Snapshot
	if a.loadJSON("in-force.json", &snap) {
		snap.Revision = 0
		a.world.snap = &snap
	}
	return nil
}

func (a *Agent) loadJSON(name string, v any) bool {
	path := a.statePath(name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		a.note(fmt.Sprintf("state file %s is set aside: %v", path, err))
		_ = os.Rename(path, path+".corrupt")
		return false
	}
	return true
}
