package learn

import (
	"container/list"
	"slices"
	"time"
)

// outsider is a claim from outside: an address that was heard from a MAC of no NIC.
type outsider struct {
	cell  *cell
	mac   MAC
	at    string
	since time.Time
	seen  time.Time
	order *list.Element
}

// hearOutside remembers a claim from outside. It never binds; it is of interest where a NIC holds the address, now or
// later.
func (b *Book) hearOutside(e *Event) {
	if r := (*Network)(nil).unfit(e.Addr); r != ReasonNoNetwork {
		return // no NIC can hold it
	}
	at := place{e.Segment, e.Addr}
	if x := b.cells[at]; x != nil {
		for _, o := range x.outside {
			if o.mac == e.MAC {
				b.againOutside(o, e)
				return
			}
		}
	}
	s := b.segments[e.Segment]
	if s == nil {
		s = &outsiders{segment: e.Segment, list: list.New()}
		s.timer = timer{index: -1, outside: s}
		b.segments[e.Segment] = s
	}
	o := &outsider{cell: b.cell(at), mac: e.MAC, at: e.Place, since: e.At, seen: e.At}
	o.order = s.list.PushBack(o)
	o.cell.outside = append(o.cell.outside, o)
	slices.SortFunc(o.cell.outside, func(a, b *outsider) int { return slices.Compare(a.mac[:], b.mac[:]) })
	b.touch(o.cell)
	s.sink(o)
	if len(o.cell.outside) > maxOutsideOne {
		b.forget(slices.MinFunc(o.cell.outside, (*outsider).compare))
	}
	if s.list.Len() > maxOutside {
		b.forget(s.list.Front().Value.(*outsider))
	}
	b.timers.set(&s.timer, b.outsideDue(s))
}

func (b *Book) againOutside(o *outsider, e *Event) {
	if e.At.Before(o.since) {
		o.since = e.At
		b.touch(o.cell)
	}
	if e.At.Before(o.seen) {
		return
	}
	o.seen = e.At
	if e.Place != "" {
		o.at = e.Place
	}
	s := b.segments[o.cell.place.Segment]
	s.list.MoveToBack(o.order)
	s.sink(o)
}

// sink moves the last of the list to its place. Events come almost in order, so that is near.
func (s *outsiders) sink(o *outsider) {
	before := o.order.Prev()
	for before != nil && before.Value.(*outsider).compare(o) > 0 {
		before = before.Prev()
	}
	switch {
	case before == nil:
		s.list.MoveToFront(o.order)
	case before != o.order.Prev():
		s.list.MoveAfter(o.order, before)
	}
}

// compare orders by how long each is unheard.
func (o *outsider) compare(p *outsider) int {
	if d := o.seen.Compare(p.seen); d != 0 {
		return d
	}
	if d := o.cell.place.Addr.Compare(p.cell.place.Addr); d != 0 {
		return d
	}
	return slices.Compare(o.mac[:], p.mac[:])
}

// forget drops a claim from outside.
func (b *Book) forget(o *outsider) {
	s := b.segments[o.cell.place.Segment]
	s.list.Remove(o.order)
	o.cell.outside = slices.DeleteFunc(o.cell.outside, func(p *outsider) bool { return p == o })
	b.touch(o.cell)
	if s.list.Len() == 0 {
		b.timers.stop(&s.timer)
		delete(b.segments, o.cell.place.Segment)
	}
}

func (b *Book) outsideDue(s *outsiders) time.Time {
	first := s.list.Front()
	if first == nil {
		return time.Time{}
	}
	return first.Value.(*outsider).seen.Add(b.outside)
}

func (b *Book) endOutside(s *outsiders, at time.Time) {
	for s.list.Len() > 0 && !b.outsideDue(s).After(at) {
		b.forget(s.list.Front().Value.(*outsider))
	}
}
