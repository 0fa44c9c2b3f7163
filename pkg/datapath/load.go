package datapath

import (
	"errors"
	"fmt"
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
	return spec, nil
}

// load makes or takes over the maps, loads the programs and pins them.
func (d *Datapath) load() error {
	spec, err := portSpec(d.cfg)
	if err != nil {
		return err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Maps: ebpf.MapOptions{PinPath: d.pins.maps()},
	})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return fmt.Errorf("maps pinned below %s are of another build with the same ABI version %d: %w; "+
			"drain the node and remove that directory", d.pins.maps(), ABIVersion, err)
	}
	if err != nil {
		return fmt.Errorf("load the port programs: %w; bridge-agent doctor tells what this kernel lacks", err)
	}
	defer coll.Close()
	d.inner = map[string]*ebpf.MapSpec{}
	for _, name := range []string{portMapAddrs, portMapPrograms, portMapConns, portMapPortCounters} {
		d.inner[name] = spec.Maps[name].InnerMap
	}
	d.maps = map[string]*ebpf.Map{}
	for name, m := range coll.Maps {
		if spec.Maps[name].Pinning == ebpf.PinByName {
			d.maps[name] = m
			delete(coll.Maps, name)
		}
	}
	for h, name := range [hooks]string{FromVM: portProgFromVm, ToVM: portProgToVm} {
		d.progs[h] = coll.DetachProgram(name)
		info, err := d.progs[h].Info()
		if err != nil {
			return fmt.Errorf("program %s: %w", name, err)
		}
		d.progID[h], _ = info.ID()
		if err := pinOver(d.progs[h], d.pins.prog(Hook(h))); err != nil {
			return fmt.Errorf("program %s: %w", name, err)
		}
	}
	return nil
}
