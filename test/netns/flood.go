package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// FloodSpec is two streams of numbered datagrams from one namespace to another:
// one that must arrive whole and one of which nothing may arrive. They go on until
// they are stopped: what happens meanwhile happens under traffic on any machine.
type FloodSpec struct {
	From *Space
	To   *Space
	Addr netip.Addr // of To
	// Allowed and Denied are UDP ports. A Denied of 0 is no such stream.
	Allowed, Denied uint16
	// Flows is the number of source ports of the allowed stream.
	Flows int
}

// FloodResult is what came of it.
type FloodResult struct {
	Sent, Received, Missing, Duplicates int
	DeniedSent, WronglyPassed           int
	FirstMissing                        []int
	Took                                time.Duration
}

// Whole says whether everything allowed arrived and nothing denied did.
func (r FloodResult) Whole() bool {
	return r.Missing == 0 && r.Duplicates == 0 && r.WronglyPassed == 0 && r.Received == r.Sent
}

func (r FloodResult) String() string {
	s := fmt.Sprintf("%d sent, %d received, %d missing, %d duplicates; %d denied sent, %d wrongly passed; %v",
		r.Sent, r.Received, r.Missing, r.Duplicates, r.DeniedSent, r.WronglyPassed, r.Took.Round(time.Millisecond))
	if len(r.FirstMissing) > 0 {
		s += fmt.Sprintf("; first missing %v", r.FirstMissing)
	}
	return s
}

// inFlight bounds what is on its way: far under what the queues between the two
// ends hold (net.core.netdev_max_backlog is 1000), so that a datagram that does
// not arrive was lost at a port and nowhere else.
const inFlight = 128

// stalled is how long nothing must arrive until what is missing counts as lost.
const stalled = 5 * time.Second

// Flood is a running pair of streams.
type Flood struct {
	spec     FloodSpec
	seen     []bool // by number, as far as any arrived; the receiver's alone until done
	received atomic.Int64
	dups     atomic.Int64
	passed   atomic.Int64
	sent     atomic.Int64
	denied   atomic.Int64
	stop     chan struct{}
	readers  sync.WaitGroup
	once     sync.Once
	done     chan struct{}
	err      error
	took     time.Duration
}

// StartFlood begins to send. Nothing is lost by itself: the sender waits while
// inFlight datagrams are on their way.
func StartFlood(spec FloodSpec) (*Flood, error) {
	f := &Flood{spec: spec, stop: make(chan struct{}), done: make(chan struct{})}
	allowed, err := listenUDP(spec.To, spec.Allowed)
	if err != nil {
		return nil, err
	}
	conns := []net.PacketConn{allowed}
	if spec.Denied != 0 {
		denied, err := listenUDP(spec.To, spec.Denied)
		if err != nil {
			return nil, errors.Join(err, allowed.Close())
		}
		conns = append(conns, denied)
		f.readers.Go(func() { f.countPassed(denied) })
	}
	f.readers.Go(func() { f.receive(allowed) })
	go func() {
		defer close(f.done)
		begun := time.Now()
		f.err = f.spec.From.Do(f.send)
		f.took = time.Since(begun)
		for _, c := range conns {
			f.err = errors.Join(f.err, c.Close())
		}
		f.readers.Wait()
	}()
	return f, nil
}

func listenUDP(s *Space, port uint16) (*net.UDPConn, error) {
	var c *net.UDPConn
	err := s.Do(func() error {
		var err error
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	// Past net.core.rmem_max, which holds a tenth of a second of a flood: a reader that waits for its CPU
	// for longer would look like packets that were lost on their way.
	raw, err := c.SyscallConn()
	if err != nil {
		return c, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	})
	return c, errors.Join(err, failed)
}

func (f *Flood) receive(c net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if n < 8 {
			continue
		}
		i := binary.BigEndian.Uint64(buf)
		if i > uint64(f.sent.Load()) { // not ours: the last one is counted after it is sent
			continue
		}
		if more := int(i) + 1 - len(f.seen); more > 0 {
			f.seen = append(f.seen, make([]bool, more)...)
		}
		if f.seen[i] {
			f.dups.Add(1)
			continue
		}
		f.seen[i] = true
		f.received.Add(1)
	}
}

func (f *Flood) countPassed(c net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		if _, _, err := c.ReadFrom(buf); err != nil {
			return
		}
		f.passed.Add(1)
	}
}

func (f *Flood) dial(port uint16) (net.Conn, error) {
	return net.Dial("udp", netip.AddrPortFrom(f.spec.Addr, port).String())
}

// send runs inside From.
func (f *Flood) send() error {
	flows := make([]net.Conn, max(1, f.spec.Flows))
	for i := range flows {
		c, err := f.dial(f.spec.Allowed)
		if err != nil {
			return err
		}
		defer c.Close()
		flows[i] = c
	}
	var denied net.Conn
	if f.spec.Denied != 0 {
		var err error
		if denied, err = f.dial(f.spec.Denied); err != nil {
			return err
		}
		defer denied.Close()
	}
	var p [64]byte
	for i := 0; ; i++ {
		if more, err := f.room(); err != nil {
			return err
		} else if !more {
			break
		}
		binary.BigEndian.PutUint64(p[:], uint64(i))
		if _, err := flows[i%len(flows)].Write(p[:]); err != nil {
			return fmt.Errorf("datagram %d: %w", i, err)
		}
		f.sent.Add(1)
		if denied == nil {
			continue
		}
		if _, err := denied.Write(p[:]); err != nil {
			return fmt.Errorf("denied datagram %d: %w", i, err)
		}
		f.denied.Add(1)
	}
	f.drain()
	return nil
}

// room waits until one more datagram may be on its way, or until there are to be
// no more; not for ever, since one that is lost never arrives.
func (f *Flood) room() (bool, error) {
	last, since := int64(-1), time.Now()
	for {
		select {
		case <-f.stop:
			return false, nil
		default:
		}
		got := f.received.Load()
		if f.sent.Load()-got < inFlight {
			return true, nil
		}
		if got != last {
			last, since = got, time.Now()
		}
		if time.Since(since) > stalled {
			return false, fmt.Errorf("after %d datagrams nothing arrived for %v", f.sent.Load(), stalled)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// drain waits for what is still on its way.
func (f *Flood) drain() {
	last, since := f.received.Load(), time.Now()
	for f.received.Load() < f.sent.Load() && time.Since(since) < stalled {
		if got := f.received.Load(); got != last {
			last, since = got, time.Now()
		}
		time.Sleep(time.Millisecond)
	}
}

// Sent is how many datagrams of the allowed stream have been sent so far.
func (f *Flood) Sent() int { return int(f.sent.Load()) }

// Running says whether the flood goes on; it ends early if too much is lost.
func (f *Flood) Running() bool {
	select {
	case <-f.done:
		return false
	default:
		return true
	}
}

// Stop ends the flood and tells what came of it.
func (f *Flood) Stop() (FloodResult, error) {
	f.once.Do(func() { close(f.stop) })
	<-f.done
	r := FloodResult{Sent: int(f.sent.Load()), Received: int(f.received.Load()), Duplicates: int(f.dups.Load()),
		DeniedSent: int(f.denied.Load()), WronglyPassed: int(f.passed.Load()), Took: f.took}
	r.Missing = r.Sent - r.Received
	for i := 0; i < r.Sent && r.Missing > 0 && len(r.FirstMissing) < 10; i++ {
		if i >= len(f.seen) || !f.seen[i] {
			r.FirstMissing = append(r.FirstMissing, i)
		}
	}
	return r, f.err
}
