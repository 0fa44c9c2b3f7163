package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// event is one line of test2json (cmd/test2json).
type event struct {
	Action, Package, Test, Output string
}

type summary struct {
	passed, failed, skipped int
	reasons                 map[string]int
	output                  map[string][]string // of tests under way
}

func newSummary() *summary {
	return &summary{reasons: map[string]int{}, output: map[string][]string{}}
}

// read counts top-level tests and subtests alike, and shows what failed.
func (s *summary) read(r io.Reader, show io.Writer) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Fprintln(show, in.Text())
			continue
		}
		s.take(e, show)
	}
}

func (s *summary) take(e event, show io.Writer) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if e.Test == "" && interesting(e.Output) {
			fmt.Fprint(show, e.Output)
		}
		s.output[key] = append(s.output[key], e.Output)
		return
	case "pass":
		if e.Test != "" {
			s.passed++
		}
	case "skip":
		if e.Test != "" {
			s.skipped++
			s.reasons[reason(s.output[key])]++
		}
	case "fail":
		if e.Test != "" {
			s.failed++
		}
		fmt.Fprint(show, strings.Join(s.output[key], ""))
	default:
		return
	}
	delete(s.output, key)
}

// interesting drops what every passing package prints.
func interesting(line string) bool {
	for _, dull := range []string{"ok ", "PASS", "?  ", "\t", "testing: warning", "coverage:", "=== "} {
		if strings.HasPrefix(line, dull) {
			return false
		}
	}
	return strings.TrimSpace(line) != ""
}

// reason is the message of t.Skip: the last line that names a source file.
func reason(lines []string) string {
	for _, l := range slices.Backward(lines) {
		if _, msg, ok := strings.Cut(l, ".go:"); ok {
			_, msg, _ = strings.Cut(msg, ": ")
			return strings.TrimSpace(msg)
		}
	}
	return "no reason given"
}

func (s *summary) print(name string, took time.Duration) {
	fmt.Printf("%-28s %5d passed, %d failed, %d skipped", name, s.passed, s.failed, s.skipped)
	if took > 0 {
		fmt.Printf("  (%.1f s)", took.Seconds())
	}
	fmt.Println()
	for _, r := range slices.Sorted(maps.Keys(s.reasons)) {
		fmt.Printf("%-28s   skipped %d: %s\n", "", s.reasons[r], r)
	}
}
