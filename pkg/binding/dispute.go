package binding

import (
	"time"

	"github.com/homeport-cni/homeport/pkg/learn"
)

// tellEvery is how often it is told at most that a conflict has changed: who claims an address from ever other MACs changes it with each
// frame. That there is one, and that it is over, is told at once.
const tellEvery = 10 * time.Second

// dispute is of a conflict that has changed.
type dispute struct {
	told time.Time     // that it has, last
	next *learn.Change // that is still to be told; nil: all is
}

// rests says whether a conflict has changed so shortly ago that it is told later.
func (d *dispute) rests(now time.Time) bool {
	since := now.Sub(d.told)
	return since >= 0 && since < tellEvery
}

// tellLater keeps a change of a conflict for later if it is too soon for it.
func (k *Keeper) tellLater(at Key, c *learn.Change) bool {
	d, now := k.disputes[at], k.cfg.Now()
	if d != nil && d.rests(now) {
		d.next = c
		return true
	}
	k.disputes[at] = &dispute{told: now}
	return false
}

// tellDisputes tells how conflicts are that have changed too often to be told each time, and when to come again; the zero time is never.
func (k *Keeper) tellDisputes() (next time.Time) {
	now := k.cfg.Now()
	for at, d := range k.disputes {
		switch {
		case d.rests(now):
			if due := d.told.Add(tellEvery); d.next != nil && (next.IsZero() || due.Before(next)) {
				next = due
			}
		case d.next == nil:
			delete(k.disputes, at)
		default:
			c := *d.next
			delete(k.disputes, at)
			k.take([]learn.Change{c})
		}
	}
	return next
}
