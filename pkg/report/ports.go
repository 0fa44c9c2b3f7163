package report

import (
	"slices"
	"strconv"
	"strings"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Ports writes every port of the node, by interface name.
func (p Printer) Ports(l wire.PortList) error {
	if !p.Format.IsText() {
		return p.Document(l)
	}
	pg := p.text()
	if len(l.Items) == 0 {
		pg.line(say("No VM port is attached on this node."))
		return p.flush(pg)
	}
	items := slices.Clone(l.Items)
	slices.SortStableFunc(items, func(a, b wire.Port) int { return strings.Compare(a.HostIfName, b.HostIfName) })
	g := pg.grid("PORT", "STATE", "NETWORK", "VLANS", "MAC", "POD", "OUT", "OUT-DROPPED", "IN", "IN-DROPPED",
		"+BRIDGE", "+MTU", "+POLICY", "+CONTAINER", "+IFNAME", "+CREATED", "+SECURITY", "+FAST-PATH")
	for _, it := range items {
		g.row(say(it.HostIfName), state(it.State), say(it.Network), say(carries(it.VLANs)), say(it.MAC), say(pod(it.Pod)),
			count(it.Passed[0]), drops(it.Dropped[0]), count(it.Passed[1]), drops(it.Dropped[1]),
			say(it.Bridge), say(it.EffectiveMTU), say(it.Policy), say(it.ContainerID), say(it.IfName), say(stamp(it.CreatedAt)), say(it.Security), say(fastPath(it.FastPath)))
	}
	g.end()
	first := true
	for _, it := range items {
		if it.Hold == nil {
			continue
		}
		if first {
			pg.blank()
			pg.line(cell{"SILENT", head})
			first = false
		}
		pg.line(say("  "), say(it.HostIfName), say(": "), cell{it.Hold.String(), warn})
	}
	first = true
	for _, it := range items {
		for _, problem := range it.Problems {
			if first {
				pg.blank()
				pg.line(cell{"PROBLEMS", head})
				first = false
			}
			pg.line(say("  "), say(it.HostIfName), say(": "), cell{problem, bad})
		}
	}
	return p.flush(pg)
}

// fastPath says whether packets go past the bridge, or why not.
func fastPath(f *wire.FastPath) string {
	switch {
	case f == nil:
		return "-"
	case f.On && f.Why != "":
		return "on, but " + f.Why
	case f.On && !f.ToUplink:
		return "on between VMs"
	case f.On:
		return "on"
	}
	return "off: " + f.Why
}

func state(s attach.State) cell {
	if s == attach.Active {
		return cell{s.String(), good}
	}
	return cell{s.String(), warn}
}

// carries is a port's VLANs in words: "access 100", "trunk 100-110",
// "trunk 100-110 native 5".
func carries(v attach.VLANs) string {
	switch v.Mode {
	case vlan.Trunk:
		return "trunk " + v.Tagged.String()
	case vlan.Native:
		return strings.Join(strings.Fields("trunk "+v.Tagged.String()+" native "+strconv.Itoa(int(v.PVID))), " ")
	}
	return "access " + strconv.Itoa(int(v.PVID))
}

// pod is "namespace/name".
func pod(p attach.Pod) string {
	if p.Namespace == "" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

func count(n uint64) cell { return cell{text: strconv.FormatUint(n, 10)} }

func drops(n uint64) cell {
	c := count(n)
	if n > 0 {
		c.tone = warn
	}
	return c
}
