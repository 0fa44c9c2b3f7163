package reach

import (
	"time"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

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
	Node    string `json:"node"`
	Trunk   string `json:"trunk,omitempty"`
	Uplink  string `json:"uplink,omitempty"`
	Switch  string `json:"switch,omitempty"`
	Port    string `json:"port,omitempty"`
	Version string `json:"version,omitempty"`
	Absent  string `json:"absent,omitempty"` // why
	Frames  int    `json:"frames"`           // sent
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
}
