package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
	"github.com/homeport-cni/homeport/test/bench/internal/cni"
	"github.com/homeport-cni/homeport/test/bench/internal/flatagent"
	"github.com/homeport-cni/homeport/test/bench/internal/identity"
	"github.com/homeport-cni/homeport/test/bench/internal/packet"
	"github.com/homeport-cni/homeport/test/bench/internal/port"
	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// group is rows that are printed together.
type group struct {
	name string
	rows func(context.Context) ([]ratio.Row, error)
}

// measure runs what was asked for. Rows are printed as they come; what fails is
// told and recorded, and does not keep the rest from running.
func (o *options) measure(ctx context.Context) *ratio.Report {
	report := ratio.New()
	if !o.inBox() {
		if o.where == whereAll {
			o.child(ctx, report, whereNative)
		}
		if o.has(groupCNI) {
			o.child(ctx, report, whereVM)
		}
		return report
	}
	report.Machines = []ratio.Machine{machine(o.where)}
	groups := []group{{groupPlugin, o.pluginRows}, {groupCNI, o.cniRows}, {groupPacket, o.packetRows}, {groupIdentity, o.identityRows}}
	for _, g := range append(groups, o.grids(report)...) {
		if !o.has(g.name) || ctx.Err() != nil {
			continue
		}
		rows, err := g.rows(ctx)
		for _, r := range rows {
			fmt.Println(r)
			if r.Note != "" {
				fmt.Println("  " + r.Note)
			}
		}
		report.Rows = append(report.Rows, rows...)
		if err != nil {
			fail(report, o.where+" "+g.name, err)
		}
	}
	return report
}

func fail(report *ratio.Report, rows string, err error) {
	fmt.Fprintf(os.Stderr, "bench: %s: %v\n", rows, err)
	report.Failed = append(report.Failed, ratio.Failure{Rows: rows, Cause: err.Error()})
}

func machine(where string) ratio.Machine {
	m := ratio.Machine{Where: where, Kernel: "unknown", CPUs: runtime.NumCPU()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return m
}

// child measures in another process, here or in the VM, and takes over what
// it reports.
func (o *options) child(ctx context.Context, report *ratio.Report, where string) {
	dir, err := os.MkdirTemp("", "homeport-bench")
	if err != nil {
		fail(report, where, err)
		return
	}
	defer os.RemoveAll(dir)
	argv, err := o.childArgs(where, dir)
	if err != nil {
		fail(report, where, err)
		return
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	runErr := cmd.Run()
	part, err := ratio.Read(filepath.Join(dir, "bench.json"))
	if err != nil {
		fail(report, where, errors.Join(runErr, err))
		return
	}
	report.Merge(part)
}

func (o *options) childArgs(where, dir string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	same := []string{"-strict=false", "-rounds", strconv.Itoa(o.rounds), "-rest", o.rest.String()}
	if where == whereNative {
		return append([]string{self, "-where", whereNative, "-rows", strings.Join(o.rows, ","), "-bin", o.bin, "-json", filepath.Join(dir, "bench.json"),
			"-cpu", strconv.Itoa(o.cpu), "-packet-rounds", strconv.Itoa(o.packetRounds), "-slices", strconv.Itoa(o.slices),
			"-per-slice", strconv.FormatUint(uint64(o.perSlice), 10), "-flows", join(o.flows, func(n int32) string { return strconv.Itoa(int(n)) }),
			"-rules", join(o.rules, strconv.Itoa), "-addresses", join(o.addresses, strconv.Itoa), "-rivals", o.rivalList(), "-ports", strconv.Itoa(o.ports), "-live", strconv.Itoa(o.live)}, same...), nil
	}
	argv := []string{o.vmrun, "-kernel", o.kernel, "-timeout", "60m", "-out", dir, "-file", self + ":/opt/bench"}
	for _, name := range []string{pluginBinary, referenceBinary, agentBinary} {
		argv = append(argv, "-file", filepath.Join(o.bin, name)+":/opt/"+name)
	}
	argv = append(argv, "--", "/opt/bench", "-where", whereInside, "-label", o.kernel, "-rows", groupCNI, "-bin", "/opt", "-json", "/out/bench.json")
	return append(argv, same...), nil
}

// The binaries in -bin.
const (
	pluginBinary    = "cni-plugin"
	agentBinary     = "bridge-agent"
	referenceBinary = "bridge-reference"
)

const vlanID = 100

// flat says whether bridges are measured without VLANs.
func (o *options) flat() bool { return o.label == "flat" }

// sides are our plugin and the baselines. On a flat bridge the reference gets no
// VLAN; ours still has to name one, which its agent for that purpose ignores.
func (o *options) sides() (ours cni.Side, baselines []cni.Side, err error) {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return ours, nil, err
	}
	side := func(name, binary, kind, bridge, more string) cni.Side {
		return cni.Side{Bridge: bridge, Plugin: cni.Plugin{Name: name, Binary: filepath.Join(bin, binary),
			Conf: fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":%q,"bridge":%q%s}`, name, kind, bridge, more)}}
	}
	tag := fmt.Sprintf(`,"vlan":%d`, vlanID)
	ours = side("homeport", pluginBinary, "homeport", flatagent.Bridge, tag)
	if o.flat() {
		tag = ""
	}
	return ours, []cni.Side{
		side("bridge", referenceBinary, "bridge", "br-ref", tag+`,"ipam":{}`),
		side("macspoofchk", referenceBinary, "bridge", "br-spoof", tag+`,"ipam":{},"macspoofchk":true`),
	}, nil
}

// withAgent runs fn with our plugin's agent at its side.
func (o *options) withAgent(ctx context.Context, fn func(cni.Config) ([]ratio.Row, error)) (_ []ratio.Row, err error) {
	ours, baselines, err := o.sides()
	if err != nil {
		return nil, err
	}
	dir, err := cni.Manifests(map[string]string{"trunk.yaml": trunk})
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	name, args := filepath.Join(o.bin, agentBinary), []string{"run", "--bpffs", "/sys/fs/bpf", "--source", "dir:" + dir}
	if o.flat() {
		if name, err = os.Executable(); err != nil {
			return nil, err
		}
		args = []string{flatagent.Command, dir}
	}
	status := ours // a verb of CNI 1.1.0
	status.Conf = fmt.Sprintf(`{"cniVersion":"1.1.0","name":"homeport","type":"homeport","bridge":%q,"vlan":%d}`, flatagent.Bridge, vlanID)
	ready := func() error {
		_, err := status.Call(ctx, "STATUS", cni.Attachment{})
		return err
	}
	agent, err := cni.StartAgent(ctx, ready, name, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, agent.Stop()) }()
	rows, err := fn(cni.Config{Label: o.label, Rounds: o.rounds, Rest: o.rest, Ours: ours, Baselines: baselines, Agent: agent})
	if err != nil {
		err = fmt.Errorf("%w\nthe agent's log ends with:\n%s", err, agent.Log())
	}
	return rows, err
}

// trunk is the manifest that our agent has.
var trunk = fmt.Sprintf(`apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata:
  name: bench
spec:
  bridge:
    name: %s
    managed: true
  uplink:
    allowedVLANs: "%d"
  inlineConfig: Allow
`, flatagent.Bridge, vlanID)

func (o *options) cniRows(ctx context.Context) ([]ratio.Row, error) {
	return o.withAgent(ctx, func(c cni.Config) ([]ratio.Row, error) { return cni.Rows(ctx, c) })
}

func (o *options) pluginRows(ctx context.Context) ([]ratio.Row, error) {
	return o.withAgent(ctx, func(c cni.Config) ([]ratio.Row, error) { return cni.BinaryRows(ctx, c) })
}

func (o *options) identityRows(ctx context.Context) ([]ratio.Row, error) {
	plugin, err := filepath.Abs(filepath.Join(o.bin, pluginBinary))
	if err != nil {
		return nil, err
	}
	row, err := identity.Row(ctx, "flat/label-peer-after-first-arp", plugin, min(o.rounds, identity.Most))
	if err != nil {
		return nil, err
	}
	return []ratio.Row{row}, nil
}

func (o *options) packetRows(context.Context) ([]ratio.Row, error) {
	if err := box.Quiet(); err != nil {
		return nil, err
	}
	networks := []port.Network{{Rules: 0, Addresses: 1000}, {Rules: 128, Addresses: 1000}, {Rules: port.Rules, Addresses: 1000}, {Rules: port.Most, Addresses: 1000}}
	firewall, err := port.Open("/sys/fs/bpf", networks...)
	if err != nil {
		return nil, err
	}
	defer firewall.Close()
	hooks := firewall.In(networks[2])
	empty, err := packet.NewEmpty()
	if err != nil {
		return nil, err
	}
	defer empty.Close()
	var cases []packet.Case
	for _, n := range o.flows {
		cases = append(cases, packet.Case{Name: fmt.Sprintf("flat/packet-%d-flow", n), Hooks: hooks, Flows: n, Aim: packet.Aim})
	}
	cases = append(cases, packet.Case{Name: "flat/packet-empty-programs", Hooks: empty, Flows: 1})
	c := o.packetConfig()
	rows, err := packet.Rows(c, cases...)
	if err != nil {
		return rows, err
	}
	var judged []packet.JudgeCase
	for _, n := range networks[1:] {
		judged = append(judged, packet.JudgeCase{Name: fmt.Sprintf("flat/judge-%d-rules", n.Rules), Network: n.Name()})
	}
	more, err := packet.JudgeRows(c, hooks, networks[0].Name(), judged...)
	return append(rows, more...), err
}

func (o *options) packetConfig() packet.Config {
	return packet.Config{Rounds: o.packetRounds, Slices: o.slices, PerSlice: uint32(o.perSlice), CPU: o.cpu}
}

// grids are measured by the number of rules, once for each number of addresses, and by the
// number of addresses. The rivals are beside the first and the last, as their rules name one
// prefix each.
func (o *options) grids(report *ratio.Report) (out []group) {
	add := func(g packet.Grid) {
		out = append(out, group{groupRules, func(context.Context) ([]ratio.Row, error) {
			rows, curves, err := o.measureGrid(g)
			if len(report.Curves) == 0 {
				report.Curves = curves
			}
			return rows, err
		}})
	}
	for i, a := range o.addresses {
		g := packet.Grid{Label: "flat", Aim: packet.Aim}
		for _, n := range o.rules {
			g.Sizes = append(g.Sizes, packet.Size{Rules: n, Addresses: a})
		}
		g.Addressed = packet.Size{Rules: mostAs(o.rules, port.Rules), Addresses: a}
		if i == 0 {
			g.Rivals = o.rivals
		}
		add(g)
	}
	past := packet.Grid{Label: "flat/fast-path", Aim: packet.AimPast, Past: true}
	to := packet.Grid{Label: "flat/to-uplink", Aim: packet.AimUplink, At: func(p *packet.Path) []*packet.Port { return []*packet.Port{p.A} }}
	from := packet.Grid{Label: "flat/from-uplink", Aim: packet.AimUplink, Past: true, Native: true, At: func(p *packet.Path) []*packet.Port { return []*packet.Port{p.B} }}
	frames := packet.Grid{Label: "flat/ethernet"} // of a cost that is asked for, so without an aim
	for _, n := range []int{o.rules[0], mostAs(o.rules, port.Rules)} {
		if s := (packet.Size{Rules: n}); !slices.Contains(frames.Sizes, s) {
			frames.Sizes = append(frames.Sizes, s)
			past.Sizes = append(past.Sizes, packet.Size{Rules: n, Addresses: o.addresses[0]})
		}
	}
	to.Sizes, from.Sizes = past.Sizes, past.Sizes
	for _, g := range []packet.Grid{past, to, from, frames} {
		add(g)
	}
	if o.ports > 0 {
		out = append(out, group{groupRules, func(context.Context) ([]ratio.Row, error) { return o.measureNode() }})
	}
	out = append(out, group{groupRules, func(context.Context) ([]ratio.Row, error) { return o.measureLearning() }})
	if o.live > 0 {
		out = append(out, group{groupRules, func(context.Context) ([]ratio.Row, error) { return o.measureLive() }})
	}
	wide := packet.Grid{Label: "flat/by-addresses", Aim: packet.Aim, Rivals: o.rivals}
	for _, a := range o.addresses {
		wide.Sizes = append(wide.Sizes, packet.Size{Rules: mostAs(o.rules, port.Rules), Addresses: a})
	}
	add(wide)
	if o.ports > 0 {
		out = append(out, group{groupMemory, func(context.Context) ([]ratio.Row, error) { return o.measureMemory() }})
	}
	return out
}

// measureNode has -ports ports with as many rules each as a port has at most in NSX, and
// 100,000 addresses in the sets that they name, as far as -rules and -addresses allow.
func (o *options) measureNode() ([]ratio.Row, error) {
	if err := box.Quiet(); err != nil {
		return nil, err
	}
	n := packet.Node{Label: "node", Ports: o.ports,
		Size: packet.Size{Rules: mostAs(o.rules, port.Rules), Addresses: mostAs(o.addresses, 1e5)},
		Few:  packet.Size{Rules: o.rules[0], Addresses: mostAs(o.addresses, 1e5)}}
	var networks []port.Network
	at := func(s packet.Size, number int) int {
		if s == n.Size {
			number += o.ports
		}
		return number
	}
	for i := range 2 * o.ports {
		s := []packet.Size{n.Few, n.Size}[i/o.ports]
		networks = append(networks, port.Network{Rules: s.Rules, Addresses: s.Addresses, Number: i})
	}
	firewall, err := port.Open("/sys/fs/bpf", networks...)
	if err != nil {
		return nil, err
	}
	defer firewall.Close()
	n.Hooks = func(s packet.Size, number int) packet.Ported { return firewall.In(networks[at(s, number)]) }
	enforce := func(anew bool) (time.Duration, error) {
		if anew {
			firewall.Anew()
		}
		sets := firewall.Sets(networks...)
		return firewall.Until(func() error { return firewall.Enforce(sets) })
	}
	changed := 0
	n.Change = func(anew bool) (time.Duration, error) {
		networks[at(n.Size, changed%o.ports)].Turn++
		changed++
		return enforce(anew)
	}
	n.Address = func(anew bool) (time.Duration, error) {
		firewall.SwapAddress(networks[0])
		return enforce(anew)
	}
	c := o.packetConfig()
	c.Slices = max(1, c.Slices/4)
	return packet.NodeRows(c, n)
}

// measureMemory has what measureNode has, and connections.
func (o *options) measureMemory() ([]ratio.Row, error) {
	if err := box.Quiet(); err != nil {
		return nil, err
	}
	m := packet.Memory{Label: "node", Ports: o.ports, Rules: mostAs(o.rules, port.Rules), Few: o.rules[0], Addresses: mostAs(o.addresses, 1e5), Rivals: o.rivals}
	flows := port.Network{Rules: 1, Number: o.ports}
	firewall, err := port.Open("/sys/fs/bpf", flows)
	if err != nil {
		return nil, err
	}
	defer firewall.Close()
	m.Hooks = firewall.In(flows)
	m.Load = func(rules, turn int) error {
		networks := []port.Network{flows}
		for i := range o.ports {
			if rules > 0 {
				networks = append(networks, port.Network{Rules: rules, Addresses: m.Addresses, Number: i, Turn: turn})
			}
		}
		if rules == 0 {
			networks = append(networks, port.Network{Rules: 1, Number: o.ports + 1 + turn})
		}
		return firewall.Load(networks...)
	}
	return packet.MemoryRows(o.packetConfig(), m)
}

// measureLearning knows as many addresses as a full node has, under as many rules as a port has at most in NSX.
func (o *options) measureLearning() ([]ratio.Row, error) {
	if err := box.Quiet(); err != nil {
		return nil, err
	}
	network := port.Network{Rules: mostAs(o.rules, port.Rules), Addresses: o.addresses[0]}
	firewall, err := port.Open("/sys/fs/bpf", network)
	if err != nil {
		return nil, err
	}
	defer firewall.Close()
	if err := firewall.Listen(); err != nil {
		return nil, err
	}
	c := o.packetConfig()
	c.Slices = max(1, c.Slices/4)
	row, err := packet.LearnRow(c, packet.Learn{Label: "node", Addresses: 10000, Hooks: firewall.In(network), Know: firewall.Know, Heard: firewall.Heard})
	if err != nil {
		return nil, err
	}
	return []ratio.Row{row}, nil
}

// measureLive has -live connections at ports under as many rules as a port has at most in NSX.
func (o *options) measureLive() ([]ratio.Row, error) {
	if err := box.Quiet(); err != nil {
		return nil, err
	}
	network := port.Network{Rules: mostAs(o.rules, port.Rules), Addresses: o.addresses[0]}
	firewall, err := port.Open("/sys/fs/bpf", network)
	if err != nil {
		return nil, err
	}
	defer firewall.Close()
	c := o.packetConfig()
	c.Slices = max(1, c.Slices/4)
	row, err := packet.LiveRow(c, packet.Live{Label: "node", Flows: o.live, Hooks: firewall.In(network), Count: firewall.Live, Scan: firewall.Scan})
	if err != nil {
		return nil, err
	}
	return []ratio.Row{row}, nil
}

// mostAs is the largest of rising numbers that is not above n, or else the least.
func mostAs(list []int, n int) int {
	most := list[0]
	for _, r := range list {
		if r <= n {
			most = r
		}
	}
	return most
}

// measureGrid has the rule bases of a grid loaded, all at once, while it is measured.
func (o *options) measureGrid(g packet.Grid) ([]ratio.Row, []ratio.Curve, error) {
	if err := box.Quiet(); err != nil {
		return nil, nil, err
	}
	networks := map[packet.Size]*port.Network{}
	list := func() (out []port.Network) {
		for _, s := range g.Sizes {
			out = append(out, *networks[s])
		}
		return out
	}
	for _, s := range g.Sizes {
		networks[s] = &port.Network{Rules: s.Rules, Addresses: s.Addresses, Ethernet: s.Addresses == 0}
	}
	firewall, err := port.Open("/sys/fs/bpf", list()...)
	if err != nil {
		return nil, nil, err
	}
	defer firewall.Close()
	g.Hooks = func(s packet.Size) packet.Ported {
		ports := firewall.In(*networks[s])
		switch {
		case g.Native:
			return ports.PastTo(0)
		case g.At != nil:
			return ports.PastTo(port.VLAN)
		case g.Past:
			return ports.Past()
		}
		return ports
	}
	if len(g.Rivals) > 0 {
		g.Change = func(s packet.Size) (time.Duration, error) {
			networks[s].Turn++
			sets := firewall.Sets(list()...)
			start := time.Now()
			err := firewall.Enforce(sets)
			return time.Since(start), err
		}
	}
	if g.Addressed != (packet.Size{}) {
		g.Address = func(s packet.Size, anew bool) (time.Duration, error) {
			firewall.SwapAddress(*networks[s])
			if anew {
				firewall.Anew()
			}
			sets := firewall.Sets(list()...)
			return firewall.Until(func() error { return firewall.Enforce(sets) })
		}
	}
	c := o.packetConfig()
	c.Slices = max(1, c.Slices/4)
	return packet.GridRows(c, g)
}
