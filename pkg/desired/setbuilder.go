package desired

import (
	"maps"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// SetBuilder gives what PolicySet and PolicySets of the snapshot in use give. What a set
// has in common with the one of the snapshot in use before, it has from there: the same
// rules, or the same maps of lists, which is quick to make, and quick to see. Nobody may change
// what it gives. The zero SetBuilder is ready for Use; it is for one caller at a time.
type SetBuilder struct {
	snap *Snapshot
	// sets are by ID: those that were asked for since Use, and before it.
	sets, before map[string]builtSet
	// Names of lists that are others than before. renamed: some have come or gone.
	lists, serviceLists map[string]bool
	renamed             bool
}

type builtSet struct {
	chunks []chunk
	policy.Set
}

// Use turns to another snapshot.
func (b *SetBuilder) Use(s *Snapshot) {
	if s == b.snap {
		return
	}
	last := b.snap
	if last == nil {
		last = &Snapshot{}
	}
	b.snap, b.before, b.sets = s, b.sets, map[string]builtSet{}
	b.lists = othersIn(last.lists, s.lists, func(a, b expanded) bool { return policy.IDOf(a.ranges) == policy.IDOf(b.ranges) })
	b.serviceLists = othersIn(last.serviceLists, s.serviceLists, func(a, b []policy.Service) bool { return slices.Equal(a, b) })
	b.renamed = !sameNames(last.lists, s.lists) || !sameNames(last.serviceLists, s.serviceLists)
}

func othersIn[T any](was, is map[string]T, same func(a, b T) bool) map[string]bool {
	out := map[string]bool{}
	for name, list := range is {
		if old, ok := was[name]; ok && !same(old, list) {
			out[name] = true
		}
	}
	return out
}

func sameNames[T any](was, is map[string]T) bool {
	if len(was) != len(is) {
		return false
	}
	for name := range is {
		if _, ok := was[name]; !ok {
			return false
		}
	}
	return true
}

// PolicySets is that of the snapshot.
func (b *SetBuilder) PolicySets() []policy.Set { return b.snap.policySets(b.set) }

// PolicySet is that of the snapshot.
func (b *SetBuilder) PolicySet(network string, pod PodRef) policy.Set {
	return b.set(b.snap.portOf(network, pod))
}

func (b *SetBuilder) set(at port) policy.Set {
	set := b.snap.emptySet(at)
	id := set.ID()
	if made, ok := b.sets[id]; ok {
		return made.Set
	}
	chunks := b.snap.chunks(at)
	was, ok := b.before[id]
	if ok && slices.EqualFunc(was.chunks, chunks, func(a, b chunk) bool { return a.same(&b) }) {
		set.Rules = was.Rules
	} else {
		ok = false
		set.Rules = rulesOf(chunks)
	}
	if ok && !b.renamed {
		set.Lists = others(was.Lists, b.lists, func(name string) []policy.AddrRange { return b.snap.lists[name].ranges })
		set.ServiceLists = others(was.ServiceLists, b.serviceLists, func(name string) []policy.Service { return b.snap.serviceLists[name] })
	} else {
		b.snap.useLists(&set)
	}
	b.sets[id] = builtSet{chunks, set}
	return set
}

// others gives a map that has the lists as they are now of names that it has; the same map if
// none of these has changed.
func others[T any](was map[string]T, changed map[string]bool, is func(name string) T) map[string]T {
	out, own := was, false
	for name := range changed {
		if _, ok := was[name]; !ok {
			continue
		}
		if !own {
			out, own = maps.Clone(was), true
		}
		out[name] = is(name)
	}
	return out
}
