package monitoring

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/test/docs"
)

var (
	token   = regexp.MustCompile(`"[^"]*"|'[^']*'|\[[^\]]*\]|[A-Za-z_][\w:]*|[0-9][\w.]*|\S`)
	grouped = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	words   = []string{"and", "or", "unless", "bool", "offset"}
)

// named are the metrics and labels of an expression that promtool can parse; grouping are the labels that
// it groups or matches by.
func named(expr string) (metrics, labels, grouping []string) {
	tokens := token.FindAllString(expr, -1)
	next := func(i int) string {
		if i+1 < len(tokens) {
			return tokens[i+1]
		}
		return ""
	}
	braces, list := false, false
	for i, tok := range tokens {
		word := regexp.MustCompile(`^[A-Za-z_]`).MatchString(tok)
		switch {
		case tok == "{" || tok == "}":
			braces = tok == "{"
		case list && tok == ")":
			list = false
		case !word:
		case braces:
			labels = append(labels, tok)
		case list:
			labels, grouping = append(labels, tok), append(grouping, tok)
		case slices.Contains(grouped, tok):
			list = true
		case slices.Contains(words, tok) || next(i) == "(" || next(i) == "by" || next(i) == "without":
		default:
			metrics = append(metrics, tok)
		}
	}
	return metrics, labels, grouping
}

func TestNamed(t *testing.T) {
	metrics, labels, grouping := named(`count by (a, b) (last_over_time(m1{c="x y",d=~"e{1}"}[10m]) > 0) unless on () rate(homeport:m2[5m]) or topk(10, m3) * 2e3`)
	if d := cmp.Diff([][]string{{"m1", "homeport:m2", "m3"}, {"a", "b", "c", "d"}, {"a", "b"}}, [][]string{metrics, labels, grouping}); d != "" {
		t.Error(d)
	}
}

// documented are the metrics of docs/reference/metrics.md with their labels, and those that a scrape adds.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(docs.Root(), "docs/reference/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	scraped := []string{"node", "instance", "job"}
	out := map[string][]string{"up": scraped}
	var last []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (?:gauge|counter|histogram) \\|([^|]*)\\|").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(m[2], "the same") {
			last = slices.Clone(scraped)
			for _, l := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[2], -1) {
				last = append(last, l[1])
			}
		}
		out[m[1]] = last
	}
	if len(out) < 30 {
		t.Fatalf("only %d metrics are documented: %v", len(out), slices.Sorted(maps.Keys(out)))
	}
	return out
}

// checkNames holds what an expression names, and more that is said of its labels, against known.
func checkNames(t *testing.T, where, expr string, known map[string][]string, more ...string) {
	t.Helper()
	metrics, labels, _ := named(expr)
	var has []string
	for _, m := range metrics {
		if known[m] == nil {
			t.Errorf("%s: %s is no metric of docs/reference/metrics.md", where, m)
		}
		has = append(has, known[m]...)
	}
	if len(metrics) == 0 {
		t.Errorf("%s: names no metric", where)
	}
	for _, l := range append(labels, more...) {
		if !slices.Contains(has, l) {
			t.Errorf("%s: label %s is of none of %v", where, l, metrics)
		}
	}
}
