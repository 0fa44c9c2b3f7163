package datapath

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// BenchmarkBridge is what both hooks add to a hop over a plain bridge, from veth
// to veth, for packets of an established flow: rounds with and without hooks by
// turns, made by the kernel as live XDP frames. hooks/plain is the ratio of the
// medians.
func BenchmarkBridge(b *testing.B) {
	bench := newBench(b, Config{})
	bench.sync(testSets(b)...)
	a, _ := newVeth(b, "a", "avm")
	z, zvm := newVeth(b, "z", "zvm")
	newBridge(b, "br", a, z)
	dropAll(b, zvm.Index)
	for _, i := range []attach.Interface{a, z} {
		c := accessPort()
		c.Policy = "net-b"
		if i == z {
			c.MAC = peerMAC
		}
		if err := bench.AttachPort(i, c); err != nil {
			b.Fatal(err)
		}
		if err := bench.SetState(i.Index, attach.Active); err != nil {
			b.Fatal(err)
		}
	}
	hooks := func(on bool) {
		for _, i := range []attach.Interface{a, z} {
			for h := range Hook(hooks) {
				err := bench.deleteFilter(i.Index, h)
				if on {
					err = bench.attachHook(i.Index, h)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	// Teach the bridge both MACs, and open the flow at both ports.
	live(b, a.Index, udp(vm4, peer4, 5, 7).bytes(), 64)
	live(b, z.Index, udp(peer4, vm4, 7, 5).bytes(), 64)
	const frames = 50_000
	var plain, judged []time.Duration
	for range max(20, b.N) {
		hooks(false)
		plain = append(plain, live(b, a.Index, udp(vm4, peer4, 5, 7).bytes(), frames))
		hooks(true)
		judged = append(judged, live(b, a.Index, udp(vm4, peer4, 5, 7).bytes(), frames))
	}
	slices.Sort(plain)
	slices.Sort(judged)
	p, j := plain[len(plain)/10], judged[len(judged)/10]
	b.ReportMetric(float64(p.Nanoseconds())/frames, "ns/plain")
	b.ReportMetric(float64(j.Nanoseconds())/frames, "ns/hooks")
	b.ReportMetric(float64(j)/float64(p), "hooks/plain")
	c, err := bench.PortCounters(z.Index)
	if err != nil {
		b.Fatal(err)
	}
	if n := c[policy.ReasonEstablished][ToVM].Packets; n < frames {
		b.Fatalf("%d frames judged at the second port, want at least %d: %+v", n, frames, c)
	}
}

// live sends n copies of a frame as if they had come in at the interface.
func live(tb testing.TB, ifindex int, frame []byte, n int) time.Duration {
	tb.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}}) // XDP_PASS
	if err != nil {
		tb.Fatal(err)
	}
	defer p.Close()
	ctx := struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{DataEnd: uint32(len(frame)), Ingress: uint32(ifindex)}
	// A signal, as the runtime sends to preempt a goroutine, would end the run in its middle, and it would be begun anew.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var preempt, was unix.Sigset_t
	preempt.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &preempt, &was); err != nil {
		tb.Fatal(err)
	}
	start := cpuTime(tb)
	_, err = p.Run(&ebpf.RunOptions{Data: frame, Context: ctx, Repeat: uint32(n), Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
	took := cpuTime(tb) - start
	if err := errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &was, nil)); err != nil {
		tb.Fatalf("live frames: %v", err)
	}
	return took
}

// cpuTime of this thread: it does not count waiting for the end of a run, nor
// what else the machine is busy with.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(t.Nano())
}

func newBridge(tb testing.TB, name string, ports ...attach.Interface) {
	tb.Helper()
	snooping := false // it would talk
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(br); err != nil {
		tb.Fatal(err)
	}
	for _, p := range ports {
		if err := netlink.LinkSetMasterByIndex(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: p.Index}}, br.Index); err != nil {
			tb.Fatal(err)
		}
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	for _, v := range []string{"iptables", "ip6tables", "arptables"} {
		// There, where br_netfilter is; it would cost more than all the rest.
		_ = os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+v, []byte("0"), 0)
	}
	if err := netlink.LinkSetUp(br); err != nil {
		tb.Fatal(err)
	}
}

// dropAll drops what comes in at an interface.
func dropAll(tb testing.TB, ifindex int) {
	tb.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}}) // TC_ACT_SHOT
	if err != nil {
		tb.Fatal(err)
	}
	defer p.Close()
	if err := netlink.QdiscAdd(clsact(ifindex)); err != nil {
		tb.Fatal(err)
	}
	if err := netlink.FilterReplace(filter(ifindex, FromVM, p)); err != nil {
		tb.Fatal(err)
	}
}
