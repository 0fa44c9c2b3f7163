package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/homeport-cni/homeport/pkg/desired"
)

// TestWaitForQuiet runs in the bubble's own time, so the waits are exact.
func TestWaitForQuiet(t *testing.T) {
	cases := []struct {
		name string
		// An ADD comes every so often, for so long; the first came before.
		every, last time.Duration
		ago         time.Duration
		want        time.Duration
	}{
		{name: "nothing came for long", ago: time.Hour, want: 0},
		{name: "one came just now", want: quietAfter},
		{name: "one came a while ago", ago: quietAfter / 4, want: quietAfter * 3 / 4},
		{name: "they come for a while", every: quietAfter / 2, last: 2 * quietAfter, want: 3 * quietAfter},
		{name: "they never end", every: quietAfter / 2, last: 2 * holdMost, want: holdMost},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &Agent{}
				a.lastAsked.Store(time.Now().Add(-c.ago).UnixNano())
				begun := time.Now()
				if c.every > 0 {
					go func() {
						for time.Since(begun) < c.last {
							time.Sleep(c.every)
							a.lastAsked.Store(time.Now().UnixNano())
						}
					}()
				}
				a.waitForQuiet(t.Context())
				if got := time.Since(begun); got != c.want {
					t.Errorf("waited %v, want %v", got, c.want)
				}
				time.Sleep(c.last) // for the goroutine to end
			})
		})
	}
}

// TestPending runs in the bubble's own time: a revision that is desired is on its
// way for a while, and overdue when that lasts, from when the first of those that
// never became active was desired; or at once when it failed.
func TestPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := idleAgent(t)
		expect := func(when string, pending, overdue bool) {
			t.Helper()
			p := a.world.pending(time.Now())
			if (p != nil) != pending || p != nil && p.Overdue != overdue {
				t.Errorf("%s: %+v", when, p)
			}
		}
		active := func() { // as syncPolicy leaves it
			a.world.active = a.world.snap.Revision
		}
		expect("before all", false, false)
		a.take(&desired.Snapshot{Revision: 1})
		expect("no policy was ever active", true, true)
		active()
		expect("active", false, false)
		time.Sleep(time.Hour)
		a.take(&desired.Snapshot{Revision: 2})
		time.Sleep(2 * time.Second)
		expect("for 2 s", true, false)
		a.world.syncErr = "no memory"
		expect("failed", true, true)
		a.world.syncErr = ""
		time.Sleep(18 * time.Second)
		a.take(&desired.Snapshot{Revision: 3})
		expect("for 20 s, with a newer one", true, false)
		time.Sleep(20 * time.Second)
		expect("for 40 s", true, true)
		active()
		expect("active at last", false, false)
		a.take(&desired.Snapshot{Revision: 4})
		expect("the next one", true, false)
	})
}

// TestFreshSnapshot: the loop rests long after a long round, but not while a new
// snapshot waits.
func TestFreshSnapshot(t *testing.T) {
	const late = 300 * time.Millisecond
	for _, tt := range []struct {
		name string
		what func(*Agent) // happens after late
		took time.Duration
		want time.Duration
	}{
		{"nothing happens", func(*Agent) {}, 100 * time.Millisecond, idleShare * 100 * time.Millisecond},
		{"after a very long round", func(*Agent) {}, time.Hour, roundEvery},
		{"after a short one", func(*Agent) {}, 0, roundGap},
		{"a kernel event", (*Agent).wake, time.Second, roundEvery},
		{"a snapshot", func(a *Agent) {
			a.cfg.Source = oneSnapshot{}
			if err := a.watchSource(context.Background()); err != nil {
				t.Error(err)
			}
		}, late / 2, late},
		{"a snapshot after a long round", func(a *Agent) { ask(a.fresh) }, time.Hour, freshAfter},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := idleAgent(t)
				a.kick, a.fresh = make(chan struct{}, 1), make(chan struct{}, 1)
				go func() { time.Sleep(late); tt.what(a) }()
				begun := time.Now()
				a.idle(t.Context(), tt.took)
				if got := time.Since(begun); got != tt.want {
					t.Errorf("rested %v, want %v", got, tt.want)
				}
				if (tt.want == late || tt.want == freshAfter) && len(a.fresh) != 1 {
					t.Error("the next round does not begin at once")
				}
				time.Sleep(late) // for the goroutine to end
			})
		})
	}
}

// oneSnapshot sends one snapshot.
type oneSnapshot struct{ deadSource }

func (oneSnapshot) Watch(context.Context) (<-chan *desired.Snapshot, error) {
	ch := make(chan *desired.Snapshot, 1)
	ch <- &desired.Snapshot{Revision: 2}
	close(ch)
	return ch, nil
}
