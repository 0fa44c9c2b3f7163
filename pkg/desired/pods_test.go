package desired

import (
	"maps"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPodsToldOf: of a pod whose annotations about addresses have changed is told apart from one that is another's now, and of
// no other annotation.
func TestPodsToldOf(t *testing.T) {
	slim := func(annotations map[string]string) *metav1.PartialObjectMetadata {
		pod := podMeta()
		pod.UID, pod.Labels, pod.Annotations = "u1", map[string]string{"a": "b"}, annotations
		for range 2 { // what was kept may come once more
			if _, err := slimPod(pod); err != nil {
				t.Fatal(err)
			}
		}
		return pod
	}
	var told []string
	h := podHandler{func(any) { told = append(told, "changed") }, func(any) { told = append(told, "readdressed") }}
	for _, tt := range []struct {
		name   string
		before map[string]string
		change map[string]string
		want   []string
	}{
		{"nothing", map[string]string{networksAnnotation: "a"}, nil, nil},
		{"what nobody reads", map[string]string{networksAnnotation: "a"}, map[string]string{"note": "x"}, nil},
		{"networks", map[string]string{networksAnnotation: "a"}, map[string]string{networksAnnotation: "a,b"}, []string{"readdressed"}},
		{"a declaration", nil, map[string]string{addressesAnnotation: "{}"}, []string{"readdressed"}},
		{"network-status", nil, map[string]string{NetworkStatusAnnotation: "[]"}, []string{"readdressed"}},
		{"from one to the other", map[string]string{calicoAnnotation: "[]"}, map[string]string{calicoAnnotation: "", ovnAnnotation: "[]"}, []string{"readdressed"}},
		{"a migration", nil, map[string]string{readyAnnotation: "now", NetworkStatusAnnotation: "[]"}, []string{"changed"}},
	} {
		after := maps.Clone(tt.before)
		if after == nil {
			after = map[string]string{}
		}
		maps.Copy(after, tt.change)
		told = nil
		if h.OnUpdate(slim(tt.before), slim(after)); !slices.Equal(told, tt.want) {
			t.Errorf("%s: told %v, want %v", tt.name, told, tt.want)
		}
	}
	relabelled := slim(nil)
	relabelled.Labels = map[string]string{"a": "c"}
	told = nil
	if h.OnUpdate(slim(nil), relabelled); !slices.Equal(told, []string{"changed"}) {
		t.Errorf("labels: told %v", told)
	}
}
