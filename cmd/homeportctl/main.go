// Homeportctl shows what Homeport does on this node. It asks the node's agent over its socket; for a support bundle it reads the
// node, too. Only what says so changes anything. Installed as kubectl-homeport it is a plugin of kubectl.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// version is set by the linker.
var version = "(devel)"

// Exit codes.
const (
	exitOK           = 0
	exitFailed       = 1 // the question was answered, and something is wrong
	exitUsage        = 2
	exitInconclusive = 3 // the question could not be answered
	exitInterrupted  = 130
)

// failure is an error with its exit code. One without err has said on stdout
// what is wrong.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string {
	if f.err == nil {
		return "failed"
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// surroundings are what the program gets from its caller.
type surroundings struct {
	stdout, stderr io.Writer
	color          bool
	terminal       bool      // stderr is one
	now            time.Time // what ages are told from
	name           string    // as people call it: "homeportctl" or "kubectl homeport"
	version, user  string    // user is who runs it
	findPaths      func() (attach.Paths, error)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	code := run(ctx, os.Args[1:], surroundings{
		stdout:    os.Stdout,
		stderr:    os.Stderr,
		color:     wantsColor(os.Stdout, os.Getenv),
		terminal:  isTerminal(os.Stderr),
		now:       time.Now(),
		user:      caller(os.Getenv, os.Getuid()),
		name:      calledAs(os.Args[0]),
		version:   version,
		findPaths: attach.FindPaths,
	})
	os.Exit(code)
}

// run is the program without its process: it returns the exit code.
func run(ctx context.Context, args []string, s surroundings) int {
	root := newRoot(s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	// What cobra itself refuses, before a command runs, is a matter of usage.
	f := &failure{code: exitUsage, err: fmt.Errorf("%w; next: %s --help", err, s.name)}
	errors.As(err, &f)
	if f.err != nil {
		fmt.Fprintf(s.stderr, "%s: %v\n", s.name, f.err)
	}
	return f.code
}

// wantsColor follows https://no-color.org and what terminals can do.
func wantsColor(stdout *os.File, getenv func(string) string) bool {
	if getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		return false
	}
	return isTerminal(stdout)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// calledAs is the name to use in help and errors.
func calledAs(argv0 string) string {
	if strings.HasPrefix(filepath.Base(argv0), "kubectl-") {
		return "kubectl homeport"
	}
	return "homeportctl"
}
