package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/test/cluster/node"
)

// patience is for what must happen: machines are emulated, and share two CPUs.
const patience = 3 * time.Minute

// scenario is a test in the cluster, with a namespace of its own.
type scenario struct {
	*testing.T
	c    *Cluster
	ns   string
	pods map[string]*pod
}

// pod is one that runs test/cluster/probe.
type pod struct {
	name, node, network string
	addr                string // with prefix length, in the VLAN
	ipam                bool   // an IPAM plugin gives the address; else the pod takes it by itself
	mac                 string // requested; or none
	resources           string
	ip                  string // in the cluster network
}

func newScenario(t *testing.T, c *Cluster, name string) *scenario {
	s := &scenario{T: t, c: c, ns: name, pods: map[string]*pod{}}
	s.kubectl("create namespace " + name)
	s.kubectl("wait --for=create --timeout=3m serviceaccount/default") // by the controller manager
	t.Cleanup(func() {
		if t.Failed() {
			c.report(t)
		}
		ctx := context.Background()
		for _, args := range []string{"delete pod --all --grace-period=1 --wait=false", "delete namespace " + s.ns + " --wait=false"} {
			if out, err := c.Kubectl(ctx, "", append([]string{"-n", s.ns}, strings.Fields(args)...)...); err != nil {
				t.Errorf("%v %s", err, out)
			}
		}
	})
	return s
}

// kubectl must succeed; words are apart by spaces.
func (s *scenario) kubectl(args string) string {
	s.Helper()
	out, err := s.c.Kubectl(s.Context(), "", append([]string{"-n", s.ns}, strings.Fields(args)...)...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// apply makes cluster-wide objects, which go with the scenario, and others.
func (s *scenario) apply(yaml string) {
	s.Helper()
	if _, err := s.c.Kubectl(s.Context(), yaml, "-n", s.ns, "apply", "-f", "-"); err != nil {
		s.Fatalf("%v\n%s", err, yaml)
	}
	s.deleteLate(yaml)
}

// deleteLate has objects go with the scenario.
func (s *scenario) deleteLate(yaml string) {
	s.Cleanup(func() {
		// What pods stand on goes after them; nobody waits for it.
		_, err := s.c.Kubectl(context.Background(), yaml, "-n", s.ns, "delete", "--wait=false", "--ignore-not-found", "-f", "-")
		if err != nil {
			s.Error(err)
		}
	})
}

// network makes a VLANNetwork of that name and its place in this namespace.
func (s *scenario) network(name string, vlan int, action string) {
	s.Helper()
	s.apply(fmt.Sprintf(`
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: %s}
spec:
  trunk: trunk0
  vlan: {id: %d}
  defaultAction: %s
  namespaces: {matchLabels: {kubernetes.io/metadata.name: %s}}
`, name, vlan, action, s.ns))
	s.eventually("NetworkAttachmentDefinition "+name, func() error {
		_, err := s.c.Kubectl(s.Context(), "", "-n", s.ns, "get", "net-attach-def", name)
		return err
	})
}

// create makes pods, without waiting for them.
func (s *scenario) create(pods ...*pod) {
	s.Helper()
	var all strings.Builder
	for _, p := range pods {
		s.pods[p.name] = p
		all.WriteString(s.yaml(p))
	}
	s.apply(all.String())
}

// run makes pods and waits until they are ready.
func (s *scenario) run(pods ...*pod) {
	s.Helper()
	s.create(pods...)
	for _, p := range pods {
		s.ready(p)
	}
}

func (s *scenario) yaml(p *pod) string {
	element := map[string]any{"name": p.network, "namespace": s.ns, "interface": "net1"}
	if p.mac != "" {
		element["mac"] = p.mac
	}
	command := fmt.Sprintf("[/bin/probe, -addr, %s]", p.addr)
	if p.ipam {
		element["ips"] = []string{p.addr}
		command = "[/bin/probe]"
	}
	networks, _ := json.Marshal([]any{element})
	where := "{}"
	if p.node != "" {
		where = "{kubernetes.io/hostname: " + p.node + "}"
	}
	if p.resources == "" {
		p.resources = "{}"
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata:
  name: "%s"
  annotations: {k8s.v1.cni.cncf.io/networks: '%s'}
spec:
  nodeSelector: %s
%s`, p.name, networks, where, probeSpec(command, p.resources))
}

// ready waits for a pod, and learns its place.
func (s *scenario) ready(p *pod) {
	s.Helper()
	s.kubectl(fmt.Sprintf("wait --for=condition=Ready --timeout=%s pod/%s", patience, p.name))
	f := strings.Split(s.kubectl("get pod "+p.name+" -o jsonpath={.status.podIP},{.spec.nodeName}"), ",")
	if len(f) != 2 {
		s.Fatalf("pod %s has no address: %v", p.name, f)
	}
	p.ip, p.node = f[0], f[1]
	s.eventually(p.name+" answers", func() error { return s.ask(p, "/mac", new(map[string]string)) }) // Running is not yet listening
}

func (s *scenario) node(name string) *Node {
	s.Helper()
	for _, n := range s.c.Nodes {
		if n.Name == name {
			return n
		}
	}
	s.Fatalf("no node %s", name)
	return nil
}

// on runs a shell command on a node; it must succeed.
func (s *scenario) on(name, script string) string {
	s.Helper()
	o, err := s.node(name).Run(s.Context(), script)
	if err != nil || o.Code != 0 {
		s.Fatalf("%s$ %s\n%s%v, exit code %d", name, script, o.Out, err, o.Code)
	}
	return o.Out
}

// ask asks a pod's probe.
func (s *scenario) ask(p *pod, path string, answer any) error {
	return s.node(p.node).Probe(s.Context(), p.ip, path, answer)
}

// tcp connects from a pod to another's address in the VLAN; the error is why not.
func (s *scenario) tcp(from, to *pod, port int) error {
	var who string
	addr, _, _ := strings.Cut(to.addr, "/")
	err := s.ask(from, "/tcp?to="+url.QueryEscape(fmt.Sprintf("%s:%d", addr, port)), &who)
	if err == nil && who != to.name {
		return fmt.Errorf("%s is answered by %s, not %s", addr, who, to.name)
	}
	return err
}

// reaches wants traffic to pass, as soon as it may.
func (s *scenario) reaches(from, to *pod, port int) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s reaches %s port %d", from.name, to.name, port), func() error { return s.tcp(from, to, port) })
}

// refused wants no traffic. Call it after reaches has shown that there could be some.
func (s *scenario) refused(from, to *pod, port int) {
	s.Helper()
	err := s.tcp(from, to, port)
	if err == nil || !strings.Contains(err.Error(), "i/o timeout") && !strings.Contains(err.Error(), "no route to host") {
		s.Errorf("%s to %s port %d: got %v, want silence", from.name, to.name, port, err)
	}
}

// flood has datagrams run between two pods until the function that it gives is
// called, which wants no more lost than most.
func (s *scenario) flood(from, to *pod) (end func(most uint64)) {
	s.Helper()
	addr, _, _ := strings.Cut(to.addr, "/")
	what := "?to=" + addr + ":80"
	var started string
	if err := s.ask(from, "/flood"+what, &started); err != nil {
		s.Fatal(err)
	}
	return func(most uint64) {
		s.Helper()
		var f node.Flood
		if err := s.ask(from, "/ebb"+what, &f); err != nil {
			s.Fatal(err)
		}
		s.Logf("%s to %s: %d datagrams, %d lost", from.name, to.name, f.Sent, f.Lost)
		if f.Lost > most || f.Sent == 0 {
			s.Errorf("%s to %s: %d of %d datagrams lost", from.name, to.name, f.Lost, f.Sent)
		}
	}
}

// eventually polls until there is no error.
func (s *scenario) eventually(what string, ok func() error) {
	s.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s: not within %v: %v", what, patience, err)
		}
	}
}
