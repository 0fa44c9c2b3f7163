package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/binding"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Where a network says so (addressing.probe), a VLAN is asked whether somebody has an address that is declared for a NIC
// before that uses it: what is known at ADD before the port is there, so that nothing of it is to be undone and nobody takes it for active,
// and what an IPAM plugin gives before ADD ends, with the pod's end down. What becomes known later is asked for then, and told.
// No key is held meanwhile, nor a place on the agent's socket.

const (
	// askPatience is how long asking may take in all: many NICs that come together wait for the pace of frames.
	askPatience = 20 * time.Second
	// mostAsked of a NIC's addresses are asked for.
	mostAsked = 16
)

// declarer is a Source that knows what pods' annotations declare.
type declarer interface {
	Declared(namespace, name, uid, ifName string) []netip.Addr
}

// segment asks the VLAN of a trunk's uplink who has addresses; own is the MAC of the NIC that is to have them.
type segment interface {
	detect(ctx context.Context, t desired.Trunk, v vlan.ID, own probe.MAC, addresses []netip.Addr) ([]probe.Taken, error)
}

// inquiry is a NIC whose addresses are asked for first.
type inquiry struct {
	network desired.Network
	trunk   desired.Trunk
	vlan    vlan.ID
	mac     attach.MAC
}

// inquiryOf is that of a port; false is that nobody is asked. A VM that comes by live migration, or has come by one, has its
// addresses already.
func (a *Agent) inquiryOf(req *attach.Request, network, trunk string, vlans attach.VLANs, moves bool) (q inquiry, ok bool) {
	a.mu.RLock()
	if snap := a.world.snap; snap != nil {
		q = inquiry{snap.Networks[network], snap.Trunks[trunk], vlans.PVID, req.MAC}
	}
	a.mu.RUnlock()
	if q.network.Addressing.Probe == "" || q.vlan == 0 || moves || req.MigrationTarget {
		return q, false
	}
	m, told := a.moveOf(req.Pod)
	return q, !told || m.State == desired.MoveNone
}

// askBefore asks for what is declared for a port that is to be made. The error refuses it.
func (a *Agent) askBefore(ctx context.Context, req *attach.Request) (asked []netip.Addr, tell func(), err error) {
	r, err := a.resolve(req)
	if err != nil {
		return nil, nil, err
	}
	q, ok := a.inquiryOf(req, r.policy, r.trunk.Name, r.vlans, false)
	if !ok {
		return nil, func() {}, nil
	}
	asked = append(slices.Clone(req.Addresses), a.setByHand(req, r.policy)...)
	if src, ok := a.cfg.Source.(declarer); ok {
		asked = append(asked, src.Declared(req.Pod.Namespace, req.Pod.Name, req.Pod.UID, req.IfName)...)
	}
	tell, _, err = a.askFor(ctx, q, asked)
	return asked, tell, err
}

// setByHand are the addresses that a person has set for a NIC, of a VM that has run before.
func (a *Agent) setByHand(req *attach.Request, network string) []netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for i := range a.world.snap.Identities {
		if o := &a.world.snap.Identities[i]; o.Network == network && o.Namespace == req.Pod.Namespace && slices.Equal(o.MAC, req.MAC) {
			return o.Manual
		}
	}
	return nil
}

// askFor asks who has addresses. tell puts those who do into the book; with ProbeRefuse they are the error. done is false if the uplink
// could not be asked, which is an error with ProbeRefuse alone.
func (a *Agent) askFor(ctx context.Context, q inquiry, addresses []netip.Addr) (tell func(), done bool, err error) {
	tell = func() {}
	refuse := q.network.Addressing.Probe == desired.ProbeRefuse
	var ask []netip.Addr
	for _, ip := range addresses {
		ip = ip.Unmap()
		shared := slices.ContainsFunc(q.network.Addressing.Shared, func(p netip.Prefix) bool { return p.Contains(ip) })
		if probe.IsHost(ip) && !shared && !slices.Contains(ask, ip) {
			ask = append(ask, ip)
		}
	}
	if len(ask) > mostAsked {
		a.log.Warn("nobody is asked who has the last of a NIC's addresses", "mac", q.mac, "network", q.network.Name, "addresses", len(ask), "asked", mostAsked)
		ask = ask[:mostAsked]
	}
	if len(ask) == 0 {
		return tell, true, nil
	}
	if err := a.heldHere(q, ask); refuse && err != nil {
		return tell, false, err
	}
	var taken []probe.Taken
	wire.Rest(ctx, func() { taken, err = a.askUplink(ctx, q, ask) })
	for _, t := range taken {
		a.log.Warn("an address that is declared for a NIC is somebody's", "address", t.Address, "vlan", q.vlan, "network", q.network.Name, "mac", q.mac, "has", t.MAC, "wants", t.Wants)
	}
	switch {
	case ctx.Err() != nil:
		return tell, false, context.Cause(ctx)
	case refuse && len(taken) > 0:
		return tell, false, a.takenError(q, taken[0])
	case refuse && err != nil:
		return tell, false, &attach.Error{Kind: attach.TryAgain, Field: "addresses", Message: fmt.Sprintf("whether somebody has one of %v in VLAN %v cannot be found out: %v", ask, q.vlan, err),
			Remedy: "see homeportctl status; with addressing.probe: Report of VLANNetwork " + q.network.Name + " the port is made all the same"}
	case err != nil:
		a.log.Warn("whether somebody has a NIC's addresses cannot be found out", "mac", q.mac, "network", q.network.Name, "addresses", ask, "err", err)
	}
	if here := a.heldHere(q, ask); refuse && here != nil { // since
		return tell, false, here
	}
	return func() { a.tellTaken(q, taken) }, err == nil, nil
}

// askUplink asks, if anybody can answer.
func (a *Agent) askUplink(ctx context.Context, q inquiry, ask []netip.Addr) ([]probe.Taken, error) {
	if state := a.kernel.linkState(q.trunk.Uplink); state != wire.LinkUp {
		a.log.Info("nobody is asked who has a NIC's addresses: the trunk has no uplink that is up", "trunk", q.trunk.Name, "uplink", q.trunk.Uplink, "mac", q.mac, "addresses", ask)
		return nil, nil
	}
	own, err := probe.MACOf(q.mac)
	if err != nil {
		return nil, err
	}
	patient, cancel := context.WithTimeoutCause(ctx, askPatience, fmt.Errorf("many ask at %s, and it was not this one's turn within %s", q.trunk.Uplink, askPatience))
	defer cancel()
	taken, err := a.segment.detect(patient, q.trunk, q.vlan, own, ask)
	if errors.Is(err, unix.ENETDOWN) {
		return taken, nil // as if it had been before
	}
	return taken, err
}

// heldHere says that another NIC of this node, which is not asked at the uplink, holds one of the addresses. Where that is no
// reason to refuse, the book tells of it by itself.
func (a *Agent) heldHere(q inquiry, ask []netip.Addr) error {
	for _, ip := range ask {
		if by := a.addresses.HeldHere(binding.Key{Trunk: q.trunk.Name, VLAN: q.vlan, Addr: ip}, q.mac); by != nil {
			return takenBy(q, ip, fmt.Sprintf("%s/%s (%v) on this node holds it", by.Namespace, by.Name, by.MAC))
		}
	}
	return nil
}

func (a *Agent) takenError(q inquiry, t probe.Taken) error {
	at := "uplink " + q.trunk.Uplink
	if s := a.switchOf(q.trunk.Name); s != "" {
		at += ", " + s
	}
	switch {
	case t.Here:
		return takenBy(q, t.Address, fmt.Sprintf("the NIC %v, which is being attached to this node, is to have it", t.MAC))
	case t.Wants:
		return takenBy(q, t.Address, fmt.Sprintf("%v, at %s, is about to take it", t.MAC, at))
	}
	return takenBy(q, t.Address, fmt.Sprintf("%v has answered for it, at %s", t.MAC, at))
}

func takenBy(q inquiry, ip netip.Addr, why string) error {
	return &attach.Error{Kind: attach.Conflict, Field: "addresses", Message: fmt.Sprintf("%v is somebody else's in VLAN %v: %s", ip, q.vlan, why),
		Remedy: "give one of both another address; with addressing.probe: Report of VLANNetwork " + q.network.Name + " the port is made all the same"}
}

// tellTaken puts those who have a NIC's addresses into the book, once the NIC is there.
func (a *Agent) tellTaken(q inquiry, taken []probe.Taken) {
	for _, t := range taken {
		if !t.Here { // which has a port of its own to tell of it
			a.addresses.FoundOutside(binding.Key{Trunk: q.trunk.Name, VLAN: q.vlan, Addr: t.Address}, learn.MAC(t.MAC))
		}
	}
}

// askLate asks for addresses that have become known since a port was attached by this agent, and tells who has them. A guest may
// use them by then.
func (a *Agent) askLate(key attach.Key, o wire.Owner) {
	var said []netip.Addr
	for _, s := range o.Says {
		if !s.Guest { // which has them
			said = append(said, s.Addresses...)
		}
	}
	rec, fresh, done := a.table.unasked(key, said)
	if len(fresh) == 0 {
		return
	}
	q, ok := a.inquiryOf(&rec.Request, rec.Policy, rec.Trunk, rec.VLANs, rec.Arrival != nil)
	if !ok {
		done(true)
		return
	}
	q.network.Addressing.Probe = desired.ProbeReport
	go func() { // ends with the prober
		tell, asked, err := a.askFor(context.Background(), q, fresh)
		if err == nil {
			tell()
		}
		done(asked)
	}()
}

// asked is for which of a port's addresses it was asked who has them; guarded by table.mu.
type asked struct {
	addresses map[netip.Addr]bool
	busy      bool      // it is asked for more now
	after     time.Time // when that is done again, if it could not be
}

// askAgain is how long after the uplink could not be asked it is tried again.
const askAgain = time.Minute

// noteAsked notes, at a port that this agent attaches, what was asked for. The key is held.
func (t *table) noteAsked(e *entry, addresses []netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.asked == nil {
		e.asked = &asked{addresses: map[netip.Addr]bool{}}
	}
	for _, ip := range addresses {
		e.asked.addresses[ip.Unmap()] = true
	}
}

// unasked gives the record of an active port that this agent has attached, and which of all addresses that are declared for it were not
// asked for. Until done is called, with whether they are now, it gives no more of them: who changes what he declares all the time waits
// for his turn.
func (t *table) unasked(k attach.Key, addresses []netip.Addr) (rec attach.Record, fresh []netip.Addr, done func(bool)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.ports[k]
	if e == nil || !e.open || e.asked == nil || e.asked.busy || time.Now().Before(e.asked.after) || e.rec.Wanted() != attach.Active {
		return rec, nil, nil
	}
	was, said := e.asked, map[netip.Addr]bool{}
	for _, ip := range addresses {
		if ip = ip.Unmap(); !was.addresses[ip] && !said[ip] {
			fresh = append(fresh, ip)
		}
		said[ip] = true
	}
	was.busy = len(fresh) > 0
	return *e.rec, fresh, func(asked bool) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if was.busy = false; asked {
			was.addresses = said // what is declared no more is forgotten
		} else {
			was.after = time.Now().Add(askAgain)
		}
	}
}

// ear is the prober's Detector at an uplink, as long as somebody asks there.
type ear struct {
	detector *probe.Detector
	socket   *probe.Socket
	users    int
}

// detect implements segment.
func (p *prober) detect(ctx context.Context, t desired.Trunk, v vlan.ID, own probe.MAC, addresses []netip.Addr) ([]probe.Taken, error) {
	l, err := p.a.kernel.net.LinkInfo(bridge.Ref{Name: t.Uplink})
	if err != nil {
		return nil, err
	}
	e, err := p.lendEar(l, t.Uplink)
	if err != nil {
		return nil, err
	}
	defer p.giveBack(l.Index, e)
	for _, ip := range addresses {
		if err := e.socket.JoinSource(l.Index, ip); err != nil {
			return nil, err
		}
	}
	if v == t.NativeVLAN {
		v = 0
	}
	return e.detector.Ask(ctx, v, own, addresses)
}

func (p *prober) lendEar(l bridge.Link, uplink string) (*ear, error) {
	mac, err := probe.MACOf(l.MAC)
	if err != nil {
		return nil, err
	}
	pace := p.pace(uplink, reach.DefaultPPS)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.ears[l.Index]
	if e == nil {
		s, err := probe.OpenSocket(l.Index, func(inode uint64) { p.sockets[inode] = true })
		if err != nil {
			return nil, err
		}
		if err := s.Join(l.Index, mac.Foreign()); err != nil {
			delete(p.sockets, s.Inode())
			return nil, errors.Join(err, s.Close())
		}
		e = &ear{detector: probe.NewDetector(s, pace, mac), socket: s}
		p.ears[l.Index] = e
	}
	e.users++
	return e, nil
}

// giveBack closes an ear that nobody needs any more.
func (p *prober) giveBack(index int, e *ear) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.users--; e.users > 0 {
		return
	}
	if p.ears[index] == e {
		delete(p.ears, index)
	}
	_ = e.detector.Close() // nothing is written by it
	delete(p.sockets, e.socket.Inode())
}

// closeEars has all who ask give up.
func (p *prober) closeEars() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for index, e := range p.ears {
		delete(p.ears, index)
		_ = e.socket.Close() // nothing is written by it
	}
}
