package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// EtherLLDP is the EtherType of LLDP (IEEE 802.1AB).
const EtherLLDP = 0x88cc

// Neighbour is what a switch says of the port that we are at, by LLDP.
type Neighbour struct {
	Chassis string        `json:"chassis"`        // MAC or name
	Name    string        `json:"name,omitempty"` // of the system
	Port    string        `json:"port"`           // name or number of the port
	PortIs  string        `json:"portIs,omitempty"`
	TTL     time.Duration `json:"ttl"`
	// Native is the VLAN of untagged frames; 0 was not told.
	Native vlan.ID `json:"native,omitempty"`
	// VLANs that the port carries, if it lists any.
	VLANs vlan.Set `json:"vlans,omitzero"`
	// MaxFrame in bytes, with head and check sequence; 0 was not told.
	MaxFrame int `json:"maxFrame,omitempty"`
}

func (n *Neighbour) String() string {
	name := n.Name
	if name == "" {
		name = n.Chassis
	}
	return name + " " + n.Port
}

// TLV types and subtypes (IEEE 802.1AB-2016, 8.4 and 8.5, annexes D and E of 802.1Q and 802.3).
const (
	tlvEnd, tlvChassis, tlvPort, tlvTTL, tlvPortDescription, tlvSystemName, tlvOrganization = 0, 1, 2, 3, 4, 5, 127
	idMAC, idNetwork                                                                        = 4, 5 // of a chassis; a port's are one less
)

var (
	oui8021 = [3]byte{0x00, 0x80, 0xc2}
	oui8023 = [3]byte{0x00, 0x12, 0x0f}
)

// ReadLLDP reads what stands behind the EtherType. A frame without its three mandatory parts
// is an error; parts that are not known, or broken by themselves, are left out.
func ReadLLDP(b []byte) (*Neighbour, error) {
	n := new(Neighbour)
	var has [4]bool
	for len(b) >= 2 {
		head := binary.BigEndian.Uint16(b)
		kind, size := int(head>>9), int(head&0x1ff)
		if len(b) < 2+size {
			return nil, fmt.Errorf("LLDP: part %d: %w", kind, errShort)
		}
		value := b[2 : 2+size]
		b = b[2+size:]
		if kind == tlvEnd {
			break
		}
		if kind < len(has) && len(value) >= 2 {
			has[kind] = true
		}
		n.take(kind, value)
	}
	switch {
	case !has[tlvChassis] || n.Chassis == "":
		return nil, errors.New("LLDP: no chassis ID")
	case !has[tlvPort] || n.Port == "":
		return nil, errors.New("LLDP: no port ID")
	case !has[tlvTTL]:
		return nil, errors.New("LLDP: no time to live")
	}
	return n, nil
}

func (n *Neighbour) take(kind int, v []byte) {
	switch kind {
	case tlvChassis:
		n.Chassis = id(v, 0)
	case tlvPort:
		n.Port = id(v, 1)
	case tlvTTL:
		if len(v) >= 2 {
			n.TTL = time.Duration(binary.BigEndian.Uint16(v)) * time.Second
		}
	case tlvPortDescription:
		n.PortIs = text(v)
	case tlvSystemName:
		n.Name = text(v)
	case tlvOrganization:
		if len(v) >= 4 {
			n.organization([3]byte(v), v[3], v[4:])
		}
	}
}

func (n *Neighbour) organization(oui [3]byte, kind byte, v []byte) {
	if len(v) < 2 {
		return
	}
	word := binary.BigEndian.Uint16(v)
	switch {
	case oui == oui8021 && kind == 1: // Port VLAN ID
		if id := vlan.ID(word); id.Validate() == nil {
			n.Native = id
		}
	case oui == oui8021 && kind == 3: // VLAN Name, one a VLAN
		_ = n.VLANs.Add(vlan.ID(word)) // one that is none is left out
	case oui == oui8023 && kind == 4: // Maximum Frame Size
		n.MaxFrame = int(word)
	}
}

// id is a chassis' or a port's name; a port's subtypes are lower by one.
func id(v []byte, shift byte) string {
	if len(v) < 2 {
		return ""
	}
	kind, v := v[0]+shift, v[1:]
	switch {
	case kind == idMAC && len(v) == 6:
		return net.HardwareAddr(v).String()
	case kind == idNetwork && len(v) == 5 && v[0] == 1: // IANA's family of IPv4
		return net.IP(v[1:]).String()
	case kind == idNetwork && len(v) == 17 && v[0] == 2:
		return net.IP(v[1:]).String()
	case kind == idMAC, kind == idNetwork: // a broken one is no text
		return ""
	}
	return text(v)
}

// text keeps what can be printed, as others' words go to terminals.
func text(v []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(v)))
}
