package v1alpha1

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// probed are the addresses that checks ask from, and for, in the making of their judgement.
type probed struct {
	subnets  []netip.Prefix
	gateways map[netip.Addr]bool
	taken    map[netip.Addr]string // by which field
}

// validateProbed checks sources and targets of checks. An address that somebody else has is taken from
// them, so there is no doubt about any.
func validateProbed(path *field.Path, spec *VLANNetworkSpec) (errs field.ErrorList) {
	r := spec.Reachability
	if spec.VLAN.Mode == ModeTrunk {
		for name, n := range map[string]int{"sources": len(r.Sources), "targets": len(r.Targets)} {
			if n > 0 {
				errs = append(errs, field.Forbidden(path.Child(name), "mode Trunk has no untagged VLAN, so nobody knows in which one the addresses are: leave it out"))
			}
		}
		return errs
	}
	p := &probed{gateways: map[netip.Addr]bool{}, taken: map[netip.Addr]string{}}
	for _, s := range spec.Subnets {
		if cidr, err := ParseCIDR(s.CIDR); err == nil {
			p.subnets = append(p.subnets, cidr)
		}
		if gw, err := ParseIP(s.Gateway); err == nil {
			p.gateways[gw] = true
		}
	}
	nodes := map[string]bool{}
	for i, s := range r.Sources {
		at := path.Child("sources").Index(i)
		switch {
		case s.Node == "":
			errs = append(errs, field.Required(at.Child("node"), "want the name of a node"))
		case nodes[s.Node]:
			errs = append(errs, duplicate(at.Child("node"), s.Node, "name each node once, with all its addresses"))
		}
		nodes[s.Node] = true
		if len(s.Addresses) == 0 {
			errs = append(errs, field.Required(at.Child("addresses"), "want an address of spec.subnets that nobody else has"))
		}
		subnets := map[netip.Prefix]bool{}
		for j, text := range s.Addresses {
			at := at.Child("addresses").Index(j)
			subnet, err := p.take(at, text)
			if err == nil && subnets[subnet] {
				err = field.Invalid(at, text, "is the second of "+subnet.String()+": one is enough, take the other out")
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			subnets[subnet] = true
		}
	}
	for i, text := range r.Targets {
		if _, err := p.take(path.Child("targets").Index(i), text); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// take judges one address, remembers it, and says in which subnet it is.
func (p *probed) take(at *field.Path, text string) (cidr netip.Prefix, bad *field.Error) {
	a, err := ParseIP(text)
	if err != nil {
		return cidr, field.Invalid(at, text, err.Error())
	}
	if p.gateways[a] {
		return cidr, field.Invalid(at, text, "is a gateway of spec.subnets, which is asked anyway: want another address")
	}
	if by := p.taken[a]; by != "" {
		return cidr, duplicate(at, text, fmt.Sprintf("%s has it: want an address that is used once", by))
	}
	p.taken[a] = at.String()
	inside := slices.DeleteFunc(slices.Clone(p.subnets), func(c netip.Prefix) bool { return !c.Contains(a) })
	if len(inside) == 0 {
		return cidr, field.Invalid(at, text, "is in none of spec.subnets: want an address of the VLAN, or add its subnet there")
	}
	narrowest := slices.MaxFunc(inside, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	for _, cidr := range inside {
		// Point-to-point links have neither (RFC 3021, RFC 6164).
		wide := cidr.Bits() < a.BitLen()-1
		switch {
		case wide && a == cidr.Addr() && a.Is4():
			return cidr, field.Invalid(at, text, "is the network's own address: want a host's")
		case wide && a == cidr.Addr():
			return cidr, field.Invalid(at, text, "is the anycast address of the subnet's routers: want a host's")
		case wide && a == LastOf(cidr) && a.Is4():
			return cidr, field.Invalid(at, text, "is the broadcast address of "+cidr.String()+": want a host's")
		}
	}
	return narrowest, nil
}
