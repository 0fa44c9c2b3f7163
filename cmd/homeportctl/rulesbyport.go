package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// policyFile is where the agent keeps the sets of rules in force, below
// Paths.State: policyState of pkg/agent.
const policyFile = "policy.json"

// rulesByPort says in their order which rules judge each port: by its record and
// the rules in force, as they are on disk, so that it needs no agent.
func rulesByPort(paths attach.Paths) ([]byte, error) {
	var state struct {
		Body struct {
			Sets map[string]policy.Set `json:"sets"`
		} `json:"body"`
	}
	text, err := os.ReadFile(filepath.Join(paths.State(), policyFile))
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(paths.Attachments(), "*.json"))
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	var errs []error
	for _, file := range files {
		var rec attach.Record
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &rec)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
			continue
		}
		id := rec.Config().Policy
		set, ok := state.Body.Sets[id]
		fmt.Fprintf(&b, "%s (%s/%s) is judged by the rules %q", rec.HostIfName, rec.Pod.Namespace, rec.Pod.Name, id)
		if !ok {
			b.WriteString(", which are not in force\n")
			continue
		}
		b.WriteString("\n")
		for _, r := range set.Rules {
			fmt.Fprintf(&b, "  %s %d %s %s %s\n", r.Key.Policy, r.Key.ID, r.Action, r.Directions, r.Name)
		}
		fmt.Fprintf(&b, "  else %s\n", set.Default)
	}
	return []byte(b.String()), errors.Join(errs...)
}
