package learn

import "time"

// Rewind takes a book that is ahead of now back to it, and says what that changes: its clock was ahead, and has been set. Else leases
// would be over as they are granted, and nothing that was said with the old time could be taken back, until now is there again.
//
// What was said at a time that is yet to come was said just before now, in the order that it came in. A lease that was granted or
// renewed then ends as long after now as it was to last. What is older stays as it is: which clock that was by nobody knows.
func (b *Book) Rewind(now time.Time) []Change {
	b.out = nil
	now = plain(now)
	last := b.now
	if !last.After(now) {
		return nil
	}
	b.now = now
	back := func(t *time.Time) {
		if t.After(now) {
			*t = now.Add(-max(last.Sub(*t), 0) / time.Second) // a second is a nanosecond
		}
	}
	for _, n := range b.nics {
		back(&n.turned)
		for i := range n.refusals.Last {
			back(&n.refusals.Last[i].At)
		}
		for _, c := range n.claims {
			c.back(now, last, back)
			b.touch(c.cell)
			b.schedule(c)
		}
	}
	for _, s := range b.segments {
		for e := s.list.Front(); e != nil; {
			o := e.Value.(*outsider)
			e = e.Next()
			back(&o.since)
			back(&o.seen)
			s.sink(o)
			b.touch(o.cell)
		}
		b.timers.set(&s.timer, b.outsideDue(s))
	}
	b.settle(now)
	return b.out
}

// back takes a claim from last to now.
func (c *claim) back(now, last time.Time, back func(*time.Time)) {
	back(&c.since)
	back(&c.standing)
	back(&c.decision.At)
	for i := range c.evidence {
		e := &c.evidence[i]
		if e.Seen.After(now) && !e.Until.IsZero() {
			e.Until = e.Until.Add(now.Sub(last))
		}
		back(&e.Since)
		back(&e.Seen)
	}
}
