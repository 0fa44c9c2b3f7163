package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"html"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

func htmlOf(tb testing.TB, r *reach.Report, known []reach.Finding) string {
	tb.Helper()
	var buf bytes.Buffer
	if err := (Printer{W: &buf}).ReachHTML(r, known); err != nil {
		tb.Fatal(err)
	}
	return buf.String()
}

// anchors are the page's identifiers, and what its links lead to.
func anchors(page string) (ids, links []string) {
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		ids = append(ids, m[1])
	}
	for _, m := range regexp.MustCompile(` href="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		links = append(links, m[1])
	}
	return ids, links
}

// TestHTMLAnchors: each link leads to a place of this page, and cells to the findings that they are of.
func TestHTMLAnchors(t *testing.T) {
	page := htmlOf(t, sampleReach(t), nil)
	ids, links := anchors(page)
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			t.Errorf("%q is there twice", id)
		}
	}
	for _, l := range links {
		if to, ok := strings.CutPrefix(l, "#"); l != "data:," && (!ok || !slices.Contains(ids, to)) {
			t.Errorf("a link leads to %q", l)
		}
	}
	for cell, want := range map[string]string{
		"n2, VLAN 105: trunk failed (NOT_TRUNKED); mac, mtu, gateway, lldp not tested (NOT_TRUNKED)":            "f1 NOT_TRUNKED",
		"n4, VLAN 107: mtu failed (MTU_BELOW_INTENT); gateway failed (GATEWAY_SILENT); trunk, mac, lldp passed": "f2 MTU_BELOW_INTENT",
		"n1, VLAN 107: gateway failed (GATEWAY_SILENT); trunk, mac, mtu, lldp passed":                           "f3 GATEWAY_SILENT",
		"n4, VLAN 103-104: mtu failed (MTU_BELOW_INTENT); trunk, mac, gateway, dhcp, lldp passed":               "f2 MTU_BELOW_INTENT",
		"n4, VLAN 106: mtu failed (MTU_BELOW_INTENT); trunk, mac, gateway, lldp passed":                         "f2 MTU_BELOW_INTENT",
		"n4, VLAN 105: mtu failed (MTU_BELOW_INTENT); trunk, mac, gateway, lldp passed":                         "f2 MTU_BELOW_INTENT",
		"n2, VLAN 107: gateway failed (GATEWAY_SILENT); trunk, mac, mtu, lldp passed":                           "f3 GATEWAY_SILENT",
	} {
		id, code, _ := strings.Cut(want, " ")
		if !strings.Contains(page, fmt.Sprintf(`title="%s"><a href="#%s"`, cell, id)) {
			t.Errorf("no link of the cell %q to %s", cell, id)
		}
		_, at, _ := strings.Cut(page, fmt.Sprintf(`<article class="finding fail" id="%s">`, id))
		at, _, _ = strings.Cut(at, "</h3>")
		if !strings.Contains(at, "<code>"+code+"</code>") {
			t.Errorf("%s is %q, want %s", id, at, code)
		}
	}
}

// TestHTMLSaysAll that findings and the codes' texts do.
func TestHTMLSaysAll(t *testing.T) {
	r := sampleReach(t)
	page := html.UnescapeString(htmlOf(t, r, r.Findings[1:2]))
	for _, f := range r.Findings {
		text, _ := f.Code.Text()
		want := append([]string{string(f.Code), f.Message, f.Next, Where(&f), text.Meaning, text.How, text.Next, string(f.Severity)}, f.Evidence...)
		for _, w := range append(want, f.Ports...) {
			if !strings.Contains(page, w) {
				t.Errorf("%s: %q is not there", f.Code, w)
			}
		}
	}
	for _, n := range r.Nodes {
		for _, w := range []string{n.Node, n.Uplink, n.Switch, n.Port} {
			if strings.Count(page, ">"+w+"<") == 0 {
				t.Errorf("%q is not drawn", w)
			}
		}
	}
	if n := strings.Count(page, `class="known"`); n != 1 {
		t.Errorf("%d findings are marked as known, want 1", n)
	}
}

// saying is the sample with a text wherever others than this project have a say.
func saying(tb testing.TB, text string) *reach.Report {
	r := sampleReach(tb)
	for i := range r.Nodes {
		n := &r.Nodes[i]
		for j := range r.Cells {
			if c := &r.Cells[j]; c.Node == n.Node {
				c.Node, c.Trunk = text+n.Node, text
				c.Target += text
			}
		}
		n.Node, n.Trunk, n.Uplink, n.Port, n.Version, n.Chassis = text+n.Node, text, text, text, text, text
		n.Switch += text
	}
	r.Nodes = append(r.Nodes, reach.Node{Node: text, Absent: text})
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Trunk, f.Message, f.Next = text, text, text
		f.Networks, f.Targets, f.Evidence, f.Ports = []string{text}, []string{text}, []string{text}, []string{text}
		for j := range f.Nodes {
			f.Nodes[j] = text + f.Nodes[j]
		}
	}
	for i := range r.Cells {
		if c := &r.Cells[i]; c.Result == reach.Untested {
			c.Why = text
		}
	}
	r.Run = text
	return r
}

// TestHTMLIsInert: whatever stands in a report is text, and makes no element and no attribute.
func TestHTMLIsInert(t *testing.T) {
	const evil = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"' onclick=\"alert(1)\x1b[2J\u202e"
	tags := regexp.MustCompile(`</?[a-zA-Z]+`)
	want := tags.FindAllString(htmlOf(t, saying(t, "harmless"), nil), -1)
	page := htmlOf(t, saying(t, evil), nil)
	if got := tags.FindAllString(page, -1); !slices.Equal(got, want) {
		t.Errorf("%d tags, %d of a harmless name", len(got), len(want))
	}
	if strings.ContainsAny(page, "\x1b\u202e") {
		t.Error("characters that steer are let through")
	}
	for _, never := range []string{"<img", "alert(1)</script", `onclick="`} {
		if strings.Contains(page, never) {
			t.Errorf("%s is let through", never)
		}
	}
}

// TestHTMLPolicy: the page's own policy names its style and its script as they stand in it, and allows
// nothing else; no attribute has a style, which it would refuse.
func TestHTMLPolicy(t *testing.T) {
	page := htmlOf(t, sampleReach(t), nil)
	m := regexp.MustCompile(`http-equiv="Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(page)
	if m == nil {
		t.Fatal("no policy")
	}
	policy := html.UnescapeString(m[1])
	for _, element := range []string{"style", "script"} {
		_, text, _ := strings.Cut(page, "<"+element+">")
		text, _, _ = strings.Cut(text, "</"+element+">")
		if want := element + "-src " + sumOf(text) + ";"; !strings.Contains(policy, want) || len(text) < 100 {
			t.Errorf("%s, of %d bytes: the policy %q lacks %q", element, len(text), policy, want)
		}
	}
	for _, never := range []string{"unsafe", "http:", "https:", "*"} {
		if strings.Contains(policy, never) {
			t.Errorf("the policy allows %s", never)
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none';") {
		t.Errorf("policy: %s", policy)
	}
	for _, never := range []string{" style=", "@import", "url(", "http://", "https://", " src="} {
		if strings.Contains(page, never) {
			t.Errorf("the page has %q", never)
		}
	}
}

func TestHTMLVerdict(t *testing.T) {
	for _, tt := range []struct {
		r     reach.Report
		known int
		want  string
	}{
		{reach.Report{Summary: reach.Summary{Cells: 10, Passed: 10}}, 0, "good The fabric carries all that is intended: all of 10 tests passed."},
		{reach.Report{Summary: reach.Summary{Cells: 10, Passed: 8, Untested: 2}}, 0, "good All that could be tested passed: 8 of 10 tests; 2 could not be made."},
		{reach.Report{Summary: reach.Summary{Cells: 10, Passed: 7, Failed: 3, Errors: 1, Warnings: 2}}, 0, "bad The fabric does not carry all that is intended: 3 of 10 tests failed; 1 error and 2 warnings."},
		{reach.Report{Summary: reach.Summary{Cells: 10, Passed: 10, Warnings: 1}}, 0, "warn No VLAN was found cut off, but not all is as it should be, or could be tested: 1 warning."},
		{reach.Report{}, 0, "warn " + nothingTested},
		{reach.Report{Summary: reach.Summary{Warnings: 2}}, 0, "warn " + nothingTested + " 2 warnings."},
		{reach.Report{Cancelled: true, Summary: reach.Summary{Cells: 1, Passed: 1}}, 0, "warn The check was ended before its time. What it found until then: the fabric carries all that is intended: all of 1 test passed."},
		{reach.Report{Summary: reach.Summary{Cells: 2, Failed: 2, Errors: 2}, Findings: make([]reach.Finding, 2)}, 1, "bad The fabric does not carry all that is intended: 2 of 2 tests failed; 2 errors. Of 2 findings, 1 in the baseline already."},
	} {
		if tone, text := verdictOf(&tt.r, tt.known); tone+" "+text != tt.want {
			t.Errorf("got  %s %s\nwant %s", tone, text, tt.want)
		}
	}
}

// TestHTMLLeftOut: what passed is known of a report from which it was left out for its size.
func TestHTMLLeftOut(t *testing.T) {
	symbols := func(r *reach.Report) (all []string) {
		for _, m := range regexp.MustCompile(`<td class="c (\w*)" title="([^:]*):`).FindAllStringSubmatch(htmlOf(t, r, nil), -1) {
			all = append(all, m[2]+" "+m[1])
		}
		return all
	}
	r := sampleReach(t)
	whole := symbols(r)
	r.LeaveOutPassed()
	short := symbols(r)
	if len(whole) != 4*5 || !slices.Equal(whole, short) {
		t.Errorf("%d cells, %d of what was left over:\n%v\n%v", len(whole), len(short), whole, short)
	}
	if page := htmlOf(t, r, nil); !strings.Contains(page, "left out of the report") {
		t.Error("it is not said that cells are not there")
	}
}

func TestMarks(t *testing.T) {
	cell := func(test reach.Test, result reach.Result, why string) reach.Cell {
		return reach.Cell{Node: "n1", VLAN: 5, Test: test, Result: result, Why: why}
	}
	f := reach.Finding{Code: reach.RAUnexpected, Severity: reach.Warning, VLANs: set(t, "5")}
	ix := newFindingIndex(&reach.Report{Findings: []reach.Finding{f}})
	for _, tt := range []struct {
		name    string
		cells   []reach.Cell
		leftOut bool
		want    string
	}{
		{"all passed", []reach.Cell{cell("trunk", reach.Pass, ""), cell("mtu", reach.Pass, "")}, false, "pass  "},
		{"a warning", []reach.Cell{cell("trunk", reach.Pass, ""), cell("ra", reach.Fail, "RA_UNEXPECTED")}, false, "warn ra f1"},
		{"an error besides", []reach.Cell{cell("ra", reach.Fail, "RA_UNEXPECTED"), cell("mtu", reach.Fail, "MTU_BELOW_INTENT")}, false, "fail ra, mtu f1"},
		{"in part", []reach.Cell{cell("trunk", reach.Pass, ""), cell("mtu", reach.Untested, "NO_PEER")}, false, "part  "},
		{"not at all", []reach.Cell{cell("trunk", reach.Untested, "NO_PEER")}, false, "none  "},
		{"the switch's word alone", []reach.Cell{cell("lldp", reach.Pass, "")}, false, "none  "},
		{"left out", nil, true, "pass  "},
		{"left out in part", []reach.Cell{cell("gateway", reach.Untested, "no answer")}, true, "part  "},
		{"left out, the VLAN not tested", []reach.Cell{cell("trunk", reach.Untested, "NO_PEER")}, true, "none  "},
	} {
		m := markOf(tt.cells, ix, tt.leftOut)
		if got := m.Class + " " + m.Tests + " " + m.To; got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNaturalOrder(t *testing.T) {
	want := []string{"", "1/2", "1/10", "a", "n", "n01", "n1", "n2", "n2a", "n10", "n10b2", "n10b10"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, natural)
	if !slices.Equal(want, got) {
		t.Errorf("%q", got)
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		text    string
		columns int
		want    string
	}{
		{"worker-1", 8, "worker-1"},
		{"worker-17.example.com", 12, "worke…e.com"},
		{"節点網網網", 10, "節点網網網"},
		{"節点網網網網", 10, "節点…網網"},
		{"", 5, ""},
	} {
		if got := fit(tt.text, tt.columns); got != tt.want {
			t.Errorf("%q in %d: %q, want %q", tt.text, tt.columns, got, tt.want)
		}
	}
}

// TestDrawing: every uplink is drawn once, at its switch, and nothing lies over anything else.
func TestDrawing(t *testing.T) {
	for _, nodes := range []int{1, 2, 4, 9, 16, 25, 64, 200} {
		r := &reach.Report{Started: time.Unix(0, 0)}
		for i := range nodes {
			n := reach.Node{Node: fmt.Sprint("n", i), Trunk: "t", Uplink: "eth0", Switch: fmt.Sprint("sw", i/40), Port: fmt.Sprint("Eth1/", i)}
			switch i % 10 {
			case 3:
				n.Switch, n.Port = "", ""
			case 7:
				n = reach.Node{Node: n.Node, Absent: "no answer"}
			}
			r.Nodes = append(r.Nodes, n)
		}
		all := drawings(r, newFindingIndex(r))
		if len(all) != 1 {
			t.Fatalf("%d drawings of %d nodes", len(all), nodes)
		}
		d := all[0]
		var boxes [][4]int
		drawn := map[string]int{}
		for _, s := range d.Switches {
			boxes = append(boxes, [4]int{s.X, s.Y, s.X + s.W, s.Y + s.H})
			for _, w := range s.Rows {
				drawn[w.node.Node]++
				boxes = append(boxes, [4]int{w.NodeX, w.NodeY, w.NodeX + w.NodeWide, w.NodeY + w.NodeTal})
				if w.Y < s.Y+drawHead || w.Y > s.Y+s.H {
					t.Errorf("%d nodes: port %q is not at its switch", nodes, w.Port)
				}
				if at := map[bool]string{true: w.node.Switch, false: s.Full}[s.Known]; !strings.HasPrefix(s.Full, at) {
					t.Errorf("%s is drawn at %q", w.node.Node, s.Full)
				}
			}
		}
		for i, a := range boxes {
			if a[0] < 0 || a[1] < drawBar || a[2] > d.Width || a[3] > d.Height {
				t.Errorf("%d nodes: %v is outside of %d x %d", nodes, a, d.Width, d.Height)
			}
			for _, b := range boxes[:i] {
				if a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3] {
					t.Errorf("%d nodes: %v lies over %v", nodes, a, b)
				}
			}
		}
		for _, n := range r.Nodes {
			if drawn[n.Node] != 1 {
				t.Errorf("%d nodes: %s is drawn %d times", nodes, n.Node, drawn[n.Node])
			}
		}
		if d.Columns > 1 && d.Height > 60*drawRow && nodes <= 64 {
			t.Errorf("%d nodes: %d high", nodes, d.Height)
		}
	}
}

// TestDrawnSwitches: two of one name are two, those of which nothing is known stand last.
func TestDrawnSwitches(t *testing.T) {
	r := &reach.Report{Nodes: []reach.Node{
		{Node: "n0", Absent: "no answer"},
		{Node: "n1", Trunk: "t"},
		{Node: "n2", Trunk: "t", Switch: "sw", Chassis: "02:00:00:00:00:02", Port: "2"},
		{Node: "n3", Trunk: "t", Switch: "sw", Chassis: "02:00:00:00:00:01", Port: "10"},
		{Node: "n4", Trunk: "t", Switch: "sw", Chassis: "02:00:00:00:00:01", Port: "9"},
	}, Findings: []reach.Finding{
		{Code: reach.LLDPAbsent, Severity: reach.Info, Trunk: "t", Nodes: []string{"n1"}},
		{Code: reach.LinkDown, Severity: reach.Error, Trunk: "other", Nodes: []string{"n2"}},
		{Code: reach.LLDPVLANMissing, Severity: reach.Warning, Nodes: []string{"n3"}},
		{Code: reach.NotTrunked, Severity: reach.Error, Trunk: "t", Nodes: []string{"n3"}},
		{Code: reach.OneWay, Severity: reach.Error, Trunk: "t", Nodes: []string{"n4"}},
		{Code: reach.RAUnexpected, Severity: reach.Warning, Trunk: "t", Nodes: []string{"n4"}},
	}}
	for i := range r.Nodes {
		_ = r.Nodes[i].VLANs.Add(vlan.ID(100))
	}
	var got []string
	for _, s := range drawings(r, newFindingIndex(r))[0].Switches {
		got = append(got, s.Name)
		for _, w := range s.Rows {
			got = append(got, fmt.Sprintf("  %s %s %s %s", w.Port, w.Name, w.Link.Class, w.Link.To))
		}
	}
	want := []string{"sw 00:00:01", "  9 n4 fail f5", "  10 n3 fail f4", "sw 00:00:02", "  2 n2 pass ", "unknown switch", "  no LLDP n1 info f1", "did not take part", "   n0 none "}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestHTMLWellFormed: the drawing is XML that other programs can take out of the page.
func TestHTMLWellFormed(t *testing.T) {
	page := htmlOf(t, sampleReach(t), nil)
	_, svg, _ := strings.Cut(page, `<svg class="topology`)
	svg, _, _ = strings.Cut(svg, "</svg>")
	var v struct {
		Text []string `xml:"g>text"`
	}
	if err := xml.Unmarshal([]byte(`<svg class="topology`+svg+"</svg>"), &v); err != nil {
		t.Error(err)
	}
	if !slices.Contains(v.Text, "sw-a") {
		t.Errorf("labels: %q", v.Text)
	}
}

// TestColumns: VLANs share a column where nodes fare the same for the same reason, and not where they
// fail for another.
func TestColumns(t *testing.T) {
	r := &reach.Report{Nodes: []reach.Node{{Node: "n1", Trunk: "t"}, {Node: "n2", Trunk: "t"}}, Findings: []reach.Finding{
		{Code: reach.MTUBelowIntent, Severity: reach.Error, Nodes: []string{"n1"}, VLANs: set(t, "101,103-104")},
		{Code: reach.MTUBelowIntent, Severity: reach.Error, Nodes: []string{"n1"}, VLANs: set(t, "105")},
	}}
	for i, id := range []vlan.ID{100, 101, 103, 104, 105, 106, 107} {
		c := reach.Cell{Node: "n1", Trunk: "t", VLAN: id, Test: reach.TestMTU, Result: reach.Pass}
		if i > 0 && i < 5 {
			c.Result, c.Why = reach.Fail, "MTU_BELOW_INTENT"
		}
		if id == 104 {
			r.Cells = append(r.Cells, reach.Cell{Node: "n1", Trunk: "t", VLAN: id, Test: reach.TestTrunk, Result: reach.Fail, Why: "ONE_WAY"})
		}
		r.Cells = append(r.Cells, c)
	}
	r.Cells = append(r.Cells, reach.Cell{Node: "n2", Trunk: "t", VLAN: 100, Test: reach.TestTrunk, Result: reach.Pass})
	tr := newHTMLTrunk(r, newFindingIndex(r), "t", 1)
	var got []string
	for i, c := range tr.Columns {
		a, b := tr.Rows[0].Cells[i], tr.Rows[1].Cells[i]
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s: %s %s %s %s, %s", c.VLANs, a.Symbol, a.Class, a.Tests, a.To, b.Symbol)))
	}
	want := []string{"100: ✓ pass  , ✓", "101,103: ✕ fail mtu f1, ·", "104: ✕ fail trunk, mtu f1, ·", "105: ✕ fail mtu f2, ·", "106-107: ✓ pass  , ·"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
