// Package kube writes what a node has to say to the Kubernetes API: a
// VLANTrunkNode for each trunk, a VMPort for each port, a VMIdentity for each NIC
// of a VM or of a pod that was given addresses, and events. The cluster-wide part is
// in pkg/kube/controller.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Node is what is reported on.
type Node interface {
	Status() wire.NodeStatus
	// Ports lists the ports, and what was dropped at each by reason.
	Ports() ([]wire.Port, []wire.Drop)
	// Changed is sent to when there may be news.
	Changed() <-chan struct{}
	// Own is told whose a port is, and what is known of its addresses elsewhere.
	// News: what Ports says of them is another since. Settled is false while the node has not read what is known already.
	Own(port attach.Key, o wire.Owner) (news, settled bool)
}

// Reporter keeps the objects of one node as the node is. It knows what it wrote
// last and asks the API server for nothing else, so that a node at rest costs
// nothing; now and then it looks whether others changed or deleted its objects.
type Reporter struct {
	node   string
	client client.Client // uncached
	events *recorder
	watch  *vmWatch
	// podNews has the pods of this node that are not as they were.
	podNews *news
	log     *slog.Logger

	trunks  map[string]*v1alpha1.VLANTrunkNode // by name, as the server last had them
	ports   map[string]*v1alpha1.VMPort        // by namespace/name
	pods    map[string]*v1alpha1.VMIdentity    // of pods without a VM, by namespace/name; nil: they were not listed
	settled map[attach.Key]bool                // ports of whose addresses the node knows what was known before
	paces   map[told]flowcontrol.RateLimiter   // of what a guest can change at will
	held    bool                               // some of that is not written yet
	vms     map[string]*confirmation           // by namespace/pod
	written map[string]time.Time               // when a port's counters were last written, by namespace/name
	looked  time.Time                          // when the server's objects were last listed
	offered map[string]bool                    // resources that the node has of us
	failing string                             // what was last wrong, to say it once
	claims  claims                             // of ReachabilityChecks
	// When the node was last looked at for its resources.
	nodeLooked time.Time
	// Waits; tests shorten them. The first one after an error is a second.
	countersEvery, lookEvery, nodeEvery, retryMost time.Duration
}

// What a node may ask of the API server, in requests a second. The server protects
// itself (API Priority and Fairness); client-go's default of 5 would have the state
// of a node's last port wait for a minute when a hundred of them change at once.
const (
	qps   = 50
	burst = 100
)

// NewReporter makes a Reporter that writes to the API server of cfg for a node.
func NewReporter(cfg *rest.Config, node string, log *slog.Logger) (*Reporter, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	paced := rest.CopyConfig(cfg)
	paced.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(qps, burst) // one for all kinds
	c, err := client.New(paced, client.Options{Scheme: scheme, Mapper: mapper()})
	if err != nil {
		return nil, fmt.Errorf("write to the Kubernetes API at %s: %w", cfg.Host, err)
	}
	return &Reporter{node: node, client: c, log: log, events: &recorder{client: c, node: node}, watch: newVMWatch(cfg, node, c), podNews: newNews(),
		vms: map[string]*confirmation{}, written: map[string]time.Time{},
		countersEvery: 30 * time.Second, lookEvery: 10 * time.Minute, nodeEvery: time.Minute, retryMost: 30 * time.Second}, nil
}

// PodChanged has a pod of this node asked about anew: its labels may be others. It
// may be called by anybody at any time.
func (r *Reporter) PodChanged(namespace, name string) { r.podNews.add(namespace + "/" + name) }

// Run reports until ctx ends. An API server that cannot be reached, or refuses,
// is tried again, and nothing else waits for it.
func (r *Reporter) Run(ctx context.Context, node Node) error {
	var watching sync.WaitGroup
	watching.Go(func() { r.watch.run(ctx, r.log) })
	defer watching.Wait()
	r.follow(ctx, node)
	return nil
}

// A report waits until no news have come for quietAfter, so that those of a burst
// are one report, which reads each port once and stays out of the way of the ADDs
// that make them; but no longer than holdMost after the first.
const (
	quietAfter = 250 * time.Millisecond
	holdMost   = 2 * time.Second
)

// After an error news wait as well: a server that is overloaded is not helped by
// being asked at each of them. But what it refuses of one object keeps no other's
// news waiting.
func (r *Reporter) follow(ctx context.Context, node Node) {
	retry := time.Second
	next := time.NewTimer(0)
	defer next.Stop()
	var since time.Time     // of the first news that were not looked at yet
	var notBefore time.Time // comes the next report
	for {
		select {
		case <-ctx.Done():
			return
		case <-node.Changed():
		case <-r.watch.news.told:
		case <-r.podNews.told:
		case <-next.C:
			since = time.Time{}
			wait, err := r.round(ctx, node)
			r.tellTrouble(err)
			if err != nil {
				wait = retry/2 + rand.N(retry/2+1) // nodes that failed together do not come back together
				retry = min(2*retry, r.retryMost)
				if !onlyRefused(err) {
					notBefore = time.Now().Add(wait)
				}
			} else {
				retry = time.Second
			}
			next.Reset(wait)
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		next.Reset(max(min(quietAfter, max(0, time.Until(since.Add(holdMost)))), time.Until(notBefore)))
	}
}

// onlyRefused says that the server is well: each of the errors is its verdict about one
// object.
func onlyRefused(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(e error) bool { return !onlyRefused(e) })
	}
	if inner := errors.Unwrap(err); inner != nil {
		return onlyRefused(inner)
	}
	switch apierrors.ReasonForError(err) {
	case metav1.StatusReasonInvalid, metav1.StatusReasonForbidden, metav1.StatusReasonNotFound, metav1.StatusReasonConflict, metav1.StatusReasonAlreadyExists:
		return true
	}
	return false
}

// tellTrouble logs what is wrong, once.
func (r *Reporter) tellTrouble(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != r.failing && text != "" {
		r.log.Warn("the node cannot be reported to Kubernetes; tried again", "err", err)
	}
	if text == "" && r.failing != "" {
		r.log.Info("the node is reported to Kubernetes again")
	}
	r.failing = text
}

// round writes what is news and says when to look again at the latest. What goes
// wrong with one object keeps no other from being written. Ports that ended come
// first, then what has changed, and counters last.
func (r *Reporter) round(ctx context.Context, node Node) (time.Duration, error) {
	if time.Since(r.looked) > r.lookEvery {
		if err := r.look(ctx); err != nil {
			return 0, err
		}
		r.looked = time.Now()
	}
	r.held = false
	status := node.Status()
	ports, drops := node.Ports()
	errs := []error{r.removePorts(ctx, ports)}
	wait, err := r.confirmAll(ctx, ports)
	if r.tellOwners(node, status, ports) {
		ports, drops = node.Ports()
	}
	errs = append(errs, err, r.reportTrunks(ctx, status, ports))
	counters, err := r.reportPorts(ctx, ports, drops)
	errs = append(errs, err, r.reportIdentities(ctx, ports), r.reportPods(ctx, ports), r.reportStatus(ctx, ports), r.reportCounters(ctx, counters, node))
	if r.held {
		wait = min(wait, addressEvery)
	}
	return wait, errors.Join(errs...)
}

// look reads this node's objects as the server has them. Those of VMs are read before each is written.
func (r *Reporter) look(ctx context.Context) error {
	mine := client.MatchingFields{"spec.node": r.node}
	var trunks v1alpha1.VLANTrunkNodeList
	var ports v1alpha1.VMPortList
	if err := errors.Join(r.client.List(ctx, &trunks, mine), r.client.List(ctx, &ports, mine)); err != nil {
		return fmt.Errorf("list the objects of node %s: %w", r.node, err)
	}
	r.trunks, r.ports, r.pods = map[string]*v1alpha1.VLANTrunkNode{}, map[string]*v1alpha1.VMPort{}, nil
	for _, c := range r.vms {
		c.identified = nil
	}
	for i := range trunks.Items {
		r.trunks[trunks.Items[i].Name] = &trunks.Items[i]
	}
	for i := range ports.Items {
		p := &ports.Items[i]
		r.ports[p.Namespace+"/"+p.Name] = p
	}
	return nil
}

// write brings one object to the server: made if it is new, then its spec if that
// changed, then its status. It returns an error that names the object. A conflict
// is settled by looking again, as is all that shows that the server has the object
// otherwise than it is known here.
func (r *Reporter) write(ctx context.Context, o client.Object, isNew, spec bool) error {
	gvk := o.GetObjectKind().GroupVersionKind()
	defer func() { o.GetObjectKind().SetGroupVersionKind(gvk) }() // the client takes it off
	kind := gvk.Kind
	wanted := o.DeepCopyObject().(client.Object)
	var err error
	switch {
	case isNew:
		err = r.client.Create(ctx, o)
	case spec:
		err = r.client.Update(ctx, o)
	}
	copyStatus(o, wanted)
	if err == nil {
		err = r.client.Status().Update(ctx, o)
		copyStatus(o, wanted) // what an older CRD leaves out is not written anew each time
	}
	if err != nil {
		identity, ok := o.(*v1alpha1.VMIdentity)
		fetched := ok && identity.Spec.VM != nil // before each write
		if !fetched && (apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)) {
			r.looked = time.Time{}
		}
		return fmt.Errorf("write %s %s: %w", kind, client.ObjectKeyFromObject(o), err)
	}
	return nil
}

// remove deletes an object; one that is gone is no error.
func (r *Reporter) remove(ctx context.Context, o client.Object) error {
	if err := r.client.Delete(ctx, o); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %T %s: %w", o, o.GetName(), err)
	}
	return nil
}

// copyStatus gives an object the status that the server dropped when it took the
// rest: status is written apart.
func copyStatus(to, from client.Object) {
	switch t := to.(type) {
	case *v1alpha1.VLANTrunkNode:
		t.Status = from.(*v1alpha1.VLANTrunkNode).Status
	case *v1alpha1.VMPort:
		t.Status = from.(*v1alpha1.VMPort).Status
	case *v1alpha1.VMIdentity:
		t.Status = from.(*v1alpha1.VMIdentity).Status
	}
}
