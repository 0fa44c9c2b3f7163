package compile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
)

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

// serviceIndex gives the index of each group, one behind the other. EtherTypes are of none.
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

// etherIndex gives the index of EtherTypes: Ethernet rules alone are in its rows, as they are in
// no others. Nil: there are none.
func etherIndex(chunks *chunkTable, t *rowTable, rules []policy.Rule) []uint16 {
	if !slices.ContainsFunc(rules, func(r policy.Rule) bool { return r.Ethernet }) {
		return nil
	}
	anyType := rowWhere(rules, func(r *policy.Rule) bool { return r.Ethernet && r.Services == nil })
	return chunks.index(t, anyType, cutsOf(rules, func(s policy.Service) (first, last uint16, ok bool) {
		return s.EtherType, s.EtherType, s.EtherType != 0
	}))
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
