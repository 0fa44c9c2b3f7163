package datapath

import (
	"errors"
	"fmt"
	"net"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Port is what the port programs know of a port.
type Port struct {
	IfIndex int
	// State is what packets meet: a quarantined port whose VM has arrived is Active.
	State attach.State
	// Network whose policy judges the port; "" is none.
	Network string
	VLANs   attach.VLANs
	MAC     net.HardwareAddr
	// Security and Segment, SegmentOf its trunk or 0 of a port of earlier versions, are not told by [Datapath.Ports].
	Security attach.Security
	Segment  uint32
	// Slot and Serial tell this port from all others since the maps were made.
	Slot, Serial uint32
}

// AttachPort makes the interface a port in state Dark and attaches both hooks.
// It can be repeated; what an earlier interface with this index left is replaced.
// It waits for no grace period if the pool has a slot and hooks are by clsact.
func (d *Datapath) AttachPort(i attach.Interface, c attach.PortConfig) error {
	if err := d.checkInterface(i); err != nil {
		return err
	}
	rec, err := d.record(i.Index)
	fresh := err != nil
	if !fresh && d.VerifyPort(i.Index) != nil {
		// Of an interface that is gone, or of an attach that was cut short.
		if err := d.DetachPort(i.Index); err != nil {
			return err
		}
		fresh = true
	}
	if fresh {
		rec = portHpPort{} // nothing of what there was
		if rec.Slot, err = d.claim(); err != nil {
			return err
		}
		rec.Serial = d.control.nextSerial()
	}
	rec.State = uint32(attach.Dark)
	if err := d.putConfig(i.Index, rec, c); err != nil {
		if fresh {
			d.release(rec.Slot)
		}
		return err
	}
	for h := range Hook(hooks) {
		if err := d.attachHook(i.Index, h); err != nil {
			return errors.Join(err, d.DetachPort(i.Index))
		}
	}
	return nil
}

// checkInterface makes sure that the index still means the interface.
func (d *Datapath) checkInterface(i attach.Interface) error {
	l, err := d.netlink.LinkByIndex(i.Index)
	if err != nil {
		return fmt.Errorf("interface %d (%s): %w", i.Index, i.Name, err)
	}
	if i.Name != "" && l.Attrs().Name != i.Name {
		return fmt.Errorf("interface %d is %s, not %s: it was deleted and its index given to another", i.Index, l.Attrs().Name, i.Name)
	}
	return nil
}

// UpdatePort changes what a port may carry, in one step. State, connections and
// counters stay.
func (d *Datapath) UpdatePort(ifindex int, c attach.PortConfig) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, err := d.record(ifindex)
	if err != nil {
		return err
	}
	return d.putConfigLocked(ifindex, rec, c)
}

// SetState changes a port's state in one step. One that is quarantined waits for its
// VM anew.
func (d *Datapath) SetState(ifindex int, s attach.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, err := d.record(ifindex)
	if err != nil {
		return err
	}
	if s == attach.Quarantined && d.arrived(rec) {
		d.handovers.store(rec.Slot, portHpHandover{})
	}
	rec.State = uint32(s)
	return d.ports.put(ifindex, rec)
}

// DetachPort forgets the port and removes its hooks. The interface may be gone,
// and so may the port. Its slot is kept from others until FillPool or Reap.
func (d *Datapath) DetachPort(ifindex int) error {
	d.mu.Lock()
	rec, err := d.record(ifindex)
	if err == nil {
		d.ports.remove(ifindex)
		d.slots[rec.Slot%PortsMax] = slotStale
	}
	d.mu.Unlock()
	return errors.Join(d.detachHook(ifindex, FromVM), d.detachHook(ifindex, ToVM))
}

// Ports lists all ports, in no order.
func (d *Datapath) Ports() []Port {
	var out []Port
	for ifindex, rec := range d.ports.records() {
		out = append(out, d.describe(ifindex, rec))
	}
	return out
}

// Port describes one port; the error wraps ErrNoRecord if there is none.
func (d *Datapath) Port(ifindex int) (Port, error) {
	rec, err := d.record(ifindex)
	if err != nil {
		return Port{}, err
	}
	p := d.describe(ifindex, rec)
	if p.Security, err = d.securityOf(rec); err != nil {
		return p, err
	}
	segments := d.maps[portMapPortSegments]
	if segments == nil { // pins of an earlier version
		return p, nil
	}
	if err := segments.Lookup(rec.Slot, &p.Segment); err != nil {
		return p, fmt.Errorf("trunk of the port in slot %d: %w", rec.Slot, err)
	}
	return p, nil
}

func (d *Datapath) describe(ifindex int, rec portHpPort) Port {
	p := Port{
		IfIndex: ifindex, State: d.effective(rec), Network: d.networkOf(rec.Policy),
		VLANs: attach.VLANs{Mode: vlan.Mode(rec.Mode), PVID: vlan.ID(rec.Pvid)},
		MAC:   net.HardwareAddr(rec.Mac[:]), Slot: rec.Slot, Serial: rec.Serial,
	}
	for id := vlan.ID(1); id <= vlan.Max; id++ {
		if rec.Vlans[id/64]>>(id%64)&1 == 1 {
			_ = p.VLANs.Tagged.Add(id) // cannot fail in this range
		}
	}
	return p
}

// VerifyPort is nil if the port has its record and both hooks run the loaded
// programs. Else it is a [*PortError] around ErrNoRecord, ErrNotAttached,
// ErrSevered or ErrWrongProgram, or what kept it from looking.
func (d *Datapath) VerifyPort(ifindex int) error {
	if _, err := d.record(ifindex); err != nil {
		return err
	}
	for h := range Hook(hooks) {
		if err := d.verifyHook(ifindex, h); err != nil {
			return &PortError{ifindex, h, err}
		}
	}
	return nil
}

// RepairPort attaches what VerifyPort misses; state, slot and config stay. It
// cannot invent a record: without one the port has to be attached anew.
func (d *Datapath) RepairPort(ifindex int) error {
	if _, err := d.record(ifindex); err != nil {
		return err
	}
	for h := range Hook(hooks) {
		if d.verifyHook(ifindex, h) == nil {
			continue
		}
		if err := d.attachHook(ifindex, h); err != nil {
			return err
		}
		if d.fast() {
			// A severed or foreign link is of no use any more.
			if err := remove(d.pins.link(ifindex, h)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Settled says whether SettlePort has nothing to do at the port.
func (d *Datapath) Settled(ifindex int) bool {
	if !d.tcx || d.cfg.Attach != AttachAuto {
		return true
	}
	for h := range Hook(hooks) {
		l, id, err := d.linkAt(ifindex, h)
		if l != nil {
			_ = l.Close() // a descriptor; the pin keeps the link
		}
		fid, ferr := d.findFilter(ifindex, h)
		if err != nil || ferr != nil || id != d.progID[h] || fid != 0 {
			return false
		}
	}
	return true
}

// SettlePort moves the port's hooks to pinned tcx links, where the kernel has
// them and the mode is AttachAuto; else it does nothing. The filters go last, so
// packets are judged throughout, for a moment twice with the same outcome. It
// waits for grace periods (24 ms) with the kernel's network lock held: the agent
// settles ports one by one, when no ADD or DEL is at work.
func (d *Datapath) SettlePort(ifindex int) error {
	if d.Settled(ifindex) {
		return nil
	}
	if _, err := d.record(ifindex); err != nil {
		return err
	}
	for h := range Hook(hooks) {
		l, id, err := d.linkAt(ifindex, h)
		if l != nil {
			_ = l.Close() // a descriptor; the pin keeps the link
		}
		if err != nil || id != d.progID[h] {
			if err := d.attachTCX(ifindex, h); err != nil {
				return err
			}
		}
		if err := d.deleteFilter(ifindex, h); err != nil {
			return err
		}
	}
	return nil
}

// replacePrograms swaps the programs at all ports for the loaded ones. A port
// whose hooks are broken is left for VerifyPort to tell.
func (d *Datapath) replacePrograms() {
	d.replaceInbound()
	for ifindex := range d.ports.records() {
		for h := range Hook(hooks) {
			if err := d.replaceHook(ifindex, h); err != nil {
				d.log.Warn("program not replaced", "ifindex", ifindex, "error", err)
			}
		}
	}
}

// GC removes ports and pinned links of interfaces that keep does not name, and
// says which.
func (d *Datapath) GC(keep func(ifindex int) bool) (removed []int, err error) {
	records := d.ports.records()
	pinned, err := pinned(d.pins.links())
	if err != nil {
		return nil, err
	}
	for _, ifindex := range pinned {
		if _, ok := records[ifindex]; !ok {
			records[ifindex] = portHpPort{}
		}
	}
	for ifindex := range records {
		if keep(ifindex) {
			continue
		}
		if err := d.DetachPort(ifindex); err != nil {
			return removed, err
		}
		removed = append(removed, ifindex)
	}
	return removed, nil
}
