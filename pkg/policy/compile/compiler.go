package compile

import (
	"errors"
	"maps"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Compiler compiles what a node enforces again and again, and what is as it was the last time
// costs next to nothing: a policy whose rules have not changed is not compiled again, and
// the classes of addresses stay if no list has changed. What it gives is what
// [Build] gives. It keeps the sets that it was given last; they must not be changed. The zero
// Compiler is ready; it is for one caller at a time.
type Compiler struct {
	lists   peerLists
	used    []int // numbers of the lists that classes are of, sorted
	classes *classes
	sets    map[string]*compiled // by ID
}

// compiled is a set and what it came to.
type compiled struct {
	set      policy.Set
	counters []uint32 // of the rules and of the default
	// What lines, monitoredLast and side made of the rules.
	rules  []policy.Rule
	places []uint32
	sides  []peers
	lists  []int // that sides name, sorted
	// The policy, and the classes that it is for; nil if there is none yet.
	policy  Policy
	classes *classes
}

// staleLists is how many numbers of lists that nobody names any more are put up with.
const staleLists = 1024

// Build compiles as the function Build does. After an error everything is as before.
func (c *Compiler) Build(in Input) (*Program, error) {
	if len(c.lists.lists) > 2*len(c.used)+staleLists {
		*c = Compiler{}
	}
	sets := sorted(in.Sets)
	next := make(map[string]*compiled, len(sets))
	var bad refusals
	checked := map[policy.ListID]error{}
	for i := range sets {
		set := &sets[i]
		id := set.ID()
		if next[id] != nil {
			bad.add(id, errors.New("has more than one set: give each network one"))
			continue
		}
		if last := c.sets[id]; last != nil && last.holds(set, in.Counters) {
			again := *last
			again.set = *set
			next[id] = &again
			continue
		}
		next[id] = &compiled{set: *set}
		bad.add(id, check(set, in.Counters, checked))
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	for i := range sets {
		n := next[sets[i].ID()]
		if n.counters != nil {
			continue
		}
		bad.add(sets[i].ID(), c.read(n, in.Counters))
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	for _, n := range next {
		for _, list := range n.lists {
			seen[list] = true
		}
	}
	used, classes := slices.Sorted(maps.Keys(seen)), c.classes
	if classes == nil || !slices.Equal(used, c.used) {
		classes = classify(c.lists.lists, used)
	}
	w := writer{counters: in.Counters, classes: classes, naming: make([][]uint16, len(c.lists.lists)), rowOf: make([]uint32, len(classes.sets))}
	p := &Program{Addrs: classes.addrs}
	for i := range sets {
		n := next[sets[i].ID()]
		if n.classes != classes {
			var err error
			n.policy, err = w.policy(&n.set, n.rules, n.places, n.sides)
			n.classes = classes
			bad.add(sets[i].ID(), err)
		}
		p.Policies = append(p.Policies, n.policy)
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	c.lists.keep(used)
	c.sets, c.used, c.classes = next, used, classes
	p.Hash = hash(classes.sum, p.Policies)
	return p, nil
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
			src: c.lists.side(r.Sources, r.SourceSets, r.NotSources, n.set.Lists),
			dst: c.lists.side(r.Destinations, r.DestinationSets, r.NotDestinations, n.set.Lists),
		}
		n.sides = append(n.sides, p)
		for _, list := range slices.Concat(p.src.lists, p.dst.lists) {
			seen[list] = true
		}
	}
	n.lists = slices.Sorted(maps.Keys(seen))
	n.counters = countersOf(&n.set, counters)
	return c.lists.tooLarge(n.rules, n.sides)
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
func (n *compiled) holds(set *policy.Set, counters Counters) bool {
	was := &n.set
	if was.Network != set.Network || was.Variant != set.Variant || was.Default != set.Default || len(was.Rules) != len(set.Rules) {
		return false
	}
	for i := range set.Rules {
		key := set.Rules[i].Key
		if number, ok := counters[key]; !ok || number != n.counters[i] || !sameRule(&was.Rules[i], &set.Rules[i]) {
			return false
		}
	}
	if number, ok := counters[policy.DefaultKey(set.Network)]; !ok || number != n.counters[len(set.Rules)] {
		return false
	}
	return maps.EqualFunc(was.Lists, set.Lists, sameSlice) && maps.EqualFunc(was.ServiceLists, set.ServiceLists, sameSlice)
}

// sameRule says whether two rules are the same in every field.
func sameRule(a, b *policy.Rule) bool {
	x, y := *a, *b
	if !sameSlice(x.Sources, y.Sources) || !sameSlice(x.Destinations, y.Destinations) || !sameSlice(x.Services, y.Services) ||
		!sameSlice(x.SourceSets, y.SourceSets) || !sameSlice(x.DestinationSets, y.DestinationSets) || !sameSlice(x.ServiceSets, y.ServiceSets) {
		return false
	}
	return x.Key == y.Key && x.Name == y.Name && x.Action == y.Action && x.Directions == y.Directions &&
		x.NotSources == y.NotSources && x.NotDestinations == y.NotDestinations && x.Implied == y.Implied && x.Tier == y.Tier &&
		x.Stateless == y.Stateless && x.Loose == y.Loose && x.Log == y.Log && x.LogLabel == y.LogLabel &&
		x.Disabled == y.Disabled && x.Monitored == y.Monitored
}

// sameSlice is slices.Equal that tells nil, which is Any, from an empty list, and sees at
// once that a slice is the same one.
func sameSlice[S ~[]T, T comparable](a, b S) bool {
	if (a == nil) != (b == nil) || len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b)
}
