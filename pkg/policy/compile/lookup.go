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
	Action  policy.Action
	Counter uint32 // that the judgement counts at: of the rule, or of the default action
	RuleID  uint32 // of the rule; 0 for the default action
	// Also are further counters: of the Pass rules on the way, and of the monitored rule
	// that would have decided instead.
	Also []uint32
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
	return classOf(addrs, toU128(a), 128)
}

// classOf is the class of the longest prefix around an IPv6 address, of at most limit bits.
func classOf(addrs []AddrClass, a u128, limit int) uint32 {
	for limit >= 0 {
		want := prefix{a.masked(limit), limit}
		// The last entry not after want either covers it, and then is the
		// longest that does, or shares fewer leading bits with it.
		i := sort.Search(len(addrs), func(i int) bool { return addrs[i].prefix().compare(want) > 0 }) - 1
		if i < 0 {
			return 0
		}
		found := addrs[i].prefix()
		same := commonBits(found.addr, a)
		if same >= found.bits {
			return addrs[i].Class
		}
		limit = same
	}
	return 0
}

// reader reads pages; the first place outside of them is kept as err.
type reader struct {
	Header
	pages []Page
	err   error
	// Counters of rules on the way, and of those that would have decided.
	passed, monitored []uint32
}

// judge asks about the frame, and then about the packet.
func (r *reader) judge(addrs []AddrClass, pkt policy.Packet) Match {
	m := r.both(addrs, pkt)
	m.Also = slices.Concat(r.passed, r.monitored)
	return m
}

func (r *reader) both(addrs []AddrClass, pkt policy.Packet) Match {
	if r.Etherindex != 0 && pkt.EtherType != policy.EtherRARP {
		sides := r.sides(pkt.Direction, ClassOf(addrs, policy.MACAddr(pkt.SrcMAC)), ClassOf(addrs, policy.MACAddr(pkt.DstMAC)))
		frame := policy.Packet{Direction: pkt.Direction} // without source ports and flags
		switch m, ruled := r.first(sides, r.indexed(r.Etherindex, pkt.EtherType), frame); {
		case ruled && (m.Action != policy.Allow || !pkt.IP):
			return m
		case ruled:
			r.passed = append(r.passed, m.Counter)
		}
	}
	var sides [2]uint32
	svc := r.SvcNoneRow
	if pkt.IP {
		sides = r.sides(pkt.Direction, ClassOf(addrs, pkt.Src), ClassOf(addrs, pkt.Dst))
		group, service := uint32(svcIP), uint16(pkt.Protocol)
		if i := slices.Index(groups[:], pkt.Protocol); i >= 0 && pkt.HasService {
			group, service = uint32(i), pkt.Service
		}
		svc = r.indexed(r.Svcindex+group, service)
	}
	m, _ := r.first(sides, svc, pkt)
	return m
}

// sides are the rows of source and destination.
func (r *reader) sides(d policy.Direction, src, dst uint32) [2]uint32 {
	srcTable, dstTable := r.SrcClassrow, r.DstClassrow
	if out := r.LocalClassrow[policy.Out]; out != 0 && d == policy.Out {
		srcTable = out
	}
	if in := r.LocalClassrow[policy.In]; in != 0 && d == policy.In {
		dstTable = in
	}
	return [2]uint32{r.classRow(srcTable, src), r.classRow(dstTable, dst)}
}

// first is what the first rule says that matches, or, if none is found, the default.
func (r *reader) first(sides [2]uint32, svc uint32, pkt policy.Packet) (m Match, ruled bool) {
	part := -1
	for range TiersMax {
		at, found := r.winner(sides[0], sides[1], svc, r.applying(part, pkt))
		if found && at >= r.Rules+r.Monitored {
			r.err = errors.Join(r.err, fmt.Errorf("rule position %d of %d", at, r.Rules+r.Monitored))
			return m, false
		}
		at = min(at, r.Rules)
		m.Action, m.Counter, m.RuleID = policy.Action(r.DefaultAction), r.DefaultCounter, 0
		if at < r.Rules {
			rule := r.rule(at)
			if link := rule.flags >> ruleLinkShift; policy.Action(rule.action) == policy.Pass && link > 0 && link < TiersMax {
				r.passed = append(r.passed, rule.counter)
				part = int(link) - 1
				continue
			}
			m.Action, m.Counter, m.RuleID = policy.Action(rule.action), rule.counter, rule.ruleID
			ruled = true
		}
		if r.Monitored > 0 {
			if monitored, found := r.winner(sides[0], sides[1], svc, r.applying(partMonitored, pkt)); found {
				if rule := r.rule(monitored); rule.flags>>ruleLinkShift <= at {
					r.monitored = append(r.monitored, rule.counter)
				}
			}
		}
		return m, ruled
	}
	r.err = errors.Join(r.err, errors.New("pass rules lead in a circle"))
	return m, false
}

// applying is the row of a part's rules that apply in the packet's direction, but those
// that want other source ports.
func (r *reader) applying(part int, pkt policy.Packet) uint32 {
	p := Part{r.DirRow, r.Sportindex}
	if part >= 0 {
		p = r.Parts[part]
	}
	if r.Flagindex != 0 {
		group := uint32(0)
		if pkt.IP && pkt.Protocol == policy.TCP && pkt.HasService {
			group = r.u16(r.Flagindex, uint32(pkt.Flags))
		}
		at := group*partsBehind + uint32(part+1)
		b := r.bytes(r.Flagparts+at/partsPerPage, at%partsPerPage*16, 12)
		p = Part{[2]uint32{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])}, binary.NativeEndian.Uint32(b[8:])}
	}
	if i := slices.Index(portGroups[:], pkt.Protocol); i >= 0 && pkt.IP && pkt.HasService && p.Sportindex != 0 {
		return r.indexed(p.Sportindex+uint32(pkt.Direction)*uint32(len(portGroups))+uint32(i), pkt.SourcePort)
	}
	return p.DirRow[pkt.Direction]
}

// winner is the position of the first rule that all rows name. If none does it is behind all.
func (r *reader) winner(rows ...uint32) (at uint32, found bool) {
	for word := range r.Words {
		hit := ^uint64(0)
		for _, row := range rows {
			hit &= r.word(row, word)
		}
		if hit != 0 {
			return word*64 + uint32(bits.TrailingZeros64(hit)), true
		}
	}
	return 64 * r.Words, false
}

// indexed is the row number of a port, or the like, by the index at page.
func (r *reader) indexed(page uint32, at uint16) uint32 {
	chunk := r.u16(page, uint32(at>>8))
	return r.u16(r.Svcchunk+chunk, uint32(at&0xff))
}

func (r *reader) rule(at uint32) ruleMeta {
	return getRuleMeta(r.bytes(r.Meta+at/rulesPerPage, at%rulesPerPage*16, 16))
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
