package datapath

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// What others put at a port is found, and what is ours is not taken for it.
func TestOthers(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		newNetns(t)
		d := newDatapath(t, Config{Attach: m})
		host, _ := newVeth(t, "h", "v")
		bare, _ := newVeth(t, "b", "w")
		is := func(when, want string) {
			t.Helper()
			got, err := d.Others([]int{host.Index, bare.Index, noInterface})
			if err != nil {
				t.Fatal(err)
			}
			if got[host.Index] != want || len(got) != min(len(want), 1) {
				t.Errorf("%s: %v, want %q", when, got, want)
			}
		}
		tc := func(args ...string) {
			t.Helper()
			if out, err := exec.Command("tc", args...).CombinedOutput(); err != nil {
				t.Fatalf("tc %v: %v: %s", args, err, out)
			}
		}
		is("nothing", "")
		if err := d.AttachPort(host, accessPort()); err != nil {
			t.Fatal(err)
		}
		if err := d.SetState(host.Index, attach.Active); err != nil {
			t.Fatal(err)
		}
		is("a port", "")
		p, err := passProgram()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := d.netlink.QdiscAdd(clsact(host.Index)); err != nil && !errors.Is(err, unix.EEXIST) {
			t.Fatal(err)
		}
		for h := range Hook(hooks) {
			f := filter(host.Index, h, p)
			f.Priority++
			if err := d.netlink.FilterReplace(f); err != nil {
				t.Fatal(err)
			}
			is("a filter", "a tc filter at "+[]string{"ingress", "egress"}[h])
			if err := d.netlink.FilterDel(f); err != nil {
				t.Fatal(err)
			}
		}
		is("gone", "")
		tc("qdisc", "add", "dev", "h", "root", "pfifo")
		is("a queue", "a queueing discipline (pfifo)")
		tc("qdisc", "del", "dev", "h", "root")
		is("gone", "")
		if !d.tcx {
			return
		}
		for h := range Hook(hooks) {
			l, err := link.AttachTCX(link.TCXOptions{Interface: host.Index, Program: p, Attach: h.attachType()})
			if err != nil {
				t.Fatal(err)
			}
			is("tcx", "a tcx program at "+[]string{"ingress", "egress"}[h])
			if err := errors.Join(l.Detach(), l.Close()); err != nil {
				t.Fatal(err)
			}
		}
		is("gone", "")
	})
}
