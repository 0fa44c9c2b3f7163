package v1alpha1

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// ValidateVLANTrunk checks a trunk after defaulting, as far as the object alone
// can be judged.
func ValidateVLANTrunk(t *VLANTrunk) field.ErrorList {
	errs := validateMeta(&t.ObjectMeta)
	spec := field.NewPath("spec")
	if len(t.Spec.NodeSelector) > 0 {
		errs = append(errs, clusterOnly(spec.Child("nodeSelector")))
	}
	if t.Spec.AdvertiseResource {
		errs = append(errs, clusterOnly(spec.Child("advertiseResource")))
	}
	bridge := spec.Child("bridge")
	errs = append(errs, validateIfName(bridge.Child("name"), t.Spec.Bridge.Name)...)
	if t.Spec.Bridge.Managed == nil {
		errs = append(errs, field.Required(bridge.Child("managed"),
			"want true (Homeport creates the bridge) or false (it exists and belongs to others)"))
	}
	errs = append(errs, validateMTU(spec.Child("mtu"), t.Spec.MTU)...)
	management, err := vlan.ParseSet(t.Spec.ManagementVLANs)
	if err != nil {
		errs = append(errs, field.Invalid(spec.Child("managementVLANs"), t.Spec.ManagementVLANs, err.Error()))
	}
	errs = append(errs, validateUplink(spec.Child("uplink"), &t.Spec, management)...)
	errs = append(errs, validateEnum(spec.Child("hostFirewall"), t.Spec.HostFirewall, HostFirewallDetect, HostFirewallBypass)...)
	errs = append(errs, validateEnum(spec.Child("fastPath"), t.Spec.FastPath, FastPathAuto, FastPathOff)...)
	return append(errs, validateEnum(spec.Child("inlineConfig"), t.Spec.InlineConfig, InlineAllow, InlineRefuse)...)
}

func validateUplink(path *field.Path, spec *VLANTrunkSpec, management vlan.Set) field.ErrorList {
	var errs field.ErrorList
	up := &spec.Uplink
	if up.Interface != "" {
		errs = append(errs, validateIfName(path.Child("interface"), up.Interface)...)
		if up.Interface == spec.Bridge.Name {
			errs = append(errs, field.Invalid(path.Child("interface"), up.Interface,
				"is the trunk's own bridge: want the NIC or bond that leads to the switch"))
		}
	}
	allowed := path.Child("allowedVLANs")
	if up.AllowedVLANs == "" {
		errs = append(errs, field.Required(allowed, `want the VLANs that networks may use, as "100-110,200"`))
	} else if set, err := vlan.ParseSet(up.AllowedVLANs); err != nil {
		errs = append(errs, field.Invalid(allowed, up.AllowedVLANs, err.Error()))
	} else if set.Minus(management).Empty() {
		errs = append(errs, field.Invalid(allowed, up.AllowedVLANs,
			"has nothing but management VLANs: want at least one VLAN for networks"))
	}
	if up.NativeVLAN == nil {
		return errs
	}
	native := path.Child("nativeVLAN")
	errs = append(errs, validateVLANID(native, *up.NativeVLAN)...)
	if management.Contains(vlan.ID(*up.NativeVLAN)) && *up.NativeVLAN > 0 && *up.NativeVLAN <= int32(vlan.Max) {
		errs = append(errs, field.Invalid(native, *up.NativeVLAN,
			"is a management VLAN, which is never touched: leave nativeVLAN out"))
	}
	if up.Interface == "" {
		errs = append(errs, field.Invalid(native, *up.NativeVLAN,
			"has no meaning without uplink.interface: name the interface or leave nativeVLAN out"))
	}
	return errs
}

// ValidateVLANNetwork checks a network after defaulting, as far as the object
// alone can be judged.
func ValidateVLANNetwork(n *VLANNetwork) field.ErrorList {
	errs := validateMeta(&n.ObjectMeta)
	spec := field.NewPath("spec")
	if n.Spec.Trunk == "" {
		errs = append(errs, field.Required(spec.Child("trunk"), "want the name of a VLANTrunk"))
	}
	errs = append(errs, validateNetworkVLAN(spec.Child("vlan"), &n.Spec.VLAN)...)
	errs = append(errs, validateMTU(spec.Child("mtu"), n.Spec.MTU)...)
	errs = append(errs, validateSubnets(spec.Child("subnets"), n.Spec.Subnets)...)
	if n.Spec.DefaultAction == "" {
		errs = append(errs, field.Required(spec.Child("defaultAction"),
			"want Allow or Drop for traffic that no rule matches"))
	} else {
		errs = append(errs, validateAction(spec.Child("defaultAction"), n.Spec.DefaultAction, ActionAllow, ActionDrop)...)
	}
	switch path := spec.Child("clusterNetworkPolicies"); n.Spec.ClusterNetworkPolicies {
	case "", SwitchDisabled:
	case SwitchEnabled:
		errs = append(errs, clusterOnly(path))
	default:
		errs = append(errs, field.NotSupported(path, n.Spec.ClusterNetworkPolicies, []Switch{SwitchEnabled, SwitchDisabled}))
	}
	if n.Spec.Addressing != nil {
		errs = append(errs, validateAddressing(spec.Child("addressing"), &n.Spec)...)
	}
	if n.Spec.PortSecurity != nil {
		errs = append(errs, validatePortSecurity(spec.Child("portSecurity"), n.Spec.PortSecurity)...)
	}
	if n.Spec.Reachability != nil {
		errs = append(errs, validateReachability(spec.Child("reachability"), n.Spec.Reachability)...)
		errs = append(errs, validateProbed(spec.Child("reachability"), &n.Spec)...)
	}
	if n.Spec.Namespaces != nil {
		errs = append(errs, clusterOnly(spec.Child("namespaces")))
	}
	return errs
}

func validateNetworkVLAN(path *field.Path, v *NetworkVLAN) field.ErrorList {
	errs := validateEnum(path.Child("mode"), v.Mode, ModeAccess, ModeTrunk, ModeNative)
	if len(errs) > 0 {
		return errs
	}
	id, trunk := path.Child("id"), path.Child("trunk")
	switch {
	case v.ID != nil && v.Mode == ModeTrunk:
		errs = append(errs, field.Forbidden(id,
			"mode Trunk has no untagged VLAN: leave id out, or want mode Native for one"))
	case v.ID != nil:
		errs = append(errs, validateVLANID(id, *v.ID)...)
	case v.Mode != ModeTrunk:
		errs = append(errs, field.Required(id, fmt.Sprintf("mode %s wants a VLAN from %d to %d", v.Mode, vlan.Min, vlan.Max)))
	}
	if v.Mode == ModeAccess {
		if v.Trunk != nil {
			errs = append(errs, field.Forbidden(trunk,
				"mode Access gives one VLAN: leave trunk out, or want mode Trunk or Native"))
		}
		return errs
	}
	if len(v.Trunk) == 0 {
		return append(errs, field.Required(trunk,
			fmt.Sprintf(`mode %s wants the VLANs that the guest tags, as ["100-110", "200"]`, v.Mode)))
	}
	set, i, err := ParseTrunk(v.Trunk)
	if err != nil {
		return append(errs, field.Invalid(trunk.Index(i), v.Trunk[i], err.Error()))
	}
	if v.ID != nil && *v.ID > 0 && *v.ID <= int32(vlan.Max) && set.Contains(vlan.ID(*v.ID)) {
		errs = append(errs, field.Invalid(id, *v.ID,
			"is also in vlan.trunk: a VLAN is either untagged or tagged; take it out of one"))
	}
	return errs
}

func validateSubnets(path *field.Path, subnets []Subnet) field.ErrorList {
	var errs field.ErrorList
	seen := map[netip.Prefix]bool{}
	for i, s := range subnets {
		at := path.Index(i)
		if s.CIDR == "" {
			errs = append(errs, field.Required(at.Child("cidr"), "want a prefix as 10.100.0.0/24"))
			continue
		}
		cidr, err := ParseCIDR(s.CIDR)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child("cidr"), s.CIDR, err.Error()))
			continue
		}
		if seen[cidr] {
			errs = append(errs, duplicate(at.Child("cidr"), s.CIDR, "name each subnet once"))
		}
		seen[cidr] = true
		if s.Gateway == "" {
			continue
		}
		gw, err := ParseIP(s.Gateway)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child("gateway"), s.Gateway, err.Error()))
		} else if !cidr.Contains(gw) {
			errs = append(errs, field.Invalid(at.Child("gateway"), s.Gateway, "want an address inside "+s.CIDR))
		}
	}
	return errs
}

func validateReachability(path *field.Path, r *Reachability) (errs field.ErrorList) {
	if r.Required {
		errs = append(errs, clusterOnly(path.Child("required")))
	}
	switch r.DHCP {
	case "", SwitchEnabled, SwitchDisabled:
	default:
		errs = append(errs, field.NotSupported(path.Child("dhcp"), r.DHCP, []Switch{SwitchEnabled, SwitchDisabled}))
	}
	seen := map[netip.Addr]bool{}
	for i, s := range r.DHCPServers {
		at := path.Child("dhcpServers").Index(i)
		a, err := ParseIP(s)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(at, s, err.Error()))
		case !a.Is4():
			errs = append(errs, field.Invalid(at, s, "want an IPv4 address"))
		case seen[a]:
			errs = append(errs, duplicate(at, s, "name each server once"))
		}
		seen[a] = true
	}
	return errs
}

// validateMeta wants a name that the API server would take as well.
func validateMeta(m *metav1.ObjectMeta) field.ErrorList {
	path := field.NewPath("metadata", "name")
	if m.Name == "" {
		return field.ErrorList{field.Required(path, "want a name as vlan100")}
	}
	if len(validation.IsDNS1123Subdomain(m.Name)) > 0 {
		return field.ErrorList{field.Invalid(path, m.Name, "want lower case letters, digits, '-' and '.', "+
			"first and last a letter or digit, at most 253 bytes")}
	}
	return nil
}

// validateIfName applies the kernel's rules (net/core/dev.c, dev_valid_name).
func validateIfName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "want an interface name as br-trunk0")}
	}
	bad := strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) })
	if bad || len(name) > 15 || name == "." || name == ".." {
		return field.ErrorList{field.Invalid(path, name,
			"want an interface name of at most 15 bytes without '/', ':' and spaces")}
	}
	return nil
}

func validateMTU(path *field.Path, mtu *int32) field.ErrorList {
	if mtu == nil || *mtu >= MinMTU && *mtu <= MaxMTU {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *mtu, fmt.Sprintf("want %d to %d bytes", MinMTU, MaxMTU))}
}

func validateVLANID(path *field.Path, id int32) field.ErrorList {
	if id >= int32(vlan.Min) && id <= int32(vlan.Max) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, id, fmt.Sprintf("want a VLAN from %d to %d", vlan.Min, vlan.Max))}
}

func validateEnum[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

// clusterOnly refuses a field that the Kubernetes source has dealt with before,
// and that would be without effect in a directory of manifests.
func clusterOnly(path *field.Path) *field.Error {
	return field.Forbidden(path, "is enforced with --source kube alone: leave it out")
}

// duplicate is field.Duplicate with a word on what to do.
func duplicate(path *field.Path, value any, remedy string) *field.Error {
	err := field.Duplicate(path, value)
	err.Detail = remedy
	return err
}
