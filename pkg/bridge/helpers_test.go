package bridge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// space is a network namespace made for one test, bound to a path.
type space struct {
	*Net
	path string
}

// newSpace makes a namespace of the test's own, or skips without root.
func newSpace(tb testing.TB) space {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	path := filepath.Join(tb.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	done := make(chan error)
	go func() { // its thread is never used again
		runtime.LockOSThread()
		_, err := netns.New()
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	tb.Cleanup(func() { must(tb, unix.Unmount(path, unix.MNT_DETACH)) })
	n, err := OpenAt(path)
	must(tb, err)
	tb.Cleanup(func() { must(tb, n.Close()) })
	must(tb, n.SetUp(Ref{Name: "lo"}))
	return space{n, path}
}

// needFiltering skips where the kernel's bridge cannot separate VLANs.
func needFiltering(tb testing.TB) {
	tb.Helper()
	if !kernelFilters(tb) {
		if k := os.Getenv("HOMEPORT_IN_VM"); k != "" { // kernels that have it
			tb.Fatalf("kernel %s lacks bridge VLAN filtering", k)
		}
		tb.Skip("kernel lacks bridge VLAN filtering")
	}
}

func kernelFilters(tb testing.TB) bool {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	err := ProbeVLANFiltering()
	if err != nil && !errors.Is(err, ErrNoVLANFiltering) {
		tb.Fatal(err)
	}
	return err == nil
}

// pair makes a veth pair between two namespaces, both ends down.
func pair(tb testing.TB, here space, name string, there space, peer string) Veth {
	tb.Helper()
	v, err := here.CreateVeth(VethSpec{HostName: name, PeerName: peer, PeerNetns: there.path, MTU: 1500})
	must(tb, err)
	return v
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func set(tb testing.TB, text string) vlan.Set {
	tb.Helper()
	s, err := vlan.ParseSet(text)
	must(tb, err)
	return s
}

// eventually polls until ok says nothing more is wrong, or fails with its last
// word.
func eventually(tb testing.TB, what string, ok func() string) {
	tb.Helper()
	const limit = 10 * time.Second
	deadline := time.After(limit)
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for state := ok(); state != ""; state = ok() {
		select {
		case <-poll.C:
		case <-deadline:
			tb.Fatalf("%s: not within %s; last state: %s", what, limit, state)
		}
	}
}

// handle is the namespace through the netlink library's own eyes.
func handle(tb testing.TB, s space) *netlink.Handle {
	tb.Helper()
	k, err := netlink.NewHandleAt(s.ns, unix.NETLINK_ROUTE)
	must(tb, err)
	tb.Cleanup(k.Close)
	return k
}

func index(tb testing.TB, s space, name string) int {
	tb.Helper()
	l, err := s.LinkInfo(Ref{Name: name})
	must(tb, err)
	return l.Index
}

// master is the attribute that enslaves, or sets free with 0.
func master(index int) *nl.RtAttr {
	return nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(index)))
}
