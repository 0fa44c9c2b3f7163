// Package box is where the benchmark makes its mess: a process in mount,
// network and PID namespaces of its own, with its own /run and bpffs. Nothing
// made in there outlives it: when the process ends, however it ends, the kernel
// kills what it started and frees its namespaces, interfaces, bridges, pins and
// sockets. No traffic leaves it, since it has no interface that leads out.
package box

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// marker in the environment tells the process that it is inside.
const marker = "HOMEPORT_BENCH_BOX"

// Inside says whether this process is the one in the box.
func Inside() bool { return os.Getenv(marker) != "" && os.Getpid() == 1 }

// Reenter runs this program again, with the same arguments, inside a new box
// and gives its exit code. When ctx ends, the inner process is interrupted, and
// killed if it is still there 5 s later.
func Reenter(ctx context.Context) (int, error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find own binary: %w", err)
	}
	cmd := exec.CommandContext(ctx, exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	// A group of its own: Ctrl-C reaches it through us, once.
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL, Setpgid: true,
	}
	runtime.LockOSThread() // Pdeathsig is sent when the starting thread ends
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("run in namespaces of its own (needs root): %w", err)
	}
	return 0, nil
}

// Furnish mounts what the box needs and brings its loopback up. It must be the
// first thing called inside.
func Furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ kind, on string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"bpf", "/sys/fs/bpf"}, {"tmpfs", "/run"},
	} {
		if err := unix.Mount(m.kind, m.on, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.on, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return os.MkdirAll(nsDir, 0o755)
}

const nsDir = "/run/netns"

// Netns is a network namespace held by a bind mount, as a runtime makes it.
type Netns struct{ Path string }

// NewNetns makes an empty network namespace with its loopback down.
func NewNetns(name string) (Netns, error) {
	n := Netns{Path: filepath.Join(nsDir, name)}
	if err := os.WriteFile(n.Path, nil, 0o444); err != nil {
		return Netns{}, fmt.Errorf("netns %s: %w", name, err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		return unix.Mount("/proc/thread-self/ns/net", n.Path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return Netns{}, fmt.Errorf("netns %s: %w", name, errors.Join(err, os.Remove(n.Path)))
	}
	return n, nil
}

// Do runs fn on a thread that is in the namespace.
func (n Netns) Do(fn func() error) error {
	f, err := os.Open(n.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return onThread(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n.Path, err)
		}
		return fn()
	})
}

// Delete lets go of the namespace; the kernel frees it a little later.
func (n Netns) Delete() error {
	return errors.Join(unix.Unmount(n.Path, unix.MNT_DETACH), os.Remove(n.Path))
}

// onThread runs fn on an OS thread that ends with it, so that what fn does to
// the thread's namespaces touches nobody else.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

// Quiet makes the caller's network namespace fit for counting packets:
// interfaces made from now on have no IPv6 (no solicitations amid the count),
// and bridged frames do not visit iptables, which br_netfilter makes the
// default in every new namespace and which costs more than what is measured.
func Quiet() error {
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil {
		return err
	}
	for _, f := range []string{"iptables", "ip6tables", "arptables"} {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+f, []byte("0"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Bridge makes a bridge and brings it up. With filtering it is VLAN-aware and
// has no default PVID, as Homeport keeps its bridges.
func Bridge(name string, filtering bool) (*netlink.Bridge, error) {
	a := netlink.NewLinkAttrs()
	a.Name = name
	br := &netlink.Bridge{LinkAttrs: a}
	if filtering {
		pvid := uint16(0)
		br.VlanFiltering, br.VlanDefaultPVID = &filtering, &pvid
	}
	if err := netlink.LinkAdd(br); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return nil, fmt.Errorf("bridge %s up: %w", name, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	got, ok := l.(*netlink.Bridge)
	if !ok || filtering && (got.VlanFiltering == nil || !*got.VlanFiltering) {
		return nil, fmt.Errorf("bridge %s: this kernel's bridges cannot filter VLANs", name)
	}
	return got, nil
}

// Pin keeps the calling goroutine on one thread, whose time can then be measured,
// and that on one CPU, unless cpu is negative, until the function that it gives
// back is called.
func Pin(cpu int) (func(), error) {
	var before, set unix.CPUSet
	runtime.LockOSThread()
	if cpu < 0 {
		return runtime.UnlockOSThread, nil
	}
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("CPU affinity: %w", err)
	}
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("stay on CPU %s: %w", strconv.Itoa(cpu), err)
	}
	return func() {
		_ = unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}, nil
}

// Enter puts the caller, which keeps its thread, into the namespace, until the function that
// it gives back is called.
func (n Netns) Enter() (leave func() error, err error) {
	runtime.LockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	leave = func() error { // whoever cannot go back keeps the thread, which ends with it
		if err := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("leave %s: %w", n.Path, err)
		}
		runtime.UnlockOSThread()
		return before.Close()
	}
	f, err := os.Open(n.Path)
	if err == nil {
		err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		f.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("enter %s: %w", n.Path, err), leave())
	}
	return leave, nil
}
