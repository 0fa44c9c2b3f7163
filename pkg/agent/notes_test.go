package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/store"
)

// TestNotesOfRecords: a record that is of no use is told as long as it is there.
func TestNotesOfRecords(t *testing.T) {
	a := idleAgent(t)
	dir := t.TempDir()
	told := func(what, want string) {
		t.Helper()
		a.notes.sweep()
		if got := strings.Join(a.notes.texts(), "\n"); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: told %q, want %q", what, got, want)
		}
	}
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := s.Path(attach.Key{ContainerID: "c", IfName: "i"})
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, aside, err := s.List()
	if err != nil || len(aside) != 1 {
		t.Fatal(aside, err)
	}
	for range 3 {
		a.noteRecord(&aside[0])
	}
	told("set aside", "set aside as "+filepath.Base(aside[0].Renamed))
	unread := store.SetAside{File: path, Unread: true, Err: os.ErrPermission}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.noteRecord(&unread)
	told("and cannot be read", "it cannot be read")
	if err := os.Remove(aside[0].Renamed); err != nil {
		t.Fatal(err)
	}
	told("looked into", "it cannot be read")
	a.notes.drop(path)
	told("read again", "")
}

// TestNotesOfSaves: a state file that cannot be written is told until it can, and
// with the latest reason.
func TestNotesOfSaves(t *testing.T) {
	a := idleAgent(t)
	path := a.statePath("x")
	a.save("x", 1, "it cannot be saved")
	if got := a.notes.texts(); len(got) != 0 {
		t.Fatalf("when it can: %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{make(chan int), func() {}} { // which are no JSON
		a.save("x", v, "it cannot be saved")
	}
	a.notes.sweep()
	if got := a.notes.texts(); len(got) != 1 || !strings.Contains(got[0], "it cannot be saved: ") || !strings.Contains(got[0], "func()") {
		t.Errorf("when it cannot: %q", got)
	}
	a.save("x", 1, "it cannot be saved")
	if got := a.notes.texts(); len(got) != 0 {
		t.Errorf("when it can again: %q", got)
	}
}

// TestNotesAreBounded: status has room for so many.
func TestNotesAreBounded(t *testing.T) {
	a := idleAgent(t)
	for i := range 2 * notesMax {
		a.notes.add(a.log, a.statePath(strings.Repeat("x", i)), "text", false)
	}
	if n := len(a.notes.texts()); n != notesMax {
		t.Errorf("%d notes", n)
	}
}
