// Package flatagent is the node agent of production on bridges that keep no VLANs apart: for measurements on kernels
// whose bridges cannot, which it refuses else.
package flatagent

import (
	"context"
	"log/slog"
	"os"

	"github.com/homeport-cni/homeport/pkg/agent"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// Command is the first argument that makes the benchmark be this agent; the second is a directory of manifests.
const Command = "flat-agent"

// Bridge is the one that ports are attached to.
const Bridge = "br-homeport"

// Run serves until ctx ends, and logs to stderr.
func Run(ctx context.Context, dir string) error {
	return RunWith(ctx, "dir:"+dir, func(cfg *agent.Config) error {
		cfg.Source = desired.NewDir(dir, cfg.Paths.State()+"/last-good.json")
		return nil
	})
}

// RunWith is Run with a source of that name, and more, as set says.
func RunWith(ctx context.Context, source string, set func(*agent.Config) error) (err error) {
	cfg := agent.Config{SourceName: source, BPFFS: "/sys/fs/bpf", Version: "bench", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Flat: true}
	if cfg.Paths, err = attach.FindPaths(); err != nil {
		return err
	}
	if err := set(&cfg); err != nil {
		return err
	}
	a, err := agent.New(cfg)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}
