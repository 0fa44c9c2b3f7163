package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// only is the object of a kind that the server has, by its name's beginning.
func only[T any](t *testing.T, f *fakeAPI) (found T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, o := range f.objects {
		if x, ok := o.(T); ok {
			found = x
			n++
		}
	}
	if n != 1 {
		t.Fatalf("there are %d %T, want one", n, found)
	}
	return found
}

func (f *fakeAPI) warnings() []string { return f.events(corev1.EventTypeWarning) }

func (f *fakeAPI) events(kind string) (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.objects {
		if e, ok := o.(*corev1.Event); ok && e.Type == kind {
			out = append(out, e.Reason)
		}
	}
	slices.Sort(out)
	return out
}

// TestBindings: what the node knows of a port's addresses is in its VMPort and in its NIC's identity, conflicts are
// warned of once, and what annotations declare the node is told.
func TestBindings(t *testing.T) {
	pod := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod001", UID: "u1",
		Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": `[{"name":"lan","interface":"net1","ips":["10.1.0.9/24"]}]`, "network.kubevirt.io/addresses": "10.1.0.8"}}}
	f := newFakeAPI(pod)
	r := newFakeReporter(f)
	p := aPort(1)
	p.Pod.UID, p.Policy, p.VLANs, p.MAC = "u1", "lan", attach.VLANs{PVID: 100}, attach.MAC{0, 0x50, 0x56, 0, 0, 1}
	since := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	at := func(addr, state, how string) wire.Address {
		return wire.Address{Address: netip.MustParseAddr(addr), VLAN: 100, State: state, Provenance: how, Since: since}
	}
	leased, tagged, approved := at("10.1.0.4", wire.AddressHeld, "DHCP"), at("10.1.0.4", wire.AddressHeld, "ARP"), at("10.1.0.5", wire.AddressHeld, "ARP")
	leased.Until, tagged.VLAN, approved.ApprovedBy = since.Add(time.Hour), 200, "ann"
	p.Bindings = []wire.Address{leased, tagged, approved, at("10.1.0.6", wire.AddressAside, "ARP"), at("10.1.0.7", wire.AddressWaiting, "ND")}
	p.Conflicts = []wire.AddressConflict{{Address: netip.MustParseAddr("10.1.0.6"), VLAN: 100, Kind: "Inside", Since: since, Claimants: []wire.AddressClaimant{
		{Namespace: "ns", Name: "db", VM: true, MAC: attach.MAC{2, 0, 0, 0, 0, 9}, Node: "n2", Place: "n2", Since: since},
		{Namespace: "ns", Name: "pod001", MAC: p.MAC, Node: "n1", Place: "n1", Since: since},
		{Outside: true, MAC: attach.MAC{2, 0, 0, 0, 0, 8}, Node: "n1", Place: "uplink of n1, sw1 port 7", Since: since}}}}
	p.Unfit = []wire.Address{{Address: netip.MustParseAddr("10.9.0.5"), Provenance: "Manual", Why: "is in none of the network's subnets: want an address of one"}}
	p.Decided = []wire.AddressDecided{{Address: netip.MustParseAddr("10.1.0.3"), VLAN: 100, Denied: true, By: "ann", At: since}}
	n := &fakeNode{status: wire.NodeStatus{}, ports: []wire.Port{p}, unread: true, unsettled: true}
	mustRound(t, r, n)
	if len(n.owners) > 0 {
		t.Errorf("told of owners before the node knows its networks: %+v", n.owners)
	}
	n.unread = false
	mustRound(t, r, n)
	if got := f.take(); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "VMIdentity ") }) {
		t.Errorf("a node that does not know yet what was known asks for %v", got)
	}
	n.unsettled = false
	mustRound(t, r, n)

	port := only[*v1alpha1.VMPort](t, f)
	if b := port.Status.Bindings; len(b) != 6 || b[0].VLAN != 0 || b[0].Until == nil || b[1].VLAN != 200 || b[1].Until != nil || b[3].State != v1alpha1.BindingAside || !b[0].Since.Equal(&metav1.Time{Time: since.Truncate(time.Second)}) {
		t.Errorf("bindings are %+v", b)
	}
	if c := port.Status.Conflicts; len(c) != 1 || len(c[0].Claimants) != 3 || c[0].Claimants[0].VM != "ns/db" || c[0].Claimants[1].Pod != "ns/pod001" || c[0].Claimants[2].VM+c[0].Claimants[2].Pod != "" || c[0].Claimants[2].Place != "uplink of n1, sw1 port 7" {
		t.Errorf("conflicts are %+v", c)
	}
	unique := meta.FindStatusCondition(port.Status.Conditions, v1alpha1.ConditionAddressesUnique)
	if unique == nil || unique.Reason != v1alpha1.ReasonDuplicateAddress || !strings.Contains(unique.Message, "10.1.0.6 in VLAN 100 is claimed by ns/db (02:00:00:00:00:09, at n2) and by ns/pod001") ||
		!strings.Contains(unique.Message, "somebody outside the cluster (02:00:00:00:00:08, at uplink of n1, sw1 port 7)") {
		t.Errorf("the condition is %+v", unique)
	}
	wrong := meta.FindStatusCondition(port.Status.Conditions, v1alpha1.ConditionAddressesDeclared)
	if wrong == nil || wrong.Status != metav1.ConditionFalse || !strings.Contains(wrong.Message, "network.kubevirt.io/addresses") || !strings.HasSuffix(wrong.Message, "; 10.9.0.5 (Manual) is in none of the network's subnets: want an address of one") {
		t.Errorf("of the annotation is told %+v", wrong)
	}
	id := only[*v1alpha1.VMIdentity](t, f)
	if len(id.Status.Decisions) > 0 {
		t.Errorf("a pod's has %+v", id.Status.Decisions)
	}
	if a, w := id.Status.Addresses, id.Status.Waiting; len(a) != 4 || a[1].VLAN != 200 || a[2].Approved != "ann" || a[3].Address != "10.1.0.9" || len(w) != 1 || w[0].Address != "10.1.0.7" {
		t.Errorf("the identity has %+v", id.Status)
	}
	if o := n.owners[p.Key]; o.VM || o.Name != "pod001" || o.UID != "u1" || len(o.Says) != 1 || o.Says[0].Source != "Multus" || o.Says[0].Addresses[0] != netip.MustParseAddr("10.1.0.9") {
		t.Errorf("the node was told %+v", o)
	}
	if got := f.warnings(); !slices.Equal(got, []string{"DeclarationUnreadable", "DuplicateAddress"}) {
		t.Errorf("warned of %v", got)
	}

	f.take()
	mustRound(t, r, n)
	if got := f.take(); len(got) > 0 {
		t.Errorf("asked for %v", got)
	}
	// The other is gone.
	n.set(func() { n.ports[0].Conflicts, n.ports[0].Bindings = nil, p.Bindings[:1] })
	mustRound(t, r, n)
	if c := meta.FindStatusCondition(only[*v1alpha1.VMPort](t, f).Status.Conditions, v1alpha1.ConditionAddressesUnique); c == nil || c.Status != metav1.ConditionTrue {
		t.Errorf("the condition is %+v", c)
	}
	if got, well := f.warnings(), f.events(corev1.EventTypeNormal); len(got) != 2 || !slices.Equal(well, []string{v1alpha1.ReasonUnique}) {
		t.Errorf("warned of %v, and told of %v", got, well)
	}
	n.set(func() { n.ports[0].Bindings, n.owners = nil, nil })
	f.put("update", &metav1.PartialObjectMetadata{TypeMeta: pod.TypeMeta, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod001", UID: "u1"}})
	r.PodChanged("ns", "pod001")
	mustRound(t, r, n)
	port = only[*v1alpha1.VMPort](t, f)
	if c := meta.FindStatusCondition(port.Status.Conditions, v1alpha1.ConditionAddressesDeclared); c == nil || c.Reason != v1alpha1.ReasonDeclarationUnfit || c.Message != "10.9.0.5 (Manual) is in none of the network's subnets: want an address of one" {
		t.Errorf("of what no NIC can have is told %+v", c)
	}
	n.set(func() { n.ports[0].Unfit = nil })
	mustRound(t, r, n)
	port = only[*v1alpha1.VMPort](t, f)
	if len(port.Status.Bindings) > 0 || meta.FindStatusCondition(port.Status.Conditions, v1alpha1.ConditionAddressesUnique) != nil || meta.FindStatusCondition(port.Status.Conditions, v1alpha1.ConditionAddressesDeclared) != nil {
		t.Errorf("a NIC without an address has %+v", port.Status)
	}
}

// TestBindingsPaced: however often a guest changes its addresses, they are written so often, into its port and its identity each, and its neighbour's at once.
func TestBindingsPaced(t *testing.T) {
	pod := func(name string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	}
	f := newFakeAPI(pod("pod001"), pod("pod002"))
	r := newFakeReporter(f)
	n := &fakeNode{ports: []wire.Port{aPort(1), aPort(2)}}
	for i := range n.ports {
		n.ports[i].Policy, n.ports[i].Pod.UID = "lan", n.ports[i].Pod.Name
	}
	a := netip.MustParseAddr("10.1.0.1")
	writes := func() (one, two int) {
		for _, s := range f.take() {
			switch {
			case strings.HasPrefix(s, "get") || !strings.Contains(s, "VMPort") && !strings.Contains(s, "VMIdentity"):
			case strings.Contains(s, "pod001"):
				one++
			case strings.Contains(s, "pod002"):
				two++
			}
		}
		return one, two
	}
	mustRound(t, r, n)
	writes()
	for range 50 {
		a = a.Next()
		n.set(func() { n.ports[0].Bindings = []wire.Address{{Address: a, State: wire.AddressHeld, Provenance: "ARP"}} })
		mustRound(t, r, n)
	}
	const first = 2 // the identity and its status
	if one, two := writes(); one < 2*addressBurst || one > 2*addressBurst+first || two != 0 {
		t.Errorf("wrote %d times of the one, %d of the other", one, two)
	}
	if wait, err := r.round(t.Context(), n); err != nil || wait > addressEvery {
		t.Errorf("the last is told after %v, %v", wait, err)
	}
	writes()
	n.set(func() { n.ports[1].Bindings = n.ports[0].Bindings })
	mustRound(t, r, n)
	if _, two := writes(); two < 2 {
		t.Errorf("wrote %d times of the neighbour", two)
	}
}

// TestBindingsBounded: a status holds as many as the API lets it.
func TestBindingsBounded(t *testing.T) {
	p := aPort(1)
	a := netip.MustParseAddr("10.1.0.1")
	for range 200 {
		for _, state := range []string{wire.AddressHeld, wire.AddressWaiting} {
			p.Bindings = append(p.Bindings, wire.Address{Address: a, State: state})
		}
		p.Conflicts = append(p.Conflicts, wire.AddressConflict{Address: a, Claimants: make([]wire.AddressClaimant, 9)})
		a = a.Next()
	}
	id := (&Reporter{}).identityStatus(&p)
	conflicts, unique := portConflicts(&p), addressesUnique(&p)
	if len(portBindings(&p)) != mostBindings || len(conflicts) != mostConflicts || len(conflicts[0].Claimants) != mostClaimants || len(id.Addresses) != mostBindings || len(id.Waiting) != mostWaiting || len(unique.Message) > 32768 {
		t.Errorf("%d bindings, %d conflicts, identity %d and %d, message of %d bytes", len(portBindings(&p)), len(conflicts), len(id.Addresses), len(id.Waiting), len(unique.Message))
	}
}

// TestIdentityDeleted: who deletes the identity of a VM that runs here has it back with the next look at the server's objects.
func TestIdentityDeleted(t *testing.T) {
	pod := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "pod001", UID: "u1", Labels: map[string]string{launcherLabel: launcherValue},
		OwnerReferences: []metav1.OwnerReference{{Kind: vmiKind, Name: "vm", Controller: new(true)}}}}
	vmi := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"namespace": "ns", "name": "vm", "uid": "v1"},
		"status": map[string]any{"activePods": map[string]any{"u1": "n1"}, "nodeName": "n1"}}}
	vmi.SetGroupVersionKind(vmiVersion)
	f := newFakeAPI(pod, vmi)
	p := aPort(1)
	p.Pod.UID, p.Policy = "u1", "lan"
	r, n := newFakeReporter(f), &fakeNode{ports: []wire.Port{p}}
	mustRound(t, r, n)
	o := only[*v1alpha1.VMIdentity](t, f)
	delete(f.objects, f.name(o))
	mustRound(t, r, n)
	if _, ok := f.objects[f.name(o)]; ok {
		t.Error("it is asked for each time")
	}
	r.looked = time.Time{}
	mustRound(t, r, n)
	only[*v1alpha1.VMIdentity](t, f)
}

// TestMACUnique: a MAC that another station uses, too, is a condition with a warning, once, for as long as it is so.
func TestMACUnique(t *testing.T) {
	f := newFakeAPI()
	p := aPort(1)
	r, n := newFakeReporter(f), &fakeNode{ports: []wire.Port{p}}
	of := func() *metav1.Condition {
		t.Helper()
		mustRound(t, r, n)
		return meta.FindStatusCondition(only[*v1alpha1.VMPort](t, f).Status.Conditions, v1alpha1.ConditionMACUnique)
	}
	if c := of(); c != nil {
		t.Errorf("without: %+v", c)
	}
	n.set(func() {
		n.ports[0].MACConflict = &wire.MACConflict{Namespace: "ns", Name: "db", MAC: attach.MAC{2, 0, 0, 0, 0, 9}, VLAN: 100, Place: "uplink of n1, sw1 port 7", Since: time.Unix(7, 0)}
	})
	for range 2 {
		if c := of(); c == nil || c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonDuplicateMAC || !strings.Contains(c.Message, "02:00:00:00:00:09 of ns/db is in VLAN 100 used elsewhere, too, at uplink of n1, sw1 port 7") {
			t.Errorf("it is %+v", c)
		}
	}
	if got := f.warnings(); !slices.Equal(got, []string{v1alpha1.ReasonDuplicateMAC}) {
		t.Errorf("warned of %v", got)
	}
	n.set(func() { n.ports[0].MACConflict = nil })
	if c := of(); c != nil {
		t.Errorf("it is over: %+v", c)
	}
}

// TestOlderCRDs: what CRDs of an older version leave out is not written anew each time.
func TestOlderCRDs(t *testing.T) {
	f := newFakeAPI()
	f.older = func(o client.Object) {
		if p, ok := o.(*v1alpha1.VMPort); ok {
			p.Status.Bindings, p.Status.Conditions = nil, p.Status.Conditions[:1]
		}
	}
	p := aPort(1)
	p.Bindings = []wire.Address{{Address: netip.MustParseAddr("10.1.0.4"), VLAN: 100, State: wire.AddressHeld, Provenance: "ARP"}}
	r, n := newFakeReporter(f), &fakeNode{ports: []wire.Port{p}}
	mustRound(t, r, n)
	f.take()
	mustRound(t, r, n)
	if got := f.take(); len(got) > 0 {
		t.Errorf("without news it asks for %v", got)
	}
	if o := only[*v1alpha1.VMPort](t, f); o.Status.Bindings != nil {
		t.Fatal("they are taken")
	}
}

// TestTogether: NICs of one VM on one network have one identity, which is the same whichever is asked for, in whatever order they are and
// whichever is open first; it says whose is what.
func TestTogether(t *testing.T) {
	nic := func(n byte, addresses ...string) wire.Port {
		p := aPort(int(n))
		p.Pod, p.Policy, p.VLANs.PVID, p.MAC = attach.Pod{Namespace: "ns", Name: "launcher", UID: "u"}, "lan", 100, attach.MAC{0, 0x50, 0x56, 0, 0, n}
		for _, a := range addresses {
			p.Bindings = append(p.Bindings, wire.Address{Address: netip.MustParseAddr(a), VLAN: 100, State: wire.AddressHeld})
		}
		return p
	}
	one, two, three := nic(1, "10.0.0.1", "fe80::1"), nic(2, "10.0.0.2", "fe80::1", "10.0.0.1"), nic(3, "10.0.0.3")
	two.Bindings[2].VLAN = 200
	two.Bindings = append(two.Bindings, wire.Address{Address: netip.MustParseAddr("10.0.0.6"), VLAN: 100, State: wire.AddressWaiting})
	decided := func(a, by string) wire.AddressDecided {
		return wire.AddressDecided{Address: netip.MustParseAddr(a), VLAN: 100, By: by}
	}
	one.Decided, two.Decided = []wire.AddressDecided{decided("10.0.0.9", "ann")}, []wire.AddressDecided{decided("10.0.0.9", "bob"), decided("10.0.0.8", "bob")}
	other, elsewhere := nic(0, "10.0.0.7"), nic(0, "10.0.0.7")
	other.Pod.Name, elsewhere.Policy = "another", "wan"
	const its = "00:50:56:00:00:0"
	text := func(ports ...wire.Port) string {
		s := (&Reporter{node: "n1"}).togetherStatus(&ports[0], ports)
		out := s.Node + " " + s.MAC
		for _, list := range [][]v1alpha1.AddressStatus{s.Addresses, s.Waiting} {
			for _, a := range list {
				out += fmt.Sprintf(" %s/%d=%s", a.Address, a.VLAN, strings.TrimPrefix(a.MAC, its))
			}
			out += ";"
		}
		for _, d := range s.Decisions {
			out += fmt.Sprintf(" %s/%d=%s by %s", d.Address, d.VLAN, strings.TrimPrefix(d.MAC, its), d.By)
		}
		return out
	}
	want := "n1 " + its + "1 10.0.0.1/0= fe80::1/0= 10.0.0.2/0=2 10.0.0.1/200=2 10.0.0.3/0=3; 10.0.0.6/0=2; 10.0.0.9/0= by ann 10.0.0.8/0=2 by bob"
	for _, ports := range [][]wire.Port{{one, two, three, other, elsewhere}, {three, other, two, one}, {two, elsewhere, one, three}} {
		if got := text(ports...); got != want {
			t.Errorf("they are %s, want %s", got, want)
		}
	}
	one.State = attach.Quarantined
	if got, want := text(two, one), "n1 "+its+"1 10.0.0.2/0=2 10.0.0.1/200=2 fe80::1/0=2; 10.0.0.6/0=2; 10.0.0.8/0=2 by bob 10.0.0.9/0=2 by bob"; got != want {
		t.Errorf("before the first is open they are %s, want %s", got, want)
	}
}

// TestDecisions: of a VM's NIC what was decided goes with its identity, the latest of it; a pod goes nowhere.
func TestDecisions(t *testing.T) {
	p := aPort(1)
	p.VLANs.PVID = 100
	since := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for i := range 100 {
		p.Decided = append(p.Decided, wire.AddressDecided{Address: netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), VLAN: 100, Denied: i%2 == 0, By: "ann", At: since.Add(time.Duration(i) * time.Second)})
	}
	p.Decided[99].VLAN = 200
	got := (&Reporter{}).identityStatus(&p).Decisions
	if len(got) != mostDecisions || got[0].Address != "10.1.0.99" || got[0].VLAN != 200 || got[1].VLAN != 0 || got[63].Address != "10.1.0.36" || !got[63].Denied || got[63].By != "ann" || got[63].At.Nanosecond() != 0 {
		t.Errorf("%d decisions: %+v", len(got), got)
	}
}
