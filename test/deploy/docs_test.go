package deploy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/test/apiserver"
	"github.com/homeport-cni/homeport/test/docs"
)

// TestDocumentedObjects: an API server takes each object of ours, and each
// NetworkAttachmentDefinition and MultiNetworkPolicy, that README.md and docs/ show,
// by schema and rules; nothing is kept.
func TestDocumentedObjects(t *testing.T) {
	s := apiserver.Start(t, "../../deploy/base/crds", "../crds")
	admin := newClient(t, s.Config())
	namespaces := map[string]bool{"": true}
	shown := 0
	for _, o := range docs.Objects(t) {
		if o.Group() != v1alpha1.Group && o.Group() != "k8s.cni.cncf.io" {
			continue
		}
		if ns := o.GetNamespace(); !namespaces[ns] {
			namespaces[ns] = true
			if err := admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
				t.Fatal(err)
			}
		}
		shown++
		if err := admin.Create(t.Context(), &o.Unstructured, client.DryRunAll); err != nil {
			t.Errorf("%s: %s %s: %v", o.Where, o.GetKind(), o.GetName(), err)
		}
	}
	if shown < 15 {
		t.Errorf("only %d objects found in the pages", shown)
	}
}
