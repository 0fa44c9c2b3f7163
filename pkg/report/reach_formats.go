package report

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// ReachLines writes a report as JSON lines: each finding and each cell one, with its type.
func (p Printer) ReachLines(r *reach.Report) error {
	enc := json.NewEncoder(p.W)
	enc.SetEscapeHTML(false)
	for i := range r.Findings {
		if err := enc.Encode(struct {
			Type string `json:"type"`
			Run  string `json:"run"`
			*reach.Finding
		}{"finding", r.Run, &r.Findings[i]}); err != nil {
			return err
		}
	}
	for i := range r.Cells {
		if err := enc.Encode(struct {
			Type string `json:"type"`
			Run  string `json:"run"`
			*reach.Cell
		}{"cell", r.Run, &r.Cells[i]}); err != nil {
			return err
		}
	}
	return enc.Encode(struct {
		Type      string `json:"type"`
		Run       string `json:"run"`
		Cancelled bool   `json:"cancelled,omitempty"`
		reach.Summary
	}{"summary", r.Run, r.Cancelled, r.Summary})
}

// The form that CI systems read (JUnit's, as Ant writes it).
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string     `xml:"classname,attr"`
		Name    string     `xml:"name,attr"`
		Failure *junitText `xml:"failure,omitempty"`
		Skipped *junitText `xml:"skipped,omitempty"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// ReachJUnit writes each cell as a test case, each trunk of a node as a class.
func (p Printer) ReachJUnit(r *reach.Report) error {
	s := junitSuite{Name: "homeport reachability", Tests: len(r.Cells), Failures: r.Summary.Failed, Skipped: r.Summary.Untested, Time: fmt.Sprintf("%.3f", r.Took.Seconds())}
	for _, c := range r.Cells {
		t := junitCase{Class: c.Node + "." + c.Trunk, Name: fmt.Sprintf("VLAN %d %s", c.VLAN, c.Test)}
		if c.Target != "" {
			t.Name += " " + c.Target
		}
		switch c.Result {
		case reach.Fail:
			t.Failure = &junitText{Message: c.Why, Text: why(r, &c)}
		case reach.Untested:
			t.Skipped = &junitText{Message: c.Why}
		}
		s.Cases = append(s.Cases, t)
	}
	// What is of no cell must fail, too.
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.VLANs.Empty() && (f.Severity == reach.Error || f.Code == reach.AgentAbsent) {
			s.Tests, s.Failures = s.Tests+1, s.Failures+1
			s.Cases = append(s.Cases, junitCase{Class: "fabric", Name: strings.TrimSpace(string(f.Code) + " " + Where(f)), Failure: &junitText{Message: string(f.Code), Text: f.Message + "\n" + f.Next}})
		}
	}
	if _, err := fmt.Fprint(p.W, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(p.W)
	enc.Indent("", "  ")
	if err := enc.Encode(junitSuites{Suites: []junitSuite{s}}); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.W)
	return err
}

// why finds the words on a cell's failure.
func why(r *reach.Report, c *reach.Cell) string {
	for i := range r.Findings {
		f := &r.Findings[i]
		if string(f.Code) == c.Why && f.Concerns(c) {
			return strings.Join(append([]string{f.Message}, append(f.Evidence, f.Next)...), "\n")
		}
	}
	return ""
}

// ReachMarkdown writes matrix and findings for a ticket.
func (p Printer) ReachMarkdown(r *reach.Report) error {
	var b strings.Builder
	for _, trunk := range trunksOf(r) {
		columns := columnsOf(r, trunk)
		fmt.Fprintf(&b, "### Trunk %s\n\n| node | switch port |", md(trunk))
		rule := "|---|---|"
		for _, c := range columns {
			fmt.Fprintf(&b, " VLAN %v |", c.vlans)
			rule += "---|"
		}
		b.WriteString("\n" + rule + "\n")
		for _, n := range r.Nodes {
			if n.Trunk != trunk {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s |", md(n.Node), md(strings.TrimSpace(n.Switch+" "+n.Port)))
			for _, c := range columns {
				text := c.by[n.Node].text
				if c.by[n.Node].tone == bad {
					text = "**" + text + "**"
				}
				fmt.Fprintf(&b, " %s |", text)
			}
			b.WriteByte('\n')
		}
		b.WriteByte('\n')
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		fmt.Fprintf(&b, "- **%s** (%s) %s  \n  %s\n", f.Code, f.Severity, md(Where(f)), md(f.Message))
		for _, e := range append(f.Evidence, f.Ports...) {
			fmt.Fprintf(&b, "  - %s\n", md(e))
		}
		fmt.Fprintf(&b, "  - next: %s\n", md(f.Next))
	}
	if len(r.Findings) == 0 {
		b.WriteString("No findings.\n")
	}
	fmt.Fprintf(&b, "\n%d of %d tests passed, %d failed, %d could not be made.\n", r.Summary.Passed, r.Summary.Cells, r.Summary.Failed, r.Summary.Untested)
	_, err := p.W.Write([]byte(b.String()))
	return err
}

// md keeps what switches and hosts say from being Markdown.
func md(s string) string {
	return strings.NewReplacer(`\`, `\\`, "|", `\|`, "*", `\*`, "_", `\_`, "`", "\\`", "<", "&lt;", "[", `\[`).Replace(printable(s))
}
