package packet

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Live is many live connections, and what looks through them for those that are over.
type Live struct {
	Label string
	// Flows of all ports together; each port has at most PortFlows.
	Flows int
	Hooks Ported
	// Count gives the connections that a port knows.
	Count func(ifindex int) (int, error)
	// Scan looks through all connections of the node once.
	Scan func() error
}

// PortFlows is how many connections of a path a port's table has room for.
const PortFlows = 30000

// LiveRow compares packets of live connections while they are looked through, all the time, with
// packets in between.
func LiveRow(c Config, l Live) (row ratio.Row, err error) {
	sinks, leave, err := prepare(c)
	if err != nil {
		return row, err
	}
	defer leave()
	pairs := (l.Flows + 2*PortFlows - 1) / (2 * PortFlows)
	each := (l.Flows + 2*pairs - 1) / (2 * pairs)
	var paths []*ourPath
	defer func() {
		for _, p := range paths {
			err = errors.Join(err, p.close())
		}
	}()
	total := 0
	for i := range pairs {
		p, err := newPath(fmt.Sprint("live", i), byte(i), sinks, int32(each))
		if err != nil {
			return row, err
		}
		paths = append(paths, &ourPath{Path: p, hooks: l.Hooks, ports: []*Port{p.A, p.B}})
		for _, port := range []*Port{p.A, p.B} {
			if err := l.Hooks.Protect(port.Index, port.Name, port.VM.mac); err != nil {
				return row, fmt.Errorf("protect %s: %w", port.Name, err)
			}
		}
		if err := p.Establish(int32(each)); err != nil {
			return row, err
		}
		for _, port := range []*Port{p.A, p.B} {
			n, err := l.Count(port.Index)
			if err != nil {
				return row, err
			}
			total += n
		}
	}
	if total < l.Flows {
		return row, fmt.Errorf("%d connections are live, want %d", total, l.Flows)
	}
	send := turn(paths, func(p *ourPath, n uint32) (Sample, error) { return p.counted(p.hooks.Established, p.Measure, n) })
	var scan scanner
	calm := &side{name: "between scans", turn: send}
	busy := &side{name: "while scanning", turn: func(n uint32) (Sample, error) {
		scan.begin(l.Scan)
		s, err := send(n)
		return s, errors.Join(err, scan.end())
	}}
	if err := contest(c, []*side{calm, busy}); err != nil {
		return row, err
	}
	name := fmt.Sprintf("%s/established-%s-flows-while-scanning", l.Label, short(l.Flows))
	if row, err = busy.against(name, calm, "the same between scans", AimFlat); err != nil {
		return row, err
	}
	start := time.Now()
	if err := l.Scan(); err != nil {
		return row, err
	}
	row.Note = fmt.Sprintf("%d live connections; to look through all of them takes %v", total, time.Since(start).Round(time.Millisecond))
	return row, nil
}

// scanner scans again and again, beside the one who sends.
type scanner struct {
	stop atomic.Bool
	done chan error
}

func (s *scanner) begin(scan func() error) {
	s.stop.Store(false)
	s.done = make(chan error)
	began := make(chan bool)
	go func() {
		close(began)
		var err error
		for !s.stop.Load() && err == nil {
			err = scan()
		}
		s.done <- err
	}()
	<-began
}

func (s *scanner) end() error {
	s.stop.Store(true)
	return <-s.done
}
