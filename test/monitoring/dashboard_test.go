package monitoring

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/test/docs"
)

type source struct{ Type, UID string }

type target struct {
	RefID, Expr, LegendFormat, Format string
	Datasource                        source
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []target
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Transformations          []struct {
		ID      string
		Options struct {
			ColumnField, RowField, ValueField string
			Sort                              []struct{ Field string }
			Conversions                       []struct{ TargetField, DestinationType string }
		}
	}
}

type dashboard struct {
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Type, Definition, AllValue string
			Datasource                       source
		}
	}
}

func readDashboard(t *testing.T) (dashboard, string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(docs.Root(), "deploy/monitoring/grafana-dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d, string(text)
}

// TestPanels: each says what it shows, in a unit and from the chosen datasource, and none lies over another.
func TestPanels(t *testing.T) {
	d, text := readDashboard(t)
	ids := map[int]string{}
	covered := map[[2]int]string{}
	for _, p := range d.Panels {
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d: title %q, description %q, unit %q, %d queries", p.ID, p.Title, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		if other, ok := ids[p.ID]; ok || p.ID <= 0 {
			t.Errorf("%s: id %d is also of %q", p.Title, p.ID, other)
		}
		ids[p.ID] = p.Title
		if g := p.GridPos; g.X < 0 || g.X+g.W > 24 || g.W <= 0 || g.H <= 0 {
			t.Errorf("%s: at %+v", p.Title, g)
		}
		over := map[string]bool{}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := covered[at]; ok && !over[other] {
					over[other] = true
					t.Errorf("%s lies over %s", p.Title, other)
				}
				covered[at] = p.Title
			}
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] || q.RefID == "" {
				t.Errorf("%s: two queries are %q", p.Title, q.RefID)
			}
			refs[q.RefID] = true
		}
	}
	checkSources(t, d, text)
}

func checkSources(t *testing.T, d dashboard, text string) {
	t.Helper()
	n := 0
	is := func(where string, s source) {
		if n++; s != (source{"prometheus", "${datasource}"}) {
			t.Errorf("%s: datasource %+v", where, s)
		}
	}
	for _, p := range d.Panels {
		is(p.Title, p.Datasource)
		for _, q := range p.Targets {
			is(p.Title+" "+q.RefID, q.Datasource)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			is(v.Name, v.Datasource)
		}
	}
	if all := strings.Count(text, `"uid"`); all != n || n < 20 {
		t.Errorf("%d uids, %d of them of datasources", all, n)
	}
}

var variable = regexp.MustCompile(`\$(?:\{(\w+)[^}]*\}|(\w+))`)

// TestDashboardNames: metrics and labels are documented, variables are there, and what legends and matrices
// name is among the labels that their query leaves.
func TestDashboardNames(t *testing.T) {
	d, text := readDashboard(t)
	known := documented(t)
	variables := []string{"__rate_interval", "__all"}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Type == "datasource" {
			continue
		}
		m := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Definition)
		if m == nil || !slices.Contains(known[m[1]], m[2]) || v.AllValue != ".*" {
			t.Errorf("variable %s: %s, all is %q", v.Name, v.Definition, v.AllValue)
		}
	}
	for _, m := range variable.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(variables, m[1]+m[2]) {
			t.Errorf("no variable %s", m[0])
		}
	}
	for _, want := range []string{"datasource", "check", "trunk", "node"} {
		if !slices.Contains(variables, want) {
			t.Errorf("there is no variable %s", want)
		}
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			expr := strings.ReplaceAll(q.Expr, "[$__rate_interval]", "[5m]")
			checkNames(t, p.Title, expr, known)
			_, _, left := named(expr)
			if label, of := joined(expr); label != "" {
				for _, l := range of {
					if !slices.Contains(left, l) {
						t.Errorf("%s: label %q of %q is not left by %s", p.Title, l, label, q.Expr)
					}
				}
				left = append(left, label)
			}
			var said []string
			for _, m := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.LegendFormat, -1) {
				said = append(said, m[1])
			}
			for _, tr := range p.Transformations {
				if tr.ID == "groupingToMatrix" {
					said = append(said, tr.Options.ColumnField, tr.Options.RowField)
				}
			}
			for _, l := range said {
				if !slices.Contains(left, l) {
					t.Errorf("%s: label %q is not left by %s", p.Title, l, q.Expr)
				}
			}
		}
	}
}

// joined is the label that an expression makes of others.
func joined(expr string) (label string, of []string) {
	m := regexp.MustCompile(`^label_join\(.*, "(\w+)", "[^"]*"((?:, "\w+")+)\)$`).FindStringSubmatch(expr)
	if m == nil {
		return "", nil
	}
	return m[1], regexp.MustCompile(`\w+`).FindAllString(m[2], -1)
}

// chosen is an expression with variables as Grafana puts them in.
func chosen(expr string, values map[string]string) string {
	return variable.ReplaceAllStringFunc(expr, func(v string) string { return values[strings.Trim(v, "${}")] })
}

// TestDashboardData: on series of two nodes that are well and one that is not, each query has data, with all
// chosen and with one or two.
func TestDashboardData(t *testing.T) {
	d, _ := readDashboard(t)
	var all []series
	for name, text := range map[string]string{"n1": "well", "n2": "well", "n3": "ill"} {
		all = append(all, node(t, name, text, 60)...)
	}
	g := testGroup{Series: all}
	for _, values := range []map[string]string{
		{"check": ".*", "trunk": ".*", "node": ".*", "__rate_interval": "4m"},
		{"check": "hourly", "trunk": "(t|u)", "node": "(n1|n3)", "__rate_interval": "2m"},
	} {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				g.Exprs = append(g.Exprs, exprTest{fmt.Sprintf("count(%s) > bool 0", chosen(q.Expr, values)), "1h30m", []sample{{"{}", 1}}})
			}
		}
	}
	evaluate(t, "", g)
}

// TestMatrix: a cell is as its worst test, over all checks; one that was not tested is not there. Trunks may
// have VLANs of one number: rows are by both, in their order.
func TestMatrix(t *testing.T) {
	d, _ := readDashboard(t)
	i := slices.IndexFunc(d.Panels, func(p panel) bool { return p.Title == "Reachability" })
	g := testGroup{Series: append(node(t, "n1", "well", 0), node(t, "n3", "ill", 0)...)}
	g.Series = append(g.Series,
		series{`homeport_reachability_cell_passed{node="n1",check="daily",trunk="t",vlan="100",test="mtu",target=""}`, "0x600"},
		series{`homeport_reachability_cell_passed{node="n1",check="daily",trunk="t",vlan="200",test="trunk",target=""}`, "1x600"},
		series{`homeport_reachability_cell_passed{node="n1",check="hourly",trunk="u",vlan="100",test="trunk",target=""}`, "1x600"},
		series{`homeport_reachability_cell_passed{node="n3",check="hourly",trunk="u",vlan="100",test="trunk",target=""}`, "0x600"})
	cell := func(trunk, vlan, node string, value float64) sample {
		return sample{fmt.Sprintf("{trunk=%q,vlan=%q,node=%q,row=%q}", trunk, vlan, node, trunk+" "+vlan), value}
	}
	g.Exprs = []exprTest{{chosen(d.Panels[i].Targets[0].Expr, map[string]string{"check": ".*", "trunk": ".*", "node": ".*"}), "5m", []sample{
		cell("t", "100", "n1", 0), cell("t", "101", "n1", 1), cell("t", "200", "n1", 1), cell("u", "100", "n1", 1),
		cell("t", "100", "n3", 1), cell("t", "101", "n3", 0), cell("u", "100", "n3", 0),
	}}}
	evaluate(t, "", g)
	p := d.Panels[i]
	if p.Type != "table" || p.Targets[0].Format != "table" {
		t.Errorf("it is no matrix: %s of %s", p.Type, p.Targets[0].Format)
	}
	var steps []string
	for _, tr := range p.Transformations {
		o := tr.Options
		switch tr.ID {
		case "sortBy":
			steps = append(steps, "by "+o.Sort[0].Field)
		case "convertFieldType":
			steps = append(steps, o.Conversions[0].TargetField+" is a "+o.Conversions[0].DestinationType)
		default:
			steps = append(steps, fmt.Sprintf("%s of %s: %s, %s", tr.ID, o.ValueField, o.RowField, o.ColumnField))
		}
	}
	if diff := cmp.Diff([]string{"by node", "vlan is a number", "by vlan", "by trunk", "groupingToMatrix of Value: row, node"}, steps); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

// TestDrops: what the panels of drops leave out is what passes, and what is no fault.
func TestDrops(t *testing.T) {
	want := []string{"hello", "not_for_port", "launcher_noise", "suppressed"}
	for _, r := range policy.Reasons() {
		if !r.Drops() {
			want = append(want, r.Label())
		}
	}
	slices.Sort(want)
	d, _ := readDashboard(t)
	seen := 0
	for _, p := range d.Panels {
		if !strings.HasPrefix(p.Title, "Drops") {
			continue
		}
		seen++
		m := regexp.MustCompile(`reason!~"([^"]*)"`).FindStringSubmatch(p.Targets[0].Expr)
		if m == nil {
			t.Fatalf("%s: %s", p.Title, p.Targets[0].Expr)
		}
		got := strings.Split(m[1], "|")
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s leaves out %q, want %q", p.Title, got, want)
		}
	}
	if seen != 2 {
		t.Errorf("%d panels of drops", seen)
	}
}
