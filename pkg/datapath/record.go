package datapath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Limits of bpf/include/abi.h.
const (
	portCells  = 65536
	portProbes = 8
)

// Flags of a port's record there.
const (
	portFast        = 1
	portPromiscuous = 2
	portBPDUGuard   = 4
	portRAGuard     = 8
	portDHCPGuard   = 16
	portForged      = 32
	portMACChanges  = 64
	portRates       = 128
	portIPGuard     = 256
	portStrict      = 512
	portARPGuard    = 1024
	portNDGuard     = 2048
	portEtherTypes  = 4096
	portUnicast     = 8192
	portSuppress    = 16384
	portSecurity    = portPromiscuous | portBPDUGuard | portRAGuard | portDHCPGuard | portForged | portMACChanges | portRates |
		portIPGuard | portStrict | portARPGuard | portNDGuard | portEtherTypes | portUnicast | portSuppress
)

// portTable is the maps port_index and port_records, in memory.
type portTable struct {
	indexPage, portsPage []byte
	index                []uint32
	ports                []portHpPort
}

func mapPorts(index, ports *ebpf.Map) (t portTable, err error) {
	if t.indexPage, err = mapMemory(index); err != nil {
		return t, err
	}
	if t.portsPage, err = mapMemory(ports); err != nil {
		return t, errors.Join(err, unmap(t.indexPage))
	}
	// The index is an array of 4-byte values in cells of 8.
	t.index = unsafe.Slice((*uint32)(unsafe.Pointer(&t.indexPage[0])), portCells*cellWords)
	t.ports = unsafe.Slice((*portHpPort)(unsafe.Pointer(&t.portsPage[0])), PortsMax*2)
	return t, nil
}

// cellWords: the kernel rounds an array's values up to 8 bytes.
const cellWords = 2

func (t *portTable) cell(n int) *uint32 { return &t.index[n%portCells*cellWords] }

func (t *portTable) close() error { return errors.Join(unmap(t.indexPage), unmap(t.portsPage)) }

// find gives the interface's cell and its place in ports; nil if it has none.
func (t *portTable) find(ifindex int) (cell *uint32, place uint32) {
	for probe := range portProbes {
		c := t.cell(ifindex + probe)
		n := atomic.LoadUint32(c)
		if n > 0 && n <= PortsMax*2 && t.ports[n-1].Ifindex == uint32(ifindex) {
			return c, n - 1
		}
	}
	return nil, 0
}

// put writes a version of a record and then has the index lead to it. The place is
// that of the version before the last, which a packet may still read if the last is
// younger than packets are old: so what changes nothing makes no version.
func (t *portTable) put(ifindex int, rec portHpPort) error {
	rec.Ifindex = uint32(ifindex)
	cell, place := t.find(ifindex)
	next := rec.Slot * 2
	if cell != nil && t.ports[place] == rec {
		return nil
	}
	if cell != nil && place == next {
		next++
	}
	for probe := 0; cell == nil && probe < portProbes; probe++ {
		if c := t.cell(ifindex + probe); atomic.LoadUint32(c) == 0 {
			cell = c
		}
	}
	if cell == nil {
		return fmt.Errorf("port at interface %d: its place among %d is taken by older ports; try again with a new interface", ifindex, portCells)
	}
	t.ports[next] = rec
	atomic.StoreUint32(cell, next+1)
	return nil
}

func (t *portTable) remove(ifindex int) {
	if cell, _ := t.find(ifindex); cell != nil {
		atomic.StoreUint32(cell, 0)
	}
}

// PinnedPorts lists the host interfaces that have a port record below a BPF
// filesystem, in ascending order, without touching anything. No pinned maps are no
// ports.
func PinnedPorts(bpffs string) ([]int, error) {
	dir := pins{bpffs}.maps()
	var pinned [2]*ebpf.Map
	for i, name := range []string{portMapPortIndex, portMapPortRecords} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		defer m.Close()
		pinned[i] = m
	}
	t, err := mapPorts(pinned[0], pinned[1])
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(t.records())), t.close()
}

// record reads one port's record.
func (d *Datapath) record(ifindex int) (portHpPort, error) {
	if cell, place := d.ports.find(ifindex); cell != nil {
		return d.ports.ports[place], nil
	}
	return portHpPort{}, &PortError{IfIndex: ifindex, Err: ErrNoRecord}
}

// records reads all records, by interface.
func (t *portTable) records() map[int]portHpPort {
	out := map[int]portHpPort{}
	for n := range portCells {
		if place := atomic.LoadUint32(t.cell(n)); place > 0 && place <= PortsMax*2 {
			rec := t.ports[place-1]
			out[int(rec.Ifindex)] = rec
		}
	}
	return out
}

func (d *Datapath) putConfig(ifindex int, rec portHpPort, c attach.PortConfig) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.putConfigLocked(ifindex, rec, c)
}

// putConfigLocked writes rec with what c says; mu is held.
func (d *Datapath) putConfigLocked(ifindex int, rec portHpPort, c attach.PortConfig) error {
	if len(c.MAC) != 6 || c.MAC[0]&1 != 0 {
		return fmt.Errorf("port at interface %d: MAC %q is no unicast Ethernet address", ifindex, c.MAC)
	}
	if c.VLANs.Mode > vlan.Native {
		return fmt.Errorf("port at interface %d: VLAN mode %v is not known", ifindex, c.VLANs.Mode)
	}
	switch c.Security.IPGuard {
	case attach.GuardOff, attach.GuardLearn, attach.GuardStrict:
	default:
		return fmt.Errorf("port at interface %d: ipGuard %q is not known: it must be Learn, Strict or none", ifindex, c.Security.IPGuard)
	}
	number, err := d.policyNumber(c.Policy)
	if err != nil {
		return err
	}
	rec.Policy = number
	rec.Mode, rec.Pvid = uint16(c.VLANs.Mode), uint16(c.VLANs.PVID)
	rec.Vlans = c.VLANs.Tagged.Words()
	copy(rec.Mac[:], c.MAC)
	if err := d.maps[portMapPortRates].Put(rec.Slot, portHpRates{Broadcast: c.Security.BroadcastLimit, Multicast: c.Security.MulticastLimit}); err != nil {
		return fmt.Errorf("port at interface %d: rate limits: %w", ifindex, err)
	}
	if c.Security.EtherTypes != (attach.EtherTypes{}) { // else what there is counts until the record says that none does
		if err := d.maps[portMapPortEthertypes].Put(rec.Slot, portHpEthertypes{Of: c.Security.EtherTypes}); err != nil {
			return fmt.Errorf("port at interface %d: EtherTypes: %w", ifindex, err)
		}
	}
	if err := d.maps[portMapUnicastLimits].Put(rec.Slot, c.Security.UnicastLimit); err != nil {
		return fmt.Errorf("port at interface %d: rate limit of unicast: %w", ifindex, err)
	}
	if err := d.maps[portMapPortMacs].Put(portHpMacKey{Mac: rec.Mac}, uint32(1)); err != nil {
		return fmt.Errorf("port at interface %d: note its MAC: %w", ifindex, err)
	}
	if err := d.maps[portMapPortSegments].Put(rec.Slot, SegmentOf(c.Trunk)); err != nil {
		return fmt.Errorf("port at interface %d: note its trunk: %w", ifindex, err)
	}
	rec.Flags = rec.Flags&^portSecurity | securityFlags(c.Security)
	return d.ports.put(ifindex, rec)
}

// securityOf is what a port's record and rates come to.
func (d *Datapath) securityOf(rec portHpPort) (s attach.Security, err error) {
	var rates portHpRates
	if err := d.maps[portMapPortRates].Lookup(rec.Slot, &rates); err != nil {
		return s, fmt.Errorf("rate limits of the port in slot %d: %w", rec.Slot, err)
	}
	is := func(flag uint16) bool { return rec.Flags&flag != 0 }
	s = attach.Security{Promiscuous: is(portPromiscuous), ForgedTransmits: is(portForged), MACChanges: is(portMACChanges), BPDUs: !is(portBPDUGuard),
		RAGuard: is(portRAGuard), DHCPServerGuard: is(portDHCPGuard), ARPGuard: is(portARPGuard), NDGuard: is(portNDGuard), Suppression: is(portSuppress)}
	switch {
	case is(portIPGuard) && is(portStrict):
		s.IPGuard = attach.GuardStrict
	case is(portIPGuard):
		s.IPGuard = attach.GuardLearn
	}
	if is(portUnicast) && d.maps[portMapUnicastLimits] != nil {
		if err := d.maps[portMapUnicastLimits].Lookup(rec.Slot, &s.UnicastLimit); err != nil {
			return s, fmt.Errorf("rate limit of unicast of the port in slot %d: %w", rec.Slot, err)
		}
	}
	if is(portEtherTypes) && d.maps[portMapPortEthertypes] != nil { // pins of an earlier version have none
		var types portHpEthertypes
		if err := d.maps[portMapPortEthertypes].Lookup(rec.Slot, &types); err != nil {
			return s, fmt.Errorf("EtherTypes of the port in slot %d: %w", rec.Slot, err)
		}
		s.EtherTypes = types.Of
	}
	if is(portRates) {
		s.BroadcastLimit, s.MulticastLimit = rates.Broadcast, rates.Multicast
	}
	return s, nil
}

// securityFlags are those of a port's record, HP_PORT_ in bpf/include/abi.h.
func securityFlags(s attach.Security) (flags uint16) {
	for flag, on := range map[uint16]bool{portPromiscuous: s.Promiscuous, portForged: s.ForgedTransmits, portMACChanges: s.MACChanges,
		portBPDUGuard: !s.BPDUs, portRAGuard: s.RAGuard, portDHCPGuard: s.DHCPServerGuard, portRates: s.BroadcastLimit|s.MulticastLimit != 0,
		portIPGuard: s.IPGuard != attach.GuardOff, portStrict: s.IPGuard == attach.GuardStrict, portARPGuard: s.ARPGuard, portNDGuard: s.NDGuard,
		portUnicast: s.UnicastLimit != 0, portEtherTypes: s.EtherTypes != attach.EtherTypes{}, portSuppress: s.Suppression} {
		if on {
			flags |= flag
		}
	}
	return flags
}
