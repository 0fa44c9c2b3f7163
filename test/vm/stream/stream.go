// Package stream is one TCP connection with numbered records in both directions: what
// it tells is whether the very same connection lived through what was done to the
// network or the machine at its other end, and for how long nothing came through.
//
// Each side sends a record every Pace. A record says its number and how many records
// of the other side have arrived, so one side, which started the stream, knows about
// both directions by its own clock.
package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// Port is the TCP port of the service in a guest.
	Port = 5004
	// Pace is the time between two records.
	Pace = 20 * time.Millisecond
	// recordSize: 50 KB/s each way are seen in any capture and cost little.
	recordSize = 1024
)

// ErrOrder is returned when a record has another number than the next one.
var ErrOrder = errors.New("records are not in order")

// Serve is the side that did not start it; it ends with the connection.
func Serve(c net.Conn) error {
	s := newStream(c)
	<-s.done
	return s.err
}

// Stream is the side that started it.
type Stream struct {
	conn net.Conn
	done chan struct{}
	once sync.Once

	mu       sync.Mutex
	begun    time.Time
	received uint64 // records that came
	arrived  uint64 // of ours at the other side, as far as it said
	down, up gap
	err      error
}

// gap is the longest time in which a direction made no progress, since it was asked.
type gap struct {
	last    time.Time
	longest time.Duration
}

func (g *gap) progress(now time.Time) {
	g.longest = max(g.longest, now.Sub(g.last))
	g.last = now
}

// take gives the longest one and begins anew; what goes on still counts.
func (g *gap) take(now time.Time) time.Duration {
	longest := max(g.longest, now.Sub(g.last))
	g.longest = 0
	return longest
}

// Start starts a stream over a connection to a Serve.
func Start(c net.Conn) *Stream { return newStream(c) }

func newStream(c net.Conn) *Stream {
	now := time.Now()
	s := &Stream{conn: c, done: make(chan struct{}), begun: now, down: gap{last: now}, up: gap{last: now}}
	go s.send()
	go s.receive()
	return s
}

// end notes the first error and closes the connection.
func (s *Stream) end(err error) {
	s.once.Do(func() {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		_ = s.conn.Close() // why it ends is known
		close(s.done)
	})
}

func (s *Stream) send() {
	tick := time.NewTicker(Pace)
	defer tick.Stop()
	buf := make([]byte, recordSize)
	for n := uint64(0); ; n++ {
		s.mu.Lock()
		received := s.received
		s.mu.Unlock()
		binary.BigEndian.PutUint64(buf, n)
		binary.BigEndian.PutUint64(buf[8:], received)
		if _, err := s.conn.Write(buf); err != nil {
			s.end(fmt.Errorf("sending record %d: %w", n, err))
			return
		}
		select {
		case <-tick.C:
		case <-s.done:
			return
		}
	}
}

func (s *Stream) receive() {
	buf := make([]byte, recordSize)
	for want := uint64(0); ; want++ {
		if _, err := io.ReadFull(s.conn, buf); err != nil {
			s.end(fmt.Errorf("waiting for record %d: %w", want, err))
			return
		}
		n, arrived := binary.BigEndian.Uint64(buf), binary.BigEndian.Uint64(buf[8:])
		if n != want {
			s.end(fmt.Errorf("%w: %d came where %d was next", ErrOrder, n, want))
			return
		}
		now := time.Now()
		s.mu.Lock()
		s.received++
		s.down.progress(now)
		if arrived > s.arrived {
			s.arrived = arrived
			s.up.progress(now)
		}
		s.mu.Unlock()
	}
}

// State is what a stream has come to. Stalls are since the last call of State.
type State struct {
	Down, Up           uint64 // records from the other side, and to it, since the beginning
	DownStall, UpStall time.Duration
	Age                time.Duration
}

func (s State) String() string {
	return fmt.Sprintf("%d records down, %d up in %v (%d KiB); longest stall %d ms down, %d ms up", s.Down, s.Up,
		s.Age.Round(time.Millisecond), (s.Down+s.Up)*recordSize>>10, s.DownStall.Milliseconds(), s.UpStall.Milliseconds())
}

// Progress gives the numbers of State without its stalls, and why the stream has ended
// if it has.
func (s *Stream) Progress() (down, up uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received, s.arrived, s.err
}

// State tells how the stream is, and why it has ended if it has.
func (s *Stream) State() (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return State{Down: s.received, Up: s.arrived, DownStall: s.down.take(now), UpStall: s.up.take(now), Age: now.Sub(s.begun)}, s.err
}

// ErrStopped is the error of a stream that its own side has stopped.
var ErrStopped = errors.New("the stream was stopped here")

// Stop ends it.
func (s *Stream) Stop() { s.end(ErrStopped) }
