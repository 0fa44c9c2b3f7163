package v1alpha1

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Largest values of a policy's order and of the length of a rule's name.
const (
	MaxOrder    = 999999
	MaxRuleName = 255
)

// logLabel is one word in a line of a rule log.
var logLabel = regexp.MustCompile(`^[A-Za-z0-9._:/@+=-]{1,63}$`)

// ValidateFirewallPolicy checks a policy after defaulting, as far as the object
// alone can be judged.
func ValidateFirewallPolicy(f *FirewallPolicy) field.ErrorList {
	errs := validateMeta(&f.ObjectMeta)
	spec := field.NewPath("spec")
	switch f.Spec.Category {
	case "":
		errs = append(errs, field.Required(spec.Child("category"),
			"want Ethernet, Emergency, Infrastructure, Environment or Application"))
	default:
		errs = append(errs, validateEnum(spec.Child("category"), f.Spec.Category,
			CategoryEthernet, CategoryEmergency, CategoryInfrastructure, CategoryEnvironment, CategoryApplication)...)
	}
	if f.Spec.Order < 0 || f.Spec.Order > MaxOrder {
		errs = append(errs, field.Invalid(spec.Child("order"), f.Spec.Order, fmt.Sprintf("want 0 to %d", MaxOrder)))
	}
	errs = append(errs, validateAppliedTo(spec.Child("appliedTo"), f.Spec.AppliedTo)...)
	if s, strict := f.Spec.Stateful, f.Spec.TCPStrict; f.Spec.Category == CategoryEthernet {
		errs = append(errs, validateEthernet(spec, &f.Spec)...)
	} else if s != nil && !*s && strict != nil && !*strict {
		errs = append(errs, field.Forbidden(spec.Child("tcpStrict"), "without state no connection is picked up: leave it out, or stateful"))
	} else if s != nil && !*s && f.Spec.Sticky {
		errs = append(errs, field.Forbidden(spec.Child("sticky"), "without state there are no connections to keep: leave it out, or stateful"))
	}
	seen := map[int64]int{}
	for i := range f.Spec.Rules {
		r, at := &f.Spec.Rules[i], spec.Child("rules").Index(i)
		errs = append(errs, validateRule(at, r, f.Spec.Category == CategoryEthernet)...)
		if first, ok := seen[r.ID]; ok && r.ID != 0 {
			errs = append(errs, duplicate(at.Child("id"), r.ID,
				fmt.Sprintf("rules[%d] has this id: want another, unique in the policy", first)))
			continue
		}
		seen[r.ID] = i
	}
	return errs
}

func validateAppliedTo(path *field.Path, list []AppliedTo) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(path, "want networks, as [{network: vlan100}], VMs by label, an addressSet, or [{any: true}] for every port")}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	sets := map[string]bool{}
	for i, a := range list {
		at := path.Index(i)
		set := 0
		if a.Network != "" {
			set++
		}
		if a.Network != "" && a.VM == nil {
			if seen[a.Network] {
				errs = append(errs, duplicate(at.Child("network"), a.Network, "name each network once"))
			}
			seen[a.Network] = true
		}
		if a.Any {
			set++
			errs = append(errs, alone(at, len(list))...)
		}
		if a.VM != nil {
			if a.Network == "" {
				set++
			}
			if _, err := metav1.LabelSelectorAsSelector(a.VM); err != nil {
				errs = append(errs, field.Invalid(at.Child("vm"), "", err.Error()))
			}
		}
		if a.AddressSet != "" {
			set++
			if sets[a.AddressSet] {
				errs = append(errs, duplicate(at.Child("addressSet"), a.AddressSet, "name each set once"))
			}
			sets[a.AddressSet] = true // the resolver looks for it
			if err := setName(a.AddressSet); err != nil {
				errs = append(errs, field.Invalid(at.Child("addressSet"), a.AddressSet, err.Error()))
			}
		}
		errs = append(errs, exactlyOne(at, set, "network, vm, addressSet and any: true, or network and vm")...)
	}
	return errs
}

func validateRule(path *field.Path, r *FirewallRule, ethernet bool) field.ErrorList {
	var errs field.ErrorList
	if r.ID < 1 || r.ID > math.MaxUint32 {
		errs = append(errs, field.Invalid(path.Child("id"), r.ID,
			"want a number from 1 to 4294967295, unique in the policy"))
	}
	if len(r.Name) > MaxRuleName {
		errs = append(errs, field.Invalid(path.Child("name"), r.Name, fmt.Sprintf("want at most %d bytes", MaxRuleName)))
	}
	actions, kind := []Action{ActionAllow, ActionDrop, ActionReject}, validateIP
	if ethernet {
		actions, kind = actions[:2], validateFrames
	}
	errs = append(errs, kind(path, r)...)
	if r.Action == "" {
		errs = append(errs, field.Required(path.Child("action"), "want "+orList(actions)))
	} else if !ethernet || r.Action != ActionReject {
		errs = append(errs, validateAction(path.Child("action"), r.Action, actions...)...)
	}
	errs = append(errs, validateEnum(path.Child("direction"), r.Direction,
		DirectionIn, DirectionOut, DirectionInOut)...)
	errs = append(errs, validatePeers(path.Child("sources"), r.Sources, ethernet)...)
	errs = append(errs, validatePeers(path.Child("destinations"), r.Destinations, ethernet)...)
	if r.Action == ActionReject && !r.DestinationsExcluded && len(r.Destinations) > 0 && !slices.ContainsFunc(r.Destinations, isNoGroup) {
		errs = append(errs, field.Forbidden(path.Child("action"), "what goes to multicast is answered to nobody: want Drop"))
	}
	errs = append(errs, validateExcluded(path, "sources", r.SourcesExcluded, r.Sources)...)
	errs = append(errs, validateExcluded(path, "destinations", r.DestinationsExcluded, r.Destinations)...)
	errs = append(errs, validateServices(path.Child("services"), r.Services, ethernet)...)
	switch {
	case r.LogLabel == "":
	case !logLabel.MatchString(r.LogLabel):
		errs = append(errs, field.Invalid(path.Child("logLabel"), r.LogLabel,
			"want at most 63 letters, digits and ._:/@+=- without blanks, as it is one word of a line"))
	case !r.Log:
		errs = append(errs, field.Forbidden(path.Child("logLabel"), "the rule writes no lines: set log: true, or leave it out"))
	}
	return append(errs, validateEnum(path.Child("state"), r.State, RuleEnabled, RuleMonitor, RuleDisabled)...)
}

// isNoGroup says that a peer is more than multicast groups, or may be.
func isNoGroup(p Peer) bool {
	first, last, err := ParseSpan(cmp.Or(p.IP, p.CIDR, p.Range))
	return err != nil || !first.IsMulticast() || !last.IsMulticast()
}

// validateAction refuses actions that mean something elsewhere by name.
func validateAction(path *field.Path, a Action, want ...Action) field.ErrorList {
	if !slices.Contains(want, a) && (a == ActionReject || a == ActionPass) {
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("this version does not enforce %s: want %s", a, orList(want)))}
	}
	return validateEnum(path, a, want...)
}

// orList is "A, B or C".
func orList[T ~string](items []T) string {
	last := len(items) - 1
	texts := make([]string, last)
	for i := range texts {
		texts[i] = string(items[i])
	}
	return strings.Join(texts, ", ") + " or " + string(items[last])
}

func validatePeers(path *field.Path, peers []Peer, ethernet bool) field.ErrorList {
	errs := notEmpty(path, peers)
	for i, p := range peers {
		at := path.Index(i)
		set := 0
		check := func(name, value string, parse func(string) error) {
			if value == "" {
				return
			}
			set++
			if err := parse(value); err != nil {
				errs = append(errs, field.Invalid(at.Child(name), value, err.Error()))
			}
		}
		check("ip", p.IP, func(s string) error { _, err := ParseIP(s); return err })
		check("cidr", p.CIDR, func(s string) error { _, err := ParseCIDR(s); return err })
		check("range", p.Range, func(s string) error { _, _, err := ParseRange(s); return err })
		check("addressSet", p.AddressSet, setName) // the resolver looks for it
		check("network", p.Network, func(string) error { return nil })
		check("mac", p.MAC, func(s string) error { _, err := policy.ParseMACs(s); return err })
		if p.VM != nil {
			set++
			if ethernet {
				errs = append(errs, field.Forbidden(at.Child("vm"), vmInFrame))
			} else {
				errs = append(errs, clusterOnly(at.Child("vm")))
			}
		}
		if p.Any {
			set++
			errs = append(errs, alone(at, len(peers))...)
		}
		errs = append(errs, exactlyOne(at, set, "ip, cidr, range, addressSet, network, mac and any: true")...)
	}
	return errs
}

// setName refuses what no AddressSet can be called.
func setName(name string) error {
	if strings.Contains(name, " ") {
		return errors.New("is the name of no AddressSet: a VLANNetwork's subnets go under network")
	}
	return nil
}

// validateExcluded checks peers that are turned round.
func validateExcluded(path *field.Path, side string, excluded bool, peers []Peer) field.ErrorList {
	if !excluded {
		return nil
	}
	if peers == nil || slices.ContainsFunc(peers, func(p Peer) bool { return p.Any }) {
		return field.ErrorList{field.Invalid(path.Child(side+"Excluded"), true,
			fmt.Sprintf("the rule would match nothing: want %s other than any, or leave it out", side))}
	}
	return nil
}

// MisplacedVMs refuses peers by label that are turned round, as a VM whose address nobody
// knows would match then, and those of Ethernet rules.
func MisplacedVMs(spec *FirewallPolicySpec) field.ErrorList {
	var errs field.ErrorList
	check := func(at *field.Path, excluded bool, peers []Peer) {
		for i, p := range peers {
			switch {
			case p.VM == nil:
			case spec.Category == CategoryEthernet:
				errs = append(errs, field.Forbidden(at.Index(i).Child("vm"), vmInFrame))
			case excluded:
				errs = append(errs, field.Forbidden(at.Index(i).Child("vm"),
					"a VM whose address is not known would not be excluded: name it by ip, or take it out"))
			}
		}
	}
	for i := range spec.Rules {
		r, at := &spec.Rules[i], field.NewPath("spec", "rules").Index(i)
		check(at.Child("sources"), r.SourcesExcluded, r.Sources)
		check(at.Child("destinations"), r.DestinationsExcluded, r.Destinations)
	}
	return errs
}

func validateServices(path *field.Path, services []Service, ethernet bool) field.ErrorList {
	errs := append(notEmpty(path, services), validateCombinations(path, services)...)
	for i := range services {
		s, at := &services[i], path.Index(i)
		if s.ServiceSet != "" { // the resolver looks for it
			if !reflect.DeepEqual(*s, Service{ServiceSet: s.ServiceSet}) {
				errs = append(errs, field.Forbidden(at.Child("serviceSet"), "is alone in its item: leave the other fields out, or move them to an item of their own"))
			}
			continue
		}
		if !s.Any {
			if !ethernet || s.EtherType != "" { // else validateFrames has said it
				errs = append(errs, validateService(at, s)...)
			}
			continue
		}
		errs = append(errs, alone(at, len(services))...)
		if !reflect.DeepEqual(*s, Service{Any: true}) {
			errs = append(errs, field.Invalid(at.Child("any"), true, "is every service: leave the other fields out, or any"))
		}
	}
	return errs
}

func validateService(path *field.Path, s *Service) field.ErrorList {
	var errs field.ErrorList
	switch {
	case s.EtherType != "":
		at := path.Child("etherType")
		if _, err := policy.ParseEtherType(s.EtherType); err != nil {
			errs = append(errs, field.Invalid(at, s.EtherType, err.Error()))
		}
		if !reflect.DeepEqual(*s, Service{EtherType: s.EtherType}) {
			errs = append(errs, field.Forbidden(at, "is alone in its item: leave the other fields out, or write them in a policy of another category"))
		}
		return errs
	case s.ProtocolNumber != nil:
		return validateNumber(path, s)
	case s.Protocol == "":
		return field.ErrorList{field.Required(path.Child("protocol"), "want TCP, UDP, SCTP, ICMP or ICMPv6, or a protocolNumber")}
	case s.Protocol.hasPorts():
		if s.Types != nil {
			errs = append(errs, field.Forbidden(path.Child("types"), fmt.Sprintf("%s has ports: want ports, or protocol ICMP or ICMPv6", s.Protocol)))
		}
		if s.Codes != nil {
			errs = append(errs, field.Forbidden(path.Child("codes"), fmt.Sprintf("%s has none: leave it out, or want protocol ICMP or ICMPv6", s.Protocol)))
		}
		ports := func(name, text string) {
			if _, err := ParsePorts(text); text != "" && err != nil {
				errs = append(errs, field.Invalid(path.Child(name), text, err.Error()))
			}
		}
		if s.TCPFlags != "" {
			at := path.Child("tcpFlags")
			if _, err := policy.ParseTCPFlags(s.TCPFlags); err != nil {
				errs = append(errs, field.Invalid(at, s.TCPFlags, err.Error()))
			} else if s.Protocol != ProtocolTCP {
				errs = append(errs, field.Forbidden(at, fmt.Sprintf("%s has none: leave it out, or want protocol TCP", s.Protocol)))
			}
		}
		ports("ports", s.Ports)
		ports("sourcePorts", s.SourcePorts)
		return errs
	case s.Protocol != ProtocolICMP && s.Protocol != ProtocolICMPv6:
		return validateEnum(path.Child("protocol"), s.Protocol, ProtocolTCP, ProtocolUDP, ProtocolSCTP, ProtocolICMP, ProtocolICMPv6)
	}
	none := func(name, ports string) {
		if ports != "" {
			errs = append(errs, field.Forbidden(path.Child(name), fmt.Sprintf("%s has no ports: want types, or protocol TCP, UDP or SCTP", s.Protocol)))
		}
	}
	none("ports", s.Ports)
	none("sourcePorts", s.SourcePorts)
	if s.TCPFlags != "" {
		errs = append(errs, field.Forbidden(path.Child("tcpFlags"), fmt.Sprintf("%s has none: leave it out, or want protocol TCP", s.Protocol)))
	}
	errs = append(errs, notEmpty(path.Child("types"), s.Types)...)
	errs = append(errs, notEmpty(path.Child("codes"), s.Codes)...)
	if s.Codes != nil && len(s.Types) != 1 {
		errs = append(errs, field.Forbidden(path.Child("codes"), "a code is one of a type: want types with that one alone, as [3]"))
	}
	bytes := func(name string, list []int32) {
		for i, n := range list {
			if n < 0 || n > 255 {
				errs = append(errs, field.Invalid(path.Child(name+"s").Index(i), n, "want a "+name+" from 0 to 255"))
			}
		}
	}
	bytes("type", s.Types)
	bytes("code", s.Codes)
	return errs
}

func (p Protocol) hasPorts() bool {
	return p == ProtocolTCP || p == ProtocolUDP || p == ProtocolSCTP
}

// validateNumber checks a service of an IP protocol by number.
func validateNumber(path *field.Path, s *Service) field.ErrorList {
	n := *s.ProtocolNumber
	at := path.Child("protocolNumber")
	switch {
	case n < 0 || n > 255:
		return field.ErrorList{field.Invalid(at, n, "want an IP protocol's number from 0 to 255, as 47 for GRE")}
	case slices.Contains([]int32{0, 43, 44, 60}, n): // RFC 8200: options, routing, fragment, destination options
		return field.ErrorList{field.Invalid(at, n, "is an IPv6 extension header, and no protocol: want that of what is behind it")}
	case !reflect.DeepEqual(*s, Service{ProtocolNumber: s.ProtocolNumber}):
		return field.ErrorList{field.Forbidden(at, "is all of a protocol: leave the other fields out, or want protocol with its ports or types")}
	}
	return nil
}

// exactlyOne wants one of the fields of an item.
func exactlyOne(at *field.Path, set int, fields string) field.ErrorList {
	switch set {
	case 0:
		return field.ErrorList{field.Required(at, "want exactly one of "+fields)}
	case 1:
		return nil
	}
	return field.ErrorList{field.Forbidden(at, fmt.Sprintf("has %d fields: want exactly one of %s", set, fields))}
}

// alone says that an item with any: true is the only one of its list.
func alone(at *field.Path, items int) field.ErrorList {
	if items == 1 {
		return nil
	}
	return field.ErrorList{field.Invalid(at.Child("any"), true,
		"already covers the other items: want it alone in the list, or take it out")}
}

// notEmpty tells a list that was left out (Any) from one without items, which
// would match nothing and is more likely a slip.
func notEmpty[T any](path *field.Path, list []T) field.ErrorList {
	if list == nil || len(list) > 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, "[]", "would match nothing: leave it out for Any, or name at least one")}
}
