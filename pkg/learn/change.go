package learn

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// ChangeKind says what a change is.
type ChangeKind string

// The kinds. The last of Bound, Promoted, Aside and Waiting that was told of a NIC and an address is what it is, until
// Unbound or Dropped.
const (
	Bound    ChangeKind = "Bound"    // it holds the address, or goes on holding it by another provenance, MAC or approval
	Promoted ChangeKind = "Promoted" // it was aside, and holds the address now
	Aside    ChangeKind = "Aside"    // it claims what another NIC holds
	Waiting  ChangeKind = "Waiting"  // for approval
	Unbound  ChangeKind = "Unbound"  // it held the address, and claims it no more
	Dropped  ChangeKind = "Dropped"  // it was aside or waiting, and claims it no more
	// Refused: something was not taken. Many alike, one after the other, are told once, or a few times; see Refusals.
	Refused ChangeKind = "Refused"
	// ConflictBegan, ConflictChanged and ConflictEnded tell of Conflict: how it is now, or was last.
	ConflictBegan   ChangeKind = "ConflictBegan"
	ConflictChanged ChangeKind = "ConflictChanged"
	ConflictEnded   ChangeKind = "ConflictEnded"
)

// Change is something that an event, or time, has changed in a book. Whoever follows the changes knows what
// the read-outs say.
type Change struct {
	Kind ChangeKind
	At   time.Time
	// Claim as it is now. With Unbound and Dropped it is what it was; with Refused, what was not taken; with conflicts it
	// has Segment and Addr alone.
	Claim    Claim
	Conflict *Conflict `json:",omitempty"`
	Reason   Reason    `json:",omitempty"` // with Refused
	Detail   string    `json:",omitempty"` // and more words on it, with ReasonMalformed
}

// String says the change in a sentence.
func (c Change) String() string {
	where := fmt.Sprintf("%v in %v", c.Claim.Addr, c.Claim.Segment)
	switch c.Kind {
	case Bound, Promoted:
		return fmt.Sprintf("%s is held by %v (%v %v)", where, c.Claim.NIC, c.Claim.Provenance, c.Claim.MAC)
	case Aside:
		return fmt.Sprintf("%s is claimed by %v (%v %v), too", where, c.Claim.NIC, c.Claim.Provenance, c.Claim.MAC)
	case Waiting:
		return fmt.Sprintf("%s waits to be approved for %v (%v %v)", where, c.Claim.NIC, c.Claim.Provenance, c.Claim.MAC)
	case Unbound:
		return fmt.Sprintf("%s is held by %v no more", where, c.Claim.NIC)
	case Dropped:
		return fmt.Sprintf("%s is claimed by %v no more", where, c.Claim.NIC)
	case Refused:
		s := fmt.Sprintf("%s: refused for %v: it %s", where, c.Claim.NIC, c.Reason.Text())
		if c.Detail != "" {
			s += ": " + c.Detail
		}
		return s
	case ConflictEnded:
		return where + " is in conflict no more"
	}
	return c.Conflict.String()
}

// ConflictKind says who is in conflict.
type ConflictKind string

// The kinds, the worst first: a conflict is of the first that fits.
const (
	ConflictDeclared ConflictKind = "Declared" // two declarations for different NICs
	ConflictInside   ConflictKind = "Inside"   // NICs of the cluster
	ConflictOutside  ConflictKind = "Outside"  // a NIC, and somebody outside the cluster
)

// Conflict is about an address that a NIC holds, and others claim.
type Conflict struct {
	Segment   Segment
	Addr      netip.Addr
	Kind      ConflictKind
	Since     time.Time  // when the second of those that claim it now began to
	Claimants []Claimant // the holder first, then the oldest first
}

// Claimant is one side of a conflict. Role, Seen and Place are those of the time at which the conflict was told, or read.
type Claimant struct {
	Outside    bool `json:",omitempty"` // no NIC of the cluster: NIC, Role and Provenance are not known
	NIC        NIC  `json:",omitzero"`
	Role       Role `json:",omitempty"`
	MAC        MAC
	Provenance Provenance `json:",omitzero"`
	Since      time.Time
	Seen       time.Time
	Place      string `json:",omitempty"`
}

// String says who they are, and where.
func (d *Conflict) String() string {
	var who []string
	for _, c := range d.Claimants {
		name := c.NIC.String()
		if c.Outside {
			name = "somebody outside the cluster"
		}
		s := fmt.Sprintf("%s (%v, since %s)", name, c.MAC, c.Since.Format(time.RFC3339))
		if c.Place != "" {
			s = fmt.Sprintf("%s (%v, at %s, since %s)", name, c.MAC, c.Place, c.Since.Format(time.RFC3339))
		}
		who = append(who, s)
	}
	return fmt.Sprintf("%v in %v is claimed by %s", d.Addr, d.Segment, strings.Join(who, " and by "))
}

func (c Claimant) compare(o Claimant) int {
	return cmp.Or(c.Since.Compare(o.Since), c.NIC.compare(o.NIC), slices.Compare(c.MAC[:], o.MAC[:]))
}

func (d *Conflict) clone() *Conflict {
	c := *d
	c.Claimants = slices.Clone(d.Claimants)
	return &c
}

// same says whether a conflict has nothing new to tell.
func (d *Conflict) same(o *Conflict) bool {
	return d.Kind == o.Kind && d.Since == o.Since && slices.EqualFunc(d.Claimants, o.Claimants, func(a, b Claimant) bool {
		a.Seen, a.Place, b.Seen, b.Place = time.Time{}, "", time.Time{}, ""
		return a == b
	})
}
