package cniconf

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const reference = "../../docs/reference/cni.md"

// section gives the part of the reference under a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	_, s, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", reference, heading)
	}
	s, _, _ = strings.Cut(s, "\n## ")
	return s
}

// TestReferenceKeys: the table of keys has ours in their order, and what is said
// to be accepted is.
func TestReferenceKeys(t *testing.T) {
	keys := section(t, "Keys")
	table, _, _ := strings.Cut(keys, "\n\n| given |")
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(table, -1) {
		got = append(got, m[1])
	}
	if d := cmp.Diff(ourKeys(), got); d != "" {
		t.Errorf("%s (-code +docs):\n%s", reference, d)
	}
	_, accepted, _ := strings.Cut(keys, "\nKeys that runtimes add are accepted: ")
	accepted, _, _ = strings.Cut(accepted, "**")
	names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(accepted, -1)
	for _, m := range names {
		if !theirKey(m[1]) {
			t.Errorf("%s says that %q is accepted", reference, m[1])
		}
	}
	if len(names) < 14 {
		t.Errorf("%s lists %d keys of runtimes", reference, len(names))
	}
}

// TestReferenceExamples: each config of the reference is good.
func TestReferenceExamples(t *testing.T) {
	var modes []string
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(section(t, "Examples"), -1) {
		var nad struct {
			Spec struct{ Config string }
		}
		var conf map[string]any
		if err := yaml.Unmarshal([]byte(m[1]), &nad); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(nad.Spec.Config), &conf); err != nil {
			t.Fatalf("%v in %s", err, nad.Spec.Config)
		}
		mode := "main"
		if plugins, ok := conf["plugins"].([]any); ok {
			mode = "chained"
			last, _ := plugins[len(plugins)-1].(map[string]any)
			last["cniVersion"], last["name"], last["prevResult"] = conf["cniVersion"], conf["name"], map[string]any{}
			conf = last
		}
		stdin, err := json.Marshal(conf)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Parse(stdin, "")
		if err != nil || (c.PrevResult != nil) != (mode == "chained") {
			t.Errorf("%s: %+v, %v", stdin, c, err)
		}
		modes = append(modes, mode)
	}
	if !slices.Equal(modes, []string{"main", "main", "chained"}) {
		t.Errorf("examples: %q", modes)
	}
}
