package packet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Aims of rows of a grid.
var (
	// AimFlat is of an established flow: under the most rules against under the fewest.
	AimFlat = ratio.Aim{High: 1.10}
	// AimPast is of an established flow past the bridge, against the plain bridge.
	AimPast = ratio.Aim{Ratio: 0.8}
	// AimUplink is of one between a port and the uplink.
	AimUplink = ratio.Aim{Ratio: 1.1}
	// AimFirstFlat is the same of the first packet of a flow.
	AimFirstFlat = ratio.Aim{Ratio: 2}
	// AimFirst is of the first packet of a flow under 4,000 rules, against iptables.
	AimFirst = ratio.Aim{Ratio: 1.0 / 40}
	// AimChange is a changed rule among 4,000.
	AimChange = ratio.Aim{Ours: 0.5}
	// AimAddress is an address that comes to a set of 100,000.
	AimAddress = ratio.Aim{Ours: 0.01}
)

// What AimFirst and AimChange, and AimAddress are about.
const (
	aimedRules     = 4000
	aimedAddresses = 100000
)

// Size of a rule base.
type Size struct{ Rules, Addresses int }

func (s Size) String() string {
	if s.Addresses == 0 {
		return fmt.Sprintf("%d-rules", s.Rules)
	}
	return fmt.Sprintf("%d-rules-%s-addresses", s.Rules, short(s.Addresses))
}

func short(n int) string {
	switch {
	case n >= 1e6 && n%1e6 == 0:
		return fmt.Sprintf("%dM", n/1e6)
	case n >= 1e3 && n%1e3 == 0:
		return fmt.Sprintf("%dk", n/1e3)
	}
	return fmt.Sprint(n)
}

// Ported are hooks that count how packets came to pass, and that can forget their port.
type Ported interface {
	Counting
	Allowed(ifindex int) (uint64, error)
	Release(ifindex int) error
}

// Grid is rule bases that are compared with each other, the plain bridge and the rivals, all
// in turns. One dimension has one value; the first of the other is the base of the rows that
// tell whether cost is flat.
type Grid struct {
	Label string
	Sizes []Size
	// Aim of an established flow against the plain bridge.
	Aim ratio.Aim
	// At are the ports of a path that have hooks; nil is both. One that has none is a host's, as the uplink is.
	At func(*Path) []*Port
	// Past: packets of established flows are to go past the bridge.
	Past bool
	// Native: frames have no tag at the uplink.
	Native bool
	// Hooks gives the hooks of ports under a rule base, all of which are loaded already.
	Hooks  func(Size) Ported
	Rivals []Rival
	// Change changes the rule in the middle of a rule base and gives the time until that is in
	// force and nothing is judged by the old one any more; nil: no rows of changes.
	Change func(Size) (time.Duration, error)
	// Address has one address take another's place in a set of one of Sizes, Addressed, and gives the
	// time until that is in force: by what has changed, or with everything compiled anew. nil: no such row.
	Addressed Size
	Address   func(s Size, anew bool) (time.Duration, error)
}

// ourPath is a path under our hooks.
type ourPath struct {
	*Path
	Size
	hooks Ported
	ports []*Port // that have them
	past  bool
}

// established and first are the turns of a contest: all packets must have gone the way that
// the row is about, at both ports.
func (p *ourPath) established(n uint32) (Sample, error) {
	if err := p.Establish(1); err != nil {
		return Sample{}, err
	}
	before, err := p.B.forwarded()
	if err != nil {
		return Sample{}, err
	}
	s, err := p.counted(p.hooks.Established, p.Measure, n)
	if err != nil {
		return s, err
	}
	after, err := p.B.forwarded()
	// One now and then goes by the bridge all the same.
	if got := after - before; err == nil && p.past && got > 1 {
		err = fmt.Errorf("%s: %d of %d packets went by the bridge", p.Size, got, s.Packets)
	}
	return s, err
}

func (p *ourPath) first(n uint32) (Sample, error) {
	return p.counted(p.hooks.Allowed, p.MeasureFirst, n)
}

func (p *ourPath) counted(counter func(int) (uint64, error), measure func(uint32) (Sample, error), n uint32) (s Sample, err error) {
	sum := func() (sum uint64) {
		for _, port := range p.ports {
			got, e := counter(port.Index)
			err = errors.Join(err, e)
			sum += got
		}
		return sum
	}
	before := sum()
	s, e := measure(n)
	if err = errors.Join(err, e); err != nil {
		return s, err
	}
	if got := sum() - before; err == nil && got != uint64(len(p.ports))*s.Packets {
		err = fmt.Errorf("%s: %d packets passed the hooks of %d ports, which counted %d the way that is measured", p.Size, s.Packets, len(p.ports), got)
	}
	return s, err
}

func (p *ourPath) close() error {
	var errs []error
	for _, port := range p.ports {
		errs = append(errs, p.hooks.Release(port.Index))
	}
	return errors.Join(append(errs, p.Path.Close())...)
}

// grid is what a Grid has while it is measured.
type grid struct {
	Grid
	plain  *Path
	ours   []*ourPath
	rivals []*rivalPath
	// sides
	plainEst, plainFirst *side
	est, first           []*side
	rivalFirst           []*side
	rows                 []ratio.Row
}

// GridRows measures a grid: rows, and a curve for each side of what the first packet of a flow
// costs by the number of rules, where that varies.
func GridRows(c Config, g Grid) (rows []ratio.Row, curves []ratio.Curve, err error) {
	sinks, leave, err := prepare(c)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	m := &grid{Grid: g}
	defer func() { err = errors.Join(err, m.close()) }()
	if err := m.build(sinks); err != nil {
		return nil, nil, err
	}
	if err := contest(c, m.sides()); err != nil {
		return nil, nil, err
	}
	for _, r := range m.rivals {
		if err := r.judged(); err != nil {
			return nil, nil, err
		}
	}
	err = m.compare(c)
	return m.rows, m.curves(), err
}

func (m *grid) build(sinks box.Netns) (err error) {
	number := byte(100)
	if m.plain, err = newPath("plain", number, sinks, 1); err != nil {
		return err
	}
	for _, s := range m.Sizes {
		number++
		p := &ourPath{Size: s, hooks: m.Hooks(s), past: m.Past}
		if p.Path, err = newPath(fmt.Sprint("ours", number), number, sinks, 1); err != nil {
			return err
		}
		m.ours = append(m.ours, p)
		p.ports = []*Port{p.A, p.B}
		if m.At != nil {
			p.ports = m.At(p.Path)
		}
		for _, port := range p.ports {
			if err := p.hooks.Protect(port.Index, port.Name, port.VM.mac); err != nil {
				return fmt.Errorf("protect %s: %w", port.Name, err)
			}
		}
	}
	for _, n := range m.ruleCounts() {
		for _, r := range m.Rivals {
			number++
			p, err := newRivalPath(r, n, 1, number, sinks)
			if err != nil {
				return err
			}
			m.rivals = append(m.rivals, p)
		}
	}
	return nil
}

// ruleCounts are the numbers of rules in the grid, each once.
func (m *grid) ruleCounts() (out []int) {
	for _, s := range m.Sizes {
		if !slices.Contains(out, s.Rules) {
			out = append(out, s.Rules)
		}
	}
	return out
}

func (m *grid) sides() []*side {
	m.plainEst = &side{name: "plain bridge", turn: func(n uint32) (Sample, error) {
		if err := m.plain.Establish(1); err != nil {
			return Sample{}, err
		}
		return m.plain.Measure(n)
	}}
	m.plainFirst = &side{name: "plain bridge, first packets", turn: m.plain.MeasureFirst}
	all := []*side{m.plainEst, m.plainFirst}
	for _, p := range m.ours {
		m.est = append(m.est, &side{name: "established, " + p.Size.String(), turn: p.established})
		m.first = append(m.first, &side{name: "first packets, " + p.Size.String(), turn: p.first})
	}
	for _, p := range m.rivals {
		m.rivalFirst = append(m.rivalFirst, &side{name: fmt.Sprintf("first packets, %s, %d rules", p.Rival.Name, p.size), turn: p.first})
	}
	return slices.Concat(all, m.est, m.first, m.rivalFirst)
}

func (m *grid) row(name string, ours, base *side, what string, aim ratio.Aim) error {
	r, err := ours.against(m.Label+"/"+name, base, what, aim)
	if err == nil {
		m.rows = append(m.rows, r)
	}
	return err
}

func (m *grid) compare(c Config) error {
	var errs []error
	last := len(m.ours) - 1
	for i, p := range m.ours {
		errs = append(errs, m.row(fmt.Sprintf("established-%s", p.Size), m.est[i], m.plainEst, "plain kernel bridge", m.Aim))
	}
	for i, p := range m.ours {
		errs = append(errs, m.row(fmt.Sprintf("first-%s", p.Size), m.first[i], m.plainFirst, "plain kernel bridge", ratio.Aim{}))
		for j, r := range m.rivals {
			if r.size != p.Rules {
				continue
			}
			aim := ratio.Aim{}
			if r.Rival.Name == iptables.Name && p.Rules == aimedRules {
				aim = AimFirst
			}
			errs = append(errs, m.row(fmt.Sprintf("first-%s-vs-%s", p.Size, r.Rival.Name), m.first[i], m.rivalFirst[j],
				fmt.Sprintf("%s, %d rules of one prefix each", r.Rival.Name, r.size), aim))
		}
	}
	if last > 0 {
		most, fewest := m.ours[last].Size, m.ours[0].Size
		errs = append(errs,
			m.row(fmt.Sprintf("established-%s-vs-%s", most, fewest), m.est[last], m.est[0], "the same under "+fewest.String(), AimFlat),
			m.row(fmt.Sprintf("first-%s-vs-%s", most, fewest), m.first[last], m.first[0], "the same under "+fewest.String(), AimFirstFlat))
	}
	return errors.Join(append(errs, m.changes(c), m.address(c))...)
}

// address measures how long it takes until another address of a set is in force.
func (m *grid) address(c Config) error {
	if m.Address == nil {
		return nil
	}
	aim := ratio.Aim{}
	if m.Addressed.Addresses == aimedAddresses {
		aim = AimAddress
	}
	row, err := againstAnew(c, fmt.Sprintf("%s/address-%s", m.Label, m.Addressed), func(anew bool) (time.Duration, error) { return m.Address(m.Addressed, anew) }, aim)
	if err != nil {
		return err
	}
	m.rows = append(m.rows, row)
	return nil
}

// changes measures how long it takes until a changed rule is in force, with all rule bases of
// the grid on the node; few times, as it is long beside a packet.
func (m *grid) changes(c Config) error {
	if m.Change == nil {
		return nil
	}
	for _, p := range m.ours {
		for _, r := range m.rivals {
			if r.size != p.Rules {
				continue
			}
			var pairs []ratio.Pair
			for range max(1, c.Rounds/8) {
				var pair ratio.Pair
				order := []func() error{
					func() error {
						took, err := m.Change(p.Size)
						pair.Ours = took.Seconds()
						return err
					},
					func() error {
						start := time.Now()
						err := r.changeRule()
						pair.Baseline = time.Since(start).Seconds()
						return err
					},
				}
				rand.Shuffle(2, func(i, j int) { order[i], order[j] = order[j], order[i] })
				for _, fn := range order {
					if err := fn(); err != nil {
						return fmt.Errorf("change a rule of %s: %w", p.Size, err)
					}
				}
				pairs = append(pairs, pair)
			}
			aim := ratio.Aim{}
			if p.Rules == aimedRules {
				aim = AimChange
			}
			row, err := ratio.Compare(fmt.Sprintf("%s/change-%s-vs-%s", m.Label, p.Size, r.Rival.Name),
				"one rule changed by "+r.Rival.Name+", its command included", ratio.Seconds, aim, pairs)
			if err != nil {
				return err
			}
			m.rows = append(m.rows, row)
		}
	}
	return nil
}

// curves are for a plot over rules.
func (m *grid) curves() []ratio.Curve {
	if len(m.ruleCounts()) < 2 || len(m.first) == 0 || len(m.first[0].costs) == 0 {
		return nil
	}
	var plain, est, first ratio.Curve
	plain.Name, est.Name, first.Name = "plain bridge, no rules", "Homeport, established flow", "Homeport, first packet"
	for i, p := range m.ours {
		plain.Add(p.Rules, ratio.Median(m.plainEst.costs))
		est.Add(p.Rules, ratio.Median(m.est[i].costs))
		first.Add(p.Rules, ratio.Median(m.first[i].costs))
	}
	curves := []ratio.Curve{plain, est, first}
	for _, r := range m.Rivals {
		one := ratio.Curve{Name: r.Name + ", first packet"}
		for j, p := range m.rivals {
			if p.Rival.Name == r.Name {
				one.Add(p.size, ratio.Median(m.rivalFirst[j].costs))
			}
		}
		curves = append(curves, one)
	}
	return curves
}

func (m *grid) close() error {
	var errs []error
	if m.plain != nil {
		errs = append(errs, m.plain.Close())
	}
	for _, p := range m.ours {
		errs = append(errs, p.close())
	}
	for _, p := range m.rivals {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}
