package datapath

import (
	"errors"
	"fmt"
	"time"

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
	return readReasons(m)
}

// StrayCounters counts packets at hooks of interfaces without a port record.
func (d *Datapath) StrayCounters() (ReasonCounters, error) {
	return readReasons(d.maps[portMapStrayCounters])
}

func readReasons(m *ebpf.Map) (ReasonCounters, error) {
	out := ReasonCounters{}
	for reason := range uint32(reasonsMax) {
		var perCPU []portHpReasonCounter
		if err := m.Lookup(reason, &perCPU); err != nil {
			return nil, fmt.Errorf("read counter of %v: %w", policy.Reason(reason), err)
		}
		var sum [2]Counter
		for _, c := range perCPU {
			for dir := range sum {
				sum[dir].Packets += c.Dir[dir].Packets
				sum[dir].Bytes += c.Dir[dir].Bytes
			}
		}
		if sum != [2]Counter{} {
			out[policy.Reason(reason)] = sum
		}
	}
	return out, nil
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

// RuleCounter is what a rule judged.
type RuleCounter struct {
	Counter
	Last time.Time `json:"last,omitzero"` // when it last did, to about a second; zero: never
}

// RuleCounters reads rule counters by index (see compile.Counters).
func (d *Datapath) RuleCounters(indexes []uint32) (map[uint32]RuleCounter, error) {
	clock, err := coarseTime()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	out := make(map[uint32]RuleCounter, len(indexes))
	for _, i := range indexes {
		var perCPU []portHpCounter
		if err := d.maps[portMapRuleCounters].Lookup(i, &perCPU); err != nil {
			return nil, fmt.Errorf("read rule counter %d: %w", i, err)
		}
		var sum RuleCounter
		for _, c := range perCPU {
			sum.Packets += c.Packets
			sum.Bytes += c.Bytes
		}
		var seen uint32
		if err := d.maps[portMapRuleSeen].Lookup(i, &seen); err != nil {
			return nil, fmt.Errorf("read when rule counter %d last counted: %w", i, err)
		}
		if seen > 0 {
			sum.Last = now.Add(time.Duration(seen-1)<<handoverShift - clock).Truncate(time.Second)
		}
		out[i] = sum
	}
	return out, nil
}

// ClearRuleCounters sets counters to zero that a new rule takes over.
func (d *Datapath) ClearRuleCounters(indexes []uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	var errs []error
	for _, i := range indexes {
		if err := errors.Join(d.maps[portMapRuleCounters].Put(i, make([]portHpCounter, cpus)), d.maps[portMapRuleSeen].Put(i, uint32(0))); err != nil {
			errs = append(errs, fmt.Errorf("clear rule counter %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}
