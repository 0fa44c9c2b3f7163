package learn

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// NICs are those that the book knows, also those that hold nothing, in order.
func (b *Book) NICs() []NIC { return slices.SortedFunc(maps.Keys(b.nics), NIC.compare) }

// Bindings are the addresses that a NIC holds, by segment and address.
func (b *Book) Bindings(id NIC) []Claim {
	return b.claimsOf(id, func(c *claim) bool { return c.told.role == Holder })
}

// Claims are the addresses that a NIC holds, is aside with, or waits for.
func (b *Book) Claims(id NIC) []Claim {
	return b.claimsOf(id, func(c *claim) bool { return c.told.role != "" })
}

func (b *Book) claimsOf(id NIC, such func(*claim) bool) (out []Claim) {
	if n := b.nics[id]; n != nil {
		for _, c := range n.claims {
			if such(c) {
				out = append(out, c.view())
			}
		}
	}
	return out
}

// Answer is who has an address.
type Answer struct {
	Holder  *Claim    `json:",omitempty"` // nil where none has
	Aside   []Claim   `json:",omitempty"` // who would be next first
	Waiting []Claim   `json:",omitempty"` // for approval
	Outside []Outside `json:",omitempty"` // by MAC
	// Shared: the address may move, so those aside are in no conflict.
	Shared bool `json:",omitempty"`
}

// Outside is a claim from outside the cluster.
type Outside struct {
	MAC         MAC
	Place       string `json:",omitempty"`
	Since, Seen time.Time
}

// Who says who has an address in a segment.
func (b *Book) Who(s Segment, a netip.Addr) (w Answer) {
	x := b.cells[place{s, a}]
	if x == nil {
		return w
	}
	w.Shared = x.shared
	var eligible, rest []*claim
	for _, c := range x.claims {
		switch {
		case c.told.role == Holder:
			v := c.view()
			w.Holder = &v
		case c.told.role == Pending:
			w.Waiting = append(w.Waiting, c.view())
		case c.told.role == Beside && c.eligible() && (!x.shared || c.shares()):
			eligible = append(eligible, c)
		case c.told.role == Beside:
			rest = append(rest, c)
		}
	}
	slices.SortFunc(eligible, func(c, o *claim) int { return c.compare(o, x.shared) })
	for _, c := range append(eligible, rest...) {
		w.Aside = append(w.Aside, c.view())
	}
	for _, o := range x.outside {
		if !x.inside(o.mac) {
			w.Outside = append(w.Outside, Outside{MAC: o.mac, Place: o.at, Since: o.since, Seen: o.seen})
		}
	}
	return w
}

// Conflicts are those that there are, by segment and address, as of now: with places and times that no change told.
func (b *Book) Conflicts() (out []Conflict) {
	for at := range b.cells {
		if c := b.Conflict(at.Segment, at.Addr); c != nil {
			out = append(out, *c)
		}
	}
	slices.SortFunc(out, func(c, o Conflict) int {
		return place{c.Segment, c.Addr}.compare(place{o.Segment, o.Addr})
	})
	return out
}

// Conflict is the one about an address; nil is that there is none.
func (b *Book) Conflict(s Segment, a netip.Addr) *Conflict {
	x := b.cells[place{s, a}]
	if x == nil || x.conflict == nil {
		return nil
	}
	for _, c := range x.claims {
		if c.told.role == Holder {
			return x.dispute(c)
		}
	}
	return nil
}

// Segments are those in which a NIC claims an address, or has a decision about it.
func (b *Book) Segments(id NIC, a netip.Addr) (out []Segment) {
	if n := b.nics[id]; n != nil {
		for _, c := range n.claims {
			if c.at().Addr == a {
				out = append(out, c.at().Segment)
			}
		}
	}
	return out
}

// Decided is a person's word on an address that a NIC does not claim.
type Decided struct {
	Segment Segment
	Addr    netip.Addr
	Decision
}

// Decisions are those about addresses that a NIC does not claim now, by segment and address. Of those that it claims, Claim.Approved
// says it.
func (b *Book) Decisions(id NIC) (out []Decided) {
	if n := b.nics[id]; n != nil {
		for _, c := range n.claims {
			if c.class() == idle {
				out = append(out, Decided{c.at().Segment, c.at().Addr, c.decision})
			}
		}
	}
	return out
}

// Waiting are the claims that want a person's approval, by NIC, segment and address.
func (b *Book) Waiting() (out []Claim) {
	for _, id := range b.NICs() {
		out = append(out, b.claimsOf(id, func(c *claim) bool { return c.told.role == Pending })...)
	}
	return out
}

// Refused says what a NIC was refused, and how often.
func (b *Book) Refused(id NIC) Refusals {
	if n := b.nics[id]; n != nil {
		return n.refusals.clone()
	}
	return Refusals{}
}

// Unfit are the declarations for a NIC that stand but bind nothing, and why.
func (b *Book) Unfit(id NIC) (out []Refusal) {
	if n := b.nics[id]; n != nil {
		for _, c := range n.claims {
			if e := c.latest(); c.reason != "" {
				out = append(out, Refusal{
					Segment: c.at().Segment, Addr: c.at().Addr, Reason: c.reason, Provenance: c.evidence[0].Provenance,
					MAC: c.mac(), Place: e.Place, At: e.Seen, Count: 1,
				})
			}
		}
	}
	return out
}
