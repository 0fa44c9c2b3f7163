package compile

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// row has a bit per rule, by position. All of one policy are of one width.
type row []uint64

func (r row) flip(rule int) { r[rule/64] ^= 1 << (rule % 64) }
func (r row) put(rule int, on bool) {
	if on {
		r[rule/64] |= 1 << (rule % 64)
	} else {
		r[rule/64] &^= 1 << (rule % 64)
	}
}

// rowWhere is the row of the rules for which is holds.
func rowWhere(rules []policy.Rule, is func(*policy.Rule) bool) row {
	r := make(row, wordsFor(len(rules)))
	for i := range rules {
		if is(&rules[i]) {
			r.put(i, true)
		}
	}
	return r
}

// rowTable numbers the distinct rows of one policy.
type rowTable struct {
	rows  []row
	index map[string]uint32
	most  int
	full  bool // there were more than most; numbers mean nothing then
	key   []byte
}

func newRowTable(most int) *rowTable { return &rowTable{index: map[string]uint32{}, most: most} }

// number gives the row's number. It keeps nothing of r.
func (t *rowTable) number(r row) uint32 {
	t.key = t.key[:0]
	for _, word := range r {
		t.key = binary.NativeEndian.AppendUint64(t.key, word)
	}
	n, ok := t.index[string(t.key)]
	switch {
	case ok:
	case len(t.rows) == t.most:
		t.full = true
	default:
		n = uint32(len(t.rows))
		t.index[string(t.key)] = n
		t.rows = append(t.rows, slices.Clone(r))
	}
	return n
}

// peers are the two sides of a rule, and what the VM's must be besides.
type peers struct{ src, dst, local side }

// side has the numbers of one side's lists in [peerLists]: an address that any of them
// holds matches, or, if not is set, does not.
type side struct {
	any, not bool
	lists    []int
}

// writer makes the pages of policies, which share classes.
type writer struct {
	counters Counters
	classes  *classes
	// Memory for one side of one policy: by list, the rules that name it (empty between
	// uses), and by set, the number of its row + 1, where it is known.
	naming [][]uint16
	rowOf  []uint32
}

// policy compiles one network. The tables follow the order of hp_header.
//
// Row 0 has the rules whose sources and destinations are both Any, at any VM's address: the only
// ones for frames without addresses, and what both sides of a class past the
// class tables read. The tables end where all further classes read row 0. Class 0,
// of addresses that no list holds, is in them: rules that are turned round match it.
//
// The last rules, one for each of places, are monitored.
func (c *writer) policy(set *policy.Set, rules []policy.Rule, places []uint32, sides []peers) (Policy, error) {
	words := wordsFor(len(rules))
	t := newRowTable(rowsFor(words))
	t.number(rowWhere(rules, func(r *policy.Rule) bool { return r.AnySource() && r.AnyDestination() && r.LocalSets == nil }))
	noService := rowWhere(rules, func(r *policy.Rule) bool { return r.Services == nil && !r.Ethernet })
	h := Header{
		Words:          uint32(words),
		Rules:          uint32(len(rules) - len(places)),
		DefaultAction:  uint32(set.Default),
		DefaultCounter: c.counters[policy.DefaultKey(set.Network)],
		SvcNoneRow:     t.number(noService),
		SvcGroups:      svcGroups,
		Monitored:      uint32(len(places)),
	}
	flags := flagGroups(rules)
	parts := partsOf(rules, flags)
	applying := make([][2]uint32, len(parts))
	for i, p := range parts {
		for _, d := range []policy.Direction{policy.Out, policy.In} {
			applying[i][d] = t.number(rowWhere(rules, func(r *policy.Rule) bool { return applies(r, d) && p.has(r) }))
		}
	}
	src := c.classRows(t, sides, func(p *peers) *side { return &p.src })
	dst := c.classRows(t, sides, func(p *peers) *side { return &p.dst })
	local := c.localRows(t, rules, sides)
	if t.full {
		return Policy{}, fmt.Errorf("its %d rules need more than the %d different rows that a network with so many can have: "+
			"name fewer overlapping address lists, or split the rules among networks with appliedTo; %s",
			len(set.Rules), t.most, c.overlapping(rules, sides))
	}
	n := len(src)
	for n > 1 && src[n-1] == 0 && dst[n-1] == 0 && (local[0] == nil || local[0][n-1] == 0 && local[1][n-1] == 0) {
		n--
	}
	h.Classes = uint32(n)
	var chunks chunkTable
	index, ethers := serviceIndex(&chunks, t, rules, noService), etherIndex(&chunks, t, rules)
	sports := make([][]uint16, len(parts))
	for i, p := range parts {
		sports[i] = sourceIndex(&chunks, t, rules, p.has, p.flags > 0)
	}
	if t.full || len(chunks.pages) > ChunksMax {
		return Policy{}, fmt.Errorf("its %d rules need more than the %d different rows that a network with so many can have, or %d different runs of ports: "+
			"name fewer overlapping services, fewer combinations of source ports and TCP flags, or split the rules among networks with appliedTo", len(set.Rules), t.most, ChunksMax)
	}

	w := pageWriter{pages: make([]Page, 1)}
	h.SrcClassrow = w.u16s(src[:n])
	h.DstClassrow = w.u16s(dst[:n])
	for d, rows := range local {
		if rows != nil {
			h.LocalClassrow[d] = w.u16s(rows[:n])
		}
	}
	h.Rows = w.table(len(t.rows)*words, wordsPerPage, func(b []byte, i int) {
		binary.NativeEndian.PutUint64(b, t.rows[i/words][i%words])
	})
	h.Svcindex = w.u16s(index)
	if ethers != nil {
		h.Etherindex = w.u16s(ethers)
	}
	h.Svcchunk = uint32(len(w.pages))
	w.pages = append(w.pages, chunks.pages...)
	w.parts(&h, flags, parts, applying, sports)
	h.Meta = w.meta(c.counters, rules, places)
	w.pages[0] = h.page()
	return Policy{Network: set.ID(), Pages: w.pages, Sum: sha256.Sum256(unsafe.Slice(&w.pages[0][0], len(w.pages)*PageSize))}, nil
}

// parts writes where the rows of each part are: into the header, and for groups of TCP flags
// behind it.
func (w *pageWriter) parts(h *Header, flags groupsOfFlags, parts []part, applying [][2]uint32, sports [][]uint16) {
	behind := make([]Part, partsBehind*len(flags.like))
	for i, p := range parts {
		out := Part{DirRow: applying[i]}
		if sports[i] != nil {
			out.Sportindex = w.u16s(sports[i])
		}
		switch {
		case p.flags >= 0:
			behind[p.flags*partsBehind+p.at+1] = out
		case p.at < 0:
			h.DirRow, h.Sportindex = out.DirRow, out.Sportindex
		default:
			h.Parts[p.at] = out
		}
	}
	if flags.of != nil {
		h.Flagindex = w.u16s(flags.of)
		h.Flagparts = w.table(len(behind), partsPerPage, func(b []byte, i int) {
			for n, v := range [...]uint32{behind[i].DirRow[0], behind[i].DirRow[1], behind[i].Sportindex} {
				binary.NativeEndian.PutUint32(b[4*n:], v)
			}
		})
	}
}

// meta writes what decides, and the monitored rules behind it, one for each of places.
func (w *pageWriter) meta(counters Counters, rules []policy.Rule, places []uint32) uint32 {
	decide := len(rules) - len(places)
	return w.table(len(rules), rulesPerPage, func(b []byte, i int) {
		r := &rules[i]
		m := ruleMeta{counter: counters[r.Key], ruleID: r.Key.ID, action: uint32(r.Action)}
		if r.Implied {
			m.flags |= ruleImplied
		}
		if r.Stateless {
			m.flags |= ruleStateless
		}
		if r.Loose {
			m.flags |= ruleLoose
		}
		if r.Log {
			m.flags |= ruleLog
		}
		if r.Firm {
			m.flags |= ruleFirm
		}
		if i >= decide {
			m.flags |= places[i-decide] << ruleLinkShift
		} else if r.Action == policy.Pass {
			m.flags |= uint32(r.Tier+1) << ruleLinkShift
		}
		m.put(b)
	})
}

// classRows gives each class its row number on one side: the rules for which
// that side is Any, and those of which a list holds the class; of those that are turned
// round, the ones of which none does.
func (c *writer) classRows(t *rowTable, rules []peers, of func(*peers) *side) []uint16 {
	base := make(row, wordsFor(len(rules)))
	for i := range rules {
		s := of(&rules[i])
		base.put(i, s.any || s.not)
		for _, n := range s.lists {
			c.naming[n] = append(c.naming[n], uint16(i))
		}
	}
	// A class has the row of one that it was made from, and the rules that name what was
	// added, or without them where they are turned round.
	clear(c.rowOf)
	c.rowOf[0] = t.number(base) + 1
	out := make([]uint16, len(c.classes.setOf))
	r := make(row, len(base))
	for class, set := range c.classes.setOf {
		known, more := set, false
		for ; c.rowOf[known] == 0; known = c.classes.sets[known].from {
			more = more || len(c.naming[c.classes.sets[known].list]) > 0
		}
		n := c.rowOf[known]
		if more {
			copy(r, t.rows[n-1])
			for at := set; at != known; at = c.classes.sets[at].from {
				for _, rule := range c.naming[c.classes.sets[at].list] {
					r.put(int(rule), !of(&rules[rule]).not)
				}
			}
			n = t.number(r) + 1
		}
		c.rowOf[set] = n
		out[class] = uint16(n - 1)
	}
	for i := range rules {
		for _, n := range of(&rules[i]).lists {
			c.naming[n] = c.naming[n][:0]
		}
	}
	return out
}

// localRows gives, for each direction, each class its row number on the VM's side: the rules
// that its peers are right for, and its address. Nil: no rule asks for the VM's address.
func (c *writer) localRows(t *rowTable, rules []policy.Rule, sides []peers) (out [2][]uint16) {
	if !slices.ContainsFunc(rules, func(r policy.Rule) bool { return r.LocalSets != nil }) {
		return out
	}
	parts := newRowTable(t.most)
	local := c.classRows(parts, sides, func(p *peers) *side { return &p.local })
	for d, of := range [2]func(*peers) *side{
		policy.Out: func(p *peers) *side { return &p.src }, policy.In: func(p *peers) *side { return &p.dst },
	} {
		peer := c.classRows(parts, sides, of)
		if t.full = t.full || parts.full; t.full {
			return [2][]uint16{}
		}
		known := map[[2]uint16]uint16{}
		both := make(row, wordsFor(len(rules)))
		for class := range local {
			pair := [2]uint16{local[class], peer[class]}
			n, ok := known[pair]
			if !ok {
				for i := range both {
					both[i] = parts.rows[pair[0]][i] & parts.rows[pair[1]][i]
				}
				n = uint16(t.number(both))
				known[pair] = n
			}
			out[d] = append(out[d], n)
		}
	}
	return out
}

// monitoredLast puts the monitored rules behind those that decide, else in their order,
// and gives the place of each: how many that decide stood before it.
func monitoredLast(rules []policy.Rule) (out []policy.Rule, places []uint32) {
	if !slices.ContainsFunc(rules, func(r policy.Rule) bool { return r.Monitored }) {
		return rules, nil
	}
	out = make([]policy.Rule, 0, len(rules))
	var monitored []policy.Rule
	for _, r := range rules {
		if !r.Monitored {
			out = append(out, r)
			continue
		}
		monitored = append(monitored, r)
		places = append(places, uint32(len(out)))
	}
	return append(out, monitored...), places
}
