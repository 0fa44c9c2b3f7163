package snoop

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Port is what is known of where a frame was heard.
type Port struct {
	ID  string // any stable key
	MAC learn.MAC
}

// Frame is a frame as it was heard, or its beginning.
type Frame struct {
	At   time.Time
	Port Port
	Out  bool    // the VM has sent it; else it is for the VM
	VLAN vlan.ID // in which it counts, whatever tag is in it
	Data []byte  // from the Ethernet header on; one 802.1Q tag may be there
}

// Kind is what was said of an address.
type Kind uint8

// The kinds.
const (
	Claims    Kind = iota + 1 // the VM has it
	Withdraws                 // what Provenance said of it is over
	Foreign                   // another station, heard at this port, says that it has it
	Asks                      // the VM asks whether anybody has it, and has it if nobody does: duplicate address detection
)

var kinds = [...]string{Claims: "Claims", Withdraws: "Withdraws", Foreign: "Foreign", Asks: "Asks"}

// String is the kind's name.
func (k Kind) String() string {
	if k < Claims || k > Asks {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kinds[k]
}

// Said is what a frame says of one address.
type Said struct {
	Kind Kind
	Addr netip.Addr // IPv4 as such, not inside IPv6
	// MAC is the station's that has it. Where the VM uses several, it need not be the port's.
	MAC        learn.MAC
	VLAN       vlan.ID
	Provenance learn.Provenance // ARP, ND or DHCP
	Until      time.Time        // a lease's end; zero: for ever, or no lease
}

// Bounds of what is kept of a port.
const (
	maxAsks = 8
	askTime = 2 * time.Minute
)

// askKey tells questions to DHCP servers apart.
type askKey struct {
	v6   bool
	vlan vlan.ID
	xid  uint32
	mac  learn.MAC // the client's, as DHCPv4 has it in question and answer
}

// ask is a question to DHCP servers.
type ask struct {
	askKey
	at    time.Time
	wants netip.Addr // what a refusal takes away
}

// Reader reads frames of any number of ports. It may be used by several at once.
type Reader struct {
	mu   sync.Mutex
	asks map[string][]ask // by port, the latest last
}

// New makes a Reader that has heard nothing yet.
func New() *Reader { return &Reader{asks: map[string][]ask{}} }

// Forget drops what is kept of a port.
func (r *Reader) Forget(port string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.asks, port)
}

// FromItself says that a frame comes to its port from the port's own MAC: of another station that has it, or back by a loop.
func (f *Frame) FromItself() bool {
	e, ok := readEther(f.Data)
	return ok && !f.Out && single(e.from) && e.from == f.Port.MAC
}

// Read says what a frame says. What is broken, or cut off too early, says nothing.
func (r *Reader) Read(f Frame) []Said {
	e, ok := readEther(f.Data)
	if !ok || !single(e.from) || !f.Out && e.from == f.Port.MAC {
		return nil
	}
	switch e.kind {
	case etherARP:
		return f.only(readARP(&f, &e))
	case etherIPv4:
		if p, ok := readIPv4(e.body); ok && p.proto == protoUDP {
			return r.dhcpv4(&f, &e, &p)
		}
	case etherIPv6:
		p, ok := readIPv6(e.body)
		switch {
		case ok && p.proto == protoICMPv6:
			return f.only(readND(&f, &e, &p))
		case ok && p.proto == protoUDP:
			return r.dhcpv6(&f, &e, &p)
		}
	}
	return nil
}

// only is what says one thing, of an address that a host can have. A station other than the port's is foreign only if it
// is not given out for the port's own.
func (f *Frame) only(s Said, ok bool) []Said {
	if !ok || !fit(s.Addr) || s.Kind == Foreign && (s.MAC == f.Port.MAC || s.MAC == learn.MAC{}) {
		return nil
	}
	s.VLAN = f.VLAN
	return []Said{s}
}

// fit says whether a host can have the address at all.
func fit(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// single says whether it is one station's MAC.
func single(m learn.MAC) bool { return m[0]&1 == 0 && m != learn.MAC{} }

// until is when a lease ends that runs for so many seconds.
func (f *Frame) until(seconds uint32) time.Time {
	const forever = 0xffffffff // RFC 2131, 3.3; RFC 8415, 7.7
	if seconds == forever {
		return time.Time{}
	}
	return f.At.Add(time.Duration(seconds) * time.Second)
}

// remember keeps a question, instead of an earlier one that is alike, and of the oldest if there are too many.
func (r *Reader) remember(f *Frame, k askKey, wants netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asks := slices.DeleteFunc(r.asks[f.Port.ID], func(a ask) bool { return a.askKey == k || f.late(&a) })
	if len(asks) >= maxAsks {
		asks = slices.Delete(asks, 0, len(asks)-maxAsks+1)
	}
	r.asks[f.Port.ID] = append(asks, ask{k, f.At, wants})
}

// asked says whether the port asked so, and what a refusal takes away: after the first answer, nothing.
func (r *Reader) asked(f *Frame, k askKey) (wants netip.Addr, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asks := r.asks[f.Port.ID]
	i := slices.IndexFunc(asks, func(a ask) bool { return a.askKey == k && !f.late(&a) })
	if i < 0 {
		return wants, false
	}
	wants, asks[i].wants = asks[i].wants, netip.Addr{}
	return wants, true
}

// late says whether the frame comes too late for an answer.
func (f *Frame) late(a *ask) bool { return f.At.Sub(a.at) > askTime }
