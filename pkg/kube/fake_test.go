package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// fakeAPI is an API server in memory: of it only what a Reporter asks for, with no
// waits but those that a test gives it, so that it goes with a bubble's own time.
type fakeAPI struct {
	client.Client // nil: what is not here is not asked for

	mu      sync.Mutex
	objects map[string]client.Object
	asked   []string // "verb Kind namespace/name", in order; status is a verb
	// meet is called for each request, and gives its error. It is not locked.
	meet func(request string) error
	// older takes from an object what CRDs of an older version do not have; nil is that they have all.
	older func(client.Object)
}

func newFakeAPI(objects ...client.Object) *fakeAPI {
	f := &fakeAPI{objects: map[string]client.Object{}}
	for _, o := range objects {
		f.objects[f.name(o)] = o
	}
	return f
}

func (f *fakeAPI) name(o client.Object) string {
	kind := reflect.TypeOf(o).Elem().Name()
	if k := o.GetObjectKind().GroupVersionKind().Kind; k != "" {
		kind = k
	}
	return kind + " " + o.GetNamespace() + "/" + o.GetName()
}

// ask notes a request, and does it unless it is to fail.
func (f *fakeAPI) ask(verb, name string, do func() error) error {
	f.mu.Lock()
	f.asked = append(f.asked, verb+" "+name)
	meet := f.meet
	f.mu.Unlock()
	if meet != nil {
		if err := meet(verb + " " + name); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return do()
}

// take gives the requests since it was last called.
func (f *fakeAPI) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.asked
	f.asked = nil
	return out
}

func absent(name string) error {
	return apierrors.NewNotFound(schema.GroupResource{}, name)
}

func (f *fakeAPI) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	o.SetNamespace(key.Namespace)
	o.SetName(key.Name)
	name := f.name(o)
	return f.ask("get", name, func() error {
		have, ok := f.objects[name]
		if !ok {
			return absent(name)
		}
		reflect.ValueOf(o).Elem().Set(reflect.ValueOf(have.DeepCopyObject()).Elem())
		return nil
	})
}

func (f *fakeAPI) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	return f.ask("list", reflect.TypeOf(list).Elem().Name(), func() error {
		for _, o := range f.objects {
			switch l := list.(type) {
			case *v1alpha1.VLANTrunkNodeList:
				if o, ok := o.(*v1alpha1.VLANTrunkNode); ok {
					l.Items = append(l.Items, *o.DeepCopy())
				}
			case *v1alpha1.VMPortList:
				if o, ok := o.(*v1alpha1.VMPort); ok {
					l.Items = append(l.Items, *o.DeepCopy())
				}
			}
		}
		return nil
	})
}

func (f *fakeAPI) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	name := f.name(o)
	return f.ask("create", name, func() error {
		if _, ok := f.objects[name]; ok {
			return apierrors.NewAlreadyExists(schema.GroupResource{}, name)
		}
		f.objects[name] = o.DeepCopyObject().(client.Object)
		return nil
	})
}

func (f *fakeAPI) put(verb string, o client.Object) error {
	name := f.name(o)
	return f.ask(verb, name, func() error {
		if _, ok := f.objects[name]; !ok {
			return absent(name)
		}
		if f.older != nil {
			f.older(o)
		}
		f.objects[name] = o.DeepCopyObject().(client.Object)
		return nil
	})
}

func (f *fakeAPI) Update(_ context.Context, o client.Object, _ ...client.UpdateOption) error {
	return f.put("update", o)
}

func (f *fakeAPI) Delete(_ context.Context, o client.Object, _ ...client.DeleteOption) error {
	name := f.name(o)
	return f.ask("delete", name, func() error {
		delete(f.objects, name)
		return nil
	})
}

func (f *fakeAPI) Status() client.SubResourceWriter { return fakeStatus{f: f} }

type fakeStatus struct {
	client.SubResourceWriter
	f *fakeAPI
}

func (s fakeStatus) Update(_ context.Context, o client.Object, _ ...client.SubResourceUpdateOption) error {
	return s.f.put("status", o)
}

// patchPod does a JSON patch of annotations.
func (f *fakeAPI) patchPod(name string, text []byte) error {
	var steps []struct{ Op, Path, Value string }
	if err := json.Unmarshal(text, &steps); err != nil {
		return err
	}
	return f.ask("patch", name, func() error {
		have, ok := f.objects[name]
		if !ok {
			return absent(name)
		}
		for _, s := range steps {
			annotation, of := strings.CutPrefix(s.Path, "/metadata/annotations/")
			annotation = strings.ReplaceAll(annotation, "~1", "/")
			is := string(have.GetUID())
			if of {
				is = have.GetAnnotations()[annotation]
			}
			switch {
			case s.Op == "test" && s.Value != is: // as the server says it
				return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "testing value failed", 0, false)
			case s.Op == "replace":
				have.GetAnnotations()[annotation] = s.Value
			}
		}
		return nil
	})
}

// Patch is a merge patch of a node's resources, or a JSON patch of a pod's annotations.
func (s fakeStatus) Patch(_ context.Context, o client.Object, patch client.Patch, _ ...client.SubResourcePatchOption) error {
	text, err := patch.Data(o)
	if err != nil {
		return err
	}
	if name := s.f.name(o); strings.HasPrefix(name, "Pod ") {
		return s.f.patchPod(name, text)
	}
	var change struct {
		Status struct {
			Capacity, Allocatable map[corev1.ResourceName]*resource.Quantity
		}
	}
	if err := json.Unmarshal(text, &change); err != nil {
		return err
	}
	return s.f.ask("patch", s.f.name(o), func() error {
		have := s.f.objects[s.f.name(o)].(*corev1.Node)
		merge := func(into corev1.ResourceList, from map[corev1.ResourceName]*resource.Quantity) {
			for name, q := range from {
				if delete(into, name); q != nil {
					into[name] = *q
				}
			}
		}
		merge(have.Status.Capacity, change.Status.Capacity)
		merge(have.Status.Allocatable, change.Status.Allocatable)
		return nil
	})
}

// newFakeReporter is a reporter of node n1 at such a server.
func newFakeReporter(f *fakeAPI) *Reporter {
	return &Reporter{node: "n1", client: f, log: slog.New(slog.NewTextHandler(io.Discard, nil)), events: &recorder{client: f, node: "n1"},
		podNews: newNews(), watch: newVMWatch(nil, "n1", f), vms: map[string]*confirmation{}, written: map[string]time.Time{},
		countersEvery: 30 * time.Second, lookEvery: 10 * time.Minute, nodeEvery: time.Minute, retryMost: 30 * time.Second}
}

// aPort is the open port of a pod of that number.
func aPort(i int) wire.Port {
	return wire.Port{State: attach.Active, Passed: [2]uint64{1, 0}, Record: attach.Record{Request: attach.Request{
		Key: attach.Key{ContainerID: fmt.Sprint("c", i), IfName: "net1"}, Pod: attach.Pod{Namespace: "ns", Name: fmt.Sprintf("pod%03d", i)}}}}
}

// pods names the pods of the ports that were asked for with a verb, in order.
func pods(asked []string, verb string) (out []string) {
	for _, a := range asked {
		if rest, ok := strings.CutPrefix(a, verb+" VMPort ns/"); ok {
			pod, _, _ := strings.Cut(rest, ".")
			out = append(out, pod)
		}
	}
	return out
}

func mustRound(t *testing.T, r *Reporter, n *fakeNode) {
	t.Helper()
	if _, err := r.round(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// TestWithdrawnAtStart: an agent that finds its trunk broken when it starts takes
// away what the agent before it offered; and it asks no more once that is known.
func TestWithdrawnAtStart(t *testing.T) {
	amount := resource.MustParse("1k")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Capacity: corev1.ResourceList{"cpu": amount, "homeport.dev/t": amount}, Allocatable: corev1.ResourceList{"homeport.dev/t": amount}}}
	for _, tt := range []struct {
		name    string
		objects []client.Object
	}{{"it was offered", []client.Object{node}}, {"the node does not exist", nil}} {
		f := newFakeAPI(tt.objects...)
		r := newFakeReporter(f)
		n := &fakeNode{status: wire.NodeStatus{Desired: 1, Active: 1, Trunks: []wire.TrunkStatus{{Name: "t", Resource: true, Message: "eth1: no such interface"}}}}
		mustRound(t, r, n)
		if len(node.Status.Capacity) != 1 || len(node.Status.Allocatable) != 0 {
			t.Errorf("%s: the node offers %v, %v", tt.name, node.Status.Capacity, node.Status.Allocatable)
		}
		f.take()
		mustRound(t, r, n)
		if asked := f.take(); len(asked) != 0 {
			t.Errorf("%s: asked again: %q", tt.name, asked)
		}
	}
}

// TestOrder: with many ports, those that ended and those whose state changed are
// written before counters, which give way to what comes meanwhile.
func TestOrder(t *testing.T) {
	const many = 150
	f := newFakeAPI()
	r := newFakeReporter(f)
	n := &fakeNode{changed: make(chan struct{}, 1)}
	for i := range many {
		n.ports = append(n.ports, aPort(i))
	}
	mustRound(t, r, n)
	if got := pods(f.take(), "create"); len(got) != many {
		t.Fatalf("%d ports made, want %d", len(got), many)
	}
	r.countersEvery = 0 // all are due
	for i := range n.ports {
		n.ports[i].Passed[0] = 2
	}
	n.ports[many-1].State = attach.Dark
	n.ports = slices.Delete(n.ports, many-2, many-1)
	mustRound(t, r, n)
	asked := f.take()
	if len(asked) < 2 || !strings.HasPrefix(asked[0], "delete VMPort ns/pod148.") || !strings.HasPrefix(asked[1], "status VMPort ns/pod149.") {
		t.Errorf("first asked for %q, want the port that ended and the one that closed", asked[:min(2, len(asked))])
	}
	if got := pods(asked, "status"); len(got) != many-1 {
		t.Errorf("%d ports written, want %d", len(got), many-1)
	}

	// News in the midst of counters: the rest of these waits.
	for i := range n.ports {
		n.ports[i].Passed[0] = 3
	}
	written := 0
	f.meet = func(string) error {
		if written++; written == 10 {
			n.set(func() { n.ports[100].State = attach.Dark })
		}
		return nil
	}
	mustRound(t, r, n)
	if got := pods(f.take(), "status"); len(got) != 10 {
		t.Errorf("%d counters were written before the news, want 10", len(got))
	}
	<-n.changed
	mustRound(t, r, n)
	got := pods(f.take(), "status")
	if len(got) != many-1-10 || got[0] != "pod100" {
		t.Errorf("then %d ports were written, %q first; want %d, pod100 first", len(got), got[:min(1, len(got))], many-1-10)
	}
}

// TestBackOff runs in the bubble's own time: a server that fails is asked ever more
// seldom, whatever news there are, and is told all when it is back.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI()
		r := newFakeReporter(f)
		n := &fakeNode{changed: make(chan struct{}, 1), ports: []wire.Port{aPort(1)}}
		f.meet = func(string) error { return apierrors.NewInternalError(errors.New("overloaded")) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.follow(ctx, n) }()
		news := func(last time.Duration) {
			for begun := time.Now(); time.Since(begun) < last; time.Sleep(50 * time.Millisecond) {
				n.set(func() {})
			}
		}
		news(time.Minute)
		synctest.Wait()
		tries := 0
		for _, a := range f.take() {
			if a == "list VMPortList" {
				tries++
			}
		}
		// After 1, 2, 4, 8, 16 and 30 s, or half of that each.
		if tries < 5 || tries > 8 {
			t.Errorf("it was tried %d times in a minute, want 5 to 8", tries)
		}
		f.mu.Lock()
		f.meet = nil
		f.mu.Unlock()
		news(31 * time.Second)
		synctest.Wait()
		if got := pods(f.take(), "create"); len(got) != 1 {
			t.Errorf("when it is back, %q are written", got)
		}
		// It is as quick as before.
		n.set(func() { n.ports[0].State = attach.Dark })
		time.Sleep(quietAfter)
		synctest.Wait()
		if got := pods(f.take(), "status"); len(got) != 1 {
			t.Errorf("news are written late: %q", got)
		}
		cancel()
		<-done
	})
}

// TestRefusedKeepsNobodyWaiting: one object that is refused, again and again, delays
// no news of others.
func TestRefusedKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI()
		r := newFakeReporter(f)
		n := &fakeNode{changed: make(chan struct{}, 1), ports: []wire.Port{aPort(1), aPort(2)}}
		f.meet = func(action string) error {
			if strings.Contains(action, "pod001") {
				return fmt.Errorf("write: %w", apierrors.NewForbidden(schema.GroupResource{}, "pod001", errors.New("no")))
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.follow(ctx, n) }()
		time.Sleep(time.Hour + time.Millisecond) // tries are half a minute apart by now
		f.take()
		n.set(func() { n.ports[1].State = attach.Dark })
		time.Sleep(quietAfter)
		synctest.Wait()
		if got := pods(f.take(), "status"); !slices.Contains(got, "pod002") {
			t.Errorf("news of another port are not written at once: %q", got)
		}
		cancel()
		<-done
	})
}

// TestLooksAgain: the server's objects are listed again only where an answer shows
// that it has others than is known here.
func TestLooksAgain(t *testing.T) {
	const name = "VMPort ns/pod001"
	for what, tt := range map[string]struct {
		err   error
		looks bool
	}{
		"refused":     {apierrors.NewForbidden(schema.GroupResource{}, name, errors.New("no")), false},
		"overloaded":  {apierrors.NewTooManyRequests("later", 1), false},
		"cannot be":   {errors.New("connection refused"), false},
		"was changed": {apierrors.NewConflict(schema.GroupResource{}, name, errors.New("changed")), true},
		"is gone":     {absent(name), true},
	} {
		f := newFakeAPI()
		r := newFakeReporter(f)
		n := &fakeNode{ports: []wire.Port{aPort(1), aPort(2)}}
		mustRound(t, r, n)
		for i := range n.ports {
			n.ports[i].State = attach.Dark
		}
		f.meet = func(request string) error {
			switch {
			case strings.HasPrefix(request, "status VMPort ns/pod002"): // what is wrong with another one hides nothing
				return apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("no"))
			case strings.HasPrefix(request, "status "+name):
				return tt.err
			}
			return nil
		}
		if _, err := r.round(t.Context(), n); err == nil {
			t.Errorf("%s: no error", what)
		}
		f.meet = nil
		f.take()
		mustRound(t, r, n)
		asked := f.take()
		if got := slices.Contains(asked, "list VMPortList"); got != tt.looks {
			t.Errorf("%s: listed again: %v, want %v", what, got, tt.looks)
		}
		if got := pods(asked, "status"); len(got) != 2 {
			t.Errorf("%s: then %q were written, want both", what, got)
		}
	}
}

// TestUnanswered: while whose a port is cannot be asked, a VM that was confirmed
// stays, and a port of which nothing is known is not ready.
func TestUnanswered(t *testing.T) {
	const vmiName = vmiKind + " ns/vm"
	pod := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "pod001", UID: "u1", Labels: map[string]string{launcherLabel: launcherValue},
		OwnerReferences: []metav1.OwnerReference{{Kind: vmiKind, Name: "vm", Controller: new(true)}}}}
	vmi := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": "ns", "name": "vm", "uid": "v1"},
		"status":   map[string]any{"activePods": map[string]any{"u1": "n1"}, "nodeName": "n1"}}}
	vmi.SetGroupVersionKind(vmiVersion)
	f := newFakeAPI(pod, vmi)
	r := newFakeReporter(f)
	p := aPort(1)
	p.Pod.UID = "u1"
	n := &fakeNode{ports: []wire.Port{p}}
	forbidden := func(what string) func(string) error {
		return func(request string) error {
			if request == "get "+what {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "vm", errors.New("no right"))
			}
			return nil
		}
	}
	expect := func(when, vm, ready string, fails bool) metav1.Condition {
		t.Helper()
		for _, c := range r.vms {
			c.next = time.Time{} // it is time to ask again
		}
		if _, err := r.round(t.Context(), n); (err != nil) != fails {
			t.Errorf("%s: error %v", when, err)
		}
		o := f.objects["VMPort ns/"+portName(&p)].(*v1alpha1.VMPort)
		got := ""
		if o.Spec.VM != nil {
			got = o.Spec.VM.Name
		}
		if got != vm || readyOf(o.Status.Conditions) != ready {
			t.Errorf("%s: VM %q, %+v; want %q, %s", when, got, o.Status.Conditions, vm, ready)
		}
		return o.Status.Conditions[0]
	}

	for _, what := range []string{"Pod ns/pod001", vmiName} {
		f.meet = forbidden(what)
		c := expect("never answered: "+what, "", "False VMUnconfirmed", true)
		if !strings.Contains(c.Message, "cannot be found out") || !strings.Contains(c.Message, "no right") {
			t.Errorf("it says %q", c.Message)
		}
	}
	f.meet = nil
	expect("answered", "vm", "True PortActive", false)
	for _, what := range []string{"Pod ns/pod001", vmiName} {
		f.meet = forbidden(what)
		expect("not answered any more: "+what, "vm", "True PortActive", true)
		f.meet = nil
		expect("answered again", "vm", "True PortActive", false)
	}
	// Another pod of that name is nobody's until it can be asked.
	n.ports[0].Pod.UID = "u2"
	f.meet = forbidden("Pod ns/pod001")
	expect("another pod", "", "False VMUnconfirmed", true)
}

// TestPaceOfRequests: a node's reports are not held to client-go's default of 5
// requests a second after the first 10.
func TestPaceOfRequests(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	r, err := NewReporter(&rest.Config{Host: s.URL}, "n1", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for i := range 90 { // by default it would take 16 s
		p := aPort(i)
		if err := r.client.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: portName(&p)}, &v1alpha1.VMPort{}); !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("90 requests took %v", took)
	}
}
