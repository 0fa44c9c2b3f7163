package probe

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLLDPSocket: LLDP is heard where the socket has joined, as it comes from the wire, and nothing
// else is.
func TestLLDPSocket(t *testing.T) {
	c := newCable(t, 1500)
	s, err := OpenLLDP()
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	near := c.near.Attrs().Index
	must(t, s.Join(near))
	must(t, s.Join(near))
	if err := s.Join(9999); !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that is not there was joined: %v", err)
	}
	c.put(frame(broadcast, EtherHello, make([]byte, minPayload)...))
	c.put(frame(nearestBridge, EtherLLDP, append([]byte{1, 2, 3}, make([]byte, minPayload)...)...))
	buf := make([]byte, 200)
	index, data, err := s.Receive(buf)
	if err != nil || index != near || len(data) != minPayload+3 || data[0] != 1 || data[2] != 3 {
		t.Errorf("at %d: % x %v", index, data, err)
	}
	ended := make(chan error, 1)
	go func() {
		_, _, err := s.Receive(make([]byte, 200))
		ended <- err
	}()
	must(t, s.Close())
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := s.Join(near); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestSocketKnown: its inode is told before anybody can find it bound to the interface.
func TestSocketKnown(t *testing.T) {
	c := newCable(t, 1500)
	// R in the kernel's list: it hears something (af_packet.c, packet_seq_show).
	runs := func(inode uint64) string {
		text, err := os.ReadFile("/proc/thread-self/net/packet")
		must(t, err)
		for line := range strings.Lines(string(text)) {
			if w := strings.Fields(line); w[len(w)-1] == fmt.Sprint(inode) {
				return w[5]
			}
		}
		return "is not there"
	}
	var told uint64
	before := ""
	s, err := OpenSocket(c.near.Attrs().Index, func(inode uint64) { told, before = inode, runs(inode) })
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	if after := runs(s.Inode()); told != s.Inode() || before != "0" || after != "1" {
		t.Errorf("told %d of %d; it ran: %s before, %s after", told, s.Inode(), before, after)
	}
}
