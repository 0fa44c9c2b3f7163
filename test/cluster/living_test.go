package cluster

import (
	"fmt"
	"strings"
)

// two are pods on two nodes in a VLAN of their own.
func (s *scenario) two(network string, vlan int) (a, b *pod) {
	s.Helper()
	s.network(network, vlan, "Allow")
	a = &pod{name: "a", node: "node1", network: network, addr: fmt.Sprintf("10.100.%d.1/24", vlan-100)}
	b = &pod{name: "b", node: "node2", network: network, addr: fmt.Sprintf("10.100.%d.2/24", vlan-100)}
	s.run(a, b)
	s.reaches(a, b, 80)
	return a, b
}

// agents waits until the agents are ready.
func (s *scenario) agents() {
	s.Helper()
	s.kubectl("-n homeport-system rollout status --timeout=5m daemonset/homeport-agent")
}

// killAgent kills the agent of a node as the kernel would.
func (s *scenario) killAgent(node string) {
	s.Helper()
	s.on(node, `kill -9 $(pidof bridge-agent | tr " " "\n" | while read p; do grep -q "source=kube" /proc/$p/cmdline && echo $p; done)`)
}

// testRestart: killed agents and a rollout of the DaemonSet change no traffic.
func testRestart(s *scenario) {
	a, b := s.two("restart106", 106)
	end := s.flood(a, b)
	s.killAgent("node1")
	s.killAgent("node2")
	s.kubectl("-n homeport-system rollout restart daemonset/homeport-agent")
	s.agents()
	end(0)
	c := &pod{name: "c", node: "node2", network: "restart106", addr: "10.100.6.3/24"}
	s.run(c)
	s.reaches(a, c, 80)
}

// testAPI: while the API server is away traffic and policy stay as they are, also
// across the death of an agent; when it is back, what was changed meanwhile counts.
func testAPI(s *scenario) {
	a, b := s.two("api107", 107)
	end := s.flood(a, b)
	s.Cleanup(func() {
		if err := s.c.StartAPI(s.late()); err != nil {
			s.Error(err)
		}
	})
	s.c.StopAPI()
	s.killAgent("node2")
	s.eventually("the agent is back, and says since when it knows nothing new", func() error {
		o, err := s.node("node2").Run(s.Context(), "homeportctl status")
		if err != nil || !strings.Contains(o.Out, "DesiredStateStale") {
			return fmt.Errorf("%v %s", err, o.Out)
		}
		return nil
	})
	s.reaches(b, a, 80)
	s.on("node2", fmt.Sprintf(directAdd, "api107", s.ns, "10.100.7.9/24", "10.100.7.1"))
	if err := s.c.StartAPI(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.agents()
	end(0)
	s.apply(`
apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: api}
spec:
  category: Emergency
  appliedTo: [{network: api107}]
  rules: [{id: 1, action: Drop, services: [{protocol: TCP, ports: "22"}]}]
`)
	s.eventually("a policy made afterwards counts", func() error {
		if err := s.tcp(a, b, 22); err == nil {
			return fmt.Errorf("a reaches b port 22")
		}
		return nil
	})
	s.reaches(a, b, 80)
}

// directAdd calls our plugin on a node, as a runtime without Kubernetes would, for a
// sandbox of its own; pings from there; and ends it.
const directAdd = `
ip netns add direct || exit 1
cni() { echo '{"cniVersion":"1.0.0","name":"direct","type":"homeport","network":"%[1]s"}' |
	env CNI_COMMAND=$1 CNI_CONTAINERID=direct CNI_NETNS=/run/netns/direct CNI_IFNAME=net1 CNI_PATH=/opt/cni/bin CNI_ARGS=K8S_POD_NAMESPACE=%[2]s /opt/cni/bin/homeport; }
cni ADD && ip -n direct addr add %[3]s dev net1 && ip -n direct link set net1 up &&
	for i in $(seq 20); do ip netns exec direct ping -c 1 -W 2 %[4]s && break; done && ip netns exec direct ping -c 1 -W 2 %[4]s
code=$?
cni DEL && ip netns del direct && exit $code`

// testForce: of a pod that was deleted by force nothing is left, and its successor
// gets the same place.
func testForce(s *scenario) {
	a, b := s.two("force108", 108)
	ports := s.on(b.node, "homeportctl ports -o json")
	s.kubectl("delete pod b --force --grace-period=0")
	s.eventually("the port is gone", func() error {
		if out := s.on("node2", "homeportctl ports"); strings.Contains(out, "force108") {
			return fmt.Errorf("%s", out)
		}
		if out := s.kubectl("get vmports"); strings.Contains(out, "node2") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	s.Logf("before:\n%s", ports)
	s.run(&pod{name: "b2", node: "node2", network: "force108", addr: b.addr})
	s.reaches(a, s.pods["b2"], 80)
}

// testNoTrunk: on a node without the trunk a pod waits, and is told why; it starts
// when the node gets it. A pod of a namespace that the network is not for is told so.
func testNoTrunk(s *scenario) {
	s.network("notrunk109", 109, "Allow")
	s.kubectl("label node node3 trunk-")
	s.Cleanup(func() { s.kubectlLate("label --overwrite node node3 trunk=yes") })
	a := &pod{name: "a", node: "node1", network: "notrunk109", addr: "10.100.9.1/24"}
	c := &pod{name: "c", node: "node3", network: "notrunk109", addr: "10.100.9.3/24"}
	s.create(a, c)
	stranger := &pod{name: "stranger", node: "node1", network: "notrunk109", addr: "10.100.9.4/24"}
	if _, err := s.c.Kubectl(s.Context(), s.yaml(stranger), "-n", "default", "apply", "-f", "-"); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { s.kubectlLate("-n default delete pod stranger --grace-period=1 --wait=false") })
	s.ready(a)
	s.told("", "c", "notrunk109 is on trunk trunk0, which this node does not have")
	s.told("-n default ", "stranger", "notrunk109 is not for pods of namespace")
	s.kubectl("label --overwrite node node3 trunk=yes")
	s.ready(c)
	s.reaches(a, c, 80)
}

// told wants an event that says why a pod does not start.
func (s *scenario) told(where, pod, why string) {
	s.Helper()
	s.eventually("an event says why "+pod+" does not start", func() error {
		out := s.kubectl(where + "get events --field-selector involvedObject.name=" + pod + ",reason=FailedCreatePodSandBox -o jsonpath={.items[*].message}")
		if !strings.Contains(out, why) {
			return fmt.Errorf("%s", out)
		}
		s.Logf("event: %s", out)
		return nil
	})
}

// testInUse: a network and its trunk stay as long as ports live on them.
func testInUse(s *scenario) {
	a, b := s.two("inuse110", 110)
	s.kubectl("delete vlannetwork inuse110 --wait=false")
	s.eventually("it says who uses it", func() error {
		out := s.kubectl("get vlannetwork inuse110 -o yaml")
		if !strings.Contains(out, "deletionTimestamp") || !strings.Contains(out, "InUse") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	s.Logf("kubectl get vnet:\n%s", s.kubectl("get vnet"))
	s.killAgent("node1")
	s.agents()
	s.reaches(a, b, 80)
	s.kubectl("delete pod a b --grace-period=1")
	s.kubectl("wait --for=delete --timeout=3m vlannetwork/inuse110")
}

// kubectlLate is kubectl for cleanups.
func (s *scenario) kubectlLate(args string) {
	if _, err := s.c.Kubectl(s.late(), "", strings.Fields(args)...); err != nil {
		s.Error(err)
	}
}
