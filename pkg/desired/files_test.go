package desired

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Files that cannot be read keep their objects and hold up no others.
func TestUnreadableFiles(t *testing.T) {
	for name, c := range map[string]struct {
		replace func(path string) error
		want    string
	}{
		"link to nowhere": {func(path string) error { return os.Symlink("nowhere", path) }, "cannot be read: open "},
		"FIFO":            {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "cannot be read: want a regular file"},
		"too large": {func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("# long\n", maxFile/7+1)), 0o600)
		}, "cannot be read: is over 16777216 bytes: split it"},
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := newDir(t, good())
			mustLoad(t, d)
			path := filepath.Join(dir, "networks.yml")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := c.replace(path); err != nil {
				t.Fatal(err)
			}
			writeTo(t, filepath.Join(dir, "policy.yaml"), web)
			s := mustLoad(t, d)
			if got, want := inForce(s), strings.Replace(allIn, everyIn+" ", "", 1); got != want {
				t.Errorf("in force\n got %s\nwant %s", got, want)
			}
			if len(s.Problems) != 3 || !strings.Contains(problems(s, dir), "networks.yml: "+c.want) || !s.Problems[0].Kept {
				t.Errorf("problems, want %q:\n%s", c.want, problems(s, dir))
			}
		})
	}
}

func TestLineEndings(t *testing.T) {
	for name, text := range map[string]string{
		"CRLF": strings.ReplaceAll(docs(trunk0, vlan100, edit(vlan200, "id: 200", "id: 300")), "\n", "\r\n"),
		"BOM":  "\ufeff" + docs(trunk0, vlan100, edit(vlan200, "id: 200", "id: 300")),
		"tail": "---\n" + docs(trunk0, "", "# only words\n", vlan100, edit(vlan200, "id: 200", "id: 300")) + "---",
	} {
		t.Run(name, func(t *testing.T) {
			s := replay(state{"a.yaml": text})
			line := strings.Count(text[:strings.Index(text, "id: 300")], "\n") + 1
			if len(s.Problems) != 1 || s.Problems[0].Line != line || s.Problems[0].Field != "spec.vlan.id" || len(s.Networks) != 1 {
				t.Errorf("in force %s, problems %v; want one in line %d", inForce(s), s.Problems, line)
			}
		})
	}
}

func TestLookups(t *testing.T) {
	router := edit(edit(vlan200, "{name: vlan200}", "{name: router}"), "{id: 200}", `{mode: Native, id: 110, trunk: ["100-105", "200"]}`)
	s := replay(good().with("router.yaml", router))
	if len(s.Problems) > 0 {
		t.Fatal(s.Problems)
	}
	if n := s.Networks["router"]; n.Mode != vlan.Native || n.PVID != 110 || n.Tagged.String() != "100-105,200" {
		t.Errorf("router %+v", n)
	}
	for id, want := range map[vlan.ID]string{100: "vlan100", 110: "router", 101: "", 0: ""} {
		if n, ok := s.NetworkOfVLAN("trunk0", id); n.Name != want || ok != (want != "") {
			t.Errorf("NetworkOfVLAN(%d) = %q, %v; want %q", id, n.Name, ok, want)
		}
	}
	if n, ok := s.NetworkOfVLAN("trunk1", 100); ok {
		t.Errorf("VLAN of another trunk: %q", n.Name)
	}
	if tr, ok := s.TrunkOfBridge("br-trunk0"); !ok || tr.Name != "trunk0" {
		t.Errorf("TrunkOfBridge = %q, %v", tr.Name, ok)
	}
	if _, ok := s.TrunkOfBridge("br0"); ok {
		t.Error("a trunk for a bridge of nobody")
	}
}

// Any is nil, in all its spellings; a protocol without ports is all of them.
func TestAnyIsNil(t *testing.T) {
	s := replay(state{"p.yaml": `apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: p, labels: {a: ""}}
spec:
  category: Infrastructure
  appliedTo: [{any: true}]
  rules:
  - {id: 1, action: Allow}
  - {id: 2, action: Allow, sources: [{any: true}], destinations: [{any: true}], services: [{any: true}]}
  - {id: 3, action: Allow, services: [{protocol: UDP}, {protocol: ICMPv6}, {protocol: ICMP, types: [0, 255]}]}
  - {id: 4, action: Allow, services: [{protocol: TCP, ports: "80,90-91", sourcePorts: "1-9,20"}, {protocol: SCTP, sourcePorts: "7"}, {protocolNumber: 47}]}
`})
	if len(s.Problems) > 0 {
		t.Fatal(s.Problems)
	}
	rules := s.Policies[0].Rules
	for _, r := range rules[:2] {
		if r.Sources != nil || r.Destinations != nil || r.Services != nil || r.Directions != policy.InOut {
			t.Errorf("rule %d: %+v, want Any", r.Key.ID, r)
		}
	}
	want := []policy.Service{
		{Protocol: policy.UDP, First: 0, Last: 0xffff}, {Protocol: policy.ICMPv6, First: 0, Last: 0xffff},
		{Protocol: policy.ICMP, First: 0, Last: 0xff}, {Protocol: policy.ICMP, First: 0xff00, Last: 0xffff},
	}
	if diff := cmp.Diff(want, rules[2].Services); diff != "" {
		t.Error(diff)
	}
	texts := "tcp/80 from 1-9, tcp/90-91 from 1-9, tcp/80 from 20, tcp/90-91 from 20, sctp from 7, ip/47"
	if got := fmt.Sprint(rules[3].Services); got != "["+strings.ReplaceAll(texts, ",", "")+"]" {
		t.Errorf("services %s, want %s", got, texts)
	}
	if s.Policies[0].Networks != nil {
		t.Errorf("networks %v, want nil for Any", s.Policies[0].Networks)
	}
}
