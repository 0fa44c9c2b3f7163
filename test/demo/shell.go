package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/homeport-cni/homeport/test/netns"
)

// demo is the stage on which the steps play.
type demo struct {
	ctx      context.Context
	lab      *netns.Lab
	out      io.Writer
	breakage string
	guest    vm1

	fabric            *netns.Space
	node1, node2      *netns.Node
	legacy100, old200 *netns.Space
	pod1, pod2        *netns.Pod
	before1, before2  string // listings of the nodes without ports

	hitsBefore string // counters as printed before the agent is killed
}

// step is one thing shown.
type step struct {
	title string
	do    func() error
}

// say explains what follows.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "  # "+format+"\n", args...)
}

// sh runs a line in the machine's shell and prints both.
func (d *demo) sh(m *netns.Space, line string) (string, error) {
	fmt.Fprintf(d.out, "  %s$ %s\n", m.Name, line)
	ctx, cancel := context.WithTimeout(d.ctx, 60*time.Second)
	defer cancel()
	cmd := m.Command(ctx, "bash", "-c", line)
	cmd.Dir = d.dir(m)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := m.Run(cmd)
	d.print(out.String())
	return out.String(), err
}

func (d *demo) print(text string) {
	if text = strings.TrimRight(text, "\n"); text == "" {
		return
	}
	for _, l := range strings.Split(text, "\n") {
		fmt.Fprintf(d.out, "      %s\n", l)
	}
}

// dir is where the machine's shell stands.
func (d *demo) dir(m *netns.Space) string {
	for _, n := range []*netns.Node{d.node1, d.node2} {
		if n != nil && n.Space == m {
			return n.Dir
		}
	}
	return d.lab.Dir
}

// must runs a line that has to succeed and print what matches.
func (d *demo) must(m *netns.Space, line string, want ...string) error {
	out, err := d.sh(m, line)
	if err != nil {
		return fmt.Errorf("on %s, %q should succeed: %w", m.Name, line, err)
	}
	return expect(line, out, want...)
}

// mustFail runs a line that has to fail and print what matches.
func (d *demo) mustFail(m *netns.Space, line string, want ...string) error {
	out, err := d.sh(m, line)
	if err == nil {
		return fmt.Errorf("on %s, %q should fail, and succeeded", m.Name, line)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	return expect(line, out, want...)
}

func expect(line, out string, want ...string) error {
	for _, w := range want {
		if !regexp.MustCompile("(?m)" + w).MatchString(out) {
			return fmt.Errorf("%q should print what matches %q", line, w)
		}
	}
	return nil
}

// settle polls a line in silence until it succeeds and prints what matches.
func (d *demo) settle(m *netns.Space, line, want string) error {
	deadline := time.Now().Add(15 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(d.ctx, 20*time.Second)
		cmd := m.Command(ctx, "bash", "-c", line)
		cmd.Dir = d.dir(m)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := m.Run(cmd)
		cancel()
		if err == nil {
			err = expect(line, out.String(), want)
		}
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("on %s, %q: %w; it says: %s", m.Name, line, err, out.String())
		}
		select {
		case <-d.ctx.Done():
			return context.Cause(d.ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// trace is a tcpdump in a machine.
type trace struct {
	d   *demo
	m   *netns.Space
	cmd *exec.Cmd
	out *listening // for the frame behind all others
	err *listening
}

// behindAll is the EtherType of a frame that a machine with a trace sends itself before the
// trace ends: what came before it has been shown when it is.
const behindAll = "0x88b6"

// startTrace starts tcpdump and waits until it listens.
func (d *demo) startTrace(m *netns.Space, filter string) (*trace, error) {
	args := append([]string{"-Z", "root", "--immediate-mode", "-enli", "eth0"}, strings.Fields(filter+" or ether proto "+behindAll)...)
	t := &trace{d: d, m: m, out: &listening{word: []byte(behindAll), at: make(chan struct{})}}
	ready := &listening{word: []byte("listening on"), at: make(chan struct{})}
	t.cmd = m.Command(d.ctx, "tcpdump", args...)
	t.cmd.Stdout, t.cmd.Stderr, t.err = t.out, ready, ready
	fmt.Fprintf(d.out, "  %s$ tcpdump %s &\n", m.Name, strings.Join(args, " "))
	if err := m.Start(t.cmd); err != nil {
		return nil, err
	}
	select {
	case <-ready.at:
		return t, nil
	case <-time.After(20 * time.Second):
		return nil, errors.Join(fmt.Errorf("tcpdump on %s does not listen", m.Name), t.cmd.Process.Kill())
	}
}

// stop ends tcpdump, prints what it saw and gives it.
func (t *trace) stop() (string, error) {
	last, err := netns.ParseFrame(strings.Fields("src=02:00:00:00:fe:01 dst=02:00:00:00:fe:02 data=last type=" + behindAll))
	if err != nil {
		return "", err
	}
	if err := t.m.Send("eth0", last, 1); err != nil {
		return "", err
	}
	select {
	case <-t.out.at:
	case <-time.After(20 * time.Second):
		return "", errors.Join(fmt.Errorf("tcpdump on %s does not see the machine's own frame", t.m.Name), t.cmd.Process.Kill())
	}
	if err := t.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return "", err
	}
	_ = t.cmd.Wait() // an interrupted tcpdump may say so
	fmt.Fprintf(t.d.out, "  %s$ fg      # and ^C\n", t.m.Name)
	seen := strings.TrimSpace(t.out.before())
	t.d.print(strings.TrimSpace(seen + "\n" + t.err.after()))
	return seen, nil
}

// listening keeps a stream and waits for a word on it.
type listening struct {
	word []byte
	seen []byte
	at   chan struct{}
	done bool
}

func (l *listening) Write(p []byte) (int, error) {
	l.seen = append(l.seen, p...)
	if !l.done && bytes.Contains(l.seen, l.word) {
		l.done = true
		close(l.at)
	}
	return len(p), nil
}

// before is what came before the line with the word.
func (l *listening) before() string {
	before, _, _ := bytes.Cut(l.seen, l.word)
	return string(before[:bytes.LastIndexByte(before, '\n')+1])
}

// after is what came after the line with the word.
func (l *listening) after() string {
	_, rest, _ := bytes.Cut(l.seen, l.word)
	_, rest, _ = bytes.Cut(rest, []byte("\n"))
	return string(rest)
}
