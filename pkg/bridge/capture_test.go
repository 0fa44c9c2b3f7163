package bridge

import (
	"maps"
	"testing"

	"golang.org/x/sys/unix"
)

// Sockets that see IP packets are captures, at the interface to which they are bound, but for the
// caller's own.
func TestCaptures(t *testing.T) {
	n := newSpace(t)
	is := func(want map[int]bool) {
		t.Helper()
		got, err := n.Captures(nil)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("captures at %v, want %v: %v", got, want, err)
		}
	}
	var fd int // of the last that was opened
	open := func(kind int, protocol uint16, ifindex int) func() {
		t.Helper()
		err := inNetns(n.ns, func() (err error) {
			if fd, err = unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: protocol>>8 | protocol<<8})
		})
		must(t, err)
		opened := fd
		return func() { _ = unix.Close(opened) }
	}
	is(map[int]bool{})
	defer open(unix.SOCK_RAW, unix.ETH_P_LLDP, 1)()
	defer open(unix.SOCK_RAW, unix.ETH_P_ARP, 0)()
	is(map[int]bool{})
	end := open(unix.SOCK_RAW, unix.ETH_P_ALL, 1)
	is(map[int]bool{1: true})
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	got, err := n.Captures(func(inode uint64) bool { return inode == st.Ino })
	if err != nil || len(got) != 0 {
		t.Errorf("captures at %v, where the only one is our own: %v", got, err)
	}
	end()
	is(map[int]bool{})
	defer open(unix.SOCK_DGRAM, unix.ETH_P_IP, 0)()
	is(map[int]bool{0: true})
	defer open(unix.SOCK_RAW, unix.ETH_P_IPV6, 1)()
	is(map[int]bool{0: true, 1: true})
}
