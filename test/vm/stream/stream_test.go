package stream

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// pair gives both ends of a TCP connection on loopback.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// wait polls until both directions have so many records, or the stream has ended.
func wait(t *testing.T, s *Stream, records uint64) error {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		down, up, err := s.Progress()
		if err != nil || down >= records && up >= records {
			return err
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records down, %d up; want %d", down, up, records)
		}
	}
}

func TestBothDirections(t *testing.T) {
	a, b := pair(t)
	ended := make(chan error, 1)
	go func() { ended <- Serve(b) }()
	s := Start(a)
	if err := wait(t, s, 5); err != nil {
		t.Fatal(err)
	}
	st, err := s.State()
	if err != nil || st.Down < 5 || st.Up < 5 || st.DownStall < Pace/2 || st.UpStall < Pace/2 {
		t.Errorf("%v, %v: want 5 records or more and a stall of some %v", st, err, Pace)
	}
	s.Stop()
	if err := <-ended; err == nil {
		t.Error("the other side did not notice the end")
	}
	if _, err := s.State(); !errors.Is(err, ErrStopped) {
		t.Errorf("after Stop: %v", err)
	}
}

// TestStall: while the other side is silent the stall grows, and it is told once.
func TestStall(t *testing.T) {
	a, b := pair(t)
	s := Start(a)
	defer s.Stop()
	if _, err := io.ReadFull(b, make([]byte, 10*recordSize)); err != nil {
		t.Fatal(err)
	}
	st, err := s.State()
	if err != nil || st.Down != 0 || st.DownStall < 5*Pace || st.UpStall < 5*Pace {
		t.Errorf("a silent peer: %v, %v", st, err)
	}
	go func() { _ = Serve(b) }() // its first record is number 0, whatever it has missed
	if err := wait(t, s, 0); err != nil {
		t.Fatal(err)
	}
}

func TestEnds(t *testing.T) {
	for name, peer := range map[string]func(net.Conn){
		"closed": func(c net.Conn) { c.Close() },
		"reset":  func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() },
		"order": func(c net.Conn) {
			record := make([]byte, recordSize)
			for _, n := range []uint64{0, 2} {
				binary.BigEndian.PutUint64(record, n)
				_, _ = c.Write(record)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			s := Start(a)
			defer s.Stop()
			peer(b)
			err := wait(t, s, 1<<40)
			if err == nil || errors.Is(err, ErrOrder) != (name == "order") {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
