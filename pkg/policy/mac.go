package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// MAC is an Ethernet address.
type MAC [6]byte

// macs is the block in which addresses stand for MACs: what it has is discarded wherever it is
// met (RFC 6666), so that no packet has any business with them.
var macs = netip.MustParsePrefix("100::/64")

// macBits is how much of an address is not the MAC.
const macBits = 128 - 48

// MACAddr gives the address that stands for a MAC in Ethernet rules.
func MACAddr(m MAC) netip.Addr {
	b := macs.Addr().As16()
	copy(b[macBits/8:], m[:])
	return netip.AddrFrom16(b)
}

// String is as 00:50:56:0a:0b:0c.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// ParseMACs reads a MAC, or the MACs that begin alike, as 00:50:56:00:00:00/24, as a range of
// what [MACAddr] gives. Errors name what was written and what would be right.
func ParseMACs(text string) (AddrRange, error) {
	bare, length, hasLength := strings.Cut(text, "/")
	m, err := ParseMAC(bare)
	if err != nil {
		return AddrRange{}, fmt.Errorf("%q: %w", text, err)
	}
	bits := 48
	if hasLength {
		if bits, err = strconv.Atoi(length); err != nil || bits < 1 || bits > 48 {
			return AddrRange{}, fmt.Errorf("%q: want a length from 1 to 48 behind the slash, as 00:50:56:00:00:00/24", text)
		}
	}
	p := netip.PrefixFrom(MACAddr(m), macBits+bits)
	if masked := macOf(p.Masked().Addr()); masked != m {
		return AddrRange{}, fmt.Errorf("%q has bits set behind the first %d: write %v/%d, or %v for the one MAC", text, bits, masked, bits, m)
	}
	return RangeOf(p), nil
}

// ParseMAC reads a MAC, as net.ParseMAC does.
func ParseMAC(text string) (MAC, error) {
	m, err := net.ParseMAC(text)
	if err != nil || len(m) != len(MAC{}) {
		return MAC{}, errors.New("no MAC: want six bytes in hex, as 00:50:56:0a:0b:0c")
	}
	return MAC(m), nil
}

func macOf(a netip.Addr) (m MAC) {
	b := a.As16()
	copy(m[:], b[macBits/8:])
	return m
}

// MACText is what [ParseMACs] reads, of a range that it gave.
func (r AddrRange) MACText() string {
	p, ok := r.Prefix()
	switch {
	case r.First == r.Last:
		return macOf(r.First).String()
	case ok && p.Bits() >= macBits:
		return fmt.Sprintf("%v/%d", macOf(r.First), p.Bits()-macBits)
	}
	return fmt.Sprintf("%v-%v", macOf(r.First), macOf(r.Last))
}

// etherNames are the EtherTypes that have a word.
var etherNames = map[string]uint16{"IPv4": EtherIPv4, "ARP": EtherARP, "IPv6": EtherIPv6, "LLDP": 0x88cc}

// EtherTypeName is IPv4, ARP, IPv6 or LLDP, or the number as 0x8892.
func EtherTypeName(n uint16) string {
	for name, value := range etherNames {
		if value == n {
			return name
		}
	}
	return fmt.Sprintf("0x%04x", n)
}

// ParseEtherType reads what [EtherTypeName] gives, words in any case. Those that rules are not
// asked about, and tags, which are no EtherType of what a frame carries, are errors.
func ParseEtherType(text string) (uint16, error) {
	for name, value := range etherNames {
		if strings.EqualFold(name, text) {
			return value, nil
		}
	}
	digits, isHex := strings.CutPrefix(strings.ToLower(text), "0x")
	n, err := strconv.ParseUint(digits, 16, 16)
	switch value := uint16(n); {
	case value == EtherRARP || strings.EqualFold(text, "RARP"):
		return 0, fmt.Errorf("%q is RARP, which passes before any rule: a live migration is announced by it", text)
	case !isHex || err != nil || value < EtherMin:
		return 0, fmt.Errorf("%q is no EtherType: want IPv4, IPv6, ARP, LLDP, or a number from 0x0600 to 0xffff, as 0x8892", text)
	case IsTag(value):
		return 0, fmt.Errorf("%q is a VLAN tag: want the EtherType of what is behind it; VLANs are told apart by appliedTo", text)
	default:
		return value, nil
	}
}

// IsTag says that an EtherType is a VLAN tag's, and not of what a frame carries.
func IsTag(n uint16) bool { return n == 0x8100 || n == 0x88a8 || n == 0x9100 || n == 0x9200 }
