package snoop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

var (
	vm     = learn.MAC{0x52, 0x54, 0, 0, 1, 1}
	inner  = learn.MAC{0x52, 0x54, 0, 0, 1, 9} // a VM within the VM
	server = learn.MAC{0x00, 0x50, 0x56, 0xaa, 1, 2}
	router = learn.MAC{0x00, 0x00, 0x5e, 0, 1, 1}
	none   = learn.MAC{}
	all    = learn.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	all6   = learn.MAC{0x33, 0x33, 0, 0, 0, 1}

	port  = Port{ID: "shop/web-1", MAC: vm}
	start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
)

const (
	ll, router6 = "fe80::5054:ff:fe00:101", "fe80::1"
	testVLAN    = 100
	testXID     = 0x3d1d55aa
)

// words are what was said, as a test has it: "Claims 10.100.0.10 by ARP of vm", and behind that "for 1h0m0s" of a lease.
func words(at time.Time, said []Said) (out []string) {
	names := map[learn.MAC]string{vm: "vm", inner: "inner", server: "server", router: "router"}
	for _, s := range said {
		name := names[s.MAC]
		if name == "" {
			name = s.MAC.String()
		}
		w := fmt.Sprintf("%v %v by %v of %v", s.Kind, s.Addr, s.Provenance, name)
		if !s.Until.IsZero() {
			w += " for " + s.Until.Sub(at).String()
		}
		out = append(out, w)
	}
	return out
}

// step is a frame at a port, and what it says.
type step struct {
	name  string
	after time.Duration // since the step before
	out   bool
	data  []byte
	want  []string
	port  string  // "" is port
	vlan  vlan.ID // 0 is testVLAN
}

func (s *step) frame(at time.Time) Frame {
	f := Frame{At: at, Port: port, Out: s.out, VLAN: testVLAN, Data: slices.Clip(slices.Clone(s.data))}
	if s.port != "" {
		f.Port.ID = s.port
	}
	if s.vlan != 0 {
		f.VLAN = s.vlan
	}
	return f
}

// play has a new reader hear steps.
func play(t *testing.T, steps []step) {
	t.Helper()
	r, at := New(), start
	for i, s := range steps {
		at = at.Add(s.after)
		f := s.frame(at)
		said := r.Read(f)
		if diff := cmp.Diff(s.want, words(at, said)); diff != "" {
			t.Errorf("step %d, %s (-want +got):\n%s", i, s.name, diff)
		}
		for _, one := range said {
			if one.VLAN != f.VLAN {
				t.Errorf("step %d, %s: said of VLAN %d", i, s.name, one.VLAN)
			}
		}
	}
}

func u16(n int) []byte    { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// addr has the bytes of an address.
func addr(text string) []byte { return netip.MustParseAddr(text).AsSlice() }

func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

func eth(to, from learn.MAC, kind int, body ...[]byte) []byte {
	return cat(to[:], from[:], u16(kind), cat(body...))
}

// tagged has one 802.1Q tag more.
func tagged(frame []byte, tci int) []byte {
	return cat(frame[:12], u16(0x8100), u16(tci), frame[12:])
}

// padded is as short frames are on a wire.
func padded(frame []byte) []byte { return cat(frame, make([]byte, max(0, 60-len(frame)))) }

// changed is a frame with bytes replaced from one on.
func changed(frame []byte, at int, with ...byte) []byte {
	c := slices.Clone(frame)
	copy(c[at:], with)
	return c
}

// arp is a packet from a station, which names another hardware address or its own.
func arp(op int, from, sender learn.MAC, senderIP string, to learn.MAC, targetIP string) []byte {
	target := to
	if to == all {
		target = none
	}
	return eth(to, from, 0x0806, u16(1), u16(0x0800), []byte{6, 4}, u16(op), sender[:], addr(senderIP), target[:], addr(targetIP))
}

// probe asks whether anybody has an address, announce says that the station has it (RFC 5227).
func probe(from learn.MAC, ip string) []byte    { return arp(1, from, from, "0.0.0.0", all, ip) }
func announce(from learn.MAC, ip string) []byte { return arp(1, from, from, ip, all, ip) }

func ip4(src, dst string, proto byte, body []byte) []byte {
	return cat([]byte{0x45, 0}, u16(20+len(body)), u16(7), u16(0x4000), []byte{64, proto}, u16(0), addr(src), addr(dst), body)
}

func ip6(src, dst string, hops, next byte, body []byte) []byte {
	return cat([]byte{0x60, 0, 0, 0}, u16(len(body)), []byte{next, hops}, addr(src), addr(dst), body)
}

func udpOf(from, to int, body []byte) []byte {
	return cat(u16(from), u16(to), u16(8+len(body)), u16(0), body)
}

// link is an option with a MAC: 1 of the source, 2 of the target.
func link(kind byte, m learn.MAC) []byte { return cat([]byte{kind, 1}, m[:]) }

// nd is a message of neighbour discovery; the checksum is left to a NIC.
func nd(from learn.MAC, src, dst string, kind byte, body ...[]byte) []byte {
	return eth(all6, from, 0x86dd, ip6(src, dst, 255, 58, cat([]byte{kind, 0, 0, 0}, cat(body...))))
}

func rs(from learn.MAC, src string, options ...[]byte) []byte {
	return nd(from, src, "ff02::2", 133, u32(0), cat(options...))
}

func ns(from learn.MAC, src, target string, options ...[]byte) []byte {
	t := netip.MustParseAddr(target).As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	return nd(from, src, group.String(), 135, u32(0), addr(target), cat(options...))
}

// Flags of neighbour advertisements.
const isRouter, solicited, override = 0x80, 0x40, 0x20

func na(from learn.MAC, flags byte, target string, options ...[]byte) []byte {
	return nd(from, target, "ff02::1", 136, []byte{flags, 0, 0, 0}, addr(target), cat(options...))
}

// between puts extension headers between IPv6's head and what it carries: each starts with its own number, and
// what follows the first two bytes of its own is zero.
func between(frame []byte, kinds ...byte) []byte {
	const head, next = 14 + 40, 14 + 6
	var ext []byte
	for i, k := range kinds {
		following := frame[next]
		if i+1 < len(kinds) {
			following = kinds[i+1]
		}
		h := make([]byte, 8)
		h[0] = following
		if k == 60 { // one of two units
			h = append(h, make([]byte, 8)...)
			h[1] = 1
		}
		ext = append(ext, h...)
	}
	f := cat(frame[:head], ext, frame[head:])
	f[next] = kinds[0]
	binary.BigEndian.PutUint16(f[18:], uint16(len(f)-head))
	return f
}

// dhcp4 is a message, to be changed.
type dhcp4 struct {
	to, from                  learn.MAC
	src, dst                  string
	sport, dport              int
	op, hlen                  byte
	xid                       uint32
	client, yours, relay      string
	mac                       learn.MAC
	file, sname               []byte
	options                   [][]byte
	noCookie, noEnd, fragment bool
}

func opt(kind byte, value ...byte) []byte { return append([]byte{kind, byte(len(value))}, value...) }
func kind4(k byte) []byte                 { return opt(53, k) }
func lease(seconds uint32) []byte         { return opt(51, u32(seconds)...) }
func wanted(ip string) []byte             { return opt(50, addr(ip)...) }

// asks is a message of the VM, with options; its change comes last.
func asks(change func(*dhcp4), options ...[]byte) []byte {
	d := dhcp4{to: all, from: vm, src: "0.0.0.0", dst: "255.255.255.255", sport: 68, dport: 67, op: 1, hlen: 6, xid: testXID,
		client: "0.0.0.0", yours: "0.0.0.0", relay: "0.0.0.0", mac: vm, options: options}
	if change != nil {
		change(&d)
	}
	return d.bytes()
}

// answers is a message of the server, for an address.
func answers(yours string, change func(*dhcp4), options ...[]byte) []byte {
	d := dhcp4{to: vm, from: server, src: "10.100.0.2", dst: "255.255.255.255", sport: 67, dport: 68, op: 2, hlen: 6, xid: testXID,
		client: "0.0.0.0", yours: yours, relay: "0.0.0.0", mac: vm, options: options}
	if change != nil {
		change(&d)
	}
	return d.bytes()
}

func (d dhcp4) bytes() []byte {
	field := func(b []byte, n int) []byte { return cat(b, make([]byte, n-len(b))) }
	msg := cat([]byte{d.op, 1, d.hlen, 0}, u32(d.xid), u16(3), u16(0), addr(d.client), addr(d.yours), addr("0.0.0.0"), addr(d.relay),
		field(d.mac[:], 16), field(d.sname, 64), field(d.file, 128), u32(0x63825363), cat(d.options...))
	if !d.noEnd {
		msg = append(msg, 255)
	}
	if d.noCookie {
		msg[236] = 0
	}
	msg = field(msg, max(300, len(msg)))
	p := ip4(d.src, d.dst, 17, udpOf(d.sport, d.dport, msg))
	if d.fragment {
		p[6] = 0x20
	}
	return eth(d.to, d.from, 0x0800, p)
}

// Messages of DHCPv6.

func opt6(kind int, value ...[]byte) []byte {
	return cat(u16(kind), u16(len(cat(value...))), cat(value...))
}
func iaNA(options ...[]byte) []byte { return opt6(3, u32(1), u32(1800), u32(2880), cat(options...)) }
func iaTA(options ...[]byte) []byte { return opt6(4, u32(2), cat(options...)) }
func iaAddr(ip string, preferred, valid uint32, options ...[]byte) []byte {
	return opt6(5, addr(ip), u32(preferred), u32(valid), cat(options...))
}
func status6(code int) []byte { return opt6(13, u16(code), []byte("words")) }

var (
	duid        = []byte{0, 1, 0, 1, 0x2b, 0x1c, 0x9e, 0x44, 0x52, 0x54, 0, 0, 1, 1}
	clientID    = opt6(1, duid)
	serverID    = opt6(2, []byte{0, 3, 0, 1}, server[:])
	rapidCommit = opt6(14)
)

const xid6 = 0x8a41f7

func message6(kind byte, xid uint32, options ...[]byte) []byte {
	return cat(u32(uint32(kind)<<24|xid), cat(options...))
}

func asks6(kind byte, options ...[]byte) []byte {
	return eth(learn.MAC{0x33, 0x33, 0, 1, 0, 2}, vm, 0x86dd, ip6(ll, "ff02::1:2", 1, 17, udpOf(546, 547, message6(kind, xid6, clientID, cat(options...)))))
}

func answers6(kind byte, options ...[]byte) []byte {
	return eth(vm, server, 0x86dd, ip6("fe80::2", ll, 64, 17, udpOf(547, 546, message6(kind, xid6, clientID, serverID, cat(options...)))))
}

// checkFrame has another implementation read what a test made; it fails if that finds no sense in it.
func checkFrame(t *testing.T, name string, frame []byte) {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Errorf("%s is no frame: %v", name, e.Error())
	}
	var names []string
	for _, l := range p.Layers() {
		names = append(names, l.LayerType().String())
	}
	got := strings.TrimSuffix(strings.Join(names, " "), " Payload") // as short frames are filled up
	for _, want := range []string{"ARP", "ICMPv6NeighborSolicitation", "ICMPv6NeighborAdvertisement", "ICMPv6RouterSolicitation", "DHCPv4", "DHCPv6"} {
		if strings.HasSuffix(got, want) {
			return
		}
	}
	t.Errorf("%s is read as %s", name, got)
}
