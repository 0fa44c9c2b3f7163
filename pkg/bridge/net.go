// Package bridge is the kernel's bridge, its ports and the veth pairs behind
// them, in small steps that a plan can order and undo. It makes no policy and
// decides nothing above layer 2.
//
// Everything hangs on a Net, which is one network namespace: it keeps working
// on that namespace from whatever thread it is called. Interfaces are named by
// Ref, an index with the name that is expected there, since the kernel re-uses
// indexes.
//
// Of the kernel, this package follows net/bridge/br_netlink.c and br_vlan.c
// (VLAN filtering), net/core/rtnetlink.c and drivers/net/veth.c. It needs Linux
// 5.6 to read the VLANs of one port alone (RTM_GETVLAN) and reads those of all
// ports on older ones.
package bridge

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound: there is no such interface, or its index belongs to
	// another one by now.
	ErrNotFound = errors.New("no such interface")
	// ErrNoVLANFiltering: this kernel cannot separate VLANs at a bridge.
	ErrNoVLANFiltering = errors.New("kernel lacks CONFIG_BRIDGE_VLAN_FILTERING")
	// ErrRefused: what was asked would harm the node or is not what it should
	// be. Nothing was changed.
	ErrRefused = errors.New("refused")
)

// Net is the interfaces of one network namespace. Its methods may be called
// from several goroutines at once.
type Net struct {
	ns   netns.NsHandle
	conn *conn
	// oldVLANDump says that this kernel has no RTM_GETVLAN.
	oldVLANDump atomic.Bool
	// marked has the Refs of the bridges that this process has marked as ours.
	marked sync.Map
}

// Open gives the Net of the calling thread's network namespace.
func Open() (*Net, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open the current network namespace: %w", err)
	}
	return open(ns)
}

// OpenAt gives the Net of the network namespace that is mounted at path, as a
// CNI runtime names it.
func OpenAt(path string) (*Net, error) {
	ns, err := openNetns(path)
	if err != nil {
		return nil, err
	}
	return open(ns)
}

func open(ns netns.NsHandle) (*Net, error) {
	c, err := dialKernel(ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Net{ns: ns, conn: c}, nil
}

// Close gives the socket and the namespace back.
func (n *Net) Close() error {
	n.conn.close()
	return n.ns.Close()
}

// openNetns opens a namespace by path and makes sure that it is one: the kernel
// itself says only "invalid argument" to a plain file.
func openNetns(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return netns.None(), fmt.Errorf("network namespace %s is gone or unreadable: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &fs); err != nil {
		return netns.None(), errors.Join(fmt.Errorf("network namespace %s: %w", path, err), ns.Close())
	}
	if fs.Type != unix.NSFS_MAGIC && fs.Type != unix.PROC_SUPER_MAGIC {
		err := fmt.Errorf("%s is not a network namespace (a plain file is left when a sandbox is gone)", path)
		return netns.None(), errors.Join(err, ns.Close())
	}
	return ns, nil
}

// listen opens a socket in the namespace that hears what the kernel announces to
// groups (the RTNLGRP_ constants). Close ends a Receive.
func (n *Net) listen(groups ...uint) (*nl.NetlinkSocket, error) {
	var s *nl.NetlinkSocket
	err := inNetns(n.ns, func() (err error) {
		s, err = nl.Subscribe(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)); err != nil {
			s.Close()
			return nil, fmt.Errorf("join netlink group %d: %w", g, err)
		}
	}
	return s, nil
}

// ask sends a message, with flags added to NLM_F_REQUEST, and returns the bodies
// of the answers of that type.
func (n *Net) ask(msgType, flags int, answer uint16, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(msgType, flags)
	for _, p := range parts {
		req.AddData(p)
	}
	return n.conn.ask(req, answer)
}

// do sends a message that the kernel only acknowledges.
func (n *Net) do(msgType, flags int, parts ...nl.NetlinkRequestData) error {
	_, err := n.ask(msgType, flags|unix.NLM_F_ACK, 0, parts...)
	return err
}

// dump asks for a list, again when it changed while it was being read.
func (n *Net) dump(msgType int, answer uint16, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	const tries = 5
	var msgs [][]byte
	var err error
	for range tries {
		msgs, err = n.ask(msgType, unix.NLM_F_DUMP, answer, parts...)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	return msgs, err
}

// inNetns runs fn on a thread that is in ns.
func inNetns(ns netns.NsHandle, fn func() error) error {
	runtime.LockOSThread()
	cur, err := netns.Get()
	if err == nil && cur.Equal(ns) {
		defer runtime.UnlockOSThread()
		return errors.Join(fn(), cur.Close())
	}
	runtime.UnlockOSThread()
	if err != nil {
		return fmt.Errorf("open the current network namespace: %w", err)
	}
	done := make(chan error, 1)
	_ = cur.Close()
	go func() {
		// A goroutine of its own: if its thread cannot be brought home, it
		// ends locked, and the runtime ends the thread with it.
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("open the current network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		err = fn()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// disableIPv6 writes net.ipv6.conf.NAME.disable_ipv6 = 1 in the namespace. A
// kernel without IPv6, or a /proc/sys that is read-only, is not an error: the
// address generation mode, set by netlink beside it, already keeps the
// interface silent.
func disableIPv6(ns netns.NsHandle, name string) error {
	path := "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6"
	err := inNetns(ns, func() error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		var now [1]byte
		if k, _ := f.Read(now[:]); k == 1 && now[0] == '1' {
			return nil
		}
		_, err = f.WriteAt([]byte("1"), 0)
		return err
	})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EROFS) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("switch IPv6 off on %s: %w", name, err)
	}
	return nil
}

// checkName refuses what cannot be an interface name (net/core/dev.c,
// dev_valid_name), before it is used in a path or a message.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("interface name is empty")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("interface name %q is too long: want at most %d bytes", name, unix.IFNAMSIZ-1)
	case name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\v\f\r"):
		return fmt.Errorf("interface name %q is not one that Linux takes: want no spaces, '/' or ':'", name)
	}
	return nil
}
