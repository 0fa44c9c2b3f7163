package netns

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/homeport-cni/homeport/test/vm/stream"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// pausedColumn is for how long QEMU had the guest stopped.
const pausedColumn = "paused ms"

// Pings of so long may be lost beyond the time in which QEMU had the guest stopped: some
// are, on machines that are slow to hear of a carrier; a guest that is not found until it
// speaks, or its peers ask, loses more. Of a guest that does not move hardly any are.
const (
	lostBeyond = 3 * time.Second
	lostAtRest = 2
)

// allow lets pings be lost, at the next check of each, for so long.
func (s *session) allow(d time.Duration) {
	for _, p := range s.pings {
		p.allowed = int(d / p.every)
	}
}

// TestMigrate runs testdata/migrate/*.txtar, each alone: a guest that is copied under
// emulation needs the machine, and what the scripts measure means little otherwise.
func TestMigrate(t *testing.T) {
	bin := requireLab(t)
	if _, err := os.Stat(GuestsFile); err != nil && os.Getenv("HOMEPORT_IN_VM") == "" {
		t.Skip("live migration needs guests beside the machine; hack/test-vm.sh has them")
	}
	files, err := filepath.Glob("testdata/migrate/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if *moveCount > 0 {
		dark, err := darkScript(t.TempDir(), *moveCount)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, dark)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			p := params(bin)
			p.Files = []string{f}
			testscript.Run(t, p)
		})
	}
}

// cmdMigrate moves a guest that realguest has booted:
//
//	migrate prepare GUEST POD            a target: the pod is wired, a QEMU waits
//	migrate start GUEST [limit=N] [hold] begins to copy, N MiB/s, not beyond the switch-over
//	migrate finish GUEST                 as fast as can be, until it runs at the target
//	migrate to GUEST POD                 all three
//	migrate cancel GUEST                 the target is given up
//	migrate end GUEST                    the pod that it has left ends
//	migrate status GUEST                 where it is, and QEMU's figures, as JSON
func cmdMigrate(s *session, out io.Writer, args []string) error {
	const usage = "migrate prepare|to GUEST POD | migrate start GUEST [limit=N] [hold] | migrate finish|cancel|end|status GUEST"
	if len(args) < 2 {
		return &usageError{usage}
	}
	m, words := s.movers[args[1]], args[2:]
	if m == nil {
		return &usageError{fmt.Sprintf("%s; realguest has not booted %s", usage, args[1])}
	}
	var pod *Pod
	if args[0] == "prepare" || args[0] == "to" {
		if len(words) != 1 {
			return &usageError{usage}
		}
		var err error
		if pod, err = s.lab.FindPod(words[0]); err != nil {
			return err
		}
	}
	var st wire.Move
	var err error
	switch args[0] {
	case "prepare":
		return m.Prepare(s.ctx, pod)
	case "start":
		return m.Start(s.ctx, words...)
	case "to":
		if err := m.Prepare(s.ctx, pod); err != nil {
			return err
		}
		if err := m.Start(s.ctx); err != nil {
			return err
		}
		st, err = s.finish(m)
	case "finish":
		st, err = s.finish(m)
	case "cancel":
		if st, err = m.Status(s.ctx); err == nil && st.Phase == "pre-switchover" {
			s.allow(time.Hour) // the script has it stopped for as long as it likes
		}
		if err == nil {
			st, err = m.Cancel(s.ctx)
		}
	case "end":
		return m.End(s.ctx)
	case "status":
		st, err = m.Status(s.ctx)
	default:
		return &usageError{usage}
	}
	b, jerr := json.Marshal(st)
	if jerr != nil {
		return jerr
	}
	fmt.Fprintf(out, "%s\n", b)
	return err
}

func (s *session) finish(m *Mover) (wire.Move, error) {
	st, err := m.Finish(s.ctx)
	if err == nil {
		s.figures.add("copy ms", st.TotalMs)
		s.figures.add("QEMU's downtime ms", st.DowntimeMs)
		s.figures.add(pausedColumn, int64(st.PausedMs))
		s.allow(time.Duration(st.PausedMs)*time.Millisecond + lostBeyond)
	}
	return st, err
}

func cmdTrunk(s *session, _ io.Writer, args []string) error {
	if err := want(args, 3, 3, "trunk SWITCH SWITCH VLANS"); err != nil {
		return err
	}
	a, err := s.lab.Space(args[0])
	if err != nil {
		return err
	}
	b, err := s.lab.Space(args[1])
	if err != nil {
		return err
	}
	port, err := ParseSwitchPort(args[2], true)
	if err != nil {
		return err
	}
	return s.lab.Trunk(a, b, port)
}

func cmdPlug(s *session, _ io.Writer, args []string) error {
	if err := want(args, 4, 4, "plug POD SWITCH VLAN|trunk=VLANS MAC"); err != nil {
		return err
	}
	p, err := s.lab.FindPod(args[0])
	if err != nil {
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
	mac, err := net.ParseMAC(args[3])
	if err != nil {
		return &usageError{err.Error()}
	}
	return s.lab.Plug(p, sw, port, mac)
}

// cmdPings: pings start ID FROM ADDR [udp] [every=100ms]; pings check ID [N] tells, once N
// were sent since the last check, how many of them were lost and how long it was dark,
// and fails when nothing came back; pings stop ID.
func cmdPings(s *session, out io.Writer, args []string) error {
	const usage = "pings start ID FROM ADDR [udp] [every=100ms] | pings check ID [N] | pings stop ID"
	if len(args) < 2 {
		return &usageError{usage}
	}
	p := s.pings[args[1]]
	switch {
	case args[0] == "start" && len(args) >= 4 && p == nil:
		space, err := s.lab.Space(args[2])
		if err != nil {
			return err
		}
		addr, err := netip.ParseAddr(args[3])
		if err != nil {
			return &usageError{err.Error()}
		}
		every, udp := 100*time.Millisecond, false
		for _, w := range args[4:] {
			if w == "udp" {
				udp = true
				continue
			}
			v, ok := cutPrefix(w, "every=")
			if every, err = time.ParseDuration(v); err != nil || !ok || every < time.Millisecond {
				return &usageError{usage}
			}
		}
		s.pings[args[1]], err = space.Ping(addr, udp, every)
		return err
	case args[0] == "check" && len(args) <= 3 && p != nil:
		atLeast, err := strconv.Atoi(append(args, "1")[2])
		if err != nil {
			return &usageError{usage}
		}
		r := p.Check(atLeast)
		fmt.Fprintln(out, r)
		s.figures.add(args[1]+" dark ms", r.Dark.Milliseconds())
		s.figures.add(args[1]+" lost", int64(r.Lost))
		allowed := max(lostAtRest, p.allowed)
		p.allowed = 0
		if r.Sent == r.Lost || r.Lost > allowed {
			return fmt.Errorf("pings %s: %v; %d may be", args[1], r, allowed)
		}
		return nil
	case args[0] == "stop" && p != nil:
		p.Stop()
		delete(s.pings, args[1])
		return nil
	}
	return &usageError{usage}
}

// cmdStream: stream start ID FROM ADDR connects to a real guest; stream accept ID AT GUEST
// ADDR has a real guest connect to AT's address; stream check ID wants the same connection
// to bring records both ways from now on, and tells the longest stall since the last
// check; stream stop ID.
func cmdStream(s *session, out io.Writer, args []string) error {
	const usage = "stream start ID FROM ADDR | stream accept ID AT GUEST ADDR | stream check|stop ID"
	if len(args) < 2 {
		return &usageError{usage}
	}
	st := s.streams[args[1]]
	switch {
	case args[0] == "start" && len(args) == 4 && st == nil:
		space, err := s.lab.Space(args[2])
		if err != nil {
			return err
		}
		to, err := addrPort(args[3], strconv.Itoa(stream.Port))
		if err != nil {
			return err
		}
		return space.Do(func() error {
			c, err := net.DialTimeout("tcp", to.String(), patience)
			if err == nil {
				s.streams[args[1]] = stream.Start(c)
			}
			return err
		})
	case args[0] == "accept" && len(args) == 5 && st == nil:
		space, err := s.lab.Space(args[2])
		if err != nil {
			return err
		}
		c, err := space.acceptFrom(s.ctx, args[3], args[4])
		if err == nil {
			s.streams[args[1]] = stream.Start(c)
		}
		return err
	case args[0] == "check" && st != nil:
		if err := streamLives(s.ctx, st); err != nil {
			return fmt.Errorf("stream %s: %w", args[1], err)
		}
		now, err := st.State()
		fmt.Fprintln(out, now)
		s.figures.add(args[1]+" stall ms", max(now.DownStall, now.UpStall).Milliseconds())
		return err
	case args[0] == "stop" && st != nil:
		now, err := st.State()
		fmt.Fprintln(out, now)
		st.Stop()
		delete(s.streams, args[1])
		return err
	}
	return &usageError{usage}
}

// acceptFrom takes the connection that a real guest is told to make to an address of the
// namespace.
func (s *Space) acceptFrom(ctx context.Context, guest, addr string) (net.Conn, error) {
	to, err := addrPort(addr, strconv.Itoa(stream.Port))
	if err != nil {
		return nil, err
	}
	var ln net.Listener
	if err := s.Do(func() (err error) { ln, err = net.Listen("tcp", to.String()); return err }); err != nil {
		return nil, err
	}
	defer ln.Close()
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := guestDoes(ctx, guest, "stream "+addr); err != nil {
		return nil, err
	}
	return ln.Accept()
}

// streamLives waits for some new records in both directions.
func streamLives(ctx context.Context, st *stream.Stream) error {
	const some = 5
	down, up, err := st.Progress()
	if err != nil {
		return err
	}
	var ended error
	err = until(ctx, patience, func() error {
		nowDown, nowUp, err := st.Progress()
		if err != nil {
			ended = err
			return nil
		}
		if nowDown < down+some || nowUp < up+some {
			return fmt.Errorf("%d records came from the guest, and %d arrived there", nowDown-down, nowUp-up)
		}
		return nil
	})
	if ended != nil {
		return ended
	}
	return err
}
