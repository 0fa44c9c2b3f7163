package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// cmdRefuse: refuse NODE POD CODE REGEXP CONFIG: ADD of the config (an object
// without what every config has) fails with that code and a message that
// matches, and the node's listing is that of the file before.
func cmdRefuse(s *session, out io.Writer, args []string) error {
	const usage = "refuse NODE POD CODE REGEXP CONFIG"
	if err := want(args, 5, -1, usage); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[0])
	if err != nil {
		return err
	}
	p, err := s.lab.FindPod(args[1])
	if err != nil {
		return err
	}
	code, err := strconv.ParseUint(args[2], 10, 16)
	if err != nil {
		return &usageError{usage}
	}
	conf := `{"cniVersion": "1.0.0", "name": "l2", "type": "homeport", ` + strings.TrimPrefix(strings.Join(args[4:], " "), "{")
	_, err = p.Add(s.ctx, n, Call{IfName: PodIfName(defaultNetwork), Config: []byte(conf)})
	var refused *CNIError
	if !errors.As(err, &refused) {
		return fmt.Errorf("ADD of %s: want a refusal, got %w", conf, err)
	}
	fmt.Fprintf(out, "%d %s\n", refused.Code, refused.Msg)
	if uint64(refused.Code) != code {
		return fmt.Errorf("ADD of %s: code %d, not %d: %s", conf, refused.Code, code, refused.Msg)
	}
	if err := matches(args[3], refused.Msg); err != nil {
		return err
	}
	return s.same("before", n)
}

// cmdSame: same FILE NODE: the node's listing is that of the file.
func cmdSame(s *session, _ io.Writer, args []string) error {
	if err := want(args, 2, 2, "same FILE NODE"); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[1])
	if err != nil {
		return err
	}
	return s.same(args[0], n)
}

// cmdSlots: slots NODE MIN MAX: so many port slots have pins.
func cmdSlots(s *session, _ io.Writer, args []string) error {
	const usage = "slots NODE MIN MAX"
	if err := want(args, 3, 3, usage); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[0])
	if err != nil {
		return err
	}
	least, err1 := strconv.Atoi(args[1])
	most, err2 := strconv.Atoi(args[2])
	if err1 != nil || err2 != nil {
		return &usageError{usage}
	}
	got, err := n.Slots()
	if err == nil && (got < least || got > most) {
		err = fmt.Errorf("node %s has %d port slots, want %d to %d", n.Name, got, least, most)
	}
	return err
}

func (s *session) same(file string, n *Node) error {
	now, err := n.Listing()
	if err != nil {
		return err
	}
	before := s.ts.ReadFile(file)
	if before == now {
		return nil
	}
	return fmt.Errorf("node %s is not as it was:\n%s", n.Name, Difference(before, now))
}

// cmdShow: show NODE ARG...: homeportctl, whose exit code 1 (it answered, and
// something is wrong) is fine too.
func cmdShow(s *session, out io.Writer, args []string) error {
	if err := want(args, 2, -1, "show NODE NOUN..."); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[0])
	if err != nil {
		return err
	}
	cmd := n.Command(s.ctx, n.path("bin", "homeportctl"), args[1:]...)
	var diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &diag
	err = n.Run(cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w %s", err, strings.TrimSpace(diag.String()))
	}
	return nil
}

// cmdImpostor listens where the node's agent should and answers every request
// in the form of the protocol, but with another version.
func cmdImpostor(s *session, _ io.Writer, args []string) error {
	const usage = "impostor NODE VERSION"
	if err := want(args, 2, 2, usage); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[0])
	if err != nil {
		return err
	}
	if s.impostor != nil {
		if err := s.impostor.Close(); err != nil {
			return err
		}
		s.impostor = nil
	}
	if args[1] == "0" {
		return nil
	}
	path := filepath.Join(n.RunDir(), "agent.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	s.impostor = ln
	answer := []byte(`{"version": ` + args[1] + `, "body": {}}`)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answerAll(c, answer)
		}
	}()
	return nil
}

// answerAll answers each message (4 bytes of length, then JSON) with the same.
func answerAll(c net.Conn, answer []byte) {
	defer c.Close()
	for {
		var length uint32
		if err := binary.Read(c, binary.BigEndian, &length); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(length)); err != nil {
			return
		}
		if err := errors.Join(binary.Write(c, binary.BigEndian, uint32(len(answer))), writeAll(c, answer)); err != nil {
			return
		}
	}
}

func writeAll(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}
