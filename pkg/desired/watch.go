package desired

import (
	"context"
	"fmt"
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
// may be replaced as a whole; and every 10 seconds the directory is read anyway,
// for what inotify cannot see, such as the target of a link. Where the kernel
// gives no more inotify instances that is all, and a problem says so.
func (d *Dir) Watch(ctx context.Context) (<-chan *Snapshot, error) {
	path, err := filepath.Abs(d.path)
	if err != nil {
		return nil, fmt.Errorf("watch manifests: %w", err)
	}
	w := &watcher{Dir: d, path: path, out: make(chan *Snapshot)}
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		d.note(Problem{File: d.path, Message: fmt.Sprintf("changes are noticed only every %s: "+
			"%v (see fs.inotify.max_user_instances)", d.poll, err)})
	} else {
		w.events, w.errors = w.notify.Events, w.notify.Errors
	}
	go w.run(ctx)
	return w.out, nil
}

func (d *Dir) note(p Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, p)
}

// watcher is one run of Watch.
type watcher struct {
	*Dir
	path   string // absolute
	notify *fsnotify.Watcher
	events <-chan fsnotify.Event // nil without notify
	errors <-chan error
	out    chan *Snapshot
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.out)
	if w.notify != nil {
		defer w.notify.Close()
	}
	var latest, pending *Snapshot
	var since time.Time // of the first change that was not looked at yet
	next := time.NewTimer(0)
	defer next.Stop()
	changed := func() {
		if since.IsZero() {
			since = time.Now()
		}
		// A writer that never rests must not put us off for ever.
		next.Reset(min(w.debounce, max(0, 10*w.debounce-time.Since(since))))
	}
	for {
		var out chan<- *Snapshot
		if pending != nil {
			out = w.out
		}
		select {
		case <-ctx.Done():
			return
		case out <- pending:
			pending = nil
		case e := <-w.events:
			if e.Name == w.path || strings.HasPrefix(e.Name, w.path+string(filepath.Separator)) {
				changed()
			}
		case <-w.errors: // events were lost
			changed()
		case <-next.C:
			since = time.Time{}
			w.arm()
			// The error is among the snapshot's problems; without one there is
			// nothing to give yet.
			if s, _ := w.Load(); s != nil && differs(s, latest) {
				latest, pending = s, s
			}
			next.Reset(w.poll)
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
	return b == nil || a.Revision != b.Revision || !reflect.DeepEqual(a.Problems, b.Problems)
}
