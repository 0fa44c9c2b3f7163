package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// Limits of bpf/include/abi.h: counters of rules are in books, which are made as there are
// more rules.
const (
	bookCounters = 8192
	booksMax     = 32
)

// RuleCountersMax is the number of rule counters of a node.
const RuleCountersMax = bookCounters * booksMax

// RuleCounter is what a rule judged.
type RuleCounter struct {
	Counter
	Last time.Time `json:"last,omitzero"` // when it last did, to about a second; zero: never
}

// openBooks opens the books that are pinned. One that is pinned is published.
func (d *Datapath) openBooks() error {
	for n := range booksMax {
		m, err := ebpf.LoadPinnedMap(d.pins.book(n), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("counters of rules: %w", err)
		}
		d.books = append(d.books, m)
	}
	return nil
}

// addBooks makes books until they have so many counters. It waits for a grace period if
// there are too few.
func (d *Datapath) addBooks(counters int) error {
	if counters > RuleCountersMax {
		return fmt.Errorf("%d counters of rules, and a node has %d", counters, RuleCountersMax)
	}
	first := len(d.allBooks())
	var made []*ebpf.Map
	for n := first; n*bookCounters < counters; n++ {
		m, err := ebpf.NewMap(d.inner[portMapRuleBooks])
		if err != nil {
			closeAll(made)
			return fmt.Errorf("make counters of rules: %w", err)
		}
		made = append(made, m)
	}
	if err := d.publishBooks(first, made); err != nil {
		closeAll(made)
		return err
	}
	for i, m := range made {
		if err := pinOver(m, d.pins.book(first+i)); err != nil {
			closeAll(made[i:])
			return fmt.Errorf("counters of rules: %w", err)
		}
		d.mu.Lock()
		d.books = append(d.books, m)
		d.mu.Unlock()
	}
	return nil
}

// publishBooks has programs find books, of which the first has the number first.
func (d *Datapath) publishBooks(first int, books []*ebpf.Map) error {
	numbers := make([]uint32, len(books))
	for i := range numbers {
		numbers[i] = uint32(first + i)
	}
	if len(books) == 0 {
		return nil
	}
	if err := publish(d.maps[portMapRuleBooks], numbers, books); err != nil {
		return fmt.Errorf("publish counters of rules: %w", err)
	}
	return nil
}

func (d *Datapath) allBooks() []*ebpf.Map {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.books)
}

// byBook groups counters by their book: their places in it, sorted.
func byBook(indexes []uint32) map[int][]uint32 {
	out := map[int][]uint32{}
	for _, i := range indexes {
		n := int(i / bookCounters)
		out[n] = append(out[n], i%bookCounters)
	}
	for _, places := range out {
		slices.Sort(places)
	}
	return out
}

// fewCounters of a book are read one by one; to read it whole costs as much as some more.
const fewCounters = 64

// RuleCounters reads rule counters by index (see compile.Counters). Those that no policy in
// force has may have no place yet, and have counted nothing.
func (d *Datapath) RuleCounters(indexes []uint32) (map[uint32]RuleCounter, error) {
	clock, err := coarseTime()
	if err != nil {
		return nil, err
	}
	boot := time.Now().Add(-clock)
	out := make(map[uint32]RuleCounter, len(indexes))
	books := d.allBooks()
	for n, places := range byBook(indexes) {
		if n >= len(books) {
			for _, at := range places {
				out[uint32(n*bookCounters)+at] = RuleCounter{}
			}
			continue
		}
		put := func(at uint32, perCPU []portHpHits) { out[uint32(n*bookCounters)+at] = sumHits(perCPU, boot) }
		if len(places) > fewCounters {
			err = eachCounter(books[n], func(at uint32, perCPU []portHpHits) {
				if _, asked := slices.BinarySearch(places, at); asked {
					put(at, perCPU)
				}
			})
		} else {
			for _, at := range places {
				var perCPU []portHpHits
				err = errors.Join(err, books[n].Lookup(at, &perCPU))
				put(at, perCPU)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read rule counters from %d on: %w", n*bookCounters, err)
		}
	}
	return out, nil
}

func sumHits(perCPU []portHpHits, boot time.Time) (sum RuleCounter) {
	var last uint32
	for i := range perCPU {
		sum.Packets += perCPU[i].All.Packets
		sum.Bytes += perCPU[i].All.Bytes
		last = max(last, perCPU[i].Last)
	}
	if last > 0 {
		sum.Last = boot.Add(time.Duration(last-1) << handoverShift).Truncate(time.Second)
	}
	return sum
}

// eachCounter reads a per-CPU array whole, in batches: one by one takes seconds on slow
// machines.
func eachCounter[V any](m *ebpf.Map, do func(at uint32, perCPU []V)) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	var cursor ebpf.MapBatchCursor
	places, perCPU := make([]uint32, flowBatch), make([]V, flowBatch*cpus)
	for {
		n, err := m.BatchLookup(&cursor, places, perCPU, nil)
		for i, at := range places[:n] {
			do(at, perCPU[i*cpus:(i+1)*cpus])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ClearRuleCounters sets counters to zero that a new rule takes over.
func (d *Datapath) ClearRuleCounters(indexes []uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	var errs []error
	books := d.allBooks()
	for n, places := range byBook(indexes) {
		if n >= len(books) {
			continue // where none has counted
		}
		if err := putAll(books[n], places, make([]portHpHits, len(places)*cpus)); err != nil {
			errs = append(errs, fmt.Errorf("clear rule counters from %d on: %w", n*bookCounters, err))
		}
	}
	return errors.Join(errs...)
}

// The maps that had the counters before there were books: of 32,768 rules, per CPU and by
// the time of the last hit.
const (
	oldCounters = "rule_counters"
	oldSeen     = "rule_seen"
)

// takeOverCounters moves what rules have counted in maps of an older version into books,
// once. Its programs count on in the old maps until others take their place, a moment later.
func (d *Datapath) takeOverCounters() {
	err := d.moveCounters()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		d.log.Warn("what rules have counted under an older version is lost", "err", err)
	}
	for _, name := range []string{oldCounters, oldSeen} {
		if err := remove(d.pins.of(name)); err != nil {
			d.log.Warn("a map of an older version stays pinned", "map", name, "err", err)
		}
	}
}

func (d *Datapath) moveCounters() error {
	counters, err := ebpf.LoadPinnedMap(d.pins.of(oldCounters), nil)
	if err != nil {
		return err
	}
	defer counters.Close()
	seen, err := ebpf.LoadPinnedMap(d.pins.of(oldSeen), nil)
	if err != nil {
		return err
	}
	defer seen.Close()
	all := map[uint32][]portHpHits{}
	err = eachCounter(counters, func(at uint32, perCPU []portHpCounter) {
		hits := make([]portHpHits, len(perCPU))
		counted := false
		for i, c := range perCPU {
			hits[i].All = c
			counted = counted || c.Packets > 0
		}
		if counted {
			all[at] = hits
		}
	})
	if err != nil {
		return err
	}
	// An older version that ran again meanwhile may have given them to other rules.
	every := make([]uint32, bookCounters*len(d.allBooks()))
	for i := range every {
		every[i] = uint32(i)
	}
	if err := d.ClearRuleCounters(every); err != nil || len(all) == 0 {
		return err
	}
	places := slices.Sorted(maps.Keys(all))
	if err := d.addBooks(int(places[len(places)-1]) + 1); err != nil {
		return err
	}
	books := d.allBooks()
	for _, at := range places {
		if err := seen.Lookup(at, &all[at][0].Last); err != nil {
			return err
		}
		if err := books[at/bookCounters].Put(at%bookCounters, all[at]); err != nil {
			return err
		}
	}
	return nil
}
