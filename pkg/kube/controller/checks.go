package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// checks says of ReachabilityChecks whether their spec is in force. The agents do all else.
type checks struct {
	*writer
	judge *judge
}

func (c *Controller) addChecks(k *checks) error {
	return c.control("check", 1, by(k.reconcile), &v1alpha1.ReachabilityCheck{}, nil, c.verdicts(v1alpha1.KindReachabilityCheck))
}

func (k *checks) reconcile(ctx context.Context, name string) error {
	check := &v1alpha1.ReachabilityCheck{}
	if err := k.Get(ctx, client.ObjectKey{Name: name}, check); err != nil {
		return client.IgnoreNotFound(err)
	}
	problems, known := k.judge.of(check)
	if !known {
		return nil
	}
	before := check.DeepCopy()
	c := ready(check, true, v1alpha1.ReasonReady, "agents run it when it is due")
	if problems != "" {
		c = ready(check, false, v1alpha1.ReasonRefused, problems)
	}
	meta.SetStatusCondition(&check.Status.Conditions, c)
	return k.publish(ctx, before, check, before.Status.Conditions, check.Status.Conditions)
}
