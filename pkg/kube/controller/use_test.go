package controller

import (
	"fmt"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

func (l *lab) held(kind, name string, want bool) {
	l.Helper()
	l.until(fmt.Sprintf("%s %s is held: %v", kind, name, want), func() string {
		if f := l.get(kind, name).GetFinalizers(); slices.Contains(f, v1alpha1.Finalizer) != want {
			return fmt.Sprint(f)
		}
		return ""
	})
}

// testInUse: what is in use stays until its last user is gone, and says who.
func testInUse(l *lab) {
	l.trunk("tuse")
	l.held("VLANTrunk", "tuse", false)
	l.namespace("ns-use", "{vms: use}")
	l.network("use", "tuse", 1, ", namespaces: {matchLabels: {vms: use}}")
	l.held("VLANTrunk", "tuse", true)
	l.held("VLANNetwork", "use", false)
	for i := range 12 {
		l.port("default", fmt.Sprintf("use%02d", i), "tuse-node", "use", "1", "tuse", "")
	}
	l.held("VLANNetwork", "use", true)
	l.report("tuse", "tuse-node", "True", "Healthy", 12)
	l.says("VLANNetwork", "use", "Ready", "True", v1alpha1.ReasonReady)

	l.delete("VLANTrunk", "tuse")
	l.says("VLANTrunk", "tuse", "Ready", "False", v1alpha1.ReasonInUse, "VLANNetwork use", "node tuse-node (12 ports)")
	l.delete("VLANNetwork", "use")
	l.says("VLANNetwork", "use", "Ready", "False", v1alpha1.ReasonInUse, "default/use00, default/use01", "default/use09 and 2 more")
	l.event("VLANNetwork", "use", v1alpha1.ReasonInUse)
	l.gone("NAD", "ns-use/use") // nobody there is on it
	for i := range 12 {
		l.delete("VMPort", fmt.Sprintf("default/use%02d", i))
	}
	l.gone("VLANNetwork", "use")
	l.says("VLANTrunk", "tuse", "Ready", "False", v1alpha1.ReasonInUse, "used by node tuse-node")
	l.report("tuse", "tuse-node", "True", "Healthy", 0)
	l.gone("VLANTrunk", "tuse")

	l.trunk("tunused")
	l.network("unused", "tunused", 1, "")
	l.held("VLANTrunk", "tunused", true)
	l.delete("VLANNetwork", "unused")
	l.gone("VLANNetwork", "unused")
	l.held("VLANTrunk", "tunused", false)
}

// testDeadNode: a node that does not come back keeps no trunk; ports on it do, until
// their pods are given up.
func testDeadNode(l *lab) {
	l.trunk("tdead")
	l.port("default", "dead", "tdead-node", "", "1", "tdead", "")
	l.held("VLANTrunk", "tdead", true)
	l.report("tdead", "tdead-node", "True", "Healthy", 2)
	l.delete("VLANTrunk", "tdead")
	l.says("VLANTrunk", "tdead", "Ready", "False", v1alpha1.ReasonInUse, "node tdead-node (2 ports)")
	l.node("tdead-node", "Unknown")
	l.says("VLANTrunk", "tdead", "Ready", "False", v1alpha1.ReasonInUse, "node tdead-node (1 port)")
	l.delete("VMPort", "default/dead")
	l.gone("VLANTrunk", "tdead")
}

// testMigration: what running VMs do not have yet is said, by VM.
func testMigration(l *lab) {
	l.trunk("tmig")
	l.network("mig", "tmig", 100, ", namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}")
	const r, no, yes = "MigrationRequired", v1alpha1.ReasonPortsUpToDate, v1alpha1.ReasonPortsOutdated
	l.port("default", "mig1", "tmig-node", "mig", "100", "tmig", ", mtu: 1500")
	l.status("VLANNetwork", "mig", "ports", 1)
	l.says("VLANNetwork", "mig", r, "False", no)

	l.patch("VLANNetwork", "mig", `spec: {defaultAction: Allow, portSecurity: {forgedTransmits: Reject}}`)
	l.says("VLANNetwork", "mig", r, "False", no)
	l.patch("VLANNetwork", "mig", `spec: {vlan: {id: 101}}`)
	l.says("VLANNetwork", "mig", r, "True", yes, "default/mig1", "migrate or restart")
	l.says("VLANNetwork", "mig", "Ready", "True", v1alpha1.ReasonReady)
	l.event("VLANNetwork", "mig", yes)
	// It migrates: its new port is right, and when the old one is gone so is all.
	l.create("VMPort", "default/mig1-new", `spec: {node: tmig-node, pod: {name: launcher-new, interface: net1, containerID: c}, vm: {name: mig1, uid: u},
  network: mig, vlans: "101", trunk: tmig, mtu: 1500, mac: "00:50:56:00:00:01", hostInterface: veth1}`)
	l.status("VLANNetwork", "mig", "ports", 2)
	l.says("VLANNetwork", "mig", r, "True", yes, "default/mig1:")
	l.delete("VMPort", "default/mig1")
	l.says("VLANNetwork", "mig", r, "False", no)

	l.patch("VLANNetwork", "mig", `spec: {vlan: {mode: Native, id: 101, trunk: ["7", "5-6"]}}`)
	l.says("VLANNetwork", "mig", r, "True", yes)
	l.patch("VMPort", "default/mig1-new", `spec: {vlans: "101 untagged, 5-7"}`)
	l.says("VLANNetwork", "mig", r, "False", no)
	for _, o := range []struct{ kind, name string }{{"VLANNetwork", "mig"}, {"VLANTrunk", "tmig"}} {
		l.patch(o.kind, o.name, `spec: {mtu: 9000}`)
		l.says("VLANNetwork", "mig", r, "True", yes)
		l.patch(o.kind, o.name, `spec: {mtu: null}`)
		l.says("VLANNetwork", "mig", r, "False", no)
	}
	l.trunk("tmig2")
	l.patch("VLANNetwork", "mig", `spec: {trunk: tmig2}`)
	l.says("VLANNetwork", "mig", r, "True", yes)
	l.held("VLANTrunk", "tmig", true) // the VM is on it until it migrates
	l.held("VLANTrunk", "tmig2", true)
	l.patch("VLANNetwork", "mig", `spec: {trunk: none}`)
	l.says("VLANNetwork", "mig", r, "Unknown", v1alpha1.ReasonRefused)
	l.delete("VMPort", "default/mig1-new")
	l.held("VLANTrunk", "tmig", false)
}

// testSets: a set has its own addresses and the included ones, each once.
func testSets(l *lab) {
	l.create("AddressSet", "web", `spec: {addresses: ["10.0.0.1", "10.0.0.1/32", "10.0.0.1-10.0.0.1", "10.1.0.0/16", "10.0.0.5-10.0.0.9", "2001:db8::1"]}`)
	l.says("AddressSet", "web", "Ready", "True", v1alpha1.ReasonReady, "has 4 of its own and included addresses")
	l.status("AddressSet", "web", "addresses", 4)
	l.create("AddressSet", "site", `spec: {addresses: ["10.0.0.2"], includes: [web, db]}`)
	l.says("AddressSet", "site", "Ready", "False", v1alpha1.ReasonIncludesMissing, "db (included by site)")
	l.status("AddressSet", "site", "addresses", 5)
	l.create("AddressSet", "all", `spec: {includes: [site]}`)
	l.says("AddressSet", "all", "Ready", "False", v1alpha1.ReasonIncludesMissing, "db (included by site)")
	l.create("AddressSet", "db", `spec: {addresses: ["10.0.0.1", "10.0.0.3"]}`)
	for _, name := range []string{"site", "all"} {
		l.says("AddressSet", name, "Ready", "True", v1alpha1.ReasonReady)
		l.status("AddressSet", name, "addresses", 6)
	}
	l.patch("AddressSet", "db", `spec: {addresses: ["10.0.0.3", "ten", "10.0.0.1/8"]}`)
	l.says("AddressSet", "db", "Ready", "False", v1alpha1.ReasonRefused, `spec.addresses[1]: "ten" want an address`, `spec.addresses[2]: "10.0.0.1/8" has host bits set`)
	l.says("AddressSet", "all", "Ready", "False", v1alpha1.ReasonRefused, `AddressSet db, spec.addresses[1]: "ten"`)
	l.patch("AddressSet", "db", `spec: {addresses: ["10.0.0.3"], includes: [all]}`)
	l.says("AddressSet", "db", "Ready", "False", v1alpha1.ReasonIncludesCycle, "db -> all -> site -> db")
	l.says("AddressSet", "all", "Ready", "False", v1alpha1.ReasonIncludesCycle, "all -> site -> db -> all")
	l.status("AddressSet", "all", "addresses", 6)
	l.create("AddressSet", "l1", `spec: {}`)
	for i := 2; i <= v1alpha1.MaxSetLevels+1; i++ {
		l.create("AddressSet", fmt.Sprint("l", i), fmt.Sprintf(`spec: {includes: [l%d]}`, i-1))
	}
	l.says("AddressSet", "l16", "Ready", "True", v1alpha1.ReasonReady)
	l.says("AddressSet", "l17", "Ready", "False", v1alpha1.ReasonRefused, "spec.includes: is one of 17 levels of sets, l17 -> l16 -> ", "want at most 16")
	l.patch("AddressSet", "db", `spec: {includes: [db]}`)
	l.says("AddressSet", "db", "Ready", "False", v1alpha1.ReasonIncludesCycle, "db -> db")
	l.delete("AddressSet", "db")
	l.says("AddressSet", "all", "Ready", "False", v1alpha1.ReasonIncludesMissing)
	l.event("AddressSet", "all", v1alpha1.ReasonIncludesCycle)
}

// testServiceSets: the same for services.
func testServiceSets(l *lab) {
	l.create("ServiceSet", "web", `spec: {services: [{protocol: TCP, ports: "80,443"}, {protocol: TCP, ports: "80,443"}, {protocolNumber: 47}]}`)
	l.says("ServiceSet", "web", "Ready", "True", v1alpha1.ReasonReady, "has 2 of its own and included services")
	l.create("ServiceSet", "all", `spec: {services: [{protocol: SCTP}], includes: [web, admin]}`)
	l.says("ServiceSet", "all", "Ready", "False", v1alpha1.ReasonIncludesMissing, "admin (included by all)")
	l.create("ServiceSet", "admin", `spec: {services: [{protocol: TCP, ports: "22"}]}`)
	l.says("ServiceSet", "all", "Ready", "True", v1alpha1.ReasonReady)
	l.status("ServiceSet", "all", "services", 4)
	l.patch("ServiceSet", "admin", `spec: {services: [{protocol: TCP, ports: "22"}, {protocol: TCP, ports: "0"}]}`)
	l.says("ServiceSet", "admin", "Ready", "False", v1alpha1.ReasonRefused, `spec.services[1].ports: Invalid value: "0"`)
	l.says("ServiceSet", "all", "Ready", "False", v1alpha1.ReasonRefused, "ServiceSet admin, spec.services[1].ports")
	l.patch("ServiceSet", "admin", `spec: {services: [], includes: [all]}`)
	l.says("ServiceSet", "admin", "Ready", "False", v1alpha1.ReasonIncludesCycle, "admin -> all -> admin")
	l.create("FirewallPolicy", "served", `spec: {category: Application, appliedTo: [{any: true}], rules: [{id: 1, action: Drop, services: [{serviceSet: web}]}]}`)
	l.says("FirewallPolicy", "served", "Ready", "True", v1alpha1.ReasonReady)
	l.patch("FirewallPolicy", "served", `spec: {rules: [{id: 1, action: Drop, services: [{serviceSet: nobody}]}]}`)
	l.says("FirewallPolicy", "served", "Ready", "False", v1alpha1.ReasonRefused, `rule 1: ServiceSet "nobody" does not exist`)
}

// testNodeGone: what a node reported goes when the node does, not when it is down.
func testNodeGone(l *lab) {
	l.trunk("tgone")
	l.create("Node", "gone2", `{}`)
	l.report("tgone", "gone2", "True", "Healthy", 1)
	l.network("gone", "tgone", 1, "")
	l.port("default", "gone-vm1", "tgone-node", "gone", "1", "tgone", "")
	l.port("default", "gone-vm2", "gone2", "gone", "1", "tgone", "")
	l.status("VLANNetwork", "gone", "ports", 2)
	l.status("VLANTrunk", "tgone", "nodes", 2)
	l.patchStatus("Node", "gone2", `status: {conditions: [{type: Ready, status: "False", reason: Down, message: m}]}`)
	l.delete("Node", "tgone-node")
	l.gone("VMPort", "default/gone-vm1")
	l.gone("VLANTrunkNode", "tgone.tgone-node")
	l.status("VLANNetwork", "gone", "ports", 1)
	l.status("VLANTrunk", "tgone", "nodes", 1)
	l.delete("Node", "gone2")
	l.gone("VMPort", "default/gone-vm2")
	// What comes late for a node that is gone goes as well.
	l.port("default", "gone-vm3", "gone2", "gone", "1", "tgone", "")
	l.gone("VMPort", "default/gone-vm3")
	l.status("VLANNetwork", "gone", "ports", 0)
	l.says("VLANTrunk", "tgone", "Ready", "False", v1alpha1.ReasonNoNodes)
}

// boot is what the cluster says of a node's boot.
func (l *lab) boot(node, id string) {
	l.Helper()
	l.patchStatus("Node", node, fmt.Sprintf(`status: {nodeInfo: {bootID: %s}}`, id))
}

// testNodeDown: while a node is down its ports say so and keep what it said; ports of
// a boot that is over go as soon as the node is back.
func testNodeDown(l *lab) {
	l.trunk("tdown")
	l.network("down", "tdown", 1, "")
	l.boot("tdown-node", "b1")
	for _, vm := range []string{"down1", "down2", "down3"} {
		l.port("default", vm, "tdown-node", "down", "1", "tdown", "")
	}
	for _, vm := range []string{"down1", "down2"} { // of down3 the node has said nothing yet
		l.patchStatus("VMPort", "default/"+vm, `status: {state: Active, bootID: b1, conditions: [
			{type: Ready, status: "True", reason: PortActive, message: m, observedGeneration: 1, lastTransitionTime: "2026-01-01T00:00:00Z"}]}`)
	}
	status := func(vm string) any { return l.get("VMPort", "default/"+vm).Object["status"] }
	said := map[string]any{}
	for _, vm := range []string{"down1", "down2", "down3"} {
		said[vm] = status(vm)
	}
	for _, state := range []string{"Unknown", "False"} {
		l.node("tdown-node", state)
		for vm := range said {
			l.says("VMPort", "default/"+vm, "Ready", "Unknown", v1alpha1.ReasonNodeDown, "node tdown-node is down")
		}
		if s, _, _ := unstructured.NestedString(l.get("VMPort", "default/down1").Object, "status", "state"); s != "Active" {
			l.Errorf("state %q, want what the node said last", s)
		}
		l.node("tdown-node", "True")
		for vm, want := range said {
			l.until(vm+" is as the node said", func() string {
				got := status(vm)
				if conditions, _, _ := unstructured.NestedSlice(l.get("VMPort", "default/"+vm).Object, "status", "conditions"); want == nil && len(conditions) == 0 {
					return ""
				}
				if !reflect.DeepEqual(got, want) {
					return fmt.Sprint(got)
				}
				return ""
			})
		}
	}

	l.node("tdown-node", "Unknown")
	l.says("VMPort", "default/down2", "Ready", "Unknown", v1alpha1.ReasonNodeDown)
	l.patchStatus("VMPort", "default/down2", `status: {bootID: b2}`)
	l.boot("tdown-node", "b2")
	l.node("tdown-node", "True")
	l.gone("VMPort", "default/down1")
	l.says("VMPort", "default/down2", "Ready", "True", v1alpha1.ReasonPortActive)
	if l.get("VMPort", "default/down3") == nil {
		l.Error("a port of which the boot is not known went")
	}
}
