package agent

import (
	"testing"
	"testing/synctest"
	"time"
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
