package datapath

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
)

// slotState is what is known of one port slot.
type slotState uint8

const (
	slotEmpty slotState = iota // nothing published
	slotBusy                   // being filled or emptied
	slotFree                   // fresh inner maps published
	slotUsed                   // a port's
	slotStale                  // inner maps of a port that is gone, or of unknown past
)

// ErrNoSlot says that the node has as many ports as it can have.
var ErrNoSlot = fmt.Errorf("all %d port slots of the node are in use", PortsMax)

// readSlots learns the slots: used by a port, empty, or stale. What an earlier
// process had ready is stale, too: that no port had it cannot be seen.
func (d *Datapath) readSlots() error {
	held, err := pinned(d.pins.slots())
	if err != nil {
		return err
	}
	for _, slot := range held {
		if slot < 0 || slot >= PortsMax {
			return fmt.Errorf("pin of slot %d of %d in %s", slot, PortsMax, d.pins.slots())
		}
		d.slots[slot] = slotStale
	}
	for ifindex, p := range d.ports.records() {
		if p.Slot >= PortsMax {
			return fmt.Errorf("port record of interface %d names slot %d of %d: remove %s", ifindex, p.Slot, PortsMax, d.pins.root())
		}
		d.slots[p.Slot] = slotUsed
	}
	return nil
}

// Free is the number of slots that AttachPort can take without waiting.
func (d *Datapath) Free() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count(slotFree)
}

func (d *Datapath) count(s slotState) (n int) {
	for _, have := range d.slots {
		if have == s {
			n++
		}
	}
	return n
}

// FillPool makes fresh slots until n are free: it creates inner maps and
// publishes them, which waits for a grace period (8 to 26 ms). Slots of ports
// that are gone come first, and lose what they held. The agent calls it after
// Open and whenever Free falls.
func (d *Datapath) FillPool(n int) error {
	slots := d.reserve(n)
	if len(slots) == 0 {
		return nil
	}
	err := d.publishSlots(slots)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, slot := range slots {
		d.slots[slot] = slotFree
		if err != nil {
			d.slots[slot] = slotStale
		}
	}
	return err
}

// reserve takes the slots that are missing for n free ones out of play.
func (d *Datapath) reserve(n int) (slots []uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	missing := n - d.count(slotFree)
	for _, from := range []slotState{slotStale, slotEmpty} {
		for slot := range d.slots {
			if len(slots) < missing && d.slots[slot] == from {
				d.slots[slot] = slotBusy
				slots = append(slots, uint32(slot))
			}
		}
	}
	return slots
}

// publishSlots gives slots fresh inner maps. A map is pinned before it is
// published, so that nothing published is ever unknown.
func (d *Datapath) publishSlots(slots []uint32) error {
	for _, name := range slotMaps() {
		inner := make([]*ebpf.Map, 0, len(slots))
		defer func() { closeAll(inner) }()
		for _, slot := range slots {
			m, err := ebpf.NewMap(d.inner[name])
			if err != nil {
				return fmt.Errorf("make a port's %s: %w", name, err)
			}
			inner = append(inner, m)
			if err := pinOver(m, d.pins.slot(slot, name)); err != nil {
				return fmt.Errorf("a port's %s: %w", name, err)
			}
		}
		if err := publish(d.maps[name], slots, inner); err != nil {
			return fmt.Errorf("publish slots in %s: %w", name, err)
		}
	}
	return d.fillBuckets(slots)
}

func closeAll(maps []*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close() // a map's descriptor; nothing can be done about it
	}
}

// publishers is how many writers share a grace period. Where a batch waits once
// (6.8) it makes little difference; before, each element waits.
const publishers = 16

// publish writes inner maps into an outer one and returns when no program sees
// what was there before.
func publish(outer *ebpf.Map, keys []uint32, inner []*ebpf.Map) error {
	fds := make([]uint32, len(inner))
	for i, m := range inner {
		fds[i] = uint32(m.FD())
	}
	size := max(1, (len(keys)+publishers-1)/publishers)
	errs := make([]error, 0, publishers)
	var mu sync.Mutex
	var all sync.WaitGroup
	values := slices.Collect(slices.Chunk(fds, size))
	for i, chunk := range slices.Collect(slices.Chunk(keys, size)) {
		all.Go(func() {
			err := putAll(outer, chunk, values[i])
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// putAll writes all pairs: in one call where the kernel has it, else singly.
func putAll[K, V any](m *ebpf.Map, keys []K, values []V) error {
	if len(keys) == 0 {
		return nil
	}
	done, err := m.BatchUpdate(keys, values, nil)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("write %d of %d entries: %w", done, len(keys), err)
	}
	for i := range keys {
		if err := m.Put(keys[i], values[i]); err != nil {
			return fmt.Errorf("write entry %d of %d: %w", i, len(keys), err)
		}
	}
	return nil
}

// Reap frees the memory of slots whose ports are gone and that FillPool has not
// made fresh. It waits for grace periods.
func (d *Datapath) Reap() error {
	d.mu.Lock()
	var slots []uint32
	for slot, s := range d.slots {
		if s == slotStale {
			d.slots[slot] = slotBusy
			slots = append(slots, uint32(slot))
		}
	}
	d.mu.Unlock()
	var err error
	for _, name := range slotMaps() {
		err = errors.Join(err, deleteAll(d.maps[name], slots))
	}
	for _, slot := range slots {
		if err == nil {
			err = d.unpinSlot(slot)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, slot := range slots {
		if err != nil {
			d.slots[slot] = slotStale
			continue
		}
		d.slots[slot] = slotEmpty
	}
	if err != nil {
		return fmt.Errorf("free slots of ports that are gone: %w", err)
	}
	return nil
}

// slotMaps are the outer maps that have an inner one for each slot.
func slotMaps() []string { return []string{portMapConns, portMapPortCounters} }

// unpinSlot lets go of a slot's inner maps, which nothing has published any more.
func (d *Datapath) unpinSlot(slot uint32) error {
	var errs []error
	for _, name := range slotMaps() {
		path := d.pins.slot(slot, name)
		errs = append(errs, remove(path), remove(path+pinFresh))
	}
	return errors.Join(errs...)
}

// deleteAll empties slots of an outer map; each waits for a grace period, so
// many do it at once.
func deleteAll(outer *ebpf.Map, keys []uint32) error {
	errs := make([]error, len(keys))
	var all sync.WaitGroup
	limit := make(chan struct{}, publishers)
	for i, key := range keys {
		limit <- struct{}{}
		all.Go(func() {
			defer func() { <-limit }()
			if err := outer.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs[i] = fmt.Errorf("entry %d: %w", key, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// claim takes a free slot; it fills one if there is none.
func (d *Datapath) claim() (uint32, error) {
	for {
		d.mu.Lock()
		slot := slices.Index(d.slots[:], slotFree)
		if slot >= 0 {
			d.slots[slot] = slotUsed
		}
		full := slot < 0 && d.count(slotUsed) == PortsMax
		d.mu.Unlock()
		if slot >= 0 {
			return uint32(slot), nil
		}
		if full {
			return 0, ErrNoSlot
		}
		if err := d.FillPool(1); err != nil {
			return 0, err
		}
	}
}

// release gives a port's slot back, to be made fresh before another gets it.
func (d *Datapath) release(slot uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slots[slot] = slotStale
}
