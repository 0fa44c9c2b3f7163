package kube

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/vlan"
	"github.com/homeport-cni/homeport/test/apiserver"
)

// fakeNode says what a test makes it say.
type fakeNode struct {
	mu        sync.Mutex
	status    wire.NodeStatus
	ports     []wire.Port
	drops     []wire.Drop
	read      int // how often ports were asked for
	owners    map[attach.Key]wire.Owner
	unsettled bool // it does not know yet what others do
	unread    bool // nor its networks
	changed   chan struct{}
}

func (n *fakeNode) Status() wire.NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.status
	if s.Desired == 0 && !n.unread {
		s.Desired = 1
	}
	return s
}

func (n *fakeNode) Ports() ([]wire.Port, []wire.Drop) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.read++
	ports := slices.Clone(n.ports)
	for i := range ports {
		ports[i].Bindings = append(slices.Clone(ports[i].Bindings), n.told(&ports[i])...)
	}
	return ports, slices.Clone(n.drops)
}

// told are the addresses of a port that somebody has told the node of, as if nothing was in their way.
func (n *fakeNode) told(p *wire.Port) (out []wire.Address) {
	add := func(how string, list []netip.Addr) {
		for _, a := range list {
			if slices.ContainsFunc(out, func(o wire.Address) bool { return o.Address == a }) {
				continue
			}
			out = append(out, wire.Address{Address: a, VLAN: p.VLANs.PVID, State: wire.AddressHeld, Provenance: how, Since: time.Unix(1, 0)})
		}
	}
	add("Declared", p.Addresses)
	for _, s := range n.owners[p.Key].Says {
		how := "Declared"
		if s.Guest {
			how = "GuestAgent"
		}
		add(how, s.Addresses)
	}
	return out
}

func (n *fakeNode) Own(port attach.Key, o wire.Owner) (news, settled bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if reflect.DeepEqual(n.owners[port], o) {
		return false, !n.unsettled
	}
	if n.owners == nil {
		n.owners = map[attach.Key]wire.Owner{}
	}
	n.owners[port] = o
	return true, !n.unsettled
}

func (n *fakeNode) Changed() <-chan struct{} { return n.changed }

// set changes what the node says, and tells of it.
func (n *fakeNode) set(change func()) {
	n.mu.Lock()
	change()
	n.mu.Unlock()
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// bench is a node at an API server.
type bench struct {
	testing.TB
	*apiserver.Server
	client.Client
	node     *fakeNode
	reporter *Reporter // that runs now
	stop     func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	s := apiserver.Start(t, "../../deploy/base/crds", "testdata/kubevirt.yaml", "testdata/ipamclaims.yaml")
	s.Apply("../../deploy/base/namespace.yaml", "../../deploy/base/rbac.yaml", "../../deploy/base/admission.yaml")
	r, err := NewReporter(s.Config(), "n1", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{TB: t, Server: s, Client: r.client, node: &fakeNode{changed: make(chan struct{}, 1)}}
	b.node.status = wire.NodeStatus{Version: "v1", Desired: 3, Compiled: 3, Active: 3,
		Trunks: []wire.TrunkStatus{{Name: "t", Bridge: "br0", Uplink: "eth1", Link: wire.LinkUp, VLANs: vlans(t, "100,200"), MTU: 1500, Ready: true}}}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// agent is the config of a node's agent, with the rights that the manifests give.
func (b *bench) agent(node string) *rest.Config {
	return b.User("system:serviceaccount:homeport-system:homeport-agent", nil, map[string][]string{"authentication.kubernetes.io/node-name": {node}})
}

// start runs a new reporter, as a restarted agent would.
func (b *bench) start() {
	b.Helper()
	r, err := NewReporter(b.agent("n1"), "n1", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		b.Fatal(err)
	}
	r.countersEvery, r.lookEvery, r.nodeEvery, r.retryMost = time.Hour, time.Hour, 100*time.Millisecond, 100*time.Millisecond
	r.watch.look = 100 * time.Millisecond // KubeVirt's kind was made just now
	b.reporter = r
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx, b.node); err != nil {
			b.Error(err)
		}
	})
	b.stop = func() { cancel(); wg.Wait() }
}

func vlans(tb testing.TB, text string) vlan.Set {
	tb.Helper()
	s, err := vlan.ParseSet(text)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// until waits until ok holds of the object with that name; ok of nil is that it is
// gone.
func until[T client.Object](b *bench, o T, namespace, name string, ok func(o T, found bool) bool) T {
	b.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := b.Get(b.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o)
		if err == nil && ok(o, true) || apierrors.IsNotFound(err) && ok(o, false) {
			return o
		}
		if time.Now().After(deadline) {
			b.Fatalf("%T %s/%s: %v, last %+v", o, namespace, name, err, o)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func readyOf(c []metav1.Condition) string {
	r := meta.FindStatusCondition(c, v1alpha1.ConditionReady)
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%s %s", r.Status, r.Reason)
}

func TestTrunks(t *testing.T) {
	b := newBench(t)
	var o v1alpha1.VLANTrunkNode
	got := until(b, &o, "", "t.n1", func(o *v1alpha1.VLANTrunkNode, found bool) bool { return found && len(o.Status.Conditions) > 0 })
	if got.Spec.Trunk != "t" || got.Spec.Node != "n1" || got.Status.Bridge != "br0" || got.Status.MTU != 1500 || got.Status.Uplink.VLANs != "100,200" ||
		got.Status.Uplink.State != "Up" || got.Status.Generation.Active != 3 || got.Status.Agent != "v1" || readyOf(got.Status.Conditions) != "True Healthy" {
		t.Errorf("reported %+v", got)
	}
	// Nothing is written while there is nothing new: the next change alone is.
	first := got.ResourceVersion
	for range 3 {
		b.node.set(func() {})
		time.Sleep(100 * time.Millisecond)
	}
	if err := b.Get(t.Context(), client.ObjectKey{Name: "t.n1"}, &o); err != nil || o.ResourceVersion != first {
		t.Errorf("written without news: %v, version %s after %s", err, o.ResourceVersion, first)
	}
	for _, tt := range []struct {
		want   string
		change func(s *wire.NodeStatus)
	}{
		{"False LinkDown", func(s *wire.NodeStatus) { s.Trunks[0].Link = wire.LinkNoCarrier }},
		{"False TrunkBroken", func(s *wire.NodeStatus) { s.Trunks[0].Ready, s.Trunks[0].Message = false, "eth1: no such interface" }},
		{"False Drift", func(s *wire.NodeStatus) {
			s.Trunks[0].Link, s.Trunks[0].Ready = wire.LinkUp, true
			s.Drift = []wire.DriftCount{{Kind: "UplinkVLANMissing", Subject: "eth1", Message: "cut"}, {Kind: "Other", Subject: "eth9", Message: "not ours"}}
		}},
		{"True Healthy", func(s *wire.NodeStatus) {
			s.Drift, s.Desired, s.Pending = nil, 4, &wire.PendingPolicy{Since: time.Now()}
		}},
		{"False PolicyPending", func(s *wire.NodeStatus) { s.Pending = &wire.PendingPolicy{Since: time.Now(), Overdue: true} }},
		{"False Refused", func(s *wire.NodeStatus) {
			s.Desired, s.Pending, s.Problems = 3, nil, []wire.Problem{{Kind: "VLANTrunk", Name: "t", Field: "spec.mtu", Message: "no"}}
		}},
		{"True Healthy", func(s *wire.NodeStatus) {
			s.Problems = nil
			s.Trunks[0].Conditions = []wire.Condition{{Type: v1alpha1.ConditionHostFiltered, Status: "True", Reason: v1alpha1.ReasonHostFirewall, LastTransitionTime: time.Now(), Message: "FORWARD drops"}}
		}},
	} {
		b.node.set(func() {
			s := b.node.status
			s.Trunks = slices.Clone(s.Trunks)
			tt.change(&s)
			b.node.status = s
		})
		until(b, &o, "", "t.n1", func(o *v1alpha1.VLANTrunkNode, found bool) bool {
			return found && readyOf(o.Status.Conditions) == tt.want
		})
	}
	until(b, &o, "", "t.n1", func(o *v1alpha1.VLANTrunkNode, found bool) bool {
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionHostFiltered)
		return found && c != nil && c.Status == metav1.ConditionTrue && c.Reason == v1alpha1.ReasonHostFirewall && c.Message == "FORWARD drops"
	})
	// A trunk that cannot be in force here is told of, and one that is gone is not.
	b.node.set(func() {
		b.node.status.Trunks = nil
		b.node.status.Problems = []wire.Problem{{Kind: "VLANTrunk", Name: "u", Field: "spec.uplink.interface", Message: "eth1 has an address"}}
	})
	until(b, &o, "", "t.n1", func(_ *v1alpha1.VLANTrunkNode, found bool) bool { return !found })
	got = until(b, &o, "", "u.n1", func(o *v1alpha1.VLANTrunkNode, found bool) bool {
		return found && readyOf(o.Status.Conditions) == "False Refused"
	})
	if m := got.Status.Conditions[0].Message; m != "spec.uplink.interface: eth1 has an address" {
		t.Errorf("message %q", m)
	}
	events(t, b, "LinkDown", "Refused")
}

// TestResource: a node offers a trunk's resource while the trunk carries, and has
// it no more when it does not. What others offer stays.
func TestResource(t *testing.T) {
	b := newBench(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	if err := b.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	node.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("4"), "homeport.dev/gone": resource.MustParse("1k"), "network.homeport.dev/gone": resource.MustParse("1k")}
	if err := b.Client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	offers := func(want ...string) {
		t.Helper()
		until(b, node, "", "n1", func(n *corev1.Node, _ bool) bool {
			same := n.Status.Capacity.Cpu().Value() == 4
			for _, list := range []corev1.ResourceList{n.Status.Capacity, n.Status.Allocatable} {
				var have []string
				for name := range list {
					if strings.Contains(string(name), "homeport.dev/") {
						have = append(have, string(name))
					}
				}
				slices.Sort(have)
				same = same && slices.Equal(have, want)
			}
			return same
		})
	}
	link := func(state string, wanted bool) {
		b.node.set(func() {
			b.node.status.Trunks = slices.Clone(b.node.status.Trunks)
			b.node.status.Trunks[0].Link, b.node.status.Trunks[0].Resource = state, wanted
		})
	}
	link(wire.LinkUp, true)
	offers("homeport.dev/t")
	link(wire.LinkDown, true)
	offers()
	link(wire.LinkUp, true)
	offers("homeport.dev/t")
	patch := client.RawPatch(types.MergePatchType, []byte(`{"status": {"capacity": {"homeport.dev/t": "0"}}}`)) // as a kubelet that lost its state
	if err := b.Client.Status().Patch(t.Context(), node, patch); err != nil {
		t.Fatal(err)
	}
	until(b, node, "", "n1", func(n *corev1.Node, _ bool) bool {
		b.node.set(func() {})
		q := n.Status.Capacity["homeport.dev/t"]
		return q.Value() == 1000
	})
	networks := func(names ...string) {
		b.node.set(func() {
			b.node.status.Trunks = slices.Clone(b.node.status.Trunks)
			b.node.status.Trunks[0].Offers = names
		})
	}
	long := strings.Repeat("a", 200)
	networks("lan", "dmz.x", long)
	offers("homeport.dev/t", v1alpha1.NetworkResource(long), "network.homeport.dev/dmz.x", "network.homeport.dev/lan")
	networks("lan")
	link(wire.LinkUp, false)
	offers("network.homeport.dev/lan")
	link(wire.LinkDown, false)
	offers()
}

// events wants one event at least of each reason.
func events(t *testing.T, b *bench, reasons ...string) {
	t.Helper()
	for _, want := range reasons {
		var have []string
		deadline := time.Now().Add(30 * time.Second)
		for !slices.Contains(have, want) { // it is written behind what it tells of
			if time.Now().After(deadline) {
				t.Errorf("no event %s, only %q", want, have)
				break
			}
			have = warnings(b)
		}
	}
}

// warnings gives the reasons of the events that warn.
func warnings(b *bench) (reasons []string) {
	b.Helper()
	var l corev1.EventList
	if err := b.List(b.Context(), &l); err != nil {
		b.Fatal(err)
	}
	for _, e := range l.Items {
		if e.Type == corev1.EventTypeWarning && e.InvolvedObject.UID != "" {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

// vmPort is a port of a launcher pod that is in the API server.
func (b *bench) vmPort(name string) wire.Port {
	b.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "virt-launcher-" + name, Labels: map[string]string{"kubevirt.io": "virt-launcher"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: name, UID: "vmi-uid", Controller: new(true)}}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "compute", Image: "none"}}},
	}
	if err := b.Create(b.Context(), pod); err != nil {
		b.Fatal(err)
	}
	return wire.Port{State: attach.Active, Passed: [2]uint64{5, 6}, Record: attach.Record{
		Request: attach.Request{Key: attach.Key{ContainerID: "c-" + name, IfName: "pod37a8eec1ce1"}, MAC: attach.MAC{0, 0x50, 0x56, 0, 0, 1},
			Network: "lan", HostIfName: "veth1", Pod: attach.Pod{Namespace: "default", Name: pod.Name, UID: string(pod.UID)}},
		Trunk: "t", Bridge: "br0", Policy: "lan", EffectiveMTU: 1500, VLANs: attach.VLANs{Mode: vlan.Access, PVID: 100}}}
}

// vmi writes a VirtualMachineInstance as KubeVirt has it once the pod runs.
func (b *bench) vmi(name string, active map[string]any, node string) {
	b.Helper()
	b.vmiWith(name, active, node, "00:50:56:00:00:01")
}

// vmiWith is vmi with the MAC that the VM names.
func (b *bench) vmiWith(name string, active map[string]any, node, mac string) {
	b.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
		"metadata": map[string]any{"namespace": "default", "name": name,
			"labels": map[string]any{"app": "ledger", "kubevirt.io/nodeName": node}, "ownerReferences": []any{map[string]any{
				"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": "vm-uid", "controller": true}}},
		"spec": map[string]any{"domain": map[string]any{"devices": map[string]any{"interfaces": []any{map[string]any{"name": "lan", "macAddress": mac}}}}},
		"status": map[string]any{"activePods": active, "nodeName": node, "interfaces": []any{map[string]any{
			"name": "lan", "podInterfaceName": "pod37a8eec1ce1", "mac": "00:50:56:00:00:01", "ipAddresses": []any{"10.1.0.5", "fd00::5"}, "infoSource": "domain, guest-agent"}}},
	}}
	have := &unstructured.Unstructured{}
	have.SetGroupVersionKind(vmiVersion)
	if err := b.Get(b.Context(), client.ObjectKey{Namespace: "default", Name: name}, have); err == nil {
		u.SetResourceVersion(have.GetResourceVersion())
		if err := b.Update(b.Context(), u); err != nil {
			b.Fatal(err)
		}
		return
	}
	if err := b.Create(b.Context(), u); err != nil {
		b.Fatal(err)
	}
}

func TestPorts(t *testing.T) {
	b := newBench(t)
	p := b.vmPort("legacy")
	name := portName(&p)
	var o v1alpha1.VMPort
	is := func(want string) func(*v1alpha1.VMPort, bool) bool {
		return func(o *v1alpha1.VMPort, found bool) bool { return found && readyOf(o.Status.Conditions) == want }
	}
	// Every port begins closed, which nobody is to be warned of.
	p.State = attach.Dark
	b.node.set(func() { b.node.ports = []wire.Port{p} })
	until(b, &o, "default", name, is("False PortClosed"))
	if slices.Contains(warnings(b), v1alpha1.ReasonPortClosed) {
		t.Error("somebody is warned of a port that begins")
	}
	p.State = attach.Active
	b.node.set(func() { b.node.ports = []wire.Port{p} })
	// The pod says that it is a VM's; nobody who may say so does.
	got := until(b, &o, "default", name, is("False VMUnconfirmed"))
	if got.Spec.VM != nil || got.Spec.VLANs != "100" || got.Spec.MAC != "00:50:56:00:00:01" || got.Spec.Node != "n1" || got.Spec.Trunk != "t" ||
		got.Status.State != "Active" || got.OwnerReferences[0].UID != types.UID(p.Pod.UID) || got.Status.Counters.PassedPackets != 11 {
		t.Errorf("reported %+v", got)
	}
	b.vmi("legacy", map[string]any{"another-pod": "n1"}, "n1")
	time.Sleep(1500 * time.Millisecond) // it is asked again after a second
	if err := b.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &o); err != nil || o.Spec.VM != nil {
		t.Errorf("a VM that does not name the pod is believed: %v, %+v", err, o.Spec.VM)
	}
	b.vmi("legacy", map[string]any{p.Pod.UID: "n1"}, "n1")
	got = until(b, &o, "default", name, is("True PortActive"))
	if got.Spec.VM == nil || got.Spec.VM.Name != "legacy" || got.Spec.VM.UID != "vm-uid" {
		t.Errorf("VM %+v", got.Spec.VM)
	}
	vm := v1alpha1.VMReference{Name: "legacy", UID: "vm-uid"}
	var id v1alpha1.VMIdentity
	identity := until(b, &id, "default", identityName(&vm, "lan"), func(o *v1alpha1.VMIdentity, found bool) bool { return found && len(o.Status.Addresses) == 2 })
	if identity.Status.Node != "n1" || identity.Status.MAC != "00:50:56:00:00:01" || identity.Status.Addresses[0].Address != "10.1.0.5" ||
		identity.Status.Addresses[0].Provenance != "GuestAgent" || identity.Spec.VM == nil || *identity.Spec.VM != vm || !maps.Equal(identity.Labels, map[string]string{"app": "ledger"}) ||
		len(identity.OwnerReferences) != 1 || identity.OwnerReferences[0].Kind != vmKind || identity.OwnerReferences[0].UID != vm.UID {
		t.Errorf("identity %+v", identity)
	}

	// It comes from another node, and has other labels since. An agent of a version
	// that knew no owner made it.
	moved := id.DeepCopy()
	moved.SetLabels(map[string]string{"app": "old"})
	moved.OwnerReferences = nil
	if err := b.Update(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	moved.Status.Node = "n2"
	if err := b.Client.Status().Update(t.Context(), moved); err != nil {
		t.Fatal(err)
	}

	// A label that changes, as the VM's owner may, is noticed by the watch.
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(vmiVersion)
	if err := b.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "legacy"}, u); err != nil {
		t.Fatal(err)
	}
	u.SetLabels(map[string]string{"app": "books", "kubevirt.io/nodeName": "n1"})
	if err := b.Update(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	until(b, &id, "default", id.Name, func(o *v1alpha1.VMIdentity, found bool) bool {
		return found && o.Labels["app"] == "books" && o.Status.Node == "n1" && len(o.OwnerReferences) == 1
	})

	// A migration's ports: neither is a trouble that anybody is to be warned of.
	since := time.Date(2026, 9, 1, 12, 5, 0, 0, time.UTC)
	b.node.set(func() {
		b.node.ports[0].State = attach.Quarantined
		b.node.ports[0].Hold = &attach.Hold{State: attach.Quarantined, Since: since, Reason: attach.HoldTarget, Message: "it is to come"}
	})
	got = until(b, &o, "default", name, is("False PortQuarantined"))
	if m := meta.FindStatusCondition(got.Status.Conditions, "Ready").Message; m != "the port waits for its VM since 2026-09-01T12:05:00Z: it is to come" || got.Status.State != "Quarantined" {
		t.Errorf("quarantined: %q, %+v", m, got.Status)
	}
	b.node.set(func() {
		b.node.ports[0].State = attach.Released
		b.node.ports[0].Hold = &attach.Hold{State: attach.Released, Since: since, Reason: attach.HoldMoved, Message: "it went"}
	})
	got = until(b, &o, "default", name, is("False PortReleased"))
	if m := meta.FindStatusCondition(got.Status.Conditions, "Ready").Message; m != "the port lets nothing pass since 2026-09-01T12:05:00Z: it went" || got.Status.State != "Released" {
		t.Errorf("released: %q, %+v", m, got.Status)
	}
	b.node.set(func() { b.node.ports[0].State, b.node.ports[0].Hold = attach.Active, nil })
	until(b, &o, "default", name, is("True PortActive"))
	for _, reason := range []string{v1alpha1.ReasonPortQuarantined, v1alpha1.ReasonPortReleased} {
		if slices.Contains(warnings(b), reason) {
			t.Errorf("somebody is warned of %s, which is every migration's", reason)
		}
	}

	// A VM that names no MAC.
	pinned := func(want string) func(*v1alpha1.VMPort, bool) bool {
		return func(o *v1alpha1.VMPort, found bool) bool {
			c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionMACPinned)
			return found && c != nil && string(c.Status)+" "+c.Reason == want
		}
	}
	until(b, &o, "default", name, pinned("True MACSet"))
	b.vmiWith("legacy", map[string]any{p.Pod.UID: "n1"}, "n1", "")
	got = until(b, &o, "default", name, pinned("False MACNotSet"))
	if m := meta.FindStatusCondition(got.Status.Conditions, v1alpha1.ConditionMACPinned).Message; !strings.Contains(m, "got 00:50:56:00:00:01 at random") {
		t.Errorf("message %q", m)
	}
	events(t, b, v1alpha1.ReasonMACNotSet)
	b.vmi("legacy", map[string]any{p.Pod.UID: "n1"}, "n1")
	until(b, &o, "default", name, pinned("True MACSet"))

	// Counters wait; a state does not.
	time.Sleep(200 * time.Millisecond) // the last writing
	b.node.set(func() { b.node.ports[0].Passed[0] = 1000 })
	time.Sleep(300 * time.Millisecond)
	if err := b.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &o); err != nil || o.Status.Counters.PassedPackets != 11 {
		t.Errorf("counters were written too early: %v, %+v", err, o.Status.Counters)
	}
	b.node.set(func() {
		b.node.ports[0].State = attach.Dark
		b.node.drops = []wire.Drop{{Key: p.Key, Direction: "In", Reason: "RuleDrop", Packets: 2}, {Key: p.Key, Direction: "Out", Reason: "RuleDrop", Packets: 3}}
	})
	got = until(b, &o, "default", name, is("False PortClosed"))
	events(t, b, v1alpha1.ReasonPortClosed)
	if got.Status.State != "Dark" || got.Status.Counters.PassedPackets != 1006 || got.Status.Counters.Dropped["RuleDrop"] != 5 {
		t.Errorf("status %+v", got.Status)
	}

	b.node.set(func() { b.node.ports = nil })
	until(b, &o, "default", name, func(_ *v1alpha1.VMPort, found bool) bool { return !found })
	if err := b.Get(t.Context(), client.ObjectKeyFromObject(&id), &id); err != nil {
		t.Errorf("the VM's identity went with its port: %v", err)
	}
}

// TestOwnerWithoutVM: the identity of a VirtualMachineInstance that no VirtualMachine
// made goes with that, and gets its owner also where it has its labels.
func TestOwnerWithoutVM(t *testing.T) {
	b := newBench(t)
	p := b.vmPort("alone")
	b.vmi("alone", map[string]any{p.Pod.UID: "n1"}, "n1")
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(vmiVersion)
	if err := b.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "alone"}, u); err != nil {
		t.Fatal(err)
	}
	u.SetOwnerReferences(nil)
	if err := b.Update(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	vm := v1alpha1.VMReference{Name: "alone", UID: u.GetUID()}
	old := &v1alpha1.VMIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: identityName(&vm, "lan"), Labels: map[string]string{"app": "ledger"}},
		Spec: v1alpha1.VMIdentitySpec{VM: &vm, Network: "lan"}}
	if err := b.Create(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	b.node.set(func() { b.node.ports = []wire.Port{p} })
	want := []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "alone", UID: u.GetUID()}}
	until(b, &v1alpha1.VMIdentity{}, "default", old.Name, func(o *v1alpha1.VMIdentity, found bool) bool {
		return found && len(o.Status.Addresses) == 2 && slices.Equal(o.OwnerReferences, want)
	})
}

// TestNodeDown: where the controller took the node for down, an agent that has news
// has the last word on its ports.
func TestNodeDown(t *testing.T) {
	b := newBench(t)
	p := b.vmPort("cut")
	p.BootID = "b1"
	b.vmi("cut", map[string]any{p.Pod.UID: "n1"}, "n1")
	b.node.set(func() { b.node.ports = []wire.Port{p} })
	is := func(want string) func(*v1alpha1.VMPort, bool) bool {
		return func(o *v1alpha1.VMPort, found bool) bool {
			return found && readyOf(o.Status.Conditions) == want && o.Status.BootID == "b1" && o.Status.BeforeNodeDown == nil
		}
	}
	var o v1alpha1.VMPort
	until(b, &o, "default", portName(&p), is("True PortActive"))
	c := &o.Status.Conditions[0]
	o.Status.BeforeNodeDown = c.DeepCopy()
	c.Status, c.Reason = metav1.ConditionUnknown, v1alpha1.ReasonNodeDown
	if err := b.Client.Status().Update(t.Context(), &o); err != nil {
		t.Fatal(err)
	}
	b.node.set(func() { b.node.ports[0].State = attach.Dark })
	until(b, &o, "default", portName(&p), is("False PortClosed"))
	b.node.set(func() { b.node.ports[0].State = attach.Active })
	until(b, &o, "default", portName(&p), is("True PortActive"))
}

// TestServerAway: what happens while the API server is away is written when it is
// back, once; also by a reporter that was started meanwhile, and after somebody
// deleted an object.
func TestServerAway(t *testing.T) {
	b := newBench(t)
	p, q := b.vmPort("a"), b.vmPort("b")
	var o v1alpha1.VMPort
	found := func(_ *v1alpha1.VMPort, found bool) bool { return found }
	b.node.set(func() { b.node.ports = []wire.Port{p} })
	until(b, &o, "default", portName(&p), found)
	b.Stop()
	b.node.set(func() { b.node.ports = []wire.Port{q} })
	time.Sleep(300 * time.Millisecond)
	b.stop()
	b.start()
	b.Restart()
	until(b, &o, "default", portName(&q), found)
	until(b, &o, "default", portName(&p), func(_ *v1alpha1.VMPort, found bool) bool { return !found })
	var all v1alpha1.VMPortList
	if err := b.List(t.Context(), &all); err != nil || len(all.Items) != 1 {
		t.Errorf("%d ports, %v", len(all.Items), err)
	}
	if err := b.Delete(t.Context(), &all.Items[0]); err != nil {
		t.Fatal(err)
	}
	b.node.set(func() { b.node.ports[0].State = attach.Dark }) // its write finds nothing, and looks again
	got := until(b, &o, "default", portName(&q), func(o *v1alpha1.VMPort, found bool) bool { return found && o.Status.State == "Dark" })
	if got.UID == all.Items[0].UID {
		t.Error("it was not made anew")
	}
}

// TestNames: names fit whatever pods and VMs are called.
func TestNames(t *testing.T) {
	long := strings.Repeat("x.", 126) + "y"
	p := wire.Port{Record: attach.Record{Request: attach.Request{Pod: attach.Pod{Name: long}}}}
	q := p
	q.ContainerID = "other"
	if a, b := portName(&p), portName(&q); len(a) > 253 || a == b || strings.Contains(a, "..") {
		t.Errorf("%s, %s", a, b)
	}
	vm := v1alpha1.VMReference{Name: long}
	if a, b := identityName(&vm, "lan"), identityName(&vm, "wan"); len(a) > 253 || a == b || strings.Contains(a, "..") {
		t.Errorf("%s, %s", a, b)
	}
}
