package binding

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/learn"
)

// TestConflictFlood: who claims an address from ever other MACs makes neither a line in the log nor news of each frame; how it is at last is
// told.
func TestConflictFlood(t *testing.T) {
	r := newRig(t)
	var log bytes.Buffer
	r.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	key := r.port(1, "lan")
	r.says(1, "10.0.0.5")
	told := func(what string, want int) {
		t.Helper()
		if got := strings.Count(log.String(), "is in conflict\""); got != want {
			t.Errorf("%s: told %d times, want %d", what, got, want)
		}
	}
	news := r.news
	r.State(false)
	r.arp(1, 9, 100, "10.0.0.5", false)
	told("it begins", 1)
	for m := range 200 {
		r.now = r.now.Add(time.Millisecond)
		r.arp(1, 10+m, 100, "10.0.0.5", false)
	}
	r.wantStates("it is known", key, "10.0.0.5 Held ARP, conflict 10.0.0.5 Outside of 5")
	told("and changes", 2)
	if r.news != news+2 || r.State(false) == nil {
		t.Errorf("of that there were %d news", r.news-news)
	}
	for m := range 200 {
		r.arp(1, 10+m, 100, "10.0.0.5", false)
	}
	if r.State(false) != nil {
		t.Error("each frame is saved")
	}
	if next := r.Tick(); next.Sub(r.now) > tellEvery {
		t.Errorf("the next is due at %v", next)
	}
	told("too soon", 2)
	r.now = r.now.Add(tellEvery)
	r.Tick()
	told("later", 3)
	if last := log.String()[strings.LastIndex(log.String(), "msg="):]; !strings.Contains(last, "00:50:56:00:00:d1") { // of 10+199
		t.Errorf("what is told last is %s", last)
	}
	if r.news != news+3 || r.State(false) == nil {
		t.Errorf("then there were %d news", r.news-news)
	}
	r.now = r.now.Add(tellEvery)
	r.Tick()
	told("once", 3)
	if len(r.disputes) != 0 {
		t.Errorf("%d are kept", len(r.disputes))
	}
	r.arp(1, 9, 100, "10.0.0.5", false)
	r.arp(1, 8, 100, "10.0.0.5", false)
	told("again at once", 4)
	r.now = r.now.Add(learn.DefaultOutside)
	r.Tick()
	if told("those who were silent before, and its end", 5); !strings.HasSuffix(strings.TrimSpace(log.String()), `is in conflict no more"`) || len(r.disputes) != 0 {
		t.Errorf("%d are kept, and the end is %s", len(r.disputes), log.String())
	}
}
