package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// mapper knows the kinds that are written and read, so that no discovery is needed.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Pod", "Event"} {
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	m.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	m.Add(vmiVersion, meta.RESTScopeNamespace)
	m.Add(claimVersion, meta.RESTScopeNamespace)
	m.Add(v1alpha1.GroupVersion.WithKind("VLANTrunkNode"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("VMPort"), meta.RESTScopeNamespace)
	m.Add(v1alpha1.GroupVersion.WithKind(v1alpha1.KindReachabilityCheck), meta.RESTScopeRoot)
	m.AddSpecific(v1alpha1.GroupVersion.WithKind("VMIdentity"), v1alpha1.GroupVersion.WithResource("vmidentities"),
		v1alpha1.GroupVersion.WithResource("vmidentity"), meta.RESTScopeNamespace)
	return m
}

// recorder writes Events. They are for people and may be lost: an error is no
// reason to write anything again.
type recorder struct {
	client client.Client
	node   string
}

// transition tells of a condition that has changed.
func (e *recorder) transition(ctx context.Context, o client.Object, c metav1.Condition) {
	kind, good := corev1.EventTypeNormal, metav1.ConditionTrue
	if c.Type == v1alpha1.ConditionHostFiltered {
		good = metav1.ConditionFalse
	}
	if c.Status != good {
		kind = corev1.EventTypeWarning
	}
	now := metav1.NewTime(time.Now())
	namespace := o.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where events of cluster-wide objects go
	}
	gvk := o.GetObjectKind().GroupVersionKind()
	_ = e.client.Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%.230s.%x", o.GetName(), now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: o.GetNamespace(),
			Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion()},
		Type: kind, Reason: c.Reason, Message: c.Message, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "homeport-agent", Host: e.node}, ReportingController: "homeport.dev/agent", ReportingInstance: e.node,
	})
}
