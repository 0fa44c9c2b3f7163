package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VLANTrunkNode is what one node says of one trunk. The node's agent makes and
// writes it; its name is <trunk>.<node>.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=vtnode,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:selectablefield:JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Trunk",type=string,JSONPath=`.spec.trunk`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Uplink",type=string,JSONPath=`.status.uplink.interface`
// +kubebuilder:printcolumn:name="Link",type=string,JSONPath=`.status.uplink.state`
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.status.mtu`
// +kubebuilder:printcolumn:name="VLANs",type=string,JSONPath=`.status.uplink.vlans`
// +kubebuilder:printcolumn:name="Ports",type=integer,JSONPath=`.status.ports`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`,priority=1
type VLANTrunkNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VLANTrunkNodeSpec `json:"spec"`

	// Status is what the node found.
	// +optional
	Status VLANTrunkNodeStatus `json:"status,omitzero"`
}

// VLANTrunkNodeSpec says which trunk and node the object is about.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is about one trunk and node for its whole life"
type VLANTrunkNodeSpec struct {
	// Trunk is the VLANTrunk's name.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Trunk string `json:"trunk"`

	// Node is the Kubernetes node's name.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
}

// VLANTrunkNodeStatus is a trunk as it is on a node.
type VLANTrunkNodeStatus struct {
	// Bridge on the node.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Bridge string `json:"bridge,omitempty"`

	// MTU of the bridge, in bytes; 0 while there is none.
	// +optional
	MTU int32 `json:"mtu,omitempty"`

	// Uplink as it is. Absent if the trunk has none.
	// +optional
	Uplink *UplinkStatus `json:"uplink,omitempty"`

	// Ports of VMs on the trunk, on this node.
	// +optional
	Ports int32 `json:"ports"`

	// Generation of the firewall program on this node.
	// +optional
	Generation GenerationStatus `json:"generation,omitzero"`

	// Agent is the version of the node's agent.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Agent string `json:"agent,omitempty"`

	// AgentAddress is where the agents of other nodes ask this one, as host:port, in
	// checks of the fabric. Absent if they cannot.
	// +optional
	// +kubebuilder:validation:MaxLength=261
	AgentAddress string `json:"agentAddress,omitempty"`

	// Drift lists what others changed at the trunk and its ports and what is
	// not repaired, the oldest first.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Drift []DriftStatus `json:"drift,omitempty"`

	// Conditions of the trunk on the node: Ready, HostFiltered.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// UplinkStatus is a trunk's way to the switch as it is.
type UplinkStatus struct {
	// Interface is the NIC or bond.
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface"`

	// State of the link: Up has a carrier, NoCarrier has none, Down is switched
	// off, Absent is not there.
	// +kubebuilder:validation:Enum=Up;NoCarrier;Down;Absent
	State string `json:"state"`

	// VLANs that the uplink carries in the bridge, as "100-110,200".
	// +optional
	// +kubebuilder:validation:MaxLength=8192
	VLANs string `json:"vlans,omitempty"`
}

// The values of UplinkStatus.State.
const (
	UplinkUp        = "Up"
	UplinkNoCarrier = "NoCarrier"
	UplinkDown      = "Down"
	UplinkAbsent    = "Absent"
)

// GenerationStatus tells how far a node is with what is wanted of it: it is up to
// date when all three are equal.
type GenerationStatus struct {
	// Desired is the revision of desired state that the agent has read.
	// +optional
	Desired int64 `json:"desired"`

	// Compiled is the revision whose policy was compiled last.
	// +optional
	Compiled int64 `json:"compiled"`

	// Active is the revision that the programs at the ports judge by.
	// +optional
	Active int64 `json:"active"`
}

// DriftStatus is one thing that is not as it should be.
type DriftStatus struct {
	// Kind as in `homeportctl status` and the metric homeport_drift_total.
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`

	// Subject is the interface that it was found at.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Subject string `json:"subject,omitempty"`

	// Message says what is wrong.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// VLANTrunkList is a list of VLANTrunks.
//
// +kubebuilder:object:root=true
type VLANTrunkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VLANTrunk `json:"items"`
}

// VLANTrunkNodeList is a list of VLANTrunkNodes.
//
// +kubebuilder:object:root=true
type VLANTrunkNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VLANTrunkNode `json:"items"`
}

// VLANNetworkList is a list of VLANNetworks.
//
// +kubebuilder:object:root=true
type VLANNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VLANNetwork `json:"items"`
}
