package agent

import (
	"bytes"
	"cmp"
	"context"
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
	var captures map[int]bool
	var looked time.Time
	due := true
	for {
		now, err := a.kernel.net.Captures()
		if err != nil {
			a.log.Warn("captures cannot be looked for: no port takes the fast path", "err", err)
			now = map[int]bool{0: true}
		}
		if !maps.Equal(now, captures) {
			captures, due, looked = now, true, time.Time{}
		}
		if due && time.Since(looked) >= fastGap {
			a.lookAtFastPath(captures)
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

// fastView is what there is to know of a node and of a bridge for the fast path.
type fastView struct {
	trunk    desired.Trunk
	hooked   hostfw.Hooked
	captures map[int]bool
	others   map[int]string
	bridge   bridge.Observed
}

// lookAtFastPath decides for every port, and has the programs know.
func (a *Agent) lookAtFastPath(captures map[int]bool) {
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
		v, all := fastView{captures: captures}, "there is no VLANTrunk for its bridge any more"
		if t, ok := trunks[name]; ok {
			v.trunk = t
			all = a.viewFastPath(&v, recs)
		}
		for _, rec := range recs {
			why := cmp.Or(all, v.whyNot(&rec))
			if m, _ := a.moveOf(rec.Pod); why == "" && m.Migrating {
				why = "its VM is migrating"
			}
			ports[rec.HostIfIndex] = wire.FastPath{On: why == "", Why: why}
			if why == "" {
				give[rec.HostIfIndex] = datapath.FastPort{Bridge: v.bridge.Bridge.Index, MTU: v.bridge.Ports[rec.HostIfIndex].MTU}
			}
		}
	}
	moved, err := a.kernel.dp.SetFastPath(give)
	if err != nil {
		a.log.Warn("the fast path cannot be set up", "err", err)
		for ifindex := range give {
			ports[ifindex] = wire.FastPath{Why: err.Error()}
		}
	}
	for _, ifindex := range moved {
		if rec := recs[ifindex]; !a.isBack(&rec, give[ifindex]) {
			ports[ifindex] = wire.FastPath{Why: "its MAC was heard elsewhere: packets to it go by the bridge until that hears it here again"}
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
	case v.captures[b.Bridge.Index]:
		return "somebody captures at " + t.Bridge
	case b.STP:
		return t.Bridge + " takes part in the spanning tree protocol"
	case b.Ageing < leastAgeing:
		return fmt.Sprintf("%s forgets a MAC after %v, want at least %v", t.Bridge, b.Ageing, leastAgeing)
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
	case p.Flags != bridge.GuestFlags():
		return "its flags at the bridge are not those of a VM's port"
	case !p.Paired:
		return "it is no veth to another network namespace"
	case v.captures[0]:
		return "somebody captures at all interfaces of the node"
	case v.captures[rec.HostIfIndex]:
		return "somebody captures at it"
	case v.others[rec.HostIfIndex] != "":
		return "others have " + v.others[rec.HostIfIndex] + " of it"
	case v.hooked.Devices[p.Name] != "":
		return v.hooked.Devices[p.Name] + " sees its frames"
	}
	return ""
}

// isBack says whether a port whose MAC was heard elsewhere was heard by its bridge since; then
// packets to it take the fast path again.
func (a *Agent) isBack(rec *attach.Record, of datapath.FastPort) bool {
	known, err := a.kernel.net.FDB(bridge.Ref{Index: of.Bridge})
	if err == nil && !slices.ContainsFunc(known, func(e bridge.FDBEntry) bool {
		return e.Port == rec.HostIfIndex && bytes.Equal(e.MAC, net.HardwareAddr(rec.MAC)) && (e.VLAN == rec.VLANs.PVID || e.VLAN == 0)
	}) {
		return false
	}
	if err == nil {
		err = a.kernel.dp.ReturnFast(rec.HostIfIndex, of)
	}
	if err != nil {
		a.log.Warn("a port does not return to the fast path", "port", rec.HostIfName, "err", err)
	}
	return err == nil
}
