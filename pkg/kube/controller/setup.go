package controller

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrl "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// By what objects are found in the cache.
const (
	byTrunk    = "spec.trunk"    // VLANNetwork, VLANTrunkNode, VMPort
	byNetwork  = "spec.network"  // VMPort
	byNode     = "spec.node"     // VMPort, VLANTrunkNode, Pod
	byIncludes = "spec.includes" // AddressSet, ServiceSet
)

func (c *Controller) setup(ctx context.Context) error {
	w := &writer{Client: c.mgr.GetClient(), live: c.mgr.GetAPIReader(), events: c.mgr.GetEventRecorder("homeport-controller")}
	var missing *agents
	if c.cfg.WatchAgents {
		missing = newAgents(w, c.grace)
	}
	for _, do := range []func() error{
		func() error { return c.index(ctx) },
		func() error { return c.judge.watch(ctx) },
		func() error { return c.addTrunks(&trunks{writer: w, judge: c.judge, agents: missing, word: c.word}) },
		func() error { return c.addNetworks(&networks{writer: w, judge: c.judge, nads: c.nads}) },
		func() error { return c.addPolicies(&policies{writer: w, judge: c.judge, watching: map[string]bool{}}) },
		func() error { return c.addSets(&sets{w, c.judge, addressSets}) },
		func() error { return c.addSets(&sets{w, c.judge, serviceSets}) },
		func() error { return c.addChecks(&checks{writer: w, judge: c.judge}) },
		func() error { return c.addNodes(&nodes{writer: w, log: c.cfg.Log}) },
		func() error { return c.mgr.Add(c.judge) },
		func() error { return c.mgr.Add(c.nads) },
		func() error { return c.addFabricKey(w) },
		c.readOnce,
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// index is how objects of a kind are found in the cache.
type index struct {
	o     client.Object
	field string
	of    client.IndexerFunc
}

func (c *Controller) index(ctx context.Context) error {
	all := []index{
		{judged(v1alpha1.KindVLANNetwork), byTrunk, func(o client.Object) []string { return []string{trunkOf(o)} }},
		{&v1alpha1.VLANTrunkNode{}, byTrunk, func(o client.Object) []string { return []string{trunkOf(o)} }},
		{&v1alpha1.VLANTrunkNode{}, byNode, func(o client.Object) []string { return []string{nodeOf(o)} }},
		{&v1alpha1.VMPort{}, byTrunk, func(o client.Object) []string { return []string{trunkOf(o)} }},
		{&v1alpha1.VMPort{}, byNode, func(o client.Object) []string { return []string{nodeOf(o)} }},
		{&v1alpha1.VMPort{}, byNetwork, func(o client.Object) []string { return []string{networkOf(o)} }},
		{addressSets.one(), byIncludes, addressSets.includes},
		{serviceSets.one(), byIncludes, serviceSets.includes},
	}
	if c.cfg.WatchAgents {
		all = append(all, index{&corev1.Pod{}, byNode, func(o client.Object) []string { return []string{nodeOf(o)} }})
	}
	for _, i := range all {
		if err := c.mgr.GetFieldIndexer().IndexField(ctx, i.o, i.field, i.of); err != nil {
			return err
		}
	}
	return nil
}

// trunkOf is the trunk that an object names.
func trunkOf(o client.Object) string {
	switch o := o.(type) {
	case *unstructured.Unstructured:
		name, _, _ := unstructured.NestedString(o.Object, "spec", "trunk")
		return name
	case *v1alpha1.VLANTrunkNode:
		return o.Spec.Trunk
	case *v1alpha1.VMPort:
		return o.Spec.Trunk
	}
	return ""
}

// nodeOf is the node that an object is of.
func nodeOf(o client.Object) string {
	switch o := o.(type) {
	case *v1alpha1.VMPort:
		return o.Spec.Node
	case *v1alpha1.VLANTrunkNode:
		return o.Spec.Node
	case *corev1.Pod:
		return o.Spec.NodeName
	}
	return o.GetName()
}

// networkOf is the network that a port is on.
func networkOf(o client.Object) string {
	if p, ok := o.(*v1alpha1.VMPort); ok {
		return p.Spec.Network
	}
	return ""
}

// one makes a look-up of a single name.
func one(of func(client.Object) string) func(context.Context, client.Object) []string {
	return func(_ context.Context, o client.Object) []string { return []string{of(o)} }
}

// watch is a kind and what its changes mean.
type watch struct {
	o client.Object
	h handler.EventHandler
}

// control adds a controller: own is the kind that it looks after, or nil.
func (c *Controller) control(name string, workers int, do reconcile.Reconciler, own client.Object, others []watch, more ...source.Source) error {
	k, err := ctrl.New(name, c.mgr, ctrl.Options{Reconciler: do, MaxConcurrentReconciles: workers})
	if err != nil {
		return err
	}
	if own != nil {
		others = append(others, watch{own, &handler.EnqueueRequestForObject{}})
	}
	for _, w := range others {
		more = append(more, source.Kind(c.mgr.GetCache(), w.o, w.h))
	}
	for _, s := range more {
		if err := k.Watch(s); err != nil {
			return err
		}
	}
	return nil
}

// verdicts is the source of those of a kind of which something else is said.
func (c *Controller) verdicts(kind string) source.Source {
	return told(0, func(add func(string)) { c.judge.onVerdict(kind, add) })
}

// namesOf lists the names of judged objects of a kind by an index.
func namesOf(ctx context.Context, r client.Reader, kind, field, value string) ([]string, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
	if err := r.List(ctx, list, client.MatchingFields{field: value}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].GetName())
	}
	return names, nil
}

// fetch reads a judged object; nil if there is none.
func fetch[T any](ctx context.Context, r client.Reader, kind, name string) (*T, error) {
	u := judged(kind)
	if err := r.Get(ctx, client.ObjectKey{Name: name}, u, client.UnsafeDisableDeepCopy); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return typed[T](u)
}
