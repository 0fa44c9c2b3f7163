package controller

import (
	"context"
	"fmt"
	"slices"

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
	healthy, sick := healthOf(nodes.Items)
	trunk.Status.Nodes, trunk.Status.HealthyNodes = int32(len(nodes.Items)), int32(healthy)
	meta.SetStatusCondition(&trunk.Status.Conditions, trunkReady(trunk, users, problems, sick))
	return t.publish(ctx, before, trunk, before.Status.Conditions, trunk.Status.Conditions)
}

// healthOf counts the nodes where a trunk is ready, and names the others.
func healthOf(nodes []v1alpha1.VLANTrunkNode) (healthy int, sick []string) {
	for i := range nodes {
		n := &nodes[i]
		switch c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.ConditionReady); {
		case c == nil:
			sick = append(sick, n.Spec.Node+" (no word yet)")
		case c.Status == metav1.ConditionTrue:
			healthy++
		default:
			sick = append(sick, fmt.Sprintf("%s (%s)", n.Spec.Node, c.Reason))
		}
	}
	return healthy, sick
}

func trunkReady(t *v1alpha1.VLANTrunk, users []string, problems string, sick []string) metav1.Condition {
	switch {
	case !t.DeletionTimestamp.IsZero():
		return ready(t, false, v1alpha1.ReasonInUse, fmt.Sprintf("is to be deleted, but used by %s: remove those networks, and move or stop the VMs on those nodes",
			some(users, ", ")))
	case problems != "":
		return ready(t, false, v1alpha1.ReasonRefused, problems)
	case t.Status.Nodes == 0:
		return ready(t, false, v1alpha1.ReasonNoNodes, "no node reports the trunk: see that spec.nodeSelector selects nodes, and that the agent runs there")
	case len(sick) > 0:
		return ready(t, false, v1alpha1.ReasonNodesUnhealthy, fmt.Sprintf("%d of %s not healthy: %s: see kubectl describe vlantrunknode %s.NODE",
			len(sick), count(int(t.Status.Nodes), "node"), some(sick, ", "), t.Name))
	}
	return ready(t, true, v1alpha1.ReasonHealthy, fmt.Sprintf("healthy on %s", count(int(t.Status.Nodes), "node")))
}
