package cni

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

func TestHostEnd(t *testing.T) {
	for _, c := range []struct{ answer, want, err string }{
		{`not JSON`, "", "result of ADD"},
		{`{}`, "", "no host end"},
		{`{"interfaces":[{"name":"br0"},{"name":"net1","sandbox":"/ns"}]}`, "", "no host end"},
		{`{"interfaces":[{"name":"br0"},{"name":"veth1"},{"name":"net1","sandbox":"/ns"}]}`, "veth1", ""},
		{`{"interfaces":[{"name":"net1","sandbox":"/ns"},{"name":"veth2"}]}`, "veth2", ""},
	} {
		got, err := hostEnd([]byte(c.answer), "br0")
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v; want %q, %q", c.answer, got, err, c.want, c.err)
		}
	}
}

// script makes a plugin of a shell script.
func script(t *testing.T, text string) Plugin {
	t.Helper()
	file := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return Plugin{Name: "script", Binary: file, Conf: `{"conf":1}`}
}

// TestCall: the plugin gets what a runtime gives, and its time is measured.
func TestCall(t *testing.T) {
	p := script(t, `read conf; sleep 0.05; echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $CNI_PATH $conf"`)
	done, err := p.Call(context.Background(), "ADD", Attachment{ID: "c1", Netns: "/ns", IfName: "net1", Args: "K8S_POD_NAME=web"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff("ADD c1 /ns net1 K8S_POD_NAME=web "+filepath.Dir(p.Binary)+` {"conf":1}`+"\n", string(done.Out)); d != "" {
		t.Error(d)
	}
	if done.Elapsed < 50*time.Millisecond {
		t.Errorf("took %v, want 50 ms or more", done.Elapsed)
	}
	p = script(t, `echo '{"code":7}'; echo why >&2; exit 1`)
	if _, err := p.Call(context.Background(), "ADD", Attachment{}); err == nil || !strings.Contains(err.Error(), `{"code":7}`) || !strings.Contains(err.Error(), "why") {
		t.Errorf("error %v, want what the plugin printed", err)
	}
}

// TestPeakRSS: memory that a process takes and gives back counts, and its
// parent's does not.
func TestPeakRSS(t *testing.T) {
	ballast := make([]byte, 64<<20)
	for i := range ballast {
		ballast[i] = 1
	}
	small, err := peakRSS(script(t, `exit 0`), "ADD", Attachment{})
	if err != nil {
		t.Fatal(err)
	}
	// The shell keeps the text of a variable in memory.
	big, err := peakRSS(script(t, `x=xxxxxxxxxxxxxxxx; i=0; while [ $i -lt 20 ]; do x=$x$x; i=$((i+1)); done; x=; exit 0`), "ADD", Attachment{})
	if err != nil {
		t.Fatal(err)
	}
	if small < 100<<10 || small > 16<<20 || big < small+16<<20 {
		t.Errorf("peaks of %d and %d bytes; want a small one, and one at least 16 MiB larger", small, big)
	}
	if _, err := peakRSS(script(t, `echo bad; exit 3`), "ADD", Attachment{}); err == nil || !strings.Contains(err.Error(), "exited 3: bad") {
		t.Errorf("error %v, want exit 3 and what was printed", err)
	}
	_ = ballast[0]
}

func TestProcess(t *testing.T) {
	ctx := context.Background()
	never := func() error { return errEnded }
	if _, err := StartAgent(ctx, never, "/bin/sh", "-c", "echo no bridge; exit 1"); err == nil || !strings.Contains(err.Error(), "no bridge") {
		t.Errorf("error %v, want the end of its log", err)
	}
	p, err := StartAgent(ctx, func() error { return nil }, "/bin/sh", "-c", "while :; do :; done")
	if err != nil {
		t.Fatal(err)
	}
	cpu := func() time.Duration {
		t.Helper()
		d, err := p.CPU()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for deadline := time.Now().Add(10 * time.Second); cpu() < 30*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a busy process has run %v after 10 s", cpu())
		}
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		return rest[:1]
	}
	for deadline := time.Now().Add(10 * time.Second); state() != "T"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a paused process is in state %s after 10 s, want T", state())
		}
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	default:
		t.Error("a stopped process is still there")
	}
}

func TestLogKeepsItsEnd(t *testing.T) {
	var l lastBytes
	for range 1000 {
		_, _ = l.Write([]byte("0123456789"))
	}
	_, _ = l.Write([]byte("end\n"))
	if s := l.String(); len(s) > logKept || !strings.HasSuffix(s, "9end") {
		t.Errorf("%d bytes that end with %q", len(s), s[len(s)-10:])
	}
}

// TestRowsOfPlugins: names, aims and pairs of the rows, from given figures.
func TestRowsOfPlugins(t *testing.T) {
	b := newBench(Config{Label: "6.12", Rounds: 2, Ours: Side{Plugin: Plugin{Name: "homeport"}},
		Baselines: []Side{{Plugin: Plugin{Name: "bridge"}}, {Plugin: Plugin{Name: "macspoofchk"}}}})
	for name, v := range map[string]float64{"homeport": 1, "bridge": 2, "macspoofchk": 4} {
		b.add[name] = []float64{v, v}
		b.del[name] = []float64{v * 3, v * 3}
		b.churn[name] = []float64{v}
	}
	b.start = []float64{3, 3}
	b.notUp["bridge"] = 1
	rows, err := b.rows()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, r.String())
	}
	want := []string{
		"6.12/cni-add ratio=0.50 [0.50,0.50] ours=1s baseline=2s aim<=1.00 met",
		"6.12/cni-del ratio=0.50 [0.50,0.50] ours=3s baseline=6s aim<=0.50 met",
		"6.12/cni-churn ratio=0.50 [0.50,0.50] ours=1s baseline=2s aim=none info",
		"6.12/cni-add-vs-macspoofchk ratio=0.25 [0.25,0.25] ours=1s baseline=4s aim<=1.00 met",
		"6.12/cni-del-vs-macspoofchk ratio=0.25 [0.25,0.25] ours=3s baseline=12s aim<=0.50 met",
		"6.12/cni-churn-vs-macspoofchk ratio=0.25 [0.25,0.25] ours=1s baseline=4s aim=none info",
		"6.12/start-of-del ratio=0.50 [0.50,0.50] ours=3s baseline=6s aim=none info",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if !strings.Contains(rows[0].Note, "ours 0, baseline 1 of 2") || rows[0].Aim != (ratio.Aim{Ratio: 1}) {
		t.Errorf("row %+v", rows[0])
	}
}
