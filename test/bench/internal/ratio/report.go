package ratio

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Report is what out/bench.json holds.
type Report struct {
	APIVersion string    `json:"apiVersion"` // homeport.dev/bench/v1
	Kind       string    `json:"kind"`       // BenchReport
	Machines   []Machine `json:"machines"`
	Rows       []Row     `json:"rows"`
	// Curves are costs by the number of rules, as the plot beside the report has them.
	Curves []Curve `json:"curves,omitempty"`
	// Failed are rows that could not be measured, with the cause.
	Failed []Failure `json:"failed,omitempty"`
}

// Machine is where rows were measured.
type Machine struct {
	Where  string `json:"where"` // native or vm
	Kernel string `json:"kernel"`
	CPUs   int    `json:"cpus"`
}

// Failure is a group of rows that could not be measured.
type Failure struct {
	Rows  string `json:"rows"`
	Cause string `json:"cause"`
}

// The values of a report's APIVersion and Kind.
const (
	APIVersion = "homeport.dev/bench/v1"
	Kind       = "BenchReport"
)

// New gives an empty report.
func New() *Report { return &Report{APIVersion: APIVersion, Kind: Kind} }

// Merge adds another report's content.
func (r *Report) Merge(o *Report) {
	r.Machines = append(r.Machines, o.Machines...)
	r.Rows = append(r.Rows, o.Rows...)
	r.Curves = append(r.Curves, o.Curves...)
	r.Failed = append(r.Failed, o.Failed...)
}

// Exit codes of the benchmark: as homeportctl's.
const (
	ExitWell   = 0
	ExitMissed = 1 // strict, and an aim was missed
	ExitFailed = 3 // something could not be measured
)

// ExitCode says how the benchmark ends. A row that could not be measured is a
// failure, strict or not; a missed aim only when strict.
func (r *Report) ExitCode(strict bool) int {
	if len(r.Failed) > 0 || len(r.Rows) == 0 {
		return ExitFailed
	}
	for _, row := range r.Rows {
		if strict && !row.Met {
			return ExitMissed
		}
	}
	return ExitWell
}

// Write replaces the file whole.
func (r *Report) Write(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".tmp", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}

// Read gives a written report back.
func Read(file string) (*Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if r.APIVersion != APIVersion || r.Kind != Kind {
		return nil, fmt.Errorf("%s: is %s %s, want %s %s", file, r.APIVersion, r.Kind, APIVersion, Kind)
	}
	return &r, nil
}
