package netns

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Pings asks an address again and again, whatever comes back, and remembers when each
// answer came: how many are missing, and how long it was dark.
type Pings struct {
	conn  net.Conn
	v6    bool
	udp   bool
	id    uint16
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
	every time.Duration
	// allowed is how many may be missing at the next check of a script.
	allowed int

	mu      sync.Mutex
	sent    []time.Time // by number
	got     []time.Time // zero is no answer yet
	arrived []time.Time // of answers, as they came
	// cut is the first number of the next Check, which looks at what arrived after since.
	cut   int
	since time.Time
}

// PingsResult is what came of those sent since the last Check. An answer that came
// late is an answer; the darkness is told by when they came.
type PingsResult struct {
	Sent, Lost int
	FirstLost  []int // numbers
	// Dark is the longest time without any answer.
	Dark time.Duration
	// Slowest is the longest time to an answer.
	Slowest time.Duration
}

func (r PingsResult) String() string {
	s := fmt.Sprintf("%d sent, %d lost, %d ms dark, slowest answer %d ms", r.Sent, r.Lost, r.Dark.Milliseconds(), r.Slowest.Milliseconds())
	if r.Lost > 0 {
		s += fmt.Sprintf("; first lost %v", r.FirstLost)
	}
	return s
}

// lateAnswer is how long an answer may take until it counts as lost.
const lateAnswer = 3 * time.Second

// Ping begins to ask from the namespace, once in so much time: by ICMP or ICMPv6, or, with
// udp, the echo service there by datagrams that are all of one flow.
func (s *Space) Ping(addr netip.Addr, udp bool, every time.Duration) (*Pings, error) {
	network, to := "ip4:icmp", addr.String()
	switch {
	case udp:
		network, to = "udp", netip.AddrPortFrom(addr, echoUDP).String()
	case addr.Is6():
		network = "ip6:ipv6-icmp"
	}
	var c net.Conn
	err := s.Do(func() (err error) {
		c, err = net.Dial(network, to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: pings to %s: %w", s.Name, addr, err)
	}
	now := time.Now()
	p := &Pings{conn: c, v6: addr.Is6(), udp: udp, id: uint16(now.UnixNano()), every: every, since: now,
		stop: make(chan struct{}), done: make(chan struct{})}
	go p.listen()
	go p.ask()
	return p, nil
}

// request is an echo request with a number of 8 bytes (RFC 792, RFC 4443). The kernel
// fills in the checksum of ICMPv6.
func (p *Pings) request(n int) []byte {
	if p.udp {
		return binary.BigEndian.AppendUint64(nil, uint64(n))
	}
	b := make([]byte, 8+48)
	b[0] = 8
	if p.v6 {
		b[0] = 128
	}
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	if !p.v6 {
		binary.BigEndian.PutUint16(b[2:], internetChecksum(b))
	}
	return b
}

// number takes an answer apart; ok is false for what is none of ours.
func (p *Pings) number(b []byte) (n int, ok bool) {
	if p.udp {
		if len(b) != 8 {
			return 0, false
		}
		return int(binary.BigEndian.Uint64(b)), true
	}
	reply := byte(129)
	if !p.v6 {
		reply = 0
		if len(b) < 20 { // a raw IPv4 socket gives the IP header too
			return 0, false
		}
		b = b[min(len(b), int(b[0]&15)*4):]
	}
	if len(b) < 16 || b[0] != reply || binary.BigEndian.Uint16(b[4:]) != p.id {
		return 0, false
	}
	return int(binary.BigEndian.Uint64(b[8:])), true
}

// internetChecksum is that of RFC 1071, of an even number of bytes.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func (p *Pings) ask() {
	defer close(p.done)
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for n := 0; ; n++ {
		p.mu.Lock()
		p.sent, p.got = append(p.sent, time.Now()), append(p.got, time.Time{})
		p.mu.Unlock()
		// One that cannot be sent is lost: no neighbour answers, say.
		_, _ = p.conn.Write(p.request(n))
		select {
		case <-tick.C:
		case <-p.stop:
			return
		}
	}
}

func (p *Pings) listen() {
	buf := make([]byte, 2048)
	for {
		n, err := p.conn.Read(buf)
		select {
		case <-p.stop:
			return
		default:
		}
		if err != nil {
			continue // an unreachable that the kernel tells; the numbers say it better
		}
		p.answer(buf[:n], time.Now())
	}
}

func (p *Pings) answer(b []byte, now time.Time) {
	i, ok := p.number(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !ok || i < 0 || i >= len(p.got) || !p.got[i].IsZero() {
		return
	}
	p.got[i] = now
	p.arrived = append(p.arrived, now)
}

// Check gives what came of those sent since the last Check, once there are so many and
// all are answered or lost. The asking goes on.
func (p *Pings) Check(atLeast int) PingsResult {
	var end int
	for enough := false; !enough; {
		p.mu.Lock()
		end = len(p.sent)
		enough = end >= p.cut+atLeast
		p.mu.Unlock()
		if !enough {
			time.Sleep(p.every / 4)
		}
	}
	for deadline := time.Now().Add(lateAnswer); p.open(end) && time.Now().Before(deadline); {
		time.Sleep(p.every / 4)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.result(end, time.Now())
}

// open says whether an answer is still to come.
func (p *Pings) open(end int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.got[p.cut:end], time.Time.IsZero)
}

func (p *Pings) result(end int, now time.Time) PingsResult {
	r := PingsResult{Sent: end - p.cut}
	for i := p.cut; i < end; i++ {
		switch {
		case p.got[i].IsZero():
			r.Lost++
			if len(r.FirstLost) < 10 {
				r.FirstLost = append(r.FirstLost, i)
			}
		default:
			r.Slowest = max(r.Slowest, p.got[i].Sub(p.sent[i]))
		}
	}
	for _, t := range p.arrived {
		r.Dark = max(r.Dark, t.Sub(p.since))
		p.since = t
	}
	r.Dark = max(r.Dark, now.Sub(p.since)) // it goes on, and the next Check counts all of it
	p.cut, p.arrived = end, p.arrived[:0]
	return r
}

// Stop ends the asking.
func (p *Pings) Stop() {
	p.once.Do(func() {
		close(p.stop)
		<-p.done
		_ = p.conn.Close() // it has no error to tell
	})
}
