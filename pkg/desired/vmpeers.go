package desired

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// vmPeer is a peer that selects VMs by label. What addresses they have is learned
// over time; so it is kept apart from the rule that it belongs to, and put in when
// the rule goes to the node.
type vmPeer struct {
	rule     int  // index of the rule
	source   bool // among sources, else destinations
	place    int  // among them, as they are written
	index    int  // among the addresses
	selector labels.Selector
}

func (v *vmPeer) field() string {
	side := "destinations"
	if v.source {
		side = "sources"
	}
	return fmt.Sprintf("spec.rules[%d].%s[%d].vm", v.rule, side, v.place)
}

// takeVMPeers notes the peers by label of a policy's rules. In their places it
// puts an address, so that what is said of the other peers names their own places.
func takeVMPeers(spec *v1alpha1.FirewallPolicySpec) ([]vmPeer, field.ErrorList) {
	var out []vmPeer
	var errs field.ErrorList
	take := func(rule int, source bool, list []v1alpha1.Peer) {
		sets := 0
		for i, p := range list {
			if p.AddressSet != "" || p.Network != "" {
				sets++
			}
			if p.VM == nil {
				continue
			}
			v := vmPeer{rule: rule, source: source, place: i, index: i - sets}
			var err error
			if v.selector, err = metav1.LabelSelectorAsSelector(p.VM); err != nil {
				errs = append(errs, field.Invalid(field.NewPath(v.field()), "", err.Error()))
			}
			if list[i].VM = nil; spec.Category == v1alpha1.CategoryEthernet {
				list[i].MAC = policy.MAC{}.String() // MisplacedVMs has refused it
			} else {
				list[i].IP = netip.IPv4Unspecified().String()
			}
			out = append(out, v)
		}
	}
	for i := range spec.Rules {
		take(i, true, spec.Rules[i].Sources)
		take(i, false, spec.Rules[i].Destinations)
	}
	return out, errs
}

// holder is one NIC of a VM or of a pod without one, wherever it is: labels, and the
// addresses that it is known to hold.
type holder struct {
	name       string // namespace/name of the VMIdentity
	namespace  string
	vm, pod    string // the VM's name, or that of a pod without one
	network    string
	labels     labels.Set // of the VM, or the pod
	addresses  []netip.Addr
	identities []Identity // the whole of it: one of each NIC, at least one
}

// podLabels are the labels by which a MultiNetworkPolicy selects a peer: a pod's are
// its own. A VM's are the VM's, and those by which every launcher pod of KubeVirt
// can be told.
func (v *holder) podLabels() labels.Set {
	if v.vm == "" {
		return v.labels
	}
	return labels.Merge(v.labels, labels.Set{launcherLabel: launcherValue, vmNameLabel: v.vm})
}

// vmLabels are the labels by which a FirewallPolicy selects a VM.
func (v *holder) vmLabels() labels.Set {
	return labels.Merge(v.labels, labels.Set{corev1.LabelMetadataName: v.namespace, vmNameLabel: v.vm})
}

// putVMPeers gives a policy's rules the addresses of the VMs that they select, and
// tells of VMs whose address nobody knows. A list that only selects VMs and finds
// no address is empty, and matches nothing.
func putVMPeers(p Policy, peers []vmPeer, holders []holder) (Policy, []Problem) {
	if len(peers) == 0 {
		return p, nil
	}
	type side struct {
		rule   int
		source bool
	}
	lists := map[side][]policy.AddrRange{}
	var notices []Problem
	for i := len(peers) - 1; i >= 0; i-- { // from the end: places before stay what they are
		v := &peers[i]
		at := side{v.rule, v.source}
		if _, ok := lists[at]; !ok {
			lists[at] = slices.Clone(v.list(&p.Rules[v.rule]))
		}
		found, why := v.find(holders)
		lists[at] = append(slices.Delete(lists[at], v.index, v.index+1), found...)
		if why != "" {
			notices = append(notices, Problem{Kind: v1alpha1.KindFirewallPolicy, Name: p.Name, Field: v.field(), Message: why})
		}
	}
	p.Rules = slices.Clone(p.Rules)
	for at, list := range lists {
		if r := &p.Rules[at.rule]; at.source {
			r.Sources = list
		} else {
			r.Destinations = list
		}
	}
	slices.Reverse(notices)
	return p, notices
}

// list is the rule's list that the peer is in.
func (v *vmPeer) list(r *policy.Rule) []policy.AddrRange {
	if v.source {
		return r.Sources
	}
	return r.Destinations
}

// find gives the addresses of the VMs that a peer selects, and says which of them
// have none. Pods without a VM are none.
func (v *vmPeer) find(holders []holder) (out []policy.AddrRange, why string) {
	var chosen []holder
	for _, h := range holders {
		if h.vm != "" && v.selector.Matches(h.vmLabels()) {
			chosen = append(chosen, h)
		}
	}
	return addressesOf(chosen, "selects no VM now, and so matches nothing", "a peer by ip")
}

// addressesOf gives the addresses of what a peer selects. It says that this is
// nobody, or who has none and what to write instead.
func addressesOf(chosen []holder, nobody, instead string) (out []policy.AddrRange, why string) {
	var unknown []string
	for _, h := range chosen {
		if len(h.addresses) == 0 {
			unknown = append(unknown, h.name)
		}
		for _, a := range h.addresses {
			out = append(out, policy.AddrRange{First: a, Last: a})
		}
	}
	slices.SortFunc(out, func(a, b policy.AddrRange) int { return a.First.Compare(b.First) })
	out = slices.Compact(out)
	switch {
	case len(chosen) == 0:
		return out, nobody
	case len(unknown) > 0:
		more := ""
		if len(unknown) > 8 {
			unknown, more = unknown[:8], fmt.Sprintf(" and %d more", len(unknown)-8)
		}
		return out, fmt.Sprintf("does not match %s%s: no address of theirs is known; want a guest agent, or %s", strings.Join(unknown, ", "), more, instead)
	}
	return out, ""
}
