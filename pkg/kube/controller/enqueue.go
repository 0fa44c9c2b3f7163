package controller

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// conflictWait is how long somebody else's write takes to be seen.
const conflictWait = 100 * time.Millisecond

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func request(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: name}}
}

// reaction is what an object's change means to the objects of another kind: they
// are looked at once no more changes come for a while. It implements
// handler.EventHandler.
type reaction struct {
	whom  func(ctx context.Context, o client.Object) []string // by the object as it was and as it is
	when  func(before, after client.Object) bool              // nil is always
	after time.Duration
}

func (r reaction) add(q queue, names []string) {
	for _, name := range names {
		if name != "" {
			q.AddAfter(request(name), r.after)
		}
	}
}

// Create implements handler.EventHandler.
func (r reaction) Create(ctx context.Context, e event.CreateEvent, q queue) {
	r.add(q, r.whom(ctx, e.Object))
}

// Update implements handler.EventHandler.
func (r reaction) Update(ctx context.Context, e event.UpdateEvent, q queue) {
	if r.when != nil && !r.when(e.ObjectOld, e.ObjectNew) {
		return
	}
	r.add(q, r.whom(ctx, e.ObjectOld))
	r.add(q, r.whom(ctx, e.ObjectNew))
}

// Delete implements handler.EventHandler.
func (r reaction) Delete(ctx context.Context, e event.DeleteEvent, q queue) {
	r.add(q, r.whom(ctx, e.Object))
}

// Generic implements handler.EventHandler.
func (r reaction) Generic(context.Context, event.GenericEvent, queue) {}

// newSpec says whether an object says something else now.
func newSpec(before, after client.Object) bool {
	return before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID()
}

// never is for those who react only to what comes and goes.
func never(before, after client.Object) bool { return before.GetUID() != after.GetUID() }

// readyState is the part of a condition Ready that others go by.
type readyState struct {
	status metav1.ConditionStatus
	reason string
	of     int64
}

func stateOf(c *metav1.Condition) readyState {
	if c == nil {
		return readyState{}
	}
	return readyState{c.Status, c.Reason, c.ObservedGeneration}
}

// told is a source of names from elsewhere than the API: give gets the function
// that adds one, before the controller's first work.
func told(after time.Duration, give func(add func(name string))) source.Source {
	return source.Func(func(_ context.Context, q queue) error {
		give(func(name string) { q.AddAfter(request(name), after) })
		return nil
	})
}
