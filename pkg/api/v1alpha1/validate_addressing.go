package v1alpha1

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/policy"
)

func validateAddressing(path *field.Path, spec *VLANNetworkSpec) (errs field.ErrorList) {
	a := spec.Addressing
	switch a.Mode {
	case "", AddressingObserved, AddressingDeclared, AddressingApproved:
	default:
		errs = append(errs, field.NotSupported(path.Child("mode"), a.Mode, []AddressingMode{AddressingObserved, AddressingDeclared, AddressingApproved}))
	}
	switch a.Probe {
	case "", AddressProbeOff, AddressProbeReport, AddressProbeRefuse:
	default:
		errs = append(errs, field.NotSupported(path.Child("probe"), a.Probe, []AddressProbe{AddressProbeOff, AddressProbeReport, AddressProbeRefuse}))
	}
	if a.Limit != nil && (*a.Limit < 1 || *a.Limit > MaxAddresses) {
		errs = append(errs, field.Invalid(path.Child("limit"), *a.Limit, fmt.Sprintf("want 1 to %d addresses, or leave it out for 16", MaxAddresses)))
	}
	if a.Expiry != "" {
		if d, err := time.ParseDuration(a.Expiry); err != nil || d < MinAddressExpiry || d > MaxAddressExpiry {
			errs = append(errs, field.Invalid(path.Child("expiry"), a.Expiry, "want a time from 1m to 8760h, as 24h, or leave it out for never"))
		}
	}
	switch at := path.Child("networkStatus"); a.NetworkStatus {
	case "", SwitchDisabled:
	case SwitchEnabled:
		errs = append(errs, clusterOnly(at))
	default:
		errs = append(errs, field.NotSupported(at, a.NetworkStatus, []Switch{SwitchEnabled, SwitchDisabled}))
	}
	switch a.Suppression {
	case "", SwitchEnabled, SwitchDisabled:
	default:
		errs = append(errs, field.NotSupported(path.Child("suppression"), a.Suppression, []Switch{SwitchEnabled, SwitchDisabled}))
	}
	shared := path.Child("sharedAddresses")
	if n := len(a.SharedAddresses); n > 64 {
		errs = append(errs, field.TooMany(shared, n, 64))
		errs[len(errs)-1].Detail += ": want prefixes, as 10.1.2.16/28"
		return errs
	}
	seen := map[netip.Prefix]bool{}
	for i, text := range a.SharedAddresses {
		p, err := ParseShared(text)
		switch at := shared.Index(i); {
		case err != nil:
			errs = append(errs, field.Invalid(at, text, err.Error()))
		case seen[p]:
			errs = append(errs, duplicate(at, text, "name each address once"))
		default:
			if why := misplacedShared(p, spec.Subnets); why != "" {
				errs = append(errs, field.Invalid(at, text, why))
			}
		}
		seen[p] = true
	}
	return errs
}

// misplacedShared says why addresses cannot be shared where these are the subnets; "" is that they can.
func misplacedShared(p netip.Prefix, subnets []Subnet) string {
	inside := len(subnets) == 0 || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()
	for _, s := range subnets {
		if gw, err := ParseIP(s.Gateway); err == nil && p.IsSingleIP() && gw == p.Addr() {
			return "is a gateway of spec.subnets, which is no VM's to have: want another address, or take the gateway out there where VMs are it"
		}
		if cidr, err := ParseCIDR(s.CIDR); err == nil && cidr.Contains(p.Addr()) && cidr.Bits() <= p.Bits() {
			inside = true
		}
	}
	if !inside {
		return "is not within one of spec.subnets: want addresses of one, or add their subnet there"
	}
	return ""
}

// ParseShared reads an address, or a prefix without host bits, of addresses that NICs can have.
func ParseShared(text string) (netip.Prefix, error) {
	var p netip.Prefix
	if strings.Contains(text, "/") {
		var err error
		if p, err = ParseCIDR(text); err != nil {
			return p, err
		}
	} else {
		a, err := ParseIP(text)
		if err != nil {
			return p, err
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if a := p.Addr(); a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return p, fmt.Errorf("has addresses that no NIC has: want an address as 10.1.2.3, or a prefix as 10.1.2.16/28")
	}
	return p, nil
}

// maxEtherTypes is how many EtherTypes a port program knows of a port.
const maxEtherTypes = 16

// allowedTypes are the words for EtherTypes that may leave a VM.
var allowedTypes = map[string][]uint16{"IPv4": {policy.EtherIPv4}, "IPv6": {policy.EtherIPv6}, "ARP": {policy.EtherARP}, "LLDP": {0x88cc}, "PPPoE": {0x8863, 0x8864}}

// allTypes is the word for all of them.
const allTypes = "All"

// ParseEtherTypes reads SecuritySwitches.EtherTypes: those that are named, in ascending order; none is all. An error comes with the
// place of the item that it is about; -1 is the whole list.
func ParseEtherTypes(list []string) ([]uint16, int, error) {
	if list != nil && len(list) == 0 {
		return nil, -1, fmt.Errorf("is empty: want the EtherTypes that may leave, or All, or leave it out")
	}
	if i := slices.Index(list, allTypes); i >= 0 && len(list) > 1 {
		return nil, i, fmt.Errorf("stands alone: want it, or the EtherTypes that may leave")
	} else if i >= 0 {
		return nil, -1, nil
	}
	var out []uint16
	for i, text := range list {
		types, known := allowedTypes[text]
		if !known {
			digits, isHex := strings.CutPrefix(text, "0x")
			n, err := strconv.ParseUint(digits, 16, 16)
			switch value := uint16(n); {
			case err != nil || !isHex || len(digits) != 4 || value < policy.EtherMin:
				return nil, i, fmt.Errorf("is no EtherType: want IPv4, IPv6, ARP, LLDP, PPPoE, All, or a number from 0x0600 to 0xffff, as \"0x88b5\"")
			case value == policy.EtherRARP:
				return nil, i, fmt.Errorf("is RARP, which always passes, for a live migration is announced by it: want it left out")
			case policy.IsTag(value):
				return nil, i, fmt.Errorf("is a VLAN tag: want the EtherType of what is behind it")
			default:
				types = []uint16{value}
			}
		}
		for _, n := range types {
			if slices.Contains(out, n) {
				return nil, i, fmt.Errorf("is there already: want each EtherType once")
			}
			out = append(out, n)
		}
	}
	if len(out) > maxEtherTypes {
		return nil, -1, fmt.Errorf("are %d EtherTypes: want at most %d, of which PPPoE is two", len(out), maxEtherTypes)
	}
	slices.Sort(out)
	return out, -1, nil
}
