package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// most is how many names a message has; the rest is counted.
const most = 10

// some joins the first items, and counts the rest.
func some(items []string, sep string) string {
	if len(items) <= most {
		return strings.Join(items, sep)
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:most], sep), len(items)-most)
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// writer is how controllers read from memory, and write.
type writer struct {
	client.Client
	live   client.Reader // asks the API server itself
	events events.EventRecorder
}

// by makes a reconciler of what is done for one name. That somebody else wrote
// first is no error: it is done again when their version is here.
func by(do func(ctx context.Context, name string) error) reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
		err := do(ctx, r.Name)
		var wait later
		switch {
		case apierrors.IsConflict(err):
			return reconcile.Result{RequeueAfter: conflictWait}, nil
		case errors.As(err, &wait):
			return reconcile.Result{RequeueAfter: time.Duration(wait)}, nil
		}
		return reconcile.Result{}, err
	})
}

// later is that all is done for now, and more is to be done after a while.
type later time.Duration

func (l later) Error() string { return "to be looked at again in " + time.Duration(l).String() }

// ready is a condition Ready of an object.
func ready(o client.Object, ok bool, reason, message string) metav1.Condition {
	return condition(o, v1alpha1.ConditionReady, truth(ok), reason, message)
}

func truth(ok bool) metav1.ConditionStatus {
	if ok {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

// condition is one of an object's present generation.
func condition(o client.Object, kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	const limit = 32768 // of the API
	if len(message) > limit {
		message = message[:limit]
	}
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: o.GetGeneration()}
}

// publish writes after's status if it is not before's, and tells the transitions
// of its conditions as events.
func (w *writer) publish(ctx context.Context, before, after client.Object, was, is []metav1.Condition) error {
	if equality.Semantic.DeepEqual(before, after) {
		return nil
	}
	var news []metav1.Condition
	for _, c := range is {
		if old := meta.FindStatusCondition(was, c.Type); transition(old, c) {
			news = append(news, c)
		}
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := w.Status().Patch(ctx, after, patch); err != nil {
		return client.IgnoreNotFound(err)
	}
	for _, c := range news {
		kind := corev1.EventTypeNormal
		if (c.Type == v1alpha1.ConditionReady) != (c.Status == metav1.ConditionTrue) {
			kind = corev1.EventTypeWarning
		}
		w.event(after, nil, kind, c.Reason, c.Message)
	}
	return nil
}

// transition says whether a condition is worth an event: it changed, or it is new
// and not what everybody expects.
func transition(old *metav1.Condition, c metav1.Condition) bool {
	if old == nil {
		return (c.Type == v1alpha1.ConditionReady) != (c.Status == metav1.ConditionTrue) && c.Status != metav1.ConditionUnknown
	}
	return old.Status != c.Status || old.Reason != c.Reason
}

// event tells one; its note has 1024 bytes at most.
func (w *writer) event(o, related client.Object, kind, reason, message string) {
	const limit = 1024
	if len(message) > limit {
		message = message[:limit-3] + "..."
	}
	w.events.Eventf(o, related, kind, reason, reason, "%s", message)
}

// hold sets our finalizer, or takes it off. One cannot be set any more on an
// object that is being deleted.
func (w *writer) hold(ctx context.Context, o client.Object, want bool) error {
	has := controllerutil.ContainsFinalizer(o, v1alpha1.Finalizer)
	if has == want || want && !o.GetDeletionTimestamp().IsZero() {
		return nil
	}
	before := o.DeepCopyObject().(client.Object)
	if want {
		controllerutil.AddFinalizer(o, v1alpha1.Finalizer)
	} else {
		controllerutil.RemoveFinalizer(o, v1alpha1.Finalizer)
	}
	return client.IgnoreNotFound(w.Patch(ctx, o, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})))
}
