package learn

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Mode says what makes a claim a binding; the strings are the API's.
type Mode string

// The modes.
const (
	ModeObserved Mode = "Observed" // the first who is seen with an address has it
	ModeDeclared Mode = "Declared" // only declarations count
	ModeApproved Mode = "Approved" // what is observed waits for a person
)

// The bounds of what one NIC can make a book remember, whatever it sends.
const (
	DefaultLimit = 16  // observed addresses of a NIC in a segment, each of IPv4 and IPv6
	MaxLimit     = 128 // the most that a network can set
	linkLocals   = 4   // IPv6 link-local addresses of a NIC in a segment, besides the limit
	maxObserved  = 1024
	maxLeases    = 128
	maxFirm      = 128
	maxSources   = 8  // declarations of one address for one NIC
	maxIdle      = 64 // decisions about addresses that the NIC does not claim now
)

// Of what is no NIC's.
const (
	maxOutside    = 1024 // claims from outside that are remembered in a segment
	maxOutsideOne = 4    // and for one address
	// DefaultOutside is how long a claim from outside lasts after it was last heard. A host that answers
	// is asked for its MAC again within minutes by those that talk with it.
	DefaultOutside = 10 * time.Minute
	// Quiet is after how much silence an address that was seen makes room for one that is seen now, where its NIC is at its limit.
	Quiet = 24 * time.Hour
	// SharedExpiry ends the claims of those who had a shared address before, where the network's Expiry is 0.
	SharedExpiry = time.Hour
)

// Settings are what a book begins with.
type Settings struct {
	// Outside is how long a claim from outside lasts after it was last heard; 0 is DefaultOutside.
	Outside time.Duration `json:",omitempty"`
	// Networks by name. Events change them later.
	Networks map[string]Network `json:",omitempty"`
}

// Network is what a book has to know of a VLANNetwork.
type Network struct {
	Mode Mode
	// Limit of observed addresses of a NIC in a segment, for IPv4 and for IPv6 each; 0 is DefaultLimit.
	// A lower limit than before takes nothing away.
	Limit int `json:",omitempty"`
	// Expiry is after how much silence a sighting counts no more; 0 is never.
	Expiry time.Duration `json:",omitempty"`
	// Subnets are where addresses must be; without any, they may be anywhere.
	Subnets []netip.Prefix `json:",omitempty"`
	// Gateways are nobody's.
	Gateways []netip.Addr `json:",omitempty"`
	// Shared addresses move between NICs, as those of VRRP do.
	Shared []netip.Prefix `json:",omitempty"`
}

// Validate gives all that is wrong with the settings, each by its field.
func (n *Network) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if n.Mode != ModeObserved && n.Mode != ModeDeclared && n.Mode != ModeApproved {
		bad("mode %q: want Observed, Declared or Approved", n.Mode)
	}
	if n.Limit < 0 || n.Limit > MaxLimit {
		bad("limit %d: want 1 to %d, or 0 for %d", n.Limit, MaxLimit, DefaultLimit)
	}
	if n.Expiry < 0 {
		bad("expiry %v: want 0 for never, or more", n.Expiry)
	}
	for name, list := range map[string][]netip.Prefix{"subnets": n.Subnets, "shared": n.Shared} {
		for i, p := range list {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				bad("%s[%d] %v: want a prefix without bits behind its length, as 10.0.0.0/24", name, i, p)
			}
		}
	}
	for i, a := range n.Gateways {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			bad("gateways[%d] %v: want an address, as 10.0.0.1", i, a)
		}
	}
	return errors.Join(errs...)
}

func (s *Settings) validate() error {
	var errs []error
	if s.Outside < 0 {
		errs = append(errs, fmt.Errorf("outside %v: want more than 0, or 0 for %v", s.Outside, DefaultOutside))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Networks)) {
		n := s.Networks[name]
		if err := n.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("network %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Network) clone() *Network {
	c := *n
	c.Subnets, c.Gateways, c.Shared = slices.Clone(n.Subnets), slices.Clone(n.Gateways), slices.Clone(n.Shared)
	return &c
}

func (n *Network) limit() int {
	if n.Limit == 0 {
		return DefaultLimit
	}
	return n.Limit
}

// shares says whether an address may move between NICs.
func (n *Network) shares(a netip.Addr) bool {
	return slices.ContainsFunc(n.Shared, func(p netip.Prefix) bool { return p.Contains(a) })
}

// unfit says why an address can be no NIC's binding, whoever claims it and however it became known;
// "" is that it can. A nil network is one that is not known.
func (n *Network) unfit(a netip.Addr) Reason {
	switch {
	case a.Is4In6():
		return ReasonMapped
	case a.Zone() != "":
		return ReasonZone
	case a.IsUnspecified():
		return ReasonUnspecified
	case a.IsMulticast():
		return ReasonMulticast
	case a.IsLoopback():
		return ReasonLoopback
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return ReasonBroadcast
	case n == nil:
		return ReasonNoNetwork
	case slices.Contains(n.Gateways, a):
		return ReasonGateway
	}
	inside := false
	for _, p := range n.Subnets {
		if !p.Contains(a) {
			continue
		}
		inside = true
		// Point-to-point links have neither (RFC 3021, RFC 6164).
		wide := p.Bits() < a.BitLen()-1
		switch {
		case wide && a == p.Addr():
			return ReasonNetworkOwn // of IPv6 it is the anycast address of the routers (RFC 4291, 2.6.1)
		case wide && a.Is4() && a == lastOf(p):
			return ReasonBroadcast
		}
	}
	if !inside && len(n.Subnets) > 0 && !linkLocal(a) {
		return ReasonOutside
	}
	return ""
}

// modeOf is the mode for an address. An IPv6 link-local one is observed in any: nobody declares those, and without them
// there is no IPv6.
func (n *Network) modeOf(a netip.Addr) Mode {
	if linkLocal(a) {
		return ModeObserved
	}
	return n.Mode
}

// linkLocal is of IPv6 alone: there, each NIC has such an address in any segment.
func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
