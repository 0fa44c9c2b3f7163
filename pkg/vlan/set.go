package vlan

import (
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"strings"
)

// Set is a set of VLANs: a value, comparable with ==, and empty when zero. Only
// Min to Max can be in it.
type Set struct {
	words [64]uint64
}

// Range is a run of VLANs, both ends included; First <= Last.
type Range struct {
	First, Last ID
}

// String prints "100-110", or "100" for a run of one.
func (r Range) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return strconv.Itoa(int(r.First)) + "-" + strconv.Itoa(int(r.Last))
}

// Len is the number of VLANs in the run.
func (r Range) Len() int { return int(r.Last) - int(r.First) + 1 }

// Of makes a set of IDs, and refuses the first one that is out of range.
func Of(ids ...ID) (Set, error) {
	var s Set
	for _, id := range ids {
		if err := s.Add(id); err != nil {
			return Set{}, err
		}
	}
	return s, nil
}

// ParseSet reads a list of VLANs and ranges as "100-110,200", in any order and
// overlapping or not; spaces around the parts are ignored. An empty text is the
// empty set, for that is what String prints. Errors name the part that is wrong
// and what would be right.
func ParseSet(text string) (Set, error) {
	var s Set
	if strings.TrimSpace(text) == "" {
		return s, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		r, err := parseRange(strings.TrimSpace(part))
		if err != nil {
			return Set{}, fmt.Errorf("VLAN list %q: %w", text, err)
		}
		s.addRange(r)
	}
	return s, nil
}

func parseRange(part string) (Range, error) {
	if part == "" {
		return Range{}, fmt.Errorf("there is nothing between two commas or at an end: want a list as 100-110,200")
	}
	first, last, isRange := strings.Cut(part, "-")
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	switch {
	case !isRange:
		id, err := ParseID(part)
		return Range{id, id}, err
	case first == "" && last == "":
		return Range{}, fmt.Errorf("range %q has no ends: want FIRST-LAST, as 100-110", part)
	case first == "":
		return Range{}, fmt.Errorf("range %q has no start: want FIRST-LAST, as 100-110", part)
	case last == "":
		return Range{}, fmt.Errorf("range %q has no end: want FIRST-LAST, as 100-110", part)
	}
	a, err := ParseID(first)
	if err != nil {
		return Range{}, fmt.Errorf("range %q: %w", part, err)
	}
	b, err := ParseID(last)
	if err != nil {
		return Range{}, fmt.Errorf("range %q: %w", part, err)
	}
	if a > b {
		return Range{}, fmt.Errorf("range %q is reversed: want %d-%d", part, b, a)
	}
	return Range{a, b}, nil
}

// Contains says whether the VLAN is in the set; 0 and 4095 never are.
func (s Set) Contains(id ID) bool {
	return id <= Max && s.words[id>>6]&(1<<(id&63)) != 0
}

// Add puts one VLAN in; it refuses one that is out of range.
func (s *Set) Add(id ID) error {
	if err := id.Validate(); err != nil {
		return err
	}
	s.words[id>>6] |= 1 << (id & 63)
	return nil
}

// AddRange puts a run in; it refuses a reversed one and ends out of range, and
// then changes nothing.
func (s *Set) AddRange(r Range) error {
	if err := r.First.Validate(); err != nil {
		return err
	}
	if err := r.Last.Validate(); err != nil {
		return err
	}
	if r.First > r.Last {
		return fmt.Errorf("range %d-%d is reversed: want %d-%d", r.First, r.Last, r.Last, r.First)
	}
	s.addRange(r)
	return nil
}

func (s *Set) addRange(r Range) {
	for id := r.First; id <= r.Last; id++ {
		s.words[id>>6] |= 1 << (id & 63)
	}
}

// Remove takes one VLAN out; one that is not in it is not an error.
func (s *Set) Remove(id ID) {
	if id <= Max {
		s.words[id>>6] &^= 1 << (id & 63)
	}
}

// Union is what is in either set.
func (s Set) Union(o Set) Set {
	for i := range s.words {
		s.words[i] |= o.words[i]
	}
	return s
}

// Intersect is what is in both sets.
func (s Set) Intersect(o Set) Set {
	for i := range s.words {
		s.words[i] &= o.words[i]
	}
	return s
}

// Minus is what is in s and not in o.
func (s Set) Minus(o Set) Set {
	for i := range s.words {
		s.words[i] &^= o.words[i]
	}
	return s
}

// Empty says that no VLAN is in the set.
func (s Set) Empty() bool { return s == Set{} }

// IsZero is Empty, under the name that encoding/json's omitzero looks for.
func (s Set) IsZero() bool { return s.Empty() }

// Len is the number of VLANs in the set.
func (s Set) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// All yields the VLANs in rising order.
func (s Set) All() iter.Seq[ID] {
	return func(yield func(ID) bool) {
		for i, w := range s.words {
			for ; w != 0; w &= w - 1 {
				if !yield(ID(i<<6 + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// Ranges are the fewest runs that make up the set, in rising order.
func (s Set) Ranges() []Range {
	var rs []Range
	for id := range s.All() {
		if n := len(rs); n > 0 && rs[n-1].Last+1 == id {
			rs[n-1].Last = id
			continue
		}
		rs = append(rs, Range{id, id})
	}
	return rs
}

// Words is the set as 4096 bits: VLAN v is bit v%64 of word v/64, as vlans[] of
// struct hp_port in bpf/include/abi.h has it.
func (s Set) Words() [64]uint64 { return s.words }

// String prints the one canonical form: rising, runs joined, no spaces. The
// empty set is the empty text.
func (s Set) String() string {
	var b strings.Builder
	for i, r := range s.Ranges() {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(r.String())
	}
	return b.String()
}

// MarshalText implements encoding.TextMarshaler: the text of String.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler by ParseSet.
func (s *Set) UnmarshalText(text []byte) error {
	v, err := ParseSet(string(text))
	if err != nil {
		return err
	}
	*s = v
	return nil
}
