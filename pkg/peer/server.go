package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const (
	maxConns    = 512
	maxRequests = 64 // in flight
	// admitTime is how long a request waits for others to end.
	admitTime = 5 * time.Second
	// readTime bounds the reading of a request, writeTime that of an answer.
	readTime  = 30 * time.Second
	writeTime = time.Minute
	// idleTime ends a connection on which nothing is asked. Clients give up earlier,
	// so as not to ask when it ends.
	idleTime       = 2 * time.Minute
	clientIdleTime = 45 * time.Second
	// stopTime is what those under way have once Serve is told to end.
	stopTime = 1500 * time.Millisecond
)

// Handler answers one verb. from is the node of the caller's agent, body the JSON it
// sent ("null" if it gave none); what is returned is sent as JSON, of at most
// MaxAnswer bytes. ctx ends when the caller hangs up and when Serve is told to end.
// An error crosses as its text, and with its kind if it is a *Refusal.
type Handler func(ctx context.Context, from string, body json.RawMessage) (any, error)

// Server answers the agents of other nodes. Set it before Serve and leave it then.
type Server struct {
	Ring *Ring
	// Node is the name of this node.
	Node string
	// Version is the release of this agent, for messages about agents that do not
	// understand each other.
	Version string
	// Log may be nil.
	Log *slog.Logger
	// Handlers by verb: lower case letters, digits and inner dashes.
	Handlers map[string]Handler
}

// Serve answers on l until ctx ends; within 2 s of that it hangs up on everybody,
// closes l and returns nil. A handler that does not mind its ctx is left behind.
// Other errors are of the settings or of l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.check(); err != nil {
		l.Close()
		return fmt.Errorf("answer the agents of other nodes: %w", err)
	}
	g := newGate(maxConns)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	srv := &http.Server{
		Handler:                      &desk{Server: s, slots: make(chan struct{}, maxRequests), admit: admitTime},
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnState:                    g.note,
		Protocols:                    protocols,
		ReadHeaderTimeout:            handshakeTime,
		ReadTimeout:                  readTime,
		IdleTimeout:                  idleTime,
		MaxHeaderBytes:               maxHeaders,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log().Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		s.shutdown(srv, g)
	})
	err := srv.Serve(tls.NewListener(l, ServerTLS(s.Ring, s.Node)))
	if !stop() {
		<-ended
		return nil
	}
	_ = srv.Close()
	return fmt.Errorf("accept from the agents of other nodes on %s: %w", l.Addr(), err)
}

// shutdown lets requests end for stopTime, and then cuts them off.
func (s *Server) shutdown(srv *http.Server, g *gate) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	// Closing says goodbye, and waits for who does not listen.
	stop := context.AfterFunc(ctx, g.dropAll)
	defer stop()
	if err := srv.Shutdown(ctx); err != nil {
		s.log().Warn("requests of other nodes' agents did not end in time and are cut off", "err", err)
		g.dropAll()
		_ = srv.Close() // those that came meanwhile
	}
}

func (s *Server) check() error {
	if s.Ring == nil {
		return errors.New("no ring of fabric keys")
	}
	for verb := range s.Handlers {
		if !isLabel(verb) {
			return fmt.Errorf("verb %q: want lower case letters, digits and inner dashes", verb)
		}
	}
	return checkNode(s.Node)
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// desk takes the requests of one Serve.
type desk struct {
	*Server
	slots chan struct{} // one for each request in flight
	admit time.Duration
}

// refusal is an answer that says why there is none.
type refusal struct {
	Error string `json:"error"`
	Kind  string `json:"kind"`

	status int // of HTTP
}

func refuse(status int, kind, format string, args ...any) *refusal {
	return &refusal{Error: fmt.Sprintf(format, args...), Kind: kind, status: status}
}

// ServeHTTP answers one request.
func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	// Both fail only on connections that are closed.
	_ = control.SetWriteDeadline(time.Now().Add(admitTime + readTime + writeTime))
	var answer []byte
	from, handler, no := d.judge(r)
	if no == nil {
		if d.enter(r.Context()) {
			defer func() { <-d.slots }() // when the answer is written
			answer, no = d.run(w, r, from, handler)
		} else {
			no = refuse(http.StatusServiceUnavailable, Busy, "%d requests are in flight", cap(d.slots))
		}
	}
	status := http.StatusOK
	if no != nil {
		d.log().Debug("a request was refused", "from", from, "path", r.URL.Path, "kind", no.Kind, "err", no.Error)
		status = no.status
		answer, _ = json.Marshal(no) // two strings can always be encoded
	}
	_ = control.SetWriteDeadline(time.Now().Add(writeTime))
	h := w.Header()
	h.Set(versionHeader, strconv.Itoa(Version))
	h.Set(releaseHeader, headerText(d.Version))
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(answer)))
	if status == http.StatusForbidden {
		h.Set("Connection", "close")
	}
	w.WriteHeader(status)
	if _, err := w.Write(answer); err != nil {
		d.log().Debug("an answer was not taken", "to", from, "path", r.URL.Path, "err", err)
	}
}

// judge says who asks, and who is to answer.
func (d *desk) judge(r *http.Request) (from string, h Handler, no *refusal) {
	// Keys may have gone since the handshake.
	from, err := d.Ring.Keys().peer(*r.TLS, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return "", nil, refuse(http.StatusForbidden, string(Untrusted), "%v", err)
	}
	if n := r.Header.Get(versionHeader); n != strconv.Itoa(Version) {
		return from, nil, refuse(http.StatusBadRequest, string(OtherVersion), "%s; %s",
			versionMessage("the agent that is asked", strconv.Itoa(Version), d.Version, "the one that asks", n, r.Header.Get(releaseHeader)), oneRelease)
	}
	if verb, ok := strings.CutPrefix(r.URL.Path, pathPrefix); ok && r.Method == http.MethodPost {
		h = d.Handlers[verb]
	}
	if h == nil {
		return from, nil, refuse(http.StatusNotFound, UnknownVerb, "this agent has no %s %s", r.Method, r.URL.Path)
	}
	if r.ContentLength > MaxRequest {
		return from, nil, refuse(http.StatusRequestEntityTooLarge, TooLarge, "a request of %d bytes is over the limit of %d", r.ContentLength, MaxRequest)
	}
	return from, h, nil
}

// run reads the request and gives the answer as JSON.
func (d *desk) run(w http.ResponseWriter, r *http.Request, from string, h Handler) ([]byte, *refusal) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return nil, refuse(http.StatusRequestEntityTooLarge, TooLarge, "the request is over the limit of %d bytes", MaxRequest)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, Malformed, "the request did not come whole: %v", err)
	}
	if !json.Valid(body) {
		return nil, refuse(http.StatusBadRequest, Malformed, "the request is no JSON")
	}
	answer, err := d.guard(r, from, h, body)
	if as := new(Refusal); errors.As(err, &as) {
		return nil, refuse(http.StatusUnprocessableEntity, as.Kind, "%v", err)
	}
	if err != nil {
		return nil, refuse(http.StatusInternalServerError, Failed, "%v", err)
	}
	return answer, nil
}

// guard asks the handler. What panics takes nothing with it.
func (d *desk) guard(r *http.Request, from string, h Handler, body []byte) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			d.log().Error("a request of another node's agent made the handler panic",
				"path", r.URL.Path, "from", from, "panic", p, "stack", string(debug.Stack()))
			err = &Refusal{Kind: Panicked, Message: "the handler panicked: the log of bridge-agent there has the stack"}
		}
	}()
	v, err := h(r.Context(), from, body)
	if err != nil {
		return nil, err
	}
	answer, err = json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	if len(answer) > MaxAnswer {
		return nil, &Refusal{Kind: TooLarge, Message: fmt.Sprintf("the answer of %d bytes is over the limit of %d", len(answer), MaxAnswer)}
	}
	return answer, nil
}

// enter waits for a slot, for some time.
func (d *desk) enter(ctx context.Context) bool {
	select {
	case d.slots <- struct{}{}:
		return true
	default:
	}
	patience := time.NewTimer(d.admit)
	defer patience.Stop()
	select {
	case d.slots <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-patience.C:
	}
	return false
}

const oneRelease = "install one release on both"

// versionMessage names two agents' numbers and releases.
func versionMessage(who, number, release, other, otherNumber, otherRelease string) string {
	say := func(number, release string) string {
		if number == "" {
			number = "without a number"
		}
		if release == "" {
			release = "unknown"
		}
		return fmt.Sprintf("protocol %s (release %s)", number, release)
	}
	return fmt.Sprintf("%s speaks %s, %s %s", who, say(number, release), other, say(otherNumber, otherRelease))
}

// headerText is what of a release can stand in a header.
func headerText(release string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, release)
}
