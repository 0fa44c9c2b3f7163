package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// FlowState is where a flow stands: enum hp_flow_state.
type FlowState uint8

// The states.
const (
	FlowNew     FlowState = 0 // unanswered
	FlowOpen    FlowState = 1
	FlowClosing FlowState = 2 // TCP: reset, or FIN from both sides
)

// Conn is one flow as its port sees it.
type Conn struct {
	Protocol uint8
	VLAN     uint16
	// Local is the VM's end. For ICMP echoes both ports are the identifier.
	Local, Remote netip.AddrPort
	Opener        policy.Direction // of its first packet
	State         FlowState
	RuleID        uint32 // 0 is the default action
	// Migrated says that the VM brought the flow from another node, so that Opener is
	// a guess by its ports.
	Migrated   bool
	Generation uint64 // that judged its opener last
	// Idle is how long it has been silent, within 2^20 ns.
	Idle time.Duration
}

// Conns lists the answered flows of a port that have not expired. Unanswered
// ones are in a table of the whole node and not listed.
func (d *Datapath) Conns(ifindex int) ([]Conn, error) {
	rec, err := d.record(ifindex)
	if err != nil {
		return nil, err
	}
	m, err := d.innerMap(portMapConns, rec.Slot)
	if err != nil {
		return nil, fmt.Errorf("connections of port at interface %d: %w", ifindex, err)
	}
	defer m.Close()
	now, err := coarseTicks()
	if err != nil {
		return nil, err
	}
	var out []Conn
	err = eachFlow(m, func(k portHpFlowKey, f portHpFlow) {
		if !d.over(k, f, now) {
			out = append(out, describeFlow(k, f, now))
		}
	})
	return out, err
}

func describeFlow(k portHpFlowKey, f portHpFlow, now uint32) Conn {
	lport, rport := ntohs(k.Lport), ntohs(k.Rport)
	if k.Proto == policy.ICMP || k.Proto == policy.ICMPv6 {
		rport = lport // what is there says who asks, as Opener does
	}
	return Conn{
		Protocol: k.Proto, VLAN: k.Vlan,
		Local:  netip.AddrPortFrom(netip.AddrFrom16(k.Local).Unmap(), lport),
		Remote: netip.AddrPortFrom(netip.AddrFrom16(k.Remote).Unmap(), rport),
		Opener: policy.Direction(f.Opener), State: FlowState(f.State), RuleID: f.RuleId, Generation: numberOf(f.Generation), Migrated: f.Migrated == 1 || f.Migrated == 2,
		Idle: time.Duration(age(f, now)) << tickShift,
	}
}

// ntohs reads a field that the programs keep in network order.
func ntohs(v uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v))
}

// flowBatch is how many flows one system call reads.
const flowBatch = 1024

// eachFlow visits a table that is being written to: a flow made or gone
// meanwhile may be missed or seen twice.
func eachFlow(m *ebpf.Map, visit func(portHpFlowKey, portHpFlow)) error {
	var cursor ebpf.MapBatchCursor
	keys := make([]portHpFlowKey, flowBatch)
	flows := make([]portHpFlow, flowBatch)
	for {
		n, err := m.BatchLookup(&cursor, keys, flows, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read connections: %w", err)
		}
		for i := range n {
			visit(keys[i], flows[i])
		}
		if err != nil {
			return nil
		}
	}
}

// udpLike: flows by ports alone.
func udpLike(proto uint8) bool { return proto == policy.UDP || proto == policy.SCTP }

// lifetime in ticks, as conntrack.h has it.
func (d *Datapath) lifetime(proto uint8, s FlowState) uint32 {
	t := d.cfg.Timeouts.withDefaults()
	switch {
	case proto == policy.TCP && s == FlowOpen:
		return ticks(t.TCPOpen)
	case proto == policy.TCP && s == FlowNew:
		return ticks(t.TCPNew)
	case proto == policy.TCP:
		return ticks(t.TCPClosing)
	case udpLike(proto) && s == FlowNew:
		return ticks(t.UDPNew)
	case udpLike(proto):
		return ticks(t.UDPOpen)
	}
	return ticks(t.ICMP)
}

// coarseTicks is the programs' clock.
func coarseTicks() (uint32, error) {
	now, err := coarseTime()
	return ticks(now), err
}

// GCConns frees the memory of expired flows in the ports' tables and says how
// many there were. The programs take an expired flow for none in any case; the
// node's table of unanswered flows frees itself. ended, if not nil, hears of each
// connection that had not ended otherwise.
func (d *Datapath) GCConns(ended func(Event)) (freed int, err error) {
	var errs []error
	for ifindex, rec := range d.ports.records() {
		n, err := d.gcSlot(ifindex, rec.Slot, ended)
		freed += n
		if err != nil {
			errs = append(errs, fmt.Errorf("port at interface %d: %w", ifindex, err))
		}
	}
	return freed, errors.Join(errs...)
}

func (d *Datapath) gcSlot(ifindex int, slot uint32, ended func(Event)) (freed int, err error) {
	m, err := d.innerMap(portMapConns, slot)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // the port has just gone
	}
	if err != nil {
		return 0, err
	}
	defer m.Close()
	now, err := coarseTicks()
	if err != nil {
		return 0, err
	}
	var old []portHpFlowKey
	err = eachFlow(m, func(k portHpFlowKey, f portHpFlow) {
		if d.over(k, f, now) {
			old = append(old, k)
		}
	})
	for _, k := range old {
		// It may have been replaced since; look again, as late as possible.
		var f portHpFlow
		if m.Lookup(k, &f) != nil || !d.over(k, f, now) {
			continue
		}
		if derr := m.Delete(k); derr == nil {
			freed++
			if ended != nil && FlowState(f.State) != FlowClosing {
				ended(timedOut(ifindex, k, f, time.Now()))
			}
		} else if !errors.Is(derr, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("free a connection: %w", derr))
		}
	}
	return freed, err
}

// ahead is AHEAD of bpf/include/clock.h, in ticks.
const ahead = uint32(60_000_000_000 >> tickShift)

// age is how long ago a flow was seen, in ticks: 0 for one seen after now was read.
func age(f portHpFlow, now uint32) uint32 {
	if f.Seen-now <= ahead {
		return 0
	}
	return now - f.Seen
}

// over says whether a flow has expired, as conntrack.h does.
func (d *Datapath) over(k portHpFlowKey, f portHpFlow, now uint32) bool {
	return age(f, now) > d.lifetime(k.Proto, FlowState(f.State))
}
