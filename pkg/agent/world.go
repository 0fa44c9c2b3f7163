package agent

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// world is what the node should be and how far it is: desired, compiled, active.
type world struct {
	source *desired.Snapshot       // as the source last had it
	snap   *desired.Snapshot       // in force: source, and what ports keep of earlier ones; nil until the first
	kept   []desired.Problem       // objects that live ports keep from going or changing
	gone   map[place]desired.Trunk // no longer desired there, not yet removed
	health map[string]trunkHealth  // by trunk
	strays []string                // open ports without a record
	unread *desired.Stale          // the source has given nothing yet, and why; snap is an earlier agent's
	// followed is the revision that ports have their rules and security of, and trunks their VLANs.
	followed uint64
	policyProgress
}

// take makes a snapshot the desired one. What living ports stand on stays in
// force although it is gone from the source, and is reported.
func (a *Agent) take(snap *desired.Snapshot) {
	if snap == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.world.unread = nil
	a.takeLocked(snap)
}

// readSource takes what the source says at the start. If that is nothing at all,
// what an earlier agent had in force stays, and status says that it is no more.
func (a *Agent) readSource() {
	snap, err := a.cfg.Source.Load()
	if err != nil {
		a.log.Error("desired state cannot be read; the last good one stays in force", "source", a.cfg.SourceName, "err", err)
		a.mu.Lock()
		a.world.unread = &desired.Stale{Since: time.Now().UTC(), Reason: desired.ReasonUnreadable, Message: err.Error()}
		a.mu.Unlock()
	}
	a.take(snap)
}

// tellUnread brings up to date why the source has given nothing yet, where the
// source can say so.
func (a *Agent) tellUnread() {
	s, ok := a.cfg.Source.(interface{ Problem() error })
	a.mu.Lock()
	defer a.mu.Unlock()
	if !ok || a.world.unread == nil {
		return
	}
	if err := s.Problem(); err != nil && err.Error() != a.world.unread.Message {
		a.log.Error("desired state cannot be read", "source", a.cfg.SourceName, "err", err)
		told := *a.world.unread // what was handed out does not change
		told.Message = err.Error()
		a.world.unread = &told
	}
}

// takeLocked is take; mu is held, so that no snapshot overtakes a newer one.
func (a *Agent) takeLocked(snap *desired.Snapshot) {
	next, kept := keepUsed(snap, a.world.snap, a.table.list())
	if snap == a.world.source && slices.Equal(kept, a.world.kept) {
		return // as it was
	}
	if a.world.source != nil && slices.Equal(kept, a.world.kept) && snap.OnlyIdentities(a.world.source) {
		a.world.source, a.world.snap = snap, next // which is in force already
		return
	}
	if a.world.snap != nil {
		a.world.gone = goneTrunks(a.world.snap, next, a.world.gone)
	}
	a.tellProblems(a.world.snap, a.world.kept, next, kept)
	if !a.world.isPending() {
		a.world.since = time.Now()
	}
	a.world.source, a.world.snap, a.world.kept, a.world.stale = snap, next, kept, true
	ask(a.book.kick)
	if err := saveJSON(a.statePath(snapshotFile), next); err != nil {
		a.log.Error("the desired state in force cannot be saved", "err", err)
	}
}

// tellProblems logs what has become wrong with manifests, once.
func (a *Agent) tellProblems(last *desired.Snapshot, lastKept []desired.Problem, next *desired.Snapshot, kept []desired.Problem) {
	known := slices.Clone(lastKept)
	if last != nil {
		known = append(known, last.Problems...)
	}
	for _, p := range append(slices.Clone(next.Problems), kept...) {
		if !slices.Contains(known, p) {
			a.log.Warn("desired state", "problem", p.String())
		}
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
	var ok bool
	if r.rules, ok = a.world.rulesAtFirst(r.policy, req.Pod); !ok {
		return r, &attach.Error{Kind: attach.TryAgain, Field: "network",
			Message: fmt.Sprintf("the policy of network %q is not compiled yet", r.policy), Remedy: "see homeportctl status"}
	}
	r.security = a.world.snap.Security(r.policy, desired.PodRef(req.Pod), req.MAC)
	return r, nil
}

// securityOf is what a port is kept to by what is desired now.
func (a *Agent) securityOf(rec *attach.Record) attach.Security {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.world.snap.Security(rec.Policy, desired.PodRef(rec.Pod), rec.MAC)
}

// rulesAtFirst is the set that a new port begins with, as Record.Rules: its own if
// that is there, else the one for ports of unknown pods, which lets nothing through
// that its own will not. The loop then gives it its own. ok is false if neither is
// in force.
func (w *world) rulesAtFirst(network string, pod attach.Pod) (rules string, ok bool) {
	for _, id := range []string{w.snap.PolicyID(network, desired.PodRef(pod)), w.snap.UnknownID(network)} {
		if _, ok := w.Sets[id]; ok {
			return rulesOf(network, id), true
		}
	}
	return "", false
}

// rulesOf is how Record.Rules calls a set of a network.
func rulesOf(network, id string) string {
	if id == network {
		return ""
	}
	return id
}

func (a *Agent) statePath(name string) string { return filepath.Join(a.cfg.Paths.State(), name) }
