package report

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// tone is what a cell says besides its words. It is never the only carrier of
// a meaning, since it is seen only where there is colour.
type tone uint8

const (
	plain tone = iota
	good
	bad
	warn
	head
)

// sgr is the ECMA-48 parameter of a tone.
func (t tone) sgr() string {
	switch t {
	case good:
		return "32"
	case bad:
		return "31"
	case warn:
		return "33"
	case head:
		return "1"
	}
	return ""
}

// cell is one word or phrase of a table.
type cell struct {
	text string
	tone tone
}

// say is a cell of anything, without tone.
func say(v any) cell { return cell{text: fmt.Sprint(v)} }

// page collects a report for people.
type page struct {
	buf   bytes.Buffer
	color bool
	wide  bool
}

func (p *page) line(cells ...cell) {
	for _, c := range cells {
		p.put(c, 0)
	}
	p.buf.WriteByte('\n')
}

// blank separates two parts of a report.
func (p *page) blank() {
	if p.buf.Len() > 0 {
		p.buf.WriteByte('\n')
	}
}

// put writes a cell, padded to a width in characters.
func (p *page) put(c cell, width int) {
	text := printable(c.text)
	if sgr := c.tone.sgr(); p.color && sgr != "" && text != "" {
		p.buf.WriteString("\x1b[" + sgr + "m" + text + "\x1b[0m")
	} else {
		p.buf.WriteString(text)
	}
	if pad := width - utf8.RuneCountInString(text); pad > 0 {
		p.buf.WriteString(strings.Repeat(" ", pad))
	}
}

// pairs writes "name  value" lines, values aligned.
func (p *page) pairs(rows ...[2]cell) {
	width := 0
	for _, r := range rows {
		width = max(width, utf8.RuneCountInString(r[0].text))
	}
	for _, r := range rows {
		p.put(r[0], width+2)
		p.line(r[1])
	}
}

// paragraph writes a labelled text, broken between words; nothing for no text.
func (p *page) paragraph(label, text string) {
	const indent, columns = "  ", 100
	words := strings.Fields(text)
	if len(words) == 0 {
		return
	}
	used := 0
	for i, w := range words {
		n := utf8.RuneCountInString(w)
		switch {
		case i == 0:
			p.put(say(indent+label), 0)
			used = len(indent + label)
		case used+1+n > columns:
			p.buf.WriteString("\n" + strings.Repeat(" ", len(indent+label)))
			used = len(indent + label)
		default:
			p.buf.WriteByte(' ')
			used++
		}
		p.put(say(w), 0)
		used += n
	}
	p.buf.WriteByte('\n')
}

// printable keeps what comes from pods, files and guests from steering the
// reader's terminal: each control or formatting character becomes "?".
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// grid is a table: columns two spaces apart, "-" for nothing.
type grid struct {
	page *page
	keep []bool // per column: is it shown
	rows [][]cell
}

// grid starts a table. A title that begins with "+" is shown in Wide only.
func (p *page) grid(titles ...string) *grid {
	g := &grid{page: p}
	var heads []cell
	for _, t := range titles {
		t, wide := strings.CutPrefix(t, "+")
		g.keep = append(g.keep, p.wide || !wide)
		heads = append(heads, cell{t, head})
	}
	g.row(heads...)
	return g
}

// row adds a row with one cell for each title.
func (g *grid) row(cells ...cell) {
	var kept []cell
	for i, c := range cells {
		if !g.keep[i] {
			continue
		}
		if c.text == "" {
			c.text = "-"
		}
		kept = append(kept, c)
	}
	g.rows = append(g.rows, kept)
}

// end writes the table to its page.
func (g *grid) end() {
	widths := make([]int, len(g.keep))
	for _, r := range g.rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, r := range g.rows {
		for i, c := range r {
			width := widths[i] + 2
			if i == len(r)-1 {
				width = 0
			}
			g.page.put(c, width)
		}
		g.page.buf.WriteByte('\n')
	}
}

// some shows a list in one cell: all of it in Wide, else its beginning. An
// absent list is whatever none says.
func (p *page) some(list []string, none string) string {
	const shown = 2
	switch {
	case len(list) == 0:
		return none
	case p.wide || len(list) <= shown:
		return strings.Join(list, ",")
	}
	return fmt.Sprintf("%s +%d more", strings.Join(list[:shown], ","), len(list)-shown)
}
