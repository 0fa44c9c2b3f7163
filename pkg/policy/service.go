package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// names are the protocols of which services can name a part.
var names = map[string]uint8{"icmp": ICMP, "icmpv6": ICMPv6, "sctp": SCTP, "tcp": TCP, "udp": UDP}

// ip begins the text of other protocols, which have numbers, and ether that of EtherTypes.
const (
	ip    = "ip"
	ether = "ether"
)

// ProtocolName is the word for an IP protocol: "tcp", "udp", "sctp", "icmp", "icmpv6",
// or "ip/47" for another.
func ProtocolName(protocol uint8) string {
	for name, p := range names {
		if p == protocol {
			return name
		}
	}
	return ip + "/" + strconv.Itoa(int(protocol))
}

// flagNames are the TCP flags in the order of the header's bits.
var flagNames = [8]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

// String is as "SYN,!ACK": what must be set, and with ! what must not be; "" is any.
func (f TCPFlags) String() string {
	var out []string
	for i, name := range flagNames {
		switch bit := uint8(1) << i; {
		case f.Set&bit != 0:
			out = append(out, name)
		case f.Mask&bit != 0:
			out = append(out, "!"+name)
		}
	}
	return strings.Join(out, ",")
}

// ParseTCPFlags reads what [TCPFlags.String] gives, in any order and case, with blanks around
// names. Nothing at all is an error.
func ParseTCPFlags(text string) (f TCPFlags, err error) {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		name, not := strings.CutPrefix(part, "!")
		i := slices.Index(flagNames[:], strings.ToUpper(name))
		if i < 0 {
			return TCPFlags{}, fmt.Errorf("%q is no TCP flag: want some of %s, as SYN,!ACK", part, strings.Join(flagNames[:], ", "))
		}
		bit := uint8(1) << i
		if f.Mask&bit != 0 {
			return TCPFlags{}, fmt.Errorf("%s is there twice: want each flag once, as %s or !%s", flagNames[i], flagNames[i], flagNames[i])
		}
		if f.Mask |= bit; !not {
			f.Set |= bit
		}
	}
	return f, nil
}

// String is the protocol alone for all of it, as "tcp" or "ip/47", else "tcp/80",
// "tcp/80-90", "icmp/8" (a type), "icmp/8-10" (types), "icmp/3/4" (type and code) or
// "icmp/3/4-5/6". Where source ports matter they stand behind it: "udp/53 from 1024-65535"; and
// behind all that TCP flags: "tcp/80 with SYN,!ACK". An EtherType is "ether/ARP" or
// "ether/0x8892".
func (s Service) String() string {
	if s.ofEthernet() {
		return ether + "/" + EtherTypeName(s.EtherType)
	}
	text := ProtocolName(s.Protocol)
	if s.First != 0 || s.Last != 0xffff {
		text += "/" + s.part()
	}
	if s.SourceLast != 0 {
		text += " from " + span(s.SourceFirst, s.SourceLast)
	}
	if s.Flags != (TCPFlags{}) {
		text += " with " + s.Flags.String()
	}
	return text
}

func (s Service) part() string {
	if !HasTypes(s.Protocol) {
		return span(s.First, s.Last)
	}
	first, last := s.First>>8, s.Last>>8
	if s.First&0xff == 0 && s.Last&0xff == 0xff {
		return span(first, last)
	}
	text := fmt.Sprintf("%d/%d", first, s.First&0xff)
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

// Check says what is wrong with a service that was not parsed.
func (s Service) Check() error {
	switch {
	case s.ofEthernet() && (s != Service{EtherType: s.EtherType}):
		return fmt.Errorf("service %v: an EtherType stands alone", s)
	case s.ofEthernet():
		_, err := ParseEtherType(EtherTypeName(s.EtherType))
		return err
	case s.First > s.Last || s.SourceFirst > s.SourceLast:
		return fmt.Errorf("service %v: the end is below the start", s)
	case s.SourceLast != 0 && (s.SourceFirst == 0 || !HasPorts(s.Protocol)):
		return fmt.Errorf("service %v: source ports are of tcp, udp and sctp, and from 1 on", s)
	case s.Flags != TCPFlags{} && (s.Protocol != TCP || s.Flags.Mask == 0 || s.Flags.Set&^s.Flags.Mask != 0):
		return fmt.Errorf("service %v: flags are of tcp, and those that are set among those that matter", s)
	case !HasPorts(s.Protocol) && !HasTypes(s.Protocol) && !s.Whole():
		return fmt.Errorf("service %v: protocol %d has neither ports nor types", s, s.Protocol)
	}
	return nil
}

// MarshalText gives what String does; it fails on what [Service.Check] refuses.
func (s Service) MarshalText() ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	return []byte(s.String()), nil
}

// UnmarshalText is [ParseService].
func (s *Service) UnmarshalText(text []byte) (err error) {
	*s, err = ParseService(string(text))
	return err
}

// ParseService reads every form that [Service.String] gives. Errors name what was
// written and what would be right.
func ParseService(text string) (Service, error) {
	s, err := parseService(text)
	if err != nil {
		return Service{}, fmt.Errorf("service %q: %w", text, err)
	}
	return s, nil
}

func parseService(text string) (s Service, err error) {
	text, flags, hasFlags := strings.Cut(text, " with ")
	text, from, hasFrom := strings.Cut(text, " from ")
	name, part, hasPart := strings.Cut(text, "/")
	if name == ether && !hasFrom && !hasFlags {
		s.EtherType, err = ParseEtherType(part)
		return s, err
	}
	s.Last = 0xffff
	number, known := names[name]
	switch s.Protocol = number; {
	case known && hasPart:
		one := parsePort
		if HasTypes(number) {
			one = parseType
		}
		if s.First, s.Last, err = parseSpan(name+"/", part, one); err != nil {
			return s, err
		}
	case name == ip && hasPart && !hasFrom && !hasFlags:
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return s, errors.New("an IP protocol is a number from 0 to 255, as ip/47")
		}
		s.Protocol = uint8(n)
	case !known:
		return s, errors.New("the protocol must be tcp, udp, sctp, icmp, icmpv6, or a number as ip/47")
	}
	if hasFlags {
		if s.Flags, err = ParseTCPFlags(flags); err != nil {
			return s, err
		}
	}
	if hasFrom {
		if s.SourceFirst, s.SourceLast, err = parseSpan("from ", from, parsePort); err != nil {
			return s, err
		}
		if s.SourceFirst == 0 {
			return s, errors.New("source ports are from 1 on")
		}
	}
	return s, s.Check()
}

// parseSpan reads one item or two with a dash between; before stands before them in
// the text that errors propose.
func parseSpan(before, text string, one func(string) (first, last uint16, err error)) (first, last uint16, err error) {
	a, b, isRange := strings.Cut(text, "-")
	if !isRange {
		b = a
	}
	if first, _, err = one(a); err != nil {
		return 0, 0, err
	}
	if _, last, err = one(b); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("the end is below the start: write %s%s-%s", before, b, a)
	}
	return first, last, nil
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
