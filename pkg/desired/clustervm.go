package desired

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/kube/read"
)

// thisNode is the made-up node that a VM is asked about on, and thisPod the UID of the pod that it would run in there.
const (
	thisNode = "this-node"
	thisPod  = "this-pod"
)

// Port gives what a node with the network's trunk would have in force, were the VM there with a NIC on the network, and the pod that it
// would run in. Its Problems are what is wrong; notices are of what is in force, but matches less than its author may think.
func (c *Cluster) Port(network, namespace, vm string) (s *Snapshot, pod PodRef, notices []Problem, err error) {
	made, err := c.around(network, namespace, vm)
	if err != nil {
		return nil, pod, nil, err
	}
	api := memory{objects: made}
	k, err := NewKube(api, thisNode, "")
	if err != nil {
		return nil, pod, nil, err
	}
	for _, o := range k.others() {
		o.asked, o.synced = true, there{}.HasSynced
		if o.cache, err = api.Cache(read.CacheOptions{Watches: []read.Watch{{Of: unstructuredOf(o.kind), Labels: o.selector, Transform: o.trim}}}); err != nil {
			return nil, pod, nil, err
		}
	}
	if s = k.snapshot(); s == nil {
		return nil, pod, nil, k.Problem()
	}
	named := func(all []Problem) []Problem {
		for i := range all {
			all[i].File = c.files[all[i].Kind+" "+all[i].Name]
		}
		return all
	}
	s.Problems, notices = named(s.Problems[:len(s.Problems)-len(k.notices)]), named(slices.Clone(k.notices))
	if n, ok := s.Networks[network]; ok && n.Namespaces != nil && !slices.Contains(n.Namespaces, namespace) {
		return nil, pod, nil, fmt.Errorf("VLANNetwork %s is not for pods of namespace %q: give the namespace a label that its spec.namespaces selects", network, namespace)
	}
	return s, PodRef{Namespace: namespace, Name: podOf(vm), UID: thisPod}, notices, nil
}

func podOf(vm string) string { return launcherValue + "-" + vm }

// around are the objects as a node sees them that runs the VM: with itself, the VM's pod, and what KubeVirt, Homeport's controller
// and the API server add to what people write.
func (c *Cluster) around(network, namespace, vm string) ([]*unstructured.Unstructured, error) {
	out := slices.Clone(c.objects)
	add := func(kind schema.GroupVersionKind, namespace, name string, labels map[string]string) *unstructured.Unstructured {
		u := unstructuredOf(kind)
		u.SetNamespace(namespace)
		u.SetName(name)
		u.SetLabels(labels)
		out = append(out, u)
		return u
	}
	trunk := c.text(v1alpha1.KindVLANNetwork, network, "spec", "trunk")
	var selector map[string]string
	if t := c.find(v1alpha1.KindVLANTrunk, "", trunk); t != nil {
		selector, _, _ = unstructured.NestedStringMap(t.Object, "spec", "nodeSelector")
	}
	add(nodeKind, "", thisNode, selector)

	vms := c.vms()
	own, ok := vms[namespace+"/"+vm]
	if !ok {
		want := "there is none"
		if len(vms) > 0 {
			want = "want one of " + strings.Join(slices.Sorted(maps.Keys(vms)), ", ")
		}
		return nil, fmt.Errorf("no VirtualMachine, VirtualMachineInstance or VMIdentity of %s/%s: %s", namespace, vm, want)
	}
	pod := add(podKind, namespace, podOf(vm), with(with(own, launcherLabel, launcherValue), vmNameLabel, vm))
	pod.SetUID(thisPod)
	out = slices.DeleteFunc(out, func(o *unstructured.Unstructured) bool { return o.GroupVersionKind() == vmiKind })
	vmi := add(vmiKind, namespace, vm, with(own, onNodeLabel, thisNode))
	_ = unstructured.SetNestedStringMap(vmi.Object, map[string]string{thisPod: thisNode}, "status", "activePods")

	for i, o := range out {
		if o.GroupVersionKind() == identityKind {
			out[i] = withVM(o, vms)
		}
	}
	for _, o := range c.objects {
		runs := o.GroupVersionKind() == vmiKind
		if runs || o.GroupVersionKind() == vmKind && c.find(vmiKind.Kind, o.GetNamespace(), o.GetName()) == nil {
			for network, addresses := range c.declared(o) {
				at := o.GetNamespace() + "/" + o.GetName()
				if slices.ContainsFunc(c.objects, func(o *unstructured.Unstructured) bool { return isIdentity(o, at, network) }) {
					continue // it knows better
				}
				u := add(identityKind, o.GetNamespace(), o.GetName()+"."+network, vms[at])
				_ = unstructured.SetNestedField(u.Object, network, "spec", "network")
				_ = unstructured.SetNestedField(u.Object, o.GetName(), "spec", "vm", "name")
				setHeld(u, addresses)
			}
		}
	}
	seen := map[string]*unstructured.Unstructured{}
	for i, o := range out {
		if o.GroupVersionKind() == namespaceOf {
			out[i] = o.DeepCopy()
			seen[o.GetName()] = out[i]
		}
	}
	for _, o := range slices.Clone(out) {
		if ns := o.GetNamespace(); ns != "" && seen[ns] == nil {
			seen[ns] = add(namespaceOf, "", ns, nil)
		}
	}
	for name, ns := range seen {
		ns.SetLabels(with(ns.GetLabels(), corev1.LabelMetadataName, name)) // as the API server does
	}
	return out, nil
}

// with are the labels and one more.
func with(all map[string]string, key, value string) map[string]string {
	return labels.Merge(all, labels.Set{key: value})
}

// find gives an object of ours or KubeVirt's; nil is none.
func (c *Cluster) find(kind, namespace, name string) *unstructured.Unstructured {
	for _, o := range c.objects {
		if o.GetKind() == kind && o.GetNamespace() == namespace && o.GetName() == name {
			return o
		}
	}
	return nil
}

// text is a field of one of our objects; "" if there is none.
func (c *Cluster) text(kind, name string, path ...string) string {
	if o := c.find(kind, "", name); o != nil {
		s, _, _ := unstructured.NestedString(o.Object, path...)
		return s
	}
	return ""
}

// vms are the labels of all VMs, by namespace/name: those of the running one, else those that it would start with, else those that it
// is remembered with.
func (c *Cluster) vms() map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, kind := range []schema.GroupVersionKind{vmiKind, vmKind, identityKind} {
		for _, o := range c.objects {
			if o.GroupVersionKind() != kind {
				continue
			}
			name, labels := o.GetName(), o.GetLabels()
			switch kind {
			case vmKind:
				labels, _, _ = unstructured.NestedStringMap(o.Object, "spec", "template", "metadata", "labels")
			case identityKind:
				if name, _, _ = unstructured.NestedString(o.Object, "spec", "vm", "name"); name == "" {
					continue // of a pod
				}
			}
			if at := o.GetNamespace() + "/" + name; out[at] == nil {
				out[at] = OwnLabels(labels)
			}
		}
	}
	return out
}

// withVM is a VMIdentity as the controller keeps it: with its VM's labels, and holding what a person has set.
func withVM(o *unstructured.Unstructured, vms map[string]map[string]string) *unstructured.Unstructured {
	o = o.DeepCopy()
	vm, _, _ := unstructured.NestedString(o.Object, "spec", "vm", "name")
	if labels, ok := vms[o.GetNamespace()+"/"+vm]; ok {
		o.SetLabels(labels)
	}
	if _, told, _ := unstructured.NestedSlice(o.Object, "status", "addresses"); !told {
		set, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "addresses")
		setHeld(o, set)
	}
	return o
}

// setHeld has a VMIdentity hold addresses.
func setHeld(o *unstructured.Unstructured, addresses []string) {
	var held []any
	for _, a := range addresses {
		held = append(held, map[string]any{"address": a})
	}
	_ = unstructured.SetNestedSlice(o.Object, held, "status", "addresses")
}

func isIdentity(o *unstructured.Unstructured, vm, network string) bool {
	if o.GroupVersionKind() != identityKind {
		return false
	}
	name, _, _ := unstructured.NestedString(o.Object, "spec", "vm", "name")
	on, _, _ := unstructured.NestedString(o.Object, "spec", "network")
	return o.GetNamespace()+"/"+name == vm && on == network
}

// declared are the addresses that a VM declares for its NICs, by VLANNetwork. A NIC that declares none has its network all the same.
func (c *Cluster) declared(vm *unstructured.Unstructured) map[string][]string {
	metadata, spec := []string{"metadata", "annotations"}, []string{"spec", "networks"}
	if vm.GroupVersionKind() == vmKind {
		metadata, spec = append([]string{"spec", "template"}, metadata...), append([]string{"spec", "template"}, spec...)
	}
	annotations, _, _ := unstructured.NestedStringMap(vm.Object, metadata...)
	nics, _, _ := unstructured.NestedSlice(vm.Object, spec...)
	out := map[string][]string{}
	for _, n := range nics {
		nic, _ := n.(map[string]any)
		name, _, _ := unstructured.NestedString(nic, "name")
		nad, _, _ := unstructured.NestedString(nic, "multus", "networkName")
		if nad == "" {
			continue
		}
		network := c.networkOf(vm.GetNamespace(), nad)
		if c.find(v1alpha1.KindVLANNetwork, "", network) == nil {
			continue
		}
		found, _ := Declarations(annotations, PodNIC{Namespace: vm.GetNamespace(), Interface: interfaceOf(name), VMNetwork: name})
		out[network] = append(out[network], []string{}...)
		for _, d := range found {
			out[network] = append(out[network], d.Addr.String())
		}
	}
	return out
}

// networkOf is the VLANNetwork of a NetworkAttachmentDefinition: as its config says, or where the controller makes it, by its name.
func (c *Cluster) networkOf(namespace, nad string) string {
	if ns, name, ok := strings.Cut(nad, "/"); ok {
		namespace, nad = ns, name
	}
	if o := c.find(attachmentKind.Kind, cmp.Or(namespace, metav1.NamespaceDefault), nad); o != nil {
		config, _, _ := unstructured.NestedString(o.Object, "spec", "config")
		return readAttachment(config).name
	}
	return nad
}
