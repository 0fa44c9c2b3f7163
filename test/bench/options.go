package main

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/test/bench/internal/packet"
	"github.com/homeport-cni/homeport/test/bench/internal/port"
)

// options say what is measured and how long.
type options struct {
	rows   []string
	where  string
	bin    string
	json   string
	strict bool
	label  string
	rounds int
	rest   time.Duration
	cpu    int
	vmrun  string
	kernel string
	// packets
	packetRounds, slices int
	perSlice             uint
	flows                []int32
	// rules
	rules, addresses []int
	rivals           []packet.Rival
	ports, live      int
}

// The groups of rows.
const (
	groupPlugin   = "plugin"
	groupCNI      = "cni"
	groupPacket   = "packet"
	groupRules    = "rules"
	groupMemory   = "memory"
	groupIdentity = "identity"
)

var groups = []string{groupPlugin, groupCNI, groupPacket, groupRules, groupMemory, groupIdentity}

// Where rows can be measured. all starts native and vm, one after the other.
const (
	whereAll    = "all"
	whereNative = "native"
	whereVM     = "vm"
	whereInside = "inside" // in the VM, which whereVM started
)

const usage = `usage: bench [flags]

  bench -bin bin                               everything, to out/bench.json
  bench -bin bin -where native -rows packet    what a packet costs, here
  bench -bin bin -where native -rows rules     what rules cost, here
  STRICT=1 bench -bin bin                      exit 1 if an aim is missed

Needs root and, in -bin, the binaries bridge-reference, cni-plugin, bridge-agent
and, for -where vm, vmrun. Exit 3: something could not be measured.

`

// parse reads the command line. STRICT=1 in the environment is -strict.
func parse(args []string, getenv func(string) string) (*options, error) {
	o := &options{flows: []int32{1, 10000}, rules: []int{10, 100, 1000, 4000, 10000}, addresses: []int{1e3, 1e5, 1e6}, rivals: packet.Rivals}
	var rows string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.Usage = func() { fmt.Fprint(fs.Output(), usage); fs.PrintDefaults() }
	fs.StringVar(&rows, "rows", strings.Join(groups, ","), "groups of rows: `list` of plugin, cni, packet, rules, memory, identity")
	fs.StringVar(&o.where, "where", whereAll, "all, native, or vm (cni in a VM, where bridges filter VLANs)")
	fs.StringVar(&o.bin, "bin", "bin", "`folder` of the binaries")
	fs.StringVar(&o.json, "json", "out/bench.json", "`file` for the result")
	fs.BoolVar(&o.strict, "strict", getenv("STRICT") == "1", "exit 1 if an aim is missed")
	fs.StringVar(&o.label, "label", "flat", "before the names of cni rows; flat: bridges without VLANs")
	fs.IntVar(&o.rounds, "rounds", 200, "`rounds` of cni rows")
	fs.DurationVar(&o.rest, "rest", 40*time.Millisecond, "`time` for the kernel after each call, not counted")
	fs.IntVar(&o.cpu, "cpu", 0, "`CPU` that sends packets; -1: any")
	fs.StringVar(&o.kernel, "kernel", "6.12", "kernel `series` of the VM")
	fs.IntVar(&o.packetRounds, "packet-rounds", 60, "`rounds` of packet and rules rows")
	fs.IntVar(&o.slices, "slices", 8, "turns of each side in a round of packets; rules rows take a quarter")
	fs.Func("flows", "packet rows: `list` of numbers of flows, at most 30000 (default 1,10000)", o.setFlows)
	fs.Func("rules", "rules rows: rising `list` of numbers of rules (default 10,100,1000,4000,10000)", func(s string) (err error) {
		o.rules, err = rising(s, 2, port.Most)
		return err
	})
	fs.Func("addresses", "rules rows: rising `list` of numbers of addresses and prefixes (default 1000,100000,1000000)", func(s string) (err error) {
		o.addresses, err = rising(s, 1000, 1e6)
		return err
	})
	fs.IntVar(&o.ports, "ports", 30, "rules rows: even number of `ports` of a node that each have rules of their own; 0: no such rows")
	fs.IntVar(&o.live, "live", 1e6, "rules rows: live `connections` of a node while it looks through them; 0: no such row")
	fs.Func("rivals", "rules rows: `list` of iptables, nftables, or none (default iptables,nftables)", o.setRivals)
	fs.UintVar(&o.perSlice, "per-slice", 10000, "packets a turn")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	var errs []error
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("%q: no arguments are expected", fs.Arg(0)))
	}
	o.rows = strings.Split(rows, ",")
	for _, r := range o.rows {
		if !slices.Contains(groups, r) {
			errs = append(errs, fmt.Errorf("-rows %q: want plugin, cni, packet, rules, memory or identity", r))
		}
	}
	if !slices.Contains([]string{whereAll, whereNative, whereVM, whereInside}, o.where) {
		errs = append(errs, fmt.Errorf("-where %q: want all, native or vm", o.where))
	}
	if o.rounds < 1 || o.packetRounds < 1 || o.slices < 1 || o.perSlice < 1 {
		errs = append(errs, errors.New("-rounds, -packet-rounds, -slices and -per-slice: want at least 1"))
	}
	if o.ports < 0 || o.ports > 160 || o.ports%2 > 0 {
		errs = append(errs, fmt.Errorf("-ports %d: want an even number up to 160, or 0", o.ports))
	}
	if o.live < 0 || o.live > 4e6 {
		errs = append(errs, fmt.Errorf("-live %d: want 0 to 4000000", o.live))
	}
	o.vmrun = filepath.Join(o.bin, "vmrun")
	return o, errors.Join(errs...)
}

// setFlows reads -flows. More would not fit a port's table of connections.
func (o *options) setFlows(list string) error {
	o.flows = nil
	for f := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseInt(f, 10, 32)
		if err != nil || n < 1 || n > 30000 {
			return fmt.Errorf("%q: want a number from 1 to 30000", f)
		}
		o.flows = append(o.flows, int32(n))
	}
	return nil
}

// rising reads a list of numbers within bounds, each above the one before.
func rising(list string, least, most int) (out []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("%q: want a number from %d to %d", text, least, most)
		}
		if len(out) > 0 && n <= out[len(out)-1] {
			return nil, fmt.Errorf("%d: want numbers that rise", n)
		}
		out = append(out, n)
	}
	return out, nil
}

// setRivals reads -rivals.
func (o *options) setRivals(list string) error {
	o.rivals = nil
	if list == "none" {
		return nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(packet.Rivals, func(r packet.Rival) bool { return r.Name == name })
		if i < 0 {
			return fmt.Errorf("%q: want iptables or nftables, or none alone", name)
		}
		o.rivals = append(o.rivals, packet.Rivals[i])
	}
	return nil
}

// rivalList is what setRivals reads.
func (o *options) rivalList() string {
	if len(o.rivals) == 0 {
		return "none"
	}
	return join(o.rivals, func(r packet.Rival) string { return r.Name })
}

// join writes a list as its flag reads it.
func join[T any](list []T, text func(T) string) string {
	var out []string
	for _, x := range list {
		out = append(out, text(x))
	}
	return strings.Join(out, ",")
}

func (o *options) has(group string) bool { return slices.Contains(o.rows, group) }

// inBox says whether this process itself measures.
func (o *options) inBox() bool { return o.where == whereNative || o.where == whereInside }
