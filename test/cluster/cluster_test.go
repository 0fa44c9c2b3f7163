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
	if os.Getenv("HOMEPORT_CLUSTER_NODES") == "" {
		t.Skip("boots a cluster: make test-cluster runs it")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	bin := os.Getenv("HOMEPORT_CLUSTER_BIN")
	if bin == "" {
		out, err := exec.Command(filepath.Join(root, "hack/cluster-bins.sh"), "--dir").Output()
		if err != nil {
			t.Fatal(err)
		}
		bin = strings.TrimSpace(string(out))
	}
	o := Options{Root: root, Bin: bin, Dir: filepath.Join(root, "out/cluster"), Say: t.Logf, Guests: DemoGuests,
		Kernels: strings.Fields(os.Getenv("HOMEPORT_CLUSTER_NODES"))}
	if dir := os.Getenv("HOMEPORT_CLUSTER_ATTACH"); dir != "" {
		o.Dir = dir
		c, err := Attach(o)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := Start(t.Context(), o)
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
		o, err := n.Run(ctx, "tail -n 15 /var/log/kubelet.log; homeportctl status; homeportctl ports; ip -br link; bridge vlan")
		t.Logf("%s: %v\n%s%s", n.Name, err, o.Out, n.lastWords())
	}
}

// TestCluster runs all scenarios in one cluster. Each has objects of its own, but for
// the trunk, so that any of them can be run alone:
//
//	make test-cluster SCENARIO=policy
func TestCluster(t *testing.T) {
	c := startCluster(t)
	if err := c.MakeTrunk(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name string
		run  func(*scenario)
	}{
		{"attach", testAttach},
		{"check", testCheck},
		{"required", testRequired},
		{"shop", testDemo},
		{"api", testAPI},
		{"chained", testChained},
		{"policy", testPolicy},
		{"labels", testLabels},
		{"learned", testLearned},
		{"migrate", testMigrate},
		{"migratemac", testMigrateMAC},
		{"podpolicy", testPodPolicy},
		{"podpeers", testPodPeers},
		{"restart", testRestart},
		{"force", testForce},
		{"notrunk", testNoTrunk},
		{"inuse", testInUse},
		{"resource", testResource},
		{"reboot", testReboot},
	} {
		t.Run(s.name, func(t *testing.T) {
			sc := newScenario(t, c, s.name)
			s.run(sc)
		})
	}
}
