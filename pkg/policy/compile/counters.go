package compile

import (
	"fmt"
	"iter"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Allocate gives every rule and default of sets a counter. A key of prev keeps
// its number. A new key gets the lowest number that prev did not use, because
// packets still judged by the previous generation count there; only when none
// is left does it get the lowest of the numbers given up now. Numbers given up
// are free in the next step. Whoever applies the result has to clear counters
// that changed hands. Where nothing changes it gives prev itself: nobody may write to
// either.
//
// Sets are served in the order of their IDs. When the counters run out
// the error is a [*RefusedError] with the networks that did not fit, as for
// [Build]: their last good sets do fit, since prev has their keys.
func Allocate(prev Counters, sets []policy.Set) (Counters, error) {
	sets = sorted(sets)
	missing, kept := false, 0
	seen := make([]bool, CountersMax)
	for i := range sets {
		for key := range keys(&sets[i]) {
			n, ok := prev[key]
			missing = missing || !ok || n >= CountersMax
			if ok && n < CountersMax && !seen[n] {
				seen[n] = true
				kept++
			}
		}
	}
	if !missing && len(prev) > 0 && kept == len(prev) {
		return prev, nil
	}
	next := make(Counters, len(prev))
	for i := range sets {
		for key := range keys(&sets[i]) {
			if n, ok := prev[key]; ok && n < CountersMax {
				next[key] = n
			}
		}
	}
	if !missing {
		return next, nil
	}
	free := freeNumbers(prev, next)
	var bad refusals
	for i := range sets {
		var missing []policy.RuleKey
		seen := map[policy.RuleKey]bool{}
		for key := range keys(&sets[i]) {
			if _, ok := next[key]; !ok && !seen[key] {
				seen[key] = true
				missing = append(missing, key)
			}
		}
		if len(missing) > len(free) {
			bad.add(sets[i].ID(), fmt.Errorf("its %d new rules (and default) need counters, but only %d of the node's %d are left: "+
				"apply policies to fewer networks, or join rules", len(missing), len(free), CountersMax))
			continue
		}
		for n, key := range missing {
			next[key] = free[n]
		}
		free = free[len(missing):]
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	return next, nil
}

// keys are the keys of a set's rules and of its default.
func keys(set *policy.Set) iter.Seq[policy.RuleKey] {
	return func(yield func(policy.RuleKey) bool) {
		if !yield(policy.DefaultKey(set.Network)) {
			return
		}
		for i := range set.Rules {
			if !yield(set.Rules[i].Key) {
				return
			}
		}
	}
}

// freeNumbers lists the numbers that kept does not use: first those that prev
// did not use either.
func freeNumbers(prev, kept Counters) []uint32 {
	inPrev, inKept := make([]bool, CountersMax), make([]bool, CountersMax)
	for _, n := range prev {
		if n < CountersMax {
			inPrev[n] = true
		}
	}
	for _, n := range kept {
		if n < CountersMax {
			inKept[n] = true
		}
	}
	var unused, givenUp []uint32
	for n := range uint32(CountersMax) {
		switch {
		case !inPrev[n]:
			unused = append(unused, n)
		case !inKept[n]:
			givenUp = append(givenUp, n)
		}
	}
	return append(unused, givenUp...)
}
