package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newPlugin is a binary to install.
func newPlugin(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cni-plugin")
	if err := os.WriteFile(file, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func stat(t *testing.T, file string) fs.FileInfo {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestInstall(t *testing.T) {
	opt := filepath.Join(t.TempDir(), "opt")
	dir := filepath.Join(opt, "cni", "bin")
	to := filepath.Join(dir, PluginName)
	first := newPlugin(t, "one")

	if done, err := Install(first, dir); err != nil || done != "installed "+to {
		t.Fatalf("into a directory that is not there: %q, %v", done, err)
	}
	plain := filepath.Join(t.TempDir(), "plain") // the umask counts, as for mkdir
	if err := os.Mkdir(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{opt, filepath.Dir(dir), dir} {
		if mode := stat(t, made).Mode(); mode != stat(t, plain).Mode() {
			t.Errorf("%s has mode %v", made, mode)
		}
	}
	if mode := stat(t, to).Mode(); mode != 0o755 {
		t.Errorf("%s has mode %v", to, mode)
	}

	before := stat(t, to)
	if done, err := Install(first, dir); err != nil || done != to+" is up to date" {
		t.Errorf("an equal one: %q, %v", done, err)
	}
	if !os.SameFile(before, stat(t, to)) {
		t.Error("an equal binary was written again")
	}

	if done, err := Install(newPlugin(t, "two"), dir); err != nil || done != "installed "+to {
		t.Errorf("another one: %q, %v", done, err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "two" || stat(t, to).Mode().Perm() != 0o755 {
		t.Errorf("after another was installed: %q, %v, %v", b, stat(t, to).Mode(), err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("beside the plugin: %v, %v", list, err)
	}
}

// TestInstallRefuses: nothing is made where nothing can be installed.
func TestInstallRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	_, err := Install(filepath.Join(t.TempDir(), "absent"), dir)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "absent") || !strings.Contains(err.Error(), "--from") {
		t.Errorf("without a binary: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a binary the directory is made: %v", err)
	}
	file := newPlugin(t, "a file")
	if _, err := Install(file, filepath.Join(file, "bin")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("below a file: %v", err)
	}
}
