// Command bench measures Homeport against what it stands beside: the reference
// bridge plugin and the plain kernel bridge. Every row is a ratio of two sides
// that were measured in turns in one run. See docs/performance.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
	"github.com/homeport-cni/homeport/test/bench/internal/flatagent"
	"github.com/homeport-cni/homeport/test/bench/internal/identity"
	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx)
	if ctx.Err() != nil {
		code = 130
	}
	stop()
	os.Exit(code)
}

func run(ctx context.Context) int {
	if len(os.Args) == 3 && os.Args[1] == flatagent.Command {
		return exit(flatagent.Run(ctx, os.Args[2]))
	}
	if len(os.Args) == 3 && os.Args[1] == identity.Command {
		return exit(identity.Run(ctx, os.Args[2]))
	}
	o, err := parse(os.Args[1:], os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	if o.inBox() && !box.Inside() {
		code, err := box.Reenter(ctx)
		if err != nil {
			return exit(err)
		}
		return code
	}
	if o.inBox() {
		if err := box.Furnish(); err != nil {
			return exit(err)
		}
	}
	report := o.measure(ctx)
	if err := report.Write(o.json); err != nil {
		return exit(err)
	}
	if len(report.Curves) > 0 {
		file := strings.TrimSuffix(o.json, ".json") + ".svg"
		if err := ratio.WritePlot(file, "What a packet costs, by the number of rules", report.Curves); err != nil {
			return exit(err)
		}
	}
	return report.ExitCode(o.strict)
}

// exit prints a failure and gives its exit code.
func exit(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return ratio.ExitFailed
}
