package reach

import (
	"fmt"
	"slices"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Of is the part of the report that is about a node: its cells, and the findings that concern it. It keeps nothing of the rest.
func (r *Report) Of(node string) *Report {
	part := *r
	part.Cells, part.Nodes, part.Findings = []Cell{}, []Node{}, []Finding{}
	for i := range r.Cells {
		if r.Cells[i].Node == node {
			part.Cells = append(part.Cells, r.Cells[i])
		}
	}
	for _, n := range r.Nodes {
		if n.Node == node {
			part.Nodes = append(part.Nodes, n)
		}
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		if slices.Contains(f.Nodes, node) || len(f.Nodes) == 0 && (f.Trunk == "" || slices.ContainsFunc(part.Cells, func(c Cell) bool { return f.Concerns(&c) })) {
			part.Findings = append(part.Findings, *f)
		}
	}
	part.sum()
	return &part
}

// findEverywhere marks the cells that failed where no node has passed.
func (r *Report) findEverywhere() {
	type test struct {
		trunk, target string
		vlan          vlan.ID
		test          Test
	}
	of := func(c *Cell) test { return test{c.Trunk, c.Target, c.VLAN, c.Test} }
	passed := map[test]bool{}
	for i := range r.Cells {
		if c := &r.Cells[i]; c.Result == Pass {
			passed[of(c)] = true
		}
	}
	for i := range r.Cells {
		c := &r.Cells[i]
		c.Everywhere = c.Result == Fail && !passed[of(c)]
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
// node, and why not. Errors of the node count, if another node has passed: what is wrong with the fabric, or on all nodes,
// as a gateway that is silent, makes no node worse than another, nor does what may as well be the other side's, or the
// gateway's own limit of echo requests.
func (r *Report) Standing(node, trunk string, vlans vlan.Set) (Standing, string) {
	missing := vlans
	untested := map[vlan.ID]string{}
	for i := range r.Cells {
		c := &r.Cells[i]
		if c.Node != node || c.Trunk != trunk || !vlans.Contains(c.VLAN) {
			continue
		}
		for j := range r.Findings {
			if c.Test == TestMTU && c.Target != "" {
				break
			}
			f := &r.Findings[j]
			if c.Result == Fail && !c.Everywhere && string(f.Code) == c.Why && f.Severity == Error && !f.Either && slices.Contains(f.Nodes, node) && f.Concerns(c) {
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
