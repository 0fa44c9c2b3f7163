package desired

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/kube/read"
)

// kubeSource is what the Kubernetes source is called in problems.
const kubeSource = "Kubernetes API"

// Kube reads desired state from the Kubernetes API, for one node. It keeps
// watches open and goes by what they last said: while the API server cannot be
// reached, refuses us or has lost its objects, the last good snapshot stays.
type Kube struct {
	keeper
	node      string
	cache     read.Cache
	health    *apiHealth
	informers []read.Informer
	changed   chan struct{}
	read      map[string]decoded // what objects were last decoded to, by UID
	problem   error              // of the last look
	// Kinds of others that the cluster may not have.
	podPolicies, clusterPolicies, attachments, vmsHere, vmsComing *optional
	notices                                                       []Problem                    // of the last look: what is in force, but less than its author may think
	far                                                           map[string]string            // of the last look: Snapshot.Elsewhere
	onPod                                                         func(namespace, name string) // see TellOfPods
	podInformer                                                   atomic.Pointer[read.Informer]
	asker                                                         *asker
	moved                                                         chan struct{} // see Moved
	// Waits of Watch; tests shorten them.
	debounce, poll time.Duration
}

// NewKube makes a source of the objects that the API server has. node is
// this node's name there. The last good snapshot is kept in the file stored,
// unless that is "", and is what a start without an API server falls back to.
// Nothing is asked of the server before Watch.
func NewKube(api read.API, node, stored string) (*Kube, error) {
	k := &Kube{keeper: keeper{cache: stored}, node: node, health: newAPIHealth(), changed: make(chan struct{}, 1), moved: make(chan struct{}, 1),
		read: map[string]decoded{}, debounce: 100 * time.Millisecond, poll: 10 * time.Second}
	k.health.changed = func() { signal(k.changed) }
	k.keeper.pods = k.localPods
	k.watchOthers(api)
	var err error
	if k.asker, err = newAsker(api, func() { signal(k.moved) }); err != nil { // before health: its answers say nothing of the watches
		return nil, err
	}
	k.cache, err = api.Cache(read.CacheOptions{
		Kinds:     kubeMapper(),
		Transport: k.health.wrap,
		Transform: packing(slim),
		Watches: []read.Watch{
			{Of: identity(), Transform: packing(slimIdentity)},
			{Of: namedNode(""), Fields: fields.OneTermEqualSelector("metadata.name", node)},
			{Of: podMeta(), Fields: fields.OneTermEqualSelector("spec.nodeName", node), Transform: slimPod},
		},
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// watchOthers makes the watches of kinds that others bring. They are apart from our
// own, so that what is wrong with them keeps nothing else from being read.
func (k *Kube) watchOthers(api read.API) {
	changed := func() { signal(k.changed) }
	onNode := func(label string) labels.Selector { return labels.SelectorFromSet(labels.Set{label: k.node}) }
	k.podPolicies = newOptional(api, multiNetworkPolicies, "multi-networkpolicies", meta.RESTScopeNamespace, nil,
		trimTo(multiNetworkPolicies, policyFor, []string{"spec"}), changed)
	k.clusterPolicies = newOptional(api, clusterNetworkPolicies, "clusternetworkpolicies", meta.RESTScopeRoot, nil,
		trimTo(clusterNetworkPolicies, "", []string{"spec"}), changed)
	k.attachments = newOptional(api, attachmentKind, "network-attachment-definitions", meta.RESTScopeNamespace, nil,
		trimTo(attachmentKind, "", []string{"spec", "config"}), changed)
	vmChanged := func() {
		k.asker.again()
		signal(k.moved)
		changed()
	}
	k.vmsHere = newOptional(api, vmiKind, "virtualmachineinstances", meta.RESTScopeNamespace, onNode(onNodeLabel), trimVM, vmChanged)
	k.vmsComing = newOptional(api, vmiKind, "virtualmachineinstances", meta.RESTScopeNamespace, onNode(toNodeLabel), trimVM, vmChanged)
}

func (k *Kube) others() []*optional {
	return []*optional{k.podPolicies, k.clusterPolicies, k.attachments, k.vmsHere, k.vmsComing}
}

// kubeMapper knows the kinds that are watched. The API server could tell, but a
// node must start without it.
func kubeMapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	m.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	m.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	m.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	for _, kind := range v1alpha1.Kinds() {
		m.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	m.AddSpecific(v1alpha1.GroupVersion.WithKind("VMIdentity"), v1alpha1.GroupVersion.WithResource("vmidentities"),
		v1alpha1.GroupVersion.WithResource("vmidentity"), meta.RESTScopeNamespace)
	return m
}

// identity is a VMIdentity for the watches.
func identity() *unstructured.Unstructured {
	return unstructuredOf(v1alpha1.GroupVersion.WithKind("VMIdentity"))
}

// slimIdentity is slim for an object whose status is what is read.
func slimIdentity(obj any) (any, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	out := identity()
	out.SetNamespace(u.GetNamespace())
	out.SetName(u.GetName())
	out.SetUID(u.GetUID())
	out.SetResourceVersion(u.GetResourceVersion())
	out.SetLabels(u.GetLabels())
	for _, field := range [][]string{{"spec", "network"}, {"spec", "vm", "name"}, {"spec", "vm", "uid"}, {"spec", "pod", "name"}, {"spec", "pod", "uid"}, {"spec", "pod", "node"},
		{"status", "node"}, {"status", "mac"}} {
		if text, ok, _ := unstructured.NestedString(u.Object, field...); ok {
			_ = unstructured.SetNestedField(out.Object, text, field...)
		}
	}
	if list, ok, _ := unstructured.NestedSlice(u.Object, "spec", "addresses"); ok {
		_ = unstructured.SetNestedSlice(out.Object, list, "spec", "addresses")
	}
	for _, name := range []string{"addresses", "waiting", "decisions"} {
		if list, ok, _ := unstructured.NestedSlice(u.Object, "status", name); ok {
			_ = unstructured.SetNestedSlice(out.Object, list, "status", name)
		}
	}
	return out, nil
}

// slim drops what nobody here reads from an object before it is kept.
func slim(obj any) (any, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		unstructured.RemoveNestedField(u.Object, "status")
	}
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
		o.SetAnnotations(nil)
	}
	return obj, nil
}

// namedNode is the part of a Node that is read: its labels.
func namedNode(name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}
}

func unstructuredOf(gvk schema.GroupVersionKind) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	return u
}

// Load gives the last good snapshot, marked as stale, since nothing was asked of
// the API server yet; Watch does. The error says so. The snapshot is nil if there
// never was one.
func (k *Kube) Load() (*Snapshot, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prime()
	err := errors.New("has not been read yet")
	if k.last == nil {
		return nil, fmt.Errorf("%s: %w", kubeSource, err)
	}
	return k.goStale(kubeSource, ReasonUnreadable, err), fmt.Errorf("%s: %w", kubeSource, err)
}

// Watch gives a snapshot once the API server was read, and then each one that
// differs from the one before in content or problems, until ctx ends and the
// channel is closed. A reader that is slow gets the newest, not all.
func (k *Kube) Watch(ctx context.Context) (<-chan *Snapshot, error) {
	watched := []read.Object{namedNode(""), &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}}}
	watched = append(watched, identity(), podMeta())
	for _, kind := range v1alpha1.Kinds() {
		watched = append(watched, unstructuredOf(v1alpha1.GroupVersion.WithKind(kind)))
	}
	for _, obj := range watched {
		i, err := k.cache.Informer(ctx, obj)
		var handler read.Handler = k
		if obj.GetObjectKind().GroupVersionKind().Kind == "Pod" {
			handler = podHandler{k.podChanged, k.tellOfPod}
			k.podInformer.Store(&i)
		}
		if err == nil {
			_, err = i.Tell(handler)
		}
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", obj, err)
		}
		k.informers = append(k.informers, i)
	}
	out := make(chan *Snapshot)
	var watches sync.WaitGroup
	watches.Go(func() { _ = k.cache.Start(ctx) }) // its errors are those of requests: health has them
	watches.Go(func() { k.asker.run(ctx) })
	for _, o := range k.others() {
		watches.Go(func() { o.run(ctx) })
	}
	go func() {
		for _, i := range k.informers {
			wait(ctx, i.HasSynced)
		}
		signal(k.changed)
		signal(k.moved)
	}()
	inner := make(chan *Snapshot)
	go feed(ctx, inner, k.changed, k.debounce, k.poll, k.snapshot)
	go func() {
		defer close(out)
		for s := range inner {
			select {
			case out <- s:
			case <-ctx.Done():
			}
		}
		watches.Wait() // none outlives Watch
	}()
	return out, nil
}

// wait is for something that becomes so by itself; ctx ends it.
func wait(ctx context.Context, so func() bool) {
	for !so() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// OnAdd implements read.Handler.
func (k *Kube) OnAdd(any, bool) { signal(k.changed) }

// OnUpdate implements read.Handler. What only changes an object's
// status is not news.
func (k *Kube) OnUpdate(before, after any) {
	if b, ok := before.(*unstructured.Unstructured); ok && b.GetKind() == identity().GetKind() {
		a, ok := after.(*unstructured.Unstructured)
		if !ok || !reflect.DeepEqual(readIdentity(a), readIdentity(b)) {
			signal(k.changed)
		}
		return
	}
	b, okB := before.(metav1.Object)
	a, okA := after.(metav1.Object)
	if okA && okB && a.GetGeneration() != 0 && a.GetGeneration() == b.GetGeneration() && a.GetDeletionTimestamp().Equal(b.GetDeletionTimestamp()) {
		return
	}
	if okA && okB && a.GetGeneration() == 0 && labels.Equals(a.GetLabels(), b.GetLabels()) {
		return
	}
	signal(k.changed)
}

// OnDelete implements read.Handler.
func (k *Kube) OnDelete(any) { signal(k.changed) }

// snapshot is what is in force now; nil if nothing ever was.
func (k *Kube) snapshot() *Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prime()
	seen, reason, err := k.look()
	k.problem = err
	switch {
	case err == nil:
		s := k.take([]manifest{seen}, func(string) string { return "" })
		s.Problems = append(s.Problems, k.notices...)
		s.Elsewhere = k.far
		return s
	case k.last == nil:
		return nil // Problem says why
	}
	return k.goStale(kubeSource, reason, err)
}

// Problem says why the API server's word cannot be had; nil if it can.
func (k *Kube) Problem() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problem
}

// look reads what the watches have. The error is why that is not the truth.
func (k *Kube) look() (m manifest, reason string, err error) {
	for _, i := range k.informers {
		if !i.HasSynced() {
			return m, ReasonUnreadable, cmp.Or(k.health.problem(), errors.New("has not been read yet"))
		}
	}
	if err := k.health.problem(); err != nil {
		return m, ReasonUnreadable, err
	}
	ctx := context.Background() // from memory: nothing is waited for
	node := namedNode(k.node)
	if err := k.cache.Get(ctx, types.NamespacedName{Name: k.node}, node); err != nil {
		return m, ReasonUnreadable, fmt.Errorf("has no node %s: name this node with --node, as kubectl get nodes does", k.node)
	}
	namespaces, err := k.namespaces()
	if err != nil {
		return m, ReasonUnreadable, err
	}
	holders, err := k.holders(ctx)
	if err != nil {
		return m, ReasonUnreadable, err
	}
	for _, o := range k.others() {
		if _, err := o.list(); errors.Is(err, errUnread) && o != k.clusterPolicies { // for who asks for them
			return m, ReasonUnreadable, err
		}
	}
	p := placement{node: node.Labels, namespaces: namespaces, holders: holders, elsewhere: map[key]bool{}, far: map[string]string{}}
	read := map[string]decoded{}
	total := 0
	for _, kind := range v1alpha1.Kinds() { // trunks, then what is on them, then what names that
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
		if err := k.cache.List(ctx, list, 0); err != nil {
			return m, ReasonUnreadable, err
		}
		if !slices.Contains(setKinds, kind) && kind != v1alpha1.KindReachabilityCheck { // what is left when all else is lost says nothing
			total += len(list.Items)
		}
		slices.SortFunc(list.Items, func(a, b unstructured.Unstructured) int { return strings.Compare(a.GetName(), b.GetName()) })
		for i := range list.Items {
			d := k.decode(&list.Items[i])
			read[string(list.Items[i].GetUID())] = d
			p.place(&m, d)
		}
	}
	if total == 0 && k.hadOwn() {
		return m, ReasonEmpty, fmt.Errorf("has no %s any more: restore them; to remove the last objects, leave one that does no harm",
			strings.Join([]string{v1alpha1.KindVLANTrunk, v1alpha1.KindVLANNetwork, v1alpha1.KindFirewallPolicy}, ", "))
	}
	if _, err := k.clusterPolicies.list(); errors.Is(err, errUnread) && asksForCluster(&m) {
		return m, ReasonUnreadable, err
	}
	k.far, k.identities = p.far, nil
	for i := range holders {
		k.identities = append(k.identities, holders[i].identities...)
	}
	k.read, k.notices = read, slices.Concat(p.notices, k.lookAtPodPolicies(&m, &p), k.lookAtClusterPolicies(&m, &p))
	return m, "", nil
}

// hadOwn says whether objects of our kinds are in force.
func (k *Kube) hadOwn() bool {
	return k.last != nil && len(k.last.Trunks)+len(k.last.Networks)+len(k.last.Policies) > 0
}

// namespaces lists the cluster's.
func (k *Kube) namespaces() ([]metav1.PartialObjectMetadata, error) {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	err := k.cache.List(context.Background(), &list, 0) // from memory
	return list.Items, err
}

// holders lists the NICs of the cluster's VMs, and those of pods that were given
// addresses.
func (k *Kube) holders(ctx context.Context) ([]holder, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("VMIdentityList"))
	if err := k.cache.List(ctx, list, 0); err != nil {
		return nil, err
	}
	var out []holder
	for i := range list.Items {
		out = append(out, readIdentity(&list.Items[i]))
	}
	slices.SortFunc(out, func(a, b holder) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// decode reads an object, unless it is as it was.
func (k *Kube) decode(u *unstructured.Unstructured) decoded {
	if d, ok := k.read[string(u.GetUID())]; ok && d.generation == u.GetGeneration() {
		return d
	}
	return decodeObject(u)
}

// decoded is what the API server says of one object, as far as the object alone
// can be judged.
type decoded struct {
	object
	generation int64
	problems   []Problem
	nodes      map[string]string     // a trunk's nodeSelector
	namespaces *metav1.LabelSelector // a network's
	vms        []vmPeer              // a policy's
}

// decodeObject reads an object strictly: a field that this version does not know
// comes from a later one, and to lose it would change what the object means.
func decodeObject(u *unstructured.Unstructured) decoded {
	u = unpack(u)
	d := decoded{object: object{key: key{u.GetKind(), u.GetName()}}, generation: u.GetGeneration()}
	fill := func(into any) bool {
		err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, into, true)
		if strict, ok := runtime.AsStrictDecodingError(err); ok {
			for _, e := range strict.Errors() {
				d.fail("", fmt.Sprintf("%v: agents of this version do not know it: bring them up to date, or leave the field out", e))
			}
		} else if err != nil {
			d.fail("", fmt.Sprintf("cannot be read: %v: want what kubectl explain %s says", err, strings.ToLower(u.GetKind())))
		}
		return len(d.problems) == 0
	}
	switch u.GetKind() {
	case v1alpha1.KindVLANTrunk:
		var o v1alpha1.VLANTrunk
		if !fill(&o) {
			return d
		}
		d.nodes = o.Spec.NodeSelector
		resource := o.Spec.AdvertiseResource
		o.Spec.NodeSelector, o.Spec.AdvertiseResource = nil, false
		t, errs := FromTrunk(&o)
		t.Resource = resource
		d.value = t
		d.failAll(errs)
	case v1alpha1.KindVLANNetwork:
		var o v1alpha1.VLANNetwork
		if !fill(&o) {
			return d
		}
		d.namespaces, o.Spec.Namespaces = o.Spec.Namespaces, nil
		cluster := o.Spec.ClusterNetworkPolicies == v1alpha1.SwitchEnabled
		if cluster {
			o.Spec.ClusterNetworkPolicies = ""
		}
		required := o.Spec.Reachability != nil && o.Spec.Reachability.Required
		if required {
			o.Spec.Reachability.Required = false
		}
		written := o.Spec.Addressing != nil && o.Spec.Addressing.NetworkStatus == v1alpha1.SwitchEnabled
		if written {
			o.Spec.Addressing.NetworkStatus = ""
		}
		vms, wrong := takeVMExceptions(o.Spec.PortSecurity)
		n, errs := FromNetwork(&o)
		n.Cluster, n.Reach.Required, n.Addressing.NetworkStatus = cluster, required, written
		n.putVMs(vms)
		d.value = n
		d.failAll(append(wrong, errs...))
	case v1alpha1.KindFirewallPolicy:
		var o v1alpha1.FirewallPolicy
		if !fill(&o) {
			return d
		}
		misplaced := v1alpha1.MisplacedVMs(&o.Spec)
		peers, wrong := takeVMPeers(&o.Spec)
		p, errs := FromPolicy(&o)
		d.vms, d.value = peers, p
		d.failAll(slices.Concat(misplaced, wrong, errs), o.Spec.Rules...)
	case v1alpha1.KindAddressSet:
		var o v1alpha1.AddressSet
		if !fill(&o) {
			return d
		}
		s, errs := FromAddressSet(&o)
		d.value = s
		d.failAll(errs)
	case v1alpha1.KindServiceSet:
		var o v1alpha1.ServiceSet
		if !fill(&o) {
			return d
		}
		s, errs := FromServiceSet(&o)
		d.value = s
		d.failAll(errs)
	case v1alpha1.KindReachabilityCheck:
		var o v1alpha1.ReachabilityCheck
		if !fill(&o) {
			return d
		}
		c, errs := FromCheck(&o)
		d.value = c
		d.failAll(errs)
	}
	return d
}
