package desired

import (
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// ranks are the categories' places in the whole order of judgement. Those in
// between belong to other kinds of policy.
func rank(c v1alpha1.Category) int {
	switch c {
	case v1alpha1.CategoryEthernet:
		return 0
	case v1alpha1.CategoryEmergency:
		return 1
	case v1alpha1.CategoryInfrastructure:
		return 2
	case v1alpha1.CategoryEnvironment:
		return 3
	default: // Application; 4 and 7 are ClusterNetworkPolicy's tiers, and 5 is MultiNetworkPolicy
		return 6
	}
}

// FromTrunk checks an object and turns it into what it means.
func FromTrunk(o *v1alpha1.VLANTrunk) (Trunk, field.ErrorList) {
	o.Default()
	if errs := v1alpha1.ValidateVLANTrunk(o); len(errs) > 0 {
		return Trunk{}, errs
	}
	t := Trunk{
		Name:          o.Name,
		Bridge:        o.Spec.Bridge.Name,
		Managed:       *o.Spec.Bridge.Managed,
		Uplink:        o.Spec.Uplink.Interface,
		MTU:           int(deref(o.Spec.MTU)),
		NativeVLAN:    vlan.ID(deref(o.Spec.Uplink.NativeVLAN)),
		InlineAllowed: o.Spec.InlineConfig == v1alpha1.InlineAllow,
		Bypass:        o.Spec.HostFirewall == v1alpha1.HostFirewallBypass,
		NoFastPath:    o.Spec.FastPath == v1alpha1.FastPathOff,
	}
	var errs field.ErrorList
	t.AllowedVLANs = must(&errs, "spec.uplink.allowedVLANs", vlan.ParseSet, o.Spec.Uplink.AllowedVLANs)
	t.Management = must(&errs, "spec.managementVLANs", vlan.ParseSet, o.Spec.ManagementVLANs)
	return t, errs
}

// FromNetwork checks an object and turns it into what it means.
func FromNetwork(o *v1alpha1.VLANNetwork) (Network, field.ErrorList) {
	o.Default()
	if errs := v1alpha1.ValidateVLANNetwork(o); len(errs) > 0 {
		return Network{}, errs
	}
	var errs field.ErrorList
	n := Network{
		Name:    o.Name,
		Trunk:   o.Spec.Trunk,
		Mode:    must(&errs, "spec.vlan.mode", vlan.ParseMode, string(o.Spec.VLAN.Mode)),
		PVID:    vlan.ID(deref(o.Spec.VLAN.ID)),
		MTU:     int(deref(o.Spec.MTU)),
		Default: action(o.Spec.DefaultAction),
	}
	tagged, _, err := v1alpha1.ParseTrunk(o.Spec.VLAN.Trunk)
	n.Tagged = tagged
	collect(&errs, "spec.vlan.trunk", err)
	for _, s := range o.Spec.Subnets {
		subnet := Subnet{CIDR: must(&errs, "spec.subnets", v1alpha1.ParseCIDR, s.CIDR)}
		if s.Gateway != "" {
			subnet.Gateway = must(&errs, "spec.subnets", v1alpha1.ParseIP, s.Gateway)
		}
		n.Subnets = append(n.Subnets, subnet)
	}
	if a := o.Spec.Addressing; a != nil {
		n.Addressing = addressingOf(&errs, a)
	}
	if r := o.Spec.Reachability; r != nil {
		n.Reach = reachOf(&errs, r)
	}
	n.Security, n.Exceptions = securityOf(o.Spec.PortSecurity)
	return n, errs
}

func reachOf(errs *field.ErrorList, r *v1alpha1.Reachability) Reach {
	out := Reach{DHCP: r.DHCP == v1alpha1.SwitchEnabled, Required: r.Required}
	for _, s := range r.DHCPServers {
		out.DHCPServers = append(out.DHCPServers, must(errs, "spec.reachability.dhcpServers", v1alpha1.ParseIP, s))
	}
	for _, s := range r.Sources {
		if out.Sources == nil {
			out.Sources = map[string][]netip.Addr{}
		}
		for _, a := range s.Addresses {
			out.Sources[s.Node] = append(out.Sources[s.Node], must(errs, "spec.reachability.sources", v1alpha1.ParseIP, a))
		}
	}
	for _, t := range r.Targets {
		out.Targets = append(out.Targets, must(errs, "spec.reachability.targets", v1alpha1.ParseIP, t))
	}
	return out
}

// FromPolicy checks an object and turns it into what it means.
func FromPolicy(o *v1alpha1.FirewallPolicy) (Policy, field.ErrorList) {
	o.Default()
	if errs := v1alpha1.ValidateFirewallPolicy(o); len(errs) > 0 {
		return Policy{}, errs
	}
	p := Policy{
		Name:     o.Name,
		Category: string(o.Spec.Category),
		Rank:     rank(o.Spec.Category),
		Order:    o.Spec.Order,
		Rules:    make([]policy.Rule, 0, len(o.Spec.Rules)),
	}
	var errs field.ErrorList
	for _, a := range o.Spec.AppliedTo {
		switch {
		case a.AddressSet != "":
			p.AddressSets = append(p.AddressSets, a.AddressSet)
		case a.Network != "" && a.VM != nil:
			p.NICs = append(p.NICs, NICs{a.Network, must(&errs, "spec.appliedTo", NewSelector, a.VM)})
		case a.Network != "":
			p.Networks = append(p.Networks, a.Network)
		case a.VM != nil:
			p.VMs = append(p.VMs, must(&errs, "spec.appliedTo", NewSelector, a.VM))
		}
	}
	slices.Sort(p.AddressSets)
	for i := range o.Spec.Rules {
		r := &o.Spec.Rules[i]
		firm := o.Spec.Sticky
		if r.Action != v1alpha1.ActionAllow {
			firm = o.Spec.Category == v1alpha1.CategoryEmergency
		}
		p.Rules = append(p.Rules, policy.Rule{
			Key:             policy.RuleKey{Policy: o.Name, ID: uint32(r.ID)},
			Ethernet:        o.Spec.Category == v1alpha1.CategoryEthernet,
			Name:            r.Name,
			Action:          action(r.Action),
			Directions:      directions(r.Direction),
			Sources:         peers(&errs, r.Sources),
			SourceSets:      setsOf(r.Sources),
			Destinations:    peers(&errs, r.Destinations),
			DestinationSets: setsOf(r.Destinations),
			NotSources:      r.SourcesExcluded,
			NotDestinations: r.DestinationsExcluded,
			Services:        services(&errs, r.Services),
			ServiceSets:     serviceSets(r.Services),
			Stateless:       o.Spec.Stateful != nil && !*o.Spec.Stateful,
			Loose:           o.Spec.TCPStrict != nil && !*o.Spec.TCPStrict,
			Firm:            firm,
			Disabled:        r.State == v1alpha1.RuleDisabled,
			Monitored:       r.State == v1alpha1.RuleMonitor,
			Log:             r.Log,
			LogLabel:        r.LogLabel,
		})
	}
	return p, errs
}

// FromAddressSet checks an object and turns it into what it means.
func FromAddressSet(o *v1alpha1.AddressSet) (AddressSet, field.ErrorList) {
	if errs := v1alpha1.ValidateAddressSet(o); len(errs) > 0 {
		return AddressSet{}, errs
	}
	var errs field.ErrorList
	s := AddressSet{Name: o.Name, Ranges: make([]policy.AddrRange, 0, len(o.Spec.Addresses)), Includes: slices.Sorted(slices.Values(o.Spec.Includes))}
	for _, text := range o.Spec.Addresses {
		first, last, err := v1alpha1.ParseSpan(text)
		collect(&errs, "spec.addresses", err)
		s.Ranges = append(s.Ranges, policy.AddrRange{First: first, Last: last})
	}
	s.Ranges = policy.MergeRanges(s.Ranges)
	return s, errs
}

// FromServiceSet checks an object and turns it into what it means.
func FromServiceSet(o *v1alpha1.ServiceSet) (ServiceSet, field.ErrorList) {
	if errs := v1alpha1.ValidateServiceSet(o); len(errs) > 0 {
		return ServiceSet{}, errs
	}
	var errs field.ErrorList
	return ServiceSet{Name: o.Name, Services: services(&errs, o.Spec.Services), Includes: slices.Sorted(slices.Values(o.Spec.Includes))}, errs
}

// FromCheck checks an object and turns it into what it means.
func FromCheck(o *v1alpha1.ReachabilityCheck) (Check, field.ErrorList) {
	if errs := v1alpha1.ValidateReachabilityCheck(o); len(errs) > 0 {
		return Check{}, errs
	}
	var errs field.ErrorList
	c := Check{Name: o.Name, Run: o.Spec.Run, Networks: slices.Sorted(slices.Values(o.Spec.Networks)),
		Nodes: slices.Sorted(slices.Values(o.Spec.Nodes)), Skip: slices.Sorted(slices.Values(o.Spec.Skip)), MaxPPS: int(deref(o.Spec.MaxPPS))}
	if o.Spec.Every != "" {
		c.Every = must(&errs, "spec.every", time.ParseDuration, o.Spec.Every)
	}
	c.VLANs = must(&errs, "spec.vlans", vlan.ParseSet, o.Spec.VLANs)
	return c, errs
}

// must parses what validation has passed already. Should there be a gap between
// the two, the object is refused instead of changing its meaning.
func must[T, U any](errs *field.ErrorList, path string, parse func(U) (T, error), text U) T {
	v, err := parse(text)
	collect(errs, path, err)
	return v
}

func collect(errs *field.ErrorList, path string, err error) {
	if err != nil {
		*errs = append(*errs, field.Invalid(field.NewPath(path), "", err.Error()))
	}
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func action(a v1alpha1.Action) policy.Action {
	switch a {
	case v1alpha1.ActionAllow:
		return policy.Allow
	case v1alpha1.ActionReject:
		return policy.Reject
	default:
		return policy.Drop
	}
}

func directions(d v1alpha1.Direction) policy.Directions {
	switch d {
	case v1alpha1.DirectionIn:
		return policy.OnlyIn
	case v1alpha1.DirectionOut:
		return policy.OnlyOut
	default:
		return policy.InOut
	}
}

// setsOf gives the address sets among peers, those of networks' subnets too, sorted; nil if there are none.
func setsOf(list []v1alpha1.Peer) []string {
	return names(list, func(p *v1alpha1.Peer) string {
		if p.Network != "" {
			return SubnetsOf(p.Network)
		}
		return p.AddressSet
	})
}

// serviceSets is setsOf for services.
func serviceSets(list []v1alpha1.Service) []string {
	return names(list, func(s *v1alpha1.Service) string { return s.ServiceSet })
}

func names[T any](list []T, of func(*T) string) (out []string) {
	for i := range list {
		if name := of(&list[i]); name != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// peers gives the addresses among peers, and nil for Any, as policy.Rule wants it.
func peers(errs *field.ErrorList, list []v1alpha1.Peer) []policy.AddrRange {
	var out []policy.AddrRange
	for _, p := range list {
		switch {
		case p.Any:
			return nil
		case p.AddressSet != "" || p.Network != "":
		case p.IP != "":
			a := must(errs, "spec.rules", v1alpha1.ParseIP, p.IP)
			out = append(out, policy.AddrRange{First: a, Last: a})
		case p.CIDR != "":
			c := must(errs, "spec.rules", v1alpha1.ParseCIDR, p.CIDR)
			out = append(out, policy.AddrRange{First: c.Addr(), Last: v1alpha1.LastOf(c)})
		case p.MAC != "":
			out = append(out, must(errs, "spec.rules", policy.ParseMACs, p.MAC))
		default:
			first, last, err := v1alpha1.ParseRange(p.Range)
			collect(errs, "spec.rules", err)
			out = append(out, policy.AddrRange{First: first, Last: last})
		}
	}
	return out
}

// services gives nil for Any, as policy.Rule wants it.
func services(errs *field.ErrorList, list []v1alpha1.Service) []policy.Service {
	var out []policy.Service
	for _, s := range list {
		if s.Any {
			return nil
		}
		if s.ServiceSet != "" {
			continue
		}
		if s.EtherType != "" {
			out = append(out, policy.Service{EtherType: must(errs, "spec.rules", policy.ParseEtherType, s.EtherType)})
			continue
		}
		all := policy.Service{Protocol: protocol(&s), Last: 0xffff}
		if s.TCPFlags != "" {
			all.Flags = must(errs, "spec.rules", policy.ParseTCPFlags, s.TCPFlags)
		}
		of := func(first, last uint16) policy.Service {
			return policy.Service{Protocol: all.Protocol, First: first, Last: last, Flags: all.Flags}
		}
		parts := []policy.Service{all}
		switch {
		case s.Ports != "":
			parts = nil
			for _, r := range must(errs, "spec.rules", v1alpha1.ParsePorts, s.Ports) {
				parts = append(parts, of(r.First, r.Last))
			}
		case len(s.Codes) > 0:
			parts = nil
			for _, c := range s.Codes {
				both := uint16(s.Types[0])<<8 | uint16(c)
				parts = append(parts, of(both, both))
			}
		case len(s.Types) > 0:
			parts = nil
			for _, t := range s.Types {
				parts = append(parts, of(uint16(t)<<8, uint16(t)<<8|0xff))
			}
		}
		if s.SourcePorts == "" {
			out = append(out, parts...)
			continue
		}
		for _, r := range must(errs, "spec.rules", v1alpha1.ParsePorts, s.SourcePorts) {
			for _, p := range parts {
				p.SourceFirst, p.SourceLast = r.First, r.Last
				out = append(out, p)
			}
		}
	}
	return out
}

func protocol(s *v1alpha1.Service) uint8 {
	if s.ProtocolNumber != nil {
		return uint8(*s.ProtocolNumber)
	}
	return map[v1alpha1.Protocol]uint8{
		v1alpha1.ProtocolTCP: policy.TCP, v1alpha1.ProtocolUDP: policy.UDP, v1alpha1.ProtocolSCTP: policy.SCTP,
		v1alpha1.ProtocolICMP: policy.ICMP, v1alpha1.ProtocolICMPv6: policy.ICMPv6,
	}[s.Protocol]
}
