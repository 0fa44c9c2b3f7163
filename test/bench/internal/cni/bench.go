package cni

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Aims against the reference plugin.
var (
	AimAdd = ratio.Aim{Ratio: 1.0}
	AimDel = ratio.Aim{Ratio: 0.5}
)

// Agent is the process behind our plugin. It runs while ours is measured, and
// is stopped while a baseline is, so that it cannot slow that down.
type Agent interface {
	Pause() error
	Resume() error
	// CPU is the time that it has run.
	CPU() (time.Duration, error)
}

// Side is a plugin and the bridge that it attaches to.
type Side struct {
	Plugin
	Bridge string
}

// Config of a measurement.
type Config struct {
	// Label comes before the rows' names: the kernel, or "flat".
	Label  string
	Rounds int
	// Rest is given to the kernel after each call, untimed, to finish what it
	// left for later: freeing a namespace or a device takes it some 10 ms.
	Rest      time.Duration
	Ours      Side
	Baselines []Side // the first is the one that the aims are about
	Agent     Agent
}

// bench is a running measurement.
type bench struct {
	Config
	prefix string // of container IDs
	serial int
	add    map[string][]float64 // seconds, by plugin name
	del    map[string][]float64
	churn  map[string][]float64
	start  []float64 // our plugin's VERSION: a program's start and nothing else
	// agentCPU is what the agent used in all rounds, bursts included.
	agentCPU time.Duration
	cpu      map[string]time.Duration // of the plugin, ADD and DEL together
	notUp    map[string]int           // ADDs that returned before the host end was up
}

// Rows measures. It needs a box, and the agent to be ready.
func Rows(ctx context.Context, c Config) ([]ratio.Row, error) {
	b := newBench(c)
	sides := append([]Side{c.Ours}, c.Baselines...)
	// The first call of each makes bridges and fills caches; it does not count.
	for _, s := range sides {
		if err := b.turn(ctx, s, b.once); err != nil {
			return nil, err
		}
	}
	b = newBench(c)
	before, err := c.Agent.CPU()
	if err != nil {
		return nil, err
	}
	for round := range c.Rounds {
		rand.Shuffle(len(sides), func(i, j int) { sides[i], sides[j] = sides[j], sides[i] })
		for _, s := range sides {
			if err := b.turn(ctx, s, b.once); err != nil {
				return nil, fmt.Errorf("round %d: %w", round, err)
			}
		}
		if round%churnEvery != 0 {
			continue
		}
		for _, s := range sides {
			if err := b.turn(ctx, s, b.burst); err != nil {
				return nil, fmt.Errorf("round %d: %w", round, err)
			}
		}
	}
	after, err := c.Agent.CPU()
	if err != nil {
		return nil, err
	}
	b.agentCPU = after - before
	return b.rows()
}

func newBench(c Config) *bench {
	return &bench{Config: c, prefix: strconv.FormatInt(time.Now().UnixNano(), 36), add: map[string][]float64{}, del: map[string][]float64{},
		churn: map[string][]float64{}, cpu: map[string]time.Duration{}, notUp: map[string]int{}}
}

// A burst of churnLen attachments comes every churnEvery rounds.
const (
	churnEvery = 10
	churnLen   = 4
)

// turn runs fn for one side, with the agent running only for ours.
func (b *bench) turn(ctx context.Context, s Side, fn func(context.Context, Side) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if s.Name == b.Ours.Name {
		return fn(ctx, s)
	}
	if err := b.Agent.Pause(); err != nil {
		return fmt.Errorf("pause the agent: %w", err)
	}
	err := fn(ctx, s)
	if err := b.Agent.Resume(); err != nil {
		return fmt.Errorf("resume the agent: %w", err)
	}
	time.Sleep(b.Rest) // it catches up with the events that it missed
	return err
}

func (b *bench) attachment() (Attachment, box.Netns, error) {
	b.serial++
	id := fmt.Sprintf("%s-%d", b.prefix, b.serial)
	ns, err := box.NewNetns(id)
	return Attachment{ID: id, Netns: ns.Path, IfName: "net1"}, ns, err
}

// once is an ADD and a DEL in a fresh namespace, each given its rest.
func (b *bench) once(ctx context.Context, s Side) (err error) {
	a, ns, err := b.attachment()
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, ns.Delete())
		time.Sleep(b.Rest)
	}()
	done, err := s.Call(ctx, "ADD", a)
	if err != nil {
		return err
	}
	b.add[s.Name] = append(b.add[s.Name], done.Elapsed.Seconds())
	b.cpu[s.Name] += done.CPU
	host, err := b.inspect(s, done.Out)
	if err != nil {
		return err
	}
	time.Sleep(b.Rest)
	done, err = s.Call(ctx, "DEL", a)
	if err != nil {
		return err
	}
	b.del[s.Name] = append(b.del[s.Name], done.Elapsed.Seconds())
	b.cpu[s.Name] += done.CPU
	if s.Name == b.Ours.Name {
		started, err := s.Call(ctx, "VERSION", a)
		if err != nil {
			return err
		}
		b.start = append(b.start, started.Elapsed.Seconds())
	}
	if _, err := netlink.LinkByName(host); !errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("%s: %s is still there after DEL (%w)", s.Name, host, err)
	}
	return nil
}

// inspect makes sure that the ADD did its work: the host end is in the bridge.
func (b *bench) inspect(s Side, answer []byte) (string, error) {
	name, err := hostEnd(answer, s.Bridge)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.Name, err)
	}
	host, err := netlink.LinkByName(name)
	if err != nil {
		return "", fmt.Errorf("%s: host end %s: %w", s.Name, name, err)
	}
	br, err := netlink.LinkByName(s.Bridge)
	if err != nil {
		return "", fmt.Errorf("%s: bridge %s: %w", s.Name, s.Bridge, err)
	}
	if host.Attrs().MasterIndex != br.Attrs().Index {
		return "", fmt.Errorf("%s: after ADD %s is not in bridge %s", s.Name, name, s.Bridge)
	}
	if host.Attrs().OperState != netlink.OperUp {
		b.notUp[s.Name]++
	}
	return name, nil
}

// burst is churnLen ADDs and DELs without a rest between: work that a plugin
// left to the kernel for later shows here.
func (b *bench) burst(ctx context.Context, s Side) (err error) {
	var list []Attachment
	for range churnLen {
		a, ns, err := b.attachment()
		if err != nil {
			return err
		}
		defer ns.Delete()
		list = append(list, a)
	}
	time.Sleep(b.Rest)
	start := time.Now()
	for _, a := range list {
		for _, verb := range []string{"ADD", "DEL"} {
			if _, err := s.Call(ctx, verb, a); err != nil {
				return err
			}
		}
	}
	b.churn[s.Name] = append(b.churn[s.Name], time.Since(start).Seconds()/churnLen)
	time.Sleep(b.Rest)
	return nil
}

func (b *bench) rows() ([]ratio.Row, error) {
	var rows []ratio.Row
	for i, base := range b.Baselines {
		suffix := ""
		if i > 0 {
			suffix = "-vs-" + base.Name
		}
		for _, m := range []struct {
			name   string
			aim    ratio.Aim
			values map[string][]float64
			note   string
		}{
			{"cni-add", AimAdd, b.add, b.note(base.Name)},
			{"cni-del", AimDel, b.del, ""},
			{"cni-churn", ratio.Aim{}, b.churn, fmt.Sprintf("one ADD and one DEL, in bursts of %d without a rest", churnLen)},
		} {
			row, err := ratio.Compare(b.Label+"/"+m.name+suffix, base.Name, ratio.Seconds, m.aim, pairs(m.values[b.Ours.Name], m.values[base.Name]))
			if err != nil {
				return rows, err
			}
			row.Note = m.note
			rows = append(rows, row)
		}
	}
	first := b.Baselines[0].Name
	start, err := ratio.Compare(b.Label+"/start-of-del", first, ratio.Seconds, ratio.Aim{}, pairs(b.start, b.del[first]))
	if err != nil {
		return rows, err
	}
	start.Note = "our plugin's start alone (VERSION), of the baseline's whole DEL: a plugin in Go cannot come below"
	return append(rows, start), nil
}

// note tells where CPU went, and how often each side answered before its host
// end was up.
func (b *bench) note(base string) string {
	each := func(d time.Duration, n int) string { return ratio.Seconds.Format(d.Seconds() / float64(max(1, n))) }
	calls := b.Rounds + (b.Rounds+churnEvery-1)/churnEvery*churnLen
	note := fmt.Sprintf("CPU for one ADD and DEL: plugin %s, agent in all %s, baseline %s",
		each(b.cpu[b.Ours.Name], b.Rounds), each(b.agentCPU, calls), each(b.cpu[base], b.Rounds))
	if ours, theirs := b.notUp[b.Ours.Name], b.notUp[base]; ours+theirs > 0 {
		note += fmt.Sprintf("; answered before the host end was up: ours %d, baseline %d of %d", ours, theirs, b.Rounds)
	}
	return note
}

func pairs(ours, base []float64) []ratio.Pair {
	var out []ratio.Pair
	for i := range min(len(ours), len(base)) {
		out = append(out, ratio.Pair{Ours: ours[i], Baseline: base[i]})
	}
	return out
}
