package kube

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// podPort is a port of a pod in the API server, with the addresses that a plugin
// before ours gave it.
func (b *bench) podPort(name string, change func(*corev1.Pod), addresses ...string) wire.Port {
	b.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "none"}}}}
	if change != nil {
		change(pod)
	}
	if err := b.Create(b.Context(), pod); err != nil {
		b.Fatal(err)
	}
	p := wire.Port{State: attach.Active, Record: attach.Record{
		Request: attach.Request{Key: attach.Key{ContainerID: "c-" + name, IfName: "net1"}, MAC: attach.MAC{0, 0x50, 0x56, 0, 0, 2}, Adopted: true,
			Network: "lan", HostIfName: "veth2", Pod: attach.Pod{Namespace: "default", Name: name, UID: string(pod.UID)}},
		Trunk: "t", Bridge: "br0", Policy: "lan", EffectiveMTU: 1500, VLANs: attach.VLANs{Mode: vlan.Access, PVID: 100}}}
	for _, a := range addresses {
		p.Addresses = append(p.Addresses, netip.MustParseAddr(a))
	}
	return p
}

// relabel gives a pod labels, and tells of it as the node's watch of pods does.
func (b *bench) relabel(name string, labels map[string]string) {
	b.Helper()
	var pod corev1.Pod
	if err := b.Get(b.Context(), client.ObjectKey{Namespace: "default", Name: name}, &pod); err != nil {
		b.Fatal(err)
	}
	pod.Labels = labels
	if err := b.Update(b.Context(), &pod); err != nil {
		b.Fatal(err)
	}
	b.reporter.PodChanged("default", name)
}

func foundID(_ *v1alpha1.VMIdentity, found bool) bool { return found }
func noID(_ *v1alpha1.VMIdentity, found bool) bool    { return !found }

// addressed says that an identity was written whole: status comes after the rest.
func addressed(o *v1alpha1.VMIdentity, found bool) bool { return found && len(o.Status.Addresses) > 0 }

// identities wants VMIdentities of these pods and of nobody else.
func (b *bench) identities(want ...string) {
	b.Helper()
	var all v1alpha1.VMIdentityList
	if err := b.List(b.Context(), &all); err != nil {
		b.Fatal(err)
	}
	have := map[string]bool{}
	for _, o := range all.Items {
		if o.Spec.Pod == nil {
			b.Errorf("there is %s of VM %+v", o.Name, o.Spec.VM)
			continue
		}
		have[o.Spec.Pod.Name] = true
	}
	wanted := map[string]bool{}
	for _, w := range want {
		wanted[w] = true
	}
	if !maps.Equal(have, wanted) {
		b.Errorf("identities of pods %v, want %v", have, wanted)
	}
}

// TestPodIdentity: a pod without a VM has an identity as long as its port, with its
// own labels as they are now.
func TestPodIdentity(t *testing.T) {
	b := newBench(t)
	web := b.podPort("web", nil, "10.1.0.7", "fd00::7", "10.1.0.7")
	id := podIdentityName(&web)
	web.State = attach.Dark // not yet
	b.node.set(func() { b.node.ports = []wire.Port{web} })
	var port v1alpha1.VMPort
	until(b, &port, "default", portName(&web), func(_ *v1alpha1.VMPort, found bool) bool { return found })
	b.identities()
	web.State = attach.Active
	b.node.set(func() { b.node.ports = []wire.Port{web} })
	var o v1alpha1.VMIdentity
	got := until(b, &o, "default", id, addressed)
	want := v1alpha1.VMIdentitySpec{Pod: &v1alpha1.PodReference{Name: "web", UID: types.UID(web.Pod.UID), Node: "n1"}, Network: "lan"}
	if *got.Spec.Pod != *want.Pod || got.Spec.Network != want.Network || got.Spec.VM != nil || !maps.Equal(got.Labels, map[string]string{"app": "web"}) ||
		len(got.OwnerReferences) != 1 || got.OwnerReferences[0].Kind != "Pod" || got.OwnerReferences[0].UID != want.Pod.UID ||
		got.Status.Node != "n1" || got.Status.MAC != "00:50:56:00:00:02" || len(got.Status.Addresses) != 2 ||
		got.Status.Addresses[0].Address != "10.1.0.7" || got.Status.Addresses[1].Address != "fd00::7" ||
		got.Status.Addresses[0].Provenance != v1alpha1.ProvenanceDeclared {
		t.Errorf("identity %+v", got)
	}

	// A change of labels is followed, one of nothing is not written, and a port that is
	// closed for a while keeps what it has.
	b.relabel("web", map[string]string{"app": "shop", "tier": "front"})
	until(b, &o, "default", id, func(o *v1alpha1.VMIdentity, found bool) bool { return found && o.Labels["app"] == "shop" })
	if !addressed(&o, true) {
		t.Errorf("the labels took the addresses: %+v", o.Status)
	}
	before := o.ResourceVersion
	b.reporter.PodChanged("default", "web")
	b.node.set(func() { b.node.ports[0].State = attach.Dark })
	until(b, &port, "default", portName(&web), func(o *v1alpha1.VMPort, _ bool) bool { return o.Status.State == "Dark" })
	// An agent that starts anew finds it, and writes it no more than before.
	b.stop()
	other := b.podPort("other", nil, "10.1.0.8")
	b.node.set(func() { b.node.ports = []wire.Port{web, other} })
	b.start()
	until(b, &v1alpha1.VMIdentity{}, "default", podIdentityName(&other), addressed)
	if until(b, &o, "default", id, foundID); o.ResourceVersion != before {
		t.Errorf("written without news: version %s after %s", o.ResourceVersion, before)
	}

	// An inline port has come to another network: it is another identity.
	moved := web
	moved.Policy = "wan"
	b.node.set(func() { b.node.ports = []wire.Port{moved, other} })
	until(b, &v1alpha1.VMIdentity{}, "default", podIdentityName(&moved), addressed)
	until(b, &o, "default", id, noID)
	b.node.set(func() { b.node.ports = []wire.Port{other} })
	until(b, &o, "default", podIdentityName(&moved), noID)
	b.identities("other")

	// A port that ended while no agent looked goes too.
	b.stop()
	b.node.set(func() { b.node.ports = nil })
	b.start()
	until(b, &o, "default", podIdentityName(&other), noID)
}

// TestNoPodIdentity: who gets none. Each has an address; a pod that has all it wants
// comes last, and so tells that the others were looked at.
func TestNoPodIdentity(t *testing.T) {
	b := newBench(t)
	launcher := func(p *corev1.Pod) { p.Labels["kubevirt.io"] = "virt-launcher" }
	owned := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "vm", UID: "vmi-uid", Controller: new(true)}}
	}
	says := b.podPort("says", launcher, "10.1.0.1")
	has := b.podPort("has", owned, "10.1.0.2")
	none := b.podPort("none", nil)
	unnamed := b.podPort("unnamed", nil, "10.1.0.3")
	unnamed.Pod.UID = ""
	replaced := b.podPort("replaced", nil, "10.1.0.4")
	replaced.Pod.UID = "of-the-one-before"
	nowhere := b.podPort("nowhere", nil, "10.1.0.5")
	nowhere.Policy = ""
	gone := b.podPort("gone", nil, "10.1.0.6")
	gone.Pod.Name = "never-was"
	last := b.podPort("last", nil, "10.1.0.9")
	b.node.set(func() {
		b.node.ports = []wire.Port{says, has, none, unnamed, replaced, nowhere, gone, last}
	})
	var o v1alpha1.VMIdentity
	until(b, &o, "default", podIdentityName(&last), addressed)
	b.identities("last")

	// One that begins to say that it is a VM's is a pod without one no more, and does
	// not become one again.
	b.relabel("last", map[string]string{"kubevirt.io": "virt-launcher"})
	until(b, &o, "default", podIdentityName(&last), noID)
	b.relabel("last", map[string]string{"app": "last"})
	next := b.podPort("next", nil, "10.1.0.10")
	b.node.set(func() { b.node.ports = append(b.node.ports, next) })
	until(b, &o, "default", podIdentityName(&next), addressed)
	b.identities("next")

	// A VM that names a pod as its own is believed, whatever the pod says.
	b.vmi("vm", map[string]any{next.Pod.UID: "n1"}, "n1")
	until(b, &o, "default", podIdentityName(&next), noID)
	b.identities()
}

// TestVMWatchNames: what VirtualMachineInstances name as theirs, as long as they are
// there.
func TestVMWatchNames(t *testing.T) {
	w := newVMWatch(nil, "n1", nil)
	vmi := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"namespace": "default", "name": "vm"},
		"status": map[string]any{"activePods": map[string]any{"u1": "n1"}}}}
	w.mark(vmi)
	if !w.names("u1") || w.names("u2") || w.names("") {
		t.Error("not what was said")
	}
	w.gone(vmi)
	if w.names("u1") {
		t.Error("a VM that is gone names a pod")
	}
	if told := w.news.take(); !told["default/vm"] || len(w.news.take()) != 0 {
		t.Errorf("told %v", told)
	}
	select {
	case <-w.news.told:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told")
	}
}
