package agent

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// ruleLog is the file of what rules with log: true decide, one line each:
// docs/reference/rule-log.md.
type ruleLog struct {
	w io.WriteCloser // nil writes nothing; safe for concurrent use

	mu     sync.Mutex
	failed bool // the last line was not written
	torn   bool // it was written in part
}

// Bounds of the file.
const (
	ruleLogSize  = 64 // MiB, then another is begun
	ruleLogFiles = 3  // kept beside it
)

// newRuleLog makes no file before there is a line.
func newRuleLog(file string) *ruleLog {
	if file == "" {
		return &ruleLog{}
	}
	return &ruleLog{w: &lumberjack.Logger{Filename: filepath.Clean(file), MaxSize: ruleLogSize, MaxBackups: ruleLogFiles}}
}

func (l *ruleLog) close() {
	if l.w != nil {
		_ = l.w.Close() // nothing is buffered
	}
}

// ruleLogNote is the file that notes of it are about.
const ruleLogNote = "rule log"

// logEvent writes the lines that rules ask for.
func (a *Agent) logEvent(e *wire.Event, decided, monitored bool) {
	l := a.ruleLog
	if l.w == nil {
		return
	}
	var lines string
	if decided {
		lines += logLine(e, e.Rule, false)
	}
	if monitored {
		lines += logLine(e, e.Monitored, true)
	}
	if lines != "" && !a.writeRuleLog(lines) {
		a.events.lost.Add(1)
	}
}

// logLost says that lines may be missing, and whether that could be written. Where no rule asks
// for logs there is nobody to tell.
func (a *Agent) logLost(now time.Time, n uint64) bool {
	return a.ruleLog.w == nil || !a.events.someLog() || a.writeRuleLog(fmt.Sprintf("%s - LOST %d\n", logTime(now), n))
}

// writeRuleLog writes whole lines, or tells that it cannot.
func (a *Agent) writeRuleLog(lines string) bool {
	l := a.ruleLog
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		lines = "\n" + lines
	}
	n, err := io.WriteString(l.w, lines)
	l.torn = l.torn && n == 0 || n > 0 && n < len(lines)
	switch {
	case err != nil:
		a.notes.add(a.log, ruleLogNote, fmt.Sprintf("the rule log cannot be written, and what rules log is lost: %v; see --rule-log", err), false)
	case l.failed:
		a.notes.drop(ruleLogNote)
	}
	l.failed = err != nil
	return err == nil
}

func logTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// logLine is the line for what a rule decided, or would have decided if it is monitored.
func logLine(e *wire.Event, r *wire.EventRule, monitored bool) string {
	if r == nil { // of a time before the agent
		r = &wire.EventRule{Policy: "unknown"}
	}
	word := func(s string) string { return cmp.Or(s, "-") }
	pod := "-"
	if e.Pod.Name != "" {
		pod = e.Pod.Namespace + "/" + e.Pod.Name
	}
	f := []string{logTime(e.Time), pod + ":" + e.Interface, "INET", logReason(e, monitored), logAction(e, r, monitored),
		fmt.Sprintf("%s/%d", word(r.Policy), r.ID), strings.ToUpper(e.Direction)}
	switch {
	case !e.Source.IsValid():
		f[2] = "ETHER"
	case e.Source.Is6():
		f[2] = "INET6"
	}
	if e.Verdict != wire.EventEnd || monitored {
		f = append(f, fmt.Sprint(e.Length))
	}
	if protocol := word(e.Protocol); e.Source.IsValid() {
		f = append(f, strings.ToUpper(protocol))
	} else {
		f = append(f, protocol)
	}
	if e.Verdict == wire.EventEnd && !monitored {
		f = append(f, logEnds[e.Reason])
	}
	f = append(f, logEnd(e.Source, e.SourcePort, e.SourceMAC.String(), e.Protocol)+"->"+logEnd(e.Destination, e.DestinationPort, e.DestinationMAC.String(), e.Protocol))
	if e.TCPFlags != "" && e.Verdict != wire.EventEnd {
		f = append(f, e.TCPFlags)
	}
	if r.Label != "" {
		f = append(f, r.Label)
	}
	return strings.Join(f, " ") + "\n"
}

// logEnds are NSX's words for how a connection ended, and one of ours.
var logEnds = map[string]string{endReset: "RST", endFinished: "FIN", endTimedOut: "TIMEOUT", endPolicy: "POLICY"}

func logReason(e *wire.Event, monitored bool) string {
	switch {
	case monitored:
		return "monitor"
	case e.Verdict == wire.EventEnd:
		return "TERM"
	case e.Reason == policy.ReasonTCPNoState.String():
		return "state-mismatch"
	case e.Reason == policy.ReasonFragmentDrop.String():
		return "fragment"
	}
	return "match"
}

func logAction(e *wire.Event, r *wire.EventRule, monitored bool) string {
	does := cmp.Or(r.Action, "-")
	if e.Verdict == wire.EventEnd && e.Reason != endPolicy && !monitored {
		return "PASS" // it did, whatever the rule says by now
	}
	if !monitored && e.Verdict == wire.EventDrop && does != policy.Reject.String() {
		does = policy.Drop.String() // of what a rule allows, and the state of connections does not
	}
	if does == policy.Allow.String() {
		return "PASS"
	}
	return strings.ToUpper(does)
}

// logEnd is one end of a packet's way.
func logEnd(a netip.Addr, port uint16, mac, protocol string) string {
	switch {
	case !a.IsValid():
		return cmp.Or(mac, "-")
	case protocol == "tcp" || protocol == "udp" || protocol == "sctp":
		return fmt.Sprintf("%v/%d", a, port)
	}
	return a.String()
}
