package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/agent"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/kube"
	"github.com/homeport-cni/homeport/pkg/kube/live"
	"github.com/homeport-cni/homeport/pkg/peer"
)

func newRun() *cobra.Command {
	cfg := agent.Config{Version: version}
	var from source
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run --source kube|dir:PATH",
		Short: "keep this node as the desired state says, until stopped",
		Long: `Keeps this node's trunks, ports and firewall as the desired state says (VLANTrunk,
VLANNetwork, FirewallPolicy), and answers the CNI plugin. Desired state comes from
the Kubernetes API or from a directory of manifests; both are watched, and while
they cannot be read the last good state stays.

Stopping the agent stops nothing else: programs, rules and connections stay.
State is kept in ` + attach.DefaultRunDir + `; a file ` + attach.PathsFile + ` beside the
binary, {"runDir": "/..."}, moves it (the CNI plugin reads the one beside it).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			cfg.RecentLog = new(agent.RecentLog)
			cfg.Log = slog.New(slog.NewTextHandler(io.MultiWriter(cfg.RecentLog, os.Stderr), &slog.HandlerOptions{Level: level}))
			if err := from.check(cfg.SourceName); err != nil {
				return err // usage
			}
			if err := from.fabric(&cfg.Fabric); err != nil {
				return err // usage
			}
			return failed(serve(cmd.Context(), cfg, from))
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.SourceName, "source", "", "where desired state comes from: kube, or dir:PATH, a directory of manifests")
	f.StringVar(&from.node, "node", os.Getenv("NODE_NAME"), "this node's name, as Kubernetes and other agents have it (default: $NODE_NAME, or the host's where manifests are read)")
	f.StringVar(&from.kubeconfig, "kubeconfig", "", "how to reach the Kubernetes API (default: as a pod); for --source kube")
	f.StringVar(&cfg.BPFFS, "bpffs", "/sys/fs/bpf", "where the BPF file system is mounted, or a directory in it")
	f.StringVar(&cfg.MetricsAddr, "metrics-addr", "", "serve /metrics, /healthz and /readyz at this host:port")
	f.StringVar(&cfg.RuleLog, "rule-log", "/var/log/homeport/rules.log", "write what rules with log: true decide to this file; \"\" writes nothing")
	f.StringVar(&cfg.CNIBin, "cni-bin", "", "keep the CNI plugin in place in this directory, as install does (default: not looked at)")
	f.StringVar(&cfg.Fabric.Addr, "agents-addr", "", "answer the agents of other nodes at this host:port, for checks of the fabric")
	f.StringVar(&cfg.Fabric.KeyFile, "fabric-key", "", "file with the keys that agents know each other by, one a line (default: this agent is alone); with --source kube it may come later")
	f.StringVar(&from.agents, "agents", "", "agents of the other nodes, as n2=10.0.0.2:9748,n3=10.0.0.3:9748; for --source dir")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// source is where desired state comes from, as the command line says.
type source struct {
	dir              string // a directory of manifests; "" is Kubernetes
	node, kubeconfig string
	agents           string // of other nodes
}

// fabric reads how this agent is known to others, and they to it.
func (s *source) fabric(f *agent.Fabric) error {
	f.Node, f.Patient = s.node, s.dir == "" // an agent that does not start attaches no VM
	peers, err := agent.ParsePeers(s.agents)
	switch {
	case err != nil:
		return fmt.Errorf("--agents: %w", err)
	case len(peers) > 0 && s.dir == "":
		return errors.New("--agents goes with --source dir: in Kubernetes agents find each other")
	case (len(peers) > 0 || f.Addr != "") && f.KeyFile == "":
		return errors.New("--fabric-key is missing: agents take each other for what they are by a key that they share; make one with head -c 32 /dev/urandom | base64")
	}
	if len(peers) > 0 {
		f.Peers = func(context.Context) ([]peer.Peer, error) { return peers, nil }
	}
	return nil
}

// check reads --source, and wants what goes with it.
func (s *source) check(name string) error {
	const example = "as --source kube or --source dir:/etc/homeport"
	dir, ok := strings.CutPrefix(name, "dir:")
	switch {
	case name == "":
		return errors.New("--source is missing: name one, " + example)
	case name == "kube" && s.node == "":
		return errors.New("--node is missing: --source kube wants this node's name, as kubectl get nodes has it, or $NODE_NAME")
	case name == "kube":
		return nil
	case !ok || dir == "":
		return fmt.Errorf("--source %q: name the Kubernetes API or a directory of manifests, %s", name, example)
	case s.kubeconfig != "":
		return fmt.Errorf("--kubeconfig goes with --source kube, not with %q: leave it out", name)
	}
	s.dir = dir
	return nil
}

// open gives an agent its source, and whom to report to.
func (s *source) open(cfg *agent.Config) error {
	stored := cfg.Paths.State() + "/last-good.json"
	if s.dir != "" {
		cfg.Source = desired.NewDir(s.dir, stored)
		return nil
	}
	api, err := live.Config(s.kubeconfig)
	if err != nil {
		return err
	}
	from, err := desired.NewKube(live.New(api), s.node, stored)
	if err != nil {
		return err
	}
	reporter, err := kube.NewReporter(api, s.node, cfg.Log)
	if err != nil {
		return err
	}
	live.Log(cfg.Log)
	from.TellOfPods(reporter.PodChanged)
	if cfg.Fabric.KeyFile != "" {
		cfg.Fabric.Peers, cfg.Fabric.Conductors = reporter.Peers, reporter
	}
	cfg.Source, cfg.Cluster = from, true
	cfg.Report = func(ctx context.Context, node agent.View) error { return reporter.Run(ctx, node) }
	return nil
}

func serve(ctx context.Context, cfg agent.Config, from source) error {
	if from.dir == "" {
		spareMemory()
	}
	var err error
	if cfg.Paths, err = attach.FindPaths(); err != nil {
		return err
	}
	if err := from.open(&cfg); err != nil {
		return err
	}
	a, err := agent.New(cfg)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// spareMemory has garbage collected sooner than Go would. An agent that keeps what a
// large cluster wants of it is at rest most of the time, and its memory is dearer to a
// node than that. The limit is a soft one on what Go has for itself, the mapped binary
// aside: an agent that needs more gets it, at the price of CPU time. See
// docs/performance.md.
func spareMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(96 << 20)
	}
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
