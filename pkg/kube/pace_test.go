package kube

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// TestPace runs in the bubble's own time: ports are read once for news that come
// together, when the last of them have come, and now and then if they never end.
func TestPace(t *testing.T) {
	for _, tt := range []struct {
		name        string
		every, last time.Duration // news come every so often, for so long
		after       time.Duration // when is looked,
		want        int           // and how often ports were read by then
	}{
		{"one", time.Second, time.Millisecond, quietAfter, 1},
		{"too early", time.Second, time.Millisecond, quietAfter - time.Millisecond, 0},
		{"a burst", quietAfter / 5, 4 * quietAfter, 6 * quietAfter, 1},
		{"within a burst", quietAfter / 5, 4 * quietAfter, 4 * quietAfter, 0},
		{"they never end", quietAfter / 2, time.Hour, 3*holdMost + holdMost/2, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := &fakeNode{unread: true, changed: make(chan struct{}, 1)} // without ports there is nothing to write
				r := &Reporter{watch: newVMWatch(nil, "n1", nil), podNews: newNews(), vms: map[string]*confirmation{}, looked: time.Now(),
					pods: map[string]*v1alpha1.VMIdentity{}, countersEvery: time.Hour, lookEvery: 24 * time.Hour}
				ctx, cancel := context.WithCancel(t.Context())
				go r.follow(ctx, node)
				synctest.Wait()
				if node.read != 1 {
					t.Fatalf("at the start ports were read %d times", node.read)
				}
				go func() {
					for begun := time.Now(); time.Since(begun) < tt.last && ctx.Err() == nil; time.Sleep(tt.every) {
						node.set(func() {})
					}
				}()
				time.Sleep(tt.after)
				synctest.Wait()
				if got := node.read - 1; got != tt.want {
					t.Errorf("ports were read %d times, want %d", got, tt.want)
				}
				cancel()
				time.Sleep(tt.every) // for the goroutines to end
			})
		})
	}
}
