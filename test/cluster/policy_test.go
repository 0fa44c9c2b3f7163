package cluster

import (
	"fmt"
	"os"
	"strings"
)

// testChained: the reference plugin first, Homeport behind it in one conflist.
func testChained(s *scenario) {
	s.network("chained102", 102, "Allow")
	s.network("chained103", 103, "Allow")
	s.apply(`
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: chain}
spec:
  config: |
    {"cniVersion": "1.0.0", "name": "chain", "plugins": [
      {"type": "bridge", "bridge": "br-flat", "disableContainerInterface": true, "ipam": {}, "capabilities": {"mac": true}},
      {"type": "homeport", "bridge": "br-trunk0", "vlan": 102}]}
`)
	a := &pod{name: "a", node: "node2", network: "chain", addr: "10.100.2.1/24", mac: "00:50:56:aa:02:01"}
	b := &pod{name: "b", node: "node1", network: "chained102", addr: "10.100.2.2/24"}
	x := &pod{name: "x", node: "node2", network: "chained103", addr: "10.100.2.3/24"}
	s.run(a, b, x)
	s.reaches(a, b, 80)
	s.reaches(b, a, 80)
	s.refused(a, x, 80)
	macs := map[string]string{}
	if err := s.ask(a, "/mac", &macs); err != nil || macs["net1"] != a.mac {
		s.Errorf("net1 of a has MAC %q, want %s (%v)", macs["net1"], a.mac, err)
	}
	if out := s.on("node2", "bridge link show"); strings.Contains(out, "master br-flat") {
		s.Errorf("a port is still in the other plugin's bridge:\n%s", out)
	}
}

// testPolicy: rules by IP at the VM that holds it, on both nodes; a rule that is
// taken back counts no more.
func testPolicy(s *scenario) {
	s.network("policy104", 104, "Drop")
	rules := func(more string) string {
		return `
apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: policy}
spec:
  category: Application
  order: 10
  appliedTo: [{network: policy104}]
  rules:
  - {id: 1, action: Allow, direction: Out}
  - {id: 2, action: Allow, direction: In, sources: [{ip: 10.100.4.1}], destinations: [{ip: 10.100.4.2}], services: [{protocol: TCP, ports: "80"}]}
` + more
	}
	s.apply(rules(""))
	a := &pod{name: "a", node: "node1", network: "policy104", addr: "10.100.4.1/24"}
	b := &pod{name: "b", node: "node2", network: "policy104", addr: "10.100.4.2/24"}
	c := &pod{name: "c", node: "node1", network: "policy104", addr: "10.100.4.3/24"}
	s.run(a, b, c)
	s.reaches(a, b, 80)
	s.refused(a, b, 22)
	s.refused(c, b, 80)
	s.refused(b, a, 80)
	s.apply(rules("  - {id: 3, action: Allow, direction: In, sources: [{ip: 10.100.4.3}]}\n"))
	s.reaches(c, b, 80)
	s.reaches(c, b, 22)
	s.refused(a, b, 22)
	s.apply(rules(""))
	s.eventually("rule 3 is gone", func() error {
		if err := s.tcp(c, b, 80); err == nil {
			return fmt.Errorf("c still reaches b")
		}
		return nil
	})
	s.reaches(a, b, 80)
}

// vm makes a VM; it is played by its launcher pod.
func (s *scenario) vm(p *pod, labels string) (v *VM) {
	s.Helper()
	v = &VM{Namespace: s.ns, Name: p.name, Node: p.node, Network: p.network, MAC: p.mac, Address: p.addr, Labels: labels}
	yaml, err := s.c.CreateVM(s.Context(), v)
	s.deleteLate(yaml)
	if err != nil {
		s.Fatal(err)
	}
	return v
}

// testLabels: a rule by label follows what VMs there are and how they are labelled.
// The VMs are behind launcher pods as KubeVirt wires them.
func testLabels(s *scenario) {
	s.network("labels105", 105, "Drop")
	s.apply(`
apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: labels}
spec:
  category: Application
  order: 20
  appliedTo: [{network: labels105}]
  rules:
  - {id: 1, action: Allow, direction: Out}
  - {id: 2, action: Allow, direction: In, sources: [{vm: {matchLabels: {role: web, kubernetes.io/metadata.name: labels}}}], services: [{protocol: TCP, ports: "80"}]}
`)
	web := &pod{name: "web", node: "node1", network: "labels105", addr: "10.100.5.1/24", mac: "00:50:56:aa:05:01"}
	db := &pod{name: "db", node: "node2", network: "labels105", addr: "10.100.5.2/24", mac: "00:50:56:aa:05:02"}
	other := &pod{name: "other", node: "node1", network: "labels105", addr: "10.100.5.3/24", mac: "00:50:56:aa:05:03"}
	pods := []*pod{web, db, other}
	vms := []*VM{s.vm(web, "role: web"), s.vm(db, "role: db"), s.vm(other, "role: none")}
	for i, v := range vms {
		s.ready(pods[i])
		if err := s.c.RunVM(s.Context(), v); err != nil {
			s.Fatal(err)
		}
	}
	s.reaches(web, db, 80)
	s.refused(web, db, 22)
	s.refused(other, db, 80)
	s.kubectl("label --overwrite vmi other role=web")
	s.reaches(other, db, 80)
	s.kubectl("label --overwrite vmi web role=none")
	s.eventually("the rule is for web no more", func() error {
		if err := s.tcp(web, db, 80); err == nil {
			return fmt.Errorf("web still reaches db")
		}
		return nil
	})
	s.reaches(other, db, 80)
	s.Logf("kubectl get vmports,vmid:\n%s", s.kubectl("get vmports,vmid"))
	// What a VM was known by goes with it: its address may be another's next.
	const identities = "get vmid -o jsonpath={.items[*].spec.vm.name}"
	if had := s.kubectl(identities); !strings.Contains(had, "other") {
		s.Errorf("VMIdentities of %q, want one of other", had)
	}
	s.kubectl("delete vmi other")
	s.eventually("the VM's identity is gone", func() error {
		if has := s.kubectl(identities); strings.Contains(has, "other") || !strings.Contains(has, "web") {
			return fmt.Errorf("VMIdentities of %q, want those of web and db", has)
		}
		return nil
	})
}

// testDemo: what make demo-cluster makes, VMs with kernels of their own behind launcher
// pods, and what it tells people to try.
func testDemo(s *scenario) {
	yaml, err := os.ReadFile(s.c.DemoFile())
	if err != nil {
		s.Fatal(err)
	}
	s.deleteLate(string(yaml))
	if err := s.c.MakeDemoVMs(s.Context()); err != nil {
		s.Fatal(err)
	}
	if err := s.c.ProveDemo(s.Context()); err != nil {
		s.Fatal(err)
	}
	if out := s.on("node2", "homeportctl policy show shop"); !strings.Contains(out, "web VMs get to port 80") {
		s.Errorf("homeportctl policy show shop:\n%s", out)
	}
	s.kubectl("label --overwrite vmi vm1 role=other")
	s.eventually("port 80 is closed for a VM that is no web VM", func() error {
		return s.node("node1").must(s.Context(), "! guestctl vm1 tcp 10.100.0.20 80 2000")
	})
	s.on("node1", "guestctl vm1 ping 10.100.0.20 3 2000")
}

// testPodPolicy: a MultiNetworkPolicy isolates the pods that it selects on the network
// that it names, and lets in what it says.
func testPodPolicy(s *scenario) {
	s.network("multi114", 114, "Allow")
	a := &pod{name: "a", node: "node1", network: "multi114", addr: "10.100.14.1/24"}
	b := &pod{name: "b", node: "node2", network: "multi114", addr: "10.100.14.2/24"}
	c := &pod{name: "c", node: "node1", network: "multi114", addr: "10.100.14.3/24"}
	s.run(a, b, c)
	s.reaches(c, b, 80)
	s.kubectl("label pod b app=db")
	const policy = `
apiVersion: k8s.cni.cncf.io/v1beta1
kind: MultiNetworkPolicy
metadata: {name: db, annotations: {k8s.v1.cni.cncf.io/policy-for: multi114}}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{ipBlock: {cidr: 10.100.14.1/32}}]
    ports: [{protocol: TCP, port: 80}]
`
	s.apply(policy)
	s.eventually("b is isolated", func() error {
		if err := s.tcp(c, b, 80); err == nil {
			return fmt.Errorf("c still reaches b")
		}
		return nil
	})
	s.reaches(a, b, 80)
	s.refused(a, b, 22)
	s.reaches(b, c, 80)
	s.kubectl("delete multi-networkpolicy db")
	s.reaches(c, b, 22)
}

// testPodPeers: pods without a VM, with addresses that an IPAM plugin in the chain gave
// them, are peers by label, on either node. Labels that change are followed, and a pod
// that ends is a peer no more.
func testPodPeers(s *scenario) {
	s.network("peers115", 115, "Allow")
	s.apply(`
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: chain}
spec:
  config: |
    {"cniVersion": "1.0.0", "name": "chain", "plugins": [
      {"type": "bridge", "bridge": "br-flat115", "ipam": {"type": "static"}, "capabilities": {"mac": true, "ips": true}},
      {"type": "homeport", "network": "peers115"}]}
`)
	till := &pod{name: "till", node: "node1", network: "chain", addr: "10.100.15.1/24", ipam: true}
	db := &pod{name: "db", node: "node2", network: "chain", addr: "10.100.15.2/24", ipam: true}
	other := &pod{name: "other", node: "node1", network: "chain", addr: "10.100.15.3/24", ipam: true}
	s.run(till, db, other)
	s.reaches(till, db, 22)
	s.reaches(other, db, 80)
	s.kubectl("label pod till app=till")
	s.kubectl("label pod db app=db")
	s.apply(`
apiVersion: k8s.cni.cncf.io/v1beta1
kind: MultiNetworkPolicy
metadata: {name: db, annotations: {k8s.v1.cni.cncf.io/policy-for: chain}}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: till}}}]
    ports: [{protocol: TCP, port: 80}]
`)
	silent := func(from *pod) {
		s.Helper()
		s.eventually(from.name+" is no peer of db", func() error {
			if err := s.tcp(from, db, 80); err == nil {
				return fmt.Errorf("%s reaches db", from.name)
			}
			return nil
		})
	}
	silent(other)
	s.reaches(till, db, 80)
	s.refused(till, db, 22)
	s.kubectl("label pod other app=till")
	s.reaches(other, db, 80)
	s.kubectl("label --overwrite pod till app=none")
	silent(till)
	s.reaches(other, db, 80)
	s.Logf("kubectl get vmports,vmid:\n%s", s.kubectl("get vmports,vmid"))
	s.kubectl("delete pod other")
	s.eventually("the identity of other has gone", func() error {
		if pods := s.kubectl("get vmid -o jsonpath={.items[*].spec.pod.name}"); strings.TrimSpace(pods) != "db till" {
			return fmt.Errorf("there are identities of pods %s", pods)
		}
		return nil
	})
}
