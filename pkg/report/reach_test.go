package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// sampleReach is a check of a fabric with three faults, as pkg/reach keeps it.
func sampleReach(tb testing.TB) *reach.Report {
	tb.Helper()
	b, err := os.ReadFile("../reach/testdata/report.json")
	if err != nil {
		tb.Fatal(err)
	}
	r := new(reach.Report)
	if err := json.Unmarshal(b, r); err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestReachGolden(t *testing.T) {
	for name, write := range map[string]func(Printer, *reach.Report) error{
		"reach.matrix":   func(p Printer, r *reach.Report) error { return p.Reach(r, nil) },
		"reach.wide":     func(p Printer, r *reach.Report) error { p.Format = Wide; return p.Reach(r, nil) },
		"reach.known":    func(p Printer, r *reach.Report) error { return p.Reach(r, r.Findings[:1]) },
		"reach.findings": Printer.ReachTable,
		"reach.jsonl":    Printer.ReachLines,
		"reach.xml":      Printer.ReachJUnit,
		"reach.md":       Printer.ReachMarkdown,
		"reach.html":     func(p Printer, r *reach.Report) error { return p.ReachHTML(r, r.Findings[1:2]) },
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			if err := write(Printer{W: &buf, Format: Table}, sampleReach(t)); err != nil {
				t.Fatal(err)
			}
			golden(t, name, buf.Bytes())
		})
	}
}

// TestReachMachines: what programs read is well formed, and has all that there is.
func TestReachMachines(t *testing.T) {
	r := sampleReach(t)
	var buf bytes.Buffer
	if err := (Printer{W: &buf}).ReachLines(r); err != nil {
		t.Fatal(err)
	}
	types := map[string]int{}
	for line := range strings.Lines(buf.String()) {
		var v struct{ Type, Run string }
		if err := json.Unmarshal([]byte(line), &v); err != nil || v.Run != r.Run {
			t.Fatalf("%v: %s", err, line)
		}
		types[v.Type]++
	}
	if types["finding"] != len(r.Findings) || types["cell"] != len(r.Cells) || types["summary"] != 1 {
		t.Errorf("%v", types)
	}
	buf.Reset()
	r.Findings = append(r.Findings, reach.Finding{Code: reach.LinkDown, Severity: reach.Error, Nodes: []string{"n9"}, Message: "down"})
	if err := (Printer{W: &buf}).ReachJUnit(r); err != nil {
		t.Fatal(err)
	}
	var suites junitSuites
	if err := xml.Unmarshal(buf.Bytes(), &suites); err != nil {
		t.Fatal(err)
	}
	s := suites.Suites[0]
	failed := 0
	for _, c := range s.Cases {
		if c.Failure != nil {
			failed++
			if c.Failure.Message == "" || c.Failure.Text == "" {
				t.Errorf("%+v fails without a word", c)
			}
		}
	}
	if s.Tests != len(s.Cases) || s.Failures != failed || failed != r.Summary.Failed+1 || s.Skipped != r.Summary.Untested {
		t.Errorf("%d cases, %d failed: %+v", len(s.Cases), failed, s)
	}
}

// TestReachIsNotSteered: what a switch says of itself is text.
func TestReachIsNotSteered(t *testing.T) {
	r := sampleReach(t)
	evil := "\x1b[2J<script>|`*_["
	r.Nodes[0].Switch = evil
	r.Findings[0].Ports = []string{evil}
	var buf bytes.Buffer
	if err := (Printer{W: &buf, Format: Table}).Reach(r, nil); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(buf.String(), "\x1b") {
		t.Errorf("%q", buf.String())
	}
	buf.Reset()
	if err := (Printer{W: &buf}).ReachMarkdown(r); err != nil {
		t.Fatal(err)
	}
	if s := buf.String(); strings.Contains(s, "\x1b") || strings.Contains(s, "<script") {
		t.Errorf("%q", s)
	}
}
