package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/homeport-cni/homeport/test/cluster/node"
	"github.com/homeport-cni/homeport/test/vm"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// Node is a machine of the cluster.
type Node struct {
	Name        string
	Kernel      vm.Kernel
	c           *Cluster
	index       int
	kubeletPort int // on loopback
	execPort    int
	agentPort   int
	initramfs   string
	machine     *vm.Machine
	alone       bool // no VM is beside it any more
}

// Sizes of a node; one that runs a dozen pods uses half of its memory.
const (
	nodeMem  = 2304 // MiB
	nodeCPUs = 1
)

// modules that nodes need beside those of the lab's machines.
var modules = []string{"virtio_blk", "overlay", "br_netfilter"}

func (c *Cluster) newNode(index int, series string) (*Node, error) {
	k, err := vm.FindKernel(series)
	if err != nil {
		return nil, err
	}
	k.Args = vm.CoarseTimers
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	return &Node{Name: "node" + strconv.Itoa(index), Kernel: k, c: c, index: index, kubeletPort: ports[0], execPort: ports[1], agentPort: ports[2]}, nil
}

func (n *Node) address() string { return fmt.Sprintf("10.10.%d.15", n.index) }
func (n *Node) gateway() string { return fmt.Sprintf("10.10.%d.2", n.index) }
func (n *Node) disk() string    { return filepath.Join(n.c.dir, n.Name+".disk") }

// mac of its NICs: 0 leads to the control plane, 1 is on the trunk, 2
// leads to a VM.
func (n *Node) mac(nic int) string { return fmt.Sprintf("52:54:00:68:7%d:%02x", nic, n.index) }

// guestsOf are the VMs beside a node: at most one.
func (c *Cluster) guestsOf(n *Node) []wire.Guest {
	if n.alone || n.index > len(c.Options.Guests) {
		return nil
	}
	g := c.Options.Guests[n.index-1]
	g.NodeMAC = n.mac(2)
	g.Iface = "tap-" + g.Name
	g.Control = filepath.Join(wire.PortDir, wire.ControlPort(g.Name))
	return []wire.Guest{g}
}

func (c *Cluster) writeInitramfs(file string, n *Node) error {
	cache, err := vm.CacheDir()
	if err != nil {
		return err
	}
	debian := filepath.Join(cache, "containerd")
	s := vm.Spec{Modules: modules, Files: []vm.Copy{
		{Host: filepath.Join(c.Bin, "kubelet"), Guest: "/usr/bin/kubelet"},
		{Host: debian + "/usr/sbin/runc", Guest: "/usr/sbin/runc"},
		{Host: filepath.Join(c.dir, "agent/amd64/usr/local/bin/homeportctl"), Guest: "/usr/local/bin/homeportctl"}, // for when there is no pod to ask it in
	}}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		s.Files = append(s.Files, vm.Copy{Host: debian + "/usr/bin/" + name, Guest: "/usr/bin/" + name})
	}
	return vm.WriteNode(file, n.Kernel, s, c.helpers, c.guestsOf(n))
}

// boot starts the machine.
func (n *Node) boot() (err error) {
	m := vm.NewMachine(n.Name, n.Kernel, n.initramfs, filepath.Join(n.c.dir, n.Name+".console"), nodeMem, nodeCPUs)
	m.Args("-netdev", fmt.Sprintf("user,id=mgmt,net=10.10.%d.0/24,host=%s,hostfwd=tcp:127.0.0.1:%d-%s:%d,hostfwd=tcp:127.0.0.1:%d-%s:%d,hostfwd=tcp:127.0.0.1:%d-%s:%d",
		n.index, n.gateway(), n.kubeletPort, n.address(), node.KubeletPort, n.execPort, n.address(), node.ExecPort, n.agentPort, n.address(), node.AgentPort),
		"-device", "virtio-net-pci,romfile=,netdev=mgmt,mac="+n.mac(0),
		"-drive", "file="+n.disk()+",if=none,id=disk,format=raw,cache=unsafe,discard=unmap",
		"-device", "virtio-blk-pci,drive=disk")
	trunkEnd, err := m.NIC(n.mac(1))
	if err != nil {
		return err
	}
	n.c.trunk.plug(n.Name, trunkEnd)
	if n.machine == nil {
		for _, g := range n.c.guestsOf(n) {
			guest, err := m.Guest(g, vm.Folders{Helpers: n.c.helpers, Work: n.c.dir, Out: n.c.dir})
			if err != nil {
				return err
			}
			n.c.guests = append(n.c.guests, guest)
			defer func() { err = errors.Join(err, guest.Start()) }() // after its node
		}
	}
	n.machine = m
	return m.Start()
}

// lastWords are those of its console.
func (n *Node) lastWords() string {
	if n.machine == nil {
		return ""
	}
	return n.machine.LastWords()
}

func (n *Node) off() {
	if n.machine != nil {
		n.machine.Stop(0)
	}
}

// Reboot switches the node off, as a power failure does, and on again. A VM beside it
// is off as well, and stays so.
func (n *Node) Reboot() error {
	n.off()
	if len(n.c.guestsOf(n)) > 0 {
		n.alone = true
		if err := n.c.writeInitramfs(n.initramfs, n); err != nil { // its own, for it had a VM
			return err
		}
	}
	return n.boot()
}

func (n *Node) host() string { return "127.0.0.1:" + strconv.Itoa(n.execPort) }

// Run runs a shell command on the node. The error is that it could not be asked.
func (n *Node) Run(ctx context.Context, script string) (node.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	o, err := node.Run(ctx, n.host(), node.Command{Argv: []string{"sh", "-c", script}})
	if err != nil {
		return o, fmt.Errorf("%s: %w", n.Name, err)
	}
	return o, nil
}
