package agent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// TestRecentLog: the last lines are kept, whole and in order, however many there were.
func TestRecentLog(t *testing.T) {
	var l RecentLog
	if text, cut := l.Lines(); text != "" || cut {
		t.Errorf("at first: %q, %v", text, cut)
	}
	fmt.Fprintln(&l, "begun")
	if text, cut := l.Lines(); text != "begun\n" || cut {
		t.Errorf("one line: %q, %v", text, cut)
	}
	const lines = 100_000
	for i := range lines {
		fmt.Fprintf(&l, "line %06d of many\n", i)
	}
	text, cut := l.Lines()
	got := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if !cut || len(text) > recentMax || len(text) < recentMax-100 || cap(l.kept) > 4*recentMax {
		t.Errorf("%d bytes, cut %v, of memory %d", len(text), cut, cap(l.kept))
	}
	for i, line := range got {
		if want := fmt.Sprintf("line %06d of many", lines-len(got)+i); line != want {
			t.Fatalf("line %d of what is kept: %q, want %q", i, line, want)
		}
	}
}

// TestLongLine: one that alone is too long costs itself, not the agent.
func TestLongLine(t *testing.T) {
	var l RecentLog
	fmt.Fprintln(&l, strings.Repeat("x", 3*recentMax))
	fmt.Fprintln(&l, "next")
	if text, cut := l.Lines(); text != "next\n" || !cut {
		t.Errorf("%d bytes, cut %v", len(text), cut)
	}
}

// TestBundleViews: what the agent alone knows, over its socket.
func TestBundleViews(t *testing.T) {
	l := newLive(t)
	l.cfg.RecentLog = new(RecentLog)
	fmt.Fprintln(l.cfg.RecentLog, "uplink is down")
	for what, want := range map[string]string{wire.ViewLog: "uplink is down\n", wire.ViewMetrics: "\nhomeport_ready 0\n"} {
		got, err := l.view(t.Context(), &wire.ViewRequest{What: what})
		if text, ok := got.(wire.Text); err != nil || !ok || !strings.Contains(text.Text, want) || text.Cut {
			t.Errorf("%s: %v, %+v", what, err, got)
		}
	}
}
