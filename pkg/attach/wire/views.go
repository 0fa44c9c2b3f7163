package wire

import (
	"net/netip"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// APIVersion of every view. The JSON form is stable: fields are added, never
// renamed or taken away within a version.
const APIVersion = "homeport.dev/v1alpha1"

// Views by ViewRequest.What.
const (
	ViewStatus   = "status"   // -> NodeStatus
	ViewPorts    = "ports"    // -> PortList
	ViewVLANs    = "vlans"    // -> VLANList
	ViewPolicies = "policies" // -> PolicyList; Name limits it to one policy
	ViewDrops    = "drops"    // -> DropList
	ViewLog      = "log"      // -> Text: the agent's last log lines
	ViewMetrics  = "metrics"  // -> Text: what /metrics says, in Prometheus' form
	ViewRules    = "rules"    // -> PortRules: what judges a port, in its order
	ViewVerdict  = "verdict"  // -> Verdict: what a port's rules say about Packet
	ViewTrace    = "trace"    // -> Trace: what a port's program would do with Packet
	ViewEvents   = "events"   // -> EventList: what became of packets
	// ViewAddresses -> AddressList; Name limits it to an address, or a VM or pod by name or namespace/name.
	ViewAddresses = "addresses"
)

// TypeMeta heads every view.
type TypeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Text is an answer that has no other form.
type Text struct {
	TypeMeta `json:",inline"`
	Text     string `json:"text"`
	// Cut says that there was more than an answer holds.
	Cut bool `json:"cut,omitempty"`
}

// NodeStatus says whether this node does what it should, and if not, why.
type NodeStatus struct {
	TypeMeta `json:",inline"`
	Version  string `json:"version"` // of the agent
	// AgentAddress is where agents of other nodes ask this one, as host:port; "" is nowhere.
	AgentAddress string `json:"agentAddress,omitempty"`
	// Ready is true only when the active policy is the desired one and nothing of
	// it is refused, every trunk is whole and every known port is attached.
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"` // why not
	// Conditions that do not hold are left out; what is in force may be well
	// all the same.
	Conditions []Condition `json:"conditions,omitempty"`
	Source     string      `json:"source"` // as given to --source
	// Desired, Compiled and Active are snapshot revisions; all equal is up to date,
	// but for rules that are refused: Reasons and Problems name those.
	Desired  uint64 `json:"desiredRevision"`
	Compiled uint64 `json:"compiledRevision"`
	Active   uint64 `json:"activeRevision"`
	// Pending is there while another revision is desired than is active.
	Pending *PendingPolicy `json:"pendingPolicy,omitempty"`
	// Generation is the datapath's number of the active policy.
	Generation uint64         `json:"generation"`
	Hook       string         `json:"hook"` // tcx or clsact
	Trunks     []TrunkStatus  `json:"trunks"`
	Ports      map[string]int `json:"ports"` // count by state
	Drift      []DriftCount   `json:"drift,omitempty"`
	Problems   []Problem      `json:"problems,omitempty"`
}

// PendingPolicy is that the desired revision is not the active one.
type PendingPolicy struct {
	Since time.Time `json:"since"` // RFC 3339
	// Overdue says that it takes longer than it should, or failed: before that it
	// is on its way, which is nothing to warn of.
	Overdue bool `json:"overdue"`
	// Message is why; "" is that it is being compiled.
	Message string `json:"message,omitempty"`
}

// DesiredStateStale is the condition that the source of desired state cannot be
// read, or has lost everything: what it last said stays in force.
const DesiredStateStale = "DesiredStateStale"

// Condition has the form that Kubernetes gives it.
type Condition struct {
	Type   string `json:"type"`
	Status string `json:"status"` // "True"; of a trunk's also "False" and "Unknown"
	Reason string `json:"reason"` // one word for programs
	// LastTransitionTime is since when, RFC 3339, UTC.
	LastTransitionTime time.Time `json:"lastTransitionTime"`
	Message            string    `json:"message"`
}

// Problem is one thing that is wrong with one object or manifest; the fields are
// those of desired.Problem, kept apart since the CNI plugin is built from this
// package and must stay small.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Kind    string `json:"kind,omitempty"`
	Name    string `json:"name,omitempty"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	Kept    bool   `json:"kept"`
}

// TrunkStatus is one trunk as seen on this node.
type TrunkStatus struct {
	Name    string   `json:"name"`
	Bridge  string   `json:"bridge"`
	Uplink  string   `json:"uplink,omitempty"`
	Link    string   `json:"link,omitempty"` // of the uplink: LinkUp...; "" is not known
	VLANs   vlan.Set `json:"vlans"`          // on the uplink, as read from the kernel
	MTU     int      `json:"mtu"`
	Ready   bool     `json:"ready"`
	Message string   `json:"message,omitempty"` // what is wrong
	// Resource says that healthy nodes offer homeport.dev/<name> to the scheduler.
	Resource bool `json:"resource,omitempty"`
	// Offers are the networks with reachability.required whose resource the node offers while the trunk is healthy.
	Offers []string `json:"offers,omitempty"`
	// Conditions are those of the VLANTrunkNode beside Ready: HostFiltered, Reachable.
	Conditions []Condition `json:"conditions,omitempty"`
}

// The values of TrunkStatus.Link: LinkNoCarrier is switched on and hears nobody.
const (
	LinkUp        = "Up"
	LinkNoCarrier = "NoCarrier"
	LinkDown      = "Down"
	LinkAbsent    = "Absent"
)

// DriftCount says how often somebody else changed something of ours.
type DriftCount struct {
	Kind     string    `json:"kind"`
	Subject  string    `json:"subject"` // interface, bridge, or chain in the host's iptables
	Seen     int       `json:"seen"`
	Repaired int       `json:"repaired"`
	Last     time.Time `json:"last"`
	Message  string    `json:"message,omitempty"` // while it is not repaired: what is open or cut
}

// PortList is every port of this node.
type PortList struct {
	TypeMeta `json:",inline"`
	Items    []Port `json:"items"`
}

// Port is one port: what was asked for and what is.
type Port struct {
	attach.Record `json:",inline"`
	State         attach.State `json:"state"`
	Problems      []string     `json:"problems,omitempty"`
	Passed        [2]uint64    `json:"passed"`  // packets from the VM, to the VM
	Dropped       [2]uint64    `json:"dropped"` // packets from the VM, to the VM
	// FastPath is absent where nobody has looked yet.
	FastPath *FastPath `json:"fastPath,omitempty"`
	// Bindings are the addresses that its NIC holds, claims beside another, or waits for; Conflicts those that others
	// claim, too.
	Bindings  []Address         `json:"bindings,omitempty"`
	Conflicts []AddressConflict `json:"conflicts,omitempty"`
	// MACConflict: its MAC is somebody else's, too.
	MACConflict *MACConflict `json:"macConflict,omitempty"`
	// Unfit are those that are declared for it and that no NIC of the network can have.
	Unfit []Address `json:"unfit,omitempty"`
	// Decided is what people have said of addresses that it does not claim now.
	Decided []AddressDecided `json:"decided,omitempty"`
	// NetworkStatus: the network wants what the NIC holds in the pod's network-status.
	NetworkStatus bool `json:"networkStatus,omitempty"`
}

// Owner is whose a port is, as far as somebody has found out, and what they know of its addresses.
type Owner struct {
	Name string `json:"name"` // of the VM or pod, in the pod's namespace
	UID  string `json:"uid,omitempty"`
	VM   bool   `json:"vm,omitempty"`
	Says []Says `json:"says,omitempty"`
}

// Says are all the addresses that one source has for a port's untagged VLAN.
type Says struct {
	Source    string       `json:"source"`          // as "Multus"
	Guest     bool         `json:"guest,omitempty"` // the guest agent's word; else it is a declaration
	Addresses []netip.Addr `json:"addresses"`
}

// FastPath says whether packets of a port go past the bridge: those of established connections, to other ports of this
// node for which it is on, and what else the fields say.
type FastPath struct {
	On  bool   `json:"on"`
	Why string `json:"why,omitempty"` // it is not, or not for what comes to the port, or by the uplink
	// ToUplink: to hosts behind the uplink they do, too. FromUplink: so does all that comes from there for its VM.
	ToUplink   bool `json:"toUplink,omitempty"`
	FromUplink bool `json:"fromUplink,omitempty"`
}

// VLANList is VLAN membership as the kernel has it, in the idiom of bridge(8).
type VLANList struct {
	TypeMeta `json:",inline"`
	Items    []PortVLANs `json:"items"`
}

// PortVLANs is one bridge port's membership.
type PortVLANs struct {
	Bridge    string   `json:"bridge"`
	Interface string   `json:"interface"`
	Role      string   `json:"role"` // uplink, port, other
	VLANs     vlan.Set `json:"vlans"`
	PVID      vlan.ID  `json:"pvid,omitempty"`
	Untagged  vlan.Set `json:"untagged,omitzero"` // sent without a tag
}

// PolicyList is every FirewallPolicy in force, in the order of judgement.
type PolicyList struct {
	TypeMeta `json:",inline"`
	Items    []Policy      `json:"items"`
	Defaults []DefaultHits `json:"defaults"`
}

// Policy is a FirewallPolicy with its hits on this node.
type Policy struct {
	Name     string   `json:"name"`
	Category string   `json:"category"`
	Order    int64    `json:"order"`
	Networks []string `json:"networks,omitempty"` // appliedTo; absent is Any
	Rules    []Rule   `json:"rules"`
}

// Rule is one rule in words, with its hits: the packets that it judged (the
// first of each connection, and each one that it dropped).
type Rule struct {
	ID           uint32   `json:"id"`
	Name         string   `json:"name,omitempty"`
	Action       string   `json:"action"`
	State        string   `json:"state,omitempty"` // "" is Enabled
	Stateless    bool     `json:"stateless,omitempty"`
	Loose        bool     `json:"loose,omitempty"`  // tcpStrict is false
	Sticky       bool     `json:"sticky,omitempty"` // connections that it has allowed stay when rules change
	Log          bool     `json:"log,omitempty"`
	LogLabel     string   `json:"logLabel,omitempty"`
	Ethernet     bool     `json:"ethernet,omitempty"` // it is about frames: by MAC and EtherType
	Direction    string   `json:"direction"`
	Sources      []string `json:"sources,omitempty"`
	Destinations []string `json:"destinations,omitempty"`
	Services     []string `json:"services,omitempty"`
	// Local are AddressSets, one of which must have the address at the VM's side; absent is Any.
	Local   []string `json:"local,omitempty"`
	Packets uint64   `json:"packets"`
	Bytes   uint64   `json:"bytes"`
	// LastHit is when packets last counted here, to about a second; absent: never.
	LastHit time.Time `json:"lastHit,omitzero"`
}

// PortRules are the rules that judge a port, from top to bottom: those of all policies
// that are applied to it, in the order of judgement. Hits are those of all ports of the
// node that have the rule.
type PortRules struct {
	TypeMeta `json:",inline"`
	attach.Key
	Interface string       `json:"interface"` // host end; "": by manifests, at no port
	Pod       attach.Pod   `json:"pod,omitzero"`
	State     attach.State `json:"state"` // only an Active port lets anything pass
	Rules     string       `json:"rules"` // ID of the set
	Items     []PortRule   `json:"items"`
	Default   DefaultHits  `json:"default"` // what no rule matches
	// Sets are the AddressSets and ServiceSets that the rules name, by kind and name.
	Sets []NamedSet `json:"sets,omitempty"`
}

// NamedSet tells one version of a set from another without its items.
type NamedSet struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Items int    `json:"items"` // ranges of addresses or services, those of included sets too
	Hash  string `json:"hash"`  // SHA-256 of the items as text, in hex
}

// PortRule is a rule with its policy.
type PortRule struct {
	Policy string `json:"policy"`
	// Tier is the part of the order that Pass ends, a number; "" is not told.
	Tier string `json:"tier,omitempty"`
	Rule `json:",inline"`
}

// Verdict is what the rules of a port say about the first packet of a connection.
type Verdict struct {
	TypeMeta `json:",inline"`
	attach.Key
	Interface string       `json:"interface"` // host end; "": by manifests, at no port
	Pod       attach.Pod   `json:"pod,omitzero"`
	State     attach.State `json:"state"` // only an Active port lets anything pass
	Rules     string       `json:"rules"` // ID of the set of rules that judges the port
	Packet    string       `json:"packet"`
	Action    string       `json:"action"`
	Policy    string       `json:"policy,omitempty"` // of the rule that decided
	Rule      *Rule        `json:"rule,omitempty"`   // absent: the network's defaultAction did
	// Passed are the rules on the way that had others decide: Ethernet rules that allowed the frame, and
	// Pass rules.
	Passed []PortRule `json:"passed,omitempty"`
	// Neighbours: ARP or Neighbor Discovery, which passes, and no rule drops its frame.
	Neighbours bool `json:"neighbours,omitempty"`
	// Monitored would have decided instead, were it not in state Monitor.
	Monitored *PortRule `json:"monitored,omitempty"`
	Network   string    `json:"network"` // "" is ports without a network
}

// Trace is what a port's own program would do with a packet now.
type Trace struct {
	TypeMeta `json:",inline"`
	attach.Key
	Interface string       `json:"interface"` // host end
	Pod       attach.Pod   `json:"pod,omitzero"`
	State     attach.State `json:"state"`
	Rules     string       `json:"rules"` // ID of the set of rules that judges the port
	Packet    string       `json:"packet"`
	Verdict   string       `json:"verdict"` // EventAllow or EventDrop
	Stage     string       `json:"stage"`   // which part of the program decided
	Reason    string       `json:"reason"`  // as in drops
	Text      string       `json:"text"`    // what that means
	// Ends: the rules do not allow the packet's connection any more, which would end it.
	Ends bool `json:"ends,omitempty"`
	// Rule decided, or allowed the packet's connection; absent: no rule was asked.
	Rule *EventRule `json:"rule,omitempty"`
	// Monitored would have decided instead, were it not in state Monitor.
	Monitored *EventRule `json:"monitored,omitempty"`
}

// EventList is what the agent remembers of what became of packets, oldest first.
type EventList struct {
	TypeMeta `json:",inline"`
	Items    []Event `json:"items"`
	// Next is what to give as After for what follows, Newest the Seq of the last event.
	Next   uint64 `json:"next"`
	Newest uint64 `json:"newest"`
	// Lost counts events since the node was started that nobody will see: a port tells of
	// a thousand a second.
	Lost uint64 `json:"lost"`
}

// The values of Event.Verdict.
const (
	EventAllow = "Allow" // passed by rules; the first packet of a connection, or one that belongs to none
	EventDrop  = "Drop"  // dropped, or rejected
	EventEnd   = "End"   // of a connection that rules had allowed
)

// Event is what became of one packet at a port, or that a connection ended.
type Event struct {
	Seq       uint64     `json:"seq"`  // rises by 1; from 1 on after each start of the agent
	Time      time.Time  `json:"time"` // to some milliseconds
	Verdict   string     `json:"verdict"`
	Reason    string     `json:"reason"` // as in drops; of an End: Reset, Finished, TimedOut or PolicyChanged
	Direction string     `json:"direction"`
	Interface string     `json:"interface"` // host end
	Pod       attach.Pod `json:"pod,omitzero"`
	Network   string     `json:"network,omitempty"`
	VLAN      uint16     `json:"vlan,omitempty"`
	// Source and Destination are absent for what is not IP.
	Source          netip.Addr `json:"source,omitzero"`
	Destination     netip.Addr `json:"destination,omitzero"`
	SourcePort      uint16     `json:"sourcePort,omitempty"`
	DestinationPort uint16     `json:"destinationPort,omitempty"`
	Protocol        string     `json:"protocol,omitempty"` // tcp, udp, icmp/8/0, 47, or arp, 0x88cc of what is not IP
	TCPFlags        string     `json:"tcpFlags,omitempty"` // of F, S, R, P, A, U
	SourceMAC       attach.MAC `json:"sourceMAC,omitempty"`
	DestinationMAC  attach.MAC `json:"destinationMAC,omitempty"`
	Length          uint32     `json:"length,omitempty"` // of the frame, bytes
	// Rule decided, or had allowed the connection that ends, or cuts it (PolicyChanged);
	// absent: no rule was asked.
	Rule *EventRule `json:"rule,omitempty"`
	// Monitored would have decided instead, were it not in state Monitor.
	Monitored *EventRule `json:"monitored,omitempty"`
}

// EventRule is a rule, or a network's defaultAction if it has no policy.
type EventRule struct {
	Policy  string `json:"policy,omitempty"`
	ID      uint32 `json:"id,omitempty"`
	Network string `json:"network,omitempty"` // of a defaultAction
	Action  string `json:"action"`
	Label   string `json:"label,omitempty"` // logLabel
	Log     bool   `json:"log,omitempty"`   // it writes lines to the rule log
}

// DefaultHits is what a network's defaultAction judged.
type DefaultHits struct {
	Network string `json:"network"` // "" is ports without a network
	Action  string `json:"action"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// LastHit is as in Rule.
	LastHit time.Time `json:"lastHit,omitzero"`
}

// DropList is every drop counter that is not zero.
type DropList struct {
	TypeMeta `json:",inline"`
	Items    []Drop `json:"items"`
}

// Drop is one port's drops of one reason in one direction.
type Drop struct {
	attach.Key
	Interface string     `json:"interface"` // host end
	Pod       attach.Pod `json:"pod,omitzero"`
	Direction string     `json:"direction"` // In (to the VM) or Out
	Reason    string     `json:"reason"`
	Text      string     `json:"text"`
	Packets   uint64     `json:"packets"`
	Bytes     uint64     `json:"bytes"`
}
