package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// Handler answers one verb. A returned *attach.Error crosses the socket as it
// is; any other error becomes one of kind Internal. ctx ends when the client
// hangs up: whoever asked is gone and what was begun should be undone.
type Handler func(ctx context.Context, body json.RawMessage) (any, error)

// Server answers on the agent's socket.
type Server struct {
	Handlers map[Verb]Handler
	Log      *slog.Logger
	// AnswerTimeout is how long a client may take to read an answer before it
	// is hung up on; 0 is 5 s.
	AnswerTimeout time.Duration
}

// maxConns bounds the connections served at once; more wait in the backlog. A
// plugin asks before it makes anything, so in a burst of ADDs on a slow node those
// that wait have nothing to undo when their patience ends, and those that are
// served finish in time. The kernel does nearly all of an ADD under one lock.
func maxConns() int { return 8 + 4*runtime.NumCPU() }

// idleTimeout ends a connection on which nothing is asked.
const idleTimeout = 15 * time.Second

const (
	// answerTimeout is a Server's AnswerTimeout if it says none.
	answerTimeout = 5 * time.Second
	// lastAnswerTimeout bounds it once Serve is told to end, so that a client
	// that is stopped does not keep the agent from ending.
	lastAnswerTimeout = time.Second
)

// Listen makes the socket, for root only, replacing one that a dead agent left.
// A socket on which somebody answers is not taken.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s: another agent answers there; stop it first", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove a dead agent's socket: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on the agent's socket: %w", err)
	}
	return l, nil
}

// Serve answers until ctx ends, then waits for the requests under way. Clients
// have a second from then on to take their answers.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxConns())
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on the agent's socket: %w", err)
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { c.Close(); <-slots }()
			if err := s.serveConn(context.WithValue(ctx, placeKey{}, slots), c); err != nil {
				s.Log.Debug("connection ended", "err", err)
			}
		})
	}
}

// placeKey is of the places for connections, in a Handler's context.
type placeKey struct{}

// Rest runs f, which waits for what takes time and no work, while another connection has the place of the Handler's, so that those
// who wait keep nobody out.
func Rest(ctx context.Context, f func()) {
	if slots, ok := ctx.Value(placeKey{}).(chan struct{}); ok {
		<-slots
		defer func() { slots <- struct{}{} }()
	}
	f()
}

// serveConn reads requests in one goroutine, so that a hang-up is noticed
// while an answer is still being made.
func (s *Server) serveConn(ctx context.Context, c *net.UnixConn) error {
	if err := onlyRoot(c); err != nil {
		return err
	}
	serving := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Cuts short an answer that is being written when Serve is told to end.
	stop := context.AfterFunc(serving, func() { _ = c.SetWriteDeadline(time.Now().Add(lastAnswerTimeout)) })
	defer stop()
	requests := make(chan Request)
	go func() {
		for {
			var r Request
			if err := ReadMessage(c, &r); err != nil {
				cancel(fmt.Errorf("client: %w", err))
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	idle := time.NewTimer(idleTimeout)
	defer idle.Stop()
	for {
		select {
		case r := <-requests:
			if hungUp(c) {
				return errors.New("the client left before its request was begun")
			}
			if err := s.reply(serving, c, s.answer(ctx, r)); err != nil {
				return err
			}
			idle.Reset(idleTimeout)
		case <-idle.C:
			return errors.New("idle")
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), io.EOF) {
				return nil
			}
			return context.Cause(ctx)
		}
	}
}

// reply writes an answer to a client that may have stopped reading. When Serve
// is told to end meanwhile, the deadline is moved up (serveConn).
func (s *Server) reply(serving context.Context, c *net.UnixConn, a Answer) error {
	limit := s.AnswerTimeout
	if limit == 0 {
		limit = answerTimeout
	}
	if err := c.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if serving.Err() != nil { // the deadline above may have come after that one
		if err := c.SetWriteDeadline(time.Now().Add(lastAnswerTimeout)); err != nil {
			return err
		}
	}
	if err := WriteMessage(c, a); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// hungUp says whether the client has closed its end. What a client asked that
// has left in the meantime, as while the agent was held up, is stale: a DEL is
// done without the agent by then, and the key may have a new port.
func hungUp(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

func (s *Server) answer(ctx context.Context, r Request) Answer {
	a := Answer{Version: Version}
	h, ok := s.Handlers[r.Verb]
	if r.Version < Version-1 || r.Version > Version+1 {
		a.Error = &attach.Error{Kind: attach.TryAgain, Field: "version",
			Message: fmt.Sprintf("the agent speaks protocol %d, the caller %d", Version, r.Version),
			Remedy:  "install plugin, homeportctl and agent of one release (bridge-agent install)"}
		return a
	}
	if !ok {
		a.Error = &attach.Error{Kind: attach.InvalidConfig, Field: "verb",
			Message: fmt.Sprintf("the agent does not know %q", r.Verb),
			Remedy:  "install plugin, homeportctl and agent of one release"}
		return a
	}
	v, err := h(ctx, r.Body)
	if err == nil {
		a.Body, err = json.Marshal(v)
	}
	if err != nil && !errors.As(err, &a.Error) {
		a.Error = &attach.Error{Kind: attach.Internal, Message: err.Error()}
	}
	return a
}

// onlyRoot checks the peer's credentials (unix(7), SO_PEERCRED): the mode of
// the socket file alone would be lost by a careless chmod.
func onlyRoot(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("read the peer's credentials: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("refused: uid %d is neither root nor the agent's own", cred.Uid)
	}
	return nil
}
