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

	mu    sync.Mutex
	dirty map[string]bool // by namespace/name
	news  chan struct{}
}

func newVMWatch(cfg *rest.Config, node string, c client.Client) *vmWatch {
	return &vmWatch{cfg: cfg, node: node, client: c, look: time.Minute, dirty: map[string]bool{}, news: make(chan struct{}, 1)}
}

// take gives what has changed since it was last called.
func (w *vmWatch) take() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.dirty
	w.dirty = map[string]bool{}
	return out
}

func (w *vmWatch) mark(obj any) {
	if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	w.mu.Lock()
	w.dirty[client.ObjectKeyFromObject(u).String()] = true
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
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
		DeleteFunc: w.mark,
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
	for _, field := range []string{"activePods", "nodeName", "interfaces"} {
		if v, ok, _ := unstructured.NestedFieldCopy(u.Object, "status", field); ok {
			_ = unstructured.SetNestedField(out.Object, v, "status", field)
		}
	}
	return out, nil
}

// sameVMI says that two versions differ in nothing that a confirmation reads.
func sameVMI(before *unstructured.Unstructured, after any) bool {
	a, ok := after.(*unstructured.Unstructured)
	return ok && reflect.DeepEqual(before.Object["status"], a.Object["status"]) && labels.Equals(before.GetLabels(), a.GetLabels())
}
