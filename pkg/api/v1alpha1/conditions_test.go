package v1alpha1

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// TestConditionsReference: every reason has its line in the reference, with a
// meaning and what to do, and the reference has no other; every reason has a
// comment.
func TestConditionsReference(t *testing.T) {
	const reference = "../../../docs/reference/conditions.md"
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|(?: [^|]+ \\|){2,}$").FindAllStringSubmatch(string(text), -1) {
		listed[m[1]] = true
	}
	file, err := parser.ParseFile(token.NewFileSet(), "conditions.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !regexp.MustCompile("^(Reason|Event|Condition)[A-Z]").MatchString(spec.Names[0].Name) {
			return true
		}
		name := spec.Names[0].Name
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil || !strings.HasSuffix(name, value) {
			t.Errorf("%s = %q: want the name's end as the value", name, value)
		}
		if !strings.HasPrefix(spec.Doc.Text(), name) {
			t.Errorf("%s has no comment that begins with it", name)
		}
		if !listed[value] {
			t.Errorf("%s: %q is not in %s", name, value, reference)
		}
		known[value] = true
		return true
	})
	for value := range listed {
		if !known[value] {
			t.Errorf("%q: in %s, but not in conditions.go", value, reference)
		}
	}
	if len(known) < 16 {
		t.Errorf("only %d constants found", len(known))
	}
}

func TestLabelValue(t *testing.T) {
	long := strings.Repeat("a.b-", 60)
	seen := map[string]bool{}
	for _, name := range []string{"lan", strings.Repeat("x", 63), strings.Repeat("x", 64), strings.Repeat("x", 65), long + "1", long + "2"} {
		v := LabelValue(name)
		if errs := validation.IsValidLabelValue(v); len(errs) > 0 || seen[v] {
			t.Errorf("%s: %s, %v", name, v, errs)
		}
		seen[v] = true
	}
	if LabelValue("lan") != "lan" {
		t.Error("a short name is its own label value")
	}
}
