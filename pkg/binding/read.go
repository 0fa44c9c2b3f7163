package binding

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	return a.Unmap(), err
}

// Of is what the NIC of a port holds, is aside with and waits for, and the conflicts that it is in.
func (k *Keeper) Of(key attach.Key) (addresses []wire.Address, conflicts []wire.AddressConflict) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.ports[key]
	if p == nil {
		return nil, nil
	}
	vlans := p.VLANs.All()
	for _, c := range k.book.Claims(p.nic) {
		if c.Segment.Trunk != p.Trunk || !vlans.Contains(c.Segment.VLAN) {
			continue
		}
		addresses = append(addresses, k.address(c))
		if d := k.conflict(c.Segment, c.Addr); d != nil {
			conflicts = append(conflicts, *d)
		}
	}
	return addresses, conflicts
}

// HeldHere is what a NIC with a port of this node has at an address that it holds, unless its MAC is but; nil is that there is none.
func (k *Keeper) HeldHere(at Key, but attach.MAC) *wire.Address {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.book.Who(learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN}, at.Addr).Holder
	if c == nil {
		return nil
	}
	if n := k.nics[c.NIC]; n.ports == 0 || n.mac == macOf(but) {
		return nil
	}
	out := k.address(*c)
	return &out
}

// Decided is what people have said of addresses that the NIC of a port does not claim now.
func (k *Keeper) Decided(key attach.Key) (out []wire.AddressDecided) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.ports[key]
	if p == nil {
		return nil
	}
	vlans := p.VLANs.All()
	for _, d := range k.book.Decisions(p.nic) {
		if d.Segment.Trunk == p.Trunk && vlans.Contains(d.Segment.VLAN) {
			out = append(out, wire.AddressDecided{Address: d.Addr, VLAN: d.Segment.VLAN, Denied: d.Denied, By: d.By, At: d.At})
		}
	}
	return out
}

// Unfit are the addresses that are declared for the NIC of a port and that no NIC of its network can have.
func (k *Keeper) Unfit(key attach.Key) (out []wire.Address) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.ports[key]
	if p == nil {
		return nil
	}
	for _, r := range k.book.Unfit(p.nic) {
		if r.Segment.Trunk == p.Trunk && r.Reason != learn.ReasonNoNetwork { // which is to come
			out = append(out, wire.Address{Trunk: r.Segment.Trunk, VLAN: r.Segment.VLAN, Address: r.Addr, State: wire.AddressRefused, Provenance: r.Provenance.String(), Since: r.At, Why: r.Reason.Text()})
		}
	}
	return out
}

// Addresses are those that NICs have or claim, and that are refused to them, and who outside claims one of them; in the
// order of trunk, VLAN and address. want chooses: "" is all, an address is that one, anything else is a VM's or pod's name, or
// namespace/name.
func (k *Keeper) Addresses(want string) []wire.Address {
	k.mu.Lock()
	defer k.mu.Unlock()
	addr, err := parseAddr(want)
	byAddr := err == nil
	chosen := func(id learn.NIC, a netip.Addr) bool {
		return want == "" || byAddr && a == addr || !byAddr && (id.Name == want || id.Namespace+"/"+id.Name == want)
	}
	var out []wire.Address
	seen := map[Key]bool{}
	for _, id := range k.book.NICs() {
		claims := k.book.Claims(id)
		claimed := func(s learn.Segment, a netip.Addr) bool { // after all
			return slices.ContainsFunc(claims, func(c learn.Claim) bool { return c.Segment == s && c.Addr == a })
		}
		for _, c := range claims {
			if !chosen(id, c.Addr) {
				continue
			}
			out = append(out, k.address(c))
			if at := (Key{c.Segment.Trunk, c.Segment.VLAN, c.Addr}); !seen[at] {
				seen[at] = true
				for _, o := range k.book.Who(c.Segment, c.Addr).Outside {
					out = append(out, wire.Address{Trunk: at.Trunk, VLAN: at.VLAN, Address: at.Addr, State: wire.AddressOutside, MAC: attach.MAC(o.MAC[:]), Place: o.Place, Since: o.Since, Seen: o.Seen})
				}
			}
		}
		for _, r := range append(k.book.Unfit(id), k.book.Refused(id).Last...) {
			if chosen(id, r.Addr) && !claimed(r.Segment, r.Addr) {
				o := k.named(id, r.Segment)
				o.Address, o.State, o.Since, o.Seen, o.Place = r.Addr, wire.AddressRefused, r.At, r.At, r.Place
				if o.Why = r.Reason.Text(); r.Provenance != 0 { // none of a decision
					o.Provenance = r.Provenance.String()
				}
				out = append(out, o)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b wire.Address) int {
		return cmp.Or(strings.Compare(a.Trunk, b.Trunk), cmp.Compare(a.VLAN, b.VLAN), a.Address.Compare(b.Address), cmp.Compare(rank(a.State), rank(b.State)))
	})
	return out
}

var states = []string{wire.AddressHeld, wire.AddressAside, wire.AddressWaiting, wire.AddressOutside, wire.AddressRefused}

func rank(state string) int { return slices.Index(states, state) }

// named is an entry with whose and where.
func (k *Keeper) named(id learn.NIC, s learn.Segment) wire.Address {
	n := k.nics[id]
	uid, _, _ := strings.Cut(id.UID, "/")
	return wire.Address{Trunk: s.Trunk, VLAN: s.VLAN, Network: id.Network, Namespace: id.Namespace, Name: id.Name, UID: uid, VM: n.vm, MAC: attach.MAC(n.mac[:]), Node: n.node}
}

func stateOf(r learn.Role) string {
	switch r {
	case learn.Holder:
		return wire.AddressHeld
	case learn.Beside:
		return wire.AddressAside
	}
	return wire.AddressWaiting
}

func (k *Keeper) address(c learn.Claim) wire.Address {
	o := k.named(c.NIC, c.Segment)
	o.Address, o.Provenance, o.Since, o.Seen, o.Place = c.Addr, c.Provenance.String(), c.Since, c.Seen, c.Place
	if c.MAC != (learn.MAC{}) {
		o.MAC = attach.MAC(c.MAC[:])
	}
	o.State = stateOf(c.Role)
	if !c.Approved.At.IsZero() && !c.Approved.Denied {
		o.ApprovedBy = c.Approved.By
	}
	for _, e := range c.Evidence {
		if e.Provenance == learn.DHCP {
			o.Until = e.Until
		}
		if e.Source != "" && e.Provenance == c.Provenance {
			o.Source = e.Source
		}
	}
	o.Conflict = k.conflict(c.Segment, c.Addr) != nil
	return o
}

// conflict is that about an address; nil is that there is none.
func (k *Keeper) conflict(s learn.Segment, a netip.Addr) *wire.AddressConflict {
	d := k.book.Conflict(s, a)
	if d == nil {
		return nil
	}
	out := &wire.AddressConflict{Address: a, VLAN: s.VLAN, Kind: string(d.Kind), Since: d.Since}
	for _, c := range d.Claimants {
		who := wire.AddressClaimant{Outside: c.Outside, Namespace: c.NIC.Namespace, Name: c.NIC.Name, VM: k.nics[c.NIC].vm, MAC: attach.MAC(c.MAC[:]), Node: k.nics[c.NIC].node, Place: c.Place, Since: c.Since, Provenance: c.Provenance.String()}
		if c.Outside {
			who.Provenance, who.Node = "", k.cfg.Node
		}
		out.Claimants = append(out.Claimants, who)
	}
	return out
}

// Decision is a person's about an address that a NIC claims.
type Decision struct {
	Who  string // the VM's or pod's name, or namespace/name
	Addr netip.Addr
	VLAN vlan.ID // 0: wherever it claims it
	Deny bool
	By   string
}

// Decide takes a person's decision. The error says what is wrong with it.
func (k *Keeper) Decide(d Decision) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var found []learn.NIC
	for _, id := range k.book.NICs() {
		if id.Name == d.Who || id.Namespace+"/"+id.Name == d.Who {
			found = append(found, id)
		}
	}
	for _, id := range found {
		if n := k.nics[id]; n.ports == 0 && n.node != "" && n.node != k.cfg.Node {
			return attach.Invalid("name", fmt.Sprintf("%s is on node %s, and a decision is its node's", d.Who, n.node), "decide there: homeportctl addresses approve on "+n.node)
		}
	}
	names := map[string]bool{}
	for _, id := range found {
		names[id.Namespace+"/"+id.Name] = true
	}
	switch {
	case len(found) == 0:
		return attach.Invalid("name", fmt.Sprintf("no VM or pod %q is known on this node's networks", d.Who), "see homeportctl addresses for those that are")
	case len(names) > 1:
		return attach.Invalid("name", fmt.Sprintf("%q is the name of several: in namespaces of its own each", d.Who), "want namespace/name")
	}
	kind := learn.EventApprove
	if d.Deny {
		kind = learn.EventDeny
	}
	var errs []error
	done := false
	for _, id := range found {
		for _, s := range k.claimed(id, d) {
			k.unsaved = true
			refused := false
			changes := k.book.Apply(learn.Event{Kind: kind, At: k.now(), NIC: id, Segment: s, Addr: d.Addr, By: d.By})
			for _, c := range changes {
				if c.Kind == learn.Refused && c.Claim.NIC == id && c.Claim.Provenance == 0 {
					refused = true
					errs = append(errs, attach.Invalid("address", fmt.Sprintf("%v %s", d.Addr, c.Reason.Text()), "see homeportctl addresses "+d.Who))
				}
			}
			k.take(changes)
			done = done || !refused
		}
	}
	k.flush()
	if done {
		return nil
	}
	if len(errs) > 0 {
		return errs[0]
	}
	return attach.Invalid("address", fmt.Sprintf("%v is not claimed by %s, so there is nothing to decide", d.Addr, d.Who), "see homeportctl addresses "+d.Who+" for what it claims")
}

// claimed are the segments in which a NIC claims, or was denied, an address.
func (k *Keeper) claimed(id learn.NIC, d Decision) (out []learn.Segment) {
	for _, s := range k.book.Segments(id, d.Addr) {
		if d.VLAN == 0 || s.VLAN == d.VLAN {
			out = append(out, s)
		}
	}
	return out
}
