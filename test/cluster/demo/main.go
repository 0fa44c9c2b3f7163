// Command demo keeps the cluster of test/cluster up, with two VMs in it, and says
// what to try.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/homeport-cni/homeport/test/cluster"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "demo-cluster: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	bin := flag.String("bin", "", "`folder` of hack/cluster-bins.sh")
	out := flag.String("out", "out/demo-cluster", "`folder` for logs, disks and the kubeconfig")
	kernels := flag.String("kernels", "6.12 6.12 6.1", "a node for `each`")
	flag.Parse()
	root, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(*out)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Printf("demo-cluster: "+format+"\n", args...) }
	c, err := cluster.Start(ctx, cluster.Options{Root: root, Bin: *bin, Dir: dir, Kernels: strings.Fields(*kernels), Say: say})
	if err != nil {
		return err
	}
	defer c.Stop()
	if err := c.Install(ctx); err != nil {
		return err
	}
	if err := c.WaitAgents(ctx); err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\n", c.Kubeconfig(), *bin)
	<-ctx.Done()
	return nil
}
