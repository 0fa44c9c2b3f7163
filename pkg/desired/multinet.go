package desired

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// MultiNetworkPolicies (k8s.cni.cncf.io/v1beta1) are NetworkPolicies for the
// networks that an annotation names. Their spec is that of NetworkPolicy, and
// means here what its documentation says (k8s.io/api/networking/v1/types.go). A
// policy that isolates must not be left out for a part of it that cannot be
// enforced: such a part allows nothing, and is told.
const (
	kindPodPolicy = "MultiNetworkPolicy"
	policyFor     = "k8s.v1.cni.cncf.io/policy-for"
)

var (
	multiNetworkPolicies = schema.GroupVersionKind{Group: "k8s.cni.cncf.io", Version: "v1beta1", Kind: kindPodPolicy}
	attachmentKind       = schema.GroupVersionKind{Group: "k8s.cni.cncf.io", Version: "v1", Kind: "NetworkAttachmentDefinition"}
)

// surroundings are what of the cluster a MultiNetworkPolicy's meaning depends on.
type surroundings struct {
	namespaces  []metav1.PartialObjectMetadata
	holders     []holder
	attachments map[string]attachment // by namespace/name
	objects     []object              // trunks and networks, as they are proposed
	last        []PodPolicy           // in force so far
}

// podPolicyReader turns one MultiNetworkPolicy into what it means here.
type podPolicyReader struct {
	surroundings
	out      PodPolicy
	problems []Problem
}

func (r *podPolicyReader) tell(field, message string) {
	r.problems = append(r.problems, Problem{Kind: kindPodPolicy, Name: r.out.FullName(), Field: field, Message: message})
}

// readPodPolicy reads a MultiNetworkPolicy. The value of the object is nil if
// nobody can say to whom it applies: then what is in force stays. It is of no
// concern to this node if here is false.
func readPodPolicy(u *unstructured.Unstructured, around surroundings) (o object, here bool, problems []Problem) {
	r := podPolicyReader{surroundings: around, out: PodPolicy{Namespace: u.GetNamespace(), Name: u.GetName()}}
	o.key = key{kindPodPolicy, r.out.FullName()}
	var np networkingv1.NetworkPolicy
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, &np, true)
	if err != nil {
		r.tell("", fmt.Sprintf("%v: want what a NetworkPolicy may say", err))
		return o, true, r.problems
	}
	if r.out.Pods, err = NewSelector(&np.Spec.PodSelector); err != nil {
		r.tell("spec.podSelector", err.Error())
		return o, true, r.problems
	}
	directions, err := isolates(&np.Spec)
	if err != nil {
		r.tell("spec.policyTypes", err.Error())
		return o, true, r.problems
	}
	r.out.Isolates = directions
	r.networks(u.GetAnnotations()[policyFor])
	if len(r.out.Networks) == 0 {
		return o, false, r.problems
	}
	if directions.Has(policy.In) {
		for i, in := range np.Spec.Ingress {
			r.rule(fmt.Sprintf("ingress[%d]", i), uint32(1+i), policy.OnlyIn, "from", in.From, in.Ports)
		}
	}
	if directions.Has(policy.Out) {
		for i, out := range np.Spec.Egress {
			r.rule(fmt.Sprintf("egress[%d]", i), uint32(100_001+i), policy.OnlyOut, "to", out.To, out.Ports)
		}
	}
	o.value = r.out
	return o, true, r.problems
}

// isolates gives the directions of a policy. Without policyTypes that is ingress,
// and egress if there are rules for it.
func isolates(spec *networkingv1.NetworkPolicySpec) (policy.Directions, error) {
	if len(spec.PolicyTypes) == 0 {
		if len(spec.Egress) > 0 {
			return policy.InOut, nil
		}
		return policy.OnlyIn, nil
	}
	var out policy.Directions
	for _, t := range spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			out |= policy.OnlyIn
		case networkingv1.PolicyTypeEgress:
			out |= policy.OnlyOut
		default:
			return 0, fmt.Errorf("is %q: want Ingress and Egress", t)
		}
	}
	return out, nil
}

// networks finds the VLANNetworks of the NetworkAttachmentDefinitions that the
// annotation names. One that is not there may have been deleted while ports live
// by it: the networks that the policy is in force for stay then.
func (r *podPolicyReader) networks(annotation string) {
	const field = "metadata.annotations[" + policyFor + "]"
	missing := false
	for _, name := range strings.Split(annotation, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if !strings.Contains(name, "/") {
			name = r.out.Namespace + "/" + name
		}
		a, ok := r.attachments[name]
		switch {
		case !ok:
			missing = true
			r.tell(field, fmt.Sprintf("there is no NetworkAttachmentDefinition %s: make it, or take the name out", name))
		case a.problem != "":
			missing = true
			r.tell(field, fmt.Sprintf("NetworkAttachmentDefinition %s: %s", name, a.problem))
		case a.ours:
			r.out.Networks = append(r.out.Networks, a.network(r.objects))
		}
	}
	if strings.Trim(annotation, ", ") == "" {
		r.tell(field, "names no network, and so the policy applies to none: want NetworkAttachmentDefinitions, as net-a, other-namespace/net-b")
	}
	for _, p := range r.last {
		if missing && p.FullName() == r.out.FullName() {
			r.out.Networks = append(r.out.Networks, p.Networks...)
		}
	}
	slices.Sort(r.out.Networks)
	r.out.Networks = slices.Compact(r.out.Networks)
}

// rule adds what one rule allows. Peers and ports that come to nothing allow
// nothing; lists without any do not limit.
func (r *podPolicyReader) rule(name string, id uint32, d policy.Directions, side string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	addresses := anyIP()
	if len(peers) > 0 {
		addresses = nil
		for i := range peers {
			addresses = append(addresses, r.peer(fmt.Sprintf("spec.%s.%s[%d]", name, side, i), &peers[i])...)
		}
	}
	var services []policy.Service
	for i := range ports {
		s, err := servicePort(&ports[i])
		if err != nil {
			r.tell(fmt.Sprintf("spec.%s.ports[%d]", name, i), err.Error()+"; so it allows nothing")
			continue
		}
		services = append(services, s)
	}
	if len(addresses) == 0 || len(ports) > 0 && len(services) == 0 {
		return
	}
	rule := policy.Rule{Key: policy.RuleKey{Policy: r.out.FullName(), ID: id}, Name: name, Action: policy.Allow, Directions: d, Services: services}
	if d == policy.OnlyIn {
		rule.Sources = addresses
	} else {
		rule.Destinations = addresses
	}
	r.out.Rules = append(r.out.Rules, rule)
}

// peer gives the addresses of a peer.
func (r *podPolicyReader) peer(field string, p *networkingv1.NetworkPolicyPeer) []policy.AddrRange {
	switch {
	case p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil):
		r.tell(field, "has ipBlock beside a selector: want them as two peers; so it allows nothing")
		return nil
	case p.IPBlock != nil:
		out, err := block(p.IPBlock)
		if err != nil {
			r.tell(field+".ipBlock", err.Error()+"; so it allows nothing")
		}
		return out
	case p.PodSelector == nil && p.NamespaceSelector == nil:
		r.tell(field, "is empty: want podSelector, namespaceSelector or ipBlock; so it allows nothing")
		return nil
	}
	chosen, err := r.choose(p)
	if err != nil {
		r.tell(field, err.Error()+"; so it allows nothing")
		return nil
	}
	out, why := addressesOf(chosen, "selects no VM now, and no pod whose address is known, and so matches nothing", "a peer by ipBlock")
	if why != "" {
		r.tell(field, why)
	}
	return out
}

// choose gives the NICs that a peer's selectors select, on the policy's networks.
func (r *podPolicyReader) choose(p *networkingv1.NetworkPolicyPeer) ([]holder, error) {
	inNamespace := map[string]bool{r.out.Namespace: true}
	if p.NamespaceSelector != nil {
		s, err := metav1.LabelSelectorAsSelector(p.NamespaceSelector)
		if err != nil {
			return nil, fmt.Errorf("namespaceSelector: %w", err)
		}
		clear(inNamespace)
		for _, n := range r.namespaces {
			inNamespace[n.Name] = s.Matches(labels.Set(n.Labels))
		}
	}
	pods := labels.Everything()
	if p.PodSelector != nil {
		var err error
		if pods, err = metav1.LabelSelectorAsSelector(p.PodSelector); err != nil {
			return nil, fmt.Errorf("podSelector: %w", err)
		}
	}
	var out []holder
	for _, h := range r.holders {
		if h.vm == "" && h.pod == "" { // what a later version knows
			continue
		}
		if inNamespace[h.namespace] && slices.Contains(r.out.Networks, h.network) && pods.Matches(h.podLabels()) {
			out = append(out, h)
		}
	}
	return out, nil
}

// anyIP is every address, and so what any IP packet has.
func anyIP() []policy.AddrRange {
	return []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("0.0.0.0/0")), policy.RangeOf(netip.MustParsePrefix("::/0"))}
}

// block gives what an ipBlock's cidr has and its except has not.
func block(b *networkingv1.IPBlock) ([]policy.AddrRange, error) {
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil, fmt.Errorf("cidr %q: want a prefix, as 10.0.0.0/8", b.CIDR)
	}
	out := []policy.AddrRange{policy.RangeOf(cidr)}
	for _, text := range b.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("except %q: want a prefix inside %s", text, b.CIDR)
		}
		var rest []policy.AddrRange
		for _, r := range out {
			rest = append(rest, without(r, policy.RangeOf(except))...)
		}
		out = rest
	}
	return out, nil
}

// without gives the parts of a that b does not have.
func without(a, b policy.AddrRange) []policy.AddrRange {
	if a.First.BitLen() != b.First.BitLen() || b.Last.Less(a.First) || a.Last.Less(b.First) {
		return []policy.AddrRange{a}
	}
	var out []policy.AddrRange
	if a.First.Less(b.First) {
		out = append(out, policy.AddrRange{First: a.First, Last: b.First.Prev()})
	}
	if b.Last.Less(a.Last) {
		out = append(out, policy.AddrRange{First: b.Last.Next(), Last: a.Last})
	}
	return out
}

// servicePort gives what an item of ports names.
func servicePort(p *networkingv1.NetworkPolicyPort) (policy.Service, error) {
	s := policy.Service{Protocol: policy.TCP, Last: 0xffff}
	if p.Protocol != nil {
		switch *p.Protocol {
		case corev1.ProtocolTCP:
		case corev1.ProtocolUDP:
			s.Protocol = policy.UDP
		case corev1.ProtocolSCTP:
			s.Protocol = policy.SCTP
		default:
			return s, fmt.Errorf("protocol %s is not known: want TCP, UDP or SCTP", *p.Protocol)
		}
	}
	switch {
	case p.Port == nil && p.EndPort == nil:
		return s, nil
	case p.Port == nil:
		return s, fmt.Errorf("endPort is without port: want both")
	case p.Port.Type == intstr.String:
		return s, fmt.Errorf("port %q is a name, which VMs do not give to ports: want a number", p.Port.StrVal)
	case p.Port.IntVal < 1 || p.Port.IntVal > 0xffff:
		return s, fmt.Errorf("port %d: want 1 to 65535", p.Port.IntVal)
	}
	s.First, s.Last = uint16(p.Port.IntVal), uint16(p.Port.IntVal)
	if p.EndPort != nil {
		if *p.EndPort < p.Port.IntVal || *p.EndPort > 0xffff {
			return s, fmt.Errorf("endPort %d: want %d to 65535", *p.EndPort, p.Port.IntVal)
		}
		s.Last = uint16(*p.EndPort)
	}
	return s, nil
}

// attachment is what a NetworkAttachmentDefinition means here.
type attachment struct {
	ours    bool
	problem string
	name    string  // of the VLANNetwork; else
	bridge  string  // of an inline config, and
	vlan    vlan.ID // its access VLAN; 0 if it tags
}

// readAttachment finds our plugin in the config of a NetworkAttachmentDefinition:
// alone, or in a list.
func readAttachment(config string) attachment {
	type plugin struct {
		Type       string          `json:"type"`
		Network    string          `json:"network"`
		Bridge     string          `json:"bridge"`
		VLAN       uint16          `json:"vlan"`
		VLANTrunk  json.RawMessage `json:"vlanTrunk"`
		NativeVLAN json.RawMessage `json:"nativeVlan"`
	}
	var conf struct {
		plugin
		Plugins []json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(config), &conf); err != nil {
		return attachment{problem: fmt.Sprintf("its config cannot be read: %v", err)}
	}
	candidates := []plugin{conf.plugin}
	for _, raw := range conf.Plugins {
		var p plugin
		if err := json.Unmarshal(raw, &p); err == nil {
			candidates = append(candidates, p)
		}
	}
	for _, p := range candidates {
		if p.Type != cniType {
			continue
		}
		a := attachment{ours: true, name: p.Network, bridge: p.Bridge}
		if p.VLANTrunk == nil && p.NativeVLAN == nil {
			a.vlan = vlan.ID(p.VLAN)
		}
		return a
	}
	return attachment{}
}

// cniType is what CNI configs call our plugin.
const cniType = "homeport"

// network is the VLANNetwork whose policy judges the ports of an attachment; "" is
// that of ports without one.
func (a attachment) network(objects []object) string {
	if a.name != "" || a.vlan == 0 {
		return a.name
	}
	trunks := map[string]string{}
	for _, o := range objects {
		if t, ok := o.value.(Trunk); ok {
			trunks[t.Name] = t.Bridge
		}
	}
	for _, o := range objects {
		if n, ok := o.value.(Network); ok && n.Mode == vlan.Access && n.PVID == a.vlan && trunks[n.Trunk] == a.bridge {
			return n.Name
		}
	}
	return ""
}
