package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// TestLabels: no label of the drawing lies over another, or sticks out of what it is in.
func TestLabels(t *testing.T) {
	reports := map[string]*reach.Report{"rich": rich()}
	for _, n := range []int{1, 4, 16, 64} {
		reports[fmt.Sprint(n)] = large(n, 4)
	}
	for name, r := range reports {
		t.Run(name, func(t *testing.T) {
			p := open(t, r)
			p.part("topology-"+name, "section:nth-of-type(3)")
			type drawn struct {
				Uplinks, Labels int
				Wrong           []string
			}
			got := eval[drawn](p, `
				const out = {uplinks: document.querySelectorAll(".uplink").length, labels: 0, wrong: []};
				for (const svg of document.querySelectorAll(".topology")) {
					const box = e => e.getBoundingClientRect();
					const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > .5 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > .5;
					const within = (a, b) => a.left >= b.left - .5 && a.right <= b.right + .5 && a.top >= b.top - .5 && a.bottom <= b.bottom + .5;
					const texts = [...svg.querySelectorAll("text")].filter(e => e.textContent.trim());
					const marks = [...svg.querySelectorAll("circle")], frames = [...svg.querySelectorAll(".box")];
					out.labels += texts.length;
					texts.forEach((e, i) => {
						for (const o of texts.slice(i + 1)) if (over(box(e), box(o))) out.wrong.push("labels: " + e.textContent + " / " + o.textContent);
						for (const m of marks) if (over(box(e), box(m))) out.wrong.push("a mark over " + e.textContent);
						if (!frames.some(f => within(box(e), box(f)))) out.wrong.push("sticks out: " + e.textContent);
						if (parseFloat(getComputedStyle(e).fontSize) * box(svg).width / svg.viewBox.baseVal.width < 9) out.wrong.push("too small: " + e.textContent);
					});
					frames.forEach((f, i) => { for (const o of frames.slice(i + 1)) if (over(box(f), box(o))) out.wrong.push("frames") });
				}
				return out`)
			if len(got.Wrong) > 0 {
				t.Error(strings.Join(got.Wrong, "\n"))
			}
			// At least each node's name and port, and a name for each switch.
			if got.Uplinks != len(r.Nodes) || got.Labels < 2*len(r.Nodes)+1 {
				t.Errorf("%d uplinks of %d, %d labels", got.Uplinks, len(r.Nodes), got.Labels)
			}
		})
	}
}

// contrast finds text that is hard to read: WCAG 2's ratio of its colour to what is painted behind it.
const contrast = `
	const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
	const rgba = c => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
	const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126*r + .7152*g + .0722*b; };
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
	const behind = e => {
		for (; e; e = e.parentElement) {
			const c = rgba(getComputedStyle(e).backgroundColor);
			if (c[3] === 255) return c;
			if (c[3] !== 0) throw new Error("half transparent: " + e.outerHTML.slice(0, 80));
		}
		return [255, 255, 255, 255];
	};
	const painted = t => {
		const b = t.getBoundingClientRect(), x = b.left + b.width/2, y = b.top + b.height/2;
		const under = [...t.ownerSVGElement.querySelectorAll("rect, circle")].filter(s => {
			const r = s.getBoundingClientRect();
			return (s.compareDocumentPosition(t) & Node.DOCUMENT_POSITION_FOLLOWING) && r.left <= x && x <= r.right && r.top <= y && y <= r.bottom && getComputedStyle(s).fill !== "none";
		});
		return under.length ? rgba(getComputedStyle(under.at(-1)).fill) : behind(t.ownerSVGElement.parentElement);
	};
	document.querySelectorAll("details").forEach(d => d.open = true);
	const out = {texts: 0, worst: 99, poor: []};
	const judge = (what, front, back, least) => {
		const r = ratio(front, back);
		out.texts++;
		out.worst = Math.min(out.worst, r);
		if (r < least) out.poor.push(r.toFixed(2) + ": " + what);
	};
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const e = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
		if (!text || !e.checkVisibility() || ["SCRIPT", "title"].includes(e.tagName) || e.closest(".sr")) continue;
		const style = getComputedStyle(e);
		if (e.tagName === "text") judge(text, rgba(style.fill), painted(e), 4.5);
		else judge(text, rgba(style.color), behind(e), 4.5);
	}
	const input = document.getElementById("filter");
	judge("placeholder", rgba(getComputedStyle(input, "::placeholder").color), behind(input), 4.5);
	// Marks and links are no text: 3 is enough.
	for (const g of document.querySelectorAll(".topology .glyph")) judge("a mark", rgba(getComputedStyle(g).stroke), rgba(getComputedStyle(g.parentElement.querySelector("circle")).fill), 3);
	for (const l of document.querySelectorAll(".topology .link, .topology .spine")) judge("a link", rgba(getComputedStyle(l).stroke), behind(l.ownerSVGElement.parentElement), 3);
	return out`

// TestContrast: all text can be read, in light and in dark.
func TestContrast(t *testing.T) {
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			p := open(t, rich(), func(p *tab) { p.media("", scheme) })
			p.photo(scheme)
			type judged struct {
				Texts int
				Worst float64
				Poor  []string
			}
			got := eval[judged](p, contrast)
			t.Logf("%d texts and marks, the worst has %.2f", got.Texts, got.Worst)
			if got.Texts < 300 || len(got.Poor) > 0 {
				t.Errorf("%d texts; hard to read: %s", got.Texts, strings.Join(got.Poor, "\n"))
			}
			dark := eval[bool](p, `return getComputedStyle(document.body).backgroundColor !== "rgb(255, 255, 255)"`)
			if dark != (scheme == "dark") {
				t.Errorf("dark: %v", dark)
			}
		})
	}
}
