// Package reach finds out what a fabric carries, per node and VLAN, and why not.
//
// A check has the agents of all nodes speak at the same time, in every VLAN that is
// intended there, and compares what each has heard (see pkg/probe for what is on the
// wire). Silence is never taken for a fault of the one who hears it: who is cut off is
// told by what others hear, and what cannot be told is said to be untested. One cause
// makes one finding: what follows from it is masked (conclude.go has the order).
//
// Run does the I/O, through Agents that it is given; Conclude is a function from what
// was seen to a Report. Codes has all words on findings, once.
package reach

import (
	"context"
	"net/netip"
	"time"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Agent is one node's, near or far.
type Agent interface {
	// Node is its name, as hellos have it.
	Node() string
	// Describe tells what the node should carry, and how it is.
	Describe(ctx context.Context) (Description, error)
	// Start has the node listen at the uplinks of these trunks, until Stop, or until it has not
	// been asked for Lease.
	Start(ctx context.Context, run probe.RunID, trunks []string, pps int) error
	// Send sends, at the agent's own pace, and returns when all is out.
	Send(ctx context.Context, run probe.RunID, trunk string, asks []probe.Ask) error
	// Observe tells what was heard since Start.
	Observe(ctx context.Context, run probe.RunID, trunk string) (probe.Observation, error)
	Stop(ctx context.Context, run probe.RunID) error
}

// Lease is how long an agent takes part in a check that asks nothing more of it.
const Lease = 30 * time.Second

// Description is what a node should carry, and how it is.
type Description struct {
	Node    string  `json:"node"`
	Version string  `json:"version"`
	Trunks  []Trunk `json:"trunks,omitempty"`
}

// Trunk is one on a node. Trunks of one name are taken to lead to one fabric.
type Trunk struct {
	Name   string    `json:"name"`
	Bridge string    `json:"bridge"`
	Uplink string    `json:"uplink"`
	MAC    probe.MAC `json:"mac"`
	MTU    int       `json:"mtu"` // of the uplink, in bytes
	// Down says why nothing can be sent; "" is up with carrier.
	Down string `json:"down,omitempty"`
	// Allowed are the VLANs that networks may use; Native is the untagged one, 0 none.
	Allowed  vlan.Set  `json:"allowed"`
	Native   vlan.ID   `json:"native,omitempty"`
	Networks []Network `json:"networks,omitempty"`
	// VMs are the MACs of those that run on the node.
	VMs []probe.MAC `json:"vms,omitempty"`
	// Drift is what is wrong with the node's own bridge, in words; of VLANs where it is known.
	Drift []Drift `json:"drift,omitempty"`
	// Switch is what the switch says of itself by LLDP; nil if nothing was heard in
	// LLDPHeard, the time that the agent has listened.
	Switch     *probe.Neighbour `json:"switch,omitempty"`
	LLDPHeard  time.Duration    `json:"lldpHeard,omitempty"`
	LLDPLapsed bool             `json:"lldpLapsed,omitempty"` // it had spoken, and its word has run out
}

// Drift is something at home that is not as it should be.
type Drift struct {
	VLANs vlan.Set `json:"vlans,omitzero"` // empty: all
	What  string   `json:"what"`
}

// Network is one of a trunk, as far as it says what should be reached.
type Network struct {
	Name  string   `json:"name"`
	VLANs vlan.Set `json:"vlans"`
	// Home is the VLAN that its addresses live in; 0: it is not known in which.
	Home     vlan.ID        `json:"home,omitempty"`
	MTU      int            `json:"mtu,omitempty"` // in bytes; 0 was not told, and is what all uplinks have
	Subnets  []netip.Prefix `json:"subnets,omitempty"`
	Gateways []netip.Addr   `json:"gateways,omitempty"`
	// DHCP asks for offers; DHCPServers are those who may make them, none: any one.
	DHCP        bool         `json:"dhcp,omitempty"`
	DHCPServers []netip.Addr `json:"dhcpServers,omitempty"`
	// Sources are addresses that this node may ask from, one of a subnet; Targets hosts that must answer
	// who asks from one.
	Sources []netip.Addr `json:"sources,omitempty"`
	Targets []netip.Addr `json:"targets,omitempty"`
}
