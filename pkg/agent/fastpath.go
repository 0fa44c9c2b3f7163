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

	"golang.org/x/sys/unix"

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
	// leastAgeing is for how long a bridge must know a MAC: it is reminded of a port of the fast path every
	// half a minute (REMIND_EVERY of bpf/include/fastpath.h).
	leastAgeing = time.Minute
)

// fastBook is which ports take the fast path, and why others do not.
type fastBook struct {
	kick chan struct{} // there is something new to look at
	fdb  func(bridge.Ref) ([]bridge.FDBEntry, error)
	look sync.Mutex // held while the agent looks, and while it changes what the look relies on

	missing map[farAt]bool // who was not where the programs have heard him, at the last look

	mu    sync.Mutex
	ports map[int]wire.FastPath // by host interface
	// forging are bridges of which a port is about to be one that may send from any MAC: how many.
	forging map[string]int
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

// holdFastPath has all go by the bridge while something is changed that the fast path relies on; the
// next look sees to the rest.
func (a *Agent) holdFastPath(change func()) {
	a.fast.look.Lock()
	defer a.fast.look.Unlock()
	if _, err := a.kernel.dp.SetFastPath(nil); err != nil {
		a.log.Warn("the fast path cannot be switched off", "err", err)
	}
	change()
	ask(a.fast.kick)
}

// holdForging has all go by the bridge, and what goes by this one go there on, until the port is known that may send from any
// MAC, or done is called.
func (a *Agent) holdForging(bridgeName string) (done func()) {
	forging := func(n int) {
		a.fast.mu.Lock()
		defer a.fast.mu.Unlock()
		if a.fast.forging == nil {
			a.fast.forging = map[string]int{}
		}
		a.fast.forging[bridgeName] += n
	}
	forging(1)
	a.holdFastPath(func() {})
	return func() { forging(-1); ask(a.fast.kick) }
}

// isForging says whether a port of the bridge is about to be such a one.
func (b *fastBook) isForging(bridgeName string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.forging[bridgeName] > 0
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

// keepFastPath has packets of established connections go past the bridge, between ports of this
// node and to the uplink, where nothing speaks against it.
func (a *Agent) keepFastPath(ctx context.Context) error {
	tick := time.NewTicker(capturesEvery)
	defer tick.Stop()
	var seen captures
	var looked time.Time
	due := true
	for {
		at, err := a.kernel.net.Captures(a.prober.isOwn)
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
	theirs   map[int]string // what others have at ports
	bridge   bridge.Observed
	upIndex  int                  // the uplink's; 0 is none
	uplink   *bridge.ObservedPort // nil: to it and from it all goes by the bridge
	upWhy    string               // why what comes from it does
	upVLANs  map[vlan.ID]string   // what takes frames of a VLAN there before the bridge
	known    []bridge.FDBEntry
}

// fastLook is what is asked once for all bridges.
type fastLook struct {
	captures captures
	hooked   func() (hostfw.Hooked, error)
	links    func() ([]bridge.Link, error)
}

// lookAtFastPath decides for every port, and has the programs know.
func (a *Agent) lookAtFastPath(seen captures) {
	a.fast.look.Lock()
	defer a.fast.look.Unlock()
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
	var others []datapath.FastMAC
	views := map[int]*fastView{} // by bridge
	look := fastLook{seen, sync.OnceValues(a.hostfw.host.Hooked), sync.OnceValues(a.kernel.net.Links)}
	for name, recs := range byBridge {
		v, all := &fastView{captures: seen}, "there is no VLANTrunk for its bridge any more"
		if t, ok := trunks[name]; ok {
			v.trunk = t
			all = a.viewFastPath(v, recs, look)
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
			of, why := v.portOf(&rec)
			give[rec.HostIfIndex] = of
			ports[rec.HostIfIndex] = wire.FastPath{On: true, ToUplink: of.Uplink != 0, FromUplink: of.Inbound, Why: why}
			views[of.Bridge] = v
		}
		others = append(others, v.others(recs, give)...)
	}
	a.attachInbound(give, ports)
	a.forgetFar(views)
	lost, err := a.kernel.dp.SetFastPath(give, others...)
	if err != nil {
		a.log.Warn("the fast path cannot be set up", "err", err)
		for ifindex := range give {
			ports[ifindex] = wire.FastPath{Why: err.Error()}
		}
		lost = nil
	}
	for ifindex := range a.find(lost, give, recs, views) {
		p := ports[ifindex]
		p.FromUplink, p.Why = false, "to it packets go by the bridge, until that hears its MAC here, and last"
		ports[ifindex] = p
	}
	a.fast.mu.Lock()
	defer a.fast.mu.Unlock()
	a.fast.ports = ports
}

// viewFastPath looks at a trunk; why is what speaks against all its ports.
func (a *Agent) viewFastPath(v *fastView, recs []attach.Record, look fastLook) (why string) {
	t := v.trunk
	if t.NoFastPath {
		return "spec.fastPath of VLANTrunk " + t.Name + " is Off"
	}
	if !a.kernel.dp.FastPath() {
		return datapath.ErrNoFastPath.Error()
	}
	// The programs know no other MACs than the ports' own, and those would be looked for behind the uplink.
	if i := slices.IndexFunc(recs, func(r attach.Record) bool { return r.Security.ForgedTransmits }); i >= 0 {
		return recs[i].HostIfName + " of the bridge may send from any MAC: forgedTransmits"
	}
	if a.fast.isForging(t.Bridge) {
		return "a new port of the bridge may send from any MAC: forgedTransmits"
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
	if v.hooked, err = look.hooked(); err != nil {
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
	case b.MaxLearned != 0: // and floods what is for others
		return fmt.Sprintf("%s learns no more than %d MACs", t.Bridge, b.MaxLearned)
	}
	if v.known, err = a.fast.fdb(v.bridge.Bridge); err != nil {
		return err.Error()
	}
	tagged := !v.bridge.VLANFiltering || v.bridge.VLANProtocol == unix.ETH_P_8021Q // as the programs tag
	for _, p := range v.bridge.Ports {
		if p.Name != t.Uplink {
			continue
		}
		v.upIndex = p.Index
		if f := p.Flags; tagged && p.Up && p.Running && p.State == bridge.PortForwarding && f.Learning && !f.Isolated && !f.VLANTunnel && !f.Locked && !f.Hairpin {
			v.uplink = &p
		}
	}
	v.upWhy = a.viewUplink(v, recs, look)
	indexes := make([]int, len(recs))
	for i := range recs {
		indexes[i] = recs[i].HostIfIndex
	}
	if v.theirs, err = a.kernel.dp.Others(indexes); err != nil {
		return err.Error()
	}
	return ""
}

// viewUplink looks at who besides the bridge would miss frames that come by the uplink; why is what speaks against all of them.
func (a *Agent) viewUplink(v *fastView, recs []attach.Record, look fastLook) (why string) {
	if v.uplink == nil {
		return ""
	}
	theirs, err := a.kernel.dp.Others(nil, v.upIndex)
	if err != nil {
		return err.Error()
	}
	links, err := look.links()
	if err != nil {
		return err.Error()
	}
	v.upVLANs = map[vlan.ID]string{}
	for _, l := range links {
		if l.VLAN != 0 && l.Lower == v.upIndex && l.LowerNetnsID == -1 {
			v.upVLANs[l.VLAN] = l.Name
		}
	}
	other := func(r attach.Record) bool { return r.VLANs.PVID != recs[0].VLANs.PVID }
	switch chain := v.hooked.At(v.uplink.Name); {
	case theirs[v.upIndex] != "":
		return "others have " + theirs[v.upIndex] + " of " + v.uplink.Name
	case chain != "":
		return chain + " sees frames of " + v.uplink.Name
	case !v.bridge.VLANFiltering && slices.ContainsFunc(recs, other):
		return v.bridge.Bridge.Name + " knows no VLANs, and has ports of several networks"
	}
	return ""
}

// attachInbound has what comes by uplinks go past the bridge, for those of the ports that can.
func (a *Agent) attachInbound(give map[int]datapath.FastPort, ports map[int]wire.FastPath) {
	uplinks := map[int]bool{}
	for _, of := range give {
		if of.Inbound {
			uplinks[of.Uplink] = true
		}
	}
	failed, err := a.kernel.dp.AttachInbound(slices.Collect(maps.Keys(uplinks))...)
	if err != nil {
		a.log.Warn("the fast path from uplinks", "err", err)
	}
	for ifindex, of := range give {
		if err := failed[of.Uplink]; of.Inbound && err != nil {
			of.Inbound = false
			give[ifindex] = of
			ports[ifindex] = wire.FastPath{On: true, ToUplink: true, Why: fromUplinkNot + err.Error()}
		}
	}
}

// farAt is somebody behind an uplink.
type farAt struct {
	mac    datapath.FastMAC
	uplink int
}

// forgetFar has the programs hear anew who is behind uplinks, of those that the bridge has not had there at two looks in turn: it has
// forgotten them, or heard them elsewhere last. At one it may have been asked just before it heard them.
func (a *Agent) forgetFar(views map[int]*fastView) {
	has, missing := map[farAt]bool{}, map[farAt]bool{}
	for _, v := range views {
		for _, e := range v.known {
			if len(e.MAC) == 6 && e.Port == v.upIndex {
				has[farAt{datapath.FastMAC{Bridge: v.bridge.Bridge.Index, VLAN: e.VLAN, MAC: [6]byte(e.MAC)}, v.upIndex}] = true
			}
		}
	}
	err := a.kernel.dp.ForgetFar(func(mac datapath.FastMAC, uplink int) bool {
		if v := views[mac.Bridge]; v != nil && !v.bridge.VLANFiltering {
			mac.VLAN = 0
		}
		at := farAt{mac, uplink}
		if has[at] {
			return true
		}
		missing[at] = true
		return !a.fast.missing[at]
	})
	if a.fast.missing = missing; len(missing) > 0 {
		ask(a.fast.kick)
	}
	if err != nil {
		a.log.Warn("the fast path to uplinks", "err", err)
	}
}

// whyNot is what speaks against one port; "" is nothing.
func (v *fastView) whyNot(rec *attach.Record) string {
	p, ok := v.bridge.Ports[rec.HostIfIndex]
	switch {
	case rec.Wanted() != attach.Active:
		return "the port is " + rec.Wanted().String()
	case rec.VLANs.Mode != vlan.Access:
		return "it is a port for guests that tag their frames; access ports alone take it"
	case !ok || !p.Up || !p.Running || p.State != bridge.PortForwarding || p.VLANs.Blocked.Contains(rec.VLANs.PVID):
		return "the port does not forward"
	case v.bridge.VLANFiltering && (p.VLANs.PVID != rec.VLANs.PVID || p.VLANs.Members != rec.VLANs.All() || p.VLANs.Untagged != rec.VLANs.All()):
		return "its VLANs at the bridge are not its own"
	case p.Flags != bridge.GuestFlags():
		return "its flags at the bridge are not those of a VM's port"
	case !p.Paired:
		return "it is no veth to another network namespace"
	case v.captures.at[0]:
		return "somebody captures at all interfaces of the node"
	case v.captures.at[rec.HostIfIndex]:
		return "somebody captures at it"
	case v.theirs[rec.HostIfIndex] != "":
		return "others have " + v.theirs[rec.HostIfIndex] + " of it"
	case v.hooked.At(p.Name) != "":
		return v.hooked.At(p.Name) + " sees its frames"
	}
	return ""
}

// portOf is what the programs have to know of a port that takes the fast path. Why is what speaks against it for
// what comes by the uplink, to which it goes.
func (v *fastView) portOf(rec *attach.Record) (of datapath.FastPort, why string) {
	of = datapath.FastPort{Bridge: v.bridge.Bridge.Index, MTU: v.bridge.Ports[rec.HostIfIndex].MTU}
	up, vid := v.uplink, rec.VLANs.PVID
	why = v.upWhy
	switch {
	case up == nil || up.MTU < of.MTU:
		return of, ""
	case !v.bridge.VLANFiltering:
		of.Uplink = up.Index
	case !up.VLANs.Members.Contains(vid) || up.VLANs.Blocked.Contains(vid):
		return of, ""
	case !up.VLANs.Untagged.Contains(vid):
		of.Uplink, of.Tag = up.Index, vid
	default:
		of.Uplink = up.Index
		if why == "" && up.VLANs.PVID != vid {
			why = fmt.Sprintf("%s sends frames of VLAN %d without a tag, and takes such for VLAN %d", up.Name, vid, up.VLANs.PVID)
		}
	}
	if name := v.upVLANs[vid]; why == "" && of.Tag != 0 && name != "" {
		why = fmt.Sprintf("%s takes its frames of VLAN %d before the bridge", name, vid)
	}
	of.Inbound = why == ""
	if why != "" {
		why = fromUplinkNot + why
	}
	return of, why
}

const fromUplinkNot = "from the uplink packets go by the bridge: "

// others are the MACs of a bridge's stations on this node that have no port in the fast path: what the bridge has
// anywhere but at the uplink, and those of VMs that it has not heard.
func (v *fastView) others(recs []attach.Record, give map[int]datapath.FastPort) (out []datapath.FastMAC) {
	fast := vlan.Set{}
	for _, rec := range recs {
		if _, ok := give[rec.HostIfIndex]; ok {
			fast = fast.Union(rec.VLANs.All())
		}
	}
	add := func(mac net.HardwareAddr, vlans vlan.Set) {
		for id := range vlans.Intersect(fast).All() {
			if len(mac) == 6 {
				out = append(out, datapath.FastMAC{Bridge: v.bridge.Bridge.Index, VLAN: id, MAC: [6]byte(mac)})
			}
		}
	}
	for _, rec := range recs {
		if _, ok := give[rec.HostIfIndex]; !ok && rec.Wanted() != attach.Released {
			add(net.HardwareAddr(rec.MAC), rec.VLANs.All())
		}
	}
	for _, e := range v.known {
		if e.Port == v.upIndex && !e.Local {
			continue
		}
		in := fast
		if e.VLAN != 0 {
			in = vlan.Set{}
			_ = in.Add(e.VLAN) // it is one
		}
		add(e.MAC, in)
	}
	return out
}

// find has packets to ports that are lost take the fast path, if the bridge has their MACs there: they were
// heard there last. It gives those that are lost still.
func (a *Agent) find(lost []int, give map[int]datapath.FastPort, recs map[int]attach.Record, views map[int]*fastView) map[int]bool {
	still, found := map[int]bool{}, map[int][]int{} // by bridge
	for _, ifindex := range lost {
		still[ifindex] = true
		rec, of := recs[ifindex], give[ifindex]
		if !heardAt(views[of.Bridge].known, &rec) {
			continue
		}
		ok, err := a.kernel.dp.FoundFast(ifindex, of)
		if err != nil {
			a.log.Warn("the fast path", "port", rec.HostIfName, "err", err)
		} else if ok {
			found[of.Bridge] = append(found[of.Bridge], ifindex)
		}
	}
	if len(found) > 0 {
		datapath.WaitForPrograms()
	}
	for br, ifindexes := range found {
		// Where the programs have heard one elsewhere in the meantime, the bridge has by now.
		known, err := a.fast.fdb(bridge.Ref{Index: br})
		for _, ifindex := range ifindexes {
			rec := recs[ifindex]
			if err == nil && heardAt(known, &rec) {
				delete(still, ifindex)
				continue
			}
			if err := errors.Join(err, a.kernel.dp.LoseFast(ifindex, give[ifindex])); err != nil {
				a.log.Warn("the fast path", "port", rec.HostIfName, "err", err)
			}
		}
	}
	return still
}

// heardAt says whether the bridge has a port's MAC there.
func heardAt(known []bridge.FDBEntry, rec *attach.Record) bool {
	return slices.ContainsFunc(known, func(e bridge.FDBEntry) bool {
		return e.Port == rec.HostIfIndex && !e.Local && bytes.Equal(e.MAC, net.HardwareAddr(rec.MAC)) && (e.VLAN == rec.VLANs.PVID || e.VLAN == 0)
	})
}
