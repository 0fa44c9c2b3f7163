package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

const site = `apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: trunk0}
spec:
  bridge: {name: br-trunk0, managed: true}
  uplink: {interface: eth1, allowedVLANs: "100-110"}
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan100}
spec: {trunk: trunk0, vlan: {mode: Access, id: 100}, defaultAction: Drop}
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan101}
spec: {trunk: trunk0, vlan: {mode: Access, id: 101}, defaultAction: Allow}
---
apiVersion: homeport.dev/v1alpha1
kind: AddressSet
metadata: {name: old-subnet}
spec: {addresses: [10.100.0.0/24]}
---
apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: db}
spec:
  category: Application
  appliedTo: [{network: vlan100}]
  rules:
  - {id: 1001, name: web, action: Allow, direction: In, sources: [{addressSet: old-subnet}], services: [{protocol: TCP, ports: "80"}]}
`

// manifests makes a directory of them.
func manifests(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestManifests: what manifests come to is told without an agent, and can be compared with
// what a port has.
func TestManifests(t *testing.T) {
	dir := manifests(t, site)
	ask := func(args ...string) result { return homeportctl(t, "", append([]string{"policy"}, args...)...) }
	at := []string{"--manifests", dir, "--network", "vlan100"}
	for _, c := range []struct{ from, to, want string }{
		{"10.100.0.9", "10.100.1.1:80/tcp", "Allow\nBy       policy db, rule 1001 web\n"},
		{"10.100.1.9", "10.100.1.1:80/tcp", "Drop\nBy       defaultAction of network vlan100\n"},
	} {
		r := ask(append([]string{"simulate", "--from", c.from, "--to", c.to}, at...)...)
		if r.Code != 0 || r.Stderr != "" || !strings.Contains(r.Stdout, "Verdict  "+c.want) || !strings.HasPrefix(r.Stdout, "Port     none: by manifests\n") || strings.Contains(r.Stdout, "nothing passes") {
			t.Errorf("%s: %+v", c.from, r)
		}
	}
	r := ask("simulate", "--manifests", dir, "--network", "vlan101", "--from", "10.100.1.9", "--to", "10.100.1.1:80/tcp", "-o", "json")
	var v wire.Verdict
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil || v.Action != "Allow" || v.Kind != "Verdict" || v.Rule != nil {
		t.Errorf("verdict %+v of %+v: %v", v, r, err)
	}
	before := filepath.Join(t.TempDir(), "before.json")
	if r = ask(append([]string{"compile", "-o", "json"}, at...)...); r.Code != 0 || os.WriteFile(before, []byte(r.Stdout), 0o644) != nil {
		t.Fatalf("compile: %+v", r)
	}
	after := filepath.Join(t.TempDir(), "after.json")
	changed := manifests(t, strings.Replace(strings.Replace(site, "10.100.0.0/24", "10.100.0.0/23", 1), `ports: "80"`, `ports: "81"`, 1))
	if r = ask("compile", "-o", "json", "--manifests", changed, "--network", "vlan100"); r.Code != 0 || os.WriteFile(after, []byte(r.Stdout), 0o644) != nil {
		t.Fatalf("compile: %+v", r)
	}
	if r = ask("diff", before, before); r.Code != 0 {
		t.Errorf("no difference: %+v", r)
	}
	if r = ask("diff", before, after); r.Code != 1 || !strings.Contains(r.Stdout, "tcp/81") || !strings.Contains(r.Stdout, "old-subnet") {
		t.Errorf("a difference: %+v", r)
	}
	if r = ask(append([]string{"compile"}, at...)...); r.Code != 0 || !strings.Contains(r.Stdout, "AddressSet old-subnet") || !strings.Contains(r.Stdout, "(default)") {
		t.Errorf("compile: %+v", r)
	}
}

// What a node would not take, nobody is told a verdict of.
func TestBadManifests(t *testing.T) {
	dir := manifests(t, site)
	wrong := manifests(t, strings.Replace(site, `ports: "80"`, `ports: "0"`, 1))
	none := manifests(t, "")
	packet := []string{"--from", "10.100.0.9", "--to", "10.100.1.1:80/tcp"}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a port, too":          {[]string{"compile", "shop/db", "--manifests", dir, "--network", "vlan100"}, 2, "--manifests asks about no PORT: leave shop/db out"},
		"no network":           {[]string{"compile", "--manifests", dir}, 2, "--manifests needs --network"},
		"no manifests":         {[]string{"compile", "--network", "vlan100"}, 2, "--network is one in --manifests"},
		"empty manifests":      {[]string{"compile", "--manifests", "", "--network", "vlan100"}, 2, "--network is one in --manifests"},
		"neither":              {[]string{"compile"}, 2, "wants one PORT"},
		"a VM alone":           {[]string{"compile", "--vm", "shop/db"}, 2, "--vm is one in --manifests: want that and --network, too"},
		"a VM and a port":      {[]string{"compile", "shop/db", "--vm", "shop/db"}, 2, "--vm is one in --manifests: want that and --network, too"},
		"a VM nowhere":         {[]string{"compile", "--manifests", dir, "--network", "vlan100", "--vm", "db"}, 2, `--vm "db": want NAMESPACE/NAME of a VM`},
		"no such VM":           {[]string{"compile", "--manifests", dir, "--network", "vlan100", "--vm", "shop/db"}, 3, `--vm "shop/db": no VirtualMachine, VirtualMachineInstance or VMIdentity of shop/db: there is none`},
		"another network":      {[]string{"compile", "--manifests", dir, "--network", "vlan9"}, 3, "want one of vlan100, vlan101"},
		"an empty directory":   {[]string{"compile", "--manifests", none, "--network", "vlan9"}, 3, "it has none"},
		"no directory":         {[]string{"compile", "--manifests", dir + "/no", "--network", "vlan9"}, 3, "no such file or directory"},
		"a wrong manifest":     {append([]string{"simulate", "--manifests", wrong, "--network", "vlan100"}, packet...), 3, "FirewallPolicy db: spec.rules[0].services[0].ports"},
		"no packet":            {[]string{"simulate", "--manifests", dir, "--network", "vlan100"}, 2, "--from"},
		"a packet of no proto": {[]string{"simulate", "--manifests", dir, "--network", "vlan100", "--from", "::1", "--to", "10.0.0.1:80/tcp"}, 2, "not of one family"},
	} {
		t.Run(name, func(t *testing.T) {
			r := homeportctl(t, "", append([]string{"policy"}, c.args...)...)
			if r.Code != c.code || r.Stdout != "" || !strings.Contains(r.Stderr, c.want) {
				t.Errorf("exit %d, want %d and %q in:\n%s%s", r.Code, c.code, c.want, r.Stdout, r.Stderr)
			}
		})
	}
	many := strings.Builder{}
	many.WriteString(strings.Replace(site, "appliedTo: [{network: vlan100}]", "appliedTo: [{network: vlan101}]", 1))
	for _, name := range []string{"a", "b", "c", "d"} {
		many.WriteString("---\napiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: " + name + "}\nspec:\n  category: Application\n  appliedTo: [{network: vlan100}]\n  rules:\n")
		for id := 1; id <= 4000; id++ {
			many.WriteString("  - {id: " + strconv.Itoa(id) + ", action: Drop}\n")
		}
	}
	r := homeportctl(t, "", "policy", "compile", "--manifests", manifests(t, many.String()), "--network", "vlan100")
	if r.Code != 3 || !strings.Contains(r.Stderr, "a node would refuse these rules") || !strings.Contains(r.Stderr, "a network can have 12288") {
		t.Errorf("too many rules: %+v", r)
	}
}

// fleet is what a cluster's repository may have: VMs with labels, and what goes by them.
const fleet = `# A chart's values: no object.
replicas: 3
---
apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: trunk0}
spec:
  nodeSelector: {rack: a}
  bridge: {name: br-trunk0, managed: true}
  uplink: {interface: eth1, allowedVLANs: "100-110"}
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan100}
spec:
  trunk: trunk0
  vlan: {mode: Access, id: 100}
  defaultAction: Drop
  clusterNetworkPolicies: Enabled
  namespaces: {matchLabels: {team: shop}}
---
apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: db}
spec:
  category: Application
  appliedTo: [{vm: {matchLabels: {tier: db}}}]
  rules:
  - {id: 1, action: Allow, direction: In, sources: [{vm: {matchLabels: {tier: web}}}], services: [{protocol: TCP, ports: "5432"}]}
  - {id: 2, action: Allow, direction: In, sources: [{vm: {matchLabels: {tier: backup}}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: quarantine}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {state: sick}}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
---
apiVersion: k8s.cni.cncf.io/v1beta1
kind: MultiNetworkPolicy
metadata:
  name: dns
  namespace: shop
  annotations: {k8s.v1.cni.cncf.io/policy-for: vlan100}
spec:
  podSelector: {matchLabels: {app: dns}}
  policyTypes: [Ingress]
  ingress: [{ports: [{protocol: UDP, port: 53}]}]
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: vlan100, namespace: shop}
spec: {config: '{"cniVersion": "1.0.0", "type": "homeport", "network": "vlan100"}'}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: shop, labels: {team: shop}}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: unrelated, namespace: shop}
- apiVersion: kubevirt.io/v1
  kind: VirtualMachine
  metadata: {name: pg, namespace: shop}
  spec: {template: {metadata: {labels: {tier: db}}, spec: {networks: [{name: lan, multus: {networkName: vlan100}}]}}}
- apiVersion: kubevirt.io/v1
  kind: VirtualMachine
  metadata: {name: web, namespace: shop}
  spec:
    template:
      metadata: {labels: {tier: web}, annotations: {network.kubevirt.io/addresses: '{"lan": ["10.100.0.21"]}'}}
      spec: {networks: [{name: pods, pod: {}}, {name: lan, multus: {networkName: vlan100}}]}
- apiVersion: kubevirt.io/v1
  kind: VirtualMachine
  metadata: {name: old, namespace: shop}
  spec: {template: {metadata: {labels: {tier: db, state: sick}}, spec: {networks: [{name: lan, multus: {networkName: shop/vlan100}}]}}}
- apiVersion: kubevirt.io/v1
  kind: VirtualMachineInstance
  metadata: {name: ns1, namespace: shop, labels: {app: dns, kubevirt.io/nodeName: elsewhere}}
- apiVersion: kubevirt.io/v1
  kind: VirtualMachine
  metadata: {name: stray, namespace: lab}
  spec: {template: {metadata: {labels: {tier: db}}}}
---
apiVersion: homeport.dev/v1alpha1
kind: VMIdentity
metadata: {name: seen, namespace: shop}
spec: {network: vlan100, vm: {name: seen}}
status: {addresses: [{address: 10.100.0.22}]}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: seen, namespace: shop}
spec: {template: {metadata: {labels: {tier: web}}}}
---
apiVersion: homeport.dev/v1alpha1
kind: VMIdentity
metadata: {name: set, namespace: shop, labels: {tier: web}}
spec: {network: vlan100, vm: {name: set}, addresses: [10.100.0.23]}
`

// TestClusterManifests: with a VM named, manifests are a cluster's, and what goes by labels counts: of the VM, of its peers, of
// namespaces and of nodes.
func TestClusterManifests(t *testing.T) {
	dir := manifests(t, fleet)
	const nobody = "FirewallPolicy db: spec.rules[1].sources[0].vm: "
	for _, c := range []struct{ vm, from, to, want string }{
		{"shop/pg", "10.100.0.21", "10.100.0.20:5432/tcp", "Allow\nBy       policy db, rule 1\n"}, // as the VM declares
		{"shop/pg", "10.100.0.22", "10.100.0.20:5432/tcp", "Allow\nBy       policy db, rule 1\n"}, // as it was seen
		{"shop/pg", "10.100.0.23", "10.100.0.20:5432/tcp", "Allow\nBy       policy db, rule 1\n"}, // as a person set it
		{"shop/pg", "10.100.0.24", "10.100.0.20:5432/tcp", "Drop\nBy       defaultAction of network vlan100\n"},
		{"shop/pg", "10.100.0.21", "10.100.0.20:22/tcp", "Drop\nBy       defaultAction of network vlan100\n"},
		{"shop/web", "10.100.0.22", "10.100.0.21:5432/tcp", "Drop\nBy       defaultAction of network vlan100\n"}, // the policy is not for it
		{"shop/old", "10.100.0.21", "10.100.0.25:5432/tcp", "Drop\nBy       policy ClusterNetworkPolicy/quarantine, rule 1\n"},
		{"shop/ns1", "10.9.9.9", "10.100.0.53:53/udp", "Allow\nBy       policy shop/dns, rule 1 ingress[0]\n"},
		{"shop/pg", "10.9.9.9", "10.100.0.20:53/udp", "Drop\nBy       defaultAction of network vlan100\n"},
	} {
		r := homeportctl(t, "", "policy", "simulate", "--manifests", dir, "--network", "vlan100", "--vm", c.vm, "--from", c.from, "--to", c.to)
		if r.Code != 0 || !strings.Contains(r.Stdout, "Verdict  "+c.want) || !strings.Contains(r.Stderr, "notice: "+dir) || !strings.Contains(r.Stderr, nobody) {
			t.Errorf("%s from %s to %s: %+v", c.vm, c.from, c.to, r)
		}
	}
	r := homeportctl(t, "", "policy", "compile", "--manifests", dir, "--network", "vlan100", "--vm", "shop/pg")
	if r.Code != 0 || !strings.Contains(r.Stdout, "10.100.0.21") || strings.Contains(r.Stdout, "quarantine") {
		t.Errorf("compile: %+v", r)
	}
	for name, c := range map[string]struct{ manifests, vm, want string }{
		"another namespace": {fleet, "lab/stray", `--vm "lab/stray": VLANNetwork vlan100 is not for pods of namespace "lab": give the namespace a label`},
		"another VM":        {fleet, "shop/gp", "no VirtualMachine, VirtualMachineInstance or VMIdentity of shop/gp: want one of lab/stray, shop/ns1, shop/old, shop/pg, shop/seen, shop/set, shop/web"},
		"a wrong field":     {strings.Replace(fleet, "direction: In", "direction: Inn", 1), "shop/pg", "site.yaml: FirewallPolicy db: spec.rules[0].direction: "},
		"an unknown field":  {strings.Replace(fleet, "action: Allow, direction", "act: Allow, direction", 1), "shop/pg", `FirewallPolicy db: unknown field "spec.rules[0].act"`},
		"an unknown kind":   {strings.Replace(fleet, "kind: FirewallPolicy", "kind: FirewalPolicy", 1), "shop/pg", "site.yaml:21: FirewalPolicy db: FirewalPolicy is no kind of this version: want VLANTrunk, "},
		"twice":             {fleet + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n", "shop/pg", "Namespace shop: is in "},
		"no name":           {strings.Replace(fleet, "metadata: {name: db}", "metadata: {}", 1), "shop/pg", "FirewallPolicy: metadata.name is missing"},
		"no YAML":           {fleet + "---\n{", "shop/pg", "the document that begins here cannot be read: "},
		"a field twice":     {fleet + "---\nkind: Namespace\nkind: Namespace\n", "shop/pg", "the document that begins here cannot be read: "},
		"no kind":           {fleet + "---\napiVersion: homeport.dev/v1alpha1\nmetadata: {name: x}\n", "shop/pg", ": x: \"\" is no kind of this version: want VLANTrunk, "},
		"a scalar":          {fleet + "---\nhello", "shop/pg", "the document that begins here cannot be read: "},
		"another network":   {strings.ReplaceAll(fleet, "name: vlan100", "name: vlan9"), "shop/pg", `--network "vlan100": no VLANNetwork in `},
	} {
		t.Run(name, func(t *testing.T) {
			r := homeportctl(t, "", "policy", "compile", "--manifests", manifests(t, c.manifests), "--network", "vlan100", "--vm", c.vm)
			if r.Code != 3 || r.Stdout != "" || !strings.Contains(r.Stderr, c.want) {
				t.Errorf("exit %d, want 3 and %q in:\n%s%s", r.Code, c.want, r.Stdout, r.Stderr)
			}
		})
	}
}
