// Package desired is what the node should be: an immutable snapshot of trunks,
// networks and policies, with what is wrong with the objects it was read from.
// A directory of manifests is one source of it, the Kubernetes API another.
// Everything behind the snapshot is the same for both.
package desired

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Trunk is a node's bridge and the uplink behind it.
type Trunk struct {
	Name          string   `json:"name"`
	Bridge        string   `json:"bridge"`
	Managed       bool     `json:"managed"` // we create the bridge; else it is adopted and only checked
	Uplink        string   `json:"uplink,omitempty"`
	AllowedVLANs  vlan.Set `json:"allowedVLANs"`
	NativeVLAN    vlan.ID  `json:"nativeVLAN,omitempty"` // of the uplink; 0 is none
	MTU           int      `json:"mtu,omitempty"`        // bytes; 0 takes the uplink's
	Management    vlan.Set `json:"managementVLANs,omitzero"`
	InlineAllowed bool     `json:"inlineAllowed"`        // a CNI config may name the bridge and VLANs itself
	Bypass        bool     `json:"bypass,omitempty"`     // its frames bypass the host's iptables
	NoFastPath    bool     `json:"noFastPath,omitempty"` // all goes by the bridge
	Resource      bool     `json:"resource,omitempty"`   // healthy nodes offer homeport.dev/<name>
	Kept          bool     `json:"kept,omitempty"`       // as Network.Kept
}

// Network is one VLAN, or a set for guests that tag, on a trunk.
type Network struct {
	Name    string        `json:"name"`
	Trunk   string        `json:"trunk"`
	Mode    vlan.Mode     `json:"mode"`
	PVID    vlan.ID       `json:"pvid,omitempty"` // access or native VLAN
	Tagged  vlan.Set      `json:"tagged,omitzero"`
	MTU     int           `json:"mtu,omitempty"` // bytes; 0 takes the trunk's
	Default policy.Action `json:"default"`
	// Cluster: the cluster's ClusterNetworkPolicies are for its ports.
	Cluster bool     `json:"cluster,omitempty"`
	Subnets []Subnet `json:"subnets,omitempty"`
	// Addressing is how addresses of its NICs become known; see Learn.
	Addressing Addressing `json:"addressing,omitzero"`
	Reach      Reach      `json:"reach,omitzero"`
	// Security is what its guests are kept to, but for what an exception says.
	Security   attach.Security `json:"security,omitzero"`
	Exceptions []Exception     `json:"exceptions,omitempty"`
	// Namespaces that may use it, sorted; nil is all.
	Namespaces []string `json:"namespaces,omitzero"`
	// Kept says that the source has it no more, but living ports use it. The
	// agent sets it.
	Kept bool `json:"kept,omitempty"`
}

// Subnet is where a network's NICs have their addresses.
type Subnet struct {
	CIDR    netip.Prefix `json:"cidr"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
}

// Reach is what checks of the fabric ask for on a network, beside its gateways.
type Reach struct {
	DHCP        bool         `json:"dhcp,omitempty"`
	DHCPServers []netip.Addr `json:"dhcpServers,omitempty"` // none: any one
	// Required: its resource is offered only where checks find its VLANs well.
	Required bool `json:"required,omitempty"`
	// Sources are the addresses that a node asks from, by its name; Targets are hosts that must answer.
	Sources map[string][]netip.Addr `json:"sources,omitempty"`
	Targets []netip.Addr            `json:"targets,omitempty"`
}

// Check is a ReachabilityCheck.
type Check struct {
	Name string `json:"name"`
	// Every is from the end of a run to the next; 0 is when asked alone. Run is new for each run that is asked for.
	Every time.Duration `json:"every,omitempty"`
	Run   string        `json:"run,omitempty"`
	// Networks, Nodes by name and VLANs; none is all. Far are those of Networks that other nodes alone have.
	Networks []string `json:"networks,omitempty"`
	Far      []string `json:"far,omitempty"`
	Nodes    []string `json:"nodes,omitempty"`
	VLANs    vlan.Set `json:"vlans,omitzero"`
	Skip     []string `json:"skip,omitempty"` // tests
	MaxPPS   int      `json:"maxPPS,omitempty"`
}

// Covers says that the check looks again and again whether a network can be reached, in all its VLANs and on all nodes.
func (c *Check) Covers(network string) bool {
	return c.Every > 0 && len(c.Nodes) == 0 && c.VLANs.Empty() && (len(c.Networks) == 0 || slices.Contains(c.Networks, network)) && !slices.Contains(c.Skip, "trunk")
}

// Policy is a FirewallPolicy whose rules are ready to be judged.
type Policy struct {
	Name     string     `json:"name"`
	Category string     `json:"category"`
	Rank     int        `json:"rank"` // category's place in the order, 0 first
	Order    int64      `json:"order"`
	Networks []string   `json:"networks,omitempty"` // appliedTo
	VMs      []Selector `json:"vms,omitempty"`      // appliedTo by label
	NICs     []NICs     `json:"nics,omitempty"`     // the same, on one network alone
	// AddressSets are appliedTo for what is of their addresses. Without any of these it is Any.
	AddressSets []string      `json:"addressSets,omitempty"`
	Subject     *Subject      `json:"subject,omitempty"` // of a ClusterNetworkPolicy, which has neither
	Rules       []policy.Rule `json:"rules"`
}

// plainPolicy is Policy without its methods.
type plainPolicy Policy

// storedPolicy has the rank as text, which versions cannot read that do not know what such a
// policy is applied to: they would take it for one for any port.
type storedPolicy struct {
	*plainPolicy
	Rank json.RawMessage `json:"rank"`
}

// MarshalJSON writes the policy as its fields say, but see storedPolicy.
func (p Policy) MarshalJSON() ([]byte, error) {
	if len(p.NICs)+len(p.AddressSets) == 0 {
		return json.Marshal(plainPolicy(p))
	}
	plain := plainPolicy(p)
	return json.Marshal(storedPolicy{&plain, fmt.Appendf(nil, `"%d"`, p.Rank)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *Policy) UnmarshalJSON(text []byte) error {
	s := storedPolicy{plainPolicy: (*plainPolicy)(p)}
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	if len(p.Rules) < cap(p.Rules) { // by half, as decoding made room: what is kept is kept for long
		p.Rules = append(make([]policy.Rule, 0, len(p.Rules)), p.Rules...)
	}
	if s.Rank == nil {
		return nil
	}
	return json.Unmarshal(bytes.Trim(s.Rank, `"`), &p.Rank)
}

// NICs are those of VMs on a network.
type NICs struct {
	Network string   `json:"network"`
	VMs     Selector `json:"vms"`
}

// AddressSet is a named list of addresses that rules name. That of a VLANNetwork's
// subnets is one, too, by [SubnetsOf] its name.
type AddressSet struct {
	Name     string             `json:"name"`
	Ranges   []policy.AddrRange `json:"ranges,omitempty"`   // its own, as policy.MergeRanges has them
	Includes []string           `json:"includes,omitempty"` // other sets, sorted
}

// ServiceSet is a named list of services that rules name.
type ServiceSet struct {
	Name     string           `json:"name"`
	Services []policy.Service `json:"services,omitempty"` // its own
	Includes []string         `json:"includes,omitempty"` // other sets, sorted
}

// Problem is one thing that is wrong with one object or file.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"` // 1-based; 0 is unknown
	Kind    string `json:"kind,omitempty"`
	Name    string `json:"name,omitempty"`
	Field   string `json:"field,omitempty"` // path, as spec.rules[2].services[0].ports
	Message string `json:"message"`         // what is wrong and what would be right
	// Kept says that the object's last good version stays in force.
	Kept bool `json:"kept"`
}

// String gives the problem on one line, as a compiler would.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	for _, part := range []string{strings.TrimSpace(p.Kind + " " + p.Name), p.Field, p.Message} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	if p.Kept {
		b.WriteString(" (the last good version stays in force)")
	}
	return b.String()
}

// Snapshot is immutable once handed on.
type Snapshot struct {
	// Revision rises with every change of trunks, networks or policies (of either kind), also
	// across restarts if the snapshot is stored; not with one of Problems.
	Revision uint64             `json:"revision"`
	Trunks   map[string]Trunk   `json:"trunks"`
	Networks map[string]Network `json:"networks"`
	Policies []Policy           `json:"policies"` // in the order of judgement
	// Sets are those that Policies name, and those that these include.
	Sets map[string]AddressSet `json:"sets,omitempty"`
	// ServiceSets are the same for services.
	ServiceSets map[string]ServiceSet `json:"serviceSets,omitempty"`
	// lists are the AddressSets that rules name, with all that is included, and
	// serviceLists the ServiceSets.
	lists        map[string]expanded
	serviceLists map[string][]policy.Service
	// PodPolicies are the cluster's MultiNetworkPolicies, by namespace and name.
	PodPolicies []PodPolicy `json:"podPolicies,omitempty"`
	// Pods are those of this node, by namespace/name, where policies select by
	// label; else it is empty. The Revision does not rise with them.
	Pods map[string]Pod `json:"pods,omitempty"`
	// Checks of the fabric, by name. The Revision does not rise with them.
	Checks map[string]Check `json:"checks,omitempty"`
	// Identities of NICs on all nodes, sorted by namespace and name; a directory of manifests has none. The
	// Revision does not rise with them.
	Identities []Identity `json:"identities,omitempty"`
	Problems   []Problem  `json:"problems,omitempty"`
	// Elsewhere has the VLANNetworks that other nodes have and this one has not, each
	// with its trunk: to tell those who ask for them here. The Revision does not rise
	// with them.
	Elsewhere map[string]string `json:"elsewhere,omitempty"`
	// Stale says that the source cannot be read any more and all this is what it
	// last said; nil is up to date.
	Stale *Stale `json:"stale,omitempty"`
}

// Stale says since when and why desired state is not what the source says now.
type Stale struct {
	Since time.Time `json:"since"`
	// Reason is ReasonEmpty or ReasonUnreadable.
	Reason string `json:"reason"`
	// Message names the source, what is wrong and what would be right.
	Message string `json:"message"`
}

// Why desired state is stale.
const (
	ReasonEmpty      = "SourceEmpty"
	ReasonUnreadable = "SourceUnreadable"
)
