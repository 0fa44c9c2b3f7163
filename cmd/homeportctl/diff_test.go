package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/report"
)

func TestDiff(t *testing.T) {
	agent := newAgent(t, views(t))
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	compiled := homeportctl(t, agent, "policy", "compile", "veth8f2c01", "-o", "json").Stdout
	before := write("before.json", compiled)
	inYAML := write("before.yaml", homeportctl(t, agent, "policy", "compile", "veth8f2c01", "-o", "yaml").Stdout)
	other := write("other.yml", strings.Replace(compiled, `"Reject"`, `"Allow"`, 1))
	newer := write("newer.json", strings.Replace(compiled, `"Active"`, `"Hibernating"`, 1)) // a state that this release does not know
	for _, tt := range []struct {
		args           []string
		code           int
		stdout, stderr string // a part; "" is nothing
	}{
		{[]string{before, "veth8f2c01"}, exitOK, "The rules are the same", ""},
		{[]string{"shop/virt-launcher-db-x7k2p", inYAML}, exitOK, "The rules are the same", ""},
		{[]string{newer, before}, exitOK, "The rules are the same", ""},
		{[]string{write("plain", compiled), before}, exitOK, "The rules are the same", ""},
		{[]string{write("named.json", strings.Replace(compiled, `"10.0.0.0/24"`, `"AddressSet friends"`, 1)), filepath.Join(dir, "named.json")}, exitInconclusive, "Whether AddressSet friends has other items is not known", ""},
		{[]string{"./none", before}, exitInconclusive, "", "./none: no such file or directory"},
		{[]string{before, other}, exitFailed, "Changed  ssh     1   action: Reject -> Allow\n", ""},
		{[]string{other, "c0ffee"}, exitFailed, "Changed  ssh     1   action: Allow -> Reject\n", ""},
		{[]string{before, "db"}, exitInconclusive, "", `port "db": not attached on this node; next: homeportctl ports`},
		{[]string{"none.json", "veth8f2c01"}, exitInconclusive, "", "none.json: no such file or directory; next: write it by policy compile PORT -o json"},
		{[]string{write("status.json", homeportctl(t, agent, "status", "-o", "json").Stdout), "veth8f2c01"}, exitInconclusive, "", `has kind "NodeStatus" of "homeport.dev/v1alpha1": want PortRules`},
		{[]string{write("bad.json", "{"), "veth8f2c01"}, exitInconclusive, "", "bad.json: "},
		{[]string{write("empty.yaml", ""), "veth8f2c01"}, exitInconclusive, "", `has kind "" of ""`},
		{[]string{before}, exitUsage, "", "homeportctl policy diff wants OLD and NEW, got 1 arguments; next: homeportctl --help"},
		{[]string{"-", "-"}, exitUsage, "", "standard input can be read once"},
	} {
		r := homeportctl(t, agent, append([]string{"policy", "diff"}, tt.args...)...)
		has := func(all, part string) bool {
			return part != "" && strings.Contains(all, part) || part == "" && all == ""
		}
		if r.Code != tt.code || !has(r.Stdout, tt.stdout) || !has(r.Stderr, tt.stderr) {
			t.Errorf("%v: got %+v, want code %d, stdout %q, stderr %q", tt.args, r, tt.code, tt.stdout, tt.stderr)
		}
	}

	stdin := os.Stdin
	t.Cleanup(func() { os.Stdin = stdin })
	var err error
	if os.Stdin, err = os.Open(other); err != nil {
		t.Fatal(err)
	}
	defer os.Stdin.Close()
	r := homeportctl(t, "", "policy", "diff", "-", before, "-o", "json") // without an agent
	var d report.PolicyDiff
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil || r.Code != exitFailed || d.TypeMeta != meta("PolicyDiff") || len(d.Items) != 1 ||
		d.Items[0].Change != "Changed" || d.Items[0].New == nil || d.Items[0].New.Action != "Reject" || d.Old.Name != "-" || d.New.Rules != 2 {
		t.Errorf("files alone, as JSON: %+v, %v", r, err)
	}
}
