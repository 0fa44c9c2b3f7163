package wire

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// The values of Address.State.
const (
	AddressHeld    = "Held"
	AddressAside   = "Aside"   // another NIC holds it
	AddressWaiting = "Waiting" // for a person's approval
	AddressOutside = "Outside" // claimed by somebody who is no NIC of the cluster
	AddressRefused = "Refused" // to the NIC; Why says so
)

// AddressList is who has which address, as the node knows it: NICs of its networks, on whatever node.
type AddressList struct {
	TypeMeta `json:",inline"`
	Items    []Address `json:"items"`
	// MACs are the conflicts about MACs, of NICs of this node.
	MACs []MACConflict `json:"macs,omitempty"`
	// Cut says that there are more than an answer holds.
	Cut bool `json:"cut,omitempty"`
}

// Address is one NIC's, or somebody's outside, of one address in one VLAN.
type Address struct {
	Trunk   string     `json:"trunk"`
	VLAN    vlan.ID    `json:"vlan"`
	Address netip.Addr `json:"address"`
	State   string     `json:"state"`
	Network string     `json:"network,omitempty"`
	// Namespace, Name and UID are of the VM, or of the pod where VM is false.
	Namespace string     `json:"namespace,omitempty"`
	Name      string     `json:"name,omitempty"`
	UID       string     `json:"uid,omitempty"`
	VM        bool       `json:"vm,omitempty"`
	MAC       attach.MAC `json:"mac"` // of the station that has it: behind a NIC that bridges, not the NIC's
	Node      string     `json:"node,omitempty"`
	Place     string     `json:"place,omitempty"` // where it was heard last
	// Provenance is how it is known: ARP, ND, GuestAgent, DHCP, Declared or Manual; Source which declaration.
	Provenance string    `json:"provenance,omitempty"`
	Source     string    `json:"source,omitempty"`
	Since      time.Time `json:"since"`
	Seen       time.Time `json:"seen"`           // to half a minute
	Until      time.Time `json:"until,omitzero"` // the end of a lease
	ApprovedBy string    `json:"approvedBy,omitempty"`
	Conflict   bool      `json:"conflict,omitempty"`
	Why        string    `json:"why,omitempty"` // it is refused
}

// AddressConflict is about an address that a port's NIC claims.
type AddressConflict struct {
	Address   netip.Addr        `json:"address"`
	VLAN      vlan.ID           `json:"vlan"`
	Kind      string            `json:"kind"` // Declared, Inside, Outside: learn.ConflictKind
	Since     time.Time         `json:"since"`
	Claimants []AddressClaimant `json:"claimants"` // the holder first
}

// AddressClaimant is one side of a conflict.
type AddressClaimant struct {
	Outside    bool       `json:"outside,omitempty"` // no NIC of the cluster
	Namespace  string     `json:"namespace,omitempty"`
	Name       string     `json:"name,omitempty"`
	VM         bool       `json:"vm,omitempty"` // Name is a VM's, and not a pod's
	MAC        attach.MAC `json:"mac"`
	Node       string     `json:"node,omitempty"` // that it is on, or that has heard it
	Place      string     `json:"place,omitempty"`
	Provenance string     `json:"provenance,omitempty"`
	Since      time.Time  `json:"since"`
}

// MACConflict is that frames with the MAC of a NIC come to its port: another station has it, or what the NIC sends comes back.
type MACConflict struct {
	Namespace string     `json:"namespace,omitempty"`
	Name      string     `json:"name"`
	VM        bool       `json:"vm,omitempty"` // Name is a VM's, and not a pod's
	MAC       attach.MAC `json:"mac"`
	VLAN      vlan.ID    `json:"vlan"`
	Place     string     `json:"place"` // where they come from
	Since     time.Time  `json:"since"`
	Seen      time.Time  `json:"seen"`
	// Others are NICs of the cluster with that MAC on the trunk.
	Others []AddressClaimant `json:"others,omitempty"`
}

// String says it in words.
func (c *MACConflict) String() string {
	var others []string
	for _, o := range c.Others {
		name := o.Namespace + "/" + o.Name
		if o.Node != "" {
			name += " on " + o.Node
		}
		others = append(others, name)
	}
	who := "a station outside the cluster"
	if len(others) > 0 {
		who = strings.Join(others, ", ")
	}
	return fmt.Sprintf("%v of %s/%s is in VLAN %v used elsewhere, too, at %s, since %s: by %s, or by a loop that sends back what the NIC sends",
		c.MAC, c.Namespace, c.Name, c.VLAN, c.Place, c.Since.UTC().Format(time.RFC3339), who)
}

// AddressDecision is a person's word on an address that a VM or pod claims.
type AddressDecision struct {
	Name    string     `json:"name"` // of the VM or pod, or namespace/name
	Address netip.Addr `json:"address"`
	VLAN    vlan.ID    `json:"vlan,omitempty"` // 0: in whichever it claims it
	Deny    bool       `json:"deny,omitempty"`
	By      string     `json:"by"`
}

// AddressDecided is a decision about an address that a port's NIC does not claim now.
type AddressDecided struct {
	Address netip.Addr `json:"address"`
	VLAN    vlan.ID    `json:"vlan"`
	Denied  bool       `json:"denied,omitempty"`
	By      string     `json:"by"`
	At      time.Time  `json:"at"`
}
