package binding

import (
	"net/netip"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/learn"
)

// answeredWithin is how long after duplicate address detection somebody who says to have the address answers it. It waits a second for
// answers, and may ask some times (RFC 4862, 5.1).
const answeredWithin = 5 * time.Second

// question is that of a NIC that has an address only because it has asked whether anybody else has.
type question struct {
	nic learn.NIC
	at  time.Time
}

// ask takes duplicate address detection. Who asks does not get what another has, and does without; else it has the address, until
// somebody answers.
func (k *Keeper) ask(e learn.Event) {
	at := Key{e.Segment.Trunk, e.Segment.VLAN, e.Addr}
	if k.isClaimed(e.Segment, e.Addr) {
		if q, asked := k.asked[at]; asked && q.nic == e.NIC { // again
			k.asked[at] = question{e.NIC, k.cfg.Now()}
		}
		return
	}
	e.Kind, e.At = learn.EventClaim, e.At.Truncate(time.Second)
	k.apply(e)
	k.forgetAsked()
	if k.claim(e.NIC, at) != nil { // else it may not have it
		k.asked[at] = question{e.NIC, k.cfg.Now()}
	}
}

// answered takes that somebody says to have an address: a NIC of this node, or, with none, whoever has the event's MAC. Who has just asked
// for it then does without, unless it is he: so he has it no more, where nothing else is known of it.
func (k *Keeper) answered(e learn.Event, by learn.NIC) {
	at := Key{e.Segment.Trunk, e.Segment.VLAN, e.Addr}
	q, asked := k.asked[at]
	if !asked || by != q.nic && e.MAC == k.nics[q.nic].mac { // it comes back from somewhere
		return
	}
	delete(k.asked, at)
	now := k.cfg.Now()
	if by == q.nic || q.over(now) {
		return
	}
	if c := k.claim(q.nic, at); c != nil && len(c.Evidence) == 1 && c.Evidence[0].Provenance == learn.ND {
		k.apply(learn.Event{Kind: learn.EventWithdraw, At: now, NIC: q.nic, Segment: e.Segment, Addr: e.Addr, Provenance: learn.ND})
	}
}

// isClaimed says whether anybody is known to have an address, or to want it.
func (k *Keeper) isClaimed(at learn.Segment, addr netip.Addr) bool {
	who := k.book.Who(at, addr)
	return who.Holder != nil || len(who.Aside)+len(who.Waiting)+len(who.Outside) > 0
}

// claim is that of a NIC to an address; nil is that it has none.
func (k *Keeper) claim(id learn.NIC, at Key) *learn.Claim {
	claims := k.book.Claims(id)
	i := slices.IndexFunc(claims, func(c learn.Claim) bool {
		return c.Segment == learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN} && c.Addr == at.Addr
	})
	if i < 0 {
		return nil
	}
	return &claims[i]
}

func (q question) over(now time.Time) bool { return now.Sub(q.at).Abs() > answeredWithin }

// forgetAsked forgets questions that nobody has answered.
func (k *Keeper) forgetAsked() {
	now := k.cfg.Now()
	for at, q := range k.asked {
		if q.over(now) {
			delete(k.asked, at)
		}
	}
}
