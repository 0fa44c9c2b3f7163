// Package homeport holds no code: its test keeps the layout that DESIGN §4 draws.
package homeport

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/homeport-cni/homeport"

type pkg struct {
	ImportPath string
	Name       string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Name,Imports,Deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func within(rel string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return rel == d || strings.HasPrefix(rel, d+"/") })
}

// TestImporters says who alone may import what. Tests and laboratories are free.
func TestImporters(t *testing.T) {
	rules := []struct {
		what    string // import path or prefix
		allowed []string
	}{
		{"github.com/vishvananda/netlink", []string{"pkg/bridge", "pkg/datapath", "test"}},
		{"github.com/cilium/ebpf", []string{"pkg/datapath", "test"}},
		{"github.com/coreos/go-iptables", []string{"pkg/hostfw"}},
		{"k8s.io/client-go", []string{"pkg/kube", "test"}},
		{"sigs.k8s.io/controller-runtime", []string{"pkg/kube", "test"}},
		{"sigs.k8s.io/controller-runtime/pkg/manager", []string{"pkg/kube/controller"}},
		{"sigs.k8s.io/controller-runtime/pkg/controller", []string{"pkg/kube/controller"}},
		{module + "/pkg/kube/controller", []string{"cmd/bridge-agent"}},
		{module + "/cmd", nil},
		{module + "/test", []string{"test", "cmd"}},
		{module + "/pkg/agent", []string{"cmd/bridge-agent"}},
	}
	for _, p := range list(t) {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			for _, r := range rules {
				if within(imp, r.what) && !within(imp, p.ImportPath) && !within(rel, r.allowed...) && !within(p.ImportPath, r.what) {
					t.Errorf("%s imports %s; only %v may", rel, imp, r.allowed)
				}
			}
		}
	}
}

// TestPure keeps packages that are functions from value to value free of the
// kernel, the network and the disk.
func TestPure(t *testing.T) {
	pure := []string{"pkg/vlan", "pkg/learn", "pkg/snoop", "pkg/policy", "pkg/policy/compile", "pkg/api/v1alpha1", "pkg/report"}
	leaves := map[string][]string{"pkg/vlan": nil, "pkg/learn": {module + "/pkg/vlan"}, "pkg/snoop": {module + "/pkg/learn", module + "/pkg/vlan"}} // and what those may import besides the standard library
	banned := regexp.MustCompile(`^(os|os/exec|syscall|golang\.org/x/sys/.*|net/http)$`)
	for _, p := range list(t) {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		if !slices.Contains(pure, rel) {
			continue
		}
		for _, imp := range p.Imports {
			if banned.MatchString(imp) {
				t.Errorf("%s is pure but imports %s", rel, imp)
			}
			if may, leaf := leaves[rel]; leaf && strings.Contains(imp, ".") && !slices.Contains(may, imp) {
				t.Errorf("%s is a leaf but imports %s", rel, imp)
			}
		}
	}
}

// TestLight keeps what makes a program large and slow to start out of all that those
// are built from which run for a moment, again and again.
func TestLight(t *testing.T) {
	banned := map[string][]string{
		module + "/cmd/cni-plugin":  {"github.com/cilium/ebpf", "k8s.io", "sigs.k8s.io", "net/http", "github.com/prometheus"},
		module + "/cmd/homeportctl": {"k8s.io/client-go", "sigs.k8s.io/controller-runtime", "github.com/prometheus"},
	}
	for _, p := range list(t) {
		for _, d := range p.Deps {
			if within(d, banned[p.ImportPath]...) {
				t.Errorf("%s is built from %s", p.ImportPath, d)
			}
		}
		delete(banned, p.ImportPath)
	}
	if len(banned) > 0 {
		t.Errorf("there are no %v", slices.Sorted(maps.Keys(banned)))
	}
}

// TestNames refuses package names that say nothing.
func TestNames(t *testing.T) {
	empty := []string{"util", "utils", "common", "helpers", "shared", "types", "misc"}
	for _, p := range list(t) {
		if slices.Contains(empty, p.Name) || slices.Contains(empty, path.Base(p.ImportPath)) {
			t.Errorf("%s: the name says nothing", p.ImportPath)
		}
	}
}
