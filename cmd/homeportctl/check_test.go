package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// fakeFabric answers Reach: a check takes two looks and comes to report, or to what the
// networks that are asked for say.
type fakeFabric struct {
	mu      sync.Mutex
	report  *reach.Report
	asked   reach.Options
	looks   int
	never   bool // ends only when cancelled
	stuck   bool // does not end even then
	over    bool
	refused bool
	lastOf  string
	hears   func(do string) // each request, if it is not nil
}

func newFabric(tb testing.TB) *fakeFabric {
	tb.Helper()
	b, err := os.ReadFile("../../pkg/reach/testdata/report.json")
	if err != nil {
		tb.Fatal(err)
	}
	f := &fakeFabric{report: new(reach.Report)}
	if err := json.Unmarshal(b, f.report); err != nil {
		tb.Fatal(err)
	}
	return f
}

func (f *fakeFabric) handle(_ context.Context, body json.RawMessage) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var req wire.ReachRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, err
	}
	if f.hears != nil {
		f.hears(req.Do)
	}
	state := wire.ReachState{ID: "1", What: "asking", Done: f.looks, Of: 2}
	switch req.Do {
	case wire.ReachStart:
		if err := json.Unmarshal(req.Options, &f.asked); err != nil {
			return nil, err
		}
		f.looks, f.refused = 0, len(f.asked.Networks) == 1 && f.asked.Networks[0] == "nosuch"
		return state, nil
	case wire.ReachLast:
		f.lastOf = req.ID
		if state.What, state.Over = "", true; req.ID == "new" {
			state.Error = "ReachabilityCheck new has not run yet"
			return state, nil
		}
		if req.ID == "far" {
			state.What = "this node's part alone, for the whole cannot be had from n9: no agent is known of it"
		}
		raw, err := json.Marshal(f.report)
		state.Report = raw
		return state, err
	case wire.ReachLook:
		if f.looks++; f.looks < 2 || f.never && !f.over {
			return state, nil
		}
	case wire.ReachCancel:
		f.report.Cancelled = true
		if f.over = true; f.stuck {
			return state, nil
		}
	}
	if f.stuck {
		return state, nil
	}
	state.Over = true
	if f.refused {
		state.Refused, state.Error = true, `no node that was asked has a VLANNetwork "nosuch" on an uplink`
		return state, nil
	}
	raw, err := json.Marshal(f.report)
	state.Report = raw
	return state, err
}

// serveFabric is an agent with that fabric.
func serveFabric(tb testing.TB, f *fakeFabric) string {
	tb.Helper()
	return serveAll(tb, nil, f.handle)
}

func TestCheckUsage(t *testing.T) {
	socket := serveFabric(t, newFabric(t))
	notReport := filepath.Join(t.TempDir(), "x.json")
	if err := os.WriteFile(notReport, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := filepath.Join(t.TempDir(), "ended.json")
	if err := os.WriteFile(ended, []byte(`{"kind":"ReachabilityReport","cancelled":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-o", "pdf"}, `output format "pdf" is unknown: want matrix, wide, table, json, yaml, jsonl, junit, markdown, html`},
		{[]string{"--vlan", "100-"}, "--vlan: VLAN"},
		{[]string{"--vlan", "4095"}, "4095 is out of range"},
		{[]string{"--only", "ping"}, `--only: there is no test "ping": want some of [trunk`},
		{[]string{"--skip", "all"}, `--skip: there is no test "all"`},
		{[]string{"--max-pps", "0"}, "--max-pps 0: want 1 to"},
		{[]string{"--max-pps", "-1"}, "--max-pps -1"},
		{[]string{"--max-pps", "1000001"}, "--max-pps 1000001"},
		{[]string{"--fail-on", "oops"}, `--fail-on "oops": want error, warning, info or never`},
		{[]string{"--timeout", "0s"}, "--timeout and --every want a time"},
		{[]string{"--baseline", "/nonexistent"}, "--baseline: open /nonexistent"},
		{[]string{"--baseline", notReport}, "want a report that check -o json has written"},
		{[]string{"--output-file", "/nonexistent/dir/file"}, "--output-file: "},
		{[]string{"--output-file", "/"}, "--output-file: / is a directory: name a file"},
		{[]string{"--baseline", ended}, "was ended before its time"},
		{[]string{"--last", ""}, "--last wants the name of a ReachabilityCheck"},
		{[]string{"--last", "hourly", "legacy-100", "--vlan", "100", "--every", "1m"}, "--last shows a run as it was: leave out NETWORK, --vlan, --every"},
		{[]string{"nosuch"}, `no node that was asked has a VLANNetwork "nosuch"`},
	} {
		r := homeportctl(t, socket, append([]string{"check"}, tt.args...)...)
		if r.Code != exitUsage || !strings.Contains(r.Stderr, tt.want) || r.Stdout != "" {
			t.Errorf("%v: %+v", tt.args, r)
		}
	}
}

// TestCheckLast: what a ReachabilityCheck found is shown as a check of now is, and judged so.
func TestCheckLast(t *testing.T) {
	f := newFabric(t)
	socket := serveFabric(t, f)
	now := homeportctl(t, socket, "check")
	last := homeportctl(t, socket, "check", "--last", "hourly")
	if f.lastOf != "hourly" || last.Stdout != now.Stdout || last.Code != now.Code || last.Stdout == "" || last.Stderr != "" {
		t.Errorf("of %q: %+v, want as %+v", f.lastOf, last, now)
	}
	if r := homeportctl(t, socket, "check", "--last", "hourly", "-o", "json", "--fail-on", "never"); r.Code != 0 || !strings.Contains(r.Stdout, `"kind": "ReachabilityReport"`) {
		t.Errorf("as JSON: %+v", r)
	}
	if r := homeportctl(t, socket, "check", "--last", "far"); r.Code != now.Code || !strings.HasPrefix(r.Stderr, "homeportctl: this node's part alone") || r.Stdout != now.Stdout {
		t.Errorf("a part: %+v", r)
	}
	if r := homeportctl(t, socket, "check", "--last", "new"); r.Code != exitInconclusive || !strings.Contains(r.Stderr, "has not run yet") {
		t.Errorf("one that has not run: %+v", r)
	}
}

// TestCheckExit: the exit code says what was found, as far as it is asked to matter.
func TestCheckExit(t *testing.T) {
	dir := t.TempDir()
	base, absent := filepath.Join(dir, "base.json"), filepath.Join(dir, "absent.json")
	if err := os.WriteFile(absent, []byte(`{"kind":"ReachabilityReport","findings":[{"code":"AGENT_ABSENT","nodes":["n9"]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*fakeFabric)
		args   []string
		want   int
		stdout string
	}{
		{"findings", nil, nil, exitFailed, "NOT_TRUNKED  n2; VLAN 105"},
		{"findings that do not matter", nil, []string{"--fail-on", "never"}, exitOK, "NOT_TRUNKED"},
		{"known findings", nil, []string{"--baseline", base}, exitOK, "(known)"},
		{"one more than known", func(f *fakeFabric) { _ = f.report.Findings[2].VLANs.Add(108) }, []string{"--baseline", base}, exitFailed, "108"},
		{"healthy", func(f *fakeFabric) { f.report.Findings = nil }, nil, exitOK, "0 findings"},
		{"info", func(f *fakeFabric) {
			f.report.Findings = []reach.Finding{{Code: reach.LLDPAbsent, Severity: reach.Info}}
		}, nil, exitOK, "LLDP_ABSENT"},
		{"info that matters", func(f *fakeFabric) {
			f.report.Findings = []reach.Finding{{Code: reach.LLDPAbsent, Severity: reach.Info}}
		}, []string{"--fail-on", "info"}, exitFailed, "LLDP_ABSENT"},
		{"a node that took no part", func(f *fakeFabric) {
			f.report.Findings = []reach.Finding{{Code: reach.AgentAbsent, Severity: reach.Warning}}
		}, nil, exitInconclusive, "AGENT_ABSENT"},
		{"nothing to test", func(f *fakeFabric) { f.report = &reach.Report{Kind: reach.ReportKind} }, nil, exitInconclusive, "Nothing was tested"},
		{"a node that is known to be absent", func(f *fakeFabric) {
			f.report.Findings = []reach.Finding{{Code: reach.AgentAbsent, Severity: reach.Warning, Nodes: []string{"n9"}}}
		}, []string{"--baseline", absent}, exitOK, "AGENT_ABSENT"},
		{"a smaller MTU than known", func(f *fakeFabric) { f.report.Findings[1].LargestMTU = 576 }, []string{"--baseline", base}, exitFailed, "576"},
		{"a larger MTU than known", func(f *fakeFabric) { f.report.Findings[1].LargestMTU = 1450 }, []string{"--baseline", base}, exitOK, "1450"},
		{"a dry run", nil, []string{"--dry-run"}, exitOK, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFabric(t)
			b, err := json.Marshal(f.report)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(base, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				tt.change(f)
			}
			r := homeportctl(t, serveFabric(t, f), append([]string{"check"}, tt.args...)...)
			if r.Code != tt.want || !strings.Contains(r.Stdout, tt.stdout) || r.Stderr != "" {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestCheckOptions: the agent is asked for what the command line says.
func TestCheckOptions(t *testing.T) {
	f := newFabric(t)
	homeportctl(t, serveFabric(t, f), "check", "a", "b", "--node", "n1,n2", "--vlan", "100-102", "--only", "trunk,mtu", "--skip", "mtu", "--dhcp", "--max-pps", "7", "--dry-run")
	got, err := json.Marshal(f.asked)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"networks":["a","b"],"nodes":["n1","n2"],"vlans":"100-102","only":["trunk","mtu"],"skip":["mtu"],"dhcp":true,"dryRun":true,"maxPPS":7}`
	if string(got) != want {
		t.Errorf("got %s", got)
	}
}

// TestCheckFormats: each can be read, and goes into a file whole.
func TestCheckFormats(t *testing.T) {
	socket := serveFabric(t, newFabric(t))
	for format, begins := range map[string]string{"matrix": "TRUNK", "wide": "TRUNK", "table": "SEVERITY", "json": "{", "yaml": "apiVersion: homeport.dev", "jsonl": `{"type":"finding"`,
		"junit": "<?xml", "markdown": "### Trunk", "html": "<!DOCTYPE html>"} {
		file := filepath.Join(t.TempDir(), "out")
		r := homeportctl(t, socket, "check", "-o", format)
		w := homeportctl(t, socket, "check", "-o", format, "--output-file", file)
		b, err := os.ReadFile(file)
		if err != nil || string(b) != r.Stdout || w.Stdout != "" || w.Code != exitFailed || !strings.HasPrefix(r.Stdout, begins) {
			t.Errorf("%s: %v %+v %+v", format, err, r, w)
		}
	}
}

// TestCheckDevice: what is no file stays what it is.
func TestCheckDevice(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		b, _ := os.ReadFile(pipe)
		got <- string(b)
	}()
	r := homeportctl(t, serveFabric(t, newFabric(t)), "check", "-o", "table", "--output-file", pipe)
	st, err := os.Lstat(pipe)
	if text := <-got; err != nil || st.Mode()&os.ModeNamedPipe == 0 || !strings.HasPrefix(text, "SEVERITY") || r.Code != exitFailed {
		t.Errorf("%v %v %q %+v", err, st, text, r)
	}
}

// TestCheckEnded: who interrupts, or runs out of time, still gets what was found.
func TestCheckEnded(t *testing.T) {
	f := newFabric(t)
	f.never = true
	r := homeportctl(t, serveFabric(t, f), "check", "--timeout", "2s")
	if r.Code != exitFailed || !strings.Contains(r.Stdout, "ended before its time") {
		t.Errorf("%+v", r)
	}
	f = newFabric(t)
	f.never = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.hears = func(do string) {
		if do == wire.ReachLook {
			cancel()
		}
	}
	r = homeportctlContext(ctx, serveFabric(t, f), "check")
	if r.Code != exitInterrupted || !strings.Contains(r.Stdout, "ended before its time") {
		t.Errorf("%+v", r)
	}
}

// TestCheckEvery: it goes on until it is interrupted.
func TestCheckEvery(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f, starts := newFabric(t), 0
	f.hears = func(do string) {
		if do == wire.ReachStart {
			if starts++; starts == 3 {
				cancel()
			}
		}
	}
	r := homeportctlContext(ctx, serveFabric(t, f), "check", "--every", "10ms", "-o", "table")
	if r.Code != exitInterrupted || strings.Count(r.Stdout, "SEVERITY") < 2 {
		t.Errorf("%+v", r)
	}
}

func TestProgress(t *testing.T) {
	var buf bytes.Buffer
	p := progress{w: &buf}
	p.show(wire.ReachState{What: "asking", Done: 1, Of: 2})
	p.end()
	if buf.Len() != 0 {
		t.Errorf("not on a terminal, but %q", &buf)
	}
	p.on = true
	p.show(wire.ReachState{What: "asking", Done: 1, Of: 2})
	p.end()
	if !strings.Contains(buf.String(), "[##########..........] asking") {
		t.Errorf("%q", &buf)
	}
}

func TestExplain(t *testing.T) {
	r := homeportctl(t, "", "explain")
	for _, c := range reach.Codes() {
		if !strings.Contains(r.Stdout, string(c.Code)) {
			t.Errorf("%s is not listed", c.Code)
		}
		one := homeportctl(t, "", "explain", strings.ToLower(string(c.Code)))
		if one.Code != 0 || !strings.Contains(strings.Join(strings.Fields(one.Stdout), " "), c.Next) {
			t.Errorf("%s: %+v", c.Code, one)
		}
	}
	for _, args := range [][]string{{"explain", "NOPE"}, {"explain", "LOOP", "LOOP"}} {
		if r := homeportctl(t, "", args...); r.Code != exitUsage || r.Stderr == "" {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
