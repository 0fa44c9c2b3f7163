package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

func protocolName(p uint8) string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmpv6"
	}
	return ""
}

// String is the protocol alone for all of it, else "tcp/80", "tcp/80-90",
// "icmp/8" (a type), "icmp/8-10" (types), "icmp/3/4" (type and code) or
// "icmp/3/4-5/6".
func (s Service) String() string {
	name := protocolName(s.Protocol)
	if name == "" {
		name = "protocol" + strconv.Itoa(int(s.Protocol))
	}
	if s.First == 0 && s.Last == 0xffff {
		return name
	}
	if s.Protocol != ICMP && s.Protocol != ICMPv6 {
		return name + "/" + span(s.First, s.Last)
	}
	first, last := s.First>>8, s.Last>>8
	if s.First&0xff == 0 && s.Last&0xff == 0xff {
		return name + "/" + span(first, last)
	}
	text := fmt.Sprintf("%s/%d/%d", name, first, s.First&0xff)
	if s.First == s.Last {
		return text
	}
	return fmt.Sprintf("%s-%d/%d", text, last, s.Last&0xff)
}

func span(first, last uint16) string {
	if first == last {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// MarshalText gives what String does; it fails on a protocol without a name.
func (s Service) MarshalText() ([]byte, error) {
	if protocolName(s.Protocol) == "" {
		return nil, fmt.Errorf("protocol %d cannot be a service", s.Protocol)
	}
	return []byte(s.String()), nil
}

// UnmarshalText is [ParseService].
func (s *Service) UnmarshalText(text []byte) (err error) {
	*s, err = ParseService(string(text))
	return err
}

// ParseService reads every form that [Service.String] gives for TCP, UDP, ICMP
// and ICMPv6. Errors name what was written and what would be right.
func ParseService(text string) (Service, error) {
	name, rest, limited := strings.Cut(text, "/")
	s := Service{Last: 0xffff}
	switch name {
	case "tcp":
		s.Protocol = TCP
	case "udp":
		s.Protocol = UDP
	case "icmp":
		s.Protocol = ICMP
	case "icmpv6":
		s.Protocol = ICMPv6
	default:
		return Service{}, fmt.Errorf("service %q: the protocol must be tcp, udp, icmp or icmpv6", text)
	}
	if !limited {
		return s, nil
	}
	one := parsePort
	if s.Protocol == ICMP || s.Protocol == ICMPv6 {
		one = parseType
	}
	a, b, isRange := strings.Cut(rest, "-")
	if !isRange {
		b = a
	}
	var err error
	if s.First, _, err = one(a); err != nil {
		return Service{}, fmt.Errorf("service %q: %w", text, err)
	}
	if _, s.Last, err = one(b); err != nil {
		return Service{}, fmt.Errorf("service %q: %w", text, err)
	}
	if s.Last < s.First {
		return Service{}, fmt.Errorf("service %q: the end is below the start: write %s/%s-%s", text, name, b, a)
	}
	return s, nil
}

func parsePort(s string) (first, last uint16, err error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, 0, errors.New("a port is a number from 0 to 65535")
	}
	return uint16(n), uint16(n), nil
}

// parseType reads "type" (every code of it) or "type/code".
func parseType(s string) (first, last uint16, err error) {
	typ, code, hasCode := strings.Cut(s, "/")
	t, err := strconv.ParseUint(typ, 10, 8)
	if err != nil {
		return 0, 0, errors.New("an ICMP type is a number from 0 to 255")
	}
	if !hasCode {
		return uint16(t) << 8, uint16(t)<<8 | 0xff, nil
	}
	c, err := strconv.ParseUint(code, 10, 8)
	if err != nil {
		return 0, 0, errors.New("an ICMP code is a number from 0 to 255")
	}
	both := uint16(t)<<8 | uint16(c)
	return both, both, nil
}
