package reach

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/probe"
)

const (
	// steps are the sizes tried at once between one that passed and one that did not; each goes
	// out stepTimes, since one that is lost narrows the wrong way.
	steps, stepTimes = 16, 2
	// sizeRounds close any gap up to the largest MTU there is: 17^4 > 65535.
	sizeRounds = 4
)

// tooLarge says that a hello of full size does not get where small ones do.
func (g *segment) tooLarge(from, at *station) bool {
	return g.heard(from, at, probe.Hello) && !g.heard(from, at, probe.Full)
}

// largest is the size of the largest hello that got there.
func (g *segment) largest(from, at *station) (size int) {
	for _, h := range at.obs.In(g.tagAt(at)).Hellos {
		if h.Node == from.node && h.Uplink == from.Uplink && h.VLAN == g.vlan {
			size = max(size, h.Largest)
		}
	}
	return size
}

// sizes finds the largest that passes where full size does not. VLANs in which the same pairs
// fail share a way, most likely: one of them is measured.
func (c *check) sizes(ctx context.Context) {
	if !c.options.wants(TestMTU) {
		return
	}
	var measured []*segment
	for _, like := range c.alike() {
		measured = append(measured, like[0])
	}
	tried := map[*station]map[*segment][]int{}
	for round := range sizeRounds {
		asks := map[*station][]probe.Ask{}
		for _, g := range measured {
			for _, s := range g.active() {
				if tried[s] == nil {
					tried[s] = map[*segment][]int{}
				}
				next := g.nextSizes(s, tried[s][g])
				tried[s][g] = append(tried[s][g], next...)
				for range stepTimes {
					for _, size := range next {
						asks[s] = append(asks[s], probe.Ask{VLAN: g.vlan, Untagged: s.Native == g.vlan, Kind: probe.Size, Size: size})
					}
				}
			}
		}
		if len(asks) == 0 {
			return
		}
		c.progress("finding the largest size", round, sizeRounds)
		if !c.say(ctx, asks) {
			return
		}
	}
}

// alike groups the segments in which something is too large by the pairs for which it is.
func (c *check) alike() (groups [][]*segment) {
	index := map[string]int{}
	for _, g := range c.segments {
		var pairs []string
		for _, s := range g.active() {
			for _, p := range g.active() {
				if g.tooLarge(s, p) {
					pairs = append(pairs, fmt.Sprint(s.node, s.Uplink, p.node, p.Uplink))
				}
			}
		}
		if len(pairs) == 0 {
			continue
		}
		key := fmt.Sprint(g.trunk, g.mtu, strings.Join(pairs, ","))
		if _, known := index[key]; !known {
			index[key] = len(groups)
			groups = append(groups, nil)
		}
		groups[index[key]] = append(groups[index[key]], g)
	}
	return groups
}

// nextSizes are those between what passed, to each peer for whom full size is too large, and
// the least that was tried and did not.
func (g *segment) nextSizes(s *station, tried []int) (next []int) {
	for _, p := range g.active() {
		if p == s || !g.tooLarge(s, p) {
			continue
		}
		low, high := g.largest(s, p), g.asked(s)
		for _, size := range between(low, high, tried) {
			if !slices.Contains(next, size) {
				next = append(next, size)
			}
		}
	}
	return next
}

// between are sizes from one that passed to one that did not, or the least that was tried above it.
func between(low, high int, tried []int) (next []int) {
	for _, t := range tried {
		if t > low {
			high = min(high, t)
		}
	}
	for i := range steps {
		if size := low + (high-low)*(i+1)/(steps+1); size > low && size < high && !slices.Contains(next, size) {
			next = append(next, size)
		}
	}
	return next
}
