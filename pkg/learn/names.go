package learn

import (
	"cmp"
	"encoding"
	"fmt"
	"net"
	"strings"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Segment is one VLAN of a trunk: where an address means one host.
type Segment struct {
	Trunk string // the VLANTrunk's name
	VLAN  vlan.ID
}

// String is as fabric/100.
func (s Segment) String() string { return fmt.Sprintf("%s/%d", s.Trunk, s.VLAN) }

func (s Segment) compare(o Segment) int {
	return cmp.Or(strings.Compare(s.Trunk, o.Trunk), cmp.Compare(s.VLAN, o.VLAN))
}

// NIC names one network interface of a VM, or of a pod that runs none. A book only compares it: a VM
// that is deleted and made again under its old name has another UID, so it is another NIC.
type NIC struct {
	Namespace string
	Name      string // of the VM or pod
	UID       string `json:",omitempty"`
	Network   string // the VLANNetwork's name, whose settings are the NIC's; "" is a network, too, if it has settings
}

// String is as shop/web-1 on prod.
func (n NIC) String() string {
	if n.Network == "" {
		return n.Namespace + "/" + n.Name
	}
	return n.Namespace + "/" + n.Name + " on " + n.Network
}

func (n NIC) compare(o NIC) int {
	return cmp.Or(strings.Compare(n.Namespace, o.Namespace), strings.Compare(n.Name, o.Name),
		strings.Compare(n.UID, o.UID), strings.Compare(n.Network, o.Network))
}

// MAC is an Ethernet address; the zero MAC is "not known".
type MAC [6]byte

// String is as 00:50:56:0a:0b:0c, or "" where it is not known.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	return net.HardwareAddr(m[:]).String()
}

// MarshalText gives String.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText gave.
func (m *MAC) UnmarshalText(text []byte) error {
	*m = MAC{}
	if len(text) == 0 {
		return nil
	}
	hw, err := net.ParseMAC(string(text))
	if err != nil || len(hw) != len(m) {
		return fmt.Errorf("%q is no MAC: want six bytes in hex, as 00:50:56:0a:0b:0c", text)
	}
	*m = MAC(hw)
	return nil
}

// Provenance is how a claim became known. A greater one is better knowledge.
type Provenance uint8

// The provenances, worst first. What the guest says of itself, by agent or on the wire, is worth less
// than the word of a DHCP server; the agent's is worth more than a frame, since it lists what is
// configured, where a frame may be any program's.
const (
	ARP Provenance = iota + 1
	ND
	GuestAgent
	DHCP
	Declared
	Manual
)

var provenances = [...]string{ARP: "ARP", ND: "ND", GuestAgent: "GuestAgent", DHCP: "DHCP", Declared: "Declared", Manual: "Manual"}

// String is the word that the API has for it.
func (p Provenance) String() string {
	if p < ARP || p > Manual {
		return fmt.Sprintf("Provenance(%d)", uint8(p))
	}
	return provenances[p]
}

// MarshalText gives String; there is no text for what is no provenance.
func (p Provenance) MarshalText() ([]byte, error) {
	if p > Manual {
		return nil, fmt.Errorf("%v: want ARP, ND, GuestAgent, DHCP, Declared or Manual", p)
	}
	return []byte(provenances[p]), nil
}

// UnmarshalText reads what MarshalText gave.
func (p *Provenance) UnmarshalText(text []byte) error {
	for i, name := range provenances {
		if name == string(text) {
			*p = Provenance(i)
			return nil
		}
	}
	return fmt.Errorf("%q is no provenance: want ARP, ND, GuestAgent, DHCP, Declared or Manual", text)
}

// Firm says whether people said so, and nobody has to have seen it: Declared and Manual.
func (p Provenance) Firm() bool { return p >= Declared }

// sighted says whether it lasts only as long as it is heard again.
func (p Provenance) sighted() bool { return p < DHCP }

var (
	_ encoding.TextMarshaler   = MAC{}
	_ encoding.TextUnmarshaler = (*MAC)(nil)
	_ encoding.TextMarshaler   = Provenance(0)
	_ encoding.TextUnmarshaler = (*Provenance)(nil)
)

// Reason is why a claim or a decision was not taken.
type Reason string

// The reasons.
const (
	// Of the address itself.
	ReasonMapped      Reason = "MappedIPv4"  // IPv4 inside IPv6
	ReasonZone        Reason = "Zone"        // it names an interface
	ReasonUnspecified Reason = "Unspecified" // 0.0.0.0 or ::
	ReasonMulticast   Reason = "Multicast"
	ReasonLoopback    Reason = "Loopback"
	ReasonBroadcast   Reason = "Broadcast"  // 255.255.255.255, or a subnet's
	ReasonNetworkOwn  Reason = "NetworkOwn" // a subnet's first address
	ReasonGateway     Reason = "Gateway"
	ReasonOutside     Reason = "OutsideSubnets"

	// Of the network and the NIC.
	ReasonNoNetwork    Reason = "NetworkUnknown" // the NIC's network has no settings
	ReasonDeclaredOnly Reason = "DeclaredOnly"   // the mode takes nothing that is observed
	ReasonLimit        Reason = "Limit"
	ReasonDenied       Reason = "Denied"

	// Of a decision, or of the event.
	ReasonNobody    Reason = "NobodyClaims"
	ReasonDeclared  Reason = "IsDeclared" // a declaration is withdrawn, not denied
	ReasonMalformed Reason = "Malformed"
)

var reasonTexts = map[Reason]string{
	ReasonMapped:       "is an IPv4 address inside an IPv6 one: want the IPv4 address itself",
	ReasonZone:         "has a zone: want the bare address",
	ReasonUnspecified:  "is the unspecified address, which is nobody's",
	ReasonMulticast:    "is a multicast address, which is nobody's own",
	ReasonLoopback:     "is a loopback address, which never leaves a host",
	ReasonBroadcast:    "is a broadcast address: want a host's",
	ReasonNetworkOwn:   "is the first address of a subnet, which is the network's own, or its routers': want a host's",
	ReasonGateway:      "is a gateway of the network, and no NIC's to have: want another address",
	ReasonOutside:      "is in none of the network's subnets: want an address of one, or add its subnet to the network",
	ReasonNoNetwork:    "is of a network that is not known",
	ReasonDeclaredOnly: "is observed, and the network's mode Declared takes only what is declared: declare it",
	ReasonLimit:        "is more than the NIC may claim",
	ReasonDenied:       "was denied to the NIC: approve it to take that back",
	ReasonNobody:       "is not claimed by the NIC, so there is nothing to decide",
	ReasonDeclared:     "is declared: withdraw the declaration instead",
	ReasonMalformed:    "came with an event that says too little",
}

// Text is the reason as the rest of a sentence that begins with the address.
func (r Reason) Text() string { return reasonTexts[r] }
