package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nadKind is the kind that Multus reads.
var nadKind = schema.GroupVersionKind{Group: "k8s.cni.cncf.io", Version: "v1", Kind: "NetworkAttachmentDefinition"}

const byName = "metadata.name"

// nads keeps the cluster's NetworkAttachmentDefinitions in memory, while it has
// that kind at all: somebody may install Multus later, or remove it. The manager's
// own cache would not start without the kind.
type nads struct {
	cfg  *rest.Config
	http *http.Client
	log  *slog.Logger
	poll time.Duration
	// direct asks the API server itself.
	direct client.Client

	mu     sync.Mutex
	looked bool  // it is known whether there is the kind, or why it is not
	failed error // why they cannot be read, while there is no cache
	cache  cache.Cache
	stop   context.CancelFunc // of the cache; nil while there is none
	tell   func(name string)
	all    func()
}

func newNADs(cfg *rest.Config, h *http.Client, log *slog.Logger) (*nads, error) {
	direct, err := client.New(cfg, client.Options{HTTPClient: h, Mapper: mapper()})
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	return &nads{cfg: cfg, http: h, log: log, direct: direct, tell: func(string) {}, all: func() {}}, nil
}

func newNAD() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(nadKind)
	return u
}

func newNADList() *unstructured.UnstructuredList {
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(nadKind.GroupVersion().WithKind(nadKind.Kind + "List"))
	return l
}

// onChange has tell called with the name of each that changes, and all when the
// kind comes or goes.
func (n *nads) onChange(tell func(name string), all func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell, n.all = tell, all
}

// reader gives what is in memory; nil if the cluster has no such kind, or, with an
// error, if they cannot be read. Nothing is known yet as long as known is false.
func (n *nads) reader() (r client.Reader, known bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cache == nil {
		return nil, n.looked, n.failed
	}
	return n.cache, n.looked, nil
}

// Start implements manager.Runnable.
func (n *nads) Start(ctx context.Context) error {
	tick := time.NewTicker(n.poll)
	defer tick.Stop()
	var last string
	for {
		err := n.look(ctx)
		if text := fmt.Sprint(err); err != nil && text != last && ctx.Err() == nil {
			n.log.Error("cannot look for NetworkAttachmentDefinitions; tried again", "error", err)
			last = text
			n.fail(err)
		} else if err == nil {
			last = ""
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look finds out whether there is the kind, and acts on news.
func (n *nads) look(ctx context.Context) error {
	err := n.direct.List(ctx, newNADList(), client.Limit(1))
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err // nothing is known: what was known holds
	}
	n.mu.Lock()
	looked, has, stop := n.looked && n.failed == nil, n.cache != nil, n.stop
	n.mu.Unlock()
	switch {
	case missing && (has || !looked):
		if stop != nil {
			stop()
		}
		n.set(nil, nil)
		n.log.Info("the cluster has no NetworkAttachmentDefinitions; looking for them", "every", n.poll)
	case !missing && !has:
		return n.follow(ctx)
	}
	return nil
}

// fail keeps why they cannot be read, where nothing is known of them. One reason of
// the API server is told once, however its text goes on.
func (n *nads) fail(err error) {
	n.mu.Lock()
	news := n.cache == nil && (n.failed == nil || apierrors.ReasonForError(n.failed) != apierrors.ReasonForError(err))
	if news {
		n.looked, n.failed = true, err
	}
	all := n.all
	n.mu.Unlock()
	if news {
		all()
	}
}

func (n *nads) set(c cache.Cache, stop context.CancelFunc) {
	n.mu.Lock()
	n.looked, n.failed, n.cache, n.stop = true, nil, c, stop
	all := n.all
	n.mu.Unlock()
	all()
}

// follow reads what there is, and keeps a watch on it.
func (n *nads) follow(ctx context.Context) error {
	c, err := cache.New(n.cfg, cache.Options{HTTPClient: n.http, Mapper: mapper(), DefaultTransform: slim})
	if err != nil {
		return err
	}
	if err := c.IndexField(ctx, newNAD(), byName, func(o client.Object) []string { return []string{o.GetName()} }); err != nil {
		return err
	}
	i, err := c.GetInformer(ctx, newNAD(), cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	tell := func(obj any) {
		if d, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		if o, ok := obj.(client.Object); ok {
			n.mu.Lock()
			f := n.tell
			n.mu.Unlock()
			f(o.GetName())
		}
	}
	if _, err := i.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, after any) { tell(after) }, DeleteFunc: tell,
	}); err != nil {
		return err
	}
	within, stop := context.WithCancel(ctx)
	go func() {
		_ = c.Start(within) // its errors are those of requests, which are tried again
	}()
	wait, cancel := context.WithTimeout(within, n.poll)
	defer cancel()
	if !c.WaitForCacheSync(wait) {
		stop()
		return fmt.Errorf("they could not be read within %s", n.poll)
	}
	n.set(c, stop)
	return nil
}
