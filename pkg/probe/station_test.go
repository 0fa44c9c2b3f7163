package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// memory is a Conn whose wire is the test, in a bubble of testing/synctest.
type memory struct {
	in   chan Frame
	end  func()
	mu   sync.Mutex
	sent []Frame
	fail func(Frame) error
	lost uint64
	loss error // of asking for it
}

func (m *memory) Send(f Frame) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(f); err != nil {
			return err
		}
	}
	m.sent = append(m.sent, f)
	return nil
}

func (m *memory) Receive() (Frame, error) {
	f, ok := <-m.in
	if !ok {
		return f, net.ErrClosed
	}
	return f, nil
}

func (m *memory) Lost() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost, m.loss
}

func (m *memory) Close() error {
	m.end()
	return nil
}

// tell brings frames to the station, and waits until it has heard them.
func (m *memory) tell(frames ...Frame) {
	for _, f := range frames {
		m.in <- f
	}
	synctest.Wait()
}

// count is a Pace that lets a frame out each millisecond.
type count struct {
	mu sync.Mutex
	n  int
}

func (c *count) Wait(ctx context.Context, _ Class) error {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Millisecond):
		return nil
	}
}

// stationed is a Station and what it stands on.
type stationed struct {
	*Station
	wire *memory
	pace *count
}

var here = Place{Node: "node1", Uplink: "eth1", MAC: myMAC}

// newStation is one in the bubble of the test, which ends it.
func newStation(t *testing.T, at Place) stationed {
	t.Helper()
	m := &memory{in: make(chan Frame)}
	m.end = sync.OnceFunc(func() { close(m.in) })
	s := stationed{wire: m, pace: &count{}}
	s.Station = Start(m, keys, s.pace, testRun, at)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// heard is what the station has heard in a VLAN.
func (s stationed) heard(t *testing.T, want Heard) {
	t.Helper()
	o := s.Observation()
	if d := cmp.Diff(&want, o.In(want.VLAN), comparing); d != "" {
		t.Errorf("in VLAN %d (-want +got):\n%s", want.VLAN, d)
	}
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// TestSendRefuses: what makes no sense is noted and not sent, and keeps nothing else from being asked.
func TestSendRefuses(t *testing.T) {
	for _, tt := range []struct {
		ask Ask
		err string
	}{
		{Ask{Kind: Hello}, "VLAN 0 is out of range"},
		{Ask{VLAN: 4095, Kind: Hello}, "VLAN 4095 is out of range"},
		{Ask{VLAN: 5}, `no probe ""`},
		{Ask{VLAN: 5, Kind: "hullo"}, `no probe "hullo"`},
		{Ask{VLAN: 5, Kind: Gateway}, "no address of a gateway"},
		{Ask{VLAN: 5, Kind: Gateway, Target: addr("0.0.0.0")}, "no address of a gateway"},
		{Ask{VLAN: 5, Kind: Gateway, Target: addr("::")}, "no address of a gateway"},
		{Ask{VLAN: 5, Kind: Gateway, Target: addr("224.0.0.1")}, "no address of a gateway"},
		{Ask{VLAN: 5, Kind: Gateway, Target: addr("ff02::1")}, "no address of a gateway"},
		{Ask{VLAN: 5, Kind: Gateway, Target: addr("fe80::1%eth0")}, "no address of a gateway"},
		{Ask{VLAN: 5, Kind: Gateway, Target: addr("::ffff:192.0.2.1")}, "no address of a gateway"},
		{Ask{VLAN: 5, Kind: Unicast}, "want a station's MAC"},
		{Ask{VLAN: 5, Kind: Unicast, To: broadcast}, "want a station's MAC"},
		{Ask{VLAN: 5, Kind: Unicast, To: MAC{0x33, 0x33, 0, 0, 0, 1}}, "want a station's MAC"},
		{Ask{VLAN: 5, Kind: Size, Size: -1}, "want at most 65535"},
		{Ask{VLAN: 5, Kind: Size, Size: 65536}, "want at most 65535"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStation(t, here)
			must(t, s.Send(t.Context(), []Ask{tt.ask, {VLAN: 6, Kind: Hello}}))
			o := s.Observation()
			if len(s.wire.sent) != 1 || s.wire.sent[0].VLAN != 6 || s.pace.n != 1 || o.Sent != 1 || !refused(o, tt.ask, tt.err) {
				t.Errorf("%+v: %d sent, %+v", tt.ask, len(s.wire.sent), o)
			}
		})
	}
}

// refused says that an Ask is all that was not sent, and why.
func refused(o Observation, a Ask, why string) bool {
	return len(o.Unsent) == 1 && o.Unsent[0].VLAN == a.VLAN && o.Unsent[0].Kind == a.Kind && strings.Contains(o.Unsent[0].Error, why)
}

// TestSend: each kind as it should be on the wire, tagged or not, with a number of its own.
func TestSend(t *testing.T) {
	asks := []Ask{
		{VLAN: 5, Kind: Hello},
		{VLAN: 7, Untagged: true, Kind: Full, Size: 1500},
		{VLAN: 4094, Kind: Foreign},
		{VLAN: 5, Kind: Gateway, Target: addr("192.0.2.1")},
		{VLAN: 5, Kind: Unicast, To: peerMAC.Foreign()},
		{VLAN: 7, Untagged: true, Kind: Gateway, Target: addr("fe80::1")},
		{VLAN: 5, Kind: Size, Size: 1400},
		{VLAN: 6, Kind: DHCP},
		{VLAN: 7, Untagged: true, Kind: Routers},
	}
	probed, err := arpProbe(myMAC, addr("192.0.2.1"))
	must(t, err)
	solicited, err := solicitation(myMAC, addr("fe80::1"))
	must(t, err)
	discovered, err := discover(myMAC, 0x01020304) // of the run
	must(t, err)
	routers, err := routerSolicitation(myMAC)
	must(t, err)
	hello := func(seq uint32, a Ask, from, to MAC) []byte {
		return newHello(t, Greeting{Run: testRun, Seq: seq, Kind: a.Kind, Node: "node1", Uplink: "eth1", VLAN: a.VLAN, Untagged: a.Untagged, Size: a.Size}, from, to)
	}
	want := []Frame{
		whole(5, hello(1, asks[0], myMAC, broadcast)),
		whole(0, hello(2, asks[1], myMAC, broadcast)),
		whole(4094, hello(3, asks[2], myMAC.Foreign(), broadcast)),
		whole(5, probed),
		whole(5, hello(4, asks[4], myMAC, peerMAC.Foreign())),
		whole(0, solicited),
		whole(5, hello(5, asks[6], myMAC, broadcast)),
		whole(6, discovered),
		whole(0, routers),
	}
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		must(t, s.Send(t.Context(), asks[:4]))
		must(t, s.Send(t.Context(), asks[4:]))
		// Classes do not wait for each other; hellos have their numbers.
		bytewise := cmpopts.SortSlices(func(a, b Frame) bool { return string(a.Data[12:]) < string(b.Data[12:]) })
		if d := cmp.Diff(want, s.wire.sent, bytewise); d != "" {
			t.Errorf("on the wire (-want +got):\n%s", d)
		}
		if o := s.Observation(); o.Sent != len(asks) || s.pace.n != len(asks) {
			t.Errorf("%+v, waited %d times; want %d", o, s.pace.n, len(asks))
		}
	})
}

// TestUnsent: what the interface does not take is noted, and the next is tried.
func TestUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		n := map[uint16]int{} // by EtherType
		s.wire.fail = func(f Frame) error {
			kind := binary.BigEndian.Uint16(f.Data[12:])
			if n[kind]++; f.VLAN == 5 || f.Length > 1514 {
				return fmt.Errorf("no room for number %d", n[kind])
			}
			return nil
		}
		must(t, s.Send(t.Context(), []Ask{{VLAN: 6, Kind: Full, Size: 9000}, {VLAN: 5, Kind: Hello}, {VLAN: 5, Kind: DHCP}, {VLAN: 5, Kind: Hello}, {VLAN: 6, Kind: Hello}}))
		want := Observation{Sent: 1, Unsent: []Unsent{{5, DHCP, "no room for number 1"}, {5, Hello, "no room for number 3"}, {6, Full, "no room for number 1"}}}
		if d := cmp.Diff(want, s.Observation(), comparing); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		at := here
		at.Node = strings.Repeat("n", 256)
		s := newStation(t, at)
		must(t, s.Send(t.Context(), []Ask{{VLAN: 5, Kind: Hello}, {VLAN: 5, Kind: Routers}}))
		if o := s.Observation(); o.Sent != 1 || len(o.Unsent) != 1 || !strings.Contains(o.Unsent[0].Error, "at most 255") {
			t.Errorf("a name that is too long: %+v", o)
		}
	})
}

// TestClasses: each frame waits for its own class, and a slow one keeps no other.
func TestClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{in: make(chan Frame)}
		m.end = sync.OnceFunc(func() { close(m.in) })
		waits := &byClass{n: map[Class]int{}}
		s := Start(m, keys, waits, testRun, here)
		defer s.Close()
		asks := []Ask{{VLAN: 5, Kind: Gateway, Target: addr("192.0.2.1")}, {VLAN: 5, Kind: Gateway, Target: addr("fe80::1")}, {VLAN: 5, Kind: Routers},
			{VLAN: 5, Kind: DHCP}, {VLAN: 5, Kind: Detect, Target: mySource}, {VLAN: 5, Kind: Hello}, {VLAN: 5, Kind: Full}, {VLAN: 5, Kind: Unicast, To: peerMAC},
			{VLAN: 5, Kind: Echo, Target: router, Source: mySource, To: otherMAC}}
		begun := time.Now()
		must(t, s.Send(t.Context(), asks))
		want := map[Class]int{ClassARP: 2, ClassND: 2, ClassDHCP: 1, ClassHello: 3, ClassEcho: 1}
		if d := cmp.Diff(want, waits.n); d != "" || time.Since(begun) != 3*time.Second {
			t.Errorf("%s in %v", d, time.Since(begun))
		}
	})
}

// byClass has each class wait a second a frame.
type byClass struct {
	mu sync.Mutex
	n  map[Class]int
}

func (b *byClass) Wait(_ context.Context, c Class) error {
	b.mu.Lock()
	b.n[c]++
	b.mu.Unlock()
	time.Sleep(time.Second)
	return nil
}

// TestSendEnds: with its context, and with its Conn.
func TestSendEnds(t *testing.T) {
	many := slices.Repeat([]Ask{{VLAN: 5, Kind: Hello}}, 1000)
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond+time.Microsecond)
		defer cancel()
		if err := s.Send(ctx, many); !errors.Is(err, context.DeadlineExceeded) || s.Observation().Sent != 100 {
			t.Errorf("%d sent, %v", s.Observation().Sent, err)
		}
		if err := s.Send(ctx, many); !errors.Is(err, context.DeadlineExceeded) || s.Observation().Sent != 100 {
			t.Errorf("once more: %d sent, %v", s.Observation().Sent, err)
		}
		must(t, s.Send(t.Context(), many))
		if o := s.Observation(); o.Sent != 1100 || o.Unsent != nil {
			t.Errorf("with another context: %+v", o)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		tries := 0
		s.wire.fail = func(Frame) error {
			if tries++; tries > 3 {
				return fmt.Errorf("wire: %w", net.ErrClosed)
			}
			return nil
		}
		if err := s.Send(t.Context(), many); !errors.Is(err, net.ErrClosed) || s.Observation().Sent != 3 || tries != 4 {
			t.Errorf("%d sent, %d tried, %v", s.Observation().Sent, tries, err)
		}
	})
}

// TestClose: nothing is heard afterwards, nor waited for; nor after the Conn's own end.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		s.wire.tell(whole(5, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.7", broadcast, MAC{}, "192.0.2.8")))
		must(t, s.Close())
		select {
		case <-s.done:
		default:
			t.Error("it still listens")
		}
		s.heard(t, Heard{VLAN: 5, Others: 1})
	})
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		s.wire.end()
		synctest.Wait()
		select {
		case <-s.done:
		default:
			t.Error("it listens to a Conn that has ended")
		}
	})
}

func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		if n := s.Observation().Lost; n != 0 {
			t.Errorf("%d lost of nothing", n)
		}
		s.wire.lost = 17
		if n := s.Observation().Lost; n != 17 {
			t.Errorf("%d lost, want 17", n)
		}
		s.wire.loss = net.ErrClosed
		if n := s.Observation().Lost; n != 17 {
			t.Errorf("%d lost once it is closed, want 17", n)
		}
	})
}

// helloOf is a peer's for VLAN 5, changed, as it comes in a VLAN.
func helloOf(t *testing.T, id vlan.ID, change func(*Greeting)) Frame {
	t.Helper()
	g := Greeting{Run: testRun, Seq: 1, Kind: Hello, Node: "node2", Uplink: "eth1", VLAN: 5, Size: 64}
	if change != nil {
		change(&g)
	}
	from, to := peerMAC, broadcast
	switch g.Kind {
	case Foreign:
		from = peerMAC.Foreign()
	case Unicast:
		to = myMAC.Foreign()
	}
	return whole(id, newHello(t, g, from, to))
}

// TestHears: hellos of this run, by whom and as they were sent, and how often.
func TestHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, here)
		seq := func(n uint32) func(*Greeting) { return func(g *Greeting) { g.Seq = n } }
		full := func(n uint32, size int) func(*Greeting) {
			return func(g *Greeting) { g.Seq, g.Kind, g.Size = n, Full, size }
		}
		s.wire.tell(
			helloOf(t, 5, seq(1)), helloOf(t, 5, seq(2)), helloOf(t, 5, seq(1)), helloOf(t, 5, seq(1)), helloOf(t, 5, seq(3)),
			helloOf(t, 5, full(4, 1400)), helloOf(t, 5, full(5, 1500)), helloOf(t, 5, full(6, 1300)), helloOf(t, 5, full(5, 1500)),
			helloOf(t, 5, func(g *Greeting) { g.Seq, g.Kind = 7, Foreign }),
			helloOf(t, 5, func(g *Greeting) { g.Seq, g.Kind = 8, Unicast }),
			helloOf(t, 0, func(g *Greeting) { g.Node, g.VLAN, g.Untagged = "node3", 7, true }), // the same number, of another
			helloOf(t, 5, func(g *Greeting) { g.Node, g.Uplink = "node1", "eth1" }),            // its own came back
		)
		of := func(k Kind, count, again, largest int) HeardHello {
			return HeardHello{Node: "node2", Uplink: "eth1", VLAN: 5, Kind: k, Count: count, Again: again, Largest: largest}
		}
		own := of(Hello, 1, 0, 64)
		own.Node = "node1"
		s.heard(t, Heard{VLAN: 5, Hellos: []HeardHello{own, of(Foreign, 1, 0, 64), of(Full, 3, 1, 1500), of(Hello, 3, 2, 64), of(Unicast, 1, 0, 64)}})
		s.heard(t, Heard{VLAN: 0, Hellos: []HeardHello{{Node: "node3", Uplink: "eth1", VLAN: 7, Untagged: true, Kind: Hello, Count: 1, Largest: 64}}})
	})
}

// TestHearsNot: what is of another run, or of none of ours, or for another.
func TestHearsNot(t *testing.T) {
	other := RunID{9}
	forged := func(change func(*Greeting), at int) Frame {
		f := helloOf(t, 5, change)
		f.Data[at] ^= 1
		return f
	}
	unicast := func(to MAC) Frame {
		return whole(5, newHello(t, Greeting{Run: testRun, Kind: Unicast, Node: "node2", Uplink: "eth1", VLAN: 5}, peerMAC, to))
	}
	short := helloOf(t, 5, func(g *Greeting) { g.Size = 1500 })
	short.Data, short.Length = short.Data[:1400], 1400
	for _, tt := range []struct {
		name  string
		frame Frame
		want  Observation
	}{
		{"another run", helloOf(t, 5, func(g *Greeting) { g.Run = other }), Observation{}},
		{"another run, forged", forged(func(g *Greeting) { g.Run = other }, 50), Observation{}},
		{"another run, of another version", forged(func(g *Greeting) { g.Run = other }, etherHead+4), Observation{}},
		{"forged", forged(nil, 50), Observation{Unread: 1, UnreadWhy: errForged.Error()}},
		{"another version", forged(nil, etherHead+4), Observation{Unread: 1, UnreadWhy: "hello of version 0, this agent knows 1"}},
		{"cut on its way", short, Observation{Unread: 1, UnreadWhy: errShort.Error()}},
		{"VLAN 0", helloOf(t, 5, func(g *Greeting) { g.VLAN = 0 }), Observation{}},
		{"VLAN 4095", helloOf(t, 5, func(g *Greeting) { g.VLAN = 4095 }), Observation{}},
		{"unicast to a peer", unicast(otherMAC.Foreign()), Observation{}},
		{"unicast to the uplink itself", unicast(myMAC), Observation{}},
		{"unicast to all", unicast(broadcast), Observation{}},
		{"no Ethernet frame", whole(5, make([]byte, etherHead-1)), Observation{}},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStation(t, here)
			s.wire.tell(tt.frame)
			if d := cmp.Diff(tt.want, s.Observation(), comparing); d != "" {
				t.Errorf("%s (-want +got):\n%s", tt.name, d)
			}
		})
	}
}

// TestOthers: frames of hosts show that a VLAN arrives; those of the link to its switch do not.
func TestOthers(t *testing.T) {
	to := func(mac MAC, kind uint16) Frame {
		b := binary.BigEndian.AppendUint16(slices.Concat(mac[:], otherMAC[:]), kind)
		return whole(5, append(b, make([]byte, minPayload)...))
	}
	for _, tt := range []struct {
		name  string
		frame Frame
		want  int
	}{
		{"LLDP", to(MAC{0x01, 0x80, 0xc2, 0, 0, 0x0e}, EtherLLDP), 0},
		{"LACP", to(MAC{0x01, 0x80, 0xc2, 0, 0, 0x02}, 0x8809), 0},
		{"spanning tree", to(MAC{0x01, 0x80, 0xc2, 0, 0, 0x00}, 38), 0},
		{"last reserved address", to(MAC{0x01, 0x80, 0xc2, 0, 0, 0x0f}, 0x1234), 0},
		{"CDP", to(MAC{0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc}, 300), 0},
		{"GVRP, behind the reserved addresses", to(MAC{0x01, 0x80, 0xc2, 0, 0, 0x21}, 0x1234), 1},
		{"spanning tree of a VLAN", to(MAC{0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd}, 50), 1},
		{"somebody's experiment", to(broadcast, EtherHello), 1},
		{"ARP", whole(5, arpOf(t, layers.ARPRequest, otherMAC, "192.0.2.7", broadcast, MAC{}, "192.0.2.8")), 1},
		{"unicast", to(peerMAC, 0x0800), 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStation(t, here)
			s.wire.tell(tt.frame)
			if h := s.Observation(); h.In(5).Others != tt.want || h.Unread != 0 {
				t.Errorf("%s: %+v, want %d others", tt.name, h, tt.want)
			}
		})
	}
}
