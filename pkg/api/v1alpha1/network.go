package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VLANNetwork is one VLAN, or a set for guests that tag by themselves, on a
// trunk: what VMware calls a port group.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=vnet
type VLANNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VLANNetworkSpec `json:"spec"`
}

// VLANNetworkSpec is what a network should be.
type VLANNetworkSpec struct {
	// Trunk is the name of the VLANTrunk that carries the network.
	Trunk string `json:"trunk"`

	// VLAN says which VLANs a VM gets, and who tags.
	VLAN NetworkVLAN `json:"vlan"`

	// MTU of the VMs' NICs, in bytes; at most the trunk's, and by default that.
	// +optional
	// +kubebuilder:validation:Minimum=68
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`

	// Subnets of the VLAN. Informative: nothing is filtered by them.
	// +optional
	// +listType=map
	// +listMapKey=cidr
	Subnets []Subnet `json:"subnets,omitempty"`

	// DefaultAction decides what no firewall rule matches. Required: neither
	// answer is right for everybody.
	// +kubebuilder:validation:Enum=Allow;Drop
	DefaultAction Action `json:"defaultAction"`

	// Addressing says how addresses of VMs become known. Not enforced by this
	// version.
	// +optional
	Addressing *Addressing `json:"addressing,omitempty"`

	// PortSecurity has the switches of a port group's security policy.
	// +optional
	PortSecurity *PortSecurity `json:"portSecurity,omitempty"`

	// Reachability names targets to probe. Not enforced by this version.
	// +optional
	Reachability *Reachability `json:"reachability,omitempty"`

	// Namespaces that may use the network. Not enforced by this version.
	// +optional
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
}

// NetworkVLAN says which VLANs a VM gets, and who tags.
type NetworkVLAN struct {
	// Mode: Access gives one VLAN untagged, Trunk a set that the guest tags,
	// Native a set and one more VLAN for untagged frames.
	// +optional
	// +kubebuilder:default=Access
	Mode VLANMode `json:"mode,omitempty"`

	// ID is the access VLAN, or the native one; not for Trunk.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4094
	ID *int32 `json:"id,omitempty"`

	// Trunk has the VLANs that the guest tags, each item as "200" or
	// "100-110"; not for Access.
	// +optional
	Trunk []string `json:"trunk,omitempty"`
}

// VLANMode is how a network gives VLANs to guests.
//
// +kubebuilder:validation:Enum=Access;Trunk;Native
type VLANMode string

// The values of VLANMode.
const (
	ModeAccess VLANMode = "Access"
	ModeTrunk  VLANMode = "Trunk"
	ModeNative VLANMode = "Native"
)

// Subnet is an IP subnet of a network.
type Subnet struct {
	// CIDR without host bits, as 10.100.0.0/24.
	CIDR string `json:"cidr"`

	// Gateway is an address of the subnet.
	// +optional
	Gateway string `json:"gateway,omitempty"`
}

// Addressing says how addresses of VMs become known.
type Addressing struct {
	// Mode is Observed, Declared or Approved.
	Mode string `json:"mode,omitempty"`
}

// PortSecurity has the switches of a port group's security policy. Absent
// switches have the value that this version enforces.
type PortSecurity struct {
	// MACChanges: whether the guest may change its MAC. This version: Reject.
	// +optional
	MACChanges SecurityAction `json:"macChanges,omitempty"`

	// ForgedTransmits: whether frames with another source MAC may leave the
	// VM. This version: Reject.
	// +optional
	ForgedTransmits SecurityAction `json:"forgedTransmits,omitempty"`

	// Promiscuous: whether the VM sees unicast of others. Not enforced by this
	// version, either way: what the bridge floods reaches the port.
	// +optional
	Promiscuous SecurityAction `json:"promiscuous,omitempty"`

	// IPGuard lets only addresses that the VM holds leave it. This version:
	// Disabled.
	// +optional
	IPGuard Switch `json:"ipGuard,omitempty"`

	// DHCPServerGuard stops the VM from answering DHCP. This version: Disabled.
	// +optional
	DHCPServerGuard Switch `json:"dhcpServerGuard,omitempty"`

	// RAGuard stops the VM's IPv6 router advertisements. This version: Disabled.
	// +optional
	RAGuard Switch `json:"raGuard,omitempty"`
}

// SecurityAction is the answer of a port group's security policy, as vSphere
// words it.
//
// +kubebuilder:validation:Enum=Accept;Reject
type SecurityAction string

// The values of SecurityAction.
const (
	SecurityAccept SecurityAction = "Accept"
	SecurityReject SecurityAction = "Reject"
)

// Switch turns a guard on or off.
//
// +kubebuilder:validation:Enum=Enabled;Disabled
type Switch string

// The values of Switch.
const (
	SwitchEnabled  Switch = "Enabled"
	SwitchDisabled Switch = "Disabled"
)

// Reachability names what should answer on a network.
type Reachability struct {
	// Targets are addresses to probe.
	Targets []string `json:"targets,omitempty"`
}
