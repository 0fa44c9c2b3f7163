package desired

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

func selectorOf(tb testing.TB, text string) (s Selector) {
	tb.Helper()
	if err := s.UnmarshalText([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	return s
}

func byLabel(tb testing.TB, name string, rank int, selector string, rules ...policy.Rule) Policy {
	p := Policy{Name: name, Rank: rank, VMs: []Selector{selectorOf(tb, selector)}}
	for i, r := range rules {
		r.Key = policy.RuleKey{Policy: name, ID: uint32(i + 1)}
		p.Rules = append(p.Rules, r)
	}
	return p
}

// fwRule is a rule for every packet.
func fwRule(a policy.Action) policy.Rule { return policy.Rule{Action: a, Directions: policy.InOut} }

// keysOf names the rules of a set.
func keysOf(s policy.Set) string {
	var out []string
	for _, r := range s.Rules {
		out = append(out, r.Key.String())
	}
	return strings.Join(out, " ")
}

// TestAppliedTo: which rules a port has, by what is known of its pod. "quarantine"
// drops for VMs with a label, "open" allows for others before it.
func TestAppliedTo(t *testing.T) {
	s := &Snapshot{
		Networks: map[string]Network{"lan": {Name: "lan", Default: policy.Allow}, "far": {Name: "far"}},
		Policies: []Policy{
			byLabel(t, "open", 1, "app in (shop,till)", fwRule(policy.Allow)),
			byLabel(t, "quarantine", 6, "state=sick", fwRule(policy.Drop)),
			{Name: "wide", Rank: 6, Networks: []string{"lan"}, VMs: []Selector{selectorOf(t, "state=sick")},
				Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "wide", ID: 1}, Action: policy.Allow, Directions: policy.InOut}}},
		},
		Pods: map[string]Pod{
			"x/shop":     {UID: "1", Owner: OwnerVM, VM: map[string]string{"app": "shop"}},
			"x/sick":     {UID: "2", Owner: OwnerVM, VM: map[string]string{"state": "sick"}},
			"x/plain":    {UID: "3", Owner: OwnerNone, Labels: map[string]string{"app": "shop", "state": "sick"}},
			"x/pretends": {UID: "4", Owner: OwnerUnknown, Labels: map[string]string{"app": "shop"}},
			"x/other":    {UID: "5", Owner: OwnerVM, VM: map[string]string{"app": "none"}, Labels: map[string]string{"state": "sick"}},
		},
	}
	const unknown = "quarantine/1 wide/1" // the drop is in force, the allow is not
	for _, tt := range []struct {
		what, network string
		pod           PodRef
		want          string
	}{
		{"selected by one", "lan", PodRef{"x", "shop", "1"}, "open/1 wide/1"},
		{"selected by another", "lan", PodRef{"x", "sick", "2"}, "quarantine/1 wide/1"},
		{"on another network", "far", PodRef{"x", "sick", "2"}, "quarantine/1 wide/1"},
		{"on none", "", PodRef{"x", "shop", "1"}, "open/1"},
		{"selected by none: a pod's labels are not its VM's", "lan", PodRef{"x", "other", "5"}, "wide/1"},
		{"a pod without a VM", "lan", PodRef{"x", "plain", "3"}, "wide/1"},
		{"without a pod", "lan", PodRef{}, "wide/1"},
		{"says to be a VM's", "lan", PodRef{"x", "pretends", "4"}, unknown},
		{"a pod that nobody knows", "lan", PodRef{"x", "new", "9"}, unknown},
		{"a pod of the name, but another", "lan", PodRef{"x", "shop", "9"}, unknown},
		{"a runtime that tells no UID", "lan", PodRef{"x", "shop", ""}, "open/1 wide/1"},
	} {
		set := s.PolicySet(tt.network, tt.pod)
		if got := keysOf(set); got != tt.want {
			t.Errorf("%s: rules %q, want %q", tt.what, got, tt.want)
		}
		if id := s.PolicyID(tt.network, tt.pod); set.ID() != id {
			t.Errorf("%s: the set is called %q and %q", tt.what, set.ID(), id)
		}
	}
	if got := keysOf(s.UnknownSet("lan")); got != unknown {
		t.Errorf("of an unknown pod: %q, want %q", got, unknown)
	}
	// What is there before any port is asked for.
	ids := map[string]bool{}
	for _, set := range s.PolicySets() {
		ids[set.ID()] = true
	}
	for _, network := range []string{"", "lan", "far"} {
		u := s.UnknownSet(network)
		if !ids[network] || !ids[u.ID()] {
			t.Errorf("network %q: there are %v, want %q and %q", network, ids, network, u.ID())
		}
	}
	// Nothing by label: one set a network, whoever the port belongs to.
	plain := &Snapshot{Networks: s.Networks, Policies: []Policy{{Name: "any", Rules: []policy.Rule{fwRule(policy.Drop)}}}}
	if got := len(plain.PolicySets()); got != 3 || plain.PolicyID("lan", PodRef{"x", "new", "9"}) != "lan" {
		t.Errorf("without labels: %d sets", got)
	}
}

// TestAppliedToNICs: a policy for VMs on a network is at their ports there alone, and one for
// addresses is at every port, for what is of these.
func TestAppliedToNICs(t *testing.T) {
	nics := func(name, network, selector string, rules ...policy.Rule) Policy {
		p := byLabel(t, name, 1, selector, rules...)
		p.VMs, p.NICs = nil, []NICs{{network, selectorOf(t, selector)}}
		return p
	}
	moved := nics("moved", "lan", "vm.kubevirt.io/name=db", fwRule(policy.Allow), fwRule(policy.Drop))
	moved.Rank, moved.AddressSets = 6, []string{"old"}
	s := &Snapshot{
		Networks: map[string]Network{"lan": {Name: "lan", Default: policy.Allow}, "far": {Name: "far"}},
		Policies: []Policy{nics("db", "lan", "vm.kubevirt.io/name=db", fwRule(policy.Allow)), moved},
		Pods: map[string]Pod{
			"x/db":    {UID: "1", Owner: OwnerVM, VM: map[string]string{"vm.kubevirt.io/name": "db"}},
			"x/other": {UID: "2", Owner: OwnerVM, VM: map[string]string{"vm.kubevirt.io/name": "web"}},
		},
		lists: map[string]expanded{"old": {ranges: []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("10.9.0.0/24"))}}},
	}
	if s.Policies[0].Any() || s.Policies[1].Any() || !s.ByLabel() {
		t.Error("a policy for NICs is for any, or for none by label")
	}
	texts := func(set policy.Set) string {
		var out []string
		for _, r := range set.Rules {
			text := r.Key.String()
			if r.LocalSets != nil {
				text += " at " + strings.Join(r.LocalSets, ",")
			}
			out = append(out, text)
		}
		return strings.Join(out, " ")
	}
	for _, tt := range []struct {
		network string
		pod     PodRef
		want    string
	}{
		{"lan", PodRef{"x", "db", "1"}, "db/1 moved/1 moved/2"},
		{"far", PodRef{"x", "db", "1"}, "moved/1 at old moved/2 at old"},
		{"", PodRef{"x", "db", "1"}, "moved/1 at old moved/2 at old"},
		{"lan", PodRef{"x", "other", "2"}, "moved/1 at old moved/2 at old"},
		{"lan", PodRef{}, "moved/1 at old moved/2 at old"},
		{"lan", PodRef{"x", "new", "9"}, "moved/1 at old moved/2"}, // the drop for all, the allow for what is sure
		{"far", PodRef{"x", "new", "9"}, "moved/1 at old moved/2 at old"},
	} {
		set := s.PolicySet(tt.network, tt.pod)
		if got := texts(set); got != tt.want {
			t.Errorf("%v on %q: rules %q, want %q", tt.pod, tt.network, got, tt.want)
		}
		if len(set.Lists["old"]) != 1 && strings.Contains(tt.want, "at old") {
			t.Errorf("%v on %q: lists %v", tt.pod, tt.network, set.Lists)
		}
	}
	for _, p := range []Policy{{Rank: 3, NICs: s.Policies[0].NICs}, {Rank: 6, AddressSets: []string{"old"}}, {Rank: 6, Networks: []string{"lan"}}} {
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again Policy
		var older struct{ Rank int } // as versions before had it
		if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%s became %+v, %v", text, again, err)
		}
		if err := json.Unmarshal(text, &older); (err == nil) != (len(p.NICs)+len(p.AddressSets) == 0) {
			t.Errorf("an older version reads %s: %v", text, err)
		}
		if len(p.Networks) > 0 {
			continue
		}
		if v := (&Snapshot{Policies: []Policy{p}}).cacheVersion(); v != cacheVersionPorts {
			t.Errorf("%+v is stored as version %d, which older agents would take for a policy for any", p, v)
		}
	}
}

// TestOrderOfPodPolicies: MultiNetworkPolicies stand between Environment and
// Application. What they allow, Application does not drop any more; what they do not
// allow, it does not allow; of the other direction they say nothing.
func TestOrderOfPodPolicies(t *testing.T) {
	any := func(name string, rank int, rules ...policy.Rule) Policy {
		p := byLabel(t, name, rank, "", rules...)
		p.VMs = nil
		return p
	}
	web := policy.Rule{Action: policy.Drop, Directions: policy.InOut, Services: []policy.Service{{Protocol: policy.UDP, First: 53, Last: 53}}}
	s := &Snapshot{
		Networks: map[string]Network{"lan": {Name: "lan", Default: policy.Allow}},
		Policies: []Policy{any("early", 3, web), any("late", 6, fwRule(policy.Drop))},
		PodPolicies: []PodPolicy{{Namespace: "x", Name: "m", Pods: selectorOf(t, "app=a"), Networks: []string{"lan"}, Isolates: policy.OnlyIn,
			Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "x/m", ID: 1}, Action: policy.Allow, Directions: policy.OnlyIn,
				Sources: []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("10.0.0.0/24"))}}}}},
		Pods: map[string]Pod{"x/a": {Owner: OwnerNone, Labels: map[string]string{"app": "a"}}, "x/b": {Owner: OwnerNone}, "y/a": {Owner: OwnerNone, Labels: map[string]string{"app": "a"}}},
	}
	for pod, want := range map[string]string{"x/a": "early/1 x/m/1 MultiNetworkPolicy/1 late/1", "x/b": "early/1 late/1", "y/a": "early/1 late/1",
		"x/new": "early/1 MultiNetworkPolicy/1 late/1"} {
		namespace, name, _ := strings.Cut(pod, "/")
		if got := keysOf(s.PolicySet("lan", PodRef{Namespace: namespace, Name: name})); got != want {
			t.Errorf("%s: rules %q, want %q", pod, got, want)
		}
	}
	set := s.PolicySet("lan", PodRef{Namespace: "x", Name: "a"})
	in, out := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.1.0.7")
	for _, tt := range []struct {
		p    policy.Packet
		want string
	}{
		{policy.Packet{Direction: policy.In, IP: true, Src: in, Protocol: policy.TCP, HasService: true, Service: 80}, "x/m/1"},
		{policy.Packet{Direction: policy.In, IP: true, Src: in, Protocol: policy.UDP, HasService: true, Service: 53}, "early/1"},
		{policy.Packet{Direction: policy.In, IP: true, Src: out, Protocol: policy.TCP, HasService: true, Service: 80}, "MultiNetworkPolicy/1"},
		{policy.Packet{Direction: policy.Out, IP: true, Src: in, Dst: out, Protocol: policy.TCP, HasService: true, Service: 80}, "late/1"},
		{policy.Packet{Direction: policy.In}, "late/1"},
	} {
		if v := policy.Evaluate(&set, tt.p); v.Rule < 0 || set.Rules[v.Rule].Key.String() != tt.want {
			t.Errorf("%+v is judged by %+v, want %s", tt.p, v, tt.want)
		}
	}
}

// TestUnknownIsNeverMoreOpen: whatever is found out of a port's pod in the end, what
// passed before still passes then.
func TestUnknownIsNeverMoreOpen(t *testing.T) {
	seed := policytest.Seed(t)
	g, rules := npGen{rand.New(rand.NewPCG(seed, 2))}, policytest.New(seed)
	passed, held := 0, 0
	for range 400 {
		w := g.world()
		var other []Policy
		lists, services := map[string]expanded{}, map[string][]policy.Service{}
		for i := range 1 + g.IntN(4) {
			set := rules.SetN(fmt.Sprint("f", i), 1+g.IntN(4))
			for name, ranges := range set.Lists {
				lists[name] = expanded{ranges: ranges}
			}
			maps.Copy(services, set.ServiceLists)
			for i := range set.Rules {
				set.Rules[i].LocalSets = nil // a policy's appliedTo says that, not its rules
			}
			p := Policy{Name: fmt.Sprint("f", i), Rank: one(g, 1, 3, 6), Rules: set.Rules}
			if g.IntN(3) > 0 {
				selector, err := NewSelector(g.selector())
				if err != nil {
					t.Fatal(err)
				}
				if g.IntN(3) > 0 {
					p.VMs = []Selector{selector}
				} else {
					p.NICs = []NICs{{one(g, "lan", "wan"), selector}}
				}
				if g.IntN(2) == 0 {
					p.AddressSets = []string{"some"}
				}
			}
			other = append(other, p)
		}
		for i := range g.IntN(3) {
			w.cluster = append(w.cluster, g.clusterPolicy(i))
		}
		s := w.read(t, other...)
		s.lists, s.serviceLists = lists, services
		s.lists["some"] = expanded{ranges: []policy.AddrRange{}}
		if some := g.packet(w); some.IP {
			s.lists["some"] = expanded{ranges: []policy.AddrRange{{First: some.Src, Last: some.Src}}}
		}
		before := []policy.Set{s.UnknownSet("lan")}
		for _, pod := range w.pods[:3] { // known to be a VM's, but not of which
			s.Pods[PodKey(pod.namespace, pod.name)] = Pod{UID: pod.name, Labels: pod.labels, Owner: OwnerUnknown}
			before = append(before, s.PolicySet("lan", PodRef{pod.namespace, pod.name, pod.name}))
		}
		for i, early := range before {
			for _, owner := range []Owner{OwnerVM, OwnerNone} {
				pod := w.pods[max(i-1, 0)]
				s.Pods[PodKey(pod.namespace, pod.name)] = Pod{UID: pod.name, Labels: pod.labels, Owner: owner, VM: g.labels(), Namespace: map[string]string{"a": "x", "b": one(g, "x", "y")}}
				late := s.PolicySet("lan", PodRef{pod.namespace, pod.name, pod.name})
				for range 20 {
					p := g.packet(w)
					a, b := policy.Evaluate(&early, p), policy.Evaluate(&late, p)
					if a.Action == policy.Allow && b.Action != policy.Allow {
						t.Fatalf("%+v passed while the pod was unknown, and does not for %s %+v\nearly %s\nlate %s", p, owner, pod, keysOf(early), keysOf(late))
					}
					if a.Action == policy.Allow {
						passed++
					} else if b.Action == policy.Allow {
						held++
					}
				}
			}
		}
	}
	if passed < 1000 || held < 1000 {
		t.Errorf("%d passed and %d were held back: too few to tell anything", passed, held)
	}
}

// TestOwnedPods: whose a pod is says its VirtualMachineInstance.
func TestOwnedPods(t *testing.T) {
	pod := func(name string, labels map[string]string, owner string) metav1.PartialObjectMetadata {
		p := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name, UID: "uid-1", Labels: labels}}
		if owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: owner, Name: "o", Controller: new(true)}}
		}
		return p
	}
	launcher := map[string]string{"kubevirt.io": "virt-launcher", "app": "forged"}
	vmi := func(labels map[string]string, active map[string]any) unstructured.Unstructured {
		u := *unstructuredOf(vmiKind)
		u.SetLabels(labels)
		u.SetNamespace("x")
		u.SetName("ledger-1")
		_ = unstructured.SetNestedMap(u.Object, active, "status", "activePods")
		return u
	}
	mine := vmi(map[string]string{"app": "ledger", "kubevirt.io/nodeName": "n1", "vm.kubevirt.io/template": "t", "team.example/x": "y", "kubernetes.io/metadata.name": "forged"}, map[string]any{"uid-1": "n1", "uid-0": "n0"})
	known := map[string]string{"app": "ledger", "team.example/x": "y", "kubernetes.io/metadata.name": "x", "vm.kubevirt.io/name": "ledger-1"}
	before := map[string]Pod{"x/p": {UID: "uid-1", Owner: OwnerVM, VM: known}}
	for what, tt := range map[string]struct {
		pod  metav1.PartialObjectMetadata
		vmis []unstructured.Unstructured
		last map[string]Pod
		want Owner
		vm   map[string]string
	}{
		"a launcher, confirmed":                {pod("p", launcher, "VirtualMachineInstance"), []unstructured.Unstructured{mine}, nil, OwnerVM, known},
		"a launcher, not yet":                  {pod("p", launcher, "VirtualMachineInstance"), nil, nil, OwnerUnknown, nil},
		"only by its owner":                    {pod("p", nil, "VirtualMachineInstance"), nil, nil, OwnerUnknown, nil},
		"only by its label":                    {pod("p", launcher, ""), nil, nil, OwnerUnknown, nil},
		"stripped of both, but its VM says so": {pod("p", nil, ""), []unstructured.Unstructured{mine}, nil, OwnerVM, known},
		"active on another node":               {pod("p", launcher, ""), []unstructured.Unstructured{vmi(nil, map[string]any{"uid-1": "n2"})}, nil, OwnerUnknown, nil},
		"another pod's VM":                     {pod("p", launcher, ""), []unstructured.Unstructured{vmi(nil, map[string]any{"uid-2": "n1"})}, nil, OwnerUnknown, nil},
		"confirmed before":                     {pod("p", launcher, ""), nil, before, OwnerVM, known},
		"another pod was confirmed before":     {pod("p", launcher, ""), nil, map[string]Pod{"x/p": {UID: "uid-9", Owner: OwnerVM}}, OwnerUnknown, nil},
		"a pod without a VM":                   {pod("p", map[string]string{"app": "a"}, "ReplicaSet"), []unstructured.Unstructured{vmi(nil, map[string]any{"uid-2": "n1"})}, nil, OwnerNone, nil},
	} {
		got := ownedPods([]metav1.PartialObjectMetadata{tt.pod}, nil, vmLabels(tt.vmis, "n1"), tt.last)["x/p"]
		if d := cmp.Diff(Pod{UID: "uid-1", Labels: tt.pod.Labels, Owner: tt.want, VM: tt.vm}, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
}

// TestSelectorText: a selector survives being stored, and equal ones are equal.
func TestSelectorText(t *testing.T) {
	g := npGen{rand.New(rand.NewPCG(policytest.Seed(t), 3))}
	for range 500 {
		ls := g.selector()
		s, err := NewSelector(ls)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal([]Selector{s})
		if err != nil {
			t.Fatal(err)
		}
		var back []Selector
		if err := json.Unmarshal(raw, &back); err != nil || !reflect.DeepEqual(back, []Selector{s}) {
			t.Fatalf("%s came back as %v, %v", raw, back, err)
		}
		if set := g.labels(); s.Matches(set) != selects(ls, set) {
			t.Fatalf("%s and %v", raw, set)
		}
	}
	if (Selector{}).Matches(nil) {
		t.Error("the zero Selector selects")
	}
	if _, err := NewSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k", Operator: "Nor"}}}); err == nil {
		t.Error("an operator that does not exist")
	}
}

// TestPodsStored: what is known of pods is stored, told on, and no new revision.
func TestPodsStored(t *testing.T) {
	path := t.TempDir() + "/last.json"
	pods := map[string]Pod{"x/a": {UID: "1", Owner: OwnerVM, VM: map[string]string{"app": "a"}}}
	k := keeper{cache: path, pods: func() map[string]Pod { return pods }}
	d := decodeObject(fromYAML(t, "FirewallPolicy", "p", `{category: Application, appliedTo: [{vm: {matchLabels: {app: a}}}], rules: [{id: 1, action: Drop}]}`))
	m := []manifest{{objects: []object{d.object}}}
	nowhere := func(string) string { return "" }
	first := k.take(m, nowhere)
	pods = map[string]Pod{"x/b": {UID: "2", Owner: OwnerNone}}
	second := k.take(m, nowhere)
	if first.Revision != 1 || second.Revision != 1 || !differs(second, first) {
		t.Errorf("revisions %d and %d; told on: %v", first.Revision, second.Revision, differs(second, first))
	}
	stored, err := LoadSnapshot(path)
	if err != nil || !stored.samePods(second) || !stored.sameContent(second) {
		t.Errorf("stored %+v, %v; want %+v", stored, err, second)
	}
	k.take([]manifest{{objects: []object{decodeObject(fromYAML(t, "FirewallPolicy", "p", `{category: Application, appliedTo: [{any: true}], rules: []}`)).object}}}, nowhere)
	if len(k.last.Pods) != 0 {
		t.Errorf("nothing selects by label, but there are %v", k.last.Pods)
	}
}

// TestPlacementByLabel: VMs may be on every node, and a policy that selects them
// does not become one for every port where its networks are not.
func TestPlacementByLabel(t *testing.T) {
	p := placement{elsewhere: map[key]bool{{"VLANNetwork", "far"}: true}}
	var m manifest
	p.place(&m, decodeObject(fromYAML(t, "FirewallPolicy", "p", `{category: Application, appliedTo: [{network: far}, {vm: {matchLabels: {app: a}}}], rules: []}`)))
	if len(m.objects) != 1 {
		t.Fatal("the policy is not here")
	}
	got := m.objects[0].value.(Policy)
	if got.Any() || len(got.Networks) != 0 || !slices.ContainsFunc(got.VMs, func(s Selector) bool { return s.Matches(map[string]string{"app": "a"}) }) {
		t.Errorf("got %+v", got)
	}
	bad := decodeObject(fromYAML(t, "FirewallPolicy", "p", `{category: Application, appliedTo: [{vm: {matchExpressions: [{key: k, operator: Nor}]}}], rules: []}`))
	if bad.value != nil || len(bad.problems) != 1 || bad.problems[0].Field != "spec.appliedTo[0].vm" {
		t.Errorf("a bad selector: %v", bad.problems)
	}
}
