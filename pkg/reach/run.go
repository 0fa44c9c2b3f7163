package reach

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Options select what is checked, and how. The zero value checks all.
type Options struct {
	// Networks by name, VLANs, and Nodes by name, of which all is told, while the others only take
	// part; none is all.
	Networks []string `json:"networks,omitempty"`
	Nodes    []string `json:"nodes,omitempty"`
	VLANs    vlan.Set `json:"vlans,omitzero"`
	// Only and Skip are Tests; Only none is all.
	Only []Test `json:"only,omitempty"`
	Skip []Test `json:"skip,omitempty"`
	// DHCP asks for offers in all networks, whatever they say.
	DHCP bool `json:"dhcp,omitempty"`
	// DryRun tells what would be tested, and sends nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// MaxPPS frames go out of an uplink in a second; 0 is DefaultPPS.
	MaxPPS int `json:"maxPPS,omitempty"`
	// Rounds is how often what has not been heard is sent; 0 is DefaultRounds.
	Rounds int `json:"rounds,omitempty"`
	// Settle is how long after each round answers may take; 0 is DefaultSettle.
	Settle time.Duration `json:"settle,omitempty"`
}

// Validate says what of it makes no sense.
func (o *Options) Validate() error {
	var errs []error
	for _, list := range []struct {
		flag  string
		tests []Test
	}{{"--only", o.Only}, {"--skip", o.Skip}} {
		for _, t := range list.tests {
			if !slices.Contains(Tests(), t) {
				errs = append(errs, fmt.Errorf("%s: there is no test %q: want some of %v", list.flag, t, Tests()))
			}
		}
	}
	if o.MaxPPS < 0 || o.MaxPPS > MaxPPS {
		errs = append(errs, fmt.Errorf("--max-pps %d: want 1 to %d", o.MaxPPS, MaxPPS))
	}
	if o.Rounds < 0 || o.Rounds > 100 || o.Settle < 0 || o.Settle > time.Minute {
		errs = append(errs, fmt.Errorf("%d rounds of %v: want at most 100, of a minute", o.Rounds, o.Settle))
	}
	return errors.Join(errs...)
}

// MaxPPS is the fastest that a check may be.
const MaxPPS = 100000

// answerWithin is how long a node may take to answer; sending has its time besides.
const answerWithin = 10 * time.Second

// Defaults of Options.
const (
	DefaultPPS    = 1000
	DefaultRounds = 6
	DefaultSettle = 400 * time.Millisecond
)

// Test is a thing that a cell tests.
type Test string

// The tests.
const (
	TestTrunk   Test = "trunk"   // the VLAN passes, both ways
	TestMAC     Test = "mac"     // so it does for MACs that are not the uplink's
	TestMTU     Test = "mtu"     // and for frames of full size
	TestGateway Test = "gateway" // an address of a gateway answers
	TestTarget  Test = "target"  // another host answers, asked from an address
	TestDHCP    Test = "dhcp"    // a server offers an address
	TestRouters Test = "ra"      // no router that nobody knows
	TestLLDP    Test = "lldp"    // the switch's own word
)

// Tests are all, in the order of reports.
func Tests() []Test {
	return []Test{TestTrunk, TestMAC, TestMTU, TestGateway, TestTarget, TestDHCP, TestRouters, TestLLDP}
}

func (o *Options) wants(t Test) bool {
	return (len(o.Only) == 0 || slices.Contains(o.Only, t)) && !slices.Contains(o.Skip, t)
}

// wantsHellos: all but the switch's word rests on who hears whom.
func (o *Options) wantsHellos() bool {
	return slices.ContainsFunc(Tests(), func(t Test) bool { return t != TestLLDP && o.wants(t) })
}
func (o *Options) wantsNetwork(name string) bool {
	return len(o.Networks) == 0 || slices.Contains(o.Networks, name)
}
func (o *Options) wantsVLAN(id vlan.ID) bool { return o.VLANs.Empty() || o.VLANs.Contains(id) }
func (o *Options) wantsNode(name string) bool {
	return len(o.Nodes) == 0 || slices.Contains(o.Nodes, name)
}

// Progress is told while a check runs: what is done, of how much, in steps of its own.
type Progress func(what string, done, of int)

// Absent is a node that did not take part.
type Absent struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// seen is all that a check has seen.
type seen struct {
	options   Options
	stations  []*station
	segments  []*segment
	absent    []Absent
	cancelled bool
	// believed: silence was given time enough; believedHosts: so was that of what is asked from sources.
	believed, believedHosts bool
}

// Run checks. What was found until ctx ended is in the report, which says that it was ended.
func Run(ctx context.Context, agents []Agent, absent []Absent, o Options, progress Progress) (*Report, error) {
	if progress == nil {
		progress = func(string, int, int) {}
	}
	c := &check{options: o, progress: progress, absent: slices.Clone(absent)}
	c.options.MaxPPS = cmp.Or(o.MaxPPS, DefaultPPS)
	c.options.Rounds = cmp.Or(o.Rounds, DefaultRounds)
	c.options.Settle = cmp.Or(o.Settle, DefaultSettle)
	if _, err := rand.Read(c.run[:]); err != nil {
		return nil, err
	}
	begun := time.Now()
	c.describe(ctx, agents)
	if err := c.refuse(); err != nil {
		return nil, err
	}
	c.segments = segments(c.stations, &c.options)
	if o.DryRun {
		return c.plan(begun), nil
	}
	c.start(ctx)
	defer c.stop(ctx)
	c.rounds(ctx)
	c.linger(ctx, begun)
	c.believed = ctx.Err() == nil
	c.fromSources(ctx)
	c.believedHosts = ctx.Err() == nil
	c.sizes(ctx)
	c.echoSizes(ctx)
	c.confirmTwo(ctx)
	c.lastLook(ctx)
	r := conclude(c.seen(ctx))
	r.Run, r.Started, r.Took = c.run.String(), begun.UTC(), time.Since(begun)
	return r, nil
}

// plan is the report of a check that sends nothing: cells as they would be tested, and the frames
// of the first round.
func (c *check) plan(begun time.Time) *Report {
	asks := map[*station][]probe.Ask{}
	r := conclude(&seen{options: c.options, stations: c.stations, segments: c.segments, absent: c.absent})
	for _, g := range c.segments {
		g.asks(&c.options, nil, asks)
	}
	r.Run, r.Started, r.Took, r.Findings = c.run.String(), begun.UTC(), time.Since(begun), []Finding{}
	for i := range r.Cells {
		r.Cells[i].Result, r.Cells[i].Why = Untested, "a dry run sends nothing"
	}
	for i := range r.Nodes {
		for s, a := range asks {
			if s.node == r.Nodes[i].Node && s.Name == r.Nodes[i].Trunk {
				r.Nodes[i].Frames = len(a)
			}
		}
	}
	r.sum()
	return r
}

// check is a run.
type check struct {
	options  Options
	progress Progress
	run      probe.RunID
	stations []*station
	segments []*segment

	mu      sync.Mutex
	absent  []Absent
	known   []Description
	started []Agent
	// believed: what was not heard was asked for often enough; believedHosts: so were targets.
	believed, believedHosts bool
}

// each does f for all, at once, and gives up those for which it fails.
func (c *check) each(ctx context.Context, agents []Agent, f func(context.Context, Agent) error) (failed []Agent) {
	var wg sync.WaitGroup
	outer := ctx
	for _, a := range agents {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(outer, answerWithin)
			defer cancel()
			if err := f(ctx, a); err != nil && outer.Err() == nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				failed = append(failed, a)
				c.absent = append(c.absent, Absent{a.Node(), err.Error()})
			}
		})
	}
	wg.Wait()
	return failed
}

func (c *check) describe(ctx context.Context, agents []Agent) {
	c.progress("asking nodes what they should carry", 0, len(agents))
	c.each(ctx, agents, func(ctx context.Context, a Agent) error {
		d, err := a.Describe(ctx)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.known = append(c.known, d)
		for _, t := range d.Trunks {
			if t.Uplink != "" {
				c.stations = append(c.stations, &station{Trunk: t, node: a.Node(), version: d.Version, agent: a})
			}
		}
		return nil
	})
	slices.SortFunc(c.stations, func(a, b *station) int { return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.Name, b.Name)) })
}

// refuse finds what was asked for and is not there.
func (c *check) refuse() error {
	var errs []error
	for _, name := range c.options.Nodes {
		known := slices.ContainsFunc(c.known, func(d Description) bool { return d.Node == name }) ||
			slices.ContainsFunc(c.absent, func(a Absent) bool { return a.Node == name })
		if !known {
			errs = append(errs, fmt.Errorf("--node: no agent is known of a node %q", name))
		}
	}
	if len(c.known) == 0 {
		return errors.Join(errs...) // nothing is known of networks and VLANs
	}
	for _, name := range c.options.Networks {
		if !slices.ContainsFunc(c.stations, func(s *station) bool {
			return slices.ContainsFunc(s.Networks, func(n Network) bool { return n.Name == name })
		}) {
			errs = append(errs, fmt.Errorf("no node that was asked has a VLANNetwork %q on an uplink", name))
		}
	}
	var has vlan.Set
	for _, s := range c.stations {
		if len(c.options.Networks) == 0 && c.options.wantsNode(s.node) {
			has = has.Union(s.Allowed)
		}
		for _, n := range s.Networks {
			if c.options.wantsNetwork(n.Name) && c.options.wantsNode(s.node) {
				has = has.Union(n.VLANs)
			}
		}
	}
	if missing := c.options.VLANs.Minus(has); !missing.Empty() {
		where := "no trunk of a node that was asked for allows VLAN %v (uplink.allowedVLANs)"
		if len(c.options.Networks) > 0 {
			where = "no network that was asked for has VLAN %v"
		}
		errs = append(errs, fmt.Errorf("--vlan: "+where, missing))
	}
	return errors.Join(errs...)
}

// agents are those of the stations, each once.
func (c *check) agents() []Agent {
	var all []Agent
	for _, s := range c.stations {
		if !slices.Contains(all, s.agent) {
			all = append(all, s.agent)
		}
	}
	return all
}

// drop takes out stations of nodes that do not go on.
func (c *check) drop(failed []Agent) {
	if len(failed) == 0 {
		return
	}
	gone := func(s *station) bool { return slices.Contains(failed, s.agent) }
	c.stations = slices.DeleteFunc(c.stations, gone)
	for _, g := range c.segments {
		g.members = slices.DeleteFunc(g.members, gone)
	}
}

func (c *check) start(ctx context.Context) {
	agents := c.agents()
	c.progress("having nodes listen", 0, len(agents))
	c.drop(c.each(ctx, agents, func(ctx context.Context, a Agent) error {
		var trunks []string
		for _, s := range c.stations {
			if s.agent == a && !s.masked() {
				trunks = append(trunks, s.Name)
			}
		}
		if len(trunks) == 0 {
			return nil
		}
		// Whether or not its answer arrives: it may have begun.
		c.mu.Lock()
		c.started = append(c.started, a)
		c.mu.Unlock()
		return a.Start(ctx, c.run, trunks, c.options.MaxPPS)
	}))
}

// stop has all nodes end their part, also where ctx has ended.
func (c *check) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, a := range c.started {
		wg.Go(func() { _ = a.Stop(ctx, c.run) }) // who cannot be told ends by itself
	}
	wg.Wait()
}

// say has stations send, and fetches what was heard once answers had their time. It says
// whether to go on.
func (c *check) say(ctx context.Context, asks map[*station][]probe.Ask) bool {
	parts := map[*station][][]probe.Ask{}
	most := 0
	for st, a := range asks {
		parts[st] = c.parts(a)
		most = max(most, len(parts[st]))
	}
	for i := range most {
		if !c.eachStation(ctx, func(s *station) error {
			var part []probe.Ask
			if i < len(parts[s]) {
				part = parts[s][i]
			}
			// At half of the pace, and it may share that with other checks.
			ctx, cancel := context.WithTimeout(ctx, answerWithin+4*c.sendTime(part))
			defer cancel()
			return s.agent.Send(ctx, c.run, s.Name, part)
		}) {
			return false
		}
	}
	return c.wait(ctx, c.options.Settle) && c.observe(ctx)
}

// wait says whether it could.
func (c *check) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// lastLook has what was heard until a check was ended.
func (c *check) lastLook(ctx context.Context) {
	if ctx.Err() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range c.stations {
		wg.Go(func() {
			if obs, err := s.agent.Observe(ctx, c.run, s.Name); err == nil { // what it does not tell is not known
				s.take(obs)
			}
		})
	}
	wg.Wait()
}

func (c *check) observe(ctx context.Context) bool {
	return c.eachStation(ctx, func(s *station) (err error) {
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		obs, err := s.agent.Observe(ctx, c.run, s.Name)
		if err == nil {
			s.take(obs)
		}
		return err
	})
}

// eachStation does f for all that can speak; a node that fails is out, unless the check itself was ended.
func (c *check) eachStation(ctx context.Context, f func(*station) error) bool {
	var wg sync.WaitGroup
	var failed []Agent
	for _, s := range c.stations {
		if s.masked() {
			continue
		}
		wg.Go(func() {
			if err := f(s); err != nil && ctx.Err() == nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				if !slices.Contains(failed, s.agent) {
					failed = append(failed, s.agent)
					c.absent = append(c.absent, Absent{s.node, err.Error()})
				}
			}
		})
	}
	wg.Wait()
	c.drop(failed)
	return ctx.Err() == nil
}

// rounds sends everything once, and then again what has not been heard by all that it is for.
func (c *check) rounds(ctx context.Context) {
	for round := range c.options.Rounds {
		asks := map[*station][]probe.Ask{}
		again := c.again()
		for _, g := range c.segments {
			g.asks(&c.options, again, asks)
		}
		frames := 0
		for _, a := range asks {
			frames = max(frames, len(a))
		}
		if frames == 0 {
			return
		}
		c.progress("asking the fabric", round, c.options.Rounds)
		if !c.say(ctx, asks) {
			return
		}
	}
	c.progress("asking the fabric", c.options.Rounds, c.options.Rounds)
}

// slowAnswer is how long routers and DHCP servers may take: half a second at random (RFC 4861, 6.2.6), a
// second to see whether an address is taken.
const slowAnswer = 1500 * time.Millisecond

// linger gives the slow their time.
func (c *check) linger(ctx context.Context, begun time.Time) {
	if !c.options.wants(TestRouters) && !c.options.wants(TestDHCP) || len(c.segments) == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Until(begun.Add(slowAnswer))):
		c.observe(ctx)
	}
}

// asks adds what is still to be sent in a segment.
func (g *segment) asks(o *Options, again *again, to map[*station][]probe.Ask) {
	active := g.active()
	for _, s := range active {
		ask := func(a probe.Ask) {
			a.VLAN, a.Untagged = g.vlan, s.Native == g.vlan
			to[s] = append(to[s], a)
		}
		if o.wantsHellos() {
			if !g.allHeard(s, active, probe.Hello) {
				ask(probe.Ask{Kind: probe.Hello})
			}
		}
		if o.wants(TestMAC) {
			if !g.allHeard(s, active, probe.Foreign) {
				ask(probe.Ask{Kind: probe.Foreign})
			}
			for _, p := range g.neighbours(s) {
				if !g.heard(s, p, probe.Unicast) {
					ask(probe.Ask{Kind: probe.Unicast, To: p.MAC.Foreign()})
				}
			}
		}
		if o.wants(TestMTU) && !g.allHeard(s, active, probe.Full) {
			ask(probe.Ask{Kind: probe.Full, Size: g.asked(s)})
		}
		if o.wants(TestGateway) {
			for _, a := range g.gateways {
				if g.asksFor(s, a) && !g.answered(s, a) && again.worth(g, s, aGateway, a) {
					ask(probe.Ask{Kind: probe.Gateway, Target: a})
				}
			}
		}
		if g.wantsOffer(o) && len(s.obs.In(g.tagAt(s)).Offers) == 0 && again.worth(g, s, anOffer, netip.Addr{}) {
			ask(probe.Ask{Kind: probe.DHCP})
		}
		if o.wants(TestRouters) && s.obs.Sent == 0 {
			ask(probe.Ask{Kind: probe.Routers})
		}
	}
}

// tagAt is the tag with which the VLAN's frames should come at a station; 0 is none.
func (g *segment) tagAt(s *station) vlan.ID {
	if s.Native == g.vlan {
		return 0
	}
	return g.vlan
}

// heard says whether a peer has heard a station's hello of a kind, in the right form.
func (g *segment) heard(from, at *station, k probe.Kind) bool {
	return at.came[hello{g.tagAt(at), g.vlan, from.node, from.Uplink, k}]
}

func (g *segment) allHeard(from *station, peers []*station, k probe.Kind) bool {
	for _, p := range peers {
		if p != from && !g.heard(from, p, k) {
			return false
		}
	}
	// With nobody to hear it, one is sent: it may come back, or leak.
	return len(peers) > 1 || from.obs.Sent > 0
}

func (c *check) seen(ctx context.Context) *seen {
	return &seen{options: c.options, stations: c.stations, segments: c.segments, absent: c.absent, cancelled: ctx.Err() != nil, believed: c.believed, believedHosts: c.believedHosts}
}
