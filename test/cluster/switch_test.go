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
		send(t, way.from, way.text)
		for _, to := range way.to {
			gets(t, to, way.text) // and what came first is what was sent last: nothing of one's own came back
		}
	}
	// A VLAN that is taken off b's port gets there no more, nor from there; others do.
	tagged := func(vlan byte, text string) string {
		return "destinsource\x81\x00\x20" + string([]byte{vlan}) + text
	}
	sw.carry("b", 112, false)
	send(t, a, tagged(112, "1"))
	gets(t, c, tagged(112, "1"))
	send(t, b, tagged(112, "2"))
	send(t, b, tagged(113, "3"))
	gets(t, a, tagged(113, "3"))
	gets(t, c, tagged(113, "3"))
	send(t, a, tagged(113, "4"))
	gets(t, b, tagged(113, "4"))
	gets(t, c, tagged(113, "4"))
	sw.carry("b", 112, true)
	send(t, a, tagged(112, "5"))
	gets(t, b, tagged(112, "5"))
	gets(t, c, tagged(112, "5"))
}

func send(t *testing.T, from *os.File, text string) {
	t.Helper()
	if _, err := from.Write(append([]byte{0, 0, 0, byte(len(text))}, text...)); err != nil {
		t.Fatal(err)
	}
}

// gets wants this to be what comes next.
func gets(t *testing.T, to *os.File, text string) {
	t.Helper()
	got := make([]byte, 4+len(text))
	if err := to.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(to, got); err != nil || string(got[4:]) != text {
		t.Errorf("got %q, %v; want %q", got, err, text)
	}
}
