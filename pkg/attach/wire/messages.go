// Package wire is the protocol between the CNI plugin or homeportctl and the
// node's agent: over a unix stream socket, each message is a 4-byte big-endian
// length and that many bytes of JSON. A connection carries any number of
// request-answer pairs, one at a time.
package wire

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// Version of the protocol. A side talks to its own version and its neighbours
// (N-1, N+1), so that plugin and agent can be upgraded one after the other.
const Version = 1

// MaxMessage bounds a message's length in bytes.
const MaxMessage = 4 << 20

// Verb names what is asked.
type Verb string

// The verbs and the bodies of request and answer.
const (
	// Prepare: attach.Request without a host end -> Prepared. What a dead port of
	// the same key left behind is cleared; nothing that lives changes.
	Prepare Verb = "Prepare"
	Attach  Verb = "Attach" // attach.Request -> attach.Record
	// Declare: DeclareRequest -> nothing. An IPAM plugin has given the port's interface these
	// addresses, in place of those of Attach; it may need the port for that, as one of DHCP does.
	Declare Verb = "Declare"
	Detach  Verb = "Detach" // DetachRequest -> Detached; a missing port is no error
	Check   Verb = "Check"  // attach.Key -> Checked
	GC      Verb = "GC"     // GCRequest -> Collected
	Status  Verb = "Status" // nothing -> nothing, or an Error of kind Unavailable or Limited
	// Open and Release: attach.Key -> nothing. Somebody says by hand that the port's
	// VM has come, or has left.
	Open    Verb = "Open"
	Release Verb = "Release"
	Reach   Verb = "Reach" // ReachRequest -> ReachState
	// Decide: AddressDecision -> nothing. A person approves an address, or denies it.
	Decide Verb = "Decide"
	View   Verb = "View" // ViewRequest -> JSON for homeportctl, see package agent
)

// Request is the envelope of what is asked.
type Request struct {
	Version int             `json:"version"`
	Verb    Verb            `json:"verb"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// Answer is the envelope of what is answered: Error or Body.
type Answer struct {
	Version int             `json:"version"`
	Error   *attach.Error   `json:"error,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// Prepared is what a valid request will get.
type Prepared struct {
	Bridge string       `json:"bridge"`
	MTU    int          `json:"mtu"` // bytes, for both ends
	VLANs  attach.VLANs `json:"vlans"`
	// MAC is the one that the VM has already, where the request names none: that of a
	// VM which comes by live migration; else it is empty.
	MAC attach.MAC `json:"mac,omitempty"`
	// Longer is how much longer than usual Attach and Declare may take: the VLAN is asked who has the addresses.
	Longer time.Duration `json:"longer,omitempty"`
}

// DeclareRequest names a port that is attached, and all addresses that its interface was given.
type DeclareRequest struct {
	attach.Key
	Addresses []netip.Addr `json:"addresses"`
}

// DetachRequest names the port that ends.
type DetachRequest struct {
	attach.Key
}

// Detached says whether there was such a port.
type Detached struct {
	Found bool `json:"found"`
}

// Checked lists what is wrong with a port; empty is all well.
type Checked struct {
	Problems []string `json:"problems,omitempty"`
}

// GCRequest names the attachments of one CNI network that are still valid.
type GCRequest struct {
	CNINetwork string       `json:"cniNetwork"`
	Valid      []attach.Key `json:"valid"`
}

// Collected lists the attachments that GC ended.
type Collected struct {
	Removed []attach.Key `json:"removed,omitempty"`
}

// ReachRequest starts a check of the fabric, asks how far it is, or ends it.
type ReachRequest struct {
	Do      string          `json:"do"`                // one of the Reach constants
	ID      string          `json:"id,omitempty"`      // of Look and Cancel, as Start has told; of Last, a check's name
	Options json.RawMessage `json:"options,omitempty"` // of Start: reach.Options
}

// What to do about a check.
const (
	ReachStart  = "Start"
	ReachLook   = "Look" // at least every thirty seconds, or the check is ended
	ReachCancel = "Cancel"
	ReachLast   = "Last" // of the ReachabilityCheck ID: what its last run found
)

// ReachState is how far a check is.
type ReachState struct {
	ID   string `json:"id"`
	What string `json:"what,omitempty"` // is done now, and the steps of it
	Done int    `json:"done"`
	Of   int    `json:"of"`
	// Over: there is a Report (reach.Report), or an Error; Refused, if that is of what was asked for.
	Over    bool            `json:"over,omitempty"`
	Error   string          `json:"error,omitempty"`
	Refused bool            `json:"refused,omitempty"`
	Report  json.RawMessage `json:"report,omitempty"`
}

// ViewRequest names what homeportctl wants to see.
type ViewRequest struct {
	What   string      `json:"what"` // one of the View constants
	Name   string      `json:"name,omitempty"`
	Port   *attach.Key `json:"port,omitempty"`   // of rules, verdict and trace
	Packet *Packet     `json:"packet,omitempty"` // of verdict and trace
	Events *EventQuery `json:"events,omitempty"` // of events
}

// EventQuery asks for events that the agent remembers.
type EventQuery struct {
	// After is the Seq of the last event that is known, or EventList.Next; absent: all
	// that are remembered or, with Follow, those from now on.
	After *uint64 `json:"after,omitempty"`
	// Follow has all packets told of, not only what rules log, until nobody has asked so
	// for ten seconds; and the answer wait for a second if there is nothing yet.
	Follow bool `json:"follow,omitempty"`
}

// Packet is the first packet of a connection, as a port sees it.
type Packet struct {
	Direction   string     `json:"direction"` // In (to the VM) or Out
	Source      netip.Addr `json:"source,omitzero"`
	Destination netip.Addr `json:"destination,omitzero"`
	// SourcePort of TCP, UDP and SCTP; 0 is a port as clients take one.
	SourcePort uint16 `json:"sourcePort,omitempty"`
	Service    string `json:"service,omitempty"` // tcp/443, udp/53, sctp/2905, icmp/8, icmp/3/4, icmpv6/128; or ip/47
	// VLAN of an 802.1Q tag, of trace; 0 is none. TCPFlags by letters of FSRPAUEC; without, TCP is
	// a SYN.
	VLAN     uint16 `json:"vlan,omitempty"`
	TCPFlags string `json:"tcpFlags,omitempty"`
	// PeerMAC is the MAC of the other side; "" is one that nobody has.
	PeerMAC string `json:"peerMAC,omitempty"`
	// EtherType has a frame that is not IP, as ARP or 0x8892, in place of addresses and service.
	EtherType string `json:"etherType,omitempty"`
}
