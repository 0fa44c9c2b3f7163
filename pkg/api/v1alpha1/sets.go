package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AddressSet is a named list of addresses for firewall rules. No rule can use one in
// this version: a FirewallPolicy that names a set is refused, and Ready says no more
// than that the set is right in itself.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=aset,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Addresses",type=integer,JSONPath=`.status.addresses`
// +kubebuilder:printcolumn:name="Includes",type=string,JSONPath=`.spec.includes`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AddressSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AddressSetSpec `json:"spec"`

	// Status is what became of the set; Homeport writes it.
	// +optional
	Status AddressSetStatus `json:"status,omitzero"`
}

// AddressSetSpec is what a set holds: its own addresses and those of the sets
// that it includes.
type AddressSetSpec struct {
	// Addresses, each an IP, a CIDR without host bits, or a range as
	// 10.0.0.5-10.0.0.9. One set holds 10,000 at most: more are split into sets
	// that a further one includes.
	// +optional
	// +kubebuilder:validation:MaxItems=10000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=91
	// +listType=set
	Addresses []string `json:"addresses,omitempty"`

	// Includes names other AddressSets.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Includes []string `json:"includes,omitempty"`
}

// AddressSetStatus is what became of a set.
type AddressSetStatus struct {
	// Addresses that the set has, with those of the sets that it includes.
	// +optional
	Addresses int32 `json:"addresses"`

	// Conditions of the set: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AddressSetList is a list of AddressSets.
//
// +kubebuilder:object:root=true
type AddressSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AddressSet `json:"items"`
}

// FirewallPolicyList is a list of FirewallPolicies.
//
// +kubebuilder:object:root=true
type FirewallPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []FirewallPolicy `json:"items"`
}
