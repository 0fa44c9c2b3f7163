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
	changed, err := install(from, dir)
	to := filepath.Join(dir, PluginName)
	switch {
	case err != nil:
		return "", err
	case !changed:
		return to + " is up to date", nil
	}
	return "installed " + to, nil
}

// install is Install; it says whether it wrote. An empty from is the plugin beside
// this program.
func install(from, dir string) (changed bool, err error) {
	if from == "" {
		exe, err := os.Executable()
		if err != nil {
			return false, fmt.Errorf("find own binary: %w", err)
		}
		from = filepath.Join(filepath.Dir(exe), "cni-plugin")
	}
	want, err := os.ReadFile(from)
	if err != nil {
		return false, fmt.Errorf("read the plugin's binary: %w; name it with --from", err)
	}
	to := filepath.Join(dir, PluginName)
	same, err := inPlace(to, want)
	if same || err != nil {
		return false, err
	}
	// A directory for programs is open to all, unlike those of the store.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("make the directory for plugins: %w; name another with --to", err)
	}
	if err := store.WriteFileAtomic(to, 0o755, want); err != nil {
		return false, err
	}
	return true, nil
}

// inPlace says whether the plugin there is this one, and can be executed.
func inPlace(to string, want []byte) (bool, error) {
	info, err := os.Stat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at the plugin in place: %w; name another directory with --to", err)
	case info.IsDir():
		return false, fmt.Errorf("%s is a directory: remove it, or name another place with --to", to)
	case info.Mode().Perm() != 0o755 || info.Size() != int64(len(want)):
		return false, nil
	}
	have, err := os.ReadFile(to)
	if err != nil {
		return false, fmt.Errorf("read the plugin in place: %w", err)
	}
	return bytes.Equal(have, want), nil
}
