// Package attach is the life of a port: what the CNI plugin asks for, the plan
// that makes it so (an ordered list of steps, each with its undo), what the
// node remembers of it, and which state it is in. It touches nothing itself:
// the kernel, the datapath and the disk are interfaces that it declares.
package attach

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Key identifies an attachment for its whole life (CNI spec: the pair is unique).
type Key struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// VLANs is what a port may carry.
type VLANs struct {
	Mode vlan.Mode `json:"mode"`
	// PVID is the VLAN of untagged frames: the access VLAN, or the native
	// VLAN of a Native port; 0 for a Trunk port.
	PVID vlan.ID `json:"pvid,omitempty"`
	// Tagged are the VLANs that the guest tags by itself; empty for Access.
	Tagged vlan.Set `json:"tagged,omitzero"`
}

// MAC is a hardware address that is text in JSON; net.HardwareAddr would be base64.
type MAC net.HardwareAddr

// String prints it as 02:00:00:aa:bb:cc; nil is "".
func (m MAC) String() string { return net.HardwareAddr(m).String() }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = nil
		return nil
	}
	hw, err := net.ParseMAC(string(b))
	*m = MAC(hw)
	return err
}

// Problem says why no interface can have the address, as "is a multicast address";
// "" is none.
func (m MAC) Problem() string {
	switch {
	case len(m) != 6:
		return "is no MAC address of six bytes"
	case m[0]&1 != 0:
		return "is a multicast address"
	case bytes.Equal(m, make([]byte, 6)):
		return "is nobody's address"
	}
	return ""
}

// MTU bounds of an Ethernet link in bytes (linux/if_ether.h: ETH_MIN_MTU, ETH_MAX_MTU).
const (
	MinMTU = 68
	MaxMTU = 65535
)

// Inline is a port described by the CNI config itself.
type Inline struct {
	Bridge string `json:"bridge"`
	VLANs  VLANs  `json:"vlans"`
}

// Pod is who the attachment is for, as CNI_ARGS says. Never believed for policy.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Request is what the plugin asks of the agent. Exactly one of Network and
// Inline is set.
type Request struct {
	Key
	// CNINetwork is the "name" of the CNI config (GC works by it).
	CNINetwork string  `json:"cniNetwork"`
	Network    string  `json:"network,omitempty"`
	Inline     *Inline `json:"inline,omitempty"`
	// MTU in bytes; 0 takes the network's or the bridge's.
	MTU int `json:"mtu,omitempty"`
	// MAC is the VM's: the only source MAC that the port lets out.
	MAC MAC `json:"mac"`
	Pod Pod `json:"pod,omitzero"`
	// Netns is the sandbox path, for the agent's own garbage collection.
	Netns string `json:"netns,omitempty"`
	// HostIfIndex and HostIfName name the host end of the veth pair.
	HostIfIndex int    `json:"hostIfIndex"`
	HostIfName  string `json:"hostIfName"`
	// Adopted says that another plugin made the veth (chained mode).
	Adopted bool `json:"adopted,omitempty"`
	// MigrationTarget says that the VM runs elsewhere and is to come here by live
	// migration: the port is quarantined until it has. Only for agents that read
	// manifests; Kubernetes says by itself which pods are targets.
	MigrationTarget bool `json:"migrationTarget,omitempty"`
	// Addresses are those that the plugins before ours gave the pod's interface
	// (chained mode), or the IPAM plugin that ours asked (wire.Declare). They were
	// declared; nobody has seen them.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Record is what the node remembers of a port: enough for DEL, GC and a
// restarted agent to need nobody else.
type Record struct {
	Version int `json:"version"`
	Request
	// Trunk, Bridge, VLANs and MTU are what the request was resolved to.
	Trunk  string `json:"trunk,omitempty"`
	Bridge string `json:"bridge"`
	VLANs  VLANs  `json:"vlans"`
	// Policy is the network whose policy judges the port; "" is the one of
	// ports without a network.
	Policy string `json:"policy"`
	// Rules is the set of that policy that judges the port, where policies select
	// ports by label (policy.Set.ID); "" is the one without those.
	Rules string `json:"rules,omitempty"`
	// Security is what the network keeps this guest to.
	Security Security `json:"security,omitzero"`
	// EffectiveMTU of both ends, bytes.
	EffectiveMTU int `json:"effectiveMTU"`
	// Hold is why the port passes nothing although its pod lives; nil is Active.
	Hold *Hold `json:"hold,omitempty"`
	// Arrival is how the VM came here by live migration; nil is that it did not.
	Arrival *Arrival `json:"arrival,omitempty"`
	// StayedAfter is the UID of the last live migration that has failed and after which
	// the VM was announced here again.
	StayedAfter string `json:"stayedAfter,omitempty"`
	// BootID: interface indexes mean nothing after a reboot.
	BootID    string    `json:"bootID"`
	CreatedAt time.Time `json:"createdAt"`
}

// Config is what the datapath needs to know of the port.
func (r *Record) Config() PortConfig {
	return PortConfig{Policy: cmp.Or(r.Rules, r.Policy), Trunk: cmp.Or(r.Trunk, r.Bridge), VLANs: r.VLANs, MAC: net.HardwareAddr(r.MAC), Security: r.Security}
}

// RecordVersion is the format that this code writes.
const RecordVersion = 1

// State of a port. The values are those of enum hp_port_state in abi.h.
type State uint8

// The states; see DESIGN "The life of a port".
const (
	Dark        State = 0
	Quarantined State = 1
	Active      State = 2
	Released    State = 3
)

// String gives the name that people and JSON see.
func (s State) String() string {
	switch s {
	case Dark:
		return "Dark"
	case Quarantined:
		return "Quarantined"
	case Active:
		return "Active"
	case Released:
		return "Released"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *State) UnmarshalText(b []byte) error {
	for _, known := range []State{Dark, Quarantined, Active, Released} {
		if known.String() == string(b) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("unknown port state %q", b)
}

// All is every VLAN that the port is in.
func (v VLANs) All() vlan.Set {
	s := v.Tagged
	if v.PVID.Validate() == nil {
		_ = s.Add(v.PVID)
	}
	return s
}

// Validate checks that the mode and the VLANs fit together.
func (v VLANs) Validate() *Error {
	bad := func(field, message, remedy string) *Error {
		return &Error{Kind: InvalidConfig, Field: field, Message: message, Remedy: remedy}
	}
	if v.PVID != 0 {
		if err := v.PVID.Validate(); err != nil {
			return bad("vlan", err.Error(), "use 1-4094")
		}
	}
	switch {
	case v.Mode == vlan.Access && v.PVID == 0:
		return bad("vlan", "an access port has no VLAN", "set vlan, or vlanTrunk for a guest that tags by itself")
	case v.Mode == vlan.Access && !v.Tagged.Empty():
		return bad("vlanTrunk", "an access port has tagged VLANs", "use mode Trunk, or Native for one untagged VLAN beside them")
	case v.Mode == vlan.Trunk && v.PVID != 0:
		return bad("nativeVlan", "a trunk port has a native VLAN", "use mode Native")
	case v.Mode == vlan.Trunk && v.Tagged.Empty():
		return bad("vlanTrunk", "a trunk port has no VLAN", "list the VLANs that the guest may tag")
	case v.Mode == vlan.Native && v.PVID == 0:
		return bad("nativeVlan", "a native port has no native VLAN", "set nativeVlan")
	case v.Mode > vlan.Native:
		return bad("mode", "unknown VLAN mode", "use Access, Trunk or Native")
	}
	return nil
}
