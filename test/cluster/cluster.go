package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/test/cluster/node"
	"github.com/homeport-cni/homeport/test/vm"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// Options say what cluster it is to be.
type Options struct {
	Root    string       // the checkout
	Bin     string       // folder of hack/cluster-bins.sh
	Dir     string       // takes logs, disks and consoles; must exist
	Kernels []string     // a node for each: node1, node2...
	Guests  []wire.Guest // VMs, the first beside node1 and so on
	Say     func(format string, args ...any)
}

// Cluster is a running cluster.
type Cluster struct {
	Options
	Nodes   []*Node
	guests  []*vm.Machine
	plane   *plane
	trunk   trunk
	egress  net.Listener
	dir     string
	helpers string // folder of programs for nodes and pods
	began   time.Time
}

// Start starts the control plane and boots the nodes; they need not be ready when
// it returns. On an error nothing is left running.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{Options: o, dir: o.Dir, helpers: filepath.Join(o.Dir, "helpers"), began: time.Now()}
	if err := c.start(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// statePath is where a running cluster says how it is reached.
func (c *Cluster) statePath() string { return filepath.Join(c.dir, "state.json") }

type state struct {
	Kernels []string
	Ports   [][2]int // of each node: kubelet, commands
}

func (c *Cluster) writeState() error {
	s := state{Kernels: c.Kernels}
	for _, n := range c.Nodes {
		s.Ports = append(s.Ports, [2]int{n.kubeletPort, n.execPort})
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(c.statePath(), b, 0o600)
}

// Attach gives a cluster that another process started in o.Dir. What that process
// holds, machines and API server, can be used but not stopped.
func Attach(o Options) (*Cluster, error) {
	c := &Cluster{Options: o, dir: o.Dir, began: time.Now(), plane: &plane{bin: o.Bin, dir: o.Dir}}
	b, err := os.ReadFile(c.statePath())
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	for i, series := range s.Kernels {
		n, err := c.newNode(i+1, series)
		if err != nil {
			return nil, err
		}
		n.kubeletPort, n.execPort = s.Ports[i][0], s.Ports[i][1]
		c.Nodes = append(c.Nodes, n)
	}
	return c, nil
}

func (c *Cluster) say(format string, args ...any) {
	if c.Say != nil {
		c.Say("%5.1f s  %s", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (c *Cluster) start(ctx context.Context) error {
	users := map[string]string{"multus": "multus"}
	var gateways []net.IP
	for i, series := range c.Kernels {
		n, err := c.newNode(i+1, series)
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, n)
		users["system:node:"+n.Name] = "system:nodes"
		gateways = append(gateways, net.ParseIP(n.gateway()))
	}
	if err := c.build(ctx); err != nil {
		return err
	}
	c.say("images and programs made")
	if err := c.serveEgress(); err != nil {
		return err
	}
	var err error
	if c.plane, err = newPlane(c.Bin, c.dir, c.egress.Addr().String(), gateways, users); err != nil {
		return err
	}
	booted := make(chan error, 1)
	go func() { booted <- c.bootNodes() }()
	if err := errors.Join(c.plane.start(ctx), <-booted); err != nil {
		return err
	}
	c.say("API server ready, nodes booting")
	return c.writeState()
}

// serveEgress listens where the API server asks for ways to kubelets. The path of a
// socket must be short.
func (c *Cluster) serveEgress() error {
	dir, err := os.MkdirTemp("", "hp-egress-")
	if err != nil {
		return err
	}
	if c.egress, err = net.Listen("unix", filepath.Join(dir, "s")); err != nil {
		return err
	}
	go serveEgress(c.egress, func(name string) (int, bool) {
		for _, n := range c.Nodes {
			if n.Name == name {
				return n.kubeletPort, true
			}
		}
		return 0, false
	})
	return nil
}

// build compiles the programs of nodes and pods, and makes the images.
func (c *Cluster) build(ctx context.Context) error {
	box, agent := filepath.Join(c.dir, "box"), filepath.Join(c.dir, "agent")
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = c.Root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return nil
	}
	if err := os.MkdirAll(c.helpers, 0o755); err != nil {
		return err
	}
	err := run("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", c.helpers+"/",
		"./test/cluster/init", "./test/cluster/probe", "./test/vm/guest", "./test/vm/guestctl")
	if err != nil {
		return err
	}
	if err := run("hack/image-layout.sh", "-o", agent, "amd64"); err != nil {
		return err
	}
	busybox, err := findProgram("busybox")
	if err != nil {
		return err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return err
	}
	agent = filepath.Join(agent, "amd64")
	if err := errors.Join(
		boxFolder(box, busybox, fields(applets), map[string]string{"bin/probe": filepath.Join(c.helpers, "probe")}),
		boxFolder(agent, busybox, []string{"sh", "grep", "mount", "cat", "ls"}, nil),
	); err != nil {
		return err
	}
	name, err := c.agentImage()
	if err != nil {
		return err
	}
	archive := filepath.Join(c.dir, "images.tar")
	if err := writeImages(archive, map[string]string{pauseImage: box, boxImage: box, name: agent}); err != nil {
		return err
	}
	return c.unpackImages(archive)
}

// agentImage is what deploy/daemonset.yaml calls Homeport's image.
func (c *Cluster) agentImage() (string, error) {
	b, err := os.ReadFile(filepath.Join(c.Root, "deploy/daemonset.yaml"))
	if err != nil {
		return "", err
	}
	_, rest, ok := strings.Cut(string(b), "image: ")
	if !ok {
		return "", errors.New("deploy/daemonset.yaml names no image")
	}
	return fields([]byte(rest))[0], nil
}

// bootNodes makes what nodes boot from, and starts them.
func (c *Cluster) bootNodes() error {
	initramfs := map[string]string{}
	for _, n := range c.Nodes {
		file, ok := initramfs[n.Kernel.Series]
		if !ok || len(c.guestsOf(n)) > 0 {
			file = filepath.Join(c.dir, n.Name+".cpio")
			if err := c.writeInitramfs(file, n); err != nil {
				return err
			}
			if len(c.guestsOf(n)) == 0 {
				initramfs[n.Kernel.Series] = file
			}
		}
		n.initramfs = file
		if err := c.makeDisk(n); err != nil {
			return err
		}
		if err := n.boot(); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends everything; what was logged stays in Dir.
func (c *Cluster) Stop() {
	for _, g := range c.guests {
		g.Stop(0)
	}
	for _, n := range c.Nodes {
		n.off()
	}
	c.trunk.close()
	c.plane.stop()
	if c.egress != nil {
		c.egress.Close()
		os.RemoveAll(filepath.Dir(c.egress.Addr().String()))
	}
	for _, pattern := range []string{"*.cpio", "*.disk", "images.tar", "store", "etcd", "box", "agent", "helpers"} {
		files, _ := filepath.Glob(filepath.Join(c.dir, pattern))
		for _, f := range files {
			os.RemoveAll(f)
		}
	}
}

// StopAPI takes the API server away, StartAPI brings it back with the same objects.
func (c *Cluster) StopAPI() { c.plane.api.stop() }

// StartAPI returns when the API server is ready; one that runs is left alone.
func (c *Cluster) StartAPI(ctx context.Context) error {
	select {
	case <-c.plane.api.done:
		return c.plane.startAPI(ctx)
	default:
		return nil
	}
}

// Kubeconfig is the administrator's.
func (c *Cluster) Kubeconfig() string { return c.plane.kubeconfig() }

// Kubectl runs kubectl as the administrator and gives what it printed.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Bin, "kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+c.dir) // its cache of what the server has
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), err
}

// Install puts in place what a cluster with KubeVirt and Multus has, then Homeport.
func (c *Cluster) Install(ctx context.Context) error {
	for _, path := range []string{"test/crds", "test/cluster/testdata/kubevirt.yaml", "test/cluster/testdata/multus.yaml", "deploy/daemonset.yaml"} {
		if _, err := c.Kubectl(ctx, "", "apply", "--server-side", "-f", filepath.Join(c.Root, path)); err != nil {
			return err
		}
	}
	c.say("Homeport installed")
	return nil
}

// Probe asks the probe in a pod of a node; see test/cluster/probe for what.
func (n *Node) Probe(ctx context.Context, podIP, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return node.Probe(ctx, n.host(), podIP, path, answer)
}

// WaitAgents waits for an agent on every node that says that all is well there.
func (c *Cluster) WaitAgents(ctx context.Context) error {
	for _, n := range c.Nodes {
		if _, err := c.Kubectl(ctx, "", "wait", "--for=create", "--timeout=5m", "node/"+n.Name); err != nil {
			return err
		}
	}
	if _, err := c.Kubectl(ctx, "", "wait", "--for=condition=Ready", "--timeout=5m", "node", "--all"); err != nil {
		return err
	}
	c.say("nodes ready")
	_, err := c.Kubectl(ctx, "", "-n", "homeport-system", "rollout", "status", "--timeout=5m", "daemonset/homeport-agent")
	c.say("agents ready")
	return err
}
