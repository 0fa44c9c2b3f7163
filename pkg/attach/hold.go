package attach

import (
	"fmt"
	"time"
)

// Hold is why nothing passes at a living pod's port, by decision and not by fault.
type Hold struct {
	// State is Quarantined or Released.
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Reason is one of the Hold... constants, Message the same for people.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Migration is the UID of the live migration by which the VM has left; "" is not known.
	Migration string `json:"migration,omitempty"`
}

// String says it in words, with since when.
func (h *Hold) String() string {
	what := "waits for its VM"
	if h.State == Released {
		what = "lets nothing pass"
	}
	return fmt.Sprintf("%s since %s: %s", what, h.Since.UTC().Format(time.RFC3339), h.Message)
}

// Why ports are held.
const (
	// HoldTarget: the pod is the target of a live migration whose VM still runs elsewhere.
	HoldTarget = "MigrationTarget"
	// HoldClaimed: the pod says so, which is not confirmed.
	HoldClaimed = "MigrationClaimed"
	// HoldUnknown: whether the pod is the target of a migration is not known.
	HoldUnknown = "MigrationUnknown"
	// HoldMoved: the VM has moved to another pod.
	HoldMoved = "MigratedAway"
)

// Arrival is how a VM came to its port from another node.
type Arrival struct {
	At time.Time `json:"at"` // as the agent noticed
	// By is one of the Arrived... constants.
	By string `json:"by"`
}

// Who told of an arrival.
const (
	// ArrivedByAnnouncement: the VM's own, which the program at the port heard.
	ArrivedByAnnouncement = "Announcement"
	// ArrivedByAPI: Kubernetes says that the VM runs in the port's pod now.
	ArrivedByAPI = "KubernetesAPI"
	// ArrivedByOperator: somebody said so by hand (homeportctl ports open).
	ArrivedByOperator = "Operator"
)

// Wanted is the state that the port of a complete attachment should be in.
func (r *Record) Wanted() State {
	if r.Hold == nil {
		return Active
	}
	return r.Hold.State
}
