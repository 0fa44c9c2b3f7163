package report

import (
	"fmt"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Answer is one of three: what could not be found out is neither yes nor no.
type Answer string

// The answers.
const (
	Yes     Answer = "Yes"
	No      Answer = "No"
	Unknown Answer = "Unknown"
)

// Check is one question about a node and its answer. Questions are put so that
// Yes is what one wants.
type Check struct {
	// Name is the question as a short statement: "bpffs is mounted".
	Name   string `json:"name"`
	Answer Answer `json:"answer"`
	// Required says that Homeport does not work where the answer is No.
	Required bool `json:"required"`
	// Purpose is what it is needed for, to be read after "for".
	Purpose string `json:"purpose,omitempty"`
	// Detail is what was found, and for Unknown why nothing was.
	Detail string `json:"detail,omitempty"`
	// Needs is the least kernel version or the configuration for a Yes.
	Needs string `json:"needs,omitempty"`
	// Remedy is what to do when the answer is not Yes.
	Remedy string `json:"remedy,omitempty"`
}

// Diagnosis is what bridge-agent doctor found.
type Diagnosis struct {
	wire.TypeMeta `json:",inline"`
	// Outcome is [Outcome] of Checks.
	Outcome Answer  `json:"outcome"`
	Checks  []Check `json:"checks"`
}

// Diagnose heads the checks and sums them up.
func Diagnose(checks []Check) Diagnosis {
	return Diagnosis{
		TypeMeta: wire.TypeMeta{APIVersion: wire.APIVersion, Kind: "Diagnosis"},
		Outcome:  Outcome(checks),
		Checks:   checks,
	}
}

// Outcome says whether Homeport works here, by the required checks only: No if
// one says No, else Unknown if one could not be answered, else Yes.
func Outcome(checks []Check) Answer {
	sum := Yes
	for _, c := range checks {
		switch {
		case !c.Required || c.Answer == Yes:
		case c.Answer == No:
			return No
		default:
			sum = Unknown
		}
	}
	return sum
}

// Diagnosis writes the checks: a line for each, then for each that is not Yes
// what was found and what to do.
func (p Printer) Diagnosis(d Diagnosis) error {
	if !p.Format.IsText() {
		return p.Document(d)
	}
	pg := p.text()
	g := pg.grid("CHECK", "ANSWER", "DETAIL")
	for _, c := range d.Checks {
		answer, detail := c.cell(), c.Detail
		if c.Answer == No && c.Needs != "" {
			answer.text += ", needs " + c.Needs
		}
		switch {
		case c.Answer != Yes && c.advises():
			detail = "see below"
		case detail == "" && c.Purpose != "":
			detail = "for " + c.Purpose
		}
		g.row(say(c.Name), answer, say(detail))
	}
	g.end()
	warnings := advice(pg, d.Checks)
	pg.blank()
	switch {
	case d.Outcome == No:
		pg.line(cell{"Homeport cannot work on this node as it is.", bad})
	case d.Outcome == Unknown:
		pg.line(cell{"Whether Homeport works on this node could not be found out.", warn})
	case warnings > 0:
		pg.line(cell{fmt.Sprintf("Homeport works on this node; warnings above: %d.", warnings), warn})
	default:
		pg.line(cell{"Homeport works on this node.", good})
	}
	return p.flush(pg)
}

// advice writes what is known of each check that is not Yes, and counts them.
func advice(pg *page, checks []Check) int {
	n := 0
	for _, c := range checks {
		if c.Answer == Yes {
			continue
		}
		n++
		if !c.advises() {
			continue
		}
		pg.blank()
		pg.line(cell{c.Name, head}, say(": "), c.cell())
		pg.paragraph("for     ", c.Purpose)
		pg.paragraph("found   ", c.Detail)
		pg.paragraph("remedy  ", c.Remedy)
	}
	return n
}

// advises says that there is more to say than the answer.
func (c Check) advises() bool { return c.Detail != "" || c.Remedy != "" }

// cell is the answer as people see it: a No that must not be is in capitals.
func (c Check) cell() cell {
	switch {
	case c.Answer == Yes:
		return cell{"yes", good}
	case c.Answer == No && c.Required:
		return cell{"NO", bad}
	case c.Answer == No:
		return cell{"no", warn}
	}
	return cell{"could not tell", warn}
}
