package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// FirewallPolicy is an ordered list of firewall rules. Unless it says otherwise they are
// stateful: the replies to an allowed connection are allowed. The first rule that matches
// decides; rules are judged by the policies' category, then order, then name,
// then from top to bottom, and the network's defaultAction is last.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=fwp,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Category",type=string,JSONPath=`.spec.category`
// +kubebuilder:printcolumn:name="Order",type=integer,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Rules",type=integer,JSONPath=`.status.rules`
// +kubebuilder:printcolumn:name="Applied to",type=string,JSONPath=`.spec.appliedTo`,priority=1
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type FirewallPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec FirewallPolicySpec `json:"spec"`

	// Status is what became of the policy; Homeport writes it.
	// +optional
	Status FirewallPolicyStatus `json:"status,omitzero"`
}

// FirewallPolicyStatus is what became of a policy.
type FirewallPolicyStatus struct {
	// Rules that the policy has.
	// +optional
	Rules int32 `json:"rules"`

	// Conditions of the policy: Ready, PeersUnknown where it has peers by label, and
	// AppliedToNobody where it is applied by label or AddressSet.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// FirewallPolicySpec is what a policy says.
type FirewallPolicySpec struct {
	// Category of the policy: Emergency is judged before Infrastructure, then
	// Environment, then Application. Ethernet comes before all: its rules are about frames, by
	// MAC and EtherType. What they drop is dropped, established connections too; of what they
	// allow, or none matches, the others decide, but an allowed frame that is not IP passes.
	Category Category `json:"category"`

	// Order among the policies of a category, the lowest first. Policies with
	// equal order are judged by name.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=999999
	Order int64 `json:"order,omitempty"`

	// AppliedTo are the ports at which the policy is enforced. Required, for
	// an absent list reads as "everything" to some and "nothing" to others:
	// write any: true for every port.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="size(self) == 1 || !self.exists(a, has(a.any))",message="any stands alone: leave the other items out, or any"
	// +listType=atomic
	AppliedTo []AppliedTo `json:"appliedTo"`

	// Stateful, if false, has what the policy's rules allow make no connections: each
	// packet is judged by itself, so that both directions need a rule, and TCP passes
	// in its middle, too. Ethernet rules have no connections anyway.
	// +optional
	// +kubebuilder:default=true
	Stateful *bool `json:"stateful,omitempty"`

	// TCPStrict, if false, has the policy's rules take TCP without its opening SYN for
	// the middle of a connection, which goes on by state from there. Means nothing
	// without state.
	// +optional
	// +kubebuilder:default=true
	TCPStrict *bool `json:"tcpStrict,omitempty"`

	// Sticky, if true, keeps the connections that the policy's rules have allowed when rules
	// change, the policy's own among them: until they end, or a rule of category Emergency or
	// Ethernet drops them. Else connections that are not allowed any more are cut.
	// +optional
	Sticky bool `json:"sticky,omitempty"`

	// Rules from top to bottom. One policy holds 4000 at most: more are split
	// into policies of the same category, with rising order.
	// +optional
	// +kubebuilder:validation:MaxItems=4000
	// +listType=map
	// +listMapKey=id
	Rules []FirewallRule `json:"rules,omitempty"`
}

// Category is a group of policies; categories are judged one after another.
//
// +kubebuilder:validation:Enum=Ethernet;Emergency;Infrastructure;Environment;Application
type Category string

// The values of Category, in the order of judgement.
const (
	CategoryEthernet       Category = "Ethernet"
	CategoryEmergency      Category = "Emergency"
	CategoryInfrastructure Category = "Infrastructure"
	CategoryEnvironment    Category = "Environment"
	CategoryApplication    Category = "Application"
)

// AppliedTo selects ports. Exactly one field is set, or both network and vm: the ports of
// these VMs on that network alone.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=2
// +kubebuilder:validation:XValidation:rule="has(self.network) && has(self.vm) || [has(self.network), has(self.vm), has(self.any), has(self.addressSet)].filter(x, x).size() == 1",message="want exactly one of network, vm, addressSet and any, or network and vm: the VMs' ports on that network"
type AppliedTo struct {
	// Network is the name of a VLANNetwork: all its ports, or with vm those of the VMs.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Network string `json:"network,omitempty"`

	// Any, if true, is every port, also those without a VLANNetwork. It stands
	// alone in its list.
	// +optional
	Any bool `json:"any,omitempty"`

	// VM selects VMs of all namespaces by their labels, which whoever makes VMs
	// writes, and by kubernetes.io/metadata.name, the VM's namespace, and
	// vm.kubevirt.io/name, its name. It is all their ports, on every network or on
	// that of network, once KubeVirt confirms whose they are. Until then such a port has
	// the policy's rules that drop, and not those that allow. Pods without a VM
	// are not selected. Read from Kubernetes alone.
	// +optional
	VM *metav1.LabelSelector `json:"vm,omitempty"`

	// AddressSet is the name of an AddressSet: every port, for packets whose address at
	// the VM's side (the source of what it sends, the destination of what it gets) is in
	// the set. So the policy is where the address is, whoever knows of it. What a VM gets
	// by broadcast or multicast has no address of its.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-a-z0-9.]+$`
	AddressSet string `json:"addressSet,omitempty"`
}

// FirewallRule is one line of a policy. It matches a packet when direction,
// sources, destinations and services all do.
type FirewallRule struct {
	// ID is the number by which counters, logs and people know the rule;
	// unique within the policy, and stable when rules move.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	ID int64 `json:"id"`

	// Name for people.
	// +optional
	// +kubebuilder:validation:MaxLength=255
	Name string `json:"name,omitempty"`

	// Action is Allow, Drop, or Reject, which drops and tells the sender: TCP by a reset,
	// other protocols by an ICMP error; not of Ethernet. Pass is not enforced by this version.
	Action Action `json:"action"`

	// Direction as the VM sees it: In comes to it, Out leaves it.
	// +optional
	// +kubebuilder:default=InOut
	Direction Direction `json:"direction,omitempty"`

	// Sources, one of which must be the packet's. Absent is Any.
	// +optional
	// +kubebuilder:validation:MaxItems=512
	// +listType=atomic
	Sources []Peer `json:"sources,omitempty"`

	// Destinations, one of which must be the packet's. Absent is Any.
	// +optional
	// +kubebuilder:validation:MaxItems=512
	// +listType=atomic
	Destinations []Peer `json:"destinations,omitempty"`

	// SourcesExcluded, if true, turns sources round: every address of either family
	// matches but those. Frames that are not IP do not match. Sources must be there
	// then, and cannot be any or vm.
	// +optional
	SourcesExcluded bool `json:"sourcesExcluded,omitempty"`

	// DestinationsExcluded is the same for destinations.
	// +optional
	DestinationsExcluded bool `json:"destinationsExcluded,omitempty"`

	// Services, one of which must be the packet's. Absent is Any.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Services []Service `json:"services,omitempty"`

	// Log, if true, writes a line to the node's rule log for each connection that the rule
	// allows, its end, and each packet that it drops, up to 1000 a second and port. Of a rule in
	// Monitor the line says what it would have done. An Ethernet rule writes one for each frame that
	// it has the last word on, so not for IP that it allows.
	// +optional
	Log bool `json:"log,omitempty"`

	// LogLabel ends those lines: one word. It goes with log.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._:/@+=-]*$`
	LogLabel string `json:"logLabel,omitempty"`

	// State of the rule. One in Monitor decides nothing, and its hits are what it would
	// have decided, were it and those in Monitor before it Enabled. A Disabled one matches
	// nothing, and keeps its place and its hits.
	// +optional
	// +kubebuilder:default=Enabled
	State RuleState `json:"state,omitempty"`
}

// Action is what a rule does with a packet.
//
// +kubebuilder:validation:Enum=Allow;Drop;Reject;Pass
type Action string

// The values of Action.
const (
	ActionAllow  Action = "Allow"
	ActionDrop   Action = "Drop"
	ActionReject Action = "Reject"
	ActionPass   Action = "Pass"
)

// Direction of packets as the VM sees them.
//
// +kubebuilder:validation:Enum=In;Out;InOut
type Direction string

// The values of Direction.
const (
	DirectionIn    Direction = "In"
	DirectionOut   Direction = "Out"
	DirectionInOut Direction = "InOut"
)

// RuleState says whether a rule is judged.
//
// +kubebuilder:validation:Enum=Enabled;Monitor;Disabled
type RuleState string

// The values of RuleState.
const (
	RuleEnabled  RuleState = "Enabled"
	RuleMonitor  RuleState = "Monitor"
	RuleDisabled RuleState = "Disabled"
)

// Peer is one end of a packet's way. Exactly one field is set.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type Peer struct {
	// IP is one address, as 10.1.2.3 or 2001:db8::1.
	// +optional
	// +kubebuilder:validation:MaxLength=45
	IP string `json:"ip,omitempty"`

	// CIDR is a prefix without host bits, as 10.0.0.0/8.
	// +optional
	// +kubebuilder:validation:MaxLength=49
	CIDR string `json:"cidr,omitempty"`

	// Range of addresses of one family, both ends included, as
	// 10.0.0.5-10.0.0.9.
	// +optional
	// +kubebuilder:validation:MaxLength=91
	Range string `json:"range,omitempty"`

	// Any, if true, is every address, and frames that are not IP as well. It
	// stands alone in its list, and is the same as leaving the list out.
	// +optional
	Any bool `json:"any,omitempty"`

	// AddressSet is the name of an AddressSet: the addresses that it has, with those of
	// the sets that it includes.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-a-z0-9.]+$`
	AddressSet string `json:"addressSet,omitempty"`

	// VM selects VMs of all namespaces by their labels, which whoever makes VMs
	// writes, and by kubernetes.io/metadata.name, the VM's namespace, and
	// vm.kubevirt.io/name, its name. It is the addresses that they are known to hold. A VM whose address is unknown does not
	// match, and is named in condition PeersUnknown. Read from Kubernetes alone.
	// +optional
	VM *metav1.LabelSelector `json:"vm,omitempty"`

	// Network is the name of a VLANNetwork: the addresses of its subnets, which it must
	// have. It may be on other nodes.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Network string `json:"network,omitempty"`

	// MAC is a MAC address, as 00:50:56:0a:0b:0c, or those that begin alike, as
	// 00:50:56:00:00:00/24. Of category Ethernet, which has no other peers.
	// +optional
	// +kubebuilder:validation:MaxLength=20
	MAC string `json:"mac,omitempty"`
}

// Service is a protocol with its ports or types.
type Service struct {
	// Protocol is TCP, UDP, SCTP, ICMP or ICMPv6.
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`

	// ProtocolNumber is an IP protocol by its number, in place of protocol: 47 is GRE,
	// 50 is ESP. All of it matches. Packets of protocols that protocol has no name for
	// open no connections: those of each direction need a rule. Behind IPv6 extension
	// headers, AH (51) among them, it is the protocol that follows.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	ProtocolNumber *int32 `json:"protocolNumber,omitempty"`

	// Ports are destination ports of TCP, UDP or SCTP, as "80,443,8000-8010".
	// Absent is every port and, without sourcePorts and tcpFlags, every packet of the protocol, also
	// non-first fragments, which carry no ports.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Ports string `json:"ports,omitempty"`

	// Types of ICMP or ICMPv6 messages. Absent is every type.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=255
	// +listType=atomic
	Types []int32 `json:"types,omitempty"`

	// Codes of the one type that types has. Absent is every code.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=255
	// +listType=atomic
	Codes []int32 `json:"codes,omitempty"`

	// Any, if true, is every service, every protocol and frames that are not
	// IP. It stands alone in its list, and is the same as leaving the list out.
	// +optional
	Any bool `json:"any,omitempty"`

	// SourcePorts of TCP, UDP or SCTP, as ports. Whoever opens a connection chooses its
	// source port: they tell protocols apart, not people. Absent is every port.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	SourcePorts string `json:"sourcePorts,omitempty"`

	// TCPFlags of TCP, as "SYN,!ACK": flags that must be set, and with ! those that must
	// not be, of FIN, SYN, RST, PSH, ACK, URG, ECE and CWR. Rules see the SYN of a connection and
	// what belongs to none, and with stateful: false every packet. Absent is any.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^ *!?[A-Za-z]{3} *(, *!?[A-Za-z]{3} *)*$`
	TCPFlags string `json:"tcpFlags,omitempty"`

	// ServiceSet is the name of a ServiceSet: the services that it has, with those of the
	// sets that it includes. It is alone in its item. Ethernet rules take its EtherTypes, and the
	// others the rest.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServiceSet string `json:"serviceSet,omitempty"`

	// EtherType is what a frame carries, behind its 802.1Q tag: IPv4, IPv6, ARP, LLDP, or a
	// number, as 0x8892. It is alone in its item, and of category Ethernet, which has no other
	// services. RARP (0x8035), by which a live migration is announced, passes before any rule.
	// +optional
	// +kubebuilder:validation:MaxLength=6
	EtherType string `json:"etherType,omitempty"`
}

// Protocol above IP.
//
// +kubebuilder:validation:Enum=TCP;UDP;SCTP;ICMP;ICMPv6
type Protocol string

// The values of Protocol.
const (
	ProtocolTCP    Protocol = "TCP"
	ProtocolUDP    Protocol = "UDP"
	ProtocolSCTP   Protocol = "SCTP"
	ProtocolICMP   Protocol = "ICMP"
	ProtocolICMPv6 Protocol = "ICMPv6"
)
