package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// callTime bounds a Call whose ctx has no deadline.
	callTime = time.Minute
	dialTime = 5 * time.Second
	// connsPerPeer bounds the connections to one agent; more Calls wait.
	connsPerPeer     = 16
	idleConnsPerPeer = 2
	idleConns        = 256
	// continueTime is for ever: a body is sent when it is asked for, or never.
	continueTime = 24 * time.Hour
)

// Client asks the agents of other nodes, and keeps connections for the next time. It
// serves any number of goroutines.
type Client struct {
	me      *identity
	version string

	mu sync.Mutex
	// transport has the connections that were made under keys.
	transport *http.Transport
	keys      *keySet
}

// NewClient is for the agent of node me, whose release is version.
func NewClient(ring *Ring, me, version string) *Client {
	return &Client{me: &identity{ring: ring, node: me}, version: version}
}

// Close ends the connections that no Call uses, and lets the others end with theirs.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	c.transport, c.keys = nil, nil
}

// Call asks p for verb with in as JSON, of at most MaxRequest bytes, and decodes the
// answer into out, which may be nil. ctx bounds the whole; without a deadline it has
// a minute. Errors are *Error.
//
// A request is sent once, except that one which was not begun is tried again where
// the connection was an old one.
func (c *Client) Call(ctx context.Context, p Peer, verb string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return invalid(p, verb, fmt.Errorf("encode the request: %w", err))
	}
	if err := c.check(p, verb, len(body)); err != nil {
		return invalid(p, verb, err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTime)
		defer cancel()
	}
	a := &asking{Client: c, peer: p, verb: verb, start: time.Now()}
	for {
		answer, err := a.try(ctx, body)
		if err != nil && a.stale(ctx, err) {
			continue // it was one of the kept ones, and is no more
		}
		if err != nil {
			return err
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(answer, out); err != nil {
			return a.garbled(err)
		}
		return nil
	}
}

func (c *Client) check(p Peer, verb string, size int) error {
	if !isLabel(verb) {
		return fmt.Errorf("verb %q: want lower case letters, digits and inner dashes", verb)
	}
	if size > MaxRequest {
		return fmt.Errorf("the request of %d bytes is over the limit of %d", size, MaxRequest)
	}
	if err := p.check(); err != nil {
		return err
	}
	_, err := c.me.certificate()
	return err
}

func invalid(p Peer, verb string, err error) *Error {
	return &Error{Kind: Invalid, Peer: p, Verb: verb, Message: err.Error(), Remedy: "nobody was asked; mend the settings of this node's bridge-agent", Err: err}
}

// through gives the connections that were made under the keys that count now. Those
// under others end as soon as nobody uses them.
func (c *Client) through() *http.Transport {
	keys := c.me.ring.Keys().set
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil && c.keys == keys {
		return c.transport
	}
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	c.keys = keys
	c.transport = &http.Transport{
		DialTLSContext:         c.dial,
		DisableCompression:     true,
		MaxConnsPerHost:        connsPerPeer,
		MaxIdleConnsPerHost:    idleConnsPerPeer,
		MaxIdleConns:           idleConns,
		IdleConnTimeout:        clientIdleTime,
		ExpectContinueTimeout:  continueTime,
		MaxResponseHeaderBytes: maxHeaders,
	}
	return c.transport
}

// A connection is kept for a node and an address, for an address alone may become
// another node's. The transport keeps by host: host has both.
func host(p Peer) string { return hex.EncodeToString([]byte(p.Address)) + "." + p.Node }

func peerOfHost(addr string) (Peer, error) {
	name, _, err := net.SplitHostPort(addr)
	if err != nil {
		return Peer{}, fmt.Errorf("address %q: %w", addr, err)
	}
	address, node, _ := strings.Cut(name, ".")
	b, err := hex.DecodeString(address)
	return Peer{Node: node, Address: string(b)}, err
}

// dialed notes that the other side refused the connection after the handshake, as
// servers do with certificates (RFC 8446, 4.4.2.4): HTTP may see only that it broke.
type dialed struct {
	*tls.Conn
	refused atomic.Pointer[net.OpError]
}

// Read implements net.Conn.
func (d *dialed) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if alert := alertOf(err); alert != nil {
		d.refused.Store(alert)
	}
	return n, err
}

// alertOf is what the other side said by TLS when it ended the connection, or nil.
func alertOf(err error) *net.OpError {
	if op := new(net.OpError); errors.As(err, &op) && op.Op == "remote error" {
		return op
	}
	return nil
}

// dial connects and shakes hands. Errors are *Error.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p, err := peerOfHost(addr)
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, network, p.Address)
	if err != nil {
		return nil, dialError(p, err)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn := tls.Client(raw, c.me.clientTLS(p.Node))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, c.handshakeError(p, err)
	}
	return &dialed{Conn: conn}, nil
}

// asking is one Call.
type asking struct {
	*Client
	peer  Peer
	verb  string
	start time.Time

	// Of the last try:
	conn   *dialed // or nil
	reused bool
	begun  *atomic.Bool // the other agent asked for the body
}

// stale says whether the last try failed for a kept connection that had ended.
func (a *asking) stale(ctx context.Context, err error) bool {
	e := new(Error)
	return a.reused && !a.begun.Load() && ctx.Err() == nil && errors.As(err, &e) && e.Kind == Unreachable
}

// try asks once and gives the answer's body. Errors are *Error.
func (a *asking) try(ctx context.Context, body []byte) ([]byte, error) {
	// Not shared with the try before, whose connection may still be ending.
	begun := new(atomic.Bool)
	a.conn, a.reused, a.begun = nil, false, begun
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			a.conn, _ = i.Conn.(*dialed)
			a.reused = i.Reused
		},
		Got100Continue: func() { begun.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host(a.peer)+pathPrefix+a.verb, bytes.NewReader(body))
	if err != nil {
		return nil, invalid(a.peer, a.verb, err)
	}
	req.Host = a.peer.Node
	req.Header.Set("Expect", "100-continue")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "homeport")
	req.Header.Set(versionHeader, strconv.Itoa(Version))
	req.Header.Set(releaseHeader, headerText(a.version))
	resp, err := a.through().RoundTrip(req)
	if err != nil {
		return nil, a.broken(ctx, err)
	}
	defer resp.Body.Close()
	if n := resp.Header.Get(versionHeader); n != strconv.Itoa(Version) {
		return nil, a.otherVersion(n, resp.Header.Get(releaseHeader))
	}
	limit := int64(MaxAnswer)
	if resp.StatusCode != http.StatusOK {
		limit = maxRefusal
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, a.broken(ctx, err)
	}
	if int64(len(answer)) > limit {
		return nil, a.garbled(fmt.Errorf("it is over the limit of %d bytes", limit))
	}
	if resp.StatusCode != http.StatusOK {
		return nil, a.refused(resp.StatusCode, answer)
	}
	return answer, nil
}
