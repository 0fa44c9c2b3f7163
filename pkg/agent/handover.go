package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// mover is a Source that knows of live migrations. One that is none takes a
// request's word for being a target.
type mover interface {
	Move(namespace, name, uid string) desired.Move
	// Moved is sent to when some Move may be another.
	Moved() <-chan struct{}
}

// moveOf is what the source says of a pod; ok is false if it knows of no migrations.
func (a *Agent) moveOf(p attach.Pod) (m desired.Move, ok bool) {
	src, ok := a.cfg.Source.(mover)
	if !ok {
		return m, false
	}
	return src.Move(p.Namespace, p.Name, p.UID), true
}

// holdAtFirst is what the port of a request begins with. A pod of which it is not
// known whether it is a migration's target is silent like one that is: a target that
// speaks too early takes its VM's traffic away.
func (a *Agent) holdAtFirst(req *attach.Request) (*attach.Hold, error) {
	m, ok := a.moveOf(req.Pod)
	if !ok {
		if !req.MigrationTarget {
			return nil, nil
		}
		return hold(attach.Quarantined, attach.HoldTarget, "the CNI config says that its VM is to come by live migration, and it has not yet"), nil
	}
	if req.MigrationTarget {
		return nil, attach.Invalid("migrationTarget", "it is for nodes whose agent reads manifests; this one reads Kubernetes, which says by itself which pods are targets",
			"remove the key")
	}
	switch m.State {
	case desired.MoveUnknown:
		return hold(attach.Quarantined, reasonOf(m, ""), m.Why), nil
	case desired.MoveTarget:
		return hold(attach.Quarantined, attach.HoldTarget, m.Why), nil
	case desired.MoveLeft:
		return left(m), nil
	}
	return nil, nil
}

func hold(s attach.State, reason, message string) *attach.Hold {
	return &attach.Hold{State: s, Since: time.Now().UTC(), Reason: reason, Message: message}
}

// reasonOf is why a port waits, that has waited for another reason before: a target, and
// what says to be one, stays that, whatever is not known of it any more.
func reasonOf(m desired.Move, before string) string {
	switch {
	case m.State == desired.MoveTarget || before == attach.HoldTarget:
		return attach.HoldTarget
	case m.Claims || before == attach.HoldClaimed:
		return attach.HoldClaimed
	}
	return attach.HoldUnknown
}

// left is why the port of a VM that has gone to another pod is silent.
func left(m desired.Move) *attach.Hold {
	h := hold(attach.Released, attach.HoldMoved, m.Why)
	h.Migration = m.Migration
	return h
}

// macOf is the MAC that the VM of a request has already, although the request may name
// another: without an explicit one, KubeVirt's target pod gets a random MAC, while the
// VM keeps the one that it got where it started. nil is not known.
func macOf(m desired.Move, ifName string) attach.MAC {
	if m.State != desired.MoveTarget && m.State != desired.MoveArrived {
		return nil
	}
	hw, err := net.ParseMAC(m.MACs[ifName])
	if err != nil || attach.MAC(hw).Problem() != "" {
		return nil
	}
	return attach.MAC(hw)
}

// sharesMAC says whether two ports of one node may have one MAC in one VLAN: the
// ports of one VM's migration may, since only one of them ever speaks. Whoever makes
// pods can have a VirtualMachineInstance count one among its own (status.activePods),
// but not among the pods of its migration.
func (a *Agent) sharesMAC(mine, theirs *attach.Record) bool {
	if theirs.Wanted() == attach.Released {
		return true
	}
	m, ok := a.moveOf(mine.Pod)
	if !ok {
		return mine.MigrationTarget || theirs.MigrationTarget && theirs.Hold != nil
	}
	t, _ := a.moveOf(theirs.Pod)
	return m.VM != "" && m.VM == t.VM && m.Migrating && t.Migrating && (m.State == desired.MoveTarget || t.State == desired.MoveTarget)
}

// arrivalPoll is how soon the agent notices that a quarantined port was opened by its
// VM: it has to tell the network then, which a trunk port's VM cannot.
const arrivalPoll = 5 * time.Millisecond

// followArrivals notices ports that their VM's announcement has opened. It reads
// memory, and rests while no port is quarantined.
func (a *Agent) followArrivals(ctx context.Context) error {
	for {
		var again <-chan time.Time
		if a.takeArrivals() {
			again = time.After(arrivalPoll)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.held:
		case <-again:
		}
	}
}

// announceAgain is how young an arrival is that an agent which starts announces once
// more: its predecessor may have been killed at it.
const announceAgain = time.Minute

// hasJustCome says whether the VM of a port that is taken up came so shortly before that
// its announcement may have been cut short, and has not been heard from elsewhere since:
// to announce one that has moved on would take it from where it is.
func (a *Agent) hasJustCome(rec *attach.Record) bool {
	if rec.Arrival == nil {
		return false
	}
	ago := time.Since(rec.Arrival.At)
	if ago >= announceAgain {
		return false
	}
	left, err := a.kernel.net.HeardElsewhere(ref(rec.HostEnd()), net.HardwareAddr(rec.MAC), rec.VLANs.All(), ago)
	if err != nil {
		a.log.Warn("whether a VM has moved on cannot be told: it is not announced again", "port", rec.HostIfName, "err", err)
	}
	return err == nil && !left
}

// takeArrivals looks once, and says whether ports are quarantined. All are announced
// before any is written down: nothing hurries more.
func (a *Agent) takeArrivals() bool {
	waiting := a.table.quarantined()
	arrived := slices.DeleteFunc(slices.Clone(waiting), func(r attach.Record) bool { return !a.kernel.dp.HandedOver(r.HostIfIndex) })
	for i := range arrived {
		a.announce(context.Background(), &arrived[i], a.addressesOf(&arrived[i]))
	}
	for _, rec := range arrived {
		a.arrive(rec, attach.ArrivedByAnnouncement)
	}
	return len(waiting) > 0
}

// welcome opens a quarantined port whose VM has come by another's word than its own,
// and tells the network.
func (a *Agent) welcome(of attach.Record, by string) {
	if a.arrive(of, by) {
		a.announce(context.Background(), &of, a.addressesOf(&of))
	}
}

// arrive makes a port its VM's, which has come to it. What cannot be written to disk an
// agent that is started anew finds out from the port.
func (a *Agent) arrive(of attach.Record, by string) (arrived bool) {
	err := a.withPort(of, func(now attach.Record) error {
		if now.Wanted() != attach.Quarantined || by == attach.ArrivedByAnnouncement && !a.kernel.dp.HandedOver(now.HostIfIndex) {
			return nil // it is not the state any more that was looked at
		}
		if err := a.kernel.dp.HandOver(now.HostIfIndex); err != nil {
			return err
		}
		arrived = true
		waited := time.Since(now.Hold.Since)
		now.Hold, now.Arrival = nil, &attach.Arrival{At: time.Now().UTC(), By: by}
		a.table.replace(&now)
		a.log.Info("VM has come to its port by live migration", "port", now.HostIfName, "container", now.ContainerID, "mac", now.MAC, "by", by, "after", waited)
		return a.store.Put(&now)
	})
	if err != nil {
		a.log.Error("a port's hand-over", "port", of.HostIfName, "open", arrived, "err", err)
	}
	if arrived {
		a.leaveBehind(of)
	}
	a.tell()
	return arrived
}

// leaveBehind silences the port of this node that a VM has left for another one here,
// where nobody else says so.
func (a *Agent) leaveBehind(to attach.Record) {
	if _, ok := a.moveOf(to.Pod); ok {
		return
	}
	for _, it := range a.table.list() {
		from := it.rec
		if it.open && from.Key != to.Key && from.Bridge == to.Bridge && bytes.Equal(from.MAC, to.MAC) &&
			from.Wanted() == attach.Active && !from.VLANs.All().Intersect(to.VLANs.All()).Empty() {
			a.rehold(from, hold(attach.Released, attach.HoldMoved, "its VM has come to "+to.HostIfName+" on this node"))
		}
	}
}

// addressesOf are those of a port's VM that may be announced for it: what it is known to hold, and what others say.
func (a *Agent) addressesOf(rec *attach.Record) []netip.Addr {
	out := slices.Clone(a.toldOf(rec))
	for _, ip := range a.heldBy(rec) {
		if !slices.Contains(out, ip) && len(out) < mostAnnounced {
			out = append(out, ip)
		}
	}
	return out
}

// toldOf are those that were declared by the plugins before ours; or, where Kubernetes knows the VM, what that says, as
// far as it is of the network's subnets and no gateway's, for a guest says it.
func (a *Agent) toldOf(rec *attach.Record) []netip.Addr {
	m, ok := a.moveOf(rec.Pod)
	if !ok {
		return rec.Addresses
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.world.snap == nil {
		return nil
	}
	var out []netip.Addr
	for _, ip := range m.Addresses[rec.IfName] {
		for _, s := range a.world.snap.Networks[rec.Policy].Subnets {
			if s.CIDR.Contains(ip) && ip != s.Gateway && !slices.Contains(out, ip) && len(out) < mostAnnounced {
				out = append(out, ip)
			}
		}
	}
	return out
}

// mostAnnounced bounds the addresses of one VM.
const mostAnnounced = 64

// rehold gives a port another reason to be silent, or none: then it is open. It does
// nothing at a port whose state is not any more what was decided on. The disk comes
// first: what it says is what a killed agent's successor goes by.
func (a *Agent) rehold(of attach.Record, h *attach.Hold) {
	err := a.withPort(of, func(now attach.Record) error {
		before := now.Wanted()
		if before != of.Wanted() {
			return nil
		}
		if h != nil && now.Hold != nil && h.State == now.Hold.State {
			h.Since = now.Hold.Since
		}
		now.Hold = h
		after := now.Wanted()
		if before == attach.Released && after == attach.Active { // another may have the MAC by now
			if err := a.table.macHeld(&now, a.alive); err != nil {
				return err
			}
		}
		if err := a.store.Put(&now); err != nil {
			return err
		}
		if after == before {
			a.table.replace(&now)
			return nil
		}
		a.log.Info("port is "+after.String(), "port", now.HostIfName, "container", now.ContainerID, "was", before, "why", why(h))
		err := a.kernel.SetState(now.HostIfIndex, after)
		a.table.replace(&now) // later: who sees it quarantined there must not see the last hand-over here
		if err != nil {
			return err // the loop sees that it is not as it should be
		}
		if after != attach.Released {
			return nil
		}
		// Who is left here is told where to look for the VM by its announcement.
		a.announcer.stop(portJob(now.Key), errNotHere)
		return a.kernel.net.Forget(ref(now.HostEnd()), net.HardwareAddr(now.MAC))
	})
	if err != nil {
		a.log.Error("a port's state", "port", of.HostIfName, "wanted", why(h), "err", err)
	}
	ask(a.held)
	a.tell()
}

// forgetLeft has the bridges forget, at ports that VMs have left, what could not be
// forgotten as they left.
func (a *Agent) forgetLeft() {
	for _, it := range a.table.list() {
		if !it.open || it.rec.Wanted() != attach.Released {
			continue
		}
		err := a.withPort(it.rec, func(now attach.Record) error {
			if now.Wanted() != attach.Released {
				return nil
			}
			return a.kernel.net.Forget(ref(now.HostEnd()), net.HardwareAddr(now.MAC))
		})
		if err != nil {
			a.log.Warn("the local bridge still looks for a VM where it was", "port", it.rec.HostIfName, "err", err)
		}
	}
}

func why(h *attach.Hold) string {
	if h == nil {
		return "its VM is here"
	}
	return h.Message
}

// watchMoves follows migrations as the source tells of them.
func (a *Agent) watchMoves(ctx context.Context) error {
	src, ok := a.cfg.Source.(mover)
	if !ok {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-src.Moved():
		case <-a.moves:
		}
		a.followMoves()
	}
}

// followMoves brings every port to what the source says of its pod's migrations now.
func (a *Agent) followMoves() {
	for _, it := range a.table.list() {
		if !it.open {
			continue
		}
		m, ok := a.moveOf(it.rec.Pod)
		if !ok {
			return
		}
		a.followMove(it.rec, m)
	}
}

func (a *Agent) followMove(rec attach.Record, m desired.Move) {
	was := rec.Wanted()
	if mac := macOf(m, rec.IfName); was == attach.Quarantined && mac != nil && !bytes.Equal(mac, rec.MAC) {
		if err := a.takeMAC(&rec, mac); err != nil {
			m.Why += "; it cannot take its VM's MAC: " + err.Error()
		}
	}
	stays := m.Failed && (m.State == desired.MoveNone || m.State == desired.MoveArrived) // the VM, in spite of a migration
	switch {
	case m.State == desired.MoveLeft && was != attach.Released:
		a.rehold(rec, left(m))
	case was == attach.Quarantined && m.State == desired.MoveArrived:
		a.welcome(rec, attach.ArrivedByAPI)
	case was == attach.Quarantined && m.State == desired.MoveNone && (rec.Hold.Reason == attach.HoldUnknown || rec.Hold.Reason == attach.HoldClaimed && !m.Gone):
		a.rehold(rec, nil)
	case stays && (was == attach.Active || was == attach.Released && rec.Hold.Migration == m.Migration): // what failed before that is old news
		if was == attach.Released {
			a.rehold(rec, nil)
		}
		if rec.StayedAfter != m.Migration {
			a.stayed(rec, m.Migration)
		}
	case was == attach.Active && m.State == desired.MoveTarget && (m.Failed || m.Migrating && rec.Arrival == nil):
		a.rehold(rec, hold(attach.Quarantined, attach.HoldTarget, m.Why)) // it came to nothing, or was opened in error
	case was == attach.Quarantined:
		reason := reasonOf(m, rec.Hold.Reason)
		if rec.Hold.Reason != reason || rec.Hold.Message != m.Why {
			a.rehold(rec, hold(attach.Quarantined, reason, m.Why))
		}
	}
}

// stayed announces a VM where it still is after a migration has failed: the target may
// have been heard. It does so once.
func (a *Agent) stayed(of attach.Record, migration string) {
	err := a.withPort(of, func(now attach.Record) error {
		if now.Wanted() != attach.Active {
			return nil
		}
		now.StayedAfter = migration
		a.table.replace(&now)
		a.announce(context.Background(), &now, a.addressesOf(&now))
		return a.store.Put(&now)
	})
	if err != nil {
		a.log.Error("a VM that has stayed may be announced again", "port", of.HostIfName, "err", err)
	}
}

// takeMAC gives the quarantined port of a migration's target the MAC that its VM has.
func (a *Agent) takeMAC(rec *attach.Record, mac attach.MAC) error {
	return a.withPort(*rec, func(now attach.Record) error {
		if now.Wanted() != attach.Quarantined {
			return nil
		}
		given, had := now.MAC, now.Security
		now.MAC = mac
		now.Security = a.securityOf(&now) // exceptions go by it; that a port may forge waits for its turn
		now.Security.ForgedTransmits = now.Security.ForgedTransmits && had.ForgedTransmits
		a.wake()
		if err := a.table.replaceMAC(&now, a.alive); err != nil {
			return err
		}
		a.log.Warn("a migration's target takes the MAC that its VM has, and not the one that its pod was given: the VM names none", "port", now.HostIfName, "mac", mac, "pod's", given)
		*rec = now
		return errors.Join(a.kernel.dp.UpdatePort(now.HostIfIndex, now.Config()), a.store.Put(&now))
	})
}

// quarantined copies the records of the complete ports that wait for their VM.
func (t *table) quarantined() []attach.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []attach.Record
	for _, e := range t.ports {
		if e.claimed && e.open && e.rec.Wanted() == attach.Quarantined {
			out = append(out, *e.rec)
		}
	}
	slices.SortFunc(out, func(x, y attach.Record) int { return x.HostIfIndex - y.HostIfIndex })
	return out
}

// stillTalks says that a released port's VM goes on sending; "" is that it does not.
func stillTalks(rec *attach.Record, frames uint64) string {
	if rec.Wanted() != attach.Released || frames == 0 {
		return ""
	}
	return fmt.Sprintf("its VM has moved away, but %d frames with its MAC %s came from the pod here since, and were dropped: two copies of the VM may be running", frames, rec.MAC)
}

// openByHand opens a silent port because somebody says that its VM runs there.
func (a *Agent) openByHand(_ context.Context, k *attach.Key) (any, error) {
	rec, err := a.complete(*k)
	if err != nil {
		return nil, err
	}
	m, told := a.moveOf(rec.Pod)
	switch {
	case rec.Wanted() == attach.Quarantined && told && m.Failed && m.State == desired.MoveTarget:
		return nil, attach.Invalid("port", m.Why, "migrate the VM again; see kubectl get vmi -o wide for where it runs")
	case rec.Wanted() == attach.Quarantined:
		a.welcome(rec, attach.ArrivedByOperator)
	case rec.Wanted() == attach.Released && told:
		return nil, attach.Invalid("port", "Kubernetes says that its VM has moved away", "see kubectl get vmi -o wide")
	case rec.Wanted() == attach.Released:
		if err := a.table.macHeld(&rec, a.alive); err != nil {
			return nil, err
		}
		a.rehold(rec, nil)
		a.announce(context.Background(), &rec, a.addressesOf(&rec))
	default:
		return nil, attach.Invalid("port", rec.HostIfName+" is open", "see homeportctl drops for what is dropped there, and why")
	}
	return nil, nil
}

// releaseByHand silences a port because somebody says that its VM has left.
func (a *Agent) releaseByHand(_ context.Context, k *attach.Key) (any, error) {
	rec, err := a.complete(*k)
	if err != nil {
		return nil, err
	}
	if _, ok := a.moveOf(rec.Pod); ok {
		return nil, attach.Invalid("port", "Kubernetes says where VMs run, and would open it again", "stop or migrate the VM there")
	}
	if rec.Wanted() == attach.Released {
		return nil, attach.Invalid("port", rec.HostIfName+" is released already", "open it with homeportctl ports open")
	}
	a.rehold(rec, hold(attach.Released, attach.HoldMoved, "somebody said by hand that its VM has moved away"))
	return nil, nil
}

// complete gives the record of a complete port.
func (a *Agent) complete(k attach.Key) (attach.Record, error) {
	for _, it := range a.table.list() {
		if it.rec.Key == k && it.open {
			return it.rec, nil
		}
	}
	return attach.Record{}, attach.Invalid("port", "it is not attached on this node", "see homeportctl ports")
}
