package desired

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What KubeVirt calls its pods and objects
// (staging/src/kubevirt.io/api/core/v1/types.go). A VirtualMachineInstance has the
// name of its node as a label, and while it migrates that of the one it goes to.
const (
	launcherLabel = "kubevirt.io"
	launcherValue = "virt-launcher"
	vmNameLabel   = "vm.kubevirt.io/name"
	onNodeLabel   = "kubevirt.io/nodeName"
	toNodeLabel   = "kubevirt.io/migrationTargetNodeName"
)

var vmiKind = schema.GroupVersionKind{Group: "kubevirt.io", Version: "v1", Kind: "VirtualMachineInstance"}

// podMeta is the part of a Pod that is read.
func podMeta() *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
}

// slimPod drops what nobody here reads.
func slimPod(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
		kept := map[string]string{}
		for _, name := range append(DeclarationAnnotations(), readyAnnotation, sumAnnotation) {
			if text, ok := o.GetAnnotations()[name]; ok {
				kept[name] = text
			}
		}
		if status, ok := o.GetAnnotations()[NetworkStatusAnnotation]; ok {
			sum := sha256.Sum256([]byte(status))
			kept[sumAnnotation] = hex.EncodeToString(sum[:16])
		}
		o.SetAnnotations(kept)
	}
	return obj, nil
}

// sumAnnotation stands, in memory, for what Multus says of the pod, of which only that it has changed is told.
const sumAnnotation = "homeport.dev/sum-of-network-status"

// trimVM keeps of a VirtualMachineInstance which pods are its own, where it runs and
// goes, and which addresses it has.
func trimVM(obj any) (any, error) {
	out, err := trimTo(vmiKind, "", []string{"status", "activePods"}, []string{"status", "migrationState"})(obj)
	u, ok := obj.(*unstructured.Unstructured)
	to, okTo := out.(*unstructured.Unstructured)
	if !ok || !okTo {
		return out, err
	}
	interfaces, _, _ := unstructured.NestedSlice(u.Object, "status", "interfaces")
	var kept []any
	for _, i := range interfaces {
		nic, ok := i.(map[string]any)
		if !ok {
			continue
		}
		slim := map[string]any{}
		for _, field := range []string{"name", "podInterfaceName", "mac", "ipAddresses"} {
			if v, ok := nic[field]; ok {
				slim[field] = v
			}
		}
		kept = append(kept, slim)
	}
	if len(kept) > 0 {
		_ = unstructured.SetNestedSlice(to.Object, kept, "status", "interfaces")
	}
	return to, err
}

// TellOfPods has a function called for each pod of this node that is new, or has
// other labels, owners or annotations about addresses than before. It is to be called before Watch.
func (k *Kube) TellOfPods(f func(namespace, name string)) { k.onPod = f }

func (k *Kube) podChanged(pod any) {
	signal(k.changed)
	k.asker.again()
	signal(k.moved)
	k.tellOfPod(pod)
}

func (k *Kube) tellOfPod(pod any) {
	if o, ok := pod.(metav1.Object); ok && k.onPod != nil {
		k.onPod(o.GetNamespace(), o.GetName())
	}
}

// podHandler tells of pods that are not as they were; and apart of those that only say otherwise of their addresses.
type podHandler struct{ changed, readdressed func(pod any) }

func (h podHandler) OnAdd(pod any, _ bool) { h.changed(pod) }
func (h podHandler) OnDelete(pod any)      { h.changed(pod) }
func (h podHandler) OnUpdate(before, after any) {
	b, okB := before.(metav1.Object)
	a, okA := after.(metav1.Object)
	switch {
	case !okA || !okB || !maps.Equal(b.GetLabels(), a.GetLabels()) || b.GetUID() != a.GetUID() || isReady(a) != isReady(b) || !reflect.DeepEqual(b.GetOwnerReferences(), a.GetOwnerReferences()):
		h.changed(after)
	case !maps.Equal(b.GetAnnotations(), a.GetAnnotations()):
		h.readdressed(after)
	}
}

// isReady says that a migration's target has its VM.
func isReady(pod metav1.Object) bool {
	_, ready := pod.GetAnnotations()[readyAnnotation]
	return ready
}

// vmLabels gives, by the UIDs of the pods of this node that VirtualMachineInstances
// name as theirs, the labels of those that people and policies know them by. Whoever
// makes VMs writes these, but not the namespace and the name, which are added as namespaces and
// launcher pods have them.
func vmLabels(vmis []unstructured.Unstructured, node string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for i := range vmis {
		own := OwnLabels(vmis[i].GetLabels())
		own[corev1.LabelMetadataName], own[vmNameLabel] = vmis[i].GetNamespace(), vmis[i].GetName()
		active, _, _ := unstructured.NestedStringMap(vmis[i].Object, "status", "activePods")
		for uid, on := range active {
			if on == node {
				out[uid] = own
			}
		}
	}
	return out
}

// OwnLabels are the labels of a VM by which people and policies know it: all but KubeVirt's.
func OwnLabels(all map[string]string) map[string]string {
	own := map[string]string{}
	for k, v := range all {
		if domain, _, ok := strings.Cut(k, "/"); !ok || domain != "kubevirt.io" && !strings.HasSuffix(domain, ".kubevirt.io") {
			own[k] = v
		}
	}
	return own
}

// ownedPods says of each pod whose it is. Labels and owners of a pod can be written
// by whoever makes pods: they never make it a VM's, but that they say so keeps it
// from being nobody's. A pod that was a VM's stays so: between the nodes of a
// migration its VirtualMachineInstance may be out of sight.
func ownedPods(pods, namespaces []metav1.PartialObjectMetadata, vms map[string]map[string]string, last map[string]Pod) map[string]Pod {
	out := map[string]Pod{}
	for i := range pods {
		p := &pods[i]
		id := PodKey(p.Namespace, p.Name)
		pod := Pod{UID: string(p.UID), Labels: p.Labels, Owner: OwnerNone, Namespace: namespaceLabels(namespaces, p.Namespace)}
		before := last[id]
		owner := metav1.GetControllerOf(p)
		vm, confirmed := vms[pod.UID]
		switch {
		case confirmed:
			pod.Owner, pod.VM = OwnerVM, vm
		case before.UID == pod.UID && before.Owner == OwnerVM:
			pod.Owner, pod.VM = OwnerVM, before.VM
		case p.Labels[launcherLabel] == launcherValue || owner != nil && owner.Kind == vmiKind.Kind:
			pod.Owner = OwnerUnknown
		}
		out[id] = pod
	}
	return out
}

// localPods lists the pods of this node; what the watches have of them and of VMs was
// read before.
func (k *Kube) localPods() map[string]Pod {
	var pods metav1.PartialObjectMetadataList
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	_ = k.cache.List(context.Background(), &pods, 0) // from memory: cannot fail once the watches are there
	namespaces, _ := k.namespaces()
	var vmis []unstructured.Unstructured
	for _, o := range []*optional{k.vmsHere, k.vmsComing} {
		items, _ := o.list() // without it: what was known before, or nothing
		vmis = append(vmis, items...)
	}
	var last map[string]Pod
	if k.last != nil {
		last = k.last.Pods
	}
	return ownedPods(pods.Items, namespaces, vmLabels(vmis, k.node), last)
}
