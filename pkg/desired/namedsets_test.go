package desired

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// set is an AddressSet's manifest.
func set(name, spec string) string {
	return "apiVersion: homeport.dev/v1alpha1\nkind: AddressSet\nmetadata: {name: " + name + "}\nspec: {" + spec + "}\n"
}

const (
	frontSet = `addresses: [10.0.0.1, 10.0.0.2-10.0.0.9, "fd00::/64"], includes: [back]`
	byNames  = `apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: byname}
spec:
  category: Application
  appliedTo: [{network: vlan100}]
  rules:
  - {id: 7, action: Allow, sources: [{addressSet: front}, {ip: 10.9.9.9}], destinations: [{addressSet: back}]}
`
)

// withSets is the good state, and a policy that names sets.
func withSets(more ...string) state {
	return good().with(append([]string{"byname.yaml", byNames, "front.yaml", set("front", frontSet), "back.yaml", set("back", `addresses: ["10.0.0.10", "10.1.0.0/16"]`),
		"unused.yaml", set("unused", `addresses: ["1.1.1.1"]`)}, more...)...)
}

// TestAddressSets: rules name sets, and get their addresses with those included.
func TestAddressSets(t *testing.T) {
	d, dir := newDir(t, withSets())
	s := mustLoad(t, d)
	check := func(s *Snapshot, front string) {
		t.Helper()
		got := s.PolicySet("vlan100", PodRef{})
		i := slices.IndexFunc(got.Rules, func(r policy.Rule) bool { return r.Key.Policy == "byname" })
		if i < 0 || fmt.Sprint(got.Rules[i].SourceSets, got.Rules[i].DestinationSets, got.Rules[i].Sources) != "[front] [back] [10.9.9.9]" || got.Rules[i].Destinations != nil {
			t.Fatalf("rules %+v", got.Rules)
		}
		if text := fmt.Sprint(got.Lists); text != "map[back:[10.0.0.10 10.1.0.0/16] front:["+front+"]]" {
			t.Errorf("lists %s", text)
		}
		if other := s.PolicySet("vlan200", PodRef{}); other.Lists != nil {
			t.Errorf("vlan200 has lists that no rule there names: %v", other.Lists)
		}
		if _, ok := s.Sets["unused"]; ok || len(s.Sets) != 2 || len(s.Problems) != 0 {
			t.Errorf("sets %v, problems %v", s.Sets, s.Problems)
		}
	}
	const whole = "10.0.0.1-10.0.0.10 10.1.0.0/16 fd00::/64"
	check(s, whole)

	// It survives its file, as it does a restart.
	path := filepath.Join(t.TempDir(), "snapshot.json")
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	stored, err := LoadSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	check(stored, whole)

	// What is as it was is not made anew, and is no new revision.
	list := s.PolicySet("vlan100", PodRef{}).Lists["front"]
	withSets("unused.yaml", set("unused", `addresses: ["1.1.1.2"]`), "front.yaml",
		set("front", `includes: [back], addresses: ["fd00::/65", "fd00:0:0:0:8000::/65", "10.0.0.1-10.0.0.9"]`)).put(t, dir)
	next := mustLoad(t, d)
	if next.Revision != s.Revision || policy.IDOf(next.PolicySet("vlan100", PodRef{}).Lists["front"]) != policy.IDOf(list) {
		t.Errorf("the same addresses in other words: revision %d after %d", next.Revision, s.Revision)
	}
	withSets("back.yaml", set("back", `addresses: ["10.0.0.10", "10.1.0.0/16"], includes: [more]`), "more.yaml", set("more", "includes: [unused]")).put(t, dir)
	if next = mustLoad(t, d); next.Revision != s.Revision+1 || fmt.Sprint(next.PolicySet("vlan100", PodRef{}).Lists["back"]) != "[1.1.1.1 10.0.0.10 10.1.0.0/16]" {
		t.Errorf("one more include: revision %d after %d, %v", next.Revision, s.Revision, next.lists["back"])
	}
}

// serviceSet is a ServiceSet's manifest.
func serviceSet(name, spec string) string {
	return strings.Replace(set(name, spec), "AddressSet", "ServiceSet", 1)
}

const (
	serving = `apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: byservice}
spec:
  category: Application
  appliedTo: [{network: vlan100}]
  rules:
  - {id: 8, action: Allow, services: [{serviceSet: web}, {protocol: UDP, ports: "53"}]}
  - {id: 9, action: Allow, services: [{serviceSet: admin}, {serviceSet: web}]}
`
	adminServices = `services: [{protocol: TCP, ports: "22"}], includes: [web]`
	webServices   = `services: [{protocol: TCP, ports: "80,443"}, {protocolNumber: 47}]`
)

func withServiceSets(more ...string) state {
	return good().with(append([]string{"byservice.yaml", serving, "admin.yaml", serviceSet("admin", adminServices),
		"web.yaml", serviceSet("web", webServices), "unused.yaml", serviceSet("unused", `services: [{protocol: SCTP}]`)}, more...)...)
}

// TestServiceSets: rules name sets of services, which are kept as those of addresses are.
func TestServiceSets(t *testing.T) {
	d, dir := newDir(t, withServiceSets())
	s := mustLoad(t, d)
	const all = "map[admin:[tcp/22 tcp/80 tcp/443 ip/47] web:[tcp/80 tcp/443 ip/47]]"
	check := func(what string, s *Snapshot, want string) {
		t.Helper()
		got := s.PolicySet("vlan100", PodRef{})
		var rules []string
		for _, r := range got.Rules {
			if r.Key.Policy == "byservice" {
				rules = append(rules, fmt.Sprint(r.Key.ID, r.Services, r.Services == nil, r.ServiceSets))
			}
		}
		if text := fmt.Sprint(rules); text != "[8 [udp/53] false [web] 9 [] true [admin web]]" {
			t.Errorf("%s: rules %s", what, text)
		}
		if text := fmt.Sprint(got.ServiceLists); text != want {
			t.Errorf("%s: lists %s, want %s", what, text, want)
		}
		if other := s.PolicySet("vlan200", PodRef{}); other.ServiceLists != nil || len(s.ServiceSets) != 2 {
			t.Errorf("%s: vlan200 has %v, the snapshot %v", what, other.ServiceLists, s.ServiceSets)
		}
	}
	check("read", s, all)
	path := filepath.Join(t.TempDir(), "snapshot.json")
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	stored, err := LoadSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	check("stored", stored, all)
	delete(stored.ServiceSets, "web")
	stored.Expand()
	if lists := stored.PolicySet("vlan100", PodRef{}).ServiceLists; len(lists) != 0 {
		t.Errorf("a part is missing, but there are %v", lists)
	}

	for _, c := range []struct {
		name  string
		state state
		lists string
		want  string
	}{
		{"a new port", withServiceSets("web.yaml", serviceSet("web", `services: [{protocol: TCP, ports: "8080", sourcePorts: "1-9"}]`)),
			"map[admin:[tcp/22 tcp/8080 from 1-9] web:[tcp/8080 from 1-9]]", ""},
		{"a bad port", withServiceSets("web.yaml", serviceSet("web", `services: [{protocol: TCP, ports: "0"}]`)), all,
			`web.yaml:4: ServiceSet web: spec.services[0].ports: Invalid value: "0": want ports from 1 to 65535, as "80,443,8000-8010" (the last good version stays in force)` + "\n"},
		{"removed", withServiceSets("web.yaml", ""), all,
			"web.yaml: ServiceSet web: is gone, but ServiceSet admin includes it: take it out there first, or put the set back (the last good version stays in force)\n"},
		{"removed while a rule alone names it", withServiceSets("admin.yaml", ""), all,
			"admin.yaml: ServiceSet admin: is gone, but rule 9 of FirewallPolicy byservice names it: take it out there first, or put the set back (the last good version stays in force)\n"},
		{"a circle", withServiceSets("web.yaml", serviceSet("web", "includes: [admin]")), all,
			"web.yaml:4: ServiceSet web: spec.includes: goes in a circle: admin -> web -> admin: take one of these includes out (the last good version stays in force)\n"},
		{"an AddressSet of that name is another thing", withServiceSets("web.yaml", set("web", "")), all,
			"web.yaml: ServiceSet web: is gone, but ServiceSet admin includes it: take it out there first, or put the set back (the last good version stays in force)\n"},
	} {
		withServiceSets().put(t, dir)
		mustLoad(t, d)
		c.state.put(t, dir)
		s := mustLoad(t, d)
		check(c.name, s, c.lists)
		if got := problems(s, dir); got != c.want {
			t.Errorf("%s: problems\n got:\n%swant:\n%s", c.name, got, c.want)
		}
	}
}

func TestBadServiceSet(t *testing.T) {
	for _, c := range []badCase{
		{name: "services", content: serviceSet("s", `services: [{any: true}, {serviceSet: t}, {protocol: TCP, types: [1]}, {}, {protocol: UDP, ports: "80-70"}]`), want: `
more.yaml:4: ServiceSet s: spec.services[0].any: Forbidden: every service needs no set: leave services out of the rule
more.yaml:4: ServiceSet s: spec.services[1].serviceSet: Forbidden: want it in spec.includes
more.yaml:4: ServiceSet s: spec.services[2].types: Forbidden: TCP has ports: want ports, or protocol ICMP or ICMPv6
more.yaml:4: ServiceSet s: spec.services[3].protocol: Required value: want TCP, UDP, SCTP, ICMP or ICMPv6, or a protocolNumber
more.yaml:4: ServiceSet s: spec.services[4].ports: Invalid value: "80-70": is reversed: want 70-80
`},
		{name: "includes", content: serviceSet("s", `includes: [t, t]`), want: `
more.yaml:4: ServiceSet s: spec.includes[1]: Invalid value: "t": is also item 0: want it once
`},
		{name: "a missing one", content: serviceSet("s", `includes: [t]`), want: `
more.yaml:4: ServiceSet s: spec.includes: ServiceSet "t" does not exist: want one of s, or make it
`},
		{name: "a rule that names none", content: edit(serving, "appliedTo", "appliedTo"), want: `
more.yaml:8: FirewallPolicy byservice: spec.rules[0].services: rule 8: ServiceSet "web" does not exist: make it
`},
		{name: "beside other fields", content: edit(serving, "{serviceSet: web}, {", "{serviceSet: web, "), want: `
more.yaml:8: FirewallPolicy byservice: spec.rules[0].services[0].serviceSet: rule 8: Forbidden: is alone in its item: leave the other fields out, or move them to an item of their own
`},
	} {
		c.file = "more.yaml"
		t.Run(c.name, c.run)
	}
	many := strings.Repeat("{protocol: TCP}, ", v1alpha1.MaxSetServices) + "{protocol: UDP}"
	d, dir := newDir(t, good().with("more.yaml", serviceSet("s", "services: ["+many+"]")))
	if got := problems(mustLoad(t, d), dir); !strings.Contains(got, "spec.services: Too many: 257: must have at most 256 items: split them into sets that a further one includes") {
		t.Errorf("problems %s", got)
	}
}

// A list of which a part is missing is no list: what names it does not compile.
func TestPartOfSetMissing(t *testing.T) {
	d, _ := newDir(t, withSets())
	s := mustLoad(t, d)
	delete(s.Sets, "back")
	s.Expand()
	if lists := s.PolicySet("vlan100", PodRef{}).Lists; len(lists) != 0 {
		t.Errorf("lists %v", lists)
	}
}

func TestBadSet(t *testing.T) {
	many := strings.Repeat("x, ", 19) + "x"
	var manyText strings.Builder
	fmt.Fprintf(&manyText, "more.yaml:4: AddressSet s: spec.addresses: Invalid value: \"20 items\": 4 more items are wrong, too\n")
	for i := range 16 {
		fmt.Fprintf(&manyText, "more.yaml:4: AddressSet s: spec.addresses[%d]: Invalid value: \"x\": want an address as 10.1.2.3 or 2001:db8::1\n", i)
	}
	sorted := strings.SplitAfter(strings.TrimSuffix(manyText.String(), "\n"), "\n")
	slices.SortFunc(sorted, func(a, b string) int {
		return strings.Compare(strings.SplitN(a, ": ", 4)[2], strings.SplitN(b, ": ", 4)[2])
	})
	for i := range sorted {
		sorted[i] = strings.TrimSuffix(sorted[i], "\n")
	}
	for _, c := range []badCase{
		{name: "addresses", content: set("s", `addresses: ["10.0.0.1/8", ten, "10.0.0.9-10.0.0.1", "10.0.0.1-fd00::1", "1.1.1.1", "1.1.1.1"]`), want: `
more.yaml:4: AddressSet s: spec.addresses[0]: Invalid value: "10.0.0.1/8": has host bits set: want 10.0.0.0/8, or 10.0.0.1/32 for the one address
more.yaml:4: AddressSet s: spec.addresses[1]: Invalid value: "ten": want an address as 10.1.2.3 or 2001:db8::1
more.yaml:4: AddressSet s: spec.addresses[2]: Invalid value: "10.0.0.9-10.0.0.1": is reversed: want 10.0.0.1-10.0.0.9
more.yaml:4: AddressSet s: spec.addresses[3]: Invalid value: "10.0.0.1-fd00::1": mixes IPv4 and IPv6: want both ends of one family
more.yaml:4: AddressSet s: spec.addresses[5]: Invalid value: "1.1.1.1": is also item 4: want it once
`},
		{name: "many wrong ones", content: set("s", "addresses: ["+many+"]"), want: strings.Join(sorted, "\n") + "\n"},
		{name: "too many", content: set("s", "includes: [a"+strings.Repeat(", a", v1alpha1.MaxSetIncludes)+"]"), want: ""},
		{name: "includes itself", content: set("s", "includes: [s]"), want: `
more.yaml:4: AddressSet s: spec.includes: goes in a circle: s -> s: take one of these includes out
`},
		{name: "a circle", content: docs(set("a", "includes: [b]"), set("b", "includes: [c]"), set("c", "includes: [a]"), set("d", "includes: [a]")), want: `
more.yaml:4: AddressSet a: spec.includes: goes in a circle: a -> b -> c -> a: take one of these includes out
more.yaml:9: AddressSet b: spec.includes: goes in a circle: a -> b -> c -> a: take one of these includes out
more.yaml:14: AddressSet c: spec.includes: goes in a circle: a -> b -> c -> a: take one of these includes out
more.yaml:19: AddressSet d: spec.includes: AddressSet a is not in force: correct it
`},
		{name: "a missing one", content: set("s", "includes: [gone]"), want: `
more.yaml:4: AddressSet s: spec.includes: AddressSet "gone" does not exist: want one of s, or make it
`},
		{name: "unknown field", content: set("s", "address: [1.1.1.1]"), want: `
more.yaml:4: AddressSet s: spec.address: unknown field: want one of addresses, includes
`},
		{name: "a rule that names none", content: edit(byNames, "back}", "nobody}"), want: `
more.yaml:8: FirewallPolicy byname: spec.rules[0].sources: rule 7: AddressSet "front" does not exist: make it
`},
		{name: "a rule that names a bad one", content: docs(edit(byNames, "front}", "back}"), set("back", "addresses: [x]")), want: `
more.yaml:8: FirewallPolicy byname: spec.rules[0].sources: rule 7: AddressSet back is not in force: correct it
more.yaml:13: AddressSet back: spec.addresses[0]: Invalid value: "x": want an address as 10.1.2.3 or 2001:db8::1
`},
		{name: "a set and an address in one item", content: docs(edit(byNames, "{addressSet: front}", "{addressSet: back, ip: 10.0.0.1}"), set("back", "")), want: `
more.yaml:8: FirewallPolicy byname: spec.rules[0].sources[0]: rule 7: Forbidden: has 2 fields: want exactly one of ip, cidr, range, addressSet, network, mac and any: true
`},
	} {
		c.file = "more.yaml"
		if c.name == "too many" {
			t.Run(c.name, func(t *testing.T) {
				d, dir := newDir(t, c.base().with(c.file, c.content))
				if got := problems(mustLoad(t, d), dir); !strings.Contains(got, "spec.includes: Too many: 257: must have at most 256 items: include sets that include them") {
					t.Errorf("problems %s", got)
				}
			})
			continue
		}
		t.Run(c.name, c.run)
	}
}

// TestSetLevels: sets include others 16 levels deep. Of more levels the set that goes
// over is refused, and whatever includes it.
func TestSetLevels(t *testing.T) {
	levels := func(n int) string {
		all := []string{set("s01", `addresses: ["1.1.1.1"]`)}
		for i := 2; i <= n; i++ {
			all = append(all, set(fmt.Sprintf("s%02d", i), fmt.Sprintf("includes: [s%02d]", i-1)))
		}
		return docs(all...)
	}
	d, _ := newDir(t, good().with("sets.yaml", levels(25)))
	var got []string
	for _, p := range mustLoad(t, d).Problems {
		got = append(got, p.Name+" "+p.Message)
	}
	want := `AddressSet s16 is not in force: correct it`
	if len(got) != 9 || !strings.HasPrefix(got[0], "s17 is one of 17 levels of sets, s17 -> s16 -> ") || !strings.HasSuffix(got[0], "-> s01: want at most 16: include the last ones directly") ||
		got[1] != strings.Replace("s18 "+want, "s16", "s17", 1) {
		t.Errorf("25 levels: %q", got)
	}
	if s, _ := newDir(t, good().with("sets.yaml", levels(16), "byname.yaml", edit(edit(byNames, "front", "s16"), "back", "s01"))); len(mustLoad(t, s).Problems) > 0 {
		t.Errorf("16 levels: %v", mustLoad(t, s).Problems)
	}
	// The one that makes the chain too long, when it is not the first.
	deep := good().with("sets.yaml", levels(16), "byname.yaml", edit(edit(byNames, "front", "s16"), "back", "s01"))
	d, dir := newDir(t, deep)
	mustLoad(t, d)
	deep.with("sets.yaml", strings.Replace(levels(16), `addresses: ["1.1.1.1"]`, "includes: [s00]", 1), "more.yaml", set("s00", "")).put(t, dir)
	if got := problems(mustLoad(t, d), dir); !strings.Contains(got, "AddressSet s01: spec.includes: is one of 17 levels of sets, s16 -> s15") || !strings.Contains(got, "(the last good version stays in force)") {
		t.Errorf("one more below 16 levels: %s", got)
	}
}

// TestLastGoodSets: what is in force of sets stays when it is to become something that
// cannot be, and a set stays while it is named.
func TestLastGoodSets(t *testing.T) {
	const front, back = "[10.0.0.1-10.0.0.10 10.1.0.0/16 fd00::/64]", "[10.0.0.10 10.1.0.0/16]"
	kept := " (the last good version stays in force)\n"
	for _, c := range []struct {
		name        string
		state       state
		front, back string // the lists that are in force then; "" is that no rule names it
		want        string
	}{
		{"a bad address", withSets("back.yaml", set("back", "addresses: [x]")), front, back,
			`back.yaml:4: AddressSet back: spec.addresses[0]: Invalid value: "x": want an address as 10.1.2.3 or 2001:db8::1` + kept},
		{"a set removed that a rule names", withSets("back.yaml", ""), front, back,
			"back.yaml: AddressSet back: is gone, but AddressSet front includes it: take it out there first, or put the set back" + kept},
		{"a set removed that only a rule names", withSets("front.yaml", ""), front, back,
			"front.yaml: AddressSet front: is gone, but rule 7 of FirewallPolicy byname names it: take it out there first, or put the set back" + kept},
		{"sets removed with what names them", withSets("front.yaml", "", "back.yaml", "", "byname.yaml", ""), "", "", ""},
		{"a set removed that is not included any more", withSets("front.yaml", set("front", "addresses: [1.1.1.1]"), "back.yaml", "",
			"byname.yaml", edit(byNames, "back}", "front}")), "[1.1.1.1]", "", ""},
		{"a set removed with a policy that is refused", withSets("front.yaml", "", "byname.yaml",
			edit(edit(byNames, "front}", "back}"), "vlan100", "vlan999")), front, back,
			`byname.yaml:6: FirewallPolicy byname: spec.appliedTo[0].network: VLANNetwork "vlan999" does not exist: want one of vlan100, vlan200, or make it` + kept +
				"front.yaml: AddressSet front: is gone, but rule 7 of FirewallPolicy byname names it: take it out there first, or put the set back" + kept},
		{"a circle", withSets("back.yaml", set("back", "includes: [front]")), front, back,
			"back.yaml:4: AddressSet back: spec.includes: goes in a circle: back -> front -> back: take one of these includes out" + kept},
		{"a circle, and an address in one of it", withSets("back.yaml", set("back", "includes: [front]"), "front.yaml",
			set("front", `addresses: [10.0.0.1, 10.0.0.2-10.0.0.9, "fd00::/64", 1.1.1.1], includes: [back]`)), "[1.1.1.1 10.0.0.1-10.0.0.10 10.1.0.0/16 fd00::/64]", back,
			"back.yaml:4: AddressSet back: spec.includes: goes in a circle: back -> front -> back: take one of these includes out" + kept},
		{"a rule that names a set that is not there", withSets("byname.yaml", edit(byNames, "back}", "nobody}")), front, back,
			`byname.yaml:8: FirewallPolicy byname: spec.rules[0].destinations: rule 7: AddressSet "nobody" does not exist: want one of back, front, unused, or make it` + kept},
		{"a set emptied", withSets("back.yaml", set("back", "")), "[10.0.0.1-10.0.0.9 fd00::/64]", "[]", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, dir := newDir(t, withSets())
			mustLoad(t, d)
			c.state.put(t, dir)
			s := mustLoad(t, d)
			lists := s.PolicySet("vlan100", PodRef{}).Lists
			text := func(name string) string {
				list, ok := lists[name]
				if !ok {
					return ""
				}
				return fmt.Sprint(list)
			}
			if text("front") != c.front || text("back") != c.back {
				t.Errorf("in force: front %s, back %s; want %s, %s", text("front"), text("back"), c.front, c.back)
			}
			if got := problems(s, dir); got != c.want {
				t.Errorf("problems\n got:\n%swant:\n%s", got, c.want)
			}
			withSets().put(t, dir)
			if s := mustLoad(t, d); len(s.Problems) > 0 || fmt.Sprint(s.lists["front"].ranges) != front {
				t.Errorf("after repair: %v", s.Problems)
			}
		})
	}
}

// TestTooManyLines: a rule that asks for source and destination ports in several
// combinations counts once for each, here as on the nodes that refuse it.
func TestTooManyLines(t *testing.T) {
	rules := make([]policy.Rule, 4000)
	for i := range rules {
		rules[i] = policy.Rule{Key: policy.RuleKey{Policy: "p", ID: uint32(i + 1)}, Directions: policy.InOut, ServiceSets: []string{"pairs"}}
	}
	judge := func(pairs int) []Problem {
		s := &Snapshot{Networks: map[string]Network{"lan": {Name: "lan"}}, Policies: []Policy{{Name: "p", Networks: []string{"lan"}, Rules: rules}}}
		list := []policy.Service{}
		for i := range uint16(pairs) {
			list = append(list, policy.Service{Protocol: policy.TCP, First: 80 + i, Last: 80 + i, SourceFirst: 1000 + i, SourceLast: 1000 + i})
		}
		s.useSets(func(k key) any { return ServiceSet{Name: "pairs", Services: list} }, nil)
		return s.overfull()
	}
	if p := judge(3); len(p) > 0 {
		t.Errorf("12,000: %v", p)
	}
	if p := judge(4); len(p) != 1 || p[0].Name != "p" || !strings.Contains(p[0].Message, "it brings VLANNetwork lan to 12289 rules, but a network can have 12288") {
		t.Errorf("16,000: %v", p)
	}
}

// TestFutileServiceSets: a policy whose rules would match nothing by a ServiceSet, for it has what
// the other kind of rules is about, is refused; if the set comes to that later, it is told.
func TestFutileServiceSets(t *testing.T) {
	frames := func(name string) string {
		return strings.Replace(`apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: frames}
spec:
  category: Ethernet
  appliedTo: [{network: vlan100}]
  rules:
  - {id: 3, action: Drop, services: [{serviceSet: NAME}]}
`, "NAME", name, 1)
	}
	ether, mixed, empty := serviceSet("ether", `services: [{etherType: LLDP}]`), serviceSet("mixed", `services: [{protocol: TCP}], includes: [ether]`), serviceSet("empty", "")
	d, dir := newDir(t, withServiceSets("ether.yaml", docs(ether, mixed, empty)))
	load := func(want string, frames int, files ...string) {
		t.Helper()
		withServiceSets("ether.yaml", docs(ether, mixed, empty)).with(files...).put(t, dir)
		snap := mustLoad(t, d)
		if got := strings.TrimSpace(problems(snap, dir)); got != want {
			t.Errorf("problems\n%s\nwant\n%s", got, want)
		}
		set := snap.PolicySet("vlan100", PodRef{})
		n := 0
		for _, r := range set.Rules {
			if r.Ethernet {
				n++
			}
		}
		if n != frames {
			t.Errorf("%d Ethernet rules are in force, want %d", n, frames)
		}
	}
	load("", 0)
	load(`frames.yaml:8: FirewallPolicy frames: spec.rules[0].services: rule 3: ServiceSet web has no etherType, which is all that Ethernet rules look at: add one to the set, or name another`, 0,
		"frames.yaml", frames("web"))
	load("", 1, "frames.yaml", frames("mixed"))
	load("", 1, "frames.yaml", frames("empty"))
	load(`byservice.yaml:8: FirewallPolicy byservice: spec.rules[0].services: rule 8: ServiceSet ether has EtherTypes alone, which are of category Ethernet: add what the rule is about to the set, or name another (the last good version stays in force)`, 1,
		"frames.yaml", frames("ether"), "byservice.yaml", edit(serving, "[{serviceSet: web}, {protocol", "[{serviceSet: ether}, {protocol"))
	load(`frames.yaml:8: FirewallPolicy frames: spec.rules[0].services: rule 3: ServiceSet ether has no etherType, which is all that Ethernet rules look at: add one to the set, or name another (the last good version stays in force)`, 1,
		"frames.yaml", frames("ether"), "ether.yaml", docs(serviceSet("ether", `services: [{protocol: UDP}]`), mixed, empty))
}
