package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// trunkYAML is the trunk of all networks here, on the nodes that have the label.
const trunkYAML = `
apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: trunk0}
spec:
  nodeSelector: {trunk: "yes"}
  bridge: {name: br-trunk0, managed: true}
  uplink: {interface: eth1, allowedVLANs: "100-199"}
  inlineConfig: Allow
`

// MakeTrunk makes the trunk, on all nodes.
func (c *Cluster) MakeTrunk(ctx context.Context) error {
	_, err := c.Kubectl(ctx, "", strings.Fields("label --overwrite node --all trunk=yes")...)
	_, err2 := c.Kubectl(ctx, trunkYAML, "apply", "-f", "-")
	return errors.Join(err, err2)
}

// DemoGuests are the VMs of the demo, with kernels of their own: the first runs beside
// node1, the second beside node2.
var DemoGuests = []wire.Guest{
	{Name: "vm1", MAC: "00:50:56:aa:01:01", IP: "10.100.0.10/24"},
	{Name: "vm2", MAC: "00:50:56:aa:01:02", IP: "10.100.0.20/24"},
}

// DemoFile has the network and the rules of the demo.
func (c *Cluster) DemoFile() string { return filepath.Join(c.Root, "test/cluster/testdata/demo.yaml") }

// MakeDemoVMs makes them: their launcher pods are Kubernetes', the VMs themselves are
// the DemoGuests, each at a NIC that becomes its launcher's tap.
func (c *Cluster) MakeDemoVMs(ctx context.Context) error {
	if _, err := c.Kubectl(ctx, "", "apply", "-f", c.DemoFile()); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "", "-n", "shop", "wait", "--for=create", "--timeout=3m", "net-attach-def/vlan100"); err != nil {
		return err
	}
	for i, g := range DemoGuests {
		role := []string{"role: web", "role: db"}[i]
		v := &VM{Namespace: "shop", Name: g.Name, Node: c.Nodes[i].Name, Network: "vlan100",
			MAC: g.MAC, Address: g.IP, Labels: role, Tap: "tap-" + g.Name}
		if _, err := c.CreateVM(ctx, v); err != nil {
			return err
		}
		if _, err := c.Kubectl(ctx, "", "-n", "shop", "wait", "--for=condition=Ready", "--timeout=5m", "pod/"+g.Name); err != nil {
			return err
		}
		if err := c.Nodes[i].must(ctx, fmt.Sprintf(giveTap, g.Name)); err != nil {
			return err
		}
		if err := c.RunVM(ctx, v); err != nil {
			return err
		}
		c.say("%s (%s, %s) runs on %s", g.Name, g.MAC, g.IP, c.Nodes[i].Name)
	}
	return nil
}

// giveTap moves a VM's NIC into its launcher pod, whose only process has the pod's
// name for a host name.
const giveTap = `for p in $(pidof probe); do tr '\0' '\n' </proc/$p/environ | grep -qx HOSTNAME=%[1]s && ip link set tap-%[1]s netns $p && exit 0; done; exit 1`

// ProveDemo asks vm1, the web VM, what it reaches: port 80 of vm2, and not its port 22.
func (c *Cluster) ProveDemo(ctx context.Context) error {
	return c.Nodes[0].must(ctx, "for i in $(seq 60); do guestctl vm1 tcp 10.100.0.20 80 2000 && break; done || exit 1; ! guestctl vm1 tcp 10.100.0.20 22 2000")
}

// must runs a command that has to succeed.
func (n *Node) must(ctx context.Context, script string) error {
	o, err := n.Run(ctx, script)
	if err == nil && o.Code != 0 {
		err = fmt.Errorf("%s$ %s: exit code %d: %s", n.Name, script, o.Code, o.Out)
	}
	return err
}
