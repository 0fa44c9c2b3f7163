package datapath

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"
)

// tracer is a copy of the port programs that changes nothing: the same object with
// dry_run set, on the maps of the programs that judge. It is loaded when first asked.
type tracer struct {
	mu   sync.Mutex
	coll *ebpf.Collection
}

// skbContext is the beginning of struct __sk_buff (include/uapi/linux/bpf.h), up to what
// a run may set; the rest is 0.
type skbContext struct {
	_       [10]uint32
	Ifindex uint32
	_       uint32
}

// Trace says what the port's program at hook h would do with a frame now, by its
// connections, rules and guards. No packet is sent and nothing is counted or remembered.
func (d *Datapath) Trace(ifindex int, h Hook, frame []byte) (Event, error) {
	if _, err := d.record(ifindex); err != nil {
		return Event{}, err
	}
	d.trace.mu.Lock()
	defer d.trace.mu.Unlock()
	if err := d.trace.load(d.cfg, d.maps); err != nil {
		return Event{}, err
	}
	m, zero := d.trace.coll.Maps[portMapTraced], uint32(0)
	if err := m.Put(zero, portHpEvent{}); err != nil {
		return Event{}, fmt.Errorf("trace: %w", err)
	}
	prog := d.trace.coll.Programs[h.String()]
	_, err := prog.Run(&ebpf.RunOptions{Data: frame, Context: skbContext{Ifindex: uint32(ifindex)}})
	if err != nil {
		return Event{}, fmt.Errorf("trace: %w", err)
	}
	raw, err := m.LookupBytes(zero)
	if err != nil {
		return Event{}, fmt.Errorf("trace: %w", err)
	}
	clock, err := coarseTime()
	if err != nil {
		return Event{}, err
	}
	e, err := decodeEvent(raw, time.Now(), clock)
	if err == nil && e.IfIndex != ifindex {
		err = errors.New("the port has just gone")
	}
	return e, err
}

func (t *tracer) load(cfg Config, maps map[string]*ebpf.Map) error {
	if t.coll != nil {
		return nil
	}
	spec, err := portSpec(cfg)
	if err != nil {
		return err
	}
	if err := spec.Variables[portVarDryRun].Set(uint32(1)); err != nil {
		return fmt.Errorf("set knob %s: %w", portVarDryRun, err)
	}
	if err := withoutFastPath(spec); err != nil {
		return err
	}
	nameBuild(spec, _PortBytes) // not as those that judge
	t.coll, err = loadOn(spec, maps)
	if err != nil {
		return fmt.Errorf("load the programs that trace: %w", err)
	}
	return nil
}

func (t *tracer) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.coll != nil {
		t.coll.Close()
	}
}
