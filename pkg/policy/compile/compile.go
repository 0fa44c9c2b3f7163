// Package compile turns effective policies into the form that the port program
// reads: addresses become classes, services become row numbers, and every class
// has, for each policy, one row of bits, a bit per rule. The AND of the rows of
// source, destination, service and direction has the winner as its first bit.
//
// Classes are those of the node: a class is a set of the lists that rules name,
// and an address has the class of all lists that hold it. What overlaps in the
// lists of one network therefore costs rows in that network alone, but class
// table entries in each.
//
// Compilation is pure and deterministic: equal inputs give equal bytes. The
// layout of the bytes is bpf/include/abi.h. [Lookup] reads them in Go.
package compile

import (
	"crypto/sha256"
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// PageSize is HP_PAGE_SIZE of bpf/include/abi.h.
const PageSize = 512

// PrefixesMax is the number of prefixes that the address lists of one network's rules
// can come to, each list counted once.
const PrefixesMax = 2 << 20

// Page is one value of a program's inner array.
type Page [PageSize]byte

// Counters gives every rule and every network's default its place in the
// rule_counters map. It is chosen before compiling (see [Allocate]) and kept
// across generations, so that hit counts survive every change.
type Counters map[policy.RuleKey]uint32

// Input is all that a node enforces.
type Input struct {
	// Sets are the effective policies; Set.ID is unique.
	Sets []policy.Set
	// Counters must hold every rule and default of Sets.
	Counters Counters
}

// Program is the compiled policy of a whole node, ready to be written.
type Program struct {
	// Addrs is the longest-prefix table of address classes, IPv4 mapped to
	// ::ffff:0:0/96, sorted, no two alike. An address that no prefix covers
	// has class 0.
	Addrs []AddrClass
	// Policies holds one paged program a set, sorted by Network.
	Policies []Policy
	// Counters is one more than the highest counter that the policies have.
	Counters int
	// Hash identifies the content: hex SHA-256. Equal hashes mean equal content; what a
	// [Compiler] came to by changes has another one than the same made anew.
	Hash string
}

// AddrClass is one entry of the address table: the class of an IPv6 prefix. It has no
// pointers, as a node may have a million of them, which are copied and compared.
type AddrClass struct {
	Addr  [16]byte // zero beyond Bits
	Bits  uint8
	Class uint32
}

// Compare puts the entries in their order: by address, a covering prefix first.
func (a AddrClass) Compare(b AddrClass) int { return a.prefix().compare(b.prefix()) }

func (a AddrClass) prefix() prefix { return prefix{u128Of(a.Addr), int(a.Bits)} }

// Prefix is the prefix for people.
func (a AddrClass) Prefix() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16(a.Addr), int(a.Bits))
}

// Policy is the paged program of one set; Pages[0] holds struct hp_header.
type Policy struct {
	Network string // the set's ID: the network's name, unless it has more than one
	Pages   []Page
	Sum     [sha256.Size]byte // of Pages
}
