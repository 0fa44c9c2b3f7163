package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/netns"
)

// isolated runs this program again, with -inside, in new namespaces: of mounts,
// so that what it mounts and the /run that it sees are its own; of the network,
// so that nothing of it is among the host's interfaces, addresses and sysctls;
// of processes, so that all that it started ends when it does, however that is.
// Its end is therefore the end of everything; no cleaning up has to succeed.
func isolated(ctx context.Context, args []string, stdout, stderr io.Writer) (code int, err error) {
	// The child dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"-inside"}, args...)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	// It tells what it was doing; if it does not, it is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), nil
	case err != nil && ctx.Err() != nil:
		return 130, nil // it ended well, after it was asked to
	case err != nil:
		return 3, fmt.Errorf("new namespaces: %w", err)
	}
	return 0, nil
}

// enter puts what the namespaces need in place: processes as they are seen here,
// a /run and a BPF file system that nobody else has.
func enter() error {
	if os.Getpid() != 1 {
		return errors.New("not in namespaces of its own")
	}
	for _, m := range []struct {
		kind, target, data string
		flags              uintptr
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "", 0},
		{"tmpfs", "/run", "mode=0755", 0},
		{"bpf", "/sys/fs/bpf", "mode=0700", 0},
	} {
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	return os.Mkdir(filepath.Dir(netns.GuestsFile), 0o755)
}

// choose prints where the demo should run on out, and why on diag.
func choose(ctx context.Context, o options, out, diag io.Writer) int {
	inVM := "the nodes run in a VM with kernel " + o.kernel
	switch o.where {
	case "", "native":
	case "vm":
		fmt.Fprintf(diag, "demo: as asked for, %s\n", inVM)
		fmt.Fprintln(out, "vm")
		return 0
	default:
		fmt.Fprintf(diag, "demo: WHERE=%s: want native or vm\n", o.where)
		return 2
	}
	reason := tried(ctx)
	switch {
	case ctx.Err() != nil:
		return 130
	case reason == "":
		fmt.Fprintf(diag, "demo: this machine has all that the nodes need: they run on its kernel %s, in namespaces of their own (WHERE=vm takes a VM)\n", release())
		fmt.Fprintln(out, "native")
	case o.where == "native":
		fmt.Fprintf(diag, "demo: it cannot run on this machine itself: %s; without WHERE=native it takes a VM\n", reason)
		return 3
	default:
		fmt.Fprintf(diag, "demo: %s: %s\n", reason, inVM)
		fmt.Fprintln(out, "vm")
	}
	return 0
}

// tried says why the demo cannot run natively; "" is that it can.
func tried(ctx context.Context) string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	var why bytes.Buffer
	code, err := isolated(ctx, []string{"-choose"}, io.Discard, &why)
	switch said := strings.TrimSpace(why.String()); {
	case err != nil:
		return err.Error()
	case code == 0:
		return ""
	case said == "":
		return fmt.Sprintf("trying ended with exit code %d", code)
	default:
		return said
	}
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error()
	}
	return unix.ByteSliceToString(u.Release[:])
}

// try says, on standard error, what this machine lacks for the nodes: first the
// product's own doctor, then the lab, which is built in small.
func try(ctx context.Context) int {
	bin, err := netns.FindBinaries()
	if err == nil {
		err = enter()
	}
	if err == nil {
		err = doctor(ctx, filepath.Join(bin.Product, "bridge-agent"))
	}
	if err == nil {
		err = netns.Try()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// doctor asks for the first thing that is required and not there.
func doctor(ctx context.Context, agent string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, agent, "doctor", "-o", "json")
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil {
		return nil
	}
	var d struct {
		Checks []struct {
			Name, Answer string
			Required     bool
		}
	}
	if jerr := json.Unmarshal(out.Bytes(), &d); jerr != nil {
		return fmt.Errorf("bridge-agent doctor: %w: %s", err, strings.TrimSpace(out.String()))
	}
	for _, c := range d.Checks {
		switch {
		case !c.Required || c.Answer == "Yes":
		case c.Answer == "No" && !strings.HasPrefix(c.Name, "the "):
			return fmt.Errorf("this kernel has no %s", c.Name)
		default:
			return fmt.Errorf("doctor says to %q: %s", c.Name, c.Answer)
		}
	}
	return fmt.Errorf("bridge-agent doctor: %w", err)
}
