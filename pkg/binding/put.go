package binding

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Key is an address in a VLAN of a trunk, as the programs' map has it.
type Key struct {
	Trunk string
	VLAN  vlan.ID
	Addr  netip.Addr
}

// Holder is what that map says of it: the MAC of the NIC that holds the address, and how much that is worth.
type Holder struct {
	MAC      learn.MAC
	Firm     bool // somebody vouches for it
	Shared   bool // it moves between NICs
	Waits    bool // nobody holds it: a claim of this NIC waits for approval
	Nobodys  bool // a gateway's
	Disputed bool // it is held, and in conflict
}

// Map is the programs' map.
type Map interface {
	Put(Key, Holder) error
	Drop(Key) error
}

func (k *Keeper) touch(s learn.Segment, a netip.Addr) { k.touched[Key{s.Trunk, s.VLAN, a}] = true }

// maxGatewayVLANs is in how many VLANs of a network its gateways are kept from guests: those of a guest that tags a
// thousand are hardly the same in each.
const maxGatewayVLANs = 64

func (n *network) shares(a netip.Addr) bool {
	return slices.ContainsFunc(n.settings.Shared, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (n *network) gatewayKeys() (out []Key) {
	if n.vlans.Len() > maxGatewayVLANs {
		return nil
	}
	for v := range n.vlans.All() {
		for _, a := range n.settings.Gateways {
			out = append(out, Key{n.trunk, v, a})
		}
	}
	return out
}

func (k *Keeper) touchGateways(n network) {
	for _, at := range n.gatewayKeys() {
		k.touched[at] = true
	}
}

// followSegments has the map know the addresses of those VLANs that a port is in, alone.
func (k *Keeper) followSegments() {
	if !k.moved {
		return
	}
	k.moved = false
	now := map[learn.Segment]bool{}
	for _, p := range k.ports {
		for v := range p.VLANs.All().All() {
			now[p.segment(v)] = true
		}
	}
	if maps.Equal(now, k.segments) {
		return
	}
	changed := func(s learn.Segment) bool { return now[s] != k.segments[s] }
	for _, id := range k.book.NICs() {
		for _, c := range k.book.Claims(id) {
			if changed(c.Segment) {
				k.touch(c.Segment, c.Addr)
			}
		}
	}
	for _, n := range k.networks {
		k.touchGateways(n)
	}
	k.segments = now
}

// retryAfter is how long the map is left alone after it could not be written.
const retryAfter = 10 * time.Second

// flush brings what was touched into the map: first what goes, for that makes room. What cannot be put, as where the map is full, is tried
// again later, and keeps nothing else from it.
func (k *Keeper) flush() {
	if !k.failing.IsZero() && k.cfg.Now().Sub(k.failing) < retryAfter {
		return
	}
	k.failing = time.Time{}
	puts := map[Key]Holder{}
	var first error
	tried := func(at Key, err error) {
		if err == nil {
			delete(k.touched, at)
		} else if first == nil {
			first = fmt.Errorf("%v in VLAN %v: %w", at.Addr, at.VLAN, err)
		}
	}
	for at := range k.touched {
		want, some := k.wanted(at)
		is, has := k.put[at]
		switch {
		case some && (!has || is != want):
			puts[at] = want
		case !some && has:
			err := k.cfg.Map.Drop(at)
			if err == nil {
				delete(k.put, at)
			}
			tried(at, err)
		default:
			delete(k.touched, at)
		}
	}
	for at, h := range puts {
		err := k.cfg.Map.Put(at, h)
		if err == nil {
			k.put[at] = h
		}
		tried(at, err)
	}
	if first != nil {
		k.failing = k.cfg.Now()
		k.cfg.Log.Warn("the port programs cannot be told who has some addresses; tried again", "addresses", len(k.touched), "err", first)
	}
}

// wanted is what the map should have of an address.
func (k *Keeper) wanted(at Key) (h Holder, some bool) {
	s := learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN}
	if !k.segments[s] {
		return h, false
	}
	for _, n := range k.networks {
		if n.trunk == at.Trunk && n.vlans.Contains(at.VLAN) && n.vlans.Len() <= maxGatewayVLANs && slices.Contains(n.settings.Gateways, at.Addr) {
			return Holder{Nobodys: true}, true
		}
	}
	who := k.book.Who(s, at.Addr)
	switch c := who.Holder; {
	case c != nil:
		vouched := c.Provenance >= learn.DHCP || !c.Approved.At.IsZero() && !c.Approved.Denied || at.Addr.Is6() && at.Addr.IsLinkLocalUnicast()
		return Holder{MAC: k.nics[c.NIC].mac, Firm: vouched, Shared: who.Shared, Disputed: k.book.Conflict(s, at.Addr) != nil}, true
	case len(who.Waiting) > 0:
		return Holder{MAC: k.nics[who.Waiting[0].NIC].mac, Waits: true}, true
	}
	return h, false
}

// Sync has the map be as it was put, given all that is in it: what an agent before this one has left goes. The first time
// it says more than the book knows, perhaps, if that agent was killed before it could save: what it says of NICs that are here
// is heard again. It is true if the map is as it should be.
func (k *Keeper) Sync(have map[Key]Holder) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.followed { // nobody has said which ports there are
		return false
	}
	if !k.synced {
		k.synced = true
		k.recover(have)
	}
	for at, h := range have {
		if k.put[at] != h {
			k.put[at] = h
			k.touched[at] = true
		}
	}
	for at := range k.put {
		if _, ok := have[at]; !ok {
			delete(k.put, at)
			k.touched[at] = true
		}
	}
	k.flush()
	return len(k.touched) == 0
}

// recoveredFor is for how long somebody is taken to vouch for an address, because the programs have it so.
const recoveredFor = time.Hour

func (k *Keeper) recover(have map[Key]Holder) {
	for at, h := range have {
		s := learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN}
		if who := k.book.Who(s, at.Addr); h.Waits || h.Nobodys || who.Holder != nil || len(who.Waiting) > 0 {
			continue
		}
		by := learn.ND
		if at.Addr.Is4() {
			by = learn.ARP
		}
		e := learn.Event{Kind: learn.EventClaim, At: k.cfg.Now(), Segment: s, Addr: at.Addr, MAC: h.MAC, Provenance: by, Place: k.cfg.Node}
		if h.Firm && !at.Addr.IsLinkLocalUnicast() { // of a lease, perhaps, that nobody had written down: until it is renewed
			e.Provenance, e.Until = learn.DHCP, e.At.Add(recoveredFor)
		}
		for _, p := range k.ports {
			if macOf(p.MAC) == h.MAC && p.Trunk == at.Trunk && p.VLANs.All().Contains(at.VLAN) {
				e.NIC = p.nic
				k.apply(e)
				break
			}
		}
	}
}
