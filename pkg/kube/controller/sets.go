package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// sets look after the sets of a kind: what they hold with those that they include. A
// set is Ready when a rule can use it.
type sets struct {
	*writer
	judge *judge
	setKind
}

// setKind is how sets of a kind differ from others.
type setKind struct {
	kind, noun string
	one        func() client.Object
	list       func() client.ObjectList
	includes   func(client.Object) []string
	// own gives the items of a set itself, which are comparable, and what is wrong with
	// others, by field.
	own    func(client.Object) (items []any, bad []string)
	status func(client.Object) (items *int32, conditions *[]metav1.Condition)
}

var addressSets = setKind{
	kind: v1alpha1.KindAddressSet, noun: "addresses",
	one:      func() client.Object { return new(v1alpha1.AddressSet) },
	list:     func() client.ObjectList { return new(v1alpha1.AddressSetList) },
	includes: func(o client.Object) []string { return o.(*v1alpha1.AddressSet).Spec.Includes },
	own: func(o client.Object) (items []any, bad []string) {
		for i, text := range o.(*v1alpha1.AddressSet).Spec.Addresses {
			if first, last, err := v1alpha1.ParseSpan(text); err != nil {
				bad = append(bad, fmt.Sprintf("spec.addresses[%d]: %q %v", i, text, err))
			} else {
				items = append(items, [2]netip.Addr{first, last})
			}
		}
		return items, bad
	},
	status: func(o client.Object) (*int32, *[]metav1.Condition) {
		s := &o.(*v1alpha1.AddressSet).Status
		return &s.Addresses, &s.Conditions
	},
}

var serviceSets = setKind{
	kind: v1alpha1.KindServiceSet, noun: "services",
	one:      func() client.Object { return new(v1alpha1.ServiceSet) },
	list:     func() client.ObjectList { return new(v1alpha1.ServiceSetList) },
	includes: func(o client.Object) []string { return o.(*v1alpha1.ServiceSet).Spec.Includes },
	own: func(o client.Object) (items []any, bad []string) {
		for i := range o.(*v1alpha1.ServiceSet).Spec.Services {
			one := v1alpha1.ServiceSet{Spec: v1alpha1.ServiceSetSpec{Services: o.(*v1alpha1.ServiceSet).Spec.Services[i : i+1]}}
			one.Name = o.GetName()
			errs := v1alpha1.ValidateServiceSet(&one)
			for _, err := range errs {
				bad = append(bad, fmt.Sprintf("%s: %s", strings.Replace(err.Field, "services[0]", fmt.Sprintf("services[%d]", i), 1), err.ErrorBody()))
			}
			if text, err := json.Marshal(&one.Spec.Services[0]); err == nil && len(errs) == 0 {
				items = append(items, string(text))
			}
		}
		return items, bad
	},
	status: func(o client.Object) (*int32, *[]metav1.Condition) {
		s := &o.(*v1alpha1.ServiceSet).Status
		return &s.Services, &s.Conditions
	},
}

func (c *Controller) addSets(s *sets) error {
	return c.control(strings.ToLower(s.kind), 2, by(s.reconcile), s.one(), []watch{
		{s.one(), reaction{whom: s.includers, when: newSpec, after: c.settle}},
	}, c.verdicts(s.kind))
}

// includers names the sets that include one, directly or by others.
func (s *sets) includers(ctx context.Context, o client.Object) []string {
	seen := map[string]bool{o.GetName(): true}
	found := []string{o.GetName()}
	for i := 0; i < len(found); i++ {
		list := s.list()
		if err := s.List(ctx, list, client.MatchingFields{byIncludes: found[i]}, client.UnsafeDisableDeepCopy); err != nil {
			return nil // from memory: only at the end
		}
		_ = meta.EachListItem(list, func(o runtime.Object) error {
			if name := o.(client.Object).GetName(); !seen[name] {
				seen[name] = true
				found = append(found, name)
			}
			return nil
		})
	}
	return found[1:]
}

func (s *sets) reconcile(ctx context.Context, name string) error {
	set := s.one()
	if err := s.Get(ctx, client.ObjectKey{Name: name}, set); err != nil {
		return client.IgnoreNotFound(err)
	}
	problems, known := s.judge.of(set)
	if !known {
		return nil
	}
	e := expansion{sets: s, held: map[any]bool{}, state: map[string]int{}}
	if err := e.add(ctx, set); err != nil {
		return err
	}
	before := set.DeepCopyObject().(client.Object)
	items, conditions := s.status(set)
	*items = int32(len(e.held))
	meta.SetStatusCondition(conditions, e.ready(set, problems))
	_, was := s.status(before)
	return s.publish(ctx, before, set, *was, *conditions)
}

// expansion is a set with all that it includes.
type expansion struct {
	sets  *sets
	held  map[any]bool
	state map[string]int // of sets: entered or left
	path  []string
	// What is wrong, in the order of being found.
	bad, cycles, missing []string
}

const (
	entered = iota + 1
	left
)

func (e *expansion) add(ctx context.Context, set client.Object) error {
	e.state[set.GetName()] = entered
	e.path = append(e.path, set.GetName())
	items, bad := e.sets.own(set)
	for _, item := range items {
		e.held[item] = true
	}
	for _, what := range bad {
		if len(e.path) > 1 {
			what = fmt.Sprintf("%s %s, %s", e.sets.kind, set.GetName(), what)
		}
		e.bad = append(e.bad, what)
	}
	for _, name := range e.sets.includes(set) {
		switch e.state[name] {
		case left:
			continue
		case entered:
			e.cycles = append(e.cycles, strings.Join(append(slices.Clone(e.path[slices.Index(e.path, name):]), name), " -> "))
			continue
		}
		next := e.sets.one()
		if err := e.sets.Get(ctx, client.ObjectKey{Name: name}, next, client.UnsafeDisableDeepCopy); client.IgnoreNotFound(err) != nil {
			return err
		} else if err != nil {
			e.state[name] = left
			e.missing = append(e.missing, fmt.Sprintf("%s (included by %s)", name, set.GetName()))
			continue
		}
		if err := e.add(ctx, next); err != nil {
			return err
		}
	}
	e.path = e.path[:len(e.path)-1]
	e.state[set.GetName()] = left
	return nil
}

// ready says what is wrong with a set: what was found on the way, for that has a reason
// of its own, else what problems says.
func (e *expansion) ready(set client.Object, problems string) metav1.Condition {
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
	return ready(set, true, v1alpha1.ReasonReady, fmt.Sprintf("has %d of its own and included %s", len(e.held), e.sets.noun))
}
