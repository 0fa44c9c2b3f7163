package peer

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// gate caps a server's connections. One too many takes the place of the one that is
// longest without a request, if there is any: so neither those that ask nothing nor
// those that cannot prove who they are keep others out.
type gate struct {
	max int

	mu sync.Mutex
	// waiting has since when a connection is without a request; the zero time is
	// with one.
	waiting map[net.Conn]time.Time
}

func newGate(limit int) *gate { return &gate{max: limit, waiting: make(map[net.Conn]time.Time)} }

// note is http.Server's ConnState.
func (g *gate) note(c net.Conn, state http.ConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch state {
	case http.StateNew:
		g.waiting[c] = time.Now()
		if len(g.waiting) > g.max {
			g.drop(g.longest(c))
		}
	case http.StateClosed, http.StateHijacked:
		delete(g.waiting, c)
	default:
		if _, ok := g.waiting[c]; !ok {
			return // dropped
		}
		g.waiting[c] = time.Time{}
		if state == http.StateIdle {
			g.waiting[c] = time.Now()
		}
	}
}

// longest waits of all, or is the newcomer if all others have requests.
func (g *gate) longest(newcomer net.Conn) net.Conn {
	found := newcomer
	for c, since := range g.waiting {
		if !since.IsZero() && since.Before(g.waiting[found]) {
			found = c
		}
	}
	return found
}

// drop hangs up without the goodbye of TLS, for which it might have to wait.
func (g *gate) drop(c net.Conn) {
	delete(g.waiting, c)
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.Close()
}

// dropAll hangs up on everybody.
func (g *gate) dropAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.waiting {
		g.drop(c)
	}
}
