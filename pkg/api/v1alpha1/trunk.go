package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VLANTrunk is a node's Linux bridge and the uplink (a NIC or a bond) that
// carries tagged frames to the switch.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=vtrunk
type VLANTrunk struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VLANTrunkSpec `json:"spec"`
}

// VLANTrunkSpec is what a trunk should be.
type VLANTrunkSpec struct {
	// NodeSelector limits the trunk to nodes with these labels. Not enforced
	// by this version: a trunk is on every node that reads it.
	// +optional
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
	ManagementVLANs string `json:"managementVLANs,omitempty"`

	// InlineConfig says whether a CNI config may name this trunk's bridge and
	// a VLAN itself instead of a VLANNetwork. Whoever can write a
	// NetworkAttachmentDefinition could then choose any allowed VLAN.
	// +optional
	// +kubebuilder:default=Refuse
	InlineConfig InlineConfig `json:"inlineConfig,omitempty"`
}

// TrunkBridge names a trunk's bridge.
type TrunkBridge struct {
	// Name of the bridge on the node, at most 15 bytes.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	Name string `json:"name"`

	// Managed says whose bridge it is. True: Homeport creates it and keeps its
	// settings. False: it exists, others own it, and Homeport checks it and
	// changes only the ports of VMs. Required, since a wrong guess would
	// reconfigure somebody else's bridge.
	Managed *bool `json:"managed"`
}

// TrunkUplink is a trunk's way to the switch.
type TrunkUplink struct {
	// Interface is the NIC or bond. Absent, the trunk has no uplink, and its
	// networks join only VMs of one node.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`

	// AllowedVLANs are those that networks of this trunk may use, as
	// "100-110,200"; the switch port's allowed list.
	// +kubebuilder:validation:MinLength=1
	AllowedVLANs string `json:"allowedVLANs"`

	// NativeVLAN is the VLAN of untagged frames on the uplink; the switch
	// port's native VLAN. Absent, untagged frames are not let in.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4094
	NativeVLAN *int32 `json:"nativeVLAN,omitempty"`
}

// InlineConfig says whether CNI configs may name bridge and VLAN themselves.
//
// +kubebuilder:validation:Enum=Allow;Refuse
type InlineConfig string

// The values of InlineConfig.
const (
	InlineAllow  InlineConfig = "Allow"
	InlineRefuse InlineConfig = "Refuse"
)
