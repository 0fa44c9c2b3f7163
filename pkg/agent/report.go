package agent

import (
	"context"
	"errors"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
)

// Report tells others of the node, as long as ctx lasts. What it meets is its own
// to deal with: an error ends the agent.
type Report func(ctx context.Context, node View) error

// View is the node as a Report may ask for it, from any goroutine.
type View struct{ a *Agent }

// Status says whether the node does what it should.
func (v View) Status() wire.NodeStatus { return v.a.nodeStatus() }

// Ports lists the node's ports with their counters, and what was dropped at each by
// reason, of one reading. A port whose counters cannot be read says so.
func (v View) Ports() ([]wire.Port, []wire.Drop) {
	ports, drops, _ := v.a.readPorts()
	return ports, drops
}

// Own says whose a port is, and what is known of its addresses elsewhere. News: what Ports says of them is another since. Settled
// is false while this agent has not read what others know of them: what it has to say may be less than was known before.
func (v View) Own(port attach.Key, o wire.Owner) (news, settled bool) {
	v.a.mu.RLock()
	settled = v.a.world.snap != nil && v.a.world.unread == nil
	v.a.mu.RUnlock()
	v.a.askLate(port, o)
	return v.a.addresses.Own(port, o), settled && v.a.addresses.Followed()
}

// Changed is sent to when there may be news.
func (v View) Changed() <-chan struct{} { return v.a.news }

// report runs the configured Report, if there is one.
func (a *Agent) report(ctx context.Context) error {
	if a.cfg.Report == nil {
		<-ctx.Done()
		return nil
	}
	return a.cfg.Report(ctx, View{a})
}

// tell says that there may be news for the Report, once for all that it has not
// looked at yet.
func (a *Agent) tell() { ask(a.news) }

// linkStates reads how the uplinks of the trunks in force are. The kernel may be
// busy with ports just then, so it is asked before status holds what an ADD needs.
func (a *Agent) linkStates() map[string]string {
	a.mu.RLock()
	snap := a.world.snap
	a.mu.RUnlock()
	out := map[string]string{}
	if snap == nil {
		return out
	}
	for _, t := range snap.Trunks {
		out[t.Uplink] = a.kernel.linkState(t.Uplink)
	}
	return out
}

// linkState is how an interface of the node is, in the words of
// v1alpha1.UplinkStatus; "" is that it cannot be read.
func (k *kernel) linkState(name string) string {
	if name == "" {
		return ""
	}
	l, err := k.net.LinkInfo(bridge.Ref{Name: name})
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return wire.LinkAbsent
	case err != nil:
		return ""
	case !l.Up:
		return wire.LinkDown
	case !l.Running:
		return wire.LinkNoCarrier
	}
	return wire.LinkUp
}
