package docs

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Object is a manifest that a page shows.
type Object struct {
	unstructured.Unstructured
	Where string // page and line
}

// Group of its API; "" is Kubernetes' core.
func (o Object) Group() string { return o.GroupVersionKind().Group }

func (b Block) where() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// separator stands between documents.
var separator = regexp.MustCompile(`(?m)^---\s*$`)

// Objects are all manifests that have a kind; what is only a part of one is held
// to be YAML and left out.
func Objects(tb testing.TB) []Object {
	tb.Helper()
	var out []Object
	for _, p := range Pages(tb) {
		for _, b := range p.Blocks() {
			if b.Lang != "yaml" {
				continue
			}
			for _, doc := range separator.Split(b.Text, -1) {
				o := Object{Where: b.where()}
				if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
					tb.Errorf("%s: %v in\n%s", o.Where, err, doc)
				} else if o.GetKind() != "" {
					out = append(out, o)
				} else if strings.Contains(doc, "apiVersion:") {
					tb.Errorf("%s: has no kind:\n%s", o.Where, doc)
				}
			}
		}
	}
	return out
}
