package cluster

import (
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wirePair gives the two ends of a node's wire.
func wirePair(t *testing.T) (plugged, node *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	plugged, node = os.NewFile(uintptr(fds[0]), "plugged"), os.NewFile(uintptr(fds[1]), "node")
	t.Cleanup(func() { node.Close() })
	return plugged, node
}

// TestTrunk: a frame gets to all other nodes and not back, also after one of them was
// replugged, as by a reboot.
func TestTrunk(t *testing.T) {
	var sw trunk
	t.Cleanup(sw.close)
	var nodes []*os.File
	for _, name := range []string{"a", "b", "c", "b"} {
		plugged, node := wirePair(t)
		sw.plug(name, plugged)
		nodes = append(nodes, node)
	}
	a, b, c := nodes[0], nodes[3], nodes[2]
	for _, way := range []struct {
		from *os.File
		to   []*os.File
		text string
	}{{a, []*os.File{b, c}, "from a"}, {b, []*os.File{a, c}, "from b"}} {
		frame := append([]byte{0, 0, 0, byte(len(way.text))}, way.text...)
		if _, err := way.from.Write(frame); err != nil {
			t.Fatal(err)
		}
		for _, to := range way.to {
			got := make([]byte, len(frame))
			if err := to.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			// What came first is what was sent last: nothing of one's own came back.
			if _, err := io.ReadFull(to, got); err != nil || string(got[4:]) != way.text {
				t.Errorf("got %q, %v; want %q", got, err, way.text)
			}
		}
	}
}
