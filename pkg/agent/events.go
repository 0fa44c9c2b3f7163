package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/explain"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

const (
	// eventsKept is how many events are remembered, eventsSent how many one answer has.
	eventsKept = 8192
	eventsSent = 1000
	// watchFor is how long all packets are told of after somebody has asked,
	// eventsWait how long an answer waits for the first.
	watchFor   = 10 * time.Second
	eventsWait = time.Second
	// endsQueued is how many ends of connections in time wait to be told.
	endsQueued = 4096
)

// eventBook is what is remembered of what the programs told. The zero value is empty.
type eventBook struct {
	mu       sync.Mutex
	kept     []wire.Event // a ring of eventsKept once it is full; that of Seq n at (n-1) % eventsKept
	last     uint64       // Seq
	news     chan struct{}
	watched  time.Time // until when all packets are told of
	ports    portCache
	lostTold uint64 // of lost, by tellLost

	lost atomic.Uint64 // events that only the agent lost, with lines of the rule log

	rulesMu sync.RWMutex
	logs    bool // a rule in force asks for logs
	learned learned
	rules   map[uint32]countedRule // by counter; those given up stay until another has the counter
}

// countedRule is the rule that a counter stands for.
type countedRule struct {
	wire.EventRule
	since uint64       // the first generation that has it
	last  *countedRule // the one before, which connections may still be of
}

// learnRules says which rules counters stand for from a generation on, before packets are
// judged by it.
func (b *eventBook) learnRules(sets []policy.Set, counters compile.Counters, generation uint64) {
	b.rulesMu.Lock()
	defer b.rulesMu.Unlock()
	if b.rules == nil {
		b.rules = map[uint32]countedRule{}
	}
	if b.learned.same(sets, counters) {
		return
	}
	b.learned = learned{slices.Clone(sets), counters}
	b.logs = false
	learn := func(key policy.RuleKey, r wire.EventRule) {
		b.logs = b.logs || r.Log
		now := countedRule{EventRule: r, since: generation}
		counter, has := counters[key]
		if !has {
			return
		}
		switch old, ok := b.rules[counter]; {
		case !ok:
			now.since = 0 // connections of before this agent are of it
		case old.Policy == r.Policy && old.ID == r.ID && old.Network == r.Network:
			now.since, now.last = old.since, old.last
		default:
			old.last = nil
			now.last = &old
		}
		b.rules[counter] = now
	}
	for i := range sets {
		s := &sets[i]
		learn(policy.DefaultKey(s.Network), wire.EventRule{Network: s.Network, Action: s.Default.String()})
		for j := range s.Rules {
			r := &s.Rules[j]
			learn(r.Key, wire.EventRule{Policy: r.Key.Policy, ID: r.Key.ID, Network: r.Key.Network,
				Action: r.Action.String(), Label: r.LogLabel, Log: r.Log})
		}
	}
}

// learned is what learnRules was told last. Rules and counters are never changed, so the same
// ones say the same.
type learned struct {
	sets     []policy.Set
	counters compile.Counters
}

func (l *learned) same(sets []policy.Set, counters compile.Counters) bool {
	return reflect.ValueOf(l.counters).UnsafePointer() == reflect.ValueOf(counters).UnsafePointer() &&
		slices.EqualFunc(l.sets, sets, func(a, b policy.Set) bool {
			return a.Network == b.Network && a.Default == b.Default && len(a.Rules) == len(b.Rules) && unsafe.SliceData(a.Rules) == unsafe.SliceData(b.Rules)
		})
}

// someLog says whether a rule asks for logs.
func (b *eventBook) someLog() bool {
	b.rulesMu.RLock()
	defer b.rulesMu.RUnlock()
	return b.logs
}

// rule is what a counter stood for in a generation; 0 is now, and nil is not known.
func (b *eventBook) rule(counter uint32, generation uint64) *wire.EventRule {
	if counter == datapath.NoRule {
		return nil
	}
	b.rulesMu.RLock()
	defer b.rulesMu.RUnlock()
	r, ok := b.rules[counter]
	for at := &r; ok && at != nil; at = at.last {
		if generation == 0 || at.since <= generation {
			return &at.EventRule
		}
	}
	return nil
}

// add remembers an event and wakes who waits.
func (b *eventBook) add(e wire.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	e.Seq = b.last
	if len(b.kept) < eventsKept {
		b.kept = append(b.kept, e)
	} else {
		b.kept[(e.Seq-1)%eventsKept] = e
	}
	if b.news != nil {
		close(b.news)
		b.news = nil
	}
}

// newest is the Seq of the last event.
func (b *eventBook) newest() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// after gives what follows an event, up to eventsSent, and what is closed when there is more.
func (b *eventBook) after(seq uint64) (out []wire.Event, news <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if oldest := b.last - uint64(len(b.kept)); seq < oldest {
		seq = oldest
	}
	for n := seq + 1; n <= b.last && len(out) < eventsSent; n++ {
		out = append(out, b.kept[(n-1)%eventsKept])
	}
	if b.news == nil {
		b.news = make(chan struct{})
	}
	return out, b.news
}

// isWatched says whether all packets are wanted.
func (b *eventBook) isWatched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.watched)
}

// watch has all packets told of for a while.
func (a *Agent) watch() error {
	a.events.mu.Lock()
	defer a.events.mu.Unlock()
	if err := a.kernel.dp.Watch(true); err != nil {
		return err
	}
	a.events.watched = time.Now().Add(watchFor)
	return nil
}

// unwatch ends that when nobody has asked for long.
func (a *Agent) unwatch() error {
	a.events.mu.Lock()
	defer a.events.mu.Unlock()
	if a.events.watched.IsZero() || time.Now().Before(a.events.watched) {
		return nil
	}
	if err := a.kernel.dp.Watch(false); err != nil {
		return err
	}
	a.events.watched = time.Time{}
	return nil
}

// eventList answers homeportctl observe.
func (a *Agent) eventList(ctx context.Context, q *wire.EventQuery) (any, error) {
	if q == nil {
		q = &wire.EventQuery{}
	}
	out := wire.EventList{TypeMeta: kind("EventList"), Items: []wire.Event{}}
	if q.Follow {
		if err := a.watch(); err != nil {
			return nil, err
		}
	}
	var after uint64
	switch {
	case q.After != nil:
		after = *q.After
	case q.Follow:
		after = a.events.newest()
	}
	if out.Newest = a.events.newest(); after > out.Newest { // of an agent before this one
		after = 0
	}
	items, news := a.events.after(after)
	if len(items) == 0 && q.Follow && q.After != nil {
		select {
		case <-ctx.Done():
		case <-news:
		case <-time.After(eventsWait):
		}
		items, _ = a.events.after(after)
	}
	out.Items = append(out.Items, items...)
	out.Next = after
	if n := len(items); n > 0 {
		out.Next = items[n-1].Seq
	}
	var err error
	out.Lost, err = a.eventsLost()
	return out, err
}

// eventsLost is how many events nobody has seen or will see.
func (a *Agent) eventsLost() (uint64, error) {
	n, err := a.kernel.dp.EventsLost()
	return n + a.events.lost.Load(), err
}

// readEvents takes what the programs tell until ctx ends.
func (a *Agent) readEvents(ctx context.Context) error {
	events, err := a.kernel.dp.Events()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { events.Close() })()
	var tending sync.WaitGroup
	tending.Go(func() { a.tendEvents(ctx) })
	defer func() {
		cancel()
		tending.Wait()
		a.ruleLog.close()
		// Nobody will read what the programs tell.
		if err := a.kernel.dp.Watch(false); err != nil {
			a.log.Warn("the port programs go on telling of packets", "err", err)
		}
	}()
	for {
		e, err := events.Read()
		switch {
		case errors.Is(err, datapath.ErrClosed):
			return nil
		case errors.Is(err, datapath.ErrForeignEvent):
			if a.events.lost.Add(1) == 1 {
				a.log.Warn("packets of before this version are not told of", "err", err)
			}
			continue
		case err != nil:
			return err
		}
		a.takeEvent(e)
	}
}

// tendEvents does what no event is the occasion for.
func (a *Agent) tendEvents(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			// What waits is told: its connections are gone, and the next agent knows nothing of it.
			for len(a.ended) > 0 {
				a.takeEvent(<-a.ended)
			}
			if err := a.tellLost(); err != nil {
				a.log.Warn("events of packets", "err", err)
			}
			return
		case e := <-a.ended:
			a.takeEvent(e)
		case <-tick.C:
			if err := errors.Join(a.tellLost(), a.unwatch()); err != nil {
				a.log.Warn("events of packets", "err", err)
			}
		}
	}
}

// tellLost has the rule log say how many events were lost since it last said so, also by an
// agent before this one.
func (a *Agent) tellLost() error {
	lost, err := a.kernel.dp.EventsLost()
	if err != nil {
		return err
	}
	told, err := a.kernel.dp.LostTold()
	if err != nil {
		return err
	}
	own := a.events.lost.Load()
	if n := uint64(uint32(lost)-told) + own - a.events.lostTold; n > 0 && a.logLost(time.Now(), n) {
		a.events.lostTold = own
		return a.kernel.dp.SetLostTold(uint32(lost))
	}
	return nil
}

// connectionEnded takes a connection that was silent for too long. Its caller does not wait
// for whoever is told.
func (a *Agent) connectionEnded(e datapath.Event) {
	if !e.Logged && !a.events.isWatched() {
		return
	}
	select {
	case a.ended <- e:
	default:
		a.events.lost.Add(1)
	}
}

// takeEvent logs and remembers an event.
func (a *Agent) takeEvent(e datapath.Event) {
	out := a.describeEvent(&e)
	a.logEvent(&out, e.Logged, e.MonitoredLogged)
	a.events.add(out)
}

// describeEvent puts an event into words.
func (a *Agent) describeEvent(e *datapath.Event) wire.Event {
	out := wire.Event{Time: e.At.UTC(), Verdict: wire.EventAllow, Reason: e.Reason.String(), Direction: e.Direction.String(),
		VLAN: e.VLAN, Source: e.Source, Destination: e.Destination, SourcePort: e.SourcePort, TCPFlags: explain.TCPFlags(e.TCPFlags), Length: e.Length,
		Rule: a.ruleOf(e), Monitored: a.events.rule(e.Monitored, 0)}
	if e.EtherType != 0 {
		out.SourceMAC, out.DestinationMAC = attach.MAC(e.SourceMAC[:]), attach.MAC(e.DestinationMAC[:])
	}
	if rec := a.events.ports.at(a.table, e.IfIndex); rec != nil {
		out.Interface, out.Pod, out.Network = rec.HostIfName, rec.Pod, rec.Network
		if out.VLAN == 0 {
			out.VLAN = uint16(rec.VLANs.PVID)
		}
	} else {
		out.Interface = fmt.Sprintf("if%d", e.IfIndex) // its port has ended
	}
	switch {
	case e.TimedOut:
		out.Verdict, out.Reason = wire.EventEnd, endTimedOut
	case e.Ended && e.Reason.Drops():
		out.Verdict, out.Reason = wire.EventEnd, endPolicy
	case e.Ended && e.TCPFlags&tcpRST != 0:
		out.Verdict, out.Reason = wire.EventEnd, endReset
	case e.Ended:
		out.Verdict, out.Reason = wire.EventEnd, endFinished
	case e.Reason.Drops():
		out.Verdict = wire.EventDrop
	}
	out.Protocol, out.DestinationPort = protocolOf(e)
	return out
}

const tcpRST = 4

// Reasons of events that tell of an end.
const (
	endTimedOut = "TimedOut"
	endPolicy   = "PolicyChanged"
	endReset    = "Reset"
	endFinished = "Finished"
)

// ruleOf is the rule of an event; nil is not known, or none.
func (a *Agent) ruleOf(e *datapath.Event) *wire.EventRule {
	r := a.events.rule(e.Rule, e.Generation)
	if e.TimedOut && r != nil && r.ID != e.RuleID {
		return nil // its counter had another rule before this agent
	}
	return r
}

// portCache finds records by interface. Many events are of few ports.
type portCache struct {
	mu    sync.Mutex
	until time.Time
	ports map[int]*attach.Record // nil: there is none
}

// at is the record of the port at an interface, not older than a second; nil is none.
func (c *portCache) at(t *table, ifindex int) *attach.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.After(c.until) {
		c.ports, c.until = map[int]*attach.Record{}, now.Add(time.Second)
	}
	rec, ok := c.ports[ifindex]
	if !ok {
		if r, found := t.at(ifindex); found {
			rec = &r
		}
		c.ports[ifindex] = rec
	}
	return rec
}

// protocolOf is the protocol in a word, with the port if it has one.
func protocolOf(e *datapath.Event) (string, uint16) {
	switch {
	case e.Source == netip.Addr{}:
		switch e.EtherType {
		case 0:
			return "", 0
		case 0x0806:
			return "arp", 0
		}
		return fmt.Sprintf("%#04x", e.EtherType), 0
	case policy.HasTypes(e.Protocol) && e.HasPorts:
		return fmt.Sprintf("%s/%d/%d", strings.ToLower(policy.ProtocolName(e.Protocol)), e.DestinationPort>>8, e.DestinationPort&0xff), 0
	}
	return strings.ToLower(policy.ProtocolName(e.Protocol)), e.DestinationPort
}
