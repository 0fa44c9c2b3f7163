package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

func compareBy(a, b string) int { return strings.Compare(a, b) }

// nodes clear away what nodes reported that the cluster has no more, and the ports of
// a boot that is over. One that is merely down may come back with its VMs' network as
// it was: its reports stay, and its ports say that nothing is known of them. What a
// living node reports is that node's, whatever becomes of the pods.
type nodes struct {
	*writer
	log *slog.Logger
}

func (c *Controller) addNodes(n *nodes) error {
	return c.control("node", 2, by(n.reconcile), nil, []watch{
		{&corev1.Node{}, reaction{whom: one(nodeOf), when: otherBoot, after: c.settle}},
		{&v1alpha1.VMPort{}, reaction{whom: one(nodeOf), when: toldDown, after: c.settle}},
		{&v1alpha1.VLANTrunkNode{}, reaction{whom: one(nodeOf), when: never, after: c.settle}},
	})
}

// otherBoot says whether a node went down, came up, or was started anew.
func otherBoot(before, after client.Object) bool {
	return otherLife(before, after) || never(before, after) || bootOf(before) != bootOf(after)
}

// toldDown says whether a port says now that its node is down, which may be over by
// the time that this is seen.
func toldDown(before, after client.Object) bool {
	says := func(o client.Object) bool { return saysDown(&o.(*v1alpha1.VMPort).Status) }
	return never(before, after) || says(after) && !says(before)
}

func bootOf(o client.Object) string { return o.(*corev1.Node).Status.NodeInfo.BootID }

func (n *nodes) reconcile(ctx context.Context, name string) error {
	var ports v1alpha1.VMPortList
	var reports v1alpha1.VLANTrunkNodeList
	for _, list := range []client.ObjectList{&ports, &reports} {
		if err := n.List(ctx, list, client.MatchingFields{byNode: name}, client.UnsafeDisableDeepCopy); err != nil {
			return err
		}
	}
	var node corev1.Node
	if err := n.Get(ctx, client.ObjectKey{Name: name}, &node, client.UnsafeDisableDeepCopy); err == nil {
		return n.follow(ctx, &node, ports.Items)
	} else if !apierrors.IsNotFound(err) {
		return err
	}
	if len(ports.Items)+len(reports.Items) == 0 {
		return nil
	}
	// The watch of nodes may be behind that of what they report.
	if err := n.live.Get(ctx, client.ObjectKey{Name: name}, namesOnly("Node")); !apierrors.IsNotFound(err) {
		return err
	}
	var errs []error
	remove := func(o client.Object) {
		uid := o.GetUID()
		errs = append(errs, client.IgnoreNotFound(n.Delete(ctx, o, client.Preconditions{UID: &uid})))
	}
	for i := range ports.Items {
		remove(ports.Items[i].DeepCopy())
	}
	for i := range reports.Items {
		remove(reports.Items[i].DeepCopy())
	}
	n.log.Info("cleared away what a node reported that is gone", "node", name, "ports", len(ports.Items), "trunks", len(reports.Items))
	return errors.Join(errs...)
}

// follow has the ports of a node say whether it is down, and removes those of
// another boot, which ended with that, once the node is up and its boot is known.
func (n *nodes) follow(ctx context.Context, node *corev1.Node, ports []v1alpha1.VMPort) error {
	var errs []error
	var ended []*v1alpha1.VMPort
	down := isDown(node)
	for i := range ports {
		p := &ports[i]
		switch {
		case !down && ofOtherBoot(p, node):
			ended = append(ended, p.DeepCopy())
		case down != saysDown(&p.Status):
			errs = append(errs, n.tell(ctx, client.ObjectKeyFromObject(p), down))
		}
	}
	if len(ended) == 0 {
		return errors.Join(errs...)
	}
	// The watch of nodes may be behind that of ports.
	var now corev1.Node
	if err := n.live.Get(ctx, client.ObjectKeyFromObject(node), &now); err != nil {
		return errors.Join(append(errs, client.IgnoreNotFound(err))...)
	}
	for _, p := range ended {
		if ofOtherBoot(p, &now) {
			uid, version := p.UID, p.ResourceVersion
			errs = append(errs, client.IgnoreNotFound(n.Delete(ctx, p, client.Preconditions{UID: &uid, ResourceVersion: &version})))
		}
	}
	n.log.Info("cleared away the ports of a boot that is over", "node", node.Name, "ports", len(ended))
	return errors.Join(errs...)
}

func ofOtherBoot(p *v1alpha1.VMPort, node *corev1.Node) bool {
	boot := bootOf(node)
	return boot != "" && p.Status.BootID != "" && p.Status.BootID != boot
}

// saysDown says whether a port says of us that its node is down.
func saysDown(s *v1alpha1.VMPortStatus) bool {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Reason == v1alpha1.ReasonNodeDown
}

// tell has a port say that its node is down, or again what the node said before: an
// agent that lives on had no reason to write it anew. Where that agent has news while
// the node is down, its word takes the place of ours.
func (n *nodes) tell(ctx context.Context, key client.ObjectKey, down bool) error {
	var port v1alpha1.VMPort
	if err := n.live.Get(ctx, key, &port); err != nil || down == saysDown(&port.Status) {
		return client.IgnoreNotFound(err)
	}
	before := port.DeepCopy()
	s := &port.Status
	was := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady)
	switch {
	case down:
		if was != nil {
			s.BeforeNodeDown = was.DeepCopy()
		}
		meta.SetStatusCondition(&s.Conditions, condition(&port, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonNodeDown,
			fmt.Sprintf("node %s is down (its Node is not Ready): state and counters are what it said last", port.Spec.Node)))
	case s.BeforeNodeDown != nil:
		*was = *s.BeforeNodeDown
		s.BeforeNodeDown = nil
	default: // the node had said nothing
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionReady)
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	return client.IgnoreNotFound(n.Status().Patch(ctx, &port, patch))
}
