package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// prober is this node's part in checks of the fabric: it is the reach.Agent of its own node, for
// the agent of any node that runs one.
type prober struct {
	a    *Agent
	node string
	keys probe.Keys

	mu    sync.Mutex
	runs  map[probe.RunID]*proberRun
	paces map[string]*uplinkPace // by uplink; of all runs together
	// sockets are those by which it listens, by inode: no captures.
	sockets map[uint64]bool
	ears    map[int]*ear // by the uplink's number
}

// proberRun is the node's part in one check.
type proberRun struct {
	stations map[string]*probe.Station // by trunk
	inodes   []uint64
	lease    *time.Timer
	busy     int // requests at work, for which the lease waits
	// together: another run was there at the same time.
	together bool
}

// maxRuns is how many checks a node takes part in at once; they share the pace.
const maxRuns = 4

func newProber(a *Agent, node string, keys probe.Keys) *prober {
	return &prober{a: a, node: node, keys: keys, runs: map[probe.RunID]*proberRun{}, paces: map[string]*uplinkPace{}, sockets: map[uint64]bool{}, ears: map[int]*ear{}}
}

// Node is the name of the node in checks.
func (p *prober) Node() string { return p.node }

// Describe tells what the node should carry, and how it is.
func (p *prober) Describe(context.Context) (reach.Description, error) {
	p.a.mu.RLock()
	snap, health := p.a.world.snap, p.a.world.health
	p.a.mu.RUnlock()
	d := reach.Description{Node: p.node, Version: p.a.cfg.Version}
	if snap == nil {
		return d, errors.New("the agent has not read its desired state yet; see homeportctl status on that node")
	}
	for _, name := range slices.Sorted(maps.Keys(snap.Trunks)) {
		if t := snap.Trunks[name]; t.Uplink != "" {
			d.Trunks = append(d.Trunks, p.describe(t, snap, health[name]))
		}
	}
	return d, nil
}

func (p *prober) describe(t desired.Trunk, snap *desired.Snapshot, h trunkHealth) reach.Trunk {
	out := reach.Trunk{Name: t.Name, Bridge: t.Bridge, Uplink: t.Uplink, Allowed: t.AllowedVLANs, Native: t.NativeVLAN}
	l, err := p.a.kernel.net.LinkInfo(bridge.Ref{Name: t.Uplink})
	switch {
	case err != nil:
		out.Down = err.Error()
	case !l.Up:
		out.Down = "the interface is down"
	case !l.Running:
		out.Down = "no carrier"
	}
	if err == nil {
		out.MTU = l.MTU
		if mac, err := probe.MACOf(l.MAC); err != nil {
			out.Down = err.Error()
		} else {
			out.MAC = mac
		}
		out.Switch, out.LLDPHeard, out.LLDPLapsed = p.a.lldp.at(l)
	}
	for m := range p.ownMACs(t.Bridge) {
		out.VMs = append(out.VMs, m)
	}
	slices.SortFunc(out.VMs, func(a, b probe.MAC) int { return bytes.Compare(a[:], b[:]) })
	if err == nil {
		out.Drift = p.drift(t, l, h.problem)
	} else if h.problem != "" {
		out.Drift = []reach.Drift{{What: h.problem}}
	}
	for _, name := range slices.Sorted(maps.Keys(snap.Networks)) {
		if n := snap.Networks[name]; n.Trunk == t.Name {
			out.Networks = append(out.Networks, reachOf(n, t, p.node))
		}
	}
	return out
}

// drift is what is wrong with the uplink in the kernel at this moment: the rounds,
// which tell a problem in words of what they tried last, may not have come by since.
func (p *prober) drift(t desired.Trunk, up bridge.Link, problem string) []reach.Drift {
	br, err := p.a.kernel.net.LinkInfo(bridge.Ref{Name: t.Bridge})
	switch {
	case err == nil && up.Master != br.Index:
		return []reach.Drift{{What: fmt.Sprintf("%s %s: it is not a port of the bridge %s", bridge.UplinkUnslaved, t.Uplink, t.Bridge)}}
	case problem != "":
		return []reach.Drift{{What: problem}}
	case err != nil:
		return []reach.Drift{{What: err.Error()}}
	}
	has, err := p.a.kernel.net.ReadVLANs(up.Ref())
	if err != nil {
		return []reach.Drift{{What: err.Error()}}
	}
	want := t.AllowedVLANs
	if t.NativeVLAN != 0 {
		_ = want.Add(t.NativeVLAN) // a snapshot has none but valid ones
	}
	if missing := want.Minus(has.Members); !missing.Empty() {
		return []reach.Drift{{VLANs: missing, What: fmt.Sprintf("the bridge %s does not have VLANs %v at %s", t.Bridge, missing, t.Uplink)}}
	}
	return nil
}

// reachOf is what should be reached on a network, by a node.
func reachOf(n desired.Network, t desired.Trunk, node string) reach.Network {
	out := reach.Network{Name: n.Name, VLANs: n.Tagged, Home: n.PVID, MTU: cmp.Or(n.MTU, t.MTU), DHCP: n.Reach.DHCP, DHCPServers: n.Reach.DHCPServers,
		Sources: n.Reach.Sources[node], Targets: n.Reach.Targets}
	if n.PVID != 0 {
		_ = out.VLANs.Add(n.PVID)
	}
	for _, s := range n.Subnets {
		out.Subnets = append(out.Subnets, s.CIDR)
		if s.Gateway.IsValid() && !slices.Contains(out.Gateways, s.Gateway) {
			out.Gateways = append(out.Gateways, s.Gateway)
		}
	}
	return out
}

// Start has the node listen at the uplinks of these trunks.
func (p *prober) Start(_ context.Context, run probe.RunID, trunks []string, pps int) error {
	if pps < 1 || pps > reach.MaxPPS {
		return fmt.Errorf("a pace of %d frames a second: want 1 to %d", pps, reach.MaxPPS)
	}
	desired := p.a.trunks()
	r := &proberRun{stations: map[string]*probe.Station{}}
	for _, name := range trunks {
		t, ok := desired[name]
		if !ok || t.Uplink == "" {
			p.close(r)
			return fmt.Errorf("node %s has no trunk %q with an uplink", p.node, name)
		}
		if err := p.open(r, run, t, pps); err != nil {
			p.close(r)
			return fmt.Errorf("trunk %s: %w", name, err)
		}
	}
	r.lease = time.AfterFunc(reach.Lease, func() { p.end(run) })
	p.mu.Lock()
	n := len(p.runs)
	if taken := p.runs[run] != nil || n >= maxRuns; !taken {
		for _, o := range p.runs {
			o.together, r.together = true, true
		}
		p.runs[run] = r
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	r.lease.Stop()
	p.close(r)
	return fmt.Errorf("node %s takes part in %d checks already: try again when one has ended", p.node, n)
}

func (p *prober) open(r *proberRun, run probe.RunID, t desired.Trunk, pps int) error {
	l, err := p.a.kernel.net.LinkInfo(bridge.Ref{Name: t.Uplink})
	if err != nil {
		return err
	}
	mac, err := probe.MACOf(l.MAC)
	if err != nil {
		return err
	}
	s, err := probe.OpenSocket(l.Index, func(inode uint64) {
		r.inodes = append(r.inodes, inode)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sockets[inode] = true
	})
	if err != nil {
		return err
	}
	if err := s.Join(l.Index, mac.Foreign()); err != nil {
		return errors.Join(err, s.Close())
	}
	for _, n := range p.networksOf(t.Name) {
		for _, a := range n.Reach.Sources[p.node] {
			if err := s.JoinSource(l.Index, a); err != nil {
				return errors.Join(err, s.Close())
			}
		}
	}
	r.stations[t.Name] = probe.Start(s, p.keys, p.pace(t.Uplink, pps), run, probe.Place{Node: p.node, Uplink: t.Uplink, MAC: mac, Own: p.ownMACs(t.Bridge)})
	return nil
}

// ownMACs are those of VMs that run on this node and nowhere else.
func (p *prober) ownMACs(bridgeName string) map[probe.MAC]bool {
	own := map[probe.MAC]bool{}
	for _, rec := range p.a.activeOnly(p.a.portsOf(bridgeName)) {
		m, err := probe.MACOf(rec.MAC)
		if move, _ := p.a.moveOf(rec.Pod); err == nil && !move.UnderWay {
			own[m] = true
		}
	}
	return own
}

// close ends what a run has here; its sockets are known until they are gone.
func (p *prober) close(r *proberRun) {
	for _, s := range r.stations {
		_ = s.Close() // nothing is written by it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range r.inodes {
		delete(p.sockets, i)
	}
}

// station finds a run's, and keeps its lease until done is called.
func (p *prober) station(run probe.RunID, trunk string) (s *probe.Station, done func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.runs[run]
	if r == nil || r.stations[trunk] == nil {
		return nil, nil, fmt.Errorf("node %s takes no part in check %v on trunk %s any more", p.node, run, trunk)
	}
	r.busy++
	r.lease.Stop()
	return r.stations[trunk], func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if r.busy--; r.busy == 0 && p.runs[run] == r {
			r.lease.Reset(reach.Lease)
		}
	}, nil
}

// Send puts frames on the wire.
func (p *prober) Send(ctx context.Context, run probe.RunID, trunk string, asks []probe.Ask) error {
	s, done, err := p.station(run, trunk)
	if err != nil {
		return err
	}
	defer done()
	may := p.asker(trunk)
	allowed := slices.DeleteFunc(asks, func(a probe.Ask) bool {
		err := may(a)
		if err != nil {
			s.Refuse(a, err)
		}
		return err != nil
	})
	return s.Send(ctx, allowed)
}

// asker says what may not be asked on a trunk, and why. It keeps a check to what this node itself should carry, whoever
// runs it: its VLANs, as it has them, and addresses that its networks name, since others must not be asked, nor asked from.
func (p *prober) asker(trunk string) func(probe.Ask) error {
	t, networks := p.a.trunks()[trunk], p.networksOf(trunk)
	return func(a probe.Ask) error {
		if !t.AllowedVLANs.Contains(a.VLAN) && a.VLAN != t.NativeVLAN {
			return fmt.Errorf("VLAN %d is not in uplink.allowedVLANs of trunk %s on node %s", a.VLAN, trunk, p.node)
		}
		if a.Untagged != (a.VLAN == t.NativeVLAN) {
			return fmt.Errorf("VLAN %d with a tag: %v; the native VLAN of trunk %s on node %s is %d", a.VLAN, !a.Untagged, trunk, p.node, t.NativeVLAN)
		}
		known := !a.Target.IsValid()
		for _, n := range networks {
			known = known || n.PVID == a.VLAN && names(n, a, p.node)
		}
		if !known {
			return fmt.Errorf("%v is nothing that a %s may ask for in VLAN %d on node %s, from %v", a.Target, a.Kind, a.VLAN, p.node, a.Source)
		}
		return nil
	}
}

// names says that a network names the addresses of an Ask as what they are there.
func names(n desired.Network, a probe.Ask, node string) bool {
	gateway := slices.ContainsFunc(n.Subnets, func(s desired.Subnet) bool { return s.Gateway == a.Target })
	switch own := slices.Contains(n.Reach.Sources[node], a.Source); a.Kind {
	case probe.Gateway:
		return gateway
	case probe.Host:
		return own && (gateway || slices.Contains(n.Reach.Targets, a.Target))
	case probe.Echo:
		return own && gateway
	case probe.Detect:
		if a.Source.IsValid() {
			return own
		}
		for _, addresses := range n.Reach.Sources { // of a peer
			if slices.Contains(addresses, a.Target) {
				return true
			}
		}
	}
	return false
}

// networksOf are a trunk's.
func (p *prober) networksOf(trunk string) (list []desired.Network) {
	p.a.mu.RLock()
	defer p.a.mu.RUnlock()
	if p.a.world.snap == nil {
		return nil
	}
	for _, n := range p.a.world.snap.Networks {
		if n.Trunk == trunk {
			list = append(list, n)
		}
	}
	return list
}

func (p *prober) isTogether(run probe.RunID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs[run] != nil && p.runs[run].together
}

// Observe tells what was heard.
func (p *prober) Observe(_ context.Context, run probe.RunID, trunk string) (probe.Observation, error) {
	s, done, err := p.station(run, trunk)
	if err != nil {
		return probe.Observation{}, err
	}
	defer done()
	o := s.Observation()
	o.Together = p.isTogether(run)
	// A VM that has left meanwhile speaks elsewhere by right.
	t := p.a.trunks()[trunk]
	still := p.ownMACs(t.Bridge)
	for i := range o.Heard {
		o.Heard[i].Mine = slices.DeleteFunc(o.Heard[i].Mine, func(m probe.MineElsewhere) bool { return m.MAC != s.MAC() && !still[m.MAC] })
	}
	return o, nil
}

// Stop ends the node's part.
func (p *prober) Stop(_ context.Context, run probe.RunID) error {
	p.end(run)
	return nil
}

func (p *prober) end(run probe.RunID) {
	p.mu.Lock()
	r := p.runs[run]
	delete(p.runs, run)
	p.mu.Unlock()
	if r == nil {
		return
	}
	r.lease.Stop()
	p.close(r)
}

// closeAll ends the node's part in all checks, and whoever asks for addresses.
func (p *prober) closeAll() {
	p.mu.Lock()
	var all []probe.RunID
	for run := range p.runs {
		all = append(all, run)
	}
	p.mu.Unlock()
	for _, run := range all {
		p.end(run)
	}
	p.closeEars()
}

// isOwn says that a packet socket is one of the prober's, by its inode.
func (p *prober) isOwn(inode uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sockets[inode]
}

// uplinkPace spreads the frames of all checks at an uplink: none follows another sooner than
// the slower of their paces allows, with some jitter, so that nodes do not speak in step. So it is
// with each class, as reach.PPS has it.
type uplinkPace struct {
	mu   sync.Mutex
	next map[probe.Class]time.Time // "" is of all
}

func (p *prober) pace(uplink string, pps int) probe.Pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paces[uplink] == nil {
		p.paces[uplink] = &uplinkPace{next: map[probe.Class]time.Time{}}
	}
	return runPace{p.paces[uplink], time.Second / time.Duration(pps)}
}

// runPace is one check's share of an uplink's pace.
type runPace struct {
	*uplinkPace
	gap time.Duration
}

// sleepLeast is less than what a sleep takes anyway: shorter gaps are made up for by frames
// that go together.
const sleepLeast = time.Millisecond

// Wait waits until a frame may go.
func (r runPace) Wait(ctx context.Context, class probe.Class) error {
	if pps := reach.PPS(class); pps > 0 {
		// Less jitter: in no second there must be many more than the pace says.
		gap := time.Second / time.Duration(pps)
		if err := r.turn(ctx, class, gap*3/4+rand.N(gap/2+1)); err != nil {
			return err
		}
	}
	return r.turn(ctx, "", r.gap/2+rand.N(r.gap+1))
}

// turn waits for the turn of a frame, and puts off the next one.
func (r runPace) turn(ctx context.Context, class probe.Class, gap time.Duration) error {
	r.mu.Lock()
	now := time.Now()
	if r.next[class].Before(now) {
		r.next[class] = now
	}
	wait := r.next[class].Sub(now)
	r.next[class] = r.next[class].Add(gap)
	r.mu.Unlock()
	if wait < sleepLeast {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

var _ reach.Agent = (*prober)(nil)
