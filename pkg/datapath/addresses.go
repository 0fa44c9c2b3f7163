package datapath

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// AddressesMax is how many addresses a node's programs can know.
const AddressesMax = 131072

// Flags of struct hp_address.
const (
	addressFirm     = 1
	addressShared   = 2
	addressWaits    = 4
	addressNobodys  = 8
	addressDisputed = 16
)

// AddressKey is an address in a VLAN of a trunk.
type AddressKey struct {
	// Trunk is as in attach.PortConfig.
	Trunk string
	// VLAN is that of the port, or the one that its VM tags.
	VLAN vlan.ID
	Addr netip.Addr
}

// AddressHolder is which NIC has an address, and what guards make of it.
type AddressHolder struct {
	// MAC is that of the NIC's port; zero if the address is nobody's, or shared and of a NIC that is not known.
	MAC [6]byte
	// Firm says that somebody vouches for it: declared, leased, approved, set by hand, or link-local of IPv6 and held.
	Firm bool
	// Shared says that it moves between NICs, as VRRP's does.
	Shared bool
	// Waits says that the NIC claims it, and that nobody holds it yet.
	Waits bool
	// Nobodys says that no NIC may have it, as a gateway's.
	Nobodys bool
	// Disputed says that another claims it, too, whoever that is.
	Disputed bool
}

// Address is what the programs know of an address.
type Address struct {
	AddressKey
	AddressHolder
	// Seen is when its NIC last said that it has it, to about a second; zero: not since it was put.
	Seen time.Time
}

func (h AddressHolder) flags() (flags uint16) {
	for flag, on := range map[uint16]bool{addressFirm: h.Firm, addressShared: h.Shared, addressWaits: h.Waits, addressNobodys: h.Nobodys, addressDisputed: h.Disputed} {
		if on {
			flags |= flag
		}
	}
	return flags
}

// String names what is so, as "firm, shared".
func (h AddressHolder) String() string {
	var is []string
	for _, x := range []struct {
		name string
		is   bool
	}{{"firm", h.Firm}, {"shared", h.Shared}, {"waits", h.Waits}, {"nobodys", h.Nobodys}, {"disputed", h.Disputed}} {
		if x.is {
			is = append(is, x.name)
		}
	}
	return strings.Join(is, ", ")
}

func (k AddressKey) check(h AddressHolder) error {
	switch {
	case !k.Addr.IsValid() || k.Addr.Zone() != "" || k.Addr.IsUnspecified():
		return fmt.Errorf("%q is no address of a NIC", k.Addr)
	case h.Nobodys && h.MAC != [6]byte{}:
		return fmt.Errorf("address %v is nobody's, and has MAC %v: give either", k.Addr, net.HardwareAddr(h.MAC[:]))
	case !h.Nobodys && !h.Shared && h.MAC == [6]byte{}:
		return fmt.Errorf("address %v has no MAC: give that of its NIC's port", k.Addr)
	}
	return nil
}

// SegmentOf is the number by which the programs know a trunk: FNV-1a of its name, and never 0.
func SegmentOf(trunk string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(trunk)) // it never fails
	return max(h.Sum32(), 1)
}

func (k AddressKey) raw() portHpAddressKey {
	return portHpAddressKey{Segment: SegmentOf(k.Trunk), Vlan: uint16(k.VLAN), Addr: k.Addr.As16()}
}

// PutAddress tells the programs who has an address. When it was last seen is kept while its MAC stays.
func (d *Datapath) PutAddress(k AddressKey, h AddressHolder) error {
	if err := k.check(h); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := k.raw()
	put := portHpAddress{Mac: h.MAC, Flags: h.flags()}
	var is portHpAddress
	switch err := d.maps[portMapAddresses].Lookup(key, &is); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
	case err != nil:
		return fmt.Errorf("look for address %v: %w", k.Addr, err)
	case is.Mac == put.Mac && is.Flags == put.Flags:
		return nil
	case is.Mac == put.Mac:
		put.Seen = is.Seen
	}
	switch err := d.maps[portMapAddresses].Put(key, put); {
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("address %v: the node's programs know %d, and have no room for more", k.Addr, AddressesMax)
	case err != nil:
		return fmt.Errorf("put address %v: %w", k.Addr, err)
	}
	return nil
}

// DropAddress has the programs forget an address; none there is no error.
func (d *Datapath) DropAddress(k AddressKey) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.forgetAddresses([]portHpAddressKey{k.raw()})
}

func (d *Datapath) forgetAddresses(keys []portHpAddressKey) error {
	for _, k := range keys {
		if err := d.maps[portMapAddresses].Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget address %v: %w", netip.AddrFrom16(k.Addr).Unmap(), err)
		}
	}
	return nil
}

// Vouch has the programs believe for some time, from now, what they know of addresses, where they would keep a request from
// somebody by it. It is the caller's to know that this is so.
func (d *Datapath) Vouch(period time.Duration) error {
	clock, err := coarseTime()
	if err != nil {
		return err
	}
	return d.maps[portMapVouched].Put(uint32(0), uint32((clock+period)>>handoverShift)+1)
}

// Addresses are all that the programs know in these trunks, in no order; what they know in others is forgotten. One that is put
// or dropped meanwhile may be missing.
func (d *Datapath) Addresses(trunks ...string) ([]Address, error) {
	names := map[uint32]string{}
	for _, t := range trunks {
		names[SegmentOf(t)] = t
	}
	var out []Address
	var others []portHpAddressKey
	err := d.rawAddresses(func(k portHpAddressKey, a Address) {
		var ok bool
		if a.Trunk, ok = names[k.Segment]; ok {
			out = append(out, a)
		} else {
			others = append(others, k)
		}
	})
	return out, errors.Join(err, d.forgetAddresses(others))
}

// rawAddresses visits all, without the names of their trunks.
func (d *Datapath) rawAddresses(visit func(portHpAddressKey, Address)) error {
	clock, err := coarseTime()
	if err != nil {
		return err
	}
	boot := time.Now().Add(-clock)
	return d.eachAddress(func(k portHpAddressKey, v portHpAddress) {
		a := Address{AddressKey{"", vlan.ID(k.Vlan), netip.AddrFrom16(k.Addr).Unmap()},
			AddressHolder{v.Mac, v.Flags&addressFirm != 0, v.Flags&addressShared != 0, v.Flags&addressWaits != 0, v.Flags&addressNobodys != 0, v.Flags&addressDisputed != 0}, time.Time{}}
		if v.Seen > 0 {
			a.Seen = boot.Add(time.Duration(v.Seen-1) << handoverShift)
		}
		visit(k, a)
	})
}

func (d *Datapath) eachAddress(visit func(portHpAddressKey, portHpAddress)) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]portHpAddressKey, flowBatch), make([]portHpAddress, flowBatch)
	for {
		n, err := d.maps[portMapAddresses].BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read addresses: %w", err)
		}
		for i := range n {
			visit(keys[i], values[i])
		}
		if err != nil {
			return nil
		}
	}
}
