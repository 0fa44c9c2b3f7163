package compile

import (
	"cmp"
	crand "crypto/rand"
	"errors"
	"maps"
	"reflect"
	"slices"
	"unsafe"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Compiler compiles what a node enforces again and again, and what is as it was the last time
// costs next to nothing: a policy whose rules have not changed is not compiled again, and
// where few prefixes of lists have changed, so has little of the table of addresses. What it gives means
// what [Build] gives, but may number classes otherwise. It keeps the sets and
// counters that it was given last; they must not be changed. The zero Compiler is ready; it is for one caller at a time.
type Compiler struct {
	lists   peerLists
	used    []int  // numbers of the lists that classes are of, sorted
	highest uint32 // counter
	classes *classes
	sets    map[string]*compiled // by ID
	patched bool                 // classes have been changed since they were made
	// followed: a list that has changed kept its number, and is not known by its content any more.
	followed bool
}

// compiled is a set and what it came to.
type compiled struct {
	set      policy.Set
	counters []uint32 // of the rules and of the default
	from     Counters // the counters that have these
	// What lines, monitoredLast and side made of the rules.
	rules  []policy.Rule
	places []uint32
	sides  []peers
	lists  []int // that sides name, sorted
	// The policy, and the classes that it is for; nil if there is none yet.
	policy  Policy
	classes *classes
}

const (
	// staleLists is how many numbers of lists, or of classes, that nobody has any more are put
	// up with.
	staleLists = 1024
	// fewPrefixes is how many of them may change for classes to be changed, and not made anew.
	fewPrefixes = 256
)

// Build compiles as the function Build does. After an error it is as good as before.
func (c *Compiler) Build(in Input) (*Program, error) {
	if len(c.lists.lists) > 2*len(c.used)+staleLists || c.patched && len(c.classes.setOf) > 2*c.classes.made+staleLists {
		*c = Compiler{}
	}
	p, refused, err := c.build(in)
	if err == nil {
		return p, nil
	}
	if !refused && (c.patched || c.followed) { // stale numbers may be what was too much, and are half changed
		*c = Compiler{}
		p, _, err = c.build(in)
	}
	if err != nil {
		c.lists.keep(c.used)
	}
	return p, err
}

// build is Build; refused says that an error is of the sets alone, and nothing has changed.
func (c *Compiler) build(in Input) (_ *Program, refused bool, _ error) {
	sets := sorted(in.Sets)
	next := make(map[string]*compiled, len(sets))
	var bad refusals
	checked := map[policy.ListID]error{}
	changes := c.follow(sets)
	followed := map[policy.ListID]policy.ListID{}
	for _, l := range changes {
		followed[l.to] = l.from
	}
	alike := alikeLists(followed)
	news := len(sets) != len(c.sets)
	for i := range sets {
		set := &sets[i]
		id := set.ID()
		if next[id] != nil {
			bad.add(id, errors.New("has more than one set: give each network one"))
			continue
		}
		if last := c.sets[id]; last != nil && last.holds(set, in.Counters, alike) {
			again := *last
			again.set, again.from = *set, in.Counters
			next[id] = &again
			continue
		}
		news = true
		next[id] = &compiled{set: *set}
		bad.add(id, check(set, in.Counters, checked))
	}
	if err := bad.err(); err != nil {
		return nil, true, err
	}
	c.apply(changes)
	for i := range sets {
		n := next[sets[i].ID()]
		if n.counters == nil {
			bad.add(sets[i].ID(), c.read(n, in.Counters))
		} else if len(changes) > 0 {
			bad.add(sets[i].ID(), c.lists.tooLarge(n))
		}
	}
	if err := bad.err(); err != nil {
		return nil, false, err
	}
	used, highest := c.used, c.highest
	if news {
		used, highest = listsOf(next)
	}
	before := c.classes
	classes, patched := c.reclassify(used, changes)
	w := writer{counters: in.Counters, classes: classes, naming: make([][]uint16, len(c.lists.lists)), rowOf: make([]uint32, len(classes.sets))}
	p := &Program{Addrs: classes.addrs, Counters: int(highest) + 1}
	for i := range sets {
		n := next[sets[i].ID()]
		switch {
		case n.classes == classes:
		case patched && n.classes == before && len(before.setOf) == len(classes.setOf):
			n.classes = classes // the rows of all classes are as they were
		default:
			var err error
			n.policy, err = w.policy(&n.set, n.rules, n.places, n.sides)
			n.classes = classes
			bad.add(sets[i].ID(), err)
		}
		p.Policies = append(p.Policies, n.policy)
	}
	if err := bad.err(); err != nil {
		return nil, false, err
	}
	c.lists.keep(used)
	c.sets, c.used, c.highest, c.classes = next, used, highest, classes
	c.patched = patched || c.patched && classes == before
	p.Hash = hash(classes.sum, p.Policies)
	return p, false, nil
}

// followedList is an address set that holds other addresses than before.
type followedList struct {
	from, to policy.ListID
	was, is  []policy.AddrRange
	listChange
}

// listMaps are the lists of a set as they were, and as they are. Sets share maps, and what is
// found of a pair is found once.
type listMaps struct{ was, is unsafe.Pointer }

func mapsOf(last *compiled, set *policy.Set) listMaps {
	return listMaps{mapAt(last.set.Lists), mapAt(set.Lists)}
}

// sameLists says whether a set has the very lists that it had.
func sameLists(last *compiled, set *policy.Set) bool {
	return mapAt(last.set.Lists) == mapAt(set.Lists)
}

// follow finds the address sets that hold a few other addresses than before, in all sets of
// rules that name them: their lists can keep their numbers. It knows who names a list by the
// place of the list, so that a set whose list is at another place is read again.
func (c *Compiler) follow(sets []policy.Set) (out []followedList) {
	mapped := map[int]followedList{} // by number; without to: another's list, too
	pairs := map[listMaps]*compiled{}
	for i := range sets {
		if last := c.sets[sets[i].ID()]; last != nil {
			pairs[mapsOf(last, &sets[i])] = last
		}
	}
	for i := range sets {
		last := c.sets[sets[i].ID()]
		if last == nil || pairs[mapsOf(last, &sets[i])] != last || sameLists(last, &sets[i]) {
			continue
		}
		c.eachList(last, &sets[i], func(n int, f followedList) {
			if f.from == f.to {
				return
			}
			if has, ok := mapped[n]; ok && (has.from != f.from || has.to != f.to) {
				f.to = policy.ListID{}
			}
			mapped[n] = f
		})
	}
	if len(mapped) == 0 {
		return nil
	}
	keeps := func(n int) {
		if f, ok := mapped[n]; ok {
			f.to = policy.ListID{}
			mapped[n] = f
		}
	}
	for i := range sets {
		last := c.sets[sets[i].ID()]
		switch {
		case last == nil:
		case sameLists(last, &sets[i]):
			for _, n := range last.lists {
				keeps(n)
			}
		case pairs[mapsOf(last, &sets[i])] == last:
			c.eachList(last, &sets[i], func(n int, f followedList) {
				if f.from == f.to {
					keeps(n)
				}
			})
		}
	}
	claimed := map[policy.ListID]bool{}
	for n, f := range mapped {
		l := &c.lists.lists[n]
		_, taken := c.lists.known[f.to]
		if f.to == (policy.ListID{}) || taken || claimed[f.to] || l.own {
			continue
		}
		gone, put, ok := prefixesApart(f.was, f.is)
		if !ok {
			continue
		}
		claimed[f.to] = true // by one number alone
		f.listChange = listChange{uint32(n), gone, put}
		out = append(out, f)
	}
	return out
}

// eachList goes over the lists that a set has by the same names as before.
func (c *Compiler) eachList(last *compiled, set *policy.Set, do func(n int, f followedList)) {
	for name, list := range set.Lists {
		old, ok := last.set.Lists[name]
		from, to := policy.IDOf(old), policy.IDOf(list)
		k, known := c.lists.known[from]
		if !ok || !known {
			continue
		}
		if !k.merged && from != to {
			to = policy.ListID{}
		}
		do(k.number, followedList{from: from, to: to, was: old, is: list})
	}
}

// apply has followed lists be the new ones.
func (c *Compiler) apply(changes []followedList) {
	for _, f := range changes {
		n := int(f.list)
		l := &c.lists.lists[n]
		c.followed = true
		delete(c.lists.index, l.sum)
		_, _ = crand.Read(l.sum[:]) // to hash a large list takes longer than all else here
		c.lists.index[l.sum] = n
		maps.DeleteFunc(c.lists.known, func(_ policy.ListID, k known) bool { return k.number == n })
		c.lists.known[f.to] = known{n, true}
		l.ranges, l.prefixes = f.is, l.prefixes+len(f.put)-len(f.gone)
	}
}

// reclassify gives the classes of the lists in use: those that there are, these changed, or new ones.
func (c *Compiler) reclassify(used []int, followed []followedList) (_ *classes, patched bool) {
	anew := func() (*classes, bool) { return classify(c.lists.lists, used), false }
	if c.classes == nil {
		return anew()
	}
	has := func(list []int, n int) bool { _, ok := slices.BinarySearch(list, n); return ok }
	var changes []listChange
	count := 0
	for _, f := range followed {
		changes = append(changes, f.listChange)
		count += len(f.gone) + len(f.put)
	}
	differ := func(list, other []int, change func(l *listChange, all []prefix)) {
		for _, n := range list {
			if has(other, n) {
				continue
			}
			if count += c.lists.lists[n].prefixes; count > fewPrefixes {
				return
			}
			l := listChange{list: uint32(n)}
			var all []prefix
			for _, s := range normalize(c.lists.lists[n].ranges) {
				all = s.appendPrefixes(all)
			}
			change(&l, all)
			changes = append(changes, l)
		}
	}
	differ(c.used, used, func(l *listChange, all []prefix) { l.gone = all })
	differ(used, c.used, func(l *listChange, all []prefix) { l.put = all })
	switch {
	case count > fewPrefixes:
		return anew()
	case count == 0:
		return c.classes, false
	}
	c.patched = true
	if next, ok := c.classes.change(len(c.lists.lists), changes); ok {
		return next, true
	}
	return anew()
}

// prefixesApart gives the prefixes that only one of two lists comes to. The first is known to be
// as policy.MergeRanges has it and to pass checkRanges, so the second is checked only where it
// differs. ok is false if it fails, or the prefixes are many.
func prefixesApart(was, is []policy.AddrRange) (gone, put []prefix, ok bool) {
	short, head, tail := min(len(was), len(is)), 0, 0
	for head < short && was[head] == is[head] {
		head++
	}
	for tail < short-head && was[len(was)-1-tail] == is[len(is)-1-tail] {
		tail++
	}
	if other := is[max(head-1, 0):min(len(is)-tail+1, len(is))]; checkRanges(other) != nil || !merged(other) {
		return nil, nil, false
	}
	was, is = was[head:len(was)-tail], is[head:len(is)-tail]
	apart := map[prefix]int{}
	add := func(r policy.AddrRange, n int) {
		s := span{r.First.Is4(), toU128(r.First), toU128(r.Last)}
		for _, p := range s.appendPrefixes(nil) {
			apart[p] += n
		}
	}
	for (len(was) > 0 || len(is) > 0) && len(apart) <= 4*fewPrefixes {
		c := 1 // what is only in is comes first
		if len(is) == 0 {
			c = -1
		} else if len(was) > 0 {
			c = cmp.Or(was[0].First.Compare(is[0].First), was[0].Last.Compare(is[0].Last))
		}
		if c < 0 {
			add(was[0], -1)
		}
		if c > 0 {
			add(is[0], 1)
		}
		if c <= 0 {
			was = was[1:]
		}
		if c >= 0 {
			is = is[1:]
		}
	}
	for p, n := range apart {
		switch {
		case n < 0:
			gone = append(gone, p)
		case n > 0:
			put = append(put, p)
		}
	}
	slices.SortFunc(gone, prefix.compare)
	slices.SortFunc(put, prefix.compare)
	return gone, put, len(was)+len(is) == 0 && len(gone)+len(put) <= fewPrefixes
}

// merged says whether a list is in order, and its ranges neither overlap nor touch.
func merged(list []policy.AddrRange) bool {
	for i := range list {
		if i == 0 {
			continue
		}
		a, b := list[i-1], list[i]
		if a.Last.BitLen() == b.First.BitLen() {
			if next := a.Last.Next(); !next.IsValid() || !next.Less(b.First) {
				return false
			}
		} else if !a.Last.Less(b.First) {
			return false
		}
	}
	return true
}

// read finds what the rules of a set that has passed check come to.
func (c *Compiler) read(n *compiled, counters Counters) error {
	all, err := lines(&n.set)
	if err != nil {
		return err
	}
	n.rules, n.places = monitoredLast(all)
	seen := map[int]bool{}
	for i := range n.rules {
		r := &n.rules[i]
		p := peers{
			src:   c.lists.side(r.Sources, r.SourceSets, r.NotSources, n.set.Lists),
			dst:   c.lists.side(r.Destinations, r.DestinationSets, r.NotDestinations, n.set.Lists),
			local: c.lists.side(nil, r.LocalSets, false, n.set.Lists),
		}
		n.sides = append(n.sides, p)
		for _, list := range slices.Concat(p.src.lists, p.dst.lists, p.local.lists) {
			seen[list] = true
		}
	}
	n.lists = slices.Sorted(maps.Keys(seen))
	n.counters, n.from = countersOf(&n.set, counters), counters
	return c.lists.tooLarge(n)
}

// listsOf gives the numbers of the lists that sets name, sorted, and their highest counter.
func listsOf(sets map[string]*compiled) (used []int, highest uint32) {
	seen := map[int]bool{}
	for _, n := range sets {
		for _, list := range n.lists {
			seen[list] = true
		}
		highest = max(highest, slices.Max(n.counters))
	}
	return slices.Sorted(maps.Keys(seen)), highest
}

// Allocate is the function Allocate, for the sets that Build is given next: where they have the
// rules of the last ones, and prev is what these had, it asks for no rule's number.
func (c *Compiler) Allocate(prev Counters, sets []policy.Set) (Counters, error) {
	if len(sets) == 0 || len(sets) != len(c.sets) {
		return Allocate(prev, sets)
	}
	for i := range sets {
		last := c.sets[sets[i].ID()]
		if last == nil || mapAt(last.from) != mapAt(prev) || !sameKeys(last.set.Rules, sets[i].Rules) {
			return Allocate(prev, sets)
		}
	}
	return prev, nil
}

// sameKeys says whether rules have the same numbers.
func sameKeys(a, b []policy.Rule) bool {
	if len(a) != len(b) || len(a) == 0 || &a[0] == &b[0] {
		return len(a) == len(b)
	}
	for i := range a {
		if a[i].Key != b[i].Key {
			return false
		}
	}
	return true
}

// countersOf are the counters of a set's rules and of its default.
func countersOf(set *policy.Set, counters Counters) []uint32 {
	out := make([]uint32, 0, len(set.Rules)+1)
	for i := range set.Rules {
		out = append(out, counters[set.Rules[i].Key])
	}
	return append(out, counters[policy.DefaultKey(set.Network)])
}

// holds says whether a set would come to the same: it has the same rules, lists and counters.
// lists says whether two maps of lists are the same.
func (n *compiled) holds(set *policy.Set, counters Counters, lists func(last *compiled, set *policy.Set) bool) bool {
	was := &n.set
	if was.Network != set.Network || was.Variant != set.Variant || was.Default != set.Default || len(was.Rules) != len(set.Rules) {
		return false
	}
	if len(set.Rules) > 0 && &set.Rules[0] != &was.Rules[0] {
		for i := range set.Rules {
			if !sameRule(&was.Rules[i], &set.Rules[i]) {
				return false
			}
		}
	}
	if mapAt(counters) != mapAt(n.from) {
		for i := range set.Rules {
			if number, ok := counters[set.Rules[i].Key]; !ok || number != n.counters[i] {
				return false
			}
		}
		if number, ok := counters[policy.DefaultKey(set.Network)]; !ok || number != n.counters[len(set.Rules)] {
			return false
		}
	}
	return lists(n, set) && maps.EqualFunc(was.ServiceLists, set.ServiceLists, sameSlice)
}

// alikeLists compares maps of lists, those that sets share once. A list that was followed is the
// same.
func alikeLists(followed map[policy.ListID]policy.ListID) func(last *compiled, set *policy.Set) bool {
	found := map[listMaps]bool{}
	same := func(a, b []policy.AddrRange) bool {
		from, ok := followed[policy.IDOf(b)]
		return ok && from == policy.IDOf(a) || policy.IDOf(a) == policy.IDOf(b)
	}
	return func(last *compiled, set *policy.Set) bool {
		if sameLists(last, set) {
			return true
		}
		pair := mapsOf(last, set)
		alike, ok := found[pair]
		if !ok {
			alike = maps.EqualFunc(last.set.Lists, set.Lists, same)
			found[pair] = alike
		}
		return alike
	}
}

// sameRule says whether two rules are the same in every field.
func sameRule(a, b *policy.Rule) bool {
	return a.Key == b.Key && a.Name == b.Name && a.Action == b.Action && a.Directions == b.Directions &&
		a.NotSources == b.NotSources && a.NotDestinations == b.NotDestinations && a.Implied == b.Implied && a.Ethernet == b.Ethernet && a.Tier == b.Tier &&
		a.Stateless == b.Stateless && a.Loose == b.Loose && a.Firm == b.Firm && a.Log == b.Log && a.LogLabel == b.LogLabel &&
		a.Disabled == b.Disabled && a.Monitored == b.Monitored &&
		sameSlice(a.Sources, b.Sources) && sameSlice(a.Destinations, b.Destinations) && sameSlice(a.Services, b.Services) &&
		sameSlice(a.SourceSets, b.SourceSets) && sameSlice(a.DestinationSets, b.DestinationSets) &&
		sameSlice(a.LocalSets, b.LocalSets) && sameSlice(a.ServiceSets, b.ServiceSets)
}

// mapAt tells one map, which nobody changes, from another.
func mapAt[K comparable, V any](m map[K]V) unsafe.Pointer { return reflect.ValueOf(m).UnsafePointer() }

// sameSlice is slices.Equal that tells nil, which is Any, from an empty list, and sees at
// once that a slice is the same one.
func sameSlice[S ~[]T, T comparable](a, b S) bool {
	if (a == nil) != (b == nil) || len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b)
}
