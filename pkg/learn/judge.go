package learn

import (
	"cmp"
	"slices"
	"time"
)

// touch has an address judged anew.
func (b *Book) touch(x *cell) {
	if !x.dirty {
		x.dirty = true
		b.dirty = append(b.dirty, x)
	}
}

// settle judges what was touched.
func (b *Book) settle(at time.Time) {
	for _, x := range b.dirty {
		b.judge(x, at)
		x.dirty = false
		if len(x.claims) == 0 && len(x.outside) == 0 {
			delete(b.cells, x.place)
		}
	}
	clear(b.dirty)
	b.dirty = b.dirty[:0]
}

// judge gives every claim of an address its role, and tells what is new. It looks at nothing but the claims.
func (b *Book) judge(x *cell, at time.Time) {
	b.dropUndeclared(x, at)
	wasShared := x.shared
	x.shared = x.shares()
	var holder *claim
	for _, c := range x.claims {
		switch {
		case !c.eligible():
			c.standing = time.Time{}
			continue
		case c.standing.IsZero():
			c.standing = at
		}
		if x.shared && !c.shares() {
			continue
		}
		if holder == nil || c.compare(holder, x.shared) < 0 {
			holder = c
		}
	}
	// Who loses the address is told before who gains it, so that whoever follows never has two.
	for _, c := range x.claims {
		if c != holder {
			b.tell(c, c.besides(), at)
		}
	}
	if holder != nil {
		b.tell(holder, Holder, at)
	}
	b.tellConflict(x, holder, at)
	for _, c := range x.claims {
		if x.shared || wasShared {
			b.schedule(c) // those beside the holder last less long
		}
	}
}

// shares says whether the address may move: the network of one that can hold it says so, and it is declared for nobody of a network that
// does not. Else a guest of another network in the same VLAN could keep it from moving by claiming it.
func (x *cell) shares() bool {
	some := false
	for _, c := range x.claims {
		switch {
		case !c.eligible():
		case c.shares():
			some = true
		case c.class() == firm:
			return false
		}
	}
	return some
}

// shares says whether the claim is to an address that may move, as its network has it. While it does, nobody else holds it.
func (c *claim) shares() bool { return c.nic.network != nil && c.nic.network.shares(c.at().Addr) }

// dropUndeclared forgets what mode Declared does not take: sightings of an address that nobody has declared. Those of a
// declared address stay, beside it, for somebody should know of them.
func (b *Book) dropUndeclared(x *cell, at time.Time) {
	if x.firmly() {
		return
	}
	for _, c := range slices.Clone(x.claims) {
		was := c.class()
		if was != observed && was != leased || c.nic.network.modeOf(x.place.Addr) != ModeDeclared {
			continue
		}
		best := c.evidence[0]
		b.refuse(&Event{At: at, NIC: c.nic.id, Addr: x.place.Addr, Provenance: best.Provenance, MAC: c.mac(), Place: best.Place}, x.place.Segment, ReasonDeclaredOnly, "")
		c.evidence = nil
		b.lessen(c, was, at)
	}
}

// eligible says whether the claim can hold its address.
func (c *claim) eligible() bool {
	switch c.class() {
	case idle:
		return false
	case firm:
		return c.reason == ""
	}
	switch c.nic.network.modeOf(c.at().Addr) {
	case ModeObserved:
		return true
	case ModeApproved:
		return c.approved()
	}
	return false
}

// besides is the role of a claim that does not hold the address.
func (c *claim) besides() Role {
	switch {
	case c.class() == idle || c.reason != "":
		return ""
	case c.class() != firm && c.nic.network.modeOf(c.at().Addr) == ModeApproved && !c.approved():
		return Pending
	}
	return Beside
}

// rank is by whose word a claim holds: a person's, a declaration's, or what was seen.
func (c *claim) rank() Provenance {
	if p := c.evidence[0].Provenance; p.Firm() {
		return p
	}
	return 0
}

// compare is negative where c comes before o. Nothing that is observed comes before a declaration. Then the oldest comes
// first, or, of shared addresses, who announced it last.
func (c *claim) compare(o *claim, shared bool) int {
	if d := cmp.Compare(o.rank(), c.rank()); d != 0 {
		return d
	}
	if shared {
		if d := o.announced().Compare(c.announced()); d != 0 {
			return d
		}
	}
	if c.rank() > 0 {
		if d := c.firmSince().Compare(o.firmSince()); d != 0 {
			return d
		}
	}
	return cmp.Or(c.standing.Compare(o.standing), c.since.Compare(o.since), c.nic.id.compare(o.nic.id))
}

// tell says what has become of a claim, if anything has.
func (b *Book) tell(c *claim, role Role, at time.Time) {
	var now told
	if role != "" {
		now = told{role: role, mac: c.mac(), provenance: c.evidence[0].Provenance, since: c.since, approved: c.decision}
	}
	was := c.told
	if now == was {
		return
	}
	kind := Dropped
	switch {
	case role == Holder && was.role == Beside:
		kind = Promoted
	case role == Holder:
		kind = Bound
	case role == Beside:
		kind = Aside
	case role == Pending:
		kind = Waiting
	case was.role == Holder:
		kind = Unbound
	}
	v := c.view()
	c.told = now
	if role != "" { // else what it was is of use
		v = c.view()
	}
	b.out = append(b.out, Change{Kind: kind, At: at, Claim: v})
}

// tellConflict says how the conflict about an address stands, if it stands otherwise than before.
func (b *Book) tellConflict(x *cell, holder *claim, at time.Time) {
	now, was := x.dispute(holder), x.conflict
	x.conflict = now
	c := Change{At: at, Claim: Claim{Segment: x.place.Segment, Addr: x.place.Addr}}
	switch {
	case now == nil && was == nil:
		return
	case now == nil:
		c.Kind, c.Conflict = ConflictEnded, was
	case was == nil:
		c.Kind, c.Conflict = ConflictBegan, now.clone()
	case was.same(now):
		return
	default:
		c.Kind, c.Conflict = ConflictChanged, now.clone()
	}
	b.out = append(b.out, c)
}

// dispute is the conflict about an address as it is now; nil is that there is none.
func (x *cell) dispute(holder *claim) *Conflict {
	if holder == nil || x.shared || len(x.claims)+len(x.outside) < 2 {
		return nil
	}
	d := &Conflict{Segment: x.place.Segment, Addr: x.place.Addr, Kind: ConflictOutside}
	var rest []Claimant
	declared := 0
	for _, c := range x.claims {
		if c.told.role == "" {
			continue
		}
		if c.class() == firm {
			declared++
		}
		last := c.latest()
		who := Claimant{NIC: c.nic.id, Role: c.told.role, MAC: c.told.mac, Provenance: c.told.provenance, Since: c.told.since, Seen: last.Seen, Place: last.Place}
		if c == holder {
			d.Claimants = append(d.Claimants, who)
			continue
		}
		d.Kind = ConflictInside
		rest = append(rest, who)
	}
	if declared > 1 {
		d.Kind = ConflictDeclared
	}
	for _, o := range x.outside {
		if !x.inside(o.mac) {
			rest = append(rest, Claimant{Outside: true, MAC: o.mac, Since: o.since, Seen: o.seen, Place: o.at})
		}
	}
	if len(rest) == 0 {
		return nil
	}
	slices.SortFunc(rest, Claimant.compare)
	d.Claimants = append(d.Claimants, rest...)
	// It is one since two of those that claim the address now have done so.
	first, second := d.Claimants[0].Since, rest[0].Since
	if second.Before(first) {
		second = first
		if len(rest) > 1 && rest[1].Since.Before(first) {
			second = rest[1].Since
		}
	}
	d.Since = second
	return d
}

// inside says whether a MAC is that of a NIC which claims the address. What such a one sends may come back by the uplink,
// and may come from there before it is known whose it is.
func (x *cell) inside(m MAC) bool {
	return slices.ContainsFunc(x.claims, func(c *claim) bool {
		return slices.ContainsFunc(c.evidence, func(e Evidence) bool { return e.MAC == m })
	})
}
