package netns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// cmdObserve: observe start NODE FILE [FLAG...] has homeportctl observe -f write to FILE; observe
// stop NODE interrupts all of them, and wants them to end as interrupted, with nothing lost.
func cmdObserve(s *session, _ io.Writer, args []string) error {
	const usage = "observe start NODE FILE [FLAG...] | observe stop NODE"
	if len(args) < 2 {
		return &usageError{usage}
	}
	n, err := s.lab.FindNode(args[1])
	if err != nil {
		return err
	}
	switch {
	case args[0] == "start" && len(args) > 2:
		file := filepath.Join(s.ts.MkAbs("."), args[2])
		out, err := os.Create(file)
		if err != nil {
			return err
		}
		defer out.Close()
		diag, err := os.Create(file + ".err")
		if err != nil {
			return err
		}
		defer diag.Close()
		cmd := n.Command(s.ctx, n.path("bin", "homeportctl"), append([]string{"observe", "-f"}, args[3:]...)...)
		cmd.Stdout, cmd.Stderr = out, diag
		if err := n.Start(cmd); err != nil {
			return err
		}
		s.observers[args[1]] = append(s.observers[args[1]], observer{cmd, file})
		return until(s.ctx, patience, func() error {
			if said, err := os.ReadFile(file + ".err"); string(said) != observing {
				return fmt.Errorf("homeportctl says %q, %v", said, err)
			}
			return nil
		})
	case args[0] == "stop" && len(args) == 2:
		var errs []error
		for _, o := range s.observers[args[1]] {
			errs = append(errs, o.stop())
		}
		delete(s.observers, args[1])
		return errors.Join(errs...)
	}
	return &usageError{usage}
}

// observing is what homeportctl says on stderr when it has begun.
const observing = "homeportctl: observing from now on\n"

// observer is a homeportctl that follows.
type observer struct {
	cmd  *exec.Cmd
	file string
}

// stop interrupts it.
func (o observer) stop() error {
	if err := o.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	const interrupted = 130
	var end *exec.ExitError
	err := o.cmd.Wait()
	said, _ := os.ReadFile(o.file + ".err") // what is not there was not said, which is said below
	if !errors.As(err, &end) || end.ExitCode() != interrupted || string(said) != observing {
		return fmt.Errorf("observe to %s: %v, want exit status %d and nothing more said than that it observes: %s", filepath.Base(o.file), err, interrupted, said)
	}
	return nil
}
