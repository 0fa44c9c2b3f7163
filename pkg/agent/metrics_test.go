package agent

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/homeport-cni/homeport/pkg/desired"
)

// get asks one path of the agent's HTTP side.
func (l live) get(path string) (int, string) {
	l.Helper()
	h, err := l.metricsHandler()
	l.must(err)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// metricsOf are an agent's of checks alone.
func metricsOf(t *testing.T, a *Agent) (int, string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	if err := reg.Register(newCheckCollector(a)); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Code, w.Body.String()
}

// TestSilentLoop: an agent whose loop hangs is alive and not ready, and says why.
func TestSilentLoop(t *testing.T) {
	l := newLive(t)
	l.world.active = l.world.snap.Revision
	l.trunksAreUp()
	if code, body := l.get("/readyz"); code != http.StatusOK {
		t.Fatalf("at first: %d %s", code, body)
	}
	l.lastRound.Store(time.Now().Add(-roundsLate - 5*time.Second).UnixNano())
	const why = "the agent has not looked at its ports for 3"
	if s := l.nodeStatus(); s.Ready || len(s.Reasons) != 1 || !strings.HasPrefix(s.Reasons[0], why) {
		t.Errorf("status: ready %v, %q", s.Ready, s.Reasons)
	}
	if code, body := l.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, why) {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, body := l.get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if _, err := l.status(t.Context(), nil); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("CNI STATUS: %v", err)
	}
	if _, body := l.get("/metrics"); !strings.Contains(body, "\nhomeport_ready 0\n") {
		t.Error("homeport_ready is not 0")
	}
	// One that hangs for good is to be started anew.
	l.lastRound.Store(time.Now().Add(-roundsHang - 5*time.Second).UnixNano())
	if code, body := l.get("/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "the agent hangs") {
		t.Errorf("/healthz of a loop that hangs: %d %s", code, body)
	}
	// One round, and all is well again.
	kick := make(chan struct{})
	go func() { l.reconcile(); l.lastRound.Store(time.Now().UnixNano()); close(kick) }()
	<-kick
	if strings.Contains(fmt.Sprint(l.nodeStatus().Reasons), why) {
		t.Errorf("after a round: %q", l.nodeStatus().Reasons)
	}
	if code, body := l.get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz after a round: %d %s", code, body)
	}
}

// TestReadyz: what is wrong with the node, and not with its agent, is told by status
// and metrics and halts no upgrade; an agent that does not do its work is not ready.
func TestReadyz(t *testing.T) {
	drifts := func(subject string) func(live) {
		return func(l live) {
			l.drift.settle([]finding{{kind: "Unslaved", subject: subject, message: "traffic is cut", repair: func() error { return errors.New("refused") }}})
		}
	}
	for name, tc := range map[string]struct {
		change func(live)
		code   int
		says   string // in status, and with the code in /readyz
	}{
		"a trunk's NIC is missing": {func(l live) {
			l.world.health["open"] = trunkHealth{spec: l.kernel.trunkSpec(l.world.snap.Trunks["open"]), problem: "eth9 does not exist"}
		}, 200, "trunk open: eth9"},
		"an uplink was taken away": {drifts("eth1"), 200, "eth1: Unslaved"},
		"a port without a record":  {func(l live) { l.world.strays = []string{"veth9"} }, 200, "veth9 is an open port"},
		"a policy is refused": {func(l live) {
			l.world.refused = []refusedSet{{id: "web", network: "web", why: errors.New("129 rules")}}
		}, 200, `network "web" is refused: its policy: 129 rules`},
		"a revision is on its way":    {func(l live) { l.world.active, l.world.since = 7, time.Now().Add(-2*time.Second) }, 200, "revision 1 is desired, 7 is active: being compiled"},
		"a revision is overdue":       {func(l live) { l.world.active, l.world.since = 7, time.Now().Add(-40*time.Second) }, 503, "revision 1 is desired, 7 is active: being compiled"},
		"a revision failed":           {func(l live) { l.world.active, l.world.since, l.world.syncErr = 7, time.Now(), "no memory" }, 503, "7 is active: no memory"},
		"no policy was ever active":   {func(l live) { l.world.active, l.world.since = 0, time.Now() }, 503, "0 is active"},
		"a port lost its bridge":      {drifts("veth1"), 503, "veth1: Unslaved"},
		"a port is judged by nothing": {func(l live) { delete(l.world.Sets, "web") }, 503, "port veth1: no rules are in force"},
		"nothing was read":            {func(l live) { l.world.snap = nil }, 503, "no desired state has been read"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t)
			l.open("veth1", 1)
			l.world.active = l.world.snap.Revision
			l.trunksAreUp()
			if code, body := l.get("/readyz"); code != http.StatusOK || !l.nodeStatus().Ready {
				t.Fatalf("at first: %d %s, status %q", code, body, l.nodeStatus().Reasons)
			}
			tc.change(l)
			code, body := l.get("/readyz")
			if code != tc.code || strings.Contains(body, tc.says) != (tc.code != http.StatusOK) {
				t.Errorf("/readyz: %d %s, want %d", code, body, tc.code)
			}
			if s := l.nodeStatus(); s.Ready || len(s.Reasons) != 1 || !strings.Contains(s.Reasons[0], tc.says) {
				t.Errorf("status: ready %v, %q, want %q", s.Ready, s.Reasons, tc.says)
			}
			if _, body := l.get("/metrics"); !strings.Contains(body, "\nhomeport_ready 0\n") {
				t.Error("homeport_ready is not 0")
			}
			if _, err := l.status(t.Context(), nil); err == nil {
				t.Error("CNI STATUS says that the node is ready")
			}
		})
	}
}

// TestManifestProblems: what status lists is a gauge, by whether something of
// theirs is in force.
func TestManifestProblems(t *testing.T) {
	l := newLive(t)
	expect := func(when string, kept, other, stale int) {
		t.Helper()
		_, body := l.get("/metrics")
		for _, line := range []string{
			fmt.Sprintf(`homeport_manifest_problems{kept="true"} %d`, kept),
			fmt.Sprintf(`homeport_manifest_problems{kept="false"} %d`, other),
			fmt.Sprintf(`homeport_desired_state_stale %d`, stale),
		} {
			if !strings.Contains(body, "\n"+line+"\n") {
				t.Errorf("%s: no %q in:\n%s", when, line, body)
			}
		}
		if listed := l.nodeStatus().Problems; len(listed) != kept+other {
			t.Errorf("%s: status lists %+v", when, listed)
		}
	}
	expect("without any", 0, 0, 0)
	next := *l.world.snap
	next.Problems = []desired.Problem{{Name: "a", Kept: true}, {Name: "b", Kept: true}, {File: "c.yaml"}}
	l.take(&next)
	expect("with three", 2, 1, 0)
	l.world.refused = []refusedSet{{id: "web", network: "web"}}
	expect("with a refused policy", 3, 1, 0)
	stale := next
	stale.Stale = &desired.Stale{Reason: "SourceEmpty"}
	l.take(&stale)
	expect("stale", 3, 1, 1)
	l.open("veth1", 1) // in network web of trunk open
	l.take(&desired.Snapshot{Revision: 9, Problems: next.Problems})
	expect("with a network and a trunk that a port keeps, and three trunks to be removed", 5, 4, 0)
	l.notes.add(l.log, l.statePath("x"), "a state file was set aside", false)
	expect("with a note", 5, 5, 0)
}

// TestMetricsAreDocumented: the table has every metric with its labels, and no
// other.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	last := ""
	for _, m := range regexp.MustCompile("(?m)^\\| `(homeport_\\w+)` \\| (?:gauge|counter) \\|([^|]*)\\|").FindAllStringSubmatch(string(text), -1) {
		labels := strings.NewReplacer("`", "", " ", "").Replace(m[2])
		if labels == "thesame" {
			labels = last
		}
		documented[m[1]], last = labels, labels
	}
	c := newCollector(idleAgent(t))
	got, fields := map[string]string{}, 0
	name := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`)
	for _, d := range []*prometheus.Desc{c.ready, c.generation, c.trunkReady, c.ports, c.packets, c.bytes, c.ruleHits, c.drift, c.repaired, c.problems, c.stale, c.installs, c.announced, c.filtered, c.lost, c.fast, c.addresses, c.conflicts, c.heardLost} {
		m := name.FindStringSubmatch(d.String())
		got[m[1]] = m[2]
	}
	for f, n := reflect.TypeFor[collector](), 0; n < f.NumField(); n++ {
		if f.Field(n).Type == reflect.TypeFor[*prometheus.Desc]() {
			fields++
		}
	}
	k := newCheckCollector(c.agent)
	for _, d := range []*prometheus.Desc{k.cell, k.cells, k.findings, k.last, k.every, k.ok, k.offered} {
		m := name.FindStringSubmatch(d.String())
		got[m[1]] = m[2]
		fields++
	}
	if d := cmp.Diff(got, documented); d != "" {
		t.Errorf("docs/reference/metrics.md (-code +docs):\n%s", d)
	}
	if fields != len(got) {
		t.Errorf("the collector has %d metrics, this test knows %d", fields, len(got))
	}
}
