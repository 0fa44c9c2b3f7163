package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// String gives the word that FirewallPolicy uses.
func (a Action) String() string {
	switch a {
	case Drop:
		return "Drop"
	case Allow:
		return "Allow"
	case Reject:
		return "Reject"
	case Pass:
		return "Pass"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// MarshalText gives the word that FirewallPolicy uses; it fails on a value
// that has none.
func (a Action) MarshalText() ([]byte, error) {
	if a > Pass {
		return nil, fmt.Errorf("no action has the number %d", uint8(a))
	}
	return []byte(a.String()), nil
}

// UnmarshalText reads Allow, Drop, Reject or Pass.
func (a *Action) UnmarshalText(text []byte) error {
	switch string(text) {
	case "Drop":
		*a = Drop
	case "Allow":
		*a = Allow
	case "Reject":
		*a = Reject
	case "Pass":
		*a = Pass
	default:
		return fmt.Errorf("action %q: must be Allow, Drop, Reject or Pass", text)
	}
	return nil
}

// Stage is the part of a port's program that decides with the reason; they come in this
// order: port, VLAN, MAC, neighbours, headers, guards, connections, rules; but those of guards that do not look into packets are next to MAC.
func (r Reason) Stage() string {
	switch r {
	case ReasonNoPort, ReasonPortDark, ReasonPortQuarantined, ReasonPortReleased, ReasonRefusal:
		return "port"
	case ReasonGuestTag, ReasonVLANNotAllowed, ReasonUntagged:
		return "VLAN"
	case ReasonMACSpoof, ReasonMACLimit, ReasonLauncherNoise, ReasonNotForPort, ReasonHello:
		return "MAC"
	case ReasonBPDUGuard, ReasonRAGuard, ReasonDHCPServerGuard, ReasonIPGuard, ReasonARPGuard, ReasonNDGuard, ReasonEtherTypeGuard,
		ReasonBroadcastLimit, ReasonMulticastLimit, ReasonUnicastLimit, ReasonSuppressed:
		return "guards"
	case ReasonARP, ReasonRARP, ReasonND, ReasonToHolder:
		return "neighbours"
	case ReasonMalformed, ReasonTooManyHeaders:
		return "headers"
	case ReasonEstablished, ReasonRelated, ReasonMigrated, ReasonTCPNoState:
		return "connections"
	case ReasonRuleAllow, ReasonDefaultAllow, ReasonRuleDrop, ReasonDefaultDrop, ReasonNoProgram, ReasonFragmentAllow, ReasonFragmentDrop:
		return "rules"
	}
	return "unknown"
}

// String is In or Out.
func (d Direction) String() string {
	switch d {
	case Out:
		return "Out"
	case In:
		return "In"
	}
	return fmt.Sprintf("Direction(%d)", uint8(d))
}

// MarshalText gives In or Out; it fails on other values.
func (d Direction) MarshalText() ([]byte, error) {
	if d > In {
		return nil, fmt.Errorf("no direction has the number %d", uint8(d))
	}
	return []byte(d.String()), nil
}

// UnmarshalText reads In or Out.
func (d *Direction) UnmarshalText(text []byte) error {
	switch string(text) {
	case "In":
		*d = In
	case "Out":
		*d = Out
	default:
		return fmt.Errorf("direction %q: must be In or Out", text)
	}
	return nil
}

// String is In, Out or InOut.
func (s Directions) String() string {
	switch s {
	case OnlyOut:
		return "Out"
	case OnlyIn:
		return "In"
	case InOut:
		return "InOut"
	}
	return fmt.Sprintf("Directions(%#x)", uint8(s))
}

// MarshalText gives In, Out or InOut; it fails on other values.
func (s Directions) MarshalText() ([]byte, error) {
	if s == 0 || s > InOut {
		return nil, fmt.Errorf("no direction has the number %#x", uint8(s))
	}
	return []byte(s.String()), nil
}

// UnmarshalText reads In, Out or InOut.
func (s *Directions) UnmarshalText(text []byte) error {
	switch string(text) {
	case "In":
		*s = OnlyIn
	case "Out":
		*s = OnlyOut
	case "InOut":
		*s = InOut
	default:
		return fmt.Errorf("direction %q: must be In, Out or InOut", text)
	}
	return nil
}

// DefaultKey is the key of a network's default action.
func DefaultKey(network string) RuleKey { return RuleKey{Network: network} }

// String is "policy/id", or "@network" for a network's default action. Names
// of Kubernetes objects hold neither sign, so [RuleKey.UnmarshalText] reads it.
func (k RuleKey) String() string {
	if k.Policy == "" && k.ID == 0 {
		return "@" + k.Network
	}
	return k.Policy + "/" + strconv.FormatUint(uint64(k.ID), 10)
}

// MarshalText gives what String does; it makes RuleKey usable as a JSON key.
func (k RuleKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what String gave.
func (k *RuleKey) UnmarshalText(text []byte) error {
	if network, ok := strings.CutPrefix(string(text), "@"); ok {
		*k = DefaultKey(network)
		return nil
	}
	i := strings.LastIndexByte(string(text), '/')
	if i < 0 {
		return fmt.Errorf("rule %q: must be policy/id or @network", text)
	}
	id, err := strconv.ParseUint(string(text[i+1:]), 10, 32)
	if err != nil {
		return fmt.Errorf("rule %q: id: %w", text, err)
	}
	*k = RuleKey{Policy: string(text[:i]), ID: uint32(id)}
	return nil
}

// RangeOf is the range of all addresses of p, whose host bits are ignored.
// IPv4 in IPv6 notation with 96 bits or more is taken as IPv4.
func RangeOf(p netip.Prefix) AddrRange {
	first, bits := p.Masked().Addr(), p.Bits()
	if first.Is4In6() && bits >= 96 {
		first, bits = first.Unmap(), bits-96
	}
	last := first.AsSlice()
	for i := bits; i < first.BitLen(); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(last)
	return AddrRange{First: first, Last: a}
}

// Prefix gives the range as one CIDR, and false if it is not one.
func (r AddrRange) Prefix() (netip.Prefix, bool) {
	if !r.First.IsValid() || r.First.BitLen() != r.Last.BitLen() {
		return netip.Prefix{}, false
	}
	first, last := r.First.AsSlice(), r.Last.AsSlice()
	bit := func(b []byte, i int) bool { return b[i/8]&(0x80>>(i%8)) != 0 }
	bits := 0
	for bits < r.First.BitLen() && bit(first, bits) == bit(last, bits) {
		bits++
	}
	for i := bits; i < r.First.BitLen(); i++ {
		if bit(first, i) || !bit(last, i) {
			return netip.Prefix{}, false
		}
	}
	return netip.PrefixFrom(r.First, bits), true
}

// String is the bare IP for one address, the CIDR if the range is one, else
// "first-last".
func (r AddrRange) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	if p, ok := r.Prefix(); ok {
		return p.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// MarshalText gives what String does.
func (r AddrRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is [ParseAddrRange].
func (r *AddrRange) UnmarshalText(text []byte) (err error) {
	*r, err = ParseAddrRange(string(text))
	return err
}

// ParseAddrRange reads an IP, a CIDR without host bits, or "first-last".
// Errors name what was written and what would be right.
func ParseAddrRange(s string) (AddrRange, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return AddrRange{}, fmt.Errorf("%q is no CIDR: %w", s, err)
		}
		if p != p.Masked() {
			return AddrRange{}, fmt.Errorf("%q has host bits set: write %s, or %s for the one address", s, p.Masked(), p.Addr())
		}
		return RangeOf(p), nil
	}
	a, b, isRange := strings.Cut(s, "-")
	first, err := parseAddr(a)
	if err != nil {
		return AddrRange{}, fmt.Errorf("%q: %w", s, err)
	}
	if !isRange {
		return AddrRange{First: first, Last: first}, nil
	}
	last, err := parseAddr(b)
	switch {
	case err != nil:
		return AddrRange{}, fmt.Errorf("%q: %w", s, err)
	case first.BitLen() != last.BitLen():
		return AddrRange{}, fmt.Errorf("%q: both ends must be IPv4, or both IPv6", s)
	case last.Less(first):
		return AddrRange{}, fmt.Errorf("%q: the end is below the start: write %s-%s", s, last, first)
	}
	return AddrRange{First: first, Last: last}, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no IP address: %w", err)
	}
	if a.Zone() != "" {
		return netip.Addr{}, errors.New("an address in a rule has no zone")
	}
	return a.Unmap(), nil
}
