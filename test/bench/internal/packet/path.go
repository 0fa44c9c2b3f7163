package packet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
)

// Port is a bridge port: the host end of a veth pair whose other end, a VM's
// place, drops and counts.
type Port struct {
	Index int
	Name  string
	VM    host
	got   *ebpf.Map
	close []func() error
}

// forwarded is how many packets the bridge has sent at the port.
func (p *Port) forwarded() (uint64, error) {
	l, err := netlink.LinkByIndex(p.Index)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.Name, err)
	}
	return l.Attrs().Statistics.TxPackets, nil
}

// MAC of the VM at the port.
func (p *Port) MAC() net.HardwareAddr { return p.VM.mac }

// Path is a bridge with two ports.
type Path struct {
	Name  string
	A, B  *Port
	to    *generator // from A to B
	back  *generator // from B to A
	fresh *generator // from A to B, each packet the first of its flow
}

// newPath makes a bridge and two ports, and generators for `flows` flows.
func newPath(name string, number byte, sinks box.Netns, flows int32) (p *Path, err error) {
	p = &Path{Name: name}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("path %s: %w", name, err), p.Close())
		}
	}()
	br, err := box.Bridge("br-"+name, false)
	if err != nil {
		return p, err
	}
	if p.A, err = newPort(br, name+"-a", sinks, number, 1); err != nil {
		return p, err
	}
	if p.B, err = newPort(br, name+"-b", sinks, number, 2); err != nil {
		return p, err
	}
	if p.to, err = newGenerator(frame(p.A.VM, p.B.VM, firstPort, servedPort), offSrcPort, flows, false); err != nil {
		return p, err
	}
	if p.back, err = newGenerator(frame(p.B.VM, p.A.VM, servedPort, firstPort), offDstPort, flows, false); err != nil {
		return p, err
	}
	p.fresh, err = newGenerator(frame(p.A.VM, p.B.VM, firstPort, servedPort), offSrcPort, freshFlows, true)
	return p, err
}

func newPort(br *netlink.Bridge, name string, sinks box.Netns, net3, host4 byte) (*Port, error) {
	p := &Port{Name: name, VM: host{
		mac: net.HardwareAddr{0x00, 0x50, 0x56, 0, net3, host4},
		ip:  netip.AddrFrom4([4]byte{10, 100, net3, host4}),
	}}
	a := netlink.NewLinkAttrs()
	a.Name = name
	far := "vm-" + name
	pair := &netlink.Veth{LinkAttrs: a, PeerName: far, PeerHardwareAddr: p.VM.mac}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("veth %s: %w", name, err)
	}
	if err := moveTo(far, sinks); err != nil {
		return nil, err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("veth %s: %w", name, err)
	}
	p.Index = l.Attrs().Index
	if err := sinks.Do(func() error { return p.drain(far) }); err != nil {
		return p, fmt.Errorf("sink %s: %w", far, err)
	}
	if err := netlink.LinkSetMaster(l, br); err != nil {
		return p, fmt.Errorf("%s into its bridge: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return p, fmt.Errorf("%s up: %w", name, err)
	}
	return p, forwarding(name)
}

func moveTo(link string, ns box.Netns) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("%s: %w", link, err)
	}
	f, err := os.Open(ns.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := netlink.LinkSetNsFd(l, int(f.Fd())); err != nil {
		return fmt.Errorf("move %s: %w", link, err)
	}
	return nil
}

// drain attaches the sink to the far end, in whose namespace it is called.
func (p *Port) drain(far string) error {
	l, err := netlink.LinkByName(far)
	if err != nil {
		return err
	}
	prog, got, err := newSink()
	if err != nil {
		return err
	}
	p.got = got
	p.close = append(p.close, prog.Close, got.Close)
	x, err := link.AttachTCX(link.TCXOptions{Program: prog, Interface: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	p.close = append(p.close, x.Close)
	return netlink.LinkSetUp(l)
}

// forwarding waits until the bridge forwards at the port.
func forwarding(name string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is %s after 5 s, want up", name, l.Attrs().OperState)
		}
		runtime.Gosched()
	}
}

// Close takes the path down: programs, maps, veth pairs and the bridge.
func (p *Path) Close() error {
	var errs []error
	for _, name := range []string{p.Name + "-a", p.Name + "-b", "br-" + p.Name} {
		if l, err := netlink.LinkByName(name); err == nil {
			errs = append(errs, netlink.LinkDel(l))
		}
	}
	for _, port := range []*Port{p.A, p.B} {
		if port == nil {
			continue
		}
		for _, c := range port.close {
			errs = append(errs, c())
		}
	}
	for _, g := range []*generator{p.to, p.back, p.fresh} {
		if g != nil {
			errs = append(errs, g.close())
		}
	}
	return errors.Join(errs...)
}

// Sample is what packets cost.
type Sample struct {
	Packets uint64
	// CPU is the time that the sending thread ran: the kernel does all work of
	// a packet there, and neighbours on a busy machine do not count.
	CPU time.Duration
}

// PerPacket in seconds.
func (s Sample) PerPacket() float64 { return s.CPU.Seconds() / float64(s.Packets) }

// Establish makes every flow pass in both directions, twice, so that bridge and
// programs know addresses and connections. Every packet must arrive.
func (p *Path) Establish(flows int32) error {
	for range 2 {
		if _, err := send(p.to, p.A, p.B, uint32(flows)); err != nil {
			return fmt.Errorf("%s, from A to B: %w", p.Name, err)
		}
		if _, err := send(p.back, p.B, p.A, uint32(flows)); err != nil {
			return fmt.Errorf("%s, from B to A: %w", p.Name, err)
		}
	}
	return nil
}

// Measure sends at least n packets from A to B. Every one must arrive.
func (p *Path) Measure(n uint32) (Sample, error) { return p.measure(p.to, n) }

// MeasureFirst is Measure with packets of which each is the first of its flow.
func (p *Path) MeasureFirst(n uint32) (Sample, error) { return p.measure(p.fresh, n) }

func (p *Path) measure(g *generator, n uint32) (Sample, error) {
	s, err := send(g, p.A, p.B, n)
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.Name, err)
	}
	return s, nil
}

// send takes the time that the calling thread spends, and makes sure that what
// was sent has arrived. The caller keeps to one thread.
func send(g *generator, from, to *Port, n uint32) (Sample, error) {
	sent, err := count(g.sent)
	if err != nil {
		return Sample{}, err
	}
	got, err := count(to.got)
	if err != nil {
		return Sample{}, err
	}
	start, err := threadTime()
	if err != nil {
		return Sample{}, err
	}
	if err := g.run(from.Index, n); err != nil {
		return Sample{}, err
	}
	end, err := threadTime()
	if err != nil {
		return Sample{}, err
	}
	now, err := count(g.sent)
	if err != nil {
		return Sample{}, err
	}
	if err := arrived(to.got, got, now-sent); err != nil {
		return Sample{}, err
	}
	return Sample{Packets: now - sent, CPU: end - start}, nil
}

// arrived waits until the counter stands want above before.
func arrived(counter *ebpf.Map, before, want uint64) error {
	deadline := time.Now().Add(2 * time.Second)
	for {
		now, err := count(counter)
		if err != nil {
			return err
		}
		if now-before == want {
			return nil
		}
		if now-before > want || time.Now().After(deadline) {
			return fmt.Errorf("%d packets arrived of %d sent", now-before, want)
		}
		runtime.Gosched()
	}
}

func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("clock of the thread: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
