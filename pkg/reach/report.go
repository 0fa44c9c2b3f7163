package reach

import (
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// ReportKind is a Report's kind.
const ReportKind = "ReachabilityReport"

// Report is what a check has come to.
type Report struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Run        string        `json:"run"`
	Started    time.Time     `json:"started"` // by the clock of the node that ran it
	Took       time.Duration `json:"took"`    // nanoseconds
	// Cancelled: it was ended before its time; what is here was found until then.
	Cancelled bool      `json:"cancelled,omitempty"`
	Summary   Summary   `json:"summary"`
	Findings  []Finding `json:"findings"`
	Nodes     []Node    `json:"nodes"`
	Cells     []Cell    `json:"cells"`
	// PassedLeftOut: cells that passed are not among Cells, since there are so many.
	PassedLeftOut bool `json:"passedLeftOut,omitempty"`
}

// LeaveOutPassed takes out the cells that passed; Summary counts them still.
func (r *Report) LeaveOutPassed() {
	r.Cells = slices.DeleteFunc(r.Cells, func(c Cell) bool { return c.Result == Pass })
	r.PassedLeftOut = true
}

// Summary counts.
type Summary struct {
	Cells    int `json:"cells"`
	Passed   int `json:"passed"`
	Failed   int `json:"failed"`
	Untested int `json:"untested"`
	Errors   int `json:"errors"`
	Warnings int `json:"warnings"`
	Infos    int `json:"infos"`
}

// Finding is one cause, with all that it is seen at.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Trunk    string   `json:"trunk,omitempty"`
	// Networks that are concerned, and VLANs; none of VLANs is all.
	Networks []string `json:"networks,omitempty"`
	VLANs    vlan.Set `json:"vlans,omitzero"`
	// Nodes where it is; none is the fabric's. One of them, where Either is set: which cannot be told.
	Nodes  []string `json:"nodes,omitempty"`
	Either bool     `json:"either,omitempty"`
	// Targets are the addresses, MACs or VLANs that it is about.
	Targets []string `json:"targets,omitempty"`
	// Message says what is wrong here; Evidence what was seen; Next what to do.
	Message  string   `json:"message"`
	Evidence []string `json:"evidence,omitempty"`
	Next     string   `json:"next"`
	// Ports are switch and port of each node, as far as LLDP tells.
	Ports []string `json:"ports,omitempty"`
	// LargestMTU that passed, in bytes; of MTUBelowIntent.
	LargestMTU int `json:"largestMTU,omitempty"`
}

// Node is one that took part, or should have.
type Node struct {
	Node   string `json:"node"`
	Trunk  string `json:"trunk,omitempty"`
	Uplink string `json:"uplink,omitempty"`
	// Switch and Port are as the switch has them by LLDP; Chassis is its own, where that is not
	// Switch already: switches may share a name.
	Switch  string `json:"switch,omitempty"`
	Chassis string `json:"chassis,omitempty"`
	Port    string `json:"port,omitempty"`
	// VLANs that cells are of, also of such cells as were left out.
	VLANs   vlan.Set `json:"vlans,omitzero"`
	Version string   `json:"version,omitempty"`
	Absent  string   `json:"absent,omitempty"` // why
	Frames  int      `json:"frames"`           // sent
}

// Result of a cell.
type Result string

// The results.
const (
	Pass     Result = "pass"
	Fail     Result = "fail"
	Untested Result = "untested"
)

// Cell is one test of one VLAN on one node.
type Cell struct {
	Node   string  `json:"node"`
	Trunk  string  `json:"trunk"`
	VLAN   vlan.ID `json:"vlan"`
	Test   Test    `json:"test"`
	Target string  `json:"target,omitempty"`
	Result Result  `json:"result"`
	// Why: the finding's code of what failed, or what kept it from being tested.
	Why string `json:"why,omitempty"`
	// Everywhere: it failed, and on no node it passed.
	Everywhere bool `json:"everywhere,omitempty"`
}

// part is the least that a finding is about.
type part struct {
	code                Code
	trunk, node, target string
	vlan                vlan.ID
	either              bool
}

// parts are a finding's, each with the MTU that passed.
func (f *Finding) parts(to map[part]int) {
	nodes, targets, vlans := f.Nodes, f.Targets, slices.Collect(f.VLANs.All())
	if len(nodes) == 0 {
		nodes = []string{""}
	}
	if len(targets) == 0 {
		targets = []string{""}
	}
	if len(vlans) == 0 {
		vlans = []vlan.ID{0}
	}
	for _, n := range nodes {
		for _, t := range targets {
			for _, id := range vlans {
				p := part{f.Code, f.Trunk, n, t, id, f.Either}
				to[p] = max(to[p], f.LargestMTU)
			}
		}
	}
}

// Concerns says that a cell is one of the finding's.
func (f *Finding) Concerns(c *Cell) bool {
	return (f.Trunk == "" || f.Trunk == c.Trunk) && (len(f.Nodes) == 0 || slices.Contains(f.Nodes, c.Node)) &&
		(f.VLANs.Empty() || f.VLANs.Contains(c.VLAN)) && (c.Target == "" || len(f.Targets) == 0 || slices.Contains(f.Targets, c.Target))
}

// News are the findings that a baseline does not have, node for node and VLAN for VLAN, or not so bad.
func (r *Report) News(baseline *Report) (news, known []Finding) {
	before := map[part]int{}
	if baseline != nil {
		for i := range baseline.Findings {
			baseline.Findings[i].parts(before)
		}
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		now := map[part]int{}
		f.parts(now)
		isNew := false
		for p, size := range now {
			was, ok := before[p]
			isNew = isNew || !ok || size < was
		}
		if isNew {
			news = append(news, *f)
		} else {
			known = append(known, *f)
		}
	}
	return news, known
}

// Conclusive says that all that was intended could be tried, but for what a baseline had as well.
func (r *Report) Conclusive(baseline *Report) bool {
	news, _ := r.News(baseline)
	return !r.Cancelled && r.Summary.Cells > 0 && !slices.ContainsFunc(news, func(f Finding) bool {
		return f.Code == AgentAbsent || f.Code == ProbeNotSent || f.Code == NoPeer
	})
}
