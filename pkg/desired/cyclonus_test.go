package desired

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// cyclonusStep is a line of test/cyclonus, which says what each field is.
type cyclonusStep struct {
	Case       string                       `json:"case"`
	Number     int                          `json:"number"`
	Namespaces map[string]map[string]string `json:"namespaces"`
	Pods       []struct {
		Namespace, Name string
		Labels          map[string]string
		IP              netip.Addr
	} `json:"pods"`
	Policies  []networkingv1.NetworkPolicy `json:"policies"`
	Protocols []corev1.Protocol            `json:"protocols"`
	Ports     []uint16                     `json:"ports"`
	Allowed   string                       `json:"allowed"`
}

// world is the step's cluster: each pod a NIC on one network, two in three of VMs.
func (s *cyclonusStep) world() *npWorld {
	w := &npWorld{namespaces: s.Namespaces}
	for i, p := range s.Pods {
		pod := npPod{namespace: p.Namespace, name: p.Name, network: "lan", addr: p.IP, vm: i%3 != 2, labels: map[string]string{}}
		for k, v := range p.Labels {
			pod.labels[k] = v
		}
		if pod.vm {
			pod.labels["kubevirt.io"], pod.labels["vm.kubevirt.io/name"] = "virt-launcher", pod.name
		}
		w.pods = append(w.pods, pod)
	}
	for _, p := range s.Policies {
		w.policies = append(w.policies, npPolicy{namespace: p.Namespace, name: p.Name, networks: []string{"lan"}, spec: p.Spec})
	}
	return w
}

// namesPorts says whether a policy names a port by a name.
func (s *cyclonusStep) namesPorts() bool {
	named := func(p networkingv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.Type == intstr.String }
	return slices.ContainsFunc(s.Policies, func(p networkingv1.NetworkPolicy) bool {
		return slices.ContainsFunc(p.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool { return slices.ContainsFunc(r.Ports, named) }) ||
			slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool { return slices.ContainsFunc(r.Ports, named) })
	})
}

// judged is what judges a port, in both forms.
type judged struct {
	set      policy.Set
	program  *compile.Program
	counters compile.Counters
}

func (j *judged) allows(tb testing.TB, p policy.Packet) bool {
	tb.Helper()
	v := policy.Evaluate(&j.set, p)
	sameCompiled(tb, &j.set, j.program, j.counters, p, v)
	return v.Action == policy.Allow
}

// TestCyclonus holds the rules of ports, as evaluated and as compiled, against
// Cyclonus: each step of its cases, each pair of pods, at both ends, and ports that its
// policies name and their neighbours.
func TestCyclonus(t *testing.T) {
	for _, file := range []string{"main.go", "go.mod", "go.sum"} { // a cached result is of these
		if _, err := os.ReadFile("../../test/cyclonus/" + file); err != nil {
			t.Fatal(err)
		}
	}
	var failed bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "run", "-C", "../../test/cyclonus", ".")
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, failed.Bytes())
	}
	numbers := map[corev1.Protocol]uint8{corev1.ProtocolTCP: policy.TCP, corev1.ProtocolUDP: policy.UDP, corev1.ProtocolSCTP: policy.SCTP}
	cases, answers, naming := 0, map[byte]int{}, map[string]bool{}
	for lines := json.NewDecoder(bytes.NewReader(out)); ; {
		var s cyclonusStep
		if err := lines.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if s.Number == 1 {
			cases++
		}
		w := s.world()
		snap, sets, at := w.read(t), map[string]*judged{}, make([]*judged, len(w.pods))
		for i, p := range w.pods {
			set := snap.PolicySet(p.network, PodRef{p.namespace, p.name, p.name})
			if sets[set.ID()] == nil {
				program, counters := compiled(t, set)
				sets[set.ID()] = &judged{set, program, counters}
			}
			at[i] = sets[set.ID()]
		}
		truth := s.Allowed
		if want := 2 * len(w.pods) * len(w.pods) * len(s.Protocols) * len(s.Ports); len(truth) != want {
			t.Fatalf("case %q: %d answers, want %d", s.Case, len(truth), want)
		}
		if s.namesPorts() {
			naming[s.Case] = true
		}
		for i, from := range w.pods {
			for j, to := range w.pods {
				for _, protocol := range s.Protocols {
					for _, port := range s.Ports {
						p := policy.Packet{IP: true, Src: from.addr, Dst: to.addr, Protocol: numbers[protocol], HasService: true, Service: port}
						for end, there := range []*judged{at[i], at[j]} {
							p.Direction = []policy.Direction{policy.Out, policy.In}[end]
							answers[truth[0]]++
							if got := there.allows(t, p); got != (truth[0] == 'y') {
								t.Fatalf("case %q, step %d: %s/%s to %s/%s:%d/%s, direction %v: allowed is %v, Cyclonus says %c\nrules %+v",
									s.Case, s.Number, from.namespace, from.name, to.namespace, to.name, port, protocol, p.Direction, got, truth[0], there.set.Rules)
							}
							truth = truth[1:]
						}
					}
				}
			}
		}
	}
	if len(naming) != 16 {
		t.Errorf("%d cases name ports by name: docs/reference/multinetworkpolicy.md says 16", len(naming))
	}
	if cases != 230 || answers['y'] < 50_000 || answers['n'] < 50_000 {
		t.Errorf("%d cases with the answers %v: Cyclonus v0.5.6 has 230, and too few of one answer tell nothing", cases, answers)
	}
	t.Logf("%d cases, %d packets allowed and %d not", cases, answers['y'], answers['n'])
}
