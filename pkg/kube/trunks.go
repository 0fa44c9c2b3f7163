package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// reportTrunks writes the node's VLANTrunkNodes, and deletes those of trunks that
// it has no more.
func (r *Reporter) reportTrunks(ctx context.Context, s wire.NodeStatus, ports []wire.Port) error {
	var errs []error
	if s.Desired == 0 { // nothing was read: which trunks there are is not known
		return nil
	}
	want := map[string]bool{}
	states := trunkStates(s, ports)
	errs = append(errs, r.reportResources(ctx, states))
	for _, t := range states {
		name := t.trunk + "." + r.node
		want[name] = true
		errs = append(errs, r.reportTrunk(ctx, name, t))
	}
	for name, o := range r.trunks {
		if !want[name] {
			err := r.remove(ctx, o)
			if err == nil {
				delete(r.trunks, name)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (r *Reporter) reportTrunk(ctx context.Context, name string, t trunkState) error {
	have := r.trunks[name]
	o := &v1alpha1.VLANTrunkNode{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.VLANTrunkNodeSpec{Trunk: t.trunk, Node: r.node}}
	if have != nil {
		o = have.DeepCopy()
	}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("VLANTrunkNode"))
	before := o.Status.Conditions
	o.Status = t.status
	o.Status.Conditions = before
	changed := meta.SetStatusCondition(&o.Status.Conditions, t.ready)
	told := t.setOthers(&o.Status.Conditions)
	if have != nil && !changed && len(told) == 0 && equality.Semantic.DeepEqual(o.Status, have.Status) {
		return nil
	}
	if err := r.write(ctx, o, have == nil, false); err != nil {
		return err
	}
	r.trunks[name] = o
	if changed && have != nil || t.ready.Status != metav1.ConditionTrue && changed {
		r.events.transition(ctx, o, t.ready)
	}
	for _, c := range told {
		if have != nil || c.Status != metav1.ConditionFalse {
			r.events.transition(ctx, o, c)
		}
	}
	return nil
}

// setOthers brings the conditions beside Ready up to date, and gives those that
// have changed. What the node does not say any more, as of a trunk that is refused,
// goes.
func (t trunkState) setOthers(list *[]metav1.Condition) (changed []metav1.Condition) {
	keep := map[string]bool{v1alpha1.ConditionReady: true}
	for _, c := range t.others {
		keep[c.Type] = true
		if meta.SetStatusCondition(list, c) {
			changed = append(changed, c)
		}
	}
	*list = slices.DeleteFunc(*list, func(c metav1.Condition) bool { return !keep[c.Type] })
	return changed
}

// trunkState is what a VLANTrunkNode says.
type trunkState struct {
	trunk  string
	status v1alpha1.VLANTrunkNodeStatus
	ready  metav1.Condition
	others []metav1.Condition // beside ready
	// resource says that the trunk wants its resource offered where it is healthy.
	resource bool
	// offers are networks whose VLANs checks find well here.
	offers []string
}

// trunkStates sorts what a node says by trunk, also by those that it should have
// and cannot.
func trunkStates(s wire.NodeStatus, ports []wire.Port) []trunkState {
	var out []trunkState
	known := map[string]bool{}
	for _, t := range s.Trunks {
		known[t.Name] = true
		st := v1alpha1.VLANTrunkNodeStatus{Bridge: t.Bridge, MTU: int32(t.MTU), Agent: s.Version, AgentAddress: s.AgentAddress,
			Generation: v1alpha1.GenerationStatus{Desired: int64(s.Desired), Compiled: int64(s.Compiled), Active: int64(s.Active)}}
		if t.Uplink != "" {
			st.Uplink = &v1alpha1.UplinkStatus{Interface: t.Uplink, State: t.Link, VLANs: t.VLANs.String()}
		}
		on := map[string]bool{t.Bridge: true, t.Uplink: true}
		for _, p := range ports {
			if p.Trunk == t.Name {
				st.Ports++
				on[p.HostIfName] = true
			}
		}
		for _, d := range s.Drift {
			if d.Message != "" && on[d.Subject] && len(st.Drift) < 16 {
				st.Drift = append(st.Drift, v1alpha1.DriftStatus{Kind: d.Kind, Subject: d.Subject, Message: d.Message})
			}
		}
		out = append(out, trunkState{t.Name, st, trunkReady(s, t, st), conditions(t.Conditions), t.Resource, t.Offers})
	}
	for _, p := range s.Problems {
		if p.Kind == v1alpha1.KindVLANTrunk && !known[p.Name] && p.Name != "" {
			known[p.Name] = true
			out = append(out, trunkState{p.Name, v1alpha1.VLANTrunkNodeStatus{Agent: s.Version, AgentAddress: s.AgentAddress},
				notReady(v1alpha1.ReasonRefused, strings.TrimPrefix(p.Field+": "+p.Message, ": ")), nil, false, nil})
		}
	}
	return out
}

// trunkReady tells the truth: policy that is overdue on the node is overdue on each
// of its trunks. A policy that is refused is not: the last good one of its network
// is in force, and all others are.
func trunkReady(s wire.NodeStatus, t wire.TrunkStatus, st v1alpha1.VLANTrunkNodeStatus) metav1.Condition {
	switch {
	case !t.Ready:
		return notReady(v1alpha1.ReasonTrunkBroken, t.Message)
	case t.Link == wire.LinkAbsent || t.Link == wire.LinkDown || t.Link == wire.LinkNoCarrier:
		return notReady(v1alpha1.ReasonLinkDown, fmt.Sprintf("uplink %s: %s: check the cable, the switch port and the bond", t.Uplink, t.Link))
	case len(st.Drift) > 0:
		return notReady(v1alpha1.ReasonDrift, fmt.Sprintf("%s: %s: %s", st.Drift[0].Subject, st.Drift[0].Kind, st.Drift[0].Message))
	case s.Pending != nil && s.Pending.Overdue:
		return notReady(v1alpha1.ReasonPolicyPending, pendingText(s))
	}
	for _, p := range s.Problems {
		if p.Kind == v1alpha1.KindVLANTrunk && p.Name == t.Name {
			return notReady(v1alpha1.ReasonRefused, strings.TrimPrefix(p.Field+": "+p.Message, ": "))
		}
	}
	return metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonHealthy,
		Message: "carries what it should"}
}

// pendingText says what is not in force, since when and why.
func pendingText(s wire.NodeStatus) string {
	text := fmt.Sprintf("revision %d of policy is desired since %s, %d is active", s.Desired, s.Pending.Since.UTC().Format(time.RFC3339), s.Active)
	if s.Pending.Message != "" {
		text += ": " + s.Pending.Message
	}
	return text
}

func notReady(reason, message string) metav1.Condition {
	return metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: atMost1024(message)}
}

func atMost1024(message string) string { return message[:min(len(message), 1024)] }

// conditions are those of a trunk beside Ready, with the time of their change.
func conditions(list []wire.Condition) (out []metav1.Condition) {
	for _, c := range list {
		out = append(out, metav1.Condition{Type: c.Type, Status: metav1.ConditionStatus(c.Status), Reason: c.Reason,
			Message: atMost1024(c.Message), LastTransitionTime: metav1.NewTime(c.LastTransitionTime)})
	}
	return out
}
