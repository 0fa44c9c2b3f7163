// Package live asks the Kubernetes API with client-go.
package live

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/homeport-cni/homeport/pkg/kube/read"
)

// Config reads how to reach the API server: from a kubeconfig file, or, where path is
// "", from what Kubernetes gives each pod.
func Config(path string) (*rest.Config, error) {
	if path == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("this is no pod that may ask the Kubernetes API: %w; outside a cluster name a file with --kubeconfig", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %s: %w", path, err)
	}
	return cfg, nil
}

// Log has what the Kubernetes libraries say logged.
func Log(log *slog.Logger) {
	klog.SetSlogLogger(log)
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
}

// New is the API server of cfg. Nothing is asked of it yet.
func New(cfg *rest.Config) read.API { return api{cfg} }

type api struct{ cfg *rest.Config }

func (a api) Client(kinds meta.RESTMapper) (read.Reader, error) {
	c, err := client.New(a.cfg, client.Options{Mapper: kinds})
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", a.cfg.Host, err)
	}
	return reader{c}, nil
}

func (a api) Cache(o read.CacheOptions) (read.Cache, error) {
	cfg := rest.CopyConfig(a.cfg)
	cfg.Wrap(o.Transport)
	shared := true
	options := cache.Options{Mapper: o.Kinds, DefaultTransform: o.Transform, DefaultUnsafeDisableDeepCopy: &shared,
		ByObject: map[client.Object]cache.ByObject{}}
	for _, w := range o.Watches {
		options.ByObject[w.Of] = cache.ByObject{Label: w.Labels, Field: w.Fields, Transform: w.Transform}
	}
	c, err := cache.New(cfg, options)
	if err != nil {
		return nil, fmt.Errorf("watch the Kubernetes API at %s: %w", cfg.Host, err)
	}
	return watches{reader{c}, c}, nil
}

type reader struct{ from client.Reader }

func (r reader) Get(ctx context.Context, at types.NamespacedName, into read.Object) error {
	return r.from.Get(ctx, at, into)
}

func (r reader) List(ctx context.Context, into read.List, limit int64) error {
	return r.from.List(ctx, into, client.Limit(limit))
}

type watches struct {
	reader
	cache cache.Cache
}

func (w watches) Informer(ctx context.Context, of read.Object) (read.Informer, error) {
	i, err := w.cache.GetInformer(ctx, of, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, err
	}
	return informer{i}, nil
}

func (w watches) Start(ctx context.Context) error { return w.cache.Start(ctx) }

type informer struct{ cache.Informer }

func (i informer) Tell(h read.Handler) (func() bool, error) {
	handle, err := i.AddEventHandler(h)
	if err != nil {
		return nil, err
	}
	return handle.HasSynced, nil
}
