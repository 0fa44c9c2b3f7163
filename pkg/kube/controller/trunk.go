package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// trunks look after VLANTrunks: what their nodes report, and who uses them.
type trunks struct {
	*writer
	judge  *judge
	agents *agents
	word   time.Duration // that a new report may have no status yet
}

func (c *Controller) addTrunks(t *trunks) error {
	others := []watch{
		{judged(v1alpha1.KindVLANNetwork), reaction{whom: one(trunkOf), when: newSpec, after: c.settle}},
		{&v1alpha1.VLANTrunkNode{}, reaction{whom: one(trunkOf), when: otherHealth, after: c.settle}},
		{&v1alpha1.VMPort{}, reaction{whom: one(trunkOf), when: newSpec, after: c.settle}},
		{&corev1.Node{}, reaction{whom: t.onNode, when: otherLife, after: c.settle}},
	}
	if t.agents != nil {
		others = append(others, watch{&corev1.Pod{}, reaction{whom: t.onNode, when: otherReadiness, after: c.settle}})
	}
	return c.control("trunk", 2, by(t.reconcile), judged(v1alpha1.KindVLANTrunk), others, c.verdicts(v1alpha1.KindVLANTrunk))
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

// onNode names the trunks that a node, or that of an agent's pod, reports.
func (t *trunks) onNode(ctx context.Context, o client.Object) []string {
	var reports v1alpha1.VLANTrunkNodeList
	_ = t.List(ctx, &reports, client.MatchingFields{byNode: nodeOf(o)}, client.UnsafeDisableDeepCopy) // from memory
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
	nodes, wait, err := t.reports(ctx, name)
	if err != nil {
		return err
	}
	users, err := t.users(ctx, name, nodes)
	if err != nil {
		return err
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
	sick := sick(nodes)
	trunk.Status.Nodes, trunk.Status.HealthyNodes = int32(len(nodes)), int32(len(nodes)-len(sick))
	for _, c := range []metav1.Condition{trunkReady(trunk, users, problems), trunkDegraded(trunk, sick)} {
		meta.SetStatusCondition(&trunk.Status.Conditions, c)
	}
	if err := t.publish(ctx, before, trunk, before.Status.Conditions, trunk.Status.Conditions); err != nil || wait == 0 {
		return err
	}
	return later(wait)
}

// onTrunk is what a node reports of a trunk. What a node said before it went down, or
// its agent did, is not so any more.
type onTrunk struct {
	node  string
	down  bool
	mute  bool // it has no agent that is ready
	ports int
	ready *metav1.Condition
}

// reports reads what nodes report of a trunk, sorted. A report is made before its
// status is written: one that is so new is left out. After wait, if not 0, it is to be
// read again.
func (t *trunks) reports(ctx context.Context, trunk string) (out []onTrunk, wait time.Duration, err error) {
	var list v1alpha1.VLANTrunkNodeList
	if err := t.List(ctx, &list, client.MatchingFields{byTrunk: trunk}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, 0, err
	}
	for i := range list.Items {
		r := &list.Items[i]
		var node corev1.Node
		if err := t.Get(ctx, client.ObjectKey{Name: r.Spec.Node}, &node, client.UnsafeDisableDeepCopy); client.IgnoreNotFound(err) != nil {
			return nil, 0, err
		}
		mute, left, err := t.agents.lost(ctx, r.Spec.Node)
		if err != nil {
			return nil, 0, err
		}
		wait = soonest(wait, left)
		o := onTrunk{r.Spec.Node, isDown(&node), mute, int(r.Status.Ports), meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady)}
		if left := t.word - time.Since(r.CreationTimestamp.Time); o.ready == nil && left > 0 {
			wait = soonest(wait, left)
			continue
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b onTrunk) int { return compareBy(a.node, b.node) })
	return out, wait, nil
}

// soonest is the shorter of two waits; 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// users names what keeps a trunk: its networks, and the nodes with ports on it. Ports
// are counted by their VMPorts, which go with their pods also when a node does not
// come back; a node that is up may know of ports of no pod besides.
func (t *trunks) users(ctx context.Context, trunk string, nodes []onTrunk) ([]string, error) {
	users, err := namesOf(ctx, t, v1alpha1.KindVLANNetwork, byTrunk, trunk)
	if err != nil {
		return nil, err
	}
	slices.Sort(users)
	for i := range users {
		users[i] = "VLANNetwork " + users[i]
	}
	var ports v1alpha1.VMPortList
	if err := t.List(ctx, &ports, client.MatchingFields{byTrunk: trunk}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	at := map[string]int{}
	for i := range ports.Items {
		at[ports.Items[i].Spec.Node]++
	}
	for _, n := range nodes {
		if !n.down && n.ports > 0 {
			at[n.node] = max(at[n.node], n.ports)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(at)) {
		users = append(users, fmt.Sprintf("node %s (%s)", node, count(at[node], "port")))
	}
	return users, nil
}

// sick names the nodes where a trunk is not ready.
func sick(reports []onTrunk) (sick []string) {
	for _, r := range reports {
		switch {
		case r.down:
			sick = append(sick, r.node+" (the node is down)")
		case r.mute:
			sick = append(sick, r.node+" (no agent there is ready)")
		case r.ready == nil:
			sick = append(sick, r.node+" (no word yet)")
		case r.ready.Status != metav1.ConditionTrue:
			sick = append(sick, fmt.Sprintf("%s (%s)", r.node, r.ready.Reason))
		}
	}
	return sick
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
