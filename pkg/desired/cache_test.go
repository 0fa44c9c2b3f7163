package desired

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// newCached gives a source with a cache that has seen the good state, and a
// function that starts another one on the same directory and cache.
func newCached(tb testing.TB) (first *Snapshot, dir, cache string, restart func() *Dir) {
	tb.Helper()
	cache = filepath.Join(tb.TempDir(), "last.json")
	dir = filepath.Join(tb.TempDir(), "manifests")
	good().put(tb, dir)
	return mustLoad(tb, NewDir(dir, cache)), dir, cache, func() *Dir { return NewDir(dir, cache) }
}

func TestCacheRoundTrip(t *testing.T) {
	first, _, cache, _ := newCached(t)
	s, err := LoadSnapshot(cache)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, first) {
		t.Errorf("stored\n got %+v\nwant %+v", s, first)
	}
	again := filepath.Join(t.TempDir(), "again.json")
	if err := s.Save(again); err != nil {
		t.Fatal(err)
	}
	if s, err = LoadSnapshot(again); err != nil || !reflect.DeepEqual(s, first) {
		t.Errorf("stored again: %v\n got %+v\nwant %+v", err, s, first)
	}
	if entries, err := os.ReadDir(filepath.Dir(cache)); err != nil || len(entries) != 1 {
		t.Errorf("left beside the cache: %v, %v", entries, err)
	}
}

func TestRestartWithoutDirectory(t *testing.T) {
	first, dir, _, restart := newCached(t)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	d := restart()
	s, err := d.Load()
	if err == nil || s == nil || !s.sameContent(first) || s.Revision != first.Revision {
		t.Fatalf("error %v, snapshot %+v; want an error and the stored one", err, s)
	}
	if len(s.Problems) != 1 || !s.Problems[0].Kept {
		t.Errorf("problems %v", s.Problems)
	}
	state{}.put(t, dir)
	if s, err = d.Load(); err == nil || !s.sameContent(first) {
		t.Errorf("emptied over a restart: %v, %+v", err, s)
	}
}

func TestRestartKeepsLastGood(t *testing.T) {
	first, dir, _, restart := newCached(t)
	good().with("networks.yml", "[", "policy.yaml", docs(web, strings.ReplaceAll(everywhere, "id: 1,", "id: -1,"))).put(t, dir)
	s := mustLoad(t, restart())
	if !s.sameContent(first) || s.Revision != first.Revision || len(s.Problems) != 4 {
		t.Errorf("revision %d: %s; problems:\n%s", s.Revision, inForce(s), problems(s, dir))
	}
	good().with("networks.yml", "[", "policy.yaml", web).put(t, dir)
	s = mustLoad(t, restart())
	if s.Revision != first.Revision+1 || len(s.Networks) != 2 || len(s.Policies) != 1 {
		t.Errorf("revision %d: %s; problems:\n%s", s.Revision, inForce(s), problems(s, dir))
	}
}

func TestCorruptCache(t *testing.T) {
	for name, corrupt := range map[string]func([]byte) []byte{
		"cut":           func(b []byte) []byte { return b[:len(b)/2] },
		"empty":         func(b []byte) []byte { return nil },
		"altered":       func(b []byte) []byte { return bytes.Replace(b, []byte(`"pvid":100`), []byte(`"pvid":101`), 1) },
		"other version": func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":1`), []byte(`"version":9`), 1) },
		"other JSON":    func(b []byte) []byte { return []byte(`{"version":1,"sha256":"` + sum([]byte("{}")) + `","body":{}}`) },
	} {
		t.Run(name, func(t *testing.T) {
			first, dir, cache, restart := newCached(t)
			data, err := os.ReadFile(cache)
			if err != nil {
				t.Fatal(err)
			}
			bad := corrupt(data)
			if bytes.Equal(bad, data) {
				t.Fatal("nothing corrupted")
			}
			writeTo(t, cache, string(bad))
			d := restart()
			s := mustLoad(t, d)
			if !s.sameContent(first) {
				t.Errorf("in force %s", inForce(s))
			}
			if len(s.Problems) != 1 || s.Problems[0].File != cache || !strings.Contains(s.Problems[0].Message, "set aside as "+cache+".corrupt") {
				t.Errorf("problems:\n%s", problems(s, dir))
			}
			if aside, err := os.ReadFile(cache + ".corrupt"); err != nil || !bytes.Equal(aside, bad) {
				t.Errorf("set aside: %q, %v", aside, err)
			}
			if s, err = LoadSnapshot(cache); err != nil || !s.sameContent(first) {
				t.Errorf("stored anew: %v", err)
			}
		})
	}
}

// A cache that cannot be written is reported until it can be.
func TestCacheUnwritable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	cache := filepath.Join(t.TempDir(), "in-the-way", "last.json")
	if err := os.Symlink("nowhere", filepath.Dir(cache)); err != nil { // no directory
		t.Fatal(err)
	}
	good().put(t, dir)
	d := NewDir(dir, cache)
	for range 2 {
		s := mustLoad(t, d)
		if inForce(s) != allIn || len(s.Problems) != 1 || s.Problems[0].File != cache || s.Problems[0].Kept {
			t.Fatalf("in force %s; problems:\n%s", inForce(s), problems(s, dir))
		}
	}
	if err := os.Remove(filepath.Dir(cache)); err != nil {
		t.Fatal(err)
	}
	if s := mustLoad(t, d); len(s.Problems) != 0 {
		t.Errorf("problems:\n%s", problems(s, dir))
	}
	if _, err := LoadSnapshot(cache); err != nil {
		t.Error(err)
	}
}
