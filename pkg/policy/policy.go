// Package policy holds the firewall's meaning, free of how it is enforced: the
// rules of one network in the order in which they are judged, the packet as a
// rule sees it, and [Evaluate], the slow and obviously right evaluator that the
// compiled form and the port program are compared with.
package policy

import (
	"net/netip"
	"slices"
)

// Action is what a rule, or a network's default, does with a packet.
// The values are those of enum hp_action in bpf/include/abi.h.
type Action uint8

// The actions. Reject drops, and tells the sender; Pass has the next tier decide. Both
// are of rules alone.
const (
	Drop   Action = 0
	Allow  Action = 1
	Reject Action = 2
	Pass   Action = 3
)

// Direction is the port's view of a packet: In goes to the VM, Out comes from it.
// The values are those of enum hp_dir in bpf/include/abi.h.
type Direction uint8

// The two directions; a rule for both says so with [Directions].
const (
	Out Direction = 0
	In  Direction = 1
)

// Directions is a set of directions, bit 1<<Direction.
type Directions uint8

// The sets that FirewallPolicy can name.
const (
	OnlyOut Directions = 1 << Out
	OnlyIn  Directions = 1 << In
	InOut   Directions = OnlyOut | OnlyIn
)

// Has says whether d is in the set.
func (s Directions) Has(d Direction) bool { return s&(1<<d) != 0 }

// AddrRange is an inclusive range of addresses of one family, First <= Last.
// A single IP has First == Last. IPv4 is unmapped (Is4).
type AddrRange struct {
	First, Last netip.Addr
}

// Contains says whether a (IPv4 unmapped) lies in the range.
func (r AddrRange) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Protocol numbers (IANA) of which services can name a part.
const (
	ICMP   uint8 = 1
	TCP    uint8 = 6
	UDP    uint8 = 17
	ICMPv6 uint8 = 58
	SCTP   uint8 = 132
)

// HasPorts says whether packets of an IP protocol have ports that rules know.
func HasPorts(protocol uint8) bool { return protocol == TCP || protocol == UDP || protocol == SCTP }

// HasTypes says whether packets of an IP protocol have types and codes.
func HasTypes(protocol uint8) bool { return protocol == ICMP || protocol == ICMPv6 }

// Service is one line of a rule's services: an IP protocol, and an inclusive range of
// what its packets have. For TCP, UDP and SCTP, First and Last are destination ports
// (0-65535). For ICMP and ICMPv6 they are type<<8|code, so "type 3, any code" is
// 0x0300-0x03ff. 0-0xffff is all of the protocol, also packets of which no more than
// that is known (non-first fragments), and all that there is of other protocols.
type Service struct {
	Protocol    uint8
	First, Last uint16
	// SourceFirst and SourceLast are source ports of TCP, UDP and SCTP, from 1 on.
	// Both 0 is any.
	SourceFirst, SourceLast uint16
	// Flags are those of TCP.
	Flags TCPFlags
	// EtherType is what a frame carries, behind its 802.1Q tag: a service of Ethernet rules, and
	// all else is 0 then. 0 is a service of the others.
	EtherType uint16
}

// TCPFlags says which flags of a TCP header must be how: those of Mask as in Set, which
// has no others. Bits are those of the header: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE
// 64, CWR 128. The zero TCPFlags is any.
type TCPFlags struct{ Mask, Set uint8 }

// Match says whether a header's flags are right.
func (f TCPFlags) Match(flags uint8) bool { return flags&f.Mask == f.Set }

// SYN are the flags of the packet that opens a TCP connection.
const SYN uint8 = 2

// Whole says whether the service is all of its protocol.
func (s Service) Whole() bool {
	return s.First == 0 && s.Last == 0xffff && s.SourceLast == 0 && s.Flags == TCPFlags{}
}

// RuleKey names a rule for people and for counters: ids are unique and stable
// within their FirewallPolicy.
type RuleKey struct {
	Policy string // FirewallPolicy's name; "" with ID 0 is a network's default action
	ID     uint32
	// Network is set only for a default action's key: the network's name.
	Network string
}

// EtherTypes (IANA) that are more than a number here.
const (
	EtherIPv4 uint16 = 0x0800
	EtherARP  uint16 = 0x0806
	EtherRARP uint16 = 0x8035
	EtherIPv6 uint16 = 0x86dd
	// EtherMin is the lowest; what is below in a frame is a length (IEEE 802.3).
	EtherMin uint16 = 0x0600
)

// Rule matches a packet when its direction, sources, destinations and services
// all do. Peers are addresses, and those of the address sets that are named with
// them; services likewise. Without either (both nil) they are Any, and match
// everything, also what is not IP; an empty, non-nil list matches nothing.
//
// An Ethernet rule is about frames: its addresses are MACs as [MACAddr] has them, and its
// services EtherTypes. Ethernet rules are judged before the others, frame by frame, and know no
// connections.
type Rule struct {
	Key          RuleKey
	Name         string
	Action       Action
	Directions   Directions
	Sources      []AddrRange
	Destinations []AddrRange
	Services     []Service
	// SourceSets and DestinationSets are keys of the Lists of the rule's Set, and
	// ServiceSets of its ServiceLists.
	SourceSets      []string `json:",omitempty"`
	DestinationSets []string `json:",omitempty"`
	ServiceSets     []string `json:",omitempty"`
	// LocalSets are keys of Lists, too. If there are any, the packet's address at the VM's side, which is
	// the source of what goes Out and the destination of what comes In, must be in one of them.
	LocalSets []string `json:",omitempty"`
	// NotSources and NotDestinations turn a side round: every address matches that is
	// not among its peers, of either family. What is not IP has none, and matches not.
	// It means nothing where the peers are Any.
	NotSources      bool `json:",omitempty"`
	NotDestinations bool `json:",omitempty"`
	// Implied: nobody wrote the rule; it says for some packets what a default says for
	// all. It decides as any other.
	Implied bool `json:",omitempty"`
	// Tier is the tier of rules to which the rule belongs; those of a Set stand in the
	// order of their tiers. A Pass rule leads behind its own.
	Tier uint8 `json:",omitempty"`
	// Stateless: what it allows is no connection. Each packet is judged by itself, also
	// those of TCP that open none, and what answers is.
	Stateless bool `json:",omitempty"`
	// Loose: TCP that it allows is a connection also where its opening SYN was not seen.
	Loose bool `json:",omitempty"`
	// Firm: an Allow keeps the connections that it has allowed when rules change; a Drop or Reject ends
	// such connections, too.
	Firm bool `json:",omitempty"`
	// Log: what it decides is told, marked with LogLabel.
	Log      bool   `json:",omitempty"`
	LogLabel string `json:",omitempty"`
	// Disabled: it matches nothing.
	Disabled bool `json:",omitempty"`
	// Ethernet: it is about frames.
	Ethernet bool `json:",omitempty"`
	// Monitored: it decides nothing. What it would have decided is counted. There
	// is none behind a Pass rule of its tier.
	Monitored bool `json:",omitempty"`
}

// Set is the effective policy of a network's ports, or of some of them: its
// rules, most important first (category, then policy order, then policy name,
// then place in the policy), and what happens to a packet that none matches.
type Set struct {
	Network string // VLANNetwork's name; "" is what ports without a network get
	// Variant tells the sets of one network apart where policies select ports by
	// label: a hash in hex of which ones do; "" is that none does.
	Variant string `json:",omitempty"`
	Rules   []Rule
	Default Action
	// Lists are the addresses of what rules name by SourceSets, DestinationSets and LocalSets.
	// Equal lists of different sets are best one slice: then they are read once.
	Lists map[string][]AddrRange `json:"-"` // [StoredSets] keeps them
	// ServiceLists are the services of what rules name by ServiceSets.
	ServiceLists map[string][]Service `json:",omitempty"`
}

// ID names the set on its node, in at most 255 bytes: the network's name, and
// behind a slash, which no name has, the variant. The name may be cut short
// there, as the variant is of one network.
func (s *Set) ID() string {
	if s.Variant == "" {
		return s.Network
	}
	const most = 255 - 1 - 16
	return s.Network[:min(len(s.Network), most)] + "/" + s.Variant
}

// Packet is what rules see of a packet.
type Packet struct {
	Direction Direction
	// SrcMAC, DstMAC and EtherType are of its frame, and what Ethernet rules see.
	SrcMAC, DstMAC MAC
	EtherType      uint16
	// IP says whether Src, Dst and Protocol hold anything; a rule can match
	// other frames only with Any in every list.
	IP       bool
	Src, Dst netip.Addr // IPv4 unmapped
	Protocol uint8      // after IPv6 extension headers
	// HasService says whether Service holds the destination port of TCP, UDP or SCTP,
	// and SourcePort the source's, or Service the ICMP type<<8|code. False for other
	// protocols and for non-first fragments, which only services that are all of
	// their protocol can match.
	HasService bool
	Service    uint16
	SourcePort uint16
	// Flags of TCP, where HasService is; see [TCPFlags].
	Flags uint8
}

// Verdict is what Evaluate decided and which rule decided it.
type Verdict struct {
	Action Action
	// Rule is the index in Set.Rules of the rule that matched, or -1 when the
	// default action decided.
	Rule int
	// Passed are the indexes of the rules on the way that had the next ones decide: Pass
	// rules, and the Ethernet rule that allowed the frame of an IP packet.
	Passed []int
	// Monitored are the indexes of the monitored rules that would have decided instead: of the
	// Ethernet rules and of the others the first that matches, if it stands before the one
	// that did.
	Monitored []int
}

// MonitoredOne is the one of Monitored that is told of p, or -1: that of the frame, if it writes a
// line or is alone. logs says that it writes one: of a frame that is IP only the rule that would drop
// it does.
func (v *Verdict) MonitoredOne(set *Set, p Packet) (rule int, logs bool) {
	for _, rule = range v.Monitored {
		r := &set.Rules[rule]
		if logs = r.Log && !(r.Ethernet && r.Action == Allow && p.IP); logs {
			return rule, true
		}
	}
	if len(v.Monitored) == 0 {
		return -1, false
	}
	return rule, false
}

// Matched are the indexes of all rules that the verdict names.
func (v *Verdict) Matched() []int {
	out := slices.Concat(v.Passed, v.Monitored)
	if v.Rule >= 0 {
		out = append(out, v.Rule)
	}
	return out
}
