package kube

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

const claimedNetworks = `[{"name": "lan", "interface": "net1", "ipam-claim-reference": "db.lan"}, {"name": "wan", "interface": "net2", "ipam-claim-reference": "db.wan"}]`

func aClaim(namespace, name string, ips ...any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"network": "lan"}}}
	o.SetGroupVersionKind(claimVersion)
	o.SetNamespace(namespace)
	o.SetName(name)
	if ips != nil {
		o.Object["status"] = map[string]any{"ips": ips}
	}
	return o
}

// TestIPAMClaim: what the claim of an interface has is declared for it; what is wrong with one is told, and keeps nothing else from
// being known; a cluster without the kind is well.
func TestIPAMClaim(t *testing.T) {
	for _, tt := range []struct {
		name        string
		objects     []client.Object
		meet        error
		says, wrong string
		again       bool // it is asked for again soon
	}{
		{"two families", []client.Object{aClaim("ns", "db.lan", "10.1.0.5/24", "fd00::5/64", "10.1.0.5"), aClaim("ns", "db.wan", "10.1.0.6/24")}, nil, "10.1.0.5 fd00::5", "", false},
		{"no such kind, or claim", nil, nil, "", "", true},
		{"no address yet", []client.Object{aClaim("ns", "db.lan"), aClaim("ns", "db.wan", "10.1.0.6/24")}, nil, "", "", true},
		{"another namespace's", []client.Object{aClaim("other", "db.lan", "10.1.0.5/24"), aClaim("ns", "db.wan", "10.1.0.6/24")}, nil, "", "", true},
		{"no address", []client.Object{aClaim("ns", "db.lan", "here", "10.1.0.5/24"), aClaim("ns", "db.wan", "10.1.0.6/24")}, nil, "10.1.0.5", `IPAMClaim db.lan: status.ips[0]: "here" is no address: want one as 10.1.2.3/24`, true},
		{"another form", []client.Object{aClaim("ns", "db.lan", 7.5), aClaim("ns", "db.wan", "10.1.0.6/24")}, nil, "", "IPAMClaim db.lan: status.ips is of another form: want a list", true},
		{"no right", nil, apierrors.NewForbidden(schema.GroupResource{Resource: "ipamclaims"}, "db.lan", errors.New("no")), "", "IPAMClaim db.lan may not be read: give the agent the rights of this version", true},
	} {
		pod := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod001", UID: "u1",
			Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": claimedNetworks}}}
		f := newFakeAPI(append(tt.objects, pod)...)
		f.meet = func(request string) error {
			if strings.HasPrefix(request, "get IPAMClaim") {
				return tt.meet
			}
			return nil
		}
		r := newFakeReporter(f)
		n := &fakeNode{ports: []wire.Port{aPort(1)}}
		n.ports[0].Pod.UID = "u1"
		mustRound(t, r, n)
		var says []string
		for _, s := range n.owners[n.ports[0].Key].Says {
			for _, a := range s.Addresses {
				says = append(says, a.String())
			}
			if s.Source != "IPAMClaim" || s.Guest {
				t.Errorf("%s: said by %+v", tt.name, s)
			}
		}
		if got := strings.Join(says, " "); got != tt.says {
			t.Errorf("%s: it says %q, want %q", tt.name, got, tt.says)
		}
		c := meta.FindStatusCondition(only[*v1alpha1.VMPort](t, f).Status.Conditions, v1alpha1.ConditionAddressesDeclared)
		if (c == nil) != (tt.wrong == "") || c != nil && !strings.Contains(c.Message, tt.wrong) {
			t.Errorf("%s: the condition is %+v, want %q", tt.name, c, tt.wrong)
		}
		if is := r.vms["ns/pod001"]; is.unclaimed != tt.again {
			t.Errorf("%s: asked again %v", tt.name, is.unclaimed)
		}
	}
}

// TestIPAMClaimUnread: of a claim that cannot be read for a moment what was known stays, and it holds nothing else up: neither what is
// news of the pod, nor whose it is.
func TestIPAMClaimUnread(t *testing.T) {
	pod := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod001", UID: "u1",
		Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": claimedNetworks}}}
	f := newFakeAPI(pod, aClaim("ns", "db.lan", "10.1.0.5/24"), aClaim("ns", "db.wan", "10.1.0.6/24"))
	r, n := newFakeReporter(f), &fakeNode{ports: []wire.Port{aPort(1)}}
	n.ports[0].Pod.UID = "u1"
	mustRound(t, r, n)
	f.meet = func(request string) error {
		if strings.HasPrefix(request, "get IPAMClaim") {
			return errors.New("timed out")
		}
		return nil
	}
	pod.Labels = map[string]string{"app": "db"}
	_ = f.put("update", pod)
	r.PodChanged("ns", "pod001")
	mustRound(t, r, n)
	if says := n.owners[n.ports[0].Key].Says; len(says) != 1 || says[0].Addresses[0].String() != "10.1.0.5" {
		t.Errorf("it says %+v", says)
	}
	if c := r.vms["ns/pod001"]; c.podLabels["app"] != "db" || !c.unclaimed {
		t.Errorf("known is %+v", c)
	}
	c := meta.FindStatusCondition(only[*v1alpha1.VMPort](t, f).Status.Conditions, v1alpha1.ConditionAddressesDeclared)
	if c == nil || !strings.Contains(c.Message, "IPAMClaim db.lan cannot be read now, and is read again: timed out") {
		t.Errorf("the condition is %+v", c)
	}
	// Another claim's is none of it.
	pod.Annotations = map[string]string{"k8s.v1.cni.cncf.io/networks": strings.ReplaceAll(claimedNetworks, "db.lan", "new.lan")}
	_ = f.put("update", pod)
	r.PodChanged("ns", "pod001")
	mustRound(t, r, n)
	if says := n.owners[n.ports[0].Key].Says; len(says) != 0 {
		t.Errorf("of another claim it says %+v", says)
	}
	f.meet = nil
	r.vms["ns/pod001"].next = time.Time{}
	pod.Annotations = map[string]string{"k8s.v1.cni.cncf.io/networks": claimedNetworks}
	_ = f.put("update", pod)
	mustRound(t, r, n)
	if c := r.vms["ns/pod001"]; c.unclaimed || len(c.claims["net1"].addresses) != 1 {
		t.Errorf("it is read again: %+v", c)
	}
}

// TestIPAMClaimRead: with the rights that the manifests give, at an API server; also one that comes after the pod.
func TestIPAMClaimRead(t *testing.T) {
	b := newBench(t)
	web := b.podPort("web", func(p *corev1.Pod) {
		p.Annotations = map[string]string{"k8s.v1.cni.cncf.io/networks": claimedNetworks}
	})
	b.node.set(func() { b.node.ports = []wire.Port{web} })
	until(b, &v1alpha1.VMPort{}, "default", portName(&web), func(o *v1alpha1.VMPort, found bool) bool { return found && len(o.Status.Bindings) == 0 })
	if err := b.Create(b.Context(), aClaim("default", "db.lan", "10.1.0.5/24")); err != nil {
		t.Fatal(err)
	}
	b.reporter.PodChanged("default", "web")
	until(b, &v1alpha1.VMIdentity{}, "default", podIdentityName(&web), func(o *v1alpha1.VMIdentity, found bool) bool {
		return found && slices.ContainsFunc(o.Status.Addresses, func(a v1alpha1.AddressStatus) bool {
			return a.Address == "10.1.0.5" && a.Provenance == v1alpha1.ProvenanceDeclared
		})
	})
}
