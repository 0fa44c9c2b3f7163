// Bridge-agent is Homeport's node agent: it keeps trunks and ports right and the
// firewall compiled. Everything it builds stays in force when it ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/agent"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// version is set by the linker.
var version = "(devel)"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	var code exitError
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "bridge-agent:", err)
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "bridge-agent",
		Short: "Homeport's node agent: trunks, ports and their firewall",
		Example: `  bridge-agent doctor                         what this kernel and node can do
  bridge-agent install --to /opt/cni/bin      put the CNI plugin in place
  bridge-agent run --source dir:/etc/homeport keep this node as the manifests say`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newRun(), newInstall(), newDoctor())
	return root
}

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
			return run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.SourceName, "source", "", "where desired state comes from: dir:PATH, a directory of manifests")
	f.StringVar(&cfg.BPFFS, "bpffs", "/sys/fs/bpf", "where the BPF file system is mounted, or a directory in it")
	f.StringVar(&cfg.MetricsAddr, "metrics-addr", "", "serve /metrics, /healthz and /readyz at this host:port")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	_ = cmd.MarkFlagRequired("source")
	return cmd
}

func run(ctx context.Context, cfg agent.Config) error {
	dir, ok := strings.CutPrefix(cfg.SourceName, "dir:")
	if !ok || dir == "" {
		return fmt.Errorf("--source %q: this version reads dir:PATH only", cfg.SourceName)
	}
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
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the plugin's binary (default: cni-plugin beside this one)")
	cmd.Flags().StringVar(&to, "to", "/opt/cni/bin", "directory where the runtime looks for CNI plugins")
	return cmd
}
