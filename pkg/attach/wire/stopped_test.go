package wire

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ended is a log that hands on what connections ended by.
type ended struct {
	slog.Handler
	by chan string
}

func (e ended) Enabled(context.Context, slog.Level) bool { return true }

func (e ended) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool { e.by <- a.Value.String(); return true })
	return nil
}

// stopped serves, and has a client ask that never reads its long answer. It
// gives the client, what ends Serve, what Serve gave and what connections ended by.
func stopped(t *testing.T, limit time.Duration) (c net.Conn, stop func(), served chan error, by chan string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	by, served = make(chan string, 10), make(chan error, 1)
	begun := make(chan struct{})
	long := strings.Repeat("x", MaxMessage/2) // no socket buffer takes that
	s := &Server{AnswerTimeout: limit, Log: slog.New(ended{slog.DiscardHandler, by}), Handlers: map[Verb]Handler{
		View: func(context.Context, json.RawMessage) (any, error) { close(begun); return long, nil },
	}}
	go func() { served <- s.Serve(ctx, l) }()
	c, err = net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := WriteMessage(c, Request{Version: Version, Verb: View}); err != nil {
		t.Fatal(err)
	}
	<-begun
	return c, cancel, served, by
}

// TestStoppedReader: who does not read an answer is hung up on.
func TestStoppedReader(t *testing.T) {
	_, _, _, by := stopped(t, 50*time.Millisecond)
	select {
	case why := <-by:
		if !strings.Contains(why, "write the answer") || !strings.Contains(why, "timeout") {
			t.Errorf("the connection ended by %q", why)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is still being written to")
	}
}

// TestServeEndsWithStoppedReader: nor does such a client keep Serve from ending.
func TestServeEndsWithStoppedReader(t *testing.T) {
	c, stop, served, _ := stopped(t, time.Hour)
	// A byte of the answer says that it is being written.
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	stop()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("Serve took %s to end", took)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve has not ended")
	}
}
