package agent

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// checkBook has what this node knows of the ReachabilityChecks: their last runs, and how it stands with the
// networks that its VMs must be able to reach.
type checkBook struct {
	mu   sync.Mutex
	kept map[string]*keptCheck // by name
	kick chan struct{}         // something may be due
}

// keptCheck is one check. What is stored survives the agent, but not the node.
type keptCheck struct {
	// Last run; its Report is this node's part.
	Last reach.Ran `json:"last"`
	// At is when this node was told, by its own clock: the clocks of others are not gone by.
	At time.Time `json:"at,omitzero"`
	// Stands are those of required networks, by name.
	Stands map[string]standing `json:"stands,omitempty"`
	// Answered is the spec.run for which a run was made, whatever the agent that made it had for one.
	Answered string `json:"answered,omitempty"`
	// Failures are runs in turn that could not be done.
	Failures int `json:"failures,omitempty"`

	wanted bool // another agent has asked that this one runs it
	caught bool // what was run while there was no agent here is known
	// seen and asked are when this agent first knew of the check, and of its present spec.run.
	seen, asked time.Time
	run         string
	notBefore   time.Time // of the next attempt
	trouble     string    // of the last one, to say it once
}

// standing is whether the resource of a network is offered, and what speaks for a change of that.
type standing struct {
	// Of is the definition of the network that it is about.
	Of string `json:"of"`
	// Known: a run has told. Offered then says whether VMs may come.
	Known   bool `json:"known,omitempty"`
	Offered bool `json:"offered,omitempty"`
	// Against are runs in turn that said the opposite, none of them within voteGap of the one before; Voted is the last.
	Against int       `json:"against,omitempty"`
	Voted   time.Time `json:"voted,omitzero"`
	// Soon: the last run asks for another one soon, to have it settled.
	Soon bool `json:"soon,omitempty"`
	// Unclear are runs in turn that have not told, where none has.
	Unclear int       `json:"unclear,omitempty"`
	Why     string    `json:"why,omitempty"` // it is not offered, or not known
	Since   time.Time `json:"since"`
}

const (
	// firstRunAfter is how long a check waits that nobody has run yet: agents that start together know each other by then.
	firstRunAfter = 10 * time.Second
	// soonAfter is from the end of a run to the next where something is not settled.
	soonAfter = time.Minute
	// turnsOver is the time over which nodes spread their claims.
	turnsOver = 5 * time.Second
	// settledBy is how many runs in turn change a standing, and voteGap the least time between them: what passes by in
	// seconds, as a spanning tree that settles, is one observation.
	settledBy = 2
	voteGap   = 30 * time.Second
)

// judge takes a run's word.
func (s *standing) judge(is reach.Standing, why string, now time.Time) {
	s.Soon = false
	switch {
	case is == reach.Unknown:
		if !s.Known {
			s.Unclear, s.Why = s.Unclear+1, why
		}
	case !s.Known: // a node that has just started may be at fault for a moment
		*s = standing{Of: s.Of, Known: true, Offered: is == reach.Well, Soon: is == reach.Unwell, Voted: now, Why: why, Since: now}
	case s.Offered == (is == reach.Well):
		s.Against, s.Why, s.Voted = 0, why, now
	case s.Against > 0 && now.Sub(s.Voted).Abs() < voteGap:
		s.Soon = true
	default:
		s.Against, s.Voted, s.Soon = s.Against+1, now, true
		if s.Against >= settledBy {
			*s = standing{Of: s.Of, Known: true, Offered: !s.Offered, Voted: now, Why: why, Since: now}
		}
	}
}

// required is a network whose resource is offered only where it can be reached.
type required struct {
	name, trunk, uplink string
	vlans               vlan.Set
}

// definition tells whether what was found of it still counts.
func (r *required) definition() string { return r.trunk + " " + r.uplink + " " + r.vlans.String() }

// requiredBy are the networks of this node that a check decides about; of all checks if c is nil.
func requiredBy(snap *desired.Snapshot, c *desired.Check) (list []required) {
	for _, name := range slices.Sorted(maps.Keys(snap.Networks)) {
		n := snap.Networks[name]
		if !n.Reach.Required || c != nil && !c.Covers(name) {
			continue
		}
		r := required{name, n.Trunk, snap.Trunks[n.Trunk].Uplink, n.Tagged}
		if n.PVID != 0 {
			_ = r.vlans.Add(n.PVID) // a snapshot has none but valid ones
		}
		list = append(list, r)
	}
	return list
}

// later is how long after the nth attempt in vain the next one comes: 1, 2, 4, ... minutes, at most 64.
func later(n int) time.Duration { return soonAfter << min(max(n-1, 0), 6) }

// due is when the check is to be run next; the zero time is never.
func (k *keptCheck) due(c *desired.Check, networks []required) (at time.Time) {
	retry := k.At.Add(later(k.Failures))
	switch {
	case k.wanted:
		at = k.seen
	case c.Run != "" && c.Run != k.Last.Run && c.Run != k.Answered:
		if at = k.asked; k.Failures > 0 {
			at = maxTime(at, retry)
		}
	case c.Every == 0:
		return time.Time{}
	case k.Last.ID == "":
		at = k.seen.Add(firstRunAfter)
	default:
		at = k.At.Add(c.Every)
		if k.Failures > 0 {
			at = minTime(at, retry)
		}
		for _, r := range networks {
			switch s := k.Stands[r.name]; {
			case s.Of != r.definition(), s.Soon:
				at = minTime(at, k.At.Add(soonAfter))
			case s.Unclear > 0: // as where this node came too late
				at = minTime(at, k.At.Add(later(s.Unclear)))
			}
		}
	}
	return maxTime(at, k.notBefore)
}

// turn spreads the nodes over turnsOver, otherwise for each run.
func turn(node, check, last string) time.Duration {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s", node, check, last)
	return time.Duration(h.Sum64() % uint64(turnsOver))
}

// checkPath is the file of a check, and reportPath the one of the whole report, where this agent ran it.
func (a *Agent) checkPath(check string) string {
	return a.statePath("check-" + v1alpha1.LabelValue(check) + ".json")
}

func (a *Agent) reportPath(check string) string { return a.checkPath(check) + ".report" }

// keepCheck gives what is known of a check; the book is locked.
func (a *Agent) keepCheck(c *desired.Check) *keptCheck {
	k := a.book.kept[c.Name]
	if k == nil {
		k = &keptCheck{}
		if err := readJSON(a.checkPath(c.Name), k); err != nil || k.Last.Check != c.Name {
			k = &keptCheck{} // there is none, or none that is good for anything
		}
		k.seen = time.Now()
		if k.At.After(k.seen) { // the clock was set back
			k.At = k.seen
		}
		if a.book.kept == nil {
			a.book.kept = map[string]*keptCheck{}
		}
		a.book.kept[c.Name] = k
	}
	if k.run != c.Run {
		k.run, k.asked = c.Run, time.Now()
	}
	return k
}

// forgetChecks drops what is known of checks that are no more.
func (a *Agent) forgetChecks(snap *desired.Snapshot) {
	for name := range a.book.kept {
		if _, ok := snap.Checks[name]; !ok && snap.Stale == nil {
			delete(a.book.kept, name)
			for _, path := range []string{a.checkPath(name), a.reportPath(name)} {
				if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
					a.log.Warn("what was known of a ReachabilityCheck stays", "check", name, "err", err)
				}
			}
		}
	}
}

// takeRun notes what came of a run just now, as far as it is about this node.
func (a *Agent) takeRun(ran reach.Ran) error { return a.takeRunOf(ran, 0) }

// takeRunOf is takeRun of one that ended some time ago.
func (a *Agent) takeRunOf(ran reach.Ran, age time.Duration) error {
	snap := a.inForceNow()
	if snap == nil {
		return fmt.Errorf("node %s has not read its desired state yet", a.prober.node)
	}
	c, ok := snap.Checks[ran.Check]
	if !ok {
		return fmt.Errorf("node %s has no ReachabilityCheck %q", a.prober.node, ran.Check)
	}
	if ran.By == a.prober.node && ran.Report != nil && age == 0 {
		if err := saveJSON(a.reportPath(c.Name), ran); err != nil {
			a.log.Warn("the report of a ReachabilityCheck cannot be saved", "check", c.Name, "err", err)
		}
	}
	if ran.Report != nil {
		ran.Report = ran.Report.Of(a.prober.node)
	}
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	k, now := a.keepCheck(&c), time.Now().Add(-min(max(age, 0), v1alpha1.MaxCheckEvery))
	k.Last, k.At, k.wanted, k.notBefore, k.caught = ran, now, false, time.Time{}, true
	switch {
	case ran.Error != "":
		k.Failures++
	case !now.Add(ran.Started.Sub(ran.Ended)).Before(k.asked): // it was begun when somebody had asked
		k.Failures, k.Answered = 0, c.Run
	default:
		k.Failures = 0
	}
	stands := map[string]standing{}
	for _, r := range requiredBy(snap, &c) {
		s := k.Stands[r.name]
		if s.Of != r.definition() {
			s = standing{Of: r.definition(), Since: now}
		}
		if ran.Report == nil {
			s.judge(reach.Unknown, "the last run told nothing: "+orElse(ran.Error, "this node was not told of it"), now)
		} else {
			is, why := ran.Report.Standing(a.prober.node, r.trunk, r.vlans)
			was := s
			if s.judge(is, why, now); s.Offered != was.Offered {
				a.log.Info("the resource of a network", "network", r.name, "offered", s.Offered, "check", c.Name, "why", orElse(why, "its VLANs are well"))
			}
		}
		stands[r.name] = s
	}
	k.Stands = stands
	if err := saveJSON(a.checkPath(c.Name), k); err != nil {
		a.log.Warn("what is known of a ReachabilityCheck cannot be saved", "check", c.Name, "err", err)
	}
	ask(a.book.kick)
	a.tell()
	return nil
}

// inForceNow is the snapshot in force; nil is none yet.
func (a *Agent) inForceNow() *desired.Snapshot {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.world.snap
}

// offers are the required networks of each trunk whose resource the node offers, and what there is to say of them all.
func (a *Agent) offers(snap *desired.Snapshot) (offered map[string][]string, conds map[string]wire.Condition) {
	offered, conds = map[string][]string{}, map[string]wire.Condition{}
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	type word struct {
		not, unknown []string
		since        time.Time
	}
	words := map[string]*word{} // by trunk
	for _, r := range requiredBy(snap, nil) {
		w := words[r.trunk]
		if w == nil {
			w = &word{}
			words[r.trunk] = w
		}
		yes, no, why := false, "", ""
		for _, name := range slices.Sorted(maps.Keys(snap.Checks)) {
			c := snap.Checks[name]
			if !c.Covers(r.name) {
				continue
			}
			why = cmp.Or(why, fmt.Sprintf("ReachabilityCheck %s has not told yet", name))
			s := a.keepCheck(&c).Stands[r.name]
			w.since = maxTime(w.since, s.Since)
			switch {
			case s.Of != r.definition():
			case !s.Known:
				why = fmt.Sprintf("ReachabilityCheck %s does not tell: %s", name, orElse(s.Why, "nothing was tested"))
			case s.Offered:
				yes = true
			default:
				no = fmt.Sprintf("%s (ReachabilityCheck %s)", s.Why, name)
			}
		}
		switch {
		case no != "":
			w.not = append(w.not, r.name+": "+no)
		case yes:
			offered[r.trunk] = append(offered[r.trunk], r.name)
		default:
			w.unknown = append(w.unknown, r.name+": "+orElse(why, "no ReachabilityCheck covers it: make one with spec.every, and without spec.vlans, spec.nodes and trunk in spec.skip"))
		}
	}
	for trunk, w := range words {
		c := wire.Condition{Type: v1alpha1.ConditionReachable, Status: "True", Reason: v1alpha1.ReasonOffered, LastTransitionTime: w.since.UTC(),
			Message: "VMs of all networks with reachability.required may come"}
		if all := append(w.not, w.unknown...); len(all) > 0 {
			c.Status, c.Reason = "False", v1alpha1.ReasonNotOffered
			if len(w.not) == 0 {
				c.Status, c.Reason = "Unknown", v1alpha1.ReasonNotChecked
			}
			c.Message = "no new VMs of " + strings.Join(all, "; ")
		}
		conds[trunk] = c
	}
	return offered, conds
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
