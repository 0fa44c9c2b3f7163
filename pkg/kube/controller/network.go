package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// networks look after VLANNetworks: their NetworkAttachmentDefinitions, the ports
// on them, and what those have to do to be up to date.
type networks struct {
	*writer
	judge *judge
	nads  *nads
}

func (c *Controller) addNetworks(n *networks) error {
	return c.control("network", 4, by(n.reconcile), judged(v1alpha1.KindVLANNetwork), []watch{
		{&v1alpha1.VMPort{}, reaction{whom: one(networkOf), when: newSpec, after: c.settle}},
		{judged(v1alpha1.KindVLANTrunk), reaction{whom: n.ofTrunk, when: otherTrunk, after: c.settle}},
		{judged(v1alpha1.KindReachabilityCheck), reaction{whom: n.requiring, when: newSpec, after: c.settle}},
		{namesOnly("Namespace"), reaction{whom: n.selecting, when: otherLabels, after: c.settle}},
	}, c.verdicts(v1alpha1.KindVLANNetwork),
		told(c.settle, func(add func(string)) {
			c.judge.onVerdict(v1alpha1.KindReachabilityCheck, func(string) {
				for _, name := range n.requiring(context.Background(), nil) {
					add(name)
				}
			})
		}),
		told(c.settle, func(add func(string)) { n.nads.onChange(add, func() { n.each(add) }) }))
}

// each names all networks.
func (n *networks) each(add func(name string)) {
	list, err := n.list(context.Background())
	for i := range list { // from memory: an error only at the end
		if err == nil {
			add(list[i].GetName())
		}
	}
}

func (n *networks) list(ctx context.Context) ([]unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(v1alpha1.KindVLANNetwork + "List"))
	err := n.List(ctx, list, client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// ofTrunk names the networks of a trunk.
func (n *networks) ofTrunk(ctx context.Context, o client.Object) []string {
	names, _ := namesOf(ctx, n, v1alpha1.KindVLANNetwork, byTrunk, o.GetName()) // from memory
	return names
}

// requiring names the networks that VMs may only use where a check finds them well.
func (n *networks) requiring(ctx context.Context, _ client.Object) []string {
	list, _ := n.list(ctx) // from memory
	var names []string
	for i := range list {
		if is, _, _ := unstructured.NestedBool(list[i].Object, "spec", "reachability", "required"); is {
			names = append(names, list[i].GetName())
		}
	}
	return names
}

// checked says whether a network that requires it is checked again and again.
func (n *networks) checked(ctx context.Context, network *v1alpha1.VLANNetwork) (bool, error) {
	if r := network.Spec.Reachability; r == nil || !r.Required {
		return true, nil
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(v1alpha1.KindReachabilityCheck + "List"))
	if err := n.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	for i := range list.Items {
		o, err := typed[v1alpha1.ReachabilityCheck](&list.Items[i])
		if err != nil {
			continue // its own status says so
		}
		if wrong, known := n.judge.of(o); wrong != "" || !known {
			continue // agents do not have it so
		}
		if c, errs := desired.FromCheck(o); len(errs) == 0 && c.Covers(network.Name) {
			return true, nil
		}
	}
	return false, nil
}

// selecting names the networks that select a namespace.
func (n *networks) selecting(ctx context.Context, ns client.Object) []string {
	list, _ := n.list(ctx) // from memory
	var names []string
	for i := range list {
		o, err := typed[v1alpha1.VLANNetwork](&list[i])
		if err != nil || o.Spec.Namespaces == nil {
			continue
		}
		s, err := metav1.LabelSelectorAsSelector(o.Spec.Namespaces)
		if err == nil && s.Matches(labels.Set(ns.GetLabels())) {
			names = append(names, o.Name)
		}
	}
	return names
}

func otherLabels(before, after client.Object) bool {
	return !maps.Equal(before.GetLabels(), after.GetLabels()) || !before.GetDeletionTimestamp().Equal(after.GetDeletionTimestamp())
}

// otherTrunk says whether a trunk changed in what its networks go by.
func otherTrunk(before, after client.Object) bool {
	state := func(o client.Object) readyState {
		t, err := typed[v1alpha1.VLANTrunk](o.(*unstructured.Unstructured))
		if err != nil {
			return readyState{}
		}
		return stateOf(meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionReady))
	}
	return newSpec(before, after) || state(before) != state(after)
}

func (n *networks) reconcile(ctx context.Context, name string) error {
	network, err := fetch[v1alpha1.VLANNetwork](ctx, n, v1alpha1.KindVLANNetwork, name)
	if network == nil {
		return err
	}
	trunk, err := fetch[v1alpha1.VLANTrunk](ctx, n, v1alpha1.KindVLANTrunk, network.Spec.Trunk)
	if err != nil {
		return err
	}
	var ports v1alpha1.VMPortList
	if err := n.List(ctx, &ports, client.MatchingFields{byNetwork: name}, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	s := state{network: network, trunk: trunk, ports: ports.Items}
	if s.checked, err = n.checked(ctx, network); err != nil {
		return err
	}
	if err := n.place(ctx, &s); err != nil {
		return err
	}
	if err := n.hold(ctx, network, len(s.ports) > 0); err != nil {
		return err
	}
	if !network.DeletionTimestamp.IsZero() && len(s.ports) == 0 {
		return nil
	}
	problems, known := n.judge.of(network)
	if !known || !s.looked || problems == "" && !s.trunkKnown() {
		return nil // each of these comes with a word
	}
	if s.selector != nil {
		problems = strings.Join(slices.DeleteFunc([]string{problems, s.selector.Error()}, func(s string) bool { return s == "" }), "; ")
	}
	before := network.DeepCopy()
	network.Status.Ports, network.Status.Namespaces = int32(len(s.ports)), int32(len(s.in))
	for _, c := range []metav1.Condition{s.ready(problems, n.nads.poll), s.migration(problems)} {
		meta.SetStatusCondition(&network.Status.Conditions, c)
	}
	err = n.publish(ctx, before, network, before.Status.Conditions, network.Status.Conditions)
	return errors.Join(append(slices.Clone(s.failed), err)...) // what failed is tried again
}

// place brings the network's NetworkAttachmentDefinitions about. They do not wait
// for a spec that can be in force: VMs are on the version before it.
func (n *networks) place(ctx context.Context, s *state) error {
	var namespaces metav1.PartialObjectMetadataList
	namespaces.SetGroupVersionKind(namesOnly("NamespaceList").GroupVersionKind())
	if err := n.List(ctx, &namespaces, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	want, living, err := selected(s.network, namespaces.Items)
	s.selected = len(want)
	reader, known, unread := n.nads.reader()
	s.looked, s.unread, s.noKind = known, unread, known && reader == nil && unread == nil
	if s.selector = err; err != nil || reader == nil {
		return nil
	}
	list := newNADList()
	if err := reader.List(ctx, list, client.MatchingFields{byName: s.network.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	have := map[string]*unstructured.Unstructured{}
	for i := range list.Items {
		have[list.Items[i].GetNamespace()] = &list.Items[i]
	}
	used := map[string]bool{}
	for i := range s.ports {
		used[s.ports[i].Namespace] = true
	}
	p := placing{writer: n.writer, direct: n.nads.direct, network: s.network}
	switch r := s.network.Spec.Reachability; {
	case r != nil && r.Required:
		p.resource = v1alpha1.NetworkResource(s.network.Name)
	case s.trunk != nil && s.trunk.Spec.AdvertiseResource:
		p.resource = v1alpha1.ResourcePrefix + s.trunk.Name
	}
	if err := p.run(ctx, have, want, used, living); err != nil {
		return err
	}
	s.placed = p.placed
	return nil
}

// selected names the namespaces that should have the network's definition, sorted,
// and those that are not on their way out. A network that is to be deleted is for none
// any more: definitions stay only where VMs are on it. There new ones can still start,
// as the target of a VM's migration must.
func selected(n *v1alpha1.VLANNetwork, namespaces []metav1.PartialObjectMetadata) (want []string, living map[string]bool, err error) {
	selector := labels.Nothing()
	if n.Spec.Namespaces != nil && n.DeletionTimestamp.IsZero() {
		if selector, err = metav1.LabelSelectorAsSelector(n.Spec.Namespaces); err != nil {
			return nil, nil, fmt.Errorf("spec.namespaces: is no label selector: %w", err)
		}
	}
	living = map[string]bool{}
	for i := range namespaces {
		ns := &namespaces[i]
		if !ns.DeletionTimestamp.IsZero() {
			continue
		}
		living[ns.Name] = true
		if selector.Matches(labels.Set(ns.Labels)) {
			want = append(want, ns.Name)
		}
	}
	slices.Sort(want)
	return want, living, nil
}

// state is what is known of a network while its status is worked out.
type state struct {
	network *v1alpha1.VLANNetwork
	trunk   *v1alpha1.VLANTrunk // nil if there is none
	ports   []v1alpha1.VMPort
	placed
	looked, noKind bool  // for NetworkAttachmentDefinitions; the cluster has no such kind
	unread         error // why they cannot be read
	selector       error // of spec.namespaces
	checked        bool  // by a ReachabilityCheck, where that is required
}

// trunkKnown says whether the trunk's status is on its present generation.
func (s *state) trunkKnown() bool {
	if s.trunk == nil {
		return false
	}
	c := meta.FindStatusCondition(s.trunk.Status.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.ObservedGeneration == s.trunk.Generation
}

// ready sums up. What the network itself is wrong in comes before its trunk.
func (s *state) ready(problems string, poll time.Duration) metav1.Condition {
	n := s.network
	no := func(reason, format string, a ...any) metav1.Condition {
		return ready(n, false, reason, fmt.Sprintf(format, a...)+s.keptText())
	}
	switch {
	case !n.DeletionTimestamp.IsZero():
		return no(v1alpha1.ReasonInUse, "is to be deleted, but used by %s: stop those VMs, or move them to other networks", some(machines(s.ports), ", "))
	case problems != "":
		return no(v1alpha1.ReasonRefused, "%s", problems)
	case n.Spec.Namespaces == nil:
		return no(v1alpha1.ReasonNoNamespaces, "spec.namespaces is absent, so no namespace may use the network: want a label selector, or {} for all of them")
	case s.selected == 0:
		return no(v1alpha1.ReasonNoNamespaces, "spec.namespaces selects none of the cluster's namespaces: label those that should use the network, or select others")
	case s.noKind:
		return no(v1alpha1.ReasonNADKindMissing, "the cluster has no kind %s (%s), by which pods name networks: install Multus; it is looked for every %s",
			nadKind.Kind, nadKind.GroupVersion(), poll)
	case s.unread != nil:
		return no(v1alpha1.ReasonNADFailed, "NetworkAttachmentDefinitions cannot be read: %v: give the controller what it lacks, as its ClusterRole has it; it is tried every %s",
			s.unread, poll)
	case len(s.failed) > 0:
		return no(v1alpha1.ReasonNADFailed, "cannot be written: %s: see what the API server or an admission webhook wants; it is tried again", some(texts(s.failed), "; "))
	case len(s.conflicts) > 0:
		return no(v1alpha1.ReasonNADConflict, "NetworkAttachmentDefinition %s of namespace %s is not Homeport's and is left alone: delete it, or take the namespace out of spec.namespaces",
			n.Name, some(s.conflicts, ", "))
	}
	if c := meta.FindStatusCondition(s.trunk.Status.Conditions, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
		return no(v1alpha1.ReasonTrunkUnhealthy, "VLANTrunk %s is not ready (%s): see kubectl describe vlantrunk %s", s.trunk.Name, c.Reason, s.trunk.Name)
	}
	if !s.checked {
		return no(v1alpha1.ReasonNotChecked, "spec.reachability.required is true, but no ReachabilityCheck covers the network, so that no node takes new VMs on it: make one with spec.every, and without spec.vlans, spec.nodes and trunk in spec.skip")
	}
	return ready(n, true, v1alpha1.ReasonReady, fmt.Sprintf("%s can use it", count(len(s.in), "namespace"))+s.keptText())
}

func texts(errs []error) []string {
	var out []string
	for _, err := range errs {
		out = append(out, err.Error())
	}
	return out
}

func (s *state) keptText() string {
	if len(s.kept) == 0 {
		return ""
	}
	return fmt.Sprintf("; not selected, but kept while VMs are on the network: NetworkAttachmentDefinition of namespace %s", some(s.kept, ", "))
}

// machines names the VMs of ports, each once, sorted; a pod without a VM stands
// for itself.
func machines(ports []v1alpha1.VMPort) []string {
	var names []string
	for i := range ports {
		p := &ports[i]
		name := p.Spec.Pod.Name
		if p.Spec.VM != nil {
			name = p.Spec.VM.Name
		}
		names = append(names, p.Namespace+"/"+name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// migration says which VMs must migrate to get what the network is now. Policy and
// port security need none: nodes apply them at once.
func (s *state) migration(problems string) metav1.Condition {
	n := s.network
	if problems != "" {
		return condition(n, v1alpha1.ConditionMigrationRequired, metav1.ConditionUnknown, v1alpha1.ReasonRefused,
			"the spec is not in force: correct it first")
	}
	var mtu int32 // 0 is what each node's uplink has
	switch {
	case n.Spec.MTU != nil:
		mtu = *n.Spec.MTU
	case s.trunk != nil && s.trunk.Spec.MTU != nil:
		mtu = *s.trunk.Spec.MTU
	}
	text := n.Spec.VLAN.Text()
	old := slices.DeleteFunc(slices.Clone(s.ports), func(p v1alpha1.VMPort) bool {
		return p.Spec.VLANs == text && p.Spec.Trunk == n.Spec.Trunk && (p.Spec.MTU == mtu || p.Spec.MTU == 0 || mtu == 0)
	})
	if len(old) == 0 {
		return condition(n, v1alpha1.ConditionMigrationRequired, metav1.ConditionFalse, v1alpha1.ReasonPortsUpToDate,
			"all VMs on it have its VLANs, MTU and trunk")
	}
	return condition(n, v1alpha1.ConditionMigrationRequired, metav1.ConditionTrue, v1alpha1.ReasonPortsOutdated,
		fmt.Sprintf("these have VLANs, MTU or trunk of before: %s: migrate or restart them", some(machines(old), ", ")))
}
