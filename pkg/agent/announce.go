package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"sync"

	"github.com/homeport-cni/homeport/pkg/announce"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// Why VMs are announced, as metrics and the log call it.
const (
	causeHandOver = "hand-over"
	causeFailover = "failover"
)

// announcer is the announcements at work. One is about a port or about a whole
// trunk, and a newer one about the same takes its place.
type announcer struct {
	mu     sync.Mutex
	sender *announce.Sender   // of all, so that they share its pace; nil until the first
	jobs   map[string]*job    // by what they are about
	count  map[string]float64 // VMs announced, by cause
	closed bool
	wg     sync.WaitGroup
}

type job struct{ cancel context.CancelCauseFunc }

var (
	errReplaced = errors.New("a newer announcement has taken its place")
	errEnded    = errors.New("the port has ended")
	errNotHere  = errors.New("no port is Active")
)

// start runs work in the background, in the place of what is at work under the
// key. The sender is opened here, in the caller's network namespace.
func (n *announcer) start(ctx context.Context, key string, work func(context.Context, *announce.Sender)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	if n.sender == nil {
		s, err := announce.Open()
		if err != nil {
			return err
		}
		n.sender = s
	}
	if old := n.jobs[key]; old != nil {
		old.cancel(errReplaced)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	j, sender := &job{cancel}, n.sender
	if n.jobs == nil {
		n.jobs = map[string]*job{}
	}
	n.jobs[key] = j
	n.wg.Go(func() {
		defer func() {
			cancel(nil)
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.jobs[key] == j {
				delete(n.jobs, key)
			}
		}()
		work(ctx, sender)
	})
	return nil
}

// stop ends what is at work under the key.
func (n *announcer) stop(key string, why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if j := n.jobs[key]; j != nil {
		j.cancel(why)
	}
}

// close ends all and waits for their end.
func (n *announcer) close() error {
	n.mu.Lock()
	n.closed = true
	for _, j := range n.jobs {
		j.cancel(context.Canceled)
	}
	n.mu.Unlock()
	n.wg.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sender == nil {
		return nil
	}
	s := n.sender
	n.sender = nil
	return s.Close()
}

// announced counts VMs.
func (n *announcer) announced(cause string, vms int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.count == nil {
		n.count = map[string]float64{}
	}
	n.count[cause] += float64(vms)
}

// counts is how many VMs were announced for each cause there is.
func (n *announcer) counts() map[string]float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return map[string]float64{causeHandOver: n.count[causeHandOver], causeFailover: n.count[causeFailover]}
}

func portJob(k attach.Key) string { return "port " + k.ContainerID + " " + k.IfName }

// announce tells the local bridge and the network behind its uplink that the VM of
// a port is here now: its MAC in all VLANs of the port, and the addresses where
// they are known to live. It returns at once and goes on in the background until
// ctx, which is the agent's and no request's, or the port ends. The port is Active
// already; one that is not, or is no more, announces nothing.
func (a *Agent) announce(ctx context.Context, rec *attach.Record, addresses []netip.Addr) {
	r := *rec
	err := a.announcer.start(ctx, portJob(r.Key), func(ctx context.Context, s *announce.Sender) {
		// Beside the first frames, which wait for nobody: it can be thousands of entries.
		var local sync.WaitGroup
		local.Go(func() { a.learn(&r) })
		defer local.Wait()
		a.announceStations(ctx, s, causeHandOver, r.Bridge, func() []attach.Record { return []attach.Record{r} },
			func(attach.Record) []netip.Addr { return addresses })
	})
	if err != nil {
		a.log.Error("a VM cannot be announced: the network finds it only when it speaks", "port", r.HostIfName, "err", err)
	}
}

// learn tells the local bridge that a port's VM is there.
func (a *Agent) learn(rec *attach.Record) {
	if len(a.activeOnly([]attach.Record{*rec})) == 0 {
		return
	}
	if err := a.kernel.net.LearnAt(ref(rec.HostEnd()), net.HardwareAddr(rec.MAC), rec.VLANs.All()); err != nil {
		a.log.Warn("the local bridge cannot be told everywhere where a VM is; it learns that from the VM's next frame", "port", rec.HostIfName, "err", err)
	}
}

// announceStations sends all rounds for the ports that are Active, which ports
// lists anew for each round, and tells how that went.
func (a *Agent) announceStations(ctx context.Context, s *announce.Sender, cause, bridgeName string, ports func() []attach.Record, addresses func(attach.Record) []netip.Addr) {
	uplink := a.uplinkOf(bridgeName)
	var frames, most int
	counted := false
	err := announce.Repeat(ctx, func() error {
		list := a.activeOnly(ports())
		if most = max(most, len(list)); len(list) == 0 {
			return errNotHere
		}
		if !counted {
			a.announcer.announced(cause, len(list))
			counted = true
		}
		if uplink == "" {
			return errNoUplink
		}
		at, up, err := a.kernel.wire(uplink)
		if err != nil {
			return err
		}
		n, err := s.Send(ctx, at, a.framesOf(list, up, addresses))
		frames += n
		return err
	})
	log := a.log.With("cause", cause, "bridge", bridgeName, "uplink", uplink, "vms", most, "frames", frames)
	if list := ports(); len(list) == 1 {
		rec := list[0]
		log = log.With("port", rec.HostIfName, "mac", rec.MAC, "vlans", rec.VLANs.All(), "addresses", addresses(rec))
	}
	switch {
	case err == nil, errors.Is(err, errNoUplink):
		log.Info("VMs announced")
	case ctx.Err() != nil, errors.Is(err, errNotHere):
		log.Info("VMs announced, not to the end", "why", cmp.Or(context.Cause(ctx), err))
	default:
		log.Warn("VMs cannot be announced: the network finds them only when they speak", "err", err)
	}
}

// errNoUplink: a trunk of this node alone has only its bridge to tell.
var errNoUplink = errors.New("the trunk has no uplink")

// framesOf are the frames of one round. A port that has ended or been released
// meanwhile is left out.
func (a *Agent) framesOf(ports []attach.Record, up announce.Uplink, addresses func(attach.Record) []netip.Addr) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, r := range ports {
			if len(a.activeOnly([]attach.Record{r})) == 0 {
				continue
			}
			s := announce.Station{MAC: net.HardwareAddr(r.MAC), VLANs: r.VLANs.All(), PVID: r.VLANs.PVID, Addresses: addresses(r)}
			for f := range s.Frames(up) {
				if !yield(f) {
					return
				}
			}
		}
	}
}

// activeOnly leaves out ports that are not the VM's place, or not yet.
func (a *Agent) activeOnly(ports []attach.Record) []attach.Record {
	var out []attach.Record
	for _, r := range ports {
		if state, ok := a.kernel.State(r.HostIfIndex); ok && state == attach.Active {
			out = append(out, r)
		}
	}
	return out
}

// uplinkOf names the uplink of the trunk on a bridge; "" is none.
func (a *Agent) uplinkOf(bridgeName string) string {
	for _, t := range a.trunks() {
		if t.Bridge == bridgeName {
			return t.Uplink
		}
	}
	return ""
}

// trunks are those in force.
func (a *Agent) trunks() map[string]desired.Trunk {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.world.snap == nil {
		return nil
	}
	return a.world.snap.Trunks // what was handed out does not change
}

// wire is an uplink as announcements need it: what the kernel lets out there, and
// in which form.
func (k *kernel) wire(uplink string) (ifindex int, up announce.Uplink, err error) {
	l, err := k.net.LinkInfo(bridge.Ref{Name: uplink})
	if err != nil {
		return 0, up, fmt.Errorf("uplink %w", err)
	}
	if !forwards(l) {
		return 0, up, fmt.Errorf("uplink %s passes nothing now", uplink)
	}
	v, err := k.net.ReadVLANs(l.Ref())
	if err != nil {
		return 0, up, err
	}
	return l.Index, announce.Uplink{VLANs: v.Members, Untagged: v.Untagged}, nil
}

// forwards says that a bridge port is up, has a carrier and passes frames.
func forwards(l bridge.Link) bool { return l.Port != nil && l.Port.State == bridge.PortForwarding }
