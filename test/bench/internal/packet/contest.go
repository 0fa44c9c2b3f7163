package packet

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// turnTime is how long a turn takes at most, about: sides of a contest differ a hundredfold.
const turnTime = 10 * time.Millisecond

// side is one of those whose costs are compared.
type side struct {
	name  string
	turn  func(packets uint32) (Sample, error)
	costs []float64 // seconds a packet, by round
}

// contest has the sides send in turns, in another order each time, so that what else the
// machine does hits all of them. Each sends as much in a turn as its speed allows.
func contest(c Config, sides []*side) error {
	packets := make([]uint32, len(sides))
	order := make([]int, len(sides))
	for i, s := range sides {
		order[i] = i
		if _, err := s.turn(c.PerSlice / 10); err != nil { // the first ones are dear
			return fmt.Errorf("%s: %w", s.name, err)
		}
		few, err := s.turn(c.PerSlice/10 + 1)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		packets[i] = max(64, min(c.PerSlice, uint32(turnTime.Seconds()/few.PerPacket())))
	}
	for range c.Rounds {
		sums := make([]Sample, len(sides))
		for range c.Slices {
			rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, i := range order {
				got, err := sides[i].turn(packets[i])
				if err != nil {
					return fmt.Errorf("%s: %w", sides[i].name, err)
				}
				sums[i].Packets += got.Packets
				sums[i].CPU += got.CPU
			}
		}
		for i, s := range sides {
			s.costs = append(s.costs, sums[i].PerPacket())
		}
	}
	return nil
}

// against makes a row of two sides of a contest.
func (s *side) against(name string, base *side, what string, aim ratio.Aim) (ratio.Row, error) {
	var pairs []ratio.Pair
	for i := range s.costs {
		pairs = append(pairs, ratio.Pair{Ours: s.costs[i], Baseline: base.costs[i]})
	}
	return ratio.Compare(name, what, ratio.Seconds, aim, pairs)
}
