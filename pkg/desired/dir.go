package desired

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxFile is the size in bytes over which a file is taken for a mistake.
const maxFile = 16 << 20

// Dir reads desired state from a directory of YAML manifests: every *.yaml and
// *.yml in it, hidden files and directories left out. Its methods may be called
// from several goroutines.
type Dir struct {
	keeper
	path string
	read reading
	// Waits of Watch; tests shorten them.
	debounce, poll time.Duration
}

// NewDir makes a source of the directory at path. The last good snapshot is kept
// in the file cache, unless that is "", and is what a start falls back to when
// the directory cannot be read. Nothing is touched before the first Load.
func NewDir(path, cache string) *Dir {
	return &Dir{keeper: keeper{cache: cache}, path: path, debounce: 100 * time.Millisecond, poll: 10 * time.Second}
}

// Load reads the directory, if a file was touched since it last did, and gives the
// snapshot that is in force then: what is good in the directory, and the last good
// version of what is not (see Snapshot.Problems). The snapshot's Revision rises only if trunks, networks
// or policies changed; where no file did, it is the same snapshot again.
//
// If the directory is missing, unreadable or suddenly empty, the error says so,
// and the snapshot is the last good one with the error among its problems; it is
// nil if there never was one.
func (d *Dir) Load() (*Snapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now, err := list(d.path); err == nil && d.read.holds(now, time.Now()) && d.read.notes == len(d.notes) && (d.cache == "" || !d.unsaved) {
		return d.last, nil
	}
	d.prime()
	d.read = reading{}
	begun := time.Now()
	files, stamps, err := readStable(d.path)
	if err == nil && len(d.objects()) > 0 && isEmpty(files) {
		err = errEmpty
	}
	if err != nil {
		told := fmt.Errorf("%s: %w", d.path, err)
		if d.last == nil {
			return nil, told
		}
		reason := ReasonUnreadable
		if errors.Is(err, errEmpty) {
			reason = ReasonEmpty
		}
		return d.goStale(d.path, reason, err), told
	}
	s := d.take(files, func(file string) string { return filepath.Join(d.path, file) })
	if !slices.ContainsFunc(files, func(m manifest) bool { return m.unsure == unreadable }) { // that may pass without a touch
		d.read = reading{stamps, begun, len(d.notes)}
	}
	return s, nil
}

// reading is what the last good one of a directory found: the same files give the
// same snapshot, and a large rule base is dear to read. The zero reading holds for none.
type reading struct {
	files []stamp
	begun time.Time
	notes int
}

// holds says whether the files are still those: none was touched so shortly before the
// reading that the clock of the file system might not tell it from a touch after it, and
// the reading is not old.
func (r *reading) holds(files []stamp, now time.Time) bool {
	return r.files != nil && now.Sub(r.begun) < readAnyway && slices.EqualFunc(r.files, files, func(a, b stamp) bool {
		return a.same(b) && a.info != nil && changed(a.info).Before(r.begun.Add(-settled))
	})
}

const (
	// settled is coarser than the clock of any file system (FAT's counts by two seconds).
	settled = 3 * time.Second
	// readAnyway is when files are read again without a sign, for writes that leave none,
	// as through a mapping.
	readAnyway = 5 * time.Minute
)

// changed is when the content or the rights of a file last changed: unlike the time of its
// modification, nobody can set it back.
func changed(info fs.FileInfo) time.Time {
	return time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix()) // as os gives it on Linux
}

// errEmpty is a directory that had objects and has none: a mistake sooner than a
// wish.
var errEmpty = errors.New("has no manifests any more: " +
	"restore them; to remove the last objects, leave a manifest with one that does no harm")

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
	return os.SameFile(a.info, b.info) && a.info.Size() == b.info.Size() && a.info.ModTime().Equal(b.info.ModTime()) && changed(a.info).Equal(changed(b.info))
}

// readStable reads all manifests of a directory, again if it changes meanwhile:
// half of an old and half of a new state would be a state that nobody meant. Its
// errors leave it to the caller to name the directory.
func readStable(dir string) ([]manifest, []stamp, error) {
	for range 5 {
		before, err := list(dir)
		if err != nil {
			return nil, nil, err
		}
		files := make([]manifest, 0, len(before))
		for _, f := range before {
			files = append(files, readManifest(dir, f))
		}
		after, err := list(dir)
		if err != nil {
			return nil, nil, err
		}
		if slices.EqualFunc(before, after, stamp.same) {
			return files, after, nil
		}
	}
	return nil, nil, errors.New("changes while it is being read: it is read again soon")
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
