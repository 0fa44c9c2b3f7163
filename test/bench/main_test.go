package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

func TestParse(t *testing.T) {
	unset := func(string) string { return "" }
	for _, c := range []struct {
		args, want string // want: part of the error, "" for none
	}{
		{"-where moon", "-where"},
		{"-rows cni,teapot", "teapot"},
		{"-rows=", "want plugin"},
		{"-rounds 0", "at least 1"},
		{"-slices 0", "at least 1"},
		{"-flows 0", "from 1 to 30000"},
		{"-flows 1,x", "from 1 to 30000"},
		{"-flows 30001", "from 1 to 30000"},
		{"-rules 10,x", "from 2 to 12288"},
		{"-rules 1", "from 2 to 12288"},
		{"-rules 100,10", "want numbers that rise"},
		{"-addresses 999", "from 1000 to 1000000"},
		{"-rivals ipchains", "want iptables or nftables, or none alone"},
		{"-rivals none,iptables", "want iptables or nftables, or none alone"},
		{"-ports 3", "want an even number up to 160, or 0"},
		{"-ports 162", "want an even number up to 160, or 0"},
		{"-live -1", "want 0 to 4000000"},
		{"-ports -2", "want an even number up to 160, or 0"},
		{"surplus", "no arguments"},
		{"-where native -rows packet -flows 1,30000", ""},
		{"", ""},
	} {
		_, err := parse(strings.Fields(c.args), unset)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: error %v, want %q", c.args, err, c.want)
		}
	}
}

func TestStrict(t *testing.T) {
	for _, c := range []struct {
		env  string
		args []string
		want bool
	}{{"", nil, false}, {"1", nil, true}, {"0", nil, false}, {"1", []string{"-strict=false"}, false}, {"", []string{"-strict"}, true}} {
		o, err := parse(c.args, func(string) string { return c.env })
		if err != nil {
			t.Fatal(err)
		}
		if o.strict != c.want {
			t.Errorf("STRICT=%q %v: strict %v, want %v", c.env, c.args, o.strict, c.want)
		}
	}
}

// TestChildArgs: what is asked of the outer process reaches the inner one.
func TestChildArgs(t *testing.T) {
	o, err := parse(strings.Fields("-bin b -rounds 7 -rest 3ms -flows 5,6 -packet-rounds 8 -slices 9 -per-slice 10 -cpu 1 -rows cni,packet -rules 7,8 -addresses 1000,2000 -rivals none -ports 6 -live 7 -strict"), os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	argv, err := o.childArgs(whereNative, "dir")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := parse(argv[1:], os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	want := *o
	want.where, want.json, want.strict = whereNative, filepath.Join("dir", "bench.json"), false
	if d := cmp.Diff(&want, inner, cmp.AllowUnexported(options{})); d != "" {
		t.Error(d)
	}
	argv, err = o.childArgs(whereVM, "dir")
	if err != nil {
		t.Fatal(err)
	}
	at := slices.Index(argv, "--")
	if inner, err = parse(argv[at+2:], os.Getenv); err != nil {
		t.Fatal(err)
	}
	if inner.where != whereInside || inner.label != "6.12" || inner.rounds != 7 || inner.flat() || !inner.inBox() {
		t.Errorf("in the VM: %+v", inner)
	}
}

// newBin builds what a run needs, with the go command of this test.
func newBin(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, bridges and BPF")
	}
	if testing.Short() {
		t.Skip("builds binaries and measures: not with -short")
	}
	dir := t.TempDir()
	for name, pkg := range map[string]string{
		"bench":         ".",
		pluginBinary:    "github.com/homeport-cni/homeport/cmd/cni-plugin",
		referenceBinary: "github.com/containernetworking/plugins/plugins/main/bridge",
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

func needsNFT(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft: the reference plugin's macspoofchk does, and sets that addresses are compared with")
	}
}

// readRows reads a report, and the names of its rows.
func readRows(t *testing.T, file string) (*ratio.Report, []string) {
	t.Helper()
	r, err := ratio.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, row := range r.Rows {
		names = append(names, row.Name)
	}
	return r, names
}

// measured runs the bench. A group that could not be measured, as where other work kept packets
// from arriving in time, has all measured once more, and the log says what it was.
func measured(t *testing.T, bench string, args ...string) (out []byte) {
	t.Helper()
	for try := 1; ; try++ {
		cmd := exec.Command(bench, args...)
		var why bytes.Buffer
		cmd.Stderr = &why
		out, err := cmd.Output()
		if err == nil {
			return out
		}
		t.Logf("try %d: %v\n%s\n%s", try, err, out, &why)
		if try == 2 || cmd.ProcessState.ExitCode() != ratio.ExitFailed {
			t.FailNow()
		}
	}
}

// TestSmoke measures every native row once.
func TestSmoke(t *testing.T) {
	bin := newBin(t)
	needsNFT(t)
	file := filepath.Join(bin, "out", "bench.json")
	args := []string{"-where", "native", "-bin", bin, "-json", file, "-rows", "plugin,cni,packet,rules",
		"-rounds", "1", "-packet-rounds", "2", "-slices", "1", "-per-slice", "2000", "-flows", "1,50", "-cpu", "-1", "-rules", "10,200", "-addresses", "1000,5000", "-ports", "4", "-live", "5000"}
	rivals := []string{"-vs-iptables", "-vs-nftables"}
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		t.Log("without br_netfilter bridged frames do not visit iptables: its rows are left out")
		rivals = rivals[1:]
		args = append(args, "-rivals", "nftables")
	}
	out := measured(t, filepath.Join(bin, "bench"), args...)
	r, names := readRows(t, file)
	for _, row := range r.Rows {
		if !strings.Contains(string(out), row.String()+"\n") {
			t.Errorf("the row %s was not printed:\n%s", row, out)
		}
	}
	want := []string{"plugin-size", "plugin-start", "plugin-rss",
		"flat/cni-add", "flat/cni-del", "flat/cni-churn",
		"flat/cni-add-vs-macspoofchk", "flat/cni-del-vs-macspoofchk", "flat/cni-churn-vs-macspoofchk", "flat/start-of-del",
		"flat/packet-1-flow", "flat/packet-50-flow", "flat/packet-empty-programs",
		"flat/judge-128-rules", "flat/judge-4000-rules", "flat/judge-12288-rules"}
	// sizes are rule bases in one grid, few rules or addresses first.
	grid := func(label string, rivals []string, sizes ...string) {
		for _, s := range sizes {
			want = append(want, label+"established-"+s)
		}
		for _, s := range sizes {
			want = append(want, label+"first-"+s)
			for _, r := range rivals {
				want = append(want, label+"first-"+s+r)
			}
		}
		for _, what := range []string{"established-", "first-"} {
			want = append(want, label+what+sizes[1]+"-vs-"+sizes[0])
		}
		for _, s := range sizes {
			for _, r := range rivals {
				want = append(want, label+"change-"+s+r)
			}
		}
		if label == "flat/" {
			want = append(want, label+"address-"+sizes[1])
		}
	}
	grid("flat/", rivals, "10-rules-1k-addresses", "200-rules-1k-addresses")
	grid("flat/", nil, "10-rules-5k-addresses", "200-rules-5k-addresses")
	grid("flat/fast-path/", nil, "10-rules-1k-addresses", "200-rules-1k-addresses")
	grid("flat/to-uplink/", nil, "10-rules-1k-addresses", "200-rules-1k-addresses")
	grid("flat/from-uplink/", nil, "10-rules-1k-addresses", "200-rules-1k-addresses")
	grid("flat/ethernet/", nil, "10-rules", "200-rules")
	want = append(want, "node/established-4-ports-800-rules", "node/established-4-ports-800-rules-vs-40",
		"node/first-4-ports-800-rules", "node/first-4-ports-800-rules-vs-40", "node/change-4-ports-800-rules", "node/address-4-ports-800-rules",
		"node/established-learning-10k-addresses", "node/established-5k-flows-while-scanning")
	grid("flat/by-addresses/", rivals, "200-rules-1k-addresses", "200-rules-5k-addresses")
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
	if len(r.Curves) != 3+len(rivals) || len(r.Curves[0].Points) != 2 {
		t.Errorf("curves: %+v", r.Curves)
	}
	svg, err := os.ReadFile(strings.TrimSuffix(file, ".json") + ".svg")
	if err != nil || !strings.Contains(string(svg), "Homeport, first packet") {
		t.Errorf("the plot: %v\n%s", err, svg)
	}
	if len(r.Machines) != 1 || r.Machines[0].Where != "native" || r.Machines[0].CPUs < 1 {
		t.Errorf("machines: %+v", r.Machines)
	}
}

// TestIdentity measures on two nodes with an API server, which is looked for from the checkout's folder on.
func TestIdentity(t *testing.T) {
	if os.Getenv("HOMEPORT_CLUSTER") != "1" {
		t.Skip("wants an API server: make test-api runs it")
	}
	bin := newBin(t)
	file := filepath.Join(bin, "out", "bench.json")
	t.Chdir("../..")
	out := measured(t, filepath.Join(bin, "bench"), "-where", "native", "-bin", bin, "-json", file, "-rows", "identity", "-rounds", "3")
	if _, names := readRows(t, file); !slices.Equal(names, []string{"flat/label-peer-after-first-arp"}) {
		t.Errorf("rows %v", names)
	}
	t.Logf("%s", out)
}

// TestMemory measures memory, of which the kernel tells for all that it does. Other tests make
// and free some at the same time: what they hide is measured again.
func TestMemory(t *testing.T) {
	bin := newBin(t)
	needsNFT(t)
	file := filepath.Join(bin, "bench.json")
	args := []string{"-where", "native", "-bin", bin, "-json", file, "-rows", "memory", "-rules", "10,2000", "-addresses", "1000,50000", "-ports", "4"}
	want := []string{"node/memory-per-rule-4-ports-8000-rules", "node/memory-per-connection", "node/memory-per-address-50k-addresses"}
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		args, want = append(args, "-rivals", "nftables"), want[2:]
	}
	var out []byte
	var err error
	for range 5 {
		if out, err = exec.Command(filepath.Join(bin, "bench"), args...).CombinedOutput(); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r, names := readRows(t, file)
	for _, row := range r.Rows {
		if row.Unit != ratio.Bytes || row.Ours <= 0 || row.Baseline <= 0 {
			t.Errorf("%+v", row)
		}
	}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

// TestStrictExit: a missed aim is exit 0 or 1 by STRICT; what cannot be
// measured is exit 3 and is named in the report.
func TestStrictExit(t *testing.T) {
	bin := newBin(t)
	file := filepath.Join(bin, "bench.json")
	run := func(env string, args ...string) int {
		cmd := exec.Command(filepath.Join(bin, "bench"), append([]string{"-where", "native", "-bin", bin, "-json", file, "-rounds", "1"}, args...)...)
		cmd.Env = append(os.Environ(), "STRICT="+env)
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatalf("%v\n%s", err, out)
		}
		return cmd.ProcessState.ExitCode()
	}
	// A plugin of 5 MiB misses the aim of its size.
	f, err := os.OpenFile(filepath.Join(bin, pluginBinary), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(5<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if code := run("0", "-rows", "plugin"); code != 0 {
		t.Errorf("missed, not strict: exit %d, want 0", code)
	}
	if code := run("1", "-rows", "plugin"); code != 1 {
		t.Errorf("missed, strict: exit %d, want 1", code)
	}
	if err := os.Remove(filepath.Join(bin, referenceBinary)); err != nil {
		t.Fatal(err)
	}
	if code := run("0", "-rows", "plugin"); code != 3 {
		t.Errorf("without the reference: exit %d, want 3", code)
	}
	r, err := ratio.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Failed) != 1 || r.Failed[0].Rows != "native plugin" || !strings.Contains(r.Failed[0].Cause, referenceBinary) {
		t.Errorf("failed rows: %+v", r.Failed)
	}
}

// TestInterrupted: Ctrl-C in the middle ends everything that was started.
func TestInterrupted(t *testing.T) {
	bin := newBin(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "bench"), "-where", "native", "-rows", "plugin,cni", "-bin", bin,
		"-json", filepath.Join(bin, "bench.json"), "-rounds", "100000")
	// The pipe's writing end is inherited by all that it starts: it is at its
	// end when the last of them is gone.
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	inner := waitForChild(t, cmd.Process.Pid)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(out); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("ended with %v, want exit status 130", err)
	}
	if err := syscall.Kill(inner, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the inner process %d is still there: %v", inner, err)
	}
}

// waitForChild gives the process that pid started, once there is one.
func waitForChild(t *testing.T, pid int) int {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range stats {
			if child, ok := childOf(name, pid); ok {
				return child
			}
		}
	}
	t.Fatalf("process %d has no child after 30 s", pid)
	return 0
}
