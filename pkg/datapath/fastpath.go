package datapath

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// FastPort is what a port of the fast path has to have in common with another for packets
// of established connections to go from one to the other past their bridge, and how they go to its uplink.
type FastPort struct {
	Bridge int // ifindex
	MTU    int // bytes
	// Uplink is its ifindex, Tag the VLAN tag of the port's frames there, or 0. Uplink 0: to it and from it all goes
	// by the bridge.
	Uplink int
	Tag    vlan.ID
	// Inbound has what comes by the uplink go past the bridge, too, if AttachInbound has its program there. The
	// bridge takes it in as it sends it out: with Tag, or without one as of the port's VLAN.
	Inbound bool
}

// FastMAC is a MAC in one VLAN of one bridge.
type FastMAC struct {
	Bridge int // ifindex
	VLAN   vlan.ID
	MAC    [6]byte
}

// Of bpf/include/abi.h.
const (
	fastMACs      = 16384  // HP_FAST_MACS
	uplinkInbound = 0x8000 // HP_UPLINK_INBOUND
)

// ErrNoFastPath says that this kernel's BPF cannot jump from a program that has functions.
var ErrNoFastPath = errors.New("the kernel cannot run the programs of the fast path")

// fastTable is the map fast_ports, in memory.
type fastTable struct {
	page  []byte
	ports []portHpFastPort
}

func mapFastPorts(m *ebpf.Map) (t fastTable, err error) {
	t.page, t.ports, err = mapArray[portHpFastPort](m, PortsMax)
	return t, err
}

// setFast writes whether the port of a record takes part, and what it has to have in common, which changes
// only while it takes none; mu is held.
func (d *Datapath) setFast(rec portHpPort, of FastPort) error {
	at := &d.fastPorts.ports[rec.Slot%PortsMax]
	uplink := portHpFastUplink{Ifindex: uint32(of.Uplink), Vlan: rec.Pvid, Tag: uint16(of.Tag)}
	if of.Inbound {
		uplink.Tag |= uplinkInbound
	}
	if of.Bridge == 0 || at.Bridge != uint32(of.Bridge) || at.Mtu != uint32(of.MTU) || at.Uplink != uplink {
		rec.Flags &^= portFast
		if err := d.ports.put(int(rec.Ifindex), rec); err != nil || of.Bridge == 0 {
			return err
		}
	}
	atomic.StoreUint32(&at.Bridge, uint32(of.Bridge))
	atomic.StoreUint32(&at.Mtu, uint32(of.MTU))
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&at.Uplink)), *(*uint64)(unsafe.Pointer(&uplink)))
	if rec.Flags&portFast == 0 {
		now, err := coarseTime()
		if err != nil {
			return err
		}
		atomic.StoreUint32(&at.Since, uint32(now>>handoverShift))
	}
	rec.Flags |= portFast
	return d.ports.put(int(rec.Ifindex), rec)
}

// FastPath says whether the kernel has what it takes.
func (d *Datapath) FastPath() bool { return d.into != nil }

// SetFastPath has these ports, by interface, and no others send and get packets of established
// connections past their bridge: access ports of living VMs whose bridge does nothing to such
// packets but forward them, and whose other ends are in other network namespaces. A port that is
// no access port, or not there, takes no part. The result are those of them that are lost: packets to them go by
// the bridge. A port is lost when it is given, and when its MAC is heard at another, until [Datapath.FoundFast] is
// called; two with the same MAC always are.
//
// Others are MACs of this node that are not those of such ports: to them, too, packets go by the bridge, and are not
// looked for behind the uplink. Those that do not fit are left out.
func (d *Datapath) SetFastPath(ports map[int]FastPort, others ...FastMAC) (lost []int, err error) {
	if d.into == nil && len(ports) > 0 {
		return nil, ErrNoFastPath
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	want, uplinks := map[portHpFastKey]portHpFastMac{}, map[uint32]portHpUplink{}
	for ifindex, rec := range d.ports.records() {
		of := ports[ifindex]
		if vlan.Mode(rec.Mode) != vlan.Access {
			of = FastPort{}
		}
		if of.Bridge != 0 {
			addInbound(uplinks, rec, of)
			key := fastKey(rec, of)
			if other, twice := want[key]; twice {
				lost = append(lost, ifindex)
				if other.Ifindex != 0 {
					lost = append(lost, int(other.Ifindex))
				}
				want[key] = portHpFastMac{Slot: PortsMax, Lost: 1} // nobody's
			} else {
				want[key] = portHpFastMac{Ifindex: uint32(ifindex), Slot: rec.Slot, Lost: 1}
			}
		}
		if err := d.setFast(rec, of); err != nil {
			return nil, err
		}
	}
	for _, o := range others {
		key := portHpFastKey{Bridge: uint32(o.Bridge), Vlan: uint16(o.VLAN), Mac: o.MAC}
		if _, is := want[key]; !is && len(want) < fastMACs {
			want[key] = portHpFastMac{Slot: PortsMax, Lost: 1}
		}
	}
	more, err := d.syncFastMACs(want)
	return append(lost, more...), errors.Join(err, d.syncUplinks(uplinks))
}

func fastKey(rec portHpPort, of FastPort) portHpFastKey {
	return portHpFastKey{Bridge: uint32(of.Bridge), Vlan: rec.Pvid, Mac: rec.Mac}
}

// syncFastMACs brings the map fast_macs to want. What it has already stays as it is.
func (d *Datapath) syncFastMACs(want map[portHpFastKey]portHpFastMac) (lost []int, err error) {
	m := d.maps[portMapFastMacs]
	var stale []portHpFastKey
	var key portHpFastKey
	var is portHpFastMac
	it := m.Iterate()
	for it.Next(&key, &is) {
		at, ok := want[key]
		switch {
		case !ok:
			stale = append(stale, key)
		case is.Ifindex == at.Ifindex && is.Slot == at.Slot:
			delete(want, key)
			if is.Lost != 0 && is.Ifindex != 0 {
				lost = append(lost, int(is.Ifindex))
			}
		}
	}
	errs := []error{it.Err()}
	for _, key := range stale {
		if err := m.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	for key, at := range want {
		errs = append(errs, m.Put(key, at))
		if at.Ifindex != 0 {
			lost = append(lost, int(at.Ifindex))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return lost, fmt.Errorf("write the MACs of the fast path: %w", err)
	}
	return lost, nil
}

// ForgetFar has packets for those behind uplinks whom has does not name, by bridge, VLAN and uplink, and what comes from them, go
// by the bridge until they are heard again.
func (d *Datapath) ForgetFar(has func(mac FastMAC, uplink int) bool) error {
	m := d.maps[portMapFastFar]
	var stale []portHpFastKey
	var key portHpFastKey
	var far portHpFastFar
	it := m.Iterate()
	for it.Next(&key, &far) {
		if !has(FastMAC{Bridge: int(key.Bridge), VLAN: vlan.ID(key.Vlan), MAC: key.Mac}, int(far.Uplink)) {
			stale = append(stale, key)
		}
	}
	// The programs change the map meanwhile, which may end a walk through it early.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("read who is behind uplinks: %w", err)
	}
	for _, key := range stale {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget who is behind an uplink: %w", err)
		}
	}
	return nil
}

// WaitForPrograms returns when all programs that run now have ended, and the bridge has learnt from the packets that they have left
// to it; or after long enough for all but a CPU that stands still.
func WaitForPrograms() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL of linux/membarrier.h, which waits for a grace period of RCU
	if _, _, err := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); err != 0 {
		time.Sleep(50 * time.Millisecond) // a kernel with nohz_full does not have it
	}
}

// FoundFast says that a port that was lost is where its MAC is, as SetFastPath was told; found is false
// for one of two that have it. LoseFast takes that back.
func (d *Datapath) FoundFast(ifindex int, of FastPort) (found bool, err error) {
	return d.markFast(ifindex, of, 0)
}

// LoseFast has packets to a port go by the bridge until FoundFast.
func (d *Datapath) LoseFast(ifindex int, of FastPort) error {
	_, err := d.markFast(ifindex, of, 1)
	return err
}

func (d *Datapath) markFast(ifindex int, of FastPort, lost uint32) (there bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, err := d.record(ifindex)
	if err != nil {
		return false, err
	}
	key := fastKey(rec, of)
	var is portHpFastMac
	if err := d.maps[portMapFastMacs].Lookup(key, &is); errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && is.Ifindex == 0 {
		return false, nil
	}
	err = d.maps[portMapFastMacs].Update(key, portHpFastMac{Ifindex: uint32(ifindex), Slot: rec.Slot, Lost: lost}, ebpf.UpdateExist)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mark a MAC of the fast path: %w", err)
	}
	return true, nil
}
