package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/test/apiserver"
)

const (
	crds    = "../../../deploy/base/crds"
	nadCRDs = "../../../test/crds"
)

func TestMain(m *testing.M) {
	LogTo(slog.New(slog.DiscardHandler)) // what a controller itself says goes to its test
	os.Exit(m.Run())
}

// lab is an API server with a controller at work, and what a test does to it.
type lab struct {
	testing.TB
	client.Client
	server *apiserver.Server
	c      *Controller
}

func newLab(tb testing.TB, s *apiserver.Server) *lab {
	tb.Helper()
	c, err := client.New(s.Config(), client.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	l := &lab{TB: tb, Client: c, server: s}
	l.c, _ = l.start(Config{})
	return l
}

// start runs one more controller; stop ends it and waits for that.
func (l *lab) start(cfg Config) (c *Controller, stop func()) {
	l.Helper()
	if cfg.REST == nil {
		cfg.REST = l.server.Config()
	}
	cfg.Log = slog.New(slog.NewTextHandler(l.Output(), nil))
	c, err := New(cfg)
	if err != nil {
		l.Fatal(err)
	}
	c.settle, c.poll, c.retry, c.word = 20*time.Millisecond, 300*time.Millisecond, 100*time.Millisecond, 3*time.Second
	c.grace, c.look = 2*time.Second, 100*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	done := false
	stop = func() {
		if cancel(); !done {
			done = true
			if err := <-ended; err != nil {
				l.Errorf("the controller ended: %v", err)
			}
		}
	}
	l.Cleanup(stop)
	return c, stop
}

// in is the lab in a subtest.
func (l *lab) in(t *testing.T) *lab {
	return &lab{TB: t, Client: l.Client, server: l.server, c: l.c}
}

// until waits for wrong to return "".
func (l *lab) until(what string, wrong func() string) {
	l.Helper()
	deadline := time.Now().Add(30 * time.Second)
	last := ""
	for time.Now().Before(deadline) {
		if last = wrong(); last == "" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.Fatalf("%s: last seen: %s", what, last)
}

func gvkOf(kind string) (u *unstructured.Unstructured) {
	switch kind {
	case "NAD":
		return newNAD()
	case "Node", "Namespace", "Pod", "Secret":
		u = &unstructured.Unstructured{}
		u.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
		return u
	}
	return judged(kind)
}

func key(name string) client.ObjectKey {
	if ns, n, ok := strings.Cut(name, "/"); ok {
		return client.ObjectKey{Namespace: ns, Name: n}
	}
	return client.ObjectKey{Name: name}
}

// create makes an object; name may have a namespace, and fields are YAML.
func (l *lab) create(kind, name, fields string) *unstructured.Unstructured {
	l.Helper()
	u := gvkOf(kind)
	more := map[string]any{}
	if err := yaml.Unmarshal([]byte(fields), &more); err != nil {
		l.Fatal(err)
	}
	for k, v := range more {
		u.Object[k] = v
	}
	u.SetNamespace(key(name).Namespace)
	u.SetName(key(name).Name)
	if err := l.Create(l.Context(), u); err != nil {
		l.Fatalf("%s %s: %v", kind, name, err)
	}
	return u
}

// get reads an object; nil if there is none.
func (l *lab) get(kind, name string) *unstructured.Unstructured {
	l.Helper()
	u := gvkOf(kind)
	err := l.Get(l.Context(), key(name), u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		l.Fatal(err)
	}
	return u
}

// patch merges YAML into an object.
func (l *lab) patch(kind, name, fields string) {
	l.Helper()
	o, p := l.change(kind, name, fields)
	if err := l.Patch(l.Context(), o, p); err != nil {
		l.Fatalf("%s %s: %v", kind, name, err)
	}
}

func (l *lab) change(kind, name, fields string) (client.Object, client.Patch) {
	l.Helper()
	body, err := yaml.YAMLToJSON([]byte(fields))
	if err != nil {
		l.Fatal(err)
	}
	u := gvkOf(kind)
	u.SetNamespace(key(name).Namespace)
	u.SetName(key(name).Name)
	return u, client.RawPatch("application/merge-patch+json", body)
}

func (l *lab) delete(kind, name string) {
	l.Helper()
	u := gvkOf(kind)
	u.SetNamespace(key(name).Namespace)
	u.SetName(key(name).Name)
	if err := l.Delete(l.Context(), u); err != nil {
		l.Fatalf("%s %s: %v", kind, name, err)
	}
}

func (l *lab) gone(kind, name string) {
	l.Helper()
	l.until(kind+" "+name+" goes", func() string {
		if u := l.get(kind, name); u != nil {
			return fmt.Sprint(u.Object)
		}
		return ""
	})
}

// says waits until a condition of an object's present generation has this status
// and reason, and a message with these parts.
func (l *lab) says(kind, name, condition, status, reason string, parts ...string) metav1.Condition {
	l.Helper()
	var found metav1.Condition
	l.until(fmt.Sprintf("%s %s: %s=%s (%s) %q", kind, name, condition, status, reason, parts), func() string {
		u := l.get(kind, name)
		if u == nil {
			return "there is none"
		}
		var all []metav1.Condition
		list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		if text, err := json.Marshal(list); err != nil || json.Unmarshal(text, &all) != nil {
			return fmt.Sprint(u.Object["status"])
		}
		c := meta.FindStatusCondition(all, condition)
		if c == nil {
			return fmt.Sprint(u.Object["status"])
		}
		ok := string(c.Status) == status && c.Reason == reason && c.ObservedGeneration == u.GetGeneration()
		for _, p := range parts {
			ok = ok && strings.Contains(c.Message, p)
		}
		if !ok {
			return fmt.Sprintf("%s=%s (%s) of generation %d, it is at %d: %s", condition, c.Status, c.Reason, c.ObservedGeneration, u.GetGeneration(), c.Message)
		}
		found = *c
		return ""
	})
	return found
}

// status waits for a number in an object's status.
func (l *lab) status(kind, name, field string, want int64) {
	l.Helper()
	l.until(fmt.Sprintf("%s %s: status.%s is %d", kind, name, field, want), func() string {
		u := l.get(kind, name)
		if u == nil {
			return "there is none"
		}
		if got, ok, _ := unstructured.NestedInt64(u.Object, "status", field); !ok || got != want {
			return fmt.Sprint(u.Object["status"])
		}
		return ""
	})
}

// event waits for one of an object.
func (l *lab) event(kind, name, reason string) {
	l.Helper()
	l.until(fmt.Sprintf("event %s of %s %s", reason, kind, name), func() string {
		var list corev1.EventList
		if err := l.List(l.Context(), &list, client.InNamespace("default")); err != nil {
			l.Fatal(err)
		}
		var seen []string
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name {
				if e.Reason == reason {
					return ""
				}
				seen = append(seen, e.Reason)
			}
		}
		return fmt.Sprint(seen)
	})
}

// trunk makes one with VLANs 1-999 that is healthy on a node of its own, called
// <name>-node.
func (l *lab) trunk(name string) {
	l.Helper()
	l.create("VLANTrunk", name, `spec: {bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1-999"}}`)
	l.create("Node", name+"-node", `{}`)
	l.report(name, name+"-node", "True", "Healthy", 0)
	l.says("VLANTrunk", name, "Ready", "True", v1alpha1.ReasonHealthy)
}

// report is what a node says of a trunk.
func (l *lab) report(trunk, node, status, reason string, ports int) {
	l.Helper()
	name := trunk + "." + node
	if l.get("VLANTrunkNode", name) == nil {
		l.create("VLANTrunkNode", name, fmt.Sprintf("spec: {trunk: %s, node: %s}", trunk, node))
	}
	l.patchStatus("VLANTrunkNode", name, fmt.Sprintf(
		`status: {ports: %d, conditions: [{type: Ready, status: %q, reason: %s, message: m, lastTransitionTime: "2026-01-01T00:00:00Z"}]}`, ports, status, reason))
}

// node is what the cluster says of a node: whether it is ready.
func (l *lab) node(name, ready string) {
	l.Helper()
	l.patchStatus("Node", name, fmt.Sprintf(`status: {conditions: [{type: Ready, status: %q, reason: r, message: m}]}`, ready))
}

func (l *lab) patchStatus(kind, name, fields string) {
	l.Helper()
	o, p := l.change(kind, name, fields)
	if err := l.Status().Patch(l.Context(), o, p); err != nil {
		l.Fatalf("%s %s: %v", kind, name, err)
	}
}

// network makes one on a trunk with an access VLAN; more is YAML for its spec.
func (l *lab) network(name, trunk string, vlan int, more string) {
	l.Helper()
	l.create("VLANNetwork", name, fmt.Sprintf("spec: {trunk: %s, vlan: {id: %d}, defaultAction: Drop%s}", trunk, vlan, more))
}

// port makes one of VM vm on a network, as a node reports it; more is YAML for its
// spec.
func (l *lab) port(namespace, vm, node, network, vlans, trunk, more string) {
	l.Helper()
	l.create("VMPort", namespace+"/"+vm, fmt.Sprintf(`spec: {node: %s, pod: {name: launcher-%s, interface: net1, containerID: c}, vm: {name: %s, uid: u},
  network: %s, vlans: %q, trunk: %s, mac: "00:50:56:00:00:01", hostInterface: veth0%s}`, node, vm, vm, network, vlans, trunk, more))
}

// namespace makes one with labels, in YAML.
func (l *lab) namespace(name, labels string) {
	l.Helper()
	l.create("Namespace", name, fmt.Sprintf("metadata: {name: %s, labels: %s}", name, labels))
}
