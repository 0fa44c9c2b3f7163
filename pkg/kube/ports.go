package kube

import (
	"context"
	"errors"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// reportPorts writes the node's VMPorts, and deletes those of ports that ended.
// Ports of no pod (a runtime without Kubernetes made them) have none.
func (r *Reporter) reportPorts(ctx context.Context, ports []wire.Port, drops []wire.Drop) error {
	var errs []error
	want := map[string]bool{}
	byPort := map[attach.Key]map[string]int64{}
	for _, d := range drops {
		if byPort[d.Key] == nil {
			byPort[d.Key] = map[string]int64{}
		}
		byPort[d.Key][d.Reason] += int64(d.Packets)
	}
	for i := range ports {
		p := &ports[i]
		if p.Pod.Namespace == "" || p.Pod.Name == "" {
			continue
		}
		id := p.Pod.Namespace + "/" + portName(p)
		want[id] = true
		errs = append(errs, r.reportPort(ctx, id, p, byPort[p.Key]))
	}
	for id, o := range r.ports {
		if !want[id] {
			err := r.remove(ctx, o)
			if err == nil {
				delete(r.ports, id)
				delete(r.written, id)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// portName tells ports of one pod apart, and sandboxes of one pod.
func portName(p *wire.Port) string { return distinct(p.Pod.Name, p.ContainerID, p.IfName) }

func (r *Reporter) reportPort(ctx context.Context, id string, p *wire.Port, dropped map[string]int64) error {
	have := r.ports[id]
	o := &v1alpha1.VMPort{ObjectMeta: metav1.ObjectMeta{Namespace: p.Pod.Namespace, Name: portName(p)}}
	if have != nil {
		o = have.DeepCopy()
	}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("VMPort"))
	known := r.vms[podKey(p.Pod)]
	o.Spec = portSpec(r.node, p, known.reference())
	if p.Pod.UID != "" { // Kubernetes removes the port with its pod, should this node be gone
		o.OwnerReferences = ownedBy(p.Pod)
	}
	o.Status.State = v1alpha1.PortState(p.State.String())
	condition := portReady(p, known)
	changed := meta.SetStatusCondition(&o.Status.Conditions, condition)
	counters := v1alpha1.PortCounters{PassedPackets: int64(p.Passed[0] + p.Passed[1]), DroppedPackets: int64(p.Dropped[0] + p.Dropped[1]), Dropped: dropped}
	spec := have != nil && !(equality.Semantic.DeepEqual(o.Spec, have.Spec) && equality.Semantic.DeepEqual(o.OwnerReferences, have.OwnerReferences))
	due := !equality.Semantic.DeepEqual(counters, o.Status.Counters) && time.Since(r.written[id]) >= r.countersEvery
	if have != nil && !spec && !changed && !due && o.Status.State == have.Status.State {
		return nil
	}
	o.Status.Counters = counters
	if err := r.write(ctx, o, have == nil, spec); err != nil {
		return err
	}
	r.ports[id], r.written[id] = o, time.Now()
	if changed && (have != nil || !expectedAtFirst(condition)) {
		r.events.transition(ctx, o, condition)
	}
	return nil
}

// ownedBy makes a pod the owner of an object, which goes with it.
func ownedBy(p attach.Pod) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: types.UID(p.UID)}}
}

// expectedAtFirst says that a port's first condition is no news: it is well, or what
// every port is for a moment.
func expectedAtFirst(c metav1.Condition) bool {
	return c.Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonVMUnconfirmed || c.Reason == v1alpha1.ReasonPortClosed
}

func portSpec(node string, p *wire.Port, vm *v1alpha1.VMReference) v1alpha1.VMPortSpec {
	return v1alpha1.VMPortSpec{
		Node:  node,
		Pod:   v1alpha1.PodInterface{Name: p.Pod.Name, UID: types.UID(p.Pod.UID), Interface: p.IfName, ContainerID: p.ContainerID},
		VM:    vm,
		Trunk: p.Trunk, Network: p.Policy, VLANs: v1alpha1.VLANText(p.VLANs.PVID, p.VLANs.Tagged), MTU: int32(p.EffectiveMTU),
		MAC: p.MAC.String(), HostInterface: p.HostIfName,
	}
}

// portReady says whether a port is as it should be.
func portReady(p *wire.Port, known *confirmation) metav1.Condition {
	switch {
	case len(p.Problems) > 0:
		return notReady(v1alpha1.ReasonPortProblem, strings.Join(p.Problems, "; "))
	case p.State != attach.Active:
		return notReady(v1alpha1.ReasonPortClosed, "the port is "+p.State.String()+": nothing passes")
	case known != nil && known.launcher && known.vm == nil:
		return notReady(v1alpha1.ReasonVMUnconfirmed, known.why)
	}
	return metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPortActive,
		Message: "attached, and passes what policy and port security allow"}
}
