package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/test/docs"
	"github.com/homeport-cni/homeport/test/vm"
)

// promtool runs Prometheus' own tool, which hack/deps.sh puts into the cache.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cache, err := vm.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "prometheus/usr/bin/promtool")
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("HOMEPORT_PROMTOOL") == "1" {
			t.Fatalf("HOMEPORT_PROMTOOL=1 wants promtool: %v; hack/deps.sh fetches it", err)
		}
		t.Skip("promtool is not in the cache (hack/deps.sh fetches it)")
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	return string(out), err
}

// What promtool test rules reads.
type (
	testFile struct {
		RuleFiles []string    `json:"rule_files,omitempty"`
		Interval  string      `json:"evaluation_interval"`
		Tests     []testGroup `json:"tests"`
	}
	testGroup struct {
		Name     string      `json:"name"`
		Interval string      `json:"interval"`
		Series   []series    `json:"input_series"`
		Exprs    []exprTest  `json:"promql_expr_test,omitempty"`
		Alerts   []alertTest `json:"alert_rule_test,omitempty"`
	}
	series struct {
		Series string `json:"series"`
		Values string `json:"values"`
	}
	exprTest struct {
		Expr    string   `json:"expr"`
		At      string   `json:"eval_time"`
		Samples []sample `json:"exp_samples"`
	}
	sample struct {
		Labels string  `json:"labels"`
		Value  float64 `json:"value"`
	}
	alertTest struct {
		At     string     `json:"eval_time"`
		Name   string     `json:"alertname"`
		Alerts []expAlert `json:"exp_alerts"`
	}
	expAlert struct {
		Labels      map[string]string `json:"exp_labels"`
		Annotations map[string]string `json:"exp_annotations"`
	}
)

// evaluate runs one group of tests, a minute between samples and evaluations.
func evaluate(t *testing.T, rules string, g testGroup) {
	t.Helper()
	g.Name, g.Interval = t.Name(), "1m"
	f := testFile{Interval: "1m", Tests: []testGroup{g}}
	if rules != "" {
		f.RuleFiles = []string{rules}
	}
	text, err := yaml.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "test.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, "test", "rules", file); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// node are the series of an agent, as Prometheus keeps them, for ten hours: from the text that pkg/agent's
// TestMetricsSample keeps current. Counters rise by rise a minute; runs of checks are always just over.
func node(t *testing.T, name, text string, rise int) []series {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(docs.Root(), "pkg/agent/testdata/metrics-"+text+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	of := fmt.Sprintf(`node=%q,instance="%s:9747",job="homeport-agent"`, name, name)
	out := []series{{fmt.Sprintf("up{%s}", of), "1x600"}}
	for _, m := range regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? (\S+)$`).FindAllStringSubmatch(string(b), -1) {
		labels := of
		if m[2] != "" {
			labels += "," + m[2]
		}
		values := m[3] + "x600"
		switch {
		case strings.HasSuffix(m[1], "_timestamp_seconds"):
			values = "0+60x600"
		case strings.HasSuffix(m[1], "_total"):
			values = fmt.Sprintf("%s+%dx600", m[3], rise)
		}
		out = append(out, series{m[1] + "{" + labels + "}", values})
	}
	if len(out) < 25 {
		t.Fatalf("only %d series of %s", len(out), name)
	}
	return out
}
