package desired

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

const reference = "../../docs/reference/manifests.md"

// The examples of the reference are good, together.
func TestReferenceExamples(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	s := replay(state{"manifests.md": docs(all...)})
	if len(s.Problems) > 0 || len(s.Trunks) != 1 || len(s.Networks) != 2 || len(s.Policies) != 5 || len(s.Sets) != 2 || len(s.ServiceSets) != 2 || len(s.Checks) != 1 {
		t.Errorf("in force %s\nproblems %v", inForce(s), s.Problems)
	}
}

// Every field of the kinds has its line in the reference, and no other has one.
func TestReferenceFields(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, kind := range []any{v1alpha1.VLANTrunkSpec{}, v1alpha1.VLANNetworkSpec{}, v1alpha1.FirewallPolicySpec{}, v1alpha1.AddressSetSpec{}, v1alpha1.ServiceSetSpec{}, v1alpha1.ReachabilityCheckSpec{}} {
		leaves(reflect.TypeOf(kind), "spec", func(path string) { want[path] = true })
	}
	got := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| (`spec[^|]*) \\|").FindAllStringSubmatch(string(text), -1) {
		for _, path := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(m[1], -1) {
			got[path[1]] = true
		}
	}
	for path := range want {
		// Peers are described once, at sources.
		if !got[strings.Replace(path, "destinations[].", "sources[].", 1)] {
			t.Errorf("%s: not in %s", path, reference)
		}
	}
	for path := range got {
		list := strings.HasSuffix(path, "[]")
		if !want[path] && !list {
			t.Errorf("%s: in %s, but no kind has it", path, reference)
		}
	}
}

// leaves visits the paths of a type's fields.
func leaves(typ reflect.Type, path string, visit func(path string)) {
	switch {
	case typ.Kind() == reflect.Pointer:
		leaves(typ.Elem(), path, visit)
	case typ.Kind() == reflect.Slice:
		leaves(typ.Elem(), path+"[]", visit)
	case typ.Kind() == reflect.Struct && typ != reflect.TypeFor[metav1.LabelSelector]():
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name != "" {
				name = "." + name
			}
			leaves(typ.Field(i).Type, path+name, visit)
		}
	default:
		visit(path)
	}
}
