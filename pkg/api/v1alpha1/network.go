package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VLANNetwork is one VLAN, or a set for guests that tag by themselves, on a
// trunk: what VMware calls a port group.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=vnet,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Trunk",type=string,JSONPath=`.spec.trunk`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.vlan.mode`
// +kubebuilder:printcolumn:name="VLAN",type=integer,JSONPath=`.spec.vlan.id`
// +kubebuilder:printcolumn:name="Tagged",type=string,JSONPath=`.spec.vlan.trunk`,priority=1
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.spec.mtu`,priority=1
// +kubebuilder:printcolumn:name="Default",type=string,JSONPath=`.spec.defaultAction`
// +kubebuilder:printcolumn:name="Ports",type=integer,JSONPath=`.status.ports`,description="Ports of VMs on all nodes"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type VLANNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VLANNetworkSpec `json:"spec"`

	// Status is the cluster's word on the network; Homeport writes it.
	// +optional
	Status VLANNetworkStatus `json:"status,omitzero"`
}

// VLANNetworkStatus is what became of a network.
type VLANNetworkStatus struct {
	// Ports of VMs on the network, on all nodes.
	// +optional
	Ports int32 `json:"ports"`

	// Namespaces that have the network's NetworkAttachmentDefinition.
	// +optional
	Namespaces int32 `json:"namespaces"`

	// Conditions of the network: Ready, and MigrationRequired while VMs run
	// that do not have its present VLAN, MTU or trunk yet.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// VLANNetworkSpec is what a network should be.
type VLANNetworkSpec struct {
	// Trunk is the name of the VLANTrunk that carries the network.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Trunk string `json:"trunk"`

	// VLAN says which VLANs a VM gets, and who tags.
	VLAN NetworkVLAN `json:"vlan"`

	// MTU of the VMs' NICs, in bytes; at most the trunk's, and by default that.
	// +optional
	// +kubebuilder:validation:Minimum=68
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`

	// Subnets of the VLAN. Where there are any, no other addresses are a VM's, but IPv6 link-local ones, and
	// gateways are nobody's. Packets are not filtered by them, but where ipGuard asks what is a VM's.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=cidr
	Subnets []Subnet `json:"subnets,omitempty"`

	// DefaultAction decides what no firewall rule matches. Required: neither
	// answer is right for everybody.
	// +kubebuilder:validation:XValidation:rule="self in ['Allow', 'Drop']",message="want Allow or Drop for traffic that no rule matches"
	DefaultAction Action `json:"defaultAction"`

	// ClusterNetworkPolicies, if Enabled, has the cluster's ClusterNetworkPolicies
	// (policy.networking.k8s.io/v1alpha2) judge the network's ports, too. Read from
	// Kubernetes alone: a directory of manifests has none.
	// +optional
	ClusterNetworkPolicies Switch `json:"clusterNetworkPolicies,omitempty"`

	// Addressing says how addresses of VMs become known.
	// +optional
	Addressing *Addressing `json:"addressing,omitempty"`

	// PortSecurity has the switches of a port group's security policy.
	// +optional
	PortSecurity *PortSecurity `json:"portSecurity,omitempty"`

	// Reachability says what a check of the fabric asks for on the network, beside that its
	// VLANs pass and its gateways answer.
	// +optional
	Reachability *Reachability `json:"reachability,omitempty"`

	// Namespaces that may use the network, by their labels; they get its
	// NetworkAttachmentDefinition. Absent is none, {} is all. Read from
	// Kubernetes alone: a directory of manifests knows no namespaces.
	// +optional
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
}

// NetworkVLAN says which VLANs a VM gets, and who tags.
//
// +kubebuilder:validation:XValidation:rule="self.mode == 'Trunk' || has(self.id)",message="modes Access and Native want vlan.id, a VLAN from 1 to 4094"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Trunk' || !has(self.id)",message="mode Trunk has no untagged VLAN: leave vlan.id out, or want mode Native for one"
// +kubebuilder:validation:XValidation:rule="self.mode == 'Access' || has(self.trunk)",message="modes Trunk and Native want vlan.trunk, the VLANs that the guest tags, as [\"100-110\", \"200\"]"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Access' || !has(self.trunk)",message="mode Access gives one VLAN: leave vlan.trunk out, or want mode Trunk or Native"
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
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=9
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[0-9]{1,4}(-[0-9]{1,4})?$') && self.split('-').all(n, int(n) >= 1 && int(n) <= 4094) && int(self.split('-')[0]) <= int(self.split('-')[size(self.split('-')) - 1])",message="want a VLAN from 1 to 4094 or a range of them, as 200 or 100-110"
	// +listType=set
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
//
// +kubebuilder:validation:XValidation:rule="!has(self.gateway) || !isCIDR(self.cidr) || (isIP(self.gateway) && cidr(self.cidr).containsIP(self.gateway))",message="gateway: want an address inside cidr"
type Subnet struct {
	// CIDR without host bits, as 10.100.0.0/24.
	// +kubebuilder:validation:MaxLength=49
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="want a prefix without host bits, as 10.100.0.0/24"
	CIDR string `json:"cidr"`

	// Gateway is an address of the subnet.
	// +optional
	// +kubebuilder:validation:MaxLength=45
	Gateway string `json:"gateway,omitempty"`
}

// Addressing says how addresses of VMs become known, and when they are forgotten.
type Addressing struct {
	// Mode: Observed, the first NIC that is seen with an address holds it, unless it is declared for another; Declared, only
	// what is declared is held; Approved, what is seen waits until a person approves it. Default: Observed.
	// +optional
	Mode AddressingMode `json:"mode,omitempty"`

	// Limit of addresses that were seen of a NIC in a VLAN, for IPv4 and IPv6 each. Leases and what is declared
	// do not count. At the limit a new one takes the place of that which was silent the longest, a day at least; else it is not
	// taken. Default: 16.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	Limit *int32 `json:"limit,omitempty"`

	// Expiry is after how much silence an address that was seen is the NIC's no more, as 24h; a minute to
	// 8760h. While the VM is stopped it does not run. Absent: never.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('8760h')",message="want a time from 1m to 8760h, as 24h, or leave it out for never"
	Expiry string `json:"expiry,omitempty"`

	// SharedAddresses move between NICs, as those of VRRP and keepalived do: addresses, or prefixes without host bits. Who
	// announced one last has it, and any VM of the network may.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isIP(self) || isCIDR(self) && cidr(self) == cidr(self).masked()",message="want an address, as 10.1.2.3, or a prefix without host bits, as 10.1.2.16/28"
	// +listType=set
	SharedAddresses []string `json:"sharedAddresses,omitempty"`

	// Probe: before a NIC uses an address that is declared for it, the node asks the VLAN whether somebody has it (RFC 5227,
	// RFC 4862), which takes seven seconds at most. Report tells who answers as a conflict; Refuse fails ADD. Shared
	// addresses are not asked for, nor those of a live migration. Default: Off.
	// +optional
	Probe AddressProbe `json:"probe,omitempty"`

	// NetworkStatus, if Enabled, has nodes write the addresses that a NIC holds in its untagged VLAN into the annotation
	// k8s.v1.cni.cncf.io/network-status of its pod, as the ips of its interface; but for IPv6 link-local ones. Default: Disabled.
	// +optional
	NetworkStatus Switch `json:"networkStatus,omitempty"`

	// Suppression: Enabled, ARP requests and IPv6 neighbor solicitations for an address that is declared, leased, approved or IPv6 link-local,
	// and in no conflict, go to the VM that holds it and to no other VM; those of a VM for one of its node do not leave the node. The VM answers
	// itself. Default: Disabled.
	// +optional
	Suppression Switch `json:"suppression,omitempty"`
}

// AddressProbe is what an answer for a declared address does.
//
// +kubebuilder:validation:Enum=Off;Report;Refuse
type AddressProbe string

// The values of AddressProbe.
const (
	AddressProbeOff    AddressProbe = "Off"
	AddressProbeReport AddressProbe = "Report"
	AddressProbeRefuse AddressProbe = "Refuse"
)

// AddressingMode is what makes an address a NIC's.
//
// +kubebuilder:validation:Enum=Observed;Declared;Approved
type AddressingMode string

// The values of AddressingMode.
const (
	AddressingObserved AddressingMode = "Observed"
	AddressingDeclared AddressingMode = "Declared"
	AddressingApproved AddressingMode = "Approved"
)

// Bounds of Addressing.
const (
	MaxAddresses     = 128
	MinAddressExpiry = time.Minute
	MaxAddressExpiry = 8760 * time.Hour
)

// PortSecurity has the switches of a port group's security policy, and which NICs are
// kept to others.
type PortSecurity struct {
	SecuritySwitches `json:",inline"`

	// Exceptions are for some NICs. Of several that name a NIC and a switch the first decides.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Exceptions []SecurityException `json:"exceptions,omitempty"`
}

// SecurityException has switches for some NICs. Those that it does not name are the network's.
//
// +kubebuilder:validation:XValidation:rule="has(self.vm) || has(self.macs)",message="want vm, macs or both: an exception is for VMs by label, for NICs by MAC, or for such NICs of such VMs"
type SecurityException struct {
	// VM selects VMs of all namespaces by their labels, which whoever makes VMs writes, and by
	// kubernetes.io/metadata.name, the VM's namespace, and vm.kubevirt.io/name, its name. Until KubeVirt
	// confirms whose a port is, it is kept to the stricter of what it may be. Read from Kubernetes alone.
	// +optional
	VM *metav1.LabelSelector `json:"vm,omitempty"`

	// MACs of NICs, as 00:50:56:0a:0b:0c; with vm, of such VMs. Without, whoever may use the network can
	// ask for such a MAC.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Pattern=`^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$`
	// +listType=set
	MACs []string `json:"macs,omitempty"`

	SecuritySwitches `json:",inline"`
}

// SecuritySwitches are those of a port group, under vSphere's names, and guards. Absent ones
// have their default.
type SecuritySwitches struct {
	// MACChanges: whether the guest may change its MAC: whether it gets unicast to MACs, other than
	// the port's, that it has sent from, which takes forgedTransmits. What MAC the guest's NIC has, nobody sees at
	// a node's port. Default: Reject.
	// +optional
	MACChanges SecurityAction `json:"macChanges,omitempty"`

	// ForgedTransmits: whether frames with another source MAC may leave the VM: from 256 MACs at
	// most, each for as long as it is used. Ports of the node's bridge take no fast path then. Default: Reject.
	// +optional
	ForgedTransmits SecurityAction `json:"forgedTransmits,omitempty"`

	// Promiscuous: whether the VM sees unicast of others, as bridges flood it where
	// they do not know its receiver's port. Default: Reject.
	// +optional
	Promiscuous SecurityAction `json:"promiscuous,omitempty"`

	// IPGuard: from which addresses IP packets may leave the VM. Learn: from those that it holds, however they became
	// known. Strict: from those of them that somebody vouches for: declared, leased by DHCP, approved or set by hand.
	// Either lets shared addresses pass, and what a VM says before it has an address. Default: Off.
	// +optional
	IPGuard IPGuard `json:"ipGuard,omitempty"`

	// ARPGuard stops ARP of the VM that names another MAC than the frame's, an address that another NIC holds, or a
	// gateway's; with ipGuard: Strict any that the VM may not send from. Default: Disabled.
	// +optional
	ARPGuard Switch `json:"arpGuard,omitempty"`

	// NDGuard is the same for IPv6 neighbour discovery. Default: Disabled.
	// +optional
	NDGuard Switch `json:"ndGuard,omitempty"`

	// EtherTypes that may leave the VM, behind the VLAN tag: All, or some of IPv4, IPv6, ARP, LLDP, PPPoE (which is two)
	// and numbers, as "0x88b5", 16 at most. RARP, by which a live migration is announced, always does. Default: All.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=6
	// +kubebuilder:validation:items:Pattern=`^(All|IPv4|IPv6|ARP|LLDP|PPPoE|0x(0[6-9a-fA-F]|[1-9a-fA-F][0-9a-fA-F])[0-9a-fA-F]{2})$`
	// +kubebuilder:validation:XValidation:rule="size(self) == 1 || !('All' in self)",message="All stands alone: want it, or the EtherTypes that may leave"
	// +listType=set
	EtherTypes []string `json:"etherTypes,omitempty"`

	// DHCPServerGuard stops the VM from answering DHCP's clients, of either family. Default: Disabled.
	// +optional
	DHCPServerGuard Switch `json:"dhcpServerGuard,omitempty"`

	// RAGuard stops the VM's IPv6 router advertisements and redirects. Default: Disabled.
	// +optional
	RAGuard Switch `json:"raGuard,omitempty"`

	// RateLimits are for what the VM sends to groups, and to nobody it knows. Absent is none.
	// +optional
	RateLimits *RateLimits `json:"rateLimits,omitempty"`

	// BPDUGuard stops what the VM sends to the other end of its link, as spanning tree, LACP and CDP:
	// a switch may close the node's port for it. Default: Enabled.
	// +optional
	BPDUGuard Switch `json:"bpduGuard,omitempty"`
}

// IPGuard is from which addresses IP packets may leave a VM. Disabled is Off, as earlier versions had it.
//
// +kubebuilder:validation:Enum=Off;Learn;Strict;Disabled
type IPGuard string

// The values of IPGuard.
const (
	IPGuardOff    IPGuard = "Off"
	IPGuardLearn  IPGuard = "Learn"
	IPGuardStrict IPGuard = "Strict"

	ipGuardDisabled IPGuard = "Disabled"
)

// MaxRate is the largest rate limit.
const MaxRate = 1000000

// RateLimits of what a VM sends are in packets a second; as much as one second has may come at once. What is more is dropped.
type RateLimits struct {
	// Broadcast, ARP requests among it. Default: 0, no limit.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Broadcast *int32 `json:"broadcast,omitempty"`

	// Multicast, IPv6 neighbour discovery among it. Default: 0, no limit.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Multicast *int32 `json:"multicast,omitempty"`

	// UnknownUnicast is what goes to MACs that the VM was not sent anything from lately. Default: 0, no limit.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	UnknownUnicast *int32 `json:"unknownUnicast,omitempty"`
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

// Switch turns something on or off.
//
// +kubebuilder:validation:Enum=Enabled;Disabled
type Switch string

// The values of Switch.
const (
	SwitchEnabled  Switch = "Enabled"
	SwitchDisabled Switch = "Disabled"
)

// Reachability says what should answer on a network.
type Reachability struct {
	// Required, if true, has nodes offer the resource network.homeport.dev/<network's
	// name> only while a ReachabilityCheck finds the network's VLANs well there, and the
	// NetworkAttachmentDefinitions ask for that resource instead of the trunk's: VMs are
	// scheduled only where their VLAN works. A node offers it once a run has passed, and
	// takes it back after two in turn have failed there. VMs that run stay. What is wrong on all nodes
	// alike, as a gateway that is silent, takes it from none.
	// +optional
	Required bool `json:"required,omitempty"`

	// DHCP, if Enabled, has checks ask for a DHCP offer. Nothing is taken of what is
	// offered, but servers may hold an address back for a moment.
	// +optional
	DHCP Switch `json:"dhcp,omitempty"`

	// DHCPServers are those who may make offers, by their server identifiers; a check
	// reports any other. Absent, it reports when there is more than one.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=15
	// +kubebuilder:validation:items:XValidation:rule="isIP(self) && ip(self).family() == 4",message="want an IPv4 address"
	// +listType=set
	DHCPServers []string `json:"dhcpServers,omitempty"`

	// Sources are addresses that checks ask from: each node has its own, one of a subnet, that nobody
	// else uses, and has it while a check runs alone. With them checks find the MTU of the way to
	// gateways, and ask targets. Nodes that are not named ask from no address.
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +listType=map
	// +listMapKey=node
	Sources []ReachabilitySource `json:"sources,omitempty"`

	// Targets are hosts, beside gateways, that must answer ARP or neighbour solicitation on every
	// node that has an address in sources.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="want an address as 10.1.2.3 or 2001:db8::1"
	// +listType=set
	Targets []string `json:"targets,omitempty"`
}

// ReachabilitySource are the addresses that one node's checks ask from.
type ReachabilitySource struct {
	// Node is its name.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	// Addresses of the network's subnets, at most one of each.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="want an address as 10.1.2.3 or 2001:db8::1"
	// +listType=set
	Addresses []string `json:"addresses"`
}
