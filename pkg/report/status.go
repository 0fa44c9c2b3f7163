package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Status writes whether the node does what it should, and if not, why.
func (p Printer) Status(s wire.NodeStatus) error {
	if !p.Format.IsText() {
		return p.Document(s)
	}
	pg := p.text()
	switch {
	case !s.Ready:
		pg.line(say("Node is "), cell{"NOT READY", bad})
	case len(s.Conditions) > 0:
		pg.line(say("Node is "), cell{"ready", good}, say(", but"))
	default:
		pg.line(say("Node is "), cell{"ready", good})
	}
	for _, r := range s.Reasons {
		pg.line(say("  - "), say(r))
	}
	for _, c := range s.Conditions {
		pg.line(say("  - "), cell{c.Type, warn}, say(fmt.Sprintf(" since %s: %s", stamp(c.LastTransitionTime), c.Message)))
	}
	pg.blank()
	pg.pairs(
		[2]cell{{"Agent", head}, say(s.Version)},
		[2]cell{{"Source", head}, say(s.Source)},
		[2]cell{{"Policy", head}, revisions(s)},
		[2]cell{{"Hook", head}, say(s.Hook)},
		[2]cell{{"Ports", head}, say(portCounts(s.Ports))},
	)
	trunks(pg, s.Trunks)
	trunkConditions(pg, s.Trunks)
	drift(pg, s.Drift)
	problems(pg, s.Problems)
	return p.flush(pg)
}

func revisions(s wire.NodeStatus) cell {
	if s.Desired == s.Compiled && s.Compiled == s.Active {
		return cell{fmt.Sprintf("revision %d is desired, compiled and active (generation %d)", s.Active, s.Generation), good}
	}
	return cell{fmt.Sprintf("revision %d is desired, %d compiled, %d active (generation %d)",
		s.Desired, s.Compiled, s.Active, s.Generation), warn}
}

func portCounts(byState map[string]int) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(byState)) {
		parts = append(parts, fmt.Sprintf("%d %s", byState[state], state))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func trunks(pg *page, list []wire.TrunkStatus) {
	if len(list) == 0 {
		return
	}
	pg.blank()
	g := pg.grid("TRUNK", "BRIDGE", "UPLINK", "VLANS", "MTU", "READY", "MESSAGE")
	for _, t := range list {
		ready := cell{"yes", good}
		if !t.Ready {
			ready = cell{"no", bad}
		}
		g.row(say(t.Name), say(t.Bridge), say(t.Uplink), say(t.VLANs), say(t.MTU), ready, say(t.Message))
	}
	g.end()
}

// trunkConditions tells those that want something.
func trunkConditions(pg *page, list []wire.TrunkStatus) {
	for _, t := range list {
		for _, c := range t.Conditions {
			if c.Status != "False" {
				pg.line(say("  - "), cell{c.Type, warn}, say(fmt.Sprintf(" of %s since %s: %s: %s", t.Name, stamp(c.LastTransitionTime), c.Reason, c.Message)))
			}
		}
	}
}

func drift(pg *page, list []wire.DriftCount) {
	if len(list) == 0 {
		return
	}
	pg.blank()
	g := pg.grid("DRIFT", "SUBJECT", "SEEN", "REPAIRED", "LAST", "MESSAGE")
	for _, d := range list {
		message := say(d.Message)
		if d.Message != "" {
			message.tone = bad
		}
		g.row(say(d.Kind), say(d.Subject), say(d.Seen), say(d.Repaired), say(stamp(d.Last)), message)
	}
	g.end()
}

// stamp is a time as RFC 3339 in UTC, "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func problems(pg *page, list []wire.Problem) {
	if len(list) == 0 {
		return
	}
	pg.blank()
	pg.line(cell{"PROBLEMS", head})
	for _, pr := range list {
		pg.line(say("  "), say(problem(pr)))
	}
}

// problem is one line: file:line, object, field, what is wrong.
func problem(pr wire.Problem) string {
	place := pr.File
	if place != "" && pr.Line > 0 {
		place = fmt.Sprintf("%s:%d", place, pr.Line)
	}
	object := strings.TrimSuffix(pr.Kind+"/"+pr.Name, "/")
	object = strings.TrimPrefix(object, "/")
	var parts []string
	for _, s := range []string{place, object, pr.Field, pr.Message} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	text := strings.Join(parts, ": ")
	if pr.Kept {
		text += " (its last good version stays in force)"
	}
	return text
}
