// Package docs holds what the documents show against what is: their manifests
// against the kinds and a real API server, their commands against the programs,
// their links against the files.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Page is a document.
type Page struct {
	Name string // below the root of the repository
	Text string
}

// Root is the root of the repository.
func Root() string {
	dir := "."
	for range 8 { // a test runs in the folder of its package
		if _, err := os.Stat(filepath.Join(dir, "deploy", "daemonset.yaml")); err == nil {
			return dir
		}
		dir = filepath.Join(dir, "..")
	}
	panic("no checkout of Homeport here or above")
}

// Pages are README.md and all below docs/, but for decisions (docs/adr), which are
// of their day.
func Pages(tb testing.TB) []Page {
	tb.Helper()
	var pages []Page
	add := func(file string) {
		text, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		name, err := filepath.Rel(Root(), file)
		if err != nil {
			tb.Fatal(err)
		}
		pages = append(pages, Page{filepath.ToSlash(name), string(text)})
	}
	add(filepath.Join(Root(), "README.md"))
	for _, pattern := range []string{"docs/*.md", "docs/guides/*.md", "docs/reference/*.md"} {
		files, err := filepath.Glob(filepath.Join(Root(), pattern))
		if err != nil || len(files) == 0 {
			tb.Fatalf("%s: %d pages, %v", pattern, len(files), err)
		}
		for _, f := range files {
			add(f)
		}
	}
	return pages
}

var (
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Anchors are those that GitHub gives a page's headings.
func Anchors(text string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		out = append(out, strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return out
}

// Block is a fenced block of a page.
type Block struct {
	Page string
	Line int    // of its first line
	Lang string // as behind the fence; "" is none
	Text string // without the indent of the fence
}

// Blocks are the page's fenced blocks, also those within lists.
func (p Page) Blocks() []Block {
	var out []Block
	var open *Block
	indent := ""
	for i, line := range strings.Split(p.Text, "\n") {
		bare := strings.TrimLeft(line, " ")
		lang, fence := strings.CutPrefix(bare, "```")
		switch {
		case fence && open == nil:
			indent = line[:len(line)-len(bare)]
			open = &Block{Page: p.Name, Line: i + 2, Lang: lang}
		case fence:
			out = append(out, *open)
			open = nil
		case open != nil:
			open.Text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	return out
}

// Command is a call of a program that a page shows.
type Command struct {
	Page string
	Line int
	Args []string
}

// end is where a command ends and the shell or the reader takes over.
var end = regexp.MustCompile("[`|#>;&()<\"'\\\\]|\\.\\.\\.|:$|\\s{2,}|, | and ")

// Commands are all calls of a program, in blocks and in the text.
func Commands(tb testing.TB, program string) []Command {
	tb.Helper()
	// Before it: the beginning of a line, a prompt, sudo, --, a path or a quote.
	call := regexp.MustCompile("(?:^|[`/$] ?|sudo |-- )" + program + `((?: [^ ].*)?)$`)
	var out []Command
	for _, p := range Pages(tb) {
		for i, line := range strings.Split(p.Text, "\n") {
			for rest := strings.TrimSpace(line); rest != ""; {
				m := call.FindStringSubmatchIndex(rest)
				if m == nil {
					break
				}
				args := rest[m[2]:m[3]]
				rest = args
				if at := end.FindStringIndex(strings.TrimLeft(args, " ")); at != nil {
					args = strings.TrimLeft(args, " ")[:at[0]]
				}
				out = append(out, Command{p.Name, i + 1, strings.Fields(args)})
			}
		}
	}
	return out
}

// CheckCommands holds every call that the pages show against the program's tree:
// the command is there, and so is each flag, with a value that it takes.
func CheckCommands(tb testing.TB, program string, newRoot func() *cobra.Command) {
	tb.Helper()
	commands := Commands(tb, program)
	for _, c := range commands {
		cmd, rest, err := newRoot().Find(c.Args)
		if err == nil {
			err = cmd.ParseFlags(rest)
		}
		if left := cmd.Flags().Args(); err == nil && len(left) > 0 {
			err = cmd.ValidateArgs(left)
		}
		if err != nil {
			tb.Errorf("%s:%d: %s %s: %v", c.Page, c.Line, program, strings.Join(c.Args, " "), err)
		}
	}
	if len(commands) < 10 {
		tb.Errorf("only %d calls of %s found in the pages", len(commands), program)
	}
}
