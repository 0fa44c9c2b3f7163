package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/store"
)

// buildPlugin makes the binary as the Makefile does, or takes the one in
// HOMEPORT_BIN where there is no Go, into a directory of its own that also tells
// it where its agent is.
func buildPlugin(tb testing.TB, paths attach.Paths) (dir string) {
	tb.Helper()
	dir = tb.TempDir()
	binary := filepath.Join(dir, "homeport")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".")
	if built := os.Getenv("HOMEPORT_BIN"); built != "" {
		cmd = exec.Command("cp", filepath.Join(built, "cni-plugin"), binary)
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, attach.PathsFile), fmt.Appendf(nil, `{"runDir":%q}`, paths.RunDir), 0o600); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// Multus runs all its plugins within 50 MiB: this one stays small.
func TestBinarySize(t *testing.T) {
	info, err := os.Stat(filepath.Join(buildPlugin(t, attach.Paths{RunDir: "/nowhere"}), "homeport"))
	if err != nil {
		t.Fatal(err)
	}
	const limit = 4 << 20
	t.Logf("%d bytes", info.Size())
	if info.Size() > limit {
		t.Errorf("the binary has %d bytes, over %d", info.Size(), limit)
	}
}

// enterNetns puts the test on a thread in a network namespace of its own, and
// the programs it starts too. The thread ends with the test.
func enterNetns(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatalf("unshare: %v", err)
	}
}

// newSandbox gives the path of a network namespace that lives as long as the
// test, or until end is called.
func newSandbox(tb testing.TB) (path string, end func()) {
	tb.Helper()
	paths, done, gone := make(chan string), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		runtime.LockOSThread() // and never unlocked: the thread ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			close(paths)
			return
		}
		// Bound to a file, as runtimes do it, so that "gone" is as there: the
		// thread's own entry in /proc goes some time after the thread.
		file := filepath.Join(tb.TempDir(), "netns")
		err := os.WriteFile(file, nil, 0o600)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, "")
		}
		if err != nil {
			close(paths)
			return
		}
		paths <- file
		<-done
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
		os.Remove(file)
	}()
	path, ok := <-paths
	if !ok {
		tb.Fatal("no network namespace could be made")
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			close(done)
			<-gone
		}
	}
	tb.Cleanup(end)
	return path, end
}

// link makes an interface in the test's namespace.
func link(tb testing.TB, l netlink.Link) netlink.Link {
	tb.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		tb.Fatalf("make %s: %v", l.Attrs().Name, err)
	}
	made, err := netlink.LinkByName(l.Attrs().Name)
	if err != nil {
		tb.Fatal(err)
	}
	return made
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// hostVeths lists the pairs in the test's namespace.
func hostVeths(tb testing.TB) []string {
	tb.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, l := range all {
		if l.Type() == "veth" {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// TestLibcni runs the binary as a runtime does, on real interfaces, with an
// agent that only says yes.
func TestLibcni(t *testing.T) {
	enterNetns(t)
	b := newBench(t)
	a := newAgent(t, b.paths)
	rss := make(chan string, 1)
	a.onAttach = func(c net.Conn, _ attach.Request) {
		select {
		case rss <- peerRSS(c):
		default:
		}
	}
	a.answers[wire.Detach] = &attach.Error{Kind: attach.TryAgain, Message: "this one does nothing at the kernel"}
	br := link(t, &netlink.Bridge{LinkAttrs: named("br0")})
	sandbox, end := newSandbox(t)
	cni := libcni.NewCNIConfigWithCacheDir([]string{buildPlugin(t, b.paths)}, t.TempDir(),
		&invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: &b.stderr}})
	rt := &libcni.RuntimeConf{ContainerID: "c1", NetNS: sandbox, IfName: "net1",
		CapabilityArgs: map[string]any{"mac": "00:50:56:00:00:01"}}
	for _, v := range specVersions()[1:] {
		t.Log("version", v)
		list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil,
			`{"cniVersion":%q,"name":"legacy","plugins":[{"type":"homeport","network":"n","capabilities":{"mac":true}}]}`, v))
		if err != nil {
			t.Fatal(err)
		}
		res, err := cni.AddNetworkList(t.Context(), list, rt)
		if err != nil {
			t.Fatalf("ADD: %v", err)
		}
		checkAdded(t, v, res, sandbox, br)
		b.record(t, attach.Key{ContainerID: "c1", IfName: "net1"}, hostVeth(), nil)
		if v >= "0.4.0" {
			if err := cni.CheckNetworkList(t.Context(), list, rt); err != nil {
				t.Errorf("CHECK: %v", err)
			}
		}
		if v >= "1.1.0" {
			if err := cni.GetStatusNetworkList(t.Context(), list); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			if err := cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "c1", IfName: "net1"}}}); err != nil {
				t.Errorf("GC: %v", err)
			}
			end() // the last DEL is without a sandbox
		}
		for range 2 {
			if err := cni.DelNetworkList(t.Context(), list, rt); err != nil {
				t.Errorf("DEL: %v", err)
			}
		}
		if left := hostVeths(t); len(left) != 0 || len(b.records(t)) != 0 {
			t.Errorf("left over: %v, %v", left, b.records(t))
		}
	}
	checkRSS(t, <-rss)
	if !strings.Contains(b.stderr.String(), "the port is ended without the agent") {
		t.Errorf("DEL said %q", b.stderr.String())
	}
	a.answers[wire.Status] = &attach.Error{Kind: attach.Limited, Message: "drift"}
	list, _ := libcni.NetworkConfFromBytes([]byte(`{"cniVersion":"1.1.0","name":"legacy","plugins":[{"type":"homeport","network":"n"}]}`))
	var e *types.Error
	if err := cni.GetStatusNetworkList(t.Context(), list); !errors.As(err, &e) || e.Code != 51 {
		t.Errorf("STATUS: %v", err)
	}
	if _, err := cni.AddNetworkList(t.Context(), list, rt); !errors.As(err, &e) || e.Code != 8 {
		t.Errorf("ADD without sandbox: %v", err)
	}
}

// checkAdded compares the result of ADD with what the kernel has.
func checkAdded(tb testing.TB, version string, res types.Result, sandbox string, br netlink.Link) {
	tb.Helper()
	got, err := types100.GetResult(res)
	if err != nil {
		tb.Fatal(err)
	}
	node, err := bridge.Open()
	if err != nil {
		tb.Fatal(err)
	}
	defer node.Close()
	peer, _, err := node.FindVeth(sandbox, "net1")
	if err != nil {
		tb.Fatal(err)
	}
	if peer.MAC.String() != "00:50:56:00:00:01" || peer.MTU != 1400 || !peer.Up || peer.Running {
		tb.Errorf("the container's end: %+v", peer)
	}
	host, err := netlink.LinkByName(hostVeth())
	if err != nil {
		tb.Fatal(err)
	}
	if host.Attrs().Flags&net.FlagUp != 0 || host.Attrs().MasterIndex != 0 || host.Attrs().Index != peer.Lower {
		tb.Errorf("the host's end: %+v", host.Attrs())
	}
	mtu := 1400
	if version < "1.0.0" {
		mtu = 0
	}
	want := []*types100.Interface{
		{Name: "br0", Mac: br.Attrs().HardwareAddr.String()},
		{Name: hostVeth(), Mac: host.Attrs().HardwareAddr.String(), Mtu: mtu},
		{Name: "net1", Mac: "00:50:56:00:00:01", Mtu: mtu, Sandbox: sandbox},
	}
	if diff := cmp.Diff(want, got.Interfaces); diff != "" {
		tb.Errorf("interfaces (-want +got):\n%s", diff)
	}
}

// peerRSS reads what the process at the other end of a socket has used at most.
func peerRSS(c net.Conn) string {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	var status []byte
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			status, _ = os.ReadFile(fmt.Sprintf("/proc/%d/status", cred.Pid))
		}
	})
	return string(status)
}

func checkRSS(tb testing.TB, status string) {
	tb.Helper()
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(status)
	if m == nil {
		tb.Fatalf("no VmHWM in %q", status)
	}
	kib, _ := strconv.Atoi(m[1])
	tb.Logf("%d KiB RSS at Attach; %s", kib, strings.Join(regexp.MustCompile(`Rss\w+:\s+\d+ kB`).FindAllString(status, -1), ", "))
	const limit = 5_000_000 / 1024
	if kib > limit {
		tb.Errorf("the plugin used %d KiB, over %d", kib, limit)
	}
}

// TestChainedForReal is ADD behind a plugin that made a pair, and DEL with a
// dead agent, after KubeVirt has renamed the container's end.
func TestChainedForReal(t *testing.T) {
	enterNetns(t)
	b := newBench(t)
	a := newAgent(t, b.paths)
	b.p.openKernel = openKernel
	link(t, &netlink.Bridge{LinkAttrs: named("br0")})
	old := link(t, &netlink.Bridge{LinkAttrs: named("old0")})
	link(t, &netlink.Veth{LinkAttrs: named("vethdecoy"), PeerName: "vethdecoy2"})
	sandbox, _ := newSandbox(t)
	b.env["CNI_NETNS"], b.env["CNI_NETNS_OVERRIDE"] = sandbox, ""
	ns, err := os.Open(sandbox)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: named("vethabc"), PeerName: "net1", PeerNamespace: netlink.NsFd(int(ns.Fd())),
		PeerHardwareAddr: net.HardwareAddr{0, 0x50, 0x56, 0, 0, 9}}
	host := link(t, veth)
	decoy := `{"name":"old0"},{"name":"vethdecoy"},{"name":"net1","sandbox":"/elsewhere"}`
	closedByFailure(t, b, host, old, chained("1.0.0", `"network":"n"`, decoy, ""), 7, "it does not name vethabc")
	prev := `{"name":"old0"},{"name":"vethabc"},{"name":"net1","sandbox":"/elsewhere"}`
	closedByFailure(t, b, host, old, chained("1.0.0", `"network":"n","vlna":7`, prev, ""), 7, "vlna: unknown key")
	a.mu.Lock()
	a.version = wire.Version + 2
	a.mu.Unlock()
	closedByFailure(t, b, host, old, chained("1.0.0", `"network":"n"`, prev, ""), 11, "version")
	a.mu.Lock()
	a.version = wire.Version
	a.mu.Unlock()
	out, e := b.run(t, "ADD", chained("1.0.0", `"network":"n"`, prev, ""))
	if e != nil {
		t.Fatalf("%+v", e)
	}
	var names []string
	for _, i := range decode(t, out)["interfaces"].([]any) {
		names = append(names, fmt.Sprint(i.(map[string]any)["name"], " ", i.(map[string]any)["mac"]))
	}
	br, err := netlink.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"br0 " + br.Attrs().HardwareAddr.String(), "vethabc " + host.Attrs().HardwareAddr.String(), "net1 00:50:56:00:00:09"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
	var req attach.Request
	a.body(t, wire.Attach, &req)
	if req.HostIfIndex != host.Attrs().Index || req.MTU != 1500 || req.MAC.String() != "00:50:56:00:00:09" {
		t.Errorf("request %+v", req)
	}
	b.record(t, req.Key, "vethabc", func(r *attach.Record) { r.HostIfIndex = host.Attrs().Index })
	a.mu.Lock()
	a.version = 99
	a.mu.Unlock()
	inSandbox(t, sandbox, func() error {
		l, err := netlink.LinkByName("net1")
		if err != nil {
			return err
		}
		return netlink.LinkSetName(l, "deadbeef012-nic")
	})
	for range 2 {
		if _, e := b.run(t, "DEL", "{}"); e != nil {
			t.Errorf("DEL: %+v", e)
		}
	}
	left := hostVeths(t)
	slices.Sort(left)
	if diff := cmp.Diff([]string{"vethdecoy", "vethdecoy2"}, left); diff != "" {
		t.Errorf("pairs left (-want +got):\n%s", diff)
	}
}

// closedByFailure is an ADD that is refused: what was open in the other plugin's
// bridge is not afterwards.
func closedByFailure(tb testing.TB, b *bench, host, old netlink.Link, conf string, code uint, want string) {
	tb.Helper()
	state := func(wantOpen bool) {
		tb.Helper()
		l, err := netlink.LinkByIndex(host.Attrs().Index)
		if err != nil {
			tb.Fatal(err)
		}
		up, in := l.Attrs().Flags&net.FlagUp != 0, l.Attrs().MasterIndex == old.Attrs().Index
		if up != wantOpen || in != wantOpen {
			tb.Errorf("%s: the host end is up: %v, in the other plugin's bridge: %v; want %v", want, up, in, wantOpen)
		}
	}
	if err := errors.Join(netlink.LinkSetMaster(host, old), netlink.LinkSetUp(host)); err != nil {
		tb.Fatal(err)
	}
	state(true)
	if _, e := b.run(tb, "ADD", conf); e == nil || e.Code != code || !strings.Contains(e.Msg, want) {
		tb.Errorf("%+v, want code %d and %q", e, code, want)
	}
	state(false)
}

// inSandbox runs fn on a thread in the namespace; the thread ends with it.
func inSandbox(tb testing.TB, path string, fn func() error) {
	tb.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open(path)
		if err == nil {
			defer f.Close()
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
}

// An ADD that is killed half way leaves a pair that the next ADD replaces, and
// that DEL deletes though nobody remembers it.
func TestKilledHalfWay(t *testing.T) {
	enterNetns(t)
	b := newBench(t)
	a := newAgent(t, b.paths)
	dir := buildPlugin(t, b.paths)
	sandbox, _ := newSandbox(t)
	reached := make(chan struct{}, 1)
	a.onAttach = func(c net.Conn, _ attach.Request) {
		reached <- struct{}{}
		_, _ = c.Read(make([]byte, 1))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	start := func(verb string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(dir, "homeport"))
		cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_IFNAME=net1", "CNI_NETNS=" + sandbox, "CNI_PATH=" + dir}
		cmd.Stdin = strings.NewReader(config("1.0.0", `"network":"n"`))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	for range 2 {
		cmd := start("ADD")
		select {
		case <-reached:
		case <-ctx.Done():
			t.Fatal("Attach was not reached")
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if got := hostVeths(t); !slices.Equal(got, []string{hostVeth()}) {
			t.Fatalf("after the kill: %v", got)
		}
	}
	a.mu.Lock()
	a.answers[wire.Detach] = &attach.Error{Kind: attach.TryAgain, Message: "no"}
	a.mu.Unlock()
	if err := start("DEL").Wait(); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if left := hostVeths(t); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	if all, _, err := store.At(b.paths.Attachments()).List(); err != nil || len(all) != 0 {
		t.Errorf("records: %v, %v", all, err)
	}
}

// On a node with many processors the plugin is as small.
func TestManyProcessors(t *testing.T) {
	enterNetns(t)
	b := newBench(t)
	a := newAgent(t, b.paths)
	rss := make(chan string, 1)
	a.onAttach = func(c net.Conn, _ attach.Request) { rss <- peerRSS(c) }
	dir := buildPlugin(t, b.paths)
	sandbox, _ := newSandbox(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "homeport"))
	cmd.Env = []string{"GOMAXPROCS=256", "CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=net1", "CNI_NETNS=" + sandbox, "CNI_PATH=" + dir}
	cmd.Stdin = strings.NewReader(config("1.0.0", `"network":"n"`))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ADD: %v\n%s", err, out)
	}
	checkRSS(t, <-rss)
}
