package agent

import (
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

// TestSilentLoop: an agent whose loop hangs is alive and not ready, and says why.
func TestSilentLoop(t *testing.T) {
	l := newLive(t)
	l.world.active = l.world.snap.Revision
	for name := range l.world.health {
		l.world.health[name] = trunkHealth{mtu: 1500}
	}
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
	if code, _ := l.get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d", code)
	}
	if _, err := l.status(t.Context(), nil); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("CNI STATUS: %v", err)
	}
	if _, body := l.get("/metrics"); !strings.Contains(body, "\nhomeport_ready 0\n") {
		t.Error("homeport_ready is not 0")
	}
	// One round, and all is well again.
	kick := make(chan struct{})
	go func() { l.reconcile(); l.lastRound.Store(time.Now().UnixNano()); close(kick) }()
	<-kick
	if strings.Contains(fmt.Sprint(l.nodeStatus().Reasons), why) {
		t.Errorf("after a round: %q", l.nodeStatus().Reasons)
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
	for _, d := range []*prometheus.Desc{c.ready, c.generation, c.trunkReady, c.ports, c.packets, c.bytes, c.ruleHits, c.drift, c.repaired, c.problems, c.stale, c.installs} {
		m := name.FindStringSubmatch(d.String())
		got[m[1]] = m[2]
	}
	if d := cmp.Diff(got, documented); d != "" {
		t.Errorf("docs/reference/metrics.md (-code +docs):\n%s", d)
	}
	for f, n := reflect.TypeFor[collector](), 0; n < f.NumField(); n++ {
		if f.Field(n).Type == reflect.TypeFor[*prometheus.Desc]() {
			fields++
		}
	}
	if fields != len(got) {
		t.Errorf("the collector has %d metrics, this test knows %d", fields, len(got))
	}
}
