package desired

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch gives the present snapshot, and then each one that differs from the one
// before in content or problems, until ctx ends and the channel is closed. A
// reader that is slow gets the newest, not all.
//
// Changes are noticed by inotify, on the directory and on its parent, so that it
// may be replaced as a whole; and every 10 seconds the directory is looked at
// anyway, for what inotify cannot see, such as the target of a link. Where the kernel
// gives no more inotify instances that is all, and a problem says so.
func (d *Dir) Watch(ctx context.Context) (<-chan *Snapshot, error) {
	path, err := filepath.Abs(d.path)
	if err != nil {
		return nil, fmt.Errorf("watch manifests: %w", err)
	}
	w := &watcher{Dir: d, path: path, changed: make(chan struct{}, 1)}
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		d.note(Problem{File: d.path, Message: fmt.Sprintf("changes are noticed only every %s: "+
			"%v (see fs.inotify.max_user_instances)", d.poll, err)})
	}
	out := make(chan *Snapshot)
	go w.listen(ctx)
	go feed(ctx, out, w.changed, d.debounce, d.poll, func() *Snapshot {
		w.arm()
		// The error is among the snapshot's problems; without one there is
		// nothing to give yet.
		s, _ := w.Load()
		return s
	})
	return out, nil
}

func (d *Dir) note(p Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, p)
}

// watcher is one run of Watch.
type watcher struct {
	*Dir
	path    string            // absolute
	notify  *fsnotify.Watcher // nil where the kernel gives none
	changed chan struct{}
}

// listen tells of changes below the path until ctx ends.
func (w *watcher) listen(ctx context.Context) {
	if w.notify == nil {
		return
	}
	defer w.notify.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.notify.Events:
			if e.Name == w.path || strings.HasPrefix(e.Name, w.path+string(filepath.Separator)) {
				signal(w.changed)
			}
		case <-w.notify.Errors: // events were lost
			signal(w.changed)
		}
	}
}

// signal says that something changed, once for all changes that nobody has looked
// at yet. The channel has room for one.
func signal(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// feed sends what read gives, now, soon after each change and every poll, where
// it differs from what read gave before. It ends, and closes out, with ctx.
func feed(ctx context.Context, out chan<- *Snapshot, changed <-chan struct{}, debounce, poll time.Duration, read func() *Snapshot) {
	defer close(out)
	var latest, pending *Snapshot
	var since time.Time // of the first change that was not looked at yet
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		var to chan<- *Snapshot
		if pending != nil {
			to = out
		}
		select {
		case <-ctx.Done():
			return
		case to <- pending:
			pending = nil
		case <-changed:
			if since.IsZero() {
				since = time.Now()
			}
			// A writer that never rests must not put us off for ever.
			next.Reset(min(debounce, max(0, 10*debounce-time.Since(since))))
		case <-next.C:
			since = time.Time{}
			if s := read(); s != nil && differs(s, latest) {
				latest, pending = s, s
			}
			next.Reset(poll)
		}
	}
}

// arm watches what the paths name now: the directory may be another one than
// before. What happens while it is not watched is seen by the reading after it.
func (w *watcher) arm() {
	if w.notify == nil {
		return
	}
	for _, path := range []string{filepath.Dir(w.path), w.path} {
		_ = w.notify.Remove(path) // not watched yet, or gone
		_ = w.notify.Add(path)    // missing: its parent or the next reading tells
	}
}

func differs(a, b *Snapshot) bool {
	return b == nil || a.Revision != b.Revision || !a.samePods(b) || !a.sameChecks(b) || !a.sameIdentities(b) || !maps.Equal(a.Elsewhere, b.Elsewhere) || !reflect.DeepEqual(a.Problems, b.Problems)
}
