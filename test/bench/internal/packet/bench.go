package packet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Hooks is the firewall under test.
type Hooks interface {
	// Protect attaches it at a port that is in its bridge, and opens it.
	Protect(ifindex int, name string, mac net.HardwareAddr) error
}

// Counting are hooks that can tell whether a measurement was of what it claims.
type Counting interface {
	Hooks
	// Established counts the packets that passed the port as part of a known
	// connection, both directions.
	Established(ifindex int) (uint64, error)
}

// Config of a measurement.
type Config struct {
	Rounds int
	// Slices a round: each side sends Slices times PerSlice packets, in random
	// order, so that a neighbour's burst hits both.
	Slices   int
	PerSlice uint32
	// CPU that sends. -1 takes any.
	CPU int
}

// Aim of the two hooks together.
var Aim = ratio.Aim{Ratio: 1.35}

// Case is one row: a path with hooks against the plain bridge, both with so many
// flows.
type Case struct {
	Name  string
	Hooks Hooks
	Flows int32
	Aim   ratio.Aim
}

// pair is the two paths that are compared.
type pair struct {
	Case
	plain, hooked *Path
}

// prepare makes a place for the far ends of ports, and keeps the thread to the CPU that sends.
func prepare(c Config) (sinks box.Netns, leave func(), err error) {
	if sinks, err = box.NewNetns("sinks"); err != nil {
		return sinks, nil, err
	}
	if err := sinks.Do(box.Quiet); err != nil {
		sinks.Delete()
		return sinks, nil, err
	}
	unpin, err := box.Pin(c.CPU)
	if err != nil {
		sinks.Delete()
		return sinks, nil, err
	}
	return sinks, func() { unpin(); sinks.Delete() }, nil
}

// Rows measures a row for each case. It needs a box whose network namespace was
// made quiet.
func Rows(c Config, cases ...Case) ([]ratio.Row, error) {
	sinks, leave, err := prepare(c)
	if err != nil {
		return nil, err
	}
	defer leave()
	var rows []ratio.Row
	for i, one := range cases {
		row, err := measureCase(c, one, sinks, byte(2*i))
		if err != nil {
			return rows, fmt.Errorf("%s: %w", one.Name, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func measureCase(c Config, one Case, sinks box.Netns, number byte) (row ratio.Row, err error) {
	p := &pair{Case: one}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.build(sinks, number); err != nil {
		return row, err
	}
	pairs, err := p.rounds(c)
	if err != nil {
		return row, err
	}
	row, err = ratio.Compare(one.Name, "plain kernel bridge", ratio.Seconds, one.Aim, pairs)
	if err != nil {
		return row, err
	}
	row.Note, err = p.profile(c)
	return row, err
}

func (p *pair) build(sinks box.Netns, number byte) (err error) {
	if p.plain, err = newPath(fmt.Sprint("plain", number), number, sinks, p.Flows); err != nil {
		return err
	}
	if p.hooked, err = newPath(fmt.Sprint("hooked", number), number+1, sinks, p.Flows); err != nil {
		return err
	}
	for _, port := range []*Port{p.hooked.A, p.hooked.B} {
		if err := p.Hooks.Protect(port.Index, port.Name, port.VM.mac); err != nil {
			return fmt.Errorf("protect %s: %w", port.Name, err)
		}
	}
	return errors.Join(p.plain.Establish(p.Flows), p.hooked.Establish(p.Flows))
}

func (p *pair) close() error {
	var errs []error
	for _, path := range []*Path{p.plain, p.hooked} {
		if path != nil {
			errs = append(errs, path.Close())
		}
	}
	return errors.Join(errs...)
}

// rounds measures both sides, and makes sure that what went through the hooks
// went by the connection table: a cheaper or dearer way would be another row.
func (p *pair) rounds(c Config) ([]ratio.Pair, error) {
	before, err := p.established()
	if err != nil {
		return nil, err
	}
	var pairs []ratio.Pair
	var packets uint64
	for range c.Rounds {
		var plain, hooked Sample
		for range c.Slices {
			order := []*Path{p.plain, p.hooked}
			rand.Shuffle(2, func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, path := range order {
				sum := &plain
				if path == p.hooked {
					sum = &hooked
				}
				s, err := path.Measure(c.PerSlice)
				if err != nil {
					return nil, err
				}
				sum.Packets += s.Packets
				sum.CPU += s.CPU
			}
		}
		packets += hooked.Packets
		pairs = append(pairs, ratio.Pair{Ours: hooked.PerPacket(), Baseline: plain.PerPacket()})
	}
	after, err := p.established()
	if err != nil {
		return nil, err
	}
	if _, ok := p.Hooks.(Counting); !ok {
		return pairs, nil
	}
	if got := after - before; got != 2*packets {
		return nil, fmt.Errorf("%d packets passed two hooks, but these counted %d of a known connection, want %d", packets, got, 2*packets)
	}
	return pairs, nil
}

// established is 0 for hooks that do not count.
func (p *pair) established() (uint64, error) {
	hooks, ok := p.Hooks.(Counting)
	if !ok {
		return 0, nil
	}
	a, err := hooks.Established(p.hooked.A.Index)
	if err != nil {
		return 0, fmt.Errorf("counters of %s: %w", p.hooked.A.Name, err)
	}
	b, err := hooks.Established(p.hooked.B.Index)
	if err != nil {
		return 0, fmt.Errorf("counters of %s: %w", p.hooked.B.Name, err)
	}
	return a + b, nil
}

// profile asks the kernel how long each hook runs (kernel.bpf_stats_enabled),
// after the rounds, since asking costs as much again.
func (p *pair) profile(c Config) (string, error) {
	from, err := programAt(p.hooked.A.Index, ebpf.AttachTCXIngress)
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := programAt(p.hooked.B.Index, ebpf.AttachTCXEgress)
	if err != nil {
		return "", err
	}
	defer to.Close()
	stats, err := ebpf.EnableStats(bpfStatsRunTime)
	if err != nil {
		return "", fmt.Errorf("enable program statistics: %w", err)
	}
	defer stats.Close()
	if _, err := p.hooked.Measure(c.PerSlice * uint32(c.Slices)); err != nil {
		return "", err
	}
	perRun := func(prog *ebpf.Program) (time.Duration, error) {
		s, err := prog.Stats()
		if err != nil || s.RunCount == 0 {
			return 0, fmt.Errorf("statistics of %v: %w", prog, errors.Join(err, errNeverRan))
		}
		return s.Runtime / time.Duration(s.RunCount), nil
	}
	f, err1 := perRun(from)
	t, err2 := perRun(to)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	return fmt.Sprintf("run time by the kernel's own statistics, their clock included: from_vm %v, to_vm %v", f, t), nil
}

var errNeverRan = errors.New("it never ran")

// bpfStatsRunTime is BPF_STATS_RUN_TIME of linux/bpf.h.
const bpfStatsRunTime = 0

// programAt gives the only program at a tcx hook.
func programAt(ifindex int, where ebpf.AttachType) (*ebpf.Program, error) {
	q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: where})
	if err != nil {
		return nil, fmt.Errorf("programs at interface %d: %w", ifindex, err)
	}
	if len(q.Programs) != 1 {
		return nil, fmt.Errorf("%d programs at interface %d, want 1", len(q.Programs), ifindex)
	}
	prog, err := ebpf.NewProgramFromID(q.Programs[0].ID)
	if err != nil {
		return nil, fmt.Errorf("program at interface %d: %w", ifindex, err)
	}
	return prog, nil
}
