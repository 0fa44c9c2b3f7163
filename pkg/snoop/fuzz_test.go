package snoop

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/homeport-cni/homeport/pkg/learn"
)

var comparing = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

// checkSaid has one thing said make sense: it is of the frames' bytes, and of what a frame in that direction can say.
func checkSaid(t *testing.T, f Frame, before []byte, s Said) {
	t.Helper()
	bytesOf := f.Data
	if s.Kind == Withdraws && !f.Out {
		bytesOf = slices.Concat(before, f.Data) // of what a refusal answers
	}
	switch a := s.Addr; {
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.Is4In6(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		t.Errorf("says %v", a)
	case !bytes.Contains(bytesOf, a.AsSlice()):
		t.Errorf("%v is not in the frame", a)
	}
	if s.MAC == (learn.MAC{}) || s.MAC != f.Port.MAC && !bytes.Contains(f.Data, s.MAC[:]) {
		t.Errorf("MAC %v is not in the frame", s.MAC)
	}
	ofDHCP, isOutside := s.Provenance == learn.DHCP, s.Kind == Foreign
	switch {
	case s.VLAN != f.VLAN:
		t.Errorf("VLAN %d", s.VLAN)
	case s.Kind < Claims || s.Kind > Asks:
		t.Errorf("kind %v", s.Kind)
	case isOutside && (f.Out || ofDHCP || s.MAC == f.Port.MAC || macsOf(f.Data).from == f.Port.MAC):
		t.Errorf("%+v is no foreigner", s)
	case !isOutside && !ofDHCP && (!f.Out || s.Kind != Claims && s.Kind != Asks || s.MAC != macsOf(f.Data).from):
		t.Errorf("%+v is not for the VM to say", s)
	case s.Kind == Asks && s.Provenance != learn.ND:
		t.Errorf("%+v asks", s)
	case ofDHCP && (f.Out == (s.Kind == Claims)) && s.Kind != Withdraws:
		t.Errorf("%+v is not for the VM to say", s)
	case s.Addr.Is6() && s.Provenance == learn.ARP || s.Addr.Is4() && s.Provenance == learn.ND:
		t.Errorf("%+v is of the other family", s)
	case !s.Until.IsZero() && (s.Kind != Claims || !ofDHCP || !s.Until.After(f.At)):
		t.Errorf("%+v has a lease", s)
	}
}

// macsOf are a frame's own.
func macsOf(data []byte) (m struct{ to, from learn.MAC }) {
	copy(m.to[:], data)
	copy(m.from[:], data[6:])
	return m
}

// FuzzRead: whatever the VM sends, and then comes, what is said makes sense; a tag changes nothing, neither does who reads it.
func FuzzRead(f *testing.F) {
	for _, steps := range talks() {
		var last []byte
		for _, s := range steps {
			if s.out {
				last = s.data
			}
			if s.want != nil {
				f.Add(last, s.data, s.out)
				f.Add(last, s.data[:len(s.data)*2/3], s.out)
			}
		}
	}
	f.Fuzz(func(t *testing.T, first, second []byte, out bool) {
		at := start.Add(time.Second)
		frames := []Frame{
			{At: start, Port: port, Out: true, VLAN: testVLAN, Data: slices.Clip(first)},
			{At: at, Port: port, Out: out, VLAN: testVLAN, Data: slices.Clip(second)},
		}
		r, again, withTags := New(), New(), New()
		for _, fr := range frames {
			before := slices.Clone(fr.Data)
			said := r.Read(fr)
			if !bytes.Equal(before, fr.Data) {
				t.Fatal("the frame is changed")
			}
			for _, s := range said {
				checkSaid(t, fr, first, s)
			}
			if len(r.asks[port.ID]) > maxAsks {
				t.Errorf("keeps %d questions", len(r.asks[port.ID]))
			}
			if diff := cmp.Diff(said, again.Read(fr), comparing); diff != "" {
				t.Errorf("another reader says else:\n%s", diff)
			}
			if len(fr.Data) < 14 || bytes.Equal(fr.Data[12:14], []byte{0x81, 0}) {
				return
			}
			fr.Data = tagged(fr.Data, 0x2064)
			if diff := cmp.Diff(said, withTags.Read(fr), comparing); diff != "" {
				t.Errorf("with a tag it says else:\n%s", diff)
			}
		}
	})
}

// TestTogether: ports may be read and forgotten at once.
func TestTogether(t *testing.T) {
	r := New()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			mine := string(rune('a' + i))
			q, a := step{port: mine, out: true, data: requests()}, step{port: mine, data: ack(nil)}
			for range 200 {
				r.Read(q.frame(start))
				if got := words(start, r.Read(a.frame(start))); !slices.Equal(got, leasedA4) {
					t.Errorf("port %s says %v", mine, got)
				}
				r.Forget(mine)
			}
		})
	}
	wg.Wait()
	if len(r.asks) != 0 {
		t.Errorf("%d ports are kept", len(r.asks))
	}
}

func TestKind(t *testing.T) {
	for k, want := range map[Kind]string{0: "Kind(0)", Claims: "Claims", Withdraws: "Withdraws", Foreign: "Foreign", Asks: "Asks", 5: "Kind(5)"} {
		if got := k.String(); got != want {
			t.Errorf("%d is %s, want %s", k, got, want)
		}
	}
}

// BenchmarkRead is what a frame costs, by what it says.
func BenchmarkRead(b *testing.B) {
	for _, bench := range []struct {
		name     string
		question []byte
		step
	}{
		{"ARP", nil, step{out: true, data: padded(announce(vm, a4)), want: claimsA4}},
		{"ND", nil, step{out: true, data: na(vm, override, a6, link(2, vm)), want: claimsA6}},
		{"Foreign", nil, step{data: na(server, override, a6, link(2, server)), want: foreignA6}},
		{"DHCPv4 request", nil, step{out: true, data: requests()}},
		{"DHCPv4 ack", requests(), step{data: ack(nil), want: leasedA4}},
		{"DHCPv6 reply", asks6(3), step{data: answers6(7, givesA6()), want: leasedA6}},
		{"probe", nil, step{out: true, data: padded(probe(vm, a4))}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r := New()
			q := step{out: true, data: bench.question}
			r.Read(q.frame(start))
			f := bench.frame(start)
			if got := words(start, r.Read(f)); !slices.Equal(got, bench.want) {
				b.Fatalf("says %v, want %v", got, bench.want)
			}
			b.ReportAllocs()
			for b.Loop() {
				r.Read(f)
			}
		})
	}
}
