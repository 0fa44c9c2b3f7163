package report

import (
	"cmp"
	"fmt"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Verdict writes what the rules of a port say about a packet, and which of them.
func (p Printer) Verdict(v wire.Verdict) error {
	pg := p.text()
	by := defaultOf(v.Network)
	if v.Rule != nil {
		by = ruleOf(v.Policy, v.Rule)
	} else if v.Neighbours {
		by = "no rule: ARP and Neighbor Discovery pass"
	}
	rows := [][2]cell{
		{{"Port", head}, say(portOf(v.Interface, v.Pod))},
		{{"Packet", head}, say(v.Packet)},
		{{"Verdict", head}, action(v.Action)},
		{{"By", head}, say(by)},
	}
	for i := range v.Passed {
		rows = append(rows, [2]cell{{"Passed on", head}, say(ruleOf(v.Passed[i].Policy, &v.Passed[i].Rule))})
	}
	if m := v.Monitored; m != nil {
		rows = append(rows, [2]cell{{"Monitored", head}, say(ruleOf(m.Policy, &m.Rule) + " would " + m.Action)})
	}
	pg.pairs(append(rows, silent(v.State)...)...)
	return p.flush(pg)
}

// Trace writes what a port's own program would do with a packet.
func (p Printer) Trace(v wire.Trace) error {
	pg := p.text()
	why := v.Reason + ": " + v.Text
	if v.Ends {
		why += "; its connection would end"
	}
	rows := [][2]cell{
		{{"Port", head}, say(portOf(v.Interface, v.Pod))},
		{{"Packet", head}, say(v.Packet)},
		{{"Verdict", head}, action(v.Verdict)},
		{{"Stage", head}, say(v.Stage)},
		{{"Reason", head}, say(why)},
	}
	if r := v.Rule; r != nil {
		rows = append(rows, [2]cell{{"Rule", head}, say(eventRule(r) + ", " + r.Action)})
	}
	if m := v.Monitored; m != nil {
		rows = append(rows, [2]cell{{"Monitored", head}, say(eventRule(m) + " would " + m.Action)})
	}
	pg.pairs(append(rows, silent(v.State)...)...)
	return p.flush(pg)
}

func ruleOf(policy string, r *wire.Rule) string {
	text := fmt.Sprintf("policy %s, rule %d", policy, r.ID)
	if r.Name != "" {
		text += " " + r.Name
	}
	return text
}

// PortRules writes the rules that judge a port, in their order.
func (p Printer) PortRules(v wire.PortRules) error {
	pg := p.text()
	rows := [][2]cell{
		{{"Port", head}, say(portOf(v.Interface, v.Pod))},
		{{"Network", head}, say(cmp.Or(v.Default.Network, "none"))},
		{{"Rules", head}, say(len(v.Items))},
	}
	pg.pairs(append(rows, silent(v.State)...)...)
	pg.blank()
	g := pg.grid("POLICY", "ID", "NAME", "ACTION", "DIRECTION", "SOURCES", "DESTINATIONS", "SERVICES", "HITS", "+BYTES", "+LAST HIT")
	for i := range v.Items {
		g.row(append([]cell{say(v.Items[i].Policy)}, pg.rule(&v.Items[i].Rule)...)...)
	}
	g.row(say("(default)"), say(""), say(""), action(v.Default.Action), say("InOut"), say("Any"), say("Any"), say("Any"), count(v.Default.Packets), count(v.Default.Bytes), say(stamp(v.Default.LastHit)))
	g.end()
	return p.flush(pg)
}

// defaultOf is what judges on a network where no rule matches.
func defaultOf(network string) string {
	if network == "" {
		return "default of ports without a network"
	}
	return "defaultAction of network " + network
}

func portOf(iface string, pod attach.Pod) string {
	switch {
	case iface == "":
		return "none: by manifests"
	case pod.Name == "":
		return iface
	}
	return iface + " of " + pod.Namespace + "/" + pod.Name
}

// silent says that a port passes nothing, if so.
func silent(s attach.State) [][2]cell {
	if s == attach.Active {
		return nil
	}
	return [][2]cell{{{"Port is", head}, {fmt.Sprintf("%s: nothing passes, whatever the rules say", s), warn}}}
}
