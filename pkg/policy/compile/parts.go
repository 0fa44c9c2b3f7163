package compile

import (
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// groupsOfFlags are the TCP flags that rules do not tell apart.
type groupsOfFlags struct {
	of   []uint16 // by flags, the number of their group; that of none is 0. Nil: no rule asks for flags
	like []uint8  // by number, some flags of the group
}

func flagGroups(rules []policy.Rule) (g groupsOfFlags) {
	var demands []policy.TCPFlags
	for i := range rules {
		for _, s := range rules[i].Services {
			if s.Flags.Mask != 0 && !slices.Contains(demands, s.Flags) {
				demands = append(demands, s.Flags)
			}
		}
	}
	if demands == nil {
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
	var all []part
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

// applies says whether a rule is judged in a direction.
func applies(r *policy.Rule, d policy.Direction) bool { return r.Directions.Has(d) && !r.Disabled }
