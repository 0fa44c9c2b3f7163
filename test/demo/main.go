// Command demo shows the product at work, step by step: two nodes on a trunk,
// VLANs 100 and 200 with a legacy host on each, a real guest VM and one played
// by a namespace. Every line that it prints under a prompt is a real command in
// that machine or what the command said. It exits 1 when one of them does not
// say what it should.
//
// It runs inside a VM of test/vm with the guest vm1 beside it; hack/demo.sh
// starts that. -break proves that the expectations can fail.
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

func main() {
	breakage := flag.String("break", "", "vlan, rule or mac: do that wrong, so that the demo must fail")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, *breakage))
}

func run(ctx context.Context, breakage string) int {
	switch breakage {
	case "", "vlan", "rule", "mac":
	default:
		fmt.Fprintf(os.Stderr, "demo: BREAK=%s: want vlan, rule or mac\n", breakage)
		return 2
	}
	begun := time.Now()
	err := show(ctx, breakage)
	took := time.Since(begun).Round(time.Second)
	if err != nil {
		fmt.Printf("\nFAILED after %v: %v\n", took, err)
		return 1
	}
	fmt.Printf("\nAll as expected, in %v.\n", took)
	return 0
}

func show(ctx context.Context, breakage string) (err error) {
	bin, err := netns.FindBinaries()
	if err != nil {
		return err
	}
	guests, err := netns.RealGuests()
	if err != nil {
		return err
	}
	lab, err := netns.New("demo", bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	d := &demo{ctx: ctx, lab: lab, out: os.Stdout, breakage: breakage, guest: guests[0]}
	steps := d.steps()
	for i, s := range steps {
		fmt.Fprintf(d.out, "\n[%d/%d] %s\n", i+1, len(steps), s.title)
		if err := s.do(); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, s.title, err)
		}
	}
	return nil
}
