package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/kube/controller"
	"github.com/homeport-cni/homeport/pkg/kube/live"
)

func newController() *cobra.Command {
	var cfg controller.Config
	var kubeconfig string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "keep what concerns the cluster as a whole, until stopped",
		Long: `Gives namespaces the NetworkAttachmentDefinitions of their VLANNetworks, sums up in
the status of VLANTrunks, VLANNetworks, FirewallPolicies, AddressSets and
ServiceSets what nodes report, keeps what is in use from being deleted, and
clears away what nodes reported that are gone. It makes the Secret ` + controller.FabricKeySecret + `,
by which agents know each other, if there is none. One replica works at a time: the others wait for its Lease.

Nodes do not need it: trunks, ports and the firewall go on without.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.LeaderElect && cfg.Namespace == "" {
				return errors.New("--namespace is missing: name the namespace for the Lease, or want --leader-elect=false for a single replica")
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			cfg.WatchAgents = cfg.Namespace != ""
			cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			return failed(control(cmd.Context(), cfg, kubeconfig))
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "how to reach the Kubernetes API (default: as a pod)")
	f.StringVar(&cfg.Namespace, "namespace", cmp.Or(os.Getenv("POD_NAMESPACE"), "homeport-system"), "namespace of the Lease, and of the agents' pods and Secret; $POD_NAMESPACE if that is set")
	f.BoolVar(&cfg.LeaderElect, "leader-elect", true, "wait for the Lease "+controller.LeaseName+" before anything is written")
	f.StringVar(&cfg.MetricsAddr, "metrics-addr", "", "serve /metrics at this host:port")
	f.StringVar(&cfg.HealthAddr, "health-addr", "", "serve /healthz and /readyz at this host:port")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

func control(ctx context.Context, cfg controller.Config, kubeconfig string) error {
	var err error
	if cfg.REST, err = live.Config(kubeconfig); err != nil {
		return err
	}
	controller.LogTo(cfg.Log)
	c, err := controller.New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}
