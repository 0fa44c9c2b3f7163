package wire

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// TestStaleRequest: clients ask and leave while nobody serves. When somebody
// does at last, what they asked is not done, but what is asked then is.
func TestStaleRequest(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteMessage(c, Request{Version: Version, Verb: Detach}); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	var done atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- (&Server{Log: slog.New(slog.DiscardHandler), Handlers: map[Verb]Handler{
			Detach: func(context.Context, json.RawMessage) (any, error) { done.Add(1); return Detached{}, nil },
			Status: func(context.Context, json.RawMessage) (any, error) { return nil, nil },
		}}).Serve(ctx, l)
	}()
	if a := ask(t, socket, Request{Version: Version, Verb: Status}); a.Error != nil {
		t.Errorf("a client that waits: %v", a.Error)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if n := done.Load(); n != 0 {
		t.Errorf("%d requests of clients that had left were carried out", n)
	}
}
