package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// policyProgress is how far the desired policies have come.
type policyProgress struct {
	stale    bool         // snap has changed since it was last compiled
	tried    time.Time    // when it was last tried
	compiled uint64       // revision that compiled
	active   uint64       // revision that the programs judge by, but for what is refused
	since    time.Time    // when another revision than active was first desired
	refused  []refusedSet // whose newest rules did not compile
	syncErr  string       // why active is not desired
	policyState
}

// policyState is kept on disk: hits survive restarts by their counters, and a
// network whose newest rules are refused falls back to its last good set also
// after one.
type policyState struct {
	Counters compile.Counters
	Sets     map[string]policy.Set // in force, by ID
}

// storedPolicy is policyState as it is on disk.
type storedPolicy struct {
	Counters compile.Counters `json:"counters"`
	policy.StoredSets
}

// MarshalJSON writes the addresses of address sets once.
func (s policyState) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedPolicy{s.Counters, policy.Store(s.Sets)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *policyState) UnmarshalJSON(text []byte) error {
	var stored storedPolicy
	if err := json.Unmarshal(text, &stored); err != nil {
		return err
	}
	s.Counters, s.Sets = stored.Counters, stored.Load()
	return nil
}

// refusedSet is a set of rules that cannot be compiled, and why.
type refusedSet struct {
	id, network string
	why         error
}

// problem tells of it as of something that is wrong with its network.
func (r *refusedSet) problem() desired.Problem {
	what := "its policy"
	if r.id != r.network {
		what = "its policy for ports to which policies are applied by label"
	}
	return desired.Problem{Kind: "VLANNetwork", Name: r.network, Message: fmt.Sprintf("%s: %v", what, r.why), Kept: true}
}

// refusals are the problems of the sets that are refused.
func (p *policyProgress) refusals() (out []desired.Problem) {
	for i := range p.refused {
		out = append(out, p.refused[i].problem())
	}
	return out
}

// pendingLong is how long a revision may be desired and not active before that is
// told of trunks: it takes moments, unless something is wrong.
const pendingLong = 30 * time.Second

// isPending says whether another revision is desired than is active.
func (w *world) isPending() bool { return w.snap != nil && w.active != w.snap.Revision }

// pending tells of a revision that is desired and not active; nil is none. Where no
// policy was ever active, none is what VMs on this node have.
func (w *world) pending(now time.Time) *wire.PendingPolicy {
	if !w.isPending() {
		return nil
	}
	return &wire.PendingPolicy{Since: w.since, Message: w.syncErr,
		Overdue: w.active == 0 || w.syncErr != "" || now.Sub(w.since) >= pendingLong}
}

// syncPolicy compiles the desired policies and makes them active. A network
// whose rules cannot be compiled keeps its last good set and holds up no other.
func (a *Agent) syncPolicy() {
	ports := a.table.list()
	a.mu.Lock()
	w := a.world
	due := w.snap != nil && (w.stale || w.lacksSet(ports) || w.syncErr != "" && time.Since(w.tried) > firstDelay)
	a.world.stale = a.world.stale && !due // what comes meanwhile makes it stale again
	a.mu.Unlock()
	if !due {
		return
	}
	p, err := a.compileAndSync(w, ports)
	p.syncErr, p.tried = "", time.Now()
	if err != nil {
		p.syncErr = err.Error()
		if p.syncErr != w.syncErr {
			a.log.Error("the desired policy is not active; the last one stays in force", "revision", w.snap.Revision, "err", err)
		}
	}
	a.mu.Lock()
	p.stale, p.since = a.world.stale, a.world.since
	if p.active != w.active {
		p.since = time.Now() // should something newer be desired by now
	}
	a.world.policyProgress = p
	a.mu.Unlock()
	if err == nil {
		a.save(policyFile, p.policyState, "the policy in force cannot be saved, so a restart would not know it")
	}
}

// lacksSet says whether a port's own set of rules is neither in force nor refused.
func (w *world) lacksSet(ports []item) bool {
	for _, p := range ports {
		id := w.snap.PolicyID(p.rec.Policy, desired.PodRef(p.rec.Pod))
		if _, ok := w.Sets[id]; !ok && !slices.ContainsFunc(w.refused, func(r refusedSet) bool { return r.id == id }) {
			return true
		}
	}
	return false
}

// wantedSets are the sets of rules that there should be: those that a new port may
// need at once, each port's own, and those that ports have until they are given
// their own. A kept network keeps its rules, although their policies may be gone.
func (w *world) wantedSets(b *desired.SetBuilder, ports []item) []policy.Set {
	b.Use(w.snap)
	var out []policy.Set
	have := map[string]bool{}
	add := func(s policy.Set) {
		if id := s.ID(); !have[id] {
			have[id] = true
			if last, ok := w.Sets[id]; ok && w.snap.Networks[s.Network].Kept {
				s = last
			}
			out = append(out, s)
		}
	}
	for _, s := range b.PolicySets() {
		add(s)
	}
	for _, p := range ports {
		add(b.PolicySet(p.rec.Policy, desired.PodRef(p.rec.Pod)))
	}
	for _, p := range ports {
		if last, ok := w.Sets[p.rec.Config().Policy]; ok {
			add(last)
		}
	}
	return out
}

// compileAndSync gives the progress after w's policies were compiled and written;
// on an error, that the ones before stay in force. What is refused keeps its last
// good set and is told by itself; all others are in force, and so the revision is.
func (a *Agent) compileAndSync(w world, ports []item) (policyProgress, error) {
	p := w.policyProgress
	p.refused = nil
	sets := w.wantedSets(&a.sets, ports)
	used := map[string]bool{}
	for _, it := range ports {
		used[it.rec.Config().Policy] = true
	}
	var counters compile.Counters
	var prog *compile.Program
	for prog == nil {
		var err error
		if counters, err = a.compiler.Allocate(p.Counters, sets); err == nil {
			prog, err = a.compiler.Build(compile.Input{Sets: sets, Counters: counters})
		}
		if err == nil {
			break
		}
		if sets, p.refused, err = fallBack(sets, p.Sets, p.refused, used, err); err != nil {
			return p, err
		}
	}
	p.compiled = w.snap.Revision
	if err := a.kernel.ClearCounters(p.Counters, counters); err != nil {
		return p, err
	}
	a.events.learnRules(sets, counters, a.kernel.Generation()+1)
	gen, err := a.kernel.Sync(prog)
	if err != nil {
		return p, err
	}
	p.Counters, p.Sets = counters, map[string]policy.Set{}
	for _, s := range sets {
		p.Sets[s.ID()] = s
	}
	p.active = w.snap.Revision
	a.log.Info("policy active", "revision", w.snap.Revision, "generation", gen, "sets", len(sets), "refused", len(p.refused), "hash", prog.Hash[:12])
	return p, nil
}

// fallBack replaces, in sets, those that cause refuses by their last good version,
// and adds them to refused. A network that never had one drops all, and says so in
// its counters; but if ports live on it, whatever judges them now must stay: then
// nothing is replaced and the cause is returned. A set for ports with labels that
// never had one is left out: those ports keep what judges them now.
func fallBack(sets []policy.Set, last map[string]policy.Set, refused []refusedSet, used map[string]bool, cause error) ([]policy.Set, []refusedSet, error) {
	var refusal *compile.RefusedError
	if !errors.As(cause, &refusal) {
		return sets, refused, cause
	}
	again := map[string]bool{}
	for _, r := range refused {
		again[r.id] = true
	}
	for _, n := range refusal.Networks {
		id := n.Network
		i := slices.IndexFunc(sets, func(s policy.Set) bool { return s.ID() == id })
		good, ok := last[id]
		switch {
		case i < 0 || again[id]: // its last good set is refused, too
			return sets, refused, cause
		case !ok && used[id]:
			return sets, refused, fmt.Errorf("the rules of network %q are refused, and no good ones are known, but ports use it: %w", id, cause)
		}
		refused = append(refused, refusedSet{id, sets[i].Network, n.Err})
		switch {
		case ok:
			sets[i] = good
		case sets[i].Variant == "":
			sets[i] = policy.Set{Network: sets[i].Network, Default: policy.Drop}
		default:
			sets = slices.Delete(sets, i, i+1)
		}
	}
	return sets, refused, nil
}
