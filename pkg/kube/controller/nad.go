package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// nadConfig is what a NetworkAttachmentDefinition says to the CNI plugin; see
// docs/reference/cni.md.
func nadConfig(network string) (string, error) {
	b, err := json.Marshal(struct {
		CNIVersion   string          `json:"cniVersion"`
		Name         string          `json:"name"`
		Type         string          `json:"type"`
		Network      string          `json:"network"`
		Capabilities map[string]bool `json:"capabilities"`
	}{"1.0.0", network, "homeport", network, map[string]bool{"mac": true}})
	return string(b), err
}

// isOurs says whether a NetworkAttachmentDefinition bears our mark: the label, or
// the owner if somebody took the label away. What another controller owns is not
// ours, whatever its labels say.
func isOurs(nad *unstructured.Unstructured) bool {
	if o := metav1.GetControllerOfNoCopy(nad); o != nil {
		return ownedBy(o, nad.GetName())
	}
	return nad.GetLabels()[v1alpha1.LabelNetwork] == v1alpha1.LabelValue(nad.GetName())
}

func ownedBy(o *metav1.OwnerReference, network string) bool {
	return o.APIVersion == v1alpha1.APIVersion && o.Kind == v1alpha1.KindVLANNetwork && o.Name == network
}

// complete makes a NetworkAttachmentDefinition what a network wants it to be.
// resource is "" for none. What others added beside that stays.
func complete(nad *unstructured.Unstructured, n *v1alpha1.VLANNetwork, resource string) error {
	config, err := nadConfig(n.Name)
	if err != nil {
		return err
	}
	nad.Object["spec"] = map[string]any{"config": config}
	labels := maps.Clone(nad.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelNetwork] = v1alpha1.LabelValue(n.Name)
	nad.SetLabels(labels)
	setResource(nad, resource)
	owners := slices.DeleteFunc(nad.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return ownedBy(&o, n.Name) })
	yes := true
	nad.SetOwnerReferences(append(owners, metav1.OwnerReference{
		APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindVLANNetwork, Name: n.Name, UID: n.UID, Controller: &yes,
	}))
	return nil
}

func setResource(nad *unstructured.Unstructured, resource string) {
	notes := maps.Clone(nad.GetAnnotations())
	if notes == nil {
		notes = map[string]string{}
	}
	if resource == "" {
		delete(notes, v1alpha1.AnnotationResource)
	} else {
		notes[v1alpha1.AnnotationResource] = resource
	}
	nad.SetAnnotations(notes)
}

// placed is where a network's NetworkAttachmentDefinitions are.
type placed struct {
	selected  int      // namespaces that should have one
	in        []string // namespaces that have ours
	conflicts []string // namespaces that have somebody else's
	kept      []string // namespaces that are not selected, with VMs on the network
	failed    []error  // what the API server does not take
}

// placing is one go at them.
type placing struct {
	*writer
	direct   client.Client
	network  *v1alpha1.VLANNetwork
	resource string
	placed
}

// run makes, mends and removes. have is what there is by namespace, want names
// the namespaces to have one, used has those with VMs on the network, and living
// those that are not on their way out. What fails in one namespace leaves the
// others alone; the error is that somebody else wrote first.
func (p *placing) run(ctx context.Context, have map[string]*unstructured.Unstructured, want []string, used, living map[string]bool) (first error) {
	p.selected = len(want)
	failed := func(ns string, err error) {
		err = fmt.Errorf("NetworkAttachmentDefinition %s/%s: %w", ns, p.network.Name, err)
		if apierrors.IsConflict(err) {
			first = err
		} else {
			p.failed = append(p.failed, err)
		}
	}
	for _, ns := range want {
		ours, err := p.place(ctx, ns, have[ns])
		switch {
		case err != nil:
			failed(ns, err)
		case ours == nil: // the namespace goes
		case *ours:
			p.in = append(p.in, ns)
		default:
			p.conflicts = append(p.conflicts, ns)
		}
	}
	for _, ns := range slices.Sorted(maps.Keys(have)) {
		if slices.Contains(want, ns) || !isOurs(have[ns]) || !living[ns] {
			continue // the namespace takes it along
		}
		if used[ns] {
			p.in, p.kept = append(p.in, ns), append(p.kept, ns)
			continue
		}
		uid, version := have[ns].GetUID(), have[ns].GetResourceVersion()
		err := p.direct.Delete(ctx, have[ns].DeepCopy(), client.Preconditions{UID: &uid, ResourceVersion: &version})
		if client.IgnoreNotFound(err) != nil {
			failed(ns, err)
		}
	}
	return first
}

// place makes or mends the one of a namespace. ours is nil if there is no
// namespace any more that could have one.
func (p *placing) place(ctx context.Context, ns string, nad *unstructured.Unstructured) (ours *bool, err error) {
	yes, no := true, false
	if nad == nil {
		nad = newNAD()
		nad.SetNamespace(ns)
		nad.SetName(p.network.Name)
		if err := complete(nad, p.network, p.resource); err != nil {
			return nil, err
		}
		err := p.direct.Create(ctx, nad)
		switch {
		case err == nil:
			return &yes, nil
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause), apierrors.IsNotFound(err):
			return nil, nil
		case !apierrors.IsAlreadyExists(err):
			return nil, err
		}
		// The watch is behind.
		if err := p.direct.Get(ctx, client.ObjectKey{Namespace: ns, Name: p.network.Name}, nad); err != nil {
			return nil, err
		}
	}
	if !isOurs(nad) {
		return &no, nil
	}
	return &yes, p.mend(ctx, nad)
}

// mend puts one of ours right that is not as it should be.
func (p *placing) mend(ctx context.Context, nad *unstructured.Unstructured) error {
	right := nad.DeepCopy()
	if err := complete(right, p.network, p.resource); err != nil {
		return err
	}
	same := func(a, b *unstructured.Unstructured) bool {
		return equality.Semantic.DeepEqual(a.Object["spec"], b.Object["spec"]) &&
			maps.Equal(a.GetLabels(), b.GetLabels()) && maps.Equal(a.GetAnnotations(), b.GetAnnotations()) &&
			equality.Semantic.DeepEqual(a.GetOwnerReferences(), b.GetOwnerReferences())
	}
	if same(nad, right) {
		return nil
	}
	before := nad.DeepCopy()
	if err := p.direct.Patch(ctx, right, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return client.IgnoreNotFound(err) // its end is seen next
	}
	// Was it edited, or does it follow its trunk?
	setResource(before, p.resource)
	if asWas := before.DeepCopy(); complete(asWas, p.network, p.resource) == nil && same(before, asWas) {
		p.event(p.network, right, corev1.EventTypeNormal, v1alpha1.EventNADUpdated, fmt.Sprintf(
			"NetworkAttachmentDefinition of namespace %s asks for the resource %q now, by spec.advertiseResource of VLANTrunk %s and spec.reachability.required",
			nad.GetNamespace(), p.resource, p.network.Spec.Trunk))
		return nil
	}
	p.event(p.network, right, corev1.EventTypeWarning, v1alpha1.EventNADRestored, fmt.Sprintf(
		"NetworkAttachmentDefinition of namespace %s was edited, and is put right: edit VLANNetwork %s instead, or make one of another name",
		nad.GetNamespace(), p.network.Name))
	return nil
}
