package wire

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// newServer serves handlers on a socket of its own until the test ends.
func newServer(tb testing.TB, handlers map[Verb]Handler) string {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "agent.sock")
	l, err := Listen(socket)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- (&Server{Handlers: handlers, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return socket
}

// ask sends one raw request and reads the answer.
func ask(tb testing.TB, socket string, r Request) Answer {
	tb.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	if err := WriteMessage(c, r); err != nil {
		tb.Fatal(err)
	}
	var a Answer
	if err := ReadMessage(c, &a); err != nil {
		tb.Fatal(err)
	}
	return a
}

func TestServerRefuses(t *testing.T) {
	socket := newServer(t, map[Verb]Handler{
		Check: func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("disk on fire") },
		GC: func(context.Context, json.RawMessage) (any, error) {
			return nil, &attach.Error{Kind: attach.Conflict, Field: "mac", Message: "held", Remedy: "another"}
		},
	})
	for name, tc := range map[string]struct {
		req    Request
		kind   attach.ErrorKind
		field  string
		remedy string
	}{
		"older than N-1":        {Request{Version: Version - 2, Verb: Check}, attach.TryAgain, "version", "one release"},
		"newer than N+1":        {Request{Version: Version + 2, Verb: Check}, attach.TryAgain, "version", "one release"},
		"unknown verb":          {Request{Version: Version, Verb: "Dance"}, attach.InvalidConfig, "verb", "one release"},
		"handler's plain error": {Request{Version: Version, Verb: Check}, attach.Internal, "", ""},
		"handler's own error":   {Request{Version: Version, Verb: GC}, attach.Conflict, "mac", "another"},
		"neighbour N+1":         {Request{Version: Version + 1, Verb: GC}, attach.Conflict, "mac", "another"},
	} {
		a := ask(t, socket, tc.req)
		if a.Error == nil || a.Error.Kind != tc.kind || a.Error.Field != tc.field || !strings.Contains(a.Error.Remedy, tc.remedy) || a.Version != Version {
			t.Errorf("%s: got %+v", name, a)
		}
	}
}

// TestRest: those who only wait keep nobody out, however many they are, and have their places when they go on.
func TestRest(t *testing.T) {
	most := maxConns()
	resting, wake := make(chan struct{}, 2*most), make(chan struct{})
	var at, peak atomic.Int32
	socket := newServer(t, map[Verb]Handler{
		Attach: func(ctx context.Context, _ json.RawMessage) (any, error) {
			Rest(ctx, func() { resting <- struct{}{}; <-wake })
			for now := at.Add(1); ; {
				if was := peak.Load(); was >= now || peak.CompareAndSwap(was, now) {
					break
				}
			}
			defer at.Add(-1)
			time.Sleep(time.Millisecond)
			return nil, nil
		},
		Check: func(context.Context, json.RawMessage) (any, error) { return nil, nil },
	})
	var all sync.WaitGroup
	for range 2 * most {
		all.Go(func() {
			if a := ask(t, socket, Request{Version: Version, Verb: Attach}); a.Error != nil {
				t.Error(a.Error)
			}
		})
	}
	for range 2 * most {
		<-resting
	}
	if a := ask(t, socket, Request{Version: Version, Verb: Check}); a.Error != nil {
		t.Error(a.Error)
	}
	close(wake)
	all.Wait()
	if n := int(peak.Load()); n > most {
		t.Errorf("%d are at work at once, of %d places", n, most)
	}
	Rest(t.Context(), func() { at.Add(1) })
	if at.Load() != 1 {
		t.Error("without a server nothing is waited for")
	}
}

// TestHangUp: whoever asked and hung up has the request's context ended, so that
// what was begun can be undone.
func TestHangUp(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	socket := newServer(t, map[Verb]Handler{Attach: func(ctx context.Context, _ json.RawMessage) (any, error) {
		close(begun)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	}})
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteMessage(c, Request{Version: Version, Verb: Attach}); err != nil {
		t.Fatal(err)
	}
	<-begun
	c.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "client") {
		t.Errorf("context ended by %v", err)
	}
}

func TestListen(t *testing.T) {
	socket := newServer(t, nil)
	if _, err := Listen(socket); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a living agent's socket: %v", err)
	}
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v; want 0600", st.Mode().Perm(), err)
	}
	dead := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	l2, err := Listen(dead)
	if err != nil {
		t.Fatalf("a dead agent's socket: %v", err)
	}
	l2.Close()
}

func TestFrames(t *testing.T) {
	for name, raw := range map[string]string{
		"cut in the length": "\x00\x00",
		"cut in the body":   "\x00\x00\x00\x05{}",
		"too long":          "\xff\xff\xff\xff",
		"no JSON":           "\x00\x00\x00\x02xx",
	} {
		var v any
		if err := ReadMessage(strings.NewReader(raw), &v); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := WriteMessage(&strings.Builder{}, strings.Repeat("x", MaxMessage)); err == nil {
		t.Error("a message over the limit is written")
	}
}
