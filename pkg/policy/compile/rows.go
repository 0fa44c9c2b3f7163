package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
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
	noService := rowWhere(rules, func(r *policy.Rule) bool { return r.Services == nil })
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
	index := serviceIndex(&chunks, t, rules, noService)
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
	h.Svcchunk = uint32(len(w.pages))
	w.pages = append(w.pages, chunks.pages...)
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
	h.Meta = w.table(len(rules), rulesPerPage, func(b []byte, i int) {
		r := &rules[i]
		m := ruleMeta{counter: c.counters[r.Key], ruleID: r.Key.ID, action: uint32(r.Action)}
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
		if n := int(h.Rules); i >= n {
			m.flags |= places[i-n] << ruleLinkShift
		} else if r.Action == policy.Pass {
			m.flags |= uint32(r.Tier+1) << ruleLinkShift
		}
		m.put(b)
	})
	w.pages[0] = h.page()
	return Policy{Network: set.ID(), Pages: w.pages, Sum: sha256.Sum256(unsafe.Slice(&w.pages[0][0], len(w.pages)*PageSize))}, nil
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

// chunkTable numbers the distinct chunks of one policy.
type chunkTable struct {
	pages   []Page
	numbers map[Page]uint16
}

// number gives a chunk's number.
func (c *chunkTable) number(chunk *Page) uint16 {
	n, ok := c.numbers[*chunk]
	if !ok {
		if c.numbers == nil {
			c.numbers = map[Page]uint16{}
		}
		n = uint16(len(c.pages)) // means nothing beyond ChunksMax
		c.numbers[*chunk] = n
		c.pages = append(c.pages, *chunk)
	}
	return n
}

// index gives the chunks of one group: by high byte, the row numbers of 256 values,
// which begin at base and change at the cuts.
func (c *chunkTable) index(t *rowTable, base row, cuts []cut) (out []uint16) {
	now, plain := slices.Clone(base), false // plain: the last chunk had no cut
	for high := range 256 {
		whole := len(cuts) == 0 || cuts[0].at > high<<8|0xff
		if whole && plain {
			out = append(out, out[len(out)-1])
			continue
		}
		var chunk Page
		cuts = fillChunk(&chunk, t, now, cuts, high<<8)
		out = append(out, c.number(&chunk))
		plain = whole
	}
	return out
}

// serviceIndex gives the index of each group, one behind the other.
func serviceIndex(chunks *chunkTable, t *rowTable, rules []policy.Rule, noService row) (out []uint16) {
	for _, protocol := range groups {
		out = append(out, chunks.index(t, noService, cutsOf(rules, func(s policy.Service) (first, last uint16, ok bool) {
			return s.First, s.Last, s.Protocol == protocol
		}))...)
	}
	return append(out, chunks.index(t, noService, cutsOf(rules, func(s policy.Service) (first, last uint16, ok bool) {
		return uint16(s.Protocol), uint16(s.Protocol), s.Whole()
	}))...)
}

// groupsOfFlags are the TCP flags that rules do not tell apart.
type groupsOfFlags struct {
	of   []uint16 // by flags, the number of their group; that of none is 0. Nil: no rule asks for flags or the VM's address
	like []uint8  // by number, some flags of the group
}

func flagGroups(rules []policy.Rule) (g groupsOfFlags) {
	var demands []policy.TCPFlags
	local := false
	for i := range rules {
		local = local || rules[i].LocalSets != nil
		for _, s := range rules[i].Services {
			if s.Flags.Mask != 0 && !slices.Contains(demands, s.Flags) {
				demands = append(demands, s.Flags)
			}
		}
	}
	if demands == nil && !local {
		return g
	}
	numbers := map[string]uint16{} // by which demands are met
	met := make([]byte, len(demands))
	for flags := range 256 {
		for i, d := range demands {
			met[i] = 0
			if d.Match(uint8(flags)) {
				met[i] = 1
			}
		}
		number, known := numbers[string(met)]
		if !known {
			number = uint16(len(g.like))
			numbers[string(met)] = number
			g.like = append(g.like, uint8(flags))
		}
		g.of = append(g.of, number)
	}
	return g
}

// sourceIndex gives the index of source ports for each direction and group with ports:
// the rules of that direction, and of those that has names, which do not ask for other
// ones. Nil: none asks. Of onlyTCP nobody asks for the other groups.
func sourceIndex(chunks *chunkTable, t *rowTable, rules []policy.Rule, has func(*policy.Rule) bool, onlyTCP bool) (out []uint16) {
	if !slices.ContainsFunc(rules, func(r policy.Rule) bool { return has(&r) && slices.ContainsFunc(r.Services, asksSource) }) {
		return nil
	}
	for _, d := range []policy.Direction{policy.Out, policy.In} {
		for _, protocol := range portGroups {
			if onlyTCP && protocol != policy.TCP {
				out = append(out, make([]uint16, 256)...)
				continue
			}
			asking := func(s policy.Service) bool { return s.Protocol == protocol && asksSource(s) }
			judged := rowWhere(rules, func(r *policy.Rule) bool { return applies(r, d) && has(r) && !slices.ContainsFunc(r.Services, asking) })
			cuts := cutsOf(rules, func(s policy.Service) (first, last uint16, ok bool) { return s.SourceFirst, s.SourceLast, asking(s) })
			cuts = slices.DeleteFunc(cuts, func(c cut) bool { return !applies(&rules[c.rule], d) || !has(&rules[c.rule]) })
			out = append(out, chunks.index(t, judged, cuts)...)
		}
	}
	return out
}

// asksSource says whether a service wants source ports, and asks whether it wants these or flags.
func asksSource(s policy.Service) bool { return s.SourceLast != 0 }
func asks(s policy.Service) bool       { return asksSource(s) || s.Flags.Mask != 0 }

// part is a choice of rules for which there are rows: all (at is -1), or those of the header's
// Parts[at]; and of these, where flags is a group of TCP flags, all but what wants others.
type part struct {
	at    int
	flags int // -1: any
	has   func(*policy.Rule) bool
}

// partsOf gives the parts that judging needs.
func partsOf(rules []policy.Rule, flags groupsOfFlags) []part {
	parts := []part{{-1, -1, func(*policy.Rule) bool { return true }}}
	var leads [TiersMax]bool // that a Pass rule leads to a tier
	monitored := false
	for i := range rules {
		if r := &rules[i]; r.Monitored {
			monitored = true
		} else if r.Action == policy.Pass {
			leads[r.Tier+1] = true
		}
	}
	for tier, is := range leads {
		if is {
			parts = append(parts, part{tier - 1, -1, func(r *policy.Rule) bool { return !r.Monitored && int(r.Tier) >= tier }})
		}
	}
	if monitored {
		parts = append(parts, part{partMonitored, -1, func(r *policy.Rule) bool { return r.Monitored }})
	}
	if flags.of == nil {
		return parts
	}
	// Programs that know neither flags nor the VM's address read the parts without a group.
	var all []part
	for _, p := range parts {
		all = append(all, part{p.at, -1, func(r *policy.Rule) bool { return p.has(r) && safeWithout(r) }})
	}
	// Those without flags are group 0, and so are packets that are not TCP: what wants flags has
	// no other services.
	for group, like := range flags.like {
		for _, p := range parts {
			all = append(all, part{p.at, group, func(r *policy.Rule) bool {
				return p.has(r) && (len(r.Services) == 0 || r.Services[0].Flags.Match(like))
			}})
		}
	}
	return all
}

// safeWithout says that a rule lets nothing more pass where its TCP flags and the VM's address are
// not looked at.
func safeWithout(r *policy.Rule) bool {
	drops := (r.Action == policy.Drop || r.Action == policy.Reject) && !r.Monitored
	return drops || r.LocalSets == nil && (len(r.Services) == 0 || r.Services[0].Flags.Mask == 0)
}

// applies says whether a rule is judged in a direction.
func applies(r *policy.Rule, d policy.Direction) bool { return r.Directions.Has(d) && !r.Disabled }

// lines are a set's rules in a form that rows can say, with the services of the sets that
// they name: source and destination ports have
// a row each, so of one protocol all services of a line ask for the same source ports; and TCP flags
// have one with direction, so all services of a line are TCP with the same, or none asks for any.
// A rule that has others stands there once for each. The set has passed check.
func lines(set *policy.Set) ([]policy.Rule, error) {
	total := 0
	for i := range set.Rules {
		r := &set.Rules[i]
		total += len(r.Services)
		for _, name := range r.ServiceSets {
			total += len(set.ServiceLists[name])
		}
		if total > ServicesTotal {
			return nil, fmt.Errorf("its rules (%s) come to more than %d services, by rule %v: name fewer services, or smaller sets of them", perPolicy(set.Rules), ServicesTotal, r.Key)
		}
	}
	if !slices.ContainsFunc(set.Rules, func(r policy.Rule) bool { return r.ServiceSets != nil || slices.ContainsFunc(r.Services, asks) }) {
		return set.Rules, nil
	}
	out := make([]policy.Rule, 0, len(set.Rules))
	for _, r := range set.Rules {
		r = set.FlatServices(r)
		if !slices.ContainsFunc(r.Services, asks) {
			out = append(out, r)
			continue
		}
		for _, same := range sameFlags(r.Services) {
			for _, services := range sameSources(same) {
				line := r
				line.Services = services
				out = append(out, line)
			}
		}
		if len(out) > RulesMax {
			return nil, fmt.Errorf("its %d rules (%s) ask for so many combinations of source ports, destination ports and TCP flags that they count as more than the %d that a network can have, by rule %v: "+
				"ask for the same source ports and flags in each service of a rule", len(set.Rules), perPolicy(set.Rules), RulesMax, r.Key)
		}
	}
	return out, nil
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

// Lines is how many rules the set's count as towards [RulesMax], and at least one more
// than that if they are too many.
func Lines(set *policy.Set) int {
	rules, err := lines(set)
	if err != nil {
		return max(RulesMax+1, len(set.Rules))
	}
	return len(rules)
}

// sameFlags parts services by the TCP flags that they ask for, those that ask for none first.
func sameFlags(list []policy.Service) (parts [][]policy.Service) {
	by := map[policy.TCPFlags][]policy.Service{}
	for _, s := range list {
		by[s.Flags] = append(by[s.Flags], s)
	}
	for _, flags := range slices.SortedFunc(maps.Keys(by), func(a, b policy.TCPFlags) int {
		return cmp.Or(cmp.Compare(a.Mask, b.Mask), cmp.Compare(a.Set, b.Set))
	}) {
		parts = append(parts, by[flags])
	}
	return parts
}

// sameSources parts services, which ask for the same flags, so that those of one protocol in a part ask for the same
// source ports. The order of services has no part in it.
func sameSources(list []policy.Service) (parts [][]policy.Service) {
	type ports struct{ first, last uint16 }
	type dest struct {
		protocol uint8
		ports
	}
	from := map[dest][]ports{} // the source ports of each
	for _, s := range list {
		d := dest{s.Protocol, ports{s.First, s.Last}}
		from[d] = append(from[d], ports{s.SourceFirst, s.SourceLast})
	}
	byFrom := map[uint8]map[string][]policy.Service{}
	for d, sources := range from {
		slices.SortFunc(sources, func(a, b ports) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last)) })
		sources = slices.Compact(sources)
		if sources[0] == (ports{}) {
			sources = sources[:1] // any is among them
		}
		name := fmt.Sprint(sources)
		if byFrom[d.protocol] == nil {
			byFrom[d.protocol] = map[string][]policy.Service{}
		}
		for _, p := range sources {
			byFrom[d.protocol][name] = append(byFrom[d.protocol][name],
				policy.Service{Protocol: d.protocol, First: d.first, Last: d.last, SourceFirst: p.first, SourceLast: p.last, Flags: list[0].Flags})
		}
	}
	for _, protocol := range slices.Sorted(maps.Keys(byFrom)) {
		for i, name := range slices.Sorted(maps.Keys(byFrom[protocol])) {
			if i == len(parts) {
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], byFrom[protocol][name]...)
		}
	}
	return parts
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

// cutsOf gives the cuts of all rules, in order, where of says what each service covers.
// Ranges of one rule are joined first, so that its cuts alternate.
func cutsOf(rules []policy.Rule, of func(policy.Service) (first, last uint16, ok bool)) []cut {
	type span struct{ first, end int }
	var cuts []cut
	for i := range rules {
		var own []span
		for _, s := range rules[i].Services {
			if first, last, ok := of(s); ok {
				own = append(own, span{int(first), int(last) + 1})
			}
		}
		slices.SortFunc(own, func(a, b span) int { return cmp.Compare(a.first, b.first) })
		for len(own) > 0 {
			first, end := own[0].first, own[0].end
			for own = own[1:]; len(own) > 0 && own[0].first <= end; own = own[1:] {
				end = max(end, own[0].end)
			}
			cuts = append(cuts, cut{first, i}, cut{end, i})
		}
	}
	slices.SortFunc(cuts, func(a, b cut) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rule, b.rule))
	})
	return cuts
}
