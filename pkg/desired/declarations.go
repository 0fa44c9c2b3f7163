package desired

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Declaration is an address that an object declares for a NIC.
type Declaration struct {
	Addr   netip.Addr
	Source string // one of the sources below
}

// Who declares addresses in a pod's annotations. Calico and OVN-Kubernetes tell what they gave or were told to give:
// hints, of the interface that they name alone, which count where the other annotations declare no address of their IP version.
const (
	SourceAddresses = "network.kubevirt.io/addresses"
	SourceMultus    = "Multus"
	SourceCalico    = "Calico"
	SourceOVN       = "OVN"
	SourceIPAMClaim = "IPAMClaim" // which annotations name
)

// Annotations that are read.
const (
	addressesAnnotation = "network.kubevirt.io/addresses"     // {"VM's network": ["10.0.0.5/24"]}, kubevirt/ipam-extensions
	networksAnnotation  = "k8s.v1.cni.cncf.io/networks"       // the Network Plumbing Group's standard, 4.1.1
	calicoAnnotation    = "cni.projectcalico.org/ipAddrs"     // ["10.0.0.5"], of the pod's first interface
	ovnAnnotation       = "k8s.ovn.org/pod-networks"          // {"default": …, "namespace/name": {"ip_addresses": ["10.0.0.5/24"]}}
	claimAnnotation     = "k8s.ovn.org/primary-udn-ipamclaim" // the name of an IPAMClaim, of the pod's first interface
	firstInterface      = "eth0"                              // of a pod: that of its cluster's own network
)

// NetworkStatusAnnotation is what Multus writes of a pod's interfaces (the Network Plumbing Group's standard, 5.1), where addresses
// that are held can be added. It declares nothing.
const NetworkStatusAnnotation = "k8s.v1.cni.cncf.io/network-status"

// DeclarationAnnotations are all annotations that Declarations reads.
func DeclarationAnnotations() []string {
	return []string{addressesAnnotation, networksAnnotation, calicoAnnotation, ovnAnnotation, claimAnnotation}
}

// PodNIC names an interface of a pod.
type PodNIC struct {
	Namespace string // of the pod
	Interface string // as ADD named it
	// VMNetwork is the network's name in the VM's spec (spec.networks[].name); "" is not known: then it is told by
	// Interface, which KubeVirt makes of it.
	VMNetwork string
}

// Declarations reads from a pod's annotations which addresses are declared for one of its interfaces: in the order of the sources,
// each address once of each source. What is wrong is left out, and told with the annotation and what would be right; an
// annotation that cannot be read keeps no other from being read.
func Declarations(annotations map[string]string, nic PodNIC) ([]Declaration, []error) {
	r := declarations{nic: nic}
	r.kubevirt(annotations[addressesAnnotation])
	r.multus(annotations[networksAnnotation])
	r.calico(annotations[calicoAnnotation])
	r.ovn(annotations[ovnAnnotation])
	return withoutOverruled(r.found), r.errs
}

// withoutOverruled leaves out hints where what is no hint declares other addresses of their IP version.
func withoutOverruled(all []Declaration) []Declaration {
	firm, of := map[netip.Addr]bool{}, map[int]bool{} // addresses, and their lengths in bits
	for _, d := range all {
		if d.Source != SourceCalico && d.Source != SourceOVN {
			firm[d.Addr], of[d.Addr.BitLen()] = true, true
		}
	}
	return slices.DeleteFunc(all, func(d Declaration) bool { return of[d.Addr.BitLen()] && !firm[d.Addr] })
}

// IPAMClaims are the names of the IPAMClaims (k8s.cni.cncf.io/v1alpha1, in the pod's namespace) that a pod's annotations name, by the
// interface that each is for (kubevirt/ipam-extensions, pkg/ipamclaimswebhook).
func IPAMClaims(annotations map[string]string) map[string]string {
	out := map[string]string{}
	if name := annotations[claimAnnotation]; name != "" {
		out[firstInterface] = name
	}
	var elements []json.RawMessage
	_ = json.Unmarshal([]byte(annotations[networksAnnotation]), &elements) // the short form has none; Declarations tells what is wrong
	for i, raw := range elements {
		var e struct {
			Interface string
			Claim     string `json:"ipam-claim-reference"`
		}
		if json.Unmarshal(raw, &e) == nil && e.Claim != "" {
			out[cmp.Or(e.Interface, fmt.Sprintf("net%d", i+1))] = e.Claim
		}
	}
	return out
}

type declarations struct {
	nic   PodNIC
	found []Declaration
	errs  []error
	key   string // of the NetworkAttachmentDefinition behind the interface, as OVN-Kubernetes has it; "" is not known
}

// fail tells what is wrong with an annotation at a place in it, which may be "".
func (r *declarations) fail(annotation, place, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("annotation %s%s: %w", annotation, place, fmt.Errorf(format, args...)))
}

// read fills a value from JSON, and says whether it could.
func (r *declarations) read(annotation, place string, text []byte, into any, want string) bool {
	err := json.Unmarshal(text, into)
	if err == nil {
		return true
	}
	var typ *json.UnmarshalTypeError
	if errors.As(err, &typ) {
		r.fail(annotation, place, "is of another form (%s): want %s", typ.Value, want)
	} else {
		r.fail(annotation, place, "is not JSON (%v): want %s", err, want)
	}
	return false
}

// add takes addresses, with or without the length of their prefix.
func (r *declarations) add(annotation, place, source string, list []string) {
	for i, text := range list {
		at := fmt.Sprintf("%s[%d]", place, i)
		a, err := netip.ParseAddr(text)
		if p, errPrefix := netip.ParsePrefix(text); errPrefix == nil {
			a, err = p.Addr(), nil
		}
		d := Declaration{Addr: a, Source: source}
		switch {
		case err != nil:
			r.fail(annotation, at, "%q is no address: want one as 10.1.2.3, 10.1.2.3/24 or 2001:db8::1", text)
		case a.Is4In6():
			r.fail(annotation, at, "%q is IPv4 written as IPv6: want %v", text, a.Unmap())
		case a.Zone() != "":
			r.fail(annotation, at, "%q names an interface: want %v", text, a.WithZone(""))
		case !slices.Contains(r.found, d):
			r.found = append(r.found, d)
		}
	}
}

// kubevirt reads what users ask for, by the name of the VM's network.
func (r *declarations) kubevirt(text string) {
	const want = `{"NETWORK": ["10.1.2.3"]}, NETWORK as in spec.networks[].name of the VM`
	var byNetwork map[string]json.RawMessage
	if text == "" || !r.read(addressesAnnotation, "", []byte(text), &byNetwork, want) {
		return
	}
	for name, raw := range byNetwork {
		if name != r.nic.VMNetwork && (r.nic.VMNetwork != "" || interfaceOf(name) != r.nic.Interface) {
			continue
		}
		var list []string
		if place := fmt.Sprintf("[%q]", name); r.read(addressesAnnotation, place, raw, &list, want) {
			r.add(addressesAnnotation, place, SourceAddresses, list)
		}
	}
}

// interfaceOf is the pod's interface for a network of a VM's (kubevirt, pkg/network/namescheme).
func interfaceOf(network string) string {
	sum := sha256.Sum256([]byte(network))
	return "pod" + hex.EncodeToString(sum[:])[:11]
}

// multus reads the element that is for the interface. The short form, names with commas, has no addresses. An element without
// an interface's name has net1, net2 and so on, by its place.
func (r *declarations) multus(text string) {
	const want = `[{"name": "NETWORK", "interface": "INTERFACE", "ips": ["10.1.2.3/24"]}]`
	if !strings.ContainsAny(text, `[{"`) {
		r.short(text)
		return
	}
	var elements []json.RawMessage
	if !r.read(networksAnnotation, "", []byte(text), &elements, want) {
		return
	}
	keys := map[string]int{}
	for i, raw := range elements {
		var e struct {
			Name, Namespace, Interface string
			IPs                        json.RawMessage
		}
		place := fmt.Sprintf("[%d]", i)
		if !r.read(networksAnnotation, place, raw, &e, want) {
			continue
		}
		key := r.count(keys, e.Namespace, e.Name)
		if !r.here(e.Interface, i) {
			continue
		}
		r.key = key
		var list []string
		if e.IPs != nil && r.read(networksAnnotation, place+".ips", e.IPs, &list, want) {
			r.add(networksAnnotation, place+".ips", SourceMultus, list)
		}
	}
}

// short reads namespace/name@interface, of which all but the name may be missing.
func (r *declarations) short(text string) {
	keys := map[string]int{}
	for i, item := range strings.Split(text, ",") {
		name, ifname, _ := strings.Cut(strings.TrimSpace(item), "@")
		namespace, rest, both := strings.Cut(name, "/")
		if !both {
			namespace, rest = "", name
		}
		if key := r.count(keys, namespace, rest); r.here(ifname, i) {
			r.key = key
		}
	}
}

func (r *declarations) here(ifname string, place int) bool {
	if ifname == "" {
		ifname = fmt.Sprintf("net%d", place+1)
	}
	return ifname == r.nic.Interface
}

// count is the key that OVN-Kubernetes has for an element: those after the first of a network have a number.
func (r *declarations) count(keys map[string]int, namespace, name string) string {
	if namespace == "" {
		namespace = r.nic.Namespace
	}
	key := namespace + "/" + name
	n := keys[key]
	if keys[key]++; n > 0 {
		return fmt.Sprintf("%s/%d", key, n)
	}
	return key
}

// calico reads what Calico is told to give the pod's first interface.
func (r *declarations) calico(text string) {
	if text == "" || r.nic.Interface != firstInterface {
		return
	}
	var list []string
	if r.read(calicoAnnotation, "", []byte(text), &list, `["10.1.2.3"]`) {
		r.add(calicoAnnotation, "", SourceCalico, list)
	}
}

// ovn reads what OVN-Kubernetes gave the interface.
func (r *declarations) ovn(text string) {
	const want = `{"NAMESPACE/NETWORK": {"ip_addresses": ["10.1.2.3/24"]}}`
	key := r.key
	if r.nic.Interface == firstInterface && key == "" {
		key = "default"
	}
	var byNetwork map[string]json.RawMessage
	if text == "" || key == "" || !r.read(ovnAnnotation, "", []byte(text), &byNetwork, want) {
		return
	}
	raw, ok := byNetwork[key]
	if !ok {
		return
	}
	var e struct {
		Addresses []string `json:"ip_addresses"`
		Address   string   `json:"ip_address"` // the same, of versions before there could be two
	}
	place := fmt.Sprintf("[%q].ip_addresses", key)
	if !r.read(ovnAnnotation, fmt.Sprintf("[%q]", key), raw, &e, want) {
		return
	}
	if len(e.Addresses) == 0 && e.Address != "" {
		e.Addresses = []string{e.Address}
	}
	r.add(ovnAnnotation, place, SourceOVN, e.Addresses)
}
