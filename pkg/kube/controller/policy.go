package controller

import (
	"context"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// policies look after FirewallPolicies: whether they can be in force, and match whom
// they name.
type policies struct {
	*writer
	judge *judge

	mu       sync.Mutex
	watching map[string]bool // policies that say of others' labels, or of AddressSets that they are applied to
}

func (c *Controller) addPolicies(p *policies) error {
	const together = 10 // VMs that start or get addresses are many at once, and policies too
	return c.control("policy", 4, by(p.reconcile), judged(v1alpha1.KindFirewallPolicy), []watch{
		{&v1alpha1.VMIdentity{}, reaction{whom: p.watchers, when: otherHolder, after: together * c.settle}},
		{&v1alpha1.AddressSet{}, reaction{whom: p.watchers, when: filled, after: c.settle}},
	}, c.verdicts(v1alpha1.KindFirewallPolicy))
}

// watchers names the policies that a VM may be a peer of, or that may be applied to a set.
func (p *policies) watchers(context.Context, client.Object) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.watching))
}

func (p *policies) note(name string, watches bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if watches {
		p.watching[name] = true
	} else {
		delete(p.watching, name)
	}
}

// filled says whether a set has become empty, or is no more.
func filled(before, after client.Object) bool {
	b, a := before.(*v1alpha1.AddressSet), after.(*v1alpha1.AddressSet)
	return never(before, after) || isEmpty(b) != isEmpty(a)
}

// isEmpty says that a set has no address, nor by others, as far as somebody has counted.
func isEmpty(s *v1alpha1.AddressSet) bool {
	ready := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && ready.ObservedGeneration == s.Generation && s.Status.Addresses == 0
}

// otherHolder says whether a VM has other labels, or addresses, than it had.
func otherHolder(before, after client.Object) bool {
	b, a := before.(*v1alpha1.VMIdentity), after.(*v1alpha1.VMIdentity)
	return never(before, after) || !maps.Equal(b.Labels, a.Labels) || len(b.Status.Addresses) != len(a.Status.Addresses)
}

func (p *policies) reconcile(ctx context.Context, name string) error {
	u := judged(v1alpha1.KindFirewallPolicy)
	if err := p.Get(ctx, client.ObjectKey{Name: name}, u, client.UnsafeDisableDeepCopy); err != nil {
		p.note(name, false)
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
	if err := p.peers(ctx, u, policy); err != nil {
		return err
	}
	return p.publish(ctx, before, policy, before.Status.Conditions, policy.Status.Conditions)
}

// peers notes whom peers by label do not match.
func (p *policies) peers(ctx context.Context, u *unstructured.Unstructured, policy *v1alpha1.FirewallPolicy) error {
	found, err := desired.Selects(u, func() ([]v1alpha1.VMIdentity, error) {
		var list v1alpha1.VMIdentityList
		err := p.List(ctx, &list, client.UnsafeDisableDeepCopy)
		return list.Items, err
	}, func(set string) (bool, error) {
		var s v1alpha1.AddressSet
		err := p.Get(ctx, client.ObjectKey{Name: set}, &s, client.UnsafeDisableDeepCopy)
		return err == nil && isEmpty(&s), client.IgnoreNotFound(err)
	})
	p.note(policy.Name, found.HasPeers || found.HasApplied || found.HasSets)
	tell := func(has bool, problems []desired.Problem, typ, bad, good, fine string) {
		if err != nil || !has {
			meta.RemoveStatusCondition(&policy.Status.Conditions, typ)
			return
		}
		c := condition(policy, typ, metav1.ConditionFalse, good, fine)
		if len(problems) > 0 {
			var texts []string
			for _, n := range problems {
				texts = append(texts, n.Field+" "+n.Message)
			}
			c = condition(policy, typ, metav1.ConditionTrue, bad, some(texts, "; "))
		}
		meta.SetStatusCondition(&policy.Status.Conditions, c)
	}
	tell(found.HasPeers, found.Peers, v1alpha1.ConditionPeersUnknown, v1alpha1.ReasonPeersUnknown, v1alpha1.ReasonPeersKnown,
		"the addresses of all VMs that peers select are known")
	bad, good, fine := v1alpha1.ReasonNoVMSelected, v1alpha1.ReasonVMsSelected, "each vm of appliedTo selects a VM"
	if len(found.Applied) == 0 {
		bad = v1alpha1.ReasonEmptyAddressSet
	}
	switch {
	case !found.HasApplied:
		good, fine = v1alpha1.ReasonNotEmpty, "each AddressSet of appliedTo has addresses"
	case found.HasSets:
		fine += ", and each AddressSet has addresses"
	}
	tell(found.HasApplied || found.HasSets, append(found.Applied, found.Empty...), v1alpha1.ConditionAppliedToNobody, bad, good, fine)
	return err
}
