package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// VMPort is one NIC's place on a trunk: one pod's interface on one node. A NIC
// that migrates has two for a while. The node's agent makes and writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName=vmport,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.node`
// +kubebuilder:selectablefield:JSONPath=`.spec.network`
// +kubebuilder:printcolumn:name="VM",type=string,JSONPath=`.spec.vm.name`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`
// +kubebuilder:printcolumn:name="VLANs",type=string,JSONPath=`.spec.vlans`
// +kubebuilder:printcolumn:name="MAC",type=string,JSONPath=`.spec.mac`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Dropped",type=integer,JSONPath=`.status.counters.droppedPackets`,priority=1
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type VMPort struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VMPortSpec `json:"spec"`

	// Status is what the node says of the port.
	// +optional
	Status VMPortStatus `json:"status,omitzero"`
}

// VMPortSpec is what a port is; it changes only where its VM becomes known.
//
// +kubebuilder:validation:XValidation:rule="self.node == oldSelf.node && self.pod == oldSelf.pod",message="a port is of one node and one pod for its whole life"
type VMPortSpec struct {
	// Node that the port is on.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	// Pod and the interface in it.
	Pod PodInterface `json:"pod"`

	// VM that the pod runs, once its VirtualMachineInstance confirms it.
	// +optional
	VM *VMReference `json:"vm,omitempty"`

	// Trunk is the VLANTrunk's name.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Trunk string `json:"trunk,omitempty"`

	// Network is the VLANNetwork's name; empty for an inline CNI config on a VLAN
	// that has none.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Network string `json:"network,omitempty"`

	// VLANs that the port carries, as "100", "100-110,200" or "7 untagged, 100-110".
	// +kubebuilder:validation:MaxLength=8192
	VLANs string `json:"vlans"`

	// MTU in bytes.
	// +optional
	MTU int32 `json:"mtu,omitempty"`

	// MAC is the one source MAC that the port lets out.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`

	// HostInterface is the node's end of the veth pair.
	// +kubebuilder:validation:MaxLength=15
	HostInterface string `json:"hostInterface"`
}

// PodInterface names an interface of a pod.
type PodInterface struct {
	// Name of the pod, in the object's namespace.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// UID of the pod.
	// +optional
	UID types.UID `json:"uid,omitempty"`

	// Interface as ADD named it (CNI_IFNAME).
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface"`

	// ContainerID is the pod sandbox's.
	// +kubebuilder:validation:MaxLength=253
	ContainerID string `json:"containerID"`
}

// VMReference names a VirtualMachine, or the VirtualMachineInstance where that was
// made without one.
type VMReference struct {
	// Name of the VirtualMachine or VirtualMachineInstance, in the object's namespace.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// UID of the same object: a VirtualMachine keeps its own over restarts.
	UID types.UID `json:"uid"`
}

// PortState is a port's place in its life.
//
// +kubebuilder:validation:Enum=Dark;Quarantined;Active;Released
type PortState string

// The values of PortState.
const (
	PortDark        PortState = "Dark"        // not complete: nothing passes
	PortQuarantined PortState = "Quarantined" // a migration's target before hand-over: nothing leaves
	PortActive      PortState = "Active"      // what policy and port security allow passes
	PortReleased    PortState = "Released"    // a migration's source after hand-over: nothing passes
)

// VMPortStatus is what a node says of a port. While the node is down, State and
// Counters are what it said last, and the controller says so in the condition Ready.
type VMPortStatus struct {
	// State of the port.
	// +optional
	State PortState `json:"state,omitempty"`

	// BootID is the node's boot that the port is of, as in status.nodeInfo.bootID of
	// the Node: no port outlives it.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	BootID string `json:"bootID,omitempty"`

	// BeforeNodeDown is the condition Ready that the node gave last, kept while the
	// controller says there that the node is down.
	// +optional
	BeforeNodeDown *metav1.Condition `json:"beforeNodeDown,omitempty"`

	// Counters since the port was made; at most 30 seconds old.
	// +optional
	Counters PortCounters `json:"counters,omitzero"`

	// Bindings are the addresses that the port's NIC claims, and what became of each claim.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=address
	// +listMapKey=vlan
	Bindings []PortBinding `json:"bindings,omitempty"`

	// Conflicts are the addresses that the port's NIC and others claim, who is known by MAC alone where he is
	// none of ours.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=address
	// +listMapKey=vlan
	Conflicts []AddressConflict `json:"conflicts,omitempty"`

	// Conditions of the port: Ready, MACPinned, MACUnique, AddressesUnique, AddressesDeclared, NetworkStatusWritten.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BindingState is what became of a NIC's claim to an address.
//
// +kubebuilder:validation:Enum=Held;Aside;Waiting
type BindingState string

// The values of BindingState.
const (
	BindingHeld    BindingState = "Held"    // the NIC has it
	BindingAside   BindingState = "Aside"   // another NIC has it
	BindingWaiting BindingState = "Waiting" // for a person to approve it
)

// PortBinding is an address that a NIC claims.
type PortBinding struct {
	// Address as 10.1.2.3 or 2001:db8::1.
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`

	// VLAN that it is in; 0 is the port's one.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	VLAN int32 `json:"vlan,omitempty"`

	// Provenance is the best way that it is known by.
	Provenance Provenance `json:"provenance"`

	// State of the claim.
	State BindingState `json:"state"`

	// Since when the NIC claims it.
	// +optional
	Since metav1.Time `json:"since,omitzero"`

	// Until when its lease runs. Absent: it has none, or one for ever.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// AddressConflict is an address that more than one claims.
type AddressConflict struct {
	// Address as 10.1.2.3 or 2001:db8::1.
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`

	// VLAN that it is in; 0 is the port's one.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	VLAN int32 `json:"vlan,omitempty"`

	// Since when there is more than one.
	// +optional
	Since metav1.Time `json:"since,omitzero"`

	// Claimants are those who claim it, the holder first; some of them if there are more than 4.
	// +optional
	// +kubebuilder:validation:MaxItems=4
	// +listType=atomic
	Claimants []AddressClaimant `json:"claimants,omitempty"`
}

// AddressClaimant is one who claims an address.
type AddressClaimant struct {
	// MAC that it is claimed with.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`

	// VM as namespace/name. Without vm and pod it is none of ours.
	// +optional
	// +kubebuilder:validation:MaxLength=317
	VM string `json:"vm,omitempty"`

	// Pod as namespace/name, where it runs no VM.
	// +optional
	// +kubebuilder:validation:MaxLength=317
	Pod string `json:"pod,omitempty"`

	// Node that it is on, or that has heard it.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`

	// Place where it was heard: a switch port if LLDP tells, else an interface of the node.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Place string `json:"place,omitempty"`

	// Since when it claims the address.
	// +optional
	Since metav1.Time `json:"since,omitzero"`
}

// PortCounters count frames, both ways together.
type PortCounters struct {
	// PassedPackets were let through.
	// +optional
	PassedPackets int64 `json:"passedPackets"`

	// DroppedPackets were not.
	// +optional
	DroppedPackets int64 `json:"droppedPackets"`

	// Dropped counts them by reason; see docs/reference/reasons.md.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Dropped map[string]int64 `json:"dropped,omitempty"`
}

// VMIdentity is what a NIC is known by on a network: a VM's, or that of a pod
// without a VM that has addresses. A VM's outlives its pods and moves, and
// goes with the VM; a pod's goes with its port. The agent of the node that it is on
// writes it, with the labels of the VM or pod as its own.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName=vmid,categories=homeport,path=vmidentities,singular=vmidentity
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.pod.node`
// +kubebuilder:printcolumn:name="VM",type=string,JSONPath=`.spec.vm.name`
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.pod.name`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`
// +kubebuilder:printcolumn:name="MAC",type=string,JSONPath=`.status.mac`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.status.addresses[*].address`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.node`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type VMIdentity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VMIdentitySpec `json:"spec"`

	// Status is what is known of the NIC.
	// +optional
	Status VMIdentityStatus `json:"status,omitzero"`
}

// VMIdentitySpec says whose identity the object is, and which addresses a person gives it.
//
// +kubebuilder:validation:XValidation:rule="has(self.vm) == has(oldSelf.vm) && (!has(self.vm) || self.vm == oldSelf.vm) && has(self.pod) == has(oldSelf.pod) && (!has(self.pod) || self.pod == oldSelf.pod) && self.network == oldSelf.network",message="is of one VM or pod and one network for its whole life"
// +kubebuilder:validation:XValidation:rule="has(self.vm) != has(self.pod)",message="want vm or pod: an identity is of one of them"
type VMIdentitySpec struct {
	// VM whose NIC it is.
	// +optional
	VM *VMReference `json:"vm,omitempty"`

	// Pod whose interface it is, where the pod runs no VM.
	// +optional
	Pod *PodReference `json:"pod,omitempty"`

	// Network is the VLANNetwork's name.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Network string `json:"network"`

	// Addresses are those that a person says the NIC has, in the network's untagged VLAN: they hold before whatever anybody
	// else declares, or was seen with. Of several NICs of the VM on the network they are that of status.mac. People write them,
	// agents do not.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast())",message="want an address that a NIC can have, as 10.1.2.3 or 2001:db8::1"
	// +listType=set
	Addresses []string `json:"addresses,omitempty"`
}

// PodReference names a pod that runs no VM.
type PodReference struct {
	// Name of the pod, in the object's namespace.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// UID of the pod.
	UID types.UID `json:"uid"`

	// Node that the pod is on; the agent of no other may write the identity.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
}

// VMIdentityStatus is what is known of a NIC.
type VMIdentityStatus struct {
	// Node that the VM or pod is on, and whose agent writes this.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`

	// MAC of the NIC.
	// +optional
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac,omitempty"`

	// Addresses that the NIC holds.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=address
	// +listMapKey=vlan
	Addresses []AddressStatus `json:"addresses,omitempty"`

	// Waiting are addresses that it was seen with, and that wait until a person approves them; some of them if there
	// are more than 16.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=address
	// +listMapKey=vlan
	Waiting []AddressStatus `json:"waiting,omitempty"`

	// Decisions are what people have said of addresses that the NIC does not claim now, as of one that it was denied. They
	// go with the VM to whatever node it migrates to.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=address
	// +listMapKey=vlan
	Decisions []AddressDecision `json:"decisions,omitempty"`
}

// AddressDecision is a person's word on an address of a NIC.
type AddressDecision struct {
	// Address as 10.1.2.3 or 2001:db8::1.
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`

	// VLAN that it is in; 0 is the network's one.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	VLAN int32 `json:"vlan,omitempty"`

	// MAC of the NIC that it is about, where the VM has several on the network and it is not that of status.mac.
	// +optional
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac,omitempty"`

	// Denied says that the NIC may not have it; else it may.
	// +optional
	Denied bool `json:"denied,omitempty"`

	// By whom.
	// +kubebuilder:validation:MaxLength=253
	By string `json:"by"`

	// At is when it was decided; of two decisions the later counts.
	At metav1.Time `json:"at"`
}

// AddressStatus is an IP address and how it became known.
type AddressStatus struct {
	// Address as 10.1.2.3 or 2001:db8::1.
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`

	// VLAN that it is in; 0 is the network's one. A guest that tags can have an address in several VLANs, as it has
	// its IPv6 link-local one in each.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	VLAN int32 `json:"vlan,omitempty"`

	// MAC of the NIC that has it, where the VM has several on the network and it is not that of status.mac.
	// +optional
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac,omitempty"`

	// Provenance is the best way that it is known by.
	Provenance Provenance `json:"provenance"`

	// Since when it is known.
	// +optional
	Since metav1.Time `json:"since,omitzero"`

	// Until when its lease runs. Absent: it has none, or one for ever.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`

	// Approved says who approved it. Absent: nobody had to.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Approved string `json:"approved,omitempty"`
}

// Provenance is how an address became known.
//
// +kubebuilder:validation:Enum=Declared;DHCP;ARP;ND;GuestAgent;Manual
type Provenance string

// The values of Provenance.
const (
	ProvenanceDeclared   Provenance = "Declared"
	ProvenanceDHCP       Provenance = "DHCP"
	ProvenanceARP        Provenance = "ARP"
	ProvenanceND         Provenance = "ND"
	ProvenanceGuestAgent Provenance = "GuestAgent"
	ProvenanceManual     Provenance = "Manual"
)

// VMPortList is a list of VMPorts.
//
// +kubebuilder:object:root=true
type VMPortList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VMPort `json:"items"`
}

// VMIdentityList is a list of VMIdentities.
//
// +kubebuilder:object:root=true
type VMIdentityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VMIdentity `json:"items"`
}
