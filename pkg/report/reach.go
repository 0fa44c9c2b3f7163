package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Reach writes what a check of the fabric has found, as a matrix of nodes and VLANs, findings
// below it; in Wide each cell by itself, too. known are findings that a baseline had already.
func (p Printer) Reach(r *reach.Report, known []reach.Finding) error {
	if !p.Format.IsText() {
		return p.Document(r)
	}
	pg := p.text()
	if r.Summary.Cells == 0 {
		pg.line(say(nothingTested))
	}
	for _, t := range trunksOf(r) {
		matrix(pg, r, t)
		pg.blank()
	}
	if p.Format == Wide {
		cells(pg, r)
		pg.blank()
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		finding(pg, f, isKnown(f, known))
	}
	for _, why := range untestedWhy(r) {
		pg.line(say("Not tested: " + why))
	}
	sum(pg, r, len(known))
	return p.flush(pg)
}

const nothingTested = "Nothing was tested: no VLANNetwork is on a trunk with an uplink, on the nodes that were asked."

func isKnown(f *reach.Finding, known []reach.Finding) bool {
	return slices.ContainsFunc(known, func(k reach.Finding) bool {
		return k.Code == f.Code && k.VLANs == f.VLANs && slices.Equal(k.Nodes, f.Nodes) && slices.Equal(k.Targets, f.Targets)
	})
}

func trunksOf(r *reach.Report) (names []string) {
	for _, c := range r.Cells {
		if !slices.Contains(names, c.Trunk) {
			names = append(names, c.Trunk)
		}
	}
	slices.Sort(names)
	return names
}

// matrix has a row for each node and a column for each run of VLANs that are alike.
func matrix(pg *page, r *reach.Report, trunk string) {
	columns := columnsOf(r, trunk)
	titles := []string{"NODE", "UPLINK", "SWITCH PORT"}
	for _, c := range columns {
		titles = append(titles, "VLAN "+c.vlans.String())
	}
	pg.line(cell{"TRUNK " + trunk, head})
	g := pg.grid(titles...)
	for _, n := range r.Nodes {
		if n.Trunk != trunk {
			continue
		}
		row := []cell{say(n.Node), say(n.Uplink), say(strings.TrimSpace(n.Switch + " " + n.Port))}
		for _, c := range columns {
			row = append(row, c.by[n.Node])
		}
		g.row(row...)
	}
	g.end()
}

// column is VLANs in which each node fares the same.
type column struct {
	vlans vlan.Set
	by    map[string]cell // by node
}

func columnsOf(r *reach.Report, trunk string) (columns []column) {
	type key struct {
		node string
		vlan vlan.ID
	}
	byCell := map[key][]reach.Cell{}
	var vlans []vlan.ID
	for _, c := range r.Cells {
		if c.Trunk == trunk {
			byCell[key{c.Node, c.VLAN}] = append(byCell[key{c.Node, c.VLAN}], c)
			vlans = append(vlans, c.VLAN)
		}
	}
	slices.Sort(vlans)
	for _, id := range slices.Compact(vlans) {
		by := map[string]cell{}
		for _, n := range r.Nodes {
			by[n.Node] = together(byCell[key{n.Node, id}])
		}
		last := len(columns) - 1
		if last < 0 || !sameCells(columns[last].by, by) {
			columns = append(columns, column{by: by})
			last++
		}
		_ = columns[last].vlans.Add(id) // a report has none but valid ones
	}
	return columns
}

func sameCells(a, b map[string]cell) bool {
	for n, c := range a {
		if b[n] != c {
			return false
		}
	}
	return true
}

// together is what several tests of one VLAN on one node come to.
func together(all []reach.Cell) cell {
	if len(all) == 0 {
		return say("")
	}
	var failed []string
	passed := false
	for _, c := range all {
		if c.Result == reach.Fail && !slices.Contains(failed, string(c.Test)) {
			failed = append(failed, string(c.Test))
		}
		passed = passed || c.Result == reach.Pass && c.Test != reach.TestRouters && c.Test != reach.TestLLDP
	}
	switch {
	case failed != nil:
		return cell{"FAILED " + strings.Join(failed, ","), bad}
	case passed:
		return cell{"ok", good}
	}
	return cell{"not tested", warn}
}

// cells lists each by itself.
func cells(pg *page, r *reach.Report) {
	g := pg.grid("NODE", "TRUNK", "VLAN", "TEST", "TARGET", "RESULT", "WHY")
	for _, c := range r.Cells {
		t := good
		switch c.Result {
		case reach.Fail:
			t = bad
		case reach.Untested:
			t = warn
		}
		g.row(say(c.Node), say(c.Trunk), say(c.VLAN), say(string(c.Test)), say(c.Target), cell{string(c.Result), t}, say(c.Why))
	}
	g.end()
}

func finding(pg *page, f *reach.Finding, known bool) {
	t := warn
	switch {
	case known:
		t = plain
	case f.Severity == reach.Error:
		t = bad
	}
	title := string(f.Code)
	if where := Where(f); where != "" {
		title += "  " + where
	}
	if known {
		title += "  (known)"
	}
	pg.line(cell{strings.ToUpper(string(f.Severity)), t}, say("  "), cell{title, head})
	pg.paragraph("", f.Message)
	for _, e := range f.Evidence {
		pg.paragraph("seen  ", e)
	}
	for _, s := range f.Ports {
		pg.paragraph("port  ", s)
	}
	pg.paragraph("next  ", f.Next)
	pg.blank()
}

// Where says what a finding is about, in one line.
func Where(f *reach.Finding) string {
	var parts []string
	switch {
	case len(f.Nodes) > 1 && f.Either:
		parts = append(parts, "one of "+strings.Join(f.Nodes, ", "))
	case len(f.Nodes) > 0:
		parts = append(parts, strings.Join(f.Nodes, ", "))
	}
	if !f.VLANs.Empty() {
		parts = append(parts, "VLAN "+f.VLANs.String())
	}
	if len(f.Targets) > 0 {
		parts = append(parts, strings.Join(f.Targets, ", "))
	}
	if f.LargestMTU > 0 {
		parts = append(parts, fmt.Sprintf("%d bytes pass", f.LargestMTU))
	}
	return strings.Join(parts, "; ")
}

// untestedWhy says what was not tested, and why.
func untestedWhy(r *reach.Report) []string {
	why := map[string]int{}
	var order []string
	for _, c := range r.Cells {
		if c.Result != reach.Untested {
			continue
		}
		k := string(c.Test) + ": " + c.Why
		if why[k] == 0 {
			order = append(order, k)
		}
		why[k]++
	}
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(why[b], why[a]) })
	for i, k := range order {
		order[i] = printable(fmt.Sprintf("%d of %s", why[k], k))
	}
	return order
}

func sum(pg *page, r *reach.Report, known int) {
	s := r.Summary
	text := fmt.Sprintf("%d of %d tests passed, %d failed, %d could not be made; %s, in %v", s.Passed, s.Cells, s.Failed, s.Untested,
		counted(len(r.Findings), "finding"), r.Took.Round(100*time.Millisecond))
	if known > 0 {
		text += fmt.Sprintf(" (%d in the baseline)", known)
	}
	if r.Cancelled {
		text += "; ended before its time"
	}
	t := good
	if s.Errors > 0 {
		t = bad
	} else if s.Warnings > 0 || r.Cancelled {
		t = warn
	}
	pg.line(cell{text, t})
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// ReachTable writes the findings alone, one a line.
func (p Printer) ReachTable(r *reach.Report) error {
	pg := p.text()
	g := pg.grid("SEVERITY", "CODE", "TRUNK", "NODES", "VLANS", "TARGETS", "SWITCH PORT")
	for i := range r.Findings {
		f := &r.Findings[i]
		g.row(say(string(f.Severity)), say(string(f.Code)), say(f.Trunk), say(strings.Join(f.Nodes, ",")), say(f.VLANs.String()),
			say(strings.Join(f.Targets, ",")), say(strings.Join(f.Ports, "; ")))
	}
	g.end()
	return p.flush(pg)
}

// Code explains one.
func (p Printer) Code(t reach.CodeText) error {
	if !p.Format.IsText() {
		return p.Document(t)
	}
	pg := p.text()
	pg.line(cell{string(t.Code), head}, say("  ("+string(t.Severity)+")"))
	pg.paragraph("means  ", t.Meaning)
	pg.paragraph("known  ", t.How)
	pg.paragraph("next   ", t.Next)
	return p.flush(pg)
}

// Codes lists all.
func (p Printer) Codes(all []reach.CodeText) error {
	if !p.Format.IsText() {
		return p.Document(all)
	}
	pg := p.text()
	g := pg.grid("CODE", "SEVERITY", "MEANING")
	for _, t := range all {
		g.row(say(string(t.Code)), say(string(t.Severity)), say(t.Meaning))
	}
	g.end()
	return p.flush(pg)
}
