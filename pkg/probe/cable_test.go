package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// cable is a veth pair in a namespace of its own, in which the test's thread stays. What goes in at
// one end comes out at the other in the same order.
type cable struct {
	tb        testing.TB
	near, far netlink.Link
	wire      int // a plain packet socket at the far end
}

// newCable skips without root.
func newCable(tb testing.TB, mtu int) *cable {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root (a network namespace)")
	}
	runtime.LockOSThread() // never unlocked: the thread goes with the test
	oneCPU(tb)
	must(tb, unix.Unshare(unix.CLONE_NEWNET))
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near", MTU: mtu, HardwareAddr: myMAC[:]}, PeerName: "far", PeerHardwareAddr: peerMAC[:], PeerMTU: uint32(mtu)}
	must(tb, netlink.LinkAdd(veth))
	c := &cable{tb: tb}
	var err error
	c.near, err = netlink.LinkByName("near")
	must(tb, err)
	c.far, err = netlink.LinkByName("far")
	must(tb, err)
	must(tb, netlink.LinkSetUp(c.far))
	must(tb, netlink.LinkSetUp(c.near))
	c.running()
	c.wire, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(tb, err)
	tb.Cleanup(func() { must(tb, unix.Close(c.wire)) })
	must(tb, unix.Bind(c.wire, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: c.far.Attrs().Index}))
	must(tb, unix.SetsockoptInt(c.wire, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	return c
}

// oneCPU keeps the thread on one: each has a queue of its own for what veths receive.
func oneCPU(tb testing.TB) {
	tb.Helper()
	var all, one unix.CPUSet
	must(tb, unix.SchedGetaffinity(0, &all))
	for n := 0; one.Count() == 0; n++ {
		if all.IsSet(n) {
			one.Set(n)
		}
	}
	must(tb, unix.SchedSetaffinity(0, &one))
}

// eventually polls until ok says nothing more is wrong.
func eventually(tb testing.TB, what string, ok func() string) {
	tb.Helper()
	deadline := time.After(patience)
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for state := ok(); state != ""; state = ok() {
		select {
		case <-poll.C:
		case <-deadline:
			tb.Fatalf("%s: not within %s; last state: %s", what, patience, state)
		}
	}
}

// running waits until both ends can send.
func (c *cable) running() {
	c.tb.Helper()
	eventually(c.tb, "the cable runs", func() string {
		for _, end := range []netlink.Link{c.near, c.far} {
			l, err := netlink.LinkByIndex(end.Attrs().Index)
			must(c.tb, err)
			if state := l.Attrs().OperState; state != netlink.OperUp {
				return l.Attrs().Name + " is " + state.String()
			}
		}
		return ""
	})
}

// open opens the Socket at the near end.
func (c *cable) open() *Socket {
	c.tb.Helper()
	s, err := OpenSocket(c.near.Attrs().Index, nil)
	must(c.tb, err)
	c.tb.Cleanup(func() { _ = s.Close() }) // it may be closed
	return s
}

// put sends bytes from the far end.
func (c *cable) put(b []byte) {
	c.tb.Helper()
	if n, err := unix.Write(c.wire, b); n != len(b) || err != nil {
		c.tb.Fatalf("%d of %d bytes were put: %v", n, len(b), err)
	}
}

// pull is the next frame from the near end at the far one that is from a MAC, with its tag where
// it was on the wire.
func (c *cable) pull(from MAC) []byte {
	c.tb.Helper()
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(c.wire), Events: unix.POLLIN}}, 100); n == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		n, oobn, _, who, err := unix.Recvmsg(c.wire, buf, oob, 0)
		must(c.tb, err)
		f := buf[:n]
		if ll, ok := who.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < etherHead || MAC(f[6:12]) != from {
			continue
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		must(c.tb, err)
		for _, m := range msgs { // struct tpacket_auxdata
			if m.Header.Type == unix.PACKET_AUXDATA && binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
				tag := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(m.Data[18:]))
				tag = binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(m.Data[16:]))
				return slices.Concat(f[:12], tag, f[12:])
			}
		}
		return slices.Clone(f)
	}
	c.tb.Fatal("nothing came out")
	return nil
}

// ear hears what a Socket receives, of what tests put in.
type ear struct {
	tb     testing.TB
	frames chan Frame
	end    chan error
}

// listen has a goroutine receive until the Socket ends.
func (c *cable) listen(s *Socket) *ear {
	e := &ear{tb: c.tb, frames: make(chan Frame, 1<<14), end: make(chan error, 1)}
	go func() {
		for {
			f, err := s.Receive()
			if err != nil {
				e.end <- err
				return
			}
			// The kernel's own frames are from the ends' MACs.
			if len(f.Data) >= etherHead && MAC(f.Data[6:12]) == otherMAC {
				f.Data = bytes.Clone(f.Data)
				e.frames <- f
			}
		}
	}()
	c.tb.Cleanup(func() {
		_ = s.Close()
		select {
		case <-e.end:
		case <-time.After(patience):
			c.tb.Error("Receive has not ended with the Socket")
		}
	})
	return e
}

// next is the next frame.
func (e *ear) next() Frame {
	e.tb.Helper()
	select {
	case f := <-e.frames:
		return f
	case err := <-e.end:
		e.end <- err
		e.tb.Fatalf("Receive has ended: %v", err)
	case <-time.After(patience):
		e.tb.Fatal("nothing came")
	}
	return Frame{}
}

// frame is one of otherMAC with a payload.
func frame(to MAC, kind uint16, payload ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(slices.Concat(to[:], otherMAC[:]), kind), payload...)
}

// tagged is a frame with a tag more, of that kind and content.
func tagged(b []byte, tpid, tci uint16) []byte {
	tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, tpid), tci)
	return slices.Concat(b[:12], tag, b[12:])
}

// marker is a frame behind which nothing more is to come.
var marker = frame(broadcast, 0x9999, []byte("that was all                                  ")...)

// all puts frames, and gives what comes of them.
func (c *cable) all(e *ear, frames ...[]byte) (came []Frame) {
	c.tb.Helper()
	for _, b := range append(frames, marker) {
		c.put(b)
	}
	for {
		f := e.next()
		if bytes.Equal(f.Data, marker) {
			return came
		}
		came = append(came, f)
	}
}
