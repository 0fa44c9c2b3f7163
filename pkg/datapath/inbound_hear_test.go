package datapath

import (
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// The bridge is reminded of a host behind the uplink now and then, by a copy of a packet that reaches nobody else; only what is
// the first of a host goes by the bridge itself.
func TestInboundForTheBridge(t *testing.T) {
	inbounds(t, func(t *testing.T, cfg Config, tag vlan.ID) {
		l := newInboundLAN(t, cfg, tag)
		other, end := newVeth(t, "other", "end")
		near := newWire(t, end)
		join(t, other, l.bridge)
		knows := func() bool {
			t.Helper()
			return l.bridgeKnows(t, farMAC, l.uplink.Index)
		}
		for _, after := range []uint32{0, 1 << remindOfFarShift} {
			l.flush(t)
			l.inbound(t)
			l.early(t)
			l.known(t, farMAC)
			l.changeFar(t, func(far *portHpFastFar) { far.Heard -= after })
			for n := range 3 {
				if way := l.comes(t, 0, fromFar()); way != "fast" {
					t.Errorf("packet %d came by %q", n, way)
				}
			}
			if got := near.got("text", noTime); got {
				t.Error("a reminder is flooded")
			}
			if knows() != (after > 0) {
				t.Errorf("%d s after the last reminder the bridge knows the host: %v", after, knows())
			}
		}
		if n := l.far.count("text", 0); n > 0 {
			t.Errorf("%d reminders left by the uplink", n)
		}
		l.flush(t)
		l.inbound(t)
		l.early(t)
		l.changeFar(t, func(far *portHpFastFar) { far.Heard = l.now(t) ^ 1<<(remindOfFarShift-1) })
		if way := l.comes(t, 0, fromFar()); way != "fast" || knows() {
			t.Errorf("a moment later a packet came by %q, and the bridge knows the host: %v", way, knows())
		}
		if tag != 0 {
			return
		}
		if err := l.maps[portMapFastFar].Delete(l.farKey(farMAC)); err != nil {
			t.Fatal(err)
		}
		for n, want := range []string{"bridge", "fast"} {
			if way := l.comes(t, 0, fromFar()); way != want {
				t.Errorf("new: packet %d came by %q, want %q", n, way, want)
			}
		}
	})
}

// early waits until the time in which the bridge is reminded of each host once has some seconds left.
func (l *inboundLAN) early(t *testing.T) {
	t.Helper()
	for l.now(t)%(1<<remindOfFarShift) > 1<<remindOfFarShift-4 {
		time.Sleep(100 * time.Millisecond)
	}
}

// remindOfFarShift is REMIND_OF_FAR_SHIFT of bpf/include/fastpath.h.
const remindOfFarShift = 4

// Of a burst none goes another way than the others, and so overtakes them, also where the bridge is to be reminded.
func TestInboundOrder(t *testing.T) {
	inbounds(t, func(t *testing.T, cfg Config, tag vlan.ID) {
		l := newInboundLAN(t, cfg, tag)
		before := l.sentTo(t, 0)
		for range 3 {
			l.known(t, farMAC)
			l.changeFar(t, func(far *portHpFastFar) { far.Heard -= 1 << remindOfFarShift })
			live(t, l.uplink.Index, l.wire(fromFar(), "one of a burst"), 32)
			if n := l.wires[0].count("one of a burst", 32); n != 32 {
				t.Errorf("%d of 32 packets came", n)
			}
		}
		if n := l.sentTo(t, 0) - before; n > 0 {
			t.Errorf("%d packets went by the bridge", n)
		}
	})
}

// Hosts that the bridge does not have where they were heard are forgotten, and so it hears them.
func TestForgetFar(t *testing.T) {
	l := newInboundLAN(t, Config{}, 0)
	l.comes(t, 0, fromFar())
	for _, s := range []struct {
		has bool
		way string
	}{{true, "fast"}, {false, "bridge"}, {true, "fast"}} {
		asked := 0
		if err := l.ForgetFar(func(mac FastMAC, uplink int) bool {
			asked++
			return s.has && mac == FastMAC{Bridge: l.bridge, VLAN: 100, MAC: [6]byte(farMAC)} && uplink == l.uplink.Index
		}); err != nil || asked != 1 {
			t.Errorf("asked of %d: %v", asked, err)
		}
		if way := l.comes(t, 0, fromFar()); way != s.way {
			t.Errorf("has it: %v; a packet came by %q, want %q", s.has, way, s.way)
		}
	}
}

// A VM that is heard by the uplink has moved, also if what is heard is for none of the ports.
func TestInboundHears(t *testing.T) {
	l := newInboundLAN(t, Config{}, 100)
	l.far.send(fromFar().bytes()) // whom the bridge will know there
	p := fromFar()
	p.src, p.dst = peerMAC, farMAC
	l.far.send(p.tagged(tag{ctag, 101}).bytes()) // in another VLAN it is another
	l.far.send(p.tagged(tag{stag, 100}).bytes())
	if way := l.comes(t, 0, fromFar()); way != "fast" {
		t.Fatalf("a packet came by %q", way)
	}
	if got := l.nowLost(t); len(got) > 0 {
		t.Fatalf("lost: %v", got)
	}
	l.loses(t, p.tagged(tag{ctag, 100}), l.host[1].Index)
	l.inbound(t)
	l.loses(t, p.tagged(tag{ctag, 100}, tag{ctag, 101}), l.host[1].Index)

	// What has no VLAN of its own is of the native one, whatever else it has.
	l = newInboundLAN(t, Config{}, 0)
	l.far.send(fromFar().bytes())
	for _, tags := range [][]tag{{{ctag, priority}}, {{stag, 101}}, {}} {
		l.inbound(t)
		l.loses(t, p.tagged(tags...), l.host[1].Index)
	}
}

func (l *inboundLAN) nowLost(t *testing.T) []int {
	t.Helper()
	lost, err := l.SetFastPath(l.both())
	if err != nil {
		t.Fatal(err)
	}
	return lost
}

// loses sends a frame from the uplink, by which this port and no other is lost.
func (l *inboundLAN) loses(t *testing.T, p pkt, ifindex int) {
	t.Helper()
	l.far.send(p.bytes())
	for end := time.Now().Add(5 * time.Second); ; {
		got := l.nowLost(t)
		if len(got) == 1 && got[0] == ifindex {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("lost: %v", got)
		}
	}
}
