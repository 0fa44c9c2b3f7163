package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Counter counts packets as on the wire (segments of a GSO packet) and bytes as
// the kernel holds them (a GSO packet's headers once).
type Counter struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// ReasonCounters has, by reason, one counter a direction, by policy.Direction.
// Reasons never seen are missing.
type ReasonCounters map[policy.Reason][2]Counter

// PortCounters says what became of a port's packets since it was attached.
func (d *Datapath) PortCounters(ifindex int) (ReasonCounters, error) {
	rec, err := d.record(ifindex)
	if err != nil {
		return nil, err
	}
	m, err := d.innerMap(portMapPortCounters, rec.Slot)
	if err != nil {
		return nil, fmt.Errorf("counters of port at interface %d: %w", ifindex, err)
	}
	defer m.Close()
	out, err := readReasons(m)
	if err != nil {
		return nil, err
	}
	return out, d.readLate(rec.Serial, out)
}

// readLate adds what a port has in late_counters.
func (d *Datapath) readLate(serial uint32, to ReasonCounters) error {
	if d.maps[portMapLateCounters] == nil { // of pins of an earlier version
		return nil
	}
	for _, reason := range policy.Reasons() {
		if reason < reasonsCounted {
			continue
		}
		var perCPU []portHpReasonCounter
		switch err := d.maps[portMapLateCounters].Lookup(portHpLateKey{Serial: serial, Reason: uint32(reason)}, &perCPU); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
		case err != nil:
			return fmt.Errorf("read counter of %v: %w", reason, err)
		default:
			to.add(uint32(reason), perCPU)
		}
	}
	return nil
}

// StrayCounters counts packets at hooks of interfaces without a port record.
func (d *Datapath) StrayCounters() (ReasonCounters, error) {
	return readReasons(d.maps[portMapStrayCounters])
}

func readReasons(m *ebpf.Map) (ReasonCounters, error) {
	out := ReasonCounters{}
	for reason := range uint32(reasonsCounted) {
		var perCPU []portHpReasonCounter
		if err := m.Lookup(reason, &perCPU); err != nil {
			return nil, fmt.Errorf("read counter of %v: %w", policy.Reason(reason), err)
		}
		out.add(reason, perCPU)
	}
	return out, nil
}

func (r ReasonCounters) add(reason uint32, perCPU []portHpReasonCounter) {
	var sum [2]Counter
	for _, c := range perCPU {
		for dir := range sum {
			sum[dir].Packets += c.Dir[dir].Packets
			sum[dir].Bytes += c.Dir[dir].Bytes
		}
	}
	if sum != [2]Counter{} {
		r[policy.Reason(reason)] = sum
	}
}

// innerMap opens what an outer map has in a slot, by its pin: by its id it would need
// CAP_SYS_ADMIN.
func (d *Datapath) innerMap(outer string, slot uint32) (*ebpf.Map, error) {
	if slot >= PortsMax {
		return nil, fmt.Errorf("slot %d of %d", slot, PortsMax)
	}
	m, err := ebpf.LoadPinnedMap(d.pins.slot(slot, outer), nil)
	if err != nil {
		return nil, fmt.Errorf("%s of slot %d: %w", outer, slot, err)
	}
	return m, nil
}
