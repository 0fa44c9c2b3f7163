package netns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// servedTCP are the ports at which hosts and guests send a line and then echo,
// as the real guests of test/vm do.
func servedTCP() []int { return []int{22, 80, 443, 5001} }

// echoUDP is the port that sends a datagram back.
const echoUDP = 5002

// serve starts the services of a host, IPv4 and IPv6, until the lab ends.
func (l *Lab) serve(s *Space) error {
	return s.Do(func() error {
		for _, port := range servedTCP() {
			ln, err := net.Listen("tcp", ":"+strconv.Itoa(port))
			if err != nil {
				return fmt.Errorf("%s: TCP port %d: %w", s.Name, port, err)
			}
			l.atEnd(ln.Close)
			go acceptLoop(ln, fmt.Sprintf("%s %d\n", s.Name, port))
		}
		echo, err := net.ListenPacket("udp", ":"+strconv.Itoa(echoUDP))
		if err != nil {
			return fmt.Errorf("%s: UDP port %d: %w", s.Name, echoUDP, err)
		}
		l.atEnd(echo.Close)
		go echoLoop(echo)
		return nil
	})
}

func acceptLoop(ln net.Listener, banner string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.WriteString(c, banner); err == nil {
				_, _ = io.Copy(c, c) // until either side ends it
			}
		}()
	}
}

func echoLoop(p net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = p.WriteTo(buf[:n], from) // a lost answer is the asker's to notice
		}
	}
}

// Conn is a TCP connection to one of the services.
type Conn struct {
	net.Conn
	r *bufio.Reader
	// Banner is the line that the server sent first.
	Banner string
}

// Dial connects from the namespace and reads the banner.
func (s *Space) Dial(addr netip.AddrPort, limit time.Duration) (*Conn, error) {
	var c net.Conn
	err := s.Do(func() error {
		var err error
		c, err = net.DialTimeout("tcp", addr.String(), limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	conn := &Conn{Conn: c, r: bufio.NewReader(c)}
	_ = c.SetReadDeadline(time.Now().Add(limit)) // a connection has deadlines
	line, err := conn.r.ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: connected to %s, but no line came: %w", s.Name, addr, err), c.Close())
	}
	conn.Banner = strings.TrimSpace(line)
	return conn, nil
}

// Say sends a line and wants it back.
func (c *Conn) Say(text string, limit time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(limit)) // a connection has deadlines
	if _, err := io.WriteString(c, text+"\n"); err != nil {
		return err
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("no echo of %q: %w", text, err)
		}
		if line == text+"\n" {
			return nil
		}
	}
}

// Datagram sends one datagram to an echo service and wants it back.
func (s *Space) Datagram(addr netip.AddrPort, limit time.Duration) error {
	return s.Do(func() error {
		c, err := net.Dial("udp", addr.String())
		if err != nil {
			return err
		}
		defer c.Close()
		want := fmt.Sprintf("homeport %d", time.Now().UnixNano())
		_ = c.SetDeadline(time.Now().Add(limit)) // a connection has deadlines
		if _, err := io.WriteString(c, want); err != nil {
			return err
		}
		buf := make([]byte, 2048)
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if string(buf[:n]) != want {
			return fmt.Errorf("%s answered %q", addr, buf[:n])
		}
		return nil
	})
}
