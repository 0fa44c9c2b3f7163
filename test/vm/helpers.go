package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const modulePath = "github.com/homeport-cni/homeport"

// buildHelpers compiles the static programs that run inside the VMs into dir.
// Go's build cache makes that a matter of a moment from the second time on.
func buildHelpers(ctx context.Context, dir string, guests bool) error {
	root, err := sourceRoot()
	if err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + string(filepath.Separator), "./test/vm/init"}
	if guests {
		args = append(args, "./test/vm/guest", "./test/vm/guestctl")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the VM's own programs: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// sourceRoot finds the checkout: the folder, or one above it, whose go.mod is
// this module's.
func sourceRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("source folder: %w", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		b, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module "+modulePath+"\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("source folder: %s is not inside a checkout of %s; run vmrun from there", dir, modulePath)
		}
	}
}
