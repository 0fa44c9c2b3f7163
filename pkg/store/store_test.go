package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

func newRecord(tb testing.TB, container, ifName string) *attach.Record {
	tb.Helper()
	set, err := vlan.ParseSet("100-110,200")
	if err != nil {
		tb.Fatal(err)
	}
	return &attach.Record{
		Version: attach.RecordVersion,
		Request: attach.Request{
			Key:         attach.Key{ContainerID: container, IfName: ifName},
			CNINetwork:  "legacy",
			Inline:      &attach.Inline{Bridge: "br0", VLANs: attach.VLANs{Mode: vlan.Native, PVID: 5, Tagged: set}},
			MAC:         attach.MAC{0, 0x50, 0x56, 1, 2, 3},
			HostIfIndex: 17,
			HostIfName:  "veth0123",
		},
		Bridge:       "br0",
		VLANs:        attach.VLANs{Mode: vlan.Native, PVID: 5, Tagged: set},
		EffectiveMTU: 1500,
		BootID:       "2b1f0f6e-6c5f-4b52-9a1e-0d3f8f3f7a11",
		CreatedAt:    time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC),
	}
}

// TestUnread: a record that cannot be read is reported and left as it is, and
// hides no other.
func TestUnread(t *testing.T) {
	key := attach.Key{ContainerID: "bad", IfName: "net1"}
	for name, tt := range map[string]struct {
		make func(file string) error
		want string
	}{
		"directory": {func(file string) error { return os.Mkdir(file, 0o700) }, "is a directory"},
		"no permission": {func(file string) error {
			if os.Geteuid() == 0 {
				// Root may read all; a link to itself nobody can.
				return os.Symlink(file, file)
			}
			return os.WriteFile(file, []byte("{}"), 0)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newStore(t)
			good := newRecord(t, "c1", "net1")
			if err := s.Put(good); err != nil {
				t.Fatal(err)
			}
			file := s.Path(key)
			if err := tt.make(file); err != nil {
				t.Fatal(err)
			}
			for range 2 { // it is still there for the second
				records, aside, err := s.List()
				if err != nil || len(records) != 1 || records[0].Key != good.Key || len(aside) != 1 {
					t.Fatalf("List: %v, %v, %v; want the good record and one that is unread", records, aside, err)
				}
				a := aside[0]
				if !a.Unread || a.File != file || a.Renamed != "" ||
					!strings.Contains(a.Error(), "cannot be read and stays as it is") || !strings.Contains(a.Error(), tt.want) {
					t.Errorf("%+v: %v", a, &a)
				}
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

func newStore(tb testing.TB) (*Store, string) {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "attachments")
	s, err := Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return s, dir
}

// TestAddresses: they are kept, and a record of a version that knew none loads.
func TestAddresses(t *testing.T) {
	s, _ := newStore(t)
	r := newRecord(t, "c1", "net1")
	for _, want := range [][]netip.Addr{nil, {netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}} {
		r.Addresses = want
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(s.Path(r.Key))
		if err != nil || strings.Contains(string(text), "addresses") != (want != nil) {
			t.Errorf("with %v: %v, %s", want, err, text)
		}
		if got, err := s.Get(r.Key); err != nil || !slices.Equal(got.Addresses, want) {
			t.Errorf("%+v, %v; want %v", got, err, want)
		}
	}
}

func TestSetAside(t *testing.T) {
	good := newRecord(t, "good", "net1")
	tests := []struct{ name, content, want string }{
		{"empty", "", "unexpected end of JSON input"},
		{"cut off", `{"version":1,"containerID":"a`, "unexpected end of JSON input"},
		{"no object", `[1]`, "cannot unmarshal array"},
		{"no version", `{"containerID":"bad","ifName":"net1"}`, "record version 0 is not known, this is version 1"},
		{"later version", `{"version":2,"containerID":"bad","ifName":"net1"}`, "record version 2 is not known"},
		{"no key", `{"version":1}`, "container id or interface name is missing"},
		{"wrong type", `{"version":1,"containerID":"bad","ifName":"net1","hostIfIndex":"x"}`, "cannot unmarshal string"},
		{"bad VLAN", `{"version":1,"containerID":"bad","ifName":"net1","vlans":{"mode":"Odd"}}`, `VLAN mode "Odd"`},
		{"another's record", `{"version":1,"containerID":"other","ifName":"net1"}`, "other net1"},
	}
	bad := attach.Key{ContainerID: "bad", IfName: "net1"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, by := range []string{"Get", "List"} {
				s, dir := newStore(t)
				if err := s.Put(good); err != nil {
					t.Fatal(err)
				}
				file := s.Path(bad)
				if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
					t.Fatal(err)
				}
				var aside *SetAside
				if by == "Get" {
					if _, err := s.Get(bad); !errors.As(err, &aside) {
						t.Fatalf("Get: %v, want a SetAside", err)
					}
				} else {
					records, all, err := s.List()
					if err != nil || len(records) != 1 || len(all) != 1 {
						t.Fatalf("List: %d records, %v, %v; want 1 and one set aside", len(records), all, err)
					}
					aside = &all[0]
				}
				if aside.File != file || !strings.HasPrefix(aside.Renamed, file+".corrupt-") || !strings.Contains(aside.Error(), tt.want) {
					t.Errorf("%s: %+v (%v), want %q", by, aside, aside, tt.want)
				}
				got, err := os.ReadFile(aside.Renamed)
				if err != nil || string(got) != tt.content {
					t.Errorf("%s: set aside as %q, %v; want the content kept", by, got, err)
				}
				if _, err := s.Get(bad); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: second Get: %v, want not exist", by, err)
				}
				records, all, err := s.List()
				if err != nil || len(records) != 1 || len(all) != 0 {
					t.Errorf("%s: List afterwards in %s: %d records, %v, %v", by, dir, len(records), all, err)
				}
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	s, dir := newStore(t)
	keys := []attach.Key{{ContainerID: "a", IfName: "net2"}, {ContainerID: "a", IfName: "net1"}, {ContainerID: "../../etc/a", IfName: "eth0/1"}, {ContainerID: strings.Repeat("x", 4096), IfName: "net1"}}
	for _, k := range keys {
		if err := s.Put(newRecord(t, k.ContainerID, k.IfName)); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(k)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(newRecord(t, k.ContainerID, k.IfName), got, cmp.Comparer(func(a, b vlan.Set) bool { return a == b })); diff != "" {
			t.Errorf("record of %v (-want +got):\n%s", k, diff)
		}
		info, err := os.Stat(s.Path(k))
		if err != nil || info.Mode().Perm() != 0o600 || filepath.Dir(s.Path(k)) != dir {
			t.Errorf("file %s: %v, %v", s.Path(k), info, err)
		}
	}
	records, aside, err := s.List()
	if err != nil || len(aside) != 0 {
		t.Fatalf("List: %v, %v", aside, err)
	}
	var got []attach.Key
	for _, r := range records {
		got = append(got, r.Key)
	}
	if diff := cmp.Diff([]attach.Key{keys[2], keys[1], keys[0], keys[3]}, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	for range 2 { // the second one deletes what is not there
		for _, k := range keys {
			if err := s.Delete(k); err != nil {
				t.Error(err)
			}
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func TestPutReplaces(t *testing.T) {
	s, _ := newStore(t)
	r := newRecord(t, "a", "net1")
	for i := range 3 {
		r.HostIfIndex, r.Version = i, 99
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(r.Key)
		if err != nil || got.HostIfIndex != i || got.Version != attach.RecordVersion {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if err := s.Put(&attach.Record{}); err == nil {
		t.Error("a record without a key was written")
	}
}

// A reader meets whole records only, however many writers there are.
func TestConcurrent(t *testing.T) {
	s, _ := newStore(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				r := newRecord(t, "shared", "net1")
				r.HostIfName = strings.Repeat(fmt.Sprint(i), 1+j*20)
				if err := s.Put(r); err != nil {
					t.Error(err)
				}
				if _, aside, err := s.List(); err != nil || len(aside) != 0 {
					t.Errorf("List: %v, %v", aside, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestMissingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	s := At(dir)
	k := attach.Key{ContainerID: "a", IfName: "net1"}
	if _, err := s.Get(k); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %v", err)
	}
	if r, a, err := s.List(); r != nil || a != nil || err != nil {
		t.Errorf("List: %v %v %v", r, a, err)
	}
	if err := s.Delete(k); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if err := s.Put(newRecord(t, "a", "net1")); err != nil {
		t.Errorf("Put makes the directory: %v", err)
	}
}

// What a writer left that was killed goes at once: its successor is the only writer.
func TestOpenSweepsTemporaries(t *testing.T) {
	s, dir := newStore(t)
	left := filepath.Join(dir, tempPrefix+"left")
	if err := errors.Join(s.Put(newRecord(t, "a", "net1")), os.WriteFile(left, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left temporary file: %v", err)
	}
	if r, _, err := s.List(); err != nil || len(r) != 1 {
		t.Errorf("records %v, %v", r, err)
	}
	if err := Sweep(filepath.Join(dir, "missing")); err != nil {
		t.Errorf("a directory that is missing: %v", err)
	}
}

func TestDirErrors(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(filepath.Join(blocked, "attachments"))
	var de *DirError
	if !errors.As(err, &de) || !strings.Contains(err.Error(), "remove the file that stands where") {
		t.Errorf("Open under a file: %v", err)
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{syscall.ENOSPC, "state directory /run/x: write r.json: no space left on device; free space"},
		{syscall.EROFS, "state directory /run/x: write r.json: read-only file system; remount"},
		{syscall.EACCES, "state directory /run/x: write r.json: permission denied; run as root"},
		{syscall.EIO, "state directory /run/x: write r.json: input/output error; check the directory"},
	} {
		err := dirError("/run/x", "write r.json", &fs.PathError{Op: "open", Path: "/run/x/y", Err: tt.err})
		if !errors.Is(err, tt.err) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
		if !errors.As(err, &de) || de.AttachError().Kind != attach.TryAgain || !strings.HasPrefix(de.AttachError().Error(), tt.want) {
			t.Errorf("AttachError of %v", err)
		}
	}
}

// The real thing: a file system that is full, and one that is read-only.
func TestFullAndReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("homeport-test", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs root that may mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(filepath.Join(dir, "attachments"))
	if err != nil {
		t.Fatal(err)
	}
	first := newRecord(t, "first", "net1")
	if err := s.Put(first); err != nil {
		t.Fatal(err)
	}
	var full error
	for i := range 100 {
		if full = s.Put(newRecord(t, fmt.Sprint("c", i), "net1")); full != nil {
			break
		}
	}
	if !errors.Is(full, syscall.ENOSPC) || !strings.Contains(full.Error(), dir) || !strings.Contains(full.Error(), "free space") {
		t.Errorf("full: %v", full)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			t.Errorf("left over after a full disk: %s", e.Name())
		}
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(first); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "read-write") {
		t.Errorf("Put, read-only: %v", err)
	}
	if err := s.Delete(first.Key); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Delete, read-only: %v", err)
	}
	if _, err := s.Get(first.Key); err != nil {
		t.Errorf("Get, read-only: %v", err)
	}
}
