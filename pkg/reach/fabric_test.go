package reach

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// A fabric of switches in memory, that carries the very frames which stations make, in the
// time of a testing/synctest bubble.
type fabric struct {
	mu       sync.Mutex
	rand     *rand.Rand
	delay    time.Duration // of each hop
	jitter   time.Duration
	loss     float64
	switches []*fakeSwitch
	nodes    []*fakeNode
	// hops bounds what one frame may cause: a storm is a mistake of the test.
	stormed bool
}

type fakeSwitch struct {
	*fabric
	name  string
	ports []*fakePort
	fdb   map[fdbKey]*fakePort
}

type fdbKey struct {
	vlan vlan.ID
	mac  probe.MAC
}

// fakePort is a switch's; what it sends goes to deliver.
type fakePort struct {
	sw      *fakeSwitch
	name    string
	pvid    vlan.ID
	tagged  vlan.Set
	mtu     int                    // 0: any
	noIn    func(probe.Frame) bool // dropped on the way into the switch
	noOut   func(probe.Frame) bool // and out of it
	allowed func(probe.MAC) bool   // source MACs; nil: any
	deliver func(probe.Frame, int) // to what is plugged in
	lldpOff bool
	hides   vlan.Set // carried, and not listed by LLDP
}

func newFabric(seed uint64) *fabric {
	return &fabric{rand: rand.New(rand.NewPCG(seed, 1)), delay: 50 * time.Microsecond}
}

func (f *fabric) newSwitch(name string) *fakeSwitch {
	s := &fakeSwitch{fabric: f, name: name, fdb: map[fdbKey]*fakePort{}}
	f.switches = append(f.switches, s)
	return s
}

func (s *fakeSwitch) port(name string, pvid vlan.ID, tagged vlan.Set, deliver func(probe.Frame, int)) *fakePort {
	p := &fakePort{sw: s, name: name, pvid: pvid, tagged: tagged, deliver: deliver}
	s.ports = append(s.ports, p)
	return p
}

// link joins two switches.
func (f *fabric) link(a, b *fakeSwitch, pvid vlan.ID, tagged vlan.Set) (pa, pb *fakePort) {
	pa = a.port("to "+b.name, pvid, tagged, func(fr probe.Frame, hops int) { pb.in(fr, hops) })
	pb = b.port("to "+a.name, pvid, tagged, func(fr probe.Frame, hops int) { pa.in(fr, hops) })
	return pa, pb
}

// in is a frame that comes to a port by its cable. The fabric is locked.
func (p *fakePort) in(fr probe.Frame, hops int) {
	if hops > 64 {
		p.sw.stormed = true
		return
	}
	id := fr.VLAN
	switch {
	case p.noIn != nil && p.noIn(fr):
		return
	case id == 0 && p.pvid == 0, id != 0 && id != p.pvid && !p.tagged.Contains(id):
		return
	case id == 0:
		id = p.pvid
	}
	if p.mtu != 0 && len(fr.Data)-14 > p.mtu {
		return
	}
	from, to := probe.MAC(fr.Data[6:12]), probe.MAC(fr.Data[:6])
	if p.allowed != nil && !p.allowed(from) {
		return
	}
	p.sw.fdb[fdbKey{id, from}] = p
	if at := p.sw.fdb[fdbKey{id, to}]; at != nil && to[0]&1 == 0 {
		if at != p {
			at.out(id, fr, hops)
		}
		return
	}
	for _, o := range p.sw.ports {
		if o != p {
			o.out(id, fr, hops)
		}
	}
}

func (p *fakePort) out(id vlan.ID, fr probe.Frame, hops int) {
	switch {
	case id == p.pvid:
		fr.VLAN = 0
	case p.tagged.Contains(id):
		fr.VLAN = id
	default:
		return
	}
	if p.noOut != nil && p.noOut(fr) || p.mtu != 0 && len(fr.Data)-14 > p.mtu {
		return
	}
	p.sw.wire(fr, hops+1, p.deliver)
}

// wire takes a frame over a cable. The fabric is locked, and is when to is called.
func (f *fabric) wire(fr probe.Frame, hops int, to func(probe.Frame, int)) {
	if f.rand.Float64() < f.loss {
		return
	}
	d := f.delay
	if f.jitter > 0 {
		d += time.Duration(f.rand.Int64N(int64(f.jitter)))
	}
	time.AfterFunc(d, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		to(fr, hops)
	})
}

// fakeNode is a node's uplink, and its agent.
type fakeNode struct {
	*fabric
	desc   Description
	port   *fakePort
	conns  []*fakeConn
	absent error                   // of all that it is asked
	fails  error                   // of what it sends
	refuse func(probe.Frame) error // of some of it
	// running checks, and whether there were two at once since the last ended.
	running  int
	together bool
	sends    func(probe.Frame)
	own      map[probe.MAC]bool
	// lostAfter is how many questions about what it heard it answers; 0 is all.
	lostAfter, asked int
	at               map[probe.RunID]*probe.Station
}

// node plugs a node into a switch; its trunk has these networks.
func (f *fabric) node(name string, sw *fakeSwitch, native vlan.ID, tagged vlan.Set, networks []Network) *fakeNode {
	n := &fakeNode{fabric: f, at: map[probe.RunID]*probe.Station{}}
	mac := probe.MAC{0x52, 0x54, 0, 0, 1, byte(len(f.nodes) + 1)}
	n.port = sw.port(name, native, tagged, func(fr probe.Frame, _ int) {
		for _, c := range n.conns {
			c.take(fr)
		}
	})
	n.desc = Description{Node: name, Version: "test", Trunks: []Trunk{{Name: "physnet1", Bridge: "br0", Uplink: "eth1", MAC: mac, MTU: 1500,
		Allowed: tagged, Native: native, Networks: networks, LLDPHeard: time.Hour}}}
	f.nodes = append(f.nodes, n)
	return n
}

func (n *fakeNode) Node() string { return n.desc.Node }

func (n *fakeNode) Describe(context.Context) (Description, error) {
	d := n.desc
	d.Trunks = slices.Clone(d.Trunks)
	if !n.port.lldpOff {
		id := n.port.pvid
		v := n.port.tagged
		if id != 0 {
			v = v.Union(setOf(id))
		}
		d.Trunks[0].Switch = &probe.Neighbour{Chassis: fmt.Sprintf("02:00:00:00:00:%02x", n.port.sw.name[len(n.port.sw.name)-1]), Name: n.port.sw.name, Port: n.port.name, Native: id, VLANs: v.Minus(n.port.hides), TTL: 120 * time.Second}
	}
	return d, n.absent
}

func (n *fakeNode) Start(_ context.Context, run probe.RunID, _ []string, pps int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running++
	n.together = n.together || n.running > 1
	c := &fakeConn{node: n, frames: make(chan probe.Frame, 1<<16)}
	n.conns = append(n.conns, c)
	t := n.desc.Trunks[0]
	n.at[run] = probe.Start(c, testKeys{1}, &pace{gap: time.Second / time.Duration(pps), next: map[probe.Class]time.Time{}}, run, probe.Place{Node: n.desc.Node, Uplink: t.Uplink, MAC: t.MAC, Own: n.own})
	return nil
}

// Send refuses, as a real node does, to ask for an address that the node itself does not name, or from one.
func (n *fakeNode) Send(ctx context.Context, run probe.RunID, _ string, asks []probe.Ask) error {
	for _, a := range asks {
		names := func(w Network) bool {
			gateway, own := slices.Contains(w.Gateways, a.Target), slices.Contains(w.Sources, a.Source)
			return w.Home == a.VLAN && (a.Kind == probe.Gateway && gateway || a.Kind == probe.Detect && (own || !a.Source.IsValid()) ||
				own && (gateway || a.Kind == probe.Host && slices.Contains(w.Targets, a.Target)))
		}
		if a.Target.IsValid() && !slices.ContainsFunc(n.desc.Trunks[0].Networks, names) {
			return fmt.Errorf("%+v is not named", a)
		}
	}
	return n.station(run).Send(ctx, asks)
}

// station is the node's part in a check.
func (n *fakeNode) station(run probe.RunID) *probe.Station {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at[run]
}

func (n *fakeNode) Observe(_ context.Context, run probe.RunID, _ string) (probe.Observation, error) {
	n.mu.Lock()
	n.asked++
	lost := n.lostAfter > 0 && n.asked > n.lostAfter
	n.mu.Unlock()
	if lost {
		return probe.Observation{}, errors.New("connection reset by peer")
	}
	obs := n.station(run).Observation()
	n.mu.Lock()
	defer n.mu.Unlock()
	obs.Together = n.together
	return obs, nil
}

func (n *fakeNode) Stop(_ context.Context, run probe.RunID) error {
	n.mu.Lock()
	if n.running--; n.running == 0 {
		n.together = false
	}
	n.mu.Unlock()
	return n.station(run).Close()
}

// pace is that of a node, of each class and of all together.
type pace struct {
	gap  time.Duration
	mu   sync.Mutex
	next map[probe.Class]time.Time // "" is of all
}

func (p *pace) Wait(ctx context.Context, c probe.Class) error {
	if pps := PPS(c); pps > 0 {
		if err := p.turn(ctx, c, time.Second/time.Duration(pps)); err != nil {
			return err
		}
	}
	return p.turn(ctx, "", p.gap)
}

func (p *pace) turn(ctx context.Context, c probe.Class, gap time.Duration) error {
	p.mu.Lock()
	at := time.Now()
	if p.next[c].After(at) {
		at = p.next[c]
	}
	p.next[c] = at.Add(gap)
	p.mu.Unlock()
	if time.Until(at) <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(at)):
		return nil
	}
}

type fakeConn struct {
	node   *fakeNode
	frames chan probe.Frame
	closed bool
	lost   uint64
}

func (c *fakeConn) take(fr probe.Frame) {
	if c.closed {
		return
	}
	select {
	case c.frames <- fr:
	default:
		c.lost++
	}
}

func (c *fakeConn) Send(fr probe.Frame) error {
	c.node.mu.Lock()
	defer c.node.mu.Unlock()
	if c.node.fails != nil {
		return c.node.fails
	}
	if c.node.refuse != nil {
		if err := c.node.refuse(fr); err != nil {
			return err
		}
	}
	if len(fr.Data)-14 > c.node.desc.Trunks[0].MTU {
		return errors.New("message too long")
	}
	if c.node.sends != nil {
		c.node.sends(fr)
	}
	fr.Data = slices.Clone(fr.Data)
	c.node.wire(fr, 0, c.node.port.in)
	return nil
}

func (c *fakeConn) Receive() (probe.Frame, error) {
	fr, ok := <-c.frames
	if !ok {
		return fr, net.ErrClosed
	}
	return fr, nil
}

func (c *fakeConn) Lost() (uint64, error) {
	c.node.mu.Lock()
	defer c.node.mu.Unlock()
	return c.lost, nil
}

func (c *fakeConn) Close() error {
	c.node.mu.Lock()
	defer c.node.mu.Unlock()
	c.closed = true
	close(c.frames)
	return nil
}

// testKeys are a key that is one byte.
type testKeys [1]byte

func (k testKeys) Sign(msg []byte) (id [4]byte, mac [16]byte) {
	h := hmac.New(sha256.New, k[:])
	h.Write(msg)
	return [4]byte{k[0]}, [16]byte(h.Sum(nil))
}

func (k testKeys) Verify(id [4]byte, msg []byte, mac [16]byte) bool {
	_, want := k.Sign(msg)
	return id[0] == k[0] && hmac.Equal(mac[:], want[:])
}

func setOf(ids ...vlan.ID) vlan.Set {
	s, err := vlan.Of(ids...)
	if err != nil {
		panic(err)
	}
	return s
}

func addrOf(format string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(format, args...))
}
