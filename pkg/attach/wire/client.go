package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// Client asks the agent. It serves one goroutine.
type Client struct {
	conn   net.Conn
	socket string
	// broken is why the connection cannot carry another request: an answer
	// that came late would be taken for the next one's.
	broken error
}

// dialRetry is how long Dial waits when the agent's backlog is full, which the
// kernel reports at once instead of waiting (connect(2), EAGAIN).
const dialRetry = 5 * time.Millisecond

// Dial connects to the agent's socket; ctx bounds it. Errors are *attach.Error
// of kind Unavailable. A socket that is missing, or on which nobody listens,
// fails at once.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", socket)
		if err == nil {
			return &Client{conn: conn, socket: socket}, nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, dialError(socket, err)
		}
		select {
		case <-ctx.Done():
			return nil, dialError(socket, errors.New("too many callers wait for it"))
		case <-time.After(dialRetry):
		}
	}
}

// Close hangs up. The agent undoes what it was doing for this caller.
func (c *Client) Close() error { return c.conn.Close() }

// Call asks verb with body (nil for none) and decodes the answer into out (nil
// to ignore it). ctx bounds the whole. Every error is an *attach.Error: the
// agent's own; Unavailable if it did not answer; TryAgain if it speaks another
// version of the protocol.
func (c *Client) Call(ctx context.Context, verb Verb, body, out any) error {
	if c.broken != nil {
		return c.unavailable(verb, c.broken)
	}
	req := Request{Version: Version, Verb: verb}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return &attach.Error{Kind: attach.Internal, Message: fmt.Sprintf("encode the request %s: %v", verb, err)}
		}
		req.Body = b
	}
	answer, err := c.roundTrip(ctx, req)
	if err != nil {
		c.broken = err
		return c.unavailable(verb, err)
	}
	if answer.Version < Version-1 || answer.Version > Version+1 {
		return &attach.Error{
			Kind:    attach.TryAgain,
			Field:   "version",
			Message: fmt.Sprintf("the agent at %s speaks protocol version %d, this binary version %d", c.socket, answer.Version, Version),
			Remedy:  "install plugin, homeportctl and agent of one release (bridge-agent install)",
		}
	}
	if answer.Error != nil {
		return answer.Error
	}
	if out == nil || len(answer.Body) == 0 {
		return nil
	}
	if err := json.Unmarshal(answer.Body, out); err != nil {
		return &attach.Error{
			Kind:    attach.Internal,
			Message: fmt.Sprintf("the agent's answer to %s is not understood: %v", verb, err),
			Remedy:  "install plugin, homeportctl and agent of one release (bridge-agent install)",
		}
	}
	return nil
}

func (c *Client) roundTrip(ctx context.Context, req Request) (*Answer, error) {
	start := time.Now()
	deadline, _ := ctx.Deadline() // none is the zero time: no deadline
	if err := c.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() {
		// Wakes the reader up; the error it sees is replaced below.
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	answer := new(Answer)
	err := WriteMessage(c.conn, req)
	if err == nil {
		err = ReadMessage(c.conn, answer)
	}
	switch {
	case err == nil:
		return answer, nil
	case errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil:
		return nil, fmt.Errorf("no answer within %s", time.Since(start).Round(time.Millisecond))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return nil, errors.New("it hung up before it answered")
	}
	return nil, err
}

func (c *Client) unavailable(verb Verb, err error) *attach.Error {
	return &attach.Error{
		Kind:    attach.Unavailable,
		Message: fmt.Sprintf("the agent at %s did not do %s: %v", c.socket, verb, err),
		Remedy:  "see the log of this node's bridge-agent; the request may be tried again",
	}
}

func dialError(socket string, err error) *attach.Error {
	e := &attach.Error{
		Kind:   attach.Unavailable,
		Remedy: "see whether bridge-agent runs on this node, and its log",
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		e.Remedy = "run as root"
	}
	e.Message = fmt.Sprintf("the agent of this node cannot be asked at %s: %v", socket, err)
	return e
}
