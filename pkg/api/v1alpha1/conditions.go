package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Finalizer keeps a VLANTrunk or VLANNetwork that is deleted until nothing uses
// it any more.
const Finalizer = "homeport.dev/in-use"

// LabelNetwork marks the NetworkAttachmentDefinitions that Homeport made. Its
// value is [LabelValue] of the VLANNetwork's name.
const LabelNetwork = "homeport.dev/network"

// AnnotationResource makes KubeVirt, or Multus' resources injector, ask for a
// resource for each pod that names the NetworkAttachmentDefinition.
const AnnotationResource = "k8s.v1.cni.cncf.io/resourceName"

// ResourcePrefix and a trunk's name make the resource that its nodes offer; see
// VLANTrunk.spec.advertiseResource.
const ResourcePrefix = Group + "/"

// NetworkResourcePrefix begins the resource of a network that nodes offer which carry its VLANs; see
// VLANNetwork.spec.reachability.required.
const NetworkResourcePrefix = "network." + Group + "/"

// NetworkResource is the resource of a network.
func NetworkResource(network string) string { return NetworkResourcePrefix + LabelValue(network) }

// LabelValue is an object's name as a label value, which has 63 bytes at most: a
// longer name is cut, and its hash added.
func LabelValue(name string) string {
	if len(name) <= validation.LabelValueMaxLength {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	hash := hex.EncodeToString(sum[:8])
	return name[:validation.LabelValueMaxLength-1-len(hash)] + "-" + hash
}

// Types of conditions.
const (
	// ConditionReady says whether the object does what it should.
	ConditionReady = "Ready"
	// ConditionDegraded says whether a VLANTrunk that should work on a node does
	// not; those on the other nodes go on.
	ConditionDegraded = "Degraded"
	// ConditionMigrationRequired says whether VMs on a VLANNetwork must migrate to
	// get its present VLANs, MTU or trunk.
	ConditionMigrationRequired = "MigrationRequired"
	// ConditionPeersUnknown says whether peers by label of a FirewallPolicy match
	// less than its author may think. A policy without such peers has none.
	ConditionPeersUnknown = "PeersUnknown"
	// ConditionAppliedToNobody says whether what a FirewallPolicy is applied to by label or AddressSet is
	// nobody. A policy that is applied to neither has none.
	ConditionAppliedToNobody = "AppliedToNobody"
	// ConditionMACPinned says whether a VM names the MAC of a VMPort's interface, and
	// so keeps it at its next start. A port of no known VM has none.
	ConditionMACPinned = "MACPinned"
	// ConditionAddressesUnique says whether nobody else claims an address that a VMPort's NIC claims. A
	// port whose NIC claims none has none.
	ConditionAddressesUnique = "AddressesUnique"
	// ConditionMACUnique is False while the MAC of a VMPort's NIC is used by another station, too; else there is none.
	ConditionMACUnique = "MACUnique"
	// ConditionAddressesDeclared is False while annotations of a VMPort's pod that declare addresses make no sense, or
	// addresses are declared that no NIC of its network can have; else there is none.
	ConditionAddressesDeclared = "AddressesDeclared"
	// ConditionNetworkStatusWritten says whether the addresses of a VMPort are in its pod's annotation network-status, as its
	// network wants it; it goes when the network does so no more, and they are taken out again.
	ConditionNetworkStatusWritten = "NetworkStatusWritten"
	// ConditionHostFiltered says whether a node's own packet filter has a hand in
	// the frames of a VLANTrunk's VMs. It is of the VLANTrunkNode, and its being True
	// makes nothing else of the trunk untrue.
	ConditionHostFiltered = "HostFiltered"
	// ConditionReachable says whether a node lets new VMs come on all networks of a VLANTrunk that
	// say reachability.required. A trunk without any has none.
	ConditionReachable = "Reachable"
	// ConditionPassed says whether the last run of a ReachabilityCheck has found all as it should be.
	ConditionPassed = "Passed"
)

// Reasons of conditions that the controller writes; docs/reference/conditions.md
// says of each what to do.
const (
	// ReasonReady: everything is as it should be.
	ReasonReady = "Ready"
	// ReasonRefused: the spec cannot be in force; the message names the field.
	ReasonRefused = "Refused"
	// ReasonInUse: the object is deleted, but others still use it.
	ReasonInUse = "InUse"

	// ReasonHealthy: all nodes that have the trunk report it as healthy.
	ReasonHealthy = "Healthy"
	// ReasonPartlyHealthy: some nodes that have the trunk do, and others do not.
	ReasonPartlyHealthy = "PartlyHealthy"
	// ReasonNodesUnhealthy: there are nodes that do not, or that are down.
	ReasonNodesUnhealthy = "NodesUnhealthy"
	// ReasonNoNodes: no node reports the trunk.
	ReasonNoNodes = "NoNodes"

	// ReasonNoNamespaces: no namespace may use the network.
	ReasonNoNamespaces = "NoNamespaces"
	// ReasonNADKindMissing: the cluster has no kind NetworkAttachmentDefinition.
	ReasonNADKindMissing = "NADKindMissing"
	// ReasonNADConflict: a namespace has a NetworkAttachmentDefinition of the
	// network's name that somebody else made.
	ReasonNADConflict = "NADConflict"
	// ReasonNADFailed: the API server does not take a NetworkAttachmentDefinition.
	ReasonNADFailed = "NADFailed"
	// ReasonTrunkUnhealthy: the network's trunk is not ready.
	ReasonTrunkUnhealthy = "TrunkUnhealthy"

	// ReasonPortsOutdated: VMs run with other VLANs, another MTU or another trunk
	// than the network has now.
	ReasonPortsOutdated = "PortsOutdated"
	// ReasonPortsUpToDate: no VM does.
	ReasonPortsUpToDate = "PortsUpToDate"

	// ReasonPeersUnknown: a peer by label selects nobody, or a VM whose address nobody
	// knows, and which it so does not match.
	ReasonPeersUnknown = "PeersUnknown"
	// ReasonPeersKnown: the addresses of all VMs that peers select are known.
	ReasonPeersKnown = "PeersKnown"

	// ReasonNoVMSelected: a vm of appliedTo selects nobody.
	ReasonNoVMSelected = "NoVMSelected"
	// ReasonEmptyAddressSet: an AddressSet of appliedTo has no address.
	ReasonEmptyAddressSet = "EmptyAddressSet"
	// ReasonVMsSelected: each vm selects a VM, and each AddressSet has addresses.
	ReasonVMsSelected = "VMsSelected"
	// ReasonNotEmpty: no vm is named, and each AddressSet has addresses.
	ReasonNotEmpty = "NotEmpty"

	// ReasonNodeDown: the port's node is down, so nothing is known of the port.
	ReasonNodeDown = "NodeDown"

	// ReasonIncludesMissing: the set includes one that does not exist.
	ReasonIncludesMissing = "IncludesMissing"
	// ReasonIncludesCycle: sets include each other in a circle.
	ReasonIncludesCycle = "IncludesCycle"
)

// Reasons of the condition Ready that a node's agent writes, beside Healthy and
// Refused.
const (
	// ReasonTrunkBroken: the trunk's bridge or uplink could not be set up.
	ReasonTrunkBroken = "TrunkBroken"
	// ReasonLinkDown: the uplink is absent, switched off, or hears nobody.
	ReasonLinkDown = "LinkDown"
	// ReasonDrift: others changed something that is not repaired.
	ReasonDrift = "Drift"
	// ReasonPolicyPending: the desired policy is not the active one yet.
	ReasonPolicyPending = "PolicyPending"
	// ReasonPortActive: the port passes what policy and port security allow.
	ReasonPortActive = "PortActive"
	// ReasonPortProblem: something at the port is not as it should be.
	ReasonPortProblem = "PortProblem"
	// ReasonPortClosed: the port's state lets nothing pass.
	ReasonPortClosed = "PortClosed"
	// ReasonPortQuarantined: the port waits for its VM, which is to come by live
	// migration, or of which it is not known whether it is to.
	ReasonPortQuarantined = "PortQuarantined"
	// ReasonPortReleased: the port's VM has moved away by live migration.
	ReasonPortReleased = "PortReleased"
	// ReasonMACSet: the VM names the interface's MAC.
	ReasonMACSet = "MACSet"
	// ReasonMACNotSet: it does not, and got one at random.
	ReasonMACNotSet = "MACNotSet"
	// ReasonVMUnconfirmed: the pod says that it is a VM's, and no VM says so.
	ReasonVMUnconfirmed = "VMUnconfirmed"
)

// Reasons of the condition AddressesUnique.
const (
	// ReasonUnique: nobody else claims an address of the port's NIC.
	ReasonUnique = "Unique"
	// ReasonDuplicateAddress: somebody does.
	ReasonDuplicateAddress = "DuplicateAddress"
	// ReasonDuplicateMAC is that of MACUnique.
	ReasonDuplicateMAC = "DuplicateMAC"
	// ReasonDeclarationUnreadable: an annotation, or IPAMClaim, that declares addresses cannot be read.
	ReasonDeclarationUnreadable = "DeclarationUnreadable"
	// ReasonDeclarationUnfit: an address is declared that no NIC of the network can have.
	ReasonDeclarationUnfit = "DeclarationUnfit"
	// ReasonAddressesWritten is that of NetworkStatusWritten when it is True.
	ReasonAddressesWritten = "AddressesWritten"
	// ReasonNetworkStatusUnreadable: the annotation is of another form.
	ReasonNetworkStatusUnreadable = "NetworkStatusUnreadable"
	// ReasonNetworkStatusRefused: the server does not take it.
	ReasonNetworkStatusRefused = "NetworkStatusRefused"
)

// Reasons of the condition HostFiltered.
const (
	// ReasonNotFiltered: bridged frames do not reach the host's packet filter.
	ReasonNotFiltered = "NotFiltered"
	// ReasonBypassed: they do, and our chains let them pass untouched.
	ReasonBypassed = "Bypassed"
	// ReasonHostFirewall: they do, and nobody wants them to bypass it.
	ReasonHostFirewall = "HostFirewall"
	// ReasonBypassFailed: they should bypass it, and our chains are not in place.
	ReasonBypassFailed = "BypassFailed"
	// ReasonOtherFirewall: they bypass iptables, but another chain of nftables can
	// drop them.
	ReasonOtherFirewall = "OtherFirewall"
	// ReasonHostUnknown: it cannot be found out.
	ReasonHostUnknown = "HostUnknown"
)

// Reasons of the condition Reachable.
const (
	// ReasonOffered: the resources of all these networks are offered.
	ReasonOffered = "Offered"
	// ReasonNotOffered: a check found the VLANs of one at fault on the node.
	ReasonNotOffered = "NotOffered"
	// ReasonNotChecked: no check has told yet, or none covers it.
	ReasonNotChecked = "NotChecked"
)

// Reasons of the condition Passed.
const (
	// ReasonAllPassed: the last run has found neither errors nor warnings.
	ReasonAllPassed = "AllPassed"
	// ReasonFindings: it has found errors or warnings.
	ReasonFindings = "Findings"
	// ReasonNothingTested: nothing could be tested.
	ReasonNothingTested = "NothingTested"
	// ReasonCheckFailed: the check could not be run.
	ReasonCheckFailed = "CheckFailed"
)

// Reasons of events that tell no transition of a condition.
const (
	// EventNADRestored: a NetworkAttachmentDefinition of ours was edited by
	// somebody else, and put right.
	EventNADRestored = "NADRestored"
	// EventNADUpdated: a NetworkAttachmentDefinition follows its trunk's
	// spec.advertiseResource.
	EventNADUpdated = "NADUpdated"
)
