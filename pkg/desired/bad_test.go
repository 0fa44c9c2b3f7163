package desired

import (
	"strings"
	"testing"
)

// edit gives a document with one text replaced.
func edit(doc, old, new string) string {
	if strings.Count(doc, old) != 1 {
		panic("want exactly one " + old + " in " + doc)
	}
	return strings.Replace(doc, old, new, 1)
}

// badCase is a good directory with one file replaced, and what is said of it:
// whole lines, so that file, line, field and the remedy are all asserted.
type badCase struct {
	name, file, content string
	want                string
}

// base is what surrounds the file of a case.
func (c badCase) base() state {
	switch c.file {
	case "trunk.yaml":
		return state{}
	case "networks.yml":
		return good().with("policy.yaml", "")
	}
	return good()
}

func (c badCase) run(t *testing.T) {
	t.Helper()
	d, dir := newDir(t, c.base().with(c.file, c.content))
	got := problems(mustLoad(t, d), dir)
	if want := strings.TrimPrefix(c.want, "\n"); got != want {
		t.Errorf("problems\n got:\n%swant:\n%s", got, want)
	}
}

func TestBadTrunk(t *testing.T) {
	trunk := func(old, new string) string { return edit(trunk0, old, new) }
	for _, c := range []badCase{
		{name: "MTU -1", content: trunk("mtu: 1500", "mtu: -1"), want: `
trunk.yaml:7: VLANTrunk trunk0: spec.mtu: Invalid value: -1: want 68 to 65535 bytes
`},
		{name: "MTU 0", content: trunk("mtu: 1500", "mtu: 0"), want: `
trunk.yaml:7: VLANTrunk trunk0: spec.mtu: Invalid value: 0: want 68 to 65535 bytes
`},
		{name: "MTU 65536", content: trunk("mtu: 1500", "mtu: 65536"), want: `
trunk.yaml:7: VLANTrunk trunk0: spec.mtu: Invalid value: 65536: want 68 to 65535 bytes
`},
		{name: "MTU over 32 bits", content: trunk("mtu: 1500", "mtu: 99999999999"), want: `
trunk.yaml:7: VLANTrunk trunk0: spec.mtu: 99999999999 is out of range: want a number of at most 31 bits
`},
		{name: "open range", content: trunk("100-110,200,4000", "100-"), want: `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.allowedVLANs: Invalid value: "100-": VLAN list "100-": range "100-" has no end: want FIRST-LAST, as 100-110
`},
		{name: "VLAN 0", content: trunk("100-110,200,4000", "0-200"), want: `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.allowedVLANs: Invalid value: "0-200": VLAN list "0-200": range "0-200": VLAN 0 is out of range: want 1-4094
`},
		{name: "VLAN 4095", content: trunk("100-110,200,4000", "100-4095"), want: `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.allowedVLANs: Invalid value: "100-4095": VLAN list "100-4095": range "100-4095": VLAN 4095 is out of range: want 1-4094
`},
		{name: "set without quotes", content: trunk(`"4000"`, `4000`), want: `
trunk.yaml:8: VLANTrunk trunk0: spec.managementVLANs: 4000 is not a text in YAML: want quotes, as "4000"
`},
		{name: "no allowed VLANs", content: trunk(`, allowedVLANs: "100-110,200,4000"`, ``), want: `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.allowedVLANs: Required value: want the VLANs that networks may use, as "100-110,200"
`},
		{name: "native VLAN is management", content: trunk("nativeVLAN: 1", "nativeVLAN: 4000"), want: `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.nativeVLAN: Invalid value: 4000: is a management VLAN, which is never touched: leave nativeVLAN out
`},
		{name: "native VLAN 0", content: trunk("nativeVLAN: 1", "nativeVLAN: 0"), want: `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.nativeVLAN: Invalid value: 0: want a VLAN from 1 to 4094
`},
		{name: "native VLAN without uplink", content: trunk("interface: eth1, ", ""), want: `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.nativeVLAN: Invalid value: 1: has no meaning without uplink.interface: name the interface or leave nativeVLAN out
`},
		{name: "uplink is the bridge", content: trunk("eth1", "br-trunk0"), want: `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.interface: Invalid value: "br-trunk0": is the trunk's own bridge: want the NIC or bond that leads to the switch
`},
		{name: "long interface name", content: trunk("br-trunk0", "br-trunk0-is-long"), want: `
trunk.yaml:5: VLANTrunk trunk0: spec.bridge.name: Invalid value: "br-trunk0-is-long": want an interface name of at most 15 bytes without '/', ':' and spaces
`},
		{name: "managed left out", content: trunk(", managed: true", ""), want: `
trunk.yaml:5: VLANTrunk trunk0: spec.bridge.managed: Required value: want true (Homeport creates the bridge) or false (it exists and belongs to others)
`},
		{name: "managed no", content: trunk("managed: true", "managed: no"), want: `
trunk.yaml:5: VLANTrunk trunk0: spec.bridge.managed: is "no": want true or false
`},
		{name: "inlineConfig", content: trunk("Allow", "allow"), want: `
trunk.yaml:9: VLANTrunk trunk0: spec.inlineConfig: Unsupported value: "allow": supported values: "Allow", "Refuse"
`},
		{name: "hostFirewall", content: trunk("inlineConfig: Allow", "hostFirewall: Off"), want: `
trunk.yaml:9: VLANTrunk trunk0: spec.hostFirewall: Unsupported value: "Off": supported values: "Detect", "Bypass"
`},
		{name: "nodeSelector", content: trunk("mtu: 1500", "nodeSelector: {rack: r1}"), want: `
trunk.yaml:7: VLANTrunk trunk0: spec.nodeSelector: Forbidden: is enforced with --source kube alone: leave it out
`},
	} {
		c.file = "trunk.yaml"
		t.Run(c.name, c.run)
	}
}

func TestBadNetworkVLAN(t *testing.T) {
	network := func(old, new string) string { return edit(vlan100, old, new) }
	for _, c := range []badCase{
		{name: "VLAN 0", content: network("id: 100", "id: 0"), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: Invalid value: 0: want a VLAN from 1 to 4094
`},
		{name: "VLAN 4095", content: network("id: 100", "id: 4095"), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: Invalid value: 4095: want a VLAN from 1 to 4094
`},
		{name: "VLAN octal", content: network("id: 100", "id: 0144"), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: is "0144": want a whole number in plain decimal
`},
		{name: "VLAN a text", content: network("id: 100", `id: "100"`), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: is "100": want a whole number in plain decimal
`},
		{name: "VLAN left out", content: network(", id: 100", ""), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: Required value: mode Access wants a VLAN from 1 to 4094
`},
		{name: "VLAN outside the trunk's", content: network("id: 100", "id: 111"), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: VLAN 111 is not among allowedVLANs of VLANTrunk trunk0: want one of 100-110,200
`},
		{name: "management VLAN", content: network("id: 100", "id: 4000"), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: VLAN 4000 is for management on VLANTrunk trunk0: want one of 100-110,200
`},
		{name: "mode in lower case", content: network("Access", "access"), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.mode: Unsupported value: "access": supported values: "Access", "Trunk", "Native"
`},
		{name: "Access with a set", content: network("id: 100", `id: 100, trunk: ["101"]`), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.trunk: Forbidden: mode Access gives one VLAN: leave trunk out, or want mode Trunk or Native
`},
		{name: "Trunk with an id", content: network("Access, id: 100", `Trunk, id: 100, trunk: ["101"]`), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: Forbidden: mode Trunk has no untagged VLAN: leave id out, or want mode Native for one
`},
		{name: "Trunk without a set", content: network("Access, id: 100", `Trunk`), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.trunk: Required value: mode Trunk wants the VLANs that the guest tags, as ["100-110", "200"]
`},
		{name: "Trunk with an open range", content: network("Access, id: 100", `Trunk, trunk: ["101", "102-"]`), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.trunk[1]: Invalid value: "102-": VLAN list "102-": range "102-" has no end: want FIRST-LAST, as 100-110
`},
		{name: "Trunk outside the trunk's", content: network("Access, id: 100", `Trunk, trunk: ["101", "150-152"]`), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.trunk: VLAN 150-152 is not among allowedVLANs of VLANTrunk trunk0: want one of 100-110,200
`},
		{name: "Native VLAN also tagged", content: network("Access", `Native, trunk: ["100-105"]`), want: `
networks.yml:14: VLANNetwork vlan100: spec.vlan.id: Invalid value: 100: is also in vlan.trunk: a VLAN is either untagged or tagged; take it out of one
`},
	} {
		c.file, c.content = "networks.yml", docs(vlan200, c.content)
		t.Run(c.name, c.run)
	}
}

func TestBadNetwork(t *testing.T) {
	network := func(old, new string) string { return edit(vlan100, old, new) }
	for _, c := range []badCase{
		{name: "unknown trunk", content: network("trunk0", "trunk9"), want: `
networks.yml:13: VLANNetwork vlan100: spec.trunk: VLANTrunk "trunk9" does not exist: want one of trunk0, or make it
`},
		{name: "MTU over the trunk's", content: network("mtu: 1500", "mtu: 9000"), want: `
networks.yml:15: VLANNetwork vlan100: spec.mtu: 9000 is over the MTU of VLANTrunk trunk0: want at most 1500
`},
		{name: "MTU 0", content: network("mtu: 1500", "mtu: 0"), want: `
networks.yml:15: VLANNetwork vlan100: spec.mtu: Invalid value: 0: want 68 to 65535 bytes
`},
		{name: "host bits", content: network("10.100.0.0/24", "10.100.0.1/24"), want: `
networks.yml:16: VLANNetwork vlan100: spec.subnets[0].cidr: Invalid value: "10.100.0.1/24": has host bits set: want 10.100.0.0/24, or 10.100.0.1/32 for the one address
`},
		{name: "gateway outside", content: network("10.100.0.1}", "10.101.0.1}"), want: `
networks.yml:16: VLANNetwork vlan100: spec.subnets[0].gateway: Invalid value: "10.101.0.1": want an address inside 10.100.0.0/24
`},
		{name: "no defaultAction", content: network("  defaultAction: Drop\n", ""), want: `
networks.yml:12: VLANNetwork vlan100: spec.defaultAction: Required value: want Allow or Drop for traffic that no rule matches
`},
		{name: "defaultAction Reject", content: network("Drop", "Reject"), want: `
networks.yml:17: VLANNetwork vlan100: spec.defaultAction: Forbidden: this version does not enforce Reject: want Allow or Drop
`},
		{name: "unknown keys", content: network("  mtu: 1500", "  vlanID: 100\n  MTU: 1500"), want: `
networks.yml:15: VLANNetwork vlan100: spec.vlanID: unknown field: want one of trunk, vlan, mtu, subnets, defaultAction, clusterNetworkPolicies, addressing, portSecurity, reachability, namespaces
networks.yml:16: VLANNetwork vlan100: spec.MTU: unknown field: want one of trunk, vlan, mtu, subnets, defaultAction, clusterNetworkPolicies, addressing, portSecurity, reachability, namespaces
`},
		{name: "key twice", content: network("  mtu: 1500", "  mtu: 1500\n  mtu: 1400"), want: `
networks.yml:16: VLANNetwork vlan100: spec.mtu: key is given twice, first in line 15: want it once
`},
		{name: "key without value", content: network("mtu: 1500", "mtu:"), want: `
networks.yml:15: VLANNetwork vlan100: spec.mtu: has no value: give it one or leave the key out
`},
		{name: "alias", content: edit(network("id: 100", "id: &m 100"), "mtu: 1500", "mtu: *m"), want: `
networks.yml:15: VLANNetwork vlan100: spec.mtu: aliases are not followed: write the value out
`},
		{name: "not enforced", content: vlan100 + "  namespaces: {matchLabels: {team: a}}\n  clusterNetworkPolicies: Enabled\n", want: `
networks.yml:18: VLANNetwork vlan100: spec.namespaces: Forbidden: is enforced with --source kube alone: leave it out
networks.yml:19: VLANNetwork vlan100: spec.clusterNetworkPolicies: Forbidden: is enforced with --source kube alone: leave it out
`},
		{name: "security", content: vlan100 + "  portSecurity:\n    promiscuous: Yes!\n    bpduGuard: On\n    rateLimits: {broadcast: -1, multicast: 2000000}\n    exceptions:\n" +
			"    - {macs: [\"00:50:56:0a:0b\", \"01:50:56:0a:0b:0c\", \"00:50:56:0a:0b:0c\", \"00:50:56:0A:0B:0C\"], raGuard: Off, forgedTransmits: Maybe}\n" +
			"    - {macs: [\"00:50:56:0a:0b:0c\"]}\n" +
			"    - {promiscuous: Accept}\n" +
			"    - {vm: {matchLabels: {a: b}}, bpduGuard: Disabled}\n" +
			"    - {macs: [\"00:50:56:0a:0b:0c\"], macChanges: Accept, rateLimits: {}}\n    - {macs: [\"00:50:56:0a:0b:0c\"], rateLimits: {}}\n", want: `
networks.yml:19: VLANNetwork vlan100: spec.portSecurity.promiscuous: Unsupported value: "Yes!": supported values: "Accept", "Reject"
networks.yml:20: VLANNetwork vlan100: spec.portSecurity.bpduGuard: Unsupported value: "On": supported values: "Enabled", "Disabled"
networks.yml:21: VLANNetwork vlan100: spec.portSecurity.rateLimits.broadcast: Invalid value: -1: want 0, which is no limit, to 1000000 packets a second
networks.yml:21: VLANNetwork vlan100: spec.portSecurity.rateLimits.multicast: Invalid value: 2000000: want 0, which is no limit, to 1000000 packets a second
networks.yml:23: VLANNetwork vlan100: spec.portSecurity.exceptions[0].forgedTransmits: Unsupported value: "Maybe": supported values: "Accept", "Reject"
networks.yml:23: VLANNetwork vlan100: spec.portSecurity.exceptions[0].macs[0]: Invalid value: "00:50:56:0a:0b": want a MAC of six bytes, as 00:50:56:0a:0b:0c
networks.yml:23: VLANNetwork vlan100: spec.portSecurity.exceptions[0].macs[1]: Invalid value: "01:50:56:0a:0b:0c": is a multicast address: want that of a NIC
networks.yml:23: VLANNetwork vlan100: spec.portSecurity.exceptions[0].macs[3]: Duplicate value: "00:50:56:0A:0B:0C": name each NIC once
networks.yml:23: VLANNetwork vlan100: spec.portSecurity.exceptions[0].raGuard: Unsupported value: "Off": supported values: "Enabled", "Disabled"
networks.yml:24: VLANNetwork vlan100: spec.portSecurity.exceptions[1]: Required value: names no switch: want one, as promiscuous: Accept, or leave the exception out
networks.yml:25: VLANNetwork vlan100: spec.portSecurity.exceptions[2].macs: Required value: want the MACs of the NICs that it is for
networks.yml:26: VLANNetwork vlan100: spec.portSecurity.exceptions[3].vm: Forbidden: is enforced with --source kube alone: leave it out
networks.yml:27: VLANNetwork vlan100: spec.portSecurity.exceptions[4].macChanges: Invalid value: "Accept": gives the VM what is sent to MACs that it has sent from: want forgedTransmits: Accept, too
networks.yml:28: VLANNetwork vlan100: spec.portSecurity.exceptions[5]: Required value: names no switch: want one, as promiscuous: Accept, or leave the exception out
`},
		{name: "reachability", content: vlan100 + "  reachability: {dhcp: Maybe, dhcpServers: [fd00::1, 10.0.0.1, 10.0.0.1, x]}\n", want: `
networks.yml:18: VLANNetwork vlan100: spec.reachability.dhcp: Unsupported value: "Maybe": supported values: "Enabled", "Disabled"
networks.yml:18: VLANNetwork vlan100: spec.reachability.dhcpServers[0]: Invalid value: "fd00::1": want an IPv4 address
networks.yml:18: VLANNetwork vlan100: spec.reachability.dhcpServers[2]: Duplicate value: "10.0.0.1": name each server once
networks.yml:18: VLANNetwork vlan100: spec.reachability.dhcpServers[3]: Invalid value: "x": want an address as 10.1.2.3 or 2001:db8::1
`},
		{name: "sources and targets", content: vlan100 + "  reachability:\n    sources:\n    - {node: n1, addresses: [10.100.0.251, 10.100.0.252, x]}\n" +
			"    - {node: n2, addresses: [10.100.0.251]}\n    - {node: n1, addresses: [10.100.0.1]}\n    - {node: \"\", addresses: []}\n" +
			"    targets: [10.100.0.0, 10.100.0.255, 10.200.0.7, 10.100.0.251, \"fd00::1\"]\n", want: `
networks.yml:20: VLANNetwork vlan100: spec.reachability.sources[0].addresses[1]: Invalid value: "10.100.0.252": is the second of 10.100.0.0/24: one is enough, take the other out
networks.yml:20: VLANNetwork vlan100: spec.reachability.sources[0].addresses[2]: Invalid value: "x": want an address as 10.1.2.3 or 2001:db8::1
networks.yml:21: VLANNetwork vlan100: spec.reachability.sources[1].addresses[0]: Duplicate value: "10.100.0.251": spec.reachability.sources[0].addresses[0] has it: want an address that is used once
networks.yml:22: VLANNetwork vlan100: spec.reachability.sources[2].addresses[0]: Invalid value: "10.100.0.1": is a gateway of spec.subnets, which is asked anyway: want another address
networks.yml:22: VLANNetwork vlan100: spec.reachability.sources[2].node: Duplicate value: "n1": name each node once, with all its addresses
networks.yml:23: VLANNetwork vlan100: spec.reachability.sources[3].addresses: Required value: want an address of spec.subnets that nobody else has
networks.yml:23: VLANNetwork vlan100: spec.reachability.sources[3].node: is empty: give it a value or leave the key out
networks.yml:24: VLANNetwork vlan100: spec.reachability.targets[0]: Invalid value: "10.100.0.0": is the network's own address: want a host's
networks.yml:24: VLANNetwork vlan100: spec.reachability.targets[1]: Invalid value: "10.100.0.255": is the broadcast address of 10.100.0.0/24: want a host's
networks.yml:24: VLANNetwork vlan100: spec.reachability.targets[2]: Invalid value: "10.200.0.7": is in none of spec.subnets: want an address of the VLAN, or add its subnet there
networks.yml:24: VLANNetwork vlan100: spec.reachability.targets[3]: Duplicate value: "10.100.0.251": spec.reachability.sources[0].addresses[0] has it: want an address that is used once
networks.yml:24: VLANNetwork vlan100: spec.reachability.targets[4]: Invalid value: "fd00::1": is in none of spec.subnets: want an address of the VLAN, or add its subnet there
`},
		{name: "sources of no VLAN", content: network("{mode: Access, id: 100}", "{mode: Trunk, trunk: [\"100\"]}") +
			"  reachability: {sources: [{node: n1, addresses: [10.100.0.251]}], targets: [10.100.0.20]}\n", want: `
networks.yml:18: VLANNetwork vlan100: spec.reachability.sources: Forbidden: mode Trunk has no untagged VLAN, so nobody knows in which one the addresses are: leave it out
networks.yml:18: VLANNetwork vlan100: spec.reachability.targets: Forbidden: mode Trunk has no untagged VLAN, so nobody knows in which one the addresses are: leave it out
`},
		{name: "unknown field of a source", content: vlan100 + "  reachability: {sources: [{node: n1, address: 10.100.0.251}], source: x}\n", want: `
networks.yml:18: VLANNetwork vlan100: spec.reachability.source: unknown field: want one of required, dhcp, dhcpServers, sources, targets
networks.yml:18: VLANNetwork vlan100: spec.reachability.sources[0].address: unknown field: want one of node, addresses
networks.yml:18: VLANNetwork vlan100: spec.reachability.sources[0].addresses: Required value: want an address of spec.subnets that nobody else has
`},
		{name: "namespace", content: network("{name: vlan100}", "{name: vlan100, namespace: prod}"), want: `
networks.yml:11: VLANNetwork vlan100: metadata.namespace: unknown field: want one of name, labels, annotations
`},
		{name: "name", content: network("{name: vlan100}", "{name: VLAN_100}"), want: `
networks.yml:11: VLANNetwork VLAN_100: metadata.name: Invalid value: "VLAN_100": want lower case letters, digits, '-' and '.', first and last a letter or digit, at most 253 bytes
`},
		{name: "wrong apiVersion", content: network("v1alpha1", "v1"), want: `
networks.yml:9: VLANNetwork vlan100: apiVersion: is "homeport.dev/v1": want homeport.dev/v1alpha1
`},
	} {
		c.file, c.content = "networks.yml", docs(vlan200, c.content)
		t.Run(c.name, c.run)
	}
}

// badRule gives a policy with another second rule.
func badRule(s string) string {
	return edit(web, `  - {id: 1002, action: Drop, services: [{protocol: TCP, ports: "22"}]}`, "  - {"+s+"}")
}

func TestBadService(t *testing.T) {
	for _, c := range []badCase{
		{name: "rule id twice", content: badRule(`id: 1001, action: Drop`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].id: rule 1001: Duplicate value: 1001: rules[0] has this id: want another, unique in the policy
`},
		{name: "rule id 0", content: badRule(`id: 0, action: Drop`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].id: Invalid value: 0: want a number from 1 to 4294967295, unique in the policy
`},
		{name: "rule id left out", content: badRule(`action: Drop`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].id: Invalid value: 0: want a number from 1 to 4294967295, unique in the policy
`},
		{name: "port range 90-80", content: badRule(`id: 7, action: Drop, services: [{protocol: TCP, ports: "22,90-80"}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].ports: rule 7: Invalid value: "22,90-80": "90-80": is reversed: want 80-90
`},
		{name: "port 0", content: badRule(`id: 7, action: Drop, services: [{protocol: UDP, ports: "0"}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].ports: rule 7: Invalid value: "0": want ports from 1 to 65535, as "80,443,8000-8010"
`},
		{name: "port 65536", content: badRule(`id: 7, action: Drop, services: [{protocol: UDP, ports: "65535-65536"}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].ports: rule 7: Invalid value: "65535-65536": want ports from 1 to 65535, as "80,443,8000-8010"
`},
		{name: "ports empty", content: badRule(`id: 7, action: Drop, services: [{protocol: UDP, ports: ""}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].ports: is empty: give it a value or leave the key out
`},
		{name: "ports a number", content: badRule(`id: 7, action: Drop, services: [{protocol: UDP, ports: 53}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].ports: 53 is not a text in YAML: want quotes, as "53"
`},
		{name: "ICMP with ports", content: badRule(`id: 7, action: Drop, services: [{protocol: ICMP, ports: "8"}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].ports: rule 7: Forbidden: ICMP has no ports: want types, or protocol TCP, UDP or SCTP
`},
		{name: "ICMP type 256", content: badRule(`id: 7, action: Drop, services: [{protocol: ICMPv6, types: [128, 256]}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].types[1]: rule 7: Invalid value: 256: want a type from 0 to 255
`},
		{name: "ICMP codes", content: badRule(`id: 7, action: Drop, services: [{protocol: ICMP, codes: [1]}, {protocol: ICMP, types: [3, 4], codes: [1]}, {protocol: ICMP, types: [3], codes: [256]}, {protocol: TCP, codes: [1]}, {protocol: ICMP, types: [3], codes: []}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].codes: rule 7: Forbidden: a code is one of a type: want types with that one alone, as [3]
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[1].codes: rule 7: Forbidden: a code is one of a type: want types with that one alone, as [3]
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[2].codes[0]: rule 7: Invalid value: 256: want a code from 0 to 255
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[3].codes: rule 7: Forbidden: TCP has none: leave it out, or want protocol ICMP or ICMPv6
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[4].codes: rule 7: Invalid value: "[]": would match nothing: leave it out for Any, or name at least one
`},
		{name: "unknown protocol", content: badRule(`id: 7, action: Drop, services: [{protocol: tcp}, {protocol: GRE}, {ports: "1"}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].protocol: rule 7: Unsupported value: "tcp": supported values: "TCP", "UDP", "SCTP", "ICMP", "ICMPv6"
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[1].protocol: rule 7: Unsupported value: "GRE": supported values: "TCP", "UDP", "SCTP", "ICMP", "ICMPv6"
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[2].protocol: rule 7: Required value: want TCP, UDP, SCTP, ICMP or ICMPv6, or a protocolNumber
`},
		{name: "protocol numbers", content: badRule(`id: 7, action: Drop, services: [{protocolNumber: 256}, {protocolNumber: 44}, {protocolNumber: 47, ports: "1"}, {protocolNumber: 6, protocol: TCP}, {any: true, protocolNumber: 47}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].protocolNumber: rule 7: Invalid value: 256: want an IP protocol's number from 0 to 255, as 47 for GRE
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[1].protocolNumber: rule 7: Invalid value: 44: is an IPv6 extension header, and no protocol: want that of what is behind it
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[2].protocolNumber: rule 7: Forbidden: is all of a protocol: leave the other fields out, or want protocol with its ports or types
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[3].protocolNumber: rule 7: Forbidden: is all of a protocol: leave the other fields out, or want protocol with its ports or types
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[4].any: rule 7: Invalid value: true: already covers the other items: want it alone in the list, or take it out
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[4].any: rule 7: Invalid value: true: is every service: leave the other fields out, or any
`},
		{name: "combinations", content: badRule(`id: 7, action: Drop, services: [{protocol: UDP, ports: "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33", sourcePorts: "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33"}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services: rule 7: Invalid value: "1 items": come to 1089 services, each port range counted for each of its source port ranges: want at most 1024: name ranges, or split them
`},
		{name: "TCP flags", content: badRule(`id: 7, action: Drop, services: [{protocol: TCP, tcpFlags: "SYN,SIN"}, {protocol: TCP, tcpFlags: "ACK,!ack"}, {protocol: UDP, tcpFlags: SYN}, {protocol: ICMP, tcpFlags: SYN}, {protocolNumber: 6, tcpFlags: SYN}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].tcpFlags: rule 7: Invalid value: "SYN,SIN": "SIN" is no TCP flag: want some of FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, as SYN,!ACK
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[1].tcpFlags: rule 7: Invalid value: "ACK,!ack": ACK is there twice: want each flag once, as ACK or !ACK
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[2].tcpFlags: rule 7: Forbidden: UDP has none: leave it out, or want protocol TCP
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[3].tcpFlags: rule 7: Forbidden: ICMP has none: leave it out, or want protocol TCP
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[4].protocolNumber: rule 7: Forbidden: is all of a protocol: leave the other fields out, or want protocol with its ports or types
`},
		{name: "source ports", content: badRule(`id: 7, action: Drop, services: [{protocol: UDP, sourcePorts: "0"}, {protocol: SCTP, sourcePorts: "9-8"}, {protocol: ICMP, sourcePorts: "1"}, {protocol: TCP, ports: "80,0"}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].sourcePorts: rule 7: Invalid value: "0": want ports from 1 to 65535, as "80,443,8000-8010"
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[1].sourcePorts: rule 7: Invalid value: "9-8": is reversed: want 8-9
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[2].sourcePorts: rule 7: Forbidden: ICMP has no ports: want types, or protocol TCP, UDP or SCTP
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[3].ports: rule 7: Invalid value: "80,0": "0": want ports from 1 to 65535, as "80,443,8000-8010"
`},
	} {
		c.file = "policy.yaml"
		t.Run(c.name, c.run)
	}
}

func TestBadPeer(t *testing.T) {
	for _, c := range []badCase{
		{name: "CIDR with host bits", content: badRule(`id: 7, action: Drop, sources: [{cidr: 10.0.0.1/8}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[0].cidr: rule 7: Invalid value: "10.0.0.1/8": has host bits set: want 10.0.0.0/8, or 10.0.0.1/32 for the one address
`},
		{name: "address", content: badRule(`id: 7, action: Drop, sources: [{ip: 10.0.0.256}, {ip: 10.0.0.0/8}, {ip: "::ffff:10.0.0.1"}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[0].ip: rule 7: Invalid value: "10.0.0.256": want an address as 10.1.2.3 or 2001:db8::1
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[1].ip: rule 7: Invalid value: "10.0.0.0/8": want one address as 10.1.2.3 or 2001:db8::1; a prefix goes under cidr
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[2].ip: rule 7: Invalid value: "::ffff:10.0.0.1": is IPv4 written as IPv6: want 10.0.0.1
`},
		{name: "ranges", content: badRule(`id: 7, action: Drop, sources: [{range: 10.0.0.9-10.0.0.5}, {range: "10.0.0.1-::1"}, {range: 10.0.0.1}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[0].range: rule 7: Invalid value: "10.0.0.9-10.0.0.5": is reversed: want 10.0.0.5-10.0.0.9
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[1].range: rule 7: Invalid value: "10.0.0.1-::1": mixes IPv4 and IPv6: want both ends of one family
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[2].range: rule 7: Invalid value: "10.0.0.1": want two addresses as 10.0.0.5-10.0.0.9; one address goes under ip
`},
		{name: "two fields of a peer", content: badRule(`id: 7, action: Drop, sources: [{ip: 10.0.0.1, cidr: 10.0.0.0/8}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[0]: rule 7: Forbidden: has 2 fields: want exactly one of ip, cidr, range, addressSet, network, mac and any: true
`},
		{name: "empty lists", content: badRule(`id: 7, action: Drop, sources: [], services: []`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services: rule 7: Invalid value: "[]": would match nothing: leave it out for Any, or name at least one
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources: rule 7: Invalid value: "[]": would match nothing: leave it out for Any, or name at least one
`},
		{name: "list without value", content: edit(web, "    destinations: [{ip: 10.100.0.10}]\n", "    destinations:\n"), want: `
policy.yaml:14: FirewallPolicy web: spec.rules[0].destinations: has no value: give it one or leave the key out
`},
		{name: "any beside others", content: badRule(`id: 7, action: Drop, sources: [{any: true}, {ip: 10.0.0.1}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[0].any: rule 7: Invalid value: true: already covers the other items: want it alone in the list, or take it out
`},
		{name: "no state to pick up", content: edit(web, "  category: Application\n", "  category: Application\n  stateful: false\n  tcpStrict: false\n"), want: `
policy.yaml:7: FirewallPolicy web: spec.tcpStrict: Forbidden: without state no connection is picked up: leave it out, or stateful
`},
		{name: "answers to groups", content: badRule(`id: 7, action: Reject, destinations: [{ip: 224.0.0.251}, {cidr: "ff00::/8"}]}
  - {id: 8, action: Reject, destinations: [{ip: 224.0.0.251}, {ip: 10.0.0.1}]}
  - {id: 9, action: Reject, destinations: [{range: 224.0.0.0-239.1.1.1}], destinationsExcluded: true}
  - {id: 10, action: Drop, destinations: [{cidr: 224.0.0.0/4}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].action: rule 7: Forbidden: what goes to multicast is answered to nobody: want Drop
`},
		{name: "no state to keep", content: edit(web, "  category: Application\n", "  category: Application\n  stateful: false\n  sticky: true\n"), want: `
policy.yaml:7: FirewallPolicy web: spec.sticky: Forbidden: without state there are no connections to keep: leave it out, or stateful
`},
		{name: "peer a text", content: badRule(`id: 7, action: Drop, sources: [10.0.0.0/8]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[0]: is "10.0.0.0/8": want a mapping (key: value)
`},
	} {
		c.file = "policy.yaml"
		t.Run(c.name, c.run)
	}
}

// badFrames is a policy of category Ethernet with one rule, and some that it cannot be.
func badFrames(rule string) string {
	return `apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: web}
spec:
  category: Ethernet
  order: 10
  appliedTo: [{network: vlan100}, {addressSet: a}]
  stateful: false
  tcpStrict: false
  sticky: true
  rules:
  - {` + rule + "}\n"
}

func TestBadPolicy(t *testing.T) {
	for _, c := range []badCase{
		{name: "actions not enforced", content: badRule("id: 7, action: Reject}\n  - {id: 8, action: Pass}\n  - {id: 9, action: Deny"), want: `
policy.yaml:17: FirewallPolicy web: spec.rules[2].action: rule 8: Forbidden: this version does not enforce Pass: want Allow, Drop or Reject
policy.yaml:18: FirewallPolicy web: spec.rules[3].action: rule 9: Unsupported value: "Deny": supported values: "Allow", "Drop", "Reject"
`},
		{name: "labels, states", content: badRule("id: 7, action: Drop, logLabel: x, state: Monitor}\n  - {id: 8, action: Drop, log: true, logLabel: 'two words', state: 'Off'"), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].logLabel: rule 7: Forbidden: the rule writes no lines: set log: true, or leave it out
policy.yaml:17: FirewallPolicy web: spec.rules[2].logLabel: rule 8: Invalid value: "two words": want at most 63 letters, digits and ._:/@+=- without blanks, as it is one word of a line
policy.yaml:17: FirewallPolicy web: spec.rules[2].state: rule 8: Unsupported value: "Off": supported values: "Enabled", "Monitor", "Disabled"
`},
		{name: "peers not enforced", content: badRule(`id: 7, action: Drop, sources: [{addressSet: a}, {vm: {matchLabels: {app: web}}}, {network: vlan200}, {network: vlan100, addressSet: a}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[1].vm: rule 7: Forbidden: is enforced with --source kube alone: leave it out
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[3]: rule 7: Forbidden: has 2 fields: want exactly one of ip, cidr, range, addressSet, network, mac and any: true
`},
		{name: "excluded without peers", content: badRule(`id: 7, action: Drop, sourcesExcluded: true, destinations: [{any: true}], destinationsExcluded: true`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].destinationsExcluded: rule 7: Invalid value: true: the rule would match nothing: want destinations other than any, or leave it out
policy.yaml:16: FirewallPolicy web: spec.rules[1].sourcesExcluded: rule 7: Invalid value: true: the rule would match nothing: want sources other than any, or leave it out
`},
		{name: "MACs and EtherTypes of another category", content: badRule(`id: 7, action: Drop, sources: [{mac: "00:50:56:01:02:03"}], services: [{etherType: ARP}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].etherType: rule 7: Forbidden: rules about EtherTypes are of category Ethernet: want protocol, or a policy of that category
policy.yaml:16: FirewallPolicy web: spec.rules[1].sources[0].mac: rule 7: Forbidden: rules about MACs are of category Ethernet: want ip, cidr or the like, or a policy of that category
`},
		{name: "Ethernet: what frames do not have", content: badFrames(`id: 7, action: Reject, sources: [{ip: 10.0.0.1}, {addressSet: a}], destinations: [{network: vlan100}], services: [{protocol: TCP}, {protocolNumber: 47}]`), want: `
policy.yaml:7: FirewallPolicy web: spec.appliedTo[1].addressSet: Forbidden: frames are told apart by MAC, not by IP address: want networks, VMs, or any: true
policy.yaml:8: FirewallPolicy web: spec.stateful: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:9: FirewallPolicy web: spec.tcpStrict: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:10: FirewallPolicy web: spec.sticky: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:12: FirewallPolicy web: spec.rules[0].action: rule 7: Forbidden: frames have no answer by which a sender could be told: want Drop
policy.yaml:12: FirewallPolicy web: spec.rules[0].destinations[0].network: rule 7: Forbidden: category Ethernet knows MACs alone: want mac, or a policy of another category
policy.yaml:12: FirewallPolicy web: spec.rules[0].services[0]: rule 7: Forbidden: category Ethernet knows EtherTypes alone: want etherType, or a policy of another category
policy.yaml:12: FirewallPolicy web: spec.rules[0].services[1]: rule 7: Forbidden: category Ethernet knows EtherTypes alone: want etherType, or a policy of another category
policy.yaml:12: FirewallPolicy web: spec.rules[0].sources[0].ip: rule 7: Forbidden: category Ethernet knows MACs alone: want mac, or a policy of another category
policy.yaml:12: FirewallPolicy web: spec.rules[0].sources[1].addressSet: rule 7: Forbidden: category Ethernet knows MACs alone: want mac, or a policy of another category
`},
		{name: "Ethernet: what nobody has", content: badFrames("id: 7, action: Pass, sources: [{vm: {}}], services: [{}]}\n  - {id: 8, services: [{etherType: 0x8892}]"), want: `
policy.yaml:7: FirewallPolicy web: spec.appliedTo[1].addressSet: Forbidden: frames are told apart by MAC, not by IP address: want networks, VMs, or any: true
policy.yaml:8: FirewallPolicy web: spec.stateful: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:9: FirewallPolicy web: spec.tcpStrict: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:10: FirewallPolicy web: spec.sticky: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:12: FirewallPolicy web: spec.rules[0].action: rule 7: Forbidden: this version does not enforce Pass: want Allow or Drop
policy.yaml:12: FirewallPolicy web: spec.rules[0].services[0]: rule 7: Required value: want etherType, as ARP or "0x8892"
policy.yaml:12: FirewallPolicy web: spec.rules[0].sources[0].vm: rule 7: Forbidden: is addresses, and frames have MACs: name it by mac
policy.yaml:13: FirewallPolicy web: spec.rules[1].action: rule 8: Required value: want Allow or Drop
policy.yaml:13: FirewallPolicy web: spec.rules[1].services[0]: rule 8: Required value: want etherType, as ARP or "0x8892"
policy.yaml:13: FirewallPolicy web: spec.rules[1].services[0].etherType: 0x8892 is not a text in YAML: want quotes, as "0x8892"
`},
		{name: "Ethernet: what is none", content: badFrames(`id: 7, action: Drop, sources: [{mac: "00:50:56"}, {mac: "00:50:56:01:00:00/24"}, {mac: "00:50:56:01:00:00", ip: 10.0.0.1}], services: [{etherType: RARP}, {etherType: "0x8100"}, {etherType: IPX}, {etherType: ARP, ports: "1"}]`), want: `
policy.yaml:7: FirewallPolicy web: spec.appliedTo[1].addressSet: Forbidden: frames are told apart by MAC, not by IP address: want networks, VMs, or any: true
policy.yaml:8: FirewallPolicy web: spec.stateful: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:9: FirewallPolicy web: spec.tcpStrict: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:10: FirewallPolicy web: spec.sticky: Forbidden: means nothing in category Ethernet, which judges frame by frame: leave it out
policy.yaml:12: FirewallPolicy web: spec.rules[0].services[0].etherType: rule 7: Invalid value: "RARP": "RARP" is RARP, which passes before any rule: a live migration is announced by it
policy.yaml:12: FirewallPolicy web: spec.rules[0].services[1].etherType: rule 7: Invalid value: "0x8100": "0x8100" is a VLAN tag: want the EtherType of what is behind it; VLANs are told apart by appliedTo
policy.yaml:12: FirewallPolicy web: spec.rules[0].services[2].etherType: rule 7: Invalid value: "IPX": "IPX" is no EtherType: want IPv4, IPv6, ARP, LLDP, or a number from 0x0600 to 0xffff, as 0x8892
policy.yaml:12: FirewallPolicy web: spec.rules[0].services[3].etherType: rule 7: Forbidden: is alone in its item: leave the other fields out, or write them in a policy of another category
policy.yaml:12: FirewallPolicy web: spec.rules[0].sources[0].mac: rule 7: Invalid value: "00:50:56": "00:50:56": no MAC: want six bytes in hex, as 00:50:56:0a:0b:0c
policy.yaml:12: FirewallPolicy web: spec.rules[0].sources[1].mac: rule 7: Invalid value: "00:50:56:01:00:00/24": "00:50:56:01:00:00/24" has bits set behind the first 24: write 00:50:56:00:00:00/24, or 00:50:56:01:00:00 for the one MAC
policy.yaml:12: FirewallPolicy web: spec.rules[0].sources[2]: rule 7: Forbidden: has 2 fields: want exactly one of ip, cidr, range, addressSet, network, mac and any: true
`},
		{name: "category unknown", content: edit(web, "Application", "application"), want: `
policy.yaml:5: FirewallPolicy web: spec.category: Unsupported value: "application": supported values: "Ethernet", "Emergency", "Infrastructure", "Environment", "Application"
`},
		{name: "order", content: edit(web, "order: 10", "order: -1"), want: `
policy.yaml:6: FirewallPolicy web: spec.order: Invalid value: -1: want 0 to 999999
`},
		{name: "unknown network", content: edit(web, "{network: vlan100}", "{network: vlan100}, {network: vlan300}"), want: `
policy.yaml:7: FirewallPolicy web: spec.appliedTo[1].network: VLANNetwork "vlan300" does not exist: want one of vlan100, vlan200, or make it
`},
		{name: "applied to nothing", content: edit(web, "[{network: vlan100}]", "[]"), want: `
policy.yaml:7: FirewallPolicy web: spec.appliedTo: Required value: want networks, as [{network: vlan100}], VMs by label, an addressSet, or [{any: true}] for every port
`},
		{name: "applied to not enforced", content: edit(web, "[{network: vlan100}]", "[{vm: {}}, {addressSet: a}, {addressSet: a}, {addressSet: a, network: vlan100}]"), want: `
policy.yaml:7: FirewallPolicy web: spec.appliedTo[0].vm: Forbidden: labels of VMs are known to Kubernetes alone: in a directory of manifests want network, addressSet or any: true
policy.yaml:7: FirewallPolicy web: spec.appliedTo[2].addressSet: Duplicate value: "a": name each set once
policy.yaml:7: FirewallPolicy web: spec.appliedTo[3]: Forbidden: has 2 fields: want exactly one of network, vm, addressSet and any: true, or network and vm
policy.yaml:7: FirewallPolicy web: spec.appliedTo[3].addressSet: Duplicate value: "a": name each set once
`},
		{name: "applied to any and more", content: edit(web, "[{network: vlan100}]", "[{network: vlan100}, {any: true}]"), want: `
policy.yaml:7: FirewallPolicy web: spec.appliedTo[1].any: Invalid value: true: already covers the other items: want it alone in the list, or take it out
`},
		{name: "unknown keys", content: badRule(`id: 7, action: Drop, source: [], services: [{protocol: TCP, port: 80}]`), want: `
policy.yaml:16: FirewallPolicy web: spec.rules[1].services[0].port: unknown field: want one of protocol, protocolNumber, ports, types, codes, any, sourcePorts, tcpFlags, serviceSet, etherType
policy.yaml:16: FirewallPolicy web: spec.rules[1].source: unknown field: want one of id, name, action, direction, sources, destinations, sourcesExcluded, destinationsExcluded, services, log, logLabel, state
`},
	} {
		c.file = "policy.yaml"
		t.Run(c.name, c.run)
	}
}

func TestBadTogether(t *testing.T) {
	for _, c := range []badCase{
		{name: "two networks for a VLAN", file: "more.yaml", content: edit(vlan200, "{name: vlan200}", "{name: other}"), want: `
more.yaml:6: VLANNetwork other: spec.vlan.id: VLAN 200 of trunk trunk0 is VLANNetwork vlan200 already: want one network for a VLAN
networks.yml:16: VLANNetwork vlan200: spec.vlan.id: VLAN 200 of trunk trunk0 is VLANNetwork other already: want one network for a VLAN
`},
		{name: "two trunks for a bridge", file: "more.yaml", content: edit(edit(trunk0, "{name: trunk0}", "{name: trunk1}"), "eth1", "eth2"), want: `
more.yaml:5: VLANTrunk trunk1: spec.bridge.name: VLANTrunk trunk0 has the same bridge br-trunk0: want another
networks.yml:5: VLANNetwork vlan100: spec.trunk: VLANTrunk trunk0 is not in force: correct it
networks.yml:15: VLANNetwork vlan200: spec.trunk: VLANTrunk trunk0 is not in force: correct it
policy.yaml:7: FirewallPolicy web: spec.appliedTo[0].network: VLANNetwork vlan100 is not in force: correct it
trunk.yaml:5: VLANTrunk trunk0: spec.bridge.name: VLANTrunk trunk1 has the same bridge br-trunk0: want another
`},
		{name: "two trunks for an uplink", file: "more.yaml", content: edit(edit(trunk0, "{name: trunk0}", "{name: trunk1}"), "br-trunk0", "br1"), want: `
more.yaml:6: VLANTrunk trunk1: spec.uplink.interface: VLANTrunk trunk0 has the same uplink eth1: want another
networks.yml:5: VLANNetwork vlan100: spec.trunk: VLANTrunk trunk0 is not in force: correct it
networks.yml:15: VLANNetwork vlan200: spec.trunk: VLANTrunk trunk0 is not in force: correct it
policy.yaml:7: FirewallPolicy web: spec.appliedTo[0].network: VLANNetwork vlan100 is not in force: correct it
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.interface: VLANTrunk trunk1 has the same uplink eth1: want another
`},
		{name: "an uplink that is a trunk's bridge", file: "more.yaml", content: edit(edit(edit(trunk0, "{name: trunk0}", "{name: trunk1}"), "br-trunk0", "br1"), "eth1", "br-trunk0"), want: `
more.yaml:6: VLANTrunk trunk1: spec.uplink.interface: br-trunk0 is the bridge of VLANTrunk trunk0: want a NIC or bond
networks.yml:5: VLANNetwork vlan100: spec.trunk: VLANTrunk trunk0 is not in force: correct it
networks.yml:15: VLANNetwork vlan200: spec.trunk: VLANTrunk trunk0 is not in force: correct it
policy.yaml:7: FirewallPolicy web: spec.appliedTo[0].network: VLANNetwork vlan100 is not in force: correct it
trunk.yaml:5: VLANTrunk trunk0: spec.bridge.name: br-trunk0 is the uplink of VLANTrunk trunk1: want another name
`},
		{name: "an object in two files", file: "more.yaml", content: docs("# a copy\n", vlan100), want: `
more.yaml:5: VLANNetwork vlan100: metadata.name: VLANNetwork vlan100 is also in networks.yml line 3: want it once
networks.yml:3: VLANNetwork vlan100: metadata.name: VLANNetwork vlan100 is also in more.yaml line 5: want it once
policy.yaml:7: FirewallPolicy web: spec.appliedTo[0].network: VLANNetwork vlan100 is not in force: correct it
`},
		{name: "an object twice in a file", file: "networks.yml", content: docs(vlan100, vlan200, vlan100), want: `
networks.yml:3: VLANNetwork vlan100: metadata.name: VLANNetwork vlan100 is also in networks.yml line 21: want it once
networks.yml:21: VLANNetwork vlan100: metadata.name: VLANNetwork vlan100 is also in networks.yml line 3: want it once
`},
	} {
		t.Run(c.name, c.run)
	}
}

func TestBadFile(t *testing.T) {
	for _, c := range []badCase{
		{name: "not YAML", content: docs("a: [1,\nb: 2\n", edit(vlan200, "id: 200", "id: 300")), want: `
more.yaml:2: is not YAML: did not find expected ',' or ']'
more.yaml:6: VLANNetwork vlan200: metadata.name: VLANNetwork vlan200 is also in networks.yml line 13: want it once
networks.yml:13: VLANNetwork vlan200: metadata.name: VLANNetwork vlan200 is also in more.yaml line 6: want it once
`},
		{name: "tab", content: "apiVersion: homeport.dev/v1alpha1\nkind: VLANTrunk\nspec:\n\tbridge: x\n", want: `
more.yaml:4: is not YAML: found character that cannot start any token
`},
		{name: "UTF-16", content: "\xff\xfeh\x00i\x00", want: `
more.yaml:1: has 2 bytes that are not UTF-8: want UTF-8
`},
		{name: "no mapping", content: "- a\n- b\n", want: `
more.yaml:1: is no object: want a mapping with apiVersion, kind, metadata and spec
`},
		{name: "no kind", content: "apiVersion: homeport.dev/v1alpha1\nmetadata: {name: x}\n", want: `
more.yaml:1: x: kind: is missing, or no text: want VLANTrunk, VLANNetwork, FirewallPolicy, AddressSet, ServiceSet, ReachabilityCheck; this version knows no other kinds
`},
		{name: "kind not for people", content: "apiVersion: homeport.dev/v1alpha1\nkind: VMPort\nmetadata: {name: x}\n", want: `
more.yaml:2: VMPort x: kind: is "VMPort": want VLANTrunk, VLANNetwork, FirewallPolicy, AddressSet, ServiceSet, ReachabilityCheck; this version knows no other kinds
`},
		{name: "foreign", content: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n", want: `
more.yaml:2: ConfigMap x: kind: is "ConfigMap": want VLANTrunk, VLANNetwork, FirewallPolicy, AddressSet, ServiceSet, ReachabilityCheck; this version knows no other kinds
`},
		{name: "bad list item", content: "apiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: x}\nspec:\n  rules:\n  - {id: 1}\n  - {id: 2}}\n  - {id: 3}\n", want: `
more.yaml:7: is not YAML: did not find expected key
`},
		{name: "unclosed list", content: "apiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: x}\nspec:\n  rules: [{id: 1},\n  order: 3\n", want: `
more.yaml:6: is not YAML: did not find expected ',' or ']'
`},
		{name: "no name", content: edit(vlan200, "metadata: {name: vlan200}\n", ""), want: `
more.yaml:1: VLANNetwork: metadata.name: Required value: want a name as vlan100
`},
		{name: "no spec", content: "apiVersion: homeport.dev/v1alpha1\nkind: VLANNetwork\nmetadata: {name: x}\n", want: `
more.yaml:1: VLANNetwork x: spec.defaultAction: Required value: want Allow or Drop for traffic that no rule matches
more.yaml:1: VLANNetwork x: spec.trunk: Required value: want the name of a VLANTrunk
more.yaml:1: VLANNetwork x: spec.vlan.id: Required value: mode Access wants a VLAN from 1 to 4094
`},
		{name: "status", content: edit(edit(vlan200, "{name: vlan200}", "{name: x}"), "{id: 200}", "{id: 101}") + "status: {}\n", want: `
more.yaml:8: VLANNetwork x: status: unknown field: want one of kind, apiVersion, metadata, spec
`},
	} {
		c.file = "more.yaml"
		t.Run(c.name, c.run)
	}
}
