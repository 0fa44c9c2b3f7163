package learn

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Role is what a claim comes to.
type Role string

// The roles.
const (
	Holder  Role = "Holder"
	Beside  Role = "Aside"   // another NIC holds the address
	Pending Role = "Waiting" // for a person's approval
)

// Evidence is what one source says, or said, for a claim.
type Evidence struct {
	Provenance Provenance
	Source     string    `json:",omitempty"` // which declaration
	MAC        MAC       `json:",omitzero"`
	Place      string    `json:",omitempty"` // where it was heard last
	Since      time.Time // first
	Seen       time.Time // last
	Until      time.Time `json:",omitzero"` // a lease's end
}

// Decision is what a person said of a NIC and an address.
type Decision struct {
	Denied bool      `json:",omitempty"`
	By     string    // who, or ByChange
	At     time.Time // the zero Decision, without a time, is none
}

// ByChange is who approved what was held when the network's mode became Approved.
const ByChange = "the change to mode Approved"

// Claim is an address that a NIC has, or would have, as the read-outs give it.
type Claim struct {
	Segment    Segment
	Addr       netip.Addr
	NIC        NIC
	Role       Role
	MAC        MAC        // by the best evidence that tells one
	Provenance Provenance // the best
	Since      time.Time  // without interruption, by whatever evidence
	Approved   Decision   `json:",omitzero"`
	// Seen is when any evidence was last renewed, and Place where. They, and Evidence, go on without a Change.
	Seen     time.Time
	Place    string     `json:",omitempty"`
	Evidence []Evidence // best first
}

// place is where an address stands in a book.
type place struct {
	Segment Segment
	Addr    netip.Addr
}

func (p place) compare(o place) int {
	return cmp.Or(p.Segment.compare(o.Segment), p.Addr.Compare(o.Addr))
}

// class is what a claim counts as, for the bounds. A greater one needs less to be believed.
type class uint8

const (
	idle     class = iota // no evidence, only a decision
	observed              // by sightings alone
	leased
	firm
)

// told is what changes have said of a claim.
type told struct {
	role       Role
	mac        MAC
	provenance Provenance
	since      time.Time
	approved   Decision
}

// claim is one NIC's of one address.
type claim struct {
	nic      *nic
	cell     *cell
	since    time.Time
	standing time.Time // since when it could hold the address; zero where it cannot
	decision Decision
	reason   Reason     // why it holds nothing although it is declared
	evidence []Evidence // best provenance first
	told     told
	timer    timer
}

func (c *claim) at() place { return c.cell.place }

func (c *claim) class() class {
	if len(c.evidence) == 0 {
		return idle
	}
	return classOf(c.evidence[0].Provenance)
}

func classOf(p Provenance) class {
	switch {
	case p.Firm():
		return firm
	case p == DHCP:
		return leased
	}
	return observed
}

// by finds a source's evidence.
func (c *claim) by(p Provenance, source string) *Evidence {
	for i := range c.evidence {
		if e := &c.evidence[i]; e.Provenance == p && e.Source == source {
			return e
		}
	}
	return nil
}

// drop forgets the evidence that is such, and says whether there was any.
func (c *claim) drop(such func(*Evidence) bool) bool {
	kept := slices.DeleteFunc(c.evidence, func(e Evidence) bool { return such(&e) })
	gone := len(kept) < len(c.evidence)
	c.evidence = kept
	return gone
}

// add keeps the order: best provenance first.
func (c *claim) add(e Evidence) {
	i, _ := slices.BinarySearchFunc(c.evidence, e, func(a, b Evidence) int {
		return cmp.Or(cmp.Compare(b.Provenance, a.Provenance), strings.Compare(a.Source, b.Source))
	})
	c.evidence = slices.Insert(c.evidence, i, e)
}

// backdate has a claim begin earlier, as evidence that came late tells. If nothing but its begin said since when it
// could hold the address, that is earlier, too.
func (c *claim) backdate(at time.Time) {
	if !at.Before(c.since) {
		return
	}
	if c.standing.Equal(c.since) {
		c.standing = at
	}
	c.since = at
}

// firmSince is since when the best kind of declaration says so.
func (c *claim) firmSince() time.Time {
	first := c.evidence[0].Since
	for _, e := range c.evidence[1:] {
		if e.Provenance == c.evidence[0].Provenance && e.Since.Before(first) {
			first = e.Since
		}
	}
	return first
}

func (c *claim) declarations() (n int) {
	for _, e := range c.evidence {
		if e.Provenance.Firm() {
			n++
		}
	}
	return n
}

// announced is when the NIC was last heard with the address on the wire. The guest agent's word does not count
// here: it repeats a list, and would take a shared address back from who has announced it since.
func (c *claim) announced() (last time.Time) {
	for _, e := range c.evidence {
		if (e.Provenance == ARP || e.Provenance == ND || e.Provenance == DHCP) && e.Seen.After(last) {
			last = e.Seen
		}
	}
	return last
}

func (c *claim) mac() MAC {
	for i := range c.evidence {
		if c.evidence[i].MAC != (MAC{}) {
			return c.evidence[i].MAC
		}
	}
	return MAC{}
}

// latest is the evidence that was renewed last.
func (c *claim) latest() (e Evidence) {
	for i := range c.evidence {
		if c.evidence[i].Seen.After(e.Seen) {
			e = c.evidence[i]
		}
	}
	return e
}

func (c *claim) approved() bool { return !c.decision.At.IsZero() && !c.decision.Denied }
func (c *claim) denied() bool   { return c.decision.Denied }

// view is the claim as others see it.
func (c *claim) view() Claim {
	last := c.latest()
	return Claim{
		Segment: c.at().Segment, Addr: c.at().Addr, NIC: c.nic.id, Role: c.told.role, MAC: c.told.mac,
		Provenance: c.told.provenance, Since: c.told.since, Approved: c.told.approved,
		Seen: last.Seen, Place: last.Place, Evidence: slices.Clone(c.evidence),
	}
}
