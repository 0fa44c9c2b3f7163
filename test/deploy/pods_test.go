package deploy

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/desired"
)

// podSteps: of a pod of its own node an agent writes what is in one annotation that is there, and nothing else.
func podSteps(admin, n1, n2, nobody client.Client) []step {
	patch := func(c client.Client, text string) func(context.Context) error {
		return func(ctx context.Context) error {
			return c.Status().Patch(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: vms, Name: "launcher"}}, client.RawPatch("application/merge-patch+json", []byte(text)))
		}
	}
	annotate := func(c client.Client, name, value string) func(context.Context) error {
		return patch(c, fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, name, value))
	}
	const (
		nothingElse = "an agent may write nothing of a pod but what is in its annotation k8s.v1.cni.cncf.io/network-status"
		text        = `"[{\"interface\":\"net1\",\"ips\":[\"10.0.0.5\"]}]"`
	)
	return []step{
		{"people make a pod", "", func(ctx context.Context) error {
			return admin.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: vms, Name: "launcher", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
				Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "none"}}}})
		}},
		{"network-status, before it is there", nothingElse, annotate(n1, desired.NetworkStatusAnnotation, text)},
		{"as Multus does", "", annotate(admin, desired.NetworkStatusAnnotation, `"[]"`)},
		{"network-status", "", annotate(n1, desired.NetworkStatusAnnotation, text)},
		{"network-status of another's pod", notN2 + "pod 'launcher': it is of node 'n1'", annotate(n2, desired.NetworkStatusAnnotation, text)},
		{"network-status without a node in the token", noClaim, annotate(nobody, desired.NetworkStatusAnnotation, text)},
		{"network-status, taken away", nothingElse, annotate(n1, desired.NetworkStatusAnnotation, "null")},
		{"another annotation", nothingElse, annotate(n1, "c", `"e"`)},
		{"a new annotation", nothingElse, annotate(n1, "e", `"f"`)},
		{"an annotation less", nothingElse, annotate(n1, "c", "null")},
		{"a label", nothingElse, patch(n1, `{"metadata":{"labels":{"a":"c"}}}`)},
		{"a finalizer", nothingElse, patch(n1, `{"metadata":{"finalizers":["homeport.dev/x"]}}`)},
		{"the status", nothingElse, patch(n1, `{"status":{"podIP":"10.0.0.5"}}`)},
		{"a condition", nothingElse, patch(n1, `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`)},
		{"the pod itself", "pods \"launcher\" is forbidden", func(ctx context.Context) error {
			return n1.Patch(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: vms, Name: "launcher"}}, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"containers":[{"name":"c","image":"other"}]}}`)))
		}},
		{"people are not held to that", "", patch(admin, `{"metadata":{"labels":{"a":"c"}}}`)},
	}
}
