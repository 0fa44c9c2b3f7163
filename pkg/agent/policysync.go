package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// policyProgress is how far the desired policies have come.
type policyProgress struct {
	stale    bool              // snap has changed since it was last compiled
	tried    time.Time         // when it was last tried
	compiled uint64            // revision that compiled
	active   uint64            // revision that the programs judge by
	refused  []desired.Problem // networks whose newest rules did not compile
	syncErr  string            // why active is not desired
	policyState
}

// policyState is kept on disk: hits survive restarts by their counters, and a
// network whose newest rules are refused falls back to its last good set also
// after one.
type policyState struct {
	Counters compile.Counters      `json:"counters"`
	Sets     map[string]policy.Set `json:"sets"` // in force, by network
}

// syncPolicy compiles the desired policies and makes them active. A network
// whose rules cannot be compiled keeps its last good set and holds up no other.
func (a *Agent) syncPolicy() {
	a.mu.Lock()
	w := a.world
	due := w.snap != nil && (w.stale || w.syncErr != "" && time.Since(w.tried) > firstDelay)
	a.world.stale = a.world.stale && !due // what comes meanwhile makes it stale again
	a.mu.Unlock()
	if !due {
		return
	}
	p, err := a.compileAndSync(w)
	p.syncErr, p.tried = "", time.Now()
	if err != nil {
		p.syncErr = err.Error()
		if p.syncErr != w.syncErr {
			a.log.Error("the desired policy is not active; the last one stays in force", "revision", w.snap.Revision, "err", err)
		}
	}
	a.mu.Lock()
	p.stale = a.world.stale
	a.world.policyProgress = p
	a.mu.Unlock()
	if err == nil {
		a.save(policyFile, p.policyState, "the policy in force cannot be saved, so a restart would not know it")
	}
}

// compileAndSync gives the progress after w's policies were compiled and written;
// on an error, that the ones before stay in force.
func (a *Agent) compileAndSync(w world) (policyProgress, error) {
	p := w.policyProgress
	p.refused = nil
	sets := w.snap.PolicySets()
	for i := range sets { // a kept network keeps its rules, although their policies may be gone
		if last, ok := p.Sets[sets[i].Network]; ok && w.snap.Networks[sets[i].Network].Kept {
			sets[i] = last
		}
	}
	var counters compile.Counters
	var prog *compile.Program
	for prog == nil {
		var err error
		if counters, err = compile.Allocate(p.Counters, sets); err == nil {
			prog, err = compile.Build(compile.Input{Sets: sets, Counters: counters})
		}
		if err == nil {
			break
		}
		if p.refused, err = fallBack(sets, p.Sets, p.refused, a.policiesInUse(), err); err != nil {
			return p, err
		}
	}
	p.compiled = w.snap.Revision
	if err := a.kernel.ClearCounters(p.Counters, counters); err != nil {
		return p, err
	}
	gen, err := a.kernel.Sync(prog)
	if err != nil {
		return p, err
	}
	p.Counters, p.Sets = counters, map[string]policy.Set{}
	for _, s := range sets {
		p.Sets[s.Network] = s
	}
	if len(p.refused) == 0 {
		p.active = w.snap.Revision
	}
	a.log.Info("policy active", "revision", w.snap.Revision, "generation", gen, "networks", len(sets), "refused", len(p.refused), "hash", prog.Hash[:12])
	return p, nil
}

// policiesInUse are the networks whose policy judges a port now.
func (a *Agent) policiesInUse() map[string]bool {
	used := map[string]bool{}
	for _, it := range a.table.list() {
		used[it.rec.Policy] = true
	}
	return used
}

// fallBack replaces, in sets, those that cause refuses by their last good version,
// and adds them to refused. A network that never had one drops all, and says so in
// its counters; but if ports live on it, whatever judges them now must stay: then
// nothing is replaced and the cause is returned.
func fallBack(sets []policy.Set, last map[string]policy.Set, refused []desired.Problem, used map[string]bool, cause error) ([]desired.Problem, error) {
	var refusal *compile.RefusedError
	if !errors.As(cause, &refusal) {
		return refused, cause
	}
	again := map[string]bool{}
	for _, p := range refused {
		again[p.Name] = true
	}
	for _, n := range refusal.Networks {
		good, ok := last[n.Network]
		switch {
		case again[n.Network]: // its last good set is refused, too
			return refused, cause
		case !ok && used[n.Network]:
			return refused, fmt.Errorf("the rules of network %q are refused, and no good ones are known, but ports use it: %w", n.Network, cause)
		case !ok:
			good = policy.Set{Network: n.Network, Default: policy.Drop}
		}
		refused = append(refused, desired.Problem{Kind: "VLANNetwork", Name: n.Network, Message: n.Err.Error(), Kept: true})
		for i := range sets {
			if sets[i].Network == n.Network {
				sets[i] = good
			}
		}
	}
	return refused, nil
}
