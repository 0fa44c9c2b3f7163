package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/homeport-cni/homeport/pkg/store"
)

// PluginName is what the CNI plugin is called where runtimes look for it; it
// equals the type that CNI configs name.
const PluginName = "homeport"

// Install puts the plugin's binary into dir as PluginName, by rename, so that a
// runtime executes the old one or the new one and never a part. An equal file
// is left alone. It says what it did.
func Install(from, dir string) (string, error) {
	if from == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find own binary: %w", err)
		}
		from = filepath.Join(filepath.Dir(exe), "cni-plugin")
	}
	want, err := os.ReadFile(from)
	if err != nil {
		return "", fmt.Errorf("read the plugin's binary: %w; name it with --from", err)
	}
	to := filepath.Join(dir, PluginName)
	have, err := os.ReadFile(to)
	switch {
	case err == nil && bytes.Equal(have, want):
		return to + " is up to date", nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	// A directory for programs is open to all, unlike those of the store.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the directory for plugins: %w; name another with --to", err)
	}
	if err := store.WriteFileAtomic(to, want, 0o755); err != nil {
		return "", err
	}
	return "installed " + to, nil
}
