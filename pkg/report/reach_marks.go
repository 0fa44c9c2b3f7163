package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// symbol says what the colour of a class says, to those who do not see it.
func symbol(class string) string {
	switch class {
	case "fail":
		return "✕"
	case "warn":
		return "!"
	case "info":
		return "i"
	case "pass":
		return "✓"
	case "part":
		return "◐"
	case "none":
		return "?"
	}
	return "·"
}

// htmlTrunk is the matrix of a trunk.
type htmlTrunk struct {
	Name, raw string
	Columns   []htmlColumn
	Rows      []htmlRow
	// Dense: there are so many columns that cells have a symbol alone.
	Dense bool
	// Others took part, and nothing of theirs was asked for.
	Others int
}

type htmlColumn struct{ VLANs, Title string }

type htmlRow struct {
	ID, Node, Uplink, Port string
	Text                   string // what the filter looks in
	Bad                    bool
	Cells                  []mark
	raw                    string
}

// mark is what a node's tests in one VLAN come to. VLANs of equal marks share a column, so that it
// has no words on a single one.
type mark struct {
	Class  string // fail, warn, pass, part, none; "" where nothing is intended
	Tests  string // that failed
	To     string // the finding
	why    string // of all tests
	Symbol string
	Title  string // with node and VLANs
}

// dense is from how many columns on.
const dense = 13

func newHTMLTrunk(r *reach.Report, ix *findingIndex, trunk string, number int) htmlTrunk {
	t := htmlTrunk{Name: printable(trunk), raw: trunk}
	marks, vlans := marksOf(r, ix, trunk)
	var nodes []reach.Node
	for _, n := range r.Nodes {
		switch {
		case n.Trunk != trunk || n.Absent != "":
		case len(marks[n.Node]) == 0:
			t.Others++
		default:
			nodes = append(nodes, n)
		}
	}
	slices.SortStableFunc(nodes, func(a, b reach.Node) int { return natural(a.Node, b.Node) })
	columns := alike(nodes, marks, vlans)
	t.Dense = len(columns) >= dense
	for _, c := range columns {
		full := c.String()
		t.Columns = append(t.Columns, htmlColumn{fit(full, 20), "VLAN " + full})
	}
	for i, n := range nodes {
		row := htmlRow{ID: fmt.Sprintf("t%dr%d", number, i+1), Node: printable(n.Node), Uplink: printable(n.Uplink), Port: printable(strings.TrimSpace(n.Switch + " " + n.Port)), raw: n.Node}
		row.Text = strings.ToLower(row.Node + " " + row.Uplink + " " + row.Port)
		for _, c := range columns {
			m := marks[n.Node][first(c)]
			m.Symbol = symbol(m.Class)
			m.Title = fmt.Sprintf("%s, VLAN %v: %s", row.Node, c, cmp.Or(m.why, "not intended here"))
			row.Bad = row.Bad || m.Class == "fail" || m.Class == "warn"
			row.Cells = append(row.Cells, m)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// marksOf a trunk, by node and VLAN, and all VLANs in order.
func marksOf(r *reach.Report, ix *findingIndex, trunk string) (map[string]map[vlan.ID]mark, []vlan.ID) {
	type key struct {
		node string
		vlan vlan.ID
	}
	var vlans vlan.Set
	cells := map[key][]reach.Cell{}
	for _, c := range r.Cells {
		if c.Trunk == trunk {
			cells[key{c.Node, c.VLAN}] = append(cells[key{c.Node, c.VLAN}], c)
			_ = vlans.Add(c.VLAN) // a report has none but valid ones
		}
	}
	for _, n := range r.Nodes {
		if n.Trunk != trunk {
			continue
		}
		vlans = vlans.Union(n.VLANs)
		for id := range n.VLANs.All() {
			if k := (key{n.Node, id}); cells[k] == nil {
				cells[k] = []reach.Cell{}
			}
		}
	}
	marks := map[string]map[vlan.ID]mark{}
	for k, all := range cells {
		if marks[k.node] == nil {
			marks[k.node] = map[vlan.ID]mark{}
		}
		marks[k.node][k.vlan] = markOf(all, ix, r.PassedLeftOut)
	}
	return marks, slices.Collect(vlans.All())
}

// markOf tests of one VLAN on one node. Where those that passed were left out, what is not there passed.
func markOf(all []reach.Cell, ix *findingIndex, leftOut bool) mark {
	var m mark
	var order, failed []string
	said := map[string][]string{}
	passed, untested, finding := leftOut, false, -1
	for i := range all {
		c := &all[i]
		words := "passed"
		switch c.Result {
		case reach.Fail:
			words = "failed (" + printable(c.Why) + ")"
			if t := string(c.Test); !slices.Contains(failed, t) {
				failed = append(failed, t)
			}
			if text, _ := reach.Code(c.Why).Text(); m.Class != "fail" {
				m.Class = "fail"
				if text.Severity == reach.Warning || text.Severity == reach.Info {
					m.Class = "warn"
				}
			}
		case reach.Untested:
			words = "not tested (" + printable(c.Why) + ")"
			untested = true
			passed = passed && !(leftOut && c.Test == reach.TestTrunk)
		default:
			passed = passed || c.Test != reach.TestRouters && c.Test != reach.TestLLDP
		}
		if c.Result != reach.Pass {
			if f := ix.of(c); f >= 0 && (finding < 0 || f < finding) {
				finding = f
			}
		}
		if said[words] == nil {
			order = append(order, words)
		}
		if t := string(c.Test); !slices.Contains(said[words], t) {
			said[words] = append(said[words], t)
		}
	}
	switch {
	case m.Class != "":
	case !passed:
		m.Class = "none"
	case untested:
		m.Class = "part"
	default:
		m.Class = "pass"
	}
	if finding >= 0 {
		m.To = findingID(finding)
	}
	m.Tests = strings.Join(failed, ", ")
	// What failed is said first, and what passed last.
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(wordsRank(a), wordsRank(b)) })
	for i, words := range order {
		order[i] = strings.Join(said[words], ", ") + " " + words
	}
	if leftOut && (passed || len(all) == 0) {
		order = append(order, "all else passed")
	}
	m.why = strings.Join(order, "; ")
	return m
}

func wordsRank(words string) int {
	switch words[0] {
	case 'f':
		return 0
	case 'n':
		return 1
	}
	return 2
}

// alike puts VLANs that follow each other together, where each node fares the same in them.
func alike(nodes []reach.Node, marks map[string]map[vlan.ID]mark, vlans []vlan.ID) (columns []vlan.Set) {
	var before vlan.ID
	for _, id := range vlans {
		same := len(columns) > 0
		for _, n := range nodes {
			same = same && marks[n.Node][id] == marks[n.Node][before]
		}
		if !same {
			columns = append(columns, vlan.Set{})
		}
		_ = columns[len(columns)-1].Add(id) // a report has none but valid ones
		before = id
	}
	return columns
}

func first(s vlan.Set) vlan.ID {
	for id := range s.All() {
		return id
	}
	return 0
}

// natural orders n2 before n10.
func natural(a, b string) int {
	whole := cmp.Compare(a, b)
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x == "" || y == "" {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		n, m := strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if n != m {
			return cmp.Or(cmp.Compare(len(n), len(m)), cmp.Compare(n, m))
		}
		a, b = a[len(x):], b[len(y):]
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), whole)
}

// digits that a text begins with.
func digits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

// fit shortens a text to so many columns of a monospaced font. It is cut in its middle, since names of
// nodes differ at their beginning or at their end, those of ports at the end.
func fit(s string, columns int) string {
	wide := func(r rune) int {
		if r >= 0x1100 { // most that is wide, and some that is not
			return 2
		}
		return 1
	}
	total := 0
	for _, r := range s {
		total += wide(r)
	}
	if total <= columns {
		return s
	}
	// The ellipsis itself takes two, in fonts that lack it.
	room := columns - 2
	head, used := 0, 0
	for i, r := range s {
		if used+wide(r) > room/2 {
			break
		}
		used += wide(r)
		head = i + utf8.RuneLen(r)
	}
	tail := len(s)
	for tail > head {
		r, n := utf8.DecodeLastRuneInString(s[:tail])
		if used+wide(r) > room {
			break
		}
		used += wide(r)
		tail -= n
	}
	return s[:head] + "…" + s[tail:]
}
