package compile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// ErrNoProgram says that a network has no compiled policy; its ports drop all.
var ErrNoProgram = errors.New("no compiled policy")

// Match is what the compiled bytes say about a packet.
type Match struct {
	policy.Verdict
	Counter uint32 // that the judgement counts at
	RuleID  uint32 // of the rule; 0 for the default action
}

// Lookup judges a packet by reading the compiled bytes as the port program
// does. It fails with [ErrNoProgram] for an unknown network, and on bytes that
// point outside of themselves.
func Lookup(p *Program, network string, pkt policy.Packet) (Match, error) {
	i, ok := slices.BinarySearchFunc(p.Policies, network, func(p Policy, name string) int {
		return strings.Compare(p.Network, name)
	})
	if !ok {
		return Match{}, fmt.Errorf("network %q: %w", network, ErrNoProgram)
	}
	r := reader{pages: p.Policies[i].Pages}
	var err error
	if r.Header, err = p.Policies[i].Header(); err != nil {
		return Match{}, err
	}
	m := r.judge(p.Addrs, pkt)
	if r.err != nil {
		return Match{}, fmt.Errorf("network %q: %w", network, r.err)
	}
	return m, nil
}

// ClassOf is the class of an address: that of the longest prefix around it, or
// 0. IPv4 is looked up mapped.
func ClassOf(addrs []AddrClass, a netip.Addr) uint32 {
	a = netip.AddrFrom16(a.As16())
	for limit := 128; limit >= 0; {
		want := netip.PrefixFrom(a, limit).Masked()
		// The last entry not after want either covers it, and then is the
		// longest that does, or shares fewer leading bits with it.
		i := sort.Search(len(addrs), func(i int) bool { return after(addrs[i].Prefix, want) }) - 1
		if i < 0 {
			return 0
		}
		found := addrs[i].Prefix
		same := commonBits(found.Addr(), a)
		if same >= found.Bits() {
			return addrs[i].Class
		}
		limit = same
	}
	return 0
}

// after says whether p comes after q in the order of the table.
func after(p, q netip.Prefix) bool {
	c := p.Addr().Compare(q.Addr())
	return c > 0 || c == 0 && p.Bits() > q.Bits()
}

func commonBits(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	for i := range x {
		if x[i] != y[i] {
			return 8*i + bits.LeadingZeros8(x[i]^y[i])
		}
	}
	return 128
}

// reader reads pages; the first place outside of them is kept as err.
type reader struct {
	Header
	pages []Page
	err   error
}

func (r *reader) judge(addrs []AddrClass, pkt policy.Packet) Match {
	var src, dst uint32
	svc := r.SvcNoneRow
	if pkt.IP {
		src = r.classRow(r.SrcClassrow, ClassOf(addrs, pkt.Src))
		dst = r.classRow(r.DstClassrow, ClassOf(addrs, pkt.Dst))
		if group, ok := groupOf(pkt.Protocol); ok && pkt.HasService {
			chunk := r.u16(r.Svcindex+group, uint32(pkt.Service>>8))
			svc = r.u16(r.Svcchunk+chunk, uint32(pkt.Service&0xff))
		}
	}
	for word := range r.Words {
		hit := r.word(src, word) & r.word(dst, word) & r.word(svc, word) & r.word(r.DirRow[pkt.Direction], word)
		if hit != 0 {
			return r.rule(word*64 + uint32(bits.TrailingZeros64(hit)))
		}
	}
	return Match{
		Verdict: policy.Verdict{Action: policy.Action(r.DefaultAction), Rule: -1},
		Counter: r.DefaultCounter,
	}
}

func groupOf(protocol uint8) (uint32, bool) {
	switch protocol {
	case policy.TCP:
		return svcTCP, true
	case policy.UDP:
		return svcUDP, true
	case policy.ICMP:
		return svcICMP, true
	case policy.ICMPv6:
		return svcICMPv6, true
	}
	return 0, false
}

func (r *reader) rule(at uint32) Match {
	if at >= r.Rules {
		r.err = errors.Join(r.err, fmt.Errorf("rule position %d of %d", at, r.Rules))
		return Match{}
	}
	m := getRuleMeta(r.bytes(r.Meta+at/rulesPerPage, at%rulesPerPage*16, 16))
	return Match{
		Verdict: policy.Verdict{Action: policy.Action(m.action), Rule: int(at)},
		Counter: m.counter,
		RuleID:  m.ruleID,
	}
}

// classRow is the row number of a class in the table that begins at page.
func (r *reader) classRow(page, class uint32) uint32 {
	if class >= r.Classes {
		return 0
	}
	return r.u16(page+class/u16sPerPage, class%u16sPerPage)
}

func (r *reader) word(number, word uint32) uint64 {
	at := number*r.Words + word
	return binary.NativeEndian.Uint64(r.bytes(r.Rows+at/wordsPerPage, at%wordsPerPage*8, 8))
}

func (r *reader) u16(page, i uint32) uint32 {
	return uint32(binary.NativeEndian.Uint16(r.bytes(page, 2*i, 2)))
}

func (r *reader) bytes(page, from, n uint32) []byte {
	if uint64(page) >= uint64(len(r.pages)) {
		if r.err == nil {
			r.err = fmt.Errorf("page %d of %d", page, len(r.pages))
		}
		return make([]byte, n)
	}
	return r.pages[page][from : from+n]
}
