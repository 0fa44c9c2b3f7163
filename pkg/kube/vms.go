package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// Labels and kinds of KubeVirt (staging/src/kubevirt.io/api/core/v1/types.go).
const (
	launcherLabel = "kubevirt.io" // = virt-launcher
	launcherValue = "virt-launcher"
	vmiKind       = "VirtualMachineInstance"
	vmKind        = "VirtualMachine"
)

var vmiVersion = schema.GroupVersionKind{Group: "kubevirt.io", Version: "v1", Kind: vmiKind}

// confirmation is what is known of the VM that a pod runs. Whoever creates pods
// writes their labels and owners; so a VM is believed only when its own
// VirtualMachineInstance names the pod in status.activePods, which KubeVirt alone
// writes.
type confirmation struct {
	uid      string // of the pod that this is about
	vmi      string // namespace/name of the VirtualMachineInstance that it names
	launcher bool   // the pod says that it runs a VM
	vm       *v1alpha1.VMReference
	owner    []metav1.OwnerReference // that VM, as the owner of what goes with it
	here     bool                    // the VM runs on this node now
	labels   map[string]string
	why      string
	// known says that Kubernetes has the pod, with podLabels.
	known     bool
	podLabels map[string]string
	// annotations of the pod that declare addresses.
	annotations map[string]string
	// claims are the IPAMClaims that they name, by interface; unclaimed: one of them is to be read again soon.
	claims    map[string]ipamClaim
	unclaimed bool
	// networkStatus is what Multus wrote of it, as the server had it last; "" is nothing yet.
	networkStatus string
	// unwritten is why it could not be written last; nil is that it could, or needed not.
	unwritten error
	// hint says that something points to a VM, or once did: such a pod is never
	// taken for one without.
	hint  bool
	nics  []nic
	next  time.Time // when to ask again
	tries int
	// identified are the ports whose VMIdentity was written since, and what it said.
	identified map[attach.Key]v1alpha1.VMIdentityStatus
}

// nic is an interface of a VM as its VirtualMachineInstance has it.
type nic struct {
	name, pod, mac string
	addresses      []netip.Addr
	guest          bool // its guest agent says so
	// inSpec says that the VM's spec has the interface, pinned that it names its MAC there.
	inSpec, pinned bool
}

// nicOf is the VM's interface behind a port; nil is not known.
func (c *confirmation) nicOf(p *wire.Port) *nic {
	for i := range c.nics {
		if n := &c.nics[i]; n.pod == p.IfName || n.pod == "" && n.mac == p.MAC.String() {
			return n
		}
	}
	return nil
}

// reference is the VM; nil if none is confirmed.
func (c *confirmation) reference() *v1alpha1.VMReference {
	if c == nil {
		return nil
	}
	return c.vm
}

// plain says that the pod is known, and that nothing points to a VM.
func (c *confirmation) plain() bool {
	return c.known && c.uid != "" && !c.hint
}

func podKey(p attach.Pod) string { return p.Namespace + "/" + p.Name }

// confirmAll asks about pods that are new, not confirmed yet, or due again, and
// says when the next is due.
func (r *Reporter) confirmAll(ctx context.Context, ports []wire.Port) (time.Duration, error) {
	var errs []error
	vms, pods := r.watch.news.take(), r.podNews.take()
	for id, c := range r.vms {
		if vms[c.vmi] || pods[id] || !c.hint && r.watch.names(c.uid) {
			c.next = time.Time{}
		}
	}
	living := map[string]bool{}
	wait := r.countersEvery
	for i := range ports {
		p := ports[i].Pod
		if p.Namespace == "" || p.Name == "" {
			continue
		}
		id := podKey(p)
		c := r.vms[id]
		if !living[id] && (c == nil || c.uid != p.UID || !time.Now().Before(c.next)) {
			fresh, err := r.confirm(ctx, p)
			errs = append(errs, err)
			if err != nil && (c == nil || c.uid != p.UID) { // whose port it is, is open until it can be asked
				fresh = &confirmation{uid: p.UID, launcher: true, why: "whether the pod is a VM's cannot be found out: " + err.Error()}
			}
			if fresh != nil { // else what is known stays
				fresh.schedule(c)
				r.vms[id], c = fresh, fresh
			}
		}
		living[id] = true
		if c != nil {
			wait = min(wait, max(0, time.Until(c.next)))
		}
	}
	for id := range r.vms {
		if !living[id] {
			delete(r.vms, id)
		}
	}
	return wait, errors.Join(errs...)
}

// schedule says when to ask again, should the watch tell of nothing: soon and then
// ever later while a launcher's VM does not confirm it, or an IPAMClaim is not as it should be, and at leisure then.
func (c *confirmation) schedule(before *confirmation) {
	const atLeisure = 30 * time.Minute
	c.hint = c.hint || before != nil && before.uid == c.uid && before.hint
	switch {
	case (!c.launcher || c.vm != nil) && !c.unclaimed:
		c.next = time.Now().Add(atLeisure)
	default:
		if before != nil && before.uid == c.uid {
			c.tries = before.tries + 1
		}
		c.next = time.Now().Add(min(time.Second<<min(c.tries, 10), atLeisure))
	}
}

// confirm finds out whose VM a pod runs. The error is that it could not be asked.
func (r *Reporter) confirm(ctx context.Context, p attach.Pod) (*confirmation, error) {
	c := &confirmation{uid: p.UID}
	pod := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Name}, pod)
	switch {
	case apierrors.IsNotFound(err):
		c.why = fmt.Sprintf("pod %s is not known to Kubernetes", p.Name)
		return c, nil
	case err != nil:
		return nil, fmt.Errorf("read pod %s: %w", podKey(p), err)
	case p.UID != "" && string(pod.UID) != p.UID:
		c.why = fmt.Sprintf("pod %s is another one now (UID %s, not %s)", p.Name, pod.UID, p.UID)
		return c, nil
	}
	c.known, c.podLabels, c.annotations, c.networkStatus = true, pod.Labels, annotationsOf(pod.Annotations), pod.Annotations[desired.NetworkStatusAnnotation]
	before := r.vms[podKey(p)]
	if before != nil && before.uid != c.uid {
		before = nil
	}
	if before != nil {
		c.unwritten = before.unwritten
	}
	r.readClaims(ctx, p.Namespace, c, before)
	owner := metav1.GetControllerOf(pod)
	labelled, owned := pod.Labels[launcherLabel] == launcherValue, owner != nil && owner.Kind == vmiKind
	c.hint = labelled || owned || r.watch.names(string(pod.UID))
	if !labelled || !owned {
		return c, nil
	}
	c.launcher, c.vmi = true, p.Namespace+"/"+owner.Name
	vmi := &unstructured.Unstructured{}
	vmi.SetGroupVersionKind(vmiVersion)
	err = r.client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: owner.Name}, vmi)
	if apierrors.IsNotFound(err) {
		c.why = fmt.Sprintf("VirtualMachineInstance %s, whose pod this says to be, does not exist", owner.Name)
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read VirtualMachineInstance %s/%s: %w", p.Namespace, owner.Name, err)
	}
	c.read(vmi, string(pod.UID), r.node)
	return c, nil
}

// read takes what a VirtualMachineInstance says, if it knows the pod as its own.
func (c *confirmation) read(vmi *unstructured.Unstructured, podUID, node string) {
	active, _, _ := unstructured.NestedStringMap(vmi.Object, "status", "activePods")
	if on, ok := active[podUID]; !ok || on != node {
		c.why = fmt.Sprintf("VirtualMachineInstance %s does not name the pod in status.activePods on this node; "+
			"so long as it does not, the port has no VM's identity", vmi.GetName())
		return
	}
	owner := metav1.OwnerReference{APIVersion: vmiVersion.GroupVersion().String(), Kind: vmiKind, Name: vmi.GetName(), UID: vmi.GetUID()}
	if o := metav1.GetControllerOf(vmi); o != nil && o.Kind == vmKind {
		owner = metav1.OwnerReference{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: o.UID}
	}
	c.vm = &v1alpha1.VMReference{Name: owner.Name, UID: owner.UID}
	c.owner = []metav1.OwnerReference{owner}
	c.labels = desired.OwnLabels(vmi.GetLabels())
	at, _, _ := unstructured.NestedString(vmi.Object, "status", "nodeName")
	c.here = at == node
	interfaces, _, _ := unstructured.NestedSlice(vmi.Object, "status", "interfaces")
	for _, i := range interfaces {
		if m, ok := i.(map[string]any); ok {
			c.nics = append(c.nics, readNIC(m))
		}
	}
	interfaces, _, _ = unstructured.NestedSlice(vmi.Object, "spec", "domain", "devices", "interfaces")
	for _, i := range interfaces {
		if m, ok := i.(map[string]any); ok {
			name, _, _ := unstructured.NestedString(m, "name")
			mac, _, _ := unstructured.NestedString(m, "macAddress")
			for i := range c.nics {
				if c.nics[i].name == name {
					c.nics[i].inSpec, c.nics[i].pinned = true, mac != ""
				}
			}
		}
	}
}

func readNIC(m map[string]any) nic {
	text := func(k string) string { s, _, _ := unstructured.NestedString(m, k); return s }
	n := nic{name: text("name"), pod: text("podInterfaceName"), mac: strings.ToLower(text("mac"))}
	n.guest = strings.Contains(text("infoSource"), "guest-agent") // a list with commas
	ips, _, _ := unstructured.NestedStringSlice(m, "ipAddresses")
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil && len(n.addresses) < mostBindings && !slices.Contains(n.addresses, a.Unmap()) {
			n.addresses = append(n.addresses, a.Unmap())
		}
	}
	return n
}

// reportIdentities writes the VMIdentities of the VMs that run here. They are never
// deleted from here: they outlive pods and moves, and Kubernetes removes them with
// their VM, which owns them.
func (r *Reporter) reportIdentities(ctx context.Context, ports []wire.Port) error {
	var errs []error
	for i := range ports {
		p := &ports[i]
		c := r.vms[podKey(p.Pod)]
		if c == nil || c.vm == nil || !c.here || p.Policy == "" || p.State != attach.Active || !r.settled[p.Key] {
			continue
		}
		is := r.togetherStatus(p, ports)
		if was, ok := c.identified[p.Key]; ok && (equality.Semantic.DeepEqual(was, is) || !r.mayTell(p.Key, inIdentity)) {
			continue
		}
		err := r.reportIdentity(ctx, p, c, is)
		if err == nil {
			if c.identified == nil {
				c.identified = map[attach.Key]v1alpha1.VMIdentityStatus{}
			}
			c.identified[p.Key] = is
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *Reporter) reportIdentity(ctx context.Context, p *wire.Port, c *confirmation, is v1alpha1.VMIdentityStatus) error {
	o := &v1alpha1.VMIdentity{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: p.Pod.Namespace, Name: identityName(c.vm, p.Policy)}, o)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read VMIdentity %s/%s: %w", p.Pod.Namespace, identityName(c.vm, p.Policy), err)
	}
	isNew := err != nil
	if isNew {
		o = &v1alpha1.VMIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: p.Pod.Namespace, Name: identityName(c.vm, p.Policy)},
			Spec: v1alpha1.VMIdentitySpec{VM: c.vm, Network: p.Policy}}
	}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("VMIdentity"))
	before := o.Status.DeepCopy()
	if isNew {
		o.Labels, o.OwnerReferences = c.labels, c.owner // labels are what rules select VMs by
	}
	o.Status = is
	// Status first: by that a node takes over the identity of a VM that has come to
	// it, and before that it may change nothing of it.
	if isNew || !equality.Semantic.DeepEqual(*before, o.Status) {
		if err := r.write(ctx, o, isNew, false); err != nil {
			return err
		}
	}
	if maps.Equal(o.Labels, c.labels) && equality.Semantic.DeepEqual(o.OwnerReferences, c.owner) {
		return nil
	}
	o.Labels, o.OwnerReferences = c.labels, c.owner
	return r.write(ctx, o, false, true)
}

// identityName tells the NICs of a VM apart, and VMs of one name that follow each
// other.
func identityName(vm *v1alpha1.VMReference, network string) string {
	return distinct(vm.Name, string(vm.UID), network)
}

// distinct makes a name that differs where the parts do, within the 253 bytes of a
// name.
func distinct(name string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	if len(name) > 240 {
		name = strings.TrimRight(name[:240], ".-")
	}
	return name + "." + hex.EncodeToString(sum[:4])
}
