// Package bundle writes a node's support bundle: one tar.gz with all that is of
// help to who was not there. What cannot be collected is told in its manifest and
// stops nothing. All content goes through one place, [Writer.Add], which takes
// secrets out and keeps the size bounded.
package bundle

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits, in bytes before compression.
const (
	// MaxFile is the most that one file has; the rest is cut off.
	MaxFile = 8 << 20
	// MaxTotal is the most that all files have together, with their headers.
	MaxTotal = 64 << 20
	// perEntry is what a file costs in a tar archive besides its content.
	perEntry = 1024
	// manifestMax bounds what the manifest lists of each kind, in lines.
	manifestMax = 5000
)

// Manifest is the name of the bundle's table of contents.
const Manifest = "MANIFEST.txt"

// Writer is a bundle that is being written. It serves one goroutine.
type Writer struct {
	gz      *gzip.Writer
	tar     *tar.Writer
	head    Head
	left    int64
	files   []string // lines of the manifest
	missing []string
	err     error // of the archive itself; ends it
}

// Head is what a bundle is of.
type Head struct {
	Node    string
	Time    time.Time
	Version string // of who writes it
}

var odd = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// Name is the top folder, homeport-bundle-NODE-TIME, in UTC and without bytes that
// are trouble in file names.
func (h Head) Name() string {
	return "homeport-bundle-" + strings.Trim(odd.ReplaceAllString(h.Node, "_"), ".") + "-" + h.Time.UTC().Format("20060102T150405Z")
}

// New begins a bundle on w.
func New(w io.Writer, head Head) *Writer {
	gz := gzip.NewWriter(w)
	return &Writer{gz: gz, tar: tar.NewWriter(gz), head: head, left: MaxTotal}
}

// Add puts a file into the bundle, without its secrets, and cut where it is too
// long. An empty one is added too: that there is nothing is an answer.
func (w *Writer) Add(name string, content []byte) {
	if room := w.left - perEntry; room <= 0 {
		w.Missing(name, fmt.Errorf("the bundle has its %d MiB", MaxTotal>>20))
		return
	} else if limit := min(MaxFile, room); int64(len(content)) > limit {
		w.files = append(w.files, fmt.Sprintf("%s: cut at %d of %d bytes", name, limit, len(content)))
		content = content[:limit]
	}
	clean, hidden := Redact(content)
	if hidden > 0 {
		w.files = append(w.files, fmt.Sprintf("%s: %d places look like secrets and are left out", name, hidden))
	}
	w.files = append(w.files, fmt.Sprintf("%s: %d bytes", name, len(clean)))
	w.left -= int64(len(clean)) + perEntry
	w.put(name, clean)
}

// put writes a file as it is.
func (w *Writer) put(name string, content []byte) {
	if w.err != nil {
		return
	}
	w.err = w.tar.WriteHeader(&tar.Header{Name: path.Join(w.head.Name(), name), Mode: 0o600, Size: int64(len(content)), ModTime: w.head.Time})
	if w.err == nil {
		_, w.err = w.tar.Write(content)
	}
}

// Missing says in the manifest what could not be collected, and why.
func (w *Writer) Missing(name string, why error) {
	w.missing = append(w.missing, fmt.Sprintf("%s: %v", name, why))
}

// Lacks says how many things could not be collected.
func (w *Writer) Lacks() int { return len(w.missing) }

// Try adds what collect gives, and tells its error; with both, both.
func (w *Writer) Try(name string, collect func() ([]byte, error)) {
	content, err := collect()
	if err != nil {
		w.Missing(name, err)
	}
	if err == nil || len(content) > 0 {
		w.Add(name, content)
	}
}

// Close writes the manifest and ends the archive. The error is of writing.
func (w *Writer) Close() error {
	manifest, _ := Redact(w.manifest())
	w.put(Manifest, manifest)
	return errors.Join(w.err, w.tar.Close(), w.gz.Close())
}

func (w *Writer) manifest() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "Homeport support bundle\n\nnode     %s\ntime     %s\nversion  %s\n\n", w.head.Node, w.head.Time.UTC().Format(time.RFC3339), w.head.Version)
	b.WriteString("Left out always: Secrets, kubeconfigs, tokens, passwords, keys and certificates, and CNI configs of others.\n\n")
	fmt.Fprintf(&b, "NOT COLLECTED: %d\n", len(w.missing))
	list(&b, w.missing)
	b.WriteString("\nFILES\n")
	list(&b, w.files)
	return []byte(b.String())
}

func list(b *strings.Builder, lines []string) {
	for i, l := range lines {
		if i == manifestMax {
			fmt.Fprintf(b, "  and %d more\n", len(lines)-i)
			return
		}
		fmt.Fprintf(b, "  %s\n", strings.ReplaceAll(l, "\n", " "))
	}
}

// Dir adds the regular files of a directory, below the folder as. Links are not
// followed: they could lead to anything.
func (w *Writer) Dir(dir, as string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		w.Missing(as, err)
	}
	for _, e := range entries {
		name := path.Join(as, e.Name())
		if !e.Type().IsRegular() {
			w.Missing(name, fmt.Errorf("not followed: it is no file but %v", e.Type()))
			continue
		}
		w.Try(name, func() ([]byte, error) { return readFile(filepath.Join(dir, e.Name())) })
	}
}

// readFile reads what a bundle can hold of a regular file.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", name))
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxFile))
	if err == nil && len(b) == MaxFile {
		err = fmt.Errorf("only its first %d bytes are taken", MaxFile)
	}
	return b, err
}

// names lists a directory for people: type, size, name.
func names(fsys fs.FS, dir string) ([]byte, error) {
	entries, err := fs.ReadDir(fsys, dir)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var b strings.Builder
	for _, e := range entries {
		size := int64(-1) // gone meanwhile
		if info, err := e.Info(); err == nil {
			size = info.Size()
		}
		fmt.Fprintf(&b, "%v %8d %s\n", e.Type(), size, e.Name())
	}
	return []byte(b.String()), err
}
