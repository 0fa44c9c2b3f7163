package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// reconcile is one round of the loop: what is, against what should be. Only the
// loop calls it, and Run before there is one.
func (a *Agent) reconcile() {
	a.endDead()
	a.letGo()
	a.tellUnread()
	a.mu.RLock()
	snap, gone := a.world.snap, a.world.gone // of one moment
	a.mu.RUnlock()
	if snap != nil {
		a.syncPolicy()
		a.followPolicies(snap)
		a.followMoves()
		a.followAddresses()
		a.dropTrunks(snap, gone) // first: another trunk may wait for the uplink
		var found []finding
		for _, name := range slices.Sorted(maps.Keys(snap.Trunks)) {
			found = append(found, a.lookAtTrunk(snap.Trunks[name])...)
		}
		a.noteFollowed(snap)
		found = append(found, a.lookAtHooks()...)
		errs := a.drift.settle(found)
		a.noteProblems(found, errs)
		a.releaseUplinks(snap)
	}
	if time.Since(a.collected) > roundEvery {
		a.collected = time.Now()
		a.collectLeftovers()
		a.forgetLeft()
	}
}

// changesTags says whether to set a trunk up may change which VLAN has no tag at its uplink.
func (a *Agent) changesTags(spec bridge.TrunkSpec) bool {
	if !spec.Managed {
		return true // that depends on what was added to it once
	}
	now, err := a.kernel.net.Observe(spec.Bridge)
	if err != nil {
		return true // who knows
	}
	for _, p := range now.Ports {
		if p.Name == spec.Uplink {
			want := spec.UplinkVLANs()
			return p.VLANs.PVID != want.PVID || p.VLANs.Untagged != want.Untagged
		}
	}
	return false
}

// lookAtTrunk sets the trunk up if it never was, and says what has drifted on it
// and on its ports since. Where it cannot be set up, its living ports are looked
// at all the same.
func (a *Agent) lookAtTrunk(t desired.Trunk) []finding {
	ports := a.portsOf(t.Bridge)
	spec := a.kernel.trunkSpec(t)
	for _, p := range ports { // a VLAN that living ports use is not taken from the uplink
		spec.Allowed = spec.Allowed.Union(p.VLANs.All().Minus(t.Management))
	}
	h, known := a.healthOf(t.Name)
	waits := h.problem != "" && h.spec == spec && time.Since(h.tried) < firstDelay
	switch {
	case waits || known && h.problem == "" && h.spec == spec:
	case a.changesTags(spec):
		a.holdFastPath(func() { h = a.ensureTrunk(t.Name, spec) })
	default:
		h = a.ensureTrunk(t.Name, spec)
	}
	if h.problem != "" && len(ports) == 0 {
		return nil
	}
	want := bridge.Want{Trunk: spec, MAC: h.mac, MTU: h.mtu, UplinkMTU: h.mtu}
	also := []bridge.Ref{}
	if t.Uplink != "" {
		also = append(also, bridge.Ref{Name: t.Uplink})
	}
	for i := range ports { // by index alone: a renamed port is still that port
		at := bridge.Ref{Index: ports[i].HostIfIndex}
		want.UplinkMTU = max(want.UplinkMTU, ports[i].EffectiveMTU)
		want.Ports = append(want.Ports, bridge.WantPort{Ref: at, VLANs: a.kernel.portVLANs(ports[i].VLANs), MTU: ports[i].EffectiveMTU})
		also = append(also, at)
	}
	got, err := a.kernel.net.Observe(t.Bridge, also...)
	if err != nil {
		a.setProblem(t.Name, fmt.Errorf("it cannot be read: %w", err))
		return nil
	}
	a.followNames(ports, got)
	for _, p := range got.Ports {
		if p.Name != t.Uplink || h.problem != "" {
			continue
		}
		if a.followUplink(t.Name, h, p, got.MTU) {
			return a.lookAtTrunk(t)
		}
		a.readyUplink(t, p.Index)
	}
	return a.findings(t.Name, want, got, h.problem != "")
}

// readyUplink makes the uplink ready for the fast path, long before the first VM takes it.
func (a *Agent) readyUplink(t desired.Trunk, ifindex int) {
	if t.NoFastPath {
		return
	}
	said := ""
	if err := a.kernel.dp.ReadyUplink(ifindex); err != nil { // it is tried again, and when it is needed
		if said = err.Error(); said != a.unready[t.Name] {
			a.log.Warn("the uplink is not ready for the fast path", "trunk", t.Name, "err", err)
		}
	}
	if a.unready == nil {
		a.unready = map[string]string{}
	}
	a.unready[t.Name] = said
}

// followUplink notes what the uplink carries. A trunk that takes its MTU from it
// is set up again when that has changed, so that new ports get what it carries
// now; then all is to be looked at again.
func (a *Agent) followUplink(trunk string, h trunkHealth, up bridge.ObservedPort, bridgeMTU int) (changed bool) {
	room := up.MTU
	if !h.spec.Managed {
		room = min(room, bridgeMTU)
	}
	if h.spec.MTU == 0 && (up.MTU < h.mtu || room > h.mtu) {
		a.ensureTrunk(trunk, h.spec)
		return true
	}
	if up.VLANs.Members != h.vlans {
		h.vlans = up.VLANs.Members
		a.setHealth(trunk, h)
	}
	return false
}

// ensureTrunk sets the trunk up and notes how that went.
func (a *Agent) ensureTrunk(name string, spec bridge.TrunkSpec) trunkHealth {
	last := a.problemOf(name)
	ensure := a.kernel.net.EnsureTrunk
	if !spec.Managed && spec.Uplink != "" {
		ensure = a.ensureAdopted
	}
	st, err := ensure(spec)
	h := trunkHealth{spec: spec, mtu: st.MTU, mac: st.MAC, tried: time.Now()}
	if err != nil {
		h.problem = err.Error()
		if h.problem != last {
			a.log.Error("trunk is not ready", "trunk", name, "err", err)
		}
	}
	for _, c := range st.Changed {
		a.log.Info("trunk changed", "trunk", name, "what", c)
	}
	for _, w := range st.Warnings {
		a.log.Warn("trunk", "trunk", name, "warning", w)
	}
	a.setHealth(name, h)
	return h
}

// findings turns drift into what is to be repaired. A port in the making or in
// its ending belongs to its plan, and one that has just ended is no drift. Of a
// broken trunk, which tells its own reason, there is only what concerns ports and
// what opens up.
func (a *Agent) findings(trunk string, want bridge.Want, got bridge.Observed, broken bool) []finding {
	var found []finding
	for _, d := range bridge.Diff(want, got) {
		f := finding{kind: string(d.Kind), subject: d.Subject.Name, urgent: opensUp[d.Kind],
			message: fmt.Sprintf("want %s, got %s: %s", d.Want, d.Got, meaning(d))}
		rec := a.recordOfInterface(d.Subject.Index)
		if rec != nil {
			f.subject = rec.HostIfName
			f.repair = func() error {
				return a.withPort(*rec, func(attach.Record) error { return a.kernel.net.Repair(want, d) })
			}
		} else {
			f.repair = func() (err error) {
				repair := func() { err = a.kernel.net.Repair(want, d) }
				if d.Subject.Name == want.Trunk.Uplink {
					a.holdFastPath(repair) // tags may change
				} else {
					repair()
				}
				if d.Kind != bridge.UplinkMTUShrunk && !broken { // the trunk stands, if for smaller frames
					a.setProblem(trunk, err)
				}
				return err
			}
		}
		if d.Kind == bridge.PortMissing || broken && rec == nil && !f.urgent {
			continue // endDead's business, or ensureTrunk's
		}
		found = append(found, f)
	}
	return found
}

// followNames takes up the names that somebody has given our ports: an interface
// is known by its index.
func (a *Agent) followNames(ports []attach.Record, got bridge.Observed) {
	for _, rec := range ports {
		o, ok := got.Ports[rec.HostIfIndex]
		if !ok {
			o, ok = got.Loose[rec.HostIfIndex]
		}
		if !ok || o.Name == rec.HostIfName {
			continue
		}
		err := a.withPort(rec, func(now attach.Record) error {
			now.HostIfName = o.Name
			a.table.replace(&now)
			return a.store.Put(&now)
		})
		a.log.Warn("a port was renamed; it is kept under its new name", "port", o.Name, "container", rec.ContainerID, "err", err)
	}
}

// opensUp are the drifts that let frames go where they should not.
var opensUp = map[bridge.Kind]bool{bridge.VLANFilteringOff: true, bridge.PVIDAdded: true, bridge.PortVLANExtra: true, bridge.BridgeVLANExtra: true}

// meaning says what a drift does to VMs until it is repaired.
func meaning(d bridge.Drift) string {
	switch d.Kind {
	case bridge.UplinkMTUShrunk:
		return fmt.Sprintf("larger frames of VMs are lost; raise it (`ip link set %s mtu %s`), or lower spec.mtu of the trunk and restart the VMs that have more", d.Subject.Name, d.Want)
	case bridge.VLANFilteringOff:
		return "VLANs are not kept apart until it is repaired"
	case bridge.PVIDAdded, bridge.PortVLANExtra, bridge.BridgeVLANExtra:
		return "frames can reach a VLAN that they should not, until it is repaired"
	case bridge.PortFlagsChanged, bridge.BridgeSettings, bridge.BridgeMACChanged, bridge.UplinkVLANExtra:
		return "not as configured until it is repaired"
	}
	return "traffic is cut until it is repaired"
}

// lookAtHooks says which ports have lost their program. Such a port is open
// until it is repaired, so this is urgent and says so.
func (a *Agent) lookAtHooks() []finding {
	var found []finding
	for _, it := range a.table.list() {
		if !it.open {
			continue
		}
		err := a.withPort(it.rec, func(now attach.Record) error { return a.kernel.VerifyPort(&now) })
		if err == nil {
			continue
		}
		f := finding{kind: hookKind(err), subject: it.rec.HostIfName, urgent: true, message: err.Error(),
			repair: func() error { return a.repairHooks(it) }}
		if opens(err) {
			f.message += ": the port is open, without its firewall, until it is repaired"
		}
		found = append(found, f)
	}
	return found
}

// withPort works on a port while nobody else does, and only if it is still the
// one that was looked at; now is its record, which may be newer.
func (a *Agent) withPort(rec attach.Record, work func(now attach.Record) error) error {
	e, unlock := a.table.lock(rec.Key)
	defer unlock()
	if e.rec == nil || e.rec.HostIfIndex != rec.HostIfIndex || !a.alive(e.rec) {
		return nil
	}
	return work(*e.rec)
}

// noteProblems keeps, for each port, what is not repaired: because it cannot be,
// or because its turn has not come.
func (a *Agent) noteProblems(found []finding, errs map[driftKey]error) {
	for _, f := range found {
		if err := errs[driftKey{f.kind, f.subject}]; err != nil {
			a.log.Error("drift cannot be repaired yet", "kind", f.kind, "subject", f.subject, "err", err)
		} else {
			a.log.Warn("drift repaired or waiting for its turn", "kind", f.kind, "subject", f.subject, "what", f.message)
		}
	}
	byPort := map[string][]string{}
	for _, d := range openDrift(a.drift.list()) {
		byPort[d.Subject] = append(byPort[d.Subject], d.Kind+": "+d.Message)
	}
	for _, it := range a.table.list() {
		a.table.setProblems(it.rec.Key, byPort[it.rec.HostIfName])
	}
}

// endDead ends the ports whose interface is gone: their pod is.
func (a *Agent) endDead() {
	for _, it := range a.table.list() {
		if a.alive(&it.rec) {
			continue
		}
		e, unlock := a.table.lock(it.rec.Key)
		if e.rec != nil && !a.alive(e.rec) {
			if err := a.end(e, e.rec); err != nil {
				a.log.Warn("a dead port cannot be ended yet", "port", it.rec.HostIfName, "err", err)
			}
		}
		unlock()
	}
}

// dropTrunks takes away what trunks that are no longer desired, or now elsewhere,
// leave behind: their managed bridges, as soon as nobody else has a port there,
// and an uplink that their bridge has another for.
func (a *Agent) dropTrunks(snap *desired.Snapshot, gone map[place]desired.Trunk) {
	for at, t := range gone {
		drop := a.kernel.net.RemoveTrunk
		for _, other := range snap.Trunks {
			if other.Bridge == t.Bridge {
				drop = a.kernel.net.FreeUplink
			}
		}
		err := drop(a.kernel.trunkSpec(t))
		if err != nil && !errors.Is(err, bridge.ErrRefused) {
			a.log.Warn("a trunk that is no longer desired cannot be removed yet", "trunk", t.Name, "bridge", t.Bridge, "uplink", t.Uplink, "err", err)
		}
		if err != nil {
			continue // somebody else's ports may be in the bridge; status tells
		}
		a.log.Info("trunk removed", "trunk", t.Name, "bridge", t.Bridge, "uplink", t.Uplink)
		a.mu.Lock()
		a.world.gone = maps.Clone(a.world.gone)
		delete(a.world.gone, at)
		if _, elsewhere := snap.Trunks[t.Name]; !elsewhere {
			a.world.health = maps.Clone(a.world.health)
			delete(a.world.health, t.Name)
		}
		a.mu.Unlock()
	}
}

// followPolicies gives ports the set of rules, and the security, that is theirs now: labels and owners
// of their pods may have changed, or become known; and the network of a VLAN may
// have come or gone since a port was attached whose CNI config described it itself.
func (a *Agent) followPolicies(snap *desired.Snapshot) {
	for _, it := range a.table.list() {
		if !it.open {
			continue
		}
		rec := it.rec
		if rec.Inline != nil {
			rec.Policy = networkOf(rec.VLANs, rec.Trunk, snap)
		}
		id := snap.PolicyID(rec.Policy, desired.PodRef(rec.Pod))
		if rec.Rules = rulesOf(rec.Policy, id); !a.inForce(id) {
			rec.Policy, rec.Rules = it.rec.Policy, it.rec.Rules
		}
		rec.Security = snap.Security(rec.Policy, desired.PodRef(rec.Pod), rec.MAC)
		if rec.Policy == it.rec.Policy && rec.Rules == it.rec.Rules && rec.Security == it.rec.Security {
			continue
		}
		follow := func() error {
			return a.withPort(it.rec, func(now attach.Record) error {
				now.Policy, now.Rules, now.Security = rec.Policy, rec.Rules, rec.Security
				if err := a.store.Put(&now); err != nil {
					return err
				}
				a.table.replace(&now)
				return a.kernel.dp.UpdatePort(now.HostIfIndex, now.Config())
			})
		}
		done := func() {}
		if rec.Security.ForgedTransmits && !it.rec.Security.ForgedTransmits {
			done = a.holdForging(rec.Bridge)
		}
		err := follow()
		done()
		a.log.Info("port follows its policy", "port", rec.HostIfName, "network", rec.Policy, "rules", id, "security", rec.Security, "err", err)
	}
}

// noteFollowed notes that ports and trunks keep to a snapshot.
func (a *Agent) noteFollowed(snap *desired.Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.world.followed = snap.Revision
}

// inForce says whether there is a set of rules of that ID.
func (a *Agent) inForce(id string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, ok := a.world.Sets[id]
	return ok
}

// collectLeftovers clears what nobody owns: records that a failed undo left,
// veths that no attachment completed, programs of interfaces that are gone. What
// has no record but is open is somebody's living port; it is only told.
func (a *Agent) collectLeftovers() {
	records, aside, err := a.store.List()
	for i := range aside {
		a.noteRecord(&aside[i])
	}
	a.notes.sweep()
	own := a.ownIndexes()
	for i := range records {
		if own[records[i].HostIfIndex] {
			a.notes.drop(a.store.Path(records[i].Key))
		} else {
			a.adoptRecord(&records[i])
		}
	}
	strays, cerr := a.kernel.Collect(a.ownIndexes(), a.orphans)
	if err := errors.Join(err, cerr); err != nil {
		a.log.Warn("leftovers cannot be cleared", "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.world.strays = strays
}

// portsOf copies the records of a bridge's ports.
func (a *Agent) portsOf(bridge string) []attach.Record {
	var out []attach.Record
	for _, it := range a.table.list() {
		if it.rec.Bridge == bridge && it.open {
			out = append(out, it.rec)
		}
	}
	return out
}

func (a *Agent) recordOfInterface(index int) *attach.Record {
	for _, it := range a.table.list() {
		if it.rec.HostIfIndex == index {
			return &it.rec
		}
	}
	return nil
}

func (a *Agent) ownIndexes() map[int]bool {
	own := map[int]bool{}
	for _, it := range a.table.list() {
		own[it.rec.HostIfIndex] = true
	}
	return own
}

func (a *Agent) healthOf(trunk string) (trunkHealth, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	h, ok := a.world.health[trunk]
	return h, ok
}

func (a *Agent) problemOf(trunk string) string {
	h, _ := a.healthOf(trunk)
	return h.problem
}

func (a *Agent) setHealth(trunk string, h trunkHealth) {
	a.mu.Lock()
	defer a.mu.Unlock()
	health := maps.Clone(a.world.health)
	if health == nil {
		health = map[string]trunkHealth{}
	}
	health[trunk] = h
	a.world.health = health
}

// setProblem notes how the last repair of a trunk went.
func (a *Agent) setProblem(trunk string, err error) {
	h, ok := a.healthOf(trunk)
	if !ok {
		return
	}
	h.problem = ""
	if err != nil {
		h.problem = err.Error()
	}
	a.setHealth(trunk, h)
}
