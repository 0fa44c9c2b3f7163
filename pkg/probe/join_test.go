package probe

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestJoin: the interface takes a MAC beside its own as long as the socket is open.
func TestJoin(t *testing.T) {
	up := newCable(t, 1500).near
	index := up.Attrs().Index
	foreign := MAC(up.Attrs().HardwareAddr).Foreign()
	takes := func() bool {
		t.Helper()
		list, err := netlink.NeighList(index, unix.AF_BRIDGE)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list, func(n netlink.Neigh) bool { return n.LinkIndex == index && MAC(n.HardwareAddr) == foreign })
	}
	s, err := OpenSocket(index, nil)
	if err != nil {
		t.Fatal(err)
	}
	if takes() {
		t.Errorf("%v is taken before anybody asks", foreign)
	}
	if err := s.Join(index, foreign); err != nil || !takes() {
		t.Errorf("%v is not taken: %v", foreign, err)
	}
	if err := s.Close(); err != nil || takes() {
		t.Errorf("%v is still taken: %v", foreign, err)
	}
	if err := s.Join(index, foreign); err == nil {
		t.Error("a socket that is closed joins")
	}
}
