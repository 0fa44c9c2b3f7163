package wire

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// newPeer serves one connection by script on a socket of its own.
func newPeer(tb testing.TB, script func(net.Conn)) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "wire") // socket paths are short: not TempDir
	if err != nil {
		tb.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		script(c)
	}()
	tb.Cleanup(func() {
		l.Close()
		<-done
		os.RemoveAll(dir)
	})
	return socket
}

func answering(tb testing.TB, answers ...any) func(net.Conn) {
	return func(c net.Conn) {
		for _, a := range answers {
			var r Request
			if err := ReadMessage(c, &r); err != nil {
				tb.Errorf("peer: %v", err)
				return
			}
			if err := WriteMessage(c, a); err != nil {
				tb.Errorf("peer: %v", err)
				return
			}
		}
	}
}

func TestDialFails(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, tt := range []struct{ socket, want string }{
		{filepath.Join(dir, "none"), "no such file or directory; see whether bridge-agent runs"},
		{left, "connection refused; see whether bridge-agent runs"},
	} {
		start := time.Now()
		_, err := Dial(t.Context(), tt.socket)
		var e *attach.Error
		if !errors.As(err, &e) || e.Kind != attach.Unavailable || !strings.Contains(e.Error(), tt.socket+": "+tt.want) {
			t.Errorf("Dial %s: %v", tt.socket, err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("Dial %s took %s", tt.socket, d)
		}
	}
}

func TestCallFails(t *testing.T) {
	refusal := &attach.Error{Kind: attach.Conflict, Field: "mac", Message: "taken", Remedy: "give another"}
	tests := []struct {
		name   string
		script func(net.Conn)
		kind   attach.ErrorKind
		want   string
	}{
		{"hangs up", func(net.Conn) {}, attach.Unavailable, "hung up before it answered"},
		{"silent", func(c net.Conn) { var r Request; _ = ReadMessage(c, &r); _ = ReadMessage(c, &r) }, attach.Unavailable, "did not do Prepare: no answer within"},
		{"no JSON", func(c net.Conn) {
			var r Request
			_ = ReadMessage(c, &r)
			_, _ = c.Write([]byte("\x00\x00\x00\x02{]"))
		}, attach.Unavailable, "invalid character"},
		{"huge", func(c net.Conn) {
			var r Request
			_ = ReadMessage(c, &r)
			_, _ = c.Write([]byte("\xff\xff\xff\xff{]"))
		}, attach.Unavailable, "over the limit"},
		{"later version", answering(t, Answer{Version: Version + 2}), attach.TryAgain, "speaks protocol version 3, this binary version 1; install"},
		{"earlier version", answering(t, Answer{Version: Version - 2}), attach.TryAgain, "speaks protocol version -1, this binary version 1"},
		{"refusal of another version", answering(t, Answer{Version: 9, Error: refusal}), attach.TryAgain, "version 9"},
		{"refusal", answering(t, Answer{Version: Version, Error: refusal}), attach.Conflict, "mac: taken; give another"},
		{"odd body", answering(t, Answer{Version: Version, Body: json.RawMessage(`[]`)}), attach.Internal, "not understood"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			c, err := Dial(ctx, newPeer(t, tt.script))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = c.Call(ctx, Prepare, attach.Request{}, new(Prepared))
			var e *attach.Error
			if !errors.As(err, &e) || e.Kind != tt.kind || !strings.Contains(e.Error(), tt.want) {
				t.Errorf("got %v, want %s with %q", err, tt.kind, tt.want)
			}
			if tt.kind == attach.Unavailable {
				if again := c.Call(t.Context(), Prepare, nil, nil); again == nil {
					t.Error("a broken connection was used again")
				}
			}
		})
	}
}

func TestCall(t *testing.T) {
	prepared, err := json.Marshal(Prepared{Bridge: "br0", MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), newPeer(t, answering(t,
		Answer{Version: Version, Body: prepared},
		Answer{Version: Version + 1}, // a neighbour's version will do
		Answer{Version: Version, Body: json.RawMessage("null")})))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var p Prepared
	if err := c.Call(t.Context(), Prepare, attach.Request{}, &p); err != nil || p.MTU != 1400 || p.Bridge != "br0" {
		t.Errorf("%+v, %v", p, err)
	}
	for range 2 {
		if err := c.Call(t.Context(), Status, nil, new(struct{})); err != nil {
			t.Error(err)
		}
	}
}

func TestCallCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Dial(ctx, newPeer(t, func(c net.Conn) {
		var r Request
		_ = ReadMessage(c, &r)
		cancel()
		_ = ReadMessage(c, &r)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Call(ctx, Status, nil, nil); err == nil || !strings.Contains(err.Error(), "no answer within") {
		t.Errorf("got %v", err)
	}
	c.Close()
}
