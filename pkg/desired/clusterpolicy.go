package desired

import (
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cnp "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// ClusterNetworkPolicies (policy.networking.k8s.io/v1alpha2) are rules of the cluster's
// administrators before and behind those of namespaces. They know nothing of several
// networks, so each VLANNetwork says whether they are for it. They mean here what their
// documentation says (sigs.k8s.io/network-policy-api/apis/v1alpha2); what of a rule is
// not understood, or cannot be enforced, makes it fail closed.
const kindClusterPolicy = "ClusterNetworkPolicy"

var clusterNetworkPolicies = schema.GroupVersionKind{Group: cnp.GroupName, Version: "v1alpha2", Kind: kindClusterPolicy}

// The places of a ClusterNetworkPolicy's tiers among the categories.
const (
	rankAdmin    = 4
	rankBaseline = 7
)

// Subject selects pods by the labels of their namespaces, and by their own.
type Subject struct {
	Namespaces Selector `json:"namespaces"`
	Pods       Selector `json:"pods"`
}

// clusterPolicyReader turns one ClusterNetworkPolicy into what it means here.
type clusterPolicyReader struct {
	namespaces []metav1.PartialObjectMetadata
	holders    []holder
	name       string
	out        Policy
	problems   []Problem
}

func (r *clusterPolicyReader) tell(field, message string) {
	r.problems = append(r.problems, Problem{Kind: kindClusterPolicy, Name: r.name, Field: field, Message: message})
}

// readClusterPolicy reads a ClusterNetworkPolicy. The value of the object is nil if
// nobody can say where its rules stand and to whom they apply: then what is in force
// stays.
func readClusterPolicy(u *unstructured.Unstructured, namespaces []metav1.PartialObjectMetadata, holders []holder) (object, []Problem) {
	r := clusterPolicyReader{namespaces: namespaces, holders: holders, name: u.GetName()}
	o := object{key: key{kindClusterPolicy, r.name}}
	// No FirewallPolicy has capitals in its name, and no namespace.
	r.out = Policy{Name: kindClusterPolicy + "/" + r.name, Rules: []policy.Rule{}}
	spec, _, _ := unstructured.NestedMap(u.Object, "spec")
	ingress, _, errIn := unstructured.NestedSlice(spec, "ingress")
	egress, _, errOut := unstructured.NestedSlice(spec, "egress")
	delete(spec, "ingress")
	delete(spec, "egress")
	var head cnp.ClusterNetworkPolicySpec
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(spec, &head, true)
	if err = errors.Join(err, errIn, errOut); err != nil {
		r.tell("spec", fmt.Sprintf("%v: want what a ClusterNetworkPolicy of v1alpha2 may say", err))
		return o, r.problems
	}
	if !r.head(&head) {
		return o, r.problems
	}
	for i, rule := range ingress {
		r.ingress(i, rule)
	}
	for i, rule := range egress {
		r.egress(i, rule)
	}
	o.value = r.out
	return o, r.problems
}

// head reads where the rules stand and to whom they apply.
func (r *clusterPolicyReader) head(spec *cnp.ClusterNetworkPolicySpec) bool {
	switch spec.Tier {
	case cnp.AdminTier:
		r.out.Rank = rankAdmin
	case cnp.BaselineTier:
		r.out.Rank = rankBaseline
	default:
		r.tell("spec.tier", fmt.Sprintf("is %q: want Admin or Baseline", spec.Tier))
		return false
	}
	r.out.Category = kindClusterPolicy + " " + string(spec.Tier)
	if spec.Priority < 0 || spec.Priority > 1000 {
		r.tell("spec.priority", fmt.Sprintf("is %d: want 0 to 1000", spec.Priority))
		return false
	}
	r.out.Order = int64(spec.Priority)
	var pods metav1.LabelSelector
	namespaces := spec.Subject.Namespaces
	switch p := spec.Subject.Pods; {
	case (namespaces == nil) == (p == nil):
		r.tell("spec.subject", "want one of namespaces and pods")
		return false
	case p != nil:
		namespaces, pods = &p.NamespaceSelector, p.PodSelector
	}
	var subject Subject
	var errN, errP error
	subject.Namespaces, errN = NewSelector(namespaces)
	subject.Pods, errP = NewSelector(&pods)
	if err := errors.Join(errN, errP); err != nil {
		r.tell("spec.subject", err.Error())
		return false
	}
	r.out.Subject = &subject
	return true
}

// clusterRule is what rules of both directions have.
type clusterRule struct {
	field     string // as spec.ingress[0]
	name      string
	id        uint32
	action    cnp.ClusterNetworkPolicyRuleAction
	direction policy.Directions
	protocols []cnp.ClusterNetworkPolicyProtocol
}

func (r *clusterPolicyReader) ingress(i int, raw any) {
	var in cnp.ClusterNetworkPolicyIngressRule
	rule := clusterRule{field: fmt.Sprintf("spec.ingress[%d]", i), id: uint32(1 + i), direction: policy.OnlyIn}
	var err error
	rule.action, err = strictly(raw, &in)
	rule.name, rule.protocols = in.Name, in.Protocols
	var peers []clusterPeer
	for j := range in.From {
		p := &in.From[j]
		peers = append(peers, clusterPeer{field: fmt.Sprintf("from[%d]", j), namespaces: p.Namespaces, pods: p.Pods})
	}
	r.rule(&rule, "from", peers, err)
}

func (r *clusterPolicyReader) egress(i int, raw any) {
	var out cnp.ClusterNetworkPolicyEgressRule
	rule := clusterRule{field: fmt.Sprintf("spec.egress[%d]", i), id: uint32(100_001 + i), direction: policy.OnlyOut}
	var err error
	rule.action, err = strictly(raw, &out)
	rule.name, rule.protocols = out.Name, out.Protocols
	var peers []clusterPeer
	for j := range out.To {
		p := &out.To[j]
		peers = append(peers, clusterPeer{field: fmt.Sprintf("to[%d]", j), namespaces: p.Namespaces, pods: p.Pods,
			networks: p.Networks, nodes: p.Nodes != nil, names: len(p.DomainNames) > 0})
	}
	r.rule(&rule, "to", peers, err)
}

// strictly converts a rule, and fails on what it does not know. It gives the rule's action
// whatever else is wrong.
func strictly(raw, into any) (action cnp.ClusterNetworkPolicyRuleAction, err error) {
	m, ok := raw.(map[string]any)
	if !ok {
		return "", errors.New("is no object: want action, and from or to")
	}
	text, _, _ := unstructured.NestedString(m, "action")
	action = cnp.ClusterNetworkPolicyRuleAction(text)
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(m, into, true)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		return action, fmt.Errorf("%w: agents of this version do not know it: bring them up to date, or leave the field out", errors.Join(strict.Errors()...))
	}
	if err != nil {
		return action, fmt.Errorf("cannot be read: %w: want what kubectl explain clusternetworkpolicy.spec says", err)
	}
	return action, podSelectors(m)
}

// podSelectors wants the one that each peer by pods must have: without it the peer would
// be all pods.
func podSelectors(rule map[string]any) error {
	for _, side := range []string{"from", "to"} {
		peers, _, _ := unstructured.NestedSlice(rule, side)
		for i, p := range peers {
			peer, _ := p.(map[string]any)
			pods, ok := peer["pods"].(map[string]any)
			if _, has := pods["podSelector"]; ok && !has {
				return fmt.Errorf("%s[%d].pods: want podSelector, {} for all", side, i)
			}
		}
	}
	return nil
}

// rule adds one rule, or what it comes to if it is not understood: one that accepts
// matches nothing then, any other denies all.
func (r *clusterPolicyReader) rule(in *clusterRule, side string, peers []clusterPeer, err error) {
	rule := policy.Rule{Key: policy.RuleKey{Policy: r.out.Name, ID: in.id}, Name: in.name, Directions: in.direction}
	addresses := []policy.AddrRange{}
	if err == nil && len(peers) == 0 {
		err = fmt.Errorf("%s: want at least one", side)
	}
	for i := range peers {
		found, bad := r.peer(in.field, &peers[i])
		if bad != nil && err == nil {
			err = fmt.Errorf("%s: %w", peers[i].field, bad)
		}
		addresses = append(addresses, found...)
	}
	for i := range in.protocols {
		s, bad := clusterProtocol(&in.protocols[i])
		if bad != nil && err == nil {
			err = fmt.Errorf("protocols[%d]: %w", i, bad)
		}
		rule.Services = append(rule.Services, s)
	}
	switch in.action {
	case cnp.ClusterNetworkPolicyRuleActionAccept:
		rule.Action = policy.Allow
	case cnp.ClusterNetworkPolicyRuleActionDeny:
		rule.Action = policy.Drop
	case cnp.ClusterNetworkPolicyRuleActionPass:
		rule.Action = policy.Pass
	default:
		if err == nil {
			err = fmt.Errorf("action is %q: want Accept, Deny or Pass", in.action)
		}
	}
	switch {
	case err != nil && in.action == cnp.ClusterNetworkPolicyRuleActionAccept:
		r.tell(in.field, err.Error()+"; so the rule accepts nothing")
		addresses, rule.Services = []policy.AddrRange{}, nil
	case err != nil:
		r.tell(in.field, err.Error()+"; so the rule denies everything")
		addresses, rule.Services, rule.Action = anyIP(), nil, policy.Drop
	}
	if in.direction == policy.OnlyIn {
		rule.Sources = addresses
	} else {
		rule.Destinations = addresses
	}
	r.out.Rules = append(r.out.Rules, rule)
}

// clusterPeer is a peer of either direction.
type clusterPeer struct {
	field        string
	namespaces   *metav1.LabelSelector
	pods         *cnp.NamespacedPod
	networks     []cnp.CIDR
	nodes, names bool
}

// peer gives the addresses of a peer; the error is that it is not understood.
func (r *clusterPolicyReader) peer(field string, p *clusterPeer) (out []policy.AddrRange, err error) {
	said := 0
	for _, is := range []bool{p.namespaces != nil, p.pods != nil, len(p.networks) > 0, p.nodes, p.names} {
		if is {
			said++
		}
	}
	switch {
	case said != 1:
		return nil, errors.New("want exactly one of the fields of a peer")
	case p.nodes:
		return nil, errors.New("nodes is not enforced: name their addresses by networks")
	case p.names:
		return nil, errors.New("domainNames is not enforced: name addresses by networks")
	}
	for _, text := range p.networks {
		cidr, err := netip.ParsePrefix(string(text))
		if err != nil {
			return nil, fmt.Errorf("networks: %q: want a prefix, as 10.0.0.0/8", text)
		}
		out = append(out, policy.RangeOf(cidr))
	}
	if len(p.networks) > 0 {
		return out, nil
	}
	namespaces, pods := p.namespaces, &metav1.LabelSelector{}
	if p.pods != nil {
		namespaces, pods = &p.pods.NamespaceSelector, &p.pods.PodSelector
	}
	chosen, err := r.choose(namespaces, pods)
	if err != nil {
		return nil, err
	}
	out, why := addressesOf(chosen, "selects no VM now, and no pod whose address is known, and so matches nothing", "a peer by networks")
	if why != "" {
		r.tell(field+"."+p.field, why)
	}
	return out, nil
}

// choose gives the NICs on VLANNetworks of the pods that selectors select.
func (r *clusterPolicyReader) choose(namespaces, pods *metav1.LabelSelector) ([]holder, error) {
	byNamespace, errN := metav1.LabelSelectorAsSelector(namespaces)
	byPod, errP := metav1.LabelSelectorAsSelector(pods)
	if err := errors.Join(errN, errP); err != nil {
		return nil, err
	}
	in := map[string]bool{}
	for i := range r.namespaces {
		if n := &r.namespaces[i]; byNamespace.Matches(labels.Set(n.Labels)) {
			in[n.Name] = true
		}
	}
	var out []holder
	for i := range r.holders {
		if h := &r.holders[i]; (h.vm != "" || h.pod != "") && in[h.namespace] && byPod.Matches(h.podLabels()) {
			out = append(out, *h)
		}
	}
	return out, nil
}

// clusterProtocol gives the service of an item of protocols; the error is that it is not
// understood.
func clusterProtocol(p *cnp.ClusterNetworkPolicyProtocol) (policy.Service, error) {
	type item struct {
		name     string
		protocol uint8
		port     *cnp.Port
	}
	var said []item
	if p.TCP != nil {
		said = append(said, item{"tcp", policy.TCP, p.TCP.DestinationPort})
	}
	if p.UDP != nil {
		said = append(said, item{"udp", policy.UDP, p.UDP.DestinationPort})
	}
	if p.SCTP != nil {
		said = append(said, item{"sctp", policy.SCTP, p.SCTP.DestinationPort})
	}
	switch {
	case p.DestinationNamedPort != "":
		return policy.Service{}, errors.New("destinationNamedPort is not enforced, for VMs do not name ports: want tcp, udp or sctp")
	case len(said) != 1:
		return policy.Service{}, errors.New("want exactly one of tcp, udp and sctp")
	}
	one := said[0]
	s := policy.Service{Protocol: one.protocol}
	port := one.port
	switch {
	case port == nil:
		return s, fmt.Errorf("%s: want destinationPort", one.name)
	case (port.Number != 0) == (port.Range != nil):
		return s, fmt.Errorf("%s.destinationPort: want one of number and range", one.name)
	case port.Number != 0:
		s.First, s.Last = uint16(port.Number), uint16(port.Number)
	default:
		s.First, s.Last = uint16(port.Range.Start), uint16(port.Range.End)
	}
	for _, n := range []int32{port.Number, deref(port.Range).Start, deref(port.Range).End} {
		if n < 0 || n > 0xffff {
			return s, fmt.Errorf("%s.destinationPort: %d: want 1 to 65535", one.name, n)
		}
	}
	if port.Range != nil && (s.First < 1 || s.First >= s.Last) {
		return s, fmt.Errorf("%s.destinationPort.range: %d-%d: want a start from 1 on, below the end", one.name, s.First, s.Last)
	}
	return s, nil
}

// namespaceLabels gives the labels of a namespace, nil if it is not known. None has no
// labels: the API gives each its name.
func namespaceLabels(namespaces []metav1.PartialObjectMetadata, name string) map[string]string {
	for i := range namespaces {
		if namespaces[i].Name == name {
			if set := namespaces[i].Labels; len(set) > 0 {
				return set
			}
			return map[string]string{corev1.LabelMetadataName: name}
		}
	}
	return nil
}
