package report

import (
	"fmt"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Verdict writes what the rules of a port say about a packet, and which of them.
func (p Printer) Verdict(v wire.Verdict) error {
	pg := p.text()
	by := "defaultAction of network " + v.Network
	switch {
	case v.Rule != nil:
		by = fmt.Sprintf("policy %s, rule %d", v.Policy, v.Rule.ID)
		if v.Rule.Name != "" {
			by += " " + v.Rule.Name
		}
	case v.Network == "":
		by = "default of ports without a network"
	}
	port := v.Interface
	if v.Pod.Name != "" {
		port += " of " + v.Pod.Namespace + "/" + v.Pod.Name
	}
	rows := [][2]cell{
		{{"Port", head}, say(port)},
		{{"Packet", head}, say(v.Packet)},
		{{"Verdict", head}, action(v.Action)},
		{{"By", head}, say(by)},
	}
	if v.State != attach.Active {
		rows = append(rows, [2]cell{{"Port is", head}, {fmt.Sprintf("%s: nothing passes, whatever the rules say", v.State), warn}})
	}
	pg.pairs(rows...)
	return p.flush(pg)
}
