package bridge

import (
	"maps"
	"testing"

	"golang.org/x/sys/unix"
)

// Sockets that see IP packets are captures, at the interface to which they are bound.
func TestCaptures(t *testing.T) {
	n := newSpace(t)
	is := func(want map[int]bool) {
		t.Helper()
		got, err := n.Captures()
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("captures at %v, want %v: %v", got, want, err)
		}
	}
	open := func(kind int, protocol uint16, ifindex int) func() {
		t.Helper()
		var fd int
		err := inNetns(n.ns, func() (err error) {
			if fd, err = unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: protocol>>8 | protocol<<8})
		})
		must(t, err)
		return func() { _ = unix.Close(fd) }
	}
	is(map[int]bool{})
	defer open(unix.SOCK_RAW, unix.ETH_P_LLDP, 1)()
	defer open(unix.SOCK_RAW, unix.ETH_P_ARP, 0)()
	is(map[int]bool{})
	end := open(unix.SOCK_RAW, unix.ETH_P_ALL, 1)
	is(map[int]bool{1: true})
	end()
	is(map[int]bool{})
	defer open(unix.SOCK_DGRAM, unix.ETH_P_IP, 0)()
	is(map[int]bool{0: true})
	defer open(unix.SOCK_RAW, unix.ETH_P_IPV6, 1)()
	is(map[int]bool{0: true, 1: true})
}
