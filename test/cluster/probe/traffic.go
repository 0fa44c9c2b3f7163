package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/test/cluster/node"
)

const (
	interval = 20 * time.Millisecond
	patience = 15 * time.Second // for answers that are late: machines are emulated
	roomy    = 16 << 20         // bytes of a socket's queue, so that a process that must wait loses nothing
)

func serveTCP(port int, text string) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	go func() {
		for {
			if conn, err := l.Accept(); err == nil {
				fmt.Fprint(conn, text)
				conn.Close()
			}
		}
	}()
	return nil
}

func serveUDP(port int) error {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	if err := conn.SetReadBuffer(roomy); err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1500)
		for {
			if n, from, err := conn.ReadFrom(b); err == nil {
				_, _ = conn.WriteTo(b[:n], from)
			}
		}
	}()
	return nil
}

// ask gives what a server of serveTCP answers.
func ask(to string) (any, error) {
	conn, err := net.DialTimeout("tcp", to, node.DialTimeout)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(conn)
	return strings.TrimSpace(string(b)), err
}

// flood is a stream of numbered datagrams, 50 a second, each of which is to come
// back from the port that echoes.
type flood struct {
	conn net.Conn
	stop chan struct{}
	done chan struct{}
	mu   sync.Mutex
	sent uint64
	seen map[uint64]bool
}

// floods are those that run, by where they go.
type floods struct {
	mu sync.Mutex
	to map[string]*flood
}

func (a *floods) start(to string) (any, error) {
	addr, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetReadBuffer(roomy); err != nil {
		return nil, err
	}
	f := &flood{conn: conn, stop: make(chan struct{}), done: make(chan struct{}), seen: map[uint64]bool{}}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.to[to] != nil {
		return nil, errors.Join(fmt.Errorf("to %s there is one already", to), conn.Close())
	}
	a.to[to] = f
	go f.send()
	go f.receive()
	return "started", nil
}

func (a *floods) end(to string) (any, error) {
	a.mu.Lock()
	f := a.to[to]
	delete(a.to, to)
	a.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("to %s there is none", to)
	}
	close(f.stop)
	<-f.done
	defer f.conn.Close()
	for end := time.Now().Add(patience); ; time.Sleep(interval) {
		f.mu.Lock()
		r := node.Flood{Sent: f.sent, Lost: f.sent - uint64(len(f.seen))}
		f.mu.Unlock()
		if r.Lost == 0 || time.Now().After(end) {
			return r, nil
		}
	}
}

func (f *flood) send() {
	defer close(f.done)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	b := make([]byte, 8)
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		f.mu.Lock()
		binary.BigEndian.PutUint64(b, f.sent)
		f.sent++
		f.mu.Unlock()
		_, _ = f.conn.Write(b) // one that cannot be sent is one that is lost
	}
}

func (f *flood) receive() {
	b := make([]byte, 1500)
	for {
		n, err := f.conn.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue
		}
		f.mu.Lock()
		f.seen[binary.BigEndian.Uint64(b)] = true
		f.mu.Unlock()
	}
}
