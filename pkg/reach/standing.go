package reach

import (
	"fmt"
	"slices"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Of is the part of the report that is about a node: its cells, and the findings that concern it.
func (r *Report) Of(node string) *Report {
	part := *r
	part.Cells = slices.DeleteFunc(slices.Clone(r.Cells), func(c Cell) bool { return c.Node != node })
	part.Nodes = slices.DeleteFunc(slices.Clone(r.Nodes), func(n Node) bool { return n.Node != node })
	part.Findings = slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool {
		if len(f.Nodes) > 0 {
			return !slices.Contains(f.Nodes, node)
		}
		return f.Trunk != "" && !slices.ContainsFunc(part.Cells, func(c Cell) bool { return f.Concerns(&c) })
	})
	part.sum()
	return &part
}

// findEverywhere marks the findings that no node is without which has the VLAN.
func (r *Report) findEverywhere() {
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Everywhere = len(f.Nodes) > 1 && !slices.ContainsFunc(r.Cells, func(c Cell) bool {
			return c.Trunk == f.Trunk && (f.VLANs.Empty() || f.VLANs.Contains(c.VLAN)) && !slices.Contains(f.Nodes, c.Node)
		})
	}
}

// Standing is how a node stands with a network.
type Standing string

// The standings.
const (
	Unknown Standing = "unknown" // the report does not tell
	Well    Standing = "well"
	Unwell  Standing = "unwell"
)

// Standing tells from a report, or a node's part of one, whether VMs of a network can be reached on the
// node, and why not. Errors of the node count: what is wrong with the fabric, or on all nodes alike, as a gateway
// that is silent, makes no node worse than another, nor does what may as well be the other side's.
func (r *Report) Standing(node, trunk string, vlans vlan.Set) (Standing, string) {
	missing := vlans
	untested := map[vlan.ID]string{}
	for i := range r.Cells {
		c := &r.Cells[i]
		if c.Node != node || c.Trunk != trunk || !vlans.Contains(c.VLAN) {
			continue
		}
		for j := range r.Findings {
			f := &r.Findings[j]
			if c.Result == Fail && string(f.Code) == c.Why && f.Severity == Error && !f.Either && !f.Everywhere && slices.Contains(f.Nodes, node) && f.Concerns(c) {
				return Unwell, fmt.Sprintf("%s in VLAN %d: %s", f.Code, c.VLAN, f.Message)
			}
		}
		switch {
		case c.Test != TestTrunk:
		case c.Result == Pass:
			missing.Remove(c.VLAN)
		case c.Result == Fail:
			untested[c.VLAN] = " to its end: " + c.Why + ", which may not be this node's"
		default:
			untested[c.VLAN] = ": " + c.Why
		}
	}
	for id := range missing.All() {
		return Unknown, fmt.Sprintf("VLAN %d was not tested%s", id, untested[id])
	}
	if vlans.Empty() {
		return Unknown, "it has no VLANs"
	}
	return Well, ""
}
