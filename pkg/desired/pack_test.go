package desired

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestPack: what is packed says the same when it is unpacked, fields that nobody
// knows and all; and it stays so when it is packed again.
func TestPack(t *testing.T) {
	o := &unstructured.Unstructured{} // read as the API server's answers are
	if err := o.UnmarshalJSON([]byte(`{"apiVersion": "homeport.dev/v1alpha1", "kind": "FirewallPolicy", "metadata": {"name": "p", "generation": 3},
  "spec": {"category": "Application", "order": 9007199254740993, "appliedTo": [{"network": "lan"}], "later": {"a": [1, "x", null]},
    "rules": [{"id": 1, "action": "Allow", "sources": [{"ip": "10.0.0.1"}]}]}}`)); err != nil {
		t.Fatal(err)
	}
	id := identity()
	id.SetName("vm")
	id.SetLabels(map[string]string{"app": "ledger"})
	if err := unstructured.SetNestedSlice(id.Object, []any{map[string]any{"address": "10.1.0.5"}}, "status", "addresses"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		o    *unstructured.Unstructured
		slim func(any) (any, error)
	}{{o, slim}, {id, slimIdentity}} {
		want, err := tt.slim(tt.o.DeepCopy())
		if err != nil {
			t.Fatal(err)
		}
		var got any = tt.o.DeepCopy()
		for range 2 {
			if got, err = packing(tt.slim)(got); err != nil {
				t.Fatal(err)
			}
		}
		kept := got.(*unstructured.Unstructured)
		if kept.Object["spec"] != nil || kept.Object["status"] != nil || kept.GetName() != tt.o.GetName() {
			t.Errorf("kept: %v", kept.Object)
		}
		if d := cmp.Diff(want, any(unpack(kept))); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	}
	kept, _ := packing(slim)(o)
	if d := decodeObject(kept.(*unstructured.Unstructured)); len(d.problems) != 1 {
		t.Errorf("a field that is not known, of a packed object: %+v", d.problems)
	}
	kept, _ = packing(slimIdentity)(id)
	if v := readIdentity(kept.(*unstructured.Unstructured)); len(v.addresses) != 1 || v.labels["app"] != "ledger" {
		t.Errorf("identity %+v", v)
	}
}
