package report

import (
	"fmt"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Policies writes every FirewallPolicy in force, in the order of judgement,
// and what the networks' default actions judged.
func (p Printer) Policies(l wire.PolicyList) error {
	if !p.Format.IsText() {
		return p.Document(l)
	}
	pg := p.text()
	if len(l.Items) == 0 {
		pg.line(say("No FirewallPolicy is in force on this node."))
	} else {
		g := pg.grid("POLICY", "CATEGORY", "ORDER", "NETWORKS", "RULES", "HITS", "+BYTES")
		for _, it := range l.Items {
			var packets, bytes uint64
			for _, r := range it.Rules {
				packets += r.Packets
				bytes += r.Bytes
			}
			g.row(say(it.Name), say(it.Category), say(it.Order), say(pg.some(it.Networks, "Any")),
				say(len(it.Rules)), count(packets), count(bytes))
		}
		g.end()
	}
	if len(l.Defaults) > 0 {
		pg.blank()
		g := pg.grid("UNMATCHED ON NETWORK", "ACTION", "HITS", "+BYTES")
		for _, d := range l.Defaults {
			name := d.Network
			if name == "" {
				name = "(ports without a network)"
			}
			g.row(say(name), action(d.Action), count(d.Packets), count(d.Bytes))
		}
		g.end()
	}
	return p.flush(pg)
}

// Hits writes the hits of every rule in the order of judgement, and those of the
// networks' default actions.
func (p Printer) Hits(l wire.PolicyList) error {
	pg := p.text()
	g := pg.grid("POLICY", "ID", "NAME", "ACTION", "HITS", "BYTES", "LAST HIT")
	for _, it := range l.Items {
		for i := range it.Rules {
			r := &it.Rules[i]
			g.row(say(it.Name), say(r.ID), say(r.Name), does(r), count(r.Packets), count(r.Bytes), say(stamp(r.LastHit)))
		}
	}
	for _, d := range l.Defaults {
		g.row(say(defaultOf(d.Network)), say(""), say(""), action(d.Action), count(d.Packets), count(d.Bytes), say(stamp(d.LastHit)))
	}
	g.end()
	return p.flush(pg)
}

// Policy writes one FirewallPolicy: each rule with its id and its hits.
func (p Printer) Policy(it wire.Policy) error {
	pg := p.text()
	pg.pairs(
		[2]cell{{"Policy", head}, say(it.Name)},
		[2]cell{{"Category", head}, say(fmt.Sprintf("%s, order %d", it.Category, it.Order))},
		[2]cell{{"Networks", head}, say(pg.some(it.Networks, "Any"))},
	)
	pg.blank()
	g := pg.grid("ID", "NAME", "ACTION", "DIRECTION", "SOURCES", "DESTINATIONS", "SERVICES", "HITS", "+BYTES", "+LAST HIT")
	for i := range it.Rules {
		g.row(pg.rule(&it.Rules[i])...)
	}
	g.end()
	return p.flush(pg)
}

// does is a rule's action, and what is special about it.
func does(r *wire.Rule) cell {
	c := action(r.Action)
	if r.Ethernet {
		c.text += ", Ethernet"
	}
	if r.Stateless {
		c.text += ", stateless"
	}
	if r.Loose {
		c.text += ", loose"
	}
	if r.Sticky {
		c.text += ", sticky"
	}
	if r.Log {
		c.text += ", log"
	}
	if r.State != "" {
		c = say(c.text + ", " + r.State)
	}
	return c
}

// where is a rule's direction, and at which addresses of VMs it is there.
func (p *page) where(r *wire.Rule) string {
	if r.Local == nil {
		return r.Direction
	}
	return r.Direction + " at " + p.some(r.Local, "")
}

// rule is a rule's row, from its ID on.
func (p *page) rule(r *wire.Rule) []cell {
	return []cell{say(r.ID), say(r.Name), does(r), say(p.where(r)), say(p.some(r.Sources, "Any")),
		say(p.some(r.Destinations, "Any")), say(p.some(r.Services, "Any")), count(r.Packets), count(r.Bytes), say(stamp(r.LastHit))}
}

func action(a string) cell {
	switch a {
	case "Allow":
		return cell{a, good}
	case "Drop", "Reject":
		return cell{a, bad}
	}
	return say(a)
}
