package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page's three files
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// The page's parts. Style and script stand in it as they are here, so that the page's own policy
// can name them by their sums and allow nothing else.
var (
	//go:embed html/reach.html
	htmlBody string
	//go:embed html/reach.css
	htmlStyle string
	//go:embed html/reach.js
	htmlScript string
)

// htmlPage is what the template is given. All text in it is printable, and escaped by the template.
type htmlPage struct {
	Policy        string
	Style         template.CSS
	Script        template.JS
	When, Machine string // when it was begun
	Verdict       string
	Tone          string // of the verdict: good, warn, bad
	Facts         []htmlFact
	Summary       reach.Summary
	Bar           []htmlBar
	Findings      []htmlFinding
	Trunks        []htmlTrunk
	Drawings      []*drawing
	Untested      []string
	LeftOut       bool
}

type htmlFact struct{ Name, Text string }

// htmlBar is a part of the bar of all tests, in thousandths of its width.
type htmlBar struct {
	Class    string
	At, Wide int
}

type htmlFinding struct {
	ID, Class, Symbol, Code, Severity, Where, Message string
	Known                                             bool
	Rows                                              []htmlRef // of the matrix
	More                                              int       // rows that are not listed
	Lists                                             []htmlList
	Text                                              reach.CodeText
}

type htmlRef struct{ Text, To string }

type htmlList struct {
	Name  string
	Lines []string
}

// ReachHTML writes the report as one page that needs nothing else: no network, no script (there is
// one, for the filter), no file. known are findings that a baseline had already.
func (p Printer) ReachHTML(r *reach.Report, known []reach.Finding) error {
	t, err := template.New("reach").Parse(htmlBody)
	if err != nil {
		return fmt.Errorf("the page's template: %w", err)
	}
	var buf bytes.Buffer
	if err := t.Execute(&buf, newHTMLPage(r, known)); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return p.write(buf.Bytes())
}

func newHTMLPage(r *reach.Report, known []reach.Finding) *htmlPage {
	ix := newFindingIndex(r)
	pg := &htmlPage{
		Policy: "default-src 'none'; img-src data:; style-src " + sumOf(htmlStyle) + "; script-src " + sumOf(htmlScript) + "; base-uri 'none'; form-action 'none'",
		Style:  template.CSS(htmlStyle), Script: template.JS(htmlScript),
		When:    r.Started.UTC().Format("2006-01-02 15:04") + " UTC",
		Machine: r.Started.UTC().Format(time.RFC3339),
		Summary: r.Summary, Untested: untestedWhy(r), LeftOut: r.PassedLeftOut, Facts: facts(r), Bar: bars(r.Summary),
	}
	pg.Tone, pg.Verdict = verdictOf(r, len(known))
	for i, name := range htmlTrunks(r) {
		pg.Trunks = append(pg.Trunks, newHTMLTrunk(r, ix, name, i+1))
	}
	pg.Drawings = drawings(r, ix)
	for i := range r.Findings {
		f := &r.Findings[i]
		pg.Findings = append(pg.Findings, newHTMLFinding(f, i, pg.Trunks, isKnown(f, known)))
	}
	return pg
}

// sumOf names a text in a content security policy.
func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// htmlTrunks are those of nodes, too: of one that passed in all, no cell may be left.
func htmlTrunks(r *reach.Report) []string {
	names := trunksOf(r)
	for _, n := range r.Nodes {
		if !n.VLANs.Empty() && !slices.Contains(names, n.Trunk) {
			names = append(names, n.Trunk)
		}
	}
	slices.Sort(names)
	return names
}

func verdictOf(r *reach.Report, known int) (tone, text string) {
	s := r.Summary
	var causes []string
	if s.Errors > 0 {
		causes = append(causes, counted(s.Errors, "error"))
	}
	if s.Warnings > 0 {
		causes = append(causes, counted(s.Warnings, "warning"))
	}
	all := strings.Join(causes, " and ")
	switch {
	case s.Errors > 0:
		tone, text = "bad", fmt.Sprintf("The fabric does not carry all that is intended: %d of %d tests failed; %s.", s.Failed, s.Cells, all)
	case s.Cells == 0:
		tone, text = "warn", nothingTested
		if s.Warnings > 0 {
			text += " " + strings.ToUpper(all[:1]) + all[1:] + "."
		}
	case s.Warnings > 0:
		tone, text = "warn", fmt.Sprintf("No VLAN was found cut off, but not all is as it should be, or could be tested: %s.", all)
	case s.Untested > 0:
		tone, text = "good", fmt.Sprintf("All that could be tested passed: %d of %d tests; %d could not be made.", s.Passed, s.Cells, s.Untested)
	default:
		tone, text = "good", fmt.Sprintf("The fabric carries all that is intended: all of %s passed.", counted(s.Cells, "test"))
	}
	if r.Cancelled {
		text = "The check was ended before its time. What it found until then: " + strings.ToLower(text[:1]) + text[1:]
		if tone == "good" {
			tone = "warn"
		}
	}
	if known > 0 {
		text += fmt.Sprintf(" Of %s, %d in the baseline already.", counted(len(r.Findings), "finding"), known)
	}
	return tone, text
}

// facts say when and where.
func facts(r *reach.Report) []htmlFact {
	var here, absent, versions []string
	var vlans vlan.Set
	trunks := htmlTrunks(r)
	for _, n := range r.Nodes {
		vlans = vlans.Union(n.VLANs)
		switch {
		case n.Absent != "":
			absent = append(absent, n.Node+" ("+n.Absent+")")
			continue
		case !slices.Contains(here, n.Node):
			here = append(here, n.Node)
		}
		if n.Version != "" && !slices.Contains(versions, n.Version) {
			versions = append(versions, n.Version)
		}
	}
	for _, c := range r.Cells {
		_ = vlans.Add(c.VLAN) // a report has none but valid ones
	}
	slices.SortFunc(here, natural)
	all := []htmlFact{
		{"When", fmt.Sprintf("%s UTC, in %v", r.Started.UTC().Format("2006-01-02 15:04:05"), r.Took.Round(100*time.Millisecond))},
		{"Nodes", listed(here, 12)},
		{"Did not take part", listed(absent, 12)},
		{"Trunks", listed(trunks, 12)},
	}
	if !vlans.Empty() {
		all = append(all, htmlFact{"VLANs", fmt.Sprintf("%d: %v", vlans.Len(), vlans)})
	}
	all = append(all, htmlFact{"Agents' release", listed(versions, 12)}, htmlFact{"Run", printable(r.Run)})
	return slices.DeleteFunc(all, func(f htmlFact) bool { return f.Text == "" })
}

// listed counts a list, and has so many of it.
func listed(list []string, most int) string {
	if len(list) == 0 {
		return ""
	}
	text := strings.Join(list[:min(len(list), most)], ", ")
	if len(list) > most {
		text += fmt.Sprintf(" and %d more", len(list)-most)
	}
	return printable(fmt.Sprintf("%d: %s", len(list), text))
}

// bars parts the whole width by results; what is not nothing is seen.
func bars(s reach.Summary) (all []htmlBar) {
	const whole, least = 1000, 8
	if s.Cells == 0 {
		return nil
	}
	at := 0
	for _, b := range []struct {
		class string
		n     int
	}{{"bad", s.Failed}, {"none", s.Untested}, {"good", s.Passed}} {
		if b.n == 0 {
			continue
		}
		wide := max(least, b.n*whole/s.Cells)
		if b.class == "good" {
			wide = whole - at
		}
		all = append(all, htmlBar{b.class, at, wide})
		at += wide
	}
	return all
}

func newHTMLFinding(f *reach.Finding, i int, trunks []htmlTrunk, known bool) htmlFinding {
	text, _ := f.Code.Text()
	class := severityClass(f.Severity)
	out := htmlFinding{ID: findingID(i), Class: class, Symbol: symbol(class), Code: printable(string(f.Code)), Severity: printable(string(f.Severity)),
		Where: printable(Where(f)), Message: printable(f.Message), Known: known, Text: text}
	const most = 16
	for _, t := range trunks {
		for _, row := range t.Rows {
			if (f.Trunk == "" || f.Trunk == t.raw) && slices.Contains(f.Nodes, row.raw) {
				out.Rows = append(out.Rows, htmlRef{row.Node, row.ID})
			}
		}
	}
	if len(out.Rows) > most {
		out.More = len(out.Rows) - most
		out.Rows = out.Rows[:most]
	}
	add := func(name string, lines ...string) {
		list := htmlList{Name: name}
		for _, l := range lines {
			if l != "" {
				list.Lines = append(list.Lines, printable(l))
			}
		}
		if len(list.Lines) > 0 {
			out.Lists = append(out.Lists, list)
		}
	}
	if len(out.Rows) == 0 {
		add("Nodes", strings.Join(f.Nodes, ", "))
	}
	add("Where", scopeOf(f))
	add("Seen", f.Evidence...)
	add("Switch port", f.Ports...)
	add("Next", f.Next)
	return out
}

// scopeOf says in which VLANs, of which trunk and networks.
func scopeOf(f *reach.Finding) string {
	var parts []string
	if !f.VLANs.Empty() {
		parts = append(parts, "VLAN "+f.VLANs.String())
	}
	if f.Trunk != "" {
		parts = append(parts, "trunk "+f.Trunk)
	}
	if len(f.Networks) > 0 {
		parts = append(parts, "network "+strings.Join(f.Networks, ", "))
	}
	return strings.Join(parts, "; ")
}

// severityClass is how the page shows a severity.
func severityClass(s reach.Severity) string {
	switch s {
	case reach.Error:
		return "fail"
	case reach.Warning:
		return "warn"
	}
	return "info"
}

func findingID(i int) string { return fmt.Sprintf("f%d", i+1) }

// findingIndex finds the finding of a cell or a node.
type findingIndex struct {
	all    []reach.Finding
	byCode map[reach.Code][]int
}

func newFindingIndex(r *reach.Report) *findingIndex {
	ix := &findingIndex{all: r.Findings, byCode: map[reach.Code][]int{}}
	for i, f := range r.Findings {
		ix.byCode[f.Code] = append(ix.byCode[f.Code], i)
	}
	return ix
}

// of a cell: -1 where it has none, as where a reason is no code.
func (ix *findingIndex) of(c *reach.Cell) int {
	for _, i := range ix.byCode[reach.Code(c.Why)] {
		if ix.all[i].Concerns(c) {
			return i
		}
	}
	return -1
}

// at are those that name the node, on this trunk; of "" those that name none.
func (ix *findingIndex) at(node, trunk string) (list []int) {
	for i, f := range ix.all {
		if (f.Trunk == "" || trunk == "" || f.Trunk == trunk) && (slices.Contains(f.Nodes, node) || node == "" && len(f.Nodes) == 0) {
			list = append(list, i)
		}
	}
	return list
}

// worst is the class of the worst of findings.
func (ix *findingIndex) worst(list []int) string {
	rank, class := 0, "pass"
	for _, i := range list {
		if s := ix.all[i].Severity; s.Rank() > rank {
			rank, class = s.Rank(), severityClass(s)
		}
	}
	return class
}
