package desired

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// Judge says what is wrong with the objects of a cluster (VLANTrunk, VLANNetwork,
// FirewallPolicy, AddressSet, ServiceSet, ReachabilityCheck; all of them), as far as that is the same on every node: with
// each alone, and with what they say of each other. Which nodes have a trunk is
// not looked at, nor are trunks compared, which may be on different nodes.
func Judge(objects []unstructured.Unstructured) []Problem {
	var m manifest
	for i := range objects {
		d := decodeObject(&objects[i])
		m.objects = append(m.objects, d.object)
		m.problems = append(m.problems, d.problems...)
	}
	r := newResolver(nil, []manifest{m})
	r.everywhere = true
	next, problems := r.resolve()
	s, _ := build(next, problems, nil)
	return append(s.Problems, s.overfull()...)
}

// Selected is what a FirewallPolicy selects by label, and which AddressSets it is applied to, as far as it is not as its author may
// think.
type Selected struct {
	// HasPeers and HasApplied say whether there are such peers, and such items of appliedTo; HasSets whether it is applied to AddressSets.
	HasPeers, HasApplied, HasSets bool
	// Peers match less: VMs whose address nobody knows, or nobody at all.
	Peers []Problem
	// Applied are items of appliedTo that select nobody, and Empty AddressSets of it that have no address.
	Applied, Empty []Problem
}

// Selects looks at what a FirewallPolicy selects by label, and at the AddressSets that it is applied to. Only if it does are all
// VMIdentities of the cluster asked for; empty says that a set is there and has no address.
func Selects(policy *unstructured.Unstructured, all func() ([]v1alpha1.VMIdentity, error), empty func(set string) (bool, error)) (out Selected, _ error) {
	d := decodeObject(policy)
	p, ok := d.value.(Policy)
	if !ok {
		return out, nil
	}
	out.HasPeers, out.HasApplied, out.HasSets = len(d.vms) > 0, len(p.VMs)+len(p.NICs) > 0, len(p.AddressSets) > 0
	for _, name := range p.AddressSets {
		is, err := empty(name)
		if err != nil {
			return out, err
		}
		if is {
			out.Empty = append(out.Empty, Problem{Kind: v1alpha1.KindFirewallPolicy, Name: p.Name, Field: "spec.appliedTo",
				Message: fmt.Sprintf("AddressSet %q has no address now: put those of the VMs into it, or take it out", name)})
		}
	}
	if !out.HasPeers && !out.HasApplied {
		return out, nil
	}
	identities, err := all()
	if err != nil {
		return out, err
	}
	var holders []holder
	for i := range identities {
		o := &identities[i]
		h := holder{name: o.Namespace + "/" + o.Name, namespace: o.Namespace, network: o.Spec.Network, labels: o.Labels}
		if o.Spec.VM != nil {
			h.vm = o.Spec.VM.Name
		}
		for _, a := range o.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil {
				h.addresses = append(h.addresses, addr.Unmap())
			}
		}
		holders = append(holders, h)
	}
	slices.SortFunc(holders, func(a, b holder) int { return strings.Compare(a.name, b.name) })
	_, out.Peers = putVMPeers(p, d.vms, holders)
	nobody := func(s Selector, network, where string) {
		if slices.ContainsFunc(holders, func(h holder) bool {
			return h.vm != "" && (network == "" || h.network == network) && s.Matches(h.vmLabels())
		}) {
			return
		}
		out.Applied = append(out.Applied, Problem{Kind: v1alpha1.KindFirewallPolicy, Name: p.Name, Field: "spec.appliedTo",
			Message: fmt.Sprintf("vm %q selects no VM%s now: correct the labels, or start the VM", s, where)})
	}
	for _, s := range p.VMs {
		nobody(s, "", "")
	}
	for _, n := range p.NICs {
		nobody(n.VMs, n.Network, " on VLANNetwork "+n.Network)
	}
	return out, nil
}

// overfull tells of the policies that bring a network over the rules that it can
// have. Rules are counted as they are written, policies in the order of judgement:
// the one with which the count passes the limit cannot be in force there, nor can
// those that come after it. It is the same for all nodes, so what policies select
// by label is not counted: which ports that is, only their nodes know.
func (s *Snapshot) overfull() []Problem {
	var out []Problem
	names := append([]string{""}, slices.Sorted(maps.Keys(s.Networks))...)
	have := map[string]int{} // rules, by network
	for i := range s.Policies {
		p := &s.Policies[i]
		on := p.Networks
		if p.Any() || len(p.AddressSets) > 0 {
			on = names
		}
		var over []string
		rules := compile.Lines(&policy.Set{Rules: p.Rules, ServiceLists: s.serviceLists})
		for _, n := range on {
			if have[n] += rules; have[n] > compile.RulesMax && rules > 0 {
				over = append(over, fmt.Sprintf("%s to %d rules", networkName(n), have[n]))
			}
		}
		if len(over) == 0 {
			continue
		}
		if more := len(over) - 4; more > 0 {
			over = append(over[:4], fmt.Sprintf("%d more networks over it", more))
		}
		out = append(out, Problem{Kind: v1alpha1.KindFirewallPolicy, Name: p.Name, Field: "spec.rules",
			Message: fmt.Sprintf("with the policies before it in the order of judgement it brings %s, but a network can have %d: "+
				"join rules that differ only in addresses or services, ask for the same source ports and TCP flags in all services of a rule, or apply policies to fewer networks; until then nodes keep the last good rules of all policies there",
				strings.Join(over, ", "), compile.RulesMax)})
	}
	return out
}

// networkName is a network in words; "" has the ports without one.
func networkName(name string) string {
	if name == "" {
		return "ports without a VLANNetwork"
	}
	return "VLANNetwork " + name
}
