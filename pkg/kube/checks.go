package kube

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// The ReachabilityCheck itself settles who runs it: who first writes its name into status.running does. It may be called
// while the Reporter reports.

// claimOver is for how long this agent has to see a claim of another until it counts no more: its agent is gone. That is
// longer than a run takes, with what is written afterwards; clocks of others are not gone by.
const claimOver = 10 * time.Minute

// claims are those of others, and since when this agent has seen them.
type claims struct {
	mu   sync.Mutex
	seen map[string]seenClaim // by check
	now  func() time.Time
}

type seenClaim struct {
	by    v1alpha1.CheckRunning
	since time.Time
}

// stale says that a claim has been there for too long.
func (c *claims) stale(check string, by *v1alpha1.CheckRunning) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.now != nil {
		now = c.now()
	}
	s, ok := c.seen[check]
	if !ok || s.by.Node != by.Node || !s.by.Since.Equal(&by.Since) {
		if c.seen == nil {
			c.seen = map[string]seenClaim{}
		}
		c.seen[check] = seenClaim{*by, now}
		return false
	}
	return now.Sub(s.since) > claimOver
}

// Claim asks to run a check, if the last run is still the one that this node knows of.
func (r *Reporter) Claim(ctx context.Context, check, last string) (reach.Claim, error) {
	o, err := r.check(ctx, check)
	if err != nil {
		return reach.Claim{}, err
	}
	known := knownRun(o)
	if known.Last.ID != "" && known.Last.ID != last { // without one, what was written is lost
		return known, nil
	}
	if by := o.Status.Running; by != nil && by.Node != r.node && !r.claims.stale(check, by) {
		return known, nil
	}
	o.Status.Running = &v1alpha1.CheckRunning{Node: r.node, Since: metav1.Now()}
	if err := r.client.Status().Update(ctx, o); apierrors.IsConflict(err) {
		return known, nil // somebody was faster
	} else if err != nil {
		return reach.Claim{}, fmt.Errorf("write ReachabilityCheck %s: %w", check, err)
	}
	known.Mine = true
	return known, nil
}

// Last tells of a check's last run.
func (r *Reporter) Last(ctx context.Context, check string) (reach.Claim, error) {
	o, err := r.check(ctx, check)
	if err != nil {
		return reach.Claim{}, err
	}
	return knownRun(o), nil
}

func knownRun(o *v1alpha1.ReachabilityCheck) (known reach.Claim) {
	if l := o.Status.Last; l != nil {
		known.Last = reach.Ran{Check: o.Name, ID: l.ID, By: l.Node, Run: l.Run, Started: l.Started.Time, Ended: l.Ended.Time, Error: l.Error}
		known.Age = time.Since(l.Ended.Time)
	}
	return known
}

// Release gives a claim back.
func (r *Reporter) Release(ctx context.Context, check string) error {
	o, err := r.check(ctx, check)
	if err != nil || o.Status.Running == nil || o.Status.Running.Node != r.node {
		return err
	}
	o.Status.Running = nil
	return r.client.Status().Update(ctx, o)
}

// Publish writes what a run has found, unless another node has taken the check over.
func (r *Reporter) Publish(ctx context.Context, ran reach.Ran) error {
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		o, err := r.check(ctx, ran.Check)
		if err != nil {
			return err
		}
		if by := o.Status.Running; by == nil || by.Node != r.node {
			return reach.ErrOvertaken
		}
		o.Status.Running, o.Status.Last = nil, lastRun(&ran)
		passed := passed(&ran)
		if passed.Status == metav1.ConditionTrue {
			o.Status.LastPassed = &o.Status.Last.Ended
		}
		passed.ObservedGeneration = o.Generation
		changed := meta.SetStatusCondition(&o.Status.Conditions, passed)
		if err := r.client.Status().Update(ctx, o); err != nil {
			return err
		}
		if changed {
			o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(v1alpha1.KindReachabilityCheck))
			r.events.transition(ctx, o, passed)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write ReachabilityCheck %s: %w", ran.Check, err)
	}
	return nil
}

func (r *Reporter) check(ctx context.Context, name string) (*v1alpha1.ReachabilityCheck, error) {
	o := &v1alpha1.ReachabilityCheck{}
	if err := r.client.Get(ctx, client.ObjectKey{Name: name}, o); err != nil {
		return nil, fmt.Errorf("read ReachabilityCheck %s: %w", name, err)
	}
	return o, nil
}

// lastRun is what a status holds of a run.
func lastRun(ran *reach.Ran) *v1alpha1.CheckRun {
	out := &v1alpha1.CheckRun{ID: ran.ID, Node: ran.By, Run: ran.Run, Started: metav1.NewTime(ran.Started), Ended: metav1.NewTime(ran.Ended),
		Error: clipped(ran.Error)}
	if ran.Report == nil {
		return out
	}
	s := ran.Report.Summary
	out.Cells, out.Passed, out.Failed, out.Untested = int32(s.Cells), int32(s.Passed), int32(s.Failed), int32(s.Untested)
	out.Errors, out.Warnings, out.Infos = int32(s.Errors), int32(s.Warnings), int32(s.Infos)
	for i := range ran.Report.Findings[:min(len(ran.Report.Findings), v1alpha1.MaxCheckFindings)] {
		f := &ran.Report.Findings[i]
		out.Findings = append(out.Findings, v1alpha1.CheckFinding{Code: string(f.Code), Severity: string(f.Severity), Trunk: f.Trunk, VLANs: clippedList(f.VLANs.String()),
			Networks: someOf(f.Networks), Nodes: someOf(f.Nodes), Targets: someOf(f.Targets), SwitchPorts: someOf(f.Ports),
			Message: clipped(f.Message), Next: clipped(f.Next)})
	}
	return out
}

func someOf(names []string) (some []string) {
	for _, n := range names[:min(len(names), v1alpha1.MaxCheckNames)] {
		some = append(some, clippedTo(n, maxName))
	}
	return some
}

// clippedList is a list of VLANs as far as a status takes it, with three dots for the rest.
func clippedList(vlans string) string {
	const most = 1024
	if len(vlans) <= most {
		return vlans
	}
	return vlans[:strings.LastIndexByte(vlans[:most-len(",...")], ',')] + ",..."
}

// maxName is how long a name in a finding can be, in bytes: Kubernetes' are no longer, a switch's may be.
const maxName = 253

// clipped is a text of at most 1024 bytes, whole characters all of them.
func clipped(text string) string { return clippedTo(text, 1024) }

func clippedTo(text string, most int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= most {
		return text
	}
	cut := most - len("...")
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// passed is the condition of a run.
func passed(ran *reach.Ran) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionPassed, Status: metav1.ConditionUnknown, Message: clipped(ran.Sum())}
	switch r := ran.Report; {
	case r == nil:
		c.Reason, c.Message = v1alpha1.ReasonCheckFailed, clipped("the agent of "+ran.By+" could not run it: "+ran.Error)
	case r.Cancelled:
		c.Reason = v1alpha1.ReasonCheckFailed
		c.Message = clipped(fmt.Sprintf("it took too long, and was ended after %s; raise spec.maxPPS, or name fewer spec.networks or spec.vlans; until then %s", r.Took.Round(time.Second), c.Message))
	case r.Summary.Errors+r.Summary.Warnings > 0:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonFindings
		worst := &r.Findings[0]
		c.Message = clipped(fmt.Sprintf("%s; first %s%s: %s", c.Message, worst.Code, where(worst), worst.Message))
	case r.Summary.Passed == 0:
		c.Reason = v1alpha1.ReasonNothingTested
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonAllPassed
	}
	return c
}

// where a finding is, in words.
func where(f *reach.Finding) (text string) {
	if len(f.Nodes) > 0 {
		text = " at " + strings.Join(f.Nodes[:min(len(f.Nodes), 3)], ", ")
		if more := len(f.Nodes) - 3; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
	}
	if !f.VLANs.Empty() {
		text += " in VLAN " + f.VLANs.String()
	}
	return text
}
