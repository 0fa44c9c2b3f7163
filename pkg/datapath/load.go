package datapath

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// tickShift is TICK_SHIFT of bpf/include/clock.h.
const tickShift = 20

func ticks(d time.Duration) uint32 { return uint32(d.Nanoseconds() >> tickShift) }

// withDefaults fills zero fields.
func (t Timeouts) withDefaults() Timeouts {
	def := DefaultTimeouts()
	for _, f := range []struct{ have, def *time.Duration }{
		{&t.TCPNew, &def.TCPNew}, {&t.TCPOpen, &def.TCPOpen}, {&t.TCPClosing, &def.TCPClosing},
		{&t.UDPNew, &def.UDPNew}, {&t.UDPOpen, &def.UDPOpen}, {&t.ICMP, &def.ICMP},
		{&t.Grace, &def.Grace},
	} {
		if *f.have == 0 {
			*f.have = *f.def
		}
	}
	return t
}

// portSpec is the program specification with cfg's knobs set.
func portSpec(cfg Config) (*ebpf.CollectionSpec, error) {
	spec, err := loadPort()
	if err != nil {
		return nil, fmt.Errorf("read the port programs: %w", err)
	}
	t := cfg.Timeouts.withDefaults()
	for name, d := range map[string]time.Duration{
		portVarTcpNewTicks: t.TCPNew, portVarTcpOpenTicks: t.TCPOpen, portVarTcpClosingTicks: t.TCPClosing,
		portVarUdpNewTicks: t.UDPNew, portVarUdpOpenTicks: t.UDPOpen, portVarIcmpTicks: t.ICMP,
	} {
		if err := spec.Variables[name].Set(ticks(d)); err != nil {
			return nil, fmt.Errorf("set knob %s: %w", name, err)
		}
	}
	if err := spec.Variables[portVarGracePeriod].Set(uint32(t.Grace>>handoverShift) + 2); err != nil {
		return nil, fmt.Errorf("set knob %s: %w", portVarGracePeriod, err)
	}
	if cfg.ConnsQuota != 0 {
		spec.Maps[portMapConns].InnerMap.MaxEntries = cfg.ConnsQuota
	}
	nameBuild(spec, _PortBytes)
	return spec, nil
}

// loads counts the ways in which this package has loaded an object: a new number has
// programs loaded anew that are the same but for that.
const loads = 1

// nameBuild has the names of programs say what they are made of: the object, and the
// knobs as they are set in it. It is six of the letters that the kernel takes in a
// program's name: two builds have the same once in 2^36. (With seven the name would be as
// long as can be, and be taken for a longer one cut off.)
func nameBuild(spec *ebpf.CollectionSpec, object []byte) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_."
	h := sha256.New()
	fmt.Fprintln(h, loads, spec.Maps[portMapConns].InnerMap.MaxEntries)
	for _, name := range slices.Sorted(maps.Keys(spec.Variables)) {
		fmt.Fprintln(h, name, spec.Variables[name].Value)
	}
	h.Write(object) // a hash takes all it is given
	of := h.Sum(nil)[:6]
	for i, b := range of {
		of[i] = letters[int(b)%len(letters)]
	}
	for name, p := range spec.Programs {
		p.Name = name + "_" + string(of)
	}
}

// load takes over what is pinned of maps and programs, and makes what is not.
func (d *Datapath) load() error {
	spec, err := portSpec(d.cfg)
	if err != nil {
		return err
	}
	if err := d.loadMaps(spec); err != nil {
		return err
	}
	if err := d.mapArrays(); err != nil {
		return err
	}
	if fast := probeFastPath(); fast.Answer == No || d.cfg.noFastPath {
		d.log.Warn("there is no fast path on this node: the kernel lacks what it takes", "needs", fastPathNeeds)
		if err := withoutFastPath(spec); err != nil {
			return err
		}
		nameBuild(spec, _PortBytes) // not as those that have one
	}
	whole := true
	for h := range Hook(allHooks) {
		if of := spec.Programs[h.String()]; of != nil {
			d.progs[h], d.progID[h] = d.pinnedProgram(h.String(), of)
			whole = whole && d.progs[h] != nil
		}
	}
	if into := spec.Programs[portProgIntoVm]; into != nil {
		var id ebpf.ProgramID
		d.into, id = d.pinnedProgram(portProgIntoVm, into)
		whole = whole && d.into != nil && d.jumpsTo(id)
	}
	if whole {
		return nil
	}
	// What is written of the fast path may be of another time, and is for other programs.
	if _, err := d.SetFastPath(nil); err != nil {
		return err
	}
	return d.loadPrograms(spec)
}

// jumps are the tables that lead to into_vm.
func jumps() []string { return []string{portMapFastJump, portMapInboundJump} }

// jumpsTo says whether the fast path leads to a program.
func (d *Datapath) jumpsTo(id ebpf.ProgramID) bool {
	return !slices.ContainsFunc(jumps(), func(name string) bool {
		var is uint32
		return d.maps[name].Lookup(uint32(0), &is) != nil || ebpf.ProgramID(is) != id
	})
}

func (d *Datapath) loadMaps(spec *ebpf.CollectionSpec) error {
	only := spec.Copy()
	only.Programs = nil
	published := exists(d.pins.of(portMapRuleBooks))
	coll, err := ebpf.NewCollectionWithOptions(only, ebpf.CollectionOptions{
		Maps: ebpf.MapOptions{PinPath: d.pins.maps()},
	})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return fmt.Errorf("maps pinned below %s are of another build with the same ABI version %d: %w; "+
			"drain the node and remove %s", d.pins.maps(), ABIVersion, err, d.pins.root())
	}
	if err != nil {
		return fmt.Errorf("make the maps of the port programs: %w; bridge-agent doctor tells what this kernel lacks", err)
	}
	defer coll.Close()
	d.inner = map[string]*ebpf.MapSpec{}
	for _, name := range []string{portMapHosts, portMapAddrs, portMapPrograms, portMapConns, portMapPortCounters, portMapRuleBooks} {
		d.inner[name] = spec.Maps[name].InnerMap
	}
	d.maps = map[string]*ebpf.Map{}
	for name, m := range coll.Maps {
		if spec.Maps[name].Pinning == ebpf.PinByName {
			d.maps[name] = m
			delete(coll.Maps, name)
		}
	}
	if err := d.openBooks(); err != nil {
		return err
	}
	if !published {
		if err := d.publishBooks(0, d.books); err != nil {
			return err
		}
	}
	d.takeOverCounters()
	return nil
}

// pinnedProgram gives the pinned program of that name in the object, if it is what would be loaded: of
// the same object and knobs, as its name says, and on the maps that are pinned now.
// Else it gives nil, also if nobody can tell. So a restart changes no program, and is
// quick.
func (d *Datapath) pinnedProgram(name string, spec *ebpf.ProgramSpec) (*ebpf.Program, ebpf.ProgramID) {
	p, err := ebpf.LoadPinnedProgram(d.pins.prog(name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0
	}
	same := false
	var info *ebpf.ProgramInfo
	if err == nil {
		if info, err = p.Info(); err == nil {
			same, err = d.isOf(info, spec)
		}
	}
	if err != nil {
		d.log.Warn("a pinned program cannot be looked at, and another takes its place", "program", name, "err", err)
	}
	if !same {
		_ = p.Close() // also of none
		return nil, 0
	}
	id, _ := info.ID()
	return p, id
}

// isOf says whether a loaded program is spec's, on our maps.
func (d *Datapath) isOf(info *ebpf.ProgramInfo, spec *ebpf.ProgramSpec) (bool, error) {
	if info.Name != spec.Name {
		return false, nil
	}
	uses, _ := info.MapIDs()
	for _, ins := range spec.Instructions {
		m := d.maps[ins.Reference()]
		if !ins.IsLoadFromMap() || m == nil {
			continue
		}
		info, err := m.Info()
		if err != nil {
			return false, err
		}
		if id, ok := info.ID(); !ok || !slices.Contains(uses, id) {
			return false, nil
		}
	}
	return true, nil
}

// loadPrograms loads and pins all, on the maps that are there.
func (d *Datapath) loadPrograms(spec *ebpf.CollectionSpec) error {
	coll, err := loadOn(spec, d.maps)
	if err != nil {
		return fmt.Errorf("load the port programs: %w; bridge-agent doctor tells what this kernel lacks", err)
	}
	defer coll.Close()
	_ = d.into.Close() // also of none
	if d.into = coll.DetachProgram(portProgIntoVm); d.into != nil {
		if err := pinOver(d.into, d.pins.prog(portProgIntoVm)); err != nil {
			return fmt.Errorf("program %s: %w", portProgIntoVm, err)
		}
		for _, name := range jumps() {
			if err := d.maps[name].Put(uint32(0), d.into); err != nil {
				return fmt.Errorf("have the fast path lead to its program: %w", err)
			}
		}
	}
	for h := range Hook(allHooks) {
		if spec.Programs[h.String()] == nil {
			continue
		}
		_ = d.progs[h].Close() // a new one takes its place
		d.progs[h] = coll.DetachProgram(h.String())
		info, err := d.progs[h].Info()
		if err != nil {
			return fmt.Errorf("program %s: %w", h, err)
		}
		d.progID[h], _ = info.ID()
		if err := pinOver(d.progs[h], d.pins.prog(h.String())); err != nil {
			return fmt.Errorf("program %s: %w", h, err)
		}
	}
	return nil
}

// withoutFastPath makes programs that hand nothing on.
func withoutFastPath(spec *ebpf.CollectionSpec) error {
	delete(spec.Programs, portProgIntoVm)
	delete(spec.Programs, portProgInbound)
	if err := spec.Variables[portVarFastPath].Set(uint32(0)); err != nil {
		return fmt.Errorf("set knob %s: %w", portVarFastPath, err)
	}
	return nil
}

// loadOn loads programs on maps that are there, and on others of their own.
func loadOn(spec *ebpf.CollectionSpec, given map[string]*ebpf.Map) (*ebpf.Collection, error) {
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone // those that are pinned are given
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: given})
}
