package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// policies look after FirewallPolicies: whether they can be in force.
type policies struct {
	*writer
	judge *judge
}

func (c *Controller) addPolicies(p *policies) error {
	return c.control("policy", 4, by(p.reconcile), judged(v1alpha1.KindFirewallPolicy), nil, c.verdicts(v1alpha1.KindFirewallPolicy))
}

func (p *policies) reconcile(ctx context.Context, name string) error {
	u := judged(v1alpha1.KindFirewallPolicy)
	if err := p.Get(ctx, client.ObjectKey{Name: name}, u, client.UnsafeDisableDeepCopy); err != nil {
		return client.IgnoreNotFound(err)
	}
	problems, known := p.judge.of(u)
	if !known {
		return nil
	}
	rules, _, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "rules")
	list, _ := rules.([]any)
	// The rules themselves are not needed here, and there may be thousands.
	head := &unstructured.Unstructured{Object: map[string]any{"metadata": u.Object["metadata"]}}
	if status, ok := u.Object["status"]; ok {
		head.Object["status"] = status
	}
	policy, err := typed[v1alpha1.FirewallPolicy](head)
	if err != nil {
		return err
	}
	before := policy.DeepCopy()
	policy.Status.Rules = int32(len(list))
	c := ready(policy, true, v1alpha1.ReasonReady, count(len(list), "rule"))
	if problems != "" {
		c = ready(policy, false, v1alpha1.ReasonRefused, problems)
	}
	meta.SetStatusCondition(&policy.Status.Conditions, c)
	return p.publish(ctx, before, policy, before.Status.Conditions, policy.Status.Conditions)
}
