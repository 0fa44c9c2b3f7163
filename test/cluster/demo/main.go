// Command demo keeps the cluster of test/cluster up, with two VMs in it, and says
// what to try.
//
//	demo -bin FOLDER          start it; Ctrl-C ends it
//	demo on NODE COMMAND...   run a command on a node of the running cluster
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
	bin := flag.String("bin", "", "`folder` of hack/cluster-bins.sh")
	out := flag.String("out", "out/demo-cluster", "`folder` for logs, disks and the kubeconfig")
	kernels := flag.String("kernels", "6.12 6.12 6.1", "a node for `each`, two or more")
	flag.Parse()
	o := cluster.Options{Bin: *bin, Kernels: strings.Fields(*kernels), Guests: cluster.DemoGuests,
		Say: func(format string, args ...any) { fmt.Printf("demo-cluster: "+format+"\n", args...) }}
	var err, err2 error
	o.Root, err = filepath.Abs(".")
	o.Dir, err2 = filepath.Abs(*out)
	if err = errors.Join(err, err2); err == nil {
		if flag.Arg(0) == "on" && flag.NArg() > 2 {
			err = on(ctx, o, flag.Arg(1), flag.Args()[2:])
		} else {
			err = run(ctx, o)
		}
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "demo-cluster: error:", err)
		os.Exit(1)
	}
}

// on runs a command on a node of the cluster that another process keeps up.
func on(ctx context.Context, o cluster.Options, name string, argv []string) error {
	c, err := cluster.Attach(o)
	if err != nil {
		return fmt.Errorf("%w: does make demo-cluster run?", err)
	}
	for _, n := range c.Nodes {
		if n.Name == name {
			outcome, err := n.Run(ctx, strings.Join(argv, " "))
			fmt.Print(outcome.Out)
			if err == nil && outcome.Code != 0 {
				err = fmt.Errorf("exit code %d", outcome.Code)
			}
			return err
		}
	}
	return fmt.Errorf("no node %s", name)
}

func run(ctx context.Context, o cluster.Options) error {
	if err := errors.Join(os.RemoveAll(o.Dir), os.MkdirAll(o.Dir, 0o755)); err != nil {
		return err
	}
	c, err := cluster.Start(ctx, o)
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
	if err := errors.Join(c.MakeTrunk(ctx), c.MakeDemoVMs(ctx)); err != nil {
		return err
	}
	fmt.Println("demo-cluster: does vm1 reach vm2 on tcp/80, and not on tcp/22?")
	if err := c.ProveDemo(ctx); err != nil {
		return err
	}
	fmt.Printf(try, c.Kubeconfig(), o.Bin)
	<-ctx.Done()
	return nil
}

const try = `
The cluster is up. In another shell:

  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get nodes,pods -A -o wide
  kubectl get vtrunk,vtnode,vnet,fwp
  kubectl get vmports,vmid -A
  kubectl -n homeport-system exec ds/homeport-agent -- homeportctl status

  out/bin/demo-cluster on node1 guestctl vm1 tcp 10.100.0.20 80    # rule 1002 allows it
  out/bin/demo-cluster on node1 guestctl vm1 tcp 10.100.0.20 22    # no rule does
  kubectl -n shop label --overwrite vmi vm1 role=other             # now port 80 is closed too
  out/bin/demo-cluster on node2 homeportctl policy show shop
  out/bin/demo-cluster on node1 guestctl vm1 ping 10.100.0.20 600 2000 &
  kubectl -n homeport-system rollout restart ds homeport-agent     # and no ping is lost
  kubectl delete vlannetwork vlan100 --wait=false; kubectl get vnet  # it is in use, and stays

Ctrl-C here ends it all.
`
