package reach

import (
	"errors"
	"fmt"
	"time"
)

// Ran is what came of one run of a ReachabilityCheck.
type Ran struct {
	Check string `json:"check"` // its name
	ID    string `json:"id"`    // of the run
	By    string `json:"by"`    // the node whose agent ran it
	// Run is spec.run as it was.
	Run string `json:"run,omitempty"`
	// Started and Ended by the clock of that node.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	// Error is why there is no Report.
	Error  string  `json:"error,omitempty"`
	Report *Report `json:"report,omitempty"`
}

// Sum is what was found, in a few words.
func (r *Ran) Sum() string {
	if r.Report == nil {
		return "nothing: " + r.Error
	}
	s := r.Report.Summary
	return fmt.Sprintf("%d of %d cells passed, %d failed, %d untested; %d errors, %d warnings", s.Passed, s.Cells, s.Failed, s.Untested, s.Errors, s.Warnings)
}

// ErrOvertaken is that another agent has taken a check over, since its run took too long.
var ErrOvertaken = errors.New("another agent has taken the check over")

// Claim is what an agent is told that asks to run a check.
type Claim struct {
	// Mine: it shall.
	Mine bool
	// Last run, as far as it is known; without a Report. Of it, Age is how long ago it ended.
	Last Ran
	Age  time.Duration
}
