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
}

// The groups of rows.
const (
	groupPlugin = "plugin"
	groupCNI    = "cni"
	groupPacket = "packet"
)

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
  STRICT=1 bench -bin bin                      exit 1 if an aim is missed

Needs root and, in -bin, the binaries bridge-reference, cni-plugin, bridge-agent
and, for -where vm, vmrun. Exit 3: something could not be measured.

`

// parse reads the command line. STRICT=1 in the environment is -strict.
func parse(args []string, getenv func(string) string) (*options, error) {
	o := &options{flows: []int32{1, 10000}}
	var rows string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.Usage = func() { fmt.Fprint(fs.Output(), usage); fs.PrintDefaults() }
	fs.StringVar(&rows, "rows", "plugin,cni,packet", "groups of rows: `list` of plugin, cni, packet")
	fs.StringVar(&o.where, "where", whereAll, "all, native, or vm (cni in a VM, where bridges filter VLANs)")
	fs.StringVar(&o.bin, "bin", "bin", "`folder` of the binaries")
	fs.StringVar(&o.json, "json", "out/bench.json", "`file` for the result")
	fs.BoolVar(&o.strict, "strict", getenv("STRICT") == "1", "exit 1 if an aim is missed")
	fs.StringVar(&o.label, "label", "flat", "before the names of cni rows; flat: bridges without VLANs")
	fs.IntVar(&o.rounds, "rounds", 200, "`rounds` of cni rows")
	fs.DurationVar(&o.rest, "rest", 40*time.Millisecond, "`time` for the kernel after each call, not counted")
	fs.IntVar(&o.cpu, "cpu", 0, "`CPU` that sends packets; -1: any")
	fs.StringVar(&o.kernel, "kernel", "6.12", "kernel `series` of the VM")
	fs.IntVar(&o.packetRounds, "packet-rounds", 60, "`rounds` of packet rows")
	fs.IntVar(&o.slices, "slices", 8, "turns of each side in a round of packets")
	fs.Func("flows", "packet rows: `list` of numbers of flows, at most 30000 (default 1,10000)", o.setFlows)
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
		if !slices.Contains([]string{groupPlugin, groupCNI, groupPacket}, r) {
			errs = append(errs, fmt.Errorf("-rows %q: want plugin, cni or packet", r))
		}
	}
	if !slices.Contains([]string{whereAll, whereNative, whereVM, whereInside}, o.where) {
		errs = append(errs, fmt.Errorf("-where %q: want all, native or vm", o.where))
	}
	if o.rounds < 1 || o.packetRounds < 1 || o.slices < 1 || o.perSlice < 1 {
		errs = append(errs, errors.New("-rounds, -packet-rounds, -slices and -per-slice: want at least 1"))
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

// flowList is what setFlows reads.
func (o *options) flowList() string {
	var list []string
	for _, f := range o.flows {
		list = append(list, strconv.Itoa(int(f)))
	}
	return strings.Join(list, ",")
}

func (o *options) has(group string) bool { return slices.Contains(o.rows, group) }

// inBox says whether this process itself measures.
func (o *options) inBox() bool { return o.where == whereNative || o.where == whereInside }
