// cyclonus prints the test cases of Cyclonus (github.com/mattfenwick/cyclonus), a
// conformance suite for NetworkPolicy, step by step and with Cyclonus's own word on
// every packet, as JSON lines for TestCyclonus of pkg/desired. It is a module of its
// own so that the product does not depend on what Cyclonus depends on.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Step is a cluster as a step of a case leaves it, and who may talk to whom in it.
type Step struct {
	Case       string                        `json:"case"`
	Number     int                           `json:"number"` // from 1
	Namespaces map[string]map[string]string  `json:"namespaces"`
	Pods       []Pod                         `json:"pods"`
	Policies   []*networkingv1.NetworkPolicy `json:"policies"`
	Protocols  []corev1.Protocol             `json:"protocols"`
	Ports      []int                         `json:"ports"`
	// Allowed has two letters for each pod as source, each as destination, each
	// protocol and each port, in this order: whether the source's policies let the
	// packet out and the destination's let it in; y or n.
	Allowed string `json:"allowed"`
}

// Pod has an address that the step's truth was told for.
type Pod struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels"`
	IP        string            `json:"ip"`
}

var (
	protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
	// What Cyclonus's policies name, and their neighbours.
	ports = []int{53, 78, 79, 80, 81, 82, 7981}
)

// nameOf is the metadata.name label, which every namespace of a cluster has.
const nameOf = "kubernetes.io/metadata.name"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cyclonus:", err)
		os.Exit(1)
	}
}

func run() error {
	out := json.NewEncoder(os.Stdout)
	start := cluster()
	special, err := start.GetPod("z", "c") // as Cyclonus itself chooses it
	if err != nil {
		return err
	}
	gen := generator.NewTestCaseGenerator(true, special.IP, start.NamespacesSlice(), nil, nil)
	for _, c := range gen.GenerateAllTestCases() {
		now, policies := start, []*networkingv1.NetworkPolicy{}
		for i, step := range c.Steps {
			for _, a := range step.Actions {
				if now, policies, err = act(now, policies, a); err != nil {
					return fmt.Errorf("%s, step %d: %w", c.Description, i+1, err)
				}
			}
			if err := out.Encode(told(c.Description, i+1, now, policies)); err != nil {
				return err
			}
		}
	}
	return nil
}

// cluster is the one that Cyclonus makes by default: three namespaces of three pods.
func cluster() *probe.Resources {
	r := &probe.Resources{Namespaces: map[string]map[string]string{}}
	for n, ns := range []string{"x", "y", "z"} {
		r.Namespaces[ns] = map[string]string{"ns": ns, nameOf: ns}
		for i, name := range []string{"a", "b", "c"} {
			pod := probe.NewDefaultPod(ns, name, []int{80, 81}, protocols, false, "")
			pod.IP = fmt.Sprintf("192.168.%d.%d", 226+n, 10+i)
			r.Pods = append(r.Pods, pod)
		}
	}
	return r
}

// act does to a cluster what a step of a case says. Neither is changed in place.
func act(r *probe.Resources, policies []*networkingv1.NetworkPolicy, a *generator.Action) (*probe.Resources, []*networkingv1.NetworkPolicy, error) {
	without := func(namespace, name string) (rest []*networkingv1.NetworkPolicy, err error) {
		for _, p := range policies {
			if p.Namespace != namespace || p.Name != name {
				rest = append(rest, p)
			}
		}
		if len(rest) != len(policies)-1 {
			return nil, fmt.Errorf("there is no policy %s/%s", namespace, name)
		}
		return rest, nil
	}
	var err error
	switch {
	case a.CreatePolicy != nil:
		policies = append(policies[:len(policies):len(policies)], a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		if policies, err = without(a.UpdatePolicy.Policy.Namespace, a.UpdatePolicy.Policy.Name); err == nil {
			policies = append(policies, a.UpdatePolicy.Policy)
		}
	case a.DeletePolicy != nil:
		policies, err = without(a.DeletePolicy.Namespace, a.DeletePolicy.Name)
	case a.CreateNamespace != nil:
		r, err = r.CreateNamespace(a.CreateNamespace.Namespace, named(a.CreateNamespace.Namespace, a.CreateNamespace.Labels))
	case a.SetNamespaceLabels != nil:
		r, err = r.UpdateNamespaceLabels(a.SetNamespaceLabels.Namespace, named(a.SetNamespaceLabels.Namespace, a.SetNamespaceLabels.Labels))
	case a.DeleteNamespace != nil:
		r, err = r.DeleteNamespace(a.DeleteNamespace.Namespace)
	case a.ReadNetworkPolicies != nil: // there are none but those that the case made
	case a.CreatePod != nil:
		if r, err = r.CreatePod(a.CreatePod.Namespace, a.CreatePod.Pod, a.CreatePod.Labels); err == nil {
			r.Pods[len(r.Pods)-1].IP = fmt.Sprintf("192.168.240.%d", len(r.Pods))
		}
	case a.SetPodLabels != nil:
		r, err = r.SetPodLabels(a.SetPodLabels.Namespace, a.SetPodLabels.Pod, a.SetPodLabels.Labels)
	case a.DeletePod != nil:
		r, err = r.DeletePod(a.DeletePod.Namespace, a.DeletePod.Pod)
	default:
		err = fmt.Errorf("an action of a kind that is not known: %+v", a)
	}
	return r, policies, err
}

func named(name string, labels map[string]string) map[string]string {
	out := map[string]string{nameOf: name}
	for k, v := range labels {
		out[k] = v
	}
	return out
}

// told asks Cyclonus about every packet. Ports have no names in it, as a VM gives its
// ports none: what a policy allows by the name of a port alone, it allows to nobody.
func told(name string, number int, r *probe.Resources, policies []*networkingv1.NetworkPolicy) Step {
	s := Step{Case: name, Number: number, Namespaces: r.Namespaces, Policies: policies, Protocols: protocols, Ports: ports}
	for _, p := range r.Pods {
		s.Pods = append(s.Pods, Pod{p.Namespace, p.Name, p.Labels, p.IP})
	}
	rules := matcher.BuildNetworkPolicies(false, policies)
	var allowed strings.Builder
	say := func(yes bool) {
		if yes {
			allowed.WriteByte('y')
		} else {
			allowed.WriteByte('n')
		}
	}
	for _, from := range r.Pods {
		for _, to := range r.Pods {
			for _, protocol := range protocols {
				for _, port := range ports {
					t := &matcher.Traffic{Source: peer(r, from), Destination: peer(r, to), ResolvedPort: port, Protocol: protocol}
					verdict := rules.IsTrafficAllowed(t)
					say(verdict.Egress.IsAllowed())
					say(verdict.Ingress.IsAllowed())
				}
			}
		}
	}
	s.Allowed = allowed.String()
	return s
}

func peer(r *probe.Resources, p *probe.Pod) *matcher.TrafficPeer {
	return &matcher.TrafficPeer{IP: p.IP, Internal: &matcher.InternalPeer{PodLabels: p.Labels, NamespaceLabels: r.Namespaces[p.Namespace], Namespace: p.Namespace}}
}
