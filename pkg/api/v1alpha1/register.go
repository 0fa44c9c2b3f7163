package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of all kinds here.
var GroupVersion = schema.GroupVersion{Group: Group, Version: Version}

// AddToScheme makes the kinds known to a Kubernetes client.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&VLANTrunk{}, &VLANTrunkList{}, &VLANTrunkNode{}, &VLANTrunkNodeList{},
		&VLANNetwork{}, &VLANNetworkList{}, &VMPort{}, &VMPortList{}, &VMIdentity{}, &VMIdentityList{},
		&FirewallPolicy{}, &FirewallPolicyList{}, &AddressSet{}, &AddressSetList{}, &ServiceSet{}, &ServiceSetList{},
		&ReachabilityCheck{}, &ReachabilityCheckList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
