package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestChecks: of agents that all want to run a check, one does; what it found is in the status; who has missed
// a run is told of it; and one whose agent died is taken over.
func TestChecks(t *testing.T) {
	b := newBench(t)
	nodes := map[string]*Reporter{}
	for i := range 5 {
		name := fmt.Sprint("n", i+1)
		r, err := NewReporter(b.agent(name), name, slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			b.Fatal(err)
		}
		nodes[name] = r
	}
	o := &v1alpha1.ReachabilityCheck{ObjectMeta: metav1.ObjectMeta{Name: "hourly"}, Spec: v1alpha1.ReachabilityCheckSpec{Every: "1h", Run: "now"}}
	if err := b.Create(b.Context(), o); err != nil {
		b.Fatal(err)
	}
	status := func() v1alpha1.ReachabilityCheckStatus {
		b.Helper()
		return until(b, &v1alpha1.ReachabilityCheck{}, "", "hourly", func(_ *v1alpha1.ReachabilityCheck, found bool) bool { return found }).Status
	}
	claimAll := func(last string) (by []string) {
		b.Helper()
		var mu sync.Mutex
		var all sync.WaitGroup
		for name, r := range nodes {
			all.Go(func() {
				c, err := r.Claim(b.Context(), "hourly", last)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					b.Errorf("%s: %v", name, err)
				}
				if c.Mine {
					by = append(by, name)
				}
			})
		}
		all.Wait()
		return by
	}
	by := claimAll("")
	if len(by) != 1 || status().Running == nil || status().Running.Node != by[0] {
		b.Fatalf("%v run it, status %+v", by, status())
	}
	if again := claimAll(""); len(again) != 1 || again[0] != by[0] {
		b.Errorf("while it runs, %v run it, too", again)
	}
	me, other := nodes[by[0]], nodes["n1"]
	if me == other {
		other = nodes["n2"]
	}
	ran := reach.Ran{Check: "hourly", ID: "r1", By: by[0], Run: "now", Started: time.Now().Add(-2 * time.Second), Ended: time.Now(), Report: reportOf(40)}
	if err := other.Publish(b.Context(), reach.Ran{Check: "hourly", ID: "r0", By: other.node}); !errors.Is(err, reach.ErrOvertaken) || status().Last != nil {
		b.Errorf("another publishes: %v, %+v", err, status().Last)
	}
	if err := me.Publish(b.Context(), ran); err != nil {
		b.Fatal(err)
	}
	s := status()
	l := s.Last
	if s.Running != nil || l == nil || l.ID != "r1" || l.Node != by[0] || l.Run != "now" || l.Cells != 3 || l.Passed != 1 || l.Failed != 1 || l.Untested != 1 || l.Errors != 40 || s.LastPassed != nil {
		b.Errorf("status %+v", s)
	}
	f := l.Findings[0]
	if len(l.Findings) != 32 || f.Code != "NOT_TRUNKED" || f.VLANs != "100-119" || clippedList(strings.Repeat("100,", 400)+"9") != strings.Repeat("100,", 254)+"100,..." || len(f.Nodes) != 16 || len(f.Message) != 1023 || f.SwitchPorts[0] != "n0 eth1: leaf1 Eth1/1" {
		b.Errorf("%d findings, first %+v", len(l.Findings), f)
	}
	is := func(want metav1.ConditionStatus, reason, text string) {
		b.Helper()
		s := status()
		c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionPassed)
		if c == nil || c.Status != want || c.Reason != reason || !strings.Contains(c.Message, text) || c.ObservedGeneration != 1 {
			b.Errorf("condition %+v, want %s %s %q", c, want, reason, text)
		}
	}
	is(metav1.ConditionFalse, v1alpha1.ReasonFindings, "1 of 3 cells passed, 1 failed, 1 untested; 40 errors, 0 warnings; first NOT_TRUNKED at n0, n1, n2 and 17 more in VLAN 100-119: ")

	// One that has missed it is told, and runs nothing.
	if c, err := other.Claim(b.Context(), "hourly", ""); err != nil || c.Mine || c.Last.ID != "r1" || c.Last.Run != "now" || c.Age < 0 || c.Age > time.Minute {
		b.Errorf("who has missed a run: %+v, %v", c, err)
	}
	if c, err := other.Last(b.Context(), "hourly"); err != nil || c.Mine || c.Last.ID != "r1" || c.Last.By != by[0] {
		b.Errorf("who asks for the last run: %+v, %v", c, err)
	}
	// Others' claims end when nothing was heard of them for long.
	if by := claimAll("r1"); len(by) != 1 {
		b.Fatalf("%v run it next", by)
	}
	stale := status().Running.Node
	o = until(b, &v1alpha1.ReachabilityCheck{}, "", "hourly", func(_ *v1alpha1.ReachabilityCheck, found bool) bool { return found })
	for _, since := range []time.Duration{-24 * time.Hour, 24 * time.Hour} { // by clocks that are wrong
		o.Status.Running = &v1alpha1.CheckRunning{Node: stale, Since: metav1.NewTime(time.Now().Add(since))}
		if err := b.Status().Update(b.Context(), o); err != nil {
			b.Fatal(err)
		}
		taker := nodes["n3"]
		if stale == "n3" {
			taker = nodes["n4"]
		}
		for later, mine := range []bool{false, false, true} {
			taker.claims.now = func() time.Time { return time.Now().Add(time.Duration(later) * (claimOver/2 + time.Minute)) }
			if c, err := taker.Claim(b.Context(), "hourly", "r1"); err != nil || c.Mine != mine {
				b.Fatalf("a claim of %v, looked at for the %d. time: %+v, %v", since, later+1, c, err)
			}
		}
		if err := nodes[stale].Publish(b.Context(), reach.Ran{Check: "hourly", ID: "late", By: stale}); !errors.Is(err, reach.ErrOvertaken) || status().Last.ID != "r1" {
			b.Errorf("who is late: %v, %+v", err, status().Last)
		}
		stale = taker.node
		o = until(b, &v1alpha1.ReachabilityCheck{}, "", "hourly", func(_ *v1alpha1.ReachabilityCheck, found bool) bool { return found })
	}
	if err := nodes[stale].Release(b.Context(), "hourly"); err != nil || status().Running != nil {
		b.Errorf("given back: %v, %+v", err, status().Running)
	}
	if err := nodes["n5"].Release(b.Context(), "hourly"); err != nil {
		b.Errorf("another's, given back: %v", err)
	}
	for _, c := range []struct {
		report       *reach.Report
		fails        string
		want         metav1.ConditionStatus
		reason, text string
	}{
		{&reach.Report{Summary: reach.Summary{Cells: 2, Passed: 2, Infos: 1}}, "", metav1.ConditionTrue, v1alpha1.ReasonAllPassed, "2 of 2 cells passed"},
		{&reach.Report{Cancelled: true, Took: 5 * time.Minute, Summary: reach.Summary{Cells: 100, Passed: 1, Untested: 99}}, "", metav1.ConditionUnknown, v1alpha1.ReasonCheckFailed, "ended after 5m0s; raise spec.maxPPS"},
		{&reach.Report{Summary: reach.Summary{Cells: 2, Untested: 2, Infos: 1}}, "", metav1.ConditionUnknown, v1alpha1.ReasonNothingTested, "0 of 2 cells passed"},
		{nil, "there is no VLAN 7", metav1.ConditionUnknown, v1alpha1.ReasonCheckFailed, "could not run it: there is no VLAN 7"},
	} {
		last := status().Last.ID
		if got, err := nodes[stale].Claim(b.Context(), "hourly", last); err != nil || !got.Mine {
			b.Fatalf("%+v, %v", got, err)
		}
		if err := nodes[stale].Publish(b.Context(), reach.Ran{Check: "hourly", ID: last + "'", By: stale, Started: time.Now(), Ended: time.Now(), Report: c.report, Error: c.fails}); err != nil {
			b.Fatal(err)
		}
		is(c.want, c.reason, c.text)
		if s := status(); s.LastPassed == nil || s.Last.Error != c.fails {
			b.Errorf("%s: %+v", c.reason, s)
		}
	}
	// What was written is lost, as by a backup without status: any of them runs it.
	o = until(b, &v1alpha1.ReachabilityCheck{}, "", "hourly", func(_ *v1alpha1.ReachabilityCheck, found bool) bool { return found })
	o.Status = v1alpha1.ReachabilityCheckStatus{}
	if err := b.Status().Update(b.Context(), o); err != nil {
		b.Fatal(err)
	}
	if by := claimAll("r1"); len(by) != 1 {
		b.Errorf("%v run it, of which nothing is known", by)
	}
	if _, err := me.Claim(b.Context(), "gone", ""); err == nil || !strings.Contains(err.Error(), `"gone" not found`) {
		b.Errorf("of one that is gone: %v", err)
	}
}

// reportOf has so many findings, each of more than a status takes.
func reportOf(n int) *reach.Report {
	r := &reach.Report{Summary: reach.Summary{Cells: 3, Passed: 1, Failed: 1, Untested: 1, Errors: n}}
	f := reach.Finding{Code: reach.NotTrunked, Severity: reach.Error, Trunk: "t", Message: strings.Repeat("é", 600), Next: "Allow it.", Ports: []string{"n0 eth1: leaf1 Eth1/1"}}
	for i := range 20 {
		f.Nodes = append(f.Nodes, fmt.Sprint("n", i))
		_ = f.VLANs.Add(vlan.ID(100 + i))
	}
	for range n {
		r.Findings = append(r.Findings, f)
	}
	return r
}

// TestStatusBounded: whatever switches and people call things, a status fits into an object.
func TestStatusBounded(t *testing.T) {
	r := reportOf(100)
	for i := range r.Findings {
		f := &r.Findings[i]
		for range 40 {
			f.Ports, f.Targets = append(f.Ports, strings.Repeat("p", 5000)), append(f.Targets, strings.Repeat("t", 5000))
			f.Nodes, f.Networks = append(f.Nodes, strings.Repeat("n", 253)), append(f.Networks, strings.Repeat("n", 253))
		}
		f.Next = strings.Repeat("x", 5000)
	}
	raw, err := json.Marshal(lastRun(&reach.Ran{Report: r, Error: strings.Repeat("e", 5000)}))
	if err != nil || len(raw) > 800<<10 {
		t.Errorf("a status of %d bytes: %v", len(raw), err)
	}
}

func TestClipped(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"short":                   "short",
		strings.Repeat("a", 1024): strings.Repeat("a", 1024),
		strings.Repeat("a", 1025): strings.Repeat("a", 1021) + "...",
		strings.Repeat("é", 600):  strings.Repeat("é", 510) + "...",
		"a\xffb":                  "a?b",
	} {
		if got := clipped(text); got != want {
			t.Errorf("%.20q...: %d bytes, want %d", text, len(got), len(want))
		}
	}
}
