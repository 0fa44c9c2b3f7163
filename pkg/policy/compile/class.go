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
	known map[policy.ListID]int     // by place: those of address sets, which many rules share
	lists []peerList                // by number
}

type peerList struct {
	sum      [sha256.Size]byte
	ranges   []policy.AddrRange // as one that names it has them; nil once nobody does
	prefixes int                // that it comes to
}

// side gives the numbers of the lists of one side of a rule: its own one, and those
// of the address sets that it names.
func (l *peerLists) side(list []policy.AddrRange, names []string, not bool, lists map[string][]policy.AddrRange) side {
	s := side{any: list == nil && names == nil}
	s.not = not && !s.any
	if len(list) > 0 {
		s.lists = append(s.lists, l.number(list))
	}
	for _, name := range names {
		id := policy.IDOf(lists[name])
		n, ok := l.known[id]
		if !ok {
			n = l.number(lists[name])
			l.known[id] = n
		}
		s.lists = append(s.lists, n)
	}
	return s
}

func (l *peerLists) number(list []policy.AddrRange) int {
	if l.index == nil {
		l.index, l.known = map[[sha256.Size]byte]int{}, map[policy.ListID]int{}
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
		l.lists = append(l.lists, peerList{sum, list, count})
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
	for id, n := range l.known {
		if l.lists[n].ranges == nil {
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
		marks: make([][2]uint64, lists),
	}
	for i := range m.marks {
		m.marks[i] = [2]uint64{rand.Uint64(), rand.Uint64()}
	}
	return m
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
	}
	return names
}

// tooLarge refuses rules whose lists come to more prefixes than they may together, and
// names the list that has most of them.
func (l *peerLists) tooLarge(rules []policy.Rule, sides []peers) error {
	used := map[int]bool{}
	total, largest := 0, -1
	for i := range sides {
		for _, side := range [...]side{sides[i].src, sides[i].dst} {
			for _, n := range side.lists {
				if used[n] {
					continue
				}
				used[n] = true
				total += l.lists[n].prefixes
				if largest < 0 || l.lists[n].prefixes > l.lists[largest].prefixes {
					largest = n
				}
			}
		}
	}
	if total <= PrefixesMax {
		return nil
	}
	return fmt.Errorf("its address lists come to %d prefixes, but those of a network can have %d; the most has %s, %d: "+
		"write CIDRs for ranges that have odd ends, or name fewer addresses", total, PrefixesMax, listNames(rules, sides)[uint32(largest)], l.lists[largest].prefixes)
}

// classes is the address table and what it means.
type classes struct {
	addrs []AddrClass
	sum   [sha256.Size]byte // of addrs
	sets  []membership
	setOf []uint32 // by class
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
	classOf := map[uint32]uint32{0: 0} // by set
	setOf := []uint32{0}               // by class
	stack := []covering{{}}            // ::/0 in no list
	var c classes
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
		class, ok := classOf[set]
		if !ok {
			class = uint32(len(setOf))
			classOf[set] = class
			setOf = append(setOf, set)
		}
		stack = append(stack, covering{p, set})
		c.addrs = append(c.addrs, AddrClass{Prefix: p.netip(), Class: class})
	}
	c.sets, c.setOf = sets.sets, setOf
	c.sum = sumOf(c.addrs)
	return &c
}
