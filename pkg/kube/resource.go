package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// A trunk's resource is homeport.dev/<trunk>, a network's network.homeport.dev/<network>. Each
// VM takes one; there are as many as a node will never have ports.
const resourceAmount = "1k"

// ours says whether a resource is one of these.
func ours(resource string) bool {
	return strings.HasPrefix(resource, v1alpha1.ResourcePrefix) || strings.HasPrefix(resource, v1alpha1.NetworkResourcePrefix)
}

// carries says whether VMs may be scheduled to the node for the trunk: what is
// repaired within moments does not count.
func (t *trunkState) carries() bool {
	return t.ready.Reason != v1alpha1.ReasonTrunkBroken && t.ready.Reason != v1alpha1.ReasonLinkDown && t.ready.Reason != v1alpha1.ReasonRefused
}

// reportResources has the node offer the resources of trunks that ask for it and
// carry what they should, and of those of their networks that checks find well. One that is withdrawn is taken away altogether, not set
// to nought: of a resource that a node does not have at all, the kubelet does not
// ask whether it is enough, so that VMs that run stay, also when it restarts.
//
// A kubelet that has lost its state takes such resources away; so the node is
// looked at now and then.
func (r *Reporter) reportResources(ctx context.Context, trunks []trunkState) error {
	want := map[string]bool{}
	for _, t := range trunks {
		if !t.carries() {
			continue
		}
		if t.resource {
			want[v1alpha1.ResourcePrefix+t.trunk] = true
		}
		for _, n := range t.offers {
			want[v1alpha1.NetworkResource(n)] = true
		}
	}
	// What an agent before this one offered is not known until the node was looked at.
	if r.offered != nil && maps.Equal(want, r.offered) && (len(want) == 0 || time.Since(r.nodeLooked) < r.nodeEvery) {
		return nil
	}
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: r.node}}
	err := r.client.Get(ctx, client.ObjectKeyFromObject(node), node)
	if apierrors.IsNotFound(err) && len(want) == 0 { // a node that does not exist offers nothing
		r.offered = want
		return nil
	}
	if err != nil {
		return fmt.Errorf("read node %s: %w", r.node, err)
	}
	patch, differs := resourcePatch(node, want)
	if differs {
		if err := r.client.Status().Patch(ctx, node, client.RawPatch(types.MergePatchType, patch)); err != nil {
			return fmt.Errorf("offer %s at node %s: %w", strings.Join(slices.Sorted(maps.Keys(want)), ", "), r.node, err)
		}
	}
	r.offered, r.nodeLooked = want, time.Now()
	return nil
}

// resourcePatch makes a node offer what is wanted and nothing else of ours.
func resourcePatch(node *corev1.Node, want map[string]bool) (patch []byte, differs bool) {
	lists := map[string]map[string]any{"capacity": {}, "allocatable": {}}
	for field, have := range map[string]corev1.ResourceList{"capacity": node.Status.Capacity, "allocatable": node.Status.Allocatable} {
		for name := range have {
			if ours(string(name)) && !want[string(name)] {
				lists[field][string(name)] = nil
			}
		}
		for name := range want {
			if q, ok := have[corev1.ResourceName(name)]; !ok || q.IsZero() {
				lists[field][name] = resourceAmount
			}
		}
	}
	// Maps of texts always encode.
	patch, _ = json.Marshal(map[string]any{"status": lists})
	return patch, len(lists["capacity"])+len(lists["allocatable"]) > 0
}
