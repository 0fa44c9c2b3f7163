package desired

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// watching follows a source until a condition holds, and tells what it saw last
// if it does not come to hold.
type watching struct {
	testing.TB
	ch   <-chan *Snapshot
	last *Snapshot
}

func newWatching(tb testing.TB, d *Dir) *watching {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ch, err := d.Watch(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cancel()
		for range ch { // closed once the watch is over
		}
	})
	return &watching{TB: tb, ch: ch}
}

func (w *watching) until(what string, ok func(*Snapshot) bool) *Snapshot {
	w.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case s := <-w.ch:
			w.last = s
			if ok(s) {
				return s
			}
		case <-deadline:
			if w.last == nil {
				w.Fatalf("%s: no snapshot at all", what)
			}
			w.Fatalf("%s: last seen: revision %d, %s, problems %v", what, w.last.Revision, inForce(w.last), w.last.Problems)
		}
	}
}

func has(parts ...string) func(*Snapshot) bool {
	return func(s *Snapshot) bool {
		for _, p := range parts {
			if !strings.Contains(inForce(s), p) {
				return false
			}
		}
		return len(s.Problems) == 0
	}
}

// Polling is off in these tests, but where it is what is tested.
func newWatched(tb testing.TB, s state) (*Dir, string) {
	tb.Helper()
	d, dir := newDir(tb, s)
	d.debounce, d.poll = 10*time.Millisecond, time.Hour
	return d, dir
}

func TestWatchFiles(t *testing.T) {
	d, dir := newWatched(t, good())
	w := newWatching(t, d)
	w.until("first snapshot", has(allIn))
	writeTo(t, filepath.Join(dir, "policy.yaml"), edit(web, "web from the old subnet", "two"))
	w.until("written in place", has("web=vlan100,two"))

	tmp := filepath.Join(dir, ".policy.yaml.swp")
	writeTo(t, tmp, edit(web, "web from the old subnet", "three"))
	if err := os.Rename(tmp, filepath.Join(dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	w.until("renamed over", has("web=vlan100,three"))

	writeTo(t, filepath.Join(dir, "policy.yaml"), "[")
	w.until("broken", func(s *Snapshot) bool {
		return strings.Contains(inForce(s), "three") && len(s.Problems) == 2 && s.Problems[0].Kept
	})
	if err := os.Remove(filepath.Join(dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	w.until("removed", func(s *Snapshot) bool { return len(s.Policies) == 0 && len(s.Problems) == 0 })
}

// As the kubelet updates a volume: files are links into ..data, which is a link
// that is renamed over.
func TestWatchConfigMap(t *testing.T) {
	d, dir := newWatched(t, state{})
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	good().put(t, filepath.Join(dir, "..1"))
	link("..1", "..data")
	for name := range good() {
		link(filepath.Join("..data", name), name)
	}
	w := newWatching(t, d)
	w.until("first snapshot", has(allIn))
	good().with("policy.yaml", edit(web, "web from the old subnet", "two")).put(t, filepath.Join(dir, "..2"))
	link("..2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
		t.Fatal(err)
	}
	w.until("swapped", has("web=vlan100,two"))
}

func TestWatchDirectory(t *testing.T) {
	d, dir := newWatched(t, good())
	w := newWatching(t, d)
	w.until("first snapshot", has(allIn))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	w.until("directory removed", func(s *Snapshot) bool {
		return inForce(s) == allIn && len(s.Problems) == 1 && s.Problems[0].Kept &&
			strings.Contains(s.Problems[0].Message, "no such file")
	})
	good().with("policy.yaml", edit(web, "web from the old subnet", "two")).put(t, dir)
	w.until("directory made again", has("web=vlan100,two"))
	writeTo(t, filepath.Join(dir, "policy.yaml"), edit(web, "web from the old subnet", "three"))
	w.until("file of the new directory written", has("web=vlan100,three"))

	other := filepath.Join(filepath.Dir(dir), "other")
	good().with("policy.yaml", edit(web, "web from the old subnet", "four")).put(t, other)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, dir); err != nil {
		t.Fatal(err)
	}
	w.until("directory renamed over", has("web=vlan100,four"))
}

// A directory that comes later, below another one that comes later: polled.
func TestWatchFromNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later", "manifests")
	d := NewDir(dir, "")
	d.debounce, d.poll = time.Millisecond, 20*time.Millisecond
	w := newWatching(t, d)
	good().put(t, dir)
	w.until("directory made", has(allIn))
}

// What a link points to is watched by nobody: polled.
func TestWatchPoll(t *testing.T) {
	d, dir := newDir(t, good().with("policy.yaml", ""))
	d.debounce, d.poll = time.Millisecond, 20*time.Millisecond
	target := filepath.Join(t.TempDir(), "elsewhere")
	writeTo(t, target, web)
	if err := os.Symlink(target, filepath.Join(dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	w := newWatching(t, d)
	w.until("first snapshot", has("web from the old subnet"))
	writeTo(t, target, edit(web, "web from the old subnet", "two"))
	w.until("target written", has("web=vlan100,two"))
}

func TestWatchEnds(t *testing.T) {
	d, _ := newWatched(t, good())
	ctx, cancel := context.WithCancel(context.Background())
	ch, err := d.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("channel is still open")
		}
	}
}
