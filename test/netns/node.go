package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Uplink is a node's interface towards the switch.
const Uplink = "eth1"

// Node is a machine that the product runs on.
type Node struct {
	*Space
	// Dir holds the node's files: bin/, cni/, run/, bpf/, manifests/, agent.log.
	Dir string

	lab *Lab
	mu  sync.Mutex
	// agent is the process that runs, nil when none does.
	agent *exec.Cmd
	gone  chan struct{} // closed when agent has ended
}

// Node makes a node whose uplink is on a port of the switch.
func (l *Lab) Node(name string, sw *Space, port SwitchPort) (*Node, error) {
	s, err := l.newSpace(name)
	if err != nil {
		return nil, err
	}
	n := &Node{Space: s, Dir: filepath.Join(l.Dir, name), lab: l}
	s.env = []string{"PATH=" + n.path("bin") + ":" + os.Getenv("PATH")}
	if err := n.install(l.bin); err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	if err := l.plug(sw, s, Uplink, port); err != nil {
		return nil, err
	}
	l.nodes[name] = n
	l.atEnd(n.Kill)
	return n, nil
}

func (n *Node) path(parts ...string) string {
	return filepath.Join(append([]string{n.Dir}, parts...)...)
}

// Manifests is the directory that the agent reads.
func (n *Node) Manifests() string { return n.path("manifests") }

// RunDir is the node's /run/homeport.
func (n *Node) RunDir() string { return n.path("run") }

// BPFFS is the node's own BPF file system.
func (n *Node) BPFFS() string { return n.path("bpf") }

// Log is the file of the agent's log.
func (n *Node) Log() string { return n.path("agent.log") }

// install puts the binaries in place as a node has them, the plugins apart from
// the tools since a reference plugin has the name of bridge(8).
func (n *Node) install(b Binaries) error {
	for _, d := range []string{"bin", "cni", "manifests", "bpf"} {
		if err := os.MkdirAll(n.path(d), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		filepath.Join(b.Product, "bridge-agent"): n.path("bin", "bridge-agent"),
		filepath.Join(b.Product, "homeportctl"):  n.path("bin", "homeportctl"),
		filepath.Join(b.Product, "cni-plugin"):   n.path("cni", "homeport"),
	}
	if b.Reference != "" {
		files[filepath.Join(b.Reference, "bridge")] = n.path("cni", "bridge")
		for _, ipam := range []string{"dhcp", "host-local", "static"} {
			if _, err := os.Stat(filepath.Join(b.Reference, ipam)); err == nil {
				files[filepath.Join(b.Reference, ipam)] = n.path("cni", ipam)
			}
		}
	}
	for from, to := range files {
		if err := n.lab.place(from, to); err != nil {
			return err
		}
	}
	paths, err := json.Marshal(map[string]string{"runDir": n.RunDir()})
	if err != nil {
		return err
	}
	for _, d := range []string{"bin", "cni"} {
		if err := os.WriteFile(n.path(d, "homeport-paths.json"), paths, 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount("bpf", n.BPFFS(), "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("BPF file system at %s: %w", n.BPFFS(), err)
	}
	n.lab.atEnd(func() error { return unix.Unmount(n.BPFFS(), unix.MNT_DETACH) })
	return nil
}

// place makes a binary appear at another path without a second copy of it: the
// path must be its own, since programs look beside themselves.
func (l *Lab) place(from, to string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	if err := os.Link(from, to); err == nil {
		return nil
	}
	if err := os.WriteFile(to, nil, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	l.atEnd(func() error { return unix.Unmount(to, unix.MNT_DETACH) })
	return nil
}

// AgentArgs is what bridge-agent is started with here.
func (n *Node) AgentArgs() []string {
	return []string{"run", "--source", "dir:" + n.Manifests(), "--bpffs", n.BPFFS(), "--rule-log", n.RuleLog()}
}

// RuleLog is what the node's rules log.
func (n *Node) RuleLog() string { return n.path("rules.log") }

// AgentPID is the agent's process, 0 when none runs.
func (n *Node) AgentPID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agent == nil {
		return 0
	}
	return n.agent.Process.Pid
}

// StartAgent starts the node's agent; more flags may follow. It does not wait.
func (n *Node) StartAgent(flags ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agent != nil {
		return fmt.Errorf("node %s: its agent runs already", n.Name)
	}
	log, err := os.OpenFile(n.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := n.Command(context.Background(), n.path("bin", "bridge-agent"), append(n.AgentArgs(), flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.Start(cmd); err != nil {
		return fmt.Errorf("node %s: agent: %w", n.Name, err)
	}
	gone := make(chan struct{})
	n.agent, n.gone = cmd, gone
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(gone)
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.agent == cmd {
			n.agent = nil
		}
	}()
	return nil
}

// Signal sends the agent a signal and waits for its end.
func (n *Node) Signal(sig syscall.Signal) error {
	n.mu.Lock()
	cmd, gone := n.agent, n.gone
	n.mu.Unlock()
	if cmd == nil {
		return fmt.Errorf("node %s: no agent runs", n.Name)
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-gone:
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.agent == cmd {
			n.agent = nil
		}
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("node %s: the agent (process %d) has not ended 20 s after %v", n.Name, cmd.Process.Pid, sig)
	}
}

// Freeze stops the agent's process, or lets it go on.
func (n *Node) Freeze(stop bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agent == nil {
		return fmt.Errorf("node %s: no agent runs", n.Name)
	}
	sig := syscall.SIGCONT
	if stop {
		sig = syscall.SIGSTOP
	}
	return n.agent.Process.Signal(sig)
}

// Kill ends the agent if one runs.
func (n *Node) Kill() error {
	n.mu.Lock()
	runs := n.agent != nil
	n.mu.Unlock()
	if !runs {
		return nil
	}
	return n.Signal(syscall.SIGKILL)
}

// WaitReady polls homeportctl status until it says that the node is ready.
func (n *Node) WaitReady(ctx context.Context, limit time.Duration) error {
	return until(ctx, limit, func() error {
		n.mu.Lock()
		runs := n.agent != nil
		n.mu.Unlock()
		var out bytes.Buffer
		cmd := n.Command(ctx, n.path("bin", "homeportctl"), "status")
		cmd.Stdout, cmd.Stderr = &out, &out
		err := n.Run(cmd)
		switch {
		case err == nil:
			return nil
		case !runs:
			return fmt.Errorf("node %s: the agent has ended: %s", n.Name, n.LogTail(5))
		}
		return fmt.Errorf("node %s is not ready: %w: %s", n.Name, err, strings.TrimSpace(out.String()))
	})
}

// LogTail gives the last lines of the agent's log.
func (n *Node) LogTail(lines int) string {
	b, err := os.ReadFile(n.Log())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
