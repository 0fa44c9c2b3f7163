package controller

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// agentLabels are those of the DaemonSet's pods (deploy/base/daemonset.yaml).
var agentLabels = labels.Set{"app.kubernetes.io/name": "homeport", "app.kubernetes.io/component": "agent"}

// agents knows from their pods which nodes have no agent that is ready. What such a
// node reported last may be long untrue, and nobody there takes new ports. A nil
// *agents misses none.
type agents struct {
	client.Reader
	// grace is how long a node may be without: an update takes its agent away for
	// some seconds.
	grace time.Duration

	mu     sync.Mutex
	missed map[string]time.Time // since when, by node
}

func newAgents(r client.Reader, grace time.Duration) *agents {
	return &agents{Reader: r, grace: grace, missed: map[string]time.Time{}}
}

// agentPods limits what is kept of the cluster's pods.
func agentPods(namespace string) cache.ByObject {
	return cache.ByObject{Namespaces: map[string]cache.Config{namespace: {LabelSelector: labels.SelectorFromSet(agentLabels)}}}
}

// lost says that a node has been without a ready agent for too long, or for how much
// longer it may be; 0 is that it has one.
func (a *agents) lost(ctx context.Context, node string) (lost bool, left time.Duration, err error) {
	if a == nil {
		return false, 0, nil
	}
	var pods corev1.PodList
	if err := a.List(ctx, &pods, client.MatchingFields{byNode: node}, client.UnsafeDisableDeepCopy); err != nil {
		return false, 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range pods.Items {
		if isReady(&pods.Items[i]) {
			delete(a.missed, node)
			return false, 0, nil
		}
	}
	since, known := a.missed[node]
	if !known {
		since = time.Now()
		a.missed[node] = since
	}
	left = a.grace - time.Since(since)
	return left <= 0, max(left, 0), nil
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// otherReadiness says whether an agent came to be ready, or is it no more.
func otherReadiness(before, after client.Object) bool {
	return never(before, after) || isReady(before.(*corev1.Pod)) != isReady(after.(*corev1.Pod))
}

// slimPod keeps of an agent's pod where it is and whether it is ready.
func slimPod(o *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: o.Name, Namespace: o.Namespace, UID: o.UID, ResourceVersion: o.ResourceVersion}}
	out.Spec.NodeName = o.Spec.NodeName
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return out
}
