package datapath

import (
	"errors"
	"fmt"

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

// syncUplinks brings the map fast_uplinks to want. An uplink that is not wanted has no VLANs from
// now on, and is in the map as long as the program is attached; mu is held.
func (d *Datapath) syncUplinks(want map[uint32]portHpUplink) error {
	var errs []error
	have, err := d.uplinks()
	if err != nil {
		return err
	}
	for ifindex, is := range have {
		if want[ifindex] == is {
			delete(want, ifindex)
		} else if want[ifindex] == (portHpUplink{}) {
			want[ifindex] = portHpUplink{}
		}
	}
	for ifindex, up := range want {
		errs = append(errs, d.maps[portMapFastUplinks].Put(ifindex, up))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write the uplinks of the fast path: %w", err)
	}
	return nil
}

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

// attachInbound has the program at all uplinks that have VLANs in the map, and at no others. By tcx where
// the kernel has it: such a link is ours alone, and others can have theirs beside it.
func (d *Datapath) attachInbound() error {
	have, err := d.uplinks()
	errs := []error{err}
	for ifindex, up := range have {
		at := int(ifindex)
		switch {
		case up == (portHpUplink{}):
			err := d.detachHook(at, inbound)
			if err == nil {
				err = d.maps[portMapFastUplinks].Delete(ifindex)
			}
			errs = append(errs, err)
		case d.verifyHook(at, inbound) == nil:
		case d.tcx && d.cfg.Attach != AttachClsact:
			errs = append(errs, d.attachTCX(at, inbound))
		default:
			errs = append(errs, d.attachClsact(at, inbound))
		}
	}
	return errors.Join(errs...)
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
