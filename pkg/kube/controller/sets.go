package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// sets look after AddressSets: what they hold with those that they include. A set is
// Ready when a rule can use it.
type sets struct {
	*writer
	judge *judge
}

func (c *Controller) addSets(s *sets) error {
	return c.control("set", 2, by(s.reconcile), &v1alpha1.AddressSet{}, []watch{
		{&v1alpha1.AddressSet{}, reaction{whom: s.includers, when: newSpec, after: c.settle}},
	}, c.verdicts(v1alpha1.KindAddressSet))
}

// includers names the sets that include one, directly or by others.
func (s *sets) includers(ctx context.Context, o client.Object) []string {
	seen := map[string]bool{o.GetName(): true}
	found := []string{o.GetName()}
	for i := 0; i < len(found); i++ {
		var list v1alpha1.AddressSetList
		if err := s.List(ctx, &list, client.MatchingFields{byIncludes: found[i]}, client.UnsafeDisableDeepCopy); err != nil {
			return nil // from memory: only at the end
		}
		for i := range list.Items {
			if name := list.Items[i].Name; !seen[name] {
				seen[name] = true
				found = append(found, name)
			}
		}
	}
	return found[1:]
}

func (s *sets) reconcile(ctx context.Context, name string) error {
	var set v1alpha1.AddressSet
	if err := s.Get(ctx, client.ObjectKey{Name: name}, &set); err != nil {
		return client.IgnoreNotFound(err)
	}
	problems, known := s.judge.of(&set)
	if !known {
		return nil
	}
	e := expansion{sets: s, held: map[span]bool{}, state: map[string]int{}}
	if err := e.add(ctx, &set); err != nil {
		return err
	}
	before := set.DeepCopy()
	set.Status.Addresses = int32(len(e.held))
	meta.SetStatusCondition(&set.Status.Conditions, e.ready(&set, problems))
	return s.publish(ctx, before, &set, before.Status.Conditions, set.Status.Conditions)
}

// span is what an item of a set stands for, however it is written.
type span struct{ first, last netip.Addr }

// expansion is a set with all that it includes.
type expansion struct {
	sets  *sets
	held  map[span]bool
	state map[string]int // of sets: entered or left
	path  []string
	// What is wrong, in the order of being found.
	bad, cycles, missing []string
}

const (
	entered = iota + 1
	left
)

func (e *expansion) add(ctx context.Context, set *v1alpha1.AddressSet) error {
	e.state[set.Name] = entered
	e.path = append(e.path, set.Name)
	for i, text := range set.Spec.Addresses {
		first, last, err := v1alpha1.ParseSpan(text)
		if err != nil {
			where := fmt.Sprintf("spec.addresses[%d]", i)
			if len(e.path) > 1 {
				where = fmt.Sprintf("AddressSet %s, %s", set.Name, where)
			}
			e.bad = append(e.bad, fmt.Sprintf("%s: %q %v", where, text, err))
			continue
		}
		e.held[span{first, last}] = true
	}
	for _, name := range set.Spec.Includes {
		switch e.state[name] {
		case left:
			continue
		case entered:
			e.cycles = append(e.cycles, strings.Join(append(slices.Clone(e.path[slices.Index(e.path, name):]), name), " -> "))
			continue
		}
		var next v1alpha1.AddressSet
		if err := e.sets.Get(ctx, client.ObjectKey{Name: name}, &next, client.UnsafeDisableDeepCopy); client.IgnoreNotFound(err) != nil {
			return err
		} else if err != nil {
			e.state[name] = left
			e.missing = append(e.missing, fmt.Sprintf("%s (included by %s)", name, set.Name))
			continue
		}
		if err := e.add(ctx, &next); err != nil {
			return err
		}
	}
	e.path = e.path[:len(e.path)-1]
	e.state[set.Name] = left
	return nil
}

// ready says what is wrong with a set: what was found on the way, for that has a reason
// of its own, else what problems says.
func (e *expansion) ready(set *v1alpha1.AddressSet, problems string) metav1.Condition {
	switch {
	case len(e.bad) > 0:
		return ready(set, false, v1alpha1.ReasonRefused, some(e.bad, "; "))
	case len(e.cycles) > 0:
		return ready(set, false, v1alpha1.ReasonIncludesCycle,
			fmt.Sprintf("spec.includes goes in a circle: %s: take one of these includes out", some(e.cycles, "; ")))
	case len(e.missing) > 0:
		return ready(set, false, v1alpha1.ReasonIncludesMissing,
			fmt.Sprintf("spec.includes names sets that do not exist: %s: make them, or take them out", some(e.missing, ", ")))
	}
	if problems != "" {
		return ready(set, false, v1alpha1.ReasonRefused, problems)
	}
	return ready(set, true, v1alpha1.ReasonReady, fmt.Sprintf("has %d of its own and included addresses", len(e.held)))
}
