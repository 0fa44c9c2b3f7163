package desired

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/homeport-cni/homeport/pkg/kube/read"
)

// optional watches a kind that others bring and a cluster may not have. While it
// has none it is looked for now and then; from when it is found it is watched for
// good, so that what is known of it outlives its being taken away.
type optional struct {
	kind     schema.GroupVersionKind
	selector labels.Selector // nil is all
	trim     read.Transform
	api      read.API
	mapper   meta.RESTMapper
	changed  func()
	look     time.Duration // how often to look for it while it is not there

	health *apiHealth

	mu     sync.Mutex
	asked  bool  // whether the cluster has it was found out, or why not
	failed error // why it could not be found out
	cache  read.Cache
	synced func() bool
}

func newOptional(api read.API, kind schema.GroupVersionKind, plural string, scope meta.RESTScope, selector labels.Selector, trim read.Transform, changed func()) *optional {
	m := meta.NewDefaultRESTMapper(nil)
	resource := kind.GroupVersion().WithResource(plural)
	m.AddSpecific(kind, resource, resource, scope)
	o := &optional{kind: kind, selector: selector, trim: trim, api: api, mapper: m, changed: changed, look: 30 * time.Second, health: newAPIHealth()}
	o.health.changed = changed
	return o
}

func (o *optional) listKind() *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(o.kind.GroupVersion().WithKind(o.kind.Kind + "List"))
	return list
}

// run watches until ctx ends.
func (o *optional) run(ctx context.Context) {
	for {
		err := o.begin(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := o.look
		o.mu.Lock()
		switch {
		case apierrors.IsNotFound(err):
			o.asked, o.failed = true, nil
		case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			o.asked, o.failed = true, fmt.Errorf("%w: apply the agent's ClusterRole and binding again", err)
		default: // the server is not well, and has not said yet
			wait = min(wait, time.Second)
		}
		o.mu.Unlock()
		o.changed()
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// begin watches until ctx ends, if the cluster has the kind; else it says why not.
func (o *optional) begin(ctx context.Context) error {
	c, err := o.api.Client(o.mapper)
	if err != nil {
		return err
	}
	if err := c.List(ctx, o.listKind(), 1); err != nil {
		return err
	}
	return o.follow(ctx)
}

// follow watches until ctx ends; an error is that it could not begin.
func (o *optional) follow(ctx context.Context) error {
	u := unstructuredOf(o.kind)
	c, err := o.api.Cache(read.CacheOptions{Kinds: o.mapper, Transport: o.health.wrap,
		Watches: []read.Watch{{Of: u, Labels: o.selector, Transform: o.trim}}})
	if err != nil {
		return err
	}
	i, err := c.Informer(ctx, u)
	if err != nil {
		return err
	}
	told, err := i.Tell(trimmedHandler{o.changed})
	if err != nil {
		return err
	}
	o.mu.Lock()
	o.asked, o.failed, o.cache, o.synced = true, nil, c, told
	o.mu.Unlock()
	go func() {
		wait(ctx, told)
		o.changed()
	}()
	return c.Start(ctx)
}

// trimmedHandler tells of objects of which what trim keeps is not as it was.
type trimmedHandler struct{ changed func() }

func (h trimmedHandler) OnAdd(any, bool) { h.changed() }
func (h trimmedHandler) OnDelete(any)    { h.changed() }
func (h trimmedHandler) OnUpdate(before, after any) {
	if !sameTrimmed(before, after) {
		h.changed()
	}
}

// sameTrimmed says that two versions of an object differ in nothing that trim keeps
// but the version.
func sameTrimmed(before, after any) bool {
	b, okB := before.(*unstructured.Unstructured)
	a, okA := after.(*unstructured.Unstructured)
	if !okA || !okB {
		return false
	}
	b, a = b.DeepCopy(), a.DeepCopy()
	b.SetResourceVersion("")
	a.SetResourceVersion("")
	return reflect.DeepEqual(b.Object, a.Object)
}

// errUnread says that nothing is known yet.
var errUnread = errors.New("has not been read yet")

// found says whether the cluster has, or had, the kind.
func (o *optional) found() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cache != nil
}

// list gives all objects. There are none if the cluster does not have the kind. The
// error wraps errUnread until it was asked once; any other says that what is given
// is what was last known, or nothing.
func (o *optional) list() ([]unstructured.Unstructured, error) {
	o.mu.Lock()
	asked, failed, c, synced := o.asked, o.failed, o.cache, o.synced
	o.mu.Unlock()
	switch {
	case !asked:
		return nil, fmt.Errorf("%s %w", o.kind.Kind, errUnread)
	case c == nil:
		return nil, failed
	case !synced():
		return nil, cmp.Or(o.health.problem(), fmt.Errorf("%s %w", o.kind.Kind, errUnread))
	}
	list := o.listKind()
	if err := c.List(context.Background(), list, 0); err != nil { // from memory
		return nil, err
	}
	return list.Items, o.health.problem()
}

// get gives one object, nil where list has none of that name.
func (o *optional) get(at types.NamespacedName) *unstructured.Unstructured {
	o.mu.Lock()
	c, synced := o.cache, o.synced
	o.mu.Unlock()
	if c == nil || !synced() {
		return nil
	}
	u := unstructuredOf(o.kind)
	if c.Get(context.Background(), at, u) != nil { // from memory
		return nil
	}
	return u
}

// trimTo keeps an object's names, labels and version, one annotation if that is not
// "", and the fields whose paths are given.
func trimTo(kind schema.GroupVersionKind, annotation string, paths ...[]string) read.Transform {
	return func(obj any) (any, error) {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return obj, nil
		}
		out := unstructuredOf(kind)
		out.SetNamespace(u.GetNamespace())
		out.SetName(u.GetName())
		out.SetUID(u.GetUID())
		out.SetResourceVersion(u.GetResourceVersion())
		out.SetLabels(u.GetLabels())
		if text, ok := u.GetAnnotations()[annotation]; ok {
			out.SetAnnotations(map[string]string{annotation: text})
		}
		for _, path := range paths {
			if v, ok, _ := unstructured.NestedFieldNoCopy(u.Object, path...); ok {
				_ = unstructured.SetNestedField(out.Object, v, path...)
			}
		}
		return out, nil
	}
}
