package peer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// logBook is a log to look into.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBook) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// counted counts the connections that come.
type counted struct {
	net.Listener
	n atomic.Int64
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

func listen(tb testing.TB) *counted {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return &counted{Listener: l}
}

// accept takes connections and closes them when the test ends.
func accept(tb testing.TB, take func(net.Conn)) (address string) {
	l := listen(tb)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			take(c)
		}
	}()
	tb.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// echo answers with what it was asked.
func echo(_ context.Context, _ string, body json.RawMessage) (any, error) { return body, nil }

// start serves until the test ends; the log of it shows no secret.
func start(tb testing.TB, s *Server) (Peer, *counted) {
	tb.Helper()
	book := new(logBook)
	if s.Log == nil {
		s.Log = book.log()
	}
	l := listen(tb)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Serve: %v", err)
		}
		secretFree(tb, book.String())
	})
	return Peer{s.Node, l.Addr().String()}, l
}

func newClient(tb testing.TB, ring *Ring, me string) *Client {
	tb.Helper()
	c := NewClient(ring, me, "v1.2.3")
	tb.Cleanup(c.Close)
	return c
}

// script serves connections by hand, each in turn, after the handshake; n counts the
// connections from 0.
func script(tb testing.TB, config *tls.Config, serve func(n int, c *tls.Conn, r *bufio.Reader)) string {
	tb.Helper()
	l := listen(tb)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				c := tls.Server(raw, config)
				defer c.Close()
				if c.SetDeadline(time.Now().Add(20*time.Second)) == nil && c.Handshake() == nil {
					serve(n, c, bufio.NewReader(c))
				}
			})
		}
	})
	tb.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// asked reads a request's head.
func asked(r *bufio.Reader) *http.Request {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil
	}
	return req
}

// take asks for the body and reads it.
func take(c io.Writer, r *bufio.Reader) bool {
	req := asked(r)
	if req == nil {
		return false
	}
	if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
		return false
	}
	_, err := io.Copy(io.Discard, req.Body)
	return err == nil
}

// want fails unless err is an *Error of the kind, for p, with all the words.
func want(tb testing.TB, err error, kind Kind, p Peer, words ...string) *Error {
	tb.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != kind {
		tb.Fatalf("got %#v (%v), want kind %s", err, err, kind)
	}
	if e.Peer != p || e.Verb == "" || e.Message == "" || e.Remedy == "" {
		tb.Errorf("%+v is not whole", e)
	}
	for _, word := range append(words, "agent of node "+p.Node+" at "+p.Address+", asked for "+e.Verb+": ") {
		if !strings.Contains(e.Error(), word) {
			tb.Errorf("%q does not say %q", e.Error(), word)
		}
	}
	secretFree(tb, e.Error())
	return e
}
