package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// How much is told of a frame, in bytes, and how many of one port and direction and of all of a node in 2^30 ns:
// HP_HEARD_SHORT, HP_HEARD_LONG, HP_HEARD_A_WINDOW, HP_HEARD_OF_NODE.
const (
	HeardShort  = 128  // of ARP and neighbour discovery
	HeardLong   = 1000 // of DHCP
	HeardOfPort = 64
	HeardOfNode = 8192
)

// Heard is a frame that says who has an address, after guards and rules have let it pass.
type Heard struct {
	At      time.Time // to some milliseconds
	IfIndex int       // host end of the port
	Out     bool      // from the VM
	VLAN    vlan.ID   // of the port, or the one that its VM tags
	// Frame is as the hook had it, from the Ethernet header on: with one 802.1Q tag in it or none. It is cut off behind
	// HeardShort or HeardLong bytes.
	Frame []byte
	// Length is that of the whole frame, in bytes.
	Length int
}

// HeardReader reads what the programs have heard. There is one on a node at a time.
type HeardReader struct {
	reader *ringbuf.Reader
	record ringbuf.Record
}

// Heard opens the reader. What was heard before and not read comes first. What a port says is heard if the programs do not
// know it ([Datapath.PutAddress]); if they do, Address.Seen says when.
func (d *Datapath) Heard() (*HeardReader, error) {
	r, err := ringbuf.NewReader(d.maps[portMapHeard])
	if err != nil {
		return nil, fmt.Errorf("read what was heard: %w", err)
	}
	return &HeardReader{reader: r}, nil
}

// Close ends Read.
func (r *HeardReader) Close() error { return r.reader.Close() }

// Read waits for a frame, whose bytes are the caller's. The error wraps ErrClosed after Close, and ErrForeignEvent for what
// programs of another version tell, which is passed over.
func (r *HeardReader) Read() (Heard, error) {
	if err := r.reader.ReadInto(&r.record); err != nil {
		return Heard{}, fmt.Errorf("read what was heard: %w", err)
	}
	clock, err := coarseTime()
	if err != nil {
		return Heard{}, err
	}
	return decodeHeard(r.record.RawSample, time.Now(), clock)
}

// decodeHeard reads a struct hp_heard and the frame behind it; clock is the programs' at now.
func decodeHeard(raw []byte, now time.Time, clock time.Duration) (Heard, error) {
	var in portHpHeard
	head, err := binary.Decode(raw, binary.NativeEndian, &in)
	if err != nil {
		return Heard{}, fmt.Errorf("%w: heard, of %d bytes, want %d: %w", ErrForeignEvent, len(raw), binary.Size(in), err)
	}
	if int(in.Head) != head || int(in.Size) > len(raw)-head {
		return Heard{}, fmt.Errorf("%w: heard, of %d bytes, says that it has %d and %d", ErrForeignEvent, len(raw), in.Head, in.Size)
	}
	return Heard{At: now.Add(time.Duration(in.At) - clock), IfIndex: int(in.Ifindex), Out: Hook(in.Dir) == FromVM, VLAN: vlan.ID(in.Vlan),
		Frame: append([]byte{}, raw[head:head+int(in.Size)]...), Length: int(in.Length)}, nil
}

// HeardLost is how many such frames nobody will see, since the maps were made: a port tells of HeardOfPort and no more, and
// the buffer can be full.
func (d *Datapath) HeardLost() (uint64, error) { return d.lostOf(portMapHeardQuotas) }

// lostOf sums up what a map of quotas says.
func (d *Datapath) lostOf(quotas string) (sum uint64, err error) {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]uint32, PortsMax+1), make([]portHpQuota, PortsMax+1)
	for {
		n, err := d.maps[quotas].BatchLookup(&cursor, keys, values, nil)
		for i := range values[:n] {
			sum += values[i].Lost
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return sum, nil
		case err != nil:
			return 0, fmt.Errorf("count what was lost of %s: %w", quotas, err)
		}
	}
}
