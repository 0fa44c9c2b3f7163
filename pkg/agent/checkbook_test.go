package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestStanding: one run decides at first, two in turn afterwards, and one that does not tell decides nothing; a
// small letter is a run of the same moment, which is no second observation. ! is that another run is wanted soon.
func TestStanding(t *testing.T) {
	for runs, want := range map[string]string{
		"":        "?",
		"?":       "?",
		"+":       "+",
		"-":       "-!",
		"-?":      "-",
		"--":      "-",
		"?+":      "+",
		"+-":      "+!",
		"+-?":     "+",
		"+-n":     "+!",
		"+-nn":    "+!",
		"+-n-":    "-",
		"+--":     "-",
		"+-+-":    "+!",
		"+-y-":    "+!",
		"+-?-":    "-",
		"+--+":    "-!",
		"+--+y":   "-!",
		"+--++":   "+",
		"-+":      "-!",
		"-++":     "+",
		"-+-+":    "-!",
		"+--??":   "-",
		"+--+?+-": "+!",
	} {
		var s standing
		now := time.Unix(1000, 0)
		for _, r := range runs {
			is := map[rune]reach.Standing{'+': reach.Well, '-': reach.Unwell, '?': reach.Unknown, 'y': reach.Well, 'n': reach.Unwell}[r]
			if r == '+' || r == '-' {
				now = now.Add(voteGap)
			} else {
				now = now.Add(time.Second)
			}
			s.judge(is, "because", now)
		}
		got := map[bool]string{true: "+", false: "-"}[s.Offered]
		if !s.Known {
			got = "?"
		}
		if n := len(runs); s.Known == (s.Unclear > 0) && n > 0 || !s.Known && s.Unclear != n {
			t.Errorf("%q: unclear for %d runs, known %v", runs, s.Unclear, s.Known)
		}
		if s.Soon {
			got += "!"
		}
		if got != want {
			t.Errorf("%q: %q, want %q: %+v", runs, got, want, s)
		}
	}
}

func TestDue(t *testing.T) {
	at := func(d time.Duration) time.Time { return time.Unix(1000, 0).Add(d) }
	net := []required{{"a", "t", "eth1", vlan.Set{}}}
	told := func(s standing) *keptCheck {
		return &keptCheck{Last: reach.Ran{ID: "1", Run: "x"}, At: at(0), seen: at(-time.Hour), asked: at(time.Second), Stands: map[string]standing{"a": s}}
	}
	settled := standing{Of: net[0].definition(), Known: true, Offered: true}
	soon, other, unclear := settled, settled, standing{Of: net[0].definition(), Unclear: 4}
	soon.Soon, other.Of = true, "t eth2 "
	with := func(change func(*keptCheck)) *keptCheck {
		k := told(settled)
		change(k)
		return k
	}
	failed := func(n int) *keptCheck { return with(func(k *keptCheck) { k.Failures = n }) }
	for name, c := range map[string]struct {
		k     *keptCheck
		check desired.Check
		want  time.Time
	}{
		"never ran":                      {&keptCheck{seen: at(0)}, desired.Check{Every: time.Hour}, at(firstRunAfter)},
		"ran":                            {told(settled), desired.Check{Every: time.Hour, Run: "x"}, at(time.Hour)},
		"ran, when asked":                {told(settled), desired.Check{Run: "x"}, time.Time{}},
		"asked":                          {told(settled), desired.Check{Run: "y"}, at(time.Second)},
		"asked, and on schedule":         {told(settled), desired.Check{Every: time.Hour, Run: "y"}, at(time.Second)},
		"asked, and answered by another": {with(func(k *keptCheck) { k.Answered = "y" }), desired.Check{Every: time.Hour, Run: "y"}, at(time.Hour)},
		"not settled":                    {told(soon), desired.Check{Every: time.Hour}, at(soonAfter)},
		"not settled, but often":         {told(soon), desired.Check{Every: time.Minute}, at(time.Minute)},
		"a network at another uplink":    {told(other), desired.Check{Every: time.Hour}, at(soonAfter)},
		"not told yet":                   {told(unclear), desired.Check{Every: time.Hour}, at(8 * soonAfter)},
		"not told yet, but often":        {told(unclear), desired.Check{Every: time.Minute}, at(time.Minute)},
		"could not be done":              {failed(1), desired.Check{Every: time.Hour}, at(soonAfter)},
		"could not be done, again":       {failed(3), desired.Check{Every: time.Hour}, at(4 * soonAfter)},
		"could never be done":            {failed(1000), desired.Check{Every: 2 * time.Hour}, at(64 * soonAfter)},
		"asked, and could not be done":   {failed(2), desired.Check{Run: "y"}, at(2 * soonAfter)},
		"a try that failed":              {with(func(k *keptCheck) { k.notBefore = at(2 * time.Hour) }), desired.Check{Every: time.Hour}, at(2 * time.Hour)},
		"another agent has asked for it": {with(func(k *keptCheck) { k.wanted = true }), desired.Check{Every: time.Hour}, at(-time.Hour)},
		"another agent has asked for one that never ran": {&keptCheck{seen: at(0), wanted: true}, desired.Check{Every: time.Hour, Run: "y"}, at(0)},
	} {
		if got := c.k.due(&c.check, net); !got.Equal(c.want) {
			t.Errorf("%s: due %v, want %v", name, got.Sub(at(0)), c.want.Sub(at(0)))
		}
	}
}

// TestTurn: nodes spread over some seconds, otherwise at each run.
func TestTurn(t *testing.T) {
	seen := map[time.Duration]bool{}
	for _, node := range []string{"n1", "n2", "n3"} {
		for _, last := range []string{"", "1"} {
			d := turn(node, "c", last)
			if d < 0 || d >= turnsOver || seen[d] || d != turn(node, "c", last) {
				t.Errorf("%s after %q: %v", node, last, d)
			}
			seen[d] = true
		}
	}
}

// checked is an agent of node n1 with a network of VLANs 100 and 101 that is required, and a check of it.
func checked(t *testing.T, dir string) *Agent {
	a := idleAgent(t)
	a.cfg.Paths = attach.Paths{RunDir: dir}
	a.prober = newProber(a, "n1", nil)
	if err := os.MkdirAll(filepath.Dir(a.statePath("x")), 0o700); err != nil {
		t.Fatal(err)
	}
	vlans := vlan.Set{}
	for _, id := range []vlan.ID{100, 101} {
		if err := vlans.Add(id); err != nil {
			t.Fatal(err)
		}
	}
	a.world.snap = &desired.Snapshot{Trunks: map[string]desired.Trunk{"t": {Name: "t"}},
		Networks: map[string]desired.Network{"lan": {Name: "lan", Trunk: "t", Tagged: vlans, Reach: desired.Reach{Required: true}}, "free": {Name: "free", Trunk: "t", PVID: 100}},
		Checks:   map[string]desired.Check{"hourly": {Name: "hourly", Every: time.Hour}}}
	return a
}

// ranWith is a run that found these VLANs at fault at n1, all else well, also on n2.
func ranWith(id string, bad ...vlan.ID) reach.Ran {
	r := &reach.Report{Run: id, Nodes: []reach.Node{{Node: "n1", Trunk: "t"}, {Node: "n2", Trunk: "t"}}}
	for _, node := range []string{"n1", "n2"} {
		for _, v := range []vlan.ID{100, 101} {
			r.Cells = append(r.Cells, reach.Cell{Node: node, Trunk: "t", VLAN: v, Test: reach.TestTrunk, Result: reach.Pass})
		}
	}
	for _, v := range bad {
		f := reach.Finding{Code: reach.NotTrunked, Severity: reach.Error, Trunk: "t", Nodes: []string{"n1"}, Message: "The VLAN does not get here."}
		_ = f.VLANs.Add(v)
		r.Findings = append(r.Findings, f)
		for i := range r.Cells {
			if c := &r.Cells[i]; c.Node == "n1" && c.VLAN == v {
				c.Result, c.Why = reach.Fail, string(f.Code)
			}
		}
	}
	return reach.Ran{Check: "hourly", ID: id, By: "n2", Started: time.Unix(1, 0).UTC(), Ended: time.Unix(2, 0).UTC(), Report: r}
}

// TestTakeRun: what a run says decides what the node offers, is there after a restart, and is told in the
// conditions of trunks and in metrics.
func TestTakeRun(t *testing.T) {
	dir := t.TempDir()
	a := checked(t, dir)
	says := func(when, offered, status, reason, text string) {
		t.Helper()
		offers, conds := a.offers(a.world.snap)
		c := conds["t"]
		if got := strings.Join(offers["t"], " "); got != offered || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, text) {
			t.Errorf("%s: offers %q, %s %s: %s; want %q, %s %s with %q", when, got, c.Status, c.Reason, c.Message, offered, status, reason, text)
		}
	}
	take := func(ran reach.Ran) { // each a while after the one before
		t.Helper()
		if k := a.book.kept["hourly"]; k != nil {
			for name, s := range k.Stands {
				s.Voted = s.Voted.Add(-voteGap)
				k.Stands[name] = s
			}
		}
		if err := a.takeRun(ran); err != nil {
			t.Fatal(err)
		}
	}
	says("at first", "", "Unknown", v1alpha1.ReasonNotChecked, "lan: ReachabilityCheck hourly has not told yet")
	take(ranWith("1"))
	says("well", "lan", "True", v1alpha1.ReasonOffered, "")
	take(ranWith("2", 101))
	says("bad once", "lan", "True", v1alpha1.ReasonOffered, "")
	take(ranWith("3", 101))
	says("bad twice", "", "False", v1alpha1.ReasonNotOffered, "lan: NOT_TRUNKED in VLAN 101: The VLAN does not get here. (ReachabilityCheck hourly)")

	last, at := a.knownRun(a.world.snap.Checks["hourly"])
	if last.ID != "3" || time.Since(at) > time.Minute || len(last.Report.Cells) != 2 || len(last.Report.Nodes) != 1 {
		t.Errorf("known is %+v of %v", last, at)
	}
	a = checked(t, dir) // a restart
	says("after a restart", "", "False", v1alpha1.ReasonNotOffered, "NOT_TRUNKED")
	_, body := metricsOf(t, a)
	for _, want := range []string{
		`homeport_reachability_cell_passed{check="hourly",target="",test="trunk",trunk="t",vlan="100"} 1`,
		`homeport_reachability_cell_passed{check="hourly",target="",test="trunk",trunk="t",vlan="101"} 0`,
		`homeport_reachability_cells{check="hourly",result="fail"} 1`, `homeport_reachability_cells{check="hourly",result="untested"} 0`,
		`homeport_reachability_findings{check="hourly",code="NOT_TRUNKED",severity="error"} 1`,
		`homeport_reachability_every_seconds{check="hourly"} 3600`, `homeport_reachability_last_run_error{check="hourly"} 0`,
		`homeport_reachability_network_offered{network="lan"} 0`, `homeport_reachability_last_run_timestamp_seconds{check="hourly"} `,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	take(reach.Ran{Check: "hourly", ID: "4", By: "n1", Error: "no keys"})
	says("a run that could not be", "", "False", v1alpha1.ReasonNotOffered, "NOT_TRUNKED")
	take(ranWith("5"))
	says("well once", "", "False", v1alpha1.ReasonNotOffered, "")
	take(ranWith("6"))
	says("well twice", "lan", "True", v1alpha1.ReasonOffered, "")

	n := a.world.snap.Networks["lan"]
	n.PVID = 102
	a.world.snap.Networks["lan"] = n
	says("one more VLAN", "", "Unknown", v1alpha1.ReasonNotChecked, "has not told yet")
	take(ranWith("7"))
	says("it is not among the cells", "", "Unknown", v1alpha1.ReasonNotChecked, "ReachabilityCheck hourly does not tell: VLAN 102 was not tested")

	trunk := a.world.snap.Trunks["t"]
	n.PVID = 0
	a.world.snap.Networks["lan"] = n
	take(ranWith("8"))
	says("as before", "lan", "True", v1alpha1.ReasonOffered, "")
	trunk.Uplink = "eth2"
	a.world.snap.Trunks["t"] = trunk
	says("at another uplink", "", "Unknown", v1alpha1.ReasonNotChecked, "has not told yet")

	twice := ranWith("9") // as nobody sends it
	twice.Report.Cells = append(twice.Report.Cells, twice.Report.Cells[0])
	take(twice)
	if code, body := metricsOf(t, a); code != http.StatusOK || strings.Count(body, "\nhomeport_reachability_cell_passed{") != 2 {
		t.Errorf("with a cell that is there twice: %d\n%s", code, body)
	}
	if err := a.takeRun(reach.Ran{Check: "other"}); err == nil || !strings.Contains(err.Error(), `no ReachabilityCheck "other"`) {
		t.Errorf("of another check: %v", err)
	}
	delete(a.world.snap.Checks, "hourly")
	says("no check", "", "Unknown", v1alpha1.ReasonNotChecked, "no ReachabilityCheck covers it: make one")
	a.forgetChecks(a.world.snap)
	if left, err := filepath.Glob(a.statePath("check-*")); err != nil || len(left) > 0 {
		t.Errorf("left is %v, %v", left, err)
	}
}

// TestOffersOfTwoChecks: what one of them found at fault is not offered, and what one found well is, if the other has not told.
func TestOffersOfTwoChecks(t *testing.T) {
	a := checked(t, t.TempDir())
	a.world.snap.Checks["daily"] = desired.Check{Name: "daily", Every: 24 * time.Hour}
	ran := ranWith("1")
	if err := a.takeRun(ran); err != nil {
		t.Fatal(err)
	}
	if offers, _ := a.offers(a.world.snap); len(offers["t"]) != 1 {
		t.Errorf("one has told: %v", offers)
	}
	ran = ranWith("2", 100)
	ran.Check = "daily"
	if err := a.takeRun(ran); err != nil {
		t.Fatal(err)
	}
	if offers, conds := a.offers(a.world.snap); len(offers["t"]) != 0 || !strings.Contains(conds["t"].Message, "(ReachabilityCheck daily)") {
		t.Errorf("the other one has, too, that it does not work: %v, %v", offers, conds)
	}
}

// TestLastRun: who ran a check has the whole report, and who cannot ask him this node's part.
func TestLastRun(t *testing.T) {
	a := checked(t, t.TempDir())
	get := func(name string) (said, report string, err error) {
		t.Helper()
		s, err := a.lastRun(t.Context(), name)
		if err != nil {
			return "", "", err
		}
		return s.Error + s.What, string(s.Report), nil
	}
	if s, err := a.lastRun(t.Context(), "other"); err != nil || !s.Refused || s.Error != `this node has no ReachabilityCheck "other": name one of hourly` {
		t.Errorf("another: %+v, %v", s, err)
	}
	if said, _, _ := get("hourly"); said != "ReachabilityCheck hourly has not run yet" {
		t.Errorf("before: %q", said)
	}
	own := ranWith("1")
	own.By = "n1"
	if err := a.takeRun(own); err != nil {
		t.Fatal(err)
	}
	if said, report, err := get("hourly"); err != nil || said != "" || strings.Count(report, `"node":"n2"`) != 3 {
		t.Errorf("run here: %v, %q, %s", err, said, report)
	}
	if err := a.takeRun(ranWith("2", 100)); err != nil {
		t.Fatal(err)
	}
	if said, report, err := get("hourly"); err != nil || !strings.HasPrefix(said, "this node's part alone") || strings.Contains(report, `"node":"n2"`) {
		t.Errorf("run elsewhere: %v, %q, %s", err, said, report)
	}
	if err := a.takeRun(reach.Ran{Check: "hourly", ID: "3", By: "n2", Error: "no such VLAN"}); err != nil {
		t.Fatal(err)
	}
	if said, report, _ := get("hourly"); said != "ReachabilityCheck hourly could not be run by the agent of n2: no such VLAN" || report != "" {
		t.Errorf("one that failed: %q, %s", said, report)
	}
	if d := cmp.Diff(turnAnswer{Takes: true}, a.takeTurn(turnRequest{Check: "hourly", Last: "3"})); d != "" || !a.book.kept["hourly"].wanted {
		t.Errorf("asked to run it: %s", d)
	}
	if got := a.takeTurn(turnRequest{Check: "hourly", Last: "2", Age: time.Hour}); !got.Takes || got.Last.ID != "3" {
		t.Errorf("asked by who has missed a run: %+v", got)
	}
	if got := a.takeTurn(turnRequest{Check: "hourly", Last: "9", Age: 0}); !got.Takes || got.Last.ID != "" {
		t.Errorf("asked by who knows of a later run: %+v", got)
	}
	if got := a.takeTurn(turnRequest{Check: "hourly", Look: true}); got.Takes || got.Last.ID != "3" {
		t.Errorf("asked for the last run alone: %+v", got)
	}
	if got := a.takeTurn(turnRequest{Check: "other"}); got.Takes {
		t.Errorf("asked for another: %+v", got)
	}
}

// fakeBook is Conductors that know of a run, or of none.
type fakeBook struct {
	claim reach.Claim
	err   error
	asked int
}

func (f *fakeBook) Claim(context.Context, string, string) (reach.Claim, error) {
	f.asked++
	return f.claim, f.err
}
func (f *fakeBook) Last(context.Context, string) (reach.Claim, error) { return f.claim, f.err }
func (f *fakeBook) Release(context.Context, string) error             { return f.err }
func (f *fakeBook) Publish(context.Context, reach.Ran) error          { return f.err }

// TestMissed: an agent that begins, or is told that a run was made without it, takes its part of that run, as of
// when it was; and one that cannot learn of it goes on.
func TestMissed(t *testing.T) {
	missed := ranWith("5", 100)
	missed.By = "n1" // its report is here, but it had not come further
	for name, learn := range map[string]func(*Agent, *desired.Check, *fakeBook){
		"an agent that begins": func(a *Agent, c *desired.Check, _ *fakeBook) { a.catchUp(t.Context(), c) },
		"a claim that fails":   func(a *Agent, c *desired.Check, _ *fakeBook) { a.conduct(t.Context(), c, "4") },
	} {
		a := checked(t, t.TempDir())
		book := &fakeBook{claim: reach.Claim{Last: missed, Age: 10 * time.Minute}}
		book.claim.Last.Report = nil
		a.cfg.Fabric.Conductors = book
		c := a.world.snap.Checks["hourly"]
		if err := saveJSON(a.reportPath("hourly"), missed); err != nil {
			t.Fatal(err)
		}
		if err := a.takeRun(ranWith("4")); err != nil {
			t.Fatal(err)
		}
		learn(a, &c, book)
		k := a.book.kept["hourly"]
		if age := time.Since(k.At); k.Last.ID != "5" || age < 10*time.Minute || age > 11*time.Minute || k.Stands["lan"].Against != 1 || len(k.Last.Report.Cells) != 2 {
			t.Errorf("%s: %+v", name, k)
		}
	}
	a := checked(t, t.TempDir())
	a.ring, a.log = nil, slog.New(slog.NewTextHandler(io.Discard, nil))
	a.cfg.Fabric.Conductors = &fakeBook{err: errors.New("no API server")}
	c := a.world.snap.Checks["hourly"]
	if again := time.Until(a.catchUp(t.Context(), &c)); a.book.kept["hourly"].caught || again < time.Second {
		t.Errorf("who cannot ask tries again in %v", again)
	}
	a.book.kept["hourly"].seen = time.Now().Add(-catchUpWithin)
	if a.catchUp(t.Context(), &c); !a.book.kept["hourly"].caught {
		t.Error("it never goes on")
	}
	a.conduct(t.Context(), &c, "")
	if wait := time.Until(a.book.kept["hourly"].notBefore); wait < tryAgainAfter/2 || a.book.kept["hourly"].trouble != "no API server" {
		t.Errorf("after a claim that failed: %v, %q", wait, a.book.kept["hourly"].trouble)
	}
	if a.letOther("hourly"); time.Until(a.book.kept["hourly"].notBefore) < tryAgainAfter/2 {
		t.Error("who is asked to take part tries as well")
	}
}
