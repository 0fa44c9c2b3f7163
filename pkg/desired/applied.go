package desired

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"unsafe"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Which policies judge a port can depend on labels: a FirewallPolicy's appliedTo
// selects VMs, a MultiNetworkPolicy and a ClusterNetworkPolicy pods. Whose port it is,
// and with what labels, is known a while after its ADD, which waits for nobody; and a VM
// is believed to be one only when KubeVirt says so. So each policy is applied to a port
// with certainty, or not at all, or maybe. Of one that is maybe applied the rules that
// drop are in force, those that pass on drop, and those that allow or only count are
// not there: whatever is found out in the end, nothing was let through before that will
// not be let through then.
//
// It is so rule by rule: with such a rule that drops, less passes than with the rule or
// without it, or than what it would pass on; without such a rule that allows, a packet
// is judged by what follows, and either that drops it, or it passes with the rule and
// without.

// Pod is what is known of a pod of this node.
type Pod struct {
	UID    string            `json:"uid"`
	Labels map[string]string `json:"labels,omitempty"` // its own, as MultiNetworkPolicies select by
	Owner  Owner             `json:"owner"`
	// Namespace has its namespace's labels; nil is that they are not known.
	Namespace map[string]string `json:"namespace,omitempty"`
	// VM has the VM's labels where the Owner is one, and is what FirewallPolicies
	// select by.
	VM map[string]string `json:"vm,omitempty"`
}

// Owner says whether a pod is a VM's.
type Owner string

// The owners of pods.
const (
	OwnerNone    Owner = "None"    // a pod without a VM
	OwnerUnknown Owner = "Unknown" // says to be a VM's, and no VM says so yet
	OwnerVM      Owner = "VM"      // its VirtualMachineInstance names it
)

// PodRef names a pod as an ADD did. The zero PodRef is that there is none.
type PodRef struct{ Namespace, Name, UID string }

// PodKey is how a pod is called in Snapshot.Pods.
func PodKey(namespace, name string) string { return namespace + "/" + name }

// PodPolicy is a MultiNetworkPolicy whose rules are ready to be judged.
type PodPolicy struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Pods      Selector `json:"pods"`               // of its namespace
	Networks  []string `json:"networks,omitempty"` // VLANNetworks that its policy-for comes to, sorted
	// Isolates has the directions in which nothing passes but what a rule allows.
	Isolates policy.Directions `json:"isolates"`
	Rules    []policy.Rule     `json:"rules,omitempty"` // all of them allow
}

// FullName is namespace/name.
func (p *PodPolicy) FullName() string { return p.Namespace + "/" + p.Name }

// certainty is whether a policy is applied to a port.
type certainty uint8

const (
	no certainty = iota
	maybe
	yes
)

// port is what decides which policies are applied to it.
type port struct {
	network string
	cluster bool // the network is for ClusterNetworkPolicies
	// nobody says that there is no pod: nothing is applied to it by label.
	nobody bool
	// pod is nil while nothing is known of it.
	pod       *Pod
	namespace string
}

// portOf is the port of a pod on a network, as far as it is known.
func (s *Snapshot) portOf(network string, ref PodRef) port {
	p := port{network: network, cluster: s.Networks[network].Cluster, namespace: ref.Namespace, nobody: ref == PodRef{}}
	if pod, ok := s.Pods[PodKey(ref.Namespace, ref.Name)]; ok && (ref.UID == "" || ref.UID == pod.UID) {
		p.pod = &pod
	}
	return p
}

// byPolicy says whether a FirewallPolicy or ClusterNetworkPolicy is applied to the port.
func (p port) byPolicy(f *Policy) certainty {
	switch {
	case f.Subject != nil:
		return p.bySubject(f.Subject)
	case f.Any() || slices.Contains(f.Networks, p.network):
		return yes
	}
	selectors := slices.Clone(f.VMs)
	for _, n := range f.NICs {
		if n.Network == p.network {
			selectors = append(selectors, n.VMs)
		}
	}
	return p.byVMs(selectors)
}

// byVMs says whether one of some selectors selects the port's VM.
func (p port) byVMs(selectors []Selector) certainty {
	switch {
	case len(selectors) == 0 || p.nobody || p.pod != nil && p.pod.Owner == OwnerNone:
		return no
	case p.pod == nil || p.pod.Owner != OwnerVM:
		return maybe
	case slices.ContainsFunc(selectors, func(s Selector) bool { return s.Matches(p.pod.VM) }):
		return yes
	}
	return no
}

func (p port) bySubject(s *Subject) certainty {
	switch {
	case !p.cluster || p.nobody:
		return no
	case p.pod == nil || p.pod.Namespace == nil:
		return maybe
	case s.Namespaces.Matches(p.pod.Namespace) && s.Pods.Matches(p.pod.Labels):
		return yes
	}
	return no
}

// byPodPolicy says whether a MultiNetworkPolicy is applied to the port. While a
// pod is not known those of all namespaces may be: the set is the same for all
// ports of the network then, and so there is one before any is asked for.
func (p port) byPodPolicy(f *PodPolicy) certainty {
	switch {
	case p.nobody || !slices.Contains(f.Networks, p.network):
		return no
	case p.pod == nil:
		return maybe
	case f.Namespace == p.namespace && f.Pods.Matches(p.pod.Labels):
		return yes
	}
	return no
}

// Any says that the policy is applied to every port.
func (p *Policy) Any() bool { return len(p.Networks) == 0 && !p.ByLabel() && len(p.AddressSets) == 0 }

// ByLabel says whether the policy selects ports by label, alone or beside networks.
func (p *Policy) ByLabel() bool { return len(p.VMs) > 0 || len(p.NICs) > 0 || p.Subject != nil }

// ByLabel says whether any policy selects ports by label, or a network VMs for which it makes exceptions.
func (s *Snapshot) ByLabel() bool {
	for _, n := range s.Networks {
		if slices.ContainsFunc(n.Exceptions, func(e Exception) bool { return e.VMs != nil }) {
			return true
		}
	}
	return len(s.PodPolicies) > 0 || slices.ContainsFunc(s.Policies, func(p Policy) bool { return p.ByLabel() })
}

// PolicySet gives what judges the port of a pod on a network, as far as it is
// known whose port it is. network "" is that of ports without a VLANNetwork.
func (s *Snapshot) PolicySet(network string, pod PodRef) policy.Set {
	return s.policySet(s.portOf(network, pod))
}

// PolicyID is the ID of that set, at less cost.
func (s *Snapshot) PolicyID(network string, pod PodRef) string {
	return s.policyID(s.portOf(network, pod))
}

// UnknownID is the ID of the UnknownSet.
func (s *Snapshot) UnknownID(network string) string { return s.policyID(s.unknown(network)) }

func (s *Snapshot) policyID(at port) string {
	set := policy.Set{Network: at.network, Variant: s.variant(at)}
	return set.ID()
}

// UnknownSet gives what judges a port on a network while nothing is known of its
// pod. It lets nothing through that PolicySet will not.
func (s *Snapshot) UnknownSet(network string) policy.Set {
	return s.policySet(s.unknown(network))
}

func (s *Snapshot) unknown(network string) port {
	return port{network: network, cluster: s.Networks[network].Cluster}
}

// isolation is the key of the rule that drops what no MultiNetworkPolicy allows.
// No FirewallPolicy has capitals in its name.
var isolation = policy.RuleKey{Policy: "MultiNetworkPolicy", ID: 1}

// rankPods is the place of MultiNetworkPolicies among the categories.
const rankPods = 5

// tierOf gives the tier of a category's rules. ClusterNetworkPolicies have tiers of their
// own, and MultiNetworkPolicies are of the one between, with Application.
func tierOf(rank int) uint8 {
	switch {
	case rank < rankAdmin:
		return 0
	case rank == rankAdmin:
		return 1
	case rank < rankBaseline:
		return 2
	}
	return 3
}

func (s *Snapshot) policySet(at port) policy.Set {
	set := s.emptySet(at)
	set.Rules = rulesOf(s.chunks(at))
	s.useLists(&set)
	return set
}

func (s *Snapshot) emptySet(at port) policy.Set {
	set := policy.Set{Network: at.network, Variant: s.variant(at), Default: policy.Drop}
	if n, ok := s.Networks[at.network]; ok {
		set.Default = n.Default
	}
	return set
}

// chunk is the rules of one policy as far as they are applied to a port.
type chunk struct {
	rules []policy.Rule
	tier  uint8
	// is says whether they are applied to the port. To what has one of local's addresses at
	// the VM's side they are in any case.
	is    certainty
	local []string
	// isolated are the directions of a rule that drops what is left, in place of rules.
	isolated policy.Directions
}

// same says whether two chunks have the same rules at the same place, which nobody changes.
func (c *chunk) same(o *chunk) bool {
	return len(c.rules) == len(o.rules) && unsafe.SliceData(c.rules) == unsafe.SliceData(o.rules) &&
		c.tier == o.tier && c.is == o.is && c.isolated == o.isolated && slices.Equal(c.local, o.local)
}

// chunks gives what is applied to a port, in the order of judgement.
func (s *Snapshot) chunks(at port) (out []chunk) {
	pods := s.podChunks(at)
	for i := range s.Policies {
		p := &s.Policies[i]
		if p.Rank > rankPods {
			out, pods = append(out, pods...), nil
		}
		c := chunk{rules: p.Rules, tier: tierOf(p.Rank), is: at.byPolicy(p)}
		if c.is != yes {
			c.local = p.AddressSets
		}
		if len(p.Rules) > 0 && (c.is != no || len(c.local) > 0) {
			out = append(out, c)
		}
	}
	return append(out, pods...)
}

// podChunks are the rules of the MultiNetworkPolicies that are applied to a port,
// and behind them the one that makes their isolation final. What is not IP is none
// of their business.
func (s *Snapshot) podChunks(at port) (out []chunk) {
	var isolated policy.Directions
	for i := range s.PodPolicies {
		p := &s.PodPolicies[i]
		c := at.byPodPolicy(p)
		if c != no {
			isolated |= p.Isolates
		}
		if c == yes && len(p.Rules) > 0 {
			out = append(out, chunk{rules: p.Rules, tier: tierOf(rankPods), is: yes})
		}
	}
	if isolated != 0 {
		out = append(out, chunk{tier: tierOf(rankPods), isolated: isolated})
	}
	return out
}

func rulesOf(chunks []chunk) []policy.Rule {
	most := 0
	for _, c := range chunks {
		most += len(c.rules) + 1
	}
	out := make([]policy.Rule, 0, most)
	for _, c := range chunks {
		if c.isolated != 0 {
			out = append(out, policy.Rule{Key: isolation, Name: "isolated, and no MultiNetworkPolicy allows it",
				Action: policy.Drop, Directions: c.isolated, Sources: anyIP(), Implied: true, Tier: c.tier})
		}
		for i := range c.rules {
			r := c.rules[i]
			r.Tier = c.tier
			if c.is == maybe && r.Action == policy.Pass {
				// What it spares a packet that another rule drops, or allows, is not known.
				r.Action = policy.Drop
			}
			if c.is == no || c.is == maybe && (r.Action == policy.Allow || r.Monitored) {
				if len(c.local) == 0 {
					continue
				}
				r.LocalSets = c.local
			}
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return slices.Clip(out)
}

// useLists gives a set the lists that its rules name. One that is not there the compiler
// refuses, and the last good rules stay.
func (s *Snapshot) useLists(set *policy.Set) {
	for i := range set.Rules {
		r := &set.Rules[i]
		for _, names := range [][]string{r.SourceSets, r.DestinationSets, r.LocalSets} {
			for _, n := range names {
				if set.Lists == nil {
					set.Lists = map[string][]policy.AddrRange{}
				}
				if e, ok := s.lists[n]; ok {
					set.Lists[n] = e.ranges
				}
			}
		}
		for _, n := range r.ServiceSets {
			if set.ServiceLists == nil {
				set.ServiceLists = map[string][]policy.Service{}
			}
			if list, ok := s.serviceLists[n]; ok {
				set.ServiceLists[n] = list
			}
		}
	}
}

// variant names what is applied by label, the same on every node and at any time.
func (s *Snapshot) variant(at port) string {
	var applied []string
	for i := range s.Policies {
		p := &s.Policies[i]
		if !p.ByLabel() || slices.Contains(p.Networks, at.network) {
			continue
		}
		if c := at.byPolicy(p); c != no {
			applied = append(applied, fmt.Sprint(p.Name, " ", c))
		}
	}
	for i := range s.PodPolicies {
		if c := at.byPodPolicy(&s.PodPolicies[i]); c != no {
			applied = append(applied, fmt.Sprint(s.PodPolicies[i].FullName(), " ", c))
		}
	}
	if len(applied) == 0 {
		return ""
	}
	slices.Sort(applied)
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", at.network, applied))
	return hex.EncodeToString(sum[:8])
}

func (p *PodPolicy) compare(o *PodPolicy) int {
	return cmp.Or(cmp.Compare(p.Namespace, o.Namespace), cmp.Compare(p.Name, o.Name))
}
