package deploy

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// checkSteps: who runs a ReachabilityCheck says so for itself, and only who runs it says what it found.
func checkSteps(admin, n1, n2, nobody client.Client) []step {
	check := func() *v1alpha1.ReachabilityCheck {
		return &v1alpha1.ReachabilityCheck{ObjectMeta: metav1.ObjectMeta{Name: "hourly"}, Spec: v1alpha1.ReachabilityCheckSpec{Every: "1h"}}
	}
	runs := func(node string) func(*v1alpha1.ReachabilityCheck) {
		return func(o *v1alpha1.ReachabilityCheck) {
			o.Status.Running = &v1alpha1.CheckRunning{Node: node, Since: metav1.Now()}
		}
	}
	found := func(id, by, still string) func(*v1alpha1.ReachabilityCheck) {
		return func(o *v1alpha1.ReachabilityCheck) {
			o.Status.Running = nil
			if still != "" {
				runs(still)(o)
			}
			o.Status.Last = &v1alpha1.CheckRun{ID: id, Node: by, Started: metav1.Now(), Ended: metav1.Now()}
		}
	}
	as := func(c client.Client, change func(*v1alpha1.ReachabilityCheck)) func(context.Context) error {
		return fresh(c, admin, check(), true, change)
	}
	passed := func(condition string) func(*v1alpha1.ReachabilityCheck) {
		return func(o *v1alpha1.ReachabilityCheck) {
			o.Status.Conditions = append(o.Status.Conditions, metav1.Condition{Type: condition, Status: "True", Reason: "AllPassed", LastTransitionTime: metav1.Now()})
		}
	}
	const (
		notRuns1 = "the agent of node 'n1' may not say that node 'n2' does, or does not, run the check"
		notRuns2 = "the agent of node 'n2' may not say that node 'n1' does, or does not, run the check"
		notFound = "may not write what the check has found"
	)
	return []step{
		{"people make a check", "", func(ctx context.Context) error { return admin.Create(ctx, check()) }},
		{"an agent without a node in the token", noClaim, as(nobody, runs("n1"))},
		{"another runs it", notRuns1, as(n1, runs("n2"))},
		{"a word on what was found, without running it", notFound, as(n1, found("a", "n1", ""))},
		{"the own node runs it", "", as(n1, runs("n1"))},
		{"another ends it", notRuns2, as(n2, func(o *v1alpha1.ReachabilityCheck) { o.Status.Running = nil })},
		{"another says what was found", notFound, as(n2, found("a", "n2", "n2"))},
		{"who runs it, in another's name", notFound, as(n1, found("a", "n2", ""))},
		{"what was found", "", as(n1, found("a", "n1", ""))},
		{"another's word is changed", notFound, as(n2, func(o *v1alpha1.ReachabilityCheck) { o.Status.Last.Failed = 7 })},
		{"a condition, without running it", notFound, as(n2, passed("Passed"))},
		{"that it passed, without running it", notFound, as(n2, func(o *v1alpha1.ReachabilityCheck) { o.Status.LastPassed = &metav1.Time{Time: time.Unix(1, 0)} })},
		{"another runs it next", "", as(n2, runs("n2"))},
		{"who runs it does not say whether its spec is in force", notFound, as(n2, func(o *v1alpha1.ReachabilityCheck) {
			passed("Ready")(o)
			found("b", "n2", "")(o)
		})},
		{"but whether it passed", "", as(n2, func(o *v1alpha1.ReachabilityCheck) {
			passed("Passed")(o)
			found("b", "n2", "n2")(o)
		})},
		{"one takes it over whose agent is gone", "", as(n1, runs("n1"))},
		{"people are not held to it", "", as(admin, runs("n2"))},
		{"its spec is for people", "cannot update resource", fresh(n1, admin, check(), false, func(o *v1alpha1.ReachabilityCheck) { o.Spec.Every = "2h" })},
		{"what is no time", "want a time from 1m to 168h", func(ctx context.Context) error {
			o := check()
			o.Name, o.Spec.Every = "often", "1s"
			return admin.Create(ctx, o)
		}},
		{"no time at all", "say when", func(ctx context.Context) error {
			o := check()
			o.Name, o.Spec.Every = "never", ""
			return admin.Create(ctx, o)
		}},
	}
}
