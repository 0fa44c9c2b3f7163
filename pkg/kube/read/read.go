// Package read is what the desired state wants of the Kubernetes API, without the
// libraries that ask it: a program that carries them takes four times as long to
// start, whether it asks or not. Package live has them.
package read

import (
	"context"
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Object is any object of Kubernetes.
type Object interface {
	metav1.Object
	runtime.Object
}

// List is a list of such.
type List interface {
	metav1.ListInterface
	runtime.Object
}

// API is one API server.
type API interface {
	// Client asks it anew each time. It knows the kinds that it is given, and asks for
	// no others.
	Client(kinds meta.RESTMapper) (Reader, error)
	// Cache holds what its watches bring.
	Cache(CacheOptions) (Cache, error)
}

// Reader reads objects into what it is given, which is of their kind. Errors are those
// of k8s.io/apimachinery/pkg/api/errors.
type Reader interface {
	Get(ctx context.Context, at types.NamespacedName, into Object) error
	// List gives at most so many; 0 is all.
	List(ctx context.Context, into List, limit int64) error
}

// Cache is a Reader that answers from memory.
type Cache interface {
	Reader
	// Informer watches a kind from Start on, or at once after it.
	Informer(ctx context.Context, of Object) (Informer, error)
	// Start watches until ctx ends.
	Start(ctx context.Context) error
}

// Informer is the watch of one kind.
type Informer interface {
	// HasSynced says whether all there was at first is in the cache.
	HasSynced() bool
	// Tell has the handler called for each object; told says whether it was for all that
	// there was at first.
	Tell(Handler) (told func() bool, err error)
}

// Handler is called for each object that is new, another or gone. What is gone may be
// something that only tells its name (client-go's DeletedFinalStateUnknown).
type Handler interface {
	OnAdd(object any, atFirst bool)
	OnUpdate(before, after any)
	OnDelete(object any)
}

// Transform makes of an object what is kept of it.
type Transform = func(any) (any, error)

// CacheOptions say what is watched, and what is kept of it. Objects are shared: who
// reads them changes nothing.
type CacheOptions struct {
	Kinds     meta.RESTMapper
	Transport func(http.RoundTripper) http.RoundTripper // sees each request and answer
	Transform Transform                                 // of kinds that have none of their own
	Watches   []Watch                                   // kinds of which less is watched, or other parts kept
}

// Watch narrows what is watched of a kind; nil selectors are all.
type Watch struct {
	Of        Object
	Labels    labels.Selector
	Fields    fields.Selector
	Transform Transform
}
