package netns

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestLoad runs testdata/load/*.txtar, each alone: they measure what a machine
// under load does, and would disturb the others.
func TestLoad(t *testing.T) {
	bin := requireLab(t)
	files, err := filepath.Glob("testdata/load/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			p := params(bin)
			p.Files = []string{f}
			testscript.Run(t, p)
		})
	}
}

// TestFeatures compares what bridge-agent doctor finds with the committed table
// of this kernel. In a VM, -update writes the table to /out.
func TestFeatures(t *testing.T) {
	kernel := os.Getenv("HOMEPORT_IN_VM")
	if kernel == "" {
		t.Skip("tables are of the kernels of our VMs")
	}
	bin := requireLab(t)
	s, err := newSpace("doctor", "lab-doctor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	cmd := s.Command(t.Context(), filepath.Join(bin.Product, "bridge-agent"), "doctor", "-o", "json")
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err = s.Run(cmd)
	var report struct {
		Outcome string
		Checks  []struct{ Name, Answer, Needs string }
	}
	if jerr := json.Unmarshal(out.Bytes(), &report); jerr != nil {
		t.Fatalf("doctor: %v, %v: %s %s", err, jerr, out.String(), diag.String())
	}
	var lines []string
	for _, c := range report.Checks {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%-40s %-8s %s", c.Name, c.Answer, c.Needs), " "))
	}
	sort.Strings(lines)
	got := strings.Join(lines, "\n") + "\noutcome: " + report.Outcome + "\n"
	name := "features-" + kernel + ".txt"
	if *update {
		if err := os.WriteFile(filepath.Join("/out", name), []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil && !*update {
		t.Fatalf("%v; this kernel gives:\n%s", err, got)
	}
	if diff := cmp.Diff(string(want), got); diff != "" && !*update {
		t.Errorf("kernel %s is not as testdata/%s says (-want +got):\n%s", kernel, name, diff)
	}
}
