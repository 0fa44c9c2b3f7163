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
