package desired

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

func clusterPolicyYAML(tb testing.TB, name, spec string) *unstructured.Unstructured {
	tb.Helper()
	u := unstructuredOf(clusterNetworkPolicies)
	if err := yaml.Unmarshal([]byte("spec: "+spec), &u.Object); err != nil {
		tb.Fatal(err)
	}
	u.SetGroupVersionKind(clusterNetworkPolicies)
	u.SetName(name)
	return u
}

// TestClusterNetworkPolicyClauses: each clause of ClusterNetworkPolicy, and what fails
// closed. Probes are those of TestMultiNetworkPolicyTraps; the network's default is Allow.
func TestClusterNetworkPolicyClauses(t *testing.T) {
	const admin = `tier: Admin, priority: 5, subject: {namespaces: {}}`
	for name, tt := range map[string]struct {
		specs  []string
		probes string
		told   string // parts of the problems, each with a semicolon behind it
	}{
		"no rules isolate nothing":    {[]string{`{` + admin + `}`}, "+in 10.0.0.1 80, +out 10.0.0.1 80", ""},
		"a rule is of its direction":  {[]string{`{` + admin + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`}, "-in 10.0.0.1 80, +out 10.0.0.1 80, +in 1.2.3.4 80", "does not match bank/new: no address;"},
		"what follows a match":        {[]string{`{` + admin + `, egress: [{action: Accept, to: [{networks: [10.0.0.1/32]}]}, {action: Deny, to: [{networks: [10.0.0.0/8]}]}]}`}, "+out 10.0.0.1 80, -out 10.0.0.2 80, +out 1.2.3.4 80, +in 10.0.0.2 80", ""},
		"lower priority stands first": {[]string{`{tier: Admin, priority: 9, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [10.0.0.0/8]}]}]}`, `{` + admin + `, egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}]}]}`}, "-out 10.0.0.1 80", ""},
		"Admin before Baseline": {[]string{`{tier: Baseline, priority: 0, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`, `{tier: Admin, priority: 1000, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [10.0.0.0/8]}]}]}`},
			"+out 10.0.0.1 80, -out 1.2.3.4 80, +out fd00::1 80", ""},
		"Pass spares the rest of the tier": {[]string{`{` + admin + `, egress: [{action: Pass, to: [{networks: [10.0.0.1/32]}]}, {action: Deny, to: [{networks: [10.0.0.0/8]}]}]}`, `{tier: Admin, priority: 6, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`},
			"+out 10.0.0.1 80, -out 10.0.0.2 80, -out 1.2.3.4 80", ""},
		"and not the next tier": {[]string{`{` + admin + `, egress: [{action: Pass, to: [{networks: [10.0.0.1/32]}]}]}`, `{tier: Baseline, priority: 6, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`},
			"-out 10.0.0.1 80", ""},
		"Pass of the last tier leads to the default": {[]string{`{tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Pass, to: [{networks: [10.0.0.1/32]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "+out 10.0.0.1 80, -out 10.0.0.2 80", ""},
		"namespaces by their labels":                 {[]string{`{` + admin + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: a}}}]}]}`}, "-in 10.0.0.1 80, -in 10.0.0.5 80, +in 10.0.0.2 80", ""},
		"pods of namespaces": {[]string{`{` + admin + `, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: till}}}}]}]}`},
			"-in 10.0.0.1 80, -in 10.0.0.2 80, -in 10.9.0.1 80, +in 10.0.0.3 80", ""},
		"peers are or":                   {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [1.2.3.4/32, "fd00::/64"]}, {namespaces: {matchLabels: {team: a}}}]}]}`}, "-out 1.2.3.4 80, -out fd00::1 80, -out 10.0.0.1 80, +out 10.0.0.2 80", ""},
		"a network is ICMP and all else": {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "-out 1.2.3.4 icmp, -out 10.0.0.1 sctp/5, +out fd00::1 80", ""},
		"protocols are or": {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 50, end: 53}}}}, {sctp: {destinationPort: {number: 7}}}]}]}`},
			"-out 1.2.3.4 80, +out 1.2.3.4 81, -out 1.2.3.4 udp/50, -out 1.2.3.4 udp/53, +out 1.2.3.4 udp/54, +out 1.2.3.4 udp/80, -out 1.2.3.4 sctp/7, +out 1.2.3.4 icmp", ""},
		"a subject by pods":           {[]string{`{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: me}}}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "-out 1.2.3.4 80", ""},
		"a subject that is others'":   {[]string{`{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: you}}}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "+out 1.2.3.4 80", ""},
		"subjects of other namespace": {[]string{`{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: b}}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "+out 1.2.3.4 80", ""},
		"nobody by a selector":        {[]string{`{` + admin + `, egress: [{action: Deny, to: [{namespaces: {matchLabels: {no: such}}}]}]}`}, "+out 10.0.0.1 80", "spec.egress[0].to[0]: selects no VM now;"},

		"Accept of nodes":            {[]string{`{` + admin + `, egress: [{action: Accept, to: [{nodes: {}}, {networks: [10.0.0.0/8]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "-out 10.0.0.1 80", "spec.egress[0]: to[0]: nodes is not enforced: name their addresses by networks; so the rule accepts nothing;"},
		"Deny of nodes":              {[]string{`{` + admin + `, egress: [{action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`}, "-out 10.0.0.1 81, -out fd00::1 icmp, +in 10.0.0.1 80", "so the rule denies everything;"},
		"Pass of domainNames":        {[]string{`{` + admin + `, egress: [{action: Pass, to: [{domainNames: [example.org]}]}]}`}, "-out 10.0.0.1 81", "domainNames is not enforced: name addresses by networks; so the rule denies everything;"},
		"a peer of a later version":  {[]string{`{` + admin + `, ingress: [{action: Accept, from: [{services: {}}]}, {action: Deny, from: [{namespaces: {matchLabels: {team: a}}}]}]}`}, "-in 10.0.0.1 80, +in 1.2.3.4 80", `unknown field "from[0].services": agents of this version do not know it: bring them up to date, or leave the field out; so the rule accepts nothing;`},
		"a peer that CRDs emptied":   {[]string{`{` + admin + `, ingress: [{action: Deny, from: [{}]}]}`}, "-in 1.2.3.4 80, -in 1.2.3.4 icmp", "spec.ingress[0]: from[0]: want exactly one of the fields of a peer; so the rule denies everything;"},
		"a peer of two kinds":        {[]string{`{` + admin + `, egress: [{action: Deny, to: [{namespaces: {}, networks: [1.2.3.4/32]}]}]}`}, "-out 5.6.7.8 80", "want exactly one of the fields of a peer;"},
		"no peers":                   {[]string{`{` + admin + `, ingress: [{action: Deny, from: []}]}`}, "-in 1.2.3.4 80", "from: want at least one; so the rule denies everything;"},
		"a protocol that is emptied": {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [1.2.3.4/32]}], protocols: [{}]}]}`}, "-out 5.6.7.8 80", "protocols[0]: want exactly one of tcp, udp and sctp;"},
		"more than a port":           {[]string{`{` + admin + `, egress: [{action: Accept, to: [{networks: [1.2.3.4/32]}], protocols: [{tcp: {destinationPort: {number: 80}, flags: [syn]}}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "-out 1.2.3.4 80", `unknown field "protocols[0].tcp.flags": agents of this version do not know it: bring them up to date, or leave the field out; so the rule accepts nothing;`},
		"tcp without a port":         {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [1.2.3.4/32]}], protocols: [{tcp: {}}]}]}`}, "-out 5.6.7.8 80", "protocols[0]: tcp: want destinationPort;"},
		"a port of no kind":          {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [1.2.3.4/32]}], protocols: [{udp: {destinationPort: {}}}]}]}`}, "-out 5.6.7.8 80", "udp.destinationPort: want one of number and range;"},
		"a port too high":            {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [1.2.3.4/32]}], protocols: [{udp: {destinationPort: {number: 65616}}}]}]}`}, "-out 5.6.7.8 80", "udp.destinationPort: 65616: want 1 to 65535;"},
		"a range backwards":          {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [1.2.3.4/32]}], protocols: [{sctp: {destinationPort: {range: {start: 9, end: 9}}}}]}]}`}, "-out 5.6.7.8 80", "sctp.destinationPort.range: 9-9: want a start from 1 on, below the end;"},
		"a port's name":              {[]string{`{` + admin + `, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]}, {action: Deny, from: [{namespaces: {matchLabels: {team: a}}}]}]}`}, "-in 10.0.0.1 80", "destinationNamedPort is not enforced;does not match bank/new;"},
		"an action of later":         {[]string{`{` + admin + `, egress: [{action: Reject, to: [{networks: [1.2.3.4/32]}]}]}`}, "-out 5.6.7.8 80", `action is "Reject": want Accept, Deny or Pass; so the rule denies everything;`},
		"a network that is none":     {[]string{`{` + admin + `, egress: [{action: Deny, to: [{networks: [ten]}]}]}`}, "-out 5.6.7.8 80", `networks: "ten": want a prefix, as 10.0.0.0/8;`},
		"a name that is none":        {[]string{`{` + admin + `, egress: [{name: 5, action: Accept, to: [{networks: [1.2.3.4/32]}]}]}`}, "+out 5.6.7.8 80", "spec.egress[0]: cannot be read: ;want what kubectl explain clusternetworkpolicy.spec says; so the rule accepts nothing"},
		"pods without a podSelector": {[]string{`{` + admin + `, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}}}]}, {action: Deny, from: [{namespaces: {matchLabels: {team: a}}}]}]}`}, "-in 10.0.0.1 80", "spec.ingress[0]: from[0].pods: want podSelector, {} for all; so the rule accepts nothing;does not match bank/new;"},
		"a selector that is none":    {[]string{`{` + admin + `, ingress: [{action: Deny, from: [{namespaces: {matchExpressions: [{key: k, operator: Nor}]}}]}]}`}, "-in 5.6.7.8 80", `is not a valid label selector operator; so the rule denies everything;`},
	} {
		t.Run(name, func(t *testing.T) {
			around := someSurroundings()
			objects := map[key]held{}
			told := ""
			for i, spec := range tt.specs {
				o, problems := readClusterPolicy(clusterPolicyYAML(t, strings.Repeat("c", i+1), spec), around.namespaces, around.holders)
				if o.value == nil {
					t.Fatalf("not taken: %v", problems)
				}
				objects[o.key] = held{value: o.value}
				for _, p := range problems {
					told += p.String() + "\n"
				}
			}
			objects[key{"VLANNetwork", "lan"}] = held{value: Network{Name: "lan", Default: policy.Allow, Cluster: true}}
			s, _ := build(objects, nil, nil)
			s.Pods = map[string]Pod{"shop/me": {Owner: OwnerNone, Labels: map[string]string{"app": "me"}, Namespace: namespaceLabels(around.namespaces, "shop")}}
			set := s.PolicySet("lan", PodRef{Namespace: "shop", Name: "me"})
			compiled(t, set)
			for probe := range strings.SplitSeq(tt.probes, ", ") {
				if got := probed(t, &set, probe[1:]); got != (probe[0] == '+') {
					t.Errorf("%s: passed is %v\n%+v", probe, got, set.Rules)
				}
			}
			for want := range strings.SplitSeq(tt.told, ";") {
				if !strings.Contains(told, strings.TrimSpace(want)) || tt.told == "" && told != "" {
					t.Errorf("told %q, want %q", told, want)
				}
			}
			if got, want := strings.Count(told, "\n"), strings.Count(strings.ReplaceAll(tt.told, "; so", ""), ";"); got != want {
				t.Errorf("told %d things, want %d:\n%s", got, want, told)
			}
		})
	}
}

// TestClusterPolicyRefused: where nobody can say where a policy's rules stand, and to whom
// they apply, what is in force stays.
func TestClusterPolicyRefused(t *testing.T) {
	for spec, want := range map[string]string{
		`{priority: 5, subject: {namespaces: {}}}`:                                                              `spec.tier: is "": want Admin or Baseline`,
		`{tier: Top, priority: 5, subject: {namespaces: {}}}`:                                                   `spec.tier: is "Top": want Admin or Baseline`,
		`{tier: Admin, priority: 1001, subject: {namespaces: {}}}`:                                              `spec.priority: is 1001: want 0 to 1000`,
		`{tier: Admin, priority: 5, subject: {}}`:                                                               `spec.subject: want one of namespaces and pods`,
		`{tier: Admin, priority: 5, subject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}}`: `spec.subject: want one of namespaces and pods`,
		`{tier: Admin, priority: 5, subject: {serviceAccounts: {}}}`:                                            `unknown field "subject.serviceAccounts"`,
		`{tier: Admin, priority: 5, subject: {namespaces: {matchExpressions: [{key: k, operator: Nor}]}}}`:      `spec.subject: `,
		`{tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: {}}`:                                    `spec: `,
		`{tier: Admin, priority: 5, subject: {namespaces: {}}, schedule: {}}`:                                   `unknown field "schedule"`,
		`{tier: Admin, priority: "5", subject: {namespaces: {}}, ingress: [{action: Deny, from: [{}]}]}`:        `spec: `,
	} {
		o, problems := readClusterPolicy(clusterPolicyYAML(t, "c", spec), nil, nil)
		if o.value != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), want) || o.key != (key{kindClusterPolicy, "c"}) {
			t.Errorf("%s: %v %v, want %q", spec, o.value, problems, want)
		}
	}
}

// TestClusterPolicyCertainty: to whom a policy is applied while not all is known.
func TestClusterPolicyCertainty(t *testing.T) {
	o, problems := readClusterPolicy(clusterPolicyYAML(t, "c", `{tier: Admin, priority: 5, subject: {namespaces: {matchLabels: {team: a}}},
		ingress: [{action: Accept, from: [{namespaces: {}}]}, {action: Pass, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]}`), nil, nil)
	if o.value == nil {
		t.Fatal(problems)
	}
	s := &Snapshot{Policies: []Policy{o.value.(Policy)},
		Networks: map[string]Network{"lan": {Name: "lan", Cluster: true}, "wan": {Name: "wan"}},
		Pods: map[string]Pod{"x/a": {Owner: OwnerNone, Namespace: map[string]string{"team": "a"}}, "x/b": {Owner: OwnerVM, Namespace: map[string]string{"team": "b"}},
			"x/new": {Owner: OwnerNone}},
	}
	const all, careful = "Allow 1, Pass 2, Drop 3, ", "Drop 2, Drop 3, "
	for _, tt := range []struct {
		what, network, pod, want string
	}{
		{"selected", "lan", "a", all},
		{"not selected", "lan", "b", ""},
		{"its namespace is not known", "lan", "new", careful},
		{"it is not known", "lan", "none", careful},
		{"the network is not for them", "wan", "a", ""},
		{"no network", "", "a", ""},
		{"nobody's", "lan", "", ""},
	} {
		ref := PodRef{Namespace: "x", Name: tt.pod}
		if tt.pod == "" {
			ref = PodRef{}
		}
		got := ""
		for _, r := range s.PolicySet(tt.network, ref).Rules {
			got += r.Action.String() + " " + strings.TrimPrefix(r.Key.String(), kindClusterPolicy+"/c/") + ", "
		}
		if got != tt.want {
			t.Errorf("%s: rules %q, want %q", tt.what, got, tt.want)
		}
	}
	if got := keysOf(s.UnknownSet("lan")); got != "ClusterNetworkPolicy/c/2 ClusterNetworkPolicy/c/3" {
		t.Errorf("the unknown: %q", got)
	}
	if s.PolicyID("lan", PodRef{Namespace: "x", Name: "a"}) == s.UnknownID("lan") || s.UnknownID("lan") == s.PolicyID("lan", PodRef{Namespace: "x", Name: "b"}) {
		t.Error("sets that differ have one ID")
	}
}

// TestClusterPoliciesKept: what becomes of networks and policies while the kind cannot be
// read, is not there, or is asked for by nobody any more.
func TestClusterPoliciesKept(t *testing.T) {
	o, problems := readClusterPolicy(clusterPolicyYAML(t, "c", `{tier: Admin, priority: 5, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}]}]}`), nil, nil)
	if o.value == nil {
		t.Fatal(problems)
	}
	vlans, err := vlan.ParseSet("1-100")
	if err != nil {
		t.Fatal(err)
	}
	lan, trunk := key{"VLANNetwork", "lan"}, object{key: key{"VLANTrunk", "t"}, value: Trunk{Name: "t", Bridge: "b", Managed: true, Uplink: "eth0", AllowedVLANs: vlans}}
	lanOf := func(cluster bool) Network { return Network{Name: "lan", Trunk: "t", PVID: 7, Cluster: cluster} }
	network := func(cluster bool) held { return held{value: lanOf(cluster)} }
	forbidden := errors.New("forbidden: apply the agent's ClusterRole and binding again")
	for name, tt := range map[string]struct {
		last   map[key]held // in force
		asks   bool         // the network, as it is proposed
		failed error        // of the kind; nil is that the cluster does not have it
		want   string       // in force then: the policy, and whether the network is for it
		told   string
	}{
		"nobody asks":                      {map[key]held{lan: network(false)}, false, forbidden, "lan false", ""},
		"asks, and there is no such kind":  {nil, true, nil, "lan true", "the cluster does not have the kind, and a VLANNetwork asks for it"},
		"asks first, and it is forbidden":  {nil, true, forbidden, "", "spec.clusterNetworkPolicies: the policies cannot be read, and without them more would pass: forbidden"},
		"asks now, and it is forbidden":    {map[key]held{lan: network(false)}, true, forbidden, "lan false", "without them more would pass"},
		"asked, there were none":           {map[key]held{lan: network(true)}, true, forbidden, "lan true", ""},
		"forbidden, and some are in force": {map[key]held{lan: network(true), o.key: {value: o.value}}, true, forbidden, "c lan true", "forbidden: apply the agent's ClusterRole and binding again; those in force stay"},
		"gone, and some are in force":      {map[key]held{lan: network(true), o.key: {value: o.value}}, true, nil, "c lan true", "does not have the kind any more"},
		"nobody asks any more":             {map[key]held{lan: network(true), o.key: {value: o.value}}, false, forbidden, "c lan false", "those in force stay"},
	} {
		t.Run(name, func(t *testing.T) {
			before := maps.Clone(tt.last)
			if before == nil {
				before = map[key]held{}
			}
			before[trunk.key] = held{value: trunk.value}
			last, _ := build(before, nil, nil)
			k := &Kube{clusterPolicies: &optional{kind: clusterNetworkPolicies, asked: true, failed: tt.failed}}
			k.last = last
			m := manifest{objects: []object{trunk, {key: lan, value: lanOf(tt.asks)}}}
			notices := k.lookAtClusterPolicies(&m, &placement{})
			next, problems := resolve(k.objects(), []manifest{m})
			s, _ := build(next, nil, last)
			got := ""
			for _, p := range s.Policies {
				got += strings.TrimPrefix(p.Name, kindClusterPolicy+"/") + " "
			}
			for _, n := range s.Networks {
				got += fmt.Sprint(n.Name, " ", n.Cluster)
			}
			if got != tt.want {
				t.Errorf("in force: %q, want %q", got, tt.want)
			}
			told := ""
			for _, p := range slices.Concat(problems, m.problems, notices) {
				told += p.String() + "\n"
			}
			if !strings.Contains(told, tt.told) || tt.told == "" && strings.Contains(told, "forbidden") {
				t.Errorf("told %q, want %q", told, tt.told)
			}
		})
	}
}

// A snapshot that an agent of before would misread is of a format that it does not read.
func TestCacheVersion(t *testing.T) {
	for want, s := range map[string]Snapshot{
		`{"version":1,`: {Policies: []Policy{{Rules: []policy.Rule{{Directions: policy.InOut}}}}, Networks: map[string]Network{"lan": {}}},
		`{"version":2,`: {Policies: []Policy{{Subject: &Subject{Namespaces: Selector{labels.Everything()}, Pods: Selector{labels.Everything()}}}}, Networks: map[string]Network{}},
		`{"version":2`:  {Policies: []Policy{{Rules: []policy.Rule{{Directions: policy.InOut, Monitored: true}}}}, Networks: map[string]Network{}},
	} {
		s.Trunks = map[string]Trunk{}
		path := filepath.Join(t.TempDir(), "s")
		if err := s.Save(path); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(text), want) {
			t.Errorf("%.20s, %v: want %s", text, err, want)
		}
		if again, err := LoadSnapshot(path); err != nil || len(again.Policies) != 1 {
			t.Errorf("%s: read %+v, %v", want, again, err)
		}
	}
}
