package kube

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nodeLabel is where KubeVirt writes which node a VirtualMachineInstance is on.
const nodeLabel = "kubevirt.io/nodeName"

// vmWatch tells which VirtualMachineInstances of this node have changed in what
// concerns us, so that their pods are asked about again at once. The answer is
// read from the server then: the watch alone decides nothing.
type vmWatch struct {
	cfg    *rest.Config
	node   string
	client client.Client
	look   time.Duration // how often to look for KubeVirt while it is not there

	news *news // of VirtualMachineInstances

	mu    sync.Mutex
	named map[string]map[string]string // status.activePods, by namespace/name
}

// news are names of objects that have changed.
type news struct {
	told chan struct{} // is sent to when there are any

	mu    sync.Mutex
	names map[string]bool
}

func newNews() *news { return &news{told: make(chan struct{}, 1), names: map[string]bool{}} }

func (n *news) add(name string) {
	n.mu.Lock()
	n.names[name] = true
	n.mu.Unlock()
	select {
	case n.told <- struct{}{}:
	default:
	}
}

// take gives what was added since it was last called.
func (n *news) take() map[string]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.names
	n.names = map[string]bool{}
	return out
}

func newVMWatch(cfg *rest.Config, node string, c client.Client) *vmWatch {
	return &vmWatch{cfg: cfg, node: node, client: c, look: time.Minute, news: newNews(), named: map[string]map[string]string{}}
}

// names says that a VirtualMachineInstance of this node, as far as they are known,
// has a pod as its own, whatever the pod says.
func (w *vmWatch) names(podUID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, active := range w.named {
		if _, ok := active[podUID]; ok {
			return true
		}
	}
	return false
}

// gone is mark for what is there no more.
func (w *vmWatch) gone(obj any) {
	if last, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	name := client.ObjectKeyFromObject(u).String()
	w.mu.Lock()
	delete(w.named, name)
	w.mu.Unlock()
	w.news.add(name)
}

func (w *vmWatch) mark(obj any) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	name := client.ObjectKeyFromObject(u).String()
	active, _, _ := unstructured.NestedStringMap(u.Object, "status", "activePods")
	w.mu.Lock()
	w.named[name] = active
	w.mu.Unlock()
	w.news.add(name)
}

// run watches until ctx ends. A cluster without KubeVirt has none of the kind: it
// is looked for now and then.
func (w *vmWatch) run(ctx context.Context, log *slog.Logger) {
	for {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(vmiVersion.GroupVersion().WithKind(vmiKind + "List"))
		if err := w.client.List(ctx, list, client.Limit(1)); err == nil {
			if err := w.follow(ctx); err != nil {
				log.Error("changes of VMs are noticed late", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(w.look):
		}
	}
}

func (w *vmWatch) follow(ctx context.Context) error {
	vmi := &unstructured.Unstructured{}
	vmi.SetGroupVersionKind(vmiVersion)
	c, err := cache.New(w.cfg, cache.Options{
		Mapper: mapper(),
		ByObject: map[client.Object]cache.ByObject{
			vmi: {Label: labels.SelectorFromSet(labels.Set{nodeLabel: w.node}), Transform: slimVMI},
		},
	})
	if err != nil {
		return fmt.Errorf("watch VirtualMachineInstances: %w", err)
	}
	i, err := c.GetInformer(ctx, vmi, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch VirtualMachineInstances: %w", err)
	}
	_, err = i.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: w.mark,
		UpdateFunc: func(before, after any) {
			if b, ok := before.(*unstructured.Unstructured); !ok || !sameVMI(b, after) {
				w.mark(after)
			}
		},
		DeleteFunc: w.gone,
	})
	if err != nil {
		return fmt.Errorf("watch VirtualMachineInstances: %w", err)
	}
	return c.Start(ctx) // requests that fail are tried again
}

// slimVMI keeps what a confirmation reads of a VirtualMachineInstance.
func slimVMI(obj any) (any, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	out := &unstructured.Unstructured{}
	out.SetGroupVersionKind(vmiVersion)
	out.SetNamespace(u.GetNamespace())
	out.SetName(u.GetName())
	out.SetUID(u.GetUID())
	out.SetResourceVersion(u.GetResourceVersion())
	out.SetLabels(u.GetLabels())
	for _, field := range [][]string{{"status", "activePods"}, {"status", "nodeName"}, {"status", "interfaces"}, {"spec", "domain", "devices", "interfaces"}} {
		if v, ok, _ := unstructured.NestedFieldCopy(u.Object, field...); ok {
			_ = unstructured.SetNestedField(out.Object, v, field...)
		}
	}
	return out, nil
}

// sameVMI says that two versions differ in nothing that a confirmation reads.
func sameVMI(before *unstructured.Unstructured, after any) bool {
	a, ok := after.(*unstructured.Unstructured)
	return ok && reflect.DeepEqual(before.Object["status"], a.Object["status"]) &&
		reflect.DeepEqual(before.Object["spec"], a.Object["spec"]) && labels.Equals(before.GetLabels(), a.GetLabels())
}
