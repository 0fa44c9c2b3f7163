package controller

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

func compareBy(a, b string) int { return strings.Compare(a, b) }

// nodes clear away what nodes reported that the cluster has no more. One that is
// merely down may come back with its VMs' network as it was: its reports stay.
// What a living node reports is that node's, whatever becomes of the pods.
type nodes struct {
	*writer
	log *slog.Logger
}

func (c *Controller) addNodes(n *nodes) error {
	return c.control("node", 2, by(n.reconcile), nil, []watch{
		{&corev1.Node{}, reaction{whom: one(nodeOf), when: never, after: c.settle}},
		{&v1alpha1.VMPort{}, reaction{whom: one(nodeOf), when: never, after: c.settle}},
		{&v1alpha1.VLANTrunkNode{}, reaction{whom: one(nodeOf), when: never, after: c.settle}},
	})
}

func (n *nodes) reconcile(ctx context.Context, name string) error {
	if err := n.Get(ctx, client.ObjectKey{Name: name}, &corev1.Node{}, client.UnsafeDisableDeepCopy); !apierrors.IsNotFound(err) {
		return err
	}
	var ports v1alpha1.VMPortList
	var reports v1alpha1.VLANTrunkNodeList
	for _, list := range []client.ObjectList{&ports, &reports} {
		if err := n.List(ctx, list, client.MatchingFields{byNode: name}, client.UnsafeDisableDeepCopy); err != nil {
			return err
		}
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
