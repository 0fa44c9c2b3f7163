package learn

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// State is all that a book knows, as a value that JSON keeps.
type State struct {
	Now      time.Time
	Settings Settings
	NICs     []NICState     `json:",omitempty"`
	Outside  []OutsideState `json:",omitempty"`
}

// NICState is what a book knows of a NIC.
type NICState struct {
	NIC      NIC
	Absent   bool         `json:",omitempty"`
	Turned   time.Time    `json:",omitzero"` // when it last went or came back
	Claims   []ClaimState `json:",omitempty"`
	Refusals Refusals     `json:",omitzero"`
}

// ClaimState is what a claim is judged by.
type ClaimState struct {
	Segment  Segment
	Addr     netip.Addr
	Since    time.Time  `json:",omitzero"`
	Standing time.Time  `json:",omitzero"` // since when it could hold the address
	Decision Decision   `json:",omitzero"`
	Evidence []Evidence `json:",omitempty"`
}

// OutsideState is a claim from outside.
type OutsideState struct {
	Segment     Segment
	Addr        netip.Addr
	MAC         MAC
	Place       string `json:",omitempty"`
	Since, Seen time.Time
}

// Dump gives all that the book knows. It shares nothing with the book.
func (b *Book) Dump() State {
	s := State{Now: b.now, Settings: Settings{Outside: b.outside, Networks: map[string]Network{}}}
	for name, n := range b.networks {
		s.Settings.Networks[name] = *n.clone()
	}
	for _, id := range b.NICs() {
		n := b.nics[id]
		ns := NICState{NIC: id, Absent: n.absent, Turned: n.turned, Refusals: n.refusals.clone()}
		for _, c := range n.claims {
			ns.Claims = append(ns.Claims, ClaimState{
				Segment: c.at().Segment, Addr: c.at().Addr, Since: c.since, Standing: c.standing, Decision: c.decision, Evidence: slices.Clone(c.evidence),
			})
		}
		s.NICs = append(s.NICs, ns)
	}
	for _, segment := range slices.SortedFunc(maps.Keys(b.segments), Segment.compare) {
		for e := b.segments[segment].list.Front(); e != nil; e = e.Next() {
			o := e.Value.(*outsider)
			s.Outside = append(s.Outside, OutsideState{Segment: segment, Addr: o.cell.place.Addr, MAC: o.mac, Place: o.at, Since: o.since, Seen: o.seen})
		}
	}
	return s
}

// Load makes the book that gave the state, or says what in it no book gives.
func Load(s State) (*Book, error) {
	b, err := New(s.Settings)
	if err != nil {
		return nil, err
	}
	b.now = s.Now
	var errs []error
	for i := range s.NICs {
		errs = append(errs, b.loadNIC(&s.NICs[i]))
	}
	for i := range s.Outside {
		errs = append(errs, b.loadOutside(&s.Outside[i]))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	b.settle(s.Now)
	b.out = nil
	for _, n := range b.nics {
		for _, c := range n.claims {
			b.schedule(c) // now that the roles are known
		}
	}
	return b, nil
}

func (b *Book) loadNIC(s *NICState) error {
	if b.nics[s.NIC] != nil {
		return fmt.Errorf("NIC %v comes twice", s.NIC)
	}
	n := b.nic(s.NIC)
	n.absent, n.turned, n.refusals = s.Absent, s.Turned, s.Refusals.clone()
	var errs []error
	for i := range s.Claims {
		if err := b.loadClaim(n, &s.Claims[i]); err != nil {
			errs = append(errs, fmt.Errorf("NIC %v: %v in %v: %w", s.NIC, s.Claims[i].Addr, s.Claims[i].Segment, err))
		}
	}
	return errors.Join(errs...)
}

func (b *Book) loadClaim(n *nic, s *ClaimState) error {
	at := place{s.Segment, s.Addr}
	if b.find(at, n.id) != nil {
		return errors.New("comes twice")
	}
	if len(s.Evidence) == 0 && s.Decision.At.IsZero() {
		return errors.New("neither evidence nor a decision")
	}
	unfit := n.network.unfit(s.Addr)
	for i := range s.Evidence {
		v := &s.Evidence[i]
		e := Event{Kind: EventClaim, At: v.Since, NIC: n.id, Segment: s.Segment, Addr: s.Addr, Provenance: v.Provenance}
		if err := e.check(); err != nil {
			return err
		}
		if unfit != "" && !v.Provenance.Firm() {
			return fmt.Errorf("by %v: it %s", v.Provenance, unfit.Text())
		}
	}
	c := b.open(n, at)
	c.since, c.standing, c.decision = s.Since, s.Standing, s.Decision
	for _, v := range s.Evidence {
		if c.by(v.Provenance, v.Source) != nil {
			return fmt.Errorf("evidence by %v %s comes twice", v.Provenance, v.Source)
		}
		c.add(v)
	}
	if c.class() == firm {
		c.reason = unfit
	}
	b.touch(c.cell)
	return nil
}

func (b *Book) loadOutside(s *OutsideState) error {
	e := Event{Kind: EventOutside, At: s.Since, Segment: s.Segment, Addr: s.Addr, MAC: s.MAC, Place: s.Place}
	if err := e.check(); err != nil {
		return fmt.Errorf("outside, %v in %v: %w", s.Addr, s.Segment, err)
	}
	b.hearOutside(&e)
	if e.At = s.Seen; s.Seen.After(s.Since) {
		b.hearOutside(&e)
	}
	return nil
}
