package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Kernel is an unpacked Debian kernel in the cache.
type Kernel struct {
	Series  string // 6.1 or 6.12
	Release string // as uname -r prints it
	Image   string // host path of vmlinuz
	Modules string // host path of lib/modules/RELEASE
	Args    string // to boot with, besides what each machine has
}

// CacheDir gives the folder that hack/deps.sh fills: $HOMEPORT_CACHE, or
// homeport below the user's cache folder.
func CacheDir() (string, error) {
	if d := os.Getenv("HOMEPORT_CACHE"); d != "" {
		return d, nil
	}
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache folder: %w; set HOMEPORT_CACHE", err)
	}
	return filepath.Join(d, "homeport"), nil
}

// FindKernel looks a kernel series up in the cache.
func FindKernel(series string) (Kernel, error) {
	cache, err := CacheDir()
	if err != nil {
		return Kernel{}, err
	}
	dir := filepath.Join(cache, "kernels", series)
	b, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel %s: %w; run hack/deps.sh", series, err)
	}
	release := strings.TrimSpace(string(b))
	return Kernel{
		Series: series, Release: release,
		Image:   filepath.Join(dir, "vmlinuz"),
		Modules: filepath.Join(dir, "lib", "modules", release),
	}, nil
}
