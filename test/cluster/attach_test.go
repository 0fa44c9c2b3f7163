package cluster

import (
	"fmt"
	"strings"
)

// testAttach: the same VLAN reaches across nodes and kernels, another does not,
// though addresses and the wire are the same; the VM's MAC is the one asked for.
func testAttach(s *scenario) {
	s.network("attach120", 120, "Allow")
	s.network("attach121", 121, "Allow")
	a := &pod{name: "a", node: "node1", network: "attach120", addr: "10.100.0.1/24", mac: "00:50:56:aa:01:01"}
	b := &pod{name: "b", node: "node2", network: "attach120", addr: "10.100.0.2/24"}
	c := &pod{name: "c", node: "node3", network: "attach120", addr: "10.100.0.3/24"}
	x := &pod{name: "x", node: "node2", network: "attach121", addr: "10.100.0.4/24"}
	y := &pod{name: "y", node: "node1", network: "attach121", addr: "10.100.0.5/24"}
	s.run(a, b, c, x, y)
	s.reaches(a, b, 80)
	s.reaches(b, c, 80)
	s.reaches(x, y, 80)
	for _, pair := range [][2]*pod{{a, x}, {x, b}, {y, c}, {a, y}} {
		s.refused(pair[0], pair[1], 80)
	}
	macs := map[string]string{}
	if err := s.ask(a, "/mac", &macs); err != nil || macs["net1"] != a.mac {
		s.Errorf("net1 of a has MAC %q, want %s (%v)", macs["net1"], a.mac, err)
	}
	s.eventually("VMPorts", func() error {
		out := s.kubectl("get vmports -o jsonpath={range.items[*]}{.spec.node}={.spec.vlans}={.spec.mac}={.status.state};{end}")
		if strings.Count(out, "=Active;") != 5 || !strings.Contains(out, "node1=120="+a.mac+"=Active;") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	s.Logf("kubectl get vmports:\n%s", s.kubectl("get vmports"))
}
