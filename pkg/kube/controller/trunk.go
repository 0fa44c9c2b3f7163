package controller

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// trunks look after VLANTrunks: what their nodes report, and who uses them.
type trunks struct {
	*writer
	judge *judge
}

func (c *Controller) addTrunks(t *trunks) error {
	return c.control("trunk", 2, by(t.reconcile), judged(v1alpha1.KindVLANTrunk), []watch{
		{judged(v1alpha1.KindVLANNetwork), reaction{whom: one(trunkOf), when: newSpec, after: c.settle}},
		{&v1alpha1.VLANTrunkNode{}, reaction{whom: one(trunkOf), when: otherHealth, after: c.settle}},
		{&corev1.Node{}, reaction{whom: t.onNode, when: otherLife, after: c.settle}},
	}, c.verdicts(v1alpha1.KindVLANTrunk))
}

// otherHealth says whether a node says something else of a trunk that counts here.
func otherHealth(before, after client.Object) bool {
	health := func(o client.Object) (readyState, int32) {
		n := o.(*v1alpha1.VLANTrunkNode)
		s := stateOf(meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionReady))
		s.of = 0
		return s, n.Status.Ports
	}
	wasState, wasPorts := health(before)
	isState, isPorts := health(after)
	return wasState != isState || wasPorts != isPorts || newSpec(before, after)
}

// onNode names the trunks that a node reports.
func (t *trunks) onNode(ctx context.Context, o client.Object) []string {
	var reports v1alpha1.VLANTrunkNodeList
	_ = t.List(ctx, &reports, client.MatchingFields{byNode: o.GetName()}, client.UnsafeDisableDeepCopy) // from memory
	var names []string
	for i := range reports.Items {
		names = append(names, reports.Items[i].Spec.Trunk)
	}
	return names
}

// otherLife says whether a node went down or came up.
func otherLife(before, after client.Object) bool {
	return isDown(before.(*corev1.Node)) != isDown(after.(*corev1.Node))
}

func (t *trunks) reconcile(ctx context.Context, name string) error {
	trunk, err := fetch[v1alpha1.VLANTrunk](ctx, t, v1alpha1.KindVLANTrunk, name)
	if trunk == nil {
		return err
	}
	var nodes v1alpha1.VLANTrunkNodeList
	if err := t.List(ctx, &nodes, client.MatchingFields{byTrunk: name}, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	users, err := namesOf(ctx, t, v1alpha1.KindVLANNetwork, byTrunk, name)
	if err != nil {
		return err
	}
	slices.Sort(users)
	for i := range users {
		users[i] = "VLANNetwork " + users[i]
	}
	slices.SortFunc(nodes.Items, func(a, b v1alpha1.VLANTrunkNode) int { return compareBy(a.Spec.Node, b.Spec.Node) })
	for i := range nodes.Items {
		if n := &nodes.Items[i]; n.Status.Ports > 0 {
			users = append(users, fmt.Sprintf("node %s (%s)", n.Spec.Node, count(int(n.Status.Ports), "port")))
		}
	}
	if err := t.hold(ctx, trunk, len(users) > 0); err != nil {
		return err
	}
	if !trunk.DeletionTimestamp.IsZero() && len(users) == 0 {
		return nil
	}
	problems, known := t.judge.of(trunk)
	if !known {
		return nil
	}
	before := trunk.DeepCopy()
	sick, err := t.sick(ctx, nodes.Items)
	if err != nil {
		return err
	}
	trunk.Status.Nodes, trunk.Status.HealthyNodes = int32(len(nodes.Items)), int32(len(nodes.Items)-len(sick))
	for _, c := range []metav1.Condition{trunkReady(trunk, users, problems), trunkDegraded(trunk, sick)} {
		meta.SetStatusCondition(&trunk.Status.Conditions, c)
	}
	return t.publish(ctx, before, trunk, before.Status.Conditions, trunk.Status.Conditions)
}

// sick names the nodes where a trunk is not ready. What a node said before it went
// down is not so any more.
func (t *trunks) sick(ctx context.Context, reports []v1alpha1.VLANTrunkNode) (sick []string, err error) {
	for i := range reports {
		r := &reports[i]
		var node corev1.Node
		if err := t.Get(ctx, client.ObjectKey{Name: r.Spec.Node}, &node, client.UnsafeDisableDeepCopy); client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		switch c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady); {
		case isDown(&node):
			sick = append(sick, r.Spec.Node+" (the node is down)")
		case c == nil:
			sick = append(sick, r.Spec.Node+" (no word yet)")
		case c.Status != metav1.ConditionTrue:
			sick = append(sick, fmt.Sprintf("%s (%s)", r.Spec.Node, c.Reason))
		}
	}
	return sick, nil
}

// trunkReady says whether VMs can be on the trunk. As long as one node carries it
// they can: one node's cable is no reason to call all networks broken.
func trunkReady(t *v1alpha1.VLANTrunk, users []string, problems string) metav1.Condition {
	nodes, healthy := t.Status.Nodes, t.Status.HealthyNodes
	switch {
	case !t.DeletionTimestamp.IsZero():
		return ready(t, false, v1alpha1.ReasonInUse, fmt.Sprintf("is to be deleted, but used by %s: remove those networks, and move or stop the VMs on those nodes",
			some(users, ", ")))
	case problems != "":
		return ready(t, false, v1alpha1.ReasonRefused, problems)
	case nodes == 0:
		return ready(t, false, v1alpha1.ReasonNoNodes, "no node reports the trunk: see that spec.nodeSelector selects nodes, and that the agent runs there")
	case healthy == 0:
		return ready(t, false, v1alpha1.ReasonNodesUnhealthy, fmt.Sprintf("healthy on none of %s: see condition %s", count(int(nodes), "node"), v1alpha1.ConditionDegraded))
	case healthy < nodes:
		return ready(t, true, v1alpha1.ReasonPartlyHealthy, fmt.Sprintf("healthy on %d of %s: see condition %s", healthy, count(int(nodes), "node"), v1alpha1.ConditionDegraded))
	}
	return ready(t, true, v1alpha1.ReasonHealthy, fmt.Sprintf("healthy on %s", count(int(nodes), "node")))
}

// trunkDegraded says whether there are nodes where the trunk should work and does not.
func trunkDegraded(t *v1alpha1.VLANTrunk, sick []string) metav1.Condition {
	nodes := count(int(t.Status.Nodes), "node")
	if len(sick) == 0 {
		return condition(t, v1alpha1.ConditionDegraded, metav1.ConditionFalse, v1alpha1.ReasonHealthy, "no node that reports the trunk is unhealthy")
	}
	return condition(t, v1alpha1.ConditionDegraded, metav1.ConditionTrue, v1alpha1.ReasonNodesUnhealthy,
		fmt.Sprintf("%d of %s not healthy: %s: see kubectl describe vlantrunknode %s.NODE", len(sick), nodes, some(sick, ", "), t.Name))
}
