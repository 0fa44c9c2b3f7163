package desired

import (
	"testing"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// A trunk's frames bypass the host's iptables only if it says so.
func TestTrunkHostFirewall(t *testing.T) {
	managed := true
	for value, want := range map[v1alpha1.HostFirewall]bool{"": false, v1alpha1.HostFirewallDetect: false, v1alpha1.HostFirewallBypass: true} {
		o := &v1alpha1.VLANTrunk{Spec: v1alpha1.VLANTrunkSpec{Bridge: v1alpha1.TrunkBridge{Name: "br0", Managed: &managed},
			Uplink: v1alpha1.TrunkUplink{AllowedVLANs: "100"}, HostFirewall: value}}
		o.Name = "t"
		got, errs := FromTrunk(o)
		if got.Bypass != want || len(errs) > 0 {
			t.Errorf("%q: %v, %v", value, got.Bypass, errs)
		}
	}
}
