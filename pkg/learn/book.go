package learn

import (
	"container/list"
	"net/netip"
	"slices"
	"time"
)

// Book knows which NIC holds which address. It is not safe for use by several goroutines at once.
type Book struct {
	now      time.Time // the latest that it has been told
	outside  time.Duration
	networks map[string]*Network
	nics     map[NIC]*nic
	cells    map[place]*cell
	segments map[Segment]*outsiders
	timers   timers
	dirty    []*cell // whose claims have changed since they were judged
	out      []Change
}

// nic is what a book knows of a NIC.
type nic struct {
	id       NIC
	network  *Network // nil where it has no settings
	absent   bool
	turned   time.Time // when it last went or came back
	claims   []*claim  // by place
	refusals Refusals
}

// cell is one address in one segment.
type cell struct {
	place    place
	claims   []*claim // by NIC
	outside  []*outsider
	shared   bool
	dirty    bool
	conflict *Conflict // that was told
}

// outsiders are the claims from outside in one segment, the longest unheard first.
type outsiders struct {
	segment Segment
	list    *list.List // of *outsider
	timer   timer
}

// New makes a book that knows networks, and nobody in them.
func New(s Settings) (*Book, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	b := &Book{
		outside: s.Outside, networks: map[string]*Network{}, nics: map[NIC]*nic{},
		cells: map[place]*cell{}, segments: map[Segment]*outsiders{},
	}
	if b.outside == 0 {
		b.outside = DefaultOutside
	}
	for name, n := range s.Networks {
		b.networks[name] = n.clone()
	}
	return b, nil
}

// Replay makes the book that has been told all the events, one after the other.
func Replay(s Settings, events []Event) (*Book, error) {
	b, err := New(s)
	if err != nil {
		return nil, err
	}
	for i := range events {
		b.Apply(events[i])
	}
	return b, nil
}

// Apply takes an event, and says what it changes. What was due by its time changes first, as Expire does it: an event
// from a clock that is far ahead ends what others have not ended yet.
func (b *Book) Apply(e Event) []Change {
	b.out = nil
	e.At, e.Until = plain(e.At), plain(e.Until)
	if err := e.check(); err != nil {
		b.refuse(&e, e.Segment, ReasonMalformed, err.Error())
		return b.out
	}
	if e.At.After(b.now) {
		b.now = e.At
	}
	b.expire()
	switch e.Kind {
	case EventClaim:
		b.claim(&e)
	case EventWithdraw:
		b.withdraw(&e)
	case EventOutside:
		b.hearOutside(&e)
	case EventApprove, EventDeny:
		b.decide(&e)
	case EventGone:
		b.gone(&e)
	case EventAbsent, EventPresent:
		b.presence(&e)
	case EventNetwork:
		b.setNetwork(&e, e.Settings.clone())
	case EventNetworkGone:
		b.setNetwork(&e, nil)
	}
	b.settle(e.At)
	b.expire() // what came late may be over already
	return b.out
}

// claim takes what says that a NIC has an address.
func (b *Book) claim(e *Event) {
	at := place{e.Segment, e.Addr}
	if !e.Provenance.Firm() {
		e.Source = ""
	}
	if e.Provenance != DHCP {
		e.Until = time.Time{}
	}
	c := b.find(at, e.NIC)
	if c != nil {
		if ev := c.by(e.Provenance, e.Source); ev != nil {
			b.again(c, ev, e)
			return
		}
	}
	n := b.nic(e.NIC)
	unfit := n.network.unfit(e.Addr)
	if reason := b.unwelcome(n, c, at, e, unfit); reason != "" && !(reason == ReasonLimit && b.makeRoom(n, c, at, e)) {
		b.refuse(e, e.Segment, reason, "")
		return
	}
	if c == nil {
		c = b.open(n, at)
	}
	if len(c.evidence) == 0 {
		c.since = e.At
	}
	if e.Provenance.Firm() {
		if c.denied() {
			c.decision = Decision{} // who declares knows better
		}
		if unfit != "" {
			b.refuse(e, e.Segment, unfit, "")
		}
		c.reason = unfit
	}
	c.backdate(e.At)
	c.add(Evidence{Provenance: e.Provenance, Source: e.Source, MAC: e.MAC, Place: e.Place, Since: e.At, Seen: e.At, Until: e.Until})
	b.touch(c.cell)
	b.schedule(c)
}

// unwelcome says why a book does not take new evidence; "" is that it does. c is the claim that it would
// be added to, if there is one. A declaration that is unfit is kept, since a change of its network may make it fit.
func (b *Book) unwelcome(n *nic, c *claim, at place, e *Event, unfit Reason) Reason {
	is, becomes := idle, classOf(e.Provenance)
	if c != nil {
		is = c.class()
	}
	if !e.Provenance.Firm() {
		switch {
		case unfit != "":
			return unfit
		case c != nil && c.denied():
			return ReasonDenied
		case n.network.modeOf(e.Addr) == ModeDeclared && !b.cells[at].firmly(): // be it for this NIC or another
			return ReasonDeclaredOnly
		}
	} else if c != nil && c.declarations() >= maxSources {
		return ReasonLimit
	}
	if becomes > is && !n.room(c, nil, at, becomes) {
		return ReasonLimit
	}
	return ""
}

// makeRoom forgets, for a sighting of a NIC that is at its limit, what the NIC was heard with the longest ago, if that is Quiet: the
// temporary addresses of a VM would be the limit one day. What a person has approved stays. It is false if there is nothing to forget.
func (b *Book) makeRoom(n *nic, c *claim, at place, e *Event) bool {
	if classOf(e.Provenance) != observed || n.absent {
		return false
	}
	var last *claim
	var heard time.Time
	for _, o := range n.claims {
		if o == c || o.class() != observed || o.approved() || o.at().Segment != at.Segment || family(o.at().Addr) != family(at.Addr) {
			continue
		}
		seen := o.latest().Seen
		if n.turned.After(seen) {
			seen = n.turned
		}
		if e.At.Sub(seen) >= Quiet && (last == nil || seen.Before(heard)) {
			last, heard = o, seen
		}
	}
	if last == nil || !n.room(c, last, at, observed) {
		return false
	}
	last.evidence = nil
	b.lessen(last, observed, e.At)
	return true
}

// again takes what is known already. This is most of what a book is told, so it makes nothing.
func (b *Book) again(c *claim, ev *Evidence, e *Event) {
	if e.At.Before(ev.Since) {
		ev.Since = e.At
		c.backdate(e.At)
		b.touch(c.cell)
	}
	if e.At.Before(ev.Seen) {
		return
	}
	ev.Seen = e.At
	if e.Place != "" {
		ev.Place = e.Place
	}
	if e.MAC != (MAC{}) && e.MAC != ev.MAC {
		ev.MAC = e.MAC
		b.touch(c.cell)
	}
	if e.Until != ev.Until {
		ev.Until = e.Until
		b.schedule(c)
	}
	if c.cell.shared && c.told.role != Holder {
		b.touch(c.cell)
	}
}

// withdraw ends what a source says. What came later than the withdrawal stands.
func (b *Book) withdraw(e *Event) {
	if !e.Provenance.Firm() {
		e.Source = ""
	}
	c := b.find(place{e.Segment, e.Addr}, e.NIC)
	if c == nil {
		return
	}
	was := c.class()
	gone := c.drop(func(v *Evidence) bool {
		return v.Provenance == e.Provenance && v.Source == e.Source && !v.Seen.After(e.At)
	})
	if !gone {
		return
	}
	if e.Provenance == DHCP {
		c.endLease(e.At)
	}
	b.lessen(c, was, e.At)
}

// endLease drops what was seen while the lease ran: it was seen of the lease. What is seen later stands for itself.
// Else a pool's address would stay with who had it first, for it was seen with it once.
func (c *claim) endLease(end time.Time) {
	c.drop(func(v *Evidence) bool { return v.Provenance.sighted() && !v.Seen.After(end) })
}

// lessen sees to a claim that has lost evidence. What is left counts as something else, perhaps, and must have room as such.
func (b *Book) lessen(c *claim, was class, at time.Time) {
	is := c.class()
	if is != firm {
		c.reason = ""
	}
	if is != idle && is != was && !c.nic.room(c, nil, c.at(), is) {
		b.refuse(&Event{At: at, NIC: c.nic.id, Addr: c.at().Addr, Provenance: c.evidence[0].Provenance, MAC: c.mac(), Place: c.latest().Place}, c.at().Segment, ReasonLimit, "")
		c.evidence = nil
		is = idle
	}
	b.touch(c.cell)
	b.schedule(c)
	if is != idle {
		return
	}
	if c.decision.At.IsZero() {
		b.remove(c, at)
		return
	}
	b.trim(c.nic, at)
}

// trim forgets the oldest decisions about what the NIC does not claim, where there are too many.
func (b *Book) trim(n *nic, at time.Time) {
	var oldest *claim
	count := 0
	for _, c := range n.claims {
		if c.class() != idle {
			continue
		}
		count++
		if oldest == nil || c.decision.At.Before(oldest.decision.At) {
			oldest = c
		}
	}
	if count > maxIdle {
		b.remove(oldest, at)
	}
}

// room says whether a NIC may have one claim more of a class, where c, if there is one, becomes it, and without, if there is one, goes.
func (n *nic) room(c, without *claim, at place, becomes class) bool {
	all, alike := 0, 0
	for _, o := range n.claims {
		if o == c || o == without || o.class() != becomes {
			continue
		}
		all++
		if o.at().Segment == at.Segment && family(o.at().Addr) == family(at.Addr) {
			alike++
		}
	}
	switch becomes {
	case firm:
		return all < maxFirm
	case leased:
		return all < maxLeases
	}
	limit := linkLocals
	if !linkLocal(at.Addr) {
		limit = n.network.limit()
	}
	return alike < limit && all < maxObserved
}

// family is what is counted as one.
func family(a netip.Addr) int {
	switch {
	case a.Is4():
		return 4
	case linkLocal(a):
		return 0
	}
	return 6
}

// decide takes a person's word.
func (b *Book) decide(e *Event) {
	e.Provenance = 0
	var found []*claim
	if n := b.nics[e.NIC]; n != nil {
		for _, c := range n.claims {
			if c.at().Addr == e.Addr && (e.Segment == Segment{} || e.Segment == c.at().Segment) {
				found = append(found, c)
			}
		}
	}
	switch {
	case len(found) > 0:
	case e.Elsewhere: // where the NIC claimed it then
		found = append(found, b.open(b.nic(e.NIC), place{e.Segment, e.Addr}))
	default:
		b.refuse(e, e.Segment, ReasonNobody, "")
	}
	for _, c := range found {
		switch {
		case e.Kind == EventDeny && c.class() == firm:
			b.refuse(e, c.at().Segment, ReasonDeclared, "")
			continue
		case c.decision.At.After(e.At):
			continue
		}
		was := c.class()
		c.decision = Decision{Denied: e.Kind == EventDeny, By: e.By, At: e.At}
		b.touch(c.cell)
		switch {
		case c.denied():
			c.evidence = nil
			b.lessen(c, was, e.At)
		case was == idle:
			b.trim(c.nic, e.At)
		}
	}
}

// gone forgets a NIC.
func (b *Book) gone(e *Event) {
	n := b.nics[e.NIC]
	if n == nil {
		return
	}
	for len(n.claims) > 0 {
		b.remove(n.claims[len(n.claims)-1], e.At)
	}
	delete(b.nics, e.NIC)
}

// presence stops and starts the clock of silence: who is not there is not heard. A lease runs on, as its server has it.
func (b *Book) presence(e *Event) {
	n := b.nic(e.NIC)
	if absent := e.Kind == EventAbsent; absent == n.absent || e.At.Before(n.turned) {
		return
	}
	n.absent, n.turned = !n.absent, e.At
	for _, c := range n.claims {
		b.schedule(c)
	}
}

// setNetwork judges all NICs of a network anew.
func (b *Book) setNetwork(e *Event, now *Network) {
	b.networks[e.Network] = now
	if now == nil {
		delete(b.networks, e.Network)
	}
	for _, id := range b.NICs() {
		if id.Network != e.Network {
			continue
		}
		n := b.nics[id]
		n.network = now
		for _, c := range slices.Clone(n.claims) {
			if now != nil && now.modeOf(c.at().Addr) == ModeApproved && c.told.role == Holder && c.class() != firm && !c.approved() {
				c.decision = Decision{By: ByChange, At: e.At}
			}
			b.refit(c, e.At)
			b.touch(c.cell)
			b.schedule(c)
		}
	}
}

// refit sees whether a claim's address still is one that a NIC may have.
func (b *Book) refit(c *claim, at time.Time) {
	unfit, was := c.nic.network.unfit(c.at().Addr), c.class()
	if unfit != "" && was != idle && unfit != c.reason {
		best := c.evidence[0]
		b.refuse(&Event{At: at, NIC: c.nic.id, Addr: c.at().Addr, Provenance: best.Provenance, MAC: c.mac(), Place: best.Place}, c.at().Segment, unfit, "")
	}
	if was == firm {
		c.reason = unfit
	}
	if unfit != "" && c.drop(func(v *Evidence) bool { return !v.Provenance.Firm() }) {
		b.lessen(c, was, at)
	}
}

// nic finds a NIC, or begins to know it.
func (b *Book) nic(id NIC) *nic {
	n := b.nics[id]
	if n == nil {
		n = &nic{id: id, network: b.networks[id.Network]}
		b.nics[id] = n
	}
	return n
}

func (b *Book) find(at place, id NIC) *claim {
	x := b.cells[at]
	if x == nil {
		return nil
	}
	if i, ok := slices.BinarySearchFunc(x.claims, id, func(c *claim, id NIC) int { return c.nic.id.compare(id) }); ok {
		return x.claims[i]
	}
	return nil
}

// open makes a claim without evidence.
func (b *Book) open(n *nic, at place) *claim {
	c := &claim{nic: n, cell: b.cell(at)}
	c.timer = timer{index: -1, claim: c}
	i, _ := slices.BinarySearchFunc(n.claims, at, func(c *claim, at place) int { return c.at().compare(at) })
	n.claims = slices.Insert(n.claims, i, c)
	i, _ = slices.BinarySearchFunc(c.cell.claims, n.id, func(c *claim, id NIC) int { return c.nic.id.compare(id) })
	c.cell.claims = slices.Insert(c.cell.claims, i, c)
	return c
}

func (b *Book) cell(at place) *cell {
	x := b.cells[at]
	if x == nil {
		x = &cell{place: at}
		b.cells[at] = x
	}
	return x
}

// remove forgets a claim.
func (b *Book) remove(c *claim, at time.Time) {
	b.tell(c, "", at)
	b.timers.stop(&c.timer)
	c.nic.claims = slices.DeleteFunc(c.nic.claims, func(o *claim) bool { return o == c })
	c.cell.claims = slices.DeleteFunc(c.cell.claims, func(o *claim) bool { return o == c })
	b.touch(c.cell)
}

// firmly says whether the address is held by declaration.
func (x *cell) firmly() bool {
	return x != nil && slices.ContainsFunc(x.claims, func(c *claim) bool { return c.class() == firm && c.reason == "" })
}
