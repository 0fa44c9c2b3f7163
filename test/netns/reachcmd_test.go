package netns

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// cmdFinds runs a check of the fabric on a node, and wants these findings and no others: of
// each its code, nodes (n1,n2; - is the fabric's) and VLANs (- is all). It prints findings and summary.
func cmdFinds(s *session, w io.Writer, args []string) error {
	const usage = "finds NODE [FLAG...] -- ['CODE NODES VLANS'...]"
	cut := slices.Index(args, "--")
	if cut < 1 {
		return &usageError{usage}
	}
	n, err := s.lab.FindNode(args[0])
	if err != nil {
		return err
	}
	var out, errs bytes.Buffer
	cmd := n.Command(s.ctx, n.path("bin", "homeportctl"), append([]string{"check", "-o", "json", "--timeout", patience.String()}, args[1:cut]...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	failed := n.Run(cmd)
	var r reach.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return fmt.Errorf("check: %w: %s%s", failed, &out, &errs)
	}
	want := slices.Clone(args[cut+1:])
	var got []string
	for _, f := range r.Findings {
		nodes, vlans := strings.Join(f.Nodes, ","), f.VLANs.String()
		if nodes == "" {
			nodes = "-"
		}
		if f.VLANs.Empty() {
			vlans = "-"
		}
		got = append(got, fmt.Sprint(f.Code, " ", nodes, " ", vlans))
	}
	slices.Sort(want)
	slices.Sort(got)
	told, err := json.MarshalIndent(map[string]any{"findings": r.Findings, "summary": r.Summary}, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n", told)
	if d := cmp.Diff(want, got); !slices.Equal(want, got) {
		for _, f := range r.Findings {
			d += fmt.Sprintf("%s %v %v: %s\n", f.Code, f.Nodes, f.Targets, strings.Join(f.Evidence, "; "))
		}
		return fmt.Errorf("findings of a check on %s in %v: want -, got +\n%s", n.Name, r.Took, d)
	}
	return nil
}
