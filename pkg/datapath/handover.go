package datapath

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// handoverTable is the map handovers, in memory: struct hp_handover as one word, so
// that either side stores it by one instruction.
type handoverTable struct {
	page  []byte
	words []uint64
}

func mapHandovers(m *ebpf.Map) (t handoverTable, err error) {
	t.page, t.words, err = mapArray[uint64](m, PortsMax)
	return t, err
}

func (t *handoverTable) load(slot uint32) portHpHandover {
	w := atomic.LoadUint64(&t.words[slot%PortsMax])
	return *(*portHpHandover)(unsafe.Pointer(&w))
}

func (t *handoverTable) store(slot uint32, h portHpHandover) {
	atomic.StoreUint64(&t.words[slot%PortsMax], *(*uint64)(unsafe.Pointer(&h)))
}

// handoverShift is HANDOVER_SHIFT of bpf/include/clock.h.
const handoverShift = 30

// coarseTime is the programs' clock: since boot, without time asleep.
func coarseTime() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return 0, fmt.Errorf("read the coarse clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// arrived says whether the port's VM has announced itself at it, or HandOver was
// called.
func (d *Datapath) arrived(rec portHpPort) bool {
	return d.handovers.load(rec.Slot).Serial == rec.Serial
}

// effective is the state that packets meet.
func (d *Datapath) effective(rec portHpPort) attach.State {
	s := attach.State(rec.State)
	if s == attach.Quarantined && d.arrived(rec) {
		return attach.Active
	}
	return s
}

// HandOver opens a port whose VM has come to it from another node: for a while it
// takes over the connections that the VM brings. The program may have opened it
// before; then this makes it last.
func (d *Datapath) HandOver(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, err := d.record(ifindex)
	if err != nil {
		return err
	}
	if !d.arrived(rec) {
		now, err := coarseTime()
		if err != nil {
			return err
		}
		d.handovers.store(rec.Slot, portHpHandover{Serial: rec.Serial, At: uint32(now >> handoverShift)})
	}
	rec.State = uint32(attach.Active)
	return d.ports.put(ifindex, rec)
}

// HandedOver says whether a port is open because its VM has arrived at it since it was
// last quarantined: by the VM's own announcement, or because HandOver was called.
func (d *Datapath) HandedOver(ifindex int) bool {
	rec, err := d.record(ifindex)
	return err == nil && d.effective(rec) == attach.Active && d.arrived(rec)
}
