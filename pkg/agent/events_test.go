package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// What is remembered is the last events, in their order, and whoever asks gets each once.
func TestEventBook(t *testing.T) {
	var b eventBook
	if got, _ := b.after(0); len(got) > 0 {
		t.Errorf("%d events of an empty book", len(got))
	}
	_, news := b.after(0)
	const n = 3*eventsKept + 17
	for i := range n {
		b.add(wire.Event{Length: uint32(i + 1)})
	}
	select {
	case <-news:
	default:
		t.Error("who waited was not woken")
	}
	var seen uint64
	last := uint64(0)
	for {
		got, _ := b.after(last)
		if len(got) == 0 {
			break
		}
		for _, e := range got {
			if e.Seq != uint64(e.Length) || last != 0 && e.Seq != last+1 {
				t.Fatalf("event %d has number %d, after %d", e.Length, e.Seq, last)
			}
			last = e.Seq
			seen++
		}
	}
	if seen != eventsKept || last != n || b.newest() != n {
		t.Errorf("%d events up to %d (newest %d), want %d up to %d", seen, last, b.newest(), eventsKept, n)
	}
	if got, _ := b.after(n + 5); len(got) > 0 {
		t.Errorf("to one who knows of later ones, %d events", len(got))
	}
}

// A counter stands for its rule as long as packets may be judged by it.
func TestEventRules(t *testing.T) {
	var b eventBook
	set := func(log bool, ids ...uint32) []policy.Set {
		s := policy.Set{Network: "lan", Default: policy.Drop}
		for _, id := range ids {
			s.Rules = append(s.Rules, policy.Rule{Key: policy.RuleKey{Policy: "web", ID: id}, Action: policy.Allow, Log: log, LogLabel: "a"})
		}
		return []policy.Set{s}
	}
	key := func(id uint32) policy.RuleKey { return policy.RuleKey{Policy: "web", ID: id} }
	b.learnRules(set(true, 1, 2), compile.Counters{policy.DefaultKey("lan"): 0, key(1): 1, key(2): 2}, 5)
	if !b.someLog() {
		t.Error("a rule logs, and nobody knows")
	}
	defer func() {
		if b.learnRules(set(false, 1), compile.Counters{policy.DefaultKey("lan"): 0, key(1): 1}, 99); b.someLog() {
			t.Error("no rule logs any more, and nobody knows")
		}
	}()
	b.learnRules(set(false, 1, 3), compile.Counters{policy.DefaultKey("lan"): 0, key(1): 1, key(3): 3}, 6)
	for counter, want := range map[uint32]string{0: "{ 0 lan Drop  false}", 1: "{web 1  Allow a false}", 2: "{web 2  Allow a true}", 3: "{web 3  Allow a false}"} {
		if got := b.rule(counter, 0); got == nil || fmt.Sprint(*got) != want {
			t.Errorf("counter %d is %v, want %s", counter, got, want)
		}
	}
	if b.rule(datapath.NoRule, 0) != nil || b.rule(9, 0) != nil {
		t.Error("a rule without a counter")
	}

	// What is of an older generation is not what has the counter now.
	b.learnRules(set(false, 1, 4), compile.Counters{policy.DefaultKey("lan"): 0, key(1): 1, key(4): 2}, 9)
	b.learnRules(set(true, 1, 4), compile.Counters{policy.DefaultKey("lan"): 0, key(1): 1, key(4): 2}, 10)
	for generation, want := range map[uint64]uint32{0: 4, 10: 4, 9: 4, 8: 2, 3: 2} {
		if got := b.rule(2, generation); got == nil || got.ID != want {
			t.Errorf("in generation %d the counter is of %+v, want rule %d", generation, got, want)
		}
	}
	b.learnRules(set(true, 5), compile.Counters{policy.DefaultKey("lan"): 0, key(5): 2}, 12)
	if got := b.rule(2, 8); got != nil {
		t.Errorf("two rules later the counter is of %+v", got)
	}
}

// The lines of docs/reference/rule-log.md.
func TestLogLines(t *testing.T) {
	at := time.Date(2026, 11, 28, 22, 0, 0, 123456789, time.UTC)
	from, to := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.7")
	web := &wire.EventRule{Policy: "web", ID: 1001, Action: "Allow", Label: "audit"}
	drop := &wire.EventRule{Policy: "web", ID: 1002, Action: "Drop"}
	reject := &wire.EventRule{Policy: "web", ID: 1003, Action: "Reject"}
	tcp := wire.Event{Time: at, Verdict: wire.EventAllow, Reason: policy.ReasonRuleAllow.String(), Direction: "In", Interface: "veth1", Pod: attach.Pod{Namespace: "shop", Name: "db"},
		Source: from, Destination: to, SourcePort: 49152, DestinationPort: 443, Protocol: "tcp", TCPFlags: "S", Length: 74, Rule: web}
	change := func(f func(*wire.Event)) wire.Event {
		e := tcp
		f(&e)
		return e
	}
	const head = "2026-11-28T22:00:00.123Z shop/db:veth1 "
	for want, e := range map[string]wire.Event{
		head + "INET match PASS web/1001 IN 74 TCP 10.0.0.9/49152->10.0.0.7/443 S audit": tcp,
		head + "INET TERM PASS web/1001 IN TCP FIN 10.0.0.9/49152->10.0.0.7/443 audit": change(func(e *wire.Event) {
			e.Verdict, e.Reason, e.TCPFlags = wire.EventEnd, endFinished, "FA"
		}),
		head + "INET TERM DROP web/1002 IN TCP POLICY 10.0.0.9/49152->10.0.0.7/443": change(func(e *wire.Event) { e.Verdict, e.Reason, e.Rule = wire.EventEnd, endPolicy, drop }),
		head + "INET match DROP web/1002 IN 74 TCP 10.0.0.9/49152->10.0.0.7/443 S": change(func(e *wire.Event) {
			e.Verdict, e.Reason, e.Rule = wire.EventDrop, policy.ReasonRuleDrop.String(), drop
		}),
		head + "INET match REJECT web/1003 OUT 74 UDP 10.0.0.7/49152->10.0.0.9/443": change(func(e *wire.Event) {
			e.Verdict, e.Reason, e.Rule, e.Direction, e.Protocol, e.TCPFlags = wire.EventDrop, policy.ReasonRuleDrop.String(), reject, "Out", "udp", ""
			e.Source, e.Destination = to, from
		}),
		head + "INET state-mismatch DROP web/1001 IN 74 TCP 10.0.0.9/49152->10.0.0.7/443 A audit": change(func(e *wire.Event) {
			e.Verdict, e.Reason, e.TCPFlags = wire.EventDrop, policy.ReasonTCPNoState.String(), "A"
		}),
		head + "INET6 match PASS web/1001 IN 98 ICMPV6/128/0 fd00::9->fd00::7 audit": change(func(e *wire.Event) {
			e.Source, e.Destination, e.SourcePort, e.DestinationPort = netip.MustParseAddr("fd00::9"), netip.MustParseAddr("fd00::7"), 0, 0
			e.Protocol, e.TCPFlags, e.Length = "icmpv6/128/0", "", 98
		}),
		"2026-11-28T22:00:00.123Z -:veth1 ETHER match DROP web/1002 IN 60 0x88b5 02:00:00:00:00:01->02:00:00:00:00:02": change(func(e *wire.Event) {
			*e = wire.Event{Time: at, Verdict: wire.EventDrop, Reason: policy.ReasonRuleDrop.String(), Direction: "In", Interface: "veth1", Length: 60, Protocol: "0x88b5",
				SourceMAC: attach.MAC{2, 0, 0, 0, 0, 1}, DestinationMAC: attach.MAC{2, 0, 0, 0, 0, 2}, Rule: drop}
		}),
	} {
		if got := logLine(&e, e.Rule, false); got != want+"\n" {
			t.Errorf("\n%swant\n%s", got, want)
		}
	}
	fragment := change(func(e *wire.Event) {
		e.Verdict, e.Reason, e.Rule, e.SourcePort, e.DestinationPort, e.TCPFlags, e.Protocol = wire.EventDrop, policy.ReasonFragmentDrop.String(), drop, 0, 0, "", "ip/47"
	})
	if got := logLine(&fragment, drop, false); got != head+"INET fragment DROP web/1002 IN 74 IP/47 10.0.0.9->10.0.0.7\n" {
		t.Errorf("a fragment: %s", got)
	}
	if got := logLine(&tcp, drop, true); got != head+"INET monitor DROP web/1002 IN 74 TCP 10.0.0.9/49152->10.0.0.7/443 S\n" {
		t.Errorf("a monitored rule: %s", got)
	}
	late := change(func(e *wire.Event) { e.Verdict, e.Reason = wire.EventEnd, endTimedOut })
	if got := logLine(&late, drop, false); got != head+"INET TERM PASS web/1002 IN TCP TIMEOUT 10.0.0.9/49152->10.0.0.7/443\n" {
		t.Errorf("an end in time, of a rule that drops by now: %s", got)
	}
	if got := logLine(&tcp, nil, false); !strings.Contains(got, " match - unknown/0 ") {
		t.Errorf("a rule of before: %s", got)
	}
}

// Events reach who asks and the log, from the programs to the line; and the log's trouble is
// told until it is over.
func TestEventsOfPort(t *testing.T) {
	l := newLive(t)
	rec := l.open("vm1", 1)
	rules := []policy.Rule{{Key: policy.RuleKey{Policy: "web", ID: 7}, Action: policy.Drop, Directions: policy.InOut, Log: true, LogLabel: "x"}}
	sets := []policy.Set{{Network: rec.Policy, Rules: rules, Default: policy.Allow}}
	counters, err := compile.Allocate(nil, sets)
	l.must(err)
	prog, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
	l.must(err)
	l.events.learnRules(sets, counters, 1)
	_, err = l.kernel.Sync(prog)
	l.must(err)
	file := filepath.Join(t.TempDir(), "log", "rules.log")
	l.ruleLog = newRuleLog(file)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.readEvents(ctx) }()

	frame := append(append(append([]byte{2, 0, 0, 0, 0, 9}, rec.MAC...), 0x88, 0xb5), make([]byte, 46)...)
	ask := func(q *wire.EventQuery) wire.EventList {
		t.Helper()
		v, err := l.eventList(t.Context(), q)
		l.must(err)
		return v.(wire.EventList)
	}
	l.sendFrom("vm1p", frame)
	var e wire.Event
	for deadline := time.Now().Add(20 * time.Second); e.Seq == 0; time.Sleep(10 * time.Millisecond) {
		for _, got := range ask(nil).Items {
			if got.Protocol == "0x88b5" {
				e = got
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was told")
		}
	}
	if e.Verdict != wire.EventDrop || e.Rule == nil || e.Rule.ID != 7 || e.Interface != rec.HostIfName || e.SourceMAC.String() != rec.MAC.String() || e.Direction != "Out" {
		t.Errorf("told %+v", e)
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), " ETHER match DROP web/7 OUT 60 0x88b5 "+rec.MAC.String()+"->02:00:00:00:00:09 x\n") {
		t.Errorf("logged %q, %v", text, err)
	}

	late := e.Seq + 1000
	if got := ask(&wire.EventQuery{After: &late}); len(got.Items) == 0 || got.Items[0].Seq != 1 || got.Next < got.Newest {
		t.Errorf("who knows of events of another agent gets %+v", got)
	}
	if l.events.isWatched() {
		t.Error("watched, though nobody follows")
	}
	if got := ask(&wire.EventQuery{Follow: true}); len(got.Items) > 0 || got.Next < e.Seq || !l.events.isWatched() {
		t.Errorf("who begins to follow gets %+v", got)
	}
	l.events.mu.Lock()
	l.events.watched = time.Now().Add(-time.Second)
	l.events.mu.Unlock()
	l.must(l.unwatch())
	if l.events.isWatched() || !l.events.watched.IsZero() {
		t.Error("watched for ever")
	}

	// A connection that ends in time is told of by another task, and how many were lost is.
	l.connectionEnded(datapath.Event{IfIndex: rec.HostIfIndex, Rule: counters[policy.DefaultKey(rec.Policy)], Monitored: datapath.NoRule, Logged: true, Ended: true, TimedOut: true})
	l.events.lost.Add(3)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(file)
		if strings.Contains(string(text), " - LOST 3\n") && strings.Contains(string(text), " TERM PASS -/0 ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("logged %q", text)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("reading ended: %v", err)
	}
	told, err := l.kernel.dp.LostTold()
	if n, lerr := l.kernel.dp.EventsLost(); err != nil || lerr != nil || told != uint32(n) {
		t.Errorf("%d lost events were told of, of %d: %v, %v", told, n, err, lerr)
	}

	// The next agent knows the rules that judge before it has read any.
	l.world.policyState = policyState{Counters: counters, Sets: map[string]policy.Set{rec.Policy: sets[0]}}
	l.save(policyFile, l.world.policyState, "the policy")
	if got := l.restart().events.rule(counters[rules[0].Key], 0); got == nil || got.ID != 7 || got.Label != "x" {
		t.Errorf("after a restart the rule is %+v", got)
	}
}

// Ends that wait when the agent is stopped are told nevertheless.
func TestEndsAtStop(t *testing.T) {
	l := newLive(t)
	const n = 50
	for range n {
		l.connectionEnded(datapath.Event{Rule: datapath.NoRule, Monitored: datapath.NoRule, Logged: true, Ended: true, TimedOut: true})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.tendEvents(ctx)
	if got := l.events.newest(); got != n || l.events.lost.Load() > 0 {
		t.Errorf("%d of %d ends were told, %d lost", got, n, l.events.lost.Load())
	}
}

// What cannot be written is told, until it can, and is counted as lost.
func TestRuleLogFails(t *testing.T) {
	l := newLive(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "log")
	l.must(os.WriteFile(file, nil, 0o600))
	e := wire.Event{Verdict: wire.EventDrop, Rule: &wire.EventRule{Policy: "web", ID: 7, Action: "Drop"}}
	l.ruleLog = newRuleLog(filepath.Join(file, "rules.log")) // a file is where the directory should be
	l.logEvent(&e, true, false)
	l.logEvent(&e, false, false)
	if notes := strings.Join(l.notes.texts(), "; "); !strings.Contains(notes, "the rule log cannot be written") || l.events.lost.Load() != 1 {
		t.Errorf("%d lost, notes: %s", l.events.lost.Load(), notes)
	}
	l.must(os.Remove(file))
	l.logEvent(&e, true, false)
	if notes := l.notes.texts(); len(notes) > 0 || l.events.lost.Load() != 1 {
		t.Errorf("%d lost, notes stay: %v", l.events.lost.Load(), notes)
	}

	// After half a line comes another line.
	l.ruleLog.close()
	var half halfWriter
	l.ruleLog = &ruleLog{w: &half}
	l.logEvent(&e, true, false)
	half.whole = true
	l.logEvent(&e, true, false)
	if lines := strings.Split(half.text, "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], "0001-") || lines[2] != "" {
		t.Errorf("lines %q", lines)
	}
	l.ruleLog.close()
	l.ruleLog = newRuleLog("")
	l.logEvent(&e, true, true)
	if !l.logLost(time.Now(), 1) {
		t.Error("without a log somebody has to be told")
	}
}

// halfWriter writes the first half of what it gets, unless whole.
type halfWriter struct {
	text  string
	whole bool
}

func (w *halfWriter) Write(p []byte) (int, error) {
	if w.whole {
		w.text += string(p)
		return len(p), nil
	}
	w.text += string(p[:len(p)/2])
	return len(p) / 2, errors.New("the disk is full")
}

func (w *halfWriter) Close() error { return nil }
