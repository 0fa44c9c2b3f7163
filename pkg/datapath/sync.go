package datapath

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// assumeSides notes what an earlier process may have left on the sides: nothing
// but programs of networks that still have a number.
func (d *Datapath) assumeSides() {
	d.side = [2]map[uint32]bool{{}, {}}
	for _, number := range d.names {
		for side := range uint32(2) {
			d.side[side][number*2+side] = true
		}
	}
}

// Sync puts a compiled policy in force and gives its generation. When it returns
// no packet is judged by the generation before. A policy equal to the one in
// force changes nothing. On an error what it gives is in force: the generation
// before, or the new one if only what comes after has failed.
func (d *Datapath) Sync(p *compile.Program) (generation uint64, err error) {
	d.syncing.Lock()
	defer d.syncing.Unlock()
	hash, err := contentHash(p)
	if err != nil {
		return d.Generation(), err
	}
	if d.control.holds(hash) {
		return d.Generation(), nil
	}
	slots, err := d.numberPolicies(p)
	if err != nil {
		return d.Generation(), err
	}
	next := d.Generation() + 1
	side := uint32(next & 1)
	table, err := d.publishAddrs(p.Addrs, side)
	if err != nil {
		return d.Generation(), fmt.Errorf("write addresses of generation %d: %w", next, err)
	}
	defer table.Close()
	if err := d.publishPolicies(p, slots, side); err != nil {
		return d.Generation(), fmt.Errorf("write programs of generation %d: %w", next, err)
	}
	d.control.setGeneration(next, hash)
	// The write changes nothing; it returns when the other side has no readers.
	if err := d.maps[portMapAddrs].Put(side, uint32(table.FD())); err != nil {
		return next, fmt.Errorf("wait for readers of generation %d: %w", next-1, err)
	}
	return next, d.dropNames()
}

func contentHash(p *compile.Program) (hash [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(p.Hash)
	if err != nil || len(b) != len(hash) {
		return hash, fmt.Errorf("compiled policy has hash %q, want hex SHA-256", p.Hash)
	}
	copy(hash[:], b)
	return hash, nil
}

// numberPolicies gives the policy number of each policy of p.
func (d *Datapath) numberPolicies(p *compile.Program) ([]uint32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]uint32, len(p.Policies))
	for i, n := range p.Policies {
		number, err := d.policyNumber(n.Network)
		if err != nil {
			return nil, err
		}
		out[i] = number
	}
	return out, nil
}

// publishAddrs fills a table and puts it on the side.
func (d *Datapath) publishAddrs(addrs []compile.AddrClass, side uint32) (*ebpf.Map, error) {
	spec := d.inner[portMapAddrs].Copy()
	spec.MaxEntries = uint32(max(1, len(addrs)))
	table, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make a table of %d prefixes: %w", len(addrs), err)
	}
	keys := make([]portAddrKey, len(addrs))
	classes := make([]uint32, len(addrs))
	for i, a := range addrs {
		keys[i].Prefixlen = uint32(a.Prefix.Bits())
		keys[i].Addr = a.Prefix.Addr().As16()
		classes[i] = a.Class
	}
	if err := putAll(table, keys, classes); err != nil {
		return nil, errors.Join(fmt.Errorf("fill a table of %d prefixes: %w", len(addrs), err), table.Close())
	}
	if err := d.maps[portMapAddrs].Put(side, uint32(table.FD())); err != nil {
		return nil, errors.Join(fmt.Errorf("publish the address table: %w", err), table.Close())
	}
	return table, nil
}

// publishPolicies puts each policy into its slot of the side and empties slots
// of policies that are gone. Equal policies share one map.
func (d *Datapath) publishPolicies(p *compile.Program, numbers []uint32, side uint32) error {
	made := map[[sha256.Size]byte]*ebpf.Map{}
	defer func() {
		for _, m := range made {
			_ = m.Close() // a descriptor; the outer map keeps the map
		}
	}()
	slots := make([]uint32, len(numbers))
	inner := make([]*ebpf.Map, len(numbers))
	gone := map[uint32]bool{}
	for slot := range d.side[side] {
		gone[slot] = true
	}
	for i, n := range p.Policies {
		sum := pagesHash(n.Pages)
		if made[sum] == nil {
			m, err := d.newPages(n.Pages)
			if err != nil {
				return fmt.Errorf("network %q: %w", n.Network, err)
			}
			made[sum] = m
		}
		slots[i], inner[i] = numbers[i]*2+side, made[sum]
		delete(gone, slots[i])
	}
	for _, slot := range slots {
		d.side[side][slot] = true
	}
	if err := publish(d.maps[portMapPrograms], slots, inner); err != nil {
		return err
	}
	var empty []uint32
	for slot := range gone {
		empty = append(empty, slot)
	}
	if err := deleteAll(d.maps[portMapPrograms], empty); err != nil {
		return err
	}
	for _, slot := range empty {
		delete(d.side[side], slot)
	}
	return nil
}

func pagesHash(pages []compile.Page) [sha256.Size]byte {
	if len(pages) == 0 {
		return sha256.Sum256(nil)
	}
	return sha256.Sum256(unsafe.Slice(&pages[0][0], len(pages)*compile.PageSize))
}

func (d *Datapath) newPages(pages []compile.Page) (*ebpf.Map, error) {
	if len(pages) == 0 {
		return nil, errors.New("compiled policy without pages")
	}
	spec := d.inner[portMapPrograms].Copy()
	spec.MaxEntries = uint32(len(pages))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make a program of %d pages: %w", len(pages), err)
	}
	keys := make([]uint32, len(pages))
	for i := range keys {
		keys[i] = uint32(i)
	}
	if err := putAll(m, keys, pages); err != nil {
		return nil, errors.Join(fmt.Errorf("write a program of %d pages: %w", len(pages), err), m.Close())
	}
	return m, nil
}
