package main

import (
	"os/exec"
	"regexp"
	"testing"
)

// TestMakeDemo is what the README promises: `make demo`, with nodes in a VM and a
// guest with its own kernel, and each BREAK noticed at the step that it breaks.
//
//	HOMEPORT_VM=1 go test -count=1 -v -run TestMakeDemo ./test/demo
func TestMakeDemo(t *testing.T) {
	needVM(t)
	t.Parallel() // a demo waits more than it computes
	cases := []struct {
		fault string
		ok    bool
		says  string
	}{
		{"", true, `All as expected`},
		{"vlan", false, `FAILED.*step 5.*cannot reach vm1 on VLAN 100`},
		{"rule", false, `FAILED.*step 7.*rule 1002`},
		{"mac", false, `FAILED.*step 8.*saw a forged frame`},
	}
	for _, c := range cases {
		t.Run("BREAK="+c.fault, func(t *testing.T) {
			cmd := exec.Command("make", "demo", "WHERE=vm", "BREAK="+c.fault)
			cmd.Dir = "../.."
			out, err := cmd.CombinedOutput()
			if (err == nil) != c.ok || !regexp.MustCompile(c.says).Match(out) {
				t.Errorf("%v, want success %v and %q; it said:\n%s", err, c.ok, c.says, out)
			}
		})
	}
}
