package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VLANTrunk is a node's Linux bridge and the uplink (a NIC or a bond) that
// carries tagged frames to the switch.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=vtrunk,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Bridge",type=string,JSONPath=`.spec.bridge.name`
// +kubebuilder:printcolumn:name="Uplink",type=string,JSONPath=`.spec.uplink.interface`
// +kubebuilder:printcolumn:name="VLANs",type=string,JSONPath=`.spec.uplink.allowedVLANs`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`,description="Nodes that have the trunk"
// +kubebuilder:printcolumn:name="Healthy",type=integer,JSONPath=`.status.healthyNodes`,description="Nodes where it carries what it should"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="want a name of at most 63 bytes: nodes add theirs to it"
type VLANTrunk struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VLANTrunkSpec `json:"spec"`

	// Status is the cluster's word on the trunk; Homeport writes it.
	// +optional
	Status VLANTrunkStatus `json:"status,omitzero"`
}

// VLANTrunkStatus sums up what the nodes report (see VLANTrunkNode).
type VLANTrunkStatus struct {
	// Nodes that have the trunk.
	// +optional
	Nodes int32 `json:"nodes"`

	// HealthyNodes where the trunk carries what it should.
	// +optional
	HealthyNodes int32 `json:"healthyNodes"`

	// Conditions of the trunk: Ready, Degraded.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// VLANTrunkSpec is what a trunk should be.
//
// +kubebuilder:validation:XValidation:rule="!has(self.uplink.interface) || self.uplink.interface != self.bridge.name",message="uplink.interface is the trunk's own bridge: want the NIC or bond that leads to the switch"
type VLANTrunkSpec struct {
	// NodeSelector limits the trunk to nodes with these labels. Absent, it is
	// on every node. Read from Kubernetes alone: a directory of manifests is
	// for the node that reads it.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// Bridge is the Linux bridge that VMs are attached to.
	Bridge TrunkBridge `json:"bridge"`

	// Uplink is the way to the switch, and what may go over it.
	Uplink TrunkUplink `json:"uplink"`

	// MTU of the bridge, in bytes. Absent, it is the uplink's.
	// +optional
	// +kubebuilder:validation:Minimum=68
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`

	// ManagementVLANs are the node's own, as "4000" or "4000-4010,4090".
	// Homeport never touches them on any interface, and no network may use
	// them, whatever uplink.allowedVLANs says.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4])(-([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4]))?(,([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4])(-([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4]))?)*$')",message="want VLANs from 1 to 4094, as 4000 or 4000-4010,4090"
	ManagementVLANs string `json:"managementVLANs,omitempty"`

	// InlineConfig says whether a CNI config may name this trunk's bridge and
	// a VLAN itself instead of a VLANNetwork. Whoever can write a
	// NetworkAttachmentDefinition could then choose any allowed VLAN.
	// +optional
	// +kubebuilder:default=Refuse
	InlineConfig InlineConfig `json:"inlineConfig,omitempty"`

	// HostFirewall says what to do about a host's own iptables, through which
	// br_netfilter sends the bridge's frames where it is switched on, as
	// Kubernetes wants it. Detect: nothing; the condition HostFiltered of each
	// VLANTrunkNode tells. Bypass: rules in chains of Homeport's own let the
	// frames of VMs pass untouched. A chain of nftables that others drop in
	// cannot be bypassed, only told.
	// +optional
	// +kubebuilder:default=Detect
	HostFirewall HostFirewall `json:"hostFirewall,omitempty"`

	// FastPath says how packets of established connections go between two VMs
	// of a node, and to the uplink, and all that comes from there for VMs. Auto:
	// past the bridge, at less cost than by a bridge without a firewall, judged at each port as ever; by the bridge
	// where somebody would miss them there, as who captures or filters at it
	// (homeportctl ports -o wide tells why). Off: by the bridge, always.
	// +optional
	// +kubebuilder:default=Auto
	FastPath FastPath `json:"fastPath,omitempty"`

	// AdvertiseResource makes each node where the trunk is healthy offer the
	// resource homeport.dev/<trunk's name>, and NetworkAttachmentDefinitions
	// ask for it: VMs are then scheduled only where their VLAN works.
	// +optional
	AdvertiseResource bool `json:"advertiseResource,omitempty"`
}

// TrunkBridge names a trunk's bridge.
type TrunkBridge struct {
	// Name of the bridge on the node, at most 15 bytes.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="!self.matches('[/:\\\\s]') && self != '.' && self != '..'",message="want an interface name of at most 15 bytes without '/', ':' and spaces"
	Name string `json:"name"`

	// Managed says whose bridge it is. True: Homeport creates it and keeps its
	// settings. False: it exists, others own it, and Homeport checks it and
	// changes only the ports of VMs. Required, since a wrong guess would
	// reconfigure somebody else's bridge.
	Managed *bool `json:"managed"`
}

// TrunkUplink is a trunk's way to the switch.
//
// +kubebuilder:validation:XValidation:rule="!has(self.nativeVLAN) || has(self.interface)",message="nativeVLAN has no meaning without uplink.interface: name the interface or leave nativeVLAN out"
type TrunkUplink struct {
	// Interface is the NIC or bond. Absent, the trunk has no uplink, and its
	// networks join only VMs of one node.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="!self.matches('[/:\\\\s]') && self != '.' && self != '..'",message="want an interface name of at most 15 bytes without '/', ':' and spaces"
	Interface string `json:"interface,omitempty"`

	// AllowedVLANs are those that networks of this trunk may use, as
	// "100-110,200"; the switch port's allowed list.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4])(-([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4]))?(,([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4])(-([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-4]))?)*$')",message="want VLANs from 1 to 4094, as 100 or 100-110,200"
	AllowedVLANs string `json:"allowedVLANs"`

	// NativeVLAN is the VLAN of untagged frames on the uplink; the switch
	// port's native VLAN. Absent, untagged frames are not let in.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4094
	NativeVLAN *int32 `json:"nativeVLAN,omitempty"`
}

// HostFirewall says what to do about a host's own iptables.
//
// +kubebuilder:validation:Enum=Detect;Bypass
type HostFirewall string

// The values of HostFirewall.
const (
	HostFirewallDetect HostFirewall = "Detect"
	HostFirewallBypass HostFirewall = "Bypass"
)

// FastPath says how packets of established connections go.
//
// +kubebuilder:validation:Enum=Auto;Off
type FastPath string

// The values of FastPath.
const (
	FastPathAuto FastPath = "Auto"
	FastPathOff  FastPath = "Off"
)

// InlineConfig says whether CNI configs may name bridge and VLAN themselves.
//
// +kubebuilder:validation:Enum=Allow;Refuse
type InlineConfig string

// The values of InlineConfig.
const (
	InlineAllow  InlineConfig = "Allow"
	InlineRefuse InlineConfig = "Refuse"
)
