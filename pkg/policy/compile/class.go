package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// peerLists numbers the distinct lists of addresses that rules name. A list keeps its
// number for as long as it is named.
type peerLists struct {
	index map[[sha256.Size]byte]int // by content
	known map[policy.ListID]known   // by place: those of address sets, which many rules share
	lists []peerList                // by number
}

// known is what is known of a place.
type known struct {
	number int
	merged bool // what is there is as policy.MergeRanges has it
}

type peerList struct {
	sum      [sha256.Size]byte
	ranges   []policy.AddrRange // as one that names it has them; nil once nobody does
	prefixes int                // that it comes to
	own      bool               // a rule has it as its own, and not by a set's name
}

// side gives the numbers of the lists of one side of a rule: its own one, and those
// of the address sets that it names.
func (l *peerLists) side(list []policy.AddrRange, names []string, not bool, lists map[string][]policy.AddrRange) side {
	s := side{any: list == nil && names == nil}
	s.not = not && !s.any
	if len(list) > 0 {
		n := l.number(list)
		l.lists[n].own = true
		s.lists = append(s.lists, n)
	}
	for _, name := range names {
		id := policy.IDOf(lists[name])
		k, ok := l.known[id]
		if !ok {
			k = known{l.number(lists[name]), merged(lists[name])}
			l.known[id] = k
		}
		s.lists = append(s.lists, k.number)
	}
	return s
}

func (l *peerLists) number(list []policy.AddrRange) int {
	if l.index == nil {
		l.index, l.known = map[[sha256.Size]byte]int{}, map[policy.ListID]known{}
	}
	spans := normalize(list)
	key := make([]byte, 0, 33*len(spans))
	for _, s := range spans {
		family := byte(6)
		if s.v4 {
			family = 4
		}
		key = append(key, family)
		for _, v := range [...]uint64{s.first.hi, s.first.lo, s.last.hi, s.last.lo} {
			key = binary.BigEndian.AppendUint64(key, v)
		}
	}
	sum := sha256.Sum256(key)
	n, ok := l.index[sum]
	if !ok {
		n = len(l.lists)
		l.index[sum] = n
		count := 0
		var scratch []prefix
		for _, s := range spans {
			scratch = s.appendPrefixes(scratch[:0])
			count += len(scratch)
		}
		if list == nil {
			list = []policy.AddrRange{}
		}
		l.lists = append(l.lists, peerList{sum: sum, ranges: list, prefixes: count})
	}
	return n
}

// keep forgets the lists that are not among used, which is sorted.
func (l *peerLists) keep(used []int) {
	for n := range l.lists {
		if _, ok := slices.BinarySearch(used, n); !ok && l.lists[n].ranges != nil {
			delete(l.index, l.lists[n].sum)
			l.lists[n].ranges = nil
		}
	}
	for id, k := range l.known {
		if l.lists[k.number].ranges == nil {
			delete(l.known, id)
		}
	}
}

// memberships numbers sets of lists. Number 0 is the empty set; every other one is an
// earlier one and a list that is not in that.
type memberships struct {
	sets  []membership
	index map[[2]uint64]uint32 // set by the XOR of its lists' marks
	sums  map[uint64]uint32    // set<<32|list -> set with list, so that each is made once
	marks [][2]uint64          // of lists: random, so that nobody can make two sets look alike
}

type membership struct {
	from, list uint32
	sum        [2]uint64
}

func newMemberships(lists int) *memberships {
	m := &memberships{
		sets:  []membership{{}},
		index: map[[2]uint64]uint32{{}: 0},
		sums:  map[uint64]uint32{},
	}
	m.mark(lists)
	return m
}

// mark has marks for so many lists.
func (m *memberships) mark(lists int) {
	for len(m.marks) < lists {
		m.marks = append(m.marks, [2]uint64{rand.Uint64(), rand.Uint64()})
	}
}

// without is the number of the set less the list, which the set has.
func (m *memberships) without(set, list uint32) uint32 {
	sum := m.sets[set].sum
	sum[0] ^= m.marks[list][0]
	sum[1] ^= m.marks[list][1]
	if n, ok := m.index[sum]; ok {
		return n
	}
	var lists []uint32
	for ; set != 0; set = m.sets[set].from {
		if m.sets[set].list != list {
			lists = append(lists, m.sets[set].list)
		}
	}
	n := uint32(0)
	for _, l := range slices.Backward(lists) {
		n = m.with(n, l)
	}
	return n
}

// with is the number of the set plus the list, which the set does not have.
func (m *memberships) with(set, list uint32) uint32 {
	key := uint64(set)<<32 | uint64(list)
	if n, ok := m.sums[key]; ok {
		return n
	}
	sum := m.sets[set].sum
	sum[0] ^= m.marks[list][0]
	sum[1] ^= m.marks[list][1]
	n, ok := m.index[sum]
	if !ok {
		n = uint32(len(m.sets))
		m.index[sum] = n
		m.sets = append(m.sets, membership{set, list, sum})
	}
	m.sums[key] = n
	return n
}

// overlapping names the lists of a set's rules that split the addresses into most
// combinations of its lists, at most three, and says how many there are. A list that
// is in nearly all of them splits as little as one that is in nearly none.
func (c *writer) overlapping(rules []policy.Rule, sides []peers) string {
	names := listNames(rules, sides)
	marks := map[uint32][2]uint64{}
	for n := range names {
		marks[n] = [2]uint64{rand.Uint64(), rand.Uint64()}
	}
	seen := map[[2]uint64]bool{}
	in := map[uint32]int{} // combinations, by list
	var here []uint32
	for _, at := range c.classes.setOf {
		var sum [2]uint64
		for here = here[:0]; at != 0; at = c.classes.sets[at].from {
			list := c.classes.sets[at].list
			if mark, ok := marks[list]; ok {
				here = append(here, list)
				sum[0], sum[1] = sum[0]^mark[0], sum[1]^mark[1]
			}
		}
		if !seen[sum] {
			seen[sum] = true
			for _, list := range here {
				in[list]++
			}
		}
	}
	splits := func(n uint32) int { return min(in[n], len(seen)-in[n]) }
	most := slices.SortedFunc(maps.Keys(names), func(a, b uint32) int { return cmp.Or(cmp.Compare(splits(b), splits(a)), cmp.Compare(a, b)) })
	var out []string
	for _, n := range most[:min(3, len(most))] {
		out = append(out, names[n])
	}
	return fmt.Sprintf("%s make most of %d combinations", strings.Join(out, ", "), len(seen))
}

// listNames says by which set or rule people know the lists of rules.
func listNames(rules []policy.Rule, sides []peers) map[uint32]string {
	names := map[uint32]string{}
	for i := range sides {
		note := func(s side, sets []string) {
			own := len(s.lists) - len(sets) // 1 or 0: it comes first
			for j, n := range s.lists {
				if j >= own {
					names[uint32(n)] = fmt.Sprintf("address set %q", sets[j-own])
				} else if _, ok := names[uint32(n)]; !ok {
					names[uint32(n)] = fmt.Sprintf("the addresses of rule %v", rules[i].Key)
				}
			}
		}
		note(sides[i].src, rules[i].SourceSets)
		note(sides[i].dst, rules[i].DestinationSets)
		note(sides[i].local, rules[i].LocalSets)
	}
	return names
}

// tooLarge refuses rules whose lists come to more prefixes than they may together, and
// names the list that has most of them.
func (l *peerLists) tooLarge(n *compiled) error {
	total, largest := 0, -1
	for _, list := range n.lists {
		total += l.lists[list].prefixes
		if largest < 0 || l.lists[list].prefixes > l.lists[largest].prefixes {
			largest = list
		}
	}
	if total <= PrefixesMax {
		return nil
	}
	return fmt.Errorf("its address lists come to %d prefixes, but those of a network can have %d; the most has %s, %d: "+
		"write CIDRs for ranges that have odd ends, or name fewer addresses", total, PrefixesMax, listNames(n.rules, n.sides)[uint32(largest)], l.lists[largest].prefixes)
}

// classes is the address table and what it means.
type classes struct {
	addrs []AddrClass
	sum   [sha256.Size]byte // of addrs
	sets  []membership
	setOf []uint32 // by class
	// What [classes.change] goes on with. Only those made last may be changed.
	members *memberships
	classOf map[uint32]uint32 // by set
	made    int               // classes that there were when they were made
}

// listed is a prefix of a list.
type listed struct {
	prefix
	list uint32
}

// noList marks the border of the IPv4 block in the walk.
const noList = ^uint32(0)

// classify gives every address a class: the set of lists that hold it. It
// walks the prefixes of all lists in address order, a covering prefix before
// what it covers, with the covering ones on a stack; a prefix is in the lists
// that name it and in those of the prefix around it, which are others, since
// prefixes of one list do not overlap. The IPv4 block inherits
// nothing: an IPv6 range never means IPv4.
func classify(lists []peerList, used []int) *classes {
	count := 1
	for _, n := range used {
		count += lists[n].prefixes
	}
	items := make([]listed, 0, count)
	items = append(items, listed{v4block, noList})
	var scratch []prefix
	for _, n := range used {
		for _, s := range normalize(lists[n].ranges) {
			scratch = s.appendPrefixes(scratch[:0])
			for _, p := range scratch {
				items = append(items, listed{p, uint32(n)})
			}
		}
	}
	slices.SortFunc(items, func(a, b listed) int { return a.compare(b.prefix) })

	type covering struct {
		prefix
		set uint32
	}
	sets := newMemberships(len(lists))
	stack := []covering{{}} // ::/0 in no list
	c := classes{setOf: []uint32{0}, members: sets, classOf: map[uint32]uint32{0: 0}}
	for i := 0; i < len(items); {
		p := items[i].prefix
		for !stack[len(stack)-1].contains(p) {
			stack = stack[:len(stack)-1]
		}
		around := stack[len(stack)-1].set
		set := around
		if p == v4block {
			set = 0
		}
		for ; i < len(items) && items[i].prefix == p; i++ {
			if items[i].list != noList {
				set = sets.with(set, items[i].list)
			}
		}
		if set == around {
			continue
		}
		stack = append(stack, covering{p, set})
		c.addrs = append(c.addrs, p.of(c.class(set)))
	}
	c.sets, c.made = sets.sets, len(c.setOf)
	c.sum = sumOf(c.addrs)
	return &c
}

// listChange is how a list differs from what classes were made of.
type listChange struct {
	list      uint32
	gone, put []prefix
}

// change gives the classes after some lists have changed. A class keeps its number, and new
// ones come behind; some may have no addresses any more. It goes through what lies within the
// prefixes of the changes, and so is for few; where one has all of IPv4 in it, ok is false. After it
// the classes that it was called of can only be read.
func (c *classes) change(lists int, changes []listChange) (_ *classes, ok bool) {
	room := len(c.addrs)
	for _, l := range changes {
		room += len(l.gone) + len(l.put)
	}
	next := &classes{addrs: append(make([]AddrClass, 0, room), c.addrs...), setOf: slices.Clone(c.setOf), members: c.members, classOf: c.classOf, made: c.made}
	next.members.mark(lists)
	var written []AddrClass
	for _, l := range changes {
		for _, p := range slices.Concat(l.gone, l.put) {
			if p.contains(v4block) {
				return nil, false
			}
		}
		for _, p := range l.gone {
			written = next.each(written, p, func(set uint32) uint32 { return next.members.without(set, l.list) })
		}
		for _, p := range l.put {
			written = next.each(written, p, func(set uint32) uint32 { return next.members.with(set, l.list) })
		}
	}
	next.sets = next.members.sets
	next.sum = sha256.Sum256(appendAddrs(c.sum[:], written)) // the whole table is long to hash
	return next, true
}

// each gives the addresses of a prefix the set that to makes of theirs. What lies within it
// stays apart from it; itself may come or go. It appends what it has written.
func (c *classes) each(written []AddrClass, p prefix, to func(set uint32) uint32) []AddrClass {
	at, found := slices.BinarySearchFunc(c.addrs, p, func(a AddrClass, p prefix) int { return a.prefix().compare(p) })
	around := classOf(c.addrs, p.addr, p.bits-1)
	if !found {
		c.addrs = slices.Insert(c.addrs, at, p.of(around))
	}
	for i := at; i < len(c.addrs) && p.contains(c.addrs[i].prefix()); i++ {
		c.addrs[i].Class = c.class(to(c.setOf[c.addrs[i].Class]))
		written = append(written, c.addrs[i])
	}
	if c.addrs[at].Class == around {
		c.addrs = slices.Delete(c.addrs, at, at+1)
		written = append(written, p.of(noClass))
	}
	return written
}

// noClass stands for a prefix that has gone.
const noClass = ^uint32(0)

// class is the number of the set's class.
func (c *classes) class(set uint32) uint32 {
	class, ok := c.classOf[set]
	if !ok {
		class = uint32(len(c.setOf))
		c.classOf[set] = class
		c.setOf = append(c.setOf, set)
	}
	return class
}
