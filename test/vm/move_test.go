package vm

import (
	"bufio"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMebibytes(t *testing.T) {
	for arg, want := range map[string]int64{"limit=1": 1 << 20, "limit=64": 64 << 20} {
		if n, err := mebibytes(arg); err != nil || n != want {
			t.Errorf("%s: %d, %v", arg, n, err)
		}
	}
	for _, bad := range []string{"limit=", "limit=0", "limit=-1", "limit=1.5", "limit=2x", "limit=+1", "slowly"} {
		if n, err := mebibytes(bad); err == nil {
			t.Errorf("%s was read as %d", bad, n)
		}
	}
}

func TestHostRefuses(t *testing.T) {
	h := &host{guests: map[string]*movable{"vm2": {}}}
	for line, want := range map[string]string{
		"":                       "empty request",
		"1 boot":                 "usage: VERB GUEST",
		"1 boot vm9":             "no guest vm9 that can move",
		"1 fly vm2":              "known are boot",
		"1 incoming vm2":         "boot it first",
		"1 migrate vm2":          "no target",
		"1 migrate vm2 limit=64": "no target",
		"1 cancel vm2":           "not moving",
		"1 limit vm2":            "not moving",
		"1 end vm2":              "has not moved",
	} {
		if a := h.answer(line); a.OK || !strings.Contains(a.Error, want) {
			t.Errorf("%q: %+v, want %q", line, a, want)
		}
	}
	if a := h.answer("7 status vm2"); !a.OK || a.ID != "7" || string(a.Result) != `{"place":0}` {
		t.Errorf("status: %+v", a)
	}
}

// TestWireChangesHands: what comes while nobody has the wire is thrown away, and whole
// frames go to whoever has it.
func TestWireChangesHands(t *testing.T) {
	end, node, err := newWire("test")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	for range 100 { // more than the socket holds: somebody reads them
		if _, err := node.Write([]byte("lost")); err != nil {
			t.Fatal(err)
		}
	}
	for _, who := range []string{"first", "second"} {
		qemu, err := end.take()
		if err != nil {
			t.Fatal(err)
		}
		for { // what was on its way when it was taken
			n, _, err := unix.Recvfrom(int(qemu.Fd()), make([]byte, 100), unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			if n != len("lost") {
				t.Fatalf("%d bytes", n)
			}
		}
		if _, err := node.Write([]byte("for " + who)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := qemu.Read(buf); err != nil || string(buf[:n]) != "for "+who {
			t.Fatalf("%s read %q, %v", who, buf[:n], err)
		}
		if err := qemu.Close(); err != nil {
			t.Fatal(err)
		}
		end.idle()
		if _, err := node.Write([]byte("lost")); err != nil {
			t.Fatalf("between two: %v", err)
		}
	}
	if err := end.close(); err != nil {
		t.Fatal(err)
	}
}

// TestRelay: requests wait while the guest runs nowhere, and then go where it does;
// answers come from wherever they come.
func TestRelay(t *testing.T) {
	pair := func() (a, b *os.File) {
		t.Helper()
		a, b, err := socketPair("test")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	}
	asker, node := pair()
	r := newRelay(node)
	ask := func(s string) {
		t.Helper()
		if _, err := asker.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(f *bufio.Reader, want string) {
		t.Helper()
		if got, err := f.ReadString('\n'); err != nil || got != want {
			t.Fatalf("%q came, %v; want %q", got, err, want)
		}
	}
	oursA, a := pair()
	oursB, b := pair()
	inA, inB, back := bufio.NewReader(a), bufio.NewReader(b), bufio.NewReader(asker)
	go r.answers(oursA)
	go r.answers(oursB)
	ask("1 ip\n")
	r.point(oursA)
	hear(inA, "1 ip\n")
	ask("2 ")
	r.point(nil)
	ask("ip\n")
	r.point(oursB)
	hear(inB, "2 ip\n")
	if _, err := a.WriteString("one\n"); err != nil {
		t.Fatal(err)
	}
	hear(back, "one\n")
	if _, err := b.WriteString("two\n"); err != nil {
		t.Fatal(err)
	}
	hear(back, "two\n")
	ended := make(chan error, 1)
	go func() { ended <- r.close() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the relay does not end")
	}
}
