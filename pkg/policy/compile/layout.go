package compile

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// Limits of bpf/include/abi.h.
const (
	// WordsMax is HP_WORDS_MAX: the 64-bit words of the widest row.
	WordsMax = 192
	// RulesMax is the number of rules that one network's set can have; see [lines].
	RulesMax = 64 * WordsMax
	// CountersMax is HP_BOOKS_MAX * HP_BOOK_COUNTERS: rules and defaults that a node can count.
	CountersMax = 32 * 8192
	// ServicesMax is the number of services that a set of them can have, with those of
	// the sets that it includes, and a rule of its own: v1alpha1.MaxCombinations.
	ServicesMax = 1024
	// ServicesTotal is what the services of all rules of one network can come to.
	ServicesTotal = 1 << 20
	// TiersMax is HP_TIERS_MAX: tiers that rules can be of, from 0 on.
	TiersMax = 8
	// ChunksMax is what a 16-bit chunk number can tell apart in one network.
	ChunksMax = 1 << 16
	// RowsMax is what a 16-bit row number can tell apart in one network.
	RowsMax = 1 << 16
	// RowBytesMax bounds what all rows of one network take.
	RowBytesMax = 64 << 20
)

// wordsFor is the width of rows that hold so many rules: none breaks a page.
func wordsFor(rules int) int {
	words := max(1, (rules+63)/64)
	if words >= wordsPerPage {
		return (words + wordsPerPage - 1) / wordsPerPage * wordsPerPage
	}
	return 1 << bits.Len(uint(words-1))
}

// rowsFor is how many different rows of that width a network can have.
func rowsFor(words int) int { return min(RowsMax, RowBytesMax/(8*words)) }

// Entries of each kind that a page holds.
const (
	u16sPerPage  = PageSize / 2
	rulesPerPage = PageSize / 16
	wordsPerPage = PageSize / 8
	partsPerPage = PageSize / 16
)

// partsBehind is how many parts a group of TCP flags has in the table behind Flagparts.
const partsBehind = 1 + TiersMax

// The groups of the service index: enum hp_svc_group.
const (
	svcTCP = iota
	svcUDP
	svcICMP
	svcICMPv6
	svcSCTP
	svcIP // of IP protocols, for packets of which no more is known
	svcGroups
)

// portGroups are the protocols of the source port index's groups.
var portGroups = [...]uint8{policy.TCP, policy.UDP, policy.SCTP}

// groups are the protocols of the groups but svcIP.
var groups = [svcIP]uint8{
	svcTCP: policy.TCP, svcUDP: policy.UDP, svcICMP: policy.ICMP, svcICMPv6: policy.ICMPv6, svcSCTP: policy.SCTP,
}

// Header is struct hp_header, page 0 of a [Policy]: its fields in their order,
// 32 bits each. Places are page numbers.
type Header struct {
	EarlierWords   uint32 // 0: no program of an earlier version reads this
	Rules          uint32
	DefaultAction  uint32
	DefaultCounter uint32
	SrcClassrow    uint32
	DstClassrow    uint32
	Classes        uint32
	Rows           uint32
	Svcindex       uint32
	Svcchunk       uint32
	SvcNoneRow     uint32
	Meta           uint32
	DirRow         [2]uint32
	SvcGroups      uint32
	Sportindex     uint32
	Monitored      uint32
	Parts          [TiersMax]Part
	LocalClassrow  [2]uint32
	Flagindex      uint32
	Flagparts      uint32
	Etherindex     uint32
	Words          uint32
}

// Part is struct hp_part but for its padding: rows of some rules alone.
type Part struct {
	DirRow     [2]uint32
	Sportindex uint32
}

// partMonitored is the place in Parts of the monitored rules: that of HP_MONITORED. Those
// of the rules of tiers from 1 on, and so on, are before it.
const partMonitored = TiersMax - 1

// fields lists the header's fields in the order of struct hp_header.
func (h *Header) fields() []*uint32 {
	list := []*uint32{
		&h.EarlierWords, &h.Rules, &h.DefaultAction, &h.DefaultCounter,
		&h.SrcClassrow, &h.DstClassrow, &h.Classes, &h.Rows,
		&h.Svcindex, &h.Svcchunk, &h.SvcNoneRow, &h.Meta,
		&h.DirRow[0], &h.DirRow[1], &h.SvcGroups, &h.Sportindex, &h.Monitored,
	}
	for i := range h.Parts {
		p := &h.Parts[i]
		list = append(list, &p.DirRow[0], &p.DirRow[1], &p.Sportindex)
	}
	return append(list, &h.LocalClassrow[0], &h.LocalClassrow[1], &h.Flagindex, &h.Flagparts, &h.Etherindex, &h.Words)
}

func (h *Header) page() (p Page) {
	for i, f := range h.fields() {
		binary.NativeEndian.PutUint32(p[4*i:], *f)
	}
	return p
}

// Header reads page 0. It fails on a policy without pages or with a row width
// that this version does not know.
func (p *Policy) Header() (h Header, err error) {
	if len(p.Pages) == 0 {
		return h, fmt.Errorf("program of network %q has no pages", p.Network)
	}
	for i, f := range h.fields() {
		*f = binary.NativeEndian.Uint32(p.Pages[0][4*i:])
	}
	if h.Words < 1 || h.Words > WordsMax || int(h.Words) != wordsFor(64*int(h.Words)) {
		return h, fmt.Errorf("program of network %q has rows of %d words, want a power of two, or of more than %d a multiple of that, to %d",
			p.Network, h.Words, wordsPerPage, WordsMax)
	}
	return h, nil
}

// SetHeader writes page 0, which must exist. Tests break programs with it.
func (p *Policy) SetHeader(h Header) { p.Pages[0] = h.page() }

// HP_RULE_IMPLIED to HP_RULE_FIRM, and HP_RULE_LINK_SHIFT.
const (
	ruleImplied   = 1
	ruleStateless = 2
	ruleLoose     = 4
	ruleLog       = 8
	ruleFirm      = 16
	ruleLinkShift = 16
)

// ruleMeta is struct hp_rule.
type ruleMeta struct {
	counter, ruleID, action, flags uint32
}

func (m ruleMeta) put(b []byte) {
	for i, v := range [...]uint32{m.counter, m.ruleID, m.action, m.flags} {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
}

func getRuleMeta(b []byte) ruleMeta {
	at := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	return ruleMeta{counter: at(0), ruleID: at(1), action: at(2), flags: at(3)}
}

// pageWriter appends tables to a policy, each beginning on a page of its own.
type pageWriter struct{ pages []Page }

// table adds pages for n entries, per to a page, and returns the first page's
// number. put writes entry i into the bytes from its place on.
func (w *pageWriter) table(n, per int, put func(b []byte, i int)) uint32 {
	first := len(w.pages)
	w.pages = append(w.pages, make([]Page, (n+per-1)/per)...)
	for i := range n {
		put(w.pages[first+i/per][i%per*(PageSize/per):], i)
	}
	return uint32(first)
}

func (w *pageWriter) u16s(vals []uint16) uint32 {
	return w.table(len(vals), u16sPerPage, func(b []byte, i int) {
		binary.NativeEndian.PutUint16(b, vals[i])
	})
}
