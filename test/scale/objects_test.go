package scale

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/test/apiserver"
)

// size is how many objects of each kind a cluster has.
type size struct {
	Nodes     int `json:"nodes"`
	Networks  int `json:"networks"`
	Policies  int `json:"policies"` // spread over the networks
	Rules     int `json:"rules"`    // of all policies
	Sets      int `json:"addressSets"`
	Addresses int `json:"addresses"` // as many in all sets as in the rules of all policies
	Ports     int `json:"vmPorts"`   // on nodes other than the one that is measured
	VMs       int `json:"vmIdentities"`
}

// large is a cluster of 1,000 nodes.
var large = size{Nodes: 1000, Networks: 200, Policies: 2000, Rules: 10000, Sets: 10, Addresses: 100_000, Ports: 10_000, VMs: 10_000}

// small is a cluster that any node finds easy.
var small = size{Nodes: 1, Networks: 1, Policies: 1, Rules: 5, Addresses: 5}

const (
	trunk       = "trunk0"
	workers     = 12 // that create objects side by side
	vmNamespace = "default"
)

func newClient(tb testing.TB, cfg *rest.Config) client.Client {
	tb.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			tb.Fatal(err)
		}
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// all calls do for 0 to n-1, with several at work, and fails with the first error.
func all(tb testing.TB, n int, do func(ctx context.Context, i int) error) {
	tb.Helper()
	ctx, cancel := context.WithCancelCause(tb.Context())
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
	if err := context.Cause(ctx); err != nil && tb.Context().Err() == nil {
		tb.Fatal(err)
	}
}

// address is the i-th of all, of which no two are alike.
func address(i int) string {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
}

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

func networkName(i int) string { return fmt.Sprintf("vlan-%04d", i) }

// policy is the i-th of s, for the i-th network in turn: one rule that names its
// share of the addresses, and others that a firewall has as well.
func policy(s size, i int) *v1alpha1.FirewallPolicy {
	p := &v1alpha1.FirewallPolicy{TypeMeta: typeMeta(v1alpha1.KindFirewallPolicy), ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("policy-%04d", i)}}
	p.Spec.Category, p.Spec.Order = v1alpha1.CategoryApplication, int64(i+1)
	p.Spec.AppliedTo = []v1alpha1.AppliedTo{{Network: networkName(i % s.Networks)}}
	share := s.Addresses / s.Policies
	peers := make([]v1alpha1.Peer, share)
	for n := range peers {
		peers[n].IP = address(i*share + n)
	}
	tcp := func(ports string) []v1alpha1.Service {
		return []v1alpha1.Service{{Protocol: v1alpha1.ProtocolTCP, Ports: ports}}
	}
	p.Spec.Rules = []v1alpha1.FirewallRule{
		{ID: 1, Name: "from our servers", Action: v1alpha1.ActionAllow, Direction: v1alpha1.DirectionIn, Sources: peers, Services: tcp("443,8443")},
		{ID: 2, Name: "backup", Action: v1alpha1.ActionAllow, Direction: v1alpha1.DirectionIn, Sources: []v1alpha1.Peer{{CIDR: "192.168.0.0/16"}}, Services: tcp("10000-10010")},
		{ID: 3, Name: "names", Action: v1alpha1.ActionAllow, Direction: v1alpha1.DirectionOut, Services: []v1alpha1.Service{{Protocol: v1alpha1.ProtocolUDP, Ports: "53"}}},
		{ID: 4, Name: "no mail", Action: v1alpha1.ActionDrop, Direction: v1alpha1.DirectionOut, Services: tcp("25")},
		{ID: 5, Name: "guests", Action: v1alpha1.ActionDrop, Direction: v1alpha1.DirectionIn, Sources: []v1alpha1.Peer{{CIDR: "172.16.0.0/12"}}},
	}
	p.Default()
	p.Spec.Stateful, p.Spec.TCPStrict = new(true), new(true) // defaults of the CRD
	return p
}

// populate creates a cluster's objects. All is on one trunk, which every node has,
// so that each node must take every policy.
func populate(tb testing.TB, server *apiserver.Server, c client.Client, s size) {
	tb.Helper()
	all(tb, s.Nodes, func(ctx context.Context, i int) error {
		return c.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}})
	})
	managed := true
	all(tb, 1, func(ctx context.Context, _ int) error {
		t := &v1alpha1.VLANTrunk{ObjectMeta: metav1.ObjectMeta{Name: trunk}}
		t.Spec.Bridge = v1alpha1.TrunkBridge{Name: "br-scale", Managed: &managed}
		t.Spec.Uplink.AllowedVLANs = "1-4000"
		return c.Create(ctx, t)
	})
	all(tb, s.Networks, func(ctx context.Context, i int) error {
		vlan := int32(i + 1)
		n := &v1alpha1.VLANNetwork{ObjectMeta: metav1.ObjectMeta{Name: networkName(i)}}
		n.Spec = v1alpha1.VLANNetworkSpec{Trunk: trunk, VLAN: v1alpha1.NetworkVLAN{ID: &vlan}, DefaultAction: v1alpha1.ActionDrop,
			Namespaces: &metav1.LabelSelector{}}
		return c.Create(ctx, n)
	})
	all(tb, s.Sets, func(ctx context.Context, i int) error {
		set := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("set-%02d", i)}}
		for n := range s.Addresses / s.Sets {
			set.Spec.Addresses = append(set.Spec.Addresses, address(i*(s.Addresses/s.Sets)+n))
		}
		return c.Create(ctx, set)
	})
	store(tb, server, c, "firewallpolicies", s.Policies, func(i int) client.Object { return policy(s, i) })
	store(tb, server, c, "vmports", s.Ports, func(i int) client.Object { return vmPort(s, i) })
	store(tb, server, c, "vmidentities", s.VMs, func(i int) client.Object { return identity(s, i) })
}

// store creates the first object by the API, and the others by its pattern: nodes
// have written them for weeks, and their number would take the API server minutes.
func store(tb testing.TB, server *apiserver.Server, c client.Client, resource string, n int, object func(i int) client.Object) {
	tb.Helper()
	if n == 0 {
		return
	}
	first := object(0)
	gvk, wanted := first.GetObjectKind().GroupVersionKind(), plain(tb, first)
	if err := c.Create(tb.Context(), first); err != nil {
		tb.Fatal(err)
	}
	pattern := &unstructured.Unstructured{}
	pattern.SetGroupVersionKind(gvk)
	if err := c.Get(tb.Context(), client.ObjectKeyFromObject(first), pattern); err != nil {
		tb.Fatal(err)
	}
	if d := cmp.Diff(wanted["spec"], pattern.Object["spec"]); d != "" {
		tb.Fatalf("%s is not stored as it was made (-made +stored):\n%s", gvk.Kind, d)
	}
	if status, ok := wanted["status"]; ok {
		pattern.Object["status"] = status
		if err := c.Status().Update(tb.Context(), pattern); err != nil {
			tb.Fatal(err)
		}
	}
	rest := make([]*unstructured.Unstructured, 0, n-1)
	for i := 1; i < n; i++ {
		o := object(i)
		u := pattern.DeepCopy()
		fields := plain(tb, o)
		u.Object["spec"] = fields["spec"]
		if status, ok := fields["status"]; ok {
			u.Object["status"] = status
		}
		u.SetName(o.GetName())
		u.SetLabels(o.GetLabels())
		rest = append(rest, u)
	}
	server.Store(v1alpha1.Group, resource, rest)
}

// plain is an object's fields.
func plain(tb testing.TB, o client.Object) map[string]any {
	tb.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		tb.Fatal(err)
	}
	return fields
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: kind}
}

func vmReference(i int) v1alpha1.VMReference {
	return v1alpha1.VMReference{Name: fmt.Sprintf("vm-%05d", i), UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i))}
}

func mac(i int) string {
	return fmt.Sprintf("00:50:56:%02x:%02x:%02x", byte(i>>16), byte(i>>8), byte(i))
}

// vmPort is what nodes report of their ports; the node that is measured has none.
func vmPort(s size, i int) *v1alpha1.VMPort {
	vm := vmReference(i)
	launcher := "virt-launcher-" + vm.Name
	return &v1alpha1.VMPort{TypeMeta: typeMeta("VMPort"), ObjectMeta: metav1.ObjectMeta{Namespace: vmNamespace, Name: launcher + ".0a1b2c3d"},
		Spec: v1alpha1.VMPortSpec{Node: nodeName(1 + i%(s.Nodes-1)), VM: &vm, Trunk: trunk, Network: networkName(i % s.Networks),
			Pod:   v1alpha1.PodInterface{Name: launcher, UID: vm.UID, Interface: "pod37a8eec1ce1", ContainerID: fmt.Sprintf("%064d", i)},
			VLANs: "100", MTU: 1500, MAC: mac(i), HostInterface: fmt.Sprintf("veth%08x", i)}}
}

// identity is what nodes report of VMs.
func identity(s size, i int) *v1alpha1.VMIdentity {
	vm := vmReference(i)
	id := &v1alpha1.VMIdentity{TypeMeta: typeMeta("VMIdentity"), ObjectMeta: metav1.ObjectMeta{Namespace: vmNamespace, Name: vm.Name + ".0a1b2c3d",
		Labels: map[string]string{"app": fmt.Sprintf("app-%03d", i%500), "tier": "backend", "team": fmt.Sprintf("team-%02d", i%50)}},
		Spec: v1alpha1.VMIdentitySpec{VM: &vm, Network: networkName(i % s.Networks)}}
	id.Status = v1alpha1.VMIdentityStatus{Node: nodeName(1 + i%(s.Nodes-1)), MAC: mac(i), Addresses: []v1alpha1.AddressStatus{
		{Address: address(i), Provenance: v1alpha1.ProvenanceGuestAgent}, {Address: fmt.Sprintf("fd00::%x", i), Provenance: v1alpha1.ProvenanceGuestAgent}}}
	return id
}
