package desired

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestKubeBadInput: what is wrong in a cluster is told in words, and what was in
// force stays.
func TestKubeBadInput(t *testing.T) {
	c := newCluster(t)
	c.site()
	f := follow(t, c.Config(), "n1", "")
	good := f.until("first", func(s *Snapshot) bool { return fresh(s) && len(s.Policies) == 1 })
	same := func(t *testing.T, s *Snapshot) {
		t.Helper()
		if !s.sameContent(good) || s.Revision != good.Revision {
			t.Errorf("what was in force did not stay: %+v, was %+v", s, good)
		}
	}
	told := func(kind, name, field, part string) func(*Snapshot) bool {
		return func(s *Snapshot) bool {
			for _, p := range s.Problems {
				if p.Kind == kind && p.Name == name && p.Field == field && strings.Contains(p.Message, part) {
					return true
				}
			}
			return false
		}
	}
	well := func(s *Snapshot) bool { return fresh(s) && len(s.Problems) == 0 }

	t.Run("CRDs newer than the agent", func(t *testing.T) {
		f.TB = t
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
		crd.SetName("firewallpolicies.homeport.dev")
		patch := client.RawPatch("application/json-patch+json",
			[]byte(`[{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/schedule", "value": {"type": "string"}}]`))
		if err := c.Patch(t.Context(), crd, patch); err != nil {
			t.Fatal(err)
		}
		// The server takes some moments to serve the new schema everywhere; till then it
		// drops the field, here or there. So the policy is edited until it comes through.
		refused := told("FirewallPolicy", "p", "", `unknown field "spec.schedule": agents of this version do not know it`)
		for n, deadline := 10, time.Now().Add(time.Minute); !refused(f.last); n++ {
			if time.Now().After(deadline) {
				t.Fatalf("not refused within a minute: %+v", f.last)
			}
			c.edit("FirewallPolicy", "p", func(spec map[string]any) { spec["schedule"], spec["order"] = "office hours", int64(n) })
			select {
			case f.last = <-f.snaps:
			case <-time.After(time.Second):
			}
		}
		if len(f.last.Policies) != 1 || !f.last.Problems[0].Kept {
			t.Errorf("the policy did not stay: %+v", f.last)
		}
	})
	c.edit("FirewallPolicy", "p", func(spec map[string]any) {
		delete(spec, "schedule")
		spec["order"] = int64(4)
	})
	f.TB = t
	good = f.until("mended", func(s *Snapshot) bool { return well(s) && s.Policies[0].Order == 4 })

	t.Run("two trunks claim an uplink", func(t *testing.T) {
		f.TB = t
		claim := `{nodeSelector: {rack: r1}, bridge: {name: %s, managed: true}, uplink: {interface: eth1, allowedVLANs: "1-9"}}`
		c.edit("VLANTrunk", "t", func(spec map[string]any) { spec["uplink"].(map[string]any)["interface"] = "eth1" })
		good = f.until("with an uplink", func(s *Snapshot) bool { return well(s) && s.Trunks["t"].Uplink == "eth1" })
		c.create(fromYAML(c, "VLANTrunk", "rival", fmt.Sprintf(claim, "br9")))
		s := f.until("refused", told("VLANTrunk", "rival", "spec.uplink.interface", "VLANTrunk t"))
		same(t, s)
		if err := c.Delete(t.Context(), fromYAML(c, "VLANTrunk", "rival", "{}")); err != nil {
			t.Fatal(err)
		}
		f.until("without the rival", well)
	})

	t.Run("a policy that is too large to be stored", func(t *testing.T) {
		f.TB = t
		u := unstructuredOf(fromYAML(c, "FirewallPolicy", "p", "{}").GroupVersionKind())
		if err := c.Get(t.Context(), client.ObjectKey{Name: "p"}, u); err != nil {
			t.Fatal(err)
		}
		var peers, rules []any
		for i := range 512 {
			peers = append(peers, map[string]any{"ip": fmt.Sprintf("10.0.%d.%d", i/256, i%256)})
		}
		for i := range 200 {
			rules = append(rules, map[string]any{"id": int64(i + 1), "action": "Drop", "sources": peers})
		}
		u.Object["spec"].(map[string]any)["rules"] = rules
		err := c.Update(t.Context(), u)
		if err == nil || !strings.Contains(err.Error(), "too large") && !strings.Contains(err.Error(), "Too long") && !apierrors.IsRequestEntityTooLargeError(err) {
			t.Errorf("a policy of 200 rules with 512 peers each: %v", err)
		}
		same(t, f.last)
	})

	t.Run("a namespace that may not use a network", func(t *testing.T) {
		f.TB = t
		c.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "allowed", Labels: map[string]string{"vms": "yes"}}})
		c.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "others"}})
		c.edit("VLANNetwork", "lan", func(spec map[string]any) {
			spec["namespaces"] = map[string]any{"matchLabels": map[string]any{"vms": "yes"}}
		})
		good = f.until("only the allowed one", func(s *Snapshot) bool {
			n := s.Networks["lan"].Namespaces
			return well(s) && len(n) == 1 && n[0] == "allowed"
		})
	})

	t.Run("a token that expires", func(t *testing.T) {
		f.stop()
		expires(t, c, good)
	})
}

// expires: an agent whose token is not taken any more keeps what it has, says since
// when, and goes on with the next token.
func expires(t *testing.T, c *cluster, good *Snapshot) {
	for _, o := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent"}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "agent"}}},
	} {
		c.create(o)
	}
	token := func() string {
		var request authenticationv1.TokenRequest
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent"}}
		if err := c.SubResource("token").Create(t.Context(), sa, &request); err != nil {
			t.Fatal(err)
		}
		return request.Status.Token
	}
	var bearer atomic.Value
	bearer.Store(token())
	cfg := c.Config()
	cfg.CertData, cfg.KeyData = nil, nil
	cfg.Wrap(func(inner http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+bearer.Load().(string))
			return inner.RoundTrip(r)
		})
	})
	f := follow(t, cfg, "n1", "")
	before := f.until("with a token", func(s *Snapshot) bool { return fresh(s) && s.sameContent(good) })
	bearer.Store("expired")
	c.Restart() // ends the watches that were opened with the old one
	s := f.until("expired", func(s *Snapshot) bool {
		return s.Stale != nil && strings.Contains(s.Stale.Message, "does not know us any more (401): the token has expired")
	})
	if !s.sameContent(before) || s.Revision != before.Revision || s.Stale.Reason != ReasonUnreadable {
		t.Errorf("without a token: %+v, was %+v", s, before)
	}
	bearer.Store(token())
	c.edit("FirewallPolicy", "p", func(spec map[string]any) { spec["order"] = int64(9) })
	f.until("with the next token", func(s *Snapshot) bool { return fresh(s) && s.Policies[0].Order == 9 })
}
