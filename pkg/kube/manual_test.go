package kube

import (
	"slices"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// TestManualStays: what a person writes into an identity is his, whatever the node writes of it since.
func TestManualStays(t *testing.T) {
	b := newBench(t)
	web := b.podPort("web", nil, "10.1.0.7")
	b.node.set(func() { b.node.ports = []wire.Port{web} })
	id := podIdentityName(&web)
	until(b, &v1alpha1.VMIdentity{}, "default", id, addressed)
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"addresses":["10.1.0.12"]}}`))
	o := &v1alpha1.VMIdentity{}
	o.Namespace, o.Name = "default", id
	if err := b.Patch(b.Context(), o, patch); err != nil {
		t.Fatal(err)
	}
	b.relabel("web", map[string]string{"app": "shop"})
	b.node.set(func() { b.node.ports[0].Addresses = addrs("10.1.0.8") })
	until(b, &v1alpha1.VMIdentity{}, "default", id, func(o *v1alpha1.VMIdentity, found bool) bool {
		return found && o.Labels["app"] == "shop" && len(o.Status.Addresses) == 1 && o.Status.Addresses[0].Address == "10.1.0.8" && slices.Equal(o.Spec.Addresses, []string{"10.1.0.12"})
	})
}
