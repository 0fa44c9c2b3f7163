package datapath

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// needRoot skips what cannot be done without rights.
func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root (CAP_BPF)")
	}
}

// newBPFFS mounts a BPF filesystem for one test. Maps are freed with it.
func newBPFFS(tb testing.TB) string {
	tb.Helper()
	needRoot(tb)
	dir := filepath.Join(tb.TempDir(), "bpf")
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		tb.Fatalf("mount a BPF filesystem: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// newDatapath opens a datapath that lives as long as the test.
func newDatapath(tb testing.TB, cfg Config) *Datapath {
	tb.Helper()
	if cfg.BPFFS == "" {
		cfg.BPFFS = newBPFFS(tb)
	}
	d, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return d
}

// newNetns puts the test, on its own thread, into a network namespace of its own.
func newNetns(tb testing.TB) {
	tb.Helper()
	needRoot(tb)
	runtime.LockOSThread() // never unlocked: the thread goes with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
}

// newVeth makes a veth pair, up; it gives the host end and the VM's.
func newVeth(tb testing.TB, host, vm string) (attach.Interface, attach.Interface) {
	tb.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host}, PeerName: vm}
	if err := netlink.LinkAdd(v); err != nil {
		tb.Fatalf("make a veth pair: %v", err)
	}
	var out [2]attach.Interface
	for i, name := range []string{host, vm} {
		// Nothing of the kernel's own shall be on the wire.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		l, err := netlink.LinkByName(name)
		if err != nil {
			tb.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			tb.Fatal(err)
		}
		out[i] = attach.Interface{Index: l.Attrs().Index, Name: name}
	}
	return out[0], out[1]
}

func TestFeatures(t *testing.T) {
	needRoot(t)
	for _, f := range Features() {
		t.Logf("%s: %v %s", f.Name, f.Answer, f.Detail)
		if f.Answer == Unknown || f.Required && f.Answer != Yes {
			t.Errorf("%s: %v %s", f.Name, f.Answer, f.Detail)
		}
	}
}

func TestAttachSmoke(t *testing.T) {
	newNetns(t)
	d := newDatapath(t, Config{})
	if err := d.FillPool(4); err != nil {
		t.Fatal(err)
	}
	host, _ := newVeth(t, "h", "v")
	if err := d.AttachPort(host, accessPort()); err != nil {
		t.Fatal(err)
	}
	if err := d.SetState(host.Index, attach.Active); err != nil {
		t.Fatal(err)
	}
	if err := d.VerifyPort(host.Index); err != nil {
		t.Fatal(err)
	}
	if err := d.SettlePort(host.Index); err != nil {
		t.Fatal(err)
	}
	if err := d.VerifyPort(host.Index); err != nil {
		t.Fatal(err)
	}
	if err := d.DetachPort(host.Index); err != nil {
		t.Fatal(err)
	}
}
