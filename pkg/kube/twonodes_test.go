package kube

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	"github.com/homeport-cni/homeport/pkg/binding"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/kube/live"
	"github.com/homeport-cni/homeport/pkg/snoop"
	"github.com/homeport-cni/homeport/pkg/vlan"
	"github.com/homeport-cni/homeport/test/apiserver"
)

// bookNode is a node with its book of addresses, and all between that and the API: what it reports, and what it follows. Its map
// is nobody's, and its ports have no kernel.
type bookNode struct {
	testing.TB
	*binding.Keeper
	name    string
	changed chan struct{}
	ahead   atomic.Int64 // of the clock, in ns

	mu    sync.Mutex
	snap  *desired.Snapshot
	ports []wire.Port
}

func (n *bookNode) Put(binding.Key, binding.Holder) error { return nil }
func (n *bookNode) Drop(binding.Key) error                { return nil }
func (n *bookNode) Changed() <-chan struct{}              { return n.changed }

func (n *bookNode) now() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) }

func (n *bookNode) Status() wire.NodeStatus {
	return wire.NodeStatus{Version: "v1", Desired: 1, Trunks: []wire.TrunkStatus{{Name: "t", Bridge: "br0", Link: wire.LinkUp, MTU: 1500, Ready: true}}}
}

func (n *bookNode) Ports() ([]wire.Port, []wire.Drop) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := slices.Clone(n.ports)
	for i := range out {
		out[i].Bindings, out[i].Conflicts = n.Of(out[i].Key)
	}
	return out, nil
}

func (n *bookNode) Own(port attach.Key, o wire.Owner) (news, settled bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.Keeper.Own(port, o), n.snap != nil && n.Followed()
}

func (n *bookNode) news() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// has gives the node these ports, with interface numbers from 1 on, and follow has its book know what there is.
func (n *bookNode) has(ports ...wire.Port) {
	n.mu.Lock()
	n.ports = ports
	n.mu.Unlock()
	n.follow()
	n.news()
}

func (n *bookNode) follow() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.snap == nil {
		return
	}
	var ports []binding.Port
	for i := range n.ports {
		p := &n.ports[i]
		ports = append(ports, binding.Port{Key: p.Key, IfIndex: i + 1, Trunk: p.Trunk, Network: p.Policy, MAC: p.MAC, VLANs: p.VLANs, Pod: p.Pod})
	}
	n.Follow(n.snap.Networks, ports, append([]desired.Identity{}, n.snap.Identities...))
}

// hears has the node's port hear a frame.
func (n *bookNode) hears(port int, out bool, frame []byte) {
	n.Helper()
	if !n.Heard(port, snoop.Frame{At: n.now(), Out: out, VLAN: 100, Data: frame}) {
		n.Fatalf("%s has no port %d", n.name, port)
	}
}

// knows waits until the node says so of an address: "state name node provenance" of each that claims it, and CONFLICT.
func (n *bookNode) knows(addr string, want ...string) (is []wire.Address) {
	n.Helper()
	var got []string
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		got, is = nil, n.Addresses(addr)
		for _, a := range is {
			s := fmt.Sprintf("%s %s %s %s", a.State, a.Name, a.Node, a.Provenance)
			if a.Conflict {
				s += " CONFLICT"
			}
			got = append(got, strings.TrimSpace(s))
		}
		if slices.Equal(got, want) {
			return is
		}
	}
	n.Fatalf("%s says of %s %q, want %q", n.name, addr, got, want)
	return nil
}

// bookNode starts one at the API server.
func (b *bench) bookNode(name string) *bookNode {
	b.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	n := &bookNode{TB: b, name: name, changed: make(chan struct{}, 1)}
	var err error
	if n.Keeper, err = binding.New(binding.Config{Node: name, Map: n, Log: log, Now: n.now, Uplink: func(string) string { return "" }, News: n.news}, nil); err != nil {
		b.Fatal(err)
	}
	r, err := NewReporter(b.agent(name), name, log)
	if err != nil {
		b.Fatal(err)
	}
	r.countersEvery, r.lookEvery, r.nodeEvery, r.retryMost = time.Hour, time.Hour, time.Hour, 100*time.Millisecond
	r.watch.look = 100 * time.Millisecond
	source, err := desired.NewKube(live.New(b.agent(name)), name, "")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	snaps, err := source.Watch(ctx)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := range snaps {
			n.mu.Lock()
			n.snap = s
			n.mu.Unlock()
			n.follow()
			n.news()
		}
	})
	wg.Go(func() {
		if err := r.Run(ctx, n); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() { cancel(); wg.Wait() })
	for end := time.Now().Add(60 * time.Second); !n.Followed(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("node %s has read nothing: %v", name, source.Problem())
		}
	}
	return n
}

// launcher is a pod of a VM on a node, and its port there.
func (b *bench) launcher(vm, pod, node string, mac attach.MAC) wire.Port {
	b.Helper()
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod, Labels: map[string]string{"kubevirt.io": "virt-launcher"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: vmiKind, Name: vm, UID: "vmi-uid", Controller: new(true)}}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "compute", Image: "none"}}}}
	if err := b.Create(b.Context(), o); err != nil {
		b.Fatal(err)
	}
	return wire.Port{State: attach.Active, Record: attach.Record{
		Request: attach.Request{Key: attach.Key{ContainerID: "c-" + pod, IfName: "pod37a8eec1ce1"}, MAC: mac, Network: "lan", HostIfName: "veth1",
			Pod: attach.Pod{Namespace: "default", Name: pod, UID: string(o.UID)}},
		Trunk: "t", Bridge: "br0", Policy: "lan", EffectiveMTU: 1500, VLANs: attach.VLANs{Mode: vlan.Access, PVID: 100}}}
}

// runs writes the VM's VirtualMachineInstance as KubeVirt has it: with its pods, by node, and the node that it runs on.
func (b *bench) runs(vm, node string, mac attach.MAC, pods map[string]any) {
	b.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "kubevirt.io/v1", "kind": vmiKind,
		"metadata": map[string]any{"namespace": "default", "name": vm, "labels": map[string]any{"app": vm, "kubevirt.io/nodeName": node}, "ownerReferences": []any{map[string]any{
			"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": vm, "uid": "uid-" + vm, "controller": true}}},
		"spec": map[string]any{"domain": map[string]any{"devices": map[string]any{"interfaces": []any{map[string]any{"name": "lan", "macAddress": mac.String()}}}}},
		"status": map[string]any{"activePods": pods, "nodeName": node, "interfaces": []any{map[string]any{
			"name": "lan", "podInterfaceName": "pod37a8eec1ce1", "mac": mac.String(), "infoSource": "domain"}}}}}
	have := &unstructured.Unstructured{}
	have.SetGroupVersionKind(vmiVersion)
	err := b.Get(b.Context(), client.ObjectKeyFromObject(u), have)
	if err == nil {
		u.SetResourceVersion(have.GetResourceVersion())
		err = b.Update(b.Context(), u)
	} else {
		err = b.Create(b.Context(), u)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// lease are the question and the answer by which a NIC gets 10.100.0.10 for an hour, of the packet tables of pkg/snoop.
func lease(t *testing.T, mac attach.MAC) (question, answer []byte) {
	t.Helper()
	text, err := os.ReadFile("../snoop/testdata/boots.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if f[0] != "Windows" || len(f) != 6 {
			continue
		}
		frame, err := hex.DecodeString(f[5])
		if err != nil {
			t.Fatal(err)
		}
		frame = bytes.ReplaceAll(frame, []byte{0x52, 0x54, 0, 0, 1, 1}, mac)
		switch {
		case f[3] == "DHCPREQUEST":
			question = frame
		case f[3] == "DHCPACK":
			return question, frame
		}
	}
	t.Fatal("the tables have no lease")
	return nil, nil
}

// TestTwoNodes: what a VM was heard to have on one node another knows by its identity, and goes on with when the VM has come there; who
// claims it there does not get it, and both nodes say so.
func TestTwoNodes(t *testing.T) {
	s := apiserver.Start(t, "../../deploy/base/crds", "testdata/kubevirt.yaml")
	s.Apply("../../deploy/base/namespace.yaml", "../../deploy/base/rbac.yaml", "../../deploy/base/admission.yaml", "testdata/twonodes.yaml")
	own, err := NewReporter(s.Config(), "n0", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{TB: t, Server: s, Client: own.client}
	n1, n2 := b.bookNode("n1"), b.bookNode("n2")
	mac, thief := attach.MAC{0, 0x50, 0x56, 0, 0, 1}, attach.MAC{0, 0x50, 0x56, 0, 0, 2}
	says := func(m attach.MAC, addr string) []byte {
		a := netip.MustParseAddr(addr).As4()
		return slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, m, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, m, a[:], make([]byte, 6), a[:], make([]byte, 18))
	}

	// On n1 it gets one by DHCP and says another by ARP.
	first := b.launcher("till", "virt-launcher-till-a", "n1", mac)
	b.runs("till", "n1", mac, map[string]any{first.Pod.UID: "n1"})
	n1.has(first)
	question, answer := lease(t, mac)
	n1.hears(1, true, question)
	n1.hears(1, false, answer)
	n1.hears(1, true, says(mac, "10.100.0.11"))
	leased := n1.knows("10.100.0.10", "Held till n1 DHCP")[0]
	seen := n1.knows("10.100.0.11", "Held till n1 ARP")[0]
	kept := func(n *bookNode, addr, want string, was wire.Address) {
		t.Helper()
		is := n.knows(addr, want)[0]
		if !is.VM || is.Namespace != "default" || !is.Since.Equal(was.Since.Truncate(time.Second)) || !is.Until.Equal(was.Until.Truncate(time.Second)) || !slices.Equal(is.MAC, mac) {
			t.Errorf("%s has %+v, want as it was: %+v", n.name, is, was)
		}
	}
	kept(n2, "10.100.0.10", "Held till n1 DHCP", leased)
	kept(n2, "10.100.0.11", "Held till n1 ARP", seen)

	// A VM of n2 says that it has it: it is told there, and where the first one hears it.
	other := b.launcher("pirate", "virt-launcher-pirate-a", "n2", thief)
	b.runs("pirate", "n2", thief, map[string]any{other.Pod.UID: "n2"})
	n2.has(other)
	n2.hears(1, true, says(thief, "10.100.0.12"))
	n1.knows("10.100.0.12", "Held pirate n2 ARP")
	n2.hears(1, true, says(thief, "10.100.0.11"))
	n1.hears(1, false, says(thief, "10.100.0.11"))
	conflict := []string{"Held till n1 ARP CONFLICT", "Aside pirate n2 ARP CONFLICT"}
	n1.knows("10.100.0.11", conflict...)
	n2.knows("10.100.0.11", conflict...)
	b.unique(&first, metav1.ConditionFalse, "default/pirate (00:50:56:00:00:02, at n2)")
	b.unique(&other, metav1.ConditionFalse, "default/till (00:50:56:00:00:01, at n1)")

	// It comes to n2: a pod more, then it runs there, then the first one is gone.
	time.Sleep(1100 * time.Millisecond) // another second than that in which all was learnt
	second := b.launcher("till", "virt-launcher-till-b", "n2", mac)
	b.runs("till", "n1", mac, map[string]any{first.Pod.UID: "n1", second.Pod.UID: "n2"})
	n2.has(other, second)
	b.runs("till", "n2", mac, map[string]any{first.Pod.UID: "n1", second.Pod.UID: "n2"})
	n1.has()
	for _, n := range []*bookNode{n2, n1} {
		kept(n, "10.100.0.10", "Held till n2 DHCP", leased)
	}
	is := n2.knows("10.100.0.11", "Held till n2 ARP CONFLICT", "Aside pirate n2 ARP CONFLICT")
	if !is[0].Since.Equal(seen.Since.Truncate(time.Second)) {
		t.Errorf("since %v, want %v", is[0].Since, seen.Since)
	}
	b.unique(&second, metav1.ConditionFalse, "default/pirate")
	var id v1alpha1.VMIdentity
	vm := v1alpha1.VMReference{Name: "till", UID: "uid-till"}
	until(b, &id, "default", identityName(&vm, "lan"), func(o *v1alpha1.VMIdentity, found bool) bool {
		return found && o.Status.Node == "n2" && len(o.Status.Addresses) == 2 && o.Status.Addresses[0].Since.Time.Equal(leased.Since.Truncate(time.Second))
	})

	// The other is gone: nobody else claims it.
	if err := b.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: other.Pod.Name}}, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	n2.has(second)
	b.forget("pirate")
	n2.knows("10.100.0.11", "Held till n2 ARP")
	b.unique(&second, metav1.ConditionTrue, "")

	// A host outside says that it has it, twice, and is heard no more: it is forgotten ten minutes after.
	host := attach.MAC{2, 0, 0, 0, 0, 9}
	n2.hears(1, false, says(host, "10.100.0.11"))
	n2.knows("10.100.0.11", "Held till n2 ARP CONFLICT", "Outside")
	b.unique(&second, metav1.ConditionFalse, "somebody outside the cluster (02:00:00:00:00:09, at uplink of n2)")
	n2.ahead.Store(int64(9 * time.Minute))
	n2.hears(1, false, says(host, "10.100.0.11"))
	n2.ahead.Store(int64(10*time.Minute + time.Second))
	n2.Tick()
	n2.knows("10.100.0.11", "Held till n2 ARP CONFLICT", "Outside")
	n2.ahead.Store(int64(19*time.Minute + time.Second))
	n2.Tick()
	n2.knows("10.100.0.11", "Held till n2 ARP")
	b.unique(&second, metav1.ConditionTrue, "nobody else claims")
	if got := warnings(b); !slices.Contains(got, v1alpha1.ReasonDuplicateAddress) {
		t.Errorf("warned of %v", got)
	}
}

// forget deletes a VM's identity, as Kubernetes does with the VM.
func (b *bench) forget(vm string) {
	b.Helper()
	ref := v1alpha1.VMReference{Name: vm, UID: types.UID("uid-" + vm)}
	if err := b.Delete(b.Context(), &v1alpha1.VMIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: identityName(&ref, "lan")}}); err != nil {
		b.Fatal(err)
	}
}

// unique waits until the port's object says whether its addresses are unique, and names the other.
func (b *bench) unique(p *wire.Port, want metav1.ConditionStatus, names string) {
	b.Helper()
	until(b, &v1alpha1.VMPort{}, "default", portName(p), func(o *v1alpha1.VMPort, found bool) bool {
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionAddressesUnique)
		return found && c != nil && c.Status == want && strings.Contains(c.Message, names)
	})
}
