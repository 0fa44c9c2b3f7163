package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/agent"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
)

func newRun() *cobra.Command {
	cfg := agent.Config{Version: version}
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run --source dir:PATH",
		Short: "keep this node as the desired state says, until stopped",
		Long: `Keeps this node's trunks, ports and firewall as the manifests of a directory say
(VLANTrunk, VLANNetwork, FirewallPolicy; watched), and answers the CNI plugin.

Stopping the agent stops nothing else: programs, rules and connections stay.
State is kept in ` + attach.DefaultRunDir + `; a file ` + attach.PathsFile + ` beside the
binary, {"runDir": "/..."}, moves it (the CNI plugin reads the one beside it).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			dir, err := sourceDir(cfg.SourceName)
			if err != nil {
				return err // usage
			}
			return failed(serve(cmd.Context(), cfg, dir))
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.SourceName, "source", "", "where desired state comes from: dir:PATH, a directory of manifests")
	f.StringVar(&cfg.BPFFS, "bpffs", "/sys/fs/bpf", "where the BPF file system is mounted, or a directory in it")
	f.StringVar(&cfg.MetricsAddr, "metrics-addr", "", "serve /metrics, /healthz and /readyz at this host:port")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// sourceDir reads --source.
func sourceDir(source string) (string, error) {
	const example = "as --source dir:/etc/homeport"
	dir, ok := strings.CutPrefix(source, "dir:")
	switch {
	case source == "":
		return "", errors.New("--source is missing: name the directory of manifests, " + example)
	case !ok || dir == "":
		return "", fmt.Errorf("--source %q: this version reads a directory of manifests: name it, %s", source, example)
	}
	return dir, nil
}

func serve(ctx context.Context, cfg agent.Config, dir string) error {
	var err error
	if cfg.Paths, err = attach.FindPaths(); err != nil {
		return err
	}
	cfg.Source = desired.NewDir(dir, cfg.Paths.State()+"/last-good.json")
	a, err := agent.New(cfg)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

func newInstall() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "put the CNI plugin in place, as " + agent.PluginName,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := agent.Install(from, to)
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), done)
			}
			return failed(err)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the plugin's binary (default: cni-plugin beside this one)")
	cmd.Flags().StringVar(&to, "to", "/opt/cni/bin", "directory where the runtime looks for CNI plugins")
	return cmd
}
