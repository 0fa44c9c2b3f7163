package netns

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/homeport-cni/homeport/test/vm/control"
)

// feedPort is where a guest asks for datagrams, feedPace the time between two of them.
const (
	feedPort = 5005
	feedPace = 20 * time.Millisecond
)

// feed sends numbered datagrams to a guest that has asked for them once, and that sends
// nothing back.
type feed struct {
	guest string
	conn  net.PacketConn
	stop  chan struct{}
}

// cmdFeed: feed start ID AT GUEST ADDR has a real guest ask AT's address for datagrams;
// feed check ID wants some more of them to have come to the guest from now on; feed stop ID.
func cmdFeed(s *session, out io.Writer, args []string) error {
	const usage = "feed start ID AT GUEST ADDR | feed check|stop ID"
	if len(args) < 2 {
		return &usageError{usage}
	}
	f := s.feeds[args[1]]
	switch {
	case args[0] == "start" && len(args) == 5 && f == nil:
		space, err := s.lab.Space(args[2])
		if err != nil {
			return err
		}
		s.feeds[args[1]], err = space.feed(s.ctx, args[3], args[4])
		return err
	case args[0] == "check" && f != nil:
		before, err := f.arrived(s.ctx)
		if err != nil {
			return err
		}
		return until(s.ctx, patience, func() error {
			now, err := f.arrived(s.ctx)
			fmt.Fprintln(out, now)
			if err == nil && now < before+5 {
				err = fmt.Errorf("feed %s: %d datagrams have come to the guest", args[1], now-before)
			}
			return err
		})
	case args[0] == "stop" && f != nil:
		f.close()
		delete(s.feeds, args[1])
		return nil
	}
	return &usageError{usage}
}

// feed waits for the guest's datagram and answers it for ever.
func (s *Space) feed(ctx context.Context, guest, addr string) (*feed, error) {
	at, err := addrPort(addr, strconv.Itoa(feedPort))
	if err != nil {
		return nil, err
	}
	f := &feed{guest: guest, stop: make(chan struct{})}
	if err := s.Do(func() (err error) { f.conn, err = net.ListenPacket("udp", at.String()); return err }); err != nil {
		return nil, err
	}
	if _, err := guestDoes(ctx, guest, fmt.Sprintf("subscribe %s %d", netip.AddrPort(at).Addr(), feedPort)); err != nil {
		_ = f.conn.Close() // it has said nothing yet
		return nil, err
	}
	_ = f.conn.SetReadDeadline(time.Now().Add(patience)) // a UDP socket has deadlines
	_, to, err := f.conn.ReadFrom(make([]byte, 64))
	if err != nil {
		_ = f.conn.Close() // it has said nothing yet
		return nil, fmt.Errorf("guest %s asked for nothing: %w", guest, err)
	}
	go func() {
		for n := uint64(0); ; n++ {
			select {
			case <-f.stop:
				return
			case <-time.After(feedPace):
			}
			_, _ = f.conn.WriteTo(binary.BigEndian.AppendUint64(nil, n), to) // one that is lost is
		}
	}()
	return f, nil
}

// arrived is how many have come to the guest.
func (f *feed) arrived(ctx context.Context) (uint64, error) {
	b, err := guestDoes(ctx, f.guest, "sink")
	if err != nil {
		return 0, err
	}
	var st struct{ Received uint64 }
	return st.Received, json.Unmarshal(b, &st)
}

func (f *feed) close() {
	close(f.stop)
	_ = f.conn.Close() // it has no error to tell
}

// guestDoes gives a real guest's answer to a command.
func guestDoes(ctx context.Context, guest, command string) (json.RawMessage, error) {
	g, err := control.Find(guest)
	if err != nil {
		return nil, err
	}
	a, err := control.Ask(ctx, g, command)
	if err == nil && !a.OK {
		err = fmt.Errorf("guest %s: %s: %s", guest, command, a.Error)
	}
	return a.Result, err
}
