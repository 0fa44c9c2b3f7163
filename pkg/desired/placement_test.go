package desired

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// fromYAML is an object as the API server sends it.
func fromYAML(tb testing.TB, kind, name, spec string) *unstructured.Unstructured {
	tb.Helper()
	u := unstructuredOf(v1alpha1.GroupVersion.WithKind(kind))
	if err := yaml.Unmarshal([]byte(fmt.Sprintf("metadata: {name: %s, uid: %s-%s, generation: 1}\nspec: %s\n", name, kind, name, spec)), &u.Object); err != nil {
		tb.Fatal(err)
	}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	return u
}

func TestDecodeObject(t *testing.T) {
	for name, tt := range map[string]struct{ kind, spec, want string }{
		"a field of a later version": {"VLANNetwork", `{trunk: t, vlan: {id: 1, stag: 7}, defaultAction: Drop}`,
			`VLANNetwork x: unknown field "spec.vlan.stag": agents of this version do not know it: bring them up to date, or leave the field out`},
		"another type": {"VLANTrunk", `{bridge: {name: 7}}`, `want what kubectl explain vlantrunk says`},
		"refused by us": {"VLANNetwork", `{trunk: t, vlan: {id: 1}, defaultAction: Drop, addressing: {limit: 0}}`,
			`spec.addressing.limit: Invalid value: 0: want 1 to 128 addresses, or leave it out for 16`},
		"rules that clash": {"FirewallPolicy", `{category: Application, appliedTo: [{any: true}], rules: [{id: 1, action: Drop}, {id: 1, action: Allow}]}`,
			`spec.rules[1].id: rule 1: Duplicate value: 1`},
	} {
		d := decodeObject(fromYAML(t, tt.kind, "x", tt.spec))
		if d.value != nil || len(d.problems) != 1 || !strings.Contains(d.problems[0].String(), tt.want) {
			t.Errorf("%s: %v, want %q", name, d.problems, tt.want)
		}
	}
	d := decodeObject(fromYAML(t, "VLANTrunk", "t", `{nodeSelector: {rack: r1}, advertiseResource: true, bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1"}}`))
	if v, ok := d.value.(Trunk); !ok || !v.Resource || d.nodes["rack"] != "r1" || d.problems != nil {
		t.Errorf("got %+v", d)
	}
}

// The node is in rack r1; objects of others are not proposed to it, nor do they
// widen a policy that names them.
func TestPlacement(t *testing.T) {
	const policy = `{category: Application, appliedTo: %s, rules: []}`
	objects := []*unstructured.Unstructured{
		fromYAML(t, "VLANTrunk", "here", `{nodeSelector: {rack: r1}, bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1-9"}}`),
		fromYAML(t, "VLANTrunk", "there", `{nodeSelector: {rack: r2}, bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1-9"}}`),
		fromYAML(t, "VLANNetwork", "a", `{trunk: here, vlan: {id: 1}, defaultAction: Drop, namespaces: {matchLabels: {team: x}}}`),
		fromYAML(t, "VLANNetwork", "all", `{trunk: here, vlan: {id: 2}, defaultAction: Drop, namespaces: {}}`),
		fromYAML(t, "VLANNetwork", "bad", `{trunk: here, vlan: {id: 3}, defaultAction: Drop, namespaces: {matchExpressions: [{key: k, operator: Nor}]}}`),
		fromYAML(t, "VLANNetwork", "far", `{trunk: there, vlan: {id: 1}, defaultAction: Drop, subnets: [{cidr: 10.7.0.0/24}]}`),
		fromYAML(t, "VLANNetwork", "far-bare", `{trunk: there, vlan: {id: 2}, defaultAction: Drop}`),
		fromYAML(t, "VLANNetwork", "none", `{trunk: here, vlan: {id: 4}, defaultAction: Drop}`),
		fromYAML(t, "FirewallPolicy", "any", fmt.Sprintf(policy, `[{any: true}]`)),
		fromYAML(t, "FirewallPolicy", "both", fmt.Sprintf(policy, `[{network: a}, {network: far}]`)),
		fromYAML(t, "FirewallPolicy", "far-only", fmt.Sprintf(policy, `[{network: far}]`)),
		fromYAML(t, "FirewallPolicy", "far-nic", fmt.Sprintf(policy, `[{network: far, vm: {}}]`)),
		fromYAML(t, "FirewallPolicy", "far-and-set", fmt.Sprintf(policy, `[{network: far}, {network: far, vm: {}}, {addressSet: s}]`)),
		fromYAML(t, "FirewallPolicy", "nics", fmt.Sprintf(policy, `[{network: far, vm: {}}, {network: a, vm: {}}]`)),
	}
	p := placement{node: map[string]string{"rack": "r1"}, elsewhere: map[key]bool{}, far: map[string]string{}, namespaces: []metav1.PartialObjectMetadata{
		{ObjectMeta: metav1.ObjectMeta{Name: "y", Labels: map[string]string{"team": "y"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "x2", Labels: map[string]string{"team": "x"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "x1", Labels: map[string]string{"team": "x"}}},
	}}
	var m manifest
	for _, u := range objects {
		p.place(&m, decodeObject(u))
	}
	got := map[string]any{}
	for _, o := range m.objects {
		switch v := o.value.(type) {
		case Network:
			got[o.Name] = v.Namespaces
		case Policy:
			got[o.Name] = v.Networks
			if len(v.NICs)+len(v.AddressSets) > 0 {
				got[o.Name] = fmt.Sprint(v.Networks, v.NICs, v.AddressSets)
			}
		case AddressSet:
			got[o.Name] = fmt.Sprint(v.Ranges)
		default:
			got[o.Name] = v != nil
		}
	}
	want := map[string]any{"here": true, "a": []string{"x1", "x2"}, "all": []string(nil), "bad": false, "none": []string{},
		"any": []string(nil), "both": []string{"a"},
		"far-and-set": "[] [] [s]", "nics": "[] [{a }] []", "VLANNetwork far": "[10.7.0.0/24]"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("for this node (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]string{"far": "there", "far-bare": "there"}, p.far); d != "" {
		t.Errorf("for others (-want +got):\n%s", d)
	}
	if len(m.problems) != 1 || m.problems[0].Field != "spec.namespaces" || m.problems[0].Name != "bad" {
		t.Errorf("problems %v", m.problems)
	}
}

func TestVerdict(t *testing.T) {
	for code, want := range map[int]string{200: "", 410: "", 429: "", 401: "token has expired", 403: "ClusterRole", 404: "apply its CRD", 500: "answers 500 oops"} {
		err := verdict(&http.Response{StatusCode: code, Status: fmt.Sprint(code, " oops")}, nil)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %q", code, err, want)
		}
	}
	if err := verdict(nil, errors.New("connection refused")); err == nil || !strings.Contains(err.Error(), "cannot be reached: connection refused") {
		t.Error(err)
	}
}

// TestJudge: the controller, which is on no node, finds what takes two objects.
func TestJudge(t *testing.T) {
	trunk := `{nodeSelector: {rack: %s}, bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1-9"}}`
	problems := Judge([]unstructured.Unstructured{
		*fromYAML(t, "FirewallPolicy", "lost", `{category: Application, appliedTo: [{network: none}], rules: []}`),
		*fromYAML(t, "VLANNetwork", "a", `{trunk: t1, vlan: {id: 1}, defaultAction: Drop}`),
		*fromYAML(t, "VLANNetwork", "b", `{trunk: t1, vlan: {id: 1}, defaultAction: Drop}`),
		*fromYAML(t, "VLANNetwork", "c", `{trunk: t1, vlan: {id: 10}, defaultAction: Drop}`),
		*fromYAML(t, "VLANNetwork", "d", `{trunk: t3, vlan: {id: 1}, defaultAction: Drop}`),
		*fromYAML(t, "VLANNetwork", "e", `{trunk: t2, vlan: {id: 1}, defaultAction: Drop}`),
		*fromYAML(t, "VLANTrunk", "t1", fmt.Sprintf(trunk, "r1")),
		*fromYAML(t, "VLANTrunk", "t2", fmt.Sprintf(trunk, "r2")),
	})
	var got []string
	for _, p := range problems {
		got = append(got, p.Name+" "+p.Field)
	}
	slices.Sort(got)
	want := []string{"a spec.vlan.id", "b spec.vlan.id", "c spec.vlan.id", "d spec.trunk", "lost spec.appliedTo[0].network"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("problems (-want +got):\n%s\n%v", d, problems)
	}
}

// TestJudgeCountsRules: the policy that brings a network over what it can have is
// refused, by the order of judgement and not that of names, and those after it.
func TestJudgeCountsRules(t *testing.T) {
	policy := func(name, category string, rules int, appliedTo string) unstructured.Unstructured {
		var list []string
		for i := range rules {
			list = append(list, fmt.Sprintf("{id: %d, action: Drop}", i+1))
		}
		return *fromYAML(t, "FirewallPolicy", name, fmt.Sprintf(`{category: %s, appliedTo: [%s], rules: [%s]}`, category, appliedTo, strings.Join(list, ",")))
	}
	const most = compile.RulesMax
	const lan, wan, all, vms = "{network: lan}", "{network: wan}", "{any: true}", "{vm: {matchLabels: {a: b}}}"
	for name, tt := range map[string]struct {
		policies []unstructured.Unstructured
		want     string // policies, and what their messages say
	}{
		"as many as there can be": {[]unstructured.Unstructured{policy("a", "Application", most, lan), policy("b", "Application", most, wan)}, ""},
		"one too many":            {[]unstructured.Unstructured{policy("a", "Application", most+1, lan)}, "a: VLANNetwork lan to 12289 rules, but a network can have 12288"},
		"the last in the order": {[]unstructured.Unstructured{policy("a", "Application", most-100, lan), policy("z", "Emergency", 101, lan)},
			"a: VLANNetwork lan to 12289 rules"},
		"and those after it": {[]unstructured.Unstructured{policy("a", "Application", most, lan), policy("b", "Application", 1, lan), policy("c", "Application", 1, lan), policy("none", "Application", 0, lan)},
			"b: VLANNetwork lan to 12289 rules|c: VLANNetwork lan to 12290 rules"},
		"on one of two networks": {[]unstructured.Unstructured{policy("a", "Application", most, lan), policy("b", "Application", 1, lan+","+wan)}, "b: VLANNetwork lan to 12289 rules, but"},
		"applied to all":         {[]unstructured.Unstructured{policy("a", "Application", most, lan), policy("b", "Application", 1, all)}, "b: VLANNetwork lan to 12289 rules, but"},
		"ports without a network": {[]unstructured.Unstructured{policy("a", "Application", most+1, all)},
			"a: ports without a VLANNetwork to 12289 rules, VLANNetwork lan to 12289 rules, VLANNetwork wan to 12289 rules, but"},
		"by label": {[]unstructured.Unstructured{policy("a", "Application", most, lan), policy("b", "Application", most+1, vms)}, ""},
		"a refused one counts for nothing": {[]unstructured.Unstructured{policy("a", "Emergency", most-100, lan+",{network: none}"), policy("b", "Application", most-100, lan)},
			`a: VLANNetwork "none" does not exist`},
	} {
		var got []string
		for _, p := range Judge(append(tt.policies,
			*fromYAML(t, "VLANNetwork", "lan", `{trunk: t1, vlan: {id: 1}, defaultAction: Drop}`),
			*fromYAML(t, "VLANNetwork", "wan", `{trunk: t1, vlan: {id: 2}, defaultAction: Drop}`),
			*fromYAML(t, "VLANTrunk", "t1", `{bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1-9"}}`))) {
			if p.Kind != "FirewallPolicy" {
				t.Errorf("%s: %s is blamed, not a policy", name, p)
			}
			got = append(got, p.Name+": "+p.Message)
		}
		slices.Sort(got)
		want := strings.Split(tt.want, "|")
		if tt.want == "" {
			want = nil
		}
		same := len(got) == len(want)
		for i := range want {
			who, says, _ := strings.Cut(want[i], ": ")
			same = same && strings.HasPrefix(got[i], who+": ") && strings.Contains(got[i], says)
		}
		if !same {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// A VM whose address may be unknown is not excluded by label, and frames know no VM's address.
func TestMisplacedVMs(t *testing.T) {
	for spec, want := range map[string]string{
		`{category: Application, appliedTo: [{any: true}], rules: [{id: 1, action: Allow,
		sources: [{ip: 1.1.1.1}, {vm: {}}], sourcesExcluded: true, destinations: [{vm: {}}]}]}`: "[: FirewallPolicy p: spec.rules[0].sources[1].vm: rule 1: Forbidden: a VM whose address is not known would not be excluded: name it by ip, or take it out]",
		`{category: Ethernet, appliedTo: [{any: true}], rules: [{id: 1, action: Allow, sources: [{vm: {}}]}]}`: "[: FirewallPolicy p: spec.rules[0].sources[0].vm: rule 1: Forbidden: is addresses, and frames have MACs: name it by mac]",
	} {
		d := decodeObject(fromYAML(t, "FirewallPolicy", "p", spec))
		if got := fmt.Sprint(d.problems); d.value != nil || got != want {
			t.Errorf("%v, %s; want %s", d.value, got, want)
		}
	}
}

// TestVMPeers: addresses take the places of labels, and nothing else changes.
func TestVMPeers(t *testing.T) {
	holders := []holder{
		{name: "a/x", namespace: "a", vm: "x", labels: map[string]string{"app": "x"}, addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")}},
		{name: "a/y", namespace: "a", vm: "y", labels: map[string]string{"app": "yy"}},
		{name: "b/z", namespace: "b", vm: "z", labels: map[string]string{"app": "mine", "kubernetes.io/metadata.name": "a"}, addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}},
		{name: "a/x2", pod: "x2", labels: map[string]string{"app": "x"}, addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}, // no VM
		{name: "a/p", pod: "p", labels: map[string]string{"app": "pod"}, addresses: []netip.Addr{netip.MustParseAddr("10.0.0.8")}},
	}
	const x, y = `{vm: {matchLabels: {app: x}}}`, `{vm: {matchLabels: {app: yy}}}`
	for name, tt := range map[string]struct{ rule, want, notice string }{
		"found":              {`sources: [` + x + `]`, "[10.0.0.1 10.0.0.2] []", ""},
		"beside others":      {`sources: [{ip: 9.9.9.9}, ` + x + `, {ip: 8.8.8.8}]`, "[9.9.9.9 8.8.8.8 10.0.0.1 10.0.0.2] []", ""},
		"unknown":            {`sources: [` + y + `]`, "nobody []", "spec.rules[0].sources[0].vm: does not match a/y: no address of theirs is known"},
		"unknown and others": {`destinations: [` + y + `, {ip: 8.8.8.8}]`, "[] [8.8.8.8]", "spec.rules[0].destinations[0].vm: does not match a/y"},
		"one of two lists":   {`sources: [` + x + `], destinations: [` + y + `]`, "[10.0.0.1 10.0.0.2] nobody", "spec.rules[0].destinations[0].vm"},
		"everything":         {`sources: [{vm: {}}]`, "[10.0.0.1 10.0.0.2 10.0.0.7] []", "does not match a/y"},
		"of a namespace":     {`sources: [{vm: {matchLabels: {kubernetes.io/metadata.name: b}}}]`, "[10.0.0.7] []", ""},
		"of a namespace that it only says to be of": {`sources: [{vm: {matchLabels: {app: mine, kubernetes.io/metadata.name: a}}}]`, "nobody []", "selects no VM now, and so matches nothing"},
		"a set beside":       {`sources: [{addressSet: a}, ` + x + `, {addressSet: b}, {ip: 8.8.8.8}]`, "[8.8.8.8 10.0.0.1 10.0.0.2] []", ""},
		"behind a set":       {`sources: [{addressSet: a}, ` + y + `]`, "nobody []", "spec.rules[0].sources[1].vm: does not match a/y"},
		"nobody":             {`sources: [{vm: {matchLabels: {app: z}}}]`, "nobody []", "selects no VM now, and so matches nothing"},
		"a pod without a VM": {`sources: [{vm: {matchLabels: {app: pod}}}]`, "nobody []", "selects no VM now, and so matches nothing"},
	} {
		d := decodeObject(fromYAML(t, "FirewallPolicy", "p", `{category: Application, appliedTo: [{any: true}], rules: [{id: 1, action: Drop, `+tt.rule+`}]}`))
		if len(d.problems) > 0 {
			t.Fatalf("%s: %v", name, d.problems)
		}
		before := fmt.Sprint(d.value)
		p, notices := putVMPeers(d.value.(Policy), d.vms, holders)
		text := func(list []policy.AddrRange) string {
			if list != nil && len(list) == 0 {
				return "nobody"
			}
			out := []string{}
			for _, r := range list {
				out = append(out, r.First.String())
			}
			return fmt.Sprint(out)
		}
		got := text(p.Rules[0].Sources) + " " + text(p.Rules[0].Destinations)
		if got != tt.want || (len(notices) == 0) != (tt.notice == "") || len(notices) > 0 && !strings.Contains(notices[0].String(), tt.notice) {
			t.Errorf("%s: %s, %v; want %s, %q", name, got, notices, tt.want, tt.notice)
		}
		if fmt.Sprint(d.value) != before {
			t.Errorf("%s: the decoded policy was changed", name)
		}
	}
	d := decodeObject(fromYAML(t, "FirewallPolicy", "p", `{category: Application, appliedTo: [{any: true}], rules: [{id: 1, action: Drop, sources: [`+x+`, {cidr: 10.0.0.1/8}]}]}`))
	if len(d.problems) != 1 || d.problems[0].Field != "spec.rules[0].sources[1].cidr" {
		t.Errorf("problems %v", d.problems)
	}
}
