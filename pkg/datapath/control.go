package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// control is the map control, in memory: a store is one instruction, which an
// update by system call does not promise.
type control struct {
	page []byte
	*portHpControl
}

func mapControl(m *ebpf.Map) (*control, error) {
	page, err := mapMemory(m)
	if err != nil {
		return nil, err
	}
	return &control{page, (*portHpControl)(unsafe.Pointer(&page[0]))}, nil
}

// drawMark has a mark drawn, once.
func (c *control) drawMark() error {
	for atomic.LoadUint32(&c.Mark) == 0 {
		var lot [4]byte
		if _, err := rand.Read(lot[:]); err != nil {
			return fmt.Errorf("draw a mark: %w", err)
		}
		atomic.CompareAndSwapUint32(&c.Mark, 0, binary.NativeEndian.Uint32(lot[:]))
	}
	return nil
}

// mapMemory maps an array into memory; the caller unmaps it.
func mapMemory(m *ebpf.Map) ([]byte, error) {
	size := int(m.MaxEntries()) * int((m.ValueSize()+7)/8*8)
	page := os.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return b, nil
}

// mapArray is mapMemory of an array of n values of a type whose size is a multiple of 8 bytes.
func mapArray[T any](m *ebpf.Map, n int) (page []byte, values []T, err error) {
	if page, err = mapMemory(m); err != nil {
		return nil, nil, err
	}
	return page, unsafe.Slice((*T)(unsafe.Pointer(&page[0])), n), nil
}

func unmap(page []byte) error {
	if page == nil {
		return nil
	}
	if err := unix.Munmap(page); err != nil {
		return fmt.Errorf("unmap a map: %w", err)
	}
	return nil
}

// generationEther is HP_GENERATION_ETHER, beside the number of a generation.
const (
	generationEtherBit = 63
	generationEther    = 1 << generationEtherBit
)

// generation is the number of the one in force.
func (c *control) generation() uint64 { return numberOf(atomic.LoadUint64(&c.Generation)) }

// numberOf is a generation's number.
func numberOf(generation uint64) uint64 { return generation &^ generationEther }

// setGeneration puts number in force; ethernet says that it has Ethernet rules. The hash belongs to a generation only while
// hashed says so, wherever the process dies in between.
func (c *control) setGeneration(number uint64, ethernet bool, hash [32]byte) {
	g := number
	if ethernet {
		g |= generationEther
	}
	atomic.StoreUint64(&c.Hashed, 0)
	c.Hash = hash
	atomic.StoreUint64(&c.Generation, g)
	atomic.StoreUint64(&c.Hashed, g)
}

// holds says whether the generation in force has this content.
func (c *control) holds(hash [32]byte) bool {
	g := atomic.LoadUint64(&c.Generation)
	return g != 0 && atomic.LoadUint64(&c.Hashed) == g && c.Hash == hash
}

// lastSerial is what nextSerial gave last.
func (c *control) lastSerial() uint32 { return atomic.LoadUint32(&c.Serial) }

// nextSerial gives a number that no port had since the maps were made.
func (c *control) nextSerial() uint32 { return atomic.AddUint32(&c.Serial, 1) }
