package v1alpha1

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// ReachabilityCheck has the agents check what the fabric carries, on a schedule or when
// asked, as `homeportctl check` does. One of them runs it and writes what it found; each
// node has its own part in its metrics, and goes by it where a VLANNetwork says
// reachability.required. What is checked of a network is said there.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=rcheck,categories=homeport
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Every",type=string,JSONPath=`.spec.every`
// +kubebuilder:printcolumn:name="Passed",type=string,JSONPath=`.status.conditions[?(@.type=="Passed")].status`
// +kubebuilder:printcolumn:name="Cells",type=integer,JSONPath=`.status.last.cells`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.last.failed`
// +kubebuilder:printcolumn:name="Untested",type=integer,JSONPath=`.status.last.untested`
// +kubebuilder:printcolumn:name="Last",type=date,JSONPath=`.status.last.ended`
// +kubebuilder:printcolumn:name="Running",type=string,JSONPath=`.status.running.node`,priority=1
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Passed")].reason`,priority=1
type ReachabilityCheck struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ReachabilityCheckSpec `json:"spec"`

	// Status is what came of it; Homeport writes it.
	// +optional
	Status ReachabilityCheckStatus `json:"status,omitzero"`
}

// ReachabilityCheckSpec says what is checked, and when.
//
// +kubebuilder:validation:XValidation:rule="has(self.every) || has(self.run)",message="say when: every, as 1h, or run, with a text that is new for each run"
type ReachabilityCheckSpec struct {
	// Every is the time from the end of a run to the next, as 15m or 1h; a minute at
	// least. Absent: it runs when asked alone. Once a required network has failed on a
	// node that had passed, or passed again, the next run is a minute later, so
	// that it is settled soon.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('168h')",message="want a time from 1m to 168h, as 15m or 1h30m"
	Every string `json:"every,omitempty"`

	// Run asks for a run now: each new text is one, as
	// kubectl patch rcheck NAME --type merge -p '{"spec":{"run":"'$(date +%s)'"}}'.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Run string `json:"run,omitempty"`

	// Networks by name. Absent: all.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Networks []string `json:"networks,omitempty"`

	// VLANs of these, as "100-110,200". Absent: all.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=8192
	VLANs string `json:"vlans,omitempty"`

	// Nodes of which all is told, by name; others only take part. Absent: all.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	Nodes []string `json:"nodes,omitempty"`

	// Skip are tests that are left out: trunk, mac, mtu, gateway, target, dhcp, ra, lldp.
	// +optional
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:Enum=trunk;mac;mtu;gateway;target;dhcp;ra;lldp
	// +listType=set
	Skip []string `json:"skip,omitempty"`

	// MaxPPS is the most frames that go out of an uplink in a second, 1000 if absent.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	MaxPPS *int32 `json:"maxPPS,omitempty"`
}

// The tests of a check, as pkg/reach has them.
var reachTests = []string{"trunk", "mac", "mtu", "gateway", "target", "dhcp", "ra", "lldp"}

// Limits of ReachabilityCheckSpec.Every.
const (
	MinCheckEvery = time.Minute
	MaxCheckEvery = 168 * time.Hour
)

// ReachabilityCheckStatus is what came of a check.
type ReachabilityCheckStatus struct {
	// Running says who runs it now. Absent: nobody.
	// +optional
	Running *CheckRunning `json:"running,omitempty"`

	// Last run that came to an end.
	// +optional
	Last *CheckRun `json:"last,omitempty"`

	// LastPassed is when a run last found neither errors nor warnings.
	// +optional
	LastPassed *metav1.Time `json:"lastPassed,omitempty"`

	// Conditions of the check: Ready, Passed.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// CheckRunning is a run that goes on.
type CheckRunning struct {
	// Node whose agent runs it.
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	// Since when, by that node's clock.
	Since metav1.Time `json:"since"`
}

// CheckRun is what a run found. The whole of it is in `homeportctl check --last NAME`.
type CheckRun struct {
	// ID of the run.
	// +kubebuilder:validation:MaxLength=63
	ID string `json:"id"`

	// Node whose agent ran it.
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	// Run is spec.run as it was then.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Run string `json:"run,omitempty"`

	// Started and Ended by that node's clock.
	Started metav1.Time `json:"started"`
	Ended   metav1.Time `json:"ended"`

	// Error says why the check could not be run. Absent: it was.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Error string `json:"error,omitempty"`

	// Cells are how many tests there were: one of one VLAN on one node.
	// +optional
	Cells int32 `json:"cells"`
	// +optional
	Passed int32 `json:"passed"`
	// +optional
	Failed int32 `json:"failed"`
	// +optional
	Untested int32 `json:"untested"`

	// Errors, Warnings and Infos are how many findings there are of each.
	// +optional
	Errors int32 `json:"errors"`
	// +optional
	Warnings int32 `json:"warnings"`
	// +optional
	Infos int32 `json:"infos"`

	// Findings, the worst first.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Findings []CheckFinding `json:"findings,omitempty"`
}

// Limits of what a status holds of a run; the whole report has all of it.
const (
	MaxCheckFindings = 32
	MaxCheckNames    = 16
)

// CheckFinding is one cause, with all that it is seen at.
type CheckFinding struct {
	// Code as `homeportctl explain CODE` explains it.
	// +kubebuilder:validation:MaxLength=63
	Code string `json:"code"`

	// Severity of it.
	// +kubebuilder:validation:Enum=error;warning;info
	Severity string `json:"severity"`

	// Trunk is the VLANTrunk's name.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Trunk string `json:"trunk,omitempty"`

	// VLANs that are concerned, as "100-110,200", some of them if there are many ranges; absent: all.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	VLANs string `json:"vlans,omitempty"`

	// Networks that are concerned, some of them if there are more than 16.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Networks []string `json:"networks,omitempty"`

	// Nodes where it is, some of them if there are more than 16; absent: the fabric's.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Nodes []string `json:"nodes,omitempty"`

	// Targets are the addresses, MACs or VLANs that it is about, some of them if there
	// are more than 16.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Targets []string `json:"targets,omitempty"`

	// SwitchPorts of the nodes, as LLDP tells.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	SwitchPorts []string `json:"switchPorts,omitempty"`

	// Message says what is wrong.
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`

	// Next says what to do.
	// +kubebuilder:validation:MaxLength=1024
	Next string `json:"next"`
}

// ReachabilityCheckList is a list of ReachabilityChecks.
//
// +kubebuilder:object:root=true
type ReachabilityCheckList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ReachabilityCheck `json:"items"`
}

// ValidateReachabilityCheck checks a check, as far as the object alone can be judged.
func ValidateReachabilityCheck(c *ReachabilityCheck) field.ErrorList {
	errs := validateMeta(&c.ObjectMeta)
	spec := field.NewPath("spec")
	if c.Spec.Every == "" && c.Spec.Run == "" {
		errs = append(errs, field.Required(spec.Child("every"), "say when: every, as 1h, or run, with a text that is new for each run"))
	}
	if c.Spec.Every != "" {
		if d, err := time.ParseDuration(c.Spec.Every); err != nil || d < MinCheckEvery || d > MaxCheckEvery {
			errs = append(errs, field.Invalid(spec.Child("every"), c.Spec.Every, "want a time from 1m to 168h, as 15m or 1h30m"))
		}
	}
	if len(c.Spec.Run) > 63 {
		errs = append(errs, field.TooLong(spec.Child("run"), "", 63))
	}
	for _, list := range []struct {
		name  string
		names []string
	}{{"networks", c.Spec.Networks}, {"nodes", c.Spec.Nodes}} {
		path := spec.Child(list.name)
		if n := len(list.names); n > 256 {
			errs = append(errs, field.TooMany(path, n, 256))
			errs[len(errs)-1].Detail += ": make more checks, or leave it out for all"
		}
		errs = append(errs, once(path, list.names, func(text string) error {
			if text == "" {
				return fmt.Errorf("is empty: want the name of one")
			}
			return nil
		})...)
	}
	if c.Spec.VLANs != "" {
		if _, err := vlan.ParseSet(c.Spec.VLANs); err != nil {
			errs = append(errs, field.Invalid(spec.Child("vlans"), c.Spec.VLANs, err.Error()))
		}
	}
	errs = append(errs, once(spec.Child("skip"), c.Spec.Skip, func(text string) error {
		if !slices.Contains(reachTests, text) {
			return fmt.Errorf("want some of %v", reachTests)
		}
		return nil
	})...)
	if len(errs) == 0 && len(c.Spec.Skip) == len(reachTests) {
		errs = append(errs, field.Invalid(spec.Child("skip"), c.Spec.Skip, "leaves nothing to test: want at least one test left"))
	}
	if p := c.Spec.MaxPPS; p != nil && (*p < 1 || *p > 100000) {
		errs = append(errs, field.Invalid(spec.Child("maxPPS"), *p, "want 1 to 100000"))
	}
	return errs
}
