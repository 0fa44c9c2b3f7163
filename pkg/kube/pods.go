package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// A pod without a VM is found as a peer by label by its VMIdentities: one for each
// port with addresses that a plugin before ours gave it. The addresses are the
// CNI result's and the labels the pod's own, as NetworkPolicy wants them. Such an
// identity is of this node as long as it is there, and goes with the port.

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
		switch c := r.vms[podKey(p.Pod)]; {
		case p.Policy == "" || len(p.Addresses) == 0:
		case c == nil: // nobody could be asked about the pod: what is there stays
			want[id] = true
		case c.plain() && (have != nil || p.State == attach.Active):
			want[id] = true
			errs = append(errs, r.reportPod(ctx, id, p, c))
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

func (r *Reporter) reportPod(ctx context.Context, id string, p *wire.Port, c *confirmation) error {
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
	o.Status = v1alpha1.VMIdentityStatus{Node: r.node, MAC: p.MAC.String(), Addresses: sinceBefore(declared(p.Addresses), o.Status.Addresses)}
	if have != nil && !relabelled && equality.Semantic.DeepEqual(o.Status, have.Status) {
		return nil
	}
	if err := r.write(ctx, o, have == nil, relabelled); err != nil {
		return err
	}
	r.pods[id] = o
	return nil
}

// declared are the addresses of a CNI result, each once.
func declared(addresses []netip.Addr) []v1alpha1.AddressStatus {
	var out []v1alpha1.AddressStatus
	seen := map[netip.Addr]bool{}
	for _, a := range addresses {
		if a.IsValid() && !seen[a] && len(out) < 64 { // as many as a status holds
			seen[a] = true
			out = append(out, v1alpha1.AddressStatus{Address: a.String(), Provenance: v1alpha1.ProvenanceDeclared})
		}
	}
	return out
}

// podIdentityName tells apart what no two identities may share: an inline port can
// come to another network, and an identity cannot.
func podIdentityName(p *wire.Port) string {
	return distinct(p.Pod.Name, p.ContainerID, p.IfName, p.Policy)
}
