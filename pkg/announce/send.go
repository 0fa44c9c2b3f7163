package announce

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// rounds are when a station is announced, counted from the first time, as QEMU
// does by default (net/announce.c): a frame can be lost, and a switch on the way
// may not forward yet.
var rounds = [...]time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond}

// Rounds is how often a station is announced.
const Rounds = len(rounds)

// Repeat calls round at those times, or later when one takes long. It ends with
// the context or with the first error.
func Repeat(ctx context.Context, round func() error) error {
	begun := time.Now()
	for _, at := range rounds {
		if err := sleep(ctx, time.Until(begun.Add(at))); err != nil {
			return err
		}
		if err := round(); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// A switch counts broadcasts and shuts out a port that sends too many at once, so
// no more than batch frames go out together, and none for pause after them.
const (
	batch = 128
	pause = 5 * time.Millisecond
)

// Sender puts frames on the wire, at a pace that all who use it share.
type Sender struct {
	fd    int
	write func(ifindex int, frame []byte) error

	mu   sync.Mutex
	used int       // of the batch
	last time.Time // frame
	free time.Time // when the next batch may begin
}

// Open makes a Sender in the calling thread's network namespace. It needs
// CAP_NET_RAW.
func Open() (*Sender, error) {
	// Protocol 0: it hears nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket (it takes CAP_NET_RAW): %w", err)
	}
	s := &Sender{fd: fd}
	s.write = func(ifindex int, frame []byte) error {
		return unix.Sendto(s.fd, frame, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: ifindex, Halen: macLen})
	}
	return s, nil
}

// Close gives the socket back. No Send may be at work.
func (s *Sender) Close() error { return unix.Close(s.fd) }

// Send puts frames on the wire of an interface, whole Ethernet frames as they are,
// and says how many have gone. One that the interface's queue has no room for, a
// moment later either, is lost: another round follows.
func (s *Sender) Send(ctx context.Context, ifindex int, frames iter.Seq[[]byte]) (sent int, err error) {
	for f := range frames {
		err := s.send(ctx, ifindex, f)
		switch {
		case err == nil:
			sent++
		case full(err):
		case ctx.Err() != nil:
			return sent, err
		default:
			return sent, fmt.Errorf("send on interface %d: %w", ifindex, err)
		}
	}
	return sent, nil
}

// full says that a queue had no room.
func full(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) }

func (s *Sender) send(ctx context.Context, ifindex int, frame []byte) error {
	var err error
	for range 2 {
		if err := s.turn(ctx); err != nil {
			return err
		}
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = s.write(ifindex, frame)
		}
		if !full(err) {
			return err
		}
		s.mu.Lock()
		s.endBatch(time.Now())
		s.mu.Unlock()
	}
	return err
}

// turn waits until a frame may go out.
func (s *Sender) turn(ctx context.Context) error {
	for {
		wait := s.take(time.Now())
		if wait <= 0 {
			return context.Cause(ctx)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// take takes a place in the batch, or says how long to wait before trying again.
func (s *Sender) take(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait := s.free.Sub(now); wait > 0 {
		return wait
	}
	if now.Sub(s.last) >= pause {
		s.used = 0
	}
	s.used++
	s.last = now
	if s.used == batch {
		s.endBatch(now)
	}
	return 0
}

// endBatch puts the next one off; mu is held.
func (s *Sender) endBatch(now time.Time) {
	s.used = 0
	s.free = now.Add(pause)
}
