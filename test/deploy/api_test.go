package deploy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/test/apiserver"
)

const (
	agentUser      = "system:serviceaccount:" + namespace + ":homeport-agent"
	controllerUser = "system:serviceaccount:" + namespace + ":homeport-controller"
	nodeClaim      = "authentication.kubernetes.io/node-name"
	vms            = "vms" // where the VMs of these tests are
)

// TestCluster installs Homeport on a real API server; its parts build on each other.
func TestCluster(t *testing.T) {
	s := apiserver.Start(t, "testdata", "../crds")
	admin := newClient(t, s.Config())
	t.Run("install", func(t *testing.T) { testInstall(t, admin) })
	if t.Failed() {
		return
	}
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: vms}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}},
	} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("own node", func(t *testing.T) { testOwnNode(t, s) })
	t.Run("rights", func(t *testing.T) { testRights(t, s) })
	t.Run("overlays", func(t *testing.T) { testOverlays(t, admin) })
	t.Run("uninstall", func(t *testing.T) { testRemove(t, admin) })
}

// newClient is a user's; a field that the server does not know is an error to it.
func newClient(t *testing.T, cfg *rest.Config) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return client.WithFieldValidation(c, metav1.FieldValidationStrict)
}

// agent is a client with the token of the agent's pod on a node; "" is a token
// that names none.
func agent(t *testing.T, s *apiserver.Server, node string) client.Client {
	t.Helper()
	extra := map[string][]string{"authentication.kubernetes.io/pod-name": {"homeport-agent-x"}}
	if node != "" {
		extra[nodeClaim] = []string{node}
	}
	return newClient(t, s.User(agentUser, nil, extra))
}

// eventually polls until ok is nil, and fails with the last error.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute; last: %v", what, err)
		}
	}
}

// testInstall sends the file object by object, as kubectl does, and again, as an
// upgrade does.
func testInstall(t *testing.T, admin client.Client) {
	for round, what := range []string{"install", "apply again"} {
		for _, u := range objects(t, read(t, "deploy", "daemonset.yaml")) {
			c := u.DeepCopy()
			err := admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(c), client.FieldOwner("test"), client.ForceOwnership)
			if err != nil {
				t.Fatalf("%s: %s %s: %v", what, u.GetKind(), u.GetName(), err)
			}
			if u.GetKind() == "CustomResourceDefinition" && round == 0 {
				waitEstablished(t, admin, c)
			}
		}
	}
}

func waitEstablished(t *testing.T, c client.Client, crd *unstructured.Unstructured) {
	t.Helper()
	eventually(t, crd.GetName()+" is established", func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
		for _, x := range conditions {
			if m, ok := x.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", conditions)
	})
}

// testOverlays shows the server each overlay; nothing is kept.
func testOverlays(t *testing.T, admin client.Client) {
	for _, name := range []string{"k3s", "openshift", "talos"} {
		for _, u := range objects(t, build(t, "overlays", name)) {
			if err := admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("test"), client.ForceOwnership, client.DryRunAll); err != nil {
				t.Errorf("%s: %s %s: %v", name, u.GetKind(), u.GetName(), err)
			}
		}
	}
	for _, u := range objects(t, chart(t, namespace, "openshift=true")) {
		if err := admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("test"), client.ForceOwnership, client.DryRunAll); err != nil {
			t.Errorf("chart: %s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// testRemove sends deploy/uninstall.yaml, and takes it all away, last the CRDs. That of
// an object in use stays, with no controller to let it go, until somebody does as
// docs/troubleshooting.md says.
func testRemove(t *testing.T, admin client.Client) {
	held := &v1alpha1.VLANTrunk{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{v1alpha1.Finalizer}},
		Spec: v1alpha1.VLANTrunkSpec{Bridge: v1alpha1.TrunkBridge{Name: "br0", Managed: new(true)}, Uplink: v1alpha1.TrunkUplink{AllowedVLANs: "1-9"}}}
	if err := admin.Create(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	for _, u := range objects(t, read(t, "deploy", "uninstall.yaml")) {
		if err := admin.Create(t.Context(), u); err != nil {
			t.Errorf("uninstall.yaml: %s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
	for _, u := range objects(t, read(t, "deploy", "daemonset.yaml")) {
		if err := admin.Delete(t.Context(), u); err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("delete %s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
	crd := &unstructured.Unstructured{}
	crd.SetAPIVersion("apiextensions.k8s.io/v1")
	crd.SetKind("CustomResourceDefinition")
	crd.SetName("vlantrunks.homeport.dev")
	eventually(t, "the trunk waits to be let go", func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(held), held); err != nil || held.DeletionTimestamp.IsZero() {
			return fmt.Errorf("deleted at %v (%v)", held.DeletionTimestamp, err)
		}
		return nil
	})
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); err != nil {
		t.Errorf("its CRD: %v", err)
	}
	const way = `{"metadata":{"finalizers":null}}`
	if !strings.Contains(string(read(t, "docs", "troubleshooting.md")), way) {
		t.Errorf("docs/troubleshooting.md has no %s", way)
	}
	if err := admin.Patch(t.Context(), held, client.RawPatch("application/merge-patch+json", []byte(way))); err != nil {
		t.Error(err)
	}
	eventually(t, "its CRD is gone", func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%v (%v)", crd.Object["status"], err)
		}
		return nil
	})
}

func vmPort(name, node string) *v1alpha1.VMPort {
	return &v1alpha1.VMPort{ObjectMeta: metav1.ObjectMeta{Namespace: vms, Name: name}, Spec: v1alpha1.VMPortSpec{
		Node: node, Pod: v1alpha1.PodInterface{Name: "virt-launcher-a", Interface: "net1", ContainerID: "c1"},
		VLANs: "100", MAC: "00:50:56:01:02:03", HostInterface: "veth1"}}
}

func trunkNode(name, node string) *v1alpha1.VLANTrunkNode {
	return &v1alpha1.VLANTrunkNode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.VLANTrunkNodeSpec{Trunk: "trunk0", Node: node}}
}

func identity(name string) *v1alpha1.VMIdentity {
	return &v1alpha1.VMIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: vms, Name: name},
		Spec: v1alpha1.VMIdentitySpec{VM: &v1alpha1.VMReference{Name: "db", UID: "u1"}, Network: "vlan100"}}
}

// podIdentity is that of a pod without a VM.
func podIdentity(name, node string) *v1alpha1.VMIdentity {
	return &v1alpha1.VMIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: vms, Name: name},
		Spec: v1alpha1.VMIdentitySpec{Pod: &v1alpha1.PodReference{Name: "web", UID: "u2", Node: node}, Network: "vlan100"}}
}

// step is one request; says is in the refusal, "" is that it is granted.
type step struct {
	what string
	says string
	do   func(ctx context.Context) error
}

// fresh gets the object as it is, changes it, and writes it or its status.
func fresh[T client.Object](as, admin client.Client, o T, status bool, change func(T)) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := admin.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return fmt.Errorf("test: %w", err)
		}
		change(o)
		if status {
			return as.Status().Update(ctx, o)
		}
		return as.Update(ctx, o)
	}
}

func testOwnNode(t *testing.T, s *apiserver.Server) {
	admin, n1, n2, nobody := newClient(t, s.Config()), agent(t, s, "n1"), agent(t, s, "n2"), agent(t, s, "")
	// Roles and the policy take a moment to be in force.
	eventually(t, "the policy is in force", func() error {
		err := n1.Create(t.Context(), vmPort("probe", "n2"), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "only what is of its own node") {
			return fmt.Errorf("want a refusal by the policy, got %v", err)
		}
		return nil
	})
	steps := portSteps(admin, n1, n2, nobody)
	steps = append(steps, identitySteps(admin, n1, n2)...)
	steps = append(steps, podIdentitySteps(admin, n1, n2, nobody)...)
	steps = append(steps, nodeSteps(admin, n1, n2, nobody)...)
	steps = append(steps, podSteps(admin, n1, n2, nobody)...)
	steps = append(steps, checkSteps(admin, n1, n2, nobody)...)
	for _, st := range steps {
		err := st.do(t.Context())
		switch {
		case st.says == "" && err != nil:
			t.Errorf("%s: %v", st.what, err)
		case st.says != "" && (!apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), st.says)):
			t.Errorf("%s: got %v, want a refusal with %q", st.what, err, st.says)
		}
	}
}

const (
	notN1   = "the agent of node 'n1' may not write "
	notN2   = "the agent of node 'n2' may not write "
	noClaim = "the token names no node"
	oneNode = "a port is of one node and one pod for its whole life" // the CRD says it first
)

func portSteps(admin, n1, n2, nobody client.Client) []step {
	active := func(p *v1alpha1.VMPort) { p.Status.State = v1alpha1.PortActive }
	labelled := func(p *v1alpha1.VMPort) { p.Labels = map[string]string{"a": "b"} }
	create := func(c client.Client, o client.Object) func(context.Context) error {
		return func(ctx context.Context) error { return c.Create(ctx, o) }
	}
	remove := func(c client.Client, o client.Object) func(context.Context) error {
		return func(ctx context.Context) error { return c.Delete(ctx, o) }
	}
	return []step{
		{"a port without a node in the token", noClaim, create(nobody, vmPort("p", "n1"))},
		{"another's port", notN1 + "vmports 'p2': it is of node 'n2'", create(n1, vmPort("p2", "n2"))},
		{"the own port", "", create(n1, vmPort("p1", "n1"))},
		{"the own port's status", "", fresh(n1, admin, vmPort("p1", ""), true, active)},
		{"the own port again", "", fresh(n1, admin, vmPort("p1", ""), false, labelled)},
		{"another's port's status", notN2 + "vmports 'p1': it is of node 'n1'", fresh(n2, admin, vmPort("p1", ""), true, active)},
		{"another's port's labels", notN2, fresh(n2, admin, vmPort("p1", ""), false, labelled)},
		{"another's port, said to be the own", oneNode, fresh(n2, admin, vmPort("p1", ""), false, func(p *v1alpha1.VMPort) { p.Spec.Node = "n2" })},
		{"the own port, given away", oneNode, fresh(n1, admin, vmPort("p1", ""), false, func(p *v1alpha1.VMPort) { p.Spec.Node = "n2" })},
		{"status without a node in the token", noClaim, fresh(nobody, admin, vmPort("p1", ""), true, active)},
		{"delete another's port", notN2, remove(n2, vmPort("p1", "n1"))},
		{"delete without a node in the token", noClaim, remove(nobody, vmPort("p1", "n1"))},
		{"delete the own port", "", remove(n1, vmPort("p1", "n1"))},
		{"the own trunk's report", "", create(n1, trunkNode("trunk0.n1", "n1"))},
		{"another's trunk's report", notN1 + "vlantrunknodes 'trunk0.n2': it is of node 'n2'", create(n1, trunkNode("trunk0.n2", "n2"))},
		{"the name of another's report", "must be spec.trunk, a dot, and spec.node", create(n1, trunkNode("trunk0.n2", "n1"))},
		{"the own trunk's status", "", fresh(n1, admin, trunkNode("trunk0.n1", ""), true, func(o *v1alpha1.VLANTrunkNode) { o.Status.MTU = 1500 })},
		{"another's trunk's status", notN2, fresh(n2, admin, trunkNode("trunk0.n1", ""), true, func(o *v1alpha1.VLANTrunkNode) { o.Status.MTU = 9000 })},
		{"delete another's report", notN2, remove(n2, trunkNode("trunk0.n1", "n1"))},
		{"people are not held to it", "", create(admin, vmPort("p3", "n2"))},
		{"people may delete a report", "", remove(admin, trunkNode("trunk0.n1", "n1"))},
	}
}

// identitySteps follow a VM that moves from n1 to n2.
func identitySteps(admin, n1, n2 client.Client) []step {
	at := func(node string) func(*v1alpha1.VMIdentity) {
		return func(o *v1alpha1.VMIdentity) { o.Status.Node, o.Status.MAC = node, "00:50:56:01:02:03" }
	}
	labelled := func(o *v1alpha1.VMIdentity) { o.Labels = map[string]string{"a": "b"} }
	owned := func(o *v1alpha1.VMIdentity) {
		o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "db", UID: "u1"}}
	}
	return []step{
		{"a new identity", "", func(ctx context.Context) error { return n1.Create(ctx, identity("db")) }},
		{"its status for another node", notN1 + "vmidentities 'db': it is of node 'n2'", fresh(n1, admin, identity("db"), true, at("n2"))},
		{"its status", "", fresh(n1, admin, identity("db"), true, at("n1"))},
		{"its labels", "", fresh(n1, admin, identity("db"), false, labelled)},
		{"its owner", "", fresh(n1, admin, identity("db"), false, owned)},
		{"another's labels", notN2 + "vmidentities 'db': it is of node 'n1'", fresh(n2, admin, identity("db"), false, labelled)},
		{"another's status, still in its name", notN2 + "vmidentities 'db': it is of node 'n1'", fresh(n2, admin, identity("db"), true, func(o *v1alpha1.VMIdentity) { o.Status.MAC = "00:50:56:ff:ff:ff" })},
		{"another's status, emptied", notN2, fresh(n2, admin, identity("db"), true, at(""))},
		{"delete another's", notN2, func(ctx context.Context) error { return n2.Delete(ctx, identity("db")) }},
		{"the VM has moved", "", fresh(n2, admin, identity("db"), true, at("n2"))},
		{"the old node's word", notN1 + "vmidentities 'db': it is of node 'n2'", fresh(n1, admin, identity("db"), true, func(*v1alpha1.VMIdentity) {})},
		{"the new node lets go", "", fresh(n2, admin, identity("db"), true, at(""))},
		{"nobody's is anybody's to delete", "", func(ctx context.Context) error { return n1.Delete(ctx, identity("db")) }},
	}
}

// podIdentitySteps: the identity of a pod without a VM is its node's from the first
// to the last, and nobody takes it over.
func podIdentitySteps(admin, n1, n2, nobody client.Client) []step {
	const ofN1 = "vmidentities 'web': it is of node 'n1'"
	web := func() *v1alpha1.VMIdentity { return podIdentity("web", "n1") }
	at := func(node string) func(*v1alpha1.VMIdentity) {
		return func(o *v1alpha1.VMIdentity) { o.Status.Node = node }
	}
	labelled := func(o *v1alpha1.VMIdentity) { o.Labels = map[string]string{"a": "b"} }
	return []step{
		{"a pod's of another node", notN2 + ofN1, func(ctx context.Context) error { return n2.Create(ctx, web()) }},
		{"a pod's without a node in the token", noClaim, func(ctx context.Context) error { return nobody.Create(ctx, web()) }},
		{"the own pod's", "", func(ctx context.Context) error { return n1.Create(ctx, web()) }},
		{"a pod's before its status, by another", notN2 + ofN1, fresh(n2, admin, web(), true, at("n2"))},
		{"its status", "", fresh(n1, admin, web(), true, at("n1"))},
		{"its labels", "", fresh(n1, admin, web(), false, labelled)},
		{"another's pod's labels", notN2 + ofN1, fresh(n2, admin, web(), false, labelled)},
		{"another's pod's, taken over", notN2 + ofN1, fresh(n2, admin, web(), true, at("n2"))},
		{"another's pod's, said to be on the own node", "one VM or pod and one network", fresh(n2, admin, web(), false, func(o *v1alpha1.VMIdentity) { o.Spec.Pod.Node = "n2" })},
		{"another's pod's, said to be a VM's", "one VM or pod and one network", fresh(n1, admin, web(), false, func(o *v1alpha1.VMIdentity) { o.Spec.VM, o.Spec.Pod = identity("").Spec.VM, nil })},
		{"delete another's pod's", notN2 + ofN1, func(ctx context.Context) error { return n2.Delete(ctx, web()) }},
		{"delete the own pod's", "", func(ctx context.Context) error { return n1.Delete(ctx, web()) }},
	}
}

// nodeSteps write the extended resource.
func nodeSteps(admin, n1, n2, nobody client.Client) []step {
	advertise := func(c client.Client, node string) func(context.Context) error {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"status":{"capacity":{"homeport.dev/trunk0":"1000"}}}`))
		return func(ctx context.Context) error {
			return c.Status().Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, patch)
		}
	}
	return []step{
		{"the own node's resource", "", advertise(n1, "n1")},
		{"another node's resource", notN2 + "nodes 'n1': it is of node 'n1'", advertise(n2, "n1")},
		{"a resource without a node in the token", noClaim, advertise(nobody, "n1")},
		{"people are not held to it either", "", advertise(admin, "n1")},
	}
}

// right is verbs on a resource, as "group/resource" or "group/resource/subresource", in a
// namespace, as "namespace" or "namespace/name".
type right struct{ resource, verbs, namespace string }

// testRights asks the server what the two accounts may do.
func testRights(t *testing.T, s *apiserver.Server) {
	const read, write = "get list watch", "create update patch delete"
	ask(t, newClient(t, s.User(agentUser, nil, nil)), true, []right{
		{"/nodes", read, ""}, {"/nodes/status", "patch", ""}, {"/namespaces", read, ""}, {"/pods", read, ""}, {"/pods/status", "patch", ""},
		{"homeport.dev/vlantrunks", read, ""}, {"homeport.dev/vlannetworks", read, ""}, {"homeport.dev/firewallpolicies", read, ""}, {"homeport.dev/addresssets", read, ""}, {"homeport.dev/servicesets", read, ""}, {"homeport.dev/reachabilitychecks", read, ""},
		{"kubevirt.io/virtualmachineinstances", read, ""}, {"k8s.cni.cncf.io/network-attachment-definitions", read, ""}, {"k8s.cni.cncf.io/multi-networkpolicies", read, ""}, {"k8s.cni.cncf.io/ipamclaims", "get", ""},
		{"policy.networking.k8s.io/clusternetworkpolicies", read, ""},
		{"homeport.dev/vmports", read + " " + write, ""}, {"homeport.dev/vmidentities", read + " " + write, ""}, {"homeport.dev/vlantrunknodes", read + " " + write, ""},
		{"homeport.dev/vmports/status", "update patch", ""}, {"homeport.dev/vmidentities/status", "update patch", ""}, {"homeport.dev/vlantrunknodes/status", "update patch", ""}, {"homeport.dev/reachabilitychecks/status", "update", ""},
		{"/events", "create patch", vms}, {"events.k8s.io/events", "create patch", vms},
	})
	ask(t, newClient(t, s.User(agentUser, nil, nil)), false, []right{
		{"homeport.dev/vlannetworks", write, ""}, {"homeport.dev/vlantrunks", write, ""}, {"homeport.dev/firewallpolicies", write, ""}, {"homeport.dev/addresssets", write, ""}, {"homeport.dev/servicesets", write, ""}, {"homeport.dev/reachabilitychecks", write, ""},
		{"homeport.dev/firewallpolicies/status", "update patch", ""}, {"homeport.dev/vmports", "deletecollection", ""},
		{"/secrets", read + " " + write, namespace}, {"/secrets", read + " " + write, namespace + "/homeport-fabric-key"}, {"/configmaps", read + " " + write, namespace}, {"/pods", write, ""}, {"/pods/status", "update", ""}, {"/pods/exec", "create", ""}, {"/nodes", write, ""},
		{"/serviceaccounts/token", "create", namespace}, {"kubevirt.io/virtualmachineinstances", write, ""}, {"k8s.cni.cncf.io/network-attachment-definitions", write, ""},
		{"coordination.k8s.io/leases", read + " " + write, namespace},
	})
	ask(t, newClient(t, s.User(controllerUser, nil, nil)), true, []right{
		{"homeport.dev/vlantrunks", read + " patch", ""}, {"homeport.dev/vlannetworks", read + " patch", ""}, {"homeport.dev/firewallpolicies", read, ""}, {"homeport.dev/addresssets", read, ""}, {"homeport.dev/servicesets", read, ""}, {"homeport.dev/reachabilitychecks", read, ""},
		{"homeport.dev/vlantrunks/status", "patch", ""}, {"homeport.dev/vlannetworks/status", "patch", ""}, {"homeport.dev/firewallpolicies/status", "patch", ""}, {"homeport.dev/addresssets/status", "patch", ""}, {"homeport.dev/servicesets/status", "patch", ""}, {"homeport.dev/reachabilitychecks/status", "patch", ""},
		{"homeport.dev/vlantrunknodes", read + " delete", ""}, {"homeport.dev/vmports", read + " delete", ""}, {"homeport.dev/vmports/status", "patch", ""}, {"homeport.dev/vmidentities", read, ""},
		{"k8s.cni.cncf.io/network-attachment-definitions", read + " create patch delete", ""}, {"/namespaces", read, ""}, {"/nodes", read, ""}, {"/pods", read, namespace},
		{"/secrets", "create", namespace}, {"/secrets", "get", namespace + "/homeport-fabric-key"},
		{"coordination.k8s.io/leases", "get create update", namespace}, {"/events", "create patch", vms}, {"events.k8s.io/events", "create patch", vms},
	})
	ask(t, newClient(t, s.User(controllerUser, nil, nil)), false, []right{
		{"/pods", read + " " + write, ""}, {"/secrets", read + " update patch delete", namespace}, {"/secrets", "get", namespace + "/other"}, {"/secrets", "list watch update patch delete", namespace + "/homeport-fabric-key"},
		{"/secrets", "create get", "kube-system"}, {"/secrets", "get", "kube-system/homeport-fabric-key"}, {"/nodes", write, ""}, {"/nodes/status", "update patch", ""}, {"/namespaces", write, ""},
		{"homeport.dev/firewallpolicies", write, ""}, {"homeport.dev/addresssets", write, ""}, {"homeport.dev/servicesets", write, ""}, {"homeport.dev/vmidentities", write, ""},
		{"homeport.dev/vlantrunks", "create update delete", ""}, {"homeport.dev/vlannetworks", "create update delete", ""}, {"homeport.dev/vmports", "create update patch", ""}, {"homeport.dev/vmports/status", "update", ""},
		{"coordination.k8s.io/leases", "get update", "kube-system"}, {"coordination.k8s.io/leases", "delete patch", namespace},
		{"homeport.dev/vlannetworks/finalizers", "update", ""}, {"homeport.dev/vlantrunks/status", "update", ""}, {"homeport.dev/firewallpolicies/status", "update", ""},
	})
}

func ask(t *testing.T, c client.Client, want bool, rights []right) {
	t.Helper()
	for _, r := range rights {
		parts := append(strings.Split(r.resource, "/"), "")
		in, name, _ := strings.Cut(r.namespace, "/")
		for _, verb := range strings.Fields(r.verbs) {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{Group: parts[0], Resource: parts[1], Subresource: parts[2], Verb: verb, Namespace: in, Name: name}}}
			if err := c.Create(t.Context(), review); err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed != want {
				t.Errorf("%s %s in namespace %q: allowed %v, want %v", verb, r.resource, r.namespace, review.Status.Allowed, want)
			}
		}
	}
}
