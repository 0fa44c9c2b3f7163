package learn

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Refusals are what a NIC was refused.
type Refusals struct {
	Counts map[Reason]uint64 `json:",omitempty"`
	Last   []Refusal         `json:",omitempty"` // at most 8, the latest last
}

// Refusal is what was not taken, one or more times.
type Refusal struct {
	Segment    Segment `json:",omitzero"`
	Addr       netip.Addr
	Reason     Reason
	Provenance Provenance `json:",omitzero"` // none with a decision
	MAC        MAC        `json:",omitzero"`
	Place      string     `json:",omitempty"`
	At         time.Time  // the last time
	Count      uint64     // since it is among the last
}

const maxRefusals = 8

// quiet is how long a NIC that was refused so many things one after the other is only counted.
const quiet = time.Minute

// refuse notes what is not taken. People's words are always answered; of what is observed, the same is told once, and
// of a flood the beginning.
func (b *Book) refuse(e *Event, segment Segment, reason Reason, detail string) {
	r := Refusal{Segment: segment, Addr: e.Addr, Reason: reason, Provenance: e.Provenance, MAC: e.MAC, Place: e.Place, At: e.At, Count: 1}
	tell := true
	if e.checkNIC() == nil && (b.nics[e.NIC] != nil || reason != ReasonNobody && reason != ReasonMalformed) {
		tell = b.nic(e.NIC).refusals.note(r)
	}
	if !tell && !e.Provenance.Firm() && e.Provenance != 0 {
		return
	}
	b.out = append(b.out, Change{
		Kind: Refused, At: e.At, Reason: reason, Detail: detail,
		Claim: Claim{Segment: segment, Addr: e.Addr, NIC: e.NIC, MAC: e.MAC, Provenance: e.Provenance, Since: e.At, Seen: e.At, Place: e.Place},
	})
}

// note counts a refusal, and says whether it is worth telling.
func (s *Refusals) note(r Refusal) bool {
	if s.Counts == nil {
		s.Counts = map[Reason]uint64{}
	}
	s.Counts[r.Reason]++
	for i, o := range s.Last {
		if o.Segment == r.Segment && o.Addr == r.Addr && o.Reason == r.Reason {
			r.Count += o.Count
			copy(s.Last[i:], s.Last[i+1:])
			s.Last[len(s.Last)-1] = r
			return false
		}
	}
	if len(s.Last) < maxRefusals {
		s.Last = append(s.Last, r)
		return true
	}
	flood := !slices.ContainsFunc(s.Last, func(o Refusal) bool { return o.Reason != r.Reason || r.At.Sub(o.At) > quiet })
	copy(s.Last, s.Last[1:])
	s.Last[len(s.Last)-1] = r
	return !flood
}

func (s *Refusals) clone() Refusals {
	return Refusals{Counts: maps.Clone(s.Counts), Last: slices.Clone(s.Last)}
}
