package probe

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Observation is what a station has done and heard since it started.
type Observation struct {
	// Sent is how many frames went out.
	Sent int `json:"sent"`
	// Unsent are those that the interface did not take, or that make no sense.
	Unsent []Unsent `json:"unsent,omitempty"`
	// Lost is how many frames came that there was no room for: silence is no evidence then.
	Lost uint64 `json:"lost,omitempty"`
	// Unread is how many hellos of this run were not believed, and why the last was not.
	Unread    int    `json:"unread,omitempty"`
	UnreadWhy string `json:"unreadWhy,omitempty"`
	// Sources are the addresses that were asked from, or were to be.
	Sources []Source `json:"sources,omitempty"`
	// Together: another check has asked from here, too, and its answers are among what came.
	Together bool `json:"together,omitempty"`
	// Heard is what came, by the VLAN in which it came, 0 for without a tag.
	Heard []Heard `json:"heard,omitempty"`
}

// Unsent is a kind of frames that could not be sent.
type Unsent struct {
	VLAN  vlan.ID `json:"vlan"`
	Kind  Kind    `json:"kind"`
	Error string  `json:"error"`
}

// Heard is what came in one VLAN.
type Heard struct {
	VLAN vlan.ID `json:"vlan"`
	// Others is how many frames came that are no hellos: the VLAN arrives. Broadcasts are listened
	// for, and multicasts but IPv4's; those of the link alone, as LLDP, tell nothing of a VLAN.
	Others int             `json:"others,omitempty"`
	Hellos []HeardHello    `json:"hellos,omitempty"`
	Claims []Claim         `json:"claims,omitempty"`
	Offers []Offer         `json:"offers,omitempty"`
	RAs    []Router        `json:"routerAdvertisements,omitempty"`
	Mine   []MineElsewhere `json:"mine,omitempty"`
	Echoes []Echoed        `json:"echoes,omitempty"`
}

// Source is an address that the station was told to ask from.
type Source struct {
	Tag     vlan.ID    `json:"tag,omitempty"` // of its VLAN here, 0 for without
	Address netip.Addr `json:"address"`
	Asked   int        `json:"asked"`         // how often it was asked whether anybody has it
	Held    MAC        `json:"held,omitzero"` // who else has it, or wants it
}

// Echoed is who has answered echo requests, how often, and the size of the largest answer, as an MTU.
type Echoed struct {
	Address netip.Addr `json:"address"`
	Count   int        `json:"count"`
	Largest int        `json:"largest"`
}

// HeardHello is how often hellos of one station and kind came.
type HeardHello struct {
	Node     string  `json:"node"`
	Uplink   string  `json:"uplink"`
	VLAN     vlan.ID `json:"vlan"` // that the sender meant
	Untagged bool    `json:"untagged,omitempty"`
	Kind     Kind    `json:"kind"`
	Count    int     `json:"count"`
	// Again is how many came a second time.
	Again int `json:"again,omitempty"`
	// Largest is the size of the largest, in bytes of Ethernet payload.
	Largest int `json:"largest"`
}

// Claim is an address that was asked for here, and who says to have it.
type Claim struct {
	Address netip.Addr `json:"address"`
	MAC     MAC        `json:"mac"`
	// Answers to a question; what was only announced counts in Announced.
	Answers int `json:"answers,omitempty"`
	// Addressed are those of Answers that went to the MAC that asks from sources.
	Addressed int `json:"addressed,omitempty"`
	Announced int `json:"announced,omitempty"`
}

// Offer is a DHCP server's.
type Offer struct {
	Server  netip.Addr `json:"server"`
	MAC     MAC        `json:"mac"`
	Address netip.Addr `json:"address"`
}

// Router has advertised itself.
type Router struct {
	Address  netip.Addr     `json:"address"`
	MAC      MAC            `json:"mac"`
	Lifetime int            `json:"lifetime"` // seconds as a default router; 0 is none
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
}

// MineElsewhere is a MAC of this node that others sent from.
type MineElsewhere struct {
	MAC   MAC `json:"mac"`
	Count int `json:"count"`
}

// In finds what was heard in a VLAN.
func (o *Observation) In(id vlan.ID) *Heard {
	for i := range o.Heard {
		if o.Heard[i].VLAN == id {
			return &o.Heard[i]
		}
	}
	return &Heard{VLAN: id}
}

// book is an Observation in the making.
type book struct {
	sent      int
	unsent    map[unsentKey]string
	lost      uint64
	unread    int
	unreadWhy string
	heard     map[vlan.ID]*page
}

type unsentKey struct {
	vlan vlan.ID
	kind Kind
}

// page is what came in one VLAN.
type page struct {
	others int
	hellos map[helloKey]*helloCount
	claims map[claimKey]*Claim
	offers map[Offer]bool
	ras    map[netip.Addr]Router
	mine   map[MAC]int
	echoes map[netip.Addr]Echoed
}

type helloKey struct {
	node, uplink string
	vlan         vlan.ID
	untagged     bool
	kind         Kind
}

type helloCount struct {
	count, again, largest int
	seen                  map[uint32]bool
}

type claimKey struct {
	address netip.Addr
	mac     MAC
}

// Bounds of what is remembered in one VLAN: a flood must not fill the agent's memory.
const (
	maxHellos = 16384
	maxOthers = 64 // claims, offers and routers, each
	maxSeen   = 4096
	// maxUnsent are kinds in VLANs, of all.
	maxUnsent = 65536
)

func newBook() *book {
	return &book{unsent: map[unsentKey]string{}, heard: map[vlan.ID]*page{}}
}

// refuse notes what could not be sent, and why.
func (b *book) refuse(a Ask, err error) {
	k := unsentKey{a.VLAN, a.Kind}
	if _, known := b.unsent[k]; known || len(b.unsent) < maxUnsent {
		b.unsent[k] = err.Error()
	}
}

func (b *book) page(id vlan.ID) *page {
	p := b.heard[id]
	if p == nil {
		p = &page{hellos: map[helloKey]*helloCount{}, claims: map[claimKey]*Claim{}, offers: map[Offer]bool{}, ras: map[netip.Addr]Router{}, mine: map[MAC]int{}, echoes: map[netip.Addr]Echoed{}}
		b.heard[id] = p
	}
	return p
}

func (p *page) hello(g Greeting) {
	k := helloKey{g.Node, g.Uplink, g.VLAN, g.Untagged, g.Kind}
	c := p.hellos[k]
	if c == nil {
		if len(p.hellos) >= maxHellos {
			return
		}
		c = &helloCount{seen: map[uint32]bool{}}
		p.hellos[k] = c
	}
	if c.seen[g.Seq] {
		c.again++
		return
	}
	if len(c.seen) < maxSeen {
		c.seen[g.Seq] = true
	}
	c.count++
	c.largest = max(c.largest, g.Size)
}

func (p *page) claim(c *claim) {
	k := claimKey{c.address, c.mac}
	got := p.claims[k]
	if got == nil {
		if len(p.claims) >= maxOthers {
			return
		}
		got = &Claim{Address: c.address, MAC: c.mac}
		p.claims[k] = got
	}
	if !c.answer {
		got.Announced++
		return
	}
	got.Answers++
	if c.addressed {
		got.Addressed++
	}
}

// echo notes an answer of one who was asked.
func (p *page) echo(from netip.Addr, size int) {
	e := p.echoes[from]
	p.echoes[from] = Echoed{from, e.Count + 1, max(e.Largest, size)}
}

// observation gives the book as it is now, in an order of its own.
func (b *book) observation() Observation {
	o := Observation{Sent: b.sent, Lost: b.lost, Unread: b.unread, UnreadWhy: b.unreadWhy}
	for k, why := range b.unsent {
		o.Unsent = append(o.Unsent, Unsent{k.vlan, k.kind, why})
	}
	slices.SortFunc(o.Unsent, func(x, y Unsent) int { return cmp.Or(cmp.Compare(x.VLAN, y.VLAN), cmp.Compare(x.Kind, y.Kind)) })
	for _, id := range slices.Sorted(maps.Keys(b.heard)) {
		o.Heard = append(o.Heard, b.heard[id].heard(id))
	}
	return o
}

func (p *page) heard(id vlan.ID) Heard {
	h := Heard{VLAN: id, Others: p.others}
	for k, c := range p.hellos {
		h.Hellos = append(h.Hellos, HeardHello{k.node, k.uplink, k.vlan, k.untagged, k.kind, c.count, c.again, c.largest})
	}
	slices.SortFunc(h.Hellos, func(x, y HeardHello) int {
		return cmp.Or(cmp.Compare(x.Node, y.Node), cmp.Compare(x.Uplink, y.Uplink), cmp.Compare(x.VLAN, y.VLAN), cmp.Compare(x.Kind, y.Kind),
			boolCompare(x.Untagged, y.Untagged))
	})
	for _, c := range p.claims {
		h.Claims = append(h.Claims, *c)
	}
	slices.SortFunc(h.Claims, func(x, y Claim) int {
		return cmp.Or(x.Address.Compare(y.Address), cmp.Compare(x.MAC.String(), y.MAC.String()))
	})
	h.Offers = slices.SortedFunc(maps.Keys(p.offers), func(x, y Offer) int {
		return cmp.Or(x.Server.Compare(y.Server), x.Address.Compare(y.Address), cmp.Compare(x.MAC.String(), y.MAC.String()))
	})
	h.RAs = slices.SortedFunc(maps.Values(p.ras), func(x, y Router) int { return x.Address.Compare(y.Address) })
	for m, n := range p.mine {
		h.Mine = append(h.Mine, MineElsewhere{m, n})
	}
	slices.SortFunc(h.Mine, func(x, y MineElsewhere) int { return cmp.Compare(x.MAC.String(), y.MAC.String()) })
	h.Echoes = slices.SortedFunc(maps.Values(p.echoes), func(x, y Echoed) int { return x.Address.Compare(y.Address) })
	return h
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
