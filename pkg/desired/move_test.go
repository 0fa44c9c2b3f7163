package desired

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// launcher is a pod of the VM web; labels: target is one that says to be a target,
// ready one whose VM has come.
func launcher(name string, is ...string) *metav1.PartialObjectMetadata {
	yes := true
	p := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name),
		Labels: map[string]string{launcherLabel: launcherValue}, Annotations: map[string]string{},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "web", UID: "vmi", Controller: &yes}}}}
	for _, s := range is {
		switch s {
		case "target":
			p.Labels[migrationLabel] = "job"
		case "ready":
			p.Annotations[readyAnnotation] = "2026-11-28 03:00:00 +0000 UTC"
		case "unowned":
			p.OwnerReferences = nil
		}
	}
	return p
}

// webVM is the VirtualMachineInstance with a status.
func webVM(t *testing.T, status string) vmi {
	t.Helper()
	var o map[string]any
	if err := yaml.Unmarshal([]byte("apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: web, namespace: shop, uid: vmi}\nstatus: "+status), &o); err != nil {
		t.Fatal(err)
	}
	return vmi{object: &unstructured.Unstructured{Object: o}, asked: true}
}

// webVM2 is another VM of the name.
func webVM2(t *testing.T) vmi {
	v := webVM(t, "{activePods: {uid-x: n1}}")
	v.object.SetUID("another")
	v.fresh = true
	return v
}

func behind(v vmi) vmi { v.fresh = false; return v }

func TestMoveOf(t *testing.T) {
	const (
		both    = `activePods: {uid-a: n1, uid-b: n2}`
		under   = both + `, migrationState: {sourcePod: a, targetPod: b, targetNode: n2, sourceNode: n1`
		ready   = under + `, targetNodeDomainReadyTimestamp: "2026-11-28T03:00:00Z"`
		over    = ready + `, completed: true`
		onwards = `activePods: {uid-a: n1, uid-b: n2, uid-c: n3}, migrationState: {sourcePod: b, targetPod: c, targetNode: n3`
	)
	// Those of the cases whose VM names the pod in a migration that has not ended.
	const underWay = "|named by the migration alone|its source|ready by the pod|the last target|"
	in := func(s string) vmi { return webVM(t, "{"+s+"}") }
	for _, c := range []struct {
		name string
		pod  *metav1.PartialObjectMetadata
		vmi  vmi
		want MoveState
		why  string
	}{
		{"no VM", launcher("x", "unowned"), vmi{}, MoveNone, "runs no VM"},
		{"forged, of no VM", launcher("x", "unowned", "target"), vmi{}, MoveNone, "is no VirtualMachineInstance's"},
		{"forged, of a VM that does not exist", launcher("x", "target"), vmi{asked: true}, MoveNone, "web does not exist"},
		{"forged, of a VM that does not know it", launcher("x", "target"), in(both), MoveUnknown, "names it neither in"},
		{"and says to be ready", launcher("x", "target", "ready"), in(over + "}"), MoveUnknown, "names it neither in"},
		{"of a VM of that name that is no more", launcher("x", "target"), webVM2(t), MoveNone, "is of another"},
		{"the same by a watch, which may be behind", launcher("x", "target"), behind(webVM2(t)), MoveUnknown, "of another"},
		{"not asked yet", launcher("b", "target"), vmi{}, MoveUnknown, "has not been asked"},
		{"cannot be asked", launcher("b", "target"), vmi{err: errors.New("no route")}, MoveUnknown, "cannot be found out: no route"},
		{"the VM's first pod, not asked", launcher("a"), vmi{}, MoveNone, ""},
		{"the VM's first pod", launcher("a"), in(`activePods: {uid-a: n1}`), MoveNone, ""},

		{"named by activePods alone", launcher("b", "target"), in(both), MoveTarget, "is to come"},
		{"named by the migration alone", launcher("b", "target"), in(`migrationState: {sourcePod: a, targetPod: b}`), MoveTarget, "is to come"},
		{"its source", launcher("a"), in(under + "}"), MoveNone, ""},
		{"ready by the VM", launcher("b", "target"), in(ready + "}"), MoveArrived, "has come"},
		{"ready by the pod", launcher("b", "target", "ready"), in(under + "}"), MoveArrived, "has come"},
		{"its source then", launcher("a"), in(ready + "}"), MoveLeft, "runs in pod b on node n2 now"},
		{"over", launcher("b", "target", "ready"), in(over + "}"), MoveArrived, ""},
		{"its source then", launcher("a"), in(over + "}"), MoveLeft, ""},
		{"failed", launcher("b", "target"), in(under + `, failed: true, completed: true, failureReason: "no room"}`), MoveTarget, "has failed: no room"},
		{"its source, when it has failed", launcher("a"), in(under + `, failed: true, completed: true}`), MoveNone, ""},
		{"failed after it was ready", launcher("b", "target", "ready"), in(ready + `, failed: true}`), MoveTarget, "has failed"},

		// The next migration, from b to c, with a still ending.
		{"the next target, before the VM tells of it", launcher("c", "target"), in(`activePods: {uid-b: n2, uid-c: n3}, migrationState: {sourcePod: a, targetPod: b, completed: true}`), MoveTarget, "is to come"},
		{"the last target", launcher("b", "target", "ready"), in(onwards + "}"), MoveArrived, "goes on from it"},
		{"the last target, left", launcher("b", "target", "ready"), in(onwards + `, completed: true}`), MoveLeft, "runs in pod c"},
		{"the first pod", launcher("a"), in(onwards + `, completed: true}`), MoveLeft, ""},
		{"the last target, after one more", launcher("b", "target", "ready"), in(`activePods: {uid-b: n2, uid-d: n1}, migrationState: {sourcePod: c, targetPod: d, completed: true}`), MoveUnknown, "not of one time|earlier migration"},
	} {
		m := moveOf(c.pod, c.vmi)
		if want := strings.Contains(c.name, "failed"); m.Failed && !want || m.Migrating && m.VM == "" {
			t.Errorf("%s: failed %v, migrating %v of VM %q", c.name, m.Failed, m.Migrating, m.VM)
		}
		if m.UnderWay != strings.Contains(underWay, "|"+c.name+"|") {
			t.Errorf("%s: under way %v", c.name, m.UnderWay)
		}
		if _, says := c.pod.Labels[migrationLabel]; m.Claims != says {
			t.Errorf("%s: claims %v", c.name, m.Claims)
		}
		matched := false
		for _, why := range strings.Split(c.why, "|") {
			matched = matched || strings.Contains(m.Why, why)
		}
		if m.State != c.want || !matched || m.Why == "" {
			t.Errorf("%s: %v (%s), want %v (%s)", c.name, m.State, m.Why, c.want, c.why)
		}
		if named := c.vmi.object != nil && c.vmi.object.GetUID() == "vmi" && !strings.Contains(c.name, "forged") && !strings.Contains(c.name, "and says"); named && m.VM != "shop/web" && m.State != MoveUnknown {
			t.Errorf("%s: the pod is of VM %q", c.name, m.VM)
		} else if !named && m.VM != "" {
			t.Errorf("%s: the pod is of VM %q, though that does not know it", c.name, m.VM)
		}
	}
}

// The MACs and addresses that a VM has, by the names of its interfaces in the pod.
func TestMoveMACs(t *testing.T) {
	m := moveOf(launcher("b", "target"), webVM(t, `{activePods: {uid-b: n2}, interfaces: [
		{name: lan, mac: "00:50:56:00:00:01", ipAddresses: [10.1.0.5, "fd00::5", nonsense]}, {name: old, mac: "00:50:56:00:00:02", podInterfaceName: net1}, {name: dark}]}`))
	// "pod" and sha256("lan"), as KubeVirt's GenerateHashedInterfaceName has it.
	want := map[string]string{"pod094a367b026": "00:50:56:00:00:01", "net1": "00:50:56:00:00:02"}
	if len(m.MACs) != 2 || m.MACs["net1"] != want["net1"] {
		t.Errorf("MACs %v, want %v", m.MACs, want)
	}
	if got := m.Addresses["pod094a367b026"]; len(got) != 2 || got[0].String() != "10.1.0.5" || got[1].String() != "fd00::5" || len(m.Addresses) != 1 {
		t.Errorf("addresses %v", m.Addresses)
	}
	for name := range want {
		if m.MACs[name] != want[name] {
			t.Errorf("MACs %v, want %v", m.MACs, want)
		}
	}
}
