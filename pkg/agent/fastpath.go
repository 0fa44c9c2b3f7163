package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/hostfw"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

const (
	// capturesEvery is how often the agent looks for people who capture; they see what goes past
	// the bridge so soon.
	capturesEvery = time.Second
	// fastGap is between two looks at all that ports have to be for the fast path.
	fastGap = time.Second
	// leastAgeing is for how long a bridge must know a MAC: a port of the fast path sends by it every
	// half a minute (BY_BRIDGE_EVERY of bpf/include/fastpath.h).
	leastAgeing = time.Minute
)

// fastBook is which ports take the fast path, and why others do not.
type fastBook struct {
	kick chan struct{} // there is something new to look at

	mu    sync.Mutex
	ports map[int]wire.FastPath // by host interface
}

func newFastBook() *fastBook { return &fastBook{kick: make(chan struct{}, 1)} }

// of is what is known of a port; nil is nothing yet.
func (b *fastBook) of(ifindex int) *wire.FastPath {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, ok := b.ports[ifindex]; ok {
		return &p
	}
	return nil
}

// count is how many ports take it.
func (b *fastBook) count() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.ports {
		if p.On {
			n++
		}
	}
	return n
}

// keepFastPath has packets of established connections go past the bridge between ports of this
// node where nothing speaks against it.
func (a *Agent) keepFastPath(ctx context.Context) error {
	tick := time.NewTicker(capturesEvery)
	defer tick.Stop()
	var seen captures
	var looked time.Time
	due := true
	for {
		at, err := a.kernel.net.Captures()
		now := captures{at: at}
		if err != nil {
			now.unknown = err.Error()
		}
		if now.unknown != seen.unknown || !maps.Equal(now.at, seen.at) {
			seen, due, looked = now, true, time.Time{}
		}
		if due && time.Since(looked) >= fastGap {
			a.lookAtFastPath(seen)
			due, looked = false, time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.fast.kick:
			due = true
		case <-tick.C:
		}
	}
}

// captures are the interfaces at which somebody does; 0 is all.
type captures struct {
	at      map[int]bool
	unknown string // why it is not known
}

// fastView is what there is to know of a node and of a bridge for the fast path.
type fastView struct {
	trunk    desired.Trunk
	hooked   hostfw.Hooked
	captures captures
	others   map[int]string
	bridge   bridge.Observed
	uplink   *bridge.ObservedPort // nil: to it all goes by the bridge
}

// lookAtFastPath decides for every port, and has the programs know.
func (a *Agent) lookAtFastPath(seen captures) {
	a.mu.RLock()
	snap := a.world.snap
	a.mu.RUnlock()
	if snap == nil || !a.hostfw.known() {
		return // an agent that has just begun leaves it as it was
	}
	byBridge, recs := map[string][]attach.Record{}, map[int]attach.Record{}
	for _, it := range a.table.list() {
		if it.open {
			byBridge[it.rec.Bridge] = append(byBridge[it.rec.Bridge], it.rec)
			recs[it.rec.HostIfIndex] = it.rec
		}
	}
	trunks := map[string]desired.Trunk{}
	for _, t := range snap.Trunks {
		trunks[t.Bridge] = t
	}
	ports, give := map[int]wire.FastPath{}, map[int]datapath.FastPort{}
	for name, recs := range byBridge {
		v, all := fastView{captures: seen}, "there is no VLANTrunk for its bridge any more"
		if t, ok := trunks[name]; ok {
			v.trunk = t
			all = a.viewFastPath(&v, recs)
		}
		for _, rec := range recs {
			why := cmp.Or(all, v.whyNot(&rec))
			if m, _ := a.moveOf(rec.Pod); why == "" && m.UnderWay {
				why = "its VM is migrating"
			}
			if why != "" {
				ports[rec.HostIfIndex] = wire.FastPath{Why: why}
				continue
			}
			of := v.portOf(&rec)
			give[rec.HostIfIndex] = of
			ports[rec.HostIfIndex] = wire.FastPath{On: true, ToUplink: of.Uplink != 0}
		}
	}
	lost, err := a.kernel.dp.SetFastPath(give)
	if err != nil {
		a.log.Warn("the fast path cannot be set up", "err", err)
		for ifindex := range give {
			ports[ifindex] = wire.FastPath{Why: err.Error()}
		}
	}
	for _, ifindex := range lost {
		rec := recs[ifindex]
		found, err := a.find(&rec, give[ifindex])
		if err != nil {
			a.log.Warn("the fast path", "port", rec.HostIfName, "err", err)
		}
		if !found {
			ports[ifindex] = wire.FastPath{Why: "packets to it go by the bridge until that hears its MAC here, and last"}
		}
	}
	a.fast.mu.Lock()
	defer a.fast.mu.Unlock()
	a.fast.ports = ports
}

// viewFastPath looks at a trunk; why is what speaks against all its ports.
func (a *Agent) viewFastPath(v *fastView, recs []attach.Record) (why string) {
	t := v.trunk
	if t.NoFastPath {
		return "spec.fastPath of VLANTrunk " + t.Name + " is Off"
	}
	if !a.kernel.dp.FastPath() {
		return datapath.ErrNoFastPath.Error()
	}
	switch c := a.hostfw.conditions(t.Name); {
	case len(c) == 0:
		return "it is not known yet whether the host's packet filter sees frames of VMs"
	case c[0].Status != "False":
		return "the host's packet filter may see frames of VMs: HostFiltered of trunk " + t.Name + " is " + c[0].Status + ", " + c[0].Reason
	}
	if v.captures.unknown != "" {
		return v.captures.unknown
	}
	var err error
	if v.hooked, err = a.hostfw.host.Hooked(); err != nil {
		return err.Error()
	}
	if v.hooked.Bridge != "" {
		return v.hooked.Bridge + " sees frames of the node's bridges"
	}
	if v.bridge, err = a.kernel.net.Observe(t.Bridge); err != nil {
		return err.Error()
	}
	switch b := v.bridge; {
	case !b.IsBridge:
		return t.Bridge + " is no bridge"
	case v.captures.at[b.Bridge.Index]:
		return "somebody captures at " + t.Bridge
	case b.STP:
		return t.Bridge + " takes part in the spanning tree protocol"
	case b.Ageing < leastAgeing:
		return fmt.Sprintf("%s forgets a MAC after %v, want at least %v", t.Bridge, b.Ageing, leastAgeing)
	}
	for _, p := range v.bridge.Ports {
		if f := p.Flags; p.Name == t.Uplink && p.Up && p.Running && p.State == bridge.PortForwarding && f.Learning && !f.Isolated && !f.VLANTunnel && !f.Locked {
			v.uplink = &p
		}
	}
	indexes := make([]int, len(recs))
	for i := range recs {
		indexes[i] = recs[i].HostIfIndex
	}
	if v.others, err = a.kernel.dp.Others(indexes); err != nil {
		return err.Error()
	}
	return ""
}

// whyNot is what speaks against one port; "" is nothing.
func (v *fastView) whyNot(rec *attach.Record) string {
	p, ok := v.bridge.Ports[rec.HostIfIndex]
	switch {
	case rec.Wanted() != attach.Active:
		return "the port is " + rec.Wanted().String()
	case rec.VLANs.Mode != vlan.Access:
		return "it is a port for guests that tag their frames; access ports alone take it"
	case !ok || !p.Up || !p.Running || p.State != bridge.PortForwarding:
		return "the port does not forward"
	case v.bridge.VLANFiltering && (p.VLANs.PVID != rec.VLANs.PVID || !p.VLANs.Members.Contains(p.VLANs.PVID) || !p.VLANs.Untagged.Contains(p.VLANs.PVID)):
		return "its VLANs at the bridge are not its own"
	case p.Flags != bridge.GuestFlags():
		return "its flags at the bridge are not those of a VM's port"
	case !p.Paired:
		return "it is no veth to another network namespace"
	case v.captures.at[0]:
		return "somebody captures at all interfaces of the node"
	case v.captures.at[rec.HostIfIndex]:
		return "somebody captures at it"
	case v.others[rec.HostIfIndex] != "":
		return "others have " + v.others[rec.HostIfIndex] + " of it"
	case v.hooked.At(p.Name) != "":
		return v.hooked.At(p.Name) + " sees its frames"
	}
	return ""
}

// portOf is what the programs have to know of a port that takes the fast path.
func (v *fastView) portOf(rec *attach.Record) datapath.FastPort {
	of := datapath.FastPort{Bridge: v.bridge.Bridge.Index, MTU: v.bridge.Ports[rec.HostIfIndex].MTU}
	up, vid := v.uplink, rec.VLANs.PVID
	switch {
	case up == nil || up.MTU < of.MTU:
		return of
	case !v.bridge.VLANFiltering || up.VLANs.Untagged.Contains(vid) && up.VLANs.Members.Contains(vid):
		of.Uplink = up.Index
	case up.VLANs.Members.Contains(vid):
		of.Uplink, of.Tag = up.Index, vid
	}
	return of
}

// find has packets to a port that is lost take the fast path, if the bridge has its MAC there: it was
// heard there last.
func (a *Agent) find(rec *attach.Record, of datapath.FastPort) (found bool, err error) {
	here := func() (bool, error) {
		known, err := a.kernel.net.FDB(bridge.Ref{Index: of.Bridge})
		return slices.ContainsFunc(known, func(e bridge.FDBEntry) bool {
			return e.Port == rec.HostIfIndex && bytes.Equal(e.MAC, net.HardwareAddr(rec.MAC)) && (e.VLAN == rec.VLANs.PVID || e.VLAN == 0)
		}), err
	}
	if ok, err := here(); err != nil || !ok {
		return false, err
	}
	if found, err := a.kernel.dp.FoundFast(rec.HostIfIndex, of); err != nil || !found {
		return false, err
	}
	// Where the programs have heard it elsewhere just now, the bridge had before.
	if ok, err := here(); err != nil || !ok {
		return false, errors.Join(err, a.kernel.dp.LoseFast(rec.HostIfIndex, of))
	}
	return true, nil
}
