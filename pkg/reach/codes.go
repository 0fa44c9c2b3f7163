package reach

// Code names what is wrong with a fabric. Its texts are in Codes, and nowhere else.
type Code string

// Severity of a finding.
type Severity string

// The severities, worst first.
const (
	Error   Severity = "error"   // VMs there will not be reached, or by the wrong ones
	Warning Severity = "warning" // not as it should be, or it could not be tested
	Info    Severity = "info"    // nothing to be done by itself
)

// Rank orders severities: 0 is none of them, more is worse.
func (s Severity) Rank() int {
	switch s {
	case Error:
		return 3
	case Warning:
		return 2
	case Info:
		return 1
	}
	return 0
}

// The codes.
const (
	LinkDown           Code = "LINK_DOWN"
	AgentAbsent        Code = "AGENT_ABSENT"
	ProbeNotSent       Code = "PROBE_NOT_SENT"
	BridgeDrift        Code = "BRIDGE_DRIFT"
	Loop               Code = "LOOP"
	VLANLeak           Code = "VLAN_LEAK"
	NativeVLANMismatch Code = "NATIVE_VLAN_MISMATCH"
	NotTrunked         Code = "NOT_TRUNKED"
	OneWay             Code = "ONE_WAY"
	PeersFiltered      Code = "PEERS_FILTERED"
	MACFiltered        Code = "MAC_FILTERED"
	MTUBelowIntent     Code = "MTU_BELOW_INTENT"
	GatewaySilent      Code = "GATEWAY_SILENT"
	GatewayFiltered    Code = "GATEWAY_FILTERED"
	TargetSilent       Code = "TARGET_SILENT"
	DuplicateAddress   Code = "DUPLICATE_ADDRESS"
	DuplicateMAC       Code = "DUPLICATE_MAC"
	DHCPSilent         Code = "DHCP_SILENT"
	DHCPRogue          Code = "DHCP_ROGUE"
	RAUnexpected       Code = "RA_UNEXPECTED"
	LLDPAbsent         Code = "LLDP_ABSENT"
	LLDPVLANMissing    Code = "LLDP_VLAN_MISSING"
	NoPeer             Code = "NO_PEER"
)

// CodeText is what is said of a code.
type CodeText struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	// Meaning in one sentence; How it is known; Next is what to do, the first step first.
	Meaning string `json:"meaning"`
	How     string `json:"how"`
	Next    string `json:"next"`
}

// Codes are all, those first that have others masked (see conclude.go).
var codes = [...]CodeText{
	{LinkDown, Error, "The uplink is down, or has no carrier.",
		"The kernel says so of the interface. Nothing is sent there, and nothing else is said of it.",
		"See ip link on the node: bring the interface up, or see to cable and switch port."},
	{AgentAbsent, Warning, "A node's agent did not take part, so nothing is known of the node's VLANs.",
		"It could not be reached, did not answer in time, has another key, or is of another version; the evidence says which.",
		"See that bridge-agent runs there (kubectl -n homeport-system get pods -o wide), that the agents' port (TCP 9748) is open between nodes, and that all have the same key (in Kubernetes the Secret homeport-fabric-key)."},
	{ProbeNotSent, Warning, "The node could not send in this VLAN, so nothing is known of it there.",
		"The interface refused the frames; the evidence has its words.",
		"See homeportctl status on the node, and the log of its agent."},
	{BridgeDrift, Error, "The node's own bridge is not as the trunk wants it: look there before the switch.",
		"The agent compares the kernel's bridge with what is desired.",
		"See homeportctl status and homeportctl vlans on the node, and who else manages its network."},
	{Loop, Error, "Frames come back to where they came from.",
		"The node heard its own hello, in the VLAN in which it had sent it. Spanning tree should have cut that way. Switches tell of the same as MACs that flap.",
		"Find the second way between the switches, or the device that reflects; see spanning tree's state of the VLAN on the switch. A bond to two switches that are not one takes LACP, or active-backup."},
	{VLANLeak, Error, "What is sent in one VLAN arrives in another.",
		"Hellos that were sent with one tag came with another. They say in themselves what they were sent with.",
		"Look for a cable between access ports of the two VLANs, or for VLAN translation on a switch."},
	{NativeVLANMismatch, Error, "The switch port takes untagged frames for another VLAN than the node does.",
		"A hello that was sent tagged came without a tag, or one sent without came in another VLAN; or the switch's own LLDP says so.",
		"Set the native VLAN of the switch port as uplink.nativeVLAN of the VLANTrunk has it, or the other way round. On a Cisco: switchport trunk native vlan ID."},
	{NotTrunked, Error, "The VLAN does not get to this node, nor from it.",
		"Peers hear each other's hellos in the VLAN, and none hears this node's, nor this node theirs.",
		"Allow the VLAN on the switch port that the node is at, and on the links between switches. On a Cisco: switchport trunk allowed vlan add ID."},
	{OneWay, Error, "Frames pass in one direction alone.",
		"Peers hear this node, and it does not hear them, or the other way round.",
		"Look for filters of one direction: access lists, storm control, a fibre with one dead strand (see UDLD), a bond whose members go to different switches without LACP."},
	{PeersFiltered, Error, "Nodes reach the gateway, or hosts of the VLAN, but not each other.",
		"Both have an answer from the gateway, or others hear both, and neither's hello gets to the other.",
		"See whether the switch isolates ports (private VLAN, protected ports) or drops the EtherType 0x88B5."},
	{MACFiltered, Error, "The way lets the uplink's own MAC pass and no other, so VMs are cut off.",
		"Hellos from the uplink's MAC arrive; those from or to another MAC of the node do not.",
		"Switch port security off, or raise its number of MACs; see that all links of a bond carry the VLAN. If the node is a VM itself: have its virtual switch accept forged transmits, MAC changes and promiscuous mode."},
	{MTUBelowIntent, Error, "Frames as large as the network's MTU do not pass.",
		"Small hellos arrive, those of full size do not; the largest size that passed is told. To a gateway, if one is named: it answers smaller echo requests, and none of full size, also when that is asked again alone.",
		"Raise the MTU of the switch port or of the link that is named, or lower mtu of the VLANNetwork. Where a gateway is named, see first whether it limits large or many echo requests."},
	{GatewaySilent, Error, "Nobody gets an answer from the gateway.",
		"All nodes on which the VLAN works asked for its address by ARP or ND, several times in all.",
		"See that the gateway is up, has this address and is in this VLAN; that subnets[].gateway of the VLANNetwork is right; and that no switch drops ARP without a sender's address."},
	{GatewayFiltered, Error, "The gateway answers other nodes and not this one, though the VLAN works here.",
		"The node hears its peers and they hear it; they have the gateway's answer, and it has none, though it asked in the same way: from no address, or from one of reachability.sources.",
		"Look for filters at the node's switch port: dynamic ARP inspection, IP source guard, access lists; in many VLANs at once, for a limit of ARP on the router: try fewer --vlan, or a --max-pps below 10."},
	{TargetSilent, Error, "A host that should be reachable does not answer.",
		"It was asked by ARP or ND from addresses of reachability.sources, several times, on nodes on which the VLAN works. Where nodes are named, it answers others and not these.",
		"See that the host is up, has this address and is in this VLAN, and that reachability.targets of the VLANNetwork is right; where nodes are named, look for filters at their switch ports."},
	{DuplicateAddress, Error, "Two stations say that they have the same address.",
		"Answers for one address, of a gateway or a target, came from more than one MAC, to one and the same question, which was asked alone and more than once. An address of reachability.sources is asked for before it is used, and is not used then.",
		"Find both MACs in the switches' tables, and give one of the two another address; of a source, name another in reachability.sources."},
	{DuplicateMAC, Error, "Two stations have the same MAC.",
		"Two nodes' uplinks have it, or frames from a MAC of this node came from the wire. Switches call it a MAC that flaps; where that comes of a loop it is LOOP.",
		"Find the MAC in the switches' tables and logs: a cloned VM or node, or one that still runs where it was moved from. Give one of the two another MAC."},
	{DHCPSilent, Error, "No DHCP server makes an offer.",
		"DISCOVERs were sent on purpose, since the check was asked to; nothing is taken of what is offered.",
		"See to the DHCP server of this VLAN, or to the relay on its gateway."},
	{DHCPRogue, Error, "A DHCP server offers addresses that should not.",
		"An offer came from a server that reachability.dhcpServers of the VLANNetwork does not name; or, where it names none, from more than one.",
		"Find the server's MAC in the switches' tables; if it is right, name it in reachability.dhcpServers."},
	{RAUnexpected, Warning, "A router that nobody knows advertises itself to IPv6 hosts.",
		"A router advertisement was heard whose sender is no gateway of the network.",
		"Find the router's MAC in the switches' tables; if it is right, name it as a gateway in subnets of the VLANNetwork."},
	{LLDPAbsent, Info, "The switch does not say which port this is, though it tells other nodes.",
		"No LLDP was heard at the uplink for longer than switches wait between two frames; peers on the same trunk hear it.",
		"Enable LLDP on the switch port, so that findings can name it."},
	{LLDPVLANMissing, Warning, "The switch port, by its own word, does not carry the VLAN.",
		"Its LLDP lists VLANs, and this one is not among them; there is no peer, and no gateway is known, to show that it works, or that it does not.",
		"Compare the switch port's allowed VLANs with uplink.allowedVLANs of the VLANTrunk."},
	{NoPeer, Info, "The VLAN could not be tested: no other node has it, and no gateway is known.",
		"It takes two ends to see what passes between.",
		"Name the gateway in subnets of the VLANNetwork, or run the check when another node has the VLAN."},
}

// Codes are all codes with their texts.
func Codes() []CodeText { return append([]CodeText(nil), codes[:]...) }

// Text finds a code's texts.
func (c Code) Text() (CodeText, bool) {
	for _, t := range codes {
		if t.Code == c {
			return t, true
		}
	}
	return CodeText{}, false
}
