package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/test/netns"
	"github.com/homeport-cni/homeport/test/vm"
)

// TestMain is also what isolated starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "-inside" {
		if err := inside(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		where, out, diag string
		code             int
	}{
		{"vm", "vm\n", "the nodes run in a VM with kernel 6.12", 0},
		{"cloud", "", "WHERE=cloud: want native or vm", 2},
	} {
		var out, diag bytes.Buffer
		code := choose(context.Background(), options{where: c.where, kernel: "6.12"}, &out, &diag)
		if code != c.code || out.String() != c.out || !strings.Contains(diag.String(), c.diag) {
			t.Errorf("WHERE=%s: exit code %d, %q, %q; want %d, %q, %q", c.where, code, &out, &diag, c.code, c.out, c.diag)
		}
	}
}

func TestDoctorsFirstNo(t *testing.T) {
	const tcx = `{"name": "tcx", "answer": "No"}`
	for _, c := range []struct{ script, want string }{
		{`echo '{"checks": [` + tcx + `]}'; exit 0`, "<nil>"},
		{`echo '{"checks": [` + tcx + `, {"name": "clsact", "answer": "Yes", "required": true},
			{"name": "bridge VLAN filtering", "answer": "No", "required": true}]}'; exit 1`, "this kernel has no bridge VLAN filtering"},
		{`echo '{"checks": [{"name": "the kernel is recent enough", "answer": "No", "required": true}]}'; exit 1`, `doctor says to "the kernel is recent enough": No`},
		{`echo '{"checks": [{"name": "LPM trie", "answer": "Unknown", "required": true}]}'; exit 3`, `doctor says to "LPM trie": Unknown`},
		{`echo '{"checks": []}'; exit 3`, "bridge-agent doctor: exit status 3"},
		{`echo broken >&2; exit 1`, "bridge-agent doctor: exit status 1: broken"},
	} {
		agent := filepath.Join(t.TempDir(), "bridge-agent")
		if err := os.WriteFile(agent, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(doctor(context.Background(), agent)); got != c.want {
			t.Errorf("%s: %s, want %s", c.script, got, c.want)
		}
	}
}

// TestVM1OnTap boots vm1 as the native demo does, as far as any kernel goes:
// isolated, with its NIC on a tap in a namespace. Then everything is interrupted
// while it runs, without cleaning up, and must be gone.
func TestVM1OnTap(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	if _, err := vm.FindKernel("6.1"); err != nil {
		t.Skipf("vm1 needs its kernel: %v", err)
	}
	dir := t.TempDir()
	build(t, ".", filepath.Join(dir, "guest"), "../vm/guest")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	up := &listening{word: []byte("vm1 is up in "), at: make(chan struct{})}
	var diag bytes.Buffer
	go func() {
		select {
		case <-up.at:
			if list := remains(t, dir); !strings.Contains(strings.Join(list, " "), "qemu-system") {
				t.Errorf("vm1's QEMU is not seen while it runs, only %q: this test is blind", list)
			}
			cancel()
		case <-ctx.Done():
		}
	}()
	code, err := isolated(ctx, []string{dir}, up, &diag)
	if err != nil || code != 130 {
		t.Fatalf("exit code %d, %v; want 130: it was interrupted\n%s%s", code, err, up.seen, &diag)
	}
	if left := remains(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// inside is the isolated part of TestVM1OnTap.
func inside(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := enter(); err != nil {
		return err
	}
	if nics, err := net.Interfaces(); err != nil || len(nics) != 1 {
		return fmt.Errorf("interfaces %v, %v: want lo alone", nics, err)
	}
	if list, err := os.ReadDir("/run"); err != nil || len(list) != 1 {
		return fmt.Errorf("/run has %v, %v: want lab alone", list, err)
	}
	v, err := newOnTap(options{guest: "name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24", helpers: dir, out: dir, limit: 2 * time.Minute})
	if err != nil {
		return err
	}
	lab, err := netns.New("ontap", netns.Binaries{})
	if err != nil {
		return err
	}
	pod, err := lab.Pod("virt-launcher-vm1")
	if err != nil {
		return err
	}
	tap, err := pod.OpenTap("tap0")
	if err != nil {
		return err
	}
	sh := func(line string) error {
		cmd := pod.Command(ctx, "sh", "-c", line)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := pod.Run(cmd); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, &out)
		}
		return nil
	}
	if err := sh("ip addr add 10.100.0.20/24 dev tap0 && ip link set tap0 up"); err != nil {
		return err
	}
	if err := v.boot(pod.Space, tap); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, v.limit)
	defer cancel()
	if err := v.qemu.Ready(limited); err != nil {
		return err
	}
	if err := sh("ping -c 1 -w 20 10.100.0.10 && ping -c 1 -w 20 -s 1400 10.100.0.10"); err != nil {
		return err
	}
	// TCP leaves checksums to the NIC, ICMP does not.
	if err := sh("timeout 20 bash -c 'head -n1 </dev/tcp/10.100.0.10/80' | grep 'homeport-guest vm1 80'"); err != nil {
		return err
	}
	if sh("ping -c 1 -W 1 10.100.0.11") == nil {
		return errors.New("10.100.0.11 answers, which nobody has")
	}
	fmt.Printf("vm1 is up in %s\n", dir)
	<-ctx.Done()
	return nil // nothing is cleaned up
}

// remains lists processes that mention dir, but for this one.
func remains(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Error(err)
	}
	var out []string
	for _, f := range files {
		b, _ := os.ReadFile(f) // it may just have ended
		if line := strings.ReplaceAll(string(b), "\x00", " "); strings.Contains(line, dir) {
			out = append(out, line)
		}
	}
	return out
}

// build compiles programs as they run in VMs and namespaces, in the module of a folder.
func build(t *testing.T, module, to string, pkgs ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", to}, pkgs...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}
