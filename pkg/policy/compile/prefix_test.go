package compile

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/policy"
)

func prefixesOf(tb testing.TB, list ...string) (out []string) {
	tb.Helper()
	for _, s := range normalize(rangesOf(tb, list...)) {
		for _, p := range s.appendPrefixes(nil) {
			out = append(out, p.of(0).Prefix().String())
		}
	}
	return out
}

func rangesOf(tb testing.TB, list ...string) []policy.AddrRange {
	tb.Helper()
	out := []policy.AddrRange{}
	for _, text := range list {
		r, err := policy.ParseAddrRange(text)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestPrefixes(t *testing.T) {
	for name, tc := range map[string]struct{ list, want []string }{
		"nothing":             {nil, nil},
		"IPv6 over IPv4":      {[]string{"::fffe:ffff:ffff-::1:0:0:0"}, []string{"::fffe:ffff:ffff/128", "::1:0:0:0/128"}},
		"all IPv6":            {[]string{"::/0"}, []string{"::/0"}},
		"all IPv6 but ends":   {[]string{"::-::1", "ffff::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}, []string{"::/127", "ffff::/16"}},
		"all IPv4":            {[]string{"0.0.0.0/0"}, []string{"::ffff:0.0.0.0/96"}},
		"all of both":         {[]string{"::/0", "0.0.0.0/0"}, []string{"::ffff:0.0.0.0/96", "::/0"}},
		"one":                 {[]string{"10.0.0.1"}, []string{"::ffff:10.0.0.1/128"}},
		"last of IPv4":        {[]string{"255.255.255.255"}, []string{"::ffff:255.255.255.255/128"}},
		"uneven":              {[]string{"10.0.0.1-10.0.0.4"}, []string{"::ffff:10.0.0.1/128", "::ffff:10.0.0.2/127", "::ffff:10.0.0.4/128"}},
		"touching are joined": {[]string{"10.0.0.128/25", "10.0.0.0/25"}, []string{"::ffff:10.0.0.0/120"}},
		"nested are joined":   {[]string{"10.0.0.5", "10.0.0.0/24", "10.0.0.7-10.0.0.9"}, []string{"::ffff:10.0.0.0/120"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, prefixesOf(t, tc.list...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzPrefixes checks that the prefixes of a range hold its ends, not what is
// beside them, follow each other without a gap, and are few.
func FuzzPrefixes(f *testing.F) {
	f.Add(make([]byte, 16), slices.Repeat([]byte{0xff}, 16))
	f.Add([]byte{10, 0, 0, 1}, []byte{10, 0, 3, 9})
	f.Add([]byte{0, 0, 0, 0}, []byte{255, 255, 255, 255})
	f.Add([]byte{15: 1}, []byte{9: 1, 15: 0})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		first, ok1 := netip.AddrFromSlice(a)
		last, ok2 := netip.AddrFromSlice(b)
		if !ok1 || !ok2 || first.BitLen() != last.BitLen() || last.Less(first) ||
			first.Is4In6() || last.Is4In6() {
			t.Skip("not a range")
		}
		spans := normalize([]policy.AddrRange{{First: first, Last: last}})
		if len(spans) != 1 {
			t.Fatalf("%d spans", len(spans))
		}
		got := spans[0].appendPrefixes(nil)
		if len(got) == 0 || len(got) > 254 {
			t.Fatalf("%d prefixes", len(got))
		}
		next := netip.AddrFrom16(first.As16())
		for _, p := range got {
			r := wide(p.of(0).Prefix())
			if p.of(0).Prefix() != p.of(0).Prefix().Masked() {
				t.Fatalf("%v has host bits", p.of(0).Prefix())
			}
			skipsV4 := next == v4block.of(0).Prefix().Addr() && r.First == netip.MustParseAddr("::1:0:0:0")
			if r.First != next && !skipsV4 {
				t.Fatalf("%v does not follow %v", p.of(0).Prefix(), next)
			}
			next = r.Last.Next()
		}
		if end := netip.AddrFrom16(last.As16()).Next(); next != end {
			t.Fatalf("prefixes end before %v, want %v", next, end)
		}
	})
}

// wide is RangeOf without turning mapped addresses into IPv4.
func wide(p netip.Prefix) policy.AddrRange {
	b := p.Addr().As16()
	for i := p.Bits(); i < 128; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return policy.AddrRange{First: p.Addr(), Last: netip.AddrFrom16(b)}
}

// classified are the classes of lists.
func classified(lists ...[]policy.AddrRange) *classes {
	var l peerLists
	used := map[int]bool{}
	for _, list := range lists {
		used[l.number(list)] = true
	}
	return classify(l.lists, slices.Sorted(maps.Keys(used)))
}

func TestClassify(t *testing.T) {
	type entry struct {
		Prefix string
		Class  uint32
	}
	for name, tc := range map[string]struct {
		lists [][]string
		want  []entry
	}{
		"no lists":               {nil, nil},
		"empty list":             {[][]string{{}}, nil},
		"IPv6 stops before IPv4": {[][]string{{"::/0"}}, []entry{{"::/0", 1}, {"::ffff:0.0.0.0/96", 0}}},
		"one list for both":      {[][]string{{"::/0", "0.0.0.0/0"}}, []entry{{"::/0", 1}}},
		"nested inherits": {[][]string{{"10.0.0.0/8"}, {"10.1.0.0/16"}, {"10.1.1.1"}},
			[]entry{{"::ffff:10.0.0.0/104", 1}, {"::ffff:10.1.0.0/112", 2}, {"::ffff:10.1.1.1/128", 3}}},
		"equal sets share a class": {[][]string{{"10.0.0.0/24", "10.0.2.0/24"}, {"10.0.0.0/24", "10.0.2.0/24", "10.9.0.0/16"}},
			[]entry{{"::ffff:10.0.0.0/120", 1}, {"::ffff:10.0.2.0/120", 1}, {"::ffff:10.9.0.0/112", 2}}},
		"one prefix, two lists": {[][]string{{"10.0.0.0/24"}, {"10.0.0.0/24"}}, []entry{{"::ffff:10.0.0.0/120", 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			var lists [][]policy.AddrRange
			for _, l := range tc.lists {
				lists = append(lists, rangesOf(t, l...))
			}
			var got []entry
			for _, a := range classified(lists...).addrs {
				got = append(got, entry{a.Prefix().String(), a.Class})
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPrefixesApart holds what is found by what two lists have in common against what is
// found without. The second list is in order, or is not to be followed.
func TestPrefixesApart(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 11))
	at := func(v4 bool, n byte) netip.Addr {
		if v4 {
			return netip.AddrFrom4([4]byte{10, 0, 0, n})
		}
		return netip.AddrFrom16([16]byte{0xfd, 15: n})
	}
	list := func(of int) (out []policy.AddrRange) {
		for range of {
			v4, n := rng.IntN(2) == 0, byte(rng.IntN(60))
			out = append(out, policy.AddrRange{First: at(v4, n), Last: at(v4, n+byte(rng.IntN(3)))})
		}
		return out
	}
	all := func(l []policy.AddrRange) (out []prefix) {
		for _, s := range normalize(l) {
			out = s.appendPrefixes(out)
		}
		slices.SortFunc(out, prefix.compare)
		return out
	}
	less := func(a, b []prefix) (out []prefix) {
		for _, p := range a {
			if !slices.Contains(b, p) {
				out = append(out, p)
			}
		}
		return out
	}
	followed, refused := 0, 0
	for range 20000 {
		was := policy.MergeRanges(list(rng.IntN(12)))
		is := slices.Clone(was)
		for range rng.IntN(3) { // few differ
			if i := rng.IntN(len(is) + 1); i < len(is) && rng.IntN(2) == 0 {
				is = slices.Delete(is, i, i+1)
			} else {
				is = slices.Insert(is, i, list(1)...)
			}
		}
		if rng.IntN(2) == 0 {
			is = policy.MergeRanges(is)
		}
		gone, put, ok := prefixesApart(was, is)
		if want := merged(is); ok != want {
			t.Fatalf("%v to %v: followed %v, want %v", was, is, ok, want)
		}
		if !ok {
			refused++
			continue
		}
		if len(gone)+len(put) > 0 {
			followed++
		}
		if wantGone, wantPut := less(all(was), all(is)), less(all(is), all(was)); !slices.Equal(gone, wantGone) || !slices.Equal(put, wantPut) {
			t.Fatalf("%v to %v: without %v, with %v, want %v, %v", was, is, gone, put, wantGone, wantPut)
		}
	}
	if followed < 1000 || refused < 1000 {
		t.Errorf("%d followed, %d refused", followed, refused)
	}
	bad := policy.AddrRange{First: at(true, 9), Last: at(true, 3)}
	if _, _, ok := prefixesApart(rangesOf(t, "10.0.0.1", "10.0.0.20"), append(rangesOf(t, "10.0.0.1"), bad)); ok {
		t.Error("a range whose end is below its start is followed")
	}
}

func TestClassOfEqualsLinearSearch(t *testing.T) {
	addrs := classified(
		rangesOf(t, "10.0.0.0/8", "fd00::/16", "::-::9"),
		rangesOf(t, "10.1.0.3-10.1.0.77", "fd00:0:0:1::/64", "::/0"),
		rangesOf(t, "10.1.0.64/26", "0.0.0.0/1", "::4"),
	).addrs
	linear := func(a netip.Addr) (class uint32) {
		best := -1
		for _, e := range addrs {
			if e.Prefix().Contains(netip.AddrFrom16(a.As16())) && e.Prefix().Bits() > best {
				best, class = e.Prefix().Bits(), e.Class
			}
		}
		return class
	}
	tried := 0
	for _, e := range addrs {
		r := wide(e.Prefix())
		for _, a := range []netip.Addr{r.First.Prev(), r.First, r.First.Next(), r.Last.Prev(), r.Last, r.Last.Next()} {
			if !a.IsValid() {
				continue
			}
			tried++
			if got, want := ClassOf(addrs, a), linear(a); got != want {
				t.Errorf("%v has class %d, want %d", a, got, want)
			}
		}
	}
	if tried < 50 {
		t.Errorf("only %d addresses tried", tried)
	}
}
