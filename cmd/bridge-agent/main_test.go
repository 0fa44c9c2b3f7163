package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/report"
)

func TestExitCodes(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "absent")
	for _, tt := range []struct {
		args   []string
		code   int
		stderr []string // in this order; none: nothing is said
	}{
		{nil, 0, nil},
		{[]string{"--help"}, 0, nil},
		{[]string{"--version"}, 0, nil},
		{[]string{"start"}, 2, []string{"bridge-agent: ", `unknown command "start"`, "next: bridge-agent --help"}},
		{[]string{"run", "--sauce", "dir:/etc/homeport"}, 2, []string{"bridge-agent: ", "unknown flag: --sauce", "--help"}},
		{[]string{"run", "now"}, 2, []string{"now"}},
		{[]string{"run"}, 2, []string{"--source is missing", "as --source kube or --source dir:/etc/homeport"}},
		{[]string{"run", "--source", "/etc/homeport"}, 2, []string{`--source "/etc/homeport"`, "as --source kube or --source dir:/etc/homeport"}},
		{[]string{"run", "--source", "dir:"}, 2, []string{`--source "dir:"`, "as --source kube or --source dir:/etc/homeport"}},
		{[]string{"run", "--source", "kube", "--node", ""}, 2, []string{"--node is missing", "$NODE_NAME"}},
		{[]string{"run", "--source", "dir:/x", "--kubeconfig", "/y"}, 2, []string{"--kubeconfig goes with --source kube"}},
		{[]string{"run", "--source", "kube", "--node", "n1", "--kubeconfig", "/none/such"}, 1, []string{"--kubeconfig /none/such", "no such file"}},
		{[]string{"run", "--source", "kube", "--node", "n1"}, 1, []string{"this is no pod", "--kubeconfig"}},
		{[]string{"run", "--source", "kube", "--node", "n1", "--agents-addr", "[10.0.0.1]:9748"}, 2, []string{"--fabric-key is missing"}},
		{[]string{"run", "--source", "kube", "--node", "n1", "--fabric-key", "/none/such"}, 1, []string{"this is no pod"}},
		{[]string{"run", "--source", "kube", "--node", "n1", "--agents", "n2=10.0.0.2:9748"}, 2, []string{"--agents goes with --source dir"}},
		{[]string{"controller", "now"}, 2, []string{"now", "--help"}},
		{[]string{"controller", "--namespace", ""}, 2, []string{"--namespace is missing", "--leader-elect=false"}},
		{[]string{"controller"}, 1, []string{"this is no pod", "--kubeconfig"}},
		{[]string{"controller", "--kubeconfig", "/none/such"}, 1, []string{"--kubeconfig /none/such", "no such file"}},
		{[]string{"doctor", "-o", "xml"}, 2, []string{"xml", "table, wide, json, yaml"}},
		{[]string{"uninstall", "br0"}, 2, []string{"br0"}},
		{[]string{"install", "--from", nowhere, "--to", nowhere}, 1, []string{"bridge-agent: ", nowhere, "--from"}},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), tt.args, &stdout, &stderr); code != tt.code {
			t.Errorf("%q: exit code %d, want %d", tt.args, code, tt.code)
		}
		rest := stderr.String()
		for _, want := range tt.stderr {
			_, after, ok := strings.Cut(rest, want)
			if !ok {
				t.Errorf("%q: no %q in %q", tt.args, want, stderr.String())
			}
			rest = after
		}
		if (tt.code == 0) != (stderr.Len() == 0) || (tt.code == 0) != (stdout.Len() > 0) {
			t.Errorf("%q: stdout %q, stderr %q", tt.args, stdout.String(), stderr.String())
		}
	}
}

// TestChecks: what a feature is for is never given for what was found.
func TestChecks(t *testing.T) {
	feature := func(a datapath.Answer, detail string) report.Check {
		return featureCheck(datapath.Feature{Name: "tcx", Need: "hooks", Answer: a, Detail: detail})
	}
	const filtering = "bridge VLAN filtering"
	for name, tt := range map[string]struct{ got, want report.Check }{
		"has": {feature(datapath.Yes, ""), report.Check{Name: "tcx", Purpose: "hooks", Answer: report.Yes}},
		"has not": {feature(datapath.No, "needs at least Linux 6.6"), report.Check{Name: "tcx", Purpose: "hooks", Answer: report.No,
			Needs: "at least Linux 6.6", Remedy: "use a kernel that has it: at least Linux 6.6, or a vendor's back-port"}},
		"unknown": {feature(datapath.Unknown, "not permitted"), report.Check{Name: "tcx", Purpose: "hooks", Answer: report.Unknown,
			Detail: "not permitted", Remedy: askAsRoot}},
		"filters": {filteringCheck(nil), report.Check{Name: filtering, Required: true, Purpose: "keeping VLANs apart", Answer: report.Yes}},
		"does not filter": {filteringCheck(bridge.ErrNoVLANFiltering), report.Check{Name: filtering, Required: true, Purpose: "keeping VLANs apart",
			Answer: report.No, Needs: "CONFIG_BRIDGE_VLAN_FILTERING",
			Remedy: "use a distribution's kernel; those of Debian, Ubuntu, RHEL, SLES, Flatcar and Talos have it"}},
		"cannot be tried": {filteringCheck(errors.New("not permitted")), report.Check{Name: filtering, Required: true, Purpose: "keeping VLANs apart",
			Answer: report.Unknown, Detail: "not permitted", Remedy: askAsRoot}},
	} {
		if d := cmp.Diff(tt.want, tt.got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestOutcome(t *testing.T) {
	for a, want := range map[report.Answer]int{report.No: exitFailed, report.Unknown: exitInconclusive} {
		var f *failure
		if err := outcome(a); !errors.As(err, &f) || f.code != want || f.err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := outcome(report.Yes); err != nil {
		t.Error(err)
	}
}
