// Package probe asks a fabric what it carries, from a node's uplink, without owning
// an address there.
//
// A Station is one node's part in one check: it puts frames on the wire as it is
// asked to, in the form that the VLAN has there (tagged, or untagged where it is
// native), and notes what comes. It concludes nothing. What it heard only means
// something beside what its peers heard: a frame that one sent and all others heard
// tells of the way from that one to each of them.
//
// Agents speak to each other by hellos (see Hello). Of others it asks gateways alone,
// by ARP and neighbour solicitation from no address (RFC 5227, 2.1.1; RFC 4862, 5.4.2):
// to a host that is about to take an address such a question is a conflict, to one that
// has it none. It answers nobody, and nobody's traffic is learnt from or changed by it.
//
// Where the node was given an address to ask from (sources.go), it asks other hosts, too, and
// gateways for echoes. It has that address as long as the Station is there, if nobody else does.
package probe

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Frame is an Ethernet frame as on the wire, its 802.1Q tag and check sequence apart.
type Frame struct {
	// VLAN is the tag's; 0 is a frame without one, or with a priority alone.
	VLAN vlan.ID
	// Data is from the destination's MAC on. Of what was received it may be the beginning.
	Data []byte
	// Length of the whole frame, in bytes, tag and check sequence left out.
	Length int
}

// Conn is a way to the wire and back at one interface. Send and Receive may run at
// the same time.
type Conn interface {
	Send(Frame) error
	// Receive waits for a frame of others. After Close it gives net.ErrClosed. The frame's
	// data are valid until the next one.
	Receive() (Frame, error)
	// Lost is how many frames came that there was no room for, since the Conn was opened.
	Lost() (uint64, error)
	Close() error
}

// RunID tells one check's frames from another's.
type RunID [8]byte

func (r RunID) String() string { return hex.EncodeToString(r[:]) }

// MarshalText is String.
func (r RunID) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what String prints.
func (r *RunID) UnmarshalText(text []byte) error {
	if len(text) != 2*len(r) {
		return fmt.Errorf("a run's ID has %d hexadecimal digits, %q has %d", 2*len(r), text, len(text))
	}
	_, err := hex.Decode(r[:], text)
	return err
}

// Kind is what a frame asks.
type Kind string

// The kinds. Hello to Unicast are hellos.
const (
	Hello   Kind = "hello"   // broadcast from the uplink's own MAC: does anything pass
	Full    Kind = "full"    // the same, as large as the network's MTU
	Foreign Kind = "foreign" // broadcast from a MAC that is not the uplink's, as a VM's is not
	Unicast Kind = "unicast" // to that MAC of a peer
	Size    Kind = "size"    // broadcast of a size in between, to find the largest that passes
	Gateway Kind = "gateway" // ARP or ND for an address
	DHCP    Kind = "dhcp"    // DISCOVER
	Routers Kind = "routers" // router solicitation
	Detect  Kind = "detect"  // ARP or ND, from no address, for one that a node is to ask from
	Host    Kind = "host"    // ARP or ND for an address, from a source
	Echo    Kind = "echo"    // ICMP echo request from a source, not to be fragmented
)

// isHello says that peers hear it.
func (k Kind) isHello() bool {
	switch k {
	case Hello, Full, Foreign, Unicast, Size:
		return true
	}
	return false
}

// Class is of frames that switches and routers limit by themselves, so that each has a pace of its own.
type Class string

// The classes.
const (
	ClassHello Class = "hello"
	ClassARP   Class = "arp"
	ClassND    Class = "nd" // router solicitations, too
	ClassDHCP  Class = "dhcp"
	ClassEcho  Class = "echo"
)

// Class of an Ask.
func (a Ask) Class() Class {
	switch {
	case a.Kind == DHCP:
		return ClassDHCP
	case a.Kind == Echo:
		return ClassEcho
	case a.Kind.isHello():
		return ClassHello
	}
	return classOf(a.Target)
}

// classOf is the class of a question for an address.
func classOf(target netip.Addr) Class {
	if target.Is4() {
		return ClassARP
	}
	return ClassND
}

// Ask is one frame to be sent.
type Ask struct {
	// VLAN that is meant; Untagged if it is native at this uplink.
	VLAN     vlan.ID `json:"vlan"`
	Untagged bool    `json:"untagged,omitempty"`
	Kind     Kind    `json:"kind"`
	// Size of a hello or an Echo, in bytes of Ethernet payload, as an MTU is counted. Less than
	// it needs is what it needs.
	Size int `json:"size,omitempty"`
	// To is the MAC that a Unicast or an Echo is for.
	To MAC `json:"to,omitzero"`
	// Target is the address that is asked for; Source the one that Host and Echo ask from. A Detect
	// whose Source is its Target is for one's own.
	Target netip.Addr `json:"target,omitzero"`
	Source netip.Addr `json:"source,omitzero"`
}

func (a Ask) validate() error {
	if err := a.VLAN.Validate(); err != nil {
		return err
	}
	switch {
	case a.Kind.isHello(), a.Kind == DHCP, a.Kind == Routers:
	case a.Kind == Gateway, a.Kind == Detect:
		if !IsHost(a.Target) {
			return fmt.Errorf("target %v is no address of a gateway or host", a.Target)
		}
		if a.Source.IsValid() && a.Source != a.Target {
			return fmt.Errorf("source %v: a %s has none", a.Source, a.Kind)
		}
	case a.Kind == Host, a.Kind == Echo:
		if !IsHost(a.Target) || !IsHost(a.Source) || a.Target.Is4() != a.Source.Is4() || a.Target == a.Source {
			return fmt.Errorf("target %v, source %v: want two addresses of hosts, of one family", a.Target, a.Source)
		}
	default:
		return fmt.Errorf("there is no probe %q", a.Kind)
	}
	if (a.Kind == Unicast || a.Kind == Echo) && a.To.IsGroup() {
		return fmt.Errorf("unicast to %v: want a station's MAC", a.To)
	}
	if a.Size < 0 || a.Size > maxSize {
		return fmt.Errorf("size %d: want at most %d", a.Size, maxSize)
	}
	return nil
}

// IsHost says that an address is one that a host may have. A zone would not be in an answer, and what
// is written as IPv6 is asked for as that.
func IsHost(a netip.Addr) bool {
	return a.IsValid() && !a.IsMulticast() && !a.IsUnspecified() && a.Zone() == "" && !a.Is4In6()
}

// maxSize is the largest MTU that Linux has.
const maxSize = 65535

// MAC is an EUI-48 that can be compared.
type MAC [6]byte

// MACOf takes over what has the length of one.
func MACOf(b []byte) (m MAC, err error) {
	if len(b) != len(m) {
		return m, fmt.Errorf("%v is no MAC of 6 bytes", net.HardwareAddr(b))
	}
	return MAC(b), nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText is String.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what String prints.
func (m *MAC) UnmarshalText(text []byte) error {
	b, err := net.ParseMAC(string(text))
	if err != nil {
		return err
	}
	*m, err = MACOf(b)
	return err
}

// IsGroup says that a MAC is of no station: one of many, or none.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 || m == MAC{} }

// ofLink says that frames to it are of a switch and its neighbour, whatever VLANs pass: those to
// the reserved addresses (IEEE 802.1Q, 8.6.3), and CDP with its kin.
func ofLink(to MAC) bool {
	return [5]byte(to[:5]) == [5]byte{0x01, 0x80, 0xc2, 0, 0} && to[5] < 0x10 || to == MAC{0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc}
}

// Foreign is a MAC that is no one's NIC, made of the uplink's: 02:48 and a hash, of the locally
// administered kind, and always the same, so that checks do not fill the tables of switches.
func (m MAC) Foreign() MAC {
	h := sha256.Sum256(m[:])
	return MAC{0x02, 0x48, h[0], h[1], h[2], h[3]}
}

var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// errShort is of a frame that ends too early.
var errShort = errors.New("the frame ends too early")
