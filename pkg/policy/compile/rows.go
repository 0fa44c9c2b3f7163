package compile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

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

// peers are the two sides of a rule.
type peers struct{ src, dst side }

// side has the numbers of one side's lists in [peerLists]: an address that any of them
// holds matches, or, if not is set, does not.
type side struct {
	any, not bool
	lists    []int
}

// compiler holds what the policies of a node share.
type compiler struct {
	counters Counters
	classes  classes
	// Memory for one side of one policy: by list, the rules that name it (empty between
	// uses), and by set, the number of its row + 1, where it is known.
	naming [][]uint16
	rowOf  []uint32
}

// policy compiles one network. The tables follow the order of hp_header.
//
// Row 0 has the rules whose sources and destinations are both Any: the only
// ones for frames without addresses, and what both sides of a class past the
// class tables read. The tables end where all further classes read row 0. Class 0,
// of addresses that no list holds, is in them: rules that are turned round match it.
func (c *compiler) policy(set *policy.Set, rules []peers) (Policy, error) {
	words := wordsFor(len(set.Rules))
	t := newRowTable(rowsFor(words))
	t.number(rowWhere(set.Rules, func(r *policy.Rule) bool { return r.AnySource() && r.AnyDestination() }))
	noService := rowWhere(set.Rules, func(r *policy.Rule) bool { return r.Services == nil })
	h := Header{
		Words:          uint32(words),
		Rules:          uint32(len(set.Rules)),
		DefaultAction:  uint32(set.Default),
		DefaultCounter: c.counters[policy.DefaultKey(set.Network)],
		SvcNoneRow:     t.number(noService),
	}
	for _, d := range []policy.Direction{policy.Out, policy.In} {
		h.DirRow[d] = t.number(rowWhere(set.Rules, func(r *policy.Rule) bool { return r.Directions.Has(d) && !r.Disabled }))
	}
	src := c.classRows(t, rules, func(p *peers) *side { return &p.src })
	dst := c.classRows(t, rules, func(p *peers) *side { return &p.dst })
	n := len(src)
	for n > 1 && src[n-1] == 0 && dst[n-1] == 0 {
		n--
	}
	h.Classes = uint32(n)
	if t.full {
		return Policy{}, fmt.Errorf("its %d rules need more than the %d different rows that a network with so many can have: "+
			"name fewer overlapping address lists, or split the rules among networks with appliedTo; %s",
			len(set.Rules), t.most, c.overlapping(set, rules))
	}
	index, chunks := serviceTables(t, set.Rules, noService)
	if t.full {
		return Policy{}, fmt.Errorf("its %d rules need more than the %d different rows that a network with so many can have: "+
			"name fewer overlapping services, or split the rules among networks with appliedTo", len(set.Rules), t.most)
	}

	w := pageWriter{pages: make([]Page, 1)}
	h.SrcClassrow = w.u16s(src[:n])
	h.DstClassrow = w.u16s(dst[:n])
	h.Rows = w.table(len(t.rows)*words, wordsPerPage, func(b []byte, i int) {
		binary.NativeEndian.PutUint64(b, t.rows[i/words][i%words])
	})
	h.Svcindex = w.u16s(index)
	h.Svcchunk = uint32(len(w.pages))
	w.pages = append(w.pages, chunks...)
	h.Meta = w.table(len(set.Rules), rulesPerPage, func(b []byte, i int) {
		r := &set.Rules[i]
		m := ruleMeta{counter: c.counters[r.Key], ruleID: r.Key.ID, action: uint32(r.Action)}
		if r.Implied {
			m.flags |= ruleImplied
		}
		m.put(b)
	})
	w.pages[0] = h.page()
	return Policy{Network: set.ID(), Pages: w.pages}, nil
}

// classRows gives each class its row number on one side: the rules for which
// that side is Any, and those of which a list holds the class; of those that are turned
// round, the ones of which none does.
func (c *compiler) classRows(t *rowTable, rules []peers, of func(*peers) *side) []uint16 {
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

// serviceTables gives the service index and the distinct chunks that it names.
func serviceTables(t *rowTable, rules []policy.Rule, noService row) (index []uint16, chunks []Page) {
	numbers := map[Page]uint16{}
	number := func(chunk *Page) uint16 {
		n, ok := numbers[*chunk]
		if !ok {
			n = uint16(len(chunks)) // at most svcGroups*256
			numbers[*chunk] = n
			chunks = append(chunks, *chunk)
		}
		return n
	}
	for _, protocol := range [svcGroups]uint8{
		svcTCP: policy.TCP, svcUDP: policy.UDP, svcICMP: policy.ICMP, svcICMPv6: policy.ICMPv6,
	} {
		cuts := serviceCuts(rules, protocol)
		now, plain := slices.Clone(noService), false // plain: the last chunk had no cut
		for high := range 256 {
			whole := len(cuts) == 0 || cuts[0].at > high<<8|0xff
			if whole && plain {
				index = append(index, index[len(index)-1])
				continue
			}
			var chunk Page
			cuts = fillChunk(&chunk, t, now, cuts, high<<8)
			index = append(index, number(&chunk))
			plain = whole
		}
	}
	return index, chunks
}

// fillChunk writes the row numbers of 256 services from base on. It takes the
// cuts on its way from the front and keeps now, the row at hand, up to date.
func fillChunk(chunk *Page, t *rowTable, now row, cuts []cut, base int) []cut {
	number := t.number(now)
	for low := range 256 {
		if len(cuts) > 0 && cuts[0].at == base+low {
			for ; len(cuts) > 0 && cuts[0].at == base+low; cuts = cuts[1:] {
				now.flip(cuts[0].rule)
			}
			number = t.number(now)
		}
		binary.NativeEndian.PutUint16(chunk[2*low:], uint16(number))
	}
	return cuts
}

// cut is a place where a rule begins or ceases to match.
type cut struct{ at, rule int }

// serviceCuts gives the cuts of all rules along one protocol's services, in
// order. Ranges of one rule are joined first, so that its cuts alternate.
func serviceCuts(rules []policy.Rule, protocol uint8) []cut {
	var cuts []cut
	for i := range rules {
		var own []policy.Service
		for _, s := range rules[i].Services {
			if s.Protocol == protocol {
				own = append(own, s)
			}
		}
		slices.SortFunc(own, func(a, b policy.Service) int { return cmp.Compare(a.First, b.First) })
		for len(own) > 0 {
			first, end := int(own[0].First), int(own[0].Last)+1
			for own = own[1:]; len(own) > 0 && int(own[0].First) <= end; own = own[1:] {
				end = max(end, int(own[0].Last)+1)
			}
			cuts = append(cuts, cut{first, i}, cut{end, i})
		}
	}
	slices.SortFunc(cuts, func(a, b cut) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rule, b.rule))
	})
	return cuts
}
