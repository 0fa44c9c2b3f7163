package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// addInbound has the program at a port's uplink know of the port.
func addInbound(uplinks map[uint32]portHpUplink, rec portHpPort, of FastPort) {
	if !of.Inbound || of.Uplink == 0 || rec.Pvid > uint16(vlan.Max) {
		return
	}
	ifindex := uint32(of.Uplink)
	up := uplinks[ifindex]
	up.Bridge = uint32(of.Bridge)
	up.Vlans[rec.Pvid/64] |= 1 << (rec.Pvid % 64)
	const several = 4095 // no VLAN
	switch {
	case of.Tag != 0:
	case up.Native == 0 || up.Native == rec.Pvid:
		up.Native = rec.Pvid
	default: // which of them a frame is of the bridge may know
		up.Native = several
	}
	uplinks[ifindex] = up
}

// syncUplinks writes what the program at uplinks has to know, where it is attached; mu is held.
func (d *Datapath) syncUplinks(want map[uint32]portHpUplink) error {
	have, err := d.uplinks()
	if err != nil {
		return err
	}
	errs := make([]error, 0, len(have))
	for ifindex, is := range have {
		if want[ifindex] == is {
			continue
		}
		err := d.maps[portMapFastUplinks].Update(ifindex, want[ifindex], ebpf.UpdateExist)
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write the uplinks of the fast path: %w", err)
	}
	return nil
}

// uplinks are those in the map fast_uplinks: where the program is, or may be.
func (d *Datapath) uplinks() (map[uint32]portHpUplink, error) {
	out := map[uint32]portHpUplink{}
	var ifindex uint32
	var up portHpUplink
	it := d.maps[portMapFastUplinks].Iterate()
	for it.Next(&ifindex, &up) {
		out[ifindex] = up
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read the uplinks of the fast path: %w", err)
	}
	return out, nil
}

// AttachInbound has the program that takes packets past the bridge at these uplinks, and at no others. It does so for
// ports that SetFastPath is given afterwards. Failed says at which it could not be attached. By tcx where
// the kernel has it: such a link is ours alone, and others can have theirs beside it.
func (d *Datapath) AttachInbound(uplinks ...int) (failed map[int]error, err error) {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	have, err := d.uplinks()
	if err != nil {
		return nil, err
	}
	m, failed := d.maps[portMapFastUplinks], map[int]error{}
	for _, at := range uplinks {
		err := error(nil)
		if err = m.Update(uint32(at), portHpUplink{}, ebpf.UpdateNoExist); errors.Is(err, ebpf.ErrKeyExist) {
			err = nil
		}
		if err == nil && d.verifyHook(at, inbound) != nil {
			err = d.attachInbound(at)
		}
		if delete(have, uint32(at)); err != nil {
			failed[at] = err
			have[uint32(at)] = portHpUplink{} // there may be half of it
		}
	}
	errs := []error{}
	for ifindex := range have {
		err := d.detachHook(int(ifindex), inbound)
		if err == nil {
			err = m.Delete(ifindex)
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	return failed, errors.Join(errs...)
}

// ReadyUplink makes the place for the program at an uplink, before VMs use it: where that is by clsact
// (without tcx), kernels stop the interface's queues for the moment that the qdisc is added, and what is sent then is
// lost (qdisc_graft, up to Linux 6.3). Once it is there, programs come and go without that.
func (d *Datapath) ReadyUplink(ifindex int) error {
	if d.progs[inbound] == nil || d.inboundByTCX() {
		return nil
	}
	return d.addClsact(ifindex)
}

func (d *Datapath) inboundByTCX() bool { return d.tcx && d.cfg.Attach != AttachClsact }

func (d *Datapath) attachInbound(ifindex int) error {
	if d.progs[inbound] == nil {
		return ErrNoFastPath
	}
	if d.inboundByTCX() {
		return d.attachTCX(ifindex, inbound)
	}
	return d.attachClsact(ifindex, inbound)
}

// replaceInbound swaps the program at uplinks for the loaded one, or takes it off if there is none.
func (d *Datapath) replaceInbound() {
	have, err := d.uplinks()
	if err != nil {
		d.log.Warn("programs at uplinks not replaced", "error", err)
	}
	for ifindex := range have {
		if d.progs[inbound] == nil {
			err = d.detachHook(int(ifindex), inbound)
		} else {
			err = d.replaceHook(int(ifindex), inbound)
		}
		if err != nil {
			d.log.Warn("program not replaced", "ifindex", ifindex, "error", err)
		}
	}
}
