package desired

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	cnp "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

// This file has NetworkPolicy's semantics a second time, told as its documentation
// tells them and with nothing of the code that is tested: every policy, rule, peer
// and port is asked about the packet at hand.

// npPod is a NIC of a pod.
type npPod struct {
	namespace, name, network string
	vm                       bool              // it is a launcher, else it runs no VM
	labels                   map[string]string // the pod's
	addr                     netip.Addr        // invalid: nobody knows it
}

// npWorld is a cluster.
type npWorld struct {
	namespaces map[string]map[string]string
	pods       []npPod
	policies   []npPolicy
	cluster    []cnp.ClusterNetworkPolicy
}

type npPolicy struct {
	namespace, name string
	networks        []string
	spec            networkingv1.NetworkPolicySpec
}

type npVerdict int

const (
	npNotIsolated npVerdict = iota
	npAllowed
	npDenied
)

func (w *npWorld) judge(subject npPod, p policy.Packet) npVerdict {
	verdict := npNotIsolated
	for _, pol := range w.policies {
		if pol.namespace != subject.namespace || !slices.Contains(pol.networks, subject.network) || !selects(&pol.spec.PodSelector, subject.labels) {
			continue
		}
		if !pol.concerns(p.Direction) {
			continue
		}
		if verdict == npNotIsolated {
			verdict = npDenied
		}
		if p.Direction == policy.In {
			for _, r := range pol.spec.Ingress {
				if w.anyPeer(pol, r.From, p.Src) && anyPort(r.Ports, p) {
					verdict = npAllowed
				}
			}
			continue
		}
		for _, r := range pol.spec.Egress {
			if w.anyPeer(pol, r.To, p.Dst) && anyPort(r.Ports, p) {
				verdict = npAllowed
			}
		}
	}
	return verdict
}

func (p *npPolicy) concerns(d policy.Direction) bool {
	if len(p.spec.PolicyTypes) > 0 {
		want := networkingv1.PolicyTypeIngress
		if d == policy.Out {
			want = networkingv1.PolicyTypeEgress
		}
		return slices.Contains(p.spec.PolicyTypes, want)
	}
	return d == policy.In || len(p.spec.Egress) > 0
}

func (w *npWorld) anyPeer(pol npPolicy, peers []networkingv1.NetworkPolicyPeer, remote netip.Addr) bool {
	if len(peers) == 0 {
		return true
	}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			in := netip.MustParsePrefix(peer.IPBlock.CIDR).Contains(remote)
			for _, e := range peer.IPBlock.Except {
				in = in && !netip.MustParsePrefix(e).Contains(remote)
			}
			if in {
				return true
			}
			continue
		}
		for _, pod := range w.pods {
			if pod.addr != remote || !slices.Contains(pol.networks, pod.network) {
				continue
			}
			if peer.NamespaceSelector == nil && pod.namespace != pol.namespace {
				continue
			}
			if peer.NamespaceSelector != nil && !selects(peer.NamespaceSelector, w.namespaces[pod.namespace]) {
				continue
			}
			if peer.PodSelector == nil || selects(peer.PodSelector, pod.labels) {
				return true
			}
		}
	}
	return false
}

func anyPort(ports []networkingv1.NetworkPolicyPort, p policy.Packet) bool {
	if len(ports) == 0 {
		return true
	}
	for _, port := range ports {
		protocol := uint8(policy.TCP)
		if port.Protocol != nil && *port.Protocol == corev1.ProtocolUDP {
			protocol = policy.UDP
		}
		if port.Protocol != nil && *port.Protocol == corev1.ProtocolSCTP {
			protocol = policy.SCTP
		}
		if p.Protocol != protocol {
			continue
		}
		switch {
		case port.Port == nil:
			return true
		case !p.HasService: // a fragment without ports
			continue
		case port.Port.Type == intstr.String:
			continue // a name: allows nothing
		case port.EndPort == nil && int32(p.Service) == port.Port.IntVal:
			return true
		case port.EndPort != nil && port.Port.IntVal <= int32(p.Service) && int32(p.Service) <= *port.EndPort:
			return true
		}
	}
	return false
}

// selects is a label selector, word by word.
func selects(s *metav1.LabelSelector, set map[string]string) bool {
	for k, v := range s.MatchLabels {
		if have, ok := set[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		have, ok := set[e.Key]
		in := ok && slices.Contains(e.Values, have)
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			if !in {
				return false
			}
		case metav1.LabelSelectorOpNotIn:
			if in {
				return false
			}
		case metav1.LabelSelectorOpExists:
			if !ok {
				return false
			}
		case metav1.LabelSelectorOpDoesNotExist:
			if ok {
				return false
			}
		}
	}
	return true
}

// npGen makes worlds that are small enough for their parts to meet.
type npGen struct{ *rand.Rand }

func one[T any](g npGen, of ...T) T { return of[g.IntN(len(of))] }

func (g npGen) labels() map[string]string {
	out := map[string]string{}
	for _, k := range []string{"a", "b"} {
		if v := one(g, "", "x", "y"); v != "" {
			out[k] = v
		}
	}
	return out
}

func (g npGen) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if g.IntN(3) == 0 {
		s.MatchLabels = map[string]string{one(g, "a", "b"): one(g, "x", "y")}
	}
	if g.IntN(3) == 0 {
		e := metav1.LabelSelectorRequirement{Key: one(g, "a", "b", "a", "b", "kubevirt.io"), Operator: one(g, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = one(g, []string{"x"}, []string{"y", "x"}, []string{"y"})
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

func (g npGen) addr() netip.Addr {
	if g.IntN(4) == 0 {
		return netip.MustParseAddr(fmt.Sprintf("fd00::%x", g.IntN(16)))
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(g.IntN(32))})
}

func (g npGen) prefix() netip.Prefix {
	a := g.addr()
	if a.Is6() {
		return netip.PrefixFrom(a, one(g, 0, 64, 124, 126, 128)) // with host bits, which count for nothing
	}
	return netip.PrefixFrom(a, one(g, 0, 8, 27, 28, 29, 30, 31, 32))
}

func (g npGen) peer() (p networkingv1.NetworkPolicyPeer) {
	switch g.IntN(5) {
	case 0:
		p.PodSelector = g.selector()
	case 1:
		p.NamespaceSelector = g.selector()
	case 2:
		p.NamespaceSelector, p.PodSelector = g.selector(), g.selector()
	default:
		p.IPBlock = &networkingv1.IPBlock{CIDR: g.prefix().String()}
		for range g.IntN(3) {
			p.IPBlock.Except = append(p.IPBlock.Except, g.prefix().String())
		}
	}
	return p
}

func (g npGen) port() (p networkingv1.NetworkPolicyPort) {
	if g.IntN(3) > 0 {
		p.Protocol = new(one(g, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP))
	}
	switch g.IntN(4) {
	case 0:
	case 1:
		p.Port = new(intstr.FromString("http"))
	default:
		n := 80 + g.Int32N(6)
		p.Port = new(intstr.FromInt32(n))
		if g.IntN(2) == 0 {
			p.EndPort = new(n + g.Int32N(4))
		}
	}
	return p
}

func some[T any](g npGen, most int, item func() T) []T {
	if g.IntN(4) == 0 {
		return nil
	}
	out := []T{}
	for range g.IntN(most + 1) {
		out = append(out, item())
	}
	return out
}

func (g npGen) policy(i int) npPolicy {
	p := npPolicy{namespace: one(g, "n1", "n2"), name: fmt.Sprint("p", i), networks: one(g, []string{"lan"}, []string{"lan"}, []string{"lan", "wan"}, []string{"wan"})}
	p.spec.PodSelector = *g.selector()
	p.spec.PolicyTypes = one(g, nil, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Egress", "Ingress"})
	p.spec.Ingress = some(g, 2, func() networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{From: some(g, 3, g.peer), Ports: some(g, 2, g.port)}
	})
	p.spec.Egress = some(g, 2, func() networkingv1.NetworkPolicyEgressRule {
		return networkingv1.NetworkPolicyEgressRule{To: some(g, 3, g.peer), Ports: some(g, 2, g.port)}
	})
	return p
}

func (g npGen) world() *npWorld {
	w := &npWorld{namespaces: map[string]map[string]string{"n1": g.labels(), "n2": g.labels()}}
	for i := range 8 {
		pod := npPod{namespace: one(g, "n1", "n2"), name: fmt.Sprint("vm", i), network: one(g, "lan", "lan", "wan"), labels: g.labels(), addr: g.addr(), vm: g.IntN(2) == 0}
		if pod.vm {
			pod.labels["kubevirt.io"], pod.labels["vm.kubevirt.io/name"] = "virt-launcher", pod.name
		}
		if i > 5 {
			pod.addr = netip.Addr{}
		}
		w.pods = append(w.pods, pod)
	}
	for i := range g.IntN(5) {
		w.policies = append(w.policies, g.policy(i))
	}
	return w
}

func (g npGen) packet(w *npWorld) policy.Packet {
	p := policy.Packet{Direction: one(g, policy.In, policy.Out), IP: true, Src: g.addr(), Protocol: one(g, policy.TCP, policy.TCP, policy.UDP, policy.ICMP, policy.SCTP), HasService: true, Service: uint16(78 + g.IntN(12))}
	for p.Dst = g.addr(); p.Dst.Is4() != p.Src.Is4(); {
		p.Dst = g.addr()
	}
	if g.IntN(8) == 0 { // a later fragment
		p.HasService, p.Service = false, 0
	}
	return p
}

func (p *npPolicy) object(tb testing.TB) *unstructured.Unstructured {
	tb.Helper()
	np := networkingv1.NetworkPolicy{Spec: p.spec}
	np.Namespace, np.Name = p.namespace, p.name
	names := ""
	for _, n := range p.networks {
		names += ", shared/" + n
	}
	np.Annotations = map[string]string{policyFor: names}
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&np)
	if err != nil {
		tb.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: raw}
	u.SetGroupVersionKind(multiNetworkPolicies)
	return u
}

// identity is what a node that watches is told of a pod: of a VM by the labels that
// the VM has.
func (p *npPod) identity(tb testing.TB) holder {
	tb.Helper()
	id := v1alpha1.VMIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, Labels: maps.Clone(p.labels)}}
	id.Spec.Network = p.network
	if p.vm {
		id.Spec.VM = &v1alpha1.VMReference{Name: p.name}
		delete(id.Labels, "kubevirt.io")
		delete(id.Labels, "vm.kubevirt.io/name")
	} else {
		id.Spec.Pod = &v1alpha1.PodReference{Name: p.name}
	}
	if p.addr.IsValid() {
		id.Status.Addresses = []v1alpha1.AddressStatus{{Address: p.addr.String()}}
	}
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&id)
	if err != nil {
		tb.Fatal(err)
	}
	kept, err := packing(slimIdentity)(&unstructured.Unstructured{Object: raw})
	if err != nil {
		tb.Fatal(err)
	}
	return readIdentity(kept.(*unstructured.Unstructured))
}

// read makes the snapshot of a world, and of other policies.
func (w *npWorld) read(tb testing.TB, other ...Policy) *Snapshot {
	tb.Helper()
	around := surroundings{attachments: map[string]attachment{"shared/lan": {ours: true, name: "lan"}, "shared/wan": {ours: true, name: "wan"}}}
	for name, set := range w.namespaces {
		around.namespaces = append(around.namespaces, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set}})
	}
	s := &Snapshot{Networks: map[string]Network{"lan": {Name: "lan", Default: policy.Allow, Cluster: true}, "wan": {Name: "wan"}}, Policies: other, Pods: map[string]Pod{}}
	for _, p := range w.pods {
		if p.vm || p.addr.IsValid() {
			around.holders = append(around.holders, p.identity(tb))
		}
		owner := OwnerNone
		if p.vm {
			owner = OwnerVM
		}
		s.Pods[PodKey(p.namespace, p.name)] = Pod{UID: p.name, Labels: p.labels, Owner: owner, Namespace: namespaceLabels(around.namespaces, p.namespace)}
	}
	for i := range w.cluster {
		o, problems := readClusterPolicy(clusterObject(tb, &w.cluster[i]), around.namespaces, around.holders)
		if o.value == nil {
			tb.Fatalf("policy %+v: not taken: %v", w.cluster[i], problems)
		}
		s.Policies = append(s.Policies, o.value.(Policy))
	}
	slices.SortFunc(s.Policies, judgedBefore)
	for _, p := range w.policies {
		o, here, problems := readPodPolicy(p.object(tb), around)
		if !here || o.value == nil {
			tb.Fatalf("policy %+v: not taken: %v", p, problems)
		}
		s.PodPolicies = append(s.PodPolicies, o.value.(PodPolicy))
	}
	return s
}

// TestMultiNetworkPolicyTruth compares what a port enforces with NetworkPolicy's
// words, over random clusters and packets; and its compiled form with both.
func TestMultiNetworkPolicyTruth(t *testing.T) {
	g := npGen{rand.New(rand.NewPCG(policytest.Seed(t), 1))}
	count := map[npVerdict]int{}
	for range 1500 {
		w := g.world()
		subject, set, prog, counters := w.someone(t, g)
		for range 60 {
			p := g.packet(w)
			truth := w.judge(subject, p)
			count[truth]++
			want := policy.Drop
			if truth == npAllowed || truth == npNotIsolated && set.Default == policy.Allow {
				want = policy.Allow
			}
			got := policy.Evaluate(&set, p)
			if got.Action != want || (got.Rule < 0) != (truth == npNotIsolated) {
				t.Fatalf("%+v at %+v: got %+v, want %v (%d)\npolicies %+v\npods %+v\nrules %+v", p, subject, got, want, truth, w.policies, w.pods, set.Rules)
			}
			sameCompiled(t, &set, prog, counters, p, got)
		}
		if v := policy.Evaluate(&set, policy.Packet{Direction: policy.In}); v.Rule >= 0 {
			t.Fatalf("a frame that is not IP is judged by rule %+v", set.Rules[v.Rule])
		}
	}
	for _, v := range []npVerdict{npNotIsolated, npAllowed, npDenied} {
		if count[v] < 3000 {
			t.Errorf("verdicts %v: too few of %d to tell anything", count, v)
		}
	}
}
