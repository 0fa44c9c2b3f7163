package cluster

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// testMigrate: a VM moves from node1 to node2 and on to node3, with KubeVirt's pods and
// objects in KubeVirt's order, under a flood from a peer. Pods play the VM at both ends:
// the target's has its address and MAC from the start, and says so.
func testMigrate(s *scenario) {
	s.network("migrate126", 126, "Allow")
	s.apply(`
apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: migrate}
spec:
  category: Application
  appliedTo: [{network: migrate126}]
  rules: [{id: 1, action: Drop, direction: In, destinations: [{ip: 10.100.26.10}], services: [{protocol: TCP, ports: "22"}]}]
`)
	peer := &pod{name: "peer", node: "node3", network: "migrate126", addr: "10.100.26.1/24"}
	s.run(peer)
	macs := map[string]string{}
	if err := s.ask(peer, "/mac", &macs); err != nil || macs["net1"] == "" {
		s.Fatalf("MACs of the peer: %v, %v", macs, err)
	}
	vm := &VM{Namespace: s.ns, Name: "mover", Node: "node1", Network: "migrate126", MAC: "00:50:56:aa:26:10", Address: "10.100.26.10/24", Labels: "app: mover"}
	must := func(err error) {
		s.Helper()
		if err != nil {
			s.Fatal(err)
		}
	}
	made, err := s.c.CreateVM(s.Context(), vm)
	must(err)
	s.deleteLate(made)
	at := &pod{name: "mover", node: "node1", network: "migrate126", addr: vm.Address, mac: vm.MAC}
	s.pods[at.name] = at
	s.ready(at)
	must(s.c.RunVM(s.Context(), vm))
	s.reaches(peer, at, 80)
	s.refused(peer, at, 22)

	// A migration that fails: the target stays silent and goes, the source never stops.
	failing := &Migration{VM: vm, Source: at.name, Target: "mover-in-vain", To: "node2"}
	made, err = s.c.CreateTarget(s.Context(), failing)
	must(err)
	s.deleteLate(made)
	vain := &pod{name: failing.Target, node: failing.To, network: "migrate126", addr: vm.Address, mac: vm.MAC}
	s.pods[vain.name] = vain
	s.ready(vain)
	must(s.c.ScheduleMigration(s.Context(), failing))
	must(s.c.PrepareMigration(s.Context(), failing))
	must(s.c.FailMigration(s.Context(), failing))
	s.portIs(vain, "Quarantined", "PortQuarantined", "has failed: no room")
	s.kubectl("delete pod " + vain.name)
	s.portIs(at, "Active", "PortActive", "")
	s.reaches(peer, at, 80)

	for _, to := range []string{"node2", "node3"} {
		m := &Migration{VM: vm, Source: at.name, Target: "mover-to-" + to, To: to}
		end := s.flood(peer, at)
		// T0 to T2: the target's pod comes up and talks; nobody hears it.
		made, err := s.c.CreateTarget(s.Context(), m)
		must(err)
		s.deleteLate(made)
		target := &pod{name: m.Target, node: to, network: "migrate126", addr: vm.Address, mac: vm.MAC}
		s.pods[target.name] = target
		s.ready(target)
		s.portIs(target, "Quarantined", "PortQuarantined", "names it neither in status.activePods")
		must(s.c.ScheduleMigration(s.Context(), m))
		must(s.c.PrepareMigration(s.Context(), m))
		s.portIs(target, "Quarantined", "PortQuarantined", "is to come to it by live migration")
		s.refused(target, peer, 80)
		s.reaches(peer, at, 80)
		if out := s.on(to, "homeportctl drops"); !strings.Contains(out, "PortQuarantined") {
			s.Errorf("the target's pod was quiet by itself: %s", out)
		}
		// T6: the VM has stopped here, is about to run there, and QEMU says so. The API
		// does not, yet.
		var said string
		must(s.ask(target, "/know?ip=10.100.26.1&mac="+macs["net1"], &said))
		must(s.ask(at, "/pause", &said))
		must(s.ask(target, "/announce", &said))
		s.killAgent(at.node) // its successor finds out that the VM has left
		s.reaches(peer, target, 80)
		s.refused(peer, target, 22)
		s.portIs(target, "Active", "", "")
		// T7, T8: the API does; the source is silent before its pod ends.
		must(s.c.ReadyMigration(s.Context(), m))
		s.portIs(at, "Released", "PortReleased", "runs in pod "+m.Target)
		// A source that goes on all the same is not heard, and told of.
		must(s.ask(at, "/pause?end=true", &said))
		s.refused(at, peer, 80)
		s.eventually("the source is told of", func() error {
			if out := s.on(at.node, "homeportctl ports"); !strings.Contains(out, "two copies of the VM may be running") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		s.reaches(peer, target, 80)
		must(s.c.CompleteMigration(s.Context(), m))
		s.kubectl("delete pod " + at.name)
		s.eventually("the VM is where it is", func() error {
			out := s.kubectl("get vmidentities -o jsonpath={range.items[?(@.spec.vm)]}{.spec.vm.name}={.status.node}={.status.mac};{end}")
			if out != "mover="+to+"="+vm.MAC+";" {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		s.reaches(peer, target, 80)
		// The VM is nowhere for as long as two requests take. One that is not found at all
		// loses all that follows, which is a thousand or two; one that the source's agent,
		// which starts anew, took for its own lost hundreds.
		end(50)
		vm.Node, at = to, target
	}

	// A pod that only says to be a target, of a VM that does not know it.
	forged := &Migration{VM: vm, Source: at.name, Target: "forged", To: "node1"}
	made, err = s.c.CreateTarget(s.Context(), forged)
	must(err)
	s.deleteLate(made)
	thief := &pod{name: "forged", node: "node1", network: "migrate126", addr: vm.Address, mac: vm.MAC}
	s.pods[thief.name] = thief
	s.ready(thief)
	s.portIs(thief, "Quarantined", "PortQuarantined", "names it neither in status.activePods")
	s.refused(thief, peer, 80)
	s.reaches(peer, at, 80)

	// One beside the VM, with its MAC, that KubeVirt counts among the VM's pods, as it does
	// with every one that has the VM for its owner: no migration goes to it.
	counted := &Migration{VM: vm, Source: at.name, Target: "counted", To: at.node}
	made, err = s.c.CreateTarget(s.Context(), counted)
	must(err)
	s.deleteLate(made)
	must(s.c.ScheduleMigration(s.Context(), counted))
	s.eventually("it is refused", func() error {
		out := s.kubectl("get events -o jsonpath={.items[?(@.involvedObject.name==\"counted\")].message}")
		if !strings.Contains(out, vm.MAC+" is held in VLAN 126 by a living port") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	s.reaches(peer, at, 80)
}

// testMigrateMAC: a VM that names no MAC has the one that its first pod got at random, and
// keeps it when it moves to a pod that got another. That is told, and not lost.
func testMigrateMAC(s *scenario) {
	s.network("migrate127", 127, "Allow")
	peer := &pod{name: "peer", node: "node3", network: "migrate127", addr: "10.100.27.1/24"}
	s.run(peer)
	must := func(err error) {
		s.Helper()
		if err != nil {
			s.Fatal(err)
		}
	}
	vm := &VM{Namespace: s.ns, Name: "mover", Node: "node1", Network: "migrate127", Address: "10.100.27.10/24", Labels: "app: mover"}
	made, err := s.c.CreateVM(s.Context(), vm)
	must(err)
	s.deleteLate(made)
	source := &pod{name: "mover", node: "node1", network: "migrate127", addr: vm.Address}
	s.pods[source.name] = source
	s.ready(source)
	vm.Got = s.portMAC(source)
	must(s.c.RunVM(s.Context(), vm))
	s.reaches(peer, source, 80)
	s.eventually("that it names no MAC is told", func() error {
		out := s.kubectl("get vmports -o jsonpath={.items[?(@.spec.pod.name==\"mover\")].status.conditions[?(@.type==\"MACPinned\")].reason}")
		if out != "MACNotSet" {
			return fmt.Errorf("MACPinned %q", out)
		}
		return nil
	})

	m := &Migration{VM: vm, Source: source.name, Target: "mover-on", To: "node2"}
	made, err = s.c.CreateTarget(s.Context(), m)
	must(err)
	s.deleteLate(made)
	target := &pod{name: m.Target, node: m.To, network: "migrate127", addr: vm.Address}
	s.pods[target.name] = target
	s.ready(target)
	macs := map[string]string{}
	must(s.ask(target, "/mac", &macs))
	if macs[launcherNIC] == vm.Got || macs[launcherNIC] == "" {
		s.Fatalf("the target's pod has %v: want another MAC than the VM's %s", macs, vm.Got)
	}
	must(s.c.ScheduleMigration(s.Context(), m))
	must(s.c.PrepareMigration(s.Context(), m))
	s.portIs(target, "Quarantined", "PortQuarantined", "is to come to it by live migration")
	s.eventually("the target's port has the VM's MAC", func() error {
		if out := s.portMAC(target); out != vm.Got {
			return fmt.Errorf("%s, not %s", out, vm.Got)
		}
		return nil
	})
	s.refused(target, peer, 80)
	s.reaches(peer, source, 80)
	must(s.ask(peer, "/mac", &macs))
	var said string
	must(s.ask(target, "/know?ip=10.100.27.1&mac="+macs["net1"], &said))
	must(s.ask(target, "/announce", &said))
	must(s.ask(source, "/pause", &said))
	s.reaches(peer, target, 80)
	s.portIs(target, "Active", "", "")
	must(s.c.ReadyMigration(s.Context(), m))
	s.portIs(source, "Released", "PortReleased", "runs in pod "+m.Target)
	must(s.c.CompleteMigration(s.Context(), m))
	s.kubectl("delete pod " + source.name)
	s.reaches(peer, target, 80)
}

// portMAC is the MAC of a pod's port, as its VMPort tells.
func (s *scenario) portMAC(p *pod) string {
	s.Helper()
	var mac string
	s.eventually(p.name+" has a VMPort", func() error {
		mac = s.kubectl("get vmports -o jsonpath={.items[?(@.spec.pod.name==\"" + p.name + "\")].spec.mac}")
		if mac == "" {
			return errors.New("it tells no MAC")
		}
		return nil
	})
	return mac
}

// portIs waits until the VMPort of a pod is in a state, with a reason and message of
// its condition; "" is any.
func (s *scenario) portIs(p *pod, state, reason, message string) {
	s.Helper()
	begun := time.Now()
	s.eventually(fmt.Sprintf("the port of pod %s is %s", p.name, state), func() error {
		out := s.kubectl(`get vmports -o jsonpath={range.items[?(@.spec.pod.name=="` + p.name + `")]}{.spec.node}:{.status.state}:{.status.conditions[0].reason}:{.status.conditions[0].message}{end}`)
		if !strings.HasPrefix(out, p.node+":"+state+":"+reason) || !strings.Contains(out, message) {
			return fmt.Errorf("%q", out)
		}
		return nil
	})
	s.Logf("the port of pod %s is %s, seen after %v", p.name, state, time.Since(begun).Round(time.Second/10))
}
