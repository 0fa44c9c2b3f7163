package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/vm/boot"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// setUp makes the machine fit for use: host name, loopback, /dev links, and
// the table of guests.
func setUp(job *wire.Job) error {
	if err := unix.Sethostname([]byte(job.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !os.IsExist(err) {
			return err
		}
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	if err := keepHooks(); err != nil {
		return err
	}
	if err := keepStamps(); err != nil {
		return err
	}
	return publishGuests(job)
}

// keepHooks gives loopback an empty clsact for as long as the machine lives. With
// the first such hook, and after the last, the kernel rewrites its own code on
// the way of every packet, behind a breakpoint; QEMU's emulation of several CPUs
// gets that wrong now and then, and the kernel dies of the breakpoint ("Oops:
// int3" in __dev_queue_xmit). With one that stays, it is done once, before there
// is traffic.
func keepHooks() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	err = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: lo.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil {
		return fmt.Errorf("clsact on lo: %w", err)
	}
	return nil
}

// keepStamps has packets stamped with their time for as long as the machine lives, as
// the first socket that wants it does, each ping's among them: with the first and after
// the last the kernel rewrites netif_rx, and dies of that as keepHooks says.
func keepStamps() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // never closed
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMP, 1); err != nil {
		return fmt.Errorf("stamps of packets: %w", err)
	}
	return nil
}

// publishGuests finds the NICs of each guest, writes the table of guests and
// adds what it says to the command's environment. The NICs of a guest that can move
// keep the queues that they have, which are those of a tap: what waits there while
// a QEMU does not run yet is let go to the guest at once when it does.
func publishGuests(job *wire.Job) error {
	if len(job.Guests) == 0 {
		return nil
	}
	var nics []string
	for i := range job.Guests {
		g := &job.Guests[i]
		iface, err := boot.FindInterface(g.NodeMAC, 10*time.Second)
		if err != nil {
			return fmt.Errorf("guest %s: %w", g.Name, err)
		}
		g.Iface = iface
		if g.Second == nil {
			nics = append(nics, iface)
		} else if g.Second.Iface, err = boot.FindInterface(g.Second.NodeMAC, 10*time.Second); err != nil {
			return fmt.Errorf("guest %s: second place: %w", g.Name, err)
		}
		g.Control = filepath.Join(wire.PortDir, wire.ControlPort(g.Name))
		prefix := "HOMEPORT_GUEST_" + g.Name + "_"
		job.Env = append(job.Env, prefix+"IFACE="+g.Iface, prefix+"MAC="+g.MAC, prefix+"IP="+g.IP, prefix+"CONTROL="+g.Control)
	}
	if err := boot.EnlargeQueues(nics...); err != nil {
		return fmt.Errorf("guests: %w", err)
	}
	b, err := json.MarshalIndent(job.Guests, "", "  ")
	if err != nil {
		return fmt.Errorf("guests: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(wire.GuestsPath), 0o755); err != nil {
		return fmt.Errorf("guests: %w", err)
	}
	return os.WriteFile(wire.GuestsPath, append(b, '\n'), 0o644)
}

// linkUp sets an interface up by the old ioctl, which needs no library.
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	return nil
}
