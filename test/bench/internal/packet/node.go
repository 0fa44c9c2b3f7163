package packet

import (
	"errors"
	"fmt"
	"time"

	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Node is a node with many ports, each of which has rules of its own.
type Node struct {
	Label string
	Ports int
	// Size of each port's rule base, and of those that it is compared with.
	Size, Few Size
	// Hooks gives those of one port, by its number, under its rule base of a size.
	Hooks func(s Size, port int) Ported
	// Change changes a rule of one port under Size, and gives the time until that is in force: by
	// what has changed, or with everything compiled anew.
	Change func(anew bool) (time.Duration, error)
	// Address has one address take another's place in a set that rules of every other port name.
	Address func(anew bool) (time.Duration, error)
}

// fleet is paths that send in turn, so that none finds its rules where it left them.
type fleet struct {
	plain []*Path
	ours  []*ourPath
}

// turn has all paths send their share.
func turn[P any](paths []P, send func(P, uint32) (Sample, error)) func(uint32) (Sample, error) {
	return func(n uint32) (sum Sample, _ error) {
		for _, p := range paths {
			s, err := send(p, n/uint32(len(paths))+1)
			if err != nil {
				return sum, err
			}
			sum.Packets += s.Packets
			sum.CPU += s.CPU
		}
		return sum, nil
	}
}

// NodeRows measures packets between all ports of a node, two and two, and changes of its rules.
func NodeRows(c Config, n Node) (rows []ratio.Row, err error) {
	sinks, leave, err := prepare(c)
	if err != nil {
		return nil, err
	}
	defer leave()
	var all [3]fleet // plain, few rules, many
	defer func() {
		for i := range all {
			err = errors.Join(err, all[i].close())
		}
	}()
	number := byte(0)
	for i := range all {
		for pair := range n.Ports / 2 {
			number++
			p, err := newPath(fmt.Sprint("node", number), number, sinks, 1)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				all[i].plain = append(all[i].plain, p)
				continue
			}
			of := &ourPath{Path: p, ports: []*Port{p.A, p.B}, Size: []Size{n.Few, n.Size}[i-1]}
			all[i].ours = append(all[i].ours, of)
			of.hooks = n.Hooks(of.Size, 2*pair)
			for at, port := range []*Port{p.A, p.B} {
				if err := n.Hooks(of.Size, 2*pair+at).Protect(port.Index, port.Name, port.VM.mac); err != nil {
					return nil, fmt.Errorf("protect %s: %w", port.Name, err)
				}
			}
		}
	}
	established := func(p *Path, n uint32) (Sample, error) {
		if err := p.Establish(1); err != nil {
			return Sample{}, err
		}
		return p.Measure(n)
	}
	plain, few, many := all[0].plain, all[1].ours, all[2].ours
	sides := []*side{
		{name: "plain bridge", turn: turn(plain, established)},
		{name: "established, few rules", turn: turn(few, (*ourPath).established)},
		{name: "established", turn: turn(many, (*ourPath).established)},
		{name: "plain bridge, first packets", turn: turn(plain, (*Path).MeasureFirst)},
		{name: "first packets, few rules", turn: turn(few, (*ourPath).first)},
		{name: "first packets", turn: turn(many, (*ourPath).first)},
	}
	if err := contest(c, sides); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%d-ports-%d-rules", n.Ports, n.Ports*n.Size.Rules)
	same := fmt.Sprintf("the same with %d rules a port", n.Few.Rules)
	for _, r := range []struct {
		name, what string
		ours, base int
		aim        ratio.Aim
	}{
		{"established-" + name, "plain kernel bridges", 2, 0, Aim},
		{fmt.Sprintf("established-%s-vs-%d", name, n.Ports*n.Few.Rules), same, 2, 1, AimFlat},
		{"first-" + name, "plain kernel bridges", 5, 3, ratio.Aim{}},
		{fmt.Sprintf("first-%s-vs-%d", name, n.Ports*n.Few.Rules), same, 5, 4, AimFirstFlat},
	} {
		row, err := sides[r.ours].against(n.Label+"/"+r.name, sides[r.base], r.what, r.aim)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	aimChange, aimAddress := AimChange, AimAddress
	if n.Size.Rules != aimedRules {
		aimChange = ratio.Aim{}
	}
	if n.Size.Addresses != aimedAddresses {
		aimAddress = ratio.Aim{}
	}
	change, err := againstAnew(c, n.Label+"/change-"+name, n.Change, aimChange)
	if err != nil {
		return nil, err
	}
	address, err := againstAnew(c, n.Label+"/address-"+name, n.Address, aimAddress)
	return append(rows, change, address), err
}

// againstAnew compares a change of what is in force with everything compiled anew.
func againstAnew(c Config, name string, change func(anew bool) (time.Duration, error), aim ratio.Aim) (row ratio.Row, err error) {
	var pairs []ratio.Pair
	for range max(1, c.Rounds/4) {
		anew, err := change(true)
		if err != nil {
			return row, err
		}
		for range 2 { // what was made anew is of both generations
			if _, err := change(false); err != nil {
				return row, err
			}
		}
		ours, err := change(false)
		if err != nil {
			return row, err
		}
		pairs = append(pairs, ratio.Pair{Ours: ours.Seconds(), Baseline: anew.Seconds()})
	}
	return ratio.Compare(name, "everything compiled anew", ratio.Seconds, aim, pairs)
}

func (f *fleet) close() error {
	var errs []error
	for _, p := range f.plain {
		errs = append(errs, p.Close())
	}
	for _, p := range f.ours {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}
