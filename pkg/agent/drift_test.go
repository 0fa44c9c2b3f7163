package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func newClock() *clock                { return &clock{time.Unix(1000, 0).UTC()} }
func (c *clock) now() time.Time       { return c.t }
func (c *clock) pass(d time.Duration) { c.t = c.t.Add(d) }

func TestDriftBackOff(t *testing.T) {
	c := newClock()
	b := newDriftBook()
	b.now = c.now
	tries := 0
	f := finding{kind: "PortVLANMissing", subject: "veth1", message: "VLAN 100 is cut", repair: func() error { tries++; return nil }}
	// Somebody undoes every repair, each 100 ms, for a minute.
	for range 600 {
		b.settle([]finding{f})
		c.pass(100 * time.Millisecond)
	}
	if tries < 5 || tries > 8 {
		t.Errorf("repaired %d times in a minute of fight; want doubling distances: 0, 1, 3, 7, 15, 31 s", tries)
	}
	b.settle(nil)
	c.pass(2 * calm)
	before := tries
	b.settle([]finding{f})
	if tries != before+1 {
		t.Error("after a calm time, drift is not repaired at once")
	}
}

func TestDriftUrgent(t *testing.T) {
	c := newClock()
	b := newDriftBook()
	b.now = c.now
	tries := 0
	f := finding{kind: "HookDetached", subject: "veth1", urgent: true, repair: func() error { tries++; return nil }}
	for range 600 {
		b.settle([]finding{f})
		c.pass(100 * time.Millisecond)
	}
	if tries < 59 || tries > 61 {
		t.Errorf("repaired %d times in a minute of fight; want one a second while packets go astray", tries)
	}
	c.pass(2 * forget)
	b.settle(nil)
	if len(b.list()) != 0 {
		t.Errorf("counts of yesterday are kept: %+v", b.list())
	}
}

func TestDriftReport(t *testing.T) {
	c := newClock()
	b := newDriftBook()
	b.now = c.now
	cause := errors.New("no such device")
	f := finding{kind: "PortUnslaved", subject: "veth1", message: "the VM is cut off", repair: func() error { return cause }}
	errs := b.settle([]finding{f})
	if !errors.Is(errs[driftKey{"PortUnslaved", "veth1"}], cause) {
		t.Errorf("errors: %v", errs)
	}
	want := []wire.DriftCount{{Kind: "PortUnslaved", Subject: "veth1", Seen: 1, Last: c.t, Message: "the VM is cut off; repair failed: no such device"}}
	if d := cmp.Diff(want, b.list()); d != "" {
		t.Error(d)
	}
	if n := b.nextTry(time.Hour); n != firstDelay {
		t.Errorf("next try in %v, want %v", n, firstDelay)
	}
	b.settle(nil) // it went away by itself
	want[0].Message = ""
	if d := cmp.Diff(want, b.list()); d != "" {
		t.Error(d)
	}
}
