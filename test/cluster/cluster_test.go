package cluster

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startCluster starts the cluster of the tests and has it ready.
func startCluster(t *testing.T) *Cluster {
	t.Helper()
	if os.Getenv("HOMEPORT_CLUSTER") != "1" {
		t.Skip("boots a cluster: make test-cluster runs it")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := exec.Command(filepath.Join(root, "hack/cluster-bins.sh"), "--dir").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "out/cluster")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	kernels := []string{"6.12", "6.12", "6.1"}
	if k := os.Getenv("HOMEPORT_CLUSTER_KERNELS"); k != "" {
		kernels = strings.Fields(k)
	}
	// It must end also when the test's own time is up.
	c, err := Start(context.Background(), Options{Root: root, Bin: strings.TrimSpace(string(bin)), Dir: dir, Kernels: kernels, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	if err := c.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitAgents(t.Context()); err != nil {
		c.report(t)
		t.Fatal(err)
	}
	return c
}

// report tells what a failure may be explained by.
func (c *Cluster) report(t *testing.T) {
	ctx := context.Background()
	for _, args := range []string{
		"get node,pod -A -o wide", "get vtrunk,vtnode,vnet,fwp -o wide", "get vmports,vmid -A -o wide",
		"get events -A --sort-by=.lastTimestamp",
		"-n homeport-system logs -l app.kubernetes.io/component=agent --tail=30 --prefix",
		"-n homeport-system logs -l app.kubernetes.io/component=controller --tail=20",
	} {
		out, err := c.Kubectl(ctx, "", strings.Fields(args)...)
		t.Logf("$ kubectl %s\n%s%v", args, out, err)
	}
	for _, n := range c.Nodes {
		o, err := n.Run(ctx, "tail -n 15 /var/log/kubelet.log /var/log/containerd.log; free -m; ps | sort -rn -k 3 | head -3; ip -br link; bridge vlan")
		t.Logf("%s: %v\n%s%s", n.Name, err, o.Out, n.machine.LastWords())
	}
}

func TestCluster(t *testing.T) {
	c := startCluster(t)
	c.report(t)
}
