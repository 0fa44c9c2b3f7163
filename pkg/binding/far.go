package binding

import (
	"cmp"
	"reflect"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
)

// ghostFor is how long a VM's NIC is known that is nowhere, and that no identity is of: one may be on its way.
const ghostFor = 10 * time.Minute

// forgetGhosts forgets such NICs: of a VM that was deleted before it had an identity, or on no network, nobody else says so.
func (k *Keeper) forgetGhosts() {
	if len(k.left) == 0 {
		return
	}
	for id, since := range k.left {
		if _, has := k.far[id]; has || k.nics[id].ports > 0 {
			continue
		}
		if k.cfg.Now().Sub(since) >= ghostFor {
			k.forget(id)
		}
	}
}

// followIdentities takes what other nodes know of NICs.
func (k *Keeper) followIdentities(identities []desired.Identity) {
	seen := map[learn.NIC]bool{}
	var ours []*desired.Identity
	for i := range identities {
		o := &identities[i]
		if _, known := k.networks[o.Network]; known && len(o.MAC) == 6 {
			ours, seen[identityNIC(o)] = append(ours, o), true
		}
	}
	for id := range k.far { // first: its addresses may be another's by now
		if !seen[id] {
			k.setByHand(id, nil)
			k.lose(id)
			delete(k.far, id)
		}
	}
	for _, o := range ours {
		id := identityNIC(o)
		was, known := k.far[id]
		local := k.nics[id].ports > 0
		if known && reflect.DeepEqual(was, *o) && (local || k.nics[id].node == o.Node) {
			continue
		}
		k.far[id] = *o
		switch {
		case !local:
			k.note(id, nic{mac: macOf(o.MAC), node: o.Node, vm: o.VM != ""})
			k.apply(learn.Event{Kind: learn.EventAbsent, At: k.cfg.Now(), NIC: id})
			k.believe(id, o, was.Decisions)
		case !known && (o.Node != k.cfg.Node || len(k.book.Claims(id)) == 0): // the node that it came from knew, or an agent before this one
			k.hearsay(id, o, was.Decisions)
		case !known || o.Node != k.cfg.Node: // it is decided where the NIC is until it is here
			k.heed(id, o, was.Decisions)
		}
	}
	for _, o := range ours {
		k.setByHand(identityNIC(o), o)
	}
}

func identityNIC(o *desired.Identity) learn.NIC {
	return nicID(o.Namespace, cmp.Or(o.VM, o.Pod), o.UID, o.Network, o.MAC)
}

// lose forgets a NIC that no identity is of, unless it is here.
func (k *Keeper) lose(id learn.NIC) {
	if n, ok := k.nics[id]; ok && n.ports == 0 {
		k.forget(id)
	}
}

// hearsay has the book know of a NIC what its identity says. It has heeded the decisions before.
func (k *Keeper) hearsay(id learn.NIC, o *desired.Identity, before []desired.IdentityDecision) {
	n, now := k.networks[o.Network], k.cfg.Now()
	for _, a := range slices.Concat(o.Addresses, o.Waiting) {
		at := learn.Segment{Trunk: n.trunk, VLAN: cmp.Or(a.VLAN, n.home)}
		if at.VLAN.Validate() != nil || a.Provenance == 0 {
			continue
		}
		e := learn.Evidence{Provenance: a.Provenance, MAC: macOf(o.MAC), Place: o.Node, Since: a.Since, Seen: now, Until: a.Until}
		if a.Provenance.Firm() {
			e.Source = sourceIdentity
		}
		if e.Since.IsZero() || e.Since.After(now) {
			e.Since = now
		}
		if n.shares(a.Addr) { // who has announced it last, the identity does not say
			e.Seen = e.Since
		}
		k.again(id, learn.Claim{Segment: at, Addr: a.Addr}, e)
		if a.Approved != "" {
			k.apply(learn.Event{Kind: learn.EventApprove, At: e.Since, NIC: id, Segment: at, Addr: a.Addr, By: a.Approved})
		}
	}
	k.heed(id, o, before)
}

// heed takes the decisions that its identity has of a NIC, having heeded those before. One of a node whose clock is ahead counts as taken
// when it came here, and once: later ones are to count.
func (k *Keeper) heed(id learn.NIC, o *desired.Identity, before []desired.IdentityDecision) {
	n, now := k.networks[o.Network], k.cfg.Now()
	for _, d := range o.Decisions {
		same := func(b desired.IdentityDecision) bool {
			return b.Addr == d.Addr && b.VLAN == d.VLAN && b.Denied == d.Denied && b.At.Equal(d.At)
		}
		if d.At.After(now) && slices.ContainsFunc(before, same) {
			continue
		}
		e := learn.Event{Kind: learn.EventApprove, At: d.At, NIC: id, Segment: learn.Segment{Trunk: n.trunk, VLAN: cmp.Or(d.VLAN, n.home)}, Addr: d.Addr, By: d.By, Elsewhere: true}
		if d.Denied {
			e.Kind = learn.EventDeny
		}
		if e.Segment.VLAN.Validate() == nil {
			k.unsaved = true
			k.apply(e)
		}
	}
}

// setByHand has the book know which addresses a person has set for a NIC by its identity, and no others; nil is none.
func (k *Keeper) setByHand(id learn.NIC, o *desired.Identity) {
	want := map[Key]bool{}
	if o != nil {
		n := k.networks[o.Network]
		for _, a := range o.Manual {
			if n.home.Validate() == nil { // a guest that tags all has no address outside of a VLAN
				want[Key{n.trunk, n.home, a}] = true
			}
		}
	}
	feed := func(kind learn.EventKind, at Key) {
		k.apply(learn.Event{Kind: kind, At: k.cfg.Now(), NIC: id, Segment: learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN}, Addr: at.Addr, Provenance: learn.Manual, Source: sourceManual, MAC: k.nics[id].mac, Place: k.nics[id].node})
	}
	for at := range k.manual[id] {
		if !want[at] {
			feed(learn.EventWithdraw, at)
		}
	}
	for at := range want {
		if !k.manual[id][at] {
			feed(learn.EventClaim, at)
		}
	}
	if delete(k.manual, id); len(want) > 0 {
		k.manual[id] = want
	}
}

// believe has the book know of a NIC what its identity says, and nothing better. That comes last: with a lease goes what was
// seen while it ran.
func (k *Keeper) believe(id learn.NIC, o *desired.Identity, before []desired.IdentityDecision) {
	n, now := k.networks[o.Network], k.cfg.Now()
	says := map[Key]learn.Provenance{}
	for _, a := range slices.Concat(o.Addresses, o.Waiting) {
		says[Key{n.trunk, cmp.Or(a.VLAN, n.home), a.Addr}] = a.Provenance
	}
	defer k.hearsay(id, o, before)
	for _, c := range k.book.Claims(id) {
		best, still := says[Key{c.Segment.Trunk, c.Segment.VLAN, c.Addr}]
		for _, e := range c.Evidence {
			if e.Source != sourceManual && (!still || e.Provenance > best) {
				k.apply(learn.Event{Kind: learn.EventWithdraw, At: now, NIC: id, Segment: c.Segment, Addr: c.Addr, Provenance: e.Provenance, Source: e.Source})
			}
		}
	}
}

// farClaim is what a NIC of another node was heard to claim.
type farClaim struct {
	id learn.NIC
	at Key
}

// hearFar takes what a NIC of another node says to have that one of this node holds. Its identity does not tell, for it
// does not hold it: without, nobody would know of the conflict here.
func (k *Keeper) hearFar(mac learn.MAC, e learn.Event) {
	for id, n := range k.nics {
		if n.mac != mac || n.ports > 0 || id.Network == "" || k.networks[id.Network].trunk != e.Segment.Trunk {
			continue // of this node: its own port tells
		}
		e.Kind, e.NIC, e.MAC, e.Place = learn.EventClaim, id, mac, n.node
		k.heard[farClaim{id, Key{e.Segment.Trunk, e.Segment.VLAN, e.Addr}}] = k.cfg.Now()
		k.apply(e)
		return
	}
}

// endFar ends what was not heard again, as that of somebody outside ends.
func (k *Keeper) endFar() {
	now := k.cfg.Now()
	for c, seen := range k.heard {
		if now.Sub(seen) < learn.DefaultOutside {
			continue
		}
		delete(k.heard, c)
		by := learn.ND
		if c.at.Addr.Is4() {
			by = learn.ARP
		}
		if n := k.nics[c.id]; n.ports == 0 && !k.listed(c) {
			k.apply(learn.Event{Kind: learn.EventWithdraw, At: now, NIC: c.id, Segment: learn.Segment{Trunk: c.at.Trunk, VLAN: c.at.VLAN}, Addr: c.at.Addr, Provenance: by})
		}
	}
}

// listed says whether the identity of a NIC has what it was heard to claim, by now: then that is what it has.
func (k *Keeper) listed(c farClaim) bool {
	o := k.far[c.id]
	n := k.networks[o.Network]
	return slices.ContainsFunc(slices.Concat(o.Addresses, o.Waiting), func(a desired.IdentityAddress) bool {
		return Key{n.trunk, cmp.Or(a.VLAN, n.home), a.Addr} == c.at
	})
}
