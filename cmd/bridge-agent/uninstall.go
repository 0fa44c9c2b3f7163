package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/agent"
	"github.com/homeport-cni/homeport/pkg/attach"
)

func newUninstall() *cobra.Command {
	cfg := agent.UninstallConfig{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "remove from this node all that Homeport made there",
		Long: `Removes programs and maps, managed bridges (uplinks are set free), VLANs that were
added to adopted bridges (these stay), chains in the host's iptables, the state
directory and the CNI plugin. Stop the agent first. It refuses while ports live, and
can be repeated.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Paths, err = attach.FindPaths(); err != nil {
				return failed(err)
			}
			done, err := agent.Uninstall(cfg)
			for _, line := range done {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			if err == nil && len(done) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing of Homeport is on this node")
			}
			return failed(err)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.CNIBin, "cni-bin", "/opt/cni/bin", `directory of the CNI plugin; "" leaves the plugin`)
	f.StringVar(&cfg.BPFFS, "bpffs", "/sys/fs/bpf", "where the BPF file system is mounted, or a directory in it")
	f.BoolVar(&cfg.Force, "force", false, "end living ports too: their VMs lose these interfaces until they are started again")
	return cmd
}
