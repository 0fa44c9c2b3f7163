package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// A pod without a VM is found as a peer by label by its VMIdentities: one for each
// port whose NIC has addresses, or waits for one. The labels are the pod's own, as
// NetworkPolicy wants them. Such an identity is of this node as long as it is there,
// and goes with the port.

// reportPods keeps the VMIdentities of the pods without a VM.
func (r *Reporter) reportPods(ctx context.Context, ports []wire.Port) error {
	if r.pods == nil {
		if err := r.lookPods(ctx); err != nil {
			return err
		}
	}
	var errs []error
	want := map[string]bool{}
	for i := range ports {
		p := &ports[i]
		id := p.Pod.Namespace + "/" + podIdentityName(p)
		have := r.pods[id]
		is := r.identityStatus(p)
		is.Decisions = nil // a pod goes to no other node
		switch c := r.vms[podKey(p.Pod)]; {
		case p.Policy == "":
		case c == nil || c.plain() && !r.settled[p.Key]: // nobody could be asked about the pod, or knows its addresses yet: what is there stays
			want[id] = true
		case len(is.Addresses) == 0 && len(is.Waiting) == 0:
		case c.plain() && have != nil && !equality.Semantic.DeepEqual(have.Status, is) && !r.mayTell(p.Key, inIdentity):
			want[id] = true
		case c.plain() && (have != nil || p.State == attach.Active):
			want[id] = true
			errs = append(errs, r.reportPod(ctx, id, p, c, is))
		}
	}
	for id, o := range r.pods {
		if want[id] {
			continue
		}
		err := r.remove(ctx, o)
		if err == nil {
			delete(r.pods, id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lookPods reads which of those identities the server has of this node. It is apart
// from look: CRDs of an older version refuse it, and keep nothing else from being
// reported.
func (r *Reporter) lookPods(ctx context.Context) error {
	var list v1alpha1.VMIdentityList
	if err := r.client.List(ctx, &list, client.MatchingFields{"spec.pod.node": r.node}); err != nil {
		return fmt.Errorf("list the VMIdentities of pods on node %s (it wants the CRDs of this version): %w", r.node, err)
	}
	r.pods = map[string]*v1alpha1.VMIdentity{}
	for i := range list.Items {
		o := &list.Items[i]
		r.pods[o.Namespace+"/"+o.Name] = o
	}
	return nil
}

func (r *Reporter) reportPod(ctx context.Context, id string, p *wire.Port, c *confirmation, is v1alpha1.VMIdentityStatus) error {
	have := r.pods[id]
	o := &v1alpha1.VMIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Pod.Namespace, Name: podIdentityName(p), OwnerReferences: ownedBy(p.Pod)},
		Spec:       v1alpha1.VMIdentitySpec{Pod: &v1alpha1.PodReference{Name: p.Pod.Name, UID: types.UID(p.Pod.UID), Node: r.node}, Network: p.Policy},
	}
	if have != nil {
		o = have.DeepCopy()
	}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("VMIdentity"))
	relabelled := !maps.Equal(o.Labels, c.podLabels)
	o.Labels = c.podLabels
	o.Status = is
	if have != nil && !relabelled && equality.Semantic.DeepEqual(o.Status, have.Status) {
		return nil
	}
	if err := r.write(ctx, o, have == nil, relabelled); err != nil {
		return err
	}
	r.pods[id] = o
	return nil
}

// podIdentityName tells apart what no two identities may share: an inline port can
// come to another network, and an identity cannot.
func podIdentityName(p *wire.Port) string {
	return distinct(p.Pod.Name, p.ContainerID, p.IfName, p.Policy)
}
