// Bridge-agent is Homeport's node agent: it keeps trunks and ports right and the
// firewall compiled. Everything it builds stays in force when it ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "(devel)"

// Exit codes.
const (
	exitOK           = 0
	exitFailed       = 1
	exitUsage        = 2
	exitInconclusive = 3 // doctor could not find out
)

// failure is an error with its exit code. One without err has said on stdout
// what is wrong.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return fmt.Sprint(f.err) }

func (f *failure) Unwrap() error { return f.err }

// failed marks what went wrong when a command was at work; nil stays nil.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{exitFailed, err}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program without its process: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	// What is refused before a command is at work is a matter of usage.
	f := &failure{exitUsage, fmt.Errorf("%w; next: bridge-agent --help", err)}
	errors.As(err, &f)
	if f.err != nil {
		fmt.Fprintln(stderr, "bridge-agent:", f.err)
	}
	return f.code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "bridge-agent",
		Short: "Homeport's node agent: trunks, ports and their firewall",
		Example: `  bridge-agent doctor                         what this kernel and node can do
  bridge-agent install --to /opt/cni/bin      put the CNI plugin in place
  bridge-agent run --source kube --node n1    keep this node as the Kubernetes API says
  bridge-agent run --source dir:/etc/homeport keep this node as these manifests say`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newRun(), newController(), newInstall(), newUninstall(), newDoctor())
	return root
}
