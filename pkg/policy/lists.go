package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unsafe"
)

// MergeRanges gives the same addresses as ranges that are sorted, IPv4 first, and
// neither overlap nor touch. It may change list, and returns a part of it.
func MergeRanges(list []AddrRange) []AddrRange {
	slices.SortFunc(list, func(a, b AddrRange) int { return a.First.Compare(b.First) })
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && joins(out[n-1], r) {
			if out[n-1].Last.Less(r.Last) {
				out[n-1].Last = r.Last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// joins says whether b, which begins no lower than a, overlaps or follows it.
func joins(a, b AddrRange) bool {
	if a.First.BitLen() != b.First.BitLen() {
		return false
	}
	next := a.Last.Next()
	return !next.IsValid() || b.First.Compare(next) <= 0
}

// Flat gives the rule with what the sets that it names have among its own addresses and
// services, and no names: it matches what the rule matches in s.
func (s *Set) Flat(r Rule) Rule {
	r.Sources, r.SourceSets = flat(r.Sources, r.SourceSets, s.Lists), nil
	r.Destinations, r.DestinationSets = flat(r.Destinations, r.DestinationSets, s.Lists), nil
	return s.FlatServices(r)
}

// FlatServices is Flat for services alone, and leaves out what the rule's kind has no use for.
func (s *Set) FlatServices(r Rule) Rule {
	r.Services, r.ServiceSets = flat(r.Services, r.ServiceSets, s.ServiceLists), nil
	if other := func(s Service) bool { return s.ofEthernet() != r.Ethernet }; slices.ContainsFunc(r.Services, other) {
		r.Services = slices.DeleteFunc(slices.Clone(r.Services), other)
	}
	return r
}

func flat[T any](list []T, sets []string, lists map[string][]T) []T {
	if sets == nil {
		return list
	}
	out := append([]T{}, list...)
	for _, name := range sets {
		out = append(out, lists[name]...)
	}
	return out
}

// plainRule is Rule without its methods.
type plainRule Rule

// storedRule has the directions of a rule as text of either form.
type storedRule struct {
	*plainRule
	Directions string
}

// What stands before the directions of a rule that earlier versions would take for one that
// matches more, or for its opposite: they cannot read it then.
const (
	withPeers = "peers:"  // it names sets or is turned round
	withLocal = "local:"  // it is for some addresses of VMs alone
	ofFrames  = "frames:" // it is about frames
)

// MarshalJSON writes the rule as its fields say, but see [withPeers].
func (r Rule) MarshalJSON() ([]byte, error) {
	mark := ""
	switch {
	case r.Ethernet:
		mark = ofFrames
	case r.LocalSets != nil:
		mark = withLocal
	case r.SourceSets != nil || r.DestinationSets != nil || r.ServiceSets != nil || r.NotSources || r.NotDestinations:
		mark = withPeers
	default:
		return json.Marshal(plainRule(r))
	}
	text, err := r.Directions.MarshalText()
	if err != nil {
		return nil, err
	}
	plain := plainRule(r)
	return json.Marshal(storedRule{&plain, mark + string(text)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Rule) UnmarshalJSON(text []byte) error {
	s := storedRule{plainRule: (*plainRule)(r)}
	if err := json.Unmarshal(text, &s); err != nil || s.Directions == "" {
		return err
	}
	bare := s.Directions
	for _, mark := range []string{withPeers, withLocal, ofFrames} { // no other is known, and what it means
		if after, ok := strings.CutPrefix(bare, mark); ok {
			bare = after
			break
		}
	}
	return r.Directions.UnmarshalText([]byte(bare))
}

// ListID tells lists of addresses apart by where they are: equal IDs are equal lists.
// It is valid while the list is used.
type ListID struct {
	at *AddrRange
	n  int
}

// IDOf is the list's ID.
func IDOf(list []AddrRange) ListID { return ListID{unsafe.SliceData(list), len(list)} }

// StoredSets are sets as JSON keeps them: each list once, however many sets share it.
type StoredSets struct {
	Sets  map[string]Set            `json:"sets"`            // by ID
	Lists [][]AddrRange             `json:"lists,omitempty"` // what Uses has numbers of
	Uses  map[string]map[string]int `json:"uses,omitempty"`  // by set and name
}

// Store packs sets.
func Store(sets map[string]Set) StoredSets {
	out := StoredSets{Sets: sets, Uses: map[string]map[string]int{}}
	numbers := map[ListID]int{}
	for _, id := range slices.Sorted(maps.Keys(sets)) {
		lists := sets[id].Lists
		if len(lists) == 0 {
			continue
		}
		out.Uses[id] = map[string]int{}
		for _, name := range slices.Sorted(maps.Keys(lists)) {
			n, ok := numbers[IDOf(lists[name])]
			if !ok {
				n = len(out.Lists)
				numbers[IDOf(lists[name])] = n
				out.Lists = append(out.Lists, lists[name])
			}
			out.Uses[id][name] = n
		}
	}
	return out
}

// Load unpacks what [Store] packed. A number that no list has stands for no list.
func (s StoredSets) Load() map[string]Set {
	out := maps.Clone(s.Sets)
	for id, uses := range s.Uses {
		set, ok := out[id]
		if !ok {
			continue
		}
		set.Lists = map[string][]AddrRange{}
		for name, n := range uses {
			if n >= 0 && n < len(s.Lists) {
				set.Lists[name] = s.Lists[n]
			}
		}
		out[id] = set
	}
	return out
}
