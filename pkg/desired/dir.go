package desired

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// maxFile is the size in bytes over which a file is taken for a mistake.
const maxFile = 16 << 20

// Dir reads desired state from a directory of YAML manifests: every *.yaml and
// *.yml in it, hidden files and directories left out. Its methods may be called
// from several goroutines.
type Dir struct {
	path, cache string
	// Waits of Watch; tests shorten them.
	debounce, poll time.Duration

	mu      sync.Mutex
	primed  bool // the cache was looked at
	last    *Snapshot
	files   map[key]string // which file each object of last came from
	unsaved bool           // last is not in the cache yet
	notes   []Problem      // what is wrong with this source itself, for as long as it lives
}

// NewDir makes a source of the directory at path. The last good snapshot is kept
// in the file cache, unless that is "", and is what a start falls back to when
// the directory cannot be read. Nothing is touched before the first Load.
func NewDir(path, cache string) *Dir {
	return &Dir{path: path, cache: cache, debounce: 100 * time.Millisecond, poll: 10 * time.Second}
}

// Load reads the whole directory once and gives the snapshot that is in force
// then: what is good in the directory, and the last good version of what is not
// (see Snapshot.Problems). The snapshot's Revision rises only if trunks, networks
// or policies changed.
//
// If the directory is missing, unreadable or suddenly empty, the error says so,
// and the snapshot is the last good one with the error among its problems; it is
// nil if there never was one.
func (d *Dir) Load() (*Snapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.prime()
	files, err := readStable(d.path)
	if err == nil && len(d.objects()) > 0 && isEmpty(files) {
		err = errEmpty
	}
	if err != nil {
		told := fmt.Errorf("%s: %w", d.path, err)
		if d.last == nil {
			return nil, told
		}
		return d.goStale(err), told
	}
	objects, problems := resolve(d.objects(), files)
	for i := range problems {
		problems[i].File = filepath.Join(d.path, problems[i].File)
	}
	next, origins := build(objects, problems)
	d.unsaved = d.unsaved || d.last == nil || d.last.Stale != nil || !next.sameContent(d.last) || !maps.Equal(origins, d.files)
	switch {
	case d.last == nil:
		next.Revision = 1
	case next.sameContent(d.last):
		next.Revision = d.last.Revision
	default:
		next.Revision = d.last.Revision + 1
	}
	next.Problems = append(next.Problems, d.notes...)
	d.last, d.files = next, origins
	if p := d.save(); p != nil {
		next.Problems = append(next.Problems, *p)
	}
	return next, nil
}

// errEmpty is a directory that had objects and has none: a mistake sooner than a
// wish.
var errEmpty = errors.New("has no manifests any more: " +
	"restore them; to remove the last objects, leave a manifest with one that does no harm")

// goStale is the last good snapshot, with err among its problems and marked as
// stale since err was first met. A restart remembers since when.
func (d *Dir) goStale(err error) *Snapshot {
	stale := *d.last
	problem := Problem{File: d.path, Kept: true, Message: fmt.Sprintf("%v; everything stays as it last was", err)}
	stale.Stale = &Stale{Since: time.Now().UTC().Truncate(time.Second), Reason: "SourceUnreadable", Message: fmt.Sprintf("%s: %v", d.path, err)}
	if errors.Is(err, errEmpty) {
		stale.Stale.Reason = "SourceEmpty"
	}
	if before := d.last.Stale; before != nil {
		stale.Stale.Since = before.Since
	}
	d.unsaved = d.unsaved || d.last.Stale == nil
	stale.Problems = append([]Problem{problem}, d.notes...)
	d.last = &stale
	if p := d.save(); p != nil {
		stale.Problems = append(stale.Problems, *p)
	}
	return &stale
}

// prime reads the cache, once.
func (d *Dir) prime() {
	if d.primed || d.cache == "" {
		return
	}
	d.primed = true
	s, files, err := load(d.cache)
	switch {
	case err == nil:
		d.last, d.files = s, files
	case errors.Is(err, fs.ErrNotExist):
	default:
		p := Problem{File: d.cache, Message: fmt.Sprintf("the last good snapshot cannot be used: %v", err)}
		if aside := d.cache + ".corrupt"; os.Rename(d.cache, aside) == nil {
			p.Message += "; set aside as " + aside
		}
		d.notes = append(d.notes, p)
	}
}

func (d *Dir) save() *Problem {
	if d.cache == "" || !d.unsaved {
		return nil
	}
	if err := save(d.cache, d.last, d.files); err != nil {
		return &Problem{File: d.cache, Message: fmt.Sprintf("the last good snapshot cannot be stored, "+
			"so a restart would know only the directory: %v", err)}
	}
	d.unsaved = false
	return nil
}

// objects gives what is in force, by object.
func (d *Dir) objects() map[key]held {
	if d.last == nil {
		return nil
	}
	s, out := d.last, map[key]held{}
	put := func(kind, name string, value any) {
		k := key{kind, name}
		out[k] = held{d.files[k], value}
	}
	for name, t := range s.Trunks {
		put(v1alpha1.KindVLANTrunk, name, t)
	}
	for name, n := range s.Networks {
		put(v1alpha1.KindVLANNetwork, name, n)
	}
	for _, p := range s.Policies {
		put(v1alpha1.KindFirewallPolicy, p.Name, p)
	}
	return out
}

// build makes a snapshot of objects, and says which file each came from. The
// Revision is left to the caller.
func build(objects map[key]held, problems []Problem) (*Snapshot, map[key]string) {
	s := &Snapshot{Trunks: map[string]Trunk{}, Networks: map[string]Network{}, Policies: []Policy{}, Problems: problems}
	files := map[key]string{}
	for k, h := range objects {
		files[k] = h.file
		switch v := h.value.(type) {
		case Trunk:
			s.Trunks[v.Name] = v
		case Network:
			s.Networks[v.Name] = v
		case Policy:
			s.Policies = append(s.Policies, v)
		}
	}
	slices.SortFunc(s.Policies, judgedBefore)
	slices.SortStableFunc(s.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Field, b.Field), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return s, files
}

func (s *Snapshot) sameContent(o *Snapshot) bool {
	return reflect.DeepEqual(s.Trunks, o.Trunks) && reflect.DeepEqual(s.Networks, o.Networks) &&
		reflect.DeepEqual(s.Policies, o.Policies)
}

// isEmpty says that no file has anything in it.
func isEmpty(files []manifest) bool {
	for _, m := range files {
		if len(m.objects) > 0 || len(m.problems) > 0 {
			return false
		}
	}
	return true
}

// stamp tells versions of a file apart without reading it.
type stamp struct {
	name string
	info fs.FileInfo // nil if it cannot be had
}

func (a stamp) same(b stamp) bool {
	if a.name != b.name || a.info == nil || b.info == nil {
		return a.name == b.name && a.info == b.info
	}
	return os.SameFile(a.info, b.info) && a.info.Size() == b.info.Size() && a.info.ModTime().Equal(b.info.ModTime())
}

// readStable reads all manifests of a directory, again if it changes meanwhile:
// half of an old and half of a new state would be a state that nobody meant. Its
// errors leave it to the caller to name the directory.
func readStable(dir string) ([]manifest, error) {
	for range 5 {
		before, err := list(dir)
		if err != nil {
			return nil, err
		}
		files := make([]manifest, 0, len(before))
		for _, f := range before {
			files = append(files, readManifest(dir, f))
		}
		after, err := list(dir)
		if err != nil {
			return nil, err
		}
		if slices.EqualFunc(before, after, stamp.same) {
			return files, nil
		}
	}
	return nil, errors.New("changes while it is being read: it is read again soon")
}

// list finds the manifests of a directory, sorted by name.
func list(dir string) ([]stamp, error) {
	entries, err := os.ReadDir(dir)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	if err != nil {
		return nil, fmt.Errorf("want a directory of *.yaml manifests: %w", err)
	}
	var out []stamp
	for _, e := range entries {
		name := e.Name()
		ext := filepath.Ext(name)
		if strings.HasPrefix(name, ".") || ext != ".yaml" && ext != ".yml" {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, name)) // follows links
		if errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink == 0 {
			continue // gone since it was listed
		}
		if err == nil && info.IsDir() {
			continue
		}
		out = append(out, stamp{name, info})
	}
	return out, nil
}

func readManifest(dir string, f stamp) manifest {
	data, err := readFile(filepath.Join(dir, f.name), f.info)
	if err != nil {
		return manifest{file: f.name, unsure: unreadable, problems: []Problem{{
			File: f.name, Message: fmt.Sprintf("cannot be read: %v", err),
		}}}
	}
	return parseManifest(f.name, data)
}

func readFile(path string, info fs.FileInfo) ([]byte, error) {
	if info != nil && !info.Mode().IsRegular() {
		return nil, errors.New("want a regular file") // opening a FIFO would wait
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("is over %d bytes: split it", maxFile)
	}
	return data, err
}
