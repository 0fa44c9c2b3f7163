package cluster

import (
	"fmt"
	"strings"
)

// testRequired: VMs of a network that says so are scheduled where checks find its VLAN well, and nowhere else;
// who runs stays, and where the VLAN is back VMs come again.
func testRequired(s *scenario) {
	s.apply(`
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: required113}
spec:
  trunk: trunk0
  vlan: {id: 113}
  defaultAction: Allow
  namespaces: {matchLabels: {kubernetes.io/metadata.name: required}}
  reachability: {required: true}
`)
	offers := func(what string, nodes ...string) {
		s.Helper()
		s.eventually(what, func() error {
			out := s.kubectl(`get nodes -o jsonpath={range.items[*]}{.metadata.name}={.status.allocatable.network\.homeport\.dev/required113};{end}`)
			var have []string
			for _, n := range strings.Split(strings.TrimSuffix(out, ";"), ";") {
				if name, amount, _ := strings.Cut(n, "="); amount != "" {
					have = append(have, name)
				}
			}
			if strings.Join(have, " ") != strings.Join(nodes, " ") {
				return fmt.Errorf("offered by %v\n%s", have, s.kubectl("get rcheck,vtnode -o wide"))
			}
			return nil
		})
	}
	says := func(object, condition, reason string) {
		s.Helper()
		s.eventually(object+" says "+reason, func() error {
			path := fmt.Sprintf(`jsonpath={.status.conditions[?(@.type=="%s")].reason}`, condition)
			if got := s.kubectl("get " + object + " -o " + path); got != reason {
				return fmt.Errorf("%s %s", object, got)
			}
			return nil
		})
	}
	says("vnet/required113", "Ready", "NotChecked")
	says("vtnode/trunk0.node2", "Reachable", "NotChecked")
	offers("nobody has checked")
	s.apply(`
apiVersion: homeport.dev/v1alpha1
kind: ReachabilityCheck
metadata: {name: weekly}
spec: {every: 168h, networks: [required113]}
`)
	offers("a check has found it well everywhere", "node1", "node2", "node3")
	says("rcheck/weekly", "Passed", "AllPassed")
	says("vnet/required113", "Ready", "Ready")
	if got := s.kubectl(`get net-attach-def required113 -o jsonpath={.metadata.annotations.k8s\.v1\.cni\.cncf\.io/resourceName}`); got != "network.homeport.dev/required113" {
		s.Errorf("VMs ask for %q", got)
	}
	const resources = `{limits: {network.homeport.dev/required113: "1"}}`
	a := &pod{name: "a", node: "node2", network: "required113", addr: "10.100.13.1/24", resources: resources}
	b := &pod{name: "b", node: "node3", network: "required113", addr: "10.100.13.2/24", resources: resources}
	s.run(a, b)
	s.reaches(a, b, 80)
	uid := s.kubectl("get pod a -o jsonpath={.metadata.uid}")

	// One run is asked for; the second one, which decides, comes by itself.
	s.c.trunk.carry("node2", 113, false)
	s.Cleanup(func() { s.c.trunk.carry("node2", 113, true) })
	s.kubectl(`patch rcheck weekly --type merge -p {"spec":{"run":"lost"}}`)
	says("rcheck/weekly", "Passed", "Findings")
	offers("two runs have found it at fault", "node1", "node3")
	says("vtnode/trunk0.node2", "Reachable", "NotOffered")
	s.Logf("kubectl get rcheck,vtnode -o wide:\n%s", s.kubectl("get rcheck,vtnode -o wide"))
	s.Logf("homeportctl check --last weekly:\n%s", s.on("node1", "homeportctl check --last weekly; test $? = 1"))
	if now := s.kubectl("get pod a -o jsonpath={.metadata.uid}{.status.phase}"); now != uid+"Running" {
		s.Errorf("a VM that ran there is %s, was %s", now, uid)
	}
	c := &pod{name: "c", node: "node2", network: "required113", addr: "10.100.13.3/24", resources: resources}
	d := &pod{name: "d", network: "required113", addr: "10.100.13.4/24", resources: resources}
	s.create(c)
	s.kubectl("wait --for=condition=PodScheduled=False --timeout=3m pod/c")
	s.run(d) // anywhere else
	if d.node == "node2" {
		s.Error("a VM came to the node without the VLAN")
	}
	s.reaches(d, b, 80)

	s.c.trunk.carry("node2", 113, true)
	s.kubectl(`patch rcheck weekly --type merge -p {"spec":{"run":"back"}}`)
	says("rcheck/weekly", "Passed", "AllPassed")
	s.kubectl(`patch rcheck weekly --type merge -p {"spec":{"run":"again"}}`)
	offers("two runs have found it well", "node1", "node2", "node3")
	s.ready(c)
	s.reaches(c, b, 80)
}
