package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sample = `
spec:
  scope: Cluster
  names: {kind: KIND, plural: boxes, shortNames: [bx]}
  versions:
  - name: v1alpha1
    schema:
      openAPIV3Schema:
        description: KIND is a box.
        properties:
          spec:
            required: [size]
            x-kubernetes-validations: [{rule: "self.size > 1 || self.open", message: small boxes are open}]
            properties:
              size: {type: integer, minimum: 1, maximum: 4094, description: "Size in | <cm>."}
              open: {type: boolean, default: true}
              tags:
                type: array
                maxItems: 3
                x-kubernetes-list-map-keys: [id]
                items: {type: object, required: [id], properties: {id: {type: string, enum: [A, B], maxLength: 9}}}
              where: {type: object, properties: {matchLabels: {type: object}}}
          status:
            properties:
              conditions: {type: array, items: {properties: {lastTransitionTime: {type: string}}}}
              last: {type: object, properties: {lastTransitionTime: {type: string}}}
`

// TestPage: each field is told once, with all that limits it.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	for _, kind := range order {
		if err := os.WriteFile(filepath.Join(dir, kind+".yaml"), []byte(strings.ReplaceAll(sample, "KIND", kind)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := write(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"## VMPort\n\nVMPort is a box.\n\n`v1alpha1`, cluster, also `boxes`, `bx`.\n",
		"| `spec.size` | integer | required | 1 to 4094 | Size in \\| &lt;cm>. |\n",
		"| `spec.open` | boolean | `true` |  |  |\n",
		"| `spec.tags[]` | list of object | none | at most 3 items; unique by `id` |  |\n",
		"| `spec.tags[].id` | string | required | `A`, `B`; at most 9 characters |  |\n",
		"| `spec.where` | label selector | none |  |  |\n",
		"| `status.last` | condition | none |  |  |\n",
		"| `status.conditions[]` | list of conditions | none |  |  |\n",
		"- `spec`: small boxes are open (`self.size > 1 || self.open`)\n",
	} {
		if n := strings.Count(got, line); n != len(order) && !strings.Contains(line, "VMPort") || n == 0 {
			t.Errorf("%d times, want one a kind: %q in\n%s", n, line, got)
		}
	}
	if err := os.Remove(filepath.Join(dir, "VMPort.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := write(dir); err == nil {
		t.Error("a kind without a CRD is no error")
	}
}
