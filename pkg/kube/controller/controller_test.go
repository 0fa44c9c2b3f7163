package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/test/apiserver"
)

// TestController follows objects through a cluster's life. All parts share one
// server and one controller: each has names of its own.
func TestController(t *testing.T) {
	l := newLab(t, apiserver.Start(t, crds, nadCRDs))
	for _, tt := range []struct {
		name string
		run  func(*lab)
	}{
		{"trunk", testTrunk},
		{"namespaces", testNamespaces},
		{"edited NAD", testEdited},
		{"hand-made NAD", testHandMade},
		{"all namespaces", testAll},
		{"NAD not taken", testNotTaken},
		{"resource name", testResource},
		{"long name", testLongName},
		{"refused", testRefused},
		{"policy", testPolicy},
		{"peers by label", testPeers},
		{"in use", testInUse},
		{"trunk of a dead node", testDeadNode},
		{"migration required", testMigration},
		{"sets", testSets},
		{"service sets", testServiceSets},
		{"required network", testRequired},
		{"node gone", testNodeGone},
		{"node down", testNodeDown},
		{"burst", testBurst},
		{"one port", testOnePort},
		{"nothing is written twice", testQuiet},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(l.in(t)) })
	}
}

// testTrunk: what nodes report is summed up.
func testTrunk(l *lab) {
	l.create("VLANTrunk", "sum", `spec: {bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1-9"}}`)
	l.says("VLANTrunk", "sum", "Ready", "False", v1alpha1.ReasonNoNodes, "spec.nodeSelector")
	for i := range 14 {
		l.create("Node", fmt.Sprintf("sum%02d", i), `{}`)
	}
	l.report("sum", "sum00", "True", "Healthy", 0)
	l.says("VLANTrunk", "sum", "Ready", "True", v1alpha1.ReasonHealthy, "healthy on 1 node")
	l.report("sum", "sum01", "False", "LinkDown", 0)
	l.says("VLANTrunk", "sum", "Degraded", "True", v1alpha1.ReasonNodesUnhealthy, "1 of 2 nodes", "sum01 (LinkDown)", "vlantrunknode sum.NODE")
	l.says("VLANTrunk", "sum", "Ready", "True", v1alpha1.ReasonPartlyHealthy, "healthy on 1 of 2 nodes")
	// A report begins without a status, which is soon there; if not, it is told.
	since := time.Now()
	l.create("VLANTrunkNode", "sum.sum02", "spec: {trunk: sum, node: sum02}")
	l.says("VLANTrunk", "sum", "Degraded", "True", v1alpha1.ReasonNodesUnhealthy, "sum02 (no word yet)")
	if took := time.Since(since); took < l.c.word-time.Second { // times are whole seconds
		l.Errorf("told %s after the report began", took)
	}
	for i := 2; i < 14; i++ {
		l.report("sum", fmt.Sprintf("sum%02d", i), "False", "Drift", 0)
	}
	l.says("VLANTrunk", "sum", "Degraded", "True", v1alpha1.ReasonNodesUnhealthy, "13 of 14 nodes", "sum10 (Drift) and 3 more")
	l.says("VLANTrunk", "sum", "Ready", "True", v1alpha1.ReasonPartlyHealthy)
	l.status("VLANTrunk", "sum", "nodes", 14)
	l.status("VLANTrunk", "sum", "healthyNodes", 1)
	l.report("sum", "sum00", "False", "LinkDown", 0)
	l.says("VLANTrunk", "sum", "Ready", "False", v1alpha1.ReasonNodesUnhealthy, "healthy on none of 14 nodes")
	l.report("sum", "sum00", "True", "Healthy", 0)
	for i := 1; i < 14; i++ {
		l.report("sum", fmt.Sprintf("sum%02d", i), "True", "Healthy", 0)
	}
	l.says("VLANTrunk", "sum", "Ready", "True", v1alpha1.ReasonHealthy, "healthy on 14 nodes")
	l.says("VLANTrunk", "sum", "Degraded", "False", v1alpha1.ReasonHealthy)
	// A node that is down says nothing any more; what it said is not so.
	for _, state := range []string{"Unknown", "False"} {
		l.node("sum03", state)
		l.says("VLANTrunk", "sum", "Degraded", "True", v1alpha1.ReasonNodesUnhealthy, "1 of 14 nodes", "sum03 (the node is down)")
		l.says("VLANTrunk", "sum", "Ready", "True", v1alpha1.ReasonPartlyHealthy)
		l.status("VLANTrunk", "sum", "healthyNodes", 13)
		l.node("sum03", "True")
		l.says("VLANTrunk", "sum", "Ready", "True", v1alpha1.ReasonHealthy)
	}
	l.event("VLANTrunk", "sum", v1alpha1.ReasonNodesUnhealthy)
	l.event("VLANTrunk", "sum", v1alpha1.ReasonHealthy)
}

// testPeers: a policy says whom its peers by label do not match, as VMs come, get
// addresses, and go.
func testPeers(l *lab) {
	l.trunk("peers")
	l.network("peers", "peers", 7, "")
	l.create("FirewallPolicy", "by-label", `spec: {category: Application, appliedTo: [{network: peers}],
  rules: [{id: 1, action: Allow, sources: [{vm: {matchLabels: {role: web, kubernetes.io/metadata.name: default}}}]}]}`)
	l.create("FirewallPolicy", "by-ip", `spec: {category: Application, appliedTo: [{network: peers}], rules: [{id: 1, action: Allow, sources: [{ip: 10.0.0.1}]}]}`)
	l.says("FirewallPolicy", "by-label", "PeersUnknown", "True", v1alpha1.ReasonPeersUnknown, "spec.rules[0].sources[0].vm selects no VM now")
	l.says("FirewallPolicy", "by-label", "Ready", "True", v1alpha1.ReasonReady)
	l.create("VMIdentity", "default/web", `{metadata: {labels: {role: web}}, spec: {vm: {name: web, uid: u}, network: peers}}`)
	l.says("FirewallPolicy", "by-label", "PeersUnknown", "True", v1alpha1.ReasonPeersUnknown, "does not match default/web: no address of theirs is known")
	l.patchStatus("VMIdentity", "default/web", `status: {addresses: [{address: 10.0.0.1, provenance: GuestAgent, since: "2026-01-01T00:00:00Z"}]}`)
	l.says("FirewallPolicy", "by-label", "PeersUnknown", "False", v1alpha1.ReasonPeersKnown)
	l.patch("VMIdentity", "default/web", `metadata: {labels: {role: other}}`)
	l.says("FirewallPolicy", "by-label", "PeersUnknown", "True", v1alpha1.ReasonPeersUnknown, "selects no VM now")
	// The same of whom it is applied to.
	l.create("FirewallPolicy", "for-vms", `spec: {category: Application, appliedTo: [{network: peers, vm: {matchLabels: {vm.kubevirt.io/name: web}}},
  {vm: {matchLabels: {role: db}}}], rules: [{id: 1, action: Drop}]}`)
	l.says("FirewallPolicy", "for-vms", "AppliedToNobody", "True", v1alpha1.ReasonNoVMSelected, `vm "role=db" selects no VM now`)
	l.says("FirewallPolicy", "for-vms", "Ready", "True", v1alpha1.ReasonReady)
	l.patch("VMIdentity", "default/web", `metadata: {labels: {role: db}}`)
	l.says("FirewallPolicy", "for-vms", "AppliedToNobody", "False", v1alpha1.ReasonVMsSelected)
	l.patch("FirewallPolicy", "for-vms", `spec: {appliedTo: [{network: other, vm: {matchLabels: {role: db}}}]}`)
	l.says("FirewallPolicy", "for-vms", "Ready", "False", v1alpha1.ReasonRefused, `VLANNetwork "other" does not exist`)
	l.says("FirewallPolicy", "for-vms", "AppliedToNobody", "True", v1alpha1.ReasonNoVMSelected, `selects no VM on VLANNetwork other now`)
	l.create("AddressSet", "nobody", `spec: {addresses: []}`)
	l.patch("FirewallPolicy", "for-vms", `spec: {appliedTo: [{addressSet: nobody}, {vm: {matchLabels: {role: db}}}]}`)
	l.says("FirewallPolicy", "for-vms", "AppliedToNobody", "True", v1alpha1.ReasonEmptyAddressSet, `AddressSet "nobody" has no address now`)
	l.patch("AddressSet", "nobody", `spec: {addresses: [10.0.0.1]}`)
	l.says("FirewallPolicy", "for-vms", "AppliedToNobody", "False", v1alpha1.ReasonVMsSelected, "has addresses")
	l.patch("FirewallPolicy", "for-vms", `spec: {appliedTo: [{addressSet: nobody}]}`)
	l.says("FirewallPolicy", "for-vms", "AppliedToNobody", "False", v1alpha1.ReasonNotEmpty)
	l.patch("AddressSet", "nobody", `spec: {addresses: []}`)
	l.says("FirewallPolicy", "for-vms", "AppliedToNobody", "True", v1alpha1.ReasonEmptyAddressSet, `AddressSet "nobody" has no address now`)
	l.patch("FirewallPolicy", "for-vms", `spec: {appliedTo: [{network: peers}]}`)
	l.until("a policy without VMs has no such condition", func() string {
		if text := fmt.Sprint(l.get("FirewallPolicy", "for-vms").Object["status"]); strings.Contains(text, "AppliedToNobody") {
			return text
		}
		return ""
	})
	l.patch("FirewallPolicy", "by-label", `spec: {rules: [{id: 1, action: Allow}]}`)
	l.until("a policy without peers by label has no such condition", func() string {
		for _, name := range []string{"by-label", "by-ip"} {
			if text := fmt.Sprint(l.get("FirewallPolicy", name).Object["status"]); strings.Contains(text, "PeersUnknown") {
				return text
			}
		}
		return ""
	})
}

// nadConfigOf is what a NAD says; "" if there is none.
func (l *lab) nadConfigOf(name string) string {
	u := l.get("NAD", name)
	if u == nil {
		return ""
	}
	s, _, _ := unstructured.NestedString(u.Object, "spec", "config")
	return s
}

func wantConfig(network string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":"homeport","network":%q,"capabilities":{"mac":true}}`, network, network)
}

func (l *lab) hasNAD(namespace, network string) {
	l.Helper()
	l.until("NAD "+namespace+"/"+network, func() string {
		if got := l.nadConfigOf(namespace + "/" + network); got != wantConfig(network) {
			return fmt.Sprintf("config %q", got)
		}
		return ""
	})
}

// testNamespaces: a network's NADs follow its selector and namespaces' labels.
func testNamespaces(l *lab) {
	l.trunk("tns")
	l.network("lan", "tns", 1, "")
	l.says("VLANNetwork", "lan", "Ready", "False", v1alpha1.ReasonNoNamespaces, "spec.namespaces is absent", "{} for all")
	l.patch("VLANNetwork", "lan", `spec: {namespaces: {matchLabels: {vms: lan}}}`)
	l.says("VLANNetwork", "lan", "Ready", "False", v1alpha1.ReasonNoNamespaces, "selects none")
	l.namespace("ns-a", "{vms: lan}")
	l.namespace("ns-b", "{}")
	l.says("VLANNetwork", "lan", "Ready", "True", v1alpha1.ReasonReady, "1 namespace can use it")
	l.status("VLANNetwork", "lan", "namespaces", 1)
	l.hasNAD("ns-a", "lan")
	nad, network := l.get("NAD", "ns-a/lan"), l.get("VLANNetwork", "lan")
	o := metav1.GetControllerOf(nad)
	if nad.GetLabels()["homeport.dev/network"] != "lan" || o == nil || o.Kind != "VLANNetwork" || o.Name != "lan" || o.UID != network.GetUID() || len(nad.GetAnnotations()) != 0 {
		l.Errorf("marks: %v", nad.Object["metadata"])
	}
	if l.get("NAD", "ns-b/lan") != nil {
		l.Error("a NAD where none is wanted")
	}

	l.patch("Namespace", "ns-b", `metadata: {labels: {vms: lan}}`)
	l.hasNAD("ns-b", "lan")
	l.patch("Namespace", "ns-b", `metadata: {labels: {vms: null}}`)
	l.gone("NAD", "ns-b/lan")

	l.patch("Namespace", "ns-b", `metadata: {labels: {vms: lan}}`)
	l.hasNAD("ns-b", "lan")
	l.port("ns-b", "vm1", "tns-node", "lan", "1", "tns", "")
	l.status("VLANNetwork", "lan", "ports", 1)
	l.patch("Namespace", "ns-b", `metadata: {labels: {vms: null}}`)
	l.says("VLANNetwork", "lan", "Ready", "True", v1alpha1.ReasonReady, "not selected, but kept", "namespace ns-b")
	l.hasNAD("ns-b", "lan")
	l.status("VLANNetwork", "lan", "namespaces", 2)
	l.delete("VMPort", "ns-b/vm1")
	l.gone("NAD", "ns-b/lan")
	l.status("VLANNetwork", "lan", "namespaces", 1)

	l.patch("VLANNetwork", "lan", `spec: {namespaces: {matchLabels: null, matchExpressions: [{key: vms, operator: Within, values: [lan]}]}}`)
	l.says("VLANNetwork", "lan", "Ready", "False", v1alpha1.ReasonRefused, "spec.namespaces: is no label selector", "Within")
	l.hasNAD("ns-a", "lan")
	l.report("tns", "tns-node", "False", "LinkDown", 0) // it has no other
	l.patch("VLANNetwork", "lan", `spec: {namespaces: {matchExpressions: [{key: vms, operator: In, values: [lan]}]}}`)
	l.says("VLANNetwork", "lan", "Ready", "False", v1alpha1.ReasonTrunkUnhealthy, "VLANTrunk tns is not ready (NodesUnhealthy)")
}

// testEdited: what somebody else did to one of ours is undone.
func testEdited(l *lab) {
	l.trunk("ted")
	l.namespace("ns-ed", "{vms: ed}")
	l.network("ed", "ted", 1, ", namespaces: {matchLabels: {vms: ed}}")
	since := l.says("VLANNetwork", "ed", "Ready", "True", v1alpha1.ReasonReady).LastTransitionTime
	l.patch("NAD", "ns-ed/ed", `{metadata: {annotations: {mine: "1"}}, spec: {config: "{}"}}`)
	l.hasNAD("ns-ed", "ed")
	l.event("VLANNetwork", "ed", v1alpha1.EventNADRestored)
	if l.get("NAD", "ns-ed/ed").GetAnnotations()["mine"] != "1" {
		l.Error("what others may add is lost")
	}
	for _, fields := range []string{
		`metadata: {labels: {homeport.dev/network: null}}`, `metadata: {labels: {homeport.dev/network: other}}`,
		`metadata: {ownerReferences: null}`, `metadata: {annotations: {k8s.v1.cni.cncf.io/resourceName: some/thing}}`,
	} {
		l.patch("NAD", "ns-ed/ed", fields)
		l.until(fields, func() string {
			nad := l.get("NAD", "ns-ed/ed")
			if nad.GetLabels()["homeport.dev/network"] != "ed" || len(nad.GetOwnerReferences()) != 1 || len(nad.GetAnnotations()) != 1 {
				return fmt.Sprint(nad.Object["metadata"])
			}
			return ""
		})
	}
	l.delete("NAD", "ns-ed/ed")
	l.hasNAD("ns-ed", "ed")
	if c := l.says("VLANNetwork", "ed", "Ready", "True", v1alpha1.ReasonReady); !c.LastTransitionTime.Equal(&since) {
		l.Errorf("ready since %s, was %s", c.LastTransitionTime, since)
	}
}

// testHandMade: a NAD of that name that is not ours is left alone and reported.
func testHandMade(l *lab) {
	l.trunk("thand")
	l.namespace("ns-h1", "{vms: hand}")
	l.namespace("ns-h2", "{vms: hand}")
	l.create("NAD", "ns-h2/hand", `spec: {config: "by hand"}`)
	l.network("hand", "thand", 1, ", namespaces: {matchLabels: {vms: hand}}")
	l.says("VLANNetwork", "hand", "Ready", "False", v1alpha1.ReasonNADConflict, "NetworkAttachmentDefinition hand of namespace ns-h2 is not Homeport's")
	l.event("VLANNetwork", "hand", v1alpha1.ReasonNADConflict)
	l.hasNAD("ns-h1", "hand")
	l.status("VLANNetwork", "hand", "namespaces", 1)
	if got := l.nadConfigOf("ns-h2/hand"); got != "by hand" {
		l.Errorf("overwritten: %s", got)
	}
	// Our label on what another controller owns makes it none of ours.
	l.patch("NAD", "ns-h2/hand", `metadata: {labels: {homeport.dev/network: hand}, ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: u, controller: true}]}`)
	l.patch("Namespace", "ns-h2", `metadata: {labels: {vms: null}}`)
	l.says("VLANNetwork", "hand", "Ready", "True", v1alpha1.ReasonReady)
	if got := l.nadConfigOf("ns-h2/hand"); got != "by hand" {
		l.Errorf("overwritten or deleted: %q", got)
	}
	l.patch("Namespace", "ns-h2", `metadata: {labels: {vms: hand}}`)
	l.says("VLANNetwork", "hand", "Ready", "False", v1alpha1.ReasonNADConflict)
	l.delete("NAD", "ns-h2/hand")
	l.says("VLANNetwork", "hand", "Ready", "True", v1alpha1.ReasonReady, "2 namespaces")
	l.hasNAD("ns-h2", "hand")
}

// testAll: {} selects all namespaces but those on their way out, which are no error.
func testAll(l *lab) {
	l.trunk("tall")
	l.namespace("ns-going", "{}")
	l.delete("Namespace", "ns-going") // nobody here ends it: it stays Terminating
	l.network("all", "tall", 1, ", namespaces: {}")
	l.says("VLANNetwork", "all", "Ready", "True", v1alpha1.ReasonReady)
	l.hasNAD("default", "all")
	before, _, _ := unstructured.NestedInt64(l.get("VLANNetwork", "all").Object, "status", "namespaces")
	l.namespace("ns-late", "{}")
	l.hasNAD("ns-late", "all")
	l.status("VLANNetwork", "all", "namespaces", before+1)
	if l.get("NAD", "ns-going/all") != nil {
		l.Error("a NAD in a namespace that goes")
	}
	l.delete("Namespace", "ns-late")
	l.status("VLANNetwork", "all", "namespaces", before)
	l.says("VLANNetwork", "all", "Ready", "True", v1alpha1.ReasonReady)
	l.delete("VLANNetwork", "all")
	l.gone("VLANNetwork", "all")
}

// testNotTaken: what the API server refuses in one namespace is said, does not
// keep others waiting, and is made up for.
func testNotTaken(l *lab) {
	l.trunk("tnot")
	l.namespace("ns-not1", "{vms: not}")
	l.namespace("ns-not2", "{vms: not}")
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns-not1", Name: "none"}}
	nads := corev1.ResourceName("count/network-attachment-definitions.k8s.cni.cncf.io")
	quota.Spec.Hard = corev1.ResourceList{nads: resource.MustParse("0")}
	if err := l.Create(l.Context(), quota); err != nil {
		l.Fatal(err)
	}
	quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: quota.Spec.Hard} // nobody here counts
	if err := l.Client.Status().Update(l.Context(), quota); err != nil {
		l.Fatal(err)
	}
	l.network("not", "tnot", 1, ", namespaces: {matchLabels: {vms: not}}")
	l.says("VLANNetwork", "not", "Ready", "False", v1alpha1.ReasonNADFailed, "NetworkAttachmentDefinition ns-not1/not", "exceeded quota")
	l.hasNAD("ns-not2", "not")
	l.status("VLANNetwork", "not", "namespaces", 1)
	if err := l.Delete(l.Context(), quota); err != nil {
		l.Fatal(err)
	}
	l.says("VLANNetwork", "not", "Ready", "True", v1alpha1.ReasonReady, "2 namespaces")
}

// testResource: NADs ask for a trunk's resource if the trunk says so.
func testResource(l *lab) {
	l.trunk("tres")
	l.namespace("ns-res", "{vms: res}")
	l.network("res", "tres", 1, ", namespaces: {matchLabels: {vms: res}}")
	l.hasNAD("ns-res", "res")
	for want, fields := range map[string]string{"homeport.dev/tres": `spec: {advertiseResource: true}`, "": `spec: {advertiseResource: false}`} {
		l.patch("VLANTrunk", "tres", fields)
		l.until("resource "+want, func() string {
			notes := l.get("NAD", "ns-res/res").GetAnnotations()
			if got, has := notes["k8s.v1.cni.cncf.io/resourceName"]; got != want || has != (want != "") {
				return fmt.Sprint(notes)
			}
			return ""
		})
	}
	l.patch("VLANTrunk", "tres", `spec: {advertiseResource: true}`)
	l.event("VLANNetwork", "res", v1alpha1.EventNADUpdated)
}

// testLongName: a name that is longer than a label value.
func testLongName(l *lab) {
	name := strings.Repeat("n", 200)
	l.trunk("tlong")
	l.namespace("ns-long", "{vms: long}")
	l.network(name, "tlong", 1, ", namespaces: {matchLabels: {vms: long}}")
	l.hasNAD("ns-long", name)
	if got := l.get("NAD", "ns-long/"+name).GetLabels()["homeport.dev/network"]; got != v1alpha1.LabelValue(name) || len(got) != 63 {
		l.Errorf("label %s", got)
	}
	l.says("VLANNetwork", name, "Ready", "True", v1alpha1.ReasonReady)
}
