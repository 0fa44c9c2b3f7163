package desired

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// other makes an object of a kind that others bring.
func (c *cluster) other(kind schema.GroupVersionKind, name, text string) *unstructured.Unstructured {
	c.Helper()
	u := unstructuredOf(kind)
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		c.Fatal(err)
	}
	u.SetGroupVersionKind(kind)
	u.SetNamespace("default")
	u.SetName(name)
	return u
}

// printed is a directory of what the server has, as kubectl get -o yaml prints it.
func (c *cluster) printed() string {
	c.Helper()
	dir := c.TempDir()
	for kind := range clusterKinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := c.List(c.Context(), list); meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			c.Fatal(err)
		}
		text, err := yaml.Marshal(list.UnstructuredContent())
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, kind.Kind+".yaml"), text, 0o644)
		}
		if err != nil {
			c.Fatal(err)
		}
	}
	return dir
}

// change writes what a test did to an object that the server has.
func (c *cluster) change(u client.Object) {
	c.Helper()
	if err := c.Update(c.Context(), u); err != nil {
		c.Fatal(err)
	}
}

// createSoon creates an object of a kind that the server was told of just now.
func (c *cluster) createSoon(u *unstructured.Unstructured) {
	c.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := c.Create(c.Context(), u)
		if err == nil {
			return
		}
		if !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) || time.Now().After(deadline) {
			c.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestKubeByLabel: policies by label, in a cluster that gets KubeVirt and Multus'
// kinds while the node runs, and loses them again.
func TestKubeByLabel(t *testing.T) {
	c := newCluster(t)
	c.site()
	stored := filepath.Join(t.TempDir(), "last-good.json")
	f := follow(t, c.Config(), "n1", stored)
	s := f.until("first", func(s *Snapshot) bool { return len(s.Policies) == 1 })
	if s.Pods != nil {
		t.Errorf("nothing selects by label, but there are %v", s.Pods)
	}
	c.create(fromYAML(c, "FirewallPolicy", "sick", `{category: Emergency, appliedTo: [{vm: {matchLabels: {state: sick}}}], rules: [{id: 1, action: Drop}]}`))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "launcher", Labels: map[string]string{"kubevirt.io": "virt-launcher", "app": "web"}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "compute", Image: "x"}}}}
	far := pod.DeepCopy()
	far.Name, far.Spec.NodeName = "far", "n2"
	c.create(pod)
	c.create(far)
	ref := PodRef{"default", "launcher", string(pod.UID)}
	rules := func(s *Snapshot) string { return keysOf(s.PolicySet("lan", ref)) }
	s = f.until("without KubeVirt", func(s *Snapshot) bool {
		return s.Pods["default/launcher"].Owner == OwnerUnknown && len(s.Policies) == 2
	})
	if rules(s) != "sick/1 p/1" || len(s.Pods) != 1 {
		t.Errorf("a VM that nobody confirms has rules %q; pods %v", rules(s), s.Pods)
	}

	c.Server.Apply("../kube/testdata/kubevirt.yaml")
	vmi := c.other(vmiKind, "vm", `{metadata: {labels: {state: well, kubevirt.io/nodeName: n1}}, spec: {}}`)
	c.createSoon(vmi)
	_ = unstructured.SetNestedStringMap(vmi.Object, map[string]string{string(pod.UID): "n1"}, "status", "activePods")
	c.change(vmi)
	s = f.until("confirmed", func(s *Snapshot) bool { return s.Pods["default/launcher"].Owner == OwnerVM })
	if rules(s) != "p/1" {
		t.Errorf("a VM that is well has rules %q", rules(s))
	}
	vmi.SetLabels(map[string]string{"state": "sick", onNodeLabel: "n1"})
	c.change(vmi)
	f.until("relabelled", func(s *Snapshot) bool { return rules(s) == "sick/1 p/1" })
	if again, err := LoadSnapshot(stored); err != nil || rules(again) != "sick/1 p/1" {
		t.Errorf("stored: %v, %v", again, err)
	}
	// What kubectl prints of it comes to the same, without the server.
	printed, problems, err := ReadCluster(c.printed())
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	there, vmPod, notices, err := printed.Port("lan", "default", "vm")
	if err != nil || len(there.Problems)+len(notices) > 0 {
		t.Fatal(err, there, notices)
	}
	if here := f.last.PolicySet("lan", ref); !reflect.DeepEqual(there.PolicySet("lan", vmPod), here) || keysOf(here) != "sick/1 p/1" {
		t.Errorf("by files:\n%+v\nby the server:\n%+v", there.PolicySet("lan", vmPod), here)
	}
	clusterPoliciesComeAndGo(t, c, f, pod)
	podPoliciesComeAndGo(t, c, f, pod, stored)
}

// containersArePeers: pods without a VM are found by MultiNetworkPolicies, and not by
// what selects VMs.
func containersArePeers(t *testing.T, c *cluster, f *follower, policy *unstructured.Unstructured) {
	sources := func(s *Snapshot) string {
		out := ""
		for _, r := range s.PodPolicies[0].Rules {
			for _, a := range r.Sources {
				out += a.First.String() + " "
			}
		}
		return out
	}
	old := policy.DeepCopy()
	peer := map[string]any{"podSelector": map[string]any{"matchLabels": map[string]any{"app": "batch"}}}
	_ = unstructured.SetNestedSlice(policy.Object, []any{map[string]any{"from": []any{peer}}}, "spec", "ingress")
	c.change(policy)
	f.until("nobody yet", func(s *Snapshot) bool {
		return len(s.Problems) == 1 && strings.Contains(s.Problems[0].Message, "no pod whose address is known") && sources(s) == ""
	})
	id := identity()
	id.SetNamespace("default")
	id.SetName("batch.1")
	id.SetLabels(map[string]string{"app": "batch"})
	_ = unstructured.SetNestedMap(id.Object, map[string]any{"pod": map[string]any{"name": "batch", "uid": "u", "node": "n2"}, "network": "lan"}, "spec")
	c.create(id)
	_ = unstructured.SetNestedSlice(id.Object, []any{map[string]any{"address": "10.1.0.9", "provenance": "Declared"}}, "status", "addresses")
	if err := c.Client.Status().Update(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	f.until("a container", func(s *Snapshot) bool { return sources(s) == "10.1.0.9 " && len(s.Problems) == 0 })
	byVM := fromYAML(c, "FirewallPolicy", "by-vm", `{category: Application, appliedTo: [{network: lan}], rules: [{id: 1, action: Allow, sources: [{vm: {matchLabels: {app: batch}}}]}]}`)
	c.create(byVM)
	f.until("no VM", func(s *Snapshot) bool {
		return len(s.Problems) == 1 && s.Problems[0].Name == "by-vm" && strings.Contains(s.Problems[0].Message, "selects no VM now")
	})
	if err := c.Delete(t.Context(), byVM); err != nil {
		t.Fatal(err)
	}
	id.SetLabels(map[string]string{"app": "other"})
	c.change(id)
	f.until("other labels", func(s *Snapshot) bool { return sources(s) == "" })
	if err := c.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	policy.Object["spec"] = old.Object["spec"]
	c.change(policy)
	f.until("as it was", func(s *Snapshot) bool { return len(s.Problems) == 0 && sources(s) == "10.1.0.5 " })
}

func clusterPoliciesComeAndGo(t *testing.T, c *cluster, f *follower, pod *corev1.Pod) {
	rules := func(s *Snapshot) string {
		return strings.ReplaceAll(keysOf(s.PolicySet("lan", PodRef{pod.Namespace, pod.Name, string(pod.UID)})), kindClusterPolicy+"/", "")
	}
	enable := func(is v1alpha1.Switch) {
		c.edit("VLANNetwork", "lan", func(spec map[string]any) { spec["clusterNetworkPolicies"] = string(is) })
	}
	enable(v1alpha1.SwitchEnabled)
	f.until("no such kind", func(s *Snapshot) bool {
		return len(s.Problems) == 1 && strings.Contains(s.Problems[0].Message, "the cluster does not have the kind, and a VLANNetwork asks for it")
	})
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	c.Server.Apply(strings.TrimSpace(string(module)) + "/config/crd/standard/policy.networking.k8s.io_clusternetworkpolicies.yaml")
	guard := c.other(clusterNetworkPolicies, "guard", `
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {team: a}}}
  ingress:
  - {action: Pass, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: none}}}]}
  - {action: Deny, from: [{namespaces: {}}]}
`)
	guard.SetNamespace("")
	c.createSoon(guard)
	base := c.other(clusterNetworkPolicies, "base", `{spec: {tier: Baseline, priority: 0, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}}`)
	base.SetNamespace("")
	c.create(base)
	f.until("the namespace is not meant", func(s *Snapshot) bool { return rules(s) == "sick/1 p/1 base/100001" })
	namespace := &corev1.Namespace{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "default"}, namespace); err != nil {
		t.Fatal(err)
	}
	namespace.Labels["team"] = "a"
	c.change(namespace)
	s := f.until("the namespace is meant", func(s *Snapshot) bool { return rules(s) == "sick/1 guard/1 guard/2 p/1 base/100001" })
	if len(s.Problems) != 2 || !strings.HasSuffix(s.Problems[0].String(), "ClusterNetworkPolicy guard: spec.ingress[0].from[0]: selects no VM now, and no pod whose address is known, and so matches nothing") {
		t.Errorf("told: %v", s.Problems)
	}
	_ = unstructured.SetNestedField(base.Object, "Admin", "spec", "tier")
	c.change(base)
	f.until("of the other tier", func(s *Snapshot) bool { return rules(s) == "sick/1 base/100001 guard/1 guard/2 p/1" })
	if err := c.Delete(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	f.until("deleted", func(s *Snapshot) bool { return rules(s) == "sick/1 guard/1 guard/2 p/1" })
	enable(v1alpha1.SwitchDisabled)
	f.until("not asked for", func(s *Snapshot) bool { return rules(s) == "sick/1 p/1" && len(s.Problems) == 0 })
}

func podPoliciesComeAndGo(t *testing.T, c *cluster, f *follower, pod *corev1.Pod, stored string) {
	rules := func(s *Snapshot) string {
		return keysOf(s.PolicySet("lan", PodRef{pod.Namespace, pod.Name, string(pod.UID)}))
	}
	c.Server.Apply("../../test/crds/k8s.cni.cncf.io_multi-networkpolicies.yaml", "../../test/crds/k8s.cni.cncf.io_network-attachment-definitions.yaml")
	c.createSoon(c.other(attachmentKind, "web-nad", `{spec: {config: '{"cniVersion": "1.0.0", "plugins": [{"type": "tuning"}, {"type": "homeport", "network": "lan"}]}'}}`))
	id := identity()
	id.SetNamespace("default")
	id.SetName("db.1")
	id.SetLabels(map[string]string{"app": "db"})
	_ = unstructured.SetNestedMap(id.Object, map[string]any{"vm": map[string]any{"name": "db", "uid": "u"}, "network": "lan"}, "spec")
	c.create(id)
	policy := c.other(multiNetworkPolicies, "web", `
metadata: {annotations: {k8s.v1.cni.cncf.io/policy-for: web-nad}}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {vm.kubevirt.io/name: db}}}]
    ports: [{port: 80}]
`)
	c.createSoon(policy)
	s := f.until("no address yet", func(s *Snapshot) bool {
		return len(s.PodPolicies) == 1 && len(s.Problems) == 1 && strings.Contains(s.Problems[0].Message, "does not match default/db.1: no address")
	})
	if got := rules(s); got != "sick/1 MultiNetworkPolicy/1 p/1" || s.Problems[0].Name != "default/web" || s.Problems[0].Field != "spec.ingress[0].from[0]" {
		t.Errorf("while the peer's address is unknown: %q, %v", got, s.Problems)
	}
	_ = unstructured.SetNestedSlice(id.Object, []any{map[string]any{"address": "10.1.0.5", "provenance": "ARP"}}, "status", "addresses")
	if err := c.Client.Status().Update(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	const enforced = "sick/1 default/web/1 MultiNetworkPolicy/1 p/1"
	f.until("address known", func(s *Snapshot) bool { return rules(s) == enforced && len(s.Problems) == 0 })

	told := f.forget()
	pod.SetLabels(map[string]string{"kubevirt.io": "virt-launcher", "app": "other"})
	c.change(pod)
	told("default/launcher")
	f.until("a pod with other labels", func(s *Snapshot) bool { return rules(s) == "sick/1 p/1" })
	pod.SetLabels(map[string]string{"kubevirt.io": "virt-launcher", "app": "web"})
	c.change(pod)
	f.until("as before", func(s *Snapshot) bool { return rules(s) == enforced })

	containersArePeers(t, c, f, policy)

	// Its network's definition is deleted: the ports live on, and so does the policy.
	policy.SetAnnotations(map[string]string{policyFor: "gone-nad"})
	c.change(policy)
	f.until("names what is not there", func(s *Snapshot) bool {
		return len(s.Problems) == 1 && strings.Contains(s.Problems[0].Message, "no NetworkAttachmentDefinition default/gone-nad") && rules(s) == enforced
	})
	policy.SetAnnotations(nil)
	c.change(policy)
	f.until("for no network", func(s *Snapshot) bool { return len(s.PodPolicies) == 0 && rules(s) == "sick/1 p/1" })
	policy.SetAnnotations(map[string]string{policyFor: "default/web-nad, x/y"})
	c.change(policy)
	f.until("back", func(s *Snapshot) bool { return rules(s) == enforced })

	// The kind goes while no agent looks: nobody said that ports should open.
	f.stop()
	crd := unstructuredOf(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	crd.SetName("multi-networkpolicies.k8s.cni.cncf.io")
	if err := c.Delete(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); apierrors.IsNotFound(err) {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the CRD is still there: %v", err)
		}
	}
	late := follow(t, c.Config(), "n1", stored)
	late.until("after a restart", func(s *Snapshot) bool {
		return fresh(s) && rules(s) == enforced && len(s.Problems) > 0 && strings.Contains(s.Problems[0].Message, "does not have the kind any more")
	})
}
