// Package controller is the cluster-wide part of Homeport, of which one replica
// works at a time. It gives namespaces the NetworkAttachmentDefinitions of their
// VLANNetworks, sums up in the status of what people write what nodes report,
// keeps what is in use from being deleted, clears away what nodes leave that
// are gone, and has the key be there by which agents know each other.
//
// Everything is level-triggered: what is done depends on the objects as they are,
// never on which of them changed. What can only be said of all objects together
// is worked out in one place (see judge), and each object is told its part.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// LeaseName is the Lease that the working replica holds.
const LeaseName = "homeport-controller"

// Config is what a controller needs.
type Config struct {
	// REST reaches the API server.
	REST *rest.Config
	// Namespace of the Lease, of the agents and of their Secret, which is not looked after if
	// it is "".
	Namespace string
	// WatchAgents has nodes told of whose agent, as a pod of the DaemonSet, is not
	// ready.
	WatchAgents bool
	// LeaderElect waits for the Lease before anything is written.
	LeaderElect bool
	// MetricsAddr and HealthAddr, as host:port, serve /metrics, and /healthz and
	// /readyz; "" serves nothing.
	MetricsAddr, HealthAddr string
	Log                     *slog.Logger
}

// Controller is the cluster-wide part of Homeport.
type Controller struct {
	cfg   Config
	mgr   manager.Manager
	judge *judge
	nads  *nads
	ready atomic.Bool
	// Waits; tests shorten them.
	settle time.Duration // after a change at others, for more of them to come
	poll   time.Duration // between looks for the kind NetworkAttachmentDefinition
	retry  time.Duration // between tries of an API server that cannot be asked at the start
	word   time.Duration // that a new VLANTrunkNode may have no status yet
	grace  time.Duration // that a node may be without a ready agent
	look   time.Duration // between looks at the agents' Secret
}

// LogTo makes the libraries that a controller is built on write to a log. It is
// for the whole process: main calls it.
func LogTo(log *slog.Logger) {
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
}

// New makes a controller. Nothing is asked of the API server before Run.
func New(cfg Config) (*Controller, error) {
	c := &Controller{cfg: cfg, settle: 300 * time.Millisecond, poll: 10 * time.Second, retry: 2 * time.Second, word: 10 * time.Second, grace: time.Minute, look: time.Minute}
	c.cfg.REST = rest.CopyConfig(cfg.REST)
	if c.cfg.REST.QPS == 0 {
		c.cfg.REST.QPS, c.cfg.REST.Burst = 50, 100
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	kept := cache.Options{DefaultTransform: slim}
	if cfg.WatchAgents {
		kept.ByObject = map[client.Object]cache.ByObject{&corev1.Pod{}: agentPods(cfg.Namespace)}
	}
	again := true // several in one process, in tests
	// The Lease is not lost to an API server that is slow, and given back at the end, so
	// that the next replica need not wait for it.
	lease, renew, retry := 60*time.Second, 45*time.Second, 5*time.Second
	var err error
	c.mgr, err = manager.New(c.cfg.REST, manager.Options{
		Scheme:                        scheme,
		MapperProvider:                func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return mapper(), nil },
		Logger:                        logr.FromSlogHandler(cfg.Log.Handler()),
		Cache:                         kept,
		Client:                        client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		LeaderElection:                cfg.LeaderElect,
		LeaderElectionID:              LeaseName,
		LeaderElectionNamespace:       cfg.Namespace,
		LeaderElectionReleaseOnCancel: true, // the process ends when Run returns
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
		Metrics:                       metricsserver.Options{BindAddress: orOff(cfg.MetricsAddr)},
		HealthProbeBindAddress:        "0", // see serveHealth
		Controller:                    config.Controller{SkipNameValidation: &again, CacheSyncTimeout: 10 * time.Minute},
	})
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	c.judge = newJudge(c.mgr.GetCache())
	c.nads, err = newNADs(c.cfg.REST, c.mgr.GetHTTPClient(), cfg.Log)
	return c, err
}

// orOff is an address as controller-runtime wants it, to which "" is a default.
func orOff(addr string) string {
	if addr == "" {
		return "0"
	}
	return addr
}

// Run works until ctx ends, or the Lease is lost, which is an error. An API server that
// is away is waited for.
func (c *Controller) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer stop()
	if err := c.serveHealth(ctx, &serving); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if err := c.checkKinds(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	c.nads.poll = c.poll
	if err := c.setup(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if err := c.mgr.Start(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

// checkKinds wants the kinds that everything here is about. Without them the
// watches would only time out. It asks until it is answered, or ctx ends.
func (c *Controller) checkKinds(ctx context.Context) error {
	said := false
	for kinds := ourKinds(); len(kinds) > 0; {
		err := c.checkKind(ctx, kinds[0])
		switch {
		case err == nil:
			kinds = kinds[1:]
			continue
		case ctx.Err() != nil:
			return nil
		case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
			return fmt.Errorf("the cluster has no kind %s (%s): apply Homeport's CRDs first", kinds[0], v1alpha1.APIVersion)
		case apierrors.IsForbidden(err):
			return fmt.Errorf("%w: apply the controller's ClusterRole", err)
		case !said:
			c.cfg.Log.Warn("the Kubernetes API cannot be asked; tried again", "server", c.cfg.REST.Host, "error", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.retry):
		}
	}
	return nil
}

func (c *Controller) checkKind(ctx context.Context, kind string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
	return c.mgr.GetAPIReader().List(ctx, list, client.Limit(1))
}

// ourKinds are the kinds of Homeport that the controller reads.
func ourKinds() []string {
	return append(v1alpha1.Kinds(), kindTrunkNode, kindPort, kindIdentity)
}

const (
	kindTrunkNode = "VLANTrunkNode"
	kindPort      = "VMPort"
	kindIdentity  = "VMIdentity"
)

// mapper knows the kinds that are read and written, so that a start needs no
// discovery.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Node", "Namespace"} {
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	for _, kind := range []string{"Secret", "Pod", "PodList"} { // a cache of one namespace asks for both
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range ourKinds() {
		scope := meta.RESTScopeRoot
		if kind == kindPort || kind == kindIdentity {
			scope = meta.RESTScopeNamespace
		}
		m.Add(v1alpha1.GroupVersion.WithKind(kind), scope)
	}
	nads := nadKind.GroupVersion().WithResource("network-attachment-definitions")
	m.AddSpecific(nadKind, nads, nadKind.GroupVersion().WithResource("network-attachment-definition"), meta.RESTScopeNamespace)
	return m
}

// slim drops what nobody here reads from an object before it is kept. What counts
// packets changes all the time, and there is one for each VM.
func slim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	switch o := obj.(type) {
	case *metav1.PartialObjectMetadata:
		o.SetAnnotations(nil)
	case *v1alpha1.VMPort:
		o.Status = slimPort(&o.Status)
	case *corev1.Node:
		return slimNode(o), nil
	case *corev1.Pod:
		return slimPod(o), nil
	}
	return obj, nil
}

// slimPort keeps of a port which boot it is of, and whether we say that its node is
// down.
func slimPort(o *v1alpha1.VMPortStatus) v1alpha1.VMPortStatus {
	out := v1alpha1.VMPortStatus{BootID: o.BootID}
	if saysDown(o) {
		out.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: v1alpha1.ReasonNodeDown}}
	}
	return out
}

// slimNode keeps of a node its boot and whether it is ready, which the cluster itself
// keeps up to date: a node that is down cannot say so.
func slimNode(o *corev1.Node) *corev1.Node {
	out := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}}
	out.Status.NodeInfo.BootID = o.Status.NodeInfo.BootID
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.NodeReady {
			out.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return out
}

// isDown says that a node was up once and is not now. One of which that is not
// known is taken at the word of its agent.
func isDown(o *corev1.Node) bool {
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status != corev1.ConditionTrue
		}
	}
	return false
}

// namesOnly is an object of core Kubernetes of which no more than the metadata is
// read.
func namesOnly(kind string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return o
}

// judged is an object of a kind that is judged: those are kept as the API server
// has them, so that a field that this version does not know can be seen.
func judged(kind string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	return u
}

// typed reads what judged has into one of our types, as far as that knows it.
func typed[T any](u *unstructured.Unstructured) (*T, error) {
	o := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o); err != nil {
		return nil, fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return o, nil
}

// serveHealth answers probes from the start, also while the API server is waited for:
// alive is the process that answers, ready the one whose watches have read everything
// once.
func (c *Controller) serveHealth(ctx context.Context, serving *sync.WaitGroup) error {
	if c.cfg.HealthAddr == "" {
		return nil
	}
	l, err := net.Listen("tcp", c.cfg.HealthAddr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/healthz", healthz.CheckHandler{Checker: healthz.Ping})
	mux.Handle("/readyz", healthz.CheckHandler{Checker: func(*http.Request) error {
		if !c.ready.Load() {
			return errors.New("the Kubernetes API has not been read yet")
		}
		return nil
	}})
	s := &manager.Server{Name: "health", Server: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}, Listener: l}
	serving.Go(func() {
		if err := s.Start(ctx); err != nil {
			c.cfg.Log.Error("probes are not answered any more", "error", err)
		}
	})
	return nil
}

// readOnce notes when the watches have read everything once.
func (c *Controller) readOnce() error {
	return c.mgr.Add(anyReplica(func(ctx context.Context) error {
		c.ready.Store(c.mgr.GetCache().WaitForCacheSync(ctx))
		<-ctx.Done()
		return nil
	}))
}

// anyReplica runs whether or not this replica holds the Lease.
type anyReplica func(context.Context) error

func (f anyReplica) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (anyReplica) NeedLeaderElection() bool { return false }
