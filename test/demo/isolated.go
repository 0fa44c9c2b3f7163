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

// choose prints where the demo should run, and why.
func choose(ctx context.Context, o options) int {
	inVM := "the nodes run in a VM with kernel " + o.kernel
	switch o.where {
	case "", "native":
	case "vm":
		fmt.Fprintf(os.Stderr, "demo: as asked for, %s\n", inVM)
		fmt.Println("vm")
		return 0
	default:
		fmt.Fprintf(os.Stderr, "demo: WHERE=%s: want native or vm\n", o.where)
		return 2
	}
	var why bytes.Buffer
	code, err := 1, errors.New("not root")
	if os.Geteuid() == 0 {
		code, err = isolated(ctx, []string{"-choose"}, io.Discard, &why)
	}
	if err != nil {
		fmt.Fprintln(&why, err)
	}
	reason := strings.TrimSpace(why.String())
	switch {
	case ctx.Err() != nil:
		return 130
	case code == 0:
		fmt.Fprintf(os.Stderr, "demo: this machine has all that the nodes need: they run on its kernel %s, in namespaces of their own (WHERE=vm takes a VM)\n", release())
		fmt.Println("native")
	case o.where == "native":
		fmt.Fprintf(os.Stderr, "demo: it cannot run on this machine itself: %s; without WHERE=native it takes a VM\n", reason)
		return 3
	default:
		fmt.Fprintf(os.Stderr, "demo: %s: %s\n", reason, inVM)
		fmt.Println("vm")
	}
	return 0
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
