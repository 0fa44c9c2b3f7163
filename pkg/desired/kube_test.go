package desired

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/kube/live"
	"github.com/homeport-cni/homeport/test/apiserver"
)

const crds = "../../deploy/base/crds"

// cluster is an API server with a node n1 and what a test writes.
type cluster struct {
	testing.TB
	*apiserver.Server
	client.Client
}

func newCluster(tb testing.TB) *cluster {
	tb.Helper()
	s := apiserver.Start(tb, crds)
	c, err := client.New(s.Config(), client.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	cl := &cluster{tb, s, c}
	cl.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "r1"}}})
	return cl
}

func (c *cluster) create(o client.Object) {
	c.Helper()
	o.SetUID("")
	o.SetGeneration(0)
	if err := c.Create(c.Context(), o); err != nil {
		c.Fatal(err)
	}
}

// edit changes what the server has of an object.
func (c *cluster) edit(kind, name string, change func(spec map[string]any)) {
	c.Helper()
	u := unstructuredOf(v1alpha1.GroupVersion.WithKind(kind))
	if err := c.Get(c.Context(), client.ObjectKey{Name: name}, u); err != nil {
		c.Fatal(err)
	}
	change(u.Object["spec"].(map[string]any))
	if err := c.Update(c.Context(), u); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) site() {
	c.Helper()
	c.create(fromYAML(c, "VLANTrunk", "t", `{nodeSelector: {rack: r1}, bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1-9"}}`))
	c.create(fromYAML(c, "VLANNetwork", "lan", `{trunk: t, vlan: {id: 1}, defaultAction: Drop, namespaces: {}}`))
	c.create(fromYAML(c, "FirewallPolicy", "p", `{category: Application, appliedTo: [{network: lan}], rules: [{id: 1, action: Allow}]}`))
}

// follower is a Kube at work.
type follower struct {
	testing.TB
	*Kube
	snaps <-chan *Snapshot
	last  *Snapshot
	pods  chan string // that TellOfPods told of
	stop  func()
}

// forget drops what TellOfPods told so far, and gives a function that waits for a pod.
func (f *follower) forget() (until func(pod string)) {
	for len(f.pods) > 0 {
		<-f.pods
	}
	return func(pod string) {
		f.Helper()
		deadline := time.After(30 * time.Second)
		for {
			select {
			case got := <-f.pods:
				if got == pod {
					return
				}
			case <-deadline:
				f.Fatalf("pod %s was not told of", pod)
			}
		}
	}
}

func follow(tb testing.TB, cfg *rest.Config, node, stored string) *follower {
	tb.Helper()
	k, err := NewKube(live.New(cfg), node, stored)
	if err != nil {
		tb.Fatal(err)
	}
	k.debounce, k.poll = 10*time.Millisecond, time.Second
	for _, o := range k.others() {
		o.look = 100 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{TB: tb, Kube: k, pods: make(chan string, 100)}
	k.TellOfPods(func(namespace, name string) {
		select {
		case f.pods <- PodKey(namespace, name):
		default:
		}
	})
	f.last, _ = k.Load()
	if f.snaps, err = k.Watch(ctx); err != nil {
		tb.Fatal(err)
	}
	ended := false
	f.stop = func() {
		cancel()
		for !ended {
			_, ok := <-f.snaps
			ended = !ok
		}
	}
	tb.Cleanup(f.stop)
	return f
}

// until waits for a snapshot of which ok holds.
func (f *follower) until(what string, ok func(*Snapshot) bool) *Snapshot {
	f.Helper()
	deadline := time.After(60 * time.Second)
	for f.last == nil || !ok(f.last) {
		select {
		case s, open := <-f.snaps:
			if !open {
				f.Fatalf("%s: the source has ended", what)
			}
			f.last = s
		case <-deadline:
			f.Fatalf("%s: last seen %+v; problem %v", what, f.last, f.Problem())
		}
	}
	return f.last
}

func fresh(s *Snapshot) bool { return s.Stale == nil }

// TestKube follows an API server through a node's life.
func TestKube(t *testing.T) {
	c := newCluster(t)
	c.site()
	stored := filepath.Join(t.TempDir(), "last-good.json")
	f := follow(t, c.Config(), "n1", stored)
	if f.last != nil {
		t.Errorf("before anything was read: %+v", f.last)
	}
	s := f.until("first", func(s *Snapshot) bool { return len(s.Policies) == 1 })
	if s.Revision != 1 || s.Trunks["t"].Bridge != "br0" || s.Networks["lan"].PVID != 1 || len(s.Problems) != 0 || s.Stale != nil {
		t.Errorf("first snapshot %+v", s)
	}

	c.edit("FirewallPolicy", "p", func(spec map[string]any) { spec["order"] = int64(7) })
	s = f.until("changed", func(s *Snapshot) bool { return s.Policies[0].Order == 7 })
	if s.Revision != 2 {
		t.Errorf("revision %d after one change", s.Revision)
	}
	c.edit("VLANNetwork", "lan", func(spec map[string]any) {
		spec["defaultAction"], spec["addressing"] = "Allow", map[string]any{"sharedAddresses": []any{"127.0.0.1"}}
	})
	s = f.until("refused", func(s *Snapshot) bool { return len(s.Problems) == 1 })
	if p := s.Problems[0]; p.Name != "lan" || p.Field != "spec.addressing.sharedAddresses[0]" || !p.Kept || s.Revision != 2 {
		t.Errorf("problem %+v at revision %d", p, s.Revision)
	}
	c.edit("VLANNetwork", "lan", func(spec map[string]any) {
		spec["defaultAction"] = "Drop"
		delete(spec, "addressing")
	})
	f.until("mended", func(s *Snapshot) bool { return len(s.Problems) == 0 })

	t.Run("peers by label", func(t *testing.T) { peersByLabel(t, c, f) })
	t.Run("server away", func(t *testing.T) { serverAway(t, c, f, stored) })
	t.Run("address sets", func(t *testing.T) { addressSets(t, c, f) })
	t.Run("node moves", func(t *testing.T) { nodeMoves(t, c, f) })
	t.Run("everything deleted", func(t *testing.T) { everythingDeleted(t, c, f) })
}

// peersByLabel: a rule that selects VMs follows what addresses they are known to
// hold, wherever they run.
func peersByLabel(t *testing.T, c *cluster, f *follower) {
	f.TB = t
	set := func(rules ...any) {
		c.edit("FirewallPolicy", "p", func(spec map[string]any) { spec["rules"] = rules })
	}
	set(map[string]any{"id": int64(1), "action": "Allow", "sources": []any{map[string]any{"vm": map[string]any{"matchLabels": map[string]any{"app": "ledger"}}}}},
		map[string]any{"id": int64(2), "action": "Drop"})
	s := f.until("no VM yet", func(s *Snapshot) bool { return len(s.Problems) == 1 })
	if nobody := s.Policies[0].Rules[0].Sources; nobody == nil || len(nobody) != 0 || len(s.Policies[0].Rules) != 2 || s.Problems[0].Field != "spec.rules[0].sources[0].vm" || s.Problems[0].Kept {
		t.Errorf("without a VM: %+v, %v", s.Policies[0].Rules, s.Problems)
	}
	id := identity()
	id.SetNamespace("default")
	id.SetName("vm.1")
	id.SetLabels(map[string]string{"app": "ledger"})
	_ = unstructured.SetNestedMap(id.Object, map[string]any{"vm": map[string]any{"name": "vm", "uid": "u"}, "network": "lan"}, "spec")
	c.create(id)
	f.until("no address yet", func(s *Snapshot) bool {
		return len(s.Problems) == 1 && strings.Contains(s.Problems[0].Message, "does not match default/vm.1: no address")
	})
	_ = unstructured.SetNestedSlice(id.Object, []any{map[string]any{"address": "10.1.0.5", "provenance": "ARP"}}, "status", "addresses")
	if err := c.Client.Status().Update(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	s = f.until("address known", func(s *Snapshot) bool { return len(s.Problems) == 0 })
	if r := s.Policies[0].Rules; len(r) != 2 || len(r[0].Sources) != 1 || r[0].Sources[0].First.String() != "10.1.0.5" {
		t.Errorf("with an address: %+v", r)
	}
	id.SetLabels(map[string]string{"app": "other"})
	if err := c.Update(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	f.until("another label", func(s *Snapshot) bool { return len(s.Policies[0].Rules[0].Sources) == 0 })
	set(map[string]any{"id": int64(1), "action": "Allow"})
	f.until("as before", func(s *Snapshot) bool { return len(s.Problems) == 0 && len(s.Policies[0].Rules) == 1 })
}

// addressSets: a rule follows the sets that it names, and keeps one that goes.
func addressSets(t *testing.T, c *cluster, f *follower) {
	f.TB = t
	list := func(s *Snapshot) string { return fmt.Sprint(s.PolicySet("lan", PodRef{}).Lists) }
	set := func(rules ...any) {
		c.edit("FirewallPolicy", "p", func(spec map[string]any) { spec["rules"] = rules })
	}
	named := map[string]any{"id": int64(1), "action": "Drop", "destinations": []any{map[string]any{"addressSet": "site"}}}
	set(named)
	f.until("refused", func(s *Snapshot) bool {
		return len(s.Problems) == 1 && s.Problems[0].Kept && s.Problems[0].Message == `rule 1: AddressSet "site" does not exist: make it` && list(s) == "map[]"
	})
	c.create(fromYAML(c, "AddressSet", "web", `{addresses: ["10.2.0.0/24"]}`))
	c.create(fromYAML(c, "AddressSet", "site", `{addresses: ["10.1.0.9"], includes: [web]}`))
	f.until("in force", func(s *Snapshot) bool { return len(s.Problems) == 0 && list(s) == "map[site:[10.1.0.9 10.2.0.0/24]]" })
	c.edit("AddressSet", "web", func(spec map[string]any) { spec["addresses"] = []any{"10.2.0.0/24", "10.1.0.8"} })
	s := f.until("one more", func(s *Snapshot) bool { return list(s) == "map[site:[10.1.0.8/31 10.2.0.0/24]]" })
	before := s.Revision
	if err := c.DeleteAllOf(t.Context(), unstructuredOf(v1alpha1.GroupVersion.WithKind("AddressSet"))); err != nil {
		t.Fatal(err)
	}
	s = f.until("gone", func(s *Snapshot) bool { return len(s.Problems) == 2 })
	if list(s) != "map[site:[10.1.0.8/31 10.2.0.0/24]]" || s.Revision != before || !s.Problems[0].Kept {
		t.Errorf("without the sets that a rule names: revision %d after %d, %s, %v", s.Revision, before, list(s), s.Problems)
	}
	set(map[string]any{"id": int64(1), "action": "Allow"})
	f.until("as before", func(s *Snapshot) bool { return len(s.Problems) == 0 && len(s.Sets) == 0 })
}

// serverAway: the last state stays, says since when, and nothing is lost or done
// twice when the server is back; also for an agent that started meanwhile.
func serverAway(t *testing.T, c *cluster, f *follower, stored string) {
	f.TB = t
	before := f.last
	c.Stop()
	s := f.until("stale", func(s *Snapshot) bool { return s.Stale != nil })
	if s.Stale.Reason != ReasonUnreadable || !strings.Contains(s.Stale.Message, "cannot be reached") || s.Revision != before.Revision || !s.sameContent(before) {
		t.Errorf("while the server is away: %+v", s)
	}
	late := follow(t, c.Config(), "n1", stored)
	if late.last == nil || late.last.Stale == nil || !late.last.sameContent(before) {
		t.Errorf("an agent that starts meanwhile has %+v", late.last)
	}
	c.Restart()
	c.edit("FirewallPolicy", "p", func(spec map[string]any) { spec["order"] = int64(8) })
	for _, f := range []*follower{f, late} {
		s := f.until("back", func(s *Snapshot) bool { return fresh(s) && s.Policies[0].Order == 8 })
		if s.Revision != before.Revision+1 || len(s.Problems) != 0 {
			t.Errorf("after one change: revision %d, before %d; problems %v", s.Revision, before.Revision, s.Problems)
		}
	}
	late.stop()
}

// nodeMoves: a trunk leaves a node that it does not select any more.
func nodeMoves(t *testing.T, c *cluster, f *follower) {
	f.TB = t
	label := func(rack string) {
		t.Helper()
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata": {"labels": {"rack": %q}}}`, rack))
		if err := c.Patch(t.Context(), n, patch); err != nil {
			t.Fatal(err)
		}
	}
	label("r2")
	f.until("without the trunk", func(s *Snapshot) bool { return fresh(s) && len(s.Trunks)+len(s.Networks)+len(s.Policies) == 0 })
	label("r1")
	f.until("with the trunk", func(s *Snapshot) bool { return len(s.Trunks) == 1 && len(s.Networks) == 1 && len(s.Policies) == 1 })
}

// everythingDeleted: that is a mistake sooner than a wish, as when the CRDs go. The
// kinds go one by one: how much of them a node sees at once is not for a test to say.
func everythingDeleted(t *testing.T, c *cluster, f *follower) {
	f.TB = t
	gone := func(kind string) {
		t.Helper()
		if err := c.DeleteAllOf(t.Context(), unstructuredOf(v1alpha1.GroupVersion.WithKind(kind))); err != nil {
			t.Fatal(err)
		}
	}
	c.create(fromYAML(c, "AddressSet", "left", `{addresses: ["10.2.0.0/24"]}`)) // that one does not stand for all
	gone("FirewallPolicy")
	f.until("without policies", func(s *Snapshot) bool { return fresh(s) && len(s.Policies) == 0 })
	gone("VLANNetwork")
	f.until("without networks", func(s *Snapshot) bool { return fresh(s) && len(s.Networks) == 0 })
	gone("VLANTrunk")
	s := f.until("stale", func(s *Snapshot) bool { return s.Stale != nil })
	if s.Stale.Reason != ReasonEmpty || len(s.Trunks) != 1 {
		t.Errorf("got %+v, %+v", s, s.Stale)
	}
	c.create(fromYAML(c, "VLANTrunk", "elsewhere", `{nodeSelector: {rack: r9}, bridge: {name: br0, managed: true}, uplink: {allowedVLANs: "1-9"}}`))
	c.create(fromYAML(c, "VLANNetwork", "far", `{trunk: elsewhere, vlan: {id: 1}, defaultAction: Drop}`))
	f.until("told where it is", func(s *Snapshot) bool { return s.Elsewhere["far"] == "elsewhere" })
	f.until("gone", func(s *Snapshot) bool { return fresh(s) && len(s.Trunks)+len(s.Networks)+len(s.Policies) == 0 })
}

// TestKubeRefused: what the source cannot have it names, with what to do.
func TestKubeRefused(t *testing.T) {
	c := newCluster(t)
	c.site()
	token := c.Config()
	token.TLSClientConfig.CertData, token.TLSClientConfig.KeyData, token.BearerToken = nil, nil, "long-expired"
	for name, tt := range map[string]struct {
		cfg        *rest.Config
		node, want string
	}{
		"no rights":     {c.User("system:serviceaccount:x:y", nil, nil), "n1", "refuses us (403): apply the agent's ClusterRole"},
		"expired token": {token, "n1", "does not know us any more (401): the token has expired"},
		"no such node":  {c.Config(), "n7", "has no node n7: name this node with --node"},
	} {
		f := follow(t, tt.cfg, tt.node, "")
		deadline := time.Now().Add(30 * time.Second)
		for err := f.Problem(); err == nil || !strings.Contains(err.Error(), tt.want); err = f.Problem() {
			if time.Now().After(deadline) {
				t.Errorf("%s: %v, want %q", name, err, tt.want)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		f.stop()
	}
}

// TestKubeIgnoresStatus: status is written all the time, and is no news.
func TestKubeIgnoresStatus(t *testing.T) {
	k := &Kube{changed: make(chan struct{}, 1)}
	a := fromYAML(t, "VLANTrunk", "t", `{}`)
	b := a.DeepCopy()
	b.SetResourceVersion("2")
	_ = unstructured.SetNestedField(b.Object, "x", "status", "y")
	k.OnUpdate(a, b)
	node := namedNode("n1")
	k.OnUpdate(node, node.DeepCopyObject())
	if len(k.changed) != 0 {
		t.Error("a change of status is news")
	}
	other := node.DeepCopy()
	other.Labels = map[string]string{"rack": "r2"}
	k.OnUpdate(node, other)
	if len(k.changed) != 1 {
		t.Error("a change of labels is none")
	}
}
