package docs

import (
	"bytes"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/cniconf"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// kinds that pages show, to decode into.
func kinds() map[string]any {
	return map[string]any{
		v1alpha1.KindVLANTrunk: new(v1alpha1.VLANTrunk), v1alpha1.KindVLANNetwork: new(v1alpha1.VLANNetwork),
		v1alpha1.KindFirewallPolicy: new(v1alpha1.FirewallPolicy), v1alpha1.KindAddressSet: new(v1alpha1.AddressSet),
		v1alpha1.KindServiceSet: new(v1alpha1.ServiceSet), v1alpha1.KindReachabilityCheck: new(v1alpha1.ReachabilityCheck),
	}
}

// TestManifests: each YAML block is YAML, what is ours has no field that the kind
// has not, and a NetworkAttachmentDefinition's config is one that our plugin takes.
// (test/deploy shows the same ones to an API server.)
func TestManifests(t *testing.T) {
	ours, nads := 0, 0
	for _, o := range Objects(t) {
		switch {
		case o.Group() == v1alpha1.Group:
			ours++
			into := kinds()[o.GetKind()]
			text, err := o.MarshalJSON()
			if into == nil || err != nil {
				t.Errorf("%s: kind %s, %v", o.Where, o.GetKind(), err)
			} else if err := yaml.UnmarshalStrict(text, into); err != nil {
				t.Errorf("%s: %s %s: %v", o.Where, o.GetKind(), o.GetName(), err)
			}
		case o.Group() == "" && o.GetKind() == "Pod":
			if text, err := o.MarshalJSON(); err != nil {
				t.Errorf("%s: %v", o.Where, err)
			} else if err := yaml.UnmarshalStrict(text, new(corev1.Pod)); err != nil {
				t.Errorf("%s: Pod %s: %v", o.Where, o.GetName(), err)
			}
		case o.GetKind() == "NetworkAttachmentDefinition":
			nads++
			spec, _ := o.Object["spec"].(map[string]any)
			config, _ := spec["config"].(string)
			checkCNI(t, o.Where, config)
		}
	}
	if ours < 10 || nads < 3 {
		t.Errorf("only %d objects of ours and %d NetworkAttachmentDefinitions found", ours, nads)
	}
}

// TestCNIConfigs: so are those that are shown as JSON.
func TestCNIConfigs(t *testing.T) {
	seen := 0
	for _, p := range Pages(t) {
		for _, b := range p.Blocks() {
			if b.Lang == "json" && strings.Contains(b.Text, "cniVersion") {
				seen++
				checkCNI(t, b.where(), b.Text)
			}
		}
	}
	if seen < 2 {
		t.Errorf("only %d found", seen)
	}
}

// checkCNI holds a config against our plugin's parser; in a list, ours is last.
func checkCNI(t *testing.T, where, config string) {
	t.Helper()
	var conf map[string]any
	if err := json.Unmarshal([]byte(config), &conf); err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	if plugins, ok := conf["plugins"].([]any); ok {
		last, _ := plugins[len(plugins)-1].(map[string]any)
		last["cniVersion"], last["name"], last["prevResult"] = conf["cniVersion"], conf["name"], map[string]any{}
		conf = last
	}
	if conf["type"] != "homeport" {
		t.Errorf("%s: type %v is not ours", where, conf["type"])
	}
	stdin, err := json.Marshal(conf)
	if err == nil {
		_, err = cniconf.Parse(stdin, "")
	}
	if err != nil {
		t.Errorf("%s: %v", where, err)
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks: what a page points at is there, with the heading.
func TestLinks(t *testing.T) {
	seen := 0
	for _, p := range Pages(t) {
		for _, m := range link.FindAllStringSubmatch(p.Text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			seen++
			file := p.Name
			if target != "" {
				file = path.Join(path.Dir(p.Name), target)
			}
			full := filepath.Join(Root(), file)
			if _, err := os.Stat(full); err != nil {
				t.Errorf("%s: link to %s: %v", p.Name, m[1], err)
				continue
			}
			if anchor == "" {
				continue
			}
			text, err := os.ReadFile(full)
			if err != nil || !slices.Contains(Anchors(string(text)), anchor) {
				t.Errorf("%s: link to %s: no such heading in %s", p.Name, m[1], file)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d links found", seen)
	}
}

// fine are reasons of conditions and events behind which there is no trouble.
var fine = []string{"Ready", "Healthy", "PortsUpToDate", "PeersKnown", "VMsSelected", "NotEmpty", "PortActive", "MACSet", "Unique", "NotFiltered", "Bypassed", "Offered", "AllPassed", "AddressesWritten"}

// TestTroubleshooting: each reason of a condition that is no good news has its
// line, and what has a line is a reason.
func TestTroubleshooting(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(Root(), "pkg/api/v1alpha1/conditions.go"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\tReason\w+ += "(\w+)"$`).FindAllStringSubmatch(string(source), -1) {
		known[m[1]] = true
	}
	text, err := os.ReadFile(filepath.Join(Root(), "docs/troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "## By reason of a condition\n")
	section, _, _ := strings.Cut(rest, "\n## ")
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(section, -1) {
		told[m[1]] = true
	}
	for reason := range known {
		if told[reason] == slices.Contains(fine, reason) {
			t.Errorf("%s: in docs/troubleshooting.md %v, want the opposite", reason, told[reason])
		}
	}
	for reason := range told {
		if !known[reason] {
			t.Errorf("%s: in docs/troubleshooting.md, but no reason of conditions.go", reason)
		}
	}
	if len(known) < 15 {
		t.Errorf("only %d reasons found", len(known))
	}
}

// TestDropReasons: those that troubleshooting names are those of the programs.
func TestDropReasons(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(Root(), "docs/troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for r := policy.Reason(0); r < 64; r++ {
		names[r.String()] = r.Drops()
	}
	_, rest, _ := strings.Cut(string(text), "## By reason of a drop\n")
	section, _, _ := strings.Cut(rest, "\n## ")
	rows := regexp.MustCompile(`(?m)^\| ([A-Z][A-Za-z, ]+) \|`).FindAllStringSubmatch(section, -1)
	for _, m := range rows {
		for _, name := range strings.Split(m[1], ", ") {
			if !names[name] {
				t.Errorf("%q is no reason of a drop", name)
			}
		}
	}
	if len(rows) < 5 {
		t.Errorf("only %d rows found", len(rows))
	}
}

// TestReadme is short enough to be read.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > 150 {
		t.Errorf("README.md has %d lines, want 150 at most", n)
	}
	for _, page := range Pages(t) {
		if page.Name != "README.md" && !strings.HasPrefix(page.Name, "docs/reference/") && !strings.Contains(string(text), "("+page.Name+")") {
			t.Errorf("README.md does not lead to %s", page.Name)
		}
	}
}

// TestSupportMatrix: the versions that it names are those that are built and booted,
// and the gate runs what it says, and no more.
func TestSupportMatrix(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(Root(), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	matrix := read("docs/support-matrix.md")
	modules := read("test/cluster/tools/go.mod")
	for module, name := range map[string]string{
		"k8s.io/kubernetes":                           "API server ",
		"go.etcd.io/etcd/server/v3":                   "etcd ",
		"gopkg.in/k8snetworkplumbingwg/multus-cni.v4": "Multus ",
		"github.com/containernetworking/plugins":      "`bridge` ",
	} {
		m := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(module) + ` v(\S+)`).FindStringSubmatch(modules)
		if m == nil || !strings.Contains(matrix, name+m[1]) {
			t.Errorf("%s: the matrix does not say %q with the version of %q", module, name, m)
		}
	}
	gate, makefile := read(".ci/run"), read("Makefile")
	kernels := regexp.MustCompile(`(?m)^\thack/test-vm\.sh (.*)$`).FindStringSubmatch(makefile)
	if kernels == nil {
		t.Fatal("the Makefile boots no kernels")
	}
	for _, k := range strings.Fields(kernels[1]) {
		if !strings.Contains(matrix, "Debian "+k+" ") {
			t.Errorf("kernel %s is booted, and not in the matrix", k)
		}
	}
	const cluster = "`make test-cluster`"
	if !strings.Contains(gate, "make test-cluster") || !strings.Contains(matrix, cluster) {
		t.Errorf("want a whole cluster in the gate, and %s in the matrix", cluster)
	}
}
