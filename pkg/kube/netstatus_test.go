package kube

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// multusText is as Multus writes it.
const multusText = `[{
    "name": "cbr0",
    "interface": "eth0",
    "ips": [
        "10.244.1.7"
    ],
    "mac": "22:6f:5e:00:00:01",
    "default": true,
    "dns": {}
},{
    "name": "shop/lan",
    "interface": "net1",
    "mac": "00:50:56:00:00:02",
    "mtu": 1500,
    "dns": {},
    "x-ours": {"b": 1, "a": 1.50}
}]`

// TestWithIPs: the ips of the one element are others, and every byte beside them is what it was.
func TestWithIPs(t *testing.T) {
	mac := attach.MAC{0, 0x50, 0x56, 0, 0, 2}
	with := strings.Replace(multusText, `"interface": "net1"`, `"interface": "net1","ips":["10.1.0.5","fd00::5"]`, 1)
	two := `[{"interface":"net1","mac":"02:00:00:00:00:09"},{"interface":"net1","mac":"00:50:56:00:00:02","ips":[ "10.1.0.9" ] }]`
	for _, tt := range []struct {
		name, text, ifname string
		ips                []netip.Addr
		want               string
	}{
		{"new", multusText, "net1", addrs("10.1.0.5", "fd00::5"), with},
		{"the same", with, "net1", addrs("10.1.0.5", "fd00::5"), with},
		{"another", with, "net1", addrs("10.1.0.6"), strings.Replace(with, `["10.1.0.5","fd00::5"]`, `["10.1.0.6"]`, 1)},
		{"none any more", with, "net1", nil, strings.Replace(with, `["10.1.0.5","fd00::5"]`, `[]`, 1)},
		{"none, and none was", multusText, "net1", nil, multusText},
		{"none, of null", `[{"interface":"net1","ips":null}]`, "net1", nil, `[{"interface":"net1","ips":null}]`},
		{"some, of null", `[{"ips" : null , "interface":"net1"}]`, "net1", addrs("10.1.0.6"), `[{"ips" : ["10.1.0.6"] , "interface":"net1"}]`},
		{"what Multus had", multusText, "eth0", addrs("10.1.0.6"), strings.Replace(multusText, "[\n        \"10.244.1.7\"\n    ]", `["10.1.0.6"]`, 1)},
		{"an interface that is not there yet", multusText, "net2", addrs("10.1.0.6"), multusText},
		{"by MAC, where two have the name", two, "net1", addrs("10.1.0.6"), strings.Replace(two, `[ "10.1.0.9" ]`, `["10.1.0.6"]`, 1)},
		{"two, and neither is it", strings.Replace(two, "00:50", "00:51", 1), "net1", addrs("10.1.0.6"), strings.Replace(two, "00:50", "00:51", 1)},
		{"no interface", `[{"name":"a"}, {"interface":"net1"}]`, "net1", addrs("10.1.0.6"), `[{"name":"a"}, {"interface":"net1","ips":["10.1.0.6"]}]`},
		{"no list", ` [] `, "net1", addrs("10.1.0.6"), ` [] `},
		{"beyond ASCII", `[{"name":"büro","interface":"net1","é":"ü"}]`, "net1", addrs("10.1.0.6"), `[{"name":"büro","interface":"net1","ips":["10.1.0.6"],"é":"ü"}]`},
	} {
		if got, err := withIPs(tt.text, tt.ifname, mac, tt.ips); err != nil || got != tt.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", tt.name, err, got, tt.want)
		}
	}
}

// TestBadNetworkStatus: what is no network-status stays as it is, and is told with what would be right.
func TestBadNetworkStatus(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "is not JSON",
		"lan":                           "is not JSON",
		`[{"interface":"net1"}`:         "is not JSON",
		`[{"interface":"net1"}] x`:      "is not JSON",
		`{"interface":"net1"}`:          "is no list",
		`"net1"`:                        "is no list",
		`null`:                          "is no list",
		`[{"interface":"net0"},"net1"]`: "[1] is no object",
		`[null]`:                        "[0] is no object",
		`[{"interface":7}]`:             "[0] is of another form",
		`[{"interface":"net1","ips":"10.1.0.5"}]`: "[0] is of another form",
		`[{"interface":"net1","mac":[]}]`:         "[0] is of another form",
	} {
		got, err := withIPs(text, "net1", nil, addrs("10.1.0.6"))
		if got != text || err == nil || !strings.HasPrefix(err.Error(), "annotation k8s.v1.cni.cncf.io/network-status "+want+": want the list that Multus writes") {
			t.Errorf("%s: %s, %v; want %q", text, got, err, want)
		}
	}
}

// FuzzWithIPs: whatever is there, all but the ips means what it did, and asked once more there is nothing to do.
func FuzzWithIPs(f *testing.F) {
	f.Add(multusText)
	f.Add(`[{"interface":"net1","ips":[]},{"interface":"net1"},{"ips":7}]`)
	f.Add(`[{"interface":"net1","ips":["a"],"ips":null,"interface":"net1"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		mac := attach.MAC{0, 0x50, 0x56, 0, 0, 2}
		got, err := withIPs(text, "net1", mac, addrs("10.1.0.6"))
		if err != nil || got == text {
			if got != text {
				t.Errorf("%q became %q with %v", text, got, err)
			}
			return
		}
		var before, after []map[string]any
		if json.Unmarshal([]byte(text), &before) != nil || json.Unmarshal([]byte(got), &after) != nil {
			t.Fatalf("%q became %q", text, got)
		}
		changed := 0
		for i := range after {
			if len(before) != len(after) || !reflect.DeepEqual(before[i], after[i]) {
				changed++
				if !reflect.DeepEqual(after[i]["ips"], []any{"10.1.0.6"}) {
					t.Errorf("%q became %q", text, got)
				}
				delete(before[i], "ips")
				delete(after[i], "ips")
				if !reflect.DeepEqual(before[i], after[i]) {
					t.Errorf("%q became %q", text, got)
				}
			}
		}
		if again, err := withIPs(got, "net1", mac, addrs("10.1.0.6")); changed > 1 || again != got || err != nil {
			t.Errorf("%q became %q, and %q, %v", text, got, again, err)
		}
	})
}

// statusNode is a node with a port of the pod, which Multus has written of.
func statusNode(text string) (*fakeAPI, *Reporter, *fakeNode) {
	pod := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod001", UID: "u1", Annotations: map[string]string{desired.NetworkStatusAnnotation: text, "other": "stays"}}}
	f := newFakeAPI(pod)
	p := aPort(1)
	p.Pod.UID, p.VLANs, p.MAC, p.NetworkStatus = "u1", attach.VLANs{PVID: 100}, attach.MAC{0, 0x50, 0x56, 0, 0, 2}, true
	p.Bindings = []wire.Address{{Address: addrs("fe80::2")[0], VLAN: 100, State: wire.AddressHeld}, {Address: addrs("fd00::5")[0], VLAN: 100, State: wire.AddressHeld},
		{Address: addrs("10.1.0.5")[0], VLAN: 100, State: wire.AddressHeld}, {Address: addrs("10.1.0.6")[0], VLAN: 100, State: wire.AddressAside},
		{Address: addrs("10.2.0.5")[0], VLAN: 200, State: wire.AddressHeld}}
	return f, newFakeReporter(f), &fakeNode{ports: []wire.Port{p}}
}

func (f *fakeAPI) networkStatus() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects["Pod ns/pod001"].GetAnnotations()[desired.NetworkStatusAnnotation]
}

func (f *fakeAPI) annotate(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects["Pod ns/pod001"].GetAnnotations()[desired.NetworkStatusAnnotation] = text
}

// patches are the requests that change pods.
func (f *fakeAPI) patches() (n int) {
	for _, s := range f.take() {
		if strings.HasPrefix(s, "patch Pod") {
			n++
		}
	}
	return n
}

// TestNetworkStatus: what the NIC holds in its untagged VLAN is in the annotation as long as it does and the network wants it,
// and nothing is asked for twice.
func TestNetworkStatus(t *testing.T) {
	f, r, n := statusNode(multusText)
	want := strings.Replace(multusText, `"interface": "net1"`, `"interface": "net1","ips":["10.1.0.5","fd00::5"]`, 1)
	n.unsettled = true // others may know more
	mustRound(t, r, n)
	if got := f.networkStatus(); got != multusText {
		t.Errorf("written before the node knows what was known: %s", got)
	}
	n.unsettled = false
	mustRound(t, r, n)
	if got := f.networkStatus(); got != want {
		t.Errorf("it is %s", got)
	}
	f.take()
	r.PodChanged("ns", "pod001")
	mustRound(t, r, n)
	if p := f.patches(); p != 0 {
		t.Errorf("patched %d times without news", p)
	}
	n.set(func() { n.ports[0].State = attach.Quarantined; n.ports[0].Bindings = n.ports[0].Bindings[:1] })
	mustRound(t, r, n)
	if got := f.networkStatus(); got != want {
		t.Errorf("of a port that is not open: %s", got)
	}
	n.set(func() { n.ports[0].State = attach.Active })
	mustRound(t, r, n)
	if got := f.networkStatus(); got != strings.Replace(want, `["10.1.0.5","fd00::5"]`, `[]`, 1) {
		t.Errorf("with nothing held: %s", got)
	}
	// It is switched off while no agent runs: what the CNI plugin gave is there again with the next one, and what is held no more.
	n.set(func() { n.ports[0].NetworkStatus, n.ports[0].Addresses = false, addrs("10.1.0.7") })
	r = newFakeReporter(f)
	mustRound(t, r, n)
	if got := f.networkStatus(); got != strings.Replace(want, `["10.1.0.5","fd00::5"]`, `["10.1.0.7"]`, 1) {
		t.Errorf("switched off: %s", got)
	}
	mustRound(t, r, n) // the port says of it no more
	f.annotate(multusText)
	r.PodChanged("ns", "pod001")
	mustRound(t, r, n)
	if got := f.networkStatus(); got != multusText {
		t.Errorf("written although nobody wants it: %s", got)
	}
}

// TestNetworkStatusAtOnce: who writes at the same time loses nothing, and who is refused is told once.
func TestNetworkStatusAtOnce(t *testing.T) {
	f, r, n := statusNode(`[{"interface":"net1"}]`)
	f.meet = func(request string) error {
		if strings.HasPrefix(request, "patch Pod") && !strings.Contains(f.networkStatus(), "net2") {
			f.annotate(`[{"interface":"net1"},{"interface":"net2"}]`) // a NIC was plugged in
		}
		return nil
	}
	mustRound(t, r, n)
	if got := f.networkStatus(); got != `[{"interface":"net1","ips":["10.1.0.5","fd00::5"]},{"interface":"net2"}]` {
		t.Errorf("it is %s", got)
	}
	f.meet = func(request string) error {
		if strings.HasPrefix(request, "patch Pod") {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "pods/status"}, "pod001", nil)
		}
		return nil
	}
	f.take()
	n.set(func() { n.ports[0].Bindings = nil })
	if _, err := r.round(t.Context(), n); err == nil || !strings.Contains(err.Error(), "write k8s.v1.cni.cncf.io/network-status of pod ns/pod001") || !onlyRefused(err) {
		t.Errorf("refused: %v", err)
	}
	if p := f.patches(); p != 1 {
		t.Errorf("asked %d times", p)
	}
	of := func() *metav1.Condition {
		_, _ = r.round(t.Context(), n)
		return meta.FindStatusCondition(only[*v1alpha1.VMPort](t, f).Status.Conditions, v1alpha1.ConditionNetworkStatusWritten)
	}
	if c := of(); c == nil || c.Reason != v1alpha1.ReasonNetworkStatusRefused || !strings.Contains(c.Message, "forbidden") {
		t.Errorf("refused, the condition is %+v", c)
	}
	f.meet = nil
	of()
	if c := of(); c == nil || c.Status != metav1.ConditionTrue || !strings.Contains(f.networkStatus(), `"ips":[]`) {
		t.Errorf("taken, the condition is %+v, and it is %s", c, f.networkStatus())
	}
}

// TestNetworkStatusUnreadable: an annotation of another form is left as it is, and the port says so, until it is one again.
func TestNetworkStatusUnreadable(t *testing.T) {
	f, r, n := statusNode("lan")
	mustRound(t, r, n)
	of := func() *metav1.Condition {
		return meta.FindStatusCondition(only[*v1alpha1.VMPort](t, f).Status.Conditions, v1alpha1.ConditionNetworkStatusWritten)
	}
	if c := of(); c == nil || c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonNetworkStatusUnreadable || !strings.Contains(c.Message, "network-status is not JSON: want the list that Multus writes") {
		t.Errorf("the condition is %+v", c)
	}
	if got := f.warnings(); !slices.Equal(got, []string{"NetworkStatusUnreadable"}) || f.networkStatus() != "lan" {
		t.Errorf("warned of %v; it is %s", got, f.networkStatus())
	}
	f.annotate(`[{"interface":"net1"}]`)
	r.PodChanged("ns", "pod001")
	mustRound(t, r, n)
	if c, got := of(), f.networkStatus(); c == nil || c.Reason != v1alpha1.ReasonAddressesWritten || !strings.Contains(got, "10.1.0.5") {
		t.Errorf("the condition is %+v, and it is %s", c, got)
	}
}

// TestNetworkStatusPaced: however often a guest changes its addresses, the annotation is written so often.
func TestNetworkStatusPaced(t *testing.T) {
	f, r, n := statusNode(multusText)
	mustRound(t, r, n)
	f.take()
	a := addrs("10.1.0.9")[0]
	for range 50 {
		a = a.Next()
		n.set(func() { n.ports[0].Bindings = []wire.Address{{Address: a, VLAN: 100, State: wire.AddressHeld}} })
		mustRound(t, r, n)
	}
	if p := f.patches(); p < 1 || p > addressBurst {
		t.Errorf("patched %d times", p)
	}
}

// TestNetworkStatusNoLoop: what the node wrote is nobody's word for it, should a VirtualMachineInstance repeat it.
func TestNetworkStatusNoLoop(t *testing.T) {
	p := aPort(1)
	c := &confirmation{vm: &v1alpha1.VMReference{Name: "db"}, nics: []nic{{name: "lan", pod: p.IfName, addresses: addrs("10.1.0.5")}},
		networkStatus: `[{"interface":"net1","ips":["10.1.0.5"]}]`, annotations: annotationsOf(map[string]string{desired.NetworkStatusAnnotation: `[{"interface":"net1","ips":["10.1.0.5"]}]`})}
	if got := c.says(&p); len(got) != 1 {
		t.Errorf("without the option it says %+v", got)
	}
	if p.NetworkStatus = true; len(c.says(&p)) != 0 {
		t.Errorf("it says %+v", c.says(&p))
	}
	c.nics[0].guest = true
	if got := c.says(&p); len(got) != 1 || !got[0].Guest {
		t.Errorf("the guest agent says %+v", got)
	}
}

// TestNetworkStatusWritten: with the rights and the policy that the manifests give, at an API server.
func TestNetworkStatusWritten(t *testing.T) {
	b := newBench(t)
	web := b.podPort("web", func(p *corev1.Pod) {
		p.Annotations = map[string]string{desired.NetworkStatusAnnotation: multusText, "other": "stays"}
	}, "10.1.0.7")
	web.NetworkStatus = true
	b.node.set(func() { b.node.ports = []wire.Port{web} })
	status := func(want string) {
		b.Helper()
		until(b, &corev1.Pod{}, "default", "web", func(p *corev1.Pod, found bool) bool {
			return found && p.Annotations[desired.NetworkStatusAnnotation] == want && p.Annotations["other"] == "stays" && p.Spec.NodeName == "n1"
		})
	}
	written := strings.Replace(multusText, `"interface": "net1"`, `"interface": "net1","ips":["10.1.0.7"]`, 1)
	status(written)
	// Multus writes it anew, as where a NIC is plugged in: the node does so, too.
	var pod corev1.Pod
	if err := b.Get(b.Context(), client.ObjectKey{Namespace: "default", Name: "web"}, &pod); err != nil {
		t.Fatal(err)
	}
	pod.Annotations[desired.NetworkStatusAnnotation] = strings.Replace(multusText, "1500", "1400", 1)
	if err := b.Status().Update(b.Context(), &pod); err != nil {
		t.Fatal(err)
	}
	b.reporter.PodChanged("default", "web")
	status(strings.Replace(written, "1500", "1400", 1))
	b.node.set(func() { b.node.ports[0].Addresses = nil })
	status(strings.NewReplacer("1500", "1400", `["10.1.0.7"]`, "[]").Replace(written))
}
