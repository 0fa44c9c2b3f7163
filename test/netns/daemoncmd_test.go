package netns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// cmdDaemon: daemon start ID NAME PROGRAM [ARG...] runs a program that stays in the foreground, until daemon stop ID [SIGNAL] (TERM,
// if none is named) or the script ends; daemon stop waits for its end. What it says is in the script's file ID.log.
func cmdDaemon(s *session, _ io.Writer, args []string) error {
	const usage = "daemon start ID NAME PROGRAM [ARG...] | daemon stop ID [SIGNAL]"
	if len(args) >= 4 && args[0] == "start" && s.daemons[args[1]] == nil {
		return s.startDaemon(args[1], args[2], args[3:])
	}
	if len(args) < 2 || len(args) > 3 || args[0] != "stop" || s.daemons[args[1]] == nil {
		return &usageError{usage}
	}
	sig := "TERM"
	if len(args) == 3 {
		sig = args[2]
	}
	number := unix.SignalNum("SIG" + sig)
	if number == 0 {
		return &usageError{usage}
	}
	stop := s.daemons[args[1]]
	delete(s.daemons, args[1])
	return stop(number)
}

func (s *session) startDaemon(id, name string, args []string) error {
	space, err := s.lab.Space(name)
	if err != nil {
		return err
	}
	log, err := os.Create(s.ts.MkAbs(id + ".log"))
	if err != nil {
		return err
	}
	defer log.Close() // the program has its own
	cmd := space.Command(s.ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.ts.MkAbs("."), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its children end with it
	if err := space.Start(cmd); err != nil {
		return fmt.Errorf("%s: %s: %w", name, args[0], err)
	}
	end := sync.OnceValue(cmd.Wait)
	stop := func(sig syscall.Signal) error {
		err := cmd.Process.Signal(sig)
		var code *exec.ExitError
		if werr := end(); !errors.As(werr, &code) {
			err = errors.Join(err, werr) // whatever code it ends with, it has ended
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // most have no child left
		return err
	}
	s.daemons[id] = stop
	s.lab.atEnd(func() error {
		if s.daemons[id] != nil {
			_ = stop(syscall.SIGKILL) // it may have ended by itself
		}
		return nil
	})
	return nil
}
