package datapath

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// side is what this process knows of one of the two sides. While the other one is in force
// nobody reads it, and what differs in the next generation is written into it.
type side struct {
	// tables have addrs; nil: it is not known what is there.
	tables *addrTables
	addrs  []compile.AddrClass
	// programs has the hash of each slot's pages; unknown: some of another process.
	programs map[uint32]pagesSum
}

type pagesSum [sha256.Size]byte

var unknown pagesSum

// assumeSides notes what another process may have left on the sides: nothing
// but programs of networks that still have a number.
func (d *Datapath) assumeSides() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.sides {
		d.sides[i].forgetTables()
		d.sides[i].programs = map[uint32]pagesSum{}
		for _, number := range d.names {
			d.sides[i].programs[number*2+uint32(i)] = unknown
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
	if err := d.addBooks(p.Counters); err != nil {
		return d.Generation(), err
	}
	if d.control.holds(hash) {
		return d.Generation(), nil
	}
	if d.Generation() != d.synced {
		d.assumeSides()
	}
	slots, err := d.numberPolicies(p)
	if err != nil {
		return d.Generation(), err
	}
	next := d.Generation() + 1
	side := uint32(next & 1)
	if err := d.publishAddrs(p.Addrs, side); err != nil {
		return d.Generation(), fmt.Errorf("write addresses of generation %d: %w", next, err)
	}
	if err := d.publishPolicies(p, slots, side); err != nil {
		return d.Generation(), fmt.Errorf("write programs of generation %d: %w", next, err)
	}
	d.control.setGeneration(next, hasEthernet(p), hash)
	// The write changes nothing; it returns when the other side has no readers.
	if err := d.maps[portMapAddrs].Put(side, uint32(d.sides[side].tables.prefixes.FD())); err != nil {
		return next, fmt.Errorf("wait for readers of generation %d: %w", next-1, err)
	}
	d.synced = next
	return next, d.dropNames()
}

// hasEthernet says whether some policy has Ethernet rules, by what the programs read.
func hasEthernet(p *compile.Program) bool {
	return slices.ContainsFunc(p.Policies, func(p compile.Policy) bool {
		h, err := p.Header()
		return err != nil || h.Etherindex != 0
	})
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

// publishPolicies puts each policy into its slot of the side, unless it is there already,
// and empties slots of policies that are gone. Equal policies share one map.
func (d *Datapath) publishPolicies(p *compile.Program, numbers []uint32, side uint32) error {
	programs := d.sides[side].programs
	defer d.dropPages()
	gone := maps.Clone(programs)
	var slots []uint32
	var inner []*ebpf.Map
	var sums []pagesSum
	for i, n := range p.Policies {
		slot, sum := numbers[i]*2+side, pagesSum(n.Sum)
		if sum == unknown {
			return fmt.Errorf("network %q: a compiled policy without its hash", n.Network)
		}
		delete(gone, slot)
		if have, ok := programs[slot]; ok && have == sum {
			continue
		}
		if d.pages[sum] == nil {
			m, err := d.newPages(n.Pages)
			if err != nil {
				return fmt.Errorf("network %q: %w", n.Network, err)
			}
			d.pages[sum] = m
		}
		slots, inner, sums = append(slots, slot), append(inner, d.pages[sum]), append(sums, sum)
	}
	for _, slot := range slots {
		programs[slot] = unknown
	}
	if err := publish(d.maps[portMapPrograms], slots, inner); err != nil {
		return err
	}
	for i, slot := range slots {
		programs[slot] = sums[i]
	}
	empty := slices.Collect(maps.Keys(gone))
	if err := deleteAll(d.maps[portMapPrograms], empty); err != nil {
		return err
	}
	for _, slot := range empty {
		delete(programs, slot)
	}
	return nil
}

// dropPages lets go of maps of programs that no side has. The outer map keeps the others, too.
func (d *Datapath) dropPages() {
	used := map[pagesSum]bool{}
	for _, s := range d.sides {
		for _, sum := range s.programs {
			used[sum] = true
		}
	}
	for sum, m := range d.pages {
		if !used[sum] {
			_ = m.Close()
			delete(d.pages, sum)
		}
	}
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
