package controller

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// testRefused: what cannot be in force is said at the object, and taken back.
func testRefused(l *lab) {
	l.trunk("tref")
	const all = ", namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}"
	l.network("ref-absent", "nowhere", 1, all)
	l.says("VLANNetwork", "ref-absent", "Ready", "False", v1alpha1.ReasonRefused, `spec.trunk: VLANTrunk "nowhere" does not exist`)
	l.says("VLANNetwork", "ref-absent", "MigrationRequired", "Unknown", v1alpha1.ReasonRefused)
	l.event("VLANNetwork", "ref-absent", v1alpha1.ReasonRefused)
	l.network("ref-outside", "tref", 1000, all)
	l.says("VLANNetwork", "ref-outside", "Ready", "False", v1alpha1.ReasonRefused, "spec.vlan.id: VLAN 1000 is not among allowedVLANs of VLANTrunk tref")
	l.network("ref-one", "tref", 7, all)
	l.says("VLANNetwork", "ref-one", "Ready", "True", v1alpha1.ReasonReady)
	l.network("ref-two", "tref", 7, all)
	l.says("VLANNetwork", "ref-one", "Ready", "False", v1alpha1.ReasonRefused, "VLAN 7 of trunk tref is VLANNetwork ref-two already")
	l.says("VLANNetwork", "ref-two", "Ready", "False", v1alpha1.ReasonRefused, "VLAN 7 of trunk tref is VLANNetwork ref-one already")

	l.patch("VLANNetwork", "ref-two", `spec: {vlan: {id: 8}}`)
	l.says("VLANNetwork", "ref-one", "Ready", "True", v1alpha1.ReasonReady)
	l.says("VLANNetwork", "ref-two", "Ready", "True", v1alpha1.ReasonReady)
	l.patch("VLANTrunk", "tref", `spec: {uplink: {allowedVLANs: "1-1000"}}`)
	l.says("VLANNetwork", "ref-outside", "Ready", "True", v1alpha1.ReasonReady)
	l.patch("VLANTrunk", "tref", `spec: {managementVLANs: "1-4094"}`)
	l.says("VLANTrunk", "tref", "Ready", "False", v1alpha1.ReasonRefused, "spec.uplink.allowedVLANs", "nothing but management VLANs")
	l.patch("VLANTrunk", "tref", `spec: {managementVLANs: null}`)
	l.says("VLANTrunk", "tref", "Ready", "True", v1alpha1.ReasonHealthy)
	l.trunk("nowhere")
	l.says("VLANNetwork", "ref-absent", "Ready", "True", v1alpha1.ReasonReady)
	l.says("VLANNetwork", "ref-absent", "MigrationRequired", "False", v1alpha1.ReasonPortsUpToDate)
	l.event("VLANNetwork", "ref-absent", v1alpha1.ReasonReady)
}

// testPolicy: a policy has its number of rules, and why it is refused.
func testPolicy(l *lab) {
	l.create("FirewallPolicy", "pol", `spec: {category: Application, appliedTo: [{any: true}], rules: [{id: 1, action: Allow}, {id: 2, action: Drop}]}`)
	l.says("FirewallPolicy", "pol", "Ready", "True", v1alpha1.ReasonReady, "2 rules")
	l.status("FirewallPolicy", "pol", "rules", 2)
	l.patch("FirewallPolicy", "pol", `spec: {appliedTo: [{network: pol-lan}], rules: [{id: 1, action: Allow, logLabel: x}]}`)
	l.says("FirewallPolicy", "pol", "Ready", "False", v1alpha1.ReasonRefused, "spec.rules[0].logLabel")
	l.patch("FirewallPolicy", "pol", `spec: {rules: [{id: 1, action: Allow}]}`)
	l.says("FirewallPolicy", "pol", "Ready", "False", v1alpha1.ReasonRefused, `spec.appliedTo[0].network: VLANNetwork "pol-lan" does not exist`)
	l.trunk("tpol")
	l.network("pol-lan", "tpol", 1, "")
	l.says("FirewallPolicy", "pol", "Ready", "True", v1alpha1.ReasonReady, "1 rule")
	l.status("FirewallPolicy", "pol", "rules", 1)
	l.event("FirewallPolicy", "pol", v1alpha1.ReasonRefused)

	rules := func(n int) string {
		list := ""
		for i := range n {
			list += fmt.Sprintf("{id: %d, action: Allow}, ", i+1)
		}
		return "rules: [" + list + "]"
	}
	// 12,288 rules are as many as a network can have; one policy holds 4,000.
	l.patch("FirewallPolicy", "pol", "spec: {order: 9, "+rules(289)+"}")
	l.says("FirewallPolicy", "pol", "Ready", "True", v1alpha1.ReasonReady, "289 rules")
	others := []string{"pol1", "pol2", "pol3"}
	for _, name := range others {
		l.create("FirewallPolicy", name, "spec: {category: Application, appliedTo: [{network: pol-lan}], "+rules(4000)+"}")
	}
	l.says("FirewallPolicy", "pol", "Ready", "False", v1alpha1.ReasonRefused, "spec.rules", "VLANNetwork pol-lan to 12289", "a network can have 12288")
	l.status("FirewallPolicy", "pol", "rules", 289)
	for _, name := range others {
		l.says("FirewallPolicy", name, "Ready", "True", v1alpha1.ReasonReady, "4000 rules")
		l.delete("FirewallPolicy", name)
	}
	l.says("FirewallPolicy", "pol", "Ready", "True", v1alpha1.ReasonReady, "289 rules")
	l.patch("FirewallPolicy", "pol", "spec: {"+rules(1)+"}")
	l.says("FirewallPolicy", "pol", "Ready", "True", v1alpha1.ReasonReady, "1 rule")
}

// testBurst: many policies at once are judged a few times, not each time anew.
func testBurst(l *lab) {
	const many = 100 // fewer than the rules that a network can have
	runs := func() int {
		l.c.judge.mu.Lock()
		defer l.c.judge.mu.Unlock()
		return l.c.judge.runs
	}
	before := runs()
	for i := range many {
		l.create("FirewallPolicy", fmt.Sprintf("burst%03d", i), fmt.Sprintf(`spec: {category: Application, order: %d, appliedTo: [{any: true}], rules: [{id: 1, action: Drop}]}`, i))
	}
	for i := range many {
		l.says("FirewallPolicy", fmt.Sprintf("burst%03d", i), "Ready", "True", v1alpha1.ReasonReady)
	}
	if n := runs() - before; n > many/10 {
		l.Errorf("%d judgements for %d policies", n, many)
	}
}

// reconciles counts a controller's work so far.
func reconciles(tb testing.TB, controller string) (n float64) {
	tb.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "controller_runtime_reconcile_total" {
			continue
		}
		for _, m := range f.Metric {
			for _, label := range m.Label {
				if label.GetName() == "controller" && label.GetValue() == controller {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// testOnePort: a port is the concern of its network alone.
func testOnePort(l *lab) {
	l.trunk("tone")
	const many = 40
	for i := range many {
		l.network(fmt.Sprintf("one%02d", i), "tone", 100+i, "")
	}
	for i := range many {
		l.says("VLANNetwork", fmt.Sprintf("one%02d", i), "Ready", "False", v1alpha1.ReasonNoNamespaces)
	}
	before := reconciles(l, "network")
	l.port("default", "one-vm", "tone-node", "one07", "107", "tone", "")
	l.status("VLANNetwork", "one07", "ports", 1)
	l.patchStatus("VMPort", "default/one-vm", `status: {counters: {passedPackets: 7}}`)
	l.delete("VMPort", "default/one-vm")
	l.status("VLANNetwork", "one07", "ports", 0)
	if n := reconciles(l, "network") - before; n == 0 || n > many/2 {
		l.Errorf("%.0f looks at networks for one port's coming and going", n)
	}
}

// testQuiet: a second look at the same state writes nothing.
func testQuiet(l *lab) {
	w := &writer{Client: l.c.mgr.GetClient(), live: l.c.mgr.GetAPIReader(), events: &events.FakeRecorder{}}
	kinds := map[string]func(name string) error{
		"VLANTrunk": func(n string) error {
			return (&trunks{writer: w, judge: l.c.judge, word: l.c.word}).reconcile(l.Context(), n)
		},
		"VLANNetwork": func(n string) error {
			return (&networks{writer: w, judge: l.c.judge, nads: l.c.nads}).reconcile(l.Context(), n)
		},
		"FirewallPolicy":    func(n string) error { return (&policies{writer: w, judge: l.c.judge}).reconcile(l.Context(), n) },
		"AddressSet":        func(n string) error { return (&sets{w, l.c.judge, addressSets}).reconcile(l.Context(), n) },
		"ServiceSet":        func(n string) error { return (&sets{w, l.c.judge, serviceSets}).reconcile(l.Context(), n) },
		"ReachabilityCheck": func(n string) error { return (&checks{w, l.c.judge}).reconcile(l.Context(), n) },
	}
	versions := func() map[string]string {
		seen := map[string]string{}
		for _, kind := range []string{"VLANTrunk", "VLANNetwork", "FirewallPolicy", "AddressSet", "ServiceSet", "ReachabilityCheck", "NAD"} {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(gvkOf(kind).GroupVersionKind())
			if err := l.List(l.Context(), list, client.InNamespace("")); err != nil {
				l.Fatal(err)
			}
			for _, u := range list.Items {
				seen[kind+" "+u.GetNamespace()+"/"+u.GetName()] = u.GetResourceVersion()
				if do := kinds[kind]; do != nil {
					if err := do(u.GetName()); err != nil {
						l.Errorf("%s %s: %v", kind, u.GetName(), err)
					}
				}
			}
		}
		return seen
	}
	l.until("the cluster is at rest", func() string {
		before, after := versions(), versions()
		for k, v := range after {
			if before[k] != v {
				return k
			}
		}
		return ""
	})
	before := versions()
	after := versions()
	final := versions()
	if len(final) < 10 {
		l.Errorf("only %d objects", len(final))
	}
	for k, v := range final {
		if before[k] != v || after[k] != v {
			l.Errorf("%s was written: %s, %s, %s", k, before[k], after[k], v)
		}
	}
}
