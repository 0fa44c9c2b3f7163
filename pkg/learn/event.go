package learn

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// EventKind says what an event is.
type EventKind string

// The kinds, with the fields of an Event that they have besides Kind and At.
const (
	// EventClaim: something says that a NIC has an address, for the first time or again. NIC, Segment,
	// Addr, Provenance; MAC and Place where known; Until with DHCP; Source with what is firm.
	EventClaim EventKind = "Claim"
	// EventWithdraw: what said so says it no more: a declaration was deleted, a lease released, the guest
	// agent's list has it no longer. NIC, Segment, Addr, Provenance; Source with what is firm.
	EventWithdraw EventKind = "Withdraw"
	// EventOutside: an address was heard from a MAC that is no NIC of the cluster. Segment, Addr, MAC, Place.
	EventOutside EventKind = "Outside"
	// EventApprove and EventDeny: a person decided. NIC, Addr, By; Segment, or none for every one in
	// which the NIC claims the address. With Elsewhere another node was told so; the NIC need not claim the address here.
	// Segment then, too.
	EventApprove EventKind = "Approve"
	EventDeny    EventKind = "Deny"
	// EventGone: the VM was deleted, or the pod that had none. NIC.
	EventGone EventKind = "Gone"
	// EventAbsent: the VM has no pod now. EventPresent: it has one again. NIC.
	EventAbsent  EventKind = "Absent"
	EventPresent EventKind = "Present"
	// EventNetwork: a network is new or has changed. Network, Settings.
	EventNetwork EventKind = "Network"
	// EventNetworkGone: a network is no more. Network.
	EventNetworkGone EventKind = "NetworkGone"
)

// Event is something that happened, at a time. Events may come late and out of order: what was heard
// earlier counts as earlier.
type Event struct {
	Kind       EventKind
	At         time.Time
	NIC        NIC        `json:",omitzero"`
	Segment    Segment    `json:",omitzero"`
	Addr       netip.Addr `json:",omitzero"` // IPv4 as such, not inside IPv6
	MAC        MAC        `json:",omitzero"`
	Provenance Provenance `json:",omitzero"`
	// Source tells declarations of one address apart, as "Multus" and "IPAMClaim": the address is declared
	// until the last of them is withdrawn.
	Source string `json:",omitempty"`
	// Place is where it was heard: a node, or "uplink" and the node.
	Place string `json:",omitempty"`
	// Until is the lease's end; none is a lease for ever.
	Until time.Time `json:",omitzero"`
	By    string    `json:",omitempty"` // who decided
	// Elsewhere: the decision was taken on another node.
	Elsewhere bool     `json:",omitempty"`
	Network   string   `json:",omitempty"`
	Settings  *Network `json:",omitempty"`
}

// plain makes times such as come back equal from JSON.
func plain(t time.Time) time.Time { return t.Round(0).UTC() }

// check says what an event lacks that its kind needs.
func (e *Event) check() error {
	if e.At.IsZero() {
		return errors.New("no time")
	}
	switch e.Kind {
	case EventClaim, EventWithdraw:
		return errors.Join(e.checkNIC(), e.checkAddr(), e.checkSegment(), e.checkProvenance())
	case EventOutside:
		var err error
		if e.MAC == (MAC{}) {
			err = errors.New("no MAC")
		}
		return errors.Join(err, e.checkAddr(), e.checkSegment())
	case EventApprove, EventDeny:
		var err error
		if e.By == "" {
			err = errors.New("nobody who decides")
		}
		if e.Segment != (Segment{}) || e.Elsewhere {
			err = errors.Join(err, e.checkSegment())
		}
		return errors.Join(err, e.checkNIC(), e.checkAddr())
	case EventGone, EventAbsent, EventPresent:
		return e.checkNIC()
	case EventNetwork:
		if e.Settings == nil {
			return errors.New("no settings")
		}
		return e.Settings.Validate()
	case EventNetworkGone:
		return nil
	}
	return fmt.Errorf("kind %q is not known", e.Kind)
}

func (e *Event) checkNIC() error {
	if e.NIC.Name == "" && e.NIC.UID == "" {
		return errors.New("no NIC")
	}
	return nil
}

func (e *Event) checkAddr() error {
	if !e.Addr.IsValid() {
		return errors.New("no address")
	}
	return nil
}

func (e *Event) checkSegment() error { return e.Segment.VLAN.Validate() }

func (e *Event) checkProvenance() error {
	switch p := e.Provenance; {
	case p < ARP || p > Manual:
		return errors.New("no provenance")
	case p == ARP && !e.Addr.Unmap().Is4(), p == ND && e.Addr.Is4():
		return fmt.Errorf("%v does not tell of %v", p, e.Addr)
	}
	return nil
}
