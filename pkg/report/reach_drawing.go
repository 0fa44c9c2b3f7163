package report

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// Measures of the drawing, in CSS pixels. Text is monospaced, and shortened to what its place
// takes; each stands in a row of its own, so that none can lie over another.
const (
	drawColumn  = 436 // a column of switches, with the space to the next
	drawSwitch  = 168 // width of a switch
	drawLink    = 48
	drawNode    = 180 // width of a node
	drawRow     = 40  // an uplink
	drawHead    = 30  // a switch's name
	drawFoot    = 6
	drawGap     = 14 // between switches
	drawBar     = 34 // the fabric's bar
	drawTop     = 18 // from bar to first switch
	drawIndent  = 22 // of switches, for the line that leads to them
	nameColumns = 19 // characters of text, of a switch
	portColumns = 21 // in a smaller font
	nodeColumns = 21
	subColumns  = 23 // in a smaller font
	barColumns  = 50
)

// drawing is the fabric of one trunk, as far as LLDP tells it: switches, their ports, and the uplinks
// of nodes. How switches are linked to each other is not told, and drawn as one bar.
type drawing struct {
	Name, Label   string
	Width, Height int
	Columns       int
	BarText, Full string
	// BarWide is the bar's width, BarMark where its mark is.
	BarWide, BarMark int
	// Whole is what findings of no single node come to.
	Whole    drawnLink
	Lines    []drawnLine
	Switches []drawnSwitch
}

type drawnLine struct{ X1, Y1, X2, Y2 int }

type drawnSwitch struct {
	X, Y, W, H   int
	TextY        int
	Name, Full   string
	Known        bool
	Rows         []drawnRow
	key, chassis string
	rank         int // in the order
}

// drawnRow is a port, a link and an uplink.
type drawnRow struct {
	Link              drawnLink
	Y                 int // its middle
	PortX, PortTextX  int
	Port              string
	NodeX, NodeY      int
	NodeTextX         int
	Name, Uplink      string
	NameY, UplinkY    int
	Title             string
	node              reach.Node
	MarkX, X1, X2     int
	NodeWide, NodeTal int
}

// drawnLink is how bad it is, and where that is told.
type drawnLink struct{ Class, Text, To string }

// drawings has one for each trunk; nodes that took no part are in that of the only trunk, or else
// by themselves.
func drawings(r *reach.Report, ix *findingIndex) (all []*drawing) {
	var trunks []string
	for _, n := range r.Nodes {
		if n.Absent == "" && !slices.Contains(trunks, n.Trunk) {
			trunks = append(trunks, n.Trunk)
		}
	}
	slices.Sort(trunks)
	absent := slices.DeleteFunc(slices.Clone(r.Nodes), func(n reach.Node) bool { return n.Absent == "" })
	for _, t := range trunks {
		nodes := slices.DeleteFunc(slices.Clone(r.Nodes), func(n reach.Node) bool { return n.Absent != "" || n.Trunk != t })
		if len(trunks) == 1 {
			nodes = append(nodes, absent...)
		}
		all = append(all, draw(t, nodes, ix))
	}
	if len(absent) > 0 && len(trunks) != 1 {
		all = append(all, draw("", absent, ix))
	}
	return all
}

func draw(trunk string, nodes []reach.Node, ix *findingIndex) *drawing {
	name := "trunk " + printable(trunk)
	if trunk == "" {
		name = "trunk not known"
	}
	d := &drawing{Name: name, Full: name, BarText: fit(name, barColumns-16), Label: "Switches and nodes of " + name}
	if trunk != "" {
		d.Whole = linkOf(ix, ix.at("", trunk))
		if d.Whole.Text != "" {
			d.Whole.Text += " of all nodes"
		}
	}
	switches := switchesOf(nodes, ix, trunk)
	columns := 1
	switch {
	case len(nodes) > 24:
		columns = 3
	case len(nodes) > 8:
		columns = 2
	}
	d.place(split(switches, (len(nodes)+columns-1)/columns), columns)
	return d
}

// switchesOf groups nodes by where they are, those last of which that is not known.
func switchesOf(nodes []reach.Node, ix *findingIndex, trunk string) (all []drawnSwitch) {
	for _, n := range nodes {
		s := drawnSwitch{key: n.Switch + "\x00" + n.Chassis, Full: printable(n.Switch), chassis: printable(n.Chassis), Known: true}
		switch {
		case n.Absent != "":
			s = drawnSwitch{rank: 2, Full: "did not take part"}
		case n.Switch == "":
			s = drawnSwitch{rank: 1, Full: "unknown switch"}
		}
		at := slices.IndexFunc(all, func(o drawnSwitch) bool { return o.key == s.key && o.rank == s.rank })
		if at < 0 {
			at = len(all)
			all = append(all, s)
		}
		all[at].Rows = append(all[at].Rows, rowOf(n, ix, trunk))
	}
	slices.SortStableFunc(all, func(a, b drawnSwitch) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), natural(a.Full, b.Full), cmp.Compare(a.chassis, b.chassis))
	})
	for i := range all {
		s := &all[i]
		slices.SortStableFunc(s.Rows, func(a, b drawnRow) int {
			return cmp.Or(natural(a.node.Port, b.node.Port), natural(a.node.Node, b.node.Node))
		})
		s.Name = fit(s.Full, nameColumns)
		// Two of one name are told apart by the end of what is their own.
		if s.chassis != "" && slices.ContainsFunc(all, func(o drawnSwitch) bool { return o.key != s.key && o.Full == s.Full }) {
			s.Name = fit(s.Full, nameColumns-9) + " " + fit(s.chassis[max(0, len(s.chassis)-8):], 8)
		}
	}
	for i := range all {
		if s := &all[i]; s.chassis != "" {
			s.Full += " (" + s.chassis + ")"
		}
	}
	return all
}

func rowOf(n reach.Node, ix *findingIndex, trunk string) drawnRow {
	w := drawnRow{node: n, Port: fit(printable(n.Port), portColumns), Name: fit(printable(n.Node), nodeColumns), Link: linkOf(ix, ix.at(n.Node, trunk))}
	w.Uplink = printable(n.Uplink)
	w.Title = printable(n.Node + " " + n.Uplink)
	switch {
	case n.Absent != "":
		w.Title = printable(n.Node + ", did not take part: " + n.Absent)
		w.Link.Class = cmp.Or(map[string]string{"pass": "none"}[w.Link.Class], w.Link.Class)
	case n.Switch == "":
		w.Port = "no LLDP"
		w.Title += ", no LLDP"
	default:
		w.Title += " at " + printable(n.Switch+" "+n.Port)
	}
	if w.Link.Text == "" && n.VLANs.Empty() && n.Absent == "" {
		w.Link.Class, w.Link.Text = "none", "not asked for"
	}
	w.Title += ": " + cmp.Or(w.Link.Text, "no finding")
	return w
}

func linkOf(ix *findingIndex, list []int) drawnLink {
	l := drawnLink{Class: ix.worst(list)}
	for _, i := range list {
		if severityClass(ix.all[i].Severity) == l.Class {
			l.To = findingID(i)
			break
		}
	}
	if len(list) > 0 {
		l.Text = counted(len(list), "finding")
	}
	return l
}

// split cuts switches that are longer than a column.
func split(all []drawnSwitch, most int) (parts []drawnSwitch) {
	most = max(most, 12)
	for _, s := range all {
		rows, name := s.Rows, s.Full
		for i := 0; len(rows) > 0; i++ {
			part := s
			part.Rows = rows[:min(most, len(rows))]
			if i > 0 {
				part.Name, part.Full = fit(s.Name, nameColumns-8)+" (cont.)", name+", continued"
			}
			rows = rows[len(part.Rows):]
			parts = append(parts, part)
		}
	}
	return parts
}

func (s *drawnSwitch) high() int { return drawHead + drawRow*len(s.Rows) + drawFoot }

// place fills columns from left to right, about equally.
func (d *drawing) place(all []drawnSwitch, columns int) {
	total := 0
	for _, s := range all {
		total += s.high() + drawGap
	}
	column, y, top := 0, 0, drawBar+drawTop
	spines := map[int]int{} // the end of each
	for _, s := range all {
		// It is put where more than half of it is within the column's share.
		if y > 0 && column < columns-1 && y+(s.high()+drawGap)/2 > total/columns {
			column, y = column+1, 0
		}
		s.X, s.Y, s.W, s.H = column*drawColumn+drawIndent, top+y, drawSwitch, s.high()
		s.TextY = s.Y + 20
		d.Lines = append(d.Lines, drawnLine{s.X - drawIndent/2, s.Y + drawHead/2, s.X, s.Y + drawHead/2})
		spines[column] = s.Y + drawHead/2
		s.Rows = slices.Clone(s.Rows)
		for i := range s.Rows {
			s.Rows[i].place(&s, i)
		}
		y += s.H + drawGap
		d.Height = max(d.Height, s.Y+s.H+2)
		d.Switches = append(d.Switches, s)
	}
	for c := range column + 1 {
		x := c*drawColumn + drawIndent/2
		d.Lines = append(d.Lines, drawnLine{x, drawBar, x, spines[c]})
	}
	d.Width = (column+1)*drawColumn - (drawColumn - drawIndent - drawSwitch - drawLink - drawNode) + 2
	d.Columns = column + 1
	d.BarWide, d.BarMark = d.Width-2, d.Width-18
}

func (w *drawnRow) place(s *drawnSwitch, i int) {
	w.Y = s.Y + drawHead + drawRow*i + drawRow/2
	w.PortX, w.PortTextX = s.X+s.W-7, s.X+s.W-14
	w.X1, w.X2 = s.X+s.W, s.X+s.W+drawLink
	w.MarkX = (w.X1 + w.X2) / 2
	w.NodeX, w.NodeY, w.NodeTextX = w.X2, w.Y-17, w.X2+10
	w.NodeWide, w.NodeTal = drawNode, 34
	w.NameY, w.UplinkY = w.Y-3, w.Y+11
	switch {
	case w.Link.Text == "":
		w.Uplink = fit(w.Uplink, subColumns)
	case w.Uplink == "":
		w.Uplink = w.Link.Text
	default:
		w.Uplink = fmt.Sprintf("%s · %s", fit(w.Uplink, subColumns-3-len(w.Link.Text)), w.Link.Text)
	}
}
