package controller

import (
	"log/slog"
	"strings"
	"testing"

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

// TestLease: one of two replicas works, and the other goes on when it ends; with
// no rights but those that the manifests give.
func TestLease(t *testing.T) {
	l := &lab{TB: t, server: apiserver.Start(t, crds, nadCRDs)}
	var err error
	if l.Client, err = client.New(l.server.Config(), client.Options{}); err != nil {
		t.Fatal(err)
	}
	const namespace = "homeport-system"
	const base = "../../../deploy/base/"
	l.server.Apply(base+"namespace.yaml", base+"rbac.yaml", base+"admission.yaml")
	cfg := Config{LeaderElect: true, Namespace: namespace, REST: l.server.User("system:serviceaccount:"+namespace+":homeport-controller", nil, nil)}
	first, stop := l.start(cfg)
	l.trunk("t")
	second, _ := l.start(cfg)
	l.until("the second replica has read everything", func() string {
		if !second.ready.Load() {
			return "not yet"
		}
		return ""
	})
	stop()
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
	s.Stop()
	if got := run(Config{REST: s.Config()}); !strings.Contains(got, "the Kubernetes API at") {
		t.Error(got)
	}
}
