package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Paths are where plugin and agent meet. They are fixed, since DEL may come
// with nothing but its key; a file named PathsFile beside the binary overrides
// them (laboratories with several nodes on one machine need that).
type Paths struct {
	// RunDir holds everything that a reboot should forget: the socket,
	// records, last good state.
	RunDir string `json:"runDir"`
}

// DefaultRunDir is where a node keeps its state.
const DefaultRunDir = "/run/homeport"

// PathsFile is looked for in the directory of the running binary.
const PathsFile = "homeport-paths.json"

// Socket is the agent's unix socket.
func (p Paths) Socket() string { return filepath.Join(p.RunDir, "agent.sock") }

// Attachments is the directory of records, one file an attachment.
func (p Paths) Attachments() string { return filepath.Join(p.RunDir, "attachments") }

// State is the directory of what the agent remembers besides records.
func (p Paths) State() string { return filepath.Join(p.RunDir, "state") }

// FindPaths reads PathsFile beside the running binary, or gives the default.
func FindPaths() (Paths, error) {
	p := Paths{RunDir: DefaultRunDir}
	exe, err := os.Executable()
	if err != nil {
		return p, fmt.Errorf("find own binary: %w", err)
	}
	file := filepath.Join(filepath.Dir(exe), PathsFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%s: %w", file, err)
	}
	if !filepath.IsAbs(p.RunDir) {
		return p, fmt.Errorf("%s: runDir %q is not an absolute path", file, p.RunDir)
	}
	return p, nil
}

// BootID is the kernel's identity of this boot (/proc/sys/kernel/random/boot_id).
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return string(b[:min(36, len(b))]), nil
}
