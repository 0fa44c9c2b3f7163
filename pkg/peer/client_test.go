package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestCallInvalid(t *testing.T) {
	ring := Fixed(keys(t, 1))
	good := Peer{"b", "127.0.0.1:1"}
	for _, tt := range []struct {
		name   string
		client *Client
		peer   Peer
		verb   string
		in     any
		want   string
	}{
		{"no node", newClient(t, ring, "a"), Peer{"", good.Address}, "ports", nil, "no node name"},
		{"bad node", newClient(t, ring, "a"), Peer{"B", good.Address}, "ports", nil, `node name "B"`},
		{"no address", newClient(t, ring, "a"), Peer{"b", ""}, "ports", nil, `address "": want host:port`},
		{"no port", newClient(t, ring, "a"), Peer{"b", "10.0.0.1"}, "ports", nil, "want host:port"},
		{"port 0", newClient(t, ring, "a"), Peer{"b", "10.0.0.1:0"}, "ports", nil, "want a host and a port"},
		{"big port", newClient(t, ring, "a"), Peer{"b", "10.0.0.1:65536"}, "ports", nil, "want a host and a port"},
		{"no host", newClient(t, ring, "a"), Peer{"b", ":80"}, "ports", nil, "want a host and a port"},
		{"verb with a slash", newClient(t, ring, "a"), good, "a/b", nil, `verb "a/b"`},
		{"verb with a query", newClient(t, ring, "a"), good, "a?b", nil, `verb "a?b"`},
		{"no JSON", newClient(t, ring, "a"), good, "ports", func() {}, "encode the request"},
		{"huge", newClient(t, ring, "a"), good, "ports", strings.Repeat("a", MaxRequest-1), "the request of 4194305 bytes is over the limit of 4194304"},
		{"no keys", newClient(t, Fixed(Keys{}), "a"), good, "ports", nil, "this node has no fabric keys"},
		{"own name", newClient(t, ring, "a b"), good, "ports", nil, `this agent's own: node name "a b"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.client.Call(t.Context(), tt.peer, tt.verb, tt.in, nil)
			if e := want(t, err, Invalid, tt.peer, tt.want, "nobody was asked"); e.Begun {
				t.Error("begun")
			}
		})
	}
}

func TestCallUnreachable(t *testing.T) {
	ring := Fixed(keys(t, 1))
	closed := listen(t)
	closed.Close()
	// here hears that a case has come as far as it will.
	here := make(chan struct{}, 20)
	silent := accept(t, func(net.Conn) { here <- struct{}{} })
	hanging := script(t, ServerTLS(ring, "b"), func(_ int, _ *tls.Conn, r *bufio.Reader) {
		asked(r)
		here <- struct{}{}
		asked(r)
	})
	hangingLater := script(t, ServerTLS(ring, "b"), func(_ int, c *tls.Conn, r *bufio.Reader) {
		take(c, r)
		here <- struct{}{}
		asked(r)
	})
	closing := accept(t, func(c net.Conn) { c.Close() })
	for _, tt := range []struct {
		name, address string
		cancel        bool
		begun         bool
		want          []string
	}{
		{"nobody listens", closed.Addr().String(), false, false, []string{"connection refused; see whether bridge-agent runs on that node"}},
		{"no TLS in time", silent, false, false, []string{"no answer within", "nothing was begun; see whether bridge-agent runs"}},
		{"no TLS until cancelled", silent, true, false, []string{"given up after", "nothing was begun"}},
		{"hangs up in the handshake", closing, false, false, []string{"it hung up during the handshake; it may have too many connections"}},
		{"does not take the request", hanging, false, false, []string{"no answer within", "nothing was begun"}},
		{"does not answer", hangingLater, false, true, []string{"no answer within", "whether it did what was asked is not known"}},
		{"does not answer until cancelled", hangingLater, true, true, []string{"given up after", "not known"}},
		{"hangs up", script(t, ServerTLS(ring, "b"), func(_ int, _ *tls.Conn, r *bufio.Reader) { asked(r) }), false, false, []string{"it hung up before it answered; nothing was begun"}},
		{"hangs up later", script(t, ServerTLS(ring, "b"), func(_ int, c *tls.Conn, r *bufio.Reader) { take(c, r) }), false, true, []string{"it hung up before it answered; whether"}},
		{"hangs up in the answer", script(t, ServerTLS(ring, "b"), func(_ int, c *tls.Conn, r *bufio.Reader) {
			take(c, r)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nHomeport-Agents: 1\r\nContent-Length: 100\r\n\r\n{")
		}), false, true, []string{"it hung up before it answered; whether"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for len(here) > 0 {
				<-here
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			cause := context.DeadlineExceeded
			if tt.cancel {
				ctx, cancel = context.WithCancel(t.Context())
				cause = context.Canceled
				go func() { <-here; cancel() }()
			}
			defer cancel()
			p := Peer{"b", tt.address}
			start := time.Now()
			e := want(t, newClient(t, ring, "a").Call(ctx, p, "ports", 1, new(int)), Unreachable, p, tt.want...)
			if e.Begun != tt.begun {
				t.Errorf("begun: %v", e.Begun)
			}
			if ctx.Err() != nil && !errors.Is(e, cause) {
				t.Errorf("%v is not %v", e, cause)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

// TestDialError: what the kernel and the name service may say.
func TestDialError(t *testing.T) {
	op := func(errno syscall.Errno) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}
	}
	p := Peer{"b", "b.example:7443"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{op(syscall.ECONNREFUSED), "connection refused; see whether bridge-agent runs on that node"},
		{op(syscall.EHOSTUNREACH), "no route to host; see whether that node is up, and whether firewalls let TCP port 7443 through"},
		{op(syscall.ENETUNREACH), "network is unreachable; see whether that node is up"},
		{op(syscall.ETIMEDOUT), "no connection within 5s; see whether that node is up"},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, "no connection within 5s; see whether"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "b.example", IsNotFound: true}}, "lookup b.example: no such host; mend the name service"},
		{errors.New("odd"), "odd; see whether that node is up"},
	} {
		e := dialError(p, tt.err)
		e.Verb = "ports"
		want(t, e, Unreachable, p, ": "+tt.want)
		if !errors.Is(e, tt.err) {
			t.Errorf("%v has lost its cause", e)
		}
	}
}

func TestCallUntrusted(t *testing.T) {
	one := keys(t, 1).String()
	two := keys(t, 2).String()
	plain := listen(t)
	web := &http.Server{Handler: http.NotFoundHandler()}
	go web.Serve(plain)
	serve := func(ring *Ring, node string) string {
		p, _ := start(t, &Server{Ring: ring, Node: node, Handlers: map[string]Handler{"ports": echo}})
		return p.Address
	}
	foreign := forged(t, keys(t, 3).set.keys[0], uriless)
	stranger := script(t, &tls.Config{Certificates: []tls.Certificate{*foreign}}, func(_ int, _ *tls.Conn, r *bufio.Reader) { asked(r) })
	for _, tt := range []struct {
		name, address string
		keys          Keys
		want          []string
	}{
		{"another node", serve(Fixed(keys(t, 1)), "c"), keys(t, 1), []string{"the agent of node c answered; correct the address of node b"}},
		{"other key", serve(Fixed(keys(t, 2)), "b"), keys(t, 1),
			[]string{"the agent that answered says to be that of node b, under fabric key " + two + "; this node has " + one + "; give both nodes the same fabric keys"}},
		{"other key, another node", serve(Fixed(keys(t, 2)), "c"), keys(t, 1), []string{"says to be that of node c, under fabric key " + two}},
		{"it lacks the key", serve(Fixed(keys(t, 2)), "b"), keys(t, 1, 2),
			[]string{"it refused this node's certificate (tls: bad certificate)", "this node has " + one + ", " + two + ", and signs with the first; give both"}},
		{"it has no keys", serve(Fixed(Keys{}), "b"), keys(t, 1), []string{"no agent of this fabric: remote error: tls: internal error"}},
		{"no TLS", plain.Addr().String(), keys(t, 1), []string{"what answers speaks no TLS; see whether this is the address"}},
		{"stranger", stranger, keys(t, 1), []string{"what answers is no agent of this fabric: no agent's certificate: it names no node; see whether this is the address"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Peer{"b", tt.address}
			e := want(t, newClient(t, Fixed(tt.keys), "a").Call(t.Context(), p, "ports", nil, nil), Untrusted, p, tt.want...)
			if e.Begun {
				t.Error("begun")
			}
		})
	}
}

// TestCallRefusedSurely: the refusal of a certificate comes after the handshake, as
// the request goes out. It must not look like a connection that broke.
func TestCallRefusedSurely(t *testing.T) {
	p, _ := start(t, &Server{Ring: Fixed(keys(t, 2)), Node: "b", Handlers: map[string]Handler{"ports": echo}})
	body := strings.Repeat("a", 1<<18)
	var wg sync.WaitGroup
	for range 4 {
		c := newClient(t, Fixed(keys(t, 1, 2)), "a")
		wg.Go(func() {
			for range 25 {
				err := c.Call(t.Context(), p, "ports", body, nil)
				var e *Error
				if !errors.As(err, &e) || e.Kind != Untrusted || e.Begun {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// TestAlertIsKept: where the refusal comes before the request is written, HTTP tells
// of a closed connection only.
func TestAlertIsKept(t *testing.T) {
	p := Peer{"b", script(t, ServerTLS(Fixed(keys(t, 2)), "b"), func(int, *tls.Conn, *bufio.Reader) {})}
	c := newClient(t, Fixed(keys(t, 1, 2)), "a")
	conn, err := c.dial(t.Context(), "tcp", host(p)+":443")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the certificate was taken")
	}
	a := &asking{Client: c, peer: p, verb: "ports", conn: conn.(*dialed), begun: new(atomic.Bool)}
	want(t, a.broken(t.Context(), net.ErrClosed), Untrusted, p, "it refused this node's certificate (tls: bad certificate)")
}

func TestCallGarbled(t *testing.T) {
	ring := Fixed(keys(t, 1))
	for _, tt := range []struct {
		name, answer string
		kind         Kind
		want         string
	}{
		{"no JSON", "HTTP/1.1 200 OK\r\nHomeport-Agents: 1\r\nContent-Length: 1\r\n\r\n{", Garbled, "its answer is not understood: unexpected end of JSON input; install one release"},
		{"other JSON", "HTTP/1.1 200 OK\r\nHomeport-Agents: 1\r\nContent-Length: 2\r\n\r\n[]", Garbled, "cannot unmarshal array"},
		{"empty", "HTTP/1.1 200 OK\r\nHomeport-Agents: 1\r\nContent-Length: 0\r\n\r\n", Garbled, "unexpected end of JSON input"},
		{"no reason", "HTTP/1.1 500 No\r\nHomeport-Agents: 1\r\nContent-Length: 2\r\n\r\nno", Garbled, "HTTP status 500 without a reason"},
		{"empty reason", "HTTP/1.1 500 No\r\nHomeport-Agents: 1\r\nContent-Length: 2\r\n\r\n{}", Garbled, "HTTP status 500 without a reason"},
		{"long reason", "HTTP/1.1 500 No\r\nHomeport-Agents: 1\r\n\r\n" + strings.Repeat("a", maxRefusal+1), Garbled, "over the limit of 65536 bytes"},
		{"elsewhere", "HTTP/1.1 307 No\r\nHomeport-Agents: 1\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", Garbled, "HTTP status 307 without a reason"},
		{"no HTTP", "hello\r\n\r\n", Unreachable, "malformed HTTP"},
		{"endless head", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 1<<20), Unreachable, "headers exceeded"},
		{"other version", "HTTP/1.1 200 OK\r\nHomeport-Agents: 2\r\nHomeport-Release: v9.0\r\nContent-Length: 1\r\n\r\n1", OtherVersion,
			"it speaks protocol 2 (release v9.0), this node's agent protocol 1 (release v1.2.3); install one release on both"},
		{"other version's refusal", "HTTP/1.1 400 No\r\nHomeport-Agents: 0\r\nContent-Length: 1\r\n\r\n1", OtherVersion, "it speaks protocol 0 (release unknown)"},
		{"no version", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", OtherVersion, "it speaks protocol without a number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Peer{"b", script(t, ServerTLS(ring, "b"), func(_ int, c *tls.Conn, r *bufio.Reader) {
				take(c, r)
				_, _ = io.WriteString(c, tt.answer)
			})}
			want(t, newClient(t, ring, "a").Call(t.Context(), p, "ports", nil, new(int)), tt.kind, p, tt.want)
		})
	}
}

// TestCallHugeAnswer: the limit is kept by the client, whatever the length is said to be.
func TestCallHugeAnswer(t *testing.T) {
	ring := Fixed(keys(t, 1))
	p := Peer{"b", script(t, ServerTLS(ring, "b"), func(_ int, c *tls.Conn, r *bufio.Reader) {
		take(c, r)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nHomeport-Agents: 1\r\n\r\n")
		for part := make([]byte, 1<<20); ; {
			if _, err := c.Write(part); err != nil {
				return
			}
		}
	})}
	want(t, newClient(t, ring, "a").Call(t.Context(), p, "ports", nil, new(int)), Garbled, p, "over the limit of 67108864 bytes")
}

// serveOnce answers n requests on a connection.
func serveOnce(c io.Writer, r *bufio.Reader, n int) {
	for range n {
		if !take(c, r) {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nHomeport-Agents: 1\r\nContent-Length: 1\r\n\r\n1")
	}
}

// TestCallStale: a kept connection may have ended when it is used, and then the
// request goes over another. One that was begun does not.
func TestCallStale(t *testing.T) {
	ring := Fixed(keys(t, 1))
	for _, begun := range []bool{false, true} {
		t.Run(fmt.Sprintf("begun %v", begun), func(t *testing.T) {
			var conns atomic.Int64
			p := Peer{"b", script(t, ServerTLS(ring, "b"), func(n int, c *tls.Conn, r *bufio.Reader) {
				conns.Add(1)
				serveOnce(c, r, 1)
				if n > 0 {
					return
				}
				if begun {
					take(c, r)
				} else {
					asked(r)
				}
			})}
			client := newClient(t, ring, "a")
			if err := client.Call(t.Context(), p, "ports", nil, nil); err != nil {
				t.Fatal(err)
			}
			err := client.Call(t.Context(), p, "ports", nil, nil)
			if !begun {
				if err != nil || conns.Load() != 2 {
					t.Errorf("%v, over %d connections", err, conns.Load())
				}
				return
			}
			if e := want(t, err, Unreachable, p, "is not known"); !e.Begun || conns.Load() != 1 {
				t.Errorf("%v, over %d connections", e, conns.Load())
			}
		})
	}
}

func TestCall(t *testing.T) {
	ring := Fixed(keys(t, 1))
	type body struct{ A, B string }
	p, conns := start(t, &Server{Ring: ring, Node: "b", Version: "v1", Handlers: map[string]Handler{
		"who": func(_ context.Context, from string, in json.RawMessage) (any, error) {
			return body{from, string(in)}, nil
		},
		"echo":  echo,
		"empty": func(context.Context, string, json.RawMessage) (any, error) { return nil, nil },
	}})
	c := newClient(t, ring, "node-a.example")
	var got body
	if err := c.Call(t.Context(), p, "who", nil, &got); err != nil || got != (body{"node-a.example", "null"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := c.Call(t.Context(), p, "echo", body{"x", "ü\n"}, &got); err != nil || got != (body{"x", "ü\n"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := c.Call(t.Context(), p, "empty", 1, &got); err != nil {
		t.Error(err)
	}
	if err := c.Call(t.Context(), p, "echo", 1, nil); err != nil {
		t.Error(err)
	}
	most := strings.Repeat("a", MaxRequest-2)
	var back string
	if err := c.Call(t.Context(), p, "echo", most, &back); err != nil || back != most {
		t.Errorf("%d bytes, %v", len(back), err)
	}
	if n := conns.n.Load(); n != 1 {
		t.Errorf("%d connections for one caller", n)
	}
	c.Close()
	if err := c.Call(t.Context(), p, "echo", 1, nil); err != nil || conns.n.Load() != 2 {
		t.Errorf("after Close: %v, %d connections", err, conns.n.Load())
	}
	if err := NewClient(ring, "a", "odd\r\nversion ü").Call(t.Context(), p, "echo", 1, nil); err != nil {
		t.Error(err)
	}
}

// TestCallElsewhere: an address becomes another node's, and the connection that is kept
// is the old one's.
func TestCallElsewhere(t *testing.T) {
	ring := Fixed(keys(t, 1))
	p, _ := start(t, &Server{Ring: ring, Node: "b", Handlers: map[string]Handler{"ports": echo}})
	c := newClient(t, ring, "a")
	if err := c.Call(t.Context(), p, "ports", nil, nil); err != nil {
		t.Fatal(err)
	}
	other := Peer{"c", p.Address}
	want(t, c.Call(t.Context(), other, "ports", nil, nil), Untrusted, other, "the agent of node b answered; correct the address of node c")
	if err := c.Call(t.Context(), p, "ports", nil, nil); err != nil {
		t.Error(err)
	}
}

// TestKeysTurn: a client connects anew when its keys change, and a server refuses on
// old connections what is under a key that it has no more.
func TestKeysTurn(t *testing.T) {
	mine, its := Fixed(keys(t, 1, 2)), Fixed(keys(t, 1, 2))
	p, conns := start(t, &Server{Ring: its, Node: "b", Handlers: map[string]Handler{"ports": echo}})
	c := newClient(t, mine, "a")
	call := func() error { return c.Call(t.Context(), p, "ports", nil, nil) }
	count := func(want int64) {
		t.Helper()
		if n := conns.n.Load(); n != want {
			t.Errorf("%d connections, want %d", n, want)
		}
	}
	for range 2 {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	count(1)
	mine.turn(keys(t, 1, 2)) // the same, read anew
	if err := call(); err != nil {
		t.Fatal(err)
	}
	count(2)
	its.turn(keys(t, 2))
	want(t, call(), Untrusted, p, "under fabric key "+keys(t, 1).String()+": not under the keys of this node")
	count(2)
	want(t, call(), Untrusted, p, "it refused this node's certificate") // over a new connection
	mine.turn(keys(t, 2, 1))
	for range 2 {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	count(4)
}

// TestMany: many callers, many nodes, keys that turn.
func TestMany(t *testing.T) {
	rings := []*Ring{Fixed(keys(t, 1, 2)), Fixed(keys(t, 1, 2)), Fixed(keys(t, 1, 2))}
	var peers []Peer
	var clients []*Client
	for i, ring := range rings {
		node := "node-" + strconv.Itoa(i)
		p, _ := start(t, &Server{Ring: ring, Node: node, Handlers: map[string]Handler{
			"who": func(_ context.Context, from string, in json.RawMessage) (any, error) {
				return from + " " + string(in), nil
			},
		}})
		peers, clients = append(peers, p), append(clients, newClient(t, ring, node))
	}
	var wg sync.WaitGroup
	for n := range 24 {
		wg.Go(func() {
			for i := range 10 {
				from, to := n%len(rings), (n+i)%len(rings)
				var got string
				err := clients[from].Call(t.Context(), peers[to], "who", n*100+i, &got)
				if want := fmt.Sprintf("node-%d %d", from, n*100+i); err != nil || got != want {
					t.Errorf("%q, %v; want %q", got, err, want)
				}
			}
		})
	}
	for i, ring := range rings {
		wg.Go(func() {
			for range 5 {
				ring.turn(keys(t, 2, 1))
				if err := clients[i].Call(t.Context(), peers[i], "who", 1, nil); err != nil {
					t.Error(err)
				}
				ring.turn(keys(t, 1, 2))
			}
		})
	}
	wg.Wait()
}
