package cluster

import (
	"encoding/binary"
	"io"
	"os"
	"sync"
)

// trunk is the wire between the nodes: what one sends, all others get, whatever its
// tag. So a VLAN is kept from another by nobody but the nodes.
type trunk struct {
	mu    sync.Mutex
	ports map[string]*plug
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
		t.forward(p, frame)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ports[name] == p {
		delete(t.ports, name)
	}
}

func (t *trunk) forward(from *plug, frame []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.ports {
		if p == from {
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
