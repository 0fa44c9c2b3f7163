package cluster

import (
	"encoding/binary"
	"io"
	"os"
	"sync"
)

// trunk is the wire between the nodes: what one sends, all others get, whatever its
// tag, unless a test has taken that VLAN off a port. So a VLAN is kept from another by
// nobody but the nodes.
type trunk struct {
	mu    sync.Mutex
	ports map[string]*plug
	cut   map[string]map[uint16]bool // VLANs that a port does not have, by name
}

type plug struct {
	wire *os.File
	out  chan []byte
}

const (
	maxFrame = 1 << 17 // a segment that was not cut yet, and headers
	backlog  = 8192    // frames that wait for a slow node
)

// plug joins a node; one of that name that was there before is gone.
func (t *trunk) plug(name string, wire *os.File) {
	p := &plug{wire: wire, out: make(chan []byte, backlog)}
	t.mu.Lock()
	if t.ports == nil {
		t.ports = map[string]*plug{}
	}
	old := t.ports[name]
	t.ports[name] = p
	t.mu.Unlock()
	if old != nil {
		old.wire.Close()
	}
	go t.read(name, p)
	go p.write()
}

func (t *trunk) read(name string, p *plug) {
	defer close(p.out)
	for {
		var head [4]byte
		if _, err := io.ReadFull(p.wire, head[:]); err != nil {
			break
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxFrame {
			break
		}
		frame := make([]byte, 4+n)
		copy(frame, head[:])
		if _, err := io.ReadFull(p.wire, frame[4:]); err != nil {
			break
		}
		t.forward(name, p, frame)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ports[name] == p {
		delete(t.ports, name)
	}
}

// carry puts a VLAN on a node's port, or takes it off both ways, as an administrator of
// the switch does. Port and wire may be another's later: it stays.
func (t *trunk) carry(name string, vlan uint16, on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut == nil {
		t.cut = map[string]map[uint16]bool{}
	}
	if t.cut[name] == nil {
		t.cut[name] = map[uint16]bool{}
	}
	t.cut[name][vlan] = !on
}

// vlanOf is the VLAN of a frame with its length before it; 0 is none.
func vlanOf(frame []byte) uint16 {
	const tag = 4 + 12
	if len(frame) < tag+4 || binary.BigEndian.Uint16(frame[tag:]) != 0x8100 {
		return 0
	}
	return binary.BigEndian.Uint16(frame[tag+2:]) & 0xfff
}

func (t *trunk) forward(name string, from *plug, frame []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	vlan := vlanOf(frame)
	if t.cut[name][vlan] {
		return
	}
	for to, p := range t.ports {
		if p == from || t.cut[to][vlan] {
			continue
		}
		select {
		case p.out <- frame:
		default: // as a switch does when a port is too slow
		}
	}
}

func (p *plug) write() {
	for frame := range p.out {
		if _, err := p.wire.Write(frame); err != nil {
			return
		}
	}
}

// close ends it.
func (t *trunk) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.ports {
		p.wire.Close()
	}
}
