package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestSocketTags: a frame's tag is given back beside it; priorities are no VLAN, and services none of ours.
func TestSocketTags(t *testing.T) {
	c := newCable(t, 1500)
	e := c.listen(c.open())
	body := func(n byte) []byte { return frame(broadcast, 0x1234, append(make([]byte, minPayload), n)...) }
	got := c.all(e,
		tagged(body(1), unix.ETH_P_8021AD, 5),
		tagged(tagged(body(2), unix.ETH_P_8021Q, 6), unix.ETH_P_8021AD, 5),
		body(3),
		tagged(body(4), unix.ETH_P_8021Q, 5),
		tagged(body(5), unix.ETH_P_8021Q, 0xe000|4094),
		tagged(body(6), unix.ETH_P_8021Q, 0xa000),
		tagged(body(7), unix.ETH_P_8021Q, 0),
		tagged(tagged(body(8), unix.ETH_P_8021Q, 6), unix.ETH_P_8021Q, 5),
		tagged(body(9), unix.ETH_P_8021Q, 0x1001),
	)
	want := []Frame{whole(0, body(3)), whole(5, body(4)), whole(4094, body(5)), whole(0, body(6)), whole(0, body(7)),
		whole(5, tagged(body(8), unix.ETH_P_8021Q, 6)), whole(1, body(9))}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestSocketSend: out of the cable comes what went in, tag and all; no Socket at the same end hears it.
func TestSocketSend(t *testing.T) {
	c := newCable(t, 1500)
	s := c.open()
	e, beside := c.listen(s), c.listen(c.open())
	for _, f := range []Frame{{}, {VLAN: 5, Data: make([]byte, 11)}, {VLAN: 5, Data: make([]byte, 13)}} {
		if err := s.Send(f); err == nil {
			t.Errorf("%d bytes were sent", len(f.Data))
		}
	}
	small, large := frame(broadcast, EtherHello, make([]byte, minPayload)...), frame(peerMAC, EtherHello, make([]byte, 1500)...)
	for _, f := range []Frame{whole(0, small), whole(5, small), whole(4094, small), whole(0, large), whole(5, large)} {
		was := slices.Clone(f.Data)
		must(t, s.Send(f))
		want := f.Data
		if f.VLAN != 0 {
			want = tagged(f.Data, unix.ETH_P_8021Q, uint16(f.VLAN))
		}
		if d := cmp.Diff(want, c.pull(otherMAC)); d != "" || !slices.Equal(was, f.Data) {
			t.Errorf("%d bytes in VLAN %d (-want +got):\n%s", f.Length, f.VLAN, d)
		}
	}
	for _, e := range []*ear{e, beside} {
		c.put(marker)
		if f := e.next(); !slices.Equal(f.Data, marker) {
			t.Errorf("what this end has sent is heard: %v", f)
		}
	}
	huge := frame(broadcast, EtherHello, make([]byte, 1501)...)
	for _, id := range []vlan.ID{0, 5} {
		if err := s.Send(whole(id, huge)); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("larger than the MTU, in VLAN %d: %v", id, err)
		}
	}
	must(t, s.Send(whole(6, small)))
	if got := c.pull(otherMAC); !slices.Equal(got, tagged(small, unix.ETH_P_8021Q, 6)) {
		t.Errorf("after the huge ones came % x", got)
	}
}

// ipv4 is a packet of a protocol, perhaps with options, that begins with these bytes.
func ipv4(protocol byte, fragment uint16, options int, payload ...byte) []byte {
	b := []byte{byte(0x45 + options), 0, 0, byte(20 + 4*options + len(payload)), 0, 1, byte(fragment >> 8), byte(fragment), 64, protocol, 0, 0, 192, 0, 2, 9, 192, 0, 2, 8}
	return append(append(b, make([]byte, 4*options)...), payload...)
}

func ports(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	return append(b, 0, 20, 0, 0, 'd', 'a', 't', 'a', 'd', 'a', 't', 'a', 'd', 'a', 't', 'a')
}

// TestSocketFilter: what others send to many comes, and of what is for one station what probes are about.
func TestSocketFilter(t *testing.T) {
	c := newCable(t, 1500)
	e := c.listen(c.open())
	const arp, ip4, ip6, udp, tcp = unix.ETH_P_ARP, unix.ETH_P_IP, unix.ETH_P_IPV6, unix.IPPROTO_UDP, unix.IPPROTO_TCP
	away := MAC{0x02, 0, 0, 0, 0, 0x77}
	var want, names []string
	var frames [][]byte
	add := func(comes bool, name string, b []byte) {
		for _, f := range [][]byte{b, tagged(b, unix.ETH_P_8021Q, 5)} {
			frames = append(frames, f)
			names = append(names, name)
			if comes {
				want = append(want, name)
			}
			name += ", tagged"
		}
	}
	for _, to := range []MAC{myMAC, away} {
		at := " to " + to.String()
		add(false, "TCP"+at, frame(to, ip4, ipv4(tcp, 0, 0, ports(443, 68)...)...))
		add(false, "DNS"+at, frame(to, ip4, ipv4(udp, 0, 0, ports(53, 5353)...)...))
		add(false, "DHCP to a server"+at, frame(to, ip4, ipv4(udp, 0, 0, ports(68, 67)...)...))
		add(false, "UDP behind options that look like port 68"+at, frame(to, ip4, changed(ipv4(udp, 0, 1, ports(53, 53)...), 22, 0, 68)...))
		add(false, "fragment of UDP"+at, frame(to, ip4, ipv4(udp, 0x0010, 0, ports(1, 1)...)...))
		add(false, "IPv6"+at, frame(to, ip6, make([]byte, 60)...))
		add(false, "another protocol"+at, frame(to, 0x1234, make([]byte, 60)...))
		for n := range 24 { // too short for the filter to find what it looks for
			add(false, fmt.Sprintf("%d bytes of DHCP%s", n, at), frame(to, ip4, ipv4(udp, 0, 0, ports(67, 68)...)[:n]...))
		}
		add(true, "hello"+at, frame(to, EtherHello, make([]byte, 60)...))
		add(true, "empty hello"+at, frame(to, EtherHello))
		add(true, "ARP"+at, frame(to, arp, make([]byte, 46)...))
		add(true, "DHCP to a client"+at, frame(to, ip4, ipv4(udp, 0, 0, ports(67, 68)...)...))
		add(true, "the same behind options"+at, frame(to, ip4, ipv4(udp, 0, 3, ports(67, 68)...)...))
		add(true, "the most options"+at, frame(to, ip4, ipv4(udp, 0, 10, ports(67, 68)...)...))
		add(true, "first fragment of DHCP"+at, frame(to, ip4, ipv4(udp, 0x2000, 0, ports(67, 68)...)...))
	}
	for _, to := range []MAC{broadcast, {0x33, 0x33, 0, 0, 0, 1}, {0x01, 0, 0x5e, 0, 0, 1}, {0x01, 0x80, 0xc2, 0, 0, 0x0e}} {
		at := " to " + to.String()
		add(to == broadcast, "TCP"+at, frame(to, ip4, ipv4(tcp, 0, 0, ports(443, 443)...)...))
		add(true, "IPv6"+at, frame(to, ip6, make([]byte, 60)...))
		add(to == broadcast, "fragment"+at, frame(to, ip4, ipv4(udp, 0x0010, 0, ports(1, 1)...)...))
		add(true, "nothing"+at, frame(to, 0x1234))
	}
	foreign := peerMAC.Foreign()
	add(true, "echo to a foreign MAC", frame(foreign, ip4, ipv4(unix.IPPROTO_ICMP, 0, 0, make([]byte, 40)...)...))
	add(true, "ICMPv6 to it", frame(foreign, ip6, changed(make([]byte, 60), 6, unix.IPPROTO_ICMPV6)...))
	add(false, "TCP to it", frame(foreign, ip4, ipv4(tcp, 0, 0, ports(443, 68)...)...))
	add(false, "TCP of IPv6 to it", frame(foreign, ip6, changed(make([]byte, 60), 6, tcp)...))
	add(false, "echo to another", frame(myMAC, ip4, ipv4(unix.IPPROTO_ICMP, 0, 0, make([]byte, 40)...)...))
	add(false, "ICMPv6 to another", frame(away, ip6, changed(make([]byte, 60), 6, unix.IPPROTO_ICMPV6)...))
	// Each tells by a number at its end which it is; where ports would be it is none that is listened for.
	const base = 1000
	for i := range frames {
		frames[i] = binary.BigEndian.AppendUint16(frames[i], uint16(base+i))
	}
	var got []string
	for _, f := range c.all(e, frames...) {
		got = append(got, names[binary.BigEndian.Uint16(f.Data[len(f.Data)-2:])-base])
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestSocketLong: of a frame that is longer than what is looked at, the length is told.
func TestSocketLong(t *testing.T) {
	c := newCable(t, 9000)
	e := c.listen(c.open())
	g := Greeting{Run: testRun, Seq: 1, Kind: Full, Node: "node2", Uplink: "eth1", VLAN: 5, Size: 9000}
	hello := newHello(t, g, otherMAC, broadcast)
	var frames [][]byte
	for _, n := range []int{snap - 1, snap, snap + 1, 5000, 9014} {
		frames = append(frames, hello[:n])
	}
	frames = append(frames, tagged(hello, unix.ETH_P_8021Q, 5))
	for i, f := range c.all(e, frames...) {
		n := len(frames[i])
		if f.VLAN != 0 {
			n -= 4
		}
		if f.Length != n || !slices.Equal(f.Data, hello[:min(n, snap)]) {
			t.Errorf("of %d bytes %d were seen, and said to be %d", n, len(f.Data), f.Length)
		}
		got, ok, err := readHello(keys, f)
		if whole := n == len(hello); !ok || whole != (err == nil) || whole && got != g {
			t.Errorf("%d of %d bytes: %+v, %v, %v", n, len(hello), got, ok, err)
		}
	}
	// What others send in an MTU as usual must be seen whole, or it is not understood.
	if least := etherHead + 1500; snap < least {
		t.Errorf("%d bytes are looked at, want %d", snap, least)
	}
}

// TestSocketLost: a burst has room; what has none is counted.
func TestSocketLost(t *testing.T) {
	c := newCable(t, 1000) // too little for IPv6, so the kernel is silent
	s := c.open()
	lost := func() uint64 {
		t.Helper()
		n, err := s.Lost()
		must(t, err)
		return n
	}
	numbered := func(n uint32) []byte {
		return frame(broadcast, EtherHello, binary.BigEndian.AppendUint32(make([]byte, minPayload), n)...)
	}
	const burst = 8192
	for n := range uint32(burst) {
		c.put(numbered(n))
	}
	if n := lost(); n != 0 {
		t.Errorf("%d of %d frames are lost", n, burst)
	}
	// With the least room that the kernel gives.
	must(t, s.raw.Control(func(fd uintptr) { must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1)) }))
	for n := range uint32(100) {
		c.put(numbered(burst + n))
		if n == 49 && lost() != 50 {
			t.Errorf("%d of 50 frames without room are lost", lost())
		}
	}
	if n := lost(); n != 100 {
		t.Errorf("%d of 100 frames without room are lost", n)
	}
	e := c.listen(s)
	for n := range uint32(burst) {
		if f := e.next(); binary.BigEndian.Uint32(f.Data[len(f.Data)-4:]) != n {
			t.Fatalf("number %d is % x", n, f.Data)
		}
	}
	if n := lost(); n != 100 {
		t.Errorf("later %d are lost", n)
	}
}

// TestSocketClose ends what waits, and all that comes later.
func TestSocketClose(t *testing.T) {
	c := newCable(t, 1500)
	s := c.open()
	e := c.listen(s)
	c.all(e) // it waits by now, or will
	must(t, s.Close())
	select {
	case err := <-e.end:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive has ended with %v", err)
		}
		e.end <- err
	case <-time.After(patience):
		t.Fatal("Receive has not ended")
	}
	_, received := s.Receive()
	_, counted := s.Lost()
	for what, err := range map[string]error{"Receive": received, "Lost": counted, "Send": s.Send(whole(5, marker))} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if slices.Contains(packetSockets(t), s.Inode()) {
		t.Error("it is still open")
	}
}

// TestSocketDown: an interface may go down and come up again; meanwhile nothing can be sent.
func TestSocketDown(t *testing.T) {
	c := newCable(t, 1500)
	s := c.open()
	e := c.listen(s)
	c.all(e)
	for n := range byte(3) {
		must(t, netlink.LinkSetDown(c.near))
		eventually(t, "sending fails", func() string {
			if err := s.Send(whole(0, marker)); !errors.Is(err, unix.ENETDOWN) {
				return fmt.Sprint(err)
			}
			return ""
		})
		late, err := OpenSocket(c.near.Attrs().Index, nil)
		must(t, err)
		heard := c.listen(late)
		must(t, netlink.LinkSetUp(c.near))
		c.running()
		b := frame(broadcast, 0x1234, append(make([]byte, minPayload), n)...)
		c.put(tagged(b, unix.ETH_P_8021Q, 5))
		for _, e := range []*ear{e, heard} {
			if f := e.next(); !cmp.Equal(f, whole(5, b)) {
				t.Errorf("%+v came, want % x in VLAN 5", f, b)
			}
		}
		eventually(t, "sending works", func() string {
			if err := s.Send(whole(5, b)); err != nil {
				return err.Error()
			}
			return ""
		})
		for got := c.pull(otherMAC); !slices.Equal(got, tagged(b, unix.ETH_P_8021Q, 5)); got = c.pull(otherMAC) {
		}
		must(t, late.Close())
	}
}

// packetSockets are the inodes of the packet sockets in the thread's namespace.
func packetSockets(t *testing.T) (inodes []uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/packet")
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range lines[1:] {
		var n uint64
		words := strings.Fields(line)
		_, err := fmt.Sscan(words[len(words)-1], &n)
		must(t, err)
		inodes = append(inodes, n)
	}
	return inodes
}

// TestSocketInode: by it one's own capture is told from others'. What could not be opened leaves nothing.
func TestSocketInode(t *testing.T) {
	c := newCable(t, 1500)
	before := packetSockets(t)
	if s, err := OpenSocket(9999, nil); !errors.Is(err, unix.ENODEV) {
		t.Errorf("at no interface: %v, %v", s, err)
	}
	if d := cmp.Diff(before, packetSockets(t)); d != "" {
		t.Errorf("after a failure (-want +got):\n%s", d)
	}
	a, b := c.open(), c.open()
	got := packetSockets(t)
	if a.Inode() == b.Inode() || !slices.Contains(got, a.Inode()) || !slices.Contains(got, b.Inode()) || len(got) != len(before)+2 {
		t.Errorf("sockets %d and %d; the kernel has %d", a.Inode(), b.Inode(), got)
	}
}

// TestSocketStations: two stations at the ends of the cable hear each other, and the host behind it.
func TestSocketStations(t *testing.T) {
	c := newCable(t, 1500)
	farSocket, err := OpenSocket(c.far.Attrs().Index, nil)
	must(t, err)
	near := Start(c.open(), keys, freely{}, testRun, Place{Node: "node1", Uplink: "eth1", MAC: myMAC})
	far := Start(farSocket, keys, freely{}, testRun, Place{Node: "node2", Uplink: "eth2", MAC: peerMAC})
	t.Cleanup(func() { must(t, far.Close()) })
	t.Cleanup(func() { must(t, near.Close()) })
	gateway := netip.MustParseAddr("192.0.2.1")
	var asks []Ask
	for _, a := range []Ask{{VLAN: 5}, {VLAN: 7, Untagged: true}} {
		for _, k := range []Ask{{Kind: Hello}, {Kind: Full, Size: 1500}, {Kind: Foreign}, {Kind: Unicast, To: peerMAC.Foreign()}, {Kind: Size, Size: 1400}, {Kind: Gateway, Target: gateway}} {
			k.VLAN, k.Untagged = a.VLAN, a.Untagged
			asks = append(asks, k)
		}
	}
	must(t, near.Send(t.Context(), append(asks, Ask{VLAN: 5, Kind: Full, Size: 1501})))
	of := func(id vlan.ID, k Kind, size int) HeardHello {
		return HeardHello{Node: "node1", Uplink: "eth1", VLAN: id, Untagged: id == 7, Kind: k, Count: 1, Largest: size}
	}
	var want []Heard
	for tag, id := range []vlan.ID{7, 5} {
		want = append(want, Heard{VLAN: vlan.ID(tag * 5), Hellos: []HeardHello{of(id, Foreign, 55), of(id, Full, 1500), of(id, Hello, 55), of(id, Size, 1400), of(id, Unicast, 55)}})
	}
	eventually(t, "the other hears it all", func() string {
		o := far.Observation()
		for i := range o.Heard {
			o.Heard[i].Others = 0 // the kernel's, too
		}
		return cmp.Diff(want, o.Heard, comparing)
	})
	if o := near.Observation(); o.Sent != len(asks) || len(o.Unsent) != 1 || !strings.Contains(o.Unsent[0].Error, "too long") {
		t.Errorf("%+v", o)
	}
	c.put(tagged(arpOf(t, layers.ARPReply, otherMAC, gateway.String(), myMAC, myMAC, "0.0.0.0"), unix.ETH_P_8021Q, 5))
	eventually(t, "an answer is heard", func() string {
		o := near.Observation()
		return cmp.Diff([]Claim{{Address: gateway, MAC: otherMAC, Answers: 1}}, o.In(5).Claims, comparing)
	})
}

// freely is a Pace that has none wait.
type freely struct{}

func (freely) Wait(ctx context.Context, _ Class) error { return ctx.Err() }
