package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
