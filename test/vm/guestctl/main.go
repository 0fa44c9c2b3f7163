// Command guestctl asks a guest of the VM harness to do something and prints
// its answer as one line of JSON; with -host it asks vmrun to do something to a
// guest that can move. It runs inside the node VM.
//
// Exit codes: 0 the guest did it, 1 it tried and failed, 2 usage, 3 no answer.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/test/vm/control"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	fs := flag.NewFlagSet("guestctl", flag.ContinueOnError)
	wait := fs.Duration("wait", 60*time.Second, "how long to wait for the answer")
	host := fs.Bool("host", false, "ask vmrun about a guest that can move")
	fs.Usage = func() {
		fmt.Fprint(os.Stderr, "usage: guestctl [-wait 60s] GUEST COMMAND [ARG...]\n       guestctl -host COMMAND GUEST [ARG...]\n       guestctl list\n\n",
			control.Commands, "\nWith -host:\n\n", control.HostCommands)
	}
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if fs.NArg() == 1 && fs.Arg(0) == "list" {
		return list()
	}
	if fs.NArg() < 2 {
		fs.Usage()
		return 2
	}
	g, words := control.Host(), fs.Args()
	if !*host {
		var err error
		if g, err = control.Find(fs.Arg(0)); err != nil {
			fmt.Fprintln(os.Stderr, "guestctl:", err)
			return 2
		}
		words = words[1:]
	}
	ctx, cancel := context.WithTimeout(context.Background(), *wait)
	defer cancel()
	a, err := control.Ask(ctx, g, strings.Join(words, " "))
	if err != nil {
		fmt.Fprintln(os.Stderr, "guestctl:", err)
		return 3
	}
	if len(a.Result) > 0 {
		fmt.Println(string(a.Result))
	}
	if !a.OK {
		fmt.Fprintf(os.Stderr, "guestctl: %s: %s\n", g.Name, a.Error)
		return 1
	}
	return 0
}

func list() int {
	guests, err := control.Guests()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guestctl:", err)
		return 2
	}
	for _, g := range guests {
		b, err := json.Marshal(g)
		if err != nil {
			fmt.Fprintln(os.Stderr, "guestctl:", err)
			return 2
		}
		fmt.Println(string(b))
	}
	return 0
}
