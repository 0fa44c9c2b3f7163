package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Step is one thing done and how it is undone. Undo may be nil.
type Step struct {
	Name string
	Do   func() error
	Undo func() error
	// Guards says that what the steps before made must stay if this one's undo
	// fails: a port that cannot be taken out of its bridge keeps its program.
	Guards bool
}

// Plan is an ordered list of steps. Its last step is the one that lets traffic
// pass, so a plan cut short anywhere leaves a port through which nothing passes.
type Plan []Step

// Run does the steps in order. When one fails, or ctx ends between two, it
// undoes what was done, backwards, and returns the failure; undo errors are
// joined to it. A step that failed may have done half of its work, so its own
// undo runs too: undos must be idempotent.
func (p Plan) Run(ctx context.Context) error {
	for i, s := range p {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(fmt.Errorf("the asker is gone: %w", err), p[:i].undo())
		}
		if err := s.Do(); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.Name, err), p[:i+1].undo())
		}
	}
	if err := context.Cause(ctx); err != nil {
		return errors.Join(fmt.Errorf("the asker is gone: %w", err), p.undo())
	}
	return nil
}

func (p Plan) undo() error {
	var errs []error
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].Undo == nil {
			continue
		}
		if err := p[i].Undo(); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", p[i].Name, err))
			if p[i].Guards {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// Interface is one kernel interface, by index and by the name that goes with
// it: an index alone can come to mean another interface, and a name can be
// changed by anyone.
type Interface struct {
	Index int
	Name  string
	// Bridge is where a port should be; it helps to know one that was renamed.
	Bridge string
}

// HostEnd is the record's host interface.
func (r *Record) HostEnd() Interface {
	return Interface{Index: r.HostIfIndex, Name: r.HostIfName, Bridge: r.Bridge}
}

// Bridge is what a plan needs of the kernel's bridge. Every call is idempotent.
type Bridge interface {
	// TakeOut takes the interface down and out of any bridge.
	TakeOut(Interface) error
	// SetMTU in bytes.
	SetMTU(Interface, int) error
	// Join puts a downed interface into the bridge.
	Join(i Interface, bridge string) error
	// SetVLANs makes the port's membership exactly v and reads it back.
	SetVLANs(i Interface, v VLANs) error
	// SetUp lets the kernel forward at the port.
	SetUp(Interface) error
	// Delete deletes the interface (a veth: with its peer); gone is no error.
	Delete(Interface) error
}

// PortConfig is what the port program knows of a port besides its state.
type PortConfig struct {
	// Policy is the set of rules that judges the port, by its ID (policy.Set): the
	// network's name, unless policies select ports by label; "" is the one for
	// ports without a network.
	Policy string
	// Trunk is the port's: an address in a VLAN is one host's there.
	Trunk string
	VLANs VLANs
	MAC   net.HardwareAddr
	// Security is what the network keeps this guest to.
	Security Security
}

// MaxRate is the largest limit in Security.
const MaxRate = 1000000

// Security is what a network keeps its guests to, beside their MAC, in the words of
// VLANNetwork.spec.portSecurity.
type Security struct {
	// Promiscuous: the VM gets unicast to other MACs, where the bridge floods it. ForgedTransmits: what it sends from
	// other MACs leaves it; MACChanges: it gets what is sent to those.
	Promiscuous     bool `json:"promiscuous,omitempty"`
	ForgedTransmits bool `json:"forgedTransmits,omitempty"`
	MACChanges      bool `json:"macChanges,omitempty"`
	// BPDUs: what it sends to groups of links (spanning tree, LACP, CDP) leaves it. Nothing known is guarded.
	BPDUs bool `json:"bpdus,omitempty"`
	// The guards drop what only IPv6 routers say, and what only DHCP servers do.
	RAGuard         bool `json:"raGuard,omitempty"`
	DHCPServerGuard bool `json:"dhcpServerGuard,omitempty"`
	// BroadcastLimit and MulticastLimit are what the VM may send, in packets a second, up to MaxRate; 0 is no limit.
	BroadcastLimit uint32 `json:"broadcastLimit,omitempty"`
	MulticastLimit uint32 `json:"multicastLimit,omitempty"`
	// UnicastLimit is the same of unicast to MACs that the port was not sent anything from lately.
	UnicastLimit uint32 `json:"unicastLimit,omitempty"`
	// IPGuard is from which addresses IP packets leave; ARPGuard and NDGuard drop what claims another's address.
	IPGuard  Guard `json:"ipGuard,omitempty"`
	ARPGuard bool  `json:"arpGuard,omitempty"`
	NDGuard  bool  `json:"ndGuard,omitempty"`
	// EtherTypes are those that may leave, beside RARP; none is all.
	EtherTypes EtherTypes `json:"etherTypes,omitzero"`
	// Suppression: ARP requests and neighbour solicitations for addresses whose holders are known surely go to nobody else.
	Suppression bool `json:"suppression,omitempty"`
}

// Guard is which addresses of a NIC count for a guard.
type Guard string

// The values of Guard.
const (
	GuardOff    Guard = ""
	GuardLearn  Guard = "Learn"  // all that it holds
	GuardStrict Guard = "Strict" // those that somebody vouches for: declared, leased, approved
)

// EtherTypes are some EtherTypes in ascending order; 0 is no more.
type EtherTypes [16]uint16

// String names them, as "IPv4 ARP 0x88b5".
func (e EtherTypes) String() string {
	names := map[uint16]string{0x0800: "IPv4", 0x0806: "ARP", 0x8035: "RARP", 0x86dd: "IPv6", 0x88cc: "LLDP"}
	var out []string
	for _, t := range e {
		switch {
		case t == 0:
		case names[t] != "":
			out = append(out, names[t])
		default:
			out = append(out, fmt.Sprintf("0x%04x", t))
		}
	}
	return strings.Join(out, " ")
}

// String names what is on, as "forgedTransmits, bpduGuard".
func (s Security) String() string {
	var on []string
	for _, x := range []struct {
		name string
		on   bool
	}{{"promiscuous", s.Promiscuous}, {"forgedTransmits", s.ForgedTransmits}, {"macChanges", s.MACChanges},
		{"bpduGuard", !s.BPDUs}, {"raGuard", s.RAGuard}, {"dhcpServerGuard", s.DHCPServerGuard},
		{"ipGuard " + string(s.IPGuard), s.IPGuard != GuardOff}, {"arpGuard", s.ARPGuard}, {"ndGuard", s.NDGuard},
		{"etherTypes " + s.EtherTypes.String(), s.EtherTypes != EtherTypes{}}, {"suppression", s.Suppression}} {
		if x.on {
			on = append(on, x.name)
		}
	}
	for _, x := range []struct {
		name string
		rate uint32
	}{{"broadcast", s.BroadcastLimit}, {"multicast", s.MulticastLimit}, {"unknownUnicast", s.UnicastLimit}} {
		if x.rate > 0 {
			on = append(on, fmt.Sprintf("%s %d/s", x.name, x.rate))
		}
	}
	return strings.Join(on, ", ")
}

// Datapath is what a plan needs of the port programs. Every call is idempotent.
type Datapath interface {
	// AttachPort attaches both hooks with the port in state Dark.
	AttachPort(i Interface, c PortConfig) error
	// SetState is one atomic write.
	SetState(ifindex int, s State) error
	// DetachPort forgets the port; it does not need the interface.
	DetachPort(ifindex int) error
}

// Records is what a plan needs of the disk.
type Records interface {
	Put(*Record) error
	Delete(Key) error
}

// Node is where plans act.
type Node struct {
	Bridge   Bridge
	Datapath Datapath
	Records  Records
}

// AttachPlan makes the port of r, in the order that lets nothing pass early:
// VLANs belong to a bridge port and can only be set once it has a master, so the
// host end stays down and the program dark until all else is read back.
func (n Node) AttachPlan(r *Record) Plan {
	i := r.HostEnd()
	return Plan{
		{Name: "take the host end down and out of its bridge",
			Do: func() error { return n.Bridge.TakeOut(i) }},
		{Name: "write the record",
			Do:   func() error { return n.Records.Put(r) },
			Undo: func() error { return n.Records.Delete(r.Key) }},
		{Name: "attach the dark program",
			Do:   func() error { return n.Datapath.AttachPort(i, r.Config()) },
			Undo: func() error { return n.Datapath.DetachPort(i.Index) }},
		{Name: "set the MTU",
			Do: func() error { return n.Bridge.SetMTU(i, r.EffectiveMTU) }},
		{Name: "join bridge " + r.Bridge,
			Do:   func() error { return n.Bridge.Join(i, r.Bridge) },
			Undo: func() error { return n.Bridge.TakeOut(i) }, Guards: true},
		{Name: "set VLANs",
			Do: func() error { return n.Bridge.SetVLANs(i, r.VLANs) }},
		{Name: "bring the host end up",
			Do: func() error { return n.Bridge.SetUp(i) }},
		{Name: "open the port, or quarantine it",
			Do:   func() error { return n.Datapath.SetState(i.Index, r.Wanted()) },
			Undo: func() error { return n.Datapath.SetState(i.Index, Dark) }},
	}
}

// DetachPlan ends the port of r. The interface goes before its program, so at no
// moment is there an open port without one, and the record goes last: a DEL that
// failed half way can be repeated, and finds less to do.
func (n Node) DetachPlan(r *Record) Plan {
	i := r.HostEnd()
	return Plan{
		{Name: "delete the host end", Do: func() error { return n.Bridge.Delete(i) }},
		{Name: "detach the program", Do: func() error { return n.Datapath.DetachPort(i.Index) }},
		{Name: "forget the record", Do: func() error { return n.Records.Delete(r.Key) }},
	}
}
