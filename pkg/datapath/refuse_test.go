package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// rejecting has a set that rejects all but udp/53 outwards, which it drops.
func rejecting(tb testing.TB) policy.Set {
	return policy.Set{Network: "net-a", Default: policy.Allow, Rules: []policy.Rule{
		{Key: key(1), Action: policy.Drop, Directions: policy.OnlyOut, Services: service(tb, "udp/53")},
		{Key: key(2), Action: policy.Reject, Directions: policy.InOut, Sources: nets("0.0.0.0/0", "::/0")},
	}}
}

// answer gives what a hook makes of a frame; nil if it just drops it.
func (b *bench) answer(h Hook, frame []byte) []byte {
	b.Helper()
	out := make([]byte, 2048)
	opts := ebpf.RunOptions{Data: facing(h, frame), DataOut: out}
	ret, err := b.progs[h].Run(&opts)
	if err != nil {
		b.Fatal(err)
	}
	switch ret {
	case answerVerdict:
		return opts.DataOut
	case dropVerdict:
		return nil
	}
	b.Fatalf("%s returned %#x for %x", h, ret, frame)
	return nil
}

// onesSum is the Internet checksum's sum, folded (RFC 1071).
func onesSum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// checked decodes an answer to a frame and has its addresses, lengths and checksums right.
func checked(t *testing.T, frame, answer []byte) gopacket.Packet {
	t.Helper()
	p, asked := gopacket.NewPacket(answer, layers.LayerTypeEthernet, gopacket.Default), gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if p.ErrorLayer() != nil {
		t.Fatalf("%x: %v", answer, p.ErrorLayer().Error())
	}
	if got, want := p.LinkLayer().LinkFlow(), asked.LinkLayer().LinkFlow().Reverse(); got != want {
		t.Errorf("from %v, want %v", got, want)
	}
	if got, want := p.NetworkLayer().NetworkFlow(), asked.NetworkLayer().NetworkFlow().Reverse(); got != want {
		t.Errorf("from %v, want %v", got, want)
	}
	header, body := p.NetworkLayer().LayerContents(), p.NetworkLayer().LayerPayload()
	addresses, proto, length := header[12:20], header[9], int(binary.BigEndian.Uint16(header[2:]))-20
	if ip, ok := p.NetworkLayer().(*layers.IPv6); ok {
		addresses, proto, length = header[8:40], byte(ip.NextHeader), int(ip.Length)
	} else if onesSum(header) != 0xffff {
		t.Errorf("IPv4 checksum: %x", header)
	}
	pseudo := append(append([]byte{}, addresses...), byte(length>>8), byte(length), 0, proto)
	if proto == byte(layers.IPProtocolICMPv4) {
		pseudo = nil
	}
	if length != len(body) || onesSum(pseudo, body) != 0xffff {
		t.Errorf("%d bytes of %d, checksum %#x: %x", len(body), length, onesSum(pseudo, body), body)
	}
	return p
}

// TestReject: what a Reject rule drops is answered, with checksums that are right.
func TestReject(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(rejecting(t))
	b.port(accessPort())
	for _, c := range []struct {
		name     string
		vm, peer netip.Addr
	}{{"IPv4", vm4, peer4}, {"IPv6", vm6, peer6}} {
		numbered := func(p pkt, seq, ack uint32, data string) pkt {
			binary.BigEndian.PutUint32(p.l4[4:], seq)
			binary.BigEndian.PutUint32(p.l4[8:], ack)
			p.l4 = append(p.l4, data...)
			return p
		}
		for _, tt := range []struct {
			name     string
			hook     Hook
			p        pkt
			flags    string
			seq, ack uint32
		}{
			{"SYN out", FromVM, numbered(tcp(c.vm, c.peer, 1000, 80, "S"), 7, 0, ""), "RA", 0, 8},
			{"SYN in", ToVM, numbered(tcp(c.peer, c.vm, 1000, 80, "S"), 0xffffffff, 0, ""), "RA", 0, 0},
			{"data in", ToVM, numbered(tcp(c.peer, c.vm, 1000, 80, "A"), 7, 99, "hello"), "R", 99, 0},
			{"FIN without ACK", ToVM, numbered(tcp(c.peer, c.vm, 1000, 80, "F"), 7, 99, "hello"), "RA", 0, 13},
		} {
			t.Run(c.name+" "+tt.name, func(t *testing.T) {
				frame := tt.p.bytes()
				answer := b.answer(tt.hook, frame)
				if answer == nil {
					t.Fatal("no answer")
				}
				r := checked(t, frame, answer).TransportLayer().(*layers.TCP)
				asked := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).TransportLayer()
				if r.TransportFlow() != asked.TransportFlow().Reverse() || r.Seq != tt.seq || r.Ack != tt.ack || !r.RST || r.ACK != (tt.flags == "RA") || r.SYN || r.FIN || len(r.Payload) > 0 {
					t.Errorf("got %+v, want %s seq %d ack %d", r, tt.flags, tt.seq, tt.ack)
				}
			})
		}
		for name, tt := range map[string]struct {
			hook Hook
			p    pkt
		}{
			"UDP out":     {FromVM, udp(c.vm, c.peer, 5, 54)},
			"UDP in":      {ToVM, udp(c.peer, c.vm, 5, 54)},
			"UDP, longer": {ToVM, udp(c.peer, c.vm, 5, 54).with(func(p *pkt) { p.l4 = append(p.l4, make([]byte, 900)...) })},
			"ping":        {FromVM, echo(c.vm, c.peer, true, 9)},
			"SCTP":        {FromVM, sctp(c.vm, c.peer, 1, 2).with(func(p *pkt) { p.l4 = append(p.l4, 1, 2, 3, 4, 5, 6, 7, 8) })},
			"GRE":         {ToVM, sided(pkt{from: c.peer, to: c.vm, proto: 47, l4: make([]byte, 8)})},
		} {
			t.Run(c.name+" "+name, func(t *testing.T) {
				frame := tt.p.bytes()
				answer := b.answer(tt.hook, frame)
				if answer == nil {
					t.Fatal("no answer")
				}
				p := checked(t, frame, answer)
				quoted, rest := 20, 8
				if tt.p.proto == layers.IPProtocolSCTP {
					rest = 20 // with the tag of an INIT
				}
				if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok && icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
					t.Errorf("got %v", icmp.TypeCode)
				} else if icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok {
					quoted = 40
					if icmp.TypeCode != layers.CreateICMPv6TypeCode(1, 1) {
						t.Errorf("got %v", icmp.TypeCode)
					}
				}
				quoted += rest
				if body := p.NetworkLayer().LayerPayload(); len(body) != 8+quoted || !bytes.Equal(body[8:], frame[14:14+quoted]) {
					t.Errorf("quotes %x of %x", body, frame)
				}
			})
		}
	}
}

// TestRejectSilently: what must not be answered is dropped without a word.
func TestRejectSilently(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(rejecting(t))
	b.port(accessPort())
	group := func(p pkt) pkt {
		p.dst = []byte{0x01, 0, 0x5e, 0, 0, 1}
		return p
	}
	from := func(text string) netip.Addr { return netip.MustParseAddr(text) }
	for name, c := range map[string]struct {
		hook Hook
		p    pkt
	}{
		"a reset":              {FromVM, tcp(vm4, peer4, 1, 80, "R")},
		"a reset, IPv6":        {ToVM, tcp(peer6, vm6, 1, 80, "RA")},
		"what is dropped":      {FromVM, udp(vm4, peer4, 5, 53)},
		"an error":             {ToVM, icmpError(peer4, vm4, 3, tcp(vm4, peer4, 1, 80, "S"), 8)},
		"an error, IPv6":       {ToVM, icmpError(peer6, vm6, 1, tcp(vm6, peer6, 1, 80, "S"), 8)},
		"an echo reply":        {ToVM, echo(peer4, vm4, false, 9)},
		"an echo reply, IPv6":  {ToVM, echo(peer6, vm6, false, 9)},
		"a first fragment":     {FromVM, udp(vm4, peer4, 5, 54).with(func(p *pkt) { p.more = true })},
		"a fragment":           {FromVM, udp(vm4, peer4, 5, 54).with(func(p *pkt) { p.frag = 100 })},
		"a fragment, IPv6":     {FromVM, udp(vm6, peer6, 5, 54).with(func(p *pkt) { p.ext = []extension{fragment6(0, true)} })},
		"options, IPv6":        {FromVM, udp(vm6, peer6, 5, 54).with(func(p *pkt) { p.ext = []extension{pad(layers.IPProtocolIPv6HopByHop)} })},
		"to a group":           {FromVM, udp(vm4, from("239.1.1.1"), 5, 54)},
		"to a group, IPv6":     {FromVM, udp(vm6, from("ff02::1"), 5, 54)},
		"a broadcast":          {FromVM, udp(vm4, from("255.255.255.255"), 5, 54)},
		"to a group's MAC":     {ToVM, group(udp(peer4, vm4, 5, 54))},
		"from nobody":          {FromVM, udp(from("0.0.0.0"), peer4, 5, 54)},
		"from nobody, IPv6":    {FromVM, udp(from("::"), peer6, 5, 54)},
		"from a group":         {ToVM, udp(from("224.0.0.1"), vm4, 5, 54)},
		"flooded, for another": {ToVM, udp(peer4, vm4, 5, 54).with(func(p *pkt) { p.dst = []byte{2, 0, 0, 0, 0, 9} })},
		"a short one":          {FromVM, sided(pkt{from: vm4, to: peer4, proto: 47, l4: make([]byte, 4)})},
	} {
		if got := b.answer(c.hook, c.p.bytes()); got != nil {
			t.Errorf("%s: answered by %x", name, got)
		}
	}

	// Nor does a port that sees what is for others answer for them.
	sensor := accessPort()
	sensor.Security.Promiscuous = true
	if err := b.UpdatePort(loopback, sensor); err != nil {
		t.Fatal(err)
	}
	for _, p := range []pkt{udp(peer4, vm4, 5, 54), tcp(peer4, other4, 1000, 81, "S")} {
		p.dst = []byte{2, 0, 0, 0, 0, 9}
		if got := b.answer(ToVM, p.bytes()); got != nil {
			t.Errorf("for another, at a promiscuous port: answered by %x", got)
		}
	}
	if b.answer(ToVM, udp(peer4, vm4, 5, 54).bytes()) == nil {
		t.Error("for the VM itself, at a promiscuous port: not answered")
	}

	// Beyond so many a second each port is silent.
	frame := udp(vm4, peer4, 5, 54).bytes()
	answers := 0
	for range 5000 {
		if b.answer(FromVM, frame) != nil {
			answers++
		}
	}
	if answers < 99 || answers > 2500 { // one was answered before; within at most some seconds, on few CPUs
		t.Errorf("of 5000 frames %d are answered", answers)
	}
}

// TestRefusalPasses: the answer of one hook passes the other by its mark, and nothing
// passes by another mark.
func TestRefusalPasses(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(rejecting(t))
	b.port(accessPort())
	frame := tcp(peer4, vm4, 80, 1000, "RA").bytes()
	type skb struct { // struct __sk_buff as far as a test run takes it
		_    [2]uint32
		Mark uint32
		_    [45]uint32
	}
	run := func(h Hook, mark uint32) (uint32, policy.Reason) {
		before := b.all()
		out := skb{}
		ret, err := b.progs[h].Run(&ebpf.RunOptions{Data: facing(h, frame), Context: skb{Mark: mark}, ContextOut: &out})
		if err != nil {
			t.Fatal(err)
		}
		for r, c := range b.all() {
			if c[h].Packets != before[r][h].Packets {
				if ret == passVerdict && out.Mark != 0 {
					t.Errorf("the mark %#x stays", out.Mark)
				}
				return ret, r
			}
		}
		return ret, policy.Reason(255)
	}
	mark := b.control.Mark
	if mark == 0 {
		t.Fatal("no mark was drawn")
	}
	for _, h := range []Hook{FromVM, ToVM} {
		if ret, reason := run(h, mark); ret != passVerdict || reason != policy.ReasonRefusal {
			t.Errorf("%v: %#x, %v", h, ret, reason)
		}
		if ret, reason := run(h, mark+2); ret != dropVerdict || reason == policy.ReasonRefusal {
			t.Errorf("%v, another mark: %#x, %v", h, ret, reason)
		}
		// That of what reminds the bridge of a VM, which is on its way from there and no answer.
		if ret, reason := run(h, mark^1); (ret == passVerdict) != (h == FromVM) || (reason == 255) != (h == FromVM) {
			t.Errorf("%v, the next mark: %#x, %v", h, ret, reason)
		}
	}
}

// TestRejectRunning: a connection that a Reject rule cuts is told so.
func TestRejectRunning(t *testing.T) {
	b := newBench(t, Config{})
	set := rejecting(t)
	b.sync(policy.Set{Network: "net-a", Default: policy.Allow})
	b.port(accessPort())
	b.expect("open", out(tcp(vm4, peer4, 1000, 80, "S"), policy.ReasonDefaultAllow), in(tcp(peer4, vm4, 80, 1000, "SA"), policy.ReasonEstablished))
	b.sync(set)
	frame := tcp(peer4, vm4, 80, 1000, "A").bytes()
	if answer := b.answer(ToVM, frame); answer == nil || !checked(t, frame, answer).TransportLayer().(*layers.TCP).RST {
		t.Errorf("got %x", answer)
	}
}

// TestRejectedSockets: programs on both sides are refused at once, whether checksums of
// what they send, and of the answers, are left to the devices or not.
func TestRejectedSockets(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		newNetns(t)
		d := newDatapath(t, Config{Attach: m})
		p, _, err := build(policy.Set{Network: lanPort(0).Policy, Default: policy.Allow, Rules: []policy.Rule{
			{Key: key(1), Action: policy.Reject, Directions: policy.InOut, Services: service(t, "tcp/24", "udp/24")},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Sync(p); err != nil {
			t.Fatal(err)
		}
		host, vm, guest := newGuestPort(t, d)
		for _, offload := range []bool{true, false} {
			if !offload { // then the kernel completes the answers to the guest, which looks at them
				if err := noChecksums(host.Name); err != nil {
					t.Fatal(err)
				}
			}
			guest(func() error { return refusedAt("10.9.0.1", "fd09::1") })
			if err := refusedAt("10.9.0.2", "fd09::2"); err != nil {
				t.Errorf("to the VM: %v", err)
			}
		}
		guest(func() error { return noChecksums(vm.Name) })
		guest(func() error { return refusedAt("10.9.0.1", "fd09::1") })
		all, err := d.PortCounters(host.Index)
		if err != nil {
			t.Fatal(err)
		}
		if n := all[policy.ReasonRefusal]; n[ToVM].Packets < 3*4 || n[FromVM].Packets < 2*4 || all[policy.ReasonRuleDrop] == [2]Counter{} {
			t.Errorf("counted %+v", all)
		}
	})
}

// refusedAt has TCP and UDP to port 24 of addresses refused.
func refusedAt(addrs ...string) error {
	for _, addr := range addrs {
		at := net.JoinHostPort(addr, "24")
		if c, err := net.DialTimeout("tcp", at, 30*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
			if err == nil {
				c.Close()
			}
			return fmt.Errorf("tcp %s: %v, want refused", at, err)
		}
		c, err := net.Dial("udp", at)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		// What Linux makes of ICMP 3/13, and of ICMPv6 1/1.
		if _, err := c.Read(make([]byte, 9)); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("udp %s: %v, want prohibited", at, err)
		}
	}
	return nil
}

// noChecksums has an interface get what it sends with checksums (ethtool -K tx off).
func noChecksums(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("ethtool -K %s tx off: %w", name, errno)
	}
	return nil
}
