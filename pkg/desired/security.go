package desired

import (
	"net"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// Exception has switches of a network's security for some of its ports: those of VMs by label, of
// NICs by MAC, or of NICs of such VMs. A switch that it does not name is nil.
type Exception struct {
	VMs             *Selector    `json:"vms,omitempty"`
	MACs            []attach.MAC `json:"macs,omitempty"`
	Promiscuous     *bool        `json:"promiscuous,omitempty"`
	ForgedTransmits *bool        `json:"forgedTransmits,omitempty"`
	MACChanges      *bool        `json:"macChanges,omitempty"`
	BPDUs           *bool        `json:"bpdus,omitempty"`
	RAGuard         *bool        `json:"raGuard,omitempty"`
	DHCPServerGuard *bool        `json:"dhcpServerGuard,omitempty"`
	BroadcastLimit  *uint32      `json:"broadcastLimit,omitempty"` // packets a second, 0 is no limit
	MulticastLimit  *uint32      `json:"multicastLimit,omitempty"`
	UnicastLimit    *uint32      `json:"unicastLimit,omitempty"`

	IPGuard  *attach.Guard `json:"ipGuard,omitempty"`
	ARPGuard *bool         `json:"arpGuard,omitempty"`
	NDGuard  *bool         `json:"ndGuard,omitempty"`

	EtherTypes *attach.EtherTypes `json:"etherTypes,omitempty"` // none in it is all
}

// securityOf is what a network without port security keeps to.
func securityOf(p *v1alpha1.PortSecurity) (attach.Security, []Exception) {
	if p == nil {
		return attach.Security{}, nil
	}
	s := attach.Security{
		Promiscuous:     p.Promiscuous == v1alpha1.SecurityAccept,
		ForgedTransmits: p.ForgedTransmits == v1alpha1.SecurityAccept,
		MACChanges:      p.MACChanges == v1alpha1.SecurityAccept,
		BPDUs:           p.BPDUGuard == v1alpha1.SwitchDisabled,
		RAGuard:         p.RAGuard == v1alpha1.SwitchEnabled,
		DHCPServerGuard: p.DHCPServerGuard == v1alpha1.SwitchEnabled,
		BroadcastLimit:  deref(rate(p.RateLimits, broadcast)),
		MulticastLimit:  deref(rate(p.RateLimits, multicast)),
		UnicastLimit:    deref(rate(p.RateLimits, unknownUnicast)),
		IPGuard:         deref(guard(p.IPGuard)),
		ARPGuard:        p.ARPGuard == v1alpha1.SwitchEnabled,
		NDGuard:         p.NDGuard == v1alpha1.SwitchEnabled,
		EtherTypes:      deref(etherTypes(p.EtherTypes)),
	}
	var exceptions []Exception
	for _, e := range p.Exceptions {
		out := Exception{Promiscuous: is(e.Promiscuous, v1alpha1.SecurityAccept), ForgedTransmits: is(e.ForgedTransmits, v1alpha1.SecurityAccept),
			MACChanges: is(e.MACChanges, v1alpha1.SecurityAccept), BPDUs: is(e.BPDUGuard, v1alpha1.SwitchDisabled),
			RAGuard: is(e.RAGuard, v1alpha1.SwitchEnabled), DHCPServerGuard: is(e.DHCPServerGuard, v1alpha1.SwitchEnabled),
			BroadcastLimit: rate(e.RateLimits, broadcast), MulticastLimit: rate(e.RateLimits, multicast), UnicastLimit: rate(e.RateLimits, unknownUnicast),
			IPGuard: guard(e.IPGuard), ARPGuard: is(e.ARPGuard, v1alpha1.SwitchEnabled), NDGuard: is(e.NDGuard, v1alpha1.SwitchEnabled),
			EtherTypes: etherTypes(e.EtherTypes)}
		for _, text := range e.MACs {
			m, _ := net.ParseMAC(text) // ValidateVLANNetwork has
			out.MACs = append(out.MACs, attach.MAC(m))
		}
		exceptions = append(exceptions, out)
	}
	return s, exceptions
}

// is says whether a switch is at a value; nil is that nobody says where it is.
func is[T ~string](value, on T) *bool {
	if value == "" {
		return nil
	}
	b := value == on
	return &b
}

// guard is which addresses count; nil is that nobody says which.
func guard(g v1alpha1.IPGuard) *attach.Guard {
	var out attach.Guard
	switch g {
	case "":
		return nil
	case v1alpha1.IPGuardLearn:
		out = attach.GuardLearn
	case v1alpha1.IPGuardStrict:
		out = attach.GuardStrict
	}
	return &out
}

// stricter is the one of two guards that lets less pass.
func stricter(a, b attach.Guard) attach.Guard {
	for _, g := range []attach.Guard{attach.GuardStrict, attach.GuardLearn} {
		if a == g || b == g {
			return g
		}
	}
	return attach.GuardOff
}

// etherTypes are those that may leave; nil is that nobody says which.
func etherTypes(list []string) *attach.EtherTypes {
	if list == nil {
		return nil
	}
	var out attach.EtherTypes
	parsed, _, _ := v1alpha1.ParseEtherTypes(list) // ValidateVLANNetwork has
	copy(out[:], parsed)
	return &out
}

// common are the EtherTypes of both lists. Where there are none it is RARP, which always passes: an empty list is all.
func common(a, b attach.EtherTypes) attach.EtherTypes {
	switch all := (attach.EtherTypes{}); {
	case a == all:
		return b
	case b == all:
		return a
	}
	var out attach.EtherTypes
	copy(out[:], slices.DeleteFunc(slices.Clone(a[:]), func(t uint16) bool { return !slices.Contains(b[:], t) }))
	if out[0] == 0 {
		out[0] = policy.EtherRARP
	}
	return out
}

func broadcast(r *v1alpha1.RateLimits) *int32      { return r.Broadcast }
func multicast(r *v1alpha1.RateLimits) *int32      { return r.Multicast }
func unknownUnicast(r *v1alpha1.RateLimits) *int32 { return r.UnknownUnicast }

// rate is one of some limits; nil is that nobody says what it is.
func rate(r *v1alpha1.RateLimits, of func(*v1alpha1.RateLimits) *int32) *uint32 {
	if r == nil || of(r) == nil {
		return nil
	}
	n := uint32(*of(r))
	return &n
}

// nobodysMAC stands where an exception selects VMs alone, so that what is said of others names their places.
const nobodysMAC = "00:00:00:00:00:00"

// takeVMExceptions takes the selectors out of a network's exceptions, by the places of these.
func takeVMExceptions(p *v1alpha1.PortSecurity) (map[int]Selector, field.ErrorList) {
	if p == nil {
		return nil, nil
	}
	out := map[int]Selector{}
	var errs field.ErrorList
	for i := range p.Exceptions {
		e := &p.Exceptions[i]
		if e.VM == nil {
			continue
		}
		s, err := NewSelector(e.VM)
		if err != nil {
			errs = append(errs, field.Invalid(field.NewPath("spec", "portSecurity", "exceptions").Index(i).Child("vm"), metav1.FormatLabelSelector(e.VM), err.Error()))
		}
		if out[i], e.VM = s, nil; len(e.MACs) == 0 {
			e.MACs = []string{nobodysMAC}
		}
	}
	return out, errs
}

// putVMs gives them back.
func (n *Network) putVMs(selectors map[int]Selector) {
	for i, s := range selectors {
		if i < len(n.Exceptions) {
			n.Exceptions[i].VMs = &s
			if m := n.Exceptions[i].MACs; len(m) == 1 && m[0].String() == nobodysMAC {
				n.Exceptions[i].MACs = nil
			}
		}
	}
}

// Security is what the port of a pod's NIC on a network is kept to. Where it is not known whether an
// exception is for it, it is the stricter of both.
func (s *Snapshot) Security(network string, pod PodRef, mac attach.MAC) attach.Security {
	n, known := s.Networks[network]
	if !known {
		out, _ := securityOf(nil)
		return out
	}
	at := s.portOf(network, pod)
	is := make([]certainty, len(n.Exceptions))
	for i := range n.Exceptions {
		is[i] = at.byException(&n.Exceptions[i], mac)
	}
	pick := func(value, strict bool, of func(*Exception) *bool) bool {
		return first(n.Exceptions, is, value, of, func(a, b bool) bool { return (a == strict || b == strict) == strict })
	}
	limit := func(value uint32, of func(*Exception) *uint32) uint32 {
		return first(n.Exceptions, is, value, of, func(a, b uint32) uint32 { return min(a-1, b-1) + 1 }) // 0 is the most
	}
	return attach.Security{
		Promiscuous:     pick(n.Security.Promiscuous, false, func(e *Exception) *bool { return e.Promiscuous }),
		ForgedTransmits: pick(n.Security.ForgedTransmits, false, func(e *Exception) *bool { return e.ForgedTransmits }),
		MACChanges:      pick(n.Security.MACChanges, false, func(e *Exception) *bool { return e.MACChanges }),
		BPDUs:           pick(n.Security.BPDUs, false, func(e *Exception) *bool { return e.BPDUs }),
		RAGuard:         pick(n.Security.RAGuard, true, func(e *Exception) *bool { return e.RAGuard }),
		DHCPServerGuard: pick(n.Security.DHCPServerGuard, true, func(e *Exception) *bool { return e.DHCPServerGuard }),
		BroadcastLimit:  limit(n.Security.BroadcastLimit, func(e *Exception) *uint32 { return e.BroadcastLimit }),
		MulticastLimit:  limit(n.Security.MulticastLimit, func(e *Exception) *uint32 { return e.MulticastLimit }),
		UnicastLimit:    limit(n.Security.UnicastLimit, func(e *Exception) *uint32 { return e.UnicastLimit }),
		IPGuard:         first(n.Exceptions, is, n.Security.IPGuard, func(e *Exception) *attach.Guard { return e.IPGuard }, stricter),
		ARPGuard:        pick(n.Security.ARPGuard, true, func(e *Exception) *bool { return e.ARPGuard }),
		NDGuard:         pick(n.Security.NDGuard, true, func(e *Exception) *bool { return e.NDGuard }),
		EtherTypes:      first(n.Exceptions, is, n.Security.EtherTypes, func(e *Exception) *attach.EtherTypes { return e.EtherTypes }, common),
		Suppression:     n.Addressing.Suppression,
	}
}

// first is what the first exception says that names a switch and is for a port, else value; where that is not sure, it
// is the stricter of what it says and of what comes else.
func first[T any](exceptions []Exception, is []certainty, value T, of func(*Exception) *T, stricter func(a, b T) T) T {
	for i := range exceptions {
		said := of(&exceptions[i])
		switch {
		case said == nil || is[i] == no:
		case is[i] == yes:
			return *said
		default:
			return stricter(*said, first(exceptions[i+1:], is[i+1:], value, of, stricter))
		}
	}
	return value
}

// byException says whether an exception is for the port of a NIC.
func (p port) byException(e *Exception, mac attach.MAC) certainty {
	if len(e.MACs) > 0 && !slices.ContainsFunc(e.MACs, func(m attach.MAC) bool { return m.String() == mac.String() }) {
		return no
	}
	if e.VMs != nil {
		return p.byVMs([]Selector{*e.VMs})
	}
	return yes
}
