// Package v1alpha1 has the kinds of group homeport.dev/v1alpha1: what people write
// (VLANTrunk, VLANNetwork, FirewallPolicy, AddressSet, ServiceSet, ReachabilityCheck), what
// nodes report (VLANTrunkNode, VMPort, VMIdentity), the defaults, and the checks that need
// nothing but the object itself. It is data; what the objects come to together is
// pkg/desired.
//
// Fields that this version does not enforce are part of the types, so that every
// source of objects can refuse them by name instead of losing them on the way.
//
// +groupName=homeport.dev
// +kubebuilder:object:generate=true
package v1alpha1

//go:generate go run -modfile=../../../hack/tools/go.mod sigs.k8s.io/controller-tools/cmd/controller-gen object:headerFile=/dev/null paths=. crd:allowDangerousTypes=false,maxDescLen=2000 output:crd:artifacts:config=../../../deploy/base/crds
//go:generate go run ../../../hack/apidoc -crds ../../../deploy/base/crds -doc ../../../docs/reference/api.md

// What an object's apiVersion and kind say.
const (
	// Group is the API group of all kinds here.
	Group = "homeport.dev"
	// Version of the group that this package describes.
	Version = "v1alpha1"
	// APIVersion is what the apiVersion field of a manifest holds.
	APIVersion = Group + "/" + Version

	// KindVLANTrunk is the kind of [VLANTrunk].
	KindVLANTrunk = "VLANTrunk"
	// KindVLANNetwork is the kind of [VLANNetwork].
	KindVLANNetwork = "VLANNetwork"
	// KindFirewallPolicy is the kind of [FirewallPolicy].
	KindFirewallPolicy = "FirewallPolicy"
	// KindAddressSet is the kind of [AddressSet].
	KindAddressSet = "AddressSet"
	// KindServiceSet is the kind of [ServiceSet].
	KindServiceSet = "ServiceSet"
	// KindReachabilityCheck is the kind of [ReachabilityCheck].
	KindReachabilityCheck = "ReachabilityCheck"
)

// Kinds lists the kinds that say what nodes should be.
func Kinds() []string {
	return []string{KindVLANTrunk, KindVLANNetwork, KindFirewallPolicy, KindAddressSet, KindServiceSet, KindReachabilityCheck}
}

// MTUs that Linux gives a bridge or a veth (include/uapi/linux/if_ether.h:
// ETH_MIN_MTU, ETH_MAX_MTU), in bytes without the Ethernet header.
const (
	MinMTU = 68
	MaxMTU = 65535
)
