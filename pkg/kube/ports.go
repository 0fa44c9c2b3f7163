package kube

import (
	"context"
	"errors"
	"fmt"
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

// portID is a port's VMPort as namespace/name; "" is a port of no pod (a runtime
// without Kubernetes made it), which has none.
func portID(p *wire.Port) string {
	if p.Pod.Namespace == "" || p.Pod.Name == "" {
		return ""
	}
	return p.Pod.Namespace + "/" + portName(p)
}

// removePorts deletes the VMPorts of ports that ended.
func (r *Reporter) removePorts(ctx context.Context, ports []wire.Port) error {
	var errs []error
	living := map[string]bool{}
	for i := range ports {
		living[portID(&ports[i])] = true
	}
	for id, o := range r.ports {
		if living[id] {
			continue
		}
		err := r.remove(ctx, o)
		if err == nil {
			delete(r.ports, id)
			delete(r.written, id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// reportPorts writes the VMPorts of which something but counters is new, and gives
// those whose counters are due.
func (r *Reporter) reportPorts(ctx context.Context, ports []wire.Port, drops []wire.Drop) (counters []portWrite, err error) {
	var errs []error
	byPort := map[attach.Key]map[string]int64{}
	for _, d := range drops {
		if byPort[d.Key] == nil {
			byPort[d.Key] = map[string]int64{}
		}
		byPort[d.Key][d.Reason] += int64(d.Packets)
	}
	for i := range ports {
		p := &ports[i]
		if portID(p) == "" {
			continue
		}
		w := r.planPort(p, byPort[p.Key])
		switch {
		case w.news:
			errs = append(errs, r.writePort(ctx, &w))
		case w.due:
			counters = append(counters, w)
		}
	}
	return counters, errors.Join(errs...)
}

// reportCounters writes counters until there is news of more weight, which the rest
// of them then gives way to.
func (r *Reporter) reportCounters(ctx context.Context, counters []portWrite, node Node) error {
	var errs []error
	for i := range counters {
		if len(node.Changed()) > 0 || len(r.watch.news.told) > 0 || len(r.podNews.told) > 0 || ctx.Err() != nil {
			break
		}
		errs = append(errs, r.writePort(ctx, &counters[i]))
	}
	return errors.Join(errs...)
}

// portName tells ports of one pod apart, and sandboxes of one pod.
func portName(p *wire.Port) string { return distinct(p.Pod.Name, p.ContainerID, p.IfName) }

// portWrite is a VMPort as it should be, and what is new in it.
type portWrite struct {
	id        string // namespace/name
	o         *v1alpha1.VMPort
	isNew     bool
	spec      bool // is to be written, too
	changed   bool // the condition is another one
	condition metav1.Condition
	others    []metav1.Condition // that have become such as to warn of, or well again
	news      bool               // is not counters alone
	due       bool               // its counters are to be written
}

func (r *Reporter) planPort(p *wire.Port, dropped map[string]int64) portWrite {
	w := portWrite{id: portID(p), o: &v1alpha1.VMPort{ObjectMeta: metav1.ObjectMeta{Namespace: p.Pod.Namespace, Name: portName(p)}}}
	have := r.ports[w.id]
	w.isNew = have == nil
	if have != nil {
		w.o = have.DeepCopy()
	}
	o := w.o
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("VMPort"))
	known := r.vms[podKey(p.Pod)]
	o.Spec = portSpec(r.node, p, known.reference())
	if p.Pod.UID != "" { // Kubernetes removes the port with its pod, should this node be gone
		o.OwnerReferences = ownedBy(p.Pod)
	}
	o.Status.State, o.Status.BootID, o.Status.BeforeNodeDown = v1alpha1.PortState(p.State.String()), p.BootID, nil
	w.condition = portReady(p, known)
	w.changed = meta.SetStatusCondition(&o.Status.Conditions, w.condition)
	othersChanged, said := false, false
	for _, x := range []struct {
		kind string
		c    *metav1.Condition
	}{{v1alpha1.ConditionMACPinned, macPinned(p, known)}, {v1alpha1.ConditionMACUnique, macUnique(p)}, {v1alpha1.ConditionAddressesUnique, addressesUnique(p)}, {v1alpha1.ConditionAddressesDeclared, addressesDeclared(p, known)},
		{v1alpha1.ConditionNetworkStatusWritten, networkStatusWritten(p, known, noted(have))}} {
		if c := x.c; c == nil {
			othersChanged = meta.RemoveStatusCondition(&o.Status.Conditions, x.kind) || othersChanged
		} else {
			was := meta.FindStatusCondition(o.Status.Conditions, x.kind)
			turned := was == nil || was.Status != c.Status || was.Reason != c.Reason // and does not just say it in other words
			if turned && (c.Status != metav1.ConditionTrue || was != nil) {
				w.others = append(w.others, *c)
			}
			said = meta.SetStatusCondition(&o.Status.Conditions, *c) || said
			othersChanged = othersChanged || turned && x.kind != v1alpha1.ConditionAddressesUnique // which guests can turn at will
		}
	}
	o.Status.Bindings, o.Status.Conflicts = portBindings(p), portConflicts(p)
	said = said || have != nil && !(equality.Semantic.DeepEqual(o.Status.Bindings, have.Status.Bindings) && equality.Semantic.DeepEqual(o.Status.Conflicts, have.Status.Conflicts))
	counters := v1alpha1.PortCounters{PassedPackets: int64(p.Passed[0] + p.Passed[1]), DroppedPackets: int64(p.Dropped[0] + p.Dropped[1]), Dropped: dropped}
	w.spec = have != nil && !(equality.Semantic.DeepEqual(o.Spec, have.Spec) && equality.Semantic.DeepEqual(o.OwnerReferences, have.OwnerReferences))
	w.due = !equality.Semantic.DeepEqual(counters, o.Status.Counters) && time.Since(r.written[w.id]) >= r.countersEvery
	w.news = have == nil || w.spec || w.changed || othersChanged || said && r.mayTell(p.Key, inPort) || o.Status.State != have.Status.State || o.Status.BootID != have.Status.BootID
	o.Status.Counters = counters
	return w
}

func (r *Reporter) writePort(ctx context.Context, w *portWrite) error {
	if err := r.write(ctx, w.o, w.isNew, w.spec); err != nil {
		return err
	}
	r.ports[w.id], r.written[w.id] = w.o, time.Now()
	if w.changed && !ofMigration(w.condition) && (!w.isNew || !expectedAtFirst(w.condition)) {
		r.events.transition(ctx, w.o, w.condition)
	}
	for _, c := range w.others {
		r.events.transition(ctx, w.o, c)
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

// ofMigration says that a port is silent as every one is in a migration: nobody is to
// be warned of that.
func ofMigration(c metav1.Condition) bool {
	return c.Reason == v1alpha1.ReasonPortQuarantined || c.Reason == v1alpha1.ReasonPortReleased
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
	case p.Hold != nil && p.State == attach.Quarantined:
		return notReady(v1alpha1.ReasonPortQuarantined, "the port "+p.Hold.String())
	case p.Hold != nil && p.State == attach.Released:
		return notReady(v1alpha1.ReasonPortReleased, "the port "+p.Hold.String())
	case p.State != attach.Active:
		return notReady(v1alpha1.ReasonPortClosed, "the port is "+p.State.String()+": nothing passes")
	case known != nil && known.launcher && known.vm == nil:
		return notReady(v1alpha1.ReasonVMUnconfirmed, known.why)
	}
	return metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPortActive,
		Message: "attached, and passes what policy and port security allow"}
}

// macPinned says whether the VM of a port names its MAC; nil is not known.
func macPinned(p *wire.Port, known *confirmation) *metav1.Condition {
	if known == nil || known.vm == nil {
		return nil
	}
	n := known.nicOf(p)
	switch {
	case n == nil || !n.inSpec:
		return nil
	case n.pinned:
		return &metav1.Condition{Type: v1alpha1.ConditionMACPinned, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonMACSet, Message: "the VM names its MAC"}
	}
	return &metav1.Condition{Type: v1alpha1.ConditionMACPinned, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonMACNotSet,
		Message: fmt.Sprintf("the VM names no MAC and got %s at random; it keeps that when it migrates, and gets another when it is restarted: "+
			"set spec.domain.devices.interfaces[].macAddress of the VM to it", p.MAC)}
}
