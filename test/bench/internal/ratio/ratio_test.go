package ratio

import (
	"encoding/json"
	"encoding/xml"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{[]float64{7}, 7}, {[]float64{9, 1}, 5}, {[]float64{5, 1, 100}, 5}, {[]float64{4, 1, 3, 100}, 3.5}} {
		if got := Median(c.in); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

// TestInterval has the ranks that tables of the sign test give for 95 %.
func TestInterval(t *testing.T) {
	for _, c := range []struct {
		n         int
		low, high float64 // ranks, from 1
	}{{1, 1, 1}, {2, 1, 2}, {5, 1, 5}, {6, 1, 6}, {8, 1, 8}, {9, 2, 8}, {12, 3, 10}, {20, 6, 15}, {25, 8, 18}, {50, 18, 33}, {100, 40, 61}, {200, 86, 115}} {
		var v []float64
		for i := range c.n {
			v = append(v, float64(i+1))
		}
		rand.Shuffle(c.n, func(i, j int) { v[i], v[j] = v[j], v[i] })
		low, high, conf := Interval(v)
		if low != c.low || high != c.high {
			t.Errorf("n=%d: ranks %v-%v, want %v-%v", c.n, low, high, c.low, c.high)
		}
		if c.n >= 6 && conf < 0.95 || c.n < 6 && conf >= 0.95 {
			t.Errorf("n=%d: confidence %v", c.n, conf)
		}
	}
}

// TestCoverage draws samples from a skewed distribution and counts how often
// the interval holds the true median.
func TestCoverage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	hit, draws := 0, 4000
	for range draws {
		var v []float64
		for range 31 {
			v = append(v, rng.ExpFloat64())
		}
		if low, high, _ := Interval(v); low <= math.Ln2 && math.Ln2 <= high {
			hit++
		}
	}
	if got := float64(hit) / float64(draws); got < 0.945 || got > 0.985 {
		t.Errorf("the interval held the median in %.1f %% of draws, want 95-98 %%", got*100)
	}
}

func TestCompareRefuses(t *testing.T) {
	for _, c := range []struct {
		pairs []Pair
		want  string
	}{
		{nil, "no rounds"},
		{[]Pair{{1, 1}, {1, 0}}, "round 1"},
		{[]Pair{{-1, 1}}, "round 0"},
		{[]Pair{{math.NaN(), 1}}, "round 0"},
		{[]Pair{{1, math.Inf(1)}}, "round 0"},
	} {
		if _, err := Compare("x", "y", Seconds, Aim{}, c.pairs); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q", c.pairs, err, c.want)
		}
	}
}

func TestLine(t *testing.T) {
	three := []Pair{{0.0051, 0.0050}, {0.0051, 0.0049}, {0.0050, 0.0049}}
	for _, c := range []struct {
		name string
		aim  Aim
		unit Unit
		in   []Pair
		want string
	}{
		{"missed", Aim{Ratio: 1}, Seconds, three, "missed ratio=1.02 [1.02,1.04] ours=5.10ms baseline=4.90ms aim<=1.00 missed"},
		{"met", Aim{Ratio: 1.05}, Seconds, three, "met ratio=1.02 [1.02,1.04] ours=5.10ms baseline=4.90ms aim<=1.05 met"},
		{"edge", Aim{Ratio: 1}, Seconds, []Pair{{2e-9, 2e-9}}, "edge ratio=1.00 [1.00,1.00] ours=2.00ns baseline=2.00ns aim<=1.00 met"},
		{"high", Aim{High: 1.03}, Seconds, three, "high ratio=1.02 [1.02,1.04] ours=5.10ms baseline=4.90ms aim=high<=1.03 missed"},
		{"small", Aim{Ratio: 1.0 / 40}, Seconds, []Pair{{1e-6, 50e-6}}, "small ratio=0.0200 [0.0200,0.0200] ours=1.00us baseline=50.0us aim<=0.0250 met"},
		{"info", Aim{}, Seconds, []Pair{{30, 2}}, "info ratio=15.00 [15.00,15.00] ours=30s baseline=2s aim=none info"},
		{"size", Aim{Ours: 4 << 20}, Bytes, []Pair{{3 << 20, 2 << 20}}, "size ratio=1.50 [1.50,1.50] ours=3MiB baseline=2MiB aim=ours<=4MiB met"},
		{"big", Aim{Ours: 4 << 20}, Bytes, []Pair{{5 << 20, 2000}}, "big ratio=2621.44 [2621.44,2621.44] ours=5MiB baseline=1.95KiB aim=ours<=4MiB missed"},
	} {
		r, err := Compare(c.name, "base", c.unit, c.aim, c.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.String(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestFormat(t *testing.T) {
	for v, want := range map[float64]string{1e-9: "1.00ns", 3.456e-7: "346ns", 1.2e-3: "1.20ms", 99.96e-3: "100ms", 12.34e-6: "12.3us", 2.5: "2.5s"} {
		if got := Seconds.Format(v); got != want {
			t.Errorf("%v s: %s, want %s", v, got, want)
		}
	}
}

func TestExitCode(t *testing.T) {
	good, bad := Row{Name: "g", Met: true}, Row{Name: "b"}
	for _, c := range []struct {
		name          string
		r             Report
		loose, strict int
	}{
		{"nothing measured", Report{}, 3, 3},
		{"all met", Report{Rows: []Row{good, good}}, 0, 0},
		{"one missed", Report{Rows: []Row{good, bad}}, 0, 1},
		{"one failed", Report{Rows: []Row{good}, Failed: []Failure{{Rows: "cni"}}}, 3, 3},
		{"one failed, one missed", Report{Rows: []Row{bad}, Failed: []Failure{{Rows: "cni"}}}, 3, 3},
	} {
		if got := c.r.ExitCode(false); got != c.loose {
			t.Errorf("%s: exit %d, want %d", c.name, got, c.loose)
		}
		if got := c.r.ExitCode(true); got != c.strict {
			t.Errorf("%s, strict: exit %d, want %d", c.name, got, c.strict)
		}
	}
}

func TestReportFile(t *testing.T) {
	row, err := Compare("cni-add", "bridge v1.9.1", Seconds, Aim{Ratio: 1}, []Pair{{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	want := New()
	want.Machines = []Machine{{Where: "native", Kernel: "6.12", CPUs: 2}}
	want.Rows = []Row{row}
	file := filepath.Join(t.TempDir(), "sub", "bench.json")
	if err := want.Write(file); err != nil {
		t.Fatal(err)
	}
	got, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	b, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	const form = `{"name":"cni-add","unit":"s","ratio":0.5,"low":0.5,"high":0.5,"confidence":0,"ours":1,"baseline":2,` +
		`"against":"bridge v1.9.1","aim":{"ratio":1},"met":true,"rounds":1}`
	if string(b) != form {
		t.Errorf("JSON form changed:\ngot  %s\nwant %s", b, form)
	}
	if err := (&Report{}).Write(file); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file); err == nil {
		t.Error("a file of another kind was accepted")
	}
}

// TestPlot: a plot is XML, has every point and names every curve.
func TestPlot(t *testing.T) {
	a, b := Curve{Name: "a & b"}, Curve{Name: "one"}
	a.Add(1000, 5e-6)
	a.Add(10, 1e-6)
	b.Add(10, 5e-6)
	svg := Plot("costs < all", []Curve{a, b, {Name: "none"}})
	var doc struct {
		Circles []struct {
			X float64 `xml:"cx,attr"`
			Y float64 `xml:"cy,attr"`
		} `xml:"circle"`
		Texts []string `xml:"text"`
	}
	if err := xml.Unmarshal([]byte(svg), &doc); err != nil {
		t.Fatalf("%v\n%s", err, svg)
	}
	for _, want := range []string{"costs < all", "a & b: 5.00us", "one: 5.00us", "1us", "10us", "10", "1000"} {
		if !slices.Contains(doc.Texts, want) {
			t.Errorf("no text %q in %q", want, doc.Texts)
		}
	}
	c := doc.Circles
	if len(c) != 3 || c[0].X >= c[1].X || c[0].Y <= c[1].Y || c[2].X != c[0].X || c[2].Y != c[1].Y {
		t.Errorf("points: %+v", c)
	}
}
