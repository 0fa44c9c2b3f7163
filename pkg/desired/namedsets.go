package desired

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// namedSet is an AddressSet or a ServiceSet, which rules and sets of its kind name.
type namedSet interface{ includes() []string }

func (s AddressSet) includes() []string { return s.Includes }
func (s ServiceSet) includes() []string { return s.Includes }

// setKinds are the kinds of sets.
var setKinds = []string{v1alpha1.KindAddressSet, v1alpha1.KindServiceSet}

func (s AddressSet) equal(o AddressSet) bool {
	return s.Name == o.Name && slices.Equal(s.Includes, o.Includes) &&
		(policy.IDOf(s.Ranges) == policy.IDOf(o.Ranges) || slices.Equal(s.Ranges, o.Ranges))
}

const subnetsOf = v1alpha1.KindVLANNetwork + " "

// SubnetsOf names the AddressSet of a VLANNetwork's subnets. No AddressSet that somebody
// made has such a name.
func SubnetsOf(network string) string { return subnetsOf + network }

// subnets is the AddressSet of a network, if it has subnets or nobody knows.
func (o *object) subnets() (object, bool) {
	out := object{key: key{v1alpha1.KindAddressSet, SubnetsOf(o.Name)}, file: o.file, lines: o.lines}
	switch v := o.value.(type) {
	case nil:
		return out, true
	case Network:
		set := AddressSet{Name: out.Name}
		for _, s := range v.Subnets {
			set.Ranges = append(set.Ranges, policy.RangeOf(s.CIDR))
		}
		set.Ranges = policy.MergeRanges(set.Ranges)
		out.value = set
		return out, len(v.Subnets) > 0
	}
	return out, false
}

// naming is a place where a policy names a set.
type naming struct {
	key          // the set
	field string // of the policy
	rule  uint32 // its ID
}

// namings lists where a policy names sets, each set once.
func (p *Policy) namings() (out []naming) {
	seen := map[key]bool{}
	for _, name := range p.AddressSets {
		k := key{v1alpha1.KindAddressSet, name}
		seen[k] = true
		out = append(out, naming{k, "spec.appliedTo", 0})
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		add := func(kind string, names []string, list string) {
			for _, name := range names {
				if k := (key{kind, name}); !seen[k] {
					seen[k] = true
					out = append(out, naming{k, fmt.Sprintf("spec.rules[%d].%s", i, list), r.Key.ID})
				}
			}
		}
		add(v1alpha1.KindAddressSet, r.SourceSets, "sources")
		add(v1alpha1.KindAddressSet, r.DestinationSets, "destinations")
		add(v1alpha1.KindServiceSet, r.ServiceSets, "services")
	}
	return out
}

// reportFutile reports the ServiceSets that a policy names and that have services, but none for its
// rules: one that comes to that later is as an empty one to them.
func (r *resolver) reportFutile(s *slot) (found bool) {
	v, ok := s.current().(Policy)
	if !ok || s.next == nil || len(v.Rules) == 0 {
		return false
	}
	ethernet := v.Rules[0].Ethernet
	for _, n := range v.namings() {
		if n.Kind != v1alpha1.KindServiceSet {
			continue
		}
		sets, whole := withIncluded[ServiceSet](n.key, func(k key) any {
			if s := r.slots[k]; s != nil {
				return s.current()
			}
			return nil
		})
		var all []policy.Service
		for _, set := range sets {
			all = append(all, set.Services...)
		}
		if !whole || len(all) == 0 || slices.ContainsFunc(all, func(s policy.Service) bool { return (s.EtherType != 0) == ethernet }) {
			continue
		}
		message := "has EtherTypes alone, which are of category Ethernet: add what the rule is about to the set, or name another"
		if ethernet {
			message = "has no etherType, which is all that Ethernet rules look at: add one to the set, or name another"
		}
		r.report(refusal{s, n.field, fmt.Sprintf("rule %d: ServiceSet %s %s", n.rule, n.Name, message)})
		found = true
	}
	return found
}

// expanded are the addresses of a set with those of all that it includes.
type expanded struct {
	parts  [][]policy.AddrRange // of each set
	ranges []policy.AddrRange
}

// Expand prepares a snapshot that was decoded from JSON for PolicySet.
func (s *Snapshot) Expand() {
	sets, serviceSets := s.Sets, s.ServiceSets
	s.useSets(func(k key) any {
		if k.Kind == v1alpha1.KindServiceSet {
			return valueIn(serviceSets, k.Name)
		}
		return valueIn(sets, k.Name)
	}, nil)
}

// valueIn is a map's value, or nil.
func valueIn[T any](from map[string]T, name string) any {
	if v, ok := from[name]; ok {
		return v
	}
	return nil
}

// withIncluded gives the sets of one's kind from one on: itself and what it includes,
// each once. whole says that none is missing.
func withIncluded[S namedSet](k key, get func(key) any) (sets []S, whole bool) {
	seen := map[string]bool{}
	whole = true
	var take func(name string)
	take = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		v, ok := get(key{k.Kind, name}).(S)
		if whole = whole && ok; !ok {
			return
		}
		sets = append(sets, v)
		for _, include := range v.includes() {
			take(include)
		}
	}
	take(k.Name)
	return sets, whole
}

// useSets takes from get the sets that the snapshot's policies name, with what they
// include, and lists what each named one comes to. What is as it was in last is taken
// from there. A set of which a part is missing has no list.
func (s *Snapshot) useSets(get func(key) any, last *Snapshot) {
	s.Sets, s.lists = map[string]AddressSet{}, map[string]expanded{}
	s.ServiceSets, s.serviceLists = map[string]ServiceSet{}, map[string][]policy.Service{}
	seen := map[key]bool{}
	for i := range s.Policies {
		for _, n := range s.Policies[i].namings() {
			if seen[n.key] {
				continue
			}
			seen[n.key] = true
			if n.Kind == v1alpha1.KindServiceSet {
				s.useServices(n.key, get)
			} else {
				s.useAddresses(n.key, get, last)
			}
		}
	}
}

func (s *Snapshot) useServices(k key, get func(key) any) {
	sets, whole := withIncluded[ServiceSet](k, get)
	list := []policy.Service{}
	for _, set := range sets {
		s.ServiceSets[set.Name] = set
		list = append(list, set.Services...)
	}
	if whole {
		slices.SortFunc(list, func(a, b policy.Service) int {
			return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last),
				cmp.Compare(a.SourceFirst, b.SourceFirst), cmp.Compare(a.SourceLast, b.SourceLast),
				cmp.Compare(a.EtherType, b.EtherType), cmp.Compare(a.EtherType, b.EtherType), cmp.Compare(a.Flags.Mask, b.Flags.Mask), cmp.Compare(a.Flags.Set, b.Flags.Set))
		})
		s.serviceLists[k.Name] = slices.Compact(list)
	}
}

func (s *Snapshot) useAddresses(k key, get func(key) any, last *Snapshot) {
	e := expanded{}
	sets, whole := withIncluded[AddressSet](k, get)
	for _, set := range sets {
		s.Sets[set.Name] = set
		if len(set.Ranges) > 0 {
			e.parts = append(e.parts, set.Ranges)
		}
	}
	if !whole {
		return
	}
	var before expanded
	if last != nil {
		before = last.lists[k.Name]
	}
	switch {
	case before.parts != nil && reflect.DeepEqual(before.parts, e.parts): // quick where they are the same ones
		e = before
	case len(e.parts) == 1:
		e.ranges = e.parts[0]
	default:
		e.ranges = policy.MergeRanges(slices.Concat(e.parts...))
	}
	s.lists[k.Name] = e
}

// passSets refuses sets that include what is not there, in a circle or too deep, and
// policies that name what is not there. A set is not removed while anything names it.
func (r *resolver) passSets() (refused bool) {
	for _, kind := range setKinds {
		sets := r.of(kind)
		for _, s := range sets {
			v, ok := s.current().(namedSet)
			if !ok {
				continue
			}
			for _, name := range v.includes() {
				r.wantSet(s, key{kind, name}, "", fmt.Sprintf("%s %s includes it", kind, s.Name), func(x any) string {
					if a, ok := x.(namedSet); ok && slices.Contains(a.includes(), name) {
						return "spec.includes"
					}
					return ""
				})
			}
		}
		refused = r.apply() || refused
		refused = r.refuseCircles(kind, sets) || refused
	}
	for _, s := range r.of(v1alpha1.KindFirewallPolicy) {
		v, _ := s.current().(Policy)
		for _, n := range v.namings() {
			where, who := fmt.Sprintf("rule %d: ", n.rule), fmt.Sprintf("rule %d of FirewallPolicy %s names it", n.rule, s.Name)
			if n.rule == 0 {
				where, who = "", fmt.Sprintf("FirewallPolicy %s is applied to it", s.Name)
			}
			r.wantSet(s, n.key, where, who, func(x any) string {
				p, _ := x.(Policy)
				for _, n2 := range p.namings() {
					if n2.key == n.key {
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
func (r *resolver) wantSet(s *slot, k key, where, who string, field func(any) string) {
	named := r.slots[k]
	if named == nil {
		named = &slot{key: k}
	}
	if named.current() != nil {
		return
	}
	r.settle(s, named, false, func(a, b any) *clash {
		at := field(a)
		if b != nil || at == "" {
			return nil
		}
		gone := "is gone, but " + who + ": take it out there first, or put the set back"
		if strings.HasPrefix(k.Name, subnetsOf) {
			gone = "its subnets are gone, but " + who + ": take it out there first, or put them back"
		}
		return &clash{at, where + r.absent(k.Kind, k.Name), "", gone}
	})
}

// refuseCircles refuses sets that include themselves by others, and those by which a
// chain of sets gets longer than it may be: those that newly include the next one. Of
// a chain that is the first alone, if it does.
func (r *resolver) refuseCircles(kind string, sets []*slot) bool {
	longest := map[string][]string{} // chain from a set on, once that is known
	var path []string
	refuse := func(chain []string, first bool, message string) {
		for i, name := range chain[:len(chain)-1] {
			s := r.slots[key{kind, name}]
			if !s.changing() {
				continue
			}
			if s.old != nil && slices.Contains(s.old.value.(namedSet).includes(), chain[i+1]) {
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
		s := r.slots[key{kind, name}]
		if s == nil {
			return nil
		}
		v, ok := s.current().(namedSet)
		if !ok {
			return nil
		}
		path = append(path, name)
		var below []string
		for _, include := range v.includes() {
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
