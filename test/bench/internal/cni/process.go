package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Process is an agent that we started.
type Process struct {
	cmd  *exec.Cmd
	log  *lastBytes
	done chan struct{}
	err  error // of Wait; read after done is closed
}

// StartAgent starts the command and waits until ready says nil.
func StartAgent(ctx context.Context, ready func() error, name string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(name, args...), log: &lastBytes{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	deadline := time.After(60 * time.Second)
	for {
		err := ready()
		if err == nil {
			return p, nil
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("the agent ended (%w): %s", errors.Join(p.err, errEnded), p.log)
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), p.Stop())
		case <-deadline:
			return nil, errors.Join(fmt.Errorf("the agent is not ready after 60 s: %w; its log: %s", err, p.log), p.Stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

var errEnded = errors.New("it should run on")

// Pause stops it (SIGSTOP).
func (p *Process) Pause() error { return p.cmd.Process.Signal(unix.SIGSTOP) }

// Resume lets it go on.
func (p *Process) Resume() error { return p.cmd.Process.Signal(unix.SIGCONT) }

// CPU is the time that it has run, user and system, in ticks of 10 ms.
func (p *Process) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// Behind the name in parentheses: state is field 3, utime 14, stime 15.
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("stat of process %d is too short: %q", p.cmd.Process.Pid, b)
	}
	var ticks int64
	for _, v := range f[11:13] {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat of process %d: %w", p.cmd.Process.Pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// Log is the end of what it printed.
func (p *Process) Log() string { return p.log.String() }

// Stop ends it, in earnest after 5 s.
func (p *Process) Stop() error {
	_ = p.Resume()
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return nil
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	mu sync.Mutex
	b  []byte
}

const logKept = 4096

func (l *lastBytes) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if over := len(l.b) - logKept; over > 0 {
		l.b = append([]byte(nil), l.b[over:]...)
	}
	return len(p), nil
}

func (l *lastBytes) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.TrimSpace(l.b))
}

// Manifests writes files to a new directory below the box's /run.
func Manifests(files map[string]string) (string, error) {
	dir, err := os.MkdirTemp("/run", "manifests")
	if err != nil {
		return "", err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}
