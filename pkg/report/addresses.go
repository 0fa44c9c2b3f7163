package report

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// addressStates in the order of their rows for one address.
var addressStates = []string{wire.AddressHeld, wire.AddressAside, wire.AddressWaiting, wire.AddressOutside, wire.AddressRefused}

// addressAt is where an address means one host.
type addressAt struct {
	addr  netip.Addr
	trunk string
	vlan  vlan.ID
}

func placeOf(a *wire.Address) addressAt { return addressAt{a.Address, a.Trunk, a.VLAN} }

// Addresses writes who has which address, by address, and the conflicts below the table.
func (p Printer) Addresses(l wire.AddressList) error {
	if !p.Format.IsText() {
		return p.Document(l)
	}
	pg := p.text()
	if len(l.Items)+len(l.MACs) == 0 {
		pg.line(say("Nobody is known to have an address on this node's networks."))
		return p.flush(pg)
	}
	items := slices.Clone(l.Items)
	slices.SortStableFunc(items, func(a, b wire.Address) int {
		return cmp.Or(a.Address.Compare(b.Address), strings.Compare(a.Trunk, b.Trunk), cmp.Compare(a.VLAN, b.VLAN),
			cmp.Compare(slices.Index(addressStates, a.State), slices.Index(addressStates, b.State)),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), bytes.Compare(a.MAC, b.MAC))
	})
	conflicts := map[addressAt]bool{}
	for i := range items {
		if items[i].Conflict {
			conflicts[placeOf(&items[i])] = true
		}
	}
	g := pg.grid("ADDRESS", "VLAN", "NETWORK", "VM", "NODE", "MAC", "HOW", "SINCE", "SEEN",
		"+UNTIL", "+TRUNK", "+PLACE", "+APPROVED BY", "STATE")
	for i := range items {
		it := &items[i]
		how := it.Provenance
		if pg.wide && it.Source != "" {
			how += " by " + it.Source
		}
		g.row(say(hostOf(it.Address)), say(it.VLAN), say(it.Network), say(holderOf(it)), say(cmp.Or(it.Node, it.Place)), say(macOf(it.MAC)),
			say(how), say(p.age(it.Since)), say(p.age(it.Seen)), say(stamp(it.Until)), say(it.Trunk), say(it.Place), say(it.ApprovedBy),
			addressState(it, conflicts[placeOf(it)]))
	}
	g.end()
	pg.conflicts(items, conflicts, l.MACs)
	if l.Cut {
		pg.blank()
		pg.line(cell{"There are more than an answer holds: ask for one address, VM or pod.", warn})
	}
	return p.flush(pg)
}

// addressState is the state, with what is behind it.
func addressState(it *wire.Address, conflict bool) cell {
	c := cell{it.State, warn}
	switch {
	case it.State == wire.AddressRefused:
		if it.Why != "" {
			c.text += ": " + it.Why
		}
	case conflict:
		c = cell{it.State + ", CONFLICT", bad}
	case it.State == wire.AddressHeld:
		c.tone = good
	}
	return c
}

// conflicts names all sides of each, as the agent's log does. What is refused is no side.
func (p *page) conflicts(items []wire.Address, at map[addressAt]bool, macs []wire.MACConflict) {
	if len(at)+len(macs) == 0 {
		return
	}
	p.blank()
	p.line(cell{"CONFLICTS", head})
	for i := range macs {
		p.line(say("  "), cell{"MAC " + macs[i].String(), bad})
	}
	for len(items) > 0 {
		key, n := placeOf(&items[0]), 1
		for n < len(items) && placeOf(&items[n]) == key {
			n++
		}
		same := items[:n]
		items = items[n:]
		if !at[key] {
			continue
		}
		var sides []string
		for i := range same {
			if same[i].State != wire.AddressRefused {
				sides = append(sides, side(&same[i]))
			}
		}
		if len(sides) == 1 {
			sides = append(sides, "others: ask for the address")
		}
		p.line(say("  "), cell{fmt.Sprintf("%s in %s/%d is claimed by %s", hostOf(key.addr), key.trunk, key.vlan, strings.Join(sides, " and by ")), bad})
	}
}

// side is one who claims an address: who, and in brackets by which MAC, where and since when.
func side(it *wire.Address) string {
	who := holderOf(it)
	if it.State == wire.AddressOutside {
		who = "somebody outside the cluster"
	}
	var about []string
	if mac := macOf(it.MAC); mac != "" {
		about = append(about, mac)
	}
	if place := cmp.Or(it.Place, it.Node); place != "" {
		about = append(about, "at "+place)
	}
	if since := stamp(it.Since); since != "" {
		about = append(about, "since "+since)
	}
	if len(about) == 0 {
		return who
	}
	return who + " (" + strings.Join(about, ", ") + ")"
}

// hostOf is an address, "" for none.
func hostOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// macOf is a MAC, "" where it is not known.
func macOf(m attach.MAC) string {
	if len(bytes.Trim(m, "\x00")) == 0 {
		return ""
	}
	return m.String()
}

// holderOf is the VM or pod as namespace/name.
func holderOf(it *wire.Address) string {
	return pod(attach.Pod{Namespace: it.Namespace, Name: it.Name})
}

// age is how long ago a time was, as kubectl has it, "" for none. In Wide, and where nobody says what time it is, it is the
// time itself. What a clock of another node has ahead of ours is now.
func (p Printer) age(t time.Time) string {
	if t.IsZero() || p.Now.IsZero() || p.Format == Wide {
		return stamp(t)
	}
	return duration.HumanDuration(max(p.Now.Sub(t), 0))
}
