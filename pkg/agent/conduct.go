package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// Conductors settle which of the agents runs a ReachabilityCheck that is due, and keep what came of it where
// people look. Without, the agents settle it among themselves: the first by name that answers runs it.
type Conductors interface {
	// Claim asks to run the check; last is the ID of the last run that this agent knows of.
	Claim(ctx context.Context, check, last string) (reach.Claim, error)
	// Last tells of the last run, without its report.
	Last(ctx context.Context, check string) (reach.Claim, error)
	// Publish tells of the run that was claimed. ErrOvertaken: another agent has it now.
	Publish(ctx context.Context, ran reach.Ran) error
	// Release gives a claim back of which nothing comes.
	Release(ctx context.Context, check string) error
}

const (
	// runWithin bounds a run.
	runWithin = 5 * time.Minute
	// tryAgainAfter is when a claim that failed, or was another's, is made again.
	tryAgainAfter = time.Minute
	// askedBefore is how many agents one asks that come before it and do not answer, and turnWithin how long each may take.
	askedBefore = 8
	turnWithin  = 3 * time.Second
	// reportWithin is how long another agent may take to give its report.
	reportWithin = 7 * time.Second
	// catchUpWithin is how long an agent tries to learn what it has missed, before it goes on.
	catchUpWithin = time.Minute
	// askedAtStart is of how many agents one asks, that has just begun, what it has missed.
	askedAtStart = 5
	// tellAtOnce is how many agents are told at a time.
	tellAtOnce = 16
)

// keepChecks has the ReachabilityChecks run when they are due, by this agent or another.
func (a *Agent) keepChecks(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := time.Minute
		if snap := a.inForceNow(); a.cfg.Fabric.KeyFile != "" && a.ring.Alone() != nil {
			wait = tryEvery // the others cannot be asked yet
		} else if snap != nil {
			wait = a.runDue(ctx, snap)
		}
		select {
		case <-ctx.Done():
		case <-a.book.kick:
		case <-time.After(wait):
		}
	}
	return nil
}

// runDue runs what is due, one after the other, and says how long nothing is.
func (a *Agent) runDue(ctx context.Context, snap *desired.Snapshot) time.Duration {
	a.book.mu.Lock()
	a.forgetChecks(snap)
	a.book.mu.Unlock()
	next := time.Now().Add(time.Minute)
	for _, name := range slices.Sorted(maps.Keys(snap.Checks)) {
		c := snap.Checks[name]
		a.book.mu.Lock()
		k := a.keepCheck(&c)
		caught := k.caught
		at, last := k.due(&c, requiredBy(snap, &c)), k.Last.ID
		a.book.mu.Unlock()
		if !caught {
			next = minTime(next, a.catchUp(ctx, &c))
			continue
		}
		if at.IsZero() {
			continue
		}
		at = at.Add(turn(a.prober.node, name, last))
		if time.Until(at) > 0 {
			next = minTime(next, at)
			continue
		}
		a.conduct(ctx, &c, last)
		next = time.Now() // it is due again when it says so
	}
	return time.Until(next)
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// conduct runs a check that is due, if it is this agent's turn.
func (a *Agent) conduct(ctx context.Context, c *desired.Check, last string) {
	claim, err := a.conductors().Claim(ctx, c.Name, last)
	a.book.mu.Lock()
	k := a.keepCheck(c)
	k.wanted = false
	trouble, missed := "", false
	switch {
	case err != nil:
		trouble = err.Error()
		fallthrough
	case !claim.Mine:
		k.notBefore = time.Now().Add(tryAgainAfter)
		missed = err == nil && claim.Last.ID != k.Last.ID && claim.Last.ID != ""
	}
	if trouble != "" && trouble != k.trouble && ctx.Err() == nil {
		a.log.Warn("a ReachabilityCheck is due and cannot be run; tried again", "check", c.Name, "err", err)
	}
	k.trouble = trouble
	a.book.mu.Unlock()
	if missed {
		a.takeMissed(ctx, claim)
	}
	if err != nil || !claim.Mine {
		return
	}
	ran, agents := a.runCheck(ctx, c)
	if ctx.Err() != nil { // another agent runs it, or this one when it is back
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = a.conductors().Release(detached, c.Name) // or the claim ends by itself
		return
	}
	if err := a.publish(ctx, ran); err != nil && ctx.Err() == nil {
		a.log.Warn("what a ReachabilityCheck found cannot be published", "check", c.Name, "err", err)
		if errors.Is(err, reach.ErrOvertaken) {
			return // what it finds is newer
		}
	}
	if err := a.takeRun(ran); err != nil {
		a.log.Warn("a ReachabilityCheck has run in vain", "check", c.Name, "err", err)
	}
	a.tellRun(ctx, ran, agents)
}

// catchUp asks what was run while there was no agent here. It says when to look at the check again.
func (a *Agent) catchUp(ctx context.Context, c *desired.Check) time.Time {
	claim, err := a.conductors().Last(ctx, c.Name)
	a.book.mu.Lock()
	k := a.keepCheck(c)
	if err != nil && time.Since(k.seen) < catchUpWithin {
		a.book.mu.Unlock()
		return time.Now().Add(tryEvery)
	}
	k.caught = true // or it is when the check is due
	missed := err == nil && claim.Last.ID != "" && claim.Last.ID != k.Last.ID
	a.book.mu.Unlock()
	if missed {
		a.takeMissed(ctx, claim)
	}
	return time.Now()
}

// takeMissed notes a run that this agent was not told of, with this node's part if that can be had.
func (a *Agent) takeMissed(ctx context.Context, claim reach.Claim) {
	ran := claim.Last
	if ran.Error == "" {
		var err error
		if ran.Report, err = a.askReport(ctx, ran, a.prober.node); err != nil {
			a.log.Warn("what a ReachabilityCheck found on this node cannot be had", "check", ran.Check, "from", ran.By, "err", err)
		}
	}
	if err := a.takeRunOf(ran, claim.Age); err != nil {
		a.log.Debug("a run of a ReachabilityCheck was missed", "check", ran.Check, "err", err)
	}
}

// letOther has this agent leave a check that is due to the one that runs it now.
func (a *Agent) letOther(check string) {
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	if k := a.book.kept[check]; k != nil {
		k.notBefore = time.Now().Add(tryAgainAfter)
	}
}

// publish is patient: what was found is lost to people else.
func (a *Agent) publish(ctx context.Context, ran reach.Ran) (err error) {
	for wait := time.Second; wait < time.Minute; wait *= 4 {
		if err = a.conductors().Publish(ctx, ran); err == nil || errors.Is(err, reach.ErrOvertaken) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
	return err
}

// runCheck runs it, with the agents of all nodes.
func (a *Agent) runCheck(ctx context.Context, c *desired.Check) (ran reach.Ran, agents []reach.Agent) {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // crypto/rand's never fails
	ran = reach.Ran{Check: c.Name, ID: hex.EncodeToString(id), By: a.prober.node, Run: c.Run, Started: time.Now().UTC()}
	o := reach.Options{Networks: c.Networks, Nodes: c.Nodes, VLANs: c.VLANs, MaxPPS: c.MaxPPS}
	for _, t := range c.Skip {
		o.Skip = append(o.Skip, reach.Test(t))
	}
	limited, cancel := context.WithTimeout(ctx, runWithin)
	defer cancel()
	agents, absent, err := a.agents(limited)
	for i := range agents {
		if far, ok := agents[i].(farAgent); ok {
			far.check = c.Name
			agents[i] = far
		}
	}
	if err == nil {
		ran.Report, err = reach.Run(limited, agents, absent, o, nil)
	}
	if err != nil { // in the words of the object's fields
		ran.Error = strings.NewReplacer("--node:", "spec.nodes:", "--vlan:", "spec.vlans:").Replace(err.Error())
	}
	ran.Ended = time.Now().UTC()
	a.log.Info("a ReachabilityCheck has run", "check", c.Name, "took", ran.Ended.Sub(ran.Started).Round(time.Millisecond), "found", ran.Sum())
	return ran, agents
}

// tellRun tells each of the other agents its part. One that is not there asks what it has missed when it next wants to run it.
func (a *Agent) tellRun(ctx context.Context, ran reach.Ran, agents []reach.Agent) {
	places := make(chan struct{}, tellAtOnce)
	var wg sync.WaitGroup
	for _, to := range agents {
		far, ok := to.(farAgent)
		if !ok {
			continue
		}
		part := ran
		if ran.Report != nil {
			part.Report = ran.Report.Of(far.Node())
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if err := a.client.Call(ctx, far.peer, verbRan, part, nil); err != nil {
				a.log.Debug("an agent was not told of a ReachabilityCheck", "node", far.Node(), "err", err)
			}
		})
	}
	wg.Wait()
}

func (a *Agent) conductors() Conductors {
	if c := a.cfg.Fabric.Conductors; c != nil {
		return c
	}
	return amongAgents{a}
}

// amongAgents is Conductors without a cluster.
type amongAgents struct{ a *Agent }

// turnRequest asks an agent whether it will run a check that is due; turnAnswer is its word.
type turnRequest struct {
	Check string `json:"check"`
	Last  string `json:"last"`
	// Age of that run, as the one who asks knows it.
	Age time.Duration `json:"age,omitempty"`
	// Look asks for the last run alone. Node asks for its part of a report.
	Look bool   `json:"look,omitempty"`
	Node string `json:"node,omitempty"`
}
type turnAnswer struct {
	// Takes: it will, or has.
	Takes bool          `json:"takes"`
	Last  reach.Ran     `json:"last,omitzero"`
	Age   time.Duration `json:"age"`
}

// Claim asks the agents that come before this one, by name.
func (m amongAgents) Claim(ctx context.Context, check, last string) (reach.Claim, error) {
	agents, _, err := m.a.agents(ctx)
	if err != nil {
		return reach.Claim{}, err
	}
	slices.SortFunc(agents, func(x, y reach.Agent) int { return strings.Compare(x.Node(), y.Node()) })
	var told time.Time
	m.a.book.mu.Lock()
	if k := m.a.book.kept[check]; k != nil {
		told = k.At
	}
	m.a.book.mu.Unlock()
	for i, to := range agents {
		far, ok := to.(farAgent)
		if !ok || i == askedBefore {
			break // none before this one answers
		}
		var answer turnAnswer
		limited, cancel := context.WithTimeout(ctx, turnWithin)
		err := m.a.client.Call(limited, far.peer, verbTurn, turnRequest{Check: check, Last: last, Age: time.Since(told)}, &answer)
		cancel()
		if err == nil && answer.Takes {
			return reach.Claim{Last: answer.Last, Age: answer.Age}, nil
		}
	}
	return reach.Claim{Mine: true}, ctx.Err()
}

// Last asks some of the other agents.
func (m amongAgents) Last(ctx context.Context, check string) (last reach.Claim, err error) {
	agents, absent, err := m.a.agents(ctx)
	if err != nil {
		return last, err
	}
	answers, others := 0, len(absent)
	for _, to := range agents {
		far, ok := to.(farAgent)
		if !ok {
			continue
		}
		others++
		var answer turnAnswer
		limited, cancel := context.WithTimeout(ctx, turnWithin)
		err := m.a.client.Call(limited, far.peer, verbTurn, turnRequest{Check: check, Look: true}, &answer)
		cancel()
		if err != nil {
			continue
		}
		if answer.Last.ID != "" && (last.Last.ID == "" || answer.Age < last.Age) {
			last = reach.Claim{Last: answer.Last, Age: answer.Age}
		}
		if answers++; answers == askedAtStart {
			break
		}
	}
	if answers == 0 && others > 0 {
		return last, errors.New("no other agent answers")
	}
	return last, nil
}

// Publish has nothing to do: the agents were told.
func (amongAgents) Publish(context.Context, reach.Ran) error { return nil }

// Release has nothing to do: nothing was claimed for longer than it took to ask.
func (amongAgents) Release(context.Context, string) error { return nil }

// takeTurn answers an agent for which a check is due, that this one has to run: it does so at once,
// unless it knows of a run that the other does not.
func (a *Agent) takeTurn(r turnRequest) turnAnswer {
	snap := a.inForceNow()
	if snap == nil {
		return turnAnswer{}
	}
	c, ok := snap.Checks[r.Check]
	if !ok {
		return turnAnswer{}
	}
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	k := a.keepCheck(&c)
	if r.Look || k.Last.ID != r.Last && k.Last.ID != "" && (r.Last == "" || time.Since(k.At) < r.Age) {
		last := k.Last
		last.Report = nil
		return turnAnswer{!r.Look, last, time.Since(k.At)}
	}
	k.wanted = true
	ask(a.book.kick)
	return turnAnswer{Takes: true}
}

// lastRun gives the report of a check's last run: the whole of it, or what there is.
func (a *Agent) lastRun(ctx context.Context, name string) (*wire.ReachState, error) {
	snap := a.inForceNow()
	if snap == nil {
		return nil, &attach.Error{Kind: attach.TryAgain, Message: "the agent has not read its desired state yet", Remedy: "see homeportctl status"}
	}
	names := slices.Sorted(maps.Keys(snap.Checks))
	if _, ok := snap.Checks[name]; !ok {
		remedy := "name one of " + strings.Join(names, ", ")
		if len(names) == 0 {
			remedy = "make one, or check now: homeportctl check"
		}
		return &wire.ReachState{Over: true, Refused: true, Error: fmt.Sprintf("this node has no ReachabilityCheck %q: %s", name, remedy)}, nil
	}
	a.book.mu.Lock()
	var ran reach.Ran
	if k := a.book.kept[name]; k != nil {
		ran = k.Last
	}
	a.book.mu.Unlock()
	state := &wire.ReachState{Over: true}
	switch {
	case ran.ID == "":
		state.Error = fmt.Sprintf("ReachabilityCheck %s has not run yet", name)
		return state, nil
	case ran.Error != "":
		state.Error = fmt.Sprintf("ReachabilityCheck %s could not be run by the agent of %s: %s", name, ran.By, ran.Error)
		return state, nil
	}
	whole, err := a.askReport(ctx, ran, "")
	if err != nil {
		state.What, whole = fmt.Sprintf("this node's part alone, for the whole cannot be had from %s: %v", ran.By, err), ran.Report
	}
	if whole == nil {
		state.Error = fmt.Sprintf("this agent was not told of the last run of ReachabilityCheck %s: %s", name, state.What)
		return state, nil
	}
	state.Report, err = fitting(whole)
	return state, err
}

// askReport asks the agent that ran a check for its report: a node's part, or all of it.
func (a *Agent) askReport(ctx context.Context, ran reach.Ran, node string) (*reach.Report, error) {
	request := turnRequest{Check: ran.Check, Last: ran.ID, Node: node}
	if ran.By == a.prober.node {
		return a.reportOf(request)
	}
	agents, _, err := a.agents(ctx)
	if err != nil {
		return nil, err
	}
	for _, to := range agents {
		if far, ok := to.(farAgent); ok && far.Node() == ran.By {
			var report reach.Report
			ctx, cancel := context.WithTimeout(ctx, reportWithin)
			defer cancel()
			if err := a.client.Call(ctx, far.peer, verbReport, request, &report); err != nil {
				return nil, err
			}
			return &report, nil
		}
	}
	return nil, errors.New("no agent is known of it")
}

// reportOf gives the report of a run of this agent's, or a node's part of it.
func (a *Agent) reportOf(r turnRequest) (*reach.Report, error) {
	var ran reach.Ran
	if err := readJSON(a.reportPath(r.Check), &ran); err == nil && ran.Check == r.Check && ran.ID == r.Last {
		if r.Node != "" {
			return ran.Report.Of(r.Node), nil
		}
		return ran.Report, nil
	}
	return nil, fmt.Errorf("node %s does not have that run any more", a.prober.node)
}
