// Command demo shows the product at work, step by step: two nodes on a trunk,
// VLANs 100 and 200 with a legacy host on each, a real guest VM and one played
// by a namespace. Every line that it prints under a prompt is a real command in
// that machine or what the command said. It exits 1 when one of them does not
// say what it should.
//
// hack/demo.sh starts it, where -choose says: on this machine's own kernel, in
// namespaces of its own and with vm1 on the launcher pod's tap (-native), or
// inside a VM of test/vm with vm1 beside it. -break proves that the expectations
// can fail.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/homeport-cni/homeport/test/netns"
)

// options are the command line.
type options struct {
	breakage string
	choose   bool
	where    string
	kernel   string
	native   bool
	inside   bool // this is the process that isolated has started
	guest    string
	helpers  string
	out      string
	standIn  bool
	limit    time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.breakage, "break", "", "vlan, rule or mac: do that wrong, so that the demo must fail")
	flag.BoolVar(&o.choose, "choose", false, "only say native or vm on standard output, and why on standard error")
	flag.StringVar(&o.where, "where", "", "for -choose: native or vm, which is wanted; \"\" is native where it works")
	flag.StringVar(&o.kernel, "kernel", "6.12", "for -choose: the kernel that the VM would have")
	flag.BoolVar(&o.native, "native", false, "play on this machine's kernel, in namespaces of its own")
	flag.StringVar(&o.guest, "guest", "", "with -native: vm1 as vmrun -guest takes it")
	flag.StringVar(&o.helpers, "helpers", "", "with -native: the folder of the programs guest and guestctl")
	flag.StringVar(&o.out, "out", "", "with -native: the folder for vm1's console log")
	flag.DurationVar(&o.limit, "patience", 2*time.Minute, "with -native: how long vm1 may take to come up")
	flag.BoolVar(&o.standIn, "standin", false, "with -native: a namespace plays vm1 too (for tests where a VM takes too long)")
	flag.BoolVar(&o.inside, "inside", false, "for the demo itself: it is in its namespaces")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code := run(ctx, o)
	if code != 0 && ctx.Err() != nil {
		code = 130
	}
	os.Exit(code)
}

func run(ctx context.Context, o options) int {
	switch o.breakage {
	case "", "vlan", "rule", "mac":
	default:
		fmt.Fprintf(os.Stderr, "demo: BREAK=%s: want vlan, rule or mac\n", o.breakage)
		return 2
	}
	switch {
	case o.choose && o.inside:
		return try(ctx)
	case o.choose:
		return choose(ctx, o, os.Stdout, os.Stderr)
	case o.native && !o.inside:
		code, err := isolated(ctx, os.Args[1:], os.Stdout, os.Stderr)
		if err != nil {
			fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		}
		return code
	}
	begun := time.Now()
	err := show(ctx, o)
	took := time.Since(begun).Round(time.Second)
	if err != nil {
		fmt.Printf("\nFAILED after %v: %v\n", took, err)
		return 1
	}
	fmt.Printf("\nAll as expected, in %v.\n", took)
	return 0
}

func show(ctx context.Context, o options) (err error) {
	bin, err := netns.FindBinaries()
	if err != nil {
		return err
	}
	if o.native {
		if err := enter(); err != nil {
			return err
		}
	}
	guest, err := cast(o)
	if err != nil {
		return err
	}
	lab, err := netns.New("demo", bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Close(), lab.Close()) }()
	d := &demo{ctx: ctx, lab: lab, out: os.Stdout, breakage: o.breakage, guest: guest}
	steps := d.steps()
	for i, s := range steps {
		fmt.Fprintf(d.out, "\n[%d/%d] %s\n", i+1, len(steps), s.title)
		if err := s.do(); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, s.title, err)
		}
	}
	return nil
}
