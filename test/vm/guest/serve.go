package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/homeport-cni/homeport/test/vm/stream"
)

// Ports of the guest's services, IPv4 and IPv6.
var tcpPorts = []int{22, 80, 5001} // banner line, then echo

const (
	udpEchoPort = 5002
	udpSinkPort = 5003 // counts numbered datagrams; see sink
)

// serve starts all services.
func serve(name string, s *sink) error {
	for _, port := range tcpPorts {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return fmt.Errorf("TCP port %d: %w", port, err)
		}
		go acceptLoop(l, fmt.Sprintf("homeport-guest %s %d\n", name, port))
	}
	streams, err := net.Listen("tcp", ":"+strconv.Itoa(stream.Port))
	if err != nil {
		return fmt.Errorf("TCP port %d: %w", stream.Port, err)
	}
	go streamLoop(streams)
	echo, err := net.ListenPacket("udp", ":"+strconv.Itoa(udpEchoPort))
	if err != nil {
		return fmt.Errorf("UDP port %d: %w", udpEchoPort, err)
	}
	go echoLoop(echo)
	in, err := net.ListenUDP("udp", &net.UDPAddr{Port: udpSinkPort})
	if err != nil {
		return fmt.Errorf("UDP port %d: %w", udpSinkPort, err)
	}
	_ = in.SetReadBuffer(64 << 20) // as far as rmem_max goes
	s.conn = in
	go s.loop(in)
	return nil
}

func acceptLoop(l net.Listener, banner string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.WriteString(c, banner); err == nil {
				_, _ = io.Copy(c, c)
			}
		}()
	}
}

func streamLoop(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _ = stream.Serve(c) }() // the other side tells how it went
	}
}

func echoLoop(p net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = p.WriteTo(buf[:n], from)
	}
}

// sink counts numbered datagrams, so that a test can say which are missing.
type sink struct {
	conn       *net.UDPConn
	mu         sync.Mutex
	seen       []uint64 // bitmap by number
	received   uint64
	duplicates uint64
	strange    uint64 // no number, or one too large
	last       uint64
}

// maxSequence bounds the bitmap to 4 MiB.
const maxSequence = 1 << 25

func (s *sink) loop(p *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, _, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		s.take(buf[:n])
	}
}

func (s *sink) take(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) < 8 {
		s.strange++
		return
	}
	n := binary.BigEndian.Uint64(p)
	if n >= maxSequence {
		s.strange++
		return
	}
	word, bit := n/64, uint64(1)<<(n%64)
	for uint64(len(s.seen)) <= word {
		s.seen = append(s.seen, 0)
	}
	if s.seen[word]&bit != 0 {
		s.duplicates++
		return
	}
	s.seen[word] |= bit
	s.received++
	s.last = max(s.last, n)
}

// sinkState is the answer to "sink". Missing counts numbers up to the highest
// one seen; the first of them are listed.
type sinkState struct {
	Received     uint64   `json:"received"`
	Highest      uint64   `json:"highest"`
	Missing      uint64   `json:"missing"`
	FirstMissing []uint64 `json:"firstMissing,omitempty"`
	Duplicates   uint64   `json:"duplicates"`
	Strange      uint64   `json:"strange"`
}

func (s *sink) state() sinkState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := sinkState{Received: s.received, Highest: s.last, Duplicates: s.duplicates, Strange: s.strange}
	if s.received == 0 {
		return st
	}
	st.Missing = s.last + 1 - s.received
	for n := uint64(0); n <= s.last && st.Missing > 0 && len(st.FirstMissing) < 10; n++ {
		if s.seen[n/64]&(1<<(n%64)) == 0 {
			st.FirstMissing = append(st.FirstMissing, n)
		}
	}
	return st
}

func (s *sink) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.received, s.duplicates, s.strange, s.last = nil, 0, 0, 0, 0
}
