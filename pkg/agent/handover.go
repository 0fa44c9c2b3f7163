package agent

import (
	"bytes"
	"context"
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
		return hold(attach.Quarantined, attach.HoldUnknown, m.Why), nil
	case desired.MoveTarget:
		return hold(attach.Quarantined, attach.HoldTarget, m.Why), nil
	case desired.MoveLeft:
		return hold(attach.Released, attach.HoldMoved, m.Why), nil
	}
	return nil, nil
}

func hold(s attach.State, reason, message string) *attach.Hold {
	return &attach.Hold{State: s, Since: time.Now().UTC(), Reason: reason, Message: message}
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
// ports of one VM's migration may, since only one of them ever speaks.
func (a *Agent) sharesMAC(mine, theirs *attach.Record) bool {
	if theirs.Wanted() == attach.Released {
		return true
	}
	m, ok := a.moveOf(mine.Pod)
	if !ok {
		return mine.MigrationTarget || theirs.MigrationTarget && theirs.Hold != nil
	}
	t, _ := a.moveOf(theirs.Pod)
	return m.VM != "" && m.VM == t.VM && (m.State == desired.MoveTarget || t.State == desired.MoveTarget)
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

// takeArrivals looks once, and says whether ports are quarantined.
func (a *Agent) takeArrivals() bool {
	waiting := a.table.quarantined()
	for i := range waiting {
		if a.kernel.dp.HandedOver(waiting[i].HostIfIndex) {
			a.arrive(waiting[i], attach.ArrivedByAnnouncement)
		}
	}
	return len(waiting) > 0
}

// arrive makes a port its VM's, which has come to it, and tells the network.
func (a *Agent) arrive(of attach.Record, by string) {
	err := a.withPort(of, func(now attach.Record) error {
		if now.Wanted() != attach.Quarantined {
			return nil
		}
		if err := a.kernel.dp.HandOver(now.HostIfIndex); err != nil {
			return err
		}
		a.announce(context.Background(), &now, a.addressesOf(&now)) // first: nothing hurries more
		waited := time.Since(now.Hold.Since)
		now.Hold, now.Arrival = nil, &attach.Arrival{At: time.Now().UTC(), By: by}
		a.table.replace(&now)
		a.log.Info("VM has come to its port by live migration", "port", now.HostIfName, "container", now.ContainerID, "mac", now.MAC, "by", by, "after", waited)
		return a.store.Put(&now)
	})
	if err != nil {
		a.log.Error("a port cannot be handed over; it is tried again", "port", of.HostIfName, "err", err)
	}
	a.tell()
}

// addressesOf are those that are known of a port's VM: declared by the plugins before
// ours, and told by Kubernetes.
func (a *Agent) addressesOf(rec *attach.Record) []netip.Addr {
	out := slices.Clone(rec.Addresses)
	m, _ := a.moveOf(rec.Pod)
	for _, ip := range m.Addresses[rec.IfName] {
		if !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	return out
}

// rehold gives a port another reason to be silent, or none: then it is open.
func (a *Agent) rehold(of attach.Record, h *attach.Hold) {
	err := a.withPort(of, func(now attach.Record) error {
		before := now.Wanted()
		if h != nil && now.Hold != nil && h.State == now.Hold.State {
			h.Since = now.Hold.Since
		}
		now.Hold = h
		if after := now.Wanted(); after != before {
			if err := a.kernel.SetState(now.HostIfIndex, after); err != nil {
				return err
			}
			if after == attach.Released { // who is left here is told where to look for the VM by its announcement
				if err := a.kernel.net.Forget(ref(now.HostEnd()), net.HardwareAddr(now.MAC)); err != nil {
					a.log.Warn("the bridge still believes a VM at the port that it has left", "port", now.HostIfName, "err", err)
				}
			}
			a.log.Info("port is "+after.String(), "port", now.HostIfName, "container", now.ContainerID, "was", before, "why", why(h))
		}
		a.table.replace(&now)
		return a.store.Put(&now)
	})
	if err != nil {
		a.log.Error("a port's state cannot be changed; it is tried again", "port", of.HostIfName, "err", err)
	}
	a.tell()
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
	if mac := macOf(m, rec.IfName); mac != nil && !bytes.Equal(mac, rec.MAC) {
		a.takeMAC(rec, mac)
	}
	switch was := rec.Wanted(); {
	case m.State == desired.MoveLeft && was != attach.Released:
		a.rehold(rec, hold(attach.Released, attach.HoldMoved, m.Why))
	case was == attach.Quarantined && m.State == desired.MoveArrived:
		a.arrive(rec, attach.ArrivedByAPI)
	case was == attach.Quarantined && m.State == desired.MoveNone:
		a.rehold(rec, nil)
	case was == attach.Released && (m.State == desired.MoveNone && m.VM != "" || m.State == desired.MoveArrived):
		a.rehold(rec, nil)
	case was == attach.Quarantined:
		reason := attach.HoldTarget
		if m.State == desired.MoveUnknown {
			reason = attach.HoldUnknown
		}
		if rec.Hold.Reason != reason || rec.Hold.Message != m.Why {
			a.rehold(rec, hold(attach.Quarantined, reason, m.Why))
		}
	}
}

// takeMAC gives the port of a migration's target the MAC that the VM has.
func (a *Agent) takeMAC(of attach.Record, mac attach.MAC) {
	e, unlock := a.table.lock(of.Key)
	asked := of
	asked.MAC = mac
	err := a.table.macHeld(e, &asked, a.alive)
	unlock()
	if err == nil {
		err = a.withPort(of, func(now attach.Record) error {
			now.MAC = mac
			if err := a.kernel.dp.UpdatePort(now.HostIfIndex, now.Config()); err != nil {
				return err
			}
			a.table.replace(&now)
			return a.store.Put(&now)
		})
	}
	if err != nil {
		a.log.Error("a migration's target cannot take its VM's MAC", "port", of.HostIfName, "mac", mac, "err", err)
		return
	}
	a.log.Warn("a migration's target takes the MAC that its VM has, and not the one that its pod was given: the VM names none", "port", of.HostIfName, "mac", mac, "pod's", of.MAC)
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
	switch rec.Wanted() {
	case attach.Quarantined:
		a.arrive(rec, attach.ArrivedByOperator)
	case attach.Released:
		a.rehold(rec, nil)
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
