package controller

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/test/apiserver"
)

// TestNADKindMissing: a cluster without Multus lacks nothing else, and gets its
// NADs when Multus comes, goes, and comes back.
func TestNADKindMissing(t *testing.T) {
	s := apiserver.Start(t, crds)
	l := newLab(t, s)
	l.trunk("t")
	l.network("lan", "t", 1, ", namespaces: {}")
	l.network("none", "t", 2, "")
	l.says("VLANNetwork", "lan", "Ready", "False", v1alpha1.ReasonNADKindMissing, "NetworkAttachmentDefinition (k8s.cni.cncf.io/v1)", "install Multus")
	l.says("VLANNetwork", "lan", "MigrationRequired", "False", v1alpha1.ReasonPortsUpToDate)
	l.says("VLANNetwork", "none", "Ready", "False", v1alpha1.ReasonNoNamespaces)
	l.port("default", "vm1", "t-node", "lan", "1", "t", "")
	l.status("VLANNetwork", "lan", "ports", 1)
	l.held("VLANNetwork", "lan", true)

	install := func() {
		if _, err := envtest.InstallCRDs(s.Config(), envtest.CRDInstallOptions{Paths: []string{nadCRDs}}); err != nil {
			t.Fatal(err)
		}
	}
	install()
	l.says("VLANNetwork", "lan", "Ready", "True", v1alpha1.ReasonReady)
	l.hasNAD("default", "lan")
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	crd.SetName("network-attachment-definitions.k8s.cni.cncf.io")
	if err := l.Delete(l.Context(), crd); err != nil {
		t.Fatal(err)
	}
	l.says("VLANNetwork", "lan", "Ready", "False", v1alpha1.ReasonNADKindMissing)
	l.until("the kind is gone", func() string {
		if err := l.Get(l.Context(), client.ObjectKeyFromObject(crd), crd.DeepCopy()); client.IgnoreNotFound(err) != nil || err == nil {
			return "not yet"
		}
		return ""
	})
	install()
	l.says("VLANNetwork", "lan", "Ready", "True", v1alpha1.ReasonReady)
	l.hasNAD("default", "lan")
}

// TestNADsForbidden: while NetworkAttachmentDefinitions cannot be read, networks say
// so, and all else of their status; and go on when they can.
func TestNADsForbidden(t *testing.T) {
	l := &lab{TB: t, server: apiserver.Start(t, crds, nadCRDs)}
	var err error
	if l.Client, err = client.New(l.server.Config(), client.Options{}); err != nil {
		t.Fatal(err)
	}
	const base = "../../../deploy/base/"
	rbac, err := os.ReadFile(base + "rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const right = "resources: [network-attachment-definitions]\n"
	if !strings.Contains(string(rbac), right) {
		t.Fatalf("rbac.yaml has no %q", right)
	}
	dir := t.TempDir()
	without, given := filepath.Join(dir, "rbac.yaml"), filepath.Join(dir, "given.yaml")
	for file, text := range map[string]string{without: strings.ReplaceAll(string(rbac), right, "resources: [others]\n"), given: `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: nads}
rules: [{apiGroups: [k8s.cni.cncf.io], resources: [network-attachment-definitions], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nads}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nads}
subjects: [{kind: ServiceAccount, name: homeport-controller, namespace: homeport-system}]
`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l.server.Apply(base+"namespace.yaml", without)
	l.c, _ = l.start(Config{REST: l.server.User("system:serviceaccount:homeport-system:homeport-controller", nil, nil)})
	l.trunk("t")
	l.network("lan", "t", 1, ", namespaces: {}")
	l.says("VLANNetwork", "lan", "Ready", "False", v1alpha1.ReasonNADFailed, "cannot be read", "is forbidden")
	l.says("VLANNetwork", "lan", "MigrationRequired", "False", v1alpha1.ReasonPortsUpToDate)
	l.port("default", "vm1", "t-node", "lan", "1", "t", "")
	l.status("VLANNetwork", "lan", "ports", 1)
	l.held("VLANNetwork", "lan", true)
	l.server.Apply(given)
	l.says("VLANNetwork", "lan", "Ready", "True", v1alpha1.ReasonReady)
	l.hasNAD("default", "lan")
}

// asShipped is an API server without a controller, and what one is started with to have
// no rights but those that the manifests give.
func asShipped(t *testing.T) (*lab, Config) {
	t.Helper()
	l := &lab{TB: t, server: apiserver.Start(t, crds, nadCRDs)}
	var err error
	if l.Client, err = client.New(l.server.Config(), client.Options{}); err != nil {
		t.Fatal(err)
	}
	const namespace = "homeport-system"
	const base = "../../../deploy/base/"
	l.server.Apply(base+"namespace.yaml", base+"rbac.yaml", base+"admission.yaml")
	return l, Config{Namespace: namespace, REST: l.server.User("system:serviceaccount:"+namespace+":homeport-controller", nil, nil)}
}

// TestLease: one of two replicas works, and the other goes on when it ends; with
// no rights but those that the manifests give.
func TestLease(t *testing.T) {
	l, cfg := asShipped(t)
	cfg.LeaderElect = true
	namespace := cfg.Namespace
	first, stop := l.start(cfg)
	l.trunk("t")
	second, _ := l.start(cfg)
	l.until("the second replica has read everything", func() string {
		if !second.ready.Load() {
			return "not yet"
		}
		return ""
	})
	lease := &unstructured.Unstructured{}
	lease.SetGroupVersionKind(schema.GroupVersionKind{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"})
	if err := l.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: LeaseName}, lease); err != nil {
		t.Fatal(err)
	}
	if seconds, _, _ := unstructured.NestedInt64(lease.Object, "spec", "leaseDurationSeconds"); seconds != 60 {
		t.Errorf("the Lease lasts %d seconds: one that is short is lost to an API server that is slow", seconds)
	}
	stop() // and gives the Lease back
	l.network("lan", "t", 1, ", namespaces: {}")
	l.says("VLANNetwork", "lan", "Ready", "True", v1alpha1.ReasonReady)
	if first.judge.runs == 0 {
		t.Error("the first replica has done nothing")
	}

	// All that it may have to do.
	l.hasNAD("default", "lan")
	l.patch("NAD", "default/lan", `spec: {config: "{}"}`)
	l.hasNAD("default", "lan")
	l.event("VLANNetwork", "lan", v1alpha1.EventNADRestored)
	l.create("FirewallPolicy", "p", `spec: {category: Application, appliedTo: [{network: lan}], rules: [{id: 1, action: Allow}]}`)
	l.says("FirewallPolicy", "p", "Ready", "True", v1alpha1.ReasonReady)
	l.create("AddressSet", "s", `spec: {addresses: ["10.0.0.1"]}`)
	l.says("AddressSet", "s", "Ready", "True", v1alpha1.ReasonReady)
	l.port("default", "vm1", "t-node", "lan", "1", "t", "")
	l.held("VLANNetwork", "lan", true)
	l.held("VLANTrunk", "t", true)
	l.node("t-node", "Unknown")
	l.says("VMPort", "default/vm1", "Ready", "Unknown", v1alpha1.ReasonNodeDown)
	l.delete("VLANNetwork", "lan")
	l.delete("VLANTrunk", "t")
	l.delete("Node", "t-node")
	for _, o := range []struct{ kind, name string }{
		{"VMPort", "default/vm1"}, {"VLANTrunkNode", "t.t-node"}, {"NAD", "default/lan"}, {"VLANNetwork", "lan"}, {"VLANTrunk", "t"},
	} {
		l.gone(o.kind, o.name)
	}
}

// TestCannotStart: what is not there is named, with what to do.
func TestCannotStart(t *testing.T) {
	s := apiserver.Start(t)
	run := func(cfg Config) string {
		cfg.Log = slog.New(slog.DiscardHandler)
		c, err := New(cfg)
		if err == nil {
			err = c.Run(t.Context())
		}
		if err == nil {
			return ""
		}
		return err.Error()
	}
	if got := run(Config{REST: s.Config()}); !strings.Contains(got, "the cluster has no kind VLANTrunk (homeport.dev/v1alpha1): apply Homeport's CRDs first") {
		t.Error(got)
	}
	if got := run(Config{REST: s.User("system:serviceaccount:x:y", nil, nil)}); !strings.Contains(got, "apply the controller's ClusterRole") {
		t.Error(got)
	}
	if got := run(Config{REST: s.Config(), HealthAddr: "nowhere"}); !strings.Contains(got, "nowhere") {
		t.Error(got)
	}
}

// TestServerAwayAtStart: an API server that is away is waited for by the same process,
// which is alive all the time and ready when it has read everything.
func TestServerAwayAtStart(t *testing.T) {
	s := apiserver.Start(t, crds, nadCRDs)
	l := &lab{TB: t, server: s}
	var err error
	if l.Client, err = client.New(s.Config(), client.Options{}); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	probe := func(path string) string {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		return resp.Status
	}
	is := func(path, want string) {
		t.Helper()
		l.until(path+" says "+want, func() string {
			if got := probe(path); got != want {
				return got
			}
			return ""
		})
	}
	s.Stop()
	asked := make(chan struct{}, 100)
	cfg := s.Config()
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return noted{next, asked} })
	l.c, _ = l.start(Config{REST: cfg, HealthAddr: addr})
	is("/healthz", "200 OK")
	for range 3 { // it was asked in vain
		<-asked
	}
	is("/healthz", "200 OK")
	is("/readyz", "500 Internal Server Error")
	s.Restart()
	l.trunk("t")
	is("/readyz", "200 OK")
}

// noted tells of requests that found nobody.
type noted struct {
	next http.RoundTripper
	vain chan struct{}
}

func (n noted) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := n.next.RoundTrip(r)
	if err != nil {
		select {
		case n.vain <- struct{}{}:
		default:
		}
	}
	return resp, err
}

// TestAgents: a node whose agent is not ready for a while is not healthy, whatever was
// reported there before; with no rights but those that the manifests give.
func TestAgents(t *testing.T) {
	l, cfg := asShipped(t)
	cfg.WatchAgents = true
	namespace := cfg.Namespace
	agent := func(ready string) {
		l.create("Pod", namespace+"/agent", `metadata: {labels: {app.kubernetes.io/name: homeport, app.kubernetes.io/component: agent}}
spec: {nodeName: t-node, containers: [{name: agent, image: agent}]}`)
		l.patchStatus("Pod", namespace+"/agent", fmt.Sprintf(`status: {conditions: [{type: Ready, status: %q}]}`, ready))
	}
	gone := func() {
		l.Helper()
		if err := l.Delete(t.Context(), l.get("Pod", namespace+"/agent"), client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
	}
	agent("True")
	c, _ := l.start(cfg)
	l.trunk("t")
	for what, change := range map[string][2]func(){
		"not ready": {
			func() {
				l.patchStatus("Pod", namespace+"/agent", `status: {conditions: [{type: Ready, status: "False"}]}`)
			},
			func() {
				l.patchStatus("Pod", namespace+"/agent", `status: {conditions: [{type: Ready, status: "True"}]}`)
			},
		},
		"gone":                {gone, func() { agent("True") }},
		"gone, and not ready": {func() { gone(); agent("False") }, func() { gone(); agent("True") }},
	} {
		t.Log(what)
		since := time.Now()
		change[0]()
		l.says("VLANTrunk", "t", "Degraded", "True", v1alpha1.ReasonNodesUnhealthy, "t-node (no agent there is ready)")
		if took := time.Since(since); took < c.grace {
			t.Errorf("%s: told after %v: an update takes the agent away for as long", what, took)
		}
		l.says("VLANTrunk", "t", "Ready", "False", v1alpha1.ReasonNodesUnhealthy)
		change[1]()
		l.says("VLANTrunk", "t", "Ready", "True", v1alpha1.ReasonHealthy)
	}
}
