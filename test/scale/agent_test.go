package scale

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// node is a place for an agent: a network namespace with nothing but a loopback
// interface, a BPF file system, and the state of agents that ran before.
type node struct {
	testing.TB
	*proxy
	name  string
	dir   string
	paths attach.Paths
}

// newNode makes a node whose agents have the rights that the manifests give. The
// test's own thread is in its namespace from then on.
func newNode(tb testing.TB, binary, name string, cfg *rest.Config) *node {
	tb.Helper()
	runtime.LockOSThread() // never unlocked: the thread goes with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	n := &node{TB: tb, proxy: newProxy(tb, cfg, l), name: name, dir: dir, paths: attach.Paths{RunDir: filepath.Join(dir, "run")}}
	text, err := json.Marshal(n.paths)
	if err != nil {
		tb.Fatal(err)
	}
	for _, err := range []error{
		os.Mkdir(n.bpffs(), 0o700), unix.Mount("bpf", n.bpffs(), "bpf", 0, "mode=0700"),
		os.Link(binary, filepath.Join(dir, "bridge-agent")), os.WriteFile(filepath.Join(dir, attach.PathsFile), text, 0o600),
	} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(n.bpffs(), unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return n
}

func (n *node) bpffs() string { return filepath.Join(n.dir, "bpf") }

// agent is a process.
type agent struct {
	*node
	cmd   *exec.Cmd
	log   bytes.Buffer
	begun time.Time
}

// start starts an agent, which ends with the test at the latest.
func (n *node) start() *agent {
	n.Helper()
	a := &agent{node: n, begun: time.Now()}
	a.cmd = exec.Command(filepath.Join(n.dir, "bridge-agent"), "run", "--source", "kube", "--node", n.name, "--kubeconfig", n.kubeconfig, "--bpffs", n.bpffs())
	a.cmd.Stderr = &a.log
	if err := a.cmd.Start(); err != nil {
		n.Fatal(err)
	}
	n.Cleanup(a.stop)
	return a
}

func (a *agent) stop() {
	if a.cmd.ProcessState != nil {
		return
	}
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	if err := a.cmd.Wait(); err != nil {
		a.Errorf("the agent: %v", err)
	}
	if a.Failed() {
		a.Logf("the agent's log ends:\n%s", a.log.Bytes()[max(0, a.log.Len()-4000):])
	}
}

// until waits for the agent to say what ok wants.
func (a *agent) until(what string, ok func(wire.NodeStatus) bool) wire.NodeStatus {
	a.Helper()
	var s wire.NodeStatus
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		s = wire.NodeStatus{}
		if err = a.ask(wire.ViewStatus, "", &s); err == nil && ok(s) {
			return s
		}
	}
	a.Fatalf("%s: not within two minutes; last seen: %v, desired %d, active %d, %q; %d problems", what, err, s.Desired, s.Active, s.Reasons, len(s.Problems))
	return s
}

// ask asks the agent for a view of the node.
func (a *agent) ask(what, name string, into any) error {
	ctx, cancel := context.WithTimeout(a.Context(), 10*time.Second)
	defer cancel()
	c, err := wire.Dial(ctx, a.paths.Socket())
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, wire.View, wire.ViewRequest{What: what, Name: name}, into)
}

// active says that a policy was read and is in force in the kernel as a whole.
func active(s wire.NodeStatus) bool { return s.Desired > 0 && s.Active == s.Desired }

// memory reads a field of the process's status, in bytes: VmRSS is what it has
// now, VmHWM the most that it ever had.
func (a *agent) memory(field string) int64 {
	a.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		a.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, rest, _ := strings.Cut(lines.Text(), ":"); name == field {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				a.Fatal(err)
			}
			return kib << 10
		}
	}
	a.Fatalf("no %s of the agent", field)
	return 0
}
