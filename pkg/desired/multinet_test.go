package desired

import (
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

func podPolicyYAML(tb testing.TB, policyForText, spec string) *unstructured.Unstructured {
	tb.Helper()
	u := unstructuredOf(multiNetworkPolicies)
	if err := yaml.Unmarshal([]byte("spec: "+spec), &u.Object); err != nil {
		tb.Fatal(err)
	}
	u.SetGroupVersionKind(multiNetworkPolicies)
	u.SetNamespace("shop")
	u.SetName("p")
	u.SetAnnotations(map[string]string{policyFor: policyForText})
	return u
}

func someSurroundings() surroundings {
	ns := func(name, team string) metav1.PartialObjectMetadata {
		return metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
	}
	vm := func(namespace, name, network, app, addr string) holder {
		v := holder{name: namespace + "/" + name, namespace: namespace, vm: name, network: network, labels: map[string]string{"app": app}}
		if addr != "" {
			v.addresses = []netip.Addr{netip.MustParseAddr(addr)}
		}
		return v
	}
	pod := func(name, app, addr string) holder {
		h := vm("shop", name, "lan", app, addr)
		h.vm, h.pod = "", name
		return h
	}
	later := vm("shop", "later", "lan", "till", "10.0.0.6")
	later.vm = ""
	return surroundings{
		namespaces: []metav1.PartialObjectMetadata{ns("shop", "a"), ns("bank", "b")},
		holders: []holder{vm("shop", "till", "lan", "till", "10.0.0.1"), vm("shop", "till", "wan", "till", "10.9.0.1"), vm("bank", "till", "lan", "till", "10.0.0.2"),
			vm("bank", "safe", "lan", "safe", "10.0.0.3"), vm("bank", "new", "lan", "new", ""),
			pod("batch", "batch", "10.0.0.5"), later},
		attachments: map[string]attachment{"shop/lan": {ours: true, name: "lan"}, "bank/wan": {ours: true, name: "wan"}, "shop/macvlan": {}, "shop/broken": {problem: "its config cannot be read"}},
	}
}

// TestMultiNetworkPolicyTraps: what the words of NetworkPolicy say where it is easy to
// read them otherwise. A probe is who comes in from where, or goes out to where, at
// which port of TCP ("icmp" is no port); + is allowed.
func TestMultiNetworkPolicyTraps(t *testing.T) {
	for name, tt := range map[string]struct {
		spec   string
		probes string
		told   string // part of the only problem; "" is none
	}{
		"no rules at all isolate": {`{podSelector: {}}`, "-in 10.0.0.1 80, +out 10.0.0.1 80", ""},
		"an empty list of rules":  {`{podSelector: {}, ingress: []}`, "-in 10.0.0.1 80", ""},
		"an empty rule":           {`{podSelector: {}, ingress: [{}]}`, "+in 10.0.0.1 80, +in 1.2.3.4 icmp, +in fd00::1 80", ""},
		"empty lists in a rule":   {`{podSelector: {}, ingress: [{from: [], ports: []}]}`, "+in 10.0.0.1 80, +in 1.2.3.4 icmp", ""},
		"an empty egress without policyTypes isolates nothing": {`{podSelector: {}, egress: []}`, "-in 10.0.0.1 80, +out 10.0.0.1 80", ""},
		"an egress rule without policyTypes isolates both":     {`{podSelector: {}, egress: [{}]}`, "-in 10.0.0.1 80, +out 10.0.0.1 80", ""},
		"egress alone, if policyTypes says so":                 {`{podSelector: {}, policyTypes: [Egress], ingress: [{}]}`, "+in 1.2.3.4 81, -out 10.0.0.1 80", ""},
		"pods of the own namespace":                            {`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: till}}}]}]}`, "+in 10.0.0.1 80, -in 10.0.0.2 80", ""},
		"an interface on another network is no peer":           {`{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "+in 10.0.0.1 80, -in 10.9.0.1 80", ""},
		"all pods of other namespaces":                         {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]}`, "-in 10.0.0.1 80, +in 10.0.0.2 80, +in 10.0.0.3 80", "does not match bank/new: no address"},
		"both in one peer is and":                              {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: till}}}]}]}`, "-in 10.0.0.1 80, +in 10.0.0.2 80, -in 10.0.0.3 80", ""},
		"both in two peers is or": {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {app: none}}}, {podSelector: {matchLabels: {app: till}}}]}]}`,
			"+in 10.0.0.1 80, -in 10.0.0.2 80", "selects no VM now, and no pod whose address is known, and so matches nothing"},
		"a pod without a VM, by its own labels":      {`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: batch}}}]}]}`, "+in 10.0.0.5 80, -in 10.0.0.1 80", ""},
		"VMs and pods alike":                         {`{podSelector: {}, egress: [{to: [{podSelector: {}}]}]}`, "+out 10.0.0.1 80, +out 10.0.0.5 80, -out 10.0.0.2 80", ""},
		"a pod without a VM is no launcher":          {`{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: kubevirt.io, operator: DoesNotExist}]}}]}]}`, "+in 10.0.0.5 80, -in 10.0.0.1 80", ""},
		"an identity of neither is nobody's address": {`{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "+in 10.0.0.1 80, -in 10.0.0.6 80", ""},
		"an except is of its own block": {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {ipBlock: {cidr: 10.1.2.0/24}}]}]}`,
			"+in 10.0.0.9 80, -in 10.1.0.9 80, +in 10.1.2.9 80", ""},
		"of its own rule": {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}, {from: [{ipBlock: {cidr: 10.1.0.0/16}}], ports: [{port: 22}]}]}`,
			"-in 10.1.0.9 80, +in 10.1.0.9 22", ""},
		"an except that is all":              {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [0.0.0.0/0]}}]}]}`, "-in 10.0.0.1 80", ""},
		"a block with host bits":             {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.77/24}}]}]}`, "+in 10.0.0.1 80, -in 10.0.1.1 80", ""},
		"IPv4 is not in a block of IPv6":     {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::/0"}}]}]}`, "-in 10.0.0.1 80, +in fd00::1 80", ""},
		"a port is TCP's":                    {`{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`, "+in 1.2.3.4 80, -in 1.2.3.4 81, -in 1.2.3.4 icmp", ""},
		"endPort is included":                {`{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 82}]}]}`, "-in 1.2.3.4 79, +in 1.2.3.4 82, -in 1.2.3.4 83", ""},
		"an item without a port":             {`{podSelector: {}, ingress: [{ports: [{protocol: TCP}]}]}`, "+in 1.2.3.4 80, -in 1.2.3.4 icmp", ""},
		"a name of a port allows nothing":    {`{podSelector: {}, ingress: [{ports: [{port: http}]}]}`, "-in 1.2.3.4 80", `spec.ingress[0].ports[0]: port "http" is a name`},
		"and nothing more beside a number":   {`{podSelector: {}, ingress: [{ports: [{port: http}, {port: 22}]}]}`, "-in 1.2.3.4 80, +in 1.2.3.4 22", `port "http" is a name`},
		"SCTP has ports of its own":          {`{podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80}]}]}`, "-in 1.2.3.4 80, +in 1.2.3.4 sctp/80, -in 1.2.3.4 sctp/81", ""},
		"an unknown protocol allows nothing": {`{podSelector: {}, ingress: [{ports: [{protocol: GRE}]}]}`, "-in 1.2.3.4 80", "protocol GRE is not known: want TCP, UDP or SCTP"},
		"endPort without port":               {`{podSelector: {}, ingress: [{ports: [{endPort: 80}]}]}`, "-in 1.2.3.4 80", "endPort is without port"},
		"endPort below port":                 {`{podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}`, "-in 1.2.3.4 85", "endPort 80: want 90 to 65535"},
		"a block beside a selector":          {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}, podSelector: {}}]}]}`, "-in 10.0.0.1 80", "spec.ingress[0].from[0]: has ipBlock beside a selector"},
		"an empty peer allows nothing":       {`{podSelector: {}, egress: [{to: [{}]}]}`, "-out 10.0.0.1 80", "spec.egress[0].to[0]: is empty"},
		"a block that is none":               {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: ten}}]}]}`, "-in 10.0.0.1 80", `cidr "ten": want a prefix`},
		"an except that is none":             {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [ten]}}]}]}`, "-in 10.0.0.1 80", `except "ten"`},
		"a selector that is none":            {`{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: k, operator: Nor}]}}]}]}`, "-in 10.0.0.1 80", "podSelector: "},
		"an unknown address matches nothing": {`{podSelector: {}, egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: new}}}]}]}`, "-out 10.0.0.1 80", "spec.egress[0].to[0]: does not match bank/new: no address of theirs is known"},
		"launchers by KubeVirt's own labels": {`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {kubevirt.io: virt-launcher, vm.kubevirt.io/name: till}}}]}]}`, "+in 10.0.0.1 80", ""},
		"pods that are not selected":         {`{podSelector: {matchLabels: {app: other}}}`, "+in 1.2.3.4 80", ""},
	} {
		t.Run(name, func(t *testing.T) {
			o, here, problems := readPodPolicy(podPolicyYAML(t, "lan", tt.spec), someSurroundings())
			if !here || o.value == nil {
				t.Fatalf("not taken: %v", problems)
			}
			s := &Snapshot{Networks: map[string]Network{"lan": {Name: "lan", Default: policy.Allow}}, PodPolicies: []PodPolicy{o.value.(PodPolicy)},
				Pods: map[string]Pod{"shop/me": {Owner: OwnerNone, Labels: map[string]string{"app": "me"}}}}
			set := s.PolicySet("lan", PodRef{Namespace: "shop", Name: "me"})
			for probe := range strings.SplitSeq(tt.probes, ", ") {
				if got := probed(t, &set, probe[1:]); got != (probe[0] == '+') {
					t.Errorf("%s: passed is %v\n%+v", probe, got, set.Rules)
				}
			}
			told := ""
			for _, p := range problems {
				told += p.String() + "\n"
			}
			if (told == "") != (tt.told == "") || !strings.Contains(told, tt.told) || strings.Count(told, "\n") > 1 {
				t.Errorf("told %q, want %q", told, tt.told)
			}
		})
	}
}

func probed(t *testing.T, set *policy.Set, probe string) bool {
	t.Helper()
	words := strings.Fields(probe)
	p := policy.Packet{Direction: policy.In, IP: true, Protocol: policy.TCP, HasService: true, Src: netip.MustParseAddr(words[1])}
	p.Dst = p.Src
	if words[0] == "out" {
		p.Direction = policy.Out
	}
	switch words[2] {
	case "icmp":
		p.Protocol, p.Service = policy.ICMP, 0x0800
	default:
		if !strings.Contains(words[2], "/") {
			words[2] = "tcp/" + words[2]
		}
		s, err := policy.ParseService(words[2])
		if err != nil {
			t.Fatal(err)
		}
		p.Protocol, p.Service = s.Protocol, s.First
	}
	return policy.Evaluate(set, p).Action == policy.Allow
}

// TestPolicyFor: which networks a policy is for.
func TestPolicyFor(t *testing.T) {
	for text, tt := range map[string]struct {
		want, told string
		last       []string
	}{
		"lan":                        {want: "lan"},
		" lan ,, bank/wan ":          {want: "lan wan"},
		"shop/lan, lan":              {want: "lan"},
		"macvlan":                    {},
		"wan":                        {told: "there is no NetworkAttachmentDefinition shop/wan"},
		"lan, gone":                  {want: "lan wan", told: "there is no NetworkAttachmentDefinition shop/gone", last: []string{"wan"}},
		"broken":                     {want: "lan", told: "shop/broken: its config cannot be read", last: []string{"lan"}},
		"":                           {told: "names no network"},
		"macvlan, bank/wan, somehow": {want: "wan", told: "there is no NetworkAttachmentDefinition shop/somehow"},
	} {
		around := someSurroundings()
		if tt.last != nil {
			around.last = []PodPolicy{{Namespace: "bank", Name: "p", Networks: []string{"no"}}, {Namespace: "shop", Name: "p", Networks: tt.last}}
		}
		o, here, problems := readPodPolicy(podPolicyYAML(t, text, `{podSelector: {}}`), around)
		got := ""
		if v, ok := o.value.(PodPolicy); ok {
			got = strings.Join(v.Networks, " ")
		}
		if got != tt.want || here != (tt.want != "") {
			t.Errorf("%q: for networks %q (here: %v), want %q", text, got, here, tt.want)
		}
		if (len(problems) == 0) != (tt.told == "") || len(problems) > 0 && !strings.Contains(problems[0].Message, tt.told) {
			t.Errorf("%q: told %v, want %q", text, problems, tt.told)
		}
	}
}

// TestPodPolicyRefused: where nobody can say to whom a policy applies, or in which
// direction, what is in force stays.
func TestPodPolicyRefused(t *testing.T) {
	for spec, want := range map[string]string{
		`{podSelector: {matchExpressions: [{key: k, operator: Nor}]}}`: "spec.podSelector",
		`{podSelector: {}, policyTypes: [Sideways]}`:                   `spec.policyTypes: is "Sideways": want Ingress and Egress`,
		`{podSelector: {}, ingress: [{from: [], audit: true}]}`:        `unknown field "spec.ingress[0].audit"`,
	} {
		o, here, problems := readPodPolicy(podPolicyYAML(t, "lan", spec), someSurroundings())
		if !here || o.value != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), want) {
			t.Errorf("%s: %v %v %v, want %q", spec, here, o.value, problems, want)
		}
	}
}

// TestReadAttachment finds our network in configs of NetworkAttachmentDefinitions.
func TestReadAttachment(t *testing.T) {
	objects := []object{{value: Trunk{Name: "t", Bridge: "br0"}}, {value: Trunk{Name: "u", Bridge: "br1"}},
		{value: Network{Name: "lan", Trunk: "t", Mode: vlan.Access, PVID: 7}}, {value: Network{Name: "other", Trunk: "u", Mode: vlan.Access, PVID: 7}}}
	for config, want := range map[string]string{
		`{"type": "homeport", "network": "lan"}`:                              "lan",
		`{"plugins": [{"type": "bridge", "vlan": 7}, {"type": "tuning"}]}`:    "-",
		`{"plugins": [{"type": "x"}, {"type": "homeport", "network": "b"}]}`:  "b",
		`{"type": "homeport", "bridge": "br0", "vlan": 7}`:                    "lan",
		`{"type": "homeport", "bridge": "br1", "vlan": 7}`:                    "other",
		`{"type": "homeport", "bridge": "br0", "vlan": 8}`:                    "",
		`{"type": "homeport", "bridge": "br0", "vlan": 7, "vlanTrunk": [{}]}`: "",
		`{"type": "macvlan", "network": "lan"}`:                               "-",
		`not JSON`:                                                            "!",
	} {
		a := readAttachment(config)
		got := a.network(objects)
		switch {
		case a.problem != "":
			got = "!"
		case !a.ours:
			got = "-"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
}
