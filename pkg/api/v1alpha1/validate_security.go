package v1alpha1

import (
	"fmt"
	"net"
	"reflect"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePortSecurity(path *field.Path, p *PortSecurity) field.ErrorList {
	errs := validateSwitches(path, &p.SecuritySwitches)
	forged := p.ForgedTransmits == SecurityAccept
	alone := func(path *field.Path, s *SecuritySwitches) {
		if s.MACChanges == SecurityAccept && s.ForgedTransmits != SecurityAccept && !forged {
			errs = append(errs, field.Invalid(path.Child("macChanges"), s.MACChanges, "gives the VM what is sent to MACs that it has sent from: want forgedTransmits: Accept, too"))
		}
	}
	alone(path, &p.SecuritySwitches)
	for i := range p.Exceptions {
		at := path.Child("exceptions").Index(i)
		errs = append(errs, validateException(at, &p.Exceptions[i])...)
		alone(at, &p.Exceptions[i].SecuritySwitches)
	}
	return errs
}

func validateRates(path *field.Path, r *RateLimits) field.ErrorList {
	var errs field.ErrorList
	if r == nil {
		return nil
	}
	for _, f := range []struct {
		name  string
		value *int32
	}{{"broadcast", r.Broadcast}, {"multicast", r.Multicast}, {"unknownUnicast", r.UnknownUnicast}} {
		if f.value != nil && (*f.value < 0 || *f.value > MaxRate) {
			errs = append(errs, field.Invalid(path.Child(f.name), *f.value, fmt.Sprintf("want 0, which is no limit, to %d packets a second", MaxRate)))
		}
	}
	return errs
}

func validateException(path *field.Path, e *SecurityException) field.ErrorList {
	errs := validateSwitches(path, &e.SecuritySwitches)
	switch {
	case e.VM != nil:
		errs = append(errs, clusterOnly(path.Child("vm")))
	case len(e.MACs) == 0:
		errs = append(errs, field.Required(path.Child("macs"), "want the MACs of the NICs that it is for"))
	}
	named := e.SecuritySwitches
	if r := named.RateLimits; r != nil && *r == (RateLimits{}) {
		named.RateLimits = nil
	}
	if reflect.ValueOf(named).IsZero() {
		errs = append(errs, field.Required(path, "names no switch: want one, as promiscuous: Accept, or leave the exception out"))
	}
	seen := map[string]bool{}
	for i, text := range e.MACs {
		at := path.Child("macs").Index(i)
		m, err := net.ParseMAC(text)
		switch {
		case err != nil || len(m) != 6:
			errs = append(errs, field.Invalid(at, text, "want a MAC of six bytes, as 00:50:56:0a:0b:0c"))
		case m[0]&1 != 0:
			errs = append(errs, field.Invalid(at, text, "is a multicast address: want that of a NIC"))
		case seen[m.String()]:
			errs = append(errs, duplicate(at, text, "name each NIC once"))
		}
		seen[m.String()] = true
	}
	return errs
}

func validateSwitches(path *field.Path, s *SecuritySwitches) field.ErrorList {
	errs := validateRates(path.Child("rateLimits"), s.RateLimits)
	for _, f := range []struct {
		name  string
		value SecurityAction
	}{{"macChanges", s.MACChanges}, {"forgedTransmits", s.ForgedTransmits}, {"promiscuous", s.Promiscuous}} {
		if f.value != "" && f.value != SecurityReject && f.value != SecurityAccept {
			errs = append(errs, field.NotSupported(path.Child(f.name), f.value, []SecurityAction{SecurityAccept, SecurityReject}))
		}
	}
	switch s.IPGuard {
	case "", IPGuardOff, IPGuardLearn, IPGuardStrict, ipGuardDisabled:
	default:
		errs = append(errs, field.NotSupported(path.Child("ipGuard"), s.IPGuard, []IPGuard{IPGuardOff, IPGuardLearn, IPGuardStrict}))
	}
	for _, f := range []struct {
		name  string
		value Switch
	}{{"arpGuard", s.ARPGuard}, {"ndGuard", s.NDGuard}, {"dhcpServerGuard", s.DHCPServerGuard}, {"raGuard", s.RAGuard}, {"bpduGuard", s.BPDUGuard}} {
		if f.value != "" && f.value != SwitchDisabled && f.value != SwitchEnabled {
			errs = append(errs, field.NotSupported(path.Child(f.name), f.value, []Switch{SwitchEnabled, SwitchDisabled}))
		}
	}
	if _, i, err := ParseEtherTypes(s.EtherTypes); err != nil {
		at, value := path.Child("etherTypes"), any(s.EtherTypes)
		if i >= 0 {
			at, value = at.Index(i), s.EtherTypes[i]
		}
		errs = append(errs, field.Invalid(at, value, err.Error()))
	}
	return errs
}
