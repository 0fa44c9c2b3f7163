package v1alpha1_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/test/apiserver"
)

// object is one of our kinds; spec is YAML in flow style.
func object(tb testing.TB, kind, name, spec string) *unstructured.Unstructured {
	tb.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", v1alpha1.APIVersion, kind, name, spec)), &u.Object); err != nil {
		tb.Fatal(err)
	}
	if kind == "VMPort" || kind == "VMIdentity" {
		u.SetNamespace("default")
	}
	return u
}

// TestCRDs shows objects to the API server: what it can judge by one object alone
// it refuses when the object is written, in words.
func TestCRDs(t *testing.T) {
	s := apiserver.Shared(t, "../../../deploy/base/crds")
	c, err := client.New(s.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	trunk := func(more, uplink string) string {
		return fmt.Sprintf(`{bridge: {name: br0, managed: true}, uplink: {%s}%s}`, uplink, more)
	}
	network := func(vlan, more string) string {
		return fmt.Sprintf(`{trunk: t, vlan: {%s}, defaultAction: Drop%s}`, vlan, more)
	}
	policy := func(applied, rules string) string {
		return fmt.Sprintf(`{category: Application, appliedTo: [%s], rules: [%s]}`, applied, rules)
	}
	rule := func(more string) string { return policy("any: true", "{id: 1, action: Drop, "+more+"}") }
	many := strings.Repeat("{id: %d, action: Drop, sources: [{ip: 10.0.0.1}]},", 4001)
	ids := make([]any, 4001)
	for i := range ids {
		ids[i] = i + 1
	}
	for _, tt := range []struct{ name, kind, spec, want string }{
		{"trunk", "VLANTrunk", trunk(`, mtu: 9000, managementVLANs: "4000-4010,4090"`, `interface: eth1, allowedVLANs: "1,100-110,4094", nativeVLAN: 5`), ""},
		{"no VLANs", "VLANTrunk", trunk("", `interface: eth1`), "spec.uplink.allowedVLANs: Required value"},
		{"VLAN 4095", "VLANTrunk", trunk("", `allowedVLANs: "1-4095"`), "want VLANs from 1 to 4094, as 100 or 100-110,200"},
		{"VLAN 0", "VLANTrunk", trunk("", `allowedVLANs: "0"`), "want VLANs from 1 to 4094"},
		{"half a range", "VLANTrunk", trunk("", `allowedVLANs: "100-"`), "want VLANs from 1 to 4094"},
		{"management", "VLANTrunk", trunk(`, managementVLANs: "x"`, `allowedVLANs: "1"`), "as 4000 or 4000-4010,4090"},
		{"MTU 67", "VLANTrunk", trunk(`, mtu: 67`, `allowedVLANs: "1"`), "spec.mtu"},
		{"MTU 65536", "VLANTrunk", trunk(`, mtu: 65536`, `allowedVLANs: "1"`), "spec.mtu"},
		{"native without uplink", "VLANTrunk", trunk("", `allowedVLANs: "1", nativeVLAN: 1`), "nativeVLAN has no meaning without uplink.interface"},
		{"own bridge as uplink", "VLANTrunk", trunk("", `interface: br0, allowedVLANs: "1"`), "is the trunk's own bridge"},
		{"bridge of a path", "VLANTrunk", `{bridge: {name: a/b, managed: true}, uplink: {allowedVLANs: "1"}}`, "at most 15 bytes without"},
		{"long bridge", "VLANTrunk", `{bridge: {name: a-bridge-too-far, managed: true}, uplink: {allowedVLANs: "1"}}`, "spec.bridge.name"},
		{"whose bridge", "VLANTrunk", `{bridge: {name: br0}, uplink: {allowedVLANs: "1"}}`, "spec.bridge.managed: Required value"},
		{strings.Repeat("x", 64), "VLANTrunk", trunk("", `allowedVLANs: "1"`), "want a name of at most 63 bytes"},

		{"access", "VLANNetwork", network("id: 100", `, mtu: 1500, namespaces: {}, subnets: [{cidr: 10.1.0.0/16, gateway: 10.1.0.1}, {cidr: "fd00::/64", gateway: "fd00::1"}]`), ""},
		{"trunk", "VLANNetwork", network(`mode: Trunk, trunk: ["100-110", "200"]`, ""), ""},
		{"native", "VLANNetwork", network(`mode: Native, id: 7, trunk: ["100-110"]`, ""), ""},
		{"access without id", "VLANNetwork", network("mode: Access", ""), "modes Access and Native want vlan.id"},
		{"access with trunk", "VLANNetwork", network(`id: 1, trunk: ["2"]`, ""), "mode Access gives one VLAN"},
		{"trunk with id", "VLANNetwork", network(`mode: Trunk, id: 1, trunk: ["2"]`, ""), "mode Trunk has no untagged VLAN"},
		{"trunk without", "VLANNetwork", network(`mode: Trunk`, ""), "modes Trunk and Native want vlan.trunk"},
		{"VLAN 4095", "VLANNetwork", network("id: 4095", ""), "spec.vlan.id"},
		{"trunk of 0", "VLANNetwork", network(`mode: Trunk, trunk: ["0-5"]`, ""), "want a VLAN from 1 to 4094 or a range"},
		{"no default", "VLANNetwork", `{trunk: t, vlan: {id: 1}}`, "spec.defaultAction: Required value"},
		{"default Reject", "VLANNetwork", `{trunk: t, vlan: {id: 1}, defaultAction: Reject}`, "want Allow or Drop"},
		{"host bits", "VLANNetwork", network("id: 1", `, subnets: [{cidr: 10.0.0.1/8}]`), "want a prefix without host bits"},
		{"no prefix", "VLANNetwork", network("id: 1", `, subnets: [{cidr: ten}]`), "want a prefix without host bits"},
		{"gateway elsewhere", "VLANNetwork", network("id: 1", `, subnets: [{cidr: 10.0.0.0/8, gateway: 11.0.0.1}]`), "gateway: want an address inside cidr"},
		{"subnet twice", "VLANNetwork", network("id: 1", `, subnets: [{cidr: 10.0.0.0/8}, {cidr: 10.0.0.0/8}]`), "Duplicate value"},

		{"addressing", "VLANNetwork", network("id: 1", `, addressing: {mode: Approved, limit: 128, expiry: 36h, sharedAddresses: [10.0.0.1, 10.0.0.16/28, "fe80::1"]}`), ""},
		{"mode", "VLANNetwork", network("id: 1", `, addressing: {mode: Trusted}`), `supported values: "Observed", "Declared", "Approved"`},
		{"limit 0", "VLANNetwork", network("id: 1", `, addressing: {limit: 0}`), "spec.addressing.limit"},
		{"limit 129", "VLANNetwork", network("id: 1", `, addressing: {limit: 129}`), "spec.addressing.limit"},
		{"expiry 0s", "VLANNetwork", network("id: 1", `, addressing: {expiry: 0s}`), "want a time from 1m to 8760h"},
		{"expiry abc", "VLANNetwork", network("id: 1", `, addressing: {expiry: abc}`), "spec.addressing.expiry"},
		{"expiry -1h", "VLANNetwork", network("id: 1", `, addressing: {expiry: -1h}`), "want a time from 1m to 8760h"},
		{"shared", "VLANNetwork", network("id: 1", `, addressing: {sharedAddresses: [10.0.0.17/28]}`), "want an address, as 10.1.2.3, or a prefix without host bits"},
		{"network-status", "VLANNetwork", network("id: 1", `, addressing: {networkStatus: Enabled}`), ""},
		{"network-status of what", "VLANNetwork", network("id: 1", `, addressing: {networkStatus: Always}`), `supported values: "Enabled", "Disabled"`},
		{"shared twice", "VLANNetwork", network("id: 1", `, addressing: {sharedAddresses: [10.0.0.17, 10.0.0.17]}`), "Duplicate value"},
		{"guards", "VLANNetwork", network("id: 1", `, portSecurity: {ipGuard: Strict, arpGuard: Enabled, ndGuard: Enabled, etherTypes: [IPv4, "0x0600", "0xFFFF", PPPoE], rateLimits: {unknownUnicast: 9}, exceptions: [{macs: ["00:50:56:00:00:01"], ipGuard: "Off", arpGuard: Disabled}]}`), ""},
		{"guard of before", "VLANNetwork", network("id: 1", `, portSecurity: {ipGuard: Disabled}`), ""},
		{"guard", "VLANNetwork", network("id: 1", `, portSecurity: {ipGuard: Enabled}`), `supported values: "Off", "Learn", "Strict"`},
		{"ARP guard", "VLANNetwork", network("id: 1", `, portSecurity: {arpGuard: Learn}`), `supported values: "Enabled", "Disabled"`},
		{"length", "VLANNetwork", network("id: 1", `, portSecurity: {etherTypes: ["0x05dc"]}`), "spec.portSecurity.etherTypes[0]"},
		{"word", "VLANNetwork", network("id: 1", `, portSecurity: {etherTypes: [IPX]}`), "spec.portSecurity.etherTypes[0]"},
		{"17 of them", "VLANNetwork", network("id: 1", `, portSecurity: {etherTypes: ["0x8800`+strings.Repeat(`", "0x8801`, 16)+`"]}`), "must have at most 16 items"},
		{"no types", "VLANNetwork", network("id: 1", `, portSecurity: {etherTypes: []}`), "should have at least 1 items"},
		{"an exception's types", "VLANNetwork", network("id: 1", `, portSecurity: {etherTypes: [ARP], exceptions: [{macs: ["00:50:56:00:00:01"], etherTypes: [ARP, "0x88b5"]}, {vm: {}, etherTypes: [All]}]}`), ""},
		{"an exception's word", "VLANNetwork", network("id: 1", `, portSecurity: {exceptions: [{vm: {}, etherTypes: [Any]}]}`), "spec.portSecurity.exceptions[0].etherTypes[0]"},
		{"all and one", "VLANNetwork", network("id: 1", `, portSecurity: {exceptions: [{vm: {}, etherTypes: [All, ARP]}]}`), "All stands alone"},
		{"an exception without types", "VLANNetwork", network("id: 1", `, portSecurity: {exceptions: [{vm: {}, etherTypes: []}]}`), "should have at least 1 items"},

		{"policy", "FirewallPolicy", rule(`sources: [{cidr: 10.0.0.0/8}], destinations: [{range: 10.0.0.5-10.0.0.9}], services: [{protocol: TCP, ports: "80"}]`), ""},
		{"rule id twice", "FirewallPolicy", policy("any: true", "{id: 1, action: Drop}, {id: 1, action: Allow}"), "Duplicate value"},
		{"rule id 0", "FirewallPolicy", policy("any: true", "{id: 0, action: Drop}"), "spec.rules[0].id"},
		{"too many rules", "FirewallPolicy", policy("any: true", fmt.Sprintf(many, ids...)), "must have at most 4000 items"},
		{"nowhere", "FirewallPolicy", policy("", "{id: 1, action: Drop}"), "spec.appliedTo"},
		{"any and one", "FirewallPolicy", policy("{any: true}, {network: lan}", ""), "any stands alone"},
		{"VMs", "FirewallPolicy", policy("{network: lan}, {vm: {matchLabels: {app: a}}}, {vm: {}}", ""), ""},
		{"any and VMs", "FirewallPolicy", policy("{any: true}, {vm: {}}", ""), "any stands alone"},
		{"VMs of a network", "FirewallPolicy", policy("{network: lan, vm: {}}, {addressSet: s.x-1}", ""), ""},
		{"VMs of a set", "FirewallPolicy", policy("{addressSet: s, vm: {}}", ""), "want exactly one of network, vm, addressSet and any, or network and vm"},
		{"a network of a set", "FirewallPolicy", policy("{addressSet: s, network: lan}", ""), "want exactly one of network, vm, addressSet and any, or network and vm"},
		{"three of them", "FirewallPolicy", policy("{addressSet: s, network: lan, vm: {}}", ""), "must have at most 2 "},
		{"a set without a name", "FirewallPolicy", policy(`{addressSet: ""}`, ""), "spec.appliedTo[0].addressSet"},
		{"a network's set", "FirewallPolicy", policy(`{addressSet: VLANNetwork lan}`, ""), "spec.appliedTo[0].addressSet"},
		{"flags", "FirewallPolicy", rule(`services: [{protocol: TCP, tcpFlags: "SYN, !ack"}, {protocol: TCP, tcpFlags: FIN}]`), ""},
		{"no flags", "FirewallPolicy", rule(`services: [{protocol: TCP, tcpFlags: "SYN ACK"}]`), "tcpFlags"},
		{"a peer by network", "FirewallPolicy", rule(`sources: [{network: lan}, {addressSet: s}]`), ""},
		{"two in a peer", "FirewallPolicy", rule(`sources: [{ip: 10.0.0.1, cidr: 10.0.0.0/8}]`), "must have at most 1 "},
		{"empty peer", "FirewallPolicy", rule(`sources: [{}]`), "should have at least 1 properties"},
		{"action", "FirewallPolicy", policy("any: true", "{id: 1, action: Deny}"), `supported values: "Allow", "Drop", "Reject", "Pass"`},
		{"services", "FirewallPolicy", rule(`services: [{protocol: SCTP, ports: "2905", sourcePorts: "1-9"}, {protocolNumber: 47}]`), ""},
		{"protocol number", "FirewallPolicy", rule(`services: [{protocolNumber: 256}]`), "protocolNumber"},
		{"ICMP type", "FirewallPolicy", rule(`services: [{protocol: ICMP, types: [256]}]`), "types[0]"},

		{"set", "AddressSet", `{addresses: [10.0.0.1, 10.0.0.0/8], includes: [b]}`, ""},
		{"address twice", "AddressSet", `{addresses: [10.0.0.1, 10.0.0.1]}`, "Duplicate value"},
		{"node", "VLANTrunkNode", `{trunk: t, node: n1}`, ""},
		{"port", "VMPort", `{node: n1, pod: {name: p, interface: net1, containerID: c}, vlans: "100", mac: "00:50:56:00:00:01", hostInterface: veth0}`, ""},
		{"identity", "VMIdentity", `{vm: {name: v, uid: u}, network: lan}`, ""},
		{"a pod's", "VMIdentity", `{pod: {name: p, uid: u, node: n1}, network: lan}`, ""},
		{"both", "VMIdentity", `{vm: {name: v, uid: u}, pod: {name: p, uid: u, node: n1}, network: lan}`, "want vm or pod"},
		{"neither", "VMIdentity", `{network: lan}`, "want vm or pod"},
		{"pod of no node", "VMIdentity", `{pod: {name: p, uid: u}, network: lan}`, "spec.pod.node: Required value"},
	} {
		t.Run(tt.kind+" "+tt.name, func(t *testing.T) {
			name := strings.ToLower(strings.NewReplacer(" ", "-", "'", "").Replace(tt.name))
			err := c.Create(context.Background(), object(t, tt.kind, name, tt.spec), client.DryRunAll)
			if tt.want == "" && err != nil {
				t.Error(err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// TestUnchangeable: what an object is about does not change.
func TestUnchangeable(t *testing.T) {
	s := apiserver.Shared(t, "../../../deploy/base/crds")
	c, err := client.New(s.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct{ kind, spec, path, want string }{
		{"VLANTrunkNode", `{trunk: t, node: n1}`, "node", "one trunk and node for its whole life"},
		{"VMIdentity", `{vm: {name: v, uid: u}, network: lan}`, "network", "one VM or pod and one network for its whole life"},
		{"VMIdentity", `{pod: {name: p, uid: u, node: n1}, network: lan}`, "network", "one VM or pod and one network for its whole life"},
		{"VMPort", `{node: n1, pod: {name: p, interface: net1, containerID: c}, vlans: "100", mac: "00:50:56:00:00:01", hostInterface: veth0}`, "node", "one node and one pod for its whole life"},
	} {
		u := object(t, tt.kind, fmt.Sprint("unchangeable", i), tt.spec)
		if err := c.Create(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		if err := unstructured.SetNestedField(u.Object, "other", "spec", tt.path); err != nil {
			t.Fatal(err)
		}
		if err := c.Update(t.Context(), u); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.kind, err, tt.want)
		}
	}
}

// TestAddressStatus: an address is once in a VLAN, and can be in several; lists have their bounds.
func TestAddressStatus(t *testing.T) {
	s := apiserver.Shared(t, "../../../deploy/base/crds")
	c, err := client.New(s.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const since = `since: "2026-05-01T10:00:00Z"`
	list := func(n int, more string) string {
		var items []string
		for i := range n {
			items = append(items, fmt.Sprintf("{address: 10.0.0.%d, %s}", i, more))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	for i, tt := range []struct{ kind, status, want string }{
		{"VMIdentity", `{addresses: [{address: "fe80::1", vlan: 5, provenance: ND}, {address: "fe80::1", vlan: 6, provenance: DHCP, ` + since + `, until: "2026-05-01T11:00:00Z", approved: ann}], waiting: ` + list(16, "provenance: ARP") + `}`, ""},
		{"VMIdentity", `{addresses: [{address: 10.0.0.1, provenance: ARP}, {address: 10.0.0.1, vlan: 0, provenance: ARP}]}`, "Duplicate value"},
		{"VMIdentity", `{addresses: [{address: 10.0.0.1, vlan: 4095, provenance: ARP}]}`, "status.addresses[0].vlan"},
		{"VMIdentity", `{addresses: [{address: 10.0.0.1, provenance: Guess}]}`, "status.addresses[0].provenance"},
		{"VMIdentity", `{decisions: ` + list(64, `denied: true, by: ann, at: "2026-05-01T10:00:00Z"`) + `}`, ""},
		{"VMIdentity", `{decisions: ` + list(65, `by: ann, at: "2026-05-01T10:00:00Z"`) + `}`, "must have at most 64 items"},
		{"VMIdentity", `{decisions: [{address: 10.0.0.1, at: "2026-05-01T10:00:00Z"}]}`, "status.decisions[0].by: Required value"},
		{"VMIdentity", `{waiting: ` + list(17, "provenance: ARP") + `}`, "must have at most 16 items"},
		{"VMPort", `{bindings: ` + list(64, "provenance: ARP, state: Aside, "+since) + `, conflicts: [{address: 10.0.0.1, ` + since + `, claimants: [{mac: "00:50:56:00:00:01", vm: shop/till, node: n1, place: net1, ` + since + `}, {mac: "00:50:56:00:00:02"}]}]}`, ""},
		{"VMPort", `{bindings: ` + list(65, "provenance: ARP, state: Held") + `}`, "must have at most 64 items"},
		{"VMPort", `{bindings: [{address: 10.0.0.1, provenance: ARP, state: Lost}]}`, `supported values: "Held", "Aside", "Waiting"`},
		{"VMPort", `{conflicts: ` + list(17, "vlan: 7") + `}`, "must have at most 16 items"},
		{"VMPort", `{conflicts: [{address: 10.0.0.1, claimants: [` + strings.TrimSuffix(strings.Repeat(`{mac: "00:50:56:00:00:01"},`, 5), ",") + `]}]}`, "must have at most 4 items"},
	} {
		spec := `{vm: {name: v, uid: u}, network: lan}`
		if tt.kind == "VMPort" {
			spec = `{node: n1, pod: {name: p, interface: net1, containerID: c}, vlans: "100", mac: "00:50:56:00:00:01", hostInterface: veth0}`
		}
		u := object(t, tt.kind, fmt.Sprint("status", i), spec)
		if err := c.Create(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		var status map[string]any
		if err := yaml.Unmarshal([]byte(tt.status), &status); err != nil {
			t.Fatal(err)
		}
		u.Object["status"] = status
		err := c.Status().Update(t.Context(), u)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s %s: %v, want %q", tt.kind, tt.status, err, tt.want)
		}
	}
}

// TestManualAddresses: people may change which addresses a NIC has, to such as a NIC can have, and nothing else of whose it is.
func TestManualAddresses(t *testing.T) {
	s := apiserver.Shared(t, "../../../deploy/base/crds")
	c, err := client.New(s.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	u := object(t, "VMIdentity", "manual", `{vm: {name: v, uid: u}, network: lan}`)
	if err := c.Create(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	many := make([]any, 17)
	for i := range many {
		many[i] = fmt.Sprint("10.0.0.", i+1)
	}
	for _, tt := range []struct {
		addresses []any
		want      string
	}{
		{[]any{"10.0.0.5", "fd00::5", "fe80::5"}, ""},
		{many[:16], ""},
		{many, "must have at most 16 items"},
		{[]any{"10.0.0.5", "10.0.0.5"}, "Duplicate value"},
		{[]any{"10.0.0.5/24"}, "spec.addresses[0]: Invalid value: \"10.0.0.5/24\": want an address that a NIC can have, as 10.1.2.3 or 2001:db8::1"},
		{[]any{"here"}, "want an address that a NIC can have"},
		{[]any{"224.0.0.1"}, "want an address that a NIC can have"},
		{[]any{"255.255.255.255"}, "want an address that a NIC can have"},
		{[]any{"::"}, "want an address that a NIC can have"},
		{[]any{"127.0.0.1"}, "want an address that a NIC can have"},
		{[]any{"::ffff:10.0.0.5"}, "want an address that a NIC can have"},
		{[]any{"fe80::1%eth0"}, "want an address that a NIC can have"},
	} {
		if err := unstructured.SetNestedSlice(u.Object, tt.addresses, "spec", "addresses"); err != nil {
			t.Fatal(err)
		}
		o := u.DeepCopy()
		err := c.Update(t.Context(), o)
		switch {
		case err == nil && tt.want == "":
			u.SetResourceVersion(o.GetResourceVersion())
		case err == nil || tt.want == "" || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%v: %v, want %q", tt.addresses, err, tt.want)
		}
	}
	unstructured.RemoveNestedField(u.Object, "spec", "addresses")
	if err := unstructured.SetNestedField(u.Object, "w", "spec", "vm", "uid"); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), u); err == nil || !strings.Contains(err.Error(), "one VM or pod and one network") {
		t.Errorf("another VM's: %v", err)
	}
}
