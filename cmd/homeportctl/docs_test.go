package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/test/docs"
)

const reference = "../../docs/reference/homeportctl.md"

// TestReferenceHasEveryCommand and every visible flag.
func TestReferenceHasEveryCommand(t *testing.T) {
	doc, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.HasSubCommands() {
			for _, sub := range c.Commands() {
				visit(sub)
			}
			return
		}
		heading := "\n## " + strings.TrimSuffix(c.UseLine(), " [flags]") + "\n"
		if !c.Hidden && !strings.Contains(string(doc), heading) {
			t.Errorf("%s has no section %q", reference, strings.TrimSpace(heading))
		}
		for _, line := range strings.Split(c.LocalNonPersistentFlags().FlagUsages(), "\n") {
			name := regexp.MustCompile(`--[a-z-]+`).FindString(line)
			if name != "" && !strings.Contains(string(doc), "`"+name+"`") {
				t.Errorf("%s: %s has a flag %s that is not mentioned", reference, c.CommandPath(), name)
			}
		}
	}
	visit(newRoot(surroundings{name: "homeportctl"}))
}

// TestReferenceSamples runs each "$ homeportctl ..." of the reference and
// compares what follows it. UPDATE_GOLDEN=1 rewrites the page.
func TestReferenceSamples(t *testing.T) {
	doc, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	socket := newAgent(t, views(t))
	var out []string
	samples := 0
	lines := strings.Split(string(doc), "\n")
	for i := 0; i < len(lines); i++ {
		out = append(out, lines[i])
		if lines[i] != "```console" {
			continue
		}
		end := i + slices.Index(lines[i:], "```")
		for _, line := range lines[i+1 : end] {
			command, ok := strings.CutPrefix(line, "$ homeportctl ")
			if !ok {
				continue
			}
			samples++
			r := homeportctl(t, socket, strings.Fields(command)...)
			if r.Code != 0 {
				t.Errorf("%s: %+v", line, r)
			}
			out = append(out, line)
			out = append(out, strings.Split(strings.TrimSuffix(r.Stdout, "\n"), "\n")...)
		}
		i = end - 1
	}
	got := strings.Join(out, "\n")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(reference, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(string(doc), got); d != "" || samples == 0 {
		t.Errorf("%d samples (-want +got; UPDATE_GOLDEN=1 rewrites):\n%s", samples, d)
	}
}

// TestDocumentedCommands: what any page shows can be typed.
func TestDocumentedCommands(t *testing.T) {
	docs.CheckCommands(t, "homeportctl", func() *cobra.Command { return newRoot(surroundings{name: "homeportctl"}) })
}
