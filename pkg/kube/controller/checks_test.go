package controller

import (
	"fmt"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// testRequired: VMs of a network that is required ask for its own resource, and who reads its status learns
// that a check has to look.
func testRequired(l *lab) {
	l.trunk("treq")
	l.patch("VLANTrunk", "treq", `spec: {advertiseResource: true}`)
	l.namespace("ns-req", "{vms: req}")
	l.network("req", "treq", 1, ", namespaces: {matchLabels: {vms: req}}, reachability: {required: true}")
	resource := func(want string) {
		l.Helper()
		l.until("resource "+want, func() string {
			nad := l.get("NAD", "ns-req/req")
			if nad == nil {
				return "there is none"
			}
			if got := nad.GetAnnotations()[v1alpha1.AnnotationResource]; got != want {
				return fmt.Sprintf("%q", got)
			}
			return ""
		})
	}
	resource("network.homeport.dev/req")
	l.says("VLANNetwork", "req", "Ready", "False", v1alpha1.ReasonNotChecked, "no ReachabilityCheck covers the network", "with spec.every")
	for i, fields := range []string{ // none of which covers it
		`spec: {run: now}`, `spec: {every: 1h, vlans: "1"}`, `spec: {every: 1h, nodes: [n1]}`, `spec: {every: 1h, skip: [trunk]}`,
	} {
		name := fmt.Sprint("req", i)
		l.create("ReachabilityCheck", name, fields)
		l.says("ReachabilityCheck", name, "Ready", "True", v1alpha1.ReasonReady, "when it is due")
	}
	l.create("ReachabilityCheck", "req", `spec: {every: 1h, networks: [req, other]}`)
	l.says("ReachabilityCheck", "req", "Ready", "False", v1alpha1.ReasonRefused, `spec.networks: VLANNetwork "other" does not exist`)
	l.patch("ReachabilityCheck", "req", `spec: {networks: [req]}`)
	l.says("ReachabilityCheck", "req", "Ready", "True", v1alpha1.ReasonReady)
	l.says("VLANNetwork", "req", "Ready", "True", v1alpha1.ReasonReady)
	l.delete("ReachabilityCheck", "req")
	l.says("VLANNetwork", "req", "Ready", "False", v1alpha1.ReasonNotChecked)
	l.patch("VLANNetwork", "req", `spec: {reachability: {required: false}}`)
	l.says("VLANNetwork", "req", "Ready", "True", v1alpha1.ReasonReady)
	resource("homeport.dev/treq")
}
