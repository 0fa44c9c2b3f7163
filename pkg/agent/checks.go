package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// checks are those of the fabric that people run from this node.
type checks struct {
	mu  sync.Mutex
	all map[string]*runningCheck
	n   int
}

// runningCheck is one; its report stays until it was fetched, or nobody looks any more.
type runningCheck struct {
	cancel context.CancelFunc
	asked  *time.Timer

	mu    sync.Mutex
	state wire.ReachState
}

const (
	// lookWithin is how soon somebody has to look again, or the check is ended.
	lookWithin = 30 * time.Second
	// maxReport leaves room for the rest of a message.
	maxReport = wire.MaxMessage - 64<<10
	// maxChecks is how many run from one node at once.
	maxChecks = 4
)

// reach starts a check of the fabric, tells how far it is, or ends it.
func (a *Agent) reach(ctx context.Context, req *wire.ReachRequest) (any, error) {
	switch req.Do {
	case wire.ReachLast:
		return a.lastRun(ctx, req.ID)
	case wire.ReachStart:
		return a.startCheck(req)
	case wire.ReachLook, wire.ReachCancel:
		a.checks.mu.Lock()
		c := a.checks.all[req.ID]
		a.checks.mu.Unlock()
		if c == nil {
			return nil, attach.Invalid("id", fmt.Sprintf("no check %q runs here", req.ID), "start one")
		}
		if req.Do == wire.ReachCancel {
			c.cancel()
		}
		c.asked.Reset(lookWithin)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.state, nil
	}
	return nil, attach.Invalid("do", fmt.Sprintf("%q", req.Do), "ask for Start, Look, Cancel or Last")
}

func (a *Agent) startCheck(req *wire.ReachRequest) (any, error) {
	var o reach.Options
	if len(req.Options) > 0 {
		if err := json.Unmarshal(req.Options, &o); err != nil {
			return nil, attach.Invalid("options", err.Error(), "install homeportctl and agent of one release")
		}
	}
	if err := o.Validate(); err != nil {
		return nil, attach.Invalid("options", err.Error(), "see homeportctl check --help")
	}
	a.checks.mu.Lock()
	defer a.checks.mu.Unlock()
	running := 0
	for _, c := range a.checks.all {
		c.mu.Lock()
		if !c.state.Over {
			running++
		}
		c.mu.Unlock()
	}
	if running >= maxChecks {
		return nil, &attach.Error{Kind: attach.TryAgain, Message: fmt.Sprintf("%d checks run from this node already", running), Remedy: "try again when one has ended"}
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.checks.n++
	id := fmt.Sprint(a.checks.n)
	c := &runningCheck{cancel: cancel, state: wire.ReachState{ID: id}}
	c.asked = time.AfterFunc(lookWithin, func() {
		cancel()
		a.checks.mu.Lock()
		defer a.checks.mu.Unlock()
		delete(a.checks.all, id)
	})
	if a.checks.all == nil {
		a.checks.all = map[string]*runningCheck{}
	}
	a.checks.all[id] = c
	begun := c.state
	go c.run(ctx, a, o)
	return begun, nil
}

func (c *runningCheck) run(ctx context.Context, a *Agent, o reach.Options) {
	defer c.cancel()
	var report *reach.Report
	agents, absent, err := a.agents(ctx)
	refused := err == nil
	if err == nil {
		report, err = reach.Run(ctx, agents, absent, o, func(what string, done, of int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.state.What, c.state.Done, c.state.Of = what, done, of
		})
	}
	var raw []byte
	if err == nil {
		raw, err = fitting(report)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Over = true
	if err != nil {
		c.state.Error, c.state.Refused = err.Error(), refused
		return
	}
	c.state.Report = raw
}

// fitting is a report as a message takes it: without what passed, if it is large, which is counted and takes the most.
func fitting(report *reach.Report) ([]byte, error) {
	raw, err := json.Marshal(report)
	if len(raw) > maxReport {
		short := *report // others may be reading it
		short.Cells = slices.Clone(report.Cells)
		short.LeaveOutPassed()
		raw, err = json.Marshal(&short)
	}
	if err == nil && len(raw) > maxReport {
		return nil, fmt.Errorf("the report has %d bytes, more than fit into a message: check fewer networks or VLANs at once", len(raw))
	}
	return raw, err
}

// close ends all.
func (c *checks) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.all {
		r.cancel()
		r.asked.Stop()
	}
}
