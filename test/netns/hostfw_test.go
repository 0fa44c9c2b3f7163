package netns

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestHostFirewall runs testdata/hostfw/*.txtar, in both variants of iptables: $IPT
// and $IPT6. It comes before tests that run side by side: once br_netfilter is
// there, it is switched on in each new network namespace.
func TestHostFirewall(t *testing.T) {
	bin := requireLab(t)
	skip := t.Skipf
	if os.Getenv("HOMEPORT_IN_VM") != "" {
		skip = t.Fatalf
	}
	if err := loadNetfilter(t); err != nil {
		skip("br_netfilter cannot be loaded: %v", err)
	}
	files, err := filepath.Glob("testdata/hostfw/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, variant := range []string{"nft", "legacy"} {
		if _, err := exec.LookPath("iptables-" + variant); err != nil {
			skip("there is no iptables-%s: %v", variant, err)
		}
		for _, f := range files {
			t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar")+"-"+variant, func(t *testing.T) {
				t.Parallel() // they wait for much, legacy for the agent's looks at the host above all
				p := params(bin)
				p.Files = []string{f}
				lab := p.Setup
				p.Setup = func(env *testscript.Env) error {
					env.Vars = append(env.Vars, "VARIANT="+variant, "IPT=iptables-"+variant, "IPT6=ip6tables-"+variant)
					return lab(env)
				}
				testscript.Run(t, p)
			})
		}
	}
}

// loadNetfilter loads br_netfilter for as long as the test lasts; and nf_tables, unless the kernel
// has it built in, before scripts side by side ask for it for the first time: a modprobe that finds
// another one at work is done at once, and whoever waited for it is told that there is no such thing.
func loadNetfilter(t *testing.T) error {
	t.Helper()
	_ = exec.Command("modprobe", "nf_tables").Run()
	const switches = "/proc/sys/net/bridge"
	if _, err := os.Stat(switches); err == nil {
		return nil
	}
	if out, err := exec.Command("modprobe", "br_netfilter").CombinedOutput(); err != nil {
		return errors.New(strings.TrimSpace(string(out)) + ": " + err.Error())
	}
	t.Cleanup(func() {
		if out, err := exec.Command("rmmod", "br_netfilter").CombinedOutput(); err != nil {
			t.Errorf("rmmod br_netfilter: %v: %s", err, out)
		}
	})
	_, err := os.Stat(switches)
	return err
}
