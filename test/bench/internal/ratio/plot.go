package ratio

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"os"
	"slices"
	"strings"
)

// Curve is what something costs by the number of rules.
type Curve struct {
	Name   string  `json:"name"`
	Points []Point `json:"points"`
}

// Point of a curve: X rules, Y seconds a packet.
type Point struct {
	X int     `json:"x"`
	Y float64 `json:"y"`
}

// Add adds a point.
func (c *Curve) Add(x int, y float64) { c.Points = append(c.Points, Point{x, y}) }

// Size of a plot, and of its field.
const (
	plotWidth, plotHeight    = 760.0, 420.0
	left, right, top, bottom = 64.0, 540.0, 44.0, 370.0
)

// colours of curves, told apart also by those who see few; no two are of one lightness.
var colours = []string{"#777777", "#0b6e4f", "#1f4fd8", "#c2410c", "#b8860b", "#7c3aed"}

// Plot draws curves, both axes logarithmic, as SVG. They need points; all values must be positive.
func Plot(title string, curves []Curve) string {
	minX, maxX, minY, maxY := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, c := range curves {
		for _, p := range c.Points {
			minX, maxX = min(minX, float64(p.X)), max(maxX, float64(p.X))
			minY, maxY = min(minY, p.Y), max(maxY, p.Y)
		}
	}
	minY, maxY = math.Pow(10, math.Floor(math.Log10(minY))), math.Pow(10, math.Ceil(math.Log10(maxY)))
	scale := func(v, low, high, from, to float64) float64 {
		if low == high {
			return (from + to) / 2
		}
		return from + (math.Log(v)-math.Log(low))/(math.Log(high)-math.Log(low))*(to-from)
	}
	x := func(v float64) float64 { return scale(v, minX, maxX, left, right) }
	y := func(v float64) float64 { return scale(v, minY, maxY, bottom, top) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<title>%s</title>`+"\n"+`<rect width="100%%" height="100%%" fill="white"/>`+"\n", html.EscapeString(title))
	fmt.Fprintf(&b, `<text x="%g" y="22" font-size="15">%s</text>`+"\n", left, html.EscapeString(title))
	for v := minY; v <= maxY*1.01; v *= 10 {
		fmt.Fprintf(&b, `<path d="M%g %.1fH%g" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, y(v), right, left-6, y(v)+4, axisTime(v))
	}
	xs := map[int]bool{}
	for _, c := range curves {
		for _, p := range c.Points {
			if !xs[p.X] {
				xs[p.X] = true
				fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%d</text>`+"\n", x(float64(p.X)), bottom+18, p.X)
			}
		}
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">rules</text>`+"\n", (left+right)/2, bottom+38)
	type label struct {
		at   float64
		text string
	}
	var labels []label
	for i, c := range curves {
		points := slices.SortedFunc(slices.Values(c.Points), func(a, b Point) int { return cmp.Compare(a.X, b.X) })
		if len(points) == 0 {
			continue
		}
		colour := colours[i%len(colours)]
		b.WriteString(`<path fill="none" stroke-width="2" stroke="` + colour + `" d="`)
		for j, p := range points {
			fmt.Fprintf(&b, "%c%.1f %.1f", "ML"[min(j, 1)], x(float64(p.X)), y(p.Y))
		}
		b.WriteString(`"/>` + "\n")
		for _, p := range points {
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(float64(p.X)), y(p.Y), colour)
		}
		end := points[len(points)-1]
		labels = append(labels, label{y(end.Y), fmt.Sprintf(`fill="%s">%s: %s`, colour, html.EscapeString(c.Name), Seconds.Format(end.Y))})
	}
	// Labels at the curves' ends, moved apart.
	slices.SortFunc(labels, func(a, b label) int { return cmp.Compare(a.at, b.at) })
	last := math.Inf(-1)
	for _, l := range labels {
		last = max(l.at, last+15)
		fmt.Fprintf(&b, `<text x="%g" y="%.1f" %s</text>`+"\n", right+10, last+4, l.text)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// axisTime writes a power of ten of seconds.
func axisTime(v float64) string {
	return strings.Replace(strings.Replace(Seconds.Format(v), ".00", "", 1), ".0", "", 1)
}

// WritePlot writes it to a file, whole.
func WritePlot(file, title string, curves []Curve) error {
	if err := os.WriteFile(file+".tmp", []byte(Plot(title, curves)), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}
