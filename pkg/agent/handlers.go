package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/store"
)

// handlers is what the agent answers on its socket.
func (a *Agent) handlers() map[wire.Verb]wire.Handler {
	return map[wire.Verb]wire.Handler{
		wire.Prepare: handle(a.prepare),
		wire.Attach:  handle(a.attach),
		wire.Declare: handle(a.declare),
		wire.Detach:  handle(a.detach),
		wire.Check:   handle(a.check),
		wire.GC:      handle(a.collect),
		wire.Status:  handle(a.status),
		wire.Open:    handle(a.openByHand),
		wire.Release: handle(a.releaseByHand),
		wire.Reach:   handle(a.reach),
		wire.Decide:  handle(a.decideAddress),
		wire.View:    handle(a.view),
	}
}

// handle decodes the body for h.
func handle[T any](h func(context.Context, *T) (any, error)) wire.Handler {
	return func(ctx context.Context, body json.RawMessage) (any, error) {
		v := new(T)
		if len(body) > 0 {
			if err := json.Unmarshal(body, v); err != nil {
				return nil, &attach.Error{Kind: attach.InvalidConfig, Field: "body", Message: err.Error(),
					Remedy: "install plugin, homeportctl and agent of one release"}
			}
		}
		return h(ctx, v)
	}
}

// prepare checks a request and says what it will get. What a dead port of the
// same key left behind is cleared; nothing that lives changes.
func (a *Agent) prepare(_ context.Context, req *attach.Request) (any, error) {
	a.lastAsked.Store(time.Now().UnixNano())
	if err := checkKey(req.Key); err != nil {
		return nil, err
	}
	// The MAC of a port may be the kernel's choice, unknown until the veth is made.
	asked := *req
	if len(asked.MAC) == 0 {
		asked.MAC = placeholderMAC
	}
	r, err := a.resolve(&asked)
	if err != nil {
		return nil, err
	}
	e, unlock := a.table.lock(req.Key)
	defer unlock()
	if err := a.reclaim(e, req.Key); err != nil {
		return nil, err
	}
	if _, err := a.holdAtFirst(req); err != nil {
		return nil, err
	}
	out := wire.Prepared{Bridge: r.trunk.Bridge, MTU: r.mtu, VLANs: r.vlans}
	if _, asks := a.inquiryOf(req, r.policy, r.trunk.Name, r.vlans, false); asks {
		out.Longer = askPatience
	}
	if len(req.MAC) == 0 {
		m, _ := a.moveOf(req.Pod)
		out.MAC = macOf(m, req.IfName)
		asked.MAC = out.MAC
	}
	if len(asked.MAC) != 0 {
		asking := attach.Record{Request: asked, Bridge: r.trunk.Bridge, VLANs: r.vlans}
		if err := a.table.macHeld(&asking, a.alive); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// attach runs the plan that makes the port. A caller who hangs up before the
// answer has it undone.
func (a *Agent) attach(ctx context.Context, req *attach.Request) (any, error) {
	if err := checkKey(req.Key); err != nil {
		return nil, err
	}
	asked, tellTaken, err := a.askBefore(ctx, req)
	if err != nil {
		return nil, err
	}
	r, err := a.resolve(req)
	if err != nil {
		return nil, err
	}
	host := attach.Interface{Index: req.HostIfIndex, Name: req.HostIfName}
	if err := a.kernel.checkHostEnd(host); err != nil {
		return nil, err
	}
	if r.security.ForgedTransmits {
		defer a.holdForging(r.trunk.Bridge)()
	}
	e, unlock := a.table.lock(req.Key)
	defer unlock()
	if err := a.reclaim(e, req.Key); err != nil {
		return nil, err
	}
	rec := &attach.Record{Version: attach.RecordVersion, Request: *req, Trunk: r.trunk.Name, Bridge: r.trunk.Bridge,
		VLANs: r.vlans, Policy: r.policy, Rules: r.rules, Security: r.security, EffectiveMTU: r.mtu, BootID: a.boot, CreatedAt: time.Now().UTC()}
	if rec.Hold, err = a.holdAtFirst(req); err != nil {
		return nil, err
	}
	if err := a.table.claim(e, rec, a.alive); err != nil {
		return nil, err
	}
	// From the claim on, what the port stands on stays; before, it may have gone.
	again, err := a.resolve(req)
	// May have become known since.
	rec.Rules, again.rules = again.rules, r.rules
	rec.Security = again.security
	rec.Security.ForgedTransmits = rec.Security.ForgedTransmits && r.security.ForgedTransmits // or the fast path is not held
	again.security = r.security
	if err != nil || again != r {
		a.table.release(e)
		return nil, &attach.Error{Kind: attach.TryAgain, Field: "network", Message: "the network or its trunk is being changed", Remedy: "see homeportctl status"}
	}
	if err := a.node.AttachPlan(rec).Run(ctx); err != nil {
		a.table.release(e)
		a.log.Warn("attach failed and was undone", "container", req.ContainerID, "interface", req.IfName, "err", err)
		return nil, attachError(err)
	}
	a.table.opened(e)
	a.table.noteAsked(e, asked)
	a.addresses.FollowPorts(a.bookedPorts())
	tellTaken()
	a.tell()
	if rec.Hold != nil {
		ask(a.held)
		ask(a.moves)
	}
	if rec.Rules != "" || rec.Security != a.securityOf(rec) { // they may not be its own
		a.wake()
	}
	a.log.Info("port attached", "container", req.ContainerID, "interface", req.IfName, "port", host.Name, "bridge", rec.Bridge, "vlans", rec.VLANs.All(), "state", rec.Wanted())
	return rec, nil
}

// declare puts down the addresses that a port's interface was given after attach, once it is known whether somebody has
// them. The disk comes first: a successor of a killed agent goes by it.
func (a *Agent) declare(ctx context.Context, req *wire.DeclareRequest) (any, error) {
	var was attach.Record
	if err := a.withDeclared(ctx, req, func(_ *entry, rec *attach.Record) error { was = *rec; return nil }); err != nil {
		return nil, err
	}
	tellTaken := func() {}
	if q, ok := a.inquiryOf(&was.Request, was.Policy, was.Trunk, was.VLANs, was.Hold != nil || was.Arrival != nil); ok {
		var err error
		if tellTaken, _, err = a.askFor(ctx, q, req.Addresses); err != nil {
			return nil, err
		}
	}
	return nil, a.withDeclared(ctx, req, func(e *entry, rec *attach.Record) error {
		now := *rec
		now.Addresses = req.Addresses
		if err := a.store.Put(&now); err != nil {
			return attachError(err)
		}
		a.table.replace(&now)
		a.table.noteAsked(e, req.Addresses)
		a.addresses.FollowPorts(a.bookedPorts())
		tellTaken()
		a.tell()
		a.log.Info("addresses declared", "port", now.HostIfName, "container", now.ContainerID, "addresses", now.Addresses)
		return nil
	})
}

// withDeclared calls f while the key of a port that addresses are declared for is held.
func (a *Agent) withDeclared(ctx context.Context, req *wire.DeclareRequest, f func(*entry, *attach.Record) error) error {
	e, unlock := a.table.lock(req.Key)
	defer unlock()
	if ctx.Err() != nil { // gone while it waited, and the key may be another port's by now
		return context.Cause(ctx)
	}
	if e.rec == nil {
		return &attach.Error{Kind: attach.TryAgain, Field: "CNI_CONTAINERID, CNI_IFNAME",
			Message: fmt.Sprintf("container %s has no port for %s to declare addresses for", req.ContainerID, req.IfName), Remedy: "ADD it again"}
	}
	return f(e, e.rec)
}

// reclaim makes room for a new port of the key: an earlier one that lives is a
// conflict, one that does not is ended. The key is held.
func (a *Agent) reclaim(e *entry, k attach.Key) error {
	old, err := a.recordOf(e, k)
	if err != nil || old == nil {
		return err
	}
	if a.alive(old) {
		return &attach.Error{Kind: attach.Conflict, Field: "CNI_CONTAINERID, CNI_IFNAME",
			Message: fmt.Sprintf("container %s has a living port for %s already (%s)", k.ContainerID, k.IfName, old.HostIfName),
			Remedy:  "DEL it first"}
	}
	return a.end(e, old)
}

// recordOf finds the record of a held key, in memory or on disk; nil is none.
func (a *Agent) recordOf(e *entry, k attach.Key) (*attach.Record, error) {
	if e.rec != nil {
		return e.rec, nil
	}
	rec, err := a.store.Get(k)
	var aside *store.SetAside
	switch {
	case err == nil:
		return rec, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.As(err, &aside):
		a.noteRecord(aside)
		return nil, nil
	}
	return nil, attachError(err)
}

// end runs the plan that ends a port and forgets it. The key is held.
func (a *Agent) end(e *entry, rec *attach.Record) error {
	a.announcer.stop(portJob(rec.Key), errEnded)
	plan := a.node.DetachPlan(rec)
	if rec.BootID != a.boot { // its interface indexes mean nothing any more
		plan = plan[len(plan)-1:]
	}
	if err := plan.Run(context.Background()); err != nil {
		return attachError(err)
	}
	a.table.release(e)
	a.tell()
	a.log.Info("port ended", "container", rec.ContainerID, "interface", rec.IfName, "port", rec.HostIfName)
	return nil
}

func (a *Agent) detach(ctx context.Context, req *wire.DetachRequest) (any, error) {
	a.lastAsked.Store(time.Now().UnixNano())
	e, unlock := a.table.lock(req.Key)
	defer unlock()
	if ctx.Err() != nil { // gone while it waited; a newer ADD of this key must not meet its DEL
		return nil, context.Cause(ctx)
	}
	rec, err := a.recordOf(e, req.Key)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return wire.Detached{}, a.kernel.DeleteOrphan(req.Key)
	}
	return wire.Detached{Found: true}, a.end(e, rec)
}

func (a *Agent) check(_ context.Context, k *attach.Key) (any, error) {
	e, unlock := a.table.lock(*k)
	defer unlock()
	rec, err := a.recordOf(e, *k)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return wire.Checked{Problems: []string{"the node has no record of this attachment"}}, nil
	}
	return wire.Checked{Problems: a.kernel.Problems(rec)}, nil
}

// collect is CNI GC: everything of that network name that is not listed ends.
func (a *Agent) collect(_ context.Context, req *wire.GCRequest) (any, error) {
	valid := map[attach.Key]bool{}
	for _, k := range req.Valid {
		valid[k] = true
	}
	var out wire.Collected
	var errs []error
	for _, it := range a.table.list() {
		if it.rec.CNINetwork != req.CNINetwork || valid[it.rec.Key] {
			continue
		}
		e, unlock := a.table.lock(it.rec.Key)
		if e.rec != nil {
			if err := a.end(e, e.rec); err != nil {
				errs = append(errs, err)
			} else {
				out.Removed = append(out.Removed, it.rec.Key)
			}
		}
		unlock()
	}
	return out, errors.Join(errs...)
}

// status is CNI STATUS: can this node attach now, and do its ports do well?
func (a *Agent) status(context.Context, *struct{}) (any, error) {
	v := a.nodeStatus()
	if v.Ready {
		return nil, nil
	}
	return nil, notReady(v)
}

// notReady says why not, and whether ports that are there suffer too.
func notReady(v wire.NodeStatus) *attach.Error {
	kind := attach.Unavailable
	if len(openDrift(v.Drift)) > 0 {
		kind = attach.Limited
	}
	return &attach.Error{Kind: kind, Message: "this node is not ready: " + v.Reasons[0], Remedy: "see homeportctl status"}
}

// attachError keeps an attach.Error, and says TryAgain of the rest: what the
// kernel or the disk refused now may work at the next try.
func attachError(err error) error {
	var known *attach.Error
	if errors.As(err, &known) {
		return known
	}
	var dir *store.DirError
	if errors.As(err, &dir) {
		return dir.AttachError()
	}
	return &attach.Error{Kind: attach.TryAgain, Message: err.Error(), Remedy: "see the agent's log and bridge-agent doctor"}
}

// placeholderMAC stands in for one that the kernel will choose.
var placeholderMAC = attach.MAC{2, 0, 0, 0, 0, 1}

func checkKey(k attach.Key) error {
	if k.ContainerID == "" || k.IfName == "" {
		return attach.Invalid("CNI_CONTAINERID, CNI_IFNAME", "one of them is empty", "the runtime must set both")
	}
	return nil
}
