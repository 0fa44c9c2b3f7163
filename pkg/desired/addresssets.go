package desired

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
)

func (s AddressSet) equal(o AddressSet) bool {
	return s.Name == o.Name && slices.Equal(s.Includes, o.Includes) &&
		(policy.IDOf(s.Ranges) == policy.IDOf(o.Ranges) || slices.Equal(s.Ranges, o.Ranges))
}

// naming is a place where a policy names an address set.
type naming struct {
	set   string
	field string // of the policy
	rule  uint32 // its ID
}

// namings lists where a policy names address sets, each set once.
func (p *Policy) namings() (out []naming) {
	seen := map[string]bool{}
	for i := range p.Rules {
		r := &p.Rules[i]
		add := func(names []string, side string) {
			for _, name := range names {
				if !seen[name] {
					seen[name] = true
					out = append(out, naming{name, fmt.Sprintf("spec.rules[%d].%s", i, side), r.Key.ID})
				}
			}
		}
		add(r.SourceSets, "sources")
		add(r.DestinationSets, "destinations")
	}
	return out
}

// expanded are the addresses of a set with those of all that it includes.
type expanded struct {
	parts  [][]policy.AddrRange // of each set
	ranges []policy.AddrRange
}

// Expand prepares a snapshot that was decoded from JSON for PolicySet.
func (s *Snapshot) Expand() {
	sets := s.Sets
	s.useSets(func(name string) (AddressSet, bool) {
		a, ok := sets[name]
		return a, ok
	}, nil)
}

// useSets takes from get the sets that the snapshot's policies name, with what they
// include, and lists what each named one comes to. What is as it was in last is taken
// from there. A set of which a part is missing has no list.
func (s *Snapshot) useSets(get func(name string) (AddressSet, bool), last *Snapshot) {
	s.Sets, s.lists = map[string]AddressSet{}, map[string]expanded{}
	for i := range s.Policies {
		for _, n := range s.Policies[i].namings() {
			if _, ok := s.lists[n.set]; ok {
				continue
			}
			e, whole := expanded{}, true
			seen := map[string]bool{}
			var take func(name string)
			take = func(name string) {
				a, ok := get(name)
				whole = whole && ok
				if !ok || seen[name] {
					return
				}
				seen[name] = true
				s.Sets[name] = a
				if len(a.Ranges) > 0 {
					e.parts = append(e.parts, a.Ranges)
				}
				for _, include := range a.Includes {
					take(include)
				}
			}
			take(n.set)
			if !whole {
				continue
			}
			var before expanded
			if last != nil {
				before = last.lists[n.set]
			}
			switch {
			case before.parts != nil && reflect.DeepEqual(before.parts, e.parts): // quick where they are the same ones
				e = before
			case len(e.parts) == 1:
				e.ranges = e.parts[0]
			default:
				e.ranges = policy.MergeRanges(slices.Concat(e.parts...))
			}
			s.lists[n.set] = e
		}
	}
}

// passSets refuses sets that include what is not there, in a circle or too deep, and
// policies that name what is not there. A set is not removed while anything names it.
func (r *resolver) passSets() bool {
	sets := r.of(v1alpha1.KindAddressSet)
	for _, s := range sets {
		v, _ := s.current().(AddressSet)
		for _, name := range v.Includes {
			r.wantSet(s, name, "", fmt.Sprintf("AddressSet %s includes it", s.Name), func(x any) string {
				if a, ok := x.(AddressSet); ok && slices.Contains(a.Includes, name) {
					return "spec.includes"
				}
				return ""
			})
		}
	}
	refused := r.apply()
	refused = r.refuseCircles(sets) || refused
	for _, s := range r.of(v1alpha1.KindFirewallPolicy) {
		v, _ := s.current().(Policy)
		for _, n := range v.namings() {
			r.wantSet(s, n.set, fmt.Sprintf("rule %d: ", n.rule), fmt.Sprintf("rule %d of FirewallPolicy %s names it", n.rule, s.Name), func(x any) string {
				p, _ := x.(Policy)
				for _, n2 := range p.namings() {
					if n2.set == n.set {
						return n2.field
					}
				}
				return ""
			})
		}
	}
	return r.apply() || refused
}

// wantSet settles between an object that names a set and that set. field is where a
// version of the object does, or "".
func (r *resolver) wantSet(s *slot, name, where, who string, field func(any) string) {
	k := key{v1alpha1.KindAddressSet, name}
	set := r.slots[k]
	if set == nil {
		set = &slot{key: k}
	}
	if set.current() != nil {
		return
	}
	r.settle(s, set, false, func(a, b any) *clash {
		at := field(a)
		if _, ok := b.(AddressSet); ok || at == "" {
			return nil
		}
		return &clash{at, where + r.absent(k.Kind, name), "", "is gone, but " + who + ": take it out there first, or put the set back"}
	})
}

// refuseCircles refuses sets that include themselves by others, and those by which a
// chain of sets gets longer than it may be: those that newly include the next one. Of
// a chain that is the first alone, if it does.
func (r *resolver) refuseCircles(sets []*slot) bool {
	longest := map[string][]string{} // chain from a set on, once that is known
	var path []string
	refuse := func(chain []string, first bool, message string) {
		for i, name := range chain[:len(chain)-1] {
			s := r.slots[key{v1alpha1.KindAddressSet, name}]
			if !s.changing() {
				continue
			}
			if s.old != nil && slices.Contains(s.old.value.(AddressSet).Includes, chain[i+1]) {
				continue // that is not what changes
			}
			r.pending = append(r.pending, refusal{s, "spec.includes", message})
			if first && i == 0 {
				return
			}
		}
	}
	var walk func(name string) []string
	walk = func(name string) []string {
		if i := slices.Index(path, name); i >= 0 {
			circle := append(slices.Clone(path[i:]), name)
			refuse(circle, false, fmt.Sprintf("goes in a circle: %s: take one of these includes out", strings.Join(circle, " -> ")))
			return nil
		}
		if chain, ok := longest[name]; ok {
			return chain
		}
		s := r.slots[key{v1alpha1.KindAddressSet, name}]
		if s == nil {
			return nil
		}
		v, ok := s.current().(AddressSet)
		if !ok {
			return nil
		}
		path = append(path, name)
		var below []string
		for _, include := range v.Includes {
			if chain := walk(include); len(chain) > len(below) {
				below = chain
			}
		}
		path = path[:len(path)-1]
		chain := append([]string{name}, below...)
		if len(chain) > v1alpha1.MaxSetLevels {
			refuse(chain, true, fmt.Sprintf("is one of %d levels of sets, %s: want at most %d: include the last ones directly",
				len(chain), strings.Join(chain, " -> "), v1alpha1.MaxSetLevels))
			chain = nil // told once
		}
		longest[name] = chain
		return chain
	}
	for _, s := range sets {
		walk(s.Name)
	}
	return r.apply()
}
