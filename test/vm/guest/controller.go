package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/homeport-cni/homeport/test/vm/control"
)

// controller answers what comes in on the control channel, one line each.
type controller struct {
	port     io.ReadWriter
	commands map[string]command
	mu       sync.Mutex
	jobs     map[int]chan control.Answer
}

// command does something with its arguments; its result becomes JSON even when
// it failed.
type command func(args []string) (result any, err error)

func (c *controller) loop() error {
	in := bufio.NewScanner(c.port)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		id, line, _ := strings.Cut(in.Text(), " ")
		words := strings.Fields(line)
		if len(words) == 1 && words[0] == "poweroff" {
			return c.answer(control.Answer{ID: id, OK: true})
		}
		// An asker that gave up must not keep the next one waiting.
		go func() {
			a := c.do(words)
			a.ID = id
			if err := c.answer(a); err != nil {
				fmt.Fprintln(os.Stderr, "init:", err)
			}
		}()
	}
	return fmt.Errorf("control channel ended: %w", errors.Join(in.Err(), os.ErrClosed))
}

func (c *controller) answer(a control.Answer) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.port.Write(append(b, '\n'))
	return err
}

func (c *controller) do(words []string) control.Answer {
	if len(words) == 0 {
		return control.Answer{Error: "empty command"}
	}
	switch words[0] {
	case "bg":
		return c.background(words[1:])
	case "wait":
		return c.wait(words[1:])
	}
	f, ok := c.commands[words[0]]
	if !ok {
		return control.Answer{Error: "unknown command " + words[0] + "; known are:\n" + control.Commands}
	}
	result, err := f(words[1:])
	a := control.Answer{OK: err == nil}
	if err != nil {
		a.Error = err.Error()
	}
	if result != nil {
		b, err := json.Marshal(result)
		if err != nil {
			return control.Answer{Error: err.Error()}
		}
		a.Result = b
	}
	return a
}

func (c *controller) background(words []string) control.Answer {
	done := make(chan control.Answer, 1)
	c.mu.Lock()
	n := len(c.jobs) + 1
	c.jobs[n] = done
	c.mu.Unlock()
	go func() { done <- c.do(words) }()
	return control.Answer{OK: true, Result: json.RawMessage(fmt.Sprintf(`{"job":%d}`, n))}
}

func (c *controller) wait(args []string) control.Answer {
	if len(args) != 1 {
		return control.Answer{Error: "usage: wait JOB"}
	}
	n, err := strconv.Atoi(args[0])
	c.mu.Lock()
	done := c.jobs[n]
	c.mu.Unlock()
	if err != nil || done == nil {
		return control.Answer{Error: "no job " + args[0] + "; bg starts one"}
	}
	a := <-done
	done <- a // for whoever asks again
	return a
}
