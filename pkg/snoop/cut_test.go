package snoop

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// talks are all good frames, in the order in which they say something.
func talks() map[string][]step {
	all := map[string][]step{"ARP": arpSays(), "ND": ndSays()}
	for prefix, more := range map[string]map[string][]step{"DHCPv4": dhcpv4Talks(), "DHCPv6": dhcpv6Talks(), "boot": boots()} {
		for name, steps := range more {
			all[prefix+", "+name] = steps
		}
	}
	return all
}

// TestFrames: what the tests send is what others read as such.
func TestFrames(t *testing.T) {
	for name, steps := range talks() {
		for _, s := range steps {
			// The library does not go on behind all extension headers.
			if s.want != nil && !strings.Contains(s.name, "behind") && name != "DHCPv6, behind options" {
				checkFrame(t, name+", "+s.name, s.data)
			}
		}
	}
}

// TestCut: the beginning of a frame says the same as the frame, or nothing; as much as the port's program tells says the same.
func TestCut(t *testing.T) {
	const told, toldDHCP = 128, 1000
	for name, steps := range talks() {
		for i, s := range steps {
			enough := toldDHCP
			switch {
			case s.name == "behind eight": // is longer than what is told
				enough = len(s.data)
			case name == "ARP" || name == "ND":
				enough = told
			}
			said := false
			for n := range len(s.data) + 1 {
				r, at := New(), start
				for _, before := range steps[:i] {
					at = at.Add(before.after)
					r.Read(before.frame(at))
				}
				at = at.Add(s.after)
				f := s.frame(at)
				f.Data = slices.Clip(f.Data[:n])
				got := words(at, r.Read(f))
				if got != nil && !cmp.Equal(got, s.want) {
					t.Fatalf("%s, %s: %d bytes of %d say %q, want %q or nothing", name, s.name, n, len(s.data), got, s.want)
				}
				if got == nil && n >= min(enough, len(s.data)) && s.want != nil {
					t.Fatalf("%s, %s: %d bytes of %d say nothing, want %q", name, s.name, n, len(s.data), s.want)
				}
				if got == nil && said {
					t.Fatalf("%s, %s: %d bytes of %d say nothing, and fewer say something", name, s.name, n, len(s.data))
				}
				said = said || got != nil
			}
		}
	}
}

// TestCutAdvertisement: the target's link address may be in what is cut off, so nobody is accused.
func TestCutAdvertisement(t *testing.T) {
	whole := na(server, override, a6, make([]byte, 0), cat([]byte{14, 8}, make([]byte, 62)), link(2, router))
	play(t, []step{
		{name: "whole", data: whole, want: []string{"Foreign 2001:db8:100::10 by ND of router"}},
		{name: "128 bytes", data: whole[:128]},
		{name: "cut in the link address", data: whole[:len(whole)-1]},
		{name: "the VM's own, 128 bytes", out: true, data: changed(whole, 6, vm[:]...)[:128], want: claimsA6},
	})
}

// TestLongOffer: of an answer of 1,400 bytes the first thousand do, if type and lease are there.
func TestLongOffer(t *testing.T) {
	var long [][]byte
	for range 5 {
		long = append(long, opt(43, make([]byte, 230)...))
	}
	early := answers(a4, nil, append([][]byte{kind4(5), lease(3600)}, long...)...)
	late := answers(a4, nil, append(append([][]byte{kind4(5)}, long...), lease(3600))...)
	if len(early) < 1400 {
		t.Fatalf("only %d bytes", len(early))
	}
	play(t, []step{
		{name: "request", out: true, data: requests()},
		{name: "early", data: early[:1000], want: leasedA4},
		{name: "late", data: late[:1000]},
		{name: "late, but whole", data: late, want: leasedA4},
	})
}
