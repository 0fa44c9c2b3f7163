package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Flags of struct hp_event.
const (
	eventLogged          = 1
	eventMonitoredLogged = 2
	eventEnded           = 4
	eventIP              = 8
	eventPorts           = 16
)

// The most that one port and all of a node tell of in 2^30 ns, of each group: HP_EVENTS_A_WINDOW,
// HP_EVENTS_OF_NODE.
const (
	EventsOfPort = 1000
	EventsOfNode = 10000
)

// keys of the map watched.
const (
	watchedAll  = uint32(0)
	watchedLost = uint32(1)
)

// NoRule stands for the counter of a rule where there is none.
const NoRule = ^uint32(0)

// Event is what became of one packet, or, if TimedOut, that a connection was silent for
// too long.
type Event struct {
	At        time.Time // to some milliseconds
	IfIndex   int       // host end
	Direction policy.Direction
	Reason    policy.Reason
	// Ended says that a connection ended: by this packet, a TCP reset or the second FIN;
	// because the rules have turned against it, if the reason is one to drop; or by time.
	// Ends and direction are those of the connection's opener then.
	Ended, TimedOut bool
	// RuleID is the id of Rule where the connection timed out, to be sure that it is it.
	RuleID uint32
	// Rule is the counter of the rule or default that decided, or NoRule; Monitored that
	// of the monitored rule that would have decided.
	Rule, Monitored uint32
	// Generation of the policy that Rule is of; 0 is the one in force.
	Generation uint64
	// Logged says that the rule asks for logs, MonitoredLogged that the monitored one does.
	Logged, MonitoredLogged bool
	// SourceMAC, DestinationMAC and EtherType are 0 if there is no whole Ethernet header, or
	// no packet. EtherType is the one behind an 802.1Q tag.
	SourceMAC, DestinationMAC [6]byte
	EtherType                 uint16
	VLAN                      uint16     // of the tag; 0: untagged
	Source, Destination       netip.Addr // IPv4 unmapped; the zero Addr: not IP
	Protocol                  uint8      // behind IPv6 extension headers
	// HasPorts says that SourcePort and DestinationPort mean something. For ICMP and
	// ICMPv6 the latter is type<<8|code; of a connection that timed out the echo's.
	HasPorts                    bool
	SourcePort, DestinationPort uint16
	TCPFlags                    uint8  // as in the TCP header: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32
	Length                      uint32 // of the frame as the kernel holds it, bytes; 0: no packet
}

// Events reads what the programs tell. There is one reader on a node at a time.
type Events struct {
	reader *ringbuf.Reader
	record ringbuf.Record
	now    func() (time.Duration, error) // the programs' clock
}

// Events opens the reader. What was told before and not read comes first.
func (d *Datapath) Events() (*Events, error) {
	r, err := ringbuf.NewReader(d.maps[portMapEvents])
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return &Events{reader: r, now: coarseTime}, nil
}

// Close ends Read.
func (e *Events) Close() error { return e.reader.Close() }

// ErrClosed is what Read gives after Close.
var ErrClosed = ringbuf.ErrClosed

// ErrForeignEvent is what Read gives for an event of programs of another version, which is
// passed over.
var ErrForeignEvent = errors.New("event of another version")

// Read waits for an event.
func (e *Events) Read() (Event, error) {
	if err := e.reader.ReadInto(&e.record); err != nil {
		return Event{}, fmt.Errorf("read events: %w", err)
	}
	clock, err := e.now()
	if err != nil {
		return Event{}, err
	}
	return decodeEvent(e.record.RawSample, time.Now(), clock)
}

// decodeEvent reads a struct hp_event; clock is the programs' at now.
func decodeEvent(raw []byte, now time.Time, clock time.Duration) (Event, error) {
	var in portHpEvent
	if _, err := binary.Decode(raw, binary.NativeEndian, &in); err != nil {
		return Event{}, fmt.Errorf("%w: of %d bytes, want %d: %w", ErrForeignEvent, len(raw), binary.Size(in), err)
	}
	if int(in.Size) != binary.Size(in) {
		return Event{}, fmt.Errorf("%w: it says that it has %d bytes, want %d", ErrForeignEvent, in.Size, binary.Size(in))
	}
	out := Event{
		At: now.Add(time.Duration(in.At) - clock), IfIndex: int(in.Ifindex),
		Direction: policy.Direction(in.Dir), Reason: policy.Reason(in.Reason),
		Rule: in.Rule - 1, Monitored: in.Monitored - 1, Length: in.Length,
		Ended: in.Flags&eventEnded != 0, Logged: in.Flags&eventLogged != 0, MonitoredLogged: in.Flags&eventMonitoredLogged != 0,
		SourceMAC: in.EthSrc, DestinationMAC: in.EthDst, EtherType: in.Ethertype, VLAN: in.Vlan,
	}
	if in.Flags&eventIP != 0 {
		out.Source, out.Destination = netip.AddrFrom16(in.Src).Unmap(), netip.AddrFrom16(in.Dst).Unmap()
		out.Protocol = in.Proto
	}
	if in.Flags&eventPorts != 0 {
		out.HasPorts, out.SourcePort, out.DestinationPort, out.TCPFlags = true, in.Sport, in.Dport, in.TcpFlags
	}
	return out, nil
}

// timedOut is the event that a connection was silent for too long.
func timedOut(ifindex int, k portHpFlowKey, f portHpFlow, now time.Time) Event {
	c := describeFlow(k, f, 0)
	e := Event{At: now, IfIndex: ifindex, Direction: c.Opener, Reason: policy.ReasonEstablished, Ended: true, TimedOut: true,
		Rule: f.Rule - 1, RuleID: f.RuleId, Generation: numberOf(f.Generation), Monitored: NoRule, Logged: f.Told&eventLogged != 0, VLAN: c.VLAN, Protocol: c.Protocol, HasPorts: true}
	from, to := c.Local, c.Remote
	if c.Opener == policy.In {
		from, to = to, from
	}
	e.Source, e.Destination, e.SourcePort, e.DestinationPort = from.Addr(), to.Addr(), from.Port(), to.Port()
	if policy.HasTypes(c.Protocol) {
		e.SourcePort, e.DestinationPort = 0, 8<<8
		if c.Protocol == policy.ICMPv6 {
			e.DestinationPort = 128 << 8
		}
	}
	return e
}

// Watch has the programs tell of all that Event can say, or only of what rules ask for.
func (d *Datapath) Watch(all bool) error {
	var v uint32
	if all {
		v = 1
	}
	if err := d.maps[portMapWatched].Put(watchedAll, v); err != nil {
		return fmt.Errorf("watch packets: %w", err)
	}
	return nil
}

// EventsLost is how many events nobody will see, since the maps were made: a port tells
// of so many packets a second and no more, and the buffer can be full. See LostTold.
func (d *Datapath) EventsLost() (uint64, error) { return d.lostOf(portMapEventQuotas) }

// LostTold is how many of EventsLost people were told of, as SetLostTold said; modulo 2^32.
func (d *Datapath) LostTold() (uint32, error) {
	var n uint32
	if err := d.maps[portMapWatched].Lookup(watchedLost, &n); err != nil {
		return 0, fmt.Errorf("read how many lost events were told of: %w", err)
	}
	return n, nil
}

// SetLostTold keeps that over restarts of the process.
func (d *Datapath) SetLostTold(n uint32) error {
	if err := d.maps[portMapWatched].Put(watchedLost, n); err != nil {
		return fmt.Errorf("keep how many lost events were told of: %w", err)
	}
	return nil
}
