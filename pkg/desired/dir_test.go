package desired

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// The tests' manifests. Each is one document without its "---".
const (
	trunk0 = `apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: trunk0}
spec:
  bridge: {name: br-trunk0, managed: true}
  uplink: {interface: eth1, allowedVLANs: "100-110,200,4000", nativeVLAN: 1}
  mtu: 1500
  managementVLANs: "4000"
  inlineConfig: Allow
`
	vlan100 = `apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan100}
spec:
  trunk: trunk0
  vlan: {mode: Access, id: 100}
  mtu: 1500
  subnets: [{cidr: 10.100.0.0/24, gateway: 10.100.0.1}]
  defaultAction: Drop
`
	vlan200 = `apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan200}
spec:
  trunk: trunk0
  vlan: {id: 200}
  defaultAction: Allow
`
	web = `apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: web}
spec:
  category: Application
  order: 10
  appliedTo: [{network: vlan100}]
  rules:
  - id: 1001
    name: web from the old subnet
    action: Allow
    direction: In
    sources: [{cidr: 10.100.0.0/24}, {ip: 10.1.2.3}, {range: 10.0.0.5-10.0.0.9}]
    destinations: [{ip: 10.100.0.10}]
    services: [{protocol: TCP, ports: "80,8000-8010"}, {protocol: ICMP, types: [8]}, {protocol: ICMP, types: [3], codes: [4, 13]}]
  - {id: 1002, action: Drop, services: [{protocol: TCP, ports: "22"}]}
`
	everywhere = `apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: everywhere}
spec:
  category: Emergency
  appliedTo: [{any: true}]
  rules: [{id: 1, action: Drop, direction: Out, destinations: [{cidr: 2001:db8::/32}]}]
`
)

// docs joins documents into one file.
func docs(d ...string) string { return strings.Join(d, "---\n") }

// state is what a directory holds: file name -> content.
type state map[string]string

func good() state {
	return state{"trunk.yaml": trunk0, "networks.yml": docs(vlan100, vlan200), "policy.yaml": docs(web, everywhere)}
}

// with gives a copy with files changed; "" removes one.
func (s state) with(pairs ...string) state {
	out := state{}
	for k, v := range s {
		out[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			delete(out, pairs[i])
			continue
		}
		out[pairs[i]] = pairs[i+1]
	}
	return out
}

// put makes a directory hold just the state.
func (s state) put(tb testing.TB, dir string) {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := s[e.Name()]; !ok {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for name, content := range s {
		writeTo(tb, filepath.Join(dir, name), content)
	}
}

func writeTo(tb testing.TB, path, content string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// newDir gives a source of a directory that holds the state.
func newDir(tb testing.TB, s state) (*Dir, string) {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "manifests")
	s.put(tb, dir)
	return NewDir(dir, ""), dir
}

func mustLoad(tb testing.TB, d *Dir) *Snapshot {
	tb.Helper()
	s, err := d.Load()
	if err != nil {
		tb.Fatalf("Load: %v", err)
	}
	return s
}

// problems prints a snapshot's problems without the directory.
func problems(s *Snapshot, dir string) string {
	var b strings.Builder
	for _, p := range s.Problems {
		fmt.Fprintln(&b, strings.TrimPrefix(p.String(), dir+"/"))
	}
	return b.String()
}

func mustSet(tb testing.TB, s string) vlan.Set {
	tb.Helper()
	set, err := vlan.ParseSet(s)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

func addrs(first, last string) policy.AddrRange {
	return policy.AddrRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
}

func TestLoadGood(t *testing.T) {
	d, dir := newDir(t, good().with(".hidden.yaml", "no: [", "notes.txt", "also no", "old.yaml~", "x", "sub.yaml.bak", "y"))
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := mustLoad(t, d)
	if got := problems(s, dir); got != "" {
		t.Fatalf("problems:\n%s", got)
	}
	wantTrunk := Trunk{
		Name: "trunk0", Bridge: "br-trunk0", Managed: true, Uplink: "eth1",
		AllowedVLANs: mustSet(t, "100-110,200,4000"), NativeVLAN: 1, MTU: 1500,
		Management: mustSet(t, "4000"), InlineAllowed: true,
	}
	if got := s.Trunks["trunk0"]; !reflect.DeepEqual(got, wantTrunk) {
		t.Errorf("trunk\n got %+v\nwant %+v", got, wantTrunk)
	}
	wantNetwork := Network{
		Name: "vlan100", Trunk: "trunk0", Mode: vlan.Access, PVID: 100, MTU: 1500, Default: policy.Drop,
		Subnets: []Subnet{{CIDR: netip.MustParsePrefix("10.100.0.0/24"), Gateway: netip.MustParseAddr("10.100.0.1")}},
	}
	if got := s.Networks["vlan100"]; !reflect.DeepEqual(got, wantNetwork) {
		t.Errorf("network\n got %+v\nwant %+v", got, wantNetwork)
	}
	if s.Revision != 1 || len(s.Networks) != 2 || len(s.Policies) != 2 {
		t.Errorf("revision %d, %d networks, %d policies; want 1, 2, 2", s.Revision, len(s.Networks), len(s.Policies))
	}
}

// What a policy says of all its rules is in each.
func TestStateful(t *testing.T) {
	for text, want := range map[string]bool{"": false, "  stateful: true\n": false, "  stateful: false\n": true} {
		s := replay(state{"p.yaml": "apiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: p}\nspec:\n  category: Application\n" + text +
			"  appliedTo: [{any: true}]\n  rules: [{id: 1, action: Allow}, {id: 2, action: Drop}]\n"})
		if len(s.Policies) == 1 && s.Policies[0].Rules[0].Loose {
			t.Errorf("%q: is loose", text)
		}
		if len(s.Problems) > 0 || len(s.Policies) != 1 || s.Policies[0].Rules[0].Stateless != want || s.Policies[0].Rules[1].Stateless != want {
			t.Errorf("%q: %+v, %v", text, s.Policies, s.Problems)
		}
	}
}

// What sticky policies allow stays, and what is dropped in an emergency goes even so.
func TestSticky(t *testing.T) {
	for text, want := range map[string][3]bool{ // Allow, Drop, Reject
		"Application":                    {},
		"Application\n  sticky: true":    {true, false, false},
		"Application\n  sticky: false":   {},
		"Infrastructure\n  sticky: true": {true, false, false},
		"Emergency":                      {false, true, true},
		"Emergency\n  sticky: true":      {true, true, true},
		"Ethernet":                       {},
	} {
		s := replay(state{"p.yaml": "apiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: p}\nspec:\n  appliedTo: [{any: true}]\n" +
			"  rules: [{id: 1, action: Allow}, {id: 2, action: Drop}, {id: 3, action: Reject}]\n  category: " + text + "\n"})
		if text == "Ethernet" { // which has no Reject
			s = replay(state{"p.yaml": "apiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: p}\nspec:\n  appliedTo: [{any: true}]\n" +
				"  rules: [{id: 1, action: Allow}, {id: 2, action: Drop}, {id: 3, action: Drop}]\n  category: Ethernet\n"})
		}
		if len(s.Problems) > 0 || len(s.Policies) != 1 {
			t.Fatalf("%q: %v", text, s.Problems)
		}
		for i, r := range s.Policies[0].Rules {
			if r.Firm != want[i] {
				t.Errorf("%q: rule %v is firm: %v", text, r.Key, r.Firm)
			}
		}
	}
}

// TestTies: whose place in the order another policy has, at ports that both are for, is told; all are in force.
func TestTies(t *testing.T) {
	of := func(name, category, order, applied string) string {
		return "apiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: " + name + "}\nspec: {category: " + category + ", order: " + order + ", appliedTo: [" + applied + "], rules: [{id: 1, action: Allow}]}\n---\n"
	}
	const on100, on200, any = "{network: vlan100}", "{network: vlan200}", "{any: true}"
	tie := func(name, order, other string) string {
		return "p.yaml: FirewallPolicy " + name + ": spec.order: is " + order + ", as that of FirewallPolicy " + other + " in category Application, which is for the same ports: both are in force, judged by name, " + other + " first; want another order"
	}
	for name, c := range map[string]struct {
		policies string
		want     []string
	}{
		"one network":         {of("a", "Application", "7", on100) + of("b", "Application", "7", on200+","+on100), []string{tie("b", "7", "a")}},
		"other networks":      {of("a", "Application", "7", on100) + of("b", "Application", "7", on200), nil},
		"other orders":        {of("a", "Application", "7", on100) + of("b", "Application", "8", on100), nil},
		"no order":            {of("a", "Application", "0", on100) + of("b", "Application", "0", on100), nil},
		"other categories":    {of("a", "Application", "7", on100) + of("b", "Emergency", "7", on100), nil},
		"any, before":         {of("a", "Application", "7", any) + of("b", "Application", "7", on100), []string{tie("b", "7", "a")}},
		"any, behind":         {of("a", "Application", "7", on100) + of("b", "Application", "7", any), []string{tie("b", "7", "a")}},
		"three":               {of("a", "Application", "7", on100) + of("b", "Application", "7", on200) + of("c", "Application", "7", on200+","+on100), []string{tie("c", "7", "b")}},
		"twice, and far away": {of("a", "Application", "7", on100) + of("b", "Application", "9", on100) + of("c", "Application", "7", on100), []string{tie("c", "7", "a")}},
	} {
		d, _ := newDir(t, good().with("p.yaml", c.policies))
		s := mustLoad(t, d)
		var got []string
		for _, p := range s.Problems {
			p.File = filepath.Base(p.File)
			got = append(got, p.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestPolicySets(t *testing.T) {
	d, _ := newDir(t, good())
	emergency := policy.Rule{
		Key: policy.RuleKey{Policy: "everywhere", ID: 1}, Action: policy.Drop, Directions: policy.OnlyOut, Firm: true,
		Destinations: []policy.AddrRange{addrs("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")},
	}
	allow := policy.Rule{
		Key: policy.RuleKey{Policy: "web", ID: 1001}, Name: "web from the old subnet",
		Tier: 2, Action: policy.Allow, Directions: policy.OnlyIn,
		Sources: []policy.AddrRange{
			addrs("10.100.0.0", "10.100.0.255"), addrs("10.1.2.3", "10.1.2.3"), addrs("10.0.0.5", "10.0.0.9"),
		},
		Destinations: []policy.AddrRange{addrs("10.100.0.10", "10.100.0.10")},
		Services: []policy.Service{
			{Protocol: policy.TCP, First: 80, Last: 80}, {Protocol: policy.TCP, First: 8000, Last: 8010},
			{Protocol: policy.ICMP, First: 0x0800, Last: 0x08ff}, {Protocol: policy.ICMP, First: 0x0304, Last: 0x0304}, {Protocol: policy.ICMP, First: 0x030d, Last: 0x030d},
		},
	}
	drop := policy.Rule{
		Key: policy.RuleKey{Policy: "web", ID: 1002}, Tier: 2, Action: policy.Drop, Directions: policy.InOut,
		Services: []policy.Service{{Protocol: policy.TCP, First: 22, Last: 22}},
	}
	want := []policy.Set{
		{Network: "", Rules: []policy.Rule{emergency}, Default: policy.Drop},
		{Network: "vlan100", Rules: []policy.Rule{emergency, allow, drop}, Default: policy.Drop},
		{Network: "vlan200", Rules: []policy.Rule{emergency}, Default: policy.Allow},
	}
	if got := mustLoad(t, d).PolicySets(); !reflect.DeepEqual(got, want) {
		t.Errorf("policy sets\n got %+v\nwant %+v", got, want)
	}
}

// The order of judgement: category, order, name; not the order of files.
func TestPolicyOrder(t *testing.T) {
	make := func(name, category string, order int) string {
		return fmt.Sprintf("apiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: %s}\n"+
			"spec: {category: %s, order: %d, appliedTo: [{any: true}]}\n", name, category, order)
	}
	d, _ := newDir(t, state{
		"1.yaml": docs(make("f", "Application", 0), make("e", "Environment", 9), make("d", "Environment", 2)),
		"2.yaml": docs(make("c", "Environment", 2), make("b", "Infrastructure", 100), make("a", "Emergency", 999999)),
	})
	var got []string
	for _, p := range mustLoad(t, d).Policies {
		got = append(got, p.Name)
	}
	if want := []string{"a", "b", "c", "d", "e", "f"}; !reflect.DeepEqual(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// TestLoadUnchanged: files that nobody touched are not read again, and any touch is
// seen, also one that leaves size and time of modification as they were.
func TestLoadUnchanged(t *testing.T) {
	d, dir := newDir(t, good())
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("# nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	// What was read last was read long after the files were written.
	later := func() *Snapshot {
		t.Helper()
		s := mustLoad(t, d)
		d.read.begun = time.Now().Add(settled + time.Second)
		return s
	}
	s := later()
	if mustLoad(t, d) != s {
		t.Error("files that are as they were are read again")
	}
	touch := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		now := later()
		if now == s {
			t.Errorf("%s is not noticed", what)
		}
		s = now
	}
	touch("a link's target", func() error { return os.WriteFile(outside, []byte("# NOTHING\n"), 0o600) })
	touch("a time of modification that was set back", func() error {
		info, err := os.Stat(outside)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(outside, []byte("# nothing\n"), 0o600), os.Chtimes(outside, info.ModTime(), info.ModTime()))
	})
	touch("a note", func() error { d.note(Problem{Message: "said"}); return nil })
	if len(s.Problems) != 1 {
		t.Errorf("problems %v, want the note", s.Problems)
	}
	touch("a reading shortly after the files were written", func() error { d.read.begun = time.Now(); return nil })
	touch("an old reading", func() error { d.read.begun = time.Now().Add(-readAnyway); return nil })
	touch("a removed file", func() error { return os.Remove(filepath.Join(dir, "link.yaml")) })
	// What cannot be read is tried again, although its file stays as it is.
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := later(); mustLoad(t, d) == s || len(s.Problems) == 0 {
		t.Errorf("a file that cannot be read is not tried again, or not told: %v", s.Problems)
	}
}
