package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func matches(pattern, text string) error {
	if pattern == "" {
		return nil
	}
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return &usageError{err.Error()}
	}
	if !re.MatchString(text) {
		return fmt.Errorf("no match for %s in:\n%s", pattern, text)
	}
	return nil
}

// want checks the number of arguments; most is -1 for any.
func want(args []string, least, most int, usage string) error {
	if len(args) < least || most >= 0 && len(args) > most {
		return &usageError{usage}
	}
	return nil
}

func cmdSwitch(s *session, _ io.Writer, args []string) error {
	if err := want(args, 1, 1, "switch NAME"); err != nil {
		return err
	}
	_, err := s.lab.Switch(args[0])
	return err
}

func cmdNode(s *session, _ io.Writer, args []string) error {
	if err := want(args, 3, 3, "node NAME SWITCH VLANS"); err != nil {
		return err
	}
	sw, err := s.lab.Space(args[1])
	if err != nil {
		return err
	}
	port, err := ParseSwitchPort(args[2], true)
	if err != nil {
		return err
	}
	_, err = s.lab.Node(args[0], sw, port)
	return err
}

func cmdCable(s *session, _ io.Writer, args []string) error {
	if err := want(args, 4, 4, "cable NODE IF SWITCH VLANS"); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[0])
	if err != nil {
		return err
	}
	sw, err := s.lab.Space(args[2])
	if err != nil {
		return err
	}
	port, err := ParseSwitchPort(args[3], true)
	if err != nil {
		return err
	}
	return s.lab.plug(sw, n.Space, args[1], port)
}

func cmdHost(s *session, _ io.Writer, args []string) error {
	if err := want(args, 3, -1, "host NAME SWITCH VLAN|trunk=VLANS [ADDR...]"); err != nil {
		return err
	}
	sw, err := s.lab.Space(args[1])
	if err != nil {
		return err
	}
	vlans, tagged := cutPrefix(args[2], "trunk=")
	port, err := ParseSwitchPort(vlans, tagged)
	if err != nil {
		return err
	}
	_, err = s.lab.Host(args[0], sw, port, args[3:]...)
	return err
}

func cmdPod(s *session, _ io.Writer, args []string) error {
	if err := want(args, 1, -1, "pod NAME..."); err != nil {
		return err
	}
	for _, name := range args {
		if _, err := s.lab.Pod(name); err != nil {
			return err
		}
	}
	return nil
}

func cmdRemove(s *session, _ io.Writer, args []string) error {
	if err := want(args, 1, 1, "remove NAME"); err != nil {
		return err
	}
	return s.lab.Remove(args[0])
}

// cmdAgent copies the script's folder NODE/ into the node's manifests at start.
func cmdAgent(s *session, _ io.Writer, args []string) error {
	const usage = "agent start|stop|kill|freeze|thaw|put|sync NODE [-nowait] [FLAG...]"
	if err := want(args, 2, -1, usage); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[1])
	if err != nil {
		return err
	}
	switch args[0] {
	case "start":
		return s.startAgent(n, args[2:])
	case "sync":
		return s.sync(n)
	case "put":
		return s.manifests(n)
	case "stop":
		return n.Signal(syscall.SIGTERM)
	case "kill":
		return n.Signal(syscall.SIGKILL)
	case "freeze", "thaw":
		return n.Freeze(args[0] == "freeze")
	}
	return &usageError{usage}
}

// startAgent knows -nowait (for it to be ready) and -asis (with the manifests
// that are in place); the other words are the agent's own flags.
func (s *session) startAgent(n *Node, args []string) error {
	wait, copied := true, true
	for ; len(args) > 0; args = args[1:] {
		if args[0] == "-nowait" {
			wait = false
		} else if args[0] == "-asis" {
			copied = false
		} else {
			break
		}
	}
	if copied {
		if err := s.manifests(n); err != nil {
			return err
		}
	}
	if err := n.StartAgent(args...); err != nil || !wait {
		return err
	}
	return n.WaitReady(s.ctx, patience)
}

func cmdGuest(s *session, _ io.Writer, args []string) error {
	if err := want(args, 2, -1, "guest NAME POD [ADDR...]"); err != nil {
		return err
	}
	p, err := s.lab.FindPod(args[1])
	if err != nil {
		return err
	}
	_, err = p.Guest(args[0], defaultNetwork, args[2:]...)
	return err
}

func cmdRealGuest(s *session, _ io.Writer, args []string) error {
	if err := want(args, 2, 2, "realguest NAME POD"); err != nil {
		return err
	}
	p, err := s.lab.FindPod(args[1])
	if err != nil {
		return err
	}
	guests, err := pool()
	if err != nil {
		return err
	}
	g, err := guests.take(s.lab, args[0])
	if err != nil {
		return err
	}
	if g.Second == nil {
		return p.Attach(g, defaultNetwork)
	}
	s.movers[g.Name], err = s.lab.Boot(s.ctx, g, p, defaultNetwork)
	return err
}

func cmdOn(s *session, out io.Writer, args []string) error {
	if err := want(args, 2, -1, "on NAME PROGRAM [ARG...]"); err != nil {
		return err
	}
	space, err := s.lab.Space(args[0])
	if err != nil {
		return err
	}
	cmd := space.Command(s.ctx, args[1], args[2:]...)
	cmd.Dir = s.ts.MkAbs(".")
	var diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &diag
	if err := space.Run(cmd); err != nil {
		return fmt.Errorf("%w %s", err, strings.TrimSpace(diag.String()))
	}
	return nil
}

func addrPort(addr, port string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}, &usageError{err.Error()}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, &usageError{err.Error()}
	}
	return netip.AddrPortFrom(a, uint16(n)), nil
}

// answerIn is how long one try may take where none is to succeed, or others follow: what must
// not arrive is waited for as long. The one try of what must arrive has until answerBy.
const (
	answerIn = 1500 * time.Millisecond
	answerBy = 15 * time.Second
)

func cmdTCP(s *session, out io.Writer, args []string) error {
	const usage = "tcp NAME ADDR PORT [as CONN]"
	if len(args) != 3 && (len(args) != 5 || args[3] != "as") {
		return &usageError{usage}
	}
	space, err := s.lab.Space(args[0])
	if err != nil {
		return err
	}
	to, err := addrPort(args[1], args[2])
	if err != nil {
		return err
	}
	c, err := space.Dial(to, s.answer)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, c.Banner)
	if len(args) == 5 {
		s.conns[args[4]] = c
		return nil
	}
	return c.Close()
}

func cmdSay(s *session, _ io.Writer, args []string) error {
	if err := want(args, 1, 1, "say CONN"); err != nil {
		return err
	}
	c := s.conns[args[0]]
	if c == nil {
		return &usageError{"no connection is named " + args[0]}
	}
	return c.Say(fmt.Sprintf("line %d", time.Now().UnixNano()), s.answer)
}

func cmdUDP(s *session, _ io.Writer, args []string) error {
	if err := want(args, 2, 2, "udp NAME ADDR"); err != nil {
		return err
	}
	space, err := s.lab.Space(args[0])
	if err != nil {
		return err
	}
	to, err := addrPort(args[1], strconv.Itoa(echoUDP))
	if err != nil {
		return err
	}
	return space.Datagram(to, s.answer)
}

func cmdSend(s *session, _ io.Writer, args []string) error {
	if err := want(args, 3, -1, "send NAME IF [count=N] [macs=N] FRAME..."); err != nil {
		return err
	}
	space, err := s.lab.Space(args[0])
	if err != nil {
		return err
	}
	words, count, macs := args[2:], 1, 1
	for key, n := range map[string]*int{"count=": &count, "macs=": &macs} {
		if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, key) }); i >= 0 {
			if *n, err = strconv.Atoi(strings.TrimPrefix(words[i], key)); err != nil {
				return &usageError{err.Error()}
			}
			words = slices.Delete(slices.Clone(words), i, i+1)
		}
	}
	f, err := craft(words)
	if err != nil {
		return &usageError{err.Error()}
	}
	out, err := space.Sender()
	if err != nil {
		return err
	}
	defer out.Close()
	for range macs { // the first is as it is given
		if err := errors.Join(out.Send(args[1], f.Bytes(), count), f.next()); err != nil {
			return err
		}
	}
	return nil
}

func cmdSniff(s *session, _ io.Writer, args []string) error {
	if len(args) != 4 || args[2] != "as" {
		return &usageError{"sniff NAME IF as ID"}
	}
	space, err := s.lab.Space(args[0])
	if err != nil {
		return err
	}
	sn, err := space.Sniff(args[1])
	if err != nil {
		return err
	}
	if old := s.sniffers[args[3]]; old != nil {
		_ = old.Close() // it has no error to tell
	}
	s.sniffers[args[3]] = sn
	return nil
}

func cmdSaw(s *session, out io.Writer, args []string) error {
	if err := want(args, 2, -1, "saw ID MIN [WANT...]"); err != nil {
		return err
	}
	sn := s.sniffers[args[0]]
	least, err := strconv.Atoi(args[1])
	if sn == nil || err != nil {
		return &usageError{"saw ID MIN [WANT...]; sniff starts ID"}
	}
	plain, packet := splitWords(args[2:])
	w, err := ParseWant(plain)
	if err != nil {
		return &usageError{err.Error()}
	}
	got := matchPackets(sn.Frames(w), packet)
	fmt.Fprintln(out, len(got))
	if len(got) < least {
		return fmt.Errorf("%d frames, not %d, match %v; seen: %v", len(got), least, args[2:], sn.Summary())
	}
	return nil
}

func cmdListing(s *session, out io.Writer, args []string) error {
	if err := want(args, 1, 1, "listing NODE"); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[0])
	if err != nil {
		return err
	}
	text, err := n.Listing()
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, text)
	return err
}

var errNoConfig = errors.New("cni: no config, and nothing was added before")
