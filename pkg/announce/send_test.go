package announce

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"math/bits"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func many(n int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for range n {
			if !yield([]byte{1}) {
				return
			}
		}
	}
}

// book is a wire that notes when each frame came, by the clock of the bubble.
type book struct {
	mu   sync.Mutex
	at   []time.Time
	fail func(n int) error // of the nth try, from 0
	n    int
}

func (b *book) write(int, []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.n
	b.n++
	if b.fail != nil {
		if err := b.fail(n); err != nil {
			return err
		}
	}
	b.at = append(b.at, time.Now())
	return nil
}

// crowd is the most frames that came within any 5 ms.
func (b *book) crowd() (most int) {
	for i := range b.at {
		j := i
		for j < len(b.at) && b.at[j].Sub(b.at[i]) < 5*time.Millisecond {
			j++
		}
		most = max(most, j-i)
	}
	return most
}

// TestPace: whoever sends, and however much, all at once or little by little, no
// more than 128 frames go out in 5 ms.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &book{}
		s := &Sender{write: b.write}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if n, err := s.Send(t.Context(), 1, many(4094)); n != 4094 || err != nil {
					t.Errorf("%d sent, %v", n, err)
				}
			})
		}
		wg.Wait()
		if len(b.at) != 3*4094 || b.crowd() != 128 {
			t.Errorf("%d frames, %d of them within 5 ms", len(b.at), b.crowd())
		}
		for range 200 {
			if _, err := s.Send(t.Context(), 1, many(20)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if b.crowd() > 128 {
			t.Errorf("%d frames within 5 ms", b.crowd())
		}
	})
}

// TestSendEnds: with its context, in the middle of a long round, and with an
// interface that is gone; not with a queue that is full.
func TestSendEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &book{}
		s := &Sender{write: b.write}
		ctx, cancel := context.WithCancel(t.Context())
		b.fail = func(n int) error {
			if n == 999 {
				cancel()
			}
			return nil
		}
		if n, err := s.Send(ctx, 1, many(4094)); n != 1000 || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at 1000: %d sent, %v", n, err)
		}

		b = &book{fail: func(n int) error {
			if n == 10 {
				return unix.ENETDOWN
			}
			return nil
		}}
		s = &Sender{write: b.write}
		if n, err := s.Send(t.Context(), 1, many(100)); n != 10 || !errors.Is(err, unix.ENETDOWN) {
			t.Errorf("down after 10: %d sent, %v", n, err)
		}

		// Frame 10 is tried again and goes; frame 20 is lost.
		b = &book{fail: func(n int) error {
			switch n {
			case 10, 21, 22:
				return unix.ENOBUFS
			case 30:
				return unix.EINTR
			}
			return nil
		}}
		s = &Sender{write: b.write}
		if n, err := s.Send(t.Context(), 1, many(100)); n != 99 || err != nil || b.n != 103 {
			t.Errorf("a full queue: %d sent in %d tries, %v", n, b.n, err)
		}
	})
}

// TestRepeat: five rounds at growing distances; a round that takes long puts off
// the next and loses none.
func TestRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begun := time.Now()
		if err := Repeat(t.Context(), func() error { at = append(at, time.Since(begun)/time.Millisecond); return nil }); err != nil {
			t.Error(err)
		}
		if want := []time.Duration{0, 50, 150, 300, 500}; !slices.Equal(at, want) {
			t.Errorf("rounds at %v, want %v", at, want)
		}
		n := 0
		if err := Repeat(t.Context(), func() error { n++; time.Sleep(time.Second); return nil }); err != nil || n != Rounds {
			t.Errorf("slow: %d rounds, %v", n, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		n = 0
		if err := Repeat(ctx, func() error { n++; return nil }); !errors.Is(err, context.DeadlineExceeded) || n != 2 {
			t.Errorf("ended: %d rounds, %v", n, err)
		}
		broken := errors.New("broken")
		n = 0
		if err := Repeat(t.Context(), func() error { n++; return broken }); !errors.Is(err, broken) || n != 1 {
			t.Errorf("broken: %d rounds, %v", n, err)
		}
	})
}

// TestWire: what is sent comes out of the other end of the cable, tag and all.
func TestWire(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root (a network namespace)")
	}
	runtime.LockOSThread() // never unlocked: the thread goes with the test
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Unshare(unix.CLONE_NEWNET))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "port0"}))
	ends := map[string]int{}
	for _, name := range []string{"eth0", "port0"} {
		l, err := netlink.LinkByName(name)
		must(err)
		must(netlink.LinkSetUp(l))
		ends[name] = l.Attrs().Index
	}
	// What is sent before the kernel has acted on the carrier is lost (net/core/link_watch.c), and that takes up to a second.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := netlink.LinkByName("eth0")
		must(err)
		if l.Attrs().OperState == netlink.OperUp {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("eth0 is %v", l.Attrs().OperState)
		}
	}
	ear, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(err)
	defer unix.Close(ear)
	must(unix.Bind(ear, &unix.SockaddrLinklayer{Ifindex: ends["port0"], Protocol: bits.ReverseBytes16(unix.ETH_P_ALL)}))
	must(unix.SetsockoptInt(ear, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))

	s, err := Open()
	must(err)
	defer s.Close()
	station := Station{MAC: testMAC, VLANs: set(t, "7,100,200"), PVID: 7, Addresses: addrs("192.0.2.7", "fd00::7")}
	up := Uplink{VLANs: station.VLANs, Untagged: set(t, "7")}
	var want, got []string
	for f := range station.Frames(up) {
		want = append(want, tell(t, f))
	}
	n, err := s.Send(t.Context(), ends["eth0"], station.Frames(up))
	if n != len(want) || err != nil {
		t.Errorf("%d frames sent, %v; want %d", n, err, len(want))
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(got) < len(want) && time.Now().Before(deadline) {
		if f := hear(t, ear); f != nil {
			got = append(got, tell(t, f))
		}
	}
	if !slices.Equal(want, got) {
		t.Errorf("came %q, want %q", got, want)
	}
	if _, err := s.Send(t.Context(), 9999, station.Frames(up)); !errors.Is(err, unix.ENXIO) {
		t.Errorf("on an interface that is not there: %v", err)
	}
}

// hear takes one frame of ours, with its tag where it was on the wire; nil is none
// in a while.
func hear(t *testing.T, fd int) []byte {
	t.Helper()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100); n == 0 || errors.Is(err, unix.EINTR) {
		return nil
	}
	buf, oob := make([]byte, 2048), make([]byte, 128)
	n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := buf[:n]
	if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 14 || string(f[6:12]) != string(testMAC) {
		return nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range msgs { // struct tpacket_auxdata
		if m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 && m.Data[0]&unix.TP_STATUS_VLAN_VALID != 0 {
			tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, binary.NativeEndian.Uint16(m.Data[16:]))
			f = slices.Concat(f[:12], tag, f[12:])
		}
	}
	return f
}
