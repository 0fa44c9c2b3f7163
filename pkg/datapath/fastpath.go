package datapath

import (
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// FastPort is what a port of the fast path has to have in common with another for packets
// of established connections to go from one to the other past their bridge.
type FastPort struct {
	Bridge int // ifindex
	MTU    int // bytes
}

// ErrNoFastPath says that this kernel's BPF cannot jump from a program that has functions.
var ErrNoFastPath = errors.New("the kernel cannot run the programs of the fast path")

// fastTable is the map fast_ports, in memory, and what SetFastPath last wrote.
type fastTable struct {
	page  []byte
	ports []portHpFastPort
}

func mapFastPorts(m *ebpf.Map) (t fastTable, err error) {
	if t.page, err = mapMemory(m); err != nil {
		return t, err
	}
	t.ports = unsafe.Slice((*portHpFastPort)(unsafe.Pointer(&t.page[0])), PortsMax)
	return t, nil
}

// setFast writes whether the port of a record takes part, and what it has to have in common, which changes
// only while it takes none; mu is held.
func (d *Datapath) setFast(rec portHpPort, of FastPort) error {
	const flag = 1 // HP_PORT_FAST of bpf/include/abi.h
	at := &d.fastPorts.ports[rec.Slot%PortsMax]
	stays := of.Bridge != 0 && atomic.LoadUint32(&at.Bridge) == uint32(of.Bridge) && atomic.LoadUint32(&at.Mtu) == uint32(of.MTU)
	if !stays {
		rec.Flags &^= flag
		if err := d.ports.put(int(rec.Ifindex), rec); err != nil || of.Bridge == 0 {
			return err
		}
	}
	atomic.StoreUint32(&at.Bridge, uint32(of.Bridge))
	atomic.StoreUint32(&at.Mtu, uint32(of.MTU))
	rec.Flags |= flag
	return d.ports.put(int(rec.Ifindex), rec)
}

// FastPath says whether the kernel has what it takes.
func (d *Datapath) FastPath() bool { return d.into != nil }

// SetFastPath has these ports, by interface, and no others send and get packets of established
// connections past their bridge: access ports of living VMs whose bridge does nothing to such
// packets but forward them, and whose other ends are in other network namespaces. A port that is
// no access port, or not there, takes no part; to a MAC that two of them have, packets go by the bridge. The result are those of them whose MAC was heard at
// another port since they were first given, or since [Datapath.ReturnFast]: packets to them go
// by the bridge.
func (d *Datapath) SetFastPath(ports map[int]FastPort) (moved []int, err error) {
	if d.into == nil && len(ports) > 0 {
		return nil, ErrNoFastPath
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	want := map[portHpFastKey][]portHpFastMac{}
	for ifindex, rec := range d.ports.records() {
		of := ports[ifindex]
		if vlan.Mode(rec.Mode) != vlan.Access {
			of = FastPort{}
		}
		if of.Bridge != 0 {
			key := fastKey(rec, of)
			want[key] = append(want[key], portHpFastMac{Ifindex: uint32(ifindex), Slot: rec.Slot})
		}
		if err := d.setFast(rec, of); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(want, func(_ portHpFastKey, at []portHpFastMac) bool { return len(at) > 1 })
	return d.syncFastMACs(want)
}

func fastKey(rec portHpPort, of FastPort) portHpFastKey {
	return portHpFastKey{Bridge: uint32(of.Bridge), Vlan: rec.Pvid, Mac: rec.Mac}
}

// syncFastMACs brings the map fast_macs to want, which is one place for each. What the programs have
// noted stays.
func (d *Datapath) syncFastMACs(want map[portHpFastKey][]portHpFastMac) (moved []int, err error) {
	m := d.maps[portMapFastMacs]
	var stale []portHpFastKey
	var key portHpFastKey
	var is portHpFastMac
	have := map[portHpFastKey]bool{}
	it := m.Iterate()
	for it.Next(&key, &is) {
		at := want[key]
		switch {
		case at == nil:
			stale = append(stale, key)
		case is.Ifindex == at[0].Ifindex && is.Slot == at[0].Slot:
			have[key] = true
			if is.Moved != 0 {
				moved = append(moved, int(is.Ifindex))
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
		if !have[key] {
			errs = append(errs, m.Put(key, at[0]))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return moved, fmt.Errorf("write the MACs of the fast path: %w", err)
	}
	return moved, nil
}

// ReturnFast has packets to a port go past the bridge again, whose MAC was heard elsewhere but is
// at the port after all.
func (d *Datapath) ReturnFast(ifindex int, of FastPort) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, err := d.record(ifindex)
	if err != nil {
		return err
	}
	err = d.maps[portMapFastMacs].Update(fastKey(rec, of), portHpFastMac{Ifindex: uint32(ifindex), Slot: rec.Slot}, ebpf.UpdateExist)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("have a MAC back in the fast path: %w", err)
	}
	return nil
}
