package apiserver

import (
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// Apply creates what YAML files describe, in their order, as the administrator.
func (s *Server) Apply(files ...string) {
	s.tb.Helper()
	c, err := client.New(s.Config(), client.Options{})
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			s.tb.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
				s.tb.Fatalf("%s: %v", file, err)
			}
			if len(u.Object) == 0 {
				continue
			}
			if err := c.Create(s.tb.Context(), u); err != nil {
				s.tb.Fatalf("%s: %v", file, err)
			}
		}
	}
}
