package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestCPIOBytes compares an archive with the format's definition, field by field.
func TestCPIOBytes(t *testing.T) {
	var b bytes.Buffer
	c := newCPIOWriter(&b)
	if err := c.WriteHeader(cpioHeader{Name: "abc", Mode: cpioFile | 0o755, Size: 5}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	for _, f := range []struct {
		what string
		from int
		want string
	}{
		{"magic", 0, "070701"}, {"inode", 6, "00000001"}, {"mode", 14, "000081ed"}, {"links", 38, "00000001"},
		{"file size", 54, "00000005"}, {"name size", 94, "00000004"}, {"name", 110, "abc\x00\x00\x00"},
		{"content", 116, "hello\x00\x00\x00"}, {"next entry", 124, "070701"},
	} {
		if got := out[f.from : f.from+len(f.want)]; got != f.want {
			t.Errorf("%s at %d: %q, want %q", f.what, f.from, got, f.want)
		}
	}
	if len(out)%4 != 0 || !strings.Contains(out[124:], "TRAILER!!!\x00") {
		t.Errorf("%d bytes, trailer %q", len(out), out[124:])
	}
}

func TestCPIORefuses(t *testing.T) {
	for name, f := range map[string]func(*cpioWriter) error{
		"size over 4 GiB": func(c *cpioWriter) error { return c.WriteHeader(cpioHeader{Name: "a", Size: 1 << 32}) },
		"negative size":   func(c *cpioWriter) error { return c.WriteHeader(cpioHeader{Name: "a", Size: -1}) },
		"short entry": func(c *cpioWriter) error {
			if err := c.WriteHeader(cpioHeader{Name: "a", Size: 2}); err != nil {
				return nil
			}
			return c.WriteHeader(cpioHeader{Name: "b"})
		},
		"long entry": func(c *cpioWriter) error {
			if err := c.WriteHeader(cpioHeader{Name: "a", Size: 2}); err != nil {
				return nil
			}
			_, err := c.Write([]byte("abc"))
			return err
		},
	} {
		if f(newCPIOWriter(&bytes.Buffer{})) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestImageUnpacks lets busybox unpack a whole image: a second opinion.
func TestImageUnpacks(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed; run hack/deps.sh")
	}
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("content\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	im := newImage()
	delete(im.entries, "/dev/console") // a device node needs root
	if err := im.file("/sbin/thing", src); err != nil {
		t.Fatal(err)
	}
	im.symlink("/bin/link", "../sbin/thing")
	im.bytes("/a/b/c", 0o600, nil)
	archive := filepath.Join(t.TempDir(), "x.cpio")
	if err := im.writeFile(archive); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i", "-d")
	cmd.Dir, cmd.Stdin = dir, in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("busybox cpio: %v: %s", err, out)
	}
	for _, name := range []string{"usr/sbin/thing", "sbin/thing", "bin/link"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != "content\n" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "usr/sbin/thing")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode of thing: %v, %v", st, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "a/b/c")); err != nil || st.Size() != 0 {
		t.Errorf("empty file: %v, %v", st, err)
	}
}

func TestMerge(t *testing.T) {
	for in, want := range map[string]string{
		"/bin/sh": "/usr/bin/sh", "/usr/bin/sh": "/usr/bin/sh", "lib64/ld.so": "/usr/lib64/ld.so",
		"/binary": "/binary", "/x/../sbin/ip": "/usr/sbin/ip", "/lib": "/lib",
	} {
		if got := merge(in); got != want {
			t.Errorf("merge(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestSharedLibraries(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"+strings.Repeat("# long\n", 100)), 0o755); err != nil {
		t.Fatal(err)
	}
	if libs, err := sharedLibraries(script); err != nil || len(libs) != 0 {
		t.Errorf("script: %v, %v; want none", libs, err)
	}
	if _, err := sharedLibraries(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("missing file: no error")
	}
	libs, err := sharedLibraries("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range libs {
		names = append(names, filepath.Base(l.guest))
	}
	if all := strings.Join(names, " "); !strings.Contains(all, "libc.so.6") || !strings.HasPrefix(all, "ld-") {
		t.Errorf("/bin/sh needs %s; want the loader first and libc.so.6 (%s libraries)", all, strconv.Itoa(len(libs)))
	}
}
