package learn

import (
	"cmp"
	"container/heap"
	"time"
)

// timer is when a claim, or the longest unheard claim from outside in a segment, is due. What is seen again is due later:
// that is found out when the timer ends, so that a sighting need not move it.
type timer struct {
	due     time.Time
	index   int // in timers; -1 is that it does not run
	claim   *claim
	outside *outsiders
}

// timers is a heap, the earliest first.
type timers []*timer

// Len, Less, Swap, Push and Pop are for container/heap.
func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].compare(t[j]) < 0 }

// Swap is for container/heap.
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}

// Push is for container/heap.
func (t *timers) Push(x any) {
	e := x.(*timer)
	e.index = len(*t)
	*t = append(*t, e)
}

// Pop is for container/heap.
func (t *timers) Pop() any {
	last := (*t)[len(*t)-1]
	(*t)[len(*t)-1] = nil
	*t = (*t)[:len(*t)-1]
	last.index = -1
	return last
}

// set has a timer end at a time, or not at all. One that ends too early is left to.
func (t *timers) set(e *timer, due time.Time) {
	switch {
	case due.IsZero():
		t.stop(e)
	case e.index < 0:
		e.due = due
		heap.Push(t, e)
	case due.Before(e.due):
		e.due = due
		heap.Fix(t, e.index)
	}
}

func (t *timers) stop(e *timer) {
	if e.index >= 0 {
		heap.Remove(t, e.index)
	}
}

// compare has what is due at one time come in an order that does not tell what happened before.
func (e *timer) compare(o *timer) int {
	switch d := e.due.Compare(o.due); {
	case d != 0:
		return d
	case e.claim != nil && o.claim != nil:
		return cmp.Or(e.claim.at().compare(o.claim.at()), e.claim.nic.id.compare(o.claim.nic.id))
	case e.claim != nil:
		return -1
	case o.claim != nil:
		return 1
	}
	return e.outside.segment.compare(o.outside.segment)
}

func (b *Book) schedule(c *claim) { b.timers.set(&c.timer, b.due(c)) }

// due is when the first evidence of a claim ends; zero is never.
func (b *Book) due(c *claim) (first time.Time) {
	for i := range c.evidence {
		if end := c.ends(&c.evidence[i]); !end.IsZero() && (first.IsZero() || end.Before(first)) {
			first = end
		}
	}
	return first
}

// ends is when evidence counts no more; zero is that it does until something is said.
func (c *claim) ends(e *Evidence) time.Time {
	switch {
	case e.Provenance == DHCP:
		return e.Until
	case e.Provenance.Firm() || c.nic.absent:
		return time.Time{}
	}
	silence := c.nic.network.Expiry
	if silence == 0 && c.cell.shared && c.told.role == Beside {
		silence = SharedExpiry
	}
	if silence == 0 {
		return time.Time{}
	}
	from := e.Seen
	if c.nic.turned.After(from) {
		from = c.nic.turned
	}
	return from.Add(silence)
}

// Next is when Expire has something to do; the zero time is that it has not.
func (b *Book) Next() time.Time {
	for len(b.timers) > 0 {
		e := b.timers[0]
		due := b.dueOf(e)
		if due.Equal(e.due) {
			return due
		}
		e.due = due
		if due.IsZero() {
			b.timers.stop(e)
			continue
		}
		heap.Fix(&b.timers, 0)
	}
	return time.Time{}
}

func (b *Book) dueOf(e *timer) time.Time {
	if e.claim != nil {
		return b.due(e.claim)
	}
	return b.outsideDue(e.outside)
}

// Expire ends what is due at a time, one after the other, and says what that changes. Whether, and how often, it is called
// makes no difference to what an event finds: Apply does the same first.
func (b *Book) Expire(now time.Time) []Change {
	b.out = nil
	if now = plain(now); now.After(b.now) {
		b.now = now
	}
	b.expire()
	return b.out
}

func (b *Book) expire() {
	for {
		if len(b.timers) == 0 || b.timers[0].due.After(b.now) {
			return
		}
		due := b.Next()
		if due.IsZero() || due.After(b.now) {
			return
		}
		// What is due at one time ends at once, whichever timer comes first.
		for b.Next().Equal(due) && !due.IsZero() {
			if e := b.timers[0]; e.claim != nil {
				b.end(e.claim, due)
			} else {
				b.endOutside(e.outside, due)
			}
		}
		b.settle(due)
	}
}

// end drops the evidence of a claim that is over.
func (b *Book) end(c *claim, at time.Time) {
	was := c.class()
	var lease time.Time
	c.drop(func(e *Evidence) bool {
		end := c.ends(e)
		over := !end.IsZero() && !end.After(at)
		if over && e.Provenance == DHCP {
			lease = end
		}
		return over
	})
	if !lease.IsZero() {
		c.endLease(lease)
	}
	b.lessen(c, was, at)
}
