package desired

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/homeport-cni/homeport/pkg/kube/read"
)

// Moved is sent to when the Move of some pod of this node may be another.
func (k *Kube) Moved() <-chan struct{} { return k.moved }

// Move says what part a pod of this node has in live migrations, from memory. What
// the watches do not have is asked for, and told of by Moved. uid may be "".
func (k *Kube) Move(namespace, name, uid string) Move {
	if name == "" {
		return Move{State: MoveNone, Why: "no pod of Kubernetes"}
	}
	if i := k.podInformer.Load(); i == nil || !(*i).HasSynced() {
		return Move{Why: "the pods of this node have not been read from the Kubernetes API yet"}
	}
	at := types.NamespacedName{Namespace: namespace, Name: name}
	pod := podMeta()
	if err := k.cache.Get(context.Background(), at, pod); err != nil || uid != "" && string(pod.UID) != uid { // from memory
		a := k.asker.answer(question{corev1.SchemeGroupVersion.WithKind("Pod").Kind, at})
		got, ok := a.object.(*metav1.PartialObjectMetadata)
		switch {
		case ok && (uid == "" || string(got.UID) == uid):
			pod = got
		case a.asked:
			return Move{State: MoveNone, Gone: true, Why: fmt.Sprintf("pod %s is not known to Kubernetes", name)}
		case a.err != nil:
			return Move{Why: fmt.Sprintf("pod %s cannot be asked about: %v", name, a.err)}
		default:
			return Move{Why: fmt.Sprintf("pod %s has not been heard of yet", name)}
		}
	}
	m := moveOf(pod, k.vmiOf(pod, false))
	if m.State == MoveUnknown {
		m = moveOf(pod, k.vmiOf(pod, true))
	}
	return m
}

// Declared are the addresses that a pod's annotations declare for one of its interfaces, as far as the watch has the pod.
func (k *Kube) Declared(namespace, name, uid, ifName string) (out []netip.Addr) {
	pod := podMeta()
	if i := k.podInformer.Load(); name == "" || i == nil || !(*i).HasSynced() ||
		k.cache.Get(context.Background(), types.NamespacedName{Namespace: namespace, Name: name}, pod) != nil || uid != "" && string(pod.UID) != uid { // from memory
		return nil
	}
	found, _ := Declarations(pod.Annotations, PodNIC{Namespace: namespace, Interface: ifName}) // who follows the port tells what is wrong
	for _, d := range found {
		if !slices.Contains(out, d.Addr) {
			out = append(out, d.Addr)
		}
	}
	return out
}

// vmiOf finds the VirtualMachineInstance that a pod says to be of: in the watches, or,
// where they do not have it or it is to be fresh, by asking.
func (k *Kube) vmiOf(pod *metav1.PartialObjectMetadata, fresh bool) vmi {
	name := ownerVMI(pod)
	if name == "" {
		return vmi{}
	}
	at := types.NamespacedName{Namespace: pod.Namespace, Name: name}
	for _, o := range []*optional{k.vmsHere, k.vmsComing} {
		if found := o.get(at); found != nil && !fresh {
			return vmi{object: found, asked: true}
		}
	}
	a := k.asker.answer(question{vmiKind.Kind, at})
	v := vmi{asked: a.asked, err: a.err, fresh: true}
	v.object, _ = a.object.(*unstructured.Unstructured)
	return v
}

// asker asks the API server for single objects, one after the other, again and again
// as long as somebody wants the answer.
type asker struct {
	client read.Reader
	kick   chan struct{}
	told   func() // an answer is another

	mu    sync.Mutex
	known map[question]*answer
}

type question struct {
	kind string
	at   types.NamespacedName
}

// answer is the last one. object is nil if there is none, asked if that is the
// server's word; err is why it could not be asked.
type answer struct {
	object read.Object
	asked  bool
	err    error
	wanted time.Time // when it was last of use
	next   time.Time // when to ask
	wait   time.Duration
}

const (
	askSoon   = 250 * time.Millisecond
	askSeldom = 30 * time.Second
	askNoMore = 2 * time.Minute // after nobody wanted to know
)

func newAsker(api read.API, told func()) (*asker, error) {
	m := meta.NewDefaultRESTMapper(nil)
	m.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	m.AddSpecific(vmiKind, vmiKind.GroupVersion().WithResource("virtualmachineinstances"),
		vmiKind.GroupVersion().WithResource("virtualmachineinstance"), meta.RESTScopeNamespace)
	c, err := api.Client(m)
	if err != nil {
		return nil, err
	}
	return &asker{client: c, kick: make(chan struct{}, 1), told: told, known: map[question]*answer{}}, nil
}

// answer gives what is known, and has it asked for.
func (a *asker) answer(q question) answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.known[q]
	if k == nil {
		k = &answer{wait: askSoon}
		a.known[q] = k
		signal(a.kick)
	}
	k.wanted = time.Now()
	return *k
}

// again has all questions asked anew, soon.
func (a *asker) again() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.known {
		k.next, k.wait = time.Time{}, askSoon
	}
	if len(a.known) > 0 {
		signal(a.kick)
	}
}

// due gives a question whose time has come, or how long until then.
func (a *asker) due() (question, time.Duration, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wait := askSeldom
	for q, k := range a.known {
		switch {
		case time.Since(k.wanted) > askNoMore:
			delete(a.known, q)
		case !time.Now().Before(k.next):
			k.next, k.wait = time.Now().Add(k.wait), min(2*k.wait, askSeldom)
			return q, 0, true
		default:
			wait = min(wait, time.Until(k.next))
		}
	}
	return question{}, wait, false
}

func (a *asker) run(ctx context.Context) {
	for ctx.Err() == nil {
		q, wait, ok := a.due()
		if ok {
			a.ask(ctx, q)
			continue
		}
		select {
		case <-ctx.Done():
		case <-a.kick:
		case <-time.After(wait):
		}
	}
}

func (a *asker) ask(ctx context.Context, q question) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var o read.Object = podMeta()
	if q.kind == vmiKind.Kind {
		o = unstructuredOf(vmiKind)
	}
	err := a.client.Get(ctx, q.at, o)
	a.mu.Lock()
	k := a.known[q]
	if k == nil {
		a.mu.Unlock()
		return
	}
	before := *k
	switch {
	case err == nil:
		k.object, k.asked, k.err = o, true, nil
	case apierrors.IsNotFound(err):
		k.object, k.asked, k.err = nil, true, nil
	default: // what was known is of use no more
		k.object, k.asked, k.err = nil, false, fmt.Errorf("read %s %s: %w", strings.ToLower(q.kind), q.at, err)
	}
	same := before.asked == k.asked && (before.err == nil) == (k.err == nil) && version(before.object) == version(k.object)
	a.mu.Unlock()
	if !same {
		a.told()
	}
}

func version(o read.Object) string {
	if o == nil {
		return ""
	}
	return string(o.GetUID()) + " " + o.GetResourceVersion()
}
