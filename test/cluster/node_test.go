package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

func (s *scenario) late() context.Context { return context.WithoutCancel(s.Context()) }

// testResource: a trunk that no longer carries is taken off the scheduler's list;
// pods that run stay, also when the kubelet is restarted, and new ones wait.
func testResource(s *scenario) {
	s.on("node3", "ip link add up1 type veth peer name up1peer && ip link set up1peer up")
	s.Cleanup(func() { _, _ = s.node("node3").Run(s.late(), "ip link del up1") })
	s.apply(`
apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: scarce}
spec:
  nodeSelector: {kubernetes.io/hostname: node3}
  bridge: {name: br-scarce, managed: true}
  uplink: {interface: up1, allowedVLANs: "111"}
  advertiseResource: true
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: scarce111}
spec:
  trunk: scarce
  vlan: {id: 111}
  defaultAction: Allow
  namespaces: {matchLabels: {kubernetes.io/metadata.name: resource}}
`)
	const resource = `{limits: {homeport.dev/scarce: "1"}}`
	offered := func() string {
		return s.kubectl(`get node node3 -o jsonpath={.status.allocatable.homeport\.dev/scarce}`)
	}
	s.eventually("the resource is offered", func() error {
		if offered() == "" {
			return fmt.Errorf("%s", s.kubectl("get vtnode"))
		}
		return nil
	})
	// No node is asked for: the scheduler finds the only one that has it.
	a := &pod{name: "a", network: "scarce111", addr: "10.100.11.1/24", resources: resource}
	b := &pod{name: "b", network: "scarce111", addr: "10.100.11.2/24", resources: resource}
	s.run(a, b)
	s.reaches(a, b, 80)
	uids := s.kubectl("get pod a b -o jsonpath={.items[*].metadata.uid}")

	s.on("node3", "ip link set up1peer down")
	s.eventually("the resource is withdrawn", func() error {
		if o := offered(); o != "" {
			return fmt.Errorf("%s", o)
		}
		return nil
	})
	c := &pod{name: "c", network: "scarce111", addr: "10.100.11.3/24", resources: resource}
	s.create(c)
	s.kubectl("wait --for=condition=PodScheduled=False --timeout=3m pod/c")
	kubelet := s.on("node3", "cat /run/node/kubelet")
	s.on("node3", "kill "+kubelet)
	s.eventually("another kubelet has admitted the pods that it found", func() error {
		if now := s.on("node3", "cat /run/node/kubelet"); now == kubelet {
			return fmt.Errorf("it is still process %s", now)
		}
		return s.kubeletHas("node3", strings.Fields(uids)...)
	})
	s.reaches(b, a, 80)
	if now := s.kubectl("get pod a b -o jsonpath={.items[*].metadata.uid}"); now != uids {
		s.Errorf("pods were replaced: %s, before %s", now, uids)
	}
	if phase := s.kubectl("get pod a b c -o jsonpath={.items[*].status.phase}"); phase != "Running Running Pending" {
		s.Errorf("pods a, b and c are %s", phase)
	}
	s.on("node3", "ip link set up1peer up")
	s.ready(c)
	s.reaches(a, c, 80)
}

// kubeletHas asks a kubelet which pods it looks after. What it had to refuse has
// phase Failed there.
func (s *scenario) kubeletHas(node string, uids ...string) error {
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/pods", s.node(node).kubeletPort))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if !strings.Contains(string(b), uid) {
			return fmt.Errorf("%s: no pod %s among %d bytes", resp.Status, uid, len(b))
		}
	}
	return nil
}

// testReboot: after a power failure a node's pods are as they were, and nothing is
// left of what they were before.
func testReboot(s *scenario) {
	a, b := s.two("reboot112", 112)
	s.network("reboot113", 113, "Allow")
	x := &pod{name: "x", node: "node2", network: "reboot113", addr: "10.100.12.3/24"}
	s.run(x)
	s.refused(a, x, 80)
	s.controllerOff("node2")
	s.on("node2", "sync")
	const bootOf, portsOf = "get node node2 -o jsonpath={.status.nodeInfo.bootID}", "get vmports --field-selector spec.node=node2 -o "
	boot, ended := s.kubectl(bootOf), strings.Fields(s.kubectl(portsOf+"name"))
	if len(ended) != 2 {
		s.Errorf("ports of node2: %q, want 2", ended)
	}
	if err := s.node("node2").Reboot(); err != nil {
		s.Fatal(err)
	}
	s.eventually("node2 is known to run anew", func() error {
		if now := s.kubectl(bootOf); now == boot {
			return fmt.Errorf("boot %s", now)
		}
		return nil
	})
	since := time.Now()
	s.eventually("the ports of the boot before are gone", func() error {
		for _, p := range strings.Fields(s.kubectl(portsOf + "name")) {
			if slices.Contains(ended, p) {
				return fmt.Errorf("%s", p)
			}
		}
		return nil
	})
	if took := time.Since(since); took > 30*time.Second { // the node's agent alone takes longer
		s.Errorf("ports of a boot that was over were shown for %s", took)
	}
	s.eventually("b runs again", func() error {
		p := s.pods["b"]
		was := p.ip
		out := s.kubectl("get pod b -o jsonpath={.status.podIP},{.status.containerStatuses[0].restartCount}")
		f := strings.Split(out, ",")
		if len(f) != 2 || f[0] == "" || f[1] == "0" {
			return fmt.Errorf("%s, was %s", out, was)
		}
		p.ip = f[0]
		return nil
	})
	s.reaches(a, b, 80)
	s.ready(x)
	s.refused(a, x, 80)
	s.agents()
	s.eventually("node2 has the ports of its pods and no others", func() error {
		out := s.on("node2", "homeportctl ports")
		if strings.Count(out, "reboot11") != 2 {
			return fmt.Errorf("%s", out)
		}
		boot := s.kubectl(bootOf)
		out = s.kubectl(portsOf + `jsonpath={range.items[*]}{.status.bootID}/{.status.conditions[0].status}{"\n"}{end}`)
		if want := boot + "/True"; !slices.Equal(strings.Fields(out), []string{want, want}) {
			return fmt.Errorf("%s, want %s of both", out, want)
		}
		return nil
	})
}

// controllerOff has the controller run on another node than this.
func (s *scenario) controllerOff(node string) {
	s.Helper()
	const pods = "-n homeport-system -l app.kubernetes.io/component=controller"
	if on := s.kubectl("get pods " + pods + " -o jsonpath={.items[*].spec.nodeName}"); on != node {
		return
	}
	s.kubectl("cordon " + node)
	defer s.kubectlLate("uncordon " + node)
	s.kubectl("delete pod " + pods)
	s.kubectl("-n homeport-system rollout status deployment homeport-controller")
}
