package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestOneKernel: each row of hack/test-vm.tsv names tests that are there, and none twice, or
// one that is renamed would come back to both kernels, and one named for both run with none.
func TestOneKernel(t *testing.T) {
	b, err := os.ReadFile("../../hack/test-vm.tsv")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]string{}
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		w := strings.Split(line, "\t")
		if len(w) != 3 || !slices.Contains([]string{"6.1", "6.12"}, w[0]) {
			t.Errorf("hack/test-vm.tsv:%d: %q: want kernel, package and tests, apart by tabs", i+1, line)
			continue
		}
		all := namesOf(t, w[1])
		for _, what := range strings.Fields(w[2]) {
			found := 0
			for _, n := range all {
				if what != n.file && what != n.test {
					continue
				}
				found++
				key := w[1] + " " + n.test
				if was := named[key]; was != "" {
					t.Errorf("hack/test-vm.tsv:%d: %s is named by %s too", i+1, key, was)
				}
				named[key] = fmt.Sprintf("line %d", i+1)
			}
			if found == 0 {
				t.Errorf("hack/test-vm.tsv:%d: %s has no tests that are %s", i+1, w[1], what)
			}
		}
	}
	if len(named) < 50 {
		t.Errorf("%d tests are named", len(named))
	}
}

type testName struct{ file, test string }

// namesOf are a package's tests, those that are scripts of the lab among them.
func namesOf(t *testing.T, pkg string) (all []testName) {
	t.Helper()
	dir := filepath.Join("../..", pkg)
	files, err := filepath.Glob(dir + "/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: tests: %v", pkg, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]*)\(`).FindAllStringSubmatch(string(b), -1) {
			if m[1] != "TestMain" {
				all = append(all, testName{filepath.Base(f), m[1]})
			}
		}
	}
	for folder, names := range map[string][]string{"": {"TestScripts/%s"}, "migrate/": {"TestMigrate/%s"}, "hostfw/": {"TestHostFirewall/%s-nft", "TestHostFirewall/%s-legacy"}} {
		scripts, err := filepath.Glob(dir + "/testdata/" + folder + "*.txtar")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range scripts {
			file := filepath.Base(s)
			for _, name := range names {
				all = append(all, testName{file, fmt.Sprintf(name, strings.TrimSuffix(file, ".txtar"))})
			}
		}
	}
	return all
}
