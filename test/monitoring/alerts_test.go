package monitoring

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/kube/controller"
	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/test/docs"
)

type rule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

type ruleGroup struct {
	Name  string
	Rules []rule
}

// alertRules are all, and the name of a rules file with them.
func alertRules(t *testing.T) ([]rule, string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(docs.Root(), "deploy/monitoring/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		APIVersion, Kind string
		Metadata         map[string]any
		Spec             struct{ Groups []ruleGroup }
	}
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		t.Fatal(err)
	}
	if object.APIVersion != "monitoring.coreos.com/v1" || object.Kind != "PrometheusRule" {
		t.Errorf("it is a %s of %s", object.Kind, object.APIVersion)
	}
	var raw struct{ Spec map[string]any }
	if err := yaml.Unmarshal(text, &raw); err != nil {
		t.Fatal(err)
	}
	spec, err := yaml.Marshal(raw.Spec)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, spec, 0o600); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range object.Spec.Groups {
		all = append(all, g.Rules...)
	}
	return all, file
}

func TestRulesAreRules(t *testing.T) {
	_, file := alertRules(t)
	if out, err := promtool(t, "check", "rules", "--lint=all", "--lint-fatal", file); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// TestAlertsAreDocumented: alerts name only metrics and labels that are documented, say what to do and where
// to read on, and have their row in the table, with their severity.
func TestAlertsAreDocumented(t *testing.T) {
	rules, _ := alertRules(t)
	known := documented(t)
	page, err := os.ReadFile(filepath.Join(docs.Root(), "docs/reference/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(Homeport\\w+)` \\| (\\w+) \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(string(page), -1) {
		rows[m[1]] = m[2]
	}
	for _, r := range rules {
		var said []string
		for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(r.Annotations["summary"]+r.Annotations["description"], -1) {
			said = append(said, m[1])
		}
		checkNames(t, r.Record+r.Alert, r.Expr, known, said...)
		if r.Record != "" {
			_, _, grouping := named(r.Expr)
			known[r.Record] = append([]string{}, grouping...) // what it keeps of the metrics' labels
			continue
		}
		if got := rows[r.Alert]; got == "" || got != r.Labels["severity"] {
			t.Errorf("%s: severity %q, in the table %q", r.Alert, r.Labels["severity"], got)
		}
		delete(rows, r.Alert)
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || len(r.Annotations) != 3 {
			t.Errorf("%s: annotations %v", r.Alert, r.Annotations)
		}
		checkRunbook(t, r)
	}
	for name := range rows {
		t.Errorf("%s is in the table, and no alert", name)
	}
}

// TestValues: what alerts choose by is what there is.
func TestValues(t *testing.T) {
	rules, _ := alertRules(t)
	there := map[string][]string{"severity": {string(reach.Error), string(reach.Warning), string(reach.Info)}, "name": {controller.LeaseName}}
	for _, test := range reach.Tests() {
		there["test"] = append(there["test"], string(test))
	}
	for _, c := range reach.Codes() {
		there["code"] = append(there["code"], string(c.Code))
	}
	chosen := map[string]bool{}
	for _, r := range rules {
		for _, m := range regexp.MustCompile(`\b(test|code|severity|name)=~?"([^"]*)"`).FindAllStringSubmatch(r.Expr, -1) {
			chosen[m[1]] = true
			for _, value := range strings.Split(m[2], "|") {
				if !slices.Contains(there[m[1]], value) {
					t.Errorf("%s%s: no %s is %s: they are %q", r.Record, r.Alert, m[1], value, there[m[1]])
				}
			}
		}
	}
	if len(chosen) != len(there) {
		t.Errorf("only %v are chosen by", chosen)
	}
}

// TestToldByCells: of the tests that alerts count cells of, HomeportFinding leaves out what fails them, each
// code by its test, and nothing else.
func TestToldByCells(t *testing.T) {
	rules, _ := alertRules(t)
	got, want := map[reach.Test][]reach.Code{}, map[reach.Test][]reach.Code{}
	for _, r := range rules {
		if r.Record == "homeport:vlan_works" || r.Record == "homeport:test_fails" {
			for _, test := range strings.Split(regexp.MustCompile(`test=~"([^"]*)"`).FindStringSubmatch(r.Expr)[1], "|") {
				want[reach.Test(test)] = reach.Test(test).Codes()
			}
		}
		if r.Alert != "HomeportFinding" {
			continue
		}
		for _, m := range regexp.MustCompile(`code=~"([^"]*)"[^"]*test="([^"]*)"`).FindAllStringSubmatch(r.Expr, -1) {
			for _, code := range strings.Split(m[1], "|") {
				got[reach.Test(m[2])] = append(got[reach.Test(m[2])], reach.Code(code))
			}
		}
		if codes, unless := strings.Count(r.Expr, "code="), strings.Count(r.Expr, "unless"); codes != len(got) || unless != len(got) {
			t.Errorf("%d times code, %d times unless, of %d tests", codes, unless, len(got))
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want -, got +\n%s", d)
	}
}

func checkRunbook(t *testing.T, r rule) {
	t.Helper()
	path, ok := strings.CutPrefix(r.Annotations["runbook_url"], "https://github.com/homeport-cni/homeport/blob/main/")
	path, anchor, _ := strings.Cut(path, "#")
	text, err := os.ReadFile(filepath.Join(docs.Root(), path))
	if !ok || err != nil || anchor != "" && !slices.Contains(docs.Anchors(string(text)), anchor) {
		t.Errorf("%s: runbook %q: %v", r.Alert, r.Annotations["runbook_url"], err)
	}
}
