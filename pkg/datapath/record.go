package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// record reads one entry of ports.
func (d *Datapath) record(ifindex int) (rec portHpPort, err error) {
	err = d.maps[portMapPorts].Lookup(uint32(ifindex), &rec)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return portHpPort{}, &PortError{IfIndex: ifindex, Err: ErrNoRecord}
	}
	if err != nil {
		return portHpPort{}, fmt.Errorf("read port at interface %d: %w", ifindex, err)
	}
	return rec, nil
}

// records reads all of ports.
func (d *Datapath) records() (map[int]portHpPort, error) {
	out := map[int]portHpPort{}
	var ifindex uint32
	var rec portHpPort
	it := d.maps[portMapPorts].Iterate()
	for it.Next(&ifindex, &rec) {
		out[int(ifindex)] = rec
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read ports: %w", err)
	}
	return out, nil
}

// put writes an entry of ports as a whole; mu is held.
func (d *Datapath) put(ifindex int, rec portHpPort) error {
	if err := d.maps[portMapPorts].Put(uint32(ifindex), rec); err != nil {
		return fmt.Errorf("write port at interface %d: %w", ifindex, err)
	}
	return nil
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
	number, err := d.policyNumber(c.Policy)
	if err != nil {
		return err
	}
	rec.Policy = number
	rec.Mode, rec.Pvid = uint16(c.VLANs.Mode), uint16(c.VLANs.PVID)
	rec.Vlans = c.VLANs.Tagged.Words()
	copy(rec.Mac[:], c.MAC)
	return d.put(ifindex, rec)
}
