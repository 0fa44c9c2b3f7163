package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// shown is what a reader sees of a text that steers.
var shown = strings.ReplaceAll(evil, "\u202e", "?")

// TestAlone: the page says nothing on the console and asks for nothing. Whatever is put into it, no script but
// its own runs, and no server is asked.
func TestAlone(t *testing.T) {
	p := open(t, rich())
	p.quiet()
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		http.NotFound(w, r)
	}))
	t.Cleanup(server.Close)
	// What listens for an element's error hears it after the handler that it came with.
	eval[bool](p, `
		window.failed = 0;
		const add = (name, set) => {
			const e = document.createElement(name);
			e.setAttribute("onerror", "window.foreign = '"+name+"'");
			e.addEventListener("error", () => window.failed++);
			set(e);
			document.body.append(e);
		};
		const s = document.createElement("script");
		s.textContent = "window.foreign = 'text'";
		document.body.append(s);
		add("img", e => e.src = "`+server.URL+`/image");
		add("script", e => e.src = "`+server.URL+`/script");
		add("link", e => { e.rel = "stylesheet"; e.href = "`+server.URL+`/style"; });
		return true`)
	p.settle(`window.failed === 3`)
	if got := eval[string](p, `return window.foreign || ""`); got != "" {
		t.Errorf("a foreign script runs: %s", got)
	}
	server.Close()
	close(asked)
	for path := range asked {
		t.Errorf("another server is asked for %s", path)
	}
}

// TestInert: what switches and nodes say of themselves is text.
func TestInert(t *testing.T) {
	p := open(t, rich())
	type found struct {
		Title           string
		Scripts, Images int
		Handlers        []string
		Cell, Finding   string
		Drawn           bool
	}
	got := eval[found](p, `
		const all = [...document.querySelectorAll("*")];
		const row = [...document.querySelectorAll(".matrix tbody tr")].find(r => r.textContent.includes("<script>"));
		return {
			title: document.title,
			scripts: document.scripts.length,
			images: document.images.length,
			handlers: all.flatMap(e => e.getAttributeNames()).filter(n => n.startsWith("on")),
			cell: row.cells[0].textContent,
			finding: [...document.querySelectorAll(".finding .where")].map(e => e.textContent).find(s => s.includes("script")),
			drawn: [...document.querySelectorAll("svg title")].some(e => e.textContent.includes("<img src=x")),
		}`)
	want := found{Title: "Fabric check, 2026-11-30 09:41 UTC", Scripts: 1, Handlers: []string{}, Cell: shown, Finding: shown + "; VLAN 101", Drawn: true}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want -, got +\n%s", d)
	}
	p.quiet()
}

// symbolOf is what a cell of the matrix has to show, by the report alone.
func symbolOf(r *reach.Report, node, trunk string, id vlan.ID) string {
	there, failed, warned, untested, passed := false, false, false, false, false
	for _, c := range r.Cells {
		if c.Node != node || c.Trunk != trunk || c.VLAN != id {
			continue
		}
		there = true
		text, _ := reach.Code(c.Why).Text()
		switch {
		case c.Result == reach.Fail && text.Severity == reach.Error:
			failed = true
		case c.Result == reach.Fail:
			warned = true
		case c.Result == reach.Untested:
			untested = true
		case c.Test != reach.TestLLDP:
			passed = true
		}
	}
	switch {
	case failed:
		return "✕"
	case warned:
		return "!"
	case !there:
		return "·"
	case !passed:
		return "?"
	case untested:
		return "◐"
	}
	return "✓"
}

type shownCell struct{ Node, VLANs, Symbol, Label string }

type shownTrunk struct {
	Rows, Columns int
	Cells         []shownCell
}

func matrices(p *tab) []shownTrunk {
	return eval[[]shownTrunk](p, `return [...document.querySelectorAll(".matrix")].map(m => {
		const heads = [...m.tHead.rows[0].cells].slice(2), rows = [...m.tBodies[0].rows];
		return {rows: rows.length, columns: heads.length, cells: rows.flatMap(r => [...r.cells].slice(2).map((c, i) => ({
			node: r.cells[0].textContent, vlans: heads[i].title.replace("VLAN ", ""), symbol: c.textContent.trim().split(" ")[0],
			label: c.firstElementChild.getAttribute("aria-label"),
		})))};
	})`)
}

// TestMatrix: each node and VLAN of the report has its cell, with symbol and words.
func TestMatrix(t *testing.T) {
	r := rich()
	got := matrices(open(t, r))
	if len(got) != 2 || got[0].Rows != 12 || got[1].Rows != 3 || got[1].Columns != 1 {
		t.Fatalf("%+v", got)
	}
	for i, trunk := range []string{"physnet1", "storage"} {
		vlans := 0
		for n, c := range got[i].Cells {
			set, err := vlan.ParseSet(c.VLANs)
			if err != nil {
				t.Fatal(err)
			}
			if n < got[i].Columns {
				vlans += set.Len()
			}
			node := strings.ReplaceAll(c.Node, shown, evil)
			for id := range set.All() {
				if want := symbolOf(r, node, trunk, id); c.Symbol != want {
					t.Errorf("%s, VLAN %d shows %q, want %q", c.Node, id, c.Symbol, want)
				}
			}
			if !strings.HasPrefix(c.Label, c.Node+", VLAN "+c.VLANs+": ") {
				t.Errorf("%s, VLAN %s is labelled %q", c.Node, c.VLANs, c.Label)
			}
		}
		if want := []int{20, 2}[i]; vlans != want || len(got[i].Cells) != got[i].Rows*got[i].Columns {
			t.Errorf("%s: %d VLANs, want %d, in %d cells", trunk, vlans, want, len(got[i].Cells))
		}
	}
}

// TestClick: a cell that failed leads to its finding, that to the node's row, and a link of the drawing
// to the finding again.
func TestClick(t *testing.T) {
	p := open(t, rich())
	click := func(find, hash string) {
		t.Helper()
		at := eval[[]float64](p, `const e = `+find+`; e.scrollIntoView({block: "center", inline: "center"}); const b = e.getBoundingClientRect(); return [b.x + b.width/2, b.y + b.height/2]`)
		p.do(chromedp.MouseClickXY(at[0], at[1]))
		p.settle(`location.hash.startsWith("` + hash + `")`)
	}
	target := func() string {
		t.Helper()
		return eval[string](p, `const e = document.querySelector(":target"), b = e.getBoundingClientRect();
			return (b.top >= 0 && b.top < innerHeight ? "" : "out of sight: ") + (e.querySelector("h3, th")).textContent`)
	}
	click(`document.querySelector('.matrix td[title^="worker-2, VLAN 105: trunk failed"] a')`, "#f")
	if got := target(); !strings.Contains(got, "NOT_TRUNKED worker-2; VLAN 105") || strings.HasPrefix(got, "out") {
		t.Errorf("the cell leads to %q", got)
	}
	click(`document.querySelector(":target dd a")`, "#t1r")
	if got := target(); got != "worker-2" {
		t.Errorf("the finding leads to %q", got)
	}
	click(`[...document.querySelectorAll(".uplink")].find(g => g.textContent.includes("worker-4 bond0")).querySelector("circle")`, "#f")
	if got := target(); !strings.Contains(got, "MTU_BELOW_INTENT worker-4") {
		t.Errorf("the drawing leads to %q", got)
	}
	broken := eval[[]string](p, `return [...document.querySelectorAll("a")].map(a => a.getAttribute("href")).filter(h => !document.getElementById(h.slice(1)))`)
	if len(broken) > 0 {
		t.Errorf("links lead nowhere: %q", broken)
	}
	p.quiet()
}

// TestFilter hides rows of nodes that do not fit, and shows one that is led to.
func TestFilter(t *testing.T) {
	p := open(t, rich())
	rows := func() []string {
		t.Helper()
		return eval[[]string](p, `return [...document.querySelectorAll(".matrix tbody tr")].filter(r => r.checkVisibility()).map(r => r.cells[0].textContent)`)
	}
	all := rows()
	if len(all) != 15 {
		t.Fatalf("%d rows: %q", len(all), all)
	}
	p.do(chromedp.SendKeys(chromedp.CSS("#filter"), "LEAF-B worker"))
	p.settle(`document.getElementById("shown").textContent === "2 of 15 shown"`)
	if got := rows(); !slices.Equal(got, []string{"worker-6", "worker-9"}) {
		t.Errorf("the filter leaves %q", got)
	}
	eval[bool](p, `location.hash = "t1r2"; return true`)
	p.settle(`document.getElementById("filter").value === ""`)
	if got := rows(); !slices.Equal(got, all) {
		t.Errorf("a link leads to a row that is hidden: %q", got)
	}
	p.do(chromedp.Click(chromedp.CSS("#only")))
	p.settle(`document.getElementById("shown").textContent === "12 of 15 shown"`)
	if got := rows(); !slices.Equal(got, all[:12]) {
		t.Errorf("with failures: %q", got)
	}
	p.quiet()
}

// TestWithoutScript: the page is whole, but for the filter.
func TestWithoutScript(t *testing.T) {
	p := open(t, rich(), noScript)
	got := eval[[]int](p, `const seen = what => [...document.querySelectorAll(what)].filter(e => e.checkVisibility()).length;
		return [seen(".matrix td.c"), seen(".uplink"), document.getElementById("filters").checkVisibility() ? 1 : 0]`)
	if !slices.Equal(got, []int{12*8 + 3, 16, 0}) {
		t.Errorf("cells, links, filter: %v", got)
	}
}

// TestNarrow: on a phone nothing is wider than the screen but what scrolls by itself.
func TestNarrow(t *testing.T) {
	for name, r := range map[string]*reach.Report{"rich": rich(), "large": large(50, 100), "empty": newBuilder().report()} {
		t.Run(name, func(t *testing.T) {
			p := open(t, r)
			p.do(chromedp.EmulateViewport(360, 760))
			p.photo("narrow-" + name)
			eval[bool](p, `document.querySelectorAll("details").forEach(d => d.open = true); return true`)
			wide := eval[[]string](p, `
				const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll > *") && e.checkVisibility() && e.getBoundingClientRect().right > 360.5).map(e => e.outerHTML.slice(0, 120));
				if (document.scrollingElement.scrollWidth > 360) wide.push("the page: " + document.scrollingElement.scrollWidth);
				return wide`)
			if len(wide) > 0 {
				t.Errorf("wider than the screen: %s", strings.Join(wide, "\n"))
			}
		})
	}
}

// TestLarge: fifty nodes and a hundred VLANs, no two alike, are there soon, and their heads stay in sight.
func TestLarge(t *testing.T) {
	r := large(50, 100)
	file := page(t, r)
	st, err := os.Stat(file)
	if err != nil || st.Size() > 3<<20 {
		t.Errorf("%v, %d bytes", err, st.Size())
	}
	begun := time.Now()
	p := open(t, r)
	took := time.Since(begun)
	t.Logf("%d bytes, there in %v with the browser's start", st.Size(), took)
	if took > time.Minute {
		t.Errorf("there after %v", took)
	}
	p.quiet()
	p.part("large-matrix", "section:nth-of-type(2)")
	m := matrices(p)
	if len(m) != 1 || m[0].Rows != 50 || m[0].Columns != 100 || len(m[0].Cells) != 5000 {
		t.Fatalf("%d trunks, %d rows, %d columns, %d cells", len(m), m[0].Rows, m[0].Columns, len(m[0].Cells))
	}
	type places struct{ Head, Node, Corner, Cell bool }
	got := eval[places](p, `
		const box = document.querySelector(".scroll"), m = box.firstElementChild;
		box.scrollIntoView();
		box.scrollTo(900, 500);
		const b = box.getBoundingClientRect();
		const near = (x, y) => Math.abs(x - y) < 3;
		const at = (x, y) => document.elementFromPoint(b.left + x, b.top + y).closest("th, td");
		const corner = m.tHead.rows[0].cells[0];
		return {
			head: near(m.tHead.rows[0].cells[60].getBoundingClientRect().top, b.top),
			node: near(m.tBodies[0].rows[30].cells[0].getBoundingClientRect().left, b.left),
			corner: at(20, 12) === corner,
			cell: at(600, 300).matches("td.c"),
		}`)
	if got != (places{true, true, true, true}) {
		t.Errorf("scrolled, in their places: %+v", got)
	}
}

// TestPrint: on paper it is light, nothing scrolls, and a wide matrix is no wider than browsers shrink it.
func TestPrint(t *testing.T) {
	for name, tt := range map[string]struct {
		r    *reach.Report
		most int // CSS pixels; A4 on its side has 1032 within the margins
	}{"rich": {rich(), 1032}, "large": {large(50, 100), 2 * 1032}} {
		t.Run(name, func(t *testing.T) {
			p := open(t, tt.r)
			p.keep("print-"+name+".pdf", chromedp.PrintToPDF(chromedp.PDFPrintBackground(), chromedp.PDFPreferCSSPageSize()))
			p.media("print", "dark")
			p.do(chromedp.EmulateViewport(1032, 700))
			type sheet struct {
				Wide   int
				Back   string
				Inside []string
			}
			got := eval[sheet](p, `return {wide: document.scrollingElement.scrollWidth, back: getComputedStyle(document.body).backgroundColor,
				inside: [...document.querySelectorAll(".scroll")].filter(e => getComputedStyle(e).overflowX !== "visible").map(e => e.className)}`)
			if got.Wide > tt.most || got.Back != "rgb(255, 255, 255)" || len(got.Inside) > 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestStructure is what those need who do not see the page.
func TestStructure(t *testing.T) {
	p := open(t, rich())
	type outline struct {
		Lang     string
		Headings []int
		NoScope  []string
		NoName   []string
		Twice    []string
		Regions  int
	}
	got := eval[outline](p, `
		const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
		const name = e => (e.getAttribute("aria-label") || e.textContent).trim();
		return {
			lang: document.documentElement.lang,
			headings: [...document.querySelectorAll("h1, h2, h3, h4")].map(h => +h.tagName[1]),
			noScope: [...document.querySelectorAll("th")].filter(h => !["row", "col"].includes(h.scope)).map(h => h.outerHTML),
			noName: [...document.querySelectorAll("a, [role=img], [role=region], [role=group], svg:not([aria-hidden])")].filter(e => !name(e)).map(e => e.outerHTML.slice(0, 120)),
			twice: ids.filter((id, i) => ids.indexOf(id) !== i),
			regions: document.querySelectorAll("[role=region][tabindex='0']").length,
		}`)
	if got.Lang != "en" || len(got.NoScope)+len(got.NoName)+len(got.Twice) > 0 || got.Regions != 5 {
		t.Errorf("%+v", got)
	}
	for i, h := range got.Headings {
		if i == 0 && h != 1 || i > 0 && (h == 1 || h > got.Headings[i-1]+1) {
			t.Errorf("headings are out of order: %v", got.Headings)
			break
		}
	}
}

// TestVerdictOnTop: what matters is seen without scrolling, on a phone, too.
func TestVerdictOnTop(t *testing.T) {
	for _, width := range []int64{1280, 360} {
		p := open(t, rich())
		p.do(chromedp.EmulateViewport(width, 740))
		bottom := eval[float64](p, `return document.querySelector(".sums").getBoundingClientRect().bottom`)
		if bottom > 740 {
			t.Errorf("%d wide: the sums end at %v", width, bottom)
		}
		text := eval[string](p, `return document.getElementById("verdict").textContent`)
		s := rich().Summary
		if !strings.Contains(text, fmt.Sprintf("%d of %d tests failed", s.Failed, s.Cells)) {
			t.Errorf("verdict: %q", text)
		}
	}
}
