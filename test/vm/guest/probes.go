package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/test/vm/boot"
	"github.com/homeport-cni/homeport/test/vm/stream"
)

// newCommands gives the table of what the guest can do.
func newCommands(nic string, s *sink) map[string]command {
	return map[string]command{
		"ip":        func([]string) (any, error) { return addresses() },
		"dhcp":      func(args []string) (any, error) { return lease(nic, args) },
		"ping":      ping,
		"tcp":       tcp,
		"udp":       udp,
		"flood":     flood,
		"stream":    openStream,
		"send":      func(args []string) (any, error) { return send(nic, args) },
		"recv":      func(args []string) (any, error) { return receive(nic, args) },
		"subscribe": s.subscribe,
		"sink": func(args []string) (any, error) {
			if len(args) == 1 && args[0] == "reset" {
				s.reset()
			} else if len(args) != 0 {
				return nil, errors.New("usage: sink [reset]")
			}
			return s.state(), nil
		},
	}
}

// arguments reads a command's arguments: an address, then numbers; the last
// ones may be left out and then have the given defaults.
func arguments(args []string, usage string, numbers ...int) (netip.Addr, []int, error) {
	bad := fmt.Errorf("usage: %s", usage)
	before, _, _ := strings.Cut(usage, "[")
	required := len(strings.Fields(before)) - 1
	if len(args) < required || len(args) > 1+len(numbers) {
		return netip.Addr{}, nil, bad
	}
	addr, err := netip.ParseAddr(args[0])
	if err != nil {
		return netip.Addr{}, nil, fmt.Errorf("%w; %q is no address", bad, args[0])
	}
	for i, a := range args[1:] {
		if numbers[i], err = strconv.Atoi(a); err != nil || numbers[i] < 0 {
			return netip.Addr{}, nil, fmt.Errorf("%w; %q is no number", bad, a)
		}
	}
	return addr, numbers, nil
}

func addresses() (any, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	type iface struct {
		Name      string   `json:"name"`
		MAC       string   `json:"mac,omitempty"`
		MTU       int      `json:"mtu"`
		Addresses []string `json:"addresses"`
	}
	host, _ := os.Hostname()
	out := struct {
		Name       string  `json:"name"`
		Kernel     string  `json:"kernel"`
		Uptime     float64 `json:"uptime"`
		Interfaces []iface `json:"interfaces"`
	}{Name: host, Kernel: boot.Kernel(), Uptime: boot.Uptime()}
	for _, i := range list {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		e := iface{Name: i.Name, MAC: i.HardwareAddr.String(), MTU: i.MTU, Addresses: []string{}}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			e.Addresses = append(e.Addresses, a.String())
		}
		out.Interfaces = append(out.Interfaces, e)
	}
	return out, nil
}

type pingResult struct {
	Sent     int       `json:"sent"`
	Received int       `json:"received"`
	RTT      []float64 `json:"rttMs"`
	Error    string    `json:"lastError,omitempty"`
}

// ping sends echo requests 100 ms apart and waits for each answer.
func ping(args []string) (any, error) {
	addr, n, err := arguments(args, "ping ADDR COUNT [TIMEOUT_MS]", 1, 1000)
	if err != nil {
		return nil, err
	}
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	c, err := net.Dial(network, addr.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	res := pingResult{RTT: []float64{}}
	id := uint16(time.Now().UnixNano())
	for seq := range n[0] {
		if seq > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		begun := time.Now()
		res.Sent++
		err := echo(c, request, reply, id, uint16(seq), begun.Add(time.Duration(n[1])*time.Millisecond))
		if err != nil {
			res.Error = err.Error()
			continue
		}
		res.Received++
		res.RTT = append(res.RTT, float64(time.Since(begun).Microseconds())/1000)
	}
	if res.Received == 0 {
		return res, fmt.Errorf("no answer from %s: %s", addr, res.Error)
	}
	return res, nil
}

// echo does one ICMP echo (RFC 792, RFC 4443) on a raw socket. The kernel
// fills in the checksum of ICMPv6; for IPv4 it is ours.
func echo(c net.Conn, request, reply byte, id, seq uint16, deadline time.Time) error {
	msg := make([]byte, 8+48)
	msg[0] = request
	binary.BigEndian.PutUint16(msg[4:], id)
	binary.BigEndian.PutUint16(msg[6:], seq)
	if request == 8 {
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := c.Write(msg); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		b := buf[:n]
		if request == 8 && n >= 20 { // a raw IPv4 socket gives the IP header too
			b = b[min(n, int(b[0]&15)*4):]
		}
		if len(b) >= 8 && b[0] == reply && binary.BigEndian.Uint16(b[4:]) == id && binary.BigEndian.Uint16(b[6:]) == seq {
			return nil
		}
	}
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// tcp connects and reads one line; a server that says nothing within a second
// is fine too.
func tcp(args []string) (any, error) {
	addr, n, err := arguments(args, "tcp ADDR PORT [TIMEOUT_MS]", 0, 3000)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, uint16(n[0])).String(), time.Duration(n[1])*time.Millisecond)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	took := time.Since(begun)
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	line, _ := bufio.NewReader(c).ReadString('\n')
	return map[string]any{"banner": strings.TrimSpace(line), "connectMs": took.Milliseconds()}, nil
}

// openStream connects to a stream's listener, and goes on with it after the answer.
func openStream(args []string) (any, error) {
	addr, n, err := arguments(args, "stream ADDR [TIMEOUT_MS]", 5000)
	if err != nil {
		return nil, err
	}
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, stream.Port).String(), time.Duration(n[0])*time.Millisecond)
	if err != nil {
		return nil, err
	}
	go func() { _ = stream.Serve(c) }() // the other side tells how it went
	return map[string]any{"from": c.LocalAddr().String()}, nil
}

// udp sends one datagram and expects the same back.
func udp(args []string) (any, error) {
	addr, n, err := arguments(args, "udp ADDR PORT [TIMEOUT_MS]", 0, 2000)
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("udp", netip.AddrPortFrom(addr, uint16(n[0])).String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	begun := time.Now()
	_ = c.SetDeadline(begun.Add(time.Duration(n[1]) * time.Millisecond))
	want := fmt.Sprintf("homeport %d", begun.UnixNano())
	if _, err := c.Write([]byte(want)); err != nil {
		return nil, err
	}
	buf := make([]byte, 2048)
	got, err := c.Read(buf)
	if err != nil {
		return nil, err
	}
	if string(buf[:got]) != want {
		return nil, fmt.Errorf("%s answered something else: %q", c.RemoteAddr(), buf[:got])
	}
	return map[string]any{"ms": float64(time.Since(begun).Microseconds()) / 1000}, nil
}

// subscribe asks an address for numbered datagrams: it sends it one from the sink's port.
func (s *sink) subscribe(args []string) (any, error) {
	addr, n, err := arguments(args, "subscribe ADDR PORT", 0)
	if err != nil {
		return nil, err
	}
	_, err = s.conn.WriteToUDPAddrPort([]byte("more"), netip.AddrPortFrom(addr, uint16(n[0])))
	return nil, err
}

// flood sends numbered datagrams at a steady rate.
func flood(args []string) (any, error) {
	addr, n, err := arguments(args, "flood ADDR PORT COUNT PPS", 0, 0, 0)
	if err != nil {
		return nil, err
	}
	if n[2] < 1 {
		return nil, errors.New("usage: flood ADDR PORT COUNT PPS; PPS is at least 1")
	}
	c, err := net.Dial("udp", netip.AddrPortFrom(addr, uint16(n[0])).String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var failed int
	var last string
	var p [8]byte
	begun := time.Now()
	for i := range n[1] {
		// Every packet has its own due time: a late one is made up for.
		if d := time.Until(begun.Add(time.Duration(i) * time.Second / time.Duration(n[2]))); d > time.Millisecond {
			time.Sleep(d)
		}
		binary.BigEndian.PutUint64(p[:], uint64(i))
		if _, err := c.Write(p[:]); err != nil {
			failed++
			last = err.Error()
		}
	}
	res := map[string]any{"sent": n[1] - failed, "failed": failed, "seconds": time.Since(begun).Seconds()}
	if failed > 0 {
		return res, fmt.Errorf("%d of %d datagrams were not sent: %s", failed, n[1], last)
	}
	return res, nil
}
