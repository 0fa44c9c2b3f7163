package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// testCheck: nothing is done for it but to install. Agents find each other by the API, know each
// other by the key that the controller made, and find at which node's port the switch has lost a
// VLAN.
func testCheck(s *scenario) {
	s.network("check112", 112, "Allow")
	s.eventually("every node tells where its agent is asked", func() error {
		out := s.kubectl("get vlantrunknodes -o jsonpath={range.items[*]}{.spec.node}={.status.agentAddress};{end}")
		for _, n := range s.c.Nodes {
			if !strings.Contains(out, n.Name+"="+n.address()+":9748;") {
				return fmt.Errorf("%s", out)
			}
		}
		return nil
	})
	s.checks("all nodes hear each other", "node1", 0, nil)
	s.c.trunk.carry("node2", 112, false)
	s.Cleanup(func() { s.c.trunk.carry("node2", 112, true) })
	s.checks("the VLAN is missing at node2's port", "node1", 1, []string{"NOT_TRUNKED [node2] 112"})
	s.checks("and from there it looks the same", "node2", 1, []string{"NOT_TRUNKED [node2] 112"})
	s.Logf("homeportctl check:\n%s", s.on("node1", "homeportctl check check112; true"))
	s.c.trunk.carry("node2", 112, true)
	s.checks("it is back", "node3", 0, nil)
}

// checks runs checks on a node until they have this exit code and these findings.
func (s *scenario) checks(what, node string, code int, want []string) {
	s.Helper()
	s.eventually(what, func() error {
		o, err := s.node(node).Run(s.Context(), "homeportctl check check112 -o json")
		if err != nil {
			return err
		}
		var r reach.Report
		if err := json.Unmarshal([]byte(o.Out), &r); err != nil {
			return fmt.Errorf("exit code %d: %s", o.Code, o.Out)
		}
		var got []string
		for _, f := range r.Findings {
			got = append(got, fmt.Sprintf("%s %v %v", f.Code, f.Nodes, f.VLANs))
		}
		if o.Code != code || !slices.Equal(got, want) || len(r.Nodes) != len(s.c.Nodes) {
			return fmt.Errorf("exit code %d, nodes %+v, findings %q: %s", o.Code, r.Nodes, got, o.Out)
		}
		s.Logf("%s: %d cells, %d passed, %d failed, in %v", what, r.Summary.Cells, r.Summary.Passed, r.Summary.Failed, r.Took)
		return nil
	})
}
