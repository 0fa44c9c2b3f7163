package desired

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// moves waits until the node says of a pod what it should, however often it is asked,
// and asks again at each sign that Moved gives.
func (f *follower) moves(what, pod string, uid types.UID, want MoveState, why string) Move {
	f.Helper()
	deadline := time.After(60 * time.Second)
	for {
		m := f.Move("default", pod, string(uid))
		if m.State == want && strings.Contains(m.Why, why) {
			return m
		}
		select {
		case <-f.Moved():
		case <-deadline:
			f.Fatalf("%s: pod %s is %v (%s), want %v (%s)", what, pod, m.State, m.Why, want, why)
		}
	}
}

// declares waits until the node says that a pod declares these addresses for an interface.
func (f *follower) declares(pod string, uid types.UID, ifName, want string) {
	f.Helper()
	deadline := time.After(60 * time.Second)
	for {
		got := fmt.Sprint(f.Declared("default", pod, string(uid), ifName))
		if got == want {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond): // what a pod says of its addresses is no move
		case <-deadline:
			f.Fatalf("pod %s declares %s for %s, want %s", pod, got, ifName, want)
		}
	}
}

// launcherPod is a pod as virt-controller makes it for the VM vm.
func launcherPod(name, node string, vm types.UID, target bool) *corev1.Pod {
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{launcherLabel: launcherValue},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "vm", UID: vm, Controller: &yes}}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "compute", Image: "x"}}}}
	if target {
		p.Labels[migrationLabel] = "job"
	}
	return p
}

// TestKubeMoves: a migration from n1 to n2 as both nodes hear of it, in the order in
// which KubeVirt writes (INTEGRATION: T0 to T8), and back to n1.
func TestKubeMoves(t *testing.T) {
	c := newCluster(t)
	c.site()
	c.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})
	early := &Kube{moved: make(chan struct{}, 1)}
	if m := early.Move("default", "x", ""); m.State != MoveUnknown || !strings.Contains(m.Why, "have not been read") {
		t.Errorf("before anything was read: %+v", m)
	}
	n1, n2 := follow(t, c.Config(), "n1", ""), follow(t, c.Config(), "n2", "")

	// A container, a pod that nobody knows, one that only claims to be a target.
	plain := launcherPod("plain", "n1", "", false)
	plain.OwnerReferences = nil
	c.create(plain)
	n1.moves("a container", "plain", plain.UID, MoveNone, "runs no VM")
	n1.moves("nobody's", "nobody", "", MoveNone, "not known to Kubernetes")
	n1.moves("another of the name", "plain", "other", MoveNone, "not known to Kubernetes")
	forged := launcherPod("forged", "n1", "made-up", true)
	c.create(forged)
	n1.moves("forged, before KubeVirt", "forged", forged.UID, MoveNone, "does not exist")

	// That there is no such thing is an answer, and no trouble of what is watched.
	if err := n1.health.problem(); err != nil {
		t.Errorf("the source is taken for unreadable: %v", err)
	}

	c.Server.Apply("../kube/testdata/kubevirt.yaml")
	vmi := c.other(vmiKind, "vm", `{metadata: {labels: {kubevirt.io/nodeName: n1}}, spec: {}}`)
	c.createSoon(vmi)
	status := func(change func(status map[string]any)) {
		t.Helper()
		s, _, _ := unstructured.NestedMap(vmi.Object, "status")
		if s == nil {
			s = map[string]any{}
		}
		change(s)
		_ = unstructured.SetNestedMap(vmi.Object, s, "status")
		c.change(vmi)
	}
	source := launcherPod("source", "n1", vmi.GetUID(), false)
	c.create(source)
	status(func(s map[string]any) {
		s["activePods"] = map[string]any{string(source.UID): "n1"}
		s["interfaces"] = []any{map[string]any{"name": "lan", "mac": "00:50:56:00:00:01", "podInterfaceName": "podx", "ipAddress": "10.1.0.1"}}
	})
	n1.moves("the VM runs", "source", source.UID, MoveNone, "no migration's target")
	n1.moves("forged, of a VM that is not there", "forged", forged.UID, MoveNone, "is of another")
	thief := launcherPod("thief", "n1", vmi.GetUID(), true)
	c.create(thief)
	n1.moves("forged, of a VM that does not know it", "thief", thief.UID, MoveUnknown, "names it neither in")

	// T0, T1: the target's pod, of which the VM does not tell yet, nor has n2's name.
	target := launcherPod("target", "n2", vmi.GetUID(), true)
	c.create(target)
	n2.moves("T1", "target", target.UID, MoveUnknown, "names it neither in")
	status(func(s map[string]any) {
		s["activePods"] = map[string]any{string(source.UID): "n1", string(target.UID): "n2"}
	})
	m := n2.moves("T1, named", "target", target.UID, MoveTarget, "is to come")
	if m.VM != "default/vm" || m.MACs["podx"] != "00:50:56:00:00:01" {
		t.Errorf("the VM and its MACs: %+v", m)
	}
	// What it declares is known as soon as the pod is.
	target.Annotations = map[string]string{addressesAnnotation: `{"lan": ["10.0.0.5/24", "fd00::5"]}`, "other": "of no use"}
	c.change(target)
	n2.declares("target", target.UID, podInterface("lan"), "[10.0.0.5 fd00::5]")
	n2.declares("target", target.UID, "net1", "[]")
	n2.declares("target", "another", podInterface("lan"), "[]")
	n2.declares("nobody", "", podInterface("lan"), "[]")
	// T2: the label, and the migration itself.
	vmi.SetLabels(map[string]string{onNodeLabel: "n1", toNodeLabel: "n2"})
	state := map[string]any{"sourcePod": "source", "sourceNode": "n1", "targetPod": "target", "targetNode": "n2"}
	status(func(s map[string]any) { s["migrationState"] = state })
	n2.moves("T2", "target", target.UID, MoveTarget, "is to come")
	n1.moves("T2", "source", source.UID, MoveNone, "no migration's target")
	// T7: virt-controller's annotation comes after the VM's word; either will do.
	target.Annotations = map[string]string{readyAnnotation: "now"}
	c.change(target)
	n2.moves("T7", "target", target.UID, MoveArrived, "has come")
	status(func(s map[string]any) {
		state["targetNodeDomainReadyTimestamp"] = "2026-11-28T03:00:00Z"
		s["migrationState"] = state
	})
	n1.moves("T7", "source", source.UID, MoveLeft, "runs in pod target on node n2")
	// T8: the VM is n2's, and n1 has it no more in its watch.
	vmi.SetLabels(map[string]string{onNodeLabel: "n2"})
	status(func(s map[string]any) {
		state["completed"] = true
		s["nodeName"], s["migrationState"] = "n2", state
	})
	n2.moves("T8", "target", target.UID, MoveArrived, "has come")
	n1.moves("T8", "source", source.UID, MoveLeft, "runs in pod target on node n2")
	// An agent that was away all the time finds out by asking.
	late := follow(t, c.Config(), "n1", "")
	late.moves("late", "source", source.UID, MoveLeft, "runs in pod target on node n2")
	late.moves("late", "thief", thief.UID, MoveUnknown, "names it neither in")
}
