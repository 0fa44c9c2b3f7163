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
	"github.com/homeport-cni/homeport/test/vm/wire"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	bin := flag.String("bin", "", "`folder` of hack/cluster-bins.sh")
	out := flag.String("out", "out/demo-cluster", "`folder` for logs, disks and the kubeconfig")
	kernels := flag.String("kernels", "6.12 6.12 6.1", "a node for `each`, two or more")
	check := flag.Bool("check", false, "end when all is seen to work")
	flag.Parse()
	o := cluster.Options{Bin: *bin, Kernels: strings.Fields(*kernels), Guests: guests,
		Say: func(format string, args ...any) { fmt.Printf("demo-cluster: "+format+"\n", args...) }}
	var err, err2 error
	o.Root, err = filepath.Abs(".")
	o.Dir, err2 = filepath.Abs(*out)
	if err = errors.Join(err, err2); err == nil {
		if flag.Arg(0) == "on" && flag.NArg() > 2 {
			err = on(ctx, o, flag.Arg(1), flag.Args()[2:])
		} else {
			err = run(ctx, o, *check)
		}
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "demo-cluster: error:", err)
		os.Exit(1)
	}
}

// guests are the VMs, the first beside node1, the second beside node2.
var guests = []wire.Guest{
	{Name: "vm1", MAC: "00:50:56:aa:01:01", IP: "10.100.0.10/24"},
	{Name: "vm2", MAC: "00:50:56:aa:01:02", IP: "10.100.0.20/24"},
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

func run(ctx context.Context, o cluster.Options, check bool) error {
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
	if err := makeVMs(ctx, c); err != nil {
		return err
	}
	if err := prove(ctx, c); err != nil {
		return err
	}
	if check {
		return nil
	}
	fmt.Printf(try, c.Kubeconfig(), o.Bin)
	<-ctx.Done()
	return nil
}

// makeVMs makes the network and the VMs: their launcher pods are Kubernetes', the VMs
// themselves run beside the nodes, each at a NIC that becomes its launcher's tap.
func makeVMs(ctx context.Context, c *cluster.Cluster) error {
	if _, err := c.Kubectl(ctx, "", "apply", "-f", filepath.Join(c.Root, "test/cluster/testdata/demo.yaml")); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "", "-n", "shop", "wait", "--for=create", "--timeout=3m", "net-attach-def/vlan100"); err != nil {
		return err
	}
	for i, g := range guests {
		role := []string{"role: web", "role: db"}[i]
		v := &cluster.VM{Namespace: "shop", Name: g.Name, Node: c.Nodes[i].Name, Network: "vlan100",
			MAC: g.MAC, Address: g.IP, Labels: role, Tap: "tap-" + g.Name}
		if _, err := c.CreateVM(ctx, v); err != nil {
			return err
		}
		if _, err := c.Kubectl(ctx, "", "-n", "shop", "wait", "--for=condition=Ready", "--timeout=5m", "pod/"+g.Name); err != nil {
			return err
		}
		if err := must(ctx, c.Nodes[i], fmt.Sprintf(giveTap, g.Name)); err != nil {
			return err
		}
		if err := c.RunVM(ctx, v); err != nil {
			return err
		}
		fmt.Printf("demo-cluster: %s (%s, %s) runs on %s\n", g.Name, g.MAC, g.IP, c.Nodes[i].Name)
	}
	return nil
}

// giveTap moves a VM's NIC into its launcher pod, whose only process has the pod's
// name for a host name.
const giveTap = `for p in $(pidof probe); do tr '\0' '\n' </proc/$p/environ | grep -qx HOSTNAME=%[1]s && ip link set tap-%[1]s netns $p && exit 0; done; exit 1`

// prove asks vm1, the web VM, what it reaches: db's port 80, and not its port 22.
func prove(ctx context.Context, c *cluster.Cluster) error {
	fmt.Println("demo-cluster: does vm1 reach vm2 on tcp/80, and not on tcp/22?")
	if err := must(ctx, c.Nodes[0], "for i in $(seq 60); do guestctl vm1 tcp 10.100.0.20 80 2000 && exit 0; done; exit 1"); err != nil {
		return err
	}
	return must(ctx, c.Nodes[0], "! guestctl vm1 tcp 10.100.0.20 22 2000")
}

func must(ctx context.Context, n *cluster.Node, script string) error {
	o, err := n.Run(ctx, script)
	fmt.Print(o.Out)
	if err == nil && o.Code != 0 {
		err = fmt.Errorf("%s$ %s: exit code %d: %s", n.Name, script, o.Code, o.Out)
	}
	return err
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
