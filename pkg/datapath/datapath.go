// Package datapath makes compiled policy and ports real in the kernel: it loads
// and pins the port programs and their maps, attaches them to host interfaces,
// writes generations of policy, and reads counters and connections.
//
// # What lives where
//
// Everything that judges packets is pinned below <bpffs>/homeport/v<ABI>: maps/,
// slots/, books/, progs/ and links/. The process holds nothing that matters: when it dies, no
// verdict changes, and the next [Open] finds all of it again:
//
//   - counters of rules: inner maps of rule_books, with pins below books/;
//   - ports, their slots and serials: the maps port_index and port_records; the inner
//     maps of a slot: pins below slots/;
//   - free slots: none is taken over; [Datapath.FillPool] makes fresh ones;
//   - generation, content hash and the last serial: the map control;
//   - which policy number stands for which network: the map policy_names, so
//     that a number stays with its network as long as it is compiled or used;
//   - who has which address, as the agent last said it: the map addresses, by trunk and VLAN.
//
// Maps of maps are never read: on Linux 6.1 that waits for a grace period, as
// writing them does on every kernel.
//
// # One sync
//
// Generation g of the policy is on side g&1. [Datapath.Sync] writes what differs into the
// side that nobody reads, stores g with one 8-byte write, and makes one more write to a map
// of maps. The kernel lets such a write return only when no program that began
// before it still runs, so the old side has no readers when the next Sync writes
// it. An error at any point leaves the generation that was in force.
//
// # Two kinds of hook
//
// Attaching a tcx link waits for one grace period of RCU at each hook, with the
// kernel's network lock held: 24 ms for a port on an idle machine, against 0.1 ms
// for a clsact qdisc and its two filters; and a device with tcx programs takes
// 16 ms longer to go. On the other hand, clsact can be deleted by anyone with tc.
// So [AttachAuto] attaches by clsact, which is all that ADD waits for, and
// [Datapath.SettlePort] moves a port to pinned tcx links later, without a moment
// in which neither kind judges.
//
// Maps are replaced as a whole or written by single aligned stores, and methods
// may be called concurrently. All are of the network namespace in which Open was
// called.
package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ABIVersion is HP_ABI_VERSION of bpf/include/abi.h; it is part of every pin path.
const ABIVersion = 1

// Limits of bpf/include/abi.h.
const (
	// PortsMax is the number of ports, and of slots, of a node.
	PortsMax = 1024
	// PoliciesMax is the number of policy numbers of a node.
	PoliciesMax = 1024
	// ConnsQuota is the number of answered flows that a port can have.
	ConnsQuota = 32768
	// StationsOfPort is from how many MACs beside its own a port sends that may.
	StationsOfPort = 256

	reasonsMax     = 64
	reasonsCounted = 32 // those from here on are in late_counters
	nameMax        = 256
)

// AttachMode says by which kind of hook ports are attached.
type AttachMode uint8

// The modes.
const (
	// AttachAuto attaches by clsact, and SettlePort moves to tcx where the
	// kernel has it. Without clsact it attaches by tcx at once.
	AttachAuto AttachMode = iota
	// AttachClsact never uses tcx.
	AttachClsact
	// AttachTCX never uses clsact. Attaching waits for two grace periods.
	AttachTCX
)

// Timeouts are how long a flow may be silent. Zero fields take the defaults.
// They are rounded down to ticks of 2^20 ns (about 1 ms).
type Timeouts struct {
	TCPNew     time.Duration // a SYN without answer: 20 s
	TCPOpen    time.Duration // 12 h
	TCPClosing time.Duration // after RST or both FINs: 30 s
	UDPNew     time.Duration // without answer: 30 s
	UDPOpen    time.Duration // 180 s
	ICMP       time.Duration // an echo: 10 s
	// Grace is how long after its VM has arrived a port takes over the connections
	// that it brings: 60 s. Unlike the others it is in units of 2^30 ns (about 1 s), and
	// rounded up, for the arrival's time is rounded down.
	Grace time.Duration
}

// DefaultTimeouts are the values of bpf/include/clock.h.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		TCPNew: 20 * time.Second, TCPOpen: 12 * time.Hour, TCPClosing: 30 * time.Second,
		UDPNew: 30 * time.Second, UDPOpen: 180 * time.Second, ICMP: 10 * time.Second,
		Grace: 60 * time.Second,
	}
}

// Config is how a node's datapath is opened.
type Config struct {
	// BPFFS is a mounted BPF filesystem, as /sys/fs/bpf.
	BPFFS string
	// Attach is by which kind of hook.
	Attach AttachMode
	// Timeouts of connections.
	Timeouts Timeouts
	// ConnsQuota is the number of answered flows of a port; 0 takes ConnsQuota.
	ConnsQuota uint32
	// noFastPath is as on a kernel without it; for tests.
	noFastPath bool
	// Log gets what is repaired or passed over without an error; nil discards.
	Log *slog.Logger
}

// Datapath is the kernel's side of all ports of a node.
type Datapath struct {
	cfg     Config
	log     *slog.Logger
	pins    pins
	maps    map[string]*ebpf.Map
	progs   [allHooks]*ebpf.Program // that at uplinks is nil if the kernel has no fast path
	progID  [allHooks]ebpf.ProgramID
	into    *ebpf.Program            // of the fast path; nil if the kernel has none
	inner   map[string]*ebpf.MapSpec // templates by outer map
	control *control
	ports   portTable
	netlink *netlink.Handle
	tcx     bool // the kernel has it
	clsact  bool

	handovers handoverTable
	fastPorts fastTable
	// stationCounts is the map station_counts, in memory.
	stationCounts    []uint64
	stationCountPage []byte

	trace tracer

	attaching sync.Mutex // held by AttachInbound

	syncing sync.Mutex // held by Sync; taken before mu
	sides   [2]side
	pages   map[pagesSum]*ebpf.Map // of programs that a side has, by hash
	synced  uint64                 // generation that this process wrote last; 0 is none

	mu    sync.Mutex          // guards what follows, port_records and policy_names
	slots [PortsMax]slotState // with their pins
	names map[string]uint32   // policy numbers by network
	books []*ebpf.Map         // published inner maps of rule_books
}

// Open takes over what an earlier process left pinned. It loads the programs if those are
// not what it would load, and puts what it has then at each attached port that runs another,
// by one atomic swap each. It needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root.
func Open(cfg Config) (*Datapath, error) {
	d := &Datapath{cfg: cfg, log: cfg.Log, pins: pins{cfg.BPFFS}, pages: map[pagesSum]*ebpf.Map{}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.cfg.ConnsQuota == 0 {
		d.cfg.ConnsQuota = ConnsQuota
	}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Datapath) open() error {
	if err := d.pins.prepare(); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	d.netlink = h
	if err := d.load(); err != nil {
		return err
	}
	if err := d.chooseHooks(); err != nil {
		return err
	}
	if err := d.takeOver(); err != nil {
		return err
	}
	d.replacePrograms()
	return nil
}

// mapArrays maps what is written by single stores.
func (d *Datapath) mapArrays() (err error) {
	if d.control, err = mapControl(d.maps[portMapControl]); err != nil {
		return err
	}
	if err := d.control.drawMark(); err != nil {
		return err
	}
	if d.ports, err = mapPorts(d.maps[portMapPortIndex], d.maps[portMapPortRecords]); err != nil {
		return err
	}
	if d.handovers, err = mapHandovers(d.maps[portMapHandovers]); err != nil {
		return err
	}
	if d.fastPorts, err = mapFastPorts(d.maps[portMapFastPorts]); err != nil {
		return err
	}
	d.stationCountPage, d.stationCounts, err = mapArray[uint64](d.maps[portMapStationCounts], PortsMax)
	return err
}

// takeOver reads back what the maps say of slots, policy numbers and sides.
func (d *Datapath) takeOver() error {
	if err := d.readNames(); err != nil {
		return err
	}
	d.assumeSides()
	return d.readSlots()
}

// Close gives back what the process holds. Ports stay attached and judged.
func (d *Datapath) Close() error {
	var errs []error
	if d.control != nil {
		errs = append(errs, unmap(d.control.page))
	}
	errs = append(errs, d.ports.close(), unmap(d.handovers.page), unmap(d.fastPorts.page), unmap(d.stationCountPage))
	for _, m := range d.maps {
		errs = append(errs, m.Close())
	}
	for i := range d.sides {
		d.sides[i].forgetTables()
	}
	for _, m := range d.pages {
		errs = append(errs, m.Close())
	}
	closeAll(d.books)
	d.trace.close()
	for _, p := range append(d.progs[:], d.into) {
		errs = append(errs, p.Close()) // also of none
	}
	if d.netlink != nil {
		d.netlink.Close()
	}
	return errors.Join(errs...)
}

// Generation is the generation in force; 0 is none, and every packet that policy
// has to judge is dropped.
func (d *Datapath) Generation() uint64 { return d.control.generation() }
