package agent

import (
	"encoding/hex"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// bootFrame is a frame of a guest that starts.
type bootFrame struct {
	guest, name string
	out         bool
	says        []string // as "Claims 10.100.0.10 by DHCP of vm for 1h0m0s"
	data        []byte
}

// bootFrames are the packet tables of pkg/snoop.
func bootFrames(t *testing.T) (out []bootFrame) {
	t.Helper()
	text, err := os.ReadFile("../snoop/testdata/boots.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 6 {
			t.Fatalf("%q has %d fields", line, len(f))
		}
		b := bootFrame{guest: f[0], name: f[3], out: f[2] == "out"}
		if f[4] != "" {
			b.says = strings.Split(f[4], ", ")
		}
		if b.data, err = hex.DecodeString(f[5]); err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// judged is how many frames of the VM, and to it, its port has judged, and how many it has dropped, by reason.
func (l live) judged(rec *attach.Record) (out, in uint64, drops map[string]uint64) {
	l.Helper()
	counts, err := l.kernel.ReasonCounts(rec.HostIfIndex)
	l.must(err)
	drops = map[string]uint64{}
	for _, c := range counts {
		if c.dir == policy.Out {
			out += c.packets
		} else {
			in += c.packets
		}
		if c.reason.Drops() && c.packets > 0 {
			drops[c.reason.String()] += c.packets
		}
	}
	return out, in, drops
}

// TestGuestsBootGuarded: with all guards on, whatever guests say while they start gets out, what they are answered gets in, and
// each address is theirs once it was said, by the best that has said so.
func TestGuestsBootGuarded(t *testing.T) {
	frames := bootFrames(t)
	guests := map[string]bool{}
	for _, f := range frames {
		guests[f.guest] = true
	}
	for _, guest := range slices.Sorted(maps.Keys(guests)) {
		guards := []attach.Guard{attach.GuardLearn, attach.GuardStrict}
		if guest == "stateless" { // nobody vouches for its addresses
			guards = guards[:1]
		}
		for _, guard := range guards {
			t.Run(guest+" "+string(guard), func(t *testing.T) { bootGuarded(t, guest, guard, frames) })
		}
	}
}

func bootGuarded(t *testing.T, guest string, guard attach.Guard, frames []bootFrame) {
	l := newLive(t)
	l.must(os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644)) // no frames of the test's own kernel
	s, _ := snapshot(t)
	web := s.Networks["web"]
	web.Security = attach.Security{IPGuard: guard, ARPGuard: true, NDGuard: true, RAGuard: true, DHCPServerGuard: true}
	s.Networks = map[string]desired.Network{"web": web}
	l.follow(s)
	rec := l.veth("veth1", 1)
	rec.MAC, rec.Policy, rec.Trunk = attach.MAC{0x52, 0x54, 0, 0, 1, 1}, "web", "open"
	rec.Pod, rec.Security = attach.Pod{Namespace: "shop", Name: "p1", UID: "u1"}, web.Security
	l.openAs(rec)
	l.followAddresses()
	defer l.learns()()

	var outs, ins uint64
	held := map[string]string{} // by address, how it is known best
	better := []string{"", "ARP", "ND", "GuestAgent", "DHCP"}
	for i, f := range frames {
		if f.guest != guest {
			continue
		}
		if f.out {
			l.sendFrom("veth1p", f.data)
			outs++
		} else {
			l.sendFrom("veth1", f.data)
			ins++
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			out, in, drops := l.judged(rec)
			if len(drops) > 0 {
				t.Fatalf("frame %d, %s: dropped: %v", i, f.name, drops)
			}
			if out == outs && in == ins {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("frame %d, %s: the port has judged %d frames out and %d in, want %d and %d", i, f.name, out, in, outs, ins)
			}
		}
		for _, say := range f.says {
			w := strings.Fields(say)
			kind, addr, by := w[0], w[1], w[3]
			switch {
			case kind == "Withdraws":
				delete(held, addr)
			case kind != "Foreign" && slices.Index(better, by) > slices.Index(better, held[addr]):
				held[addr] = by
			}
		}
		l.holds(f.name, held)
	}
	if len(held) == 0 {
		t.Error("nothing is held in the end")
	}

	// The guards are on.
	l.sendFrom("veth1p", udpFrom(rec.MAC, "10.100.0.66"))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		_, _, drops := l.judged(rec)
		if len(drops) == 1 && drops["IPGuard"] == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("of a packet from nobody's address drops are %v", drops)
		}
	}
}

// udpFrom is a datagram to a group.
func udpFrom(mac attach.MAC, addr string) []byte {
	a := netip.MustParseAddr(addr).As4()
	return slices.Concat([]byte{1, 0, 0x5e, 0, 0, 0xfb}, mac, []byte{8, 0, 0x45, 0, 0, 32, 0, 7, 0, 0, 64, 17, 0, 0}, a[:], []byte{224, 0, 0, 251, 0, 9, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4})
}

// holds waits until these are the addresses that the VM holds, and how.
func (l live) holds(after string, want map[string]string) {
	l.Helper()
	var got map[string]string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		got = map[string]string{}
		for _, a := range l.addressList("shop/p1").Items {
			if a.State == wire.AddressHeld {
				got[a.Address.String()] = a.Provenance
			}
		}
		if maps.Equal(got, want) {
			return
		}
	}
	l.Fatalf("after %s it has %v, want %v", after, got, want)
}
