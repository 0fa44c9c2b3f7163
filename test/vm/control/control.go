// Package control is the node side of a guest's control channel: a program in
// the node VM asks, the guest acts and answers. The channel is a virtio-serial
// port, so it passes no network that could be under test. For a guest on this
// machine, without a node VM, the port's other side is a pair of FIFOs.
//
// A request is one line, "ID COMMAND [ARG...]"; the answer is one line of JSON
// with the same ID. A guest that has not come up yet answers when it has.
package control

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// Commands is what a guest understands, for help texts.
const Commands = `ip                                addresses; the way to wait for a guest
dhcp                              ask for a lease (udhcpc), and take its address besides
ping ADDR COUNT [TIMEOUT_MS]      ICMP echo, IPv4 or IPv6; fails when nothing comes back
tcp ADDR PORT [TIMEOUT_MS]        connect and read a banner line
udp ADDR PORT [TIMEOUT_MS]        send a datagram and expect its echo
send HEX [COUNT]                  a raw Ethernet frame, as it is
stream ADDR [TIMEOUT_MS]          connect to TCP port 5004 and exchange numbered records (package stream)
flood ADDR PORT COUNT PPS         numbered UDP datagrams (8 bytes, big endian, from 0)
subscribe ADDR PORT               send a datagram from UDP port 5003, for others to come there
sink [reset]                      what came to UDP port 5003, by number
recv SECONDS [src=M,dst=M,type=0x0806,vlan=ID]   count frames by tag and EtherType
bg COMMAND...                     do it in the background; answers a job number
wait JOB                          wait for a background job; its answer
poweroff                          end the guest
`

// HostCommands is what vmrun understands about a guest that can move, for help texts.
// Each answers at once with a wire.Move.
const HostCommands = `boot GUEST                        start it, at place 1
incoming GUEST                    start the QEMU that waits for it at the other place
migrate GUEST [limit=MIB] [hold]  start to move there; slowly; not beyond the switch-over
status GUEST                      where it is, and QEMU's figures of its last move
limit GUEST [limit=MIB]           another speed; as fast as can be
release GUEST                     go on with the switch-over
cancel GUEST                      end the move; it goes on where it is
end GUEST                         end the QEMU that it has moved away from
off GUEST                         end all of its QEMUs
`

// Host is vmrun, to be asked like a guest.
func Host() wire.Guest {
	return wire.Guest{Name: "-host", Control: filepath.Join(wire.PortDir, wire.HostPort)}
}

// Answer is what a guest says to a request.
type Answer struct {
	ID     string          `json:"id"`
	OK     bool            `json:"ok"`              // the command did what it is for
	Error  string          `json:"error,omitempty"` // why not
	Result json.RawMessage `json:"result,omitempty"`
}

// ErrNoGuest is returned for a name that is not among the guests.
var ErrNoGuest = errors.New("no such guest")

// Guests reads the table of guests that /init wrote.
func Guests() ([]wire.Guest, error) {
	b, err := os.ReadFile(wire.GuestsPath)
	if err != nil {
		return nil, fmt.Errorf("guests: %w; start the VM with vmrun -guest", err)
	}
	var list []wire.Guest
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("guests %s: %w", wire.GuestsPath, err)
	}
	return list, nil
}

// Find gives one guest by its name.
func Find(name string) (wire.Guest, error) {
	list, err := Guests()
	if err != nil {
		return wire.Guest{}, err
	}
	var known []string
	for _, g := range list {
		if g.Name == name {
			return g, nil
		}
		known = append(known, g.Name)
	}
	return wire.Guest{}, fmt.Errorf("%w: %s; there are %s", ErrNoGuest, name, strings.Join(known, ", "))
}

// Ask sends one command to a guest and waits for its answer until ctx ends.
// Processes that ask the same guest take turns; use bg for what takes long.
func Ask(ctx context.Context, g wire.Guest, command string) (Answer, error) {
	unlock, err := lock(ctx, g.Name)
	if err != nil {
		return Answer{}, err
	}
	defer unlock()
	in, out, err := open(g.Control)
	if err != nil {
		return Answer{}, fmt.Errorf("guest %s: control channel %s: %w", g.Name, g.Control, err)
	}
	defer in.Close()
	defer out.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = in.SetDeadline(time.Unix(1, 0)) // both are closed soon, whatever it says
		_ = out.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	id := newID()
	if _, err := fmt.Fprintf(in, "%s %s\n", id, command); err != nil {
		return Answer{}, fmt.Errorf("guest %s: asking %q: %w; is it powered off? see its console log guest-%s.log", g.Name, command, err, g.Name)
	}
	lines := bufio.NewReaderSize(out, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return Answer{}, fmt.Errorf("guest %s: no answer to %q: %w; see its console log guest-%s.log", g.Name, command, err, g.Name)
		}
		var a Answer
		// Anything else is the late answer to somebody who stopped waiting.
		if json.Unmarshal(line, &a) == nil && a.ID == id {
			return a, nil
		}
	}
}

// FIFOs names the two of a channel whose guest runs on this machine: what goes
// in to the guest and what comes out of it. QEMU's chardev pipe wants these names.
func FIFOs(control string) (in, out string) { return control + ".in", control + ".out" }

// MakeFIFOs makes the two, and holds them open so that neither side finds the
// other's end before it is there.
func MakeFIFOs(control string) (held []*os.File, err error) {
	in, out := FIFOs(control)
	for _, name := range []string{in, out} {
		if err := unix.Mkfifo(name, 0o600); err != nil {
			return held, fmt.Errorf("control channel %s: %w", name, err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return held, fmt.Errorf("control channel: %w", err)
		}
		held = append(held, f)
	}
	return held, nil
}

// open gives the way into a channel and the way out, of a device one file.
func open(control string) (in, out *os.File, err error) {
	open1 := func(name string, flags int) *os.File {
		fd, e := unix.Open(name, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err = errors.Join(err, e); e != nil {
			return nil
		}
		return os.NewFile(uintptr(fd), name)
	}
	inName, outName := FIFOs(control)
	if _, noFIFO := os.Stat(inName); noFIFO != nil {
		in = open1(control, unix.O_RDWR)
		return in, in, err
	}
	in, out = open1(inName, unix.O_WRONLY), open1(outName, unix.O_RDONLY)
	if err != nil {
		in.Close() // a nil file only says so
		out.Close()
	}
	return in, out, err
}

// lock keeps a second asker out; a virtio-serial port has one opener at most.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	file := filepath.Join(filepath.Dir(wire.GuestsPath), name+".lock")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("guest %s: lock %s: %w", name, file, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("guest %s: somebody else is asking it all the time: %w", name, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
