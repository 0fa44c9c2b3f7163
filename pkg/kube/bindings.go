package kube

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// What status lists hold, as the API bounds them.
const (
	mostBindings  = 64
	mostWaiting   = 16
	mostConflicts = 16
	mostDecisions = 64
	mostClaimants = 4
)

// What a port's guest can change at will (its addresses, conflicts, the lease's end) is written so often: addressBurst at
// once, for a VM that starts, and then every addressEvery.
const (
	addressBurst = 6
	addressEvery = 10 * time.Second
)

// told is an object that a port's addresses are in. Each has a pace of its own, lest one keep another from being written.
type told struct {
	attach.Key
	in string
}

const (
	inPort     = "VMPort"
	inIdentity = "VMIdentity"
	inStatus   = "network-status"
)

// mayTell says whether a port's addresses may be written there once more now.
func (r *Reporter) mayTell(key attach.Key, in string) bool {
	t := told{key, in}
	if r.paces[t] == nil {
		if r.paces == nil {
			r.paces = map[told]flowcontrol.RateLimiter{}
		}
		r.paces[t] = flowcontrol.NewTokenBucketRateLimiter(float32(1/addressEvery.Seconds()), addressBurst)
	}
	may := r.paces[t].TryAccept()
	r.held = r.held || !may
	return may
}

// tellOwners tells the agent whose its ports are, and what objects and guest agents say of their addresses. News: what it
// says of them is another since. Before it has read its networks, nobody knows what of that counts.
func (r *Reporter) tellOwners(node Node, status wire.NodeStatus, ports []wire.Port) (news bool) {
	r.settled = map[attach.Key]bool{}
	if status.Desired == 0 {
		return false
	}
	for i := range ports {
		p := &ports[i]
		c := r.vms[podKey(p.Pod)]
		o := wire.Owner{Name: p.Pod.Name, UID: p.Pod.UID}
		switch {
		case c == nil || c.uid != p.Pod.UID || c.vm == nil && !c.plain():
			continue
		case c.vm != nil:
			o = wire.Owner{Name: c.vm.Name, UID: string(c.vm.UID), VM: true}
		}
		o.Says = c.says(p)
		is, settled := node.Own(p.Key, o)
		news = news || is
		r.settled[p.Key] = settled
	}
	for t := range r.paces {
		if !slices.ContainsFunc(ports, func(p wire.Port) bool { return p.Key == t.Key }) {
			delete(r.paces, t)
		}
	}
	return news
}

// says are the addresses that are known of a port's NIC, by source: in a fixed order, so that what is said again is the same.
func (c *confirmation) says(p *wire.Port) (out []wire.Says) {
	add := func(source string, guest bool, a netip.Addr) {
		for i := range out {
			if out[i].Source == source {
				out[i].Addresses = append(out[i].Addresses, a)
				return
			}
		}
		out = append(out, wire.Says{Source: source, Guest: guest, Addresses: []netip.Addr{a}})
	}
	found, _ := desired.Declarations(c.annotations, c.podNIC(p))
	for _, d := range found {
		add(d.Source, false, d.Addr)
	}
	for _, a := range c.claims[p.IfName].addresses {
		add(desired.SourceIPAMClaim, false, a)
	}
	if n := c.nicOf(p); n != nil && c.vm != nil {
		for _, a := range n.addresses {
			if n.guest {
				add("guest agent", true, a)
			} else if !p.NetworkStatus { // what the pod's CNI results say, and nobody wrote since
				add(vmiKind, false, a)
			}
		}
	}
	return out
}

func (c *confirmation) podNIC(p *wire.Port) desired.PodNIC {
	nic := desired.PodNIC{Namespace: p.Pod.Namespace, Interface: p.IfName}
	if n := c.nicOf(p); n != nil {
		nic.VMNetwork = n.name
	}
	return nic
}

// addressesDeclared says what is wrong with what is declared for a port's NIC; nil is nothing.
func addressesDeclared(p *wire.Port, known *confirmation) *metav1.Condition {
	if known == nil {
		return nil
	}
	_, errs := desired.Declarations(known.annotations, known.podNIC(p))
	if err := known.claims[p.IfName].wrong; err != nil {
		errs = append(errs, err)
	}
	c := &metav1.Condition{Type: v1alpha1.ConditionAddressesDeclared, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonDeclarationUnfit}
	var said []string
	if len(errs) > 0 {
		c.Reason, said = v1alpha1.ReasonDeclarationUnreadable, append(said, errors.Join(errs...).Error())
	}
	for _, a := range p.Unfit[:min(len(p.Unfit), mostBindings)] {
		said = append(said, fmt.Sprintf("%v (%s) %s", a.Address, a.Provenance, a.Why))
	}
	if said == nil {
		return nil
	}
	c.Message = cut(strings.Join(said, "; "))
	return c
}

// cut keeps a message within what a condition holds.
func cut(s string) string {
	const most = 8192
	if len(s) > most {
		return s[:most]
	}
	return s
}

// addressesUnique says whether nobody else claims what a port's NIC does; nil is that it claims nothing.
func addressesUnique(p *wire.Port) *metav1.Condition {
	if len(p.Bindings) == 0 {
		return nil
	}
	c := &metav1.Condition{Type: v1alpha1.ConditionAddressesUnique, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonUnique, Message: "nobody else claims an address of the NIC"}
	if len(p.Conflicts) == 0 {
		return c
	}
	var said []string
	for _, d := range p.Conflicts[:min(len(p.Conflicts), mostConflicts)] {
		var who []string
		for _, x := range d.Claimants[:min(len(d.Claimants), mostClaimants)] {
			name := x.Namespace + "/" + x.Name
			if x.Outside {
				name = "somebody outside the cluster"
			}
			who = append(who, fmt.Sprintf("%s (%v, at %s)", name, x.MAC, cmp.Or(x.Place, "an unknown place")))
		}
		said = append(said, fmt.Sprintf("%v in VLAN %v is claimed by %s", d.Address, d.VLAN, strings.Join(who, " and by ")))
	}
	c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonDuplicateAddress, cut(strings.Join(said, "; ")+": give one of them another address; see homeportctl addresses")
	return c
}

// macUnique says whether another station uses the MAC of a port's NIC; nil is that none is known.
func macUnique(p *wire.Port) *metav1.Condition {
	if p.MACConflict == nil {
		return nil
	}
	return &metav1.Condition{Type: v1alpha1.ConditionMACUnique, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonDuplicateMAC, Message: cut(p.MACConflict.String())}
}

// second is a time as the API has it.
func second(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }

func untilOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	s := second(t)
	return &s
}

// vlanIn is the VLAN of an address; 0 is the port's one.
func vlanIn(p *wire.Port, a *wire.Address) int32 {
	if a.VLAN == p.VLANs.PVID {
		return 0
	}
	return int32(a.VLAN)
}

func portBindings(p *wire.Port) (out []v1alpha1.PortBinding) {
	for i := range p.Bindings {
		a := &p.Bindings[i]
		if len(out) < mostBindings {
			out = append(out, v1alpha1.PortBinding{Address: a.Address.String(), VLAN: vlanIn(p, a), Provenance: v1alpha1.Provenance(a.Provenance), State: v1alpha1.BindingState(a.State),
				Since: second(a.Since), Until: untilOf(a.Until)})
		}
	}
	return out
}

func portConflicts(p *wire.Port) (out []v1alpha1.AddressConflict) {
	for _, d := range p.Conflicts[:min(len(p.Conflicts), mostConflicts)] {
		c := v1alpha1.AddressConflict{Address: d.Address.String(), VLAN: vlanIn(p, &wire.Address{VLAN: d.VLAN}), Since: second(d.Since)}
		for _, x := range d.Claimants[:min(len(d.Claimants), mostClaimants)] {
			who := v1alpha1.AddressClaimant{MAC: x.MAC.String(), Node: x.Node, Place: x.Place, Since: second(x.Since)}
			switch name := x.Namespace + "/" + x.Name; {
			case x.Outside:
			case x.VM:
				who.VM = name
			default:
				who.Pod = name
			}
			c.Claimants = append(c.Claimants, who)
		}
		out = append(out, c)
	}
	return out
}

// identityStatus is what a VMIdentity says of a port's NIC.
func (r *Reporter) identityStatus(p *wire.Port) v1alpha1.VMIdentityStatus {
	s := v1alpha1.VMIdentityStatus{Node: r.node, MAC: p.MAC.String()}
	sorted := slices.Clone(p.Bindings)
	slices.SortStableFunc(sorted, func(a, b wire.Address) int { // what rules hardly ask for last, if there is not room for all
		return cmp.Compare(linkLocal(a.Address), linkLocal(b.Address))
	})
	for i := range sorted {
		a := &sorted[i]
		item := v1alpha1.AddressStatus{Address: a.Address.String(), VLAN: vlanIn(p, a), Provenance: v1alpha1.Provenance(a.Provenance), Since: second(a.Since), Until: untilOf(a.Until), Approved: a.ApprovedBy}
		switch {
		case a.State == wire.AddressHeld && len(s.Addresses) < mostBindings:
			s.Addresses = append(s.Addresses, item)
		case a.State == wire.AddressWaiting && len(s.Waiting) < mostWaiting:
			s.Waiting = append(s.Waiting, item)
		}
	}
	latest := slices.Clone(p.Decided)
	slices.SortStableFunc(latest, func(a, b wire.AddressDecided) int {
		return cmp.Or(b.At.Compare(a.At), a.Address.Compare(b.Address), cmp.Compare(a.VLAN, b.VLAN))
	})
	for _, d := range latest[:min(len(latest), mostDecisions)] {
		s.Decisions = append(s.Decisions, v1alpha1.AddressDecision{Address: d.Address.String(), VLAN: vlanIn(p, &wire.Address{VLAN: d.VLAN}), Denied: d.Denied, By: d.By, At: second(d.At)})
	}
	return s
}

// togetherStatus is what the VMIdentity says that NICs of one VM on one network share. Its MAC is the lowest of theirs, be that port
// open or not, so that it stays over restarts and migrations; what is another's says so. What two claim in one VLAN is the first one's.
func (r *Reporter) togetherStatus(p *wire.Port, ports []wire.Port) v1alpha1.VMIdentityStatus {
	var nics []*wire.Port
	for i := range ports {
		if o := &ports[i]; o.Pod == p.Pod && o.Policy == p.Policy {
			nics = append(nics, o)
		}
	}
	slices.SortFunc(nics, func(a, b *wire.Port) int { return bytes.Compare(a.MAC, b.MAC) })
	out := v1alpha1.VMIdentityStatus{Node: r.node, MAC: nics[0].MAC.String()}
	for _, o := range nics {
		if o.State == attach.Active {
			join(&out, r.identityStatus(o))
		}
	}
	return out
}

// join adds what a NIC has to a VM's status, as far as there is room.
func join(to *v1alpha1.VMIdentityStatus, nic v1alpha1.VMIdentityStatus) {
	mac := nic.MAC
	if mac == to.MAC {
		mac = ""
	}
	add := func(to, from []v1alpha1.AddressStatus, most int) []v1alpha1.AddressStatus {
		for _, x := range from {
			if len(to) < most && !slices.ContainsFunc(to, func(o v1alpha1.AddressStatus) bool { return o.Address == x.Address && o.VLAN == x.VLAN }) {
				x.MAC = mac
				to = append(to, x)
			}
		}
		return to
	}
	to.Addresses, to.Waiting = add(to.Addresses, nic.Addresses, mostBindings), add(to.Waiting, nic.Waiting, mostWaiting)
	for _, x := range nic.Decisions {
		if len(to.Decisions) < mostDecisions && !slices.ContainsFunc(to.Decisions, func(o v1alpha1.AddressDecision) bool { return o.Address == x.Address && o.VLAN == x.VLAN }) {
			x.MAC = mac
			to.Decisions = append(to.Decisions, x)
		}
	}
}

func linkLocal(a netip.Addr) int {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return 1
	}
	return 0
}

// annotationsOf are those of a pod that declare addresses.
func annotationsOf(all map[string]string) map[string]string {
	out := map[string]string{}
	for _, name := range desired.DeclarationAnnotations() {
		if text, ok := all[name]; ok {
			out[name] = text
		}
	}
	return out
}
