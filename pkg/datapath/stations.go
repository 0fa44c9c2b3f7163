package datapath

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
)

// stationsFor is how long a MAC is a port's that it has sent from, in ticks: as long as a bridge keeps one.
const stationsFor = int32(5 * time.Minute >> tickShift)

// Sweep forgets MACs beside their own that ports have not sent from for five minutes, so that there is room for others,
// and all that is kept by the serials of ports that are gone. The agent calls it now and then.
func (d *Datapath) Sweep() error {
	now, err := coarseTime()
	if err != nil {
		return err
	}
	lives := &living{slots: map[uint32]uint32{}}
	macs := map[[6]uint8]bool{}
	d.mu.Lock()
	lives.last = d.control.lastSerial()
	for _, rec := range d.ports.records() {
		lives.slots[rec.Serial] = rec.Slot
		macs[rec.Mac] = true
	}
	err = d.sweepMACs(macs)
	d.mu.Unlock()
	return errors.Join(err, d.sweepStations(lives, uint32(now>>tickShift)), d.sweepLate(lives))
}

// living are the ports that there are.
type living struct {
	slots map[uint32]uint32 // by serial
	last  uint32            // serial that was given out
}

// gone says that a serial is of a port that is no more, and not of one that has come since.
func (l *living) gone(serial uint32) bool {
	_, ok := l.slots[serial]
	return !ok && int32(serial-l.last) <= 0
}

func (d *Datapath) sweepStations(lives *living, now uint32) error {
	before := map[uint32]uint64{} // of slots
	for _, slot := range lives.slots {
		before[slot] = atomic.LoadUint64(&d.stationCounts[slot])
	}
	left := map[uint32]uint64{}
	var old []portHpStationKey
	var k portHpStationKey
	var seen uint32
	all := d.maps[portMapStations].Iterate()
	for all.Next(&k, &seen) {
		_, ok := lives.slots[k.Serial]
		switch {
		case lives.gone(k.Serial), ok && int32(now-seen) > stationsFor:
			old = append(old, k)
		case ok:
			left[k.Slot]++
		}
	}
	// What comes and goes meanwhile may end it; the next call sees the rest.
	aborted := errors.Is(all.Err(), ebpf.ErrIterationAborted)
	if err := all.Err(); err != nil && !aborted {
		return fmt.Errorf("read the MACs that ports have sent from: %w", err)
	}
	for _, k := range old {
		switch err := d.maps[portMapStations].Delete(k); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
		case err != nil:
			return fmt.Errorf("forget a MAC that a port has sent from: %w", err)
		default:
			if _, ok := lives.slots[k.Serial]; ok {
				before[k.Slot]--
				atomic.AddUint64(&d.stationCounts[k.Slot], ^uint64(0))
			}
		}
	}
	if aborted {
		return nil
	}
	// What an agent has left that was killed between the two, or a port before this one, is put right where nothing
	// was added meanwhile.
	for slot, was := range before {
		if was != left[slot] {
			atomic.CompareAndSwapUint64(&d.stationCounts[slot], was, left[slot])
		}
	}
	return nil
}

// sweepLate forgets what ports have counted that are gone.
func (d *Datapath) sweepLate(lives *living) error {
	var old []portHpLateKey
	var k portHpLateKey
	var perCPU []portHpReasonCounter
	all := d.maps[portMapLateCounters].Iterate()
	for all.Next(&k, &perCPU) {
		if lives.gone(k.Serial) {
			old = append(old, k)
		}
	}
	if err := all.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("read late counters: %w", err)
	}
	for _, k := range old {
		if err := d.maps[portMapLateCounters].Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a counter of a port that is gone: %w", err)
		}
	}
	return nil
}

// fillBuckets has the ports that get these slots begin with full ones, and with no station.
func (d *Datapath) fillBuckets(slots []uint32) error {
	for _, slot := range slots {
		atomic.StoreUint64(&d.stationCounts[slot], 0)
		if err := d.maps[portMapUnicastBuckets].Put(slot, uint64(0)); err != nil {
			return fmt.Errorf("fill the bucket of unicast of slot %d: %w", slot, err)
		}
		for of := range uint32(2) {
			if err := d.maps[portMapBuckets].Put(slot*2+of, uint64(0)); err != nil {
				return fmt.Errorf("fill the buckets of slot %d: %w", slot, err)
			}
		}
	}
	return nil
}

// sweepMACs brings port_macs to what the ports' records say; mu is held.
func (d *Datapath) sweepMACs(macs map[[6]uint8]bool) error {
	var old []portHpMacKey
	var k portHpMacKey
	var v uint32
	all := d.maps[portMapPortMacs].Iterate()
	for all.Next(&k, &v) {
		if !macs[k.Mac] {
			old = append(old, k)
		}
		delete(macs, k.Mac)
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("read the MACs of ports: %w", err)
	}
	for mac := range macs { // of ports that an earlier version has made
		if err := d.maps[portMapPortMacs].Put(portHpMacKey{Mac: mac}, uint32(1)); err != nil {
			return fmt.Errorf("note the MAC of a port: %w", err)
		}
	}
	for _, k := range old {
		if err := d.maps[portMapPortMacs].Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget the MAC of a port that is gone: %w", err)
		}
	}
	return nil
}
