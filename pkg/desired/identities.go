package desired

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Addressing says how addresses of a network's NICs become known, and when they are forgotten.
type Addressing struct {
	Mode   learn.Mode     `json:"mode,omitempty"`   // "" is Observed
	Limit  int            `json:"limit,omitempty"`  // of addresses that were seen of a NIC in a VLAN, of a family; 0 is learn.DefaultLimit
	Expiry time.Duration  `json:"expiry,omitempty"` // of silence; 0 is never
	Shared []netip.Prefix `json:"shared,omitempty"` // move between NICs
	Probe  Probe          `json:"probe,omitempty"`
	// NetworkStatus: those that a NIC holds are written into its pod's annotation.
	NetworkStatus bool `json:"networkStatus,omitempty"`
	// Suppression is attach.Security's: what ports do is there.
	Suppression bool `json:"suppression,omitempty"`
}

// Probe says whether the VLAN is asked who has an address that is declared for a NIC, before that uses it, and what an
// answer does; "" is that it is not.
type Probe string

// What an answer does.
const (
	ProbeReport Probe = "Report" // it is told
	ProbeRefuse Probe = "Refuse" // ADD fails
)

func addressingOf(errs *field.ErrorList, a *v1alpha1.Addressing) Addressing {
	out := Addressing{Mode: cmp.Or(learn.Mode(a.Mode), learn.ModeObserved), Limit: int(deref(a.Limit)), Suppression: a.Suppression == v1alpha1.SwitchEnabled}
	if a.Probe != v1alpha1.AddressProbeOff {
		out.Probe = Probe(a.Probe)
	}
	if a.Expiry != "" {
		out.Expiry = must(errs, "spec.addressing.expiry", time.ParseDuration, a.Expiry)
	}
	for _, text := range a.SharedAddresses {
		out.Shared = append(out.Shared, must(errs, "spec.addressing.sharedAddresses", v1alpha1.ParseShared, text))
	}
	return out
}

// Learn is what a book of addresses has to know of the network.
func (n *Network) Learn() learn.Network {
	out := learn.Network{Mode: cmp.Or(n.Addressing.Mode, learn.ModeObserved), Limit: n.Addressing.Limit, Expiry: n.Addressing.Expiry, Shared: slices.Clone(n.Addressing.Shared)}
	for _, s := range n.Subnets {
		out.Subnets = append(out.Subnets, s.CIDR)
		if s.Gateway.IsValid() {
			out.Gateways = append(out.Gateways, s.Gateway)
		}
	}
	return out
}

// Identity is what a NIC is known by on a network, wherever it is: a VMIdentity, or what that says of one of the VM's NICs on the network.
type Identity struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`          // of the object
	VM        string     `json:"vm,omitempty"`  // its name
	Pod       string     `json:"pod,omitempty"` // that of a pod without a VM
	UID       string     `json:"uid,omitempty"` // of the VM, or that pod
	Network   string     `json:"network"`
	Node      string     `json:"node,omitempty"`
	MAC       attach.MAC `json:"mac,omitempty"`
	// Addresses that the NIC holds; Waiting are those that wait for a person. Both by address and VLAN.
	Addresses []IdentityAddress `json:"addresses,omitempty"`
	Waiting   []IdentityAddress `json:"waiting,omitempty"`
	// Manual are those that a person has set, in the network's VLAN; Decisions are about such as the NIC does not claim now. In order.
	Manual    []netip.Addr       `json:"manual,omitempty"`
	Decisions []IdentityDecision `json:"decisions,omitempty"`
}

// IdentityDecision is a person's word on an address of a NIC.
type IdentityDecision struct {
	Addr   netip.Addr `json:"addr"`
	VLAN   vlan.ID    `json:"vlan,omitempty"` // 0 is the network's one
	Denied bool       `json:"denied,omitempty"`
	By     string     `json:"by"`
	At     time.Time  `json:"at"`
}

// IdentityAddress is an address of a NIC, and how it became known.
type IdentityAddress struct {
	Addr       netip.Addr       `json:"addr"`
	VLAN       vlan.ID          `json:"vlan,omitempty"`       // 0 is the network's one
	Provenance learn.Provenance `json:"provenance,omitempty"` // 0: in words that this version does not know
	Since      time.Time        `json:"since,omitzero"`
	Until      time.Time        `json:"until,omitzero"`     // of a lease
	Approved   string           `json:"approved,omitempty"` // by whom
}

// equal compares what both say; times by the moment.
func (i *Identity) equal(o *Identity) bool {
	same := func(a, b IdentityAddress) bool {
		moments := a.Since.Equal(b.Since) && a.Until.Equal(b.Until)
		a.Since, a.Until = b.Since, b.Until
		return moments && a == b
	}
	decided := func(a, b IdentityDecision) bool {
		moment := a.At.Equal(b.At)
		a.At = b.At
		return moment && a == b
	}
	if !slices.Equal(i.Manual, o.Manual) || !slices.EqualFunc(i.Decisions, o.Decisions, decided) {
		return false
	}
	return i.Namespace == o.Namespace && i.Name == o.Name && i.VM == o.VM && i.Pod == o.Pod && i.UID == o.UID && i.Network == o.Network && i.Node == o.Node &&
		slices.Equal(i.MAC, o.MAC) && slices.EqualFunc(i.Addresses, o.Addresses, same) && slices.EqualFunc(i.Waiting, o.Waiting, same)
}

// OnlyIdentities says that two snapshots differ in what is known of NICs at most: what is in force is the same.
func (s *Snapshot) OnlyIdentities(o *Snapshot) bool {
	a, b := *s, *o
	a.Identities, b.Identities = nil, nil
	return !differs(&a, &b) && a.Stale == b.Stale
}

func (s *Snapshot) sameIdentities(o *Snapshot) bool {
	return slices.EqualFunc(s.Identities, o.Identities, func(a, b Identity) bool { return a.equal(&b) })
}

// readIdentity takes from a VMIdentity what rules need, and who else learns from it.
func readIdentity(u *unstructured.Unstructured) holder {
	u = unpack(u)
	text := func(path ...string) string {
		s, _, _ := unstructured.NestedString(u.Object, path...)
		return s
	}
	id := Identity{Namespace: u.GetNamespace(), Name: u.GetName(), VM: text("spec", "vm", "name"), Pod: text("spec", "pod", "name"),
		UID: cmp.Or(text("spec", "vm", "uid"), text("spec", "pod", "uid")), Network: text("spec", "network"),
		Node: cmp.Or(text("status", "node"), text("spec", "pod", "node"))}
	h := holder{name: id.Namespace + "/" + id.Name, namespace: id.Namespace, vm: id.VM, pod: id.Pod, network: id.Network, labels: u.GetLabels()}
	first := macIn(u.Object["status"])
	for _, mac := range nicsIn(u, first) {
		id.MAC = parseMAC(mac)
		id.Addresses, id.Waiting, id.Decisions = addressesIn(u, "addresses", mac, first), addressesIn(u, "waiting", mac, first), decisionsIn(u, mac, first)
		if id.Manual = nil; mac == first {
			id.Manual = manualIn(u)
		}
		h.identities = append(h.identities, id)
		for _, a := range id.Addresses {
			h.addresses = append(h.addresses, a.Addr)
		}
	}
	return h
}

// macIn is the MAC that a part of a VMIdentity names; "" is that it names none.
func macIn(part any) string {
	m, _ := part.(map[string]any)
	text, _ := m["mac"].(string)
	return parseMAC(text).String()
}

func parseMAC(text string) attach.MAC {
	mac, _ := net.ParseMAC(text)
	return attach.MAC(mac)
}

// nicsIn are the MACs of the NICs that a VMIdentity is of, the first one first.
func nicsIn(u *unstructured.Unstructured, first string) []string {
	out := []string{first}
	for _, name := range []string{"addresses", "waiting", "decisions"} {
		list, _, _ := unstructured.NestedSlice(u.Object, "status", name)
		for _, item := range list {
			if mac := cmp.Or(macIn(item), first); !slices.Contains(out, mac) {
				out = append(out, mac)
			}
		}
	}
	slices.Sort(out[1:])
	return out
}

// addressesIn reads what a list of a VMIdentity's status has of one of its NICs; what is no address is none.
func addressesIn(u *unstructured.Unstructured, name, mac, first string) (out []IdentityAddress) {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", name)
	for _, item := range list {
		m, _ := item.(map[string]any)
		if cmp.Or(macIn(item), first) != mac {
			continue
		}
		text := func(name string) string {
			s, _ := m[name].(string)
			return s
		}
		addr, err := netip.ParseAddr(text("address"))
		if err != nil {
			continue
		}
		a := IdentityAddress{Addr: addr.Unmap(), Approved: text("approved")}
		if n, ok := m["vlan"].(int64); ok && n > 0 && n <= int64(vlan.Max) {
			a.VLAN = vlan.ID(n)
		}
		_ = a.Provenance.UnmarshalText([]byte(text("provenance")))
		a.Since, _ = time.Parse(time.RFC3339, text("since"))
		a.Until, _ = time.Parse(time.RFC3339, text("until"))
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b IdentityAddress) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.VLAN, b.VLAN)) })
	return out
}

// manualIn reads what a person has set; what is no address is none.
func manualIn(u *unstructured.Unstructured) (out []netip.Addr) {
	list, _, _ := unstructured.NestedSlice(u.Object, "spec", "addresses")
	for _, item := range list {
		text, _ := item.(string)
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && !slices.Contains(out, a.Unmap()) {
			out = append(out, a.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// decisionsIn reads what people have decided about one of its NICs; what nobody did, or at no time, is none.
func decisionsIn(u *unstructured.Unstructured, mac, first string) (out []IdentityDecision) {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "decisions")
	for _, item := range list {
		m, _ := item.(map[string]any)
		if cmp.Or(macIn(item), first) != mac {
			continue
		}
		text := func(name string) string {
			s, _ := m[name].(string)
			return s
		}
		d := IdentityDecision{By: text("by")}
		addr, err := netip.ParseAddr(text("address"))
		d.Addr = addr.Unmap()
		var errAt error
		d.At, errAt = time.Parse(time.RFC3339, text("at"))
		if err != nil || errAt != nil || d.By == "" {
			continue
		}
		d.Denied, _ = m["denied"].(bool)
		if n, ok := m["vlan"].(int64); ok && n > 0 && n <= int64(vlan.Max) {
			d.VLAN = vlan.ID(n)
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b IdentityDecision) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.VLAN, b.VLAN)) })
	return out
}
