package desired

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	cnp "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

// This file has ClusterNetworkPolicy's semantics a second time, as its documentation
// tells them: every policy, rule, peer and protocol is asked about the packet at hand.

// cnpJudge is what the policies of a tier say: Accept, Deny, or "" where none decides.
func (w *npWorld) cnpJudge(tier cnp.Tier, subject npPod, p policy.Packet) cnp.ClusterNetworkPolicyRuleAction {
	all := slices.Clone(w.cluster)
	slices.SortFunc(all, func(a, b cnp.ClusterNetworkPolicy) int { return cmp.Compare(a.Spec.Priority, b.Spec.Priority) })
	for i := range all {
		spec := &all[i].Spec
		if spec.Tier != tier || !w.isSubject(&spec.Subject, subject) {
			continue
		}
		action := cnp.ClusterNetworkPolicyRuleAction("")
		if p.Direction == policy.In {
			for _, r := range spec.Ingress {
				var peers []cnp.ClusterNetworkPolicyEgressPeer
				for _, f := range r.From {
					peers = append(peers, cnp.ClusterNetworkPolicyEgressPeer{Namespaces: f.Namespaces, Pods: f.Pods})
				}
				if action == "" {
					action = w.cnpRule(r.Action, peers, r.Protocols, p.Src, p)
				}
			}
		} else {
			for _, r := range spec.Egress {
				if action == "" {
					action = w.cnpRule(r.Action, r.To, r.Protocols, p.Dst, p)
				}
			}
		}
		switch action {
		case "":
		case cnp.ClusterNetworkPolicyRuleActionPass:
			return ""
		default:
			return action
		}
	}
	return ""
}

func (w *npWorld) isSubject(s *cnp.ClusterNetworkPolicySubject, pod npPod) bool {
	if s.Pods != nil {
		return selects(&s.Pods.NamespaceSelector, w.namespaces[pod.namespace]) && selects(&s.Pods.PodSelector, pod.labels)
	}
	return selects(s.Namespaces, w.namespaces[pod.namespace])
}

// cnpRule is the rule's action if it matches; one that is not understood fails closed.
func (w *npWorld) cnpRule(action cnp.ClusterNetworkPolicyRuleAction, peers []cnp.ClusterNetworkPolicyEgressPeer, protocols []cnp.ClusterNetworkPolicyProtocol, remote netip.Addr, p policy.Packet) cnp.ClusterNetworkPolicyRuleAction {
	understood, from, with := len(peers) > 0, false, len(protocols) == 0
	for _, peer := range peers {
		switch {
		case peer.Namespaces != nil:
			from = from || w.cnpHas(remote, peer.Namespaces, &metav1.LabelSelector{})
		case peer.Pods != nil:
			from = from || w.cnpHas(remote, &peer.Pods.NamespaceSelector, &peer.Pods.PodSelector)
		case peer.Networks != nil:
			for _, n := range peer.Networks {
				from = from || netip.MustParsePrefix(string(n)).Contains(remote)
			}
		default:
			understood = false
		}
	}
	for _, item := range protocols {
		var port *cnp.Port
		protocol := uint8(0)
		switch {
		case item.TCP != nil:
			protocol, port = policy.TCP, item.TCP.DestinationPort
		case item.UDP != nil:
			protocol, port = policy.UDP, item.UDP.DestinationPort
		case item.SCTP != nil:
			protocol, port = policy.SCTP, item.SCTP.DestinationPort
		}
		switch {
		case port == nil:
			understood = false
		case p.Protocol != protocol || !p.HasService:
		case port.Range != nil:
			with = with || port.Range.Start <= int32(p.Service) && int32(p.Service) <= port.Range.End
		default:
			with = with || port.Number == int32(p.Service)
		}
	}
	switch {
	case !understood && action == cnp.ClusterNetworkPolicyRuleActionAccept:
		return ""
	case !understood:
		return cnp.ClusterNetworkPolicyRuleActionDeny
	case from && with:
		return action
	}
	return ""
}

// cnpHas says whether a selected pod has the address.
func (w *npWorld) cnpHas(a netip.Addr, namespaces, pods *metav1.LabelSelector) bool {
	return slices.ContainsFunc(w.pods, func(p npPod) bool {
		return p.addr == a && selects(namespaces, w.namespaces[p.namespace]) && selects(pods, p.labels)
	})
}

func (g npGen) namespacedPod() *cnp.NamespacedPod {
	return &cnp.NamespacedPod{NamespaceSelector: *g.selector(), PodSelector: *g.selector()}
}

func (g npGen) clusterPeer() (p cnp.ClusterNetworkPolicyEgressPeer) {
	switch g.IntN(12) {
	case 0: // what a later version says
	case 1:
		p.Nodes = g.selector()
	case 2, 3, 4:
		p.Namespaces = g.selector()
	case 5, 6, 7:
		p.Pods = g.namespacedPod()
	default:
		for range 1 + g.IntN(2) {
			p.Networks = append(p.Networks, cnp.CIDR(g.prefix().Masked().String()))
		}
	}
	return p
}

func (g npGen) clusterProtocol() (p cnp.ClusterNetworkPolicyProtocol) {
	port := &cnp.Port{Number: 80 + g.Int32N(6)}
	if g.IntN(2) == 0 {
		port = &cnp.Port{Range: &cnp.PortRange{Start: 78 + g.Int32N(4), End: 83 + g.Int32N(4)}}
	}
	switch g.IntN(8) {
	case 0:
		p.DestinationNamedPort = "http"
	case 1, 2:
		p.UDP = &cnp.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
	case 3:
		p.SCTP = &cnp.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
	default:
		p.TCP = &cnp.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
	}
	return p
}

func (g npGen) clusterPolicy(i int) (p cnp.ClusterNetworkPolicy) {
	p.Name = fmt.Sprint("c", i)
	p.Spec.Tier, p.Spec.Priority = one(g, cnp.AdminTier, cnp.BaselineTier), int32(g.IntN(100)*10+i) // none as another's
	if g.IntN(2) == 0 {
		p.Spec.Subject.Namespaces = g.selector()
	} else {
		p.Spec.Subject.Pods = g.namespacedPod()
	}
	action := func() cnp.ClusterNetworkPolicyRuleAction {
		return one(g, cnp.ClusterNetworkPolicyRuleActionAccept, cnp.ClusterNetworkPolicyRuleActionAccept, cnp.ClusterNetworkPolicyRuleActionDeny, cnp.ClusterNetworkPolicyRuleActionPass)
	}
	p.Spec.Ingress = some(g, 3, func() cnp.ClusterNetworkPolicyIngressRule {
		r := cnp.ClusterNetworkPolicyIngressRule{Action: action(), Protocols: some(g, 2, g.clusterProtocol)}
		for range 1 + g.IntN(2) {
			peer := g.clusterPeer()
			r.From = append(r.From, cnp.ClusterNetworkPolicyIngressPeer{Namespaces: peer.Namespaces, Pods: peer.Pods})
		}
		return r
	})
	p.Spec.Egress = some(g, 3, func() cnp.ClusterNetworkPolicyEgressRule {
		r := cnp.ClusterNetworkPolicyEgressRule{Action: action(), Protocols: some(g, 2, g.clusterProtocol)}
		for range 1 + g.IntN(2) {
			r.To = append(r.To, g.clusterPeer())
		}
		return r
	})
	return p
}

// clusterObject is a policy as a node that watches gets it.
func clusterObject(tb testing.TB, p *cnp.ClusterNetworkPolicy) *unstructured.Unstructured {
	tb.Helper()
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
	if err != nil {
		tb.Fatal(err)
	}
	kept, err := trimTo(clusterNetworkPolicies, "", []string{"spec"})(&unstructured.Unstructured{Object: raw})
	if err != nil {
		tb.Fatal(err)
	}
	return kept.(*unstructured.Unstructured)
}

// TestClusterNetworkPolicyTruth compares what a port enforces with the words of
// ClusterNetworkPolicy, with NetworkPolicies between the tiers; and its compiled form
// with both.
func TestClusterNetworkPolicyTruth(t *testing.T) {
	g := npGen{rand.New(rand.NewPCG(policytest.Seed(t), 3))}
	count := map[string]int{}
	for range 1500 {
		w := g.world()
		for i := range 1 + g.IntN(5) {
			w.cluster = append(w.cluster, g.clusterPolicy(i))
		}
		subject, set, prog, counters := w.someone(t, g)
		for range 60 {
			p := g.packet(w)
			by, truth := "Admin", cnp.ClusterNetworkPolicyRuleAction("")
			if subject.network == "lan" { // wan is not for them
				truth = w.cnpJudge(cnp.AdminTier, subject, p)
			}
			if truth == "" {
				by, truth = "NetworkPolicy", map[npVerdict]cnp.ClusterNetworkPolicyRuleAction{npAllowed: "Accept", npDenied: "Deny"}[w.judge(subject, p)]
			}
			if truth == "" && subject.network == "lan" {
				by, truth = "Baseline", w.cnpJudge(cnp.BaselineTier, subject, p)
			}
			if truth == "" {
				by, truth = "default", map[policy.Action]cnp.ClusterNetworkPolicyRuleAction{policy.Allow: "Accept", policy.Drop: "Deny"}[set.Default]
			}
			count[fmt.Sprint(by, " ", truth)]++
			got := policy.Evaluate(&set, p)
			if got.Action == policy.Allow != (truth == "Accept") || (got.Rule < 0) != (by == "default") {
				t.Fatalf("%+v at %+v: got %+v, want %s %s\ncluster %+v\npolicies %+v\npods %+v\nrules %+v", p, subject, got, by, truth, w.cluster, w.policies, w.pods, set.Rules)
			}
			if len(got.Passed) > 0 {
				count["passed"]++
			}
			sameCompiled(t, &set, prog, counters, p, got)
		}
	}
	t.Log(count)
	for _, what := range []string{"Admin Accept", "Admin Deny", "NetworkPolicy Accept", "NetworkPolicy Deny", "Baseline Accept", "Baseline Deny", "default Accept", "passed"} {
		if count[what] < 500 {
			t.Errorf("verdicts %v: too few of %q to tell anything", count, what)
		}
	}
}

// sameCompiled wants the compiled form of a set to say what Evaluate said.
func sameCompiled(tb testing.TB, set *policy.Set, prog *compile.Program, counters compile.Counters, p policy.Packet, want policy.Verdict) {
	tb.Helper()
	key := policy.DefaultKey(set.Network)
	if want.Rule >= 0 {
		key = set.Rules[want.Rule].Key
	}
	if m, err := compile.Lookup(prog, set.ID(), p); err != nil || m.Action != want.Action || m.Counter != counters[key] {
		tb.Fatalf("%+v: compiled %+v, %v; want %+v", p, m, err, want)
	}
}

// someone is a pod of the world, and what judges its port, also compiled.
func (w *npWorld) someone(tb testing.TB, g npGen) (subject npPod, set policy.Set, prog *compile.Program, counters compile.Counters) {
	tb.Helper()
	subject = w.pods[g.IntN(len(w.pods))]
	set = w.read(tb).PolicySet(subject.network, PodRef{subject.namespace, subject.name, subject.name})
	prog, counters = compiled(tb, set)
	return subject, set, prog, counters
}

func compiled(tb testing.TB, set policy.Set) (*compile.Program, compile.Counters) {
	tb.Helper()
	counters, err := compile.Allocate(nil, []policy.Set{set})
	if err != nil {
		tb.Fatal(err)
	}
	prog, err := compile.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters})
	if err != nil {
		tb.Fatal(err)
	}
	return prog, counters
}
