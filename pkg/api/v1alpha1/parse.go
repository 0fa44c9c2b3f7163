package v1alpha1

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// ParseIP reads one address without a zone. An IPv4 address must be written as
// one: ::ffff:10.0.0.1 would never match what is on the wire.
func ParseIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil && strings.Contains(s, "/"):
		return netip.Addr{}, errors.New("want one address as 10.1.2.3 or 2001:db8::1; a prefix goes under cidr")
	case err != nil:
		return netip.Addr{}, errors.New("want an address as 10.1.2.3 or 2001:db8::1")
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("is IPv4 written as IPv6: want %s", a.Unmap())
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("zones mean nothing here: want %s", a.WithZone(""))
	}
	return a, nil
}

// ParseCIDR reads a prefix and refuses one with bits set behind its length.
func ParseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errors.New("want a prefix as 10.0.0.0/8 or 2001:db8::/32")
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, errors.New("is IPv4 written as IPv6: want a prefix as 10.0.0.0/8")
		}
		return netip.Prefix{}, fmt.Errorf("is IPv4 written as IPv6: want %s",
			netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked())
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("has host bits set: want %s, or %s/%d for the one address",
			m, p.Addr(), p.Addr().BitLen())
	}
	return p, nil
}

// ParseRange reads two addresses of one family with a hyphen between them, the
// lower one first. Both belong to the range.
func ParseRange(s string) (first, last netip.Addr, err error) {
	lo, hi, ok := strings.Cut(s, "-")
	if !ok {
		return first, last, errors.New("want two addresses as 10.0.0.5-10.0.0.9; one address goes under ip")
	}
	lo, hi = strings.TrimSpace(lo), strings.TrimSpace(hi)
	if first, err = ParseIP(lo); err != nil {
		return first, last, fmt.Errorf("first address %q: %w", lo, err)
	}
	if last, err = ParseIP(hi); err != nil {
		return first, last, fmt.Errorf("last address %q: %w", hi, err)
	}
	if first.BitLen() != last.BitLen() {
		return first, last, errors.New("mixes IPv4 and IPv6: want both ends of one family")
	}
	if last.Less(first) {
		return first, last, fmt.Errorf("is reversed: want %s-%s", last, first)
	}
	return first, last, nil
}

// ParseSpan reads an item of an AddressSet: an address, a prefix, or a range with a
// hyphen. It gives the first and the last address of what that stands for.
func ParseSpan(s string) (first, last netip.Addr, err error) {
	switch {
	case strings.Contains(s, "/"):
		p, err := ParseCIDR(s)
		if err != nil {
			return first, last, err
		}
		return p.Addr(), LastOf(p), nil
	case strings.Contains(s, "-"):
		return ParseRange(s)
	}
	first, err = ParseIP(s)
	return first, first, err
}

// LastOf is the highest address of a prefix.
func LastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// PortRange is a run of TCP or UDP ports, both ends included.
type PortRange struct {
	First, Last uint16
}

// ParsePorts reads ports and runs of them as "80,443,8000-8010", in the order in
// which they are written; spaces around the parts are ignored.
func ParsePorts(s string) ([]PortRange, error) {
	var out []PortRange
	for part := range strings.SplitSeq(s, ",") {
		r, err := parsePortRange(strings.TrimSpace(part))
		if err != nil && part != s {
			err = fmt.Errorf("%q: %w", strings.TrimSpace(part), err)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func parsePortRange(s string) (PortRange, error) {
	lo, hi, isRange := strings.Cut(s, "-")
	if !isRange {
		hi = lo
	}
	first, err := parsePort(strings.TrimSpace(lo))
	if err != nil {
		return PortRange{}, err
	}
	last, err := parsePort(strings.TrimSpace(hi))
	if err != nil {
		return PortRange{}, err
	}
	if first > last {
		return PortRange{}, fmt.Errorf("is reversed: want %d-%d", last, first)
	}
	return PortRange{first, last}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' {
		return 0, errors.New(`want ports from 1 to 65535, as "80,443,8000-8010"`)
	}
	return uint16(n), nil
}

// ParseTrunk reads the items of vlan.trunk into one set. The index says which
// item an error is about.
func ParseTrunk(items []string) (set vlan.Set, index int, err error) {
	for i, item := range items {
		one, err := vlan.ParseSet(item)
		if err != nil {
			return vlan.Set{}, i, err
		}
		if one.Empty() {
			return vlan.Set{}, i, errors.New(`is empty: want a VLAN or a range, as "100-110"`)
		}
		set = set.Union(one)
	}
	return set, 0, nil
}

// Default fills in what a manifest may leave out, as the API server does.
func (t *VLANTrunk) Default() {
	t.Spec.InlineConfig = cmp.Or(t.Spec.InlineConfig, InlineRefuse)
	t.Spec.HostFirewall = cmp.Or(t.Spec.HostFirewall, HostFirewallDetect)
	t.Spec.FastPath = cmp.Or(t.Spec.FastPath, FastPathAuto)
}

// Default fills in what a manifest may leave out, as the API server does.
func (n *VLANNetwork) Default() {
	n.Spec.VLAN.Mode = cmp.Or(n.Spec.VLAN.Mode, ModeAccess)
}

// Default fills in what a manifest may leave out, as the API server does.
func (f *FirewallPolicy) Default() {
	for i := range f.Spec.Rules {
		r := &f.Spec.Rules[i]
		r.Direction = cmp.Or(r.Direction, DirectionInOut)
		r.State = cmp.Or(r.State, RuleEnabled)
	}
}
