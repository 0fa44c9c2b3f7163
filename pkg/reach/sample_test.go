package reach

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestSample keeps testdata/report.json, which shows how reports are rendered, as a check of a
// fabric with three faults makes it. UPDATE_GOLDEN=1 writes it anew.
func TestSample(t *testing.T) {
	const file = "testdata/report.json"
	inBubble(t, func(t *testing.T) {
		s := newSite(3)
		s.nodes[1].port.remove(105)
		s.nodes[3].port.mtu = 1400
		s.gateways[107].silent = true
		vlans, err := vlan.ParseSet("103-108")
		if err != nil {
			t.Fatal(err)
		}
		r := s.check(t, Options{VLANs: vlans, Skip: []Test{TestRouters}})
		// Frames of a class may go a moment before another's, or after.
		r.Run, r.Took = "0123456789abcdef", 3858*time.Millisecond
		got, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Errorf("UPDATE_GOLDEN=1 writes it anew: want -, got +\n%s", d)
		}
	})
}

// TestReference keeps the page on codes as the table has it. UPDATE_GOLDEN=1 writes it anew.
func TestReference(t *testing.T) {
	const file = "../../docs/reference/reachability.md"
	var b strings.Builder
	b.WriteString("# Findings of checks\n\nWhat [`homeportctl check`](homeportctl.md#homeportctl-check-network) finds, the first those that keep others from being told: " +
		"what follows from a cause is no finding. `homeportctl explain CODE` prints the same. [How to check](../guides/check-the-fabric.md).\n")
	for _, c := range Codes() {
		fmt.Fprintf(&b, "\n## %s\n\n%s (%s)\n\n- How it is known: %s\n- What to do: %s\n", c.Code, c.Meaning, c.Severity, c.How, c.Next)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b.String(), string(have)); d != "" {
		t.Errorf("UPDATE_GOLDEN=1 writes it anew: want -, got +\n%s", d)
	}
}

// TestNodesOfReport: what was tested is known of each node when cells that passed are left out; of
// nodes that were not asked for, nothing was.
func TestNodesOfReport(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(3)
		s.absent = []Absent{{Node: "n9", Why: "no answer"}}
		r := s.check(t, Options{VLANs: setOf(105).Union(setOf(107)), Nodes: []string{"n1", "n2"}})
		r.LeaveOutPassed()
		want := map[string]string{"n1": "105,107", "n2": "105,107", "n3": "", "n4": "", "n9": ""}
		got := map[string]string{}
		for _, n := range r.Nodes {
			got[n.Node] = n.VLANs.String()
			if chassis := map[string]string{"sw-a": "02:00:00:00:00:61", "sw-b": "02:00:00:00:00:62"}[n.Switch]; n.Chassis != chassis {
				t.Errorf("%s is at %q, chassis %q", n.Node, n.Switch, n.Chassis)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("want -, got +\n%s", d)
		}
	})
}
