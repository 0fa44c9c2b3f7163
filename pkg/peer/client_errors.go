package peer

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

const (
	sameKeys  = "give both nodes the same fabric keys"
	seeRuns   = "see whether bridge-agent runs on that node, and its log"
	atAddress = "see whether this is the address of that node's bridge-agent"
)

func (a *asking) error(kind Kind, err error, remedy, format string, args ...any) *Error {
	return &Error{
		Kind: kind, Peer: a.peer, Verb: a.verb, Begun: a.begun.Load(), Err: err,
		Message: fmt.Sprintf(format, args...), Remedy: remedy,
	}
}

// broken is the error of a request without an answer.
func (a *asking) broken(ctx context.Context, err error) *Error {
	notKnown := "whether it did what was asked is not known; " + seeRuns
	if !a.begun.Load() {
		notKnown = "nothing was begun; " + seeRuns
	}
	took := time.Since(a.start).Round(time.Millisecond)
	if cause := ctx.Err(); errors.Is(cause, context.DeadlineExceeded) {
		return a.error(Unreachable, cause, notKnown, "no answer within %s", took)
	} else if cause != nil {
		return a.error(Unreachable, cause, notKnown, "given up after %s", took)
	}
	if e := new(Error); errors.As(err, &e) { // of dial
		said := *e
		said.Verb = a.verb
		return &said
	}
	alert := alertOf(err)
	if alert == nil && a.conn != nil {
		alert = a.conn.refused.Load()
	}
	switch {
	case alert != nil:
		return a.error(Untrusted, err, a.mendKeys(), "it refused this node's certificate (%v)", alert.Err)
	case hungUp(err):
		return a.error(Unreachable, err, notKnown, "it hung up before it answered")
	}
	return a.error(Unreachable, err, notKnown, "%v", err)
}

// mendKeys is the remedy where the other side does not have this node's key.
func (c *Client) mendKeys() string {
	return fmt.Sprintf("it may lack a fabric key: this node has %s, and signs with the first; %s", c.me.ring.Keys(), sameKeys)
}

func (a *asking) otherVersion(number, release string) *Error {
	return a.error(OtherVersion, nil, oneRelease, "%s",
		versionMessage("it", number, release, "this node's agent", fmt.Sprint(Version), a.version))
}

func (a *asking) garbled(err error) *Error {
	return a.error(Garbled, err, oneRelease, "its answer is not understood: %v", err)
}

// refused is the error that the other agent gave.
func (a *asking) refused(status int, answer []byte) *Error {
	var r refusal
	if err := json.Unmarshal(answer, &r); err != nil || r.Error == "" {
		return a.garbled(fmt.Errorf("HTTP status %d without a reason", status))
	}
	if status == http.StatusForbidden {
		return a.error(Untrusted, nil, a.mendKeys(), "%s", r.Error)
	}
	remedy := "see the log of bridge-agent on that node"
	switch r.Kind {
	case Busy:
		remedy = "try again later"
	case UnknownVerb, Malformed:
		remedy = oneRelease
	}
	e := a.error(Remote, nil, remedy, "%s", r.Error)
	e.RemoteKind = r.Kind
	return e
}

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// dialError is the error of a connection that was not made.
func dialError(p Peer, err error) *Error {
	e := &Error{Kind: Unreachable, Peer: p, Err: err,
		Remedy: fmt.Sprintf("see whether that node is up, and whether firewalls let TCP port %s through", p.port())}
	cause := err
	if op := new(net.OpError); errors.As(err, &op) {
		cause = op.Err
	}
	if call := new(os.SyscallError); errors.As(cause, &call) {
		cause = call.Err
	}
	e.Message = cause.Error()
	var timeout net.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		e.Remedy = "mend the name service, or give an IP address"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Remedy = seeRuns
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Message = fmt.Sprintf("no connection within %s", dialTime)
	}
	return e
}

// handshakeError is the error of a connection on which the two did not agree.
func (c *Client) handshakeError(p Peer, err error) *Error {
	e := &Error{Kind: Untrusted, Peer: p, Err: err, Message: fmt.Sprintf("what answers is no agent of this fabric: %v", err), Remedy: atAddress}
	var trust *trustError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &trust) && trust.known:
		e.Message = fmt.Sprintf("the agent of node %s answered", trust.node)
		e.Remedy = fmt.Sprintf("correct the address of node %s", p.Node)
	case errors.As(err, &trust) && trust.key != "":
		e.Message = fmt.Sprintf("the agent that answered says to be that of node %s, under fabric key %s; this node has %s", trust.node, trust.key, c.me.ring.Keys())
		e.Remedy = sameKeys
	case errors.As(err, &record):
		e.Message = "what answers speaks no TLS"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		e.Kind, e.Remedy = Unreachable, seeRuns
		e.Message = fmt.Sprintf("it took the connection but did not finish the handshake within %s", handshakeTime)
	case errors.Is(err, context.Canceled):
		e.Kind, e.Message = Unreachable, "given up during the handshake"
	case hungUp(err):
		e.Kind, e.Remedy = Unreachable, "it may have too many connections, or be ending; "+seeRuns
		e.Message = "it hung up during the handshake"
	}
	return e
}
