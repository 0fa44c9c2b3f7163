package peer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func keyFile(tb testing.TB, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "keys")
	write(tb, path, text)
	return path
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// lookNow makes the next use look at the file.
func (r *Ring) lookNow() { r.next.Store(0) }

// turn changes the keys of a ring without a file.
func (r *Ring) turn(k Keys) { r.state.Store(&ringState{keys: k}) }

func TestOpenRingFails(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "none"), "no such file"},
		{"no path", "", "no such file"},
		{"directory", dir, "not a file: name the file"},
		{"device", os.DevNull, "not a file"},
		{"loop", loop, "too many levels of symbolic links"},
		{"huge", keyFile(t, strings.Repeat("#", maxKeyFile+1)), "65537 bytes, want at most 65536"},
		{"empty", keyFile(t, ""), "no key: make one with"},
		{"bad", keyFile(t, line(1)+line(1)), "line 2: the same key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := OpenRing(tt.path)
			if err == nil || !strings.HasPrefix(err.Error(), "fabric keys "+tt.path+": ") || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if tt.path != "" && strings.Count(err.Error(), tt.path) != 1 {
				t.Errorf("%v says the path twice", err)
			}
			secretFree(t, err.Error())
		})
	}
}

// TestRingKeepsLastGood goes through what may become of a file.
func TestRingKeepsLastGood(t *testing.T) {
	path := keyFile(t, lines(1))
	ring, err := OpenRing(path)
	if err != nil {
		t.Fatal(err)
	}
	remove := func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name   string
		change func()
		err    string
		want   []byte
	}{
		{"as it was", func() {}, "", []byte{1}},
		{"rubbish", func() { write(t, path, "rubbish") }, "line 1: ", []byte{1}},
		{"empty", func() { write(t, path, "") }, "no key", []byte{1}},
		{"mended", func() { write(t, path, lines(1, 2)) }, "", []byte{1, 2}},
		{"other order, same size", func() { write(t, path, lines(2, 1)) }, "", []byte{2, 1}},
		{"gone", remove, "no such file", []byte{2, 1}},
		{"back", func() { write(t, path, lines(2, 1)) }, "", []byte{2, 1}},
		{"a directory", func() {
			remove()
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "not a file", []byte{2, 1}},
		{"a file again", func() { remove(); write(t, path, lines(2)) }, "", []byte{2}},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.change()
			ring.lookNow()
			err := ring.Err()
			if got, want := ring.Keys().IDs(), keys(t, step.want...).IDs(); !slices.Equal(got, want) {
				t.Errorf("keys %v, want %v", got, want)
			}
			if step.err == "" && err == nil {
				return
			}
			if err == nil || step.err == "" || !strings.Contains(err.Error(), step.err) || !strings.HasSuffix(err.Error(), "; the keys read before stay in use") {
				t.Fatalf("got %v, want %q", err, step.err)
			}
			secretFree(t, err.Error())
		})
	}
}

// TestRingFollowsSecret: kubelet puts a link elsewhere, and the file's own link stays.
func TestRingFollowsSecret(t *testing.T) {
	dir := t.TempDir()
	put := func(version, text string) {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "keys"), text)
		tmp := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(version, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("..1", lines(1))
	path := filepath.Join(dir, "keys")
	if err := os.Symlink("..data/keys", path); err != nil {
		t.Fatal(err)
	}
	ring, err := OpenRing(path)
	if err != nil {
		t.Fatal(err)
	}
	put("..2", lines(2))
	ring.lookNow()
	if got, want := ring.Keys().IDs(), keys(t, 2).IDs(); !slices.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
}

// TestAwaitRing: who waits for the file has a key of its own until it is there and good,
// and says what is wrong with it.
func TestAwaitRing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	ring, err := AwaitRing(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := AwaitRing(path)
	if err != nil {
		t.Fatal(err)
	}
	own := ring.Keys()
	if len(own.IDs()) != 1 || own.same(other.Keys()) {
		t.Errorf("%v and %v: want a key each", own, other)
	}
	for _, step := range []struct{ text, want string }{{"", "no such file"}, {"rubbish", "line 1: not base64"}} {
		if step.text != "" {
			write(t, path, step.text)
		}
		ring.lookNow()
		alone, bad := ring.Alone(), ring.Err()
		if alone == nil || bad == nil || alone.Error() != bad.Error() || !strings.HasPrefix(alone.Error(), "fabric keys "+path+": "+step.want) {
			t.Errorf("%q: alone: %v; %v", step.text, alone, bad)
		}
		if ring.Keys() != own {
			t.Errorf("%q: another key", step.text)
		}
	}
	write(t, path, lines(1))
	ring.lookNow()
	if err := errors.Join(ring.Alone(), ring.Err()); err != nil || !ring.Keys().same(keys(t, 1)) {
		t.Errorf("%v %v", ring, err)
	}
	write(t, path, "rubbish")
	ring.lookNow()
	if err := ring.Err(); ring.Alone() != nil || err == nil || !ring.Keys().same(keys(t, 1)) {
		t.Errorf("%v: the keys that were read stay: %v", ring, err)
	}
	if ring, err := AwaitRing(path + ".other"); err != nil || ring.Alone() == nil {
		t.Errorf("%v %v", ring, err)
	}
	write(t, path, lines(2))
	if ring, err := AwaitRing(path); err != nil || ring.Alone() != nil || !ring.Keys().same(keys(t, 2)) {
		t.Errorf("a file that is there: %v %v", ring, err)
	}
}

// TestRingLooksRarely: once a second at most, and then it sees.
func TestRingLooksRarely(t *testing.T) {
	path := keyFile(t, lines(1))
	one, two := keys(t, 1), keys(t, 2)
	synctest.Test(t, func(t *testing.T) {
		ring, err := OpenRing(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, lines(2))
		time.Sleep(lookEvery - time.Nanosecond) // of the bubble's clock
		if k := ring.Keys(); !k.same(one) {
			t.Errorf("looked at once: %v", k)
		}
		time.Sleep(time.Nanosecond)
		if k := ring.Keys(); !k.same(two) {
			t.Errorf("not looked after a second: %v", k)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := ring.Err(); err != nil {
			t.Errorf("looked at once: %v", err)
		}
		time.Sleep(lookEvery)
		if err := ring.Err(); err == nil {
			t.Error("Err does not look")
		}
	})
}

// TestRingReadsRarely: a file whose times are of old is read again only if they
// change; one that was just written may be written again within the same tick of its
// clock.
func TestRingReadsRarely(t *testing.T) {
	for name, tt := range map[string]struct {
		age  time.Duration
		want byte
	}{
		"old":  {time.Hour, 1},
		"new":  {0, 2},
		"next": {-time.Hour, 2},
	} {
		t.Run(name, func(t *testing.T) {
			path := keyFile(t, lines(1))
			at := time.Now().Add(-tt.age)
			stamp := func() {
				if err := os.Chtimes(path, at, at); err != nil {
					t.Fatal(err)
				}
			}
			stamp()
			ring, err := OpenRing(path)
			if err != nil {
				t.Fatal(err)
			}
			before := ring.Keys()
			ring.lookNow()
			if after := ring.Keys(); after != before {
				t.Error("the same keys have another value")
			}
			write(t, path, lines(2))
			stamp()
			ring.lookNow()
			if k := ring.Keys(); !k.same(keys(t, tt.want)) {
				t.Errorf("keys %v", k)
			}
		})
	}
}

// TestRingSameKeys: what people note in the file makes nobody connect anew.
func TestRingSameKeys(t *testing.T) {
	path := keyFile(t, lines(1, 2))
	ring, err := OpenRing(path)
	if err != nil {
		t.Fatal(err)
	}
	before := ring.Keys()
	for _, text := range []string{"# a note\n" + lines(1, 2), "rubbish", lines(1, 2)} {
		write(t, path, text)
		ring.lookNow()
		if ring.Keys() != before {
			t.Errorf("%q: the same keys have another value", text)
		}
	}
	if err := ring.Err(); err != nil {
		t.Error(err)
	}
}

func TestRingConcurrently(t *testing.T) {
	path := keyFile(t, lines(1, 2))
	ring, err := OpenRing(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				id, mac := ring.Keys().Sign(nil)
				if !ring.Keys().Verify(id, nil, mac) {
					t.Error("a step of the rotation left a gap")
					return
				}
				_ = ring.Err()
				_ = ring.String()
			}
		})
	}
	next := path + ".next"
	for i := range 50 {
		text := lines(1, 2)
		if i%2 == 0 {
			text = lines(2, 1)
		}
		write(t, next, text)
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		ring.lookNow()
		ring.Keys()
	}
	close(done)
	wg.Wait()
}
