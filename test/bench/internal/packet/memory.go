package packet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Memory is a node's rules, the addresses that they name, and connections: what each takes in
// the kernel, and what it takes there for the rivals.
type Memory struct {
	Label      string
	Ports      int
	Rules, Few int // at each port
	Addresses  int
	Hooks      Ported
	Rivals     []Rival
	// Load has as many rules at each port in force; 0: and no addresses. Another turn is another generation.
	Load func(rules, turn int) error
}

// memoryFlows are enough to tell a connection's memory from noise.
const memoryFlows = PortFlows

// MemoryRows measures memory. The kernel tells of all that it has, so nothing else should run.
func MemoryRows(c Config, m Memory) (rows []ratio.Row, err error) {
	sinks, leave, err := prepare(c)
	if err != nil {
		return nil, err
	}
	defer leave()
	row := func(name, against string, ours, baseline float64) {
		r, e := ratio.Compare(m.Label+"/memory-per-"+name, against, ratio.Bytes, ratio.Aim{}, []ratio.Pair{{Ours: ours, Baseline: baseline}})
		err = errors.Join(err, e)
		rows = append(rows, r)
	}
	// Two generations: the one before stays where it is.
	generations := func(rules int) (float64, error) {
		return taken(func() error { return errors.Join(m.Load(rules, 0), m.Load(rules, 1)) })
	}
	if _, err := generations(0); err != nil { // whatever was there before
		return nil, err
	}
	addresses, err := generations(m.Few)
	if err != nil {
		return nil, err
	}
	rules, err := generations(m.Rules)
	if err != nil {
		return nil, err
	}
	flows, err := m.flows(sinks)
	if err != nil {
		return nil, err
	}
	for i, r := range m.Rivals {
		p, err := newRivalPath(r, 2, memoryFlows, byte(210+i), sinks)
		if err != nil {
			return nil, err
		}
		switch r.Name {
		case iptables.Name:
			var theirRules, theirFlows float64
			theirRules, err = p.memoryOf(r.load, r.rules(m.Rules))
			if err == nil {
				err = p.in(func() (err error) {
					theirFlows, err = taken(func() error { return p.Path.Establish(memoryFlows) })
					return err
				})
			}
			row(fmt.Sprintf("rule-%d-ports-%d-rules", m.Ports, m.Ports*m.Rules), fmt.Sprintf("iptables, %d rules", m.Rules), rules/float64(m.Ports*m.Rules), theirRules/float64(m.Rules))
			row("connection", "nf_conntrack", flows/(2*memoryFlows), theirFlows/memoryFlows)
		case nftables.Name:
			var theirs float64
			theirs, err = p.memoryOf(r.load, nftSet(m.Addresses))
			row(fmt.Sprintf("address-%s-addresses", short(m.Addresses)), "nftables, a set of intervals", addresses/float64(m.Addresses), theirs/float64(m.Addresses))
		}
		if err := errors.Join(err, p.close()); err != nil {
			return nil, err
		}
	}
	return rows, err
}

// flows has connections at two ports.
func (m *Memory) flows(sinks box.Netns) (took float64, err error) {
	path, err := newPath("memory", 209, sinks, memoryFlows)
	if err != nil {
		return 0, err
	}
	p := &ourPath{Path: path, hooks: m.Hooks, ports: []*Port{path.A, path.B}}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, port := range []*Port{p.A, p.B} {
		if err := m.Hooks.Protect(port.Index, port.Name, port.VM.mac); err != nil {
			return 0, fmt.Errorf("protect %s: %w", port.Name, err)
		}
	}
	return taken(func() error { return p.Establish(memoryFlows) })
}

// memoryOf is what a command takes, whose input it is.
func (p *rivalPath) memoryOf(argv []string, input string) (took float64, err error) {
	err = p.in(func() error {
		took, err = taken(func() error {
			_, err := p.command(argv, input)
			return err
		})
		return err
	})
	return took, err
}

// nftSet is a set of so many prefixes.
func nftSet(n int) string {
	var b bytes.Buffer
	b.WriteString("table bridge memory {\n set s { type ipv4_addr; flags interval; elements = {\n")
	for i := range n {
		fmt.Fprintf(&b, "11.%d.%d.%d/%d,\n", i>>13&255, i>>5&255, i&31<<3, 29+i%4)
	}
	b.WriteString("}}\n}\n")
	return b.String()
}

// taken is by how many bytes the kernel's memory has grown with work.
func taken(work func() error) (float64, error) {
	before, err := settled()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := settled()
	return max(0, after-before), err
}

// settled is kernelBytes once it has stopped falling: what is let go of is freed later.
func settled() (float64, error) {
	runtime.GC() // maps that nobody has any more
	last, err := kernelBytes()
	for calm := 0; err == nil && calm < 3; calm++ {
		time.Sleep(200 * time.Millisecond)
		var now float64
		if now, err = kernelBytes(); now < last-64<<10 {
			calm = -1
		}
		last = min(last, now)
	}
	return last, err
}

var kernelLines = regexp.MustCompile(`(?m)^(?:SUnreclaim|VmallocUsed|Percpu): +(\d+) kB$`)

// kernelBytes is what the kernel has of memory for itself that it cannot take back.
func kernelBytes() (sum float64, err error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	found := kernelLines.FindAllSubmatch(text, -1)
	if len(found) != 3 {
		return 0, errors.New("/proc/meminfo does not say what the kernel takes")
	}
	for _, m := range found {
		kb, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, err
		}
		sum += kb * 1024
	}
	return sum, nil
}
