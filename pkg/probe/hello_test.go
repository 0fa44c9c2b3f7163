package probe

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

var keys = testKeys{testKey}

// newGreeting is one with everything in it.
func newGreeting() Greeting {
	return Greeting{Run: testRun, Seq: 9, Kind: Full, Node: "node1", Uplink: "eth1", VLAN: 7, Untagged: true, Size: 64}
}

func newHello(tb testing.TB, g Greeting, from, to MAC) []byte {
	tb.Helper()
	b, err := g.frame(keys, from, to)
	must(tb, err)
	return b
}

// head is where the padding of a hello's frame begins.
func (g Greeting) head() int { return etherHead + helloHead + len(g.Node) + len(g.Uplink) + helloMAC }

// signed are bytes of a hello, changed and signed with a key of ours.
func signed(tb testing.TB, g Greeting, change func(payload []byte)) []byte {
	tb.Helper()
	b := newHello(tb, g, peerMAC, broadcast)
	change(b[etherHead:])
	at := g.head() - helloMAC
	msg := slices.Clone(b[:at])
	clear(msg[etherHead+26 : etherHead+30])
	_, mac := keys.Sign(msg)
	copy(b[at:], mac[:])
	return b
}

// TestHelloWire: agents of other versions read this, byte for byte.
func TestHelloWire(t *testing.T) {
	want := bytesOf(t, `
		ffffffffffff 525400000101 88b5
		"HPrt" 01 02 01 05 04 00 0007 0102030405060708 00000009 0040 2a000000
		"node1" "eth1"
		d16dc1e703689fce7652c0d9766bf3fe
		00 0000 0000 0000 0000`)
	if got := newHello(t, newGreeting(), myMAC, broadcast); !bytes.Equal(got, want) {
		t.Errorf("a hello is\n%swant\n%s", hex.Dump(got), hex.Dump(want))
	}
	kinds := map[Kind]byte{Hello: 1, Full: 2, Foreign: 3, Unicast: 4, Size: 5}
	for k, n := range kinds {
		g := newGreeting()
		g.Kind = k
		if got := newHello(t, g, myMAC, broadcast)[etherHead+5]; got != n {
			t.Errorf("kind %s is %d on the wire, want %d", k, got, n)
		}
	}
}

// TestHelloABI: the port programs know hellos by the same words.
func TestHelloABI(t *testing.T) {
	text, err := os.ReadFile("../../bpf/include/abi.h")
	must(t, err)
	number := func(name string) uint64 {
		t.Helper()
		m := regexp.MustCompile(`(?m)^#define ` + name + ` (0x[0-9a-f]+)\b`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("abi.h has no %s", name)
		}
		n, err := strconv.ParseUint(string(m[1]), 0, 32)
		must(t, err)
		return n
	}
	if n := number("HP_HELLO_ETHERTYPE"); n != EtherHello {
		t.Errorf("EtherType %#x, abi.h has %#x", EtherHello, n)
	}
	if n := number("HP_HELLO_MAGIC"); n != uint64(binary.BigEndian.Uint32([]byte(helloMagic))) {
		t.Errorf("magic %q, abi.h has %#x", helloMagic, n)
	}
}

func TestHelloRefused(t *testing.T) {
	long := strings.Repeat("n", maxName+1)
	for _, tt := range []struct {
		name   string
		change func(*Greeting)
		err    string
	}{
		{"node's name too long", func(g *Greeting) { g.Node = long }, "want at most 255 bytes"},
		{"uplink's name too long", func(g *Greeting) { g.Uplink = long }, "want at most 255 bytes"},
		{"no kind", func(g *Greeting) { g.Kind = "" }, "no hello of kind"},
		{"a question to others", func(g *Greeting) { g.Kind = DHCP }, "no hello of kind"},
		{"unknown kind", func(g *Greeting) { g.Kind = "hullo" }, "no hello of kind"},
	} {
		g := newGreeting()
		tt.change(&g)
		if b, err := g.frame(keys, myMAC, broadcast); !says(err, tt.err) {
			t.Errorf("%s: % x, %v; want an error with %q", tt.name, b, err, tt.err)
		}
	}
}

func TestHelloRoundTrip(t *testing.T) {
	long := strings.Repeat("é", maxName/2) + "n"
	for _, tt := range []struct {
		name   string
		change func(*Greeting)
		size   int // of the payload; 0: as asked
	}{
		{"least", func(g *Greeting) { g.Node, g.Uplink, g.Size = "", "", 0 }, minPayload},
		{"smaller than possible", func(g *Greeting) { g.Size = 1 }, 55},
		{"just enough", func(g *Greeting) { g.Size = 55 }, 0},
		{"a byte more", func(g *Greeting) { g.Size = 56 }, 0},
		{"usual MTU", func(g *Greeting) { g.Size = 1500 }, 0},
		{"jumbo", func(g *Greeting) { g.Size = 9216 }, 0},
		{"largest", func(g *Greeting) { g.Size = maxSize }, 0},
		{"long names", func(g *Greeting) { g.Node, g.Uplink, g.Size = long, long, 0 }, helloHead + 2*maxName + helloMAC},
		{"hello", func(g *Greeting) { g.Kind = Hello }, 0},
		{"foreign", func(g *Greeting) { g.Kind = Foreign }, 0},
		{"unicast", func(g *Greeting) { g.Kind = Unicast }, 0},
		{"size", func(g *Greeting) { g.Kind = Size }, 0},
		{"tagged", func(g *Greeting) { g.Untagged = false }, 0},
		{"last VLAN, last number", func(g *Greeting) { g.VLAN, g.Seq = vlan.Max, 1<<32-1 }, 0},
		{"another run", func(g *Greeting) { g.Run = RunID{0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0xfa, 0xf9, 0xf8} }, 0},
	} {
		want := newGreeting()
		tt.change(&want)
		b := newHello(t, want, myMAC, peerMAC)
		if tt.size != 0 {
			want.Size = tt.size
		}
		if len(b) != etherHead+want.Size || MAC(b[:6]) != peerMAC || MAC(b[6:12]) != myMAC {
			t.Errorf("%s: %d bytes from %v to %v; want %d", tt.name, len(b), MAC(b[6:12]), MAC(b[:6]), etherHead+want.Size)
		}
		if strings.Trim(string(b[want.head():]), "\x00") != "" {
			t.Errorf("%s: padding is not zero", tt.name)
		}
		got, ok, err := readHello(keys, whole(0, b))
		if d := cmp.Diff(want, got); !ok || err != nil || d != "" {
			t.Errorf("%s: %v, %v (-want +got):\n%s", tt.name, ok, err, d)
		}
	}
}

// TestHelloForged: no bit can be another, from the frame's first to the last of the HMAC.
func TestHelloForged(t *testing.T) {
	g := newGreeting()
	good := newHello(t, g, myMAC, broadcast)
	for i := range good[:g.head()] {
		for bit := range 8 {
			b := slices.Clone(good)
			b[i] ^= 1 << bit
			_, ok, err := readHello(keys, whole(0, b))
			if magic := i >= etherHead && i < etherHead+len(helloMagic); magic && !ok {
				continue // none of ours at all
			}
			if !ok || err == nil {
				t.Errorf("byte %d, bit %d: believed, or no hello: %v, %v", i, bit, ok, err)
			}
		}
	}
	for i := g.head(); i < len(good); i++ {
		b := slices.Clone(good)
		b[i]++
		if _, ok, err := readHello(keys, whole(0, b)); !ok || err != nil {
			t.Errorf("byte %d of the padding: %v, %v", i, ok, err)
		}
	}
	if _, ok, err := readHello(testKeys{testKey + 1}, whole(0, good)); !ok || !errors.Is(err, errForged) {
		t.Errorf("another key: %v, %v", ok, err)
	}
	exchanged := slices.Concat(good[6:12], good[:6], good[12:])
	if _, ok, err := readHello(keys, whole(0, exchanged)); !ok || !errors.Is(err, errForged) {
		t.Errorf("MACs of the frame exchanged: %v, %v", ok, err)
	}
	g.Seq++
	grafted := slices.Clone(good)
	copy(grafted[g.head()-helloMAC:g.head()], newHello(t, g, myMAC, broadcast)[g.head()-helloMAC:])
	if _, ok, err := readHello(keys, whole(0, grafted)); !ok || !errors.Is(err, errForged) {
		t.Errorf("the HMAC of another: %v, %v", ok, err)
	}
}

// TestHelloUnknown: what one of ours has signed, and this version does not know.
func TestHelloUnknown(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func([]byte)
		err    string // "": it is read
	}{
		{"version 0", func(p []byte) { p[4] = 0 }, "version 0"},
		{"version 2", func(p []byte) { p[4] = 2 }, "version 2, this agent knows 1"},
		{"kind 0", func(p []byte) { p[5] = 0 }, "kind 0"},
		{"kind 6", func(p []byte) { p[5] = 6 }, "kind 6"},
		{"kind 255", func(p []byte) { p[5] = 255 }, "kind 255"},
		{"longer than it is", func(p []byte) { binary.BigEndian.PutUint16(p[24:], 65) }, errShort.Error()},
		{"other flags", func(p []byte) { p[6] |= 0xfe }, ""},
		{"shorter than it is", func(p []byte) { binary.BigEndian.PutUint16(p[24:], 63) }, ""},
	} {
		got, ok, err := readHello(keys, whole(0, signed(t, newGreeting(), tt.change)))
		if !ok || got.Run != testRun || !says(err, tt.err) {
			t.Errorf("%s: %+v, %v, %v; want an error with %q", tt.name, got, ok, err, tt.err)
		}
	}
}

// TestHelloShort: a frame may be looked at in part, but must have come whole.
func TestHelloShort(t *testing.T) {
	g := newGreeting()
	g.Size = 200
	good := newHello(t, g, myMAC, broadcast)
	for n := range good {
		got, ok, err := readHello(keys, whole(0, slices.Clip(good[:n])))
		if isHello := n >= etherHead+len(helloMagic); ok != isHello || ok && !errors.Is(err, errShort) {
			t.Errorf("cut to %d bytes: %+v, %v, %v", n, got, ok, err)
		}
		_, ok, err = readHello(keys, Frame{Data: slices.Clip(good[:n]), Length: len(good)})
		if seen := n >= g.head(); seen != (ok && err == nil) {
			t.Errorf("%d bytes of it looked at: %v, %v", n, ok, err)
		}
	}
	for _, tt := range []struct {
		length int
		err    error
	}{{0, errShort}, {g.head(), errShort}, {len(good) - 1, errShort}, {len(good), nil}, {len(good) + 4, nil}} {
		if _, ok, err := readHello(keys, Frame{Data: good, Length: tt.length}); !ok || !errors.Is(err, tt.err) {
			t.Errorf("%d bytes of %d came: %v, %v; want %v", tt.length, len(good), ok, err, tt.err)
		}
	}
}

// TestHelloOthers: the EtherType is anybody's.
func TestHelloOthers(t *testing.T) {
	for _, payload := range []string{"", "HPr", "HPRT", "hprt and more", strings.Repeat("\x00", 60), " HPrt", "tPHr" + strings.Repeat("x", 60)} {
		b := append(slices.Concat(broadcast[:], peerMAC[:], []byte{0x88, 0xb5}), payload...)
		if g, ok, err := readHello(keys, whole(0, b)); ok || err != nil {
			t.Errorf("%q: %+v, %v, %v", payload, g, ok, err)
		}
	}
}
