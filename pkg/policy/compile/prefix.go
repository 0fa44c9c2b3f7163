package compile

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// u128 is an IPv6 address as a number.
type u128 struct{ hi, lo uint64 }

func (a u128) cmp(b u128) int {
	if c := cmp.Compare(a.hi, b.hi); c != 0 {
		return c
	}
	return cmp.Compare(a.lo, b.lo)
}

func (a u128) sub(b u128) u128 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return u128{hi, lo}
}

func (a u128) add(b u128) u128 {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	hi, _ := bits.Add64(a.hi, b.hi, carry)
	return u128{hi, lo}
}

func (a u128) isZero() bool { return a.hi|a.lo == 0 }

func (a u128) trailingZeros() int {
	if a.lo != 0 {
		return bits.TrailingZeros64(a.lo)
	}
	return 64 + bits.TrailingZeros64(a.hi)
}

func (a u128) len() int {
	if a.hi != 0 {
		return 64 + bits.Len64(a.hi)
	}
	return bits.Len64(a.lo)
}

// pow2 is 1<<n for n below 128.
func pow2(n int) u128 {
	if n >= 64 {
		return u128{1 << (n - 64), 0}
	}
	return u128{0, 1 << n}
}

// masked is the address with all zero behind its first bits.
func (a u128) masked(bits int) u128 {
	if bits <= 64 {
		return u128{a.hi &^ (^uint64(0) >> bits), 0}
	}
	return u128{a.hi, a.lo &^ (^uint64(0) >> (bits - 64))}
}

func toU128(a netip.Addr) u128 { return u128Of(a.As16()) }

func u128Of(b [16]byte) u128 {
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// prefix is an IPv6 prefix, IPv4 mapped.
type prefix struct {
	addr u128
	bits int
}

// v4block is ::ffff:0:0/96, the home of all IPv4.
var v4block = prefix{u128{0, 0xffff << 32}, 96}

// contains says whether q lies in p.
func (p prefix) contains(q prefix) bool {
	if q.bits < p.bits {
		return false
	}
	if p.bits == 0 {
		return true
	}
	return commonBits(p.addr, q.addr) >= p.bits
}

func commonBits(a, b u128) int { return 128 - u128{a.hi ^ b.hi, a.lo ^ b.lo}.len() }

// compare puts a covering prefix right before what it covers.
func (p prefix) compare(q prefix) int {
	if c := p.addr.cmp(q.addr); c != 0 {
		return c
	}
	return cmp.Compare(p.bits, q.bits)
}

// of gives the prefix a class.
func (p prefix) of(class uint32) AddrClass {
	a := AddrClass{Bits: uint8(p.bits), Class: class}
	binary.BigEndian.PutUint64(a.Addr[:8], p.addr.hi)
	binary.BigEndian.PutUint64(a.Addr[8:], p.addr.lo)
	return a
}

// span is an inclusive range of addresses of one family.
type span struct {
	v4          bool
	first, last u128
}

// normalize sorts ranges, joins those that overlap or touch and maps IPv4, so
// that lists of the same addresses become equal.
func normalize(list []policy.AddrRange) []span {
	spans := make([]span, len(list))
	for i, r := range list {
		spans[i] = span{r.First.Is4(), toU128(r.First), toU128(r.Last)}
	}
	slices.SortFunc(spans, func(a, b span) int {
		if a.v4 != b.v4 {
			if a.v4 {
				return -1
			}
			return 1
		}
		return a.first.cmp(b.first)
	})
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && out[n-1].touches(s) {
			if out[n-1].last.cmp(s.last) < 0 {
				out[n-1].last = s.last
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// touches says whether next, which does not begin earlier, continues s.
func (s span) touches(next span) bool {
	if s.v4 != next.v4 {
		return false
	}
	after := s.last.add(u128{0, 1})
	return after.isZero() || next.first.cmp(after) <= 0
}

// appendPrefixes appends the fewest prefixes that make up s, in order. What an
// IPv6 span covers of the IPv4 block is left out only where a prefix lies
// within the block: prefixes around it are stopped by [classify].
func (s span) appendPrefixes(out []prefix) []prefix {
	for at := s.first; ; {
		size := 128 // of the block at at, as a power of two
		if !at.isZero() {
			size = at.trailingZeros()
		}
		left := s.last.sub(at).add(u128{0, 1}) // 0 is 2^128
		if !left.isZero() {
			size = min(size, left.len()-1)
		}
		p := prefix{at, 128 - size}
		if s.v4 || !v4block.contains(p) {
			out = append(out, p)
		}
		if size == 128 {
			return out
		}
		if at = at.add(pow2(size)); at.isZero() || s.last.cmp(at) < 0 {
			return out
		}
	}
}
