package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestServeFails(t *testing.T) {
	ring := Fixed(keys(t, 1))
	for _, tt := range []struct {
		name   string
		server *Server
		want   string
	}{
		{"no ring", &Server{Node: "b"}, "no ring of fabric keys"},
		{"no node", &Server{Ring: ring}, "no node name"},
		{"bad node", &Server{Ring: ring, Node: "B"}, `node name "B"`},
		{"bad verb", &Server{Ring: ring, Node: "b", Handlers: map[string]Handler{"A/b": echo}}, `verb "A/b"`},
	} {
		l := listen(t)
		if err := tt.server.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener is open", tt.name)
		}
	}
	l := listen(t)
	l.Close()
	if err := (&Server{Ring: ring, Node: "b"}).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed listener: %v", err)
	}
}

// raw is a client that may send anything.
func raw(tb testing.TB, ring *Ring, p Peer) *http.Client {
	tb.Helper()
	tr := &http.Transport{TLSClientConfig: ClientTLS(ring, "a", p.Node), ExpectContinueTimeout: time.Minute}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestRequestRefused(t *testing.T) {
	ring := Fixed(keys(t, 1))
	called := make(chan struct{}, 100)
	p, _ := start(t, &Server{Ring: ring, Node: "b", Version: "v1.0", Handlers: map[string]Handler{
		"ports": func(context.Context, string, json.RawMessage) (any, error) { called <- struct{}{}; return 1, nil },
		"none":  nil,
	}})
	client := raw(t, ring, p)
	huge := bytes.Repeat([]byte("1"), MaxRequest+1)
	for _, tt := range []struct {
		name, method, path string
		version, release   string
		body               io.Reader
		status             int
		kind, want         string
	}{
		{"other version", "POST", "/v1/ports", "2", "v2.0", strings.NewReader("1"), 400, "OtherVersion",
			"the agent that is asked speaks protocol 1 (release v1.0), the one that asks protocol 2 (release v2.0); install one release on both"},
		{"no version", "POST", "/v1/ports", "", "", strings.NewReader("1"), 400, "OtherVersion", "the one that asks protocol without a number (release unknown)"},
		{"version first", "PUT", "/v2/x", "2", "", nil, 400, "OtherVersion", "protocol 2"},
		{"GET", "GET", "/v1/ports", "1", "", nil, 404, UnknownVerb, "this agent has no GET /v1/ports"},
		{"no verb", "POST", "/v1/", "1", "", nil, 404, UnknownVerb, "has no POST /v1/"},
		{"root", "POST", "/", "1", "", nil, 404, UnknownVerb, "has no POST /"},
		{"other verb", "POST", "/v1/port", "1", "", nil, 404, UnknownVerb, "has no POST /v1/port"},
		{"verb without a handler", "POST", "/v1/none", "1", "", nil, 404, UnknownVerb, "has no POST /v1/none"},
		{"roundabout", "POST", "/v1/x/../ports", "1", "", nil, 404, UnknownVerb, "/v1/x/../ports"},
		{"huge", "POST", "/v1/ports", "1", "", bytes.NewReader(huge), 413, TooLarge, "a request of 4194305 bytes is over the limit of 4194304"},
		{"huge, in parts", "POST", "/v1/ports", "1", "", io.MultiReader(bytes.NewReader(huge)), 413, TooLarge, "over the limit of 4194304 bytes"},
		{"no JSON", "POST", "/v1/ports", "1", "", strings.NewReader("{"), 400, Malformed, "no JSON"},
		{"two JSONs", "POST", "/v1/ports", "1", "", strings.NewReader("1 2"), 400, Malformed, "no JSON"},
		{"empty", "POST", "/v1/ports", "1", "", nil, 400, Malformed, "no JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "https://"+p.Address+tt.path, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			if tt.version != "" {
				req.Header.Set(versionHeader, tt.version)
			}
			req.Header.Set(releaseHeader, tt.release)
			// Waits for the refusal of what is huge before it sends it.
			req.Header.Set("Expect", "100-continue")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var no refusal
			if err := json.NewDecoder(resp.Body).Decode(&no); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || no.Kind != tt.kind || !strings.Contains(no.Error, tt.want) {
				t.Errorf("%d %+v, want %d %s %q", resp.StatusCode, no, tt.status, tt.kind, tt.want)
			}
			if resp.Header.Get(versionHeader) != "1" || resp.Header.Get(releaseHeader) != "v1.0" || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("headers %v", resp.Header)
			}
		})
	}
	if len(called) > 0 {
		t.Error("a handler was called")
	}
}

// unencodable cannot become JSON, or panics on the way.
type unencodable struct{ panics bool }

// MarshalJSON implements json.Marshaler.
func (u unencodable) MarshalJSON() ([]byte, error) {
	if u.panics {
		panic("on the way")
	}
	return nil, errors.New("no words")
}

func TestHandlerFails(t *testing.T) {
	ring := Fixed(keys(t, 1))
	book := new(logBook)
	give := func(v any, err error) Handler {
		return func(context.Context, string, json.RawMessage) (any, error) { return v, err }
	}
	p, conns := start(t, &Server{Ring: ring, Node: "b", Log: book.log(), Handlers: map[string]Handler{
		"plain":        give(nil, errors.New("disk is full")),
		"refusal":      give(nil, fmt.Errorf("ports: %w", &Refusal{Kind: "Moved", Message: "it is elsewhere"})),
		"untrusted":    give(nil, &Refusal{Kind: string(Untrusted), Message: "so I say"}),
		"panic":        func(context.Context, string, json.RawMessage) (any, error) { panic("oh") },
		"abort":        func(context.Context, string, json.RawMessage) (any, error) { panic(http.ErrAbortHandler) },
		"unencodable":  give(unencodable{}, nil),
		"panics-later": give(unencodable{panics: true}, nil),
		"huge":         give(strings.Repeat("a", MaxAnswer), nil),
	}})
	c := newClient(t, ring, "a")
	for _, tt := range []struct {
		verb, kind string
		begun      bool
		want       string
	}{
		{"plain", Failed, true, ": disk is full; see the log of bridge-agent on that node"},
		{"refusal", "Moved", true, ": ports: it is elsewhere; see the log"},
		{"untrusted", string(Untrusted), true, ": so I say; see the log"},
		{"panic", Panicked, true, ": the handler panicked: the log of bridge-agent there has the stack"},
		{"abort", Panicked, true, "panicked"},
		{"unencodable", Failed, true, "encode the answer: json: error calling MarshalJSON"},
		{"panics-later", Panicked, true, "panicked"},
		{"huge", TooLarge, true, "the answer of 67108866 bytes is over the limit of 67108864"},
		{"unknown", UnknownVerb, false, ": this agent has no POST /v1/unknown; install one release on both"},
	} {
		t.Run(tt.verb, func(t *testing.T) {
			e := want(t, c.Call(t.Context(), p, tt.verb, nil, nil), Remote, p, tt.want)
			if e.RemoteKind != tt.kind || e.Begun != tt.begun {
				t.Errorf("%+v", e)
			}
		})
	}
	if n := conns.n.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if text := book.String(); !strings.Contains(text, "panic=oh") || !strings.Contains(text, "server_test.go") || strings.Count(text, "level=ERROR") != 3 {
		t.Errorf("log: %s", text)
	}
}

// TestBusy: requests over the limit wait, and not for ever.
func TestBusy(t *testing.T) {
	ring := Fixed(keys(t, 1))
	held, release := make(chan struct{}), make(chan struct{})
	d := &desk{slots: make(chan struct{}, 1), admit: time.Millisecond, Server: &Server{Ring: ring, Handlers: map[string]Handler{
		"hold": func(context.Context, string, json.RawMessage) (any, error) { close(held); <-release; return 1, nil },
		"ask":  echo,
	}}}
	l := listen(t)
	srv := &http.Server{Handler: d}
	t.Cleanup(func() { srv.Close() })
	go srv.Serve(tls.NewListener(l, ServerTLS(ring, "b")))
	p := Peer{"b", l.Addr().String()}
	c := newClient(t, ring, "a")
	done := make(chan error)
	go func() { done <- c.Call(t.Context(), p, "hold", nil, nil) }()
	<-held
	e := want(t, c.Call(t.Context(), p, "ask", nil, nil), Remote, p, "1 requests are in flight; try again later")
	if e.RemoteKind != Busy || e.Begun {
		t.Errorf("%+v", e)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	d.slots <- struct{}{} // once that one is written
	<-d.slots
	if err := c.Call(t.Context(), p, "ask", nil, nil); err != nil {
		t.Error(err)
	}
}

// TestInFlight: no more than the limit are answered at once, and none is lost.
func TestInFlight(t *testing.T) {
	ring := Fixed(keys(t, 1))
	var mu sync.Mutex
	var now, most int
	full := make(chan struct{})
	p, _ := start(t, &Server{Ring: ring, Node: "b", Handlers: map[string]Handler{
		"ask": func(ctx context.Context, _ string, _ json.RawMessage) (any, error) {
			mu.Lock()
			if now++; now > most {
				if most = now; most == maxRequests {
					close(full)
				}
			}
			mu.Unlock()
			<-full
			mu.Lock()
			now--
			mu.Unlock()
			return nil, nil
		},
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range maxRequests / connsPerPeer * 2 {
		c := newClient(t, ring, fmt.Sprintf("node-%d", i))
		for range connsPerPeer {
			wg.Go(func() {
				if err := c.Call(ctx, p, "ask", nil, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if most != maxRequests {
		t.Errorf("%d in flight, want %d", most, maxRequests)
	}
}

// TestCallerLeaves: the handler hears of it.
func TestCallerLeaves(t *testing.T) {
	ring := Fixed(keys(t, 1))
	held, ended := make(chan struct{}), make(chan error)
	p, _ := start(t, &Server{Ring: ring, Node: "b", Handlers: map[string]Handler{
		"hold": func(ctx context.Context, _ string, _ json.RawMessage) (any, error) {
			close(held)
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		},
	}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() { done <- newClient(t, ring, "a").Call(ctx, p, "hold", nil, nil) }()
	<-held
	cancel()
	want(t, <-done, Unreachable, p, "given up")
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the handler was not told")
	}
}

// TestServeEnds: within two seconds, whoever is there.
func TestServeEnds(t *testing.T) {
	ring := Fixed(keys(t, 1))
	stubborn := make(chan struct{})
	defer close(stubborn)
	for _, tt := range []struct {
		name  string
		quick bool // all is over at once
		hold  func(ctx context.Context)
	}{
		{"nobody asks", true, nil},
		{"a handler that minds", true, func(ctx context.Context) { <-ctx.Done() }},
		{"a handler that does not", false, func(context.Context) { <-stubborn }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := listen(t)
			held := make(chan struct{}, 1)
			s := &Server{Ring: ring, Node: "b", Handlers: map[string]Handler{
				"ask": echo,
				"hold": func(ctx context.Context, _ string, _ json.RawMessage) (any, error) {
					held <- struct{}{}
					tt.hold(ctx)
					return nil, ctx.Err()
				},
			}}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- s.Serve(ctx, l) }()
			p, c := Peer{"b", l.Addr().String()}, newClient(t, ring, "a")
			if err := c.Call(t.Context(), p, "ask", nil, nil); err != nil {
				t.Fatal(err)
			}
			silent, err := net.Dial("tcp", p.Address)
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			c.Close() // the next connection comes after that one
			if err := c.Call(t.Context(), p, "ask", nil, nil); err != nil {
				t.Fatal(err)
			}
			answered := make(chan error, 1)
			if tt.hold != nil {
				go func() { answered <- c.Call(t.Context(), p, "hold", nil, nil) }()
				<-held
			}
			start := time.Now()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if d := time.Since(start); d > 2*time.Second || tt.quick && d > stopTime/2 {
				t.Errorf("took %s", d)
			}
			if tt.hold != nil && tt.quick {
				e := want(t, <-answered, Remote, p, "context canceled")
				if e.RemoteKind != Failed {
					t.Errorf("%+v", e)
				}
			} else if tt.hold != nil {
				want(t, <-answered, Unreachable, p, "hung up", "is not known")
			}
			want(t, c.Call(t.Context(), p, "ask", nil, nil), Unreachable, p, "connection refused")
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&Server{Ring: ring, Node: "b"}).Serve(ctx, listen(t)); err != nil {
		t.Errorf("when it has ended before: %v", err)
	}
}

// TestFlood: connections of which nothing comes keep nobody out.
func TestFlood(t *testing.T) {
	ring := Fixed(keys(t, 1))
	p, conns := start(t, &Server{Ring: ring, Node: "b", Handlers: map[string]Handler{"ask": echo}})
	var first net.Conn
	for range maxConns + 50 {
		c, err := net.Dial("tcp", p.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if first == nil {
			first = c
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := newClient(t, ring, "a").Call(ctx, p, "ask", nil, nil); err != nil {
		t.Error(err)
	}
	if n := conns.n.Load(); n != maxConns+51 {
		t.Errorf("%d connections came", n)
	}
	// Sooner than its time for a handshake is over.
	if err := first.SetReadDeadline(time.Now().Add(handshakeTime / 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest is still there: %v", err)
	}
}

// closer is a connection that is only closed.
type closer struct {
	net.Conn
	closed bool
}

// Close implements net.Conn.
func (c *closer) Close() error { c.closed = true; return nil }

// TestGate: who is dropped when one comes too many.
func TestGate(t *testing.T) {
	const limit = 3
	for _, tt := range []struct {
		name   string
		states [limit]http.ConnState // in the order in which they came to be so
		drops  int                   // limit is the newcomer
	}{
		{"all have requests", [limit]http.ConnState{http.StateActive, http.StateActive, http.StateActive}, limit},
		{"the oldest without a request", [limit]http.ConnState{http.StateActive, http.StateIdle, http.StateNew}, 1},
		{"new ones wait too", [limit]http.ConnState{http.StateNew, http.StateIdle, http.StateActive}, 0},
		{"one has closed", [limit]http.ConnState{http.StateNew, http.StateClosed, http.StateIdle}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGate(limit)
			var conns []*closer
			for _, state := range tt.states {
				c := new(closer)
				conns = append(conns, c)
				g.note(c, http.StateNew)
				g.note(c, http.StateActive)
				g.note(c, state)
			}
			last := new(closer)
			conns = append(conns, last)
			g.note(last, http.StateNew)
			for i, c := range conns {
				if c.closed != (i == tt.drops) {
					t.Errorf("connection %d closed: %v", i, c.closed)
				}
				g.note(c, http.StateIdle) // what the server may still say of it
				if _, in := g.waiting[c]; in == c.closed && (i == limit || tt.states[i] != http.StateClosed) {
					t.Errorf("connection %d counts: %v", i, in)
				}
			}
			g.dropAll()
			if len(g.waiting) > 0 {
				t.Errorf("left: %v", g.waiting)
			}
		})
	}
}
